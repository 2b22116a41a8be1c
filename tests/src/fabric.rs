//! Hosts on an underlay: a network namespace each, joined by virtual Ethernet, with a `towpathd` or somebody else's tunnel end point inside.

use std::net::{IpAddr, SocketAddrV6, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::Result;
use crate::daemon::{Daemon, Setup};
use crate::manifests::{Port, resource};
use crate::netns::Namespace;
use crate::process::Process;
use crate::scratch::Scratch;

/// The interface of every member to the underlay.
pub const UPLINK: &str = "u0";
/// The port of VXLAN (RFC 7348, section 5).
pub const VXLAN: u16 = 4789;
/// Bytes that VXLAN takes of the underlay's MTU, over IPv4: inner Ethernet, VXLAN, UDP, IPv4.
pub const OVERHEAD: u16 = 14 + 8 + 8 + 20;

/// How long a program that reads or writes captures may take.
const SHORT: Duration = Duration::from_secs(30);

/// Members with addresses that reach each other; they end with it.
#[derive(Debug)]
pub struct Underlay {
    members: Vec<Arc<Namespace>>,
    /// Joins more than two.
    _bridge: Option<Namespace>,
    mtu: u16,
}

impl Underlay {
    /// One member per name: two are joined directly, more by a bridge. Member n (from 0) has the addresses of [`Underlay::address`].
    ///
    /// # Errors
    /// The kernel refuses: it takes root.
    pub fn new(scratch: &Scratch, names: &[&str], mtu: u16) -> Result<Self> {
        let members = names
            .iter()
            .map(|name| Namespace::new(scratch, name).map(Arc::new))
            .collect::<Result<Vec<_>>>()?;
        let bridge = match members.as_slice() {
            [one, other] => {
                one.join(UPLINK, other, UPLINK, mtu)?;
                None
            }
            members => Some(bridge_of(scratch, members, mtu)?),
        };
        let underlay = Self { members, _bridge: bridge, mtu };
        for (number, member) in underlay.members.iter().enumerate() {
            let (v4, v6) = (underlay.address(number, false), underlay.address(number, true));
            member.run_all(&format!(
                "ip address add {v4}/24 dev {UPLINK}
                 ip address add {v6}/64 dev {UPLINK} nodad"
            ))?;
        }
        Ok(underlay)
    }

    /// The namespace of a member.
    #[must_use]
    pub fn member(&self, number: usize) -> &Arc<Namespace> {
        &self.members[number]
    }

    /// An address of a member: in 192.0.2.0/24 or 2001:db8::/64.
    #[must_use]
    pub fn address(&self, number: usize, ipv6: bool) -> IpAddr {
        let last = u8::try_from(number + 1).unwrap_or(u8::MAX);
        if ipv6 { [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)].into() } else { [192, 0, 2, last].into() }
    }

    /// Let a member finish its packets itself, as they must be for a counterpart that reads its interface without their metadata (Open
    /// vSwitch does): what a virtual interface calls offloading is leaving checksums and cuts to the receiver.
    ///
    /// # Errors
    /// The interface cannot be changed.
    pub fn without_offloads(&self, number: usize) -> Result<()> {
        self.members[number].run(&format!("ethtool -K {UPLINK} tx off tso off gso off")).map(drop)
    }

    /// Bytes that a packet of the underlay may have.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// The `Host` resource of a member whose `towpathd` takes its interface's addresses, IPv4 before IPv6; with `ipv6`, only that one, as
    /// [`Underlay::config`] tells it.
    #[must_use]
    pub fn host_resource(&self, number: usize, ipv6: bool) -> Value {
        let mut vteps = vec![self.address(number, true)];
        if !ipv6 {
            vteps.insert(0, self.address(number, false));
        }
        resource("Host", self.members[number].name(), &json!({"vteps": vteps}))
    }

    /// Fields of the file of that `towpathd`.
    #[must_use]
    pub fn config(&self, number: usize, ipv6: bool) -> Value {
        if !ipv6 {
            return json!({});
        }
        let address = format!("{}/64", self.address(number, true));
        json!({"uplink": {"kernel": {"ifname": UPLINK}, "addresses": [address]}})
    }
}

fn bridge_of(scratch: &Scratch, members: &[Arc<Namespace>], mtu: u16) -> Result<Namespace> {
    let bridge = Namespace::new(scratch, "bridge")?;
    bridge.run(&format!("ip link add br0 mtu {mtu} up type bridge mcast_snooping 0"))?;
    for (number, member) in members.iter().enumerate() {
        let port = format!("p{number}");
        member.join(UPLINK, &bridge, &port, mtu)?;
        bridge.run(&format!("ip link set {port} master br0"))?;
    }
    Ok(bridge)
}

/// A member of an underlay that runs `towpathd`.
#[derive(Debug)]
pub struct Host {
    /// Its name, as resources have it.
    pub name: String,
    /// Its daemon.
    pub daemon: Daemon,
    /// Where it is.
    pub namespace: Arc<Namespace>,
    folder: PathBuf,
}

impl Host {
    /// Start `towpathd` on a member, one worker on core `core`, its ports' sockets at [`Host::socket`] whatever they say; fields of `config`
    /// replace ours.
    ///
    /// # Errors
    /// It does not come up; its log is in the error.
    pub fn start(
        scratch: &Scratch,
        underlay: &Underlay,
        number: usize,
        (network, ports): (&[Value], &[Port]),
        config: &Value,
    ) -> Result<Self> {
        let namespace = Arc::clone(underlay.member(number));
        let name = namespace.name().to_owned();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut whole = json!({
            "host": name,
            "workers": {"cores": [number % cores], "idle": "adaptive"},
            "uplink": {"kernel": {"ifname": UPLINK}},
        });
        if let (Some(whole), Some(config)) = (whole.as_object_mut(), config.as_object()) {
            whole.extend(config.clone());
        }
        let folder = scratch.path().to_owned();
        let ports = placed(&folder, &name, ports);
        let setup = Setup {
            name: &name,
            config: whole,
            network: network.to_vec(),
            ports: &ports,
            namespace: Some(Arc::clone(&namespace)),
        };
        let daemon = Daemon::start_as(scratch, &setup)?;
        Ok(Self { name, daemon, namespace, folder })
    }

    /// The socket of a port on this host.
    #[must_use]
    pub fn socket(&self, port: &str) -> PathBuf {
        socket(&self.folder, &self.name, port)
    }

    /// A port as this host has it.
    #[must_use]
    pub fn placed(&self, port: &Port) -> Port {
        Port { socket: self.socket(&port.name), ..port.clone() }
    }

    /// Replace its ports and let it read them.
    ///
    /// # Errors
    /// It does not take them.
    pub fn change_ports(&mut self, ports: &[Port]) -> Result<()> {
        self.daemon.write_ports(&placed(&self.folder, &self.name, ports))?;
        self.daemon.reload()
    }
}

fn socket(folder: &Path, host: &str, port: &str) -> PathBuf {
    folder.join(format!("{host}-{port}.sock"))
}

/// The ports as one host has them: the same resources, but sockets of its own, since all hosts of a test share one file system.
fn placed(folder: &Path, host: &str, ports: &[Port]) -> Vec<Port> {
    ports.iter().map(|port| Port { socket: socket(folder, host, &port.name), ..port.clone() }).collect()
}

/// Frames on an interface, written to a file while it lives.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
    namespace: Arc<Namespace>,
    interface: String,
}

/// What the last frame of a capture says.
const LAST: &[u8] = b"the capture ends here";

impl Capture {
    /// Begin to capture on `interface`; what comes after this returns is in it.
    ///
    /// # Errors
    /// dumpcap does not start.
    pub fn start(scratch: &Scratch, namespace: &Arc<Namespace>, interface: &str) -> Result<Self> {
        let stem = format!("{}-{interface}", namespace.name());
        let file = scratch.join(&format!("{stem}.pcap"));
        let mut command = namespace.command("dumpcap");
        command.args(["-P", "-q", "-i", interface, "-w"]).arg(&file);
        let mut process = Process::spawn("dumpcap", &command, &scratch.join(&format!("{stem}.dumpcap")))?;
        process.until("the capture's file header", SHORT, |_| {
            Ok(std::fs::metadata(&file).is_ok_and(|file| file.len() >= 24).then_some(()))
        })?;
        Ok(Self { process, file, namespace: Arc::clone(namespace), interface: interface.to_owned() })
    }

    /// End it once all that was sent before is in it; [`Capture::select`] reads it.
    ///
    /// # Errors
    /// dumpcap does not write, or does not end.
    pub fn stop(&mut self) -> Result<()> {
        if self.process.ended()?.is_none() {
            // dumpcap writes when it likes: a frame of ours comes after all others.
            let index = self.namespace.run(&format!("cat /sys/class/net/{}/ifindex", self.interface))?;
            let nodes = SocketAddrV6::new([0xff02, 0, 0, 0, 0, 0, 0, 1].into(), 9, 0, index.trim().parse()?);
            self.namespace.enter(|| Ok(UdpSocket::bind("[::]:0")?.send_to(LAST, nodes)?))?;
            let file = &self.file;
            self.process.until("the last frame in the capture", SHORT, |_| {
                let content = std::fs::read(file).unwrap_or_default();
                Ok(content.windows(LAST.len()).any(|bytes| bytes == LAST).then_some(()))
            })?;
            self.process.signal(rustix::process::Signal::INT)?;
            self.process.wait(SHORT)?;
        }
        Ok(())
    }

    /// What tshark says about the frames that `filter` selects, one line each.
    ///
    /// # Errors
    /// It cannot be run, or does not know the filter.
    pub fn select(&self, filter: &str) -> Result<Vec<String>> {
        let output = Command::new("tshark")
            .args(["-n", "-r"])
            .arg(&self.file)
            .args(["-o", "ip.defragment:FALSE", "-o", "tcp.desegment_tcp_streams:FALSE", "-Y", filter])
            .output()
            .context("run tshark")?;
        ensure!(output.status.success(), "tshark -Y {filter:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    }

    /// Fails if tshark finds a frame malformed, or none that is VXLAN.
    ///
    /// # Errors
    /// Such a frame, or no VXLAN at all.
    pub fn assert_well_formed(&self) -> Result<()> {
        let malformed = self.select("_ws.malformed || _ws.short || vxlan.reserved8 != 0")?;
        ensure!(malformed.is_empty(), "malformed: {malformed:#?}");
        ensure!(!self.select("vxlan")?.is_empty(), "no VXLAN in {}", self.file.display());
        Ok(())
    }
}
