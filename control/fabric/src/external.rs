//! Ways out of VPCs: what the agent says of external networks, put where workers read it; the networks' routers as next hops; and announcements of the addresses that this
//! host answers for.

use crate::fabric::Fabric;
use agent::{ExternalAction, ExternalOwner, ExternalPlan};
use ipnet::IpNet;
use packet::MacAddr;
use services::announce;
use services::metadata::Upstream;
use services::neighbours::NeighbourId;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;
use switch::{Control, UPLINK};
use tables::external::{Exit, External, Mapping, Owner, Source};

/// When an address that was announced is announced once more: the first time may be lost (RFC 5227 section 2.3).
const AGAIN: Duration = Duration::from_secs(2);

/// An external network in use.
#[derive(Debug)]
struct Network {
    plan: ExternalPlan,
    router: Option<NeighbourId>,
}

/// What is known of external networks beside what workers read.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    networks: BTreeMap<u16, Network>,
    /// Addresses that are announced once more, and when, in order.
    again: VecDeque<(Duration, IpAddr)>,
}

impl Outside {
    /// When an address is announced again.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.again.front().map(|(at, _)| *at)
    }
}

/// An exit that leads nowhere.
fn unused() -> Exit {
    Exit { vpc: u16::MAX, ..Exit::default() }
}

/// The routers of an exit: over IPv4, then IPv6.
fn routers(network: Option<&Network>) -> [Option<u16>; 2] {
    let router = network.and_then(|network| Some((network.plan.gateway, network.router?.0)));
    let over = |v4: bool| router.filter(|(address, _)| address.is_ipv4() == v4).map(|(_, number)| number);
    [over(true), over(false)]
}

fn exit_mut(external: &mut External, number: u16) -> Option<&mut Exit> {
    external.exits.get_mut(usize::from(number))
}

impl<U: Upstream> Fabric<U> {
    /// Does what the agent asks.
    pub(crate) fn carry_out_outside(&mut self, control: &mut Control, action: ExternalAction, now: Duration) {
        match action {
            ExternalAction::SetExternalNetwork { network, plan } => {
                self.set_external_network(control, network, *plan, now);
            }
            ExternalAction::RemoveExternalNetwork { network } => {
                self.remove_external_network(control, network, now);
            }
            ExternalAction::SetExit { exit, vpc, network, mapping } => {
                self.set_exit(control, exit, (vpc, network), mapping);
            }
            ExternalAction::RemoveExit { exit } => Self::remove_exit(control, exit),
            ExternalAction::SetInside { vpc, networks } => Self::set_inside(control, vpc, Some(networks)),
            ExternalAction::RemoveInside { vpc } => Self::set_inside(control, vpc, None),
            ExternalAction::BindExternal { address, owner } => {
                Self::bind_external(control, address, Some(owner));
            }
            ExternalAction::UnbindExternal { address } => Self::bind_external(control, address, None),
            ExternalAction::BindBlock { address, block, inside } => {
                Self::bind_block(control, address, block, Some(inside));
            }
            ExternalAction::UnbindBlock { address, block } => Self::bind_block(control, address, block, None),
            ExternalAction::BindSource { exit, inside, source } => {
                Self::bind_source(control, exit, inside, Some(source));
            }
            ExternalAction::UnbindSource { exit, inside } => Self::bind_source(control, exit, inside, None),
            ExternalAction::AnnounceExternal { address } => {
                self.announce_external(control, address, true, now);
            }
            ExternalAction::WithdrawExternal { address } => {
                self.announce_external(control, address, false, now);
            }
        }
    }

    fn set_external_network(
        &mut self,
        control: &mut Control,
        number: u16,
        plan: ExternalPlan,
        now: Duration,
    ) {
        // A router outside of all prefixes of the uplink is on its link all the same.
        let resolver = self.resolver.as_mut();
        let router = resolver.and_then(|resolver| resolver.resolve_on_link(plan.gateway, now).ok());
        let network = Network { plan, router };
        let external = control.external();
        let exits = external.exits.iter_mut().filter(|exit| exit.network == number && exit.vpc != u16::MAX);
        exits.for_each(|exit| exit.routers = routers(Some(&network)));
        let gateway = network.plan.gateway;
        let before = self.outside.networks.insert(number, network);
        if let Some(before) = &before {
            external.routers.remove(&before.plan.gateway);
        }
        external.routers.extend(router.map(|router| (gateway, router.0)));
        self.release(control, before.and_then(|before| before.router), now);
    }

    fn remove_external_network(&mut self, control: &mut Control, number: u16, now: Duration) {
        if let Some(network) = self.outside.networks.remove(&number) {
            control.external().routers.remove(&network.plan.gateway);
            self.release(control, network.router, now);
        }
    }

    fn set_exit(&self, control: &mut Control, number: u16, (vpc, network): (u16, u16), mapping: Mapping) {
        let external = control.external();
        if external.exits.len() <= usize::from(number) {
            external.exits.resize_with(usize::from(number) + 1, unused);
        }
        if let Some(exit) = exit_mut(external, number) {
            (exit.vpc, exit.network, exit.mapping) = (vpc, network, mapping);
            exit.routers = routers(self.outside.networks.get(&network));
        }
    }

    fn remove_exit(control: &mut Control, number: u16) {
        let exits = &mut control.external().exits;
        if let Some(exit) = exits.get_mut(usize::from(number)) {
            *exit = unused();
        }
        while exits.last().is_some_and(|exit| exit.vpc == u16::MAX) {
            exits.pop();
        }
    }

    fn set_inside(control: &mut Control, vpc: u16, networks: Option<Vec<IpNet>>) {
        match networks {
            Some(networks) => drop(control.external().inside.insert(vpc, networks)),
            None => drop(control.external().inside.remove(&vpc)),
        }
    }

    fn bind_external(control: &mut Control, address: IpAddr, owner: Option<ExternalOwner>) {
        let owners = &mut control.external().owners;
        match owner {
            None => drop(owners.remove(&address)),
            Some(ExternalOwner::Floating { inside, network }) => {
                owners.insert(address, Owner::Floating(inside, network));
            }
            Some(ExternalOwner::Shared { vpc, count, blocks }) => {
                owners.insert(address, Owner::Shared { vpc, count, blocks: vec![None; usize::from(blocks)] });
            }
        }
    }

    fn bind_block(control: &mut Control, address: IpAddr, block: u16, inside: Option<IpAddr>) {
        let owner = control.external().owners.get_mut(&address);
        if let Some(Owner::Shared { blocks, .. }) = owner
            && let Some(place) = blocks.get_mut(usize::from(block))
        {
            *place = inside;
        }
    }

    fn bind_source(control: &mut Control, exit: u16, inside: IpAddr, source: Option<Source>) {
        let Some(exit) = exit_mut(control.external(), exit) else { return };
        exit.floating.remove(&inside);
        exit.blocks.remove(&inside);
        match source {
            Some(Source::Floating(address)) => drop(exit.floating.insert(inside, address)),
            Some(Source::Block(block)) => drop(exit.blocks.insert(inside, block)),
            None => {}
        }
    }

    fn announce_external(&mut self, control: &mut Control, address: IpAddr, on: bool, now: Duration) {
        let announced = &mut control.external().announced;
        if !on {
            announced.remove(&address);
            return;
        }
        announced.insert(address);
        self.say_external(control, address);
        self.outside.again.push_back((now + AGAIN, address));
    }

    fn say_external(&mut self, control: &mut Control, address: IpAddr) {
        if let Some(mac) = self.resolver.as_ref().map(|resolver| resolver.link().mac) {
            self.transmit(control, UPLINK, &announce::of_address(mac, address));
        }
    }

    /// Announces what is due once more, if this host still answers for it.
    pub(crate) fn announce_again(&mut self, control: &mut Control, now: Duration) {
        while let Some((_, address)) = self.outside.again.pop_front_if(|(at, _)| *at <= now) {
            if control.external().announced.contains(&address) {
                self.say_external(control, address);
            }
        }
    }

    /// The uplink is another: its link has the external networks' routers, and they are told where the addresses are.
    pub(crate) fn move_external(&mut self, control: &mut Control, mac: MacAddr, now: Duration) {
        let networks: Vec<(u16, ExternalPlan)> =
            self.outside.networks.iter().map(|(number, network)| (*number, network.plan.clone())).collect();
        for (number, plan) in networks {
            self.set_external_network(control, number, plan, now);
        }
        let announced: Vec<IpAddr> = control.external().announced.iter().copied().collect();
        for address in announced {
            self.transmit(control, UPLINK, &announce::of_address(mac, address));
        }
    }
}
