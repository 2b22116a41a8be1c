//! Routes what was sent to the subnet's gateway: longest prefix match, then the endpoint, then new Ethernet addresses and one hop less.
//!
//! A stage of its own because it is the router that every subnet has, on every host: the sending host decides all, and the receiving one only delivers. It
//! also answers for the gateway itself (ping) and says so when a packet can go no further, so that traceroute and path MTU discovery work.
//!
//! Drops: [`DropReason::NoRoute`], [`DropReason::Blackhole`], [`DropReason::UnknownEndpoint`], [`DropReason::HopLimit`],
//! [`DropReason::GatewayConsumed`], [`DropReason::Hairpin`], [`DropReason::TooBig`].

use crate::answers::Answers;
use crate::encapsulate::fits;
use crate::external::port_at_owner;
use arrayvec::ArrayVec;
use buf::{BURST_PACKETS, Checksum};
use engine::{Batch, DropReason, Indices, Output, PortIndex, PuntKind};
use packet::icmp_error::IcmpError;
use packet::{Headers, L4, MacAddr, route};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tables::external::{Inside, Owner};
use tables::{Endpoint, EndpointReader, Location, Network, NextHop, Subnet};

/// Where the metadata service is for guests.
pub const METADATA_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
/// The same over IPv6.
pub const METADATA_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254));

/// The ports of gateways' addresses that health checks of load balancers' targets come from: what is for them goes to the control thread.
pub const CHECK_PORTS: std::ops::RangeInclusive<u16> = 61_440..=65_535;

/// Whether guests reach a service of the switch at this address, in every subnet.
pub fn is_metadata(address: IpAddr) -> bool {
    address == METADATA_V4 || address == METADATA_V6
}

/// What becomes of a packet to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It goes on.
    Forward(Onward),
    /// Its sender is told.
    Error(IcmpError, DropReason),
    /// The gateway answers a ping.
    Echo,
    Drop(DropReason),
}

/// Where and as what a packet leaves its router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Onward {
    output: Output,
    destination: MacAddr,
    /// Its last subnet's gateway.
    source: MacAddr,
    /// That subnet; `None` where another host finds out which it is.
    subnet: Option<u16>,
}

/// Runs the stage for packets of a subnet's port to its gateway.
#[inline]
pub fn run(
    batch: &mut Batch<'_, '_>,
    network: &Network,
    endpoints: &EndpointReader,
    subnet: u16,
    answers: &mut Answers<'_>,
) {
    let packets = batch.to_gateway & batch.undecided();
    if packets != 0 {
        run_gateway(batch, network, endpoints, subnet, packets, answers);
    }
}

fn run_gateway(
    batch: &mut Batch<'_, '_>,
    network: &Network,
    endpoints: &EndpointReader,
    number: u16,
    packets: u32,
    answers: &mut Answers<'_>,
) {
    let Some(subnet) = network.subnet(number) else {
        Indices(packets).for_each(|index| batch.drop(index, DropReason::PortDown));
        return;
    };
    Router { network, endpoints, subnet }.route(batch, packets, answers);
}

/// Routes one packet that is for the gateway of `subnet`, whoever sent it.
pub(crate) fn route_one(
    batch: &mut Batch<'_, '_>,
    index: usize,
    (network, endpoints, subnet): (&Network, &EndpointReader, &Subnet),
    answers: &mut Answers<'_>,
) {
    Router { network, endpoints, subnet }.route(batch, 1 << index, answers);
}

/// The number of no VPC.
const NO_VPC: u16 = u16::MAX >> 1;

/// Sorts packets by destination: those that follow each other to one are looked up once. What has no destination is dropped.
fn collect(
    batch: &mut Batch<'_, '_>,
    packets: u32,
) -> (ArrayVec<IpAddr, BURST_PACKETS>, ArrayVec<u32, BURST_PACKETS>) {
    let (mut destinations, mut runs) = (ArrayVec::new(), ArrayVec::new());
    for index in Indices(packets) {
        let headers = &batch.metadata[index].headers;
        let head = batch.burst.packet(index).map_or(&[][..], |packet| packet.head());
        let Some(destination) = headers.destination_ip(head) else {
            batch.drop(index, DropReason::GatewayConsumed);
            continue;
        };
        match (destinations.last(), runs.last_mut()) {
            (Some(last), Some(run)) if *last == destination => *run |= 1 << index,
            _ => {
                // There is room: a packet is in one run.
                let _ = destinations.try_push(destination);
                let _ = runs.try_push(1 << index);
            }
        }
    }
    (destinations, runs)
}

struct Router<'a> {
    network: &'a Network,
    endpoints: &'a EndpointReader,
    subnet: &'a Subnet,
}

impl Router<'_> {
    /// Routes `packets` (a bit per packet): all destinations are looked up together, so that their cache misses overlap.
    fn route(&self, batch: &mut Batch<'_, '_>, packets: u32, answers: &mut Answers<'_>) {
        let (destinations, packets) = collect(batch, packets);
        let mut hops = [None; BURST_PACKETS];
        let routes = self.subnet.routes.and_then(|routes| self.network.routes(routes));
        match (routes, &destinations[..]) {
            (Some(routes), [one]) => hops[0] = routes.lookup(*one),
            (Some(routes), all) => routes.lookup_batch(all, &mut hops[..all.len()]),
            (None, _) => {}
        }
        let mut found = [None; BURST_PACKETS];
        let keys = destinations.iter().zip(&hops).map(|(address, hop)| (self.vpc_of(*hop), *address));
        match &keys.collect::<ArrayVec<(u16, IpAddr), BURST_PACKETS>>()[..] {
            [(vpc, address)] => found[0] = self.endpoints.lookup(*vpc, *address),
            all => drop(self.endpoints.lookup_batch(all, &mut found[..all.len()])),
        }
        for (((destination, packets), hop), found) in
            destinations.into_iter().zip(packets).zip(hops).zip(found)
        {
            let way = self.way(destination, hop, found);
            Indices(packets).for_each(|index| self.carry_out(batch, index, way, answers));
        }
    }

    /// The VPC in which the destination is looked up; one that nobody has where a route says all.
    fn vpc_of(&self, hop: Option<NextHop>) -> u16 {
        match hop {
            Some(NextHop::Subnet(_)) => self.subnet.vpc,
            Some(NextHop::Vpc(peer)) => peer,
            Some(NextHop::Port { .. } | NextHop::External(_) | NextHop::Blackhole) | None => NO_VPC,
        }
    }

    /// Where packets for `destination` go, whatever they are, given what was found. `Echo` stands for all that is for the gateway itself.
    fn way(&self, destination: IpAddr, hop: Option<NextHop>, found: Option<Endpoint>) -> Verdict {
        let vpc = self.vpc_of(hop);
        match hop {
            Some(NextHop::Subnet(_) | NextHop::Vpc(_)) => {}
            Some(NextHop::Port { location, mac, subnet }) => {
                return self.to(location, Endpoint { mac, subnet, location }, self.subnet.vpc);
            }
            Some(NextHop::External(exit)) => return self.leave(destination, exit),
            Some(NextHop::Blackhole) => return Verdict::Drop(DropReason::Blackhole),
            None if self.is_own(destination, hop) => return Verdict::Echo,
            None => return Verdict::Error(IcmpError::NoRoute, DropReason::NoRoute),
        }
        match found {
            Some(endpoint) => self.to(endpoint.location, endpoint, vpc),
            None if self.is_own(destination, hop) => Verdict::Echo,
            None => match self
                .network
                .vpc(vpc)
                .and_then(|vpc| directory(self.network, &vpc.directory, destination))
            {
                // The directory host routes it on: it goes to the gateway of its own subnet there.
                Some(vtep) => {
                    let gateway = self.subnet.gateway_mac;
                    let output = Output::Tunnel { vtep, vpc };
                    Verdict::Forward(Onward { output, destination: gateway, source: gateway, subnet: None })
                }
                None => Verdict::Error(IcmpError::HostUnreachable, DropReason::UnknownEndpoint),
            },
        }
    }

    /// Out of the VPC; but what is for a floating IP of a port that is known here goes to that, without a detour.
    fn leave(&self, destination: IpAddr, exit: u16) -> Verdict {
        if let Some(Owner::Floating(Inside { vpc, address }, _)) = self.network.external.owner(destination)
            && let Some(endpoint) = self.endpoints.lookup(*vpc, *address)
        {
            return self.to(endpoint.location, endpoint, *vpc);
        }
        // What is for a group, or for nobody, stays in the VPC.
        let link_local = matches!(destination, IpAddr::V6(to) if to.is_unicast_link_local());
        if link_local || !route::is_station(destination) || route::is_bogon(destination) {
            return Verdict::Error(IcmpError::NoRoute, DropReason::NoRoute);
        }
        let router = self.network.external.exit(exit).and_then(|exit| exit.router(destination.is_ipv4()));
        if router.is_none() {
            return Verdict::Error(IcmpError::NoRoute, DropReason::NoRoute);
        }
        // Where the router is, is for who sends the packet to say: it may be elsewhere by then.
        let (output, destination) = (Output::External { exit }, MacAddr::default());
        Verdict::Forward(Onward { output, destination, source: self.subnet.gateway_mac, subnet: None })
    }

    /// The way of what is for a port of a NAT gateway's address that somebody known here has: it depends on more than the destination.
    #[cold]
    fn leave_to_shared(&self, batch: &Batch<'_, '_>, index: usize) -> Option<Verdict> {
        let packet = batch.burst.packet(index)?;
        let (head, headers) = (packet.head(), &batch.metadata.get(index)?.headers);
        let owner = self.network.external.owner(headers.destination_ip(head)?)?;
        let Inside { vpc, address } = owner.inside(port_at_owner(head, headers, owner))?;
        let endpoint = self.endpoints.lookup(vpc, address)?;
        Some(self.to(endpoint.location, endpoint, vpc))
    }

    fn to(&self, location: Location, endpoint: Endpoint, vpc: u16) -> Verdict {
        let output = match location {
            Location::Local(port) => Output::Port(PortIndex(port)),
            Location::Remote(vtep) | Location::Directory(vtep) => Output::Tunnel { vtep, vpc },
        };
        let subnet = self.network.subnet(endpoint.subnet);
        let source = subnet.map_or(self.subnet.gateway_mac, |subnet| subnet.gateway_mac);
        let subnet = subnet.map(|_| endpoint.subnet);
        Verdict::Forward(Onward { output, destination: endpoint.mac, source, subnet })
    }

    /// Whether the switch itself has this address: a gateway of the VPC, which is in the subnet that the route says, or a service.
    fn is_own(&self, destination: IpAddr, hop: Option<NextHop>) -> bool {
        let routed = match hop {
            Some(NextHop::Subnet(number)) => self.network.subnet(number),
            _ => None,
        };
        is_metadata(destination)
            || self.subnet.is_gateway(destination)
            || routed.is_some_and(|subnet| subnet.is_gateway(destination))
    }

    fn carry_out(&self, batch: &mut Batch<'_, '_>, index: usize, way: Verdict, answers: &mut Answers<'_>) {
        let headers = &{ batch.metadata[index].headers };
        match way {
            Verdict::Forward(Onward { output: output @ Output::Port(_), .. })
                if output == answers.back && !self.may_return(batch, index) =>
            {
                batch.drop(index, DropReason::Hairpin);
            }
            Verdict::Forward(Onward { output: Output::External { .. }, .. })
                if let Some(way) = self.leave_to_shared(batch, index)
                    && !matches!(way, Verdict::Forward(Onward { output: Output::External { .. }, .. })) =>
            {
                self.carry_out(batch, index, way, answers);
            }
            Verdict::Forward(onward) => self.forward(batch, index, onward, answers),
            Verdict::Error(error, reason) => answers.error(batch, self.network, index, error, reason),
            Verdict::Echo => self.answer(batch, index, headers, answers.back),
            Verdict::Drop(reason) => batch.drop(index, reason),
        }
    }

    /// Whether a packet may go back to the port that it came from: there its sender has another address.
    #[cold]
    fn may_return(&self, batch: &mut Batch<'_, '_>, index: usize) -> bool {
        let headers = &batch.metadata[index].headers;
        let destination = batch.burst.packet(index).and_then(|packet| headers.destination_ip(packet.head()));
        if destination.is_some_and(|to| self.network.external.owner(to).is_some()) {
            batch.hairpin |= 1 << (index & 31);
        }
        batch.hairpin >> (index & 31) & 1 != 0
    }

    /// Sends a packet on, to this MAC address from that, unless it may not.
    #[inline(always)]
    fn forward(
        &self,
        batch: &mut Batch<'_, '_>,
        index: usize,
        Onward { output, destination, source, subnet }: Onward,
        answers: &mut Answers<'_>,
    ) {
        let headers = &{ batch.metadata[index].headers };
        let Some(packet) = batch.burst.packet(index) else { return };
        // What comes from a link-local address stays on its link (RFC 4291 section 2.5.6).
        if matches!(headers.source_ip(packet.head()), Some(IpAddr::V6(source)) if source.is_unicast_link_local())
        {
            return batch.drop(index, DropReason::GatewayConsumed);
        }
        if route::hops(packet.head(), headers).is_none_or(|hops| hops <= 1) {
            return answers.error(batch, self.network, index, IcmpError::TimeExceeded, DropReason::HopLimit);
        }
        // Before it is changed: who is told is its sender, and what is quoted is what it sent.
        if let Output::Tunnel { vpc, .. } = output
            && let Some(mtu) = self.network.vpc(vpc).map(|vpc| vpc.mtu)
            && !fits(batch.burst, &batch.metadata[index], index, mtu)
        {
            let error = IcmpError::TooBig { mtu };
            return answers.error(batch, self.network, index, error, DropReason::TooBig);
        }
        let Some(packet) = batch.burst.packet_mut(index) else { return };
        match route::forward(packet.head_mut(), headers, destination, source) {
            Some(()) => {
                let own = if matches!(output, Output::External { .. }) { answers.subnet } else { None };
                batch.metadata[index].routed_to = subnet.or(own);
                batch.route(1 << index, output);
            }
            None => batch.drop(index, DropReason::GatewayConsumed),
        }
    }

    /// A packet for the gateway itself, or a service of the switch.
    #[cold]
    fn answer(&self, batch: &mut Batch<'_, '_>, index: usize, headers: &Headers, back: Output) {
        let partial = matches!(batch.burst.offload(index).checksum, Checksum::Partial { .. });
        let Some(packet) = batch.burst.packet_mut(index) else { return };
        let for_service = headers.destination_ip(packet.head()).is_some_and(is_metadata);
        match (headers.l4, headers.destination_port) {
            (L4::Tcp, 80) if for_service => batch.punt(index, PuntKind::Metadata),
            (L4::Tcp, port) if !for_service && CHECK_PORTS.contains(&port) => {
                batch.punt(index, PuntKind::HealthCheck);
            }
            (L4::Udp, 67) => batch.punt(index, PuntKind::Dhcp4),
            (L4::Udp, 547) => batch.punt(index, PuntKind::Dhcp6),
            _ if route::echo_in_place(packet.head_mut(), headers, self.subnet.gateway_mac, partial)
                .is_some() =>
            {
                batch.route(1 << index, back);
            }
            _ => batch.drop(index, DropReason::GatewayConsumed),
        }
    }
}

/// Which of the directory hosts knows an address: the one of the greatest hash of both (rendezvous hashing), so that all hosts choose the same
/// and one that goes takes only its own share with it.
fn directory(network: &Network, hosts: &[u16], address: IpAddr) -> Option<u16> {
    let weight = |vtep: &u16| network.tunnel(*vtep).map(|tunnel| mix(mix(0, address), tunnel.address));
    hosts.iter().copied().filter(|vtep| network.tunnel(*vtep).is_some()).max_by_key(weight)
}

fn mix(seed: u64, address: IpAddr) -> u64 {
    let bits = match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let once = |word: u64| {
        word.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xff51_afd7_ed55_8ccd)
    };
    once(once(seed ^ (bits >> 64) as u64) ^ bits as u64)
}
