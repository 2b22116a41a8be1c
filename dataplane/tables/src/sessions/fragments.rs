//! Which fragments follow a first fragment that was let pass.
//!
//! Only a datagram's first fragment has ports, so it alone is judged; the others pass if it did, for as long as a receiver may wait for them (30 seconds, RFC 791; 60,
//! RFC 8200). Those that come before it are dropped.
//!
//! Each port has [`KNOWN`] places of its own, taken when it first needs one, in sets of four: a newer datagram takes the place of the port's own oldest in its set. So a flood of fragments
//! is the loss of who sends it or asks for it, memory has a bound, and nothing has to be aged. A place keeps 96 bits of a keyed hash instead of addresses, and a word of who noted it:
//! as which session's half a datagram was translated.

use std::net::IpAddr;
use std::sync::OnceLock;

use super::half::{join, split};
use super::hash::SipHasher;
use super::quota::PORTS;
use crate::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// Datagrams that a port may have under way at once.
const KNOWN: usize = 256;
const WAYS: usize = 4;

/// What the fragments of one datagram have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    words: [u64; 5],
    life: u32,
}

impl FragmentKey {
    /// `identification` is that of the IPv4 header or of the IPv6 fragment header. `None` if the addresses are of different families.
    #[must_use]
    pub fn new(
        attachment: u32,
        source: IpAddr,
        destination: IpAddr,
        identification: u32,
        protocol: u8,
    ) -> Option<Self> {
        let first = u64::from(attachment) << 40 | u64::from(protocol) << 32 | u64::from(identification);
        let halves = |address: u128| [(address >> 64) as u64, address as u64];
        let (addresses, life) = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                ([u64::from(source.to_bits()), u64::from(destination.to_bits())].map(u128::from), 30_000)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                ([source.to_bits(), destination.to_bits()], 60_000)
            }
            _ => return None,
        };
        let [[a, b], [c, d]] = addresses.map(halves);
        Some(Self { words: [first, a, b, c, d], life })
    }
}

/// One datagram: a hash; another and when its first fragment came; what was noted of it.
#[derive(Default)]
struct Place([AtomicU64; 3]);

type Places = Box<[Place]>;

/// The datagrams of all ports.
pub(super) struct Fragments {
    ports: Box<[OnceLock<Places>]>,
    hashers: [SipHasher; 2],
}

impl Fragments {
    pub(super) fn new(secret: [u64; 2]) -> Self {
        let [a, b] = secret;
        let hashers = [SipHasher::new([!a, b]), SipHasher::new([a, !b])];
        Self { ports: (0..PORTS).map(|_| OnceLock::new()).collect(), hashers }
    }

    fn hashes(&self, key: &FragmentKey) -> (u64, u32) {
        let [first, second] = self.hashers.each_ref().map(|hasher| hasher.of(&key.words));
        (first, second as u32)
    }

    fn set(places: &Places, hash: u64) -> &[Place] {
        let from = hash as usize % (KNOWN / WAYS) * WAYS;
        places.get(from..from + WAYS).unwrap_or_default()
    }

    /// What was noted of a datagram whose first fragment passed.
    pub(super) fn find(&self, key: &FragmentKey, port: u16, now: u32) -> Option<u32> {
        let places = self.ports.get(usize::from(port)).and_then(OnceLock::get)?;
        let (first, second) = self.hashes(key);
        Self::set(places, first).iter().find_map(|Place([hash, rest, noted])| {
            let before = rest.load(Acquire);
            let (check, since) = split(before);
            let same = hash.load(Acquire) == first && check == second && now.wrapping_sub(since) < key.life;
            let noted = noted.load(Acquire);
            // Somebody may have begun to write meanwhile.
            (same && rest.load(Relaxed) == before).then_some(noted as u32)
        })
    }

    pub(super) fn note(&self, key: &FragmentKey, port: u16, now: u32, word: u32) {
        let Some(port) = self.ports.get(usize::from(port)) else { return };
        let places = port.get_or_init(|| (0..KNOWN).map(|_| Place::default()).collect());
        let (first, second) = self.hashes(key);
        let set = Self::set(places, first);
        let age = |place: &&Place| match place.0[0].load(Relaxed) {
            hash if hash == first => u32::MAX,
            0 => u32::MAX - 1,
            _ => now.wrapping_sub(split(place.0[1].load(Relaxed)).1),
        };
        if let Some(Place([hash, rest, noted])) = set.iter().max_by_key(age) {
            // Whoever reads between the first and the last store finds no match.
            rest.store(join(!second, now), Relaxed);
            hash.store(first, Release);
            noted.store(word.into(), Release);
            rest.store(join(second, now), Release);
        }
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    fn key(identification: u32) -> FragmentKey {
        let address = |last| IpAddr::from([10, 0, 0, last]);
        FragmentKey::new(1, address(1), address(2), identification, 17).unwrap()
    }

    impl Fragments {
        fn is_known(&self, key: &FragmentKey, port: u16, now: u32) -> bool {
            self.find(key, port, now).inspect(|word| assert_eq!(*word, 7)).is_some()
        }
    }

    #[test]
    fn fragments_pass_after_their_first_for_a_while() {
        let fragments = Fragments::new([1, 2]);
        assert!(!fragments.is_known(&key(5), 1, 0));
        fragments.note(&key(5), 1, 100, 7);
        assert!(fragments.is_known(&key(5), 1, 30_099));
        assert!(!fragments.is_known(&key(5), 1, 30_100));
        assert!(!fragments.is_known(&key(5), 2, 100), "another port's");
        assert!(!fragments.is_known(&key(6), 1, 100));
        fragments.note(&key(5), 1, u32::MAX, 7);
        assert!(fragments.is_known(&key(5), 1, 10_000), "the clock wraps");
        let address = |text: &str| text.parse().unwrap();
        let of = |attachment, id, protocol| {
            FragmentKey::new(attachment, address("fd00::1"), address("fd00::2"), id, protocol).unwrap()
        };
        fragments.note(&of(1, 9, 17), 3, 0, 7);
        assert!(fragments.is_known(&of(1, 9, 17), 3, 59_999));
        for other in [of(2, 9, 17), of(1, 8, 17), of(1, 9, 6)] {
            assert!(!fragments.is_known(&other, 3, 0));
        }
        assert_eq!(FragmentKey::new(1, address("fd00::1"), address("10.0.0.1"), 1, 1), None);
        fragments.note(&key(5), u16::MAX, 0, 7);
        assert!(!fragments.is_known(&key(5), u16::MAX, 0), "no such port");
    }

    /// P-33: a flood of first fragments.
    #[test]
    fn p33_a_flood_of_fragments_costs_only_who_sends_it() {
        let fragments = Fragments::new([1, 2]);
        (0..32).for_each(|id| fragments.note(&key(id), 2, 0, 7));
        (0..100_000).for_each(|id| fragments.note(&key(id), 1, 0, 7));
        let known = (0..32).filter(|id| fragments.is_known(&key(*id), 2, 1)).count();
        assert!(known >= 30, "{known} of 32: four in one of 64 sets is rare");
        let kept = (0..100_000).filter(|id| fragments.is_known(&key(*id), 1, 1)).count();
        assert_eq!(kept, KNOWN, "the newest, no more");
        assert!(fragments.is_known(&key(99_999), 1, 1));
    }
}
