//! A guest under QEMU whose network reaches machines behind tunnel end points that nobody here wrote: the kernel's `vxlan` device over both
//! families of underlay, and Open vSwitch. Its kernel sends uncut packets and takes joined ones, so that all of it is cut and joined here.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use towpath_tests::fabric::{Capture, Host, OVERHEAD, UPLINK, Underlay};
use towpath_tests::frontend::{Frontend, udp};
use towpath_tests::guest::{Guest, GuestConfig};
use towpath_tests::image::GuestImage;
use towpath_tests::manifests::Port;
use towpath_tests::netns::Namespace;
use towpath_tests::scratch::Scratch;
use towpath_tests::vtep::{Knowledge, Machine, OpenVswitch, finish, kernel, receive_in, send_from};
use towpath_tests::{Result, wait};

use crate::{GATEWAYS, LIMIT, VNI, network, port};

/// What IPv6 takes more than IPv4.
const IPV6_MORE: u16 = 20;
const BYTES: u64 = 6 << 20;

/// A guest on `node-a`, and machines elsewhere on its underlay.
struct Scene {
    guest: Guest,
    host: Host,
    machines: Vec<(Machine, Arc<Namespace>)>,
}

/// TCP both ways over both families; every byte must arrive.
fn exchange(scene: &mut Scene, number: usize) -> Result<()> {
    let (machine, namespace) = &scene.machines[number];
    let guest = &mut scene.guest;
    for ipv6 in [false, true] {
        guest.ping(machine.address(ipv6)?, LIMIT)?;
        let to = SocketAddr::new(machine.address(ipv6)?, 5001);
        let receiving = receive_in(namespace, to)?;
        let sending = guest.agent().send(to, BYTES, 1, None)?;
        let received = finish(&receiving, LIMIT).context("to the machine")?;
        let sent = guest.agent().until_done(sending, LIMIT)?;
        ensure!(received == (BYTES, sent.checksum), "{sent:?} were sent, {received:?} received");

        let to = SocketAddr::new(guest.address(ipv6)?, 5002);
        let receiving = guest.agent().receive(to)?;
        let sending = send_from(namespace, to, BYTES, 2)?;
        let sent = finish(&sending, LIMIT).context("from the machine")?;
        let received = guest.agent().until_done(receiving, LIMIT)?;
        ensure!((received.bytes, received.checksum) == sent, "{sent:?} were sent, {received:?} received");
    }
    Ok(())
}

/// A guest whose interface takes longer packets than its network: it is told so, and sends shorter ones.
fn too_big(scene: &mut Scene, number: usize, own_mtu: u16) -> Result<()> {
    let guest = &mut scene.guest;
    guest.agent().run(&format!("ip link set eth0 mtu {own_mtu}"))?;
    for (ipv6, headers) in [(false, 20 + 8), (true, 40 + 8)] {
        let to = scene.machines[number].0.address(ipv6)?;
        let (program, bytes) = (if ipv6 { "ping6" } else { "ping" }, own_mtu - headers);
        wait::until(&format!("an answer to {bytes} bytes sent to {to}"), LIMIT, || {
            let exited = guest.agent().run_any(&format!("{program} -c 1 -W 1 -s {bytes} {to}"), LIMIT)?;
            Ok((exited.status == 0).then_some(()))
        })
        .with_context(|| {
            format!("{program} of {own_mtu} bytes; is the guest told that they are too many?")
        })?;
    }
    Ok(())
}

fn drops(host: &Host, port: &str) -> String {
    host.daemon.towpath_text(&["describe", "port", port]).unwrap_or_else(|error| error.to_string())
}

/// What a person would ask for first.
fn explained(scene: &Scene, result: Result<()>) -> Result<()> {
    result.with_context(|| {
        let metrics = scene.host.daemon.metrics().unwrap_or_default();
        let uplink: Vec<&str> = metrics.lines().filter(|line| line.starts_with("towpath_uplink")).collect();
        format!("{}\n{}", drops(&scene.host, "vm0-eth0"), uplink.join("\n"))
    })
}

fn resources(underlay: &Underlay, vpc: &Value, endpoints: &[(&Machine, IpAddr)]) -> Vec<Value> {
    let mut resources = network(vpc);
    resources.push(underlay.host_resource(0, false));
    resources.extend(endpoints.iter().map(|(machine, vtep)| machine.endpoint(*vtep)));
    resources
}

fn boot(scratch: &Scratch, host: &Host, port: &Port) -> Result<Guest> {
    let image = GuestImage::prepare()?;
    let mut guest = Guest::start(&image, scratch, GuestConfig::on_port("vm0", &host.placed(port)).asking())?;
    guest.wait_ready()?;
    guest.lease()?;
    guest.await_router()?;
    Ok(guest)
}

#[test]
#[ignore = "needs QEMU, Open vSwitch and tshark: run by `make test`"]
fn a_guest_exchanges_tcp_with_the_kernels_vxlan_and_with_open_vswitch() -> Result<()> {
    let scratch = Scratch::new()?;
    let underlay = Underlay::new(&scratch, &["node-a", "linux4", "linux6", "ovs"], 1500)?;
    // Open vSwitch reads its interface as the wire would be: packets must be whole.
    (0..4).try_for_each(|member| underlay.without_offloads(member))?;
    let mtu = 1500 - OVERHEAD - IPV6_MORE;
    let [a, b, c] = [0, 1, 2].map(|number| Machine::number(number, mtu));
    let (v4, v6) = (|n| underlay.address(n, false), |n| underlay.address(n, true));
    let ports = [port(0, "node-a")];
    let all = resources(&underlay, &json!({"mtu": mtu}), &[(&a, v4(1)), (&b, v6(2)), (&c, v4(3))]);
    kernel(underlay.member(1), &a, VNI, [v4(1), v4(0)], Knowledge::All(&ports))?;
    kernel(underlay.member(2), &b, VNI, [v6(2), v6(0)], Knowledge::Nothing)?;
    let switch = OpenVswitch::start(&scratch, underlay.member(3))?;
    switch.tunnel(&c, VNI, [v4(3), v4(0)])?;
    let host = Host::start(&scratch, &underlay, 0, (&all, &ports), &json!({}))?;
    let mut capture = Capture::start(&scratch, underlay.member(0), UPLINK)?;
    let guest = boot(&scratch, &host, &ports[0])?;
    let machines = [(a, 1), (b, 2), (c, 3)].map(|(machine, n)| (machine, Arc::clone(underlay.member(n))));
    let mut scene = Scene { guest, host, machines: machines.into() };
    for number in 0..3 {
        let name = scene.machines[number].0.name.clone();
        let exchanged = exchange(&mut scene, number).with_context(|| format!("with {name}"));
        explained(&scene, exchanged)?;
    }
    // A stranger's machine has the gateway too.
    for gateway in GATEWAYS {
        let machine = &scene.machines[1].1;
        let answered =
            wait::until("the gateway's answer to a machine behind the kernel's vxlan", LIMIT, || {
                Ok(machine.run(&format!("busybox ping -c 1 -W 1 {gateway}")).is_ok().then_some(()))
            });
        explained(&scene, answered)?;
    }
    let told = too_big(&mut scene, 0, 1500);
    explained(&scene, told)?;
    capture.stop()?;
    capture.assert_well_formed()?;
    let long = capture.select(&format!("frame.len > {}", 14 + 1500))?;
    ensure!(long.is_empty(), "longer than the underlay's MTU: {long:#?}");
    let outer = capture
        .select("vxlan && (ip.dst == 192.0.2.0/24 || ipv6.dst == 2001:db8::/64) && frame.len > 1400")?;
    ensure!(outer.len() > 1000, "the transfers are not in the capture: {} long packets", outer.len());
    Ok(())
}

#[test]
#[ignore = "needs QEMU: run by `make test`"]
fn a_guest_exchanges_packets_of_9000_bytes_with_the_kernels_vxlan() -> Result<()> {
    let scratch = Scratch::new()?;
    let mtu = 9000 + OVERHEAD + IPV6_MORE;
    let underlay = Underlay::new(&scratch, &["node-a", "linux"], mtu)?;
    let machine = Machine::number(0, 9000);
    let [here, there] = [0, 1].map(|number| underlay.address(number, true));
    let ports = [port(0, "node-a")];
    let all = resources(&underlay, &json!({"mtu": 9000}), &[(&machine, there)]);
    let host = Host::start(&scratch, &underlay, 0, (&all, &ports), &json!({}))?;
    kernel(underlay.member(1), &machine, VNI, [there, here], Knowledge::All(&ports))?;
    let guest = boot(&scratch, &host, &ports[0])?;
    let machines = vec![(machine, Arc::clone(underlay.member(1)))];
    let mut scene = Scene { guest, host, machines };
    let exchanged = exchange(&mut scene, 0);
    explained(&scene, exchanged)?;
    for ipv6 in [false, true] {
        let to = scene.machines[0].0.address(ipv6)?;
        let program = if ipv6 { "ping6" } else { "ping" };
        let whole = 9000 - if ipv6 { 48 } else { 28 };
        let said = scene.guest.agent().run(&format!("{program} -c 3 -W 5 -s {whole} {to}"))?;
        ensure!(said.contains(" 0% packet loss"), "{said}");
    }
    Ok(())
}

/// Without a guest, so that every combination is quick: datagrams from a front end on node-a to a machine that `build` puts behind the
/// other member, until one of their echoes comes back.
fn echoes(
    vni: u32,
    ipv6: bool,
    build: impl FnOnce(&Scratch, &Underlay, &Machine, &[Port], [IpAddr; 2]) -> Result<Option<OpenVswitch>>,
) -> Result<()> {
    let scratch = Scratch::new()?;
    let underlay = Underlay::new(&scratch, &["node-a", "far"], 1500)?;
    (0..2).try_for_each(|member| underlay.without_offloads(member))?;
    let machine = Machine::number(0, 1400);
    let addresses = [1, 0].map(|number| underlay.address(number, ipv6));
    let ports = [port(0, "node-a")];
    let all = resources(&underlay, &json!({"vni": vni}), &[(&machine, addresses[0])]);
    // The far end first: it may move its address to another interface.
    let _switch = build(&scratch, &underlay, &machine, &ports, addresses)?;
    let host = Host::start(&scratch, &underlay, 0, (&all, &ports), &json!({}))?;
    let mut capture = Capture::start(&scratch, underlay.member(0), UPLINK)?;
    let echo = underlay.member(1).enter(|| Ok(std::net::UdpSocket::bind("10.0.1.100:7")?))?;
    echo.set_read_timeout(Some(std::time::Duration::from_millis(200)))?;
    let mut frontend = Frontend::attach_within(&host.socket("vm0-eth0"), LIMIT)?;
    host.daemon.until_phase("vm0-eth0", "Forwarding")?;
    let mut far = ports[0].clone();
    (far.mac, far.ips) = (machine.mac.clone(), machine.addresses.iter().map(|(ip, _)| *ip).collect());
    let echoed = one_echo(&mut frontend, &echo, [&ports[0], &far], b"an echo, please");
    capture.stop()?;
    let told = || {
        let frames = capture.select("arp").unwrap_or_default();
        let shown = frames.iter().take(60).map(String::as_str).collect::<Vec<_>>().join("\n");
        format!("VNI {vni}, IPv6 {ipv6}\n{}\n{shown}", drops(&host, "vm0-eth0"))
    };
    echoed.with_context(told)?;
    capture.assert_well_formed()
}

/// Sends a datagram to port 7 of `far`, where `echo` is, until it comes back.
fn one_echo(
    frontend: &mut Frontend,
    echo: &std::net::UdpSocket,
    [near, far]: [&Port; 2],
    text: &[u8],
) -> Result<()> {
    let packet = udp(near, far, text)?;
    let mut bytes = [0; 64];
    wait::until("an echo across the fabric", LIMIT, || {
        frontend.send(&packet)?;
        if let Ok((length, from)) = echo.recv_from(&mut bytes) {
            echo.send_to(&bytes[..length], from)?;
        }
        while let Some(frame) = frontend.try_receive()? {
            answer_arp(frontend, &frame)?;
            if frame.ends_with(text) && frame.starts_with(&packet[6..12]) {
                return Ok(Some(()));
            }
        }
        Ok(None)
    })
}

#[test]
#[ignore = "needs root and the binaries built: run by `make test`"]
fn an_uplink_that_changes_while_towpathd_runs() -> Result<()> {
    let scratch = Scratch::new()?;
    let underlay = Underlay::new(&scratch, &["node-a", "far"], 1500)?;
    (0..2).try_for_each(|member| underlay.without_offloads(member))?;
    let (near, there) = (underlay.member(0), underlay.member(1));
    let machine = Machine::number(0, 1300);
    let [remote, local] = [1, 0].map(|number| underlay.address(number, false));
    let ports = [port(0, "node-a")];
    let all = resources(&underlay, &json!({}), &[(&machine, remote)]);
    kernel(there, &machine, VNI, [remote, local], Knowledge::All(&ports))?;
    let host = Host::start(&scratch, &underlay, 0, (&all, &ports), &json!({}))?;
    let echo = there.enter(|| Ok(std::net::UdpSocket::bind("10.0.1.100:7")?))?;
    echo.set_read_timeout(Some(std::time::Duration::from_millis(200)))?;
    let mut frontend = Frontend::attach_within(&host.socket("vm0-eth0"), LIMIT)?;
    host.daemon.until_phase("vm0-eth0", "Forwarding")?;
    let mut far = ports[0].clone();
    (far.mac, far.ips) = (machine.mac.clone(), machine.addresses.iter().map(|(ip, _)| *ip).collect());
    let both = [&ports[0], &far];
    let until = |field: &str, value: Value| {
        wait::until(&format!("an uplink whose {field} is {value}"), LIMIT, || {
            let status = host.daemon.towpath_json(&["status"])?;
            let has = status["uplink"][field] == value
                || status["uplink"][field].as_array().is_some_and(|all| all.contains(&value));
            Ok(has.then_some(()))
        })
    };
    one_echo(&mut frontend, &echo, both, b"as it was opened").context("as it was opened")?;

    near.run(&format!("ip link set {UPLINK} address 02:00:00:00:0a:0a"))?;
    until("mac", json!("02:00:00:00:0a:0a"))?;
    one_echo(&mut frontend, &echo, both, b"another MAC").context("another MAC address")?;

    // The manifests say it too: they are read again when it comes.
    let mut all = all;
    for own in all.iter_mut().filter(|resource| resource["kind"] == "Host") {
        own["spec"]["vteps"] = json!(["192.0.2.77", underlay.address(0, true)]);
    }
    host.daemon.write_network(&all)?;
    near.run_all(&format!(
        "ip address del {local}/24 dev {UPLINK}
         ip address add 192.0.2.77/24 dev {UPLINK}"
    ))?;
    there.run(&format!("bridge fdb replace {} dev {} dst 192.0.2.77", ports[0].mac, machine.name))?;
    until("addresses", json!("192.0.2.77/24"))?;
    one_echo(&mut frontend, &echo, both, b"another address").context("another address")?;

    // Packets of the VPC have what the underlay leaves them.
    near.run(&format!("ip link set {UPLINK} mtu 1400"))?;
    until("mtu", json!(1400))?;
    wait::until("ports whose packets fit", LIMIT, || {
        Ok((host.daemon.port("vm0-eth0")?["status"]["mtu"] == 1350).then_some(()))
    })
    .with_context(|| {
        let told = |words: &[&str]| host.daemon.towpath_text(words).unwrap_or_default();
        format!("{}\n{}", told(&["status"]), told(&["describe", "port", "vm0-eth0"]))
    })?;
    one_echo(&mut frontend, &echo, both, b"a smaller MTU").context("a smaller MTU")
}

#[test]
#[ignore = "needs root, tshark and the binaries built: run by `make test`"]
fn vnis_and_families_with_the_kernels_vxlan() -> Result<()> {
    for (vni, ipv6, knows) in [(1, false, true), (0x12_3456, true, true), (0xff_ffff, false, false)] {
        echoes(vni, ipv6, |_, underlay, machine, ports, addresses| {
            let knowledge = if knows { Knowledge::All(ports) } else { Knowledge::Nothing };
            kernel(underlay.member(1), machine, vni, addresses, knowledge).map(|()| None)
        })?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root, tshark, Open vSwitch and the binaries built: run by `make test`"]
fn a_front_end_and_a_machine_behind_open_vswitch() -> Result<()> {
    echoes(VNI, false, |scratch, underlay, machine, _, addresses| {
        let switch = OpenVswitch::start(scratch, underlay.member(1))?;
        switch.tunnel(machine, VNI, addresses)?;
        Ok(Some(switch))
    })
}

/// Answer an ARP request that was passed on rather than answered by the switch.
fn answer_arp(frontend: &mut Frontend, frame: &[u8]) -> Result<()> {
    let is_request = frame.get(12..14) == Some(&[8, 6]) && frame.get(20..22) == Some(&[0, 1]);
    if !is_request || frame.get(38..42) != Some(&[10, 0, 1, 10]) {
        return Ok(());
    }
    let own = [2, 0, 0, 0, 1, 0];
    let mut reply =
        [&frame[6..12], &own, &frame[12..20], &[0, 2], &own, &frame[38..42], &frame[22..32]].concat();
    reply.truncate(42);
    frontend.send(&reply)
}
