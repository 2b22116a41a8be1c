//! What passes, and what does not.

use crate::frames::{ICMP, TCP, UDP, icmp, ipv4, seal, tcp, udp};
use crate::world::{World, address, allow, gateway_mac, mac, out, out_and_in};
use engine::DropReason::{FragmentUnknown, IcmpUnrelated, PolicyDenied, SessionInvalid};
use packet::tcp::{ACK, SYN};
use tables::rules::{Action, Direction, Remote, Rule};

#[test]
fn a_direction_without_rules_is_open_for_what_is_sent_and_closed_for_what_comes() {
    let mut world = World::new(1, &[(0, Some(vec![])), (1, Some(vec![])), (2, None)]);
    assert!(!world.passes(0, 1, &udp(0, 1, [1000, 53])));
    assert_eq!(world.dropped(0, PolicyDenied), 1);
    assert!(world.passes(0, 2, &udp(0, 2, [1000, 53])), "who is under no rules takes all");
    assert!(world.passes(2, 0, &udp(2, 0, [53, 1000])), "and its answer passes");
    assert!(!world.passes(2, 0, &udp(2, 0, [53, 1001])), "but no more than that");
    assert_eq!(world.dropped(2, PolicyDenied), 1);
}

#[test]
fn what_is_let_in_and_what_answers_it_passes_and_nothing_else() {
    let mut world = World::new(1, &[(0, Some(out())), (1, Some(out_and_in(UDP, 53)))]);
    for _ in 0..3 {
        assert!(world.passes(0, 1, &udp(0, 1, [1000, 53])));
        assert!(world.passes(1, 0, &udp(1, 0, [53, 1000])));
    }
    assert!(!world.passes(0, 1, &udp(0, 1, [1000, 54])));
    assert!(!world.passes(1, 0, &udp(1, 0, [54, 1000])));
    assert!(!world.passes(0, 1, &tcp(0, 1, [1000, 53], (SYN, 1, 0), 0)));
    assert_eq!((world.dropped(0, PolicyDenied), world.dropped(1, PolicyDenied)), (2, 1));
}

#[test]
fn the_first_packets_of_one_flow_in_one_burst_pass_in_their_order() {
    let mut world = World::new(1, &[(0, Some(out())), (1, Some(out_and_in(UDP, 53)))]);
    let frames: Vec<Vec<u8>> = (0..32)
        .map(|number| {
            let mut frame = udp(0, 1, [1000 + number % 2, 53]);
            frame[45] = number as u8;
            frame
        })
        .collect();
    world.send_all(0, &frames);
    assert_eq!(world.receive(1), frames);
    assert_eq!(world.sessions(), 2);
}

#[test]
fn lower_priorities_come_first_and_refusals_before_permissions() {
    let mut rules = out_and_in(UDP, 53);
    rules.push(Rule {
        action: Action::Deny,
        remote: Remote::Prefix("10.0.0.100/32".parse().unwrap()),
        ..allow(Direction::Ingress)
    });
    let mut world = World::new(1, &[(0, Some(out())), (1, Some(rules)), (2, Some(out()))]);
    assert!(!world.passes(0, 1, &udp(0, 1, [1000, 53])), "10.0.0.100 is refused");
    assert!(world.passes(2, 1, &udp(2, 1, [1000, 53])));
}

#[test]
fn who_is_in_the_group_passes() {
    let group = Rule { remote: Remote::Group(5), ..allow(Direction::Ingress) };
    let mut world = World::new(1, &[(0, Some(out())), (1, Some(vec![group])), (2, Some(out()))]);
    assert!(!world.passes(0, 1, &udp(0, 1, [1000, 53])), "a group without members is nobody");
    world
        .control
        .set_member(crate::world::VPC, ipnet::IpNet::from(std::net::IpAddr::V4(address(0))), &[5])
        .unwrap();
    assert!(world.passes(0, 1, &udp(0, 1, [1000, 53])));
    assert!(!world.passes(2, 1, &udp(2, 1, [1000, 53])));
}

#[test]
fn what_is_routed_is_changed_alike_with_and_without_a_session() {
    let mut world = World::new(1, &[(0, Some(out())), (8, Some(out_and_in(UDP, 53)))]);
    let mut got = Vec::new();
    for _ in 0..3 {
        world.send_all(0, &[udp(0, 8, [1000, 53])]);
        got.extend(world.receive(8));
        world.send_all(8, &[udp(8, 0, [53, 1000])]);
        let back = world.receive(0);
        assert_eq!(back.len(), 1);
        assert_eq!((&back[0][..6], &back[0][6..12]), (&mac(0).0[..], &gateway_mac(0).0[..]));
    }
    let mut expected = udp(0, 8, [1000, 53]);
    expected[..12].copy_from_slice(&[mac(8).0, gateway_mac(1).0].concat());
    expected[22] = 63;
    seal(&mut expected);
    assert_eq!(got, vec![expected; 3]);
}

#[test]
fn a_packet_of_a_session_without_a_hop_left_is_answered_like_any() {
    let mut world = World::new(1, &[(0, Some(out())), (8, Some(out_and_in(UDP, 53)))]);
    assert!(world.passes(0, 8, &udp(0, 8, [1000, 53])));
    let mut last = udp(0, 8, [1000, 53]);
    last[22] = 1;
    seal(&mut last);
    world.send_all(0, &[last]);
    assert!(world.receive(8).is_empty());
    let answer = world.receive(0);
    assert_eq!((answer[0][23], answer[0][34]), (ICMP, 11), "time exceeded");
}

#[test]
fn the_gateway_answers_under_any_rules() {
    let deny = Rule { action: Action::Deny, ..allow(Direction::Egress) };
    let mut world = World::new(1, &[(0, Some(vec![deny]))]);
    let mut ping = icmp(0, 8, 8, 0, [0, 7, 0, 1], &[]);
    ping[30..34].copy_from_slice(&[10, 0, 0, 1]);
    seal(&mut ping);
    world.send_all(0, &[ping]);
    assert_eq!(world.receive(0).len(), 1);
}

#[test]
fn an_echo_is_answered_and_does_not_open_the_way_for_another() {
    let echo = Rule { protocol: Some(ICMP), icmp: Some((8, None)), ..allow(Direction::Ingress) };
    let mut world = World::new(1, &[(0, Some(out())), (1, Some(vec![echo, allow(Direction::Egress)]))]);
    let id = [0x12, 0x34, 0, 1];
    assert!(world.passes(0, 1, &icmp(0, 1, 8, 0, id, &[])));
    assert!(world.passes(1, 0, &icmp(1, 0, 0, 0, id, &[])), "the reply");
    assert!(!world.passes(1, 0, &icmp(1, 0, 8, 0, id, &[])), "a request with the same identifier");
    assert!(!world.passes(1, 0, &icmp(1, 0, 0, 0, [0x12, 0x35, 0, 1], &[])), "a reply to no request");
    assert!(!world.passes(0, 1, &icmp(0, 1, 13, 0, id, &[])), "another type");
}

#[test]
fn an_icmp_error_passes_with_the_session_it_is_about() {
    let mut world = World::new(1, &[(0, Some(out())), (1, Some(out_and_in(UDP, 53)))]);
    let question = udp(0, 1, [1000, 53]);
    let error = |quoted: &[u8]| icmp(1, 0, 3, 3, [0; 4], &quoted[14..]);
    assert!(!world.passes(1, 0, &error(&question)), "there is no session yet");
    assert!(world.passes(0, 1, &question));
    assert!(world.passes(1, 0, &error(&question)));
    assert!(!world.passes(1, 0, &error(&udp(0, 1, [1001, 53]))), "of another flow");
    assert!(!world.passes(1, 0, &error(&udp(2, 1, [1000, 53]))), "about what somebody else sent");
    assert_eq!(world.dropped(1, IcmpUnrelated), 3);
}

#[test]
fn later_fragments_pass_with_their_first() {
    let mut world = World::new(1, &[(0, Some(out())), (1, Some(out_and_in(UDP, 53)))]);
    let fragments = |identification: u8, ports| {
        let mut first = udp(0, 1, ports);
        (first[19], first[20]) = (identification, 0x20);
        let mut later = ipv4(0, 1, UDP, &[5; 16]);
        (later[19], later[21]) = (identification, 2);
        seal(&mut first);
        seal(&mut later);
        (first, later)
    };
    let (first, later) = fragments(1, [1000, 53]);
    assert!(!world.passes(0, 1, &later), "before its first");
    assert!(world.passes(0, 1, &first));
    assert!(world.passes(0, 1, &later));
    let (first, later) = fragments(2, [1000, 53]);
    world.send_all(0, &[first.clone(), later.clone()]);
    assert_eq!(world.receive(1), [first, later], "in one burst");
    let (first, later) = fragments(3, [1000, 54]);
    assert!(!world.passes(0, 1, &first));
    assert!(!world.passes(0, 1, &later), "of a datagram that is refused");
    assert_eq!(world.dropped(0, FragmentUnknown), 2);
}

#[test]
fn a_tcp_connection_is_followed() {
    let mut world = World::new(1, &[(0, Some(out())), (1, Some(out_and_in(TCP, 80)))]);
    let ports = [1000, 80];
    let back = [80, 1000];
    assert!(world.passes(0, 1, &tcp(0, 1, ports, (SYN, 100, 0), 0)));
    assert!(world.passes(1, 0, &tcp(1, 0, back, (SYN | ACK, 500, 101), 0)));
    assert!(world.passes(0, 1, &tcp(0, 1, ports, (ACK, 101, 501), 0)));
    assert!(world.passes(0, 1, &tcp(0, 1, ports, (ACK, 101, 501), 100)));
    assert!(world.passes(1, 0, &tcp(1, 0, back, (ACK, 501, 201), 0)));
    assert!(!world.passes(1, 0, &tcp(1, 0, back, (ACK, 0x7000_0000, 201), 10)), "far outside the window");
    assert_eq!(world.dropped(1, SessionInvalid), 1);
    assert!(world.passes(1, 0, &tcp(1, 0, back, (ACK, 501, 201), 10)), "and the connection lives on");
}
