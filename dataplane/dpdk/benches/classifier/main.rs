//! Rules beside DPDK's `rte_acl` with the same rules and packets: cycles per look-up in bursts of 32, the time to compile, and look-ups while another thread
//! changes 100,000 rules per second. They take turns; medians of many turns. `cargo bench -p towpath-dpdk --bench classifier`; with hugepages `rte_acl` has
//! them, which our rules do not.
//!
//! A packet of `rte_acl` is protocol, address, two ports (the first of which no rule looks at: fields come in fours of bytes). Every verdict of the one is
//! compared with the other's.

#![allow(unsafe_code, reason = "one half is DPDK")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a benchmark fails by panicking; its helper has public items"
)]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tables::rules::{Action, Direction, Flow, Judgement, Policy, PolicyWriter, Rule};
use towpath_dpdk::{Eal, EalOptions, register_worker};

mod acl;
mod rulesets;

use acl::{ALGORITHMS, Acl, bytes_of, rule_of};
use rulesets::{Random, Shape, flows};

const BURST: usize = 32;
/// Packets that are looked up in turn.
const PACKETS: usize = 1 << 16;
const TURNS: usize = 21;

/// Cycles per packet of one walk through all bursts.
fn cycles(packets: usize, mut burst: impl FnMut(usize)) -> f64 {
    let started = cpu::time_stamp();
    (0..packets / BURST).for_each(&mut burst);
    (cpu::time_stamp() - started) as f64 / packets as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

const NOTHING: Judgement = Judgement { allowed: false, rule: None, log: false };

/// One look-up after another, whose results are waited for.
fn singly(policy: &Policy, flows: &[Flow<'_>]) -> f64 {
    cycles(flows.len(), |at| {
        for flow in &flows[at * BURST..][..BURST] {
            black_box(policy.judge(Direction::Ingress, black_box(flow)));
        }
    })
}

fn in_bursts(policy: &Policy, flows: &[Flow<'_>]) -> f64 {
    let mut out = [NOTHING; BURST];
    cycles(flows.len(), |at| {
        policy.judge_batch(Direction::Ingress, black_box(&flows[at * BURST..][..BURST]), &mut out);
        black_box(&out);
    })
}

fn compare(shape: Shape, count: u32) {
    let mut rules = shape.rules(count);
    let started = Instant::now();
    let policy = Policy::compile(rules.iter().cloned(), true).unwrap();
    let compiled = started.elapsed();
    let compiles = (0..9).map(|_| {
        let started = Instant::now();
        black_box(Policy::compile(rules.iter().cloned(), true).unwrap());
        started.elapsed().as_secs_f64() * 1e3
    });
    let compile = median(compiles.collect());
    let flows = flows(&rules, PACKETS);
    rules.sort_by_key(|rule| (rule.priority, rule.action == Action::Allow, rule.counter));
    let acl_rules: Vec<acl::Rule> =
        rules.iter().enumerate().map(|(at, rule)| rule_of(rule, at, rules.len())).collect();
    let name = std::ffi::CString::new(format!("{shape:?}{count}")).unwrap();
    let (acl, built) = Acl::build(&name, &acl_rules);
    let bytes: Vec<[u8; 12]> = flows.iter().map(bytes_of).collect();
    let data: Vec<*const u8> = bytes.iter().map(|bytes| bytes.as_ptr()).collect();
    let mut results = vec![0u32; PACKETS];
    acl.classify(&data, &mut results, ALGORITHMS[0].1);
    for (flow, result) in flows.iter().zip(&results) {
        let judged = policy.judge(Direction::Ingress, flow).rule.map_or(0, |rule| rule + 1);
        assert_eq!(judged, *result, "rte_acl says another rule: {flow:?}");
    }
    println!(
        "{shape:?}, {count} rules: {:?} tables, {} KiB, compiled in {compile:.1} ms (at first {:.1}); rte_acl builds in {:.0} ms",
        policy.tables(Direction::Ingress),
        policy.memory_bytes() / 1024,
        compiled.as_secs_f64() * 1e3,
        built.as_secs_f64() * 1e3,
    );
    let mut single = Vec::new();
    let mut batch = Vec::new();
    let mut theirs = vec![Vec::new(); ALGORITHMS.len()];
    for _ in 0..TURNS {
        single.push(singly(&policy, &flows));
        batch.push(in_bursts(&policy, &flows));
        for ((_, algorithm), theirs) in ALGORITHMS.iter().zip(&mut theirs) {
            let mut results = [0; BURST];
            theirs.push(cycles(PACKETS, |at| {
                acl.classify(black_box(&data[at * BURST..][..BURST]), &mut results, *algorithm);
                black_box(&results);
            }));
        }
    }
    let (single, batch) = (median(single), median(batch));
    println!("  ours: {single:.0} cycles per look-up one by one, {batch:.0} in bursts of {BURST}");
    for ((name, _), theirs) in ALGORITHMS.iter().zip(theirs) {
        let theirs = median(theirs);
        println!(
            "  rte_acl {name}: {theirs:.0} in bursts of {BURST}; ours {:.2}x as fast (one by one {:.2}x)",
            theirs / batch,
            theirs / single
        );
    }
    updates(shape, rules, &flows);
}

/// Look-ups while another thread changes rules, one in and one out, and publishes what became of them every 5 ms.
fn updates(shape: Shape, mut rules: Vec<Rule>, flows: &[Flow<'_>]) {
    const PER_SECOND: u64 = 100_000;
    let mut writer = PolicyWriter::new(true);
    rules.iter().for_each(|rule| writer.insert(rule).unwrap());
    let mut published = sync::Published::new(writer.policy().unwrap());
    let mut reader = published.reader();
    let (stop, done, busy) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random(0x5555_aaaa_1234_4321);
            let mut counter = rules.len() as u32;
            let mut worst = Duration::ZERO;
            while !stop.load(Relaxed) {
                let started = Instant::now();
                let due = began.elapsed().as_micros() as u64 * PER_SECOND / 1_000_000;
                // One rule out and another one in are two changes.
                while done.load(Relaxed) < due {
                    let at = random.below(rules.len() as u64) as usize;
                    let new = shape.rule(&mut random, counter);
                    counter += 1;
                    let old = std::mem::replace(&mut rules[at], new);
                    assert!(writer.remove(&old));
                    writer.insert(&rules[at]).unwrap();
                    done.fetch_add(2, Relaxed);
                    if started.elapsed() > Duration::from_millis(50) {
                        break;
                    }
                }
                published.publish(writer.policy().unwrap());
                let took = started.elapsed();
                worst = worst.max(took);
                busy.fetch_add(took.as_micros() as u64, Relaxed);
                std::thread::sleep(Duration::from_millis(5).saturating_sub(took));
            }
            println!(
                "  the longest change and publication of what was due: {:.1} ms",
                worst.as_secs_f64() * 1e3
            );
        });
        let mut beside = Vec::new();
        while began.elapsed() < Duration::from_secs(3) {
            reader.refresh();
            beside.push(in_bursts(reader.get(), flows));
        }
        let (changes, elapsed) = (done.load(Relaxed) as f64, began.elapsed().as_secs_f64());
        println!(
            "  beside {:.0} changes per second, which keep a thread busy for {:.0} %: {:.0} cycles in bursts",
            changes / elapsed,
            busy.load(Relaxed) as f64 / elapsed / 1e4,
            median(beside)
        );
        stop.store(true, Relaxed);
    });
}

fn main() {
    let options = EalOptions {
        memory_mebibytes: 1024,
        extra: vec!["--force-max-simd-bitwidth=512".to_owned()],
        ..EalOptions::default()
    };
    let eal = Eal::init(&options).unwrap();
    let _worker = register_worker(eal).unwrap();
    for shape in [Shape::Random, Shape::ClassBench] {
        for count in [10, 1_000, 10_000] {
            compare(shape, count);
        }
    }
}
