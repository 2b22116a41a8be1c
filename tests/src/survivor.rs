//! A guest that outlives its back end: its memory and rings stay, and it attaches again with the in-flight region of the first time. And a front
//! end that says what the `vhost` crate's cannot.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use vhost::VhostBackend;
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserInflight, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend as Session, VhostUserFrontend};
use virtio_driver::{
    Arena, NetHeader, Queue, QueueConfig, RingLayout, RxConfig, RxQueue, SharedMemory, TxConfig, TxQueue,
    Virtqueue, features,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::frontend::{receive_one, region, start_ring};
use crate::{Result, wait};

const MEMORY: usize = 8 << 20;
/// Entries of each ring.
pub const RING: u16 = 256;
const PACKET: u32 = 1518;
const HEADER: u32 = 12;
/// What a packed ring begins with: position 0, wrap counter 1.
const PACKED_BEGINNING: u16 = 0x8000;

/// How a guest sets up its rings.
#[derive(Clone, Copy, Debug)]
pub struct Rings {
    /// Split or packed.
    pub layout: RingLayout,
    /// Bytes of each descriptor of a sent packet, header included; less than a packet makes chains.
    pub part: u32,
    /// Features besides virtio 1 and the layout.
    pub features: u64,
}

impl Default for Rings {
    fn default() -> Self {
        Self { layout: RingLayout::Split, part: PACKET + HEADER, features: 0 }
    }
}

/// See the module's documentation.
pub struct Survivor {
    rings: Rings,
    memory: Arc<SharedMemory>,
    rx: RxQueue,
    tx: TxQueue,
    events: [[EventFd; 2]; 2],
    inflight: Option<(VhostUserInflight, File)>,
    session: Option<Session>,
    /// Its connection once more.
    stream: Option<UnixStream>,
}

impl fmt::Debug for Survivor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Survivor").field("rings", &self.rings).finish_non_exhaustive()
    }
}

impl Survivor {
    /// A guest without a back end, its receive ring full of buffers.
    ///
    /// # Errors
    /// No memory.
    pub fn new(rings: Rings) -> Result<Self> {
        let memory = SharedMemory::new(MEMORY, Default::default())?.into_shared();
        let mut arena = Arena::new(&memory);
        let features = rings.features | features::VERSION_1 | layout_feature(rings.layout);
        let config = QueueConfig { size: RING, layout: rings.layout, features, indirect_entries: 0 };
        let mut queue = || Queue::new(&memory, &mut arena, &config);
        let (rx, tx) = (queue()?, queue()?);
        let receive =
            RxConfig { buffers: RING, buffer_len: PACKET + HEADER, descriptors: 1, offset: 52, features };
        let mut rx = RxQueue::new(&memory, &mut arena, rx, receive)?;
        let send =
            TxConfig { buffers: RING.into(), packet_len: PACKET, part_len: rings.part, offset: 52, features };
        let tx = TxQueue::new(&memory, &mut arena, tx, send)?;
        rx.refill(RING.into());
        let event = || EventFd::new(EFD_NONBLOCK).context("make an eventfd");
        let events = [[event()?, event()?], [event()?, event()?]];
        Ok(Self { rings, memory, rx, tx, events, inflight: None, session: None, stream: None })
    }

    /// Attach to a switch that listens, with rings as they are now. The bases told are those of the beginning, which a front end that
    /// heard nothing from its dead back end knows; the in-flight region is the one of the first time.
    ///
    /// # Errors
    /// The switch does not take it within `limit`.
    pub fn attach(&mut self, socket: &Path, limit: Duration) -> Result<()> {
        let mut last = None;
        let attached = wait::until("a front end to be taken", limit, || match self.try_attach(socket) {
            Ok(()) => Ok(Some(())),
            Err(error) => {
                last = Some(error);
                Ok(None)
            }
        });
        attached.with_context(|| format!("{last:?}"))
    }

    fn try_attach(&mut self, socket: &Path) -> Result<()> {
        use VhostUserProtocolFeatures as P;
        self.session = None;
        self.stream = None;
        let stream =
            UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
        let mut session = Session::from_stream(stream.try_clone()?, 2);
        session.set_owner().context("SET_OWNER")?;
        let wanted = self.rings.features
            | features::VERSION_1
            | features::VHOST_USER_PROTOCOL_FEATURES
            | layout_feature(self.rings.layout);
        let offered = session.get_features().context("GET_FEATURES")?;
        ensure!(offered & wanted == wanted, "offered: {offered:#x}, wanted: {wanted:#x}");
        let protocol = P::REPLY_ACK | P::MQ | P::INFLIGHT_SHMFD | P::RARP | P::MTU | P::CONFIG;
        let offered = session.get_protocol_features().context("GET_PROTOCOL_FEATURES")?;
        ensure!(offered.contains(protocol), "offered: {offered:?}");
        session.set_protocol_features(protocol).context("SET_PROTOCOL_FEATURES")?;
        session.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        session.set_features(wanted).context("SET_FEATURES")?;
        session.set_mem_table(&[region(&self.memory)]).context("SET_MEM_TABLE")?;
        for (index, queue) in [self.rx.queue_ref(), self.tx.queue_ref()].into_iter().enumerate() {
            session.set_vring_num(index, queue.size()).context("SET_VRING_NUM")?;
        }
        self.share_inflight(&mut session)?;
        let base = if self.rings.layout == RingLayout::Packed { PACKED_BEGINNING } else { 0 };
        for (index, queue) in [self.rx.queue_ref(), self.tx.queue_ref()].into_iter().enumerate() {
            let [kick, call] = &self.events[index];
            start_ring(&session, &self.memory, (index, base), queue.addresses(), kick, call)?;
        }
        for index in 0..2 {
            session.set_vring_enable(index, true).context("SET_VRING_ENABLE")?;
        }
        (self.session, self.stream) = (Some(session), Some(stream));
        Ok(())
    }

    fn share_inflight(&mut self, session: &mut Session) -> Result<()> {
        let inflight = match self.inflight.take() {
            Some(inflight) => inflight,
            None => {
                session.get_inflight_fd(&VhostUserInflight::new(0, 0, 2, RING)).context("GET_INFLIGHT_FD")?
            }
        };
        session.set_inflight_fd(&inflight.0, inflight.1.as_raw_fd()).context("SET_INFLIGHT_FD")?;
        self.inflight = Some(inflight);
        Ok(())
    }

    /// The session, to send messages of one's own.
    ///
    /// # Errors
    /// It is not attached.
    pub fn session(&mut self) -> Result<&mut Session> {
        self.session.as_mut().context("not attached")
    }

    /// Send one packet; `false` while the ring is full.
    ///
    /// # Errors
    /// The switch returned what it did not have, or returned it twice.
    pub fn send(&mut self, packet: &[u8]) -> Result<bool> {
        let added = self.add(packet)?;
        self.publish()?;
        Ok(added)
    }

    /// Put one packet into the ring, to be seen after [`Survivor::publish`]; `false` while the ring is full.
    ///
    /// # Errors
    /// As [`Survivor::send`].
    pub fn add(&mut self, packet: &[u8]) -> Result<bool> {
        self.tx.reclaim(RING.into())?;
        Ok(self.tx.send_bytes(&NetHeader::default(), packet).is_ok())
    }

    /// Make all that was added available at once.
    ///
    /// # Errors
    /// As [`Survivor::send`].
    pub fn publish(&mut self) -> Result<()> {
        self.tx.queue().publish();
        if self.tx.queue().needs_kick() {
            self.events[1][0].write(1).context("kick")?;
        }
        Ok(())
    }

    /// Sent packets that were not returned.
    ///
    /// # Errors
    /// As [`Survivor::send`].
    pub fn unreturned(&mut self) -> Result<u16> {
        self.tx.reclaim(RING.into())?;
        Ok(self.tx.queue_ref().in_flight())
    }

    /// The next packet, if there is one; its buffer is made available again.
    ///
    /// # Errors
    /// The switch returned what it did not have, or returned it twice.
    pub fn try_receive(&mut self) -> Result<Option<Vec<u8>>> {
        receive_one(&mut self.rx, &self.memory, &self.events[0][0])
    }

    /// Send a message with 8 bytes that the `vhost` crate has no call for; whether it was accepted.
    ///
    /// # Errors
    /// The switch hung up, or answered something else.
    pub fn ask(&mut self, request: u32, payload: [u8; 8]) -> Result<bool> {
        let stream = self.stream.as_mut().context("not attached")?;
        let mut message = Vec::with_capacity(20);
        // Version 1, a reply is wanted.
        for word in [request, 1 | 1 << 3, 8] {
            message.extend_from_slice(&word.to_ne_bytes());
        }
        message.extend_from_slice(&payload);
        stream.write_all(&message).context("send a message")?;
        let mut reply = [0; 20];
        stream.read_exact(&mut reply).context("read a reply")?;
        let (head, status) = reply.split_at(12);
        ensure!(head.starts_with(&request.to_ne_bytes()), "an answer to something else: {reply:02x?}");
        Ok(status == [0; 8])
    }
}

fn layout_feature(layout: RingLayout) -> u64 {
    if layout == RingLayout::Packed { features::RING_PACKED } else { 0 }
}
