//! Waiting for an event that only shows itself by looking again.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::{Result, interrupt};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(20);

/// Look until `probe` gives something, an error, or the time is over.
///
/// # Errors
/// What `probe` failed with, or that `what` did not happen in time.
pub fn until<T>(what: &str, limit: Duration, probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until_every(INTERVAL, what, limit, probe)
}

/// [`until`] with `interval` between two looks, for what happens sooner.
///
/// # Errors
/// As [`until`].
pub fn until_every<T>(
    interval: Duration,
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begin = Instant::now();
    loop {
        interrupt::check()?;
        if let Some(value) = probe().with_context(|| format!("waiting for {what}"))? {
            return Ok(value);
        }
        if begin.elapsed() > limit {
            bail!("waited {} s for {what}", limit.as_secs_f32());
        }
        thread::sleep(interval);
    }
}
