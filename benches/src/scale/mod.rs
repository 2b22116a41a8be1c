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
    let mut site = Site::new(args.hosts, args.endpoints)?;
    let changes = site.everybody(args.endpoints);
    let loading = load(&mut site, changes, args)?;
    if !args.json {
        print_loading(&loading);
    }
    let traffic = if args.time.is_zero() {
        None
    } else {
        let report = traffic::run(&mut site, args, clock, &interrupt)?;
        if !args.json {
            println!("{report}");
        }
        Some(report)
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&Output { loading, traffic })?);
    }
    Ok(())
}

fn load(site: &mut Site, changes: Vec<model::Difference>, args: &ScaleArgs) -> anyhow::Result<Loading> {
    let before = site.memory();
    let start = Instant::now();
    let times = site.apply(changes);
    let total = start.elapsed().as_secs_f64();
    if !site.worker_sees_all()? {
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
