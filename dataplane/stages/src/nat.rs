//! What the packets of a new session become outside of their VPC, or as they come in from there: blocks of NAT gateways, and floating IPs.
//!
//! Not a stage: [`policy`](crate::policy) asks, and keeps it in the session's keys; [`translate`](crate::translate) does it to packets.

use crate::police::{Attachment, Police, port_of};
use crate::tuple::{Tuple, Upper};
use engine::{Batch, DropReason, Output};
use std::net::IpAddr;
use tables::external::{Block, Inside, Owner, Source};
use tables::sessions::AnyKey;

/// What a first packet's addresses and ports become.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Plan {
    /// What they were.
    Same,
    /// These addresses, and the same ports.
    Addresses(IpAddr, IpAddr),
    /// An address and some port of the block as its source, and this destination.
    Block(Block, IpAddr),
}

/// External ports that are tried for a flow before it is refused: that many look-ups at most.
const TRIES: u32 = 64;

impl Plan {
    /// What the packets become at the other end: each time for another port, as long as the last one was taken.
    pub(crate) fn candidates(self, tuple: Tuple) -> impl Iterator<Item = Tuple> {
        let (source, destination, ports) = match self {
            Self::Same => (tuple.source, tuple.destination, None),
            Self::Addresses(source, destination) => (source, destination, None),
            Self::Block(block, destination) => (block.address, destination, Some(block)),
        };
        let wanted = match tuple.upper {
            // What SCTP's checksum covers cannot be mended, so its ports stay.
            Upper::Ports([0, 0]) | Upper::Message(..) => None,
            Upper::Ports(_) if tuple.protocol == packet::sctp::PROTOCOL => None,
            Upper::Ports([first, _]) => Some(first),
            Upper::Echo { identifier, .. } => Some(identifier),
        };
        let (tries, block) = match (ports, wanted) {
            (Some(block), Some(wanted)) => (TRIES.min(block.count.into()), Some((block, wanted))),
            _ => (1, None),
        };
        (0..tries).map(move |attempt| {
            let port = block.map(|(block, wanted)| {
                let count = u32::from(block.count).max(1);
                block.first.wrapping_add(((u32::from(wanted) + attempt) % count) as u16)
            });
            let upper = match (tuple.upper, port) {
                (Upper::Ports([_, to]), Some(port)) => Upper::Ports([port, to]),
                (Upper::Echo { reply, .. }, Some(identifier)) => Upper::Echo { identifier, reply },
                (upper, _) => upper,
            };
            Tuple { source, destination, upper, ..tuple }
        })
    }
}

impl Police<'_> {
    /// What the source and destination of a packet from here to there become.
    pub(crate) fn plan(&self, from: Attachment, output: Output, tuple: &Tuple) -> Result<Plan, DropReason> {
        let external = &self.network.external;
        if external.is_empty() {
            return Ok(Plan::Same);
        }
        let (source, destination) = (tuple.source, tuple.destination);
        let inside = Inside { vpc: from.vpc, address: source };
        match (output, external.owner(destination), from.port) {
            (Output::External { exit }, ..) => {
                let exit = external.exit(exit).ok_or(DropReason::NoExternalAddress)?;
                Self::leave(exit.source(source), destination)
            }
            // What came from outside is sent on to the host of its port as it was.
            (Output::Tunnel { .. }, Some(_), None) | (_, None, _) => Ok(Plan::Same),
            (_, Some(Owner::Floating(owner, _)), None) if owner.vpc == from.vpc => {
                Ok(Plan::Addresses(source, owner.address))
            }
            (_, Some(_), None) => Err(DropReason::NatUnknown),
            // From a port here to a floating IP: the receiver sees the sender's external address, so that its answers come back.
            (_, Some(Owner::Floating(owner, network)), Some(_)) => {
                let to = if matches!(output, Output::Port(_)) { owner.address } else { destination };
                Self::leave(external.source(inside, *network), to)
            }
            (_, Some(Owner::Shared { .. }), Some(_)) => Err(DropReason::NatUnknown),
        }
    }

    fn leave(source: Option<Source>, destination: IpAddr) -> Result<Plan, DropReason> {
        match source.ok_or(DropReason::NoExternalAddress)? {
            Source::Floating(address) => Ok(Plan::Addresses(address, destination)),
            Source::Block(block) => Ok(Plan::Block(block, destination)),
        }
    }

    /// Whether the external addresses by which a session's packets are known outside still are those of the same ends.
    pub(crate) fn is_translation_current(&self, initiator: &AnyKey, responder: &AnyKey) -> bool {
        let vpc = |key: &AnyKey| {
            port_of(key.attachment()).map_or(Some(key.attachment() as u16), |port| self.vpc_of(port))
        };
        let ((source, destination), (answerer, called)) = (initiator.addresses(), responder.addresses());
        let known = &self.network.external;
        // A target that reaches itself by a load balancer's address sees that as the source.
        if source != called && called != destination {
            let (from, (_, port)) = (vpc(initiator), responder.ports());
            if !from.is_some_and(|vpc| known.is_still(Inside { vpc, address: source }, called, port)) {
                return false;
            }
        }
        match known.owner(destination) {
            Some(Owner::Floating(inside, _)) if destination != answerer => {
                vpc(responder).is_some_and(|vpc| *inside == Inside { vpc, address: answerer })
            }
            // From elsewhere nothing but floating IPs is translated; from here a load balancer does it too.
            _ => destination == answerer || port_of(initiator.attachment()).is_some(),
        }
    }

    fn vpc_of(&self, port: u16) -> Option<u16> {
        match self.filters.port(port) {
            tables::Filter::Rules { vpc, .. } => Some(vpc),
            _ => None,
        }
    }

    /// A later fragment that would have to become something else is refused: it does not say what.
    pub(crate) fn whole(
        &self,
        batch: &Batch<'_, '_>,
        index: usize,
        (from, output): (Attachment, Output),
    ) -> Result<(), DropReason> {
        let tuple =
            batch.metadata.get(index).zip(batch.burst.packet(index)).and_then(|(metadata, packet)| {
                let (head, headers) = (packet.head(), &metadata.headers);
                let (source, destination) = (headers.source_ip(head)?, headers.destination_ip(head)?);
                let upper = Upper::Ports([0, 0]);
                Some(Tuple { source, destination, protocol: headers.protocol, upper })
            });
        let plan = self.plan(from, output, &tuple.ok_or(DropReason::FragmentUnknown)?)?;
        if matches!(plan, Plan::Same) { Ok(()) } else { Err(DropReason::Untranslatable) }
    }
}
