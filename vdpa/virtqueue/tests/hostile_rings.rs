//! What a hostile guest or front end can do to a ring as a whole, by the numbers of the project's list of hostile cases. Where the verdict is that the queue
//! stops, a new one must work.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod common;

use std::sync::Arc;

use buf::{Burst, Frame, Offload};
use common::*;
use guest_mem::{ANONYMOUS_USER_OFFSET, DirtyLog, GuestMemory};
use towpath_virtqueue::{DeviceRing, GiveError, Headers, Ring, RingError, SetupError};

#[test]
fn g01_rings_at_address_0_or_nowhere_do_not_start() {
    for mode in LAYOUTS {
        let rig = Rig::new(mode, 256);
        let good = config(256, rig.features);
        let start = |config| Ring::new(&config, Arc::clone(&rig.memory)).map(|_| ());
        assert_eq!(start(good), Ok(()));
        for address in [0, 0x1000, !63, HOLE + ANONYMOUS_USER_OFFSET] {
            for part in 0..3 {
                let mut bad = good;
                match part {
                    0 => bad.desc_addr = address,
                    1 => bad.driver_addr = address,
                    _ => bad.device_addr = address,
                }
                assert!(matches!(start(bad), Err(SetupError::NotInMemory { .. })), "{mode:?} {address:#x}");
            }
        }
    }
}

#[test]
fn v15_rings_unaligned_straddling_or_overlapping_do_not_start() {
    for mode in LAYOUTS {
        let rig = Rig::new(mode, 256);
        let good = config(256, rig.features);
        let start = |config| Ring::new(&config, Arc::clone(&rig.memory)).map(|_| ());
        let shifted = |by| {
            [
                towpath_virtqueue::RingConfig { desc_addr: good.desc_addr + by, ..good },
                towpath_virtqueue::RingConfig { driver_addr: good.driver_addr + by, ..good },
                towpath_virtqueue::RingConfig { device_addr: good.device_addr + by, ..good },
            ]
        };
        for config in shifted(1) {
            assert!(matches!(start(config), Err(SetupError::Unaligned { .. })));
        }
        assert!(matches!(start(shifted(8)[0]), Err(SetupError::Unaligned { align: 16, .. })));
        let end = DESC + 0x20_0000 + ANONYMOUS_USER_OFFSET;
        let straddling = towpath_virtqueue::RingConfig { desc_addr: end - 16 * 255, ..good };
        assert!(matches!(start(straddling), Err(SetupError::NotInMemory { .. })));
        let last = towpath_virtqueue::RingConfig { desc_addr: end - 16 * 256, ..good };
        assert_eq!(start(last), Ok(()));
        let overlapping = towpath_virtqueue::RingConfig { driver_addr: good.desc_addr + 64, ..good };
        assert!(matches!(start(overlapping), Err(SetupError::Overlap { .. })));
        let same = towpath_virtqueue::RingConfig { device_addr: good.driver_addr, ..good };
        assert!(matches!(start(same), Err(SetupError::Overlap { .. })));
    }
}

#[test]
fn v05_ring_sizes_out_of_range_do_not_start() {
    for mode in LAYOUTS {
        let rig = Rig::new(mode, 256);
        let start = |size| Ring::new(&config(size, rig.features), Arc::clone(&rig.memory)).map(|_| ());
        for size in [0, 32769, 65535] {
            assert_eq!(start(size), Err(SetupError::Size(size)), "{mode:?}");
        }
        for size in [3, 255, 24] {
            assert_eq!(start(size).is_err(), rig.is_split(), "{size}");
        }
        for size in [1, 2, 32768] {
            assert_eq!(start(size), Ok(()));
        }
        let header = towpath_virtqueue::RingConfig { header_len: 33, ..config(256, rig.features) };
        assert_eq!(Ring::new(&header, Arc::clone(&rig.memory)).err(), Some(SetupError::Header(33)));
    }
}

#[test]
fn g02_an_available_index_that_jumps_stops_the_queue() {
    for jump in [257u16, 32768, 65535] {
        let mut rig = Rig::new(SPLIT, 256);
        rig.still_takes();
        rig.guest.store_u16(DRIVER + 2, 1u16.wrapping_add(jump)).unwrap();
        stopped(&mut rig, |error| matches!(error, RingError::AvailableJump { used: 1, size: 256, .. }));
    }
}

#[test]
fn g02_chains_taken_and_not_returned_count_as_outstanding() {
    let mut rig = Rig::new(SPLIT, 8);
    for _ in 0..4 {
        rig.offer(&[r(A, 80)]);
    }
    let memory = Arc::clone(&rig.memory);
    let (mut burst, mut headers) = (Burst::new(), Headers::new());
    assert_eq!(rig.ring.take(&memory, &mut burst, &mut headers), Ok(4));
    // Eight more would be twelve of eight.
    rig.guest.store_u16(DRIVER + 2, 12).unwrap();
    let taken = rig.ring.take(&memory, &mut Burst::new(), &mut headers);
    assert_eq!(taken, Err(RingError::AvailableJump { index: 12, used: 0, size: 8 }));
    assert_eq!(rig.ring.return_taken(), 4, "what was sound goes back");
}

#[test]
fn g02_an_index_that_goes_back_while_buffers_are_reserved_stops_the_queue() {
    let mut rig = Rig::new(SPLIT, 8);
    for _ in 0..4 {
        rig.offer(&[w(A, 2048)]);
    }
    assert_eq!(rig.ring.reserve(4), Ok(4));
    rig.guest.store_u16(DRIVER + 2, 2).unwrap();
    assert!(matches!(rig.ring.reserve(5), Err(RingError::AvailableJump { .. })));
}

#[test]
fn g03_a_full_ring_is_served_and_one_more_is_refused() {
    for mode in LAYOUTS {
        let mut rig = Rig::new(mode, 64);
        for _ in 0..64 {
            rig.offer_direct(&[r(A, 80)]);
        }
        assert_eq!((rig.frames().len(), rig.frames().len(), rig.frames().len()), (32, 32, 0));
        assert_eq!(rig.used().len(), 64);
        for _ in 0..64 {
            rig.offer_direct(&[r(A, 80)]);
        }
        assert_eq!(rig.frames().len(), 32);
        // One more than fits, counted from what was returned.
        if rig.is_split() {
            for _ in 0..33 {
                rig.push_head(0);
            }
            assert_eq!(rig.take().unwrap().len(), 32, "those seen before are served");
            for _ in 0..32 {
                rig.push_head(0);
            }
            stopped(&mut rig, |error| matches!(error, RingError::AvailableJump { .. }));
        } else {
            assert_eq!((rig.frames().len(), rig.frames().len()), (32, 0));
            rig.used();
            rig.still_takes();
        }
    }
}

#[test]
fn g04_a_head_made_available_twice_stops_the_queue() {
    // Twice in one burst, then all entries the same.
    for copies in [2, 16] {
        let mut rig = Rig::new(SPLIT, 16);
        rig.split_desc(DESC, 3, r(A, 80), 0);
        for _ in 0..copies {
            rig.push_head(3);
        }
        assert_eq!(rig.take().unwrap().len(), 1);
        assert_eq!(rig.used(), [(3, 0)], "returned once");
        stopped(&mut rig, |error| matches!(error, RingError::DuplicateHead { head: 3 }));
    }
    // While it is in flight in the other direction.
    let mut rig = Rig::new(SPLIT, 16);
    rig.split_desc(DESC, 5, w(A, 2048), 0);
    rig.push_head(5);
    assert_eq!(rig.ring.reserve(1), Ok(1));
    rig.push_head(5);
    assert!(matches!(rig.ring.reserve(2), Err(RingError::DuplicateHead { head: 5 })));
}

#[test]
fn g04_a_head_may_come_again_after_it_was_returned() {
    let mut rig = Rig::new(SPLIT, 16);
    rig.split_desc(DESC, 3, r(A, 80), 0);
    for _ in 0..100 {
        rig.push_head(3);
        assert_eq!(rig.frames().len(), 1);
        assert_eq!(rig.used(), [(3, 0)]);
    }
}

#[test]
fn g27_buffers_that_are_the_ring_itself_do_not_disturb_us() {
    for mode in LAYOUTS {
        for target in [DESC, DRIVER, DEVICE] {
            let mut rig = Rig::new(mode, 256);
            // Reading a ring is just reading.
            let id = rig.offer(&[r(target, 200)]);
            assert_eq!(rig.frames()[0].len(), 188);
            assert_eq!(rig.used(), [(id, 0)]);
            // Writing over one breaks at most that ring.
            rig.offer(&[w(target, 2048)]);
            let _ = rig.give(&[0xff; 1500]);
            for _ in 0..300 {
                let _ = rig.give(&[0xff; 1500]);
                let _ = rig.take();
            }
            rig.reset();
            rig.still_takes();
            rig.reset();
            rig.still_gives();
        }
    }
}

#[test]
fn g28_a_stopped_ring_says_where_it_stands_and_goes_on_there() {
    for mode in MODES {
        let mut rig = Rig::new(mode, 16);
        for _ in 0..37 {
            rig.still_takes();
        }
        for _ in 0..3 {
            rig.offer(&[r(A, 80)]);
        }
        // Reserved (in the wrong direction even) and given back: nothing is consumed.
        // 37 is two rounds and 5: the wrap counter is 1 again. Both halves of a packed base say the same.
        let expected = if rig.is_split() { 37 } else { 0x8005_8005 };
        assert_eq!(rig.ring.base(), expected, "{mode:?}");
        let again = towpath_virtqueue::RingConfig { base: expected, ..config(16, rig.features) };
        rig.ring = Ring::new(&again, Arc::clone(&rig.memory)).unwrap();
        assert_eq!(rig.frames().len(), 3, "{mode:?}: V-19, what was available then is served now");
        assert_eq!(rig.used().len(), 3);
        // 16-bit front ends leave the used half 0.
        let base = rig.ring.base();
        let again = towpath_virtqueue::RingConfig { base: base & 0xffff, ..config(16, rig.features) };
        rig.ring = Ring::new(&again, Arc::clone(&rig.memory)).unwrap();
        rig.still_takes();
    }
}

#[test]
fn g28_buffers_reserved_when_the_queue_stops_are_not_consumed() {
    for mode in MODES {
        let mut rig = Rig::new(mode, 16);
        for _ in 0..5 {
            rig.still_gives();
        }
        for _ in 0..9 {
            rig.offer(&[w(A, 100), w(B, 100)][..if mode.indirect { 2 } else { 1 }]);
        }
        let base = rig.ring.base();
        assert_eq!(rig.ring.reserve(9), Ok(9));
        assert_eq!(rig.ring.base(), base);
        assert_eq!(rig.ring.reserve(20), Ok(9));
        assert_eq!((rig.ring.publish(), rig.ring.base()), (0, base));
        assert_eq!(rig.used(), []);
    }
}

#[test]
fn g29_a_guest_that_refills_as_fast_as_we_drain_gets_one_burst_per_call() {
    for mode in MODES {
        let mut rig = Rig::new(mode, 256);
        for _ in 0..50 {
            while rig.ring.stats().chains + 100 > u64::from(rig.avail) {
                rig.offer(&[r(A, 80)]);
            }
            assert_eq!(rig.frames().len(), 32);
            rig.used();
        }
        // Bad chains count as well.
        for _ in 0..100 {
            rig.offer(&[r(HOLE, 80)]);
        }
        let before = rig.ring.stats().chains;
        rig.frames();
        while rig.ring.stats().refused_total() == 0 {
            rig.frames();
        }
        assert!(rig.ring.stats().chains - before <= 32 * 6);
    }
    // The work in a burst is bounded too: many long chains of nothing.
    let mut rig = Rig::new(MODES[2], 256);
    rig.write_table(C, &vec![r(A, 0); 1024]);
    for _ in 0..64 {
        rig.offer_direct(&[D { addr: C, len: 1024 * 16, flags: INDIRECT }]);
    }
    assert_eq!(rig.frames().len(), 0);
    let served = rig.ring.stats().refused_total();
    assert!((1..=4).contains(&served), "{served} chains of 1024 entries in one burst");
}

#[test]
fn g48_truncated_memory_stops_the_queue_and_nothing_else() {
    for mode in LAYOUTS {
        let mut rig = Rig::new(mode, 256);
        rig.still_takes();
        let truncate = |region: usize| {
            let file = rig.memory.regions()[region].file();
            rustix::fs::ftruncate(file, 0).unwrap();
        };
        rig.guest.read(C, &mut [0]).unwrap();
        truncate(2);
        rig.offer(&[r(C, 100)]);
        assert!(rig.take().is_ok(), "noticed with the next burst at the latest");
        assert_eq!(rig.take().err(), Some(RingError::MemoryGone));
        assert_eq!(rig.give(&[1; 60]), Err(GiveError::Ring(RingError::MemoryGone)));
        // The ring itself.
        let mut other = Rig::new(mode, 256);
        other.still_takes();
        rustix::fs::ftruncate(other.memory.regions()[3].file(), 0).unwrap();
        let memory = Arc::clone(&other.memory);
        for _ in 0..3 {
            let _ = other.ring.take(&memory, &mut Burst::new(), &mut Headers::new());
            other.ring.return_taken();
        }
        assert_eq!(other.ring.broken(), Some(RingError::MemoryGone));
        let _ = (other.ring.interrupt_due(), other.ring.arm(), other.ring.base());
    }
}

#[test]
fn v18_memory_is_exchanged_under_a_running_ring() {
    for mode in MODES {
        let mut rig = Rig::new(mode, 16);
        for _ in 0..20 {
            rig.still_takes();
        }
        // The same regions mapped anew: other addresses here, same contents.
        let again = GuestMemory::map(rig.memory.specs().unwrap()).unwrap();
        assert_eq!(rig.ring.set_memory(Arc::clone(&again)), Ok(()));
        let old = std::mem::replace(&mut rig.memory, again);
        let (mut burst, mut headers) = (Burst::new(), Headers::new());
        assert_eq!(rig.ring.take(&old, &mut burst, &mut headers), Err(RingError::ForeignMemory));
        drop(old);
        rig.still_takes();
        rig.still_gives();
        // Without the ring's region: it stops, and touches nothing.
        let user = |guest_addr| guest_addr + ANONYMOUS_USER_OFFSET;
        let without = rig.memory.without_region(DESC, user(DESC), 0x20_0000).unwrap();
        assert!(matches!(rig.ring.set_memory(without), Err(SetupError::NotInMemory { .. })));
        assert_eq!(rig.take().err(), Some(RingError::MemoryGone));
        let _ = (rig.ring.interrupt_due(), rig.ring.arm(), rig.ring.base());
    }
}

#[test]
fn l08_everything_written_is_logged() {
    for mode in MODES {
        let mut rig = Rig::new(mode, 256);
        let file = rustix::fs::memfd_create("towpath-log", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 1 << 20).unwrap();
        let log = Arc::new(DirtyLog::map(file, 0, 1 << 20).unwrap());
        log.check_covers(&rig.memory).unwrap();
        let pages = |rig: &Rig| {
            let all =
                rig.memory.regions().iter().flat_map(|region| {
                    (region.guest_addr()..region.guest_addr() + region.size()).step_by(4096)
                });
            all.collect::<Vec<_>>()
        };
        // Three frames: one buffer, one of two pieces in two regions, and two merged buffers.
        let chains = [
            vec![w(A + 0x9000, 2000)],
            vec![w(B - 100, 200)],
            vec![w(C + 0x1f00, 300)],
            vec![w(C + 0x5000, 300)],
        ];
        for chain in &chains {
            rig.offer(chain);
        }
        rig.ring.set_dirty_log(Some(Arc::clone(&log)));
        let before: Vec<_> = pages(&rig).iter().map(|page| rig.bytes(*page, 4096)).collect();
        rig.give(&[1; 100]).unwrap();
        rig.give(&[2; 150]).unwrap();
        rig.give(&[3; 500]).unwrap();
        rig.ring.arm();
        rig.ring.suppress_kicks();
        assert_eq!(rig.used().len(), 4);
        for (page, old) in pages(&rig).into_iter().zip(before) {
            let changed = rig.bytes(page, 4096) != old;
            assert!(log.is_marked(page) || !changed, "{mode:?}: page {page:#x} changed and is not marked");
        }
        // What was not written is not marked; what was, exactly.
        for page in [A + 0x9000, B - 4096, B, C + 0x1000, C + 0x2000, C + 0x5000, DEVICE] {
            assert!(log.is_marked(page), "{mode:?} {page:#x}");
        }
        for page in [A, A + 0xa000, C + 0x6000, DRIVER] {
            assert!(!log.is_marked(page), "{mode:?} {page:#x}");
        }
        // After it was turned off, nothing is.
        rig.ring.set_dirty_log(None);
        rig.offer(&[w(C + 0x2_0000, 2000)]);
        rig.give(&[1; 100]).unwrap();
        assert!(!log.is_marked(C + 0x2_0000), "L-09");
    }
}

#[test]
fn frames_of_all_head_fit_the_smallest_ring() {
    for mode in LAYOUTS {
        for size in [1, 2] {
            let mut rig = Rig::new(mode, size);
            for round in 0..20 {
                let id = rig.offer(&[w(A, 200)]);
                let bytes = [round; 60];
                let frame = Frame::from_head(&bytes, Offload::NONE);
                rig.ring.give(&header(), &frame).unwrap();
                assert_eq!(rig.ring.publish(), 1);
                assert_eq!(rig.used(), [(id, 72)]);
                rig.still_takes();
            }
        }
    }
}
