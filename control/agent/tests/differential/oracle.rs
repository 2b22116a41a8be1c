//! What a host should have realized, computed from all there is each time, as plainly as possible.

use crate::outside::Wanted;
use model::security_group::{self, Protocol, Rule};
use model::{EndpointSpec, Name, ObjectName, PortSpec, ResourceSet, SubnetSpec, Typed, Via};
use packet::MacAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use towpath_agent::VtepKind;

#[derive(Debug)]
pub(crate) struct Oracle {
    host: Name,
    set: ResourceSet,
    /// Where ports that move were last heard.
    active: BTreeMap<ObjectName, Name>,
    /// Who holds the virtual addresses of a VPC, by which MAC address.
    held: BTreeMap<(ObjectName, IpAddr), (ObjectName, MacAddr)>,
    /// Whose a MAC address is that several hold addresses by.
    owners: BTreeMap<(ObjectName, MacAddr), ObjectName>,
    /// Hosts that are alive; `None`: all.
    live: Option<BTreeSet<Name>>,
}

impl Oracle {
    pub(crate) fn new(host: Name) -> Self {
        Self {
            host,
            set: ResourceSet::default(),
            active: BTreeMap::new(),
            held: BTreeMap::new(),
            owners: BTreeMap::new(),
            live: None,
        }
    }

    fn outside<'a>(&'a self, set: &'a ResourceSet) -> Wanted<'a> {
        Wanted { set, host: &self.host, live: self.live.as_ref() }
    }

    pub(crate) fn set_live(&mut self, live: Option<BTreeSet<Name>>) {
        let before = self.vpcs(&self.set);
        self.live = live;
        let after = self.vpcs(&self.set);
        self.held.retain(|(vpc, _), _| before.contains_key(vpc) && after.contains_key(vpc));
        self.settle_owners();
    }

    fn local_vpcs(&self, set: &ResourceSet) -> BTreeSet<ObjectName> {
        let here = set.ports().filter(|port| port.spec.is_on(&self.host));
        here.map(|port| set.subnet(&port.spec.subnet).unwrap().spec.vpc.clone()).collect()
    }

    /// VPCs that are known, and their peers, of those with ports here and of their peers.
    fn vpcs(&self, set: &ResourceSet) -> BTreeMap<ObjectName, BTreeSet<ObjectName>> {
        let local = self.local_vpcs(set);
        let mut all: BTreeMap<ObjectName, BTreeSet<ObjectName>> =
            local.iter().map(|vpc| (vpc.clone(), BTreeSet::new())).collect();
        for peering in set.peerings() {
            let [one, other] = &peering.spec.vpcs;
            if local.contains(one) || local.contains(other) {
                all.entry(one.clone()).or_default().insert(other.clone());
                all.entry(other.clone()).or_default().insert(one.clone());
            }
        }
        for vpc in self.outside(set).announced() {
            all.entry(vpc).or_default();
        }
        all
    }

    fn subnet(&self, name: &ObjectName) -> Option<Typed<'_, SubnetSpec>> {
        let subnet = self.set.subnet(name)?;
        self.vpcs(&self.set).contains_key(&subnet.spec.vpc).then_some(subnet)
    }

    fn own_families(&self, set: &ResourceSet) -> [bool; 2] {
        let own = set.host(&self.host).map(|host| host.spec.vteps.clone()).unwrap_or_default();
        [own.iter().any(IpAddr::is_ipv4), own.iter().any(IpAddr::is_ipv6)]
    }

    fn vtep_of(&self, host: &Name) -> Option<IpAddr> {
        let vteps = &self.set.host(host)?.spec.vteps;
        vteps.iter().copied().find(|vtep| self.own_families(&self.set)[usize::from(vtep.is_ipv6())])
    }

    fn foreign_vtep(&self, endpoint: &EndpointSpec) -> Option<IpAddr> {
        self.own_families(&self.set)[usize::from(endpoint.vtep.is_ipv6())].then_some(endpoint.vtep)
    }

    fn host_of<'a>(&'a self, name: &ObjectName, spec: &'a PortSpec) -> Option<&'a Name> {
        self.active.get(name).or(spec.host.as_ref())
    }

    fn place(&self, name: &ObjectName, spec: &PortSpec) -> Option<String> {
        let host = self.host_of(name, spec).filter(|_| !spec.shutdown)?;
        match *host == self.host {
            true => Some(format!("port {name}")),
            false => self.vtep_of(host).map(|vtep| format!("vtep {vtep}")),
        }
    }

    pub(crate) fn vpc_of(&self, port: &ObjectName) -> Option<String> {
        self.subnet(&self.set.port(port)?.spec.subnet).map(|subnet| subnet.spec.vpc.to_string())
    }

    /// A port's MAC address, and the numbers in the names of its VPC and subnet.
    pub(crate) fn station(&self, port: &ObjectName) -> Option<(MacAddr, u8, u8)> {
        let spec = self.set.port(port)?.spec;
        let vpc = &self.set.subnet(&spec.subnet)?.spec.vpc;
        let number = |name: &ObjectName| name.name.as_str()[1..].parse().unwrap();
        Some((spec.mac, number(vpc), number(&spec.subnet)))
    }

    pub(crate) fn desire(&mut self, set: ResourceSet) {
        let families = self.own_families(&self.set) == self.own_families(&set);
        let (before, after) = (self.vpcs(&self.set), self.vpcs(&set));
        let (old, new) = (std::mem::replace(&mut self.set, set.clone()), set);
        self.held.retain(|(vpc, address), (port, mac)| {
            let (Some(was), Some(is)) = (old.port(port), new.port(port)) else { return false };
            let vpcs =
                [&old, &new].map(|set| set.subnet(&was.spec.subnet).map(|subnet| subnet.spec.vpc.clone()));
            let known = before.contains_key(vpc) && after.contains_key(vpc);
            let same =
                was.spec.subnet == is.spec.subnet && vpcs.iter().all(|other| other.as_ref() == Some(vpc));
            families && known && same && is.spec.host.is_some() && may_hold(is.spec, *mac, *address)
        });
        self.settle_owners();
        self.active.retain(|port, host| {
            new.port(port).is_some_and(|port| port.spec.migrating_to.is_some() && port.spec.is_on(host))
        });
    }

    fn settle_owners(&mut self) {
        let held = &self.held;
        let holders = |vpc: &ObjectName, mac: MacAddr| -> Vec<ObjectName> {
            let by_mac = held.iter().filter(|((other, _), (_, by))| other == vpc && *by == mac);
            by_mac.map(|(_, (port, _))| port.clone()).collect()
        };
        self.owners.retain(|(vpc, mac), owner| {
            let holders = holders(vpc, *mac);
            if !holders.contains(owner) {
                // The one with the lowest address.
                match holders.first() {
                    Some(first) => *owner = first.clone(),
                    None => return false,
                }
            }
            true
        });
    }

    fn hold(&mut self, port: &ObjectName, address: IpAddr, mac: MacAddr) {
        let Some(spec) = self.set.port(port).map(|port| port.spec.clone()) else { return };
        let Some(vpc) = self.subnet(&spec.subnet).map(|subnet| subnet.spec.vpc.clone()) else { return };
        if may_hold(&spec, mac, address) {
            self.held.insert((vpc.clone(), address), (port.clone(), mac));
            self.owners.insert((vpc, mac), port.clone());
            self.settle_owners();
        }
    }

    pub(crate) fn announced(&mut self, port: &ObjectName, address: IpAddr, mac: MacAddr) {
        let spec = self.set.port(port).unwrap().spec;
        if self.place(port, spec) == Some(format!("port {port}")) {
            self.hold(port, address, mac);
        }
    }

    pub(crate) fn heard_of(&mut self, vpc: &str, source: IpAddr, mac: MacAddr, address: Option<IpAddr>) {
        let Some(host) = self.set.hosts().find(|host| host.spec.vteps.contains(&source)) else { return };
        let host = host.meta.name().clone();
        let in_vpc = |port: &ObjectName| self.vpc_of(port).is_some_and(|other| other == vpc);
        let ports: Vec<ObjectName> = self.set.ports().map(|port| port.meta.object()).filter(in_vpc).collect();
        for port in &ports {
            let spec = self.set.port(port).unwrap().spec;
            let moves = spec.migrating_to.is_some() && spec.mac == mac && spec.is_on(&host);
            if moves && self.host_of(port, spec) != Some(&host) {
                self.active.insert(port.clone(), host);
                return;
            }
        }
        let Some(address) = address else { return };
        let holder = ports.into_iter().find(|port| {
            let spec = self.set.port(port).unwrap().spec;
            self.host_of(port, spec) == Some(&host) && may_hold(spec, mac, address)
        });
        if let Some(holder) = holder {
            self.hold(&holder, address, mac);
        }
    }

    pub(crate) fn activated(&mut self, port: &ObjectName) {
        let spec = self.set.port(port).unwrap().spec;
        if spec.migrating_to.is_some() && spec.is_on(&self.host) {
            self.active.insert(port.clone(), self.host.clone());
        }
    }

    /// What there should be, in the words of the store.
    pub(crate) fn words(&self) -> BTreeMap<String, String> {
        let mut words = BTreeMap::new();
        let set = &self.set;
        let vpcs = self.vpcs(set);
        let mut vteps: BTreeMap<IpAddr, (Vec<IpAddr>, VtepKind)> = BTreeMap::new();
        let mut reach = |host: &Name| {
            if let (true, Some(vtep)) = (*host != self.host, self.vtep_of(host)) {
                vteps.insert(vtep, (set.host(host).unwrap().spec.vteps.clone(), VtepKind::Host));
            }
        };
        for (name, peers) in &vpcs {
            let spec = set.vpc(name).unwrap().spec;
            spec.directory.iter().for_each(&mut reach);
            let whole = spec.directory.contains(&self.host);
            let directory: BTreeSet<IpAddr> =
                spec.directory.iter().filter(|_| !whole).filter_map(|host| self.vtep_of(host)).collect();
            let (vni, mtu, local) = (spec.vni, set.mtu(name).unwrap(), self.local_vpcs(set).contains(name));
            let peers: BTreeSet<String> = peers.iter().map(ToString::to_string).collect();
            words.insert(
                format!("vpc {name}"),
                format!("vni={vni} mtu={mtu} local={local} peers={peers:?} directory={directory:?}"),
            );
        }
        for subnet in set.subnets().filter(|subnet| vpcs.contains_key(&subnet.spec.vpc)) {
            let (name, said) = self.subnet_words(subnet);
            words.insert(name, said);
        }
        for port in set.ports() {
            if let Some(subnet) = self.subnet(&port.spec.subnet) {
                port.spec.host.iter().chain(&port.spec.migrating_to).for_each(&mut reach);
                self.port_words(&port.meta.object(), port.spec, subnet.spec, &mut words);
            }
        }
        let local = self.local_vpcs(set);
        self.outside(set).announcers(&local).iter().for_each(&mut reach);
        for endpoint in set.endpoints() {
            let Some(subnet) = self.subnet(&endpoint.spec.subnet) else { continue };
            let Some(vtep) = self.foreign_vtep(endpoint.spec) else { continue };
            vteps.insert(vtep, (vec![vtep], VtepKind::Foreign));
            let (mac, name, vpc) = (endpoint.spec.mac, &endpoint.spec.subnet, &subnet.spec.vpc);
            words.insert(format!("mac subnet {name} {mac}"), format!("vtep {vtep}"));
            for address in &endpoint.spec.ips {
                words.insert(format!("address {vpc} {address}"), format!("{mac} {name} vtep {vtep}"));
            }
        }
        self.policy_words(&mut words);
        self.outside(set).words(&local, &mut words);
        words.extend(
            vteps
                .into_iter()
                .map(|(vtep, (sources, kind))| (format!("vtep {vtep}"), format!("{sources:?} {kind:?}"))),
        );
        words
    }

    /// The group that a port or a rule of a VPC means.
    fn meant(vpc: &ObjectName, group: &ObjectName) -> String {
        match group.name.as_str() {
            "default" => format!("default/default.{}", vpc.name),
            _ => group.to_string(),
        }
    }

    fn groups(vpc: &ObjectName, spec: &PortSpec) -> BTreeSet<String> {
        spec.security_groups.iter().map(|group| Self::meant(vpc, group)).collect()
    }

    fn policy_words(&self, words: &mut BTreeMap<String, String>) {
        let mut named: BTreeSet<String> = BTreeSet::new();
        for port in self.set.ports().filter(|port| port.spec.is_on(&self.host) && !port.spec.unfiltered) {
            let vpc = &self.set.subnet(&port.spec.subnet).unwrap().spec.vpc;
            let groups = Self::groups(vpc, port.spec);
            let mut rules = Vec::new();
            for group in
                self.set.security_groups().filter(|group| groups.contains(&group.meta.object().to_string()))
            {
                assert_eq!(&group.spec.vpc, vpc);
                for rule in &group.spec.rules {
                    rules.push(rule_words(vpc, rule));
                    if let security_group::Remote::Group(remote) = &rule.remote {
                        named.insert(Self::meant(vpc, remote));
                    }
                }
            }
            rules.sort();
            let name: Vec<String> = groups.into_iter().collect();
            words.insert(format!("policy {}", name.join(",")), rules.join("; "));
        }
        let mut members: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for port in self.set.ports() {
            let vpc = &self.set.subnet(&port.spec.subnet).unwrap().spec.vpc;
            let groups: BTreeSet<String> =
                Self::groups(vpc, port.spec).intersection(&named).cloned().collect();
            let mut nets: BTreeSet<ipnet::IpNet> = port.spec.ips.iter().map(|ip| (*ip).into()).collect();
            nets.extend(port.spec.allowed_addresses.iter().map(|allowed| allowed.ip));
            for net in nets.into_iter().filter(|net| net.prefix_len() > 0 && !groups.is_empty()) {
                members.entry(format!("member {vpc} {net}")).or_default().extend(groups.clone());
            }
        }
        words.extend(members.into_iter().map(|(member, groups)| (member, format!("{groups:?}"))));
    }

    fn subnet_words(&self, subnet: Typed<'_, SubnetSpec>) -> (String, String) {
        let (set, spec) = (&self.set, subnet.spec);
        let mut routes: BTreeMap<ipnet::IpNet, String> = BTreeMap::new();
        for other in set.subnets().filter(|other| other.spec.vpc == spec.vpc) {
            routes
                .extend(other.spec.cidrs.iter().map(|net| (*net, format!("subnet {}", other.meta.object()))));
        }
        let table = spec.route_table.as_ref().map(|table| set.route_table(table).unwrap());
        for route in table.iter().flat_map(|table| &table.spec.routes) {
            let hop = match &route.via {
                Via::Blackhole => None,
                Via::Peering(peering) => {
                    set.peering(peering).unwrap().spec.peer_of(&spec.vpc).map(|peer| format!("vpc {peer}"))
                }
                Via::Port(port) => {
                    let router = set.port(port).unwrap().spec;
                    self.place(port, router).map(|place| format!("{place} {} {}", router.mac, router.subnet))
                }
                Via::NatGateway(_) | Via::External(_) => Some(self.outside(set).exit(&spec.vpc, &route.via)),
            };
            routes.insert(route.destination, hop.unwrap_or("blackhole".into()));
        }
        let routes = self.local_vpcs(set).contains(&spec.vpc).then_some(routes);
        let dhcp = spec.dhcp.as_ref().map(|dhcp| &dhcp.dns);
        let (vpc, nets, gateways, mac) = (&spec.vpc, &spec.cidrs, &spec.gateways, spec.gateway_mac);
        let said = format!(
            "{vpc} {nets:?} {gateways:?} {mac} dhcp={dhcp:?} multicast={} routes={routes:?}",
            spec.multicast
        );
        (format!("subnet {}", subnet.meta.object()), said)
    }

    fn port_words(
        &self,
        name: &ObjectName,
        spec: &PortSpec,
        subnet: &SubnetSpec,
        words: &mut BTreeMap<String, String>,
    ) {
        let (vpc, on) = (&subnet.vpc, &spec.subnet);
        if spec.is_on(&self.host) {
            let (mtu, up) = (self.set.mtu(vpc).unwrap(), !spec.shutdown);
            let Some(model::Attachment::VhostUser(vhost)) = &spec.attachment else { panic!() };
            let groups: Vec<String> = Self::groups(vpc, spec).into_iter().collect();
            let policy = (!spec.unfiltered).then(|| groups.join(","));
            let (mac, socket, gateway) = (spec.mac, &vhost.socket, subnet.gateway_mac);
            words.insert(
                format!("port {name}"),
                format!("{vpc} {on} {mac} mtu={mtu} up={up} {socket} {gateway} {policy:?}"),
            );
        }
        let Some(place) = self.place(name, spec) else { return };
        let from_underlay =
            place.starts_with("port") || spec.migrating_to.is_some() && spec.is_on(&self.host);
        let mut addresses: Vec<(IpAddr, MacAddr)> =
            spec.ips.iter().map(|address| (*address, spec.mac)).collect();
        let held = self.held.iter().filter(|(_, (holder, _))| holder == name);
        addresses.extend(held.map(|((_, address), (_, mac))| (*address, *mac)));
        for (address, mac) in addresses {
            words.insert(format!("address {vpc} {address}"), format!("{mac} {on} {place}"));
            if mac == spec.mac || self.owners.get(&(vpc.clone(), mac)) == Some(name) {
                words.insert(format!("mac subnet {on} {mac}"), place.clone());
                if from_underlay {
                    words.insert(format!("mac vpc {vpc} {mac}"), place.clone());
                }
            }
        }
    }

    /// What of interest there is.
    pub(crate) fn reached(&self) -> BTreeSet<&'static str> {
        let words = self.words();
        let mut reached = BTreeSet::new();
        for (key, value) in &words {
            let virtual_address = key.starts_with("address")
                && key.rsplit('.').next().is_some_and(|last| last.len() == 3 && last >= "200");
            let beside = key == "exits"
                && value.split(';').any(|exit| exit.contains('+') && exit.contains(": \"198.51.0.10"));
            let found = [
                (key.starts_with("port"), "local port"),
                (key.starts_with("mac subnet") && value.starts_with("vtep 192"), "remote port"),
                (key.starts_with("mac subnet") && value.starts_with("vtep 203"), "endpoint of others"),
                (key.starts_with("vpc") && value.contains("local=false"), "peer"),
                (key.starts_with("subnet") && value.contains("/24: \"port"), "route to a port here"),
                (key.starts_with("subnet") && value.contains("/24: \"vtep"), "route to a port elsewhere"),
                (key.starts_with("subnet") && value.contains("/24: \"vpc"), "route to a peer"),
                (key.starts_with("mac vpc") && value.starts_with("vtep"), "port that left"),
                (virtual_address && value.contains("port"), "virtual address here"),
                (virtual_address && value.contains("vtep"), "virtual address elsewhere"),
                (key.starts_with("mac") && key.contains("00:00:5e"), "virtual MAC address"),
                (key.starts_with("policy") && key.contains(','), "policy of several groups"),
                (key.starts_with("policy") && value.contains("default/g"), "rule that names a group"),
                (key.starts_with("member"), "member of a group"),
                (key.starts_with("member") && value.contains(','), "member of several groups"),
                (key.starts_with("member") && key.ends_with("/18"), "network in a group"),
                (key.starts_with("subnet") && value.contains("198.19."), "route to a NAT gateway"),
                (key.starts_with("subnet") && value.contains("198.18."), "route to an external network"),
                (key == "exits" && value.contains('+'), "block of a port"),
                (key.starts_with("external 198.51.0.10") && key.len() > 20, "floating IP"),
                (beside, "floating IP beside blocks"),
                (key.starts_with("external 1") && value.ends_with("here=true"), "address announced here"),
                (
                    key.starts_with("external 1") && value.ends_with("here=false"),
                    "address announced elsewhere",
                ),
                (
                    key.starts_with("inside") && words[&key.replace("inside", "vpc")].contains("local=false"),
                    "VPC known for an address alone",
                ),
            ];
            reached.extend(found.into_iter().filter(|(is, _)| *is).map(|(_, word)| word));
        }
        for port in self.set.ports().filter(|port| port.spec.migrating_to.as_ref() == Some(&self.host)) {
            reached.insert("port that moves");
            if self.active.get(&port.meta.object()) == Some(&self.host) {
                reached.insert("port that arrived here");
            }
        }
        reached
    }
}

fn rule_words(vpc: &ObjectName, rule: &Rule) -> String {
    let direction = if rule.direction == security_group::Direction::Ingress { "Ingress" } else { "Egress" };
    let action = if rule.action == security_group::Action::Allow { "Allow" } else { "Deny" };
    let protocol = rule.protocol.map(|protocol| protocol.0);
    let family = rule.protocol.filter(|protocol| *protocol == Protocol::ICMP).map(|_| "Ipv4");
    let family = family.map_or("None".to_owned(), |family| format!("Some({family})"));
    let ports: Vec<String> =
        rule.ports.iter().map(|range| format!("{}..={}", range.first, range.last)).collect();
    let remote = match &rule.remote {
        security_group::Remote::Any => "any".into(),
        security_group::Remote::Cidr(net) => net.to_string(),
        security_group::Remote::Group(group) => Oracle::meant(vpc, group),
    };
    let (priority, icmp, log, ports) = (rule.priority, rule.icmp, rule.log, ports.join(", "));
    format!("{direction} {action} {priority} {protocol:?} {family} [{ports}] {icmp:?} log={log} {remote}")
}

fn may_hold(spec: &PortSpec, mac: MacAddr, address: IpAddr) -> bool {
    let single = |allowed: &model::AllowedAddress| allowed.ip == ipnet::IpNet::from(address);
    let by = |allowed: &model::AllowedAddress| match allowed.mac {
        Some(other) => other == mac,
        None => mac == spec.mac,
    };
    let allowed = spec.allowed_addresses.iter().any(|allowed| single(allowed) && by(allowed));
    allowed && !spec.shutdown && !spec.ips.contains(&address)
}
