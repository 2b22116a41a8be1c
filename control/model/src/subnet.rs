//! Subnet: a part of a VPC's addresses that shares a link.

use crate::dhcp::DhcpSpec;
use crate::fields::{Fields, Parsed, Reader, Refusal};
use crate::mac::MacAddr;
use crate::name::{Name, ObjectName};
use crate::net::{first_address, not_for_interfaces, parse_address};
use crate::vpc::networks;
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// What a Subnet says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetSpec {
    /// The VPC it belongs to.
    pub vpc: ObjectName,
    /// Its networks, at least one, each inside one of the VPC's; none overlaps another subnet of the VPC.
    pub cidrs: Vec<IpNet>,
    /// One gateway for each network, in the order of `cidrs`.
    pub gateways: Vec<IpAddr>,
    /// The gateway's MAC address, derived from the subnet's uid; no port of the subnet may have it.
    pub gateway_mac: MacAddr,
    /// The route table its ports use; absent: the VPC's subnets reach each other, and nothing else.
    pub route_table: Option<ObjectName>,
    /// What its ports are told by DHCP and router advertisements; absent: neither is answered.
    pub dhcp: Option<DhcpSpec>,
    /// Whether multicast goes to all ports of the subnet.
    pub multicast: bool,
}

impl SubnetSpec {
    /// The network of this subnet that holds `address`.
    pub fn network_of(&self, address: IpAddr) -> Option<&IpNet> {
        self.cidrs.iter().find(|cidr| cidr.contains(&address))
    }

    /// Reads `spec`.
    pub(crate) fn read(
        mut fields: Fields<'_>,
        reader: &mut Reader,
        project: &Name,
        gateway_mac: MacAddr,
    ) -> Option<Self> {
        let remedy = "name the Vpc this subnet belongs to";
        let vpc = fields.required(reader, "vpc", remedy, |text| ObjectName::parse(text, project));
        let cidrs = networks(&mut fields, reader, "write the subnet's networks, as cidrs: [10.0.1.0/24]");
        for (index, cidr) in cidrs.iter().enumerate() {
            if cidr.max_prefix_len() - cidr.prefix_len() < 2 {
                let message = format!("{cidr} has no room for a gateway and a port");
                let refusal =
                    Refusal::new(message, format!("use a prefix of at most {}", cidr.max_prefix_len() - 2));
                let path = format!("spec.cidrs[{index}]");
                let resource = reader.resource.clone().unwrap_or_default();
                let problem = reader.source.problem(&resource, &path, refusal);
                reader.problems.push(problem);
            }
        }
        let gateways = read_gateways(&mut fields, reader, &cidrs);
        let route_table = fields.parse(reader, "routeTable", |text| ObjectName::parse(text, project));
        let dhcp = DhcpSpec::read(&mut fields, reader, &cidrs);
        let multicast = fields.boolean(reader, "multicast").unwrap_or(false);
        fields.finish(reader);
        Some(Self { vpc: vpc?, cidrs, gateways, gateway_mac, route_table, dhcp, multicast })
    }

    /// As a manifest writes it.
    pub(crate) fn to_json(&self, project: &Name) -> Value {
        let mut spec = Map::new();
        spec.insert("vpc".into(), json!(self.vpc.relative_to(project)));
        spec.insert("cidrs".into(), json!(self.cidrs));
        spec.insert("gateways".into(), json!(self.gateways));
        if let Some(table) = &self.route_table {
            spec.insert("routeTable".into(), json!(table.relative_to(project)));
        }
        if let Some(dhcp) = &self.dhcp {
            spec.insert("dhcp".into(), dhcp.to_json());
        }
        spec.insert("multicast".into(), json!(self.multicast));
        Value::Object(spec)
    }
}

/// The gateway of each network: the one written in it, else its first address.
fn read_gateways(fields: &mut Fields<'_>, reader: &mut Reader, cidrs: &[IpNet]) -> Vec<IpAddr> {
    let mut written: Vec<Option<IpAddr>> = vec![None; cidrs.len()];
    let place = |text: &str| -> Parsed<()> {
        let address = parse_address(text)?;
        let Some(index) = cidrs.iter().position(|cidr| cidr.contains(&address)) else {
            return Err(Refusal::new(
                "is in none of the subnet's networks",
                "use an address of one of cidrs",
            ));
        };
        if let Some(why) = not_for_interfaces(&cidrs[index], address) {
            return Err(Refusal::new(why, format!("use another, as {}", first_address(&cidrs[index]))));
        }
        match written[index].replace(address) {
            None => Ok(()),
            Some(other) => {
                let message = format!("{} already has the gateway {other}", cidrs[index]);
                Err(Refusal::new(message, "keep one gateway for each network"))
            }
        }
    };
    fields.list(reader, "gateways", place);
    cidrs.iter().zip(written).map(|(cidr, gateway)| gateway.unwrap_or_else(|| first_address(cidr))).collect()
}
