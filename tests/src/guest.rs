//! A QEMU guest under software emulation, attached to a switch over vhost-user.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::image::GuestImage;
use crate::manifests::Port;
use crate::process::{Process, tail};
use crate::qmp::Qmp;
use crate::scratch::Scratch;
use crate::{Result, wait};

/// A boot takes about 4 s on an idle core; a shared one takes its time.
pub const BOOT: Duration = Duration::from_secs(90);

/// How long QEMU may take to open its sockets, or to end.
const SHORT: Duration = Duration::from_secs(20);

/// The kernel's command line. An emulated timer on a busy host may fail the kernel's test of it.
const KERNEL: &str =
    "console=ttyS0 loglevel=5 panic=-1 nokaslr no_timer_check mitigations=off random.trust_cpu=on";

/// One network card of a guest.
#[derive(Clone, Debug)]
pub struct Nic {
    /// The vhost-user socket.
    pub socket: PathBuf,
    /// QEMU's end: it connects (and connects again) to a switch that listens, or the other way round.
    pub end: VhostUserEnd,
    /// The card's address, as the guest sees it.
    pub mac: String,
    /// Queue pairs; the guest gets as many processors.
    pub queue_pairs: u16,
    /// More properties of `virtio-net-pci`, such as `packed=on`.
    pub properties: String,
    /// Addresses with their prefix length.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// Which end of the socket QEMU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VhostUserEnd {
    /// QEMU connects, and again a second after the connection is lost.
    Client,
    /// QEMU listens.
    Server,
}

/// What QEMU does when its guest reboots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterReboot {
    /// It ends.
    End,
    /// It lets the guest boot again.
    Boot,
}

/// Where a guest's addresses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// The test gives them; router advertisements are not listened to.
    Given,
    /// DHCP and router advertisements: [`Guest::lease`], [`Guest::await_router`]. Debian's busybox has no DHCPv6: the IPv6 address is given.
    Asked,
}

/// What a guest is made of.
#[derive(Clone, Debug)]
pub struct GuestConfig {
    /// Its name, in messages and file names.
    pub name: String,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// What QEMU does when the guest reboots or crashes.
    pub after_reboot: AfterReboot,
    /// Its network cards: `eth0`, `eth1`, ...
    pub nics: Vec<Nic>,
    /// Where their addresses come from.
    pub addressing: Addressing,
}

impl GuestConfig {
    /// A guest with one card, as its port expects it.
    #[must_use]
    pub fn on_port(name: &str, port: &Port) -> Self {
        let prefix = |address: &IpAddr| if address.is_ipv6() { 64 } else { 24 };
        Self {
            name: name.to_owned(),
            memory_mib: 192,
            after_reboot: AfterReboot::End,
            nics: vec![Nic {
                socket: port.socket.clone(),
                end: if port.role == "server" { VhostUserEnd::Client } else { VhostUserEnd::Server },
                mac: port.mac.clone(),
                queue_pairs: 1,
                properties: String::new(),
                addresses: port.ips.iter().map(|address| (*address, prefix(address))).collect(),
            }],
            addressing: Addressing::Given,
        }
    }

    /// The same, asking for its addresses.
    #[must_use]
    pub fn asking(mut self) -> Self {
        self.addressing = Addressing::Asked;
        self
    }

    /// The same with its only card on another socket: where it is migrated to.
    #[must_use]
    pub fn on_socket(mut self, socket: &Path) -> Self {
        for nic in &mut self.nics {
            socket.clone_into(&mut nic.socket);
        }
        self
    }

    /// The same with more properties of `virtio-net-pci`.
    #[must_use]
    pub fn with_properties(mut self, properties: &str) -> Self {
        for nic in &mut self.nics {
            properties.clone_into(&mut nic.properties);
        }
        self
    }
}

/// A guest.
#[derive(Debug)]
pub struct Guest {
    config: GuestConfig,
    qemu: Process,
    qmp: Qmp,
    agent: Agent,
    console: PathBuf,
    /// How often it was migrated.
    moves: u32,
}

impl Guest {
    /// Start a guest that boots; [`Guest::wait_ready`] waits for it. The calling thread must outlive it.
    ///
    /// # Errors
    /// QEMU does not start, or its switch is not there.
    pub fn start(image: &GuestImage, scratch: &Scratch, config: GuestConfig) -> Result<Self> {
        Self::launch(image, scratch, config, "boot")
    }

    /// Start a new QEMU and resume in it what [`Guest::migrate_to_file`] wrote; it runs when this returns.
    ///
    /// # Errors
    /// QEMU does not start, or cannot read the file.
    pub fn resume_from_file(
        image: &GuestImage,
        scratch: &Scratch,
        config: GuestConfig,
        file: &Path,
    ) -> Result<Self> {
        let mut guest = Self::launch(image, scratch, config, "resume")?;
        guest.qmp.execute("migrate-incoming", &json!({"uri": format!("exec:cat {}", file.display())}))?;
        guest.until_running()?;
        Ok(guest)
    }

    /// Migrate the running guest into a new QEMU made of `config`, over a Unix socket, and go on with that one; the old QEMU ends.
    ///
    /// # Errors
    /// QEMU does not start, refuses or fails to migrate.
    pub fn migrate_to(
        &mut self,
        image: &GuestImage,
        scratch: &Scratch,
        config: GuestConfig,
        limit: Duration,
    ) -> Result<Migrated> {
        self.moves += 1;
        let uri = format!("unix:{}", scratch.join(&format!("{}-{}.move", config.name, self.moves)).display());
        let mut target = Self::launch(image, scratch, config, &format!("resume{}", self.moves))?;
        target.moves = self.moves;
        target.qmp.execute("migrate-incoming", &json!({"uri": uri}))?;
        let statistics = self.migrate_away(&uri, 300, limit)?;
        target.until_running()?;
        self.quit()?;
        *self = target;
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        Ok(Migrated {
            downtime: Duration::from_millis(number(&statistics["downtime"])),
            total: Duration::from_millis(number(&statistics["total-time"])),
            rounds: number(&statistics["ram"]["dirty-sync-count"]),
        })
    }

    /// Wait until QEMU says that the guest runs.
    fn until_running(&mut self) -> Result<()> {
        let Self { qemu, qmp, .. } = self;
        qemu.until("the guest to run again", BOOT, |_| {
            let status = qmp.execute("query-status", &json!({}))?;
            Ok((status["status"] == "running").then_some(()))
        })
    }

    /// Migrate to `uri`, the guest standing still for at most about `downtime_ms`; returns the migration's statistics.
    fn migrate_away(&mut self, uri: &str, downtime_ms: u32, limit: Duration) -> Result<Value> {
        self.qmp.execute(
            "migrate-set-parameters",
            &json!({"max-bandwidth": 1_u64 << 30, "downtime-limit": downtime_ms}),
        )?;
        self.qmp.execute("migrate", &json!({"uri": uri}))?;
        let Self { qemu, qmp, .. } = &mut *self;
        qemu.until("the end of the migration", limit, |_| {
            let state = qmp.execute("query-migrate", &json!({}))?;
            match state["status"].as_str() {
                Some("completed") => Ok(Some(state)),
                Some("failed" | "cancelled") => bail!("the migration failed: {state}"),
                _ => Ok(None),
            }
        })
    }

    fn launch(image: &GuestImage, scratch: &Scratch, config: GuestConfig, life: &str) -> Result<Self> {
        let file = |what: &str| scratch.join(&format!("{}-{life}.{what}", config.name));
        let (qmp_socket, agent_socket, console) = (file("qmp"), file("agent"), file("console"));
        let mut command = Command::new("qemu-system-x86_64");
        machine(&mut command, image, &config);
        command
            .args(["-serial", &format!("file:{}", console.display())])
            .args([
                "-chardev",
                &format!("socket,id=agent,path={},server=on,wait=off", agent_socket.display()),
            ])
            .args(["-serial", "chardev:agent"])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", qmp_socket.display())]);
        for (i, nic) in config.nics.iter().enumerate() {
            network_card(&mut command, i, nic);
        }
        if life.starts_with("resume") {
            command.args(["-incoming", "defer"]);
        }
        let mut qemu = Process::spawn(&format!("QEMU of {}", config.name), &command, &file("qemu"))?;
        // QEMU listens here before it waits for its switch, but answers after.
        let agent = qemu.until("the agent's socket", SHORT, |_| Ok(Agent::connect(&agent_socket).ok()))?;
        let qmp = qemu.until("QEMU's monitor", SHORT, |_| match Qmp::connect(&qmp_socket) {
            Ok(qmp) => Ok(Some(qmp)),
            Err(_) if !qmp_socket.exists() => Ok(None),
            Err(e) => Err(e),
        })?;
        Ok(Self { config, qemu, qmp, agent, console, moves: 0 })
    }

    /// Wait for the end of the boot, then give the cards their addresses.
    ///
    /// # Errors
    /// The guest does not come up; its console is in the error.
    pub fn wait_ready(&mut self) -> Result<()> {
        if let Err(e) = self.agent.wait_ready(BOOT) {
            let (name, console, qemu) = (&self.config.name, self.console_tail(), self.qemu.tail());
            return Err(e.context(format!("{name}'s console ends:\n{console}\nand QEMU says:\n{qemu}")));
        }
        let mut commands = String::new();
        let asked = self.config.addressing == Addressing::Asked;
        for (i, nic) in self.config.nics.iter().enumerate() {
            let settings = format!("/proc/sys/net/ipv6/conf/eth{i}");
            if !asked {
                commands
                    .push_str(&format!("echo 0 > {settings}/accept_dad; echo 0 > {settings}/accept_ra; "));
            }
            for (address, prefix) in &nic.addresses {
                match (asked, address) {
                    (false, address) => {
                        commands.push_str(&format!("ip address add {address}/{prefix} dev eth{i} && "));
                    }
                    // What DHCPv6 would give: the prefix is on-link only if the router says so.
                    (true, IpAddr::V6(address)) => {
                        commands.push_str(&format!("ip address add {address}/128 dev eth{i} && "));
                    }
                    (true, IpAddr::V4(_)) => {}
                }
            }
            commands.push_str(&format!("ip link set eth{i} up || exit 1; "));
        }
        self.agent.run(&commands).context("configure the guest's cards").map(drop)
    }

    /// Ask for an address on `eth0` by DHCP and take it; returns what udhcpc was told: `ip`, `mask`, `router`, `mtu`, `lease`, ...
    ///
    /// # Errors
    /// Nobody answers with one.
    pub fn lease(&mut self) -> Result<BTreeMap<String, String>> {
        let ask = "udhcpc -i eth0 -n -q -t 20 -T 1 -s /bin/udhcpc-script -O mtu -O staticroutes -O search";
        let asked = self.agent.run_any(ask, BOOT)?;
        if asked.status != 0 {
            bail!("udhcpc in {}: {}{}", self.config.name, asked.stdout, asked.stderr);
        }
        let told = self.agent.run("cat /tmp/lease.eth0")?;
        let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        Ok(told.lines().filter_map(pair).collect())
    }

    /// Wait until a router advertised itself on `eth0` and the addresses are beyond duplicate address detection; returns the IPv6 routes.
    ///
    /// # Errors
    /// None does.
    pub fn await_router(&mut self) -> Result<String> {
        let mut last = String::new();
        let found = wait::until("a route by router advertisement", SHORT, || {
            last = self.agent.run("ip -6 route show dev eth0; ip -6 address show dev eth0")?;
            Ok((last.contains("default via fe80:") && !last.contains("tentative")).then(|| last.clone()))
        });
        found.with_context(|| format!("{}: {last}", self.config.name))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// What it was made of.
    #[must_use]
    pub fn config(&self) -> &GuestConfig {
        &self.config
    }

    /// The agent inside.
    pub fn agent(&mut self) -> &mut Agent {
        &mut self.agent
    }

    /// QEMU's monitor.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// QEMU's process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.qemu
    }

    /// The last lines of its console.
    #[must_use]
    pub fn console_tail(&self) -> String {
        let bytes = std::fs::read(&self.console).unwrap_or_default();
        tail(&String::from_utf8_lossy(&bytes))
    }

    /// The first address of the first card in the family asked for.
    ///
    /// # Errors
    /// It has none.
    pub fn address(&self, ipv6: bool) -> Result<IpAddr> {
        let all = self.config.nics.iter().flat_map(|nic| &nic.addresses);
        let found = all.map(|(address, _)| *address).find(|a| a.is_ipv6() == ipv6);
        found.with_context(|| format!("{} has no such address", self.config.name))
    }

    /// Ping `to` until an answer comes; returns how many tries were needed.
    ///
    /// # Errors
    /// None comes within `limit`.
    pub fn ping(&mut self, to: IpAddr, limit: Duration) -> Result<u32> {
        let program = if to.is_ipv6() { "ping6" } else { "ping" };
        let mut tries = 0;
        wait::until(&format!("an answer to a ping from {} to {to}", self.config.name), limit, || {
            tries += 1;
            let exited = self.agent.run_any(&format!("{program} -c 1 -W 1 {to}"), SHORT)?;
            Ok((exited.status == 0).then_some(tries))
        })
    }

    /// Send `count` pings a fifth of a second apart; returns how many were answered.
    ///
    /// # Errors
    /// The agent does not answer, or ping says something we do not know.
    pub fn pings_answered(&mut self, to: IpAddr, count: u32) -> Result<u32> {
        let program = if to.is_ipv6() { "ping6" } else { "ping" };
        let said = self.agent.run_any(
            &format!("{program} -i 0.2 -W 2 -c {count} {to}"),
            SHORT + Duration::from_secs(count.into()),
        )?;
        let summary = said.stdout.lines().find(|l| l.contains("packets received"));
        let word = summary.and_then(|l| l.split(", ").nth(1)).and_then(|part| part.split(' ').next());
        word.and_then(|w| w.parse().ok())
            .with_context(|| format!("{program} said: {}{}", said.stdout, said.stderr))
    }

    /// Send a pattern over TCP to `receiver`, wait for the end, and return bytes and the two checksums.
    ///
    /// # Errors
    /// The transfer fails or takes longer than `limit`.
    pub fn transfer(
        &mut self,
        receiver: &mut Guest,
        to: SocketAddr,
        bytes: u64,
        seed: u64,
        limit: Duration,
    ) -> Result<Transferred> {
        let receiving = receiver.agent.receive(to)?;
        let sending = self.agent.send(to, bytes, seed, None)?;
        let sent = self.agent.until_done(sending, limit)?;
        let received = receiver.agent.until_done(receiving, limit)?;
        Ok(Transferred { bytes: received.bytes, sent: sent.checksum, received: received.checksum })
    }

    /// Migrate the running guest into a file and end its QEMU; returns the migration's statistics.
    /// [`Guest::resume_from_file`] makes a guest of [`Guest::config`] and the file again.
    ///
    /// # Errors
    /// QEMU refuses or fails to migrate.
    pub fn migrate_to_file(&mut self, file: &Path, limit: Duration) -> Result<Value> {
        let statistics = self.migrate_away(&format!("exec:cat > {}", file.display()), 1000, limit)?;
        self.quit()?;
        Ok(statistics)
    }

    /// Ask QEMU to end, and wait for it.
    ///
    /// # Errors
    /// It does not.
    pub fn quit(&mut self) -> Result<()> {
        // It may close the line before it answers.
        let _ = self.qmp.execute("quit", &json!({}));
        self.qemu.wait(SHORT).map(drop)
    }
}

/// How a migration went.
#[derive(Clone, Copy, Debug)]
pub struct Migrated {
    /// How long the guest stood still.
    pub downtime: Duration,
    /// From the order to the end.
    pub total: Duration,
    /// How often the dirty log was looked at.
    pub rounds: u64,
}

/// The outcome of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transferred {
    /// Bytes received.
    pub bytes: u64,
    /// Checksum of what was sent.
    pub sent: u64,
    /// Checksum of what was received.
    pub received: u64,
}

fn machine(command: &mut Command, image: &GuestImage, config: &GuestConfig) {
    let memory = config.memory_mib;
    let processors = config.nics.iter().map(|nic| nic.queue_pairs).max().unwrap_or(1);
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args((config.after_reboot == AfterReboot::End).then_some("-no-reboot"))
        .args(["-machine", "q35,accel=tcg,memory-backend=memory", "-cpu", "max"])
        .args(["-smp", &processors.to_string(), "-m", &format!("{memory}M")])
        .args(["-object", &format!("memory-backend-memfd,id=memory,size={memory}M,share=on")])
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.initramfs)
        .args(["-append", KERNEL]);
}

fn network_card(command: &mut Command, i: usize, nic: &Nic) {
    let end = match nic.end {
        VhostUserEnd::Client => "reconnect=1",
        VhostUserEnd::Server => "server=on",
    };
    let queues = nic.queue_pairs;
    // Without MSI-X: QEMU 7.2 under TCG dereferences its absent table of KVM interrupts when a guest unmasks a vector of a running
    // vhost-user card, which Linux does when it spreads interrupts over processors.
    let mut device = format!("virtio-net-pci,netdev=net{i},mac={},vectors=0,romfile=", nic.mac);
    if queues > 1 {
        device.push_str(",mq=on");
    }
    if !nic.properties.is_empty() {
        device.push_str(&format!(",{}", nic.properties));
    }
    command
        .args(["-chardev", &format!("socket,id=port{i},path={},{end}", nic.socket.display())])
        .args(["-netdev", &format!("vhost-user,id=net{i},chardev=port{i},queues={queues}")])
        .args(["-device", &device]);
}
