//! What the machine can do at best: one thread's copy bandwidth, alone and for a guest on another core.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use guest_mem::GuestMemory;
use serde::Serialize;
use virtio_driver::{MemoryOptions, SharedMemory};

use crate::{affinity, in_process::map_again};

/// One thread's copy bandwidth in GB/s of payload, over 8 MB (source and destination): what does not fit a core's own
/// cache but does fit the shared one.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct CopyBandwidth {
    /// In pieces of 64 bytes.
    pub b64: f64,
    /// In pieces of 1,514 bytes.
    pub b1514: f64,
    /// In pieces of 64,294 bytes.
    pub b64k: f64,
}

const WORKING_SET: usize = 8 << 20;

/// Measures on `core`, for about `time` per size.
///
/// # Errors
///
/// When the thread cannot be pinned.
pub fn copy_bandwidth(core: usize, time: Duration) -> std::io::Result<CopyBandwidth> {
    let measured = std::thread::spawn(move || {
        affinity::pin(core)?;
        let source = vec![0x5au8; WORKING_SET / 2];
        let mut destination = vec![0u8; WORKING_SET / 2];
        let mut bandwidth = |piece| pieces(&source, &mut destination, piece, time);
        Ok(CopyBandwidth { b64: bandwidth(64), b1514: bandwidth(1514), b64k: bandwidth(64294) })
    });
    measured.join().unwrap_or_else(|_| Err(std::io::Error::other("the copying thread panicked")))
}

/// The best of several passes: what the machine can do, not what it did while it was interrupted.
fn pieces(source: &[u8], destination: &mut [u8], piece: usize, time: Duration) -> f64 {
    let end = Instant::now() + time;
    let mut best = 0.0f64;
    while Instant::now() < end {
        let start = Instant::now();
        let mut copied = 0usize;
        // Each piece starts on a cache line, as packets do.
        let step = piece.next_multiple_of(64);
        for (from, to) in source.chunks_exact(step).zip(destination.chunks_exact_mut(step)) {
            let ((from, _), (to, _)) = (from.split_at(black_box(piece)), to.split_at_mut(piece));
            to.copy_from_slice(from);
            copied += piece;
        }
        black_box(&destination);
        best = best.max(copied as f64 / start.elapsed().as_secs_f64() / 1e9);
    }
    best
}

/// Bytes of a piece, and of the buffers it is copied to.
const PIECE: usize = 64294;
const BUFFER: usize = 4096;
/// Where pieces are written in turn, and where they are copied to: as many as the generator's guests have.
const SOURCES: u64 = 64;
const PLACES: u64 = 16;
const STRIDE: u64 = 68 * 1024;
/// Pieces written and not yet copied.
const AHEAD: u64 = 8;

/// A guest's memory, and how far the guest and whoever copies for it are.
struct Pair {
    memory: Arc<SharedMemory>,
    mapped: Arc<GuestMemory>,
    written: AtomicU64,
    copied: AtomicU64,
    read: AtomicU64,
    stop: AtomicBool,
}

/// Copy bandwidth in GB/s of payload between a guest's core and another: one thread writes pieces of 64,294 bytes and reads what was
/// copied, the other copies them into buffers of 4 KiB. What is left for a switch that does nothing else for a guest that reads and writes all
/// its bytes, as the generator's do. Waiting for the guest is not counted.
///
/// # Errors
///
/// When memory cannot be had or a thread cannot be pinned.
pub fn copy_between(guest_core: usize, core: usize, time: Duration) -> std::io::Result<f64> {
    let (memory, mapped) = shared_twice((SOURCES + PLACES) as usize * STRIDE as usize)?;
    let zero = || AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let pair = Pair { memory, mapped, written: zero(), copied: zero(), read: zero(), stop };
    std::thread::scope(|scope| {
        let copying = scope.spawn(|| {
            let result = affinity::pin(core).map(|()| pair.copy(time));
            pair.stop.store(true, Ordering::Relaxed);
            result
        });
        let guest = scope.spawn(|| {
            let result = affinity::pin(guest_core).and_then(|()| pair.write_and_read());
            pair.stop.store(true, Ordering::Relaxed);
            result
        });
        let panicked = "a copying thread panicked";
        guest.join().unwrap_or_else(|_| Err(std::io::Error::other(panicked)))?;
        copying.join().unwrap_or_else(|_| Err(std::io::Error::other(panicked)))
    })
}

fn shared_twice(len: usize) -> std::io::Result<(Arc<SharedMemory>, Arc<GuestMemory>)> {
    let options = |huge_pages| MemoryOptions { huge_pages, ..MemoryOptions::default() };
    let memory = SharedMemory::new(len, options(true))
        .or_else(|_| SharedMemory::new(len, options(false)))
        .map_err(std::io::Error::other)?
        .into_shared();
    let mapped = map_again(&memory)?;
    Ok((memory, mapped))
}

impl Pair {
    fn source(&self, piece: u64) -> u64 {
        self.memory.guest_base() + piece % SOURCES * STRIDE
    }

    fn place(&self, piece: u64) -> u64 {
        self.memory.guest_base() + (SOURCES + piece % PLACES) * STRIDE
    }

    fn write_and_read(&self) -> std::io::Result<()> {
        let (mut written, mut read) = (0u64, 0u64);
        while !self.stop.load(Ordering::Relaxed) {
            let copied = self.copied.load(Ordering::Acquire);
            if read < copied {
                black_box(self.memory.sum(self.place(read), PIECE).map_err(std::io::Error::other)?);
                read += 1;
                self.read.store(read, Ordering::Release);
            }
            if written - copied < AHEAD {
                self.memory
                    .fill_words(self.source(written), PIECE, written)
                    .map_err(std::io::Error::other)?;
                written += 1;
                self.written.store(written, Ordering::Release);
            }
        }
        Ok(())
    }

    /// The first fifth of the time is not counted. On a machine so busy that nothing was copied after it, until something was.
    fn copy(&self, time: Duration) -> f64 {
        let start = Instant::now();
        let (mut copied, mut bytes, mut busy) = (0u64, 0usize, Duration::ZERO);
        while (start.elapsed() < time || bytes == 0) && !self.stop.load(Ordering::Relaxed) {
            let ready = copied < self.written.load(Ordering::Acquire);
            if !ready || copied >= self.read.load(Ordering::Acquire) + PLACES {
                continue;
            }
            let begin = Instant::now();
            self.copy_piece(self.source(copied), self.place(copied));
            copied += 1;
            self.copied.store(copied, Ordering::Release);
            if start.elapsed() > time / 5 {
                busy += begin.elapsed();
                bytes += PIECE;
            }
        }
        bytes as f64 / busy.as_secs_f64() / 1e9
    }

    fn copy_piece(&self, source: u64, place: u64) {
        for offset in (0..PIECE).step_by(BUFFER) {
            let (len, offset) = (BUFFER.min(PIECE - offset), offset as u64);
            let from = self.mapped.translate(source + offset, len);
            if let (Some(from), Some(to)) = (from, self.mapped.translate_mut(place + offset, len)) {
                from.copy_to(to);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidth_is_measured_for_each_size() {
        let core = affinity::allowed().unwrap()[0];
        let measured = copy_bandwidth(core, Duration::from_millis(20)).unwrap();
        for value in [measured.b64, measured.b1514, measured.b64k] {
            assert!(value > 0.01 && value < 10_000.0, "{measured:?}");
        }
    }

    #[test]
    fn a_guest_on_another_core_has_its_bytes_copied() {
        let cores = affinity::allowed().unwrap();
        let other = cores.get(1).copied().unwrap_or(cores[0]);
        let measured = copy_between(cores[0], other, Duration::from_millis(50)).unwrap();
        assert!(measured > 0.01 && measured < 10_000.0, "{measured}");
    }
}
