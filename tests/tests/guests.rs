//! Two QEMU guests through a switch nobody here wrote: what the harness can do, shown before our own switch is judged by it.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use towpath_tests::Result;
use towpath_tests::guest::{Guest, GuestConfig, Nic, VhostUserEnd};
use towpath_tests::image::GuestImage;
use towpath_tests::scratch::Scratch;
use towpath_tests::testpmd::Testpmd;

const LIMIT: Duration = Duration::from_secs(60);

fn config(number: u8, socket: &Path) -> GuestConfig {
    let v4: IpAddr = [10, 0, 1, 10 + number].into();
    let v6: IpAddr = [0xfd00, 0x10, 0, 1, 0, 0, 0, 0x10 + u16::from(number)].into();
    GuestConfig {
        name: format!("guest{number}"),
        memory_mib: 192,
        nics: vec![Nic {
            socket: socket.to_owned(),
            end: VhostUserEnd::Client,
            mac: format!("02:00:00:00:01:{number:02x}"),
            queue_pairs: 1,
            properties: String::new(),
            addresses: vec![(v4, 24), (v6, 64)],
        }],
    }
}

#[test]
#[ignore = "needs QEMU and DPDK: run by `make test`"]
fn two_guests_talk_reconnect_and_migrate_through_testpmd() -> Result<()> {
    let image = GuestImage::prepare()?;
    let scratch = Scratch::new()?;
    let sockets = [scratch.join("a.sock"), scratch.join("b.sock")];
    let sockets = [sockets[0].as_path(), sockets[1].as_path()];
    let mut switch = Testpmd::switch(&scratch, "switch", sockets)?;

    let mut first = Guest::start(&image, &scratch, config(1, sockets[0]))?;
    let mut second = Guest::start(&image, &scratch, config(2, sockets[1]))?;
    first.wait_ready()?;
    second.wait_ready()?;

    for ipv6 in [false, true] {
        let to = second.address(ipv6)?;
        first.ping(to, LIMIT)?;
        assert_eq!(first.pings_answered(to, 5)?, 5);
    }

    let to = SocketAddr::new(second.address(false)?, 5001);
    let moved = first.transfer(&mut second, to, 4 << 20, 1, LIMIT)?;
    assert_eq!((moved.bytes, moved.sent), (4 << 20, moved.received));

    // A connection outlives its switch.
    let bytes = 8 << 20;
    let to = SocketAddr::new(second.address(true)?, 5002);
    let receiving = second.agent().receive(to)?;
    let sending = first.agent().send(to, bytes, 2, Some(2 << 20))?;
    let before = second.agent().until_moved(receiving, 1 << 20, LIMIT)?.bytes;
    switch.process().kill()?;
    switch = Testpmd::switch(&scratch, "switch", sockets)?;
    second.agent().until_moved(receiving, before + (1 << 20), LIMIT)?;

    // And a migration of the one that receives.
    let memory = second.agent().fill_memory(48 << 20, 3)?;
    let state = scratch.join("guest2.state");
    let statistics = second.migrate_to_file(&state, LIMIT)?;
    assert!(statistics["ram"]["dirty-sync-count"].as_u64() >= Some(2), "{statistics}");
    second = Guest::resume_from_file(&image, &scratch, second.config().clone(), &state)?;
    assert_eq!(second.agent().memory_checksum()?, memory);
    let sent = first.agent().until_done(sending, LIMIT)?;
    let received = second.agent().until_done(receiving, LIMIT)?;
    assert_eq!((received.bytes, received.checksum), (bytes, sent.checksum));

    first.quit()?;
    second.quit()?;
    switch.process().assert_running()
}
