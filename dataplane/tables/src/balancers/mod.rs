//! Load balancers: which target takes a connection to an address that stands for many.
//!
//! [`Balancers`] is one immutable snapshot, published whole, and looked at for first packets alone: a connection stays with its target by its session. Each
//! balancer has a table of consistent hashing ([`maglev`]) over its targets that are up, so that hosts agree without speaking to each other, and a target
//! that goes takes its own connections with it and next to none of the others'.

mod maglev;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Targets that a balancer may have.
pub const MOST_TARGETS: usize = 128;

/// A port of the shared address, and that of the targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Listener {
    /// IP protocol: TCP or UDP.
    pub protocol: u8,
    /// The port that clients use.
    pub port: u16,
    /// The port that targets are asked at.
    pub target_port: u16,
}

/// Who takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its address, of the shared address's family.
    pub address: IpAddr,
    /// Its share of new connections, among the weights of all. 0: none, but it keeps those that it has.
    pub weight: u16,
    /// Whether it lives. If not, it loses its connections too.
    pub up: bool,
}

/// What decides which target a connection goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Affinity {
    /// Addresses, ports and protocol.
    #[default]
    None,
    /// The client's address alone.
    ClientIp,
}

/// What becomes of connections when no target is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WhenAllDown {
    /// They are refused.
    #[default]
    Refuse,
    /// They go to all targets, as if all were up.
    Spread,
}

/// What a balancer is to be.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct BalancerPlan {
    /// No two of one protocol and port.
    pub listeners: Vec<Listener>,
    /// At most [`MOST_TARGETS`]; those beyond are left out. No two of one address.
    pub targets: Vec<Target>,
    /// See [`Affinity`].
    pub affinity: Affinity,
    /// See [`WhenAllDown`].
    pub when_all_down: WhenAllDown,
}

/// A first packet, as a balancer tells connections apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Who asks.
    pub address: IpAddr,
    /// IP protocol.
    pub protocol: u8,
    /// Source and destination port.
    pub ports: [u16; 2],
}

/// One balancer, ready to choose.
#[derive(Clone, Debug)]
pub struct Balancer {
    plan: BalancerPlan,
    slots: Box<[u8]>,
    /// Whether targets that are down count as up.
    spread: bool,
    chosen: Vec<Arc<AtomicU64>>,
}

impl Balancer {
    fn new(mut plan: BalancerPlan, before: Option<&Self>) -> Self {
        // Every host has them in the same order.
        plan.targets.sort_by_key(|target| target.address);
        plan.targets.dedup_by_key(|target| target.address);
        plan.targets.truncate(MOST_TARGETS);
        let spread =
            plan.when_all_down == WhenAllDown::Spread && plan.targets.iter().all(|target| !target.up);
        let live = (0u8..).zip(&plan.targets).filter(|(_, target)| target.up || spread);
        let slots = maglev::table(live.map(|(number, target)| (number, target.address, target.weight)));
        let chosen = plan.targets.iter().map(|target| {
            let before = before.and_then(|before| before.counter(target.address));
            before.cloned().unwrap_or_default()
        });
        Self { slots, spread, chosen: chosen.collect(), plan }
    }

    fn position(&self, address: IpAddr) -> Option<usize> {
        self.plan.targets.binary_search_by_key(&address, |target| target.address).ok()
    }

    fn counter(&self, address: IpAddr) -> Option<&Arc<AtomicU64>> {
        self.chosen.get(self.position(address)?)
    }

    /// What it was made from, targets in the order of their addresses.
    pub fn plan(&self) -> &BalancerPlan {
        &self.plan
    }

    /// Connections that a target was given.
    pub fn connections(&self, target: IpAddr) -> u64 {
        self.counter(target).map_or(0, |count| count.load(Relaxed))
    }

    /// The port that targets are asked at; `None` where nothing listens.
    pub fn target_port(&self, protocol: u8, port: u16) -> Option<u16> {
        let is_it = |listener: &&Listener| (listener.protocol, listener.port) == (protocol, port);
        self.plan.listeners.iter().find(is_it).map(|listener| listener.target_port)
    }

    /// The target of a client's connection. `None` where none is up, or all have weight 0.
    pub fn choose(&self, client: &Client) -> Option<IpAddr> {
        let hash = match self.plan.affinity {
            Affinity::ClientIp => maglev::hash_address(3, client.address),
            Affinity::None => {
                let [source, destination] = client.ports.map(u64::from);
                let seed = u64::from(client.protocol) << 32 | source << 16 | destination;
                maglev::hash_address(maglev::mix(seed), client.address)
            }
        };
        // Of the upper bits: (hash * slots) >> 64.
        let slot = (u128::from(hash) * maglev::SLOTS as u128) >> 64;
        let target = *self.slots.get(slot as usize)?;
        self.plan.targets.get(usize::from(target)).map(|target| target.address)
    }

    /// Says that a connection was given to a target.
    pub fn count(&self, target: IpAddr) {
        if let Some(count) = self.counter(target) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Whether connections that a target has stay with it, at that port of it.
    pub fn keeps(&self, protocol: u8, port: u16, (target, target_port): (IpAddr, u16)) -> bool {
        self.target_port(protocol, port) == Some(target_port)
            && self
                .position(target)
                .and_then(|at| self.plan.targets.get(at))
                .is_some_and(|target| target.up || self.spread)
    }
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Balancers {
    of: HashMap<(u16, IpAddr), Arc<Balancer>>,
    /// How many each VPC has, by number.
    count: Vec<u32>,
}

impl Balancers {
    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Whether a VPC has any.
    #[inline]
    pub fn any_in(&self, vpc: u16) -> bool {
        self.count.get(usize::from(vpc)).is_some_and(|count| *count > 0)
    }

    /// The balancer at an address of a VPC.
    #[inline]
    pub fn get(&self, vpc: u16, address: IpAddr) -> Option<&Balancer> {
        if !self.any_in(vpc) {
            return None;
        }
        self.of.get(&(vpc, address)).map(|balancer| &**balancer)
    }

    /// All, with VPC and address, in no order.
    pub fn iter(&self) -> impl Iterator<Item = ((u16, IpAddr), &Balancer)> {
        self.of.iter().map(|(key, balancer)| (*key, &**balancer))
    }

    /// Puts a balancer at an address of a VPC, or takes it away. Counts of targets that stay go on.
    pub fn set(&mut self, vpc: u16, address: IpAddr, plan: Option<BalancerPlan>) {
        let at = usize::from(vpc);
        if self.count.len() <= at {
            self.count.resize(at + 1, 0);
        }
        let before = self.of.remove(&(vpc, address));
        let now = u32::from(plan.is_some());
        if let Some(count) = self.count.get_mut(at) {
            *count = *count + now - u32::from(before.is_some());
        }
        if let Some(plan) = plan {
            self.of.insert((vpc, address), Arc::new(Balancer::new(plan, before.as_deref())));
        }
    }
}
