//! Load balancers as part of a whole set: the shared address is free, targets are where it is.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use towpath_model::load_balancer::{Listener, SessionAffinity, Target, TargetAddress, WhenAllDown};
use towpath_model::quantity::TimeSpan;
use towpath_model::security_group::Protocol;
use towpath_model::{CheckProtocol, Environment, HealthCheck, Name, ObjectName, ResourceSet, load_text};

const BASE: &str = "\
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
spec: {vpc: blue, cidrs: [10.0.1.0/24]}
---
kind: Subnet
metadata: {name: lawn}
spec: {vpc: green, cidrs: [10.1.1.0/24]}
---
kind: Port
metadata: {name: vm1}
spec: {subnet: web, ips: [10.0.1.10]}
---
kind: Port
metadata: {name: vm2}
spec: {subnet: web, ips: [10.0.1.11]}
---
kind: Port
metadata: {name: gnome}
spec: {subnet: lawn, ips: [10.1.1.10]}
---
";

fn load(more: &str) -> Result<ResourceSet, Vec<String>> {
    let result = load_text(&format!("{BASE}{more}"), "all.yaml", &Environment::default());
    result.map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn balancer(name: &str, vip: &str, rest: &str) -> String {
    format!("kind: LoadBalancer\nmetadata: {{name: {name}}}\nspec: {{vpc: blue, vip: {vip}, {rest}}}\n---\n")
}

const LISTENERS: &str = "listeners: [{protocol: tcp, port: 80}]";

/// One problem, with these parts.
fn refused(more: &str, parts: &[&str]) {
    let found = load(more).unwrap_err();
    assert_eq!(found.len(), 1, "{more}\n{found:#?}");
    for part in parts {
        assert!(found[0].contains(part), "{part}\n{found:#?}");
    }
}

#[test]
fn all_fields_are_read_and_written() {
    let text = balancer(
        "lb",
        "10.0.100.1",
        "listeners: [{protocol: tcp, port: 80, targetPort: 8080}, {protocol: udp, port: 53}], \
         targets: [{port: vm1}, {port: vm2, weight: 2}, {ip: 10.0.1.77, weight: 0}], sessionAffinity: clientIP, \
         whenAllDown: spread",
    );
    let set = load(&text).unwrap();
    let found = set.load_balancers().next().unwrap();
    let spec = found.spec;
    let listener = |protocol, port, target_port| Listener { protocol, port, target_port };
    assert_eq!(spec.listeners, [listener(Protocol::TCP, 80, 8080), listener(Protocol::UDP, 53, 53)]);
    let port = |name| TargetAddress::Port(ObjectName::parse(name, &Name::default_project()).unwrap());
    let targets = [(port("vm1"), 1), (port("vm2"), 2), (TargetAddress::Ip([10, 0, 1, 77].into()), 0)];
    assert_eq!(spec.targets, targets.map(|(at, weight)| Target { at, weight }));
    assert_eq!((spec.session_affinity, spec.when_all_down), (SessionAffinity::ClientIp, WhenAllDown::Spread));
    let written = set.get(&found.meta.key).unwrap().to_json().to_string();
    let again = load(&format!("{written}\n")).unwrap();
    assert_eq!(again.load_balancers().next().unwrap().spec, spec);
}

#[test]
fn the_shared_address_is_a_free_one_of_the_vpc() {
    let with = |vip: &str| balancer("lb", vip, &format!("{LISTENERS}, targets: [{{ip: 10.0.1.77}}]"));
    assert!(load(&with("10.0.1.50")).is_ok(), "in a subnet");
    assert!(load(&with("10.0.100.1")).is_ok(), "in none");
    refused(&with("10.1.0.1"), &["all.yaml:", "spec.vip", "is outside of the networks of Vpc default/blue"]);
    refused(&with("10.0.1.10"), &["spec.vip", "is the address of Port default/vm1", "use a free address"]);
    refused(&with("10.0.1.1"), &["is the address of Subnet default/web"]);
    refused(&with("10.0.1.255"), &["spec.vip"]);
    refused(&with("127.0.0.1"), &["spec.vip", "loopback"]);
    let two = with("10.0.100.1") + &with("10.0.100.1").replace("name: lb", "name: lb2");
    refused(&two, &["LoadBalancer default/lb2", "is the address of LoadBalancer default/lb"]);
}

#[test]
fn targets_are_each_one_of_the_vpc() {
    let with = |targets: &str| balancer("lb", "10.0.100.1", &format!("{LISTENERS}, targets: {targets}"));
    refused(&with("[{port: vm9}]"), &["spec.targets[0].port", "vm9"]);
    refused(&with("[{port: gnome}]"), &["is a port of Vpc default/green"]);
    refused(&with("[{ip: 10.1.1.10}]"), &["spec.targets[0].ip", "is outside of the networks"]);
    refused(&with("[{ip: 'fd00::1'}]"), &["is of another IP version than the vip"]);
    refused(&with("[{ip: 10.0.100.1}]"), &["is the shared address of LoadBalancer default/lb"]);
    refused(&with("[{port: vm1}, {ip: 10.0.1.10}]"), &["spec.targets[1].ip", "as spec.targets[0]"]);
    refused(&with("[{port: vm1}, {port: vm1}]"), &["is written twice"]);
    refused(&with("[{}]"), &["is not one target", "write either port: NAME or ip: ADDRESS"]);
    refused(&with("[{port: vm1, ip: 10.0.1.10}]"), &["is not one target"]);
    refused(&with("[{port: vm1, weight: 300}]"), &["spec.targets[0].weight", "from 0 to 256"]);
    refused(&with("[]"), &["spec.targets", "is missing"]);
    let v6 = balancer("lb", "'fd00::50'", &format!("{LISTENERS}, targets: [{{port: vm1}}]"));
    refused(&v6, &["has no address of the vip's IP version"]);
    let many: Vec<String> = (0..129).map(|number| format!("{{ip: 10.0.2.{number}}}")).collect();
    refused(&with(&format!("[{}]", many.join(","))), &["has 129 entries, more than 128"]);
}

#[test]
fn listeners_are_told_apart_and_can_be_translated() {
    let with = |listeners: &str| {
        balancer("lb", "10.0.100.1", &format!("listeners: {listeners}, targets: [{{port: vm1}}]"))
    };
    assert!(load(&with("[{protocol: tcp, port: 53}, {protocol: udp, port: 53}]")).is_ok());
    refused(&with("[{protocol: tcp, port: 80}, {protocol: tcp, port: 80, targetPort: 81}]"), &["tcp 80"]);
    refused(&with("[{protocol: icmp, port: 80}]"), &["spec.listeners[0].protocol", "write one of tcp, udp"]);
    refused(&with("[{protocol: sctp, port: 80, targetPort: 81}]"), &["SCTP's checksum"]);
    refused(&with("[{protocol: tcp, port: 0}]"), &["spec.listeners[0].port", "from 1 to 65535"]);
    refused(&with("[{protocol: tcp}]"), &["spec.listeners[0].port", "is missing"]);
    refused(&with("[]"), &["spec.listeners", "is missing"]);
}

#[test]
fn words_that_are_not_known_are_refused() {
    let with = |field: &str| {
        balancer("lb", "10.0.100.1", &format!("{LISTENERS}, targets: [{{port: vm1}}], {field}"))
    };
    refused(&with("sessionAffinity: clientIp"), &["spec.sessionAffinity", "nearest: clientIP"]);
    refused(&with("whenAllDown: refused"), &["spec.whenAllDown", "nearest: refuse"]);
    refused(&with("sesionAffinity: none"), &["unknown field", "sessionAffinity"]);
}

#[test]
fn health_checks_have_defaults_and_bounds() {
    let with = |listeners: &str, check: &str| {
        let rest = format!("listeners: [{listeners}], targets: [{{port: vm1}}], healthCheck: {check}");
        balancer("lb", "10.0.100.1", &rest)
    };
    let web = "{protocol: udp, port: 53}, {protocol: tcp, port: 80, targetPort: 8080}";
    let read = |check: &str| {
        let set = load(&with(web, check)).unwrap();
        let found = set.load_balancers().next().unwrap();
        let written = set.get(&found.meta.key).unwrap().to_json().to_string();
        let again = load(&format!("{written}\n")).unwrap();
        assert_eq!(again.load_balancers().next().unwrap().spec, found.spec);
        found.spec.health_check.clone()
    };
    let default = HealthCheck {
        protocol: CheckProtocol::Tcp,
        path: "/".to_owned(),
        port: 8080,
        interval: TimeSpan(5_000),
        timeout: TimeSpan(2_000),
        unhealthy_after: 3,
        healthy_after: 2,
    };
    assert_eq!(read("{}"), Some(default.clone()));
    assert_eq!(read(""), None);
    let short = HealthCheck { interval: TimeSpan(1_000), timeout: TimeSpan(1_000), ..default.clone() };
    assert_eq!(read("{protocol: tcp, interval: 1s}"), Some(short));
    let all = "{protocol: http, path: '/healthz?full=1', port: 9000, interval: 1m, timeout: 1.5s, unhealthyAfter: 1, healthyAfter: 100}";
    let expected = HealthCheck {
        protocol: CheckProtocol::Http,
        path: "/healthz?full=1".to_owned(),
        port: 9000,
        interval: TimeSpan(60_000),
        timeout: TimeSpan(1_500),
        unhealthy_after: 1,
        healthy_after: 100,
    };
    assert_eq!(read(all), Some(expected));
    let long = format!("{{protocol: http, path: '/{}'}}", "a".repeat(256));
    for (check, parts) in [
        ("{protocol: https}", ["spec.healthCheck.protocol", "nearest: http"]),
        ("{path: /}", ["spec.healthCheck.path", "of no use with protocol tcp"]),
        ("{protocol: http, path: healthz}", ["spec.healthCheck.path", "is no path"]),
        ("{protocol: http, path: \"/a\\r\\nHost: b\"}", ["spec.healthCheck.path", "is no path"]),
        (&long, ["spec.healthCheck.path", "longer than 256 bytes"]),
        ("{port: 0}", ["spec.healthCheck.port", "from 1 to 65535"]),
        ("{interval: 500ms}", ["spec.healthCheck.interval", "from 1s to 1h"]),
        ("{interval: 5s, timeout: 6s}", ["spec.healthCheck.timeout", "from 100ms to 5s"]),
        ("{unhealthyAfter: 0}", ["spec.healthCheck.unhealthyAfter", "from 1 to 100"]),
        ("{healthyAfter: 101}", ["spec.healthCheck.healthyAfter", "from 1 to 100"]),
        ("{prot: tcp}", ["unknown field", "protocol"]),
        ("tcp", ["spec.healthCheck", "not a mapping"]),
    ] {
        refused(&with(web, check), &parts);
    }
    refused(
        &with("{protocol: udp, port: 53}", "{}"),
        &["spec.healthCheck.port", "is missing", "no listener is of TCP"],
    );
    assert!(load(&with("{protocol: udp, port: 53}", "{port: 53}")).is_ok());
}

#[test]
fn what_a_load_balancer_names_stays_as_long_as_it() {
    let set = load(&balancer("lb", "10.0.100.1", &format!("{LISTENERS}, targets: [{{port: vm1}}]"))).unwrap();
    let port = set.ports().find(|port| port.meta.name().as_str() == "vm1").unwrap().meta;
    let problems =
        set.remove(std::slice::from_ref(&port.key), port.owner, &Environment::default()).unwrap_err();
    assert!(problems[0].to_string().contains("spec.targets[0].port"), "{problems:#?}");
}
