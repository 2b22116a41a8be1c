//! External networks, NAT gateways and floating IPs as part of a whole set: each address outside is one port's, or one gateway's.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use ipnet::Ipv4Net;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use towpath_model::external::Mapping;
use towpath_model::{Environment, Owner, ResourceSet, load_text};

const BASE: &str = "\
kind: Host
metadata: {name: a}
spec: {vteps: [198.51.100.2]}
---
kind: Vpc
metadata: {name: blue}
spec: {vni: 100, cidrs: [10.0.0.0/16, 'fd00::/48']}
---
kind: Vpc
metadata: {name: green}
spec: {vni: 200, cidrs: [10.1.0.0/16]}
---
kind: Subnet
metadata: {name: web}
spec: {vpc: blue, cidrs: [10.0.1.0/24, 'fd00:0:0:1::/64']}
---
kind: Port
metadata: {name: vm1}
spec: {subnet: web, ips: [10.0.1.10]}
---
kind: Port
metadata: {name: vm2}
spec: {subnet: web, ips: ['fd00:0:0:1::b']}
---
kind: Port
metadata: {name: router}
spec: {subnet: web, ips: [10.0.1.12], unfiltered: true}
---
kind: ExternalNetwork
metadata: {name: internet}
spec: {cidrs: [198.51.100.0/24], gateway: 198.51.100.1}
---
";

fn load(more: &str) -> Result<ResourceSet, Vec<String>> {
    let result = load_text(&format!("{BASE}{more}"), "all.yaml", &Environment::default());
    result.map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

/// One problem, with these parts.
fn refused(more: &str, parts: &[&str]) {
    let found = load(more).unwrap_err();
    assert_eq!(found.len(), 1, "{more}\n{found:#?}");
    for part in parts {
        assert!(found[0].contains(part), "{part}\n{found:#?}");
    }
}

fn network(name: &str, spec: &str) -> String {
    format!("kind: ExternalNetwork\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n---\n")
}

fn gateway(name: &str, spec: &str) -> String {
    format!(
        "kind: NatGateway\nmetadata: {{name: {name}}}\nspec: {{vpc: blue, external: internet, {spec}}}\n---\n"
    )
}

fn floating(name: &str, address: &str, port: &str) -> String {
    format!(
        "kind: FloatingIp\nmetadata: {{name: {name}}}\nspec: {{external: internet, address: {address}, port: {port}}}\n---\n"
    )
}

fn routes(vpc: &str, routes: &str) -> String {
    format!("kind: RouteTable\nmetadata: {{name: out}}\nspec: {{vpc: {vpc}, routes: [{routes}]}}\n---\n")
}

#[test]
fn all_fields_are_read_and_written() {
    let more = network(
        "other",
        "cidrs: [203.0.113.0/24, 192.0.2.0/25], vlan: 0, gateway: 203.0.113.254, announce: arp",
    ) + &gateway(
        "egress",
        "addresses: [198.51.100.10, 198.51.100.11], portsPerPort: 512, mapping: endpointIndependent",
    ) + &gateway("usual", "addresses: [198.51.100.12]")
        + &floating("public", "198.51.100.20", "vm1")
        + &routes(
            "blue",
            "{destination: 0.0.0.0/0, via: {natGateway: egress}}, {destination: 8.8.8.0/24, via: {external: internet}}",
        );
    let set = load(&more).unwrap();
    let egress = set.nat_gateways().next().unwrap().spec;
    assert_eq!((egress.ports_per_port, egress.blocks_per_address(), egress.capacity()), (512, 126, 252));
    let usual = set.nat_gateways().nth(1).unwrap().spec;
    assert_eq!(
        (usual.ports_per_port, usual.room()),
        (1024, "63 ports: 1 address with 63 blocks of 1024".to_owned())
    );
    assert_eq!((egress.mapping, usual.mapping), (Mapping::EndpointIndependent, Mapping::Destination));
    assert!(usual.serves(set.ports().find(|port| port.meta.name().as_str() == "vm1").unwrap().spec));
    let written: Vec<String> = set
        .iter()
        .filter(|found| found.meta.owner != Owner::Daemon)
        .map(|found| found.to_json().to_string())
        .collect();
    let again = load_text(&written.join("\n---\n"), "again.yaml", &Environment::default()).unwrap();
    assert!(again.differences(&set).is_empty(), "{:#?}", again.differences(&set));
}

#[test]
fn networks_are_apart_and_have_their_router() {
    refused(
        &network("x", "cidrs: [203.0.113.0/24], gateway: 203.0.114.1"),
        &[
            "all.yaml:",
            "spec.gateway",
            "in none of the networks (203.0.113.0/24)",
            "write the router's address",
        ],
    );
    refused(
        &network("x", "cidrs: [198.51.100.128/25], gateway: 198.51.100.129"),
        &["spec.cidrs", "198.51.100.128/25 overlaps 198.51.100.0/24 of ExternalNetwork internet"],
    );
    refused(&network("x", "gateway: 203.0.113.1"), &["spec.cidrs", "is missing"]);
    refused(&network("x", "cidrs: [203.0.113.0/24]"), &["spec.gateway", "is missing"]);
    refused(
        &network("x", "cidrs: [203.0.113.0/24], gateway: 203.0.113.1, vlan: 7"),
        &["spec.vlan", "7", "not supported by this version", "write 0"],
    );
    refused(
        &network("x", "cidrs: [203.0.113.0/24], gateway: 203.0.113.1, vlan: 4095"),
        &["spec.vlan", "out of range", "from 0 to 4094"],
    );
    refused(
        &network("x", "cidrs: [203.0.113.0/24], gateway: 203.0.113.1, announce: bgp"),
        &["spec.announce", "bgp", "write arp"],
    );
    refused(&network("x", "cidrs: [203.0.113.0/24], gateway: 203.0.113.1, mtu: 9"), &["spec.mtu"]);
    let projected = "kind: ExternalNetwork\nmetadata: {name: x, project: p}\nspec: {cidrs: [203.0.113.0/24], gateway: 203.0.113.1}\n";
    assert!(load(projected).unwrap_err()[0].contains("metadata.project"));
}

#[test]
fn each_address_outside_is_of_one() {
    let one = |address: &str| gateway("egress", &format!("addresses: [{address}]"));
    refused(
        &one("203.0.113.10"),
        &[
            "NatGateway default/egress",
            "spec.addresses[0]",
            "is outside of its networks (198.51.100.0/24)",
            "ExternalNetwork internet",
        ],
    );
    refused(&one("198.51.100.1"), &["is its gateway"]);
    refused(&one("198.51.100.0"), &["spec.addresses[0]", "use a free address of 198.51.100.0/24"]);
    refused(&one("198.51.100.255"), &["spec.addresses[0]"]);
    refused(&one("198.51.100.2"), &["is a tunnel address of Host a"]);
    refused(&gateway("egress", "addresses: []"), &["spec.addresses", "is missing"]);
    refused(&gateway("egress", "addresses: [198.51.100.10, 198.51.100.10]"), &["spec.addresses"]);
    let egress = one("198.51.100.10");
    refused(
        &(egress.clone() + &gateway("more", "addresses: [198.51.100.11, 198.51.100.10]")),
        &["NatGateway default/more", "spec.addresses[1]", "belongs to NatGateway default/egress (all.yaml:"],
    );
    refused(
        &(egress.clone() + &floating("public", "198.51.100.10", "vm1")),
        &["FloatingIp default/public", "spec.address", "belongs to NatGateway default/egress"],
    );
    refused(
        &(floating("a", "198.51.100.20", "vm1") + &floating("b", "198.51.100.21", "vm1")),
        &[
            "FloatingIp default/b",
            "spec.port",
            "has FloatingIp default/a",
            "in ExternalNetwork internet already",
        ],
    );
    let v6 = network("six", "cidrs: ['2001:db8::/64'], gateway: '2001:db8::1'");
    let mixed = v6.clone() + &gateway("egress", "addresses: ['2001:db8::5']").replace("internet", "six");
    assert!(load(&mixed).is_ok());
    refused(
        &(network("two", "cidrs: [203.0.113.0/24, '2001:db8::/64'], gateway: '2001:db8::1'")
            + &gateway("egress", "addresses: [203.0.113.5]").replace("internet", "two")),
        &["spec.addresses[0]", "is of IPv4, and the gateway of ExternalNetwork two of IPv6"],
    );
    let overlapping = network("inner", "cidrs: [10.0.7.0/24], gateway: 10.0.7.1");
    refused(
        &(overlapping + &gateway("egress", "addresses: [10.0.7.10]").replace("internet", "inner")),
        &["spec.external", "10.0.7.0/24 of ExternalNetwork inner overlaps 10.0.0.0/16 of Vpc default/blue"],
    );
}

#[test]
fn what_is_referred_to_is_there() {
    refused(
        &gateway("egress", "addresses: [198.51.100.10]").replace("external: internet", "external: internat"),
        &["spec.external", "there is no ExternalNetwork internat", "internet"],
    );
    refused(
        &gateway("egress", "addresses: [198.51.100.10]").replace("vpc: blue", "vpc: blu"),
        &["spec.vpc", "blu"],
    );
    refused(&floating("public", "198.51.100.20", "vm9"), &["spec.port", "vm9"]);
    refused(
        &routes("blue", "{destination: 0.0.0.0/0, via: {natGateway: egres}}"),
        &["spec.routes[0].via.natGateway", "egres"],
    );
    refused(
        &routes("blue", "{destination: 0.0.0.0/0, via: {external: x}}"),
        &["spec.routes[0].via.external", "ExternalNetwork x"],
    );
}

#[test]
fn ports_have_addresses_and_sessions_for_it() {
    refused(
        &floating("public", "198.51.100.20", "vm2"),
        &["spec.address", "Port default/vm2 has no IPv4 address", "spec.ips"],
    );
    refused(
        &floating("public", "198.51.100.20", "router"),
        &["spec.port", "Port default/router is unfiltered", "SecurityGroups"],
    );
    refused(
        &gateway("egress", "addresses: [198.51.100.10], portsPerPort: 63"),
        &["spec.portsPerPort", "from 64 to 64512"],
    );
    refused(
        &gateway("egress", "addresses: [198.51.100.10], portsPerPort: 64513"),
        &["spec.portsPerPort", "out of range"],
    );
    refused(
        &gateway("egress", "addresses: [198.51.100.10], mapping: endpointDependent"),
        &["spec.mapping", "endpointDependent", "nearest: endpointIndependent"],
    );
    assert!(
        load(&gateway("egress", "addresses: [198.51.100.10], portsPerPort: 64512")).is_ok(),
        "vm1 alone needs a block"
    );
}

#[test]
fn validate_says_how_many_ports_fit() {
    let vms: String = (20..40)
        .map(|last| {
            format!(
                "kind: Port\nmetadata: {{name: x{last}}}\nspec: {{subnet: web, ips: [10.0.1.{last}]}}\n---\n"
            )
        })
        .collect();
    let with = |spec: &str| vms.clone() + &gateway("egress", spec);
    assert!(load(&with("addresses: [198.51.100.10], portsPerPort: 3072")).is_ok(), "21 blocks for 21 ports");
    refused(
        &with("addresses: [198.51.100.10], portsPerPort: 4096"),
        &[
            "spec.addresses",
            "has room for 15 ports: 1 address with 15 blocks of 4096 (ports 1024 to 65535), and Vpc default/blue has 21 ports under rules",
            "write 2 addresses, or portsPerPort: 3072",
        ],
    );
    refused(
        &with("addresses: [198.51.100.10, 198.51.100.11], portsPerPort: 32256"),
        &[
            "has room for 4 ports: 2 addresses with 2 blocks of 32256",
            "write 11 addresses, or portsPerPort: 5864",
        ],
    );
}

#[test]
fn routes_lead_out_of_their_own_vpc() {
    let egress = gateway("egress", "addresses: [198.51.100.10]");
    refused(
        &(egress.clone() + &routes("green", "{destination: 0.0.0.0/0, via: {natGateway: egress}}")),
        &[
            "spec.routes[0].via.natGateway",
            "serves Vpc default/blue, and this table is for Vpc default/green",
            "use a NatGateway of Vpc default/green",
        ],
    );
    refused(
        &(egress + &routes("blue", "{destination: '::/0', via: {natGateway: egress}}")),
        &["spec.routes[0].via.natGateway", "has addresses of IPv4, and ::/0 is of IPv6"],
    );
    refused(
        &routes("blue", "{destination: '::/0', via: {external: internet}}"),
        &["spec.routes[0].via.external", "IPv6"],
    );
    refused(
        &routes("blue", "{destination: 0.0.0.0/0, via: {external: internet, natGateway: x}}"),
        &["names 2 next hops"],
    );
}

#[test]
fn what_is_in_use_is_not_removed() {
    let set = load(
        &(gateway("egress", "addresses: [198.51.100.10]") + &floating("public", "198.51.100.20", "vm1")),
    )
    .unwrap();
    let internet = set.external_networks().next().unwrap().meta.key.clone();
    let problems = set.remove(&[internet], Owner::Manifests, &Environment::default()).unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:#?}");
    let port = set.ports().find(|port| port.meta.name().as_str() == "vm1").unwrap().meta.key.clone();
    assert_eq!(set.remove(&[port], Owner::Manifests, &Environment::default()).unwrap_err().len(), 1);
}

/// What a naive judge looks at, rule by rule.
#[derive(Debug, Clone)]
struct World {
    networks: Vec<(Ipv4Net, Ipv4Addr)>,
    /// VPC, network, addresses, ports of a block.
    gateways: Vec<(bool, usize, Vec<Ipv4Addr>, u16)>,
    /// Network, address, port.
    floating: Vec<(usize, Ipv4Addr, usize)>,
    /// VPC, unfiltered.
    ports: Vec<(bool, bool)>,
    /// VPC of the table, and the NAT gateway that its route leads to.
    route: Option<(bool, usize)>,
}

fn outside() -> impl Strategy<Value = Ipv4Addr> {
    let last = prop::sample::select(&[0u8, 1, 2, 9, 10, 11, 12, 13, 14, 129, 255][..]);
    (prop::sample::select(&[100u8, 100, 101][..]), last).prop_map(|(net, last)| [198, 51, net, last].into())
}

fn world() -> impl Strategy<Value = World> {
    let net =
        prop::sample::select(&["198.51.100.0/24", "198.51.100.0/25", "198.51.101.0/24", "10.0.0.0/24"][..]);
    let router = prop::sample::select(&[1u8, 1, 1, 129][..]);
    let network = (net, router).prop_map(|(net, last)| {
        let net: Ipv4Net = net.parse().unwrap();
        let [a, b, c, _] = net.network().octets();
        (net, Ipv4Addr::from([a, b, c, last]))
    });
    let ports_of_a_block = prop::sample::select(&[1024u16, 16128, 32256][..]);
    let gateway = (any::<bool>(), 0..2usize, prop::collection::vec(outside(), 1..3), ports_of_a_block);
    let floating = (0..2usize, outside(), 0..4usize);
    (
        prop::collection::vec(network, 1..3),
        prop::collection::vec(gateway, 0..3),
        prop::collection::vec(floating, 0..3),
        prop::collection::vec((any::<bool>(), prop::bool::weighted(0.2)), 1..6),
        prop::option::of((any::<bool>(), 0..2usize)),
    )
        .prop_map(|(networks, gateways, floating, ports, route)| World {
            networks,
            gateways,
            floating,
            ports,
            route,
        })
}

impl World {
    fn text(&self) -> String {
        let vpc = |second: &bool| if *second { "two" } else { "one" };
        let mut text = String::new();
        for (name, net) in [("one", 10), ("two", 20)] {
            text += &format!(
                "kind: Vpc\nmetadata: {{name: {name}}}\nspec: {{vni: {net}, cidrs: [{net}.0.0.0/16]}}\n---\n"
            );
            text += &format!(
                "kind: Subnet\nmetadata: {{name: {name}}}\nspec: {{vpc: {name}, cidrs: [{net}.0.9.0/24]}}\n---\n"
            );
        }
        for (index, (second, unfiltered)) in self.ports.iter().enumerate() {
            let net = if *second { 20 } else { 10 };
            let spec =
                format!("subnet: {}, ips: [{net}.0.9.{}], unfiltered: {unfiltered}", vpc(second), 10 + index);
            text += &format!("kind: Port\nmetadata: {{name: p{index}}}\nspec: {{{spec}}}\n---\n");
        }
        for (index, (net, router)) in self.networks.iter().enumerate() {
            text += &network(&format!("n{index}"), &format!("cidrs: [{net}], gateway: {router}"));
        }
        for (index, (second, network, addresses, count)) in self.gateways.iter().enumerate() {
            let spec = format!(
                "vpc: {}, external: n{network}, addresses: {addresses:?}, portsPerPort: {count}",
                vpc(second)
            );
            text += &format!("kind: NatGateway\nmetadata: {{name: g{index}}}\nspec: {{{spec}}}\n---\n");
        }
        for (index, (network, address, port)) in self.floating.iter().enumerate() {
            text += &floating(&format!("f{index}"), &address.to_string(), &format!("p{port}"))
                .replace("internet", &format!("n{network}"));
        }
        if let Some((second, gateway)) = &self.route {
            text +=
                &routes(vpc(second), &format!("{{destination: 0.0.0.0/0, via: {{natGateway: g{gateway}}}}}"));
        }
        text
    }

    fn is_valid(&self) -> bool {
        let touch = |one: &Ipv4Net, other: &Ipv4Net| one.contains(other) || other.contains(one);
        let vpc_net =
            |second: bool| if second { "20.0.0.0/16" } else { "10.0.0.0/16" }.parse::<Ipv4Net>().unwrap();
        let networks = self.networks.iter().all(|(net, router)| net.contains(router))
            && (self.networks.len() < 2 || !touch(&self.networks[0].0, &self.networks[1].0));
        let usable = |network: usize, address: Ipv4Addr| {
            self.networks.get(network).is_some_and(|(net, router)| {
                net.contains(&address)
                    && address != *router
                    && address != net.network()
                    && address != net.broadcast()
            })
        };
        let apart = |network: usize, second: bool| {
            self.networks.get(network).is_some_and(|(net, _)| !touch(net, &vpc_net(second)))
        };
        let shared = self.gateways.iter().flat_map(|(_, _, addresses, _)| addresses.iter().copied());
        let all: Vec<Ipv4Addr> = shared.chain(self.floating.iter().map(|(_, address, _)| *address)).collect();
        let each_once = all.iter().collect::<BTreeSet<_>>().len() == all.len();
        let gateways = self.gateways.iter().all(|(second, network, addresses, count)| {
            let served = self.ports.iter().filter(|(vpc, unfiltered)| vpc == second && !unfiltered).count();
            let room = addresses.len() * usize::from((u16::MAX - 1023) / count);
            addresses.iter().all(|address| usable(*network, *address))
                && apart(*network, *second)
                && served <= room
        });
        let floating = self.floating.iter().enumerate().all(|(index, (network, address, port))| {
            let again =
                self.floating[..index].iter().any(|(other, _, owner)| (other, owner) == (network, port));
            let port = self.ports.get(*port);
            !again
                && usable(*network, *address)
                && port.is_some_and(|(second, unfiltered)| !unfiltered && apart(*network, *second))
        });
        let route = self.route.is_none_or(|(second, gateway)| {
            self.gateways.get(gateway).is_some_and(|(vpc, ..)| *vpc == second)
        });
        networks && each_once && gateways && floating && route
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_set_is_valid_exactly_when_the_naive_judge_says_so(world in world()) {
        let result = load_text(&world.text(), "world.yaml", &Environment::default());
        prop_assert_eq!(result.is_ok(), world.is_valid(), "{:#?}", result.err());
    }
}

#[test]
fn the_naive_judge_sees_both_kinds_of_sets() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let valid = (0..2000).filter(|_| world().new_tree(&mut runner).unwrap().current().is_valid()).count();
    assert!(
        (60..1900).contains(&valid),
        "{valid} of 2000 sets are valid: the comparison above would say little"
    );
}

#[test]
fn the_guides_sample_is_valid() {
    let page = include_str!("../../../docs/guide/external-networks.md");
    let sample = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let base = "kind: Vpc\nmetadata: {name: blue}\nspec: {vni: 1, cidrs: [10.0.0.0/16]}\n---\nkind: Subnet\nmetadata: {name: web}\n\
        spec: {vpc: blue, cidrs: [10.0.1.0/24], routeTable: out}\n---\nkind: Port\nmetadata: {name: vm1-eth0}\n\
        spec: {subnet: web, ips: [10.0.1.10]}\n---\n";
    let set = load_text(&format!("{base}{sample}"), "guide.yaml", &Environment::default()).unwrap();
    let gateway = set.nat_gateways().next().unwrap();
    assert_eq!((set.floating_ips().count(), gateway.spec.capacity()), (1, 63), "as the page says");
}
