//! `towpath shadow [GROUP]`

use super::describe::rule_cells;
use super::find_resource;
use super::get::{resource_value, text_at};
use crate::Failed;
use crate::args::Format;
use crate::output::{Column, pairs, structured, table, time_span};
use api::{Client, pb};
use model::{Kind, ObjectName};
use serde_json::Value;
use std::io::Write;

/// Shows what shadow rules would change: for all groups that have some, or for one with its rules and the flows concerned.
pub(crate) async fn run(
    client: &mut Client,
    group: Option<ObjectName>,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), Failed> {
    let value = match &group {
        Some(name) => Some(resource_value(&find_resource(client, Kind::SecurityGroup, name).await?)?),
        None => None,
    };
    let shadows = client.list_shadows(group.as_ref().map(pb::ObjectName::from)).await?;
    if structured(out, format, &shadows)? {
        return Ok(());
    }
    match (value, shadows.first()) {
        (Some(value), Some(shadow)) => one(out, &value, shadow),
        (Some(_), None) => {
            writeln!(out, "It has no shadow rules, or no port of this host is in it.")?;
            Ok(())
        }
        (None, _) => all(out, &shadows),
    }
}

fn counts(compared: Option<&pb::Compared>) -> [String; 3] {
    let Some(pb::Compared { agrees, would_deny, would_allow }) = compared else {
        return Default::default();
    };
    [agrees, would_deny, would_allow].map(ToString::to_string)
}

const OUTCOMES: [Column; 3] =
    [Column::number("AGREES"), Column::number("WOULD DENY"), Column::number("WOULD ALLOW")];

fn all(out: &mut dyn Write, shadows: &[pb::Shadow]) -> Result<(), Failed> {
    let mut columns = vec![Column::text("GROUP")];
    columns.extend(OUTCOMES);
    let row = |shadow: &pb::Shadow| {
        let mut row = vec![shadow.group.clone()];
        row.extend(counts(shadow.total.as_ref()));
        row
    };
    table(out, &columns, &shadows.iter().map(row).collect::<Vec<_>>())
}

fn one(out: &mut dyn Write, value: &Value, shadow: &pb::Shadow) -> Result<(), Failed> {
    let [agrees, would_deny, would_allow] = counts(shadow.total.as_ref());
    pairs(
        out,
        &[
            ("Name", shadow.group.clone()),
            ("Vpc", text_at(value, "/spec/vpc")),
            ("Agrees", agrees),
            ("Would deny", would_deny),
            ("Would allow", would_allow),
        ],
    )?;
    rules(out, "Rules in force", value.pointer("/spec/rules"), &shadow.live)?;
    rules(out, "Shadow rules", value.pointer("/spec/shadow"), &shadow.shadow)?;
    if shadow.flows.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nFlows seen last that would be treated otherwise:")?;
    let columns = [
        Column::text("PORT"),
        Column::text("DIRECTION"),
        Column::text("PROTOCOL"),
        Column::text("SOURCE"),
        Column::text("DESTINATION"),
        Column::text("NOW"),
        Column::text("SHADOW"),
        Column::number("PACKETS"),
        Column::text("LAST"),
    ];
    table(out, &columns, &shadow.flows.iter().map(flow).collect::<Vec<_>>())
}

fn rules(
    out: &mut dyn Write,
    title: &str,
    rules: Option<&Value>,
    compared: &[pb::Compared],
) -> Result<(), Failed> {
    let rules = rules.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if rules.is_empty() {
        writeln!(out, "\n{title}: none.")?;
        return Ok(());
    }
    writeln!(out, "\n{title}:")?;
    let mut columns = vec![
        Column::number("RULE"),
        Column::text("DIRECTION"),
        Column::text("ACTION"),
        Column::number("PRIORITY"),
        Column::text("PROTOCOL"),
        Column::text("PORTS"),
        Column::text("REMOTE"),
    ];
    columns.extend(OUTCOMES);
    let row = |(index, rule): (usize, &Value)| {
        let mut row = rule_cells(index, rule);
        row.extend(counts(compared.get(index)));
        row
    };
    table(out, &columns, &rules.iter().enumerate().map(row).collect::<Vec<_>>())
}

fn flow(flow: &pb::DifferingFlow) -> Vec<String> {
    let verdict = |verdict: Option<&pb::Verdict>| {
        let Some(verdict) = verdict else { return String::new() };
        let word = if verdict.allowed { "allow" } else { "deny" };
        format!("{word}: {}", verdict.rule.as_deref().unwrap_or("no rule"))
    };
    vec![
        flow.port.clone(),
        flow.direction.clone(),
        flow.protocol.clone(),
        end(&flow.source, flow.source_port),
        end(&flow.destination, flow.destination_port),
        verdict(flow.live.as_ref()),
        verdict(flow.shadow.as_ref()),
        flow.packets.to_string(),
        format!("{} ago", time_span(flow.last_seconds)),
    ]
}

/// An address with a port, if there is one.
pub(crate) fn end(address: &str, port: u32) -> String {
    match (port, address.contains(':')) {
        (0, _) => address.to_owned(),
        (port, true) => format!("[{address}]:{port}"),
        (port, false) => format!("{address}:{port}"),
    }
}
