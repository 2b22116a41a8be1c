//! `towpath-sim`: runs seeds.

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use towpath_sim::faults::Fault;
use towpath_sim::options::{Options, STEPS};
use towpath_sim::plant::Plant;
use towpath_sim::run::run;

/// Deterministic simulator of a host: guests, switch, operator and faults on one virtual clock, from one seed.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one seed.
    Run {
        /// The seed.
        #[arg(long)]
        seed: u64,
        /// Steps before the faults stop.
        #[arg(long, default_value_t = STEPS)]
        steps: u64,
        /// Puts a planted bug in, by its number.
        #[arg(long)]
        plant: Option<usize>,
        /// Prints every event.
        #[arg(long)]
        trace: bool,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let Command::Run { seed, steps, plant, trace } = Cli::parse().command;
    let plant = plant.and_then(|number| Plant::ALL.get(number.checked_sub(1)?).copied());
    let options = Options::draw(seed, steps, Fault::ALL.len());
    print!("{options}");
    let outcome = run(options, plant, trace)?;
    println!("{:?}", outcome.stats);
    println!("digest {:016x}", outcome.digest);
    match outcome.violation {
        None => Ok(ExitCode::SUCCESS),
        Some(violation) => {
            println!("FAILED {violation}\nrepeat with: towpath-sim run --seed {seed}");
            Ok(ExitCode::FAILURE)
        }
    }
}
