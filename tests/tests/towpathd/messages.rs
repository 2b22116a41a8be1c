//! Messages of well-behaved front ends in the middle of traffic: what they cost, and what they change.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, ensure};
use towpath_tests::frontend::{Frontend, udp};
use towpath_tests::survivor::{Rings, Survivor};
use towpath_tests::{Result, wait};
use vhost::VhostBackend;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::{LIMIT, Setting};

/// Sends `count` numbered packets from one port to another, at most `window` of them on their way; all must arrive, in order.
fn stream(
    setting: &Setting<2>,
    (one, other): (&mut Frontend, &mut Frontend),
    (count, window): (u32, u32),
) -> Result<()> {
    let [from, to] = &setting.ports;
    let (mut sent, mut received) = (0, 0);
    let mut last = Instant::now();
    while received < count {
        while sent < count && sent - received < window {
            one.send(&udp(from, to, format!("number {sent}").as_bytes())?)?;
            sent += 1;
        }
        match other.try_receive()? {
            Some(packet) => {
                ensure!(packet == udp(from, to, format!("number {received}").as_bytes())?, "out of order");
                received += 1;
                last = Instant::now();
            }
            None => thread::yield_now(),
        }
        ensure!(last.elapsed() < LIMIT, "{received} of {sent} came; {}", setting.describe());
    }
    Ok(())
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn interrupts_changed_without_pause_under_traffic_cost_no_packet() -> Result<()> {
    let setting = Setting::<2>::start()?;
    let (mut one, mut other) = (setting.attach(0)?, setting.attach(1)?);
    let sessions = [one.session().clone(), other.session().clone()];
    let stop = AtomicBool::new(false);
    let changes = thread::scope(|scope| -> Result<u32> {
        let changer = scope.spawn(|| -> Result<u32> {
            let call = EventFd::new(EFD_NONBLOCK).context("make an eventfd")?;
            let mut changes = 0;
            while !stop.load(Ordering::Relaxed) {
                for session in &sessions {
                    for ring in 0..2 {
                        session.set_vring_call(ring, &call).context("SET_VRING_CALL")?;
                        changes += 1;
                    }
                }
            }
            Ok(changes)
        });
        let streamed = stream(&setting, (&mut one, &mut other), (100_000, 100));
        stop.store(true, Ordering::Relaxed);
        let changes = changer.join().map_err(|_| anyhow::anyhow!("the changer panicked"))??;
        streamed?;
        Ok(changes)
    })?;
    ensure!(changes >= 100, "only {changes} changes met the traffic");
    let status = setting.daemon.port(&setting.ports[0].name)?["status"].take();
    ensure!(status["drops"].as_array().is_some_and(Vec::is_empty), "{status}");
    Ok(())
}

/// NET_SET_MTU and SEND_RARP (vhost-user, "Front-end message types").
const NET_SET_MTU: u32 = 20;
const SEND_RARP: u32 = 19;

fn survivors(setting: &Setting<2>) -> Result<[Survivor; 2]> {
    let mut guests = [Survivor::new(Rings::default())?, Survivor::new(Rings::default())?];
    for (guest, port) in guests.iter_mut().zip(&setting.ports) {
        guest.attach(&port.socket, LIMIT)?;
        setting.daemon.until_phase(&port.name, "Forwarding")?;
    }
    Ok(guests)
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn a_front_end_sets_an_mtu_up_to_the_ports_and_nothing_longer_arrives() -> Result<()> {
    let setting = Setting::<2>::start()?;
    let [mut one, mut other] = survivors(&setting)?;
    let [from, to] = &setting.ports;
    let mtu = |port: &str| -> Result<u64> {
        setting.daemon.port(port)?["status"]["mtu"].as_u64().context("an MTU")
    };
    ensure!(!other.ask(NET_SET_MTU, 1501_u64.to_ne_bytes())?, "more than the port's");
    ensure!(other.ask(NET_SET_MTU, 1400_u64.to_ne_bytes())?, "less than the port's");
    wait::until("the MTU in the status", LIMIT, || Ok((mtu(&to.name)? == 1400).then_some(())))?;
    ensure!(mtu(&from.name)? == 1500, "the other port's is its own");
    // 28 bytes of IPv4 and UDP.
    let packet = |mtu: usize| udp(from, to, &vec![7; mtu - 28]);
    for length in [1401, 1400, 1500] {
        ensure!(one.send(&packet(length)?)?);
    }
    wait::until("packets to be dropped", LIMIT, || {
        Ok((setting.daemon.drops(&from.name, "too_large")? == 2).then_some(()))
    })
    .with_context(|| setting.describe())?;
    let arrived = wait::until("the packet that fits", LIMIT, || other.try_receive())?;
    ensure!(arrived == packet(1400)?, "{} bytes", arrived.len());
    ensure!(other.try_receive()?.is_none(), "something else arrived");
    // The one with the smaller MTU may be sent to with all of its own.
    ensure!(other.send(&udp(to, from, &[7; 1500 - 28])?)?);
    wait::until("a packet the other way", LIMIT, || one.try_receive())?;
    Ok(())
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn v35_an_announcement_after_a_migration_is_checked_counted_and_sent_to_nobody() -> Result<()> {
    let setting = Setting::<2>::start()?;
    let [mut one, mut other] = survivors(&setting)?;
    let own = [2, 0, 0, 0, 1, 0, 0, 0];
    ensure!(setting.ports[0].mac == "02:00:00:00:01:00");
    for (mac, accepted) in [(own, true), ([2, 0, 0, 0, 1, 1, 0, 0], true), ([0xff; 8], false)] {
        ensure!(one.ask(SEND_RARP, mac)? == accepted, "{mac:02x?}");
    }
    let count = |metrics: &str, result: &str| -> bool {
        metrics.lines().any(|line| {
            line.starts_with("towpath_port_rarps_total")
                && line.contains("vm0-eth0")
                && line.contains(result)
                && line.ends_with(" 1.0")
        })
    };
    let metrics = setting.daemon.metrics()?;
    ensure!(count(&metrics, "accepted") && count(&metrics, "refused"), "{metrics}");
    // What was sent after it comes first.
    let after = udp(&setting.ports[0], &setting.ports[1], b"after")?;
    ensure!(one.send(&after)?);
    let first = wait::until("a packet", LIMIT, || other.try_receive())?;
    ensure!(first == after, "{first:02x?}");
    Ok(())
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn a_feature_that_the_manifest_withholds_is_not_offered() -> Result<()> {
    const PACKED: u64 = 1 << 34;
    const CSUM: u64 = 1;
    const HOST_TSO4: u64 = 1 << 11;
    let mut setting = Setting::<2>::start_with(|port| {
        if port.name == "vm0-eth0" {
            port.without = vec!["packed ring", "checksum offload from the guest"];
        }
    })?;
    let [mut one, mut other] = survivors(&setting)?;
    let offered = |guest: &mut Survivor| guest.session()?.get_features().context("GET_FEATURES");
    ensure!(offered(&mut one)? & (PACKED | CSUM | HOST_TSO4) == 0, "TSO needs the checksum");
    ensure!(offered(&mut other)? & (PACKED | CSUM | HOST_TSO4) == PACKED | CSUM | HOST_TSO4);
    let text = setting.daemon.towpath_text(&["describe", "port", "vm0-eth0"])?;
    let line = text.lines().find(|line| line.starts_with("Not offered:")).context("a line about it")?;
    ensure!(line.contains("packed ring") && line.contains("checksum offload from the guest"), "{line}");
    // A change is for the next front end; the one that is there stays.
    let mut ports = setting.ports.clone();
    ports[0].without.clear();
    setting.daemon.write_ports(&ports)?;
    setting.daemon.reload()?;
    ensure!(one.send(&udp(&ports[0], &ports[1], b"still here")?)?);
    wait::until("a packet", LIMIT, || other.try_receive())?;
    ensure!(offered(&mut one)? & PACKED == 0, "the same front end is offered the same");
    one.attach(&ports[0].socket, LIMIT)?;
    ensure!(offered(&mut one)? & PACKED != 0);
    Ok(())
}
