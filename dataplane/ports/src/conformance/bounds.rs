//! Bursts: their order and their limits.

use super::{Fixture, give_all, numbered, receive, receive_all, send_short, take_all};
use buf::{BURST_BYTES, BURST_PACKETS, Offload};
use engine::{RxReport, TxReport};

/// Bursts of no packet, one, a full one and neighbours of it keep their order, in both directions; a poll of an empty queue reports
/// nothing.
///
/// # Panics
///
/// When they do not.
pub fn bursts_of_any_size_keep_their_order<F: Fixture>(make: impl FnOnce() -> F) {
    let mut fixture = make();
    for (round, size) in [0, 1, 31, 32, 33, 2, 64, 0, 17].into_iter().enumerate() {
        let frames: Vec<Vec<u8>> =
            (0..size).map(|at| numbered((round * 1000 + at) as u64, 60 + at % 60)).collect();
        assert_eq!(give_all(&mut fixture, &frames), size, "there is room for {size} frames");
        let (mut taken, report) = receive(fixture.rx());
        assert_eq!(taken.len(), size.min(BURST_PACKETS), "a burst takes what there is, up to its limit");
        assert!(report.more || size <= BURST_PACKETS, "{size} frames were more than one burst");
        assert!(!report.more || size >= BURST_PACKETS, "{size} frames were less than one burst");
        taken.extend(receive_all(fixture.rx(), size - taken.len()));
        assert!(taken.iter().map(|frame| &frame.bytes).eq(&frames), "{size} frames in the order given");
        let (taken, report) = receive(fixture.rx());
        assert_eq!((taken.len(), report), (0, RxReport::default()), "an empty queue has nothing to report");

        let report = send_short(fixture.tx(), &frames);
        let bytes = frames.iter().map(|frame| frame.len() as u64).sum();
        assert_eq!(report, TxReport { sent: size as u32, bytes, ..TxReport::default() });
        assert!(
            take_all(&mut fixture).iter().map(|frame| &frame.bytes).eq(&frames),
            "{size} frames in the order sent"
        );
    }
}

/// Long frames end a burst after 128 KiB; those that did not fit come with the next poll, in order, and nothing is lost.
///
/// # Panics
///
/// When a burst is longer, or frames are missing.
pub fn bursts_are_bounded_in_bytes<F: Fixture>(make: impl FnOnce() -> F) {
    let mut fixture = make();
    let length = fixture.longest().min(60_000);
    let wanted = (3 * BURST_BYTES).div_ceil(length).min(fixture.depth() / 2);
    let frames: Vec<Vec<u8>> = (0..wanted).map(|at| numbered(at as u64, length)).collect();
    let given = frames.iter().take_while(|bytes| fixture.give(&[bytes], Offload::NONE)).count();
    let per_burst = BURST_BYTES.div_ceil(length).min(BURST_PACKETS);
    assert!(given > per_burst, "the driver holds only {given} frames of {length} bytes");
    let mut taken = Vec::new();
    while taken.len() < given {
        let left = given - taken.len();
        let (burst, report) = receive(fixture.rx());
        assert!(!burst.is_empty(), "{left} frames of {length} bytes are left");
        assert!(burst.len() <= per_burst, "{} frames of {length} bytes in one burst", burst.len());
        let ended_by_limit = burst.len() == per_burst && left > per_burst;
        assert!(report.more || !ended_by_limit, "{left} frames were more than one burst");
        taken.extend(burst);
    }
    assert!(taken.iter().map(|frame| &frame.bytes).eq(&frames[..given]), "in the order given");
    assert!(receive(fixture.rx()).0.is_empty());
}
