//! At the end everything is back where it came from.

use super::{Checked, Violation};
use guest_mem::GuestMemory;
use std::sync::Weak;

/// Checks the pool and the mappings of guests that are gone.
///
/// # Errors
///
/// Something is missing, or still there.
pub fn check(pool: (usize, usize), gone: &[Weak<GuestMemory>]) -> Checked {
    let (available, capacity) = pool;
    if available != capacity {
        return Err(Violation::new("leaks", format!("{available} of {capacity} pool pieces are free")));
    }
    let kept = gone.iter().filter(|memory| memory.strong_count() > 0).count();
    if kept > 0 {
        return Err(Violation::new(
            "leaks",
            format!("{kept} memory maps of guests that are gone are still held"),
        ));
    }
    Ok(())
}
