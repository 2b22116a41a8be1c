//! Longest prefix match: which route of a VPC an address takes.

use std::net::IpAddr;

use crate::location::NextHop;
use ipnet::IpNet;

/// The routes of one VPC and route table, of both families. Immutable: a change makes a new one.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    routes: Vec<(IpNet, NextHop)>,
}

impl RouteTable {
    /// A table of these routes. Bits beyond a prefix's length are ignored; of two routes with the same prefix the last one counts.
    #[must_use]
    pub fn build(routes: impl IntoIterator<Item = (IpNet, NextHop)>) -> Self {
        let mut routes: Vec<_> = routes.into_iter().collect();
        routes.reverse();
        routes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.prefix_len()));
        Self { routes }
    }

    /// The route with the longest prefix that `address` is in.
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<NextHop> {
        self.routes.iter().find(|(prefix, _)| prefix.contains(&address)).map(|(_, hop)| *hop)
    }

    /// The same for many, to the same positions of `out`; positions that only one of them has are left alone.
    pub fn lookup_batch(&self, addresses: &[IpAddr], out: &mut [Option<NextHop>]) {
        for (address, out) in addresses.iter().zip(out) {
            *out = self.lookup(*address);
        }
    }

    /// Bytes it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of_val(self.routes.as_slice()) + size_of::<Self>()
    }
}
