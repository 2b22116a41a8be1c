//! Packets to a million addresses while some of them change.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::bail;
use engine::Unobserved;
use serde::Serialize;
use switch::{TimeStampClock, UPLINK, Worker};

use super::{
    ScaleArgs,
    site::{BUFFERS, PORT, Site},
};
use crate::{affinity, clock::Clock, session::Interrupt};

/// What became of them.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// Frames per second that get through without loss, in millions: as many as go with [`UNDER_WAY`] frames between guest and wire.
    highest_mpps: f64,
    /// Frames per second that were to be sent, and that were, in millions.
    wanted_mpps: f64,
    sent_mpps: f64,
    /// Changes that took effect.
    changes: u64,
    /// Their rate, wanted and reached.
    changes_wanted: u32,
    changes_per_second: f64,
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Frames dropped by the switch, by reason.
    drops: Vec<(String, u64)>,
    pub(super) lost: u64,
}

/// Share of what was to be sent and changed that must have been.
const REACHED: f64 = 0.99;

impl Report {
    /// Nothing was lost, at the load and the changes wanted.
    pub(super) fn passes(&self) -> bool {
        self.lost == 0
            && self.drops.is_empty()
            && self.sent_mpps >= REACHED * self.wanted_mpps
            && self.changes_per_second >= REACHED * f64::from(self.changes_wanted)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.2} Mpps ({:.2} wanted, at most {:.2} go without loss) while {:.0} changes a second ({} wanted) took effect, {} in all: \
             {} frames sent, {} received, {} lost {:?}: {}",
            self.sent_mpps,
            self.wanted_mpps,
            self.highest_mpps,
            self.changes_per_second,
            self.changes_wanted,
            self.changes,
            self.sent,
            self.received,
            self.lost,
            self.drops,
            if self.passes() { "PASS" } else { "MISS" }
        )
    }
}

const BURST: usize = 32;
/// Frames between guest and wire, at most: with fewer than the wire has buffers none is lost for want of them, also while the one core that guest,
/// wire and control side have is busy with a change.
const UNDER_WAY: u64 = BUFFERS as u64 - BURST as u64;
/// How long the highest rate is looked for.
const SATURATED: Duration = Duration::from_secs(1);
/// Changes between two calls for what is no longer looked at.
const RECLAIM: u64 = 100;

/// Does something while `worker` runs on `core`. From its first step to its last a worker stays on one thread: its queues know it by that.
pub(super) fn beside<T>(
    mut worker: Worker,
    core: usize,
    act: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let switching = scope.spawn(|| {
            affinity::pin(core)?;
            while !stop.load(Ordering::Relaxed) {
                // Nothing here looks at the time.
                worker.step(0, &mut TimeStampClock, &mut Unobserved);
            }
            anyhow::Ok(())
        });
        let done = act();
        stop.store(true, Ordering::Relaxed);
        switching.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the worker panicked")))?;
        done
    })
}

/// Finds the highest rate, then sends at a share of it while endpoints move.
pub(super) fn run(
    site: &mut Site,
    args: &ScaleArgs,
    clock: Clock,
    interrupt: &Interrupt,
) -> anyhow::Result<Report> {
    let saturated = send(site, args, clock, interrupt, (f64::INFINITY, SATURATED, 0))?;
    if saturated.received == 0 || saturated.lost > 0 {
        bail!(
            "without changes {} of {} frames got through: {:?}",
            saturated.received,
            saturated.sent,
            saturated.drops
        );
    }
    let highest = saturated.sent_mpps;
    let wanted = highest * f64::from(args.load) / 100.0;
    let report = send(site, args, clock, interrupt, (wanted * 1e6, args.time, args.changes))?;
    if report.received == 0 {
        bail!("no frame got through while endpoints moved: {:?}", report.drops);
    }
    Ok(Report { highest_mpps: highest, wanted_mpps: wanted, changes_wanted: args.changes, ..report })
}

/// Sends at a rate for a time, while so many changes per second are made.
fn send(
    site: &mut Site,
    args: &ScaleArgs,
    clock: Clock,
    interrupt: &Interrupt,
    (rate, time, changes): (f64, Duration, u32),
) -> anyhow::Result<Report> {
    let before = (site.wire.received, drops(site));
    let start = cpu::time_stamp();
    let end = start + clock.ticks(time);
    let (mut sent, mut changed) = (0u64, 0u64);
    loop {
        let now = cpu::time_stamp();
        if now >= end || interrupt.is_set() {
            break;
        }
        let seconds = (now - start) as f64 / clock.hertz();
        site.wire.receive()?;
        let due = if rate.is_finite() { (seconds * rate) as u64 } else { u64::MAX };
        let under_way = sent - (site.wire.received - before.0);
        if due.saturating_sub(sent) >= BURST as u64 && under_way + BURST as u64 <= UNDER_WAY {
            sent += site.guest.send(BURST)? as u64;
        }
        if changed < (seconds * f64::from(changes)) as u64 {
            let change = site.moves((changed as u32).wrapping_mul(7919) % args.endpoints);
            site.apply(vec![change]);
            changed += 1;
            if changed.is_multiple_of(RECLAIM) {
                site.reclaim();
            }
        }
    }
    let seconds = (cpu::time_stamp() - start) as f64 / clock.hertz();
    site.receive_until(before.0 + sent)?;
    let received = site.wire.received - before.0;
    let dropped = drops(site).into_iter().filter_map(|(reason, count)| {
        let earlier = before.1.iter().find(|(other, _)| *other == reason).map_or(0, |(_, count)| *count);
        (count > earlier).then(|| (reason, count - earlier))
    });
    Ok(Report {
        highest_mpps: 0.0,
        wanted_mpps: 0.0,
        sent_mpps: sent as f64 / seconds / 1e6,
        changes: changed,
        changes_wanted: changes,
        changes_per_second: changed as f64 / seconds,
        sent,
        received,
        drops: dropped.collect(),
        lost: sent.saturating_sub(received),
    })
}

fn drops(site: &Site) -> Vec<(String, u64)> {
    [PORT, UPLINK]
        .into_iter()
        .filter_map(|port| site.control.counters(port))
        .flat_map(|counters| counters.drops)
        .map(|(reason, count)| (format!("{reason:?}"), count))
        .collect()
}
