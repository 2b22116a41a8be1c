//! Load balancers in `towpath get` and `towpath describe`: with the state of their targets.

use super::find_resource;
use super::get::{resource_value, structured_list, text_at};
use crate::Failed;
use crate::args::Format;
use crate::output::{Column, pairs, structured, table, time_span};
use api::{Client, pb};
use model::{Kind, ObjectName};
use serde_json::Value;
use std::io::Write;

/// Lists load balancers, or shows one.
pub(super) async fn list(
    client: &mut Client,
    name: Option<ObjectName>,
    project: Option<String>,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), Failed> {
    let resources = match &name {
        Some(name) => vec![find_resource(client, Kind::LoadBalancer, name).await?],
        None => client.list_resources(Kind::LoadBalancer.as_str(), project).await?,
    };
    let targets = client.list_targets(name.as_ref().map(Into::into)).await?;
    let value = |resource: &pb::Resource| with_targets(resource, &targets);
    let values = resources.iter().map(value).collect::<Result<Vec<Value>, Failed>>()?;
    if structured_list(out, format, name.is_some(), &values)? {
        return Ok(());
    }
    let columns = [
        Column::text("PROJECT"),
        Column::text("NAME"),
        Column::text("VPC"),
        Column::text("VIP"),
        Column::text("LISTENERS"),
        Column::text("UP"),
        Column::text("AFFINITY"),
        Column::text("OWNER"),
    ];
    let rows: Vec<Vec<String>> = values
        .iter()
        .map(|value| {
            let at = |pointer: &str| text_at(value, pointer);
            vec![
                at("/metadata/project"),
                at("/metadata/name"),
                at("/spec/vpc"),
                at("/spec/vip"),
                listeners(value),
                up(value),
                at("/spec/sessionAffinity"),
                at("/status/owner"),
            ]
        })
        .collect();
    table(out, &columns, &rows)
}

/// Shows all about one.
pub(super) async fn describe(
    client: &mut Client,
    name: &ObjectName,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), Failed> {
    let resource = find_resource(client, Kind::LoadBalancer, name).await?;
    let targets = client.list_targets(Some(name.into())).await?;
    let value = with_targets(&resource, &targets)?;
    if structured(out, format, &value)? {
        return Ok(());
    }
    let at = |pointer: &str| text_at(&value, pointer);
    pairs(
        out,
        &[
            ("Name", format!("{}/{}", at("/metadata/project"), at("/metadata/name"))),
            ("Uid", at("/metadata/uid")),
            ("Owner", at("/status/owner")),
            ("Vpc", at("/spec/vpc")),
            ("Vip", at("/spec/vip")),
            ("Listeners", listeners(&value)),
            ("Affinity", at("/spec/sessionAffinity")),
            ("Health check", check(&value)),
            ("All down", at("/spec/whenAllDown")),
        ],
    )?;
    writeln!(out, "\nTargets, as this host sees them:")?;
    let columns = [
        Column::text("TARGET"),
        Column::text("ADDRESS"),
        Column::number("WEIGHT"),
        Column::text("STATE"),
        Column::text("FOR"),
        Column::number("CONNECTIONS"),
        Column::text("SAID BY"),
        Column::text("REASON"),
    ];
    let row = |target: &pb::Target| {
        vec![
            target.name.clone(),
            target.address.clone().unwrap_or_default(),
            target.weight.to_string(),
            target.state.clone(),
            target.since_seconds.map(time_span).unwrap_or_default(),
            target.connections.to_string(),
            target.said_by.clone().unwrap_or_default(),
            target.reason.clone(),
        ]
    };
    table(out, &columns, &targets.iter().map(row).collect::<Vec<_>>())
}

/// A load balancer as a manifest writes it, with its targets in `status`.
fn with_targets(resource: &pb::Resource, targets: &[pb::Target]) -> Result<Value, Failed> {
    let mut value = resource_value(resource)?;
    let name = format!("{}/{}", resource.project.as_deref().unwrap_or_default(), resource.name);
    let own: Vec<&pb::Target> = targets.iter().filter(|target| target.balancer == name).collect();
    let own = serde_json::to_value(&own).map_err(|error| Failed::Refused(error.to_string()))?;
    if let Some(status) = value.get_mut("status").and_then(Value::as_object_mut) {
        status.insert("targets".to_owned(), own);
    }
    Ok(value)
}

/// As `80/tcp>8080`.
fn listeners(value: &Value) -> String {
    let list = value.pointer("/spec/listeners").and_then(Value::as_array).map(Vec::as_slice);
    let one = |listener: &Value| {
        let at = |pointer: &str| text_at(listener, pointer);
        let (port, target) = (at("/port"), at("/targetPort"));
        let other = if port == target { String::new() } else { format!(">{target}") };
        format!("{port}/{}{other}", at("/protocol"))
    };
    list.unwrap_or_default().iter().map(one).collect::<Vec<_>>().join(",")
}

/// How many of the targets take connections.
fn up(value: &Value) -> String {
    let list = value.pointer("/status/targets").and_then(Value::as_array).map(Vec::as_slice);
    let all = list.unwrap_or_default();
    let up = all.iter().filter(|target| text_at(target, "/state") != "down").count();
    format!("{up} of {}", all.len())
}

fn check(value: &Value) -> String {
    let at = |name: &str| text_at(value, &format!("/spec/healthCheck/{name}"));
    if value.pointer("/spec/healthCheck").is_none() {
        return "none".to_owned();
    }
    let path = at("path");
    let what = if path.is_empty() { at("protocol") } else { format!("{} {path}", at("protocol")) };
    format!(
        "{what} at port {} every {} within {}; down after {}, up after {}",
        at("port"),
        at("interval"),
        at("timeout"),
        at("unhealthyAfter"),
        at("healthyAfter")
    )
}
