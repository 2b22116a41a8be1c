//! Whether targets of load balancers live: TCP connections and HTTP requests from their subnet's gateway, made by the host that holds them, and what hosts tell each other of it.
//!
//! A check is a connection of a stack of `smoltcp` that lives as long as the check ([`probe`]). So many in a row that speak against what holds change it ([`Health`]). The host that
//! holds a target asks, whatever rules there are; it tells the others in the VPC's tunnels ([`word`]) what it found when that changes, and every now and then. Of a target behind
//! another host nothing is known before its host has spoken; once it has, its silence is an answer too. What nobody knows counts as up.
//!
//! Everything is bounded: targets, the time and the bytes of a check, frames by the budget of the port that they come from, words by what is known here already.

mod probe;
mod state;
mod word;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use packet::{Fragment, L4, MacAddr, ethernet};

use crate::random::Random;
use crate::{Refusal, frame};
use probe::{Probe, Progress};
pub use state::{Health, Outcome, Verdict};
pub use word::ETHER_TYPE;
use word::Word;

/// Targets that a host looks after.
pub const MOST_TARGETS: usize = 1024;
/// The ports of gateways' addresses that checks come from.
pub const LOCAL_PORTS: std::ops::RangeInclusive<u16> = 61_440..=65_535;
/// How often others are told how all targets here are, and how long that is good for: three times may be missed.
const REPEAT: Duration = Duration::from_secs(2);
const VALID: Duration = Duration::from_secs(7);

/// How a target is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// It takes connections.
    Tcp,
    /// It answers a GET of this path with a status from 200 to 399.
    Http {
        /// Begins with a slash; visible ASCII.
        path: String,
    },
}

/// How often, and what is made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What it is asked.
    pub protocol: Protocol,
    /// At which of its ports.
    pub port: u16,
    /// From one check to the next.
    pub interval: Duration,
    /// How long a check may take; not longer than the interval.
    pub timeout: Duration,
    /// Bad checks in a row that make it down.
    pub unhealthy_after: u32,
    /// Good checks in a row that make it up again.
    pub healthy_after: u32,
}

/// A target of a balancer of a VPC: number of the VPC, shared address, own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId {
    /// Number of the VPC.
    pub vpc: u16,
    /// The balancer's address.
    pub shared: IpAddr,
    /// The target's.
    pub target: IpAddr,
}

/// A target that a port of this host holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    /// The caller's number of the port.
    pub port: u16,
    /// Its MAC address.
    pub mac: MacAddr,
    /// That of its subnet's gateway, and its address, of the target's IP version.
    pub gateway_mac: MacAddr,
    /// See there.
    pub gateway: IpAddr,
    /// The target's address.
    pub address: IpAddr,
    /// Bytes of the longest IP packet.
    pub mtu: u16,
}

/// Where a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Behind a port of this host.
    Here(Station),
    /// Behind the tunnel end point of another host, by its number.
    There(u16),
    /// Nobody is known to have it, or nobody who could be asked.
    Nowhere,
}

/// A frame for a port.
pub type Frame = (u16, Vec<u8>);

struct Target {
    check: Check,
    health: Health,
    /// Behind which other host it is, `None` for this one; what was known is of no use when that changes.
    host: Option<Option<u16>>,
    /// Until when the last word of that host is good.
    heard: Option<Duration>,
    /// When it is to be checked next.
    next: Duration,
    /// When it is to be looked at next.
    due: Duration,
    probe: Option<Probe>,
}

/// See the module's documentation.
pub struct Prober {
    targets: BTreeMap<TargetId, Target>,
    due: BTreeSet<(Duration, TargetId)>,
    /// The checks under way by their local port.
    ports: BTreeMap<u16, TargetId>,
    random: Random,
    local: u16,
    changed: BTreeSet<TargetId>,
    /// VPCs of which others are to be told, and when all are told again.
    unsaid: BTreeSet<u16>,
    repeat: Duration,
}

impl Prober {
    /// Looks after nobody yet. `seed`, a random number, makes TCP's sequence numbers and spreads checks.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let local = (random.next() % LOCAL_PORTS.len() as u64) as u16;
        Self {
            targets: BTreeMap::new(),
            due: BTreeSet::new(),
            ports: BTreeMap::new(),
            random,
            local,
            changed: BTreeSet::new(),
            unsaid: BTreeSet::new(),
            repeat: REPEAT,
        }
    }

    /// Looks after a target from now on, in this way; false when there are too many. What is known of it stays.
    pub fn set(&mut self, id: TargetId, check: Check, now: Duration) -> bool {
        if let Some(target) = self.targets.get_mut(&id) {
            target.check = check;
            return true;
        }
        if self.targets.len() >= MOST_TARGETS {
            return false;
        }
        // Those that are set together are not asked together.
        let next = self.random.between(now, now + check.interval.min(Duration::from_secs(1)));
        let health = Health::unknown(now);
        self.due.insert((next, id));
        self.targets
            .insert(id, Target { check, health, host: None, heard: None, next, due: next, probe: None });
        true
    }

    /// Looks after a target no more. A check under way ends without a word.
    pub fn remove(&mut self, id: &TargetId) {
        let Some(target) = self.targets.remove(id) else { return };
        self.due.remove(&(target.due, *id));
        self.changed.remove(id);
        if let Some(probe) = target.probe {
            self.ports.remove(&probe.local);
        }
    }

    /// Targets of a balancer that are looked after.
    #[must_use]
    pub fn of(&self, vpc: u16, shared: IpAddr) -> Vec<TargetId> {
        let of = |id: &&TargetId| (id.vpc, id.shared) == (vpc, shared);
        self.targets.keys().filter(of).copied().collect()
    }

    /// What is known of a target; `None` of whom nobody looks after.
    #[must_use]
    pub fn health(&self, id: &TargetId) -> Option<Health> {
        self.targets.get(id).map(|target| target.health)
    }

    /// The number of the other host's tunnel end point by whose word that is known; `None` for what was found out here.
    #[must_use]
    pub fn by_word_of(&self, id: &TargetId) -> Option<u16> {
        self.targets.get(id).filter(|target| target.heard.is_some()).and_then(|target| target.host.flatten())
    }

    /// Targets of which something else is known than at the last call.
    pub fn changes(&mut self) -> Vec<TargetId> {
        std::mem::take(&mut self.changed).into_iter().collect()
    }

    /// When [`Prober::on_tick`] has something to do; `None` while there are no targets.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        let first = self.due.first().map(|(due, _)| *due)?;
        Some(first.min(self.repeat))
    }

    /// Asks who is due. `place` says where a target is.
    pub fn on_tick(&mut self, now: Duration, mut place: impl FnMut(&TargetId) -> Place) -> Vec<Frame> {
        let mut frames = Vec::new();
        let due: Vec<TargetId> =
            self.due.iter().take_while(|(due, _)| *due <= now).map(|(_, id)| *id).collect();
        for id in due {
            self.look_at(id, place(&id), now, &mut frames);
        }
        frames
    }

    fn look_at(&mut self, id: TargetId, place: Place, now: Duration, frames: &mut Vec<Frame>) {
        let Some(target) = self.targets.get_mut(&id) else { return };
        let before = target.health.verdict;
        let host = match place {
            Place::Here(_) => Some(None),
            Place::There(vtep) => Some(Some(vtep)),
            Place::Nowhere => None,
        };
        if host != target.host {
            // It moved: its new host finds out.
            target.host = host;
            target.heard = None;
            target.health.set(Verdict::Unknown, None, now);
            if let Some(probe) = target.probe.take() {
                self.ports.remove(&probe.local);
            }
        }
        if let Some(until) = target.heard
            && until <= now
        {
            target.heard = Some(now + VALID);
            target.health.set(Verdict::Down, Some(Outcome::Silent), now);
        }
        if let Place::Here(station) = place {
            self.ask(id, &station, now, frames);
        } else {
            target.next = now + target.check.interval;
        }
        self.settle(id, before, None);
    }

    /// Goes on with the check under way, or begins one.
    fn ask(&mut self, id: TargetId, station: &Station, now: Duration, frames: &mut Vec<Frame>) {
        if self.targets.get(&id).is_some_and(|target| target.probe.is_some()) {
            return self.run(id, now, frames);
        }
        let (local, seed) = (self.free_port(), self.random.next());
        let Some(target) = self.targets.get_mut(&id) else { return };
        if target.next > now {
            return;
        }
        target.next = (target.next + target.check.interval).max(now);
        if let Some(local) = local
            && let Some(probe) = Probe::begin(station, &target.check, (local, seed), now)
        {
            target.probe = Some(probe);
            self.ports.insert(local, id);
            self.run(id, now, frames);
        }
    }

    fn free_port(&mut self) -> Option<u16> {
        for _ in 0..LOCAL_PORTS.len() {
            self.local = (self.local + 1) % LOCAL_PORTS.len() as u16;
            let port = LOCAL_PORTS.start() + self.local;
            if !self.ports.contains_key(&port) {
                return Some(port);
            }
        }
        None
    }

    /// Lets a check do all it can now.
    fn run(&mut self, id: TargetId, now: Duration, frames: &mut Vec<Frame>) {
        let Some(target) = self.targets.get_mut(&id) else { return };
        let Some(probe) = &mut target.probe else { return };
        let before = target.health.verdict;
        let (port, local) = (probe.port, probe.local);
        let Progress { frames: sent, outcome, due } = probe.run(now);
        frames.extend(sent.into_iter().map(|frame| (port, frame)));
        if let Some(outcome) = outcome {
            let Check { healthy_after, unhealthy_after, .. } = target.check;
            target.health.note(outcome, (healthy_after, unhealthy_after), now);
        }
        if due.is_none() {
            target.probe = None;
            self.ports.remove(&local);
        }
        self.settle(id, before, due);
    }

    /// Notes when a target is to be looked at again, and whether something else is known of it.
    fn settle(&mut self, id: TargetId, before: Verdict, probe_due: Option<Duration>) {
        let Some(target) = self.targets.get_mut(&id) else { return };
        let probe = probe_due.or_else(|| target.probe.as_ref().map(|_| target.due));
        let wake = if target.probe.is_some() { probe } else { Some(target.next) };
        let wake = [wake, target.heard].into_iter().flatten().min().unwrap_or(target.next);
        self.due.remove(&(target.due, id));
        target.due = wake;
        self.due.insert((wake, id));
        if target.health.verdict != before {
            self.changed.insert(id);
            if target.host == Some(None) {
                self.unsaid.insert(id.vpc);
            }
        }
    }

    /// A frame of a port's guest to its gateway; returns frames for it.
    ///
    /// # Errors
    ///
    /// It is of no check under way, not from whom is asked, or malformed.
    pub fn on_frame(&mut self, port: u16, frame: &[u8], now: Duration) -> Result<Vec<Frame>, Refusal> {
        let headers = frame::headers(frame)?;
        let link = ethernet::View::new(frame).ok_or(Refusal::Headers)?;
        if !headers.is_ip() || headers.l4 != L4::Tcp {
            return Err(Refusal::NotForUs);
        }
        if headers.fragment != Fragment::Whole {
            return Err(Refusal::Fragmented);
        }
        let id = *self.ports.get(&headers.destination_port).ok_or(Refusal::NotForUs)?;
        let target = self.targets.get_mut(&id).ok_or(Refusal::NotForUs)?;
        let probe = target.probe.as_mut().filter(|probe| probe.port == port).ok_or(Refusal::NotForUs)?;
        let source = headers.source_ip(frame).ok_or(Refusal::Headers)?;
        let destination = headers.destination_ip(frame).ok_or(Refusal::Headers)?;
        if !probe.is_between(source, destination) {
            return Err(Refusal::ForeignAddress);
        }
        if link.source().is_multicast() {
            return Err(Refusal::ForeignHardware);
        }
        let ip =
            frame.get(usize::from(headers.l3_offset)..headers.l3_end() as usize).ok_or(Refusal::Headers)?;
        probe.receive(ip);
        let mut frames = Vec::new();
        self.run(id, now, &mut frames);
        Ok(frames)
    }

    /// What is to be told to the other hosts of VPCs now: VPC and payload of a frame.
    pub fn speak(&mut self, now: Duration) -> Vec<(u16, Vec<u8>)> {
        let all = now >= self.repeat;
        if all {
            self.repeat = now + REPEAT;
        }
        let unsaid = std::mem::take(&mut self.unsaid);
        let mut words: BTreeMap<u16, Vec<Word>> = BTreeMap::new();
        for (id, Target { health, host, .. }) in &self.targets {
            if *host == Some(None) && (all || unsaid.contains(&id.vpc)) {
                let TargetId { vpc, shared, target } = *id;
                let age = now.saturating_sub(health.since);
                let word = Word { shared, target, verdict: health.verdict, last: health.last, age };
                words.entry(vpc).or_default().push(word);
            }
        }
        let payloads = |(vpc, words): (u16, Vec<Word>)| {
            word::write(&words, VALID).into_iter().map(move |one| (vpc, one))
        };
        words.into_iter().flat_map(payloads).collect()
    }

    /// What the host behind a tunnel end point says of targets in a VPC; `place` says where they are. Nothing is believed of those that are not there.
    ///
    /// # Errors
    ///
    /// It says nothing that can be understood.
    pub fn on_word(
        &mut self,
        (vpc, vtep): (u16, u16),
        payload: &[u8],
        now: Duration,
        mut place: impl FnMut(&TargetId) -> Place,
    ) -> Result<(), Refusal> {
        let (valid, words) = word::read(payload).ok_or(Refusal::Format)?;
        for word in words {
            let id = word.id(vpc);
            if !self.targets.contains_key(&id) || place(&id) != Place::There(vtep) {
                continue;
            }
            // If it has moved there since.
            self.look_at(id, Place::There(vtep), now, &mut Vec::new());
            let Some(target) = self.targets.get_mut(&id) else { continue };
            let before = target.health.verdict;
            target.health.set(word.verdict, word.last, now.saturating_sub(word.age));
            target.heard = Some(now + valid);
            self.settle(id, before, None);
        }
        Ok(())
    }
}
