//! `towpath-bench compare`: towpathd and its peers by turns, in one loop, with one generator.
//!
//! Freeze, probe, run: all switches stay alive and attached, those not measured are stopped (SIGSTOP). Around each sample
//! a ping-pong probe says how far the two cores are apart; a sample counts only if both probes agree, near and far are
//! never mixed, and ratios are taken between samples of the same round and the same distance.

mod contention;
mod cross;
mod foreign;
mod lab;
mod ovs;
mod plan;
mod process;
mod report;
mod sampler;
mod statistics;
mod svg;
mod switches;
mod testpmd;
mod towpathd;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use crate::{affinity, clock::Clock, run::duration, session::Interrupt};
use lab::Lab;
use sampler::Sampler;
use switches::Scene;

/// towpathd as a contestant.
pub(crate) const TOWPATHD: &str = "towpathd";

/// Systems on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum System {
    /// towpathd, from --binaries.
    Towpathd,
    /// DPDK's testpmd with the vhost driver, io forwarding.
    Testpmd,
    /// Open vSwitch with DPDK, port to port and NORMAL.
    Ovs,
}

/// Options of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Systems to compare
    #[arg(long, value_enum, value_delimiter = ',', default_value = "towpathd,testpmd,ovs")]
    systems: Vec<System>,
    /// Fewer rows in two minutes
    #[arg(long)]
    quick: bool,
    /// How long to sample in all; default 15m, with --quick 2m
    #[arg(long, value_parser = duration)]
    budget: Option<Duration>,
    /// Time counted per sample
    #[arg(long, default_value = "0.5s", value_parser = duration)]
    sample: Duration,
    /// Core of the generator and of everything that is not a worker
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Core of the workers under test
    #[arg(long, default_value_t = 1)]
    worker_core: usize,
    /// Folder with towpathd and towpath
    #[arg(long, default_value = "target/release")]
    binaries: PathBuf,
    /// Folder for compare.json and compare.svg
    #[arg(long, default_value = "target/bench")]
    output: PathBuf,
    /// Only rows whose name contains one of these
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Count samples during which other work used the cores too: to try the tool out, not to measure
    #[arg(long)]
    accept_busy: bool,
    /// From a guest to a wire that speaks VXLAN and back, with Open vSwitch as the peer: results in vxlan.json and vxlan.svg
    #[arg(long, conflicts_with = "cross_check")]
    tunnel: bool,
    /// Ports under 1,000 rules with sessions, with Open vSwitch's conntrack and a meter as the peer: results in policy-compare.json and .svg
    #[arg(long, conflicts_with_all = ["cross_check", "tunnel"])]
    policy: bool,
    /// Further other_config of Open vSwitch, as userspace-tso-enable=true
    #[arg(long, value_delimiter = ',')]
    ovs_config: Vec<String>,
    /// Check this generator against testpmd's (net_pcap into net_virtio_user) instead of comparing switches
    #[arg(long)]
    cross_check: bool,
}

impl CompareArgs {
    fn scene(&self) -> Scene {
        match (self.tunnel, self.policy) {
            (true, _) => Scene::Tunnel,
            (_, true) => Scene::Policy,
            _ => Scene::Plain,
        }
    }
}

/// Runs the comparison.
///
/// # Errors
///
/// When a system does not come up, a core may not be used, or a signal came. Everything started has ended by then.
pub fn run(args: &CompareArgs) -> anyhow::Result<()> {
    let interrupt = Interrupt::on_signals()?;
    let allowed = affinity::allowed()?;
    for core in [args.core, args.worker_core] {
        if !allowed.contains(&core) {
            bail!("core {core} is needed (--core, --worker-core), this process may use {allowed:?}");
        }
    }
    if args.core == args.worker_core {
        bail!("--core and --worker-core are both {}: the worker needs a core of its own", args.core);
    }
    if args.cross_check {
        return cross::run(args, &interrupt);
    }
    let budget = args.budget.unwrap_or(Duration::from_secs(if args.quick { 120 } else { 900 }));
    let scene = args.scene();
    let mut visits = match scene {
        Scene::Plain => plan::visits(args.quick),
        Scene::Tunnel => plan::tunnel_visits(args.quick),
        Scene::Policy => plan::policy_visits(args.quick),
    };
    if !args.rows.is_empty() {
        for visit in &mut visits {
            visit.rows.retain(|row| args.rows.iter().any(|part| row.name().contains(part)));
        }
        visits.retain(|visit| !visit.rows.is_empty());
    }
    if visits.is_empty() {
        bail!("--rows {}: no row has such a name", args.rows.join(","));
    }
    if args.systems.contains(&System::Towpathd) {
        towpathd::built(&args.binaries)?;
    }
    let mut lab = Lab::open(args)?;
    // This process stays off the worker's core from here on; before, the switches would have inherited that.
    affinity::pin(args.core)?;
    let clock = Clock::calibrate();
    let mut sampler = Sampler::new(args, clock, interrupt.clone());
    let end = Instant::now() + budget;
    let outcome = (|| -> anyhow::Result<()> {
        for round in 0.. {
            for visit in &visits {
                if sampler.visit(&mut lab, visit, round, end)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    })();
    let descriptions = lab.descriptions();
    drop(lab);
    match outcome {
        Err(_) if interrupt.is_set() && sampler.is_empty() => bail!("interrupted before the first sample"),
        Err(error) if !interrupt.is_set() => return Err(error),
        _ => {}
    }
    let results = report::results(&visits, &sampler, descriptions);
    println!("{}", report::table(&results));
    std::fs::create_dir_all(&args.output).with_context(|| format!("creating {}", args.output.display()))?;
    let name = match scene {
        Scene::Plain => "compare",
        Scene::Tunnel => "vxlan",
        Scene::Policy => "policy-compare",
    };
    let json = args.output.join(format!("{name}.json"));
    std::fs::write(&json, serde_json::to_string_pretty(&results)?)?;
    let picture = args.output.join(format!("{name}.svg"));
    svg::write(&picture, &results)?;
    println!("written: {}, {}", json.display(), picture.display());
    if interrupt.is_set() {
        bail!("interrupted; what was measured until then is in the table");
    }
    Ok(())
}
