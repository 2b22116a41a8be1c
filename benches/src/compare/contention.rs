//! Whether somebody else used the cores: time that threads of ours spent runnable but not running.
//!
//! `/proc/PID/task/TID/schedstat` holds nanoseconds on a core, nanoseconds waiting for one, and time slices
//! (Documentation/scheduler/sched-stats.rst). A sample during which the worker or the generator had to wait measured the
//! machine's other work too.

use std::{fs, path::Path};

use rustix::{process::Pid, thread::sched_getaffinity};

/// Waiting times at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Waited {
    worker: u64,
    own: u64,
}

impl Waited {
    /// Reads the waiting time of a switch's threads on `worker_core`, and of all threads of this process.
    pub(super) fn now(switch: &[Pid], worker_core: usize) -> Self {
        let on_worker = |thread: u32| {
            let pid = i32::try_from(thread).ok().and_then(Pid::from_raw);
            sched_getaffinity(pid).is_ok_and(|set| set.count() == 1 && set.is_set(worker_core))
        };
        let worker =
            switch.iter().map(|pid| sum(&format!("/proc/{}/task", pid.as_raw_nonzero()), on_worker)).sum();
        Self { worker, own: sum("/proc/self/task", |_| true) }
    }

    /// The larger share of `nanoseconds` that the worker or this process waited since.
    pub(super) fn share_until(self, after: Self, nanoseconds: f64) -> f64 {
        let worker = after.worker.saturating_sub(self.worker);
        let own = after.own.saturating_sub(self.own);
        worker.max(own) as f64 / nanoseconds
    }
}

fn sum(tasks: &str, wanted: impl Fn(u32) -> bool) -> u64 {
    let Ok(entries) = fs::read_dir(tasks) else { return 0 };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()).is_some_and(&wanted))
        .filter_map(|entry| waiting(&entry.path().join("schedstat")))
        .sum()
}

fn waiting(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_waiting_time_is_read_and_never_falls() {
        let before = Waited::now(&[], 0);
        let after = Waited::now(&[], 0);
        assert!(after.own >= before.own);
        assert!(waiting(Path::new("/proc/self/schedstat")).is_some());
        let share = Waited { worker: 10, own: 0 }.share_until(Waited { worker: 60, own: 20 }, 1000.0);
        assert!((share - 0.05).abs() < 1e-9);
    }
}
