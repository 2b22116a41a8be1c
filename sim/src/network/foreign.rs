//! Tunnel end points that are no towpathd, and the stations behind them (Endpoint).

use super::{HostView, Network, PEERS, VPCS, station};
use crate::net::{Station, link_local};
use std::net::IpAddr;

/// A station behind a tunnel end point that is no towpathd.
#[derive(Clone, Copy, Debug)]
pub struct EndpointView {
    /// VPC and subnet.
    pub subnet: (usize, usize),
    /// Its addresses.
    pub station: Station,
    /// Its tunnel end point's place: behind the hosts.
    pub vtep: usize,
}

impl EndpointView {
    /// Whether `address` is its own.
    #[must_use]
    pub fn owns(&self, address: IpAddr) -> bool {
        address == self.station.v4 || address == self.station.v6 || address == link_local(self.station.mac)
    }
}

/// Tunnel end points that are no towpathd: an honest one, and one that lies.
const FOREIGN: usize = 2;
/// The place of the first endpoint in its subnet.
const PLACE: u8 = 104;

impl Network {
    /// Adds tunnel end points that are no towpathd, with a station in each subnet of two VPCs that are peers at times and of one that is nobody's.
    pub fn add_foreign(&mut self, v6: bool) {
        let hosts = self.hosts.len();
        self.foreign = (0..FOREIGN).map(|index| HostView::new(80 + index, v6)).collect();
        for index in 0..FOREIGN {
            let vpcs = if index == 0 { vec![PEERS[0], 1] } else { vec![PEERS[0], PEERS[1]] };
            for subnet in vpcs.into_iter().flat_map(|vpc| [(vpc, 0), (vpc, 1)]) {
                let station = station(subnet, PLACE + index as u8);
                self.endpoints.push(EndpointView { subnet, station, vtep: hosts + index });
            }
        }
    }

    /// The tunnel end point at a place: hosts come first.
    #[must_use]
    pub fn vtep(&self, place: usize) -> HostView {
        *self.hosts.get(place).unwrap_or_else(|| &self.foreign[place - self.hosts.len()])
    }

    /// The place of the tunnel end point that has `address`.
    #[must_use]
    pub fn vtep_at(&self, address: IpAddr) -> Option<usize> {
        self.hosts.iter().chain(&self.foreign).position(|view| view.address == address)
    }

    /// Whether a tunnel end point is no towpathd's.
    #[must_use]
    pub fn is_foreign(&self, place: usize) -> bool {
        place >= self.hosts.len()
    }

    /// The endpoint that has `address` in a subnet.
    #[must_use]
    pub fn endpoint_at(&self, subnet: (usize, usize), address: IpAddr) -> Option<usize> {
        self.endpoints.iter().position(|endpoint| endpoint.subnet == subnet && endpoint.owns(address))
    }

    /// The endpoint that has a MAC address in a subnet.
    #[must_use]
    pub fn endpoint_by_mac(&self, subnet: (usize, usize), mac: [u8; 6]) -> Option<usize> {
        self.endpoints.iter().position(|endpoint| endpoint.subnet == subnet && endpoint.station.mac == mac)
    }

    /// The endpoint that has `address` in a VPC; link-local addresses are nobody's there.
    #[must_use]
    pub fn endpoint_in(&self, vpc: usize, address: IpAddr) -> Option<usize> {
        if super::is_link_local(address) {
            return None;
        }
        self.endpoints.iter().position(|endpoint| endpoint.subnet.0 == vpc && endpoint.owns(address))
    }

    /// Whether a host knows a tunnel end point: it knows a VPC that something behind it is of.
    #[must_use]
    pub fn knows_vtep(&self, host: usize, place: usize) -> bool {
        if !self.is_foreign(place) {
            return self.knows(host, place);
        }
        self.endpoints.iter().any(|endpoint| endpoint.vtep == place && self.sees(host, endpoint.subnet.0))
    }

    /// Whether `place` is where `address` is, for a VPC and at any time since `epoch` for its peers.
    #[must_use]
    pub fn endpoint_lives_at(&self, epoch: u64, vpc: usize, address: IpAddr, place: usize) -> bool {
        (0..VPCS).filter(|other| self.reached_since(epoch, vpc, *other)).any(|other| {
            self.endpoint_in(other, address).is_some_and(|endpoint| self.endpoints[endpoint].vtep == place)
        })
    }
}
