//! Huge pages for as long as a measurement takes.

use std::fs;

const HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";

/// Huge pages reserved by this process are given back when it ends.
pub(crate) struct HugePages {
    before: Option<u32>,
    /// Whether there are any.
    pub(crate) available: bool,
}

impl HugePages {
    /// Reserves what is missing, as root, and says so.
    #[must_use]
    pub(crate) fn reserve(wanted: u32) -> Self {
        let read = || {
            fs::read_to_string(HUGE_PAGES).ok().and_then(|text| text.trim().parse::<u32>().ok()).unwrap_or(0)
        };
        let have = read();
        if have >= wanted {
            return Self { before: None, available: true };
        }
        if fs::write(HUGE_PAGES, wanted.to_string()).is_err() {
            eprintln!(
                "huge pages: {have} reserved, and only root can reserve more; DPDK runs slower without"
            );
            return Self { before: None, available: have >= wanted };
        }
        let now = read();
        eprintln!("huge pages: reserved {now} of 2 MiB for this run (there were {have})");
        Self { before: Some(have), available: now >= wanted }
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if let Some(before) = self.before
            && fs::write(HUGE_PAGES, before.to_string()).is_err()
        {
            eprintln!("huge pages: could not give them back: sysctl vm.nr_hugepages={before}");
        }
    }
}
