//! Delivers what came out of a tunnel: the inner sender must live where the frame came from, the inner destination must live here.
//!
//! A stage of its own because here the fabric is not believed: a known tunnel end point may still send in the name of somebody who lives elsewhere. The sending
//! host has routed; this one goes by the VPC and the destination MAC address. ARP and neighbour solicitations of other tunnel end points are answered.
//!
//! Drops: every [`ParseError`](packet::ParseError); [`DropReason::VlanTagged`], [`DropReason::EtherTypeRefused`], [`DropReason::TunnelSource`],
//! [`DropReason::TunnelCongestion`], [`DropReason::UnknownUnicast`], [`DropReason::NeighbourConsumed`], [`DropReason::UnknownNeighbour`],
//! [`DropReason::RogueService`], [`DropReason::BadOffload`], [`DropReason::Multicast`].

use crate::answers::Answers;
use crate::neighbours::link_local_owner;
use crate::{port_security, route};
use buf::HEAD_BYTES;
use engine::{Batch, DropReason, Indices, Metadata, Origin, Output, PortIndex, PuntKind, Runs, bits};
use packet::{Headers, L3, L4, MacAddr, announce, arp, ethernet, icmp, ndp, vxlan};
use std::net::IpAddr;
use tables::{Endpoint, EndpointReader, Location, MacReader, MacTable, Network, Shares};

/// The EtherType (IEEE Std 802 local experimental EtherType 1) by which hosts tell each other how the targets of load balancers are.
pub const HEALTH_WORD: u16 = 0x88b5;

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
    /// To the gateway of this subnet, from a station of it that is not ours.
    Gateway(u16),
    /// The first so many bytes of the scratch head go back.
    Answer(u32),
    Punt(PuntKind),
    Drop(DropReason),
}

/// Runs the stage for what `decapsulate` let through. ICMP errors are sent to the stations behind each tunnel end point within its share of `errors`.
pub fn run(batch: &mut Batch<'_, '_>, tables: &Tables<'_>, errors: &mut Shares) {
    let stage = Stage { tables };
    let mut last = Memo::default();
    let mut rest = batch.decapsulated & batch.undecided();
    while let Some(index) = Indices(rest).next() {
        rest &= !bits(index..index + 1);
        let flow = Flow::of(batch, index);
        let output = stage.run_one(batch, index, flow.is_some(), &mut last, errors);
        // Packets that follow each other between two stations are routed together.
        if let (Some(flow), Some(output)) = (flow, output) {
            let like = flow.run(batch, rest);
            batch.route(like, output);
            rest &= !like;
        }
    }
}

/// All that decides where an ordinary packet goes, and whether: it is plain TCP or UDP without congestion marks outside, asks for nothing and is not a DHCP server's.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Flow {
    /// The first 15 bytes, as they lie in memory: MAC addresses, EtherType, version and header length.
    link: [u64; 2],
    /// The source's IPv4 address.
    source: u32,
    /// The origin, in the lower 48 bits.
    origin: u64,
}

impl Flow {
    /// Finds the headers of a packet if it is an ordinary one, and its flow; otherwise nothing is known of them.
    #[inline(always)]
    fn of(batch: &mut Batch<'_, '_>, index: usize) -> Option<Self> {
        let Batch { burst, metadata, .. } = batch;
        let (packet, metadata) = (burst.packet(index)?, &mut metadata[index]);
        let head = packet.head();
        let ordinary = burst.with_offload() >> index & 1 == 0
            && vxlan::is_unmarked(metadata.outer_class as u8)
            && packet::parse_plain(head, packet.len() as u32, &mut metadata.headers)
            && !port_security::is_dhcp_server(&metadata.headers);
        if ordinary { Self::read(head, metadata) } else { None }
    }

    #[inline(always)]
    fn read(head: &[u8], metadata: &Metadata) -> Option<Self> {
        let head = head.first_chunk::<30>()?;
        let word = |at: usize| Some(u64::from_ne_bytes(*head.get(at..)?.first_chunk()?));
        let Origin { vtep, vpc, identity } = metadata.origin;
        let class = u64::from(metadata.outer_class & vxlan::MARKS);
        let origin = u64::from(vtep) | u64::from(vpc) << 16 | u64::from(identity) << 32 | class << 48;
        let source = u32::from_ne_bytes([head[26], head[27], head[28], head[29]]);
        Some(Self { link: [word(0)?, word(7)?], source, origin })
    }

    /// Packets that follow each other, from the first of `packets` (a bit per packet) that asks for nothing on, as long as they are of this flow. Finds their headers too.
    #[inline(always)]
    fn run(&self, batch: &mut Batch<'_, '_>, packets: u32) -> u32 {
        let Batch { burst, metadata, .. } = batch;
        let Some(run) = Runs(packets & !burst.with_offload()).next() else { return 0 };
        let all = burst.packets().get(run.clone()).unwrap_or_default();
        let mut end = run.start;
        for (packet, metadata) in all.iter().zip(metadata.get_mut(run.clone()).unwrap_or_default()) {
            let head = packet.head();
            let same = Self::read(head, metadata).is_some_and(|flow| flow == *self)
                && packet::parse_plain_network(head, packet.len() as u32, &mut metadata.headers)
                && !port_security::is_dhcp_server(&metadata.headers);
            if !same {
                break;
            }
            end += 1;
        }
        bits(run.start..end)
    }
}

/// What was found out about the packet before: those of a burst are often of one flow.
#[derive(Default)]
struct Memo {
    /// Of whom it is known that he lives where he says, and his subnet, if the frame did not come from a towpathd.
    source: Option<(Origin, MacAddr, IpAddr, Option<u16>)>,
    destination: Option<(u16, MacAddr, Option<Output>)>,
}

struct Stage<'a> {
    tables: &'a Tables<'a>,
}

impl Stage<'_> {
    /// Decides about one packet, whose headers are known if it is `plain`; where it goes, if it was simply let through.
    #[inline(never)]
    fn run_one(
        &self,
        batch: &mut Batch<'_, '_>,
        index: usize,
        plain: bool,
        last: &mut Memo,
        errors: &mut Shares,
    ) -> Option<Output> {
        if !plain {
            let packet = batch.burst.packet(index)?;
            let headers = &mut batch.metadata[index].headers;
            if let Err(error) = packet::parse_into(packet.head(), packet.len() as u32, headers) {
                batch.drop(index, error.into());
                return None;
            }
        }
        let mut scratch = [0; HEAD_BYTES];
        match self.judge(batch, index, last, &mut scratch) {
            Verdict::To(output) => {
                batch.route(1 << index, output);
                return Some(output);
            }
            Verdict::Gateway(number) => self.route(batch, index, number, errors),
            Verdict::Answer(len) => {
                let Origin { vtep, vpc, .. } = batch.metadata[index].origin;
                batch.burst.replace(index, &scratch[..(len as usize).min(HEAD_BYTES)]);
                batch.route(1 << index, Output::Tunnel { vtep, vpc });
            }
            Verdict::Punt(kind) => batch.punt(index, kind),
            Verdict::Drop(reason) => batch.drop(index, reason),
        }
        None
    }

    fn judge(
        &self,
        batch: &mut Batch<'_, '_>,
        index: usize,
        last: &mut Memo,
        scratch: &mut [u8; HEAD_BYTES],
    ) -> Verdict {
        let offload = batch.burst.offload(index);
        let metadata = &batch.metadata[index];
        let Some(packet) = batch.burst.packet_mut(index) else { return Verdict::Drop(DropReason::BadTunnel) };
        let length = packet.len() as u32;
        let (headers, origin) = (&metadata.headers, metadata.origin);
        if headers.vlan_count != 0 {
            return Verdict::Drop(DropReason::VlanTagged);
        }
        if packet::validate_offload(headers, offload, length).is_err() {
            return Verdict::Drop(DropReason::BadOffload);
        }
        if !vxlan::decapsulate_ecn(metadata.outer_class as u8, packet.head_mut(), headers) {
            return Verdict::Drop(DropReason::TunnelCongestion);
        }
        let head = packet.head();
        let Some(destination) = ethernet::View::new(head).map(|view| view.destination()) else {
            return Verdict::Drop(DropReason::Runt);
        };
        if port_security::is_dhcp_server(headers) || port_security::is_group_querier(head, headers) {
            return Verdict::Drop(DropReason::RogueService);
        }
        if headers.l3 == L3::Arp || destination.is_multicast() || headers.l4 == L4::Icmpv6 {
            return self.judge_rare(head, headers, origin, destination, scratch, last);
        }
        match self.check_source(head, headers, origin, last) {
            Ok(subnet) => self.deliver(origin, destination, subnet, last),
            Err(reason) => Verdict::Drop(reason),
        }
    }

    /// A gateway is on every host: of a station behind a foreign tunnel end point it routes here what that sends to it.
    #[cold]
    fn route(&self, batch: &mut Batch<'_, '_>, index: usize, number: u16, errors: &mut Shares) {
        let Some(subnet) = self.tables.network.subnet(number) else {
            return batch.drop(index, DropReason::UnknownUnicast);
        };
        let Origin { vtep, vpc, .. } = batch.metadata[index].origin;
        let (back, budget) = (Output::Tunnel { vtep, vpc }, errors.of(vtep));
        let mut answers = Answers { back, subnet: Some(number), budget };
        route::route_one(batch, index, (self.tables.network, self.tables.endpoints, subnet), &mut answers);
    }

    /// The inner source must live at the outer one, but for packets that are late. An address that nobody is known to have is taken from other towpathds alone: they let their ports
    /// send only as what they may.
    #[inline(always)]
    fn check_source(
        &self,
        head: &[u8],
        headers: &Headers,
        origin: Origin,
        last: &mut Memo,
    ) -> Result<Option<u16>, DropReason> {
        let source = headers.source_ip(head).ok_or(DropReason::EtherTypeRefused)?;
        let mac = ethernet::View::new(head).map(|view| view.source()).ok_or(DropReason::Runt)?;
        if let Some((known, known_mac, address, subnet)) = last.source
            && (known, known_mac, address) == (origin, mac, source)
        {
            return Ok(subnet);
        }
        self.check_mac(mac, origin)?;
        let Some(subnet) = self.home(source, origin) else {
            // Not remembered: it is so for this destination alone.
            return if self.is_late(head, source, origin) { Ok(None) } else { Err(DropReason::TunnelSource) };
        };
        last.source = Some((origin, mac, source, subnet));
        Ok(subnet)
    }

    /// No station has a group's address, and none elsewhere that of a port of this host.
    fn check_mac(&self, mac: MacAddr, origin: Origin) -> Result<(), DropReason> {
        if mac.is_multicast() {
            return Err(DropReason::BogusSource);
        }
        let found = self.tables.macs.lookup(MacTable::key(space(origin.vpc), mac)).and_then(Location::unpack);
        if matches!(found, Some(Location::Local(_))) { Err(DropReason::TunnelSource) } else { Ok(()) }
    }

    /// Whether this is for a port that came from `origin` a moment ago, sent on from there for somebody elsewhere who has not heard of it yet;
    /// or `origin` is a host of the VPC's directory, which routes for others.
    #[cold]
    fn is_late(&self, head: &[u8], source: IpAddr, origin: Origin) -> bool {
        let Tables { network, endpoints, macs } = self.tables;
        let Some(view) = ethernet::View::new(head) else { return false };
        let key = MacTable::key(space(origin.vpc), tables::late_mac(view.destination()));
        let from = macs.lookup(key).and_then(Location::unpack);
        let peers = network.vpc(origin.vpc).map_or(&[][..], |vpc| &vpc.peers);
        let mut found =
            std::iter::once(&origin.vpc).chain(peers).filter_map(|vpc| endpoints.lookup(*vpc, source));
        let knows_all = || network.vpc(origin.vpc).is_some_and(|vpc| vpc.directory.contains(&origin.vtep));
        (from == Some(Location::Remote(origin.vtep)) || knows_all())
            && network.tunnel(origin.vtep).is_some_and(|tunnel| tunnel.is_host)
            && found.next().is_some_and(|endpoint| matches!(endpoint.location, Location::Remote(_)))
    }

    fn lives_at(&self, address: IpAddr, origin: Origin) -> bool {
        self.home(address, origin).is_some()
    }

    /// `None` unless `address` lives at `origin`. Then, where no towpathd has routed what it sends, its subnet.
    fn home(&self, address: IpAddr, origin: Origin) -> Option<Option<u16>> {
        let Tables { network, endpoints, .. } = self.tables;
        let peers = network.vpc(origin.vpc).map_or(&[][..], |vpc| &vpc.peers);
        let found = std::iter::once(&origin.vpc).chain(peers).find_map(|vpc| endpoints.lookup(*vpc, address));
        let is_host = network.tunnel(origin.vtep).is_some_and(|tunnel| tunnel.is_host);
        match found {
            Some(Endpoint { location: Location::Remote(vtep), subnet, .. }) => {
                // A host of the directory routes for other hosts too.
                let routes = !is_host || network.vpc(origin.vpc).is_some_and(|vpc| vpc.is_directory);
                (vtep == origin.vtep).then_some(routes.then_some(subnet))
            }
            Some(Endpoint { location: Location::Local(_), .. }) => None,
            Some(Endpoint { location: Location::Directory(_), .. }) | None => {
                (is_host && !packet::route::is_bogon(address)).then_some(None)
            }
        }
    }

    #[inline(always)]
    fn deliver(&self, origin: Origin, destination: MacAddr, subnet: Option<u16>, last: &mut Memo) -> Verdict {
        // A gateway is spoken to in its own VPC, not in a peer's.
        if let Some(number) = subnet
            && self
                .tables
                .network
                .subnet(number)
                .is_some_and(|subnet| subnet.gateway_mac == destination && subnet.vpc == origin.vpc)
        {
            return Verdict::Gateway(number);
        }
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
        if headers.ether_type == HEALTH_WORD
            && self.tables.network.tunnel(origin.vtep).is_some_and(|tunnel| tunnel.is_host)
        {
            return Verdict::Punt(PuntKind::HealthWord);
        }
        if headers.ether_type == ethernet::RARP || announce::detect(head, headers).is_some() {
            return Verdict::Punt(PuntKind::Announcement);
        }
        if headers.l3 == L3::Arp {
            return self.judge_arp(scratch, headers, origin);
        }
        if headers.l4 == L4::Icmpv6
            && let Some(verdict) = self.judge_icmpv6(length, scratch, headers, origin)
        {
            return verdict;
        }
        let subnet = match self.check_source(head, headers, origin, last) {
            Ok(subnet) => subnet,
            Err(reason) => return Verdict::Drop(reason),
        };
        match destination {
            MacAddr::BROADCAST => Verdict::Punt(PuntKind::Broadcast),
            group if group.is_multicast() => Verdict::Punt(PuntKind::Multicast),
            _ => self.deliver(origin, destination, subnet, last),
        }
    }

    /// `None` for what is no neighbour or router message.
    fn judge_icmpv6(
        &self,
        length: usize,
        scratch: &mut [u8; HEAD_BYTES],
        headers: &Headers,
        origin: Origin,
    ) -> Option<Verdict> {
        if let Some((ndp::ROUTER_ADVERTISEMENT | ndp::REDIRECT | ndp::ROUTER_SOLICITATION, _)) =
            icmp::type_and_code(scratch, headers)
        {
            return Some(Verdict::Drop(DropReason::RogueService));
        }
        match ndp::parse(&scratch[..length], headers) {
            Ok(ndp::Message::Other) => None,
            Ok(ndp::Message::Solicitation(asked)) => {
                Some(self.judge_solicitation(scratch, headers, &asked, origin))
            }
            Ok(ndp::Message::Advertisement(_)) => Some(Verdict::Drop(DropReason::NeighbourConsumed)),
            Err(_) => Some(Verdict::Drop(DropReason::BadNeighbour)),
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
        match self.holder(IpAddr::V4(message.target_ip()), IpAddr::V4(message.sender_ip()), origin) {
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
        let lives_there = match link_local_owner(source) {
            Some(mac) => self.is_station_of(mac, IpAddr::V6(asked.target), origin),
            None => self.lives_at(source, origin),
        };
        if !lives_there {
            return Verdict::Drop(DropReason::TunnelSource);
        }
        match self.holder(IpAddr::V6(asked.target), source, origin) {
            Some(mac) => ndp::advertise_in_place(scratch, headers, asked, mac, ndp::Role::Host)
                .map_or(Verdict::Drop(DropReason::BadNeighbour), Verdict::Answer),
            None => Verdict::Drop(DropReason::UnknownNeighbour),
        }
    }

    /// Whether `mac` is at `origin`, in the subnet of `address`.
    fn is_station_of(&self, mac: MacAddr, address: IpAddr, origin: Origin) -> bool {
        let Tables { endpoints, macs, .. } = self.tables;
        let subnet = endpoints.lookup(origin.vpc, address).map(|endpoint| endpoint.subnet);
        let found = subnet.and_then(|subnet| macs.lookup(MacTable::key(subnet, mac)));
        found.and_then(Location::unpack) == Some(Location::Remote(origin.vtep))
    }

    /// The MAC address of a port of this host that has `address`; or of the gateway, for a station of its subnet that is not ours.
    fn holder(&self, address: IpAddr, asker: IpAddr, origin: Origin) -> Option<MacAddr> {
        if let Some(Some(number)) = self.home(asker, origin) {
            let here = |subnet: &&tables::Subnet| subnet.is_gateway(address) && subnet.vpc == origin.vpc;
            let subnet = self.tables.network.subnet(number).filter(here);
            if let Some(subnet) = subnet {
                return Some(subnet.gateway_mac);
            }
        }
        let endpoint = self.tables.endpoints.lookup(origin.vpc, address)?;
        matches!(endpoint.location, Location::Local(_)).then_some(endpoint.mac)
    }
}
