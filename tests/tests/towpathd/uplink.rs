//! Uplinks that DPDK drives, with devices that need no NIC: the kernel behind a tap, and two daemons wired by vhost and virtio-user.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use towpath_tests::daemon::{Daemon, Setup, binary};
use towpath_tests::frontend::{Frontend, ping_pong};
use towpath_tests::manifests::{self, Port, resource};
use towpath_tests::netns::Namespace;
use towpath_tests::scratch::Scratch;
use towpath_tests::{Result, wait};

use crate::LIMIT;

/// What `towpath doctor` says of the uplink.
fn doctor(daemon: &Daemon) -> Result<Value> {
    // It exits with 1 when a check failed, which here may be so.
    let output = daemon.towpath(&["doctor", "-o", "json"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    let checks: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("doctor: {said}"))?;
    let found = checks.as_array().and_then(|checks| checks.iter().find(|check| check["name"] == "uplink"));
    found.cloned().with_context(|| format!("no uplink in {checks}"))
}

#[test]
#[ignore = "needs root and the binaries built: run by `make test`"]
fn the_kernel_reaches_an_uplink_of_dpdk_by_ipv4_and_ipv6() -> Result<()> {
    let scratch = Scratch::new()?;
    let namespace = Arc::new(Namespace::new(&scratch, "node-a")?);
    let config = json!({"uplink": {
        "dpdk": {"device": "net_tap0,iface=tw0"},
        "addresses": ["192.0.2.1/24", "2001:db8::1/64"],
    }});
    let setup = Setup {
        name: "node-a",
        config,
        network: manifests::network(),
        ports: &[],
        namespace: Some(Arc::clone(&namespace)),
    };
    let daemon = Daemon::start_as(&scratch, &setup)?;
    let found = doctor(&daemon)?;
    ensure!(found["detail"].as_str().is_some_and(|detail| detail.contains("(DPDK net_tap)")), "{found}");
    namespace.run_all(
        "ip address add 192.0.2.2/24 dev tw0
         ip address add 2001:db8::2/64 dev tw0 nodad
         ip link set tw0 up",
    )?;
    for address in ["192.0.2.1", "2001:db8::1"] {
        wait::until(&format!("an answer from {address}"), LIMIT, || {
            Ok(namespace.run(&format!("busybox ping -c 1 -W 2 {address}")).ok())
        })?;
    }
    Ok(())
}

/// A host with one port of two, on a wire of DPDK.
fn host(scratch: &Scratch, number: u8, device: &str, ports: &[Port; 2]) -> Result<Daemon> {
    let name = format!("node-{}", ["a", "b"][usize::from(number)]);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let config = json!({
        "host": name,
        "workers": {"cores": [usize::from(number) % cores], "idle": "adaptive"},
        "uplink": {"dpdk": {"device": device}, "addresses": [format!("192.0.2.{}/24", number + 1)], "mtu": 1500},
    });
    let mut network = manifests::network();
    network.extend([1, 2].map(|last: u8| {
        let vteps = json!({"vteps": [format!("192.0.2.{last}")]});
        resource("Host", if last == 1 { "node-a" } else { "node-b" }, &vteps)
    }));
    // All hosts of a test share one file system: a socket for each.
    let ports = ports.clone().map(|port| Port { socket: socket(scratch, &name, &port), ..port });
    Daemon::start_as(scratch, &Setup { name: &name, config, network, ports: &ports, namespace: None })
}

fn socket(scratch: &Scratch, host: &str, port: &Port) -> std::path::PathBuf {
    scratch.join(&format!("{host}-{}.sock", port.name))
}

#[test]
#[ignore = "needs root and the binaries built: run by `make test`"]
fn two_hosts_on_a_wire_of_dpdk_reach_each_other_until_one_dies() -> Result<()> {
    let scratch = Scratch::new()?;
    let mut ports = [0, 1].map(|number| Port::number(number, scratch.path()));
    ports[1].host = "node-b".to_owned();
    let wire = scratch.join("wire");
    let near = host(&scratch, 0, &format!("net_vhost0,iface={}", wire.display()), &ports)?;
    let down = doctor(&near)?;
    ensure!(
        down["outcome"] == "fail"
            && down["detail"].as_str().is_some_and(|detail| detail.contains("link down"))
    );
    let far = host(
        &scratch,
        1,
        &format!("net_virtio_user0,path={},mac=02:00:00:00:ff:02", wire.display()),
        &ports,
    )?;
    wait::until("the link of both", LIMIT, || {
        let up = |daemon: &Daemon| Ok::<_, anyhow::Error>(doctor(daemon)?.to_string().contains("link up"));
        Ok((up(&near)? && up(&far)?).then_some(()))
    })?;
    let found = doctor(&far)?.to_string();
    ensure!(found.contains("02:00:00:00:ff:02") && found.contains("MTU 1500"), "{found}");

    let mut one = Frontend::attach_within(&socket(&scratch, "node-a", &ports[0]), LIMIT)?;
    let mut other = Frontend::attach_within(&socket(&scratch, "node-b", &ports[1]), LIMIT)?;
    near.until_phase(&ports[0].name, "Forwarding")?;
    far.until_phase(&ports[1].name, "Forwarding")?;
    ping_pong((&mut one, &ports[0]), (&mut other, &ports[1]), 50, LIMIT)?;
    let counted = near.metrics()?;
    let packets = |direction: &str| {
        let begin = "towpath_uplink_device_packets_total{";
        let line = counted.lines().find(|line| line.starts_with(begin) && line.contains(direction));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_default()
    };
    ensure!(packets("\"rx\"") >= 50.0 && packets("\"tx\"") >= 50.0, "{counted}");

    drop(far);
    wait::until("the end of the link", LIMIT, || {
        let text = near.metrics()?;
        let line = text.lines().find(|line| line.starts_with("towpath_uplink_link_up{"));
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok((value.context("no state of the link")? < 0.5).then_some(()))
    })?;
    Ok(())
}

#[test]
#[ignore = "needs root and the binaries built: run by `make test`"]
fn an_uplink_that_cannot_be_is_refused_with_its_field_and_a_remedy() -> Result<()> {
    let scratch = Scratch::new()?;
    let file = scratch.join("towpathd.yaml");
    let addresses = json!(["192.0.2.1/24"]);
    for (driver, field) in [
        (json!({"dpdk": {"device": "net_unheard_of0"}, "addresses": addresses}), "uplink.dpdk.device"),
        (json!({"dpdk": {"device": "0000:ff:1f.7"}, "addresses": addresses}), "uplink.dpdk.device"),
        (json!({"kernel": {"ifname": "nobody0"}}), "uplink.kernel.ifname"),
        (json!({"kernel": {"ifname": "lo"}}), "uplink.kernel.ifname"),
    ] {
        let config = json!({
            "host": "node-a", "uplink": driver, "eal": [],
            "api": {"socket": scratch.join("api")}, "metrics": {"listen": "127.0.0.1:0"},
        });
        fs::write(&file, config.to_string())?;
        let run = |arguments: &[&str]| {
            Command::new(binary("towpathd")?)
                .arg("--config")
                .arg(&file)
                .args(arguments)
                .output()
                .context("run it")
        };
        let checked = run(&["--check"])?;
        ensure!(checked.status.success(), "--check touches no device: {checked:?}");
        let output = run(&[])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1), "{driver}: {}: {said}", output.status);
        let line = said.lines().find(|line| line.contains("towpathd.yaml") && line.contains(field));
        ensure!(line.is_some_and(|line| line.contains("remedy: ")), "{driver}: {said}");
    }
    Ok(())
}
