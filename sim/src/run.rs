//! One seed from beginning to end: a phase with faults, then one in which every legal flow must pass.

use crate::check::Violation;
use crate::check::policy::{Flow, Upper, Way};
use crate::faults::Fault;
use crate::guest::actor::Acted;
use crate::guest::stack::Achieved;
use crate::net::frame::{ICMPV6, TCP, UDP};
use crate::options::Options;
use crate::plant::Plant;
use crate::scene::Stats;
use crate::trace::hash;
use crate::world::World;
use std::net::IpAddr;

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
    /// What the guests' programs achieved, all together.
    pub achieved: Achieved,
    /// What a checker found.
    pub violation: Option<Violation>,
}

/// Many runs together.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Runs.
    pub seeds: u64,
    /// Runs in which a checker found something.
    pub failed: u64,
    /// Runs without the content a run must have.
    pub poor: u64,
    /// Their numbers.
    pub stats: Stats,
    /// What guests' programs achieved.
    pub achieved: Achieved,
    /// Digest of their digests.
    pub digest: u64,
}

impl Totals {
    /// Adds a run.
    pub fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.failed += u64::from(outcome.violation.is_some());
        self.poor += u64::from(!outcome.is_full());
        self.stats.add(&outcome.stats);
        self.achieved.add(&outcome.achieved);
        self.digest = hash(&[self.digest.to_le_bytes(), outcome.digest.to_le_bytes()].concat());
    }
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
    let mut achieved = Achieved::default();
    world
        .scene
        .guests
        .iter()
        .filter_map(|guest| guest.stack.as_ref())
        .for_each(|stack| achieved.add(&stack.achieved));
    Ok(Outcome { seed, digest: world.scene.trace.digest(), stats, achieved, violation })
}

fn all(world: &mut World) -> anyhow::Result<()> {
    with_faults(world)?;
    settle(world)?;
    probe(world)?;
    world.close_books()
}

fn with_faults(world: &mut World) -> anyhow::Result<()> {
    let (mut next_fault, mut next_change) = (world.options.fault_every, world.options.change_every);
    loop {
        world.turn()?;
        let (steps, packets) = (world.scene.stats.steps, world.scene.stats.packets);
        if steps >= next_fault {
            next_fault = steps + world.random.between(1, 2 * world.options.fault_every);
            let fault = draw_fault(world);
            if crate::faults::act(world, fault)? {
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
        guest.fresh_stack(now, &world.scene.network);
        guest.stalled_until = now;
        guest.slow_until = now;
        guest.flood_until = now;
    }
    for worker in &mut world.scene.seats {
        worker.delayed_until = now;
        worker.skew = 0;
    }
    world.scene.plugs.iter_mut().for_each(|plug| plug.lost_kicks = 0);
    if let Some(underlay) = &mut world.scene.fabric {
        underlay.calm();
    }
    let until = now + 20_000_000;
    while world.scene.now < until || !world.is_settled() {
        world.turn()?;
    }
    Ok(())
}

/// A flow that must pass.
struct Probe {
    from: usize,
    to: usize,
    what: What,
}

/// What must pass.
enum What {
    /// One of these packets.
    Packets(Vec<usize>),
    /// One of these broadcasts.
    Broadcasts(Vec<usize>),
    /// One of these packets, to an endpoint.
    Endpoint(Vec<usize>),
    /// A ping, and so many were answered before.
    Ping(u64),
    /// Answers of DHCP, and so many of each came before; and a router.
    Services([u64; 4]),
}

/// Every legal flow passes: from each sound guest to each neighbour that reads as a packet, and to the next one through the stacks.
fn probe(world: &mut World) -> anyhow::Result<()> {
    let sound: Vec<usize> =
        (0..world.scene.guests.len()).filter(|guest| world.scene.guests[*guest].is_sound()).collect();
    let mut probes = Vec::new();
    for from in sound.iter().copied() {
        let mut neighbours = world.scene.network.partners(from);
        neighbours.retain(|to| sound.contains(to) && may_talk(world, from, *to));
        let pings = answered(world, from);
        probes.extend(neighbours.iter().map(|to| Probe { from, to: *to, what: What::Packets(Vec::new()) }));
        let next = neighbours.iter().find(|to| **to > from).or(neighbours.first());
        probes.extend(next.map(|to| Probe { from, to: *to, what: What::Ping(pings) }));
        let network = &world.scene.network;
        let near = network.neighbours(from).into_iter().filter(|to| sound.contains(to));
        let all = IpAddr::from([255; 4]);
        let near: Vec<usize> = near.collect();
        for to in near {
            if may_send(world, (from, Some(to)), (false, all), UDP) {
                probes.push(Probe { from, to, what: What::Broadcasts(Vec::new()) });
            }
        }
        let network = &world.scene.network;
        let away: Vec<_> =
            network.endpoints.iter().map(|endpoint| (endpoint.subnet.0, endpoint.station)).collect();
        for (number, (vpc, station)) in away.into_iter().enumerate() {
            let network = &world.scene.network;
            let reached = network.reached_since(network.epoch, network.ports[from].subnet.0, vpc);
            if reached
                && [false, true].iter().all(|v6| may_send(world, (from, None), (*v6, station.ip(*v6)), UDP))
            {
                probes.push(Probe { from, to: number, what: What::Endpoint(Vec::new()) });
            }
        }
        let network = &world.scene.network;
        if network.told(&network.ports[from]).is_some() {
            let before = world.scene.ledger.services.told[from];
            probes.push(Probe { from, to: from, what: What::Services(before) });
        }
    }
    let (deadline, mut next) = (world.scene.now + LIVENESS_NS, world.scene.now);
    loop {
        probes.retain(|probe| !probe.has_passed(world));
        if probes.is_empty() {
            return check_content(world);
        }
        let now = world.scene.now;
        if now >= deadline {
            let what: Vec<String> = probes.iter().map(|probe| probe.text(world)).collect();
            let what =
                format!("no packet passed within 5 s after the faults stopped: guest {}", what.join(", "));
            return Err(Violation::new("liveness", what).into());
        }
        if now >= next {
            next = now + PROBE_EVERY;
            for probe in &mut probes {
                probe.send(world)?;
            }
        }
        world.turn()?;
    }
}

/// Whether rules let a guest send another whatever probes are.
fn may_talk(world: &mut World, from: usize, to: usize) -> bool {
    let station = world.scene.network.ports[to].station;
    let all = [(false, UDP), (false, TCP), (false, 1), (true, UDP), (true, TCP), (true, ICMPV6)];
    all.iter().all(|(v6, protocol)| may_send(world, (from, Some(to)), (*v6, station.ip(*v6)), *protocol))
}

/// Whether rules let a guest send this to an address, and another be sent it.
fn may_send(
    world: &mut World,
    (from, to): (usize, Option<usize>),
    (v6, destination): (bool, IpAddr),
    protocol: u8,
) -> bool {
    let source = world.scene.network.ports[from].station.ip(v6);
    let way = Way { host: 0, from: Some(from), to };
    let uppers: Vec<Upper> = match protocol {
        UDP | TCP => (30_000..30_008).map(|port| Upper::Ports(port, port)).collect(),
        _ => vec![Upper::Echo(0, false)],
    };
    let flow = |upper| Flow { source, destination, protocol, upper };
    uppers.into_iter().all(|upper| world.scene.policies.allows(way, &flow(upper)))
}

/// Pings of a guest that were answered.
fn answered(world: &World, guest: usize) -> u64 {
    world.scene.guests[guest].stack.as_ref().map_or(0, |stack| stack.achieved.pings)
}

impl Probe {
    fn has_passed(&self, world: &World) -> bool {
        let ledger = &world.scene.ledger;
        match &self.what {
            What::Packets(packets) | What::Endpoint(packets) => {
                packets.iter().any(|entry| ledger.has_arrived(*entry))
            }
            What::Broadcasts(packets) => packets.iter().any(|entry| ledger.has_heard(*entry, self.to)),
            What::Ping(before) => answered(world, self.from) > *before,
            What::Services(before) => {
                let told = &ledger.services.told[self.from];
                // Routers answer all together, and seldom: once heard is enough.
                told[3] > 0 && told.iter().zip(before).take(3).all(|(now, before)| now > before)
            }
        }
    }

    fn text(&self, world: &World) -> String {
        let ledger = &world.scene.ledger;
        let taken = |packets: &[usize]| packets.iter().filter(|entry| ledger.entry(**entry).seen).count();
        let Self { from, to, .. } = self;
        match &self.what {
            What::Packets(packets) => {
                format!("{from} to {to} ({} of {} packets taken)", taken(packets), packets.len())
            }
            What::Endpoint(packets) => {
                format!("{from} to endpoint {to} ({} of {} packets taken)", taken(packets), packets.len())
            }
            What::Broadcasts(packets) => {
                format!("{from} to {to} ({} of {} broadcasts taken)", taken(packets), packets.len())
            }
            What::Ping(_) => format!("{from} to {to} (pings)"),
            What::Services(before) => {
                format!("{from} (services: {before:?} before, {:?} now)", ledger.services.told[*from])
            }
        }
    }

    fn send(&mut self, world: &mut World) -> anyhow::Result<()> {
        let scene = &mut world.scene;
        let guest = &mut scene.guests[self.from];
        let mut acted = Acted::default();
        let first = scene.ledger.len();
        match &mut self.what {
            What::Packets(packets) => {
                guest.send_plain(&scene.network, self.to, &mut acted);
                packets.extend(first..first + acted.sent.len());
            }
            What::Broadcasts(packets) => {
                guest.call_all(&scene.network, &mut acted);
                packets.extend(first..first + acted.sent.len());
            }
            What::Endpoint(packets) => {
                guest.send_away(&scene.network, self.to, &mut acted);
                packets.extend(first..first + acted.sent.len());
            }
            What::Services(_) => guest.ask_services(&scene.network, &mut acted),
            What::Ping(_) => {
                let v6 = world.options.seed.is_multiple_of(2);
                let to = scene.network.ports[self.to].station.ip(v6);
                if let Some(stack) = &mut guest.stack {
                    stack.start(crate::guest::stack::Task::Ping(to));
                }
            }
        }
        scene.account(self.from, acted)?;
        scene.again_guest(self.from, 1_000);
        Ok(())
    }
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
