//! What the tests of this crate share: a front end made of raw messages, and an owner that acknowledges.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::EventfdFlags;
use rustix::fs::MemfdFlags;
use towpath_vhost_user::features::*;
use towpath_vhost_user::session::Region;
use towpath_vhost_user::{
    CloseReason, Decoder, Event, FrontendReq, Message, QueueStart, Refusal, Session, SessionConfig,
};

pub(crate) const NOW: Duration = Duration::from_secs(1000);
/// Guest memory of the tests: two regions whose user addresses are far from their guest addresses.
pub(crate) const REGION_BYTES: u64 = 0x20_0000;
pub(crate) const USER_BASE: u64 = 0x7f00_0000_0000;

pub(crate) fn memfd(bytes: u64) -> OwnedFd {
    let fd = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&fd, bytes).unwrap();
    fd
}

pub(crate) fn eventfd() -> OwnedFd {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

pub(crate) fn dup(fd: &OwnedFd) -> OwnedFd {
    fd.try_clone().unwrap()
}

pub(crate) fn u64s(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_ne_bytes()).collect()
}

pub(crate) fn u32s(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_ne_bytes()).collect()
}

/// Payload of SET_MEM_TABLE: `(guest, size, user, offset)` for each region.
pub(crate) fn table(regions: &[[u64; 4]]) -> Vec<u8> {
    let mut payload = u32s(&[regions.len() as u32, 0]);
    payload.extend(regions.iter().flat_map(|region| u64s(region)));
    payload
}

/// Payload of ADD_MEM_REG and REM_MEM_REG.
pub(crate) fn single(region: [u64; 4]) -> Vec<u8> {
    [u64s(&[0]), u64s(&region)].concat()
}

/// Payload of SET_VRING_ADDR of a split or packed ring laid out from `user` on, 64 KiB apart.
pub(crate) fn addr(index: u32, flags: u32, user: u64) -> Vec<u8> {
    [u32s(&[index, flags]), u64s(&[user, user + 0x2_0000, user + 0x1_0000, 0])].concat()
}

/// User address of the ring of a queue.
pub(crate) fn ring_at(index: u32) -> u64 {
    USER_BASE + u64::from(index) * 0x4_0000
}

/// Names and counts of this process's open descriptors.
pub(crate) fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A session with an owner that acknowledges at once, unless told to hold.
pub(crate) struct Bench {
    pub(crate) session: Session,
    pub(crate) running: BTreeMap<u16, QueueStart>,
    pub(crate) stopping: BTreeSet<u16>,
    pub(crate) memory: Vec<Region>,
    pub(crate) events: Vec<String>,
    pub(crate) closed: Option<CloseReason>,
    pub(crate) refused: Vec<Refusal>,
    pub(crate) bases: BTreeMap<u16, u32>,
    pub(crate) logging: bool,
    /// Keep stop requests unanswered.
    pub(crate) hold: bool,
}

impl Default for Bench {
    fn default() -> Self {
        Self::new(SessionConfig::new(u64::MAX, 4, Some([2, 0, 0, 0, 1, 10]), 1500))
    }
}

impl Bench {
    pub(crate) fn new(config: SessionConfig) -> Self {
        Self::with(Session::new(config))
    }

    pub(crate) fn with(session: Session) -> Self {
        let mut bench = Self {
            session,
            running: BTreeMap::new(),
            stopping: BTreeSet::new(),
            memory: Vec::new(),
            events: Vec::new(),
            closed: None,
            refused: Vec::new(),
            bases: BTreeMap::new(),
            logging: false,
            hold: false,
        };
        bench.settle();
        bench
    }

    /// Sends one message and lets the owner act. Gives the reply's payload, if there is one.
    pub(crate) fn send(
        &mut self,
        request: FrontendReq,
        need_reply: bool,
        payload: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Option<Vec<u8>> {
        let flags = 1 | if need_reply { 8 } else { 0 };
        let header = u32s(&[request.into(), flags, payload.len() as u32]);
        let mut decoder = Decoder::new();
        match decoder.feed(&[&header, payload].concat(), fds, NOW) {
            Ok(messages) => messages.into_iter().for_each(|message| self.session.on_message(message)),
            Err(refusal) => self.session.on_refusal(refusal),
        }
        self.settle();
        self.reply(request)
    }

    pub(crate) fn reply(&mut self, request: FrontendReq) -> Option<Vec<u8>> {
        let reply = self.session.next_reply()?;
        let header = Decoder::new();
        drop(header);
        assert_eq!(reply.bytes[..4], u32::from(request).to_ne_bytes(), "reply to {request:?}");
        assert_eq!(reply.bytes[4..8], 5u32.to_ne_bytes(), "version 1, reply");
        assert_eq!(reply.bytes[8..12], ((reply.bytes.len() - 12) as u32).to_ne_bytes());
        Some(reply.bytes[12..].to_vec())
    }

    pub(crate) fn message(
        request: FrontendReq,
        need_reply: bool,
        payload: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Message {
        Message { request, need_reply, payload: payload.to_vec(), fds }
    }

    pub(crate) fn settle(&mut self) {
        while let Some(event) = self.session.next_event() {
            self.act(event);
        }
    }

    fn act(&mut self, event: Event) {
        self.events.push(format!("{event:?}").split([' ', '(', '{']).next().unwrap_or_default().to_owned());
        assert_eq!(self.closed, None, "nothing comes after Closed, but {event:?}");
        match event {
            Event::MapMemory { regions } => {
                assert!(self.running.is_empty() && self.stopping.is_empty(), "memory changes under a queue");
                self.memory = regions;
                self.session.memory_mapped(Ok(()));
            }
            Event::LogChanged { log } => {
                assert!(self.running.is_empty() && self.stopping.is_empty(), "log changes under a queue");
                self.logging = log.is_some();
                self.session.log_mapped(Ok(()));
            }
            Event::QueueReady(start) => {
                let part = |at: u64| self.memory.iter().any(|region| region.contains_user(at, 16));
                assert!(part(start.addresses.descriptor) && part(start.addresses.driver));
                assert!(!self.stopping.contains(&start.index));
                assert!(self.running.insert(start.index, *start).is_none(), "started twice");
            }
            Event::StopQueue { index } => {
                let start = self.running.remove(&index).expect("a stopped queue ran");
                self.bases.entry(index).or_insert(start.base);
                self.stopping.insert(index);
                if !self.hold {
                    self.release(index);
                }
            }
            Event::CallChanged { index, call } => {
                self.running.get_mut(&index).expect("only running queues").call = call;
            }
            Event::Refused(refusal) => self.refused.push(refusal),
            Event::Closed { reason } => {
                assert!(self.running.is_empty() && self.stopping.is_empty(), "closed under a queue");
                self.memory.clear();
                self.closed = Some(reason);
            }
            _ => {}
        }
    }

    /// Lets a queue go that was asked back.
    pub(crate) fn release(&mut self, index: u16) {
        assert!(self.stopping.remove(&index));
        let base = self.bases.remove(&index).unwrap_or(0);
        self.session.queue_stopped(index, base);
        self.settle();
    }

    /// Negotiates as a front end does before queues: owner, protocol features, features.
    pub(crate) fn negotiate(&mut self, features: u64) {
        use FrontendReq as R;
        self.send(R::SET_OWNER, false, &[], vec![]);
        let protocol = self.session.config().protocol;
        self.send(R::SET_PROTOCOL_FEATURES, false, &u64s(&[protocol.bits()]), vec![]);
        self.send(R::SET_FEATURES, false, &u64s(&[features | VHOST_USER_F_PROTOCOL_FEATURES]), vec![]);
        assert_eq!(self.closed, None);
    }

    /// One region of memory in which all rings fit.
    pub(crate) fn give_memory(&mut self) {
        let payload = table(&[[0x4000_0000, REGION_BYTES, USER_BASE, 0]]);
        self.send(FrontendReq::SET_MEM_TABLE, false, &payload, vec![memfd(REGION_BYTES)]);
    }

    /// Everything a queue needs.
    pub(crate) fn give_queue(&mut self, index: u32, size: u32) {
        use FrontendReq as R;
        self.send(R::SET_VRING_NUM, false, &u32s(&[index, size]), vec![]);
        self.send(R::SET_VRING_BASE, false, &u32s(&[index, 0]), vec![]);
        self.send(R::SET_VRING_ADDR, false, &addr(index, 0, ring_at(index)), vec![]);
        self.send(R::SET_VRING_CALL, false, &u64s(&[index.into()]), vec![eventfd()]);
        self.send(R::SET_VRING_KICK, false, &u64s(&[index.into()]), vec![eventfd()]);
        self.send(R::SET_VRING_ENABLE, false, &u32s(&[index, 1]), vec![]);
    }

    /// A session with two running queues.
    pub(crate) fn running() -> Self {
        let mut bench = Self::default();
        bench.negotiate(VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF);
        bench.give_memory();
        bench.give_queue(0, 256);
        bench.give_queue(1, 256);
        assert_eq!(bench.running.len(), 2, "{:?}", bench.events);
        bench.events.clear();
        bench
    }

    pub(crate) fn count(&self, refusal: Refusal) -> u64 {
        self.session.refusals().get(refusal)
    }

    /// Whether exactly this was refused, once, and nothing else.
    pub(crate) fn refused_only(&self, refusal: Refusal) -> bool {
        self.count(refusal) == 1 && self.session.refusals().total() == 1
    }

    pub(crate) fn is_running(&self, indices: &[u16]) -> bool {
        self.running.keys().copied().eq(indices.iter().copied())
    }
}

/// Whether two descriptors are the same open file.
pub(crate) fn same_file(a: impl AsFd, b: impl AsFd) -> bool {
    let (a, b) = (rustix::fs::fstat(a).unwrap(), rustix::fs::fstat(b).unwrap());
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}
