//! Nobody gets what is not for it.
//!
//! A frame is judged by who sent it first: what came through the underlay has its true sender noted beside it, which the switch cannot see. So a packet
//! of one VPC that reaches another is found whatever its headers say.

use super::ledger::Sent;
use super::{Checked, Violation};
use crate::net::read::{addresses, macs};
use crate::net::{Mac, mac_number, tunnel};
use crate::network::{METADATA, Network, PortView, VPCS, is_routed_net, vips, vni};
use std::net::IpAddr;

fn found(what: String) -> Checked {
    Err(Violation::new("isolation", what))
}

/// Checks a frame that guest `to` got against every state its sender's and its own port had since it was sent.
///
/// # Errors
///
/// In no such state was the frame for that guest, from that sender.
pub fn check(network: &Network, sent: &Sent, to: usize, bytes: &[u8]) -> Checked {
    let Some((destination, source)) = macs(bytes) else { return found(format!("guest {to} got a runt")) };
    let senders: Vec<&PortView> = network.since(sent.guest, sent.epoch).collect();
    let receivers: Vec<&PortView> = network.since(to, sent.epoch).collect();
    let ends = addresses(bytes);
    let together = senders.iter().any(|sender| {
        receivers.iter().any(|receiver| {
            let routed = is_routed(network, (sender, sent.epoch), receiver, source, ends);
            (sender.subnet == receiver.subnet || routed) && receiver.station.mac == destination
        })
    });
    if !together {
        return found(format!(
            "guest {to} of {:?} got a frame to {:x} from guest {} of {:?} ({ends:?})",
            network.ports[to].subnet,
            mac_number(destination),
            sent.guest,
            network.ports[sent.guest].subnet
        ));
    }
    let origin = ends.map(|(source, _)| source);
    let by_gateway = |sender: &PortView| {
        receivers.iter().any(|receiver| is_routed(network, (sender, sent.epoch), receiver, source, ends))
    };
    let honest = senders.iter().any(|sender| match origin {
        Some(address) => {
            let source = if by_gateway(sender) { sender.station.mac } else { source };
            sender.may_send(source, address) || (address.is_unspecified() && source == sender.station.mac)
        }
        None => source == sender.station.mac,
    });
    if !honest {
        return found(format!(
            "guest {to} got a frame of guest {} from {:x} {origin:?}",
            sent.guest,
            mac_number(source)
        ));
    }
    Ok(())
}

/// Whether a frame from `source` went by the gateway, from a sender of the same VPC or a peer of it to the receiver's own address, or one behind it.
fn is_routed(
    network: &Network,
    (sender, epoch): (&PortView, u64),
    receiver: &PortView,
    source: Mac,
    ends: Option<(IpAddr, IpAddr)>,
) -> bool {
    let (from, to) = (sender.subnet.0, receiver.subnet.0);
    source == network.gateway(receiver.subnet).mac
        && ends.is_some_and(|(_, address)| {
            let holds = receiver.owns(address) || receiver.vip && vips(receiver.subnet).contains(&address);
            let routes = receiver.router && from == to && is_routed_net(address);
            holds && network.reached_since(epoch, from, to)
                || routes && network.routes_since(epoch).any(|routes| routes.routed)
        })
}

/// Checks a frame that a stranger on the underlay sent to `host` and guest `to` got: `frame` is all of it.
///
/// # Errors
///
/// It did not come from a tunnel end point that may send in that guest's VPC, in the name of somebody who lives there.
pub fn check_stranger(network: &Network, (sent, host): (&Sent, usize), to: usize, frame: &[u8]) -> Checked {
    let Some((outer, at)) = tunnel::open(frame) else {
        return found(format!("guest {to} got what a stranger sent by no tunnel"));
    };
    let inner = &frame[at..];
    let known = network.vtep_at(outer.addresses.0).filter(|other| *other != host);
    let (Some(from), Some((destination, _))) = (known, macs(inner)) else {
        return found(format!("guest {to} got what {} sent, which is nobody's tunnel", outer.addresses.0));
    };
    let receives = network.since(to, sent.epoch).any(|receiver| {
        let direct = vni(receiver.subnet.0) == outer.vni && receiver.station.mac == destination;
        direct && receiver.is_on(host)
            || goes_by_gateway(network, (sent.epoch, from), receiver, (&outer, inner))
    });
    if !receives {
        return found(format!(
            "guest {to} of {:?} got a frame to {:x} that came with VNI {:x}",
            network.ports[to].subnet,
            mac_number(destination),
            outer.vni
        ));
    }
    let Some((source, _)) = addresses(inner) else { return Ok(()) };
    if network.is_foreign(from) {
        let lives = (0..VPCS)
            .any(|vpc| vni(vpc) == outer.vni && network.endpoint_lives_at(sent.epoch, vpc, source, from));
        let address = outer.addresses.0;
        let what = format!(
            "guest {to} got a packet from {source}, who does not live at {address}, which is no host"
        );
        return if lives { Ok(()) } else { found(what) };
    }
    // Whom the VPC of that number knows.
    let is_of = |vpc: usize| {
        (0..VPCS).any(|own| vni(own) == outer.vni && network.reached_since(sent.epoch, own, vpc))
    };
    let lives = |guest: usize| {
        network
            .since(guest, sent.epoch)
            .all(|port| (port.up && port.present) && is_of(port.subnet.0) && port.owns(source))
    };
    let there = |guest: usize| network.since(guest, sent.epoch).any(|port| port.is_on(from));
    let owners: Vec<usize> = (0..network.ports.len()).filter(|guest| lives(*guest)).collect();
    if !owners.is_empty()
        && !owners.iter().any(|guest| there(*guest))
        // The host that it came from sends on what others still send there.
        && !network.moved_between(to, (from, host))
        && !crate::network::is_link_local(source)
    {
        return found(format!(
            "guest {to} got a packet from {source}, who does not live at {}",
            outer.addresses.0
        ));
    }
    Ok(())
}

/// Whether what came from the tunnel end point `from`, which is no towpathd, was for a gateway, to be routed to the receiver.
fn goes_by_gateway(
    network: &Network,
    (epoch, from): (u64, usize),
    receiver: &PortView,
    (outer, inner): (&tunnel::Outer, &[u8]),
) -> bool {
    let Some(((mac, _), (_, address))) = macs(inner).zip(addresses(inner)) else { return false };
    let by = |(subnet, gateway): (&(usize, usize), &Mac)| {
        *gateway == mac
            && vni(subnet.0) == outer.vni
            && network.reached_since(epoch, subnet.0, receiver.subnet.0)
    };
    let holds = receiver.owns(address) || receiver.vip && vips(receiver.subnet).contains(&address);
    network.is_foreign(from) && holds && network.gateways.iter().any(by)
}

/// Checks that guest `to` may get a broadcast.
///
/// # Errors
///
/// It was of another subnet.
pub fn check_broadcast(network: &Network, sent: &Sent, to: usize) -> Checked {
    let together = network
        .since(sent.guest, sent.epoch)
        .any(|sender| network.since(to, sent.epoch).any(|receiver| receiver.subnet == sender.subnet));
    if together { Ok(()) } else { found(format!("guest {to} got a broadcast of guest {}", sent.guest)) }
}

/// Checks that `address` is at `mac` in the subnet of guest `to`, in some state since `epoch`.
///
/// # Errors
///
/// It never was.
pub fn check_answer(network: &Network, to: usize, epoch: u64, address: IpAddr, mac: Mac) -> Checked {
    let subnets: Vec<_> = network.since(to, epoch).map(|port| port.subnet).collect();
    let holds = |port: &PortView| {
        subnets.contains(&port.subnet) && port.station.mac == mac && (port.owns(address) || port.vip)
    };
    let behind = network.endpoints.iter().any(|endpoint| {
        subnets.contains(&endpoint.subnet) && endpoint.station.mac == mac && endpoint.owns(address)
    });
    let gateway = subnets
        .iter()
        .any(|subnet| network.gateway(*subnet).mac == mac && network.is_gateway(*subnet, address));
    let right = (0..network.ports.len()).any(|guest| network.since(guest, epoch).any(holds));
    if (right || behind) && !METADATA.contains(&address) || gateway {
        Ok(())
    } else {
        found(format!("guest {to} is told that {address} is at {:x}", mac_number(mac)))
    }
}
