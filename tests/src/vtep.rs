//! Tunnel end points that nobody here wrote: the kernel's `vxlan` device, and Open vSwitch with its userspace datapath. Each stands for a
//! machine whose own network stack is the far end of a VPC.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use towpath_guest_agent::transfer::{self, Job};

use crate::fabric::{UPLINK, VXLAN};
use crate::manifests::{Port, resource};
use crate::netns::Namespace;
use crate::process::Process;
use crate::scratch::Scratch;
use crate::{Result, wait};

/// Open vSwitch starts two processes and answers.
const START: Duration = Duration::from_secs(30);

/// The far machine as the VPC sees it: one MAC address, and one IP address of each family at most.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its name, also that of its interface.
    pub name: String,
    /// Its subnet.
    pub subnet: String,
    /// Its MAC address.
    pub mac: String,
    /// Its addresses with their prefix length.
    pub addresses: Vec<(IpAddr, u8)>,
    /// What its packets may have, in bytes.
    pub mtu: u16,
}

impl Machine {
    /// Machine `number` (0 to 99) of the subnet that [`Port::number`] speaks of.
    #[must_use]
    pub fn number(number: u8, mtu: u16) -> Self {
        Self {
            name: format!("ep{number}"),
            subnet: "web".to_owned(),
            mac: format!("02:00:00:00:02:{number:02x}"),
            addresses: vec![
                ([10, 0, 1, 100 + number].into(), 24),
                ([0xfd00, 0x10, 0, 1, 0, 0, 0, 0x100 + u16::from(number)].into(), 64),
            ],
            mtu,
        }
    }

    /// Its resource, behind the tunnel end point `vtep`.
    #[must_use]
    pub fn endpoint(&self, vtep: IpAddr) -> Value {
        let ips: Vec<IpAddr> = self.addresses.iter().map(|(address, _)| *address).collect();
        let spec = json!({"subnet": self.subnet, "ips": ips, "mac": self.mac, "vtep": vtep});
        resource("Endpoint", &self.name, &spec)
    }

    /// Its address of a family.
    ///
    /// # Errors
    /// It has none.
    pub fn address(&self, ipv6: bool) -> Result<IpAddr> {
        let found = self.addresses.iter().map(|(address, _)| *address).find(|a| a.is_ipv6() == ipv6);
        found.with_context(|| format!("{} has no such address", self.name))
    }

    fn configure(&self, namespace: &Namespace) -> Result<()> {
        let name = &self.name;
        for (address, prefix) in &self.addresses {
            let nodad = if address.is_ipv6() { "nodad" } else { "" };
            namespace.run(&format!("ip address add {address}/{prefix} dev {name} {nodad}"))?;
        }
        namespace.run(&format!("ip link set {name} up")).map(drop)
    }
}

/// Who is behind a remote tunnel end point, told to the kernel beforehand.
#[derive(Clone, Copy, Debug)]
pub enum Knowledge<'a> {
    /// MAC and IP addresses of these ports: nothing is asked.
    All(&'a [Port]),
    /// Nothing: it asks by ARP and neighbour discovery, sending what it does not know to the tunnel end point.
    Nothing,
}

/// Make a `vxlan` device of the kernel in `namespace`, the interface of `machine`, tunnelling from `local` to `remote`.
///
/// # Errors
/// The kernel refuses.
pub fn kernel(
    namespace: &Namespace,
    machine: &Machine,
    vni: u32,
    [local, remote]: [IpAddr; 2],
    knowledge: Knowledge<'_>,
) -> Result<()> {
    let Machine { name, mac, mtu, .. } = machine;
    namespace.run(&format!(
        "ip link add {name} address {mac} mtu {mtu} type vxlan id {vni} local {local} dstport {VXLAN} dev {UPLINK} nolearning"
    ))?;
    machine.configure(namespace)?;
    match knowledge {
        Knowledge::Nothing => {
            namespace.run(&format!("bridge fdb append 00:00:00:00:00:00 dev {name} dst {remote}")).map(drop)
        }
        Knowledge::All(ports) => ports.iter().try_for_each(|port| {
            let peer = &port.mac;
            namespace.run(&format!("bridge fdb append {peer} dev {name} dst {remote}"))?;
            port.ips.iter().try_for_each(|ip| {
                let neigh = format!("ip neigh replace {ip} lladdr {peer} dev {name} nud permanent");
                namespace.run(&neigh).map(drop)
            })
        }),
    }
}

/// Open vSwitch in a namespace, with databases, sockets and logs of its own.
#[derive(Debug)]
pub struct OpenVswitch {
    namespace: Arc<Namespace>,
    folder: PathBuf,
    // Dropped in this order.
    _switch: Process,
    _database: Process,
}

impl OpenVswitch {
    /// Start it, with nothing configured.
    ///
    /// # Errors
    /// It is not installed, or does not come up.
    pub fn start(scratch: &Scratch, namespace: &Arc<Namespace>) -> Result<Self> {
        let folder = scratch.join(&format!("{}-ovs", namespace.name()));
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let (database, socket) = (folder.join("conf.db"), folder.join("db.sock"));
        let made = Command::new("ovsdb-tool")
            .arg("create")
            .arg(&database)
            .arg("/usr/share/openvswitch/vswitch.ovsschema")
            .output()
            .context("run ovsdb-tool (package openvswitch-switch)")?;
        if !made.status.success() {
            bail!("ovsdb-tool: {}", String::from_utf8_lossy(&made.stderr));
        }
        let spawn = |program: &str, arguments: &[String]| {
            let mut command = namespace.command(program);
            for variable in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR"] {
                command.env(variable, &folder);
            }
            command.args(arguments).arg("-vconsole:info").arg("-vsyslog:off");
            Process::spawn(program, &command, &scratch.join(&format!("{}-{program}", namespace.name())))
        };
        let remote = format!("punix:{}", socket.display());
        let server = [format!("--remote={remote}"), database.display().to_string()];
        let mut database = spawn("ovsdb-server", &server)?;
        database.until("the socket of ovsdb-server", START, |_| Ok(socket.exists().then_some(())))?;
        let switch = spawn("ovs-vswitchd", &[format!("unix:{}", socket.display())])?;
        let switch = Self { namespace: Arc::clone(namespace), folder, _switch: switch, _database: database };
        switch.configure("init")?;
        Ok(switch)
    }

    /// Run `ovs-vsctl` with words between spaces; returns what it wrote once the switch has done it.
    ///
    /// # Errors
    /// It fails.
    pub fn configure(&self, words: &str) -> Result<String> {
        let database = format!("--db=unix:{}", self.folder.join("db.sock").display());
        let command = format!("ovs-vsctl {database} --timeout=20 {words}");
        self.namespace.run(&command)
    }

    /// Move the underlay into a bridge of its userspace datapath, and make `machine` a port of another whose tunnel leads from `local` to
    /// `remote`.
    ///
    /// # Errors
    /// It refuses.
    pub fn tunnel(&self, machine: &Machine, vni: u32, [local, remote]: [IpAddr; 2]) -> Result<()> {
        let Machine { name, mac, mtu, .. } = machine;
        let prefix = if local.is_ipv6() { 64 } else { 24 };
        let nodad = if local.is_ipv6() { "nodad" } else { "" };
        self.configure("add-br br-phy -- set bridge br-phy datapath_type=netdev")?;
        self.configure(&format!("add-port br-phy {UPLINK}"))?;
        // The kernel still gets what comes to the interface: it must not answer in the bridge's stead.
        self.namespace.run_all(&format!(
            "busybox sysctl -q -w net.ipv4.conf.all.arp_ignore=1
             ip address flush dev {UPLINK}
             ip address add {local}/{prefix} dev br-phy {nodad}
             ip link set br-phy up"
        ))?;
        self.configure(&format!(
            "add-br br-int -- set bridge br-int datapath_type=netdev \
             -- add-port br-int {name} -- set interface {name} type=internal mac=\"{mac}\" mtu_request={mtu} \
             -- add-port br-int vx0 -- set interface vx0 type=vxlan options:remote_ip={remote} options:local_ip={local} options:key={vni} \
             options:dst_port={VXLAN}"
        ))?;
        wait::until("Open vSwitch to make the interface", START, || {
            Ok(self.namespace.run(&format!("ip link show {name}")).is_ok().then_some(()))
        })?;
        machine.configure(&self.namespace)
    }
}

/// Send `bytes` of a pattern over TCP from a machine in `namespace` to `to`.
///
/// # Errors
/// The thread cannot be started inside; what happens to the transfer is in its progress.
pub fn send_from(namespace: &Namespace, to: SocketAddr, bytes: u64, seed: u64) -> Result<Job> {
    namespace.enter(|| Ok(transfer::send(to, bytes, seed, None)))
}

/// Receive over TCP in `namespace` from the first that connects to `listen`.
///
/// # Errors
/// It cannot listen there.
pub fn receive_in(namespace: &Namespace, listen: SocketAddr) -> Result<Job> {
    namespace.enter(|| transfer::receive(listen).with_context(|| format!("listen on {listen}")))
}

/// Wait for the end of a transfer of this process; returns bytes and checksum.
///
/// # Errors
/// It fails, or takes longer than `limit`.
pub fn finish(job: &Job, limit: Duration) -> Result<(u64, u64)> {
    let end = wait::until("the end of a transfer", limit, || {
        let progress = job.progress();
        Ok(progress.done.then_some(progress))
    });
    let end = end.with_context(|| format!("{:?}", job.progress()))?;
    match end.error {
        None => Ok((end.bytes, end.checksum)),
        Some(error) => bail!("the transfer failed after {} bytes: {error}", end.bytes),
    }
}
