//! DPDK's testpmd over its vhost driver, forwarding between two ports without looking at packets.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use rustix::process::Pid;

use super::{
    process::Dialogue,
    switches::{Places, Switch, Work, number_after, text},
};
use crate::attach::Role;

/// A running testpmd.
pub(super) struct Testpmd {
    dialogue: Dialogue,
    sockets: [PathBuf; 2],
    arguments: Vec<String>,
    version: String,
    before: Work,
}

/// EAL arguments for a private DPDK process, its main thread and its polling thread on these cores.
pub(super) fn eal(places: &Places<'_>, (main, polling): (usize, usize), megabytes: u32) -> Vec<String> {
    let mut args = vec![
        "-v".to_string(),
        "--lcores".to_string(),
        format!("0@{main},1@{polling}"),
        "--main-lcore".to_string(),
        "0".to_string(),
        "--no-pci".to_string(),
        "--no-telemetry".to_string(),
        "--iova-mode".to_string(),
        "va".to_string(),
        "-m".to_string(),
        megabytes.to_string(),
    ];
    if places.huge_pages {
        args.push("--in-memory".to_string());
    } else {
        args.extend(["--no-huge".to_string(), "--no-shconf".to_string()]);
    }
    args
}

impl Testpmd {
    /// Starts it under a name of its own and waits until it forwards.
    ///
    /// # Errors
    ///
    /// When it does not come up, with the end of its output.
    pub(super) fn start(places: &Places<'_>, name: &str) -> anyhow::Result<Self> {
        let sockets = ["a", "b"].map(|end| places.folder.join(format!("{name}-{end}.sock")));
        let mut arguments = eal(places, (places.other_core, places.worker_core), 512);
        for (index, socket) in sockets.iter().enumerate() {
            arguments
                .extend(["--vdev".to_string(), format!("net_vhost{index},iface={},queues=1", text(socket))]);
        }
        let rest = "-- --interactive --nb-cores=1 --forward-mode=io --no-lsc-interrupt --disable-link-check --record-core-cycles --auto-start";
        arguments.extend(rest.split(' ').map(str::to_string));
        let log = places.folder.join(format!("{name}.log"));
        let mut dialogue = Dialogue::start(name, "dpdk-testpmd", &arguments, &log)
            .context("is the Debian package dpdk-dev installed?")?;
        dialogue.expect("packets/burst=", Duration::from_secs(60))?;
        let version = std::fs::read_to_string(&log)
            .unwrap_or_default()
            .lines()
            .find_map(|line| line.split("RTE Version: ").nth(1))
            .map_or_else(|| "DPDK".to_string(), |version| version.trim_matches('\'').to_string());
        Ok(Self { dialogue, sockets, arguments, version, before: Work::default() })
    }

    /// Totals since forwarding started.
    fn totals(&mut self) -> anyhow::Result<Work> {
        // The cycles come last and are missing while nothing was forwarded; what the second command says always comes.
        let text = self.dialogue.ask(&["show fwd stats all", "show port info 999"], "valid ports array")?;
        let total = text.find("Accumulated").and_then(|at| text.get(at..)).unwrap_or_default();
        Ok(Work {
            busy_cycles: number_after(total, "total cycles").unwrap_or(0.0),
            packets: number_after(total, "total io packets").unwrap_or(0.0),
        })
    }
}

impl Switch for Testpmd {
    fn description(&self) -> String {
        format!("{}: dpdk-testpmd {}", self.version, self.arguments.join(" "))
    }

    fn sockets(&self) -> [PathBuf; 2] {
        self.sockets.clone()
    }

    fn role(&self) -> Role {
        Role::Client
    }

    fn tso(&self) -> bool {
        false
    }

    fn modes(&self) -> &'static [&'static str] {
        &["testpmd-io"]
    }

    fn select(&mut self, _mode: &str) -> anyhow::Result<()> {
        Ok(())
    }

    fn pids(&self) -> Vec<Pid> {
        vec![self.dialogue.pid()]
    }

    fn check(&mut self) -> anyhow::Result<()> {
        self.dialogue.process().check()
    }

    fn state(&self) -> String {
        format!("it was started with {}", self.arguments.join(" "))
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        self.before = self.totals()?;
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<Work> {
        let now = self.totals()?;
        Ok(Work {
            busy_cycles: now.busy_cycles - self.before.busy_cycles,
            packets: now.packets - self.before.packets,
        })
    }
}
