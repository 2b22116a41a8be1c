//! What the stages that deal with sessions and rules share: where a packet came in, what it is judged by, and how.
//!
//! Not a stage. [`sessions`](crate::sessions) finds, [`policy`](crate::policy) judges.

use crate::shadow::Shadow;
use crate::translate;
use crate::tuple::{self, Tuple};
use arrayvec::ArrayVec;
use buf::BURST_PACKETS;
use crossbeam::queue::ArrayQueue;
use engine::{Batch, DropReason, Metadata, Output, PortIndex};
use packet::{Fragment, Headers, L3, icmp, ipv4, ipv6, quoted, tcp};
use std::net::IpAddr;
use std::sync::Arc;
use tables::balancers::Balancers;
use tables::members::MemberReader;
use tables::rules::{Candidate, Direction, Flow, Judgement, Policy, RuleCounters};
use tables::sessions::{
    Checked, Facts, Found, FragmentKey, Key4, Key6, SessionRef, SessionWorker, Sessions, UNDERLAY, Way,
};
use tables::{Filter, Filters, Generations, Network, TokenBucket};

/// What judging a packet takes.
pub struct Police<'a> {
    /// The sessions, in this worker's hands.
    pub sessions: &'a mut SessionWorker,
    /// What they were judged by.
    pub generations: &'a Generations,
    /// The epoch that the worker read before it took up the tables.
    pub epoch: u32,
    /// Milliseconds of the worker's clock, as sessions count them: they wrap.
    pub now: u32,
    /// Which rules a port is under.
    pub filters: &'a Filters,
    /// In which groups an address is.
    pub members: &'a mut MemberReader,
    /// Where it is counted how often a rule decided.
    pub counters: &'a RuleCounters,
    /// Where decisions of rules that want it are written down.
    pub log: &'a mut DecisionLog,
    /// Where it is said what candidates for rules would change.
    pub shadow: &'a mut Shadow,
    /// VPCs and subnets.
    pub network: &'a Network,
    /// Load balancers.
    pub balancers: &'a Balancers,
    /// The sessions of all workers.
    pub table: &'a Sessions,
    /// How many packets of this batch had no session and were judged.
    pub judged: u32,
}

/// What a rule that is to be logged said of the first packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The port whose rule it is.
    pub port: u16,
    /// Which way the packet went, seen from the port.
    pub direction: Direction,
    /// The rule, by the number of its counter, and what it said.
    pub judgement: Judgement,
    /// Who sent the packet.
    pub source: IpAddr,
    /// Whom it was for.
    pub destination: IpAddr,
    /// Its protocol.
    pub protocol: u8,
    /// Its ports; of a query of ICMP its identifier, type and code.
    pub ports: [u16; 2],
}

/// Where decisions are written down for a control thread: so many a second and no more, whatever is sent.
#[derive(Clone, Debug)]
pub struct DecisionLog {
    decisions: Arc<ArrayQueue<Decision>>,
    budget: TokenBucket,
}

impl DecisionLog {
    /// Decisions per second and at once, for one worker.
    const RATE: (u64, u64) = (1_000, 1_000);

    /// One that is read from `decisions`.
    pub fn new(decisions: Arc<ArrayQueue<Decision>>) -> Self {
        Self { decisions, budget: TokenBucket::new(Self::RATE.0, Self::RATE.1) }
    }

    pub(crate) fn write(&mut self, decision: Decision, now: u64) {
        if self.budget.take(now, 1) {
            // A control thread that is behind misses some.
            let _ = self.decisions.push(decision);
        }
    }
}

/// Where the packets of a batch came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// By a port of this host, in a VPC.
    Port {
        /// Its index.
        port: PortIndex,
        /// The number of its VPC.
        vpc: u16,
    },
    /// Out of a tunnel: each packet's metadata say in which VPC.
    Underlay,
}

/// What a session knows of where its packets come in: a port of this host, or the VPC whose number came with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attachment {
    pub(crate) port: Option<u16>,
    pub(crate) vpc: u16,
}

impl Attachment {
    /// Where answers come in to what goes there.
    #[inline(always)]
    pub(crate) fn towards(self, output: Output) -> Self {
        let port = if let Output::Port(port) = output { Some(port.0) } else { None };
        Self { port, vpc: self.vpc }
    }

    /// As it is in a key.
    #[inline(always)]
    pub(crate) fn number(self) -> u32 {
        self.port.map_or(UNDERLAY | u32::from(self.vpc), u32::from)
    }
}

impl Site {
    /// Where a packet came in.
    #[inline(always)]
    pub(crate) fn attachment(self, metadata: &Metadata) -> Attachment {
        match self {
            Self::Port { port, vpc } => Attachment { port: Some(port.0), vpc },
            Self::Underlay => Attachment { port: None, vpc: metadata.origin.vpc },
        }
    }
}

/// The port of this host that an attachment's number is, if it is one.
#[inline]
pub(crate) fn port_of(attachment: u32) -> Option<u16> {
    (attachment & UNDERLAY == 0).then_some(attachment as u16)
}

/// Packets of a batch that have no valid session.
#[derive(Default)]
pub struct Pending(pub(crate) ArrayVec<Unjudged, BURST_PACKETS>);

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unjudged {
    pub(crate) index: usize,
    /// The MAC address it was sent to.
    pub(crate) destination: u64,
    pub(crate) standing: Standing,
    /// What it was before its addresses were changed, if they were.
    pub(crate) original: Option<Tuple>,
}

/// What is known of it already.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Standing {
    /// Nothing.
    New,
    /// It has a session, under which something changed.
    Stale(SessionRef),
    /// It passes if its datagram's first fragment did.
    Fragment,
    /// It is an error about a packet of a session, and passes if that may go on.
    Related(SessionRef),
    /// It passes: a packet of a session that its router has to answer.
    Passes,
    /// It does not pass, if either end is under rules.
    Refused(DropReason),
}

impl Pending {
    #[inline]
    pub(crate) fn leave(&mut self, index: usize, destination: u64, standing: Standing) {
        // There is room: a packet is left once.
        let _ = self.0.try_push(Unjudged { index, destination, standing, original: None });
    }
}

/// An output as sessions keep it.
#[inline(always)]
pub(crate) fn pack(output: Output) -> u32 {
    match output {
        Output::Port(PortIndex(port)) => u32::from(port),
        Output::Tunnel { vtep, vpc } => 1 << 31 | u32::from(vpc) << 16 | u32::from(vtep),
        Output::External { exit } => 1 << 30 | u32::from(exit),
    }
}

#[inline(always)]
pub(crate) fn unpack(output: u32) -> Output {
    if output & 3 << 30 == 0 {
        Output::Port(PortIndex(output as u16))
    } else if output & 1 << 31 == 0 {
        Output::External { exit: output as u16 }
    } else {
        Output::Tunnel { vtep: output as u16, vpc: (output >> 16) as u16 & 0x7fff }
    }
}

/// The key of what nearly all packets are: whole, TCP or UDP over IPv4.
#[inline(always)]
pub(crate) fn ordinary_key(head: &[u8], headers: &Headers, attachment: u32) -> Option<Key4> {
    let ordinary = headers.l3 == L3::Ipv4 && headers.fragment == Fragment::Whole && headers.has_ports();
    let addresses = bytes::<8>(head, usize::from(headers.l3_offset) + 12)?;
    let ports = bytes::<4>(head, usize::from(headers.l4_offset))?;
    ordinary.then(|| {
        Key4::new(attachment, u64::from_ne_bytes(*addresses), headers.protocol, u32::from_ne_bytes(*ports))
    })
}

#[inline(always)]
fn bytes<const N: usize>(head: &[u8], at: usize) -> Option<&[u8; N]> {
    head.get(at..at + N)?.first_chunk()
}

/// The same over IPv6.
#[inline(always)]
pub(crate) fn ordinary_key6(head: &[u8], headers: &Headers, attachment: u32) -> Option<Key6> {
    let ordinary = headers.l3 == L3::Ipv6 && headers.fragment == Fragment::Whole && headers.has_ports();
    let addresses = bytes::<32>(head, usize::from(headers.l3_offset) + 8)?;
    let ports = bytes::<4>(head, usize::from(headers.l4_offset))?;
    ordinary.then(|| Key6::new(attachment, addresses, headers.protocol, u32::from_ne_bytes(*ports)))
}

/// The destination MAC address of a frame; 0 without.
#[inline(always)]
pub(crate) fn destination_mac(head: &[u8]) -> u64 {
    head.first_chunk::<8>().map_or(0, |first| u64::from_be_bytes(*first) >> 16)
}

/// What a session wants to know of a packet.
#[inline(always)]
pub(crate) fn facts(head: &[u8], length: u32, headers: &Headers) -> Facts {
    Facts { destination_mac: destination_mac(head), length, tcp: tcp::Segment::read(head, headers) }
}

/// What the rules of one end say of a flow.
pub(crate) fn ask(
    members: &mut MemberReader,
    end: End<'_>,
    direction: Direction,
    tuple: &Tuple,
) -> Judgement {
    ask_policy(members, (end.policy, end.vpc), direction, tuple)
}

/// What rules say of a flow of a port in that VPC.
pub(crate) fn ask_policy(
    members: &mut MemberReader,
    (policy, vpc): (&Policy, u16),
    direction: Direction,
    tuple: &Tuple,
) -> Judgement {
    let remote = match direction {
        Direction::Egress => tuple.destination,
        Direction::Ingress => tuple.source,
    };
    let groups = if policy.needs_groups(direction) { members.groups(vpc, remote) } else { &[] };
    let [_, destination_port] = tuple.ports();
    let flow = Flow { remote, protocol: tuple.protocol, destination_port, icmp: tuple.icmp(), groups };
    policy.judge(direction, &flow)
}

/// Whether a port may be sent a copy of what is for all or a group.
pub fn may_receive_copy(filters: &Filters, members: &mut MemberReader, port: PortIndex, head: &[u8]) -> bool {
    let Filter::Rules { policy, vpc } = filters.port(port.0) else {
        return filters.port(port.0) == Filter::Unfiltered;
    };
    let head = head.get(..head.len().min(packet::HEAD_LENGTH)).unwrap_or_default();
    let tuple = packet::parse(head, head.len() as u32).ok().and_then(|headers| Tuple::of(head, &headers));
    let (Some(policy), Some(tuple)) = (filters.policy(policy), tuple) else { return false };
    ask_policy(members, (policy, vpc), Direction::Ingress, &tuple).allowed
}

/// An end of a flow that is a port under rules.
#[derive(Clone, Copy)]
pub(crate) struct End<'a> {
    pub(crate) port: u16,
    pub(crate) policy: &'a Policy,
    /// Rules that might replace them.
    pub(crate) candidate: Option<&'a Candidate>,
    pub(crate) vpc: u16,
}

impl<'a> Police<'a> {
    /// The rules that an end of a flow is under; none where it is no port of this host, or one without.
    pub(crate) fn end(&self, port: Option<u16>) -> Result<Option<End<'a>>, DropReason> {
        let Some(port) = port else { return Ok(None) };
        match self.filters.port(port) {
            Filter::Unfiltered => Ok(None),
            Filter::Rules { policy, vpc } => {
                let candidate = self.filters.candidate(policy);
                let policy = self.filters.policy(policy).ok_or(DropReason::PortDown)?;
                Ok(Some(End { port, policy, candidate, vpc }))
            }
            Filter::Closed => Err(DropReason::PortDown),
        }
    }

    /// The session of any packet; or how it stands without. Errors about packets of a session get the addresses that their receiver knows.
    #[cold]
    pub(crate) fn find(
        &mut self,
        batch: &mut Batch<'_, '_>,
        index: usize,
        site: Site,
    ) -> Result<Result<Found, Standing>, DropReason> {
        let packet = batch.burst.packet(index).ok_or(DropReason::Runt)?;
        let metadata = batch.metadata.get(index).ok_or(DropReason::Runt)?;
        let (head, headers) = (packet.head(), &metadata.headers);
        let attachment = site.attachment(metadata).number();
        if headers.fragment == Fragment::Later {
            return Ok(Err(Standing::Fragment));
        }
        if icmp::type_and_code(head, headers).is_some_and(|(kind, _)| icmp::is_error(headers.l4, kind)) {
            let destination = headers.destination_ip(head).ok_or(DropReason::EtherTypeRefused)?;
            let answered = quoted::read(head, headers)
                .and_then(|quoted| tuple::answered(&quoted, attachment, destination));
            let Some(session) = answered.and_then(|key| self.sessions.find_any(key).session()) else {
                return Ok(Err(Standing::Refused(DropReason::IcmpUnrelated)));
            };
            translate::apply_to_error(batch, index, (self.table, session))?;
            return Ok(Err(Standing::Related(session)));
        }
        let tuple = Tuple::of(head, headers).ok_or(DropReason::EtherTypeRefused)?;
        Ok(Ok(tuple.key(attachment).map_or(Found::NONE, |key| self.sessions.find_any(key))))
    }
}

/// What the fragments of one datagram that go to one place have in common, and the port in whose places that is kept: the local sender's, or
/// that of who gets it.
fn fragment_key(head: &[u8], metadata: &Metadata, site: Site, output: Output) -> Option<(FragmentKey, u16)> {
    let headers = &metadata.headers;
    let addresses = (headers.source_ip(head)?, headers.destination_ip(head)?);
    let attachment = site.attachment(metadata);
    let place = pack(output).wrapping_mul(GOLDEN);
    let key = datagram_key(head, headers, (attachment.number(), addresses), place)?;
    Some((key, place_of(attachment, Some(output))?))
}

/// The port in whose places it is kept which datagrams are under way.
fn place_of(attachment: Attachment, output: Option<Output>) -> Option<u16> {
    match (attachment.port, output) {
        (Some(port), _) | (None, Some(Output::Port(PortIndex(port)))) => Some(port),
        _ => None,
    }
}

const GOLDEN: u32 = 0x9e37_79b1;
/// The place of datagrams that are translated, which go where their session says: no output is packed so.
const TRANSLATED: u32 = ((1u32 << 30) - 1).wrapping_mul(GOLDEN);

/// What the fragments of one datagram have in common, told apart by where they come in and by `place`.
pub(crate) fn datagram_key(
    head: &[u8],
    headers: &Headers,
    (attachment, (source, destination)): (u32, (IpAddr, IpAddr)),
    place: u32,
) -> Option<FragmentKey> {
    // In IPv6 a later fragment does not say which protocol it is of.
    let (identification, protocol) = match headers.l3 {
        L3::Ipv4 => (u32::from(ipv4::identification(head, headers)?), headers.protocol),
        _ => (ipv6::identification(head, headers)?, 0),
    };
    FragmentKey::new(attachment, source, destination, identification ^ place, protocol)
}

impl Police<'_> {
    /// Keeps in mind that a first fragment passed, so that those that follow it do. Without effect for what is none.
    #[inline]
    pub(crate) fn note_fragment(&self, batch: &Batch<'_, '_>, index: usize, site: Site, output: Output) {
        let Some((metadata, packet)) = batch.metadata.get(index).zip(batch.burst.packet(index)) else {
            return;
        };
        if metadata.headers.fragment == Fragment::First
            && let Some((key, port)) = fragment_key(packet.head(), metadata, site, output)
        {
            self.sessions.note_fragment(&key, port, self.now, 0);
        }
    }

    /// Keeps in mind which session translates a first fragment that was sent between these addresses, so that those that follow it become the same. Without effect for what is
    /// none.
    #[inline]
    pub(crate) fn note_translated(
        &self,
        batch: &Batch<'_, '_>,
        index: usize,
        (site, output): (Site, Output),
        (addresses, session): (Option<(IpAddr, IpAddr)>, SessionRef),
    ) {
        let found = batch.metadata.get(index).zip(batch.burst.packet(index));
        let first = found.filter(|(metadata, _)| metadata.headers.fragment == Fragment::First);
        if let Some((metadata, packet)) = first {
            self.note_first(packet.head(), metadata, (site, output), (addresses, session));
        }
    }

    #[cold]
    fn note_first(
        &self,
        head: &[u8],
        metadata: &Metadata,
        (site, output): (Site, Output),
        (addresses, session): (Option<(IpAddr, IpAddr)>, SessionRef),
    ) {
        let attachment = site.attachment(metadata);
        let own = || metadata.headers.source_ip(head).zip(metadata.headers.destination_ip(head));
        if let Some(addresses) = addresses.or_else(own)
            && let Some(port) = place_of(attachment, Some(output))
            && let Some(key) =
                datagram_key(head, &metadata.headers, (attachment.number(), addresses), TRANSLATED)
        {
            self.sessions.note_fragment(&key, port, self.now, session.found().word());
        }
    }

    /// The session that translated the first fragment of a later one's datagram, and its way, if that is still good. `original`: its addresses, if it has others by now.
    ///
    /// # Errors
    ///
    /// The first fragment was translated by what is no more.
    #[cold]
    pub(crate) fn translated_before(
        &self,
        batch: &Batch<'_, '_>,
        index: usize,
        (site, output): (Site, Option<Output>),
        original: Option<(IpAddr, IpAddr)>,
    ) -> Result<Option<(Found, Way)>, DropReason> {
        let Some((metadata, packet)) = batch.metadata.get(index).zip(batch.burst.packet(index)) else {
            return Ok(None);
        };
        let (head, attachment) = (packet.head(), site.attachment(metadata));
        let own = || metadata.headers.source_ip(head).zip(metadata.headers.destination_ip(head));
        let addresses = original.or_else(own);
        let word = addresses.zip(place_of(attachment, output)).and_then(|(addresses, port)| {
            let key = datagram_key(head, &metadata.headers, (attachment.number(), addresses), TRANSLATED)?;
            Some((self.sessions.fragment(&key, port, self.now)?, addresses))
        });
        let Some((word, addresses)) = word else { return Ok(None) };
        let session = self.sessions.still(word, attachment.number(), addresses);
        let found = session.ok_or(DropReason::FragmentUnknown)?.found();
        let known = (self.generations, self.network, self.table);
        let mac = facts(head, 0, &metadata.headers).destination_mac;
        let way = self.sessions.way_of(found, self.epoch, |session, way| {
            present_stamp(known, batch, index, site, mac, (session, way))
        });
        Ok(Some((found, way.ok_or(DropReason::FragmentUnknown)?)))
    }

    /// Whether the first fragment of a later one's datagram passed.
    pub(crate) fn is_fragment_known(
        &self,
        batch: &Batch<'_, '_>,
        index: usize,
        site: Site,
        output: Output,
    ) -> bool {
        let found = batch.metadata.get(index).zip(batch.burst.packet(index));
        found
            .and_then(|(metadata, packet)| fragment_key(packet.head(), metadata, site, output))
            .is_some_and(|(key, port)| self.sessions.fragment(&key, port, self.now).is_some())
    }
}

/// The sum of what sending such a packet that way depends on: by its source and destination, as they come in and as they go out.
pub(crate) fn stamp(
    (generations, network): (&Generations, &Network),
    attachment: Attachment,
    [before, after]: [(IpAddr, IpAddr); 2],
    mac: u64,
    way: &Way,
) -> u32 {
    let mut stamp = generations.stamp();
    if let Some(port) = attachment.port {
        stamp = stamp.port(port);
    }
    if let Output::Port(to) = unpack(way.output) {
        stamp = stamp.port(to.0);
    }
    let subnet = way.rewrite.and_then(|(_, subnet)| network.subnet(subnet));
    let there = subnet.map_or(attachment.vpc, |subnet| subnet.vpc);
    stamp = stamp.address(attachment.vpc, before.0).address(there, after.1).mac(mac);
    if way.translate {
        // And on who has the addresses that others stand for.
        for address in [before.1, after.0] {
            stamp = stamp.address(attachment.vpc, address).address(there, address);
        }
    }
    stamp.sum()
}

/// Whether a session is good for a packet that came in here, which it then counts.
#[inline(always)]
pub(crate) fn check(
    police: &mut Police<'_>,
    batch: &Batch<'_, '_>,
    index: usize,
    site: Site,
    (found, facts): (Found, &Facts),
) -> Checked {
    let known = (police.generations, police.network, police.table);
    police.sessions.check(found, facts, police.epoch, police.now, |session, way| {
        present_stamp(known, batch, index, site, facts.destination_mac, (session, way))
    })
}

/// What a half's sum would be today, by one of its packets.
#[cold]
fn present_stamp(
    (generations, network, table): (&Generations, &Network, &Sessions),
    batch: &Batch<'_, '_>,
    index: usize,
    site: Site,
    mac: u64,
    (session, way): (SessionRef, &Way),
) -> u32 {
    let Some((metadata, packet)) = batch.metadata.get(index).zip(batch.burst.packet(index)) else { return 0 };
    let Some(tuple) = Tuple::of(packet.head(), &metadata.headers) else { return 0 };
    let before = (tuple.source, tuple.destination);
    let translated = if way.translate { translate::of_session(table, session) } else { None };
    let after = translated.map_or(before, |to| (to.source, to.destination));
    stamp((generations, network), site.attachment(metadata), [before, after], mac, way)
}
