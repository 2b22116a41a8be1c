//! Security groups as part of a whole set: whose they are, who may name them, and the group `default` of each VPC.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use towpath_model::security_group::{Remote, default_group};
use towpath_model::{
    Absent, Change, Environment, Key, Kind, Manifests, Name, ObjectName, Owner, ResourceSet, diff, load_text,
};

const BASE: &str = "\
kind: Vpc
metadata: {name: blue}
spec: {vni: 100, cidrs: [10.0.0.0/16]}
---
kind: Vpc
metadata: {name: green, sharedWith: [q]}
spec: {vni: 200, cidrs: [10.1.0.0/16]}
---
kind: Subnet
metadata: {name: web}
spec: {vpc: blue, cidrs: [10.0.1.0/24]}
---
kind: Subnet
metadata: {name: lawn, sharedWith: [q]}
spec: {vpc: green, cidrs: [10.1.1.0/24]}
---
kind: SecurityGroup
metadata: {name: ops}
spec: {vpc: blue, rules: []}
---
kind: SecurityGroup
metadata: {name: gardeners}
spec: {vpc: green, rules: [{direction: ingress, action: allow, remote: {group: default}}]}
---
kind: Port
metadata: {name: vm1}
spec: {subnet: web, ips: [10.0.1.10]}
---
";

fn object(text: &str) -> ObjectName {
    ObjectName::parse(text, &Name::default_project()).unwrap()
}

fn load(more: &str) -> Result<ResourceSet, Vec<String>> {
    let result = load_text(&format!("{BASE}{more}"), "all.yaml", &Environment::default());
    result.map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

/// Exactly one problem, with these parts.
fn refused(more: &str, parts: &[&str]) {
    let found = load(more).unwrap_err();
    assert_eq!(found.len(), 1, "{more}\n{found:#?}");
    for part in parts {
        assert!(found[0].contains(part), "{part}\n{found:#?}");
    }
}

fn port(groups: &str) -> String {
    format!("kind: Port\nmetadata: {{name: p}}\nspec: {{subnet: web, ips: [10.0.1.11], {groups}}}\n")
}

fn group(metadata: &str, vpc: &str, remote: &str) -> String {
    format!(
        "kind: SecurityGroup\nmetadata: {{{metadata}}}\nspec: {{vpc: {vpc}, rules: [{{direction: ingress, action: allow, remote: {{group: {remote}}}}}]}}\n"
    )
}

fn groups_of(set: &ResourceSet, port: &str) -> Vec<String> {
    set.groups_of(set.port(&object(port)).unwrap()).unwrap().iter().map(ToString::to_string).collect()
}

#[test]
fn a_port_without_groups_is_in_the_group_default_of_its_vpc() {
    let set = load(&port("securityGroups: [ops, default]")).unwrap();
    assert_eq!(groups_of(&set, "vm1"), ["default/default.blue"]);
    assert_eq!(groups_of(&set, "p"), ["default/default.blue", "default/ops"]);
    assert_eq!(groups_of(&load(&port("unfiltered: true")).unwrap(), "p"), Vec::<String>::new());
    let names: Vec<String> = set.security_groups().map(|group| group.meta.key.to_string()).collect();
    assert_eq!(
        names,
        ["default.blue", "default.green", "gardeners", "ops"]
            .map(|name| format!("SecurityGroup default/{name}"))
    );
    let default = set.security_group(&default_group(&object("blue"))).unwrap();
    assert_eq!((default.meta.owner, default.spec.rules.len()), (Owner::Daemon, 2));
    assert_eq!(default.spec.rules[1].remote, Remote::Group(object("default")));
    // One of another project, in a subnet that is shared with it: the VPC's group comes with the VPC.
    let foreign =
        "kind: Port\nmetadata: {project: q, name: p}\nspec: {subnet: default/lawn, ips: [10.1.1.11]}\n";
    assert_eq!(groups_of(&load(foreign).unwrap(), "q/p"), ["default/default.green"]);
}

#[test]
fn the_group_default_can_be_edited_and_is_there_again_afterwards() {
    let base = load("").unwrap();
    let environment = Environment::default();
    let edited = "kind: SecurityGroup\nmetadata: {name: default}\nspec: {vpc: blue}\n";
    let manifests = Manifests::read_text(edited, None, Owner::Api);
    let set = base.apply(manifests, Absent::Keep, &environment).unwrap();
    let key = Key::of(Kind::SecurityGroup, &default_group(&object("blue")));
    let Change::Changed { new, fields, .. } = &diff(&base, &set)[..][0] else { panic!() };
    assert_eq!((&new.meta.key, new.meta.owner), (&key, Owner::Api));
    assert_eq!(fields, &["spec.rules", "metadata.owner"]);
    assert_eq!(set.remove(std::slice::from_ref(&key), Owner::Api, &environment).unwrap(), base);
    let refused = base.remove(&[key], Owner::Api, &environment).unwrap_err();
    assert!(refused[0].remedy.contains("write a SecurityGroup `default` of that Vpc"), "{refused:?}");
    // Both at once, whatever they are called.
    let twice = format!("{edited}---\n{}", edited.replace("name: default", "name: default.blue"));
    assert!(
        load(&twice).unwrap_err()[0]
            .contains("SecurityGroup default/default.blue: metadata.name \"default.blue\": is written twice")
    );
    // With its VPC it goes.
    let none = set.apply(Manifests::none(Owner::Manifests), Absent::Remove, &environment);
    assert!(none.unwrap_err()[0].message.contains("there is no Vpc default/blue"));
    let none = base.apply(Manifests::none(Owner::Manifests), Absent::Remove, &environment).unwrap();
    assert!(none.is_empty());
}

#[test]
fn a_group_is_used_in_its_own_vpc() {
    refused(
        &port("securityGroups: [default, gardeners]"),
        &[
            "all.yaml:31:65:",
            "Port default/p: spec.securityGroups[1] \"gardeners\": is a group of Vpc default/green, and this port is of Vpc default/blue",
            "use a SecurityGroup of Vpc default/blue",
        ],
    );
    refused(
        &port("securityGroups: [opps]"),
        &["there is no SecurityGroup default/opps", "nearest there is: ops"],
    );
    refused(
        &group("name: g", "blue", "gardeners"),
        &[
            "SecurityGroup default/g: spec.rules[0].remote.group \"gardeners\": is a group of Vpc default/green, and this rule is of Vpc default/blue",
        ],
    );
    refused(
        &group("name: g", "blue", "none"),
        &["spec.rules[0].remote.group \"none\": there is no SecurityGroup default/none"],
    );
    refused(&group("name: g", "red", "default"), &["spec.vpc \"red\": there is no Vpc default/red"]);
    assert!(load(&group("name: g", "blue", "g")).is_ok(), "of itself");
    assert!(load(&group("name: g", "blue", "default.blue")).is_ok());
    refused(&group("name: g", "blue", "default.green"), &["is a group of Vpc default/green"]);
}

/// T-05: what one project writes means nothing in another's, unless it is shared.
#[test]
fn t05_groups_of_other_projects_are_named_only_when_shared() {
    let foreign = |groups: &str| {
        format!(
            "kind: Port\nmetadata: {{project: q, name: p}}\nspec: {{subnet: default/lawn, ips: [10.1.1.11], securityGroups: [{groups}]}}\n"
        )
    };
    refused(&foreign("default/gardeners"), &["is not shared with project q", "metadata.sharedWith: [q]"]);
    let own = group("project: q, name: g", "default/green", "default");
    let set = load(&format!("{own}---\n{}", foreign("g, default"))).unwrap();
    assert_eq!(groups_of(&set, "q/p"), ["default/default.green", "q/g"]);
    refused(
        &group("project: q, name: g", "default/green", "default/gardeners"),
        &["is not shared with project q"],
    );
    refused(
        &group("project: q, name: g", "default/blue", "default"),
        &["spec.vpc \"default/blue\"", "is not shared with project q"],
    );
    // The group default of a VPC is its project's to write.
    refused(
        &group("project: q, name: default", "default/green", "default"),
        &[
            "SecurityGroup q/default: metadata.name \"default\": is the group of Vpc default/green, which only its own project can write",
        ],
    );
    refused(
        &group("project: q, name: default.green", "default/green", "default"),
        &["is kept for the group of Vpc q/green, and this one is for Vpc default/green"],
    );
    refused(
        &group("name: default.green", "blue", "default"),
        &["is kept for the group of Vpc default/green"],
    );
}

/// T-10: one thing wrong, and nothing changes; nor does it stand in the way of what is right afterwards.
#[test]
fn t10_a_set_with_one_invalid_rule_changes_nothing() {
    let base = load("").unwrap();
    let good: String =
        (0..500).map(|index| format!("{}---\n", group(&format!("name: g{index}"), "blue", "ops"))).collect();
    let bad = "kind: SecurityGroup\nmetadata: {name: bad}\nspec:\n  vpc: blue\n  rules:\n  - {direction: ingress, action: allow, protocol: icmp, ports: '80', remote: {any: true}}\n";
    let apply = |text: &str| {
        base.apply(
            Manifests::read_text(text, Some("f.yaml"), Owner::Api),
            Absent::Keep,
            &Environment::default(),
        )
    };
    let problems = apply(&format!("{good}{bad}")).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    let said = problems[0].to_string();
    assert!(said.starts_with("f.yaml:2006:64: SecurityGroup default/bad: spec.rules[0].ports \"80\": protocol icmp has no ports; remedy: "), "{said}");
    assert_eq!(apply(&good).unwrap().len(), base.len() + 500);
}

/// S-06: what ports may send from cannot be spread over any number of groups and lengths.
#[test]
fn s06_networks_of_ports_are_in_so_many_groups_and_of_so_many_lengths() {
    let port = |number: u8, rest: &str| {
        format!(
            "kind: Port\nmetadata: {{name: q{number}}}\nspec: {{subnet: web, ips: [10.0.1.{}], {rest}}}\n---\n",
            100 + number
        )
    };
    let valid = |text: &str| assert_eq!(load(text).err(), None);
    let mut text: String =
        (0..65).map(|index| format!("{}---\n", group(&format!("name: g{index}"), "blue", "ops"))).collect();
    for number in 0..7 {
        let mut groups: Vec<String> =
            (0..10).map(|index| format!("g{}", (10 * number + index).min(63))).collect();
        groups.dedup();
        text += &port(
            number,
            &format!("securityGroups: [{}], allowedAddresses: [{{ip: 10.0.9.9}}]", groups.join(",")),
        );
    }
    valid(&text);
    refused(
        &(text + &port(8, "securityGroups: [g64], allowedAddresses: [{ip: 10.0.9.9}]")),
        &[
            "Port default/q8: spec.allowedAddresses[0].ip \"10.0.9.9\": is in more than 64 groups",
            "share groups",
        ],
    );
    let nets: Vec<String> = (9..26).map(|length| format!("{{ip: 10.0.0.0/{length}}}")).collect();
    let nets = |count: usize| {
        format!(
            "allowedAddresses: [{{ip: 0.0.0.0/0}}, {{ip: 10.0.9.9}}, {{ip: 'fd00::/64'}}, {}]",
            nets[..count].join(", ")
        )
    };
    valid(&port(1, &nets(16)));
    valid(&port(1, &(nets(17) + ", unfiltered: true")));
    refused(
        &port(1, &nets(17)),
        &["spec.allowedAddresses[19].ip \"10.0.0.0/25\": is of one length too many"],
    );
}
