//! ExternalNetwork, NatGateway, FloatingIp: what ports are called outside of all VPCs.

use crate::fields::{Fields, Reader, Refusal};
use crate::load_balancer::{named, word};
use crate::name::{Name, ObjectName};
use crate::net::{distinct_addresses, parse_address, parse_cidr};
use crate::port::PortSpec;
use ipnet::IpNet;
use serde_json::{Value, json};
use std::net::IpAddr;

/// What an ExternalNetwork says: a network on the uplink's link, of which ports have addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalNetworkSpec {
    /// Its networks, at least one.
    pub cidrs: Vec<IpNet>,
    /// The router that packets leave by, in one of them.
    pub gateway: IpAddr,
}

/// What a NatGateway says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatGatewaySpec {
    /// Whose ports it serves.
    pub vpc: ObjectName,
    /// Where its addresses are.
    pub external: Name,
    /// Its addresses, at least one, all of one family.
    pub addresses: Vec<IpAddr>,
    /// Ports of an address that each port of the VPC has.
    pub ports_per_port: u16,
    /// What an external port stands for.
    pub mapping: Mapping,
}

/// What an external port stands for (RFC 4787 section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mapping {
    /// For one port inside towards one address and port outside: it serves many at once, each with somebody else.
    #[default]
    Destination,
    /// For one port inside, whatever it talks to: what it is called outside can be told to others.
    EndpointIndependent,
}

impl Mapping {
    const WORDS: [(&'static str, Self); 2] =
        [("destination", Self::Destination), ("endpointIndependent", Self::EndpointIndependent)];
}

/// What a FloatingIp says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FloatingIpSpec {
    /// Where its address is.
    pub external: Name,
    /// The address.
    pub address: IpAddr,
    /// Whose it is.
    pub port: ObjectName,
}

/// Ports of an address that a NatGateway gives out: those below are for services.
pub const FIRST_PORT: u16 = 1024;
/// Ports of an address that a NatGateway gives out.
pub const SHARED_PORTS: u16 = u16::MAX - FIRST_PORT + 1;
/// Ports each port gets unless something else is written, and least.
const PORTS_PER_PORT: u16 = 1024;
pub(crate) const PORTS_PER_PORT_MIN: u16 = 64;
/// Most addresses of a NatGateway.
pub(crate) const ADDRESSES_MAX: usize = 256;

impl ExternalNetworkSpec {
    /// Reads `spec`.
    pub(crate) fn read(mut fields: Fields<'_>, reader: &mut Reader) -> Option<Self> {
        let cidrs = fields.list(reader, "cidrs", parse_cidr);
        if cidrs.as_ref().is_none_or(Vec::is_empty) {
            fields.missing(reader, "cidrs", "write its networks, as cidrs: [198.51.100.0/24]");
        }
        let remedy = "write the router of that network, as gateway: 198.51.100.1";
        let gateway = fields.required(reader, "gateway", remedy, parse_address);
        if fields.integer(reader, "vlan", 0..=4094).is_some_and(|vlan| vlan > 0) {
            let message = "tagged external networks are not supported by this version";
            fields.unsupported(reader, "vlan", message, "write 0, or remove it");
        }
        fields.parse(reader, "announce", |text| match text {
            "arp" => Ok(()),
            _ => Err(Refusal::new(
                "is no way to announce addresses that this version has",
                "write arp, or remove it",
            )),
        });
        fields.finish(reader);
        Some(Self { cidrs: cidrs?, gateway: gateway? })
    }

    /// As a manifest writes it.
    pub(crate) fn to_json(&self) -> Value {
        json!({ "cidrs": self.cidrs, "vlan": 0, "gateway": self.gateway, "announce": "arp" })
    }

    /// Why no port may have this address; `None`: one may.
    pub fn refusal(&self, address: IpAddr) -> Option<String> {
        let Some(cidr) = self.cidrs.iter().find(|cidr| cidr.contains(&address)) else {
            let cidrs: Vec<String> = self.cidrs.iter().map(ToString::to_string).collect();
            return Some(format!("is outside of its networks ({})", cidrs.join(", ")));
        };
        if address == self.gateway {
            return Some("is its gateway".to_owned());
        }
        crate::net::not_for_interfaces(cidr, address).map(str::to_owned)
    }
}

impl NatGatewaySpec {
    /// Reads `spec`.
    pub(crate) fn read(mut fields: Fields<'_>, reader: &mut Reader, project: &Name) -> Option<Self> {
        let object = |text: &str| ObjectName::parse(text, project);
        let vpc = fields.required(reader, "vpc", "name the Vpc whose ports it serves", object);
        let external =
            fields.required(reader, "external", "name the ExternalNetwork of its addresses", Name::parse);
        let addresses = distinct_addresses(&mut fields, reader, "addresses");
        match addresses.as_ref().map_or(0, Vec::len) {
            0 => fields.missing(reader, "addresses", "write its addresses, as addresses: [198.51.100.10]"),
            1..=ADDRESSES_MAX => {}
            count => {
                let message = format!("has {count} entries, more than {ADDRESSES_MAX}");
                let refusal =
                    Refusal::new(message, "use a Vpc for some of its ports, with a NatGateway of its own");
                reader.refuse(fields.position, &fields.path("addresses"), None, refusal);
            }
        }
        let range = u64::from(PORTS_PER_PORT_MIN)..=u64::from(SHARED_PORTS);
        let ports_per_port = fields.integer(reader, "portsPerPort", range);
        let mapping = fields.parse(reader, "mapping", |text| word(text, &Mapping::WORDS)).unwrap_or_default();
        fields.finish(reader);
        let ports_per_port =
            ports_per_port.and_then(|ports| u16::try_from(ports).ok()).unwrap_or(PORTS_PER_PORT);
        Some(Self { vpc: vpc?, external: external?, addresses: addresses?, ports_per_port, mapping })
    }

    /// As a manifest writes it.
    pub(crate) fn to_json(&self, project: &Name) -> Value {
        json!({
            "vpc": self.vpc.relative_to(project),
            "external": self.external.as_str(),
            "addresses": self.addresses,
            "portsPerPort": self.ports_per_port,
            "mapping": named(self.mapping, &Mapping::WORDS),
        })
    }

    /// Blocks of one of its addresses.
    pub fn blocks_per_address(&self) -> usize {
        usize::from(SHARED_PORTS / self.ports_per_port.max(1))
    }

    /// Ports of the VPC that it has blocks for.
    pub fn capacity(&self) -> usize {
        self.addresses.len() * self.blocks_per_address()
    }

    /// How many ports of the VPC it has room for, in words: `63 ports: 1 address with 63 blocks of 1024`.
    pub fn room(&self) -> String {
        let plural =
            |count: usize, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
        let capacity = plural(self.capacity(), "port", "ports");
        let addresses = plural(self.addresses.len(), "address", "addresses");
        let blocks = plural(self.blocks_per_address(), "block", "blocks");
        format!("{capacity}: {addresses} with {blocks} of {}", self.ports_per_port)
    }

    /// Whether it has a block for a port of its VPC: one under rules, with an address of its family. Others have no sessions, which translate.
    pub fn serves(&self, port: &PortSpec) -> bool {
        !port.unfiltered && port.ips.iter().any(|address| self.is_like(*address))
    }

    /// Whether its addresses are of this address's family.
    pub fn is_like(&self, address: IpAddr) -> bool {
        self.addresses.first().is_some_and(|own| own.is_ipv4() == address.is_ipv4())
    }
}

impl FloatingIpSpec {
    /// Reads `spec`.
    pub(crate) fn read(mut fields: Fields<'_>, reader: &mut Reader, project: &Name) -> Option<Self> {
        let external =
            fields.required(reader, "external", "name the ExternalNetwork of the address", Name::parse);
        let remedy = "write the address, as address: 198.51.100.20";
        let address = fields.required(reader, "address", remedy, parse_address);
        let object = |text: &str| ObjectName::parse(text, project);
        let port = fields.required(reader, "port", "name the Port that has it", object);
        fields.finish(reader);
        Some(Self { external: external?, address: address?, port: port? })
    }

    /// As a manifest writes it.
    pub(crate) fn to_json(&self, project: &Name) -> Value {
        json!({
            "external": self.external.as_str(),
            "address": self.address,
            "port": self.port.relative_to(project),
        })
    }
}
