//! Wrappers change nothing they should not, and everything they should; the conformance suite sees every planted fault.

mod support;

use buf::Pool;
use std::panic::{AssertUnwindSafe, catch_unwind};
use support::{Wires, measure, wires};
use towpath_ports::conformance::{self, Taken, give_all, numbered, receive_all, send_short, take_all};
use towpath_ports::loopback::{LoopbackRx, LoopbackTx, loopback};
use towpath_ports::wrap::capture::{Captured, Capturing, capture};
use towpath_ports::wrap::fault::{FaultCounts, FaultRates, Faulty};

const ALWAYS: u32 = 1_000_000;

fn faulty(rates: FaultRates) -> Wires<Faulty<LoopbackRx>, Faulty<LoopbackTx>> {
    wires(|rx, pool| Faulty::new(rx, 1, rates, pool), |tx, pool| Faulty::new(tx, 2, rates, pool))
}

mod no_faults {
    use super::*;

    towpath_ports::conformance_tests!(|| faulty(FaultRates::default()), measure);
}

mod capturing {
    use super::*;

    /// The captures are dropped at once, so that no copy is held; copies are looked at below.
    fn make() -> Wires<Capturing<LoopbackRx>, Capturing<LoopbackTx>> {
        wires(|rx, pool| capture(rx, pool, 64, || 0).0, |tx, pool| capture(tx, pool, 64, || 0).0)
    }

    towpath_ports::conformance_tests!(make, measure);
}

fn fails(check: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(check)).is_err()
}

#[test]
fn the_suite_sees_every_fault() {
    for rates in [
        FaultRates { lose: 20_000, ..FaultRates::default() },
        FaultRates { double: 20_000, ..FaultRates::default() },
        FaultRates { corrupt: 20_000, ..FaultRates::default() },
        FaultRates { truncate: 20_000, ..FaultRates::default() },
        FaultRates { reorder: 20_000, ..FaultRates::default() },
    ] {
        assert!(
            fails(|| conformance::bursts_of_any_size_keep_their_order(|| faulty(rates)))
                || fails(|| conformance::all_lengths_arrive_whole(|| faulty(rates))),
            "{rates:?}"
        );
    }
    let lossy = FaultRates { lose: 50_000, ..FaultRates::default() };
    assert!(fails(|| conformance::a_full_receiver_is_counted(|| faulty(lossy))));
    assert!(fails(|| conformance::reports_add_up(|| faulty(lossy))));
    let dead = FaultRates { lose: ALWAYS, ..FaultRates::default() };
    assert!(fails(|| conformance::bursts_are_bounded_in_bytes(|| faulty(dead))));
    assert!(fails(|| conformance::arming_reports_what_is_there_and_what_comes(|| faulty(dead))));
    assert!(fails(|| conformance::completing_returns_the_buffers(|| faulty(lossy))));
    assert!(fails(|| conformance::too_large_frames_are_counted(|| faulty(FaultRates {
        double: ALWAYS,
        ..FaultRates::default()
    }))));
}

/// Sends `count` frames through a faulty wire and returns what arrived.
fn through(rates: FaultRates, seed: u64, count: u64) -> (Vec<Taken>, FaultCounts) {
    let pool = Pool::new(4096);
    let (mut rx, tx) = loopback(&pool, 2048, || {});
    let mut tx = Faulty::new(tx, seed, rates, &pool);
    let frames: Vec<Vec<u8>> = (0..count).map(|number| numbered(number, 100)).collect();
    assert_eq!(
        send_short(&mut tx, &frames).sent as u64,
        count,
        "a fault on the wire is none of the sender's"
    );
    let taken = receive_all(&mut rx, usize::MAX);
    let counts = tx.counts();
    drop((rx, tx));
    assert_eq!(pool.available(), 4096);
    (taken, counts)
}

#[test]
fn each_fault_is_what_it_says_and_is_counted() {
    let whole = numbered(0, 100);
    let rates =
        |lose, double, corrupt, truncate, reorder| FaultRates { lose, double, corrupt, truncate, reorder };
    let (taken, counts) = through(rates(ALWAYS, 0, 0, 0, 0), 1, 10);
    assert_eq!((taken.len(), counts.lost), (0, 10));
    let (taken, counts) = through(rates(0, ALWAYS, 0, 0, 0), 1, 10);
    assert_eq!((taken.len(), counts.doubled), (20, 10));
    assert!(taken.chunks(2).all(|pair| pair[0] == pair[1]));
    let (taken, counts) = through(rates(0, 0, ALWAYS, 0, 0), 1, 1);
    let changed: u32 = taken[0].bytes.iter().zip(&whole).map(|(a, b)| (a ^ b).count_ones()).sum();
    assert_eq!((changed, taken[0].bytes.len(), counts.corrupted), (1, 100, 1));
    let (taken, counts) = through(rates(0, 0, 0, ALWAYS, 0), 1, 1);
    let left = taken[0].bytes.len();
    assert!((1..100).contains(&left));
    assert_eq!((&taken[0].bytes[..], counts.truncated), (&whole[..left], 1));
    // Every other frame is held back behind its successor, which is held back in turn: all late by one, the last at the flush.
    let (taken, counts) = through(rates(0, 0, 0, 0, ALWAYS), 1, 3);
    assert_eq!((taken.len(), counts.reordered), (3, 3));
    let (taken, counts) = through(rates(0, 0, 0, 0, 300_000), 5, 1000);
    let numbers: Vec<u64> =
        taken.iter().map(|t| u64::from_be_bytes(t.bytes[..8].try_into().unwrap())).collect();
    let swaps = numbers.windows(2).filter(|pair| pair[0] > pair[1]).count() as u64;
    assert!(swaps > 100 && swaps <= counts.reordered, "{swaps} of {}", counts.reordered);
    assert_eq!(taken.len(), 1000, "nothing is lost by being late");
}

#[test]
fn a_seed_repeats_its_faults_and_another_does_not() {
    let rates =
        FaultRates { lose: 100_000, double: 100_000, corrupt: 100_000, truncate: 100_000, reorder: 100_000 };
    let first = through(rates, 7, 1000);
    assert_eq!(first, through(rates, 7, 1000));
    assert_ne!(first, through(rates, 8, 1000));
    let counts = first.1;
    assert_eq!(counts.frames, 1000);
    for count in [counts.lost, counts.doubled, counts.corrupted, counts.truncated, counts.reordered] {
        assert!((60..140).contains(&count), "a tenth of a thousand: {counts:?}");
    }
}

#[test]
fn a_faulty_receiver_has_the_same_faults() {
    let rates = FaultRates { lose: 100_000, double: 100_000, reorder: 100_000, ..FaultRates::default() };
    let mut wires = faulty(rates);
    let (mut given, mut taken) = (0, 0);
    for round in 0..50u64 {
        let frames: Vec<Vec<u8>> = (0..20).map(|at| numbered(round * 20 + at, 90)).collect();
        given += give_all(&mut wires, &frames);
        taken += receive_all(&mut wires.near.0, usize::MAX).len();
    }
    let counts = wires.near.0.counts();
    assert_eq!(given, 1000);
    assert_eq!(taken as u64, 1000 - counts.lost + counts.doubled, "{counts:?}");
    wires.near.0.set_rates(FaultRates::default());
    assert_eq!(give_all(&mut wires, &[numbered(1, 60)]), 1);
    assert_eq!(receive_all(&mut wires.near.0, 1).len(), 1);
}

#[test]
fn captures_hold_what_passed_with_its_time_and_lose_what_they_have_no_room_for() {
    let (mut seen_rx, mut seen_tx): (Option<Captured>, Option<Captured>) = (None, None);
    let mut wires = wires(
        |rx, pool| {
            let (queue, captured) = capture(rx, pool, 8, || 1_000);
            seen_rx = Some(captured);
            queue
        },
        |tx, pool| {
            let (queue, captured) = capture(tx, pool, 64, || 2_000);
            seen_tx = Some(captured);
            queue
        },
    );
    let (mut seen_rx, mut seen_tx) = (seen_rx.unwrap(), seen_tx.unwrap());
    let frames: Vec<Vec<u8>> = (0..10).map(|number| numbered(number, 70)).collect();
    assert_eq!(give_all(&mut wires, &frames), 10);
    assert_eq!(receive_all(&mut wires.near.0, 10).len(), 10, "a full capture holds nothing up");
    assert_eq!(send_short(&mut wires.near.1, &frames).sent, 10);
    assert_eq!(take_all(&mut wires).len(), 10);
    let drained = |captured: &mut Captured| -> Vec<(u64, Vec<u8>)> {
        std::iter::from_fn(|| captured.next_frame())
            .map(|(time, packet)| (time, packet.with_frame(|frame| frame.to_vec())))
            .collect()
    };
    let received = drained(&mut seen_rx);
    assert!(
        received.iter().map(|(time, bytes)| (*time, bytes)).eq(frames.iter().take(8).map(|f| (1_000, f)))
    );
    assert_eq!(seen_rx.lost(), 2);
    let sent = drained(&mut seen_tx);
    assert!(sent.iter().map(|(time, bytes)| (*time, bytes)).eq(frames.iter().map(|frame| (2_000, frame))));
    assert_eq!(seen_tx.lost(), 0);
    assert_eq!(wires.pool.available(), 1024, "what was written down is free again");
}
