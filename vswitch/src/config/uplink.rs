//! `uplink` and `eal` of `towpathd.yaml`.

use ipnet::IpNet;
use model::fields::{Fields, Parsed, Reader, Refusal};
use model::net::{not_for_interfaces, parse_address};
use model::quantity::BitRate;
use model::yaml::{Node, Value};
use std::net::IpAddr;

/// Whether this towpathd was built with DPDK (feature `dpdk`, on by default).
pub const HAS_DPDK: bool = cfg!(feature = "dpdk");
/// Longest name of a network interface, in bytes (Linux' IFNAMSIZ less its zero).
const IFNAME_MAX: usize = 15;
/// Most addresses of an uplink.
const ADDRESSES_MAX: usize = 16;
/// Smallest and greatest MTU of an uplink, in bytes. Below the smallest, IPv6 does not run over it (RFC 8200).
const MTU: std::ops::RangeInclusive<u64> = 1280..=65_535;
/// Most arguments for the EAL.
const EAL_MAX: usize = 64;

/// How this host reaches others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkConfig {
    /// What moves its packets.
    pub driver: UplinkDriver,
    /// Addresses of this host's tunnels with the lengths of their subnets' prefixes, in the order preferred. Empty: the interface's.
    pub addresses: Vec<IpNet>,
    /// Routers to everything that is not in one of the subnets, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// The longest IP packet of the underlay, in bytes. Absent: the device's.
    pub mtu: Option<u16>,
    /// What the way out carries, where that is less than the device's speed. Shown, and compared with the device's.
    pub rate: Option<BitRate>,
}

/// What moves an uplink's packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UplinkDriver {
    /// A device that DPDK drives in this process.
    Dpdk {
        /// Its devargs: a PCI address, or a virtual device and its arguments.
        device: String,
    },
    /// An interface of this host's kernel.
    Kernel {
        /// Its name.
        ifname: String,
        /// Through AF_XDP instead of packet sockets: faster for small packets, without offloads.
        xdp: bool,
    },
}

impl UplinkDriver {
    /// The field that names the device, for problems.
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Dpdk { .. } => "uplink.dpdk.device",
            Self::Kernel { .. } => "uplink.kernel.ifname",
        }
    }

    /// The device as the file names it.
    pub fn device(&self) -> &str {
        match self {
            Self::Dpdk { device } => device,
            Self::Kernel { ifname, .. } => ifname,
        }
    }
}

/// Reads `uplink`.
pub(super) fn read_uplink(fields: &mut Fields<'_>, reader: &mut Reader) -> Option<UplinkConfig> {
    let node = fields.node("uplink")?;
    let mut uplink = Fields::open(node, &fields.path("uplink"), reader)?;
    let driver = read_driver(&mut uplink, reader);
    let addresses = read_addresses(&mut uplink, reader);
    let gateways = read_gateways(&mut uplink, reader, &addresses);
    let mtu = uplink.integer(reader, "mtu", MTU).and_then(|mtu| u16::try_from(mtu).ok());
    let rate = uplink.parse(reader, "rate", |text| match BitRate::parse(text)? {
        BitRate(0) => Err(Refusal::new("nothing passes", "write what the uplink carries, as 25Gbps")),
        rate => Ok(rate),
    });
    if matches!(driver, Some(UplinkDriver::Dpdk { .. })) && uplink.node("addresses").is_none() {
        let remedy = "write the addresses of this host's tunnels, as [192.0.2.1/24]: a device of DPDK has none of its own";
        uplink.missing(reader, "addresses", remedy);
    }
    uplink.finish(reader);
    Some(UplinkConfig { driver: driver?, addresses, gateways, mtu, rate })
}

/// Exactly one of `dpdk` and `kernel`.
fn read_driver(uplink: &mut Fields<'_>, reader: &mut Reader) -> Option<UplinkDriver> {
    uplink.unsupported(
        reader,
        "sim",
        "the simulated SmartNIC is not supported by this version",
        "use dpdk: {device: ..} or kernel: {ifname: ..}",
    );
    let simulated = uplink.node("sim").is_some();
    let written = [uplink.node("dpdk"), uplink.node("kernel")];
    match written {
        [Some(_), Some(second)] => {
            let refusal = Refusal::new("a second driver", "keep one of dpdk and kernel");
            reader.refuse(second.position, &uplink.path("kernel"), None, refusal);
            None
        }
        [Some(_), None] => read_dpdk(uplink, reader),
        [None, Some(_)] => read_kernel(uplink, reader),
        [None, None] => {
            if !simulated {
                let remedy =
                    "write dpdk: {device: \"0000:3b:00.0\"} or kernel: {ifname: eth1}, or remove the uplink";
                let refusal = Refusal::new("names no device", remedy);
                reader.refuse(uplink.position, "uplink", None, refusal);
            }
            None
        }
    }
}

fn read_dpdk(uplink: &mut Fields<'_>, reader: &mut Reader) -> Option<UplinkDriver> {
    let node = uplink.node("dpdk")?;
    let mut section = uplink.mapping(reader, "dpdk")?;
    let remedy = "write a PCI address (\"0000:3b:00.0\") or a virtual device of DPDK (net_tap0,iface=tap0)";
    let device = section.required(reader, "device", remedy, parse_devargs);
    section.finish(reader);
    if !HAS_DPDK {
        let refusal = Refusal::new(
            "this towpathd was built without DPDK",
            "use kernel: {ifname: ..}, or build towpathd with its feature dpdk (cargo build -p towpathd --features dpdk)",
        );
        reader.refuse(node.position, &uplink.path("dpdk"), None, refusal);
        return None;
    }
    Some(UplinkDriver::Dpdk { device: device? })
}

/// Devargs of one device: text that reaches a C parser and the log.
fn parse_devargs(text: &str) -> Parsed<String> {
    let name = text.split(',').next().unwrap_or_default();
    if name.is_empty() || text.len() > 1024 || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Refusal::new(
            "no device of DPDK",
            "write a PCI address (\"0000:3b:00.0\") or a driver's name with a number and its arguments (net_tap0,iface=tap0)",
        ));
    }
    Ok(text.to_owned())
}

fn read_kernel(uplink: &mut Fields<'_>, reader: &mut Reader) -> Option<UplinkDriver> {
    let mut section = uplink.mapping(reader, "kernel")?;
    let remedy = "write the name of an interface that `ip link` shows, as eth1";
    let ifname = section.required(reader, "ifname", remedy, parse_ifname);
    let xdp = section.boolean(reader, "xdp").unwrap_or(false);
    section.finish(reader);
    Some(UplinkDriver::Kernel { ifname: ifname?, xdp })
}

fn parse_ifname(text: &str) -> Parsed<String> {
    let fits = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':');
    if text.is_empty() || text.len() > IFNAME_MAX || matches!(text, "." | "..") || !text.chars().all(fits) {
        let message = format!("not the name of an interface: 1 to {IFNAME_MAX} letters, digits and signs");
        return Err(Refusal::new(message, "write a name that `ip link` shows, as eth1"));
    }
    Ok(text.to_owned())
}

fn read_addresses(uplink: &mut Fields<'_>, reader: &mut Reader) -> Vec<IpNet> {
    let Some(items) = uplink.items(reader, "addresses") else { return Vec::new() };
    let path = uplink.path("addresses");
    if items.is_empty() || items.len() > ADDRESSES_MAX {
        let message = format!("has {} addresses", items.len());
        let remedy =
            format!("write 1 to {ADDRESSES_MAX}, or remove the field to take those of the interface");
        reader.refuse(uplink.position, &path, None, Refusal::new(message, remedy));
    }
    let mut addresses: Vec<IpNet> = Vec::new();
    for (path, node) in items {
        let Some(net) = reader.parse(node, &path, parse_tunnel_address) else { continue };
        if addresses.iter().any(|other| other.addr() == net.addr()) {
            let refusal = Refusal::new("is there twice", "write each address once");
            reader.refuse(node.position, &path, Some(&net.to_string()), refusal);
            continue;
        }
        addresses.push(net);
    }
    addresses
}

/// An address of an interface with the length of its subnet's prefix.
fn parse_tunnel_address(text: &str) -> Parsed<IpNet> {
    let malformed = || {
        Refusal::new("not an address with a prefix length", "write it as 192.0.2.1/24 or \"2001:db8::1/64\"")
    };
    let (address, _) = text.split_once('/').ok_or_else(malformed)?;
    let net: IpNet = text.parse().map_err(|_| malformed())?;
    parse_address(address).map_err(|refusal| Refusal {
        remedy: "write an address that other hosts can reach".to_owned(),
        ..refusal
    })?;
    // Of two addresses both are hosts' (RFC 3021, RFC 6164), and a single one is its host's.
    let all_hosts = net.prefix_len() + 1 >= net.max_prefix_len();
    match not_for_interfaces(&net.trunc(), net.addr()).filter(|_| !all_hosts) {
        Some(message) => Err(Refusal::new(message, "write the address of a host of that subnet")),
        None => Ok(net),
    }
}

/// One address, or a list of at most one of each family.
fn read_gateways(uplink: &mut Fields<'_>, reader: &mut Reader, addresses: &[IpNet]) -> Vec<IpAddr> {
    let Some(node) = uplink.node("gateway") else { return Vec::new() };
    let items: Vec<(String, &Node)> = match &node.value {
        Value::Sequence(_) => uplink.items(reader, "gateway").unwrap_or_default(),
        _ => vec![(uplink.path("gateway"), node)],
    };
    let mut gateways: Vec<IpAddr> = Vec::new();
    for (path, node) in items {
        let Some(gateway) = reader.parse(node, &path, parse_gateway) else { continue };
        let value = gateway.to_string();
        if gateways.iter().any(|other| other.is_ipv4() == gateway.is_ipv4()) {
            let refusal =
                Refusal::new("a second gateway of its family", "keep one IPv4 and one IPv6 gateway");
            reader.refuse(node.position, &path, Some(&value), refusal);
        } else if let Some(refusal) = unreachable_gateway(gateway, addresses) {
            reader.refuse(node.position, &path, Some(&value), refusal);
        } else {
            gateways.push(gateway);
        }
    }
    gateways
}

fn parse_gateway(text: &str) -> Parsed<IpAddr> {
    // Routers of IPv6 are commonly named by their link-local addresses.
    if let Ok(IpAddr::V6(address)) = text.parse()
        && address.is_unicast_link_local()
    {
        return Ok(address.into());
    }
    parse_address(text)
        .map_err(|refusal| Refusal { remedy: "write the router's address".to_owned(), ..refusal })
}

/// Why `gateway` cannot be the router of an interface with these addresses; nothing is said of an interface without.
pub(crate) fn unreachable_gateway(gateway: IpAddr, addresses: &[IpNet]) -> Option<Refusal> {
    if addresses.iter().any(|own| own.addr() == gateway) {
        return Some(Refusal::new("is this host's own address", "write the address of the router"));
    }
    let link_local = matches!(gateway, IpAddr::V6(address) if address.is_unicast_link_local());
    // An address alone in its subnet has its router on the link, whatever that is called.
    let reaches = |own: &IpNet| {
        own.contains(&gateway)
            || (own.prefix_len() == own.max_prefix_len() && own.addr().is_ipv4() == gateway.is_ipv4())
    };
    if addresses.is_empty() || link_local || addresses.iter().any(reaches) {
        return None;
    }
    let subnets = addresses.iter().map(|own| own.trunc().to_string()).collect::<Vec<_>>().join(", ");
    let message = format!("is in none of the uplink's subnets ({subnets})");
    Some(Refusal::new(message, "write a router of one of them, or correct the prefix length of the address"))
}

/// Reads `eal`.
pub(super) fn read_eal(
    fields: &mut Fields<'_>,
    reader: &mut Reader,
    uplink: Option<&UplinkConfig>,
) -> Vec<String> {
    let Some(node) = fields.node("eal") else { return Vec::new() };
    let Some(arguments) = fields.list(reader, "eal", parse_argument) else { return Vec::new() };
    let dpdk = uplink.is_some_and(|uplink| matches!(uplink.driver, UplinkDriver::Dpdk { .. }));
    if !arguments.is_empty() && !dpdk {
        let refusal = Refusal::new(
            "there is no uplink of DPDK",
            "remove the field: without uplink: {dpdk: ..} there is nothing for DPDK's EAL to do",
        );
        reader.refuse(node.position, "eal", None, refusal);
    }
    if arguments.len() > EAL_MAX {
        let refusal =
            Refusal::new(format!("has {} arguments", arguments.len()), format!("write at most {EAL_MAX}"));
        reader.refuse(node.position, "eal", None, refusal);
    }
    arguments
}

fn parse_argument(text: &str) -> Parsed<String> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(Refusal::new(
            "no argument",
            "write one word for each item, as [--log-level, \"lib.eal:8\"]",
        ));
    }
    let option = text.split('=').next().unwrap_or(text);
    match option {
        "--proc-type" | "--file-prefix" | "--vdev" | "--help" | "-h" | "-v" => Err(Refusal::new(
            "an argument that towpathd has no use for",
            "remove it: the device is named in uplink.dpdk.device, and towpathd shares nothing with other processes",
        )),
        _ => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{read, refused};
    use super::*;
    use std::slice;

    /// A file with an uplink of these fields.
    fn uplink(fields: &str) -> UplinkConfig {
        read(&format!("uplink: {{{fields}}}")).unwrap().uplink.unwrap()
    }

    #[test]
    fn a_kernel_interface_needs_nothing_else() {
        let config = uplink("kernel: {ifname: eth1}");
        let driver = UplinkDriver::Kernel { ifname: "eth1".into(), xdp: false };
        assert_eq!((config.driver.field(), config.driver.device()), ("uplink.kernel.ifname", "eth1"));
        assert_eq!(
            config,
            UplinkConfig { driver, addresses: vec![], gateways: vec![], mtu: None, rate: None }
        );
        let config = uplink("kernel: {ifname: eth1.100, xdp: true}");
        assert_eq!(config.driver, UplinkDriver::Kernel { ifname: "eth1.100".into(), xdp: true });
    }

    #[test]
    fn every_field_of_an_uplink() {
        let config = uplink(
            "kernel: {ifname: u0}, addresses: [192.0.2.1/24, '2001:db8::1/64'], gateway: [192.0.2.254, 'fe80::1'], \
             mtu: 9000, rate: 25Gbps",
        );
        assert_eq!(config.addresses, ["192.0.2.1/24".parse().unwrap(), "2001:db8::1/64".parse().unwrap()]);
        assert_eq!(config.gateways, ["192.0.2.254".parse::<IpAddr>().unwrap(), "fe80::1".parse().unwrap()]);
        assert_eq!((config.mtu, config.rate), (Some(9000), Some(BitRate(25_000_000_000))));
        let one = uplink("kernel: {ifname: u0}, addresses: ['2001:db8::1/64'], gateway: '2001:db8::fe'");
        assert_eq!(one.gateways, ["2001:db8::fe".parse::<IpAddr>().unwrap()]);
        let from_the_interface = uplink("kernel: {ifname: u0}, gateway: 192.0.2.254");
        assert_eq!(from_the_interface.gateways.len(), 1, "checked when the interface is opened");
    }

    #[test]
    fn drivers_that_cannot_be() {
        refused("uplink: {}", &["uplink: names no device", "kernel: {ifname: eth1}"]);
        refused("uplink: {mtu: 1500}", &["uplink: names no device"]);
        refused("uplink: eth1", &["uplink: is a single value, not a mapping"]);
        refused("uplink: {sim: {nic: nic0}}", &["uplink.sim: the simulated SmartNIC is not supported"]);
        refused(
            "uplink: {kernle: {ifname: u0}, kernel: {ifname: u0}}",
            &["uplink.kernle: unknown field", "kernel"],
        );
        refused(
            "uplink: {kernel: {}}",
            &["uplink.kernel.ifname: is missing; remedy: write the name of an interface"],
        );
        for name in ["''", "sixteen-letters-", "'a b'", "a/b", "'..'", "eth0:1"] {
            refused(
                &format!("uplink: {{kernel: {{ifname: {name}}}}}"),
                &["uplink.kernel.ifname", "not the name"],
            );
        }
        refused("uplink: {kernel: {ifname: u0, xdp: maybe}}", &["uplink.kernel.xdp \"maybe\""]);
    }

    #[test]
    fn addresses_that_cannot_be() {
        let kernel = |rest: &str| format!("uplink: {{kernel: {{ifname: u0}}, {rest}}}");
        for (address, why) in [
            ("192.0.2.1", "not an address with a prefix length"),
            ("192.0.2.1/33", "not an address with a prefix length"),
            ("192.0.2.0/24", "network"),
            ("192.0.2.255/24", "broadcast"),
            ("127.0.0.1/8", "loopback"),
            ("'fe80::1/64'", "link-local"),
            ("224.0.0.1/24", "multicast"),
        ] {
            refused(&kernel(&format!("addresses: [{address}]")), &["uplink.addresses[0]", why]);
        }
        refused(&kernel("addresses: []"), &["uplink.addresses: has 0 addresses"]);
        refused(&kernel("addresses: [192.0.2.1/24, 192.0.2.1/25]"), &["uplink.addresses[1]", "twice"]);
        refused(
            &kernel("addresses: [192.0.2.1/25], gateway: 192.0.2.254"),
            &["uplink.gateway \"192.0.2.254\": is in none of the uplink's subnets (192.0.2.0/25)"],
        );
        refused(&kernel("addresses: [192.0.2.1/24], gateway: 192.0.2.1"), &["this host's own address"]);
        refused(&kernel("gateway: [192.0.2.1, 192.0.2.2]"), &["uplink.gateway[1]", "a second gateway"]);
        refused(&kernel("gateway: eth0"), &["uplink.gateway \"eth0\": not an IP address"]);
        refused(&kernel("mtu: 1279"), &["uplink.mtu \"1279\": out of range", "1280 to 65535"]);
        refused(&kernel("rate: 0bps"), &["uplink.rate \"0bps\": nothing passes"]);
        refused(&kernel("rate: fast"), &["uplink.rate \"fast\""]);
    }

    #[test]
    fn arguments_for_the_eal_need_a_device_of_dpdk() {
        refused("eal: [--iova-mode, pa]", &["eal: there is no uplink of DPDK"]);
        refused("uplink: {kernel: {ifname: u0}}\neal: [-v1]", &["eal: there is no uplink of DPDK"]);
        assert!(read("eal: []").unwrap().eal.is_empty());
    }

    #[test]
    #[cfg(not(feature = "dpdk"))]
    fn without_dpdk_the_file_is_told_so() {
        refused(
            "uplink: {dpdk: {device: net_null0}, addresses: [192.0.2.1/24]}",
            &["uplink.dpdk: this towpathd was built without DPDK; remedy: use kernel: {ifname: ..}"],
        );
    }

    #[test]
    #[cfg(feature = "dpdk")]
    fn a_device_of_dpdk() {
        let text = "uplink: {dpdk: {device: '0000:3b:00.0'}, addresses: [192.0.2.1/24]}\neal: [--log-level, 'lib.eal:8']";
        let config = read(text).unwrap();
        let driver = UplinkDriver::Dpdk { device: "0000:3b:00.0".into() };
        assert_eq!((driver.field(), driver.device()), ("uplink.dpdk.device", "0000:3b:00.0"));
        assert_eq!(config.uplink.as_ref().map(|uplink| &uplink.driver), Some(&driver));
        assert_eq!(config.eal, ["--log-level", "lib.eal:8"]);
        let dpdk =
            |rest: &str| format!("uplink: {{dpdk: {{device: net_null0}}, addresses: [192.0.2.1/24]{rest}}}");
        assert!(read(&dpdk("")).is_ok());
        refused("uplink: {dpdk: {device: net_null0}}", &["uplink.addresses: is missing", "192.0.2.1/24"]);
        refused("uplink: {dpdk: {}, addresses: [192.0.2.1/24]}", &["uplink.dpdk.device: is missing"]);
        refused(&dpdk(", kernel: {ifname: u0}"), &["uplink.kernel: a second driver"]);
        for device in ["''", "',a=b'", "'net null'", "\"net_null0\\0\""] {
            let text = format!("uplink: {{dpdk: {{device: {device}}}, addresses: [192.0.2.1/24]}}");
            refused(&text, &["uplink.dpdk.device", "no device of DPDK"]);
        }
        for argument in ["--proc-type=secondary", "--vdev=net_null1", "''", "\"a\\n\""] {
            refused(&format!("{}\neal: [{argument}]", dpdk("")), &["eal[0]"]);
        }
        let many = vec!["-x"; EAL_MAX + 1].join(", ");
        refused(&format!("{}\neal: [{many}]", dpdk("")), &["eal: has 65 arguments"]);
    }

    #[test]
    fn a_gateway_is_held_against_addresses_once_they_are_known() {
        let own: IpNet = "192.0.2.1/24".parse().unwrap();
        assert_eq!(unreachable_gateway("192.0.2.9".parse().unwrap(), slice::from_ref(&own)), None);
        assert!(unreachable_gateway("2001:db8::1".parse().unwrap(), slice::from_ref(&own)).is_some());
        assert_eq!(unreachable_gateway("fe80::1".parse().unwrap(), slice::from_ref(&own)), None);
        let alone: IpNet = "198.51.100.1/32".parse().unwrap();
        assert_eq!(unreachable_gateway("192.0.2.9".parse().unwrap(), slice::from_ref(&alone)), None);
        for address in ["192.0.2.0/31", "192.0.2.1/32", "2001:db8::/127", "2001:db8::5/128"] {
            assert!(parse_tunnel_address(address).is_ok(), "{address}");
        }
    }
}
