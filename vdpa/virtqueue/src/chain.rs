//! Walking a chain that is not a single plain descriptor: links, indirect tables, pieces in several regions.

use std::ptr::NonNull;

use buf::ExtentMut;
use guest_mem::Translator;

use crate::config::MAX_FRAME;
use crate::error::ChainError;
use crate::layout::{Descriptor, First, INDIRECT, Layout, NEXT, WRITE};

/// Descriptors in a chain, and entries in an indirect table: as many as QEMU and Linux allow. It bounds the time one chain can take.
pub(crate) const MAX_CHAIN: usize = 1024;

/// Descriptors of such chains looked at per burst, after which it ends: it bounds the time a guest can make one burst take (O7).
pub(crate) const WORK_LIMIT: usize = 2048;

/// A private copy of an indirect table. Copied whole, then validated: what was checked is what is used.
pub(crate) type Scratch = Box<[[u8; 16]; MAX_CHAIN]>;

/// An empty scratch table (16 KiB).
pub(crate) fn scratch() -> Scratch {
    vec![[0; 16]; MAX_CHAIN].into_boxed_slice().try_into().unwrap_or_else(|_| Box::new([[0; 16]; MAX_CHAIN]))
}

/// Which way the bytes of a chain go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Guest to device: no descriptor may be writable.
    Read,
    /// Device to guest: all must be.
    Write,
}

/// A contiguous run of host memory that a chain describes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) host: NonNull<u8>,
    pub(crate) len: u32,
}

/// The end of a chain that was walked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Walked {
    /// The last direct descriptor's link: the buffer id of a packed chain.
    pub(crate) last_link: u16,
    /// Ring positions of a packed chain.
    pub(crate) descs: u16,
}

/// Walks a chain and shows each run of memory of its buffers, in order. Stops at the first fault; runs may have been seen by then.
pub(crate) struct Walk<'w, 'm, 'c> {
    pub(crate) direction: Direction,
    pub(crate) indirect: bool,
    pub(crate) scratch: &'w mut Scratch,
    pub(crate) translator: Translator<'m, 'c>,
    pub(crate) header_len: usize,
    /// Bytes of all buffers so far.
    pub(crate) total: u64,
    /// Descriptors looked at, direct and indirect.
    pub(crate) steps: usize,
}

impl Walk<'_, '_, '_> {
    /// Walks the chain that starts with `first`.
    #[inline(always)]
    pub(crate) fn run<L: Layout>(
        &mut self,
        layout: &L,
        first: &First,
        piece: &mut impl FnMut(Piece) -> Result<(), ChainError>,
    ) -> Result<Walked, ChainError> {
        let mut desc = L::descriptor(first);
        let mut descs = 1u16;
        let limit = usize::from(layout.size()).min(MAX_CHAIN);
        loop {
            if desc.flags & INDIRECT != 0 {
                self.check_indirect::<L>(&desc, descs)?;
                self.run_table::<L>(&desc, piece)?;
            } else {
                self.buffer(&desc, piece)?;
            }
            if desc.flags & NEXT == 0 {
                return Ok(Walked { last_link: desc.link, descs });
            }
            if usize::from(descs) >= limit {
                return Err(ChainError::TooLong);
            }
            desc = layout.follow(first, &desc, descs)?;
            descs += 1;
        }
    }

    fn check_indirect<L: Layout>(&self, desc: &Descriptor, descs: u16) -> Result<(), ChainError> {
        if !self.indirect {
            return Err(ChainError::IndirectNotNegotiated);
        }
        // WRITE here is to be ignored by the letter of section 2.7.5.3.2; no driver sets it, and who does is up to no good (G-24).
        if desc.flags != INDIRECT || (descs > 1 && !L::INDIRECT_AFTER_NEXT) {
            return Err(ChainError::IndirectFlags);
        }
        Ok(())
    }

    /// Copies the table that `desc` refers to and walks it.
    #[inline(never)]
    fn run_table<L: Layout>(
        &mut self,
        desc: &Descriptor,
        piece: &mut impl FnMut(Piece) -> Result<(), ChainError>,
    ) -> Result<(), ChainError> {
        let (len, count) = (desc.len as usize, desc.len as usize / 16);
        if len == 0 || !len.is_multiple_of(16) || count > MAX_CHAIN {
            return Err(ChainError::IndirectLength);
        }
        self.copy_table(desc, len)?;
        let mut index = 0;
        for _ in 0..count {
            let table = self.scratch.get(..count).unwrap_or(&[]);
            let entry = L::indirect(table, index)?;
            if entry.flags & INDIRECT != 0 {
                return Err(ChainError::IndirectNested);
            }
            self.buffer(&entry, piece)?;
            if entry.flags & NEXT == 0 {
                return Ok(());
            }
            index = usize::from(entry.link);
        }
        Err(ChainError::TooLong)
    }

    fn copy_table(&mut self, desc: &Descriptor, len: usize) -> Result<(), ChainError> {
        let mut rest = ExtentMut::from_slice(self.scratch.as_flattened_mut()).split_at(len).0;
        let (mut at, end) =
            (desc.addr, desc.addr.checked_add(len as u64).ok_or(ChainError::IndirectNotInMemory)?);
        // The table need not be aligned and may cross regions.
        while at < end {
            let extent =
                self.translator.prefix(at, (end - at) as u32).ok_or(ChainError::IndirectNotInMemory)?;
            let copied = extent.copy_to(rest.reborrow());
            at += copied as u64;
            (_, rest) = rest.split_at(copied);
        }
        Ok(())
    }

    /// Checks one buffer and shows its runs of memory. One of no bytes is skipped, whatever its address.
    #[inline(always)]
    fn buffer(
        &mut self,
        desc: &Descriptor,
        piece: &mut impl FnMut(Piece) -> Result<(), ChainError>,
    ) -> Result<(), ChainError> {
        self.steps += 1;
        if desc.flags & !(NEXT | WRITE) != 0 {
            return Err(ChainError::ReservedFlags);
        }
        match (self.direction, desc.flags & WRITE != 0) {
            (Direction::Read, true) => return Err(ChainError::Writable),
            (Direction::Write, false) => return Err(ChainError::NotWritable),
            _ => {}
        }
        self.total += u64::from(desc.len);
        // A receive buffer may be as large as the guest likes; no more than a frame of it will be written.
        if self.direction == Direction::Read && self.total > (MAX_FRAME + self.header_len) as u64 {
            return Err(ChainError::TooLarge);
        }
        let mut shown = Ok(());
        let inside = self.translator.pieces(desc.addr, desc.len, |host, len| {
            if shown.is_ok() {
                shown = piece(Piece { host, len });
            }
        });
        shown?;
        if inside { Ok(()) } else { Err(ChainError::NotInMemory) }
    }
}
