//! Prefixes as addresses with a mark, and which lengths there are.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The first `length` bits of an address, then a one, then zeroes; the address itself if it has no more bits. No two prefixes shorter than an address are the same.
#[inline(always)]
pub(super) fn marked(address: IpAddr, length: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) if length < 32 => {
            let mark = 1 << (31 - length);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & !(mark | (mark - 1)) | mark))
        }
        IpAddr::V6(v6) if length < 128 => {
            let mark = 1 << (127 - length);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !(mark | (mark - 1)) | mark))
        }
        whole => whole,
    }
}

/// The same for a prefix.
pub(super) fn marked_prefix(prefix: IpNet) -> IpAddr {
    marked(prefix.addr(), prefix.prefix_len().into())
}

/// Lengths that prefixes have, as bits, by VPC and version of IP, in order; those of single addresses not among them.
#[derive(Clone, Debug, Default)]
pub(super) struct Lengths(Vec<((u16, bool), u128)>);

impl Lengths {
    /// The lengths that prefixes of `vpc` have in the version of IP of `address`.
    #[inline]
    pub(super) fn of(&self, vpc: u16, address: IpAddr) -> impl Iterator<Item = u32> + use<> {
        let mut bits = if self.0.is_empty() { 0 } else { self.bits((vpc, address.is_ipv6())) };
        std::iter::from_fn(move || {
            let length = (bits != 0).then(|| bits.trailing_zeros());
            bits &= bits.wrapping_sub(1);
            length
        })
    }

    fn bits(&self, key: (u16, bool)) -> u128 {
        let at = self.0.binary_search_by_key(&key, |(key, _)| *key);
        at.ok().and_then(|at| self.0.get(at)).map_or(0, |(_, bits)| *bits)
    }

    fn set(&mut self, key: (u16, bool), bits: u128) {
        match self.0.binary_search_by_key(&key, |(key, _)| *key) {
            Ok(at) if bits == 0 => drop(self.0.remove(at)),
            Ok(at) => self.0[at].1 = bits,
            Err(at) if bits != 0 => self.0.insert(at, (key, bits)),
            Err(_) => {}
        }
    }
}

/// How many prefixes there are of each length, by VPC and version of IP: the writer's part.
#[derive(Debug, Default)]
pub(super) struct LengthCounts(HashMap<(u16, bool, u8), u32>);

impl LengthCounts {
    /// One more prefix. Its length may be new: then what readers see changes as well.
    ///
    /// # Errors
    ///
    /// If there would be more lengths than `most`. Nothing is changed then.
    pub(super) fn add(
        &mut self,
        vpc: u16,
        prefix: IpNet,
        seen: &Lengths,
        most: usize,
    ) -> Result<Option<Lengths>, ()> {
        let (ipv6, length) = (prefix.addr().is_ipv6(), prefix.prefix_len());
        let (bits, bit) = (seen.bits((vpc, ipv6)), 1 << length);
        if bits & bit == 0 && bits.count_ones() as usize >= most {
            return Err(());
        }
        *self.0.entry((vpc, ipv6, length)).or_default() += 1;
        Ok((bits & bit == 0).then(|| {
            let mut changed = seen.clone();
            changed.set((vpc, ipv6), bits | bit);
            changed
        }))
    }

    /// One fewer. Perhaps the last of its length.
    pub(super) fn remove(&mut self, vpc: u16, prefix: IpNet, seen: &Lengths) -> Option<Lengths> {
        let (ipv6, length) = (prefix.addr().is_ipv6(), prefix.prefix_len());
        let count = self.0.get_mut(&(vpc, ipv6, length))?;
        *count -= 1;
        if *count > 0 {
            return None;
        }
        self.0.remove(&(vpc, ipv6, length));
        let mut changed = seen.clone();
        changed.set((vpc, ipv6), seen.bits((vpc, ipv6)) & !(1 << length));
        Some(changed)
    }
}
