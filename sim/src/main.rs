//! `towpath-sim`: runs seeds.

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use std::io::Write;
use std::ops::Range;
use std::process::ExitCode;
use towpath_sim::faults::Fault;
use towpath_sim::options::{Options, STEPS};
use towpath_sim::plant::Plant;
use towpath_sim::report;
use towpath_sim::run::{Outcome, Totals, run};

/// Deterministic simulator of a host: guests, switch, operator and faults on one virtual clock, from one seed.
///
/// A seed repeats to the byte with the same binary. What fails prints the command that repeats it.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one seed, or a range of them.
    Run {
        /// One seed, with its choices printed first.
        #[arg(long, conflicts_with = "seeds", required_unless_present = "seeds")]
        seed: Option<u64>,
        /// Seeds from A up to but not including B, as A..B, with a table of what they reached.
        #[arg(long, value_parser = parse_range)]
        seeds: Option<Range<u64>>,
        /// Steps before the faults stop, at least.
        #[arg(long, default_value_t = STEPS)]
        steps: u64,
        /// Puts a planted bug in, by its number (see `plants`).
        #[arg(long)]
        plant: Option<usize>,
        /// Prints every event of the seed.
        #[arg(long, conflicts_with = "seeds")]
        trace: bool,
    },
    /// Lists the planted bugs; with seeds, says which checker finds each, and with which seed.
    Plants {
        /// Seeds from A up to but not including B, as A..B.
        #[arg(long, value_parser = parse_range)]
        seeds: Option<Range<u64>>,
    },
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let bounds = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    bounds.filter(|range: &Range<u64>| !range.is_empty()).ok_or_else(|| {
        format!("`{text}` is no range of seeds: write two numbers, the second greater, as 1..101")
    })
}

fn plant_of(number: Option<usize>) -> anyhow::Result<Option<Plant>> {
    let Some(number) = number else { return Ok(None) };
    let plant = number.checked_sub(1).and_then(|at| Plant::ALL.get(at));
    plant
        .copied()
        .map(Some)
        .with_context(|| format!("plant {number}: there are plants 1 to {}", Plant::ALL.len()))
}

/// The command that repeats a run.
fn repeat(outcome: &Outcome, steps: u64, plant: Option<usize>) -> String {
    let mut command = format!("towpath-sim run --seed {}", outcome.seed);
    if steps != STEPS {
        command += &format!(" --steps {steps}");
    }
    if let Some(plant) = plant {
        command += &format!(" --plant {plant}");
    }
    command
}

fn main() -> anyhow::Result<ExitCode> {
    let good = match Cli::parse().command {
        Command::Run { seed: Some(seed), steps, plant, trace, .. } => run_one(seed, steps, plant, trace)?,
        Command::Run { seeds: Some(seeds), steps, plant, .. } => run_many(seeds, steps, plant)?,
        Command::Run { .. } => bail!("neither --seed nor --seeds"),
        Command::Plants { seeds: None } => {
            Plant::ALL.iter().zip(1..).for_each(|(plant, number)| println!("{number:>3} {}", plant.text()));
            true
        }
        Command::Plants { seeds: Some(seeds) } => find_plants(&seeds)?,
    };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_one(seed: u64, steps: u64, plant: Option<usize>, trace: bool) -> anyhow::Result<bool> {
    let options = Options::draw(seed, steps, Fault::ALL.len());
    print!("{options}");
    let outcome = run(options, plant_of(plant)?, trace)?;
    print!("{}", report::table(&outcome.stats, &outcome.achieved, 1).replace("  below 100", ""));
    println!("digest {:016x}", outcome.digest);
    if let Some(violation) = &outcome.violation {
        println!("FAILED {violation}\nrepeat with: {}", repeat(&outcome, steps, plant));
    }
    Ok(outcome.violation.is_none())
}

fn run_many(seeds: Range<u64>, steps: u64, plant: Option<usize>) -> anyhow::Result<bool> {
    let planted = plant_of(plant)?;
    let mut totals = Totals::default();
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let outcome = run(Options::draw(seed, steps, Fault::ALL.len()), planted, false)?;
        if let Some(violation) = &outcome.violation {
            eprint!("\r");
            println!("FAILED {violation}\nrepeat with: {}", repeat(&outcome, steps, plant));
        }
        totals.add(&outcome);
        eprint!("\r{} of {count} seeds, {} failed ", totals.seeds, totals.failed);
        std::io::stderr().flush()?;
    }
    eprintln!();
    print!("{}", report::table(&totals.stats, &totals.achieved, totals.seeds));
    println!(
        "{} of {} seeds had less than 2,000 steps, 5,000 packets or 5 faults of 3 kinds",
        totals.poor, totals.seeds
    );
    println!("digest of all {:016x}", totals.digest);
    Ok(totals.failed == 0)
}

fn find_plants(seeds: &Range<u64>) -> anyhow::Result<bool> {
    let mut all = true;
    for (number, plant) in (1..).zip(Plant::ALL) {
        let mut found = None;
        for seed in seeds.clone() {
            let outcome = run(Options::draw(seed, STEPS, Fault::ALL.len()), Some(*plant), false)?;
            if let Some(violation) = outcome.violation {
                found = Some((seed, violation));
                break;
            }
        }
        all &= found.is_some();
        match found {
            Some((seed, violation)) => {
                println!("{number:>3} {:<22} seed {seed:>4} {}", format!("{plant:?}"), violation.checker);
            }
            None => println!("{number:>3} {:<22} NOT FOUND", format!("{plant:?}")),
        }
    }
    Ok(all)
}
