//! Puts the outer headers before what goes to another host, and sends it to the uplink.
//!
//! A stage of its own because it is the last that sees a packet as its sender meant it: here it is too long for the fabric or not. All packets of
//! one tunnel share a template ([`packet::vxlan::Outer`]); ECN goes outside as RFC 6040 says, DSCP does not, and the UDP source port is the
//! inner flow's. What the sender left to do (checksum, cut) stays to be done, and moves with the frame.
//!
//! Drops: [`DropReason::NoUplink`], [`DropReason::TooBig`].

use crate::answers::Answers;
use buf::{Burst, Checksum, Offload};
use engine::{Batch, DropReason, Indices, Metadata, Output, PortIndex};
use packet::icmp_error::IcmpError;
use packet::vxlan::{self, Outer, PerPacket};
use packet::{Headers, L3, L4, MacAddr, ipv4, ipv6, tcp};
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
        let Output::Tunnel { vtep, vpc } = group.output else { continue };
        let way = Way::find(network, vtep, vpc);
        let Some(way) = way else {
            Indices(group.packets).for_each(|index| batch.drop(index, DropReason::NoUplink));
            continue;
        };
        let mac = neighbours.of_use(way.tunnel.neighbour);
        let policy = if way.tunnel.is_host { identity } else { 0 };
        for index in Indices(group.packets) {
            if !fits(batch.burst, &batch.metadata[index], index, way.vpc.mtu) {
                answers.error(
                    batch,
                    network,
                    index,
                    IcmpError::TooBig { mtu: way.vpc.mtu },
                    DropReason::TooBig,
                );
                continue;
            }
            if way.vpc.clamp_mss && batch.metadata[index].headers.l4 == L4::Tcp {
                clamp_mss(batch, index, way.vpc.mtu);
            }
            let per = (mac.unwrap_or_default(), way.vpc.vni, policy);
            if wrap(batch.burst, index, &batch.metadata[index].headers, way.outer, per).is_none() {
                batch.drop(index, DropReason::TooBig);
            } else if mac.is_none() {
                batch.hold(index, way.tunnel.neighbour);
            }
        }
        batch.redirect(group.output, Output::Port(PortIndex(way.uplink.port)));
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

/// Whether the packet, or each piece it is to be cut into, is no longer than `mtu` at the network layer.
#[inline(always)]
fn fits(burst: &Burst<'_>, metadata: &Metadata, index: usize, mtu: u16) -> bool {
    let Some(packet) = burst.packet(index) else { return false };
    let l3 = usize::from(metadata.headers.l3_offset);
    let end = match burst.offload(index).segment {
        None => packet.len(),
        Some(segment) => usize::from(metadata.headers.payload_offset) + usize::from(segment.size),
    };
    end.saturating_sub(l3) <= usize::from(mtu)
}

/// Puts the outer headers before the packet at `index`; `None` when it is too long for them.
#[inline(always)]
fn wrap(
    burst: &mut Burst<'_>,
    index: usize,
    headers: &Headers,
    outer: &Outer,
    (destination_mac, vni, policy): (MacAddr, u32, u16),
) -> Option<()> {
    let packet = burst.packet_mut(index)?;
    let (head, inner_length) = (packet.head(), packet.len());
    let per = PerPacket {
        destination_mac,
        vni,
        policy,
        source_port: vxlan::source_port(head, headers),
        traffic_class: vxlan::encapsulated_ecn(head, headers),
        inner_length,
    };
    if inner_length + outer.length() > usize::from(u16::MAX) && burst.offload(index).segment.is_none() {
        return None;
    }
    let packet = burst.packet_mut(index)?;
    if !packet.prepend(outer.template()) {
        return None;
    }
    outer.write(packet.head_mut(), &per)?;
    let before = burst.offload(index);
    if before != Offload::NONE || outer.is_v6() {
        move_offload(burst, index, outer, before)?;
    }
    Some(())
}

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
        // The pseudo header's sum is there; who transmits completes it.
        _ if outer.is_v6() => {
            Offload { checksum: Checksum::Partial { start: tunnel as u16 - 16, offset: 6 }, ..Offload::NONE }
        }
        _ => Offload::NONE,
    };
    burst.set_offload(index, after);
    Some(())
}
