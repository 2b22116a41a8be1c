//! What sessions were judged by, as numbers: whether any of it changed since is a comparison.
//!
//! A host-wide epoch says that something changed; finer counters say what. A session keeps the epoch at which it was last known to be valid,
//! and the sum of the counters it depends on. While the epoch is the same nothing is looked at. When it is not, the sum is made again: every counter only
//! grows, so an equal sum means that none of them changed, and the session takes the new epoch. (Counters wrap at 2^32; it would take as many changes between
//! two packets of one session to deceive it.)
//!
//! # Order
//!
//! A control thread first makes a change visible, then calls [`Generations::port_changed`] or one of its siblings, which bump epoch, counter and epoch. A
//! worker reads the epoch, then takes up tables, judges, sums ([`Stamp`]) and reads the epoch again. If it is the same, no counter in the sum counted a change
//! that the worker did not see: the counter's change comes after one of the epoch's. If it is not, what was created is to be judged again.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

/// Ports that are told apart.
const PORTS: usize = 1 << 15;
/// Addresses that are told apart; others share a counter, and are judged once more than needed.
const SLOTS: usize = 1 << 16;

/// See the module's documentation. Clones are of the same.
#[derive(Clone, Debug)]
pub struct Generations(Arc<Counters>);

#[derive(Debug)]
struct Counters {
    epoch: AtomicU32,
    network: AtomicU32,
    ports: Box<[AtomicU32]>,
    slots: Box<[AtomicU32]>,
}

impl Default for Generations {
    fn default() -> Self {
        let counters = |count| (0..count).map(|_| AtomicU32::new(0)).collect();
        Self(Arc::new(Counters {
            epoch: AtomicU32::new(1),
            network: AtomicU32::new(0),
            ports: counters(PORTS),
            slots: counters(SLOTS),
        }))
    }
}

impl Generations {
    /// The host-wide epoch.
    #[inline(always)]
    pub fn epoch(&self) -> u32 {
        self.0.epoch.load(Acquire)
    }

    /// The policy of a port, or whether it has one, changed.
    pub fn port_changed(&self, port: u16) {
        self.changed(self.0.ports.get(usize::from(port)));
    }

    /// Who has `address` in `vpc`, or in which groups it is, changed.
    pub fn address_changed(&self, vpc: u16, address: IpAddr) {
        self.changed(self.0.slots.get(slot_of(vpc, address)));
    }

    /// Where frames to a MAC address go changed.
    pub fn mac_changed(&self, mac: u64) {
        self.changed(self.0.slots.get(slot_of_mac(mac)));
    }

    /// VPCs, subnets, routes, tunnels or the groups of whole networks changed.
    pub fn network_changed(&self) {
        self.changed(Some(&self.0.network));
    }

    fn changed(&self, counter: Option<&AtomicU32>) {
        self.0.epoch.fetch_add(1, AcqRel);
        if let Some(counter) = counter {
            counter.fetch_add(1, AcqRel);
        }
        self.0.epoch.fetch_add(1, AcqRel);
    }

    /// The beginning of a sum: what every session depends on.
    #[inline]
    pub fn stamp(&self) -> Stamp<'_> {
        Stamp { counters: &self.0, sum: self.0.network.load(Acquire) }
    }
}

/// The sum of the counters that a session depends on.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'g> {
    counters: &'g Counters,
    sum: u32,
}

impl Stamp<'_> {
    /// Depends on a port's policy.
    #[inline]
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        self.plus(self.counters.ports.get(usize::from(port)))
    }

    /// Depends on an address of a VPC.
    #[inline]
    #[must_use]
    pub fn address(self, vpc: u16, address: IpAddr) -> Self {
        self.plus(self.counters.slots.get(slot_of(vpc, address)))
    }

    /// Depends on where a MAC address is.
    #[inline]
    #[must_use]
    pub fn mac(self, mac: u64) -> Self {
        self.plus(self.counters.slots.get(slot_of_mac(mac)))
    }

    /// The sum.
    #[inline]
    pub fn sum(self) -> u32 {
        self.sum
    }

    #[inline]
    fn plus(mut self, counter: Option<&AtomicU32>) -> Self {
        self.sum = self.sum.wrapping_add(counter.map_or(0, |counter| counter.load(Acquire)));
        self
    }
}

/// Multiplier of Fibonacci hashing (Knuth, The Art of Computer Programming 3, section 6.4). The hash needs no secret: who finds addresses that share
/// a counter makes their sessions be judged once more.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

#[inline]
fn slot_of(vpc: u16, address: IpAddr) -> usize {
    let word = match address {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            ((bits >> 64) as u64).wrapping_mul(GOLDEN).rotate_left(29) ^ bits as u64
        }
    };
    slot(word ^ (u64::from(vpc) << 33))
}

#[inline]
fn slot_of_mac(mac: u64) -> usize {
    slot(mac | 1 << 63)
}

#[inline]
fn slot(word: u64) -> usize {
    (word.wrapping_mul(GOLDEN) >> 48) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_changes_with_what_it_depends_on_and_with_nothing_else() {
        let generations = Generations::default();
        let address = |last| IpAddr::from([10, 0, 0, last]);
        let sum = || generations.stamp().port(3).address(7, address(1)).mac(0x0200_0000_0001).sum();
        let (before, epoch) = (sum(), generations.epoch());
        generations.port_changed(4);
        generations.address_changed(7, address(2));
        generations.mac_changed(0x0200_0000_0002);
        assert_eq!(sum(), before);
        assert_ne!(generations.epoch(), epoch);
        let changes: [&dyn Fn(); 4] = [
            &|| generations.port_changed(3),
            &|| generations.address_changed(7, address(1)),
            &|| generations.mac_changed(0x0200_0000_0001),
            &|| generations.network_changed(),
        ];
        for change in changes {
            let (before, epoch) = (sum(), generations.epoch());
            change();
            assert_ne!(sum(), before);
            assert_ne!(generations.epoch(), epoch);
        }
    }

    #[test]
    fn addresses_of_a_network_spread_over_the_counters() {
        let used: std::collections::BTreeSet<usize> =
            (0..4096u32).map(|host| slot_of(1, IpAddr::from((0x0a00_0000 + host).to_be_bytes()))).collect();
        assert!(used.len() > 3800, "{}", used.len());
    }
}
