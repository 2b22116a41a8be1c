//! The `towpath` binary against a daemon that answers from memory: what is printed and how it exits.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod fake;

use assert_cmd::Command;
use fake::{FakeDaemon, MANIFESTS};
use serde_json::{Value, json};
use std::path::Path;

/// What one run printed, and how it ended.
#[derive(Debug)]
struct Run {
    status: i32,
    stdout: String,
    stderr: String,
}

impl Run {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }
}

fn command() -> Command {
    let mut command = Command::cargo_bin("towpath").unwrap();
    command.env_remove("TOWPATH_SOCKET");
    command
}

fn finish(mut command: Command) -> Run {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let run = Run {
        status: output.status.code().unwrap(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    };
    assert!(
        !run.stdout.contains('\u{1b}') && !run.stderr.contains('\u{1b}'),
        "no ANSI without a terminal: {run:?}"
    );
    run
}

fn towpath(daemon: &FakeDaemon, args: &[&str]) -> Run {
    let mut command = command();
    command.arg("--socket").arg(daemon.socket()).args(args);
    finish(command)
}

fn alone(args: &[&str]) -> Run {
    let mut command = command();
    command.args(args);
    finish(command)
}

#[test]
fn status_says_what_the_daemon_is_and_lacks() {
    let daemon = FakeDaemon::start(true);
    let run = towpath(&daemon, &["status"]);
    assert_eq!(run.status, 0, "{run:?}");
    for part in [
        "9.9.9",
        "node-a",
        "1h 2m",
        "2: 1 Error, 1 Forwarding",
        "/etc/towpath/manifests",
        "large sends in tunnels",
        "refused, nothing changed",
    ] {
        assert!(run.stdout.contains(part), "{part}: {run:?}");
    }
    let value = towpath(&daemon, &["status", "-o", "json"]).json();
    assert_eq!(value["ports"], json!({"Forwarding": 1, "Error": 1}));
    assert_eq!(value["uptimeSeconds"], 3723.5);
}

#[test]
fn ports_as_table_wide_json_and_yaml() {
    let daemon = FakeDaemon::start(true);
    let table = towpath(&daemon, &["get", "ports"]);
    let lines = table.lines();
    assert_eq!((table.status, lines.len()), (0, 3), "{table:?}");
    assert!(lines[0].starts_with("PROJECT  NAME") && lines[0].ends_with("REASON"), "{table:?}");
    assert!(lines[1].contains("vm1-eth0  Forwarding  02:00:00:00:01:0a  10.0.1.10"), "{table:?}");
    assert!(
        lines[2].contains("Error") && lines[2].contains("MacMismatch: the guest sends 52:54"),
        "{table:?}"
    );
    let wide = towpath(&daemon, &["get", "ports", "-o", "wide"]);
    assert!(
        wide.stdout.contains("/run/towpath/ports/vm1.sock") && wide.stdout.contains("packed"),
        "{wide:?}"
    );
    let all = towpath(&daemon, &["-o", "json", "get", "port"]).json();
    assert_eq!(all.as_array().map(Vec::len), Some(2));
    let one = towpath(&daemon, &["get", "ports", "vm1-eth0", "-o", "json"]).json();
    assert_eq!(one, all[0]);
    assert_eq!(one["kind"], "Port");
    assert_eq!(one["metadata"]["name"], "vm1-eth0");
    assert_eq!(one["spec"]["attachment"]["vhostUser"]["socket"], "/run/towpath/ports/vm1.sock");
    assert_eq!(one["status"]["phase"], "Forwarding");
    assert_eq!(one["status"]["ringLayout"], "packed");
    assert_eq!(one["status"]["queuePairs"], 2);
    assert_eq!(one["status"]["counters"]["egressPackets"], 1000);
    assert_eq!(
        one["status"]["drops"][0],
        json!({"reason": "spoofed_mac", "packets": 3, "explanation": "The Ethernet source is not the port's."})
    );
    assert_eq!(one["status"]["workers"][0]["busyCyclesPerPacket"], 48.25);
    assert_eq!(one["status"]["owner"], "manifests");
    let yaml = towpath(&daemon, &["get", "ports", "default/vm1-eth0", "-o", "yaml"]);
    assert!(yaml.stdout.contains("phase: Forwarding") && yaml.stdout.ends_with('\n'), "{yaml:?}");
    let none = towpath(&daemon, &["get", "ports", "-p", "green", "-o", "json"]);
    assert_eq!(none.json(), json!([]));
}

#[test]
fn what_get_prints_can_be_validated_again_without_its_status() {
    let daemon = FakeDaemon::start(true);
    let folder = tempfile::tempdir().unwrap();
    for kind in ["hosts", "vpcs", "securitygroups", "loadbalancers", "subnets", "ports"] {
        let all = towpath(&daemon, &["get", kind, "-o", "json"]).json();
        for (index, mut resource) in all.as_array().unwrap().clone().into_iter().enumerate() {
            resource.as_object_mut().unwrap().remove("status");
            std::fs::write(folder.path().join(format!("{kind}{index}.json")), resource.to_string()).unwrap();
        }
    }
    let run = alone(&["validate", "-f", folder.path().to_str().unwrap()]);
    assert_eq!(
        (run.status, run.stdout.as_str()),
        (0, "valid: 1 Host, 1 Vpc, 2 SecurityGroup, 1 Subnet, 2 Port, 1 LoadBalancer\n"),
        "{run:?}"
    );
}

#[test]
fn other_kinds_are_listed_too() {
    let daemon = FakeDaemon::start(true);
    assert!(towpath(&daemon, &["get", "vpcs"]).lines()[1].contains("blue"));
    assert!(towpath(&daemon, &["get", "subnets"]).lines()[1].contains("10.0.1.1"));
    assert!(towpath(&daemon, &["get", "hosts"]).lines()[1].starts_with("node-a"));
    assert_eq!(towpath(&daemon, &["get", "vpc", "blue", "-o", "json"]).json()["spec"]["vni"], 100);
    assert!(towpath(&daemon, &["describe", "subnet", "web"]).stdout.contains("vpc: blue"));
    assert!(towpath(&daemon, &["get", "loadbalancers"]).lines()[1].contains("80/tcp>8080  1 of 2"));
    let balancer = towpath(&daemon, &["get", "loadbalancer", "web-lb", "-o", "json"]).json();
    assert_eq!(balancer["status"]["targets"][1]["reason"], "refuses connections");
    let absent = towpath(&daemon, &["get", "vpc", "bleu"]);
    assert_eq!(absent.status, 1);
    assert!(
        absent.stderr.contains("there is no Vpc default/bleu; remedy: the nearest there is: blue"),
        "{absent:?}"
    );
}

/// The manifests of an example, and the folder they are in.
fn example(name: &str) -> (String, std::path::PathBuf) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/example").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    let texts: Vec<String> = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    (texts.join("---\n"), folder)
}

#[test]
fn the_examples_are_valid() {
    for (name, counts) in [
        ("manifests", "valid: 1 Vpc, 1 Subnet, 2 Port\n"),
        (
            "routed",
            "valid: 2 Host, 2 Vpc, 1 Peering, 2 RouteTable, 1 SecurityGroup, 3 Subnet, 4 Port, 1 Endpoint\n",
        ),
    ] {
        let run = alone(&["validate", "-f", example(name).1.to_str().unwrap()]);
        assert_eq!((run.status, run.stdout.as_str()), (0, counts), "{run:?}");
    }
}

#[test]
fn routes_peerings_and_endpoints_are_listed_and_described() {
    let daemon = FakeDaemon::with_manifests(&example("routed").0);
    let row = |kind: &str, words: &[&str]| {
        let table = towpath(&daemon, &["get", kind]);
        let found = table.stdout.lines().any(|line| {
            let cells: Vec<&str> = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
            cells == words
        });
        assert!(table.status == 0 && found, "{words:?}: {table:?}");
    };
    row("hosts", &["NAME", "VTEPS", "MTU", "OWNER"]);
    row("hosts", &["node-b", "192.0.2.2", "1500", "manifests"]);
    row("peerings", &["default", "blue-green", "blue,green", "manifests"]);
    row("routetables", &["PROJECT", "NAME", "VPC", "ROUTES", "OWNER"]);
    row("routetables", &["default", "web-routes", "blue", "4", "manifests"]);
    row(
        "subnets",
        &["default", "lawn", "green", "10.9.1.0/24", "10.9.1.1", "lawn-routes", "true", "manifests"],
    );
    row(
        "endpoints",
        &["default", "db", "edge", "02:00:00:00:02:c8", "10.0.2.200", "192.0.2.99", "manifests"],
    );
    let table = towpath(&daemon, &["get", "routetable", "web-routes", "-o", "json"]).json();
    assert_eq!(table["spec"]["routes"][0], json!({"destination": "0.0.0.0/0", "via": {"port": "fw-eth0"}}));
    assert_eq!(table["status"]["owner"], "manifests");
    let subnet = towpath(&daemon, &["describe", "subnet", "web"]);
    assert!(
        subnet.stdout.contains("metadata: http://127.0.0.1:8775") && subnet.stdout.contains("leaseTime: 1h"),
        "{subnet:?}"
    );
    let endpoint = towpath(&daemon, &["describe", "endpoint", "db"]);
    assert!(endpoint.stdout.contains("vtep: \"192.0.2.99\""), "{endpoint:?}");
    let absent = towpath(&daemon, &["get", "peering", "blue-gren"]);
    assert!(absent.status == 1 && absent.stderr.contains("the nearest there is: blue-green"), "{absent:?}");
}

#[test]
fn describe_shows_a_port_whole() {
    let daemon = FakeDaemon::start(true);
    let run = towpath(&daemon, &["describe", "port", "vm1-eth0"]);
    assert_eq!(run.status, 0, "{run:?}");
    for part in [
        "default/vm1-eth0",
        "Forwarding",
        "10.0.1.100",
        "2 of at most 128",
        "mergeable receive buffers, TSO for IPv4",
        "1000 packets, 64000 bytes, 3 dropped",
        "1.25 Mpps",
        "48.2",
        "spoofed_mac",
        "Bindings:",
    ] {
        assert!(run.stdout.contains(part), "{part}: {run:?}");
    }
}

#[test]
fn workers_json_is_exactly_the_documented_list() {
    let daemon = FakeDaemon::start(true);
    let run = towpath(&daemon, &["workers", "-o", "json"]);
    let expected = json!([{"worker": 0, "core": 2, "queues": 4, "packets": 1500, "busyCyclesPerPacket": 48.25, "idlePercent": 12.5}]);
    assert_eq!(run.json(), expected);
    let table = towpath(&daemon, &["workers"]);
    assert!(table.lines()[1].contains("1500") && table.lines()[1].contains("12.5 %"), "{table:?}");
    let reset = towpath(&daemon, &["workers", "--reset", "-o", "json"]).json();
    assert_eq!((&reset[0]["packets"], &reset[0]["busyCyclesPerPacket"]), (&json!(0), &json!(null)));
}

#[test]
fn doctor_fails_when_a_check_fails() {
    let healthy = towpath(&FakeDaemon::start(true), &["doctor"]);
    assert!(
        healthy.status == 0 && healthy.stdout.contains("warn") && healthy.stdout.contains("reserve some"),
        "{healthy:?}"
    );
    let ill = towpath(&FakeDaemon::start(false), &["doctor", "-o", "json"]);
    assert_eq!((ill.status, ill.json()[1]["outcome"].as_str()), (1, Some("fail")));
}

#[test]
fn drops_by_port_and_reason() {
    let daemon = FakeDaemon::start(true);
    let run = towpath(&daemon, &["drops"]);
    assert!(
        run.lines()[1].contains("default/vm1-eth0  spoofed_mac        3  The Ethernet source"),
        "{run:?}"
    );
    assert_eq!(towpath(&daemon, &["drops", "vm2-eth0", "-o", "json"]).json()[0]["port"], "default/vm2-eth0");
    let absent = towpath(&daemon, &["drops", "vm3-eth0"]);
    assert!(absent.status == 1 && absent.stderr.contains("there is no Port default/vm3-eth0"), "{absent:?}");
}

#[test]
fn exit_status_says_whose_fault_it_is() {
    let daemon = FakeDaemon::start(true);
    assert_eq!(towpath(&daemon, &["get", "ports", "none"]).status, 1);
    assert_eq!(towpath(&daemon, &["get", "prots"]).status, 2);
    assert_eq!(towpath(&daemon, &["get", "ports", "../x"]).status, 2);
    assert_eq!(towpath(&daemon, &["stauts"]).status, 2);
    assert_eq!(alone(&[]).status, 2);
    assert_eq!(alone(&["--help"]).status, 0);
    let path = daemon.socket();
    drop(daemon);
    let gone = alone(&["--socket", path.to_str().unwrap(), "status"]);
    assert_eq!((gone.status, gone.stdout.as_str()), (3, ""), "{gone:?}");
    assert!(
        gone.stderr.contains("towpathd is not reachable at")
            && gone.stderr.contains("remedy: start towpathd"),
        "{gone:?}"
    );
}

#[test]
fn the_socket_comes_from_the_environment_and_the_argument_wins() {
    let daemon = FakeDaemon::start(true);
    let mut by_variable = command();
    by_variable.env("TOWPATH_SOCKET", daemon.socket()).arg("status");
    assert_eq!(finish(by_variable).status, 0);
    let mut argument_wins = command();
    argument_wins
        .env("TOWPATH_SOCKET", "/nonexistent.sock")
        .arg("--socket")
        .arg(daemon.socket())
        .arg("status");
    assert_eq!(finish(argument_wins).status, 0);
}

#[test]
fn validate_reports_every_problem_and_needs_no_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("good.yaml", MANIFESTS);
    let good = folder.path().join("good.yaml");
    let run = alone(&["validate", "-f", good.to_str().unwrap()]);
    assert_eq!(
        (run.status, run.stdout.as_str()),
        (0, "valid: 1 Host, 1 Vpc, 1 SecurityGroup, 1 Subnet, 2 Port, 1 LoadBalancer\n"),
        "{run:?}"
    );
    write(
        "bad.yaml",
        "kind: Port\nmetadata: {name: p}\nspec: {subnet: nowhere, ips: [x]}\n---\nkind: Prot\n---\nkind: Port\nmetadata: {name: q}\nspec: {subnet: wbe, ips: [10.0.1.12]}\n",
    );
    let all = folder.path().to_str().unwrap();
    let run = alone(&["validate", "-f", all]);
    assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{run:?}");
    assert!(run.stderr.contains("bad.yaml:3:") && run.stderr.contains("nearest there is: web"), "{run:?}");
    assert!(run.stderr.ends_with("3 problems; nothing would be applied\n"), "{run:?}");
    let value = alone(&["validate", "-o", "json", "-f", all]).json();
    assert_eq!((&value["valid"], value["problems"].as_array().map(Vec::len)), (&json!(false), Some(3)));
    assert!(value["problems"][0]["file"].as_str().is_some_and(|file| Path::new(file).ends_with("bad.yaml")));
    let mut stdin = command();
    stdin
        .args(["validate", "-f", "-"])
        .write_stdin("kind: Vpc\nmetadata: {name: v}\nspec: {cidrs: [10.0.0.0/8]}\n");
    let run = finish(stdin);
    assert!(
        run.status == 1 && run.stderr.contains("<stdin>:3:7: Vpc default/v: spec.vni: is missing"),
        "{run:?}"
    );
    assert_eq!(alone(&["validate"]).status, 2);
}

#[test]
fn versions_with_and_without_a_daemon() {
    let daemon = FakeDaemon::start(true);
    let value = towpath(&daemon, &["version", "-o", "json"]).json();
    assert_eq!(value, json!({"towpath": env!("CARGO_PKG_VERSION"), "towpathd": "9.9.9"}));
    let without = alone(&["version", "--socket", "/nonexistent.sock"]);
    assert!(without.status == 0 && without.stdout.contains("not reachable"), "{without:?}");
}

#[test]
fn completion_scripts_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let run = alone(&["completion", shell]);
        assert!(run.status == 0 && run.stdout.contains("describe"), "{shell}: {run:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("towpath"))
        .args(["completion", "bash"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
