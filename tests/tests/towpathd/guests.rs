//! QEMU guests with Debian's kernel.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, ensure};
use towpath_tests::guest::{AfterReboot, BOOT, Guest, GuestConfig};
use towpath_tests::image::GuestImage;
use towpath_tests::scratch::Scratch;
use towpath_tests::{Result, process::Process, wait};

use crate::{LIMIT, Setting};

/// Two guests that are up.
fn boot_two(setting: &Setting<2>, configs: [GuestConfig; 2]) -> Result<[Guest; 2]> {
    let image = GuestImage::prepare()?;
    let [one, other] = configs;
    let mut one = Guest::start(&image, &setting.scratch, one)?;
    let mut other = Guest::start(&image, &setting.scratch, other)?;
    one.wait_ready()?;
    other.wait_ready()?;
    Ok([one, other])
}

fn configs(setting: &Setting<2>) -> [GuestConfig; 2] {
    [GuestConfig::on_port("one", &setting.ports[0]), GuestConfig::on_port("other", &setting.ports[1])]
}

/// TCP both ways; every byte must arrive.
fn transfer_both_ways([one, other]: &mut [Guest; 2], bytes: u64) -> Result<()> {
    let to = SocketAddr::new(other.address(false)?, 5001);
    let there = one.transfer(other, to, bytes, 1, BOOT)?;
    ensure!(there.bytes == bytes && there.sent == there.received, "there: {there:?}");
    let to = SocketAddr::new(one.address(true)?, 5002);
    let back = other.transfer(one, to, bytes, 2, BOOT)?;
    ensure!(back.bytes == bytes && back.sent == back.received, "back: {back:?}");
    Ok(())
}

/// Whether a port's status names a feature with this word in it.
fn has_feature(setting: &Setting<2>, port: usize, word: &str) -> Result<bool> {
    let status = setting.daemon.port(&setting.ports[port].name)?["status"].take();
    let features = status["features"].as_array().with_context(|| format!("features in {status}"))?;
    Ok(features.iter().filter_map(|f| f.as_str()).any(|f| f.to_lowercase().contains(word)))
}

#[test]
#[ignore = "needs QEMU: run by `make test`"]
fn the_demo_passes() -> Result<()> {
    let scratch = Scratch::new()?;
    let command = Command::new(env!("CARGO_BIN_EXE_towpath-demo"));
    let mut demo = Process::spawn("towpath-demo", &command, &scratch.join("demo.log"))?;
    let status = demo.wait(4 * BOOT)?;
    let said = demo.log();
    ensure!(
        status.success() && !said.contains("FAIL") && said.matches("  PASS  ").count() == 20,
        "{status}:\n{said}"
    );
    Ok(())
}

#[test]
#[ignore = "needs QEMU: run by `make test`"]
fn a_guest_with_packed_rings_and_one_without_any_offload_exchange_tcp() -> Result<()> {
    let setting = Setting::<2>::start()?;
    let [one, other] = configs(&setting);
    let plain = "csum=off,gso=off,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,host_tso4=off,\
                 host_tso6=off,host_ecn=off,host_ufo=off,mrg_rxbuf=off,event_idx=off,indirect_desc=off";
    let mut guests = boot_two(&setting, [one.with_properties("packed=on"), other.with_properties(plain)])?;
    // The first sends uncut packets without checksums; the second's kernel would drop any that is not finished for it.
    transfer_both_ways(&mut guests, 3 << 20)?;
    ensure!(has_feature(&setting, 0, "packed")?, "the first guest's rings are packed");
    ensure!(!has_feature(&setting, 1, "packed")?, "the second guest's rings are split");
    Ok(())
}

#[test]
#[ignore = "needs QEMU: run by `make test`"]
fn guests_with_two_queue_pairs_and_a_qemu_that_listens_exchange_tcp() -> Result<()> {
    let setting = Setting::<2>::start_with(|port| {
        if port.name.starts_with("vm1-") {
            port.role = "client";
        }
    })?;
    let [mut one, other] = configs(&setting);
    one.nics[0].queue_pairs = 2;
    let mut guests = boot_two(&setting, [one, other])?;
    guests[0].agent().run("test -d /sys/class/net/eth0/queues/rx-1")?;
    transfer_both_ways(&mut guests, 3 << 20)?;
    Ok(())
}

#[test]
#[ignore = "needs QEMU: run by `make test`"]
fn l_18_a_guest_that_reboots_and_one_whose_kernel_crashes_come_back() -> Result<()> {
    let setting = Setting::<2>::start()?;
    let [mut one, other] = configs(&setting);
    one.after_reboot = AfterReboot::Boot;
    let mut guests = boot_two(&setting, [one, other])?;
    let [one, other] = &mut guests;
    let process = setting.daemon.towpath_json(&["status"])?["pid"].take();
    for end in ["reboot -f", "echo c > /proc/sysrq-trigger"] {
        let to = one.address(false)?;
        other.ping(to, LIMIT)?;
        one.agent().run_and_forget(end)?;
        one.wait_ready().with_context(|| format!("after {end}"))?;
        other.ping(to, LIMIT).with_context(|| format!("after {end}"))?;
        ensure!(other.pings_answered(to, 5)? == 5, "pings are lost after {end}");
    }
    ensure!(setting.daemon.towpath_json(&["status"])?["pid"] == process, "the daemon was restarted");
    Ok(())
}

#[test]
#[ignore = "needs QEMU: run by `make test`"]
fn a_guest_with_a_mac_that_is_not_its_ports_is_named_in_the_status() -> Result<()> {
    let setting = Setting::<2>::start()?;
    let [mut one, other] = configs(&setting);
    "52:54:00:00:00:01".clone_into(&mut one.nics[0].mac);
    let mut guests = boot_two(&setting, [one, other])?;
    let to = guests[1].address(false)?;
    let ping = guests[0].agent().run_any(&format!("ping -c 3 -W 1 {to}"), LIMIT)?;
    ensure!(ping.status != 0, "a guest with a foreign MAC was heard");
    let name = &setting.ports[0].name;
    wait::until("the mismatch in the status", LIMIT, || {
        let status = setting.daemon.port(name)?["status"].take();
        let reason = status["reason"].as_str().unwrap_or_default();
        let named = ["MacMismatch", "52:54:00:00:00:01", &setting.ports[0].mac]
            .iter()
            .all(|word| reason.contains(word));
        Ok(named.then_some(()))
    })?;
    ensure!(
        setting.daemon.drops(name, "spoofed_mac")? + setting.daemon.drops(name, "spoofed_neighbour")? > 0
    );
    Ok(())
}
