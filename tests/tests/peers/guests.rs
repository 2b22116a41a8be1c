//! Two QEMU guests through a switch nobody here wrote: what the harness can do, shown before our own switch is judged by it.

use std::net::SocketAddr;
use std::time::Duration;

use towpath_tests::Result;
use towpath_tests::guest::{Guest, GuestConfig};
use towpath_tests::image::GuestImage;
use towpath_tests::manifests::Port;
use towpath_tests::scratch::Scratch;
use towpath_tests::testpmd::Testpmd;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs QEMU and DPDK: run by `make test`"]
fn two_guests_talk_reconnect_and_migrate_through_testpmd() -> Result<()> {
    let image = GuestImage::prepare()?;
    let scratch = Scratch::new()?;
    let ports = [0, 1].map(|number| Port::number(number, scratch.path()));
    let sockets = [ports[0].socket.as_path(), ports[1].socket.as_path()];
    let mut switch = Testpmd::switch(&scratch, "switch", sockets)?;

    let mut first = Guest::start(&image, &scratch, GuestConfig::on_port("first", &ports[0]))?;
    let mut second = Guest::start(&image, &scratch, GuestConfig::on_port("second", &ports[1]))?;
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
    let state = scratch.join("second.state");
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
