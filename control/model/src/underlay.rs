//! What the underlay leaves for the packets of a VPC: which hosts it is on, by which family they reach each other, and what
//! that leaves of their uplinks' MTU.

use crate::host::HostSpec;
use crate::name::{Name, ObjectName};
use crate::resource::{Resource, Spec};
use crate::sorted::Sorted;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// What VXLAN adds to a packet over IPv4, in bytes: inner Ethernet 14, VXLAN 8, UDP 8, IPv4 20 (RFC 7348, 5).
pub const OVERHEAD_V4: u16 = 50;
/// The same over IPv6, whose header has 40 bytes.
pub const OVERHEAD_V6: u16 = 70;

/// The tunnel address that packets from a host with `own` addresses to one with `theirs` go to: the first of theirs that is of a
/// family the sender has too.
pub fn tunnel_address(own: &[IpAddr], theirs: &[IpAddr]) -> Option<IpAddr> {
    let usable = |address: &&IpAddr| own.iter().any(|own| own.is_ipv4() == address.is_ipv4());
    theirs.iter().find(usable).copied()
}

/// How many ports and Endpoints of a set of subnets are where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Span {
    /// Ports on each host, as the one that forwards or as the one they move to.
    pub(crate) hosts: BTreeMap<Name, usize>,
    /// Endpoints behind each tunnel end point of others.
    pub(crate) foreign: BTreeMap<IpAddr, usize>,
}

impl Span {
    /// Counts a Port or Endpoint in (or out again).
    pub(crate) fn count(&mut self, spec: &Spec, there: bool) {
        match spec {
            Spec::Port(port) => self.count_hosts(port.host.iter().chain(&port.migrating_to), there),
            Spec::Endpoint(endpoint) => self.count_foreign(endpoint.vtep, there),
            _ => {}
        }
    }

    pub(crate) fn count_hosts<'a>(&mut self, hosts: impl Iterator<Item = &'a Name>, there: bool) {
        hosts.for_each(|host| count_one(&mut self.hosts, host, there));
    }

    pub(crate) fn count_foreign(&mut self, vtep: IpAddr, there: bool) {
        count_one(&mut self.foreign, &vtep, there);
    }

    fn add(&mut self, other: &Self) {
        for (host, count) in &other.hosts {
            *self.hosts.entry(host.clone()).or_default() += count;
        }
        for (vtep, count) in &other.foreign {
            *self.foreign.entry(*vtep).or_default() += count;
        }
    }

    /// Whether two are in the same places, however many in each.
    fn is_where(&self, other: &Self) -> bool {
        self.hosts.keys().eq(other.hosts.keys()) && self.foreign.keys().eq(other.foreign.keys())
    }
}

fn count_one<K: Ord + Clone>(counts: &mut BTreeMap<K, usize>, key: &K, there: bool) {
    match counts.get_mut(key) {
        Some(count) if there => *count += 1,
        Some(count) if *count > 1 => *count -= 1,
        Some(_) => drop(counts.remove(key)),
        None if there => drop(counts.insert(key.clone(), 1)),
        None => {}
    }
}

/// The span of each subnet that has one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spans(Sorted<(ObjectName, Span)>);

impl Spans {
    /// Those of subnets, in the order of their names, with these Ports and Endpoints.
    pub(crate) fn of<'a>(subnets: impl Iterator<Item = (&'a ObjectName, &'a [Arc<Resource>])>) -> Self {
        let span = |(subnet, members): (&ObjectName, &[Arc<Resource>])| {
            let mut span = Span::default();
            members.iter().for_each(|member| span.count(&member.spec, true));
            (span != Span::default()).then(|| Arc::new((subnet.clone(), span)))
        };
        Self(Sorted::from_sorted(subnets.filter_map(span).collect()))
    }

    /// Counts a Port or Endpoint of `subnet` in, or out again.
    pub(crate) fn count(&mut self, subnet: &ObjectName, member: &Resource, there: bool) {
        let mut span = self.get(subnet).cloned().unwrap_or_default();
        span.count(&member.spec, there);
        if span == Span::default() {
            self.0.remove(|item| item.0.cmp(subnet));
        } else {
            self.0.insert(Arc::new((subnet.clone(), span)), |left, right| left.0.cmp(&right.0));
        }
    }

    pub(crate) fn get(&self, subnet: &ObjectName) -> Option<&Span> {
        self.0.find(|item| item.0.cmp(subnet)).map(|item| &item.1)
    }

    /// Whether a subnet is in the same places in both.
    pub(crate) fn agree(&self, other: &Self, subnet: &ObjectName) -> bool {
        match (self.get(subnet), other.get(subnet)) {
            (Some(one), Some(other)) => one.is_where(other),
            (None, None) => true,
            _ => false,
        }
    }

    /// The subnets that are on a host.
    pub(crate) fn subnets_on<'a>(&'a self, host: &'a Name) -> impl Iterator<Item = &'a ObjectName> {
        self.0.iter().filter(|item| item.1.hosts.contains_key(host)).map(|item| &item.0)
    }

    /// That of several subnets together.
    pub(crate) fn sum<'a>(&self, subnets: impl Iterator<Item = &'a ObjectName>) -> Span {
        let mut sum = Span::default();
        subnets.filter_map(|subnet| self.get(subnet)).for_each(|span| sum.add(span));
        sum
    }
}

/// What one host's uplink leaves for the packets of a VPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Room {
    host: Name,
    uplink: u16,
    overhead: u16,
}

impl Room {
    /// The greatest packet, in bytes.
    pub(crate) fn bytes(&self) -> u16 {
        self.uplink.saturating_sub(self.overhead)
    }

    /// The arithmetic, for people.
    pub(crate) fn words(&self) -> String {
        let family = if self.overhead == OVERHEAD_V6 { "IPv6" } else { "IPv4" };
        let (host, uplink, overhead, room) = (&self.host, self.uplink, self.overhead, self.bytes());
        format!("uplink of {host}: {uplink} - {overhead} (VXLAN over {family}) = {room}")
    }
}

/// Which families a tunnel end point has, and which it prefers: all that counts between two of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Families {
    V4,
    V6,
    V4ThenV6,
    V6ThenV4,
}

impl Families {
    const ALL: [Self; 4] = [Self::V4, Self::V6, Self::V4ThenV6, Self::V6ThenV4];

    fn of(vteps: &[IpAddr]) -> Option<Self> {
        let first = vteps.first()?.is_ipv4();
        let both = vteps.iter().any(|vtep| vtep.is_ipv4() != first);
        Some(match (first, both) {
            (true, false) => Self::V4,
            (false, false) => Self::V6,
            (true, true) => Self::V4ThenV6,
            (false, true) => Self::V6ThenV4,
        })
    }

    fn has(self, v6: bool) -> bool {
        match self {
            Self::V4 => !v6,
            Self::V6 => v6,
            Self::V4ThenV6 | Self::V6ThenV4 => true,
        }
    }

    fn prefers_v6(self) -> bool {
        matches!(self, Self::V6 | Self::V6ThenV4)
    }

    /// Whether packets from `self` to `other` go over IPv6; `None` when they cannot go.
    fn towards(self, other: Self) -> Option<bool> {
        let preferred = other.prefers_v6();
        [preferred, !preferred].into_iter().find(|v6| self.has(*v6) && other.has(*v6))
    }
}

/// The hosts of a VPC that have uplinks, and what counts of the tunnel end points of others.
pub(crate) struct Underlay {
    hosts: Vec<(Name, u16, Families)>,
    /// Tunnel end points of each of the [`Families::ALL`].
    counts: [usize; 4],
}

impl Underlay {
    /// That of a VPC with this span and these directory hosts; `spec` gives what a host says.
    pub(crate) fn new<'a>(
        span: &'a Span,
        directory: &'a [Name],
        spec: impl Fn(&Name) -> Option<HostSpec>,
    ) -> Self {
        let mut counts = [0; 4];
        let mut hosts = Vec::new();
        let extra = directory.iter().filter(|host| !span.hosts.contains_key(*host));
        for host in span.hosts.keys().chain(extra) {
            let Some(spec) = spec(host) else { continue };
            if let (Some(families), Some(mtu)) = (Families::of(&spec.vteps), spec.uplink_mtu()) {
                counts[families as usize] += 1;
                hosts.push((host.clone(), mtu, families));
            }
        }
        for vtep in span.foreign.keys() {
            counts[if vtep.is_ipv4() { Families::V4 } else { Families::V6 } as usize] += 1;
        }
        Self { hosts, counts }
    }

    /// The least room its hosts leave; `None` when none has an uplink.
    pub(crate) fn room(&self) -> Option<Room> {
        let room = |(host, uplink, families): &(Name, u16, Families)| {
            let overhead = if self.needs_v6(*families) { OVERHEAD_V6 } else { OVERHEAD_V4 };
            Room { host: host.clone(), uplink: *uplink, overhead }
        };
        self.hosts.iter().map(room).min_by_key(Room::bytes)
    }

    /// The families of those that one with `families` talks to, itself excepted.
    fn others(&self, families: Families) -> impl Iterator<Item = Families> {
        let others = Families::ALL.into_iter().zip(self.counts);
        others.filter(move |(other, count)| *count > usize::from(*other == families)).map(|(other, _)| other)
    }

    /// Whether a host with `families` sends or receives anything over IPv6. Alone, it will once there is another like it.
    fn needs_v6(&self, families: Families) -> bool {
        let mut alone = true;
        for other in self.others(families) {
            alone = false;
            if families.towards(other) == Some(true) || other.towards(families) == Some(true) {
                return true;
            }
        }
        alone && families.prefers_v6()
    }

    /// Two hosts that have no family in common.
    pub(crate) fn strangers(&self) -> Option<[&Name; 2]> {
        let only =
            |wanted| self.hosts.iter().find(|(_, _, families)| *families == wanted).map(|(host, _, _)| host);
        Some([only(Families::V4)?, only(Families::V6)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vteps(families: &str) -> Vec<IpAddr> {
        let address = |family| match family {
            '4' => IpAddr::from([192, 0, 2, 1]),
            _ => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
        };
        families.chars().map(address).collect()
    }

    fn room(hosts: &[(&str, u16)], foreign: [usize; 2]) -> Option<u16> {
        let name = |index: usize| Name::parse(&format!("h{index}")).unwrap();
        let specs: BTreeMap<Name, HostSpec> = hosts
            .iter()
            .enumerate()
            .map(|(index, (families, mtu))| {
                (name(index), HostSpec { vteps: vteps(families), mtu: Some(*mtu) })
            })
            .collect();
        let foreign = ["192.0.2.9", "2001:db8::9"].into_iter().zip(foreign).filter(|(_, count)| *count > 0);
        let foreign = foreign.map(|(vtep, count)| (vtep.parse().unwrap(), count)).collect();
        let span = Span { hosts: specs.keys().map(|host| (host.clone(), 1)).collect(), foreign };
        Underlay::new(&span, &[], |host| specs.get(host).cloned()).room().map(|room| room.bytes())
    }

    #[test]
    fn the_receiver_chooses_and_the_sender_pays_too() {
        assert_eq!(room(&[], [0, 0]), None);
        assert_eq!(room(&[("", 1500)], [0, 0]), None, "no uplink");
        assert_eq!(room(&[("4", 1500)], [0, 0]), Some(1450));
        assert_eq!(room(&[("46", 1500), ("46", 1500)], [0, 0]), Some(1450));
        assert_eq!(room(&[("64", 1500), ("4", 1500)], [0, 0]), Some(1450), "the one has no IPv6");
        assert_eq!(room(&[("46", 1500), ("64", 9000)], [0, 0]), Some(1430), "the first sends over IPv6");
        assert_eq!(room(&[("46", 1500)], [0, 1]), Some(1430), "an Endpoint behind IPv6");
        assert_eq!(room(&[("46", 1500)], [1, 0]), Some(1450));
    }

    proptest! {
        #[test]
        fn the_classes_say_what_all_pairs_say(hosts in prop::collection::vec((prop::sample::select(&["4", "6", "46", "64"][..]), 1400..1600u16), 2..6)) {
            let over = |from: &str, to: &str| tunnel_address(&vteps(from), &vteps(to));
            let mut least = u16::MAX;
            for (index, (families, mtu)) in hosts.iter().enumerate() {
                let others = hosts.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, (other, _))| *other);
                let v6 = others.flat_map(|other| [over(families, other), over(other, families)]).flatten().any(|a| a.is_ipv6());
                least = least.min(mtu - if v6 { 70 } else { 50 });
            }
            prop_assert_eq!(room(&hosts, [0, 0]), Some(least));
        }
    }
}
