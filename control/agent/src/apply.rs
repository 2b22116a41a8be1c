//! From what is realized to what is desired, at the cost of the difference.

use crate::action::{Action, ExternalAction};
use crate::agent::{Agent, Exhausted, Realized};
use crate::bindings::{changes, unbound};
use crate::external::ExternalWork;
use crate::outside::Changed;
use crate::plan::{ExternalPlan, PortPlan};
use crate::policies::PolicyChanges;
use crate::scope::{Scope, VtepKey, Way};
use crate::watch::may_hold;
use engine::PortIndex;
use ipnet::IpNet;
use model::{Difference, Key, Kind, ObjectName, PortSpec, Resource, ResourceSet, Spec, VhostUserAttachment};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use tables::external::Mapping;
use tables::{Location, NextHop};

/// What an application is about.
#[derive(Default)]
struct Work {
    /// Ports and Endpoints that change, in the order of their keys; and others that may be bound differently for what does.
    changing: Vec<Difference>,
    others: BTreeMap<Key, Difference>,
    /// Subnets all of whose members are let go of, and those all of whose members are taken up.
    leaving: BTreeSet<ObjectName>,
    entering: BTreeSet<ObjectName>,
    /// SecurityGroups whose rules change.
    rules: Vec<ObjectName>,
    /// Ports whose floating IPs change.
    floating: BTreeSet<ObjectName>,
    /// Whether a LoadBalancer changes, or a Port that is a target of one.
    balancers: bool,
    /// What there is to be, if more than Ports, Endpoints, SecurityGroups and LoadBalancers changes.
    scope: Option<Scope>,
}

fn subnet_of(member: &Resource) -> Option<&ObjectName> {
    match &member.spec {
        Spec::Port(spec) => Some(&spec.subnet),
        Spec::Endpoint(spec) => Some(&spec.subnet),
        _ => None,
    }
}

fn as_port(member: &Resource) -> Option<&PortSpec> {
    if let Spec::Port(spec) = &member.spec { Some(spec) } else { None }
}

/// Whether a host of these addresses has some of IPv4, and of IPv6.
fn families(vteps: &[IpAddr]) -> [bool; 2] {
    [vteps.iter().any(IpAddr::is_ipv4), vteps.iter().any(IpAddr::is_ipv6)]
}

impl Agent {
    /// What must be done so that this host realizes `desired`; ports it has no room for are left out and reported. The cost is that of
    /// what changes: a port among a million is a port's work.
    pub fn apply(&mut self, desired: &ResourceSet) -> (Vec<Action>, Vec<Exhausted>) {
        let differences = self.set.differences(desired);
        let outside = self.outside.follow(desired, &differences);
        let work = self.prepare(desired, differences, outside);
        self.realize(desired, work)
    }

    /// What follows from these hosts being alive, and no others; `None`: all are. Who is not announces no external addresses.
    pub fn set_live(&mut self, live: Option<BTreeSet<model::Name>>) -> (Vec<Action>, Vec<Exhausted>) {
        let desired = self.set.clone();
        let outside = self.outside.set_live(&desired, live);
        let work = self.prepare(&desired, Vec::new(), outside);
        self.realize(&desired, work)
    }

    fn realize(&mut self, desired: &ResourceSet, mut work: Work) -> (Vec<Action>, Vec<Exhausted>) {
        let mut external = self.leave_outside(&work);
        let (mut actions, old) = self.let_go(&work);
        self.drop_holders(desired, &work);
        self.set = desired.clone();
        self.forget_arrivals();
        let mut sets = Vec::new();
        let structural = work.scope.is_some();
        let changed = match work.scope.take() {
            Some(scope) => self.set_plans(scope, &mut sets),
            None => BTreeSet::new(),
        };
        let touched = self.touched(&work, &changed);
        let mut policies = self.hold_policies(&work, &touched);
        let rules = self.set_rules(&work, &mut policies);
        let (closing, closes) = self.close(&touched);
        let mut exhausted = Vec::new();
        let opens = self.open(&touched, &mut exhausted);
        let mut new = Vec::new();
        for member in work.affected().filter_map(|difference| difference.new.as_ref()) {
            let here = |subnet| self.scope.subnets.contains_key(subnet) && !work.entering.contains(subnet);
            if subnet_of(member).is_some_and(here) {
                self.take_up(member, &mut new);
            }
        }
        let (unbinds, mut binds, mut newcomers) = changes(&old, new, &closing);
        let mut balancers = Vec::new();
        if structural || work.balancers {
            self.set_balancers(&mut actions, &mut balancers);
        }
        self.join_outside(&work, structural, &mut external);
        let (before, mut outside) = self.say_external(external, &work.floating, structural);
        actions.extend(before);
        actions.extend(unbinds);
        let detoured = self.detour(&closing, &mut actions);
        actions.extend(closes);
        actions.append(&mut sets);
        actions.extend(rules);
        actions.extend(opens);
        self.drop_policies(&mut policies, &mut actions);
        let hop = |key: &Key| key.kind == Kind::Port && self.scope.hops.contains(&object(key));
        let led_to = || work.affected().filter_map(Difference::key).any(hop);
        if structural || detoured || !self.scope.hops.is_empty() && led_to() {
            self.set_routes(&mut actions);
        }
        let changed = binds.len();
        for subnet in &work.entering {
            let members: Vec<Arc<Resource>> = self.set.members(Kind::Subnet, subnet).cloned().collect();
            binds.reserve(2 * members.len());
            members.iter().for_each(|member| self.take_up(member, &mut binds));
        }
        // All of a subnet that is entered is new.
        newcomers.add(binds.get(changed..).unwrap_or_default());
        actions.extend(newcomers.announce());
        actions.append(&mut binds);
        actions.append(&mut balancers);
        actions.append(&mut outside);
        if structural {
            self.remove_numbers(&mut actions);
        }
        (actions, exhausted)
    }

    /// What an application of `desired` is about.
    fn prepare(&self, desired: &ResourceSet, differences: Vec<Difference>, outside: Changed) -> Work {
        let mut structural = outside.hosts.contains(&self.host)
            || outside
                .vpcs
                .iter()
                .any(|vpc| self.external.is_about(vpc) || self.scope.vpcs.get(vpc) == Some(&true));
        let mut work = Work { floating: outside.ports, ..Work::default() };
        let mut hosts = Vec::new();
        let mut subnets: BTreeSet<ObjectName> = BTreeSet::new();
        for difference in differences {
            match difference.key().map(|key| (key.kind, &key.name)) {
                Some((Kind::Port | Kind::Endpoint, _)) => {
                    let members = [&difference.old, &difference.new];
                    for subnet in members.into_iter().flatten().filter_map(|member| subnet_of(member)) {
                        if !subnets.contains(subnet) {
                            structural |= self.is_structural(desired, subnet);
                            subnets.insert(subnet.clone());
                        }
                    }
                    let is_target = |key| self.balancers.targets.contains(&object(key));
                    work.balancers |= difference.key().is_some_and(is_target);
                    work.changing.push(difference);
                }
                Some((Kind::LoadBalancer, _)) => work.balancers = true,
                // Told by what changed outside.
                Some((Kind::FloatingIp | Kind::NatGateway, _)) => {}
                Some((Kind::ExternalNetwork, name)) => structural |= self.scope.networks.contains(name),
                Some((Kind::Host, name)) => hosts.push(name.clone()),
                Some((Kind::SecurityGroup, _)) => {
                    let spec =
                        |resource: &Option<Arc<Resource>>| resource.as_ref().map(|found| found.spec.clone());
                    if spec(&difference.old) != spec(&difference.new) {
                        work.rules.extend(difference.key().map(object));
                    }
                }
                Some(_) => structural = true,
                None => {}
            }
        }
        for name in &self.waiting {
            work.include(Key::of(Kind::Port, name), &self.set, desired);
        }
        if structural || !hosts.is_empty() {
            let scope = Scope::of(desired, &self.host, &self.outside);
            self.compare_scopes(desired, &scope, &hosts, &mut work);
            work.scope = Some(scope);
        }
        self.include_holders(desired, &mut work);
        work
    }

    /// Ports that go, or whose blocks may be others.
    fn leave_outside(&mut self, work: &Work) -> ExternalWork {
        let mut external = ExternalWork::default();
        for subnet in &work.leaving {
            let members: Vec<Arc<Resource>> = self.set.members(Kind::Subnet, subnet).cloned().collect();
            members.iter().for_each(|member| self.leave_external(member, None, &mut external));
        }
        for difference in &work.changing {
            if let Some(old) = &difference.old {
                self.leave_external(old, difference.new.as_deref(), &mut external);
            }
        }
        external
    }

    /// Ports that come, or whose blocks may be others.
    fn join_outside(&mut self, work: &Work, structural: bool, external: &mut ExternalWork) {
        if structural {
            self.set_realms(external);
        }
        for new in work.changing.iter().filter_map(|difference| difference.new.as_ref()) {
            self.join_external(new, external);
        }
        for subnet in &work.entering {
            let members: Vec<Arc<Resource>> = self.set.members(Kind::Subnet, subnet).cloned().collect();
            members.iter().for_each(|member| self.join_external(member, external));
        }
    }

    /// Whether a subnet that some members changed in is now on other hosts than before, or behind other tunnel end points.
    fn is_structural(&self, desired: &ResourceSet, subnet: &ObjectName) -> bool {
        let concerns = self.scope.subnets.contains_key(subnet)
            || desired.hosts_of(subnet).any(|host| *host == self.host);
        concerns && !self.set.is_in_same_places(desired, subnet)
    }

    fn compare_scopes(&self, desired: &ResourceSet, scope: &Scope, hosts: &[model::Name], work: &mut Work) {
        let own =
            |set: &ResourceSet| set.host(&self.host).map_or([false; 2], |host| families(&host.spec.vteps));
        // When this host gets or loses a family of addresses, anything may be reached otherwise.
        let all = own(&self.set) != own(desired);
        let (old, new) = (&self.scope.subnets, &scope.subnets);
        let leaves = |(subnet, vpc): &(&ObjectName, &ObjectName)| all || new.get(*subnet) != Some(*vpc);
        work.leaving.extend(old.iter().filter(leaves).map(|(subnet, _)| subnet.clone()));
        let enters = |(subnet, vpc): &(&ObjectName, &ObjectName)| {
            all || old.get(*subnet) != Some(*vpc) || self.subnets.plan(subnet).is_none()
        };
        work.entering.extend(new.iter().filter(enters).map(|(subnet, _)| subnet.clone()));
        for host in hosts {
            let key = VtepKey::Host(host.clone());
            if self.scope.vteps.contains_key(&key) == scope.vteps.contains_key(&key) {
                continue;
            }
            let stays = |subnet: &&ObjectName| !work.entering.contains(*subnet);
            let there = |subnet: &&ObjectName| desired.hosts_of(subnet).any(|other| other == host);
            let subnets: Vec<&ObjectName> = new.keys().filter(stays).filter(there).collect();
            for subnet in subnets {
                let on_host = |member: &&Arc<Resource>| as_port(member).is_some_and(|port| port.is_on(host));
                for member in desired.members(Kind::Subnet, subnet).filter(on_host) {
                    work.include(member.meta.key.clone(), &self.set, desired);
                }
            }
        }
    }

    /// Ports that may get, or lose, a MAC address that several go by.
    fn include_holders(&self, desired: &ResourceSet, work: &mut Work) {
        let holding: Vec<&ObjectName> = self.holders.ports().collect();
        for port in holding {
            if work.is_about(&Key::of(Kind::Port, port)) {
                for (vpc, address, mac) in self.holders.of(port) {
                    for other in self.holders.concerned(vpc, address, mac) {
                        work.include(Key::of(Kind::Port, &other), &self.set, desired);
                    }
                }
            }
        }
    }

    /// What is bound now and concerned: unbinding it, where a whole subnet is; as it is bound, where single members are.
    fn let_go(&mut self, work: &Work) -> (Vec<Action>, Vec<Action>) {
        let (mut unbinds, mut bindings) = (Vec::new(), Vec::new());
        for subnet in &work.leaving {
            let members: Vec<Arc<Resource>> = self.set.members(Kind::Subnet, subnet).cloned().collect();
            for member in members {
                let mut bound = Vec::new();
                self.bindings(&member, &mut bound);
                unbinds.extend(bound.iter().filter_map(unbound));
                self.watch(&member, false);
                self.enroll(&member, false);
            }
        }
        for member in work.affected().filter_map(|difference| difference.old.as_ref()) {
            let stays = |subnet| self.scope.subnets.contains_key(subnet) && !work.leaving.contains(subnet);
            if subnet_of(member).is_some_and(stays) {
                self.bindings(member, &mut bindings);
                self.watch(member, false);
                self.enroll(member, false);
            }
        }
        (unbinds, bindings)
    }

    fn take_up(&mut self, member: &Resource, to: &mut Vec<Action>) {
        self.watch(member, true);
        self.bindings(member, to);
    }

    fn watch(&mut self, member: &Resource, on: bool) {
        let Some(spec) = as_port(member) else { return };
        if spec.migrating_to.is_none() && spec.allowed_addresses.is_empty() {
            return;
        }
        let Some(vpc) = self.subnets.plan(&spec.subnet).map(|(_, plan)| plan.vpc) else { return };
        match on {
            true => self.watch.add(vpc, &member.meta.object(), spec),
            false => self.watch.remove(vpc, &member.meta.object(), spec),
        }
    }

    /// Takes addresses from ports that may not hold them any more.
    fn drop_holders(&mut self, desired: &ResourceSet, work: &Work) {
        let ports: Vec<ObjectName> = self.holders.ports().cloned().collect();
        for port in ports {
            let Some(old) = self.set.port(&port).map(|port| &port.spec.subnet) else { continue };
            let leaves = work.leaving.contains(old);
            if !leaves && !work.is_about(&Key::of(Kind::Port, &port)) {
                continue;
            }
            let spec = desired.port(&port).map(|port| port.spec);
            let spec = spec.filter(|spec| !leaves && spec.subnet == *old && spec.host.is_some());
            let held: Vec<_> = self.holders.of(&port).collect();
            for (vpc, address, mac) in held {
                if !spec.is_some_and(|spec| may_hold(spec, mac, address)) {
                    self.holders.remove(vpc, address);
                }
            }
        }
    }

    /// Where ports that do not move any more were last heard of does not count.
    fn forget_arrivals(&mut self) {
        let set = &self.set;
        self.active.retain(|name, host| {
            set.port(name).is_some_and(|port| port.spec.migrating_to.is_some() && port.spec.is_on(host))
        });
    }

    /// Gives numbers to what is in `scope`, and says what of it is news; the subnets whose ports may see that.
    fn set_plans(&mut self, scope: Scope, actions: &mut Vec<Action>) -> BTreeSet<ObjectName> {
        self.scope = scope;
        let scope = &self.scope;
        self.vteps.retain(|key| scope.vteps.contains_key(key));
        self.vpcs.retain(|key| scope.vpcs.contains_key(key));
        self.subnets.retain(|key| scope.subnets.contains_key(key));
        self.routes.retain(|key| scope.routes.contains(key));
        self.exits.retain(|key| scope.exits.contains(key));
        self.networks.retain(|key| scope.networks.contains(key));
        for (key, plan) in &scope.vteps {
            self.vteps.claim(key);
            if let Some(vtep) = self.vteps.set(key, plan) {
                let (address, sources, kind) = (plan.address, plan.sources.clone(), plan.kind);
                actions.push(Action::SetVtep { vtep, address, sources, kind });
            }
        }
        scope.vpcs.keys().for_each(|vpc| _ = self.vpcs.claim(vpc));
        scope.subnets.keys().for_each(|subnet| _ = self.subnets.claim(subnet));
        scope.routes.iter().for_each(|routes| _ = self.routes.claim(routes));
        let changed = self.set_vpcs(actions);
        self.set_exits(actions);
        self.set_subnets(&changed, actions)
    }

    fn set_vpcs(&mut self, actions: &mut Vec<Action>) -> BTreeSet<ObjectName> {
        let mut changed = BTreeSet::new();
        for (name, local) in &self.scope.vpcs {
            let plan = self.with_numbers(|numbers| numbers.vpc_plan(&self.set, &self.host, name, *local));
            let Some(plan) = plan else { continue };
            if let Some(vpc) = self.vpcs.set(name, &plan) {
                changed.insert(name.clone());
                actions.push(Action::SetVpc { vpc, plan: Box::new(plan) });
            }
        }
        changed
    }

    fn set_exits(&mut self, actions: &mut Vec<Action>) {
        for name in &self.scope.networks {
            let Some(spec) = self.set.external_network(name).map(|network| network.spec) else { continue };
            let plan = ExternalPlan { name: name.to_string(), gateway: spec.gateway };
            self.networks.claim(name);
            if let Some(network) = self.networks.set(name, &plan) {
                let action = ExternalAction::SetExternalNetwork { network, plan: Box::new(plan) };
                actions.push(Action::External(action));
            }
        }
        for key in &self.scope.exits {
            let (vpc, way) = key;
            let (network, mapping) = match way {
                Way::Network(network) => (Some(network), Mapping::default()),
                Way::Gateway(gateway) => {
                    let spec = self.set.nat_gateway(gateway).map(|gateway| gateway.spec);
                    let mapping = match spec.map(|spec| spec.mapping) {
                        Some(model::external::Mapping::EndpointIndependent) => Mapping::EndpointIndependent,
                        _ => Mapping::Destination,
                    };
                    (spec.map(|spec| &spec.external), mapping)
                }
            };
            let network = network.and_then(|network| self.networks.number(network));
            let Some((vpc, network)) = self.vpcs.number(vpc).zip(network) else { continue };
            self.exits.claim(key);
            if let Some(exit) = self.exits.set(key, &(vpc, network, mapping)) {
                actions.push(Action::External(ExternalAction::SetExit { exit, vpc, network, mapping }));
            }
        }
    }

    /// The subnets that changed, or are in a VPC that did.
    fn set_subnets(
        &mut self,
        vpcs: &BTreeSet<ObjectName>,
        actions: &mut Vec<Action>,
    ) -> BTreeSet<ObjectName> {
        let mut changed = BTreeSet::new();
        for (name, vpc) in &self.scope.subnets {
            let subnet = self.set.subnet(name);
            let plan = subnet.and_then(|subnet| self.with_numbers(|numbers| numbers.subnet_plan(subnet)));
            let Some(plan) = plan else { continue };
            let number = self.subnets.set(name, &plan);
            if number.is_some() || vpcs.contains(vpc) {
                changed.insert(name.clone());
            }
            if let Some(subnet) = number {
                actions.push(Action::SetSubnet { subnet, plan: Box::new(plan) });
            }
        }
        changed
    }

    /// The ports to look at: those that changed and are, or were, on this host; and those of subnets that changed.
    fn touched(&self, work: &Work, changed: &BTreeSet<ObjectName>) -> BTreeSet<ObjectName> {
        let here = |member: &Arc<Resource>| as_port(member).is_some_and(|port| port.is_on(&self.host));
        let is_or_was_here = |difference: &&Difference| {
            difference.old.as_ref().is_some_and(here) || difference.new.as_ref().is_some_and(here)
        };
        let keys = work.affected().filter(is_or_was_here).filter_map(Difference::key);
        let mut touched: BTreeSet<ObjectName> = keys.map(object).collect();
        if !changed.is_empty() || !work.leaving.is_empty() {
            let concerned = |subnet| changed.contains(subnet) || work.leaving.contains(subnet);
            let ports = self.ports.iter().filter(|(_, port)| concerned(&port.subnet));
            touched.extend(ports.map(|(name, _)| name.clone()));
        }
        touched
    }

    /// What a port is to be here. `None` when it is not on this host, or there is no number for what it needs.
    fn wanted(&self, name: &ObjectName) -> Option<PortPlan> {
        let port = self.set.port(name).filter(|port| port.spec.is_on(&self.host))?;
        let vpc = self.scope.subnets.get(&port.spec.subnet)?;
        let (number, subnet) = self.subnets.plan(&port.spec.subnet)?;
        let (_, vpc) = self.vpcs.plan(vpc)?;
        // Without a number for its policy it is nothing: it must not be taken for unfiltered.
        let policy = match self.policy_key(name) {
            Some(key) => Some(self.policies.policy(&key)?),
            None => None,
        };
        Some(PortPlan::of(port, number, subnet, vpc, policy))
    }

    /// Ports that changed are under other policies; policies whose rules changed are to be set.
    fn hold_policies(&mut self, work: &Work, touched: &BTreeSet<ObjectName>) -> PolicyChanges {
        let mut changes = PolicyChanges::default();
        for name in touched {
            if let Some(key) = self.policy_key(name) {
                self.policies.take(&key, &mut changes);
            }
        }
        let before = touched.iter().filter_map(|name| self.ports.get(name)?.policy.clone());
        before.collect::<Vec<_>>().iter().for_each(|key| self.policies.leave(key));
        work.rules.iter().for_each(|group| self.policies.rules_changed(group, &mut changes));
        self.policies.prepare(&self.set, &mut changes);
        changes
    }

    /// Members, then the rules that name their groups.
    fn set_rules(&mut self, work: &Work, changes: &mut PolicyChanges) -> Vec<Action> {
        for member in work.affected().filter_map(|difference| difference.new.as_ref()) {
            let here = |subnet| self.scope.subnets.contains_key(subnet) && !work.entering.contains(subnet);
            if subnet_of(member).is_some_and(here) {
                self.enroll(member, true);
            }
        }
        let none = self.policies.names_none();
        for subnet in work.entering.iter().filter(|_| !none) {
            let members: Vec<Arc<Resource>> = self.set.members(Kind::Subnet, subnet).cloned().collect();
            members.iter().for_each(|member| self.enroll(member, true));
        }
        let done = |member: &Resource, subnet: &ObjectName| {
            work.entering.contains(subnet) || work.is_about(&member.meta.key)
        };
        for (group, number) in &changes.named {
            self.enroll_all(group, *number, true, done);
        }
        let mut actions = Vec::new();
        if !changes.counters.is_empty() {
            actions.push(Action::StartCounters { counters: std::mem::take(&mut changes.counters) });
        }
        if !changes.compared.is_empty() {
            actions.push(Action::StartComparisons { numbers: std::mem::take(&mut changes.compared) });
        }
        actions.extend(self.members.changes());
        actions.extend(changes.set.iter().filter_map(|key| self.policies.plan(&self.set, key)));
        actions
    }

    /// Policies that no port is under go, and with them memberships that no rule asks for.
    fn drop_policies(&mut self, changes: &mut PolicyChanges, actions: &mut Vec<Action>) {
        self.policies.settle(changes, actions);
        for (group, number) in &changes.dropped {
            self.enroll_all(group, *number, false, |_, _| false);
        }
        actions.extend(self.members.changes());
    }

    /// Closes ports that go, or whose sockets change.
    fn close(&mut self, touched: &BTreeSet<ObjectName>) -> (BTreeSet<u16>, Vec<Action>) {
        let mut closing = BTreeSet::new();
        for name in touched {
            let Some(realized) = self.ports.get(name) else { continue };
            if self.wanted(name).is_some_and(|plan| !needs_reopening(&realized.plan, &plan)) {
                continue;
            }
            closing.insert(realized.index.0);
            self.by_index.remove(&realized.index);
            self.ports.remove(name);
        }
        let closes = closing.iter().map(|index| Action::ClosePort { index: PortIndex(*index) }).collect();
        (closing, closes)
    }

    /// Opens and changes ports.
    fn open(&mut self, touched: &BTreeSet<ObjectName>, exhausted: &mut Vec<Exhausted>) -> Vec<Action> {
        let mut actions = Vec::new();
        self.waiting.clear();
        for name in touched {
            let Some(port) = self.set.port(name).filter(|port| port.spec.is_on(&self.host)) else { continue };
            let subnet = port.spec.subnet.clone();
            let plan = self.wanted(name);
            let policy = self.policy_key(name);
            if let (Some(realized), Some(plan)) = (self.ports.get_mut(name), &plan) {
                if realized.plan != *plan {
                    actions.push(Action::ChangePort { index: realized.index, plan: Box::new(plan.clone()) });
                }
                *realized = Realized { index: realized.index, subnet, plan: plan.clone(), policy };
                continue;
            }
            let Some((plan, index)) = plan.and_then(|plan| Some((plan, self.port_indices.take()?))) else {
                exhausted.push(Exhausted { port: name.to_string() });
                self.waiting.insert(name.clone());
                if let Some(key) = policy {
                    self.policies.leave(&key);
                }
                continue;
            };
            let index = PortIndex(index);
            actions.push(Action::OpenPort { index, plan: Box::new(plan.clone()) });
            self.by_index.insert(index, name.clone());
            self.ports.insert(name.clone(), Realized { index, subnet, plan, policy });
        }
        actions
    }

    /// Lets no route lead to a port that closes. Whether any did.
    fn detour(&mut self, closing: &BTreeSet<u16>, actions: &mut Vec<Action>) -> bool {
        let closes = |hop: &NextHop| matches!(hop, NextHop::Port { location: Location::Local(port), .. } if closing.contains(port));
        if closing.is_empty() {
            return false;
        }
        let detoured = self.routes.amend(|plan| {
            let hop =
                |(net, hop): &(IpNet, NextHop)| (*net, if closes(hop) { NextHop::Blackhole } else { *hop });
            plan.iter().any(|(_, hop)| closes(hop)).then(|| plan.iter().map(hop).collect())
        });
        let any = !detoured.is_empty();
        actions.extend(detoured.into_iter().map(|(routes, plan)| Action::SetRoutes { routes, plan }));
        any
    }

    fn remove_numbers(&mut self, actions: &mut Vec<Action>) {
        actions.extend(self.routes.removed().into_iter().map(|routes| Action::RemoveRoutes { routes }));
        let exits = self.exits.removed().into_iter().map(|exit| ExternalAction::RemoveExit { exit });
        let networks = self.networks.removed().into_iter();
        let networks = networks.map(|network| ExternalAction::RemoveExternalNetwork { network });
        actions.extend(exits.chain(networks).map(Action::External));
        actions.extend(self.subnets.removed().into_iter().map(|subnet| Action::RemoveSubnet { subnet }));
        actions.extend(self.vpcs.removed().into_iter().map(|vpc| Action::RemoveVpc { vpc }));
        actions.extend(self.vteps.removed().into_iter().map(|vtep| Action::RemoveVtep { vtep }));
    }
}

impl Work {
    fn affected(&self) -> impl Iterator<Item = &Difference> {
        self.changing.iter().chain(self.others.values())
    }

    fn is_about(&self, key: &Key) -> bool {
        let changes = self.changing.binary_search_by(|difference| difference.key().cmp(&Some(key)));
        changes.is_ok() || self.others.contains_key(key)
    }

    /// Adds a member that does not change itself.
    fn include(&mut self, key: Key, old: &ResourceSet, new: &ResourceSet) {
        if !self.is_about(&key) {
            let difference = Difference { old: old.get(&key).cloned(), new: new.get(&key).cloned() };
            self.others.insert(key, difference);
        }
    }
}

fn object(key: &Key) -> ObjectName {
    let project = key.project.clone().unwrap_or_else(model::Name::default_project);
    ObjectName { project, name: key.name.clone() }
}

/// Whether the difference touches the socket itself. What is withheld from a guest is settled when its front end connects.
fn needs_reopening(old: &PortPlan, new: &PortPlan) -> bool {
    let socket = |plan: &PortPlan| {
        let attachment = plan.attachment.clone();
        attachment.map(|attachment| VhostUserAttachment { without_features: Vec::new(), ..attachment })
    };
    old.uid != new.uid || socket(old) != socket(new)
}
