//! What single changes lead to.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use engine::{Announcement, PortIndex};
use model::{Environment, Name, ResourceSet, load_text};
use std::net::IpAddr;
use std::time::Duration;
use tables::{Endpoint, Location, NextHop, vpc_space};
use towpath_agent::{Action, Agent, CheckPlan, CountedRule, VtepKind};

const NETWORK: &str = "
kind: Host
metadata: {name: node-a}
spec: {vteps: [192.0.2.1]}
---
kind: Host
metadata: {name: node-b}
spec: {vteps: ['2001:db8::2', 192.0.2.2]}
---
kind: Vpc
metadata: {name: blue}
spec: {vni: 100, cidrs: [10.0.0.0/16]}
---
kind: Subnet
metadata: {name: web}
spec: {vpc: blue, cidrs: [10.0.1.0/24]}
---
kind: Port
metadata: {name: a}
spec: {subnet: web, host: node-a, mac: '02:00:00:00:01:0a', ips: [10.0.1.10]";

const REMOTE: &str = "}
---
kind: Port
metadata: {name: b}
spec: {subnet: web, host: node-b, mac: '02:00:00:00:01:0b', ips: [10.0.1.11], allowedAddresses: [{ip: 10.0.1.100}]}
---
kind: Endpoint
metadata: {name: c}
spec: {subnet: web, mac: '02:00:00:00:01:0c', ips: [10.0.1.12], vtep: 192.0.2.99";

fn set(rest: &str) -> ResourceSet {
    load_text(&format!("{NETWORK}{rest}}}\n"), "test", &Environment::default())
        .unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn agent(host: &str) -> Agent {
    Agent::new(Name::parse(host).unwrap())
}

fn apply(agent: &mut Agent, rest: &str) -> Vec<Action> {
    let (actions, exhausted) = agent.apply(&set(rest));
    assert_eq!(exhausted, []);
    actions
}

fn binds(actions: &[Action]) -> usize {
    let is_bind = |action: &&Action| matches!(action, Action::BindMac { .. } | Action::BindEndpoint { .. });
    actions.iter().filter(is_bind).count()
}

fn mac(last: u8) -> packet::MacAddr {
    packet::MacAddr([2, 0, 0, 0, 1, last])
}

#[test]
fn a_port_that_is_shut_down_is_reached_by_nobody() {
    let mut one = agent("node-a");
    let bound = binds(&apply(&mut one, ""));
    assert_eq!(bound, 3, "the MAC address in both spaces, and the address");
    let down = apply(&mut one, ", shutdown: true");
    assert!(down.iter().any(|action| matches!(action, Action::UnbindMac { .. })));
    assert_eq!(binds(&down), 0);
    assert_eq!(binds(&apply(&mut one, ", shutdown: false")), bound);
    assert_eq!(binds(&apply(&mut agent("node-a"), ", shutdown: true")), 0, "nor one that begins so");
}

#[test]
fn what_is_withheld_from_a_guest_changes_without_its_socket() {
    let mut agent = agent("node-a");
    let with = |rest: &str| format!(", attachment: {{vhostUser: {{socket: /run/a.sock{rest}}}}}");
    apply(&mut agent, &with(""));
    let masked = apply(&mut agent, &with(", withoutFeatures: [packed ring]"));
    assert!(matches!(&masked[..], [Action::ChangePort { .. }]), "{masked:?}");
    let moved = apply(&mut agent, &with(", maxQueuePairs: 1"));
    assert!(moved.iter().any(|action| matches!(action, Action::OpenPort { .. })), "{moved:?}");
    assert_eq!(apply(&mut agent, &with(", maxQueuePairs: 1")), []);
}

#[test]
fn a_host_with_a_port_knows_who_else_is_in_its_vpc() {
    let mut one = agent("node-a");
    let actions = apply(&mut one, REMOTE);
    let words: Vec<String> = actions
        .iter()
        .map(|action| format!("{action:?}").split([' ', '{']).next().unwrap_or_default().to_owned())
        .collect();
    let sets = ["SetVtep", "SetVtep", "SetVpc", "SetSubnet"];
    let rules = ["StartCounters", "BindMember", "BindMember", "BindMember", "SetPolicy"];
    let expected = [&sets[..], &rules, &["OpenPort", "SetRoutes"]].concat();
    assert_eq!(words[..expected.len()], expected, "before anything is bound: {words:?}");
    let vtep = |wanted: &str| {
        actions.iter().find_map(|action| match action {
            Action::SetVtep { vtep, address, sources, kind } => {
                (*address == wanted.parse::<IpAddr>().unwrap()).then(|| (*vtep, sources.clone(), *kind))
            }
            _ => None,
        })
    };
    let (host, sources, kind) = vtep("192.0.2.2").expect("node-b, by the family that node-a has");
    assert_eq!((sources.len(), kind), (2, VtepKind::Host));
    let (foreign, _, kind) = vtep("192.0.2.99").unwrap();
    assert_eq!(kind, VtepKind::Foreign);
    let place = |last: u8| {
        let address = IpAddr::from([10, 0, 1, last]);
        actions.iter().find_map(|action| match action {
            Action::BindEndpoint { vpc: 0, address: bound, endpoint } if *bound == address => Some(*endpoint),
            _ => None,
        })
    };
    let endpoint = |last, location| Some(Endpoint { mac: mac(last), subnet: 0, location });
    assert_eq!(place(10), endpoint(10, Location::Local(0)));
    assert_eq!(place(11), endpoint(11, Location::Remote(host)));
    assert_eq!(place(12), endpoint(12, Location::Remote(foreign)));
    let reached = actions
        .iter()
        .filter(|action| matches!(action, Action::BindMac { space, .. } if *space == vpc_space(0)));
    assert_eq!(reached.count(), 1, "from the underlay, only what is here");
    let routes = actions.iter().find_map(|action| match action {
        Action::SetRoutes { plan, .. } => Some(plan.clone()),
        _ => None,
    });
    assert_eq!(routes.unwrap(), [("10.0.1.0/24".parse().unwrap(), NextHop::Subnet(0))]);
    assert_eq!(apply(&mut agent("node-c"), REMOTE), [], "a host without a port has nothing to do");
    let (gone, _) = one.apply(&ResourceSet::default());
    let removed = gone.iter().filter(|action| {
        matches!(
            action,
            Action::RemoveVtep { .. }
                | Action::RemoveVpc { .. }
                | Action::RemoveSubnet { .. }
                | Action::RemoveRoutes { .. }
        )
    });
    assert_eq!(removed.count(), 5, "{gone:?}");
}

#[test]
fn virtual_addresses_of_other_hosts_are_believed_only_from_them() {
    let mut agent = agent("node-a");
    let actions = apply(&mut agent, REMOTE);
    let host = actions.iter().find_map(|action| match action {
        Action::SetVtep { vtep, kind: VtepKind::Host, .. } => Some(*vtep),
        _ => None,
    });
    let (host, virtual_address) = (host.unwrap(), IpAddr::from([10, 0, 1, 100]));
    assert_eq!(
        agent.heard_of(0, 1 - host, mac(11), Some(virtual_address)),
        [],
        "not from somebody else's tunnel"
    );
    assert_eq!(agent.heard_of(0, host, mac(10), Some(virtual_address)), [], "not by that MAC address");
    assert_eq!(agent.heard_of(0, host, mac(11), Some([10, 0, 1, 101].into())), [], "not any address");
    assert_eq!(agent.heard_of(0, host, mac(11), Some([10, 0, 1, 10].into())), [], "not a port's own");
    let endpoint = Endpoint { mac: mac(11), subnet: 0, location: Location::Remote(host) };
    let heard = agent.heard_of(0, host, mac(11), Some(virtual_address));
    assert_eq!(heard, [Action::BindEndpoint { vpc: 0, address: virtual_address, endpoint }]);
    assert_eq!(agent.heard_of(0, host, mac(11), Some(virtual_address)), [], "known");
    let announcement = Announcement { port: PortIndex(0), address: virtual_address, mac: mac(10) };
    assert_eq!(agent.announced(announcement), [], "a port here that may not");
}

#[test]
fn a_port_that_moves_is_where_it_was_last_heard() {
    let moving = ", migratingTo: node-b";
    let (mut from, mut to) = (agent("node-a"), agent("node-b"));
    let here = |actions: &[Action]| {
        let local = |action: &&Action| {
            matches!(
                action,
                Action::BindEndpoint { endpoint: Endpoint { location: Location::Local(_), .. }, .. }
            )
        };
        actions.iter().filter(local).count()
    };
    assert_eq!(here(&apply(&mut from, moving)), 1);
    let target = apply(&mut to, moving);
    assert!(target.iter().any(|action| matches!(action, Action::OpenPort { .. })), "{target:?}");
    assert_eq!(here(&target), 0, "open, but its guest runs on the other host");
    let arrived = to.activated(PortIndex(0));
    assert_eq!((here(&arrived), arrived.last()), (1, Some(&Action::Announce { port: PortIndex(0) })));
    let left = from.heard_of(0, 0, mac(10), None);
    let redirected = Action::BindMac { space: vpc_space(0), mac: mac(10), location: Location::Remote(0) };
    assert!(left.contains(&redirected), "late packets follow it: {left:?}");
    assert_eq!(from.heard_of(0, 0, mac(10), None), []);
    // It goes back: who has not heard of that still sends to where it was, which sends on too.
    from.activated(PortIndex(0));
    assert!(to.heard_of(0, 0, mac(10), None).contains(&redirected), "late packets follow it back");
    to.activated(PortIndex(0));
    from.heard_of(0, 0, mac(10), None);
    // The operator writes down what happened.
    let rest = NETWORK.replace("host: node-a, mac", "host: node-b, mac") + "}\n";
    let set = load_text(&rest, "test", &Environment::default()).unwrap();
    assert_eq!(binds(&to.apply(&set).0), 0, "nothing changes where it is");
    let (closed, _) = from.apply(&set);
    assert!(closed.iter().any(|action| matches!(action, Action::ClosePort { .. })), "{closed:?}");
}

const GROUPS: &str = "
kind: SecurityGroup
metadata: {name: web}
spec: {vpc: blue, rules: [{direction: ingress, action: allow, protocol: tcp, ports: '80', remote: {group: ops}}, {direction: egress, action: allow, remote: {any: true}}]}
---
kind: SecurityGroup
metadata: {name: ops}
spec: {vpc: blue, rules: []}
---
kind: Port
metadata: {name: c}
spec: {subnet: web, host: node-b, ips: [10.0.1.13], securityGroups: [GROUPS]}
---
kind: Port
metadata: {name: d}
spec: {subnet: web, host: node-a, ips: [10.0.1.14], securityGroups: [web]}
---
kind: Port
metadata: {name: e}
spec: {subnet: web, host: node-a, ips: [10.0.1.15], securityGroups: [default, web]}
---
kind: Port
metadata: {name: f}
spec: {subnet: web, host: node-a, ips: [10.0.1.16], unfiltered: true";

#[test]
fn a_candidate_is_one_for_all_policies_of_its_group_and_counts_anew_when_what_is_compared_changes() {
    let mut agent = agent("node-a");
    let mut step = |port: &str, shadow: &str| {
        let group = "metadata: {name: web}\nspec: {vpc: blue,";
        let text = GROUPS.replace("[GROUPS]", "[web]").replace("ports: '80'", port);
        let text = text.replace(group, &format!("{group}{shadow}"));
        let actions = apply(&mut agent, &format!("}}\n---{text}"));
        let web = model::ObjectName::parse("web", &Name::default_project()).unwrap();
        (actions, agent.comparison_of(&web))
    };
    let (_, none) = step("ports: '80'", "");
    assert_eq!(none, None);
    let shadow =
        " shadow: [{direction: ingress, action: allow, protocol: tcp, ports: '81', remote: {group: ops}}],";
    let (actions, first) = step("ports: '80'", shadow);
    let first = first.unwrap();
    assert_eq!((first.live.len(), first.candidate.len()), (2, 1));
    let plans: Vec<_> = actions
        .iter()
        .filter_map(|action| match action {
            Action::SetPolicy { name, rules, shadow, .. } => {
                Some((name.as_str(), rules.len(), shadow.clone()))
            }
            _ => None,
        })
        .collect();
    let [(_, _, Some(both)), (_, 2, Some(alone))] = &plans[..] else { panic!("{plans:?}") };
    assert_eq!((both.rules.len(), alone.rules.len()), (3, 1), "of the other group what is in force");
    assert_eq!((&both.totals, &alone.totals), (&vec![first.total], &vec![first.total]));
    assert_eq!(alone.rules[0].counter, first.candidate[0]);
    let started = |actions: &[Action]| {
        let numbers = actions.iter().find_map(|action| match action {
            Action::StartComparisons { numbers } => Some(numbers.clone()),
            _ => None,
        });
        numbers.map(|numbers| numbers.into_iter().collect::<std::collections::BTreeSet<u32>>())
    };
    let all = first.live.iter().chain(&first.candidate).chain([&first.total]).copied().collect();
    assert_eq!(started(&actions), Some(all));
    let (actions, again) = step("ports: '80'", shadow);
    assert_eq!((actions.len(), again.as_ref()), (0, Some(&first)));
    let (actions, other) = step("ports: '82'", shadow);
    assert!(started(&actions).is_some() && other.unwrap().total != first.total, "compared with other rules");
    let (actions, none) = step("ports: '82'", "");
    assert_eq!(none, None);
    assert!(actions.iter().all(|action| !matches!(action, Action::SetPolicy { shadow: Some(_), .. })));
}

#[test]
fn a_change_of_members_is_an_entry_and_one_of_rules_the_policies_they_are_in() {
    let mut agent = agent("node-a");
    let with = |groups: &str, rules: &str| {
        let text = GROUPS.replace("[GROUPS]", groups).replace("ports: '80'", rules);
        format!("}}\n---{text}")
    };
    let first = apply(&mut agent, &with("[web]", "ports: '80'"));
    let names = |actions: &[Action]| {
        let name = |action: &Action| match action {
            Action::SetPolicy { name, .. } => Some(name.clone()),
            _ => None,
        };
        actions.iter().filter_map(name).collect::<Vec<_>>()
    };
    let (own, both) = ("default/default.blue", "default/default.blue,default/web");
    assert_eq!(names(&first), [own, both, "default/web"], "a policy for each list of groups");
    let counters = |agent: &Agent, group: &str| -> Vec<u32> {
        let group = model::ObjectName::parse(group, &Name::default_project()).unwrap();
        agent.counters_of(&group).into_iter().flatten().collect()
    };
    let before = counters(&agent, "web");
    assert_eq!(
        (before.len(), counters(&agent, "default.blue").len(), counters(&agent, "ops").len()),
        (2, 2, 0)
    );
    // Somebody else's host has the port: it is one entry here, of a group that rules here name.
    let joined = apply(&mut agent, &with("[ops, web]", "ports: '80'"));
    let ops = match &joined[..] {
        [Action::BindMember { vpc: 0, prefix, groups }] if *prefix == "10.0.1.13/32".parse().unwrap() => {
            groups[0]
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(agent.group_of(ops).unwrap().to_string(), "default/ops");
    let left = apply(&mut agent, &with("[web]", "ports: '80'"));
    assert!(matches!(&left[..], [Action::UnbindMember { vpc: 0, .. }]), "{left:?}");
    // A rule in two of three policies; the other rule is counted where it was.
    let changed = apply(&mut agent, &with("[web]", "ports: '81'"));
    assert_eq!((changed.len(), names(&changed)), (3, vec![both.to_owned(), "default/web".to_owned()]));
    let after = counters(&agent, "web");
    assert!(after[0] != before[0] && after[1] == before[1], "{before:?} {after:?}");
    assert_eq!(changed[0], Action::StartCounters { counters: vec![after[0]] });
    let CountedRule { group, index, rule, .. } = agent.rule_of(after[0]).unwrap();
    assert_eq!((group.to_string().as_str(), index, rule.ports[0].first), ("default/web", 0, 81));
    assert!(agent.rule_of(before[0]).is_none());
    // Who is not under rules any more leaves his policy, and that its members.
    let last = apply(
        &mut agent,
        &with("[web]", "ports: '81'").replace(
            "securityGroups: [web]}\n---\nkind: Port\nmetadata: {name: e",
            "unfiltered: true}\n---\nkind: Port\nmetadata: {name: e",
        ),
    );
    assert!(last.iter().any(|action| matches!(action, Action::RemovePolicy { .. })), "{last:?}");
}

#[test]
fn a_load_balancer_follows_its_targets_and_nothing_else() {
    let balancer = |rest: &str| {
        format!(
            "{REMOTE}}}\n---\nkind: LoadBalancer\nmetadata: {{name: lb}}\nspec: {{vpc: blue, vip: 10.0.100.1, \
             listeners: [{{protocol: tcp, port: 80, targetPort: 8080}}], targets: [{{port: b, weight: 2}}, {{port: a}}{rest}"
        )
    };
    let set = |actions: &[Action]| {
        let plan = |action: &Action| match action {
            Action::SetBalancer { vpc: 0, address, plan, .. }
                if *address == IpAddr::from([10, 0, 100, 1]) =>
            {
                let target = |target: &tables::balancers::Target| (target.address, target.weight, target.up);
                Some(plan.targets.iter().map(target).collect::<Vec<_>>())
            }
            _ => None,
        };
        actions.iter().filter_map(plan).collect::<Vec<_>>()
    };
    let (a, b) = (IpAddr::from([10, 0, 1, 10]), IpAddr::from([10, 0, 1, 11]));
    let mut agent = agent("node-a");
    let first = apply(&mut agent, &balancer("]"));
    assert_eq!(set(&first), [[(b, 2, true), (a, 1, true)]]);
    assert!(matches!(first.last(), Some(Action::SetBalancer { .. })), "after all that it needs");
    assert_eq!(apply(&mut agent, &balancer("]")), []);
    // A target that is shut down is not up; nothing is said when another port changes.
    let down = balancer("]").replace("host: node-b,", "host: node-b, shutdown: true,");
    assert_eq!(set(&apply(&mut agent, &down)), [[(b, 2, false), (a, 1, true)]]);
    assert_eq!(set(&apply(&mut agent, &balancer(", {ip: 10.0.1.77}]"))).len(), 1);
    let other = balancer(", {ip: 10.0.1.77}]").replace("ips: [10.0.1.12]", "ips: [10.0.1.13]");
    let moved = apply(&mut agent, &other);
    assert!(!moved.is_empty() && set(&moved).is_empty(), "{moved:?}");
    let checked = format!("{}, healthCheck: {{protocol: http, path: /x, interval: 1s}}", balancer("]"));
    let check = CheckPlan {
        path: Some("/x".to_owned()),
        port: 8080,
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        unhealthy_after: 3,
        healthy_after: 2,
    };
    let asked = apply(&mut agent, &checked);
    let is_it =
        |action: &Action| matches!(action, Action::SetBalancer { check: Some(said), .. } if **said == check);
    assert_eq!(asked.iter().filter(|action| is_it(action)).count(), 1, "{asked:?}");
    assert_eq!(apply(&mut agent, &checked), []);
    let gone = apply(&mut agent, REMOTE);
    let removal = Action::RemoveBalancer { vpc: 0, address: IpAddr::from([10, 0, 100, 1]) };
    assert!(gone.contains(&removal), "{gone:?}");
    // A host without ports of the VPC needs none.
    let mut elsewhere = Agent::new(Name::parse("node-c").unwrap());
    assert_eq!(set(&elsewhere.apply(&crate::set(&balancer("]"))).0).len(), 0);
}
