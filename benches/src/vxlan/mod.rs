//! `towpath-bench vxlan`: what a tunnel costs a packet, each way, beside plain forwarding.
//!
//! Three workers in one process and on one core take turns, burst by burst: whatever happens to the machine happens to all three. Everything is in that
//! core's caches, as in the criterion bench `worker`. Instructions are counted by callgrind in processes of their own.

pub(crate) mod host;

use std::process::Command;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;

pub use self::host::{Case, Family, TunnelConfig, Way};
use crate::{affinity, attach::AttachConfig, frame::Sizes, run::Ring};

/// Options of `vxlan`.
#[derive(Debug, Args)]
pub struct VxlanArgs {
    /// Ring layouts
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["split", "packed"])]
    ring: Vec<Ring>,
    /// Sizes of the guests' frames, as `run` names them, up to 9000
    #[arg(long, value_delimiter = ',', default_values = ["64", "1518"])]
    size: Vec<Sizes>,
    /// Different 5-tuples, at most one per transmit buffer
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=256))]
    flows: u32,
    /// Packets per burst
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=32))]
    burst: u16,
    /// Address family of the underlay
    #[arg(long, value_enum, default_value = "v4")]
    underlay: Family,
    /// Negotiate checksum offload: the wire then completes the outer checksums, which IPv6 needs
    #[arg(long)]
    offloads: bool,
    /// How often the three take turns
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Count instructions too, by valgrind's callgrind
    #[arg(long)]
    instructions: bool,
    /// Only one way: for profilers
    #[arg(long, value_enum)]
    only: Option<Way>,
    /// The core
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Bursts of each way in a turn.
const BURSTS: usize = 16;
/// Turns under callgrind, which is slow and exact.
const COUNTED_ROUNDS: u32 = 4;
/// Figures wanted of a tunnel each way: instructions more, and times the time.
const WANTED: (f64, f64) = (150.0, 1.4);

/// What one way costs a packet.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cost {
    /// Time stamp cycles per packet: quartiles over the turns.
    cycles: [f64; 3],
    /// Times those of plain forwarding in the same turn: quartiles.
    ratio: [f64; 3],
    /// Instructions per packet, if they were counted.
    instructions: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Row {
    ring: String,
    size: String,
    plain: Cost,
    out: Cost,
    r#in: Cost,
}

/// Runs and prints.
///
/// # Errors
///
/// When the core may not be used, a ring breaks or valgrind cannot be run.
pub fn run(args: &VxlanArgs) -> anyhow::Result<()> {
    affinity::pin(args.core)?;
    if let Some(way) = args.only {
        for (ring, size) in rows(args) {
            let mut case = Case::new(way, &config(args, ring, size))?;
            for _ in 0..args.rounds as usize * BURSTS {
                case.burst(args.burst.into())?;
            }
        }
        return Ok(());
    }
    let rows = rows(args).map(|(ring, size)| row(args, ring, size)).collect::<anyhow::Result<Vec<_>>>()?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        rows.iter().for_each(print);
    }
    Ok(())
}

fn rows(args: &VxlanArgs) -> impl Iterator<Item = (Ring, &Sizes)> {
    args.ring.iter().flat_map(|ring| args.size.iter().map(|size| (*ring, size)))
}

fn config(args: &VxlanArgs, ring: Ring, sizes: &Sizes) -> TunnelConfig {
    let attach = AttachConfig {
        layout: ring.into(),
        ring_size: 256,
        longest: sizes.longest(),
        offloads: args.offloads,
        huge_pages: true,
    };
    TunnelConfig { attach, sizes: sizes.clone(), flows: args.flows, underlay: args.underlay }
}

fn row(args: &VxlanArgs, ring: Ring, sizes: &Sizes) -> anyhow::Result<Row> {
    if sizes.tso() || sizes.cycle().len() > 1 || sizes.longest() > 9000 {
        bail!("--size {sizes}: one size up to 9000, frames that nobody cuts");
    }
    let config = config(args, ring, sizes);
    let mut cases = Way::ALL.map(|way| Case::new(way, &config));
    let mut turns: [Vec<f64>; 3] = Default::default();
    // The first tenth warms up.
    for round in 0..args.rounds as usize + args.rounds as usize / 10 {
        let mut cycles = [0.0; 3];
        for at in (0..3).map(|at| (at + round) % 3) {
            let case = cases[at].as_mut().map_err(|error| anyhow::anyhow!("{error}"))?;
            let spent = (0..BURSTS).map(|_| case.burst(args.burst.into())).sum::<Result<u64, _>>()?;
            cycles[at] = spent as f64 / (BURSTS * usize::from(args.burst)) as f64;
        }
        if round >= args.rounds as usize / 10 {
            turns.iter_mut().zip(cycles).for_each(|(turns, cycles)| turns.push(cycles));
        }
    }
    drop(cases);
    let cost = |at: usize| -> anyhow::Result<Cost> {
        let ratios = turns[at].iter().zip(&turns[0]).map(|(way, plain)| way / plain).collect();
        let instructions =
            args.instructions.then(|| instructions(args, ring, sizes, Way::ALL[at])).transpose()?;
        Ok(Cost { cycles: quartiles(turns[at].clone()), ratio: quartiles(ratios), instructions })
    };
    Ok(Row { ring: name(ring), size: sizes.to_string(), plain: cost(0)?, out: cost(1)?, r#in: cost(2)? })
}

fn name<V: ValueEnum>(value: V) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
}

fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values.get(values.len() * quarter / 4).copied().unwrap_or(f64::NAN))
}

/// Instructions per packet of one way, counted by callgrind in the function that is timed otherwise.
fn instructions(args: &VxlanArgs, ring: Ring, sizes: &Sizes, way: Way) -> anyhow::Result<f64> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut command = Command::new("valgrind");
    command.args([
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
        "--toggle-collect=*vxlan::host::steps*",
    ]);
    command.arg(program).arg("vxlan").args(["--only", &name(way), "--ring", &name(ring)]);
    command.args(["--size", &sizes.to_string(), "--burst", &args.burst.to_string()]);
    command.args(["--flows", &args.flows.to_string(), "--rounds", &COUNTED_ROUNDS.to_string()]);
    command.args(["--core", &args.core.to_string(), "--underlay", &name(args.underlay)]);
    command.args(args.offloads.then_some("--offloads"));
    let output = command.output().context("running valgrind (package valgrind)")?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text
        .lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse::<u64>().ok())
        .filter(|count| *count > 0);
    match collected {
        Some(count) if output.status.success() => {
            let packets = COUNTED_ROUNDS as usize * BURSTS * usize::from(args.burst);
            Ok(count as f64 / packets as f64)
        }
        _ => bail!("valgrind counted nothing: {text}"),
    }
}

fn print(row: &Row) {
    println!("{} {} B", row.ring, row.size);
    for (name, cost) in [("plain", &row.plain), ("out", &row.out), ("in", &row.r#in)] {
        let [low, median, high] = cost.cycles;
        let mut line = format!("  {name:<6}{median:7.1} [{low:.1}-{high:.1}] cycles/packet");
        if name != "plain" {
            let [low, median, high] = cost.ratio;
            let verdict = if median <= WANTED.1 { "PASS" } else { "MISS" };
            line += &format!("  {median:.2} [{low:.2}-{high:.2}] of plain: {verdict} ({})", WANTED.1);
        }
        if let (Some(count), Some(plain)) = (cost.instructions, row.plain.instructions) {
            line += &format!("  {count:.0} instructions/packet");
            if name != "plain" {
                let verdict = if count - plain <= WANTED.0 { "PASS" } else { "MISS" };
                line += &format!(", {:+.0}: {verdict} ({:+})", count - plain, WANTED.0);
            }
        }
        println!("{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_of_the_sorted_values() {
        assert_eq!(quartiles(vec![4.0, 1.0, 3.0, 2.0, 5.0]), [2.0, 3.0, 4.0]);
    }
}
