//! An AF_XDP socket with its memory and its four rings.

use super::ring::Ring;
use crate::sys::{self, Mapping};
use std::ffi::c_int;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a chunk: a page, the largest there is.
pub(crate) const CHUNK_BYTES: usize = 4096;
/// The kernel's room before a received frame (`XDP_PACKET_HEADROOM`).
const HEADROOM: usize = 256;
/// The longest frame that a chunk takes.
pub(crate) const LONGEST: usize = CHUNK_BYTES - HEADROOM;

/// The fewest and the most chunks of each direction.
const LEAST: usize = 64;
const MOST: usize = 1 << 16;

/// How long the kernel may take to let go of a queue whose socket was closed: it does so later, on a thread of its own.
const RELEASE_TIME: Duration = Duration::from_millis(10);
const RELEASE_TRIES: u32 = 30;

/// Memory for packets, known to the kernel: chunks to receive into, then chunks to send from.
#[derive(Debug)]
pub(crate) struct Umem {
    map: Mapping,
    /// Chunks to receive into.
    pub(crate) receiving: u32,
    /// Chunks to send from.
    pub(crate) sending: u32,
}

impl Umem {
    /// Memory for a test that makes no socket.
    #[cfg(test)]
    pub(crate) fn of_test(receiving: u32, sending: u32) -> Self {
        let map = Mapping::anonymous((receiving + sending) as usize * CHUNK_BYTES).unwrap();
        Self { map, receiving, sending }
    }

    /// The address of the byte at `offset`, at most the length of the memory.
    #[inline(always)]
    pub(crate) fn at(&self, offset: usize) -> *mut u8 {
        self.map.start().wrapping_add(offset.min(self.map.len()))
    }

    /// Bytes of chunks to receive into.
    #[inline(always)]
    pub(crate) fn receiving_bytes(&self) -> usize {
        self.receiving as usize * CHUNK_BYTES
    }
}

/// Everything of a socket; the halves go to the queues.
pub(crate) struct XdpSocket {
    pub(crate) socket: Arc<OwnedFd>,
    umem: Arc<Umem>,
    pub(crate) received: Ring<libc::xdp_desc>,
    fill: Ring<u64>,
    sent: Ring<libc::xdp_desc>,
    completed: Ring<u64>,
}

/// What a receive queue has of a socket.
pub(crate) struct RxHalf {
    pub(crate) socket: Arc<OwnedFd>,
    pub(crate) umem: Arc<Umem>,
    pub(crate) received: Ring<libc::xdp_desc>,
    pub(crate) fill: Ring<u64>,
}

/// What a transmit queue has of a socket.
pub(crate) struct TxHalf {
    pub(crate) socket: Arc<OwnedFd>,
    pub(crate) umem: Arc<Umem>,
    pub(crate) sent: Ring<libc::xdp_desc>,
    pub(crate) completed: Ring<u64>,
}

fn rounded_down(chunks: usize) -> usize {
    let chunks = chunks.clamp(LEAST, MOST);
    1 << chunks.ilog2()
}

impl XdpSocket {
    /// A socket with about `bytes` to receive into and half of it to send from, not bound yet.
    pub(crate) fn new(bytes: usize) -> io::Result<Self> {
        let receiving = rounded_down(bytes / CHUNK_BYTES) as u32;
        let sending = rounded_down(bytes / CHUNK_BYTES / 2) as u32;
        let socket = sys::socket(libc::AF_XDP, libc::SOCK_RAW, 0)?;
        let map = Mapping::anonymous((receiving + sending) as usize * CHUNK_BYTES)?;
        let set = |name: c_int, value: u32| sys::set_option(&socket, libc::SOL_XDP, name, &value);
        let memory = libc::xdp_umem_reg {
            addr: map.start() as u64,
            len: map.len() as u64,
            chunk_size: CHUNK_BYTES as u32,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        sys::set_option(&socket, libc::SOL_XDP, libc::XDP_UMEM_REG, &memory)?;
        set(libc::XDP_UMEM_FILL_RING, receiving)?;
        set(libc::XDP_UMEM_COMPLETION_RING, sending)?;
        set(libc::XDP_RX_RING, receiving)?;
        set(libc::XDP_TX_RING, sending)?;
        let room = c_int::try_from(bytes.saturating_mul(2)).unwrap_or(c_int::MAX / 2);
        sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &room)?;
        let at: libc::xdp_mmap_offsets = sys::option(&socket, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS)?;
        let received = Ring::new(&socket, at.rx, receiving, libc::XDP_PGOFF_RX_RING as u64)?;
        let sent = Ring::new(&socket, at.tx, sending, libc::XDP_PGOFF_TX_RING as u64)?;
        let mut fill = Ring::new(&socket, at.fr, receiving, libc::XDP_UMEM_PGOFF_FILL_RING)?;
        let completed = Ring::new(&socket, at.cr, sending, libc::XDP_UMEM_PGOFF_COMPLETION_RING)?;
        for chunk in 0..u64::from(receiving) {
            fill.push(chunk * CHUNK_BYTES as u64);
        }
        fill.publish();
        let umem = Arc::new(Umem { map, receiving, sending });
        Ok(Self { socket: Arc::new(socket), umem, received, fill, sent, completed })
    }

    /// Takes it apart.
    pub(crate) fn halves(self) -> (RxHalf, TxHalf) {
        let Self { socket, umem, received, fill, sent, completed } = self;
        let rx = RxHalf { socket: socket.clone(), umem: umem.clone(), received, fill };
        (rx, TxHalf { socket, umem, sent, completed })
    }

    /// Binds it to a queue of an interface: without copies where the driver can, else with. Whether without.
    pub(crate) fn bind(&self, index: u32, queue: u32) -> io::Result<bool> {
        let bind = |flags: u16| {
            let address = libc::sockaddr_xdp {
                sxdp_family: libc::AF_XDP as u16,
                sxdp_flags: flags | libc::XDP_USE_NEED_WAKEUP,
                sxdp_ifindex: index,
                sxdp_queue_id: queue,
                sxdp_shared_umem_fd: 0,
            };
            sys::bind(&self.socket, &address)
        };
        let is_busy = |error: &io::Error| error.raw_os_error() == Some(libc::EBUSY);
        let mut tries = 0;
        loop {
            match bind(libc::XDP_ZEROCOPY) {
                Ok(()) => return Ok(true),
                Err(error) if !is_busy(&error) => return bind(libc::XDP_COPY).map(|()| false),
                Err(error) if tries == RELEASE_TRIES => return Err(error),
                Err(_) => std::thread::sleep(RELEASE_TIME),
            }
            tries += 1;
        }
    }
}
