//! Who has an IP address of a VPC, at which MAC address, and where.

use std::net::IpAddr;
use std::time::Duration;

use crate::endpoint_line::{Ipv4Key, Ipv4Line, Ipv6Key, Ipv6Line};
use crate::location::Endpoint;
use crate::table::{BATCH, Pending, TableReader, Writer};

/// The key of either family.
enum Key {
    Ipv4(Ipv4Key),
    Ipv6(Ipv6Key),
}

#[inline(always)]
fn key(vpc: u16, address: IpAddr) -> Key {
    match address {
        IpAddr::V4(v4) => Key::Ipv4(Ipv4Key { vpc, address: v4.to_bits() }),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            Key::Ipv6(Ipv6Key { vpc, high: (bits >> 64) as u64, low: bits as u64 })
        }
    }
}

/// The writer's half of the endpoint table, for one control thread.
///
/// Keys are a VPC's number, below [`Endpoint::VPCS`], and an address. The families have tables of their own: ::10.0.0.1 is not
/// 10.0.0.1.
pub struct EndpointWriter {
    ipv4: Writer<Ipv4Line>,
    ipv6: Writer<Ipv6Line>,
}

impl EndpointWriter {
    /// An empty table. `secret` keys its hashes: random, and not for guests to know.
    #[must_use]
    pub fn new(secret: [u64; 2]) -> Self {
        let [first, second] = secret;
        Self { ipv4: Writer::new(secret), ipv6: Writer::new([first, !second]) }
    }

    /// A reader's half, for one worker.
    #[must_use]
    pub fn reader(&self) -> EndpointReader {
        EndpointReader { ipv4: self.ipv4.reader(), ipv6: self.ipv6.reader() }
    }

    /// Makes room for this many more addresses of each family at once, where insertions would by and by.
    pub fn reserve(&mut self, ipv4: usize, ipv6: usize) {
        self.ipv4.reserve(ipv4);
        self.ipv6.reserve(ipv6);
    }

    /// From now on `address` in `vpc` is what `endpoint` says; returns what it was. Readers see one or the other, never a
    /// mixture.
    ///
    /// No VPC has a number of [`Endpoint::VPCS`] or more, no subnet one of [`Endpoint::SUBNETS`] or more: with either, nothing is changed.
    pub fn insert(&mut self, vpc: u16, address: IpAddr, endpoint: Endpoint) -> Option<Endpoint> {
        let valid = vpc < Endpoint::VPCS && endpoint.subnet < Endpoint::SUBNETS;
        debug_assert!(valid, "not an entry: VPC {vpc}, {endpoint:?}");
        if !valid {
            return None;
        }
        match key(vpc, address) {
            Key::Ipv4(key) => self.ipv4.insert(key, endpoint),
            Key::Ipv6(key) => self.ipv6.insert(key, endpoint),
        }
    }

    /// Asks for the line that a change of `address` in `vpc` will write: before some changes in a row.
    #[inline]
    pub fn prefetch(&self, vpc: u16, address: IpAddr) {
        match key(vpc, address) {
            Key::Ipv4(key) => self.ipv4.prefetch(key),
            Key::Ipv6(key) => self.ipv6.prefetch(key),
        }
    }

    /// Who has `address` in `vpc`.
    #[must_use]
    pub fn get(&self, vpc: u16, address: IpAddr) -> Option<Endpoint> {
        match key(vpc, address) {
            Key::Ipv4(key) => self.ipv4.get(key),
            Key::Ipv6(key) => self.ipv6.get(key),
        }
    }

    /// From now on nobody has `address` in `vpc`; returns who had.
    pub fn remove(&mut self, vpc: u16, address: IpAddr) -> Option<Endpoint> {
        match key(vpc, address) {
            Key::Ipv4(key) => self.ipv4.remove(key),
            Key::Ipv6(key) => self.ipv6.remove(key),
        }
    }

    /// Addresses in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ipv4.len() + self.ipv6.len()
    }

    /// No address is in the table.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that readers of the present table look at. An outgrown one comes on top until they left it.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.ipv4.memory_bytes() + self.ipv6.memory_bytes()
    }

    /// Frees outgrown tables that no reader looks at any more; returns how many are still looked at.
    pub fn reclaim(&mut self) -> usize {
        self.ipv4.reclaim() + self.ipv6.reclaim()
    }

    /// Waits until no reader that is on line looks at an outgrown table; false after `limit`, which counts for each family.
    pub fn synchronize(&mut self, limit: Duration) -> bool {
        self.ipv4.synchronize(limit) & self.ipv6.synchronize(limit)
    }
}

/// A reader's half of the endpoint table, for one worker.
#[derive(Clone)]
pub struct EndpointReader {
    ipv4: TableReader<Ipv4Line>,
    ipv6: TableReader<Ipv6Line>,
}

impl EndpointReader {
    /// Takes up a table that has grown. Once per burst: two loads when none has.
    #[inline(always)]
    pub fn refresh(&mut self) -> bool {
        self.ipv4.refresh() | self.ipv6.refresh()
    }

    /// Whether no replaced table is left to be taken up.
    pub fn is_current(&self) -> bool {
        self.ipv4.is_current() && self.ipv6.is_current()
    }

    /// Says that this reader looks at nothing until it refreshes again.
    pub fn off_line(&mut self) {
        self.ipv4.off_line();
        self.ipv6.off_line();
    }

    /// Who has `address` in `vpc`. For many use [`EndpointReader::lookup_batch`].
    #[inline]
    #[must_use]
    pub fn lookup(&self, vpc: u16, address: IpAddr) -> Option<Endpoint> {
        match key(vpc, address) {
            Key::Ipv4(key) => self.ipv4.lookup(key),
            Key::Ipv6(key) => self.ipv6.lookup(key),
        }
    }

    /// The same for many (VPC, address) pairs at once, to the same positions of `out`; positions that only one of them has
    /// are left alone. Returns how many cache lines were read: at most two per key, none for a key equal to
    /// the one before it.
    pub fn lookup_batch(&self, keys: &[(u16, IpAddr)], out: &mut [Option<Endpoint>]) -> usize {
        let (ipv4, ipv6) = (self.ipv4.lines(), self.ipv6.lines());
        let mut lines_read = 0;
        for (keys, out) in keys.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            let firsts = self.prefetch(keys);
            let (mut last, mut found) = (None, Some(None));
            let mut elsewhere = Pending::default();
            for (position, ((pair, first), out)) in keys.iter().zip(firsts).zip(&mut *out).enumerate() {
                let is_new = last != Some(*pair);
                if is_new {
                    last = Some(*pair);
                    found = match key(pair.0, pair.1) {
                        Key::Ipv4(key) => ipv4.find_or_prefetch(key, first as usize),
                        Key::Ipv6(key) => ipv6.find_or_prefetch(key, first as usize),
                    };
                    lines_read += 1;
                }
                match found {
                    Some(found) => *out = found,
                    None => elsewhere.push(position, is_new),
                }
            }
            let find = |position: usize| {
                let ((vpc, address), first) = keys.get(position).zip(firsts.get(position))?;
                match key(*vpc, *address) {
                    Key::Ipv4(key) => ipv4.find_in_both(key, *first as usize),
                    Key::Ipv6(key) => ipv6.find_in_both(key, *first as usize),
                }
            };
            lines_read += elsewhere.find_rest(find, |position, found| {
                if let Some(out) = out.get_mut(position) {
                    *out = found;
                }
            });
        }
        lines_read
    }

    /// Asks for the first lines of the keys of a batch, and says which they are.
    #[inline(always)]
    fn prefetch(&self, keys: &[(u16, IpAddr)]) -> [u32; BATCH] {
        let (ipv4, ipv6) = (self.ipv4.lines(), self.ipv6.lines());
        let mut firsts = [0u32; BATCH];
        for (to, (vpc, address)) in firsts.iter_mut().zip(keys) {
            *to = match key(*vpc, *address) {
                Key::Ipv4(key) => ipv4.prefetch(key),
                Key::Ipv6(key) => ipv6.prefetch(key),
            };
        }
        firsts
    }
}
