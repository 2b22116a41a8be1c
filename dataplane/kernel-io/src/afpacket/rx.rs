//! A receive queue.

use super::ring::{HEADER_BYTES, Header, SLOT_BYTES, Slot};
use super::{Reception, Ring};
use crate::state::{ETHERNET, RxCounters, State};
use crate::watch::Watch;
use crate::{sys, vnet};
use buf::{Burst, Checksum, Extent, Offload};
use engine::{Armed, QueueFault, RxQueue, RxReport};
use packet::{L4, udp, vlan, vxlan};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Slots ahead whose first lines are asked for.
const AHEAD: usize = 4;

/// A receive queue of a packet socket. Packets lie in slots of the ring until [`RxQueue::complete`] gives those back.
#[derive(Debug)]
pub(crate) struct PacketRx {
    ring: Ring,
    /// The slot looked at next.
    next: usize,
    /// Slots before it that are ours: shown in the current burst, or refused.
    held: usize,
    fault_told: bool,
    /// The UDP port of the tunnels that end here; none on a port that is no uplink.
    tunnel_port: Option<u16>,
    watch: Watch,
    socket: Arc<OwnedFd>,
    state: Arc<State>,
    counters: Arc<RxCounters>,
}

/// Why a slot holds no packet.
enum Refusal {
    Truncated,
    Malformed,
}

impl PacketRx {
    pub(crate) fn new(
        reception: Reception,
        watch: Watch,
        state: Arc<State>,
        counters: Arc<RxCounters>,
        tunnel_port: Option<u16>,
    ) -> Self {
        let Reception { socket, ring } = reception;
        Self { ring, next: 0, held: 0, fault_told: false, tunnel_port, watch, socket, state, counters }
    }

    /// Whether the slot looked at next holds a frame.
    #[inline(always)]
    fn is_ready(&self) -> bool {
        self.held < self.ring.len() && self.ring.slot(self.next).status() & libc::TP_STATUS_USER != 0
    }

    /// Shows what is in the slot looked at next, if it is ours; false if it is not.
    #[inline(always)]
    fn show<'q>(&mut self, burst: &mut Burst<'q>, report: &mut RxReport) -> bool {
        if self.held == self.ring.len() {
            return false;
        }
        let slot = self.ring.slot(self.next);
        let status = slot.status();
        if status & libc::TP_STATUS_USER == 0 {
            return false;
        }
        let ahead = self.next + AHEAD;
        self.ring.slot(if ahead < self.ring.len() { ahead } else { ahead - self.ring.len() }).prefetch();
        let frame = frame(slot, slot.header(status));
        self.next = self.ring.after(self.next);
        self.held += 1;
        let committed = match frame {
            Ok((extent, offload)) => {
                extent.prefetch();
                burst.push_extent(extent).is_ok() && burst.commit(offload)
            }
            Err(Refusal::Truncated) => {
                self.counters.truncated.add(1);
                false
            }
            Err(Refusal::Malformed) => {
                self.counters.malformed.add(1);
                false
            }
        };
        report.refused += u32::from(!committed);
        true
    }

    /// Whether the interface was removed. Asked when the socket has an error to tell.
    #[cold]
    fn look_for_removal(&self) {
        let index = sys::bound::<libc::sockaddr_ll>(&self.socket).map(|address| address.sll_ifindex);
        if index.is_ok_and(|index| index <= 0) {
            self.state.set_gone();
        }
    }

    #[cold]
    fn ended(&mut self) -> RxReport {
        let fault = (!self.fault_told).then_some(QueueFault::Device);
        self.fault_told = true;
        RxReport { fault, ..RxReport::default() }
    }
}

/// Finds the frame in a slot that is ours. Nothing the header says is believed without a look: whatever it holds, the bytes lie in the
/// slot. A VLAN tag that the kernel took out is put back, over the virtio-net header, which was read before.
#[inline(always)]
fn frame<'q>(slot: Slot<'_>, header: Header) -> Result<(Extent<'q>, Offload), Refusal> {
    if header.in_slot < header.len {
        return Err(Refusal::Truncated);
    }
    let (start, len) = (usize::from(header.at), header.in_slot as usize);
    if start < HEADER_BYTES + vnet::LENGTH || len < ETHERNET || len > SLOT_BYTES - start {
        return Err(Refusal::Malformed);
    }
    // SAFETY: the ten bytes before the frame are in the slot, by the check above; the slot is ours.
    let wishes = unsafe { slot.at(start - vnet::LENGTH).cast::<[u8; vnet::LENGTH]>().read_unaligned() };
    let tagged = header.status & libc::TP_STATUS_VLAN_VALID != 0;
    let inserted = if tagged { vlan::TAG_LENGTH } else { 0 };
    let offload = vnet::read(wishes, inserted as u16).ok_or(Refusal::Malformed)?;
    if tagged {
        put_back(slot, start, header);
    }
    // SAFETY: `start - inserted` is behind the slot's header and the end is inside the slot, by the check above. The kernel does not write
    // to a slot that is ours, and it stays ours until `complete`, which the burst's borrow of the queue ('q) keeps away.
    let extent = unsafe { Extent::<'q>::new(slot.at(start - inserted), len + inserted) };
    Ok((extent, offload))
}

/// Moves the MAC addresses four bytes to the front and writes the tag behind them.
#[cold]
fn put_back(slot: Slot<'_>, start: usize, header: Header) {
    let known = header.status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    let tpid = if known { header.vlan_tpid } else { vlan::CUSTOMER };
    let [a, b] = tpid.to_be_bytes();
    let [c, d] = header.vlan_tci.to_be_bytes();
    let addresses = slot.at(start).cast::<[u8; 12]>();
    // SAFETY: the caller checked that ten bytes before `start` and fourteen behind it are in the slot, which is ours; unaligned and
    // overlapping is fine because the addresses are read as a value before they are written.
    unsafe {
        let value = addresses.read_unaligned();
        slot.at(start - vlan::TAG_LENGTH).cast::<[u8; 12]>().write_unaligned(value);
        slot.at(start + 12 - vlan::TAG_LENGTH).cast::<[u8; 4]>().write_unaligned([a, b, c, d]);
    }
}

/// Notes in each packet's wishes whether they are about a frame inside a tunnel: a tunnel end point on this host or a virtual wire hands
/// over what it did not cut or sum.
#[cold]
fn find_tunnels(burst: &mut Burst<'_>, port: u16) {
    for index in 0..burst.len() {
        let Some(frame) = burst.frame(index) else { continue };
        let mut offload = frame.offload;
        let Checksum::Partial { start, .. } = offload.checksum else { continue };
        let Ok(headers) = packet::parse(frame.head(), frame.len() as u32) else { continue };
        let inner = usize::from(headers.l4_offset) + udp::HEADER_LENGTH + vxlan::HEADER_LENGTH;
        if headers.l4 == L4::Udp && headers.destination_port == port && usize::from(start) > inner {
            offload.tunnel = u8::try_from(inner).unwrap_or(0);
            burst.set_offload(index, offload);
        }
    }
}

impl RxQueue for PacketRx {
    fn poll<'q>(&'q mut self, burst: &mut Burst<'q>) -> RxReport {
        self.complete();
        if self.state.is_gone() {
            return self.ended();
        }
        let mut report = RxReport::default();
        while !burst.is_full() && self.show(burst, &mut report) {}
        match self.tunnel_port {
            Some(port) => {
                burst.load_long_heads();
                if burst.with_offload() != 0 {
                    find_tunnels(burst, port);
                }
            }
            None => burst.load_heads(),
        }
        report.more = burst.is_full() && self.is_ready();
        report
    }

    #[inline]
    fn complete(&mut self) {
        let mut slot = self.next;
        while self.held > 0 {
            slot = self.ring.before(slot);
            self.ring.slot(slot).set_status(libc::TP_STATUS_KERNEL);
            self.held -= 1;
        }
    }

    /// What the socket has to tell of the interface going down is taken here, so that nobody is woken by it twice.
    fn arm(&mut self) -> Armed {
        let error = sys::option::<i32>(&self.socket, libc::SOL_SOCKET, libc::SO_ERROR);
        if error.is_ok_and(|error| error != 0) {
            self.look_for_removal();
        }
        let watched = self.watch.begin(&self.socket);
        let fault = self.state.is_gone() && !self.fault_told;
        if fault || !watched || self.is_ready() { Armed::Ready } else { Armed::Quiet }
    }

    fn disarm(&mut self) {
        self.watch.end(&self.socket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: usize = HEADER_BYTES + vnet::LENGTH;

    fn header(at: usize, len: u32, in_slot: u32) -> Header {
        Header {
            status: libc::TP_STATUS_USER,
            len,
            in_slot,
            at: at as u16,
            vlan_tci: 0x6123,
            vlan_tpid: vlan::SERVICE,
        }
    }

    /// What is made of a header, with these bytes as virtio-net header and everything else in the slot 7.
    fn look(header: Header, wishes: [u8; vnet::LENGTH]) -> Option<(Vec<u8>, Offload)> {
        let mut memory = vec![u128::from_ne_bytes([7; 16]); SLOT_BYTES / 16];
        let slot = Slot::of_test(&mut memory);
        if let Some(at) = usize::from(header.at).checked_sub(vnet::LENGTH) {
            // SAFETY: a 16-bit offset is inside the slot, which is this test's.
            unsafe { slot.at(at).cast::<[u8; vnet::LENGTH]>().write_unaligned(wishes) };
        }
        let (extent, offload) = frame(slot, header).ok()?;
        let start = slot.at(0) as usize;
        let (first, len) = (extent.as_ptr() as usize, extent.len());
        assert!(first >= start + HEADER_BYTES && first + len <= start + SLOT_BYTES, "outside the slot");
        let mut bytes = vec![0; len];
        assert_eq!(extent.read(&mut bytes), len);
        Some((bytes, offload))
    }

    #[test]
    fn offsets_and_lengths_that_cannot_be_are_refused() {
        let plain = [0; vnet::LENGTH];
        for at in [0, 1, 9, 32, LINE - 1, LINE, LINE + 1, 76, 4096, 65_535] {
            let most = SLOT_BYTES.saturating_sub(at) as u32;
            for len in [0, 1, 13, 14, 60, 1514, most - 1, most, most + 1, 65_728, 1 << 20, u32::MAX] {
                let good = at >= LINE && (14..=most).contains(&len);
                let seen = look(header(at, len, len), plain);
                assert_eq!(seen.is_some(), good, "{len} bytes at {at}");
                assert!(seen.is_none_or(|(bytes, _)| bytes == vec![7; len as usize]));
                let mut tagged = header(at, len, len);
                tagged.status |= libc::TP_STATUS_VLAN_VALID | libc::TP_STATUS_VLAN_TPID_VALID;
                let seen = look(tagged, plain);
                assert_eq!(seen.is_some(), good, "{len} bytes at {at} and a tag");
                if let Some((bytes, _)) = seen {
                    assert_eq!(bytes.len(), len as usize + 4);
                    assert_eq!(bytes[12..16], [0x88, 0xa8, 0x61, 0x23]);
                }
            }
        }
        assert!(look(header(76, 1515, 1514), plain).is_none(), "a byte is missing");
        assert!(look(header(76, 1514, 1515), plain).is_some(), "what the slot holds counts");
    }

    #[test]
    fn wishes_that_nobody_can_fulfil_are_refused() {
        for kind in 0..=255u8 {
            let seen = look(header(76, 60, 60), [1, kind, 0, 0, 10, 0, 34, 0, 16, 0]);
            assert_eq!(seen.is_some(), matches!(kind & 0x7f, 1 | 4 | 5) || kind == 0, "{kind}");
        }
        let mut tagged = header(76, 60, 60);
        tagged.status |= libc::TP_STATUS_VLAN_VALID;
        assert!(look(tagged, [1, 0, 0, 0, 0, 0, 0xff, 0xff, 16, 0]).is_none(), "it starts beyond 65,535");
        let (bytes, _) = look(tagged, [0; vnet::LENGTH]).unwrap();
        assert_eq!(bytes[12..16], [0x81, 0x00, 0x61, 0x23], "an old kernel names no tag type");
    }
}
