//! The G cases of rings through the whole switch, in virtual time: a guest does one forbidden thing while two neighbours talk.
//!
//! Every case is judged by the shared oracle (hostile cases, section 1.0), as far as it concerns one process and virtual time:
//!
//! * O1, O7: each turn is a bounded step of a worker, whose bound is checked ([`crate::check::work`]).
//! * O2: the neighbours' ping-pong loses nothing, during and after, and takes at most twice as long and a few bursts (virtual time, so work done).
//! * O3, O4: what anybody receives is somebody's packet, byte for byte; guards and poison of the neighbours' memory are whole.
//! * O5: pool and memory maps are all back.
//! * O6: exactly the expected counter moved: `bad_chain`, `bad_buffer`, or the queue is reported broken, or the packet passed.
//! * O8: after a reset of the same port, traffic passes both ways.
//!
//! The ring's own tests (`vdpa/virtqueue/tests`) try more values; here is shown what they mean to the switch.

mod offer;

pub use offer::{Desc, Offer};

use crate::check::Violation;
use crate::check::verdicts::is_delivery;
use crate::guest::actor::Acted;
use crate::guest::config::NicConfig;
use crate::options::{GuestOptions, Kind, Options};
use crate::world::World;
use engine::DropReason;
use virtio_driver::{RingLayout, features as f};

/// The guest that does harm; its neighbours are 1 and 2.
pub const ATTACKER: usize = 0;
/// Round trips of the neighbours in each part of a case.
const ROUND_TRIPS: usize = 20;
/// Turns a packet may take before it counts as lost.
const TURNS_MAX: usize = 4_000;
/// What a round trip may take besides twice what it usually does, in virtual nanoseconds: a few bursts of somebody else's.
const SLACK_NS: u64 = 20_000;

/// What must come of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Must {
    /// So many chains are refused and counted as `bad_chain`; the queue goes on.
    Refuse(u64),
    /// The queue stops and says so.
    Stop,
    /// So many packets are taken, whatever becomes of them.
    Take(u64),
    /// So many of the four packets for the guest are given to it, the others are lost and counted; the queue goes on.
    Give(u64),
    /// So many are given, the others are lost and counted, and the queue stops and says so.
    GiveAndStop(u64),
    /// So many are given, the others are lost and counted; whether the queue stops depends on what the packets wrote over.
    GiveOverRing(u64),
    /// So many chains are each taken or refused, as the guest changed them meanwhile; the queue goes on.
    TakeOrRefuse(u64),
    /// At least so many packets are taken, and nothing stops.
    TakeAtLeast(u64),
    /// Nothing is taken and nothing stops.
    Nothing,
    /// Whatever its ring then says: the oracle alone judges.
    Survive,
}

/// Rings a case is tried on.
pub const LAYOUTS: [(RingLayout, bool); 4] = [
    (RingLayout::Split, false),
    (RingLayout::Packed, false),
    (RingLayout::Split, true),
    (RingLayout::Packed, true),
];

fn found(name: &str, what: String) -> anyhow::Error {
    Violation::new("hostile", format!("{name}: {what}")).into()
}

fn options(layout: RingLayout, indirect: bool, ring: Ring) -> Options {
    // With offloads the net header means something.
    let mut features = f::VERSION_1 | f::NET_CSUM;
    if layout == RingLayout::Packed {
        features |= f::RING_PACKED;
    }
    if indirect {
        features |= f::INDIRECT_DESC;
    }
    let nic = NicConfig {
        features,
        size: 64,
        pairs: 1,
        polls: false,
        odd_layouts: false,
        rx_buffer: 2048,
        rx_buffers: 64,
        rx_descriptors: 1,
    };
    // The ring that is attacked is empty before.
    let attacked = NicConfig { rx_buffers: if ring == Ring::Receive { 0 } else { nic.rx_buffers }, ..nic };
    let guest = GuestOptions {
        kind: Kind::Honest,
        host: 0,
        vpc: 0,
        subnet: 0,
        filtered: false,
        nic,
        handshake: false,
        regions: 1,
        think: 10_000,
        burst: 1,
        refill: 64,
        odd: 0,
        large: 0,
    };
    Options {
        seed: 1,
        steps: 0,
        packets: 0,
        hosts: 1,
        underlay_v6: false,
        uplink_pairs: 1,
        offloads: crate::options::Offloads::None,
        delay: 0,
        served: false,
        foreign: false,
        workers: 1,
        pool_chunks: 64,
        guests: vec![GuestOptions { kind: Kind::Hostile, nic: attacked, ..guest }, guest, guest],
        fault_every: u64::MAX,
        change_every: u64::MAX,
        fault_weights: Vec::new(),
    }
}

/// Which ring of the guest is attacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// The one packets come from.
    Transmit,
    /// The one packets go to.
    Receive,
}

/// A case on its way.
pub struct Case {
    /// The host.
    pub world: World,
    name: String,
    ring: Ring,
}

/// What was counted at one moment.
#[derive(Clone, Copy, Debug)]
struct Counted {
    refused: u64,
    taken: u64,
    given: u64,
    broken: u64,
    /// Packets of the neighbour for the guest that were lost in delivery.
    lost: u64,
}

impl Case {
    /// Three guests that are attached and silent.
    ///
    /// # Errors
    ///
    /// The system gives no memory.
    pub fn new(name: &str, layout: RingLayout, indirect: bool, ring: Ring) -> anyhow::Result<Self> {
        let mut world = World::new(options(layout, indirect, ring), None, false)?;
        world.scene.guests.iter_mut().for_each(|guest| guest.quiet = true);
        let name = format!("{name}, {ring:?}, {layout:?}{}", if indirect { ", indirect" } else { "" });
        let mut case = Self { world, name, ring };
        case.turns(60)?;
        Ok(case)
    }

    fn turns(&mut self, count: usize) -> anyhow::Result<()> {
        (0..count).try_for_each(|_| self.world.turn())
    }

    /// One packet; how long it took, in virtual nanoseconds.
    fn deliver(&mut self, from: usize, to: usize) -> anyhow::Result<u64> {
        let began = self.world.scene.now;
        let entry = self.send(from, to)?;
        for _ in 0..TURNS_MAX {
            self.turns(1)?;
            if self.world.scene.ledger.has_arrived(entry) {
                return Ok(self.world.scene.now - began);
            }
        }
        Err(found(&self.name, format!("a packet of guest {from} to guest {to} is lost")))
    }

    /// Sends one packet as soon as there is room (what its stack answers to others may fill the ring): its number.
    fn send(&mut self, from: usize, to: usize) -> anyhow::Result<usize> {
        for _ in 0..TURNS_MAX {
            let scene = &mut self.world.scene;
            let mut acted = Acted::default();
            let entry = scene.ledger.len();
            let sent = scene.guests[from].send_plain(&scene.network, to, &mut acted);
            scene.account(from, acted)?;
            if sent {
                scene.again_guest(from, 1_000);
                return Ok(entry);
            }
            self.turns(1)?;
        }
        let what = format!("guest {from} has no room to send: its buffers do not come back");
        Err(found(&self.name, what))
    }

    /// Round trips of the bystanders; how long the slowest took.
    fn ping_pong(&mut self) -> anyhow::Result<u64> {
        let mut slowest = 0;
        for _ in 0..ROUND_TRIPS {
            slowest = slowest.max(self.deliver(1, 2)? + self.deliver(2, 1)?);
        }
        Ok(slowest)
    }

    fn counted(&self) -> Counted {
        let totals = self.world.scene.accounts[ATTACKER].totals();
        let neighbour = self.world.scene.accounts[1].totals();
        let lost = neighbour.drops.iter().filter(|(reason, _)| is_delivery(*reason));
        let refused = totals.drops.iter().find(|(reason, _)| *reason == DropReason::BadChain);
        let edges = &self.world.scene.stats.edges;
        Counted {
            refused: refused.map_or(0, |(_, count)| *count) + totals.bad_buffers,
            taken: totals.rx_packets,
            given: totals.tx_packets,
            broken: edges.get("queue broke").copied().unwrap_or(0),
            lost: lost.map(|(_, count)| *count).sum(),
        }
    }

    /// Does `harm` and judges by the oracle and by `must`.
    ///
    /// # Errors
    ///
    /// What went wrong.
    pub fn judge(
        mut self,
        must: Must,
        harm: impl FnOnce(&mut World) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let usual = self.ping_pong()?;
        let before = self.counted();
        harm(&mut self.world)?;
        if self.ring == Ring::Receive {
            self.send_four()?;
        }
        let worst = self.ping_pong()?.max(self.ping_pong()?);
        let after = self.counted();
        // The queue's end is noticed by the control side; its restart belongs to the recovery.
        self.check(must, before, after)?;
        if worst > 2 * usual + SLACK_NS {
            let what = format!("the bystanders' round trip takes {worst} ns, {usual} before");
            return Err(found(&self.name, what));
        }
        self.recover()
    }

    /// Four packets for the guest, whatever becomes of them.
    fn send_four(&mut self) -> anyhow::Result<()> {
        let scene = &mut self.world.scene;
        let mut acted = Acted::default();
        for _ in 0..4 {
            scene.guests[1].send_plain(&scene.network, ATTACKER, &mut acted);
        }
        scene.account(1, acted)?;
        scene.again_guest(1, 1_000);
        self.turns(40)
    }

    fn check(&self, must: Must, before: Counted, after: Counted) -> anyhow::Result<()> {
        let refused = after.refused - before.refused;
        let (taken, broken) = (after.taken - before.taken, after.broken - before.broken);
        let (given, lost) = (after.given - before.given, after.lost - before.lost);
        let right = match must {
            Must::Refuse(count) => (refused, taken, broken) == (count, 0, 0),
            Must::Stop => broken == 1,
            Must::Take(count) => (taken, refused, broken) == (count, 0, 0),
            Must::Give(count) => (given, lost, broken) == (count, 4 - count, 0),
            Must::GiveAndStop(count) => (given, lost, broken) == (count, 4 - count, 1),
            Must::GiveOverRing(count) => (given, lost) == (count, 4 - count) && broken <= 1,
            Must::TakeOrRefuse(count) => taken + refused == count && broken == 0,
            Must::TakeAtLeast(count) => taken >= count && broken == 0,
            Must::Nothing => taken + refused + broken == 0,
            Must::Survive => true,
        };
        if right {
            return Ok(());
        }
        let what = format!(
            "must {must:?}, but {refused} chains refused, {taken} packets taken, {given} given, {lost} lost, {broken} queues stopped"
        );
        Err(found(&self.name, what))
    }

    /// The port works again after a reset, and nothing is missing.
    fn recover(mut self) -> anyhow::Result<()> {
        let world = &mut self.world;
        world.restarts.clear();
        // From now on the guest is what it should have been.
        let guest = &mut world.scene.guests[ATTACKER];
        guest.options.nic.rx_buffers = 64;
        (guest.options.kind, guest.quiet, guest.flood_until) = (Kind::Honest, true, 0);
        // What its rings held is nothing that its driver knows.
        world.scene.tampered[ATTACKER] = true;
        world.restart(ATTACKER, false)?;
        self.turns(60)?;
        self.deliver(ATTACKER, 1)?;
        self.deliver(2, ATTACKER)?;
        self.ping_pong()?;
        self.world.close_books()
    }
}

/// Tries a case on all layouts of the transmit ring.
///
/// # Errors
///
/// What went wrong, and on which layout.
pub fn on_all(
    name: &str,
    must: Must,
    harm: impl Fn(&mut Offer<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    LAYOUTS.iter().try_for_each(|(layout, indirect)| on(name, *layout, *indirect, must, &harm))
}

/// Tries a case on one layout of the transmit ring.
///
/// # Errors
///
/// What went wrong.
pub fn on(
    name: &str,
    layout: RingLayout,
    indirect: bool,
    must: Must,
    harm: impl Fn(&mut Offer<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    tried(name, (layout, indirect, Ring::Transmit), must, harm)
}

/// Tries a case on all layouts of the receive ring, for which four packets come afterwards.
///
/// # Errors
///
/// What went wrong, and on which layout.
pub fn on_receive(
    name: &str,
    must: Must,
    harm: impl Fn(&mut Offer<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    LAYOUTS
        .iter()
        .try_for_each(|(layout, indirect)| tried(name, (*layout, *indirect, Ring::Receive), must, &harm))
}

/// Tries a case on one layout of the receive ring.
///
/// # Errors
///
/// What went wrong.
pub fn on_receive_one(
    name: &str,
    layout: RingLayout,
    indirect: bool,
    must: Must,
    harm: impl Fn(&mut Offer<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    tried(name, (layout, indirect, Ring::Receive), must, harm)
}

fn tried(
    name: &str,
    (layout, indirect, ring): (RingLayout, bool, Ring),
    must: Must,
    harm: impl Fn(&mut Offer<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    Case::new(name, layout, indirect, ring)?.judge(must, |world| {
        let mut offer = Offer::new(world, indirect, ring)?;
        harm(&mut offer)?;
        offer.wake();
        Ok(())
    })
}
