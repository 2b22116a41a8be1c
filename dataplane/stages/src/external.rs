//! Takes up what comes from outside of all VPCs, by the uplink and without a tunnel, for a floating IP or an address of a NAT gateway: it goes to the port that
//! has that address, or part of it, here or on another host. [`policy`](crate::policy) judges and translates it where the port is.
//!
//! A stage of its own because here nobody is known: what is checked is that the sender does not pretend to be inside.
//!
//! Drops: [`DropReason::NatUnknown`], [`DropReason::FragmentUnknown`], [`DropReason::NatUnfiltered`], [`DropReason::BogusSource`], [`DropReason::HopLimit`], [`DropReason::TooBig`],
//! [`DropReason::BadOffload`].

use crate::encapsulate::fits;
use crate::police::datagram_key;
use buf::HEAD_BYTES;
use engine::{Batch, DropReason, Indices, Origin, Output, PortIndex};
use packet::icmp_error::{self, IcmpError};
use packet::{Fragment, Headers, L4, icmp, quoted, route};
use std::net::IpAddr;
use tables::external::{Inside, Owner};
use tables::sessions::SessionWorker;
use tables::{EndpointReader, Filter, Filters, Location, Network, Shares, TokenBucket};

/// An origin of no tunnel end point.
const NO_VTEP: u16 = u16::MAX;

/// Runs the stage over what `decapsulate` found to be for an external address. Senders are told what is too long or has taken too many hops, within a share of `errors`.
#[inline]
pub fn run(batch: &mut Batch<'_, '_>, tables: &Tables<'_>, errors: &mut Shares) {
    if batch.from_outside != 0 {
        let packets = batch.from_outside & batch.undecided();
        Indices(packets).for_each(|index| run_one(batch, index, tables, errors));
    }
}

/// What the stage reads.
#[derive(Clone, Copy)]
pub struct Tables<'a> {
    /// Who has which address outside, and VPCs and subnets.
    pub network: &'a Network,
    /// Who has an address inside.
    pub endpoints: &'a EndpointReader,
    /// Where it is kept which datagrams are under way.
    pub sessions: &'a SessionWorker,
    /// Milliseconds, as sessions count them.
    pub now: u32,
}

/// Why a packet goes no further.
enum Refusal {
    Drop(DropReason),
    /// Its sender is told.
    Error(IcmpError, DropReason),
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

fn run_one(batch: &mut Batch<'_, '_>, index: usize, tables: &Tables<'_>, errors: &mut Shares) {
    match settle(batch, index, tables) {
        Ok(output) => batch.route(1 << index, output),
        Err(Refusal::Error(error, reason)) => {
            if tell(batch, index, tables.network, error, errors.of(NO_VTEP)).is_none() {
                batch.drop(index, reason);
            }
        }
        Err(Refusal::Drop(reason)) => batch.drop(index, reason),
    }
}

/// Writes an error over a packet, from the external address that it is for, and sends it back.
#[cold]
fn tell(
    batch: &mut Batch<'_, '_>,
    index: usize,
    network: &Network,
    error: IcmpError,
    budget: &mut TokenBucket,
) -> Option<()> {
    let uplink = network.uplink.as_ref()?;
    let headers = batch.metadata.get(index)?.headers;
    let head = batch.burst.packet(index)?.head();
    let external = headers.destination_ip(head)?;
    let mut scratch = [0; HEAD_BYTES];
    let length = head.len().min(HEAD_BYTES);
    scratch.get_mut(..length)?.copy_from_slice(head.get(..length)?);
    let end = icmp_error::answer(&mut scratch, length, &headers, error, uplink.mac, external)?;
    if !budget.take(batch.now, 1) {
        return None;
    }
    batch.burst.replace(index, scratch.get(..end as usize)?);
    batch.route(1 << index, Output::Port(PortIndex(uplink.port)));
    Some(())
}

fn settle(batch: &mut Batch<'_, '_>, index: usize, tables: &Tables<'_>) -> Result<Output, Refusal> {
    let Tables { network, endpoints, .. } = *tables;
    let offload = batch.burst.offload(index);
    let packet = batch.burst.packet(index).ok_or(DropReason::Runt)?;
    let (head, headers) = (packet.head(), &batch.metadata[index].headers);
    if packet::validate_offload(headers, offload, packet.len() as u32).is_err() {
        return Err(DropReason::BadOffload.into());
    }
    let Inside { vpc, address } = inside(tables, head, headers)?;
    let endpoint = endpoints.lookup(vpc, address).ok_or(DropReason::NatUnknown)?;
    let gateway = network.subnet(endpoint.subnet).map(|subnet| subnet.gateway_mac);
    let gateway = gateway.ok_or(DropReason::NatUnknown)?;
    if route::hops(head, headers).is_none_or(|hops| hops <= 1) {
        return Err(Refusal::Error(IcmpError::TimeExceeded, DropReason::HopLimit));
    }
    let mtu = network.vpc(vpc).ok_or(DropReason::NatUnknown)?.mtu;
    if !fits(batch.burst, &batch.metadata[index], index, mtu) {
        return Err(Refusal::Error(IcmpError::TooBig { mtu }, DropReason::TooBig));
    }
    let headers = *headers;
    let packet = batch.burst.packet_mut(index).ok_or(DropReason::Runt)?;
    route::forward(packet.head_mut(), &headers, endpoint.mac, gateway).ok_or(DropReason::NatUnknown)?;
    batch.metadata[index].origin = Origin { vtep: NO_VTEP, vpc, identity: 0 };
    match endpoint.location {
        Location::Local(port) => Ok(Output::Port(PortIndex(port))),
        Location::Remote(vtep) if batch.burst.make_head_room(index) => Ok(Output::Tunnel { vtep, vpc }),
        Location::Remote(_) => Err(DropReason::TooBig.into()),
        Location::Directory(_) => Err(DropReason::NatUnknown.into()),
    }
}

/// Where datagrams come in that are for shared addresses: no attachment of a session.
const OUTSIDE: u32 = u32::MAX >> 8;

impl Tables<'_> {
    /// Which port of a shared address a packet is for; a later fragment that of its datagram's first one.
    fn port(
        &self,
        head: &[u8],
        headers: &Headers,
        owner: &Owner,
        addresses: (IpAddr, IpAddr),
    ) -> Result<Option<u16>, DropReason> {
        let port = port_at_owner(head, headers, owner);
        if headers.fragment == Fragment::Whole || matches!(owner, Owner::Floating(..)) {
            return Ok(port);
        }
        let place = self.network.uplink.as_ref().map(|uplink| uplink.port);
        let key = datagram_key(head, headers, (OUTSIDE, addresses), 0).zip(place);
        let (key, place) = key.ok_or(DropReason::FragmentUnknown)?;
        if headers.fragment == Fragment::Later {
            let noted = self.sessions.fragment(&key, place, self.now);
            return noted.map(|port| Some(port as u16)).ok_or(DropReason::FragmentUnknown);
        }
        if let Some(port) = port.filter(|port| owner.inside(Some(*port)).is_some()) {
            self.sessions.note_fragment(&key, place, self.now, port.into());
        }
        Ok(port)
    }
}

/// Whom inside a packet from outside is for, if it may come from who it says.
fn inside(tables: &Tables<'_>, head: &[u8], headers: &Headers) -> Result<Inside, DropReason> {
    let network = tables.network;
    let addresses = headers.source_ip(head).zip(headers.destination_ip(head));
    let (source, destination) = addresses.ok_or(DropReason::NatUnknown)?;
    let owner = network.external.owner(destination).ok_or(DropReason::NatUnknown)?;
    let port = tables.port(head, headers, owner, (source, destination))?;
    let inside = owner.inside(port).ok_or(DropReason::NatUnknown)?;
    // Rules go by addresses: nobody outside has one of those inside.
    let is_bogus = !route::is_station(source) || route::is_bogon(source);
    if is_bogus || network.external.is_inside(inside.vpc, source) {
        return Err(DropReason::BogusSource);
    }
    Ok(inside)
}

/// Which port of a shared address a packet is for: its destination's, an echo's identifier, or of an error who sent what it is about. A floating IP is one
/// port's whole, whatever is sent there.
pub(crate) fn port_at_owner(head: &[u8], headers: &Headers, owner: &Owner) -> Option<u16> {
    if matches!(owner, Owner::Floating(..)) || headers.fragment == Fragment::Later {
        return None;
    }
    match headers.l4 {
        L4::Icmp | L4::Icmpv6 => {
            let (kind, _) = icmp::type_and_code(head, headers)?;
            if icmp::is_error(headers.l4, kind) {
                quoted::read(head, headers).map(|quoted| quoted.ports[0])
            } else {
                icmp::identifier(head, headers)
            }
        }
        _ if headers.has_ports() => Some(headers.destination_port),
        _ => None,
    }
}

/// Ends what would leave for outside, or arrive from there, as it is: ports without rules have no sessions, which translate it.
pub fn refuse_untranslated(batch: &mut Batch<'_, '_>, network: &Network, filters: &Filters, from_port: bool) {
    if network.external.is_empty() {
        return;
    }
    let mut at = 0;
    while let Some(group) = batch.group(at) {
        at += 1;
        let all = match group.output {
            Output::External { .. } => true,
            Output::Port(port) if from_port || filters.port(port.0) == Filter::Unfiltered => false,
            Output::Tunnel { .. } if from_port => false,
            _ => continue,
        };
        for index in Indices(group.packets) {
            if all || destination(batch, index).is_some_and(|to| network.external.owner(to).is_some()) {
                batch.drop(index, DropReason::NatUnfiltered);
            }
        }
    }
}

fn destination(batch: &Batch<'_, '_>, index: usize) -> Option<IpAddr> {
    let packet = batch.burst.packet(index)?;
    batch.metadata.get(index)?.headers.destination_ip(packet.head())
}
