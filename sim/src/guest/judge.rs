//! What should become of a frame, by the network's description.

use crate::check::ledger::Expect;
use crate::net::read::{Neighbour, addresses, hops, macs, neighbour, transport};
use crate::network::{METADATA, Network, Way};
use engine::{DropReason, PuntKind};
use std::net::IpAddr;
use virtio_driver::{Gso, NetHeader};

/// What should become of a well-formed frame that `guest` sends as itself.
#[must_use]
pub fn judge(network: &Network, guest: usize, header: &NetHeader, frame: &[u8]) -> Expect {
    let port = &network.ports[guest];
    let Some((destination, _)) = macs(frame) else { return Expect::Any };
    if !port.present {
        return Expect::Any;
    }
    if !port.up {
        return Expect::Drop(DropReason::PortDown);
    }
    let unicast = destination[0] & 1 == 0;
    let foreign =
        |(source, _): (IpAddr, IpAddr)| !source.is_unspecified() && !port.may_send(port.station.mac, source);
    if addresses(frame).is_some_and(foreign) {
        // `smoltcp` answers as whom it was spoken to, and a hostile neighbour may speak to anybody.
        return Expect::Any;
    }
    match neighbour(frame) {
        Some(Neighbour::Asks(address)) if crate::net::read::sender(frame) == Some(address) => {
            Expect::Drop(DropReason::NeighbourConsumed)
        }
        Some(Neighbour::Asks(address)) if network.is_gateway(port.subnet, address) => Expect::Answer,
        Some(Neighbour::Asks(address)) => match network.by_address(port.host, port.subnet, address) {
            Some(owner) if owner == guest => Expect::Drop(own_address(port.station.mac, address)),
            Some(_) => Expect::Answer,
            None if network.endpoint_at(port.subnet, address).is_some() => Expect::Answer,
            None => Expect::Drop(DropReason::UnknownNeighbour),
        },
        Some(Neighbour::Says(..)) => Expect::Drop(DropReason::NeighbourConsumed),
        None if !unicast => judge_group(destination, frame),
        None if destination == network.gateway(port.subnet).mac => {
            judge_routed(network, guest, header, frame)
        }
        None => match network.by_mac(port.subnet, destination) {
            Some(to) if to == guest => Expect::Drop(DropReason::Hairpin),
            Some(to) => carried(network, guest, to, header, frame),
            None => match network.endpoint_by_mac(port.subnet, destination) {
                Some(endpoint) => fits(network, header, frame, Expect::Away(endpoint)),
                None => Expect::Drop(DropReason::UnknownUnicast),
            },
        },
    }
}

/// Who asks for its own address: an address made from its own MAC address is nobody's else, and not looked up.
fn own_address(mac: [u8; 6], address: IpAddr) -> DropReason {
    if address == IpAddr::V6(crate::net::link_local(mac)) {
        return DropReason::UnknownNeighbour;
    }
    DropReason::NeighbourConsumed
}

/// To all, or a group.
fn judge_group(destination: [u8; 6], frame: &[u8]) -> Expect {
    let Some(at) = transport(frame) else { return Expect::Any };
    let port = frame.get(at.start + 2..at.start + 4).map(|port| u16::from_be_bytes([port[0], port[1]]));
    match (at.protocol, at.addresses.0.is_ipv4(), port) {
        (17, true, Some(67)) => Expect::Punt(PuntKind::Dhcp4),
        (17, false, Some(547)) => Expect::Punt(PuntKind::Dhcp6),
        (58, ..) if frame.get(at.start) == Some(&133) => Expect::Punt(PuntKind::RouterSolicitation),
        (58, ..) => Expect::Drop(DropReason::Multicast),
        _ if destination == [0xff; 6] => Expect::Punt(PuntKind::Broadcast),
        _ => Expect::Drop(DropReason::Multicast),
    }
}

/// To the gateway of the subnet.
fn judge_routed(network: &Network, guest: usize, header: &NetHeader, frame: &[u8]) -> Expect {
    let port = &network.ports[guest];
    let Some((_, destination)) = addresses(frame) else { return Expect::Drop(DropReason::GatewayConsumed) };
    let vpc = port.subnet.0;
    let way = network.way(vpc, destination);
    let found = match way {
        Way::Blackhole => return Expect::Drop(DropReason::Blackhole),
        Way::Connected(vpc) => network.in_vpc(port.host, vpc, destination),
        Way::Hop(router) => Some(router),
        Way::None => None,
    };
    if let (None, Way::Connected(vpc)) = (found, way)
        && let Some(endpoint) = network.endpoint_in(vpc, destination)
    {
        return match hops(frame) {
            Some(2..) => fits(network, header, frame, Expect::Away(endpoint)),
            _ => Expect::AnswerOr(DropReason::HopLimit),
        };
    }
    match found {
        Some(to) if to == guest => Expect::Drop(DropReason::Hairpin),
        Some(_) if hops(frame).is_none_or(|hops| hops <= 1) => Expect::AnswerOr(DropReason::HopLimit),
        Some(to) => carried(network, guest, to, header, frame),
        None if is_own(network, guest, destination) => judge_own(destination, frame),
        None if way == Way::None => Expect::AnswerOr(DropReason::NoRoute),
        None => Expect::AnswerOr(DropReason::UnknownEndpoint),
    }
}

/// Whether the switch itself has the address: a gateway of the VPC, or a service.
fn is_own(network: &Network, guest: usize, address: IpAddr) -> bool {
    let vpc = network.ports[guest].subnet.0;
    network.gateways.keys().any(|subnet| subnet.0 == vpc && network.is_gateway(*subnet, address))
}

/// For the gateway itself.
fn judge_own(destination: IpAddr, frame: &[u8]) -> Expect {
    let Some(at) = transport(frame) else { return Expect::Drop(DropReason::GatewayConsumed) };
    let word =
        |from: usize| frame.get(from..from + 2).map_or(0, |word| u16::from_be_bytes([word[0], word[1]]));
    let first = frame.get(at.start).copied().unwrap_or(0);
    match (at.protocol, word(at.start + 2)) {
        (6, 80) if METADATA.contains(&destination) => Expect::Punt(PuntKind::Metadata),
        (6, 61_440..) if !METADATA.contains(&destination) => Expect::Punt(PuntKind::HealthCheck),
        (17, 67) => Expect::Punt(PuntKind::Dhcp4),
        (17, 547) => Expect::Punt(PuntKind::Dhcp6),
        (1, _) if first == 8 => Expect::Answer,
        (58, _) if first == 128 => Expect::Answer,
        _ => Expect::Drop(DropReason::GatewayConsumed),
    }
}

/// To another guest: to another host only what fits the VPC's MTU.
fn carried(network: &Network, guest: usize, to: usize, header: &NetHeader, frame: &[u8]) -> Expect {
    let (from, to_port) = (&network.ports[guest], &network.ports[to]);
    if from.host == to_port.host && to_port.moves.is_none() {
        return Expect::To(to);
    }
    // Whether it is here or there is known to nobody but the host.
    let unsure = to_port.is_on(from.host);
    match fits(network, header, frame, Expect::To(to)) {
        Expect::To(to) => Expect::To(to),
        _ if unsure => Expect::Any,
        other => other,
    }
}

/// What should become of a frame that goes by tunnel: `expect`, if it fits the VPC's MTU.
fn fits(network: &Network, header: &NetHeader, frame: &[u8], expect: Expect) -> Expect {
    let end = match (header.gso, transport(frame)) {
        (Gso::None, _) | (_, None) => frame.len(),
        (_, Some(at)) => {
            let own = if at.protocol == 6 { usize::from(frame[at.start + 12] >> 4) * 4 } else { 8 };
            at.start + own + usize::from(header.gso_size)
        }
    };
    if end > usize::from(network.mtu) + 14 { Expect::AnswerOr(DropReason::TooBig) } else { expect }
}
