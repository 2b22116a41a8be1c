//! Queues that misbehave.

use super::{Mischief, Plant, Stray};
use buf::{Burst, Frame};
use engine::{Armed, OffloadCapabilities, RxQueue, RxReport, TxQueue, TxReport};
use ports::vhost::{VhostRx, VhostTx};
use virtqueue::DeviceRing;

/// A frame in so many is treated badly.
const PERIOD: u64 = 61;
/// Bursts that a queue returns before it forgets to.
const BURSTS_RETURNED: u64 = 40;

/// A queue of packets' origin that misbehaves.
pub struct RxMischief {
    plant: Plant,
    bursts: u64,
}

impl RxMischief {
    pub(super) fn new(plant: Plant) -> Self {
        Self { plant, bursts: 0 }
    }

    pub(crate) fn poll<'q>(&mut self, real: &'q mut VhostRx, burst: &mut Burst<'q>) -> RxReport {
        let report = real.poll(burst);
        if self.plant == Plant::ForgetRefused { RxReport { refused: 0, ..report } } else { report }
    }

    pub(crate) fn complete(&mut self, real: &mut VhostRx) {
        self.bursts += 1;
        if self.plant != Plant::ForgetComplete || self.bursts < BURSTS_RETURNED {
            real.complete();
        }
    }

    pub(crate) fn arm(&mut self, real: &mut VhostRx) -> Armed {
        if self.plant == Plant::ForgetArm { Armed::Quiet } else { real.arm() }
    }
}

/// A queue of packets' destination that misbehaves.
pub struct TxMischief {
    plant: Plant,
    guest: usize,
    shared: Mischief,
    frames: u64,
}

fn resend(real: &mut VhostTx, bytes: &[u8], frame: &Frame<'_, '_>) -> TxReport {
    let report = real.send(&[Frame::from_head(bytes, frame.offload)]);
    // What the switch is told is that the packet went as it was.
    TxReport { bytes: if report.sent > 0 { frame.len() as u64 } else { 0 }, ..report }
}

impl TxMischief {
    pub(super) fn new(plant: Plant, guest: usize, shared: Mischief) -> Self {
        Self { plant, guest, shared, frames: 0 }
    }

    pub(crate) fn capabilities(&self, real: &VhostTx) -> OffloadCapabilities {
        match self.plant {
            Plant::LieAboutOffloads => OffloadCapabilities {
                checksum: true,
                tso4: true,
                tso6: true,
                uso4: true,
                uso6: true,
                ecn: true,
                tunnel: false,
            },
            _ => real.capabilities(),
        }
    }

    pub(crate) fn send(&mut self, real: &mut VhostTx, frames: &[Frame<'_, '_>]) -> TxReport {
        if self.plant == Plant::SwapPackets {
            return self.swap(real, frames);
        }
        let mut report = TxReport::default();
        for frame in frames {
            self.frames += 1;
            let due = self.frames.is_multiple_of(PERIOD);
            report.merge(if due { self.misbehave(real, frame) } else { real.send(&[*frame]) });
        }
        report
    }

    pub(crate) fn flush(&mut self, real: &mut VhostTx) {
        if self.plant == Plant::WrongPort
            && let Some(stray) = self.shared.stray_for(self.guest)
        {
            real.send(&[Frame::from_head(&stray.bytes, stray.offload)]);
        }
        real.flush();
    }

    fn misbehave(&mut self, real: &mut VhostTx, frame: &Frame<'_, '_>) -> TxReport {
        let sent = TxReport { sent: 1, bytes: frame.len() as u64, ..TxReport::default() };
        let mut bytes = frame.to_vec();
        match self.plant {
            Plant::LosePacket => sent,
            Plant::WrongPort => {
                self.shared.stray(Stray { meant_for: self.guest, bytes, offload: frame.offload });
                sent
            }
            Plant::CorruptByte => {
                let at = bytes.len() - 1;
                bytes[at] ^= 1;
                resend(real, &bytes, frame)
            }
            Plant::Truncate => {
                bytes.pop();
                resend(real, &bytes, frame)
            }
            Plant::Duplicate => {
                let report = real.send(&[*frame]);
                real.send(&[*frame]);
                report
            }
            Plant::WriteOutside => {
                let memory = real.ring_mut().memory().clone();
                // The first page of a guest's memory is a guard of its driver.
                if let Some(mut extent) = memory.translate_mut(crate::guest::nic::GUEST_BASE + 100, 1) {
                    extent.write(&[0]);
                }
                real.send(&[*frame])
            }
            Plant::LeakPool => {
                std::mem::forget(self.shared.pool.copy(frame));
                real.send(&[*frame])
            }
            _ => real.send(&[*frame]),
        }
    }

    fn swap(&mut self, real: &mut VhostTx, frames: &[Frame<'_, '_>]) -> TxReport {
        self.frames += frames.len() as u64;
        if frames.len() < 2 || self.frames < PERIOD {
            return real.send(frames);
        }
        self.frames = 0;
        let mut frames: Vec<Frame<'_, '_>> = frames.to_vec();
        frames.reverse();
        real.send(&frames)
    }
}
