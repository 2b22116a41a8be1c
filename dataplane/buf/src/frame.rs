//! A frame as a driver transmits it: a private head, then a range of bytes of the sender.

use crate::{BodySum, Extent, ExtentMut, Offload};

/// Head, body range and offload of one frame. Copied into the receiver's buffers by a [`FrameReader`].
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a, 'm> {
    head: &'a [u8],
    body: &'a [Extent<'m>],
    skip: usize,
    body_len: usize,
    /// What is left to do to it.
    pub offload: Offload,
}

impl<'a, 'm> Frame<'a, 'm> {
    /// A frame of `head` and all `body_len` bytes of `body`.
    #[inline(always)]
    pub fn new(head: &'a [u8], body: &'a [Extent<'m>], body_len: usize, offload: Offload) -> Self {
        Self { head, body, skip: 0, body_len, offload }
    }

    /// A frame that is all head.
    #[inline(always)]
    pub fn from_head(head: &'a [u8], offload: Offload) -> Self {
        Self { head, body: &[], skip: 0, body_len: 0, offload }
    }

    /// Another head before `len` bytes of this frame's bytes from `from` on: a segment. `from` counts from the first byte of
    /// this frame and must not lie inside its head unless `len` bytes do too; what does not exist is left out.
    pub fn segment<'b>(&self, head: &'b [u8], from: usize, len: usize, offload: Offload) -> Frame<'b, 'm>
    where
        'a: 'b,
    {
        let skip = from.saturating_sub(self.head.len());
        let len = len.min(self.body_len.saturating_sub(skip));
        Frame { head, body: self.body, skip: self.skip + skip, body_len: len, offload }
    }

    /// The frame without the first `bytes` bytes of its head; without all of it if it has fewer. Asks for nothing.
    #[inline]
    pub fn strip(&self, bytes: usize) -> Self {
        Self { head: self.head.get(bytes..).unwrap_or_default(), offload: Offload::NONE, ..*self }
    }

    /// Length of the whole frame in bytes.
    #[inline(always)]
    #[expect(clippy::len_without_is_empty, reason = "a frame of no bytes is never made")]
    pub fn len(&self) -> usize {
        self.head.len() + self.body_len
    }

    /// The private bytes at its start.
    #[inline(always)]
    pub fn head(&self) -> &'a [u8] {
        self.head
    }

    /// The runs of bytes after the head. Of a segment, those of the whole it was cut of.
    #[inline(always)]
    pub fn body_extents(&self) -> &'a [Extent<'m>] {
        self.body
    }

    /// Bytes after the head.
    #[inline(always)]
    pub fn body_len(&self) -> usize {
        self.body_len
    }

    /// Hints that the bytes after the head will be read soon (those of their first run).
    #[inline(always)]
    pub fn prefetch_body(&self) {
        match self.body.first() {
            Some(body) if self.skip == 0 => body.split_at(self.body_len).0.prefetch_all(),
            Some(_) => self.prefetch_skipped(),
            None => {}
        }
    }

    /// The same for a segment of a large packet.
    #[inline(never)]
    fn prefetch_skipped(&self) {
        let reader = self.reader();
        reader.current.split_at(reader.remaining).0.prefetch_all();
    }

    /// Starts copying from the first byte.
    #[inline(always)]
    pub fn reader(&self) -> FrameReader<'a, 'm> {
        let mut reader = FrameReader {
            head: self.head,
            current: Extent::from_slice(&[]),
            rest: self.body,
            remaining: self.body_len,
        };
        if self.skip > 0 {
            reader.skip_body(self.skip);
        }
        reader
    }

    /// Copies the frame into `target`, as much as fits; returns how many bytes. The usual frame (a head, then at most one run of
    /// bytes) needs no cursor.
    #[inline(always)]
    pub fn copy_to(&self, mut target: ExtentMut<'_>) -> usize {
        let from_head = target.write(self.head);
        if self.body_len == 0 || from_head == target.len() {
            return from_head;
        }
        let (_, rest) = target.split_at(from_head);
        from_head + self.copy_body(rest)
    }

    /// Copies the whole frame into the first bytes of `target`; false (and nothing done) when it is longer than that. Less to decide than
    /// in [`copy_to`](Self::copy_to).
    #[inline(always)]
    pub fn copy_whole(&self, target: ExtentMut<'_>) -> bool {
        if self.len() > target.len() {
            return false;
        }
        let start = target.as_mut_ptr();
        // SAFETY: head.len() <= len() <= target.len(); private memory does not overlap memory of others.
        unsafe { crate::copy::copy_bytes(self.head.as_ptr(), start, self.head.len()) };
        if self.body_len > 0 {
            self.copy_body(target.split_at(self.head.len()).1);
        }
        true
    }

    #[inline(always)]
    fn copy_body(&self, target: ExtentMut<'_>) -> usize {
        match self.body {
            [body] if self.skip == 0 => body.split_at(self.body_len).0.copy_to(target),
            _ => self.body_reader().copy_to(target),
        }
    }

    /// Starts copying from the first byte after the head.
    #[inline]
    pub fn body_reader(&self) -> FrameReader<'a, 'm> {
        let mut reader = self.reader();
        reader.head = &[];
        reader
    }

    /// The sum of the bytes after the head, as if they began at an even offset. Their owner may change them before they are
    /// copied: who copies them sums the copy.
    pub fn body_sum(&self) -> BodySum {
        let mut sum = BodySum::default();
        // Most small frames are all head.
        if self.body_len > 0 {
            let mut reader = self.body_reader();
            while let Some(piece) = reader.next_piece(usize::MAX) {
                piece.add_to(&mut sum);
            }
        }
        sum
    }

    /// All bytes, in a vector of their own. Allocates: for tests, traces and captures.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        let count = self.reader().read(&mut bytes);
        bytes.truncate(count);
        bytes
    }
}

/// A cursor over the bytes of a [`Frame`].
#[derive(Debug)]
pub struct FrameReader<'a, 'm> {
    head: &'a [u8],
    current: Extent<'m>,
    rest: &'a [Extent<'m>],
    remaining: usize,
}

impl<'m> FrameReader<'_, 'm> {
    /// Bytes not yet copied.
    #[inline(always)]
    pub fn remaining(&self) -> usize {
        self.head.len() + self.remaining
    }

    /// Copies the next bytes into `target`, as many as fit or are left; returns how many.
    #[inline(always)]
    pub fn copy_to(&mut self, mut target: ExtentMut<'_>) -> usize {
        let from_head = target.write(self.head);
        self.head = &self.head[from_head..];
        if self.remaining == 0 || from_head == target.len() {
            return from_head;
        }
        let (_, target) = target.split_at(from_head);
        from_head + self.copy_body(target)
    }

    /// Copies the next bytes into private memory, as many as fit or are left; returns how many.
    #[inline]
    pub fn read(&mut self, target: &mut [u8]) -> usize {
        self.copy_to(ExtentMut::from_slice(target))
    }

    fn copy_body(&mut self, mut target: ExtentMut<'_>) -> usize {
        let mut copied = 0;
        while let Some(piece) = self.next_piece(target.len()) {
            let count = piece.copy_to(target.reborrow());
            (_, target) = target.split_at(count);
            copied += count;
        }
        copied
    }

    /// The next run of bytes after the head, of at most `most`, which are then behind the cursor; `None` if there are none left or wanted.
    #[inline(always)]
    fn next_piece(&mut self, most: usize) -> Option<Extent<'m>> {
        if self.remaining == 0 || most == 0 {
            return None;
        }
        while self.current.is_empty() {
            let Some((next, rest)) = self.rest.split_first() else {
                self.remaining = 0;
                return None;
            };
            self.current = *next;
            self.rest = rest;
        }
        let (piece, rest) = self.current.split_at(self.remaining.min(most));
        self.current = rest;
        self.remaining -= piece.len();
        Some(piece)
    }

    fn skip_body(&mut self, mut bytes: usize) {
        while bytes > 0 {
            if self.current.is_empty() {
                let Some((next, rest)) = self.rest.split_first() else { return };
                self.current = *next;
                self.rest = rest;
            }
            let step = bytes.min(self.current.len());
            (_, self.current) = self.current.split_at(step);
            bytes -= step;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_cover_the_body_exactly() {
        let bytes: Vec<u8> = (0..1000u32).map(|at| (at * 7) as u8).collect();
        let extents = [&bytes[100..101], &bytes[101..500], &bytes[500..1000]].map(Extent::from_slice);
        let frame = Frame::new(&bytes[..100], &extents, 900, Offload::NONE);
        assert_eq!(frame.to_vec(), bytes);
        let mut seen = Vec::new();
        for start in (100..1000).step_by(128) {
            let segment = frame.segment(&[], start, 128, Offload::NONE);
            assert_eq!(segment.len(), 128.min(1000 - start));
            seen.extend(segment.to_vec());
        }
        assert_eq!(seen, &bytes[100..]);
        let inner = frame.segment(&[1, 2], 200, 300, Offload::NONE).segment(&[3], 52, 20, Offload::NONE);
        assert_eq!(inner.to_vec()[1..], bytes[250..270]);
    }

    /// RFC 1071 as it reads.
    fn naive_sum(bytes: &[u8]) -> u16 {
        let sum = bytes
            .chunks(2)
            .map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)))
            .sum::<u64>();
        let sum = (sum & 0xffff) + (sum >> 16);
        ((sum & 0xffff) + (sum >> 16)) as u16
    }

    #[test]
    fn sums_are_right_at_any_offset_and_length() {
        let bytes: Vec<u8> = (0..4000u32).map(|at| ((at * at) >> 3) as u8 | 0xc0).collect();
        for cuts in [[1, 2, 3], [1, 33, 34], [7, 7, 300], [64, 129, 1000], [0, 4000, 4000], [31, 94, 1501]] {
            let bounds = [0, cuts[0], cuts[1], cuts[2], bytes.len()];
            let extents: Vec<_> =
                bounds.windows(2).map(|pair| Extent::from_slice(&bytes[pair[0]..pair[1]])).collect();
            let whole = Frame::new(&[1, 2, 3], &extents, bytes.len(), Offload::NONE);
            for (from, len) in
                [(0, 4000), (1, 1448), (1449, 1447), (33, 1), (34, 2), (40, 31), (90, 65), (0, 0)]
            {
                let expected = naive_sum(&bytes[from..from + len]);
                let frame = whole.segment(&[9; 5], 3 + from, len, Offload::NONE);
                assert_eq!(frame.body_sum().folded(), expected, "{cuts:?} {from} {len}");
            }
        }
    }

    #[test]
    fn copies_into_small_targets_in_order() {
        let bytes: Vec<u8> = (0..255u8).collect();
        let extents = [Extent::from_slice(&bytes[10..255])];
        let frame = Frame::new(&bytes[..10], &extents, 245, Offload::NONE);
        for step in [1, 3, 9, 10, 11, 64, 300] {
            let (mut reader, mut seen) = (frame.reader(), Vec::new());
            loop {
                let mut target = vec![0; step];
                let count = reader.read(&mut target);
                seen.extend_from_slice(&target[..count]);
                if count == 0 {
                    break;
                }
            }
            assert_eq!(seen, bytes, "step {step}");
            let mut target = vec![0; step];
            let count = frame.copy_to(ExtentMut::from_slice(&mut target));
            assert_eq!((count, &target[..count]), (step.min(255), &bytes[..step.min(255)]));
            assert_eq!(reader.remaining(), 0);
        }
    }
}
