//! Other addresses and ports in a packet, with its checksums kept right (RFC 3022 section 4, RFC 1624).

use std::net::IpAddr;

use crate::bytes::{array, be16, put16};
use crate::checksum::Sum;
use crate::{Headers, L3, L4, icmp, ipv4, ipv6, quoted, tcp, udp};

/// What addresses and ports become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// The source address, of the packet's family.
    pub source: IpAddr,
    /// The destination address, of the packet's family.
    pub destination: IpAddr,
    /// Source and destination port of TCP, UDP and SCTP; of a query of ICMP or its answer the first is the identifier.
    pub ports: [u16; 2],
}

/// What was replaced, for the checksums that cover it.
#[derive(Clone, Copy)]
struct Change {
    old: Sum,
    new: Sum,
}

impl Change {
    const NONE: Self = Self { old: Sum::ZERO, new: Sum::ZERO };

    fn plus(self, other: Self) -> Self {
        Self { old: self.old.plus(other.old), new: self.new.plus(other.new) }
    }

    /// A checksum that covered the old bytes, and now the new ones.
    fn applied(self, checksum: u16) -> Sum {
        Sum::from_folded(!checksum).plus(self.new).minus(self.old)
    }

    /// Puts `bytes` at `at`, an even offset of what is summed.
    fn put(head: &mut [u8], at: usize, bytes: &[u8]) -> Option<Self> {
        let place = head.get_mut(at..at + bytes.len())?;
        let change = Self { old: Sum::of(place), new: Sum::of(bytes) };
        place.copy_from_slice(bytes);
        Some(change)
    }
}

/// Gives a packet other addresses and ports, and `headers` with it. `partial`: its transport checksum is yet to be completed, and holds the sum of the pseudo header.
///
/// `None`, with the packet to be dropped, where that cannot be: another family, or other ports in SCTP, whose checksum covers all data (RFC 9260 section 6.8).
#[must_use]
pub fn translate(head: &mut [u8], headers: &mut Headers, to: &Translated, partial: bool) -> Option<()> {
    let addresses = put_addresses(head, usize::from(headers.l3_offset), headers.l3, to)?;
    let l4 = usize::from(headers.l4_offset);
    let [source, destination] = to.ports.map(u16::to_be_bytes);
    let both = [source, destination].concat();
    let (ports, field) = match headers.l4 {
        L4::Tcp => (Change::put(head, l4, &both)?, Some(l4 + tcp::CHECKSUM_OFFSET)),
        L4::Udp => (Change::put(head, l4, &both)?, Some(l4 + udp::CHECKSUM_OFFSET)),
        L4::Icmp | L4::Icmpv6 => (Change::put(head, l4 + 4, &source)?, Some(l4 + icmp::CHECKSUM_OFFSET)),
        L4::Sctp if to.ports != [headers.source_port, headers.destination_port] => return None,
        L4::Sctp | L4::Other | L4::None => (Change::NONE, None),
    };
    if let Some(at) = field {
        let covered = if headers.l4 == L4::Icmp { Change::NONE } else { addresses };
        mend(head, at, headers.l4, (covered, ports), partial)?;
    }
    if headers.has_ports() {
        [headers.source_port, headers.destination_port] = to.ports;
    }
    Some(())
}

/// Makes a transport checksum right again.
fn mend(
    head: &mut [u8],
    at: usize,
    l4: L4,
    (addresses, ports): (Change, Change),
    partial: bool,
) -> Option<()> {
    let field = be16(head, at)?;
    let new = if partial {
        // Only the pseudo header is in it so far, and not complemented.
        Sum::from_folded(field).plus(addresses.new).minus(addresses.old).folded()
    } else if l4 == L4::Udp && field == 0 {
        // The sender made none.
        0
    } else {
        let sum = addresses.plus(ports).applied(field);
        if l4 == L4::Udp { sum.finish_nonzero() } else { sum.finish() }
    };
    put16(head, at, new)
}

fn put_addresses(head: &mut [u8], at: usize, l3: L3, to: &Translated) -> Option<Change> {
    match (l3, to.source, to.destination) {
        (L3::Ipv4, IpAddr::V4(source), IpAddr::V4(destination)) => {
            let change = Change::put(head, at + 12, &[source.octets(), destination.octets()].concat())?;
            let sum = change.applied(be16(head, at + ipv4::CHECKSUM_OFFSET)?);
            put16(head, at + ipv4::CHECKSUM_OFFSET, sum.finish())?;
            Some(change)
        }
        (L3::Ipv6, IpAddr::V6(source), IpAddr::V6(destination)) => {
            Change::put(head, at + 8, &[source.octets(), destination.octets()].concat())
        }
        _ => None,
    }
}

/// Gives the packet that an ICMP error quotes other addresses and ports: what its sender knows it by. The error's own addresses are [`translate`]'s matter.
/// `None`, with the packet to be dropped, unless [`quoted::read`] reads it.
#[must_use]
pub fn translate_quoted(head: &mut [u8], headers: &Headers, to: &Translated, partial: bool) -> Option<()> {
    let quoted = quoted::read(head, headers)?;
    let at = usize::from(headers.l4_offset) + icmp::HEADER_LENGTH;
    let length = match headers.l3 {
        L3::Ipv4 => usize::from(array::<1>(head, at)?[0] & 0xf) * 4,
        _ => ipv6::HEADER_LENGTH,
    };
    let before = Sum::of(head.get(at..at + length)?);
    put_addresses(head, at, headers.l3, to)?;
    let mut change = Change { old: before, new: Sum::of(head.get(at..at + length)?) };
    let [source, destination] = to.ports.map(u16::to_be_bytes);
    change = change.plus(match quoted.protocol {
        tcp::PROTOCOL | udp::PROTOCOL => Change::put(head, at + length, &[source, destination].concat())?,
        icmp::PROTOCOL | icmp::PROTOCOL_V6 => Change::put(head, at + length + 4, &source)?,
        _ => Change::NONE,
    });
    let field = usize::from(headers.l4_offset) + icmp::CHECKSUM_OFFSET;
    if partial {
        return Some(());
    }
    put16(head, field, change.applied(be16(head, field)?).finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::pseudo_header;
    use crate::parse;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn ipv4(protocol: u8, upper: &[u8]) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 1, 0xb, 2, 0, 0, 0, 1, 0xa, 8, 0, 0x45, 0];
        frame.extend((20 + upper.len() as u16).to_be_bytes());
        frame.extend([0, 7, 0x40, 0, 64, protocol, 0, 0, 10, 0, 1, 10, 10, 0, 100, 1]);
        let sum = Sum::of(&frame[14..34]).finish();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame.extend(upper);
        frame
    }

    fn ipv6(protocol: u8, upper: &[u8]) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 1, 0xb, 2, 0, 0, 0, 1, 0xa, 0x86, 0xdd, 0x60, 0, 0, 0];
        frame.extend((upper.len() as u16).to_be_bytes());
        frame.extend([protocol, 64]);
        frame.extend("fd00::10".parse::<Ipv6Addr>().unwrap().octets());
        frame.extend("fd00::100".parse::<Ipv6Addr>().unwrap().octets());
        frame.extend(upper);
        frame
    }

    /// The frame with its transport checksum made from nothing.
    fn sealed(mut frame: Vec<u8>) -> Vec<u8> {
        let headers = parse(&frame, frame.len() as u32).unwrap();
        let l4 = usize::from(headers.l4_offset);
        let at = match headers.l4 {
            L4::Tcp => l4 + 16,
            L4::Udp => l4 + 6,
            _ => l4 + 2,
        };
        frame[at..at + 2].copy_from_slice(&[0, 0]);
        let pseudo =
            if headers.l4 == L4::Icmp { Sum::ZERO } else { pseudo_header(&frame, &headers).unwrap() };
        let sum = pseudo.plus(Sum::of(&frame[l4..])).finish();
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    fn to(v6: bool, ports: [u16; 2]) -> Translated {
        let v4 = |last| IpAddr::V4(Ipv4Addr::new(198, 51, 100, last));
        let long = |last| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 9, 0, 0, 0, last));
        let (source, destination) = if v6 { (long(1), long(2)) } else { (v4(1), v4(2)) };
        Translated { source, destination, ports }
    }

    fn uppers() -> Vec<(u8, u8, Vec<u8>)> {
        let mut tcp = vec![0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0x20, 0, 0, 0, 0, 0];
        tcp.extend(b"odd");
        let udp = vec![0x30, 0x39, 0, 53, 0, 13, 0, 0, 1, 2, 3, 4, 5];
        let echo = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1, 9, 9];
        vec![(6, 6, tcp), (17, 17, udp), (1, 58, echo)]
    }

    #[test]
    fn checksums_are_those_of_a_packet_made_so_from_the_start() {
        for (v4, v6, upper) in uppers() {
            for frame in [ipv4(v4, &upper), ipv6(v6, &upper)] {
                let mut frame = sealed(frame);
                let mut headers = parse(&frame, frame.len() as u32).unwrap();
                let to = to(headers.l3 == L3::Ipv6, [4000, 8080]);
                translate(&mut frame, &mut headers, &to, false).unwrap();
                assert_eq!(parse(&frame, frame.len() as u32).unwrap(), headers);
                assert_eq!(headers.source_ip(&frame), Some(to.source));
                assert_eq!(headers.destination_ip(&frame), Some(to.destination));
                if headers.has_ports() {
                    assert_eq!([headers.source_port, headers.destination_port], to.ports);
                } else {
                    assert_eq!(icmp::identifier(&frame, &headers), Some(4000));
                }
                assert_eq!(frame, sealed(frame.clone()));
                assert!(headers.l3 == L3::Ipv6 || Sum::of(&frame[14..34]).is_right());
            }
        }
    }

    #[test]
    fn a_checksum_that_is_yet_to_be_completed_covers_the_new_pseudo_header() {
        for (v4, v6, upper) in uppers().into_iter().take(2) {
            for mut frame in [ipv4(v4, &upper), ipv6(v6, &upper)] {
                let mut headers = parse(&frame, frame.len() as u32).unwrap();
                let at = usize::from(headers.l4_offset) + if headers.l4 == L4::Tcp { 16 } else { 6 };
                let pseudo = pseudo_header(&frame, &headers).unwrap().folded();
                frame[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
                let to = to(headers.l3 == L3::Ipv6, [4000, 8080]);
                translate(&mut frame, &mut headers, &to, true).unwrap();
                let field = u16::from_be_bytes([frame[at], frame[at + 1]]);
                assert_eq!(field, pseudo_header(&frame, &headers).unwrap().folded());
            }
        }
    }

    #[test]
    fn a_udp_packet_without_a_checksum_stays_without() {
        let (.., upper) = uppers().remove(1);
        let mut frame = ipv4(17, &upper);
        let mut headers = parse(&frame, frame.len() as u32).unwrap();
        translate(&mut frame, &mut headers, &to(false, [4000, 8080]), false).unwrap();
        assert_eq!(frame[40..42], [0, 0]);
    }

    #[test]
    fn what_cannot_be_translated_is_refused() {
        let (.., upper) = uppers().remove(1);
        let mut frame = ipv4(17, &upper);
        let mut headers = parse(&frame, frame.len() as u32).unwrap();
        assert_eq!(translate(&mut frame, &mut headers, &to(true, [1, 2]), false), None, "another family");
        let mut frame = ipv4(132, &[0x30, 0x39, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut headers = parse(&frame, frame.len() as u32).unwrap();
        assert_eq!(translate(&mut frame, &mut headers, &to(false, [1, 2]), false), None, "SCTP's ports");
        assert_eq!(translate(&mut frame, &mut headers, &to(false, [12345, 80]), false), Some(()));
    }

    #[test]
    fn an_error_quotes_what_its_receiver_sent() {
        let (.., upper) = uppers().remove(1);
        let quoted = ipv4(17, &upper);
        let mut error = vec![3, 3, 0, 0, 0, 0, 0, 0];
        error.extend(&quoted[14..42]);
        let mut frame = sealed(ipv4(1, &error));
        let headers = parse(&frame, frame.len() as u32).unwrap();
        let to = to(false, [4000, 8080]);
        translate_quoted(&mut frame, &headers, &to, false).unwrap();
        let read = quoted::read(&frame, &headers).unwrap();
        assert_eq!((read.source, read.destination, read.ports), (to.source, to.destination, to.ports));
        assert_eq!(frame, sealed(frame.clone()), "the error's own checksum");
        assert!(Sum::of(&frame[42..62]).is_right(), "the quoted header's");
    }
}
