//! Sets of resources that are valid, whatever is in them.

use model::{Environment, ResourceSet, load_text};
use packet::MacAddr;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A port.
#[derive(Debug, Clone)]
pub(crate) struct Port {
    subnet: u8,
    host: Option<u8>,
    migrating_to: Option<u8>,
    shutdown: bool,
    /// Which of its two addresses, MAC addresses and sockets it has.
    variants: [bool; 3],
    /// Which virtual addresses it may hold; by the virtual MAC address too.
    may_hold: [bool; 3],
    virtually: bool,
    /// Which groups of its VPC it is in; `None`: it is unfiltered.
    groups: Option<u8>,
}

/// A group of a VPC, and its rules: what each says, and whom it names.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    vpc: u8,
    rules: Vec<(u8, u8)>,
}

/// See the module's documentation. What refers to nothing is left out.
#[derive(Debug, Clone)]
pub(crate) struct World {
    /// Address families of hosts a, b, c.
    hosts: [&'static str; 3],
    /// VNI variant and directory host.
    vpcs: BTreeMap<u8, (bool, Option<u8>)>,
    /// VPC, route table, gateway variant, DHCP.
    subnets: BTreeMap<u8, (u8, Option<u8>, bool, bool)>,
    /// VPC, and routes: destination, next hop (port, or 8: blackhole, 9 up: peering, 12 up: external network, 14 up: NAT gateway).
    tables: BTreeMap<u8, (u8, BTreeMap<u8, u8>)>,
    /// Group number 4 is the one called `default`.
    groups: BTreeMap<u8, Group>,
    ports: BTreeMap<u8, Port>,
    /// Subnet, tunnel end point.
    endpoints: BTreeMap<u8, (u8, u8)>,
    peerings: [bool; 3],
    /// Which of its two routers each external network has.
    networks: [bool; 2],
    /// VPC, external network, and how its ports are shared.
    gateways: BTreeMap<u8, (u8, u8, u8)>,
    /// External network, port.
    floating: BTreeMap<u8, (u8, u8)>,
}

/// Addresses of a NAT gateway, and ports of a block: room for the eight ports there can be, or little more.
const SHARES: [(u8, u16); 4] = [(1, 8064), (2, 16128), (3, 21504), (1, 1024)];
const PAIRS: [(u8, u8); 3] = [(0, 1), (0, 2), (1, 2)];
const HOSTS: [&str; 3] = ["a", "b", "c"];

pub(crate) fn virtual_address(vpc: u8, subnet: u8, which: u8) -> IpAddr {
    IpAddr::from([10, vpc, subnet, 200 + which])
}

pub(crate) fn virtual_mac(subnet: u8) -> MacAddr {
    MacAddr([0, 0, 0x5e, 0, 1, subnet])
}

fn port() -> impl Strategy<Value = Port> {
    let places = (prop::option::weighted(0.95, 0..3u8), prop::option::weighted(0.4, 0..3u8));
    let may_hold = prop::array::uniform3(prop::bool::weighted(0.8));
    let groups = prop::option::weighted(0.8, prop_oneof![3 => 0..32u8, 1 => Just(0)]);
    let flags = (any::<bool>(), groups);
    (0..3u8, places, prop::bool::weighted(0.1), any::<[bool; 3]>(), may_hold, flags).prop_map(
        |(subnet, (host, migrating_to), shutdown, variants, may_hold, (virtually, groups))| Port {
            subnet,
            host,
            migrating_to,
            shutdown,
            variants,
            may_hold,
            virtually,
            groups,
        },
    )
}

pub(crate) fn world() -> impl Strategy<Value = World> {
    let families =
        |empty: u32| prop_oneof![6 => Just("4"), 2 => Just("46"), 2 => Just("64"), empty => Just("")].boxed();
    let hosts = (families(1), families(1), families(1)).prop_map(|(a, b, c)| [a, b, c]);
    let vpcs =
        prop::collection::btree_map(0..3u8, (any::<bool>(), prop::option::weighted(0.2, 0..3u8)), 3..8);
    // Most things are in the first VPC, so that they meet.
    let vpc = || prop_oneof![4 => Just(0u8), 1 => 1..3u8];
    let subnet = (vpc(), prop::option::weighted(0.8, 0..2u8), any::<bool>(), any::<bool>());
    let subnets = prop::collection::btree_map(0..3u8, subnet, 2..8);
    let routes = prop::collection::btree_map(0..4u8, 0..20u8, 1..6);
    let tables = prop::collection::btree_map(0..2u8, (vpc(), routes), 1..6);
    let rules = prop::collection::vec((0..24u8, 0..8u8), 0..4);
    let group = (vpc(), rules).prop_map(|(vpc, rules)| Group { vpc, rules });
    let groups = prop::collection::btree_map(0..5u8, group, 0..6);
    let ports = prop::collection::btree_map(0..8u8, port(), 2..14);
    let endpoints = prop::collection::btree_map(0..3u8, (0..3u8, 0..3u8), 0..3);
    let gateways = prop::collection::btree_map(0..3u8, (vpc(), 0..2u8, 0..4u8), 0..4);
    let floating = prop::collection::btree_map(0..4u8, (0..2u8, 0..8u8), 0..5);
    let external = (any::<[bool; 2]>(), gateways, floating);
    (hosts, vpcs, subnets, tables, groups, ports, endpoints, (any::<[bool; 3]>(), external)).prop_map(
        |(hosts, vpcs, subnets, tables, groups, ports, endpoints, (peerings, external))| World {
            networks: external.0,
            gateways: external.1,
            floating: external.2,
            hosts,
            vpcs,
            subnets,
            tables,
            groups,
            ports,
            endpoints,
            peerings,
        },
    )
}

fn some_of<V: Clone>(own: &BTreeMap<u8, V>, other: &BTreeMap<u8, V>, salt: u64) -> BTreeMap<u8, V> {
    let mut all = own.clone();
    let key = (salt >> 8) as u8 % 8;
    match other.get(&key) {
        Some(value) => drop(all.insert(key, value.clone())),
        None => drop(all.remove(&key)),
    }
    all
}

impl World {
    /// This world with one or two things as in the other.
    pub(crate) fn with_some_of(&self, other: &Self, salt: u64) -> Self {
        let mut world = self.clone();
        for salt in [salt, salt.rotate_right(20)] {
            match salt % 20 {
                0 => world.hosts[(salt >> 8) as usize % 3] = other.hosts[(salt >> 8) as usize % 3],
                1 => world.vpcs = some_of(&world.vpcs, &other.vpcs, salt),
                2 | 3 => world.subnets = some_of(&world.subnets, &other.subnets, salt),
                4 => world.tables = some_of(&world.tables, &other.tables, salt),
                5 => world.endpoints = some_of(&world.endpoints, &other.endpoints, salt),
                6..=8 => world.groups = some_of(&world.groups, &other.groups, salt),
                9 => world.peerings = other.peerings,
                10 => world.networks = other.networks,
                11 | 12 => world.gateways = some_of(&world.gateways, &other.gateways, salt),
                13 | 14 => world.floating = some_of(&world.floating, &other.floating, salt),
                _ => world.ports = some_of(&world.ports, &other.ports, salt),
            }
        }
        world
    }

    /// An address of host 0 to 2, or of somebody else's tunnel end point.
    pub(crate) fn vtep(which: u8) -> IpAddr {
        match which {
            host @ 0..3 => IpAddr::from([192, 0, 2, 1 + host]),
            foreign => IpAddr::from([203, 0, 113, foreign - 3]),
        }
    }

    fn vpc_of(&self, subnet: u8) -> Option<u8> {
        self.subnets.get(&subnet).map(|(vpc, ..)| *vpc).filter(|vpc| self.vpcs.contains_key(vpc))
    }

    fn is_peered(&self, pair: usize) -> bool {
        let (one, other) = PAIRS[pair];
        self.peerings[pair] && self.vpcs.contains_key(&one) && self.vpcs.contains_key(&other)
    }

    pub(crate) fn set(&self) -> ResourceSet {
        load_text(&self.text(), "world.yaml", &Environment::default())
            .unwrap_or_else(|problems| panic!("{problems:#?}\n{}", self.text()))
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut write = |kind: &str, name: String, spec: String| {
            text += &format!("---\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n");
        };
        for (index, families) in self.hosts.iter().enumerate() {
            let address = |family| match family {
                '4' => World::vtep(index as u8).to_string(),
                _ => format!("'2001:db8::{}'", index + 1),
            };
            let vteps: Vec<String> = families.chars().map(address).collect();
            write(
                "Host",
                HOSTS[index].into(),
                format!("vteps: [{}], mtu: {}", vteps.join(", "), 1500 + 10 * index),
            );
        }
        for (vpc, (variant, directory)) in &self.vpcs {
            let vni = 10 + 2 * u32::from(*vpc) + u32::from(*variant);
            let directory: Vec<&str> = directory.iter().map(|host| HOSTS[usize::from(*host)]).collect();
            let directory = directory.join(", ");
            write(
                "Vpc",
                format!("v{vpc}"),
                format!("vni: {vni}, cidrs: [10.{vpc}.0.0/16], directory: [{directory}]"),
            );
        }
        for (index, (one, other)) in PAIRS.into_iter().enumerate().filter(|(index, _)| self.is_peered(*index))
        {
            write("Peering", format!("x{index}"), format!("vpcs: [v{one}, v{other}]"));
        }
        self.write_outside(&mut write);
        for (table, (vpc, routes)) in self.tables.iter().filter(|(_, (vpc, _))| self.vpcs.contains_key(vpc)) {
            let routes: Vec<String> =
                routes.iter().filter_map(|(destination, hop)| self.route(*vpc, *destination, *hop)).collect();
            write("RouteTable", format!("t{table}"), format!("vpc: v{vpc}, routes: [{}]", routes.join(", ")));
        }
        for (name, group) in self.groups.iter().filter(|(_, group)| self.vpcs.contains_key(&group.vpc)) {
            let rules: Vec<String> = group.rules.iter().map(|rule| self.rule(group.vpc, *rule)).collect();
            let name = if *name == 4 { "default".to_owned() } else { format!("g{name}") };
            let spec = format!("vpc: v{}, rules: [{}]", group.vpc, rules.join(", "));
            write("SecurityGroup", name, spec);
        }
        for (subnet, (_, table, gateway, dhcp)) in &self.subnets {
            let Some(vpc) = self.vpc_of(*subnet) else { continue };
            let table = table.filter(|table| self.tables.get(table).is_some_and(|(other, _)| *other == vpc));
            let table = table.map(|table| format!(", routeTable: t{table}")).unwrap_or_default();
            let (gateway, multicast) = (1 + u8::from(*gateway), *dhcp);
            let net = format!("10.{vpc}.{subnet}");
            let dhcp = if *dhcp { format!(", dhcp: {{dns: [{net}.53]}}") } else { String::new() };
            let spec = format!(
                "vpc: v{vpc}, cidrs: [{net}.0/24], gateways: [{net}.{gateway}], multicast: {multicast}{table}{dhcp}"
            );
            write("Subnet", format!("s{subnet}"), spec);
        }
        for (name, port) in &self.ports {
            let Some(vpc) = self.vpc_of(port.subnet) else { continue };
            let groups = port.groups.map(|groups| self.groups_of(vpc, groups));
            write("Port", format!("p{name}"), port.spec(*name, vpc, groups.as_deref()));
        }
        for (name, (subnet, vtep)) in &self.endpoints {
            let Some(vpc) = self.vpc_of(*subnet) else { continue };
            let vtep = World::vtep(3 + vtep);
            let spec = format!(
                "subnet: s{subnet}, ips: [10.{vpc}.{subnet}.{}], mac: '02:00:00:00:ee:{name:02x}', vtep: {vtep}",
                100 + name
            );
            write("Endpoint", format!("e{name}"), spec);
        }
        text
    }

    /// External networks, gateways and floating IPs.
    fn write_outside(&self, write: &mut impl FnMut(&str, String, String)) {
        for (network, second) in self.networks.iter().enumerate() {
            let spec = format!(
                "cidrs: [198.51.{network}.0/24], gateway: 198.51.{network}.{}",
                1 + u8::from(*second)
            );
            write("ExternalNetwork", format!("n{network}"), spec);
        }
        for (name, (vpc, network, share)) in
            self.gateways.iter().filter(|(_, (vpc, ..))| self.vpcs.contains_key(vpc))
        {
            let (count, ports) = SHARES[usize::from(*share)];
            let mapping = if *share == 1 { "endpointIndependent" } else { "destination" };
            let addresses: Vec<String> =
                (0..count).map(|last| format!("198.51.{network}.{}", 10 * (name + 1) + last)).collect();
            let spec = format!(
                "vpc: v{vpc}, external: n{network}, addresses: [{}], portsPerPort: {ports}, mapping: {mapping}",
                addresses.join(", ")
            );
            write("NatGateway", format!("w{name}"), spec);
        }
        let mut called = BTreeSet::new();
        for (name, (network, port)) in &self.floating {
            let Some(found) = self.ports.get(port) else { continue };
            let exists = self.vpc_of(found.subnet).is_some() && found.groups.is_some();
            if exists && called.insert((network, port)) {
                write(
                    "FloatingIp",
                    format!("f{name}"),
                    format!("external: n{network}, address: 198.51.{network}.{}", 100 + name)
                        + &format!(", port: p{port}"),
                );
            }
        }
    }

    /// The groups of a VPC, as its ports and rules name them.
    fn groups_of(&self, vpc: u8, which: u8) -> Vec<String> {
        let is_in = |group: &u8| which & (1 << group) != 0;
        let of_vpc = |group: &u8| self.groups.get(group).is_some_and(|group| group.vpc == vpc);
        let named = (0..4u8).filter(is_in).filter(of_vpc).map(|group| format!("g{group}"));
        // One of the two names of the VPC's own.
        let own = if vpc == 1 { "default.v1" } else { "default" };
        named.chain(is_in(&4).then(|| own.to_owned())).collect()
    }

    fn rule(&self, vpc: u8, (what, whom): (u8, u8)) -> String {
        let direction = if what % 2 == 0 { "ingress" } else { "egress" };
        let action = if what % 4 < 2 { "allow" } else { "deny" };
        let rest = match what / 4 {
            0 => "",
            1 => ", log: true",
            2 => ", priority: 7",
            3 => ", protocol: tcp, ports: '80,100-200'",
            4 => ", protocol: icmp, icmpType: 8",
            _ => ", protocol: 47",
        };
        let groups = self.groups_of(vpc, 1 << whom.min(4));
        let remote = match (whom, groups.first()) {
            (0..5, Some(group)) => format!("group: {group}"),
            (5, _) => format!("cidr: 10.{vpc}.0.0/16"),
            _ => "any: true".to_owned(),
        };
        format!("{{direction: {direction}, action: {action}, remote: {{{remote}}}{rest}}}")
    }

    fn route(&self, vpc: u8, destination: u8, hop: u8) -> Option<String> {
        let (net, via) = match hop {
            8 => (format!("203.0.113.{destination}/32"), "blackhole: true".to_owned()),
            port @ 0..8 => {
                let subnet = self.ports.get(&port)?.subnet;
                self.vpc_of(subnet).filter(|other| *other == vpc)?;
                (format!("172.16.{destination}.0/24"), format!("port: p{port}"))
            }
            network @ 12..14 => {
                (format!("198.18.{destination}.0/24"), format!("external: n{}", network - 12))
            }
            gateway @ 14.. => {
                let gateway = (gateway - 14) % 3;
                self.gateways.get(&gateway).filter(|(other, ..)| *other == vpc)?;
                (format!("198.19.{destination}.0/24"), format!("natGateway: w{gateway}"))
            }
            pair => {
                let (one, other) = PAIRS[usize::from(pair - 9)];
                let peer = if one == vpc { other } else { one };
                if !self.is_peered(usize::from(pair - 9)) || one != vpc && other != vpc {
                    return None;
                }
                (format!("10.{peer}.{}.0/24", 10 * destination), format!("peering: x{}", pair - 9))
            }
        };
        Some(format!("{{destination: {net}, via: {{{via}}}}}"))
    }
}

impl Port {
    fn spec(&self, name: u8, vpc: u8, groups: Option<&[String]>) -> String {
        let subnet = self.subnet;
        let [address, mac, socket] = self.variants.map(u8::from);
        let mut spec = format!(
            "subnet: s{subnet}, ips: [10.{vpc}.{subnet}.{}], mac: '02:00:00:00:0{mac}:{name:02x}', shutdown: {}",
            10 + 2 * name + address,
            self.shutdown
        );
        if let Some(host) = self.host {
            spec += &format!(", host: {}", HOSTS[usize::from(host)]);
            if let Some(target) = self.migrating_to.filter(|target| *target != host) {
                spec += &format!(", migratingTo: {}", HOSTS[usize::from(target)]);
            }
        }
        spec += &format!(", attachment: {{vhostUser: {{socket: /run/p{name}-{socket}.sock}}}}");
        match groups {
            None => spec += ", unfiltered: true",
            // The VPC's own.
            Some([]) => {}
            Some(groups) => spec += &format!(", securityGroups: [{}]", groups.join(", ")),
        }
        let mut allowed = vec!["{ip: 0.0.0.0/0}".to_owned(), format!("{{ip: 10.{vpc}.128.0/18}}")];
        allowed.truncate(usize::from(self.subnet));
        for which in (0..3).filter(|which| self.may_hold[usize::from(*which)]) {
            let address = virtual_address(vpc, subnet, which);
            allowed.push(format!("{{ip: {address}}}"));
            if self.virtually {
                allowed.push(format!("{{ip: {address}, mac: '{}'}}", virtual_mac(subnet)));
            }
        }
        spec + &format!(", allowedAddresses: [{}]", allowed.join(", "))
    }
}
