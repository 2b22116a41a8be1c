//! The state, what the agent's actions change of it, and what is due.

use crate::answers::Ports;
use crate::balancers::Balancers;
use crate::external::Outside;
use crate::members::Members;
use crate::rules::Refused;
use agent::{Action, SubnetPlan, VpcPlan, VtepKind};
use engine::PortIndex;
use ipnet::IpNet;
use packet::MacAddr;
use services::metadata::{Limits, Proxy, Upstream};
use services::neighbours::{Action as NextHop, Link, NeighbourId, Resolver};
use services::{Refusal, announce};
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;
use switch::{Control, UPLINK, UplinkPlan, Vtep};
use tables::{Location, OwnAddress, RouteTable, Shares, TokenBucket};

/// How often it is looked which next hops are in use.
const USE_CHECK: Duration = Duration::from_secs(1);
/// Copies of broadcasts made per second, and at once: of a port, and of what comes from one other host; then of what comes from all of them.
pub(crate) const COPIES: (u64, u64) = (2_000, 512);
const ALL_COPIES: (u64, u64) = (8_000, 2_048);
/// Other hosts that have budgets of their own. Of more, a few share one.
const COPY_SHARES: u16 = 256;

/// A full budget of copies.
pub(crate) fn copies() -> TokenBucket {
    TokenBucket::new(COPIES.0, COPIES.1)
}

/// How long packets for a port that came here are taken from the host it left, whoever sent them.
const LATE: Duration = Duration::from_secs(30);

/// The way to other hosts.
#[derive(Clone, Debug)]
pub struct UplinkSettings {
    /// Its addresses, prefixes and routers.
    pub link: Link,
    /// Bytes of the longest packet on the underlay.
    pub mtu: u16,
    /// Those of its addresses that the host's kernel has as well: it answers ARP, neighbour discovery and ping for them.
    pub kernel_answers: Vec<IpAddr>,
}

/// See the crate's documentation.
pub struct Fabric<U> {
    pub(crate) seed: u64,
    pub(crate) resolver: Option<Resolver>,
    /// Addresses of the uplink that the switch answers for.
    pub(crate) answered: Vec<IpAddr>,
    pub(crate) vteps: BTreeMap<u16, Option<NeighbourId>>,
    pub(crate) vpcs: BTreeMap<u16, VpcPlan>,
    pub(crate) subnets: BTreeMap<u16, SubnetPlan>,
    pub(crate) ports: Ports,
    pub(crate) members: Members,
    pub(crate) outside: Outside,
    next_use_check: Duration,
    /// The keys of ports that came here, and until when packets for them may be sent on from where they were.
    late: VecDeque<(Duration, (u16, MacAddr))>,
    /// Copies of broadcasts that may still be made: from each other host, and from all.
    pub(crate) copies: (Shares, TokenBucket),
    /// Frames of the control thread that found no way, or no memory.
    pub(crate) lost: u64,
    pub(crate) refusals: Vec<u64>,
    pub(crate) refused: Refused,
    pub(crate) balancers: Balancers,
    pub(crate) proxy: Proxy,
    /// The way to metadata services.
    pub upstream: U,
}

impl<U: Upstream> Fabric<U> {
    /// Of a host without an uplink, whose ports reach metadata services by `upstream`. `seed`, a random number, makes TCP's sequence numbers and
    /// spreads what many would do at one time.
    pub fn new(seed: u64, upstream: U) -> Self {
        Self {
            seed,
            resolver: None,
            answered: Vec::new(),
            vteps: BTreeMap::new(),
            vpcs: BTreeMap::new(),
            subnets: BTreeMap::new(),
            ports: Ports::default(),
            members: Members::default(),
            outside: Outside::default(),
            next_use_check: USE_CHECK,
            late: VecDeque::new(),
            copies: (
                Shares::new(COPY_SHARES, COPIES.0, COPIES.1),
                TokenBucket::new(ALL_COPIES.0, ALL_COPIES.1),
            ),
            lost: 0,
            refusals: vec![0; Refusal::ALL.len()],
            refused: Refused::default(),
            balancers: Balancers::new(seed.rotate_left(32)),
            proxy: Proxy::new(Limits::default(), seed),
            upstream,
        }
    }

    /// Gives the host an uplink, before any tunnel end point is known. Its queues are attached by the caller, to [`switch::UPLINK`].
    pub fn set_uplink(&mut self, control: &mut Control, settings: UplinkSettings) {
        let link = self.describe_uplink(control, settings);
        control.publish();
        self.resolver = Some(Resolver::new(link, self.seed));
    }

    /// The uplink has other addresses, another MAC address, MTU or other routers than it had: tunnels begin there from now on, next hops are found anew
    /// where they must be, and its neighbours are told.
    pub fn change_uplink(&mut self, control: &mut Control, settings: UplinkSettings, now: Duration) {
        let link = self.describe_uplink(control, settings);
        let (mac, own) = (link.mac, link.addresses.clone());
        match &mut self.resolver {
            Some(resolver) => resolver.set_link(link),
            None => self.resolver = Some(Resolver::new(link, self.seed)),
        }
        let numbers: Vec<u16> = self.vteps.keys().copied().collect();
        for number in numbers {
            let Some(Vtep { address, sources, is_host, .. }) = control.vtep(number).cloned() else {
                continue;
            };
            let kind = if is_host { VtepKind::Host } else { VtepKind::Foreign };
            self.set_vtep(control, number, (address, sources), kind, now);
        }
        self.move_external(control, mac, now);
        control.publish();
        for address in own.iter().map(IpNet::addr) {
            self.transmit(control, UPLINK, &announce::of_address(mac, address));
        }
    }

    /// Tells the switch what its uplink is.
    fn describe_uplink(&mut self, control: &mut Control, settings: UplinkSettings) -> Link {
        let UplinkSettings { link, mtu, kernel_answers } = settings;
        let addresses = link
            .addresses
            .iter()
            .map(|net| OwnAddress { address: net.addr(), answered: !kernel_answers.contains(&net.addr()) });
        let (addresses, gateways) = (addresses.collect::<Vec<_>>(), link.gateways.clone());
        self.answered = addresses.iter().filter(|own| own.answered).map(|own| own.address).collect();
        control.set_uplink(&UplinkPlan { mac: link.mac, mtu, addresses, gateways });
        link
    }

    /// What the next hops of the underlay are doing, and the tunnel end points that go by them.
    pub fn resolver(&self) -> Option<&Resolver> {
        self.resolver.as_ref()
    }

    /// Frames of the control thread's own that found no way out.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// How many messages of each kind were not answered, but for those of none.
    pub fn refusals(&self) -> impl Iterator<Item = (Refusal, u64)> {
        Refusal::ALL.iter().copied().zip(self.refusals.iter().copied()).filter(|(_, count)| *count > 0)
    }

    /// All VPCs by number.
    pub fn vpcs(&self) -> impl Iterator<Item = (u16, &VpcPlan)> {
        self.vpcs.iter().map(|(number, plan)| (*number, plan))
    }

    /// The VPC of that number.
    pub fn vpc(&self, number: u16) -> Option<&VpcPlan> {
        self.vpcs.get(&number)
    }

    /// The number of the VPC of that name, as `project/name`.
    pub fn vpc_named(&self, name: &str) -> Option<u16> {
        self.vpcs.iter().find(|(_, plan)| plan.name == name).map(|(number, _)| *number)
    }

    /// The subnet of that number.
    pub fn subnet(&self, number: u16) -> Option<&SubnetPlan> {
        self.subnets.get(&number)
    }

    /// Does what the agent asks. What concerns a port's socket is noted and given back, to be done by the caller.
    pub fn carry_out(&mut self, control: &mut Control, action: Action, now: Duration) -> Option<Action> {
        match action {
            Action::OpenPort { index, ref plan } | Action::ChangePort { index, ref plan } => {
                self.ports.set(index, plan);
                self.serve_metadata(index);
                return Some(action);
            }
            Action::ClosePort { index } => {
                self.ports.remove(index);
                self.proxy.remove_port(index.0, &mut self.upstream);
                return Some(action);
            }
            Action::Announce { port } => self.announce_to_all(control, port),
            Action::SetVpc { vpc, plan } => {
                control.set_vpc(vpc, (&*plan).into(), plan.local);
                self.vpcs.insert(vpc, *plan);
            }
            Action::RemoveVpc { vpc } => {
                control.remove_vpc(vpc);
                self.vpcs.remove(&vpc);
            }
            Action::SetSubnet { subnet, plan } => {
                control.set_subnet(subnet, Some((&*plan).into()));
                let before = self.subnets.insert(subnet, *plan);
                if before.is_some_and(|before| {
                    Some(&before.dhcp) != self.subnets.get(&subnet).map(|plan| &plan.dhcp)
                }) {
                    self.ports.indices_of(subnet).into_iter().for_each(|port| self.serve_metadata(port));
                }
            }
            Action::RemoveSubnet { subnet } => {
                control.set_subnet(subnet, None);
                self.subnets.remove(&subnet);
            }
            Action::SetRoutes { routes, plan } => control.set_routes(routes, Some(RouteTable::build(plan))),
            Action::RemoveRoutes { routes } => control.set_routes(routes, None),
            Action::SetVtep { vtep, address, sources, kind } => {
                self.set_vtep(control, vtep, (address, sources), kind, now);
            }
            Action::RemoveVtep { vtep } => self.remove_vtep(control, vtep, now),
            Action::Expect { macs, ipv4, ipv6 } => control.expect(macs, ipv4, ipv6),
            Action::StartCounters { counters } => Self::start_counters(control, &counters),
            Action::StartComparisons { numbers } => control.comparisons().start(&numbers),
            Action::SetPolicy { policy, name, rules, shadow } => {
                self.set_policy(control, policy, &name, (rules, shadow));
            }
            Action::RemovePolicy { policy } => self.remove_policy(control, policy),
            Action::BindMember { vpc, prefix, groups } => self.set_member(control, vpc, prefix, &groups),
            Action::UnbindMember { vpc, prefix } => self.remove_member(control, vpc, prefix),
            Action::SetBalancer { vpc, address, plan, check } => {
                self.set_balancer(control, (vpc, address), Some((*plan, check.map(|check| *check))), now);
            }
            Action::RemoveBalancer { vpc, address } => self.set_balancer(control, (vpc, address), None, now),
            Action::BindMac { space, mac, location } => {
                self.place_mac(control, space, mac, Some(location), now);
            }
            Action::UnbindMac { space, mac } => self.place_mac(control, space, mac, None, now),
            Action::BindEndpoint { vpc, address, endpoint } => control.place_endpoint(vpc, address, endpoint),
            Action::UnbindEndpoint { vpc, address } => control.forget_endpoint(vpc, address),
            Action::External(action) => self.carry_out_outside(control, action, now),
        }
        None
    }

    fn place_mac(
        &mut self,
        control: &mut Control,
        space: u16,
        mac: MacAddr,
        location: Option<Location>,
        now: Duration,
    ) {
        let before = match location {
            Some(location) => control.place_mac(space, mac, location),
            None => control.forget_mac(space, mac),
        };
        if let Some(Location::Remote(vtep)) = before {
            self.members.remove(space, vtep);
        }
        if let Some(Location::Remote(vtep)) = location {
            self.members.add(space, vtep);
        }
        if let (Some(from @ Location::Remote(_)), Some(Location::Local(_))) = (before, location)
            && let Some(vpc) = self.subnets.get(&space).map(|subnet| subnet.vpc)
        {
            // It came here: the host it left sends on what others still send there.
            let late = (tables::vpc_space(vpc), tables::late_mac(mac));
            control.place_mac(late.0, late.1, from);
            self.late.retain(|(_, other)| *other != late);
            self.late.push_back((now + LATE, late));
        }
    }

    /// Whoever has not heard by now where a port is has had his time.
    fn forget_late(&mut self, control: &mut Control, now: Duration) {
        while let Some((until, (space, mac))) = self.late.front().copied()
            && until <= now
        {
            self.late.pop_front();
            control.forget_mac(space, mac);
        }
    }

    fn set_vtep(
        &mut self,
        control: &mut Control,
        number: u16,
        (address, sources): (IpAddr, Vec<IpAddr>),
        kind: VtepKind,
        now: Duration,
    ) {
        let before = self.vteps.remove(&number).flatten();
        let neighbour = self.resolver.as_mut().and_then(|resolver| resolver.resolve(address, now).ok());
        self.release(control, before, now);
        self.vteps.insert(number, neighbour);
        // A number that no next hop has: packets wait for it in vain, and are counted.
        let neighbour = neighbour.map_or(u16::MAX, |neighbour| neighbour.0);
        control.set_vtep(number, Vtep { address, sources, is_host: kind == VtepKind::Host, neighbour });
    }

    fn remove_vtep(&mut self, control: &mut Control, number: u16, now: Duration) {
        control.remove_vtep(number);
        let neighbour = self.vteps.remove(&number).flatten();
        self.release(control, neighbour, now);
    }

    pub(crate) fn release(&mut self, control: &Control, neighbour: Option<NeighbourId>, now: Duration) {
        let (Some(resolver), Some(neighbour)) = (&mut self.resolver, neighbour) else { return };
        resolver.release(neighbour, now);
        if resolver.mac(neighbour).is_none() {
            control.neighbours().set(neighbour.0, None);
        }
    }

    /// When [`Fabric::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Duration> {
        let next_hops = self.resolver.as_ref().and_then(Resolver::next_deadline);
        let use_check = self.resolver.as_ref().map(|_| self.next_use_check);
        let late = self.late.front().map(|(until, _)| *until);
        let services =
            [self.ports.next_deadline(), self.proxy.next_deadline(), self.balancers.next_deadline()];
        let again = self.outside.next_deadline();
        [next_hops, use_check, late, again].into_iter().chain(services).flatten().min()
    }

    /// Does what is due at `now`.
    pub fn tick(&mut self, control: &mut Control, now: Duration) {
        let actions = self.resolver.as_mut().map(|resolver| resolver.on_tick(now)).unwrap_or_default();
        self.follow(control, actions);
        if now >= self.next_use_check {
            self.next_use_check = now + USE_CHECK;
            let neighbours = control.neighbours().clone();
            if let Some(resolver) = &mut self.resolver {
                let used: Vec<NeighbourId> = resolver.status().map(|(id, _)| id).collect();
                used.into_iter()
                    .filter(|id| neighbours.take_used(id.0))
                    .for_each(|id| resolver.used(id, now));
            }
        }
        self.forget_late(control, now);
        self.announce_again(control, now);
        self.advertise(control, now);
        let frames = self.proxy.on_tick(now, &mut self.upstream);
        self.deliver(control, frames);
        if self.balancers.next_deadline().is_some_and(|due| due <= now) {
            self.check_targets(control, now);
        }
    }

    /// Does what the next hops' state machine says.
    pub(crate) fn follow(&mut self, control: &mut Control, actions: Vec<NextHop>) {
        for action in actions {
            match action {
                NextHop::Send(frame) => self.transmit(control, UPLINK, &frame),
                NextHop::Reachable { id, mac } => control.neighbours().set(id.0, Some(mac)),
                NextHop::Failed { id } => control.neighbours().set(id.0, None),
            }
        }
    }

    pub(crate) fn transmit(&mut self, control: &mut Control, port: PortIndex, frame: &[u8]) {
        self.lost += u64::from(!control.transmit(port, frame));
    }

    pub(crate) fn transmit_tunnel(&mut self, control: &mut Control, vtep: u16, vpc: u16, frame: &[u8]) {
        self.lost += u64::from(!control.transmit_tunnel(vtep, vpc, frame));
    }
}
