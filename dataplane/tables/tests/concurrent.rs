//! Readers beside a writer that inserts, removes, replaces, displaces and grows: a reader sees only values that its key
//! had, and never misses a key that stays.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use towpath_tables::{MacTable, MacWriter};

/// Keys 1..STAY are always in the table, the others come and go.
const STAY: u64 = 40;
const KEYS: u64 = 120;
const ROUNDS: u64 = 300_000;

/// A small generator of our own, so that the run repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn mac_readers_see_only_what_was_mapped() {
    let mut writer = MacWriter::new([11, 12]);
    let value = |key: u64, round: u64| (key as u32) << 16 | (round as u32 & 0xffff);
    (1..STAY).for_each(|key| {
        writer.insert(key, value(key, 0));
    });
    let stop = Arc::new(AtomicBool::new(false));
    let looked = Arc::new(AtomicU64::new(0));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (mut reader, stop, looked) = (writer.reader(), stop.clone(), looked.clone());
            thread::spawn(move || {
                let keys: Vec<u64> = (1..KEYS).collect();
                let mut found = vec![0; keys.len()];
                while !stop.load(Relaxed) {
                    reader.refresh();
                    reader.lookup_batch(&keys, &mut found);
                    for (key, value) in keys.iter().zip(&found) {
                        if *value == MacTable::ABSENT {
                            assert!(*key >= STAY, "missed {key}, which never left");
                        } else {
                            assert_eq!(u64::from(value >> 16), *key, "a value of another key");
                        }
                    }
                    looked.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    let mut random = Random(0x1234_5678_9abc_def1);
    for round in 0..ROUNDS {
        let key = 1 + random.below(KEYS - 1);
        if key >= STAY && random.below(2) == 0 {
            writer.remove(key);
        } else {
            writer.insert(key, value(key, round));
        }
        if round % 100_000 == 99_999 {
            // Growth, in the middle of it: keys of their own that nobody looks up.
            (0..200).for_each(|extra| {
                writer.insert(1_000_000 + round * 1_000 + extra, 1);
            });
        }
        writer.reclaim();
    }
    while looked.load(Relaxed) < 100 {
        assert!(readers.iter().all(|reader| !reader.is_finished()), "a reader failed");
        let key = STAY + random.below(KEYS - STAY);
        writer.remove(key);
        writer.insert(key, value(key, 1));
    }
    stop.store(true, Relaxed);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    assert_eq!(writer.reclaim(), 0);
}
