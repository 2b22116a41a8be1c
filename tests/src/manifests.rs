//! Manifests for a daemon under test: one subnet with ports, or whatever a test composes. JSON is YAML, so they are written as JSON documents.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};

use crate::Result;

/// The subnet's prefixes; its first addresses are its gateways.
pub const CIDRS: [&str; 2] = ["10.0.1.0/24", "fd00:10:0:1::/64"];

/// A port of a subnet.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its subnet.
    pub subnet: String,
    /// Where it is.
    pub host: String,
    /// Where it moves to.
    pub migrating_to: Option<String>,
    /// The address its guest must use.
    pub mac: String,
    /// The addresses its guest may use.
    pub ips: Vec<IpAddr>,
    /// Its vhost-user socket.
    pub socket: PathBuf,
    /// The daemon's end: `server` or `client`.
    pub role: &'static str,
    /// What else its guest may send from.
    pub allowed: Vec<IpAddr>,
    /// Features its guest is not offered, in words.
    pub without: Vec<&'static str>,
    /// Whether no rules hold for it: where a test is about something else.
    pub unfiltered: bool,
    /// Its security groups; none: the VPC's own, unless it is unfiltered.
    pub groups: Vec<String>,
}

impl Port {
    /// Port `number` (0 to 199) of a test, unfiltered: MAC, IPv4 and IPv6 address follow from it, the socket is in `folder`.
    #[must_use]
    pub fn number(number: u8, folder: &Path) -> Self {
        Self {
            name: format!("vm{number}-eth0"),
            subnet: "web".to_owned(),
            host: "node-a".to_owned(),
            migrating_to: None,
            mac: format!("02:00:00:00:01:{number:02x}"),
            ips: vec![
                [10, 0, 1, 10 + number].into(),
                [0xfd00, 0x10, 0, 1, 0, 0, 0, 0x10 + u16::from(number)].into(),
            ],
            socket: folder.join(format!("vm{number}.sock")),
            role: "server",
            allowed: Vec::new(),
            without: Vec::new(),
            unfiltered: true,
            groups: Vec::new(),
        }
    }

    /// Its resource.
    #[must_use]
    pub fn resource(&self) -> Value {
        let allowed: Vec<Value> = self.allowed.iter().map(|ip| json!({"ip": ip})).collect();
        let mut spec = json!({
            "subnet": self.subnet,
            "host": self.host,
            "mac": self.mac,
            "ips": self.ips,
            "allowedAddresses": allowed,
            "unfiltered": self.unfiltered,
            "attachment": {"vhostUser": {
                "socket": self.socket,
                "role": self.role,
                "withoutFeatures": self.without,
            }},
        });
        if let (Some(target), Some(fields)) = (&self.migrating_to, spec.as_object_mut()) {
            fields.insert("migratingTo".to_owned(), json!(target));
        }
        if let (false, Some(fields)) = (self.groups.is_empty(), spec.as_object_mut()) {
            fields.insert("securityGroups".to_owned(), json!(self.groups));
        }
        resource("Port", &self.name, &spec)
    }
}

/// A resource of any kind.
#[must_use]
pub fn resource(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "towpath.dev/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// The VPC and the subnet the ports are in.
#[must_use]
pub fn network() -> Vec<Value> {
    vec![
        resource("Vpc", "blue", &json!({"vni": 100, "cidrs": ["10.0.0.0/16", "fd00:10::/48"]})),
        resource("Subnet", "web", &json!({"vpc": "blue", "cidrs": CIDRS})),
    ]
}

/// Write resources as one file of a manifests folder.
///
/// # Errors
/// The file cannot be written.
pub fn write(file: &Path, resources: &[Value]) -> Result<()> {
    let documents: Vec<String> = resources.iter().map(ToString::to_string).collect();
    let text = documents.join("\n---\n") + "\n";
    fs::write(file, text).with_context(|| format!("write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tests_tell_the_daemon_is_valid() {
        let folder = tempfile::tempdir().unwrap();
        let mut resources = network();
        resources.push(resource("Host", "node-a", &json!({})));
        resources.extend((0..3).map(|number| Port::number(number, folder.path()).resource()));
        write(&folder.path().join("all.yaml"), &resources).unwrap();
        let set = model::load_path(folder.path(), &model::Environment::default());
        // And the group that the VPC has by itself.
        let expected = Ok(resources.len() + 1);
        assert_eq!(set.map(|set| set.len()).map_err(|problems| format!("{problems:?}")), expected);
    }
}
