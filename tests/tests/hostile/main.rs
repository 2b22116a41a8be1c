//! The hostile cases of rings, messages, lifecycle, packets and tunnels against the real daemon, each once on every layout that it concerns. What a case is
//! and the oracle that judges it: `towpath_tests::hostile`. Which case is tested where else: docs/hostile-cases.md.

#![expect(clippy::indexing_slicing, reason = "a test fails by panicking, its helpers too")]

mod catalogue;
mod claims;
mod frames;
mod lifecycle;
mod long;
mod memory;
mod messages;
mod notify;
mod packets;
mod queues;
mod races;
mod receive;
mod rules;
mod transmit;
mod tunnelled;

use towpath_tests::Result;
use towpath_tests::hostile::stage::{Attack, Must};

/// One chain refused.
pub(crate) const BAD_CHAIN: Must<'static> = Must::Count(&[("bad_chain", 1)]);
/// One receive buffer refused.
pub(crate) const BAD_BUFFER: Must<'static> = Must::Count(&[("bad_buffer", 1)]);
/// One queue stopped.
pub(crate) const STOP: Must<'static> = Must::Count(&[("ring_corrupt", 1)]);

/// How many times longer repetitions are than usually: `TOWPATH_LONG`, which `make test-long` sets; 1 without.
pub(crate) fn longer() -> u64 {
    std::env::var("TOWPATH_LONG").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// The attacked queue is stopped, and the port's status says so.
pub(crate) fn stopped(attack: &mut Attack<'_>) -> Result<()> {
    attack.stage.until_phase(&attack.port, "Connected")?;
    let status = attack.stage.daemon().port(&attack.port.name)?["status"].take();
    let reason = status["reason"].as_str().unwrap_or_default();
    anyhow::ensure!(reason.starts_with("QueueBroken"), "{status}");
    Ok(())
}
