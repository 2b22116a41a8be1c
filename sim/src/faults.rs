//! What goes wrong, drawn from the seed.

use crate::check::Violation;
use crate::guest::hostile::Case;
use crate::underlay::{Intrusion, Weather, intrude};
use crate::world::World;
use buf::{Frame, Offload};

macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal,)+) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Fault {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Fault {
            /// All kinds.
            pub const ALL: &'static [Fault] = &[$(Fault::$variant,)+];

            /// Its name in tables.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Fault::$variant => $name,)+
                }
            }
        }
    };
}

faults! {
    /// A guest does nothing for a while.
    Stall => "guest stalls",
    /// A guest resets its device and starts again in the same memory.
    Reset => "guest resets its device (L-18)",
    /// A guest's VMM goes away and comes again with new memory.
    Reconnect => "front end reconnects",
    /// A front end goes away in the middle of a message, then another comes.
    MidMessage => "disconnects mid-message (L-01)",
    /// A guest's memory is truncated while its rings run.
    Truncate => "memory truncated (G-48, G-49)",
    /// A ring is overwritten with garbage.
    Corrupt => "ring corrupted",
    /// The next kicks of a guest are lost.
    KickLost => "kick lost (L-11)",
    /// A worker is not scheduled for a while.
    WorkerDelayed => "worker delayed",
    /// A control thread holds a queue while workers and guests go on.
    QueueTaken => "queue taken",
    /// A queue is stopped and started again where it stood.
    QueueRestart => "queue stopped and started",
    /// The pool for packets that wait is empty for a while.
    PoolExhausted => "pool exhausted",
    /// A guest's memory is mapped anew while its rings run.
    MemoryMoved => "memory mapped anew (L-04)",
    /// A guest is migrated: what is written to it is logged.
    Migrated => "guest migrated (L-08, L-09)",
    /// A guest gives its receive buffers back one at a time.
    SlowRefill => "guest refills slowly",
    /// A guest sends without pause.
    Flood => "guest floods (G-29)",
    /// Front ends break a rule in their handshake, one after the other, then another comes.
    BadHandshake => "front ends break a rule (G-01, 28, 50)",
    /// The clock of a worker jumps.
    ClockJump => "clock jumps (L-19)",
    /// The underlay loses packets.
    Loss => "underlay loses",
    /// The underlay carries packets twice.
    Doubles => "underlay doubles",
    /// Packets on the underlay overtake each other.
    Reorders => "underlay reorders",
    /// Bytes change under way, and the receiving device notices.
    Damage => "underlay damages",
    /// Bytes change under way, and no device notices.
    Corruption => "underlay corrupts",
    /// The underlay marks packets that met congestion.
    Congestion => "underlay marks congestion",
    /// The underlay carries only shorter packets.
    NarrowLink => "underlay's MTU is less",
    /// Two hosts do not reach each other.
    Partition => "hosts parted",
    /// Somebody on the underlay sends what nobody should.
    Stranger => "stranger on the underlay",
}

impl Fault {
    /// How many kinds, the last ones, happen to the underlay.
    pub const UNDERLAY: usize = 9;
}

/// Turns that others have while a control thread holds a queue.
const TURNS_HELD: usize = 60;

/// Does a fault; `false` when there is nothing it could be done to.
///
/// # Errors
///
/// A checker found something.
pub fn act(world: &mut World, fault: Fault) -> anyhow::Result<bool> {
    let now = world.scene.now;
    let guest = world.random.below(world.scene.guests.len());
    let worker = world.random.below(world.scene.seats.len());
    let until = now + world.random.between(50_000, 500_000);
    world.scene.trace.event(now, fault.name(), &[guest as u64, worker as u64, until]);
    let attached = world.attached[guest].is_some();
    match fault {
        Fault::Stall => world.scene.guests[guest].stalled_until = until,
        Fault::KickLost => world.scene.plugs[guest].lost_kicks += 2 + world.random.below(8) as u32,
        Fault::WorkerDelayed => world.scene.seats[worker].delayed_until = until,
        Fault::SlowRefill => world.scene.guests[guest].slow_until = until,
        Fault::Flood => world.scene.guests[guest].flood_until = until,
        Fault::ClockJump => {
            world.scene.policies.clock_jumped = true;
            let hour = 3_600_000_000_000_i64;
            world.scene.seats[worker].skew =
                world.random.pick(&[0, -500_000_000, 1_000_000, 30_000_000_000, hour]);
        }
        Fault::PoolExhausted => exhaust_pool(world, until),
        Fault::Loss
        | Fault::Doubles
        | Fault::Reorders
        | Fault::Damage
        | Fault::Corruption
        | Fault::Congestion
        | Fault::NarrowLink
        | Fault::Partition
        | Fault::Stranger => return Ok(disturb(world, fault, until)),
        _ if !attached => return Ok(false),
        Fault::Reset => world.restart(guest, true)?,
        Fault::Reconnect => world.restart(guest, false)?,
        Fault::MidMessage => {
            world.unplug(guest)?;
            world.break_off_handshake(guest)?;
            world.restart(guest, false)?;
        }
        Fault::BadHandshake => {
            world.unplug(guest)?;
            for case in [Case::ZeroRing, Case::KickEarly, Case::SealedMemory] {
                world.break_handshake(guest, case)?;
            }
            world.restart(guest, false)?;
        }
        Fault::Truncate => truncate(world, guest, until)?,
        Fault::Corrupt => corrupt(world, guest, until),
        Fault::QueueTaken => hold_queue(world, guest)?,
        Fault::QueueRestart => world.restart_queues(guest)?,
        Fault::Migrated => world.start_migration(guest, until)?,
        Fault::MemoryMoved => world.move_memory(guest)?,
    }
    Ok(true)
}

/// Something goes wrong on the underlay, if there is one.
fn disturb(world: &mut World, fault: Fault, until: u64) -> bool {
    let (now, hosts) = (world.scene.now, world.options.hosts);
    // It lasts for some round trips.
    let until = until.max(now + 20 * world.options.delay);
    let Some(underlay) = &mut world.scene.fabric else { return false };
    let mut weather = if now < underlay.weather.until { underlay.weather } else { Weather::default() };
    let often = world.random.pick(&[50, 200, 500]);
    match fault {
        Fault::Loss => weather.lose = often,
        Fault::Doubles => weather.double = often,
        Fault::Reorders => weather.reorder = often,
        Fault::Damage => weather.damage = often,
        Fault::Corruption => weather.corrupt = often,
        Fault::Congestion => weather.mark = often,
        Fault::NarrowLink => weather.mtu = Some(world.random.pick(&[1280, 1400, 576])),
        Fault::Partition => {
            let one = world.random.below(hosts);
            let other = (one + 1 + world.random.below(hosts - 1)) % hosts;
            underlay.partitions.push((one, other, until));
        }
        _ => {
            for _ in 0..20 + world.random.below(60) {
                let to = world.random.below(hosts);
                let kind = world.random.pick(Intrusion::ALL);
                if let Some(frame) = intrude(&world.scene.network, to, kind, &mut world.random) {
                    world.scene.stats.edge(kind.name(), 1);
                    let after = world.random.below(100_000) as u64;
                    underlay.inject(to, now + after, frame, kind.is_odd());
                }
            }
        }
    }
    weather.until = until;
    underlay.weather = weather;
    true
}

fn exhaust_pool(world: &mut World, until: u64) {
    let pool = world.hosts[world.random.below(world.options.hosts)].control.pool();
    let frame = Frame::from_head(&[0; 60], Offload::NONE);
    let taken: Vec<_> = std::iter::from_fn(|| pool.copy(&frame)).collect();
    match &mut world.held {
        Some((end, held)) => {
            *end = until.max(*end);
            held.extend(taken);
        }
        None => world.held = Some((until, taken)),
    }
}

/// The file behind a guest's memory shrinks under the switch's mapping. The guest is gone from that moment.
fn truncate(world: &mut World, guest: usize, until: u64) -> anyhow::Result<()> {
    world.scene.drain(guest)?;
    let Some(nic) = &world.scene.guests[guest].nic else { return Ok(()) };
    let half = nic.memory.len() as u64 / 2;
    rustix::fs::ftruncate(nic.memory.fd(), half)?;
    // It must not touch its own mapping any more, so it goes.
    world.scene.guests[guest].nic = None;
    tamper(world, guest, until);
    Ok(())
}

/// From now on nobody knows what a guest's rings say, until it starts again.
fn tamper(world: &mut World, guest: usize, until: u64) {
    world.scene.tampered[guest] = true;
    world.scene.accounts[guest].exact = false;
    world.restarts.push((until, guest));
}

fn corrupt(world: &mut World, guest: usize, until: u64) {
    let mut random = world.random.fork();
    if let Some(nic) = &world.scene.guests[guest].nic {
        for _ in 0..1 + random.below(8) {
            let case = crate::guest::hostile::attack(nic, &mut random);
            case.into_iter().for_each(|case| world.scene.stats.case(case));
        }
    }
    tamper(world, guest, until);
}

/// A control thread has a queue of a guest while all workers but one and all guests have many turns.
fn hold_queue(world: &mut World, guest: usize) -> anyhow::Result<()> {
    let Some(port) = world.scene.plugs[guest].port else { return Ok(()) };
    let pair = world.random.below(usize::from(world.options.guests[guest].nic.pairs)) as u16;
    let turns = 1 + world.random.below(TURNS_HELD);
    let home = world.scene.plugs[guest].home;
    let host = world.scene.plugs[guest].host;
    let (control, scene) = (&world.hosts[host].control, &mut world.scene);
    let mut others = || -> Result<(), Violation> {
        for _ in 0..turns {
            for other in (0..scene.guests.len()).filter(|other| *other != guest) {
                scene.guest_turn(other)?;
            }
            // The home worker, which would deliver what is handed over, is the one that waits.
            for worker in (0..scene.seats.len()).filter(|worker| *worker != home || turns < 4) {
                scene.step(worker)?;
            }
        }
        Ok(())
    };
    if world.random.chance(700) {
        control.with_tx(port, pair, |_| others()).transpose()?;
    } else {
        control.with_rx(port, pair, |_| others()).transpose()?;
    }
    Ok(())
}
