//! The control side of what lies beyond this host's ports: addresses, VPCs, routes, tunnels, the uplink, and packets of the control thread's own.

use crate::control::Control;
use crate::handover::Handover;
use crate::worker::Command;
use buf::{Frame, Offload, OwnedPacket};
use engine::PortIndex;
use packet::{MacAddr, vxlan};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use tables::external::External;
use tables::{
    Endpoint, Location, MacTable, Neighbours, Network, OwnAddress, PortProfile, RouteTable, Subnet, Tunnel,
    Uplink, Vpc,
};

/// The index of the uplink's port: above those of all other ports.
pub const UPLINK: PortIndex = PortIndex(16_384);
/// Hops that a tunnel packet may take.
const TIME_TO_LIVE: u8 = 64;

/// A tunnel end point of somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vtep {
    /// Where packets to it go.
    pub address: IpAddr,
    /// Where packets from it come from.
    pub sources: Vec<IpAddr>,
    /// Whether towpathd runs there.
    pub is_host: bool,
    /// Which of [`Control::neighbours`] is the way to it.
    pub neighbour: u16,
}

/// The way to other hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkPlan {
    /// Its MAC address.
    pub mac: MacAddr,
    /// Bytes of the longest network-layer packet on the underlay.
    pub mtu: u16,
    /// This host's addresses on it, in the order preferred.
    pub addresses: Vec<OwnAddress>,
    /// Routers on the link: what they ask is heard by the control thread.
    pub gateways: Vec<IpAddr>,
}

/// What is changed before it is published, and what the snapshot was made from.
#[derive(Default)]
pub(crate) struct Fabric {
    draft: Option<Network>,
    vteps: BTreeMap<u16, Vtep>,
    vnis: BTreeMap<u16, u32>,
}

impl Control {
    /// Frames to `mac` in `space` (a subnet's number, or [`tables::vpc_space`]) go to `location`; where they went before.
    pub fn place_mac(&mut self, space: u16, mac: MacAddr, location: Location) -> Option<Location> {
        self.publish();
        let before = self.tables.macs.insert(MacTable::key(space, mac), location.pack());
        self.tables.generations.mac_changed(mac.to_u64());
        before.and_then(Location::unpack)
    }

    /// Frames to `mac` in `space` go nowhere; where they went before.
    pub fn forget_mac(&mut self, space: u16, mac: MacAddr) -> Option<Location> {
        let before = self.tables.macs.remove(MacTable::key(space, mac));
        self.tables.generations.mac_changed(mac.to_u64());
        before.and_then(Location::unpack)
    }

    /// `address` in `vpc` is `endpoint`, whatever was said before.
    pub fn place_endpoint(&mut self, vpc: u16, address: IpAddr, endpoint: Endpoint) {
        self.publish();
        self.tables.endpoints.insert(vpc, address, endpoint);
        self.tables.generations.address_changed(vpc, address);
    }

    /// Nobody has `address` in `vpc`.
    pub fn forget_endpoint(&mut self, vpc: u16, address: IpAddr) {
        self.tables.endpoints.remove(vpc, address);
        self.tables.generations.address_changed(vpc, address);
    }

    /// Makes room for that many more MAC addresses and addresses of both families, at once instead of step by step.
    pub fn expect(&mut self, macs: usize, ipv4: usize, ipv6: usize) {
        self.tables.macs.reserve(macs);
        self.tables.endpoints.reserve(ipv4, ipv6);
    }

    /// Says that `mac` in `space` is placed soon: what that takes from memory comes meanwhile.
    #[inline]
    pub fn prefetch_mac(&self, space: u16, mac: MacAddr) {
        self.tables.macs.prefetch(MacTable::key(space, mac));
    }

    /// The same for `address` in `vpc`.
    #[inline]
    pub fn prefetch_endpoint(&self, vpc: u16, address: IpAddr) {
        self.tables.endpoints.prefetch(vpc, address);
    }

    /// Bytes of the tables of MAC addresses and endpoints.
    pub fn address_memory(&self) -> usize {
        self.tables.macs.memory_bytes() + self.tables.endpoints.memory_bytes()
    }

    /// Who has `address` in `vpc`.
    pub fn endpoint(&self, vpc: u16, address: IpAddr) -> Option<Endpoint> {
        self.tables.endpoints.get(vpc, address)
    }

    /// Puts a VPC at a number. `local`: packets for it are taken from the underlay.
    pub fn set_vpc(&mut self, number: u16, vpc: Vpc, local: bool) {
        self.forget_vni(number);
        if local {
            self.fabric.vnis.insert(number, vpc.vni);
            self.tables.vnis.insert(vpc.vni, number);
        }
        self.draft().set_vpc(number, Some(vpc));
    }

    /// Takes a VPC away.
    pub fn remove_vpc(&mut self, number: u16) {
        self.forget_vni(number);
        self.draft().set_vpc(number, None);
    }

    fn forget_vni(&mut self, number: u16) {
        if let Some(vni) = self.fabric.vnis.remove(&number)
            && self.tables.vnis.get(vni) == Some(number)
        {
            self.tables.vnis.remove(vni);
        }
    }

    /// Puts a subnet at a number, or takes it away.
    pub fn set_subnet(&mut self, number: u16, subnet: Option<Subnet>) {
        self.draft().set_subnet(number, subnet);
    }

    /// Puts a route table at a number, or takes it away.
    pub fn set_routes(&mut self, number: u16, routes: Option<RouteTable>) {
        self.draft().set_routes(number, routes);
    }

    /// Puts a tunnel end point at a number.
    pub fn set_vtep(&mut self, number: u16, vtep: Vtep) {
        self.forget_sources(number);
        for source in &vtep.sources {
            self.tables.vteps.insert(*source, number);
        }
        let tunnel = self.tunnel_to(&vtep);
        self.fabric.vteps.insert(number, vtep);
        self.draft().set_tunnel(number, Some(tunnel));
    }

    /// Takes a tunnel end point away.
    pub fn remove_vtep(&mut self, number: u16) {
        self.forget_sources(number);
        self.fabric.vteps.remove(&number);
        self.draft().set_tunnel(number, None);
    }

    fn forget_sources(&mut self, number: u16) {
        for source in self.fabric.vteps.get(&number).map_or(&[][..], |vtep| &vtep.sources) {
            if self.tables.vteps.get(*source) == Some(number) {
                self.tables.vteps.remove(*source);
            }
        }
    }

    /// The tunnel end point of that number.
    pub fn vtep(&self, number: u16) -> Option<&Vtep> {
        self.fabric.vteps.get(&number)
    }

    /// Makes the uplink's port, without queues yet; or changes its MAC address, MTU and addresses.
    pub fn set_uplink(&mut self, plan: &UplinkPlan) {
        let profile = PortProfile::new(u16::MAX, plan.mac, plan.mtu, &[], &[]);
        if self.ports.contains_key(&UPLINK) {
            self.set_profile(UPLINK, profile);
        } else {
            self.add(UPLINK, profile, true);
        }
        let UplinkPlan { mac, addresses, gateways, .. } = plan.clone();
        let uplink = Uplink { port: UPLINK.0, mac, addresses, gateways };
        self.draft().uplink = Some(uplink);
        let tunnels: Vec<(u16, Tunnel)> =
            self.fabric.vteps.iter().map(|(number, vtep)| (*number, self.tunnel_to(vtep))).collect();
        for (number, tunnel) in tunnels {
            self.draft().set_tunnel(number, Some(tunnel));
        }
    }

    /// The ways out of VPCs, and who has which address there.
    pub fn set_external(&mut self, external: External) {
        self.draft().external = Arc::new(external);
    }

    /// The same, to be changed in place; workers see it with the next [`Control::publish`].
    pub fn external(&mut self) -> &mut External {
        Arc::make_mut(&mut self.draft().external)
    }

    fn tunnel_to(&self, vtep: &Vtep) -> Tunnel {
        let current = self.tables.snapshot();
        let network = self.fabric.draft.as_ref().unwrap_or(&current);
        let outer = network.uplink.as_ref().and_then(|uplink| {
            let own = uplink.addresses.iter().find(|own| own.address.is_ipv4() == vtep.address.is_ipv4())?;
            vxlan::Outer::new(uplink.mac, own.address, vtep.address, TIME_TO_LIVE)
        });
        Tunnel { address: vtep.address, outer, neighbour: vtep.neighbour, is_host: vtep.is_host }
    }

    /// Where the next hops of the underlay are; written here, read by workers.
    pub fn neighbours(&self) -> &Neighbours {
        &self.tables.neighbours
    }

    /// Shows workers what was set since the last call. Addresses are placed only in what they can see.
    pub fn publish(&mut self) {
        if let Some(network) = self.fabric.draft.take() {
            self.tables.network.publish(network);
            self.tables.generations.network_changed();
        }
    }

    /// What workers see of VPCs, subnets, routes and tunnels.
    pub fn network(&self) -> Arc<Network> {
        self.tables.snapshot()
    }

    fn draft(&mut self) -> &mut Network {
        let tables = &self.tables;
        self.fabric.draft.get_or_insert_with(|| (*tables.snapshot()).clone())
    }

    /// Sends `frame` to a port, as soon as its worker comes to it. False without memory for it, or such a port.
    pub fn transmit(&mut self, port: PortIndex, frame: &[u8]) -> bool {
        let Some(home) = self.home(port) else { return false };
        let Some(packet) = self.pool.copy(&Frame::from_head(frame, Offload::NONE)) else { return false };
        self.send(home, Command::Transmit(Handover { output: port, pair: 0, ingress: port, packet }))
    }

    /// Frames of the control thread's own that workers were given so far: by [`Control::transmit`] and [`Control::transmit_tunnel`]. Each is delivered or
    /// counted as ended, at the port it is for.
    pub fn own_frames(&self) -> u64 {
        self.own_frames
    }

    /// Sends `frame` in a VPC to a tunnel end point; it waits while nobody knows where the next hop is. False without a way there, or memory.
    pub fn transmit_tunnel(&mut self, vtep: u16, vpc: u16, frame: &[u8]) -> bool {
        self.publish();
        let network = self.tables.snapshot();
        let Some((neighbour, packet)) = self.encapsulated(&network, vtep, vpc, frame) else { return false };
        let Some(home) = self.home(UPLINK) else { return false };
        self.send(home, Command::TransmitTunnel { neighbour, packet })
    }

    fn encapsulated(
        &self,
        network: &Network,
        vtep: u16,
        vpc: u16,
        frame: &[u8],
    ) -> Option<(u16, OwnedPacket)> {
        let (tunnel, vpc) = (network.tunnel(vtep)?, network.vpc(vpc)?);
        let outer = tunnel.outer.as_ref()?;
        let head = frame.get(..frame.len().min(packet::HEAD_LENGTH))?;
        let headers = packet::parse(head, frame.len() as u32).ok()?;
        if frame.len() > usize::from(vpc.mtu) + usize::from(headers.l3_offset) {
            return None;
        }
        let mut bytes = Vec::with_capacity(outer.length() + frame.len());
        let per = vxlan::PerPacket {
            destination_mac: MacAddr::default(),
            vni: vpc.vni,
            policy: 0,
            source_port: vxlan::source_port(head, &headers),
            traffic_class: vxlan::encapsulated_ecn(head, &headers),
            inner_length: frame.len(),
        };
        outer.append(&mut bytes, &per);
        bytes.extend_from_slice(frame);
        if outer.is_v6() {
            let start = (outer.length() - vxlan::HEADER_LENGTH - packet::udp::HEADER_LENGTH) as u16;
            let offset = packet::udp::CHECKSUM_OFFSET as u16;
            packet::checksum::complete_partial(&mut bytes, start, offset, packet::checksum::Sum::ZERO)?;
        }
        Some((tunnel.neighbour, self.pool.copy(&Frame::from_head(&bytes, Offload::NONE))?))
    }

    fn send(&mut self, worker: usize, command: Command) -> bool {
        let sent = self.mailboxes.get(worker).map(|mailbox| mailbox.send(command)).is_some();
        self.own_frames += u64::from(sent);
        sent
    }
}
