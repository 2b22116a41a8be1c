//! Routes and peerings: each route leads somewhere, and each address means one thing.

use super::{Candidate, Candidates};
use crate::kind::Kind;
use crate::name::{Key, ObjectName};
use crate::net::overlap;
use crate::peering::PeeringSpec;
use crate::problem::Problem;
use crate::resource::DraftSpec;
use crate::route_table::{Route, RouteTableSpec, Via};
use ipnet::IpNet;
use std::collections::BTreeMap;

/// Checks all of them.
pub(super) fn check(candidates: &Candidates, problems: &mut Vec<Problem>) {
    let mut networks = BTreeMap::new();
    let mut pairs = BTreeMap::new();
    for candidate in &candidates.list {
        match &candidate.spec {
            DraftSpec::Subnet(spec) => {
                let own = spec.cidrs.iter().map(|cidr| ((&spec.vpc, *cidr), candidate));
                networks.extend(own);
                if let Some(table) = &spec.route_table {
                    table_of_subnet(candidates, candidate, &spec.vpc, table, problems);
                }
            }
            DraftSpec::Peering(spec) => {
                let mut pair = spec.vpcs.each_ref();
                pair.sort();
                if let Some(other) = pairs.insert(pair, candidate) {
                    let message = format!("these Vpcs are peered by {} already", other.describe());
                    problems.push(candidate.problem("spec.vpcs", message, "remove one of the two"));
                }
                peered_networks(candidates, candidate, spec, problems);
            }
            _ => {}
        }
    }
    for candidate in &candidates.list {
        let DraftSpec::RouteTable(table) = &candidate.spec else { continue };
        for (index, route) in table.routes.iter().enumerate() {
            let field = format!("spec.routes[{index}]");
            if let Some(subnet) = networks.get(&(&table.vpc, route.destination)) {
                let message = format!("is the network of {}, which needs no route", subnet.describe());
                let remedy = "remove the route, or lead a part of that network elsewhere";
                problems.push(candidate.problem(&format!("{field}.destination"), message, remedy));
            }
            next_hop(candidates, candidate, table, route, &field, problems);
        }
    }
}

fn cidrs<'a>(candidates: &'a Candidates, vpc: &ObjectName) -> Option<&'a [IpNet]> {
    match &candidates.find(&Key::of(Kind::Vpc, vpc))?.spec {
        DraftSpec::Vpc(draft) => Some(&draft.cidrs),
        _ => None,
    }
}

/// A subnet uses a route table of its own VPC.
fn table_of_subnet(
    candidates: &Candidates,
    candidate: &Candidate,
    vpc: &ObjectName,
    table: &ObjectName,
    problems: &mut Vec<Problem>,
) {
    let found = candidates.find(&Key::of(Kind::RouteTable, table));
    if let Some(Candidate { spec: DraftSpec::RouteTable(spec), .. }) = found
        && spec.vpc != *vpc
    {
        let message = format!("is a table of Vpc {}, and this subnet is in Vpc {vpc}", spec.vpc);
        let remedy = format!("use a RouteTable of Vpc {vpc}");
        problems.push(candidate.problem("spec.routeTable", message, remedy));
    }
}

/// VPCs that are peered have no address in common.
fn peered_networks(
    candidates: &Candidates,
    candidate: &Candidate,
    spec: &PeeringSpec,
    problems: &mut Vec<Problem>,
) {
    let [one, other] = &spec.vpcs;
    let (Some(left), Some(right)) = (cidrs(candidates, one), cidrs(candidates, other)) else { return };
    for left in left {
        for right in right.iter().filter(|right| overlap(left, right)) {
            let message = format!("{left} of Vpc {one} overlaps {right} of Vpc {other}");
            let remedy =
                "only Vpcs without an address in common can be peered; renumber one, or remove the peering";
            problems.push(candidate.problem("spec.vpcs", message, remedy));
        }
    }
}

/// A route leads to a port of the VPC, or into the networks of a peer of it.
fn next_hop(
    candidates: &Candidates,
    candidate: &Candidate,
    table: &RouteTableSpec,
    route: &Route,
    field: &str,
    problems: &mut Vec<Problem>,
) {
    let vpc = &table.vpc;
    match &route.via {
        Via::Blackhole | Via::NatGateway(_) | Via::External(_) => {}
        Via::Port(name) => {
            let subnet = candidates.find(&Key::of(Kind::Port, name)).and_then(|found| match &found.spec {
                DraftSpec::Port(draft) => candidates.find(&Key::of(Kind::Subnet, &draft.spec.subnet)),
                _ => None,
            });
            if let Some(Candidate { spec: DraftSpec::Subnet(subnet), .. }) = subnet
                && subnet.vpc != *vpc
            {
                let message = format!("is a port of Vpc {}, and this table is for Vpc {vpc}", subnet.vpc);
                let remedy = format!("use a Port of Vpc {vpc}, or a peering");
                problems.push(candidate.problem(&format!("{field}.via.port"), message, remedy));
            }
        }
        Via::Peering(name) => {
            let found = candidates.find(&Key::of(Kind::Peering, name));
            let Some(Candidate { spec: DraftSpec::Peering(peering), .. }) = found else { return };
            let Some(peer) = peering.peer_of(vpc) else {
                let [one, other] = &peering.vpcs;
                let message = format!("peers Vpc {one} with Vpc {other}, and this table is for Vpc {vpc}");
                let remedy = format!("use a Peering of Vpc {vpc}");
                problems.push(candidate.problem(&format!("{field}.via.peering"), message, remedy));
                return;
            };
            let Some(cidrs) = cidrs(candidates, peer) else { return };
            if !cidrs.iter().any(|cidr| cidr.contains(&route.destination)) {
                let list = super::addresses::list(cidrs);
                let message = format!("is not inside a network of the peer, Vpc {peer} ({list})");
                let remedy = "lead only the peer's own addresses through a peering";
                problems.push(candidate.problem(&format!("{field}.destination"), message, remedy));
            }
        }
    }
}
