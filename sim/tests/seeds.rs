//! Seeds: they repeat, find nothing in the switch, reach everything, and find every planted bug.
#![expect(clippy::expect_used, clippy::panic, reason = "a test ends by panicking")]

use engine::DropReason;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use towpath_sim::faults::Fault;
use towpath_sim::options::{Options, STEPS};
use towpath_sim::plant::Plant;
use towpath_sim::report;
use towpath_sim::run::{Outcome, Totals, run};

fn run_seed(seed: u64, plant: Option<Plant>) -> Outcome {
    run(Options::draw(seed, STEPS, Fault::ALL.len()), plant, false).expect("a run needs only memory")
}

fn assert_clean(outcome: &Outcome) {
    if let Some(violation) = &outcome.violation {
        panic!("{violation}\nrepeat with: towpath-sim run --seed {}", outcome.seed);
    }
}

/// Runs seeds on two threads; each is a world of its own.
fn run_all(seeds: std::ops::Range<u64>, look: impl Fn(&Outcome) + Sync) {
    let next = AtomicU64::new(seeds.start);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    look(&run_seed(seed, None));
                }
            });
        }
    });
}

#[test]
fn a_seed_repeats_to_the_byte_and_another_differs() {
    for seed in [1, 5, 73] {
        let (first, second) = (run_seed(seed, None), run_seed(seed, None));
        assert_eq!(first.digest, second.digest, "seed {seed}");
        assert_eq!(first.stats.steps, second.stats.steps);
        assert_ne!(first.digest, run_seed(seed + 1, None).digest);
    }
}

#[test]
fn seeds_find_nothing_have_content_and_reach_everything() {
    let totals = Mutex::new(Totals::default());
    run_all(1..201, |outcome| {
        assert_clean(outcome);
        assert!(outcome.is_full(), "seed {}: {:?}", outcome.seed, outcome.stats);
        totals.lock().unwrap_or_else(PoisonError::into_inner).add(outcome);
    });
    let totals = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{}", report::table(&totals.stats, &totals.achieved, totals.seeds));
    assert_eq!(report::missing(&totals.stats), []);
    let reached = |reason: &&DropReason| totals.stats.drops.contains_key(*reason);
    let others = DropReason::ALL.iter().filter(|reason| !report::UNREACHED.contains(reason));
    assert_eq!(others.filter(|reason| !reached(reason)).collect::<Vec<_>>(), Vec::<&DropReason>::new());
    let achieved = totals.achieved;
    assert!(achieved.pings > 200 && achieved.echoes > 20 && achieved.transfers > 20, "{achieved:?}");
}

#[test]
fn seeds_that_found_something_once_find_nothing_now() {
    let mut count = 0;
    for line in include_str!("../seeds/regression.txt").lines() {
        let seed = line.split('#').next().unwrap_or("").trim();
        if !seed.is_empty() {
            assert_clean(&run_seed(seed.parse().expect("a seed is a number"), None));
            count += 1;
        }
    }
    assert!(count > 0);
}

#[test]
fn every_planted_bug_is_found_within_200_seeds() {
    assert!(Plant::ALL.len() >= 20);
    for (plant, number) in Plant::ALL.iter().zip(1..) {
        let found =
            (1..=200).find_map(|seed| run_seed(seed, Some(*plant)).violation.map(|found| (seed, found)));
        let (seed, violation) = found.unwrap_or_else(|| panic!("plant {number}, {plant:?}, was not found"));
        println!("{number:>3} {plant:?}: seed {seed}, {violation}");
    }
}
