//! `towpath-bench compare --cross-check`: this generator against testpmd's, on the same kind of switch.
//!
//! Two equal testpmds forward: one between this generator's guests, one between the foreign generator's. They take turns
//! between probes like the contestants of a comparison. The switch's own cycles per packet must not depend on who sends.

use std::time::{Duration, Instant};

use anyhow::bail;
use rustix::process::{Signal, kill_process};
use virtio_driver::RingLayout;

use super::{
    CompareArgs,
    contention::Waited,
    foreign::Foreign,
    lab::{Lab, confine},
    sampler::{BUSY, PATIENCE, PROBE, SETTLE, Thawed, WARM, thaw},
    statistics::Summary,
    switches::{Scene, Switch, freeze},
    testpmd::Testpmd,
};
use crate::{
    affinity,
    attach::AttachConfig,
    clock::Clock,
    frame::{Endpoint, Payload, Sizes},
    generator::{Control, Generator, Load, Phase, Rate, Senders},
    probe::{Distance, Probe, ping_pong},
    session::{self, Interrupt},
};

/// Cycles per packet may differ by this share.
const AGREEMENT: f64 = 0.15;

/// The foreign generator writes its frames' bytes (`net_pcap` copies each into a fresh buffer) but reads none of those that arrive, so it is
/// compared with ours doing the same. What it costs the switch more when they are read, because their lines are then with the guest's
/// core when they are written next, is shown beside it and not judged.
const ROWS: [(RingLayout, &str, Payload); 8] = [
    (RingLayout::Split, "64", Payload::Unread),
    (RingLayout::Split, "64", Payload::Whole),
    (RingLayout::Split, "1518", Payload::Unread),
    (RingLayout::Split, "1518", Payload::Whole),
    (RingLayout::Packed, "64", Payload::Unread),
    (RingLayout::Packed, "64", Payload::Whole),
    (RingLayout::Packed, "1518", Payload::Unread),
    (RingLayout::Packed, "1518", Payload::Whole),
];

/// One turn: cycles per packet and millions of packets per second.
#[derive(Clone, Copy)]
struct Turn {
    distance: Distance,
    cycles: f64,
    mpps: f64,
}

struct Bench<'a> {
    args: &'a CompareArgs,
    interrupt: &'a Interrupt,
    clock: Clock,
}

/// Runs the check.
///
/// # Errors
///
/// When testpmd does not come up, or the generators disagree.
pub(super) fn run(args: &CompareArgs, interrupt: &Interrupt) -> anyhow::Result<()> {
    let bench = Bench { args, interrupt, clock: Clock::calibrate() };
    let end = Instant::now() + args.budget.unwrap_or(Duration::from_secs(180));
    let mut lab = Lab::empty(Scene::Plain)?;
    for name in ["ours", "foreign"] {
        let places = lab.places(args.core, args.worker_core, Scene::Plain, &[]);
        let switch: Box<dyn Switch> = Box::new(Testpmd::start(&places, name)?);
        confine(switch.as_ref(), args)?;
        freeze(switch.as_ref(), true)?;
        lab.switches.push(switch);
    }
    affinity::pin(args.core)?;
    let mut agreed = true;
    for (done, (layout, size, payload)) in ROWS.iter().enumerate() {
        let left = end.saturating_duration_since(Instant::now()) / (ROWS.len() - done) as u32;
        let row = (*layout, size.parse().unwrap_or_default(), *payload);
        let agrees = bench.row(&mut lab, row, Instant::now() + left)?;
        agreed &= agrees || *payload != Payload::Unread;
    }
    if !agreed {
        bail!(
            "the generators disagree by more than {:.0} %, or no turns could be compared",
            AGREEMENT * 100.0
        );
    }
    Ok(())
}

impl Bench<'_> {
    fn row(
        &self,
        lab: &mut Lab,
        (layout, sizes, payload): (RingLayout, Sizes, Payload),
        end: Instant,
    ) -> anyhow::Result<bool> {
        const FLOWS: u32 = 1000;
        let sizes = &sizes;
        let places = lab.places(self.args.core, self.args.worker_core, Scene::Plain, &[]);
        let [mine, theirs] = &lab.switches[..] else { bail!("two switches are needed") };
        let mut foreign = {
            let _running = thaw(theirs.as_ref())?;
            Foreign::start(&places, theirs.as_ref(), layout, sizes, FLOWS)?
        };
        kill_process(foreign.pid(), Signal::STOP)?;
        let config = AttachConfig {
            layout,
            ring_size: 256,
            longest: sizes.longest(),
            offloads: false,
            huge_pages: true,
        };
        let mut generator = {
            let _running = thaw(mine.as_ref())?;
            let endpoints = [Endpoint::numbered(0), Endpoint::numbered(1)];
            let guests = session::attach(&mine.sockets(), &endpoints, mine.role(), &config, PATIENCE)?;
            Generator::new(guests, self.clock)?
        };
        let load = Load {
            sizes: sizes.clone(),
            flows: FLOWS,
            answers: false,
            rate: Rate::Max,
            in_flight: None,
            senders: Senders::Both,
            latency_every: 16,
            payload,
        };
        let mut turns = Vec::new();
        while Instant::now() < end && turns.len() < 40 {
            let [mine, theirs] = &mut lab.switches[..] else { break };
            let ours = self.turn(mine.as_mut(), &[], |time| self.ours(&mut generator, &load, time))?;
            let pid = [foreign.pid()];
            let theirs = self.turn(theirs.as_mut(), &pid, |time| {
                std::thread::sleep(WARM);
                foreign.delivered_mpps(time)
            })?;
            if let (Some(ours), Some(theirs)) = (ours, theirs)
                && ours.distance == theirs.distance
            {
                turns.push((ours, theirs));
            }
        }
        if let Some(mine) = lab.switches.first() {
            let _running = thaw(mine.as_ref())?;
            for guest in generator.into_guests() {
                guest.detach()?;
            }
        }
        // The foreign generator goes without a word; its switch must run to notice.
        drop(foreign);
        if let Some(theirs) = lab.switches.last() {
            let _running = thaw(theirs.as_ref())?;
            self.interrupt.sleep(Duration::from_millis(200))?;
        }
        Ok(verdict(layout, sizes, payload, &turns))
    }

    fn ours(&self, generator: &mut Generator, load: &Load, time: Duration) -> anyhow::Result<f64> {
        let control = Control::default();
        std::thread::scope(|scope| {
            let running = scope.spawn(|| {
                affinity::pin(self.args.core)?;
                Ok::<_, session::SessionError>(generator.run(load, &control)?)
            });
            std::thread::sleep(WARM);
            control.enter(Phase::Measure);
            std::thread::sleep(time);
            control.enter(Phase::Stop);
            let report = running.join().map_err(|_| session::SessionError::Panicked)??;
            Ok(report.mpps)
        })
    }

    /// One turn of a switch with whoever sends; `None` when the cores moved or were busy.
    fn turn(
        &self,
        switch: &mut dyn Switch,
        others: &[rustix::process::Pid],
        send: impl FnOnce(Duration) -> anyhow::Result<f64>,
    ) -> anyhow::Result<Option<Turn>> {
        self.interrupt.sleep(SETTLE)?;
        let probe =
            || -> std::io::Result<Probe> { ping_pong((self.args.core, self.args.worker_core), PROBE) };
        let before = probe()?;
        switch.check()?;
        let (mpps, work, contention) = {
            let _running = thaw(switch)?;
            let _others = Thawed::continued(others)?;
            switch.begin()?;
            let (waited, start) = (Waited::now(&switch.pids(), self.args.worker_core), Instant::now());
            let mpps = send(self.args.sample)?;
            let now = Waited::now(&switch.pids(), self.args.worker_core);
            (mpps, switch.end()?, waited.share_until(now, start.elapsed().as_nanos() as f64))
        };
        std::thread::sleep(SETTLE);
        let after = probe()?;
        let busy = contention > BUSY && !self.args.accept_busy;
        let turn = match (before.distance(), after.distance(), work.cycles_per_packet()) {
            (Some(before), Some(after), Some(cycles)) if before == after && !busy => {
                Some(Turn { distance: before, cycles, mpps })
            }
            _ => None,
        };
        Ok(turn)
    }
}

fn verdict(layout: RingLayout, sizes: &Sizes, payload: Payload, turns: &[(Turn, Turn)]) -> bool {
    let mut agreed = !turns.is_empty();
    if turns.is_empty() {
        println!("MISS {layout:?} {sizes} {payload:?}: no two turns at the same distance with free cores");
    }
    for distance in [Distance::Near, Distance::Far] {
        let of = |value: fn(&(Turn, Turn)) -> f64| {
            Summary::of(turns.iter().filter(|(ours, _)| ours.distance == distance).map(value))
        };
        let (Some(cycles), Some(mpps)) = (of(|(a, b)| a.cycles / b.cycles), of(|(a, b)| a.mpps / b.mpps))
        else {
            continue;
        };
        let text = |value: fn(&(Turn, Turn)) -> f64, decimals| {
            of(value).map_or_else(String::new, |summary| summary.text(decimals))
        };
        let pass = (cycles.median - 1.0).abs() <= AGREEMENT;
        agreed &= pass;
        println!(
            "{} {layout:?} {sizes} payload {payload:?} {distance}: cycles/packet {} with ours, {} with testpmd's, ratio {}; Mpps {} and {}, ratio {}",
            match (pass, payload == Payload::Unread) {
                (true, _) => "PASS",
                (false, true) => "MISS",
                (false, false) => "note",
            },
            text(|(ours, _)| ours.cycles, 1),
            text(|(_, theirs)| theirs.cycles, 1),
            cycles.text(2),
            text(|(ours, _)| ours.mpps, 2),
            text(|(_, theirs)| theirs.mpps, 2),
            mpps.text(2),
        );
    }
    agreed
}
