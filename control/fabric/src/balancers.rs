//! Load balancers: what the agent says of them and what checks find out about their targets, together what the switch is told.

use crate::fabric::Fabric;
use agent::CheckPlan;
use engine::PortIndex;
use packet::MacAddr;
use services::Refusal;
use services::health::{Check, Health, Place, Prober, Protocol, Station, TargetId};
use services::metadata::Upstream;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;
use switch::Control;
use tables::balancers::BalancerPlan;
use tables::{Location, TokenBucket};

/// Tables of targets made per second, and at once, because of checks: those of a balancer take up to a millisecond. More changes wait.
const TABLES: (u64, u64) = (100, 32);
/// How soon to try again.
const LATER: Duration = Duration::from_millis(20);
/// Bytes before a word: Ethernet header and the VPC's number on the wire.
const WORD_AT: usize = 14;

/// See the module's documentation.
pub(crate) struct Balancers {
    /// As the agent says, by VPC and address.
    plans: BTreeMap<(u16, IpAddr), (BalancerPlan, Option<CheckPlan>)>,
    pub(crate) prober: Prober,
    /// Those that look otherwise now than the switch knows, and when it is told.
    unsaid: BTreeSet<(u16, IpAddr)>,
    later: Duration,
    budget: TokenBucket,
    /// Targets that nobody looks after: they are too many.
    unchecked: BTreeSet<TargetId>,
    changed: Vec<(TargetId, Health)>,
}

impl Balancers {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            plans: BTreeMap::new(),
            prober: Prober::new(seed),
            unsaid: BTreeSet::new(),
            later: Duration::ZERO,
            budget: TokenBucket::new(TABLES.0, TABLES.1),
            unchecked: BTreeSet::new(),
            changed: Vec::new(),
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let later = (!self.unsaid.is_empty()).then_some(self.later);
        [later, self.prober.next_deadline()].into_iter().flatten().min()
    }

    /// A balancer as the switch is to know it.
    fn seen(&self, key: (u16, IpAddr)) -> Option<BalancerPlan> {
        let (mut plan, _) = self.plans.get(&key)?.clone();
        for target in &mut plan.targets {
            let id = TargetId { vpc: key.0, shared: key.1, target: target.address };
            target.up &= self.prober.health(&id).is_none_or(|health| health.is_up());
        }
        Some(plan)
    }

    /// Looks after the targets of a balancer that there are now and no others.
    fn look_after(&mut self, (vpc, shared): (u16, IpAddr), now: Duration) {
        let plan = self.plans.get(&(vpc, shared));
        let wanted: BTreeMap<TargetId, Check> = plan
            .and_then(|(plan, check)| Some((plan, check.as_ref()?)))
            .map(|(plan, check)| {
                let up = plan.targets.iter().filter(|target| target.up);
                up.map(|target| (TargetId { vpc, shared, target: target.address }, check_of(check))).collect()
            })
            .unwrap_or_default();
        for id in self.prober.of(vpc, shared) {
            if !wanted.contains_key(&id) {
                self.prober.remove(&id);
            }
        }
        self.unchecked.retain(|id| (id.vpc, id.shared) != (vpc, shared));
        for (id, check) in wanted {
            if !self.prober.set(id, check, now) {
                self.unchecked.insert(id);
            }
        }
    }
}

fn check_of(plan: &CheckPlan) -> Check {
    Check {
        protocol: plan.path.clone().map_or(Protocol::Tcp, |path| Protocol::Http { path }),
        port: plan.port,
        interval: plan.interval,
        timeout: plan.timeout,
        unhealthy_after: plan.unhealthy_after,
        healthy_after: plan.healthy_after,
    }
}

impl<U: Upstream> Fabric<U> {
    pub(crate) fn set_balancer(
        &mut self,
        control: &mut Control,
        key: (u16, IpAddr),
        plan: Option<(BalancerPlan, Option<CheckPlan>)>,
        now: Duration,
    ) {
        match plan {
            Some(plan) => drop(self.balancers.plans.insert(key, plan)),
            None => drop(self.balancers.plans.remove(&key)),
        }
        self.balancers.look_after(key, now);
        self.balancers.unsaid.remove(&key);
        control.set_balancer(key.0, key.1, self.balancers.seen(key));
    }

    /// What is known of a balancer's target: nothing where it is not checked. Times are those that the fabric is given.
    pub fn health(&self, id: &TargetId) -> Option<Health> {
        self.balancers.prober.health(id)
    }

    /// The address of the tunnel end point of the host by whose word that is known; `None` for what was found out here.
    pub fn health_by_word_of(&self, control: &Control, id: &TargetId) -> Option<IpAddr> {
        Some(control.vtep(self.balancers.prober.by_word_of(id)?)?.address)
    }

    /// Targets of which something else is known than at the last call, and what.
    pub fn health_changes(&mut self) -> Vec<(TargetId, Health)> {
        std::mem::take(&mut self.balancers.changed)
    }

    /// Targets that are to be checked and are not, one line: they are more than a host looks after.
    pub fn unchecked(&self) -> Option<String> {
        let count = self.balancers.unchecked.len();
        (count > 0).then(|| {
            let most = services::health::MOST_TARGETS;
            format!(
                "{count} targets of load balancers are not checked and count as up: a host looks after {most}"
            )
        })
    }

    /// Checks who is due, and tells the switch and other hosts what came of it.
    pub(crate) fn check_targets(&mut self, control: &mut Control, now: Duration) {
        let Self { balancers, ports, subnets, .. } = self;
        let find = Finder { control, ports, subnets };
        let frames = balancers.prober.on_tick(now, |id| find.place(id));
        self.deliver(control, frames);
        self.follow_checks(control, now);
    }

    /// A target's packet to its gateway.
    pub(crate) fn answer_check(
        &mut self,
        control: &mut Control,
        port: PortIndex,
        frame: &[u8],
        now: Duration,
    ) -> Result<(), Refusal> {
        let frames = self.balancers.prober.on_frame(port.0, frame, now)?;
        self.deliver(control, frames);
        self.follow_checks(control, now);
        Ok(())
    }

    /// What another host says of targets that it holds.
    pub(crate) fn hear_word(
        &mut self,
        control: &mut Control,
        (vpc, vtep): (u16, u16),
        frame: &[u8],
        now: Duration,
    ) -> Result<(), Refusal> {
        let (vni, payload) =
            frame.get(WORD_AT..).and_then(|rest| rest.split_first_chunk::<4>()).ok_or(Refusal::Truncated)?;
        let vni = u32::from_be_bytes(*vni);
        // Who has no ports of that VPC hears it in one that it is peered with.
        let known = self.vpcs.get(&vpc).ok_or(Refusal::NotForUs)?;
        let about = std::iter::once(&vpc)
            .chain(&known.peers)
            .find(|number| self.vpcs.get(number).is_some_and(|plan| plan.vni == vni));
        let about = *about.ok_or(Refusal::NotForUs)?;
        let Self { balancers, ports, subnets, .. } = self;
        let find = Finder { control, ports, subnets };
        balancers.prober.on_word((about, vtep), payload, now, |id| find.place(id))?;
        self.follow_checks(control, now);
        Ok(())
    }

    fn follow_checks(&mut self, control: &mut Control, now: Duration) {
        for id in self.balancers.prober.changes() {
            self.balancers.unsaid.insert((id.vpc, id.shared));
            self.balancers.changed.extend(self.balancers.prober.health(&id).map(|health| (id, health)));
        }
        let nanoseconds = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        while let Some(key) = self.balancers.unsaid.first().copied() {
            if !self.balancers.budget.take(nanoseconds, 1) {
                self.balancers.later = now + LATER;
                break;
            }
            self.balancers.unsaid.remove(&key);
            control.set_balancer(key.0, key.1, self.balancers.seen(key));
        }
        for (vpc, payload) in self.balancers.prober.speak(now) {
            self.tell(control, vpc, &payload);
        }
    }

    /// Tells every other towpathd whose ports may be clients of a VPC's balancers.
    fn tell(&mut self, control: &mut Control, vpc: u16, payload: &[u8]) {
        let Some((plan, resolver)) = self.vpcs.get(&vpc).zip(self.resolver.as_ref()) else { return };
        let (vni, mac) = (plan.vni.to_be_bytes(), resolver.link().mac);
        let kind = services::health::ETHER_TYPE.to_be_bytes();
        let frame = [&MacAddr::BROADCAST.0[..], &mac.0, &kind, &vni, payload].concat();
        let mut told = BTreeSet::new();
        let others: Vec<u16> = std::iter::once(vpc).chain(plan.peers.iter().copied()).collect();
        for through in others {
            for vtep in self.vteps_of(through) {
                if control.vtep(vtep).is_some_and(|vtep| vtep.is_host) && told.insert(vtep) {
                    self.transmit_tunnel(control, vtep, through, &frame);
                }
            }
        }
    }
}

/// Finds out where a target is.
struct Finder<'a> {
    control: &'a Control,
    ports: &'a crate::answers::Ports,
    subnets: &'a BTreeMap<u16, agent::SubnetPlan>,
}

impl Finder<'_> {
    fn place(&self, id: &TargetId) -> Place {
        self.find(id).unwrap_or(Place::Nowhere)
    }

    fn find(&self, id: &TargetId) -> Option<Place> {
        let endpoint = self.control.endpoint(id.vpc, id.target)?;
        let port = match endpoint.location {
            Location::Local(port) => port,
            Location::Remote(vtep) => {
                return self.control.vtep(vtep).filter(|vtep| vtep.is_host).map(|_| Place::There(vtep));
            }
            Location::Directory(_) => return None,
        };
        let subnet = self.subnets.get(&endpoint.subnet)?;
        let gateway = *subnet.gateways.iter().find(|gateway| gateway.is_ipv4() == id.target.is_ipv4())?;
        Some(Place::Here(Station {
            port,
            mac: endpoint.mac,
            gateway_mac: subnet.gateway_mac,
            gateway,
            address: id.target,
            mtu: self.ports.get(PortIndex(port))?.mtu,
        }))
    }
}
