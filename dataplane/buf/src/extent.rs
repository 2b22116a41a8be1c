//! Runs of bytes that belong to somebody else.

use crate::copy::copy_bytes;
use crate::sum::{BodySum, sum_bytes};
use std::marker::PhantomData;

/// A readable run of bytes of a guest, an mbuf or the heap, valid for `'m`. 16 bytes, `Copy`.
///
/// It never yields a slice: the bytes may change between two looks.
#[derive(Clone, Copy, Debug)]
pub struct Extent<'m> {
    pointer: *const u8,
    len: usize,
    memory: PhantomData<&'m ()>,
}

impl<'m> Extent<'m> {
    /// Mints an extent.
    ///
    /// # Safety
    ///
    /// For all of `'m` the `len` bytes at `pointer` must stay mapped and readable, and no `&mut` to them may exist in this process.
    #[inline(always)]
    pub unsafe fn new(pointer: *const u8, len: usize) -> Self {
        Self { pointer, len, memory: PhantomData }
    }

    /// An extent over private bytes that nobody changes for `'m`.
    #[inline]
    pub fn from_slice(bytes: &'m [u8]) -> Self {
        Self { pointer: bytes.as_ptr(), len: bytes.len(), memory: PhantomData }
    }

    /// Length in bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing in it.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first `at` bytes (or all, when shorter) and the rest.
    #[inline(always)]
    pub fn split_at(self, at: usize) -> (Self, Self) {
        let at = at.min(self.len);
        let first = Self { pointer: self.pointer, len: at, memory: PhantomData };
        // SAFETY: at <= len, so the pointer stays inside the run or one past its end.
        let rest = Self { pointer: unsafe { self.pointer.add(at) }, len: self.len - at, memory: PhantomData };
        (first, rest)
    }

    /// With `bytes` bytes more before it.
    ///
    /// # Safety
    ///
    /// It was split from a run that has as many before it.
    pub(crate) unsafe fn grown_back(self, bytes: usize) -> Self {
        // SAFETY: the caller's promise.
        Self { pointer: unsafe { self.pointer.sub(bytes) }, len: self.len + bytes, memory: PhantomData }
    }

    /// Reads the first bytes into `target`, as many as both have; returns how many.
    #[inline(always)]
    pub fn read(&self, target: &mut [u8]) -> usize {
        let count = self.len.min(target.len());
        // SAFETY: count is within both; private memory does not overlap memory of others (see `new`).
        unsafe { copy_bytes(self.pointer, target.as_mut_ptr(), count) };
        count
    }

    /// Copies the first bytes into `target`, as many as both have; returns how many.
    #[inline(always)]
    pub fn copy_to(&self, target: ExtentMut<'_>) -> usize {
        let count = self.len.min(target.len);
        if count <= 128 {
            // SAFETY: count is within both. The two may overlap when a guest maps the same page twice; up to 128 bytes all reads of a
            // class come before its writes, and nothing is touched beyond `count` bytes of either.
            unsafe { copy_bytes(self.pointer, target.pointer, count) };
        } else {
            // SAFETY: count is within both. `copy`, not `copy_nonoverlapping`: a hostile guest can make source and target the
            // same pages of ours, and memmove costs the same.
            unsafe { std::ptr::copy(self.pointer, target.pointer, count) };
        }
        count
    }

    /// Adds all bytes to `sum`.
    #[inline(always)]
    pub(crate) fn add_to(&self, sum: &mut BodySum) {
        // SAFETY: the run is readable (see `new`).
        sum.add(unsafe { sum_bytes(self.pointer, self.len) }, self.len);
    }

    /// Hints that all its bytes will be read soon.
    #[inline(always)]
    pub(crate) fn prefetch_all(&self) {
        for offset in (0..self.len).step_by(cpu::CACHE_LINE) {
            cpu::prefetch_read_at(self.pointer.wrapping_add(offset));
        }
    }

    /// Hints that the first line will be read soon.
    #[inline(always)]
    pub fn prefetch(&self) {
        cpu::prefetch_read_at(self.pointer);
    }

    /// The address, for prefetching or comparing, not for reading.
    #[inline(always)]
    pub fn as_ptr(&self) -> *const u8 {
        self.pointer
    }
}

/// A writable run of bytes of a guest or an mbuf, valid for `'m`.
#[derive(Debug)]
pub struct ExtentMut<'m> {
    pointer: *mut u8,
    len: usize,
    memory: PhantomData<&'m mut ()>,
}

impl<'m> ExtentMut<'m> {
    /// Mints a writable extent.
    ///
    /// # Safety
    ///
    /// For all of `'m` the `len` bytes at `pointer` must stay mapped and writable, and no reference to them may exist in this process.
    #[inline(always)]
    pub unsafe fn new(pointer: *mut u8, len: usize) -> Self {
        Self { pointer, len, memory: PhantomData }
    }

    /// A writable extent over private bytes.
    #[inline]
    pub fn from_slice(bytes: &'m mut [u8]) -> Self {
        Self { pointer: bytes.as_mut_ptr(), len: bytes.len(), memory: PhantomData }
    }

    /// Length in bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing in it.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The same bytes under a shorter borrow.
    #[inline(always)]
    pub fn reborrow(&mut self) -> ExtentMut<'_> {
        ExtentMut { pointer: self.pointer, len: self.len, memory: PhantomData }
    }

    /// The first `at` bytes (or all, when shorter) and the rest.
    #[inline(always)]
    pub fn split_at(self, at: usize) -> (Self, Self) {
        let at = at.min(self.len);
        let first = Self { pointer: self.pointer, len: at, memory: PhantomData };
        // SAFETY: at <= len, so the pointer stays inside the run or one past its end.
        let rest = Self { pointer: unsafe { self.pointer.add(at) }, len: self.len - at, memory: PhantomData };
        (first, rest)
    }

    /// The address, for writing by those who know the length.
    #[inline(always)]
    pub(crate) fn as_mut_ptr(&self) -> *mut u8 {
        self.pointer
    }

    /// Writes the first bytes of `source`, as many as both have; returns how many.
    #[inline(always)]
    pub fn write(&mut self, source: &[u8]) -> usize {
        let count = self.len.min(source.len());
        // SAFETY: count is within both; private memory does not overlap memory of others (see `new`).
        unsafe { copy_bytes(source.as_ptr(), self.pointer, count) };
        count
    }

    /// Hints that the first line will be written soon.
    #[inline(always)]
    pub fn prefetch(&self) {
        cpu::prefetch_write_at(self.pointer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_copies_exactly_its_bytes() {
        let source: Vec<u8> = (0..400u32).map(|at| at as u8).collect();
        for len in 0..source.len() {
            let mut target = vec![0xaau8; source.len() + 8];
            let (_, rest) = ExtentMut::from_slice(&mut target).split_at(4);
            assert_eq!(Extent::from_slice(&source[..len]).copy_to(rest), len);
            assert_eq!(&target[4..4 + len], &source[..len]);
            assert!(target[..4].iter().chain(&target[4 + len..]).all(|byte| *byte == 0xaa), "length {len}");
            let mut private = vec![0x55u8; len + 3];
            assert_eq!(Extent::from_slice(&source[..len]).read(&mut private), len);
            assert_eq!(&private[..len], &source[..len]);
            assert!(private[len..].iter().all(|byte| *byte == 0x55));
        }
    }

    #[test]
    fn split_stops_at_the_end() {
        let bytes = [1u8, 2, 3];
        let (first, rest) = Extent::from_slice(&bytes).split_at(10);
        assert_eq!((first.len(), rest.len()), (3, 0));
    }
}
