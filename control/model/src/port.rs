//! Port: one virtual NIC.

use crate::features::parse_feature;
use crate::fields::{Fields, Parsed, Reader, Refusal};
use crate::mac::{MacAddr, derived, parse_unicast};
use crate::name::{Name, ObjectName};
use crate::net::{distinct_addresses, parse_allowed};
use crate::resource::Uid;
use crate::security_group::{GROUPS_PER_PORT_MAX, default_reference};
use crate::suggest::nearest;
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use std::fmt;
use std::net::IpAddr;

/// Folder of the sockets whose path is not written.
pub const SOCKET_FOLDER: &str = "/run/towpath/ports";
/// Longest path of a Unix socket in bytes: `sun_path` holds 108 with the closing zero (unix(7)).
pub const SOCKET_PATH_MAX: usize = 107;
/// Most queue pairs of a port.
pub const QUEUE_PAIRS_MAX: u16 = 128;

/// What a Port says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// The subnet it is on.
    pub subnet: ObjectName,
    /// The host that realizes it; absent: nobody yet.
    pub host: Option<Name>,
    /// The host it moves to, which realizes it too.
    pub migrating_to: Option<Name>,
    /// Its MAC address, as written or derived from the uid.
    pub mac: MacAddr,
    /// Its addresses, at least one, each in the subnet.
    pub ips: Vec<IpAddr>,
    /// How a guest attaches; absent: not at all yet.
    pub attachment: Option<Attachment>,
    /// Its groups as written, at least one unless it is unfiltered; `default` is its VPC's.
    pub security_groups: Vec<ObjectName>,
    /// No security groups, no sessions; anti-spoofing stays.
    pub unfiltered: bool,
    /// What it may send from beyond its own addresses.
    pub allowed_addresses: Vec<AllowedAddress>,
    /// Administratively down.
    pub shutdown: bool,
}

/// An address or network a port may send from beyond its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AllowedAddress {
    /// The network; a single address is a network of one, and may be announced as a virtual IP.
    pub ip: IpNet,
    /// The MAC address that goes with it; absent: the port's own.
    pub mac: Option<MacAddr>,
}

impl AllowedAddress {
    /// The address, when it is a single one.
    pub fn single(&self) -> Option<IpAddr> {
        (self.ip.prefix_len() == self.ip.max_prefix_len()).then(|| self.ip.addr())
    }
}

/// How a guest attaches to a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attachment {
    /// A vhost-user socket.
    VhostUser(VhostUserAttachment),
}

/// A vhost-user socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VhostUserAttachment {
    /// Absolute path, at most 107 bytes.
    pub socket: String,
    /// towpathd's end of the socket.
    pub role: Role,
    /// User and group that get the socket; absent: those of towpathd.
    pub owner: Option<SocketOwner>,
    /// Permission bits of the socket.
    pub mode: u32,
    /// Most queue pairs the guest may ask for, 1 to 128.
    pub max_queue_pairs: u16,
    /// Features not offered to the guest, in words: of [`FEATURES`](crate::features::FEATURES).
    pub without_features: Vec<&'static str>,
}

/// towpathd's end of a vhost-user socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// towpathd listens, the VMM connects.
    Server,
    /// The VMM listens, towpathd connects and connects again.
    Client,
}

impl Role {
    /// The name, as manifests write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// User and group of a socket, by name or number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOwner {
    /// The user.
    pub user: String,
    /// The group.
    pub group: String,
}

impl fmt::Display for SocketOwner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.user, self.group)
    }
}

/// A Port as read: addresses may still be missing.
#[derive(Debug, Clone)]
pub(crate) struct PortDraft {
    pub(crate) spec: PortSpec,
    pub(crate) ips_written: bool,
}

impl PortDraft {
    /// Reads `spec`; `uid` gives the MAC address and the socket when they are not written.
    pub(crate) fn read(
        mut fields: Fields<'_>,
        reader: &mut Reader,
        project: &Name,
        uid: &Uid,
    ) -> Option<Self> {
        let remedy = "name the Subnet this port is on";
        let subnet = fields.required(reader, "subnet", remedy, |text| ObjectName::parse(text, project));
        let host = fields.parse(reader, "host", Name::parse);
        let migrating_to = fields.parse(reader, "migratingTo", |text| {
            let target = Name::parse(text)?;
            match &host {
                None => Err(Refusal::new(
                    "a port that is on no host cannot move",
                    "write host, or remove migratingTo",
                )),
                Some(host) if *host == target => Err(Refusal::new(
                    "is the host the port is on already",
                    "name another host, or remove migratingTo",
                )),
                Some(_) => Ok(target),
            }
        });
        let mac = fields.parse(reader, "mac", parse_unicast);
        let ips = distinct_addresses(&mut fields, reader, "ips");
        let ips_written =
            fields.node("ips").is_some_and(|node| node.value != crate::yaml::Value::Sequence(Vec::new()));
        let attachment = read_attachment(&mut fields, reader, uid);
        fields.unsupported(
            reader,
            "qos",
            "refers to a QosPolicy, a kind that is not supported by this version",
            "remove the field: this version limits no rates",
        );
        let unfiltered = fields.boolean(reader, "unfiltered").unwrap_or(false);
        let security_groups = read_groups(&mut fields, reader, project, unfiltered);
        let allowed_addresses = read_allowed(&mut fields, reader);
        let shutdown = fields.boolean(reader, "shutdown").unwrap_or(false);
        fields.finish(reader);
        let spec = PortSpec {
            subnet: subnet?,
            host,
            migrating_to,
            mac: mac.unwrap_or_else(|| derived(uid.as_bytes())),
            ips: ips.unwrap_or_default(),
            attachment,
            security_groups,
            unfiltered,
            allowed_addresses,
            shutdown,
        };
        Some(Self { spec, ips_written })
    }
}

impl PortSpec {
    /// Whether `host` realizes this port, as the one that forwards or as the one it moves to.
    pub fn is_on(&self, host: &Name) -> bool {
        self.host.as_ref() == Some(host) || self.migrating_to.as_ref() == Some(host)
    }

    /// As a manifest writes it.
    pub(crate) fn to_json(&self, project: &Name) -> Value {
        let mut spec = Map::new();
        spec.insert("subnet".into(), json!(self.subnet.relative_to(project)));
        if let Some(host) = &self.host {
            spec.insert("host".into(), json!(host.as_str()));
        }
        if let Some(target) = &self.migrating_to {
            spec.insert("migratingTo".into(), json!(target.as_str()));
        }
        spec.insert("mac".into(), json!(self.mac.to_string()));
        spec.insert("ips".into(), json!(self.ips));
        if let Some(attachment) = &self.attachment {
            spec.insert("attachment".into(), attachment.to_json());
        }
        if !self.security_groups.is_empty() {
            let groups = self.security_groups.iter().map(|group| json!(group.relative_to(project)));
            spec.insert("securityGroups".into(), groups.collect());
        }
        spec.insert("unfiltered".into(), json!(self.unfiltered));
        if !self.allowed_addresses.is_empty() {
            spec.insert(
                "allowedAddresses".into(),
                self.allowed_addresses.iter().map(AllowedAddress::to_json).collect(),
            );
        }
        spec.insert("shutdown".into(), json!(self.shutdown));
        Value::Object(spec)
    }
}

impl AllowedAddress {
    fn to_json(&self) -> Value {
        let ip = self.single().map_or_else(|| self.ip.to_string(), |address| address.to_string());
        match self.mac {
            Some(mac) => json!({ "ip": ip, "mac": mac.to_string() }),
            None => json!({ "ip": ip }),
        }
    }
}

impl Attachment {
    fn to_json(&self) -> Value {
        let Self::VhostUser(vhost) = self;
        let mut body = Map::new();
        body.insert("socket".into(), json!(vhost.socket));
        body.insert("role".into(), json!(vhost.role.as_str()));
        if let Some(owner) = &vhost.owner {
            body.insert("owner".into(), json!(owner.to_string()));
        }
        body.insert("mode".into(), json!(format!("{:04o}", vhost.mode)));
        body.insert("maxQueuePairs".into(), json!(vhost.max_queue_pairs));
        if !vhost.without_features.is_empty() {
            body.insert("withoutFeatures".into(), json!(vhost.without_features));
        }
        json!({ "vhostUser": body })
    }
}

/// Reads `securityGroups`: the group `default` when it is absent.
fn read_groups(
    fields: &mut Fields<'_>,
    reader: &mut Reader,
    project: &Name,
    unfiltered: bool,
) -> Vec<ObjectName> {
    let path = fields.path("securityGroups");
    let Some(node) = fields.node("securityGroups") else {
        return if unfiltered { Vec::new() } else { vec![default_reference(project)] };
    };
    let mut groups = Vec::new();
    fields.list(reader, "securityGroups", |text| {
        let group = ObjectName::parse(text, project)?;
        match groups.contains(&group) {
            true => Err(Refusal::new("is written twice", "remove one of them")),
            false => {
                groups.push(group);
                Ok(())
            }
        }
    });
    let refusal = match (&node.value, unfiltered) {
        (_, true) => {
            Refusal::new("an unfiltered port has no groups", "remove securityGroups, or unfiltered: true")
        }
        (crate::yaml::Value::Sequence(items), false) if items.is_empty() => Refusal::new(
            "names no group",
            "remove the field for the Vpc's group `default`, or write unfiltered: true",
        ),
        (crate::yaml::Value::Sequence(items), false) if items.len() > GROUPS_PER_PORT_MAX => Refusal::new(
            format!("names {} groups, more than {GROUPS_PER_PORT_MAX}", items.len()),
            "put their rules into fewer groups",
        ),
        _ => return groups,
    };
    reader.refuse(node.position, &path, None, refusal);
    groups
}

fn read_allowed(fields: &mut Fields<'_>, reader: &mut Reader) -> Vec<AllowedAddress> {
    let mut allowed = Vec::new();
    for (path, node) in fields.items(reader, "allowedAddresses").unwrap_or_default() {
        let Some(mut item) = Fields::open(node, &path, reader) else { continue };
        let ip = item.required(reader, "ip", "write the address or network", parse_allowed);
        let mac = item.parse(reader, "mac", parse_unicast);
        item.finish(reader);
        let Some(ip) = ip else { continue };
        let entry = AllowedAddress { ip, mac };
        if allowed.contains(&entry) {
            let refusal = Refusal::new("is written twice", "remove one of them");
            reader.refuse(node.position, &path, Some(&ip.to_string()), refusal);
        } else {
            allowed.push(entry);
        }
    }
    allowed
}

/// Ways to attach that later versions bring.
const LATER_ATTACHMENTS: [&str; 5] = ["veth", "host", "vduse", "vdpa", "sim"];

fn read_attachment(fields: &mut Fields<'_>, reader: &mut Reader, uid: &Uid) -> Option<Attachment> {
    let mut ways = fields.mapping(reader, "attachment")?;
    let names: Vec<&str> = ways.names().collect();
    let position = ways.position;
    match names.as_slice() {
        [] => {
            let refusal = Refusal::new(
                "says no way to attach",
                "write attachment: {vhostUser: {}}, or remove attachment",
            );
            reader.refuse(position, &fields.path("attachment"), None, refusal);
        }
        [_] => {}
        several => {
            let message =
                format!("{} ways to attach: {}", several.len(), crate::problem::quoted(&several.join(", ")));
            let refusal = Refusal::new(message, "keep one of them");
            reader.refuse(position, &fields.path("attachment"), None, refusal);
        }
    }
    for entry in ways.entries() {
        let (name, position) = (entry.key.as_str(), entry.position);
        let path = ways.path(&crate::problem::quoted(name));
        if LATER_ATTACHMENTS.contains(&name) {
            let message = format!("attachment {name} is not supported by this version");
            reader.refuse(position, &path, None, Refusal::new(message, "use vhostUser"));
        } else if name != "vhostUser" {
            let near =
                nearest(name, LATER_ATTACHMENTS.into_iter().chain(["vhostUser"])).unwrap_or("vhostUser");
            let remedy = format!("nearest known way to attach: {near}; this version has vhostUser");
            reader.refuse(position, &path, None, Refusal::new("unknown way to attach", remedy));
        }
    }
    let node = ways.written("vhostUser")?;
    let vhost = Fields::open(node, &ways.path("vhostUser"), reader)?;
    Some(Attachment::VhostUser(read_vhost_user(vhost, reader, uid)))
}

fn read_vhost_user(mut fields: Fields<'_>, reader: &mut Reader, uid: &Uid) -> VhostUserAttachment {
    let socket = fields.parse(reader, "socket", parse_socket_path);
    let role = fields.parse(reader, "role", |text| match text {
        "server" => Ok(Role::Server),
        "client" => Ok(Role::Client),
        _ => Err(Refusal::new("unknown role", "write server (towpathd listens) or client (the VMM listens)")),
    });
    let owner = fields.parse(reader, "owner", parse_socket_owner);
    let mode = fields.parse(reader, "mode", parse_socket_mode);
    let pairs = fields.integer(reader, "maxQueuePairs", 1..=u64::from(QUEUE_PAIRS_MAX));
    let mut withheld = Vec::new();
    fields.list(reader, "withoutFeatures", |text| {
        let feature = parse_feature(text)?;
        if withheld.contains(&feature) {
            return Err(Refusal::new("is written twice", "remove one of them"));
        }
        withheld.push(feature);
        Ok(())
    });
    if let (Some(Role::Client), true) = (role, owner.is_some() || mode.is_some()) {
        let refusal = Refusal::new(
            "owner and mode are for a socket that towpathd makes, and with role client the VMM makes it",
            "remove owner and mode, or write role: server",
        );
        reader.refuse(fields.position, &fields.path("role"), Some("client"), refusal);
    }
    fields.finish(reader);
    VhostUserAttachment {
        socket: socket.unwrap_or_else(|| default_socket(uid)),
        role: role.unwrap_or(Role::Server),
        owner,
        mode: mode.unwrap_or(0o660),
        max_queue_pairs: pairs.and_then(|pairs| u16::try_from(pairs).ok()).unwrap_or(QUEUE_PAIRS_MAX),
        without_features: withheld,
    }
}

/// The socket of a port whose path is not written.
pub fn default_socket(uid: &Uid) -> String {
    format!("{SOCKET_FOLDER}/{}.sock", uid.short())
}

/// Reads the path of a socket: absolute, in its shortest form, at most 107 bytes.
///
/// # Errors
/// Says which rule the path breaks.
pub fn parse_socket_path(text: &str) -> Parsed<String> {
    let remedy =
        format!("write an absolute path of at most {SOCKET_PATH_MAX} bytes, as {SOCKET_FOLDER}/vm1.sock");
    let refuse = |message: &str| Err(Refusal::new(message, remedy.clone()));
    let Some(inner) = text.strip_prefix('/') else { return refuse("not an absolute path") };
    if text.len() > SOCKET_PATH_MAX {
        return refuse(&format!("a path of {} bytes does not fit a socket's address", text.len()));
    }
    if text.chars().any(char::is_control) {
        return refuse("has control characters");
    }
    if inner.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return refuse("has empty parts, '.' or '..'");
    }
    Ok(text.to_owned())
}

fn parse_socket_owner(text: &str) -> Parsed<SocketOwner> {
    let name = |part: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        (1..=32).contains(&part.len()) && part.chars().all(plain) && !part.starts_with('-')
    };
    match text.split_once(':') {
        Some((user, group)) if name(user) && name(group) => {
            Ok(SocketOwner { user: user.to_owned(), group: group.to_owned() })
        }
        _ => Err(Refusal::new("not an owner", "write user:group, as \"libvirt-qemu:kvm\"")),
    }
}

fn parse_socket_mode(text: &str) -> Parsed<u32> {
    let digits = text.strip_prefix("0o").or_else(|| text.strip_prefix('0')).unwrap_or_default();
    let octal = digits.len() == 3 && digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if octal => Ok(mode),
        _ => Err(Refusal::new(
            "not a file mode",
            "write four octal digits from \"0000\" to \"0777\", as \"0660\"",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a13_socket_paths() {
        assert!(parse_socket_path("/run/towpath/ports/vm1.sock").is_ok());
        let exact = format!("/{}", "a".repeat(SOCKET_PATH_MAX - 1));
        assert!(parse_socket_path(&exact).is_ok());
        let long = format!("{exact}a");
        for bad in [
            "",
            "/",
            "vm1.sock",
            "/run/../etc/x",
            "/run//x",
            "/run/./x",
            "/run/x/",
            "/run/a\0b",
            "/run/a\nb",
            &long,
        ] {
            assert!(parse_socket_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn features_are_known_by_their_words() {
        assert_eq!(parse_feature("Packed Ring"), Ok("packed ring"));
        let unknown = parse_feature("packed rings").unwrap_err();
        assert!(unknown.remedy.contains("\"packed ring\""), "{unknown:?}");
        assert!(parse_feature("protocol features").is_err());
    }

    #[test]
    fn socket_owners_and_modes() {
        assert_eq!(parse_socket_owner("libvirt-qemu:kvm").unwrap().to_string(), "libvirt-qemu:kvm");
        for bad in ["kvm", ":kvm", "a:", "a:b:c", "-a:b", "a b:c", "../x:y"] {
            assert!(parse_socket_owner(bad).is_err(), "{bad}");
        }
        assert_eq!((parse_socket_mode("0660"), parse_socket_mode("0o600")), (Ok(0o660), Ok(0o600)));
        for bad in ["660", "0888", "04755", "432", "", "rw"] {
            assert!(parse_socket_mode(bad).is_err(), "{bad}");
        }
    }
}
