//! Packets that outlive their burst: handed to another worker, waiting for a neighbour, mirrored. The one place with a second copy.

use crate::{Burst, Extent, Frame, MAX_HEAD_BYTES, Offload};
use crossbeam::queue::ArrayQueue;
use std::sync::Arc;

const CHUNK_BYTES: usize = 2032;
const FRAME_CHUNKS: usize = 34;

/// A piece of an owned packet; 2 KiB with its link.
struct Chunk {
    next: Option<Box<Chunk>>,
    bytes: [u8; CHUNK_BYTES],
}

/// A bounded supply of memory for owned packets, shared by workers. Made once; taking and giving back neither allocates nor locks.
#[derive(Clone)]
pub struct Pool {
    free: Arc<ArrayQueue<Box<Chunk>>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("free", &self.free.len())
            .field("capacity", &self.free.capacity())
            .finish()
    }
}

impl Pool {
    /// A pool of `chunks` pieces of 2 KiB (at least one). A packet of 1,514 bytes takes one, one of 64 KiB takes 33.
    pub fn new(chunks: usize) -> Self {
        let free = ArrayQueue::new(chunks.max(1));
        for _ in 0..free.capacity() {
            // Cannot fail: the queue holds exactly this many.
            let _ = free.push(Box::new(Chunk { next: None, bytes: [0; CHUNK_BYTES] }));
        }
        Self { free: Arc::new(free) }
    }

    /// Pieces not in use.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Pieces there are.
    pub fn capacity(&self) -> usize {
        self.free.capacity()
    }

    /// Copies `frame`; `None` when the pool has not enough pieces or the frame is longer than 34 of them (69,088 bytes).
    pub fn copy(&self, frame: &Frame<'_, '_>) -> Option<OwnedPacket> {
        if frame.len() > FRAME_CHUNKS * CHUNK_BYTES {
            return None;
        }
        let mut packet = OwnedPacket {
            first: None,
            len: frame.len(),
            head_len: frame.head().len().min(MAX_HEAD_BYTES),
            offload: frame.offload,
            home: self.clone(),
        };
        // Built back to front would reverse the bytes, so the chain is grown at its tail.
        let mut reader = frame.reader();
        let mut tail = &mut packet.first;
        while reader.remaining() > 0 {
            let mut chunk = self.free.pop()?;
            if reader.read(&mut chunk.bytes) == 0 {
                let _ = self.free.push(chunk);
                break;
            }
            tail = &mut tail.insert(chunk).next;
        }
        Some(packet)
    }
}

/// A packet in memory of our own. Its pieces go back to their pool when it is dropped.
pub struct OwnedPacket {
    first: Option<Box<Chunk>>,
    len: usize,
    head_len: usize,
    offload: Offload,
    home: Pool,
}

impl std::fmt::Debug for OwnedPacket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnedPacket").field("len", &self.len).field("offload", &self.offload).finish()
    }
}

impl OwnedPacket {
    /// Length of the frame in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a packet of no bytes is never made")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Writes `bytes` over the first bytes of the packet, as far as it has them.
    pub fn overwrite_start(&mut self, bytes: &[u8]) {
        let len = self.len;
        if let Some(chunk) = self.first.as_deref_mut() {
            chunk.bytes.iter_mut().take(len).zip(bytes).for_each(|(to, from)| *to = *from);
        }
    }

    /// Adds the packet to `burst`, whose extents then lie in it; false (and nothing added) when the burst has no room.
    pub fn add_to<'p>(&'p self, burst: &mut Burst<'p>) -> bool {
        let (mut left, mut next) = (self.len, self.first.as_deref());
        while let Some(chunk) = next {
            let bytes = left.min(CHUNK_BYTES);
            if burst.push_extent(Extent::from_slice(&chunk.bytes[..bytes])).is_err() {
                burst.abandon();
                return false;
            }
            left -= bytes;
            next = chunk.next.as_deref();
        }
        burst.commit(self.offload)
    }

    /// Shows the packet as a frame.
    pub fn with_frame<R>(&self, look: impl FnOnce(Frame<'_, '_>) -> R) -> R {
        let mut extents = [Extent::from_slice(&[]); FRAME_CHUNKS];
        let (mut count, mut left, mut next) = (0, self.len, self.first.as_deref());
        while let (Some(chunk), Some(slot)) = (next, extents.get_mut(count)) {
            let bytes = left.min(CHUNK_BYTES);
            *slot = Extent::from_slice(&chunk.bytes[..bytes]);
            left -= bytes;
            count += 1;
            next = chunk.next.as_deref();
        }
        let head: &[u8] = self.first.as_deref().map_or(&[], |chunk| &chunk.bytes[..self.head_len]);
        (_, extents[0]) = extents[0].split_at(self.head_len);
        look(Frame::new(head, &extents[..count], self.len - self.head_len, self.offload))
    }
}

impl Drop for OwnedPacket {
    fn drop(&mut self) {
        let mut next = self.first.take();
        while let Some(mut chunk) = next {
            next = chunk.next.take();
            let _ = self.home.free.push(chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_equal_and_pieces_return() {
        let pool = Pool::new(40);
        for len in [1usize, 60, 128, 129, 2031, 2032, 2033, 9000, 65_562] {
            let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let head = len.min(crate::HEAD_BYTES);
            let body = [Extent::from_slice(&bytes[head..])];
            let frame = Frame::new(&bytes[..head], &body, len - head, Offload::NONE);
            let packet = pool.copy(&frame).unwrap();
            assert_eq!(packet.with_frame(|frame| frame.to_vec()), bytes);
            assert!(pool.available() < 40);
            drop(packet);
            assert_eq!(pool.available(), 40);
        }
    }

    #[test]
    fn an_exhausted_pool_refuses_and_leaks_nothing() {
        let pool = Pool::new(2);
        let bytes = [3u8; 5000];
        let body = [Extent::from_slice(&bytes)];
        assert!(pool.copy(&Frame::new(&[], &body, 5000, Offload::NONE)).is_none());
        assert_eq!(pool.available(), 2);
        let kept = pool.copy(&Frame::new(&[], &body, 4000, Offload::NONE)).unwrap();
        assert!(pool.copy(&Frame::from_head(&[1], Offload::NONE)).is_none());
        drop(kept);
        assert_eq!(pool.available(), 2);
    }

    #[test]
    fn a_burst_takes_owned_packets_until_it_is_full() {
        let pool = Pool::new(2000);
        let bytes: Vec<u8> = (0..65_000).map(|at| (at % 251) as u8).collect();
        let body = [Extent::from_slice(&bytes)];
        let packet = pool.copy(&Frame::new(&[], &body, bytes.len(), Offload::NONE)).unwrap();
        let mut burst = Burst::new();
        for _ in 0..crate::BURST_PACKETS {
            assert!(packet.add_to(&mut burst));
        }
        assert!(!packet.add_to(&mut burst));
        burst.load_heads();
        assert_eq!(burst.len(), crate::BURST_PACKETS);
        assert!((0..burst.len()).all(|index| burst.frame(index).unwrap().to_vec() == bytes));
    }
}
