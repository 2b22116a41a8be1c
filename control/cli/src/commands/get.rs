//! `towpath get KIND [NAME]`

use super::find_resource;
use crate::Failed;
use crate::args::Format;
use crate::output::{Column, structured, table};
use api::{Client, pb};
use model::{Kind, ObjectName};
use serde_json::{Value, json};
use std::io::Write;

/// Lists resources of a kind, or shows one.
pub(crate) async fn run(
    client: &mut Client,
    kind: Kind,
    name: Option<ObjectName>,
    project: Option<String>,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), Failed> {
    if kind == Kind::Port {
        let ports = match &name {
            Some(name) => vec![client.get_port(name.into()).await?],
            None => client.list_ports(project).await?,
        };
        let values = ports.iter().map(port_value).collect::<Result<Vec<Value>, Failed>>()?;
        if !structured_list(out, format, name.is_some(), &values)? {
            ports_table(out, format, &ports, &values)?;
        }
        return Ok(());
    }
    if kind == Kind::LoadBalancer {
        return super::balancer::list(client, name, project, format, out).await;
    }
    let resources = match &name {
        Some(name) => vec![find_resource(client, kind, name).await?],
        None => client.list_resources(kind.as_str(), project).await?,
    };
    let values = resources.iter().map(resource_value).collect::<Result<Vec<Value>, Failed>>()?;
    if !structured_list(out, format, name.is_some(), &values)? {
        resources_table(out, kind, &resources, &values)?;
    }
    Ok(())
}

/// One value alone when one was asked for, else a list.
pub(crate) fn structured_list(
    out: &mut dyn Write,
    format: Format,
    one: bool,
    values: &[Value],
) -> Result<bool, Failed> {
    match (one, values) {
        (true, [value]) => structured(out, format, value),
        _ => structured(out, format, &values),
    }
}

/// A resource as a manifest writes it, with its owner in `status`.
pub(crate) fn resource_value(resource: &pb::Resource) -> Result<Value, Failed> {
    let broken =
        |what: String| Failed::Refused(format!("the daemon sent a resource that is no JSON object: {what}"));
    match serde_json::from_str(&resource.manifest) {
        Ok(Value::Object(mut fields)) => {
            fields.insert("status".into(), json!({ "owner": resource.owner }));
            Ok(Value::Object(fields))
        }
        Ok(other) => Err(broken(other.to_string())),
        Err(error) => Err(broken(error.to_string())),
    }
}

/// A port as a manifest writes it, with its status.
pub(crate) fn port_value(port: &pb::Port) -> Result<Value, Failed> {
    let resource = port.resource.clone().unwrap_or_default();
    let mut value = resource_value(&resource)?;
    let status = serde_json::to_value(port.status.clone().unwrap_or_default())
        .map_err(|error| Failed::Refused(error.to_string()))?;
    if let (Some(all), Value::Object(status)) =
        (value.get_mut("status").and_then(Value::as_object_mut), status)
    {
        all.extend(status);
    }
    Ok(value)
}

/// A field of a value as one text: lists joined by commas.
pub(crate) fn text_at(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(","),
        Some(other) => other.to_string(),
    }
}

fn ports_table(
    out: &mut dyn Write,
    format: Format,
    ports: &[pb::Port],
    values: &[Value],
) -> Result<(), Failed> {
    let wide = format == Format::Wide;
    let mut columns = vec![
        Column::text("PROJECT"),
        Column::text("NAME"),
        Column::text("PHASE"),
        Column::text("MAC"),
        Column::text("IPS"),
        Column::number("SENT"),
        Column::number("RECEIVED"),
        Column::number("DROPPED"),
    ];
    if wide {
        columns.extend([
            Column::text("SUBNET"),
            Column::text("HOST"),
            Column::text("RINGS"),
            Column::number("PAIRS"),
            Column::number("MTU"),
            Column::text("SOCKET"),
            Column::text("OWNER"),
        ]);
    }
    let reasons = ports.iter().any(|port| port.status.as_ref().is_some_and(|status| status.reason.is_some()));
    if reasons {
        columns.push(Column::text("REASON"));
    }
    let rows: Vec<Vec<String>> = ports
        .iter()
        .zip(values)
        .map(|(port, value)| {
            let status = port.status.clone().unwrap_or_default();
            let counters = status.counters.unwrap_or_default();
            let at = |pointer: &str| text_at(value, pointer);
            let mut row = vec![
                at("/metadata/project"),
                at("/metadata/name"),
                at("/status/phase"),
                at("/spec/mac"),
                at("/spec/ips"),
                counters.egress_packets.to_string(),
                counters.ingress_packets.to_string(),
                counters.egress_drops.saturating_add(counters.ingress_drops).to_string(),
            ];
            if wide {
                row.extend([
                    at("/spec/subnet"),
                    at("/spec/host"),
                    at("/status/ringLayout"),
                    status.queue_pairs.to_string(),
                    status.mtu.to_string(),
                    at("/spec/attachment/vhostUser/socket"),
                    at("/status/owner"),
                ]);
            }
            if reasons {
                row.push(status.reason.unwrap_or_default());
            }
            row
        })
        .collect();
    table(out, &columns, &rows)
}

fn resources_table(
    out: &mut dyn Write,
    kind: Kind,
    resources: &[pb::Resource],
    values: &[Value],
) -> Result<(), Failed> {
    let columns = columns_of(kind);
    let mut all = if kind.is_global() { vec![] } else { vec![Column::text("PROJECT")] };
    all.push(Column::text("NAME"));
    all.extend(columns.iter().map(|(title, pointer)| match *pointer {
        "/spec/vni" | "/spec/mtu" | PORTS_PER_PORT | ROUTES | RULES => Column::number(title),
        _ => Column::text(title),
    }));
    all.push(Column::text("OWNER"));
    let rows: Vec<Vec<String>> = resources
        .iter()
        .zip(values)
        .map(|(resource, value)| {
            let project = (!kind.is_global()).then(|| resource.project.clone().unwrap_or_default());
            let mut row: Vec<String> = project.into_iter().collect();
            row.push(resource.name.clone());
            row.extend(columns.iter().map(|(_, pointer)| match *pointer {
                ROUTES | RULES => {
                    let list = value.pointer(pointer).and_then(Value::as_array);
                    list.map_or(0, Vec::len).to_string()
                }
                pointer => text_at(value, pointer),
            }));
            row.push(resource.owner.clone());
            row
        })
        .collect();
    table(out, &all, &rows)
}

/// Lists of which only the length is shown.
const ROUTES: &str = "/spec/routes";
const RULES: &str = "/spec/rules";

const PORTS_PER_PORT: &str = "/spec/portsPerPort";

/// Title and place of what is shown of a kind besides project, name and owner.
fn columns_of(kind: Kind) -> &'static [(&'static str, &'static str)] {
    match kind {
        Kind::Host => &[("VTEPS", "/spec/vteps"), ("MTU", "/spec/mtu")],
        Kind::Vpc => &[("VNI", "/spec/vni"), ("CIDRS", "/spec/cidrs"), ("MTU", "/spec/mtu")],
        Kind::Peering => &[("VPCS", "/spec/vpcs")],
        Kind::RouteTable => &[("VPC", "/spec/vpc"), ("ROUTES", ROUTES)],
        Kind::SecurityGroup => &[("VPC", "/spec/vpc"), ("RULES", RULES)],
        Kind::Subnet => &[
            ("VPC", "/spec/vpc"),
            ("CIDRS", "/spec/cidrs"),
            ("GATEWAYS", "/spec/gateways"),
            ("ROUTETABLE", "/spec/routeTable"),
            ("DHCP", "/spec/dhcp/enabled"),
        ],
        Kind::Port => &[("SUBNET", "/spec/subnet")],
        Kind::ExternalNetwork => &[("CIDRS", "/spec/cidrs"), ("GATEWAY", "/spec/gateway")],
        Kind::NatGateway => &[
            ("VPC", "/spec/vpc"),
            ("EXTERNAL", "/spec/external"),
            ("ADDRESSES", "/spec/addresses"),
            ("PORTSPERPORT", PORTS_PER_PORT),
        ],
        Kind::FloatingIp => {
            &[("EXTERNAL", "/spec/external"), ("ADDRESS", "/spec/address"), ("PORT", "/spec/port")]
        }
        Kind::LoadBalancer => &[("VPC", "/spec/vpc"), ("VIP", "/spec/vip")],
        Kind::Endpoint => {
            &[("SUBNET", "/spec/subnet"), ("MAC", "/spec/mac"), ("IPS", "/spec/ips"), ("VTEP", "/spec/vtep")]
        }
    }
}
