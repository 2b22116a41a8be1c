//! The underlay: one link with all hosts on it, and what goes wrong there.

pub mod foreign;
mod hostile;
pub mod queues;

use crate::net::offload::{complete_blindly, segments};
use crate::net::read::ethertype;
use crate::net::tunnel;
use crate::network::{Network, UNDERLAY_MTU};
use crate::random::Random;
use queues::{DEPTH, Line};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use virtio_driver::{Gso, NetHeader};

pub use hostile::{Intrusion, intrude};

/// What the underlay does to frames while a fault lasts: how often, in 1,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Until when.
    pub until: u64,
    /// Lost.
    pub lose: u32,
    /// Carried twice.
    pub double: u32,
    /// Held back, so that later ones overtake.
    pub reorder: u32,
    /// A byte is changed, and the receiving device notices.
    pub damage: u32,
    /// A byte is changed, and nobody notices.
    pub corrupt: u32,
    /// Marked as having met congestion.
    pub mark: u32,
    /// Packets longer than this are lost.
    pub mtu: Option<u16>,
}

/// A frame under way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flying {
    at: u64,
    order: u64,
    to: usize,
    bytes: Vec<u8>,
    /// The frame of a guest that it is a true copy of.
    origin: Option<usize>,
    /// Nobody knows what it is.
    odd: bool,
}

/// A frame that a host gets.
#[derive(Clone, Debug)]
pub struct Landed {
    /// The host.
    pub to: usize,
    /// All of it.
    pub bytes: Vec<u8>,
    /// The frame of a guest that it is a true copy of.
    pub origin: Option<usize>,
    /// It was changed or made at random: nobody knows what it is.
    pub odd: bool,
}

/// See the module's documentation.
pub struct Underlay {
    /// By host and queue pair: what the fabric gives, and what it gets.
    pub lines: Vec<Vec<(Line, Line)>>,
    /// Nanoseconds from host to host.
    pub delay: u64,
    /// What goes wrong.
    pub weather: Weather,
    /// Pairs of hosts that do not reach each other, until when.
    pub partitions: Vec<(usize, usize, u64)>,
    random: Random,
    flying: BinaryHeap<Reverse<Flying>>,
    order: u64,
    /// What became of frames, by name.
    pub lost: Vec<&'static str>,
}

impl Underlay {
    /// A fabric between so many hosts, each with so many queue pairs.
    #[must_use]
    pub fn new(hosts: usize, pairs: usize, delay: u64, random: Random) -> Self {
        let lines = (0..hosts).map(|_| (0..pairs).map(|_| Default::default()).collect()).collect();
        Self {
            lines,
            delay,
            weather: Weather::default(),
            partitions: Vec::new(),
            random,
            flying: BinaryHeap::new(),
            order: 0,
            lost: Vec::new(),
        }
    }

    /// Nothing goes wrong any more.
    pub fn calm(&mut self) {
        self.weather = Weather::default();
        self.partitions.clear();
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flying.is_empty()
    }

    /// When the next frame arrives.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        self.flying.peek().map(|Reverse(first)| first.at)
    }

    /// The places of those to which a frame that `from` sent goes, by its destination on the link.
    fn targets(network: &Network, from: usize, frame: &[u8]) -> Vec<usize> {
        let group = frame.first().is_some_and(|first| first & 1 == 1);
        let all = network.hosts.len() + network.foreign.len();
        let others = (0..all).filter(|place| *place != from);
        others.filter(|place| group || frame.starts_with(&network.vtep(*place).mac)).collect()
    }

    /// Carries what `from` sent. What is nobody's is lost.
    pub fn carry(&mut self, network: &Network, from: usize, now: u64, frame: &[u8], origin: Option<usize>) {
        for to in Self::targets(network, from, frame) {
            let parted = self
                .partitions
                .iter()
                .any(|(a, b, until)| now < *until && [(*a, *b), (*b, *a)].contains(&(from, to)));
            if parted {
                self.lost.push("fabric: parted");
                continue;
            }
            self.throw(to, now, frame.to_vec(), origin);
        }
    }

    /// Gives a frame of a stranger to a host.
    pub fn inject(&mut self, to: usize, now: u64, frame: Vec<u8>, odd: bool) {
        self.launch(to, now + 1_000, frame, (None, odd));
    }

    fn throw(&mut self, to: usize, now: u64, mut bytes: Vec<u8>, mut origin: Option<usize>) {
        let weather = if now < self.weather.until { self.weather } else { Weather::default() };
        let mtu = weather.mtu.unwrap_or(UNDERLAY_MTU);
        if bytes.len() > usize::from(mtu) + 14 {
            return self.lost.push("fabric: longer than the MTU");
        }
        if self.random.chance(weather.lose) {
            return self.lost.push("fabric: lost");
        }
        if self.random.chance(weather.damage) {
            return self.lost.push("fabric: damaged, and noticed");
        }
        let copies = 1 + usize::from(self.random.chance(weather.double));
        if copies > 1 {
            self.lost.push("fabric: doubled");
        }
        if self.random.chance(weather.mark) && tunnel::open(&bytes).is_some() {
            self.lost.push("fabric: marked");
            let class = crate::net::read::traffic_class(&bytes).unwrap_or(0);
            tunnel::set_class(&mut bytes, class | 3);
        }
        // ARP has no checksum: whoever gets a damaged one believes it.
        let odd =
            self.random.chance(weather.corrupt) && ethertype(&bytes).is_none_or(|(kind, _)| kind != 0x0806);
        if odd {
            self.lost.push("fabric: damaged, and not noticed");
            let at = self.random.below(bytes.len());
            bytes[at] ^= 1 << self.random.below(8);
            // What it is now is nobody's frame.
            origin = None;
        }
        let late = if self.random.chance(weather.reorder) {
            self.lost.push("fabric: held back");
            self.random.between(self.delay, 20 * self.delay)
        } else {
            0
        };
        for copy in 0..copies as u64 {
            self.launch(to, now + self.delay + late + copy * 500, bytes.clone(), (origin, odd));
        }
    }

    fn launch(&mut self, to: usize, at: u64, bytes: Vec<u8>, (origin, odd): (Option<usize>, bool)) {
        self.order += 1;
        self.flying.push(Reverse(Flying { at, order: self.order, to, bytes, origin, odd }));
    }

    /// What arrives by `now`, in order.
    pub fn land(&mut self, now: u64) -> Vec<Landed> {
        let mut landed = Vec::new();
        while self.flying.peek().is_some_and(|Reverse(first)| first.at <= now)
            && let Some(Reverse(Flying { to, bytes, origin, odd, .. })) = self.flying.pop()
        {
            landed.push(Landed { to, bytes, origin, odd });
        }
        landed
    }

    /// The queue pair on which a host gets a frame: packets of a flow stay together.
    #[must_use]
    pub fn pair_of(&self, host: usize, frame: &[u8]) -> usize {
        let inner = tunnel::open(frame).map_or(frame, |(_, at)| &frame[at..]);
        crate::net::read::flow(inner) as usize % self.lines[host].len()
    }

    /// Whether a host's queue has room.
    #[must_use]
    pub fn has_room(&self, host: usize, pair: usize) -> bool {
        self.lines[host][pair].0.len() < DEPTH
    }
}

/// The frames that a device sends for what it was given: what it was asked to do is done.
#[must_use]
pub fn on_the_wire(header: &NetHeader, frame: &[u8]) -> Option<Vec<Vec<u8>>> {
    if !header.needs_csum {
        return Some(vec![frame.to_vec()]);
    }
    if header.gso == Gso::None {
        let mut frame = frame.to_vec();
        complete_blindly(header, &mut frame)?;
        return Some(vec![frame]);
    }
    let (outer, at) = tunnel::open(frame)?;
    let inner = NetHeader { csum_start: header.csum_start.checked_sub(at as u16)?, ..*header };
    let cut = segments(&inner, &frame[at..])?;
    let finish = |mut segment: Vec<u8>| {
        let transport = crate::net::read::transport(&segment)?;
        let at = transport.checksum_at();
        segment[at..at + 2].copy_from_slice(&transport.pseudo().to_be_bytes());
        let plain = NetHeader { gso: Gso::None, ..inner };
        complete_blindly(&plain, &mut segment)?;
        Some(tunnel::wrap(&outer, &segment, false))
    };
    cut.into_iter().map(finish).collect()
}
