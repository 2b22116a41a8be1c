//! What a transmit queue says it did is what it did.

use super::{Fixture, numbered, receive_all, send_one, send_short, take_all};
use buf::Offload;
use engine::TxReport;

/// Sent, full, too large and stopped add up to the frames given, and the bytes are those of the frames sent, in every call: with room,
/// with none, with frames that are too large between others.
///
/// # Panics
///
/// When they do not.
pub fn reports_add_up<F: Fixture>(make: impl FnOnce() -> F) {
    let mut fixture = make();
    let mut sent = 0;
    for round in 0..fixture.depth() {
        let frames: Vec<Vec<u8>> = (0..round % 40).map(|at| numbered(at as u64, 60 + at)).collect();
        let report = send_short(fixture.tx(), &frames);
        let all = report.sent + report.full + report.too_large + report.stopped;
        assert_eq!(all as usize, frames.len(), "{report:?}");
        let bytes: usize = frames.iter().take(report.sent as usize).map(Vec::len).sum();
        assert_eq!(report.bytes, bytes as u64, "the first {} of {} frames", report.sent, frames.len());
        sent += report.sent as usize;
        if round % 7 == 0 {
            assert_eq!(take_all(&mut fixture).len(), sent, "as many as were reported");
            sent = 0;
        }
    }
    assert_eq!(take_all(&mut fixture).len(), sent, "as many as were reported");
}

/// A receiver without room costs `full` frames, counted, none of them half delivered; those sent before arrive in order, and when
/// there is room again the queue goes on.
///
/// # Panics
///
/// When frames are lost without being counted, or the queue stays stuck.
pub fn a_full_receiver_is_counted<F: Fixture>(make: impl FnOnce() -> F) {
    let mut fixture = make();
    for round in 0..3u64 {
        let (mut sent, mut next) = (Vec::new(), round << 32);
        let mut report = TxReport::default();
        while report.full == 0 {
            let frames: Vec<Vec<u8>> = (next..next + 32).map(|number| numbered(number, 100)).collect();
            report = send_short(fixture.tx(), &frames);
            assert_eq!((report.too_large, report.stopped), (0, 0), "{report:?}");
            sent.extend(frames.into_iter().take(report.sent as usize));
            next += 32;
            assert!(sent.len() < 10_000_000, "no receiver is that large");
        }
        assert!(sent.len() >= fixture.depth(), "there was room for {} frames only", sent.len());
        assert_eq!(send_short(fixture.tx(), &[numbered(1, 60)]).full, 1, "still full");
        let taken = take_all(&mut fixture);
        assert_eq!(taken.len(), sent.len(), "all that were reported as sent, and no others");
        assert!(taken.iter().map(|frame| &frame.bytes).eq(&sent), "in order");
    }
    let bytes = numbered(99, 1000);
    assert_eq!(send_one(fixture.tx(), &bytes, 1, Offload::NONE).sent, 1);
    assert!(fixture.take().is_some_and(|frame| frame.bytes == bytes));
    let longest = numbered(98, fixture.longest());
    assert!(fixture.give(&[&longest], Offload::NONE), "the other direction was not in the way");
    assert!(receive_all(fixture.rx(), 1).iter().map(|frame| &frame.bytes).eq([&longest]));
}

/// A frame longer than the driver carries is counted as too large; its neighbours in the same call are sent.
///
/// # Panics
///
/// When it is counted as something else, or its neighbours are lost.
pub fn too_large_frames_are_counted<F: Fixture>(make: impl FnOnce() -> F) {
    let mut fixture = make();
    for excess in [1, 2, 1000, 100_000] {
        let long = numbered(1, fixture.longest() + excess);
        let frames = [numbered(0, 60), long, numbered(2, 60)];
        let whole: Vec<buf::Frame<'_, '_>> =
            frames.iter().map(|bytes| buf::Frame::from_head(bytes, Offload::NONE)).collect();
        let report = fixture.tx().send(&whole);
        fixture.tx().flush();
        assert_eq!(
            report,
            TxReport { sent: 2, bytes: 120, too_large: 1, ..TxReport::default() },
            "{excess} too many"
        );
        let taken = take_all(&mut fixture);
        assert!(taken.iter().map(|frame| &frame.bytes).eq([&frames[0], &frames[2]]));
    }
}
