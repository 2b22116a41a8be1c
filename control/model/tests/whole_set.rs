//! The rules on the whole set, from the outside: files in, a set or all problems out.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use towpath_model::{
    Absent, Attachment, Environment, HostSpec, Key, Kind, Manifests, Name, ObjectName, Owner, Problem,
    ResourceSet, load_path, load_paths, load_text,
};

const BASE: &str = "\
apiVersion: towpath.dev/v1
kind: Host
metadata: {name: node-a}
---
kind: Host
metadata: {name: node-b}
spec: {vteps: ['2001:db8::2', 192.0.2.2]}
---
kind: Vpc
metadata: {name: blue}
spec: {vni: 100, cidrs: [10.0.0.0/16, 'fd00:10::/48']}
---
kind: Subnet
metadata: {name: web}
spec: {vpc: blue, cidrs: [10.0.1.0/24, 'fd00:10:0:1::/64']}
---
kind: Port
metadata: {name: vm1-eth0}
spec: {subnet: web, host: node-a, mac: '02:00:00:00:01:0a', ips: [10.0.1.10, 'fd00:10:0:1::10'], attachment: {vhostUser: {socket: /run/a.sock}}}
";

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn object(text: &str) -> ObjectName {
    ObjectName::parse(text, &Name::default_project()).unwrap()
}

fn texts(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// The problems of BASE with more documents.
fn problems_of(more: &str) -> Vec<String> {
    let text = format!("{BASE}---\n{more}");
    texts(&load_text(&text, "all.yaml", &Environment::default()).unwrap_err())
}

/// What people wrote of a set, as it is written out.
fn written(set: &ResourceSet) -> String {
    let written = set.iter().filter(|resource| resource.meta.owner != Owner::Daemon);
    written.map(|resource| format!("{}\n---\n", resource.to_json())).collect()
}

/// Exactly one problem, with these parts.
fn refused(more: &str, parts: &[&str]) {
    let found = problems_of(more);
    assert_eq!(found.len(), 1, "{more}\n{found:#?}");
    for part in parts {
        assert!(found[0].contains(part), "{part}\n{found:#?}");
    }
}

fn port(name: &str, rest: &str) -> String {
    format!("kind: Port\nmetadata: {{name: {name}}}\nspec: {{subnet: web, {rest}}}\n")
}

#[test]
fn a_valid_set_is_indexed_by_kind_and_name() {
    let set = load_text(BASE, "base.yaml", &Environment::default()).unwrap();
    assert_eq!(
        (set.len(), set.hosts().count(), set.vpcs().count(), set.subnets().count(), set.ports().count()),
        (6, 2, 1, 1, 1),
        "and the Vpc's group `default`"
    );
    let port = set.port(&object("vm1-eth0")).unwrap();
    assert_eq!(port.meta.owner, Owner::Manifests);
    let subnet = set.subnet(&port.spec.subnet).unwrap();
    let vpc = set.vpc(&subnet.spec.vpc).unwrap();
    assert_eq!((vpc.spec.vni.get(), set.mtu(&subnet.spec.vpc)), (100, Some(1500)));
    assert_eq!(subnet.spec.gateways[0].to_string(), "10.0.1.1");
    assert_eq!(subnet.spec.gateways[1].to_string(), "fd00:10:0:1::1");
    assert_eq!(set.ports_on(&name("node-a")).count(), 1);
    assert_eq!(set.ports_on(&name("node-b")).count(), 0);
    let kinds: Vec<Kind> = set.iter().map(|resource| resource.meta.key.kind).collect();
    assert!(kinds.is_sorted());
    let Some(Attachment::VhostUser(vhost)) = &port.spec.attachment else { panic!() };
    assert_eq!(vhost.max_queue_pairs, 128);
}

#[test]
fn references_that_dangle_name_the_nearest() {
    refused(
        "kind: Port\nmetadata: {name: p}\nspec: {subnet: wbe, ips: [10.0.1.11]}\n",
        &[
            "all.yaml:23:16:",
            "Port default/p: spec.subnet \"wbe\": there is no Subnet default/wbe",
            "nearest there is: web",
        ],
    );
    refused(
        &port("p", "host: node-x, ips: [10.0.1.11]"),
        &["spec.host \"node-x\": there is no Host node-x", "nearest there is: node-"],
    );
    refused(
        &port("p", "host: node-a, migratingTo: node-c, ips: [10.0.1.11]"),
        &["spec.migratingTo \"node-c\""],
    );
    refused(
        "kind: Subnet\nmetadata: {name: s}\nspec: {vpc: red, cidrs: [10.9.0.0/24]}\n",
        &["there is no Vpc default/red", "blue"],
    );
    refused(
        "kind: Vpc\nmetadata: {name: v}\nspec: {vni: 7, cidrs: [10.9.0.0/24], directory: [node-z]}\n",
        &["spec.directory[0] \"node-z\""],
    );
}

#[test]
fn other_projects_are_reached_only_when_shared() {
    let foreign =
        "kind: Port\nmetadata: {project: green, name: p}\nspec: {subnet: default/web, ips: [10.0.1.11]}\n";
    refused(
        foreign,
        &["Subnet default/web", "is not shared with project green", "metadata.sharedWith: [green]"],
    );
    refused(
        "kind: Port\nmetadata: {project: green, name: p}\nspec: {subnet: web, ips: [10.0.1.11]}\n",
        &["there is no Subnet green/web"],
    );
    let shared = BASE.replace("metadata: {name: web}", "metadata: {name: web, sharedWith: [green]}");
    let set = load_text(&format!("{shared}---\n{foreign}"), "f", &Environment::default()).unwrap();
    let port = set.port(&ObjectName { project: name("green"), name: name("p") }).unwrap();
    assert_eq!(port.spec.subnet, object("web"));
}

#[test]
fn names_are_unique_per_project_and_kind() {
    refused(
        "kind: Vpc\nmetadata: {name: blue}\nspec: {vni: 9, cidrs: [10.0.0.0/16]}\n",
        &["metadata.name \"blue\": is written twice", "the first is Vpc default/blue (all.yaml:9)"],
    );
    let again = "kind: Vpc\nmetadata: {project: other, name: blue}\nspec: {vni: 9, cidrs: [10.0.0.0/16]}\n---\nkind: Subnet\nmetadata: {name: blue}\nspec: {vpc: blue, cidrs: [10.0.2.0/24]}\n";
    assert!(load_text(&format!("{BASE}---\n{again}"), "f", &Environment::default()).is_ok());
}

#[test]
fn numbers_are_unique_and_assigned_by_nobody() {
    refused(
        "kind: Vpc\nmetadata: {name: v}\nspec: {vni: 100, cidrs: [10.0.0.0/16]}\n",
        &["spec.vni \"100\": is the VNI of Vpc default/blue", "write vni: 1, which is free"],
    );
    refused(
        "kind: Vpc\nmetadata: {name: v}\nspec: {cidrs: [10.0.0.0/16]}\n",
        &["spec.vni: is missing, and without a store", "vni: 1"],
    );
    for bad in ["0", "16777216", "-1", "x", "\"5\""] {
        refused(
            &format!("kind: Vpc\nmetadata: {{name: v}}\nspec: {{vni: {bad}, cidrs: [10.0.0.0/16]}}\n"),
            &["spec.vni"],
        );
    }
    let uid = load_text(BASE, "f", &Environment::default()).unwrap().vpcs().next().unwrap().meta.uid;
    refused(
        &format!("kind: Host\nmetadata: {{name: h, uid: {uid}}}\n"),
        &["metadata.uid", "has the uid of Vpc default/blue"],
    );
}

#[test]
fn subnets_lie_in_their_vpc_and_apart() {
    let subnet =
        |cidrs: &str| format!("kind: Subnet\nmetadata: {{name: s}}\nspec: {{vpc: blue, cidrs: [{cidrs}]}}\n");
    refused(
        &subnet("10.1.0.0/24"),
        &[
            "spec.cidrs[0] \"10.1.0.0/24\": is outside of the networks of Vpc default/blue (10.0.0.0/16, fd00:10::/48)",
        ],
    );
    refused(
        &subnet("10.0.2.0/24, 10.0.1.128/25"),
        &["spec.cidrs[1]", "overlaps 10.0.1.0/24 of Subnet default/web"],
    );
    refused(&subnet("10.0.0.0/20"), &["spec.cidrs[0]", "overlaps 10.0.1.0/24 of Subnet default/web"]);
    refused(&subnet("'fd00:10::/56'"), &["overlaps fd00:10:0:1::/64"]);
    assert!(
        load_text(
            &format!("{BASE}---\n{}", subnet("10.0.0.0/24, 10.0.2.0/23")),
            "f",
            &Environment::default()
        )
        .is_ok()
    );
}

#[test]
fn addresses_of_ports() {
    refused(
        &port("p", "ips: [10.0.2.1]"),
        &["spec.ips[0] \"10.0.2.1\": is outside of Subnet default/web (10.0.1.0/24, fd00:10:0:1::/64)"],
    );
    refused(
        &port("p", "ips: [10.0.1.11, 10.0.1.10]"),
        &["spec.ips[1] \"10.0.1.10\": is the address of Port default/vm1-eth0 (all.yaml:17)"],
    );
    refused(&port("p", "ips: ['fd00:0010:0:1:0::10']"), &["is the address of Port default/vm1-eth0"]);
    refused(&port("p", "ips: [10.0.1.1]"), &["is the subnet's gateway"]);
    refused(&port("p", "ips: [10.0.1.0]"), &["network's own address"]);
    refused(&port("p", "ips: [10.0.1.255]"), &["broadcast"]);
    refused(
        &port("p", "host: node-a"),
        &[
            "spec.ips: is missing, and without a store",
            "write ips: [10.0.1.2, \"fd00:10:0:1::2\"], which is free",
        ],
    );
    refused(&port("p", "ips: []"), &["spec.ips: is missing"]);
    refused(
        &port("p", "ips: [10.0.1.11], mac: '02:00:00:00:01:0A'"),
        &["spec.mac", "02:00:00:00:01:0a is the MAC address of Port default/vm1-eth0"],
    );
    let gateway =
        load_text(BASE, "f", &Environment::default()).unwrap().subnets().next().unwrap().spec.gateway_mac;
    refused(
        &port("p", &format!("ips: [10.0.1.11], mac: '{gateway}'")),
        &["MAC address of the subnet's gateway"],
    );
}

#[test]
fn missing_addresses_are_each_told_another() {
    let found = problems_of(&format!("{}---\n{}", port("p", ""), port("q", "")));
    assert!(
        found.len() == 2 && found[0].contains("10.0.1.2,") && found[1].contains("10.0.1.3,"),
        "{found:#?}"
    );
}

#[test]
fn virtual_addresses_belong_to_nobody_else() {
    let allowed = |what: &str| port("p", &format!("ips: [10.0.1.11], allowedAddresses: [{what}]"));
    refused(
        &allowed("{ip: 10.0.1.1}"),
        &["spec.allowedAddresses[0].ip \"10.0.1.1\": is the subnet's gateway"],
    );
    refused(
        &allowed("{ip: 0.0.0.0/0}, {ip: 10.0.1.10}"),
        &["spec.allowedAddresses[1].ip", "own address of Port default/vm1-eth0"],
    );
    refused(&allowed("{ip: 10.0.8.1/22}"), &["write 10.0.8.0/22"]);
    refused(
        &allowed("{ip: 10.0.8.0/22, mac: 'ff:ff:ff:ff:ff:ff'}"),
        &["allowedAddresses[0].mac", "group address"],
    );
    let shared = format!(
        "{BASE}---\n{}---\n{}---\n{}",
        allowed("{ip: 10.0.1.100}, {ip: 10.0.1.0/24}"),
        port("q", "ips: [10.0.1.12], allowedAddresses: [{ip: 10.0.1.100}]"),
        port("reserves-it", "ips: [10.0.1.100]")
    );
    assert!(load_text(&shared, "f", &Environment::default()).is_ok());
}

#[test]
fn sockets_belong_to_one_port_of_a_host() {
    let with = |host: &str| {
        port("p", &format!("ips: [10.0.1.11], {host} attachment: {{vhostUser: {{socket: /run/a.sock}}}}"))
    };
    refused(
        &with("host: node-a,"),
        &["spec.attachment.vhostUser.socket \"/run/a.sock\": is the socket of Port default/vm1-eth0"],
    );
    refused(&with("host: node-b, migratingTo: node-a,"), &["is the socket of"]);
    assert!(
        load_text(&format!("{BASE}---\n{}", with("host: node-b,")), "f", &Environment::default()).is_ok()
    );
}

#[test]
fn mtu_is_limited_by_uplinks_with_the_arithmetic() {
    let uplinks = |text: &str, a: u16, b: u16| {
        let first =
            format!("metadata: {{name: node-a}}\nspec: {{vteps: [192.0.2.1, '2001:db8::1'], mtu: {a}}}");
        text.replace("metadata: {name: node-a}", &first)
            .replace("192.0.2.2]", &format!("192.0.2.2], mtu: {b}"))
    };
    let mtu = |text: &str| {
        load_text(text, "f", &Environment::default()).map(|set| set.mtu(&object("blue")).unwrap())
    };
    assert_eq!(mtu(&uplinks(BASE, 1500, 1350)), Ok(1450), "only node-a is in the VPC");
    let both = BASE.replace("host: node-a", "host: node-a, migratingTo: node-b");
    assert_eq!(mtu(&uplinks(&both, 1600, 1510)), Ok(1440), "the VTEP that node-b prefers is IPv6");
    assert_eq!(mtu(&uplinks(&both, 1500, 1510)), Ok(1430), "and what node-a sends there is as long");
    let great = both.replace("vni: 100", "vni: 100, mtu: 1450");
    let found = texts(&mtu(&uplinks(&great, 1600, 1510)).unwrap_err());
    assert_eq!(found.len(), 1);
    assert!(
        found[0].contains(
            "spec.mtu \"1450\": 1450 does not fit; uplink of node-b: 1510 - 70 (VXLAN over IPv6) = 1440"
        ),
        "{found:?}"
    );
    let small = texts(&mtu(&uplinks(&both, 1500, 1300)).unwrap_err());
    assert!(small[0].contains("1300 - 70 (VXLAN over IPv6) = 1230, less than the 1280"), "{small:?}");
    assert_eq!(mtu(&BASE.replace("vni: 100", "vni: 100, mtu: 9000")), Ok(9000), "no uplink limits it");
    let directory = uplinks(&BASE.replace("vni: 100", "vni: 100, directory: [node-b]"), 1600, 1510);
    assert_eq!(mtu(&directory), Ok(1440), "a directory host is one of the VPC's");
    let foreign = "---\nkind: Endpoint\nmetadata: {name: db}\nspec: {subnet: web, ips: [10.0.1.200], mac: '02:00:00:00:02:00', vtep: '2001:db8::99'}\n";
    assert_eq!(mtu(&format!("{}{foreign}", uplinks(BASE, 1500, 1500))), Ok(1430), "an Endpoint behind IPv6");
    let default =
        BASE.replace("metadata: {name: node-a}", "metadata: {name: node-a}\nspec: {vteps: [192.0.2.1]}");
    assert_eq!(mtu(&default), Ok(1450), "an uplink of which nobody says the MTU has 1500");
    refused(
        "kind: Vpc\nmetadata: {name: v}\nspec: {vni: 3, mtu: 1279, cidrs: ['fd00::/48']}\n",
        &["spec.mtu \"1279\": out of range; remedy: write a whole number from 1280 to 65521"],
    );
}

#[test]
fn the_daemon_writes_its_own_host() {
    let own = Environment { own_host: Some((name("node-a"), HostSpec::default())) };
    let set = load_text(BASE, "f", &own).unwrap();
    assert_eq!(set.host(&name("node-a")).unwrap().meta.owner, Owner::Daemon);
    let mut uplink = own.clone();
    let vteps = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    uplink.own_host = Some((name("node-a"), HostSpec { vteps, mtu: Some(9000) }));
    assert_eq!(load_text(BASE, "f", &uplink).unwrap().host(&name("node-a")).unwrap().spec.mtu, Some(9000));
    let other_mtu = BASE.replace("metadata: {name: node-a}", "metadata: {name: node-a}\nspec: {mtu: 1500}");
    let found = texts(&load_text(&other_mtu, "f", &uplink).unwrap_err());
    assert!(
        found.len() == 1 && found[0].contains("spec.mtu \"1500\": belongs to owner towpathd"),
        "{found:?}"
    );
    let differs =
        BASE.replace("metadata: {name: node-a}", "metadata: {name: node-a}\nspec: {vteps: [192.0.2.1]}");
    let found = texts(&load_text(&differs, "f", &own).unwrap_err());
    assert!(
        found.len() == 1
            && found[0]
                .contains("f:4:15: Host node-a: spec.vteps: belongs to owner towpathd, where it differs"),
        "{found:?}"
    );
    let alone = Environment { own_host: Some((name("node-x"), HostSpec::default())) };
    let text = BASE
        .split("---\n")
        .filter(|document| !document.contains("kind: Host"))
        .collect::<Vec<_>>()
        .join("---\n");
    let found = texts(&load_text(&text, "f", &alone).unwrap_err());
    assert!(found.len() == 1 && found[0].contains("towpathd.yaml says host: node-x"), "{found:?}");
    assert!(
        load_text(&text, "f", &Environment::default()).is_ok(),
        "away from a daemon nobody knows the hosts"
    );
}

#[test]
fn all_problems_of_all_files_at_once_and_nothing_applied() {
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
    write("10-base.yaml", BASE);
    write(
        "20-broken.yaml",
        "kind: Vpc\nmetadata: {name: v\n---\nkind: Subnet\nmetadata: {name: s}\nspec: {vpc: v, cidrs: [10.0.0.1/24]}\n",
    );
    write(
        "30-port.json",
        "{\"kind\": \"Port\", \"metadata\": {\"name\": \"p\"}, \"spec\": {\"subnet\": \"s\", \"ips\": [\"10.0.0.300\"]}}",
    );
    write("40-kinds.yml", "kind: Prot\nmetadata: {name: p}\n---\nkind: Mirror\nmetadata: {name: m}\n");
    write("50-binary.yaml", "kind: Vpc\n");
    std::fs::write(folder.path().join("50-binary.yaml"), b"kind: Vpc\n\xff\xfe\n").unwrap();
    write("README.md", "not: [yaml");
    write(".hidden.yaml", "not: [yaml");
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    write(
        "sub/x.yaml",
        "kind: Port\nmetadata: {name: x}\nspec: {subnet: web, ips: [10.0.1.11], colour: red}\n",
    );
    let problems = load_path(folder.path(), &Environment::default()).unwrap_err();
    let found = texts(&problems);
    let expected = [
        ("20-broken.yaml:2:11", "not valid YAML"),
        ("20-broken.yaml:6:24", "spec.cidrs[0] \"10.0.0.1/24\""),
        ("30-port.json:1:77", "spec.ips[0] \"10.0.0.300\": not an IP address"),
        ("40-kinds.yml:1:7", "unknown kind"),
        ("40-kinds.yml:4:7", "kind Mirror is not supported by this version"),
        ("50-binary.yaml", "line 2 is not UTF-8"),
        ("sub/x.yaml:3:39", "spec.colour: unknown field"),
    ];
    for (place, part) in expected {
        assert!(
            found.iter().any(|text| text.contains(place) && text.contains(part)),
            "{place} {part}\n{found:#?}"
        );
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    assert!(problems.iter().all(|problem| !problem.remedy.is_empty()));
    assert!(!found.iter().any(|text| text.contains("README") || text.contains("hidden")));
}

#[test]
fn files_that_cannot_be_read_are_problems() {
    let found = texts(
        &load_paths(&[Path::new("/nonexistent/x.yaml"), Path::new("/dev/null")], &Environment::default())
            .unwrap_err(),
    );
    assert!(
        found.len() == 2 && found[0].contains("/dev/null") && found[1].contains("cannot be read"),
        "{found:?}"
    );
    let empty = tempfile::tempdir().unwrap();
    assert!(load_path(empty.path(), &Environment::default()).unwrap().is_empty());
}

#[test]
fn only_the_owner_changes_a_resource() {
    let environment = Environment::default();
    let set = load_text(BASE, "base.yaml", &environment).unwrap();
    let api =
        |text: &str, absent| set.apply(Manifests::read_text(text, None, Owner::Api), absent, &environment);
    let change =
        "kind: Vpc\nmetadata: {name: blue}\nspec: {vni: 101, cidrs: [10.0.0.0/16, 'fd00:10::/48']}\n";
    let found = texts(&api(change, Absent::Keep).unwrap_err());
    assert!(
        found[0].contains(
            "Vpc default/blue: spec.vni \"101\": belongs to owner manifests, where it differs in spec.vni"
        ),
        "{found:?}"
    );
    let same = change.replace("101", "100");
    assert_eq!(api(&same, Absent::Keep).unwrap(), set);
    let more = port("vm2", "ips: [10.0.1.11]");
    let two = api(&more, Absent::Keep).unwrap();
    assert_eq!((two.len(), two.port(&object("vm2")).unwrap().meta.owner), (7, Owner::Api));
    // What manifests leave out goes, what the API owns stays.
    let fewer = BASE.rsplit_once("---").unwrap().0;
    let reloaded =
        two.apply(Manifests::read_text(fewer, None, Owner::Manifests), Absent::Remove, &environment).unwrap();
    assert!(reloaded.port(&object("vm1-eth0")).is_none() && reloaded.port(&object("vm2")).is_some());
    let key = |kind, text: &str| Key::of(kind, &object(text));
    let foreign = two
        .remove(&[key(Kind::Port, "vm1-eth0"), key(Kind::Port, "none")], Owner::Api, &environment)
        .unwrap_err();
    assert!(foreign.len() == 2 && foreign[0].message.contains("owner manifests"), "{foreign:?}");
    let dangling = two.remove(&[key(Kind::Subnet, "web")], Owner::Manifests, &environment).unwrap_err();
    assert_eq!(dangling.len(), 2, "both ports of the subnet: {dangling:?}");
    assert_eq!(two.remove(&[key(Kind::Port, "vm2")], Owner::Api, &environment).unwrap(), set);
}

#[test]
fn an_unchanged_resource_is_shared_between_sets() {
    let environment = Environment::default();
    let set = load_text(BASE, "f", &environment).unwrap();
    let again = set
        .apply(Manifests::read_text(BASE, Some("f"), Owner::Manifests), Absent::Remove, &environment)
        .unwrap();
    assert_eq!(set, again);
    let shared = |key: &Key| std::sync::Arc::ptr_eq(set.get(key).unwrap(), again.get(key).unwrap());
    assert!(set.iter().all(|resource| shared(&resource.meta.key)));
    let written = written(&set);
    assert_eq!(load_text(&written, "f", &environment).unwrap(), set, "what is written out reads back");
}

#[test]
fn a_hundred_thousand_lines_of_problems_take_no_time() {
    let mut text = String::from(BASE);
    for index in 0..5_000 {
        text.push_str(&format!(
            "---\nkind: Port\nmetadata: {{name: p{index}}}\nspec: {{subnet: nowhere{index}}}\n"
        ));
    }
    let problems = load_text(&text, "f", &Environment::default()).unwrap_err();
    assert_eq!(problems.len(), 5_000);
    assert!(ResourceSet::default().is_empty());
}

/// BASE with a second VPC, peered with the first.
const PEERED: &str = "\
---
kind: Vpc
metadata: {name: green}
spec: {vni: 200, cidrs: [10.9.0.0/16]}
---
kind: Subnet
metadata: {name: lawn}
spec: {vpc: green, cidrs: [10.9.1.0/24]}
---
kind: Peering
metadata: {name: blue-green}
spec: {vpcs: [blue, green]}
---
kind: RouteTable
metadata: {name: out}
spec: {vpc: blue, routes: [{destination: 10.9.0.0/16, via: {peering: blue-green}}, {destination: 0.0.0.0/0, via: {port: vm1-eth0}}, {destination: 203.0.113.0/24, via: {blackhole: true}}]}
---
kind: Endpoint
metadata: {name: db}
spec: {subnet: web, ips: [10.0.1.200], mac: '02:00:00:00:02:00', vtep: 192.0.2.99}
";

/// Exactly one problem of BASE and PEERED with these documents more, with these parts.
fn refused_beside_peers(more: &str, parts: &[&str]) {
    refused(&format!("{}---\n{more}", PEERED.trim_start_matches("---\n")), parts);
}

#[test]
fn routes_and_peerings_lead_somewhere() {
    let with_table = BASE.replace(
        "spec: {vpc: blue, cidrs: [10.0.1.0/24",
        "spec: {vpc: blue, routeTable: out, cidrs: [10.0.1.0/24",
    );
    let set = load_text(&format!("{with_table}{PEERED}"), "f", &Environment::default()).unwrap();
    assert_eq!((set.peerings().count(), set.route_tables().count(), set.endpoints().count()), (1, 1, 1));
    let blue = object("blue");
    let members: Vec<String> =
        set.members(Kind::Vpc, &blue).map(|member| member.meta.key.to_string()).collect();
    assert_eq!(
        members,
        ["RouteTable default/out", "SecurityGroup default/default.blue", "Subnet default/web"]
    );
    let web = object("web");
    let members: Vec<String> =
        set.members(Kind::Subnet, &web).map(|member| member.meta.key.to_string()).collect();
    assert_eq!(members, ["Port default/vm1-eth0", "Endpoint default/db"]);
    let written = written(&set);
    assert_eq!(
        load_text(&written, "f", &Environment::default()).unwrap(),
        set,
        "what is written out reads back"
    );

    let table = |routes: &str| {
        format!("kind: RouteTable\nmetadata: {{name: t}}\nspec: {{vpc: blue, routes: [{routes}]}}\n")
    };
    let route = |route: &str, parts: &[&str]| refused_beside_peers(&table(route), parts);
    route(
        "{destination: 1.0.0.0/8, via: {port: vm1}}",
        &["spec.routes[0].via.port \"vm1\": there is no Port default/vm1", "vm1-eth0"],
    );
    route("{destination: 1.0.0.0/8, via: {peering: bleu}}", &["there is no Peering default/bleu"]);
    route(
        "{destination: 10.0.1.0/24, via: {blackhole: true}}",
        &[
            "spec.routes[0].destination \"10.0.1.0/24\": is the network of Subnet default/web",
            "needs no route",
        ],
    );
    route(
        "{destination: 10.8.0.0/15, via: {peering: blue-green}}",
        &[
            "spec.routes[0].destination \"10.8.0.0/15\": is not inside a network of the peer, Vpc default/green (10.9.0.0/16)",
        ],
    );
    refused_beside_peers(
        "kind: Port\nmetadata: {name: g}\nspec: {subnet: lawn, ips: [10.9.1.5]}\n---\nkind: RouteTable\nmetadata: {name: t}\nspec: {vpc: blue, routes: [{destination: 1.0.0.0/8, via: {port: g}}]}\n",
        &[
            "spec.routes[0].via.port \"g\": is a port of Vpc default/green, and this table is for Vpc default/blue",
        ],
    );
    let third = "kind: Vpc\nmetadata: {name: red}\nspec: {vni: 300, cidrs: [10.7.0.0/16]}\n---\n";
    refused_beside_peers(
        &format!(
            "{third}kind: RouteTable\nmetadata: {{name: t}}\nspec: {{vpc: red, routes: [{{destination: 10.9.0.0/24, via: {{peering: blue-green}}}}]}}\n"
        ),
        &[
            "spec.routes[0].via.peering \"blue-green\": peers Vpc default/blue with Vpc default/green, and this table is for Vpc default/red",
        ],
    );
    refused_beside_peers(
        "kind: Subnet\nmetadata: {name: s}\nspec: {vpc: green, cidrs: [10.9.2.0/24], routeTable: out}\n",
        &["spec.routeTable \"out\": is a table of Vpc default/blue, and this subnet is in Vpc default/green"],
    );
    refused_beside_peers(
        "kind: Subnet\nmetadata: {name: s}\nspec: {vpc: green, cidrs: [10.9.2.0/24], routeTable: uot}\n",
        &["spec.routeTable \"uot\": there is no RouteTable default/uot", "nearest there is: out"],
    );
    refused_beside_peers(
        "kind: Peering\nmetadata: {name: again}\nspec: {vpcs: [green, blue]}\n",
        &["spec.vpcs: these Vpcs are peered by Peering default/blue-green"],
    );
    refused_beside_peers(
        "kind: Vpc\nmetadata: {name: red}\nspec: {vni: 300, cidrs: [10.0.128.0/17]}\n---\nkind: Peering\nmetadata: {name: x}\nspec: {vpcs: [red, blue]}\n",
        &["spec.vpcs: 10.0.128.0/17 of Vpc default/red overlaps 10.0.0.0/16 of Vpc default/blue"],
    );
    refused_beside_peers(
        "kind: Peering\nmetadata: {name: x}\nspec: {vpcs: [blue, yellow]}\n",
        &["spec.vpcs[1] \"yellow\": there is no Vpc default/yellow"],
    );
}

#[test]
fn addresses_are_unique_in_a_vpc_whoever_has_them() {
    let endpoint =
        |rest: &str| format!("kind: Endpoint\nmetadata: {{name: e}}\nspec: {{subnet: web, {rest}}}\n");
    let refused_endpoint = |rest: &str, parts: &[&str]| refused_beside_peers(&endpoint(rest), parts);
    refused_endpoint(
        "ips: [10.0.1.10], mac: '02:00:00:00:02:01', vtep: 192.0.2.99",
        &["spec.ips[0] \"10.0.1.10\": is the address of Port default/vm1-eth0"],
    );
    refused_endpoint(
        "ips: [10.0.1.200], mac: '02:00:00:00:02:01', vtep: 192.0.2.99",
        &["is the address of Endpoint default/db"],
    );
    refused_endpoint(
        "ips: [10.0.2.5], mac: '02:00:00:00:02:01', vtep: 192.0.2.99",
        &["is outside of Subnet default/web"],
    );
    refused_endpoint(
        "ips: [10.0.1.1], mac: '02:00:00:00:02:01', vtep: 192.0.2.99",
        &["is the subnet's gateway"],
    );
    refused_endpoint(
        "ips: [10.0.1.201], mac: '02:00:00:00:01:0a', vtep: 192.0.2.99",
        &["spec.mac", "is the MAC address of Port default/vm1-eth0"],
    );
    refused_endpoint(
        "ips: [10.0.1.201], mac: '02:00:00:00:02:01', vtep: 192.0.2.2",
        &["spec.vtep \"192.0.2.2\": is the tunnel end point of Host node-b", "write a Port"],
    );
    refused_beside_peers(
        "kind: Host\nmetadata: {name: node-c}\nspec: {vteps: [192.0.2.3, 192.0.2.2]}\n",
        &["Host node-c: spec.vteps[1] \"192.0.2.2\": is the tunnel end point of Host node-b"],
    );
    let other = "kind: Subnet\nmetadata: {name: s}\nspec: {vpc: blue, cidrs: [10.0.2.0/24]}\n---\n";
    refused(
        &format!(
            "{other}kind: Port\nmetadata: {{name: p}}\nspec: {{subnet: s, ips: [10.0.2.10], mac: '02:00:00:00:01:0a'}}\n"
        ),
        &[
            "02:00:00:00:01:0a is the MAC address of Port default/vm1-eth0",
            "give each port and endpoint of a Vpc its own",
        ],
    );
    let gateway =
        load_text(BASE, "f", &Environment::default()).unwrap().subnets().next().unwrap().spec.gateway_mac;
    refused(
        &format!(
            "{other}kind: Port\nmetadata: {{name: p}}\nspec: {{subnet: s, ips: [10.0.2.10], mac: '{gateway}'}}\n"
        ),
        &["is the MAC address of the gateway of Subnet default/web"],
    );
    let holder = |subnet: &str, ip: &str, allowed: &str| {
        format!(
            "kind: Port\nmetadata: {{name: p-{subnet}}}\nspec: {{subnet: {subnet}, ips: [{ip}], allowedAddresses: [{allowed}]}}\n"
        )
    };
    refused(
        &format!("{other}{}", holder("s", "10.0.2.10", "{ip: 10.0.1.1}")),
        &["allowedAddresses[0].ip \"10.0.1.1\": is the gateway of another subnet of the Vpc"],
    );
    refused_beside_peers(
        &holder("web", "10.0.1.11", "{ip: 10.0.1.200}"),
        &["is the own address of Endpoint default/db"],
    );
    refused(
        &holder("web", "10.0.1.11", "{ip: 10.0.1.100, mac: '02:00:00:00:01:0a'}"),
        &["allowedAddresses[0].mac", "is the own MAC address of Port default/vm1-eth0"],
    );
    let virtually = "mac: '00:00:5e:00:01:01'";
    refused(
        &format!(
            "{other}{}---\n{}",
            holder("web", "10.0.1.11", &format!("{{ip: 10.0.1.100, {virtually}}}")),
            holder("s", "10.0.2.11", &format!("{{ip: 10.0.2.100, {virtually}}}"))
        ),
        &[
            "Port default/p-s",
            "is used by Port default/p-web",
            "in Subnet default/web of the same Vpc",
            "VRRP: another group",
        ],
    );
}

#[test]
fn hosts_of_a_vpc_have_a_family_in_common() {
    let text = BASE
        .replace("host: node-a", "host: node-a, migratingTo: node-b")
        .replace("metadata: {name: node-a}", "metadata: {name: node-a}\nspec: {vteps: [192.0.2.1]}")
        .replace("vteps: ['2001:db8::2', 192.0.2.2]", "vteps: ['2001:db8::2']");
    let found = texts(&load_text(&text, "f", &Environment::default()).unwrap_err());
    assert!(
        found.len() == 1
            && found[0]
                .contains("is on Host node-a, which has tunnel end points of IPv4 only, and on Host node-b"),
        "{found:#?}"
    );
}

#[test]
fn every_problem_of_the_new_kinds_at_once_and_nothing_applied() {
    let bad = "\
kind: RouteTable
metadata: {name: t}
spec: {vpc: bleu, routes: [{destination: 0.0.0.0/0, via: {natGateway: egress}}, {destination: 8.8.8.0/24, via: {external: internet}}, {destination: 1.2.3.4/8, via: {port: p}}]}
---
kind: Peering
metadata: {name: p}
spec: {vpcs: [blue]}
---
kind: Endpoint
metadata: {name: e}
spec: {subnet: web, ips: [10.0.1.300], mac: x, vtep: y}
---
kind: Subnet
metadata: {name: s}
spec: {vpc: blue, cidrs: [10.0.7.0/24], dhcp: {dns: ['fd00::1'], leaseTime: 1s, metadata: 'ftp://x'}, multicast: sometimes}
---
kind: Port
metadata: {name: q}
spec: {subnet: web, ips: [10.0.1.77], migratingTo: node-a}
---
kind: Host
metadata: {name: node-c}
spec: {vteps: [10.1.1.1, 10.1.1.1], mtu: 100}
";
    let environment = Environment::default();
    let set = load_text(BASE, "base.yaml", &environment).unwrap();
    let manifests = Manifests::read_text(bad, Some("bad.yaml"), Owner::Api);
    let problems = set.apply(manifests, Absent::Keep, &environment).unwrap_err();
    let found = texts(&problems);
    let expected = [
        ("bad.yaml:3:", "write 1.0.0.0/8"),
        ("bad.yaml:7:", "names 1 Vpcs"),
        ("bad.yaml:11:", "spec.ips[0] \"10.0.1.300\""),
        ("bad.yaml:11:", "spec.mac \"x\""),
        ("bad.yaml:11:", "spec.vtep \"y\""),
        ("bad.yaml:15:", "the subnet has no IPv6 network"),
        ("bad.yaml:15:", "spec.dhcp.leaseTime"),
        ("bad.yaml:15:", "spec.dhcp.metadata"),
        ("bad.yaml:15:", "spec.multicast"),
        ("bad.yaml:19:", "a port that is on no host cannot move"),
        ("bad.yaml:23:", "is written twice"),
        ("bad.yaml:23:", "spec.mtu"),
    ];
    for (place, part) in expected {
        assert!(
            found.iter().any(|text| text.starts_with(place) && text.contains(part)),
            "{place} {part}\n{found:#?}"
        );
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    assert!(problems.iter().all(|problem| !problem.remedy.is_empty() && problem.field.is_some()));
    assert_eq!(set, load_text(BASE, "base.yaml", &environment).unwrap());
}
