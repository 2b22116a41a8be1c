//! Up to 32 packets that a worker handles together, and the storage they need. Lives on the stack of one step.

use crate::{Extent, Frame, Offload};
use arrayvec::ArrayVec;
use std::mem::MaybeUninit;

/// Packets in a burst.
pub const BURST_PACKETS: usize = 32;
/// Payload bytes after which a burst ends, so that one sender of 64 KiB packets holds a worker no longer than one of small ones.
pub const BURST_BYTES: usize = 128 * 1024;
/// Extents that the packets of a burst may have together.
pub const BURST_EXTENTS: usize = 1088;
/// Bytes of a frame that are copied into its private head. Whatever is parsed or rewritten must lie in them.
pub const HEAD_BYTES: usize = 128;
/// Room before the head for outer headers (VXLAN over IPv6 with a VLAN tag needs 74): what is left of two lines behind a packet's fields.
pub const HEAD_ROOM: usize = 116;
/// Bytes of outer headers that [`Burst::load_long_heads`] loads besides [`HEAD_BYTES`], so that a frame that comes out of a tunnel has a whole head
/// too: VXLAN over IPv6, and over IPv4 with a VLAN tag.
pub const TUNNEL_BYTES: usize = 70;
/// The longest head: one loaded after as many bytes as there is room for.
pub const MAX_HEAD_BYTES: usize = HEAD_ROOM + HEAD_BYTES;

/// The burst's arena of extents is full; the packet that needed one more is to be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyExtents;

/// A packet: private head, and where its extents are. Four cache lines, of which the first holds the fields and the third and fourth
/// the head.
#[repr(C, align(64))]
pub struct Packet {
    len: u32,
    head_start: u16,
    head_len: u16,
    first_extent: u16,
    extents: u16,
    bytes: [MaybeUninit<u8>; HEAD_ROOM + HEAD_BYTES],
}

const _: () = assert!(size_of::<Packet>() == 256 && std::mem::offset_of!(Packet, bytes) + HEAD_ROOM == 128);

impl Packet {
    /// Length of the whole frame in bytes (without FCS), up to `u32::MAX`.
    #[inline(always)]
    #[expect(clippy::len_without_is_empty, reason = "a packet of no bytes is never made")]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// The private bytes: the first [`HEAD_BYTES`] of the frame or all of it, plus what was prepended.
    #[inline(always)]
    pub fn head(&self) -> &[u8] {
        let start = usize::from(self.head_start);
        // SAFETY: head_start + head_len <= bytes.len() and those bytes were written (`load_single`, `load_head`, `prepend`,
        // `replace`).
        unsafe {
            std::slice::from_raw_parts(self.bytes.as_ptr().add(start).cast(), usize::from(self.head_len))
        }
    }

    /// The private bytes, to be rewritten.
    #[inline(always)]
    pub fn head_mut(&mut self) -> &mut [u8] {
        let start = usize::from(self.head_start);
        // SAFETY: as `head`.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.bytes.as_mut_ptr().add(start).cast(),
                usize::from(self.head_len),
            )
        }
    }

    /// Puts `header` before the head; false (and nothing done) when there is no room left.
    #[inline]
    pub fn prepend(&mut self, header: &[u8]) -> bool {
        let Some(start) = usize::from(self.head_start).checked_sub(header.len()) else { return false };
        for (slot, byte) in self.bytes[start..].iter_mut().zip(header) {
            slot.write(*byte);
        }
        self.head_start = start as u16;
        self.head_len += header.len() as u16;
        self.len += header.len() as u32;
        true
    }

    /// The same for a header of a length known here, which is then to be completed; `None` when there is no room left.
    #[inline(always)]
    pub fn prepend_array<const N: usize>(&mut self, header: &[u8; N]) -> Option<&mut [u8; N]> {
        let start = usize::from(self.head_start).checked_sub(N)?;
        // SAFETY: start + N is `head_start`, which is at most `bytes.len()`; a reference to bytes that may not be written yet is not made
        // before they are.
        let slot = unsafe {
            let slot = self.bytes.as_mut_ptr().add(start).cast::<[u8; N]>();
            slot.write(*header);
            &mut *slot
        };
        self.head_start = start as u16;
        self.head_len += N as u16;
        self.len += N as u32;
        Some(slot)
    }

    /// The private bytes without what was prepended, of a packet whose head was loaded by [`Burst::load_heads`].
    #[inline]
    pub fn own_head(&self) -> &[u8] {
        self.head().get(HEAD_ROOM.saturating_sub(usize::from(self.head_start))..).unwrap_or_default()
    }

    /// Takes `bytes` bytes off the front of the head: a tunnel's headers. False (and nothing done) when the head has no more than that.
    #[inline]
    pub fn strip(&mut self, bytes: usize) -> bool {
        if bytes >= usize::from(self.head_len) {
            return false;
        }
        self.head_start += bytes as u16;
        self.head_len -= bytes as u16;
        self.len -= bytes as u32;
        true
    }

    /// Makes the packet consist of `frame` alone (at most [`HEAD_BYTES`]; the rest is cut off).
    fn replace(&mut self, frame: &[u8]) {
        let frame = &frame[..frame.len().min(HEAD_BYTES)];
        for (slot, byte) in self.bytes[HEAD_ROOM..].iter_mut().zip(frame) {
            slot.write(*byte);
        }
        self.head_start = HEAD_ROOM as u16;
        self.head_len = frame.len() as u16;
        self.len = frame.len() as u32;
        self.extents = 0;
    }
}

/// A burst under construction and in use. `'m` is how long the memory behind its extents stays mapped.
///
/// A driver pushes the extents of a packet, commits it, and when the burst is full (or its ring empty) calls [`Burst::load_heads`]
/// once: all lines asked for, then all read. Packets can be looked at from then on.
pub struct Burst<'m> {
    /// Packets committed.
    count: usize,
    /// And at most: up to [`BURST_PACKETS`].
    most: usize,
    /// Those whose head was loaded: their fields and heads are written.
    loaded: usize,
    /// Extents of packets that were loaded.
    loaded_extents: usize,
    bytes: usize,
    used_extents: usize,
    open_extents: usize,
    open_bytes: usize,
    /// As a bit per packet: committed by `added`, so one extent, and no field written before the head is loaded.
    single: u32,
    /// As a bit per packet: its head came out of several extents, or ends with one.
    in_pieces: u32,
    /// As a bit per packet: it asks for something, which is in `offloads`.
    with_offload: u32,
    offloads: [MaybeUninit<Offload>; BURST_PACKETS],
    packets: [MaybeUninit<Packet>; BURST_PACKETS],
    extents: [MaybeUninit<Extent<'m>>; BURST_EXTENTS],
}

impl Default for Burst<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'m> Burst<'m> {
    /// An empty burst. Costs nothing: its storage is not initialised.
    #[inline(always)]
    pub fn new() -> Self {
        Self::limited(BURST_PACKETS)
    }

    /// An empty burst that is full with so many packets, if that is less than [`BURST_PACKETS`].
    #[inline(always)]
    pub fn limited(packets: usize) -> Self {
        Self {
            count: 0,
            most: if packets < BURST_PACKETS { packets } else { BURST_PACKETS },
            loaded: 0,
            loaded_extents: 0,
            bytes: 0,
            used_extents: 0,
            open_extents: 0,
            open_bytes: 0,
            single: 0,
            in_pieces: 0,
            with_offload: 0,
            offloads: [const { MaybeUninit::uninit() }; BURST_PACKETS],
            packets: [const { MaybeUninit::uninit() }; BURST_PACKETS],
            extents: [const { MaybeUninit::uninit() }; BURST_EXTENTS],
        }
    }

    /// Packets committed.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether no packet was committed.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether no further packet should be added: 32 packets, fewer if it was made so, or 128 KiB.
    #[inline(always)]
    pub fn is_full(&self) -> bool {
        self.count >= self.most || self.bytes >= BURST_BYTES
    }

    /// How many packets may be added.
    #[inline(always)]
    pub fn room(&self) -> usize {
        self.most.saturating_sub(self.count)
    }

    /// Bytes of all packets committed.
    #[inline(always)]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds an extent to the packet being put together. Empty ones are skipped.
    #[inline(always)]
    pub fn push_extent(&mut self, extent: Extent<'m>) -> Result<(), TooManyExtents> {
        if extent.is_empty() {
            return Ok(());
        }
        let at = self.used_extents + self.open_extents;
        let slot = self.extents.get_mut(at).ok_or(TooManyExtents)?;
        slot.write(extent);
        self.open_extents += 1;
        self.open_bytes += extent.len();
        Ok(())
    }

    /// Bytes pushed since the last commit.
    #[inline(always)]
    pub fn open_bytes(&self) -> usize {
        self.open_bytes
    }

    /// Extents pushed since the last commit.
    #[inline(always)]
    pub fn open_extents(&self) -> &[Extent<'m>] {
        self.extent_slice(self.used_extents, self.open_extents)
    }

    /// Forgets the extents pushed since the last commit.
    #[inline(always)]
    pub fn abandon(&mut self) {
        self.open_extents = 0;
        self.open_bytes = 0;
    }

    /// Makes a packet of the extents pushed; its head is empty until [`Burst::load_heads`]. False (and nothing kept) when
    /// nothing was pushed or the burst already holds [`BURST_PACKETS`].
    #[inline(always)]
    pub fn commit(&mut self, offload: Offload) -> bool {
        let (first, extents, bytes) = (self.used_extents, self.open_extents, self.open_bytes);
        self.abandon();
        if bytes == 0 || bytes > u32::MAX as usize || self.count == BURST_PACKETS {
            return false;
        }
        let slot = self.packets[self.count].as_mut_ptr();
        // SAFETY: `slot` is valid for writes; only plain fields are written, `bytes` stays uninitialised (it is MaybeUninit).
        unsafe {
            (&raw mut (*slot).len).write(bytes as u32);
            (&raw mut (*slot).head_start).write(HEAD_ROOM as u16);
            (&raw mut (*slot).head_len).write(0);
            (&raw mut (*slot).first_extent).write(first as u16);
            (&raw mut (*slot).extents).write(extents as u16);
        }
        self.used_extents = first + extents;
        self.bytes += bytes;
        self.count += 1;
        if offload != Offload::NONE {
            self.set_offload(self.count - 1, offload);
        }
        true
    }

    /// Where the extents of the next packets of one extent each go, as many as there is room for; [`added`](Self::added) says how many
    /// went there. None while a packet of several is being put together.
    #[inline(always)]
    pub fn single_slots(&mut self) -> &mut [MaybeUninit<Extent<'m>>] {
        let room = (BURST_PACKETS - self.count).min(BURST_EXTENTS - self.used_extents);
        let room = if self.open_extents == 0 { room } else { 0 };
        &mut self.extents[self.used_extents..self.used_extents + room]
    }

    /// Adds `packets` packets of one extent each, of `bytes` bytes together: what `push_extent` and `commit` do, for many and without
    /// writing anything but the extents.
    ///
    /// # Safety
    ///
    /// The first `packets` of [`single_slots`](Self::single_slots) were written since the last call of anything else, with extents of 1 to
    /// `u32::MAX` bytes.
    #[inline(always)]
    pub unsafe fn added(&mut self, packets: usize, bytes: usize) {
        self.single |= (((1u64 << packets) - 1) << self.count) as u32;
        self.count += packets;
        self.used_extents += packets;
        self.bytes += bytes;
    }

    /// Copies the first bytes of every packet committed since the last call into its private head. Drivers have asked for the lines
    /// ([`Extent::prefetch`]) of all packets before.
    #[inline(always)]
    pub fn load_heads(&mut self) {
        self.load::<0>();
    }

    /// The same with [`TUNNEL_BYTES`] more in each head: for drivers of uplinks.
    #[inline(always)]
    pub fn load_long_heads(&mut self) {
        self.load::<TUNNEL_BYTES>();
    }

    /// `MORE` bytes are loaded besides [`HEAD_BYTES`], into the room before the head.
    #[inline(always)]
    fn load<const MORE: usize>(&mut self) {
        const { assert!(MORE <= HEAD_ROOM) };
        let mut at = self.loaded_extents;
        if self.all_single() {
            for (index, at) in (self.loaded..self.count).zip(at..) {
                // SAFETY: all these packets are of `added`: one extent each, one after the other, all written.
                unsafe { self.load_single::<MORE>(index, at) };
            }
            self.loaded = self.count;
            self.loaded_extents = self.used_extents;
            return;
        }
        for index in self.loaded..self.count {
            if self.single >> (index & 31) & 1 != 0 {
                // SAFETY: `added` set the bit with this index below BURST_PACKETS; extents of packets follow each other in the order of
                // the packets, so `at` is this one's, which was written.
                unsafe { self.load_single::<MORE>(index, at) };
                at += 1;
            } else {
                at += self.load_head::<MORE>(index);
            }
        }
        self.loaded = self.count;
        self.loaded_extents = self.used_extents;
    }

    /// Whether all packets not loaded yet are single.
    #[inline(always)]
    fn all_single(&self) -> bool {
        let below = |count: usize| (1u64 << count) - 1;
        below(self.count) & !below(self.loaded) & !u64::from(self.single) == 0
    }

    /// Makes the packet at `index` of the one extent at `at`.
    ///
    /// # Safety
    ///
    /// Both are inside their arrays, and the extent was written.
    #[inline(always)]
    unsafe fn load_single<const MORE: usize>(&mut self, index: usize, at: usize) {
        // SAFETY: the caller's promise.
        let (slot, extent) = unsafe {
            (
                self.packets.get_unchecked_mut(index).as_mut_ptr(),
                self.extents.get_unchecked_mut(at).assume_init_mut(),
            )
        };
        let len = extent.len();
        let (start, want) = (HEAD_ROOM - MORE, len.min(HEAD_BYTES + MORE));
        // SAFETY: `slot` is valid for writes, and `want` <= HEAD_BYTES + MORE bytes follow HEAD_ROOM - MORE; private memory and memory of
        // others do not overlap; the extent has at least `want` bytes.
        unsafe {
            crate::copy::copy_bytes(extent.as_ptr(), (&raw mut (*slot).bytes).cast::<u8>().add(start), want);
            (&raw mut (*slot).len).write(len as u32);
            (&raw mut (*slot).head_start).write(start as u16);
            (&raw mut (*slot).head_len).write(want as u16);
            (&raw mut (*slot).first_extent).write(at as u16);
            (&raw mut (*slot).extents).write(0);
        }
        if len > want {
            (_, *extent) = extent.split_at(want);
            // SAFETY: `slot` is the packet written just now; only its count of extents changes.
            unsafe { (&raw mut (*slot).extents).write(1) };
        }
    }

    /// Loads the head of a packet made by `commit`; returns how many extents it has.
    #[inline(never)]
    fn load_head<const MORE: usize>(&mut self, index: usize) -> usize {
        // SAFETY: index < count and it is not `single`, so the packet's fields were written by `commit`.
        let packet = unsafe { self.packets[index].assume_init_mut() };
        let extents = usize::from(packet.extents);
        let (start, want) = (HEAD_ROOM - MORE, (packet.len as usize).min(HEAD_BYTES + MORE));
        packet.head_start = start as u16;
        let first = usize::from(packet.first_extent);
        // SAFETY: a committed packet has at least one extent, below used_extents.
        let extent = unsafe { self.extents[first].assume_init_mut() };
        if extent.len() >= want {
            let (head, rest) = extent.split_at(want);
            // SAFETY: `want` <= HEAD_BYTES + MORE bytes follow HEAD_ROOM - MORE; private memory and memory of others do not overlap.
            unsafe {
                crate::copy::copy_bytes(head.as_ptr(), packet.bytes.as_mut_ptr().add(start).cast(), want);
            }
            packet.head_len = want as u16;
            *extent = rest;
            if rest.is_empty() && extents > 1 {
                packet.first_extent += 1;
                packet.extents -= 1;
                self.in_pieces |= 1 << (index & 31);
            } else if rest.is_empty() {
                packet.extents = 0;
            }
        } else {
            self.in_pieces |= 1 << (index & 31);
            self.gather_head(index, start, want);
        }
        extents
    }

    #[cold]
    fn gather_head(&mut self, index: usize, start: usize, want: usize) {
        // SAFETY: as in `load_head`.
        let packet = unsafe { self.packets[index].assume_init_mut() };
        let mut filled = 0;
        while filled < want && packet.extents > 0 {
            // SAFETY: first_extent stays below used_extents while `extents` counts down.
            let extent = unsafe { self.extents[usize::from(packet.first_extent)].assume_init_mut() };
            let (part, rest) = extent.split_at(want - filled);
            // SAFETY: start + filled + part.len() <= start + want <= HEAD_ROOM + HEAD_BYTES.
            unsafe {
                let target = packet.bytes.as_mut_ptr().add(start + filled).cast();
                crate::copy::copy_bytes(part.as_ptr(), target, part.len());
            }
            filled += part.len();
            *extent = rest;
            if rest.is_empty() {
                packet.first_extent += 1;
                packet.extents -= 1;
            }
        }
        packet.head_len = filled as u16;
    }

    /// The packet at `index`, if there is one and its head was loaded.
    #[inline(always)]
    pub fn packet(&self, index: usize) -> Option<&Packet> {
        // SAFETY: packets below `loaded` are whole.
        (index < self.loaded).then(|| unsafe { self.packets[index].assume_init_ref() })
    }

    /// All packets whose head was loaded.
    #[inline(always)]
    pub fn packets(&self) -> &[Packet] {
        // SAFETY: packets below `loaded` are whole; MaybeUninit<T> has T's layout.
        unsafe { std::slice::from_raw_parts(self.packets.as_ptr().cast(), self.loaded) }
    }

    /// All packets whose head was loaded, to be rewritten.
    #[inline(always)]
    pub fn packets_mut(&mut self) -> &mut [Packet] {
        // SAFETY: as `packets`.
        unsafe { std::slice::from_raw_parts_mut(self.packets.as_mut_ptr().cast(), self.loaded) }
    }

    /// Makes room before a head that [`Burst::load_long_heads`] loaded, for outer headers: what is behind [`HEAD_BYTES`] of it becomes body again, as it came.
    /// False (and nothing done) for a packet whose head came in pieces, or lost its front.
    #[cold]
    pub fn make_head_room(&mut self, index: usize) -> bool {
        let Self { extents, single, in_pieces, loaded, packets, .. } = self;
        if index >= *loaded {
            return false;
        }
        // SAFETY: packets below `loaded` are whole.
        let packet = unsafe { packets[index].assume_init_mut() };
        let (start, length) = (usize::from(packet.head_start), usize::from(packet.head_len));
        if start != HEAD_ROOM - TUNNEL_BYTES || length > HEAD_BYTES + TUNNEL_BYTES {
            return false;
        }
        let (kept, behind) = (length.min(HEAD_BYTES), length.saturating_sub(HEAD_BYTES));
        if behind != 0 {
            if *in_pieces >> (index & 31) & 1 != 0 {
                return false;
            }
            // SAFETY: all packets have a first extent, which was written when it was pushed or before the packet was `added`.
            let extent = unsafe { extents[usize::from(packet.first_extent)].assume_init_mut() };
            if packet.extents == 0 && *single >> (index & 31) & 1 != 0 {
                // The whole packet is in the head, and the extent as it came.
                (_, *extent) = extent.split_at(kept);
            } else {
                // SAFETY: the head was split from the front of this extent, `behind` bytes of it at least.
                *extent = unsafe { extent.grown_back(behind) };
            }
            packet.extents = packet.extents.max(1);
        }
        packet.bytes.copy_within(start..start + kept, HEAD_ROOM);
        (packet.head_start, packet.head_len) = (HEAD_ROOM as u16, kept as u16);
        true
    }

    /// Makes a packet consist of `frame` alone (at most [`HEAD_BYTES`]; the rest is cut off) and ask for nothing: an answer of the
    /// switch's own.
    pub fn replace(&mut self, index: usize, frame: &[u8]) {
        if let Some(packet) = self.packets_mut().get_mut(index) {
            packet.replace(frame);
            self.with_offload &= !1u32.wrapping_shl(index as u32);
        }
    }

    /// Packets that ask their transmitter for something, as a bit per packet.
    #[inline(always)]
    pub fn with_offload(&self) -> u32 {
        self.with_offload
    }

    /// What the packet at `index` asks.
    #[inline(always)]
    pub fn offload(&self, index: usize) -> Offload {
        match self.offloads.get(index) {
            // SAFETY: the bit says that `set_offload` wrote it.
            Some(offload) if self.with_offload >> index & 1 != 0 => unsafe { offload.assume_init() },
            _ => Offload::NONE,
        }
    }

    /// Sets what the packet at `index` asks, if there is one.
    #[inline]
    pub fn set_offload(&mut self, index: usize, offload: Offload) {
        if let Some(slot) = self.offloads.get_mut(index).filter(|_| index < self.count) {
            slot.write(offload);
            let bit = 1 << index;
            self.with_offload =
                if offload == Offload::NONE { self.with_offload & !bit } else { self.with_offload | bit };
        }
    }

    /// Those of `packets` (a bit per packet) ask for nothing any more.
    #[inline(always)]
    pub fn ask_nothing(&mut self, packets: u32) {
        self.with_offload &= !packets;
    }

    /// The packet at `index`, to be rewritten.
    #[inline(always)]
    pub fn packet_mut(&mut self, index: usize) -> Option<&mut Packet> {
        // SAFETY: packets below `loaded` are whole.
        (index < self.loaded).then(|| unsafe { self.packets[index].assume_init_mut() })
    }

    /// The packet at `index` as a driver transmits it.
    #[inline(always)]
    pub fn frame(&self, index: usize) -> Option<Frame<'_, 'm>> {
        let mut frame = self.plain_frame(self.packet(index)?);
        frame.offload = self.offload(index);
        Some(frame)
    }

    /// The same for all in `packets` (a bit per packet), in order, and the length of the longest. What does not exist is left out.
    #[inline(always)]
    pub fn frames(&self, packets: u32) -> (ArrayVec<Frame<'_, 'm>, BURST_PACKETS>, usize) {
        let mut frames = ArrayVec::new();
        let mut longest = 0;
        let mut rest = packets & ((1u64 << self.loaded) - 1) as u32;
        while rest != 0 {
            let index = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            // SAFETY: index < loaded <= BURST_PACKETS: the packet is whole, and no more frames are pushed than there are bits.
            let packet = unsafe { self.packets.get_unchecked(index).assume_init_ref() };
            longest = packet.len.max(longest);
            // SAFETY: one frame for each bit of `packets`, which has no more bits than `frames` has room.
            unsafe { frames.push_unchecked(self.plain_frame(packet)) };
        }
        if packets & self.with_offload != 0 {
            self.set_offloads(packets, &mut frames);
        }
        (frames, longest as usize)
    }

    /// Apart from `frames`: an offload that is copied with every frame costs those that have none.
    #[inline(never)]
    fn set_offloads(&self, packets: u32, frames: &mut [Frame<'_, 'm>]) {
        let mut rest = packets;
        for frame in frames {
            frame.offload = self.offload((rest.trailing_zeros() & 31) as usize);
            rest &= rest.wrapping_sub(1);
        }
    }

    /// The frame of a packet of this burst, as if it asked for nothing.
    #[inline(always)]
    fn plain_frame<'a>(&'a self, packet: &'a Packet) -> Frame<'a, 'm> {
        let body = self.extent_slice(usize::from(packet.first_extent), usize::from(packet.extents));
        let body_len = packet.len as usize - usize::from(packet.head_len);
        Frame::new(packet.head(), body, body_len, Offload::NONE)
    }

    #[inline(always)]
    fn extent_slice(&self, first: usize, count: usize) -> &[Extent<'m>] {
        debug_assert!(first + count <= self.used_extents + self.open_extents);
        // SAFETY: all extents below used_extents + open_extents were written, and callers ask for no others.
        unsafe { std::slice::from_raw_parts(self.extents.as_ptr().add(first).cast(), count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burst_of<'m>(frames: &[&[&'m [u8]]]) -> Burst<'m> {
        let mut burst = Burst::new();
        for parts in frames {
            for part in *parts {
                burst.push_extent(Extent::from_slice(part)).unwrap();
            }
            assert!(burst.commit(Offload::NONE));
        }
        burst.load_heads();
        burst
    }

    #[test]
    fn burst_gathers_heads_over_extents() {
        let bytes: Vec<u8> = (0..300u32).map(|at| at as u8).collect();
        let burst = burst_of(&[
            &[&bytes[..1], &[], &bytes[1..40], &bytes[40..300]],
            &[&bytes[..60]],
            &[&bytes[..300]],
        ]);
        assert_eq!(burst.len(), 3);
        for (index, len) in [(0, 300), (1, 60), (2, 300)] {
            let packet = burst.packet(index).unwrap();
            assert_eq!(packet.len(), len);
            assert_eq!(packet.head(), &bytes[..len.min(HEAD_BYTES)]);
            assert_eq!(burst.frame(index).unwrap().to_vec(), &bytes[..len]);
        }
        assert!(burst.packet(3).is_none());
    }

    #[test]
    fn burst_refuses_more_packets_and_extents_than_it_has_room_for() {
        let byte = [7u8];
        let mut burst = Burst::new();
        for _ in 0..BURST_PACKETS {
            burst.push_extent(Extent::from_slice(&byte)).unwrap();
            assert!(burst.commit(Offload::NONE));
        }
        assert!(burst.is_full());
        burst.push_extent(Extent::from_slice(&byte)).unwrap();
        assert!(!burst.commit(Offload::NONE));
        let mut burst = Burst::new();
        for _ in 0..BURST_EXTENTS {
            burst.push_extent(Extent::from_slice(&byte)).unwrap();
        }
        assert_eq!(burst.push_extent(Extent::from_slice(&byte)), Err(TooManyExtents));
        burst.abandon();
        assert!(!burst.commit(Offload::NONE), "nothing was pushed");
    }

    #[test]
    fn burst_prepend_stops_at_the_room() {
        let bytes = [1u8; 200];
        let mut burst = burst_of(&[&[&bytes]]);
        let packet = &mut burst.packets_mut()[0];
        assert!(packet.prepend(&[9; HEAD_ROOM]));
        assert!(!packet.prepend(&[9]));
        assert_eq!(packet.len(), 200 + HEAD_ROOM);
        assert_eq!(burst.frame(0).unwrap().to_vec().len(), 200 + HEAD_ROOM);
    }

    #[test]
    fn burst_long_heads_are_whole_after_a_tunnel_is_taken_off() {
        let bytes: Vec<u8> = (0..300u32).map(|at| at as u8).collect();
        let mut burst = Burst::new();
        for parts in [&[&bytes[..]][..], &[&bytes[..30], &bytes[30..220], &bytes[220..]], &[&bytes[..90]]] {
            for part in parts {
                burst.push_extent(Extent::from_slice(part)).unwrap();
            }
            assert!(burst.commit(Offload::NONE));
        }
        burst.load_long_heads();
        for (index, len) in [(0, 300), (1, 300), (2, 90)] {
            let packet = &mut burst.packets_mut()[index];
            assert_eq!(packet.head(), &bytes[..len.min(HEAD_BYTES + TUNNEL_BYTES)]);
            assert!(!packet.strip(packet.head().len()));
            assert!(packet.strip(50));
            assert_eq!((packet.len(), packet.head().len()), (len - 50, (len - 50).min(HEAD_BYTES + 20)));
            assert_eq!(burst.frame(index).unwrap().to_vec(), &bytes[50..len]);
            assert!(burst.packets_mut()[index].prepend(&bytes[..50]));
            assert_eq!(burst.frame(index).unwrap().to_vec(), &bytes[..len]);
        }
    }

    #[test]
    fn burst_long_heads_make_room_for_outer_headers() {
        let bytes: Vec<u8> = (0..400u32).map(|at| (at * 7) as u8).collect();
        let lengths = (60..=HEAD_BYTES + TUNNEL_BYTES + 2).chain([398]);
        for (len, single) in lengths.flat_map(|len| [(len, false), (len, true)]) {
            let mut burst = Burst::new();
            let whole = Extent::from_slice(&bytes[1..][..len]);
            if single {
                for slot in &mut burst.single_slots()[..2] {
                    slot.write(whole);
                }
                // SAFETY: two were written.
                unsafe { burst.added(2, 2 * len) };
            } else {
                for _ in 0..2 {
                    burst.push_extent(whole).unwrap();
                    assert!(burst.commit(Offload::NONE));
                }
            }
            burst.load_long_heads();
            burst.packets_mut()[1].head_mut()[..2].copy_from_slice(&[1, 2]);
            assert!(burst.make_head_room(1), "{len}");
            assert!(burst.packets_mut()[1].prepend(&[9; 50]));
            let expected = [&[9; 50][..], &[1, 2], &bytes[3..][..len - 2]].concat();
            assert_eq!(burst.frame(1).unwrap().to_vec(), expected, "{len}");
            assert_eq!(burst.frame(0).unwrap().to_vec(), &bytes[1..][..len], "the one beside");
            assert!(!burst.make_head_room(1) && !burst.make_head_room(2), "once, and of what is there");
        }
    }

    #[test]
    fn burst_makes_no_room_in_what_came_in_pieces() {
        let bytes: Vec<u8> = (0..300u32).map(|at| at as u8).collect();
        let mut burst = Burst::new();
        let at_the_end = HEAD_BYTES + TUNNEL_BYTES;
        for cut in [100, at_the_end, 250] {
            for part in [&bytes[..cut], &bytes[cut..]] {
                burst.push_extent(Extent::from_slice(part)).unwrap();
            }
            assert!(burst.commit(Offload::NONE));
        }
        burst.load_long_heads();
        assert_eq!([0, 1, 2].map(|index| burst.make_head_room(index)), [false, false, true]);
        for index in 0..3 {
            assert_eq!(burst.frame(index).unwrap().to_vec(), bytes);
        }
    }

    #[test]
    fn burst_replace_leaves_only_the_answer() {
        let bytes = [1u8; 200];
        let mut burst = burst_of(&[&[&bytes]]);
        burst.replace(0, &[5; 42]);
        assert_eq!(burst.frame(0).unwrap().to_vec(), vec![5; 42]);
    }
}
