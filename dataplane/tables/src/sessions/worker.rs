//! A worker's half of the table: look-ups, checks, making and removing sessions, aging them.

use std::net::IpAddr;
use std::sync::Arc;

use packet::MacAddr;

use super::aging::links;
use super::follow::{Followed, Passed, follow};
use super::fragments::FragmentKey;
use super::half::{
    self, COUNT, JUDGED, KEY, REMOVED, REWRITE, SEQUENCE, TIME, UNKNOWN, WAY, join, protocol, split,
};
use super::key::{Key, Key4, Key6, sealed::Sealed};
use super::limbo::Limbo;
use super::pool::{CALLED, Cold, HALF_OPEN, LIVE, NotAdded, Pool, Present};
use super::quota::Candidates;
use super::table::{
    CREATED, CROWDED, CUT, DISPLACED, OVER_QUOTA, OVER_SHARE, Sessions, TABLE_FULL, half_parts, lock, number,
    parts,
};
use super::tcp::{self, Peer, SENT};
use super::wheel::Wheel;
use super::{AnyKey, Checked, Created, Facts, Found, New, Refused, SessionRef, Side, Way};
use crate::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// Keys that are looked up at once.
pub(super) const BURST: usize = 32;
/// Free records that a worker takes from the table at once; it keeps up to twice as many.
pub(super) const LEASE: u32 = 256;
/// Half-open sessions that may turn out not to be any more before a port is refused.
const TRIES: usize = 64;

/// A worker's half of the table. What look-ups return is good until [`SessionWorker::step`].
pub struct SessionWorker {
    pub(super) sessions: Arc<Sessions>,
    pub(super) number: u8,
    pub(super) leases: [Vec<u32>; 2],
    pub(super) wheel: Wheel,
    pub(super) limbo: Limbo,
    pub(super) candidates: Candidates,
    pub(super) called: Vec<u32>,
    pub(super) now: u32,
}

impl SessionWorker {
    pub(super) fn new(sessions: Arc<Sessions>, number: u8, now: u32) -> Self {
        let mut limbo = Limbo::default();
        std::mem::take(&mut *lock(&sessions.orphans)).into_iter().for_each(|record| limbo.rest(record));
        let mut wheel = Wheel::new(now);
        for session in sessions.aged_by(number) {
            let (seen, life) = sessions.life(session);
            wheel.insert(session, seen.wrapping_add(life), now, |number| links(&sessions, number));
        }
        sessions.quiescence.pass(number.into());
        Self {
            sessions,
            number,
            leases: [Vec::new(), Vec::new()],
            wheel,
            limbo,
            candidates: Candidates::default(),
            called: Vec::new(),
            now,
        }
    }

    /// The table.
    pub fn table(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// Finds the halves that have these keys. `out` is as long as `keys`; longer ends are left alone.
    #[inline]
    pub fn look_up4(&self, keys: &[Key4], out: &mut [Found]) {
        self.look_up(keys, out);
    }

    /// Finds the halves that have these keys. `out` is as long as `keys`; longer ends are left alone.
    #[inline]
    pub fn look_up6(&self, keys: &[Key6], out: &mut [Found]) {
        self.look_up(keys, out);
    }

    #[inline(always)]
    fn look_up<K: Key>(&self, keys: &[K], out: &mut [Found]) {
        for (keys, out) in keys.chunks(BURST).zip(out.chunks_mut(BURST)) {
            self.look_up_burst(keys, out);
        }
    }

    #[inline(always)]
    fn look_up_burst<K: Key>(&self, keys: &[K], out: &mut [Found]) {
        // Slices of one length known to be at most BURST: the loops below need no checks.
        let count = keys.len().min(out.len()).min(BURST);
        let (keys, out) = (&keys[..count], &mut out[..count]);
        let pool = &self.sessions.pools[K::FAMILY];
        let (mut hashes, mut buckets) = ([0; BURST], [0; BURST]);
        self.sessions.hasher.of_burst(keys, |at, hash| {
            (hashes[at % BURST], buckets[at % BURST]) = (hash, pool.index.prefetch(hash));
        });
        let (hashes, buckets) = (&hashes[..count], &buckets[..count]);
        for at in 0..count {
            let guess = pool.index.guess(buckets[at], hashes[at]);
            if let Some(half) = guess {
                pool.prefetch(half, keys[at].protocol() == packet::tcp::PROTOCOL);
            }
            out[at] = guess.map_or(Found::NONE, |half| Found(number(K::FAMILY, 0) << 1 | half));
        }
        for at in 0..count {
            let words = keys[at].words();
            let right = match out[at].session() {
                Some(session) => pool.has_key(half_parts(session.0).1, &words),
                None => false,
            };
            if !right {
                out[at] = find::<K>(pool, hashes[at], &words);
            }
        }
    }

    /// Asks for the memory in which [`SessionWorker::create`] will look for this key.
    #[inline]
    pub fn ask_for<K: Key>(&self, key: K) {
        self.sessions.pools[K::FAMILY].index.prefetch(self.sessions.hash(key));
    }

    /// Finds one half: of a packet inside an ICMP error, for example, whose [`Key::reversed`] is the half that such an error goes with.
    #[inline]
    pub fn find<K: Key>(&self, key: K) -> Found {
        find::<K>(&self.sessions.pools[K::FAMILY], self.sessions.hash(key), &key.words())
    }

    /// Finds one half.
    pub fn find_any(&self, key: AnyKey) -> Found {
        match key {
            AnyKey::V4(key) => self.find(key),
            AnyKey::V6(key) => self.find(key),
        }
    }

    /// The way of a half that rests on nothing that changed: of an ICMP error about a packet of the other direction. Follows and counts nothing.
    pub fn related<K: Key>(
        &self,
        key: K,
        epoch: u32,
        sum: impl FnOnce(SessionRef, &Way) -> u32,
    ) -> Option<Way> {
        self.way_of(self.find(key), epoch, sum)
    }

    /// The same of a half that was found: of a packet that says too little to be followed, a later fragment.
    pub fn way_of(&self, found: Found, epoch: u32, sum: impl FnOnce(SessionRef, &Way) -> u32) -> Option<Way> {
        let session = found.session()?;
        let (family, half) = half_parts(session.0);
        let own = self.sessions.pools[family].half(half);
        let way = own[WAY].load(Acquire);
        if split(way).0 == UNKNOWN || !is_current(session, own, way, epoch, sum) {
            return None;
        }
        Some(half::way(split(way).0, own[REWRITE].load(Relaxed)))
    }

    /// Whether the half that a look-up found is good for a packet, whose connection it then follows and which it counts. `epoch` is the host's, `now` in milliseconds;
    /// if the half is of another epoch, `sum` says what its stamp would be today.
    #[inline]
    pub fn check(
        &mut self,
        found: Found,
        facts: &Facts,
        epoch: u32,
        now: u32,
        sum: impl FnOnce(SessionRef, &Way) -> u32,
    ) -> Checked {
        let Some(session) = found.session() else { return Checked::Gone };
        let (family, half) = half_parts(session.0);
        let pool = self.sessions.pool(family);
        let own = pool.half(half);
        let (judged, first) = (own[JUDGED].load(Relaxed), own[KEY].load(Relaxed));
        let output = match current_output(session, own, facts, epoch, sum) {
            Ok(output) => output,
            Err(checked) => return checked,
        };
        let (acknowledged, counters) = split(own[COUNT].load(Relaxed));
        let mut passed = Passed { acknowledged, seen: now, shorter: None };
        if protocol(first) == packet::tcp::PROTOCOL {
            match follow(&self.sessions, session, own, facts, &mut passed) {
                Followed::Passes => {}
                Followed::Invalid => return Checked::Invalid(session),
                Followed::Reopened => {
                    self.cut_as(session, CUT);
                    return Checked::Gone;
                }
            }
        } else if judged as u16 & SENT == 0 {
            own[JUDGED].store(judged | u64::from(SENT), Relaxed);
            passed.shorter = self.sessions.answered(session.number());
        }
        own[TIME].store(own[TIME].load(Relaxed) & !0xffff_ffff | u64::from(passed.seen), Relaxed);
        own[COUNT].store(join(passed.acknowledged, counted(pool, half, counters, facts.length)), Relaxed);
        let way = half::way(output, own[REWRITE].load(Relaxed));
        if let Some(life) = passed.shorter {
            self.hasten(session.number(), life, now);
        }
        Checked::Pass(way)
    }

    /// Makes a session, unless there is one already.
    ///
    /// # Errors
    ///
    /// [`Refused`]: nothing changed but that the port may have lost its oldest half-open session.
    pub fn create<K: Key>(&mut self, new: &New<K>) -> Result<Created, Refused> {
        let keys = [new.initiator.key, new.responder.key];
        if keys[0] == keys[1] {
            return Err(Refused::Mirror);
        }
        let flags = first_peer(keys[0].protocol(), &new.facts).ok_or(Refused::Invalid)?;
        let hashes = keys.map(|key| self.sessions.hash(key));
        // That of the other key is found when the session is added; but what is there already must not be refused for want of room.
        let pool = &self.sessions.pools[K::FAMILY];
        if pool.find(hashes[0], &keys[0].words()).is_some()
            && let Some(present) = pool.present_for_sure(keys, hashes)
        {
            return Ok(created::<K>(present));
        }
        let record = self
            .admit::<K>(new.owner, new.now)
            .inspect_err(|refused| self.count_refused(new.owner, *refused))?;
        self.write(record, new, flags);
        match self.sessions.pools[K::FAMILY].add(record, keys, hashes) {
            Ok(()) => {
                self.enlist::<K>(record, new, &flags);
                Ok(Created::New(SessionRef(number(K::FAMILY, record) << 1)))
            }
            Err(not_added) => {
                self.leases[K::FAMILY].push(record);
                match not_added {
                    NotAdded::Present(present) => Ok(created::<K>(present)),
                    NotAdded::Crowded => {
                        self.count_refused(new.owner, Refused::Crowded);
                        Err(Refused::Crowded)
                    }
                }
            }
        }
    }

    /// [`SessionWorker::create`] for keys of either family.
    ///
    /// # Errors
    ///
    /// As there; [`Refused::Mirror`] if the two keys are of different families.
    pub fn create_any(&mut self, new: &New<AnyKey>) -> Result<Created, Refused> {
        match (new.initiator.key, new.responder.key) {
            (AnyKey::V4(initiator), AnyKey::V4(responder)) => {
                self.create(&new.with_keys(initiator, responder))
            }
            (AnyKey::V6(initiator), AnyKey::V6(responder)) => {
                self.create(&new.with_keys(initiator, responder))
            }
            _ => Err(Refused::Mirror),
        }
    }

    /// A record for a new session of `owner`, if it may have one.
    pub(super) fn admit<K: Key>(&mut self, owner: u16, now: u32) -> Result<u32, Refused> {
        let sessions = self.sessions.clone();
        let pool = &sessions.pools[K::FAMILY];
        let lease = LEASE.min(pool.capacity() / 64).max(1);
        if self.leases[K::FAMILY].is_empty() {
            pool.lease(&mut self.leases[K::FAMILY], lease);
        }
        let free = pool.free() + self.leases[K::FAMILY].len() as u32;
        if let Err(refused) = sessions.ports.admits(owner, &sessions.quota, free)
            && !self.displace(owner, now)
        {
            return Err(refused);
        }
        self.leases[K::FAMILY].pop().ok_or_else(|| {
            self.displace(owner, now);
            Refused::TableFull
        })
    }

    /// Gives up the oldest half-open session that `owner` has from this worker; whether there was one.
    #[cold]
    fn displace(&mut self, owner: u16, now: u32) -> bool {
        for _ in 0..TRIES {
            let Some((session, _)) = self.candidates.pop(owner) else { return false };
            if is_half_open(&self.sessions, session, owner) {
                self.now = now;
                self.cut_as(SessionRef(session << 1), DISPLACED);
                self.sessions.ports.displaced(owner);
                return true;
            }
        }
        false
    }

    fn count_refused(&self, owner: u16, refused: Refused) {
        let which = match refused {
            Refused::TableFull => TABLE_FULL,
            Refused::Quota => OVER_QUOTA,
            Refused::Share => OVER_SHARE,
            Refused::Crowded => CROWDED,
            Refused::Invalid | Refused::Mirror => return,
        };
        self.sessions.ports.refused(owner);
        self.count(which);
    }

    /// This worker's counts have no other writer.
    #[inline(always)]
    pub(super) fn count(&self, which: usize) {
        let count = &self.sessions.counts[usize::from(self.number)].0[which];
        count.store(count.load(Relaxed) + 1, Relaxed);
    }

    /// Fills a record that nobody sees yet.
    fn write<K: Key>(&self, record: u32, new: &New<K>, first: Peer) {
        let pool = &self.sessions.pools[K::FAMILY];
        let created = new.now / 1000;
        pool.set_cold(record, &Cold { worker: self.number, owner: new.owner, created, rules: new.rules });
        let counters = counted(pool, record << 1, 0, new.facts.length);
        let silent = if new.facts.tcp.is_some() { Peer::SILENT } else { Peer { flags: 0, ..Peer::SILENT } };
        for (half, side, peer, counters) in
            [(record << 1, &new.initiator, first, counters), (record << 1 | 1, &new.responder, silent, 0)]
        {
            let own = pool.half(half);
            pool.set_key(half, &side.key.words());
            own[TIME].store(join(side.stamp, new.now), Relaxed);
            own[SEQUENCE].store(join(peer.end, peer.edge), Relaxed);
            own[COUNT].store(join(peer.acknowledged, counters), Relaxed);
            set_way(own, side.way, new.epoch, peer.flags);
        }
    }

    /// Counts a new session and sees to its aging.
    fn enlist<K: Key>(&mut self, record: u32, new: &New<K>, first: &Peer) {
        let session = number(K::FAMILY, record);
        self.now = new.now;
        self.sessions.ports.add(new.owner);
        self.count(CREATED);
        let life = self.sessions.first_life(new.initiator.key.protocol(), first);
        let sessions = &self.sessions;
        self.wheel.insert(session, new.now.wrapping_add(life), new.now, |number| links(sessions, number));
        self.candidates.push(new.owner, session, new.now / 1000, |session, _| {
            is_half_open(sessions, session, new.owner)
        });
    }

    /// Says anew what a session rests on and where its packets go, and what its rules are. Its connection, counters and quota stay. If a key is another (an end has moved),
    /// the session goes on under the new keys.
    ///
    /// # Errors
    ///
    /// [`Refused`] as of [`SessionWorker::create`], if a key is another; the session is gone then.
    pub fn renew<K: Key>(
        &mut self,
        session: SessionRef,
        initiator: &Side<K>,
        responder: &Side<K>,
        epoch: u32,
        rules: [u32; 2],
    ) -> Result<SessionRef, Refused> {
        let record = parts(session.number()).1;
        let pool = &self.sessions.pools[K::FAMILY];
        let halves = [record << 1, record << 1 | 1];
        if halves.map(|half| pool.key::<K>(half)) != [initiator.key, responder.key] {
            return self.moved(session, [initiator, responder], epoch, rules);
        }
        for (side, with) in [(session, initiator), (session.opposite(), responder)] {
            let half = if session.is_initiator() { side } else { side.opposite() };
            self.renew_half(half, with.way, with.stamp, epoch, rules);
        }
        Ok(session)
    }

    /// Says anew where packets of one half go (`None`: nobody knows), what that rests on, and what the session's rules are.
    pub fn renew_half(
        &mut self,
        session: SessionRef,
        way: Option<(MacAddr, Way)>,
        stamp: u32,
        epoch: u32,
        rules: [u32; 2],
    ) {
        let (family, half) = half_parts(session.0);
        let pool = &self.sessions.pools[family];
        let own = pool.half(half);
        pool.set_rules(half >> 1, rules);
        own[TIME].store(join(stamp, split(own[TIME].load(Relaxed)).1), Relaxed);
        set_way(own, way, epoch, own[JUDGED].load(Relaxed) as u16);
        if pool.state(half >> 1) & LIVE == 0 {
            // Removed meanwhile; nobody may find a way in it.
            own[WAY].store(join(REMOVED, 0), Relaxed);
        }
    }

    /// The keys of the initiator and of the responder.
    pub fn keys(&self, session: SessionRef) -> (AnyKey, AnyKey) {
        let initiator = if session.is_initiator() { session } else { session.opposite() };
        (self.key(initiator), self.key(initiator.opposite()))
    }

    /// The key of a half.
    pub fn key(&self, session: SessionRef) -> AnyKey {
        self.sessions.key(session)
    }

    /// The counters of the rules that let a session pass.
    pub fn rules(&self, session: SessionRef) -> [u32; 2] {
        let (family, record) = parts(session.number());
        self.sessions.pools[family].get_cold(record).rules
    }

    /// The same, if the other half says that what the session was judged by is as it was: it is of this epoch.
    pub fn rules_at(&self, session: SessionRef, epoch: u32) -> Option<[u32; 2]> {
        let (family, half) = half_parts(session.opposite().0);
        let (output, seen) = split(self.sessions.pools[family].half(half)[WAY].load(Acquire));
        (seen == epoch && output < UNKNOWN).then(|| self.rules(session))
    }

    /// The sum that a half rests on.
    pub fn stamp(&self, session: SessionRef) -> u32 {
        let (family, half) = half_parts(session.0);
        split(self.sessions.pools[family].half(half)[TIME].load(Relaxed)).0
    }

    /// Removes a session: the rules no longer let it pass.
    pub fn cut(&mut self, session: SessionRef) {
        self.cut_as(session, CUT);
    }

    pub(super) fn cut_as(&mut self, session: SessionRef, why: usize) {
        let session = session.number();
        if !self.sessions.remove(session) {
            return;
        }
        self.count(why);
        let (family, record) = parts(session);
        let pool = &self.sessions.pools[family];
        if pool.worker(record) != self.number {
            self.sessions.call(session);
        } else if pool.state(record) & CALLED == 0 {
            self.retire(session);
        }
    }

    /// The half that a word of [`Found::word`] stood for, if it is still that of the same packets: those with this attachment and these addresses.
    pub fn still(&self, word: u32, attachment: u32, addresses: (IpAddr, IpAddr)) -> Option<SessionRef> {
        let session = Found(word).session()?;
        let key = self.sessions.key(session);
        let same = key.attachment() == attachment && key.addresses() == addresses;
        (same && self.find_any(key) == session.found()).then_some(session)
    }

    /// What was noted of the first fragment of a datagram, if that was let pass ([`SessionWorker::note_fragment`] with the same port).
    pub fn fragment(&self, key: &FragmentKey, port: u16, now: u32) -> Option<u32> {
        self.sessions.fragments.find(key, port, now)
    }

    /// A first fragment was let pass; `port`, of this host, sent it or gets it, and has room for 256 such. `word` is the caller's.
    pub fn note_fragment(&self, key: &FragmentKey, port: u16, now: u32, word: u32) {
        self.sessions.fragments.note(key, port, now, word);
    }
}

impl Drop for SessionWorker {
    fn drop(&mut self) {
        for (lease, pool) in self.leases.iter_mut().zip(&self.sessions.pools) {
            pool.give_back(lease);
        }
        lock(&self.sessions.orphans).append(&mut self.limbo.take());
        self.sessions.dismiss(self.number);
    }
}

/// The small counters of a half with one more packet; the cold ones take what does not fit.
#[inline(always)]
fn counted(pool: &Pool, half: u32, counters: u32, length: u32) -> u32 {
    half::count(counters, length).unwrap_or_else(|| {
        let (packets, bytes) = half::counted(counters);
        pool.add_count(half, packets + 1, bytes + u64::from(length));
        0
    })
}

/// Where packets of the half go, if it is good for this one.
#[inline(always)]
fn current_output(
    session: SessionRef,
    own: &[AtomicU64; 8],
    facts: &Facts,
    epoch: u32,
    sum: impl FnOnce(SessionRef, &Way) -> u32,
) -> Result<u32, Checked> {
    let way = own[WAY].load(Acquire);
    let output = split(way).0;
    if output == REMOVED {
        return Err(Checked::Gone);
    }
    let other = own[JUDGED].load(Relaxed) >> 16 != facts.destination_mac;
    match other || output == UNKNOWN || !is_current(session, own, way, epoch, sum) {
        true => Err(Checked::Stale(session)),
        false => Ok(output),
    }
}

/// Whether what the half rests on is as it was. If the epoch changed and nothing of that did, the half is of this epoch now.
#[inline(always)]
fn is_current(
    session: SessionRef,
    own: &[AtomicU64; 8],
    way: u64,
    epoch: u32,
    sum: impl FnOnce(SessionRef, &Way) -> u32,
) -> bool {
    let (output, seen) = split(way);
    if seen == epoch {
        return output != REMOVED;
    }
    let stamp = split(own[TIME].load(Relaxed)).0;
    if output == REMOVED || stamp != sum(session, &half::way(output, own[REWRITE].load(Relaxed))) {
        return false;
    }
    // Not over what somebody who judged again has put there.
    own[WAY].compare_exchange(way, join(output, epoch), Relaxed, Relaxed).is_ok()
}

/// What one half says of the initiator's first packet; `None` if no connection begins so.
fn first_peer(protocol: u8, facts: &Facts) -> Option<Peer> {
    match protocol {
        packet::tcp::PROTOCOL => tcp::open(facts.tcp.as_ref()?),
        _ => Some(Peer { flags: SENT, ..Peer::SILENT }),
    }
}

/// Says where packets of a half go; last what makes it valid.
pub(super) fn set_way(own: &[AtomicU64; 8], way: Option<(MacAddr, Way)>, epoch: u32, flags: u16) {
    let (mac, rewrite, output) =
        way.map_or((0, 0, UNKNOWN), |(mac, way)| (mac.to_u64(), half::rewrite_word(&way), way.output));
    own[JUDGED].store(mac << 16 | u64::from(flags), Relaxed);
    own[REWRITE].store(rewrite, Relaxed);
    own[WAY].store(join(output, epoch), Release);
}

#[cold]
#[inline(never)]
fn find<K: Sealed>(pool: &Pool, hash: u64, words: &[u64; 5]) -> Found {
    pool.find(hash, words).map_or(Found::NONE, |half| Found(number(K::FAMILY, 0) << 1 | half))
}

fn created<K: Key>(present: Present) -> Created {
    let session = |half| SessionRef(number(K::FAMILY, 0) << 1 | half);
    match present {
        Present::Both(half) => Created::Existing(session(half)),
        Present::One(half) => Created::Clash(session(half)),
    }
}

fn is_half_open(sessions: &Sessions, session: u32, owner: u16) -> bool {
    let (family, record) = parts(session);
    let pool = &sessions.pools[family];
    let state = pool.state(record);
    state & LIVE != 0 && state & HALF_OPEN != 0 && pool.get_cold(record).owner == owner
}
