//! `towpathd` on an underlay: with another of its kind, with tunnel end points that nobody here wrote, with clients of its services, and with
//! an underlay that is hostile.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod clients;
mod counterparts;
mod hostile;
mod outside;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use towpath_tests::manifests::{CIDRS, Port, resource};

/// Enough on a machine that does other things too.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// VPC `blue`'s.
pub(crate) const VNI: u32 = 100;
/// VPC `green`'s, which has blue's addresses.
pub(crate) const GREEN_VNI: u32 = 200;
/// Gateways of subnet `web`.
pub(crate) const GATEWAYS: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0x10, 0, 1, 0, 0, 0, 1)),
];

/// VPC `blue` with subnet `web`, and VPC `green` with the same addresses; `blue` are more fields of its specification.
pub(crate) fn network(blue: &Value) -> Vec<Value> {
    let mut spec = json!({"vni": VNI, "cidrs": ["10.0.0.0/16", "fd00:10::/48"]});
    spec.as_object_mut().unwrap().extend(blue.as_object().unwrap().clone());
    vec![
        resource("Vpc", "blue", &spec),
        subnet("web", "blue", CIDRS),
        resource("Vpc", "green", &json!({"vni": GREEN_VNI, "cidrs": ["10.0.0.0/16", "fd00:10::/48"]})),
        subnet("green-web", "green", CIDRS),
    ]
}

/// A subnet whose DHCP says everything it can.
pub(crate) fn subnet(name: &str, vpc: &str, cidrs: [&str; 2]) -> Value {
    let dhcp = json!({
        "enabled": true,
        "dns": ["10.0.1.2", "fd00:10:0:1::2"],
        "domain": "blue.internal",
        "leaseTime": "1h",
        "metadata": "http://127.0.0.1:8775",
    });
    resource("Subnet", name, &json!({"vpc": vpc, "cidrs": cidrs, "dhcp": dhcp}))
}

/// Port `number` of subnet `web` on a host.
pub(crate) fn port(number: u8, host: &str) -> Port {
    Port { host: host.to_owned(), ..Port::number(number, Path::new("/its/host/places/it")) }
}

/// The same port in `green`.
pub(crate) fn in_green(port: &Port, host: &str) -> Port {
    Port {
        name: format!("green-{}", port.name),
        subnet: "green-web".to_owned(),
        host: host.to_owned(),
        ..port.clone()
    }
}
