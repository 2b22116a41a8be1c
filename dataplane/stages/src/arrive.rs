//! Delivers what came out of a tunnel: the inner sender must live where the frame came from, the inner destination must live here.
//!
//! A stage of its own because here the fabric is not believed: a known tunnel end point may still send in the name of somebody who lives elsewhere. The sending
//! host has routed; this one goes by the VPC and the destination MAC address. ARP and neighbour solicitations of other tunnel end points are answered.
//!
//! Drops: every [`ParseError`](packet::ParseError); [`DropReason::VlanTagged`], [`DropReason::EtherTypeRefused`], [`DropReason::TunnelSource`],
//! [`DropReason::TunnelCongestion`], [`DropReason::UnknownUnicast`], [`DropReason::NeighbourConsumed`], [`DropReason::UnknownNeighbour`],
//! [`DropReason::RogueService`], [`DropReason::BadOffload`], [`DropReason::Multicast`].

use buf::HEAD_BYTES;
use engine::{Batch, DropReason, Indices, Origin, Output, PortIndex, PuntKind};
use packet::{Headers, L3, L4, MacAddr, announce, arp, ethernet, icmp, ndp, vxlan};
use std::net::IpAddr;
use tables::{EndpointReader, Location, MacReader, MacTable, Network};

/// What the stage reads.
#[derive(Clone, Copy)]
pub struct Tables<'a> {
    /// VPCs and subnets.
    pub network: &'a Network,
    /// Who has an address.
    pub endpoints: &'a EndpointReader,
    /// Who has a MAC address.
    pub macs: &'a MacReader,
}

/// In the MAC table: what the underlay may reach in a VPC.
#[inline]
fn space(vpc: u16) -> u16 {
    tables::vpc_space(vpc)
}

enum Verdict {
    To(Output),
    /// The first so many bytes of the scratch head go back.
    Answer(u32),
    Punt(PuntKind),
    Drop(DropReason),
}

/// Runs the stage for what `decapsulate` let through.
pub fn run(batch: &mut Batch<'_, '_>, tables: &Tables<'_>) {
    let stage = Stage { tables };
    let mut last = Memo::default();
    for index in Indices(batch.decapsulated & batch.undecided()) {
        let mut scratch = [0; HEAD_BYTES];
        match stage.judge(batch, index, &mut last, &mut scratch) {
            Verdict::To(output) => batch.route(1 << index, output),
            Verdict::Answer(len) => {
                let Origin { vtep, vpc, .. } = batch.metadata[index].origin;
                batch.burst.replace(index, &scratch[..(len as usize).min(HEAD_BYTES)]);
                batch.route(1 << index, Output::Tunnel { vtep, vpc });
            }
            Verdict::Punt(kind) => batch.punt(index, kind),
            Verdict::Drop(reason) => batch.drop(index, reason),
        }
    }
}

/// What was found out about the packet before: those of a burst are often of one flow.
#[derive(Default)]
struct Memo {
    source: Option<(u16, u16, IpAddr)>,
    destination: Option<(u16, MacAddr, Option<Output>)>,
}

struct Stage<'a> {
    tables: &'a Tables<'a>,
}

impl Stage<'_> {
    #[inline(always)]
    fn judge(
        &self,
        batch: &mut Batch<'_, '_>,
        index: usize,
        last: &mut Memo,
        scratch: &mut [u8; HEAD_BYTES],
    ) -> Verdict {
        let offload = batch.burst.offload(index);
        let metadata = &mut batch.metadata[index];
        let Some(packet) = batch.burst.packet_mut(index) else { return Verdict::Drop(DropReason::BadTunnel) };
        let length = packet.len() as u32;
        if let Err(error) = packet::parse_into(packet.head(), length, &mut metadata.headers) {
            return Verdict::Drop(error.into());
        }
        let (headers, origin) = (&metadata.headers, metadata.origin);
        if headers.vlan_count != 0 {
            return Verdict::Drop(DropReason::VlanTagged);
        }
        if packet::validate_offload(headers, offload, length).is_err() {
            return Verdict::Drop(DropReason::BadOffload);
        }
        if !vxlan::decapsulate_ecn(metadata.outer_class, packet.head_mut(), headers) {
            return Verdict::Drop(DropReason::TunnelCongestion);
        }
        let head = packet.head();
        let Some(destination) = ethernet::View::new(head).map(|view| view.destination()) else {
            return Verdict::Drop(DropReason::Runt);
        };
        if headers.l3 == L3::Arp || destination.is_multicast() || headers.l4 == L4::Icmpv6 {
            return self.judge_rare(head, headers, origin, destination, scratch, last);
        }
        match self.check_source(head, headers, origin, last) {
            Ok(()) => self.deliver(origin, destination, last),
            Err(reason) => Verdict::Drop(reason),
        }
    }

    /// The inner source must live at the outer one. An address that nobody is known to have is taken from other towpathds alone: they let their ports
    /// send only as what they may.
    #[inline(always)]
    fn check_source(
        &self,
        head: &[u8],
        headers: &Headers,
        origin: Origin,
        last: &mut Memo,
    ) -> Result<(), DropReason> {
        let source = headers.source_ip(head).ok_or(DropReason::EtherTypeRefused)?;
        if last.source == Some((origin.vpc, origin.vtep, source)) {
            return Ok(());
        }
        if !self.lives_at(source, origin) {
            return Err(DropReason::TunnelSource);
        }
        last.source = Some((origin.vpc, origin.vtep, source));
        Ok(())
    }

    fn lives_at(&self, address: IpAddr, origin: Origin) -> bool {
        let Tables { network, endpoints, .. } = self.tables;
        let peers = network.vpc(origin.vpc).map_or(&[][..], |vpc| &vpc.peers);
        let found = std::iter::once(&origin.vpc).chain(peers).find_map(|vpc| endpoints.lookup(*vpc, address));
        match found.map(|endpoint| endpoint.location) {
            Some(Location::Remote(vtep)) => vtep == origin.vtep,
            Some(Location::Local(_)) => false,
            Some(Location::Directory(_)) | None => {
                let own = is_link_local(address) || packet::route::is_station(address);
                own && network.tunnel(origin.vtep).is_some_and(|tunnel| tunnel.is_host)
            }
        }
    }

    #[inline(always)]
    fn deliver(&self, origin: Origin, destination: MacAddr, last: &mut Memo) -> Verdict {
        let output = match last.destination {
            Some((vpc, mac, output)) if (vpc, mac) == (origin.vpc, destination) => output,
            _ => self.find(origin, destination),
        };
        last.destination = Some((origin.vpc, destination, output));
        output.map_or(Verdict::Drop(DropReason::UnknownUnicast), Verdict::To)
    }

    /// A port of this host; or, of a port that has just moved away, the tunnel to where it is now.
    fn find(&self, origin: Origin, destination: MacAddr) -> Option<Output> {
        let key = MacTable::key(space(origin.vpc), destination);
        match Location::unpack(self.tables.macs.lookup(key)?)? {
            Location::Local(port) => Some(Output::Port(PortIndex(port))),
            Location::Remote(vtep) if vtep != origin.vtep => Some(Output::Tunnel { vtep, vpc: origin.vpc }),
            Location::Remote(_) | Location::Directory(_) => None,
        }
    }

    /// Neighbour messages, and what is for all or a group.
    #[cold]
    #[inline(never)]
    fn judge_rare(
        &self,
        head: &[u8],
        headers: &Headers,
        origin: Origin,
        destination: MacAddr,
        scratch: &mut [u8; HEAD_BYTES],
        last: &mut Memo,
    ) -> Verdict {
        let length = head.len().min(HEAD_BYTES);
        scratch[..length].copy_from_slice(&head[..length]);
        if headers.ether_type == ethernet::RARP || announce::detect(head, headers).is_some() {
            return Verdict::Punt(PuntKind::Announcement);
        }
        if headers.l3 == L3::Arp {
            return self.judge_arp(scratch, headers, origin);
        }
        if headers.l4 == L4::Icmpv6 {
            if let Some((ndp::ROUTER_ADVERTISEMENT | ndp::REDIRECT | ndp::ROUTER_SOLICITATION, _)) =
                icmp::type_and_code(head, headers)
            {
                return Verdict::Drop(DropReason::RogueService);
            }
            match ndp::parse(&scratch[..length], headers) {
                Ok(ndp::Message::Other) => {}
                Ok(ndp::Message::Solicitation(asked)) => {
                    return self.judge_solicitation(scratch, headers, &asked, origin);
                }
                Ok(ndp::Message::Advertisement(_)) => return Verdict::Drop(DropReason::NeighbourConsumed),
                Err(_) => return Verdict::Drop(DropReason::BadNeighbour),
            }
        }
        if let Err(reason) = self.check_source(head, headers, origin, last) {
            return Verdict::Drop(reason);
        }
        match destination {
            MacAddr::BROADCAST => Verdict::Punt(PuntKind::Broadcast),
            group if group.is_multicast() => Verdict::Punt(PuntKind::Multicast),
            _ => self.deliver(origin, destination, last),
        }
    }

    fn judge_arp(&self, scratch: &mut [u8; HEAD_BYTES], headers: &Headers, origin: Origin) -> Verdict {
        let Some(message) = arp::View::new(scratch, headers) else {
            return Verdict::Drop(DropReason::BadNeighbour);
        };
        if message.operation() != arp::Operation::Request {
            return Verdict::Drop(DropReason::NeighbourConsumed);
        }
        if !self.lives_at(IpAddr::V4(message.sender_ip()), origin) {
            return Verdict::Drop(DropReason::TunnelSource);
        }
        match self.holder(IpAddr::V4(message.target_ip()), origin.vpc) {
            Some(mac) => arp::reply_in_place(scratch, headers, mac)
                .map_or(Verdict::Drop(DropReason::BadNeighbour), Verdict::Answer),
            None => Verdict::Drop(DropReason::UnknownNeighbour),
        }
    }

    fn judge_solicitation(
        &self,
        scratch: &mut [u8; HEAD_BYTES],
        headers: &Headers,
        asked: &ndp::Solicitation,
        origin: Origin,
    ) -> Verdict {
        let source = IpAddr::V6(asked.source);
        if !is_link_local(source) && !self.lives_at(source, origin) {
            return Verdict::Drop(DropReason::TunnelSource);
        }
        match self.holder(IpAddr::V6(asked.target), origin.vpc) {
            Some(mac) => ndp::advertise_in_place(scratch, headers, asked, mac, ndp::Role::Host)
                .map_or(Verdict::Drop(DropReason::BadNeighbour), Verdict::Answer),
            None => Verdict::Drop(DropReason::UnknownNeighbour),
        }
    }

    /// The MAC address of a port of this host that has `address`.
    fn holder(&self, address: IpAddr, vpc: u16) -> Option<MacAddr> {
        let endpoint = self.tables.endpoints.lookup(vpc, address)?;
        matches!(endpoint.location, Location::Local(_)).then_some(endpoint.mac)
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}
