//! `towpath-bench inproc`: switch-bound throughput, guests and worker in this process.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use serde::Serialize;

use crate::{
    affinity,
    attach::AttachConfig,
    clock::Clock,
    frame::Sizes,
    in_process::{self, InProcessReport, InProcessRun},
    probe::{Probe, ping_pong},
    run::{Ring, duration},
    session::Interrupt,
};

/// Options of `inproc`.
#[derive(Debug, Args)]
pub struct InprocArgs {
    /// Ring layout
    #[arg(long, value_enum, default_value = "split")]
    ring: Ring,
    #[arg(long, default_value = "64", help = Sizes::HELP)]
    size: Sizes,
    /// Different 5-tuples per direction, at most one per transmit buffer
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    flows: u32,
    /// How long to count, each time
    #[arg(long, default_value = "0.5s", value_parser = duration)]
    time: Duration,
    /// How many times
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// Core of the guests
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Core of the worker
    #[arg(long, default_value_t = 1)]
    worker_core: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Output {
    #[serde(flatten)]
    report: InProcessReport,
    probes: [Probe; 2],
}

/// Runs and prints.
///
/// # Errors
///
/// When a core may not be used or a ring breaks.
pub fn run(args: &InprocArgs) -> anyhow::Result<()> {
    let interrupt = Interrupt::on_signals()?;
    let allowed = affinity::allowed()?;
    if !allowed.contains(&args.core) || !allowed.contains(&args.worker_core) || args.core == args.worker_core
    {
        bail!("--core {} --worker-core {}: two different ones of {allowed:?}", args.core, args.worker_core);
    }
    let clock = Clock::calibrate();
    let run = InProcessRun {
        config: AttachConfig {
            layout: args.ring.into(),
            ring_size: 256,
            longest: args.size.longest(),
            offloads: args.size.tso(),
            huge_pages: true,
        },
        sizes: args.size.clone(),
        flows: args.flows,
        cores: (args.core, args.worker_core),
        time: args.time,
    };
    let probe = || ping_pong(run.cores, Duration::from_millis(60));
    let mut outputs = Vec::new();
    for _ in 0..args.repeat {
        let before = probe()?;
        let report = in_process::run(&run, clock, &interrupt)?;
        outputs.push(Output { report, probes: [before, probe()?] });
        if interrupt.is_set() {
            break;
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&outputs)?);
        return Ok(());
    }
    for Output { report, probes: [before, after] } in &outputs {
        println!(
            "{:.2} Mpps, {:.1} cycles/packet, worker {:.0} % busy, {:.1} packets/burst, core round trip {:.0}, {:.0} ns",
            report.mpps,
            report.cycles_per_packet,
            report.busy * 100.0,
            report.packets_per_burst,
            before.round_trip_ns,
            after.round_trip_ns
        );
    }
    Ok(())
}
