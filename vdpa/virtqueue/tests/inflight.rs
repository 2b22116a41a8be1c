//! A packed ring that goes on where a process that died had come to, whatever the front end believes (V-28).

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod common;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use common::*;
use guest_mem::Mapping;
use proptest::prelude::*;
use towpath_virtqueue::{DeviceRing, InflightPart, Ring, RingFeatures};

const OFFSET: u64 = 64;

fn region() -> OwnedFd {
    let file = rustix::fs::memfd_create("inflight", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, 4096).unwrap();
    file
}

fn part(file: &OwnedFd) -> InflightPart {
    let mapping = Mapping::new(file.try_clone().unwrap(), 0, 4096).unwrap();
    InflightPart::new(Arc::new(mapping), OFFSET as usize).unwrap()
}

/// Another process takes the ring over; it is told the base of the beginning.
fn take_over(rig: &mut Rig, file: &OwnedFd) {
    rig.ring = Ring::new(&config(rig.size, rig.features), Arc::clone(&rig.memory)).unwrap();
    rig.ring.track(part(file), true);
}

/// Where a process is killed, as far as it can be seen from outside.
#[derive(Debug, Clone, Copy)]
enum Killed {
    /// Between two bursts.
    Between,
    /// Within a burst: after so many of its used descriptors, with the next one announced.
    Within(usize),
    /// After a burst, when the driver has used the places again.
    AndOffered,
}

fn descriptors(rig: &Rig) -> Vec<u8> {
    rig.bytes(DESC, 16 * usize::from(rig.size))
}

/// A position `by` places after one, both as in half of a base.
fn advance(half: u16, by: usize, size: u16) -> u16 {
    let (index, wrap) = (half & 0x7fff, half & 0x8000);
    let next = index + by as u16;
    if next >= size { (next - size) | (wrap ^ 0x8000) } else { next | wrap }
}

/// Undoes what was returned after the first `count` chains of a burst that began at `start`.
fn kill_within(rig: &Rig, file: &OwnedFd, (start, before): (u16, &[u8]), chains: &[usize], count: usize) {
    let mut at = start;
    for (index, length) in chains.iter().enumerate() {
        let next = advance(at, *length, rig.size);
        if index >= count {
            let offset = usize::from(at & 0x7fff) * 16;
            rig.guest.write(DESC + offset as u64, &before[offset..offset + 16]).unwrap();
        }
        if index == count {
            let halves = [next & 0x7fff, at & 0x7fff, (next >> 15) | (at >> 15) << 8, 0];
            let bytes: Vec<u8> = halves.iter().flat_map(|half| half.to_ne_bytes()).collect();
            rustix::io::pwrite(file, &bytes, OFFSET + 16).unwrap();
        }
        at = next;
    }
}

fn round(rig: &mut Rig, file: &OwnedFd, chains: &[usize], killed: Killed) {
    let mut expected: Vec<u16> = chains.iter().map(|length| rig.offer(&vec![r(A, 80); *length])).collect();
    let (start, before) = (rig.ring.base() as u16, descriptors(rig));
    assert_eq!(rig.frames().len(), chains.len());
    let after = rig.ring.base();
    match killed {
        Killed::Between => {
            take_over(rig, file);
            assert_eq!(rig.ring.base(), after);
        }
        Killed::Within(count) => {
            // All at once, where one descriptor speaks for all.
            let whole = [chains.iter().sum()];
            let (chains, count) =
                if rig.features.in_order { (&whole[..], 0) } else { (chains, count % chains.len()) };
            kill_within(rig, file, (start, &before), chains, count);
            take_over(rig, file);
            let stands = advance(start, chains[..count].iter().sum(), rig.size);
            assert_eq!(rig.ring.base(), u32::from(stands) << 16 | u32::from(stands));
            let left = if rig.features.in_order { expected.len() } else { chains.len() - count };
            assert_eq!(rig.frames().len(), left, "what was not returned comes again");
            assert_eq!(rig.ring.base(), after);
        }
        Killed::AndOffered => {}
    }
    if rig.features.in_order {
        // One speaks for all; the rig's driver knows nothing of that.
        return;
    }
    let mut used: Vec<u16> = rig.used().into_iter().map(|(id, _)| id).collect();
    used.sort_unstable();
    expected.sort_unstable();
    assert_eq!(used, expected, "each returned once");
    if let Killed::AndOffered = killed {
        let size = usize::from(rig.size);
        let ids: Vec<u16> = (0..size).map(|_| rig.offer(&[r(A, 80)])).collect();
        take_over(rig, file);
        assert_eq!(rig.ring.base(), after);
        let mut taken = 0;
        while taken < size {
            taken += rig.frames().len();
        }
        assert_eq!(rig.used().len(), ids.len());
    }
}

proptest! {
    #[test]
    fn a_killed_process_is_followed_by_one_that_returns_each_chain_once(
        size in prop::sample::select(vec![7u16, 16, 31]),
        rounds in prop::collection::vec((prop::collection::vec(1usize..3, 1..4), 0usize..5), 1..40),
    ) {
        let mut rig = Rig::new(PACKED, size);
        let file = region();
        rig.ring.track(part(&file), true);
        for (chains, killed) in rounds {
            let within = Killed::Within(killed);
            let killed = [Killed::Between, Killed::AndOffered].get(killed).copied().unwrap_or(within);
            round(&mut rig, &file, &chains, killed);
        }
    }
}

#[test]
fn a_batch_that_is_returned_by_one_descriptor_is_found_whole() {
    let mut rig = Rig::with(PACKED, 16, RingFeatures { in_order: true, ..features(PACKED) });
    let file = region();
    rig.ring.track(part(&file), true);
    for killed in [Killed::Between, Killed::Within(0), Killed::Between, Killed::Within(0)] {
        round(&mut rig, &file, &[2, 1, 3], killed);
    }
}

#[test]
fn v28_what_cannot_be_a_position_is_not_believed() {
    let mut rig = Rig::new(PACKED, 16);
    let file = region();
    rig.ring.track(part(&file), true);
    round(&mut rig, &file, &[1, 2], Killed::Between);
    assert_eq!(rig.ring.base(), 0x8003_8003);
    let write = |at: u64, bytes: &[u8]| {
        rustix::io::pwrite(&file, bytes, OFFSET + at).unwrap();
    };
    let mut whole = [0; 32];
    rustix::io::pread(&file, &mut whole, OFFSET).unwrap();
    // Version, size, either index, either wrap counter.
    for (at, bytes) in [
        (8, &[0, 0][..]),
        (8, &[2, 0]),
        (10, &[15, 0]),
        (16, &[16, 0]),
        (18, &[0xff, 0xff]),
        (20, &[2]),
        (21, &[9]),
    ] {
        write(at, bytes);
        take_over(&mut rig, &file);
        assert_eq!(rig.ring.base(), 0x8000_8000, "{at}: the front end's word");
        write(0, &whole);
    }
    take_over(&mut rig, &file);
    assert_eq!(rig.ring.base(), 0x8003_8003);
    // Anything may be written there while the ring runs: it is not read again.
    write(0, &[0xff; 32]);
    rig.offer(&[r(A, 80)]);
    assert_eq!(rig.frames().len(), 1);
    // Nor is memory that went away anything but forgetful.
    rustix::fs::ftruncate(&file, 0).unwrap();
    rig.offer(&[r(A, 80)]);
    assert_eq!(rig.frames().len(), 1);
    rig.used();
    rig.still_takes();
}

#[test]
fn a_part_outside_of_its_region_is_none() {
    let mapping = Arc::new(Mapping::new(region(), 0, 4096).unwrap());
    for (offset, there) in [(0, true), (4096 - 32, true), (4096 - 31, false), (4, false), (usize::MAX, false)]
    {
        assert_eq!(InflightPart::new(Arc::clone(&mapping), offset).is_some(), there, "{offset}");
    }
}
