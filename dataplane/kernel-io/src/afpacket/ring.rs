//! The slots of a ring.

use crate::sys::{self, Mapping};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes of a slot: the longest frame (65,535 bytes of IP, Ethernet, two tags) behind the kernel's headers. Whole cache lines, and no
/// multiple of a page: the first lines of neighbouring slots do not compete for the same sets of a cache.
pub(crate) const SLOT_BYTES: usize = 65_728;
/// Bytes of a block, which the kernel allocates in one piece if it can.
const BLOCK_BYTES: usize = 2 << 20;
const SLOTS_PER_BLOCK: usize = BLOCK_BYTES / SLOT_BYTES;
/// The smallest ring.
pub(crate) const LEAST_BYTES: usize = BLOCK_BYTES;
/// The largest ring, so that offsets fit 32 bits.
pub(crate) const MOST_BYTES: usize = 2 << 30;

const _: () = assert!(SLOT_BYTES.is_multiple_of(64) && !SLOT_BYTES.is_multiple_of(4096));

/// Where the kernel's header of a slot ends (`TPACKET2_HDRLEN`); a received frame begins behind it.
pub(crate) const HEADER_BYTES: usize = libc::TPACKET2_HDRLEN;
/// Where a frame to be sent begins, its virtio-net header first: behind `struct tpacket2_hdr`, as `tpacket_parse_header` has it.
pub(crate) const SEND_OFFSET: usize = HEADER_BYTES - size_of::<libc::sockaddr_ll>();

/// Which way the frames of a ring go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// `PACKET_RX_RING`.
    Receive,
    /// `PACKET_TX_RING`.
    Transmit,
}

/// A mapped ring.
#[derive(Debug)]
pub(crate) struct Ring {
    map: Mapping,
    /// Where each slot begins.
    offsets: Box<[u32]>,
}

/// The kernel's words at the beginning of a slot, read once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) status: u32,
    /// Bytes the frame had.
    pub(crate) len: u32,
    /// Bytes of it that are in the slot.
    pub(crate) in_slot: u32,
    /// Where they begin.
    pub(crate) at: u16,
    pub(crate) vlan_tci: u16,
    pub(crate) vlan_tpid: u16,
}

/// One slot: its address, inside the mapping.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot<'r> {
    start: *mut u8,
    ring: std::marker::PhantomData<&'r Ring>,
}

impl Ring {
    /// Makes and maps the ring of a socket whose version is set, of about `bytes` (between [`LEAST_BYTES`] and [`MOST_BYTES`]).
    pub(crate) fn new(socket: &OwnedFd, direction: Direction, bytes: usize) -> io::Result<Self> {
        let blocks = (bytes / BLOCK_BYTES).max(1);
        let slots = blocks * SLOTS_PER_BLOCK;
        let request = libc::tpacket_req {
            tp_block_size: BLOCK_BYTES as u32,
            tp_block_nr: blocks as u32,
            tp_frame_size: SLOT_BYTES as u32,
            tp_frame_nr: slots as u32,
        };
        let option = match direction {
            Direction::Receive => libc::PACKET_RX_RING,
            Direction::Transmit => libc::PACKET_TX_RING,
        };
        sys::set_option(socket, libc::SOL_PACKET, option, &request)?;
        let map = Mapping::of(socket, blocks * BLOCK_BYTES, 0)?;
        let place = |slot| slot / SLOTS_PER_BLOCK * BLOCK_BYTES + slot % SLOTS_PER_BLOCK * SLOT_BYTES;
        Ok(Self { map, offsets: (0..slots).map(|slot| place(slot) as u32).collect() })
    }

    /// How many slots there are.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.offsets.len()
    }

    /// The slot after this one, the first after the last.
    #[inline(always)]
    pub(crate) fn after(&self, slot: usize) -> usize {
        if slot + 1 < self.len() { slot + 1 } else { 0 }
    }

    /// The slot before this one, the last before the first.
    #[inline(always)]
    pub(crate) fn before(&self, slot: usize) -> usize {
        if slot == 0 { self.len() - 1 } else { slot - 1 }
    }

    /// The slot at `index`; the first one for an index that there is none at.
    #[inline(always)]
    pub(crate) fn slot(&self, index: usize) -> Slot<'_> {
        let offset = self.offsets.get(index).map_or(0, |offset| *offset as usize);
        // SAFETY: `new` made every offset that of a whole slot inside the mapping; 0 is the first slot's.
        let start = unsafe { self.map.start().add(offset) };
        Slot { start, ring: std::marker::PhantomData }
    }
}

impl Slot<'_> {
    #[inline(always)]
    fn status_word(&self) -> &AtomicU32 {
        // SAFETY: the first four bytes of a slot, aligned (slots begin at cache lines), mapped while the ring is borrowed; both
        // sides touch them with single loads and stores only.
        unsafe { AtomicU32::from_ptr(self.start.cast()) }
    }

    /// Who owns the slot. What its owner wrote before is visible.
    #[inline(always)]
    pub(crate) fn status(&self) -> u32 {
        self.status_word().load(Ordering::Acquire)
    }

    /// Gives the slot to the kernel, or takes it back, with everything written before.
    #[inline(always)]
    pub(crate) fn set_status(&self, status: u32) {
        self.status_word().store(status, Ordering::Release);
    }

    /// The kernel's header. The slot is ours, so that the kernel does not write to it.
    #[inline(always)]
    pub(crate) fn header(&self, status: u32) -> Header {
        // SAFETY: the header lies at the beginning of the slot, aligned; every pattern of bits is a value of it.
        let header = unsafe { self.start.cast::<libc::tpacket2_hdr>().read_volatile() };
        Header {
            status,
            len: header.tp_len,
            in_slot: header.tp_snaplen,
            at: header.tp_mac,
            vlan_tci: header.tp_vlan_tci,
            vlan_tpid: header.tp_vlan_tpid,
        }
    }

    /// Writes the length of what is to be sent: virtio-net header and frame.
    #[inline(always)]
    pub(crate) fn set_send_length(&self, bytes: u32) {
        let at = std::mem::offset_of!(libc::tpacket2_hdr, tp_len);
        // SAFETY: inside the slot's header, aligned; the slot is ours.
        unsafe { self.start.add(at).cast::<u32>().write(bytes) };
    }

    /// The address of the byte at `offset`, at most [`SLOT_BYTES`].
    #[inline(always)]
    pub(crate) fn at(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset <= SLOT_BYTES);
        self.start.wrapping_add(offset.min(SLOT_BYTES))
    }

    /// Asks for the line of its status and for the beginning of its frame.
    #[inline(always)]
    pub(crate) fn prefetch(&self) {
        cpu::prefetch_read_at(self.start);
        cpu::prefetch_read_at(self.start.wrapping_add(cpu::CACHE_LINE));
    }
}

#[cfg(test)]
impl Slot<'_> {
    /// A slot in memory of a test: [`SLOT_BYTES`] at a cache line, which outlives it.
    pub(crate) fn of_test(memory: &mut [u128]) -> Self {
        assert!(size_of_val(memory) >= SLOT_BYTES);
        Self { start: memory.as_mut_ptr().cast(), ring: std::marker::PhantomData }
    }
}
