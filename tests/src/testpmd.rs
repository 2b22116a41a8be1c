//! DPDK's `dpdk-testpmd`: as a switch between two vhost-user ports, or as a guest of one (virtio-user). It runs without hugepages.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;

use crate::Result;
use crate::manifests::Port;
use crate::netns::Namespace;
use crate::process::Process;
use crate::scratch::Scratch;

/// Its start: all drivers are loaded and a memory pool is filled.
const START: Duration = Duration::from_secs(60);

/// Source and destination of the packets testpmd makes itself (RFC 2544's benchmark network, its default).
pub const TX_ADDRESSES: &str = "198.18.0.1,198.18.0.2";

/// A kind of ring, and the code path DPDK's driver takes with it.
#[derive(Clone, Copy, Debug)]
pub struct RingPath {
    /// Its name in DPDK's test plans.
    pub name: &'static str,
    /// Options of `net_virtio_user`.
    pub options: &'static str,
}

/// The ten paths every vhost test plan of DPDK walks.
pub const RING_PATHS: [RingPath; 10] = [
    RingPath { name: "split mergeable", options: "packed_vq=0,mrg_rxbuf=1,in_order=0" },
    RingPath { name: "split non-mergeable", options: "packed_vq=0,mrg_rxbuf=0,in_order=0" },
    RingPath { name: "split vector rx", options: "packed_vq=0,mrg_rxbuf=0,in_order=0,vectorized=1" },
    RingPath { name: "split in-order mergeable", options: "packed_vq=0,mrg_rxbuf=1,in_order=1" },
    RingPath { name: "split in-order non-mergeable", options: "packed_vq=0,mrg_rxbuf=0,in_order=1" },
    RingPath { name: "packed mergeable", options: "packed_vq=1,mrg_rxbuf=1,in_order=0" },
    RingPath { name: "packed non-mergeable", options: "packed_vq=1,mrg_rxbuf=0,in_order=0" },
    RingPath { name: "packed in-order mergeable", options: "packed_vq=1,mrg_rxbuf=1,in_order=1" },
    RingPath { name: "packed in-order non-mergeable", options: "packed_vq=1,mrg_rxbuf=0,in_order=1" },
    RingPath { name: "packed vectorized", options: "packed_vq=1,mrg_rxbuf=0,in_order=1,vectorized=1" },
];

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
            arguments: vec!["--auto-start".to_owned()],
        };
        Self::start(scratch, &config)
    }

    /// Two guests in one process, on two ports of a switch, with rings of a kind: what one receives, the other sends on, its own
    /// addresses in the Ethernet header, so that packets go round for ever once [`Testpmd::send_round`] made some.
    ///
    /// # Errors
    /// As [`Testpmd::start`].
    pub fn guests(scratch: &Scratch, name: &str, ports: [&Port; 2], path: &RingPath) -> Result<Self> {
        let device = |i: usize| {
            let Port { socket, mac, .. } = ports[i];
            format!(
                "net_virtio_user{i},path={},mac={mac},queues=1,queue_size=256,{}",
                socket.display(),
                path.options
            )
        };
        let peer = |i: usize| format!("--eth-peer={i},{}", ports[1 - i].mac);
        let config = TestpmdConfig {
            name: name.to_owned(),
            devices: vec![device(0), device(1)],
            mode: "mac".to_owned(),
            arguments: vec![peer(0), peer(1), format!("--tx-ip={TX_ADDRESSES}")],
        };
        Self::start(scratch, &config)
    }

    /// Let each of [`Testpmd::guests`] send `bursts` bursts of 32 packets, then pass on what they get.
    ///
    /// # Errors
    /// Testpmd is gone.
    pub fn send_round(&mut self, bursts: u32) -> Result<()> {
        self.ask(&format!("start tx_first {bursts}"), |said| {
            said.contains("packet forwarding - ports=").then_some(())
        })
    }

    /// [`Testpmd::send_round`] again.
    ///
    /// # Errors
    /// Testpmd is gone.
    pub fn send_another_round(&mut self, bursts: u32) -> Result<()> {
        self.ask("stop", |said| said.contains("Done.").then_some(()))?;
        self.send_round(bursts)
    }

    /// Packets each of the two ports has received.
    ///
    /// # Errors
    /// Testpmd is gone, or prints something we do not know.
    pub fn received(&mut self) -> Result<[u64; 2]> {
        self.ask("show port stats all", |said| {
            // A port's throughput is the last it prints of it.
            if said.matches("Tx-pps:").count() < 2 {
                return None;
            }
            let counts: Vec<u64> = said
                .lines()
                .filter_map(|line| {
                    line.trim().strip_prefix("RX-packets:")?.split_whitespace().next()?.parse().ok()
                })
                .collect();
            counts.try_into().ok()
        })
    }

    /// Start it and wait until it forwards.
    ///
    /// # Errors
    /// It ends or does not come up; its log is in the error.
    pub fn start(scratch: &Scratch, config: &TestpmdConfig) -> Result<Self> {
        Self::start_in(scratch, config, None)
    }

    /// [`Testpmd::start`] in a namespace.
    ///
    /// # Errors
    /// As [`Testpmd::start`].
    pub fn start_in(
        scratch: &Scratch,
        config: &TestpmdConfig,
        namespace: Option<&Namespace>,
    ) -> Result<Self> {
        // DPDK's own files of this process go into the scratch folder, whoever else runs DPDK.
        let run_directory = scratch.join(&format!("{}-dpdk", config.name));
        std::fs::create_dir_all(&run_directory)?;
        let mut command =
            namespace.map_or_else(|| Command::new("stdbuf"), |namespace| namespace.command("stdbuf"));
        command
            // Its answers are wanted line by line, though they go to a file.
            .args(["-oL", "dpdk-testpmd"])
            .env("RUNTIME_DIRECTORY", &run_directory)
            .args([
                "--lcores",
                "0@(0-1),1@(0-1)",
                "--no-pci",
                "--no-huge",
                "-m",
                "256",
                "--no-telemetry",
                "--force-max-simd-bitwidth=512",
            ])
            .args(["--file-prefix", &config.name]);
        for device in &config.devices {
            command.args(["--vdev", device]);
        }
        command
            .args(["--", "--interactive", "--total-num-mbufs=16384"])
            .args(["--forward-mode", &config.mode])
            .args(&config.arguments);
        let log = scratch.join(&format!("{}.testpmd", config.name));
        // A second life of the same name must not find the first one's words.
        let _ = std::fs::remove_file(&log);
        let mut process = Process::spawn_with(&config.name, &command, &log, Stdio::piped())?;
        process.until_log("testpmd> ", START)?;
        Ok(Self { process, _run_directory: run_directory })
    }

    /// Type a command at its prompt and look at what it writes after until `answer` finds something in it.
    ///
    /// # Errors
    /// It is gone, or does not write that in time.
    pub fn ask<T>(&mut self, command: &str, answer: impl Fn(&str) -> Option<T>) -> Result<T> {
        let before = self.process.log().len();
        let stdin = self.process.stdin().context("testpmd has a pipe to read")?;
        writeln!(stdin, "{command}").with_context(|| format!("type {command:?}"))?;
        stdin.flush()?;
        self.process.until(&format!("the answer to {command:?}"), START, |p| {
            Ok(p.log().get(before..).and_then(&answer))
        })
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
