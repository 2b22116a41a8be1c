//! What every driver is held to, as functions that any pair of queues can be put through.
//!
//! A driver's tests implement [`Fixture`] and write `ports::conformance_tests!(make, count_allocations);`, which makes one test of each
//! check below. A driver that cannot do everything (a null device yields nothing) names the checks that make sense for it.
//!
//! The checks assert work and order, never time: a driver under test delivers synchronously, or its fixture waits for it.

mod bounds;
mod bytes;
mod frames;
mod lifecycle;
mod reports;

pub use bounds::{bursts_are_bounded_in_bytes, bursts_of_any_size_keep_their_order};
pub use bytes::{
    all_lengths_arrive_whole, offloads_arrive_as_they_were_asked, scattered_frames_arrive_whole,
};
pub use frames::{Traffic, numbered};
pub use lifecycle::{
    arming_reports_what_is_there_and_what_comes, completing_returns_the_buffers,
    dropping_the_queues_leaks_nothing, nothing_is_allocated_per_packet,
};
pub use reports::{a_full_receiver_is_counted, reports_add_up, too_large_frames_are_counted};

use buf::{BURST_BYTES, BURST_PACKETS, Burst, Extent, Frame, HEAD_BYTES, Offload, TUNNEL_BYTES};
use engine::{OffloadCapabilities, RxQueue, RxReport, TxQueue, TxReport};
use std::sync::MutexGuard;

/// A frame that came out of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// All its bytes.
    pub bytes: Vec<u8>,
    /// What was still to be done to it.
    pub offload: Offload,
}

/// A receive queue and a transmit queue under test, with whoever is at the other end of them.
pub trait Fixture {
    /// The receive queue under test: yields what [`Fixture::give`] put there.
    fn rx(&mut self) -> &mut dyn RxQueue;

    /// The transmit queue under test: [`Fixture::take`] sees what it delivered.
    fn tx(&mut self) -> &mut dyn TxQueue;

    /// Puts a frame, in these pieces or joined, where the receive queue finds it, and raises an event if the queue is armed. False
    /// when there was no room; the frame is then not there.
    fn give(&mut self, pieces: &[&[u8]], offload: Offload) -> bool;

    /// Takes the next frame that the transmit queue delivered.
    fn take(&mut self) -> Option<Taken>;

    /// The longest frame the driver carries, in bytes.
    fn longest(&self) -> usize;

    /// The shortest frame the driver carries, in bytes.
    fn shortest(&self) -> usize {
        1
    }

    /// How many frames of up to 128 bytes certainly fit between one end and the other, in either direction. At least 64.
    fn depth(&self) -> usize;

    /// Counts the buffers that nobody holds, of both directions; goes on counting when the fixture is gone.
    fn free_buffers(&self) -> Box<dyn Fn() -> usize>;

    /// Which offloads [`Fixture::give`] may ask for.
    fn gives(&self) -> OffloadCapabilities;

    /// Whether an event was raised for the receive queue since the last call; `None` when the driver raises none and must be polled.
    fn woken(&mut self) -> Option<bool>;
}

/// A fixture that tests share, because a second one cannot be had. Each leaves it empty.
impl<F: Fixture> Fixture for MutexGuard<'_, F> {
    fn rx(&mut self) -> &mut dyn RxQueue {
        F::rx(self)
    }

    fn tx(&mut self) -> &mut dyn TxQueue {
        F::tx(self)
    }

    fn give(&mut self, pieces: &[&[u8]], offload: Offload) -> bool {
        F::give(self, pieces, offload)
    }

    fn take(&mut self) -> Option<Taken> {
        F::take(self)
    }

    fn shortest(&self) -> usize {
        F::shortest(self)
    }

    fn longest(&self) -> usize {
        F::longest(self)
    }

    fn depth(&self) -> usize {
        F::depth(self)
    }

    fn free_buffers(&self) -> Box<dyn Fn() -> usize> {
        F::free_buffers(self)
    }

    fn gives(&self) -> OffloadCapabilities {
        F::gives(self)
    }

    fn woken(&mut self) -> Option<bool> {
        F::woken(self)
    }
}

/// Polls once, completes and settles: what the burst held and what the queue said of it.
///
/// # Panics
///
/// When the burst breaks a limit of [`Burst`].
pub fn receive(rx: &mut dyn RxQueue) -> (Vec<Taken>, RxReport) {
    let mut burst = Burst::new();
    let report = rx.poll(&mut burst);
    assert!(burst.len() <= BURST_PACKETS);
    let taken: Vec<Taken> = (0..burst.len())
        .filter_map(|at| burst.frame(at))
        .map(|frame| Taken { bytes: frame.to_vec(), offload: frame.offload })
        .collect();
    for (packet, taken) in burst.packets().iter().zip(&taken) {
        // Drivers of uplinks load what tunnels need besides.
        let wholes = [HEAD_BYTES, HEAD_BYTES + TUNNEL_BYTES].map(|most| most.min(taken.bytes.len()));
        assert!(wholes.contains(&packet.head().len()), "a head of {} bytes", packet.head().len());
        let beginning = &taken.bytes[..packet.head().len()];
        assert_eq!(packet.head(), beginning, "the head is loaded and is the frame's beginning");
    }
    let all_but_last: usize = taken.iter().rev().skip(1).map(|frame| frame.bytes.len()).sum();
    assert!(all_but_last < BURST_BYTES, "a burst ends after {BURST_BYTES} bytes");
    rx.complete();
    rx.settle();
    (taken, report)
}

/// Polls until `count` frames came or a poll yields nothing.
pub fn receive_all(rx: &mut dyn RxQueue, count: usize) -> Vec<Taken> {
    let mut all = Vec::new();
    while all.len() < count {
        let (taken, _) = receive(rx);
        if taken.is_empty() {
            break;
        }
        all.extend(taken);
    }
    all
}

/// Sends one frame, its head private and its body in `pieces` extents.
pub fn send_one(tx: &mut dyn TxQueue, bytes: &[u8], pieces: usize, offload: Offload) -> TxReport {
    let (head, body) = bytes.split_at(bytes.len().min(HEAD_BYTES));
    let extents: Vec<Extent<'_>> =
        body.chunks(body.len().div_ceil(pieces.max(1)).max(1)).map(Extent::from_slice).collect();
    let report = tx.send(&[Frame::new(head, &extents, body.len(), offload)]);
    tx.flush();
    tx.settle();
    report
}

/// Sends short frames (all head) in one call.
pub fn send_short(tx: &mut dyn TxQueue, frames: &[Vec<u8>]) -> TxReport {
    let frames: Vec<Frame<'_, '_>> =
        frames.iter().map(|bytes| Frame::from_head(bytes, Offload::NONE)).collect();
    let report = tx.send(&frames);
    tx.flush();
    tx.settle();
    report
}

/// Gives frames without offloads; how many there was room for.
pub fn give_all<F: Fixture>(fixture: &mut F, frames: &[Vec<u8>]) -> usize {
    frames.iter().take_while(|bytes| fixture.give(&[bytes], Offload::NONE)).count()
}

/// Takes until there is nothing.
pub fn take_all<F: Fixture>(fixture: &mut F) -> Vec<Taken> {
    std::iter::from_fn(|| fixture.take()).collect()
}

/// Makes one test of each check: `conformance_tests!(make, measure)`, or with the checks named, `conformance_tests!(make; check, check)`.
///
/// `make` is a function (or closure without captures) that makes a [`Fixture`](crate::conformance::Fixture); it is called once per
/// test, possibly by several threads at once. `measure` runs a closure and returns how many allocations it made.
#[macro_export]
macro_rules! conformance_tests {
    ($make:expr, $measure:expr) => {
        $crate::conformance_tests!($make;
            all_lengths_arrive_whole,
            scattered_frames_arrive_whole,
            offloads_arrive_as_they_were_asked,
            bursts_of_any_size_keep_their_order,
            bursts_are_bounded_in_bytes,
            reports_add_up,
            a_full_receiver_is_counted,
            too_large_frames_are_counted,
            arming_reports_what_is_there_and_what_comes,
            completing_returns_the_buffers,
            dropping_the_queues_leaks_nothing
        );

        #[test]
        fn nothing_is_allocated_per_packet() {
            $crate::conformance::nothing_is_allocated_per_packet($make, $measure);
        }
    };
    ($make:expr; $($check:ident),+ $(,)?) => {
        $(
            #[test]
            fn $check() {
                $crate::conformance::$check($make);
            }
        )+
    };
}
