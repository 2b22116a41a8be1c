//! What nearly all packets are, in one straight line: untagged IPv4 without options, whole, carrying TCP or UDP.
//!
//! Every offset up to the transport header is a constant here, which halves the cost of [`parse`](crate::parse()). Anything
//! else, and anything wrong, is left to the parsers of the single protocols, which also say what is wrong. That both agree
//! is a property test.

use crate::ipv4::MIN_HEADER_LENGTH;
use crate::{Fragment, Headers, L3, L4, ethernet, tcp, udp};

/// Start of the IPv4 header.
const L3_OFFSET: usize = ethernet::HEADER_LENGTH;
/// Start of the transport header.
const L4_OFFSET: usize = L3_OFFSET + MIN_HEADER_LENGTH;
/// Bytes up to the end of the shorter of the two transport headers.
const FIXED: usize = L4_OFFSET + udp::HEADER_LENGTH;

/// Describes the packet in `out`, if it is plain and nothing is wrong with it. What `head` has beyond the frame
/// is not looked at: all that is must lie inside the IPv4 packet, and that inside the frame.
#[inline(always)]
pub(crate) fn parse(head: &[u8], frame_len: usize, out: &mut Headers) -> bool {
    let Some(fixed) = head.first_chunk::<FIXED>() else { return false };
    // EtherType, version and header length.
    let first = u32::from_be_bytes([fixed[12], fixed[13], fixed[14], fixed[15]]);
    first & 0xffff_ff00 == 0x0800_4500 && parse_network(head, frame_len, out)
}

/// The same for a frame that begins like a plain one, up to the first byte of its IPv4 header.
#[inline(always)]
pub(crate) fn parse_network(head: &[u8], frame_len: usize, out: &mut Headers) -> bool {
    let Some(fixed) = head.first_chunk::<FIXED>() else { return false };
    let be16 = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
    let be32 = |at: usize| u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let total_length = usize::from(be16(L3_OFFSET + 2));
    // Flags and fragment offset without "don't fragment".
    let is_plain = be16(L3_OFFSET + 6) & 0x3fff == 0 && L3_OFFSET + total_length <= frame_len;
    if !is_plain {
        return false;
    }
    let ports = be32(L4_OFFSET);
    // All that is the same for each of the two protocols, so that it is written as whole words.
    let headers = Headers {
        l3_length: total_length as u32,
        ether_type: ethernet::IPV4,
        vlan_id: 0,
        source_port: (ports >> 16) as u16,
        destination_port: ports as u16,
        l3_offset: L3_OFFSET as u8,
        l4_offset: L4_OFFSET as u8,
        payload_offset: 0,
        l3: L3::Ipv4,
        l4: L4::None,
        protocol: 0,
        fragment: Fragment::Whole,
        vlan_count: 0,
        has_options: false,
    };
    match fixed[L3_OFFSET + 9] {
        udp::PROTOCOL => {
            let length = usize::from(be16(L4_OFFSET + udp::LENGTH_OFFSET));
            if length < udp::HEADER_LENGTH || MIN_HEADER_LENGTH + length > total_length {
                return false;
            }
            let payload_offset = (L4_OFFSET + udp::HEADER_LENGTH) as u8;
            *out = Headers { payload_offset, l4: L4::Udp, protocol: udp::PROTOCOL, ..headers };
            true
        }
        tcp::PROTOCOL => {
            let Some(data_offset) = head.get(L4_OFFSET + tcp::DATA_OFFSET) else { return false };
            let length = usize::from(data_offset >> 4) * 4;
            let fits = MIN_HEADER_LENGTH + length <= total_length && L4_OFFSET + length <= head.len();
            if length < tcp::MIN_HEADER_LENGTH || !fits {
                return false;
            }
            let payload_offset = (L4_OFFSET + length) as u8;
            *out = Headers { payload_offset, l4: L4::Tcp, protocol: tcp::PROTOCOL, ..headers };
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::{Headers, parse};
    use proptest::prelude::*;

    /// Frames that are plain or nearly so.
    fn frame() -> impl Strategy<Value = Vec<u8>> {
        let edits = prop::collection::vec((12usize..56, any::<u8>()), 0..3);
        (any::<bool>(), 28u16..120, any::<[u8; 24]>(), edits, 0usize..140, 0usize..40).prop_map(
            |(is_udp, total_length, l4, edits, length, padding)| {
                let [high, low] = total_length.to_be_bytes();
                let mut frame = vec![2; 12];
                frame.extend([8, 0, 0x45, 0, high, low, 0, 1, 0x40, 0, 64, if is_udp { 17 } else { 6 }]);
                frame.extend([0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
                frame.extend(l4);
                frame[46] = 0x50 | frame[46] & 0x3f;
                if is_udp {
                    frame[38..40].copy_from_slice(&(total_length - 20).to_be_bytes());
                }
                frame.resize(14 + usize::from(total_length) + padding, 9);
                edits.into_iter().for_each(|(at, value)| frame[at.min(41)] = value);
                frame.truncate(if length > 60 { frame.len() } else { length });
                frame
            },
        )
    }

    #[test]
    fn plain_packets_take_the_short_way() {
        let mut headers = Headers::default();
        for (protocol, l4) in
            [(17, [0, 1, 0, 2, 0, 8, 0, 0].to_vec()), (6, [&[0, 1, 0, 2][..], &[0x50; 16]].concat())]
        {
            let length = 20 + l4.len() as u8;
            let mut frame =
                [&[2; 12][..], &[8, 0, 0x45, 0, 0, length, 0, 1, 0x40, 0, 64, protocol], &[0; 10]].concat();
            frame.extend(l4);
            assert!(super::parse(&frame, frame.len(), &mut headers), "protocol {protocol}");
            assert_eq!(
                (headers.source_port, headers.destination_port, headers.l3_length),
                (1, 2, length.into())
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

        #[test]
        fn agrees_with_the_parsers_of_the_protocols(frame in frame(), cut_head in 0usize..300) {
            let head = &frame[..frame.len().min(crate::HEAD_LENGTH).min(cut_head)];
            let mut plain = Headers::default();
            if super::parse(head, frame.len(), &mut plain) {
                let mut whole = Headers::default();
                prop_assert_eq!(parse::parse_any(head, frame.len(), &mut whole), Ok(()));
                prop_assert_eq!(plain, whole);
            }
        }
    }
}
