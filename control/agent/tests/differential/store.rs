//! Plain maps that carry actions out, and refuse those that come too early or too late.

use crate::outside::Outside;
use packet::MacAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use tables::balancers::BalancerPlan;
use tables::rules::{Remote, Rule};
use tables::{Endpoint, Location, NextHop};
use towpath_agent::{Action, Agent, CheckPlan, ExternalAction, PortPlan, SubnetPlan, VpcPlan, VtepKind};

#[derive(Debug, Default)]
pub(crate) struct Store {
    ports: BTreeMap<u16, PortPlan>,
    vpcs: BTreeMap<u16, VpcPlan>,
    subnets: BTreeMap<u16, SubnetPlan>,
    routes: BTreeMap<u16, Vec<(ipnet::IpNet, NextHop)>>,
    vteps: BTreeMap<u16, (IpAddr, Vec<IpAddr>, VtepKind)>,
    macs: BTreeMap<(u16, MacAddr), Location>,
    endpoints: BTreeMap<(u16, IpAddr), Endpoint>,
    policies: BTreeMap<u16, (String, Vec<Rule>)>,
    members: BTreeMap<(u16, ipnet::IpNet), Vec<u16>>,
    balancers: BTreeMap<(u16, IpAddr), (BalancerPlan, Option<CheckPlan>)>,
    counters: BTreeSet<u32>,
    outside: Outside,
}

/// A group, and a rule of it without whether it is logged.
pub(crate) type CountedRule = (String, String);

impl Store {
    pub(crate) fn is_empty(&self) -> bool {
        let tables = self.macs.is_empty() && self.endpoints.is_empty() && self.routes.is_empty();
        tables
            && self.ports.is_empty()
            && self.vpcs.is_empty()
            && self.subnets.is_empty()
            && self.vteps.is_empty()
            && self.policies.is_empty()
            && self.members.is_empty()
            && self.balancers.is_empty()
            && self.outside.is_empty()
    }

    pub(crate) fn vtep_with_source(&self, source: IpAddr) -> Option<u16> {
        self.vteps.iter().find(|(_, (_, sources, _))| sources.contains(&source)).map(|(number, _)| *number)
    }

    pub(crate) fn vpc_named(&self, name: &str) -> Option<u16> {
        self.vpcs.iter().find(|(_, plan)| plan.name == name).map(|(number, _)| *number)
    }

    pub(crate) fn carry_out(&mut self, actions: &[Action]) {
        for (at, action) in actions.iter().enumerate() {
            if let Action::Expect { macs, ipv4, ipv6 } = action {
                assert_eq!((*macs, *ipv4, *ipv6), self.newcomers(&actions[at..]), "room for what is new");
            }
            self.carry_out_one(action);
        }
        self.check();
    }

    /// Entries that these actions bind and of which there are none yet.
    fn newcomers(&self, actions: &[Action]) -> (usize, usize, usize) {
        let (mut macs, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for action in actions {
            match action {
                Action::BindMac { space, mac, .. } => _ = macs.insert((*space, *mac)),
                Action::BindEndpoint { vpc, address, .. } => _ = addresses.insert((*vpc, *address)),
                Action::UnbindMac { .. } | Action::UnbindEndpoint { .. } => panic!("{action:?} after Expect"),
                _ => {}
            }
        }
        macs.retain(|key| !self.macs.contains_key(key));
        addresses.retain(|key| !self.endpoints.contains_key(key));
        let ipv4 = addresses.iter().filter(|(_, address)| address.is_ipv4()).count();
        (macs.len(), ipv4, addresses.len() - ipv4)
    }

    pub(crate) fn announced(&self) -> impl Iterator<Item = IpAddr> {
        self.outside.announced.iter().copied()
    }

    fn is_there(&self, location: Location) -> bool {
        match location {
            Location::Local(port) => self.ports.contains_key(&port),
            Location::Remote(vtep) | Location::Directory(vtep) => self.vteps.contains_key(&vtep),
        }
    }

    fn locations(&self) -> impl Iterator<Item = Location> {
        let hops = self.routes.values().flatten().filter_map(|(_, hop)| match hop {
            NextHop::Port { location, .. } => Some(*location),
            _ => None,
        });
        let endpoints = self.endpoints.values().map(|endpoint| endpoint.location);
        self.macs.values().copied().chain(endpoints).chain(hops)
    }

    fn carry_out_one(&mut self, action: &Action) {
        match action.clone() {
            Action::OpenPort { index, plan } => {
                assert!(plan.profile.policy.is_none_or(|policy| self.policies.contains_key(&policy)));
                assert!(self.ports.insert(index.0, *plan).is_none());
            }
            Action::ChangePort { index, plan } => {
                assert!(plan.profile.policy.is_none_or(|policy| self.policies.contains_key(&policy)));
                let before = self.ports.insert(index.0, (*plan).clone());
                assert_ne!(before.unwrap(), *plan, "a change that is none");
            }
            Action::ClosePort { index } => {
                assert!(self.ports.remove(&index.0).is_some());
                assert!(
                    !self.locations().any(|at| at == Location::Local(index.0)),
                    "something leads to {index:?}"
                );
            }
            Action::Expect { .. } => {}
            Action::Announce { port } => assert!(self.ports.contains_key(&port.0)),
            Action::SetVpc { vpc, plan } => assert_ne!(self.vpcs.insert(vpc, (*plan).clone()), Some(*plan)),
            Action::SetSubnet { subnet, plan } => {
                assert_ne!(self.subnets.insert(subnet, (*plan).clone()), Some(*plan));
            }
            Action::SetRoutes { routes, plan } => {
                let destinations: BTreeSet<_> = plan.iter().map(|(net, _)| *net).collect();
                assert_eq!(destinations.len(), plan.len(), "each destination once");
                for (_, hop) in &plan {
                    match *hop {
                        NextHop::Subnet(subnet) => assert!(self.subnets.contains_key(&subnet)),
                        NextHop::Vpc(vpc) => assert!(self.vpcs.contains_key(&vpc)),
                        NextHop::Port { location, .. } => assert!(self.is_there(location)),
                        NextHop::External(exit) => assert!(self.outside.exits.contains_key(&exit)),
                        NextHop::Blackhole => {}
                    }
                }
                assert_ne!(self.routes.insert(routes, plan.clone()), Some(plan));
            }
            Action::SetVtep { vtep, address, sources, kind } => {
                let plan = (address, sources, kind);
                assert_ne!(self.vteps.insert(vtep, plan.clone()), Some(plan));
            }
            Action::BindMac { space, mac, location } => {
                assert!(self.is_there(location), "{action:?}");
                let known = match space {
                    0x8000.. => self.vpcs.contains_key(&(space & 0x7fff)),
                    subnet => self.subnets.contains_key(&subnet),
                };
                assert!(known, "{action:?}");
                assert_ne!(self.macs.insert((space, mac), location), Some(location), "{action:?} again");
            }
            Action::BindEndpoint { vpc, address, endpoint } => {
                let known = self.vpcs.contains_key(&vpc) && self.subnets.contains_key(&endpoint.subnet);
                assert!(known && self.is_there(endpoint.location), "{action:?}");
                assert_ne!(
                    self.endpoints.insert((vpc, address), endpoint),
                    Some(endpoint),
                    "{action:?} again"
                );
            }
            Action::UnbindMac { space, mac } => {
                assert!(self.macs.remove(&(space, mac)).is_some(), "{action:?}");
            }
            Action::UnbindEndpoint { vpc, address } => {
                assert!(self.endpoints.remove(&(vpc, address)).is_some(), "{action:?}");
            }
            _ => self.carry_out_other(action),
        }
    }

    /// Rules and members, and what goes.
    fn carry_out_other(&mut self, action: &Action) {
        match action.clone() {
            Action::StartCounters { counters } => self.counters.extend(counters),
            Action::StartComparisons { .. } => {}
            Action::SetPolicy { policy, name, rules, .. } => {
                assert!(rules.iter().all(|rule| self.counters.contains(&rule.counter)), "{action:?}");
                self.policies.insert(policy, (name, rules));
            }
            Action::RemovePolicy { policy } => {
                assert!(self.policies.remove(&policy).is_some());
                assert!(!self.ports.values().any(|port| port.profile.policy == Some(policy)));
            }
            Action::BindMember { vpc, prefix, groups } => {
                assert!(self.vpcs.contains_key(&vpc) && !groups.is_empty() && prefix.prefix_len() > 0);
                assert!(groups.is_sorted_by(|one, next| one < next), "{groups:?}");
                assert_ne!(
                    self.members.insert((vpc, prefix), groups.clone()),
                    Some(groups),
                    "{action:?} again"
                );
            }
            Action::UnbindMember { vpc, prefix } => {
                assert!(self.members.remove(&(vpc, prefix)).is_some(), "{action:?}");
            }
            Action::SetBalancer { vpc, address, plan, check } => {
                assert!(self.vpcs.contains_key(&vpc), "{address}");
                let said = (*plan, check.map(|check| *check));
                assert_ne!(self.balancers.insert((vpc, address), said.clone()), Some(said));
            }
            Action::RemoveBalancer { vpc, address } => {
                assert!(self.balancers.remove(&(vpc, address)).is_some(), "{address}");
            }
            Action::External(action) => {
                self.outside.carry_out(&action, |vpc| self.vpcs.contains_key(&vpc));
                if let ExternalAction::RemoveExit { exit } = action {
                    assert!(!self.routes.values().flatten().any(|(_, hop)| *hop == NextHop::External(exit)));
                }
            }
            Action::RemoveVpc { vpc } => {
                assert!(!self.outside.is_about(vpc), "{:?}", self.outside);
                assert!(self.vpcs.remove(&vpc).is_some());
                assert!(!self.macs.keys().any(|(space, _)| *space == 0x8000 | vpc));
                assert!(!self.endpoints.keys().any(|(other, _)| *other == vpc));
                assert!(!self.members.keys().any(|(other, _)| *other == vpc));
                assert!(!self.balancers.keys().any(|(other, _)| *other == vpc));
                assert!(!self.subnets.values().any(|plan| plan.vpc == vpc));
            }
            Action::RemoveSubnet { subnet } => {
                assert!(self.subnets.remove(&subnet).is_some());
                assert!(!self.macs.keys().any(|(space, _)| *space == subnet));
                assert!(!self.endpoints.values().any(|endpoint| endpoint.subnet == subnet));
            }
            // A subnet that goes next may still name it.
            Action::RemoveRoutes { routes } => assert!(self.routes.remove(&routes).is_some()),
            Action::RemoveVtep { vtep } => {
                assert!(self.vteps.remove(&vtep).is_some());
                assert!(!self.locations().any(|at| at == Location::Remote(vtep)));
            }
            _ => panic!("{action:?} was carried out before"),
        }
    }

    /// After all actions everything that is pointed at is there.
    fn check(&self) {
        assert!(self.locations().all(|location| self.is_there(location)));
        for plan in self.vpcs.values() {
            assert!(plan.peers.iter().all(|peer| self.vpcs.contains_key(peer)), "{plan:?}");
            assert!(plan.directory.iter().all(|vtep| self.vteps.contains_key(vtep)), "{plan:?}");
        }
        for plan in self.subnets.values() {
            assert!(self.vpcs.contains_key(&plan.vpc), "{plan:?}");
            assert!(plan.routes.is_none_or(|routes| self.routes.contains_key(&routes)), "{plan:?}");
        }
        for (_, hop) in self.routes.values().flatten() {
            match hop {
                NextHop::Subnet(subnet) => assert!(self.subnets.contains_key(subnet)),
                NextHop::Vpc(vpc) => assert!(self.vpcs.contains_key(vpc)),
                NextHop::Port { subnet, .. } => assert!(self.subnets.contains_key(subnet)),
                NextHop::External(exit) => assert!(self.outside.exits.contains_key(exit)),
                NextHop::Blackhole => {}
            }
        }
        for plan in self.ports.values() {
            assert!(self.vpcs.contains_key(&plan.vpc) && self.subnets.contains_key(&plan.profile.subnet));
        }
    }

    fn place(&self, location: Location) -> String {
        match location {
            Location::Local(port) => format!("port {}", self.ports[&port].name),
            Location::Remote(vtep) => format!("vtep {}", self.vteps[&vtep].0),
            Location::Directory(_) => panic!("nothing is bound to a directory"),
        }
    }

    fn hop(&self, hop: &NextHop) -> String {
        match *hop {
            NextHop::Subnet(subnet) => format!("subnet {}", self.subnets[&subnet].name),
            NextHop::Vpc(vpc) => format!("vpc {}", self.vpcs[&vpc].name),
            NextHop::Port { location, mac, subnet } => {
                format!("{} {mac} {}", self.place(location), self.subnets[&subnet].name)
            }
            NextHop::External(exit) => self.outside.exit(exit, |vpc| self.vpcs[&vpc].name.clone()),
            NextHop::Blackhole => "blackhole".into(),
        }
    }

    /// The rules in use, and where each is counted; the same one may be there more than once.
    pub(crate) fn counted(&self, agent: &Agent) -> BTreeMap<CountedRule, BTreeSet<u32>> {
        let mut counted: BTreeMap<CountedRule, BTreeSet<u32>> = BTreeMap::new();
        let mut owners = BTreeMap::new();
        for (_, rules) in self.policies.values() {
            for rule in rules {
                let towpath_agent::CountedRule { group, index, rule: said, .. } =
                    agent.rule_of(rule.counter).unwrap();
                let owner = (group.to_string(), index);
                assert_eq!(owners.entry(rule.counter).or_insert_with(|| owner.clone()), &owner);
                assert_eq!(said.log, rule.log);
                let plain = Rule { log: false, ..rule.clone() };
                let text = rule_text(&plain, agent);
                counted.entry((group.to_string(), text)).or_default().insert(rule.counter);
            }
        }
        counted
    }

    /// All of it by names instead of numbers.
    pub(crate) fn words(&self, agent: &Agent) -> BTreeMap<String, String> {
        let mut words = BTreeMap::new();
        let mut say = |key: String, value: String| assert_eq!(words.insert(key, value), None, "twice");
        for plan in self.ports.values() {
            let profile = &plan.profile;
            let (vpc, subnet) = (&self.vpcs[&plan.vpc].name, &self.subnets[&profile.subnet].name);
            let up = profile.up;
            assert_eq!(profile.vpc, plan.vpc);
            let policy = profile.policy.map(|policy| &self.policies[&policy].0);
            let socket = plan.attachment.as_ref().map_or("", |attachment| &attachment.socket);
            let said = format!(
                "{vpc} {subnet} {} mtu={} up={up} {socket} {} {policy:?}",
                profile.mac, profile.mtu, profile.gateway_mac
            );
            say(format!("port {}", plan.name), said);
        }
        for plan in self.vpcs.values() {
            let peers: BTreeSet<&String> = plan.peers.iter().map(|peer| &self.vpcs[peer].name).collect();
            assert_eq!(peers.len(), plan.peers.len());
            let directory: BTreeSet<IpAddr> = plan.directory.iter().map(|vtep| self.vteps[vtep].0).collect();
            let (vni, mtu, local) = (plan.vni, plan.mtu, plan.local);
            say(
                format!("vpc {}", plan.name),
                format!("vni={vni} mtu={mtu} local={local} peers={peers:?} directory={directory:?}"),
            );
        }
        for plan in self.subnets.values() {
            let routes: Option<BTreeMap<ipnet::IpNet, String>> = plan
                .routes
                .map(|routes| self.routes[&routes].iter().map(|(net, hop)| (*net, self.hop(hop))).collect());
            let (vpc, gateways) = (&self.vpcs[&plan.vpc].name, &plan.gateways);
            let (dhcp, multicast) = (plan.dhcp.as_ref().map(|dhcp| &dhcp.dns), plan.multicast);
            let rest = format!(
                "{:?} {gateways:?} {} dhcp={dhcp:?} multicast={multicast}",
                plan.prefixes, plan.gateway_mac
            );
            say(format!("subnet {}", plan.name), format!("{vpc} {rest} routes={routes:?}"));
        }
        for (address, sources, kind) in self.vteps.values() {
            say(format!("vtep {address}"), format!("{sources:?} {kind:?}"));
        }
        for ((space, mac), location) in &self.macs {
            let space = match space {
                0x8000.. => format!("vpc {}", self.vpcs[&(space & 0x7fff)].name),
                subnet => format!("subnet {}", self.subnets[subnet].name),
            };
            say(format!("mac {space} {mac}"), self.place(*location));
        }
        for ((vpc, address), endpoint) in &self.endpoints {
            let (vpc, subnet) = (&self.vpcs[vpc].name, &self.subnets[&endpoint.subnet].name);
            let place = self.place(endpoint.location);
            say(format!("address {vpc} {address}"), format!("{} {subnet} {place}", endpoint.mac));
        }
        for (name, rules) in self.policies.values() {
            let mut rules: Vec<String> = rules.iter().map(|rule| rule_text(rule, agent)).collect();
            rules.sort();
            say(format!("policy {name}"), rules.join("; "));
        }
        for ((vpc, prefix), groups) in &self.members {
            let groups: BTreeSet<String> = groups.iter().map(|group| group_text(*group, agent)).collect();
            say(format!("member {} {prefix}", self.vpcs[vpc].name), format!("{groups:?}"));
        }
        self.outside
            .words(|vpc| self.vpcs[&vpc].name.clone())
            .into_iter()
            .for_each(|(key, value)| say(key, value));
        words
    }
}

fn group_text(number: u16, agent: &Agent) -> String {
    agent.group_of(number).unwrap().to_string()
}

fn rule_text(rule: &Rule, agent: &Agent) -> String {
    let remote = match rule.remote {
        Remote::Any => "any".into(),
        Remote::Prefix(net) => net.to_string(),
        Remote::Group(group) => group_text(group, agent),
    };
    let Rule { direction, action, priority, protocol, family, ports, icmp, log, .. } = rule;
    format!(
        "{direction:?} {action:?} {priority} {protocol:?} {family:?} {ports:?} {icmp:?} log={log} {remote}"
    )
}
