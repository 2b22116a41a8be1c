//! `towpath-bench scale`: a million endpoints, from decoded changes in memory to visible to a worker; and changes while it forwards.
//!
//! The way is the daemon's: resource set, agent, fabric, switch. What a store or files cost before the changes are decoded is not in it.

mod site;
mod traffic;

use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use serde::Serialize;

use self::site::Site;
use crate::{affinity, clock::Clock, run::duration, session::Interrupt};

/// Options of `scale`.
#[derive(Debug, Args)]
pub struct ScaleArgs {
    /// Addresses on other hosts
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..=1_000_000))]
    endpoints: u32,
    /// Other hosts
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    hosts: u32,
    /// Changes per second while packets go to those addresses
    #[arg(long, default_value_t = 1000)]
    changes: u32,
    /// Share of the highest loss-free rate that is sent meanwhile, percent
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u32).range(1..=100))]
    load: u32,
    /// For how long; 0: not at all
    #[arg(long, default_value = "10s", value_parser = duration)]
    time: Duration,
    /// Core of the guests and of the control side
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Core of the worker
    #[arg(long, default_value_t = 1)]
    worker_core: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a million endpoints cost.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct Loading {
    endpoints: u32,
    /// Seconds: the resource set takes up the changes, the agent says what follows, the tables are written.
    set: f64,
    agent: f64,
    tables: f64,
    /// From decoded changes to visible to a worker.
    total: f64,
    /// Of the MAC and endpoint tables, per address.
    bytes_per_address: f64,
    /// Seconds for one change among them, from the set to the tables.
    one_change: f64,
}

/// Figures wanted: seconds and bytes.
const WANTED: (f64, f64) = (1.5, 64.0);

#[derive(Debug, Serialize)]
struct Output {
    loading: Loading,
    traffic: Option<traffic::Report>,
}

/// Runs and prints.
///
/// # Errors
///
/// When a core may not be used, memory runs out or a ring breaks.
pub fn run(args: &ScaleArgs) -> anyhow::Result<()> {
    let interrupt = Interrupt::on_signals()?;
    if args.core == args.worker_core {
        bail!("--core and --worker-core are both {}", args.core);
    }
    affinity::pin(args.core)?;
    let clock = Clock::calibrate();
    let (mut site, worker) = Site::new(args.hosts, args.endpoints)?;
    let changes = site.everybody(args.endpoints);
    let output =
        traffic::beside(worker, args.worker_core, || measure(&mut site, changes, args, clock, &interrupt))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&output)?);
    }
    Ok(())
}

/// Both halves, printed as they come; a worker runs meanwhile.
fn measure(
    site: &mut Site,
    changes: Vec<model::Difference>,
    args: &ScaleArgs,
    clock: Clock,
    interrupt: &Interrupt,
) -> anyhow::Result<Output> {
    let loading = load(site, changes, args)?;
    if !args.json {
        print_loading(&loading);
    }
    if args.time.is_zero() {
        return Ok(Output { loading, traffic: None });
    }
    let report = traffic::run(site, args, clock, interrupt)?;
    if !args.json {
        println!("{report}");
    }
    Ok(Output { loading, traffic: Some(report) })
}

fn load(site: &mut Site, changes: Vec<model::Difference>, args: &ScaleArgs) -> anyhow::Result<Loading> {
    let before = site.memory();
    let start = Instant::now();
    let times = site.apply(changes);
    let all = site.worker_sees_all()?;
    let total = start.elapsed().as_secs_f64();
    if !all {
        bail!("packets to what was set do not all get through: {:?}", site.control.counters(site::PORT));
    }
    let bytes = (site.memory() - before) as f64;
    let mut costs: Vec<f64> = (0..101)
        .map(|turn| {
            let change = site.moves(turn * 7919 % args.endpoints);
            let start = Instant::now();
            site.apply(vec![change]);
            start.elapsed().as_secs_f64()
        })
        .collect();
    costs.sort_by(f64::total_cmp);
    Ok(Loading {
        endpoints: args.endpoints,
        set: times[0].as_secs_f64(),
        agent: times[1].as_secs_f64(),
        tables: times[2].as_secs_f64(),
        total,
        bytes_per_address: bytes / f64::from(args.endpoints),
        one_change: costs.get(costs.len() / 2).copied().unwrap_or_default(),
    })
}

fn print_loading(l: &Loading) {
    let verdict = |reached: bool| if reached { "PASS" } else { "MISS" };
    println!(
        "{} endpoints visible to a worker after {:.2} s (set {:.2}, agent {:.2}, tables {:.2}): {} ({} s)",
        l.endpoints,
        l.total,
        l.set,
        l.agent,
        l.tables,
        verdict(l.total <= WANTED.0),
        WANTED.0
    );
    println!(
        "{:.1} B per address in MAC and endpoint tables: {} ({} B)",
        l.bytes_per_address,
        verdict(l.bytes_per_address <= WANTED.1),
        WANTED.1
    );
    println!("one change among them: {:.0} us", l.one_change * 1e6);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_flow_while_endpoints_move() {
        let args = ScaleArgs {
            endpoints: 1000,
            hosts: 4,
            changes: 1000,
            load: 50,
            time: Duration::from_millis(200),
            core: 0,
            // Not pinned itself, and a machine may have but one.
            worker_core: 0,
            json: true,
        };
        let (mut site, worker) = Site::new(args.hosts, args.endpoints).unwrap();
        let changes = site.everybody(args.endpoints);
        let (clock, interrupt) = (Clock::calibrate(), Interrupt::on_signals().unwrap());
        let run = || measure(&mut site, changes, &args, clock, &interrupt);
        let report = traffic::beside(worker, args.worker_core, run).unwrap().traffic.unwrap();
        assert!(report.sent > 0 && report.lost == 0 && report.sent == report.received, "{report}");
    }
}
