//! Running it: what it costs when idle, what it tells, how it ends and begins again.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use towpath_tests::frontend::{Frontend, ping_pong};
use towpath_tests::{Result, wait};

use crate::{LIMIT, Setting};

/// Processor time a process has used, in seconds (proc(5), fields 14 and 15 of its stat).
fn processor_seconds(process: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("a stat line")?.1.split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).context("ticks");
    Ok((ticks(11)? + ticks(12)?) / f64::from(u32::try_from(rustix::param::clock_ticks_per_second())?))
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn an_idle_switch_uses_less_than_a_hundredth_of_a_core_and_wakes() -> Result<()> {
    let mut setting = Setting::<2>::start()?;
    let (mut one, mut other) = (setting.attach(0)?, setting.attach(1)?);
    let [first, second] = setting.ports.clone();
    ping_pong((&mut one, &first), (&mut other, &second), 1000, LIMIT)?;
    let process = setting.daemon.process().id();
    let measure = || -> Result<f64> {
        let (begin, before) = (Instant::now(), processor_seconds(process)?);
        // What is measured is a time in which nothing happens: there is no event to wait for.
        thread::sleep(Duration::from_secs(2));
        Ok((processor_seconds(process)? - before) / begin.elapsed().as_secs_f64())
    };
    // It may take a moment to find that there is nothing to do.
    let mut used = measure()?;
    if used >= 0.01 {
        used = measure()?;
    }
    ensure!(used < 0.01, "{:.2} % of a core with nothing to do", used * 100.0);
    // From its sleep it forwards the first packet and all after.
    ping_pong((&mut one, &first), (&mut other, &second), 10, LIMIT)?;
    Ok(())
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn metrics_count_what_passed_and_what_was_dropped() -> Result<()> {
    let setting = Setting::<2>::start()?;
    let (mut one, mut other) = (setting.attach(0)?, setting.attach(1)?);
    let [first, second] = setting.ports.clone();
    ping_pong((&mut one, &first), (&mut other, &second), 50, LIMIT)?;
    let mut foreign = second.clone();
    foreign.name.push_str("-impostor");
    one.send(&towpath_tests::frontend::udp(&foreign, &second, b"not mine")?)?;
    let line = |text: &str, words: &[&str]| -> Option<f64> {
        let found = text.lines().find(|l| !l.starts_with('#') && words.iter().all(|w| l.contains(w)))?;
        found.rsplit(' ').next()?.parse().ok()
    };
    wait::until("the counts in the metrics", LIMIT, || {
        let text = setting.daemon.metrics()?;
        let dropped = line(&text, &["towpath_", "vm0-eth0", "spoofed_mac"]);
        let passed = line(&text, &["towpath_", "packets_total", "vm0-eth0"]);
        Ok((dropped == Some(1.0) && passed >= Some(50.0)).then_some(()))
    })
    .with_context(|| setting.daemon.metrics().unwrap_or_default())
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn after_a_kill_it_takes_its_sockets_again_and_guests_come_back() -> Result<()> {
    let mut setting = Setting::<2>::start()?;
    let [first, second] = setting.ports.clone();
    for crash in [true, false] {
        let (mut one, mut other) = (setting.attach(0)?, setting.attach(1)?);
        ping_pong((&mut one, &first), (&mut other, &second), 100, LIMIT)?;
        if crash {
            setting.daemon.crash_and_restart()?;
        } else {
            setting.daemon.restart()?;
        }
    }
    let (mut one, mut other) = (setting.attach(0)?, setting.attach(1)?);
    ping_pong((&mut one, &first), (&mut other, &second), 100, LIMIT)?;
    Ok(())
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn l_07_sigterm_with_32_connected_ports_ends_it_cleanly() -> Result<()> {
    let mut setting = Setting::<32>::start()?;
    let mut frontends = (0..32).map(|number| setting.attach(number)).collect::<Result<Vec<Frontend>>>()?;
    let ports = setting.ports.clone();
    // All forward, the worker is in the middle of it.
    for pair in 0..16 {
        let (one, other) = frontends.split_at_mut(2 * pair + 1);
        let (one, other) = (&mut one[2 * pair], &mut other[0]);
        ping_pong((one, &ports[2 * pair]), (other, &ports[2 * pair + 1]), 5, LIMIT)?;
    }
    for frontend in &mut frontends {
        for _ in 0..32 {
            frontend.send(&towpath_tests::frontend::udp(&ports[0], &ports[1], b"in flight")?)?;
        }
    }
    let begin = Instant::now();
    let status = setting.daemon.stop()?;
    ensure!(status.success(), "{status}:\n{}", setting.daemon.process().tail());
    ensure!(begin.elapsed() < Duration::from_secs(5), "it took {:?}", begin.elapsed());
    let left: Vec<_> = ports.iter().filter(|port| port.socket.exists()).map(|port| &port.name).collect();
    ensure!(left.is_empty(), "sockets of {left:?} are left");
    let log = setting.daemon.process().log();
    ensure!(!log.contains("panicked"), "{log}");
    Ok(())
}
