//! Longest prefix match for addresses of both families, to numbers. How it is looked up is told in `ranges.rs`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::ranges::{Entry, Ranges, Sweep};
use crate::table::BATCH;

/// In what a range of upper halves of IPv6 addresses says: the lower half decides, in the set of this number. No result has it.
const LOWER: u32 = 1 << 31;

/// Prefixes and their results, numbers below 2^31. Immutable.
#[derive(Clone, Debug)]
pub(crate) struct Prefixes {
    ipv4: Ranges<u32, 8>,
    ipv4_root: Entry,
    /// Of upper halves, and for each upper half with longer prefixes one of lower halves.
    ipv6: Ranges<u64, 8>,
    ipv6_root: Entry,
    lower: Vec<Entry>,
}

/// A prefix: its first address, its length, and its result.
pub(crate) type Numbered<A> = (A, u8, u32);

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

impl Prefixes {
    /// These prefixes, each in order of addresses and then lengths, no two the same. Where there is none the result is `otherwise`.
    pub(crate) fn build(ipv4: &[Numbered<Ipv4Addr>], ipv6: &[Numbered<Ipv6Addr>], otherwise: u32) -> Self {
        let mut table = Self {
            ipv4: Ranges::default(),
            ipv4_root: 0,
            ipv6: Ranges::default(),
            ipv6_root: 0,
            lower: Vec::new(),
        };
        table.build_ipv4(ipv4, otherwise);
        table.build_ipv6(ipv6, otherwise);
        table
    }

    fn build_ipv4(&mut self, prefixes: &[Numbered<Ipv4Addr>], otherwise: u32) {
        let mut sweep = Sweep::new(otherwise);
        for (address, length, number) in prefixes {
            let last = Ipv4Net::new(*address, *length).map_or(*address, |net| net.broadcast());
            sweep.push(address.to_bits(), last.to_bits(), *number);
        }
        self.ipv4_root = self.ipv4.add(&sweep.finish());
        self.ipv4.finish();
    }

    fn build_ipv6(&mut self, prefixes: &[Numbered<Ipv6Addr>], otherwise: u32) {
        let last_of = |address, length| Ipv6Net::new(address, length).map_or(address, |net| net.broadcast());
        let mut sweep = Sweep::new(otherwise);
        // The prefixes of one upper half are neighbours, and so are, behind the shorter ones, its longer ones.
        for prefixes in
            prefixes.chunk_by(|one, other| (upper(one.0), one.1 > 64) == (upper(other.0), other.1 > 64))
        {
            let Some((start, length, _)) = prefixes.first() else { continue };
            if *length <= 64 {
                for (address, length, number) in prefixes {
                    sweep.push(upper(*address), upper(last_of(*address, *length)), *number);
                }
                continue;
            }
            let mut lower_sweep = Sweep::new(sweep.at(upper(*start)));
            for (address, length, number) in prefixes {
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

    /// The result of the longest prefix that `address` is in.
    #[inline(always)]
    pub(crate) fn find(&self, address: IpAddr) -> u32 {
        match address {
            IpAddr::V4(v4) => self.ipv4.find(self.ipv4_root, v4.to_bits()),
            IpAddr::V6(v6) => {
                let number = self.ipv6.find(self.ipv6_root, upper(v6));
                if number & LOWER == 0 { number } else { self.find_lower(number, lower(v6)) }
            }
        }
    }

    #[inline(always)]
    fn find_lower(&self, number: u32, lower: u64) -> u32 {
        self.lower.get((number & !LOWER) as usize).map_or(0, |entry| self.ipv6.find(*entry, lower))
    }

    /// The same for up to [`BATCH`] addresses, to the same positions. What the look-ups read is asked for before.
    #[inline(always)]
    pub(crate) fn find_batch(&self, addresses: &[IpAddr], numbers: &mut [u32; BATCH]) {
        let mut entries: [Entry; BATCH] = [0; BATCH];
        self.step_all(addresses, &mut entries);
        let mut all = 0;
        for ((number, entry), address) in numbers.iter_mut().zip(&entries).zip(addresses) {
            *number = match address {
                IpAddr::V4(v4) => self.ipv4.find(*entry, v4.to_bits()),
                IpAddr::V6(v6) => self.ipv6.find(*entry, upper(*v6)),
            };
            all |= *number;
        }
        if all & LOWER != 0 {
            self.find_lower_halves(addresses, numbers);
        }
    }

    /// The same for IPv4 addresses only.
    #[inline(always)]
    pub(crate) fn find_ipv4_batch(&self, addresses: &[u32], numbers: &mut [u32; BATCH]) {
        for address in addresses {
            self.ipv4.prefetch_step(self.ipv4_root, *address);
        }
        for (entry, address) in numbers.iter_mut().zip(addresses) {
            *entry = self.ipv4.step(self.ipv4_root, *address);
            self.ipv4.prefetch_find(*entry);
        }
        for (number, address) in numbers.iter_mut().zip(addresses) {
            *number = self.ipv4.find(*number, *address);
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

    /// Bytes it takes, itself included.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + size_of_val(self.lower.as_slice())
            + self.ipv4.memory_bytes()
            + self.ipv6.memory_bytes()
    }
}
