//! Any bytes and any messages on a vhost-user session, with an owner that acknowledges soon or late: nothing panics, memory and log change
//! under no queue, no queue is started twice, nothing comes after the end.
//!
//! The input is a list of records: operation, length, bytes. See [`Bench::step`].
#![no_main]

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use rustix::event::EventfdFlags;
use rustix::fs::MemfdFlags;
use vhost_user::session::{Region, StateBlob};
use vhost_user::{Decoder, Event, Session, SessionConfig};

const NOW: Duration = Duration::from_secs(1);
const MEMORY: u64 = 0x20_0000;

fuzz_target!(|data: &[u8]| {
    if let Ok(blob) = StateBlob::decode(data) {
        assert_eq!(StateBlob::decode(&blob.encode()).ok(), Some(blob));
    }
    let mut bench = Bench::new();
    let mut rest = data;
    while let [operation, length, more @ ..] = rest {
        let (bytes, behind) = more.split_at(usize::from(*length).min(more.len()));
        bench.step(*operation, bytes);
        rest = behind;
    }
    bench.end();
});

fn memfd() -> OwnedFd {
    let fd = rustix::fs::memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a memfd");
    rustix::fs::ftruncate(&fd, MEMORY).expect("its size");
    fd
}

/// Descriptors that come with a message.
fn descriptors(kind: u8) -> Vec<OwnedFd> {
    let event = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
    match kind {
        1 => vec![memfd()],
        2 => vec![event()],
        3 => vec![memfd(), memfd(), memfd()],
        4 => vec![std::io::pipe().expect("a pipe").0.into()],
        5 => vec![std::os::unix::net::UnixStream::pair().expect("a pair").0.into()],
        6 => (0..9).map(|_| event()).collect(),
        _ => Vec::new(),
    }
}

struct Bench {
    session: Session,
    decoder: Decoder,
    running: BTreeSet<u16>,
    stopping: BTreeSet<u16>,
    memory: Vec<Region>,
    closed: bool,
    hold: bool,
}

impl Bench {
    fn new() -> Self {
        let session = Session::new(SessionConfig::new(u64::MAX, 2, Some([2, 0, 0, 0, 1, 10]), 1500));
        let (running, stopping) = (BTreeSet::new(), BTreeSet::new());
        let (decoder, memory) = (Decoder::new(), Vec::new());
        Self { session, decoder, running, stopping, memory, closed: false, hold: false }
    }

    /// One operation: its low half says what, its high half which descriptors.
    fn step(&mut self, operation: u8, bytes: &[u8]) {
        let first = bytes.first().copied().unwrap_or(0);
        match operation & 15 {
            0 => self.feed(bytes, descriptors(operation >> 4)),
            1..=8 => self.message(bytes, descriptors(operation >> 4)),
            9 => self.release(u16::from(first)),
            10 => self.hold = !self.hold,
            11 => self.session.freeze(),
            12 => self.session.set_link(first & 1 == 0),
            13 => self.session.set_mtu(u16::from(first) << 8),
            14 => {
                if self.running.remove(&u16::from(first)) {
                    self.session.queue_broken(u16::from(first), first.into());
                }
            }
            _ => drop(StateBlob::decode(bytes)),
        }
        self.settle();
    }

    /// Request and flags, then the payload: a message of the right size.
    fn message(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) {
        let [request, flags, payload @ ..] = bytes else { return };
        let fields = [u32::from(*request), u32::from(*flags) | 1, payload.len() as u32];
        let header: Vec<u8> = fields.iter().flat_map(|field| field.to_ne_bytes()).collect();
        self.feed(&[&header, payload].concat(), fds);
    }

    fn feed(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) {
        if self.session.is_over() {
            return;
        }
        match self.decoder.feed(bytes, fds, NOW) {
            Ok(messages) => messages.into_iter().for_each(|message| self.session.on_message(message)),
            Err(refusal) => self.session.on_refusal(refusal),
        }
    }

    fn release(&mut self, index: u16) {
        if self.stopping.remove(&index) {
            self.session.queue_stopped(index, 7);
        }
    }

    fn settle(&mut self) {
        while let Some(event) = self.session.next_event() {
            self.act(event);
        }
        while let Some(reply) = self.session.next_reply() {
            let size = u32::from_ne_bytes(reply.bytes[8..12].try_into().expect("four bytes"));
            assert_eq!(reply.bytes.len(), 12 + size as usize);
        }
        while let Some(request) = self.session.next_request() {
            assert!(request.len() >= 12);
        }
    }

    fn act(&mut self, event: Event) {
        assert!(!self.closed, "{event:?} after the end");
        let quiet = self.running.is_empty() && self.stopping.is_empty();
        match event {
            Event::MapMemory { regions } => {
                assert!(quiet, "memory changes under a queue");
                self.memory = regions;
                self.session.memory_mapped(Ok(()));
            }
            Event::LogChanged { .. } => {
                assert!(quiet, "the log changes under a queue");
                self.session.log_mapped(Ok(()));
            }
            Event::QueueReady(start) => {
                let parts = [start.addresses.descriptor, start.addresses.driver, start.addresses.device];
                let inside = |at: u64| self.memory.iter().any(|region| region.contains_user(at, 4));
                assert!(parts.into_iter().all(inside) && start.size > 0, "{start:?}");
                assert!(!self.stopping.contains(&start.index) && self.running.insert(start.index));
            }
            Event::StopQueue { index } => {
                assert!(self.running.remove(&index), "a queue is stopped that does not run");
                self.stopping.insert(index);
                if !self.hold {
                    self.release(index);
                }
            }
            Event::CallChanged { index, .. } => assert!(self.running.contains(&index)),
            Event::Closed { .. } => {
                assert!(quiet, "closed under a queue");
                self.closed = true;
            }
            _ => {}
        }
    }

    /// Whatever was going on, it comes to its end.
    fn end(&mut self) {
        self.hold = false;
        self.session.close(vhost_user::CloseReason::Disconnected);
        self.settle();
        while let Some(index) = self.stopping.first().copied() {
            self.release(index);
            self.settle();
        }
        assert!(self.closed && self.session.is_closed());
    }
}
