//! Killed in the middle of traffic: guests keep their rings, and each buffer returns once.

use std::time::Instant;

use anyhow::{Context, ensure};
use towpath_tests::Result;
use towpath_tests::frontend::udp;
use towpath_tests::survivor::{RING, Rings, Survivor};
use virtio_driver::RingLayout;

use crate::{LIMIT, Setting};

/// How often it is killed.
const CRASHES: u32 = 8;
/// Packets that must arrive between two crashes: the rings go round several times, so a buffer that was lost stops them.
const BETWEEN: u32 = 6 * RING as u32 + 77;

/// Packets on their way at once: with a burst that comes again, no more than the receiver has buffers.
const WINDOW: u32 = 200;

/// Numbered packets from one guest to the other.
struct Stream<'a> {
    setting: &'a mut Setting<2>,
    one: Survivor,
    other: Survivor,
    sent: u32,
    /// The number that must come next, unless a crash makes some come again.
    expected: u32,
    again: u32,
}

impl Stream<'_> {
    fn attach(&mut self) -> Result<()> {
        // The receiver first: nobody is to lose what is sent to a port without a guest.
        for (guest, port) in [(&mut self.other, 1), (&mut self.one, 0)] {
            let port = &self.setting.ports[port];
            guest.attach(&port.socket, LIMIT)?;
            self.setting.daemon.until_phase(&port.name, "Forwarding")?;
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<()> {
        let [from, to] = &self.setting.ports;
        while self.sent - self.expected < WINDOW && self.one.add(&udp(from, to, &self.sent.to_be_bytes())?)? {
            self.sent += 1;
        }
        self.one.publish()
    }

    /// Sends as much as there is room for and receives until `BETWEEN` more have arrived.
    fn run(&mut self) -> Result<()> {
        let (goal, mut last) = (self.expected + BETWEEN, Instant::now());
        while self.expected < goal {
            self.fill()?;
            if self.receive()? {
                last = Instant::now();
            }
            ensure!(
                last.elapsed() < LIMIT,
                "{} of {} came, then none; {}",
                self.expected,
                self.sent,
                self.setting.describe()
            );
        }
        Ok(())
    }

    /// Receives until everything sent has arrived and was returned.
    fn drain(&mut self) -> Result<()> {
        let begin = Instant::now();
        while self.expected < self.sent || self.one.unreturned()? > 0 {
            self.receive()?;
            ensure!(begin.elapsed() < LIMIT, "{} packets were not returned", self.one.unreturned()?);
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<bool> {
        let Some(packet) = self.other.try_receive()? else { return Ok(false) };
        let number = packet.get(42..46).and_then(|n| n.try_into().ok()).map(u32::from_be_bytes);
        let number = number.context("a number")?;
        // What reached the receiver but was not yet returned to the sender is sent again: a burst at most, after a crash.
        ensure!(
            number <= self.expected && number + 32 >= self.expected,
            "{number} came instead of {}",
            self.expected
        );
        if number == self.expected {
            self.expected += 1;
        } else {
            self.again += 1;
        }
        Ok(true)
    }
}

fn crash_and_go_on(rings: Rings) -> Result<()> {
    let mut setting = Setting::<2>::start()?;
    let guests = (Survivor::new(rings)?, Survivor::new(Rings { part: Rings::default().part, ..rings })?);
    let mut stream =
        Stream { setting: &mut setting, one: guests.0, other: guests.1, sent: 0, expected: 0, again: 0 };
    let mut caught = 0;
    for crash in 0..CRASHES {
        stream.attach()?;
        stream.run().with_context(|| format!("after {crash} crashes"))?;
        // As much as there may be at once, and killed while it works on that.
        stream.drain()?;
        stream.fill()?;
        stream.setting.daemon.process().kill()?;
        caught += u32::from(stream.one.unreturned()? > 0);
        stream.setting.daemon.crash_and_restart()?;
    }
    ensure!(caught > 0, "no crash met packets in flight");
    stream.attach()?;
    stream.run()?;
    // Each packet came, and each buffer came back, once: the driver refuses a second time.
    stream.drain()?;
    ensure!(stream.again <= CRASHES * 32, "{} packets came again", stream.again);
    ensure!(!stream.receive()?, "a packet more than was sent");
    Ok(())
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn a_kill_under_traffic_loses_no_buffer_of_a_split_ring() -> Result<()> {
    crash_and_go_on(Rings { layout: RingLayout::Split, ..Rings::default() })
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn a_kill_under_traffic_loses_no_buffer_of_a_packed_ring() -> Result<()> {
    crash_and_go_on(Rings { layout: RingLayout::Packed, ..Rings::default() })
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn a_kill_under_traffic_loses_no_chain_of_a_packed_ring() -> Result<()> {
    // Three descriptors a packet, so that the ring's places do not say where a chain begins.
    crash_and_go_on(Rings { layout: RingLayout::Packed, part: 24, ..Rings::default() })
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn a_kill_under_traffic_loses_no_buffer_of_rings_used_in_order() -> Result<()> {
    const IN_ORDER: u64 = 1 << 35;
    for layout in [RingLayout::Split, RingLayout::Packed] {
        crash_and_go_on(Rings { layout, features: IN_ORDER, ..Rings::default() })?;
    }
    Ok(())
}
