//! RouteTable: where packets of a VPC's subnets go when they are for another network.

use crate::fields::{Fields, Reader, Refusal};
use crate::name::{Name, ObjectName};
use crate::net::parse_destination;
use crate::suggest::nearest;
use ipnet::IpNet;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// What a RouteTable says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteTableSpec {
    /// The VPC whose subnets may use it.
    pub vpc: ObjectName,
    /// Its routes, each destination once. The VPC's own subnets are reached without one.
    pub routes: Vec<Route>,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Packets for this network, unless another route's is longer.
    pub destination: IpNet,
    /// Where they go.
    pub via: Via,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Via {
    /// To a port of the VPC: a router or firewall.
    Port(ObjectName),
    /// Into the VPC at the other end of a Peering.
    Peering(ObjectName),
    /// Outside, by a NatGateway's addresses.
    NatGateway(ObjectName),
    /// To an ExternalNetwork, by floating IPs alone.
    External(Name),
    /// Nowhere.
    Blackhole,
}

/// Next hops of this version.
const KNOWN: [&str; 5] = ["port", "peering", "natGateway", "external", "blackhole"];

impl RouteTableSpec {
    /// Reads `spec`.
    pub(crate) fn read(mut fields: Fields<'_>, reader: &mut Reader, project: &Name) -> Option<Self> {
        let remedy = "name the Vpc this route table is for";
        let vpc = fields.required(reader, "vpc", remedy, |text| ObjectName::parse(text, project));
        let mut routes = Vec::new();
        let mut seen = BTreeSet::new();
        for (path, node) in fields.items(reader, "routes").unwrap_or_default() {
            let Some(mut route) = Fields::open(node, &path, reader) else { continue };
            let remedy = "write the network it leads to, as destination: 0.0.0.0/0";
            let destination = route.required(reader, "destination", remedy, |text| {
                let net = parse_destination(text)?;
                match seen.insert(net) {
                    true => Ok(net),
                    false => Err(Refusal::new(
                        "has a route in this table already",
                        "keep one route for each destination",
                    )),
                }
            });
            let via = read_via(&mut route, reader, project);
            route.finish(reader);
            routes.extend(destination.zip(via).map(|(destination, via)| Route { destination, via }));
        }
        fields.finish(reader);
        Some(Self { vpc: vpc?, routes })
    }

    /// As a manifest writes it.
    pub(crate) fn to_json(&self, project: &Name) -> Value {
        let routes: Vec<Value> = self
            .routes
            .iter()
            .map(|route| json!({ "destination": route.destination, "via": route.via.to_json(project) }))
            .collect();
        json!({ "vpc": self.vpc.relative_to(project), "routes": routes })
    }
}

impl Via {
    fn to_json(&self, project: &Name) -> Value {
        match self {
            Self::Port(port) => json!({ "port": port.relative_to(project) }),
            Self::Peering(peering) => json!({ "peering": peering.relative_to(project) }),
            Self::NatGateway(gateway) => json!({ "natGateway": gateway.relative_to(project) }),
            Self::External(network) => json!({ "external": network.as_str() }),
            Self::Blackhole => json!({ "blackhole": true }),
        }
    }
}

fn read_via(route: &mut Fields<'_>, reader: &mut Reader, project: &Name) -> Option<Via> {
    if route.node("via").is_none() {
        route.missing(reader, "via", "write where it leads, as via: {port: fw-eth0}");
    }
    let mut via = route.mapping(reader, "via")?;
    let names: Vec<&str> = via.names().collect();
    if names.len() != 1 {
        let message = format!("names {} next hops", names.len());
        let remedy = "write one of {port: NAME}, {peering: NAME}, {natGateway: NAME}, {external: NAME}, {blackhole: true}";
        reader.refuse(via.position, &route.path("via"), None, Refusal::new(message, remedy));
    }
    for entry in via.entries() {
        let name = entry.key.as_str();
        let path = via.path(&crate::problem::quoted(name));
        if !KNOWN.contains(&name) {
            let near = nearest(name, KNOWN).unwrap_or("port");
            let remedy = format!("nearest known next hop: {near}; this version has {}", KNOWN.join(", "));
            reader.refuse(entry.position, &path, None, Refusal::new("unknown next hop", remedy));
        }
    }
    let object = |text: &str| ObjectName::parse(text, project);
    match names.first().copied()? {
        "port" => via.required(reader, "port", "name the router's Port", object).map(Via::Port),
        "peering" => via.required(reader, "peering", "name the Peering", object).map(Via::Peering),
        "natGateway" => {
            via.required(reader, "natGateway", "name the NatGateway", object).map(Via::NatGateway)
        }
        "external" => {
            via.required(reader, "external", "name the ExternalNetwork", Name::parse).map(Via::External)
        }
        "blackhole" => {
            let position = via.position;
            let on = via.boolean(reader, "blackhole")?;
            if !on {
                let refusal =
                    Refusal::new("leads nowhere or is not there", "write true, or remove the route");
                reader.refuse(position, &via.path("blackhole"), Some("false"), refusal);
            }
            on.then_some(Via::Blackhole)
        }
        _ => None,
    }
}
