//! A change costs what it touches, however much there is besides: counted in allocations, of which every list, plan and copy is one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use allocation_counter::measure;
use model::{
    Absent, Difference, Environment, Key, Kind, Manifests, Name, ObjectName, Owner, Resource, ResourceSet,
    Spec,
};
use std::sync::Arc;
use towpath_agent::{Action, Agent};

const NETWORK: &str = "
kind: Host
metadata: {name: node-a}
spec: {vteps: [192.0.2.1]}
---
kind: Host
metadata: {name: node-b}
spec: {vteps: [192.0.2.2]}
---
kind: Host
metadata: {name: node-c}
spec: {vteps: [192.0.2.3]}
---
kind: Vpc
metadata: {name: blue}
spec: {vni: 100, cidrs: [10.0.0.0/8]}
---
kind: Subnet
metadata: {name: web}
spec: {vpc: blue, cidrs: [10.0.0.0/8]}
---
kind: Port
metadata: {name: here}
spec: {subnet: web, host: node-a, ips: [10.255.0.1]}
---
kind: Port
metadata: {name: there}
spec: {subnet: web, host: node-b, ips: [10.255.0.2]}
---
kind: Port
metadata: {name: elsewhere}
spec: {subnet: web, host: node-c, ips: [10.255.0.3]}
";

/// A set with that many remote ports.
fn set(ports: u32) -> ResourceSet {
    let environment = Environment::default();
    let manifests = Manifests::read_text(NETWORK, None, Owner::Api);
    let base = ResourceSet::default().apply(manifests, Absent::Keep, &environment).unwrap();
    let pattern = base.get(&key("there")).unwrap().clone();
    let changes =
        (0..ports).map(|number| Difference { old: None, new: Some(alike(&pattern, number, "node-b")) });
    base.changed(changes.collect())
}

fn key(name: &str) -> Key {
    Key::of(Kind::Port, &ObjectName::parse(name, &Name::default_project()).unwrap())
}

/// A port like `pattern`, with a name and addresses of its own.
fn alike(pattern: &Resource, number: u32, host: &str) -> Arc<Resource> {
    let mut resource = pattern.clone();
    resource.meta.key = key(&format!("p{number}"));
    let Spec::Port(spec) = &mut resource.spec else { panic!() };
    let [_, b, c, d] = number.to_be_bytes();
    spec.ips = vec![[10, b, c, d].into()];
    spec.mac = packet::MacAddr([2, 9, 9, b, c, d]);
    spec.host = Some(Name::parse(host).unwrap());
    Arc::new(resource)
}

/// Allocations, and bytes of them, of one port's move to another host among so many.
fn cost(ports: u32) -> (u64, u64) {
    let mut agent = Agent::new(Name::parse("node-a").unwrap());
    let set = set(ports);
    let (actions, _) = agent.apply(&set);
    assert!(actions.len() > 2 * ports as usize);
    let old = set.get(&key("p7")).unwrap().clone();
    let new = alike(&old, 7, "node-c");
    let mut moved = Vec::new();
    let info = measure(|| {
        let next = set.changed(vec![Difference { old: Some(old.clone()), new: Some(new.clone()) }]);
        moved = agent.apply(&next).0;
    });
    assert!(
        matches!(&moved[..], [Action::BindMac { .. }, Action::BindEndpoint { .. }]),
        "it is bound where it is now, and nothing else happens: {moved:?}"
    );
    (info.count_total, info.bytes_total)
}

#[test]
fn one_change_costs_the_same_among_few_and_among_many() {
    let (few, few_bytes) = cost(2_000);
    let (many, many_bytes) = cost(100_000);
    // A set is a list of chunks: its copy is longer, in one piece.
    let chunks = u64::from(100_000u32 / 512) * 8 * 2;
    assert!(many <= few + 10, "{few} allocations among 2,000, {many} among 100,000");
    assert!(
        many_bytes <= few_bytes + 4 * chunks,
        "{few_bytes} bytes among 2,000, {many_bytes} among 100,000"
    );
}

/// Room is asked for as many entries as are new: not for those that move, nor for what is unbound before.
#[test]
fn many_new_addresses_are_announced_and_moves_are_not() {
    let mut agent = Agent::new(Name::parse("node-a").unwrap());
    let first = set(1_000);
    let (actions, _) = agent.apply(&first);
    // Besides the thousand, three ports, of which the one that is here is reached from the underlay too.
    let expected = Action::Expect { macs: 1_004, ipv4: 1_003, ipv6: 0 };
    let announced: Vec<&Action> =
        actions.iter().filter(|action| matches!(action, Action::Expect { .. })).collect();
    assert_eq!(announced, [&expected]);
    let change = |number: u32, host: &str| {
        let old = first.get(&key(&format!("p{number}"))).cloned();
        let pattern = first.get(&key("there")).unwrap();
        Difference { old, new: Some(alike(pattern, number, host)) }
    };
    // Five hundred move, and a hundred come.
    let second = first.changed((500..1_100).map(|number| change(number, "node-c")).collect());
    let (actions, _) = agent.apply(&second);
    let (members, bound): (Vec<Action>, Vec<Action>) =
        actions.into_iter().partition(|action| matches!(action, Action::BindMember { .. }));
    assert_eq!(bound.first(), Some(&Action::Expect { macs: 100, ipv4: 100, ipv6: 0 }));
    assert_eq!((bound.len(), members.len()), (1 + 2 * 600, 100), "who moves is in the groups it was in");
}
