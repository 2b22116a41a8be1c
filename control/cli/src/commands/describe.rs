//! `towpath describe KIND NAME`

use super::find_resource;
use super::get::{port_value, resource_value, text_at};
use crate::Failed;
use crate::args::Format;
use crate::output::{Column, pairs, scaled, structured, table, time_span};
use api::{Client, pb};
use model::{Kind, ObjectName};
use serde_json::Value;
use std::io::Write;

/// Shows everything about one resource.
pub(crate) async fn run(
    client: &mut Client,
    kind: Kind,
    name: &ObjectName,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), Failed> {
    if kind == Kind::SecurityGroup {
        return describe_group(client, name, format, out).await;
    }
    if kind == Kind::LoadBalancer {
        return super::balancer::describe(client, name, format, out).await;
    }
    if kind != Kind::Port {
        let value = resource_value(&find_resource(client, kind, name).await?)?;
        if !structured(out, format, &value)? {
            // Nothing but its own words is known about these, and YAML is how people write them.
            structured(out, Format::Yaml, &value)?;
        }
        return Ok(());
    }
    let port = client.get_port(name.into()).await?;
    let value = port_value(&port)?;
    if structured(out, format, &value)? {
        return Ok(());
    }
    describe_port(out, &port.status.unwrap_or_default(), &value)
}

/// A group's rules, and what each did.
async fn describe_group(
    client: &mut Client,
    name: &ObjectName,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), Failed> {
    let mut value = resource_value(&find_resource(client, Kind::SecurityGroup, name).await?)?;
    let hits = client.list_rule_hits(name.into()).await?;
    if let Some(status) = value.get_mut("status").and_then(Value::as_object_mut) {
        let hits = serde_json::to_value(&hits).map_err(|error| Failed::Refused(error.to_string()))?;
        status.insert("rules".to_owned(), hits);
    }
    if structured(out, format, &value)? {
        return Ok(());
    }
    let at = |pointer: &str| text_at(&value, pointer);
    let used = if hits.is_empty() { "no port of this host is in it" } else { "yes" };
    pairs(
        out,
        &[
            ("Name", format!("{}/{}", at("/metadata/project"), at("/metadata/name"))),
            ("Uid", at("/metadata/uid")),
            ("Owner", at("/status/owner")),
            ("Vpc", at("/spec/vpc")),
            ("In use", used.to_owned()),
            ("Shadow", shadow_of(&value)),
        ],
    )?;
    let rules = value.pointer("/spec/rules").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if rules.is_empty() {
        writeln!(out, "\nNo rules.")?;
        return Ok(());
    }
    writeln!(out, "\nRules:")?;
    let columns = [
        Column::number("RULE"),
        Column::text("DIRECTION"),
        Column::text("ACTION"),
        Column::number("PRIORITY"),
        Column::text("PROTOCOL"),
        Column::text("PORTS"),
        Column::text("REMOTE"),
        Column::text("LOG"),
        Column::number("HITS"),
        Column::text("LAST HIT"),
    ];
    let rows: Vec<Vec<String>> =
        rules.iter().enumerate().map(|(index, rule)| rule_row(index, rule, hits.get(index))).collect();
    table(out, &columns, &rows)
}

fn shadow_of(group: &Value) -> String {
    match group.pointer("/spec/shadow").and_then(Value::as_array).map(Vec::len) {
        None => "none".to_owned(),
        Some(1) => "1 rule: see towpath shadow".to_owned(),
        Some(count) => format!("{count} rules: see towpath shadow"),
    }
}

fn rule_row(index: usize, rule: &Value, hits: Option<&pb::RuleHits>) -> Vec<String> {
    let mut row = rule_cells(index, rule);
    let last = hits.and_then(|hits| hits.last_hit_seconds);
    row.extend([
        if text_at(rule, "/log") == "true" { "yes".to_owned() } else { String::new() },
        hits.map(|hits| hits.hits.to_string()).unwrap_or_default(),
        last.map(|seconds| format!("{} ago", time_span(seconds))).unwrap_or_default(),
    ]);
    row
}

/// What a rule says, from its number to its remote.
pub(crate) fn rule_cells(index: usize, rule: &Value) -> Vec<String> {
    let at = |pointer: &str| text_at(rule, pointer);
    let or_any = |text: String| if text.is_empty() { "any".to_owned() } else { text };
    let ports = match (at("/ports"), at("/icmpType"), at("/icmpCode")) {
        (ports, kind, _) if kind.is_empty() => ports,
        (_, kind, code) if code.is_empty() => format!("type {kind}"),
        (_, kind, code) => format!("type {kind} code {code}"),
    };
    let remote = match (at("/remote/cidr"), at("/remote/group")) {
        (cidr, group) if cidr.is_empty() && group.is_empty() => "any".to_owned(),
        (cidr, group) if group.is_empty() => cidr,
        (_, group) => format!("group {group}"),
    };
    vec![
        index.to_string(),
        at("/direction"),
        at("/action"),
        at("/priority"),
        or_any(at("/protocol")),
        ports,
        remote,
    ]
}

fn describe_port(out: &mut dyn Write, status: &pb::PortStatus, value: &Value) -> Result<(), Failed> {
    let at = |pointer: &str| text_at(value, pointer);
    let or_none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
    let counters = status.counters.unwrap_or_default();
    let rates = status.rates.unwrap_or_default();
    let withheld = at("/spec/attachment/vhostUser/withoutFeatures");
    let mut lines = vec![
        ("Name", format!("{}/{}", at("/metadata/project"), at("/metadata/name"))),
        ("Uid", at("/metadata/uid")),
        ("Owner", at("/status/owner")),
        ("Phase", at("/status/phase")),
        ("Reason", or_none(at("/status/reason"))),
        ("Subnet", at("/spec/subnet")),
        ("MAC", at("/spec/mac")),
        ("Addresses", at("/spec/ips")),
        ("Also allowed", or_none(allowed(value))),
        ("Groups", groups(&at("/spec/securityGroups"))),
        ("MTU", status.mtu.to_string()),
        ("Rings", or_none(at("/status/ringLayout"))),
        ("Queue pairs", queue_pairs(status.queue_pairs, &at("/spec/attachment/vhostUser/maxQueuePairs"))),
        ("Features", or_none(status.features.join(", "))),
        ("Sent", amounts(counters.egress_packets, counters.egress_bytes, counters.egress_drops)),
        ("", speeds(rates.egress_packets_per_second, rates.egress_bits_per_second)),
        ("Received", amounts(counters.ingress_packets, counters.ingress_bytes, counters.ingress_drops)),
        ("", speeds(rates.ingress_packets_per_second, rates.ingress_bits_per_second)),
    ];
    if let Some(sessions) = &status.sessions {
        lines.push(("Sessions", uses(sessions)));
    }
    if !withheld.is_empty() {
        let after = lines.iter().position(|(name, _)| *name == "Features").map_or(lines.len(), |at| at + 1);
        lines.insert(after, ("Not offered", withheld));
    }
    pairs(out, &lines)?;
    bindings(out, &status.bindings)?;
    port_workers(out, &status.workers)?;
    if !status.drops.is_empty() {
        writeln!(out, "\nDrops:")?;
        let columns = [Column::text("REASON"), Column::number("PACKETS"), Column::text("EXPLANATION")];
        let row =
            |drop: &pb::Drop| vec![drop.reason.clone(), drop.packets.to_string(), drop.explanation.clone()];
        table(out, &columns, &status.drops.iter().map(row).collect::<Vec<_>>())?;
    }
    if !status.refusals.is_empty() {
        writeln!(out, "\nRefusals:")?;
        let columns = [Column::text("NAME"), Column::number("COUNT"), Column::text("EXPLANATION")];
        let row = |refusal: &pb::Refusal| {
            vec![refusal.name.clone(), refusal.count.to_string(), refusal.explanation.clone()]
        };
        table(out, &columns, &status.refusals.iter().map(row).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// `812 of at most 1048576, 3 half-open; 0 displaced, 7 refused`
fn uses(sessions: &pb::SessionUse) -> String {
    let pb::SessionUse { sessions, half_open, allowed, displaced, refused, alarm } = sessions;
    let alarm = if *alarm { " (near to a limit)" } else { "" };
    format!(
        "{sessions} of at most {allowed}{alarm}, {half_open} half-open; {displaced} displaced, {refused} refused"
    )
}

fn queue_pairs(running: u32, most: &str) -> String {
    match most {
        "" => running.to_string(),
        most => format!("{running} of at most {most}"),
    }
}

fn groups(names: &str) -> String {
    match names {
        "" => "none: unfiltered".to_owned(),
        names => names.replace(',', ", "),
    }
}

fn allowed(value: &Value) -> String {
    let entries = value.pointer("/spec/allowedAddresses").and_then(Value::as_array);
    let one = |entry: &Value| match text_at(entry, "/mac") {
        mac if mac.is_empty() => text_at(entry, "/ip"),
        mac => format!("{} as {mac}", text_at(entry, "/ip")),
    };
    entries.map(|entries| entries.iter().map(one).collect::<Vec<_>>().join(", ")).unwrap_or_default()
}

fn amounts(packets: u64, bytes: u64, drops: u64) -> String {
    format!("{packets} packets, {bytes} bytes, {drops} dropped")
}

fn speeds(packets: f64, bits: f64) -> String {
    format!("{}, {}", scaled(packets, "pps"), scaled(bits, "bps"))
}

fn bindings(out: &mut dyn Write, bindings: &[pb::Binding]) -> Result<(), Failed> {
    if bindings.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nBindings:")?;
    let columns =
        [Column::text("HOST"), Column::text("PHASE"), Column::text("FORWARDS"), Column::text("SOCKET")];
    let row = |binding: &pb::Binding| {
        let forwards = if binding.active { "yes" } else { "no" };
        vec![
            binding.host.clone(),
            binding.phase().word().to_owned(),
            forwards.to_owned(),
            binding.socket.clone().unwrap_or_default(),
        ]
    };
    table(out, &columns, &bindings.iter().map(row).collect::<Vec<_>>())
}

fn port_workers(out: &mut dyn Write, workers: &[pb::PortWorker]) -> Result<(), Failed> {
    if workers.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nWorkers:")?;
    let columns = [Column::number("WORKER"), Column::number("PACKETS"), Column::number("CYCLES/PACKET")];
    let row = |worker: &pb::PortWorker| {
        let cycles = worker.busy_cycles_per_packet.map(|cycles| format!("{cycles:.1}")).unwrap_or_default();
        vec![worker.worker.to_string(), worker.packets.to_string(), cycles]
    };
    table(out, &columns, &workers.iter().map(row).collect::<Vec<_>>())
}
