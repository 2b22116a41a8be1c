//! Who has an IP address of a subnet, and at which MAC address.

use std::net::IpAddr;
use std::time::Duration;

use packet::MacAddr;

use crate::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::atomic::{AtomicU32, AtomicU64};
use crate::hash::Hash;
use crate::line::Line;
use crate::table::{TableReader, Writer};

/// Where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressEntry {
    /// The MAC address that answers for it.
    pub mac: MacAddr,
    /// The number of the port that holds it.
    pub port: u16,
}

impl AddressEntry {
    #[inline]
    fn pack(self) -> u64 {
        self.mac.to_u64() << 16 | u64::from(self.port)
    }

    #[inline]
    fn unpack(word: u64) -> Self {
        Self { mac: MacAddr::from_u64(word >> 16), port: word as u16 }
    }
}

const SLOTS: usize = 2;
/// The marker of an empty slot.
const EMPTY: u32 = 0;
/// In the marker of an IPv4 address; one of the two is in every key's marker.
const IPV4: u32 = 1 << 16;
/// In the marker of an IPv6 address, so that ::10.0.0.1 is not 10.0.0.1.
const IPV6: u32 = 1 << 17;

/// A subnet's number with the family, and the address as a number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct AddressKey {
    marker: u32,
    high: u64,
    low: u64,
}

impl AddressKey {
    #[inline]
    pub(crate) fn new(subnet: u16, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self { marker: IPV4 | u32::from(subnet), high: 0, low: v4.to_bits().into() },
            IpAddr::V6(v6) => {
                let bits = v6.to_bits();
                Self { marker: IPV6 | u32::from(subnet), high: (bits >> 64) as u64, low: bits as u64 }
            }
        }
    }
}

/// Two keys and their values.
#[repr(C, align(64))]
#[derive(Default)]
pub(crate) struct AddressLine {
    control: AtomicU32,
    markers: [AtomicU32; SLOTS],
    high: [AtomicU64; SLOTS],
    low: [AtomicU64; SLOTS],
    values: [AtomicU64; SLOTS],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<AddressLine>() == 64);

impl AddressLine {
    fn slot(&self, slot: usize) -> Option<(&AtomicU32, &AtomicU64, &AtomicU64, &AtomicU64)> {
        Some((self.markers.get(slot)?, self.high.get(slot)?, self.low.get(slot)?, self.values.get(slot)?))
    }
}

impl Line for AddressLine {
    type Key = AddressKey;
    type Value = AddressEntry;
    const SLOTS: usize = SLOTS;
    const FULL: (usize, usize) = (3, 4);

    #[inline(always)]
    fn control(&self) -> &AtomicU32 {
        &self.control
    }

    #[inline(always)]
    fn look(&self, key: AddressKey) -> Option<AddressEntry> {
        (0..SLOTS).find_map(|slot| {
            let (marker, high, low, value) = self.slot(slot)?;
            let same = marker.load(Acquire) == key.marker
                && high.load(Relaxed) == key.high
                && low.load(Relaxed) == key.low;
            same.then(|| AddressEntry::unpack(value.load(Relaxed)))
        })
    }

    fn key(&self, slot: usize) -> Option<AddressKey> {
        let (marker, high, low, _) = self.slot(slot)?;
        let key =
            AddressKey { marker: marker.load(Relaxed), high: high.load(Relaxed), low: low.load(Relaxed) };
        (key.marker != EMPTY).then_some(key)
    }

    fn value(&self, slot: usize) -> Option<AddressEntry> {
        self.slot(slot).map(|(_, _, _, value)| AddressEntry::unpack(value.load(Relaxed)))
    }

    fn write(&self, slot: usize, key: AddressKey, entry: AddressEntry) {
        if let Some((marker, high, low, value)) = self.slot(slot) {
            value.store(entry.pack(), Relaxed);
            high.store(key.high, Relaxed);
            low.store(key.low, Relaxed);
            marker.store(key.marker, Release);
        }
    }

    fn set_value(&self, slot: usize, entry: AddressEntry) {
        if let Some((_, _, _, value)) = self.slot(slot) {
            value.store(entry.pack(), Release);
        }
    }

    fn clear(&self, slot: usize) {
        if let Some((marker, ..)) = self.slot(slot) {
            marker.store(EMPTY, Release);
        }
    }

    #[inline(always)]
    fn hash(key: AddressKey, hash: &Hash) -> u32 {
        hash.of_three([key.high, key.low, key.marker.into()])
    }
}

/// The writer's half, for one control thread.
pub struct AddressWriter(Writer<AddressLine>);

impl AddressWriter {
    /// An empty table. `secret` keys its hash: random, and not for guests to know.
    #[must_use]
    pub fn new(secret: [u64; 2]) -> Self {
        Self(Writer::new(secret))
    }

    /// A reader's half, for one worker.
    #[must_use]
    pub fn reader(&self) -> AddressReader {
        AddressReader(self.0.reader())
    }

    /// From now on `address` in `subnet` is where `entry` says; returns where it was. Readers see one or the other, never a
    /// mixture.
    pub fn insert(&mut self, subnet: u16, address: IpAddr, entry: AddressEntry) -> Option<AddressEntry> {
        self.0.insert(AddressKey::new(subnet, address), entry)
    }

    /// Where `address` in `subnet` is.
    #[must_use]
    pub fn get(&self, subnet: u16, address: IpAddr) -> Option<AddressEntry> {
        self.0.get(AddressKey::new(subnet, address))
    }

    /// From now on `address` in `subnet` is nowhere; returns where it was.
    pub fn remove(&mut self, subnet: u16, address: IpAddr) -> Option<AddressEntry> {
        self.0.remove(AddressKey::new(subnet, address))
    }

    /// Addresses in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// No address is in the table.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Frees outgrown tables that no reader looks at any more; returns how many are still looked at.
    pub fn reclaim(&mut self) -> usize {
        self.0.reclaim()
    }

    /// As [`MacWriter::synchronize`](crate::MacWriter::synchronize).
    pub fn synchronize(&mut self, limit: Duration) -> bool {
        self.0.synchronize(limit)
    }
}

/// A reader's half, for one worker.
#[derive(Clone)]
pub struct AddressReader(TableReader<AddressLine>);

impl AddressReader {
    /// Takes up a table that has grown. Once per burst: one load when it has not.
    #[inline(always)]
    pub fn refresh(&mut self) -> bool {
        self.0.refresh()
    }

    /// Says that this reader looks at nothing until it refreshes again.
    pub fn off_line(&mut self) {
        self.0.off_line();
    }

    /// Where `address` in `subnet` is.
    #[inline]
    #[must_use]
    pub fn lookup(&self, subnet: u16, address: IpAddr) -> Option<AddressEntry> {
        self.0.lookup(AddressKey::new(subnet, address))
    }

    /// The same for many (subnet, address) pairs at once. Returns how many cache lines were read: at most two per
    /// key, none for a key equal to the one before it.
    pub fn lookup_batch(&self, keys: &[(u16, IpAddr)], out: &mut [Option<AddressEntry>]) -> usize {
        const BATCH: usize = 32;
        let mut lines_read = 0;
        for (keys, out) in keys.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            let mut converted = [AddressKey { marker: EMPTY, high: 0, low: 0 }; BATCH];
            for (to, (subnet, address)) in converted.iter_mut().zip(keys) {
                *to = AddressKey::new(*subnet, *address);
            }
            let converted = converted.get(..keys.len()).unwrap_or_default();
            lines_read += self.0.lookup_batch(converted, |position, entry| {
                if let Some(out) = out.get_mut(position) {
                    *out = entry;
                }
            });
        }
        lines_read
    }
}
