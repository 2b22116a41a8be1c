//! Packets of who claims to be somebody else: another station, the gateway, a router, a DHCP server; and lies to the switch's own services.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::catalogue::{
    Must, PLAIN, Parties, Row, drop, is_advertised, is_dhcp_answer, is_router, is_time_exceeded,
    is_unreachable, pass, solicitation,
};
use crate::frames::*;

/// P-15, P-16, T-20, T-21, T-25: neighbours and routers.
pub(crate) fn neighbours(p: &Parties) -> Vec<Row> {
    let stranger: [u8; 6] = [2, 0, 0, 0, 9, 9];
    let own = |message: Vec<u8>| p.message([0x33, 0x33, 0, 0, 0, 1], ALL_NODES, &message);
    let asks = |sender| ethernet(BROADCAST, p.me.mac, ARP, &arp(1, sender, ([0; 6], p.peer.v4)));
    let question = asks((p.me.mac, p.me.v4));
    let advertise =
        |flags: u8, target, link: &[u8; 6]| neighbour(136, flags, target, &[&[2, 1][..], link].concat());
    let free = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x77);
    let probe = |message: &[u8]| {
        ethernet(
            [0x33, 0x33, 0xff, 0, 0, 0x77],
            p.me.mac,
            IPV6,
            &icmpv6(Ipv6Addr::UNSPECIFIED, free, message),
        )
    };
    let query = [130, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let igmp = |mac, kind: u8| {
        let group = Ipv4Addr::new(224, 0, 0, 1);
        ethernet(mac, p.me.mac, IPV4, &ipv4(p.me.v4, group, 2, (1, 0), &icmp(&[kind, 0, 0, 0, 0, 0, 0, 0])))
    };
    let group = [1, 0, 0x5e, 0, 0, 1];
    let router = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let redirect = [&[137, 0, 0, 0, 0, 0, 0, 0][..], &p.me.v6.octets(), &p.peer.v6.octets()].concat();
    let consumed = "neighbour_consumed";
    vec![
        drop("P-15 an option of length 0", solicitation(p, &[1, 0, 0, 0, 0, 0, 0, 0]), "bad_neighbour"),
        drop("P-15 an option of length 255", solicitation(p, &[1, 255, 0, 0, 0, 0, 0, 0]), "bad_neighbour"),
        drop("P-15 an option past the end", solicitation(p, &[1, 2, 0, 0, 0, 0, 0, 0]), "bad_neighbour"),
        drop("P-15 half an option", solicitation(p, &[1]), "bad_neighbour"),
        drop("P-15 sixty options", solicitation(p, &[14, 1, 0, 0, 0, 0, 0, 0].repeat(60)), "bad_neighbour"),
        drop("P-15 a wrong checksum", with(solicitation(p, &[]), 56, &[0xde, 0xad]), "bad_neighbour"),
        drop("P-16 hardware length 8", with(question.clone(), 18, &[8]), "arp_format"),
        drop("P-16 protocol length 16", with(question.clone(), 19, &[16]), "arp_format"),
        drop("P-16 another hardware", with(question.clone(), 14, &[0, 6]), "arp_format"),
        drop("P-16 cut off", question[..41].to_vec(), "arp_truncated"),
        drop("P-16 gratuitous", asks((p.me.mac, p.me.v4)).splice_target(p.me.v4), consumed)
            .inside(Must::Quiet),
        drop(
            "P-16 a reply for the gateway",
            p.frame(ARP, &arp(2, (p.me.mac, p.gateway.v4), (p.peer.mac, p.peer.v4))),
            "spoofed_neighbour",
        )
        .inside(Must::Skip),
        drop(
            "P-16 another's address",
            asks((p.me.mac, p.peer.v4)).splice_target(Ipv4Addr::new(10, 0, 1, 99)),
            "spoofed_neighbour",
        )
        .inside(Must::Drop("tunnel_source")),
        drop("P-16 another's MAC address", asks((stranger, p.me.v4)), "spoofed_neighbour").inside(Must::Skip),
        drop("P-16 no operation", with(question, 20, &[0, 9]), consumed),
        drop("T-21 for another's address", own(advertise(0x20, p.peer.v6, &p.me.mac)), "spoofed_neighbour")
            .inside(Must::Skip),
        drop("T-21 for the gateway's", own(advertise(0xa0, p.gateway.v6, &p.me.mac)), "spoofed_neighbour")
            .inside(Must::Skip),
        drop(
            "T-21 with another's MAC address",
            own(advertise(0x20, p.me.v6, &stranger)),
            "spoofed_neighbour",
        )
        .inside(Must::Skip),
        drop("T-21 unsolicited, for itself", own(advertise(0x20, p.me.v6, &p.me.mac)), consumed)
            .inside(Must::Quiet),
        drop(
            "T-20 with another's link address",
            solicitation(p, &[&[1, 1][..], &stranger].concat()),
            "spoofed_neighbour",
        )
        .inside(Must::Skip),
        Row::new(
            "T-20 is an address free?",
            probe(&neighbour(135, 0, p.peer.v6, &[])),
            Must::Answer(is_advertised),
        )
        .inside(Must::Skip),
        drop(
            "T-20 an echo from ::",
            ethernet(
                p.peer.mac,
                p.me.mac,
                IPV6,
                &icmpv6(Ipv6Addr::UNSPECIFIED, p.peer.v6, &[128, 0, 0, 0, 0, 1, 0, 1]),
            ),
            "bogus_source",
        )
        .inside(Must::Drop("tunnel_source")),
        drop("T-25 a router's advertisement", own(router.to_vec()), "rogue_service"),
        drop("T-25 the same to one station", p.message(p.peer.mac, p.peer.v6, &router), "rogue_service"),
        drop("T-23, T-25 the same in VLAN 0", tagged(&own(router.to_vec()), &[(0x8100, 0)]), "rogue_service"),
        drop("T-25 a redirect", p.message(p.peer.mac, p.peer.v6, &redirect), "rogue_service"),
        drop("T-25 an MLD query", own(query.to_vec()), "rogue_service"),
        drop("T-25 the same to one station", p.message(p.peer.mac, ALL_NODES, &query), "rogue_service"),
        drop("T-25 an IGMP query", igmp(group, 0x11), "rogue_service"),
        drop("T-25 the same to one station", igmp(p.peer.mac, 0x11), "rogue_service"),
        drop("T-07 an IGMP report", igmp(group, 0x16), "multicast").inside(Must::Skip),
    ]
}

trait Target {
    fn splice_target(self, target: Ipv4Addr) -> Vec<u8>;
}

impl Target for Vec<u8> {
    /// An ARP frame that asks for another address.
    fn splice_target(self, target: Ipv4Addr) -> Vec<u8> {
        with(self, 38, &target.octets())
    }
}

/// P-18, O-03, O-05, O-08, O-09, T-18, T-20: who speaks.
pub(crate) fn addresses(p: &Parties) -> Vec<Row> {
    let tunnelled = Must::Drop("tunnel_source");
    let [.., last] = p.me.v6.octets();
    let mapped = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0x0a00, 0x010a + u16::from(last));
    let mut rows: Vec<Row> = [
        ("P-18 from 0.0.0.0", [0, 0, 0, 0]),
        ("P-18 from 127.0.0.1", [127, 0, 0, 1]),
        ("P-18 from a group", [224, 0, 0, 1]),
        ("P-18 from broadcast", [255; 4]),
    ]
    .into_iter()
    .map(|(name, source)| drop(name, p.source_v4(source), "bogus_source").inside(tunnelled))
    .collect();
    let spoofed = |name, frame| drop(name, frame, "spoofed_address");
    let bogus = |name, source| drop(name, p.source_v6(source), "bogus_source").inside(tunnelled);
    let mac = |bytes: [u8; 6]| with(p.v4(UDP, &udp(7, 7, b"who am I?")), 6, &bytes);
    rows.extend([
        spoofed("P-18 from 169.254.1.1", p.source_v4([169, 254, 1, 1])).inside(Must::Skip),
        spoofed("P-18 from class E", p.source_v4([240, 0, 0, 1])).inside(Must::Skip),
        spoofed("T-20 from the peer's address", p.source_v4(p.peer.v4.octets())).inside(tunnelled),
        spoofed("T-20 from the gateway's", p.source_v4(p.gateway.v4.octets())).inside(Must::Skip),
        spoofed("T-20 from the peer's IPv6 address", p.source_v6(p.peer.v6)).inside(tunnelled),
        spoofed(
            "T-20 from another link-local address",
            p.source_v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x77)),
        )
        .inside(Must::Skip),
        spoofed("P-18 from a mapped address", p.source_v6(mapped)).inside(Must::Skip),
        bogus("P-18 from ::", Ipv6Addr::UNSPECIFIED),
        bogus("P-18 from ::1", Ipv6Addr::LOCALHOST),
        bogus("P-18 from ff02::1", ALL_NODES),
        pass(
            "P-18 to its own address, at the peer's: the peer's to see",
            p.frame(IPV4, &ipv4(p.me.v4, p.me.v4, UDP, PLAIN, &udp(7, 7, b"LAND"))),
        ),
        drop("T-18, O-03 from the peer's MAC address", mac(p.peer.mac), "spoofed_mac").inside(tunnelled),
        drop("T-18 from another MAC address", mac([2, 0, 0, 0, 9, 9]), "spoofed_mac").inside(Must::Skip),
        drop("T-18 from a group's MAC address", mac([3, 0, 0, 0, 9, 9]), "spoofed_mac")
            .inside(Must::Drop("bogus_source")),
        drop("O-09 the gateway moves here", mac(p.gateway.mac), "spoofed_mac").inside(Must::Skip),
        pass("O-05, P-27 VXLAN to the peer is UDP", p.v4(UDP, &tunnel(p))),
        pass("O-08 BFD to the peer is UDP", p.v4(UDP, &udp(49_152, 3784, &[0x20, 0xc0, 3, 24]))),
    ]);
    rows
}

/// O-05, O-06, O-08, P-19, T-07: to whom nobody leads.
pub(crate) fn destinations(p: &Parties) -> Vec<Row> {
    let unreachable = Must::Answer(is_unreachable);
    let to = |name, address: [u8; 4], must| {
        Row::new(name, p.routed(address.into(), UDP, 64, &tunnel(p)), must).inside(Must::Skip)
    };
    vec![
        to("O-05, O-06, P-27 VXLAN to this host", [192, 0, 2, 1], unreachable),
        to("O-05, O-06 VXLAN to another host", [192, 0, 2, 2], unreachable),
        to("O-05, O-06 VXLAN to 127.0.0.1", [127, 0, 0, 1], Must::OneOf(&["no_route"])),
        to("O-06 the metadata service, not its port", [169, 254, 169, 254], Must::Drop("gateway_consumed")),
        to("O-05 VXLAN to the gateway", p.gateway.v4.octets(), Must::Drop("gateway_consumed")),
        Row::new(
            "O-08 BFD to the gateway",
            p.routed(p.gateway.v4, UDP, 255, &udp(49_152, 3784, &[0x20; 24])),
            Must::Drop("gateway_consumed"),
        )
        .inside(Must::Skip),
        Row::new(
            "O-06 the API's port at the gateway",
            p.routed(p.gateway.v4, TCP, 64, &tcp(2, &[], &[])),
            Must::Drop("gateway_consumed"),
        )
        .inside(Must::Skip),
        Row::new(
            "P-19 TTL 0",
            p.routed(p.peer.v4, UDP, 0, &udp(7, 7, b"late")),
            Must::Answer(is_time_exceeded),
        )
        .inside(Must::Skip),
        Row::new(
            "P-19 TTL 1",
            p.routed(p.peer.v4, UDP, 1, &udp(7, 7, b"late")),
            Must::Answer(is_time_exceeded),
        )
        .inside(Must::Skip),
        drop(
            "T-07 to a group",
            ethernet(
                [1, 0, 0x5e, 0, 0, 0xfb],
                p.me.mac,
                IPV4,
                &ipv4(p.me.v4, [224, 0, 0, 0xfb].into(), UDP, PLAIN, &udp(5353, 5353, &[0; 12])),
            ),
            "multicast",
        )
        .inside(Must::Skip),
        drop(
            "T-07 to an IPv6 group",
            ethernet(
                [0x33, 0x33, 0, 0, 0, 0xfb],
                p.me.mac,
                IPV6,
                &ipv6(p.me.v6, ALL_NODES, (UDP, 1), &udp(5353, 5353, &[0; 12])),
            ),
            "multicast",
        )
        .inside(Must::Skip),
    ]
}

/// VXLAN, as a tenant would speak it.
fn tunnel(p: &Parties) -> Vec<u8> {
    let inside = p.v4(UDP, &udp(7, 7, b"inside"));
    udp(4789, 4789, &[&[8, 0, 0, 0, 0, 0, 100, 0][..], &inside].concat())
}

/// P-42, T-07, T-22: lies to the services of the switch.
pub(crate) fn services(p: &Parties) -> Vec<Row> {
    let ask = |options: &[u8]| dhcp4(1, p.me.mac, options);
    let to_all = |source: u16, destination: u16, message: &[u8]| {
        let packet =
            ipv4(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, UDP, PLAIN, &udp(source, destination, message));
        ethernet(BROADCAST, p.me.mac, IPV4, &packet)
    };
    let client = |options: &[u8]| to_all(68, 67, &ask(options));
    let servers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
    let group = [0x33, 0x33, 0, 1, 0, 2];
    let client6 = |message: &[u8]| {
        ethernet(group, p.me.mac, IPV6, &ipv6(p.me.link_local(), servers, (UDP, 1), &udp(546, 547, message)))
    };
    let solicit = |options: &[u8]| {
        let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
        p.message([0x33, 0x33, 0, 0, 0, 2], routers, &[&[133, 0, 0, 0, 0, 0, 0, 0][..], options].concat())
    };
    let refused = |name, frame, why| Row::new(name, frame, Must::Refuse(why)).inside(Must::Skip);
    let answered =
        |name, frame, right: fn(&[u8]) -> bool| Row::new(name, frame, Must::Answer(right)).inside(Must::Skip);
    let id = option6(1, 10, &[0, 3, 0, 1, 2, 0, 0, 0, 9, 9]);
    let discover = [53, 1, 1];
    vec![
        answered("T-07 DHCP", client(&[53, 1, 1, 255]), is_dhcp_answer),
        answered("T-07 a router solicitation", solicit(&[&[1, 1][..], &p.me.mac].concat()), is_router),
        refused(
            "P-42 an option past the end",
            client(&[&discover[..], &[12, 200, 1]].concat()),
            "option_length",
        ),
        refused("P-42 half an option", client(&[&discover[..], &[12]].concat()), "option_length"),
        refused(
            "P-42 an address of three bytes",
            client(&[&discover[..], &[50, 3, 1, 1, 1, 255]].concat()),
            "option_length",
        ),
        refused(
            "P-42 an overload of two bytes",
            client(&[&discover[..], &[52, 2, 3, 3, 255]].concat()),
            "option_length",
        ),
        refused("P-42 an option twice", client(&[53, 1, 1, 53, 1, 3, 255]), "option_twice"),
        refused(
            "P-42 four hundred options",
            client(&[&discover[..], &[200, 0].repeat(400)].concat()),
            "too_many",
        ),
        refused("P-42 no type", client(&[255]), "option_missing"),
        refused("P-42 cut off", to_all(68, 67, &ask(&[])[..200]), "truncated"),
        refused("P-42 another cookie", to_all(68, 67, &with(ask(&[53, 1, 1, 255]), 236, &[1])), "format"),
        refused(
            "T-22 another's hardware address",
            to_all(68, 67, &dhcp4(1, p.peer.mac, &[53, 1, 1, 255])),
            "foreign_hardware",
        ),
        refused(
            "T-22 another's client identifier",
            client(&[&discover[..], &[61, 7, 1], &p.peer.mac, &[255]].concat()),
            "foreign_client",
        ),
        refused("T-22 relayed", to_all(68, 67, &with(ask(&[53, 1, 1, 255]), 24, &[10, 0, 1, 77])), "relayed"),
        refused(
            "T-22 a server's message to the server",
            to_all(68, 67, &ask(&[53, 1, 2, 255])),
            "server_message",
        ),
        refused(
            "P-42 DHCPv6, an option past the end",
            client6(&[&[1, 1, 2, 3][..], &option6(1, 60, &[0; 4])].concat()),
            "option_length",
        ),
        refused(
            "P-42 DHCPv6, options in options past the end",
            client6(
                &[&[1, 1, 2, 3][..], &id, &option6(3, 16, &[&[0; 12][..], &option6(5, 99, &[])].concat())]
                    .concat(),
            ),
            "option_length",
        ),
        refused("P-42 DHCPv6, cut off", client6(&[1, 1]), "truncated"),
        refused(
            "T-22 DHCPv6, a server's message",
            client6(&[&[7, 1, 2, 3][..], &id].concat()),
            "server_message",
        ),
        refused(
            "P-42 a solicitation with an option of length 0",
            solicit(&[1, 0, 0, 0, 0, 0, 0, 0]),
            "option_length",
        ),
        refused(
            "P-42 a solicitation with an option past the end",
            solicit(&[1, 9, 0, 0, 0, 0, 0, 0]),
            "option_length",
        ),
    ]
}

/// T-22, T-23: who plays a DHCP server.
pub(crate) fn rogues(p: &Parties) -> Vec<Row> {
    let offer = udp(67, 68, &dhcp4(2, p.peer.mac, &[53, 1, 2, 255]));
    let hidden = udp(1067, 68, &dhcp4(2, p.peer.mac, &[53, 1, 2, 255]));
    let all = |payload: &[u8]| {
        ethernet(BROADCAST, p.me.mac, IPV4, &ipv4(p.me.v4, Ipv4Addr::BROADCAST, UDP, PLAIN, payload))
    };
    let reply6 = |source: u16| {
        ethernet(
            p.peer.mac,
            p.me.mac,
            IPV6,
            &ipv6(p.me.link_local(), p.peer.link_local(), (UDP, 64), &udp(source, 546, &[7, 1, 2, 3])),
        )
    };
    let rogue = |name, frame| drop(name, frame, "rogue_service");
    vec![
        rogue("T-22 an offer", p.frame(IPV4, &ipv4(p.me.v4, p.peer.v4, UDP, PLAIN, &offer))),
        rogue("T-22 an offer to all", all(&offer)),
        rogue(
            "T-22 an offer from another port",
            p.frame(IPV4, &ipv4(p.me.v4, p.peer.v4, UDP, PLAIN, &hidden)),
        ),
        rogue("T-22 the same to all", all(&hidden)),
        rogue("T-22 an offer in VLAN 0", tagged(&all(&offer), &[(0x8100, 0)])),
        rogue("T-22 DHCPv6", reply6(547)),
        rogue("T-22 DHCPv6 from another port", reply6(1547)),
    ]
}
