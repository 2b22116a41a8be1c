//! Answers ARP and neighbour discovery for every address of the subnet, and notes who announces an address that may move.
//!
//! A stage of its own because it turns packets round: an answer is written over the question and goes back to the port it came from.
//! Nothing of these protocols crosses from port to port, so nobody can poison a neighbour's cache. It looks only at the packets
//! that [`port_security`](crate::port_security) marked.
//!
//! Drops: [`DropReason::SpoofedNeighbour`], [`DropReason::BadNeighbour`], [`DropReason::UnknownNeighbour`],
//! [`DropReason::NeighbourConsumed`], [`DropReason::RogueService`].

use buf::HEAD_BYTES;
use engine::{Announcement, Batch, DropReason, Indices, Output, PortIndex};
use packet::{Headers, L3, L4, MacAddr, announce, arp, ethernet, icmp, ndp};
use std::net::IpAddr;
use tables::balancers::Balancers;
use tables::{EndpointReader, Location, MacReader, MacTable, Network, PortProfile, TokenBucket};

/// What the stage decides about one packet.
enum Verdict {
    /// Not a neighbour message: goes on.
    Pass,
    /// The first so many bytes of the scratch head go back to the sender.
    Answer(u32),
    Drop(DropReason),
}

/// What the stage reads.
#[derive(Clone, Copy)]
pub struct Tables<'a> {
    /// Subnets and their gateways.
    pub network: &'a Network,
    /// Who has an address.
    pub endpoints: &'a EndpointReader,
    /// Who has a MAC address.
    pub macs: &'a MacReader,
    /// Which addresses are load balancers'.
    pub balancers: &'a Balancers,
}

/// Runs the stage for packets sent by `ingress`. Announcements beyond `budget` are ignored.
#[inline]
pub fn run(
    batch: &mut Batch<'_, '_>,
    profile: &PortProfile,
    ingress: PortIndex,
    tables: Tables<'_>,
    budget: &mut TokenBucket,
    announce: &mut impl FnMut(Announcement),
) {
    let marked = batch.attention & batch.alive();
    if marked == 0 {
        return;
    }
    let stage = Stage { profile, ingress, tables };
    for index in Indices(marked) {
        let headers = batch.metadata[index].headers;
        let Some(packet) = batch.burst.packet(index) else { continue };
        let mut scratch = [0; HEAD_BYTES];
        let head = packet.head();
        scratch[..head.len().min(HEAD_BYTES)].copy_from_slice(&head[..head.len().min(HEAD_BYTES)]);
        stage.note_announcement(head, &headers, batch.now, budget, announce);
        match stage.judge(head.len(), &mut scratch, &headers) {
            Verdict::Pass => {}
            Verdict::Drop(reason) => batch.drop(index, reason),
            Verdict::Answer(len) => {
                batch.burst.replace(index, &scratch[..(len as usize).min(HEAD_BYTES)]);
                batch.route(1 << index, Output::Port(ingress));
            }
        }
    }
}

struct Stage<'a> {
    profile: &'a PortProfile,
    ingress: PortIndex,
    tables: Tables<'a>,
}

impl Stage<'_> {
    fn judge(&self, len: usize, scratch: &mut [u8; HEAD_BYTES], headers: &Headers) -> Verdict {
        match (headers.l3, headers.l4) {
            (L3::Arp, _) => self.judge_arp(scratch, headers),
            (L3::Ipv6, L4::Icmpv6) => self.judge_icmpv6(len, scratch, headers),
            _ => Verdict::Pass,
        }
    }

    fn judge_arp(&self, scratch: &mut [u8; HEAD_BYTES], headers: &Headers) -> Verdict {
        let Some((message, source)) = arp::View::new(scratch, headers).zip(source_of(scratch)) else {
            return Verdict::Drop(DropReason::BadNeighbour);
        };
        let sender = IpAddr::V4(message.sender_ip());
        let is_probe = message.sender_ip().is_unspecified() && message.operation() == arp::Operation::Request;
        if message.sender_mac() != source || !(is_probe || self.profile.may_send_from(source, sender)) {
            return Verdict::Drop(DropReason::SpoofedNeighbour);
        }
        if message.is_gratuitous() || message.operation() != arp::Operation::Request {
            return Verdict::Drop(DropReason::NeighbourConsumed);
        }
        match self.holder(IpAddr::V4(message.target_ip())) {
            Ok((mac, _)) => arp::reply_in_place(scratch, headers, mac)
                .map_or(Verdict::Drop(DropReason::BadNeighbour), Verdict::Answer),
            Err(reason) => Verdict::Drop(reason),
        }
    }

    fn judge_icmpv6(&self, len: usize, scratch: &mut [u8; HEAD_BYTES], headers: &Headers) -> Verdict {
        if let Some((ndp::ROUTER_ADVERTISEMENT | ndp::REDIRECT, _)) = icmp::type_and_code(scratch, headers) {
            return Verdict::Drop(DropReason::RogueService);
        }
        let Some(source) = source_of(scratch) else { return Verdict::Drop(DropReason::BadNeighbour) };
        match ndp::parse(&scratch[..len.min(HEAD_BYTES)], headers) {
            Err(_) => Verdict::Drop(DropReason::BadNeighbour),
            Ok(ndp::Message::Other) => Verdict::Pass,
            Ok(ndp::Message::Advertisement(advertisement)) => {
                let honest = advertisement.target_link.is_none_or(|mac| mac == source)
                    && self.profile.may_send_from(source, IpAddr::V6(advertisement.target));
                Verdict::Drop(if honest {
                    DropReason::NeighbourConsumed
                } else {
                    DropReason::SpoofedNeighbour
                })
            }
            Ok(ndp::Message::Solicitation(solicitation)) => {
                if solicitation.source_link.is_some_and(|mac| mac != source) {
                    return Verdict::Drop(DropReason::SpoofedNeighbour);
                }
                match self.holder(IpAddr::V6(solicitation.target)) {
                    Ok((mac, role)) => ndp::advertise_in_place(scratch, headers, &solicitation, mac, role)
                        .map_or(Verdict::Drop(DropReason::BadNeighbour), Verdict::Answer),
                    Err(reason) => Verdict::Drop(reason),
                }
            }
        }
    }

    /// The MAC address at which `address` is to be reached from this port, and whether a router is there.
    fn holder(&self, address: IpAddr) -> Result<(MacAddr, ndp::Role), DropReason> {
        let Tables { network, endpoints, macs, balancers } = self.tables;
        let subnet = network.subnet(self.profile.subnet);
        if subnet.is_some_and(|subnet| subnet.is_gateway(address)) || crate::route::is_metadata(address) {
            return Ok((self.profile.gateway_mac, ndp::Role::Router));
        }
        if balancers.get(self.profile.vpc, address).is_some() {
            return Ok((self.profile.gateway_mac, ndp::Role::Host));
        }
        if let Some(mac) = link_local_owner(address) {
            let key = MacTable::key(self.profile.subnet, mac);
            let known = mac != self.profile.mac && macs.lookup(key).is_some();
            return if known { Ok((mac, ndp::Role::Host)) } else { Err(DropReason::UnknownNeighbour) };
        }
        match endpoints.lookup(self.profile.vpc, address) {
            Some(endpoint) if endpoint.location == Location::Local(self.ingress.0) => {
                Err(DropReason::NeighbourConsumed)
            }
            Some(endpoint) if endpoint.subnet == self.profile.subnet => Ok((endpoint.mac, ndp::Role::Host)),
            _ => Err(DropReason::UnknownNeighbour),
        }
    }

    /// Passes on that the port now holds an address that is not its own but that it may hold.
    fn note_announcement(
        &self,
        head: &[u8],
        headers: &Headers,
        now: u64,
        budget: &mut TokenBucket,
        announce: &mut impl FnMut(Announcement),
    ) {
        let (Some(seen), Some(source)) = (announce::detect(head, headers), source_of(head)) else { return };
        let mac = seen.mac();
        if mac != source {
            return;
        }
        for address in seen.addresses() {
            let foreign = !self.profile.addresses().contains(&address);
            if foreign && self.profile.may_announce(mac, address) && budget.take(now, 1) {
                announce(Announcement { port: self.ingress, address, mac });
            }
        }
    }
}

/// The MAC address from which this link-local address was made (modified EUI-64, RFC 4291 appendix A), if it was.
pub(crate) fn link_local_owner(address: IpAddr) -> Option<MacAddr> {
    let IpAddr::V6(v6) = address else { return None };
    let [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a, b, c, 0xff, 0xfe, d, e, f] = v6.octets() else { return None };
    Some(MacAddr([a ^ 2, b, c, d, e, f]))
}

fn source_of(head: &[u8]) -> Option<MacAddr> {
    ethernet::View::new(head).map(|view| view.source())
}
