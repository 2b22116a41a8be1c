//! Every interleaving and every reordering that the memory model allows, by loom:
//! `RUSTFLAGS="--cfg loom" cargo test --release -p towpath-tables --lib sessions`.

use std::net::Ipv4Addr;

use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;

use super::hash::{Hasher, Kind};
use super::index::Index;
use super::key::{Key, Key4};
use super::limbo::{Limbo, Quiescence};
use super::memory::Arena;
use super::pool::{COLD, NotAdded, Pool, Present};

const RECORDS: u32 = 2;

fn pool() -> Pool {
    let arena = Arena;
    // One bucket: all keys meet in it.
    let index = Index::new(arena.region(0, 1).unwrap());
    let (lines, cold) =
        (arena.region(0, 2 * RECORDS as usize).unwrap(), arena.region(0, COLD * RECORDS as usize).unwrap());
    Pool::new(index, lines, 2, cold, arena.region(0, RECORDS as usize).unwrap(), RECORDS)
}

fn hash(key: Key4) -> u64 {
    Hasher::new(Kind::Sip, [1, 2]).of(key)
}

fn keys() -> [Key4; 2] {
    let addresses = Key4::addresses(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    let key = Key4::new(1, addresses, 17, 5);
    [key, key.reversed(2)]
}

/// Fills a record and adds it.
fn add(pool: &Pool, record: u32, keys: [Key4; 2]) -> Result<(), NotAdded> {
    use super::key::sealed::Sealed;
    for (half, key) in [record << 1, record << 1 | 1].into_iter().zip(keys) {
        pool.set_key(half, &key.words());
    }
    pool.add(record, keys, keys.map(hash))
}

fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

#[test]
fn both_directions_made_at_once_are_one_session() {
    model(|| {
        let pool = Arc::new(pool());
        let other = pool.clone();
        let [first, second] = keys();
        let thread = thread::spawn(move || add(&other, 1, [second, first]));
        let results = [add(&pool, 0, [first, second]), thread.join().unwrap()];
        let expected = match results {
            [Ok(()), Err(NotAdded::Present(Present::Both(half)))] => (half, 1, 0),
            [Err(NotAdded::Present(Present::Both(half))), Ok(())] => (half, 3, 2),
            other => panic!("{other:?}"),
        };
        // The loser was told the half of its own first key.
        let (told, of_second, of_first) = expected;
        let find = |key| {
            use super::key::sealed::Sealed;
            pool.find(hash(key), &Key4::words(key))
        };
        let (found_first, found_second) = (find(first), find(second));
        match results[0] {
            Ok(()) => {
                assert_eq!((found_first, found_second, told), (Some(of_first), Some(of_second), of_second))
            }
            Err(_) => {
                assert_eq!((found_first, found_second, told), (Some(of_second), Some(of_first), of_second))
            }
        }
    });
}

#[test]
fn a_session_is_taken_out_once() {
    model(|| {
        let pool = Arc::new(pool());
        add(&pool, 0, keys()).unwrap();
        let other = pool.clone();
        let thread = thread::spawn(move || other.take::<Key4>(0, hash).is_some());
        let taken = [pool.take::<Key4>(0, hash).is_some(), thread.join().unwrap()];
        assert_ne!(taken[0], taken[1]);
        assert!(pool.present(keys(), keys().map(hash)).is_none());
    });
}

#[test]
fn what_is_found_is_whole_and_what_was_taken_out_is_made_anew() {
    model(|| {
        let pool = Arc::new(pool());
        add(&pool, 0, keys()).unwrap();
        let other = pool.clone();
        let thread = thread::spawn(move || {
            other.take::<Key4>(0, hash).unwrap();
            add(&other, 1, keys()).unwrap();
        });
        let [first, _] = keys();
        let found = {
            use super::key::sealed::Sealed;
            pool.find(hash(first), &first.words())
        };
        // The old one, the new one, or none between them; never the half of the other direction.
        assert!(found.is_none_or(|half| half & 1 == 0), "{found:?}");
        thread.join().unwrap();
        assert_eq!(pool.present(keys(), keys().map(hash)), Some(Present::Both(2)));
    });
}

/// A record is used again only when the other worker cannot have found it before.
#[test]
fn records_rest_until_nobody_can_hold_them() {
    model(|| {
        let pool = Arc::new(pool());
        let quiescence = Arc::new(Quiescence::new(2));
        add(&pool, 0, keys()).unwrap();
        let used_again = Arc::new(loom::sync::atomic::AtomicBool::new(false));
        let thread = {
            let (pool, quiescence, used_again) = (pool.clone(), quiescence.clone(), used_again.clone());
            thread::spawn(move || {
                use super::key::sealed::Sealed;
                let [first, _] = keys();
                // Wakes, finds, uses, sleeps.
                quiescence.pass(1);
                let found = pool.find(hash(first), &first.words());
                if found == Some(0) {
                    assert!(!used_again.load(loom::sync::atomic::Ordering::Relaxed), "in use again already");
                }
                quiescence.off_line(1);
            })
        };
        quiescence.pass(0);
        pool.take::<Key4>(0, hash).unwrap();
        let mut limbo = Limbo::default();
        limbo.rest(0);
        for _ in 0..2 {
            quiescence.pass(0);
            limbo.release(&quiescence, |_| used_again.store(true, loom::sync::atomic::Ordering::Relaxed));
        }
        thread.join().unwrap();
        quiescence.pass(0);
        let mut released = used_again.load(loom::sync::atomic::Ordering::Relaxed);
        limbo.release(&quiescence, |_| released = true);
        assert!(released);
    });
}
