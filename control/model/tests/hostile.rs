//! Sets against a naive judge, and texts that nobody meant as manifests.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use ipnet::Ipv4Net;
use proptest::prelude::*;
use std::net::Ipv4Addr;
use towpath_model::{Environment, load_text};

#[derive(Debug, Clone)]
struct Vpc {
    name: u8,
    vni: u8,
    cidr: Ipv4Net,
}

#[derive(Debug, Clone)]
struct Subnet {
    name: u8,
    vpc: u8,
    cidr: Ipv4Net,
}

#[derive(Debug, Clone)]
struct Port {
    name: u8,
    subnet: u8,
    ip: Ipv4Addr,
    mac: u8,
    socket: Option<u8>,
    vip: Option<Ipv4Addr>,
}

#[derive(Debug, Clone)]
struct World {
    vpcs: Vec<Vpc>,
    subnets: Vec<Subnet>,
    ports: Vec<Port>,
}

fn net(choices: &'static [&'static str]) -> impl Strategy<Value = Ipv4Net> {
    prop::sample::select(choices).prop_map(|text| text.parse().unwrap())
}

fn address() -> impl Strategy<Value = Ipv4Addr> {
    (0..3u8, prop::sample::select(&[0u8, 1, 2, 3, 4, 127, 128, 129, 130, 255][..]))
        .prop_map(|(net, last)| [10, 0, net, last].into())
}

fn world() -> impl Strategy<Value = World> {
    let vpc = (0..3u8, 1..6u8, net(&["10.0.0.0/16", "10.0.0.0/23"])).prop_map(|(name, vni, cidr)| Vpc {
        name,
        vni,
        cidr,
    });
    let cidrs = net(&["10.0.0.0/24", "10.0.0.128/25", "10.0.1.0/24", "10.0.2.0/24"]);
    let subnet = (0..4u8, 0..3u8, cidrs).prop_map(|(name, vpc, cidr)| Subnet { name, vpc, cidr });
    let port =
        (0..6u8, 0..4u8, address(), 0..8u8, prop::option::of(0..8u8), prop::option::weighted(0.2, address()))
            .prop_map(|(name, subnet, ip, mac, socket, vip)| Port { name, subnet, ip, mac, socket, vip });
    let vpcs = prop::collection::vec(vpc, 1..4);
    (vpcs, prop::collection::vec(subnet, 0..4), prop::collection::vec(port, 0..4))
        .prop_map(|(vpcs, subnets, ports)| World { vpcs, subnets, ports })
}

impl World {
    fn text(&self) -> String {
        let mut text = String::from("kind: Host\nmetadata: {name: h}\n");
        for Vpc { name, vni, cidr } in &self.vpcs {
            text += &format!(
                "---\nkind: Vpc\nmetadata: {{name: v{name}}}\nspec: {{vni: {vni}, cidrs: [{cidr}]}}\n"
            );
        }
        for Subnet { name, vpc, cidr } in &self.subnets {
            text += &format!(
                "---\nkind: Subnet\nmetadata: {{name: s{name}}}\nspec: {{vpc: v{vpc}, cidrs: [{cidr}]}}\n"
            );
        }
        for Port { name, subnet, ip, mac, socket, vip } in &self.ports {
            let socket =
                socket.map(|s| format!(", attachment: {{vhostUser: {{socket: /s{s}}}}}")).unwrap_or_default();
            let vip = vip.map(|vip| format!(", allowedAddresses: [{{ip: {vip}}}]")).unwrap_or_default();
            text += &format!(
                "---\nkind: Port\nmetadata: {{name: p{name}}}\nspec: {{subnet: s{subnet}, host: h, ips: [{ip}], mac: '02:00:00:00:00:0{mac}'{socket}{vip}}}\n"
            );
        }
        text
    }

    /// Every rule, pair by pair.
    fn is_valid(&self) -> bool {
        let vpc = |name| self.vpcs.iter().find(|vpc| vpc.name == name);
        let subnet = |name| self.subnets.iter().find(|subnet| subnet.name == name);
        let apart = |one: &Ipv4Net, other: &Ipv4Net| !one.contains(other) && !other.contains(one);
        let gateway = |net: &Ipv4Net| Ipv4Addr::from(u32::from(net.network()) + 1);
        let vpcs = pairs(&self.vpcs, |one, other| one.name != other.name && one.vni != other.vni);
        let subnets = pairs(&self.subnets, |one, other| {
            one.name != other.name && (one.vpc != other.vpc || apart(&one.cidr, &other.cidr))
        });
        let inside =
            self.subnets.iter().all(|inner| vpc(inner.vpc).is_some_and(|vpc| vpc.cidr.contains(&inner.cidr)));
        let addresses = self.ports.iter().all(|port| {
            subnet(port.subnet).is_some_and(|subnet| {
                let net = subnet.cidr;
                let usable =
                    port.ip != net.network() && port.ip != net.broadcast() && port.ip != gateway(&net);
                let of_the_vpc = |other: &&Subnet| other.vpc == subnet.vpc;
                let mut gateways = self.subnets.iter().filter(of_the_vpc).map(|other| gateway(&other.cidr));
                net.contains(&port.ip) && usable && gateways.all(|gateway| port.vip != Some(gateway))
            })
        });
        let vpc_of = |port: &Port| subnet(port.subnet).map(|subnet| subnet.vpc);
        let ports = pairs(&self.ports, |one, other| {
            let together = vpc_of(one) == vpc_of(other);
            one.name != other.name
                && (!together || one.mac != other.mac)
                && (!together || one.ip != other.ip && one.vip != Some(other.ip) && other.vip != Some(one.ip))
                && (one.socket.is_none() || one.socket != other.socket)
        });
        vpcs && subnets && inside && addresses && ports
    }
}

fn pairs<T>(items: &[T], good: impl Fn(&T, &T) -> bool) -> bool {
    items.iter().enumerate().all(|(index, one)| items.iter().skip(index + 1).all(|other| good(one, other)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_set_is_valid_exactly_when_the_naive_judge_says_so(world in world()) {
        let result = load_text(&world.text(), "world.yaml", &Environment::default());
        prop_assert_eq!(result.is_ok(), world.is_valid(), "{:#?}", result.err());
    }
}

const MANIFESTS: &str = "apiVersion: towpath.dev/v1\nkind: Subnet\nmetadata: {name: web, labels: {a: b}, sharedWith: ['*']}\n\
spec:\n  vpc: blue\n  cidrs: [10.0.1.0/24, \"fd00::/64\"]\n  gateways: [10.0.1.9]\n---\n{\"kind\": \"Vpc\", \"metadata\": {\"name\": \"blue\"},\n\
\t\"spec\": {\"vni\": 7, \"mtu\": 1500, \"cidrs\": [\"10.0.0.0/16\", \"fd00::/48\"]}}\n---\nkind: Port\nmetadata: &m {name: p}\nspec:\n  subnet: web\n  \
ips: [10.0.1.10]\n  mac: 02:00:00:00:00:01\n  attachment: {vhostUser: {mode: 0660, maxQueuePairs: 4}}\n  allowedAddresses: [{ip: 0.0.0.0/0}]\n  securityGroups: [ops, default]\n---\n\
kind: SecurityGroup\nmetadata: {name: ops}\nspec:\n  vpc: blue\n  rules:\n  - {direction: ingress, action: allow, protocol: tcp, ports: '22,80-90', remote: {group: default}}\n  \
- {direction: egress, action: deny, priority: 7, protocol: icmp, icmpType: 8, icmpCode: 0, remote: {cidr: 10.0.0.0/8}, log: true}\n---\n\
kind: ExternalNetwork\nmetadata: {name: internet}\nspec: {cidrs: [198.51.100.0/24], vlan: 0, gateway: 198.51.100.1, announce: arp}\n---\n\
kind: NatGateway\nmetadata: {name: egress}\nspec: {vpc: blue, external: internet, addresses: [198.51.100.10], portsPerPort: 1024}\n---\n\
kind: FloatingIp\nmetadata: {name: public}\nspec: {external: internet, address: 198.51.100.20, port: p}\n---\n\
kind: RouteTable\nmetadata: {name: out}\nspec: {vpc: blue, routes: [{destination: 0.0.0.0/0, via: {natGateway: egress}}, {destination: 8.8.8.0/24, via: {external: internet}}]}\n";

/// What a person or an attacker might type over or into a manifest.
const FRAGMENTS: &[&str] = &[
    "",
    "\n",
    "  ",
    "- ",
    ": ",
    "[",
    "]",
    "{",
    "}",
    "'",
    "\"",
    "&x",
    "*m",
    "*x",
    "!!str ",
    "!x ",
    "<<: *m",
    "? ",
    "|",
    ">\n",
    "---",
    "...",
    "%YAML 9",
    "\t",
    "\0",
    "\u{feff}",
    "\u{2028}",
    "null",
    "~",
    "-1",
    "1e999",
    "0x10",
    "18446744073709551616",
    "../..",
    "ünï",
    "#",
    ",",
    "spec",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn mutilated_manifests_give_problems_on_one_line_and_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..12usize, prop::sample::select(FRAGMENTS)), 1..6)
    ) {
        let mut text: Vec<char> = MANIFESTS.chars().collect();
        for (place, cut, fragment) in edits {
            let start = place.index(text.len());
            let end = (start + cut).min(text.len());
            text.splice(start..end, fragment.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(problems) = load_text(&text, "m.yaml", &Environment::default()) {
            prop_assert!(!problems.is_empty());
            for problem in problems {
                let line = problem.to_string();
                prop_assert!(!line.contains(char::is_control), "{line:?}");
                prop_assert!(!problem.message.is_empty() && !problem.remedy.is_empty() && problem.line.is_some(), "{line}");
            }
        }
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = load_text(&text, "m.yaml", &Environment::default());
    }
}

#[test]
fn the_text_that_is_mutilated_is_valid() {
    assert_eq!(load_text(MANIFESTS, "m.yaml", &Environment::default()).unwrap().len(), 9);
}

#[test]
fn the_naive_judge_sees_both_kinds_of_sets() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let valid = (0..2000).filter(|_| world().new_tree(&mut runner).unwrap().current().is_valid()).count();
    assert!(
        (100..1900).contains(&valid),
        "{valid} of 2000 sets are valid: the comparison above would say little"
    );
}
