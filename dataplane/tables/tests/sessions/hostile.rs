//! Ports that want more than their share, and threads that meet.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Barrier};

use towpath_tables::sessions::*;

use crate::*;

/// Numbers that a guest could choose.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn of(port: u16, key: Key4, now: u32) -> New<Key4> {
    New { owner: port, ..new(key, now) }
}

fn flow(port: u16, number: u32) -> Key4 {
    let own = Ipv4Addr::from([10, 1, port.to_be_bytes()[1], 1]);
    Key4::new(attachment_of_port(port), Key4::addresses(own, B), 17, number)
}

fn establish(worker: &mut SessionWorker, port: u16, number: u32, now: u32) {
    let session = made(worker.create(&of(port, flow(port, number), now)));
    let checked = worker.check(session.opposite().found(), &packet(MAC_A, 60), EPOCH, now, never);
    assert!(matches!(checked, Checked::Pass(_)));
}

/// S-04, S-07: a flood of new flows from one port.
#[test]
fn s04_a_flood_of_one_port_costs_nobody_else_anything() {
    let quota = Quota { half_open: 500, ..Quota::default() };
    let table = Sessions::create(&Options { quota, ..options(4000) }).unwrap();
    let mut worker = table.worker(0, 0).unwrap();
    (0..200).for_each(|number| establish(&mut worker, 2, number, 0));
    (0..50).for_each(|number| establish(&mut worker, 3, number, 0));
    let mut state = 1;
    let mut refused = 0;
    for round in 0..20_000u32 {
        let port = flow(3, random(&mut state) as u32);
        refused += u32::from(worker.create(&of(3, port, round / 16)).is_err());
        if round % 100 == 99 {
            establish(&mut worker, 2, 1000 + round, round / 16);
            worker.step(round / 16);
        }
    }
    let counts = table.port_counts(3);
    assert_eq!((counts.half_open, refused), (500, 0), "the oldest half-open ones made room");
    assert_eq!(counts.sessions, 550);
    assert_eq!(counts.displaced, 20_000 - 500);
    assert_eq!(table.port_counts(2).sessions, 400);
    for (port, number) in (0..200).map(|number| (2, number)).chain((0..50).map(|number| (3, number))) {
        assert!(worker.find(flow(port, number)).is_some(), "established session {number} of port {port}");
    }
}

/// S-07: every record in use.
#[test]
fn s07_a_table_that_fills_up_refuses_who_fills_it() {
    let quota = Quota { guaranteed: 20, share: 1, ..Quota::default() };
    let table = Sessions::create(&Options { quota, ..options(1000) }).unwrap();
    let mut worker = table.worker(0, 0).unwrap();
    let mut have = [0; 4];
    for number in 0..1000 {
        for port in [1, 2] {
            let new = of(port, flow(port, number), 0);
            if let Ok(Created::New(session)) = worker.create(&new) {
                let _ = worker.check(session.opposite().found(), &packet(MAC_A, 60), EPOCH, 0, never);
                have[usize::from(port)] += 1;
            }
        }
        worker.step(0);
    }
    // Each may have as many as are free: a third.
    assert!(have[1..3].iter().all(|have| (320..=350).contains(have)), "{have:?}");
    assert_eq!(worker.create(&of(1, flow(1, 5000), 0)), Err(Refused::Share));
    (0..100).for_each(|number| establish(&mut worker, 3, number, 0));
    assert!(table.port_counts(1).refused > 300);
    assert_eq!(
        table.statistics().refused_share as u32,
        table.port_counts(1).refused + table.port_counts(2).refused
    );
    for (port, count) in [(1, have[1]), (2, have[2]), (3, 100)] {
        let there = (0..count).filter(|number| worker.find(flow(port, *number)).is_some()).count();
        assert_eq!(there as u32, count, "established sessions of port {port}");
    }
    // What everybody is sure of fills the rest, and then nobody gets any more.
    let mut refused = None;
    'fill: for port in 10..200 {
        for number in 0..20 {
            if let Err(error) = worker.create(&of(port, flow(port, number), 0)) {
                refused = Some(error);
                break 'fill;
            }
        }
    }
    assert_eq!(refused, Some(Refused::TableFull));
}

#[test]
fn a_port_has_no_more_than_its_quota() {
    let quota = Quota { sessions: 10, ..Quota::default() };
    let table = Sessions::create(&Options { quota, ..options(1000) }).unwrap();
    let mut worker = table.worker(0, 0).unwrap();
    (0..9).for_each(|number| establish(&mut worker, 1, number, 0));
    for number in 9..100 {
        made(worker.create(&of(1, flow(1, number), 0)));
        assert_eq!(table.port_counts(1).sessions, 10);
        worker.step(0);
    }
    establish(&mut worker, 1, 100, 0);
    assert_eq!(worker.create(&of(1, flow(1, 101), 0)), Err(Refused::Quota), "all are established");
    assert!((0..9).all(|number| worker.find(flow(1, number)).is_some()));
}

/// S-02: however the keys are chosen, a look-up reads eight lines at most; a full table has room for nearly every flow.
#[test]
fn s02_a_full_table_has_room_for_what_it_promises() {
    for stride in [1, 1 << 16, 0x0101_0101] {
        let quota = Quota { half_open: u32::MAX, share: u32::MAX, ..Quota::default() };
        let table = Sessions::create(&Options { quota, ..options(20_000) }).unwrap();
        let mut worker = table.worker(0, 0).unwrap();
        let numbers = || (0..20_000u32).map(|number| number.wrapping_mul(stride).rotate_left(number / 5_000));
        let made: Vec<(u32, bool)> = numbers()
            .map(|number| (number, matches!(worker.create(&of(1, flow(1, number), 0)), Ok(Created::New(_)))))
            .collect();
        let unique: std::collections::BTreeSet<u32> = numbers().collect();
        let crowded = table.statistics().refused_crowded;
        assert!(crowded <= 2, "stride {stride}: {crowded}");
        assert!(
            made.iter().filter(|(_, made)| *made).count() + 2 >= unique.len().min(20_000),
            "stride {stride}"
        );
        assert!(made.iter().all(|(number, made)| !made || worker.find(flow(1, *number)).is_some()));
    }
}

#[test]
fn what_a_port_has_goes_with_it() {
    let (table, mut worker) = table(1000);
    (0..100).for_each(|number| establish(&mut worker, 1, number, 0));
    (0..100).for_each(|number| establish(&mut worker, 5, number, 0));
    let gone = |ports: &[u16]| {
        let (ports, before) = (ports.iter().copied().collect(), table.statistics().cut);
        let (mut from, mut steps) = (Some(0), 0);
        while let Some(at) = from {
            from = table.forget_ports(&ports, at, 30);
            steps += 1;
        }
        assert!(steps > 6, "no step looks at the whole table");
        table.statistics().cut - before
    };
    assert_eq!(gone(&[1, 9]), 100);
    assert_eq!((table.port_counts(1).sessions, table.port_counts(5).sessions), (0, 100));
    assert!((0..100).all(|number| worker.find(flow(1, number)).is_none()));
    assert_eq!(gone(&[2]), 100, "who answers counts, too");
    for _ in 0..20 {
        worker.step(0);
    }
    drop(worker);
    let statistics = table.statistics();
    assert_eq!((statistics.ipv4, statistics.cut), (0, 200));
    assert_eq!(statistics.ipv4_free, 1000, "all records are free again");
}

/// Two workers meet both directions of the same flows at once, cut and age them, and find whole ways only.
#[test]
fn two_workers_agree_on_every_session() {
    const FLOWS: u32 = 64;
    const ROUNDS: u32 = 3_000;
    // Room for what rests while one of the threads has no processor.
    let table = Sessions::create(&options(20_000)).unwrap();
    let (start, clock) = (Arc::new(Barrier::new(2)), Arc::new(AtomicU32::new(0)));
    let failed = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..2u8)
        .map(|number| {
            let (table, start, clock, failed) = (table.clone(), start.clone(), clock.clone(), failed.clone());
            std::thread::spawn(move || {
                let mut worker = table.worker(number, 0).unwrap();
                let mut state = u64::from(number) + 1;
                let (mut joined, mut made) = (0u32, 0u32);
                start.wait();
                for _ in 0..ROUNDS {
                    let now = clock.fetch_add(20, Relaxed);
                    for _ in 0..16 {
                        let flow = flow(1, random(&mut state) as u32 % FLOWS);
                        let [mut initiator, mut responder] = sides(flow);
                        let mac = if number == 0 { MAC_B } else { MAC_A };
                        if number == 1 {
                            std::mem::swap(&mut initiator, &mut responder);
                        }
                        let new = New { initiator, responder, facts: packet(mac, 60), ..new(flow, now) };
                        match worker.create(&new) {
                            Ok(Created::New(_)) => made += 1,
                            Ok(Created::Existing(session)) => {
                                joined += 1;
                                let checked = worker.check(session.found(), &new.facts, EPOCH, now, never);
                                let (_, expected) = initiator.way.unwrap();
                                if !matches!(checked, Checked::Gone) && checked != Checked::Pass(expected) {
                                    failed.store(true, Relaxed);
                                }
                                if random(&mut state).is_multiple_of(8) {
                                    worker.cut(session);
                                }
                            }
                            Err(Refused::TableFull) => std::thread::yield_now(),
                            other => panic!("{other:?}"),
                        }
                    }
                    worker.step(now);
                }
                worker.off_line();
                (worker, joined, made)
            })
        })
        .collect();
    let mut results: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(!failed.load(Relaxed));
    assert!(results.iter().all(|(_, joined, made)| *joined > 100 && *made > 100));
    let end = clock.load(Relaxed) + 1_000_000;
    for _ in 0..100 {
        results.iter_mut().for_each(|(worker, ..)| worker.step(end));
    }
    assert_eq!(table.port_counts(1), PortCounts { sessions: 0, half_open: 0, ..table.port_counts(1) });
    assert!((0..FLOWS).all(|number| results[0].0.find(flow(1, number)).is_none()));
    let created: u32 = results.iter().map(|(_, _, made)| made).sum();
    let statistics = table.statistics();
    assert_eq!(statistics.created, u64::from(created));
    assert_eq!(statistics.expired + statistics.cut, u64::from(created), "each ended once");
    drop(results);
    assert_eq!((table.statistics().ipv4, table.statistics().ipv4_free), (0, 20_000), "no record was lost");
}
