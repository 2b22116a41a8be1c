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

/// Offset of the checksum in an IPv4 header.
const IPV4_CHECKSUM: u16 = 10;

/// What a device says of a packet from a wire: whether it has seen that its checksum is right. Where it has looked into a tunnel that is the
/// outer one: what it says of the inner packet does not cover the tunnel's header.
#[inline(always)]
pub(crate) fn vouched(flags: u64, packet_type: u32) -> Offload {
    let good = if packet_type & d::TOWPATH_PTYPE_TUNNEL_MASK == 0 {
        flags & d::TOWPATH_MBUF_F_RX_L4_CKSUM_MASK == d::TOWPATH_MBUF_F_RX_L4_CKSUM_GOOD
    } else {
        flags & d::TOWPATH_MBUF_F_RX_OUTER_L4_CKSUM_MASK == d::TOWPATH_MBUF_F_RX_OUTER_L4_CKSUM_GOOD
    };
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

/// What of a device's transmit offloads is used.
pub(crate) const USED: u64 = d::TOWPATH_ETH_TX_OFFLOAD_MULTI_SEGS
    | d::TOWPATH_ETH_TX_OFFLOAD_IPV4_CKSUM
    | d::TOWPATH_ETH_TX_OFFLOAD_TCP_CKSUM
    | d::TOWPATH_ETH_TX_OFFLOAD_UDP_CKSUM
    | d::TOWPATH_ETH_TX_OFFLOAD_TCP_TSO
    | d::TOWPATH_ETH_TX_OFFLOAD_VXLAN_TNL_TSO
    | d::TOWPATH_ETH_TX_OFFLOAD_OUTER_IPV4_CKSUM
    | d::TOWPATH_ETH_TX_OFFLOAD_OUTER_UDP_CKSUM;

/// A device's transmit offloads `offered` as far as they are used. Tunnels over IPv6 carry an outer UDP checksum: a device that cannot compute it for
/// each segment is not asked to cut inside of any tunnel.
pub(crate) fn used(offered: u64, ipv6_tunnels: bool) -> u64 {
    let needed = d::TOWPATH_ETH_TX_OFFLOAD_OUTER_IPV4_CKSUM
        | if ipv6_tunnels { d::TOWPATH_ETH_TX_OFFLOAD_OUTER_UDP_CKSUM } else { 0 };
    let tunnels = offered & needed == needed;
    offered & if tunnels { USED } else { USED & !d::TOWPATH_ETH_TX_OFFLOAD_VXLAN_TNL_TSO }
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
        tunnel: tso && has(d::TOWPATH_ETH_TX_OFFLOAD_VXLAN_TNL_TSO),
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
        /// Where IPv4 header checksums lie that the device computes and wants to be zero: the outer, the inner.
        zero: [Option<u16>; 2],
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
    let takes = capabilities(tx_offloads);
    let tunnel = u16::from(offload.tunnel);
    let outer = match tunnel {
        0 => Some(Outer::NONE),
        _ if takes.tunnel => outer(head, len, tunnel),
        _ => None,
    };
    let inner = head.get(usize::from(tunnel)..).unwrap_or_default();
    let headers = packet::parse(inner, len.saturating_sub(tunnel.into())).ok();
    let l4 = headers.as_ref().and_then(|headers| l4_flag(headers, start.checked_sub(tunnel)?, offset));
    match (offload.segment, headers, l4, outer) {
        (None, Some(headers), Some(flag), Some(outer)) if takes.checksum => {
            let (flags, lengths) = outer.around(lengths(&headers));
            Request::Flags { flags: flags | flag, lengths, zero: [None; 2] }
        }
        (None, ..) => Request::Sum { start, offset },
        (Some(segment), Some(headers), Some(_), Some(outer)) => cut(segment, &headers, tx_offloads, &outer),
        (Some(_), ..) => Request::Refuse,
    }
}

/// The headers of a VXLAN tunnel as a device is told of them.
struct Outer {
    /// That there is a tunnel, and the family of its IP header.
    flags: u64,
    /// Bytes of its Ethernet and IP headers, and of everything behind them up to the inner frame.
    l2: u8,
    l3: u16,
    rest: u8,
    /// Flags for what changes from segment to segment.
    each: u64,
    /// Where its IPv4 header checksum lies.
    zero: Option<u16>,
}

impl Outer {
    const NONE: Self = Self { flags: 0, l2: 0, l3: 0, rest: 0, each: 0, zero: None };

    fn around(&self, (flags, lengths): (u64, TxOffload)) -> (u64, TxOffload) {
        let l2_len = lengths.l2_len + self.rest;
        (flags | self.flags, TxOffload { l2_len, outer_l2_len: self.l2, outer_l3_len: self.l3, ..lengths })
    }
}

/// Reads the first `tunnel` bytes of `head` as a VXLAN tunnel's headers; `None` if they are none.
fn outer(head: &[u8], len: u32, tunnel: u16) -> Option<Outer> {
    let headers = packet::parse(head, len).ok().filter(|headers| headers.l4 == L4::Udp)?;
    let udp = u16::from(headers.l4_offset);
    let rest = u8::try_from(tunnel.checked_sub(udp)?).ok()?;
    let (l2, l3) = (headers.l3_offset, udp.checked_sub(headers.l3_offset.into())?);
    let summed = head.get(usize::from(udp + UDP_CHECKSUM)..)?.first_chunk::<2>()? != &[0; 2];
    let checksum = if summed { d::TOWPATH_MBUF_F_TX_OUTER_UDP_CKSUM } else { 0 };
    let (family, ip_checksum, zero) = match headers.l3 {
        L3::Ipv4 => {
            let zero = Some(u16::from(l2) + IPV4_CHECKSUM);
            (d::TOWPATH_MBUF_F_TX_OUTER_IPV4, d::TOWPATH_MBUF_F_TX_OUTER_IP_CKSUM, zero)
        }
        _ => (d::TOWPATH_MBUF_F_TX_OUTER_IPV6, 0, None),
    };
    let (flags, each) = (d::TOWPATH_MBUF_F_TX_TUNNEL_VXLAN | family, ip_checksum | checksum);
    Some(Outer { flags, l2, l3, rest, each, zero })
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
        ..TxOffload::default()
    };
    (family, lengths)
}

fn cut(segment: Segment, headers: &Headers, tx_offloads: u64, outer: &Outer) -> Request {
    let takes = capabilities(tx_offloads);
    let taken = match (segment.kind, headers.l3, headers.l4) {
        (SegmentKind::TcpV4, L3::Ipv4, L4::Tcp) => takes.tso4,
        (SegmentKind::TcpV6, L3::Ipv6, L4::Tcp) => takes.tso6,
        _ => false,
    };
    let has = |flag: u64| tx_offloads & flag != 0;
    let outer_udp = outer.each & d::TOWPATH_MBUF_F_TX_OUTER_UDP_CKSUM != 0;
    if !taken || segment.size == 0 || outer_udp && !has(d::TOWPATH_ETH_TX_OFFLOAD_OUTER_UDP_CKSUM) {
        return Request::Refuse;
    }
    let inner = outer.l3 + u16::from(outer.l2) + u16::from(outer.rest);
    let (family, lengths) = outer.around(lengths(headers));
    let mut flags = family | outer.each | d::TOWPATH_MBUF_F_TX_TCP_SEG | d::TOWPATH_MBUF_F_TX_TCP_CKSUM;
    let mut zero = [outer.zero, None];
    if headers.l3 == L3::Ipv4 && has(d::TOWPATH_ETH_TX_OFFLOAD_IPV4_CKSUM) {
        flags |= d::TOWPATH_MBUF_F_TX_IP_CKSUM;
        zero[1] = Some(inner + u16::from(headers.l3_offset) + IPV4_CHECKSUM);
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
            let lengths = TxOffload { l2_len: 14, l3_len, l4_len, ..TxOffload::default() };
            let expected = Request::Flags { flags: family | flag, lengths, zero: [None; 2] };
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
        let plain =
            TxOffload { l2_len: 14, l3_len: 20, l4_len: 20, segment_size: 1400, ..TxOffload::default() };
        assert_eq!((lengths, zero), (plain, [None, Some(24)]));
        for flag in [d::TOWPATH_MBUF_F_TX_TCP_SEG, d::TOWPATH_MBUF_F_TX_IP_CKSUM, d::TOWPATH_MBUF_F_TX_IPV4] {
            assert_ne!(flags & flag, 0);
        }
        let v6 = ask(Traffic::Tcp6, segment(SegmentKind::TcpV6), CUTS);
        assert!(
            matches!(v6, Request::Flags { zero: [None, None], .. }),
            "IPv6 has no header checksum: {v6:?}"
        );
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
        assert_eq!(vouched(d::TOWPATH_MBUF_F_RX_L4_CKSUM_GOOD, 0).checksum, Checksum::Valid);
        assert_eq!(vouched(d::TOWPATH_MBUF_F_RX_L4_CKSUM_NONE, 0).checksum, Checksum::Unverified);
        assert_eq!(vouched(0, 0), Offload::NONE);
        // Where the device looked into a tunnel, its word on the inner packet is none on the tunnel's header.
        let tunnel = d::TOWPATH_PTYPE_TUNNEL_MASK & d::TOWPATH_PTYPE_TUNNEL_MASK.wrapping_neg();
        let (inner, outer) = (d::TOWPATH_MBUF_F_RX_L4_CKSUM_GOOD, d::TOWPATH_MBUF_F_RX_OUTER_L4_CKSUM_GOOD);
        assert_eq!(vouched(inner, tunnel).checksum, Checksum::Unverified);
        assert_eq!(vouched(outer, tunnel).checksum, Checksum::Valid);
        assert_eq!(vouched(outer, 0).checksum, Checksum::Unverified);
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

    const TUNNELS: u64 = CUTS
        | d::TOWPATH_ETH_TX_OFFLOAD_VXLAN_TNL_TSO
        | d::TOWPATH_ETH_TX_OFFLOAD_OUTER_IPV4_CKSUM
        | d::TOWPATH_ETH_TX_OFFLOAD_OUTER_UDP_CKSUM;

    /// `traffic` in a tunnel over IPv4 or IPv6: the head, its whole length, and bytes of the tunnel's headers.
    fn tunnelled(traffic: Traffic, v6: bool) -> (Vec<u8>, u32, u8) {
        let address = |host| -> std::net::IpAddr {
            if v6 { [0xfd00, 0, 0, 0, 0, 0, 0, host].into() } else { [192, 0, 2, host as u8].into() }
        };
        let outer = packet::vxlan::Outer::new(Default::default(), address(1), address(2), 64).unwrap();
        let inner = traffic.packet(3000);
        let mut head = Vec::new();
        let per = packet::vxlan::PerPacket {
            destination_mac: Default::default(),
            vni: 7,
            policy: 0,
            source_port: 50_000,
            traffic_class: 0,
            inner_length: inner.len(),
        };
        outer.append(&mut head, &per);
        head.extend_from_slice(&inner[..128]);
        (head, (inner.len() + outer.length()) as u32, outer.length() as u8)
    }

    fn ask_in_tunnel(traffic: Traffic, v6: bool, segment: Option<Segment>, tx_offloads: u64) -> Request {
        let (head, len, tunnel) = tunnelled(traffic, v6);
        let Checksum::Partial { start, offset } = traffic.partial() else { unreachable!() };
        let checksum = Checksum::Partial { start: start + u16::from(tunnel), offset };
        request(Offload { checksum, segment, tunnel }, &head, len, tx_offloads)
    }

    #[test]
    fn tunnels_are_cut_by_devices_that_make_all_outer_headers() {
        let without_udp = TUNNELS & !d::TOWPATH_ETH_TX_OFFLOAD_OUTER_UDP_CKSUM;
        assert!(capabilities(used(TUNNELS | 1 << 63, true)).tunnel);
        assert_eq!(used(TUNNELS | 1 << 63, true), TUNNELS, "nothing that is not used");
        assert!(capabilities(used(without_udp, false)).tunnel, "over IPv4 there is no outer UDP checksum");
        assert!(!capabilities(used(without_udp, true)).tunnel);
        let without_ip = TUNNELS & !d::TOWPATH_ETH_TX_OFFLOAD_OUTER_IPV4_CKSUM;
        assert!(!capabilities(used(without_ip, false)).tunnel);
        assert!(capabilities(used(without_ip, false)).tso4, "frames without a tunnel still are");
    }

    #[test]
    fn a_checksum_in_a_tunnel_names_both_headers() {
        for (v6, l3, family) in
            [(false, 20, d::TOWPATH_MBUF_F_TX_OUTER_IPV4), (true, 40, d::TOWPATH_MBUF_F_TX_OUTER_IPV6)]
        {
            let Request::Flags { flags, lengths, zero } = ask_in_tunnel(Traffic::Udp4, v6, None, TUNNELS)
            else {
                panic!("the device sums inside of tunnels");
            };
            let expected = TxOffload {
                l2_len: 8 + 8 + 14,
                l3_len: 20,
                l4_len: 8,
                outer_l2_len: 14,
                outer_l3_len: l3,
                segment_size: 0,
            };
            assert_eq!((lengths, zero), (expected, [None; 2]), "the outer headers are right as they are");
            let inner = d::TOWPATH_MBUF_F_TX_IPV4 | d::TOWPATH_MBUF_F_TX_UDP_CKSUM;
            assert_eq!(flags, inner | d::TOWPATH_MBUF_F_TX_TUNNEL_VXLAN | family);
            let start = 14 + l3 + 16 + 34;
            let summed = Request::Sum { start, offset: 6 };
            assert_eq!(ask_in_tunnel(Traffic::Udp4, v6, None, CUTS), summed, "the device knows no tunnels");
        }
    }

    #[test]
    fn a_cut_in_a_tunnel_leaves_all_outer_headers_to_the_device() {
        let segment = |kind| Some(Segment { kind, ecn: false, size: 1300 });
        let Request::Flags { flags, lengths, zero } =
            ask_in_tunnel(Traffic::Tcp4, false, segment(SegmentKind::TcpV4), TUNNELS)
        else {
            panic!("the device cuts inside of tunnels");
        };
        assert_eq!((lengths.outer_l2_len, lengths.outer_l3_len, lengths.l2_len), (14, 20, 30));
        assert_eq!((lengths.l4_len, lengths.segment_size, zero), (20, 1300, [Some(24), Some(74)]));
        assert_ne!(flags & d::TOWPATH_MBUF_F_TX_OUTER_IP_CKSUM, 0);
        assert_eq!(flags & d::TOWPATH_MBUF_F_TX_OUTER_UDP_CKSUM, 0, "over IPv4 it stays 0");
        let over_v6 =
            |tx_offloads| ask_in_tunnel(Traffic::Tcp6, true, segment(SegmentKind::TcpV6), tx_offloads);
        let Request::Flags { flags, zero, .. } = over_v6(TUNNELS) else { panic!("over IPv6 too") };
        assert_ne!(flags & d::TOWPATH_MBUF_F_TX_OUTER_UDP_CKSUM, 0);
        assert_eq!((flags & d::TOWPATH_MBUF_F_TX_OUTER_IP_CKSUM, zero), (0, [None; 2]));
        assert_eq!(over_v6(TUNNELS & !d::TOWPATH_ETH_TX_OFFLOAD_OUTER_UDP_CKSUM), Request::Refuse);
        assert_eq!(over_v6(CUTS), Request::Refuse);
        let (mut head, len, tunnel) = tunnelled(Traffic::Tcp4, false);
        head[23] = 6;
        let checksum = Checksum::Partial { start: 84, offset: 16 };
        let offload = Offload { checksum, segment: segment(SegmentKind::TcpV4), tunnel };
        assert_eq!(request(offload, &head, len, TUNNELS), Request::Refuse, "no tunnel of ours");
        assert_eq!(request(offload, &head[..40], len, TUNNELS), Request::Refuse, "no whole head");
    }
}
