//! Tables of what a set of seeds reached.

use crate::faults::Fault;
use crate::guest::hostile::Case;
use crate::guest::stack::Achieved;
use crate::scene::Stats;
use crate::underlay::Intrusion;
use engine::DropReason;
use std::fmt::Write;

/// What a set of seeds must reach each reason, fault and edge, at least.
pub const REACHED: u64 = 100;

/// Reasons that a set of seeds does not reach, or seldom: senders are told instead as long as their budget lasts (see the edge "route > error sent"); a
/// control thread is never that far behind; no host has tunnels and no uplink; no simulated port is under rules yet.
pub const UNREACHED: &[DropReason] = {
    use DropReason::*;
    &[
        UnknownEndpoint,
        NoListener,
        NoTarget,
        Untranslatable,
        NoExternalAddress,
        NatExhausted,
        NatUnknown,
        NatUnfiltered,
        HopLimit,
        NoRoute,
        TooBig,
        ServiceBudget,
        ServiceConsumed,
        ServiceBusy,
        NoUplink,
        SessionTableFull,
        SessionQuota,
    ]
};

/// Edges of the pipeline that a set of seeds must take.
pub const EDGES: &[&str] = &[
    "ring > refused",
    "ring > parse",
    "parse > dropped",
    "parse > dropped (offload)",
    "port_security > dropped",
    "neighbours > dropped",
    "neighbours > answered",
    "forward > dropped",
    "stages > delivery",
    "route > delivery",
    "route > dropped",
    "route > ping answered",
    "route > error sent",
    "encapsulate > uplink",
    "uplink > underlay",
    "uplink > cut by the device",
    "uplink > parse",
    "decapsulate > dropped",
    "arrive > dropped",
    "arrive > delivery",
    "control thread < given",
    "control thread < DHCPv4",
    "control thread < DHCPv6",
    "control thread < router solicitation",
    "control thread < broadcast",
    "control thread < announcement",
    "control thread < underlay's neighbour",
    "fabric: lost",
    "fabric: doubled",
    "fabric: held back",
    "fabric: damaged, and noticed",
    "fabric: damaged, and not noticed",
    "fabric: marked",
    "fabric: longer than the MTU",
    "fabric: parted",
    "broadcast > dropped",
    "policy > dropped",
    "policy: passes as an answer alone",
    "policy: later fragment passes",
    "policy: error about a session passes",
    "sessions > dropped",
    "delivery > dropped",
    "delivery > other worker, or kept",
    "delivery > guest, whole",
    "delivery > guest, checksum left",
    "delivery > guest, to be cut",
    "delivery > guest, cut",
    "address moved",
    "queue broke",
    "worker sleeps",
    "kicks",
    "kicks lost",
    "interrupts",
    "handshakes",
    "refused by a session",
    "port added (L-16)",
    "port removed (L-15)",
    "port shut down or opened",
    "addresses changed",
    "allowed addresses changed (L-12)",
    "migration begun",
    "guest goes on on another host",
    "migration ended",
    "move heard of",
    "endpoint < underlay",
    "endpoint > underlay",
    "DHCPv4: offered",
    "DHCPv4: acknowledged",
    "DHCPv4: refused",
    "DHCPv6: lent",
    "router advertised",
    "port moved to other groups",
    "port put under rules, or out",
    "group written anew",
    "group deleted",
    "rule added",
    "rule removed",
    "VPCs peered or parted",
    "route to a port set or removed",
    "blackhole set or removed",
    "interrupt pending when stopped (L-02)",
    "queues restarted with buffers out (L-11)",
];

/// Everything that is to be reached, with how often it was: kind, name, count.
#[must_use]
pub fn rows(stats: &Stats) -> Vec<(&'static str, &'static str, u64)> {
    let drops = DropReason::ALL
        .iter()
        .filter(|reason| !UNREACHED.contains(reason))
        .map(|reason| ("drop", reason.name(), stats.drops.get(reason).copied().unwrap_or(0)));
    let faults = Fault::ALL
        .iter()
        .map(|fault| ("fault", fault.name(), stats.faults.get(fault.name()).copied().unwrap_or(0)));
    let cases = Case::ALL
        .iter()
        .map(|case| ("case", case.name(), stats.cases.get(case.name()).copied().unwrap_or(0)));
    let names = EDGES.iter().copied().chain(Intrusion::ALL.iter().map(|kind| kind.name()));
    let edges = names.map(|edge| ("edge", edge, stats.edges.get(edge).copied().unwrap_or(0)));
    drops.chain(faults).chain(cases).chain(edges).collect()
}

/// What was reached too seldom.
#[must_use]
pub fn missing(stats: &Stats) -> Vec<(&'static str, &'static str, u64)> {
    rows(stats).into_iter().filter(|(_, _, count)| *count < REACHED).collect()
}

/// The table of all rows.
#[must_use]
pub fn table(stats: &Stats, achieved: &Achieved, seeds: u64) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{seeds} seeds: {} steps, {} packets; {} pings and {} echoes answered, {} TCP transfers whole, {} bytes by TCP",
        stats.steps, stats.packets, achieved.pings, achieved.echoes, achieved.transfers, achieved.bytes
    );
    for (kind, name, count) in rows(stats) {
        let mark = if count < REACHED { "  below 100" } else { "" };
        let _ = writeln!(text, "  {kind:<6} {name:<44} {count:>10}{mark}");
    }
    text
}
