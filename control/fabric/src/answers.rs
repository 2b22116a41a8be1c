//! What ports are told: addresses by DHCP, routers by advertisements; and what the fabric is told of them.

use crate::fabric::Fabric;
use agent::{DhcpPlan, PortPlan, SubnetPlan};
use engine::PortIndex;
use ipnet::{IpNet, Ipv4Net};
use packet::MacAddr;
use services::dhcp4::{self, Lease4};
use services::dhcp6::{self, Lease6};
use services::metadata::{Counts, Identity, StreamId, Upstream};
use services::ra::{self, Advertisement, Advertiser};
use services::{Refusal, announce};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use switch::Control;
use tables::TokenBucket;

/// What is known of a port here.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    name: String,
    pub(crate) subnet: u16,
    pub(crate) vpc: u16,
    pub(crate) mac: MacAddr,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) mtu: u16,
    pub(crate) up: bool,
    /// Its guest's driver runs.
    running: bool,
    advertiser: Option<Advertiser>,
    /// Copies of its broadcasts that may still be made.
    copies: TokenBucket,
}

/// The ports of this host, and when their gateways advertise themselves next.
#[derive(Default)]
pub(crate) struct Ports {
    ports: BTreeMap<PortIndex, Port>,
    by_mac: BTreeMap<(u16, MacAddr), PortIndex>,
    due: BTreeSet<(Duration, PortIndex)>,
}

impl Ports {
    pub(crate) fn set(&mut self, index: PortIndex, plan: &PortPlan) {
        let profile = &plan.profile;
        let before = self.remove(index);
        let port = Port {
            name: plan.name.clone(),
            subnet: profile.subnet,
            vpc: plan.vpc,
            mac: profile.mac,
            addresses: profile.addresses().to_vec(),
            mtu: profile.mtu,
            up: profile.up,
            running: before.as_ref().is_some_and(|before| before.running),
            copies: before.as_ref().map_or_else(crate::fabric::copies, |before| before.copies.clone()),
            advertiser: before.and_then(|before| before.advertiser),
        };
        self.due.extend(port.advertiser.as_ref().map(|advertiser| (advertiser.next_deadline(), index)));
        self.by_mac.insert((port.vpc, port.mac), index);
        self.ports.insert(index, port);
    }

    pub(crate) fn remove(&mut self, index: PortIndex) -> Option<Port> {
        let port = self.ports.remove(&index)?;
        // Another may have got its address since.
        if self.by_mac.get(&(port.vpc, port.mac)) == Some(&index) {
            self.by_mac.remove(&(port.vpc, port.mac));
        }
        if let Some(advertiser) = &port.advertiser {
            self.due.remove(&(advertiser.next_deadline(), index));
        }
        Some(port)
    }

    pub(crate) fn get(&self, index: PortIndex) -> Option<&Port> {
        self.ports.get(&index)
    }

    /// Copies of a port's broadcasts that may still be made.
    pub(crate) fn copies(&mut self, index: PortIndex) -> Option<&mut TokenBucket> {
        self.ports.get_mut(&index).map(|port| &mut port.copies)
    }

    /// All ports of a subnet.
    pub(crate) fn indices_of(&self, subnet: u16) -> Vec<PortIndex> {
        self.ports.iter().filter(|(_, port)| port.subnet == subnet).map(|(index, _)| *index).collect()
    }

    /// Whether the guest of a VPC's port with that MAC address runs here.
    pub(crate) fn runs_here(&self, vpc: u16, mac: MacAddr) -> bool {
        self.by_mac.get(&(vpc, mac)).and_then(|index| self.ports.get(index)).is_some_and(|port| port.running)
    }

    /// Ports of a subnet whose guests run.
    pub(crate) fn of_subnet(&self, subnet: u16) -> impl Iterator<Item = PortIndex> {
        let there = move |port: &Port| port.subnet == subnet && port.running && port.up;
        self.ports.iter().filter(move |(_, port)| there(port)).map(|(index, _)| *index)
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Changes a port's advertiser, and with it when it is due.
    fn with_advertiser<R>(
        &mut self,
        index: PortIndex,
        change: impl FnOnce(&mut Advertiser) -> R,
    ) -> Option<R> {
        let advertiser = self.ports.get_mut(&index)?.advertiser.as_mut()?;
        self.due.remove(&(advertiser.next_deadline(), index));
        let result = change(advertiser);
        self.due.insert((advertiser.next_deadline(), index));
        Some(result)
    }

    fn set_advertiser(&mut self, index: PortIndex, advertiser: Option<Advertiser>) {
        let Some(port) = self.ports.get_mut(&index) else { return };
        if let Some(before) = std::mem::replace(&mut port.advertiser, advertiser) {
            self.due.remove(&(before.next_deadline(), index));
        }
        self.due.extend(port.advertiser.as_ref().map(|advertiser| (advertiser.next_deadline(), index)));
    }
}

impl<U: Upstream> Fabric<U> {
    /// A port's guest begins or ceases to run; whether that is new. A gateway then advertises itself to it, and tunnel end points that are not
    /// ours hear where it is.
    pub fn set_running(&mut self, index: PortIndex, running: bool, now: Duration) -> bool {
        let seed = self.seed.wrapping_add(u64::from(index.0));
        let Some(port) = self.ports.ports.get_mut(&index) else { return false };
        if std::mem::replace(&mut port.running, running) == running {
            return false;
        }
        let advertiser = running.then(|| Advertiser::new(seed, now));
        self.ports.set_advertiser(index, advertiser);
        true
    }

    /// Tells every tunnel end point of a port's VPC where it is.
    pub(crate) fn announce_to_all(&mut self, control: &mut Control, index: PortIndex) {
        let Some(vpc) = self.ports.get(index).map(|port| port.vpc) else { return };
        for vtep in self.vteps_of(vpc) {
            self.announce(control, index, vtep);
        }
    }

    fn announce(&mut self, control: &mut Control, index: PortIndex, vtep: u16) {
        let Some(port) = self.ports.get(index) else { return };
        let said = port.addresses.iter().copied().filter(|address| !is_link_local(*address));
        let (frames, vpc) = (announce::of_port(port.mac, said), port.vpc);
        frames.iter().for_each(|frame| self.transmit_tunnel(control, vtep, vpc, frame));
    }

    /// Tells every tunnel end point of a port's VPC that the port now holds `address`.
    pub fn announce_address(
        &mut self,
        control: &mut Control,
        index: PortIndex,
        address: IpAddr,
        mac: MacAddr,
    ) {
        let Some(vpc) = self.ports.get(index).map(|port| port.vpc) else { return };
        let frame = announce::of_address(mac, address);
        for vtep in self.vteps_of(vpc) {
            self.transmit_tunnel(control, vtep, vpc, &frame);
        }
    }

    /// Tunnel end points behind which a VPC has stations.
    pub(crate) fn vteps_of(&self, vpc: u16) -> BTreeSet<u16> {
        let subnets = self.subnets.iter().filter(|(_, subnet)| subnet.vpc == vpc);
        subnets.flat_map(|(number, _)| self.members.of(*number)).collect()
    }

    /// The subnet of a port and what its ports are told, if they are.
    fn told(&self, index: PortIndex) -> Option<(&Port, &SubnetPlan, &DhcpPlan)> {
        let port = self.ports.get(index)?;
        let subnet = self.subnets.get(&port.subnet)?;
        Some((port, subnet, subnet.dhcp.as_ref()?))
    }

    pub(crate) fn answer_dhcp4(
        &mut self,
        control: &mut Control,
        index: PortIndex,
        frame: &[u8],
    ) -> Result<(), Refusal> {
        let Some(lease) = self.told(index).and_then(|(port, subnet, dhcp)| lease4(port, subnet, dhcp)) else {
            return Err(Refusal::NotForUs);
        };
        if let Some(answer) = dhcp4::answer(&lease, frame)? {
            self.transmit(control, index, &answer);
        }
        Ok(())
    }

    pub(crate) fn answer_dhcp6(
        &mut self,
        control: &mut Control,
        index: PortIndex,
        frame: &[u8],
    ) -> Result<(), Refusal> {
        let Some(lease) = self.told(index).and_then(|(port, subnet, dhcp)| lease6(port, subnet, dhcp)) else {
            return Err(Refusal::NotForUs);
        };
        if let Some(answer) = dhcp6::answer(&lease, frame)? {
            self.transmit(control, index, &answer);
        }
        Ok(())
    }

    /// Serves metadata to a port whose subnet names a service, and to no other.
    pub(crate) fn serve_metadata(&mut self, index: PortIndex) {
        let identity = self.told(index).and_then(|(port, subnet, dhcp)| {
            let vpc = self.vpcs.get(&port.vpc).map(|vpc| vpc.name.clone()).unwrap_or_default();
            // The name alone is of the default project.
            let (project, name) = port.name.split_once('/').unwrap_or(("default", &port.name));
            Some(Identity {
                port: name.to_owned(),
                project: project.to_owned(),
                vpc,
                mac: port.mac,
                gateway_mac: subnet.gateway_mac,
                addresses: port.addresses.clone(),
                mtu: port.mtu,
                service: dhcp.metadata.clone()?,
            })
        });
        match identity {
            Some(identity) => self.proxy.set_port(index.0, identity, &mut self.upstream),
            None => self.proxy.remove_port(index.0, &mut self.upstream),
        }
    }

    pub(crate) fn answer_metadata(
        &mut self,
        control: &mut Control,
        index: PortIndex,
        frame: &[u8],
        now: Duration,
    ) -> Result<(), Refusal> {
        let frames = self.proxy.on_frame(index.0, frame, now, &mut self.upstream)?;
        self.deliver(control, frames);
        Ok(())
    }

    /// A stream to a metadata service can be read or written again, is connected, or broke.
    pub fn on_upstream(&mut self, control: &mut Control, stream: StreamId, now: Duration) {
        let frames = self.proxy.on_upstream(stream, now, &mut self.upstream);
        self.deliver(control, frames);
    }

    /// What the metadata service did for all ports.
    pub fn metadata_counts(&self) -> Counts {
        self.proxy.counts()
    }

    pub(crate) fn deliver(&mut self, control: &mut Control, frames: Vec<(u16, Vec<u8>)>) {
        frames.into_iter().for_each(|(port, frame)| self.transmit(control, PortIndex(port), &frame));
    }

    pub(crate) fn answer_solicitation(
        &mut self,
        control: &mut Control,
        index: PortIndex,
        frame: &[u8],
        now: Duration,
    ) -> Result<(), Refusal> {
        let advertisement =
            self.told(index).and_then(|(port, subnet, dhcp)| advertisement(port, subnet, dhcp));
        let Some(advertisement) = advertisement else { return Err(Refusal::NotForUs) };
        let answer = self
            .ports
            .with_advertiser(index, |advertiser| advertiser.on_solicitation(&advertisement, frame, now))
            .unwrap_or_else(|| ra::answer(&advertisement, frame).map(Some))?;
        if let Some(answer) = answer {
            self.transmit(control, index, &answer);
        }
        Ok(())
    }

    /// Advertises the gateways that are due.
    pub(crate) fn advertise(&mut self, control: &mut Control, now: Duration) {
        while let Some((due, index)) = self.ports.due.first().copied()
            && due <= now
        {
            let says = self.ports.with_advertiser(index, |advertiser| advertiser.on_tick(now));
            if says != Some(true) {
                // It is not due after all, or gone.
                self.ports.due.remove(&(due, index));
                continue;
            }
            let advertisement =
                self.told(index).and_then(|(port, subnet, dhcp)| advertisement(port, subnet, dhcp));
            if let Some(advertisement) = advertisement {
                self.transmit(control, index, &ra::unsolicited(&advertisement));
            }
        }
    }
}

fn lease4(port: &Port, subnet: &SubnetPlan, dhcp: &DhcpPlan) -> Option<Lease4> {
    let (ip, net, gateway) = port.addresses.iter().find_map(|address| {
        let IpAddr::V4(ip) = *address else { return None };
        let (at, net) = subnet.prefixes.iter().enumerate().find(|(_, net)| net.contains(address))?;
        match (net, subnet.gateways.get(at)?) {
            (IpNet::V4(net), IpAddr::V4(gateway)) => Some((ip, *net, *gateway)),
            _ => None,
        }
    })?;
    let metadata = Ipv4Net::from(Ipv4Addr::new(169, 254, 169, 254));
    Some(Lease4 {
        mac: port.mac,
        ip,
        prefix: net.prefix_len(),
        gateway,
        gateway_mac: subnet.gateway_mac,
        dns: dhcp
            .dns
            .iter()
            .filter_map(|dns| if let IpAddr::V4(dns) = dns { Some(*dns) } else { None })
            .collect(),
        domain: dhcp.domain.clone(),
        hostname: host_name(&port.name),
        mtu: port.mtu,
        lease: u32::try_from(dhcp.lease.as_secs()).unwrap_or(u32::MAX),
        routes: dhcp.metadata.iter().map(|_| (metadata, gateway)).collect(),
    })
}

/// What a guest is to call itself: its port's name, without the project. A name of several labels is no host's.
fn host_name(port: &str) -> Option<String> {
    let name = port.rsplit('/').next().unwrap_or(port);
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let is_label =
        (1..=63).contains(&name.len()) && letters && !name.starts_with('-') && !name.ends_with('-');
    is_label.then(|| name.to_owned())
}

fn lease6(port: &Port, subnet: &SubnetPlan, dhcp: &DhcpPlan) -> Option<Lease6> {
    let addresses: Vec<_> = port
        .addresses
        .iter()
        .filter(|address| subnet.prefixes.iter().any(|net| net.contains(*address)))
        .filter_map(|address| if let IpAddr::V6(v6) = address { Some(*v6) } else { None })
        .collect();
    (!addresses.is_empty()).then(|| Lease6 {
        mac: port.mac,
        addresses,
        gateway_mac: subnet.gateway_mac,
        dns: dhcp
            .dns
            .iter()
            .filter_map(|dns| if let IpAddr::V6(dns) = dns { Some(*dns) } else { None })
            .collect(),
        domains: dhcp.domain.iter().cloned().collect(),
        lease: u32::try_from(dhcp.lease.as_secs()).unwrap_or(u32::MAX),
    })
}

fn advertisement(port: &Port, subnet: &SubnetPlan, dhcp: &DhcpPlan) -> Option<Advertisement> {
    let prefixes: Vec<_> = subnet
        .prefixes
        .iter()
        .filter_map(|net| if let IpNet::V6(net) = net { Some(*net) } else { None })
        .collect();
    (!prefixes.is_empty()).then(|| Advertisement {
        gateway_mac: subnet.gateway_mac,
        prefixes,
        mtu: port.mtu,
        dns: dhcp
            .dns
            .iter()
            .filter_map(|dns| if let IpAddr::V6(dns) = dns { Some(*dns) } else { None })
            .collect(),
        domains: dhcp.domain.iter().cloned().collect(),
        default_router: true,
    })
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::host_name;

    #[test]
    fn a_guest_is_called_as_its_port_if_that_is_a_label() {
        let named = |port: &str| host_name(port);
        assert_eq!(named("default/vm1-eth0").as_deref(), Some("vm1-eth0"));
        assert_eq!(named("9").as_deref(), Some("9"));
        let longest = "a".repeat(63);
        assert_eq!(named(&format!("blue/{longest}")), Some(longest.clone()));
        for none in
            ["", "default/", "default/db.prod", "default/-a", "default/a-", "default/a_b", "default/\u{e9}"]
        {
            assert_eq!(named(none), None, "{none}");
        }
        assert_eq!(named(&format!("default/{longest}a")), None);
    }
}
