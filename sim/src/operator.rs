//! The operator: ports come, go and change while packets flow.

use crate::network::{Routes, station};
use crate::world::World;

/// Makes one change.
///
/// # Errors
///
/// A checker found something.
pub fn change(world: &mut World) -> anyhow::Result<()> {
    let guest = world.random.below(world.scene.guests.len());
    // Who moves goes on moving.
    if world.random.chance(300)
        && let Some(moving) = world.scene.network.ports.iter().position(|port| port.moves.is_some())
    {
        return migrate(world, moving);
    }
    let choice = world.random.below(11);
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
        6..=8 if world.options.hosts > 1 => return migrate(world, guest),
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
    world.scene.trace.event(world.scene.now, name, &[guest as u64]);
    world.scene.stats.edge(name, 1);
    apply(world)
}

/// All ports are there and open.
///
/// # Errors
///
/// A checker found something.
pub fn restore(world: &mut World) -> anyhow::Result<()> {
    for guest in 0..world.scene.guests.len() {
        world.scene.network.change(guest, |port| (port.present, port.up, port.moves) = (true, true, None));
    }
    world.scene.network.change_routes(|routes| *routes = Routes::ALL);
    apply(world)
}

/// A migration begins; the guest of one that began goes on on the other host, or the migration ends where the guest is.
fn migrate(world: &mut World, guest: usize) -> anyhow::Result<()> {
    let port = &world.scene.network.ports[guest];
    let (from, moves) = (port.host, port.moves);
    let name = match moves {
        None => {
            let to = (from + 1 + world.random.below(world.options.hosts - 1)) % world.options.hosts;
            world.scene.network.change(guest, |port| port.moves = Some((from, to)));
            "migration begun"
        }
        Some(_) if world.moves.iter().any(|(_, other)| *other == guest) => return Ok(()),
        Some(_) if world.random.chance(600) => {
            let at = world.scene.now + world.random.below(300_000) as u64;
            return world.leave(guest, at);
        }
        Some(_) => {
            world.scene.network.change(guest, |port| port.moves = None);
            "migration ended"
        }
    };
    world.scene.trace.event(world.scene.now, name, &[guest as u64]);
    world.scene.stats.edge(name, 1);
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
