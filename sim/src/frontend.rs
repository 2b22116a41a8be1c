//! A guest's VMM: the front end's half of a vhost-user session, as bytes and descriptors on a socket pair.

use crate::guest::hostile::Case;
use crate::guest::nic::Nic;
use anyhow::Context;
use guest_mem::RegionSpec;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags, open};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg,
    socketpair,
};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use vhost_user::{Connector, Device, DeviceEvent, Endpoint, FrontendReq, Parts, Role, SessionConfig};
use virtio_driver::{Virtqueue, features};
use virtqueue::{CallFd, Counter, Notifier};

/// An interrupt that is counted, and written to the descriptor it is for.
#[derive(Debug)]
pub struct Call {
    /// Counts.
    pub counter: Counter,
    /// The front end's descriptor.
    pub call: Option<Arc<CallFd>>,
}

impl Notifier for Call {
    fn notify(&self) {
        self.counter.notify();
        if let Some(call) = &self.call {
            call.notify();
        }
    }
}

/// A message and the descriptors that go with it.
#[derive(Debug)]
pub struct Message {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// Both ends of a session.
#[derive(Debug)]
pub struct FrontEnd {
    /// The switch's end.
    pub device: Device,
    /// Refusals are what is to be expected of it.
    pub breaks_rules: bool,
    stream: Option<OwnedFd>,
}

fn message(request: FrontendReq, payload: &[u8], fds: Vec<OwnedFd>) -> Message {
    let mut bytes = Vec::with_capacity(12 + payload.len());
    for word in [u32::from(request), 1, payload.len() as u32] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(payload);
    Message { bytes, fds }
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// What a VMM says until its guest's driver runs, in QEMU's order.
///
/// # Errors
///
/// No descriptors left.
pub fn handshake(
    nic: &Nic,
    regions: Vec<RegionSpec>,
    config: &SessionConfig,
) -> anyhow::Result<Vec<Message>> {
    use FrontendReq as R;
    let protocol = config.protocol.bits() & !vhost_user::VhostUserProtocolFeatures::BACKEND_REQ.bits();
    let mut messages = vec![
        message(R::GET_FEATURES, &[], vec![]),
        message(R::GET_PROTOCOL_FEATURES, &[], vec![]),
        message(R::SET_PROTOCOL_FEATURES, &longs(&[protocol]), vec![]),
        message(R::SET_OWNER, &[], vec![]),
    ];
    let mut table = words(&[regions.len() as u32, 0]);
    for region in &regions {
        table.extend(longs(&[region.guest_addr, region.size, region.user_addr, region.file_offset]));
    }
    let acknowledged = nic.config.features | features::VHOST_USER_PROTOCOL_FEATURES;
    messages.push(message(R::SET_FEATURES, &longs(&[acknowledged]), vec![]));
    let files = regions.into_iter().map(|region| region.file).collect();
    messages.push(message(R::SET_MEM_TABLE, &table, files));
    for (pair, queues) in nic.pairs.iter().enumerate() {
        for (index, queue) in [(2 * pair as u32, &queues.rx.queue), (2 * pair as u32 + 1, &queues.tx.queue)] {
            let ring = queue.addresses();
            let [desc, driver, device] =
                [ring.descriptors, ring.driver, ring.device].map(|address| nic.memory.user_address(address));
            let call = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            messages.push(message(R::SET_VRING_NUM, &words(&[index, u32::from(queue.size())]), vec![]));
            messages.push(message(R::SET_VRING_BASE, &words(&[index, queue.resume_base()]), vec![]));
            let addresses = [words(&[index, 0]), longs(&[desc, device, driver, 0])].concat();
            messages.push(message(R::SET_VRING_ADDR, &addresses, vec![]));
            messages.push(message(R::SET_VRING_KICK, &longs(&[index.into()]), vec![kick]));
            messages.push(message(R::SET_VRING_CALL, &longs(&[index.into()]), vec![call]));
        }
    }
    for index in 0..2 * nic.pairs.len() as u32 {
        messages.push(message(R::SET_VRING_ENABLE, &words(&[index, 1]), vec![]));
    }
    Ok(messages)
}

/// Changes a handshake so that no queue may run after it.
///
/// # Errors
///
/// No descriptors left.
pub fn break_rule(messages: &mut Vec<Message>, case: Case) -> anyhow::Result<()> {
    use FrontendReq as R;
    let enables = |message: &Message| message.is(R::SET_VRING_ENABLE);
    match case {
        Case::ZeroRing => {
            for message in messages.iter_mut().filter(|message| message.is(R::SET_VRING_ADDR)) {
                // Behind header, index and flags: the three addresses.
                message.bytes[12 + 8..12 + 32].fill(0);
            }
        }
        Case::SealedMemory => {
            for file in messages
                .iter_mut()
                .filter(|message| message.is(R::SET_MEM_TABLE))
                .flat_map(|message| &mut message.fds)
            {
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                *file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            }
        }
        // Kicked, never enabled.
        _ => {
            messages.retain(|message| !enables(message));
            for kick in messages
                .iter()
                .filter(|message| message.is(R::SET_VRING_KICK))
                .flat_map(|message| &message.fds)
            {
                rustix::io::write(kick, &1u64.to_ne_bytes())?;
            }
        }
    }
    Ok(())
}

/// What a VMM says to stop queue `index`.
#[must_use]
pub fn stop(index: u16) -> Message {
    message(FrontendReq::GET_VRING_BASE, &words(&[u32::from(index), 0]), vec![])
}

impl Message {
    fn is(&self, request: FrontendReq) -> bool {
        self.bytes.starts_with(&u32::from(request).to_ne_bytes())
    }

    /// Its length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a message has a header")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

impl FrontEnd {
    /// A connection just made.
    ///
    /// # Errors
    ///
    /// No descriptors left.
    pub fn connect(config: SessionConfig) -> anyhow::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (front, back) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let mut parts = Parts::new(config);
        parts.stream = Some(back);
        // A client whose socket is never there: when this session ends, no other follows.
        let endpoint = Endpoint::from_parts(Role::Client(Connector::new("")), parts);
        Ok(Self { device: Device::new(endpoint), breaks_rules: false, stream: Some(front) })
    }

    /// Sends the first `limit` bytes of a message, with its descriptors if there is a byte to carry them.
    ///
    /// # Errors
    ///
    /// The switch closed the connection.
    pub fn send(&self, message: &Message, limit: usize) -> anyhow::Result<()> {
        let bytes = &message.bytes[..limit.min(message.bytes.len())];
        let Some(stream) = self.stream.as_ref().filter(|_| !bytes.is_empty()) else { return Ok(()) };
        let fds: Vec<BorrowedFd<'_>> = message.fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            anyhow::ensure!(control.push(SendAncillaryMessage::ScmRights(&fds)), "too many descriptors");
        }
        let sent = sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
            .context("the switch closed the connection")?;
        anyhow::ensure!(sent == bytes.len(), "the socket's buffer is full");
        Ok(())
    }

    /// Closes the front end's end.
    pub fn hang_up(&mut self) {
        self.stream = None;
    }

    /// Lets the switch read what there is; its next event.
    pub fn next_event(&mut self, now: u64) -> Option<DeviceEvent> {
        self.device.on_ready(Duration::from_nanos(now));
        self.drain_replies();
        self.device.next_event()
    }

    /// Reads what the switch answered, so that its socket does not fill.
    fn drain_replies(&self) {
        let mut bytes = [0u8; 512];
        while let Some(stream) = &self.stream {
            match rustix::io::read(stream, &mut bytes) {
                Ok(count) if count > 0 => {}
                _ => return,
            }
        }
    }
}
