//! Files: what is wrong is said at once and whole, and a reload touches only what changed.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use towpath_tests::daemon::binary;
use towpath_tests::frontend::ping_pong;
use towpath_tests::manifests::{self, Port};
use towpath_tests::scratch::Scratch;
use towpath_tests::{Result, wait};

use crate::{LIMIT, Setting};

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn check_reports_every_problem_with_file_line_field_and_remedy() -> Result<()> {
    let scratch = Scratch::new()?;
    let text = "\
apiVersion: towpath.dev/v1
kind: Vpc
metadata: {name: blue}
spec: {vni: 100, cidrs: [10.0.0.0/16]}
---
apiVersion: towpath.dev/v1
kind: Subnet
metadata: {name: web}
spec: {vpc: blue, cidrs: [10.9.1.0/24]}
---
apiVersion: towpath.dev/v1
kind: Port
metadata: {name: vm1}
spec:
  subnet: wep
  ips: [10.0.1.10]
  atachment: {}
";
    fs::create_dir(scratch.join("manifests"))?;
    let file = scratch.join("manifests").join("all.yaml");
    fs::write(&file, text)?;
    let output = Command::new(binary("towpathd")?)
        .arg("--check")
        .arg("--manifests")
        .arg(scratch.join("manifests"))
        .output()?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
    // The subnet outside of its VPC, the unknown field with its neighbour; both in one go.
    for expected in ["all.yaml:9", "10.9.1.0/24", "all.yaml:17", "atachment", "attachment"] {
        ensure!(said.contains(expected), "no {expected:?} in:\n{said}");
    }
    fs::write(
        &file,
        text.replace("10.9.1.0", "10.0.1.0").replace("wep", "web").replace("  atachment: {}\n", ""),
    )?;
    let output = Command::new(binary("towpathd")?)
        .arg("--check")
        .arg("--manifests")
        .arg(scratch.join("manifests"))
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn the_example_is_valid() -> Result<()> {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/example");
    let (file, folder) = (format!("{example}/towpathd.yaml"), format!("{example}/manifests"));
    let output = Command::new(binary("towpathd")?)
        .args(["--check", "--config", &file, "--manifests", &folder])
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn a_reload_touches_only_what_changed() -> Result<()> {
    let mut setting = Setting::<2>::start()?;
    let (mut one, mut other) = (setting.attach(0)?, setting.attach(1)?);
    let [first, second] = setting.ports.clone();
    ping_pong((&mut one, &first), (&mut other, &second), 100, LIMIT)?;

    // A port more: the others' connections and rings are the same as before.
    let third = Port::number(2, setting.scratch.path());
    setting.daemon.write_ports(&[first.clone(), second.clone(), third.clone()])?;
    setting.daemon.reload()?;
    ping_pong((&mut one, &first), (&mut other, &second), 100, LIMIT).context("after a port was added")?;
    let mut newcomer = setting.attach_to(&third).context("the new port")?;
    ping_pong((&mut one, &first), (&mut newcomer, &third), 100, LIMIT).context("with the new port")?;

    // Nonsense: refused whole, said in the status, nothing changed.
    let broken = setting.daemon.manifests().join("broken.yaml");
    fs::write(&broken, "kind: Prot\n")?;
    setting.daemon.reload()?;
    let reload = setting.daemon.towpath_json(&["status"])?["reload"].take();
    ensure!(reload["applied"] == false && reload.to_string().contains("broken.yaml"), "{reload}");
    ping_pong((&mut one, &first), (&mut newcomer, &third), 100, LIMIT).context("after nonsense")?;
    fs::remove_file(&broken)?;

    // A port less: it and its socket go, the others stay.
    setting.daemon.write_ports(&[first.clone(), second.clone()])?;
    setting.daemon.reload()?;
    wait::until("the end of the third port's socket", LIMIT, || Ok((!third.socket.exists()).then_some(())))?;
    ensure!(setting.daemon.towpath_json(&["get", "ports"])?.as_array().map(Vec::len) == Some(2));
    ping_pong((&mut one, &first), (&mut other, &second), 100, LIMIT).context("after a port was removed")?;

    // Addresses of a live port change: the old one is refused from now on, the connection stays.
    let mut moved = first.clone();
    moved.ips = vec!["10.0.1.99".parse()?];
    setting.daemon.write_ports(&[moved.clone(), second.clone()])?;
    setting.daemon.reload()?;
    ping_pong((&mut one, &moved), (&mut other, &second), 100, LIMIT)
        .with_context(|| format!("after an address changed: {:?}", setting.daemon.port(&first.name)))?;
    one.send(&towpath_tests::frontend::udp(&first, &second, b"by the old address")?)?;
    wait::until("the old address to be refused", LIMIT, || {
        Ok((setting.daemon.drops(&first.name, "spoofed_address")? == 1).then_some(()))
    })?;
    ensure!(
        other.receive(Duration::from_millis(50)).is_err(),
        "a packet from an address of yesterday arrived"
    );
    Ok(())
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn the_command_line_and_an_empty_folder() -> Result<()> {
    let mut setting = Setting::<2>::start()?;
    let status = setting.daemon.towpath_json(&["status"])?;
    ensure!(status["ports"] == json!({"Listening": 2}), "{status}");
    let validated =
        setting.daemon.towpath(&["validate", "-f", &setting.daemon.manifests().display().to_string()])?;
    ensure!(validated.status.success(), "{}", String::from_utf8_lossy(&validated.stderr));
    manifests::write(&setting.daemon.manifests().join("ports.yaml"), &[])?;
    setting.daemon.reload()?;
    let ports = setting.daemon.towpath_json(&["get", "ports"])?;
    ensure!(ports == json!([]), "{ports}");
    let unreachable =
        Command::new(binary("towpath")?).args(["--socket", "/nonexistent", "status"]).output()?;
    ensure!(unreachable.status.code() == Some(3), "{}", unreachable.status);
    Ok(())
}
