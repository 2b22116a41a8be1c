//! A transmit queue.

use super::Ring;
use super::ring::{SEND_OFFSET, SLOT_BYTES};
use crate::state::{ETHERNET, State, TxCounters};
use crate::{sys, vnet};
use buf::{ExtentMut, Frame};
use engine::{OffloadCapabilities, TxQueue, TxReport};
use packet::vlan;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// Bytes that fit a slot behind its headers.
const MOST_BYTES: usize = SLOT_BYTES - SEND_OFFSET - vnet::LENGTH;
/// Frames up to this length are copied whole into the kernel's buffers; of longer ones this much, and the rest is sent from the ring.
/// Copying is cheaper than references to pages as long as it is short.
const LINEAR_BYTES: usize = 2048;
const LINEAR_PART: usize = 256;

/// A transmit queue of a packet socket. `send` copies frames into the ring, `flush` makes one system call for all of them.
#[derive(Debug)]
pub(crate) struct PacketTx {
    ring: Ring,
    /// The slot filled next.
    next: usize,
    /// Whether there are frames that the kernel was not told of, or did not take.
    unsent: bool,
    /// Bytes of them.
    unsent_bytes: usize,
    /// Whether the interface was down at the last call.
    down: bool,
    capabilities: OffloadCapabilities,
    socket: OwnedFd,
    state: Arc<State>,
    counters: Arc<TxCounters>,
}

impl PacketTx {
    pub(crate) fn new(
        socket: OwnedFd,
        ring: Ring,
        capabilities: OffloadCapabilities,
        state: Arc<State>,
        counters: Arc<TxCounters>,
    ) -> Self {
        Self {
            ring,
            next: 0,
            unsent: false,
            unsent_bytes: 0,
            down: false,
            capabilities,
            socket,
            state,
            counters,
        }
    }

    /// Puts a frame into the next slot; false when the kernel still has that.
    #[inline(always)]
    fn put(&mut self, frame: &Frame<'_, '_>) -> bool {
        const BUSY: u32 =
            libc::TP_STATUS_SEND_REQUEST | libc::TP_STATUS_SENDING | libc::TP_STATUS_WRONG_FORMAT;
        let slot = self.ring.slot(self.next);
        if slot.status() & BUSY != 0 {
            return false;
        }
        let len = frame.len();
        let linear = if len <= LINEAR_BYTES { len } else { LINEAR_PART.max(frame.head().len()) };
        let header = vnet::write(frame.offload, linear as u16);
        // SAFETY: ten bytes of the slot behind its header; the slot is ours.
        unsafe { slot.at(SEND_OFFSET).cast::<[u8; vnet::LENGTH]>().write_unaligned(header) };
        // SAFETY: the rest of the slot, `MOST_BYTES` from there; the slot is ours, and no reference to its bytes exists.
        let room = unsafe { ExtentMut::new(slot.at(SEND_OFFSET + vnet::LENGTH), MOST_BYTES) };
        if !frame.copy_whole(room) {
            return false;
        }
        slot.set_send_length((vnet::LENGTH + len) as u32);
        slot.set_status(libc::TP_STATUS_SEND_REQUEST);
        self.next = self.ring.after(self.next);
        self.unsent = true;
        self.unsent_bytes += len;
        true
    }

    /// Puts a frame into a ring that was full, after the kernel was told of what is in it: a large packet that was cut may be more than the
    /// ring holds. Once per call of `send` that is in vain.
    #[cold]
    fn put_after_all(&mut self, frame: &Frame<'_, '_>, tried: &mut bool) -> bool {
        if *tried || !self.unsent {
            return false;
        }
        self.kick();
        *tried = !self.put(frame);
        !*tried
    }

    /// Makes the kernel send what is in the ring.
    fn kick(&mut self) {
        match sys::kick(self.socket.as_raw_fd()) {
            Ok(taken) => self.taken(taken),
            Err(error) => self.refused(&error),
        }
    }

    #[inline(always)]
    fn taken(&mut self, bytes: usize) {
        self.down = false;
        let last = self.ring.slot(self.ring.before(self.next));
        if last.status() & libc::TP_STATUS_SEND_REQUEST != 0 {
            // Not all of them: the rest goes with the next call.
            self.unsent_bytes = self.unsent_bytes.saturating_sub(bytes);
            self.counters.congested.add(1);
            return;
        }
        if bytes < self.unsent_bytes {
            self.counters.lost.add(1);
        }
        self.unsent = false;
        self.unsent_bytes = 0;
    }

    #[cold]
    fn refused(&mut self, error: &io::Error) {
        match error.raw_os_error() {
            Some(libc::ENETDOWN) => {
                self.down = true;
                self.take_back();
            }
            Some(libc::ENXIO | libc::ENODEV) => {
                self.state.set_gone();
                self.take_back();
            }
            // No memory, or the interface's queue is full: the frames stay where they are. How many went out before is not said.
            _ => {
                self.unsent_bytes = 0;
                self.counters.congested.add(1);
            }
        }
    }

    /// Takes back what the kernel did not send, so that it does not go out when the interface comes back, whenever that is.
    fn take_back(&mut self) {
        for _ in 0..self.ring.len() {
            let before = self.ring.before(self.next);
            let slot = self.ring.slot(before);
            if slot.status() & libc::TP_STATUS_SEND_REQUEST == 0 {
                break;
            }
            slot.set_status(libc::TP_STATUS_AVAILABLE);
            self.next = before;
            self.counters.lost.add(1);
        }
        self.unsent = false;
        self.unsent_bytes = 0;
    }
}

/// Whether `frame` may stand on a link of this MTU, once it is cut if it is to be.
#[inline(always)]
pub(crate) fn fits(frame: &Frame<'_, '_>, mtu: usize) -> bool {
    let len = frame.len();
    len >= ETHERNET && (len <= mtu + ETHERNET || fits_cut_or_tagged(frame, mtu))
}

#[inline(never)]
fn fits_cut_or_tagged(frame: &Frame<'_, '_>, mtu: usize) -> bool {
    if let Some(segment) = frame.offload.segment {
        return packet::parse(frame.head(), frame.len() as u32).is_ok_and(|headers| {
            let l3_bytes = usize::from(headers.payload_offset.saturating_sub(headers.l3_offset));
            l3_bytes + usize::from(segment.size) <= mtu
        });
    }
    let mut at = ETHERNET - 2;
    let mut room = mtu + ETHERNET;
    for _ in 0..vlan::MAX_TAGS {
        let Some([high, low]) = frame.head().get(at..at + 2) else { break };
        if !vlan::is_tag(u16::from_be_bytes([*high, *low])) {
            break;
        }
        at += vlan::TAG_LENGTH;
        room += vlan::TAG_LENGTH;
    }
    frame.len() <= room
}

impl TxQueue for PacketTx {
    fn capabilities(&self) -> OffloadCapabilities {
        self.capabilities
    }

    fn send(&mut self, frames: &[Frame<'_, '_>]) -> TxReport {
        let mut report = TxReport::default();
        if self.down || self.state.is_gone() {
            report.stopped = frames.len() as u32;
            return report;
        }
        let mtu = self.state.mtu();
        let mut tried = false;
        for frame in frames {
            if frame.len() > MOST_BYTES || !fits(frame, mtu) {
                report.too_large += 1;
            } else if self.put(frame) || self.put_after_all(frame, &mut tried) {
                report.sent += 1;
                report.bytes += frame.len() as u64;
            } else {
                report.full += 1;
            }
        }
        report
    }

    /// One system call for all that was sent. While the interface is down it asks whether that is still so.
    fn flush(&mut self) {
        if self.unsent || self.down {
            self.kick();
        }
    }

    /// Offers again what the kernel had no room for.
    fn settle(&mut self) {
        if self.unsent {
            self.kick();
        }
    }
}
