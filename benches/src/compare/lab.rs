//! The place where the switches run: huge pages, a private folder, the processes. All of it goes when it is dropped.

use std::{fs, path::Path};

use anyhow::Context;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tempfile::TempDir;

use super::{
    CompareArgs, System,
    ovs::OpenVswitch,
    switches::{Places, Scene, Switch, freeze},
    testpmd::Testpmd,
    towpathd::Towpathd,
};

const HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";
/// For guests and switches; a table of [`SESSIONS`](super::switches::SESSIONS) takes about as many.
const HUGE_PAGES_WANTED: u32 = 1024;

/// Huge pages reserved by this process are given back when it ends.
pub(super) struct HugePages {
    before: Option<u32>,
    /// Whether there are any.
    pub(super) available: bool,
}

impl HugePages {
    /// Reserves what is missing, as root, and says so.
    #[must_use]
    pub(super) fn reserve(scene: Scene) -> Self {
        let wanted = if scene == Scene::Policy { 2 * HUGE_PAGES_WANTED } else { HUGE_PAGES_WANTED };
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

/// Everything that runs. Fields drop in this order: processes, then their folder, then the pages.
pub(super) struct Lab {
    /// The switches, frozen.
    pub(super) switches: Vec<Box<dyn Switch>>,
    folder: TempDir,
    huge_pages: HugePages,
}

impl Lab {
    /// An empty lab.
    ///
    /// # Errors
    ///
    /// When no folder can be made.
    pub(super) fn empty(scene: Scene) -> anyhow::Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("towpath-bench-").tempdir().context("making a private folder")?;
        Ok(Self { switches: Vec::new(), folder, huge_pages: HugePages::reserve(scene) })
    }

    /// Where switches are to live.
    #[must_use]
    pub(super) fn places<'a>(
        &'a self,
        core: usize,
        worker_core: usize,
        scene: Scene,
        ovs_config: &'a [String],
    ) -> Places<'a> {
        Places {
            folder: self.folder.path(),
            worker_core,
            other_core: core,
            huge_pages: self.huge_pages.available,
            scene,
            ovs_config,
        }
    }

    /// Starts all systems asked for and freezes them.
    ///
    /// # Errors
    ///
    /// When one does not come up.
    pub(super) fn open(args: &CompareArgs) -> anyhow::Result<Self> {
        let mut lab = Self::empty(args.scene())?;
        // testpmd has neither tunnels nor rules.
        let plain = args.scene() == Scene::Plain;
        for system in args.systems.iter().filter(|system| plain || **system != System::Testpmd) {
            let places = lab.places(args.core, args.worker_core, args.scene(), &args.ovs_config);
            eprintln!("starting {system:?}");
            let switch: Box<dyn Switch> = match system {
                System::Towpathd => Box::new(Towpathd::start(&places, &args.binaries)?),
                System::Testpmd => Box::new(Testpmd::start(&places, "testpmd")?),
                System::Ovs => Box::new(OpenVswitch::start(&places)?),
            };
            confine(switch.as_ref(), args)?;
            freeze(switch.as_ref(), true)?;
            lab.switches.push(switch);
        }
        Ok(lab)
    }

    /// What ran.
    #[must_use]
    pub(super) fn descriptions(&self) -> Vec<String> {
        self.switches.iter().map(|switch| switch.description()).collect()
    }
}

/// Moves every thread that is not pinned to the worker's core to the other one.
pub(super) fn confine(switch: &dyn Switch, args: &CompareArgs) -> anyhow::Result<()> {
    for pid in switch.pids() {
        let tasks = format!("/proc/{}/task", pid.as_raw_nonzero());
        for entry in fs::read_dir(Path::new(&tasks)).with_context(|| tasks.clone())? {
            let name = entry?.file_name();
            let thread =
                name.to_str().and_then(|name| name.parse().ok()).and_then(rustix::thread::Pid::from_raw);
            // A thread that ended meanwhile needs no core.
            let Ok(set) = sched_getaffinity(thread) else { continue };
            if set.count() == 1 && set.is_set(args.worker_core) {
                continue;
            }
            let mut other = CpuSet::new();
            other.set(args.core);
            let _ended = sched_setaffinity(thread, &other);
        }
    }
    Ok(())
}
