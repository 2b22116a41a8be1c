//! `VIRTIO_F_IN_ORDER`: one used entry speaks for a batch (2.7.9, 2.8.9), and what a driver gets that breaks its side of it (G-47).

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod common;

use common::*;
use towpath_virtqueue::{DeviceRing, RingFeatures};

fn in_order(mode: Mode, size: u16) -> Rig {
    Rig::with(mode, size, RingFeatures { in_order: true, ..features(mode) })
}

#[test]
fn a_split_batch_is_one_entry_with_the_last_head() {
    let mut rig = in_order(SPLIT, 16);
    for round in 0..20u16 {
        let start = round * 5;
        rig.guest.write(DEVICE + 4, &[0xee; 8 * 16]).unwrap();
        for _ in 0..5 {
            rig.offer(&[r(A, 80)]);
        }
        assert_eq!(rig.frames().len(), 5);
        assert_eq!(rig.guest.load_u16(DEVICE + 2), Ok(start + 5), "the index moves by the batch");
        for slot in 0..16 {
            let entry = rig.guest.load_u32(DEVICE + 4 + 8 * slot).unwrap();
            let first = u64::from(start % 16) == slot;
            assert_eq!(entry, if first { u32::from((start + 4) % 16) } else { 0xeeee_eeee }, "round {round}");
        }
    }
}

#[test]
fn a_packed_batch_is_one_descriptor_with_the_last_id() {
    let mut rig = in_order(PACKED, 16);
    // Chains of two descriptors, three per batch: six positions for one used descriptor.
    let (mut at, mut wrap) = (0u16, true);
    for round in 0..20u16 {
        let ids: Vec<_> = (0..3).map(|_| rig.offer(&[r(A, 40), r(A, 40)])).collect();
        let flags_of = |rig: &Rig, at: u16| rig.guest.load_u16(DESC + u64::from(at) * 16 + 14).unwrap();
        let before: Vec<_> = (0..6).map(|step| flags_of(&rig, (at + step) % 16)).collect();
        assert_eq!(rig.frames().len(), 3);
        let used = if wrap { AVAIL | USED } else { 0 };
        assert_eq!(flags_of(&rig, at), used, "round {round}: the first position is used");
        assert_eq!(rig.guest.load_u16(DESC + u64::from(at) * 16 + 12), Ok(ids[2]));
        for step in 1..6 {
            let now = flags_of(&rig, (at + step) % 16);
            assert_eq!(now, before[usize::from(step)], "round {round}: the others are not written");
        }
        at += 6;
        if at >= 16 {
            (at, wrap) = (at - 16, !wrap);
        }
    }
}

#[test]
fn bad_chains_are_part_of_their_batch() {
    let mut rig = in_order(SPLIT, 16);
    rig.offer(&[r(A, 80)]);
    rig.offer(&[r(HOLE, 80)]);
    assert_eq!(rig.frames().len(), 1);
    assert_eq!(rig.guest.load_u16(DEVICE + 2), Ok(2));
    assert_eq!(rig.guest.load_u32(DEVICE + 4), Ok(1), "the head of the last, bad or not");
}

#[test]
fn receive_buffers_are_returned_one_by_one_with_their_lengths() {
    for mode in MODES {
        let mut rig = in_order(mode, 16);
        for round in 0..10u8 {
            let ids: Vec<_> = (0..4).map(|at| rig.offer(&[w(A + 0x1000 * at, 100)])).collect();
            rig.give(&[round; 150]).unwrap();
            rig.give(&[round; 60]).unwrap();
            rig.give(&[round; 1]).unwrap();
            let lengths = [100, 62, 72, 13];
            assert_eq!(rig.used(), ids.into_iter().zip(lengths).collect::<Vec<_>>());
        }
    }
}

#[test]
fn g47_heads_out_of_order_are_served_in_the_order_they_came() {
    // The driver promised descriptors in ring order and breaks it: we read the available ring all the same, so it gets what it asked for, and the one
    // entry per batch names the head it made available last.
    let mut rig = in_order(SPLIT, 16);
    for (head, base) in [(9u16, 0x100), (2, 0x200), (5, 0x300)] {
        let bytes = rig.pattern(A + base, 60);
        assert_eq!(bytes.len(), 60);
        rig.split_desc(DESC, head, r(A + base, 60), 0);
        rig.push_head(head);
    }
    let expected: Vec<_> = [0x100, 0x200, 0x300].map(|base| rig.bytes(A + base + 12, 48)).to_vec();
    assert_eq!(rig.frames(), expected);
    assert_eq!(rig.guest.load_u32(DEVICE + 4), Ok(5));
    assert_eq!(rig.ring.broken(), None);
}
