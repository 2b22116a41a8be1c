//! Checks that explain why a switch is slow or does not start.

use crate::host::Host;
use crate::port::Phase;
use crate::uplink::LinkState;
use api::pb;
use std::fs;
use std::time::Duration;

/// Checks of the machine.
pub fn host_checks() -> Vec<pb::Check> {
    vec![descriptors(), huge_pages(), processors(), clock_source()]
}

/// Checks of the daemon.
pub fn switch_checks(host: &Host) -> Vec<pb::Check> {
    vec![workers(host), uplink(host), ports(host), drops(host)]
}

fn check(name: &str, outcome: pb::Outcome, detail: String, remedy: Option<&str>) -> pb::Check {
    pb::Check { name: name.to_owned(), outcome: outcome.into(), detail, remedy: remedy.map(str::to_owned) }
}

fn descriptors() -> pb::Check {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let used = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    let detail = format!("{used} of {limit} file descriptors used");
    match limit.saturating_sub(used) {
        0..=255 => check(
            "descriptors",
            pb::Outcome::Fail,
            detail,
            Some("raise LimitNOFILE of the service, or `ulimit -n`"),
        ),
        256..=4095 => check(
            "descriptors",
            pb::Outcome::Warn,
            detail,
            Some("raise LimitNOFILE to 65536: a port needs 4 to 260"),
        ),
        _ => check("descriptors", pb::Outcome::Ok, detail, None),
    }
}

fn huge_pages() -> pb::Check {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total =
        text.lines().find_map(|line| line.strip_prefix("HugePages_Total:")?.trim().parse::<u64>().ok());
    match total.unwrap_or(0) {
        0 => check(
            "hugepages",
            pb::Outcome::Warn,
            "none reserved: guests and the table of sessions are in 4 KiB pages, which costs address translations".to_owned(),
            Some("sysctl vm.nr_hugepages=1024, and memory-backend-memfd,hugetlb=on in QEMU"),
        ),
        count => check("hugepages", pb::Outcome::Ok, format!("{count} reserved"), None),
    }
}

fn processors() -> pb::Check {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let detail = format!("{count} processors usable");
    if count < 2 {
        let remedy = "give towpathd two: a worker polls one, everything else needs another";
        return check("processors", pb::Outcome::Warn, detail, Some(remedy));
    }
    check("processors", pb::Outcome::Ok, detail, None)
}

fn clock_source() -> pb::Check {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source =
        fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned());
    let detail = format!("the kernel's clock is {source}");
    if matches!(source.as_str(), "tsc" | "kvm-clock" | "arch_sys_counter" | "hyperv_clocksource_tsc_page") {
        return check("clock", pb::Outcome::Ok, detail, None);
    }
    check(
        "clock",
        pb::Outcome::Warn,
        detail,
        Some("a clock read by system call slows workers down: see clocksource= of the kernel"),
    )
}

fn workers(host: &Host) -> pb::Check {
    let dead = host.workers.iter().filter(|worker| worker.is_dead()).count();
    if dead > 0 {
        return check(
            "workers",
            pb::Outcome::Fail,
            format!("{dead} workers died"),
            Some("restart towpathd and report its log"),
        );
    }
    let before: Vec<u64> =
        host.workers.iter().map(|worker| worker.steps.load(std::sync::atomic::Ordering::Relaxed)).collect();
    host.workers.iter().for_each(|worker| worker.waker.wake());
    std::thread::sleep(Duration::from_millis(2));
    let stuck = host
        .workers
        .iter()
        .zip(before)
        .filter(|(worker, before)| worker.steps.load(std::sync::atomic::Ordering::Relaxed) == *before)
        .count();
    let unpinned = host.workers.iter().filter(|worker| worker.core.is_none()).count();
    match (stuck, unpinned) {
        (0, 0) => {
            check("workers", pb::Outcome::Ok, format!("{} answer, all pinned", host.workers.len()), None)
        }
        (0, _) => check(
            "workers",
            pb::Outcome::Warn,
            format!("{unpinned} are not pinned: their core is not among those towpathd may use"),
            Some("set workers.cores to cores of the process's affinity (taskset -p)"),
        ),
        _ => check(
            "workers",
            pb::Outcome::Warn,
            format!("{stuck} did not take a step within 2 ms"),
            Some("keep other work off their cores (isolcpus, cpusets)"),
        ),
    }
}

fn uplink(host: &Host) -> pb::Check {
    let Some(uplink) = &host.uplink else {
        let detail = "none: ports of this host reach each other and no other host".to_owned();
        return check("uplink", pb::Outcome::Ok, detail, None);
    };
    let (info, link) = (&uplink.info, uplink.link());
    let pairs = if info.queue_pairs == 1 { "queue pair" } else { "queue pairs" };
    let mut detail = format!(
        "{} ({}), MAC {}, MTU {}, {} {pairs}, link {link}",
        info.device, info.driver, info.mac, info.mtu, info.queue_pairs
    );
    for lack in &info.lacks {
        detail.push_str("; ");
        detail.push_str(lack);
    }
    if let Some(problem) = uplink.problem() {
        detail.push_str(&format!("; it changed since and is used as it was: {}", problem.message));
    }
    match link {
        LinkState::Down => {
            let remedy = "check the cable or the peer, and that the interface is up (ip link set DEV up)";
            check("uplink", pb::Outcome::Fail, detail, Some(remedy))
        }
        LinkState::Up { .. } if uplink.problem().is_some() => {
            let remedy = uplink.problem().map(|problem| problem.remedy.as_str());
            check("uplink", pb::Outcome::Fail, detail, remedy)
        }
        LinkState::Up { bits_per_second: Some(speed) } if info.rate.is_some_and(|rate| rate > speed) => {
            let remedy =
                "correct uplink.rate: the device carries less, or the link came up slower than it can";
            check("uplink", pb::Outcome::Warn, detail, Some(remedy))
        }
        LinkState::Up { .. } if usize::from(info.queue_pairs) < host.workers.len() => {
            let remedy =
                "workers without a queue pair hand their packets to the others: see docs/guide/uplink.md";
            check("uplink", pb::Outcome::Warn, detail, Some(remedy))
        }
        LinkState::Up { .. } => check("uplink", pb::Outcome::Ok, detail, None),
    }
}

fn ports(host: &Host) -> pb::Check {
    let wrong: Vec<String> = host
        .ports
        .values()
        .filter_map(|port| match port.phase() {
            (Phase::Error, Some(reason)) => Some(format!("{}: {reason}", port.plan.name)),
            (_, Some(reason)) if reason.starts_with("MacMismatch") => {
                Some(format!("{}: {reason}", port.plan.name))
            }
            _ => None,
        })
        .collect();
    if wrong.is_empty() {
        return check(
            "ports",
            pb::Outcome::Ok,
            format!("{} realized, none in error", host.ports.len()),
            None,
        );
    }
    check("ports", pb::Outcome::Fail, wrong.join("; "), Some("see `towpath describe port NAME`"))
}

fn drops(host: &Host) -> pb::Check {
    let mut worst: Option<(u64, String)> = None;
    for port in host.ports.values() {
        let Some(totals) = host.control.counters(port.index) else { continue };
        let sent = totals.rx_packets.max(1);
        if totals.dropped() * 100 > sent && worst.as_ref().is_none_or(|(most, _)| totals.dropped() > *most) {
            worst = Some((
                totals.dropped(),
                format!("{} of {} packets of {} dropped", totals.dropped(), sent, port.plan.name),
            ));
        }
    }
    match worst {
        None => check("drops", pb::Outcome::Ok, "no port lost more than 1 % of its packets".to_owned(), None),
        Some((_, detail)) => check("drops", pb::Outcome::Warn, detail, Some("see `towpath drops`")),
    }
}
