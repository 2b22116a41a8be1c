//! Gives first packets to a load balancer's address the target that takes their connection, and packets whose session is to be judged again the addresses that the session gave them.
//!
//! A stage of its own because it comes between the look-up of sessions and all that goes by the destination: the router looks for the target, and rules are asked about it. The answers
//! find their way back by the session, straight from the target to the client's host. The address itself answers ping.
//!
//! A connection stays with its target while that lives, whatever targets come and go beside it. Without it the client's next packet begins anew, at another.
//!
//! Drops: [`DropReason::NoListener`], [`DropReason::NoTarget`], [`DropReason::Untranslatable`].

use crate::answers::Answers;
use crate::police::{Pending, Police, Standing, Unjudged, datagram_key};
use crate::translate;
use crate::tuple::{Tuple, Upper};
use buf::Checksum;
use engine::{Batch, DropReason};
use packet::icmp_error::IcmpError;
use packet::nat::Translated;
use packet::route;
use std::net::IpAddr;
use tables::Network;
use tables::balancers::{Balancer, Balancers, Client};
use tables::sessions::SessionRef;

/// Whether packets of a VPC's ports may go to a balancer, its own or a peer's.
#[inline]
pub fn concerns(balancers: &Balancers, network: &Network, vpc: u16) -> bool {
    !balancers.is_empty()
        && (balancers.any_in(vpc)
            || network.vpc(vpc).is_some_and(|vpc| vpc.peers.iter().any(|peer| balancers.any_in(*peer))))
}

/// The balancer that packets of a VPC's ports to `address` go to.
fn find<'a>(
    (balancers, network): (&'a Balancers, &Network),
    vpc: u16,
    address: IpAddr,
) -> Option<&'a Balancer> {
    if balancers.is_empty() {
        return None;
    }
    let peers = network.vpc(vpc).map_or(&[][..], |vpc| &vpc.peers);
    std::iter::once(&vpc).chain(peers).find_map(|vpc| balancers.get(*vpc, address))
}

/// Runs the stage over what [`sessions`](crate::sessions) left of what a port in `vpc` sent.
#[inline(never)]
pub fn run(
    batch: &mut Batch<'_, '_>,
    police: &mut Police<'_>,
    vpc: u16,
    pending: &mut Pending,
    answers: &mut Answers<'_>,
) {
    for at in 0..pending.0.len() {
        let (before, rest) = pending.0.split_at_mut(at);
        let Some(unjudged) = rest.first_mut().filter(|unjudged| batch.alive() >> unjudged.index & 1 != 0)
        else {
            continue;
        };
        let result = police.restore(batch, unjudged, vpc).and_then(|()| match unjudged.standing {
            Standing::Fragment if !police.balancers.is_empty() => {
                police.balance_later(batch, unjudged, before, vpc)
            }
            Standing::New if !police.balancers.is_empty() => police.balance(batch, unjudged, vpc, answers),
            _ => Ok(()),
        });
        if let Err(reason) = result {
            batch.drop(unjudged.index, reason);
        }
    }
}

impl Police<'_> {
    /// Does to a packet that has a session to be judged again what the session says, before it is routed again.
    pub(crate) fn restore(
        &mut self,
        batch: &mut Batch<'_, '_>,
        unjudged: &mut Unjudged,
        vpc: u16,
    ) -> Result<(), DropReason> {
        let Standing::Stale(session) = unjudged.standing else { return Ok(()) };
        let Some(to) = translate::of_session(self.table, session) else { return Ok(()) };
        if !self.keeps(session, vpc) {
            self.sessions.cut(session);
            unjudged.standing = Standing::New;
            return Ok(());
        }
        translate_one(batch, unjudged, &to)
    }

    /// Whether a session whose packets are translated may go on as it is: who made its translation still would.
    fn keeps(&self, session: SessionRef, vpc: u16) -> bool {
        let (initiator, responder) = self.sessions.keys(session);
        let ((_, shared), (_, port)) = (initiator.addresses(), initiator.ports());
        let ((target, _), (target_port, _)) = (responder.addresses(), responder.ports());
        if !self.is_translation_current(&initiator, &responder) {
            return false;
        }
        // Otherwise only its source is another, or it came by a floating IP, which was looked at.
        shared == target
            || self.network.external.owner(shared).is_some()
            || find((self.balancers, self.network), vpc, shared)
                .is_some_and(|balancer| balancer.keeps(initiator.protocol(), port, (target, target_port)))
    }

    /// Sends a first packet to a target, if it is for a balancer.
    fn balance(
        &mut self,
        batch: &mut Batch<'_, '_>,
        unjudged: &mut Unjudged,
        vpc: u16,
        answers: &mut Answers<'_>,
    ) -> Result<(), DropReason> {
        let index = unjudged.index;
        let Some(tuple) = tuple_of(batch, index).filter(|_| batch.to_gateway >> index & 1 != 0) else {
            return Ok(());
        };
        let found = find((self.balancers, self.network), vpc, tuple.destination);
        let Some(balancer) = found else { return Ok(()) };
        let ports = match tuple.upper {
            Upper::Ports(ports) => ports,
            Upper::Echo { reply: false, .. } => {
                return echo(batch, index, self.network, answers).ok_or(DropReason::NoListener);
            }
            _ => return Err(DropReason::NoListener),
        };
        let [source_port, port] = ports;
        let Some(target_port) = balancer.target_port(tuple.protocol, port) else {
            return Err(DropReason::NoListener);
        };
        let client = Client { address: tuple.source, protocol: tuple.protocol, ports };
        let Some(target) = balancer.choose(&client) else {
            answers.error(batch, self.network, index, IcmpError::HostUnreachable, DropReason::NoTarget);
            return Ok(());
        };
        // Who is given its own connection sees it come from the shared address, so that the answer comes back here.
        let source = if target == tuple.source { tuple.destination } else { tuple.source };
        let to = Translated { source, destination: target, ports: [source_port, target_port] };
        translate_one(batch, unjudged, &to)
    }

    /// Sends a later fragment for a balancer with its datagram's first one, if that is among the packets `before` it. After those of other bursts it went already.
    fn balance_later(
        &self,
        batch: &mut Batch<'_, '_>,
        unjudged: &mut Unjudged,
        before: &[Unjudged],
        vpc: u16,
    ) -> Result<(), DropReason> {
        let key = |batch: &Batch<'_, '_>, index: usize, tuple: &Tuple| {
            let (packet, metadata) = batch.burst.packet(index).zip(batch.metadata.get(index))?;
            let addresses = (tuple.source, tuple.destination);
            datagram_key(packet.head(), &metadata.headers, (0, addresses), 0)
        };
        let index = unjudged.index;
        let Some(own) = tuple_of(batch, index).filter(|_| batch.to_gateway >> index & 1 != 0) else {
            return Ok(());
        };
        if find((self.balancers, self.network), vpc, own.destination).is_none() {
            return Ok(());
        }
        let wanted = key(batch, index, &own);
        let first = before.iter().find(|first| {
            first.original.is_some_and(|original| key(batch, first.index, &original) == wanted)
        });
        let first = first.and_then(|first| tuple_of(batch, first.index));
        let Tuple { source, destination, .. } = first.ok_or(DropReason::FragmentUnknown)?;
        translate_one(batch, unjudged, &Translated { source, destination, ports: [0; 2] })
    }

    /// A connection was made that goes elsewhere than to where it was sent.
    pub(crate) fn count_connection(&self, vpc: u16, shared: IpAddr, target: IpAddr) {
        if let Some(balancer) = find((self.balancers, self.network), vpc, shared) {
            balancer.count(target);
        }
    }
}

fn tuple_of(batch: &Batch<'_, '_>, index: usize) -> Option<Tuple> {
    let (packet, metadata) = batch.burst.packet(index).zip(batch.metadata.get(index))?;
    Tuple::of(packet.head(), &metadata.headers)
}

fn translate_one(
    batch: &mut Batch<'_, '_>,
    unjudged: &mut Unjudged,
    to: &Translated,
) -> Result<(), DropReason> {
    let index = unjudged.index;
    let original = tuple_of(batch, index);
    unjudged.original = original;
    translate::apply(batch, index, to)?;
    if original.is_some_and(|original| original.destination == to.source) {
        batch.hairpin |= 1 << (index & 31);
    }
    Ok(())
}

/// Answers a ping.
fn echo(batch: &mut Batch<'_, '_>, index: usize, network: &Network, answers: &mut Answers<'_>) -> Option<()> {
    let mac = network.subnet(answers.subnet?)?.gateway_mac;
    let partial = matches!(batch.burst.offload(index).checksum, Checksum::Partial { .. });
    let headers = batch.metadata.get(index)?.headers;
    route::echo_in_place(batch.burst.packet_mut(index)?.head_mut(), &headers, mac, partial)?;
    batch.route(1 << index, answers.back);
    Some(())
}
