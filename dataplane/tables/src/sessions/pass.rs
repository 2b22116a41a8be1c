//! What nearly all packets are: of a valid session, in order. In few instructions what [`SessionWorker::check`](super::SessionWorker::check) does in general.

use std::marker::PhantomData;

use packet::tcp::Segment;

use super::half::{self, COUNT, JUDGED, KEY, REWRITE, SEQUENCE, TIME, UNKNOWN, WAY, join, protocol, split};
use super::key::Key;
use super::memory::Line;
use super::table::{Sessions, half_parts, number, peer};
use super::tcp::{self, SENT};
use super::worker::BURST;
use super::{Found, Way};
use crate::atomic::AtomicU64;
use crate::atomic::Ordering::{Acquire, Relaxed};

/// A half that may be a packet's, by a part of its key's hash: [`Passage::pass`] says whether it is.
#[derive(Clone, Copy, Debug)]
pub struct Guess(u32);

impl Guess {
    /// Nothing looks like it.
    pub const NONE: Guess = Guess(u32::MAX);

    /// The half, if it was guessed right.
    #[inline(always)]
    #[must_use]
    pub const fn found(self) -> Found {
        Found(self.0)
    }
}

/// What [`Passage::pass`] must know of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'k, K> {
    /// The session's half has this key.
    pub key: &'k K,
    /// The destination MAC address as it came ([`packet::MacAddr::to_u64`]).
    pub destination_mac: u64,
    /// Bytes, for the counters.
    pub length: u32,
}

/// The sessions of one family, for the packets of one burst. A worker uses it as it does its [`SessionWorker`](super::SessionWorker), between two of its steps.
#[derive(Clone, Copy)]
pub struct Passage<'s, K> {
    lines: &'s [Line],
    epoch: u32,
    now: u32,
    keys: PhantomData<K>,
}

impl Sessions {
    /// For packets of the host's `epoch` at `now`, in milliseconds.
    #[inline(always)]
    pub fn passage<K: Key>(&self, epoch: u32, now: u32) -> Passage<'_, K> {
        Passage { lines: self.pools[K::FAMILY].lines(), epoch, now, keys: PhantomData }
    }

    /// Guesses which halves have these keys, and asks for all that [`Passage::pass`] reads. Of at most 32 keys; `out` is as long.
    #[inline(always)]
    pub fn guess<K: Key>(&self, keys: &[K], out: &mut [Guess]) {
        // Slices of one length known to be at most BURST: the loops below need no checks.
        let count = keys.len().min(out.len()).min(BURST);
        let (keys, out) = (&keys[..count], &mut out[..count]);
        let (pool, lines) = (&self.pools[K::FAMILY], self.passage::<K>(0, 0));
        let (mut hashes, mut buckets) = ([0; BURST], [0; BURST]);
        self.hasher.of_burst(keys, |at, hash| {
            (hashes[at % BURST], buckets[at % BURST]) = (hash, pool.index.prefetch(hash));
        });
        for at in 0..count {
            let guess = pool.index.guess(buckets[at], hashes[at]);
            if let Some(half) = guess {
                lines.prefetch(half, protocol(keys[at].words()[0]) == packet::tcp::PROTOCOL);
            }
            out[at] = guess.map_or(Guess::NONE, |half| Guess(number(K::FAMILY, 0) << 1 | half));
        }
    }
}

impl<'s, K: Key> Passage<'s, K> {
    #[inline(always)]
    fn half(&self, half: u32) -> &'s [AtomicU64; 8] {
        let at = if K::LINES == 2 { half } else { half + (half >> 1) };
        &self.lines[at as usize].0
    }

    /// The last three words of an IPv6 key.
    #[inline(always)]
    fn rest(&self, half: u32) -> &'s [AtomicU64] {
        let at = (half & 1) as usize * 4;
        &self.lines[(half >> 1) as usize * K::LINES + 2].0[at..at + 3]
    }

    #[inline(always)]
    fn prefetch(&self, half: u32, both: bool) {
        #[cfg(not(loom))]
        {
            cpu::prefetch_write_at(std::ptr::from_ref(self.half(half)).cast());
            if both {
                cpu::prefetch_read(self.half(half ^ 1));
            }
            if K::LINES == 3 {
                cpu::prefetch_read(self.rest(half));
            }
        }
        let _ = (half, both);
    }

    /// What differs between a key and that of a half.
    #[inline(always)]
    fn difference(&self, half: u32, own: &[AtomicU64; 8], key: &K) -> u64 {
        let words = key.words();
        let first = (own[KEY].load(Relaxed) ^ words[0]) | (own[KEY + 1].load(Relaxed) ^ words[1]);
        let rest = if K::LINES == 3 { self.rest(half) } else { &[] };
        rest.iter().zip(&words[2..]).fold(first, |differs, (own, word)| differs | (own.load(Relaxed) ^ word))
    }

    /// Where a packet goes whose half was guessed right and is of this epoch, and which is nothing special: it is counted, and its connection followed. `None`: nothing was
    /// written; find and check it. `tcp` is called if the session is one of TCP.
    #[inline(always)]
    pub fn pass(
        &self,
        guess: Guess,
        packet: &Packet<'_, K>,
        tcp: impl FnOnce() -> Option<Segment>,
    ) -> Option<Way> {
        let half = half_parts(guess.found().session()?.0).1;
        let own = self.half(half);
        let way = own[WAY].load(Acquire);
        let (judged, count) = (own[JUDGED].load(Relaxed), own[COUNT].load(Relaxed));
        // One branch for all that nearly never differs.
        let differs = self.difference(half, own, packet.key)
            | ((judged >> 16) ^ packet.destination_mac)
            | u64::from(way as u32 ^ self.epoch);
        let (output, (mut acknowledged, counters)) = (split(way).0, split(count));
        if differs != 0 || output >= UNKNOWN {
            return None;
        }
        let counters = half::count(counters, packet.length)?;
        if protocol(packet.key.words()[0]) == packet::tcp::PROTOCOL {
            let after = tcp::ordinary(peer(own), &peer(self.half(half ^ 1)), &tcp()?)?;
            own[SEQUENCE].store(join(after.end, after.edge), Relaxed);
            acknowledged = after.acknowledged;
        } else if judged as u16 & SENT == 0 {
            return None;
        }
        own[TIME].store(own[TIME].load(Relaxed) & !0xffff_ffff | u64::from(self.now), Relaxed);
        own[COUNT].store(join(acknowledged, counters), Relaxed);
        Some(half::way(output, own[REWRITE].load(Relaxed)))
    }
}
