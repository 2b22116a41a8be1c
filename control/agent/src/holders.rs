//! Addresses that belong to whoever last announced them.

use engine::PortIndex;
use packet::MacAddr;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Who holds what, by subnet and address.
#[derive(Debug, Default)]
pub(crate) struct Holders(BTreeMap<(u16, IpAddr), (PortIndex, MacAddr)>);

impl Holders {
    /// Records the new holder; the one before, or `Err` when nothing changes.
    pub(crate) fn set(
        &mut self,
        subnet: u16,
        address: IpAddr,
        port: PortIndex,
        mac: MacAddr,
    ) -> Result<Option<(PortIndex, MacAddr)>, ()> {
        match self.0.insert((subnet, address), (port, mac)) {
            Some(before) if before == (port, mac) => Err(()),
            before => Ok(before),
        }
    }

    /// Takes away what `keep` refuses, and returns it.
    pub(crate) fn retain(
        &mut self,
        mut keep: impl FnMut(u16, IpAddr, PortIndex, MacAddr) -> bool,
    ) -> Vec<(u16, IpAddr, PortIndex, MacAddr)> {
        let mut gone = Vec::new();
        self.0.retain(|(subnet, address), (port, mac)| {
            let stays = keep(*subnet, *address, *port, *mac);
            if !stays {
                gone.push((*subnet, *address, *port, *mac));
            }
            stays
        });
        gone
    }

    /// Whether `port` holds anything by `mac` in `subnet`.
    pub(crate) fn uses(&self, subnet: u16, port: PortIndex, mac: MacAddr) -> bool {
        self.0
            .range((subnet, IpAddr::V4(0.into()))..)
            .take_while(|((at, _), _)| *at == subnet)
            .any(|(_, held)| *held == (port, mac))
    }

    pub(crate) fn get(&self, subnet: u16, address: IpAddr) -> Option<(PortIndex, MacAddr)> {
        self.0.get(&(subnet, address)).copied()
    }
}
