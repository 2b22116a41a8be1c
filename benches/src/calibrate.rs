//! What the machine can do at best: one thread's copy bandwidth.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::affinity;

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
}
