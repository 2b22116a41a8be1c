//! Ports to nowhere: a transmit queue that takes everything, and a receive queue that has nothing or always the same.

use buf::Frame;
use buf::{Burst, Extent, Offload};
use engine::{Armed, OffloadCapabilities, RxQueue, RxReport, TxQueue, TxReport};

/// Takes every frame as it is and forgets it.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullTx;

impl TxQueue for NullTx {
    fn capabilities(&self) -> OffloadCapabilities {
        OffloadCapabilities {
            checksum: true,
            tso4: true,
            tso6: true,
            uso4: true,
            uso6: true,
            ecn: true,
            tunnel: true,
        }
    }

    fn send(&mut self, frames: &[Frame<'_, '_>]) -> TxReport {
        let bytes = frames.iter().map(|frame| frame.len() as u64).sum();
        TxReport { sent: frames.len() as u32, bytes, ..TxReport::default() }
    }

    fn flush(&mut self) {}
}

/// Never has a packet, or always has copies of one frame.
#[derive(Clone, Debug, Default)]
pub struct NullRx {
    frame: Vec<u8>,
}

impl NullRx {
    /// A queue that stays empty.
    pub fn silent() -> Self {
        Self::default()
    }

    /// A queue whose every poll fills the burst with `frame`. An empty frame is none: the queue stays silent.
    pub fn endless(frame: Vec<u8>) -> Self {
        Self { frame }
    }
}

impl RxQueue for NullRx {
    fn poll<'q>(&'q mut self, burst: &mut Burst<'q>) -> RxReport {
        let frame = Extent::from_slice(&self.frame);
        while !burst.is_full() && burst.push_extent(frame).is_ok() && burst.commit(Offload::NONE) {}
        burst.load_heads();
        RxReport { more: !self.frame.is_empty(), ..RxReport::default() }
    }

    fn complete(&mut self) {}

    fn arm(&mut self) -> Armed {
        if self.frame.is_empty() { Armed::Quiet } else { Armed::Ready }
    }

    fn disarm(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use buf::BURST_PACKETS;

    #[test]
    fn what_is_sent_is_counted_and_gone() {
        let frames = [Frame::from_head(&[1; 60], Offload::NONE), Frame::from_head(&[2; 128], Offload::NONE)];
        let report = NullTx.send(&frames);
        assert_eq!(report, TxReport { sent: 2, bytes: 188, ..TxReport::default() });
        assert_eq!(NullTx.send(&[]), TxReport::default());
    }

    #[test]
    fn a_silent_queue_has_nothing_and_may_be_left_alone() {
        let mut queue = NullRx::silent();
        let mut burst = Burst::new();
        assert_eq!(queue.poll(&mut burst), RxReport::default());
        assert!(burst.is_empty());
        assert_eq!(queue.arm(), Armed::Quiet);
    }

    #[test]
    fn an_endless_queue_fills_every_burst_up_to_its_limits() {
        for (bytes, packets) in [(60, BURST_PACKETS), (9000, 15), (65_562, 2)] {
            let frame: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
            let mut queue = NullRx::endless(frame.clone());
            assert_eq!(queue.arm(), Armed::Ready);
            for _ in 0..3 {
                let mut burst = Burst::new();
                assert!(queue.poll(&mut burst).more);
                assert_eq!(burst.len(), packets, "frames of {bytes} bytes");
                assert!((0..packets).all(|at| burst.frame(at).unwrap().to_vec() == frame));
                queue.complete();
            }
        }
    }
}
