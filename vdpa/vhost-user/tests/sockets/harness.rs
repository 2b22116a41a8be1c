//! A port on a socket, driven by hand; and a raw front end.

use std::collections::BTreeMap;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::cmsg_space;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use towpath_vhost_user::{
    CloseReason, Connector, Device, DeviceEvent, Endpoint, FrontendReq, ListenOptions, Listener, ReadyQueue,
    Refusal, Role, SessionConfig,
};
use virtqueue::DeviceRing;

use crate::common::*;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What this process holds: descriptors, and mappings of memory files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) fds: usize,
    pub(crate) maps: usize,
}

pub(crate) fn held() -> Held {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    Held { fds: open_fds(), maps: maps.lines().filter(|line| line.contains("memfd:test")).count() }
}

/// Keeps the other tests of this process out.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A port and its worker, who stops queues when told to.
pub(crate) struct Port {
    pub(crate) device: Device,
    pub(crate) now: Duration,
    pub(crate) queues: BTreeMap<u16, ReadyQueue>,
    pub(crate) closed: Vec<CloseReason>,
    pub(crate) events: Vec<String>,
    /// The worker is busy: it does not let go.
    pub(crate) hold: bool,
    pub(crate) held_back: Vec<u16>,
}

impl Port {
    pub(crate) fn new(role: Role) -> Self {
        Self::with(role, SessionConfig::new(u64::MAX, 4, Some([2, 0, 0, 0, 1, 10]), 1500))
    }

    pub(crate) fn with(role: Role, config: SessionConfig) -> Self {
        Self {
            device: Device::new(Endpoint::new(role, config)),
            now: NOW,
            queues: BTreeMap::new(),
            closed: Vec::new(),
            events: Vec::new(),
            hold: false,
            held_back: Vec::new(),
        }
    }

    pub(crate) fn server(path: &PathBuf) -> Self {
        Self::new(Role::Server(Listener::bind(&ListenOptions::new(path)).unwrap()))
    }

    pub(crate) fn client(path: &PathBuf) -> Self {
        Self::new(Role::Client(Connector::new(path)))
    }

    /// Does everything there is to do now.
    pub(crate) fn run(&mut self) {
        loop {
            let more = self.device.on_ready(self.now);
            let mut acted = false;
            while let Some(event) = self.device.next_event() {
                acted = true;
                self.act(event);
            }
            if !more && !acted {
                return;
            }
        }
    }

    fn act(&mut self, event: DeviceEvent) {
        self.events.push(format!("{event:?}").split([' ', '(', '{']).next().unwrap_or_default().to_owned());
        match event {
            DeviceEvent::QueueReady(queue) => drop(self.queues.insert(queue.index, *queue)),
            DeviceEvent::StopQueue { index } if self.hold => self.held_back.push(index),
            DeviceEvent::StopQueue { index } => self.let_go(index),
            DeviceEvent::CallChanged { index, call } => {
                self.queues.get_mut(&index).expect("a queue that runs").call = call;
            }
            DeviceEvent::Closed { reason } => self.closed.push(reason),
            _ => {}
        }
    }

    pub(crate) fn let_go(&mut self, index: u16) {
        let mut queue = self.queues.remove(&index).expect("a queue that was started");
        let base = queue.ring.base();
        drop(queue);
        self.device.queue_stopped(index, base);
    }

    pub(crate) fn call(&self, index: u16) -> &virtqueue::CallFd {
        self.queues[&index].call.as_ref().unwrap()
    }

    pub(crate) fn refused(&self, refusal: Refusal) -> u64 {
        self.device.endpoint().refusals().get(refusal)
    }
}

/// A front end that sends what it likes.
pub(crate) struct Raw(pub(crate) UnixStream);

impl Raw {
    pub(crate) fn connect(path: &PathBuf) -> Self {
        Self(UnixStream::connect(path).unwrap())
    }

    /// Sends bytes with descriptors attached to the first of them. `false` when the other end is gone.
    pub(crate) fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        let mut room = [MaybeUninit::uninit(); cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut room);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        rustix::net::sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
            == Ok(bytes.len())
    }

    pub(crate) fn message(&self, step: &Step) -> bool {
        let fds: Vec<_> = step.fds.iter().map(AsFd::as_fd).collect();
        self.send(&step.bytes, &fds)
    }

    /// Reads a reply's payload; the port must have run.
    pub(crate) fn reply(&mut self) -> Vec<u8> {
        self.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut header = [0; 12];
        self.0.read_exact(&mut header).unwrap();
        let size = u32::from_ne_bytes(header[8..].try_into().unwrap());
        let mut payload = vec![0; size as usize];
        self.0.read_exact(&mut payload).unwrap();
        payload
    }

    /// Whether the other end has closed the connection.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let mut rest = [0; 4096];
        loop {
            match self.0.read(&mut rest) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
            }
        }
    }

    pub(crate) fn byte(&mut self) -> bool {
        self.0.write(&[1]).is_ok()
    }
}

/// A message of a handshake.
pub(crate) struct Step {
    pub(crate) request: FrontendReq,
    pub(crate) bytes: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

pub(crate) fn message(request: FrontendReq, payload: &[u8], fds: Vec<OwnedFd>) -> Step {
    let bytes = [u32s(&[request.into(), 1, payload.len() as u32]), payload.to_vec()].concat();
    Step { request, bytes, fds }
}

/// A whole handshake without questions, after which queues 0 and 1 run.
pub(crate) fn handshake(memory: &OwnedFd) -> Vec<Step> {
    use FrontendReq as R;
    let features = towpath_vhost_user::features::VIRTIO_F_VERSION_1 | 1 << 30;
    let protocol = towpath_vhost_user::features::SUPPORTED_PROTOCOL.bits();
    let mut steps = vec![
        message(R::SET_OWNER, &[], vec![]),
        message(R::GET_FEATURES, &[], vec![]),
        message(R::GET_PROTOCOL_FEATURES, &[], vec![]),
        message(R::SET_PROTOCOL_FEATURES, &u64s(&[protocol]), vec![]),
        message(R::SET_BACKEND_REQ_FD, &[], vec![UnixStream::pair().unwrap().0.into()]),
        message(R::SET_FEATURES, &u64s(&[features]), vec![]),
        message(R::SET_MEM_TABLE, &table(&[[0, REGION_BYTES, USER_BASE, 0]]), vec![dup(memory)]),
        message(R::SET_LOG_BASE, &u64s(&[0x1000, 0]), vec![memfd(0x1000)]),
    ];
    for index in 0..2 {
        steps.extend([
            message(R::SET_VRING_NUM, &u32s(&[index, 256]), vec![]),
            message(R::SET_VRING_BASE, &u32s(&[index, 0]), vec![]),
            message(R::SET_VRING_ADDR, &addr(index, 0, ring_at(index)), vec![]),
            message(R::SET_VRING_CALL, &u64s(&[index.into()]), vec![eventfd()]),
            message(R::SET_VRING_ERR, &u64s(&[index.into()]), vec![eventfd()]),
            message(R::SET_VRING_KICK, &u64s(&[index.into()]), vec![eventfd()]),
            message(R::SET_VRING_ENABLE, &u32s(&[index, 1]), vec![]),
        ]);
    }
    steps
}

/// A folder of its own, and a socket's path in it.
pub(crate) fn socket_path() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.sock");
    (folder, path)
}
