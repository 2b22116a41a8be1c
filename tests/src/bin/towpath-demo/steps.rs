//! What the demo shows, one function each; each returns a short remark for its row.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use towpath_tests::agent::Counts;
use towpath_tests::guest::Guest;
use towpath_tests::{Result, wait};

use crate::report::Report;
use crate::world::{
    A, B, FLOATING, GREEN, LIMIT, PUBLIC_PORT, SERVER, SHARED as SHARED_OUTSIDE, VM1, VM2, VM3, VPC_MTU,
    World,
};

/// Of the guest's memory, kept and compared across its migration.
const PATTERN_BYTES: usize = 64 << 20;
/// The gateway of subnet `web`.
const GATEWAYS: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0x10, 0, 1, 0, 0, 0, 1)),
];

pub(crate) type Step = fn(&mut World, &mut Report) -> Result<String>;

/// The rows of the table, in order.
pub(crate) const STEPS: &[(&str, Step)] = &[
    ("all get their IPv4 addresses by DHCP", leases),
    ("routers advertise themselves over IPv6", routers),
    ("ping the gateway, IPv4 and IPv6", ping_gateway),
    ("ping the other host's guest over IPv4", ping_ipv4),
    ("ping the other host's guest over IPv6", ping_ipv6),
    ("traceroute to the other subnet", traceroute),
    ("20 MB over TCP, equal checksums", transfer),
    ("a port that its group opens, and one it does not", groups),
    ("a changed rule cuts a live connection", cut),
    ("a VPC with the same addresses is apart", isolated),
    ("a spoofed source address is refused", spoofed),
    ("towpathd restarted, the connection goes on", restarted),
    ("vm1 migrated from node-a to node-b", migrated),
    ("vm1 migrated back to node-a", migrated_back),
    ("a VM reaches an address outside by SNAT", snat),
    ("a floating IP is reached from outside", floating),
    ("port status names the features", status),
    ("1,000 connections balanced over two VMs, one dies", balanced),
];

fn leases(world: &mut World, _: &mut Report) -> Result<String> {
    let expected: BTreeMap<&str, String> = [
        ("mask", "24".to_owned()),
        ("mtu", VPC_MTU.to_string()),
        ("dns", "10.0.1.2".to_owned()),
        ("domain", "blue.internal".to_owned()),
        ("lease", "3600".to_owned()),
    ]
    .into();
    let mut given = Vec::new();
    for guest in [VM1, VM2, VM3, GREEN] {
        let lease = world.guests[guest].lease()?;
        let ip = world.address(guest, false)?.to_string();
        ensure!(lease.get("ip") == Some(&ip), "{} was given {lease:?}", world.guests[guest].name());
        for (name, value) in &expected {
            ensure!(lease.get(*name) == Some(value), "{name} should be {value}: {lease:?}");
        }
        given.push(ip);
    }
    Ok(format!("{}, MTU {VPC_MTU}", given.join(", ")))
}

fn routers(world: &mut World, _: &mut Report) -> Result<String> {
    let mut router = String::new();
    for guest in &mut world.guests {
        let routes = guest.await_router()?;
        let default = routes.lines().find(|line| line.starts_with("default via"));
        router = default.and_then(|line| line.split_whitespace().nth(2)).unwrap_or_default().to_owned();
    }
    Ok(format!("default route by {router}"))
}

/// Ten pings from a guest that must all be answered, after the first that is.
fn ten_pings(guest: &mut Guest, to: IpAddr) -> Result<()> {
    guest.ping(to, LIMIT)?;
    let answered = guest.pings_answered(to, 10)?;
    ensure!(answered == 10, "{answered} of 10 pings from {} to {to} were answered", guest.name());
    Ok(())
}

fn ping_gateway(world: &mut World, _: &mut Report) -> Result<String> {
    for gateway in GATEWAYS {
        for guest in [VM1, VM2] {
            ten_pings(&mut world.guests[guest], gateway)?;
        }
    }
    Ok(format!("{} and {}, on both hosts", GATEWAYS[0], GATEWAYS[1]))
}

fn ping_ipv4(world: &mut World, _: &mut Report) -> Result<String> {
    ping(world, false)
}

fn ping_ipv6(world: &mut World, _: &mut Report) -> Result<String> {
    ping(world, true)
}

fn ping(world: &mut World, ipv6: bool) -> Result<String> {
    let (one, other) = (world.address(VM1, ipv6)?, world.address(VM2, ipv6)?);
    ten_pings(&mut world.guests[VM1], other)?;
    ten_pings(&mut world.guests[VM2], one)?;
    Ok(format!("{one} and {other}: 20 of 20"))
}

fn traceroute(world: &mut World, _: &mut Report) -> Result<String> {
    let mut shown = Vec::new();
    for (ipv6, gateway) in [(false, GATEWAYS[0]), (true, GATEWAYS[1])] {
        let program = if ipv6 { "traceroute6" } else { "traceroute" };
        let to = world.address(VM3, ipv6)?;
        world.guests[VM1].ping(to, LIMIT)?;
        let said = world.guests[VM1].agent().run(&format!("{program} -n -q 1 -w 10 -m 6 {to}"))?;
        // Lines such as " 1  10.0.1.1  0.812 ms".
        let hops: Vec<&str> =
            said.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
        ensure!(hops == [gateway.to_string(), to.to_string()], "{program} {to} said: {said}");
        shown.push(hops.join(" > "));
    }
    Ok(shown.join(", "))
}

fn transfer(world: &mut World, report: &mut Report) -> Result<String> {
    let begin = Instant::now();
    let transfer = world.start_transfer(false, 5001, 20_000_000, None)?;
    let checksum = world.finish_transfer(transfer, report)?;
    Ok(format!(
        "{checksum:016x}, {:.0} Mbit/s between emulated guests",
        160.0 / begin.elapsed().as_secs_f64()
    ))
}

/// Packets from other hosts that ended on the second host because of rules.
fn denied(world: &World) -> Result<u64> {
    let metrics = world.hosts[B].daemon.metrics()?;
    let of = |line: &&str| line.starts_with("towpath_uplink_drops_total") && line.contains("policy_denied");
    let value = metrics.lines().find(of).and_then(|line| line.rsplit(' ').next()).unwrap_or("0");
    let count: f64 = value.parse().with_context(|| format!("policy_denied {value} in the metrics"))?;
    Ok(count as u64)
}

fn groups(world: &mut World, report: &mut Report) -> Result<String> {
    let transfer = world.start_transfer_between([VM1, VM3], false, 5432, 1_000_000, None)?;
    world.finish_transfer(transfer, report).context("TCP to port 5432, which the group opens")?;
    let before = denied(world)?;
    let to = world.address(VM3, false)?;
    world.guests[VM3].agent().receive((to, 5433).into())?;
    let tried = world.guests[VM1].agent().run_any(&format!("nc -w 3 {to} 5433 </dev/null"), LIMIT)?;
    ensure!(tried.status != 0, "port 5433 answered: {tried:?}");
    let denied = denied(world)? - before;
    ensure!(denied > 0, "the connection failed, but not by the rules");
    Ok(format!("1 MB to port 5432; to port 5433 {denied} packets ended as policy_denied"))
}

/// How long after the daemons say that they have new rules a live connection may go on.
const CUT: std::time::Duration = std::time::Duration::from_millis(100);

fn cut(world: &mut World, report: &mut Report) -> Result<String> {
    let transfer = world.start_transfer_between([VM1, VM3], false, 5432, 8_000_000, Some(2_000_000))?;
    world.until_received(transfer, 1_000_000, report)?;
    report.progress("changing the rules");
    let begin = Instant::now();
    world.open("")?;
    let applied = begin.elapsed();
    // The last byte that still came, as near as questions to the guest tell.
    let (mut last, mut bytes) = (begin.elapsed(), world.received(transfer)?);
    while begin.elapsed() < applied + CUT * 10 {
        let now = world.received(transfer)?;
        if now != bytes {
            (last, bytes) = (begin.elapsed(), now);
        }
    }
    let after = last.saturating_sub(applied);
    ensure!(after <= CUT, "{bytes} bytes came, the last {after:?} after the rules were there");
    ensure!(bytes < 8_000_000, "the transfer was over before it was cut");
    world.open("5432")?;
    world.finish_transfer(transfer, report).context("the connection, with the old rules again")?;
    Ok(format!(
        "after {:.1} MB: new rules in {} ms, nothing came later than {} ms after; with the old ones it goes on",
        bytes as f64 / 1e6,
        applied.as_millis(),
        after.as_millis()
    ))
}

/// ICMP echo requests a guest's kernel has seen.
fn echoes_seen(guest: &mut Guest) -> Result<u64> {
    let text = guest.agent().run("cat /proc/net/snmp")?;
    let mut rows = text.lines().filter(|l| l.starts_with("Icmp:")).map(|l| l.split_whitespace());
    let (names, values) = rows.next().zip(rows.next()).context("no ICMP counters in the guest")?;
    let found = names.zip(values).find(|(name, _)| *name == "InEchos").map(|(_, value)| value);
    found.and_then(|v| v.parse().ok()).context("no InEchos in the guest")
}

fn isolated(world: &mut World, _: &mut Report) -> Result<String> {
    // The green guest's own network works, and what it sends to blue's address has the same MAC and IP source as blue's own guest.
    ten_pings(&mut world.guests[GREEN], GATEWAYS[0]).context("green's own gateway")?;
    let to = world.address(VM2, false)?;
    let mac = world.ports[VM2].mac.clone();
    let seen = echoes_seen(&mut world.guests[VM2])?;
    let green = &mut world.guests[GREEN];
    let asked = green.pings_answered(to, 5)?;
    // Nobody tells it the MAC address; perhaps it knows it.
    green.agent().run(&format!("arp -i eth0 -s {to} {mac}"))?;
    let known = green.pings_answered(to, 5)?;
    ensure!(asked + known == 0, "{} of 10 pings from green to blue were answered", asked + known);
    let arrived = echoes_seen(&mut world.guests[VM2])? - seen;
    ensure!(arrived == 0, "{arrived} of 10 pings from green arrived in blue");
    Ok(format!("0 of 10 pings to {to} arrived, even with its MAC known"))
}

fn spoofed(world: &mut World, _: &mut Report) -> Result<String> {
    const SENT: u64 = 5;
    let to = world.address(VM2, false)?;
    let name = world.ports[VM1].name.clone();
    world.guests[VM1].ping(to, LIMIT)?;
    let seen = echoes_seen(&mut world.guests[VM2])?;
    let daemon = &world.hosts[A].daemon;
    let dropped = daemon.drops(&name, "spoofed_address")?;
    let spoof = format!(
        "ip address add 10.0.1.77/24 dev eth0 && ping -I 10.0.1.77 -i 0.2 -W 1 -c {SENT} {to}; ip address del 10.0.1.77/24 dev eth0"
    );
    world.guests[VM1].agent().run(&spoof)?;
    let counted = wait::until("the spoofed packets in the counter", LIMIT, || {
        let counted = daemon.drops(&name, "spoofed_address")? - dropped;
        Ok((counted >= SENT).then_some(counted))
    })?;
    let passed = echoes_seen(&mut world.guests[VM2])? - seen;
    ensure!(passed == 0, "{passed} of {SENT} spoofed packets arrived");
    world.guests[VM1].ping(to, LIMIT).context("the honest address after the spoofed one")?;
    Ok(format!("{counted} counted as spoofed_address, 0 arrived"))
}

fn restarted(world: &mut World, report: &mut Report) -> Result<String> {
    let transfer = world.start_transfer(true, 5002, 12_000_000, Some(2_000_000))?;
    let before = world.until_received(transfer, 3_000_000, report)?;
    let begin = Instant::now();
    let daemon = &mut world.hosts[A].daemon;
    let old = daemon.process().id();
    daemon.restart()?;
    let new = daemon.process().id();
    ensure!(old != new, "the daemon has the same process id as before");
    world.until_received(transfer, before.bytes + 1_000_000, report)?;
    let gap = begin.elapsed().as_secs_f32();
    world.finish_transfer(transfer, report)?;
    Ok(format!("node-a's after {:.0} MB; 1 MB more {gap:.1} s later", before.bytes as f64 / 1e6))
}

fn migrated(world: &mut World, report: &mut Report) -> Result<String> {
    migrate(world, [A, B], 5003, report)
}

fn migrated_back(world: &mut World, report: &mut Report) -> Result<String> {
    migrate(world, [B, A], 5004, report)
}

/// Migrate [`VM1`] while [`VM2`] sends to it over TCP and pings it.
fn migrate(world: &mut World, [from, to]: [usize; 2], port: u16, report: &mut Report) -> Result<String> {
    let pattern = world.guests[VM1].agent().fill_memory(PATTERN_BYTES, u64::from(port))?;
    let transfer = world.start_transfer(false, port, 20_000_000, Some(2_000_000))?;
    let address = world.address(VM1, false)?;
    world.guests[VM2]
        .agent()
        .run(&format!("ping -i 0.1 {address} >/tmp/pings 2>&1 </dev/null & echo $! >/tmp/pinging"))?;
    world.until_received(transfer, 2_000_000, report)?;

    report.progress("both hosts realize the port");
    let [source, target] = [from, to].map(|host| world.hosts[host].name.clone());
    let name = world.ports[VM1].name.clone();
    world.ports[VM1].migrating_to = Some(target.clone());
    world.apply_ports()?;

    report.progress("migrating");
    let config = world.guests[VM1].config().clone().on_socket(&world.hosts[to].socket(&name));
    let moved = world.guests[VM1].migrate_to(&world.image, &world.scratch, config, LIMIT)?;
    let agent = world.guests[VM1].agent();
    let received = agent.progress(transfer.receiving)?.bytes;
    let after = agent.memory_checksum()?;
    ensure!(after == pattern, "memory changed: checksum {pattern:016x} before, {after:016x} after");
    // Still with both hosts in the manifests: what follows goes where the guest is.
    let went_on = world.until_received(transfer, received + 1_000_000, report);
    went_on.with_context(|| world.explained(VM1))?;

    world.ports[VM1].host = target;
    world.ports[VM1].migrating_to = None;
    world.apply_ports()?;
    world.hosts[to].daemon.until_phase(&name, "Forwarding")?;
    world.finish_transfer(transfer, report)?;
    let said =
        world.guests[VM2].agent().run("kill -INT $(cat /tmp/pinging); while [ -d /proc/$(cat /tmp/pinging) ]; do usleep 10000; done; cat /tmp/pings")?;
    let (sent, answered) = pings(&said).with_context(|| format!("ping said: {said}"))?;
    ensure!(moved.rounds >= 2, "the migration never looked at the dirty log: {moved:?}");
    let other = world.address(VM2, false)?;
    ten_pings(&mut world.guests[VM1], other).with_context(|| format!("after it left {source}"))?;
    Ok(format!(
        "downtime {} ms, {} of {sent} pings lost, TCP went on, {} MB unchanged",
        moved.downtime.as_millis(),
        sent - answered,
        PATTERN_BYTES >> 20,
    ))
}

/// How many were sent and answered, of ping's last words.
fn pings(said: &str) -> Option<(u64, u64)> {
    let summary = said.lines().find(|line| line.contains("packets transmitted"))?;
    let mut counts = summary.split(", ").filter_map(|part| part.split(' ').next()?.parse().ok());
    Some((counts.next()?, counts.next()?))
}

/// Bytes that go out or in.
const OUTSIDE_BYTES: u64 = 1_000_000;

/// Takes one connection, and reads all that comes by it: whose it is, and how many bytes came.
fn take(listener: &TcpListener) -> Result<(SocketAddr, u64)> {
    listener.set_nonblocking(true)?;
    let (mut stream, peer) = wait::until("a connection from the guest", LIMIT, || match listener.accept() {
        Ok(taken) => Ok(Some(taken)),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error.into()),
    })?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let (mut buffer, mut bytes) = (vec![0; 1 << 16], 0);
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok((peer, bytes)),
            some => bytes += some as u64,
        }
    }
}

fn snat(world: &mut World, report: &mut Report) -> Result<String> {
    let address = SocketAddr::new(SERVER, 7000);
    let listener = world.outside().enter(|| Ok(TcpListener::bind(address)?))?;
    report.progress("TCP from vm1 to the server outside");
    let sending = world.guests[VM1].agent().send(address, OUTSIDE_BYTES, 7, None)?;
    let (peer, bytes) = take(&listener).with_context(|| world.explained(VM1))?;
    world.guests[VM1].agent().until_done(sending, LIMIT)?;
    ensure!((peer.ip(), bytes) == (SHARED_OUTSIDE, OUTSIDE_BYTES), "{bytes} bytes came from {peer}");
    let inside = world.address(VM1, false)?;
    Ok(format!("{SERVER} took 1 MB from {inside} as {peer}"))
}

fn floating(world: &mut World, report: &mut Report) -> Result<String> {
    let inside = world.address(VM2, false)?;
    let receiving = world.guests[VM2].agent().receive((inside, PUBLIC_PORT).into())?;
    report.progress("TCP from outside to the floating IP");
    let address = SocketAddr::new(FLOATING, PUBLIC_PORT);
    let connect = || {
        wait::until("a connection from outside", LIMIT, || {
            Ok(TcpStream::connect_timeout(&address, std::time::Duration::from_secs(5)).ok())
        })
    };
    let mut stream = world.outside().enter(connect).with_context(|| world.explained(VM2))?;
    stream.write_all(&vec![0x5a; OUTSIDE_BYTES as usize])?;
    drop(stream);
    let got = world.guests[VM2].agent().until_done(receiving, LIMIT)?;
    ensure!(got.bytes == OUTSIDE_BYTES, "{got:?} of {OUTSIDE_BYTES} bytes from outside");
    Ok(format!("1 MB to {address} arrived at {inside}"))
}

fn status(world: &mut World, report: &mut Report) -> Result<String> {
    let mut remark = String::new();
    for (host, port) in [(A, VM1), (B, VM2)] {
        let (daemon, port) = (&world.hosts[host].daemon, &world.ports[port]);
        let text = daemon.towpath_text(&["describe", "port", &port.name])?;
        report.note(format!(
            "{}$ towpath describe port {}\n{}",
            world.hosts[host].name,
            port.name,
            text.trim_end()
        ));
        let status = daemon.port(&port.name)?["status"].take();
        let phase = status["phase"].as_str().unwrap_or_default();
        ensure!(phase == "Forwarding", "{} is {phase}: {status}", port.name);
        let features: Vec<&str> =
            status["features"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        ensure!(!features.is_empty(), "{} has no features: {status}", port.name);
        if !features.iter().all(|feature| text.contains(feature)) {
            bail!("{}: the features in its description differ from its status: {features:?}", port.name);
        }
        remark = format!("{} features on {}", features.len(), port.name);
    }
    Ok(remark)
}

/// Connections of the last row.
const CONNECTIONS: usize = 1000;
/// The address that stands for both VMs, and its port.
const SHARED: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 100, 1)), 80);

/// State and reason of a target, as the host of the client sees it.
fn target(world: &World, guest: usize) -> Result<(String, String)> {
    let said = world.hosts[B].daemon.towpath_json(&["get", "loadbalancer", "web-lb"])?;
    let name = format!("port {}", world.ports[guest].name);
    let targets = said["status"]["targets"].as_array().context("no targets")?;
    let found = targets.iter().find(|target| target["name"] == name).context("no such target")?;
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    Ok((text("state"), text("reason")))
}

fn balanced(world: &mut World, report: &mut Report) -> Result<String> {
    for (guest, name) in [(VM1, 'a'), (VM2, 'b')] {
        let address = world.address(guest, false)?;
        world.guests[guest].agent().serve((address, 8080).into(), name)?;
    }
    report.progress("waiting for the health checks");
    world.balance()?;
    for guest in [VM1, VM2] {
        wait::until("a good health check", LIMIT, || Ok((target(world, guest)?.0 == "up").then_some(())))?;
    }
    report.progress("1,000 connections");
    let spread = world.guests[VM3].agent().open_crowd(SHARED, CONNECTIONS, LIMIT * 2)?;
    let count = |counts: &Counts, name: char| counts.get(&name).copied().unwrap_or(0);
    let (a, b) = (count(&spread, 'a'), count(&spread, 'b'));
    // Binomial, 1,000 draws of 1/2: 6 standard deviations are 95.
    ensure!(a + b == CONNECTIONS as u64 && a.abs_diff(b) <= 190, "they were answered by {spread:?}");
    report.progress("vm1 dies");
    let begin = Instant::now();
    world.guests[VM1].process().kill()?;
    let reason = wait::until("vm1 to be found dead", LIMIT, || {
        let (state, reason) = target(world, VM1)?;
        Ok((state == "down").then_some(reason))
    })?;
    let found = begin.elapsed().as_secs_f32();
    report.progress("asking all connections, and 1,000 new ones");
    let left = world.guests[VM3].agent().ask_crowd(LIMIT * 2)?;
    ensure!((count(&left, 'b'), count(&left, '-')) == (b, a), "before {spread:?}, then {left:?}");
    let new = world.guests[VM3].agent().open_crowd(SHARED, CONNECTIONS, LIMIT * 2)?;
    ensure!(count(&new, 'b') == CONNECTIONS as u64, "new ones were answered by {new:?}");
    Ok(format!(
        "{a} + {b}; vm1 found dead in {found:.1} s ({reason}): vm2 kept its {b}, {CONNECTIONS} new ones went to it"
    ))
}
