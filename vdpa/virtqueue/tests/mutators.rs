//! A guest that changes rings and buffers while the device reads them, from a second thread (G-30 to G-34): each field is fetched once, so what was
//! checked is what is used. No access leaves the mappings (it would fault or show the canary that lies behind them), no length exceeds what was validated, and
//! no more chains come back than were made available.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use buf::{Burst, Frame, Offload};
use common::*;
use guest_mem::GuestMemory;
use towpath_virtqueue::{DeviceRing, Headers, RingError};

/// Runs `mutate` in a second thread while `device` runs in this one: at least 2,000 turns, and until `enough` was seen of what both do to each other
/// (on a busy machine the two may not overlap for a while).
fn race(
    rig: &mut Rig,
    mutate: impl Fn(&GuestMemory, u64) + Send + 'static,
    mut device: impl FnMut(&mut Rig, u64),
    enough: impl Fn(&Rig) -> bool,
) {
    let stop = Arc::new(AtomicBool::new(false));
    let (guest, flag) = (Arc::clone(&rig.guest), Arc::clone(&stop));
    let turns = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&turns);
    let mutator = std::thread::spawn(move || {
        while !flag.load(Ordering::Relaxed) {
            mutate(&guest, counter.fetch_add(1, Ordering::Relaxed));
        }
    });
    let end = Instant::now() + Duration::from_secs(60);
    let mut turn = 0;
    while turn < 2000 || turns.load(Ordering::Relaxed) < 10_000 || !enough(rig) {
        device(rig, turn);
        turn += 1;
        assert!(turn % 1000 != 0 || Instant::now() < end, "{:?}: {:?}", rig.mode, rig.ring.stats());
    }
    stop.store(true, Ordering::Relaxed);
    mutator.join().unwrap();
}

/// Chains were refused, and others were not: the guest was seen in both states.
fn both(rig: &Rig) -> bool {
    let stats = rig.ring.stats();
    stats.refused_total() > 10 && stats.chains > stats.refused_total() + 10
}

/// Takes a burst; the lengths of its packets. The ring is made anew when it stopped.
fn lengths(rig: &mut Rig) -> Vec<usize> {
    let memory = Arc::clone(&rig.memory);
    let (mut burst, mut headers) = (Burst::new(), Headers::new());
    let _ = rig.ring.take(&memory, &mut burst, &mut headers);
    burst.load_heads();
    let lengths = (0..burst.len()).map(|index| {
        let bytes = burst.frame(index).unwrap().to_vec();
        headers.read(index, &mut [0; HEADER]);
        assert_eq!(bytes.len(), burst.packet(index).unwrap().len(), "the length that was checked");
        bytes.len()
    });
    let lengths = lengths.collect();
    rig.ring.return_taken();
    lengths
}

/// Where the second half of descriptor 0 (or of the first entry of a table) has its length, and its flags.
fn flags_at(rig: &Rig, table: u64) -> u64 {
    table + if rig.is_split() { 12 } else { 14 }
}

/// Offers descriptor 0 again and again, the way the layout wants it.
fn offer_again(rig: &mut Rig, d: D) {
    if rig.is_split() {
        rig.push_head(0);
    } else {
        rig.offer_direct(&[d]);
    }
}

#[test]
fn g30_an_index_is_read_whole() {
    // The available index flips between 0x00ff and 0x0100: 0x0000 or 0x01ff would be torn.
    let mut rig = Rig::new(SPLIT, 1024);
    rig.split_desc(DESC, 0, r(A, 80), 0);
    for slot in 0..1024u16 {
        rig.split_desc(DESC, slot, r(A, 80), 0);
        rig.guest.store_u16(DRIVER + 4 + 2 * u64::from(slot), slot).unwrap();
    }
    rig.guest.store_u16(DRIVER + 2, 0x00ff).unwrap();
    let seen_both = std::cell::Cell::new([0u32; 2]);
    race(
        &mut rig,
        |guest, turn| guest.store_u16(DRIVER + 2, if turn % 2 == 0 { 0x00ff } else { 0x0100 }).unwrap(),
        |rig, _| {
            rig.guest.store_u16(DEVICE + 2, 0xf0).unwrap();
            rig.ring =
                towpath_virtqueue::Ring::new(&config(1024, rig.features), Arc::clone(&rig.memory)).unwrap();
            let mut seen = 0;
            for _ in 0..3 {
                seen += lengths(rig).len();
            }
            let [fewer, more] = seen_both.get();
            seen_both.set([fewer + u32::from(seen == 0xf), more + u32::from(seen == 0x10)]);
            match rig.ring.broken() {
                None => assert!([0xf, 0x10].contains(&seen), "{seen}"),
                // It went back by one below what had been fetched: that is seen, too.
                Some(error) => {
                    assert!(matches!(error, RingError::AvailableJump { index: 0xff, .. }), "{error}");
                }
            }
        },
        |_| seen_both.get().iter().all(|times| *times > 10),
    );
}

#[test]
fn g31_a_length_is_fetched_once() {
    for mode in LAYOUTS {
        let mut rig = Rig::new(mode, 1);
        let d = r(C + REGION - 64, 64);
        // 65,535 bytes would leave the region: refused, never read.
        race(
            &mut rig,
            |guest, turn| guest.store_u32(DESC + 8, if turn % 2 == 0 { 64 } else { 65_535 }).unwrap(),
            move |rig, turn| {
                if turn == 0 && rig.is_split() {
                    rig.split_desc(DESC, 0, d, 0);
                }
                offer_again(rig, d);
                for len in lengths(rig) {
                    assert_eq!(len, 52);
                }
                rig.used();
            },
            both,
        );
    }
}

#[test]
fn g31_a_receive_buffers_length_is_fetched_once() {
    for mode in LAYOUTS {
        let mut rig = Rig::new(mode, 1);
        let d = w(C + REGION - 64, 64);
        race(
            &mut rig,
            |guest, turn| guest.store_u32(DESC + 8, if turn % 2 == 0 { 64 } else { 65_535 }).unwrap(),
            move |rig, turn| {
                if turn == 0 && rig.is_split() {
                    rig.split_desc(DESC, 0, d, 0);
                }
                offer_again(rig, d);
                // 1000 bytes fit only the length that does not exist.
                let bytes = [0x5a; 1000];
                let _ = rig.ring.give(&header(), &Frame::from_head(&bytes[..40], Offload::NONE));
                assert!(rig.ring.give(&header(), &Frame::from_head(&bytes, Offload::NONE)).is_err());
                rig.ring.publish();
                for (_, len) in rig.used() {
                    // In a packed ring the mutator owns the field that the length comes back in.
                    assert!(len == 0 || len == 52 || !rig.is_split(), "{len}");
                }
            },
            both,
        );
    }
}

#[test]
fn g32_an_indirect_table_is_copied_before_it_is_judged() {
    for mode in [MODES[2], MODES[3]] {
        let mut rig = Rig::new(mode, 1);
        rig.write_table(TABLES, &[r(C + REGION - 64, 32), r(C + REGION - 32, 32)]);
        let (flags, split) = (flags_at(&rig, TABLES), rig.is_split());
        let outer = D { addr: TABLES, len: 32, flags: INDIRECT };
        race(
            &mut rig,
            move |guest, turn| match turn % 8 {
                0 => guest.store_u32(TABLES + 8, u32::MAX).unwrap(),
                1 => guest.store_u32(TABLES + 8, 32).unwrap(),
                2 => guest.store_u64(TABLES, HOLE).unwrap(),
                3 => guest.store_u64(TABLES, C + REGION - 64).unwrap(),
                4 => guest.store_u16(flags, INDIRECT | 1).unwrap(),
                5 => guest.store_u16(flags, if split { 1 } else { 0 }).unwrap(),
                6 => guest.store_u16(TABLES + 14, if split { 0xffff } else { 0 }).unwrap(),
                _ => guest.store_u16(TABLES + 14, if split { 1 } else { 0 }).unwrap(),
            },
            move |rig, turn| {
                if turn == 0 && rig.is_split() {
                    rig.split_desc(DESC, 0, outer, 0);
                }
                offer_again(rig, outer);
                for len in lengths(rig) {
                    assert!(len == 52 || len == 20, "{len}");
                }
                rig.used();
            },
            both,
        );
    }
}

#[test]
fn g32_links_change_while_a_chain_is_walked() {
    let mut rig = Rig::new(SPLIT, 8);
    for index in 0..8u16 {
        rig.split_desc(DESC, index, D { flags: if index < 7 { NEXT } else { 0 }, ..r(A, 40) }, index + 1);
    }
    race(
        &mut rig,
        |guest, turn| {
            let (at, to) = (turn % 7, [0u16, 1, 7, 8, 0xffff, 3][turn as usize % 6]);
            guest.store_u16(DESC + at * 16 + 14, to).unwrap();
            if turn % 5 == 0 {
                guest.store_u16(DESC + at * 16 + 14, at as u16 + 1).unwrap();
            }
        },
        |rig, _| {
            rig.push_head(0);
            for len in lengths(rig) {
                assert!(len < 8 * 40 && (len + HEADER).is_multiple_of(40), "{len}");
            }
            assert_eq!(rig.used().len(), 1);
        },
        both,
    );
}

#[test]
fn g34_flags_flip_while_a_chain_is_read() {
    for mode in MODES {
        let mut rig = Rig::new(mode, 2);
        let d = r(A, 64);
        let (flags, split) = (flags_at(&rig, DESC), rig.is_split());
        rig.write_table(A, &[r(B, 100); 4]);
        race(
            &mut rig,
            move |guest, turn| {
                if split {
                    guest.store_u16(flags, [0, NEXT, WRITE, INDIRECT, 7, 0x80][turn as usize % 6]).unwrap();
                } else {
                    // Availability belongs to the driver's thread here; the bits below do not.
                    guest
                        .write(flags, &[[0x80, 0x81, 0x82, 0x84, 0x87, 0x00, 0x01][turn as usize % 7]])
                        .unwrap();
                }
            },
            move |rig, turn| {
                if rig.is_split() {
                    if turn == 0 {
                        rig.split_desc(DESC, 0, d, 1);
                        rig.split_desc(DESC, 1, d, 0);
                    }
                    rig.push_head(0);
                } else {
                    let _ = rig.guest.store_u64(DESC, A);
                    rig.packed_desc(DESC, 1, D { flags: rig.avail_bits(), ..d }, 1);
                    rig.packed_desc(DESC, 0, D { flags: rig.avail_bits(), ..d }, 0);
                }
                for _ in 0..3 {
                    for len in lengths(rig) {
                        assert!([52, 116, 388, 64 + 388].contains(&len), "{mode:?} {len}");
                    }
                }
                if rig.ring.broken().is_some() || !rig.is_split() {
                    rig.reset();
                    if rig.is_split() {
                        rig.split_desc(DESC, 0, d, 1);
                        rig.split_desc(DESC, 1, d, 0);
                    }
                }
            },
            |_| true,
        );
    }
}

#[test]
fn g27_g34_a_ring_of_noise_is_survived() {
    // Another thread writes noise over the whole ring, while the device takes, gives and returns; it is made anew whenever it stops.
    for mode in MODES {
        let mut rig = Rig::new(mode, 16);
        race(
            &mut rig,
            |guest, turn| {
                let mut noise = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                for _ in 0..8 {
                    noise ^= noise >> 29;
                    noise = noise.wrapping_mul(0xbf58_476d_1ce4_e5b9);
                    let area = [DESC, DESC, DRIVER, DEVICE][(noise >> 60) as usize % 4];
                    let value =
                        [noise & 0xff_ffff, noise & 0x0007_0000_00ff_ffff, noise][(noise >> 50) as usize % 3];
                    guest.store_u64(area + (noise >> 40) % 40 * 8, value).unwrap();
                }
            },
            |rig, _| {
                lengths(rig);
                let _ = rig.ring.reserve(4);
                let _ = rig.ring.give(&header(), &Frame::from_head(&[0x5a; 300], Offload::NONE));
                rig.ring.publish();
                rig.ring.interrupt_due();
                if rig.ring.broken().is_some() {
                    let config = config(16, rig.features);
                    rig.ring = towpath_virtqueue::Ring::new(&config, Arc::clone(&rig.memory)).unwrap();
                }
            },
            |_| true,
        );
        rig.reset();
        rig.still_takes();
        rig.reset();
        rig.still_gives();
    }
}
