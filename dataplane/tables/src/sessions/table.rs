//! The table: what workers share, and what control threads ask it.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use packet::tcp;

use super::fragments::Fragments;
use super::half::{self, COUNT, JUDGED, SEQUENCE, TIME, join, protocol, split};
use super::hash::{Hasher, Kind};
use super::index::Index;
use super::key::{self, Key, Key4, Key6, port_of_word, sealed::Sealed};
use super::limbo::Quiescence;
use super::memory::Arena;
use super::pool::{CALLED, COLD, HALF_OPEN, LIVE, Pool};
use super::quota::{PORTS, PortCounts, Ports};
use super::tcp::{Peer, SENT, TcpState};
use super::{AnyKey, Options, Quota, SessionRef, SessionWorker, Timeouts};
use crate::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// Workers there may be.
pub(super) const WORKERS: usize = 16;
/// "towpath!"
const MAGIC: u64 = 0x746f_7770_6174_6821;
/// Of the layout of everything in the file.
const VERSION: u64 = 1;
/// Bytes before the first pool.
const HEADER: usize = 4096;
/// Words of the header.
const HEADER_WORDS: usize = 6;

/// Where the numbers of IPv6 sessions begin.
const FAMILY_SHIFT: u32 = 24;

/// The number of a session among those of both families.
#[inline(always)]
pub(super) const fn number(family: usize, record: u32) -> u32 {
    (family as u32) << FAMILY_SHIFT | record
}

/// Family and record.
#[inline(always)]
pub(super) const fn parts(number: u32) -> (usize, u32) {
    ((number >> FAMILY_SHIFT) as usize & 1, number & ((1 << FAMILY_SHIFT) - 1))
}

/// Family, and half in its pool.
#[inline(always)]
pub(super) const fn half_parts(session: u32) -> (usize, u32) {
    ((session >> (FAMILY_SHIFT + 1)) as usize & 1, session & ((2 << FAMILY_SHIFT) - 1))
}

/// Sessions that a worker should look at, from others.
#[derive(Default)]
pub(super) struct Calls {
    any: AtomicU32,
    numbers: Mutex<Vec<u32>>,
}

/// What happened since the table was made; each adds up over all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "counts named by what they count")]
pub struct Statistics {
    pub ipv4: u32,
    pub ipv4_capacity: u32,
    /// Records that anybody may have: neither in use, nor in a worker's reserve, nor resting after use.
    pub ipv4_free: u32,
    pub ipv6: u32,
    pub ipv6_capacity: u32,
    /// See `ipv4_free`.
    pub ipv6_free: u32,
    pub created: u64,
    pub expired: u64,
    /// Removed because the rules or an address changed, or the port left.
    pub cut: u64,
    /// Half-open ones given up for newer ones of the same port.
    pub displaced: u64,
    pub refused_table_full: u64,
    pub refused_quota: u64,
    pub refused_share: u64,
    pub refused_crowded: u64,
    /// Bytes of memory mapped.
    pub bytes: u64,
    /// On reserved 2 MiB pages.
    pub huge_pages: bool,
}

/// Counts of one worker.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Counts(pub(super) [AtomicU64; 8]);

pub(super) const CREATED: usize = 0;
pub(super) const EXPIRED: usize = 1;
pub(super) const CUT: usize = 2;
pub(super) const DISPLACED: usize = 3;
pub(super) const TABLE_FULL: usize = 4;
pub(super) const OVER_QUOTA: usize = 5;
pub(super) const OVER_SHARE: usize = 6;
pub(super) const CROWDED: usize = 7;

/// The table of sessions. See the [module](super).
pub struct Sessions {
    arena: Arena,
    pub(super) pools: [Pool; 2],
    pub(super) hasher: Hasher,
    pub(super) timeouts: Timeouts,
    pub(super) quota: Quota,
    pub(super) ports: Ports,
    pub(super) quiescence: Quiescence,
    pub(super) fragments: Fragments,
    calls: Box<[Calls]>,
    taken: [AtomicBool; WORKERS],
    /// Records that rested with workers that are gone.
    pub(super) orphans: Mutex<Vec<u32>>,
    /// One per worker, and one for control threads.
    pub(super) counts: Box<[Counts]>,
}

/// A session, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Where the initiator's packets enter; see [`super::attachment_of_port`] and [`super::UNDERLAY`].
    pub attachment: u32,
    /// Where the responder's packets enter.
    pub answers: u32,
    /// Who began.
    pub initiator: (IpAddr, u16),
    /// With whom.
    pub responder: (IpAddr, u16),
    /// What the packets of the other direction say: source and destination. Not the above turned round where they are translated.
    pub answer: [(IpAddr, u16); 2],
    /// IP protocol.
    pub protocol: u8,
    /// Of TCP.
    pub state: Option<TcpState>,
    /// Nothing, or not enough, came from the other side yet.
    pub half_open: bool,
    /// The port that pays.
    pub owner: u16,
    /// Packets and bytes of the initiator and of the responder.
    pub counts: [(u64, u64); 2],
    /// The counters of the egress and the ingress rule that let it pass.
    pub rules: [u32; 2],
    /// Milliseconds since it was made.
    pub age: u64,
    /// Milliseconds since its last packet.
    pub idle: u32,
    /// Milliseconds until it ends if no packet comes.
    pub left: u32,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding these.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes of a pool, and of all that is in front of its parts.
fn pool_bytes(capacity: u32, lines_each: usize) -> [usize; 4] {
    let capacity = capacity as usize;
    let index = Index::buckets_for(capacity as u32) as usize * 64;
    [index, capacity * lines_each * 64, capacity * COLD * 8, capacity * 8]
        .map(|bytes| bytes.next_multiple_of(64))
}

fn damaged(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the memory of sessions cannot be taken over: {text}"))
}

fn pool<K: Sealed>(arena: &Arena, offset: usize, capacity: u32) -> Option<Pool> {
    let sizes = pool_bytes(capacity, K::LINES);
    let [index, lines, cold, links] = [0, 1, 2, 3].map(|part| offset + sizes[..part].iter().sum::<usize>());
    Some(Pool::new(
        Index::new(arena.region(index, Index::buckets_for(capacity) as usize)?),
        arena.region(lines, capacity as usize * K::LINES)?,
        K::LINES,
        arena.region(cold, capacity as usize * COLD)?,
        arena.region(links, capacity as usize)?,
        capacity,
    ))
}

impl Sessions {
    /// A new, empty table.
    ///
    /// # Errors
    ///
    /// No memory; sizes out of range ([`io::ErrorKind::InvalidInput`]).
    pub fn create(options: &Options) -> io::Result<Arc<Self>> {
        let sizes = [options.ipv4, options.ipv6];
        if sizes.iter().any(|size| !(1..=Options::MOST).contains(size)) {
            let text = format!("limits.sessions: {sizes:?} is not between 1 and {}", Options::MOST);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let bytes = Self::bytes(sizes);
        #[cfg(not(loom))]
        let arena = Arena::create("towpath-sessions", bytes, options.huge_pages)?;
        #[cfg(loom)]
        let (arena, _) = (Arena, bytes);
        let header = arena.region::<AtomicU64>(0, HEADER_WORDS).ok_or_else(|| damaged("it is too short"))?;
        let [a, b] = options.secret;
        let words = [MAGIC, VERSION, join(sizes[0], sizes[1]), a, b, Kind::best().number()];
        // The magic number last: half a header is none.
        for (word, value) in header.iter().zip(words).rev() {
            word.store(value, Release);
        }
        Self::assemble(arena, sizes, options, Kind::best())
    }

    /// The table that another process, or an earlier one, made: sizes and secret are its, lives and quotas those of `options`.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidData`] if it is none, or of another version or size.
    #[cfg(not(loom))]
    pub fn open(file: OwnedFd, options: &Options) -> io::Result<Arc<Self>> {
        let arena = Arena::open(file)?;
        let header = arena.region::<AtomicU64>(0, HEADER_WORDS).ok_or_else(|| damaged("it is too short"))?;
        let [magic, version, sizes, a, b, kind] = std::array::from_fn(|word| header[word].load(Acquire));
        if magic != MAGIC || version != VERSION {
            return Err(damaged(&format!(
                "its header says {magic:#x} version {version}, not {MAGIC:#x} version {VERSION}"
            )));
        }
        let sizes = <[u32; 2]>::from(split(sizes));
        if sizes.iter().any(|size| !(1..=Options::MOST).contains(size)) || arena.length() < Self::bytes(sizes)
        {
            return Err(damaged(&format!("{} bytes are not of {sizes:?} sessions", arena.length())));
        }
        let kind = Kind::of_number(kind)
            .ok_or_else(|| damaged("this processor lacks the instructions of its hash"))?;
        let sessions = Self::assemble(arena, sizes, &Options { secret: [a, b], ..options.clone() }, kind)?;
        for pool in &sessions.pools {
            for record in pool.recover() {
                let owner = pool.get_cold(record).owner;
                match pool.state(record) & HALF_OPEN {
                    0 => sessions.ports.add_open(owner),
                    _ => sessions.ports.add(owner),
                }
            }
        }
        Ok(sessions)
    }

    fn bytes(sizes: [u32; 2]) -> usize {
        let [ipv4, ipv6] = sizes;
        HEADER
            + pool_bytes(ipv4, Key4::LINES).iter().sum::<usize>()
            + pool_bytes(ipv6, Key6::LINES).iter().sum::<usize>()
    }

    fn assemble(arena: Arena, sizes: [u32; 2], options: &Options, kind: Kind) -> io::Result<Arc<Self>> {
        let second = HEADER + pool_bytes(sizes[0], Key4::LINES).iter().sum::<usize>();
        let pools = (pool::<Key4>(&arena, HEADER, sizes[0]), pool::<Key6>(&arena, second, sizes[1]));
        let (Some(ipv4), Some(ipv6)) = pools else { return Err(damaged("it is too short")) };
        Ok(Arc::new(Self {
            arena,
            pools: [ipv4, ipv6],
            hasher: Hasher::new(kind, options.secret),
            timeouts: options.timeouts,
            quota: options.quota,
            ports: Ports::new(PORTS),
            quiescence: Quiescence::new(WORKERS),
            fragments: Fragments::new(options.secret),
            calls: (0..WORKERS).map(|_| Calls::default()).collect(),
            taken: [const { AtomicBool::new(false) }; WORKERS],
            orphans: Mutex::default(),
            counts: (0..=WORKERS).map(|_| Counts::default()).collect(),
        }))
    }

    /// The memory file, to be handed to another process.
    #[cfg(not(loom))]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.arena.file()
    }

    /// The half for worker number `number`; `None` if it is taken, or not below 16. It ages the sessions that an earlier worker of that number made; `now`: milliseconds.
    pub fn worker(self: &Arc<Self>, number: u8, now: u32) -> Option<SessionWorker> {
        let taken = self.taken.get(usize::from(number))?;
        (!taken.swap(true, Acquire)).then(|| SessionWorker::new(self.clone(), number, now))
    }

    pub(super) fn dismiss(&self, number: u8) {
        self.quiescence.off_line(number.into());
        if let Some(taken) = self.taken.get(usize::from(number)) {
            taken.store(false, Release);
        }
    }

    /// Numbers of the sessions that worker `worker` ages.
    pub(super) fn aged_by(&self, worker: u8) -> impl Iterator<Item = u32> + '_ {
        self.live().filter(move |number| {
            let (family, record) = parts(*number);
            self.pools[family].worker(record) == worker
        })
    }

    /// Numbers of the sessions in the table.
    fn live(&self) -> impl Iterator<Item = u32> + '_ {
        self.pools.iter().enumerate().flat_map(|(family, pool)| {
            (0..pool.ever_used())
                .filter(|record| pool.state(*record) & LIVE != 0)
                .map(move |record| number(family, record))
        })
    }

    /// A branch that goes one way for a burst, instead of arithmetic in front of the loads.
    #[inline(always)]
    pub(super) fn pool(&self, family: usize) -> &Pool {
        let [ipv4, ipv6] = &self.pools;
        if family == 0 { ipv4 } else { ipv6 }
    }

    /// The key of a half.
    pub fn key(&self, session: SessionRef) -> AnyKey {
        let (family, half) = half_parts(session.0);
        let pool = &self.pools[family];
        if family == Key4::FAMILY { AnyKey::V4(pool.key(half)) } else { AnyKey::V6(pool.key(half)) }
    }

    /// Whether the two ends of a session know it by different addresses or ports.
    pub fn is_translated(&self, session: SessionRef) -> bool {
        fn differs<K: Key>(pool: &Pool, half: u32) -> bool {
            let [own, opposite] = [half, half ^ 1].map(|half| pool.key::<K>(half));
            own.reversed(opposite.attachment()) != opposite
        }
        let (family, half) = half_parts(session.0);
        let pool = &self.pools[family];
        if family == Key4::FAMILY { differs::<Key4>(pool, half) } else { differs::<Key6>(pool, half) }
    }

    /// Where packets of a half come in.
    pub fn attachment(&self, session: SessionRef) -> u32 {
        let (family, half) = half_parts(session.0);
        key::attachment_of_word(self.pools[family].half(half)[half::KEY].load(Relaxed))
    }

    #[inline(always)]
    pub(super) fn hash<K: Key>(&self, key: K) -> u64 {
        self.hasher.of(key)
    }

    /// Takes a session out of the table; whether this call did. Its record is its worker's to free.
    pub(super) fn remove(&self, session: u32) -> bool {
        match parts(session) {
            (0, record) => self.remove_key::<Key4>(record),
            (_, record) => self.remove_key::<Key6>(record),
        }
    }

    fn remove_key<K: Key>(&self, record: u32) -> bool {
        let pool = &self.pools[K::FAMILY];
        let Some(before) = pool.take::<K>(record, |key| self.hash(key)) else { return false };
        let owner = pool.get_cold(record).owner;
        self.ports.remove(owner);
        if before & HALF_OPEN != 0 {
            self.ports.opened(owner);
        }
        true
    }

    /// Asks for what is read of a session that is looked at.
    pub(super) fn ask_for(&self, session: u32) {
        let (family, record) = parts(session);
        self.pools[family].prefetch_whole(record);
    }

    /// Asks for the index where a session is in it.
    pub(super) fn ask_for_buckets(&self, session: u32) {
        match parts(session) {
            (0, record) => self.ask_for_buckets_of::<Key4>(record),
            (_, record) => self.ask_for_buckets_of::<Key6>(record),
        }
    }

    fn ask_for_buckets_of<K: Key>(&self, record: u32) {
        let pool = &self.pools[K::FAMILY];
        for half in [record << 1, record << 1 | 1] {
            pool.index.prefetch(self.hash(pool.key::<K>(half)));
        }
    }

    /// Asks the session's worker to look at it.
    pub(super) fn call(&self, session: u32) {
        let (family, record) = parts(session);
        let pool = &self.pools[family];
        if pool.set_state(record, CALLED) & CALLED == 0
            && let Some(calls) = self.calls.get(usize::from(pool.worker(record)))
        {
            lock(&calls.numbers).push(session);
            calls.any.store(1, Release);
        }
    }

    /// What worker `worker` was asked to look at.
    #[inline(always)]
    pub(super) fn calls(&self, worker: usize, into: &mut Vec<u32>) {
        let calls = &self.calls[worker];
        if calls.any.load(Relaxed) != 0 {
            let mut numbers = lock(&calls.numbers);
            calls.any.store(0, Relaxed);
            into.append(&mut numbers);
        }
    }

    /// The session can no longer be given up.
    pub(super) fn opened(&self, session: u32) {
        let (family, record) = parts(session);
        let pool = &self.pools[family];
        if pool.clear_state(record, HALF_OPEN) & HALF_OPEN != 0 {
            self.ports.opened(pool.get_cold(record).owner);
            if let Some(port) = port_of_word(pool.half(record << 1)[half::KEY].load(Relaxed)) {
                self.ports.answered(port);
            }
        }
    }

    /// How many sessions that local port `port` began somebody answered, since the table was made or opened. It wraps.
    pub fn answered_to(&self, port: u16) -> u32 {
        self.ports.answered_to(port)
    }

    /// The other side of something that is not TCP answered for the first time. How long it lives from now on, if that is shorter.
    #[cold]
    pub(super) fn answered(&self, session: u32) -> Option<u32> {
        self.opened(session);
        (self.timeouts.udp_stream < self.timeouts.udp_unreplied).then(|| self.life(session).1)
    }

    /// The two TCP peers of a session.
    pub(super) fn peers(pool: &Pool, record: u32) -> [Peer; 2] {
        [record << 1, record << 1 | 1].map(|half| peer(pool.half(half)))
    }

    /// When the last packet came, and how long the session lives from then, in milliseconds.
    pub(super) fn life(&self, session: u32) -> (u32, u32) {
        let (family, record) = parts(session);
        let pool = &self.pools[family];
        let halves = [pool.half(record << 1), pool.half(record << 1 | 1)];
        let [first, second] = halves.map(|half| split(half[TIME].load(Relaxed)).1);
        let seen = if second.wrapping_sub(first) as i32 > 0 { second } else { first };
        let timeouts = &self.timeouts;
        let protocol = protocol(halves[0][half::KEY].load(Relaxed));
        if protocol == tcp::PROTOCOL {
            let [initiator, responder] = Self::peers(pool, record);
            return (seen, super::tcp::timeout(&initiator, &responder, &timeouts.tcp));
        }
        (seen, timeouts.without_states(protocol, halves[1][JUDGED].load(Relaxed) as u16 & SENT != 0))
    }

    /// How long a session lives after its first packet, of which this is what its sender said.
    pub(super) fn first_life(&self, protocol: u8, first: &Peer) -> u32 {
        match protocol {
            tcp::PROTOCOL => super::tcp::timeout(first, &Peer::SILENT, &self.timeouts.tcp),
            _ => self.timeouts.without_states(protocol, false),
        }
    }

    /// Removes the sessions that any of `ports` pays for or takes part in: they left. Looks at `looks` records from place `from` on (0: the beginning of the table);
    /// where to go on, if that is not its end, at which their counts begin anew. For control threads.
    pub fn forget_ports(&self, ports: &BTreeSet<u16>, from: u64, looks: u32) -> Option<u64> {
        let mut at = from;
        for _ in 0..looks {
            let Some(session) = self.place(&mut at) else { break };
            at += 1;
            if self.is_of(session, ports) && self.remove(session) {
                self.call(session);
                self.counts[WORKERS].0[CUT].fetch_add(1, Relaxed);
            }
        }
        let more = self.place(&mut at).is_some();
        if !more {
            ports.iter().for_each(|port| self.ports.begin(*port));
        }
        more.then_some(at)
    }

    fn is_of(&self, session: u32, ports: &BTreeSet<u16>) -> bool {
        let (family, record) = parts(session);
        let pool = &self.pools[family];
        let enters = |half: u32| super::key::port_of_word(pool.half(half)[half::KEY].load(Relaxed));
        pool.state(record) & LIVE != 0
            && (ports.contains(&pool.get_cold(record).owner)
                || [record << 1, record << 1 | 1]
                    .into_iter()
                    .filter_map(enters)
                    .any(|port| ports.contains(&port)))
    }

    /// What ports may have.
    pub fn quota(&self) -> &Quota {
        &self.quota
    }

    /// Sessions of IPv4 that a port may have at the moment: fewer as the table fills up.
    pub fn allowance(&self) -> u32 {
        let Quota { sessions, guaranteed, share, .. } = self.quota;
        let pool = &self.pools[0];
        guaranteed.max(pool.free().saturating_mul(share)).min(sessions).min(pool.capacity())
    }

    /// What port `port` has.
    pub fn port_counts(&self, port: u16) -> PortCounts {
        self.ports.counts(port)
    }

    /// What happened so far, and how full the table is.
    pub fn statistics(&self) -> Statistics {
        let sum = |which: usize| self.counts.iter().map(|counts| counts.0[which].load(Relaxed)).sum::<u64>();
        let [ipv4, ipv6] = [0, 1].map(|family| self.pools[family].live());
        Statistics {
            ipv4,
            ipv4_capacity: self.pools[0].capacity(),
            ipv4_free: self.pools[0].free(),
            ipv6,
            ipv6_capacity: self.pools[1].capacity(),
            ipv6_free: self.pools[1].free(),
            created: sum(CREATED),
            expired: sum(EXPIRED),
            cut: sum(CUT),
            displaced: sum(DISPLACED),
            refused_table_full: sum(TABLE_FULL),
            refused_quota: sum(OVER_QUOTA),
            refused_share: sum(OVER_SHARE),
            refused_crowded: sum(CROWDED),
            #[cfg(not(loom))]
            bytes: self.arena.length() as u64,
            #[cfg(not(loom))]
            huge_pages: self.arena.is_huge(),
            #[cfg(loom)]
            bytes: 0,
            #[cfg(loom)]
            huge_pages: false,
        }
    }

    /// Up to `most` sessions that `chosen` chooses, at `now`. For control threads: looks at the whole table.
    pub fn list(&self, now: u32, most: usize, chosen: impl Fn(&Listed) -> bool) -> Vec<Listed> {
        self.live()
            .map(|session| self.listed(session, now))
            .filter(|listed| chosen(listed))
            .take(most)
            .collect()
    }

    /// Sessions that `chosen` chooses, from a place in the table on (0: its beginning) until `most` are found or so many records were looked at; and where to go
    /// on, if that is not the end. For control threads: reads only, so workers are not disturbed. A session that ends meanwhile is left out.
    pub fn page(
        &self,
        from: u64,
        looks: u32,
        (now, most): (u32, usize),
        chosen: impl Fn(&Listed) -> bool,
    ) -> (Vec<Listed>, Option<u64>) {
        let (mut found, mut at) = (Vec::new(), from);
        for _ in 0..looks {
            let Some(session) = self.place(&mut at) else { return (found, None) };
            if found.len() >= most {
                return (found, Some(at));
            }
            at += 1;
            found.extend(self.seen(session, now).filter(|listed| chosen(listed)));
        }
        let more = self.place(&mut at).is_some();
        (found, more.then_some(at))
    }

    /// The number of the record at a place; where IPv4's end, that of the first of IPv6. `None` at the end of the table.
    fn place(&self, at: &mut u64) -> Option<u32> {
        let number = u32::try_from(*at).ok().filter(|number| number >> (FAMILY_SHIFT + 1) == 0)?;
        let (family, record) = parts(number);
        if record < self.pools[family].ever_used() {
            return Some(number);
        }
        let second = self::number(1, 0);
        if family == 1 || self.pools[1].ever_used() == 0 {
            return None;
        }
        *at = u64::from(second);
        Some(second)
    }

    /// A session, if it is in the table, and stayed there while it was looked at.
    fn seen(&self, session: u32, now: u32) -> Option<Listed> {
        let (family, record) = parts(session);
        let pool = &self.pools[family];
        let key = || pool.half(record << 1)[half::KEY].load(Acquire);
        let (state, before) = (pool.state(record), key());
        let listed = (state & LIVE != 0).then(|| self.listed(session, now))?;
        (pool.state(record) & LIVE != 0 && key() == before).then_some(listed)
    }

    /// One session.
    pub fn describe(&self, session: SessionRef, now: u32) -> Listed {
        self.listed(session.number(), now)
    }

    fn listed(&self, session: u32, now: u32) -> Listed {
        match parts(session) {
            (0, record) => self.listed_key::<Key4>(record, session, now),
            (_, record) => self.listed_key::<Key6>(record, session, now),
        }
    }

    fn listed_key<K: Key>(&self, record: u32, session: u32, now: u32) -> Listed {
        let pool = &self.pools[K::FAMILY];
        let [first, second] = [record << 1, record << 1 | 1];
        let (key, answer) = (pool.key::<K>(first), pool.key::<K>(second));
        let ((source, destination), ports) = (key.addresses(), key.ports());
        let ((from, to), answer_ports) = (answer.addresses(), answer.ports());
        let (cold, (seen, life)) = (pool.get_cold(record), self.life(session));
        let [initiator, responder] = Self::peers(pool, record);
        let idle = now.wrapping_sub(seen);
        Listed {
            attachment: key.attachment(),
            answers: answer.attachment(),
            initiator: (source, ports.0),
            responder: (destination, ports.1),
            answer: [(from, answer_ports.0), (to, answer_ports.1)],
            protocol: key.protocol(),
            state: (key.protocol() == tcp::PROTOCOL).then(|| super::tcp::state(&initiator, &responder)),
            half_open: pool.state(record) & HALF_OPEN != 0,
            owner: cold.owner,
            counts: [pool.counts(first), pool.counts(second)],
            rules: cold.rules,
            age: u64::from((now / 1000).wrapping_sub(cold.created) & 0xff_ffff) * 1000,
            idle,
            left: life.saturating_sub(idle),
        }
    }
}

/// What a half's sender said, of TCP.
#[inline(always)]
pub(super) fn peer(half: &[AtomicU64; 8]) -> Peer {
    let (end, edge) = split(half[SEQUENCE].load(Relaxed));
    Peer {
        flags: half[JUDGED].load(Relaxed) as u16,
        end,
        edge,
        acknowledged: split(half[COUNT].load(Relaxed)).0,
    }
}
