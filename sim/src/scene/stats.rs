//! Numbers of a run.

use crate::guest::hostile::Case;
use engine::DropReason;
use std::collections::BTreeMap;

/// Numbers of a run.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Steps of workers and guests.
    pub steps: u64,
    /// Packets the switch took.
    pub packets: u64,
    /// Drops by reason.
    pub drops: BTreeMap<DropReason, u64>,
    /// Faults by name.
    pub faults: BTreeMap<&'static str, u64>,
    /// Hostile cases by name.
    pub cases: BTreeMap<&'static str, u64>,
    /// Edges of the pipeline by name.
    pub edges: BTreeMap<&'static str, u64>,
}

impl Stats {
    /// Counts a fault.
    pub fn fault(&mut self, name: &'static str) {
        *self.faults.entry(name).or_default() += 1;
    }

    /// Counts a hostile case.
    pub fn case(&mut self, case: Case) {
        *self.cases.entry(case.name()).or_default() += 1;
    }

    /// Counts packets that took an edge.
    pub fn edge(&mut self, name: &'static str, count: u64) {
        *self.edges.entry(name).or_default() += count;
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.packets += other.packets;
        other.drops.iter().for_each(|(reason, count)| *self.drops.entry(*reason).or_default() += count);
        other.faults.iter().for_each(|(name, count)| *self.faults.entry(name).or_default() += count);
        other.cases.iter().for_each(|(name, count)| *self.cases.entry(name).or_default() += count);
        other.edges.iter().for_each(|(name, count)| *self.edges.entry(name).or_default() += count);
    }
}
