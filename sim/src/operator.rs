//! The operator: ports come, go and change while packets flow.

use crate::network::{Routes, station};
use crate::world::{Move, World};

/// Makes one change.
///
/// # Errors
///
/// A checker found something.
pub fn change(world: &mut World) -> anyhow::Result<()> {
    if !world.scene.network.groups.is_empty() && world.rules.chance(800) {
        change_rules(world)?;
    }
    let guest = world.random.below(world.scene.guests.len());
    if world.options.hosts > 1 && world.random.chance(300) && world.scene.network.ports[guest].present {
        return migrate(world, guest);
    }
    let choice = world.random.below(8);
    let present = world.scene.network.ports[guest].present;
    let name = match choice {
        0 if present => {
            world.scene.network.change(guest, |port| (port.present, port.moves) = (false, None));
            "port removed (L-15)"
        }
        _ if !present => {
            world.scene.network.change(guest, |port| port.present = true);
            "port added (L-16)"
        }
        1 | 2 => {
            world.scene.network.change(guest, |port| port.up = !port.up);
            "port shut down or opened"
        }
        3 => {
            world.scene.network.change(guest, |port| port.vip = !port.vip);
            "allowed addresses changed (L-12)"
        }
        4 | 5 => change_routes(world),
        _ => {
            let subnet = world.scene.network.ports[guest].subnet;
            // A place that nobody has had: late packets cannot be taken for somebody else's.
            let place = 110 + world.random.below(140) as u8;
            let free = world.scene.network.ports.iter().all(|port| port.station != station(subnet, place));
            let past =
                world.scene.network.past.iter().all(|(_, _, port)| port.station != station(subnet, place));
            if !(free && past) {
                return Ok(());
            }
            world.scene.network.change(guest, |port| port.station = station(subnet, place));
            "addresses changed"
        }
    };
    note(world, guest, name);
    apply(world)
}

/// All ports are there and open; migrations come to their end by themselves.
///
/// # Errors
///
/// A checker found something.
pub fn restore(world: &mut World) -> anyhow::Result<()> {
    for guest in 0..world.scene.guests.len() {
        world.scene.network.change(guest, |port| (port.present, port.up) = (true, true));
    }
    world.scene.network.change_routes(|routes| *routes = Routes::ALL);
    world.scene.network.open_groups();
    apply(world)
}

/// A migration begins; of one that began, the guest goes to the other host, once more perhaps.
fn migrate(world: &mut World, guest: usize) -> anyhow::Result<()> {
    let (port, now) = (&world.scene.network.ports[guest], world.scene.now);
    if port.moves.is_some() {
        world.moves.push((now, guest, Move::Leave));
        return Ok(());
    }
    let from = port.host;
    let to = (from + 1 + world.random.below(world.options.hosts - 1)) % world.options.hosts;
    world.scene.network.change(guest, |port| port.moves = Some((from, to)));
    note(world, guest, "migration begun");
    world.plan_migration(guest);
    apply(world)
}

/// A migration ends with the guest where it is.
///
/// # Errors
///
/// A checker found something.
pub fn end_migration(world: &mut World, guest: usize) -> anyhow::Result<()> {
    // Who has left comes first.
    let leaving =
        |world: &World| world.moves.iter().any(|(_, other, step)| *other == guest && *step == Move::GoOn);
    if world.scene.network.ports[guest].moves.is_none() {
        return Ok(());
    }
    if leaving(world) {
        world.moves.push((world.scene.now + 200_000, guest, Move::End));
        return Ok(());
    }
    world.scene.network.change(guest, |port| port.moves = None);
    note(world, guest, "migration ended");
    apply(world)
}

fn note(world: &mut World, guest: usize, name: &'static str) {
    world.scene.trace.event(world.scene.now, name, &[guest as u64]);
    world.scene.stats.edge(name, 1);
}

/// Changes rules, or who is under which.
fn change_rules(world: &mut World) -> anyhow::Result<()> {
    let (network, rules) = (&mut world.scene.network, &mut world.rules);
    let guest = rules.below(network.ports.len());
    let name = match rules.below(10) {
        0..=2 => {
            let groups = network.some_groups(network.ports[guest].subnet.0, rules);
            network.change(guest, |port| port.groups.iter_mut().for_each(|own| own.clone_from(&groups)));
            "port moved to other groups"
        }
        3 => {
            let is_free = network.ports[guest].groups.is_none();
            network.change(guest, |port| port.groups = is_free.then(Vec::new));
            "port put under rules, or out"
        }
        _ => network.change_some_group(rules),
    };
    note(world, guest, name);
    apply(world)
}

/// Makes a route or a peering, or takes it away.
fn change_routes(world: &mut World) -> &'static str {
    let choice = world.random.below(3);
    let mut name = "";
    world.scene.network.change_routes(|routes| {
        let which = match choice {
            0 => (&mut routes.peered, "VPCs peered or parted"),
            1 => (&mut routes.routed, "route to a port set or removed"),
            _ => (&mut routes.blackhole, "blackhole set or removed"),
        };
        *which.0 = !*which.0;
        name = which.1;
    });
    name
}

fn apply(world: &mut World) -> anyhow::Result<()> {
    if world.options.hosts > 1 {
        // What is on its way between hosts may go another way from now on, and has no order with what comes after it.
        world.scene.ledger.moved();
    }
    world.apply()?;
    world.scene.network.drop_holders();
    // A guest learns its new addresses from its operator.
    for guest in 0..world.scene.guests.len() {
        let station = world.scene.network.ports[guest].station;
        let actor = &mut world.scene.guests[guest];
        // One that is off learns them when it starts.
        let moved = std::mem::replace(&mut actor.station, station) != station;
        if moved && actor.nic.is_some() {
            world.restart(guest, true)?;
        }
    }
    Ok(())
}
