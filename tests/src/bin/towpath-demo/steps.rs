//! What the demo shows, one function each; each returns a short remark for its row.

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use towpath_tests::Result;
use towpath_tests::guest::Guest;

use crate::report::Report;
use crate::world::{LIMIT, World};

/// Of the receiver's memory, kept and compared across its migration.
const PATTERN_BYTES: usize = 64 << 20;

pub(crate) type Step = fn(&mut World, &mut Report) -> Result<String>;

/// The rows of the table, in order.
pub(crate) const STEPS: &[(&str, Step)] = &[
    ("ping over IPv4, both ways", ping_ipv4),
    ("ping over IPv6, both ways", ping_ipv6),
    ("20 MB over TCP, equal checksums", transfer),
    ("a spoofed source address is refused", spoofed),
    ("towpathd restarted, the connection goes on", restarted),
    ("a receiving guest migrated, all intact", migrated),
    ("port status names the features", status),
];

fn ping_ipv4(world: &mut World, _: &mut Report) -> Result<String> {
    ping(world, false)
}

fn ping_ipv6(world: &mut World, _: &mut Report) -> Result<String> {
    ping(world, true)
}

fn ping(world: &mut World, ipv6: bool) -> Result<String> {
    let (one, other) = (world.sender.address(ipv6)?, world.receiver.address(ipv6)?);
    let mut answered = 0;
    for (guest, to) in [(&mut world.sender, other), (&mut world.receiver, one)] {
        // The first may come before the port forwards.
        guest.ping(to, LIMIT)?;
        answered += guest.pings_answered(to, 5)?;
    }
    ensure!(answered == 10, "{answered} of 10 pings were answered");
    Ok(format!("{one} and {other}: 10 of 10"))
}

fn transfer(world: &mut World, report: &mut Report) -> Result<String> {
    let transfer = world.start_transfer(false, 5001, 20_000_000, None)?;
    let checksum = world.finish_transfer(transfer, report)?;
    Ok(format!("{checksum:016x}"))
}

/// ICMP echo requests the receiver's kernel has seen.
fn echoes_seen(guest: &mut Guest) -> Result<u64> {
    let text = guest.agent().run("cat /proc/net/snmp")?;
    let mut rows = text.lines().filter(|l| l.starts_with("Icmp:")).map(|l| l.split_whitespace());
    let (names, values) = rows.next().zip(rows.next()).context("no ICMP counters in the guest")?;
    let found = names.zip(values).find(|(name, _)| *name == "InEchos").map(|(_, value)| value);
    found.and_then(|v| v.parse().ok()).context("no InEchos in the guest")
}

fn spoofed(world: &mut World, _: &mut Report) -> Result<String> {
    const SENT: u64 = 5;
    let to = world.receiver.address(false)?;
    let name = world.ports[0].name.clone();
    world.sender.ping(to, LIMIT)?;
    let (seen, dropped) = (echoes_seen(&mut world.receiver)?, world.daemon.drops(&name, "spoofed_address")?);
    let spoof = format!(
        "ip address add 10.0.1.77/24 dev eth0 && ping -I 10.0.1.77 -i 0.2 -W 1 -c {SENT} {to}; ip address del 10.0.1.77/24 dev eth0"
    );
    world.sender.agent().run(&spoof)?;
    let counted = towpath_tests::wait::until("the spoofed packets in the counter", LIMIT, || {
        let counted = world.daemon.drops(&name, "spoofed_address")? - dropped;
        Ok((counted >= SENT).then_some(counted))
    })?;
    let passed = echoes_seen(&mut world.receiver)? - seen;
    ensure!(passed == 0, "{passed} of {SENT} spoofed packets arrived");
    world.sender.ping(to, LIMIT).context("the honest address after the spoofed one")?;
    Ok(format!("{counted} counted as spoofed_address, 0 arrived"))
}

fn restarted(world: &mut World, report: &mut Report) -> Result<String> {
    let transfer = world.start_transfer(true, 5002, 12_000_000, Some(2_000_000))?;
    let before = world.until_received(transfer, 3_000_000, report)?;
    let (old, begin) = (world.daemon.process().id(), std::time::Instant::now());
    world.daemon.restart()?;
    let new = world.daemon.process().id();
    ensure!(old != new, "the daemon has the same process id as before");
    world.until_received(transfer, before.bytes + 1_000_000, report)?;
    let gap = begin.elapsed().as_secs_f32();
    world.finish_transfer(transfer, report)?;
    Ok(format!(
        "process {old} to {new} after {:.0} MB, 1 MB more {gap:.1} s later",
        before.bytes as f64 / 1e6
    ))
}

fn migrated(world: &mut World, report: &mut Report) -> Result<String> {
    let pattern = world.receiver.agent().fill_memory(PATTERN_BYTES, 7)?;
    let transfer = world.start_transfer(false, 5003, 16_000_000, Some(2_000_000))?;
    let before = world.until_received(transfer, 2_000_000, report)?;
    report.progress("migrating the receiver into a file");
    let file = world.scratch.join("receiver.state");
    let statistics = world.receiver.migrate_to_file(&file, LIMIT)?;
    report.progress("resuming it in a new QEMU");
    let config = world.receiver.config().clone();
    world.receiver = Guest::resume_from_file(&world.image, &world.scratch, config, &file)?;
    let after = world.receiver.agent().memory_checksum()?;
    ensure!(after == pattern, "memory changed: checksum {pattern:016x} before, {after:016x} after");
    world.until_received(transfer, before.bytes + 1_000_000, report)?;
    world.finish_transfer(transfer, report)?;
    std::fs::remove_file(&file)?;
    let rounds = statistics["ram"]["dirty-sync-count"].as_u64().unwrap_or_default();
    ensure!(rounds >= 2, "the migration never looked at the dirty log: {statistics}");
    Ok(format!("{} MB unchanged, {rounds} rounds of the dirty log, TCP went on", PATTERN_BYTES >> 20))
}

fn status(world: &mut World, report: &mut Report) -> Result<String> {
    let mut remark = String::new();
    for port in &world.ports {
        let text = world.daemon.towpath_text(&["describe", "port", &port.name])?;
        report.note(format!("$ towpath describe port {}\n{}", port.name, text.trim_end()));
        let status = world.daemon.port(&port.name)?["status"].take();
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
