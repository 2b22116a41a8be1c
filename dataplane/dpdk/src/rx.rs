//! A receive queue.

use crate::port::Port;
use crate::{mempool, offload};
use buf::{BURST_BYTES, BURST_EXTENTS, BURST_PACKETS, Burst, Extent, Offload};
use dpdk_sys::rte_mbuf;
use engine::{Armed, RxQueue, RxReport};
use std::ptr;
use std::sync::Arc;

/// A receive queue of a started device.
///
/// [`RxQueue::arm`] asks the device for an event, which comes at [`EthDev::event_fd`](crate::EthDev::event_fd). Where its driver raises none it always
/// says that there may be a packet, so a worker goes on polling.
#[derive(Debug)]
pub struct DpdkRx {
    /// The first `count` are ours to free: `shown` in the current burst, then those that did not fit it.
    mbufs: [*mut rte_mbuf; BURST_PACKETS],
    count: usize,
    shown: usize,
    queue: u16,
    /// Whether the device raises events for this queue.
    events: bool,
    port: Arc<Port>,
    _in_use: Arc<()>,
}

// SAFETY: the mbufs are this queue's alone, and freeing or receiving them is not bound to a thread; `&mut` makes that one at a time.
unsafe impl Send for DpdkRx {}

/// What became of a received mbuf.
enum Shown {
    Packet,
    Refused,
    NoRoom,
}

impl DpdkRx {
    pub(crate) fn new(port: Arc<Port>, in_use: Arc<()>, queue: u16, events: bool) -> Self {
        Self {
            mbufs: [ptr::null_mut(); BURST_PACKETS],
            count: 0,
            shown: 0,
            queue,
            events,
            port,
            _in_use: in_use,
        }
    }

    /// Asks the device for as many mbufs as there is room for; whether there may be more.
    #[inline(always)]
    fn fetch(&mut self) -> bool {
        let room = self.mbufs.get_mut(self.count..).unwrap_or_default();
        if room.is_empty() {
            return true;
        }
        // SAFETY: the port is started while this queue lives, and only this value polls the queue; the array has room for that many.
        let got = unsafe {
            dpdk_sys::towpath_eth_rx_burst(self.port.id, self.queue, room.as_mut_ptr(), room.len() as u16)
        };
        self.count += usize::from(got);
        usize::from(got) == room.len()
    }

    /// Adds the first mbufs to the burst as long as they are packets of one segment; how many.
    #[inline(always)]
    fn show_single<'q>(mbufs: &'q [*mut rte_mbuf], burst: &mut Burst<'q>) -> usize {
        let (first, room) = (burst.len(), BURST_BYTES.saturating_sub(burst.bytes()));
        let (mut count, mut bytes) = (0, 0);
        for (mbuf, slot) in mbufs.iter().zip(burst.single_slots()) {
            // SAFETY: the caller's mbufs were received and are not freed while 'q lasts.
            let mbuf = unsafe { &**mbuf };
            if mbuf.nb_segs != 1 || mbuf.data_len == 0 || bytes >= room {
                break;
            }
            let start = mbuf.buf_addr.cast::<u8>().wrapping_add(usize::from(mbuf.data_off));
            // SAFETY: the packet's bytes lie in its buffer, which stays with the pool; nobody writes to a received mbuf, and 'q ends before
            // the mbuf is freed.
            let extent = unsafe { Extent::<'q>::new(start, usize::from(mbuf.data_len)) };
            extent.prefetch();
            slot.write(extent);
            bytes += usize::from(mbuf.data_len);
            count += 1;
        }
        // SAFETY: the first `count` slots were written just now, with extents of 1 to 65,535 bytes.
        unsafe { burst.added(count, bytes) };
        for (mbuf, index) in mbufs.iter().take(count).zip(first..) {
            // SAFETY: one of those looked at above: rx_burst gave it to this queue, which holds it until the burst is complete.
            let mbuf = unsafe { &**mbuf };
            let offload = offload::vouched(mbuf.ol_flags, dpdk_sys::mbuf::packet_type(mbuf));
            if offload != Offload::NONE {
                burst.set_offload(index, offload);
            }
        }
        count
    }

    /// Adds one mbuf's segments to the burst as a packet.
    #[inline(always)]
    fn show<'q>(mbuf: &'q rte_mbuf, burst: &mut Burst<'q>) -> Shown {
        let mut next = ptr::from_ref(mbuf);
        for _ in 0..mbuf.nb_segs {
            // SAFETY: a received chain has `nb_segs` segments, linked by `next`, and is not freed while 'q lasts.
            let Some(segment) = (unsafe { next.as_ref::<'q>() }) else { break };
            let start = segment.buf_addr.cast::<u8>().wrapping_add(usize::from(segment.data_off));
            // SAFETY: the segment's data lie in its buffer, which stays with the pool; nobody writes to a received mbuf, and 'q ends
            // before the mbuf is freed.
            let extent = unsafe { Extent::<'q>::new(start, usize::from(segment.data_len)) };
            extent.prefetch();
            if burst.push_extent(extent).is_err() {
                burst.abandon();
                let fits_an_empty_burst = usize::from(mbuf.nb_segs) <= BURST_EXTENTS;
                return if fits_an_empty_burst && !burst.is_empty() { Shown::NoRoom } else { Shown::Refused };
            }
            next = segment.next;
        }
        if burst.commit(offload::vouched(mbuf.ol_flags, dpdk_sys::mbuf::packet_type(mbuf))) {
            Shown::Packet
        } else {
            Shown::Refused
        }
    }

    /// Reads what the device left undone in packets it did not get from a wire. `refused` has a bit for each mbuf that became none.
    #[cold]
    fn read_requests(mbufs: &[*mut rte_mbuf], refused: u32, burst: &mut Burst<'_>, first: usize) {
        let shown = mbufs.iter().enumerate().filter(|(at, _)| refused & (1 << at) == 0);
        for ((_, mbuf), index) in shown.zip(first..) {
            // SAFETY: received mbufs that are not freed before `complete`.
            let mbuf = unsafe { &**mbuf };
            if offload::is_request(mbuf.ol_flags) {
                let size = dpdk_sys::mbuf::lro_segment_size(mbuf);
                let Some(packet) = burst.packet(index) else { return };
                let request = offload::requested(mbuf.ol_flags, size, packet.head(), packet.len() as u32);
                burst.set_offload(index, request);
            }
        }
    }
}

impl RxQueue for DpdkRx {
    fn poll<'q>(&'q mut self, burst: &mut Burst<'q>) -> RxReport {
        self.complete();
        let filled = self.fetch();
        let mut report = RxReport::default();
        let first = burst.len();
        let ours = self.mbufs.get(..self.count).unwrap_or_default();
        let mut shown = Self::show_single(ours, burst);
        let (mut refused, mut requests) = (0u32, false);
        for mbuf in ours.iter().take(shown) {
            // SAFETY: shown just now.
            requests |= offload::is_request(unsafe { (**mbuf).ol_flags });
        }
        for mbuf in ours.iter().skip(shown) {
            if burst.is_full() {
                break;
            }
            // SAFETY: one of the `count` mbufs that are ours, not freed before `complete`, which the burst's borrow keeps away.
            let mbuf = unsafe { &**mbuf };
            match Self::show(mbuf, burst) {
                Shown::Packet => requests |= offload::is_request(mbuf.ol_flags),
                Shown::Refused => refused |= 1 << shown,
                Shown::NoRoom => break,
            }
            shown += 1;
        }
        self.shown = shown;
        report.refused = refused.count_ones();
        burst.load_long_heads();
        if requests {
            Self::read_requests(self.mbufs.get(..shown).unwrap_or_default(), refused, burst, first);
        }
        report.more = shown < self.count || filled;
        report
    }

    #[inline]
    fn complete(&mut self) {
        if let Some(used) = self.mbufs.get_mut(..self.shown).filter(|used| !used.is_empty()) {
            // SAFETY: these were received, shown in a burst whose borrow has ended, and leave the array below.
            unsafe { mempool::free(used) };
            self.mbufs.copy_within(self.shown..self.count, 0);
            self.count -= self.shown;
            self.shown = 0;
        }
    }

    fn arm(&mut self) -> Armed {
        self.complete();
        if !self.events || self.count > 0 {
            return Armed::Ready;
        }
        // SAFETY: the port is started while this queue lives, and only this value has the queue.
        if unsafe { dpdk_sys::rte_eth_dev_rx_intr_enable(self.port.id, self.queue) } != 0 {
            return Armed::Ready;
        }
        // What came before the device knew; it is shown by the next poll.
        self.fetch();
        if self.count == 0 {
            return Armed::Quiet;
        }
        self.disarm();
        Armed::Ready
    }

    fn disarm(&mut self) {
        if self.events {
            // SAFETY: as in `arm`. A queue that goes on raising events wakes its worker in vain, no more.
            unsafe { dpdk_sys::rte_eth_dev_rx_intr_disable(self.port.id, self.queue) };
        }
    }
}

impl Drop for DpdkRx {
    fn drop(&mut self) {
        if let Some(ours) = self.mbufs.get_mut(..self.count).filter(|ours| !ours.is_empty()) {
            // SAFETY: all `count` mbufs are ours, and nobody can ask for them any more.
            unsafe { mempool::free(ours) };
        }
    }
}
