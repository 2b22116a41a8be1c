//! Addresses and networks as the fields of resources write them.

use crate::fields::{Fields, Parsed, Reader, Refusal};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Networks no VPC can use, with the reason.
const RESERVED: &[(&str, &str)] = &[
    ("0.0.0.0/8", "\"this network\" (RFC 1122)"),
    ("127.0.0.0/8", "loopback (RFC 1122)"),
    ("169.254.0.0/16", "link-local (RFC 3927)"),
    ("224.0.0.0/4", "multicast (RFC 5771)"),
    ("255.255.255.255/32", "the broadcast address (RFC 919)"),
    ("::/127", "the unspecified and loopback addresses (RFC 4291)"),
    ("::ffff:0:0/96", "IPv4-mapped (RFC 4291)"),
    ("fe80::/10", "link-local (RFC 4291)"),
    ("ff00::/8", "multicast (RFC 4291)"),
];

/// Whether two networks have an address in common.
pub fn overlap(left: &IpNet, right: &IpNet) -> bool {
    left.contains(right) || right.contains(left)
}

/// The reserved network that `net` touches, in words.
fn reserved(net: &IpNet) -> Option<String> {
    RESERVED.iter().find_map(|(text, why)| {
        let other: IpNet = text.parse().ok()?;
        overlap(&other, net).then(|| format!("overlaps {text}, {why}"))
    })
}

/// Reads a network in its shortest form, `10.0.1.0/24`: no bit set after the prefix.
///
/// # Errors
/// Malformed, without a prefix length, or with bits set after it.
fn parse_net(text: &str) -> Parsed<IpNet> {
    let Ok(net) = text.parse::<IpNet>() else {
        return Err(Refusal::new(
            "not a network",
            "write an address and a prefix length, as 10.0.1.0/24 or \"fd00::/64\"",
        ));
    };
    if net != net.trunc() {
        let message = format!("has bits set after its prefix of {}", net.prefix_len());
        return Err(Refusal::new(message, format!("write {}", net.trunc())));
    }
    Ok(net)
}

/// Reads a network that a VPC or subnet may have.
///
/// # Errors
/// As a network, and when it touches loopback, link-local or multicast addresses.
pub fn parse_cidr(text: &str) -> Parsed<IpNet> {
    let net = parse_net(text)?;
    match reserved(&net) {
        Some(message) => Err(Refusal::new(
            message,
            "use private or your own addresses, as 10.0.0.0/16 or \"fd00:10::/48\"",
        )),
        None => Ok(net),
    }
}

/// Reads an address that one interface may have.
///
/// # Errors
/// Malformed, loopback, link-local, multicast.
pub fn parse_address(text: &str) -> Parsed<IpAddr> {
    let Ok(address) = text.parse::<IpAddr>() else {
        return Err(Refusal::new(
            "not an IP address",
            "write it as 10.0.1.10 or \"fd00::10\", without a prefix length",
        ));
    };
    match reserved(&IpNet::from(address)) {
        Some(message) => Err(Refusal::new(message, "use an address of the subnet")),
        None => Ok(address),
    }
}

/// Reads an address or a network that a port may send from beyond its own; a single address is a network of one.
///
/// # Errors
/// Malformed, bits after the prefix, or one reserved address. Prefixes may cover reserved ones: `0.0.0.0/0` is for routers.
pub fn parse_allowed(text: &str) -> Parsed<IpNet> {
    match text.contains('/') {
        true => parse_net(text),
        false => parse_address(text).map(IpNet::from),
    }
}

/// Reads the network of a rule's other end. It may be any: `0.0.0.0/0` is all of IPv4, and a single address a network of one.
///
/// # Errors
/// Malformed, or with bits set after its prefix.
pub fn parse_remote(text: &str) -> Parsed<IpNet> {
    match (text.contains('/'), text.parse::<IpAddr>()) {
        (false, Ok(address)) => Ok(IpNet::from(address)),
        _ => parse_net(text),
    }
}

/// Reads the destination of a route: a network that is not inside a reserved one. It may cover some: `0.0.0.0/0`.
///
/// # Errors
/// As a network, and when packets for it never reach a router.
pub fn parse_destination(text: &str) -> Parsed<IpNet> {
    let net = parse_net(text)?;
    let inside = |(text, _): &&(&str, &str)| text.parse::<IpNet>().is_ok_and(|outer| outer.contains(&net));
    // 0.0.0.0/8 and ::/127 hold no destination either, but they are where the default routes begin.
    match RESERVED.iter().filter(|_| net.prefix_len() > 0).find(inside) {
        Some((text, why)) => Err(Refusal::new(
            format!("is inside {text}, {why}, for which there are no routes"),
            "remove the route",
        )),
        None => Ok(net),
    }
}

/// Reads a list of addresses, none twice; `None` when it is absent.
pub(crate) fn distinct_addresses(
    fields: &mut Fields<'_>,
    reader: &mut Reader,
    name: &'static str,
) -> Option<Vec<IpAddr>> {
    let mut seen = Vec::new();
    fields.list(reader, name, |text| {
        let address = parse_address(text)?;
        match seen.contains(&address) {
            true => Err(Refusal::new("is written twice", "remove one of them")),
            false => {
                seen.push(address);
                Ok(address)
            }
        }
    })
}

/// The first address after the network's own: the gateway, unless another is written.
pub fn first_address(net: &IpNet) -> IpAddr {
    nth_address(net, 1).unwrap_or_else(|| net.network())
}

/// Address number `index` of a network; `None` beyond its end.
pub fn nth_address(net: &IpNet, index: u128) -> Option<IpAddr> {
    let address = match net.network() {
        IpAddr::V4(first) => {
            let sum = u32::from(first).checked_add(u32::try_from(index).ok()?)?;
            IpAddr::V4(Ipv4Addr::from(sum))
        }
        IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from(u128::from(first).checked_add(index)?)),
    };
    net.contains(&address).then_some(address)
}

/// Why no interface can have this address of its network: it is the network's own (IPv6: the subnet-router anycast
/// address, RFC 4291 2.6.1) or the broadcast address.
pub fn not_for_interfaces(net: &IpNet, address: IpAddr) -> Option<&'static str> {
    match net {
        _ if address == net.network() => Some("is the network's own address"),
        IpNet::V4(net) if address == IpAddr::V4(net.broadcast()) => {
            Some("is the network's broadcast address")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        assert_eq!(parse_cidr("10.0.1.0/24").unwrap().to_string(), "10.0.1.0/24");
        assert_eq!(parse_cidr("10.0.1.5/24").unwrap_err().remedy, "write 10.0.1.0/24");
        for bad in [
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0/8",
            "0.0.0.0/0",
            "224.1.0.0/16",
            "fe80::/64",
            "ff02::/16",
            "::/0",
            "x",
        ] {
            assert!(parse_cidr(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses() {
        assert!(parse_address("fd00::10").is_ok());
        for bad in [
            "10.0.1.10/24",
            "127.0.0.1",
            "::1",
            "::",
            "0.0.0.0",
            "255.255.255.255",
            "::ffff:10.0.0.1",
            "010.0.0.1",
        ] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_allowed("0.0.0.0/0").unwrap().prefix_len(), 0);
        assert_eq!(parse_allowed("10.0.1.100").unwrap().to_string(), "10.0.1.100/32");
        assert!(parse_allowed("10.0.8.1/22").is_err());
    }

    #[test]
    fn places_in_a_network() {
        let net: IpNet = "10.0.1.0/24".parse().unwrap();
        assert_eq!(first_address(&net), "10.0.1.1".parse::<IpAddr>().unwrap());
        assert_eq!(nth_address(&net, 255), "10.0.1.255".parse().ok());
        assert_eq!(nth_address(&net, 256), None);
        assert!(not_for_interfaces(&net, "10.0.1.255".parse().unwrap()).is_some());
        assert!(not_for_interfaces(&net, "10.0.1.254".parse().unwrap()).is_none());
        let net: IpNet = "fd00::/64".parse().unwrap();
        assert!(not_for_interfaces(&net, "fd00::".parse().unwrap()).is_some());
        let end: IpNet = "ffff:ffff:ffff:ffff::/64".parse().unwrap();
        assert_eq!(nth_address(&end, 1 << 64), None);
    }
}
