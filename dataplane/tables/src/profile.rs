//! What one port may send as. Immutable; replaced as a whole when the port changes.

use ipnet::IpNet;
use packet::MacAddr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address or prefix a port may use besides its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowedAddress {
    /// The address (a full-length prefix) or prefix.
    pub prefix: IpNet,
    /// The MAC address it goes with; the port's when absent.
    pub mac: Option<MacAddr>,
}

/// What the packet path knows of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortProfile {
    /// The subnet's number on this host.
    pub subnet: u16,
    /// The port's MAC address.
    pub mac: MacAddr,
    /// Whether it may send and receive.
    pub up: bool,
    /// Largest network-layer packet it is given or may send uncut, in bytes.
    pub mtu: u16,
    /// The VPC's number on this host.
    pub vpc: u16,
    /// The MAC address of its subnet's gateway.
    pub gateway_mac: MacAddr,
    /// Who it is for other hosts' policies: travels with its packets (VXLAN group policy field); 0: nobody.
    pub identity: u16,
    /// The number of the compiled rules for what it sends and is sent; none: it is unfiltered, and has no sessions.
    pub policy: Option<u16>,
    /// Source MAC address and EtherType, then source address, of an IPv4 packet from the first address.
    plain_ipv4: Option<([u8; 8], [u8; 4])>,
    first_ipv4: Option<Ipv4Addr>,
    first_ipv6: Option<Ipv6Addr>,
    addresses: Vec<IpAddr>,
    allowed: Vec<AllowedAddress>,
}

impl PortProfile {
    /// A port that is up. Its link-local IPv6 address (RFC 4291 appendix A, from the MAC address) is always among its addresses.
    pub fn new(
        subnet: u16,
        mac: MacAddr,
        mtu: u16,
        addresses: &[IpAddr],
        allowed: &[AllowedAddress],
    ) -> Self {
        let mut all = addresses.to_vec();
        all.push(IpAddr::V6(link_local(mac)));
        let [a, b, c, d, e, f] = mac.0;
        Self {
            subnet,
            mac,
            up: true,
            mtu,
            vpc: 0,
            gateway_mac: MacAddr::default(),
            identity: 0,
            policy: None,
            plain_ipv4: addresses.iter().find_map(|address| match address {
                IpAddr::V4(first) => Some(([a, b, c, d, e, f, 8, 0], first.octets())),
                IpAddr::V6(_) => None,
            }),
            first_ipv4: addresses
                .iter()
                .find_map(|address| if let IpAddr::V4(v4) = address { Some(*v4) } else { None }),
            first_ipv6: addresses
                .iter()
                .find_map(|address| if let IpAddr::V6(v6) = address { Some(*v6) } else { None }),
            addresses: all,
            allowed: allowed.to_vec(),
        }
    }

    /// The same in a VPC, with a gateway, and known to other hosts as `identity`.
    #[must_use]
    pub fn in_vpc(mut self, vpc: u16, gateway_mac: MacAddr, identity: u16) -> Self {
        (self.vpc, self.gateway_mac, self.identity) = (vpc, gateway_mac, identity);
        self
    }

    /// The port's own addresses, its link-local one included.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Whether the frame that starts with `head` is untagged IPv4 from the port's MAC address and first IPv4 address: what nearly all of its
    /// frames are. Two comparisons.
    #[inline(always)]
    pub fn is_plain_ipv4(&self, head: &[u8]) -> bool {
        let (Some(head), Some((link, source))) = (head.first_chunk::<34>(), &self.plain_ipv4) else {
            return false;
        };
        head[6..14] == *link && head[26..30] == *source
    }

    /// Whether `address` is the first IPv4 address of the port: what nearly all of its packets come from.
    #[inline(always)]
    pub fn is_first_ipv4(&self, address: Ipv4Addr) -> bool {
        self.first_ipv4 == Some(address)
    }

    /// Likewise for IPv6.
    #[inline(always)]
    pub fn is_first_ipv6(&self, address: Ipv6Addr) -> bool {
        self.first_ipv6 == Some(address)
    }

    /// Whether frames may come from `mac` at all.
    #[inline]
    pub fn may_use_mac(&self, mac: MacAddr) -> bool {
        mac == self.mac || self.allowed.iter().any(|allowed| allowed.mac == Some(mac))
    }

    /// Whether packets may come from `address` in frames from `mac`.
    pub fn may_send_from(&self, mac: MacAddr, address: IpAddr) -> bool {
        (mac == self.mac && self.addresses.contains(&address)) || self.allowing(mac, address).is_some()
    }

    /// Whether the port may say that `mac` has `address`: its own, or a single address (no prefix) it was allowed.
    pub fn may_announce(&self, mac: MacAddr, address: IpAddr) -> bool {
        (mac == self.mac && self.addresses.contains(&address))
            || self
                .allowing(mac, address)
                .is_some_and(|allowed| allowed.prefix.prefix_len() == allowed.prefix.max_prefix_len())
    }

    fn allowing(&self, mac: MacAddr, address: IpAddr) -> Option<&AllowedAddress> {
        self.allowed
            .iter()
            .find(|allowed| allowed.mac.unwrap_or(self.mac) == mac && allowed.prefix.contains(&address))
    }
}

/// The link-local address that follows from a MAC address (modified EUI-64, RFC 4291 appendix A).
pub fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}
