//! Bytes and offloads arrive as they were sent.

use super::frames::{Traffic, numbered, requests};
use super::{Fixture, receive, send_one};
use buf::{Checksum, Offload};
use engine::{OffloadCapabilities, RxReport};

/// Lengths from `shortest` to `longest`: all up to 300, then the neighbourhood of every size at which something in a driver ends.
fn lengths(shortest: usize, longest: usize) -> Vec<usize> {
    let edges =
        [512, 1024, 1514, 1526, 2032, 2048, 2176, 4064, 4096, 8192, 9014, 16_384, 32_768, 65_535, longest];
    let mut lengths: Vec<usize> = (1..=300).collect();
    lengths.extend(edges.iter().flat_map(|edge| edge - 13..=edge + 13));
    lengths.extend((300..=longest).step_by(1999));
    lengths.retain(|length| (shortest..=longest).contains(length));
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}

/// Frames of all lengths from the shortest to the longest the driver carries arrive with their bytes, in both directions.
///
/// # Panics
///
/// When one does not.
pub fn all_lengths_arrive_whole<F: Fixture>(make: impl FnOnce() -> F) {
    let mut fixture = make();
    for length in lengths(fixture.shortest(), fixture.longest()) {
        let bytes = numbered(length as u64, length);
        assert!(fixture.give(&[&bytes], Offload::NONE), "no room for {length} bytes");
        let (taken, report) = receive(fixture.rx());
        assert_eq!(report, RxReport { more: report.more, ..RxReport::default() }, "{length} bytes");
        assert_eq!(taken.len(), 1, "one frame of {length} bytes was given");
        assert!(taken.iter().all(|frame| frame.bytes == bytes), "{length} bytes received are other bytes");

        let report = send_one(fixture.tx(), &bytes, 1, Offload::NONE);
        assert_eq!((report.sent, report.bytes), (1, length as u64), "{length} bytes: {report:?}");
        let taken = fixture.take();
        assert!(taken.is_some_and(|frame| frame.bytes == bytes), "{length} bytes sent are other bytes");
        assert_eq!(fixture.take(), None);
    }
}

/// Frames in many pieces arrive whole: given in up to 30 pieces, sent in up to 1,000 extents.
///
/// # Panics
///
/// When one does not.
pub fn scattered_frames_arrive_whole<F: Fixture>(make: impl FnOnce() -> F) {
    let mut fixture = make();
    for pieces in [1, 2, 3, 7, 16, 30, 100, 1000] {
        for length in [64, 129, 1514, 2049, 9000, 65_000] {
            let length = length.min(fixture.longest());
            let bytes = numbered(pieces as u64, length);
            let size = length.div_ceil(pieces.min(30));
            let parts: Vec<&[u8]> = bytes.chunks(size).collect();
            assert!(
                fixture.give(&parts, Offload::NONE),
                "no room for {length} bytes in {} pieces",
                parts.len()
            );
            let (taken, _) = receive(fixture.rx());
            assert!(
                taken.iter().map(|frame| &frame.bytes).eq([&bytes]),
                "{length} bytes in {} pieces",
                parts.len()
            );

            assert_eq!(send_one(fixture.tx(), &bytes, pieces, Offload::NONE).sent, 1);
            let taken = fixture.take();
            assert!(taken.is_some_and(|frame| frame.bytes == bytes), "{length} bytes in {pieces} extents");
        }
    }
}

/// What is asked of a packet arrives with it, where the receiver said that it takes such requests.
///
/// # Panics
///
/// When it does not.
pub fn offloads_arrive_as_they_were_asked<F: Fixture>(make: impl FnOnce() -> F) {
    let mut fixture = make();
    assert_consistent(fixture.tx().capabilities());
    assert_consistent(fixture.gives());
    let payload = fixture.longest().min(20_000) - 100;
    for traffic in Traffic::ALL {
        let bytes = traffic.packet(payload);
        for offload in requests(traffic, fixture.gives()) {
            assert!(fixture.give(&[&bytes], offload));
            let (taken, report) = receive(fixture.rx());
            assert_eq!(report.refused, 0, "{traffic:?} {offload:?}");
            assert!(taken.iter().all(|frame| frame.bytes == bytes), "{traffic:?} {offload:?}: other bytes");
            assert!(
                taken.iter().map(|frame| frame.offload).eq([offload]),
                "{traffic:?}: {offload:?} received as other"
            );
        }
        for offload in requests(traffic, fixture.tx().capabilities()) {
            assert_eq!(send_one(fixture.tx(), &bytes, 3, offload).sent, 1, "{traffic:?} {offload:?}");
            let taken = fixture.take();
            assert!(
                taken.as_ref().is_some_and(|frame| frame.bytes == bytes),
                "{traffic:?} {offload:?}: other bytes"
            );
            assert_eq!(taken.map(|frame| frame.offload), Some(offload), "{traffic:?}");
        }
        let vouched = Offload { checksum: Checksum::Valid, segment: None, tunnel: 0 };
        assert_eq!(send_one(fixture.tx(), &bytes, 1, vouched).sent, 1);
        let taken = fixture.take().map(|frame| frame.offload);
        assert!(taken == Some(vouched) || taken == Some(Offload::NONE), "a valid checksum became {taken:?}");
    }
}

/// Cutting a packet means new checksums, so nothing can be cut by who does not sum.
fn assert_consistent(takes: OffloadCapabilities) {
    let cuts = takes.tso4 || takes.tso6 || takes.uso4 || takes.uso6;
    assert!(takes.checksum || !cuts, "{takes:?}: segmentation without checksums");
    assert!(takes.tso4 || takes.tso6 || !takes.ecn, "{takes:?}: ECN without TCP segmentation");
}
