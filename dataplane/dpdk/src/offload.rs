//! Between [`Offload`] and the flags of an mbuf.

use buf::{Checksum, Offload, Segment, SegmentKind};
use dpdk_sys as d;
use dpdk_sys::mbuf::TxOffload;
use engine::OffloadCapabilities;
use packet::{Fragment, Headers, L3, L4};

/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM: u16 = 16;
/// Offset of the checksum in a UDP header.
const UDP_CHECKSUM: u16 = 6;

/// What a device says of a packet from a wire: whether it has seen that the checksum is right.
#[inline(always)]
pub(crate) fn vouched(flags: u64) -> Offload {
    let good = flags & d::TOWPATH_MBUF_F_RX_L4_CKSUM_MASK == d::TOWPATH_MBUF_F_RX_L4_CKSUM_GOOD;
    Offload { checksum: if good { Checksum::Valid } else { Checksum::Unverified }, segment: None, tunnel: 0 }
}

/// Whether the packet was on no wire and has something left to be done: no checksum yet, or larger than its path.
#[inline(always)]
pub(crate) fn is_request(flags: u64) -> bool {
    let no_checksum = flags & d::TOWPATH_MBUF_F_RX_L4_CKSUM_MASK == d::TOWPATH_MBUF_F_RX_L4_CKSUM_NONE;
    no_checksum || flags & d::TOWPATH_MBUF_F_RX_LRO != 0
}

/// What is left to be done to such a packet. Where its headers do not say, nothing, and its receiver drops it.
pub(crate) fn requested(flags: u64, segment_size: u16, head: &[u8], len: u32) -> Offload {
    let Ok(headers) = packet::parse(head, len) else { return Offload::NONE };
    let offset = match headers.l4 {
        L4::Tcp => TCP_CHECKSUM,
        L4::Udp => UDP_CHECKSUM,
        _ => return Offload::NONE,
    };
    let kind = match (headers.l4, headers.l3) {
        (L4::Tcp, L3::Ipv4) => SegmentKind::TcpV4,
        (L4::Tcp, _) => SegmentKind::TcpV6,
        _ => SegmentKind::Udp,
    };
    let large = flags & d::TOWPATH_MBUF_F_RX_LRO != 0 && segment_size != 0;
    Offload {
        checksum: Checksum::Partial { start: u16::from(headers.l4_offset), offset },
        segment: large.then_some(Segment { kind, ecn: false, size: segment_size }),
        tunnel: 0,
    }
}

/// What a device with these transmit offloads takes as it is.
pub(crate) fn capabilities(tx_offloads: u64) -> OffloadCapabilities {
    let has = |flags: u64| tx_offloads & flags == flags;
    let checksum = has(d::TOWPATH_ETH_TX_OFFLOAD_TCP_CKSUM | d::TOWPATH_ETH_TX_OFFLOAD_UDP_CKSUM);
    let tso = checksum && has(d::TOWPATH_ETH_TX_OFFLOAD_TCP_TSO | d::TOWPATH_ETH_TX_OFFLOAD_MULTI_SEGS);
    // UDP: DPDK's flag means fragments in some drivers and datagrams in others. CWR: drivers repeat it in every segment or do not.
    OffloadCapabilities {
        checksum,
        tso4: tso,
        tso6: tso,
        uso4: false,
        uso6: false,
        ecn: false,
        tunnel: false,
    }
}

/// How a frame is given to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// As it is.
    Plain,
    /// With these flags and lengths.
    Flags {
        /// For `ol_flags`.
        flags: u64,
        /// For `tx_offload`.
        lengths: TxOffload,
        /// Where an IPv4 header checksum lies that the device computes and wants to be zero.
        zero: Option<u16>,
    },
    /// Summed here, because no flag describes it (the headers are inside a tunnel).
    Sum {
        /// First byte summed.
        start: u16,
        /// Where the sum goes, from `start`.
        offset: u16,
    },
    /// Not at all: it is to be cut, and its headers are not those that a device cuts.
    Refuse,
}

/// Finds how to ask a device with these transmit offloads for what `offload` asks of a frame of `len` bytes that begins with `head`.
pub(crate) fn request(offload: Offload, head: &[u8], len: u32, tx_offloads: u64) -> Request {
    let Checksum::Partial { start, offset } = offload.checksum else {
        return if offload.segment.is_some() { Request::Refuse } else { Request::Plain };
    };
    let capabilities = capabilities(tx_offloads);
    let headers = packet::parse(head, len).ok();
    let l4 = headers.as_ref().and_then(|headers| l4_flag(headers, start, offset));
    match (offload.segment, headers, l4) {
        (None, Some(headers), Some(flag)) if capabilities.checksum => {
            let (flags, lengths) = lengths(&headers);
            Request::Flags { flags: flags | flag, lengths, zero: None }
        }
        (None, ..) => Request::Sum { start, offset },
        (Some(segment), Some(headers), Some(_)) => cut(segment, &headers, tx_offloads, capabilities),
        (Some(_), ..) => Request::Refuse,
    }
}

/// The flag for the checksum of these headers, if it is theirs that is asked for.
fn l4_flag(headers: &Headers, start: u16, offset: u16) -> Option<u64> {
    if u16::from(headers.l4_offset) != start || headers.fragment != Fragment::Whole {
        return None;
    }
    match (headers.l4, offset) {
        (L4::Tcp, TCP_CHECKSUM) => Some(d::TOWPATH_MBUF_F_TX_TCP_CKSUM),
        (L4::Udp, UDP_CHECKSUM) => Some(d::TOWPATH_MBUF_F_TX_UDP_CKSUM),
        _ => None,
    }
}

/// The flag for the family, and where the headers end.
fn lengths(headers: &Headers) -> (u64, TxOffload) {
    let family = if headers.l3 == L3::Ipv4 { d::TOWPATH_MBUF_F_TX_IPV4 } else { d::TOWPATH_MBUF_F_TX_IPV6 };
    let lengths = TxOffload {
        l2_len: headers.l3_offset,
        l3_len: u16::from(headers.l4_offset.saturating_sub(headers.l3_offset)),
        l4_len: headers.payload_offset.saturating_sub(headers.l4_offset),
        segment_size: 0,
    };
    (family, lengths)
}

fn cut(segment: Segment, headers: &Headers, tx_offloads: u64, takes: OffloadCapabilities) -> Request {
    let taken = match (segment.kind, headers.l3, headers.l4) {
        (SegmentKind::TcpV4, L3::Ipv4, L4::Tcp) => takes.tso4,
        (SegmentKind::TcpV6, L3::Ipv6, L4::Tcp) => takes.tso6,
        _ => false,
    };
    if !taken || segment.size == 0 {
        return Request::Refuse;
    }
    let (family, lengths) = lengths(headers);
    let mut flags = family | d::TOWPATH_MBUF_F_TX_TCP_SEG | d::TOWPATH_MBUF_F_TX_TCP_CKSUM;
    let mut zero = None;
    if headers.l3 == L3::Ipv4 && tx_offloads & d::TOWPATH_ETH_TX_OFFLOAD_IPV4_CKSUM != 0 {
        flags |= d::TOWPATH_MBUF_F_TX_IP_CKSUM;
        zero = Some(u16::from(headers.l3_offset) + 10);
    }
    Request::Flags { flags, lengths: TxOffload { segment_size: segment.size, ..lengths }, zero }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ports::conformance::Traffic;

    const CHECKSUMS: u64 = d::TOWPATH_ETH_TX_OFFLOAD_TCP_CKSUM | d::TOWPATH_ETH_TX_OFFLOAD_UDP_CKSUM;
    const CUTS: u64 = CHECKSUMS
        | d::TOWPATH_ETH_TX_OFFLOAD_TCP_TSO
        | d::TOWPATH_ETH_TX_OFFLOAD_MULTI_SEGS
        | d::TOWPATH_ETH_TX_OFFLOAD_IPV4_CKSUM;

    fn ask(traffic: Traffic, segment: Option<Segment>, tx_offloads: u64) -> Request {
        let frame = traffic.packet(3000);
        request(
            Offload { checksum: traffic.partial(), segment, tunnel: 0 },
            &frame[..128],
            frame.len() as u32,
            tx_offloads,
        )
    }

    #[test]
    fn capabilities_need_all_their_parts() {
        assert_eq!(capabilities(0), OffloadCapabilities::default());
        assert_eq!(capabilities(d::TOWPATH_ETH_TX_OFFLOAD_TCP_CKSUM), OffloadCapabilities::default());
        assert_eq!(capabilities(CHECKSUMS), OffloadCapabilities { checksum: true, ..Default::default() });
        assert!(
            !capabilities(CHECKSUMS | d::TOWPATH_ETH_TX_OFFLOAD_TCP_TSO).tso4,
            "a large packet is a chain"
        );
        let all = capabilities(CUTS);
        assert!(all.checksum && all.tso4 && all.tso6 && !all.uso4 && !all.uso6 && !all.ecn);
    }

    #[test]
    fn a_checksum_becomes_a_flag_with_the_lengths_of_the_headers() {
        for (traffic, l3_len, l4_len, family, flag) in [
            (Traffic::Tcp4, 20, 20, d::TOWPATH_MBUF_F_TX_IPV4, d::TOWPATH_MBUF_F_TX_TCP_CKSUM),
            (Traffic::Udp4, 20, 8, d::TOWPATH_MBUF_F_TX_IPV4, d::TOWPATH_MBUF_F_TX_UDP_CKSUM),
            (Traffic::Tcp6, 40, 20, d::TOWPATH_MBUF_F_TX_IPV6, d::TOWPATH_MBUF_F_TX_TCP_CKSUM),
            (Traffic::Udp6, 40, 8, d::TOWPATH_MBUF_F_TX_IPV6, d::TOWPATH_MBUF_F_TX_UDP_CKSUM),
        ] {
            let lengths = TxOffload { l2_len: 14, l3_len, l4_len, segment_size: 0 };
            let expected = Request::Flags { flags: family | flag, lengths, zero: None };
            assert_eq!(ask(traffic, None, CHECKSUMS), expected, "{traffic:?}");
        }
    }

    #[test]
    fn what_no_flag_describes_is_summed_here() {
        let frame = Traffic::Tcp4.packet(500);
        let ask = |checksum, tx_offloads| {
            request(
                Offload { checksum, segment: None, tunnel: 0 },
                &frame[..128],
                frame.len() as u32,
                tx_offloads,
            )
        };
        let inner = Checksum::Partial { start: 84, offset: 16 };
        assert_eq!(ask(inner, CHECKSUMS), Request::Sum { start: 84, offset: 16 });
        let odd = Checksum::Partial { start: 34, offset: 6 };
        assert_eq!(ask(odd, CHECKSUMS), Request::Sum { start: 34, offset: 6 }, "TCP's checksum is elsewhere");
        let own = Checksum::Partial { start: 34, offset: 16 };
        assert_eq!(ask(own, 0), Request::Sum { start: 34, offset: 16 }, "the device sums nothing");
        assert_eq!(ask(Checksum::Valid, CHECKSUMS), Request::Plain);
        assert_eq!(ask(Checksum::Unverified, CHECKSUMS), Request::Plain);
    }

    #[test]
    fn a_cut_names_its_segments_and_clears_what_the_device_computes() {
        let segment = |kind| Some(Segment { kind, ecn: false, size: 1400 });
        let Request::Flags { flags, lengths, zero } = ask(Traffic::Tcp4, segment(SegmentKind::TcpV4), CUTS)
        else {
            panic!("TCP over IPv4 is cut by the device");
        };
        assert_eq!(lengths, TxOffload { l2_len: 14, l3_len: 20, l4_len: 20, segment_size: 1400 });
        assert_eq!(zero, Some(24));
        for flag in [d::TOWPATH_MBUF_F_TX_TCP_SEG, d::TOWPATH_MBUF_F_TX_IP_CKSUM, d::TOWPATH_MBUF_F_TX_IPV4] {
            assert_ne!(flags & flag, 0);
        }
        let v6 = ask(Traffic::Tcp6, segment(SegmentKind::TcpV6), CUTS);
        assert!(matches!(v6, Request::Flags { zero: None, .. }), "IPv6 has no header checksum: {v6:?}");
        for (traffic, kind, tx_offloads) in [
            (Traffic::Tcp4, SegmentKind::TcpV4, CHECKSUMS),
            (Traffic::Tcp4, SegmentKind::TcpV6, CUTS),
            (Traffic::Udp4, SegmentKind::Udp, CUTS),
            (Traffic::Udp4, SegmentKind::TcpV4, CUTS),
        ] {
            assert_eq!(ask(traffic, segment(kind), tx_offloads), Request::Refuse, "{traffic:?} as {kind:?}");
        }
        let unsummed =
            Offload { checksum: Checksum::Unverified, segment: segment(SegmentKind::TcpV4), tunnel: 0 };
        let frame = Traffic::Tcp4.packet(3000);
        assert_eq!(request(unsummed, &frame[..128], frame.len() as u32, CUTS), Request::Refuse);
    }

    #[test]
    fn received_flags_become_what_is_left_to_do() {
        assert_eq!(vouched(d::TOWPATH_MBUF_F_RX_L4_CKSUM_GOOD).checksum, Checksum::Valid);
        assert_eq!(vouched(d::TOWPATH_MBUF_F_RX_L4_CKSUM_NONE).checksum, Checksum::Unverified);
        assert_eq!(vouched(0), Offload::NONE);
        assert!(!is_request(d::TOWPATH_MBUF_F_RX_L4_CKSUM_GOOD));
        let flags = d::TOWPATH_MBUF_F_RX_L4_CKSUM_NONE | d::TOWPATH_MBUF_F_RX_LRO;
        assert!(is_request(flags));
        for traffic in Traffic::ALL {
            let frame = traffic.packet(3000);
            let found = requested(flags, 1400, &frame[..128], frame.len() as u32);
            assert_eq!(found.checksum, traffic.partial(), "{traffic:?}");
            assert_eq!(found.segment.map(|segment| segment.size), Some(1400));
            let small = requested(d::TOWPATH_MBUF_F_RX_L4_CKSUM_NONE, 0, &frame[..128], frame.len() as u32);
            assert_eq!(small, Offload { checksum: traffic.partial(), segment: None, tunnel: 0 });
        }
        assert_eq!(requested(flags, 1400, &[0; 60], 60), Offload::NONE);
    }
}
