//! Packets that leave the burst another way than to a port: those the control thread answers, and those that wait for a neighbour of the underlay.
//!
//! Both are copies from the bounded pool, in bounded queues: nobody can make them grow, and a port only spends its own budget.

use crate::handover::Handover;
use crate::kept::Kept;
use crate::newcomers::Newcomers;
use arrayvec::ArrayVec;
use buf::{OwnedPacket, Pool};
use crossbeam::queue::ArrayQueue;
use engine::{Batch, DropReason, Observer, Output, PortCounters, PortIndex, Punt};
use std::collections::VecDeque;
use std::sync::Arc;
use tables::{Neighbours, Shares, TokenBucket};

/// Packets that may wait for neighbours, all together and for one of them.
const WAITING: usize = 256;
const WAITING_FOR_ONE: usize = 32;
/// How long a packet waits, in nanoseconds: three questions a second apart.
const PATIENCE: u64 = 3_000_000_000;

/// Queues to the control thread, shared by all workers.
#[derive(Clone)]
pub struct Exceptions {
    /// Packets it answers.
    pub punts: Arc<ArrayQueue<Punt>>,
    /// Neighbours that packets wait for.
    pub wanted: Arc<ArrayQueue<u16>>,
}

impl Exceptions {
    /// Queues of their usual sizes.
    pub fn new() -> Self {
        Self { punts: Arc::new(ArrayQueue::new(1024)), wanted: Arc::new(ArrayQueue::new(1024)) }
    }

    /// Whether nothing waits for the control thread.
    pub fn is_empty(&self) -> bool {
        self.punts.is_empty() && self.wanted.is_empty()
    }
}

impl Default for Exceptions {
    fn default() -> Self {
        Self::new()
    }
}

/// What a port may still ask of the switch beyond forwarding; an uplink, in shares by tunnel end point.
#[derive(Clone, Debug)]
pub struct Budgets {
    /// Announcements of addresses; of an uplink, all that other hosts' packets leave to the control thread.
    pub announcements: Shares,
    /// ICMP errors sent to it.
    pub errors: Shares,
    /// Packets for the control thread; of an uplink, those of the underlay itself.
    pub punts: TokenBucket,
    /// Of an uplink, what all tunnel end points together leave to the control thread.
    pub tunnels: TokenBucket,
    /// Packets judged in vain.
    pub newcomers: Newcomers,
}

/// A packet with its outer headers, all but where its next hop is.
struct Waiting {
    neighbour: u16,
    ingress: PortIndex,
    until: u64,
    packet: OwnedPacket,
}

impl Waiting {
    /// Whether its time is over; also when the clock went back, by which it would wait for as long.
    fn is_over(&self, now: u64) -> bool {
        !(1..=PATIENCE).contains(&self.until.saturating_sub(now))
    }
}

/// The packets of one worker that wait for neighbours, oldest first.
pub(crate) struct WaitingRoom {
    packets: VecDeque<Waiting>,
    seen: u64,
    /// Whose packets had to make room, to be counted with the next look.
    evicted: ArrayVec<PortIndex, WAITING>,
}

impl WaitingRoom {
    pub(crate) fn new() -> Self {
        Self { packets: VecDeque::with_capacity(WAITING), seen: 0, evicted: ArrayVec::new() }
    }

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// When a packet has waited long enough; `None` while none waits.
    pub(crate) fn deadline(&self) -> Option<u64> {
        self.packets.front().map(|first| first.until)
    }

    /// Whether nothing is to be done before that, or the next change of a neighbour.
    pub(crate) fn is_quiet(&self, now: u64, neighbours: &Neighbours) -> bool {
        self.is_empty() || self.seen == neighbours.changes() && self.deadline().is_none_or(|due| due > now)
    }

    /// Keeps a packet with its outer headers; false when too many wait already. Where there is no room, the oldest packet of the neighbour that most
    /// wait for makes some, if they are more than for this one: dead neighbours do not keep all places. `wanted` hears of a neighbour that nobody waited for.
    pub(crate) fn add(
        &mut self,
        neighbour: u16,
        ingress: PortIndex,
        now: u64,
        packet: OwnedPacket,
        wanted: &ArrayQueue<u16>,
    ) -> bool {
        let before = self.packets.iter().filter(|other| other.neighbour == neighbour).count();
        if before == 0 {
            // Also when there is no room for the packet: those that wait for others must not keep it from being asked for. A full queue means
            // that the control thread has more than it can ask for already.
            let _ = wanted.push(neighbour);
        }
        if before >= WAITING_FOR_ONE || self.packets.len() >= WAITING && !self.make_room(before) {
            return false;
        }
        self.packets.push_back(Waiting { neighbour, ingress, until: now.saturating_add(PATIENCE), packet });
        // Its neighbour may be known since: it is looked at in the next step.
        self.seen = u64::MAX;
        true
    }

    /// Lets go of the oldest packet of the neighbour for which most wait, if they are more than `than`.
    #[cold]
    fn make_room(&mut self, than: usize) -> bool {
        // By the last bits of their numbers: exact as long as no more neighbours are waited for than there are places.
        let (mut counts, place) =
            ([0usize; WAITING], |waiting: &Waiting| usize::from(waiting.neighbour) % WAITING);
        self.packets.iter().for_each(|waiting| counts[place(waiting)] += 1);
        let most = counts.iter().copied().max().unwrap_or(0);
        let at = self.packets.iter().position(|waiting| counts[place(waiting)] == most);
        if most <= than || self.evicted.is_full() {
            return false;
        }
        let Some(evicted) = at.and_then(|at| self.packets.remove(at)) else { return false };
        self.evicted.push(evicted.ingress);
        true
    }

    /// Lets go of those whose neighbour is known by now: to `kept`, from where they leave by `uplink`. Those that waited too long are
    /// shown to `lost`.
    #[cold]
    pub(crate) fn drain(
        &mut self,
        now: u64,
        neighbours: &Neighbours,
        uplink: Option<PortIndex>,
        kept: &mut Kept,
        mut lost: impl FnMut(PortIndex, DropReason),
    ) {
        self.evicted.drain(..).for_each(|ingress| lost(ingress, DropReason::NeighbourUnresolved));
        let changed = neighbours.changes();
        let oldest = self.packets.front().is_some_and(|first| first.is_over(now));
        if changed == self.seen && !oldest {
            return;
        }
        self.seen = changed;
        for _ in 0..self.packets.len() {
            let Some(waiting) = self.packets.pop_front() else { return };
            let ingress = waiting.ingress;
            match (neighbours.mac(waiting.neighbour), uplink) {
                (Some(mac), Some(output)) => {
                    let mut packet = waiting.packet;
                    packet.overwrite_start(&mac.0);
                    if kept.push(Handover { output, pair: 0, ingress, packet }).is_err() {
                        lost(ingress, DropReason::HandoverFull);
                    }
                }
                (_, None) => lost(ingress, DropReason::NoUplink),
                (None, _) if waiting.is_over(now) => lost(ingress, DropReason::NeighbourUnresolved),
                (None, _) => self.packets.push_back(waiting),
            }
        }
    }
}

/// What it takes to set packets aside.
pub(crate) struct Aside<'w> {
    pub(crate) exceptions: &'w Exceptions,
    pub(crate) waiting: &'w mut WaitingRoom,
    pub(crate) pool: &'w Pool,
    pub(crate) budgets: &'w mut Budgets,
    pub(crate) counters: &'w PortCounters,
}

impl Aside<'_> {
    /// Copies what the stages punted and held; what cannot be kept is counted as lost.
    #[cold]
    #[inline(never)]
    pub(crate) fn run<O: Observer>(
        &mut self,
        batch: &mut Batch<'_, '_>,
        port: PortIndex,
        uplink: Option<PortIndex>,
        observer: &mut O,
    ) {
        self.punt(batch, port);
        self.hold(batch, port, uplink, observer);
    }

    fn punt(&mut self, batch: &mut Batch<'_, '_>, port: PortIndex) {
        for at in 0..batch.punts().len() {
            let Some((index, kind)) = batch.punts().get(at).copied() else { break };
            let index = usize::from(index);
            let origin = batch.decapsulated >> (index & 31) & 1 != 0;
            let origin = origin.then(|| batch.metadata.get(index).map(|metadata| metadata.origin)).flatten();
            let Budgets { announcements, punts, tunnels, .. } = &mut *self.budgets;
            // What other hosts say must not keep the neighbours of the underlay from being heard, nor what one of them says another.
            let heard = match origin {
                Some(origin) => announcements.take(origin.vtep, tunnels, batch.now, 1),
                None => punts.take(batch.now, 1),
            };
            let result = if heard {
                self.copy(batch, index).and_then(|packet| {
                    let punt = Punt { port, kind, origin, packet };
                    self.exceptions.punts.push(punt).map_err(|_| DropReason::ServiceBusy)
                })
            } else {
                Err(DropReason::ServiceBudget)
            };
            match result {
                Ok(()) => self.counters.punted.add(1),
                Err(reason) => batch.lost(reason, 1),
            }
        }
    }

    fn hold<O: Observer>(
        &mut self,
        batch: &mut Batch<'_, '_>,
        port: PortIndex,
        uplink: Option<PortIndex>,
        observer: &mut O,
    ) {
        for at in 0..batch.held().len() {
            let Some((index, neighbour)) = batch.held().get(at).copied() else { break };
            if O::ACTIVE
                && let (Some(uplink), Some(frame)) = (uplink, batch.burst.frame(usize::from(index)))
            {
                observer.forwarded(port, Output::Port(uplink), &frame);
            }
            // What waits leaves half of the memory to others: who would ask for the next hop needs some too.
            let has_room = self.pool.available() * 2 > self.pool.capacity();
            let copied = if has_room {
                self.copy(batch, usize::from(index))
            } else {
                Err(DropReason::NeighbourUnresolved)
            };
            let kept = copied.and_then(|packet| {
                let room = self.waiting.add(neighbour, port, batch.now, packet, &self.exceptions.wanted);
                if room { Ok(()) } else { Err(DropReason::NeighbourUnresolved) }
            });
            if let Err(reason) = kept {
                batch.lost(reason, 1);
            }
        }
    }

    fn copy(&self, batch: &Batch<'_, '_>, index: usize) -> Result<OwnedPacket, DropReason> {
        let frame = batch.burst.frame(index).ok_or(DropReason::BadChain)?;
        self.pool.copy(&frame).ok_or(DropReason::PoolExhausted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buf::{Frame, Offload};

    #[test]
    fn a_room_full_of_others_does_not_keep_a_neighbour_from_being_asked_for() {
        let (mut room, pool, wanted) = (WaitingRoom::new(), Pool::new(WAITING + 1), ArrayQueue::new(64));
        let mut add = |neighbour| {
            let packet = pool.copy(&Frame::from_head(&[0; 60], Offload::NONE)).unwrap();
            room.add(neighbour, PortIndex(0), 0, packet, &wanted)
        };
        let dead = 0..(WAITING / WAITING_FOR_ONE) as u16;
        for neighbour in dead.clone() {
            assert!((0..WAITING_FOR_ONE).all(|_| add(neighbour)));
            assert!(!add(neighbour));
        }
        let asked = || std::iter::from_fn(|| wanted.pop()).collect::<Vec<_>>();
        assert_eq!(asked(), dead.clone().collect::<Vec<_>>());
        assert!(add(dead.end));
        assert_eq!(asked(), [dead.end]);
    }

    #[test]
    fn dead_neighbours_do_not_keep_all_places() {
        let (mut room, pool, wanted) = (WaitingRoom::new(), Pool::new(WAITING + 1), ArrayQueue::new(1024));
        let add = |room: &mut WaitingRoom, neighbour: usize| {
            let packet = pool.copy(&Frame::from_head(&[0; 60], Offload::NONE)).unwrap();
            room.add(neighbour as u16, PortIndex(neighbour as u16), 7, packet, &wanted)
        };
        let dead = WAITING / WAITING_FOR_ONE;
        (0..WAITING).for_each(|at| assert!(add(&mut room, at % dead)));
        // Each newcomer takes a place of who has most, until all have as many; then nobody takes from anybody.
        let share = WAITING / (dead + 1);
        assert_eq!((0..WAITING_FOR_ONE).filter(|_| add(&mut room, dead)).count(), share + 1);
        let count = |room: &WaitingRoom, neighbour| {
            room.packets.iter().filter(|waiting| usize::from(waiting.neighbour) == neighbour).count()
        };
        assert!((0..dead).all(|neighbour| (share..=share + 1).contains(&count(&room, neighbour))));
        assert_eq!((room.packets.len(), pool.available()), (WAITING, 1));
        // Those that made room are counted, each at the port it came from, with the next look.
        let (neighbours, mut kept) = (Neighbours::new(64), Kept::new());
        let mut lost = [0; 8];
        room.drain(8, &neighbours, Some(crate::UPLINK), &mut kept, |port, reason| {
            assert_eq!(reason, DropReason::NeighbourUnresolved);
            lost[usize::from(port.0)] += 1;
        });
        assert_eq!(lost.iter().sum::<usize>(), share + 1);
        assert!(lost.iter().all(|lost| (3..=4).contains(lost)), "{lost:?}");
        // With one packet each, the oldest goes for who has none yet.
        drop(std::mem::replace(&mut room, WaitingRoom::new()));
        (0..=WAITING).for_each(|at| assert!(add(&mut room, at)));
        assert_eq!((count(&room, 0), count(&room, WAITING)), (0, 1));
        assert!(!add(&mut room, WAITING), "it has as many as the others");
    }

    #[test]
    fn l19_a_clock_that_goes_back_makes_nobody_wait_longer() {
        let later = 3_600_000_000_000;
        let packet = Pool::new(1).copy(&Frame::from_head(&[0; 60], Offload::NONE)).unwrap();
        let waiting = Waiting { neighbour: 0, ingress: PortIndex(0), until: later + PATIENCE, packet };
        assert!(!waiting.is_over(later) && !waiting.is_over(later + PATIENCE - 1));
        assert!(waiting.is_over(later + PATIENCE) && waiting.is_over(later - 1));
    }
}
