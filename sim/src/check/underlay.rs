//! The underlay's side: what leaves a host must be right outside, and what should become of what comes in.

use super::ledger::{Expect, Sent};
use super::{Checked, Violation};
use crate::net::frame::{ICMPV6, UDP};
use crate::net::read::{self, Neighbour, addresses, ethertype, macs, neighbour, transport};
use crate::net::tunnel::{self, Outer};
use crate::network::{Network, PortView, VPCS, Way, vni};
use engine::{DropReason, PuntKind};
use std::net::IpAddr;

/// The identities of ports under rules and of others, in the group policy field.
const IDENTITIES: [u16; 2] = [1, 2];

fn found(what: String) -> Checked {
    Err(Violation::new("underlay", what))
}

/// Checks a tunnel packet that leaves `host`: `sent` is the frame in it as its sender made it, nothing if that is no guest.
///
/// # Errors
///
/// Its outer headers are wrong, or it goes where no port of its VPC is that has the inner destination.
pub fn check_leaving(
    network: &Network,
    host: usize,
    frame: &[u8],
    (outer, at): (&Outer, usize),
    (sent, lies): (Option<&Sent>, bool),
) -> Checked {
    let flaw = tunnel::flaw(frame, outer, at);
    if let Some(what) = flaw.filter(|what| !(lies && *what == tunnel::WRONG_SUM)) {
        let head: Vec<String> = frame.iter().take(400).map(|byte| format!("{byte:02x}")).collect();
        return found(format!("host {host} sent a tunnel packet: {what}: {}", head.join("")));
    }
    let (own, to) = (network.hosts[host], network.vtep_at(outer.addresses.1));
    if outer.addresses.0 != own.address || outer.macs.1 != own.mac {
        return found(format!("host {host} sent a tunnel packet from {}", outer.addresses.0));
    }
    let Some(to) = to.filter(|to| *to != host) else {
        return found(format!("host {host} sent a tunnel packet to {}", outer.addresses.1));
    };
    if outer.macs.0 != network.vtep(to).mac {
        return found(format!(
            "host {host} sent a tunnel packet for host {to} to {:02x?}, another's MAC address",
            outer.macs.0
        ));
    }
    let inner = &frame[at..];
    let ecn = read::traffic_class(inner).map_or(0, |class| class & 3);
    if outer.class != ecn {
        return found(format!("the outer traffic class is {:x}, the inner ECN {ecn}", outer.class));
    }
    if outer.flags & 0x80 != 0 && network.is_foreign(to) {
        return found(format!("host {host} tells {}, which is no host, who sends", outer.addresses.1));
    }
    let Some(sent) = sent else { return Ok(()) };
    let identity = |sender: &PortView| IDENTITIES[usize::from(sender.groups.is_none())];
    let right = |sender: &PortView| outer.policy == identity(sender);
    if outer.flags & 0x80 != 0 && !network.since(sent.guest, sent.epoch).any(right) {
        return found(format!("the group policy field of guest {} says {}", sent.guest, outer.policy));
    }
    let Some((destination, _)) = macs(inner) else { return Ok(()) };
    let right = network.since(sent.guest, sent.epoch).any(|sender| {
        let from = sender.subnet.0;
        if destination[0] & 1 == 1 {
            return vni(from) == outer.vni;
        }
        let behind = network.endpoints.iter().any(|endpoint| {
            let there = endpoint.vtep == to && endpoint.station.mac == destination;
            let vpc = endpoint.subnet.0;
            there && vni(vpc) == outer.vni && network.reached_since(sent.epoch, from, vpc)
        });
        behind
            || (0..network.ports.len()).any(|guest| {
                network.since(guest, sent.epoch).any(|port| {
                    (port.is_on(to) && port.station.mac == destination)
                        && vni(port.subnet.0) == outer.vni
                        && network.reached_since(sent.epoch, from, port.subnet.0)
                })
            })
    });
    if right {
        return Ok(());
    }
    found(format!(
        "host {host} sent a packet of guest {} of {:?} to host {to} with VNI {:x}, where its receiver is not",
        sent.guest, network.ports[sent.guest].subnet, outer.vni
    ))
}

/// Whether a frame says where a station is: gratuitous ARP, unsolicited neighbour advertisement, RARP.
#[must_use]
pub fn is_announcement(frame: &[u8]) -> bool {
    let rarp = ethertype(frame).is_some_and(|(kind, _)| kind == 0x8035);
    let says = match neighbour(frame) {
        Some(Neighbour::Asks(address)) => read::sender(frame) == Some(address),
        Some(Neighbour::Says(..)) => true,
        None => false,
    };
    rarp || says
}

/// Checks an announcement that `host` makes in a tunnel: one of its own ports of that VPC is meant.
///
/// # Errors
///
/// None is.
pub fn check_announcement(
    network: &Network,
    host: usize,
    (outer, at): (&Outer, usize),
    frame: &[u8],
) -> Checked {
    let source = macs(&frame[at..]).map(|(_, source)| source);
    let here = |port: &crate::network::PortView| {
        port.is_on(host) && vni(port.subnet.0) == outer.vni && Some(port.station.mac) == source
    };
    // An answer to who asked for a gateway.
    let gateway =
        network.gateways.iter().any(|(subnet, mac)| vni(subnet.0) == outer.vni && Some(*mac) == source);
    let now = gateway || network.ports.iter().any(here);
    if now || network.past.iter().any(|(_, _, port)| here(port)) {
        return Ok(());
    }
    found(format!("host {host} announces {source:x?} with VNI {:x}, which is no port of it", outer.vni))
}

/// What should become of a frame that `host` gets from the underlay, which others than switches may have made.
#[must_use]
pub fn judge(network: &Network, host: usize, frame: &[u8]) -> Expect {
    use DropReason::{BadTunnel, TunnelChecksum, UnderlayNotOurs, UnknownVni, UnknownVtep};
    let own = network.hosts[host];
    let Some((destination, _)) = macs(frame) else { return Expect::Any };
    match neighbour(frame) {
        Some(Neighbour::Asks(address)) if read::sender(frame) == Some(address) => {
            return Expect::Punt(PuntKind::UnderlayNeighbour);
        }
        // A tunnel end point that asks says where it is: whether that is news is known to the host alone.
        Some(Neighbour::Asks(_)) if asker(frame).is_some_and(|asker| network.vtep_at(asker).is_some()) => {
            return Expect::Any;
        }
        Some(Neighbour::Asks(address)) if address == own.address => return Expect::AnswerOr(UnderlayNotOurs),
        Some(Neighbour::Asks(_)) => return Expect::Drop(UnderlayNotOurs),
        Some(Neighbour::Says(..)) => return Expect::Punt(PuntKind::UnderlayNeighbour),
        None => {}
    }
    let (Some((_, to)), Some((kind, l3))) = (addresses(frame), ethertype(frame)) else { return Expect::Any };
    let fragment = kind == 0x0800
        && frame.get(l3 + 6..l3 + 8).is_some_and(|flags| (flags[0] & 0x3f, flags[1]) != (0, 0));
    let whole = transport(frame);
    let tunnels = whole.is_some_and(|at| {
        at.protocol == UDP && frame.get(at.start + 2..at.start + 4) == Some(&tunnel::PORT.to_be_bytes())
    });
    if fragment {
        // Refused by the parser already, or not ours.
        return Expect::Any;
    }
    if to != own.address || destination != own.mac {
        return Expect::Drop(UnderlayNotOurs);
    }
    let Some(whole) = whole else { return Expect::Any };
    if !tunnels {
        return match whole.protocol {
            1 | ICMPV6 => Expect::AnswerOr(UnderlayNotOurs),
            _ => Expect::Drop(UnderlayNotOurs),
        };
    }
    let length =
        frame.get(whole.start + 4..whole.start + 6).map_or(0, |at| u16::from_be_bytes([at[0], at[1]]));
    let (Some((outer, at)), true) = (tunnel::open(frame), whole.start + usize::from(length) == whole.end)
    else {
        return Expect::Drop(BadTunnel);
    };
    let options = kind == 0x0800 && frame[l3] & 15 != 5;
    if options || at + 14 > whole.end || outer.flags & 0x3c != 0x08 {
        return Expect::Drop(BadTunnel);
    }
    let known =
        network.vtep_at(outer.addresses.0).filter(|from| *from != host && network.knows_vtep(host, *from));
    let Some(from) = known else { return Expect::Drop(UnknownVtep) };
    let Some(vpc) = (0..VPCS).find(|vpc| vni(*vpc) == outer.vni && network.has_vpc(host, *vpc)) else {
        return Expect::Drop(UnknownVni);
    };
    let field = frame.get(whole.checksum_at()..whole.checksum_at() + 2);
    if field != Some(&[0, 0]) && !whole.is_checksum_right(frame) {
        return Expect::Drop(TunnelChecksum);
    }
    judge_inner(network, (host, from, vpc), outer.class, &frame[at..])
}

/// Who asks for a neighbour.
fn asker(frame: &[u8]) -> Option<IpAddr> {
    read::sender(frame).or_else(|| addresses(frame).map(|(source, _)| source))
}

/// What should become of the frame in a tunnel packet of host `from`, which has a right Ethernet header.
fn judge_inner(
    network: &Network,
    (host, from, vpc): (usize, usize, usize),
    class: u8,
    inner: &[u8],
) -> Expect {
    let Some(((destination, _), (kind, _))) = macs(inner).zip(ethertype(inner)) else { return Expect::Any };
    let plain = matches!(kind, 0x0800 | 0x86dd) && inner.get(12..14) == Some(&kind.to_be_bytes());
    let Some((source, _)) = addresses(inner).filter(|_| plain && transport(inner).is_some()) else {
        return Expect::Any;
    };
    if neighbour(inner).is_some() {
        return Expect::Any;
    }
    if class & 3 == 3 && read::traffic_class(inner).is_some_and(|class| class & 3 == 0) {
        return Expect::Drop(DropReason::TunnelCongestion);
    }
    let rare =
        transport(inner).is_some_and(|at| at.protocol == ICMPV6 && (133..138).contains(&inner[at.start]));
    if rare {
        return Expect::Any;
    }
    let receiver = network.on_host(host, vpc, destination);
    match lives_at(network, (host, from, vpc), source) {
        Some(true) => {}
        // What is late for who came from there.
        Some(false) if is_late(network, (host, from, vpc), destination) => return Expect::Any,
        Some(false) => return Expect::Drop(DropReason::TunnelSource),
        None => return Expect::Any,
    }
    if destination == [0xff; 6] {
        return Expect::Punt(PuntKind::Broadcast);
    }
    if destination[0] & 1 == 1 {
        return Expect::Punt(PuntKind::Multicast);
    }
    if network.is_foreign(from) && network.gateways.values().any(|mac| *mac == destination) {
        return judge_routed(network, (host, vpc), source, inner);
    }
    match receiver {
        // Nothing goes back where it came from.
        Some(guest) if network.ports[guest].moves.is_some() && network.ports[guest].is_on(from) => {
            Expect::Any
        }
        Some(guest) => Expect::To(guest),
        None => Expect::Drop(DropReason::UnknownUnicast),
    }
}

/// Whether a frame may be late for somebody who came to `host` from there, wherever that is now.
fn is_late(network: &Network, (host, from, vpc): (usize, usize, usize), destination: [u8; 6]) -> bool {
    (0..network.ports.len()).any(|guest| {
        let had = |port: &crate::network::PortView| port.subnet.0 == vpc && port.station.mac == destination;
        network.since(guest, 0).any(had) && network.moved_between(guest, (from, host))
    })
}

/// What should become of a frame to a gateway from `source`, behind a tunnel end point that is no towpathd: it is routed where it comes out.
fn judge_routed(network: &Network, (host, vpc): (usize, usize), source: IpAddr, inner: &[u8]) -> Expect {
    let Some((_, destination)) = addresses(inner) else { return Expect::Any };
    let own_subnet = network.endpoint_in(vpc, source).map(|endpoint| network.endpoints[endpoint].subnet);
    let right =
        own_subnet.is_some_and(|subnet| macs(inner).is_some_and(|(to, _)| to == network.gateway(subnet).mac));
    let found = match network.way(vpc, destination) {
        Way::Connected(vpc) if right => network.in_vpc(host, vpc, destination),
        _ => None,
    };
    let far = |guest: &usize| {
        read::hops(inner).is_some_and(|hops| hops > 1) && network.ports[*guest].moves.is_none()
    };
    found.filter(far).map_or(Expect::Any, Expect::To)
}

/// Whether host `from` may send from `address` in a VPC, as `host` knows it: who is known to be elsewhere may not. `None`: who moves is at one of two
/// hosts, and which of them `host` has heard of last is not known.
fn lives_at(network: &Network, (host, from, vpc): (usize, usize, usize), address: IpAddr) -> Option<bool> {
    let peer = network.peer_of(vpc);
    let known = std::iter::once(vpc).chain(peer).find_map(|vpc| network.in_vpc(host, vpc, address));
    match known {
        Some(guest) if network.ports[guest].moves.is_some() => {
            if network.ports[guest].is_on(from) {
                None
            } else {
                Some(false)
            }
        }
        Some(guest) => Some(network.ports[guest].host == from),
        None if network.is_foreign(from) => {
            Some(network.endpoint_lives_at(network.epoch, vpc, address, from))
        }
        None if network.endpoint_in(vpc, address).is_some()
            || peer.is_some_and(|peer| network.endpoint_in(peer, address).is_some()) =>
        {
            Some(false)
        }
        None => {
            let reserved = match address {
                IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.octets()[0] >= 240 || v4.is_link_local(),
                IpAddr::V6(v6) => v6.to_ipv4().is_some(),
            };
            let nowhere = reserved || address.is_multicast() || address.is_loopback();
            Some(!nowhere)
        }
    }
}
