//! Where an address lives, and where a route leads: the values of the tables.

use packet::MacAddr;

/// Where an address lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Location {
    /// At this port of this host.
    Local(u16),
    /// At the tunnel end point of this number.
    Remote(u16),
    /// Nobody here knows; the tunnel end point of this number does.
    Directory(u16),
}

impl Location {
    /// As one number: a local port is its own; `u32::MAX` is never returned.
    pub const fn pack(self) -> u32 {
        match self {
            Self::Local(port) => port as u32,
            Self::Remote(vtep) => 1 << 16 | vtep as u32,
            Self::Directory(vtep) => 2 << 16 | vtep as u32,
        }
    }

    /// What [`Location::pack`] was given; `None` for a number it never returns.
    #[inline]
    pub const fn unpack(number: u32) -> Option<Self> {
        let low = number as u16;
        match number >> 16 {
            0 => Some(Self::Local(low)),
            1 => Some(Self::Remote(low)),
            2 => Some(Self::Directory(low)),
            _ => None,
        }
    }
}

/// The space, in the MAC table, of the MAC addresses of VPC number `vpc` (below 0x8000) that the underlay may reach. The
/// spaces below 0x8000 are subnets'.
#[inline]
#[must_use]
pub const fn vpc_space(vpc: u16) -> u16 {
    0x8000 | vpc
}

/// The key that says, among the MAC addresses of a VPC ([`vpc_space`]), from which host late packets for `mac` are sent on: that which its port left a moment
/// ago. It is a group's address, which no station has.
#[inline]
#[must_use]
pub const fn late_mac(mac: MacAddr) -> MacAddr {
    let [first, b, c, d, e, f] = mac.0;
    MacAddr([first | 1, b, c, d, e, f])
}

/// Who answers for an address of a VPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The MAC address frames for it go to.
    pub mac: MacAddr,
    /// The number, on this host, of the subnet it is in.
    pub subnet: u16,
    /// Where it lives.
    pub location: Location,
}

impl Endpoint {
    /// Numbers a subnet may have on a host: 0 to this, exclusive.
    pub const SUBNETS: u16 = 1 << 14;
    /// Numbers a VPC may have on a host: 0 to this, exclusive.
    pub const VPCS: u16 = 1 << 15;
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NextHop {
    /// A subnet of the same VPC: the destination is looked up among its endpoints.
    Subnet(u16),
    /// A peer: the destination is looked up among the endpoints of that VPC.
    Vpc(u16),
    /// A router: a port of the same VPC that takes packets for others.
    Port {
        /// Where it lives.
        location: Location,
        /// Its MAC address.
        mac: MacAddr,
        /// The number of the subnet it is in.
        subnet: u16,
    },
    /// Out of the VPC, by the exit of this number ([`External`](crate::external::External)).
    External(u16),
    /// Nowhere, on purpose.
    Blackhole,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_numbers_and_back() {
        for number in [0, 1, 16_383, u16::MAX] {
            for location in [Location::Local(number), Location::Remote(number), Location::Directory(number)] {
                assert_eq!(Location::unpack(location.pack()), Some(location));
                assert_ne!(location.pack(), u32::MAX);
            }
        }
        assert_eq!(Location::Local(7).pack(), 7);
        assert_eq!([Location::unpack(3 << 16), Location::unpack(u32::MAX)], [None, None]);
    }
}
