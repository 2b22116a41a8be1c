//! A host in this process with ports under rules, or without: one worker, a guest on each port, frames of any 5-tuple.
//!
//! Time is the caller's: sessions end when it says so.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use engine::{DropReason, PortIndex, Unobserved};
use packet::MacAddr;
use switch::{Control, SwitchConfig, TimeStampClock, Worker};
use tables::{
    Endpoint, Location, PortProfile, Subnet, Vpc,
    rules::{Action, Direction, Policy, Remote, Rule},
    vpc_space,
};
use virtio_driver::{NetHeader, RingLayout, Virtqueue};

use crate::{
    attach::AttachConfig,
    in_process::{InProcessError, LocalGuest, SUBNET},
    template::ones_complement,
    vxlan::host::attach,
};

/// Packets per burst.
pub(super) const BURST: usize = 32;
/// The VPC of all ports.
pub(super) const VPC: u16 = 1;
/// Protocol numbers.
pub(super) const UDP: u8 = 17;
pub(super) const TCP: u8 = 6;
/// Bytes of a frame of 64 without its checksum.
const FRAME: usize = 60;
const RING: u16 = 256;
const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 7, 1]);

/// The rules of each port; none: it is unfiltered.
pub(super) type Ports<'a> = &'a [Option<Vec<Rule>>];

/// A packet of one guest to another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet {
    pub(super) to: u8,
    pub(super) protocol: u8,
    pub(super) ports: [u16; 2],
    /// Flags, sequence and acknowledgment number.
    pub(super) tcp: (u8, u32, u32),
}

impl Packet {
    pub(super) fn udp(to: u8, ports: [u16; 2]) -> Self {
        Self { to, protocol: UDP, ports, tcp: (0, 0, 0) }
    }

    pub(super) fn tcp(to: u8, ports: [u16; 2], tcp: (u8, u32, u32)) -> Self {
        Self { to, protocol: TCP, ports, tcp }
    }

    fn write(&self, from: u8) -> [u8; FRAME] {
        let mut frame = [0; FRAME];
        frame[..6].copy_from_slice(&mac(self.to).0);
        frame[6..12].copy_from_slice(&mac(from).0);
        let length = if self.protocol == TCP { 40u16 } else { (FRAME - 14) as u16 };
        frame[12..20].copy_from_slice(&[8, 0, 0x45, 0, 0, length as u8, 0, 0]);
        (frame[20], frame[22], frame[23]) = (0x40, 64, self.protocol);
        frame[26..30].copy_from_slice(&address(from).octets());
        frame[30..34].copy_from_slice(&address(self.to).octets());
        let checksum = !ones_complement(&frame[14..34], 0);
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        frame[34..36].copy_from_slice(&self.ports[0].to_be_bytes());
        frame[36..38].copy_from_slice(&self.ports[1].to_be_bytes());
        if self.protocol == TCP {
            let (flags, sequence, acknowledgment) = self.tcp;
            frame[38..42].copy_from_slice(&sequence.to_be_bytes());
            frame[42..46].copy_from_slice(&acknowledgment.to_be_bytes());
            frame[46..50].copy_from_slice(&[5 << 4, flags, 0x20, 0]);
        } else {
            frame[38..40].copy_from_slice(&(length - 20).to_be_bytes());
        }
        frame
    }
}

/// The address of a port's guest.
pub(super) fn address(port: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, 10 + port)
}

fn mac(port: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, port])
}

/// A rule for everybody that lets pass, to be changed.
pub(super) fn allow(direction: Direction) -> Rule {
    Rule {
        direction,
        action: Action::Allow,
        priority: 1000,
        protocol: None,
        family: None,
        ports: Vec::new(),
        icmp: None,
        remote: Remote::Any,
        log: false,
        counter: 1,
    }
}

/// So many rules, of which the last of each direction lets everything pass and the others are about somebody else.
pub(super) fn rules(count: u32) -> Vec<Rule> {
    let others = (2..count).map(|number| {
        let direction = if number % 2 == 0 { Direction::Egress } else { Direction::Ingress };
        let address = Ipv4Addr::from_bits(0xac10_0000 + number * 3);
        let port = (number % 60_000) as u16 + 1;
        let (ports, remote) = (vec![port..=port], Remote::Prefix(IpAddr::V4(address).into()));
        Rule { priority: 500, protocol: Some(UDP), ports, remote, counter: number, ..allow(direction) }
    });
    let mut rules: Vec<Rule> = others.collect();
    if count > 1 {
        rules.push(allow(Direction::Egress));
    }
    rules.push(allow(Direction::Ingress));
    rules
}

/// See the module's documentation.
pub(super) struct Site {
    pub(super) control: Control,
    worker: Worker,
    guests: Vec<LocalGuest>,
    /// Nanoseconds of the worker's clock.
    pub(super) now: u64,
}

impl Site {
    /// With ports under these rules, and a table that has room for so many sessions.
    pub(super) fn new(ports: Ports<'_>, room: u32) -> anyhow::Result<Self> {
        let now = 1_000_000_000;
        let config = SwitchConfig {
            workers: 1,
            pool_chunks: 1024,
            secret: [0x0123_4567, 0x89ab_cdef],
            sessions: room,
            huge_pages: true,
            timeouts: tables::sessions::Timeouts::default(),
            now,
        };
        let (mut control, workers) = Control::new(&config)?;
        let worker = workers.into_iter().next().ok_or_else(|| broken("a worker"))?;
        control.set_vpc(VPC, Vpc { vni: 7, mtu: 9000, ..Vpc::default() }, true);
        let subnet = Subnet {
            vpc: VPC,
            gateway_mac: GATEWAY,
            prefixes: Vec::new(),
            gateways: Vec::new(),
            routes: None,
            multicast: false,
        };
        control.set_subnet(SUBNET, Some(subnet));
        control.publish();
        let mut site = Self { control, worker, guests: Vec::new(), now };
        for (port, rules) in (0u8..).zip(ports) {
            site.add(port, rules.clone())?;
        }
        site.step();
        Ok(site)
    }

    fn add(&mut self, port: u8, rules: Option<Vec<Rule>>) -> anyhow::Result<()> {
        let (index, number, ip) = (PortIndex(port.into()), u16::from(port), IpAddr::V4(address(port)));
        let mut profile =
            PortProfile::new(SUBNET, mac(port), 9000, &[ip], &[]).in_vpc(VPC, GATEWAY, number + 1);
        if let Some(rules) = rules {
            self.set_rules(number, rules)?;
            profile.policy = Some(number);
        }
        self.control.add_port(index, profile);
        let location = Location::Local(number);
        self.control.place_mac(SUBNET, mac(port), location);
        self.control.place_mac(vpc_space(VPC), mac(port), location);
        self.control.place_endpoint(VPC, ip, Endpoint { mac: mac(port), subnet: SUBNET, location });
        let rings = AttachConfig {
            layout: RingLayout::Split,
            ring_size: RING,
            longest: FRAME as u32,
            offloads: false,
            huge_pages: true,
        };
        self.guests.push(attach(&mut self.control, index, &rings)?);
        Ok(())
    }

    /// Compiles rules and puts a port under them.
    pub(super) fn set_rules(&mut self, policy: u16, rules: Vec<Rule>) -> anyhow::Result<()> {
        for rule in &rules {
            if !self.control.rule_counters().prepare(rule.counter) {
                anyhow::bail!("counter {} of a rule: no room", rule.counter);
            }
        }
        let open = rules.iter().all(|rule| rule.direction == Direction::Ingress);
        self.control.set_policy(policy, Some(Arc::new(Policy::compile(rules, open)?)));
        Ok(())
    }

    fn step(&mut self) -> usize {
        self.worker.step(self.now, &mut TimeStampClock, &mut Unobserved).packets as usize
    }

    /// Puts packets into a guest's ring, where the worker finds them; how many there was room for.
    pub(super) fn send(&mut self, from: u8, packets: &[Packet]) -> Result<usize, InProcessError> {
        let LocalGuest { memory, tx, .. } =
            self.guests.get_mut(usize::from(from)).ok_or_else(|| broken("a guest"))?;
        if tx.room() < packets.len() {
            tx.reclaim(usize::MAX).map_err(|error| InProcessError::Broken(error.to_string()))?;
        }
        let mut sent = 0;
        for packet in packets {
            let Some(slot) = tx.slot() else { break };
            memory
                .write_array(slot.address, &packet.write(from))
                .map_err(|error| InProcessError::Broken(error.to_string()))?;
            if tx.send(&NetHeader::default(), FRAME as u32).is_err() {
                break;
            }
            sent += 1;
        }
        if sent > 0 {
            tx.queue().publish();
        }
        Ok(sent)
    }

    /// Takes what a guest was given; returns how many frames.
    pub(super) fn receive(&mut self, port: u8) -> Result<usize, InProcessError> {
        let rx = &mut self.guests.get_mut(usize::from(port)).ok_or_else(|| broken("a guest"))?.rx;
        let mut frames = 0;
        loop {
            let burst = rx.receive(64, |_| ()).map_err(|error| InProcessError::Broken(error.to_string()))?;
            if burst == 0 {
                return Ok(frames);
            }
            frames += burst;
            rx.refill(usize::MAX);
        }
    }

    /// One step of the worker: packets it took, and its time stamp cycles.
    pub(super) fn one_step(&mut self) -> (usize, u64) {
        let start = cpu::time_stamp();
        let packets = self.step();
        (packets, cpu::time_stamp() - start)
    }

    fn pass_with(
        &mut self,
        from: u8,
        packets: &[Packet],
        steps: fn(&mut Self, usize) -> u64,
    ) -> Result<u64, InProcessError> {
        let Some(to) = packets.first().map(|packet| packet.to) else { return Ok(0) };
        if self.send(from, packets)? != packets.len() {
            return Err(broken("room in the ring"));
        }
        let cycles = steps(self, packets.len());
        match self.receive(to)? {
            received if received == packets.len() => Ok(cycles),
            received => Err(InProcessError::Broken(format!(
                "{received} of {} packets came through the worker, drops: {:?}",
                packets.len(),
                self.drops(from)
            ))),
        }
    }

    /// Sends a burst and sees it through; the worker's time stamp cycles.
    ///
    /// # Errors
    ///
    /// When not all of it arrives.
    pub(super) fn burst(&mut self, from: u8, packets: &[Packet]) -> Result<u64, InProcessError> {
        self.pass_with(from, packets, steps)
    }

    /// The same, of which nothing is measured.
    pub(super) fn prepare(&mut self, from: u8, packets: &[Packet]) -> Result<(), InProcessError> {
        self.pass_with(from, packets, prepare).map(drop)
    }

    /// Makes sessions of these numbers between ports 0 and 1, with an answer each.
    pub(super) fn establish(&mut self, numbers: std::ops::Range<u32>) -> Result<(), InProcessError> {
        self.establish_between([0, 1], numbers)
    }

    /// The same between two other ports.
    pub(super) fn establish_between(
        &mut self,
        [from, to]: [u8; 2],
        numbers: std::ops::Range<u32>,
    ) -> Result<(), InProcessError> {
        for first in numbers.clone().step_by(BURST) {
            let burst = first..(first + BURST as u32).min(numbers.end);
            let packets: Vec<Packet> = burst.map(|number| Packet::udp(to, tuple(number))).collect();
            self.prepare(from, &packets)?;
            self.prepare(to, &packets.iter().map(|packet| back(packet, from)).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Sessions that there are.
    pub(super) fn sessions(&self) -> u32 {
        self.control.sessions().statistics().ipv4
    }

    /// Packets of a port that ended, by reason.
    pub(super) fn drops(&self, port: u8) -> Vec<(DropReason, u64)> {
        let counters = self.control.counters(PortIndex(port.into()));
        counters.map_or_else(Vec::new, |counters| counters.drops)
    }
}

/// What is measured: by the time stamp counter, or by callgrind, which knows it by its name.
#[inline(never)]
fn steps(site: &mut Site, count: usize) -> u64 {
    let start = cpu::time_stamp();
    let mut moved = 0;
    while moved < count {
        moved += site.step();
    }
    cpu::time_stamp() - start
}

#[inline(never)]
fn prepare(site: &mut Site, count: usize) -> u64 {
    let mut moved = 0;
    while moved < count {
        moved += site.step();
    }
    0
}

/// The ports of session `number`, of which there are 2^30: each number has others, and neighbours have nothing in common. None is that of a service which guests
/// may not offer.
pub(super) fn tuple(number: u32) -> [u16; 2] {
    const MASK: u32 = (1 << 30) - 1;
    let mixed = number.wrapping_mul(0x9e37_79b1) & MASK;
    let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0x85eb_ca6b) & MASK;
    [mixed >> 15, mixed & 0x7fff].map(|half| 0x8000 | half as u16)
}

/// The answer to a packet.
pub(super) fn back(packet: &Packet, to: u8) -> Packet {
    let [source, destination] = packet.ports;
    Packet { to, ports: [destination, source], ..*packet }
}

pub(super) fn broken(what: &str) -> InProcessError {
    InProcessError::Broken(format!("{what}: wanted and not there"))
}
