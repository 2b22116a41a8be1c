//! From samples to rows: medians, ratios, verdicts; as a table and as JSON.

use std::{fmt::Write as _, fs};

use serde::Serialize;

use super::{
    TOWPATHD,
    plan::{Kind, Metric, Row, Target, Visit, targets},
    process::output,
    sampler::{CEILING, CEILING_SHARE, Rejected, Sample, Sampler},
    statistics::Summary,
};
use crate::probe::Distance;

/// Where and when it was measured.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    /// `git rev-parse HEAD`, with `-dirty` when something was changed.
    pub(super) commit: String,
    /// UTC.
    pub(super) date: String,
    /// Processor.
    pub(super) processor: String,
    /// Kernel release.
    pub(super) kernel: String,
    /// What ran.
    pub(super) systems: Vec<String>,
}

/// What the machine and the generator can do.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Calibration {
    /// Round trip of a cache line between the cores in accepted samples, ns.
    pub(super) round_trip_ns: Vec<(Distance, Summary)>,
    /// One thread's copy bandwidth, GB/s, in pieces of 64, 1,514 and 64,294 bytes.
    pub(super) copy_gigabytes_per_second: [Option<Summary>; 3],
    /// Copy bandwidth for a guest on the other core that writes and reads all bytes, GB/s, in pieces of 64,294 bytes.
    pub(super) copy_between_gigabytes_per_second: Vec<(Distance, Summary)>,
    /// Samples thrown away.
    pub(super) rejected_samples: Rejected,
}

/// What a contestant did in a row at one distance.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Figures {
    /// Who.
    pub(super) contestant: &'static str,
    /// Busy cycles per packet.
    pub(super) cycles_per_packet: Option<Summary>,
    /// Millions of frames per second.
    pub(super) mpps: Option<Summary>,
    /// Gigabits per second.
    pub(super) gbps: Option<Summary>,
    /// Median latencies, ns.
    pub latency_p50: Option<Summary>,
    /// 99th percentiles, ns.
    pub latency_p99: Option<Summary>,
    /// The slowest frame of all samples, ns.
    pub(super) latency_max: u64,
    /// Whether the throughput is the generator's: above 85 % of its ceiling.
    pub(super) generator_bound: bool,
    /// Frames lost in all samples.
    pub(super) lost: u64,
    /// Frames that arrived changed in all samples.
    pub(super) corrupt: u64,
}

/// A target and what became of it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Verdict {
    /// What was wanted.
    #[serde(flatten)]
    pub(super) target: Target,
    /// What was measured: towpathd's value over the peer's.
    pub(super) ratio: Summary,
    /// `PASS` or `MISS`.
    pub(super) verdict: &'static str,
}

/// towpathd against one peer in one row at one distance.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Comparison {
    /// Row.
    pub(super) benchmark: String,
    /// Ring layout.
    pub(super) ring: &'static str,
    /// Frame size.
    pub(super) size: String,
    /// Flows per direction.
    pub(super) flows: u32,
    /// How far the cores were apart.
    pub(super) distance: Distance,
    /// Against whom; `one-copy` is the copy bandwidth.
    pub(super) peer: &'static str,
    /// towpathd's figures.
    pub(super) towpathd: Figures,
    /// The peer's.
    pub(super) peer_figures: Option<Figures>,
    /// Cycles per packet, towpathd over peer.
    pub(super) cycles_ratio: Option<Summary>,
    /// Throughput, towpathd over peer.
    pub(super) throughput_ratio: Option<Summary>,
    /// The project's figures for this row.
    pub(super) targets: Vec<Verdict>,
}

/// Everything a run found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Results {
    /// Where and when.
    pub(super) machine: Machine,
    /// Calibration.
    pub(super) calibration: Calibration,
    /// Each contestant in each row, peers without towpathd too.
    pub(super) figures: Vec<(String, Distance, Figures)>,
    /// towpathd against its peers.
    pub(super) rows: Vec<Comparison>,
    /// Every accepted sample.
    pub(super) samples: Vec<Sample>,
}

const CONTESTANTS: [&str; 6] =
    [TOWPATHD, "testpmd-io", "ovs-port", "ovs-normal", super::ovs::VXLAN, super::ovs::CONNTRACK];
const DISTANCES: [Distance; 2] = [Distance::Near, Distance::Far];

/// Works out all rows.
#[must_use]
pub(super) fn results(visits: &[Visit], sampler: &Sampler, systems: Vec<String>) -> Results {
    let samples = &sampler.samples;
    let mut figures = Vec::new();
    let mut rows = Vec::new();
    for row in visits.iter().flat_map(|visit| &visit.rows) {
        for distance in DISTANCES {
            let mine = figures_of(samples, row, distance, TOWPATHD);
            for contestant in [CEILING].into_iter().chain(CONTESTANTS) {
                if let Some(found) = figures_of(samples, row, distance, contestant) {
                    figures.push((row.name(), distance, found));
                }
            }
            let Some(mine) = mine else { continue };
            let peers: &[&'static str] =
                if row.kind == Kind::Tso { &["one-copy"] } else { &CONTESTANTS[1..] };
            rows.extend(peers.iter().filter_map(|peer| comparison(samples, row, distance, &mine, peer)));
        }
    }
    Results {
        machine: machine(systems),
        calibration: calibration(sampler),
        figures,
        rows,
        samples: samples.clone(),
    }
}

fn figures_of(
    samples: &[Sample],
    row: &Row,
    distance: Distance,
    contestant: &'static str,
) -> Option<Figures> {
    let name = row.name();
    let of = |who: &str| -> Vec<&Sample> {
        samples.iter().filter(|s| s.row == name && s.contestant == who && s.distance == distance).collect()
    };
    let mine = of(contestant);
    if mine.is_empty() {
        return None;
    }
    let summary = |value: fn(&Sample) -> f64| Summary::of(mine.iter().map(|s| value(s)));
    let ceiling = Summary::of(of(CEILING).iter().map(|s| s.mpps));
    let mpps = summary(|s| s.mpps);
    let generator_bound = contestant != CEILING
        && matches!((ceiling, mpps), (Some(ceiling), Some(mpps)) if mpps.median > CEILING_SHARE * ceiling.median);
    Some(Figures {
        contestant,
        cycles_per_packet: Summary::of(mine.iter().filter_map(|s| s.cycles_per_packet)),
        mpps,
        gbps: summary(|s| s.gbps),
        latency_p50: summary(|s| s.latency.p50 as f64),
        latency_p99: summary(|s| s.latency.p99 as f64),
        latency_max: mine.iter().map(|s| s.latency.max).max().unwrap_or(0),
        generator_bound,
        lost: mine.iter().map(|s| s.lost).sum(),
        corrupt: mine.iter().map(|s| s.corrupt).sum(),
    })
}

/// Ratios between samples of the same round and distance.
fn paired(
    samples: &[Sample],
    row: &str,
    distance: Distance,
    peer: &str,
    value: impl Fn(&Sample) -> Option<f64>,
) -> Option<Summary> {
    let of =
        |who: &'static str| move |s: &&Sample| s.row == row && s.contestant == who && s.distance == distance;
    let ratios = samples.iter().filter(of(TOWPATHD)).filter_map(|mine| {
        let theirs = samples.iter().find(|s| {
            s.row == row && s.contestant == peer && s.distance == distance && s.round == mine.round
        })?;
        Some(value(mine)? / value(theirs)?)
    });
    Summary::of(ratios)
}

fn comparison(
    samples: &[Sample],
    row: &Row,
    distance: Distance,
    mine: &Figures,
    peer: &'static str,
) -> Option<Comparison> {
    let name = row.name();
    let peer_figures = figures_of(samples, row, distance, peer);
    if peer_figures.is_none() && row.kind != Kind::Tso {
        return None;
    }
    let ratio = |metric: Metric| match metric {
        Metric::CyclesPerPacket => paired(samples, &name, distance, peer, |s| s.cycles_per_packet),
        Metric::Throughput => paired(samples, &name, distance, peer, |s| Some(s.gbps)),
        Metric::LatencyP50 => paired(samples, &name, distance, peer, |s| Some(s.latency.p50 as f64)),
        Metric::LatencyP99 => paired(samples, &name, distance, peer, |s| Some(s.latency.p99 as f64)),
        Metric::CopyBandwidthShare => Summary::of(
            samples
                .iter()
                .filter(|s| s.row == name && s.contestant == TOWPATHD && s.distance == distance)
                .filter_map(|s| Some(s.gbps / 8.0 / s.copy_gigabytes?)),
        ),
    };
    let targets = targets(row, peer, distance)
        .into_iter()
        .filter_map(|target| {
            let ratio = ratio(target.metric)?;
            let verdict = if target.reached(ratio.median) { "PASS" } else { "MISS" };
            Some(Verdict { target, ratio, verdict })
        })
        .collect();
    Some(Comparison {
        benchmark: name.clone(),
        ring: row.ring(),
        size: row.sizes.to_string(),
        flows: row.flows,
        distance,
        peer,
        towpathd: mine.clone(),
        peer_figures,
        cycles_ratio: ratio(Metric::CyclesPerPacket),
        throughput_ratio: paired(samples, &name, distance, peer, |s| Some(s.mpps)),
        targets,
    })
}

fn calibration(sampler: &Sampler) -> Calibration {
    let round_trips = DISTANCES.iter().filter_map(|&distance| {
        let of = sampler.samples.iter().filter(|s| s.distance == distance).map(|s| s.round_trip_ns);
        Some((distance, Summary::of(of)?))
    });
    let between = DISTANCES.iter().filter_map(|&distance| {
        let of = sampler.samples.iter().filter(|s| s.distance == distance);
        Some((distance, Summary::of(of.filter_map(|s| s.copy_between_gigabytes))?))
    });
    let copies = &sampler.copies;
    Calibration {
        copy_between_gigabytes_per_second: between.collect(),
        round_trip_ns: round_trips.collect(),
        copy_gigabytes_per_second: [
            Summary::of(copies.iter().map(|c| c.b64)),
            Summary::of(copies.iter().map(|c| c.b1514)),
            Summary::of(copies.iter().map(|c| c.b64k)),
        ],
        rejected_samples: sampler.rejected,
    }
}

fn machine(systems: Vec<String>) -> Machine {
    let run = |program: &str, args: &[&str]| {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        output(program, &args, &[]).map(|text| text.trim().to_string()).unwrap_or_default()
    };
    let mut commit = run("git", &["rev-parse", "HEAD"]);
    if !run("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty() {
        commit.push_str("-dirty");
    }
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split(": ").nth(1).unwrap_or_default().to_string()
    };
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    Machine {
        commit,
        date: run("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
        processor: format!(
            "{} (family {} model {}), {cores} cores",
            field("model name"),
            field("cpu family"),
            field("model\t")
        ),
        kernel: run("uname", &["-sr"]),
        systems,
    }
}

/// The results as people read them.
#[must_use]
pub(super) fn table(results: &Results) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = header(&mut out, results);
    for distance in DISTANCES {
        let _ = figures_table(&mut out, results, distance);
    }
    let _ = verdicts(&mut out, results);
    out
}

fn header(out: &mut String, results: &Results) -> std::fmt::Result {
    let m = &results.machine;
    writeln!(out, "\n{}  {}\n{}, {}", m.commit, m.date, m.processor, m.kernel)?;
    for system in &m.systems {
        writeln!(out, "  {system}")?;
    }
    let c = &results.calibration;
    for (distance, trip) in &c.round_trip_ns {
        writeln!(out, "core round trip, {distance}: {} ns", trip.text(0))?;
    }
    for (piece, copy) in ["64 B", "1,514 B", "64 KB"].into_iter().zip(&c.copy_gigabytes_per_second) {
        if let Some(copy) = copy {
            writeln!(out, "one-thread copy, {piece}: {} GB/s", copy.text(1))?;
        }
    }
    for (distance, copy) in &c.copy_between_gigabytes_per_second {
        writeln!(out, "copy for a guest on the other core, 64 KB, {distance}: {} GB/s", copy.text(1))?;
    }
    writeln!(
        out,
        "{} samples counted; thrown away: {} (cores moved), {} (cores busy with others)",
        results.samples.len(),
        c.rejected_samples.moved,
        c.rejected_samples.busy
    )
}

fn figures_table(out: &mut String, results: &Results, distance: Distance) -> std::fmt::Result {
    let rows: Vec<_> = results.figures.iter().filter(|(_, d, _)| *d == distance).collect();
    if rows.is_empty() {
        return writeln!(out, "\n{distance}: the cores never were");
    }
    writeln!(
        out,
        "\n{distance}: median [quartiles] n   (* above {:.0} % of the generator's ceiling)",
        CEILING_SHARE * 100.0
    )?;
    let cell =
        |summary: Option<Summary>, decimals| summary.map_or_else(|| "-".to_string(), |s| s.text(decimals));
    writeln!(
        out,
        "{:<22} {:<18} {:<28} {:<28} {:>7} {:>9} {:>9}",
        "row", "system", "busy cycles/packet", "Mpps", "Gb/s", "p50 ns", "p99 ns"
    )?;
    for (row, _, f) in rows {
        let mark = if f.generator_bound { "*" } else { "" };
        let plain = |summary: Option<Summary>, decimals: usize| {
            summary.map_or_else(|| "-".to_string(), |s| format!("{:.decimals$}", s.median))
        };
        writeln!(
            out,
            "{row:<22} {:<18} {:<28} {:<28} {:>7} {:>9} {:>9}{}",
            f.contestant,
            cell(f.cycles_per_packet, 1),
            cell(f.mpps, if f.mpps.is_some_and(|mpps| mpps.median < 1.0) { 4 } else { 2 }) + mark,
            plain(f.gbps, 1),
            plain(f.latency_p50, 0),
            plain(f.latency_p99, 0),
            if f.corrupt > 0 { format!("  {} CORRUPT", f.corrupt) } else { String::new() },
        )?;
    }
    Ok(())
}

fn verdicts(out: &mut String, results: &Results) -> std::fmt::Result {
    let (mut passed, mut missed) = (0, 0);
    for row in &results.rows {
        for v in &row.targets {
            if passed + missed == 0 {
                writeln!(out, "\ntowpathd against its peers (ratios inside one round and distance)")?;
            }
            if v.verdict == "PASS" {
                passed += 1;
            } else {
                missed += 1;
            }
            let most = matches!(v.target.metric, Metric::CopyBandwidthShare | Metric::Throughput);
            let sign = if most { "at least" } else { "at most" };
            let aim = match v.target.aim {
                Some(aim) if v.ratio.median <= aim => format!(", aim {aim} reached"),
                Some(aim) => format!(", aim {aim} not reached"),
                None => String::new(),
            };
            writeln!(
                out,
                "{} {:<22} {:<5} {:<11} {:<19} {} ({sign} {}{aim})",
                v.verdict,
                row.benchmark,
                row.distance,
                row.peer,
                metric_name(v.target.metric),
                v.ratio.text(2),
                (v.target.bound * 100.0).round() / 100.0,
            )?;
        }
    }
    if passed + missed > 0 {
        writeln!(out, "{passed} PASS, {missed} MISS")?;
    }
    Ok(())
}

const fn metric_name(metric: Metric) -> &'static str {
    match metric {
        Metric::CyclesPerPacket => "cycles/packet",
        Metric::Throughput => "throughput",
        Metric::LatencyP50 => "latency p50",
        Metric::LatencyP99 => "latency p99",
        Metric::CopyBandwidthShare => "share of one copy",
    }
}
