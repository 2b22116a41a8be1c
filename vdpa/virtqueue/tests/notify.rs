//! Notifications in both directions: none is lost, at most one is sent per burst (G-42, G-46, S-15), and no call descriptor can block or harm us (V-20).

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod common;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use buf::{Burst, Frame, Offload};
use common::*;
use guest_mem::{GuestMemory, RegionSpec};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use towpath_virtqueue::{CallFd, Counter, DeviceRing, Headers, Notifier, Ring, RingConfig, RingFeatures};
use virtio_driver::{
    Arena, MemoryOptions, Queue, QueueConfig, RingLayout as DriverLayout, Segment, SharedMemory, Virtqueue,
    features,
};

fn with_event_idx(mode: Mode, size: u16) -> Rig {
    Rig::with(mode, size, RingFeatures { event_idx: true, ..features(mode) })
}

#[test]
fn g42_split_interrupts_exactly_when_the_event_is_passed() {
    let mut rig = with_event_idx(SPLIT, 64);
    let used_event = DRIVER + 4 + 2 * 64;
    let mut index = 0u16;
    for round in 0..3000u32 {
        let count = 1 + round % 32;
        // Arbitrary, before, within, at and behind what is returned.
        let event = match round % 5 {
            0 => index.wrapping_sub(1),
            1 => index.wrapping_add((round % 40) as u16),
            2 => (round * 7919) as u16,
            3 => index.wrapping_add(count as u16 - 1),
            _ => index.wrapping_add(count as u16),
        };
        rig.guest.store_u16(used_event, event).unwrap();
        for _ in 0..count {
            rig.offer(&[r(A, 80)]);
        }
        assert_eq!(rig.frames().len(), count as usize);
        let passed = (0..count as u16).any(|at| index.wrapping_add(at) == event);
        assert_eq!(rig.ring.interrupt_due(), passed, "{index} + {count}, event {event}");
        assert!(!rig.ring.interrupt_due(), "once per burst");
        index = index.wrapping_add(count as u16);
    }
    assert!(rig.ring.base() > 40_000, "the index wrapped or nearly so: {}", rig.ring.base());
}

#[test]
fn g42_packed_interrupts_exactly_when_the_event_is_passed() {
    for size in [64u16, 50] {
        let mut rig = with_event_idx(PACKED, size);
        let (mut at, mut wrap) = (0u16, true);
        for round in 0..3000u32 {
            let count = 1 + (round % 32) as u16;
            let near = (u32::from(at) + round % 70) % u32::from(size);
            let offset = if round % 3 == 0 { (round * 7919) as u16 & 0x7fff } else { near as u16 };
            let event_wrap = round % 7 < 4;
            let value = offset | if event_wrap { 0x8000 } else { 0 };
            rig.guest.store_u32(DRIVER, u32::from(value) | 2 << 16).unwrap();
            for _ in 0..count {
                rig.offer(&[r(A, 80)]);
            }
            assert_eq!(rig.frames().len(), usize::from(count));
            let mut passed = false;
            for _ in 0..count {
                passed |= (at, wrap) == (offset, event_wrap);
                at += 1;
                if at == size {
                    (at, wrap) = (0, !wrap);
                }
            }
            let due = rig.ring.interrupt_due();
            // An offset beyond the ring is nonsense (G-46): any answer will do, as long as it is one.
            if offset < size {
                assert_eq!(due, passed, "size {size} to {at}/{wrap}, event {offset}/{event_wrap}");
            }
            assert!(!rig.ring.interrupt_due(), "once per burst");
            rig.used();
        }
    }
}

#[test]
fn g42_flags_without_event_idx() {
    for (mode, values) in [
        (SPLIT, &[(0u32, true), (1, false), (0xffff, false), (2, true)][..]),
        // 2 means "at an index", which was not negotiated, and 3 is reserved: both count as enabled (G-46).
        (PACKED, &[(0, true), (1 << 16, false), (2 << 16, true), (3 << 16, true), (0xffff << 16, true)]),
    ] {
        let mut rig = Rig::new(mode, 64);
        for (value, expected) in values {
            rig.guest
                .store_u32(
                    DRIVER & !3,
                    if mode == SPLIT { *value | u32::from(rig.avail) << 16 } else { *value },
                )
                .unwrap();
            for _ in 0..20 {
                rig.offer(&[r(A, 80)]);
            }
            assert!(!rig.ring.interrupt_due(), "nothing was returned yet");
            assert_eq!(rig.frames().len(), 20);
            assert_eq!(rig.ring.interrupt_due(), *expected, "{mode:?} {value:#x}");
            assert!(!rig.ring.interrupt_due(), "S-15: once per burst");
            rig.used();
        }
    }
}

#[test]
fn arming_says_whether_there_is_work() {
    for mode in LAYOUTS {
        for event_idx in [false, true] {
            let mut rig = Rig::with(mode, 16, RingFeatures { event_idx, ..features(mode) });
            for _ in 0..40 {
                rig.ring.suppress_kicks();
                assert!(!rig.ring.arm(), "{mode:?}: an empty ring");
                rig.offer(&[r(A, 80)]);
                assert!(rig.ring.arm(), "{mode:?}: a chain that came before");
                rig.frames();
                rig.used();
            }
            // Reserved receive buffers are work that waits, too.
            rig.offer(&[w(A, 2000)]);
            assert_eq!(rig.ring.reserve(1), Ok(1));
            assert!(rig.ring.arm());
        }
    }
}

#[test]
fn what_the_driver_reads_while_polled_and_when_armed() {
    let mut rig = Rig::new(SPLIT, 16);
    rig.ring.suppress_kicks();
    assert_eq!(rig.guest.load_u16(DEVICE), Ok(1), "VIRTQ_USED_F_NO_NOTIFY");
    rig.ring.arm();
    assert_eq!(rig.guest.load_u16(DEVICE), Ok(0));
    let mut rig = with_event_idx(SPLIT, 16);
    for _ in 0..5 {
        rig.still_takes();
    }
    let avail_event = DEVICE + 4 + 8 * 16;
    rig.ring.arm();
    assert_eq!(rig.guest.load_u16(avail_event), Ok(5));
    rig.ring.suppress_kicks();
    assert_eq!(rig.guest.load_u16(avail_event), Ok(4));
    for event_idx in [false, true] {
        let mut rig = Rig::with(PACKED, 16, RingFeatures { event_idx, ..features(PACKED) });
        for _ in 0..21 {
            rig.still_takes();
        }
        rig.ring.suppress_kicks();
        assert_eq!(rig.guest.load_u32(DEVICE), Ok(1 << 16));
        rig.ring.arm();
        // Position 5 in the second round: its wrap counter is 0.
        assert_eq!(rig.guest.load_u32(DEVICE), Ok(if event_idx { 5 | 2 << 16 } else { 0 }));
    }
}

/// A driver and a device that both sleep whenever they may, on two threads: a lost notification would hang them.
#[test]
fn g42_no_notification_is_lost_when_both_sides_sleep() {
    for layout in [DriverLayout::Split, DriverLayout::Packed] {
        for event_idx in [0, features::EVENT_IDX] {
            ping_pong(layout, event_idx);
        }
    }
}

const ROUNDS: u32 = 3000;

fn wait(file: &OwnedFd) {
    let mut fds = [PollFd::new(file, PollFlags::IN)];
    let timeout = rustix::event::Timespec { tv_sec: 30, tv_nsec: 0 };
    assert_eq!(poll(&mut fds, Some(&timeout)), Ok(1), "a notification was lost");
    rustix::io::read(file, &mut [0; 8]).unwrap();
}

fn ping_pong(layout: DriverLayout, event_idx: u64) {
    let bits = features::VERSION_1
        | event_idx
        | if layout == DriverLayout::Packed { features::RING_PACKED } else { 0 };
    let options = MemoryOptions { guest_base: 0, user_base: Some(1 << 40), ..Default::default() };
    let shared = SharedMemory::new(1 << 20, options).unwrap().into_shared();
    let mut arena = Arena::new(&shared);
    let config = QueueConfig { size: 8, layout, features: bits, indirect_entries: 0 };
    let mut queue = Queue::new(&shared, &mut arena, &config).unwrap();
    let file = shared.fd().try_clone_to_owned().unwrap();
    let spec = RegionSpec { guest_addr: 0, user_addr: 1 << 40, size: 1 << 20, file_offset: 0, file };
    let memory = GuestMemory::map(vec![spec]).unwrap();
    let addresses = queue.addresses();
    let config = RingConfig {
        size: 8,
        features: RingFeatures::from_bits(bits),
        header_len: 12,
        desc_addr: addresses.descriptors + (1 << 40),
        driver_addr: addresses.driver + (1 << 40),
        device_addr: addresses.device + (1 << 40),
        base: queue.resume_base(),
    };
    let mut ring = Ring::new(&config, Arc::clone(&memory)).unwrap();
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let (kick, call) = (eventfd(0, flags).unwrap(), eventfd(0, flags).unwrap());
    let notifier = CallFd::new(call.try_clone().unwrap()).unwrap();
    let buffer = arena.allocate(4096, 64).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut served = 0;
            while served < ROUNDS {
                let (mut burst, mut headers) = (Burst::new(), Headers::new());
                served += ring.take(&memory, &mut burst, &mut headers).unwrap() as u32;
                ring.return_taken();
                if ring.interrupt_due() {
                    notifier.notify();
                }
                if served < ROUNDS && !ring.arm() {
                    wait(&kick);
                }
            }
        });
        let (mut added, mut done) = (0, 0);
        while done < ROUNDS {
            while added < ROUNDS && added - done < 1 + added % 8 && queue.free_descriptors() > 0 {
                queue.add(&[Segment::readable(buffer, 100)], added).unwrap();
                added += 1;
            }
            queue.publish();
            if queue.needs_kick() {
                rustix::io::write(&kick, &1u64.to_ne_bytes()).unwrap();
            }
            let before = done;
            while queue.next_used().unwrap().is_some() {
                done += 1;
            }
            if done == before && !queue.request_interrupt(1) {
                wait(&call);
            }
        }
    });
}

#[test]
fn v20_call_descriptors_that_are_something_else_are_refused_or_harmless() {
    let refused = |file: OwnedFd| CallFd::new(file).is_err();
    assert!(refused(tempfile_in_shm()));
    assert!(refused(File::open("/proc").unwrap().into()));
    assert!(refused(File::options().write(true).open("/dev/zero").unwrap().into()));
    assert!(refused(File::options().write(true).open("/dev/full").unwrap().into()));
    let (left, right) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(refused(left.into()) && refused(right.into()));
    let (reader, writer) = std::io::pipe().unwrap();
    assert!(refused(reader.into()), "cannot be written");
    // A pipe whose reader is gone, and one that nobody reads: neither blocks nor kills.
    let call = CallFd::new(writer.into()).unwrap();
    call.notify();
    assert_eq!(call.lost(), 1);
    let (_reader, writer) = std::io::pipe().unwrap();
    let call = CallFd::new(writer.into()).unwrap();
    let start = Instant::now();
    for _ in 0..100_000 {
        call.notify();
    }
    assert!(start.elapsed() < Duration::from_secs(20), "a full pipe did not block");

    // An eventfd in blocking mode, full: made non-blocking by us.
    let full = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    let call = CallFd::new(full).unwrap();
    call.notify();
    assert_eq!(call.lost(), 0, "an interrupt is pending, so nothing was lost");
    // In semaphore mode every notification counts.
    let semaphore = eventfd(0, EventfdFlags::SEMAPHORE).unwrap();
    let reader = semaphore.as_fd().try_clone_to_owned().unwrap();
    let call = CallFd::new(semaphore).unwrap();
    call.notify();
    call.notify();
    for _ in 0..2 {
        assert_eq!(rustix::io::read(&reader, &mut [0; 8]), Ok(8));
    }
    assert_eq!(rustix::io::read(&reader, &mut [0; 8]), Err(rustix::io::Errno::AGAIN));
}

fn tempfile_in_shm() -> OwnedFd {
    rustix::fs::memfd_create("towpath-no-eventfd", rustix::fs::MemfdFlags::CLOEXEC).unwrap()
}

#[test]
fn one_interrupt_for_a_burst_of_frames() {
    for mode in LAYOUTS {
        let mut rig = Rig::new(mode, 64);
        let notifier = Counter::default();
        for _ in 0..10 {
            for _ in 0..32 {
                rig.offer(&[w(A, 2048)]);
            }
            for _ in 0..32 {
                rig.ring.give(&header(), &Frame::from_head(&[1; 60], Offload::NONE)).unwrap();
            }
            rig.ring.publish();
            if rig.ring.interrupt_due() {
                notifier.notify();
            }
            assert_eq!(rig.used().len(), 32);
        }
        assert_eq!(notifier.count(), 10);
    }
}
