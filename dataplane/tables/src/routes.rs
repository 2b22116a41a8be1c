//! Longest prefix match: which route of a VPC an address takes. How it is looked up is told in `ranges.rs`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::location::NextHop;
use crate::ranges::{Entry, Ranges, Sweep};
use crate::table::BATCH;

/// In what a range of upper halves of IPv6 addresses says: the lower half decides, in the set of this number.
const LOWER: u32 = 1 << 31;

/// The routes of one VPC and route table, of both families. Immutable: a change makes a new one.
#[derive(Clone, Debug)]
pub struct RouteTable {
    /// What the ranges say, by number; 0 is no route.
    hops: Vec<Option<NextHop>>,
    ipv4: Ranges<u32, 8>,
    ipv4_root: Entry,
    /// Of upper halves, and for each upper half with longer prefixes one of lower halves.
    ipv6: Ranges<u64, 8>,
    ipv6_root: Entry,
    lower: Vec<Entry>,
}

impl Default for RouteTable {
    fn default() -> Self {
        Self::build([])
    }
}

/// A prefix, its length, and the number of its hop.
type Numbered<A> = Vec<(A, u8, u32)>;

/// In the order a [`Sweep`] wants them. Of equal prefixes only the last one is left.
fn sorted<A: Ord + Copy>(mut routes: Numbered<A>) -> Numbered<A> {
    routes.reverse();
    routes.sort_by_key(|(address, length, _)| (*address, *length));
    routes.dedup_by_key(|(address, length, _)| (*address, *length));
    routes
}

/// The upper half of an IPv6 address.
#[inline(always)]
fn upper(address: Ipv6Addr) -> u64 {
    (address.to_bits() >> 64) as u64
}

/// The lower half.
#[inline(always)]
fn lower(address: Ipv6Addr) -> u64 {
    address.to_bits() as u64
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
        let mut table = Self {
            hops,
            ipv4: Ranges::default(),
            ipv4_root: 0,
            ipv6: Ranges::default(),
            ipv6_root: 0,
            lower: Vec::new(),
        };
        table.build_ipv4(sorted(ipv4));
        table.build_ipv6(&sorted(ipv6));
        table
    }

    fn build_ipv4(&mut self, routes: Numbered<Ipv4Addr>) {
        let mut sweep = Sweep::new(0);
        for (address, length, number) in routes {
            let last = Ipv4Net::new(address, length).map_or(address, |net| net.broadcast());
            sweep.push(address.to_bits(), last.to_bits(), number);
        }
        self.ipv4_root = self.ipv4.add(&sweep.finish());
        self.ipv4.finish();
    }

    fn build_ipv6(&mut self, routes: &[(Ipv6Addr, u8, u32)]) {
        let last_of = |address, length| Ipv6Net::new(address, length).map_or(address, |net| net.broadcast());
        let mut sweep = Sweep::new(0);
        // The routes of one upper half are neighbours, and so are, behind the shorter ones, its longer ones.
        for routes in
            routes.chunk_by(|one, other| (upper(one.0), one.1 > 64) == (upper(other.0), other.1 > 64))
        {
            let Some((start, length, _)) = routes.first() else { continue };
            if *length <= 64 {
                for (address, length, number) in routes {
                    sweep.push(upper(*address), upper(last_of(*address, *length)), *number);
                }
                continue;
            }
            let mut lower_sweep = Sweep::new(sweep.at(upper(*start)));
            for (address, length, number) in routes {
                lower_sweep.push(lower(*address), lower(last_of(*address, *length)), *number);
            }
            let entry = self.ipv6.add(&lower_sweep.finish());
            sweep.push(upper(*start), upper(*start), LOWER | self.lower.len() as u32);
            self.lower.push(entry);
        }
        self.ipv6_root = self.ipv6.add(&sweep.finish());
        self.ipv6.finish();
        self.lower.shrink_to_fit();
    }

    /// The route with the longest prefix that `address` is in.
    #[inline]
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<NextHop> {
        match address {
            IpAddr::V4(v4) => self.hop(self.ipv4.find(self.ipv4_root, v4.to_bits())),
            IpAddr::V6(v6) => self.find_ipv6(self.ipv6_root, v6),
        }
    }

    /// The hop of this number.
    #[inline(always)]
    fn hop(&self, number: u32) -> Option<NextHop> {
        self.hops.get(number as usize).copied().flatten()
    }

    #[inline(always)]
    fn find_ipv6(&self, entry: Entry, address: Ipv6Addr) -> Option<NextHop> {
        let mut number = self.ipv6.find(entry, upper(address));
        if number & LOWER != 0 {
            let entry = self.lower.get((number & !LOWER) as usize)?;
            number = self.ipv6.find(*entry, lower(address));
        }
        self.hop(number)
    }

    /// The same for many, to the same positions of `out`; positions that only one of them has are left alone. What the look-ups
    /// read is asked for 32 at a time.
    pub fn lookup_batch(&self, addresses: &[IpAddr], out: &mut [Option<NextHop>]) {
        for (addresses, out) in addresses.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            let mut entries: [Entry; BATCH] = [0; BATCH];
            self.step_all(addresses, &mut entries);
            let mut numbers = [0; BATCH];
            let mut all = 0;
            for ((number, entry), address) in numbers.iter_mut().zip(&entries).zip(addresses) {
                *number = match address {
                    IpAddr::V4(v4) => self.ipv4.find(*entry, v4.to_bits()),
                    IpAddr::V6(v6) => self.ipv6.find(*entry, upper(*v6)),
                };
                all |= *number;
            }
            if all & LOWER != 0 {
                self.find_lower_halves(addresses, &mut numbers);
            }
            for (number, out) in numbers.iter().zip(out) {
                *out = self.hop(*number);
            }
        }
    }

    /// The entries of the roots for these addresses.
    #[inline(always)]
    fn step_all(&self, addresses: &[IpAddr], entries: &mut [Entry; BATCH]) {
        for address in addresses {
            match address {
                IpAddr::V4(v4) => self.ipv4.prefetch_step(self.ipv4_root, v4.to_bits()),
                IpAddr::V6(v6) => self.ipv6.prefetch_step(self.ipv6_root, upper(*v6)),
            }
        }
        for (entry, address) in entries.iter_mut().zip(addresses) {
            match address {
                IpAddr::V4(v4) => {
                    *entry = self.ipv4.step(self.ipv4_root, v4.to_bits());
                    self.ipv4.prefetch_find(*entry);
                }
                IpAddr::V6(v6) => {
                    *entry = self.ipv6.step(self.ipv6_root, upper(*v6));
                    self.ipv6.prefetch_find(*entry);
                }
            }
        }
    }

    /// Replaces each number with [`LOWER`] in it by what the address' lower half says.
    #[inline(never)]
    fn find_lower_halves(&self, addresses: &[IpAddr], numbers: &mut [u32; BATCH]) {
        let mut found: [(usize, Entry, u64); BATCH] = [(0, 0, 0); BATCH];
        let mut count = 0;
        for ((position, number), address) in numbers.iter().enumerate().zip(addresses) {
            if let (IpAddr::V6(v6), true) = (address, number & LOWER != 0)
                && let (Some(to), Some(entry)) =
                    (found.get_mut(count), self.lower.get((number & !LOWER) as usize))
            {
                *to = (position, *entry, lower(*v6));
                self.ipv6.prefetch_step(*entry, lower(*v6));
                count += 1;
            }
        }
        let found = found.get_mut(..count).unwrap_or_default();
        for (_, entry, word) in found.iter_mut() {
            *entry = self.ipv6.step(*entry, *word);
            self.ipv6.prefetch_find(*entry);
        }
        for (position, entry, word) in found {
            if let Some(number) = numbers.get_mut(*position) {
                *number = self.ipv6.find(*entry, *word);
            }
        }
    }

    /// Bytes it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + size_of_val(self.hops.as_slice())
            + size_of_val(self.lower.as_slice())
            + self.ipv4.memory_bytes()
            + self.ipv6.memory_bytes()
    }
}
