//! Every interleaving of the steps of `Shared::for_one_worker`, on a machine whose stores wait in a buffer (x86's TSO).
//!
//! Loom and shuttle know no `membarrier`, so the protocol is written down here once more, step by step: a worker that enters and
//! leaves twice, a control thread that takes and lets go twice, and a store buffer that may empty itself at any moment.

use std::collections::{HashSet, VecDeque};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum WorkerStep {
    LookFirst,
    Enter,
    LookAgain,
    Inside,
    BackOut,
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum ControlStep {
    Ask,
    Barrier,
    Wait,
    Inside,
    Done,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State {
    worker: WorkerStep,
    control: ControlStep,
    rounds: (u8, u8),
    wanted: bool,
    inside: bool,
    /// Values of `inside` that the worker wrote and nobody else sees yet.
    buffer: VecDeque<bool>,
}

impl State {
    const START: fn() -> State = || State {
        worker: WorkerStep::LookFirst,
        control: ControlStep::Ask,
        rounds: (2, 2),
        wanted: false,
        inside: false,
        buffer: VecDeque::new(),
    };

    fn flush_one(&self) -> Option<State> {
        let mut next = self.clone();
        next.inside = next.buffer.pop_front()?;
        Some(next)
    }

    fn worker_step(&self) -> Option<State> {
        let mut next = self.clone();
        next.worker = match self.worker {
            WorkerStep::LookFirst if self.wanted => return None,
            WorkerStep::LookFirst => WorkerStep::Enter,
            WorkerStep::Enter => {
                next.buffer.push_back(true);
                WorkerStep::LookAgain
            }
            WorkerStep::LookAgain if self.wanted => WorkerStep::BackOut,
            WorkerStep::LookAgain => WorkerStep::Inside,
            WorkerStep::Inside | WorkerStep::BackOut => {
                next.buffer.push_back(false);
                next.rounds.0 -= 1;
                if next.rounds.0 == 0 { WorkerStep::Done } else { WorkerStep::LookFirst }
            }
            WorkerStep::Done => return None,
        };
        Some(next)
    }

    fn control_step(&self, membarrier: bool) -> Option<State> {
        let mut next = self.clone();
        next.control = match self.control {
            ControlStep::Ask => {
                next.wanted = true;
                ControlStep::Barrier
            }
            ControlStep::Barrier => {
                if membarrier {
                    // It runs a barrier on the worker's processor: its buffer is empty afterwards.
                    next.inside = next.buffer.drain(..).next_back().unwrap_or(next.inside);
                }
                ControlStep::Wait
            }
            ControlStep::Wait if self.inside => return None,
            ControlStep::Wait => ControlStep::Inside,
            ControlStep::Inside => {
                next.wanted = false;
                next.rounds.1 -= 1;
                if next.rounds.1 == 0 { ControlStep::Done } else { ControlStep::Ask }
            }
            ControlStep::Done => return None,
        };
        Some(next)
    }
}

/// States reached, and the first in which both are inside.
fn explore(membarrier: bool) -> (usize, Option<State>) {
    let (mut seen, mut open) = (HashSet::new(), vec![State::START()]);
    while let Some(state) = open.pop() {
        if !seen.insert(state.clone()) {
            continue;
        }
        if state.worker == WorkerStep::Inside && state.control == ControlStep::Inside {
            return (seen.len(), Some(state));
        }
        let next: Vec<State> = [state.flush_one(), state.worker_step(), state.control_step(membarrier)]
            .into_iter()
            .flatten()
            .collect();
        let over = state.worker == WorkerStep::Done && state.control == ControlStep::Done;
        assert!(over || !next.is_empty(), "nobody can go on: {state:?}");
        open.extend(next);
    }
    (seen.len(), None)
}

#[test]
fn worker_and_control_thread_are_never_inside_together() {
    let (states, both) = explore(true);
    assert_eq!(both, None);
    assert!(states > 100, "only {states} states were reached");
}

#[test]
fn without_the_barrier_the_model_finds_them_together() {
    assert!(explore(false).1.is_some());
}
