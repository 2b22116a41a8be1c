//! A step stays within its bound.

use super::{Checked, Violation};
use buf::{BURST_BYTES, BURST_PACKETS};
use switch::Progress;

/// The longest frame a ring takes, in bytes: a burst ends with the packet that fills it.
const FRAME_BYTES: u32 = virtqueue::MAX_FRAME as u32;

/// Packets that a worker may keep for queues it could not have, all of which may go in one step.
const KEPT: u64 = 512;

/// Checks what one step of one of `workers` workers did, which polls at most `queues` queues.
///
/// # Errors
///
/// More than one burst per poll, one poll per queue, 64 handovers per peer and what was kept.
pub fn check(progress: &Progress, queues: u64, workers: usize) -> Checked {
    let polls = u64::from(progress.polls);
    let bounds = [
        ("polls", polls, queues),
        ("packets", u64::from(progress.packets), polls * BURST_PACKETS as u64),
        ("bytes", u64::from(progress.bytes), polls * (BURST_BYTES as u64 + u64::from(FRAME_BYTES))),
        ("handovers", u64::from(progress.handovers), 64 * (workers as u64 - 1) + KEPT),
    ];
    match bounds.into_iter().find(|(_, done, bound)| done > bound) {
        None => Ok(()),
        Some((what, done, bound)) => {
            Err(Violation::new("work", format!("a step did {done} {what}, at most {bound}")))
        }
    }
}
