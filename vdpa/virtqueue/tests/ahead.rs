//! Buffers that are reserved from one burst to the next, and the two ways a frame gets into one: whatever happens in between, no buffer is
//! lost or comes back twice, a broken ring gives nothing, and all that is written is logged.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod common;

use buf::{Burst, Checksum, Extent, Frame, Offload};
use common::*;
use guest_mem::{DirtyLog, GuestMemory};
use rustix::fs::MemfdFlags;
use std::sync::Arc;
use towpath_virtqueue::{DeviceRing, GiveError, Headers, Ring, RingError, RingFeatures};

/// A frame of `bytes`, of which 60 are its head.
fn with_frame<R>(bytes: &[u8], offload: Offload, run: impl FnOnce(&Frame<'_, '_>) -> R) -> R {
    let (head, body) = bytes.split_at(bytes.len().min(60));
    let extents = [Extent::from_slice(body)];
    run(&Frame::new(head, if body.is_empty() { &[] } else { &extents }, body.len(), offload))
}

/// Gives frames as a driver does: runs of plain ones, then what is left one by one.
fn give_in_runs(ring: &mut Ring, frames: &[Frame<'_, '_>]) -> Vec<Result<(), GiveError>> {
    let _ = ring.reserve(frames.len());
    let mut results = Vec::new();
    let mut rest = frames;
    loop {
        let (given, bytes) = ring.give_run(rest, |_| header());
        assert_eq!(bytes, rest[..given].iter().map(Frame::len).sum::<usize>());
        results.extend((0..given).map(|_| Ok(())));
        let Some((frame, others)) = rest[given..].split_first() else { return results };
        results.push(ring.give(&header(), frame));
        rest = others;
    }
}

#[test]
fn a_broken_ring_gives_nothing_although_buffers_are_reserved() {
    let frame_bytes = [7; 100];
    let refuses = |rig: &mut Rig, expected: fn(&RingError) -> bool| {
        assert!(rig.ring.reserve(5).is_err_and(|error| expected(&error)), "{:?}", rig.mode);
        with_frame(&frame_bytes, Offload::NONE, |frame| {
            assert_eq!(rig.ring.give_run(&[*frame, *frame], |_| header()), (0, 0), "{:?}", rig.mode);
            let given = rig.ring.give(&header(), frame);
            assert!(matches!(given, Err(GiveError::Ring(error)) if expected(&error)), "{given:?}");
        });
        assert_eq!(rig.ring.publish(), 0);
        assert_eq!(rig.bytes(A, 4 * 2048), vec![0; 4 * 2048], "nothing was written");
    };
    let reserved = |mode| {
        let mut rig = Rig::new(mode, 8);
        for at in 0..4 {
            rig.offer(&[w(A + at * 2048, 2048)]);
        }
        assert_eq!(rig.ring.reserve(4), Ok(4));
        rig
    };
    let mut rig = reserved(SPLIT);
    rig.guest.store_u16(DRIVER + 2, 2).unwrap();
    refuses(&mut rig, |error| matches!(error, RingError::AvailableJump { .. }));
    for mode in LAYOUTS {
        let mut rig = reserved(mode);
        rustix::fs::ftruncate(rig.memory.regions()[2].file(), 0).unwrap();
        // Somebody touches it: another queue of the same guest.
        let mut byte = [0];
        let _ = rig.memory.read(C, &mut byte);
        refuses(&mut rig, |error| matches!(error, RingError::MemoryGone));
    }
}

/// After any number of buffers were filled and reserved ahead, the ring stands behind the filled ones, and a ring made there goes on with
/// the next.
#[test]
fn what_is_reserved_ahead_is_still_to_come_when_the_ring_is_stopped() {
    for mode in MODES {
        for (given, ahead) in (0..12).flat_map(|given| (0..14).map(move |ahead| (given, ahead))) {
            let mut rig = Rig::new(mode, 16);
            // So that the ring wraps in between.
            (0..7).for_each(|_| rig.still_gives());
            let ids: Vec<u16> = (0..12).map(|at| rig.offer(&[w(A + at * 2048, 2048)])).collect();
            let give = |rig: &mut Rig, count: usize| {
                let bytes = [1; 90];
                with_frame(&bytes, Offload::NONE, |frame| {
                    assert_eq!(give_in_runs(&mut rig.ring, &vec![*frame; count]), vec![Ok(()); count]);
                });
                rig.ring.publish()
            };
            assert_eq!(give(&mut rig, given), given);
            assert_eq!(rig.ring.reserve(ahead), Ok(ahead.min(12 - given)));
            let base = rig.ring.base();
            assert_eq!(rig.ring.base(), base, "asking does not move it");
            assert_eq!(rig.used(), ids[..given].iter().map(|id| (*id, 102)).collect::<Vec<_>>());
            let again = towpath_virtqueue::RingConfig { base, ..config(16, rig.features) };
            rig.ring = Ring::new(&again, Arc::clone(&rig.memory)).unwrap();
            assert_eq!(rig.ring.base(), base);
            assert_eq!(give(&mut rig, 12 - given), 12 - given);
            assert_eq!(rig.used(), ids[given..].iter().map(|id| (*id, 102)).collect::<Vec<_>>());
            assert_eq!(rig.ring.reserve(1), Ok(0), "{mode:?} {given} {ahead}: none comes twice");
        }
    }
}

#[test]
fn v18_buffers_reserved_ahead_are_looked_up_again_in_another_memory() {
    for mode in MODES {
        let mut rig = Rig::new(mode, 16);
        let ids: Vec<u16> = (0..6).map(|at| rig.offer(&[w(A + at * 2048, 2048)])).collect();
        assert_eq!(rig.ring.reserve(6), Ok(6));
        let again = GuestMemory::map(rig.memory.specs().unwrap()).unwrap();
        assert_eq!(rig.ring.set_memory(Arc::clone(&again)), Ok(()));
        // The ring let go of the old mapping: a write to it would be a fault now.
        let old = Arc::downgrade(&std::mem::replace(&mut rig.memory, again));
        assert_eq!(old.strong_count(), 0);
        let bytes = [3; 200];
        with_frame(&bytes, Offload::NONE, |frame| {
            assert_eq!(give_in_runs(&mut rig.ring, &[*frame; 6]), [Ok(()); 6]);
        });
        assert_eq!(rig.ring.publish(), 6);
        assert_eq!(rig.used(), ids.iter().map(|id| (*id, 212)).collect::<Vec<_>>());
        (0..6).for_each(|at| assert_eq!(rig.bytes(A + at * 2048 + 12, 200), bytes));
    }
}

#[test]
fn a_log_that_begins_while_buffers_are_reserved_has_all_that_is_written_from_then_on() {
    for mode in MODES {
        let mut rig = Rig::new(mode, 16);
        // Buffers of one piece across a page border, and of several.
        let starts: Vec<u64> = (0..8).map(|at| A + 0x10_000 + at * 0x4000 + 0xfc0).collect();
        for (at, start) in starts.iter().enumerate() {
            let two = [w(*start, 512), w(start + 0x2000, 2048)];
            let one = [w(*start, 2560)];
            rig.offer(if at % 3 == 2 { &two } else { &one });
        }
        assert_eq!(rig.ring.reserve(8), Ok(8));
        let file = rustix::fs::memfd_create("log", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 1 << 20).unwrap();
        let log = Arc::new(DirtyLog::map(file, 0, 1 << 20).unwrap());
        rig.ring.set_dirty_log(Some(Arc::clone(&log)));
        let bytes: Vec<u8> = (0..1000u32).map(|at| at as u8).collect();
        with_frame(&bytes, Offload::NONE, |frame| {
            assert_eq!(give_in_runs(&mut rig.ring, &[*frame; 8]), [Ok(()); 8]);
        });
        assert_eq!(rig.ring.publish(), 8);
        assert_eq!(rig.used().len(), 8);
        for (at, start) in starts.iter().enumerate() {
            let (first, second) = if at % 3 == 2 { (512, 500) } else { (1012, 0) };
            let written = [(*start, first), (start + 0x2000, second)];
            for page in (*start & !0xfff..start + 0x3000).step_by(0x1000) {
                let expected =
                    written.iter().any(|(at, len)| *len > 0 && page + 0x1000 > *at && page < at + len);
                assert_eq!(log.is_marked(page), expected, "{mode:?} buffer {at}, page {page:#x}");
            }
        }
        for area in [DESC, DEVICE] {
            assert!(log.is_marked(area) || (area == DEVICE) != rig.is_split(), "{mode:?}: the ring");
        }
    }
}

/// Numbers that are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn runs_and_single_frames_fill_the_same_buffers_with_the_same_bytes() {
    let asks = Offload { checksum: Checksum::Valid, segment: None, tunnel: 0 };
    for mode in MODES {
        for mergeable in [false, true] {
            let features = RingFeatures { mergeable, ..features(mode) };
            let mut rigs = [Rig::with(mode, 64, features), Rig::with(mode, 64, features)];
            let mut numbers = Numbers(1);
            let (mut sent, mut failed) = (0, 0);
            for burst in 0..300 {
                for _ in 0..numbers.below(12) {
                    let at = A + 0x2000 + numbers.below(200) * 4096;
                    let chain = match numbers.below(12) {
                        0 => vec![w(at, 100), w(at + 1024, 2000)],
                        1 => vec![w(at, 12)],
                        2 => vec![w(HOLE, 2048)],
                        3 => vec![w(at, 600)],
                        4 => vec![r(at, 2048)],
                        _ => vec![w(at, 2048)],
                    };
                    // No more than there are places for, with two in each.
                    if rigs[0].in_flight() < 30 {
                        for rig in &mut rigs {
                            rig.offer(&chain);
                        }
                    }
                }
                let frames: Vec<(Vec<u8>, Offload)> = (0..numbers.below(10))
                    .map(|at| {
                        let len = [60, 61, 200, 588, 589, 1514, 2036, 2037, 5000][numbers.below(9) as usize];
                        let offload = if numbers.below(5) == 0 { asks } else { Offload::NONE };
                        (vec![(burst * 7 + at) as u8; len], offload)
                    })
                    .collect();
                let bodies: Vec<[Extent<'_>; 1]> =
                    frames.iter().map(|(bytes, _)| [Extent::from_slice(&bytes[60..])]).collect();
                let views: Vec<Frame<'_, '_>> = frames
                    .iter()
                    .zip(&bodies)
                    .map(|((bytes, offload), body)| {
                        Frame::new(&bytes[..60], body, bytes.len() - 60, *offload)
                    })
                    .collect();
                let [runs, single] = &mut rigs;
                let in_runs = give_in_runs(&mut runs.ring, &views);
                let singly: Vec<_> = views.iter().map(|frame| single.ring.give(&header(), frame)).collect();
                assert_eq!(in_runs, singly, "{mode:?} {mergeable}");
                sent += in_runs.iter().filter(|result| result.is_ok()).count();
                failed += in_runs.iter().filter(|result| result.is_err()).count();
                assert_eq!(runs.ring.publish(), single.ring.publish());
                assert_eq!(
                    runs.ring.reserve(numbers.below(20) as usize).is_ok(),
                    runs.ring.broken().is_none()
                );
                assert_eq!(runs.used(), single.used());
                assert_eq!(runs.ring.stats(), single.ring.stats());
            }
            assert!(sent > 200 && failed > 20, "{mode:?} {mergeable}: {sent} {failed}");
            let [runs, single] = &rigs;
            assert!(
                runs.bytes(A, 0xd_0000) == single.bytes(A, 0xd_0000),
                "{mode:?} {mergeable}: other bytes"
            );
        }
    }
}

/// Plain descriptors and chains in one burst, with header and frame laid out in every way: each frame keeps its own header.
#[test]
fn g14_headers_stay_with_their_frames_in_a_mixed_burst() {
    for mode in MODES {
        for header_len in [10, 12] {
            let mut rig = Rig::new(mode, 128);
            let config = towpath_virtqueue::RingConfig { header_len, ..config(128, rig.features) };
            rig.ring = Ring::new(&config, Arc::clone(&rig.memory)).unwrap();
            let header_len = usize::from(header_len);
            let mut numbers = Numbers(u64::from(rig.is_split()));
            for burst in 0..40 {
                let wanted = burst % 2 == 0;
                let mut expected = Vec::new();
                for at in 0..numbers.below(33) {
                    let start = A + 0x4000 + at * 512 + burst;
                    let len = 60 + numbers.below(100) as u32;
                    let cut = 1 + numbers.below(50) as u32;
                    let chain = match numbers.below(5) {
                        0 => vec![r(start, cut), r(start + u64::from(cut), len - cut)],
                        1 => vec![r(start, 3), r(start + 3, 4), r(start + 7, len - 7)],
                        2 if expected.len() % 2 == 1 => vec![r(HOLE, 100)],
                        _ => vec![r(start, len)],
                    };
                    let bytes = rig.pattern(start, len as usize);
                    if chain[0].addr != HOLE {
                        expected.push((bytes[..header_len].to_vec(), bytes[header_len..].to_vec()));
                    }
                    rig.offer(&chain);
                }
                let memory = Arc::clone(&rig.memory);
                let mut seen = Vec::new();
                loop {
                    let (mut packets, mut headers) = (Burst::new(), Headers::if_read(wanted));
                    let taken = rig.ring.take(&memory, &mut packets, &mut headers).unwrap();
                    packets.load_heads();
                    assert_eq!(headers.len(), if wanted { taken } else { 0 });
                    for index in 0..taken {
                        let mut header = vec![0; header_len];
                        assert_eq!(headers.read(index, &mut header), if wanted { header_len } else { 0 });
                        seen.push((header, packets.frame(index).unwrap().to_vec()));
                    }
                    if rig.ring.return_taken() == 0 {
                        break;
                    }
                }
                rig.used();
                for (seen, expected) in seen.iter().zip(&expected) {
                    assert_eq!(seen.1, expected.1, "{mode:?} {header_len}");
                    assert!(!wanted || seen.0 == expected.0, "{mode:?} {header_len}");
                }
                assert_eq!(seen.len(), expected.len());
            }
        }
    }
}
