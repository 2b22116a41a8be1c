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
use crate::huge_pages::HugePages;

/// Huge pages for guests and switches; a table of [`SESSIONS`](super::switches::SESSIONS) takes about as many.
const PAGES: u32 = 1024;

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
        let pages = if scene == Scene::Policy { 2 * PAGES } else { PAGES };
        let folder =
            tempfile::Builder::new().prefix("towpath-bench-").tempdir().context("making a private folder")?;
        Ok(Self { switches: Vec::new(), folder, huge_pages: HugePages::reserve(pages) })
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
