//! `towpath-bench run`: one measurement of one back end.

use std::{net::Ipv4Addr, path::PathBuf, str::FromStr, time::Duration};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use virtio_driver::RingLayout;

use crate::{
    affinity,
    attach::{AttachConfig, Role},
    clock::Clock,
    frame::{Endpoint, Payload, Sizes},
    generator::{Generator, Load, Rate, Report, Senders},
    null,
    probe::{Probe, ping_pong},
    session::{self, Interrupt, Timing},
};

/// Ring layouts on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Ring {
    /// Split virtqueues.
    Split,
    /// Packed virtqueues.
    Packed,
}

impl From<Ring> for RingLayout {
    fn from(ring: Ring) -> Self {
        match ring {
            Ring::Split => Self::Split,
            Ring::Packed => Self::Packed,
        }
    }
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// vhost-user sockets, an even number: the first two send to each other, the next two, and so on
    #[arg(long, value_delimiter = ',', required_unless_present = "null_ceiling")]
    ports: Vec<PathBuf>,
    /// Listen on the sockets, for back ends that connect (OVS dpdkvhostuserclient)
    #[arg(long)]
    server: bool,
    /// Measure the generator itself against an in-process back end that copies nothing, on the core of --null-core
    #[arg(long, conflicts_with_all = ["ports", "server"])]
    null_ceiling: bool,
    /// Core of the null back end
    #[arg(long, default_value_t = 1)]
    null_core: usize,
    /// Ring layout
    #[arg(long, value_enum, default_value = "split")]
    ring: Ring,
    /// Descriptors per ring
    #[arg(long, default_value_t = 256, value_parser = ring_size)]
    ring_size: u16,
    #[arg(long, default_value = "64", help = Sizes::HELP)]
    size: Sizes,
    /// Different 5-tuples per direction (the two directions share none, unless with --answers)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    flows: u32,
    /// The second port of each pair answers the first: the same 5-tuples, seen from the other end
    #[arg(long)]
    answers: bool,
    /// Frames per second over all ports, open loop (1000, 2.5M), or max: as fast as frames are delivered
    #[arg(long, default_value = "max", value_parser = rate)]
    rate: Rate,
    /// At most this many frames under way, and only one port of a pair sends; 1 measures bare latency
    #[arg(long)]
    in_flight: Option<usize>,
    /// How long to count (0.5s, 200ms, 1m)
    #[arg(long, default_value = "0.5s", value_parser = duration)]
    time: Duration,
    /// How long to send before counting
    #[arg(long, default_value = "0.1s", value_parser = duration)]
    warm: Duration,
    /// How long to wait for the back end's sockets
    #[arg(long, default_value = "10s", value_parser = duration)]
    patience: Duration,
    /// Record the latency of every n-th frame (rounded up to a power of two)
    #[arg(long, default_value_t = 16)]
    latency_every: u32,
    /// MAC address of each port; default 02:00:00:00:01:0a, :0b, ...
    #[arg(long, value_delimiter = ',', value_parser = mac)]
    macs: Vec<[u8; 6]>,
    /// IPv4 address of each port; default 10.0.1.10, .11, ...
    #[arg(long, value_delimiter = ',')]
    ips: Vec<Ipv4Addr>,
    /// Core of the generator
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Probe the distance of two cores before and after
    #[arg(long, value_delimiter = ',', value_name = "CORE,CORE")]
    probe: Vec<usize>,
    /// Use 4 KiB pages although 2 MiB pages are free
    #[arg(long)]
    small_pages: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Output {
    ring: String,
    size: String,
    flows: u32,
    #[serde(flatten)]
    report: Report,
    probes: Vec<Probe>,
}

fn ring_size(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(size) if (8..=32768).contains(&size) && u16::is_power_of_two(size) => Ok(size),
        _ => Err("a power of two from 8 to 32768".to_string()),
    }
}

/// Parses frames per second: a number with an optional k or M, or `max`.
///
/// # Errors
///
/// What is accepted.
pub fn rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::Max);
    }
    let (number, factor) = match text.strip_suffix(['k', 'M']) {
        Some(number) if text.ends_with('k') => (number, 1e3),
        Some(number) => (number, 1e6),
        None => (text, 1.0),
    };
    match f64::from_str(number) {
        Ok(value) if value > 0.0 && value.is_finite() => Ok(Rate::PerSecond(value * factor)),
        _ => Err("max, or frames per second: 1000, 250k, 2.5M".to_string()),
    }
}

/// Parses a time: a number with ms, s or m.
///
/// # Errors
///
/// What is accepted.
pub fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err("a number with ms, s or m: 500ms, 0.5s, 10m".to_string()),
    };
    let seconds =
        f64::from_str(number).map_err(|_| "a number with ms, s or m: 500ms, 0.5s, 10m".to_string())?;
    Duration::try_from_secs_f64(seconds * factor).map_err(|error| error.to_string())
}

/// Parses a MAC address.
///
/// # Errors
///
/// What is accepted.
pub fn mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Vec<u8> = text.split(':').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect();
    match (<[u8; 6]>::try_from(bytes), text.split(':').count()) {
        (Ok(mac), 6) => Ok(mac),
        _ => Err("six hexadecimal bytes, as 02:00:00:00:01:0a".to_string()),
    }
}

/// Runs one measurement and prints it.
///
/// # Errors
///
/// Everything that makes the measurement void, among it frames that arrived changed.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    let interrupt = Interrupt::on_signals()?;
    let cores = affinity::allowed()?;
    if !cores.contains(&args.core) {
        bail!("--core {}: this process may use {cores:?}", args.core);
    }
    let clock = Clock::calibrate();
    let config = AttachConfig {
        layout: args.ring.into(),
        ring_size: args.ring_size,
        longest: args.size.longest(),
        offloads: args.size.tso(),
        huge_pages: !args.small_pages,
    };
    let load = Load {
        sizes: args.size.clone(),
        flows: args.flows,
        answers: args.answers,
        rate: args.rate,
        in_flight: args.in_flight.map(|n| n.max(1)),
        senders: if args.in_flight.is_some() { Senders::First } else { Senders::Both },
        latency_every: if args.in_flight == Some(1) { 1 } else { args.latency_every },
        payload: if args.null_ceiling { Payload::Unchecked } else { Payload::Whole },
    };
    let timing = Timing { warm: args.warm, measure: args.time };
    let mut probes = probe(args)?;
    let report = if args.null_ceiling {
        null_ceiling(args, &config, &load, clock, timing, &interrupt)?
    } else {
        let endpoints = endpoints(args);
        let role = if args.server { Role::Server } else { Role::Client };
        let guests = session::attach(&args.ports, &endpoints, role, &config, args.patience)?;
        let mut generator = Generator::new(guests, clock)?;
        let report = session::measure(&mut generator, &load, args.core, timing, &interrupt, &mut ())?;
        for guest in generator.into_guests() {
            guest.detach()?;
        }
        report
    };
    probes.extend(probe(args)?);
    print(args, report, probes)
}

fn probe(args: &RunArgs) -> anyhow::Result<Vec<Probe>> {
    let (a, b) = match args.probe[..] {
        [] => return Ok(Vec::new()),
        [a, b] => (a, b),
        _ => bail!("--probe: two cores, as 0,1"),
    };
    Ok(vec![ping_pong((a, b), Duration::from_millis(60)).context("probing the cores")?])
}

fn null_ceiling(
    args: &RunArgs,
    config: &AttachConfig,
    load: &Load,
    clock: Clock,
    timing: Timing,
    interrupt: &Interrupt,
) -> anyhow::Result<Report> {
    if args.size.tso() {
        bail!(
            "--null-ceiling --size 64K: the null back end serves frames of one descriptor, up to 9018 bytes"
        );
    }
    let (guests, _backend) = null::pair(config, args.null_core)?;
    let mut generator = Generator::new(guests, clock)?;
    Ok(session::measure(&mut generator, load, args.core, timing, interrupt, &mut ())?)
}

fn endpoints(args: &RunArgs) -> Vec<Endpoint> {
    (0..args.ports.len())
        .map(|index| {
            let default = Endpoint::numbered(index as u8);
            Endpoint {
                mac: args.macs.get(index).copied().unwrap_or(default.mac),
                ip: args.ips.get(index).copied().unwrap_or(default.ip),
            }
        })
        .collect()
}

fn print(args: &RunArgs, report: Report, probes: Vec<Probe>) -> anyhow::Result<()> {
    let r = report.received;
    if args.json {
        let ring = format!("{:?}", args.ring).to_lowercase();
        let output = Output { ring, size: args.size.to_string(), flows: args.flows, report, probes };
        println!("{}", serde_json::to_string_pretty(&output)?);
    } else {
        println!("{:.3} Mpps, {:.2} Gb/s over {:.3} s", report.mpps, report.gbps, report.seconds);
        println!(
            "sent {}, received {}, lost {}, reordered {}, corrupt {}, foreign {}, backlog {}",
            report.sent, r.frames, r.lost, r.reordered, r.corrupt, r.foreign, report.backlog
        );
        let l = report.latency;
        println!(
            "latency ns: p50 {}, p99 {}, p99.9 {}, max {} ({} samples, {} above 1 ms)",
            l.p50, l.p99, l.p999, l.max, l.samples, l.above_1ms
        );
        let stalls = report.stalls;
        println!(
            "the generator itself stood still {} times, {} times for more than 0.9 ms, at most {} ns",
            stalls.count, stalls.above_900us, stalls.longest
        );
        for probe in &probes {
            println!("core round trip {:.0} ns", probe.round_trip_ns);
        }
    }
    if r.corrupt > 0 {
        bail!("{} frames arrived changed", r.corrupt);
    }
    if r.frames == 0 {
        bail!(
            "nothing arrived: is the back end forwarding between these ports, and do MAC and IP addresses fit it?"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_people_type_them() {
        assert_eq!(rate("max"), Ok(Rate::Max));
        assert_eq!(rate("2.5M"), Ok(Rate::PerSecond(2.5e6)));
        assert_eq!(rate("250k"), Ok(Rate::PerSecond(250e3)));
        assert!(rate("0").is_err() && rate("fast").is_err());
        assert_eq!(duration("0.5s"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert!(duration("10").is_err() && duration("-1s").is_err());
        assert_eq!(mac("02:00:00:00:01:0a"), Ok([2, 0, 0, 0, 1, 10]));
        assert!(mac("02:00:00:00:01").is_err() && mac("02:00:00:00:01:zz").is_err());
    }
}
