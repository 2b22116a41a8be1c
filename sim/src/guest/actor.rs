//! A guest: what it does each time it gets the processor.

use super::nic::{Nic, NicError, Received};
use super::stack::{Stack, Task};
use crate::check::ledger::Expect;
use crate::check::secrets;
use crate::check::verdicts::is_delivery;
use crate::net::Station;
use crate::net::frame::{Fill, Flow, TCP, UDP, advertisement, arp_request, gratuitous, packet, solicitation};
use crate::net::oddities::{PROVOKED, odd_frame};
use crate::net::offload::{complete, make_partial};
use crate::net::read::{Neighbour, macs, neighbour, transport};
use crate::network::{Network, vips};
use crate::options::{GuestOptions, Kind};
use crate::random::Random;
use engine::DropReason;
use std::net::IpAddr;
use std::sync::Arc;
use virtio_driver::{Gso, NetHeader, SharedMemory, Virtqueue, features as f};

/// Ports of conversations that no stack takes part in.
const RAW_PORTS: u16 = 30_000;
/// Longest payload of a packet that is not cut.
const PAYLOAD_MAX: u64 = 1440;

/// Features that let a driver ask for something in the header of what it sends.
const SENDS_OFFLOADS: u64 = f::NET_CSUM | f::NET_HOST_TSO4 | f::NET_HOST_TSO6 | f::NET_HOST_USO;

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
    numbers: u32,
    announced: bool,
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
    pub fn boot(&mut self, now: u64, memory: Option<Arc<SharedMemory>>) -> anyhow::Result<()> {
        self.nic = Some(match memory {
            None => Nic::new(self.options.nic, secrets::of(self.index))?,
            Some(memory) => Nic::over(memory, self.options.nic, secrets::of(self.index))?,
        });
        self.fresh_stack(now);
        self.announced = false;
        Ok(())
    }

    /// A stack that waits for nobody: `smoltcp` asks for one neighbour a second, and one that is not there keeps it from asking for others.
    pub fn fresh_stack(&mut self, now: u64) {
        let seed = self.random.number();
        let achieved = self.stack.as_ref().map_or_else(Default::default, |stack| stack.achieved);
        self.stack = (self.options.kind != Kind::Hostile).then(|| Stack::new(&self.station, seed, now));
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

    /// What a hostile guest does: packets of all kinds, and writes where no driver writes.
    fn harm(&mut self, network: &Network, acted: &mut Acted) {
        let pairs = self.nic.as_ref().map_or(0, |nic| nic.pairs.len());
        for pair in 0..pairs {
            let Some(nic) = &mut self.nic else { return };
            // What it finds in rings that it broke itself surprises nobody.
            let sound = nic.reclaim(pair).is_ok() && nic.refill(pair, self.options.refill).is_ok();
            acted.resets |= !sound && !self.quiet && self.random.chance(100);
        }
        acted.resets |= !self.quiet && self.random.chance(5);
        if !self.quiet {
            self.send_harm(network, acted);
        }
        let Some(nic) = self.nic.as_mut().filter(|_| !self.quiet) else { return };
        if self.random.chance(300) {
            for _ in 0..1 + self.random.below(4) {
                super::hostile::attack(nic, &mut self.random);
            }
        }
        acted.kicks =
            (0..nic.pairs.len()).filter(|pair| nic.publish(*pair) || self.random.chance(100)).collect();
        acted.busy = !self.quiet;
    }

    fn send_harm(&mut self, network: &Network, acted: &mut Acted) {
        let others: Vec<usize> = (0..network.ports.len()).filter(|other| *other != self.index).collect();
        for _ in 0..1 + self.random.below(self.options.burst) {
            // Also to those it must not reach.
            let to = self.random.pick(&others);
            let before = acted.sent.len();
            let own = self.station;
            if self.random.chance(100) {
                self.station = network.ports[to].station;
            }
            let done = match self.random.below(4) {
                0 => self.send_odd(network, to, acted),
                1 => self.send_large(network, to, acted),
                _ => self.send_plain(network, to, acted),
            };
            self.station = own;
            let last = acted.sent.get(before).map(|sent| (sent.header, sent.frame.clone()));
            if let Some((mut header, mut frame)) = last.filter(|_| self.random.chance(500)) {
                super::hostile::mutate(&mut header, &mut frame, &mut self.random);
                self.send(header, frame, Expect::Any, acted);
            }
            if !done {
                break;
            }
        }
        let to = self.random.pick(&others);
        if self.random.chance(100) {
            self.talk_to_neighbours(network, to, acted);
        }
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
                let raw = is_raw(&packet.bytes);
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
            let expect = judge(network, self.index, &frame);
            let partial = self.options.nic.has(f::NET_CSUM) && self.random.chance(700);
            let mut bytes = frame.clone();
            let header = if partial { make_partial(&mut bytes) } else { None };
            if !self.send(header.unwrap_or_default(), bytes, expect, acted) {
                // No room: a link drops what comes too fast, and the stack sends it again.
                return;
            }
        }
    }

    /// Sends packets of its own making.
    fn send_own(&mut self, now: u64, network: &Network, acted: &mut Acted) {
        let neighbours = network.neighbours(self.index);
        if self.station != network.ports[self.index].station || neighbours.is_empty() {
            return;
        }
        let flooding = now < self.flood_until;
        let count = if flooding { 64 } else { 1 + self.random.below(self.options.burst) };
        let to = neighbours[self.random.below(neighbours.len())];
        for _ in 0..count {
            let to = match self.random.below(100) {
                0..20 => neighbours[self.random.below(neighbours.len())],
                20..23 => self.anybody(network),
                _ => to,
            };
            let done = if self.random.chance(self.options.odd) {
                self.send_odd(network, to, acted)
            } else if self.random.chance(self.options.large) {
                self.send_large(network, to, acted)
            } else {
                self.send_plain(network, to, acted)
            };
            if !done {
                break;
            }
        }
        if self.random.chance(30) {
            self.talk_to_neighbours(network, to, acted);
        }
        if self.random.chance(20) {
            self.start_task(network, to);
        }
    }

    /// Starts something between stacks.
    pub fn start_task(&mut self, network: &Network, to: usize) {
        let v6 = self.random.chance(500);
        let address = network.ports[to].station.ip(v6);
        let task = match self.random.below(3) {
            0 => Task::Ping(address),
            1 => Task::Echo(address),
            _ => Task::Transfer(address, 1 + self.random.below(60_000)),
        };
        if let Some(stack) = self.stack.as_mut().filter(|stack| stack.busy() < 2) {
            stack.start(task);
        }
    }

    fn flow(&mut self, network: &Network, to: usize, protocol: u8) -> Flow {
        let v6 = self.random.chance(500);
        let mut station = network.ports[to].station;
        if network.ports[to].vip && self.random.chance(300) {
            for address in vips(network.ports[to].subnet) {
                match address {
                    IpAddr::V4(address) => station.v4 = address,
                    IpAddr::V6(address) => station.v6 = address,
                }
            }
        }
        let port = RAW_PORTS + self.random.below(8) as u16;
        Flow { from: self.station, to: station, v6, protocol, ports: (port, port) }
    }

    /// Bytes that no other packet has.
    fn payload(&mut self, length: usize) -> Vec<u8> {
        self.numbers = self.numbers.wrapping_add(1);
        let (number, guest) = (self.numbers, self.index as u8);
        let mut payload = Vec::with_capacity(length);
        payload.extend(number.to_be_bytes());
        payload.push(guest);
        while payload.len() < length {
            let at = payload.len() as u32;
            payload.extend((at.wrapping_mul(0x9e37_79b9) ^ number).to_be_bytes());
        }
        payload.truncate(length);
        payload
    }

    /// One packet of a numbered flow; whether there was room.
    pub fn send_plain(&mut self, network: &Network, to: usize, acted: &mut Acted) -> bool {
        let protocol = self.random.pick(&[UDP, UDP, TCP]);
        let flow = self.flow(network, to, protocol);
        let length = match self.random.below(100) {
            0..50 => 18 + self.random.below(64) as u64,
            // Longer than the MTU: for whoever has such buffers.
            50..53 if self.options.kind != Kind::Honest => self.random.between(1480, 1900),
            _ => self.random.between(8, PAYLOAD_MAX),
        };
        let payload = self.payload(length as usize);
        let mut frame = packet(&flow, self.numbers, &payload, Fill::Whole);
        let partial = self.options.nic.has(f::NET_CSUM) && self.random.chance(400);
        let header = if partial { make_partial(&mut frame) } else { None };
        let expect = judge(network, self.index, &frame);
        self.send(header.unwrap_or_default(), frame, expect, acted)
    }

    /// One packet that is to be cut, if the driver may send such.
    fn send_large(&mut self, network: &Network, to: usize, acted: &mut Acted) -> bool {
        let nic = self.options.nic;
        let kinds = [
            (f::NET_HOST_TSO4, TCP, false, Gso::TcpV4),
            (f::NET_HOST_TSO6, TCP, true, Gso::TcpV6),
            (f::NET_HOST_USO, UDP, false, Gso::UdpL4),
            (f::NET_HOST_USO, UDP, true, Gso::UdpL4),
        ];
        let allowed: Vec<_> = kinds.into_iter().filter(|(feature, ..)| nic.has(*feature)).collect();
        if allowed.is_empty() {
            return self.send_plain(network, to, acted);
        }
        let (_, protocol, v6, gso) = self.random.pick(&allowed);
        let flow = Flow { v6, ..self.flow(network, to, protocol) };
        let size = self.random.pick(&[536, 1200, 1448, 1400]);
        let room = if self.random.chance(100) { 65_000 } else { 16_000 };
        let length = self.random.between(u64::from(size) + 1, room.min(u64::from(size) * 60));
        let payload = self.payload(length as usize);
        let mut frame = packet(&flow, self.numbers, &payload, Fill::Whole);
        let Some(mut header) = make_partial(&mut frame) else { return true };
        (header.gso, header.gso_size) = (gso, size);
        header.hdr_len = self.random.below(200) as u16;
        let expect = judge(network, self.index, &frame);
        self.send(header, frame, expect, acted)
    }

    fn send_odd(&mut self, network: &Network, to: usize, acted: &mut Acted) -> bool {
        if self.random.chance(30) {
            return self.send_empty(acted);
        }
        let reason = self.random.pick(PROVOKED);
        let Some((header, frame)) =
            odd_frame(reason, &self.station, &network.ports[to].station, &mut self.random)
        else {
            return true;
        };
        let asks = header != NetHeader::default();
        let expect = if reason == DropReason::BadOffload && self.options.nic.features & SENDS_OFFLOADS == 0 {
            judge(network, self.index, &frame)
        } else if !network.ports[self.index].up && !comes_before_security(reason) {
            Expect::Drop(DropReason::PortDown)
        } else {
            Expect::Drop(reason)
        };
        debug_assert!(!is_delivery(reason) && (asks == (reason == DropReason::BadOffload)));
        self.send(header, frame, expect, acted)
    }

    /// A guest that has or had a place in this one's subnet, there or not.
    fn anybody(&mut self, network: &Network) -> usize {
        let mine = network.ports[self.index].subnet;
        let all: Vec<usize> = (0..network.ports.len())
            .filter(|other| *other != self.index && network.ports[*other].subnet == mine)
            .collect();
        self.random.pick(&all)
    }

    /// A chain that holds a header and no packet: refused, returned, and never seen again.
    fn send_empty(&mut self, acted: &mut Acted) -> bool {
        let Some(nic) = &mut self.nic else { return false };
        acted.busy |= nic.send(0, &NetHeader::default(), &[], &mut self.random);
        true
    }

    fn talk_to_neighbours(&mut self, network: &Network, to: usize, acted: &mut Acted) {
        let other = network.ports[to].station;
        let vip = vips(network.ports[self.index].subnet);
        let [IpAddr::V4(vip4), IpAddr::V6(vip6)] = vip else { return };
        let mine = network.ports[self.index].vip;
        let elsewhere = network.ports[self.random.below(network.ports.len())].station;
        let frames = match self.random.below(5) {
            4 => vec![arp_request(&self.station, elsewhere.v4), solicitation(&self.station, elsewhere.v6)],
            0 => vec![arp_request(&self.station, other.v4), solicitation(&self.station, other.v6)],
            1 => vec![arp_request(&self.station, vip4), solicitation(&self.station, vip6)],
            _ if mine && (!self.announced || self.random.chance(300)) => {
                self.announced = true;
                vec![
                    gratuitous(self.station.mac, vip4),
                    advertisement(self.station.mac, vip6, self.station.mac),
                ]
            }
            _ => vec![],
        };
        for frame in frames {
            let expect = judge(network, self.index, &frame);
            self.send(NetHeader::default(), frame, expect, acted);
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

    /// Whether a ring still holds something the switch has to take.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.nic.as_ref().is_some_and(|nic| nic.pairs.iter().any(|pair| pair.tx.queue.in_flight() > 0))
    }
}

/// Whether the reason is found before it is known that the port is shut down.
fn comes_before_security(reason: DropReason) -> bool {
    reason == DropReason::BadOffload || packet_errors().any(|error| error == reason)
}

fn packet_errors() -> impl Iterator<Item = DropReason> {
    ::packet::ParseError::ALL.iter().map(|error| DropReason::from(*error))
}

/// Whether a packet belongs to a conversation that no stack takes part in.
fn is_raw(frame: &[u8]) -> bool {
    transport(frame).is_some_and(|transport| {
        let port = frame.get(transport.start..transport.start + 2).unwrap_or(&[0, 0]);
        matches!(transport.protocol, TCP | UDP)
            && (RAW_PORTS..RAW_PORTS + 1000).contains(&u16::from_be_bytes([port[0], port[1]]))
    })
}

/// What should become of a well-formed frame that `guest` sends as itself.
#[must_use]
pub fn judge(network: &Network, guest: usize, frame: &[u8]) -> Expect {
    let port = &network.ports[guest];
    let Some((destination, _)) = macs(frame) else { return Expect::Any };
    if !port.present {
        return Expect::Any;
    }
    if !port.up {
        return Expect::Drop(DropReason::PortDown);
    }
    let unicast = destination[0] & 1 == 0;
    let foreign =
        |(source, _): (IpAddr, IpAddr)| !source.is_unspecified() && !port.may_send(port.station.mac, source);
    if crate::net::read::addresses(frame).is_some_and(foreign) {
        // `smoltcp` answers as whom it was spoken to, and a hostile neighbour may speak to anybody.
        return Expect::Any;
    }
    match neighbour(frame) {
        Some(Neighbour::Asks(address)) if crate::net::read::sender(frame) == Some(address) => {
            Expect::Drop(DropReason::NeighbourConsumed)
        }
        Some(Neighbour::Asks(address)) => match network.by_address(port.subnet, address) {
            Some(owner) if owner == guest => Expect::Drop(DropReason::NeighbourConsumed),
            Some(_) => Expect::Answer,
            None => Expect::Drop(DropReason::UnknownNeighbour),
        },
        Some(Neighbour::Says(..)) => Expect::Drop(DropReason::NeighbourConsumed),
        None if !unicast => Expect::Any,
        None => match network.by_mac(port.subnet, destination) {
            Some(to) if to == guest => Expect::Drop(DropReason::Hairpin),
            Some(to) => Expect::To(to),
            None => Expect::Drop(DropReason::UnknownUnicast),
        },
    }
}
