//! Being a vhost-user front end: the handshake that a VMM does, with a guest's queues in memory of our own.
//!
//! Messages go through the `vhost` crate's `Frontend`; what it cannot send (a packed ring's base, STATUS) is written to
//! a second handle of the same socket, with nothing else under way.

use std::{
    fs,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vhost::{
    VhostBackend, VhostUserMemoryRegionInfo, VringConfigData,
    vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures, message::VhostUserHeaderFlag},
};
use virtio_driver::{
    Arena, MemoryError, MemoryOptions, Queue, QueueConfig, RingLayout, RxConfig, RxQueue, SharedMemory,
    TxConfig, TxQueue, Virtqueue, features,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// How the guest's side looks.
#[derive(Debug, Clone, Copy)]
pub struct AttachConfig {
    /// Ring layout.
    pub layout: RingLayout,
    /// Descriptors per ring.
    pub ring_size: u16,
    /// Longest frame that will be sent.
    pub longest: u32,
    /// Negotiate checksum offload and TSO in both directions.
    pub offloads: bool,
    /// Use 2 MiB pages when some are free.
    pub huge_pages: bool,
}

/// Which end of the socket we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Connect to the back end's socket.
    Client,
    /// Listen, for back ends that connect (Open vSwitch's `dpdkvhostuserclient`).
    Server,
}

/// Why a back end could not be attached to.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The socket.
    #[error("vhost-user socket {path}: {error}")]
    Socket {
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// A message went wrong.
    #[error("vhost-user message {message}: {error}")]
    Message {
        /// Which one.
        message: &'static str,
        /// What happened.
        error: String,
    },
    /// The back end lacks what the run needs.
    #[error("the back end does not offer {missing} (it offers {offered:#x})")]
    Features {
        /// Feature names.
        missing: String,
        /// The back end's features.
        offered: u64,
    },
    /// Guest memory.
    #[error("guest memory: {0}")]
    Memory(#[from] MemoryError),
    /// Queues.
    #[error("guest queues: {0}")]
    Queue(#[from] virtio_driver::SetupError),
}

/// A connected guest: one queue pair, running.
pub struct Attachment {
    /// Its memory.
    pub memory: Arc<SharedMemory>,
    /// Transmit queue (vhost-user queue 1).
    pub tx: TxQueue,
    /// Receive queue (vhost-user queue 0).
    pub rx: RxQueue,
    /// Doorbells of queues 0 and 1.
    pub kicks: [EventFd; 2],
    /// Negotiated features.
    pub features: u64,
    /// Whether guest memory is in 2 MiB pages.
    pub huge: bool,
    /// The session, to be kept as long as the queues run.
    pub connection: Connection,
}

/// A running vhost-user session.
pub struct Connection {
    frontend: Frontend,
    calls: [EventFd; 2],
}

impl Connection {
    /// Stops both rings, so that the back end has finished with the memory before it goes.
    ///
    /// # Errors
    ///
    /// [`AttachError::Message`] when the back end does not answer.
    pub fn stop(self) -> Result<(), AttachError> {
        for index in 0..2 {
            message("GET_VRING_BASE", self.frontend.get_vring_base(index))?;
        }
        Ok(())
    }
}

/// Names of feature bits that runs may need, for messages to people.
const NAMED: [(u64, &str); 7] = [
    (features::VERSION_1, "VERSION_1"),
    (features::NET_MRG_RXBUF, "MRG_RXBUF"),
    (features::RING_PACKED, "RING_PACKED"),
    (features::NET_CSUM, "CSUM"),
    (features::NET_GUEST_CSUM, "GUEST_CSUM"),
    (features::NET_HOST_TSO4, "HOST_TSO4"),
    (features::NET_GUEST_TSO4, "GUEST_TSO4"),
];
const SET_VRING_BASE: u32 = 10;
const SET_STATUS: u32 = 39;
/// ACKNOWLEDGE, DRIVER, FEATURES_OK (virtio 1.2 section 2.1); DRIVER_OK comes last.
const STATUS_FEATURES_OK: u64 = 11;
const STATUS_DRIVER_OK: u64 = 15;
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

fn message<T, E: std::fmt::Display>(name: &'static str, result: Result<T, E>) -> Result<T, AttachError> {
    result.map_err(|error| AttachError::Message { message: name, error: error.to_string() })
}

/// A listening socket that is removed when it goes.
struct Listening<'a> {
    path: &'a Path,
    listener: UnixListener,
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        let _gone = fs::remove_file(self.path);
    }
}

/// Connects, or waits for a connection, for at most `patience`.
///
/// # Errors
///
/// [`AttachError::Socket`].
pub fn open(path: &Path, role: Role, patience: Duration) -> Result<UnixStream, AttachError> {
    let fail = |error| AttachError::Socket { path: path.to_path_buf(), error };
    let stream = match role {
        Role::Client => connect(path, patience).map_err(fail)?,
        Role::Server => {
            let listening = listen(path).map_err(fail)?;
            accept(&listening, patience).map_err(fail)?
        }
    };
    stream.set_read_timeout(Some(REPLY_TIMEOUT)).map_err(fail)?;
    Ok(stream)
}

fn connect(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let deadline = Instant::now() + patience;
    loop {
        match UnixStream::connect(path) {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

fn listen(path: &Path) -> io::Result<Listening<'_>> {
    if UnixStream::connect(path).is_err() {
        // Nobody listens: what is there is left over.
        let _stale = fs::remove_file(path);
    }
    Ok(Listening { path, listener: UnixListener::bind(path)? })
}

fn accept(listening: &Listening<'_>, patience: Duration) -> io::Result<UnixStream> {
    let timeout = Timespec::try_from(patience).map_err(io::Error::other)?;
    let mut fds = [PollFd::new(&listening.listener, PollFlags::IN)];
    if poll(&mut fds, Some(&timeout))? == 0 {
        return Err(io::Error::new(io::ErrorKind::TimedOut, format!("nobody connected within {patience:?}")));
    }
    Ok(listening.listener.accept()?.0)
}

/// Writes a message that the `vhost` crate cannot send, and waits for the acknowledgement if one was asked for.
fn send_raw(stream: &UnixStream, request: u32, payload: &[u8], acknowledge: bool) -> io::Result<()> {
    const VERSION: u32 = 1;
    const NEED_REPLY: u32 = 8;
    let flags = VERSION | if acknowledge { NEED_REPLY } else { 0 };
    let mut bytes = Vec::with_capacity(12 + payload.len());
    for word in [request, flags, payload.len() as u32] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(payload);
    let mut stream = stream;
    stream.write_all(&bytes)?;
    if acknowledge {
        let mut reply = [0; 20];
        stream.read_exact(&mut reply)?;
        let value = reply.last_chunk::<8>().map_or(1, |bytes| u64::from_le_bytes(*bytes));
        if value != 0 {
            return Err(io::Error::other(format!("refused with {value:#x}")));
        }
    }
    Ok(())
}

impl Attachment {
    /// Does the whole handshake over a connected socket and posts receive buffers.
    ///
    /// # Errors
    ///
    /// [`AttachError`].
    pub fn new(stream: UnixStream, config: &AttachConfig) -> Result<Self, AttachError> {
        let raw = message("(socket)", stream.try_clone())?;
        let mut frontend = Frontend::from_stream(stream, 2);
        message("SET_OWNER", frontend.set_owner())?;
        let offered = message("GET_FEATURES", frontend.get_features())?;
        let features = choose(offered, config)?;
        let mut status = false;
        let mut acknowledge = false;
        if offered & features::VHOST_USER_PROTOCOL_FEATURES != 0 {
            let protocol = message("GET_PROTOCOL_FEATURES", frontend.get_protocol_features())?;
            let wanted = VhostUserProtocolFeatures::MQ
                | VhostUserProtocolFeatures::REPLY_ACK
                | VhostUserProtocolFeatures::STATUS;
            let agreed = protocol & wanted;
            message("SET_PROTOCOL_FEATURES", frontend.set_protocol_features(agreed))?;
            status = agreed.contains(VhostUserProtocolFeatures::STATUS);
            acknowledge = agreed.contains(VhostUserProtocolFeatures::REPLY_ACK);
        }
        message("SET_FEATURES", frontend.set_features(features))?;
        if status {
            message(
                "SET_STATUS",
                send_raw(&raw, SET_STATUS, &STATUS_FEATURES_OK.to_le_bytes(), acknowledge),
            )?;
        }
        if acknowledge {
            frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        let (memory, huge) = guest_memory(config)?;
        let mut attachment = Self::queues(frontend, memory, huge, features, config)?;
        attachment.announce(&raw, config, acknowledge)?;
        if status {
            message("SET_STATUS", send_raw(&raw, SET_STATUS, &STATUS_DRIVER_OK.to_le_bytes(), acknowledge))?;
        }
        attachment.rx.refill(usize::from(config.ring_size));
        attachment.rx.queue().suppress_interrupts();
        attachment.tx.queue().suppress_interrupts();
        attachment.kick(0);
        Ok(attachment)
    }

    fn queues(
        frontend: Frontend,
        memory: Arc<SharedMemory>,
        huge: bool,
        features: u64,
        config: &AttachConfig,
    ) -> Result<Self, AttachError> {
        let mut arena = Arena::new(&memory);
        let (rx, tx) = make_queues(&memory, &mut arena, features, config)?;
        let event = || message("(eventfd)", EventFd::new(EFD_NONBLOCK));
        Ok(Self {
            rx,
            tx,
            memory,
            kicks: [event()?, event()?],
            features,
            huge,
            connection: Connection { frontend, calls: [event()?, event()?] },
        })
    }

    /// Memory table, then ring by ring; rings are enabled last.
    fn announce(
        &mut self,
        raw: &UnixStream,
        config: &AttachConfig,
        acknowledge: bool,
    ) -> Result<(), AttachError> {
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: self.memory.guest_base(),
            memory_size: self.memory.len() as u64,
            userspace_addr: self.memory.user_base(),
            mmap_offset: 0,
            mmap_handle: self.memory.fd().as_fd().as_raw_fd(),
        };
        message("SET_MEM_TABLE", self.connection.frontend.set_mem_table(&[region]))?;
        for index in 0..2usize {
            let queue = if index == 0 { self.rx.queue_ref() } else { self.tx.queue_ref() };
            let (addresses, base) = (queue.addresses(), queue.resume_base());
            message("SET_VRING_NUM", self.connection.frontend.set_vring_num(index, config.ring_size))?;
            let state = [(index as u32).to_le_bytes(), base.to_le_bytes()].concat();
            message("SET_VRING_BASE", send_raw(raw, SET_VRING_BASE, &state, acknowledge))?;
            let ring = VringConfigData {
                queue_max_size: config.ring_size,
                queue_size: config.ring_size,
                flags: 0,
                desc_table_addr: self.memory.user_address(addresses.descriptors),
                avail_ring_addr: self.memory.user_address(addresses.driver),
                used_ring_addr: self.memory.user_address(addresses.device),
                log_addr: None,
            };
            message("SET_VRING_ADDR", self.connection.frontend.set_vring_addr(index, &ring))?;
            if let (Some(kick), Some(call)) = (self.kicks.get(index), self.connection.calls.get(index)) {
                message("SET_VRING_CALL", self.connection.frontend.set_vring_call(index, call))?;
                message("SET_VRING_KICK", self.connection.frontend.set_vring_kick(index, kick))?;
            }
        }
        if self.features & features::VHOST_USER_PROTOCOL_FEATURES != 0 {
            for index in 0..2 {
                message("SET_VRING_ENABLE", self.connection.frontend.set_vring_enable(index, true))?;
            }
        }
        Ok(())
    }

    /// Rings a queue's doorbell.
    pub fn kick(&self, queue: usize) {
        if let Some(kick) = self.kicks.get(queue) {
            // A full counter means the doorbell is ringing already.
            let _ringing = kick.write(1);
        }
    }
}

fn choose(offered: u64, config: &AttachConfig) -> Result<u64, AttachError> {
    let mut needed = features::VERSION_1 | features::NET_MRG_RXBUF;
    if config.layout == RingLayout::Packed {
        needed |= features::RING_PACKED;
    }
    if config.offloads {
        needed |= features::NET_CSUM
            | features::NET_GUEST_CSUM
            | features::NET_HOST_TSO4
            | features::NET_GUEST_TSO4;
    }
    let absent = needed & !offered;
    if absent != 0 {
        let names: Vec<_> =
            NAMED.iter().filter(|(bit, _)| absent & bit != 0).map(|(_, name)| *name).collect();
        return Err(AttachError::Features { missing: names.join(", "), offered });
    }
    Ok(needed | offered & (features::IN_ORDER | features::VHOST_USER_PROTOCOL_FEATURES))
}

/// Bytes between two buffers' net headers and the next cache line, as DPDK's driver lays them out.
const OFFSET: u32 = 52;

/// How many transmit buffers, their part size, and the receive buffers' length.
fn buffers(config: &AttachConfig) -> (u32, u32, u32) {
    if config.longest > 9018 {
        // 64 KB: parts as Linux's page fragments would be, receive buffers of a page.
        (64, 16384, 4096)
    } else {
        (u32::from(config.ring_size), 16384, 2060)
    }
}

/// Bytes of guest memory the queues of this configuration need.
#[must_use]
pub fn memory_size(config: &AttachConfig) -> usize {
    let (tx, _, rx) = buffers(config);
    let rings = 2 * (usize::from(config.ring_size) * 26 + 3 * 4096);
    let packets =
        tx as usize * (config.longest as usize + 256) + usize::from(config.ring_size) * (rx as usize + 256);
    (rings + packets).next_multiple_of(2 << 20)
}

fn guest_memory(config: &AttachConfig) -> Result<(Arc<SharedMemory>, bool), AttachError> {
    let options =
        MemoryOptions { guest_base: 0x10_0000, huge_pages: config.huge_pages, ..MemoryOptions::default() };
    let len = memory_size(config);
    match SharedMemory::new(len, options) {
        Ok(memory) => Ok((memory.into_shared(), config.huge_pages)),
        Err(_) if config.huge_pages => {
            let memory = SharedMemory::new(len, MemoryOptions { huge_pages: false, ..options })?;
            Ok((memory.into_shared(), false))
        }
        Err(error) => Err(error.into()),
    }
}

/// Lays out the receive and the transmit queue with their buffers.
///
/// # Errors
///
/// [`AttachError::Memory`], [`AttachError::Queue`].
pub fn make_queues(
    memory: &Arc<SharedMemory>,
    arena: &mut Arena,
    features: u64,
    config: &AttachConfig,
) -> Result<(RxQueue, TxQueue), AttachError> {
    let ring = QueueConfig { size: config.ring_size, layout: config.layout, features, indirect_entries: 0 };
    let (tx_buffers, part_len, rx_len) = buffers(config);
    let rx = Queue::new(memory, arena, &ring)?;
    let tx = Queue::new(memory, arena, &ring)?;
    let rx_config =
        RxConfig { buffers: config.ring_size, buffer_len: rx_len, descriptors: 1, offset: OFFSET, features };
    let rx = RxQueue::new(memory, arena, rx, rx_config)?;
    let tx_config =
        TxConfig { buffers: tx_buffers, packet_len: config.longest, part_len, offset: OFFSET, features };
    let tx = TxQueue::new(memory, arena, tx, tx_config)?;
    Ok((rx, tx))
}

/// Features of the in-process null back end.
pub(crate) const NULL_FEATURES: u64 = features::VERSION_1 | features::NET_MRG_RXBUF | features::IN_ORDER;
