//! A transmit queue.

use super::socket::{CHUNK_BYTES, TxHalf};
use crate::afpacket::fits;
use crate::state::{State, TxCounters};
use crate::sys;
use buf::{ExtentMut, Frame};
use engine::{OffloadCapabilities, TxQueue, TxReport};
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// A transmit queue of an AF_XDP socket. `send` copies frames into chunks, `flush` makes one system call for up to 32 of them, where the
/// driver asks for it (without copies it mostly does not).
pub(crate) struct XdpTx {
    half: TxHalf,
    state: Arc<State>,
    counters: Arc<TxCounters>,
    /// Chunks that are ours to fill.
    free: Vec<u64>,
    down: bool,
    unsent: bool,
}

impl XdpTx {
    pub(crate) fn new(half: TxHalf, state: Arc<State>, counters: Arc<TxCounters>) -> Self {
        let first = u64::from(half.umem.receiving);
        let free = (first..first + u64::from(half.umem.sending)).map(|chunk| chunk * CHUNK_BYTES as u64);
        Self { free: free.collect(), half, state, counters, down: false, unsent: false }
    }

    /// Takes back chunks that were sent.
    #[inline(always)]
    fn reclaim(&mut self) {
        let mut any = false;
        while self.free.len() < self.free.capacity()
            && let Some(chunk) = self.half.completed.next()
        {
            any = true;
            let first = self.half.umem.receiving_bytes() as u64;
            let end = first + u64::from(self.half.umem.sending) * CHUNK_BYTES as u64;
            if (first..end).contains(&chunk) {
                self.free.push(chunk / CHUNK_BYTES as u64 * CHUNK_BYTES as u64);
            }
        }
        if any {
            self.half.completed.release();
        }
    }

    #[inline(always)]
    fn put(&mut self, frame: &Frame<'_, '_>) -> bool {
        let Some(chunk) = self.free.pop() else { return false };
        // SAFETY: a whole chunk, which is in none of the kernel's rings, so that only we touch it.
        let room = unsafe { ExtentMut::new(self.half.umem.at(chunk as usize), CHUNK_BYTES) };
        let entry = libc::xdp_desc { addr: chunk, len: frame.len() as u32, options: 0 };
        if !frame.copy_whole(room) || !self.half.sent.push(entry) {
            self.free.push(chunk);
            return false;
        }
        true
    }

    /// Makes the kernel send what is in the ring, for as long as that gets shorter.
    fn kick(&mut self) {
        let mut left = self.half.sent.outstanding();
        loop {
            match sys::kick(self.half.socket.as_raw_fd()).err().and_then(|error| error.raw_os_error()) {
                None => self.down = false,
                Some(libc::ENETDOWN) => self.down = true,
                Some(libc::ENXIO | libc::ENODEV) => self.state.set_gone(),
                // Enough for one call, or no room.
                Some(_) => {}
            }
            let before = left;
            left = self.half.sent.outstanding();
            self.unsent = left > 0;
            if !self.unsent || self.down || self.state.is_gone() {
                return;
            }
            if left >= before {
                self.counters.congested.add(1);
                return;
            }
        }
    }

    /// Puts a frame when there was no room, once per call of `send` that is in vain.
    #[cold]
    fn put_after_all(&mut self, frame: &Frame<'_, '_>, tried: &mut bool) -> bool {
        if *tried {
            return false;
        }
        self.make_room();
        *tried = !self.put(frame);
        !*tried
    }

    /// Makes room in the middle of a long row of frames.
    #[cold]
    fn make_room(&mut self) {
        self.half.sent.publish();
        if self.half.sent.wants_call() {
            self.kick();
        }
        self.reclaim();
    }
}

impl TxQueue for XdpTx {
    fn capabilities(&self) -> OffloadCapabilities {
        OffloadCapabilities::default()
    }

    fn send(&mut self, frames: &[Frame<'_, '_>]) -> TxReport {
        let mut report = TxReport::default();
        if self.down || self.state.is_gone() {
            report.stopped = frames.len() as u32;
            return report;
        }
        self.reclaim();
        let mtu = self.state.mtu();
        let mut tried = false;
        for frame in frames {
            if frame.len() > CHUNK_BYTES || !fits(frame, mtu) {
                report.too_large += 1;
            } else if self.put(frame) || self.put_after_all(frame, &mut tried) {
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
        self.half.sent.publish();
        if (self.unsent && self.half.sent.wants_call()) || self.down {
            self.kick();
        }
    }

    fn settle(&mut self) {
        if self.unsent && self.half.sent.wants_call() && self.half.sent.outstanding() > 0 {
            self.kick();
        }
    }
}

impl std::fmt::Debug for XdpTx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("XdpTx").field("free", &self.free.len()).field("down", &self.down).finish()
    }
}
