//! Two hosts whose machines talk to a world outside of their VPC: by a NAT gateway and by a floating IP, each of which one of the hosts announces to a router of Linux's kernel.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use towpath_tests::clients::Clients;
use towpath_tests::fabric::{Capture, Host, UPLINK, Underlay};
use towpath_tests::manifests::{Port, resource};
use towpath_tests::netns::Namespace;
use towpath_tests::scratch::Scratch;
use towpath_tests::{Result, wait};

use crate::{LIMIT, network, port};

const A: usize = 0;
const B: usize = 1;
/// The member of the underlay that is the external network's router.
const ROUTER: usize = 2;
const NAT: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10));
const FLOATING: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 20));
/// A machine behind the router, on a link that takes shorter packets.
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
const NARROW: u16 = 1300;
/// Of [`Scene::clients`]: one on each host behind the gateway, and one on node-b with the floating IP.
const INSIDE: [usize; 2] = [0, 1];
const PUBLIC: usize = 2;

struct Scene {
    clients: Clients,
    ports: Vec<Port>,
    hosts: [Host; 2],
    server: Namespace,
    underlay: Underlay,
    scratch: Scratch,
}

fn resources(underlay: &Underlay) -> Vec<Value> {
    let mut all = network(&json!({}));
    all.extend([A, B].map(|number| underlay.host_resource(number, false)));
    for resource in &mut all {
        if resource["metadata"]["name"] == "web" {
            resource["spec"]["routeTable"] = json!("web-routes");
        }
    }
    let rules = json!({"vpc": "blue", "rules": [
        {"direction": "ingress", "action": "allow", "protocol": "tcp", "ports": "8080", "remote": {"any": true}},
        {"direction": "ingress", "action": "allow", "protocol": "icmp", "remote": {"cidr": "203.0.113.0/24"}},
        {"direction": "egress", "action": "allow", "remote": {"any": true}},
    ]});
    all.extend([
        resource("SecurityGroup", "public", &rules),
        resource(
            "ExternalNetwork",
            "internet",
            &json!({"cidrs": ["198.51.100.0/24"], "vlan": 0, "gateway": "198.51.100.1", "announce": "arp"}),
        ),
        resource(
            "NatGateway",
            "egress",
            &json!({"vpc": "blue", "external": "internet", "addresses": [NAT], "portsPerPort": 1024}),
        ),
        resource(
            "FloatingIp",
            "web-public",
            &json!({"external": "internet", "address": FLOATING, "port": "vm2-eth0"}),
        ),
        resource(
            "RouteTable",
            "web-routes",
            &json!({"vpc": "blue", "routes": [{"destination": "0.0.0.0/0", "via": {"natGateway": "egress"}}]}),
        ),
    ]);
    all
}

impl Scene {
    fn start() -> Result<Self> {
        let scratch = Scratch::new()?;
        let underlay = Underlay::new(&scratch, &["node-a", "node-b", "router"], 1500)?;
        let router = underlay.member(ROUTER);
        let server = Namespace::new(&scratch, "server")?;
        router.join("inner", &server, "eth0", NARROW)?;
        router.run_all(&format!(
            "ip address add 198.51.100.1/24 dev {UPLINK}
             ip address add 203.0.113.1/24 dev inner
             busybox sysctl -w net.ipv4.ip_forward=1"
        ))?;
        server.run_all(&format!(
            "ip address add {SERVER}/24 dev eth0
             ip route add default via 203.0.113.1"
        ))?;
        let filtered = |number: u8, host: &str| Port { unfiltered: false, ..port(number, host) };
        let public = Port { groups: vec!["public".to_owned()], ..filtered(2, "node-b") };
        let ports = vec![filtered(0, "node-a"), filtered(1, "node-b"), public];
        let network = resources(&underlay);
        let start = |number| Host::start(&scratch, &underlay, number, (&network, &ports), &json!({}));
        let hosts = [start(A)?, start(B)?];
        let host_of = |port: &Port| if port.host == "node-a" { A } else { B };
        let placed: Vec<Port> = ports.iter().map(|port| hosts[host_of(port)].placed(port)).collect();
        let clients = Clients::start(&scratch, &placed)?;
        for (number, port) in ports.iter().enumerate() {
            hosts[host_of(port)].daemon.until_phase(&port.name, "Forwarding")?;
            clients.configure(number, port, &["10.0.1.1"])?;
        }
        Ok(Self { clients, ports, hosts, server, underlay, scratch })
    }

    fn machine(&self, client: usize) -> &Namespace {
        self.clients.machine(client)
    }

    /// What a person would ask for first.
    fn explained(&self) -> String {
        let mut text = String::new();
        for (host, ports) in self.hosts.iter().zip([&self.ports[..1], &self.ports[1..]]) {
            for port in ports {
                let described = host.daemon.towpath_text(&["describe", "port", &port.name]);
                text += &described.unwrap_or_else(|error| error.to_string());
            }
            let metrics = host.daemon.metrics().unwrap_or_default();
            let drops = metrics.lines().filter(|line| line.starts_with("towpath_uplink_drops"));
            text.extend(drops.flat_map(|line| [host.name.as_str(), " ", line, "\n"]));
        }
        text
    }

    /// Pings from a namespace until an answer comes.
    fn ping(&self, from: &Namespace, to: IpAddr) -> Result<()> {
        let what = format!("an answer to a ping from {} to {to}", from.name());
        wait::until(&what, LIMIT, || {
            Ok(from.run(&format!("busybox ping -c 1 -W 1 {to}")).is_ok().then_some(()))
        })
        .with_context(|| self.explained())
    }
}

/// 256 KiB there and back over TCP; who the server was told that it was.
fn talk(server: (&Namespace, SocketAddr), client: (&Namespace, SocketAddr)) -> Result<SocketAddr> {
    let listener = server.0.enter(|| Ok(TcpListener::bind(server.1)?))?;
    let mut near = client.0.enter(|| Ok(TcpStream::connect_timeout(&client.1, LIMIT)?))?;
    // It is there: the client's side is connected.
    let (mut far, peer) = listener.accept()?;
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
    }
    let sent: Vec<u8> = (0..1u32 << 18).map(|at| (at * 7) as u8).collect();
    let returned = thread::scope(|scope| {
        let echo = scope.spawn(move || -> Result<()> {
            let mut all = Vec::new();
            far.read_to_end(&mut all)?;
            Ok(far.write_all(&all)?)
        });
        near.write_all(&sent)?;
        near.shutdown(std::net::Shutdown::Write)?;
        let mut returned = Vec::new();
        near.read_to_end(&mut returned)?;
        echo.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
        Ok::<_, anyhow::Error>(returned)
    })?;
    ensure!(returned == sent, "{} of {} bytes came back", returned.len(), sent.len());
    Ok(peer)
}

fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// Machines on both hosts, one of which announces the address: the other's answers take the tunnel.
fn by_the_gateway(scene: &Scene) -> Result<()> {
    let mut ports = Vec::new();
    for client in INSIDE {
        let machine = scene.machine(client);
        scene.ping(machine, SERVER)?;
        let peer = talk((&scene.server, at(SERVER, 8081)), (machine, at(SERVER, 8081)))
            .with_context(|| format!("{}\n{}", machine.name(), scene.explained()))?;
        ensure!(peer.ip() == NAT, "{} is {peer} outside", machine.name());
        ports.push(peer.port());
    }
    let [one, other] = [ports[0], ports[1]].map(|port| (port - 1024) / 1024);
    ensure!(one != other, "both have block {one}");
    // Nobody comes in by it.
    let refused = scene
        .server
        .enter(|| Ok(TcpStream::connect_timeout(&at(NAT, ports[0]), Duration::from_millis(500)).is_err()))?;
    ensure!(refused, "somebody answers at the gateway's address");
    Ok(())
}

fn by_the_floating_ip(scene: &Scene) -> Result<()> {
    let public = scene.machine(PUBLIC);
    scene.ping(&scene.server, FLOATING)?;
    let own = scene.ports[PUBLIC].ips[0];
    let peer = talk((public, at(own, 8080)), (&scene.server, at(FLOATING, 8080)))
        .with_context(|| scene.explained())?;
    ensure!(peer.ip() == SERVER, "the machine sees {peer}");
    let peer = talk((&scene.server, at(SERVER, 8082)), (public, at(SERVER, 8082)))
        .with_context(|| scene.explained())?;
    ensure!(peer.ip() == FLOATING, "outside it is {peer}");
    // Another port is closed.
    let elsewhere = scene
        .server
        .enter(|| Ok(TcpStream::connect_timeout(&at(FLOATING, 8079), Duration::from_millis(500)).is_err()))?;
    ensure!(elsewhere, "port 8079 is not open");
    // A neighbour comes by the same address.
    let peer = talk((public, at(own, 8080)), (scene.machine(INSIDE[A]), at(FLOATING, 8080)))
        .with_context(|| scene.explained())?;
    ensure!(peer.ip() == NAT, "the neighbour is {peer}");
    Ok(())
}

/// Who sends packets that are too long for the way is told, through the translation: in both directions.
fn too_big(scene: &Scene) -> Result<()> {
    for (from, to, mtu) in [
        (scene.machine(INSIDE[A]), SERVER, NARROW),
        (scene.machine(PUBLIC), SERVER, NARROW),
        (&**scene.underlay.member(ROUTER), FLOATING, 1450),
    ] {
        let what = format!("{} hears that packets to {to} have {mtu} bytes at most", from.name());
        wait::until(&what, LIMIT, || {
            let _ = from.run(&format!("busybox ping -c 1 -W 1 -s {} {to}", mtu + 22));
            let learnt = from.run(&format!("ip route get {to}"))?;
            Ok(learnt.contains(&format!("mtu {mtu}")).then_some(()))
        })
        .with_context(|| scene.explained())?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root, DPDK and tshark: run by `make test`"]
fn machines_reach_the_outside_and_are_reached_as_their_addresses_there_say() -> Result<()> {
    let scene = Scene::start()?;
    let mut capture = Capture::start(&scene.scratch, scene.underlay.member(ROUTER), UPLINK)?;
    by_the_gateway(&scene)?;
    by_the_floating_ip(&scene)?;
    too_big(&scene)?;
    capture.stop()?;
    let malformed = capture.select("_ws.malformed || _ws.short")?;
    ensure!(malformed.is_empty(), "malformed: {malformed:#?}");
    let inner = capture.select("ip.addr == 10.0.0.0/16 && !vxlan")?;
    ensure!(inner.is_empty(), "addresses of the VPC outside: {inner:#?}");
    let announced = capture.select("arp.isgratuitous == 1 || arp.opcode == 2")?;
    ensure!(!announced.is_empty(), "nobody answers for the external addresses");
    Ok(())
}
