//! Packets to a million addresses while some of them change.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use engine::Unobserved;
use serde::Serialize;
use switch::{TimeStampClock, UPLINK};

use super::{
    ScaleArgs,
    site::{PORT, Site},
};
use crate::{affinity, clock::Clock, in_process::InProcessError, session::Interrupt};

/// What became of them.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// Frames per second that get through without loss, in millions.
    highest_mpps: f64,
    /// Frames per second that were sent, in millions.
    sent_mpps: f64,
    /// Changes that took effect.
    changes: u64,
    /// Their rate.
    changes_per_second: f64,
    sent: u64,
    received: u64,
    /// Frames dropped by the switch, by reason.
    drops: Vec<(String, u64)>,
    lost: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.2} Mpps of at most {:.2} loss-free, {:.0} changes a second ({} in all): {} frames sent, {} lost {:?}: {}",
            self.sent_mpps,
            self.highest_mpps,
            self.changes_per_second,
            self.changes,
            self.sent,
            self.lost,
            self.drops,
            if self.lost == 0 { "PASS" } else { "MISS" }
        )
    }
}

const BURST: usize = 32;
/// How long the highest rate is looked for.
const SATURATED: Duration = Duration::from_secs(1);
/// Changes between two calls for what is no longer looked at.
const RECLAIM: u64 = 100;

/// Runs the worker on its core, and everything else here.
pub(super) fn run(
    site: &mut Site,
    args: &ScaleArgs,
    clock: Clock,
    interrupt: &Interrupt,
) -> Result<Report, InProcessError> {
    let mut worker =
        site.worker.take().ok_or_else(|| InProcessError::Broken("the worker is away".to_string()))?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let switching = scope.spawn(|| {
            affinity::pin(args.worker_core)?;
            while !stop.load(Ordering::Relaxed) {
                worker.step(0, &mut TimeStampClock, &mut Unobserved);
            }
            Ok::<(), InProcessError>(())
        });
        let report = drive(site, args, clock, interrupt);
        stop.store(true, Ordering::Relaxed);
        switching
            .join()
            .unwrap_or_else(|_| Err(InProcessError::Broken("the worker panicked".to_string())))?;
        report
    })
}

fn drive(
    site: &mut Site,
    args: &ScaleArgs,
    clock: Clock,
    interrupt: &Interrupt,
) -> Result<Report, InProcessError> {
    let saturated = send(site, args, clock, interrupt, (f64::INFINITY, SATURATED, 0))?;
    if saturated.received == 0 {
        return Err(InProcessError::Broken("no packet got through before the first change".to_string()));
    }
    let highest = saturated.received as f64 / SATURATED.as_secs_f64();
    let rate = highest * f64::from(args.load) / 100.0;
    let report = send(site, args, clock, interrupt, (rate, args.time, args.changes))?;
    Ok(Report { highest_mpps: highest / 1e6, ..report })
}

/// Sends at a rate for a time, while so many changes per second are made.
fn send(
    site: &mut Site,
    args: &ScaleArgs,
    clock: Clock,
    interrupt: &Interrupt,
    (rate, time, changes): (f64, Duration, u32),
) -> Result<Report, InProcessError> {
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
        let count = due.saturating_sub(sent).min(BURST as u64) as usize;
        if count == BURST {
            sent += site.guest.send(count)? as u64;
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
    let patience = cpu::time_stamp() + clock.ticks(Duration::from_millis(200));
    while site.wire.received - before.0 < sent && cpu::time_stamp() < patience {
        site.wire.receive()?;
    }
    let received = site.wire.received - before.0;
    let dropped = drops(site).into_iter().filter_map(|(reason, count)| {
        let earlier = before.1.iter().find(|(other, _)| *other == reason).map_or(0, |(_, count)| *count);
        (count > earlier).then(|| (reason, count - earlier))
    });
    Ok(Report {
        highest_mpps: 0.0,
        sent_mpps: sent as f64 / seconds / 1e6,
        changes: changed,
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
