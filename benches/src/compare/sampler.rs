//! Freeze, probe, run: the loop that takes samples.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::bail;
use rustix::process::Pid;
use serde::Serialize;
use virtio_driver::RingLayout;

use super::{
    CompareArgs, TOWPATHD,
    contention::Waited,
    lab::Lab,
    plan::{Direction, Kind, Row, Visit},
    statistics::Summary,
    switches::{Scene, Switch, Work, freeze},
};
use crate::{
    attach::{AttachConfig, Role},
    calibrate::{CopyBandwidth, copy_bandwidth, copy_between},
    clock::Clock,
    frame::{Endpoint, Payload, SEGMENTS},
    generator::{Generator, LatencySummary, Load, Rate, Report, Senders},
    null,
    probe::{Distance, Probe, ping_pong},
    session::{self, Hooks, Interrupt, SessionError, Timing},
    wire::{OUTER, Underlay, Wire},
};

/// The generator on its null back end, as a contestant.
pub(super) const CEILING: &str = "generator-ceiling";

/// One accepted sample.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sample {
    /// Row name.
    pub(super) row: String,
    /// Contestant.
    pub(super) contestant: &'static str,
    /// How far the cores were apart, before and after.
    pub(super) distance: Distance,
    /// Mean of both probes.
    pub(super) round_trip_ns: f64,
    /// Round of the loop: ratios are taken inside one.
    pub(super) round: u32,
    /// Seconds since the start.
    pub(super) at_seconds: f64,
    /// Millions of frames per second.
    pub(super) mpps: f64,
    /// Gigabits per second.
    pub(super) gbps: f64,
    /// The switch's own count.
    pub(super) cycles_per_packet: Option<f64>,
    /// Latency.
    pub(super) latency: LatencySummary,
    /// Frames lost.
    pub(super) lost: u64,
    /// Frames that arrived changed.
    pub(super) corrupt: u64,
    /// Open loop: frames per second asked for.
    pub(super) rate: Option<f64>,
    /// Copy bandwidth for 64 KB pieces, GB/s, measured right before (TSO rows).
    pub(super) copy_gigabytes: Option<f64>,
    /// The same for a guest on the other core that writes and reads all bytes.
    pub(super) copy_between_gigabytes: Option<f64>,
    /// Share of the time the worker or the generator waited for its core.
    pub(super) contention: f64,
    /// Packets that a large send arrived in.
    pub(super) pieces: Option<f64>,
}

/// A sample before it is judged.
struct Measured {
    row: String,
    contestant: &'static str,
    round: u32,
    report: Report,
    contention: f64,
    cycles_per_packet: Option<f64>,
    rate: Option<f64>,
    copies: Option<(f64, f64)>,
}

impl Measured {
    /// How many packets a large send arrived in, where that was counted.
    fn pieces(&self) -> Option<f64> {
        let received = &self.report.received;
        (received.pieces > 0 && received.frames > 0).then(|| received.pieces as f64 / received.frames as f64)
    }
}

/// Samples thrown away.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Rejected {
    /// The cores moved, or were neither near nor far.
    pub(super) moved: u32,
    /// Somebody else used a core.
    pub(super) busy: u32,
}

/// Takes and keeps samples.
pub(super) struct Sampler {
    core: usize,
    worker_core: usize,
    timing: Timing,
    clock: Clock,
    interrupt: Interrupt,
    start: Instant,
    /// All accepted samples, in order.
    pub(super) samples: Vec<Sample>,
    /// Samples thrown away.
    pub(super) rejected: Rejected,
    accept_busy: bool,
    /// Copy bandwidth, once per round.
    pub(super) copies: Vec<CopyBandwidth>,
    last_probe: Option<Probe>,
}

pub(super) const WARM: Duration = Duration::from_millis(80);
pub(super) const SETTLE: Duration = Duration::from_millis(20);
const REARRANGE: Duration = Duration::from_secs(1);
pub(super) const PROBE: Duration = Duration::from_millis(60);
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// Above this share of the generator's ceiling a throughput is the generator's.
pub(super) const CEILING_SHARE: f64 = 0.85;

/// A thread that waited for a core for more than this share of the time spoils its sample.
pub(super) const BUSY: f64 = 0.03;

/// Reads a switch's counters around the counted time.
struct Counting<'a> {
    switch: &'a mut dyn Switch,
    worker_core: usize,
    waited: Waited,
    start: Instant,
    contention: f64,
    work: Work,
    failed: Option<anyhow::Error>,
}

impl Hooks for Counting<'_> {
    fn before(&mut self) -> Result<(), SessionError> {
        self.failed = self.switch.begin().err();
        self.waited = Waited::now(&self.switch.pids(), self.worker_core);
        self.start = Instant::now();
        Ok(())
    }

    fn after(&mut self) -> Result<(), SessionError> {
        let now = Waited::now(&self.switch.pids(), self.worker_core);
        self.contention = self.waited.share_until(now, self.start.elapsed().as_nanos() as f64);
        match self.switch.end() {
            Ok(work) => self.work = work,
            Err(error) => self.failed = self.failed.take().or(Some(error)),
        }
        Ok(())
    }
}

/// Running processes, frozen again when this goes, whatever happened.
pub(super) struct Thawed(Vec<Pid>);

impl Drop for Thawed {
    fn drop(&mut self) {
        for &pid in &self.0 {
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::STOP);
        }
    }
}

impl Thawed {
    /// Continues these processes.
    pub(super) fn continued(pids: &[Pid]) -> anyhow::Result<Self> {
        let guard = Self(pids.to_vec());
        for &pid in pids {
            rustix::process::kill_process(pid, rustix::process::Signal::CONT)?;
        }
        Ok(guard)
    }
}

/// Lets a switch run for as long as the result lives.
pub(super) fn thaw(switch: &dyn Switch) -> anyhow::Result<Thawed> {
    let guard = Thawed(switch.pids());
    freeze(switch, false)?;
    Ok(guard)
}

impl Sampler {
    /// An empty sampler.
    #[must_use]
    pub(super) fn new(args: &CompareArgs, clock: Clock, interrupt: Interrupt) -> Self {
        Self {
            core: args.core,
            worker_core: args.worker_core,
            timing: Timing { warm: WARM, measure: args.sample },
            clock,
            interrupt,
            start: Instant::now(),
            samples: Vec::new(),
            rejected: Rejected::default(),
            accept_busy: args.accept_busy,
            copies: Vec::new(),
            last_probe: None,
        }
    }

    /// Whether nothing was accepted yet.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Attaches all switches in one ring layout, samples each row with each of them, and detaches. Returns true when
    /// time is up.
    ///
    /// # Errors
    ///
    /// When a switch fails, or a signal came.
    pub(super) fn visit(
        &mut self,
        lab: &mut Lab,
        visit: &Visit,
        round: u32,
        end: Instant,
    ) -> anyhow::Result<bool> {
        if Instant::now() >= end {
            return Ok(true);
        }
        self.copies.push(copy_bandwidth(self.worker_core, Duration::from_millis(30))?);
        let config = attach_config(visit, visit.tso);
        let tunnel = visit.scene == Scene::Tunnel;
        let mut generators = HashMap::new();
        for (index, switch) in lab.switches.iter_mut().enumerate() {
            if visit.tso && !switch.tso() && !tunnel {
                continue;
            }
            let config = attach_config(visit, visit.tso && switch.tso());
            let configs = [config, if tunnel { attach_config(visit, false) } else { config }];
            switch.check()?;
            let _running = thaw(switch.as_ref())?;
            let endpoints = [Endpoint::numbered(0), Endpoint::numbered(1)];
            let mut guests =
                session::attach_each(&switch.sockets(), &endpoints, switch.role(), &configs, PATIENCE)?;
            if tunnel {
                let wire = guests.pop().map(|wire| wire.as_wire(Wire::new(Underlay::default())));
                let guest = guests.pop().map(|guest| guest.behind_wire(!config.offloads));
                guests.extend(guest.into_iter().chain(wire));
            }
            generators.insert(index, Generator::new(guests, self.clock)?);
        }
        // A switch that connects to us arranges its ports anew after the handshake.
        for switch in lab
            .switches
            .iter()
            .filter(|switch| switch.role() == Role::Server && (switch.tso() || !visit.tso || tunnel))
        {
            let _running = thaw(switch.as_ref())?;
            self.interrupt.sleep(REARRANGE)?;
        }
        self.last_probe = None;
        let mut done = false;
        for row in &visit.rows {
            if Instant::now() >= end {
                done = true;
                break;
            }
            self.row(lab, &mut generators, &config, row, round)?;
        }
        for (index, switch) in lab.switches.iter().enumerate() {
            if let Some(generator) = generators.remove(&index) {
                let _running = thaw(switch.as_ref())?;
                for guest in generator.into_guests() {
                    guest.detach()?;
                }
            }
        }
        Ok(done)
    }

    fn row(
        &mut self,
        lab: &mut Lab,
        generators: &mut HashMap<usize, Generator>,
        config: &AttachConfig,
        row: &Row,
        round: u32,
    ) -> anyhow::Result<()> {
        if matches!(row.kind, Kind::Throughput | Kind::OneWay(_) | Kind::Established | Kind::NewSessions) {
            self.ceiling(config, row, round)?;
        }
        // Turns start with another switch in every round.
        let count = lab.switches.len();
        for turn in 0..count {
            let index = (turn + round as usize) % count.max(1);
            let (Some(switch), Some(generator)) = (lab.switches.get_mut(index), generators.get_mut(&index))
            else {
                continue;
            };
            for mode in switch.modes() {
                if row.takes(mode) {
                    self.sample(switch.as_mut(), mode, generator, row, round)?;
                }
            }
        }
        Ok(())
    }

    fn probe(&mut self) -> anyhow::Result<Probe> {
        std::thread::sleep(SETTLE);
        Ok(ping_pong((self.core, self.worker_core), PROBE)?)
    }

    /// The probe before a sample: the one after the last sample, or a new one.
    fn probe_before(&mut self) -> anyhow::Result<Probe> {
        match self.last_probe.take() {
            Some(probe) => Ok(probe),
            None => self.probe(),
        }
    }

    fn ceiling(&mut self, config: &AttachConfig, row: &Row, round: u32) -> anyhow::Result<()> {
        let before = self.probe_before()?;
        let load = load(row, Rate::Max, Payload::Unchecked);
        let waited = Waited::now(&[], self.worker_core);
        let report = {
            let (guests, _backend) = null::pair(config, self.worker_core)?;
            let mut generator = Generator::new(guests, self.clock)?;
            session::measure(&mut generator, &load, self.core, self.timing, &self.interrupt, &mut ())?
        };
        let after = self.probe()?;
        let share = waited
            .share_until(Waited::now(&[], self.worker_core), (WARM + self.timing.measure).as_nanos() as f64);
        let measured = Measured {
            row: row.name(),
            contestant: CEILING,
            round,
            report,
            contention: share,
            cycles_per_packet: None,
            rate: None,
            copies: None,
        };
        self.judge((before, after), measured);
        Ok(())
    }

    fn sample(
        &mut self,
        switch: &mut dyn Switch,
        mode: &'static str,
        generator: &mut Generator,
        row: &Row,
        round: u32,
    ) -> anyhow::Result<()> {
        let before = self.probe_before()?;
        let Some(rate) = self.rate(row, before) else {
            self.last_probe = Some(before);
            return Ok(());
        };
        let copies = match row.kind {
            Kind::Tso => {
                let between = copy_between(self.core, self.worker_core, Duration::from_millis(40))?;
                Some((copy_bandwidth(self.worker_core, Duration::from_millis(20))?.b64k, between))
            }
            _ => None,
        };
        let load = load(row, rate, Payload::Whole);
        switch.check()?;
        let (report, work, contention) = {
            let _running = thaw(switch)?;
            switch.select(mode)?;
            let mut counting = Counting {
                switch,
                worker_core: self.worker_core,
                waited: Waited::default(),
                start: Instant::now(),
                contention: 0.0,
                work: Work::default(),
                failed: None,
            };
            let timing = Timing { warm: row.warm(self.timing.warm), ..self.timing };
            let report =
                session::measure(generator, &load, self.core, timing, &self.interrupt, &mut counting)?;
            if let Some(error) = counting.failed {
                return Err(error);
            }
            (report, counting.work, counting.contention)
        };
        if report.received.frames == 0 {
            bail!("{mode} forwarded nothing in row {}: {}", row.name(), switch.state());
        }
        let after = self.probe()?;
        // Switches count what they receive: a large send, or its segments.
        let pieces = match row.kind {
            Kind::Stream(Direction::Out) if switch.tso() => 1.0,
            Kind::Stream(_) | Kind::Segments(_) => f64::from(SEGMENTS),
            _ => 1.0,
        };
        let rate = if let Rate::PerSecond(rate) = rate { Some(rate) } else { None };
        let measured = Measured {
            row: row.name(),
            contestant: mode,
            round,
            report,
            contention,
            cycles_per_packet: work.cycles_per_packet().map(|cycles| cycles * pieces),
            rate,
            copies,
        };
        self.judge((before, after), measured);
        Ok(())
    }

    /// Keeps a sample if the cores stayed where they were and nobody else used them.
    fn judge(&mut self, (before, after): (Probe, Probe), m: Measured) {
        self.last_probe = Some(after);
        let at = self.start.elapsed().as_secs_f64();
        let pieces = m.pieces();
        let (name, contestant, report) = (m.row, m.contestant, m.report);
        let distance = match (before.distance(), after.distance()) {
            (Some(before), Some(after)) if before == after => before,
            _ => {
                self.rejected.moved += 1;
                let (before, after) = (before.round_trip_ns, after.round_trip_ns);
                eprintln!(
                    "[{at:5.0} s] {name:<22} {contestant:<18} cores moved ({before:.0}, {after:.0} ns): not counted"
                );
                return;
            }
        };
        if m.contention > BUSY && !self.accept_busy {
            self.rejected.busy += 1;
            let percent = m.contention * 100.0;
            eprintln!(
                "[{at:5.0} s] {name:<22} {contestant:<18} a core was busy with others ({percent:.0} %): not counted"
            );
            return;
        }
        let cycles = m.cycles_per_packet.map_or_else(String::new, |cycles| format!("{cycles:7.1} cyc"));
        eprintln!(
            "[{at:5.0} s] {name:<22} {contestant:<18} {distance} {cycles:>11} {:7.2} Mpps {:7.1} Gb/s  p50 {} p99 {} ns{}{}",
            report.mpps,
            report.gbps,
            report.latency.p50,
            report.latency.p99,
            pieces.map_or_else(String::new, |pieces| format!("  in {pieces:.1} pieces each")),
            if report.received.corrupt > 0 { "  CORRUPT FRAMES" } else { "" },
        );
        self.samples.push(Sample {
            row: name,
            contestant,
            distance,
            round_trip_ns: f64::midpoint(before.round_trip_ns, after.round_trip_ns),
            round: m.round,
            at_seconds: at,
            mpps: report.mpps,
            gbps: report.gbps,
            cycles_per_packet: m.cycles_per_packet,
            latency: report.latency,
            lost: report.received.lost,
            corrupt: report.received.corrupt,
            rate: m.rate,
            copy_gigabytes: m.copies.map(|copies| copies.0),
            copy_between_gigabytes: m.copies.map(|copies| copies.1),
            contention: m.contention,
            pieces,
        });
    }

    /// How fast to send; `None` when the rate derives from samples that are not there yet.
    fn rate(&self, row: &Row, probe: Probe) -> Option<Rate> {
        let Kind::Load(percent) = row.kind else { return Some(Rate::Max) };
        let distance = probe.distance()?;
        let base = Row { kind: Kind::Throughput, ..row.clone() }.name();
        let median = |contestant: &str| {
            let mpps = self
                .samples
                .iter()
                .filter(|s| s.row == base && s.contestant == contestant && s.distance == distance)
                .map(|s| s.mpps);
            Summary::of(mpps).map(|summary| summary.median)
        };
        let present = |contestant: &str| self.samples.iter().any(|s| s.contestant == contestant);
        let mut all = median(CEILING)? * CEILING_SHARE;
        for contestant in [TOWPATHD, "testpmd-io"] {
            if present(contestant) {
                all = all.min(median(contestant)?);
            }
        }
        Some(Rate::PerSecond(all * 1e6 * f64::from(percent) / 100.0))
    }
}

fn load(row: &Row, rate: Rate, payload: Payload) -> Load {
    let latency_every = match row.kind {
        Kind::OneInFlight => 1,
        _ => 16,
    };
    Load {
        sizes: row.sizes.clone(),
        flows: row.flows,
        answers: matches!(row.kind, Kind::Established | Kind::NewSessions),
        rate,
        in_flight: match row.kind {
            Kind::OneInFlight => Some(1),
            // As many as there are receive buffers for, when they arrive in segments.
            Kind::Stream(_) | Kind::Segments(_) => Some(STREAM_RING as usize / 64),
            _ => None,
        },
        senders: match row.kind {
            Kind::OneInFlight => Senders::First,
            Kind::OneWay(way) | Kind::Stream(way) | Kind::Segments(way) => match way {
                Direction::Out => Senders::First,
                Direction::In => Senders::Second,
            },
            _ => Senders::Both,
        },
        latency_every,
        payload,
    }
}

/// Descriptors of the rings for streams in a tunnel: as many as QEMU gives a guest at most.
const STREAM_RING: u16 = 1024;

/// `offloads`: whether this end of the pair has large sends.
fn attach_config(visit: &Visit, offloads: bool) -> AttachConfig {
    let longest = visit.rows.iter().map(|row| row.sizes.longest()).max().unwrap_or(1514);
    let tunnel = visit.scene == Scene::Tunnel;
    let streams = tunnel && longest > 1514;
    let longest = if streams && !offloads { 1514 } else { longest };
    let outer = if tunnel { OUTER as u32 } else { 0 };
    let ring_size = if streams { STREAM_RING } else { 256 };
    let layout: RingLayout = visit.layout;
    AttachConfig { layout, ring_size, longest: longest + outer, offloads, huge_pages: true }
}
