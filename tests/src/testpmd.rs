//! DPDK's `dpdk-testpmd`: as a switch between two vhost-user ports, or as a guest of one (virtio-user). It runs without hugepages.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;

use crate::Result;
use crate::process::Process;
use crate::scratch::Scratch;

/// Its start: all drivers are loaded and a memory pool is filled.
const START: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Clone, Debug)]
pub struct TestpmdConfig {
    /// A name for this process, for its files and DPDK's.
    pub name: String,
    /// Virtual devices, as `--vdev` takes them.
    pub devices: Vec<String>,
    /// Forwarding mode: `io`, `mac`, `txonly`, `rxonly`, ...
    pub mode: String,
    /// More arguments after `--`.
    pub arguments: Vec<String>,
}

/// A running testpmd, forwarding, at its prompt.
#[derive(Debug)]
pub struct Testpmd {
    process: Process,
    _run_directory: PathBuf,
}

impl Testpmd {
    /// A switch between two vhost-user sockets that it opens: what comes in by one goes out by the other.
    ///
    /// # Errors
    /// As [`Testpmd::start`].
    pub fn switch(scratch: &Scratch, name: &str, sockets: [&Path; 2]) -> Result<Self> {
        for socket in sockets {
            // DPDK does not take over what a killed process left.
            if socket.exists() {
                std::fs::remove_file(socket).with_context(|| format!("remove {}", socket.display()))?;
            }
        }
        let device = |i: usize| format!("net_vhost{i},iface={},queues=1", sockets[i].display());
        let config = TestpmdConfig {
            name: name.to_owned(),
            devices: vec![device(0), device(1)],
            mode: "io".to_owned(),
            arguments: Vec::new(),
        };
        Self::start(scratch, &config)
    }

    /// Start it and wait until it forwards.
    ///
    /// # Errors
    /// It ends or does not come up; its log is in the error.
    pub fn start(scratch: &Scratch, config: &TestpmdConfig) -> Result<Self> {
        // DPDK's own files of this process go into the scratch folder, whoever else runs DPDK.
        let run_directory = scratch.join(&format!("{}-dpdk", config.name));
        std::fs::create_dir_all(&run_directory)?;
        let mut command = Command::new("dpdk-testpmd");
        command
            .env("RUNTIME_DIRECTORY", &run_directory)
            .args(["--lcores", "0@(0-1),1@(0-1)", "--no-pci", "--no-huge", "-m", "256", "--no-telemetry"])
            .args(["--file-prefix", &config.name]);
        for device in &config.devices {
            command.args(["--vdev", device]);
        }
        command
            .args(["--", "--interactive", "--auto-start", "--total-num-mbufs=16384"])
            .args(["--forward-mode", &config.mode])
            .args(&config.arguments);
        let log = scratch.join(&format!("{}.testpmd", config.name));
        // A second life of the same name must not find the first one's words.
        let _ = std::fs::remove_file(&log);
        let mut process = Process::spawn_with(&config.name, &command, &log, Stdio::piped())?;
        process.until_log("testpmd> ", START)?;
        Ok(Self { process, _run_directory: run_directory })
    }

    /// Type a command at its prompt and wait until `answer` appears in what it writes after.
    ///
    /// # Errors
    /// It is gone, or does not write that in time.
    pub fn ask(&mut self, command: &str, answer: &str) -> Result<String> {
        let before = self.process.log().len();
        let stdin = self.process.stdin().context("testpmd has a pipe to read")?;
        writeln!(stdin, "{command}").with_context(|| format!("type {command:?}"))?;
        stdin.flush()?;
        self.process.until(&format!("{answer:?} after {command:?}"), START, |p| {
            let log = p.log();
            let after = log.get(before..).unwrap_or_default();
            Ok(after.contains(answer).then(|| after.to_owned()))
        })
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
