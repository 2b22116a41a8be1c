//! A receive queue.

use super::bpf::Redirect;
use super::socket::{CHUNK_BYTES, RxHalf, Umem};
use crate::afpacket::PacketRx;
use crate::state::{ETHERNET, RxCounters, State};
use crate::sys;
use crate::watch::Watch;
use buf::{BURST_PACKETS, Burst, Extent, Offload};
use engine::{Armed, QueueFault, RxQueue, RxReport};
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// What a receive queue has besides its half of the socket.
pub(crate) struct RxSide {
    pub(crate) redirect: Arc<Redirect>,
    /// What the program leaves to the kernel.
    pub(crate) others: Option<PacketRx>,
    pub(crate) counters: Arc<RxCounters>,
    /// Whether heads are long.
    pub(crate) tunnels: bool,
    pub(crate) watch: Watch,
}

/// A receive queue of an AF_XDP socket. Packets lie in chunks until [`RxQueue::complete`] gives those back.
pub(crate) struct XdpRx {
    half: RxHalf,
    side: RxSide,
    state: Arc<State>,
    /// Chunks of the current burst.
    held: [u64; BURST_PACKETS],
    count: usize,
    fault_told: bool,
}

impl XdpRx {
    pub(crate) fn new(half: RxHalf, side: RxSide, state: Arc<State>) -> Self {
        Self { half, side, state, held: [0; BURST_PACKETS], count: 0, fault_told: false }
    }

    /// The frame of an entry. Whatever it says, the bytes lie in one of the chunks to receive into.
    #[inline(always)]
    fn frame<'q>(umem: &Umem, entry: libc::xdp_desc) -> Option<Extent<'q>> {
        let (at, len) = (usize::try_from(entry.addr).ok()?, entry.len as usize);
        let room = CHUNK_BYTES - at % CHUNK_BYTES;
        if at >= umem.receiving_bytes() || len > room || len < ETHERNET || entry.options != 0 {
            return None;
        }
        // SAFETY: inside one chunk, by the check above. The kernel does not write to a chunk that is in neither of its rings, and this one
        // comes back to it in `complete`, which the burst's borrow of the queue ('q) keeps away; the queue holds the memory.
        Some(unsafe { Extent::<'q>::new(umem.at(at), len) })
    }

    fn take<'q>(&mut self, burst: &mut Burst<'q>, report: &mut RxReport) -> bool {
        let Some(held) = self.held.get_mut(self.count) else { return false };
        let Some(entry) = self.half.received.next() else { return false };
        *held = entry.addr / CHUNK_BYTES as u64 * CHUNK_BYTES as u64;
        let frame = Self::frame(&self.half.umem, entry);
        // A chunk that is none of ours is not given to the kernel either.
        self.count += usize::from((*held as usize) < self.half.umem.receiving_bytes());
        let committed = frame.is_some_and(|extent| {
            extent.prefetch();
            burst.push_extent(extent).is_ok() && burst.commit(Offload::NONE)
        });
        if !committed {
            self.side.counters.malformed.add(1);
            report.refused += 1;
        }
        true
    }
}

impl RxQueue for XdpRx {
    fn poll<'q>(&'q mut self, burst: &mut Burst<'q>) -> RxReport {
        self.complete();
        let mut report = RxReport::default();
        if self.state.is_gone() {
            report.fault = (!self.fault_told).then_some(QueueFault::Device);
            self.fault_told = true;
            return report;
        }
        let before = burst.len();
        while !burst.is_full() && self.take(burst, &mut report) {}
        let taken = burst.len() - before;
        if taken + report.refused as usize > 0 {
            self.side.counters.received.add(taken as u64);
            self.half.received.release();
        }
        if self.side.tunnels {
            burst.load_long_heads();
        } else {
            burst.load_heads();
        }
        report.more = self.count == BURST_PACKETS && self.half.received.has_next();
        if let Some(others) = &mut self.side.others {
            let from_others = others.poll(burst);
            report.refused += from_others.refused;
            report.more |= from_others.more;
        }
        report
    }

    #[inline]
    fn complete(&mut self) {
        if self.count > 0 {
            for chunk in self.held.iter().take(self.count) {
                // Never full: it has room for every chunk.
                self.half.fill.push(*chunk);
            }
            self.half.fill.publish();
            self.count = 0;
            if self.half.fill.wants_call() {
                sys::nudge(self.half.socket.as_raw_fd());
            }
        }
        if let Some(others) = &mut self.side.others {
            others.complete();
        }
    }

    fn arm(&mut self) -> Armed {
        let error = sys::option::<i32>(&self.half.socket, libc::SOL_SOCKET, libc::SO_ERROR);
        // An AF_XDP socket has one error to tell: that its interface was removed.
        if error.is_ok_and(|error| error != 0) {
            self.state.set_gone();
        }
        let watched = self.side.watch.begin(&self.half.socket);
        let others = self.side.others.as_mut().map_or(Armed::Quiet, RxQueue::arm);
        if self.state.is_gone() {
            return if self.fault_told { Armed::Quiet } else { Armed::Ready };
        }
        let quiet = watched && others == Armed::Quiet && !self.half.received.has_next();
        if quiet { Armed::Quiet } else { Armed::Ready }
    }

    fn disarm(&mut self) {
        self.side.watch.end(&self.half.socket);
        if let Some(others) = &mut self.side.others {
            others.disarm();
        }
    }
}

impl std::fmt::Debug for XdpRx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let native = self.side.redirect.native;
        f.debug_struct("XdpRx").field("native", &native).field("held", &self.count).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_cannot_be_are_refused() {
        let umem = Umem::of_test(4, 2);
        let look = |addr: u64, len: u32, options: u32| {
            let extent = XdpRx::frame(&umem, libc::xdp_desc { addr, len, options })?;
            let (first, start) = (extent.as_ptr() as usize, umem.at(0) as usize);
            let chunk = (first - start) / CHUNK_BYTES;
            assert!(chunk < 4 && first + extent.len() <= start + (chunk + 1) * CHUNK_BYTES, "outside");
            Some(extent.len())
        };
        let page = CHUNK_BYTES as u64;
        for chunk in 0..4 {
            assert_eq!(look(chunk * page + 256, 1514, 0), Some(1514));
            assert_eq!(look(chunk * page + 256, 3840, 0), Some(3840));
            assert_eq!(look(chunk * page, 4096, 0), Some(4096));
            for (at, len) in [(256, 3841), (4095, 14), (256, 13), (256, 0), (0, u32::MAX)] {
                assert_eq!(look(chunk * page + at, len, 0), None, "{len} bytes at {at}");
            }
            assert_eq!(look(chunk * page + 256, 1514, 1), None, "a packet in pieces was not asked for");
        }
        for beyond in [4 * page, 5 * page + 256, 6 * page, u64::from(u32::MAX), u64::MAX, u64::MAX - 255] {
            assert_eq!(look(beyond, 60, 0), None, "{beyond}");
        }
    }
}
