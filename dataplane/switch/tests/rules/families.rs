//! IPv4 and IPv6 in one burst.

use crate::balancing::{add_ipv6, ipv6};
use crate::frames::{UDP, complete, udp};
use crate::world::{World, mac, out, out_and_in};
use engine::DropReason::PolicyDenied;

/// The same as [`udp`] over IPv6.
fn udp6(from: u16, to: u16, ports: [u16; 2]) -> Vec<u8> {
    let mut frame = [mac(to).0, mac(from).0].concat();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 16, UDP, 64]);
    [from, to].iter().for_each(|port| frame.extend(ipv6(*port).octets()));
    frame.extend(ports.map(u16::to_be_bytes).concat());
    frame.extend([0, 16, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7]);
    complete(frame)
}

/// Flows of both families by turns, some packets of each.
fn burst(from: u16, to: u16, ports: impl Fn(u16) -> [u16; 2]) -> Vec<Vec<u8>> {
    let frame = |number: u16| {
        let make = if number.is_multiple_of(2) { udp } else { udp6 };
        make(from, to, ports(number % 10))
    };
    (0..32).map(frame).collect()
}

#[test]
fn both_go_by_their_sessions_in_their_order_until_rules_change() {
    let mut world = World::new(1, &[(0, Some(out())), (1, Some(out_and_in(UDP, 53)))]);
    add_ipv6(&mut world, &[0, 1]);
    let there = burst(0, 1, |number| [1000 + number, 53]);
    let back = burst(1, 0, |number| [53, 1000 + number]);
    // First packets, those of sessions that were answered, and after that nothing special.
    for round in 0..4 {
        world.send_all(0, &there);
        assert_eq!(world.receive(1), there, "round {round}");
        world.send_all(1, &back);
        assert_eq!(world.receive(0), back, "round {round}");
        assert_eq!(world.sessions(), 10, "round {round}");
    }
    world.set_rules(1, out_and_in(UDP, 54));
    world.send_all(0, &there);
    assert!(world.receive(1).is_empty(), "cut with their next packets");
    assert_eq!((world.dropped(0, PolicyDenied), world.sessions()), (32, 0));
}
