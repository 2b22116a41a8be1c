//! Looks at what comes from the underlay: takes the outer headers off what other hosts sent, and answers for this host's own addresses.
//!
//! A stage of its own because it is the only one that reads outer headers. What goes on is an inner frame with its origin: a tunnel end
//! point that is known and a VPC that has ports here; whether its sender lives there is for [`arrive`](crate::arrive) to say.
//!
//! Drops: every [`ParseError`](packet::ParseError); [`DropReason::UnderlayNotOurs`], [`DropReason::BadTunnel`], [`DropReason::TunnelChecksum`], [`DropReason::UnknownVtep`],
//! [`DropReason::UnknownVni`].

use buf::{Checksum, Frame, HEAD_BYTES, Offload};
use engine::{Batch, DropReason, Indices, Origin, Output, PortIndex, PuntKind, Runs, bits};
use packet::checksum::{Sum, pseudo_header};
use packet::vxlan::{self, OUTER_LENGTH_V4, OUTER_LENGTH_V6, SeenV4, SeenV6, View};
use packet::{Fragment, Headers, L3, L4, MacAddr, arp, ethernet, ndp, route, udp};
use std::net::IpAddr;
use tables::{Neighbours, Network, Uplink, VniReader, VtepReader};

/// What the stage reads.
#[derive(Clone, Copy)]
pub struct Tables<'a> {
    /// VPCs, tunnels, and this host's addresses.
    pub network: &'a Network,
    /// Tunnel end points by address.
    pub vteps: &'a VtepReader,
    /// VPCs by number on the wire.
    pub vnis: &'a VniReader,
    /// Where next hops are.
    pub neighbours: &'a Neighbours,
}

/// What becomes of a frame of the underlay.
enum Verdict {
    /// So many bytes come off; it came from there.
    Strip(usize, Origin),
    /// The first so many bytes of the scratch head go back.
    Answer(u32),
    /// It was turned round as it is.
    Return,
    /// It is for an address of an external network.
    Outside,
    Punt(PuntKind),
    Drop(DropReason),
}

/// Runs the stage for frames that came in by `ingress`. The headers of those that are not decapsulated are in their metadata afterwards.
pub fn run(batch: &mut Batch<'_, '_>, tables: &Tables<'_>, ingress: PortIndex) {
    let Some(uplink) = &tables.network.uplink else {
        batch.indices().for_each(|index| batch.drop(index, DropReason::NoUplink));
        return;
    };
    let stage = Stage { tables, uplink };
    let mut last = Memo::default();
    let mut rest = batch.alive();
    while let Some(index) = Indices(rest).next() {
        stage.run_one(batch, index, ingress, &mut last);
        rest &= !bits(index..index + 1);
        if let Some((seen, origin)) = &last.seen_v4 {
            rest &= !strip_like(batch, rest, seen, *origin);
        }
        if let Some((seen, origin)) = &last.seen_v6 {
            rest &= !strip_like_v6(batch, rest, seen, *origin);
        }
    }
}

/// The tunnel of the packet before: packets of a burst often come from one place.
#[derive(Default)]
struct Memo {
    /// Its addresses and numbers.
    tunnel: Option<(IpAddr, u32, u16, Origin)>,
    /// Its headers, if others can be told to be of that tunnel at a glance: over either family.
    seen_v4: Option<(SeenV4, Origin)>,
    seen_v6: Option<(SeenV6, Origin)>,
}

/// Takes the outer headers off packets that follow each other, from the first of `packets` (a bit per packet) that can be told on, as long as they have the headers of one
/// before, but for what may differ. Returns which it was done to.
#[inline(always)]
fn strip_like(batch: &mut Batch<'_, '_>, packets: u32, seen: &SeenV4, origin: Origin) -> u32 {
    let asking = packets & batch.burst.with_offload();
    let vouched = if asking == 0 { 0 } else { vouched(batch, asking) };
    let Some(run) = Runs(packets & (!asking | vouched)).next() else { return 0 };
    let Batch { burst, metadata, decapsulated, .. } = batch;
    let all = burst.packets_mut().get_mut(run.clone()).unwrap_or_default();
    let mut end = run.start;
    for (packet, metadata) in all.iter_mut().zip(metadata.get_mut(run.clone()).unwrap_or_default()) {
        // And one byte more, without which there is nothing to be left.
        let Some(head) = packet.head().first_chunk::<{ OUTER_LENGTH_V4 + 1 }>() else { break };
        let class = head.first_chunk().map_or(0, SeenV4::traffic_class);
        if !seen.is_like(head, packet.len()) || !packet.strip(OUTER_LENGTH_V4) {
            break;
        }
        (metadata.origin, metadata.outer_class) = (origin, class.into());
        end += 1;
    }
    let done = bits(run.start..end);
    burst.ask_nothing(done);
    *decapsulated |= done;
    done
}

/// The same over IPv6, where there is a checksum to look at. What ends because of that is among what is returned.
#[inline(never)]
fn strip_like_v6(batch: &mut Batch<'_, '_>, packets: u32, seen: &SeenV6, origin: Origin) -> u32 {
    let asking = packets & batch.burst.with_offload();
    let vouched = if asking == 0 { 0 } else { vouched(batch, asking) };
    let mut done = 0;
    for index in Indices(packets & (!asking | vouched)) {
        let Some(packet) = batch.burst.packet_mut(index) else { break };
        let Some(head) = packet.head().first_chunk::<{ OUTER_LENGTH_V6 + 1 }>() else { break };
        if !seen.is_like(head, packet.len()) {
            break;
        }
        let class = head.first_chunk().map_or(0, SeenV6::traffic_class);
        let sum = if vouched >> index & 1 != 0 { None } else { seen.sum(packet.head()) };
        let covered = packet.head().len();
        done |= 1 << index;
        if sum.is_some_and(|sum| !is_right_with_body(batch, index, sum, covered)) {
            batch.drop(index, DropReason::TunnelChecksum);
            continue;
        }
        let Batch { burst, metadata, decapsulated, .. } = &mut *batch;
        if burst.packet_mut(index).is_some_and(|packet| packet.strip(OUTER_LENGTH_V6)) {
            let metadata = &mut metadata[index];
            (metadata.origin, metadata.outer_class) = (origin, class.into());
            *decapsulated |= 1 << index;
        }
    }
    batch.burst.ask_nothing(done);
    done
}

/// Whether a checksum is right that covers `sum`, up to an even offset or the end, and what is behind the `head` bytes of the head.
#[inline(always)]
fn is_right_with_body(batch: &Batch<'_, '_>, index: usize, sum: Sum, head: usize) -> bool {
    match batch.burst.packet(index) {
        Some(packet) if packet.len() == head => sum.is_right(),
        _ => batch.burst.frame(index).is_some_and(|frame| sum.plus(body_sum(&frame, head)).is_right()),
    }
}

/// Of what is behind the head, which begins at `offset` of what is summed.
fn body_sum(frame: &Frame<'_, '_>, offset: usize) -> Sum {
    Sum::of_body(frame.body_sum()).at_offset(offset)
}

/// Those of `packets` of which somebody vouches for their checksums, and says no more: nothing is left to do to them.
#[inline(never)]
fn vouched(batch: &Batch<'_, '_>, packets: u32) -> u32 {
    let of = |index| {
        let offload = batch.burst.offload(index);
        offload.segment.is_none() && offload.checksum == Checksum::Valid
    };
    Indices(packets).filter(|index| of(*index)).fold(0, |all, index| all | 1 << index)
}

struct Stage<'a> {
    tables: &'a Tables<'a>,
    uplink: &'a Uplink,
}

impl Stage<'_> {
    #[inline(never)]
    fn run_one(&self, batch: &mut Batch<'_, '_>, index: usize, ingress: PortIndex, last: &mut Memo) {
        let Some(packet) = batch.burst.packet(index) else { return };
        let headers = &mut batch.metadata[index].headers;
        if let Err(error) = packet::parse_into(packet.head(), packet.len() as u32, headers) {
            return batch.drop(index, error.into());
        }
        let headers = *headers;
        let mut scratch = [0; HEAD_BYTES];
        match self.judge(batch, index, &headers, last, &mut scratch) {
            Verdict::Strip(bytes, origin) => {
                let head = batch.burst.packet(index).map_or(&[][..], |packet| packet.head());
                last.seen_v4 = SeenV4::new(head, bytes).map(|seen| (seen, origin));
                last.seen_v6 = SeenV6::new(head, bytes).map(|seen| (seen, origin));
                strip(batch, index, bytes, origin, &headers);
            }
            Verdict::Answer(len) => {
                batch.burst.replace(index, &scratch[..(len as usize).min(HEAD_BYTES)]);
                batch.route(1 << index, Output::Port(ingress));
            }
            Verdict::Outside => batch.from_outside |= 1 << index,
            Verdict::Return => batch.route(1 << index, Output::Port(ingress)),
            Verdict::Punt(kind) => batch.punt(index, kind),
            Verdict::Drop(reason) => batch.drop(index, reason),
        }
    }

    fn judge(
        &self,
        batch: &mut Batch<'_, '_>,
        index: usize,
        headers: &Headers,
        last: &mut Memo,
        scratch: &mut [u8; HEAD_BYTES],
    ) -> Verdict {
        let Some(packet) = batch.burst.packet(index) else {
            return Verdict::Drop(DropReason::UnderlayNotOurs);
        };
        let head = packet.head();
        let is_tunnel = headers.l4 == L4::Udp
            && headers.destination_port == vxlan::PORT
            && headers.fragment == Fragment::Whole;
        let destination = headers.destination_ip(head);
        let ours = destination.is_some_and(|address| self.own(address).is_some());
        if is_tunnel && ours && headers.vlan_count == 0 && self.is_for_us(head) {
            return match self.tunnel(head, headers, last) {
                Ok(_) if !checksum_is_right(batch, index, headers) => {
                    Verdict::Drop(DropReason::TunnelChecksum)
                }
                Ok((bytes, origin)) => Verdict::Strip(bytes, origin),
                Err(reason) => Verdict::Drop(reason),
            };
        }
        let external = &self.tables.network.external;
        if !external.is_empty()
            && headers.vlan_count == 0
            && self.is_for_us(head)
            && destination.is_some_and(|address| external.owner(address).is_some())
            && ndp::parse(head, headers).ok().is_none_or(|message| matches!(message, ndp::Message::Other))
        {
            return Verdict::Outside;
        }
        self.judge_other(batch, index, headers, scratch)
    }

    /// Whether the switch answers neighbours for this address: its own, or an external one that this host announces.
    fn answers_for(&self, address: IpAddr) -> bool {
        self.own(address) == Some(true) || self.tables.network.external.announced.contains(&address)
    }

    /// How long the outer headers are, and where the frame came from.
    #[inline(always)]
    fn tunnel(&self, head: &[u8], headers: &Headers, last: &mut Memo) -> Result<(usize, Origin), DropReason> {
        let at = usize::from(headers.payload_offset);
        let whole = at + vxlan::HEADER_LENGTH + ethernet::HEADER_LENGTH <= headers.l3_end() as usize;
        let view = View::new(head, at).filter(|view| whole && view.is_vxlan() && !headers.has_options);
        let (Some(view), Some(source)) = (view, headers.source_ip(head)) else {
            return Err(DropReason::BadTunnel);
        };
        // What the UDP header leaves of the datagram is the inner frame; nothing may be behind it.
        if udp_end(head, headers) != Some(headers.l3_end()) {
            return Err(DropReason::BadTunnel);
        }
        let (vni, policy) = (view.vni(), view.policy().unwrap_or(0));
        let bytes = at + vxlan::HEADER_LENGTH;
        if let Some((address, number, identity, origin)) = last.tunnel
            && (address, number, identity) == (source, vni, policy)
        {
            return Ok((bytes, origin));
        }
        let vtep = self.tables.vteps.lookup(source).ok_or(DropReason::UnknownVtep)?;
        let vpc = self.tables.vnis.lookup(vni).ok_or(DropReason::UnknownVni)?;
        let trusted = self.tables.network.tunnel(vtep).is_some_and(|tunnel| tunnel.is_host);
        let origin = Origin { vtep, vpc, identity: if trusted { policy } else { 0 } };
        last.tunnel = Some((source, vni, policy, origin));
        Ok((bytes, origin))
    }

    /// Whether `address` is this host's, and then whether the switch answers for it.
    #[inline(always)]
    fn own(&self, address: IpAddr) -> Option<bool> {
        self.uplink.addresses.iter().find(|own| own.address == address).map(|own| own.answered)
    }

    #[inline(always)]
    fn is_for_us(&self, head: &[u8]) -> bool {
        ethernet::View::new(head).is_some_and(|view| view.destination() == self.uplink.mac)
    }

    /// Whatever is not a tunnel's: neighbour messages and pings are answered, the rest is the host's own or nobody's.
    #[cold]
    #[inline(never)]
    fn judge_other(
        &self,
        batch: &mut Batch<'_, '_>,
        index: usize,
        headers: &Headers,
        scratch: &mut [u8; HEAD_BYTES],
    ) -> Verdict {
        let nothing = Verdict::Drop(DropReason::UnderlayNotOurs);
        let partial = matches!(batch.burst.offload(index).checksum, Checksum::Partial { .. });
        let Some(packet) = batch.burst.packet_mut(index) else { return nothing };
        let head = packet.head_mut();
        let length = head.len().min(HEAD_BYTES);
        scratch[..length].copy_from_slice(&head[..length]);
        if headers.vlan_count != 0 {
            return nothing;
        }
        match (headers.l3, headers.l4) {
            (L3::Arp, _) => self.judge_arp(scratch, headers),
            (L3::Ipv6, L4::Icmpv6) => match ndp::parse(&scratch[..length], headers) {
                Ok(ndp::Message::Advertisement(_)) => Verdict::Punt(PuntKind::UnderlayNeighbour),
                Ok(ndp::Message::Solicitation(asked)) => match self.answers_for(IpAddr::V6(asked.target)) {
                    _ if asked.source_link.is_some_and(|mac| self.is_news(IpAddr::V6(asked.source), mac)) => {
                        Verdict::Punt(PuntKind::UnderlayNeighbour)
                    }
                    true => {
                        ndp::advertise_in_place(scratch, headers, &asked, self.uplink.mac, ndp::Role::Host)
                            .map_or(nothing, Verdict::Answer)
                    }
                    false => nothing,
                },
                _ => self.echo(head, headers, partial),
            },
            (L3::Ipv4, L4::Icmp) => self.echo(head, headers, partial),
            _ => nothing,
        }
    }

    fn judge_arp(&self, scratch: &mut [u8; HEAD_BYTES], headers: &Headers) -> Verdict {
        let nothing = Verdict::Drop(DropReason::UnderlayNotOurs);
        let Some(message) = arp::View::new(scratch, headers) else { return nothing };
        // A gateway that moved says so in either form.
        if message.operation() == arp::Operation::Reply || message.is_gratuitous() {
            return Verdict::Punt(PuntKind::UnderlayNeighbour);
        }
        let asks = message.operation() == arp::Operation::Request;
        if asks && self.is_news(IpAddr::V4(message.sender_ip()), message.sender_mac()) {
            return Verdict::Punt(PuntKind::UnderlayNeighbour);
        }
        if asks && self.answers_for(IpAddr::V4(message.target_ip())) {
            return arp::reply_in_place(scratch, headers, self.uplink.mac).map_or(nothing, Verdict::Answer);
        }
        nothing
    }

    /// Whether who asks is a next hop that is somewhere else than this host thinks (RFC 826: who asks says where it is). The control thread then
    /// answers what it asks. Routers are heard always: nobody here knows which next hop they are.
    fn is_news(&self, sender: IpAddr, mac: MacAddr) -> bool {
        let Tables { network, vteps, neighbours, .. } = self.tables;
        let tunnel = vteps.lookup(sender).and_then(|vtep| network.tunnel(vtep));
        let moved = |neighbour| neighbours.mac(neighbour) != Some(mac);
        self.uplink.gateways.contains(&sender)
            || network.external.is_router_elsewhere(sender, mac, neighbours)
            || tunnel.is_some_and(|tunnel| moved(tunnel.neighbour))
    }

    fn echo(&self, head: &mut [u8], headers: &Headers, partial: bool) -> Verdict {
        let answered = headers.destination_ip(head).and_then(|address| self.own(address)) == Some(true);
        let unicast = self.is_for_us(head) && headers.source_ip(head).is_some_and(route::is_station);
        if answered && unicast && route::echo_in_place(head, headers, self.uplink.mac, partial).is_some() {
            Verdict::Return
        } else {
            Verdict::Drop(DropReason::UnderlayNotOurs)
        }
    }
}

/// Where the datagram ends by its own header, from the start of the frame.
#[inline(always)]
fn udp_end(head: &[u8], headers: &Headers) -> Option<u32> {
    let at = usize::from(headers.l4_offset);
    let field = head.get(at + udp::LENGTH_OFFSET..)?.first_chunk::<2>()?;
    Some(u32::from(u16::from_be_bytes(*field)) + at as u32)
}

/// Whether the outer UDP checksum is right, or there is none, or somebody vouches for it.
#[inline(always)]
fn checksum_is_right(batch: &Batch<'_, '_>, index: usize, headers: &Headers) -> bool {
    if batch.burst.offload(index).checksum != Checksum::Unverified {
        return true;
    }
    let Some(packet) = batch.burst.packet(index) else { return false };
    let at = usize::from(headers.l4_offset) + udp::CHECKSUM_OFFSET;
    match packet.head().get(at..).and_then(<[u8]>::first_chunk) {
        Some([0, 0]) => true,
        _ => sum_is_right(batch, index, headers),
    }
}

#[cold]
fn sum_is_right(batch: &Batch<'_, '_>, index: usize, headers: &Headers) -> bool {
    let Some(frame) = batch.burst.frame(index) else { return false };
    let Some(pseudo) = pseudo_header(frame.head(), headers) else { return false };
    let covered = frame.head().get(usize::from(headers.l4_offset)..).unwrap_or_default();
    // Padding is zero on Ethernet, or lies: then the sum is wrong, as it should be.
    pseudo.plus(Sum::of(covered)).plus(body_sum(&frame, covered.len())).is_right()
}

/// Takes the outer headers off; what was asked of the whole is asked of the rest.
#[inline(always)]
fn strip(batch: &mut Batch<'_, '_>, index: usize, bytes: usize, origin: Origin, headers: &Headers) {
    let offload = batch.burst.offload(index);
    let Some(packet) = batch.burst.packet_mut(index) else { return };
    let class = vxlan::traffic_class(packet.head(), headers);
    if !packet.strip(bytes) {
        return batch.drop(index, DropReason::BadTunnel);
    }
    if offload != Offload::NONE {
        let inner = inner_offload(offload, bytes);
        batch.burst.set_offload(index, inner);
    }
    let metadata = &mut batch.metadata[index];
    (metadata.origin, metadata.outer_class) = (origin, class.into());
    batch.decapsulated |= 1 << index;
}

/// What is left to do to the inner frame, given what was left to do to the whole.
fn inner_offload(offload: Offload, tunnel: usize) -> Offload {
    match offload.checksum {
        Checksum::Partial { start, offset } if usize::from(start) >= tunnel => Offload {
            checksum: Checksum::Partial { start: start - tunnel as u16, offset },
            segment: offload.segment,
            tunnel: 0,
        },
        // It spoke of the outer checksum.
        _ => Offload::NONE,
    }
}
