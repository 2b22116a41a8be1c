//! Two hosts whose ports are machines with the kernel's network stack: clients of the services, and what they reach and do not reach.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, TcpListener};
use std::thread;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use towpath_tests::clients::{Clients, variable};
use towpath_tests::fabric::{Capture, Host, OVERHEAD, UPLINK, Underlay};
use towpath_tests::manifests::{Port, resource};
use towpath_tests::scratch::Scratch;
use towpath_tests::{Result, wait};

use crate::{GATEWAYS, LIMIT, in_green, network, port, subnet};

const A: usize = 0;
const B: usize = 1;
/// Of [`Scene::ports`]: `web` on either host, `db` on node-b, a router on node-b, peer VPC `red` on node-b, `green` on node-a with the
/// addresses of the first.
const WEB_A: usize = 0;
const WEB_B: usize = 1;
const DB: usize = 2;
const ROUTER: usize = 3;
const RED: usize = 4;
const GREEN: usize = 5;

struct Scene {
    clients: Clients,
    ports: Vec<Port>,
    hosts: [Host; 2],
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
    let routes = json!({"vpc": "blue", "routes": [
        {"destination": "198.18.0.0/24", "via": {"port": "vm3-eth0"}},
        {"destination": "198.18.0.128/25", "via": {"blackhole": true}},
        {"destination": "10.2.0.0/16", "via": {"peering": "blue-red"}},
        {"destination": "fd00:12::/48", "via": {"peering": "blue-red"}},
    ]});
    let back = json!({"vpc": "red", "routes": [
        {"destination": "10.0.0.0/16", "via": {"peering": "blue-red"}},
        {"destination": "fd00:10::/48", "via": {"peering": "blue-red"}},
    ]});
    let mut red = subnet("red-web", "red", ["10.2.1.0/24", "fd00:12:0:1::/64"]);
    red["spec"]["routeTable"] = json!("red-routes");
    all.extend([
        subnet("db", "blue", ["10.0.2.0/24", "fd00:10:0:2::/64"]),
        resource("RouteTable", "web-routes", &routes),
        resource("Vpc", "red", &json!({"vni": 300, "cidrs": ["10.2.0.0/16", "fd00:12::/48"]})),
        red,
        resource("RouteTable", "red-routes", &back),
        resource("Peering", "blue-red", &json!({"vpcs": ["blue", "red"]})),
    ]);
    all
}

fn ports() -> Vec<Port> {
    let web_a = port(0, "node-a");
    let elsewhere = |number: u8, subnet: &str, ips: [IpAddr; 2]| Port {
        subnet: subnet.to_owned(),
        ips: ips.to_vec(),
        ..port(number, "node-b")
    };
    let db = elsewhere(2, "db", [[10, 0, 2, 12].into(), [0xfd00, 0x10, 0, 2, 0, 0, 0, 0x12].into()]);
    let router =
        Port { allowed: vec![[198, 18, 0, 1].into(), [198, 18, 0, 200].into()], ..port(3, "node-b") };
    let red = elsewhere(4, "red-web", [[10, 2, 1, 14].into(), [0xfd00, 0x12, 0, 1, 0, 0, 0, 0x14].into()]);
    let green = in_green(&web_a, "node-a");
    vec![web_a, port(1, "node-b"), db, router, red, green]
}

impl Scene {
    fn start() -> Result<Self> {
        let scratch = Scratch::new()?;
        let underlay = Underlay::new(&scratch, &["node-a", "node-b"], 1500)?;
        let (network, ports) = (resources(&underlay), ports());
        let start = |number| Host::start(&scratch, &underlay, number, (&network, &ports), &json!({}));
        let hosts = [start(A)?, start(B)?];
        let placed: Vec<Port> =
            ports.iter().map(|port| hosts[if port.host == "node-a" { A } else { B }].placed(port)).collect();
        let clients = Clients::start(&scratch, &placed)?;
        for port in &ports {
            hosts[if port.host == "node-a" { A } else { B }].daemon.until_phase(&port.name, "Forwarding")?;
        }
        Ok(Self { clients, ports, hosts, underlay, scratch })
    }

    fn address(&self, client: usize, ipv6: bool) -> IpAddr {
        self.ports[client].ips[usize::from(ipv6)]
    }

    /// Ping; a failure comes with what the switches say.
    fn ping(&self, from: usize, to: IpAddr) -> Result<()> {
        self.clients.ping(from, to).with_context(|| self.explained(from))
    }

    fn explained(&self, client: usize) -> String {
        let port = &self.ports[client];
        let mut text = String::new();
        for host in &self.hosts {
            let described = host.daemon.towpath_text(&["describe", "port", &port.name]);
            text.push_str(&described.unwrap_or_else(|error| error.to_string()));
            let metrics = host.daemon.metrics().unwrap_or_default();
            metrics.lines().filter(|line| line.starts_with("towpath_uplink_drops")).for_each(|line| {
                text.push_str(line);
                text.push('\n');
            });
        }
        text
    }
}

/// An HTTP server that answers one request with the request, so that its client sees what arrived.
fn echo_once(listener: TcpListener) -> thread::JoinHandle<Result<()>> {
    thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        let mut request = String::new();
        let mut lines = BufReader::new(stream.try_clone()?);
        while lines.read_line(&mut request)? > 2 {}
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{request}", request.len())?;
        Ok(())
    })
}

#[test]
#[ignore = "needs root, DPDK, dhclient and rdisc6: run by `make test`"]
fn dhclient_rdisc6_and_curl_get_what_the_subnet_says() -> Result<()> {
    let scene = Scene::start()?;
    let mtu = 1500 - OVERHEAD;
    // The same addresses in two VPCs, and another subnet on the other host.
    for (client, name) in [(WEB_A, "web"), (GREEN, "green"), (DB, "db")] {
        let (_client, told) = scene
            .clients
            .dhclient(client, false)
            .with_context(|| format!("{name}\n{}", scene.explained(client)))?;
        let address = scene.address(client, false).to_string();
        for (variable_name, value) in [
            ("new_ip_address", address.as_str()),
            ("new_subnet_mask", "255.255.255.0"),
            ("new_domain_name", "blue.internal"),
            ("new_domain_name_servers", "10.0.1.2"),
            ("new_dhcp_lease_time", "3600"),
            ("new_interface_mtu", &mtu.to_string()),
        ] {
            ensure!(variable(&told, variable_name)? == value, "{name}: {variable_name} in {told}");
        }
        let (_client, told) = scene
            .clients
            .dhclient(client, true)
            .with_context(|| format!("{name}, DHCPv6\n{}", scene.explained(client)))?;
        let address = scene.address(client, true).to_string();
        ensure!(variable(&told, "new_ip6_address")? == address, "{name}: {told}");
        ensure!(variable(&told, "new_dhcp6_name_servers")? == "fd00:10:0:1::2", "{name}: {told}");
    }
    let said = scene.clients.machine(WEB_B).run("rdisc6 -1 -r 5 eth0")?;
    let line = |name: &str| {
        let found = said.lines().find(|line| line.trim_start().starts_with(name));
        found.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    for (name, value) in [
        ("Stateful address conf.", "Yes"),
        ("Prefix", "fd00:10:0:1::/64"),
        ("On-link", "Yes"),
        ("Autonomous address conf.", "No"),
        ("Recursive DNS server", "fd00:10:0:1::2"),
    ] {
        ensure!(line(name).as_deref() == Some(value), "{name}: {said}");
    }
    ensure!(line("MTU").is_some_and(|text| text.starts_with(&format!("{mtu} bytes"))), "{said}");

    // The metadata service knows who asks, whatever the asker claims.
    scene.clients.configure(WEB_B, &scene.ports[WEB_B], &["10.0.1.1"])?;
    let listener = scene.underlay.member(B).enter(|| Ok(TcpListener::bind("127.0.0.1:8775")?))?;
    let server = echo_once(listener);
    let get = "curl -sS --max-time 20 -H X-Towpath-Port:forged http://169.254.169.254/latest/meta-data/";
    let echoed = scene.clients.machine(WEB_B).run(get).with_context(|| scene.explained(WEB_B))?;
    server.join().unwrap()?;
    let headers = echoed.to_lowercase();
    ensure!(echoed.starts_with("GET /latest/meta-data/ HTTP/1.1"), "{echoed}");
    ensure!(headers.contains("x-towpath-port: vm1-eth0") && !headers.contains("forged"), "{echoed}");
    ensure!(headers.contains("x-forwarded-for: 10.0.1.11"), "{echoed}");
    Ok(())
}

#[test]
#[ignore = "needs root, DPDK and tshark: run by `make test`"]
fn machines_reach_whom_routes_and_peerings_say_and_nobody_else() -> Result<()> {
    let scene = Scene::start()?;
    let mut capture = Capture::start(&scene.scratch, scene.underlay.member(A), UPLINK)?;
    for (client, port) in scene.ports.iter().enumerate() {
        let gateway = match client {
            DB => "10.0.2.1",
            RED => "10.2.1.1",
            _ => "10.0.1.1",
        };
        // IPv6's came by router advertisement.
        scene.clients.configure(client, port, &[gateway])?;
    }
    for ipv6 in [false, true] {
        for client in [WEB_A, WEB_B, GREEN] {
            scene.ping(client, GATEWAYS[usize::from(ipv6)])?;
        }
        // The other host's machine in the subnet, the other subnet, the peered VPC; and back.
        for other in [WEB_B, DB, RED] {
            scene.ping(WEB_A, scene.address(other, ipv6))?;
            scene.ping(other, scene.address(WEB_A, ipv6))?;
        }
        traceroute(&scene, ipv6)?;
        isolated(&scene, ipv6)?;
    }
    routes(&scene)?;
    too_big(&scene)?;
    capture.stop()?;
    capture.assert_well_formed()?;
    let inside = capture.select("vxlan && icmp")?;
    ensure!(inside.len() >= 12, "the pings are not in the capture: {inside:#?}");
    Ok(())
}

fn traceroute(scene: &Scene, ipv6: bool) -> Result<()> {
    let (program, gateway) = if ipv6 { ("traceroute6", GATEWAYS[1]) } else { ("traceroute", GATEWAYS[0]) };
    let to = scene.address(DB, ipv6);
    let said = scene.clients.machine(WEB_A).run(&format!("busybox {program} -n -q 1 -w 10 -m 6 {to}"))?;
    let hops: Vec<&str> = said.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
    ensure!(hops == [gateway.to_string(), to.to_string()], "{program} {to}: {said}");
    Ok(())
}

/// A counter of ICMP in a machine.
fn icmp(scene: &Scene, client: usize, counter: &str) -> Result<u64> {
    let text = scene.clients.machine(client).run("cat /proc/net/snmp")?;
    let mut rows = text.lines().filter(|line| line.starts_with("Icmp:")).map(|l| l.split_whitespace());
    let (names, values) = rows.next().zip(rows.next()).context("ICMP counters")?;
    let value = names.zip(values).find(|(name, _)| *name == counter).map(|(_, value)| value);
    value.and_then(|text| text.parse().ok()).with_context(|| format!("{counter} in {text}"))
}

/// Errors that a machine was told of.
fn unreachables(scene: &Scene, client: usize) -> Result<u64> {
    icmp(scene, client, "InDestUnreachs")
}

/// Echo requests that came to a machine, of both families.
fn echoes(scene: &Scene, client: usize) -> Result<u64> {
    let text = scene.clients.machine(client).run("cat /proc/net/snmp6")?;
    let v6 = text.lines().find_map(|line| line.strip_prefix("Icmp6InEchos")?.trim().parse::<u64>().ok());
    Ok(icmp(scene, client, "InEchos")? + v6.context("Icmp6InEchos")?)
}

fn isolated(scene: &Scene, ipv6: bool) -> Result<()> {
    let before = echoes(scene, WEB_B)?;
    let green = scene.clients.machine(GREEN);
    let (to, mac) = (scene.address(WEB_B, ipv6), &scene.ports[WEB_B].mac);
    // Asked for, then known already.
    let asked = green.run(&format!("busybox ping -c 2 -W 1 {to}"));
    green.run(&format!("ip neigh replace {to} lladdr {mac} dev eth0 nud permanent"))?;
    let known = green.run(&format!("busybox ping -c 3 -W 1 -i 0.2 {to}"));
    ensure!(asked.is_err() && known.is_err(), "green reaches {to} of blue");
    // Peering does not pass on.
    let transit = scene.clients.machine(RED).run("busybox ping -c 1 -W 1 198.18.0.1");
    ensure!(transit.is_err(), "red reaches what only blue has a route to");
    let after = echoes(scene, WEB_B)?;
    ensure!(after == before, "{} of green's pings arrived in blue", after - before);
    Ok(())
}

fn routes(scene: &Scene) -> Result<()> {
    let router = scene.clients.machine(ROUTER);
    router.run_all("ip address add 198.18.0.1/32 dev lo\nip address add 198.18.0.200/32 dev lo")?;
    scene.ping(WEB_A, [198, 18, 0, 1].into()).context("through the router's port")?;
    let machine = scene.clients.machine(WEB_A);
    let silent = |to: &str| {
        let ping = machine.run(&format!("busybox ping -c 2 -W 1 -i 0.2 {to}"));
        ensure!(ping.is_err(), "{to} answers");
        Ok(())
    };
    // The longer prefix goes nowhere, without a word.
    let daemon = &scene.hosts[A].daemon;
    let port = &scene.ports[WEB_A].name;
    silent("198.18.0.200")?;
    wait::until("the black hole's count", LIMIT, || {
        Ok((daemon.drops(port, "blackhole")? == 2).then_some(()))
    })?;
    // Where no route leads, and where nobody is, the gateway says so.
    for to in ["203.0.113.1", "10.0.2.99"] {
        let before = unreachables(scene, WEB_A)?;
        silent(to)?;
        let told = unreachables(scene, WEB_A)? - before;
        ensure!(told == 2, "{told} of 2 pings to {to} were said to be in vain; {}", scene.explained(WEB_A));
    }
    Ok(())
}

/// The interface takes longer packets than the VPC: it is told, and sends shorter ones.
fn too_big(scene: &Scene) -> Result<()> {
    let machine = scene.clients.machine(WEB_A);
    // The router has advertised the MTU, too.
    let own = "net.ipv6.conf.eth0.accept_ra_mtu=0 net.ipv6.conf.eth0.mtu=1500";
    machine.run(&format!("busybox sysctl -w {own}"))?;
    for (ipv6, payload) in [(false, 1500 - 28), (true, 1500 - 48)] {
        let to = scene.address(WEB_B, ipv6);
        wait::until(&format!("an answer to {payload} bytes sent to {to}"), LIMIT, || {
            let ping = machine.run(&format!("busybox ping -c 1 -W 1 -s {payload} {to}"));
            Ok(ping.is_ok().then_some(()))
        })?;
        let learnt = machine.run(&format!("ip route get {to}"))?;
        ensure!(learnt.contains(&format!("mtu {}", 1500 - OVERHEAD)), "{to}: {learnt}");
    }
    Ok(())
}
