//! A guest: what it does each time it gets the processor.

use super::hostile::Case;
use super::judge::judge;
use super::nic::{Nic, NicError, Received};
use super::stack::Stack;
use super::traffic::is_raw;
use crate::check::ledger::Expect;
use crate::check::secrets;
use crate::net::Station;
use crate::net::offload::{complete, make_partial};
use crate::net::services::told;
use crate::network::Network;
use crate::options::{GuestOptions, Kind};
use crate::random::Random;
use std::sync::Arc;
use virtio_driver::{NetHeader, SharedMemory, Virtqueue, features as f};

/// Features that let a driver ask for something in the header of what it sends.
pub(super) const SENDS_OFFLOADS: u64 = f::NET_CSUM | f::NET_HOST_TSO4 | f::NET_HOST_TSO6 | f::NET_HOST_USO;

/// A frame that was made available.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The queue pair it was sent on.
    pub pair: usize,
    /// Its virtio-net header.
    pub header: NetHeader,
    /// Its bytes.
    pub frame: Vec<u8>,
    /// What should become of it.
    pub expect: Expect,
}

/// What an activation did.
#[derive(Debug, Default)]
pub struct Acted {
    /// What was sent, in order.
    pub sent: Vec<Outgoing>,
    /// What was received, in order.
    pub received: Vec<Received>,
    /// Queue pairs whose transmit ring wants a kick.
    pub kicks: Vec<usize>,
    /// Transmit buffers that came back.
    pub returned: u64,
    /// There is more to do soon.
    pub busy: bool,
    /// It resets its device.
    pub resets: bool,
    /// What it did to its rings.
    pub attacks: Vec<Case>,
}

/// See the module's documentation.
pub struct Guest {
    /// Its place in the list.
    pub index: usize,
    /// What it is.
    pub options: GuestOptions,
    /// Its addresses.
    pub station: Station,
    /// Its driver; nothing while it is off.
    pub nic: Option<Nic>,
    /// Its stack, if it is well-behaved.
    pub stack: Option<Stack>,
    /// It does nothing before this time.
    pub stalled_until: u64,
    /// It refills at most one buffer at a time before this time.
    pub slow_until: u64,
    /// It sends without pause before this time.
    pub flood_until: u64,
    /// It sends nothing of its own any more: only stack and answers.
    pub quiet: bool,
    /// What it does by itself is drawn from here.
    pub random: Random,
    pub(super) numbers: u32,
    pub(super) announced: bool,
}

impl Guest {
    /// A guest that is off.
    #[must_use]
    pub fn new(index: usize, options: GuestOptions, station: Station, random: Random) -> Self {
        Self {
            index,
            options,
            station,
            nic: None,
            stack: None,
            stalled_until: 0,
            slow_until: 0,
            flood_until: 0,
            quiet: false,
            random,
            numbers: 0,
            announced: false,
        }
    }

    /// Starts with a fresh driver and stack, in `memory` or in new one.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn boot(
        &mut self,
        now: u64,
        memory: Option<Arc<SharedMemory>>,
        network: &Network,
    ) -> anyhow::Result<()> {
        self.nic = Some(match memory {
            None => Nic::new(self.options.nic, secrets::of(self.index))?,
            Some(memory) => Nic::over(memory, self.options.nic, secrets::of(self.index))?,
        });
        self.fresh_stack(now, network);
        self.announced = false;
        Ok(())
    }

    /// A stack that waits for nobody: `smoltcp` asks for one neighbour a second, and one that is not there keeps it from asking for others.
    pub fn fresh_stack(&mut self, now: u64, network: &Network) {
        let seed = self.random.number();
        let achieved = self.stack.as_ref().map_or_else(Default::default, |stack| stack.achieved);
        self.stack = (self.options.kind != Kind::Hostile).then(|| {
            let gateway = network.gateway(network.ports[self.index].subnet);
            Stack::new(&self.station, &gateway, usize::from(network.mtu) + 14, (seed, now))
        });
        if let Some(stack) = &mut self.stack {
            stack.achieved = achieved;
        }
    }

    /// Whether its rings and what it reads are to be believed.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.options.kind != Kind::Hostile
    }

    /// Receives all there is: before its rings go.
    ///
    /// # Errors
    ///
    /// [`NicError`].
    pub fn drain(&mut self) -> Result<Acted, NicError> {
        let mut acted = Acted::default();
        if let Some(nic) = self.nic.as_mut().filter(|_| self.options.kind != Kind::Hostile) {
            for pair in 0..nic.pairs.len() {
                acted.returned += nic.reclaim(pair)?;
                acted.received.extend(nic.receive(pair, usize::MAX)?);
            }
        }
        Ok(acted)
    }

    /// Gets the processor.
    ///
    /// # Errors
    ///
    /// The device broke its driver's trust.
    pub fn act(&mut self, now: u64, network: &Network) -> Result<Acted, NicError> {
        let mut acted = Acted::default();
        if now < self.stalled_until || self.nic.is_none() {
            return Ok(acted);
        }
        if self.options.kind == Kind::Hostile {
            self.harm(network, &mut acted);
            return Ok(acted);
        }
        self.receive(now, &mut acted)?;
        if let Some(stack) = &mut self.stack {
            stack.run(now, 32);
        }
        self.send_stack(network, &mut acted);
        if !self.quiet {
            self.send_own(now, network, &mut acted);
        }
        self.publish(&mut acted);
        Ok(acted)
    }

    fn receive(&mut self, now: u64, acted: &mut Acted) -> Result<(), NicError> {
        let Some(nic) = &mut self.nic else { return Ok(()) };
        let refill = if now < self.slow_until { 1 } else { self.options.refill };
        for pair in 0..nic.pairs.len() {
            acted.returned += nic.reclaim(pair)?;
            let limit =
                if self.options.kind == Kind::Honest { usize::MAX } else { self.options.refill.max(8) };
            let received = nic.receive(pair, limit)?;
            acted.busy |= !received.is_empty();
            for packet in &received {
                let raw = is_raw(&packet.bytes) || told(&packet.bytes).is_some();
                if let Some(stack) = self.stack.as_mut().filter(|_| !raw) {
                    let mut frame = packet.bytes.clone();
                    if complete(&packet.header, &mut frame).is_some() {
                        stack.wire.received.push_back(frame);
                    }
                }
            }
            acted.received.extend(received);
            nic.refill(pair, refill)?;
        }
        Ok(())
    }

    fn publish(&mut self, acted: &mut Acted) {
        let Some(nic) = &mut self.nic else { return };
        acted.kicks = (0..nic.pairs.len()).filter(|pair| nic.publish(*pair)).collect();
        acted.busy |= !acted.sent.is_empty();
        if nic.request_interrupts() && !nic.config.polls {
            acted.busy = true;
        }
    }

    /// Sends what the stack made.
    fn send_stack(&mut self, network: &Network, acted: &mut Acted) {
        while let Some(frame) = self.stack.as_mut().and_then(|stack| stack.wire.sent.pop_front()) {
            let expect = judge(network, self.index, &NetHeader::default(), &frame);
            let partial = self.options.nic.has(f::NET_CSUM) && self.random.chance(700);
            let mut bytes = frame.clone();
            let header = if partial { make_partial(&mut bytes) } else { None };
            if !self.send(header.unwrap_or_default(), bytes, expect, acted) {
                // No room: a link drops what comes too fast, and the stack sends it again.
                return;
            }
        }
    }

    /// Adds a frame to the transmit ring its flow belongs to.
    pub fn send(&mut self, header: NetHeader, frame: Vec<u8>, expect: Expect, acted: &mut Acted) -> bool {
        let Some(nic) = &mut self.nic else { return false };
        let pair = crate::net::read::flow(&frame) as usize % nic.pairs.len();
        let sent = nic.send(pair, &header, &frame, &mut self.random);
        if sent {
            // Without any offload negotiated the device does not look at the header.
            let header =
                if nic.config.features & SENDS_OFFLOADS == 0 { NetHeader::default() } else { header };
            acted.sent.push(Outgoing { pair, header, frame, expect });
        } else {
            acted.busy = true;
        }
        sent
    }

    /// Whether a transmit ring holds buffers that have not come back.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.nic.as_ref().is_some_and(|nic| nic.pairs.iter().any(|pair| pair.tx.queue.in_flight() > 0))
    }
}
