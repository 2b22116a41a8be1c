//! Endpoint: an address in a VPC that is not ours.

use crate::fields::{Fields, Reader};
use crate::mac::{MacAddr, parse_unicast};
use crate::name::{Name, ObjectName};
use crate::net::{distinct_addresses, parse_address};
use serde_json::{Value, json};
use std::net::IpAddr;

/// What an Endpoint says: a bare machine, or whatever stands behind somebody else's tunnel end point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSpec {
    /// The subnet it is on.
    pub subnet: ObjectName,
    /// Its addresses, at least one, each in the subnet.
    pub ips: Vec<IpAddr>,
    /// Its MAC address.
    pub mac: MacAddr,
    /// The tunnel end point it is reached by. No Host has it.
    pub vtep: IpAddr,
}

impl EndpointSpec {
    /// Reads `spec`.
    pub(crate) fn read(mut fields: Fields<'_>, reader: &mut Reader, project: &Name) -> Option<Self> {
        let remedy = "name the Subnet this endpoint is on";
        let subnet = fields.required(reader, "subnet", remedy, |text| ObjectName::parse(text, project));
        let ips = distinct_addresses(&mut fields, reader, "ips");
        let none = crate::yaml::Value::Sequence(Vec::new());
        if fields.node("ips").is_none_or(|node| node.value == none) {
            fields.missing(reader, "ips", "write the addresses it has, as ips: [10.0.1.200]");
        }
        let remedy = "write the MAC address it has, as \"02:00:00:00:01:0a\"";
        let mac = fields.required(reader, "mac", remedy, parse_unicast);
        let remedy = "write the address of the tunnel end point it is behind, as 192.0.2.99";
        let vtep = fields.required(reader, "vtep", remedy, parse_address);
        fields.finish(reader);
        Some(Self { subnet: subnet?, ips: ips?, mac: mac?, vtep: vtep? })
    }

    /// As a manifest writes it.
    pub(crate) fn to_json(&self, project: &Name) -> Value {
        json!({
            "subnet": self.subnet.relative_to(project),
            "ips": self.ips,
            "mac": self.mac.to_string(),
            "vtep": self.vtep,
        })
    }
}
