//! What a seed chooses before anything happens: each run has its own mix (swarm testing), printed first.

use crate::faults::Fault;
use crate::guest::config::{FRAME_MAX, NicConfig};
use crate::network::UNDERLAY_MTU;
use crate::random::Random;
use std::fmt;
use virtio_driver::features as f;

/// How a guest behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As Linux would.
    Honest,
    /// Odd but legal: strange layouts, slow refills, bursts, stalls, packets that must be refused.
    Sloppy,
    /// Anything.
    Hostile,
}

/// What one guest is.
#[derive(Clone, Copy, Debug)]
pub struct GuestOptions {
    /// How it behaves.
    pub kind: Kind,
    /// The host it is on at first.
    pub host: usize,
    /// Its VPC.
    pub vpc: usize,
    /// Its subnet, counted in its VPC.
    pub subnet: usize,
    /// Its port is under rules.
    pub filtered: bool,
    /// Its driver.
    pub nic: NicConfig,
    /// It attaches by a vhost-user handshake; else its port is made from parts.
    pub handshake: bool,
    /// Regions its memory is announced in.
    pub regions: usize,
    /// Nanoseconds between two activations when it is busy.
    pub think: u64,
    /// Frames it sends in one activation, at most.
    pub burst: usize,
    /// Receive buffers it gives back in one activation, at most.
    pub refill: usize,
    /// Packets in 1,000 that must be refused.
    pub odd: u32,
    /// Packets in 1,000 that are large sends to be cut.
    pub large: u32,
}

/// What the device of an uplink does itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offloads {
    /// Nothing.
    None,
    /// Completes checksums.
    Checksum,
    /// Cuts large packets, in tunnels too.
    All,
}

/// What one run is.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seed all of it follows from.
    pub seed: u64,
    /// Steps before the faults stop, at least.
    pub steps: u64,
    /// Packets before the faults stop, at least.
    pub packets: u64,
    /// Hosts; one has no uplink.
    pub hosts: usize,
    /// The underlay is IPv6.
    pub underlay_v6: bool,
    /// Queue pairs of each uplink.
    pub uplink_pairs: u16,
    /// What uplinks do themselves.
    pub offloads: Offloads,
    /// Nanoseconds from host to host.
    pub delay: u64,
    /// Some endpoints are behind tunnel end points that are no towpathd.
    pub foreign: bool,
    /// Some subnets have DHCP and router advertisements.
    pub served: bool,
    /// Workers of each host.
    pub workers: usize,
    /// Pieces of the pool for packets that wait.
    pub pool_chunks: usize,
    /// The guests.
    pub guests: Vec<GuestOptions>,
    /// Steps between two faults, on average.
    pub fault_every: u64,
    /// Steps between two changes by the operator, on average.
    pub change_every: u64,
    /// Which kinds of faults may happen, by position in [`crate::faults::Fault::ALL`], and how often relative to each other.
    pub fault_weights: Vec<u32>,
}

/// Steps of a run unless told otherwise.
pub const STEPS: u64 = 2_000;
/// Packets of a run.
pub const PACKETS: u64 = 5_000;

impl Options {
    /// What `seed` chooses. `steps` lengthens the run.
    #[must_use]
    pub fn draw(seed: u64, steps: u64, faults: usize) -> Self {
        let mut random = Random::new(seed ^ 0x746f_7770_6174_6821);
        let workers = random.pick(&[1, 1, 2, 2, 3, 4]);
        let hosts = random.pick(&[1, 1, 2, 3, 3]);
        let workers = if hosts > 1 { workers.min(2) } else { workers };
        let vpcs: &[usize] = random.pick(&[&[0][..], &[0, 1], &[0, 2], &[0, 1, 2]]);
        let count = 4 + random.below(4);
        let mut guests: Vec<_> =
            (0..count).map(|index| GuestOptions::draw(index, vpcs, hosts, &mut random)).collect();
        // By dice of their own: whether ports are under rules changes nothing else of a seed's choices.
        let mut rules = Random::new(seed ^ 0x7275_6c65_735f_6f66);
        if rules.chance(700) {
            guests.iter_mut().for_each(|guest| guest.filtered = rules.chance(700));
        }
        let mut fault_weights: Vec<u32> =
            (0..faults).map(|_| if random.chance(600) { 1 + random.below(8) as u32 } else { 0 }).collect();
        // Nothing happens to an underlay that is not there.
        let own = faults - Fault::UNDERLAY.min(faults);
        for weight in &mut fault_weights[own..] {
            *weight = if hosts == 1 { 0 } else { (*weight).max(u32::from(random.chance(900))) };
        }
        while fault_weights.iter().take(own).filter(|weight| **weight > 0).count() < 4.min(own) {
            let at = random.below(own);
            fault_weights[at] = 1;
        }
        Self {
            seed,
            steps,
            packets: PACKETS,
            hosts,
            underlay_v6: random.chance(400),
            uplink_pairs: random.pick(&[1, 2, 2]),
            offloads: random.pick(&[Offloads::None, Offloads::Checksum, Offloads::All]),
            delay: random.between(2_000, 60_000),
            foreign: random.chance(600),
            served: random.chance(700),
            workers,
            pool_chunks: random.pick(&[64, 1024, 4096]),
            guests,
            fault_every: random.between(40, 125),
            change_every: random.between(100, 330),
            fault_weights,
        }
    }

    /// MTU of all VPCs, in bytes.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        match (self.hosts, self.underlay_v6) {
            (1, _) => model::vpc::MTU_WITHOUT_UPLINK,
            (_, false) => UNDERLAY_MTU - 50,
            (_, true) => UNDERLAY_MTU - 70,
        }
    }
}

impl GuestOptions {
    fn draw(index: usize, vpcs: &[usize], hosts: usize, random: &mut Random) -> Self {
        // The first two are honest neighbours: there is always a legal flow and a bystander.
        let kind = match index {
            0 | 1 => Kind::Honest,
            2 => Kind::Sloppy,
            _ => random.pick(&[Kind::Honest, Kind::Sloppy, Kind::Hostile]),
        };
        let (vpc, subnet) = if index < 3 { (0, 0) } else { (random.pick(vpcs), random.below(2)) };
        let host = if index < 3 { index % hosts } else { random.below(hosts) };
        let sloppy = kind != Kind::Honest;
        Self {
            kind,
            host,
            vpc,
            subnet,
            filtered: false,
            nic: draw_nic(sloppy, random),
            handshake: random.chance(400),
            regions: 1 + random.below(3),
            think: random.between(5_000, 40_000),
            burst: if sloppy { random.pick(&[1, 8, 32, 64]) } else { random.pick(&[8, 16, 32]) },
            refill: if sloppy { random.pick(&[4, 16, 256]) } else { 256 },
            odd: if sloppy { random.pick(&[20, 100, 400]) } else { 5 },
            large: random.pick(&[0, 20, 100]),
        }
    }
}

fn draw_nic(sloppy: bool, random: &mut Random) -> NicConfig {
    let mut features = f::VERSION_1;
    for (feature, per_mille) in [
        (f::RING_PACKED, 500),
        (f::NET_MRG_RXBUF, 600),
        (f::INDIRECT_DESC, 500),
        (f::EVENT_IDX, 500),
        (f::IN_ORDER, 250),
        (f::NET_CSUM, 600),
        (f::NET_GUEST_CSUM, 600),
    ] {
        if random.chance(per_mille) {
            features |= feature;
        }
    }
    if features & f::NET_CSUM != 0 {
        for feature in [f::NET_HOST_TSO4, f::NET_HOST_TSO6, f::NET_HOST_USO] {
            if random.chance(600) {
                features |= feature;
            }
        }
    }
    if features & f::NET_GUEST_CSUM != 0 && random.chance(600) {
        features |= f::NET_GUEST_TSO4 | f::NET_GUEST_TSO6;
        if random.chance(500) {
            features |= f::NET_GUEST_USO4 | f::NET_GUEST_USO6;
        }
        if random.chance(500) {
            features |= f::NET_GUEST_ECN;
        }
    }
    let mergeable = features & f::NET_MRG_RXBUF != 0;
    let large = features & f::NET_GUEST_TSO4 != 0;
    let size = random.pick(&[64, 128, 256]);
    let (rx_buffer, rx_buffers) = match (mergeable, large) {
        (true, _) => (random.pick(&[256, 700, 1536, 2048, 4096]), size),
        (false, true) => (FRAME_MAX as u32 + 27, 16),
        (false, false) => (random.pick(&[1526, 2048]), size),
    };
    // A chain takes descriptors: fewer buffers then.
    let rx_descriptors = if sloppy { random.pick(&[1, 1, 2, 3]) } else { 1 };
    NicConfig {
        features,
        size,
        pairs: random.pick(&[1, 1, 2, 4]),
        polls: random.chance(400),
        odd_layouts: sloppy,
        rx_buffer,
        rx_buffers: rx_buffers / rx_descriptors,
        rx_descriptors,
    }
}

impl fmt::Display for Options {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "seed {}: {} hosts (underlay IPv{}, {} queue pairs, offloads {:?}, {} us apart) with {} workers, services {}, endpoints {}, {} pool pieces, at least {} steps and {} packets, a fault every {} steps, a change every {}",
            self.seed,
            self.hosts,
            if self.underlay_v6 { 6 } else { 4 },
            self.uplink_pairs,
            self.offloads,
            self.delay / 1000,
            self.workers,
            self.served,
            self.foreign,
            self.pool_chunks,
            self.steps,
            self.packets,
            self.fault_every,
            self.change_every
        )?;
        for (index, guest) in self.guests.iter().enumerate() {
            let nic = &guest.nic;
            let layout = if nic.has(f::RING_PACKED) { "packed" } else { "split" };
            let names = [
                (f::NET_MRG_RXBUF, "mergeable"),
                (f::INDIRECT_DESC, "indirect"),
                (f::EVENT_IDX, "event-idx"),
                (f::IN_ORDER, "in-order"),
                (f::NET_CSUM, "csum"),
                (f::NET_GUEST_CSUM, "guest-csum"),
                (f::NET_HOST_TSO4, "tso4"),
                (f::NET_HOST_TSO6, "tso6"),
                (f::NET_HOST_USO, "uso"),
                (f::NET_GUEST_TSO4, "guest-tso"),
                (f::NET_GUEST_USO4, "guest-uso"),
            ];
            let words: Vec<&str> =
                names.iter().filter(|(bit, _)| nic.has(*bit)).map(|(_, name)| *name).collect();
            writeln!(
                out,
                "  guest {index}: {:?}, host {}, vpc {} subnet {}, {}, {layout} {} x {}, {}{}, buffers {} x {} in {}; burst {}, refill {}, thinks {} us",
                guest.kind,
                guest.host,
                guest.vpc,
                guest.subnet,
                if guest.filtered { "under rules" } else { "unfiltered" },
                nic.pairs,
                nic.size,
                words.join(" "),
                if guest.handshake { ", by handshake" } else { "" },
                nic.rx_buffers,
                nic.rx_buffer,
                nic.rx_descriptors,
                guest.burst,
                guest.refill,
                guest.think / 1000
            )?;
        }
        Ok(())
    }
}
