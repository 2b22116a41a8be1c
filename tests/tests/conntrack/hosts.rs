//! Who talks: six hosts, three on each side of a router. On one side of the comparison they are ports of the switch, on the other neighbours of a
//! Linux router.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Hosts, of which the first half is in one subnet and the rest in the other.
pub(crate) const HOSTS: usize = 6;
/// The one under no rules.
pub(crate) const UNFILTERED: usize = 5;

/// The subnet of a host.
pub(crate) fn side(host: usize) -> usize {
    host / (HOSTS / 2)
}

pub(crate) fn mac(host: usize) -> [u8; 6] {
    [2, 0, 0, 0, 1, 10 + host as u8]
}

pub(crate) fn v4(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1 + side(host) as u8, 10 + host as u8)
}

pub(crate) fn v6(host: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0, 1 + side(host) as u16, 0, 0, 0, 0x10 + host as u16)
}

pub(crate) fn address(host: usize, ipv6: bool) -> IpAddr {
    if ipv6 { v6(host).into() } else { v4(host).into() }
}
