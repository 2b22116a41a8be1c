//! Candidates for rules: what they would change is counted and listed, and nothing is changed.

use crate::frames::{TCP, UDP, tcp, udp};
use crate::world::{SECOND, VPC, World, address, allow, out, out_and_in};
use engine::DropReason::PolicyDenied;
use engine::PortIndex;
use packet::tcp::SYN;
use stages::shadow::Difference;
use std::net::IpAddr;
use tables::rules::{Action, Compared, Direction, Judgement, Remote, Rule};

fn total(world: &World, port: u16) -> Compared {
    world.control.comparisons().read(1000 + u32::from(port))
}

/// So many that agree, would be denied, and would be allowed.
fn counts(agrees: u64, would_deny: u64, would_allow: u64) -> Compared {
    Compared { agrees, would_deny, would_allow }
}

fn differences(world: &World) -> Vec<Difference> {
    std::iter::from_fn(|| world.control.differences().pop()).collect()
}

#[test]
fn what_a_candidate_would_change_is_counted_and_said_and_nothing_changes() {
    let mut world = World::new(1, &[(0, Some(out())), (1, Some(out_and_in(UDP, 53)))]);
    let mut candidate = out_and_in(UDP, 54);
    candidate[1].counter = 12;
    candidate[0].counter = 11;
    world.set_candidate(1, &out_and_in(UDP, 53), &candidate);
    assert!(world.passes(0, 1, &udp(0, 1, [1000, 53])));
    assert!(!world.passes(0, 1, &udp(0, 1, [1000, 54])));
    assert!(!world.passes(0, 1, &udp(0, 1, [1000, 55])));
    assert!(!world.passes(1, 0, &udp(1, 0, [1000, 53])), "the other end is closed");
    assert_eq!(total(&world, 1), counts(2, 1, 1));
    let read = |number| world.control.comparisons().read(number);
    assert_eq!(read(2), counts(0, 1, 0), "the rule in force that let it pass");
    assert_eq!(read(12), counts(0, 0, 1), "the rule that would let the other one pass");
    assert_eq!((read(1), read(11)), (counts(1, 0, 0), counts(1, 0, 0)));
    let said = |allowed, rule| Judgement { allowed, rule, log: false };
    let difference = |to, live, candidate| Difference {
        port: 1,
        direction: Direction::Ingress,
        live,
        candidate,
        source: address(0).into(),
        destination: address(1).into(),
        protocol: UDP,
        ports: [1000, to],
    };
    assert_eq!(
        differences(&world),
        [
            difference(53, said(true, Some(2)), said(false, None)),
            difference(54, said(false, None), said(true, Some(12))),
        ]
    );
    assert_eq!(world.dropped(0, PolicyDenied), 2);
}

#[test]
fn a_live_session_is_compared_once_when_the_candidate_comes_and_costs_nothing_after() {
    let mut world = World::new(1, &[(0, Some(out())), (1, Some(out_and_in(UDP, 53)))]);
    let before = |world: &World| {
        let listed = world.control.sessions().list((world.now / 1_000_000) as u32, 9, |_| true);
        listed.iter().map(|session| (session.counts, session.rules, session.half_open)).collect::<Vec<_>>()
    };
    assert!(world.passes(0, 1, &udp(0, 1, [1000, 53])));
    assert!(world.passes(1, 0, &udp(1, 0, [53, 1000])));
    world.set_candidate(1, &out_and_in(UDP, 53), &out());
    for sent in 2..12 {
        assert!(world.passes(0, 1, &udp(0, 1, [1000, 53])));
        assert_eq!(before(&world)[0].0[0].0, sent);
    }
    assert_eq!(total(&world, 1), counts(0, 1, 0));
    for _ in 0..2 {
        assert!(world.passes(1, 0, &udp(1, 0, [53, 1000])), "the other half is as old");
    }
    assert_eq!(total(&world, 1), counts(0, 1, 0), "and of the same flow");
    assert_eq!(world.sessions(), 1);
}

#[test]
fn a_flow_that_the_other_end_refuses_anyway_would_change_nothing() {
    let closed: Vec<Rule> = out();
    let mut world = World::new(1, &[(0, Some(out())), (1, Some(closed.clone()))]);
    let deny = Rule { action: Action::Deny, ..allow(Direction::Egress) };
    world.set_candidate(0, &out(), &[deny]);
    assert!(!world.passes(0, 1, &udp(0, 1, [1000, 53])));
    assert_eq!(total(&world, 0), counts(1, 0, 0), "denied by the receiver as before");
    world.set_candidate(1, &closed, &out_and_in(UDP, 53));
    assert!(!world.passes(0, 1, &udp(0, 1, [1001, 53])));
    assert_eq!([0, 1].map(|port| total(&world, port)), [counts(2, 0, 0), counts(1, 0, 0)]);
    assert_eq!(differences(&world), []);
    world.set_candidate(0, &out(), &out());
    assert!(!world.passes(0, 1, &udp(0, 1, [1002, 53])), "both would let it pass");
    assert_eq!([0, 1].map(|port| total(&world, port)), [counts(1, 0, 0), counts(1, 0, 1)]);
    assert_eq!(differences(&world).len(), 1);
}

#[test]
fn a_flood_of_differences_is_counted_whole_and_listed_in_part() {
    let mut world = World::new(1, &[(0, Some(out())), (1, Some(out_and_in(UDP, 53)))]);
    world.set_candidate(1, &out_and_in(UDP, 53), &out_and_in(UDP, 54));
    let frames: Vec<Vec<u8>> = (0..250).map(|from| udp(0, 1, [1000 + from, 54])).collect();
    for frames in frames.chunks(25) {
        world.send_all(0, frames);
    }
    assert_eq!(total(&world, 1), counts(0, 0, 250));
    let listed = differences(&world).len() as u64;
    assert!((1..250).contains(&listed), "{listed}");
    assert_eq!(listed + world.control.comparisons().left_out(), 250);
}

/// Numbers that look random (G. Marsaglia, "Xorshift RNGs", 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn rules(&mut self, first: u32) -> Vec<Rule> {
        let count = self.below(7) as u32;
        (0..count).map(|at| self.rule(first + at)).collect()
    }

    fn rule(&mut self, counter: u32) -> Rule {
        let direction = [Direction::Egress, Direction::Ingress][self.below(2) as usize];
        let port = self.below(4) as u16 + 50;
        let remote = match self.below(4) {
            0 => Remote::Prefix(ipnet::IpNet::new(address(self.below(4) as u16).into(), 32).unwrap()),
            1 => Remote::Group(self.below(3) as u16),
            _ => Remote::Any,
        };
        Rule {
            action: if self.below(3) == 0 { Action::Deny } else { Action::Allow },
            priority: self.below(3) as u16,
            protocol: [None, Some(UDP), Some(TCP)][self.below(3) as usize],
            ports: if self.below(2) == 0 { vec![port..=port + 1] } else { Vec::new() },
            remote,
            counter,
            ..allow(direction)
        }
    }
}

/// What a world delivered of a frame, and everything else of it that can be seen.
fn outcome(world: &mut World, from: u16, to: u16, frame: &[u8]) -> (bool, String) {
    let passed = world.passes(from, to, frame);
    let sessions = world.control.sessions().list((world.now / 1_000_000) as u32, usize::MAX, |_| true);
    let counters: Vec<_> = (0..4).map(|port| world.control.counters(PortIndex(port)).unwrap()).collect();
    (passed, format!("{sessions:?} {counters:?}"))
}

/// The same packets through three hosts: one without candidates, one with, and one where the candidates are in force.
#[test]
fn a_candidate_foretells_what_happens_when_it_is_in_force_and_is_without_effect() {
    let (mut denied, mut allowed, mut agreed, mut answers) = (0, 0, 0, 0);
    for seed in 1..=90 {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed);
        let live: Vec<Vec<Rule>> = (0..4).map(|port| random.rules(100 + 10 * port)).collect();
        let candidates: Vec<Option<Vec<Rule>>> =
            (0..4).map(|port| (random.below(3) > 0).then(|| random.rules(200 + 10 * port))).collect();
        let ports: Vec<_> = (0u16..).zip(live.iter().cloned().map(Some)).collect();
        let future = candidates.iter().zip(&live).map(|(new, old)| new.as_ref().unwrap_or(old).clone());
        let future: Vec<_> = (0u16..).zip(future.map(Some)).collect();
        let mut worlds = [&ports, &ports, &future].map(|ports| World::new(1, ports));
        for (port, candidate) in (0u16..).zip(&candidates) {
            for world in &mut worlds {
                let prefix = IpAddr::V4(address(port)).into();
                world.control.set_member(VPC, prefix, &[port % 3]).unwrap();
            }
            // Where there is none, the same rules are set again, so that all see the same number of changes.
            match candidate {
                Some(candidate) => worlds[1].set_candidate(port, &live[usize::from(port)], candidate),
                None => worlds[1].set_rules(port, live[usize::from(port)].clone()),
            }
        }
        for at in 0..150u16 {
            let from = random.below(4) as u16;
            let to = (from + 1 + random.below(3) as u16) % 4;
            let ports = [2000 + at, random.below(5) as u16 + 50];
            let frame = match random.below(2) {
                0 => udp(from, to, ports),
                _ => tcp(from, to, ports, (SYN, 1, 0), 0),
            };
            let sum = |world: &World| {
                let all = (0..4).map(|port| total(world, port));
                all.fold((0, 0, 0), |sum, one| {
                    (sum.0 + one.agrees, sum.1 + one.would_deny, sum.2 + one.would_allow)
                })
            };
            let before = sum(&worlds[1]);
            let [(plain, seen), (shadowed, seen_too), (then, _)] =
                worlds.each_mut().map(|world| outcome(world, from, to, &frame));
            assert_eq!((plain, seen), (shadowed, seen_too), "seed {seed}, packet {at}: it had an effect");
            let after = sum(&worlds[1]);
            let concerned = candidates[usize::from(from)].is_some() || candidates[usize::from(to)].is_some();
            let said = (after.0 > before.0, after.1 > before.1, after.2 > before.2);
            match (plain, then) {
                _ if !concerned => assert_eq!(before, after),
                (true, false) => assert!(said.1 && !said.2, "seed {seed}, packet {at}: {said:?}"),
                (false, true) => assert!(said.2 && !said.1, "seed {seed}, packet {at}: {said:?}"),
                _ => assert_eq!(said, (true, false, false), "seed {seed}, packet {at}"),
            }
            denied += u32::from(concerned && plain && !then);
            allowed += u32::from(concerned && !plain && then);
            agreed += u32::from(concerned && plain == then);
            if plain && frame[23] == UDP {
                // What answers is established: it is not judged, nor compared.
                let answer = udp(to, from, [ports[1], ports[0]]);
                let [mine, other] = [0, 1].map(|at| outcome(&mut worlds[at], to, from, &answer));
                assert_eq!(mine, other);
                worlds[2].send_all(to, &[answer]);
                worlds[2].receive(from);
                worlds.iter_mut().for_each(|world| world.now += SECOND / 1000);
                assert_eq!(sum(&worlds[1]), after);
                answers += 1;
            }
            worlds.iter().for_each(|world| while world.control.differences().pop().is_some() {});
        }
    }
    assert!(
        denied > 500 && allowed > 500 && agreed > 500 && answers > 500,
        "{denied} {allowed} {agreed} {answers}"
    );
}
