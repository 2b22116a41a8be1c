//! Packets that break a protocol or a rule, and what must come of each: on a port of this host, and out of a tunnel of another host that is
//! known. P, O and T are the numbers of the hostile cases.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::frames::*;

/// What must come of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Must {
    /// Dropped and counted once, for this reason.
    Drop(&'static str),
    /// Dropped and counted once, for one of these.
    OneOf(&'static [&'static str]),
    /// The peer gets it as it is.
    Pass,
    /// The peer gets it in so many pieces.
    Cut(usize),
    /// The switch answers; whether that is the right answer.
    Answer(fn(&[u8]) -> bool),
    /// A service of the switch does not answer, and counts why.
    Refuse(&'static str),
    /// Nobody gets anything, and nothing is wrong.
    Quiet,
    /// It has no meaning there, or is another's test.
    Skip,
}

/// A packet.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) frame: Vec<u8>,
    /// The virtio-net header.
    pub(crate) asks: [u8; 12],
    pub(crate) plain: Must,
    pub(crate) inside: Must,
}

impl Row {
    pub(crate) fn new(name: &'static str, frame: Vec<u8>, must: Must) -> Self {
        Self { name, frame, asks: [0; 12], plain: must, inside: must }
    }

    pub(crate) fn inside(self, inside: Must) -> Self {
        Self { inside, ..self }
    }
}

pub(crate) fn drop(name: &'static str, frame: Vec<u8>, reason: &'static str) -> Row {
    Row::new(name, frame, Must::Drop(reason))
}

pub(crate) fn pass(name: &'static str, frame: Vec<u8>) -> Row {
    Row::new(name, frame, Must::Pass)
}

/// Who takes part: the sender, whom it talks with, and the gateway of both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parties {
    pub(crate) me: Station,
    pub(crate) peer: Station,
    pub(crate) gateway: Station,
}

/// Whole, not a fragment, with hops to go.
pub(crate) const PLAIN: (u8, u16) = (64, 0x4000);

impl Parties {
    /// An Ethernet frame to the peer.
    pub(crate) fn frame(&self, kind: u16, payload: &[u8]) -> Vec<u8> {
        ethernet(self.peer.mac, self.me.mac, kind, payload)
    }

    pub(crate) fn v4(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        self.frame(IPV4, &ipv4(self.me.v4, self.peer.v4, protocol, PLAIN, payload))
    }

    /// With these flags and this offset.
    fn piece(&self, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        self.frame(IPV4, &ipv4(self.me.v4, self.peer.v4, protocol, (64, fragment), payload))
    }

    fn v6(&self, next: u8, payload: &[u8]) -> Vec<u8> {
        self.frame(IPV6, &ipv6(self.me.v6, self.peer.v6, (next, 64), payload))
    }

    pub(crate) fn source_v4(&self, source: [u8; 4]) -> Vec<u8> {
        self.frame(IPV4, &ipv4(source.into(), self.peer.v4, UDP, PLAIN, &udp(7, 7, b"who am I?")))
    }

    pub(crate) fn source_v6(&self, source: Ipv6Addr) -> Vec<u8> {
        self.frame(IPV6, &ipv6(source, self.peer.v6, (UDP, 64), &udp(7, 7, b"who am I?")))
    }

    /// To the gateway's MAC address.
    pub(crate) fn routed(&self, destination: Ipv4Addr, protocol: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
        let packet = ipv4(self.me.v4, destination, protocol, (ttl, 0x4000), payload);
        ethernet(self.gateway.mac, self.me.mac, IPV4, &packet)
    }

    /// An ICMPv6 message of the sender's link-local address to a group or a station.
    pub(crate) fn message(&self, mac: [u8; 6], destination: Ipv6Addr, message: &[u8]) -> Vec<u8> {
        ethernet(mac, self.me.mac, IPV6, &icmpv6(self.me.link_local(), destination, message))
    }
}

/// A station's question for another, by neighbour discovery.
pub(crate) fn solicitation(p: &Parties, options: &[u8]) -> Vec<u8> {
    let message = neighbour(135, 0, p.peer.v6, options);
    ethernet(p.peer.mac, p.me.mac, IPV6, &icmpv6(p.me.v6, p.peer.v6, &message))
}

/// A whole datagram of every protocol that is looked into: cut anywhere, each contradicts itself.
pub(crate) fn whole(p: &Parties) -> Vec<Vec<u8>> {
    let options = [1u8; 12];
    let source_link = [&[1, 1][..], &p.me.mac].concat();
    let datagram = udp(1000, 2000, b"content");
    let plain = p.v4(UDP, &datagram);
    vec![
        plain.clone(),
        tagged(&plain, &[(0x8100, 0)]),
        tagged(&plain, &[(0x88a8, 0), (0x8100, 0)]),
        tagged(&plain, &[(0x8100, 0), (0x9100, 0), (0x8100, 0)]),
        p.v4(TCP, &tcp(0x10, &options, b"content")),
        p.v4(ICMP, &icmp(&[8, 0, 0, 0, 0, 1, 0, 1])),
        p.piece(UDP, 0x2000, &udp(1000, 2000, &[0x5a; 16])),
        p.piece(TCP, 0x2000, &tcp(0x10, &options, &[0x5a; 16])),
        p.v6(UDP, &datagram),
        p.v6(0, &[&[60, 0, 1, 4, 0, 0, 0, 0, UDP, 0, 1, 4, 0, 0, 0, 0][..], &datagram].concat()),
        p.v6(44, &[&[UDP, 0, 0, 1, 0, 0, 0, 9][..], &udp(7, 8, &[0x5a; 16])].concat()),
        solicitation(p, &source_link),
        p.frame(ARP, &arp(1, (p.me.mac, p.me.v4), ([0; 6], p.peer.v4))),
    ]
}

/// P-01 to P-05: lies in the virtio-net header. P-06: the same on the way into a tunnel.
pub(crate) fn offloads(p: &Parties) -> Vec<Row> {
    let payload = [0x5a; 100];
    let over_tcp = p.v4(TCP, &tcp(0x18, &[], &payload));
    let over_udp = p.v4(UDP, &udp(7, 7, &payload));
    let over_v6 = p.v6(TCP, &tcp(0x18, &[], &payload));
    let question = p.frame(ARP, &arp(1, (p.me.mac, p.me.v4), ([0; 6], p.peer.v4)));
    let long = p.v4(TCP, &tcp(0x18, &[], &vec![0x5a; 60_000]));
    let asks = |flags: u8, kind: u8, header: u16, size: u16, start: u16, offset: u16| {
        let words = [header, size, start, offset].map(u16::to_le_bytes).concat();
        let mut all = [0; 12];
        all[..2].copy_from_slice(&[flags, kind]);
        all[2..10].copy_from_slice(&words);
        all
    };
    let lie = |name, frame: &[u8], asks| Row {
        asks,
        ..drop(name, frame.to_vec(), "bad_offload").inside(Must::Skip)
    };
    let cut = |name, header, count| Row {
        asks: asks(1, 1, header, 50, 34, 16),
        ..Row::new(name, over_tcp.clone(), Must::Cut(count)).inside(Must::Skip)
    };
    let mut rows = vec![
        lie("P-01 checksum starts past the end", &over_tcp, asks(1, 0, 0, 0, 0xffff, 16)),
        lie("P-01 checksum is past the end", &over_tcp, asks(1, 0, 0, 0, 34, 0xffff)),
        lie("P-01 start and offset wrap", &over_tcp, asks(1, 0, 0, 0, 0xfff0, 0x0020)),
        lie("P-01 inside Ethernet", &over_tcp, asks(1, 0, 0, 0, 0, 12)),
        lie("P-01 inside IP", &over_tcp, asks(1, 0, 0, 0, 14, 10)),
        lie("P-01 not where TCP has it", &over_tcp, asks(1, 0, 0, 0, 34, 6)),
        lie("P-01 a byte past the packet", &over_udp, asks(1, 0, 0, 0, 141, 0)),
        lie("P-02 TCPv4, but UDP", &over_udp, asks(1, 1, 54, 50, 34, 6)),
        lie("P-02 TCPv4, but IPv6", &over_v6, asks(1, 1, 74, 50, 54, 16)),
        lie("P-02 TCPv6, but IPv4", &over_tcp, asks(1, 4, 54, 50, 34, 16)),
        lie("P-02 TCPv4, but ARP", &question, asks(1, 1, 54, 10, 14, 16)),
        lie("P-02 UDP, but TCP", &over_tcp, asks(1, 5, 42, 50, 34, 16)),
        lie("P-03 segments of 0", &over_tcp, asks(1, 1, 54, 0, 34, 16)),
        lie("P-03 segments above the payload", &over_tcp, asks(1, 1, 54, 101, 34, 16)),
        lie("P-03 segments of 65535", &over_tcp, asks(1, 1, 54, 65_535, 34, 16)),
        lie("P-03 no such type", &over_tcp, asks(1, 2, 54, 50, 34, 16)),
        lie("P-03 UFO, which is not offered", &over_udp, asks(1, 3, 42, 50, 34, 6)),
        lie("P-03 ECN alone", &over_tcp, asks(1, 0x80, 54, 50, 34, 16)),
        lie("P-03 without a checksum", &over_tcp, asks(0, 1, 54, 50, 0, 0)),
        lie("P-05 60,000 segments", &long, asks(1, 1, 54, 1, 34, 16)),
        cut("P-04 header of 0", 0, 2),
        cut("P-04 header past the packet", 0xffff, 2),
        cut("P-05 header longer than the segments", 54, 2),
    ];
    rows.push(Row {
        asks: asks(1, 1, 54, 50, 34, 16),
        ..drop("P-02 nine bytes", over_tcp[..9].to_vec(), "runt").inside(Must::Skip)
    });
    rows
}

/// P-07, P-08, P-20, P-40, T-19, T-23, T-24: Ethernet and what is behind it.
pub(crate) fn links(p: &Parties) -> Vec<Row> {
    let good = p.v4(UDP, &udp(1000, 2000, b"content"));
    let question = ethernet(BROADCAST, p.me.mac, ARP, &arp(1, (p.me.mac, p.me.v4), ([0; 6], p.peer.v4)));
    let snap = |kind: u16, payload: &[u8]| {
        let rest = [&[0xaa, 0xaa, 3, 0, 0, 0][..], &kind.to_be_bytes(), payload].concat();
        p.frame(rest.len() as u16, &rest)
    };
    let link = |to: u8, kind: u16| ethernet([1, 0x80, 0xc2, 0, 0, to], p.me.mac, kind, &[0; 46]);
    let mut rows = vec![
        drop("P-07, T-24 a length field", p.frame(46, &[0xaa; 46]), "llc"),
        drop("P-07 a length of 0", p.frame(0, &[0xaa; 46]), "llc"),
        drop("P-07, T-24 a wrong length", p.frame(0x5dc, &[0xaa; 46]), "llc"),
        drop("T-24 SNAP around IP", snap(IPV4, &good[14..]), "llc"),
        drop("T-24 SNAP around ARP", snap(ARP, &question[14..]), "llc"),
        drop("T-24 SNAP in a tag", tagged(&snap(IPV6, &[0x60; 40]), &[(0x8100, 0)]), "llc"),
        drop("P-08 a tag without a type", [&good[..12], &[0x81, 0, 0]].concat(), "vlan_truncated"),
        drop("P-08 a tag with nothing behind it", tagged(&good[..14], &[(0x8100, 5)]), "vlan_truncated"),
        drop("P-08 a tag", tagged(&good, &[(0x8100, 5)]), "vlan_tagged"),
        drop("P-08 two tags", tagged(&good, &[(0x88a8, 7), (0x8100, 5)]), "vlan_tagged"),
        drop("T-23 VLAN 5 behind VLAN 0", tagged(&good, &[(0x8100, 0), (0x8100, 5)]), "vlan_tagged"),
        drop("P-08 three tags", tagged(&good, &[(0x88a8, 0), (0x9100, 0), (0x8100, 0)]), "vlan_depth"),
        drop("P-08 sixteen tags", tagged(&good, &[(0x9100, 1); 16]), "vlan_depth"),
        pass("T-23 VLAN 0", tagged(&good, &[(0x8100, 0xe000)])),
        pass("T-23 VLAN 0 twice", tagged(&good, &[(0x8100, 0), (0x88a8, 0)])),
        Row::new("T-23 ARP in VLAN 0", tagged(&question, &[(0x8100, 0)]), Must::Answer(is_arp_reply)),
        drop("P-40 STP", link(0, 38), "llc"),
    ];
    let refused = [
        ("P-40 PAUSE", link(1, 0x8808)),
        ("P-40 LACP", link(2, 0x8809)),
        ("P-40 802.1X", link(3, 0x888e)),
        ("P-40 LLDP", link(0x0e, 0x88cc)),
        ("P-20 MPLS, one label", p.frame(0x8847, &[&[0, 0, 0x11, 64][..], &good[14..]].concat())),
        ("P-20 MPLS, 64 labels, no bottom", p.frame(0x8847, &[0; 256])),
        ("T-19 an experiment", p.frame(0x88b5, &[0; 46])),
        ("T-19 PPPoE", p.frame(0x8863, &[0; 46])),
        ("T-19 IPX", p.frame(0x8137, &[0; 46])),
        ("T-19 RARP", p.frame(0x8035, &arp(3, (p.me.mac, p.me.v4), (p.me.mac, p.me.v4)))),
        ("T-19 the last EtherType", p.frame(0xffff, &[0; 46])),
    ];
    rows.extend(refused.into_iter().map(|(name, frame)| drop(name, frame, "ethertype_refused")));
    rows
}

/// P-10 to P-13, P-17, P-21, P-36, P-38: IP and what it carries.
pub(crate) fn lengths(p: &Parties) -> Vec<Row> {
    let good = p.v4(UDP, &udp(1000, 2000, &[0x5a; 40]));
    let segment = p.v4(TCP, &tcp(0x18, &[], &[0x5a; 40]));
    let datagram = p.v6(UDP, &udp(1000, 2000, &[0x5a; 40]));
    let padded = |by: usize| [good.clone(), vec![0xee; by]].concat();
    let mut rows = vec![
        drop("P-10 IHL below 5", with(good.clone(), 14, &[0x44]), "ipv4_header_length"),
        drop(
            "P-10 IHL above the total length",
            with(with(good.clone(), 14, &[0x4f]), 16, &[0, 40]),
            "ipv4_header_length",
        ),
        drop("P-10 total length below IHL", with(good.clone(), 16, &[0, 19]), "ipv4_header_length"),
        drop("P-10 total length above the frame", with(good.clone(), 16, &[0xff, 0xff]), "ipv4_total_length"),
        drop("P-10 ports from padding", with(good.clone(), 16, &[0, 20]), "l4_truncated"),
        drop("P-10 another version", with(good.clone(), 14, &[0x65]), "ipv4_version"),
        drop("P-13 another version", with(datagram.clone(), 14, &[0x40]), "ipv6_version"),
        pass("P-11 a byte of padding", padded(1)),
        pass("P-11 1300 bytes of padding", padded(1300)),
        drop("P-12 UDP length 0", with(good.clone(), 38, &[0, 0]), "udp_length"),
        drop("P-12 UDP length 7", with(good.clone(), 38, &[0, 7]), "udp_length"),
        drop("P-12 UDP length above IP's", with(good.clone(), 38, &[0, 49]), "udp_length"),
        drop(
            "P-12 data offset past the segment",
            with(p.v4(TCP, &tcp(2, &[], &[])), 46, &[0x60]),
            "tcp_header_length",
        ),
        drop("P-12 ICMP cut off", p.v4(ICMP, &[8, 0, 0]), "l4_truncated"),
        drop(
            "P-13 payload length above the frame",
            with(datagram.clone(), 18, &[0, 88]),
            "ipv6_payload_length",
        ),
        drop("P-13 payload length below the payload", with(datagram.clone(), 18, &[0, 8]), "udp_length"),
        drop("P-13 payload length 0", with(datagram.clone(), 18, &[0, 0]), "l4_truncated"),
        drop("P-13 a jumbogram", with(with(datagram.clone(), 18, &[0, 0]), 20, &[0]), "ipv6_jumbogram"),
        drop("P-38 SCTP cut off", p.v4(132, &[0; 7]), "l4_truncated"),
        pass("P-38 SCTP", p.v4(132, &[0x5a; 12])),
        pass("P-38 DCCP", p.v4(33, &[0x5a; 16])),
        pass("P-38 GRE", p.v4(47, &[0; 8])),
        pass("P-38 ESP", p.v6(50, &[0x5a; 16])),
        pass("P-17 protocol 0", p.v4(0, &[0x5a; 8])),
        pass("P-17 protocol 255", p.v4(255, &[0x5a; 8])),
        pass("P-17 protocol 255 over IPv6", p.v6(255, &[0x5a; 8])),
        pass("P-17 ICMPv6 over IPv4", p.v4(ICMPV6, &[134, 0, 0, 0, 0, 0, 0, 0])),
        pass("P-21 a wrong IPv4 checksum: the receiver's to see", with(good.clone(), 24, &[0xde, 0xad])),
        pass("P-21 a wrong TCP checksum: the receiver's to see", segment.clone()),
        pass("P-21 no UDP checksum over IPv6: the receiver's to see", datagram),
        pass(
            "P-36 FTP: no gateway reads along",
            p.v4(TCP, &tcp(0x18, &[], b"PORT 999,999,999,999,99999999999,1")),
        ),
        pass("P-36 TFTP: no gateway reads along", p.v4(UDP, &udp(1000, 69, &[0x41; 300]))),
    ];
    let offsets = [0x00, 0x10, 0x20, 0x30, 0x40].map(|offset| with(segment.clone(), 46, &[offset]));
    rows.extend(offsets.map(|frame| drop("P-12 data offset below 5", frame, "tcp_header_length")));
    let cut = (0..20).map(|length| p.v4(TCP, &tcp(2, &[], &[])[..length]));
    rows.extend(cut.map(|frame| drop("P-12 TCP cut off", frame, "l4_truncated")));
    rows
}

/// P-35, P-37: states and relations are for policy to judge; what is no state passes as it is.
pub(crate) fn states(p: &Parties) -> Vec<Row> {
    let segments: [(&str, u8, &[u8]); 9] = [
        ("P-35 null", 0, &[]),
        ("P-35 SYN and FIN", 0x03, &[]),
        ("P-35 everything", 0xff, &[]),
        ("P-35 RST", 0x04, &[]),
        ("P-35 an option of length 0", 0x02, &[2, 0, 1, 1]),
        ("P-35 an option of length 1", 0x02, &[2, 1, 1, 1]),
        ("P-35 an option past the end", 0x02, &[1, 1, 2, 4]),
        ("P-35 window scale 255", 0x02, &[3, 3, 255, 1]),
        ("P-35 an option past everything", 0x02, &[8, 255, 1, 1]),
    ];
    let mut rows: Vec<Row> = segments
        .into_iter()
        .map(|(name, flags, options)| pass(name, p.v4(TCP, &tcp(flags, options, b"data"))))
        .collect();
    let inner = ipv4(p.peer.v4, p.me.v4, UDP, PLAIN, &udp(7, 7, b"lost"));
    let error = |inner: &[u8]| icmp(&[&[3, 4, 0, 0, 0, 0, 0, 68][..], inner].concat());
    rows.extend([
        pass("P-37 nothing inside", p.v4(ICMP, &error(&[]))),
        pass("P-37 half a header inside", p.v4(ICMP, &error(&inner[..10]))),
        pass(
            "P-37 an error about an error",
            p.v4(ICMP, &error(&ipv4(p.peer.v4, p.me.v4, ICMP, PLAIN, &error(&[])))),
        ),
        pass("O-10 MTU 68, forged: the peer's to believe", p.v4(ICMP, &error(&inner))),
        drop(
            "O-10 MTU 68, to the gateway",
            p.routed(p.gateway.v4, ICMP, 64, &error(&inner)),
            "gateway_consumed",
        )
        .inside(Must::Skip),
        drop(
            "P-37 an error to the gateway",
            p.routed(p.gateway.v4, ICMP, 64, &error(&[])),
            "gateway_consumed",
        )
        .inside(Must::Skip),
    ]);
    rows
}

/// P-14: extension headers.
pub(crate) fn extensions(p: &Parties) -> Vec<Row> {
    let datagram = udp(7, 8, b"behind");
    let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let chain = |headers: usize| {
        let more = std::iter::repeat_n(options(60), headers - 1).flatten();
        let all: Vec<u8> = more.chain(options(UDP)).chain(datagram.clone()).collect();
        p.v6(60, &all)
    };
    let routing = |kind: u8, length: u8, left: u8, last: u8| {
        let header =
            [&[UDP, length, kind, left, last, 0, 0, 0][..], &vec![0; usize::from(length) * 8]].concat();
        p.v6(43, &[&header, &datagram[..]].concat())
    };
    let ahead = |next: u8, header: &[u8]| p.v6(next, &[header, &datagram].concat());
    vec![
        drop(
            "P-14 hop-by-hop behind another",
            p.v6(60, &[&options(0)[..], &options(UDP), &datagram].concat()),
            "ipv6_extension_order",
        ),
        drop("P-14 nine headers", chain(9), "ipv6_extension_count"),
        drop("P-14 a hundred headers", chain(100), "ipv6_extension_count"),
        drop(
            "P-14 a header past the packet",
            ahead(60, &[UDP, 9, 1, 4, 0, 0, 0, 0]),
            "ipv6_extension_length",
        ),
        drop(
            "P-14 an option past its header",
            ahead(60, &[UDP, 0, 1, 9, 0, 0, 0, 0]),
            "ipv6_extension_length",
        ),
        drop("P-14 a jumbogram's option", ahead(0, &[UDP, 0, 0xc2, 4, 0, 1, 0, 0]), "ipv6_jumbogram"),
        drop("P-14 routing type 0", routing(0, 2, 1, 0), "ipv6_routing"),
        drop("P-14 more segments left than there are", routing(4, 2, 3, 0), "ipv6_routing"),
        drop("P-14 a last entry that is not there", routing(4, 2, 1, 7), "ipv6_routing"),
        drop(
            "P-14 authentication shorter than itself",
            ahead(51, &[UDP, 0, 0, 0, 0, 0, 0, 0]),
            "ipv6_extension_length",
        ),
        drop(
            "P-14 authentication past the packet",
            ahead(51, &[UDP, 60, 0, 0, 0, 0, 0, 0]),
            "ipv6_extension_length",
        ),
        pass("P-14 no next header, and content", p.v6(59, &datagram)),
        pass("P-14 two headers", chain(2)),
        pass("P-14 eight segments routed already", routing(4, 4, 0, 1)),
    ]
}

/// P-30 to P-32: fragments. The switch puts nothing together: each stands for itself, and may hide nothing.
pub(crate) fn fragments(p: &Parties) -> Vec<Row> {
    let first = p.piece(UDP, 0x2000, &udp(7, 7, &[0x5a; 16]));
    let piece6 = |next: u8, offset: u16, payload: &[u8]| {
        let header = [&[next, 0][..], &offset.to_be_bytes(), &[0, 0, 0, 9]].concat();
        p.v6(44, &[&header, payload].concat())
    };
    vec![
        drop("P-30 over the first octets of TCP", p.piece(TCP, 0x0001, &[0x5a; 8]), "fragment_overlap"),
        drop("P-30 the same over IPv6", piece6(TCP, 0x0008, &[0x5a; 8]), "fragment_overlap"),
        drop("P-31 past the longest datagram", p.piece(UDP, 0x1fff, &[0x5a; 16]), "fragment_overrun"),
        drop("P-31 the same over IPv6", piece6(UDP, 0xfff8, &[0x5a; 16]), "fragment_overrun"),
        drop("P-31 no multiple of 8", p.piece(UDP, 0x2002, &[0x5a; 9]), "fragment_length"),
        drop("P-31 nothing in it", p.piece(UDP, 0x2002, &[]), "fragment_length"),
        drop("P-32 a tiny first fragment", p.piece(TCP, 0x2000, &tcp(2, &[], &[])[..8]), "fragment_tiny"),
        drop(
            "P-32 options in the next fragment",
            p.piece(TCP, 0x2000, &with(tcp(2, &[], &[0; 4]), 12, &[0x70])),
            "fragment_tiny",
        ),
        drop(
            "P-32 a first fragment of headers alone",
            piece6(60, 0x0001, &[UDP, 0, 1, 4, 0, 0, 0, 0]),
            "fragment_tiny",
        ),
        pass("P-32 the second before the first", p.piece(UDP, 0x0003, &[0x5a; 16])),
        pass("P-30 the first", first.clone()),
        pass("P-30 the first again", first),
        pass("P-30 a teardrop", p.piece(UDP, 0x0001, &[0x5a; 4])),
        pass("P-30 the last, once more", p.piece(UDP, 0x0003, &[0x5a; 16])),
        pass("P-30 one whose last never comes", piece6(UDP, 0x0001, &udp(7, 7, &[0x5a; 16]))),
    ]
}

fn byte(frame: &[u8], at: usize) -> u8 {
    frame.get(at).copied().unwrap_or_default()
}

pub(crate) fn is_time_exceeded(frame: &[u8]) -> bool {
    byte(frame, 23) == ICMP && byte(frame, 34) == 11
}

/// Fragmentation needed.
pub(crate) fn is_too_big(frame: &[u8]) -> bool {
    is_unreachable(frame) && byte(frame, 35) == 4
}

pub(crate) fn is_unreachable(frame: &[u8]) -> bool {
    byte(frame, 23) == ICMP && byte(frame, 34) == 3
}

/// Behind one VLAN tag.
pub(crate) fn is_arp_reply(frame: &[u8]) -> bool {
    frame.get(16..18) == Some(&[8, 6]) && byte(frame, 25) == 2
}

pub(crate) fn is_advertised(frame: &[u8]) -> bool {
    byte(frame, 20) == ICMPV6 && byte(frame, 54) == 136
}

pub(crate) fn is_router(frame: &[u8]) -> bool {
    byte(frame, 20) == ICMPV6 && byte(frame, 54) == 134
}

pub(crate) fn is_dhcp_answer(frame: &[u8]) -> bool {
    frame.get(34..38) == Some(&[0, 67, 0, 68])
}
