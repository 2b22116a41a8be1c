//! Packets for a transmit queue that another worker is using.
//!
//! One single-producer ring per ordered pair of workers. A packet leaves its ring only after it was delivered, so the sender
//! sees an empty ring exactly when nothing of its own is on the way, and keeps handing over until then: order within a flow holds.

use crate::poll_set::QueueId;
use buf::OwnedPacket;
use engine::PortIndex;
use rtrb::{Consumer, Producer, RingBuffer};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A packet on its way to the home worker of its output.
#[derive(Debug)]
pub struct Handover {
    /// Where it goes.
    pub output: PortIndex,
    /// Which transmit queue of it.
    pub pair: u16,
    /// Where it came from.
    pub ingress: PortIndex,
    /// The copy.
    pub packet: OwnedPacket,
}

impl Handover {
    /// The queue it is for.
    pub(crate) fn queue(&self) -> QueueId {
        QueueId { port: self.output, pair: self.pair }
    }
}

/// One worker's ends of the rings.
#[derive(Default)]
pub struct Links {
    /// By destination worker; none to itself.
    pub(crate) to: Vec<Option<Producer<Handover>>>,
    pub(crate) from: Vec<Consumer<Handover>>,
    /// By destination worker: set while that worker sleeps and must be woken.
    pub(crate) asleep: Vec<Arc<AtomicBool>>,
}

impl Links {
    /// Whether nothing handed to `worker` is still on its way.
    #[inline]
    pub(crate) fn is_clear(&self, worker: usize) -> bool {
        match self.to.get(worker) {
            Some(Some(producer)) => producer.slots() == producer.buffer().capacity(),
            _ => true,
        }
    }

    /// Hands over; gives the packet back when the ring is full.
    pub(crate) fn push(&mut self, worker: usize, handover: Handover) -> Result<(), Handover> {
        match self.to.get_mut(worker) {
            Some(Some(producer)) => {
                producer.push(handover).map_err(|rtrb::PushError::Full(handover)| handover)
            }
            _ => Err(handover),
        }
    }

    pub(crate) fn is_asleep(&self, worker: usize) -> bool {
        self.asleep.get(worker).is_some_and(|asleep| asleep.load(Ordering::SeqCst))
    }
}

/// Rings between all pairs of `workers` workers, each of `capacity` packets; one [`Links`] per worker.
pub fn mesh(workers: usize, capacity: usize) -> Vec<Links> {
    let asleep: Vec<_> = (0..workers).map(|_| Arc::new(AtomicBool::new(false))).collect();
    let mut links: Vec<Links> = (0..workers)
        .map(|_| Links { to: (0..workers).map(|_| None).collect(), from: Vec::new(), asleep: asleep.clone() })
        .collect();
    for source in 0..workers {
        for target in (0..workers).filter(|target| *target != source) {
            let (producer, consumer) = RingBuffer::new(capacity);
            links[source].to[target] = Some(producer);
            links[target].from.push(consumer);
        }
    }
    links
}
