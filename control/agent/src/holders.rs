//! Addresses that belong to whoever last announced them.

use engine::PortIndex;
use packet::MacAddr;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Who holds what, by subnet and address; and how many addresses a port holds by a MAC address.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    held: BTreeMap<(u16, IpAddr), (PortIndex, MacAddr)>,
    counts: BTreeMap<(u16, PortIndex, MacAddr), u32>,
}

impl Holders {
    /// Records the new holder; the one before, or `Err` when nothing changes.
    pub(crate) fn set(
        &mut self,
        subnet: u16,
        address: IpAddr,
        port: PortIndex,
        mac: MacAddr,
    ) -> Result<Option<(PortIndex, MacAddr)>, ()> {
        let before = self.held.insert((subnet, address), (port, mac));
        if before == Some((port, mac)) {
            return Err(());
        }
        *self.counts.entry((subnet, port, mac)).or_default() += 1;
        if let Some((port, mac)) = before {
            lose_one(&mut self.counts, (subnet, port, mac));
        }
        Ok(before)
    }

    /// Takes away what `keep` refuses, and returns it.
    pub(crate) fn retain(
        &mut self,
        mut keep: impl FnMut(u16, IpAddr, PortIndex, MacAddr) -> bool,
    ) -> Vec<(u16, IpAddr, PortIndex, MacAddr)> {
        let mut gone = Vec::new();
        self.held.retain(|(subnet, address), (port, mac)| {
            let stays = keep(*subnet, *address, *port, *mac);
            if !stays {
                gone.push((*subnet, *address, *port, *mac));
            }
            stays
        });
        for (subnet, _, port, mac) in &gone {
            lose_one(&mut self.counts, (*subnet, *port, *mac));
        }
        gone
    }

    /// Whether `port` holds anything by `mac` in `subnet`.
    pub(crate) fn uses(&self, subnet: u16, port: PortIndex, mac: MacAddr) -> bool {
        self.counts.contains_key(&(subnet, port, mac))
    }

    pub(crate) fn get(&self, subnet: u16, address: IpAddr) -> Option<(PortIndex, MacAddr)> {
        self.held.get(&(subnet, address)).copied()
    }
}

fn lose_one(counts: &mut BTreeMap<(u16, PortIndex, MacAddr), u32>, key: (u16, PortIndex, MacAddr)) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_is_in_use_as_long_as_an_address_goes_by_it() {
        let mut holders = Holders::default();
        let (one, other) = (PortIndex(1), PortIndex(2));
        let mac = MacAddr([0, 0, 0x5e, 0, 1, 1]);
        let [a, b] = [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])];
        assert_eq!(holders.set(7, a, one, mac), Ok(None));
        assert_eq!(holders.set(7, a, one, mac), Err(()));
        assert_eq!(holders.set(7, b, one, mac), Ok(None));
        assert_eq!(holders.set(7, a, other, mac), Ok(Some((one, mac))));
        assert!(holders.uses(7, one, mac) && holders.uses(7, other, mac) && !holders.uses(8, one, mac));
        assert_eq!(holders.retain(|_, _, port, _| port == other), [(7, b, one, mac)]);
        assert!(!holders.uses(7, one, mac) && holders.uses(7, other, mac));
    }
}
