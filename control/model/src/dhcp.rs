//! What a subnet's ports are told by DHCP and router advertisements.

use crate::fields::{Fields, Parsed, Reader, Refusal};
use crate::name::Name;
use crate::net::parse_address;
use crate::quantity::TimeSpan;
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// How long an address is lent when nothing is written: an hour.
const LEASE_DEFAULT: TimeSpan = TimeSpan(3_600_000);
/// The shortest lease: a minute.
const LEASE_MIN: TimeSpan = TimeSpan(60_000);
/// The longest lease: a year.
const LEASE_MAX: TimeSpan = TimeSpan(365 * 86_400_000);
/// Most name servers: what fits a DHCP option (RFC 2132, 3.8) is 63, what a resolver asks is 3.
const DNS_MAX: usize = 8;

/// The services of a Subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpSpec {
    /// Whether DHCP and router solicitations are answered.
    pub enabled: bool,
    /// Name servers, in the order preferred, of families that the subnet has.
    pub dns: Vec<IpAddr>,
    /// The domain ports are in.
    pub domain: Option<Name>,
    /// How long an address is lent: whole seconds, a minute to a year.
    pub lease_time: TimeSpan,
    /// The service behind 169.254.169.254 and fd00:ec2::254; absent: nobody answers there.
    pub metadata: Option<MetadataService>,
}

/// Where a metadata service listens: `http://ADDRESS:PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetadataService(pub SocketAddr);

impl MetadataService {
    /// Reads a URL without path. The host is an address: nothing is looked up on the control thread.
    ///
    /// # Errors
    /// Says what it is instead.
    pub fn parse(text: &str) -> Parsed<Self> {
        let remedy = "write the address and port it listens at, as \"http://127.0.0.1:8775\"";
        let refuse = |message: &str| Err(Refusal::new(message, remedy));
        let Some(rest) = text.strip_prefix("http://") else {
            return refuse(match text.starts_with("https://") {
                true => "metadata over TLS is not supported by this version",
                false => "not a metadata service's URL",
            });
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@']) {
            return refuse("has more than an address and a port: guests name the path themselves");
        }
        let with_port = authority.parse::<SocketAddr>();
        let alone =
            authority.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(authority);
        match with_port.or_else(|_| alone.parse::<IpAddr>().map(|address| SocketAddr::new(address, 80))) {
            Ok(address) if address.port() != 0 && !address.ip().is_unspecified() => Ok(Self(address)),
            Ok(_) => refuse("nobody can listen there"),
            Err(_) => refuse("names no IP address"),
        }
    }
}

impl fmt::Display for MetadataService {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "http://{}", self.0)
    }
}

impl DhcpSpec {
    /// Reads `dhcp` of a subnet with these networks; `None` when it is not written.
    pub(crate) fn read(fields: &mut Fields<'_>, reader: &mut Reader, cidrs: &[IpNet]) -> Option<Self> {
        fields.node("dhcp")?;
        let mut dhcp = fields.mapping(reader, "dhcp")?;
        let enabled = dhcp.boolean(reader, "enabled").unwrap_or(true);
        let family = |address: &IpAddr, cidr: &IpNet| address.is_ipv4() == matches!(cidr, IpNet::V4(_));
        let mut seen = Vec::new();
        let dns = dhcp.list(reader, "dns", |text| {
            let address = parse_address(text)?;
            let name = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            if !cidrs.is_empty() && !cidrs.iter().any(|cidr| family(&address, cidr)) {
                let message = format!("the subnet has no {name} network, so nobody on it could ask");
                return Err(Refusal::new(message, format!("remove it, or add an {name} network to cidrs")));
            }
            if seen.contains(&address) {
                return Err(Refusal::new("is written twice", "remove one of them"));
            }
            if seen.len() == DNS_MAX {
                return Err(Refusal::new(
                    format!("more than {DNS_MAX} name servers"),
                    "resolvers ask three; keep those",
                ));
            }
            seen.push(address);
            Ok(address)
        });
        let domain = dhcp.parse(reader, "domain", Name::parse);
        let lease_time = dhcp.parse(reader, "leaseTime", parse_lease).unwrap_or(LEASE_DEFAULT);
        let metadata = dhcp.parse(reader, "metadata", MetadataService::parse);
        dhcp.finish(reader);
        Some(Self { enabled, dns: dns.unwrap_or_default(), domain, lease_time, metadata })
    }

    /// As a manifest writes it.
    pub(crate) fn to_json(&self) -> Value {
        let mut dhcp = Map::new();
        dhcp.insert("enabled".into(), json!(self.enabled));
        if !self.dns.is_empty() {
            dhcp.insert("dns".into(), json!(self.dns));
        }
        if let Some(domain) = &self.domain {
            dhcp.insert("domain".into(), json!(domain.as_str()));
        }
        dhcp.insert("leaseTime".into(), json!(self.lease_time.to_string()));
        if let Some(metadata) = &self.metadata {
            dhcp.insert("metadata".into(), json!(metadata.to_string()));
        }
        Value::Object(dhcp)
    }
}

fn parse_lease(text: &str) -> Parsed<TimeSpan> {
    let span = TimeSpan::parse(text)?;
    if !(LEASE_MIN..=LEASE_MAX).contains(&span) || span.0 % 1000 != 0 {
        return Err(Refusal::new(
            "not a lease's time",
            format!("write whole seconds from {LEASE_MIN} to {LEASE_MAX}, as 1h"),
        ));
    }
    Ok(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_services() {
        let read = |text| MetadataService::parse(text).map(|service| service.to_string());
        assert_eq!(read("http://127.0.0.1:8775"), Ok("http://127.0.0.1:8775".into()));
        assert_eq!(read("http://127.0.0.1/"), Ok("http://127.0.0.1:80".into()));
        assert_eq!(read("http://[::1]:8775"), Ok("http://[::1]:8775".into()));
        assert_eq!(read("http://[::1]"), Ok("http://[::1]:80".into()));
        for bad in [
            "",
            "127.0.0.1:8775",
            "https://127.0.0.1",
            "http://localhost:8775",
            "http://127.0.0.1:8775/latest",
            "http://user@127.0.0.1",
            "http://127.0.0.1:0",
            "http://0.0.0.0:1",
            "http://127.0.0.1:99999",
            "http://",
            "ftp://127.0.0.1",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn leases() {
        assert_eq!(parse_lease("1h"), Ok(LEASE_DEFAULT));
        for bad in ["59s", "366d", "60001ms", "0s", "x"] {
            assert!(parse_lease(bad).is_err(), "{bad}");
        }
    }
}
