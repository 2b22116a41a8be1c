//! What the demo shows things with: two hosts on an underlay, guests of one VPC on both, and a guest of another VPC with the addresses of
//! the first.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use towpath_tests::Result;
use towpath_tests::agent::{Job, Progress};
use towpath_tests::fabric::{Host, OVERHEAD, UPLINK, Underlay};
use towpath_tests::guest::{Guest, GuestConfig};
use towpath_tests::image::GuestImage;
use towpath_tests::manifests::{CIDRS, Port, resource};
use towpath_tests::netns::Namespace;
use towpath_tests::scratch::Scratch;

use crate::report::Report;

/// Long enough for a machine that does other things too.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// Of the underlay, in bytes.
const UNDERLAY_MTU: u16 = 1500;
/// What DHCP tells the guests.
pub(crate) const VPC_MTU: u16 = UNDERLAY_MTU - OVERHEAD;

/// Of [`World::hosts`].
pub(crate) const A: usize = 0;
pub(crate) const B: usize = 1;
/// The member of the underlay that is the world outside: a router with a machine behind.
const OUTSIDE: usize = 2;
pub(crate) const ROUTER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
pub(crate) const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
/// What it calls the guests of subnet `web`, and [`VM2`] alone.
pub(crate) const SHARED: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10));
pub(crate) const FLOATING: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 20));
/// The port at which [`VM2`] may be reached from there.
pub(crate) const PUBLIC_PORT: u16 = 8090;
/// Of [`World::guests`] and [`World::ports`]: two of subnet `web`, one on each host.
pub(crate) const VM1: usize = 0;
pub(crate) const VM2: usize = 1;
/// Of subnet `db`, on the second host.
pub(crate) const VM3: usize = 2;
/// Of VPC `green`, on the first host, with the MAC and IP addresses of [`VM1`].
pub(crate) const GREEN: usize = 3;

/// The whole setting. Fields are dropped in this order: guests, their switches, the underlay, the folder.
pub(crate) struct World {
    pub(crate) guests: [Guest; 4],
    pub(crate) hosts: [Host; 2],
    pub(crate) ports: [Port; 4],
    network: Vec<Value>,
    underlay: Underlay,
    pub(crate) image: GuestImage,
    pub(crate) scratch: Scratch,
}

impl World {
    /// Start everything, the guests side by side.
    pub(crate) fn start(report: &mut Report) -> Result<Self> {
        report.progress("making the guests' kernel and initramfs");
        let image = GuestImage::prepare()?;
        let scratch = Scratch::new()?;
        report.progress("joining three network namespaces");
        let underlay = Underlay::new(&scratch, &["node-a", "node-b", "outside"], UNDERLAY_MTU)?;
        underlay.member(OUTSIDE).run_all(&format!(
            "ip address add {ROUTER}/24 dev {UPLINK}
             ip link set lo up
             ip address add {SERVER}/32 dev lo"
        ))?;
        let (network, ports) = (network(&underlay), ports());
        report.progress("starting towpathd on two hosts");
        let start = |number| Host::start(&scratch, &underlay, number, (&network, &ports), &json!({}));
        let hosts = [start(A)?, start(B)?];
        report.progress("booting four guests (software emulation)");
        let boot = |number: usize| {
            let port = &ports[number];
            let host = &hosts[if port.host == hosts[A].name { A } else { B }];
            let name = port.name.trim_end_matches("-eth0");
            Guest::start(&image, &scratch, GuestConfig::on_port(name, &host.placed(port)).asking())
        };
        let mut guests = [boot(VM1)?, boot(VM2)?, boot(VM3)?, boot(GREEN)?];
        guests.iter_mut().try_for_each(Guest::wait_ready)?;
        Ok(Self { guests, hosts, ports, network, underlay, image, scratch })
    }

    /// Where the world outside is.
    pub(crate) fn outside(&self) -> &Arc<Namespace> {
        self.underlay.member(OUTSIDE)
    }

    /// An address of a guest.
    pub(crate) fn address(&self, guest: usize, ipv6: bool) -> Result<IpAddr> {
        self.guests[guest].address(ipv6)
    }

    /// Start a TCP transfer from [`VM2`] to [`VM1`], at a pace that leaves time to disturb it.
    pub(crate) fn start_transfer(
        &mut self,
        ipv6: bool,
        port: u16,
        bytes: u64,
        pace: Option<u64>,
    ) -> Result<Transfer> {
        self.start_transfer_between([VM2, VM1], ipv6, port, bytes, pace)
    }

    /// The same from one guest to another.
    pub(crate) fn start_transfer_between(
        &mut self,
        [from, to]: [usize; 2],
        ipv6: bool,
        port: u16,
        bytes: u64,
        pace: Option<u64>,
    ) -> Result<Transfer> {
        let address = SocketAddr::new(self.address(to, ipv6)?, port);
        let receiving = self.guests[to].agent().receive(address)?;
        let sending = self.guests[from].agent().send(address, bytes, u64::from(port), pace)?;
        Ok(Transfer { ends: [from, to], sending, receiving, bytes })
    }

    /// Bytes of a transfer that its receiver has.
    pub(crate) fn received(&mut self, transfer: Transfer) -> Result<u64> {
        let [_, to] = transfer.ends;
        Ok(self.guests[to].agent().progress(transfer.receiving)?.bytes)
    }

    /// Wait until the receiver has `bytes` of a transfer.
    pub(crate) fn until_received(
        &mut self,
        transfer: Transfer,
        bytes: u64,
        report: &mut Report,
    ) -> Result<Progress> {
        let [_, to] = transfer.ends;
        let agent = self.guests[to].agent();
        towpath_tests::wait::until(&format!("{bytes} bytes of a TCP transfer"), LIMIT, || {
            let progress = agent.progress(transfer.receiving)?;
            report.progress(&format!(
                "TCP: {:.1} of {} MB",
                progress.bytes as f64 / 1e6,
                transfer.bytes / 1_000_000
            ));
            if progress.done && progress.bytes < bytes {
                bail!("the connection ended after {} of {} bytes", progress.bytes, transfer.bytes);
            }
            Ok((progress.bytes >= bytes).then_some(progress))
        })
    }

    /// Wait for the end of a transfer, and check that what came is what was sent.
    pub(crate) fn finish_transfer(&mut self, transfer: Transfer, report: &mut Report) -> Result<u64> {
        self.until_received(transfer, transfer.bytes, report)?;
        let [from, to] = transfer.ends;
        let sent = self.guests[from].agent().until_done(transfer.sending, LIMIT).context("the sender")?;
        let received = self.guests[to].agent().until_done(transfer.receiving, LIMIT);
        let received = received.context("the receiver")?;
        if (received.bytes, received.checksum) != (sent.bytes, sent.checksum) {
            bail!("{sent:?} were sent, {received:?} received");
        }
        Ok(received.checksum)
    }

    /// What both hosts say about a port and the underlay, for a person to find out why.
    pub(crate) fn explained(&self, port: usize) -> String {
        let mut text = String::new();
        for host in &self.hosts {
            let describe = host.daemon.towpath_text(&["describe", "port", &self.ports[port].name]);
            let metrics = host.daemon.metrics().unwrap_or_default();
            let underlay: Vec<&str> = metrics
                .lines()
                .filter(|line| line.starts_with("towpath_uplink") || line.starts_with("towpath_neighbours"))
                .collect();
            let described = describe.unwrap_or_else(|error| error.to_string());
            text.push_str(&format!("{}:\n{described}\n{}\n", host.name, underlay.join("\n")));
        }
        text
    }

    /// Let group `db` take TCP to these ports from subnet `web`, on both hosts; and what it always takes: pings.
    pub(crate) fn open(&mut self, ports: &str) -> Result<()> {
        let is_it = |resource: &Value| {
            (&resource["kind"], &resource["metadata"]["name"]) == (&json!("SecurityGroup"), &json!("db"))
        };
        self.network.retain(|resource| !is_it(resource));
        self.network.push(group(ports));
        let network = &self.network;
        self.hosts.iter_mut().try_for_each(|host| {
            host.daemon.write_network(network)?;
            host.daemon.reload()
        })
    }

    /// Let an address stand for [`VM1`] and [`VM2`], on both hosts.
    pub(crate) fn balance(&mut self) -> Result<()> {
        let targets: Vec<Value> = [VM1, VM2].map(|guest| json!({"port": self.ports[guest].name})).into();
        let spec = json!({
            "vpc": "blue",
            "vip": "10.0.100.1",
            "listeners": [{"protocol": "tcp", "port": 80, "targetPort": 8080}],
            "targets": targets,
            "healthCheck": {"protocol": "tcp", "interval": "1s", "unhealthyAfter": 2},
        });
        self.network.push(resource("LoadBalancer", "web-lb", &spec));
        let network = &self.network;
        self.hosts.iter_mut().try_for_each(|host| {
            host.daemon.write_network(network)?;
            host.daemon.reload()
        })
    }

    /// Write the ports as they are now to both hosts' manifests.
    pub(crate) fn apply_ports(&mut self) -> Result<()> {
        let ports = &self.ports;
        self.hosts.iter_mut().try_for_each(|host| host.change_ports(ports))
    }
}

/// A TCP transfer under way.
#[derive(Clone, Copy)]
pub(crate) struct Transfer {
    /// Of [`World::guests`]: who sends, who receives.
    ends: [usize; 2],
    sending: Job,
    pub(crate) receiving: Job,
    bytes: u64,
}

/// Two VPCs with the same addresses, the first with two subnets.
fn network(underlay: &Underlay) -> Vec<Value> {
    let dhcp = json!({"enabled": true, "dns": ["10.0.1.2"], "domain": "blue.internal", "leaseTime": "1h"});
    let vpc = |name: &str, vni| {
        resource("Vpc", name, &json!({"vni": vni, "cidrs": ["10.0.0.0/16", "fd00:10::/48"]}))
    };
    let subnet = |name: &str, vpc: &str, cidrs: [&str; 2]| {
        resource("Subnet", name, &json!({"vpc": vpc, "cidrs": cidrs, "dhcp": dhcp}))
    };
    let mut web = subnet("web", "blue", CIDRS);
    web["spec"]["routeTable"] = json!("out");
    let way = json!({"natGateway": "egress"});
    vec![
        underlay.host_resource(A, false),
        underlay.host_resource(B, false),
        vpc("blue", 100),
        web,
        subnet("db", "blue", ["10.0.2.0/24", "fd00:10:0:2::/64"]),
        vpc("green", 200),
        subnet("green-web", "green", CIDRS),
        resource("ExternalNetwork", "internet", &json!({"cidrs": ["198.51.100.0/24"], "gateway": ROUTER})),
        resource(
            "NatGateway",
            "egress",
            &json!({"vpc": "blue", "external": "internet", "addresses": [SHARED]}),
        ),
        resource(
            "FloatingIp",
            "vm2-public",
            &json!({"external": "internet", "address": FLOATING, "port": "vm2-eth0"}),
        ),
        resource(
            "RouteTable",
            "out",
            &json!({"vpc": "blue", "routes": [{"destination": "0.0.0.0/0", "via": way}]}),
        ),
        group("5432"),
        resource(
            "SecurityGroup",
            "served",
            &json!({"vpc": "blue", "rules": [
                {"direction": "ingress", "action": "allow", "protocol": "tcp", "ports": format!("8080,{PUBLIC_PORT}"), "remote": {"any": true}},
            ]}),
        ),
    ]
}

/// Group `db`.
fn group(ports: &str) -> Value {
    let from = |remote: &str| json!({"cidr": remote});
    let mut rules = vec![
        json!({"direction": "ingress", "action": "allow", "protocol": "icmp", "remote": {"any": true}}),
        json!({"direction": "ingress", "action": "allow", "protocol": "icmpv6", "remote": {"any": true}}),
        // What it sends to a closed port of traceroute's is answered, which traceroute needs to end.
        json!({"direction": "ingress", "action": "allow", "protocol": "udp", "ports": "33434-33534", "remote": {"any": true}}),
    ];
    if !ports.is_empty() {
        rules.extend(CIDRS.map(|remote| {
            json!({"direction": "ingress", "action": "allow", "protocol": "tcp", "ports": ports, "remote": from(remote)})
        }));
    }
    resource("SecurityGroup", "db", &json!({"vpc": "blue", "rules": rules}))
}

fn ports() -> [Port; 4] {
    let port = |number: u8, host: &str| Port {
        host: host.to_owned(),
        unfiltered: false,
        ..Port::number(number, std::path::Path::new("/nowhere"))
    };
    let served = |port| Port { groups: vec!["default".to_owned(), "served".to_owned()], ..port };
    let vm1 = served(port(1, "node-a"));
    let green = Port {
        name: "green1-eth0".to_owned(),
        subnet: "green-web".to_owned(),
        groups: Vec::new(),
        ..vm1.clone()
    };
    let vm3 = Port {
        subnet: "db".to_owned(),
        groups: vec!["db".to_owned()],
        ips: vec![[10, 0, 2, 13].into(), [0xfd00, 0x10, 0, 2, 0, 0, 0, 0x13].into()],
        ..port(3, "node-b")
    };
    [vm1, served(port(2, "node-b")), vm3, green]
}
