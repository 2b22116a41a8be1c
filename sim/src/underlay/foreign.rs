//! Tunnel end points that are no towpathd: one does what it should, the other lies.

use crate::net::frame::{Fill, Flow, UDP, arp, gratuitous, icmpv6, packet};
use crate::net::read::{self, Neighbour, neighbour};
use crate::net::tunnel::{Outer, wrap};
use crate::net::{Mac, Station};
use crate::network::{Network, PortView, vni};
use crate::random::Random;
use std::net::IpAddr;

/// What the tunnel end point at `place` answers to a frame on the link: who asks for it is told.
#[must_use]
pub fn answer(network: &Network, place: usize, frame: &[u8]) -> Option<(usize, Vec<u8>)> {
    let own = network.vtep(place);
    let Some(Neighbour::Asks(asked)) = neighbour(frame) else { return None };
    let (_, asker) = read::macs(frame)?;
    let to = network.hosts.iter().position(|host| host.mac == asker)?;
    let address = network.hosts[to].address;
    (asked == own.address).then_some(())?;
    let reply = match (own.address, address) {
        (IpAddr::V4(own_address), IpAddr::V4(address)) => {
            arp(asker, own.mac, 2, (own.mac, own_address), (asker, address))
        }
        (IpAddr::V6(own_address), IpAddr::V6(address)) => {
            let mut body = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
            body.extend(own_address.octets());
            body.extend([2, 1]);
            body.extend(own.mac);
            icmpv6(asker, own.mac, own_address, address, 255, &body)
        }
        _ => return None,
    };
    Some((to, reply))
}

/// What somebody behind the tunnel end point at `place` sends: to which host, and the frame. One that lies (the last) does so at times.
pub fn speak(network: &Network, place: usize, random: &mut Random) -> Option<(usize, Vec<u8>)> {
    let mine: Vec<_> = network.endpoints.iter().filter(|endpoint| endpoint.vtep == place).collect();
    let endpoint = mine.get(random.below(mine.len()))?;
    let vpc = endpoint.subnet.0;
    let reached = |port: &&PortView| {
        let near = port.subnet.0 == vpc || network.peer_of(vpc) == Some(port.subnet.0);
        port.present && port.up && near && network.has_vpc(port.host, vpc)
    };
    let guests: Vec<&PortView> = network.ports.iter().filter(reached).collect();
    let guest = guests.get(random.below(guests.len().max(1)))?;
    let lies = place + 1 == network.hosts.len() + network.foreign.len() && random.chance(700);
    let (own, host) = (network.vtep(place), network.hosts[guest.host]);
    let outer = Outer {
        macs: (host.mac, own.mac),
        addresses: (own.address, host.address),
        port: 50_000 + random.below(1000) as u16,
        class: 0,
        flags: 8,
        policy: 0,
        vni: vni(vpc),
    };
    let (v6, mut from) = (random.chance(500), endpoint.station);
    let mac: Mac = if guest.subnet == endpoint.subnet {
        guest.station.mac
    } else {
        network.gateway(endpoint.subnet).mac
    };
    let to = Station { mac, ..guest.station };
    let mut outer = outer;
    if lies {
        match random.below(5) {
            // In the name of a guest, or of somebody behind another.
            0 => from = network.ports[random.below(network.ports.len())].station,
            1 => from = network.endpoints[random.below(network.endpoints.len())].station,
            // Into another VPC.
            2 => outer.vni = vni(random.below(crate::network::VPCS)),
            // A guest's address is here.
            3 => {
                let claimed = network.ports[random.below(network.ports.len())].station;
                let mac = random.pick(&[claimed.mac, from.mac]);
                return Some((guest.host, wrap(&outer, &gratuitous(mac, claimed.v4), false)));
            }
            // In the name of towpathds' identities.
            _ => (outer.flags, outer.policy) = (0x88, random.number() as u16),
        }
    }
    let mut payload = [0xa5; 64];
    random.fill(&mut payload[..16]);
    let flow = Flow { from, to, v6, protocol: UDP, ports: (30_900, 30_900) };
    let inner = packet(&flow, 1, &payload, Fill::Whole);
    Some((guest.host, wrap(&outer, &inner, false)))
}
