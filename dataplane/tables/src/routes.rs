//! Longest prefix match: which route of a VPC an address takes. How it is looked up is told in `ranges.rs`.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::location::NextHop;
use crate::prefixes::{Numbered, Prefixes};
use crate::table::BATCH;

/// The routes of one VPC and route table, of both families. Immutable: a change makes a new one.
#[derive(Clone, Debug)]
pub struct RouteTable {
    /// What the prefixes say, by number; 0 is no route.
    hops: Vec<Option<NextHop>>,
    prefixes: Prefixes,
}

impl Default for RouteTable {
    fn default() -> Self {
        Self::build([])
    }
}

/// In order. Of equal prefixes only the last one is left.
fn sorted<A: Ord + Copy>(mut routes: Vec<Numbered<A>>) -> Vec<Numbered<A>> {
    routes.reverse();
    routes.sort_by_key(|(address, length, _)| (*address, *length));
    routes.dedup_by_key(|(address, length, _)| (*address, *length));
    routes
}

impl RouteTable {
    /// A table of these routes. Bits beyond a prefix's length are ignored; of two routes with the same prefix the last one counts.
    #[must_use]
    pub fn build(routes: impl IntoIterator<Item = (IpNet, NextHop)>) -> Self {
        let mut hops = vec![None];
        let mut numbers = HashMap::new();
        let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
        for (prefix, hop) in routes {
            let number = *numbers.entry(hop).or_insert_with(|| {
                hops.push(Some(hop));
                hops.len() as u32 - 1
            });
            match prefix.trunc() {
                IpNet::V4(net) => ipv4.push((net.network(), net.prefix_len(), number)),
                IpNet::V6(net) => ipv6.push((net.network(), net.prefix_len(), number)),
            }
        }
        Self { hops, prefixes: Prefixes::build(&sorted(ipv4), &sorted(ipv6), 0) }
    }

    /// The route with the longest prefix that `address` is in.
    #[inline]
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<NextHop> {
        self.hop(self.prefixes.find(address))
    }

    /// The hop of this number.
    #[inline(always)]
    fn hop(&self, number: u32) -> Option<NextHop> {
        self.hops.get(number as usize).copied().flatten()
    }

    /// The same for many, to the same positions of `out`; positions that only one of them has are left alone. What the look-ups
    /// read is asked for 32 at a time.
    pub fn lookup_batch(&self, addresses: &[IpAddr], out: &mut [Option<NextHop>]) {
        for (addresses, out) in addresses.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            let mut numbers = [0; BATCH];
            self.prefixes.find_batch(addresses, &mut numbers);
            for (number, out) in numbers.iter().zip(out) {
                *out = self.hop(*number);
            }
        }
    }

    /// Bytes it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&self.hops) + size_of_val(self.hops.as_slice()) + self.prefixes.memory_bytes()
    }
}
