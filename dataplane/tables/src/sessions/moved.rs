//! Sessions that go on under other keys: an end has moved.

use super::aging::links;
use super::half::{COUNT, SEQUENCE, TIME, join, split};
use super::key::Key;
use super::pool::{Cold, HALF_OPEN, NotAdded, Pool, Present};
use super::table::{CUT, number, parts, peer};
use super::tcp::Peer;
use super::worker::set_way;
use super::{Refused, SessionRef, SessionWorker, Side};
use crate::atomic::Ordering::Relaxed;

impl SessionWorker {
    /// The session, under other keys.
    #[cold]
    pub(super) fn moved<K: Key>(
        &mut self,
        session: SessionRef,
        sides: [&Side<K>; 2],
        epoch: u32,
        rules: [u32; 2],
    ) -> Result<SessionRef, Refused> {
        let sessions = self.sessions.clone();
        let pool = &sessions.pools[K::FAMILY];
        let old = parts(session.number()).1;
        let (cold, open) = (pool.get_cold(old), pool.state(old) & HALF_OPEN == 0);
        let kept = [old << 1, old << 1 | 1].map(|half| Kept::of(pool, half));
        self.cut_as(session, CUT);
        let keys = sides.map(|side| side.key);
        let hashes = keys.map(|key| sessions.hash(key));
        let now = self.now;
        let record = self.admit::<K>(cold.owner, now)?;
        pool.set_cold(record, &Cold { worker: self.number, rules, ..cold });
        for ((half, side), kept) in [record << 1, record << 1 | 1].into_iter().zip(sides).zip(kept) {
            kept.fill(pool, half, side, epoch);
        }
        if let Err(not_added) = pool.add(record, keys, hashes) {
            self.leases[K::FAMILY].push(record);
            return match not_added {
                NotAdded::Present(Present::Both(half) | Present::One(half)) => {
                    Ok(SessionRef(number(K::FAMILY, 0) << 1 | half))
                }
                NotAdded::Crowded => Err(Refused::Crowded),
            };
        }
        let session = number(K::FAMILY, record);
        sessions.ports.add(cold.owner);
        if open {
            sessions.opened(session);
        }
        let (seen, life) = sessions.life(session);
        self.wheel.insert(session, seen.wrapping_add(life), now, |number| links(&sessions, number));
        Ok(SessionRef(session << 1))
    }
}

/// What a half keeps when its session goes on under other keys.
struct Kept {
    peer: Peer,
    packets: u64,
    bytes: u64,
    seen: u32,
}

impl Kept {
    fn of(pool: &Pool, half: u32) -> Self {
        let own = pool.half(half);
        let (packets, bytes) = pool.counts(half);
        Self { peer: peer(own), packets, bytes, seen: split(own[TIME].load(Relaxed)).1 }
    }

    fn fill<K: Key>(&self, pool: &Pool, half: u32, side: &Side<K>, epoch: u32) {
        let own = pool.half(half);
        pool.set_key(half, &side.key.words());
        pool.add_count(half, self.packets, self.bytes);
        own[TIME].store(join(side.stamp, self.seen), Relaxed);
        own[SEQUENCE].store(join(self.peer.end, self.peer.edge), Relaxed);
        own[COUNT].store(join(self.peer.acknowledged, 0), Relaxed);
        set_way(own, side.way, epoch, self.peer.flags);
    }
}
