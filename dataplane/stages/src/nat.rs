//! What the packets of a new session become outside of their VPC, or as they come in from there: blocks of NAT gateways, and floating IPs.
//!
//! Not a stage: [`policy`](crate::policy) asks, and keeps it in the session's keys; [`translate`](crate::translate) does it to packets.

use crate::police::{Attachment, Police, port_of};
use crate::policy::{NO_RULE, reason};
use crate::tuple::{Tuple, Upper};
use engine::{Batch, DropReason, Output};
use packet::MacAddr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tables::external::{Block, Inside, Mapping, Owner, Source};
use tables::sessions::{AnyKey, Created, Facts, New, Side, UNDERLAY, Way};

/// What a first packet's addresses and ports become.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Plan {
    /// What they were.
    Same,
    /// Others.
    Become {
        /// Its source.
        source: Origin,
        /// Its destination.
        destination: IpAddr,
        /// Its destination's port, if that is another too.
        port: Option<u16>,
    },
}

/// What a first packet's source becomes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    /// This address; the port stays.
    Address(IpAddr),
    /// The address and some port of the block.
    Block(Block),
    /// The address and the port that stands for the sender's, whatever it talks to.
    Mapped(Block),
}

/// External ports that are tried for a flow before it is refused: that many look-ups at most.
const TRIES: u32 = 64;

impl Plan {
    /// Whether the source's port is chosen of several.
    pub(crate) fn chooses(&self) -> bool {
        matches!(self, Self::Become { source: Origin::Block(_), .. })
    }

    /// What a packet becomes at the other end, with this port of a block.
    fn with(&self, tuple: &Tuple, chosen: Option<u16>) -> Tuple {
        let Self::Become { source, destination, port } = *self else { return *tuple };
        let source = match source {
            Origin::Address(address) => address,
            Origin::Block(block) | Origin::Mapped(block) => block.address,
        };
        let upper = match tuple.upper {
            Upper::Ports([from, to]) => Upper::Ports([chosen.unwrap_or(from), port.unwrap_or(to)]),
            Upper::Echo { identifier, reply } => {
                Upper::Echo { identifier: chosen.or(port).unwrap_or(identifier), reply }
            }
            upper @ Upper::Message(..) => upper,
        };
        Tuple { source, destination, upper, ..*tuple }
    }

    /// What the packets become at the other end: each time for another port, as long as the last one was taken. `mapped`: the port that stands for the sender's.
    pub(crate) fn candidates(self, tuple: Tuple, mapped: Option<u16>) -> impl Iterator<Item = Tuple> {
        let chosen = match self {
            Self::Become { source: Origin::Block(block), .. } => own_port(&tuple).map(|own| (block, own)),
            _ => None,
        };
        let ports = chosen.into_iter().flat_map(|(block, own)| ports_of(block, own)).map(Some);
        ports.chain(chosen.is_none().then_some(mapped)).map(move |port| self.with(&tuple, port))
    }
}

/// The port, or the identifier of an echo, that tells a sender's flows apart and may become another; none of a protocol without, and of SCTP, whose checksum cannot be
/// mended.
fn own_port(tuple: &Tuple) -> Option<u16> {
    match tuple.upper {
        Upper::Ports([0, 0]) | Upper::Message(..) => None,
        Upper::Ports(_) if tuple.protocol == packet::sctp::PROTOCOL => None,
        Upper::Ports([first, _]) => Some(first),
        Upper::Echo { identifier, .. } => Some(identifier),
    }
}

/// Ports of a block in the order in which they are tried for a port of its owner: first those as odd or even as that (RFC 4787 section 4.2.2), from a place that depends on it.
fn ports_of(block: Block, own: u16) -> impl Iterator<Item = u16> {
    let (count, first) = (u32::from(block.count).max(1), u32::from(block.first));
    let pairs = count / 2;
    let odd = u32::from((own ^ block.first) & 1);
    // Neighbours of what is taken are often taken too: every step leads elsewhere. Steps that have no common divisor with the number of pairs come everywhere.
    let step = (0..).map(|at| pairs / 2 + 1 + at).find(|step| coprime(*step, pairs)).unwrap_or(1);
    let start = u32::from(own) / 2;
    let paired = [odd, 1 - odd]
        .into_iter()
        .flat_map(move |odd| (0..pairs).map(move |at| 2 * ((start + at * step) % pairs.max(1)) + odd));
    // A block of an odd number of ports has one more.
    let last = (count % 2 == 1).then_some(count - 1);
    paired.chain(last).take(TRIES as usize).map(move |offset| (first + offset) as u16)
}

fn coprime(a: u32, b: u32) -> bool {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a <= 1
}

/// The protocol in the keys of what says which external port stands for a port inside: no packet of it has ports.
const MAPPING: u8 = 253;

/// What is known of a packet that is none.
const NOTHING: Facts = Facts { destination_mac: 0, length: 0, tcp: None };

fn leave(
    source: Option<Source>,
    mapping: Mapping,
    (destination, port): (IpAddr, Option<u16>),
) -> Result<Plan, DropReason> {
    let source = match (source.ok_or(DropReason::NoExternalAddress)?, mapping) {
        (Source::Floating(address), _) => Origin::Address(address),
        (Source::Block(block), Mapping::Destination) => Origin::Block(block),
        (Source::Block(block), Mapping::EndpointIndependent) => Origin::Mapped(block),
    };
    Ok(Plan::Become { source, destination, port })
}

/// Nobody's address, of the family of another.
fn nobody(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// The key of what an external port stands for, as it is found from outside; reversed by how its owner's packets find it.
fn outside_key(vpc: u16, protocol: u8, address: IpAddr, port: u16) -> Option<AnyKey> {
    let attachment = UNDERLAY | u32::from(vpc);
    AnyKey::new(attachment, nobody(address), address, MAPPING, [protocol.into(), port])
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
        let stays = matches!(output, Output::Port(_));
        match (output, external.owner(destination), from.port) {
            (Output::External { exit }, ..) => {
                let exit = external.exit(exit).ok_or(DropReason::NoExternalAddress)?;
                leave(exit.source(source), exit.mapping, (destination, None))
            }
            // What came from outside is sent on to the host of its port as it was.
            (Output::Tunnel { .. }, Some(_), None) | (_, None, _) => Ok(Plan::Same),
            (_, Some(Owner::Floating(owner, _)), None) if owner.vpc == from.vpc => {
                Ok(Plan::Become { source: Origin::Address(source), destination: owner.address, port: None })
            }
            (_, Some(Owner::Floating(..)), None) => Err(DropReason::NatUnknown),
            (_, Some(Owner::Shared { vpc, .. }), None) => {
                let (destination, port) = self.mapped(*vpc, tuple).ok_or(DropReason::NatUnknown)?;
                Ok(Plan::Become { source: Origin::Address(source), destination, port: Some(port) })
            }
            // From a port here to a floating IP: the receiver sees the sender's external address, so that its answers come back.
            (_, Some(Owner::Floating(owner, network)), Some(_)) => {
                let (source, mapping) = external.source(inside, *network);
                leave(source, mapping, (if stays { owner.address } else { destination }, None))
            }
            (_, Some(owner @ Owner::Shared { .. }), Some(_)) => self.to_shared(inside, owner, tuple, stays),
        }
    }

    /// From a port here to what an external port of somebody stands for, here or on another host.
    fn to_shared(&self, from: Inside, owner: &Owner, tuple: &Tuple, stays: bool) -> Result<Plan, DropReason> {
        let (external, shared) = (&self.network.external, tuple.destination);
        let [_, port] = tuple.ports();
        let to = owner.inside(Some(port)).ok_or(DropReason::NatUnknown)?;
        let exit = external.exit_of(to, shared).ok_or(DropReason::NatUnknown)?;
        if exit.mapping != Mapping::EndpointIndependent {
            return Err(DropReason::NatUnknown);
        }
        let to = match self.mapped(to.vpc, tuple) {
            Some((address, port)) if stays => (address, Some(port)),
            None if stays => return Err(DropReason::NatUnknown),
            _ => (shared, None),
        };
        let (source, mapping) = external.source(from, exit.network);
        leave(source, mapping, to)
    }

    /// Who inside an external port stands for, whoever sends there.
    fn mapped(&self, vpc: u16, tuple: &Tuple) -> Option<(IpAddr, u16)> {
        let Upper::Ports([_, port]) = tuple.upper else { return None };
        let key = outside_key(vpc, tuple.protocol, tuple.destination, port)?;
        let session = self.sessions.find_any(key).session()?;
        let (owner, _) = self.sessions.keys(session);
        let ((address, _), (own, _)) = (owner.addresses(), owner.ports());
        let inside = Inside { vpc, address };
        let external = &self.network.external;
        let exit = external.exit_of(inside, tuple.destination)?;
        let current = external.is_still(inside, tuple.destination, port);
        (current && exit.mapping == Mapping::EndpointIndependent).then_some((address, own))
    }

    /// The external port that stands for a sender's, from now on if none did; it is kept like a session of the sender's.
    ///
    /// # Errors
    ///
    /// None of the block is free, or the sender has no room for it.
    pub(crate) fn map(
        &mut self,
        from: Attachment,
        block: Block,
        tuple: &Tuple,
    ) -> Result<Option<u16>, DropReason> {
        let Some(own) = own_port(tuple) else { return Ok(None) };
        let outside = |port| outside_key(from.vpc, tuple.protocol, block.address, port);
        let inside = AnyKey::new(
            from.number(),
            tuple.source,
            nobody(tuple.source),
            MAPPING,
            [own, tuple.protocol.into()],
        );
        let inside = inside.ok_or(DropReason::EtherTypeRefused)?;
        if let Some(session) = self.sessions.find_any(inside).session() {
            let (_, known) = self.sessions.keys(session);
            let ((_, address), (_, port)) = (known.addresses(), known.ports());
            if address == block.address && block.ports().contains(&port.into()) {
                let _ = self.sessions.check(session.found(), &NOTHING, self.epoch, self.now, |_, _| 0);
                return Ok(Some(port));
            }
            self.sessions.cut(session);
        }
        for port in ports_of(block, own) {
            let outside = outside(port).ok_or(DropReason::EtherTypeRefused)?;
            if self.sessions.find_any(outside).is_some() {
                continue;
            }
            if self.keep(from, inside, outside)? {
                return Ok(Some(port));
            }
        }
        Err(DropReason::NatExhausted)
    }

    /// Makes a session of what an external port stands for. False if that is taken.
    fn keep(&mut self, from: Attachment, inside: AnyKey, outside: AnyKey) -> Result<bool, DropReason> {
        let way = Way { output: 0, rewrite: None, translate: false };
        let new = New {
            owner: from.port.unwrap_or(0),
            initiator: Side { key: inside, way: Some((MacAddr::ZERO, way)), stamp: 0 },
            responder: Side { key: outside, way: None, stamp: 0 },
            epoch: self.epoch,
            facts: NOTHING,
            rules: [NO_RULE; 2],
            now: self.now,
        };
        match self.sessions.create_any(&new) {
            Ok(Created::New(_) | Created::Existing(_)) => Ok(true),
            Ok(Created::Clash(_)) => Ok(false),
            Err(refused) => Err(reason(refused)),
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
            Some(Owner::Shared { .. }) if destination != answerer => {
                let (_, port) = initiator.ports();
                vpc(responder)
                    .is_some_and(|vpc| known.is_still(Inside { vpc, address: answerer }, destination, port))
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

    /// A later fragment that would have to become something else is refused: those that follow a first one went with it.
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
        if matches!(plan, Plan::Same) { Ok(()) } else { Err(DropReason::FragmentUnknown) }
    }
}
