//! Addresses outside of all VPCs: NAT gateways and floating IPs, with the uplink's wire in the test's hands.

use crate::frames::{ICMP, TCP, UDP, seal};
use crate::world::{
    SECOND, VPC, World, address, address_v6, allow, gateway_mac, mac, out, out_and_in, subnet_of,
};
use buf::{Frame, Offload, Pool};
use engine::DropReason::{self, *};
use engine::{RxQueue, TxQueue};
use packet::MacAddr;
use packet::checksum::{Sum, pseudo_header};
use packet::tcp::{ACK, SYN};
use ports::loopback::{LoopbackRx, LoopbackTx, loopback};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use switch::{UPLINK, UplinkPlan, Vtep};
use tables::external::{Block, Exit, External, FIRST_PORT, Inside, Mapping, Owner};
use tables::rules::{Direction, Remote, Rule};
use tables::{Endpoint, Location, NextHop, OwnAddress, RouteTable};
use towpath_switch as switch;

const UPLINK_MAC: MacAddr = MacAddr([2, 0, 0, 0, 9, 1]);
const ROUTER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 9, 254]);
const ROUTER: u16 = 4;
const OTHER: u16 = 5;
const SHARED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
/// Of port 0, and of port 3, which has no rules.
const FLOATING: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 51, 100, 20), Ipv4Addr::new(198, 51, 100, 30)];
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 200);

struct Wire {
    world: World,
    inject: LoopbackTx,
    observe: LoopbackRx,
}

/// Port 0 has a floating IP, port 1 the first block of a NAT gateway and 10.0.0.200, on another host, the second; port 2 has none of these; port 3 has a floating IP and no rules.
fn external(block: u16) -> External {
    with_mapping(block, Mapping::Destination)
}

fn with_mapping(block: u16, mapping: Mapping) -> External {
    let ip = |port| IpAddr::V4(address(port));
    let at = |second| Block { address: SHARED.into(), first: FIRST_PORT + second * block, count: block };
    let exit = Exit {
        vpc: VPC,
        network: 0,
        routers: [Some(ROUTER), None],
        floating: [(ip(0), FLOATING[0].into()), (ip(3), FLOATING[1].into())].into(),
        blocks: [(ip(0), at(2)), (ip(1), at(0)), (ELSEWHERE.into(), at(1))].into(),
        mapping,
    };
    let blocks = vec![Some(ip(1)), Some(ELSEWHERE.into()), Some(ip(0))];
    let floating = |port| Owner::Floating(Inside { vpc: VPC, address: ip(port) }, 0);
    External {
        exits: vec![exit],
        owners: [
            (SHARED.into(), Owner::Shared { vpc: VPC, count: block, blocks }),
            (FLOATING[0].into(), floating(0)),
            (FLOATING[1].into(), floating(3)),
        ]
        .into(),
        announced: [SHARED.into(), FLOATING[0].into()].into(),
        inside: [(VPC, vec!["10.0.0.0/16".parse().unwrap()])].into(),
        routers: [(Ipv4Addr::new(198, 51, 100, 1).into(), ROUTER)].into(),
    }
}

impl Wire {
    fn new(rules: [Vec<Rule>; 3]) -> Self {
        let [a, b, c] = rules;
        let mut world = World::new(1, &[(0, Some(a)), (1, Some(b)), (2, Some(c)), (3, None)]);
        let pool = Pool::new(1024);
        let (rx, inject) = loopback(&pool, 256, || {});
        let (observe, tx) = loopback(&pool, 256, || {});
        let control = &mut world.control;
        let own = OwnAddress { address: [192, 0, 2, 1].into(), answered: true };
        let plan = UplinkPlan { mac: UPLINK_MAC, mtu: 1600, addresses: vec![own], gateways: vec![] };
        control.set_uplink(&plan);
        control.attach_rx(UPLINK, 0, Box::new(rx.with_long_heads())).unwrap();
        control.attach_tx(UPLINK, 0, Box::new(tx)).unwrap();
        let source = IpAddr::from([192, 0, 2, 2]);
        control.set_vtep(
            OTHER,
            Vtep { address: source, sources: vec![source], is_host: true, neighbour: ROUTER },
        );
        let routes = [("10.0.0.0/24", NextHop::Subnet(0)), ("10.0.1.0/24", NextHop::Subnet(1))];
        let routes = routes.into_iter().chain(["0.0.0.0/0", "::/0"].map(|all| (all, NextHop::External(0))));
        let routes = routes.map(|(net, hop)| (net.parse().unwrap(), hop));
        control.set_routes(0, Some(RouteTable::build(routes)));
        control.set_external(external(64));
        control.publish();
        control.neighbours().set(ROUTER, Some(ROUTER_MAC));
        let (there, location) = (MacAddr([2, 0, 0, 0, 1, 200]), Location::Remote(OTHER));
        control.place_mac(0, there, location);
        control.place_endpoint(VPC, ELSEWHERE.into(), Endpoint { mac: there, subnet: 0, location });
        world.step();
        Self { world, inject, observe }
    }

    /// Port 0 takes UDP to port 53 from everybody and ping from 203.0.113.0/24 alone, the others nothing; all may send anything.
    fn usual() -> Self {
        let mut first = out_and_in(UDP, 53);
        let remote = Remote::Prefix("203.0.113.0/24".parse().unwrap());
        first.push(Rule { protocol: Some(ICMP), remote, counter: 3, ..allow(Direction::Ingress) });
        Self::new([first, out(), out()])
    }

    fn set(&mut self, external: External) {
        self.world.control.set_external(external);
        self.world.control.publish();
    }

    fn inject(&mut self, frame: &[u8]) {
        assert_eq!(self.inject.send(&[Frame::from_head(frame, Offload::NONE)]).sent, 1);
        self.inject.flush();
        self.world.step();
    }

    /// What left by the uplink since the last call.
    fn left(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        loop {
            let mut burst = buf::Burst::new();
            self.observe.poll(&mut burst);
            if burst.is_empty() {
                return frames;
            }
            frames.extend((0..burst.len()).map(|index| burst.frame(index).unwrap().to_vec()));
            self.observe.complete();
        }
    }

    /// Sends what a port says to somebody outside; how it left.
    fn out(&mut self, port: u16, to: Ipv4Addr, protocol: u8, upper: &[u8]) -> Option<Seen> {
        let macs = [gateway_mac(subnet_of(port)), mac(port)];
        self.world.send_all(port, &[ipv4(macs, [address(port), to], protocol, upper)]);
        let left = self.left();
        assert!(left.len() <= 1);
        left.first().map(|frame| {
            assert_eq!(frame[..12], [ROUTER_MAC.0, UPLINK_MAC.0].concat());
            seen(frame)
        })
    }

    /// What somebody outside says; what the port was given.
    fn back(&mut self, port: u16, addresses: [Ipv4Addr; 2], protocol: u8, upper: &[u8]) -> Option<Seen> {
        self.inject(&ipv4([UPLINK_MAC, ROUTER_MAC], addresses, protocol, upper));
        let got = self.world.receive(port);
        assert!(got.len() <= 1);
        got.first().map(|frame| {
            assert_eq!(frame[..12], [mac(port).0, gateway_mac(subnet_of(port)).0].concat());
            seen(frame)
        })
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.world.dropped(UPLINK.0, reason)
    }
}

/// A frame's addresses, ports (an echo's identifier) and hops, once its checksums are known to be right.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    addresses: [Ipv4Addr; 2],
    ports: [u16; 2],
    ttl: u8,
}

fn seen(frame: &[u8]) -> Seen {
    assert_eq!(*frame, sealed(frame.to_vec()), "checksums");
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let ip = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
    let ports = if frame[23] == ICMP { [word(38), 0] } else { [word(34), word(36)] };
    Seen { addresses: [ip(26), ip(30)], ports, ttl: frame[22] }
}

fn sealed(mut frame: Vec<u8>) -> Vec<u8> {
    seal(&mut frame);
    let headers = packet::parse(&frame, frame.len() as u32).unwrap();
    let at = match frame[23] {
        TCP => 50,
        UDP if frame[40..42] == [0, 0] => return frame,
        UDP => 40,
        _ => 36,
    };
    frame[at..at + 2].fill(0);
    let pseudo = if frame[23] == ICMP { Sum::ZERO } else { pseudo_header(&frame, &headers).unwrap() };
    let sum = pseudo.plus(Sum::of(&frame[34..])).finish();
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn ipv4(macs: [MacAddr; 2], addresses: [Ipv4Addr; 2], protocol: u8, upper: &[u8]) -> Vec<u8> {
    let mut frame = [macs[0].0, macs[1].0].concat();
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((20 + upper.len() as u16).to_be_bytes());
    frame.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
    addresses.iter().for_each(|address| frame.extend(address.octets()));
    frame.extend(upper);
    sealed(frame)
}

fn udp(ports: [u16; 2]) -> Vec<u8> {
    let [from, to] = ports.map(u16::to_be_bytes);
    [&[from, to, [0, 16], [1, 1]].concat()[..], &[7; 8]].concat()
}

fn tcp(ports: [u16; 2], flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    let mut upper = ports.map(u16::to_be_bytes).concat();
    upper.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
    upper.extend([0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    upper
}

fn echo(kind: u8, identifier: u16) -> Vec<u8> {
    let [a, b] = identifier.to_be_bytes();
    vec![kind, 0, 0, 0, a, b, 0, 1, 5, 6, 7, 8]
}

#[test]
fn a_vm_reaches_the_outside_by_its_block_and_answers_come_back() {
    let mut wire = Wire::usual();
    for _ in 0..3 {
        let sent = wire.out(1, OUTSIDE, UDP, &udp([5000, 53])).unwrap();
        let port = sent.ports[0];
        assert!((1024..1088).contains(&port), "{port}");
        assert_eq!(sent, Seen { addresses: [SHARED, OUTSIDE], ports: [port, 53], ttl: 63 });
        let got = wire.back(1, [OUTSIDE, SHARED], UDP, &udp([53, port])).unwrap();
        assert_eq!(got, Seen { addresses: [OUTSIDE, address(1)], ports: [53, 5000], ttl: 63 });
    }
    assert_eq!(wire.world.sessions(), 1);
    let syn = wire.out(1, OUTSIDE, TCP, &tcp([5000, 80], SYN, 100, 0)).unwrap();
    let back = tcp([80, syn.ports[0]], SYN | ACK, 500, 101);
    assert_eq!(wire.back(1, [OUTSIDE, SHARED], TCP, &back).unwrap().ports, [80, 5000]);
    assert!(wire.out(1, OUTSIDE, TCP, &tcp([5000, 80], ACK, 101, 501)).is_some());
    let ping = wire.out(1, OUTSIDE, ICMP, &echo(8, 9)).unwrap();
    assert!((1024..1088).contains(&ping.ports[0]) && ping.addresses[0] == SHARED);
    let got = wire.back(1, [OUTSIDE, SHARED], ICMP, &echo(0, ping.ports[0])).unwrap();
    assert_eq!((got.addresses, got.ports), ([OUTSIDE, address(1)], [9, 0]));
    assert_eq!(wire.world.sessions(), 3);
}

#[test]
fn what_nobody_asked_for_does_not_come_in_by_a_shared_address() {
    let mut wire = Wire::new([out_and_in(UDP, 53), out_and_in(UDP, 53), out()]);
    let port = wire.out(1, OUTSIDE, UDP, &udp([53, 53])).unwrap().ports[0];
    let other = Ipv4Addr::new(203, 0, 113, 8);
    for (what, from, ports) in [
        ("somebody else", other, [53, port]),
        ("from another port", OUTSIDE, [54, port]),
        ("to another of the block", OUTSIDE, [53, port ^ 1]),
        ("to a port below all blocks", OUTSIDE, [53, 80]),
        ("to a block that nobody has", OUTSIDE, [53, 60_000]),
    ] {
        let before = wire.dropped(NatUnknown);
        assert_eq!(wire.back(1, [from, SHARED], UDP, &udp(ports)), None, "{what}");
        assert_eq!(wire.dropped(NatUnknown), before + 1, "{what}");
    }
    assert!(wire.back(1, [OUTSIDE, SHARED], UDP, &udp([53, port])).is_some(), "the answer");
}

#[test]
fn a_floating_ip_is_its_port_in_both_directions() {
    let mut wire = Wire::usual();
    let sent = wire.out(0, OUTSIDE, UDP, &udp([5000, 99])).unwrap();
    assert_eq!(sent, Seen { addresses: [FLOATING[0], OUTSIDE], ports: [5000, 99], ttl: 63 }, "not its block");
    for _ in 0..2 {
        let got = wire.back(0, [OUTSIDE, FLOATING[0]], UDP, &udp([6000, 53])).unwrap();
        assert_eq!(got, Seen { addresses: [OUTSIDE, address(0)], ports: [6000, 53], ttl: 63 });
        let sent = wire.out(0, OUTSIDE, UDP, &udp([53, 6000])).unwrap();
        assert_eq!(sent, Seen { addresses: [FLOATING[0], OUTSIDE], ports: [53, 6000], ttl: 63 });
    }
    assert_eq!(wire.world.sessions(), 2);
    assert_eq!(wire.back(0, [OUTSIDE, FLOATING[0]], UDP, &udp([6000, 54])), None, "no rule");
    assert_eq!(wire.dropped(PolicyDenied), 1);
}

#[test]
fn rules_judge_who_comes_in_by_a_floating_ip_as_it_is() {
    let mut wire = Wire::usual();
    let stranger = Ipv4Addr::new(192, 0, 2, 200);
    assert!(wire.back(0, [OUTSIDE, FLOATING[0]], ICMP, &echo(8, 7)).is_some());
    assert_eq!(wire.out(0, OUTSIDE, ICMP, &echo(0, 7)).unwrap().addresses, [FLOATING[0], OUTSIDE]);
    assert_eq!(wire.back(0, [stranger, FLOATING[0]], ICMP, &echo(8, 7)), None);
    assert_eq!(wire.dropped(PolicyDenied), 1);
    // Nobody outside is inside.
    assert_eq!(wire.back(0, [address(1), FLOATING[0]], UDP, &udp([6000, 53])), None);
    assert_eq!(wire.back(0, [Ipv4Addr::new(10, 0, 77, 1), FLOATING[0]], UDP, &udp([6000, 53])), None);
    assert_eq!(wire.dropped(BogusSource), 2);
}

#[test]
fn who_has_no_address_outside_is_refused_by_name() {
    let mut wire = Wire::usual();
    assert_eq!(wire.out(2, OUTSIDE, UDP, &udp([5000, 53])), None);
    assert_eq!(wire.world.dropped(2, NoExternalAddress), 1);
    assert_eq!(wire.out(3, OUTSIDE, UDP, &udp([5000, 53])), None);
    assert_eq!(wire.world.dropped(3, NatUnfiltered), 1);
    assert_eq!(wire.back(3, [OUTSIDE, FLOATING[1]], UDP, &udp([6000, 53])), None);
    assert_eq!(wire.dropped(NatUnfiltered), 1);
    assert_eq!(wire.world.sessions(), 0);
}

#[test]
fn a_block_is_used_again_for_other_destinations_and_ends_by_name() {
    let mut wire = Wire::usual();
    let mut ports: Vec<u16> = (0..64)
        .map(|port| wire.out(1, OUTSIDE, UDP, &udp([4096 + 64 * port, 53])).unwrap().ports[0])
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, (1024..1088).collect::<Vec<u16>>(), "each once");
    assert_eq!(wire.out(1, OUTSIDE, UDP, &udp([9999, 53])), None);
    assert_eq!(wire.world.dropped(1, NatExhausted), 1);
    assert!(wire.out(1, OUTSIDE, UDP, &udp([9999, 54])).is_some(), "to another port");
    assert!(wire.out(1, OUTSIDE, UDP, &udp([4096, 53])).is_some(), "who has one keeps it");
}

#[test]
fn a_port_stays_odd_or_even_and_goes_to_others_while_any_of_its_kind_is_free() {
    let mut wire = Wire::usual();
    for own in [4096, 4097, 4096 + 64, 4097 + 64] {
        let port = wire.out(1, OUTSIDE, UDP, &udp([own, 53])).unwrap().ports[0];
        assert_eq!((port ^ own) & 1, 0, "{own} became {port}");
    }
    // An odd number of ports, all of them.
    wire.set(external(33));
    let ports = (0..33).map(|at| wire.out(1, OUTSIDE, UDP, &udp([5000 + 2 * at, 99])).unwrap().ports[0]);
    let ports: std::collections::BTreeSet<u16> = ports.collect();
    assert_eq!(ports.into_iter().collect::<Vec<_>>(), (1024..1057).collect::<Vec<_>>());
    assert_eq!(wire.out(1, OUTSIDE, UDP, &udp([6000, 99])), None);
    assert_eq!(wire.world.dropped(1, NatExhausted), 1);
}

#[test]
fn one_port_may_stand_for_a_senders_whatever_it_talks_to() {
    let mut wire = Wire::new([out(), out_and_in(UDP, 5000), out()]);
    wire.set(with_mapping(64, Mapping::EndpointIndependent));
    let other = Ipv4Addr::new(203, 0, 113, 8);
    let port = wire.out(1, OUTSIDE, UDP, &udp([5000, 53])).unwrap().ports[0];
    assert_eq!(wire.out(1, other, UDP, &udp([5000, 99])).unwrap().ports, [port, 99]);
    assert_ne!(wire.out(1, other, UDP, &udp([5064, 99])).unwrap().ports[0], port, "another's");
    assert_eq!(wire.out(1, OUTSIDE, TCP, &tcp([5000, 80], SYN, 1, 0)).unwrap().ports[0] & 1, port & 1);
    assert!(wire.back(1, [OUTSIDE, SHARED], UDP, &udp([53, port])).is_some(), "an answer");
    // Whoever sends there reaches it, if its rules let him.
    let stranger = Ipv4Addr::new(192, 0, 2, 200);
    for _ in 0..2 {
        let got = wire.back(1, [stranger, SHARED], UDP, &udp([77, port])).unwrap();
        assert_eq!((got.addresses, got.ports), ([stranger, address(1)], [77, 5000]));
        let sent = wire.out(1, stranger, UDP, &udp([5000, 77])).unwrap();
        assert_eq!((sent.addresses, sent.ports), ([SHARED, stranger], [port, 77]));
    }
    let denied = wire.out(1, OUTSIDE, UDP, &udp([6001, 53])).unwrap().ports[0];
    assert_eq!(wire.back(1, [stranger, SHARED], UDP, &udp([77, denied])), None);
    assert_eq!(wire.dropped(PolicyDenied), 1, "only port 5000 is open");
    assert_eq!(wire.back(1, [stranger, SHARED], UDP, &udp([77, port ^ 32])), None);
    assert_eq!(wire.dropped(NatUnknown), 1, "stands for nobody");
    // All of a block may stand for somebody, and no more.
    let more = (0..64).filter(|at| wire.out(1, other, UDP, &udp([7000 + at, 7])).is_some()).count();
    assert_eq!((more, wire.world.dropped(1, NatExhausted)), (64 - 3, 3));
}

#[test]
fn neighbours_meet_by_their_external_ports_where_these_stand_for_whoever_sends() {
    for mapping in [Mapping::Destination, Mapping::EndpointIndependent] {
        let mut wire = Wire::new([out_and_in(UDP, 5000), out_and_in(UDP, 5000), out()]);
        let mut tables = with_mapping(64, mapping);
        tables.exits[0].floating.clear();
        tables.owners.remove(&IpAddr::V4(FLOATING[0]));
        wire.set(tables);
        let port = wire.out(1, OUTSIDE, UDP, &udp([5000, 53])).unwrap().ports[0];
        let frame = ipv4([gateway_mac(0), mac(0)], [address(0), SHARED], UDP, &udp([5000, port]));
        wire.world.send_all(0, &[frame]);
        let got: Vec<Seen> = wire.world.receive(1).iter().map(|frame| seen(frame)).collect();
        if mapping == Mapping::Destination {
            assert_eq!((got.len(), wire.world.dropped(0, NatUnknown)), (0, 1));
            continue;
        }
        assert_eq!((got[0].addresses, got[0].ports[1]), ([SHARED, address(1)], 5000));
        let back = udp([5000, got[0].ports[0]]);
        wire.world.send_all(1, &[ipv4([gateway_mac(0), mac(1)], [address(1), SHARED], UDP, &back)]);
        let got: Vec<Seen> = wire.world.receive(0).iter().map(|frame| seen(frame)).collect();
        assert_eq!((got[0].addresses, got[0].ports), ([SHARED, address(0)], [port, 5000]));
        // And itself.
        let frame = ipv4([gateway_mac(0), mac(1)], [address(1), SHARED], UDP, &udp([6000, port]));
        wire.world.send_all(1, &[frame]);
        let got: Vec<Seen> = wire.world.receive(1).iter().map(|frame| seen(frame)).collect();
        assert_eq!((got[0].addresses, got[0].ports[1]), ([SHARED, address(1)], 5000));
    }
}

#[test]
fn a_port_reaches_itself_by_its_floating_ip() {
    let mut wire = Wire::usual();
    for _ in 0..2 {
        let frame = |upper: &[u8]| ipv4([gateway_mac(0), mac(0)], [address(0), FLOATING[0]], UDP, upper);
        wire.world.send_all(0, &[frame(&udp([5000, 53]))]);
        let got: Vec<Seen> = wire.world.receive(0).iter().map(|frame| seen(frame)).collect();
        assert_eq!((got[0].addresses, got[0].ports), ([FLOATING[0], address(0)], [5000, 53]));
        wire.world.send_all(0, &[frame(&udp([53, 5000]))]);
        let got: Vec<Seen> = wire.world.receive(0).iter().map(|frame| seen(frame)).collect();
        assert_eq!((got[0].addresses, got[0].ports), ([FLOATING[0], address(0)], [53, 5000]));
    }
    assert_eq!((wire.world.sessions(), wire.left().len()), (1, 0));
    // S-08: what it sends to itself again and again loses a hop each time.
    let mut frame = ipv4([gateway_mac(0), mac(0)], [address(0), FLOATING[0]], UDP, &udp([5001, 53]));
    for ttl in (1..64).rev() {
        wire.world.send_all(0, &[std::mem::take(&mut frame)]);
        frame = wire.world.receive(0).remove(0);
        assert_eq!(seen(&frame).ttl, ttl);
        let back = [
            &gateway_mac(0).0[..],
            &mac(0).0,
            &frame[12..26],
            &frame[30..34],
            &frame[26..30],
            &frame[36..38],
            &frame[34..36],
            &frame[38..],
        ]
        .concat();
        frame = back;
    }
    wire.world.send_all(0, &[frame]);
    assert_eq!(wire.world.receive(0)[0][34..36], [11, 0], "time exceeded");
}

#[test]
fn who_is_outside_hears_that_a_packet_is_too_long_or_took_too_many_hops() {
    let mut wire = Wire::usual();
    let long = [&udp([6000, 53])[..4], &[5, 220, 0, 0], &[7; 1492]].concat();
    wire.inject(&ipv4([UPLINK_MAC, ROUTER_MAC], [OUTSIDE, FLOATING[0]], UDP, &long));
    let left = wire.left();
    assert_eq!(left[0][..12], [ROUTER_MAC.0, UPLINK_MAC.0].concat());
    assert_eq!(seen(&left[0]).addresses, [FLOATING[0], OUTSIDE]);
    assert_eq!(left[0][34..36], [3, 4]);
    assert_eq!(left[0][40..42], 1450u16.to_be_bytes());
    assert_eq!(left[0][42 + 12..42 + 20], [OUTSIDE.octets(), FLOATING[0].octets()].concat());
    let mut late = ipv4([UPLINK_MAC, ROUTER_MAC], [OUTSIDE, FLOATING[0]], UDP, &udp([6000, 53]));
    late[22] = 1;
    wire.inject(&sealed(late.clone()));
    assert_eq!(wire.left()[0][34..36], [11, 0]);
    // Not about errors, and not about what is for nobody.
    let error = [&[3, 1, 0, 0, 0, 0, 0, 0][..], &late[14..42]].concat();
    let mut about = ipv4([UPLINK_MAC, ROUTER_MAC], [OUTSIDE, FLOATING[0]], ICMP, &error);
    about[22] = 1;
    wire.inject(&sealed(about));
    late[33] = SHARED.octets()[3];
    wire.inject(&sealed(late));
    assert_eq!((wire.left().len(), wire.dropped(HopLimit), wire.dropped(NatUnknown)), (0, 1, 1));
    assert!(wire.world.receive(0).is_empty());
}

#[test]
fn a_neighbour_hears_that_what_it_sent_to_a_floating_ip_on_another_host_is_too_long() {
    let mut wire = Wire::usual();
    let mut tables = external(64);
    let elsewhere = Inside { vpc: VPC, address: ELSEWHERE.into() };
    tables.owners.insert(FLOATING[1].into(), Owner::Floating(elsewhere, 0));
    wire.set(tables);
    let macs = [gateway_mac(0), mac(1)];
    wire.world.send_all(1, &[ipv4(macs, [address(1), FLOATING[1]], UDP, &udp([5000, 53]))]);
    let left = wire.left();
    let sent = seen(&left[0][50..]);
    assert_eq!(sent.addresses, [SHARED, FLOATING[1]], "{left:?}");
    // The first and the later packets of a session alike.
    for port in [5000, 5001] {
        let long = [&udp([port, 53])[..4], &[5, 220, 0, 0], &[7; 1492]].concat();
        wire.world.send_all(1, &[ipv4(macs, [address(1), FLOATING[1]], UDP, &long)]);
        let told = wire.world.receive(1);
        assert_eq!(seen(&told[0]).addresses[1], address(1), "who sent it");
        assert_eq!((&told[0][34..36], &told[0][40..42]), (&[3, 4][..], &1450u16.to_be_bytes()[..]));
        let inner = &told[0][42..];
        let ports = [port.to_be_bytes(), 53u16.to_be_bytes()].concat();
        assert_eq!(inner[12..24], [&address(1).octets()[..], &FLOATING[1].octets(), &ports].concat());
        assert!(wire.left().is_empty());
    }
}

#[test]
fn what_is_for_a_group_or_for_nobody_does_not_leave() {
    let mut wire = Wire::usual();
    for to in [[224, 0, 0, 9], [169, 254, 7, 7], [127, 0, 0, 1], [0, 0, 0, 7], [240, 0, 0, 1]] {
        assert_eq!(wire.out(1, to.into(), UDP, &udp([5000, 53])), None, "{to:?}");
    }
    assert_eq!(wire.world.sessions(), 0);
}

#[test]
fn an_answer_for_another_host_is_tunnelled_there_as_it_is() {
    let mut wire = Wire::usual();
    let packet = ipv4([UPLINK_MAC, ROUTER_MAC], [OUTSIDE, SHARED], UDP, &udp([53, 1024 + 64 + 3]));
    wire.inject(&packet);
    let left = wire.left();
    assert_eq!(wire.world.control.counters(UPLINK).unwrap().drops, []);
    assert_eq!(left.len(), 1);
    let inner = &left[0][50..];
    assert_eq!(left[0][46..49], [0, 0, 7], "the VPC's number");
    assert_eq!(inner[..6], [2, 0, 0, 0, 1, 200]);
    assert_eq!(seen(inner).addresses, [OUTSIDE, SHARED], "untranslated");
}

#[test]
fn an_answer_that_another_host_received_finds_its_session() {
    let mut wire = Wire::usual();
    let port = wire.out(1, OUTSIDE, UDP, &udp([5000, 53])).unwrap().ports[0];
    let inner = ipv4([mac(1), gateway_mac(0)], [OUTSIDE, SHARED], UDP, &udp([53, port]));
    let outer =
        packet::vxlan::Outer::new(ROUTER_MAC, [192, 0, 2, 2].into(), [192, 0, 2, 1].into(), 64).unwrap();
    let per = packet::vxlan::PerPacket {
        destination_mac: UPLINK_MAC,
        vni: 7,
        policy: 0,
        source_port: 50_000,
        traffic_class: 0,
        inner_length: inner.len(),
    };
    let mut frame = Vec::new();
    outer.append(&mut frame, &per);
    frame.extend(&inner);
    seal(&mut frame);
    wire.inject(&frame);
    let got: Vec<Seen> = wire.world.receive(1).iter().map(|frame| seen(frame)).collect();
    assert_eq!(got, [Seen { addresses: [OUTSIDE, address(1)], ports: [53, 5000], ttl: 64 }]);
}

#[test]
fn errors_about_translated_packets_speak_of_what_their_receivers_know() {
    let mut wire = Wire::usual();
    let sent = wire.out(1, OUTSIDE, UDP, &udp([5000, 53])).unwrap();
    let router = Ipv4Addr::new(198, 51, 100, 1);
    let quoted = ipv4([mac(0); 2], [SHARED, OUTSIDE], UDP, &udp([sent.ports[0], 53]));
    let error = [&[3, 1, 0, 0, 0, 0, 0, 0][..], &quoted[14..42]].concat();
    wire.inject(&ipv4([UPLINK_MAC, ROUTER_MAC], [router, SHARED], ICMP, &error));
    let got = wire.world.receive(1);
    assert_eq!(seen(&got[0]).addresses, [router, address(1)]);
    let inner = &got[0][42..];
    assert!(Sum::of(&inner[..20]).is_right());
    assert_eq!(inner[12..24], [&address(1).octets()[..], &OUTSIDE.octets(), &[19, 136, 0, 53]].concat());
    // And the other way: a port that nobody listens at says so.
    assert!(wire.back(0, [OUTSIDE, FLOATING[0]], UDP, &udp([6000, 53])).is_some());
    let quoted = ipv4([mac(0); 2], [OUTSIDE, address(0)], UDP, &udp([6000, 53]));
    let error = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &quoted[14..42]].concat();
    let left = wire.out(0, OUTSIDE, ICMP, &error).unwrap();
    assert_eq!(left.addresses, [FLOATING[0], OUTSIDE]);
    // About nothing that was sent.
    let quoted = ipv4([mac(0); 2], [SHARED, OUTSIDE], UDP, &udp([1025, 53]));
    let error = [&[3, 1, 0, 0, 0, 0, 0, 0][..], &quoted[14..42]].concat();
    wire.inject(&ipv4([UPLINK_MAC, ROUTER_MAC], [router, SHARED], ICMP, &error));
    assert!(wire.world.receive(1).is_empty() && wire.dropped(IcmpUnrelated) == 1);
}

#[test]
fn a_vm_reaches_another_by_its_floating_ip() {
    let mut wire = Wire::usual();
    let send = |wire: &mut Wire, from: u16, to_addr, to: u16, upper: &[u8]| {
        let frame = ipv4([gateway_mac(0), mac(from)], [address(from), to_addr], UDP, upper);
        wire.world.send_all(from, &[frame]);
        wire.world.receive(to).first().map(|frame| seen(frame))
    };
    for _ in 0..2 {
        let got = send(&mut wire, 1, FLOATING[0], 0, &udp([5000, 53])).unwrap();
        assert_eq!((got.addresses, got.ports[1]), ([SHARED, address(0)], 53));
        let back = send(&mut wire, 0, SHARED, 1, &udp([53, got.ports[0]])).unwrap();
        assert_eq!((back.addresses, back.ports), ([FLOATING[0], address(1)], [53, 5000]));
    }
    assert_eq!((wire.world.sessions(), wire.left().len()), (1, 0));
}

#[test]
fn what_is_taken_away_ends_its_sessions() {
    let mut wire = Wire::usual();
    assert!(wire.back(0, [OUTSIDE, FLOATING[0]], UDP, &udp([6000, 53])).is_some());
    let port = wire.out(1, OUTSIDE, UDP, &udp([5000, 53])).unwrap().ports[0];
    let mut other = external(64);
    other.exits[0].floating.clear();
    other.owners.remove(&IpAddr::V4(FLOATING[0]));
    wire.world.control.set_external(other);
    wire.world.control.publish();
    assert_eq!(wire.back(0, [OUTSIDE, FLOATING[0]], UDP, &udp([6000, 53])), None);
    let sent = wire.out(0, OUTSIDE, UDP, &udp([53, 6000])).unwrap();
    assert_eq!(sent.addresses[0], SHARED, "by its block now");
    assert!(wire.back(1, [OUTSIDE, SHARED], UDP, &udp([53, port])).is_some(), "what stays stays");
    // Blocks of another size are others' blocks.
    wire.world.control.set_external(external(32));
    wire.world.control.publish();
    let again = wire.out(1, OUTSIDE, UDP, &udp([5000, 53])).unwrap().ports[0];
    assert!((1024..1056).contains(&again));
}

/// A datagram of 24 bytes with its checksum, in two fragments.
fn in_fragments(macs: [MacAddr; 2], addresses: [Ipv4Addr; 2], id: u8, ports: [u16; 2]) -> [Vec<u8>; 2] {
    let upper = [&udp(ports)[..4], &[0, 24, 1, 1], &[id; 16]].concat();
    let whole = ipv4(macs, addresses, UDP, &upper);
    let piece = |more: u8, at: u8, upper: &[u8]| {
        let mut frame = [
            &whole[..16],
            &(20 + upper.len() as u16).to_be_bytes(),
            &[0, id, more, at],
            &whole[22..34],
            upper,
        ]
        .concat();
        seal(&mut frame);
        frame
    };
    [piece(0x20, 0, &whole[34..50]), piece(0, 2, &whole[50..58])]
}

/// What both become once they are one again, and their identification.
fn together(frames: &[Vec<u8>]) -> (Seen, u8) {
    assert_eq!(frames.len(), 2);
    let (first, later) = (&frames[0], &frames[1]);
    assert_eq!((&first[20..22], &later[20..22], first[19]), (&[0x20, 0][..], &[0, 2][..], later[19]));
    assert_eq!((&first[22..24], &first[26..34]), (&later[22..24], &later[26..34]));
    for frame in frames {
        assert!(Sum::of(&frame[14..34]).is_right());
    }
    let upper = [&first[34..], &later[34..]].concat();
    let mut whole =
        [&first[..16], &(20 + upper.len() as u16).to_be_bytes(), &[0, 1, 0, 0], &first[22..34], &upper]
            .concat();
    seal(&mut whole);
    (seen(&whole), first[19])
}

#[test]
fn fragments_become_what_their_first_became_both_ways() {
    let mut wire = Wire::usual();
    // The first of all, then one of a session.
    for id in [7, 8] {
        for (port, shown) in [(0, FLOATING[0]), (1, SHARED)] {
            let macs = [gateway_mac(0), mac(port)];
            wire.world.send_all(port, &in_fragments(macs, [address(port), OUTSIDE], id, [5000, 53]));
            let (left, same) = together(&wire.left());
            assert_eq!((left.addresses, left.ports[1], left.ttl, same), ([shown, OUTSIDE], 53, 63, id));
            let answer = in_fragments([UPLINK_MAC, ROUTER_MAC], [OUTSIDE, shown], id, [53, left.ports[0]]);
            answer.iter().for_each(|frame| wire.inject(frame));
            let (got, same) = together(&wire.world.receive(port));
            assert_eq!(
                (got.addresses, got.ports, got.ttl, same),
                ([OUTSIDE, address(port)], [53, 5000], 63, id)
            );
        }
    }
    // In one burst too, and the other way round not at all.
    let macs = [gateway_mac(0), mac(1)];
    let [first, later] = in_fragments(macs, [address(1), OUTSIDE], 9, [5001, 53]);
    wire.world.send_all(1, &[later.clone(), first, later]);
    assert_eq!(together(&wire.left()).1, 9);
    assert_eq!(wire.world.dropped(1, FragmentUnknown), 1);
    let [_, later] = in_fragments([UPLINK_MAC, ROUTER_MAC], [OUTSIDE, SHARED], 10, [53, 1024]);
    wire.inject(&later);
    let [_, later] = in_fragments([UPLINK_MAC, ROUTER_MAC], [OUTSIDE, FLOATING[0]], 10, [53, 1024]);
    wire.inject(&later);
    assert_eq!(wire.dropped(FragmentUnknown), 2);
}

#[test]
fn fragments_of_an_answer_for_another_host_are_tunnelled_there_together() {
    let mut wire = Wire::usual();
    let answer = in_fragments([UPLINK_MAC, ROUTER_MAC], [OUTSIDE, SHARED], 7, [53, 1024 + 64 + 3]);
    answer.iter().for_each(|frame| wire.inject(frame));
    let inner: Vec<Vec<u8>> = wire.left().iter().map(|frame| frame[50..].to_vec()).collect();
    assert_eq!(together(&inner).0.addresses, [OUTSIDE, SHARED]);
}

#[test]
fn fragments_end_with_what_translated_their_first() {
    let mut wire = Wire::usual();
    let macs = [gateway_mac(0), mac(0)];
    let [first, later] = in_fragments(macs, [address(0), OUTSIDE], 7, [5000, 53]);
    wire.world.send_all(0, &[first]);
    assert_eq!(wire.left().len(), 1);
    let mut other = external(64);
    other.exits[0].floating.clear();
    other.owners.remove(&IpAddr::V4(FLOATING[0]));
    wire.set(other);
    wire.world.send_all(0, &[later]);
    assert_eq!((wire.left().len(), wire.world.dropped(0, FragmentUnknown)), (0, 1));
}

fn ipv6(macs: [MacAddr; 2], addresses: [Ipv6Addr; 2], next: u8, upper: &[u8]) -> Vec<u8> {
    let mut frame = [macs[0].0, macs[1].0].concat();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((upper.len() as u16).to_be_bytes());
    frame.extend([next, 64]);
    addresses.iter().for_each(|address| frame.extend(address.octets()));
    frame.extend(upper);
    sealed_v6(frame)
}

/// With its transport checksum right: UDP's or ICMPv6's.
fn sealed_v6(mut frame: Vec<u8>) -> Vec<u8> {
    let at = if frame[20] == UDP { 60 } else { 56 };
    frame[at..at + 2].fill(0);
    let headers = packet::parse(&frame, frame.len() as u32).unwrap();
    let sum = pseudo_header(&frame, &headers).unwrap().plus(Sum::of(&frame[54..])).finish();
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn a_floating_ip_of_ipv6_is_its_port_in_both_directions() {
    let floating: Ipv6Addr = "2001:db8:51::20".parse().unwrap();
    let outside: Ipv6Addr = "2001:db8:113::7".parse().unwrap();
    let mut wire = Wire::usual();
    let mut tables = external(64);
    let inside = Inside { vpc: VPC, address: address_v6(0).into() };
    tables.exits[0].routers[1] = Some(ROUTER);
    tables.exits[0].floating.insert(inside.address, floating.into());
    tables.owners.insert(floating.into(), Owner::Floating(inside, 0));
    wire.set(tables);
    let here = Endpoint { mac: mac(0), subnet: 0, location: Location::Local(0) };
    wire.world.control.place_endpoint(VPC, inside.address, here);
    let to_gateway = [gateway_mac(0), mac(0)];
    let right = |frame: &[u8]| assert_eq!(*frame, sealed_v6(frame.to_vec()), "checksums");
    let between = |frame: &[u8], from: Ipv6Addr, to: Ipv6Addr| {
        assert_eq!(frame[22..54], [from.octets(), to.octets()].concat());
        right(frame);
    };
    for _ in 0..2 {
        wire.world.send_all(0, &[ipv6(to_gateway, [address_v6(0), outside], UDP, &udp([5000, 99]))]);
        between(&wire.left()[0], floating, outside);
        wire.inject(&ipv6([UPLINK_MAC, ROUTER_MAC], [outside, floating], UDP, &udp([99, 5000])));
        between(&wire.world.receive(0)[0], outside, address_v6(0));
    }
    // Asked for from outside; and an error about the answer.
    wire.inject(&ipv6([UPLINK_MAC, ROUTER_MAC], [outside, floating], UDP, &udp([6000, 53])));
    between(&wire.world.receive(0)[0], outside, address_v6(0));
    let answer = ipv6(to_gateway, [address_v6(0), outside], UDP, &udp([53, 6000]));
    wire.world.send_all(0, &[answer]);
    let left = wire.left().remove(0);
    between(&left, floating, outside);
    let too_big = [&[2, 0, 0, 0, 0, 0, 5, 0][..], &left[14..]].concat();
    wire.inject(&ipv6([UPLINK_MAC, ROUTER_MAC], [outside, floating], 58, &too_big));
    let told = wire.world.receive(0).remove(0);
    between(&told, outside, address_v6(0));
    assert_eq!(told[62 + 8..62 + 40], [address_v6(0).octets(), outside.octets()].concat(), "what it sent");
    // What is too long for the VPC is answered outside.
    let long = [&udp([6000, 53])[..4], &[5, 180, 0, 0], &[7; 1452]].concat();
    wire.inject(&ipv6([UPLINK_MAC, ROUTER_MAC], [outside, floating], UDP, &long));
    let told = wire.left().remove(0);
    assert_eq!((told[54], &told[58..62]), (2, &1450u32.to_be_bytes()[..]));
    between(&told, floating, outside);
    assert_eq!(wire.world.sessions(), 2);
}

#[test]
fn arp_for_external_addresses_is_answered_by_who_announces_them() {
    let mut wire = Wire::usual();
    let mut ask = |target: Ipv4Addr| {
        let mut frame = [[0xff; 6], ROUTER_MAC.0].concat();
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend(ROUTER_MAC.0);
        frame.extend([198, 51, 100, 77, 0, 0, 0, 0, 0, 0]);
        frame.extend(target.octets());
        wire.inject(&frame);
        wire.left()
    };
    let answers = ask(SHARED);
    assert_eq!((&answers[0][..6], &answers[0][22..28]), (&ROUTER_MAC.0[..], &UPLINK_MAC.0[..]));
    assert_eq!((ask(FLOATING[0]).len(), ask(FLOATING[1]).len()), (1, 0));
}

#[test]
fn packets_wait_for_the_router() {
    let mut wire = Wire::usual();
    wire.world.control.neighbours().set(ROUTER, None);
    assert_eq!(wire.out(1, OUTSIDE, UDP, &udp([5000, 53])), None);
    assert_eq!(wire.world.control.exceptions().wanted.pop(), Some(ROUTER));
    wire.world.control.neighbours().set(ROUTER, Some(ROUTER_MAC));
    wire.world.now += SECOND / 100;
    wire.world.step();
    let left = wire.left();
    assert_eq!(left[0][..12], [ROUTER_MAC.0, UPLINK_MAC.0].concat());
    assert_eq!(seen(&left[0]).addresses, [SHARED, OUTSIDE]);
}
