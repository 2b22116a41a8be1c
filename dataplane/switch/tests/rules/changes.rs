//! What becomes of live sessions when something changes under them.

use crate::frames::{TCP, UDP, icmp, tcp, udp};
use crate::world::{VPC, World, address, allow, mac, out, out_and_in};
use engine::DropReason::{PolicyDenied, PortDown};
use engine::PortIndex;
use packet::tcp::{ACK, SYN};
use std::net::IpAddr;
use tables::PortProfile;
use tables::rules::{Direction, Remote, Rule};

#[test]
fn new_rules_cut_a_live_session_with_its_next_packet_from_either_side() {
    for from_initiator in [true, false] {
        let mut world = World::new(1, &[(0, Some(out())), (1, Some(out_and_in(UDP, 53)))]);
        assert!(world.passes(0, 1, &udp(0, 1, [1000, 53])));
        assert!(world.passes(1, 0, &udp(1, 0, [53, 1000])));
        world.set_rules(1, out_and_in(UDP, 54));
        let passed = if from_initiator {
            world.passes(0, 1, &udp(0, 1, [1000, 53]))
        } else {
            world.passes(1, 0, &udp(1, 0, [53, 1000]))
        };
        assert!(!passed, "from the initiator: {from_initiator}");
        world.set_rules(1, out_and_in(UDP, 53));
        assert!(!world.passes(1, 0, &udp(1, 0, [53, 1000])), "the session is gone, not asleep");
        assert!(world.passes(0, 1, &udp(0, 1, [1000, 53])), "and may be begun again");
    }
}

#[test]
fn a_change_that_lets_the_session_pass_leaves_it_as_it_was() {
    let mut world = World::new(1, &[(0, Some(out())), (1, Some(out_and_in(TCP, 80)))]);
    assert!(world.passes(0, 1, &tcp(0, 1, [1000, 80], (SYN, 100, 0), 0)));
    assert!(world.passes(1, 0, &tcp(1, 0, [80, 1000], (SYN | ACK, 500, 101), 0)));
    let mut rules = out_and_in(TCP, 80);
    rules.push(Rule { ports: vec![1..=2], protocol: Some(TCP), ..allow(Direction::Ingress) });
    world.set_rules(1, rules);
    assert!(world.passes(0, 1, &tcp(0, 1, [1000, 80], (ACK, 101, 501), 10)));
    assert!(world.passes(1, 0, &tcp(1, 0, [80, 1000], (ACK, 501, 111), 10)));
    assert!(
        !world.passes(1, 0, &tcp(1, 0, [80, 1000], (ACK, 0x7000_0000, 111), 10)),
        "it still knows its window"
    );
    assert_eq!(world.sessions(), 1);
}

#[test]
fn who_leaves_the_group_is_cut_and_others_are_not() {
    let group = Rule { remote: Remote::Group(5), ..allow(Direction::Ingress) };
    let mut world = World::new(1, &[(0, Some(out())), (1, Some(vec![group])), (2, Some(out()))]);
    for port in [0, 2] {
        world.control.set_member(VPC, IpAddr::V4(address(port)).into(), &[5]).unwrap();
        assert!(world.passes(port, 1, &udp(port, 1, [1000, 53])));
    }
    world.control.remove_member(VPC, IpAddr::V4(address(0)).into());
    assert!(!world.passes(0, 1, &udp(0, 1, [1000, 53])));
    assert!(world.passes(2, 1, &udp(2, 1, [1000, 53])));
}

#[test]
fn an_address_that_moves_takes_its_sessions_packets_along_and_is_judged_there() {
    let ports =
        [(0, Some(out())), (1, Some(out_and_in(UDP, 53))), (2, Some(out_and_in(UDP, 53))), (3, Some(out()))];
    let mut world = World::new(1, &ports);
    assert!(world.passes(0, 1, &udp(0, 1, [1000, 53])));
    world.place(1, 2);
    assert!(world.passes(0, 2, &udp(0, 1, [1000, 53])), "to where it is now");
    assert!(world.receive(1).is_empty());
    world.place(1, 3);
    assert!(!world.passes(0, 3, &udp(0, 1, [1000, 53])), "whose rules refuse it");
    assert!(world.receive(1).is_empty() && world.receive(2).is_empty());
}

#[test]
fn an_error_about_a_connection_that_todays_rules_forbid_does_not_pass() {
    let mut world = World::new(1, &[(0, Some(out())), (1, Some(out_and_in(UDP, 53)))]);
    let question = udp(0, 1, [1000, 53]);
    let error = icmp(1, 0, 3, 3, [0; 4], &question[14..]);
    assert!(world.passes(0, 1, &question) && world.passes(1, 0, &error));
    world.set_rules(1, out());
    assert!(!world.passes(1, 0, &error));
    assert_eq!((world.dropped(1, PolicyDenied), world.sessions()), (1, 0), "the session is cut");
}

#[test]
fn without_its_policy_a_port_is_closed() {
    let mut world = World::new(1, &[(0, Some(out())), (1, Some(out_and_in(UDP, 53)))]);
    assert!(world.passes(0, 1, &udp(0, 1, [1000, 53])));
    world.control.set_policy(1, None);
    assert!(!world.passes(0, 1, &udp(0, 1, [1000, 53])));
    assert!(!world.passes(1, 0, &udp(1, 0, [53, 1000])));
    assert_eq!((world.dropped(0, PortDown), world.dropped(1, PortDown)), (1, 1));
}

#[test]
fn a_port_takes_its_sessions_along_and_the_next_of_its_index_begins_with_none() {
    let mut world =
        World::new(1, &[(0, Some(out())), (1, Some(out_and_in(UDP, 53))), (2, Some(out_and_in(UDP, 53)))]);
    for from in 0..20 {
        assert!(world.passes(0, 1, &udp(0, 1, [1000 + from, 53])));
        assert!(world.passes(0, 2, &udp(0, 2, [1000 + from, 53])));
    }
    assert_eq!(world.control.sessions().port_counts(0).sessions, 40);
    let mut removals = vec![world.control.remove_port(PortIndex(1)), world.control.remove_port(PortIndex(0))];
    assert_eq!(world.control.finish_removals(&mut removals), [], "the worker has not heard of it");
    assert_eq!(world.sessions(), 40);
    world.step();
    assert_eq!(world.control.finish_removals(&mut removals), [PortIndex(1), PortIndex(0)]);
    assert_eq!((world.sessions(), world.control.sessions().port_counts(0)), (0, Default::default()));
}

#[test]
fn a_port_that_comes_under_rules_or_leaves_them_is_judged_so_at_once() {
    let mut world = World::new(1, &[(0, None), (1, Some(out()))]);
    assert!(!world.passes(0, 1, &udp(0, 1, [1000, 53])));
    let profile = |filtered: bool| {
        let ip = IpAddr::V4(address(1));
        let profile = PortProfile::new(0, mac(1), 1450, &[ip], &[]);
        let mut profile = profile.in_vpc(VPC, crate::world::gateway_mac(0), 1);
        profile.policy = filtered.then_some(1);
        profile
    };
    world.control.set_profile(PortIndex(1), profile(false));
    assert!(world.passes(0, 1, &udp(0, 1, [1000, 53])));
    world.control.set_profile(PortIndex(1), profile(true));
    assert!(!world.passes(0, 1, &udp(0, 1, [1000, 53])));
    assert_eq!(world.dropped(0, PolicyDenied), 2);
}

#[test]
fn two_workers_share_the_sessions() {
    let mut world = World::new(2, &[(0, Some(out())), (1, Some(out_and_in(UDP, 53)))]);
    assert_ne!(world.control.home(PortIndex(0)), world.control.home(PortIndex(1)));
    for port in 0..100 {
        assert!(world.passes(0, 1, &udp(0, 1, [1000 + port, 53])));
        assert!(world.passes(1, 0, &udp(1, 0, [53, 1000 + port])));
    }
    assert_eq!(world.sessions(), 100);
}
