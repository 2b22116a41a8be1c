//! Puts the outer headers before what goes to another host, and sends it to the uplink.
//!
//! A stage of its own because it is the last that sees a packet as its sender meant it: here it is too long for the fabric or not. All packets of
//! one tunnel share a template ([`packet::vxlan::Outer`]); ECN goes outside as RFC 6040 says, DSCP does not, and the UDP source port is the
//! inner flow's. What the sender left to do (checksum, cut) stays to be done, and moves with the frame.
//!
//! Drops: [`DropReason::NoUplink`], [`DropReason::TooBig`].

use crate::answers::Answers;
use buf::{Burst, Checksum, Offload, Packet};
use engine::{Batch, DropReason, Group, Indices, Metadata, Output, PortIndex, Runs, bits};
use packet::icmp_error::IcmpError;
use packet::vxlan::{self, OUTER_LENGTH_V4, OUTER_LENGTH_V6, Outer};
use packet::{Headers, L3, ethernet, ipv4, ipv6, tcp, udp};
use tables::{Neighbours, Network, Tunnel, Uplink, Vpc};

/// Runs the stage. `identity` is the senders'; who sends too long packets is told by `answers`.
#[inline]
pub fn run(
    batch: &mut Batch<'_, '_>,
    network: &Network,
    neighbours: &Neighbours,
    identity: u16,
    answers: &mut Answers<'_>,
) {
    if batch.is_tunnelled() {
        run_tunnelled(batch, network, neighbours, identity, answers);
    }
}

fn run_tunnelled(
    batch: &mut Batch<'_, '_>,
    network: &Network,
    neighbours: &Neighbours,
    identity: u16,
    answers: &mut Answers<'_>,
) {
    let mut at = 0;
    while let Some(group) = batch.group(at) {
        at += 1;
        match group.output {
            Output::Tunnel { vtep, vpc } => {
                let way = Way::find(network, vtep, vpc);
                send_tunnelled(batch, (network, neighbours, way), identity, group, answers);
            }
            Output::External { exit } => send_outside(batch, network, neighbours, exit, group.packets),
            Output::Port(_) => {}
        }
    }
}

#[inline(always)]
fn send_tunnelled(
    batch: &mut Batch<'_, '_>,
    (network, neighbours, way): (&Network, &Neighbours, Option<Way<'_>>),
    identity: u16,
    Group { output, packets }: Group,
    answers: &mut Answers<'_>,
) {
    let Some(way) = way else {
        Indices(packets).for_each(|index| batch.drop(index, DropReason::NoUplink));
        return;
    };
    let mac = neighbours.of_use(way.tunnel.neighbour);
    let policy = if way.tunnel.is_host { identity } else { 0 };
    let outer = way.outer.towards(mac.unwrap_or_default(), way.vpc.vni, policy);
    if way.vpc.clamp_mss {
        Indices(packets).for_each(|index| clamp_mss(batch, index, way.vpc.mtu));
    }
    let too_big = wrap_any(batch, packets, &outer, way.vpc.mtu);
    if too_big != 0 {
        let error = IcmpError::TooBig { mtu: way.vpc.mtu };
        Indices(too_big).for_each(|index| answers.error(batch, network, index, error, DropReason::TooBig));
    }
    if mac.is_none() {
        Indices(packets & !too_big).for_each(|index| batch.hold(index, way.tunnel.neighbour));
    }
    batch.redirect(output, Output::Port(PortIndex(way.uplink.port)));
}

/// Sends packets out by the uplink as they are, to the router of an external network.
#[cold]
#[inline(never)]
fn send_outside(
    batch: &mut Batch<'_, '_>,
    network: &Network,
    neighbours: &Neighbours,
    exit: u16,
    packets: u32,
) {
    let way = network.uplink.as_ref().zip(network.external.exit(exit));
    for index in Indices(packets) {
        let v4 = batch.metadata[index].headers.l3 == L3::Ipv4;
        let Some((uplink, router)) = way.and_then(|(uplink, exit)| Some((uplink, exit.router(v4)?))) else {
            batch.drop(index, DropReason::NoUplink);
            continue;
        };
        let mac = neighbours.of_use(router);
        if let Some(packet) = batch.burst.packet_mut(index) {
            let _ = ethernet::set_addresses(packet.head_mut(), mac.unwrap_or_default(), uplink.mac);
        }
        if mac.is_none() {
            batch.hold(index, router);
        }
    }
    if let Some((uplink, _)) = way {
        batch.redirect(Output::External { exit }, Output::Port(PortIndex(uplink.port)));
    }
}

/// Lowers the segment size that a SYN offers to what fits an MTU.
#[inline]
fn clamp_mss(batch: &mut Batch<'_, '_>, index: usize, mtu: u16) {
    let headers = &batch.metadata[index].headers;
    let partial = matches!(batch.burst.offload(index).checksum, Checksum::Partial { .. });
    let before = if headers.l3 == L3::Ipv4 { ipv4::MIN_HEADER_LENGTH } else { ipv6::HEADER_LENGTH };
    let most = usize::from(mtu).saturating_sub(before + tcp::MIN_HEADER_LENGTH) as u16;
    if let Some(packet) = batch.burst.packet_mut(index) {
        tcp::clamp_mss(packet.head_mut(), headers, most, partial);
    }
}

/// Everything that leads to one tunnel end point.
struct Way<'n> {
    uplink: &'n Uplink,
    tunnel: &'n Tunnel,
    outer: &'n Outer,
    vpc: &'n Vpc,
}

impl<'n> Way<'n> {
    fn find(network: &'n Network, vtep: u16, vpc: u16) -> Option<Self> {
        let tunnel = network.tunnel(vtep)?;
        Some(Self {
            uplink: network.uplink.as_ref()?,
            tunnel,
            outer: tunnel.outer.as_ref()?,
            vpc: network.vpc(vpc)?,
        })
    }
}

/// Puts the outer headers before `packets`, over whichever family; as [`wrap`] returns.
#[inline(always)]
fn wrap_any(batch: &mut Batch<'_, '_>, packets: u32, outer: &Outer, mtu: u16) -> u32 {
    match (outer.template(), outer.template()) {
        (Some(template), _) => wrap::<OUTER_LENGTH_V4>(batch, packets, outer, template, mtu),
        (_, Some(template)) => wrap::<OUTER_LENGTH_V6>(batch, packets, outer, template, mtu),
        (None, None) => 0,
    }
}

/// Whether the packet, or each piece it is to be cut into, is no longer than `mtu` at the network layer.
#[inline(always)]
pub(crate) fn fits(burst: &Burst<'_>, metadata: &Metadata, index: usize, mtu: u16) -> bool {
    let Some(packet) = burst.packet(index) else { return false };
    let headers = &metadata.headers;
    let end = longest_piece(burst, index, headers).unwrap_or(packet.len());
    end <= usize::from(mtu) + usize::from(headers.l3_offset)
}

/// Where a packet ends at the network layer if it is to be cut: the longest piece.
#[inline(always)]
fn longest_piece(burst: &Burst<'_>, index: usize, headers: &Headers) -> Option<usize> {
    let segment = burst.offload(index).segment?;
    Some(usize::from(headers.payload_offset) + usize::from(segment.size))
}

/// Puts the outer headers before `packets`. What is too long for the fabric stays as it is and is returned, as a bit per packet.
#[inline(always)]
fn wrap<const N: usize>(
    batch: &mut Batch<'_, '_>,
    packets: u32,
    outer: &Outer,
    template: &[u8; N],
    mtu: u16,
) -> u32 {
    let burst = &mut *batch.burst;
    let silent = packets & !burst.with_offload();
    let done = wrap_plain(burst.packets_mut(), silent, outer, template, mtu);
    if N == OUTER_LENGTH_V6 {
        Indices(done).for_each(|index| burst.set_offload(index, OUTER_CHECKSUM));
    }
    match packets & !done {
        0 => 0,
        others => wrap_others(batch, others, outer, template, mtu),
    }
}

/// The same for those that are not plain, or ask for something.
#[inline(never)]
fn wrap_others<const N: usize>(
    batch: &mut Batch<'_, '_>,
    packets: u32,
    outer: &Outer,
    template: &[u8; N],
    mtu: u16,
) -> u32 {
    let Batch { burst, metadata, verdicts, .. } = batch;
    let asking = burst.with_offload();
    let mut too_big = 0;
    for index in Indices(packets) {
        let (bit, headers) = (1 << index, &metadata[index].headers);
        let end = if asking & bit != 0 { longest_piece(burst, index, headers) } else { None };
        let Some(packet) = burst.packet_mut(index) else { continue };
        let inner_length = packet.len();
        if end.unwrap_or(inner_length) > usize::from(mtu) + usize::from(headers.l3_offset) {
            too_big |= bit;
            continue;
        }
        let source_port = vxlan::source_port(packet.head(), headers);
        let class = vxlan::encapsulated_ecn(packet.head(), headers);
        let whole = end.is_some() || inner_length + N <= usize::from(u16::MAX);
        match packet.prepend_array(template).filter(|_| whole) {
            Some(head) => outer.complete(head, source_port, class, inner_length),
            None => {
                verdicts.drop(index, DropReason::TooBig);
                continue;
            }
        }
        if asking & bit != 0 || N == OUTER_LENGTH_V6 {
            let before = burst.offload(index);
            if move_offload(burst, index, outer, before).is_none() {
                verdicts.drop(index, DropReason::TooBig);
            }
        }
    }
    too_big
}

/// The same for those that are plain ([`vxlan::of_plain`]) and not too long: most. As the others stay as they are, this is a short loop. Returns which it was done to.
#[inline(always)]
fn wrap_plain<const N: usize>(
    all: &mut [Packet],
    packets: u32,
    outer: &Outer,
    template: &[u8; N],
    mtu: u16,
) -> u32 {
    let mut done = packets;
    let longest = (usize::from(mtu) + ethernet::HEADER_LENGTH).min(usize::from(u16::MAX) - N);
    for run in Runs(packets) {
        for (packet, index) in all.get_mut(run.clone()).unwrap_or_default().iter_mut().zip(run) {
            let length = packet.len();
            let known = if length <= longest { vxlan::of_plain(packet.head()) } else { None };
            match known.and_then(|known| Some((known, packet.prepend_array(template)?))) {
                Some(((source_port, class), head)) => outer.complete(head, source_port, class, length),
                None => done &= !bits(index..index + 1),
            }
        }
    }
    done
}

/// The outer checksum over IPv6: the pseudo header's sum is there; who transmits completes it.
const OUTER_CHECKSUM: Offload = Offload {
    checksum: Checksum::Partial {
        start: (OUTER_LENGTH_V6 - vxlan::HEADER_LENGTH - udp::HEADER_LENGTH) as u16,
        offset: udp::CHECKSUM_OFFSET as u16,
    },
    segment: None,
    tunnel: 0,
};

/// What is left to do to the packet, now that its frame begins further behind; and over IPv6 the outer checksum.
#[inline(never)]
fn move_offload(burst: &mut Burst<'_>, index: usize, outer: &Outer, before: Offload) -> Option<()> {
    let tunnel = outer.length();
    let after = match before.checksum {
        Checksum::Partial { start, offset } => {
            let start = start.checked_add(tunnel as u16)?;
            if outer.is_v6() && before.segment.is_none() {
                let head = burst.packet_mut(index)?.head_mut();
                let field = usize::from(start) + usize::from(offset);
                let pseudo = u16::from_be_bytes(*head.get(field..)?.first_chunk()?);
                let pseudo = packet::checksum::Sum::from_folded(pseudo);
                vxlan::checksum_from_inner(head, tunnel, usize::from(start), pseudo)?;
            }
            Offload {
                checksum: Checksum::Partial { start, offset },
                segment: before.segment,
                tunnel: tunnel as u8,
            }
        }
        _ if outer.is_v6() => OUTER_CHECKSUM,
        _ => Offload::NONE,
    };
    burst.set_offload(index, after);
    Some(())
}
