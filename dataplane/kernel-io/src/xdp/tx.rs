//! A transmit queue.

use super::ring::Ring;
use super::socket::{CHUNK_BYTES, Umem};
use crate::afpacket::fits;
use crate::state::{State, TxCounters};
use crate::sys;
use buf::{ExtentMut, Frame};
use engine::{OffloadCapabilities, TxQueue, TxReport};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// Calls per flush: one sends up to 32 packets.
const CALLS: u32 = 3;

/// What a transmit queue is made of.
pub(crate) struct TxParts {
    pub(crate) socket: Arc<OwnedFd>,
    pub(crate) umem: Arc<Umem>,
    pub(crate) sent: Ring<libc::xdp_desc>,
    pub(crate) completed: Ring<u64>,
    pub(crate) state: Arc<State>,
    pub(crate) counters: Arc<TxCounters>,
}

/// A transmit queue of an AF_XDP socket. `send` copies frames into chunks, `flush` makes one system call for up to 32 of them, where the
/// driver asks for it.
pub(crate) struct XdpTx {
    parts: TxParts,
    /// Chunks that are ours to fill.
    free: Vec<u64>,
    down: bool,
    unsent: bool,
}

impl XdpTx {
    pub(crate) fn new(parts: TxParts) -> Self {
        let first = u64::from(parts.umem.receiving);
        let free = (first..first + u64::from(parts.umem.sending)).map(|chunk| chunk * CHUNK_BYTES as u64);
        Self { free: free.collect(), parts, down: false, unsent: false }
    }

    /// Takes back chunks that were sent.
    #[inline(always)]
    fn reclaim(&mut self) {
        let mut any = false;
        while self.free.len() < self.free.capacity()
            && let Some(chunk) = self.parts.completed.next()
        {
            any = true;
            let first = self.parts.umem.receiving_bytes() as u64;
            let end = first + u64::from(self.parts.umem.sending) * CHUNK_BYTES as u64;
            if (first..end).contains(&chunk) {
                self.free.push(chunk / CHUNK_BYTES as u64 * CHUNK_BYTES as u64);
            }
        }
        if any {
            self.parts.completed.release();
        }
    }

    #[inline(always)]
    fn put(&mut self, frame: &Frame<'_, '_>) -> bool {
        let Some(chunk) = self.free.pop() else { return false };
        // SAFETY: a whole chunk, which is in none of the kernel's rings, so that only we touch it.
        let room = unsafe { ExtentMut::new(self.parts.umem.at(chunk as usize), CHUNK_BYTES) };
        let entry = libc::xdp_desc { addr: chunk, len: frame.len() as u32, options: 0 };
        if !frame.copy_whole(room) || !self.parts.sent.push(entry) {
            self.free.push(chunk);
            return false;
        }
        true
    }

    fn kick(&mut self) {
        for _ in 0..CALLS {
            match sys::kick(self.parts.socket.as_raw_fd()).err().and_then(|error| error.raw_os_error()) {
                None => self.down = false,
                Some(libc::ENETDOWN) => self.down = true,
                Some(libc::ENXIO | libc::ENODEV) => self.parts.state.set_gone(),
                Some(libc::EAGAIN) => {}
                Some(_) => {
                    self.parts.counters.congested.add(1);
                    return;
                }
            }
            if self.down || self.parts.state.is_gone() {
                return;
            }
            self.unsent = self.parts.sent.outstanding() > 0;
            if !self.unsent {
                return;
            }
        }
        self.parts.counters.congested.add(1);
    }
}

impl TxQueue for XdpTx {
    fn capabilities(&self) -> OffloadCapabilities {
        OffloadCapabilities::default()
    }

    fn send(&mut self, frames: &[Frame<'_, '_>]) -> TxReport {
        let mut report = TxReport::default();
        if self.down || self.parts.state.is_gone() {
            report.stopped = frames.len() as u32;
            return report;
        }
        self.reclaim();
        let mtu = self.parts.state.mtu();
        for frame in frames {
            if frame.len() > CHUNK_BYTES || !fits(frame, mtu) {
                report.too_large += 1;
            } else if self.put(frame) {
                report.sent += 1;
                report.bytes += frame.len() as u64;
            } else {
                report.full += 1;
            }
        }
        self.unsent |= report.sent > 0;
        report
    }

    fn flush(&mut self) {
        self.parts.sent.publish();
        if (self.unsent && self.parts.sent.wants_call()) || self.down {
            self.kick();
        }
    }

    fn settle(&mut self) {
        if self.unsent && self.parts.sent.wants_call() && self.parts.sent.outstanding() > 0 {
            self.kick();
        }
    }
}

impl std::fmt::Debug for XdpTx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("XdpTx").field("free", &self.free.len()).field("down", &self.down).finish()
    }
}
