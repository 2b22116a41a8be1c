//! What the agent decides, carried out.

use super::{SUBNET_NUMBERS, World};
use crate::network::{METADATA, vips};
use crate::plant::Plant;
use agent::{Action, VtepKind};
use anyhow::Context;
use engine::{Announcement, PortIndex};
use std::net::{IpAddr, Ipv4Addr};
use tables::{AllowedAddress, Endpoint, Location, NextHop, PortProfile};

/// When virtual time begins, in nanoseconds.
const FIRST_NS: u64 = 1_000_000_000;

impl World {
    /// Realizes what the network's description says.
    ///
    /// # Errors
    ///
    /// The description is invalid.
    pub fn apply(&mut self) -> anyhow::Result<()> {
        let guests = self.options.guests.len();
        for host in 0..self.hosts.len() {
            let this = &mut self.hosts[host];
            let resources = self.scene.network.resources(&this.name)?;
            if host == 0 {
                self.scene.policies.configure(resources.clone(), (guests, self.scene.network.epoch))?;
            }
            let (actions, exhausted) = this.agent.apply(&resources);
            anyhow::ensure!(exhausted.is_empty(), "no room for {exhausted:?}");
            self.carry_out(host, actions)?;
        }
        Ok(())
    }

    pub(super) fn carry_out(&mut self, host: usize, actions: Vec<Action>) -> anyhow::Result<()> {
        let now = self.uptime();
        for action in actions {
            self.scene.trace.words(self.scene.now, "action", &format!("{host} {action:?}"));
            let Some(action) = self.spoil(host, action) else { continue };
            let this = &mut self.hosts[host];
            let before = this.control.own_frames();
            let left = this.services.carry_out(&mut this.control, action, now);
            self.scene.injected += this.control.own_frames() - before;
            match left {
                Some(Action::OpenPort { index, plan }) => self.open(host, index, &plan.name, plan.profile)?,
                Some(Action::ChangePort { index, plan }) if !self.mischief.is(Plant::StaleProfile) => {
                    let profile = self.profile(plan.profile);
                    self.hosts[host].control.set_profile(index, profile);
                }
                Some(Action::ClosePort { index }) => self.close(host, index)?,
                _ => {}
            }
        }
        self.hosts[host].control.publish();
        self.scene.wake_all();
        Ok(())
    }

    /// What the bug of the run makes of an action.
    fn spoil(&mut self, host: usize, action: Action) -> Option<Action> {
        let Some(plant) = self.mischief.plant() else { return Some(action) };
        let control = &mut self.hosts[host].control;
        Some(match (plant, action) {
            (Plant::ForeignMac, Action::BindMac { space, mac, location }) => {
                for other in 0..SUBNET_NUMBERS {
                    control.place_mac(other, mac, location);
                }
                Action::BindMac { space, mac, location }
            }
            (Plant::GhostMac, Action::UnbindMac { .. }) => return None,
            (Plant::ForeignNeighbour, Action::BindEndpoint { vpc, address, endpoint }) => {
                (0..SUBNET_NUMBERS).filter(|other| *other != vpc).for_each(|other| {
                    let foreign = Endpoint { subnet: other, ..endpoint };
                    control.place_endpoint(other, address, foreign);
                });
                Action::BindEndpoint { vpc, address, endpoint }
            }
            (Plant::NoSourceCheck, Action::BindEndpoint { vpc, address, endpoint }) => {
                let location = match endpoint.location {
                    Location::Remote(vtep) => Location::Directory(vtep),
                    other => other,
                };
                Action::BindEndpoint { vpc, address, endpoint: Endpoint { location, ..endpoint } }
            }
            (Plant::WrongVni, Action::SetVpc { vpc, mut plan }) if host == 0 => {
                plan.vni ^= 1;
                Action::SetVpc { vpc, plan }
            }
            (Plant::WrongPeer, Action::SetRoutes { routes, mut plan }) => {
                // Of three VPCs' numbers the one that is neither.
                plan.iter_mut().for_each(|(_, hop)| {
                    if let NextHop::Vpc(vpc) = hop {
                        *vpc = (*vpc + 1) % 3;
                    }
                });
                Action::SetRoutes { routes, plan }
            }
            (Plant::StaleRoutes, Action::SetRoutes { .. }) if self.scene.now > FIRST_NS => return None,
            (Plant::ForgetMoved, Action::BindMac { space, location: Location::Remote(_), .. })
                if space >= tables::vpc_space(0) =>
            {
                return None;
            }
            (Plant::TrustForeign, Action::SetVtep { vtep, address, sources, .. }) => {
                Action::SetVtep { vtep, address, sources, kind: VtepKind::Host }
            }
            (Plant::WrongLease, Action::SetSubnet { subnet, mut plan }) => {
                if let Some(dhcp) = &mut plan.dhcp {
                    dhcp.dns.iter_mut().for_each(|dns| *dns = METADATA[usize::from(dns.is_ipv6())]);
                }
                Action::SetSubnet { subnet, plan }
            }
            (Plant::AnyTunnel, Action::SetVtep { vtep, address, mut sources, kind }) => {
                sources.extend(strangers(address));
                Action::SetVtep { vtep, address, sources, kind }
            }
            (Plant::StaleEndpoint, Action::UnbindEndpoint { vpc, address })
                if control
                    .endpoint(vpc, address)
                    .is_some_and(|it| !matches!(it.location, Location::Local(_))) =>
            {
                return None;
            }
            (plant, action) => {
                return super::rules::spoil(plant, action, control, self.scene.now > FIRST_NS);
            }
        })
    }

    pub(super) fn profile(&self, profile: PortProfile) -> PortProfile {
        if !self.mischief.is(Plant::AllowAnySource) {
            return profile;
        }
        let any = ipnet::IpNet::from(ipnet::Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));
        let own: Vec<IpAddr> = profile.addresses().to_vec();
        let allowed = [AllowedAddress { prefix: any, mac: None }];
        let mut wide = PortProfile::new(profile.subnet, profile.mac, profile.mtu, &own, &allowed);
        wide.up = profile.up;
        wide.in_vpc(profile.vpc, profile.gateway_mac, profile.identity)
    }

    pub(super) fn open(
        &mut self,
        host: usize,
        index: PortIndex,
        name: &str,
        profile: PortProfile,
    ) -> anyhow::Result<()> {
        let guest: usize = name.rsplit('g').next().unwrap_or("").parse().context("a port of no guest")?;
        let profile = self.profile(profile);
        let control = &mut self.hosts[host].control;
        control.add_port(index, profile);
        let shards: Vec<_> =
            (0..self.options.workers).filter_map(|worker| control.shard(index, worker).cloned()).collect();
        let home = host * self.options.workers + control.home(index).unwrap_or(0);
        self.scene.steering.opened((host, index));
        let since = shards.iter().map(|shard| (shard.clone(), shard.punted.get())).collect();
        self.scene.shards.insert((host, index), since);
        self.scene.accounts[guest].add(shards.into_iter());
        self.scene.guest_of.insert((host, index), guest);
        self.scene.policies.reopened(self.scene.now);
        let plug = &mut self.scene.plugs[guest];
        if self.scene.network.ports[guest].host != host {
            // It is to come here.
            plug.other = Some((host, index));
            return Ok(());
        }
        (plug.port, plug.host, plug.home) = (Some(index), host, home);
        let now = self.scene.now;
        self.scene.guests[guest].station = self.scene.network.ports[guest].station;
        self.scene.tampered[guest] = false;
        self.scene.guests[guest].boot(now, None, &self.scene.network)?;
        self.attach(guest)?;
        self.begins(host, index)
    }

    /// A guest runs on a host from now on.
    pub(super) fn begins(&mut self, host: usize, index: PortIndex) -> anyhow::Result<()> {
        let uptime = self.uptime();
        let this = &mut self.hosts[host];
        let begins = this.services.set_running(index, true, uptime);
        let actions = if begins { this.agent.activated(index) } else { Vec::new() };
        self.carry_out(host, actions)
    }

    pub(super) fn close(&mut self, host: usize, index: PortIndex) -> anyhow::Result<()> {
        self.scene.policies.reopened(self.scene.now);
        if let Some(guest) = self.scene.guest_of.get(&(host, index)).copied()
            && self.scene.plugs[guest].port == Some(index)
            && self.scene.plugs[guest].host == host
        {
            self.unplug(guest)?;
            self.scene.guests[guest].nic = None;
            self.scene.plugs[guest].port = None;
        }
        for plug in self.scene.plugs.iter_mut().filter(|plug| plug.other == Some((host, index))) {
            plug.other = None;
        }
        let this = &mut self.hosts[host];
        let removal = this.control.remove_port(index);
        this.removals.push(removal);
        Ok(())
    }

    pub(super) fn announced(&mut self, host: usize, announcement: Announcement) -> anyhow::Result<()> {
        let Announcement { port, address, mac } = announcement;
        if let Some(guest) = self.scene.guest_of.get(&(host, port)).copied() {
            let view = &self.scene.network.ports[guest];
            let subnet = view.subnet;
            if self.scene.plugs[guest].port == Some(port)
                && view.host == host
                && view.up
                && view.vip
                && view.station.mac == mac.0
                && vips(subnet).contains(&address)
            {
                let before = self.scene.network.holders.insert((host, subnet, address), (guest, mac.0));
                if before != Some((guest, mac.0)) {
                    self.scene.network.epoch += 1;
                    self.scene.stats.edge("address moved", 1);
                }
            }
        }
        let actions = self.hosts[host].agent.announced(announcement);
        if !self.mischief.is(Plant::IgnoreAnnouncement) {
            self.carry_out(host, actions)?;
        }
        Ok(())
    }
}

/// Addresses on the underlay of those that no Host and no Endpoint names.
fn strangers(like: IpAddr) -> Vec<IpAddr> {
    match like {
        IpAddr::V4(_) => (200..250).map(|last| IpAddr::from([192, 0, 2, last])).collect(),
        IpAddr::V6(_) => (0..50).map(|last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 1, last])).collect(),
    }
}
