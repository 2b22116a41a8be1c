//! Events, buffers, allocations and the end of a queue.

use super::{Fixture, give_all, numbered, receive, receive_all, send_short, take_all};
use buf::{BURST_PACKETS, Burst, Frame, Offload};
use engine::Armed;
use std::hint::black_box;

/// Arming says [`Armed::Ready`] when there is a packet already, else an event comes with the next one. A driver that raises no
/// events always says `Ready`, so that nobody sleeps on it.
///
/// # Panics
///
/// When a packet could be slept through.
pub fn arming_reports_what_is_there_and_what_comes<F: Fixture>(make: impl FnOnce() -> F) {
    let mut fixture = make();
    let frame = vec![numbered(1, 60)];
    for _ in 0..3 {
        assert_eq!(give_all(&mut fixture, &frame), 1);
        assert_eq!(fixture.rx().arm(), Armed::Ready, "there is a packet");
        fixture.rx().disarm();
        assert_eq!(receive(fixture.rx()).0.len(), 1);
        let _ = fixture.woken();
        if fixture.woken().is_none() {
            assert_eq!(fixture.rx().arm(), Armed::Ready, "without events nobody may sleep");
            fixture.rx().disarm();
            continue;
        }
        assert_eq!(fixture.rx().arm(), Armed::Quiet, "there is nothing");
        assert_eq!(fixture.woken(), Some(false), "nothing happened yet");
        assert_eq!(give_all(&mut fixture, &frame), 1);
        assert_eq!(fixture.woken(), Some(true), "an event comes with the packet");
        fixture.rx().disarm();
        assert_eq!(receive(fixture.rx()).0.len(), 1);
    }
    // What did not fit one burst counts as being there.
    let frames: Vec<Vec<u8>> = (0..BURST_PACKETS as u64 + 1).map(|number| numbered(number, 60)).collect();
    assert_eq!(give_all(&mut fixture, &frames), frames.len());
    assert_eq!(receive(fixture.rx()).0.len(), BURST_PACKETS);
    assert_eq!(fixture.rx().arm(), Armed::Ready, "one packet was left over");
    fixture.rx().disarm();
    assert_eq!(receive(fixture.rx()).0.len(), 1);
}

/// After `complete` every buffer is back with its owner, also when a burst was polled and never completed; thousands of rounds wear
/// nothing out.
///
/// # Panics
///
/// When buffers are missing or appear.
pub fn completing_returns_the_buffers<F: Fixture>(make: impl FnOnce() -> F) {
    let mut fixture = make();
    let free = fixture.free_buffers();
    let before = free();
    for round in 0..2 * fixture.depth() {
        let frames: Vec<Vec<u8>> =
            (0..1 + round % 33).map(|at| numbered(at as u64, 100 + round % 28)).collect();
        assert_eq!(give_all(&mut fixture, &frames), frames.len(), "round {round}");
        if round % 5 == 0 {
            let mut burst = Burst::new();
            fixture.rx().poll(&mut burst);
            assert!(!burst.is_empty());
        }
        while !receive(fixture.rx()).0.is_empty() {}
        assert_eq!(free(), before, "after {} frames in round {round}", frames.len());
        assert_eq!(send_short(fixture.tx(), &frames).sent as usize, frames.len(), "round {round}");
        assert_eq!(take_all(&mut fixture).len(), frames.len());
        assert_eq!(free(), before, "after {} frames sent in round {round}", frames.len());
    }
}

/// Queues dropped with frames polled and not completed, sent and not taken, given and not polled hold no buffer afterwards.
///
/// # Panics
///
/// When buffers are missing.
pub fn dropping_the_queues_leaks_nothing<F: Fixture>(make: impl FnOnce() -> F) {
    let mut fixture = make();
    let free = fixture.free_buffers();
    let before = free();
    let frames: Vec<Vec<u8>> = (0..BURST_PACKETS as u64 + 8).map(|number| numbered(number, 128)).collect();
    assert_eq!(give_all(&mut fixture, &frames), frames.len());
    assert_eq!(receive_all(fixture.rx(), 1).len(), BURST_PACKETS);
    let mut burst = Burst::new();
    fixture.rx().poll(&mut burst);
    assert_eq!(burst.len(), 8);
    assert_eq!(give_all(&mut fixture, &frames[..5]), 5);
    assert_eq!(send_short(fixture.tx(), &frames[..32]).sent, 32);
    assert_ne!(free(), before, "something is held");
    drop(fixture);
    assert_eq!(free(), before);
}

/// Polling, completing, sending, flushing, arming and disarming allocate nothing. `measure` runs a closure and returns how many
/// allocations it made.
///
/// # Panics
///
/// When there was one.
pub fn nothing_is_allocated_per_packet<F: Fixture>(
    make: impl FnOnce() -> F,
    measure: fn(&mut dyn FnMut()) -> u64,
) {
    assert_ne!(measure(&mut || drop(black_box(vec![1u8; 10]))), 0, "the measure sees allocations");
    let mut fixture = make();
    let frames: Vec<Vec<u8>> = (0..33).map(|at| numbered(at, 60 + at as usize)).collect();
    let whole: Vec<Frame<'_, '_>> =
        frames.iter().map(|bytes| Frame::from_head(bytes, Offload::NONE)).collect();
    let mut allocations = 0;
    for _ in 0..100 {
        assert_eq!(give_all(&mut fixture, &frames), frames.len());
        let mut received = 0;
        allocations += measure(&mut || {
            for _ in 0..frames.len() {
                let mut burst = Burst::new();
                fixture.rx().poll(&mut burst);
                received += burst.len();
                fixture.rx().complete();
            }
            fixture.rx().arm();
            fixture.rx().disarm();
            fixture.tx().send(&whole);
            fixture.tx().flush();
        });
        assert_eq!((received, take_all(&mut fixture).len()), (frames.len(), frames.len()));
    }
    assert_eq!(allocations, 0, "in 100 bursts");
}
