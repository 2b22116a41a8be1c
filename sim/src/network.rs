//! What the operator wants, as the simulator knows it: the manifests are written from it, and the checkers judge by it.

use crate::net::{Mac, Station, link_local};
use model::{Environment, HostSpec, Name, ResourceSet};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

/// MTU of a VPC on a host without an uplink, in bytes.
pub const MTU: u16 = model::vpc::MTU_WITHOUT_UPLINK;

/// A port as the operator wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortView {
    /// Whether it exists.
    pub present: bool,
    /// Whether it is not shut down.
    pub up: bool,
    /// VPC and subnet.
    pub subnet: (usize, usize),
    /// Its addresses.
    pub station: Station,
    /// Whether it may hold its subnet's virtual addresses.
    pub vip: bool,
}

impl PortView {
    /// Whether the port may send packets from `address` in frames from `mac`.
    #[must_use]
    pub fn may_send(&self, mac: Mac, address: IpAddr) -> bool {
        mac == self.station.mac && (self.owns(address) || (self.vip && vips(self.subnet).contains(&address)))
    }

    /// Whether `address` is its own.
    #[must_use]
    pub fn owns(&self, address: IpAddr) -> bool {
        address == self.station.v4 || address == self.station.v6 || address == link_local(self.station.mac)
    }
}

/// The addresses of a subnet that move between ports.
#[must_use]
pub fn vips(subnet: (usize, usize)) -> [IpAddr; 2] {
    [[10, 0, subnet.1 as u8, 100].into(), [0xfd00, 0x10, 0, subnet.1 as u16, 0, 0, 0, 0x100].into()]
}

/// The station of guest `index`. VPCs use the same addresses: nothing but the VPC tells two guests apart.
#[must_use]
pub fn station(subnet: (usize, usize), place: u8) -> Station {
    Station {
        mac: [2, 0, 0, 0, subnet.1 as u8, place],
        v4: [10, 0, subnet.1 as u8, place].into(),
        v6: [0xfd00, 0x10, 0, subnet.1 as u16, 0, 0, 0, u16::from(place)].into(),
    }
}

/// Everything desired, and since when.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// By guest.
    pub ports: Vec<PortView>,
    /// Who announced each virtual address last, by subnet.
    pub holders: BTreeMap<((usize, usize), IpAddr), (usize, Mac)>,
    /// Counts changes; what was sent before one may be judged by either state.
    pub epoch: u64,
    /// Earlier states of ports: guest, the epoch in which the state ended, the state.
    pub past: Vec<(usize, u64, PortView)>,
}

impl Network {
    /// Changes a port.
    pub fn change(&mut self, guest: usize, change: impl FnOnce(&mut PortView)) {
        let before = self.ports[guest].clone();
        change(&mut self.ports[guest]);
        if before != self.ports[guest] {
            self.past.push((guest, self.epoch, before));
            self.epoch += 1;
        }
    }

    /// All states of a port since `epoch`, the present one first.
    pub fn since(&self, guest: usize, epoch: u64) -> impl Iterator<Item = &PortView> {
        let past = self.past.iter().filter(move |(of, ended, _)| *of == guest && *ended >= epoch);
        std::iter::once(&self.ports[guest]).chain(past.map(|(_, _, view)| view))
    }

    /// The guest whose port has `mac` in `subnet`.
    #[must_use]
    pub fn by_mac(&self, subnet: (usize, usize), mac: Mac) -> Option<usize> {
        self.ports
            .iter()
            .position(|port| port.present && port.up && port.subnet == subnet && port.station.mac == mac)
    }

    /// The guest that has `address` in `subnet`.
    #[must_use]
    pub fn by_address(&self, subnet: (usize, usize), address: IpAddr) -> Option<usize> {
        let own = self
            .ports
            .iter()
            .position(|port| port.present && port.up && port.subnet == subnet && port.owns(address));
        own.or_else(|| self.holders.get(&(subnet, address)).map(|(guest, _)| *guest))
    }

    /// Forgets holders that may not hold their address any more.
    pub fn drop_holders(&mut self) {
        let ports = &self.ports;
        self.holders.retain(|(subnet, _), (guest, mac)| {
            let port = &ports[*guest];
            port.present && port.up && port.vip && port.subnet == *subnet && port.station.mac == *mac
        });
    }

    /// The guests a guest may talk to.
    #[must_use]
    pub fn neighbours(&self, guest: usize) -> Vec<usize> {
        let subnet = self.ports[guest].subnet;
        (0..self.ports.len())
            .filter(|other| {
                let port = &self.ports[*other];
                *other != guest && port.present && port.up && port.subnet == subnet
            })
            .collect()
    }

    /// The manifests, read and validated as the daemon does it.
    ///
    /// # Errors
    ///
    /// What the model found wrong.
    pub fn resources(&self, host: &Name) -> anyhow::Result<ResourceSet> {
        let environment = Environment { own_host: Some((host.clone(), HostSpec::default())) };
        let text = self.manifests(host);
        model::load_text(&text, "simulated", &environment).map_err(|problems| {
            let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("the operator's manifests are refused: {}", texts.join("; "))
        })
    }

    fn manifests(&self, host: &Name) -> String {
        let mut text = String::new();
        let mut resource = |kind: &str, name: String, spec: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "---\napiVersion: towpath.dev/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{{spec}}}"
            );
        };
        for vpc in 0..2 {
            let spec = format!("vni: {}, cidrs: [10.0.0.0/16, \"fd00:10::/48\"]", 100 + vpc);
            resource("Vpc", format!("v{vpc}"), spec);
            for subnet in 0..2 {
                let spec = format!("vpc: v{vpc}, cidrs: [10.0.{subnet}.0/24, \"fd00:10:0:{subnet:x}::/64\"]");
                resource("Subnet", format!("s{vpc}-{subnet}"), spec);
            }
        }
        for (guest, port) in self.ports.iter().enumerate().filter(|(_, port)| port.present) {
            let mac: Vec<String> = port.station.mac.iter().map(|byte| format!("{byte:02x}")).collect();
            let mut spec = format!(
                "subnet: s{}-{}, host: {host}, mac: \"{}\", ips: [{}, \"{}\"], unfiltered: true, shutdown: {}",
                port.subnet.0,
                port.subnet.1,
                mac.join(":"),
                port.station.v4,
                port.station.v6,
                !port.up
            );
            if port.vip {
                let [v4, v6] = vips(port.subnet);
                let _ = write!(spec, ", allowedAddresses: [{{ip: {v4}}}, {{ip: \"{v6}\"}}]");
            }
            resource("Port", format!("g{guest}"), spec);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifests_are_valid_and_two_vpcs_may_use_the_same_addresses() {
        let port = |vpc, place| PortView {
            present: true,
            up: true,
            subnet: (vpc, 0),
            station: station((vpc, 0), place),
            vip: place == 10,
        };
        let network = Network { ports: vec![port(0, 10), port(0, 11), port(1, 10)], ..Network::default() };
        let host = Name::parse("node-a").unwrap();
        assert_eq!(network.resources(&host).unwrap().ports_on(&host).count(), 3);
        assert_eq!(network.by_mac((1, 0), station((1, 0), 10).mac), Some(2));
        assert_eq!(network.neighbours(0), [1]);
    }
}
