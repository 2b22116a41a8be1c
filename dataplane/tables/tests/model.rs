//! The MAC table against a `HashMap`: the same answers after any sequence of changes, before and after a refresh.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::HashMap;

use packet::MacAddr;
use proptest::prelude::*;
use towpath_tables::{MacTable, MacWriter};

#[derive(Clone, Debug)]
enum Step<K> {
    Insert(K, u16),
    Remove(K),
    Refresh,
}

fn steps<K: Clone + std::fmt::Debug + 'static>(
    key: impl Strategy<Value = K> + Clone + 'static,
) -> impl Strategy<Value = Vec<Step<K>>> {
    let step = prop_oneof![
        6 => (key.clone(), any::<u16>()).prop_map(|(key, value)| Step::Insert(key, value)),
        3 => key.prop_map(Step::Remove),
        1 => Just(Step::Refresh),
    ];
    prop::collection::vec(step, 0..600)
}

/// Few enough keys that they are removed and replaced often; alike, as a vendor's MAC addresses are.
fn mac_key() -> impl Strategy<Value = u64> + Clone {
    (0u16..3, 1u64..200)
        .prop_map(|(subnet, mac)| MacTable::key(subnet, MacAddr::from_u64(0x0200_0000_0000 | mac)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn mac_table_is_a_map(steps in steps(mac_key()), secret: [u64; 2]) {
        let mut writer = MacWriter::new(secret);
        let mut reader = writer.reader();
        let mut model = HashMap::new();
        for step in steps {
            match step {
                Step::Insert(key, value) => {
                    prop_assert_eq!(writer.insert(key, value.into()), model.insert(key, value.into()));
                }
                Step::Remove(key) => prop_assert_eq!(writer.remove(key), model.remove(&key)),
                Step::Refresh => {
                    reader.refresh();
                    prop_assert_eq!(writer.reclaim(), 0);
                }
            }
            prop_assert_eq!(writer.len(), model.len());
        }
        reader.refresh();
        // Each key once and, as in a burst to one destination, three times.
        let repeated = [1, 2, 3, 3, 3, 2, 2].map(|mac| MacTable::key(1, MacAddr::from_u64(0x0200_0000_0000 | mac)));
        let mut found = [7; 7];
        prop_assert!((4..=8).contains(&reader.lookup_batch(&repeated, &mut found)));
        for (key, found) in repeated.iter().zip(found) {
            prop_assert_eq!(found, model.get(key).copied().unwrap_or(MacTable::ABSENT));
        }
        let keys: Vec<u64> = (0..3)
            .flat_map(|subnet| (0..220).map(move |mac| MacTable::key(subnet, MacAddr::from_u64(0x0200_0000_0000 | mac))))
            .collect();
        let mut found = vec![7; keys.len()];
        let lines = reader.lookup_batch(&keys, &mut found);
        prop_assert!((keys.len()..=2 * keys.len()).contains(&lines), "{} lines for {} keys", lines, keys.len());
        for (key, found) in keys.iter().zip(found) {
            prop_assert_eq!(found, model.get(key).copied().unwrap_or(MacTable::ABSENT));
            prop_assert_eq!(reader.lookup(*key), model.get(key).copied());
            prop_assert_eq!(writer.get(*key), model.get(key).copied());
        }
    }
}

#[test]
fn nothing_is_never_found() {
    let mut writer = MacWriter::new([1, 2]);
    let reader = writer.reader();
    assert_eq!(reader.lookup(0), None, "all slots are empty, none has key 0");
    let mut out = [5; 3];
    assert_eq!(reader.lookup_batch(&[0, u64::MAX], &mut out), 2);
    assert_eq!(out, [MacTable::ABSENT, MacTable::ABSENT, 5]);
    assert!(writer.is_empty());
    assert_eq!(writer.remove(9), None);
}

#[test]
#[cfg(not(debug_assertions))]
fn nothing_is_never_stored() {
    let mut writer = MacWriter::new([1, 2]);
    writer.insert(0, 1);
    writer.insert(1, MacTable::ABSENT);
    assert!(writer.is_empty());
}

/// S-02: whatever is looked up, at most two lines are read; nearly always one.
#[test]
fn s02_work_is_bounded() {
    let mut writer = MacWriter::new([3, 4]);
    let mut reader = writer.reader();
    let mut next = 0u64;
    for target in [10, 100, 1_000, 20_000] {
        while next < target {
            writer.insert(MacTable::key(1, MacAddr::from_u64(0x0200_0000_0000 | next)), next as u32);
            next += 1;
        }
        reader.refresh();
        let keys: Vec<u64> =
            (0..2 * target).map(|mac| MacTable::key(1, MacAddr::from_u64(0x0200_0000_0000 | mac))).collect();
        let mut found = vec![0; keys.len()];
        let lines = reader.lookup_batch(&keys, &mut found);
        for (position, value) in found.iter().enumerate() {
            let expected = if (position as u64) < target { position as u32 } else { MacTable::ABSENT };
            assert_eq!(*value, expected);
        }
        assert!(lines <= keys.len() * 5 / 4, "{lines} lines for {} keys at {target} entries", keys.len());
    }
}

/// A regular pattern that defeats unkeyed multiplicative hashes: equal low bits.
#[test]
fn s02_patterns_do_not_collide() {
    let mut victims = MacWriter::new([7, 8]);
    let reader = victims.reader();
    for mac in 0..200u64 {
        victims.insert(mac << 20 | 1, mac as u32);
    }
    let mut reader = reader;
    reader.refresh();
    let keys: Vec<u64> = (0..200u64).map(|mac| mac << 20 | 1).collect();
    let mut found = vec![0; keys.len()];
    let lines = reader.lookup_batch(&keys, &mut found);
    assert!(lines <= 250, "{lines}");
    assert!(found.iter().enumerate().all(|(position, value)| *value == position as u32));
}

#[test]
fn outgrown_tables_are_freed_once_unseen() {
    let mut writer = MacWriter::new([1, 2]);
    let mut reader = writer.reader();
    (1..5_000u64).for_each(|key| {
        writer.insert(key, 1);
    });
    assert!(writer.reclaim() > 0, "the reader still looks at the first");
    assert_eq!(reader.lookup(4_999), None, "not refreshed");
    assert!(reader.refresh());
    assert_eq!(reader.lookup(4_999), Some(1));
    assert_eq!(writer.reclaim(), 0);
    reader.off_line();
    assert!(writer.synchronize(std::time::Duration::from_secs(1)));
}
