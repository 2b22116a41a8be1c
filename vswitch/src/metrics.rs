//! Metrics over HTTP in the OpenMetrics text format (Prometheus).

use crate::alarms::{fill, use_of};
use crate::backend::word;
use crate::host::Host;
use crate::port::Port;
use crate::shadow::shadows_of;
use crate::uplink::LinkState;
use api::pb;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use services::neighbours::Resolver;
use std::collections::BTreeMap;
use std::fmt;
use switch::UPLINK;
use tables::sessions::Statistics;

/// Every family there is: name, what it says, whether it only grows (then the page adds `_total` to its name), labels. `docs/guide/metrics.md` lists them.
pub const FAMILIES: [(&str, &str, bool, &[&str]); 41] = [
    ("towpath_port_packets", "Packets, by direction as the VM sees it.", true, &["port", "direction"]),
    (
        "towpath_port_bytes",
        "Bytes of frames without FCS, by direction as the VM sees it.",
        true,
        &["port", "direction"],
    ),
    (
        "towpath_port_drops",
        "Packets sent by the port that were dropped, by reason.",
        true,
        &["port", "reason"],
    ),
    ("towpath_port_handovers", "Packets given to the port as a second copy.", true, &["port"]),
    (
        "towpath_port_refusals",
        "Messages, connections, rings and buffers that were refused, by name.",
        true,
        &["port", "refusal"],
    ),
    ("towpath_port_connects", "Front ends that have connected.", true, &["port"]),
    (
        "towpath_port_rarps",
        "Announcements of a guest's MAC address by its front end after a migration (SEND_RARP); refused: not the port's.",
        true,
        &["port", "result"],
    ),
    ("towpath_port_phase", "1 for the phase the port is in.", false, &["port", "phase"]),
    ("towpath_worker_packets", "Packets taken from receive queues.", true, &["worker"]),
    ("towpath_worker_busy_cycles", "Time stamp cycles of polls that found packets.", true, &["worker"]),
    (
        "towpath_worker_idle_cycles",
        "Time stamp cycles of everything else, asleep included.",
        true,
        &["worker"],
    ),
    ("towpath_worker_queues", "Receive queues polled.", false, &["worker"]),
    ("towpath_uplink_link_up", "1 while the uplink's device has a carrier, else 0.", false, &["device"]),
    ("towpath_uplink_link_changes", "How often its link came or went.", true, &["device"]),
    ("towpath_uplink_mtu_bytes", "The longest IP packet of the underlay.", false, &["device"]),
    (
        "towpath_uplink_device_packets",
        "Packets that the uplink's device counted, by direction as this host sees it.",
        true,
        &["device", "direction"],
    ),
    (
        "towpath_uplink_device_bytes",
        "Bytes that the uplink's device counted.",
        true,
        &["device", "direction"],
    ),
    (
        "towpath_uplink_device_losses",
        "Packets that the device lost: rx_missed (no worker took them in time), rx_errors, tx_errors.",
        true,
        &["device", "reason"],
    ),
    (
        "towpath_port_punts",
        "Packets of the port that the control thread was given to answer.",
        true,
        &["port"],
    ),
    (
        "towpath_uplink_packets",
        "Packets of the underlay that workers took (rx) and gave (tx).",
        true,
        &["device", "direction"],
    ),
    (
        "towpath_uplink_drops",
        "Packets of the underlay that were dropped, by reason.",
        true,
        &["device", "reason"],
    ),
    (
        "towpath_neighbours",
        "Next hops of the underlay, by state (RFC 4861 section 7.3.2).",
        false,
        &["state"],
    ),
    (
        "towpath_service_refusals",
        "Messages to the switch's own services that were not answered, by name.",
        true,
        &["refusal"],
    ),
    (
        "towpath_service_lost_frames",
        "Frames of the switch's own services that found no way, or no memory.",
        true,
        &[],
    ),
    (
        "towpath_metadata_requests",
        "Requests to the metadata service: forwarded, failed (answered here with an error), refused (too many connections).",
        true,
        &["result"],
    ),
    (
        "towpath_balancer_connections",
        "Connections that clients on this host began to a load balancer's address, by the target that took them.",
        true,
        &["vpc", "vip", "target"],
    ),
    (
        "towpath_balancer_target_up",
        "1 for a target that takes connections, else 0.",
        false,
        &["vpc", "vip", "target"],
    ),
    ("towpath_sessions", "Live sessions, by version of IP.", false, &["family"]),
    ("towpath_sessions_capacity", "Sessions that there may be, by version of IP.", false, &["family"]),
    (
        "towpath_sessions_alarm",
        "1 from when a table of sessions is 80 % full until it is below 70 %, else 0.",
        false,
        &["family"],
    ),
    ("towpath_sessions_created", "Sessions that began.", true, &[]),
    (
        "towpath_sessions_ended",
        "Sessions that ended: expired, cut (by a change of rules or addresses), displaced (half-open ones, for newer ones of the same port).",
        true,
        &["reason"],
    ),
    (
        "towpath_sessions_refused",
        "Sessions that were refused: table_full, quota (of the port), share (of a table that fills up), crowded (no room where it belongs in the index).",
        true,
        &["reason"],
    ),
    ("towpath_port_sessions", "Live sessions that the port pays for.", false, &["port"]),
    ("towpath_port_sessions_half_open", "Those that the other side has yet to answer.", false, &["port"]),
    ("towpath_port_sessions_refused", "Sessions that were refused to the port.", true, &["port"]),
    (
        "towpath_port_sessions_alarm",
        "1 from when a port has 80 % of the sessions, or half-open ones, that it may have until it has less than 70 %, else 0.",
        false,
        &["port"],
    ),
    (
        "towpath_rule_hits",
        "First packets that a rule of a security group decided about, by its place in the group; at most 10,000 rules.",
        true,
        &["group", "rule", "action"],
    ),
    ("towpath_rules_not_shown", "Rules in use whose hits are not in towpath_rule_hits.", false, &[]),
    (
        "towpath_shadow_flows",
        "Flows at ports of a group with shadow rules, by what these would change: agrees, would_deny, would_allow.",
        true,
        &["group", "outcome"],
    ),
    (
        "towpath_pool_free_chunks",
        "Free 2 KiB pieces of memory for packets that outlive their burst.",
        false,
        &[],
    ),
];

/// One sample: labels and value.
type Sample = (Vec<(&'static str, String)>, f64);

/// A family of samples.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    counter: bool,
    samples: Vec<Sample>,
}

/// A copy of all numbers, made on the control thread.
#[derive(Debug)]
pub struct Snapshot(Vec<Family>);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        for family in &self.0 {
            let kind = if family.counter {
                ConstCounter::new(0u64).metric_type()
            } else {
                ConstGauge::new(0u64).metric_type()
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None::<&Unit>, kind)?;
            for (labels, value) in &family.samples {
                let encoder = metric.encode_family(labels)?;
                if family.counter {
                    ConstCounter::new(*value).encode(encoder)?;
                } else {
                    ConstGauge::new(*value).encode(encoder)?;
                }
            }
        }
        Ok(())
    }
}

impl Snapshot {
    /// Reads everything.
    pub fn of(host: &Host) -> Self {
        let mut families = ports(host);
        families.extend(workers(host));
        families.extend(uplink(host));
        families.extend(underlay(host));
        families.extend(services(host));
        families.extend(balancers(host));
        families.extend(sessions(host));
        families.extend(rules(host));
        let mut pool = family("towpath_pool_free_chunks");
        pool.samples.push((Vec::new(), host.control.pool().available() as f64));
        families.push(pool);
        Self(families)
    }

    /// As text.
    ///
    /// # Errors
    ///
    /// None that a `String` can have.
    pub fn text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// A family without samples yet.
fn family(name: &'static str) -> Family {
    let known = FAMILIES.iter().find(|(known, ..)| *known == name);
    debug_assert!(known.is_some(), "{name} is not in the list");
    let (help, counter) = known.map_or(("", false), |(_, help, counter, _)| (help, *counter));
    Family { name, help, counter, samples: Vec::new() }
}

fn ports(host: &Host) -> Vec<Family> {
    let mut packets = family("towpath_port_packets");
    let mut bytes = family("towpath_port_bytes");
    let mut drops = family("towpath_port_drops");
    let mut handed_over = family("towpath_port_handovers");
    let mut refusals = family("towpath_port_refusals");
    let mut connects = family("towpath_port_connects");
    let mut rarps = family("towpath_port_rarps");
    let mut punts = family("towpath_port_punts");
    let mut phases = family("towpath_port_phase");
    for port in host.ports.values() {
        let name = || ("port", port.plan.name.clone());
        let Some(totals) = host.control.counters(port.index) else { continue };
        for (direction, count, size) in
            [("egress", totals.rx_packets, totals.rx_bytes), ("ingress", totals.tx_packets, totals.tx_bytes)]
        {
            let labels = vec![name(), ("direction", direction.to_owned())];
            packets.samples.push((labels.clone(), count as f64));
            bytes.samples.push((labels, size as f64));
        }
        let reasons = totals.drops.iter();
        drops.samples.extend(
            reasons
                .map(|(reason, count)| (vec![name(), ("reason", reason.name().to_owned())], *count as f64)),
        );
        let refused = port.refusals(&totals).into_iter();
        refusals.samples.extend(
            refused.map(|(refusal, count, _)| (vec![name(), ("refusal", refusal.to_owned())], count as f64)),
        );
        handed_over.samples.push((vec![name()], totals.handed_over as f64));
        punts.samples.push((vec![name()], totals.punted as f64));
        connects.samples.push((vec![name()], port.connects() as f64));
        let (accepted, refused) = port.rarps();
        for (result, count) in [("accepted", accepted), ("refused", refused)] {
            rarps.samples.push((vec![name(), ("result", result.to_owned())], count as f64));
        }
        phases.samples.push((vec![name(), ("phase", phase(port))], 1.0));
    }
    vec![packets, bytes, drops, handed_over, refusals, connects, rarps, punts, phases]
}

fn uplink(host: &Host) -> Vec<Family> {
    let mut up = family("towpath_uplink_link_up");
    let mut changes = family("towpath_uplink_link_changes");
    let mut mtu = family("towpath_uplink_mtu_bytes");
    let mut packets = family("towpath_uplink_device_packets");
    let mut bytes = family("towpath_uplink_device_bytes");
    let mut losses = family("towpath_uplink_device_losses");
    if let Some(uplink) = &host.uplink {
        let device = || ("device", uplink.info.device.clone());
        let is_up = uplink.link() != LinkState::Down;
        up.samples.push((vec![device()], f64::from(u8::from(is_up))));
        changes.samples.push((vec![device()], uplink.link_changes() as f64));
        mtu.samples.push((vec![device()], f64::from(uplink.info.mtu)));
        let counted = uplink.statistics();
        for (direction, count, size) in
            [("rx", counted.rx_packets, counted.rx_bytes), ("tx", counted.tx_packets, counted.tx_bytes)]
        {
            let labels = vec![device(), ("direction", direction.to_owned())];
            packets.samples.extend(count.map(|count| (labels.clone(), count as f64)));
            bytes.samples.extend(size.map(|size| (labels, size as f64)));
        }
        for (reason, count) in [
            ("rx_missed", counted.rx_missed),
            ("rx_errors", counted.rx_errors),
            ("tx_errors", counted.tx_errors),
        ] {
            losses.samples.push((vec![device(), ("reason", reason.to_owned())], count as f64));
        }
    }
    vec![up, changes, mtu, packets, bytes, losses]
}

/// What the switch itself counted at the uplink, and its next hops.
fn underlay(host: &Host) -> Vec<Family> {
    let mut packets = family("towpath_uplink_packets");
    let mut drops = family("towpath_uplink_drops");
    let mut neighbours = family("towpath_neighbours");
    if let (Some(uplink), Some(totals)) = (&host.uplink, host.control.counters(UPLINK)) {
        let device = || ("device", uplink.info.device.clone());
        for (direction, count) in [("rx", totals.rx_packets), ("tx", totals.tx_packets)] {
            packets.samples.push((vec![device(), ("direction", direction.to_owned())], count as f64));
        }
        for (reason, count) in &totals.drops {
            drops.samples.push((vec![device(), ("reason", reason.name().to_owned())], *count as f64));
        }
    }
    let mut states: BTreeMap<&str, u32> = BTreeMap::new();
    for (_, status) in host.fabric.resolver().into_iter().flat_map(Resolver::status) {
        *states.entry(status.state).or_default() += 1;
    }
    neighbours.samples.extend(
        states.into_iter().map(|(state, count)| (vec![("state", state.to_owned())], f64::from(count))),
    );
    vec![packets, drops, neighbours]
}

fn services(host: &Host) -> Vec<Family> {
    let mut refusals = family("towpath_service_refusals");
    let mut lost = family("towpath_service_lost_frames");
    let mut metadata = family("towpath_metadata_requests");
    for (refusal, count) in host.fabric.refusals() {
        refusals.samples.push((vec![("refusal", refusal.name().to_owned())], count as f64));
    }
    lost.samples.push((Vec::new(), host.fabric.lost() as f64));
    let counts = host.fabric.metadata_counts();
    for (result, count) in
        [("forwarded", counts.forwarded), ("failed", counts.failed), ("refused", counts.refused)]
    {
        metadata.samples.push((vec![("result", result.to_owned())], count as f64));
    }
    vec![refusals, lost, metadata]
}

fn sessions(host: &Host) -> Vec<Family> {
    let mut live = family("towpath_sessions");
    let mut capacity = family("towpath_sessions_capacity");
    let mut alarm = family("towpath_sessions_alarm");
    let mut created = family("towpath_sessions_created");
    let mut ended = family("towpath_sessions_ended");
    let mut refused = family("towpath_sessions_refused");
    let statistics = host.control.sessions().statistics();
    for ((name, used, room), raised) in fill(&statistics).into_iter().zip(host.alarms.tables()) {
        let labels = vec![("family", name.to_owned())];
        live.samples.push((labels.clone(), used as f64));
        capacity.samples.push((labels.clone(), room as f64));
        alarm.samples.push((labels, f64::from(u8::from(raised))));
    }
    created.samples.push((Vec::new(), statistics.created as f64));
    let by_reason = |family: &mut Family, counts: &[(&str, u64)]| {
        let sample = |(reason, count): &(&str, u64)| (vec![("reason", (*reason).to_owned())], *count as f64);
        family.samples.extend(counts.iter().map(sample));
    };
    let Statistics { expired, cut, displaced, .. } = statistics;
    by_reason(&mut ended, &[("expired", expired), ("cut", cut), ("displaced", displaced)]);
    let refusals = [
        ("table_full", statistics.refused_table_full),
        ("quota", statistics.refused_quota),
        ("share", statistics.refused_share),
        ("crowded", statistics.refused_crowded),
    ];
    by_reason(&mut refused, &refusals);
    let mut families = vec![live, capacity, alarm, created, ended, refused];
    families.extend(sessions_of_ports(host));
    families
}

fn sessions_of_ports(host: &Host) -> [Family; 4] {
    let mut families = [
        family("towpath_port_sessions"),
        family("towpath_port_sessions_half_open"),
        family("towpath_port_sessions_refused"),
        family("towpath_port_sessions_alarm"),
    ];
    for port in host.ports.values() {
        let Some(used) = use_of(host, port) else { continue };
        let values = [used.sessions, used.half_open, used.refused, used.alarm.into()];
        for (family, value) in families.iter_mut().zip(values) {
            family.samples.push((vec![("port", port.plan.name.clone())], value as f64));
        }
    }
    families
}

/// Rules whose hits are shown: so many and no more, whatever the manifests say.
const RULES_SHOWN: usize = 10_000;

fn rules(host: &Host) -> Vec<Family> {
    let mut hits = family("towpath_rule_hits");
    let mut rest = family("towpath_rules_not_shown");
    let mut shadows = family("towpath_shadow_flows");
    let mut count = 0usize;
    for (group, index, rule, number) in host.agent.counted_rules() {
        count += 1;
        if count <= RULES_SHOWN {
            let labels = vec![
                ("group", group.to_string()),
                ("rule", index.to_string()),
                ("action", rule.action.as_str().to_owned()),
            ];
            hits.samples.push((labels, host.control.rule_counters().read(number).hits as f64));
        }
    }
    rest.samples.push((Vec::new(), count.saturating_sub(RULES_SHOWN) as f64));
    for shadow in shadows_of(host, None) {
        let pb::Compared { agrees, would_deny, would_allow } = shadow.total.unwrap_or_default();
        for (outcome, count) in [("agrees", agrees), ("would_deny", would_deny), ("would_allow", would_allow)]
        {
            let labels = vec![("group", shadow.group.clone()), ("outcome", outcome.to_owned())];
            shadows.samples.push((labels, count as f64));
        }
    }
    vec![hits, rest, shadows]
}

fn balancers(host: &Host) -> Vec<Family> {
    let mut connections = family("towpath_balancer_connections");
    let mut up = family("towpath_balancer_target_up");
    let all = host.control.balancers();
    let mut sorted: Vec<_> = all.iter().collect();
    sorted.sort_by_key(|(key, _)| *key);
    for ((vpc, vip), balancer) in sorted {
        let Some(vpc) = host.fabric.vpc(vpc) else { continue };
        for target in &balancer.plan().targets {
            let labels = vec![
                ("vpc", vpc.name.clone()),
                ("vip", vip.to_string()),
                ("target", target.address.to_string()),
            ];
            connections.samples.push((labels.clone(), balancer.connections(target.address) as f64));
            up.samples.push((labels, f64::from(u8::from(target.up))));
        }
    }
    vec![connections, up]
}

fn phase(port: &Port) -> String {
    word(port.phase().0).to_owned()
}

fn workers(host: &Host) -> Vec<Family> {
    let mut packets = family("towpath_worker_packets");
    let mut busy = family("towpath_worker_busy_cycles");
    let mut idle = family("towpath_worker_idle_cycles");
    let mut queues = family("towpath_worker_queues");
    for (index, worker) in host.workers.iter().enumerate() {
        let labels = vec![("worker", index.to_string())];
        packets.samples.push((labels.clone(), worker.counters.packets.get() as f64));
        busy.samples.push((labels.clone(), worker.counters.busy_cycles.get() as f64));
        idle.samples.push((labels.clone(), worker.counters.idle_cycles.get() as f64));
        queues.samples.push((labels, worker.counters.queues.get() as f64));
    }
    vec![packets, busy, idle, queues]
}
