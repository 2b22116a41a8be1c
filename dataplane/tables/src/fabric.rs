//! What the underlay says, as numbers of this host: the tunnel address a packet came from, the VNI it carries.

use std::net::IpAddr;
use std::time::Duration;

use packet::MacAddr;

use crate::endpoints::{EndpointReader, EndpointWriter};
use crate::location::{Endpoint, Location};
use crate::mac::MacLine;
use crate::table::{TableReader, Writer};

/// The writer's half of the table of remote tunnel addresses (VTEPs), for one control thread.
///
/// An endpoint table of one VPC: the locations are the tunnels themselves.
pub struct VtepWriter(EndpointWriter);

impl VtepWriter {
    /// An empty table. `secret` keys its hashes: random, and not for the fabric to know.
    #[must_use]
    pub fn new(secret: [u64; 2]) -> Self {
        Self(EndpointWriter::new(secret))
    }

    /// A reader's half, for one worker.
    #[must_use]
    pub fn reader(&self) -> VtepReader {
        VtepReader(self.0.reader())
    }

    /// From now on packets from `address` come from `vtep`; returns where they came from.
    pub fn insert(&mut self, address: IpAddr, vtep: u16) -> Option<u16> {
        let endpoint = Endpoint { mac: MacAddr::ZERO, subnet: 0, location: Location::Remote(vtep) };
        number(self.0.insert(0, address, endpoint))
    }

    /// The number of `address`.
    #[must_use]
    pub fn get(&self, address: IpAddr) -> Option<u16> {
        number(self.0.get(0, address))
    }

    /// From now on `address` is unknown; returns its number.
    pub fn remove(&mut self, address: IpAddr) -> Option<u16> {
        number(self.0.remove(0, address))
    }

    /// Addresses in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// No address is in the table.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As [`EndpointWriter::reclaim`].
    pub fn reclaim(&mut self) -> usize {
        self.0.reclaim()
    }

    /// As [`EndpointWriter::synchronize`].
    pub fn synchronize(&mut self, limit: Duration) -> bool {
        self.0.synchronize(limit)
    }
}

#[inline(always)]
fn number(endpoint: Option<Endpoint>) -> Option<u16> {
    match endpoint?.location {
        Location::Remote(vtep) => Some(vtep),
        Location::Local(_) | Location::Directory(_) => None,
    }
}

/// A reader's half of the table of remote tunnel addresses, for one worker.
#[derive(Clone)]
pub struct VtepReader(EndpointReader);

impl VtepReader {
    /// Takes up a table that has grown. Once per burst: two loads when none has.
    #[inline(always)]
    pub fn refresh(&mut self) -> bool {
        self.0.refresh()
    }

    /// Says that this reader looks at nothing until it refreshes again.
    pub fn off_line(&mut self) {
        self.0.off_line();
    }

    /// The number of the tunnel address `address`.
    #[inline]
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<u16> {
        number(self.0.lookup(0, address))
    }
}

/// Set in every key, so that VNI 0 is one.
const KEY: u64 = 1 << 63;

/// The writer's half of the table of VXLAN network identifiers (RFC 7348), for one control thread.
pub struct VniWriter(Writer<MacLine>);

impl VniWriter {
    /// An empty table. `secret` keys its hash: random, and not for the fabric to know.
    #[must_use]
    pub fn new(secret: [u64; 2]) -> Self {
        Self(Writer::new(secret))
    }

    /// A reader's half, for one worker.
    #[must_use]
    pub fn reader(&self) -> VniReader {
        VniReader(self.0.reader())
    }

    /// From now on `vni`, a number below 2^24, is that of `vpc`; returns whose it was.
    pub fn insert(&mut self, vni: u32, vpc: u16) -> Option<u16> {
        self.0.insert(KEY | u64::from(vni), vpc.into()).map(|vpc| vpc as u16)
    }

    /// The VPC of `vni`.
    #[must_use]
    pub fn get(&self, vni: u32) -> Option<u16> {
        self.0.get(KEY | u64::from(vni)).map(|vpc| vpc as u16)
    }

    /// From now on `vni` is nobody's; returns whose it was.
    pub fn remove(&mut self, vni: u32) -> Option<u16> {
        self.0.remove(KEY | u64::from(vni)).map(|vpc| vpc as u16)
    }

    /// Identifiers in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// No identifier is in the table.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As [`EndpointWriter::reclaim`].
    pub fn reclaim(&mut self) -> usize {
        self.0.reclaim()
    }

    /// As [`EndpointWriter::synchronize`].
    pub fn synchronize(&mut self, limit: Duration) -> bool {
        self.0.synchronize(limit)
    }
}

/// A reader's half of the table of VXLAN network identifiers, for one worker.
#[derive(Clone)]
pub struct VniReader(TableReader<MacLine>);

impl VniReader {
    /// Takes up a table that has grown. Once per burst: one load when it has not.
    #[inline(always)]
    pub fn refresh(&mut self) -> bool {
        self.0.refresh()
    }

    /// Says that this reader looks at nothing until it refreshes again.
    pub fn off_line(&mut self) {
        self.0.off_line();
    }

    /// The VPC, by its number on this host, whose packets carry `vni`.
    #[inline]
    #[must_use]
    pub fn lookup(&self, vni: u32) -> Option<u16> {
        self.0.lookup(KEY | u64::from(vni)).map(|vpc| vpc as u16)
    }
}
