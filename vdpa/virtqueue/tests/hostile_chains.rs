//! What a hostile guest can write into descriptors, by the numbers of the project's list of hostile cases: each over split and packed rings, direct and
//! indirect, in both directions where that has a meaning. After each case the ring passes traffic again, and what the case refused was
//! counted once, under its name.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod common;

use std::sync::Arc;

use buf::Burst;
use common::*;
use towpath_virtqueue::{
    ChainError, DeviceRing, GiveError, Headers, MAX_FRAME, Ring, RingError, RingFeatures,
};

#[test]
fn g05_links_and_heads_out_of_range() {
    for next in [256u16, 257, 0xffff] {
        let mut rig = Rig::new(SPLIT, 256);
        rig.split_desc(DESC, 7, D { flags: NEXT, ..r(A, 40) }, next);
        rig.push_head(7);
        assert_eq!(rig.frames(), Vec::<Vec<u8>>::new());
        assert_eq!(rig.used(), [(7, 0)]);
        assert_eq!(rig.ring.stats().of(ChainError::Next), 1);
        rig.split_desc(DESC, 8, D { flags: NEXT | WRITE, ..w(A, 40) }, next);
        rig.push_head(8);
        assert_eq!(rig.give(&[1; 60]), Err(GiveError::NoBuffers));
        assert_eq!(rig.used(), [(8, 0)]);
        rig.still_takes();
        rig.push_head(next);
        stopped(&mut rig, |error| matches!(error, RingError::Head { size: 256, .. }));
    }
}

#[test]
fn g05_links_out_of_an_indirect_table() {
    for next in [3u16, 4, 0xffff] {
        let mut rig = Rig::new(Mode { indirect: true, ..SPLIT }, 256);
        for (index, to) in [(0, 1), (1, next), (2, 0)] {
            rig.split_desc(TABLES, index, D { flags: NEXT, ..r(A, 40) }, to);
        }
        rig.offer_direct(&[D { addr: TABLES, len: 48, flags: INDIRECT }]);
        assert_eq!(rig.frames(), Vec::<Vec<u8>>::new());
        assert_eq!(rig.used().len(), 1);
        assert_eq!(rig.ring.stats().of(ChainError::Next), 1);
        rig.still_takes();
    }
}

#[test]
fn g06_loops_end_after_as_many_steps_as_the_ring_has() {
    for len in [0, 1] {
        // Loops of 1, 2 and all descriptors of the table.
        for period in [1u16, 2, 256] {
            for indirect in [false, true] {
                let mut rig = Rig::new(Mode { indirect, ..SPLIT }, 256);
                let table = if indirect { TABLES } else { DESC };
                for index in 0..period {
                    rig.split_desc(table, index, D { flags: NEXT, ..r(A, len) }, (index + 1) % period);
                }
                if indirect {
                    rig.next = 300 % 256;
                    rig.offer_direct(&[D { addr: TABLES, len: u32::from(period) * 16, flags: INDIRECT }]);
                } else {
                    rig.push_head(0);
                }
                assert_eq!(rig.frames(), Vec::<Vec<u8>>::new());
                assert_eq!(rig.used().len(), 1);
                assert_eq!(rig.ring.stats().of(ChainError::TooLong), 1, "{len} {period} {indirect}");
                rig.still_takes();
            }
        }
    }
    // Packed: NEXT in every descriptor, so that the chain never ends.
    for len in [0, 1] {
        let mut rig = Rig::new(PACKED, 256);
        for index in 0..256 {
            rig.packed_desc(DESC, index, D { flags: NEXT | AVAIL, ..r(A, len) }, index);
        }
        stopped(&mut rig, |error| matches!(error, RingError::EndlessChain { position: 0, size: 256 }));
    }
}

#[test]
fn g06_a_chain_as_long_as_the_ring_is_legal() {
    for mode in MODES {
        let mut rig = Rig::new(mode, 16);
        rig.offer(&[r(A, 10); 16]);
        assert_eq!(rig.frames()[0].len(), 160 - HEADER, "{mode:?}");
        rig.used();
        let id = rig.offer(&[w(A, 10); 16]);
        rig.give(&[3; 148]).unwrap();
        assert_eq!(rig.used(), [(id, 160)]);
    }
}

#[test]
fn g07_descriptors_of_no_bytes_are_skipped_and_chains_of_nothing_else_refused() {
    for mode in MODES {
        let mut rig = Rig::new(mode, 256);
        for count in [1, 2, 30] {
            refused(&mut rig, &vec![r(A, 0); count], ChainError::TooShort);
        }
        let bytes = rig.pattern(A + 0x3000, 300);
        let (nothing, all) = (r(A + 0x3000, 0), [r(A + 0x3000, 12), r(A + 0x300c, 88), r(A + 0x3064, 200)]);
        for place in 0..=3 {
            let mut chain = all.to_vec();
            chain.insert(place, nothing);
            chain.insert(place, nothing);
            let id = rig.offer(&chain);
            assert_eq!(rig.frames(), [&bytes[HEADER..]], "{mode:?} {place}");
            assert_eq!(rig.used(), [(id, 0)]);
        }
        let mut rig = Rig::new(mode, 256);
        refused_rx(&mut rig, &[w(A, 0); 5], ChainError::TooShort);
        let id = rig.offer(&[w(A, 0), w(A + 0x3000, 50), w(A, 0), w(A + 0x4000, 500), w(A, 0)]);
        rig.give(&bytes[..100]).unwrap();
        assert_eq!(rig.used(), [(id, 112)]);
        assert_eq!(rig.bytes(A + 0x3000 + 12, 38), bytes[..38]);
        assert_eq!(rig.bytes(A + 0x4000, 62), bytes[38..100]);
    }
}

#[test]
fn g08_chains_of_four_gibibytes_are_refused() {
    for mode in MODES {
        let mut rig = Rig::new(mode, 256);
        for (first, second) in
            [(u32::MAX, 0), (u32::MAX, 1), (u32::MAX, 2), (1 << 31, 1 << 31), (u32::MAX, u32::MAX)]
        {
            refused(&mut rig, &[r(A, first), r(A, second)], ChainError::TooLarge);
        }
        // A megabyte at a time, which exists.
        refused(&mut rig, &[r(A, REGION as u32); 100], ChainError::TooLarge);
    }
}

#[test]
fn g08_chains_of_65535_entries_are_refused() {
    let mut rig = Rig::new(SPLIT, 32768);
    for index in 0..32768u16 {
        rig.split_desc(DESC, index, D { flags: NEXT, ..r(A, 1) }, (index + 1) % 32768);
    }
    rig.push_head(0);
    assert_eq!(rig.frames(), Vec::<Vec<u8>>::new());
    assert_eq!(rig.ring.stats().of(ChainError::TooLong), 1);
    rig.reset();
    rig.still_takes();

    let mut rig = Rig::new(PACKED, 32768);
    let id = rig.offer_direct(&vec![r(A, 1); 32767]);
    assert_eq!(rig.frames(), Vec::<Vec<u8>>::new());
    assert_eq!(rig.used(), [(id, 0)]);
    assert_eq!(rig.ring.stats().of(ChainError::TooLong), 1);
    rig.still_takes();
}

#[test]
fn g09_an_address_that_does_not_exist_is_not_looked_at_without_bytes() {
    for mode in MODES {
        let mut rig = Rig::new(mode, 256);
        refused(&mut rig, &[r(u64::MAX, 0)], ChainError::TooShort);
        let bytes = rig.pattern(A + 0x100, 60);
        rig.offer(&[r(u64::MAX, 0), r(A + 0x100, 60), r(HOLE, 0)]);
        assert_eq!(rig.frames(), [&bytes[HEADER..]]);
        let mut rig = Rig::new(mode, 256);
        refused_rx(&mut rig, &[w(u64::MAX, 0)], ChainError::TooShort);
    }
}

#[test]
fn g10_g11_g13_addresses_outside_memory_are_refused() {
    let bad = [
        (u64::MAX, 1),
        (u64::MAX - 63, 64),
        (u64::MAX - 63, 65),
        (u64::MAX - 10, 100),
        (HOLE, 64),
        (HOLE - 1, 64),
        (HOLE - 63, 64),
        (C - 1, 64),
        (C + REGION - 63, 64),
        (C + REGION, 64),
        (1 << 40, 64),
        (1 << 63, 64),
        (DESC + 0x20_0000 - 1, 64),
    ];
    for mode in MODES {
        for (addr, len) in bad {
            let mut rig = Rig::new(mode, 256);
            refused(&mut rig, &[r(addr, len)], ChainError::NotInMemory);
            refused(&mut rig, &[r(A, 64), r(addr, len)], ChainError::NotInMemory);
            refused(&mut rig, &[r(addr, len), r(A, 64)], ChainError::NotInMemory);
            let mut rig = Rig::new(mode, 256);
            refused_rx(&mut rig, &[w(addr, len)], ChainError::NotInMemory);
            refused_rx(&mut rig, &[w(A, 64), w(addr, len)], ChainError::NotInMemory);
        }
        // Address 0 is memory here: as good as any other.
        let mut rig = Rig::new(mode, 256);
        let bytes = rig.pattern(0, 64);
        rig.offer(&[r(0, 64)]);
        assert_eq!(rig.frames(), [&bytes[HEADER..]]);
        // The last bytes of a region are as good too.
        let bytes = rig.pattern(HOLE - 64, 64);
        rig.offer(&[r(HOLE - 64, 64)]);
        assert_eq!(rig.frames(), [&bytes[HEADER..]]);
    }
}

#[test]
fn g12_a_buffer_across_two_regions_is_copied_in_two_pieces() {
    for mode in MODES {
        for before in [1, 5, 12, 13, 64, 200] {
            let mut rig = Rig::new(mode, 256);
            let bytes = rig.pattern(B - before, 300);
            rig.offer(&[r(B - before, 300)]);
            let (header, frame) = rig.take().unwrap().remove(0);
            assert_eq!((&header[..], &frame[..]), bytes.split_at(HEADER), "{mode:?} {before}");
            let mut rig = Rig::new(mode, 256);
            let id = rig.offer(&[w(B - before, 300)]);
            rig.give(&bytes[..250]).unwrap();
            assert_eq!(rig.used(), [(id, 262)]);
            assert_eq!(rig.bytes(B - before + 12, 250), bytes[..250], "{mode:?} {before}");
        }
    }
}

#[test]
fn g14_the_header_may_be_split_anyhow() {
    for mode in MODES {
        let mut rig = Rig::new(mode, 256);
        let bytes = rig.pattern(A + 0x100, 100);
        for cuts in [&[1, 12][..], &[4, 8, 12], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], &[11, 13], &[5, 40]]
        {
            let (mut chain, mut at) = (Vec::new(), 0);
            for cut in cuts.iter().chain(&[100]) {
                chain.push(r(A + 0x100 + at, (cut - at) as u32));
                at = *cut;
            }
            rig.offer(&chain);
            let (header, frame) = rig.take().unwrap().remove(0);
            assert_eq!((&header[..], &frame[..]), bytes.split_at(HEADER), "{mode:?} {cuts:?}");
        }
    }
}

#[test]
fn g15_chains_without_a_byte_of_frame_are_refused() {
    for mode in MODES {
        let mut rig = Rig::new(mode, 256);
        for len in [0, 1, 11, 12] {
            refused(&mut rig, &[r(A, len)], ChainError::TooShort);
            refused(&mut rig, &[r(A, len), r(A, 0)], ChainError::TooShort);
        }
        refused(&mut rig, &[r(A, 6), r(A, 6)], ChainError::TooShort);
        let bytes = rig.pattern(A, 13);
        rig.offer(&[r(A, 13)]);
        assert_eq!(rig.frames(), [&bytes[12..]], "a runt is the next stage's to judge");
    }
}

#[test]
fn g16_frames_beyond_the_limit_are_refused() {
    for mode in MODES {
        let mut rig = Rig::new(mode, 256);
        let limit = (MAX_FRAME + HEADER) as u32;
        for len in [limit + 1, 256 << 10, u32::MAX] {
            refused(&mut rig, &[r(A, len)], ChainError::TooLarge);
        }
        rig.offer(&[r(A, limit)]);
        assert_eq!(rig.frames()[0].len(), MAX_FRAME);
        rig.offer(&[r(A, 12), r(B, 65_550)]);
        assert_eq!(rig.frames()[0].len(), 65_550);
        // A burst ends by bytes as well as by packets.
        for _ in 0..6 {
            rig.offer(&[r(A, 65_536 + 12)]);
        }
        assert_eq!((rig.frames().len(), rig.frames().len(), rig.frames().len()), (2, 2, 2));
    }
}

#[test]
fn g17_receive_buffers_too_small_for_a_header_go_back_empty() {
    for mode in MODES {
        let mut rig = Rig::new(mode, 256);
        for len in [0, 1, 11, 12] {
            refused_rx(&mut rig, &[w(A, len)], ChainError::TooShort);
        }
        // 13 bytes hold one byte of a frame each: legal with mergeable buffers.
        let ids: Vec<_> = (0..6).map(|at| rig.offer(&[w(A + 64 * at, 13)])).collect();
        rig.give(&[9; 60]).unwrap();
        assert_eq!(
            rig.used(),
            ids[..6].iter().zip([13, 13, 13, 13, 13, 7]).map(|(id, len)| (*id, len)).collect::<Vec<_>>()
        );
        assert_eq!(rig.bytes(A, 14), [&header()[..10], &[6, 0, 9, 0]].concat()[..14].to_vec());
        // A runt between good ones: the good ones before it go back empty, the frame uses those behind it.
        let good = rig.offer(&[w(A, 40)]);
        let runt = rig.offer(&[w(A + 64, 5)]);
        let (third, fourth) = (rig.offer(&[w(A + 128, 40)]), rig.offer(&[w(A + 192, 60)]));
        rig.give(&[9; 60]).unwrap();
        assert_eq!(rig.used(), [(good, 0), (runt, 0), (third, 40), (fourth, 32)]);
    }
}

#[test]
fn g17_runts_do_not_block_what_is_behind_them_without_mergeable_buffers() {
    for mode in MODES {
        let plain = RingFeatures { mergeable: false, ..features(mode) };
        for len in [0, 1, 11, 12, 13, 40, 1525] {
            let mut rig = Rig::with(mode, 256, plain);
            let runts: Vec<_> = (0..3).map(|at| rig.offer(&[w(A + 0x2000 * at, len)])).collect();
            let good = rig.offer(&[w(A + 0x9000, 1526)]);
            rig.give(&[9; 1514]).unwrap();
            let used: Vec<_> = runts.iter().map(|id| (*id, 0)).chain([(good, 1526)]).collect();
            assert_eq!(rig.used(), used, "{mode:?} {len}");
            let error = if len <= 12 { ChainError::TooShort } else { ChainError::Runt };
            assert_eq!(
                (rig.ring.stats().of(error), rig.ring.stats().refused_total()),
                (3, 3),
                "{mode:?} {len}"
            );
        }
        // One that the frame fits is used, however small.
        let mut rig = Rig::with(mode, 256, plain);
        let small = rig.offer(&[w(A, 72)]);
        rig.give(&[9; 60]).unwrap();
        assert_eq!((rig.used(), rig.ring.stats().refused_total()), (vec![(small, 72)], 0));
    }
}

#[test]
fn g29_bad_receive_buffers_made_available_without_end_cost_a_burst_so_much_and_no_more() {
    for mode in MODES {
        // Every buffer of a ring far longer than what is fetched at once, and one frame: it waits for none of them.
        let mut rig = Rig::new(mode, 8192);
        for _ in 0..8000 {
            rig.offer(&[w(HOLE, 2048)]);
        }
        let base = rig.used().len();
        assert_eq!(rig.give(&[1; 60]), Err(GiveError::NoBuffers), "{mode:?}");
        let returned = rig.used().len() - base;
        assert!((256..4096).contains(&returned), "{mode:?}: {returned} chains for one burst");
        // All are gone through in the end, each counted once.
        while rig.ring.stats().refused_total() < 8000 {
            assert_eq!(rig.give(&[1; 60]), Err(GiveError::NoBuffers), "{mode:?}");
        }
        assert_eq!(rig.used().len() + returned, 8000);
        rig.still_gives();
    }
}

#[test]
fn a_bad_receive_buffer_that_is_reserved_and_not_reached_is_not_counted_yet() {
    for mode in MODES {
        let mut rig = Rig::new(mode, 256);
        let good = rig.offer(&[w(A + 0x9000, 2048)]);
        let bad = rig.offer(&[w(HOLE, 2048)]);
        for _ in 0..5 {
            assert_eq!(rig.ring.reserve(32), Ok(2));
            rig.ring.publish();
            assert_eq!(rig.ring.stats().refused_total(), 0, "{mode:?}");
        }
        rig.give(&[1; 60]).unwrap();
        assert_eq!((rig.used(), rig.ring.stats().refused_total()), (vec![(good, 72)], 0));
        assert_eq!(rig.give(&[1; 60]), Err(GiveError::NoBuffers));
        assert_eq!((rig.used(), rig.ring.stats().of(ChainError::NotInMemory)), (vec![(bad, 0)], 1));
    }
}

#[test]
fn g18_a_frame_too_large_for_an_unmergeable_buffer_is_dropped() {
    for mode in MODES {
        let plain = RingFeatures { mergeable: false, ..features(mode) };
        let mut rig = Rig::with(mode, 256, plain);
        for _ in 0..8 {
            rig.offer(&[w(A + 0x9000, 1526)]);
        }
        let base = rig.ring.base();
        assert_eq!(rig.give(&[1; 9000]), Err(GiveError::TooSmall));
        assert_eq!(rig.give(&[1; 1515]), Err(GiveError::TooSmall));
        assert_eq!((rig.ring.base(), rig.used()), (base, vec![]), "ring index unchanged");
        assert_eq!(rig.give(&[1; 1514]), Ok(()));
        assert_eq!(rig.used().len(), 1);
        assert_eq!(rig.bytes(A + 0x9000, HEADER), header());
    }
}

#[test]
fn g19_a_frame_larger_than_all_buffers_waits_or_is_dropped() {
    for mode in MODES {
        let mut rig = Rig::new(mode, 256);
        for at in 0..8 {
            rig.offer(&[w(A + 0x9000 + at * 2048, 1526)]);
        }
        let base = rig.ring.base();
        assert_eq!(rig.give(&[1; 9 * 1526]), Err(GiveError::NoBuffers));
        assert_eq!((rig.ring.base(), rig.used()), (base, vec![]), "ring index unchanged");
        assert_eq!(rig.give(&[1; 8 * 1526 - HEADER]), Ok(()));
        assert_eq!(rig.used().len(), 8);
        assert_eq!(rig.bytes(A + 0x9000 + 10, 2), [8, 0]);
        // More buffers than we are ready to gather for one frame.
        let mut rig = Rig::new(mode, 1024);
        for at in 0..600 {
            rig.offer(&[w(A + at * 64, 20)]);
        }
        let base = rig.ring.base();
        assert_eq!(rig.give(&[1; 20 * 300]), Err(GiveError::TooSmall));
        assert_eq!((rig.ring.base(), rig.used()), (base, vec![]));
        assert_eq!(rig.give(&[1; 20 * 256 - HEADER]), Ok(()));
        assert_eq!(rig.used().len(), 256);
        assert_eq!(rig.bytes(A + 10, 2), [0, 1]);
    }
}

#[test]
fn g20_headers_of_every_negotiable_length() {
    for mode in MODES {
        for len in [0u8, 10, 12, 20, 24] {
            let mut rig = Rig::new(mode, 256);
            let config = towpath_virtqueue::RingConfig { header_len: len, ..config(256, rig.features) };
            rig.ring = Ring::new(&config, Arc::clone(&rig.memory)).unwrap();
            let bytes = rig.pattern(A, 90);
            let short = rig.offer(&[r(A, u32::from(len))]);
            let split = rig.offer(&[r(A, 7), r(A + 7, 83)]);
            let whole = rig.offer(&[r(A, 90)]);
            let (mut burst, mut headers) = (Burst::new(), Headers::new());
            let memory = Arc::clone(&rig.memory);
            assert_eq!(rig.ring.take(&memory, &mut burst, &mut headers), Ok(2));
            burst.load_heads();
            for index in 0..2 {
                let mut header = [0; 32];
                assert_eq!(headers.read(index, &mut header), usize::from(len));
                assert_eq!(header[..usize::from(len)], bytes[..usize::from(len)]);
                assert_eq!(burst.frame(index).unwrap().to_vec(), bytes[usize::from(len)..]);
            }
            assert_eq!(headers.read(2, &mut [0; 32]), 0);
            rig.ring.return_taken();
            assert_eq!(rig.used(), [(short, 0), (split, 0), (whole, 0)]);
        }
    }
}

#[test]
fn g21_g22_indirect_tables_of_bad_length_or_place_are_refused() {
    for mode in [MODES[2], MODES[3]] {
        let mut rig = Rig::new(mode, 256);
        let direct = Mode { indirect: false, ..mode };
        rig.mode = direct; // `refused` offers these as they are
        let table = |addr, len| [D { addr, len, flags: INDIRECT }];
        for len in [0, 8, 15, 17, 24, 1025 * 16, 65_535 * 16, u32::MAX] {
            refused(&mut rig, &table(TABLES, len), ChainError::IndirectLength);
            let mut other = Rig::new(mode, 256);
            other.mode = direct;
            refused_rx(&mut other, &table(TABLES, len), ChainError::IndirectLength);
        }
        for addr in [HOLE, HOLE - 1, HOLE - 16, C + REGION - 16, u64::MAX, u64::MAX - 31, 1 << 40] {
            refused(&mut rig, &table(addr, 32), ChainError::IndirectNotInMemory);
        }
    }
}

#[test]
fn g21_g23_tables_across_regions_and_unaligned_are_read() {
    for mode in [MODES[2], MODES[3]] {
        let mut rig = Rig::new(mode, 256);
        let bytes = rig.pattern(A + 0x100, 100);
        let chain = [r(A + 0x100, 30), r(A + 0x11e, 30), r(A + 0x13c, 40)];
        for shift in [1, 3, 7, 8, 15] {
            rig.offer_table(&chain, shift);
            assert_eq!(rig.frames(), [&bytes[HEADER..]], "{mode:?} {shift}");
        }
        for before in [1, 8, 16, 17, 47] {
            let table: Vec<_> = bytes_of_table(&rig, &chain);
            for (at, byte) in (B - before..).zip(table) {
                rig.guest.write(at, &[byte]).unwrap();
            }
            rig.offer_direct(&[D { addr: B - before, len: 48, flags: INDIRECT }]);
            assert_eq!(rig.frames(), [&bytes[HEADER..]], "{mode:?} {before}");
        }
    }
}

fn bytes_of_table(rig: &Rig, chain: &[D]) -> Vec<u8> {
    rig.write_table(TABLES, chain);
    rig.bytes(TABLES, chain.len() * 16)
}

#[test]
fn g24_indirect_tables_nested_linked_or_too_long_are_refused() {
    for mode in [MODES[2], MODES[3]] {
        let mut rig = Rig::new(mode, 256);
        rig.mode.indirect = false;
        let inner = D { addr: TABLES + 0x1000, len: 16, flags: INDIRECT };
        rig.write_table(TABLES, &[r(A, 40), inner]);
        let outer = D { addr: TABLES, len: 32, flags: INDIRECT };
        refused(&mut rig, &[outer], ChainError::IndirectNested);
        rig.write_table(TABLES, &[r(A, 40), r(A, 40)]);
        refused(&mut rig, &[D { flags: INDIRECT | WRITE, ..outer }], ChainError::IndirectFlags);
        refused(&mut rig, &[outer, outer], ChainError::IndirectFlags);
        // Direct descriptors before a table: a split ring's device must take it (2.7.5.3.2), a packed one need not (2.8.19).
        if rig.is_split() {
            rig.offer_direct(&[r(A, 40), outer]);
            assert_eq!(rig.frames()[0].len(), 108);
            rig.used();
        } else {
            refused(&mut rig, &[r(A, 40), outer], ChainError::IndirectFlags);
        }
        // The longest table that is legal: more pieces than this burst has room for, so it goes into the next.
        let longest = vec![r(A, 100); 1024];
        rig.write_table(C, &longest);
        let long = D { addr: C, len: 1024 * 16, flags: INDIRECT };
        for _ in 0..3 {
            rig.offer_direct(&[long]);
        }
        for _ in 0..3 {
            let frames = rig.frames();
            assert_eq!((frames.len(), frames[0].len()), (1, 1024 * 100 - HEADER));
        }
        assert_eq!(rig.used().len(), 3);
    }
}

#[test]
fn g25_indirect_without_negotiation_and_reserved_flags_are_refused() {
    for mode in LAYOUTS {
        let mut rig = Rig::new(mode, 256);
        rig.write_table(TABLES, &[r(A, 100)]);
        refused(&mut rig, &[D { addr: TABLES, len: 16, flags: INDIRECT }], ChainError::IndirectNotNegotiated);
        let reserved: &[u16] = if rig.is_split() { &[8, 0x80, 0x100, 0x8000] } else { &[8, 0x100, 0x4000] };
        for flags in reserved {
            refused(&mut rig, &[D { flags: *flags, ..r(A, 100) }], ChainError::ReservedFlags);
            let mut other = Rig::new(mode, 256);
            refused_rx(&mut other, &[D { flags: WRITE | flags, ..w(A, 100) }], ChainError::ReservedFlags);
        }
    }
    // In tables: split tables are chains like any other; a packed table's reserved bits are ignored (2.8.7).
    let mut rig = Rig::new(MODES[2], 256);
    refused(&mut rig, &[D { flags: 0x100, ..r(A, 100) }], ChainError::ReservedFlags);
    let mut rig = Rig::new(MODES[3], 256);
    rig.offer(&[D { flags: 0x100 | AVAIL | USED, ..r(A, 100) }]);
    assert_eq!(rig.frames()[0].len(), 88);
}

#[test]
fn g26_descriptors_of_the_wrong_direction_are_refused() {
    for mode in MODES {
        let mut rig = Rig::new(mode, 256);
        for chain in
            [&[w(A, 100)][..], &[r(A, 100), w(A, 100)], &[w(A, 100), r(A, 100)], &[w(A, 0), r(A, 100)]]
        {
            refused(&mut rig, chain, ChainError::Writable);
        }
        let mut rig = Rig::new(mode, 256);
        for chain in
            [&[r(A, 100)][..], &[w(A, 100), r(A, 100)], &[r(A, 100), w(A, 100)], &[r(A, 0), w(A, 100)]]
        {
            refused_rx(&mut rig, chain, ChainError::NotWritable);
        }
    }
}

#[test]
fn g43_bytes_behind_a_frame_are_not_touched() {
    for mode in MODES {
        for len in [1, 14, 60, 100, 1000, 1514] {
            let mut rig = Rig::new(mode, 256);
            rig.guest.write(A + 0x9000, &[0xa5; 4096]).unwrap();
            rig.offer(&[w(A + 0x9100, 30), w(A + 0x9200, 2000)]);
            rig.give(&vec![1; len]).unwrap();
            let all = rig.bytes(A + 0x9000, 4096);
            let written: Vec<_> = (0..4096).filter(|at| all[*at] != 0xa5).collect();
            let expected: Vec<_> =
                (0..HEADER + len).map(|at| if at < 30 { 0x100 + at } else { 0x200 + at - 30 }).collect();
            assert_eq!(written, expected, "{mode:?} {len}");
        }
    }
}

#[test]
fn g44_used_lengths_are_exact() {
    for mode in MODES {
        let mut rig = Rig::new(mode, 256);
        let first = rig.offer(&[w(A, 100), w(A + 0x1000, 100)]);
        let second = rig.offer(&[w(A + 0x2000, 150)]);
        let third = rig.offer(&[w(A + 0x3000, 1500)]);
        rig.give(&[1; 300]).unwrap();
        assert_eq!(rig.used(), [(first, 200), (second, 112)]);
        assert_eq!(rig.bytes(A + 10, 2), [2, 0]);
        rig.give(&[2; 1]).unwrap();
        assert_eq!(rig.used(), [(third, 13)]);
        assert_eq!(rig.give(&[2; 1]), Err(GiveError::NoBuffers));
        let fourth = rig.offer(&[w(A + 0x4000, 40)]);
        rig.give(&[2; 28]).unwrap();
        assert_eq!(rig.used(), [(fourth, 40)]);
    }
}
