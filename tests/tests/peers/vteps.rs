//! The kernel's VXLAN device and Open vSwitch as each other's far end: what they do on the harness's underlay, shown before our own switch
//! is judged by them.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use towpath_tests::fabric::{Capture, OVERHEAD, UPLINK, Underlay};
use towpath_tests::scratch::Scratch;
use towpath_tests::vtep::{Knowledge, Machine, OpenVswitch, finish, kernel, receive_in, send_from};
use towpath_tests::{Result, wait};

const LIMIT: Duration = Duration::from_secs(60);
const VNI: u32 = 100;
const BYTES: u64 = 4 << 20;

#[test]
#[ignore = "needs root, Open vSwitch and tshark: run by `make test`"]
fn the_kernels_vxlan_and_open_vswitch_exchange_tcp() -> Result<()> {
    let scratch = Scratch::new()?;
    let underlay = Underlay::new(&scratch, &["linux", "ovs"], 1500)?;
    underlay.without_offloads(0)?;
    let (linux, ovs) = (underlay.member(0), underlay.member(1));
    let addresses = [underlay.address(0, false), underlay.address(1, false)];
    let [one, other] = [0, 1].map(|number| Machine::number(number, 1500 - OVERHEAD));
    kernel(linux, &one, VNI, addresses, Knowledge::Nothing)?;
    let switch = OpenVswitch::start(&scratch, ovs)?;
    let [here, there] = addresses;
    switch.tunnel(&other, VNI, [there, here])?;
    let mut capture = Capture::start(&scratch, linux, UPLINK)?;

    for ipv6 in [false, true] {
        let to = other.address(ipv6)?;
        wait::until("an answer to a ping", LIMIT, || {
            Ok(linux.run(&format!("busybox ping -c 1 -W 1 {to}")).is_ok().then_some(()))
        })?;
        let to = SocketAddr::new(to, 5001);
        let receiving = receive_in(ovs, to)?;
        let sending = send_from(linux, to, BYTES, 1)?;
        let (sent, received) = (finish(&sending, LIMIT)?, finish(&receiving, LIMIT)?);
        ensure!(sent == received && sent.0 == BYTES, "{sent:?} were sent, {received:?} received");
    }
    capture.stop()?;
    capture.assert_well_formed()
}
