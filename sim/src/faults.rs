//! What goes wrong, drawn from the seed.

use crate::world::World;

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
    /// A guest resets its device and starts again.
    Reset => "guest resets its device",
    /// The next kicks of a guest are lost.
    KickLost => "kick lost",
    /// A worker is not scheduled for a while.
    WorkerDelayed => "worker delayed",
    /// A guest gives its receive buffers back one at a time.
    SlowRefill => "guest refills slowly",
    /// A guest sends without pause.
    Flood => "guest floods",
    /// The clock of a worker jumps.
    ClockJump => "clock jumps",
}

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
    match fault {
        Fault::Stall => world.scene.guests[guest].stalled_until = until,
        Fault::Reset => {
            if world.scene.plugs[guest].port.is_none() {
                return Ok(false);
            }
            world.restart(guest)?;
        }
        Fault::KickLost => world.scene.plugs[guest].lost_kicks += 1 + world.random.below(3) as u32,
        Fault::WorkerDelayed => world.scene.seats[worker].delayed_until = until,
        Fault::SlowRefill => world.scene.guests[guest].slow_until = until,
        Fault::Flood => world.scene.guests[guest].flood_until = until,
        Fault::ClockJump => {
            let hour = 3_600_000_000_000_i64;
            world.scene.seats[worker].skew =
                world.random.pick(&[0, -500_000_000, 1_000_000, 30_000_000_000, hour]);
        }
    }
    Ok(true)
}
