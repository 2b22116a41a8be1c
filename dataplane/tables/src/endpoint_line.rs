//! The cache lines of the endpoint table: three IPv4 addresses or two IPv6 addresses with what is known of each.
//!
//! What is known of an address takes 80 bits, more than one store writes. So that a reader never sees a mixture, and never
//! waits for the writer either, a line has one word to spare. A new value is written thus: the version is raised, the second
//! word of the new value goes into the spare, and one store into the first word, which has a bit for it, gives the slot its
//! new MAC address and the spare. Then the version is raised again, the second word goes to its place, and the first word
//! loses the bit. Wherever the writer is interrupted, the first word says where the second is. The version tells a reader that the
//! spare or the slot was written again while it looked.

use crate::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::atomic::{AtomicU32, AtomicU64};
use crate::hash::Hash;
use crate::line::Line;
use crate::location::{Endpoint, Location};
use packet::MacAddr;

/// In the first word of a slot: the second is the line's spare word.
const SPARE: u64 = 1 << 15;
/// In the first word of a slot: the VPC's number.
const VPC: u64 = SPARE - 1;
/// The second word, and marker, of an empty slot.
const EMPTY: u32 = 0;
/// Bits of a location in the second word.
const LOCATION_BITS: u32 = 18;
/// Added to a location, so that no second word is [`EMPTY`].
const SOME: u32 = 1 << 16;

const IPV4_SLOTS: usize = 3;
const IPV6_SLOTS: usize = 2;

/// The second word: subnet and location.
#[inline(always)]
fn place_of(endpoint: Endpoint) -> u32 {
    u32::from(endpoint.subnet) << LOCATION_BITS | (endpoint.location.pack() + SOME)
}

#[inline(always)]
fn unpack(first: u64, place: u32) -> Option<Endpoint> {
    let location = Location::unpack((place & ((1 << LOCATION_BITS) - 1)).wrapping_sub(SOME))?;
    let subnet = (place >> LOCATION_BITS) as u16;
    Some(Endpoint { mac: MacAddr::from_u64(first >> 16), subnet, location })
}

/// The slots of a line but for the addresses.
#[repr(C)]
struct Slots<const N: usize> {
    /// MAC address, [`SPARE`], VPC.
    firsts: [AtomicU64; N],
    /// Subnet and location; the marker.
    places: [AtomicU32; N],
}

impl<const N: usize> Default for Slots<N> {
    fn default() -> Self {
        Self {
            firsts: std::array::from_fn(|_| AtomicU64::default()),
            places: std::array::from_fn(|_| AtomicU32::default()),
        }
    }
}

impl<const N: usize> Slots<N> {
    /// The slot of a VPC's address, `same` telling which slots have the address.
    #[inline(always)]
    fn look(&self, spare: &AtomicU32, vpc: u16, same: impl Fn(usize) -> bool) -> Option<Endpoint> {
        let (mut found, mut first) = (N, 0);
        for (slot, (place, word)) in self.places.iter().zip(&self.firsts).enumerate() {
            let used = place.load(Acquire) != EMPTY;
            let word = word.load(Acquire);
            // All slots, without a branch: which one it is cannot be predicted.
            if used & (word & VPC == u64::from(vpc)) & same(slot) {
                (found, first) = (slot, word);
            }
        }
        let place = self.places.get(found)?;
        let place = if first & SPARE == 0 { place } else { spare };
        unpack(first, place.load(Relaxed))
    }

    /// The VPC of a slot that is not empty.
    fn vpc(&self, slot: usize) -> Option<u16> {
        let used = self.places.get(slot)?.load(Relaxed) != EMPTY;
        let first = self.firsts.get(slot)?.load(Relaxed);
        used.then_some((first & VPC) as u16)
    }

    fn value(&self, slot: usize) -> Option<Endpoint> {
        unpack(self.firsts.get(slot)?.load(Relaxed), self.places.get(slot)?.load(Relaxed))
    }

    /// After the address, which readers take for the slot's once its marker is written.
    fn write(&self, slot: usize, vpc: u16, endpoint: Endpoint) {
        if let (Some(first), Some(place)) = (self.firsts.get(slot), self.places.get(slot)) {
            first.store(endpoint.mac.to_u64() << 16 | u64::from(vpc), Relaxed);
            place.store(place_of(endpoint), Release);
        }
    }

    fn clear(&self, slot: usize) {
        if let Some(place) = self.places.get(slot) {
            place.store(EMPTY, Release);
        }
    }

    /// A new value, as the text at the top tells.
    fn set_value(&self, line: &impl Line, spare: &AtomicU32, slot: usize, endpoint: Endpoint) {
        let (Some(first), Some(place)) = (self.firsts.get(slot), self.places.get(slot)) else { return };
        let word = endpoint.mac.to_u64() << 16 | first.load(Relaxed) & VPC;
        line.raise_version();
        spare.store(place_of(endpoint), Relaxed);
        first.store(word | SPARE, Release);
        line.raise_version();
        place.store(place_of(endpoint), Relaxed);
        first.store(word, Release);
    }
}

/// A VPC's number and an IPv4 address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ipv4Key {
    pub(crate) vpc: u16,
    pub(crate) address: u32,
}

/// Three IPv4 addresses.
#[repr(C, align(64))]
#[derive(Default)]
pub(crate) struct Ipv4Line {
    control: AtomicU32,
    spare: AtomicU32,
    slots: Slots<IPV4_SLOTS>,
    addresses: [AtomicU32; IPV4_SLOTS],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Ipv4Line>() == 64);

impl Line for Ipv4Line {
    type Key = Ipv4Key;
    type Value = Endpoint;
    const SLOTS: usize = IPV4_SLOTS;
    const FULL: (usize, usize) = (2, 1);
    const DEPTH: usize = 6;

    #[inline(always)]
    fn control(&self) -> &AtomicU32 {
        &self.control
    }

    #[inline(always)]
    fn look(&self, key: Ipv4Key) -> Option<Endpoint> {
        self.slots.look(&self.spare, key.vpc, |slot| {
            self.addresses.get(slot).is_some_and(|address| address.load(Relaxed) == key.address)
        })
    }

    fn key(&self, slot: usize) -> Option<Ipv4Key> {
        Some(Ipv4Key { vpc: self.slots.vpc(slot)?, address: self.addresses.get(slot)?.load(Relaxed) })
    }

    fn value(&self, slot: usize) -> Option<Endpoint> {
        self.slots.value(slot)
    }

    fn write(&self, slot: usize, key: Ipv4Key, endpoint: Endpoint) {
        if let Some(address) = self.addresses.get(slot) {
            address.store(key.address, Relaxed);
            self.slots.write(slot, key.vpc, endpoint);
        }
    }

    fn set_value(&self, slot: usize, endpoint: Endpoint) {
        self.slots.set_value(self, &self.spare, slot, endpoint);
    }

    fn clear(&self, slot: usize) {
        self.slots.clear(slot);
    }

    #[inline(always)]
    fn hash(key: Ipv4Key, hash: &Hash) -> u32 {
        hash.of_one(u64::from(key.vpc) << 32 | u64::from(key.address))
    }
}

/// A VPC's number and an IPv6 address in two halves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ipv6Key {
    pub(crate) vpc: u16,
    pub(crate) high: u64,
    pub(crate) low: u64,
}

/// Two IPv6 addresses.
#[repr(C, align(64))]
#[derive(Default)]
pub(crate) struct Ipv6Line {
    control: AtomicU32,
    spare: AtomicU32,
    slots: Slots<IPV6_SLOTS>,
    highs: [AtomicU64; IPV6_SLOTS],
    lows: [AtomicU64; IPV6_SLOTS],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Ipv6Line>() == 64);

impl Line for Ipv6Line {
    type Key = Ipv6Key;
    type Value = Endpoint;
    const SLOTS: usize = IPV6_SLOTS;
    const FULL: (usize, usize) = (5, 3);
    const DEPTH: usize = 10;

    #[inline(always)]
    fn control(&self) -> &AtomicU32 {
        &self.control
    }

    #[inline(always)]
    fn look(&self, key: Ipv6Key) -> Option<Endpoint> {
        self.slots.look(&self.spare, key.vpc, |slot| {
            let (Some(high), Some(low)) = (self.highs.get(slot), self.lows.get(slot)) else { return false };
            (high.load(Relaxed) == key.high) & (low.load(Relaxed) == key.low)
        })
    }

    fn key(&self, slot: usize) -> Option<Ipv6Key> {
        let (high, low) = (self.highs.get(slot)?.load(Relaxed), self.lows.get(slot)?.load(Relaxed));
        Some(Ipv6Key { vpc: self.slots.vpc(slot)?, high, low })
    }

    fn value(&self, slot: usize) -> Option<Endpoint> {
        self.slots.value(slot)
    }

    fn write(&self, slot: usize, key: Ipv6Key, endpoint: Endpoint) {
        if let (Some(high), Some(low)) = (self.highs.get(slot), self.lows.get(slot)) {
            high.store(key.high, Relaxed);
            low.store(key.low, Relaxed);
            self.slots.write(slot, key.vpc, endpoint);
        }
    }

    fn set_value(&self, slot: usize, endpoint: Endpoint) {
        self.slots.set_value(self, &self.spare, slot, endpoint);
    }

    fn clear(&self, slot: usize) {
        self.slots.clear(slot);
    }

    #[inline(always)]
    fn hash(key: Ipv6Key, hash: &Hash) -> u32 {
        hash.of_three([key.high, key.low, key.vpc.into()])
    }
}
