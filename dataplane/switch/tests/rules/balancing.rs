//! Addresses that stand for many: which target takes a connection, what both ends see of it, and what becomes of it when targets come and go.

use crate::frames::{ICMP, TCP, UDP, complete, icmp, seal, tcp, udp};
use crate::world::{VPC, World, address, allow, gateway_mac, mac, out, out_and_in, subnet_of};
use engine::DropReason::{self, NoListener, NoTarget, PolicyDenied};
use engine::PortIndex;
use packet::MacAddr;
use packet::tcp::{ACK, SYN};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tables::balancers::{Affinity, BalancerPlan, Listener, Target, WhenAllDown};
use tables::rules::{Direction, Remote, Rule};
use tables::{Endpoint, Location, NextHop, PortProfile, RouteTable};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 100, 1);

fn plan(targets: &[(u16, u16)]) -> BalancerPlan {
    let listener = |protocol| Listener { protocol, port: 80, target_port: 8080 };
    let target = |(port, weight): &(u16, u16)| Target {
        address: IpAddr::V4(address(*port)),
        weight: *weight,
        up: true,
    };
    BalancerPlan {
        listeners: vec![listener(TCP), listener(UDP)],
        targets: targets.iter().map(target).collect(),
        ..BalancerPlan::default()
    }
}

fn balance(world: &mut World, plan: BalancerPlan) {
    world.control.set_balancer(VPC, VIP.into(), Some(plan));
}

/// Port 0 asks, the others are asked.
fn world(workers: usize, targets: &[(u16, u16)]) -> World {
    let mut ports = vec![(0, Some(out()))];
    ports.extend(targets.iter().map(|(port, _)| (*port, Some(out_and_in(TCP, 8080)))));
    let mut world = World::new(workers, &ports);
    balance(&mut world, plan(targets));
    world
}

/// With other addresses; checksums right.
fn between(frame: &[u8], source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[26..30].copy_from_slice(&source.octets());
    frame[30..34].copy_from_slice(&destination.octets());
    complete(frame)
}

/// To the shared address, by the gateway.
fn ask(from: u16, frame: &[u8]) -> Vec<u8> {
    let mut frame = between(frame, address(from), VIP);
    frame[..6].copy_from_slice(&gateway_mac(subnet_of(from)).0);
    frame
}

fn syn(from: u16, source_port: u16) -> Vec<u8> {
    ask(from, &tcp(from, from, [source_port, 80], (SYN, 100, 0), 0))
}

fn ack(from: u16, source_port: u16) -> Vec<u8> {
    ask(from, &tcp(from, from, [source_port, 80], (ACK, 101, 501), 8))
}

/// As it comes to `to` when the gateway has sent it on.
fn routed(frame: &[u8], to: u16) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[..12].copy_from_slice(&[mac(to).0, gateway_mac(subnet_of(to)).0].concat());
    frame[22] -= 1;
    seal(&mut frame);
    frame
}

fn with_port(frame: &[u8], at: usize, port: u16) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[34 + at..36 + at].copy_from_slice(&port.to_be_bytes());
    complete(frame)
}

/// What the target `to` gets of what was sent to the shared address.
fn at_target(frame: &[u8], from: u16, to: u16) -> Vec<u8> {
    routed(&with_port(&between(frame, address(from), address(to)), 2, 8080), to)
}

/// The one of `ports` that was given a frame, and it.
fn taker(world: &mut World, ports: &[u16]) -> Option<(u16, Vec<u8>)> {
    let mut got = ports.iter().flat_map(|port| world.receive(*port).into_iter().map(|frame| (*port, frame)));
    let first = got.next();
    assert_eq!(got.collect::<Vec<_>>(), [], "one frame is for one target");
    first
}

/// Sends a first packet, answers it, and acknowledges that; who took it.
fn connect(world: &mut World, from: u16, source_port: u16, targets: &[u16]) -> u16 {
    world.send_all(from, &[syn(from, source_port)]);
    let (to, got) = taker(world, targets).unwrap();
    assert_eq!(got, at_target(&syn(from, source_port), from, to));
    let answer = complete(tcp(to, from, [8080, source_port], (SYN | ACK, 500, 101), 0));
    world.send_all(to, std::slice::from_ref(&answer));
    let expected = with_port(&between(&answer, VIP, address(from)), 0, 80);
    let expected = if subnet_of(from) == subnet_of(to) { expected } else { routed(&expected, from) };
    assert_eq!(world.receive(from), [expected], "the answer comes from whom was asked");
    world.send_all(from, &[ack(from, source_port)]);
    assert_eq!(taker(world, targets), Some((to, at_target(&ack(from, source_port), from, to))));
    to
}

#[test]
fn both_ends_see_what_they_asked_for() {
    for targets in [[(1, 1)], [(8, 1)]] {
        for workers in [1, 2] {
            let mut world = world(workers, &targets);
            for source_port in 1000..1005 {
                connect(&mut world, 0, source_port, &[targets[0].0]);
            }
            assert_eq!(world.sessions(), 5);
        }
    }
}

#[test]
fn a_thousand_connections_spread_by_weight_and_are_counted() {
    let mut world = world(1, &[(1, 1), (8, 2)]);
    let mut taken = BTreeMap::new();
    for source_port in 0..1000 {
        world.now += 1_000_000_000;
        world.send_all(0, &[syn(0, 10_000 + source_port)]);
        let (to, _) = taker(&mut world, &[1, 8]).unwrap();
        *taken.entry(to).or_insert(0u64) += 1;
    }
    let balancers = world.control.balancers();
    let balancer = balancers.get(VPC, VIP.into()).unwrap();
    assert_eq!([1, 8].map(|port| balancer.connections(address(port).into())), [taken[&1], taken[&8]]);
    // Binomial, 1000 draws of 1/3: 5 standard deviations are 75.
    assert!((258..=408).contains(&taken[&1]), "{taken:?}");
}

#[test]
fn without_one_target_the_others_keep_their_connections() {
    let all = [(1, 1), (2, 1), (8, 1)];
    let ports = all.map(|(port, _)| port);
    for down in [false, true] {
        let mut world = world(1, &all);
        let taken: Vec<(u16, u16)> =
            (0..120).map(|number| (number, connect(&mut world, 0, 2000 + number, &ports))).collect();
        let mut less = plan(&all);
        match down {
            true => less
                .targets
                .iter_mut()
                .filter(|target| target.address == address(2))
                .for_each(|target| target.up = false),
            false => less.targets.retain(|target| target.address != address(2)),
        }
        balance(&mut world, less);
        for (number, before) in &taken {
            world.send_all(0, &[ack(0, 2000 + number)]);
            let (to, got) = taker(&mut world, &ports).unwrap();
            assert_eq!(got, at_target(&ack(0, 2000 + number), 0, to));
            assert!(if *before == 2 { to != 2 } else { to == *before }, "from {before} to {to}");
        }
        assert!(ports.iter().all(|port| taken.iter().any(|(_, taker)| taker == port)), "each had some");
        // And the answers of those that stay.
        let (number, to) = taken.iter().find(|(_, to)| *to != 2).unwrap();
        world.send_all(*to, &[complete(tcp(*to, 0, [8080, 2000 + number], (ACK, 501, 109), 4))]);
        assert_eq!(world.receive(0)[0][26..30], VIP.octets());
    }
}

#[test]
fn a_connection_stays_when_targets_come_and_when_other_things_change() {
    let mut world = world(1, &[(1, 1), (2, 1)]);
    balance(&mut world, plan(&[(1, 1)]));
    for number in 0..50 {
        assert_eq!(connect(&mut world, 0, 3000 + number, &[1, 2]), 1);
    }
    balance(&mut world, plan(&[(1, 0), (2, 1)]));
    world.set_rules(0, out());
    world.place(1, 1);
    for number in 0..50 {
        world.send_all(0, &[ack(0, 3000 + number)]);
        assert_eq!(taker(&mut world, &[1, 2]).unwrap().0, 1);
        assert_eq!(connect(&mut world, 0, 4000 + number, &[1, 2]), 2, "new ones go to who takes them");
    }
}

#[test]
fn the_senders_rules_see_the_target_and_the_targets_rules_the_client() {
    let egress = |prefix: &str, port| Rule {
        remote: Remote::Prefix(prefix.parse().unwrap()),
        ports: vec![port..=port],
        ..allow(Direction::Egress)
    };
    let ingress = |remote: &str| Rule {
        remote: Remote::Prefix(remote.parse().unwrap()),
        ports: vec![8080..=8080],
        ..allow(Direction::Ingress)
    };
    let client = "10.0.0.100/32";
    for (sent, taken, passes) in [
        (egress("10.0.0.101/32", 8080), ingress(client), true),
        (egress("10.0.100.1/32", 80), ingress(client), false),
        (egress("10.0.0.101/32", 8080), ingress("10.0.100.1/32"), false),
    ] {
        let mut world = World::new(1, &[(0, Some(vec![sent])), (1, Some(vec![taken]))]);
        balance(&mut world, plan(&[(1, 1)]));
        world.send_all(0, &[syn(0, 1000)]);
        assert_eq!(taker(&mut world, &[1]).is_some(), passes);
        assert_eq!(world.dropped(0, PolicyDenied), u64::from(!passes));
    }
}

#[test]
fn new_rules_cut_a_balanced_connection() {
    let mut world = world(1, &[(1, 1)]);
    connect(&mut world, 0, 1000, &[1]);
    world.set_rules(1, out_and_in(TCP, 80));
    world.send_all(0, &[ack(0, 1000)]);
    assert!(world.receive(1).is_empty());
    world.set_rules(1, out_and_in(TCP, 8080));
    connect(&mut world, 0, 1000, &[1]);
}

#[test]
fn ports_without_rules_use_it_too() {
    for (client, target) in [(None, None), (Some(out()), None), (None, Some(out_and_in(TCP, 8080)))] {
        let mut world = World::new(1, &[(0, client), (1, target), (2, None)]);
        balance(&mut world, plan(&[(1, 1)]));
        connect(&mut world, 0, 1000, &[1]);
        assert!(world.passes(2, 0, &udp(2, 0, [1, 2])) || world.dropped(2, PolicyDenied) == 1);
        // An error about nothing that is known, and a fragment without its first: no rules ask for more.
        let error = icmp(2, 0, 3, 3, [0; 4], &udp(0, 2, [5, 6])[14..]);
        let refused = world.dropped(2, DropReason::IcmpUnrelated);
        assert!(world.passes(2, 0, &error) || world.dropped(2, DropReason::IcmpUnrelated) > refused);
    }
    let mut world = World::new(1, &[(0, None), (1, None)]);
    balance(&mut world, plan(&[(1, 1)]));
    assert!(world.passes(0, 1, &udp(0, 1, [1, 2])));
    assert!(world.passes(0, 1, &icmp(0, 1, 3, 3, [0; 4], &udp(1, 0, [5, 6])[14..])));
    let mut later = udp(0, 1, [1, 2]);
    later[21] = 1;
    seal(&mut later);
    assert!(world.passes(0, 1, &later));
    assert_eq!(world.sessions(), 0, "nothing to remember");
}

#[test]
fn a_target_reaches_itself_by_the_shared_address() {
    let mut world = World::new(1, &[(0, Some(out_and_in(TCP, 8080)))]);
    balance(&mut world, plan(&[(0, 1)]));
    for _ in 0..2 {
        world.send_all(0, &[syn(0, 1000)]);
        let expected = with_port(&between(&syn(0, 1000), VIP, address(0)), 2, 8080);
        assert_eq!(world.receive(0), [routed(&expected, 0)]);
    }
    let answer = ask(0, &tcp(0, 0, [8080, 1000], (SYN | ACK, 500, 101), 0));
    world.send_all(0, std::slice::from_ref(&answer));
    let expected = with_port(&between(&answer, VIP, address(0)), 0, 80);
    assert_eq!(world.receive(0), [routed(&expected, 0)]);
    world.send_all(0, &[ack(0, 1000)]);
    assert_eq!(world.receive(0).len(), 1);
    assert_eq!(world.sessions(), 1);
}

#[test]
fn the_shared_address_answers_arp_and_ping_and_nothing_else_that_nobody_listens_for() {
    let mut world = world(1, &[(1, 1)]);
    let mut question = [[0xff; 6], mac(0).0].concat();
    question.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    question.extend(mac(0).0);
    question.extend(address(0).octets());
    question.extend([0; 6]);
    question.extend(VIP.octets());
    world.send_all(0, &[question]);
    let answer = world.receive(0).remove(0);
    assert_eq!((&answer[20..22], &answer[22..28]), (&[0, 2][..], &gateway_mac(0).0[..]));
    let ping = ask(0, &icmp(0, 0, 8, 0, [1, 2, 3, 4], b"data"));
    world.send_all(0, &[ping]);
    let pong = world.receive(0).remove(0);
    assert_eq!((pong[34], &pong[26..30], pong.clone()), (0, &VIP.octets()[..], complete(pong.clone())));
    world.send_all(0, &[ask(0, &tcp(0, 0, [1000, 81], (SYN, 1, 0), 0))]);
    assert_eq!((world.dropped(0, NoListener), world.sessions()), (1, 0));
    assert!(world.receive(1).is_empty());
}

#[test]
fn fragments_go_where_their_first_one_went() {
    let mut world = world(1, &[(1, 1), (2, 1)]);
    for target in [1, 2] {
        world.set_rules(target, out_and_in(UDP, 8080));
    }
    let fragments = |source_port: u16| {
        let mut first = ask(0, &udp(0, 0, [source_port, 80]));
        first[18..21].copy_from_slice(&[(source_port >> 8) as u8, source_port as u8, 0x20]);
        seal(&mut first);
        let mut later = first.clone();
        later[20..22].copy_from_slice(&[0, 2]);
        seal(&mut later);
        [first, later]
    };
    for source_port in [1000, 1001, 1002, 1003, 1000] {
        world.send_all(0, &fragments(source_port));
        let got: Vec<Vec<Vec<u8>>> = [1, 2].map(|target| world.receive(target)).to_vec();
        let target = 1 + u16::from(got[0].is_empty());
        let frames = &got[usize::from(target) - 1];
        assert_eq!((frames.len(), got[usize::from(2 - target)].len()), (2, 0), "{source_port}");
        for frame in frames {
            assert_eq!(frame[26..34], [address(0).octets(), address(target).octets()].concat());
        }
    }
    let [_, later] = fragments(1004);
    world.send_all(0, &[later]);
    assert_eq!(world.dropped(0, DropReason::FragmentUnknown), 1);
}

#[test]
fn when_no_target_is_up_clients_are_told_or_all_are_tried() {
    let mut world = world(1, &[(1, 1)]);
    let mut down = plan(&[(1, 1)]);
    down.targets[0].up = false;
    balance(&mut world, down.clone());
    world.send_all(0, &[syn(0, 1000)]);
    let told = world.receive(0).remove(0);
    assert_eq!((told[23], told[34], told[35]), (ICMP, 3, 1), "host unreachable");
    assert_eq!(told[58..62], VIP.octets());
    // More than it is told of an error a second: then they end for their reason.
    for _ in 0..2 {
        world.send_all(0, &vec![syn(0, 1001); 150]);
        world.receive(0);
    }
    assert!(world.dropped(0, NoTarget) > 0);
    down.when_all_down = WhenAllDown::Spread;
    balance(&mut world, down);
    connect(&mut world, 0, 1002, &[1]);
}

#[test]
fn errors_are_about_what_their_receiver_sent() {
    let mut world = World::new(1, &[(0, Some(out())), (8, Some(out_and_in(UDP, 8080)))]);
    balance(&mut world, plan(&[(8, 1)]));
    let question = ask(0, &udp(0, 0, [1000, 80]));
    world.send_all(0, std::slice::from_ref(&question));
    let got = world.receive(8).remove(0);
    assert_eq!(got, at_target(&question, 0, 8));
    // The target's own: nothing listens there.
    world.send_all(8, &[icmp(8, 0, 3, 3, [0; 4], &got[14..])]);
    let told = world.receive(0).remove(0);
    assert_eq!(told, complete(told.clone()), "its checksums are right");
    assert_eq!((&told[26..30], &told[30..34]), (&VIP.octets()[..], &address(0).octets()[..]));
    let quoted = &told[42..];
    assert_eq!((&quoted[12..20], &quoted[20..24]), (&question[26..34], &question[34..38]));
    // The router's: no hop is left, of a first packet and of a later one.
    for source_port in [1000, 1001] {
        let mut last = with_port(&question, 0, source_port);
        last[22] = 1;
        seal(&mut last);
        world.send_all(0, std::slice::from_ref(&last));
        let told = world.receive(0).remove(0);
        assert_eq!((told[34], told.clone()), (11, complete(told.clone())));
        // But for a checksum that nobody looks at.
        assert_eq!(told[42..42 + 26], last[14..40], "what was sent");
    }
    // The client's own, about an answer.
    let answer = complete(udp(8, 0, [8080, 1000]));
    world.send_all(8, std::slice::from_ref(&answer));
    let got = world.receive(0).remove(0);
    let mut error = icmp(0, 0, 3, 3, [0; 4], &got[14..]);
    error = ask(0, &error);
    world.send_all(0, &[error]);
    let told = world.receive(8).remove(0);
    assert_eq!(told, complete(told.clone()));
    assert_eq!((&told[26..30], &told[30..34]), (&address(0).octets()[..], &address(8).octets()[..]));
    assert_eq!((&told[54..62], &told[62..66]), (&answer[26..34], &answer[34..38]));
}

#[test]
fn with_affinity_a_client_has_one_target() {
    let targets = [(1, 1), (2, 1), (8, 1)];
    let mut world = world(1, &targets);
    balance(&mut world, BalancerPlan { affinity: Affinity::ClientIp, ..plan(&targets) });
    let first = connect(&mut world, 0, 1000, &[1, 2, 8]);
    assert!((1001..1040).all(|port| connect(&mut world, 0, port, &[1, 2, 8]) == first));
}

#[test]
fn without_the_balancer_its_connections_end() {
    let mut world = world(1, &[(1, 1)]);
    connect(&mut world, 0, 1000, &[1]);
    world.control.set_balancer(VPC, VIP.into(), None);
    world.send_all(0, &[ack(0, 1000)]);
    assert!(world.receive(1).is_empty());
    assert_eq!(world.dropped(0, DropReason::NoRoute) + world.receive(0).len() as u64, 1);
}

/// Gives ports fd00::1:0 and so on, in subnet 0, beside what they have.
pub(crate) fn add_ipv6(world: &mut World, ports: &[u16]) {
    let prefix = "fd00::/64".parse().unwrap();
    world.control.set_routes(0, Some(RouteTable::build([(prefix, NextHop::Subnet(0))])));
    world.control.publish();
    for port in ports {
        let addresses = [IpAddr::V4(address(*port)), IpAddr::V6(ipv6(*port))];
        let profile = PortProfile::new(0, mac(*port), 1450, &addresses, &[]);
        let mut profile = profile.in_vpc(VPC, gateway_mac(0), 1);
        profile.policy = Some(*port);
        world.control.set_profile(PortIndex(*port), profile);
        let endpoint = Endpoint { mac: mac(*port), subnet: 0, location: Location::Local(*port) };
        world.control.place_endpoint(VPC, ipv6(*port).into(), endpoint);
    }
}

pub(crate) fn ipv6(port: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, port)
}

fn tcp6(macs: [MacAddr; 2], addresses: [Ipv6Addr; 2], ports: [u16; 2], flags: u8) -> Vec<u8> {
    let mut frame = [macs[1].0, macs[0].0].concat();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, TCP, 64]);
    addresses.iter().for_each(|address| frame.extend(address.octets()));
    frame.extend(ports.map(u16::to_be_bytes).concat());
    frame.extend([0, 0, 0, 100, 0, 0, 0, 101, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    complete(frame)
}

#[test]
fn ipv6_is_balanced_alike() {
    let mut world = world(1, &[(1, 1)]);
    add_ipv6(&mut world, &[0, 1]);
    let vip = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x99);
    let target = Target { address: ipv6(1).into(), weight: 1, up: true };
    world.control.set_balancer(VPC, vip.into(), Some(BalancerPlan { targets: vec![target], ..plan(&[]) }));
    let through = |mut frame: Vec<u8>| {
        frame[21] -= 1;
        frame
    };
    for _ in 0..2 {
        let asked = tcp6([mac(0), gateway_mac(0)], [ipv6(0), vip], [1000, 80], SYN);
        world.send_all(0, &[asked]);
        let expected = tcp6([gateway_mac(0), mac(1)], [ipv6(0), ipv6(1)], [1000, 8080], SYN);
        assert_eq!(world.receive(1), [through(expected)]);
    }
    world.send_all(1, &[tcp6([mac(1), mac(0)], [ipv6(1), ipv6(0)], [8080, 1000], SYN | ACK)]);
    let expected = tcp6([mac(1), mac(0)], [vip, ipv6(0)], [80, 1000], SYN | ACK);
    assert_eq!(world.receive(0), [expected]);
    // Who has it is asked of all that solicit that address (RFC 4861 section 2.3).
    let group = MacAddr([0x33, 0x33, 0xff, 0, 0, 0x99]);
    let mut question = [group.0, mac(0).0].concat();
    question.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
    question.extend(ipv6(0).octets());
    question.extend("ff02::1:ff00:99".parse::<Ipv6Addr>().unwrap().octets());
    question.extend([135, 0, 0, 0, 0, 0, 0, 0]);
    question.extend(vip.octets());
    question.extend([1, 1]);
    question.extend(mac(0).0);
    world.send_all(0, &[complete(question)]);
    let answer = world.receive(0).remove(0);
    assert_eq!((answer[54], &answer[80..86]), (136, &gateway_mac(0).0[..]));
}
