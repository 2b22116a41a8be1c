//! What the agent decides, carried out.

use super::{SUBNET_NUMBERS, World};
use crate::network::vips;
use crate::plant::Plant;
use agent::Action;
use anyhow::Context;
use engine::{Announcement, PortIndex};
use std::net::{IpAddr, Ipv4Addr};
use tables::{AllowedAddress, Endpoint, PortProfile, RouteTable};

impl World {
    /// Realizes what the network's description says.
    ///
    /// # Errors
    ///
    /// The description is invalid.
    pub fn apply(&mut self) -> anyhow::Result<()> {
        let resources = self.scene.network.resources(&self.host)?;
        let (actions, exhausted) = self.agent.apply(&resources);
        anyhow::ensure!(exhausted.is_empty(), "no room for {exhausted:?}");
        self.carry_out(actions)?;
        Ok(())
    }

    pub(super) fn carry_out(&mut self, actions: Vec<Action>) -> anyhow::Result<()> {
        for action in actions {
            self.scene.trace.words(self.scene.now, "action", &format!("{action:?}"));
            match action {
                Action::OpenPort { index, plan } => self.open(index, &plan.name, plan.profile)?,
                Action::ChangePort { index, plan } => {
                    if !self.mischief.is(Plant::StaleProfile) {
                        let profile = self.profile(plan.profile);
                        self.control.set_profile(index, profile);
                    }
                }
                Action::ClosePort { index } => self.close(index)?,
                Action::BindMac { space, mac, location } => {
                    self.control.place_mac(space, mac, location);
                    if self.mischief.is(Plant::ForeignMac) {
                        for other in 0..SUBNET_NUMBERS {
                            self.control.place_mac(other, mac, location);
                        }
                    }
                }
                Action::UnbindMac { space, mac } => {
                    if !self.mischief.is(Plant::GhostMac) {
                        self.control.forget_mac(space, mac);
                    }
                }
                Action::BindEndpoint { vpc, address, endpoint } => {
                    self.control.place_endpoint(vpc, address, endpoint);
                    if self.mischief.is(Plant::ForeignNeighbour) {
                        (0..SUBNET_NUMBERS).filter(|other| *other != vpc).for_each(|other| {
                            let foreign = Endpoint { subnet: other, ..endpoint };
                            self.control.place_endpoint(other, address, foreign);
                        });
                    }
                }
                Action::UnbindEndpoint { vpc, address } => self.control.forget_endpoint(vpc, address),
                Action::SetVpc { vpc, plan } => self.control.set_vpc(vpc, (&*plan).into(), plan.local),
                Action::RemoveVpc { vpc } => self.control.remove_vpc(vpc),
                Action::SetSubnet { subnet, plan } => self.control.set_subnet(subnet, Some((&*plan).into())),
                Action::RemoveSubnet { subnet } => self.control.set_subnet(subnet, None),
                Action::SetRoutes { routes, plan } => {
                    self.control.set_routes(routes, Some(RouteTable::build(plan)));
                }
                Action::RemoveRoutes { routes } => self.control.set_routes(routes, None),
                // There is one host, and no underlay.
                Action::Announce { .. } | Action::SetVtep { .. } | Action::RemoveVtep { .. } => {}
            }
        }
        self.control.publish();
        self.scene.wake_all();
        Ok(())
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
        wide
    }

    pub(super) fn open(&mut self, index: PortIndex, name: &str, profile: PortProfile) -> anyhow::Result<()> {
        let guest: usize = name.rsplit('g').next().unwrap_or("").parse().context("a port of no guest")?;
        let profile = self.profile(profile);
        self.control.add_port(index, profile);
        self.scene.steering.opened(index);
        let shards: Vec<_> = (0..self.options.workers)
            .filter_map(|worker| self.control.shard(index, worker).cloned())
            .collect();
        let since = shards.iter().map(|shard| (shard.clone(), shard.punted.get())).collect();
        self.scene.shards.insert(index, since);
        self.scene.accounts[guest].add(shards.into_iter());
        self.scene.guest_of.insert(index, guest);
        self.scene.plugs[guest].port = Some(index);
        self.scene.plugs[guest].home = self.control.home(index).unwrap_or(0);
        let now = self.scene.now;
        self.scene.guests[guest].station = self.scene.network.ports[guest].station;
        self.scene.tampered[guest] = false;
        self.scene.guests[guest].boot(now, None)?;
        self.attach(guest)
    }

    pub(super) fn close(&mut self, index: PortIndex) -> anyhow::Result<()> {
        if let Some(guest) = self.scene.guest_of.get(&index).copied()
            && self.scene.plugs[guest].port == Some(index)
        {
            self.unplug(guest)?;
            self.scene.guests[guest].nic = None;
            self.scene.plugs[guest].port = None;
        }
        let removal = self.control.remove_port(index);
        self.removals.push((index, removal));
        Ok(())
    }

    /// What workers left to the control thread.
    pub(super) fn hear_punts(&mut self) -> anyhow::Result<()> {
        while let Some(punt) = self.control.exceptions().punts.pop() {
            let Some(guest) = self.scene.guest_of.get(&punt.port).copied() else { continue };
            let bytes = punt.packet.with_frame(|frame| frame.to_vec());
            self.scene.trace.words(self.scene.now, "given", punt.kind.name());
            if !self.scene.lies(guest) {
                self.scene.ledger.punted(guest, punt.kind, &bytes)?;
            }
        }
        Ok(())
    }

    pub(super) fn announced(&mut self, announcement: Announcement) -> anyhow::Result<()> {
        let Announcement { port, address, mac } = announcement;
        if let Some(guest) = self.scene.guest_of.get(&port).copied() {
            let view = &self.scene.network.ports[guest];
            let subnet = view.subnet;
            if self.scene.plugs[guest].port == Some(port)
                && view.up
                && view.vip
                && view.station.mac == mac.0
                && vips(subnet).contains(&address)
            {
                let before = self.scene.network.holders.insert((subnet, address), (guest, mac.0));
                if before != Some((guest, mac.0)) {
                    self.scene.network.epoch += 1;
                    self.scene.stats.edge("address moved", 1);
                }
            }
        }
        let actions = self.agent.announced(announcement);
        if !self.mischief.is(Plant::IgnoreAnnouncement) {
            self.carry_out(actions)?;
        }
        Ok(())
    }
}
