//! While a guest is migrated, every page that the switch writes is marked in the dirty log (L-08).

use super::{Checked, Violation};
use guest_mem::DirtyLog;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Bytes of a page of the log.
const PAGE: u64 = 4096;

/// A migration of one guest that goes on.
#[derive(Debug)]
pub struct Migration {
    /// The guest.
    pub guest: usize,
    /// Until when.
    pub until: u64,
    /// The log, as the switch has it.
    pub log: Arc<DirtyLog>,
}

impl Migration {
    /// A log with a bit for each page below guest address `end`.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn new(guest: usize, until: u64, end: u64) -> anyhow::Result<Self> {
        let file = memfd_create("towpath-log", MemfdFlags::CLOEXEC)?;
        let size = (end / PAGE / 8 + 8).next_multiple_of(PAGE);
        ftruncate(&file, size)?;
        Ok(Self { guest, until, log: Arc::new(DirtyLog::map(file, 0, size)?) })
    }

    /// Compares with the bytes that the guest found written, by guest address and length.
    ///
    /// # Errors
    ///
    /// A page is not marked.
    pub fn check(&self, written: &[(u64, u32)]) -> Checked {
        let last = |(address, length): &(u64, u32)| address + u64::from((*length).max(1)) - 1;
        let pages: BTreeSet<u64> =
            written.iter().flat_map(|part| part.0 / PAGE..=last(part) / PAGE).collect();
        match pages.into_iter().find(|page| !self.log.is_marked(page * PAGE)) {
            None => Ok(()),
            Some(page) => {
                let what = format!(
                    "guest {}: the page at {:#x} was written and is not marked",
                    self.guest,
                    page * PAGE
                );
                Err(Violation::new("dirty log", what))
            }
        }
    }
}
