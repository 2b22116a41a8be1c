//! One seed from beginning to end: a phase with faults, then one in which every legal flow must pass.

use crate::check::Violation;
use crate::faults::Fault;
use crate::guest::actor::Acted;
use crate::options::Options;
use crate::plant::Plant;
use crate::scene::Stats;
use crate::world::World;

/// Virtual time in which every legal flow must pass after the faults stopped, in nanoseconds.
pub const LIVENESS_NS: u64 = 5_000_000_000;
/// How often a probe is sent until it arrives, in nanoseconds.
const PROBE_EVERY: u64 = 50_000_000;
/// Steps after which a run that does not get its packets ends anyway.
const STEPS_MAX: u64 = 60_000;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Digest of everything that happened.
    pub digest: u64,
    /// Numbers.
    pub stats: Stats,
    /// What a checker found.
    pub violation: Option<Violation>,
}

impl Outcome {
    /// Whether the run had the content a run must have: steps, packets, faults and kinds of them.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let faults: u64 = self.stats.faults.values().sum();
        self.stats.steps >= 2_000
            && self.stats.packets >= 5_000
            && faults >= 5
            && self.stats.faults.len() >= 3
    }
}

/// Runs a seed.
///
/// # Errors
///
/// The system gives no memory or descriptors; findings of checkers are in the outcome.
pub fn run(options: Options, plant: Option<Plant>, print: bool) -> anyhow::Result<Outcome> {
    let seed = options.seed;
    let mut world = World::new(options, plant, print)?;
    let violation = match all(&mut world) {
        Ok(()) => None,
        Err(error) => Some(error.downcast::<Violation>()?),
    };
    let stats = std::mem::take(&mut world.scene.stats);
    Ok(Outcome { seed, digest: world.scene.trace.digest(), stats, violation })
}

fn all(world: &mut World) -> anyhow::Result<()> {
    with_faults(world)?;
    settle(world)?;
    probe(world)?;
    world.close_books()
}

/// Steps until it is time to look at the options again.
fn turn(world: &mut World) -> anyhow::Result<()> {
    if world.scene.turn()? {
        world.control_turn()?;
    }
    Ok(())
}

fn with_faults(world: &mut World) -> anyhow::Result<()> {
    let (mut next_fault, mut next_change) = (world.options.fault_every, world.options.change_every);
    loop {
        turn(world)?;
        let (steps, packets) = (world.scene.stats.steps, world.scene.stats.packets);
        if steps >= next_fault {
            next_fault = steps + world.random.between(1, 2 * world.options.fault_every);
            let fault = draw_fault(world);
            if world.do_fault(fault)? {
                world.scene.stats.fault(fault.name());
            }
        }
        if steps >= next_change {
            next_change = steps + world.random.between(1, 2 * world.options.change_every);
            crate::operator::change(world)?;
        }
        let faults: u64 = world.scene.stats.faults.values().sum();
        let full = steps >= world.options.steps
            && packets >= world.options.packets
            && faults >= 5
            && world.scene.stats.faults.len() >= 3;
        if full || steps >= STEPS_MAX {
            return Ok(());
        }
    }
}

fn draw_fault(world: &mut World) -> Fault {
    let total: u32 = world.options.fault_weights.iter().sum();
    let mut at = world.random.below(total as usize) as u32;
    for (fault, weight) in Fault::ALL.iter().zip(&world.options.fault_weights) {
        if at < *weight {
            return *fault;
        }
        at -= weight;
    }
    Fault::Stall
}

/// The faults stop; the operator puts everything back.
fn settle(world: &mut World) -> anyhow::Result<()> {
    crate::operator::restore(world)?;
    let now = world.scene.now;
    for guest in &mut world.scene.guests {
        guest.quiet = true;
        guest.stalled_until = now;
        guest.slow_until = now;
        guest.flood_until = now;
    }
    for worker in &mut world.scene.seats {
        worker.delayed_until = now;
        worker.skew = 0;
    }
    world.scene.plugs.iter_mut().for_each(|plug| plug.lost_kicks = 0);
    let until = now + 20_000_000;
    while world.scene.now < until || !world.is_settled() {
        turn(world)?;
    }
    Ok(())
}

struct Probe {
    from: usize,
    to: usize,
    sent: Vec<usize>,
    pings: u64,
}

/// Every legal flow passes: from each sound guest to each neighbour that reads, as a packet and through the stacks.
fn probe(world: &mut World) -> anyhow::Result<()> {
    let sound = |world: &World, guest: usize| world.scene.guests[guest].is_sound();
    let mut probes = Vec::new();
    for from in (0..world.scene.guests.len()).filter(|guest| sound(world, *guest)) {
        for to in world.scene.network.neighbours(from).into_iter().filter(|guest| sound(world, *guest)) {
            probes.push(Probe { from, to, sent: Vec::new(), pings: 0 });
        }
    }
    let pings = |world: &World, guest: usize| {
        world.scene.guests[guest].stack.as_ref().map_or(0, |stack| stack.achieved.pings)
    };
    for probe in &mut probes {
        probe.pings = pings(world, probe.from);
    }
    let (deadline, mut next) = (world.scene.now + LIVENESS_NS, world.scene.now);
    loop {
        probes.retain(|probe| {
            !probe.sent.iter().any(|entry| world.scene.ledger.has_arrived(*entry))
                || pings(world, probe.from) == probe.pings
        });
        if probes.is_empty() {
            return check_content(world);
        }
        let now = world.scene.now;
        if now >= deadline {
            let what: Vec<String> =
                probes.iter().map(|probe| format!("{} to {}", probe.from, probe.to)).collect();
            let what =
                format!("no packet passed within 5 s after the faults stopped: guest {}", what.join(", "));
            return Err(Violation::new("liveness", what).into());
        }
        if now >= next {
            next = now + PROBE_EVERY;
            for probe in &mut probes {
                send_probe(world, probe)?;
            }
        }
        turn(world)?;
    }
}

fn send_probe(world: &mut World, probe: &mut Probe) -> anyhow::Result<()> {
    let scene = &mut world.scene;
    let guest = &mut scene.guests[probe.from];
    let mut acted = Acted::default();
    guest.send_plain(&scene.network, probe.to, &mut acted);
    let (v6, to) = (guest.random.chance(500), scene.network.ports[probe.to].station);
    if let Some(stack) = &mut guest.stack {
        stack.start(crate::guest::stack::Task::Ping(to.ip(v6)));
    }
    let before = scene.ledger.len();
    let sent = acted.sent.len();
    let from = probe.from;
    scene.account(from, acted)?;
    probe.sent.extend(before..before + sent);
    scene.again_guest(from, 1_000);
    Ok(())
}

/// What stacks received was right.
fn check_content(world: &World) -> anyhow::Result<()> {
    for guest in &world.scene.guests {
        let wrong = guest.stack.as_ref().map_or(0, |stack| stack.achieved.wrong);
        if wrong > 0 {
            let what = format!("guest {}: {wrong} bytes or messages arrived changed", guest.index);
            return Err(Violation::new("content", what).into());
        }
    }
    Ok(())
}
