//! Who is a member of which security groups: an address of a VPC and its groups.
//!
//! An address is a member of the groups of every prefix that contains it. Addresses are in one hash table, shorter prefixes in another, under their first
//! bits and, so that each length has keys of its own, one more bit that marks where they end. A look-up reads the line of the address, and one line for each length that
//! prefixes of its VPC have, [`MemberWriter::MAX_LENGTHS`] at most: tenants choose the lengths. A change touches one entry, whatever the
//! number of members.
//!
//! Up to [`INLINE`] groups are in the entry itself. More are in a list of their own, shared by all entries that have the same; lists are published whole, before an
//! entry names them, and a list's number is never used again, so that an entry and a list never mix.

mod groups;
mod prefix;

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use sync::{Published, Reader};

use crate::endpoints::{EndpointReader, EndpointWriter};
use crate::location::Endpoint;
use groups::{Entry, ListCounts, Lists};
use prefix::{LengthCounts, Lengths, marked, marked_prefix};

pub use groups::INLINE;

/// What readers need beside the entries; replaced when a length or a list is new.
#[derive(Clone, Debug, Default)]
struct Rest {
    lengths: Lengths,
    lists: Lists,
}

/// Why an entry is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberError {
    /// More groups than [`MemberWriter::MAX_GROUPS`].
    TooManyGroups {
        /// So many.
        groups: usize,
        /// The most there may be.
        bound: usize,
    },
    /// Prefixes of more different lengths than [`MemberWriter::MAX_LENGTHS`], in one VPC and version of IP.
    TooManyLengths {
        /// The most there may be.
        bound: usize,
    },
    /// No VPC has this number.
    NoVpc {
        /// The number.
        vpc: u16,
    },
}

impl std::fmt::Display for MemberError {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooManyGroups { groups, bound } => {
                write!(
                    to,
                    "an address in {groups} security groups, and it may be in {bound}: fewer groups per port"
                )
            }
            Self::TooManyLengths { bound } => write!(
                to,
                "allowed prefixes of more than {bound} different lengths in one VPC: write some of them as prefixes of a \
                 length that is used already"
            ),
            Self::NoVpc { vpc } => {
                write!(to, "no VPC has the number {vpc}: numbers are below {}", Endpoint::VPCS)
            }
        }
    }
}

impl std::error::Error for MemberError {}

/// The writer's half, for one control thread.
pub struct MemberWriter {
    addresses: EndpointWriter,
    prefixes: EndpointWriter,
    rest: Published<Rest>,
    lengths: LengthCounts,
    lists: ListCounts,
}

impl MemberWriter {
    /// Groups that an entry may have.
    pub const MAX_GROUPS: usize = 64;
    /// Different lengths that the prefixes of a VPC may have, for each version of IP; single addresses not counted.
    pub const MAX_LENGTHS: usize = 16;

    /// Nobody is a member. `secret` keys the hashes: random, and not for guests to know.
    #[must_use]
    pub fn new([first, second]: [u64; 2]) -> Self {
        Self {
            addresses: EndpointWriter::new([first, second]),
            prefixes: EndpointWriter::new([!first, second]),
            rest: Published::new(Rest::default()),
            lengths: LengthCounts::default(),
            lists: ListCounts::default(),
        }
    }

    /// A reader's half, for one worker.
    #[must_use]
    pub fn reader(&self) -> MemberReader {
        MemberReader {
            addresses: self.addresses.reader(),
            prefixes: self.prefixes.reader(),
            rest: self.rest.reader(),
            groups: Vec::with_capacity(Self::MAX_GROUPS),
        }
    }

    /// From now on the addresses in `prefix` of `vpc` are members of these groups, and no longer of those that were given for this very prefix before.
    /// Without groups it is [`MemberWriter::remove`]. Readers see the old groups or the new, never a mixture.
    ///
    /// # Errors
    ///
    /// Bounds that [`MemberError`] names; nothing is changed then.
    pub fn set(&mut self, vpc: u16, prefix: IpNet, groups: &[u16]) -> Result<(), MemberError> {
        if vpc >= Endpoint::VPCS {
            return Err(MemberError::NoVpc { vpc });
        }
        let mut groups = groups.to_vec();
        groups.sort_unstable();
        groups.dedup();
        if groups.is_empty() {
            self.remove(vpc, prefix);
            return Ok(());
        }
        if groups.len() > Self::MAX_GROUPS {
            return Err(MemberError::TooManyGroups { groups: groups.len(), bound: Self::MAX_GROUPS });
        }
        let old = self.entry(vpc, prefix);
        let seen = self.rest.current();
        let mut lengths = None;
        if old.is_none() && !is_address(prefix) {
            let added = self.lengths.add(vpc, prefix, &seen.lengths, Self::MAX_LENGTHS);
            lengths = added.map_err(|()| MemberError::TooManyLengths { bound: Self::MAX_LENGTHS })?;
        }
        let (entry, lists) = match Entry::inline(&groups) {
            Some(entry) => (entry, None),
            None => {
                let (list, lists) = self.lists.add(&groups, &seen.lists);
                (Entry::List(list), lists)
            }
        };
        // First what the entry needs, then the entry, then what the old one needed.
        self.publish(lengths, lists);
        self.table(prefix).insert(vpc, marked_prefix(prefix), entry.pack());
        self.drop_list(old);
        Ok(())
    }

    /// From now on `prefix` of `vpc` makes nobody a member; false if it did not.
    pub fn remove(&mut self, vpc: u16, prefix: IpNet) -> bool {
        let old =
            (vpc < Endpoint::VPCS).then(|| self.table(prefix).remove(vpc, marked_prefix(prefix))).flatten();
        let Some(old) = old else { return false };
        self.drop_list(Entry::unpack(old));
        if !is_address(prefix) {
            let lengths = self.lengths.remove(vpc, prefix, &self.rest.current().lengths);
            self.publish(lengths, None);
        }
        true
    }

    /// The groups given for this very prefix.
    #[must_use]
    pub fn get(&self, vpc: u16, prefix: IpNet) -> Vec<u16> {
        let mut groups = Vec::new();
        if let Some(entry) = self.entry(vpc, prefix) {
            entry.groups(&self.rest.current().lists, &mut groups);
        }
        groups
    }

    /// Prefixes, addresses among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.addresses.len() + self.prefixes.len()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the tables.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.addresses.memory_bytes() + self.prefixes.memory_bytes()
    }

    /// Frees what no reader looks at any more; returns how much is still looked at.
    pub fn reclaim(&mut self) -> usize {
        self.addresses.reclaim() + self.prefixes.reclaim() + self.rest.reclaim()
    }

    /// Waits until no reader that is on line looks at anything outdated; false after `limit`, which counts several times.
    pub fn synchronize(&mut self, limit: Duration) -> bool {
        self.addresses.synchronize(limit) & self.prefixes.synchronize(limit) & self.rest.synchronize(limit)
    }

    fn table(&mut self, prefix: IpNet) -> &mut EndpointWriter {
        if is_address(prefix) { &mut self.addresses } else { &mut self.prefixes }
    }

    fn entry(&self, vpc: u16, prefix: IpNet) -> Option<Entry> {
        let table = if is_address(prefix) { &self.addresses } else { &self.prefixes };
        table.get(vpc, marked_prefix(prefix)).and_then(Entry::unpack)
    }

    /// An entry is gone, and with the last one of a list the list.
    fn drop_list(&mut self, old: Option<Entry>) {
        if let Some(Entry::List(list)) = old {
            let lists = self.lists.remove(list, &self.rest.current().lists);
            self.publish(None, lists);
        }
    }

    fn publish(&mut self, lengths: Option<Lengths>, lists: Option<Lists>) {
        if lengths.is_some() || lists.is_some() {
            let now = self.rest.current();
            let lengths = lengths.unwrap_or_else(|| now.lengths.clone());
            let lists = lists.unwrap_or_else(|| now.lists.clone());
            self.rest.publish(Rest { lengths, lists });
        }
    }
}

fn is_address(prefix: IpNet) -> bool {
    prefix.prefix_len() == prefix.max_prefix_len()
}

/// A reader's half, for one worker.
pub struct MemberReader {
    addresses: EndpointReader,
    prefixes: EndpointReader,
    rest: Reader<Rest>,
    groups: Vec<u16>,
}

impl Clone for MemberReader {
    fn clone(&self) -> Self {
        Self {
            addresses: self.addresses.clone(),
            prefixes: self.prefixes.clone(),
            rest: self.rest.clone(),
            groups: Vec::with_capacity(MemberWriter::MAX_GROUPS),
        }
    }
}

/// Times that an entry is read whose list is not there yet or any more.
const ATTEMPTS: usize = 100;

impl MemberReader {
    /// Takes up tables that were replaced. Once per burst.
    #[inline(always)]
    pub fn refresh(&mut self) -> bool {
        self.addresses.refresh() | self.prefixes.refresh() | self.rest.refresh()
    }

    /// Whether nothing replaced is left to be taken up.
    pub fn is_current(&self) -> bool {
        self.addresses.is_current() && self.prefixes.is_current() && self.rest.is_current()
    }

    /// Says that this reader looks at nothing until it refreshes again.
    pub fn off_line(&mut self) {
        self.addresses.off_line();
        self.prefixes.off_line();
        self.rest.off_line();
    }

    /// The groups of `address` in `vpc`: those of all prefixes that contain it, [`MemberReader::MAX_GROUPS`] at most; some
    /// perhaps twice.
    #[inline]
    pub fn groups(&mut self, vpc: u16, address: IpAddr) -> &[u16] {
        self.groups.clear();
        if vpc < Endpoint::VPCS {
            self.add(|reader| reader.addresses.lookup(vpc, address));
            for length in self.rest.get().lengths.of(vpc, address) {
                let key = marked(address, length);
                self.add(|reader| reader.prefixes.lookup(vpc, key));
            }
        }
        &self.groups
    }

    /// Groups that [`MemberReader::groups`] may return: a full entry of the address and of each length.
    pub const MAX_GROUPS: usize = MemberWriter::MAX_GROUPS * (MemberWriter::MAX_LENGTHS + 1);

    /// Adds the groups of the entry that `lookup` finds.
    #[inline(always)]
    fn add(&mut self, lookup: impl Fn(&Self) -> Option<Endpoint>) {
        for _ in 0..ATTEMPTS {
            let Some(entry) = lookup(self).and_then(Entry::unpack) else { return };
            if entry.groups(&self.rest.get().lists, &mut self.groups) {
                return;
            }
            // The list is newer than what this reader has taken up, or the entry changed meanwhile.
            self.rest.refresh();
            std::hint::spin_loop();
        }
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests;
