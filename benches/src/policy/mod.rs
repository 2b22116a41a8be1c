//! `towpath-bench policy`: what rules and sessions cost, and how soon they change.
//!
//! Workers in one process and on one core take turns, burst by burst, as in [`vxlan`](crate::vxlan): whatever happens to the machine happens to all of them.
//! Everything comes through rings, ports and all stages. The clock that sessions end by is the bench's, so that a million of them end as fast as a million are made.

mod change;
mod cost;
mod crafted;
mod first;
mod flood;
mod site;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::{
    affinity,
    clock::Clock,
    huge_pages::HugePages,
    probe::{Distance, Probe, ping_pong},
};

/// Huge pages for guests, and for two tables of sessions that are there at the same time.
const PAGES: u32 = 1024;

/// Options of `policy`.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    /// Sessions of the rows about cost, ascending; the most is also how many live while others are made
    #[arg(long, value_delimiter = ',', default_values = ["1000", "100000", "1000000"], value_parser = clap::value_parser!(u32).range(32..=1_000_000))]
    sessions: Vec<u32>,
    /// How often the contestants of a row take turns
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(10..))]
    rounds: u32,
    /// Changes of rules, and of members
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(10..))]
    changes: u32,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    part: Vec<Part>,
    /// Count instructions too, by valgrind's callgrind
    #[arg(long)]
    instructions: bool,
    /// Only packets of these ports, nothing else: for profilers
    #[arg(long, value_enum)]
    only: Option<cost::Under>,
    /// The core
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Where the figures go
    #[arg(long, default_value = "target/bench/policy.json")]
    output: PathBuf,
}

impl PolicyArgs {
    /// Sessions of the largest row.
    fn most(&self) -> u32 {
        self.sessions.iter().max().copied().unwrap_or(1_000_000)
    }

    /// The table's room: those fill half of it.
    fn room(&self) -> u32 {
        self.most().max(1 << 16) * 2
    }
}

/// Parts of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Packets of established sessions, over unfiltered ones.
    Cost,
    /// New sessions per second.
    New,
    /// First packets over later ones.
    First,
    /// Packets made to cost much, over random ones.
    Crafted,
    /// Until a worker judges by changed rules.
    Change,
    /// Others beside a port that floods.
    Flood,
}

/// One figure.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    unit: &'static str,
    /// Quartiles, but for those of changes: median, p99, highest.
    values: [f64; 3],
    /// What is compared with the figure wanted.
    value: f64,
    wanted: Option<Wanted>,
    pass: Option<bool>,
    /// What else is known.
    notes: Vec<String>,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
enum Wanted {
    AtMost(f64),
    AtLeast(f64),
}

impl Row {
    fn new(name: impl Into<String>, unit: &'static str, values: [f64; 3], value: f64) -> Self {
        Self { name: name.into(), unit, values, value, wanted: None, pass: None, notes: Vec::new() }
    }

    fn wanted(mut self, wanted: Wanted) -> Self {
        self.pass = Some(match wanted {
            Wanted::AtMost(most) => self.value <= most,
            Wanted::AtLeast(least) => self.value >= least,
        });
        self.wanted = Some(wanted);
        self
    }

    fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    fn print(&self) {
        let [low, middle, high] = self.values;
        let verdict = match (self.pass, self.wanted) {
            (Some(pass), Some(Wanted::AtMost(bound) | Wanted::AtLeast(bound))) => {
                format!("{} ({bound})", if pass { "PASS" } else { "MISS" })
            }
            _ => String::new(),
        };
        let unit = self.unit;
        println!("{:<58} {middle:9.2} [{low:.2} {high:.2}] {unit:<12} {verdict}", self.name);
        self.notes.iter().for_each(|note| println!("    {note}"));
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    /// Before and after: round trip of a cache line between cores 0 and 1, in nanoseconds.
    round_trip_ns: [Option<f64>; 2],
    distance: Option<Distance>,
    /// Processes that wanted to run in the last minute, before and after.
    load: [f64; 2],
    rows: Vec<Row>,
}

/// Runs, prints, and writes the figures down.
///
/// # Errors
///
/// When the core may not be used, a ring breaks, or packets that are to pass do not.
pub fn run(args: &PolicyArgs) -> anyhow::Result<()> {
    affinity::pin(args.core)?;
    if let Some(under) = args.only {
        return cost::only(args, under);
    }
    let clock = Clock::calibrate();
    let _pages = HugePages::reserve(PAGES);
    let before = (probe(), load());
    let mut rows = Vec::new();
    for part in Part::value_variants().iter().filter(|part| args.part.is_empty() || args.part.contains(part))
    {
        // The probe ran elsewhere.
        affinity::pin(args.core)?;
        let new = match part {
            Part::Cost => cost::rows(args)?,
            Part::New => first::made(args, clock)?,
            Part::First => first::rows(args)?,
            Part::Crafted => crafted::rows(args)?,
            Part::Change => change::rows(args)?,
            Part::Flood => flood::rows(args)?,
        };
        new.iter().for_each(Row::print);
        rows.extend(new);
    }
    let after = (probe(), load());
    let distance = [before.0, after.0].map(|probe| probe.and_then(Probe::distance));
    let output = Output {
        round_trip_ns: [before.0, after.0].map(|probe| probe.map(|probe| probe.round_trip_ns)),
        distance: distance[0].filter(|_| distance[0] == distance[1]),
        load: [before.1, after.1],
        rows,
    };
    let distance = output.distance.map_or("neither near nor far all the time", |distance| match distance {
        Distance::Near => "near",
        Distance::Far => "far",
    });
    let [before, after] = output.load;
    println!("cores 0 and 1: {distance}; load {before:.1} before, {after:.1} after");
    if let Some(folder) = args.output.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    fs::write(&args.output, serde_json::to_string_pretty(&output)?)
        .with_context(|| format!("writing {}", args.output.display()))
}

/// How far apart the first two cores are; none where there are not two.
fn probe() -> Option<Probe> {
    ping_pong((0, 1), Duration::from_millis(60)).ok()
}

fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
}

fn quartiles(values: &[f64]) -> [f64; 3] {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values.get(values.len() * quarter / 4).copied().unwrap_or(f64::NAN))
}

/// Numbers in an order that no prefetcher guesses.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, count: u32) -> u32 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (((self.0 >> 32) * u64::from(count)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests;
