//! The diff against brute force: applied to the old set it gives the new one, in an order that never dangles.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use towpath_model::load_balancer::TargetAddress;
use towpath_model::security_group::resolve;
use towpath_model::{
    Change, Environment, Key, Kind, Name, Resource, ResourceSet, Spec, Via, diff, load_text,
};

/// A few VPCs, subnets and ports; what they refer to always exists.
#[derive(Debug, Clone)]
struct World {
    /// VNI and MTU of each VPC by its number.
    vpcs: BTreeMap<u8, (u32, u16)>,
    /// VPC and gateway of each subnet.
    subnets: BTreeMap<u8, (u8, u8)>,
    /// VPC of each group, and what its rule says; ports are in all groups of their VPC.
    groups: BTreeMap<u8, (u8, u8)>,
    /// Subnet, address, mode and flags of each port.
    ports: BTreeMap<u8, (u8, u8, bool, bool)>,
}

impl World {
    fn text(&self) -> String {
        let mut text = String::from("kind: Host\nmetadata: {name: h}\n");
        for (vpc, (salt, mtu)) in &self.vpcs {
            let vni = u32::from(*vpc) * 10 + salt + 1;
            text += &format!(
                "---\nkind: Vpc\nmetadata: {{name: v{vpc}}}\nspec: {{vni: {vni}, mtu: {mtu}, cidrs: [10.0.0.0/8]}}\n"
            );
        }
        let vpcs: Vec<_> = self.vpcs.keys().collect();
        let mut groups: BTreeMap<u8, Vec<String>> = BTreeMap::new();
        for (group, (vpc, priority)) in &self.groups {
            if vpcs.is_empty() {
                break;
            }
            let vpc = vpcs[usize::from(*vpc) % vpcs.len()];
            // Four is a VPC's group `default`, written by somebody.
            let name = if *group == 4 { "default".into() } else { format!("g{group}") };
            text += &format!(
                "---\nkind: SecurityGroup\nmetadata: {{name: {name}}}\nspec: {{vpc: v{vpc}, rules: [{{direction: ingress, action: deny, priority: {priority}, remote: {{group: default}}}}]}}\n"
            );
            groups.entry(*vpc).or_default().push(name);
        }
        let mut subnets = Vec::new();
        for (subnet, (vpc, gateway)) in &self.subnets {
            if vpcs.is_empty() {
                break;
            }
            let vpc = vpcs[usize::from(*vpc) % vpcs.len()];
            let gateway = 1 + gateway % 4;
            text += &format!(
                "---\nkind: Subnet\nmetadata: {{name: s{subnet}}}\nspec: {{vpc: v{vpc}, cidrs: [10.0.{subnet}.0/24], gateways: [10.0.{subnet}.{gateway}]}}\n"
            );
            subnets.push((*subnet, vpc));
        }
        for (port, (subnet, address, unfiltered, attached)) in &self.ports {
            if subnets.is_empty() {
                break;
            }
            let (subnet, vpc) = subnets[usize::from(*subnet) % subnets.len()];
            let last = 10 + u32::from(*port) * 2 + u32::from(address % 2);
            let filter = match (unfiltered, groups.get(vpc)) {
                (true, _) => "unfiltered: true".to_owned(),
                (false, None) => "unfiltered: false".to_owned(),
                (false, Some(groups)) => format!("securityGroups: [{}]", groups.join(",")),
            };
            let attachment = if *attached { ", attachment: {vhostUser: {}}" } else { "" };
            text += &format!(
                "---\nkind: Port\nmetadata: {{name: p{port}}}\nspec: {{subnet: s{subnet}, host: h, ips: [10.0.{subnet}.{last}], {filter}{attachment}}}\n"
            );
        }
        text
    }

    fn set(&self) -> ResourceSet {
        load_text(&self.text(), "world.yaml", &Environment::default())
            .unwrap_or_else(|problems| panic!("{problems:#?}"))
    }
}

fn world() -> impl Strategy<Value = World> {
    let vpcs = prop::collection::btree_map(0..4u8, (0..3u32, 1400..1403u16), 0..4);
    let subnets = prop::collection::btree_map(0..6u8, (any::<u8>(), any::<u8>()), 0..6);
    let ports =
        prop::collection::btree_map(0..20u8, (any::<u8>(), any::<u8>(), any::<bool>(), any::<bool>()), 0..16);
    let groups = prop::collection::btree_map(0..5u8, (any::<u8>(), 0..3u8), 0..5);
    (vpcs, subnets, groups, ports).prop_map(|(vpcs, subnets, groups, ports)| World {
        vpcs,
        subnets,
        groups,
        ports,
    })
}

type Plain = BTreeMap<Key, Arc<Resource>>;

fn plain(set: &ResourceSet) -> Plain {
    set.iter().map(|resource| (resource.meta.key.clone(), Arc::clone(resource))).collect()
}

fn apply(change: &Change, to: &mut Plain) {
    match change {
        Change::Added(new) => assert_eq!(to.insert(new.meta.key.clone(), Arc::clone(new)), None),
        Change::Changed { old, new, fields } => {
            assert!(!fields.is_empty());
            assert_eq!(to.insert(new.meta.key.clone(), Arc::clone(new)).as_ref(), Some(old));
        }
        Change::Removed(old) => assert_eq!(to.remove(&old.meta.key).as_ref(), Some(old)),
    }
}

fn external(network: &Name) -> Key {
    Key { kind: Kind::ExternalNetwork, project: None, name: network.clone() }
}

fn references(resource: &Resource, state: &Plain) -> Vec<Key> {
    match &resource.spec {
        Spec::Host(_) | Spec::ExternalNetwork(_) => vec![],
        Spec::NatGateway(spec) => vec![Key::of(Kind::Vpc, &spec.vpc), external(&spec.external)],
        Spec::FloatingIp(spec) => vec![Key::of(Kind::Port, &spec.port), external(&spec.external)],
        Spec::Vpc(spec) => spec.directory.iter().map(Key::host).collect(),
        Spec::Peering(spec) => spec.vpcs.iter().map(|vpc| Key::of(Kind::Vpc, vpc)).collect(),
        Spec::RouteTable(spec) => {
            let vpc = Key::of(Kind::Vpc, &spec.vpc);
            let peerings = spec.routes.iter().filter_map(|route| match &route.via {
                Via::Peering(peering) => Some(Key::of(Kind::Peering, peering)),
                Via::NatGateway(gateway) => Some(Key::of(Kind::NatGateway, gateway)),
                Via::External(network) => Some(external(network)),
                Via::Port(_) | Via::Blackhole => None,
            });
            peerings.chain([vpc]).collect()
        }
        Spec::Subnet(spec) => {
            let table = spec.route_table.iter().map(|table| Key::of(Kind::RouteTable, table));
            table.chain([Key::of(Kind::Vpc, &spec.vpc)]).collect()
        }
        Spec::SecurityGroup(spec) => vec![Key::of(Kind::Vpc, &spec.vpc)],
        Spec::Endpoint(spec) => vec![Key::of(Kind::Subnet, &spec.subnet)],
        Spec::LoadBalancer(spec) => {
            let ports = spec.targets.iter().filter_map(|target| match &target.at {
                TargetAddress::Port(port) => Some(Key::of(Kind::Port, port)),
                TargetAddress::Ip(_) => None,
            });
            ports.chain([Key::of(Kind::Vpc, &spec.vpc)]).collect()
        }
        Spec::Port(spec) => {
            let hosts = spec.host.iter().chain(&spec.migrating_to).map(Key::host);
            let subnet = Key::of(Kind::Subnet, &spec.subnet);
            let Some(Spec::Subnet(on)) = state.get(&subnet).map(|subnet| &subnet.spec) else {
                return vec![subnet];
            };
            let project = resource.meta.object().project;
            let groups = spec.security_groups.iter().map(|group| resolve(group, &project, &on.vpc));
            let groups: Vec<Key> = groups.map(|group| Key::of(Kind::SecurityGroup, &group)).collect();
            hosts.chain([subnet]).chain(groups).collect()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_diff_applied_gives_the_new_set(old in world(), new in world()) {
        let (old, new) = (old.set(), new.set());
        let changes = diff(&old, &new);
        let mut state = plain(&old);
        for change in &changes {
            apply(change, &mut state);
            for resource in state.values() {
                for key in references(resource, &state) {
                    prop_assert!(state.contains_key(&key), "{key} is gone after {change:?}");
                }
            }
        }
        prop_assert_eq!(&state, &plain(&new));
        // Brute force: exactly the keys that differ, each once.
        let (before, after) = (plain(&old), plain(&new));
        let all: BTreeSet<&Key> = before.keys().chain(after.keys()).collect();
        let differing: BTreeSet<&Key> = all.into_iter().filter(|key| before.get(*key) != after.get(*key)).collect();
        let touched: Vec<&Key> = changes.iter().map(Change::key).collect();
        prop_assert_eq!(touched.len(), differing.len());
        prop_assert_eq!(touched.into_iter().collect::<BTreeSet<_>>(), differing);
    }

    #[test]
    fn equal_sets_have_no_diff(world in world()) {
        let set = world.set();
        prop_assert!(diff(&set, &set).is_empty());
        prop_assert!(diff(&set, &world.set()).is_empty());
    }
}

#[test]
fn changed_fields_are_named() {
    let mut world = World {
        vpcs: BTreeMap::from([(0, (0, 1400))]),
        subnets: BTreeMap::from([(0, (0, 0))]),
        groups: BTreeMap::from([(0, (0, 0))]),
        ports: BTreeMap::from([(0, (0, 0, false, true))]),
    };
    let old = world.set();
    world.vpcs.insert(0, (1, 1400));
    world.groups.insert(0, (0, 1));
    world.ports.insert(0, (0, 1, true, false));
    let changes = diff(&old, &world.set());
    let fields: Vec<(String, Vec<String>)> = changes
        .iter()
        .map(|change| match change {
            Change::Changed { fields, .. } => (change.key().to_string(), fields.clone()),
            other => panic!("{other:?}"),
        })
        .collect();
    let words = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        fields,
        [
            ("Vpc default/v0".to_owned(), words(&["spec.vni"])),
            ("SecurityGroup default/g0".to_owned(), words(&["spec.rules"])),
            (
                "Port default/p0".to_owned(),
                words(&["spec.attachment", "spec.ips", "spec.securityGroups", "spec.unfiltered"]),
            ),
        ]
    );
}
