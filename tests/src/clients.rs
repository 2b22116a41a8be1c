//! Machines on ports whose network stack is the kernel's, without a virtual machine: DPDK's virtio-user driver attaches to each port and
//! joins it to a tap interface, `eth0` of a namespace.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

use crate::manifests::Port;
use crate::netns::Namespace;
use crate::process::Process;
use crate::scratch::Scratch;
use crate::testpmd::{Testpmd, TestpmdConfig};
use crate::{Result, wait};

/// A program that asks the network for something answers or gives up.
const LIMIT: Duration = Duration::from_secs(60);

/// What dhclient calls: keeps all it was told in a file named after the reason. Addresses are the test's business.
const DHCLIENT_SCRIPT: &str =
    "#!/bin/sh\nenv >\"$TOLD.$reason.part\" && mv \"$TOLD.$reason.part\" \"$TOLD.$reason\"\n";

/// The machines of some ports.
#[derive(Debug)]
pub struct Clients {
    // Dropped in this order.
    driver: Testpmd,
    machines: Vec<Namespace>,
    _home: Namespace,
    folder: PathBuf,
}

impl Clients {
    /// One machine per port, its `eth0` up with the port's MAC address and without an IP address. The ports' daemon must run.
    ///
    /// # Errors
    /// DPDK does not come up, or the kernel refuses.
    pub fn start(scratch: &Scratch, ports: &[Port]) -> Result<Self> {
        let home = Namespace::new(scratch, "clients")?;
        let mut devices = Vec::new();
        for (number, Port { socket, mac, .. }) in ports.iter().enumerate() {
            let socket = socket.display();
            devices.push(format!("net_virtio_user{number},path={socket},mac={mac},queues=1"));
            devices.push(format!("net_tap{number},iface=tap{number},mac={mac}"));
        }
        let config = TestpmdConfig {
            name: "clients".to_owned(),
            devices,
            // Ports in pairs: what one receives goes out by the other.
            mode: "io".to_owned(),
            arguments: vec!["--auto-start".to_owned()],
        };
        let driver = Testpmd::start_in(scratch, &config, Some(&home))?;
        let mut machines = Vec::new();
        for (number, port) in ports.iter().enumerate() {
            let machine = Namespace::new(scratch, &format!("client-{}", port.name))?;
            let (id, mac) = (machine.id(), &port.mac);
            home.run(&format!("ip link set tap{number} netns {id} name eth0"))?;
            machine.run(&format!("ip link set eth0 address {mac} up"))?;
            machines.push(machine);
        }
        for machine in &machines {
            wait::until("duplicate address detection of link-local addresses", LIMIT, || {
                let shown = machine.run("ip -6 address show dev eth0")?;
                Ok((shown.contains("fe80:") && !shown.contains("tentative")).then_some(()))
            })?;
        }
        let script = scratch.join("dhclient-script");
        std::fs::write(&script, DHCLIENT_SCRIPT)?;
        std::process::Command::new("chmod").arg("+x").arg(&script).status()?;
        Ok(Self { driver, machines, _home: home, folder: scratch.path().to_owned() })
    }

    /// The namespace of a machine.
    #[must_use]
    pub fn machine(&self, number: usize) -> &Namespace {
        &self.machines[number]
    }

    /// DPDK's process.
    pub fn driver(&mut self) -> &mut Testpmd {
        &mut self.driver
    }

    /// Give a machine its port's addresses and a default route to `gateways`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn configure(&self, number: usize, port: &Port, gateways: &[&str]) -> Result<()> {
        let machine = &self.machines[number];
        for ip in &port.ips {
            let rest = if ip.is_ipv6() { "/64 dev eth0 nodad" } else { "/24 dev eth0" };
            machine.run(&format!("ip address add {ip}{rest}"))?;
        }
        gateways.iter().try_for_each(|gateway| {
            machine.run(&format!("ip route add default via {gateway} dev eth0")).map(drop)
        })
    }

    /// Ping `to` from a machine until an answer comes.
    ///
    /// # Errors
    /// None comes.
    pub fn ping(&self, number: usize, to: std::net::IpAddr) -> Result<()> {
        let machine = &self.machines[number];
        wait::until(&format!("an answer to a ping from {} to {to}", machine.name()), LIMIT, || {
            Ok(machine.run(&format!("busybox ping -c 1 -W 1 {to}")).is_ok().then_some(()))
        })
    }

    /// Run ISC's dhclient for a family on a machine until it is bound; returns what it was told (`new_ip_address`, ...), and the client,
    /// which renews while it lives.
    ///
    /// # Errors
    /// Nobody gives it an address.
    pub fn dhclient(&self, number: usize, ipv6: bool) -> Result<(Process, String)> {
        let machine = &self.machines[number];
        let (family, reason) = if ipv6 { ("-6", "BOUND6") } else { ("-4", "BOUND") };
        let stem = self.folder.join(format!("{}{family}", machine.name()));
        let file = |what: &str| stem.with_extension(what);
        let mut command = machine.command("dhclient");
        command
            .args([family, "-d", "-v", "-cf", "/dev/null", "-sf"])
            .arg(self.folder.join("dhclient-script"))
            .arg("-lf")
            .arg(file("leases"))
            .arg("-pf")
            .arg(file("pid"))
            .args(["-e", &format!("TOLD={}", stem.display()), "eth0"]);
        std::fs::write(file("leases"), "")?;
        let mut client = Process::spawn(&format!("dhclient {family}"), &command, &file("log"))?;
        let told = stem.with_file_name(format!("{}{family}.{reason}", machine.name()));
        let text = client.until("a lease", LIMIT, |_| Ok(std::fs::read_to_string(&told).ok()))?;
        Ok((client, text))
    }
}

/// The value of a variable in what a DHCP client was told.
///
/// # Errors
/// It was not told.
pub fn variable<'t>(told: &'t str, name: &str) -> Result<&'t str> {
    let value = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.with_context(|| format!("no {name} in {told}"))
}
