//! What sessions cost: a look-up and a check, per packet, in bursts of 32, and making sessions while as many end.
//! `cargo bench -p towpath-tables --bench sessions [-- <part of a name> <number of sessions>]`.
//!
//! Figures are medians over windows of some milliseconds, less what the loop costs that makes the keys and looks up nothing. Cycles are those of the
//! time stamp counter.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a benchmark")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use packet::MacAddr;
use packet::tcp::{ACK, FIN, SYN, Segment};
use towpath_tables::sessions::*;

const BURST: usize = 32;
const WINDOWS: usize = 101;
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// Numbers in an order that no prefetcher guesses, each a few cycles.
struct Numbers {
    state: u64,
    count: u64,
}

impl Numbers {
    fn new(count: u64) -> Self {
        Self { state: 1, count }
    }

    #[inline(always)]
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        ((self.state >> 32) * self.count) >> 32
    }
}

/// The flow of this number, from port 1 to port 2.
#[inline(always)]
fn key4(number: u64, protocol: u8) -> Key4 {
    Key4::new(
        1,
        0x0200_000a_0100_000a ^ (number & 0xffff) << 40,
        protocol,
        0x3500_0000 | (number >> 16) as u32,
    )
}

#[inline(always)]
fn key6(number: u64, protocol: u8) -> Key6 {
    let mut addresses = [0; 32];
    addresses[0] = 0xfd;
    addresses[8..16].copy_from_slice(&number.to_be_bytes());
    addresses[16] = 0xfd;
    addresses[31] = 2;
    Key6::new(1, &addresses, protocol, 0x3500_0000 | number as u32 & 0xffff)
}

fn facts(protocol: u8) -> Facts {
    let segment =
        Segment { flags: ACK, sequence: 1, acknowledgment: 1, payload: 0, window: 1000, scale: None };
    Facts { destination_mac: MAC.to_u64(), length: 64, tcp: (protocol == 6).then_some(segment) }
}

fn new<K: Key>(key: K, facts: Facts, now: u32) -> New<K> {
    let way = Some((MAC, Way { output: 2, rewrite: None, translate: false }));
    let side = |key| Side { key, way, stamp: 1 };
    let (initiator, responder) = (side(key), side(key.reversed(2)));
    New { owner: 1, initiator, responder, epoch: 1, facts, rules: [1, 2], now }
}

fn options(sessions: u32) -> Options {
    let generous = Quota { half_open: u32::MAX, share: u32::MAX, ..Quota::default() };
    Options { ipv4: sessions, ipv6: sessions, quota: generous, huge_pages: true, ..Options::new([1, 2]) }
}

/// Median cycles per packet of `burst`, which handles [`BURST`] packets.
fn cycles(mut burst: impl FnMut()) -> f64 {
    let mut windows: Vec<f64> = (0..WINDOWS)
        .map(|_| {
            let rounds = 1000;
            let begin = cpu::time_stamp();
            (0..rounds).for_each(|_| burst());
            (cpu::time_stamp() - begin) as f64 / (rounds * BURST) as f64
        })
        .collect();
    windows.sort_by(f64::total_cmp);
    windows[WINDOWS / 2]
}

trait Look: Key {
    fn look_up(worker: &SessionWorker, keys: &[Self], found: &mut [Found]);
}

impl Look for Key4 {
    fn look_up(worker: &SessionWorker, keys: &[Self], found: &mut [Found]) {
        worker.look_up4(keys, found);
    }
}

impl Look for Key6 {
    fn look_up(worker: &SessionWorker, keys: &[Self], found: &mut [Found]) {
        worker.look_up6(keys, found);
    }
}

/// Fills a table with `count` established sessions.
fn filled<K: Key>(count: u64, capacity: u32, protocol: u8, key: fn(u64, u8) -> K) -> SessionWorker {
    let table = Sessions::create(&options(capacity)).unwrap();
    let mut worker = table.worker(0, 0).unwrap();
    for number in 0..count {
        match worker.create(&new(key(number, protocol), facts(protocol), 0)) {
            Ok(Created::New(session)) => {
                let answer = worker.check(session.opposite().found(), &facts(protocol), 1, 0, |_, _| 1);
                assert!(matches!(answer, Checked::Pass(_)));
            }
            other => panic!("{number}: {other:?}"),
        }
        if number % 256 == 0 {
            worker.step(0);
        }
    }
    worker
}

fn established<K: Look>(name: &str, count: u64, protocol: u8, key: fn(u64, u8) -> K) {
    let mut worker = filled(count, 1 << 20, protocol, key);
    let mut found = [Found::NONE; BURST];
    let facts = facts(protocol);
    let mut numbers = Numbers::new(count);
    let bare = cycles(|| {
        let keys: [K; BURST] = std::array::from_fn(|_| key(numbers.next(), protocol));
        black_box(&keys);
    });
    let look = cycles(|| {
        let keys: [K; BURST] = std::array::from_fn(|_| key(numbers.next(), protocol));
        K::look_up(&worker, black_box(&keys), &mut found);
        black_box(&found);
    });
    let mut passed = 0u64;
    let both = cycles(|| {
        let keys: [K; BURST] = std::array::from_fn(|_| key(numbers.next(), protocol));
        K::look_up(&worker, black_box(&keys), &mut found);
        for found in found {
            if let Checked::Pass(way) = worker.check(found, black_box(&facts), 1, 1, |_, _| 1) {
                passed += u64::from(way.output);
            }
        }
    });
    assert_eq!(passed, 2 * (WINDOWS * 1000 * BURST) as u64);
    let (table, mut guesses, mut shortly) = (Arc::clone(worker.table()), [Guess::NONE; BURST], 0u64);
    let pass = cycles(|| {
        let keys: [K; BURST] = std::array::from_fn(|_| key(numbers.next(), protocol));
        let keys = black_box(&keys);
        table.guess(keys, &mut guesses);
        let passage = table.passage(1, 1);
        for (key, guess) in keys.iter().zip(guesses) {
            let facts = black_box(&facts);
            let packet = Packet { key, destination_mac: facts.destination_mac, length: facts.length };
            match passage.pass(guess, &packet, || facts.tcp) {
                Some(way) => shortly += u64::from(way.output),
                None => {
                    let Checked::Pass(way) = worker.check(worker.find(*key), facts, 1, 1, |_, _| 1) else {
                        continue;
                    };
                    shortly += u64::from(way.output);
                }
            }
        }
    });
    assert_eq!(shortly, passed);
    println!(
        "{name:<34} {count:>9} sessions: look-up {:6.1}, with check {:6.1}, the short way {:6.1} cycles a packet",
        look - bare,
        both - bare,
        pass - bare
    );
}

/// Median over seconds of the connections per second that are made and end, `live` at a time, in a table of twice as many.
fn made(name: &str, live: u32, protocol: u8) {
    let mut options = options(2 * live);
    // Each lives for as long as it takes to make all of them: measured below, in milliseconds of a clock of our own.
    options.timeouts.udp_stream = 1_000;
    options.timeouts.udp_unreplied = 1_000;
    options.timeouts.tcp.time_wait = 1_000;
    let table = Sessions::create(&options).unwrap();
    let mut worker = table.worker(0, 0).unwrap();
    let per_tick = live / 1_000;
    let mut number = 0;
    let mut rates = Vec::new();
    for second in 0..6u32 {
        let begin = Instant::now();
        for tick in 0..1_000 {
            let now = second * 1_000 + tick;
            for burst in 0..per_tick / 16 {
                let _ = burst;
                connections(&mut worker, number, protocol, now);
                number += 16;
                worker.step(now);
            }
        }
        let statistics = table.statistics();
        rates.push((f64::from(per_tick / 16 * 16) * 1_000.0 / begin.elapsed().as_secs_f64(), statistics));
    }
    let (_, last) = rates[rates.len() - 1];
    let mut steady: Vec<f64> = rates[2..].iter().map(|(rate, _)| *rate).collect();
    steady.sort_by(f64::total_cmp);
    println!(
        "{name:<34} {:>9} in a table of {}: {:.2} million connections a second ({} ended)",
        last.ipv4,
        last.ipv4_capacity,
        steady[steady.len() / 2] / 1e6,
        last.expired
    );
}

/// Sixteen whole connections: UDP request and reply, or TCP open and close.
fn connections(worker: &mut SessionWorker, number: u64, protocol: u8, now: u32) {
    let keys: [Key4; 16] = std::array::from_fn(|at| key4(number + at as u64, protocol));
    let answers = keys.map(|key| key.reversed(2));
    let segment = |flags, sequence, acknowledgment| {
        let segment = Segment { flags, sequence, acknowledgment, payload: 0, window: 1000, scale: None };
        Facts { tcp: Some(segment), ..facts(17) }
    };
    let mut found = [Found::NONE; 16];
    worker.look_up4(&keys, &mut found);
    let first = if protocol == 6 { segment(SYN, 0, 0) } else { facts(17) };
    for key in keys {
        let made = worker.create(&new(key, first, now));
        assert!(matches!(made, Ok(Created::New(_))), "{number}: {made:?}");
    }
    let mut pass = |keys: &[Key4; 16], facts: &Facts| {
        worker.look_up4(keys, &mut found);
        for found in found {
            assert!(matches!(worker.check(found, facts, 1, now, |_, _| 1), Checked::Pass(_)));
        }
    };
    if protocol == 17 {
        return pass(&answers, &facts(17));
    }
    pass(&answers, &segment(SYN | ACK, 100, 1));
    pass(&keys, &segment(ACK, 1, 101));
    pass(&keys, &segment(FIN | ACK, 1, 101));
    pass(&answers, &segment(FIN | ACK, 101, 2));
    pass(&keys, &segment(ACK, 2, 102));
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |name: &str| {
        wanted.iter().all(|word| word.parse::<u64>().is_ok())
            || wanted.iter().any(|word| name.contains(word.as_str()))
    };
    // A number alone says how many sessions.
    let only = wanted.iter().find_map(|word| word.parse::<u64>().ok());
    for count in
        [1_000, 100_000, 1_000_000].into_iter().filter(|count| only.is_none_or(|only| only == *count))
    {
        for (name, protocol) in [("IPv4 UDP", 17), ("IPv4 TCP", 6)] {
            if is_wanted(name) {
                established(name, count, protocol, key4);
            }
        }
        if is_wanted("IPv6 UDP") {
            established("IPv6 UDP", count, 17, key6);
        }
    }
    for (name, protocol) in [("make UDP request and reply", 17), ("make TCP open and close", 6)] {
        if is_wanted(name) {
            made(name, 1_000_000, protocol);
        }
    }
}
