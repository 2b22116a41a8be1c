//! One resource: metadata and spec.

use crate::endpoint::EndpointSpec;
use crate::external::{ExternalNetworkSpec, FloatingIpSpec, NatGatewaySpec};
use crate::fields::{Fields, Parsed, Reader, Refusal};
use crate::host::HostSpec;
use crate::kind::Kind;
use crate::load_balancer::LoadBalancerSpec;
use crate::mac::derived;
use crate::name::{Key, Name, ObjectName};
use crate::owner::Owner;
use crate::peering::PeeringSpec;
use crate::port::{PortDraft, PortSpec};
use crate::route_table::RouteTableSpec;
use crate::security_group::{self, SecurityGroupSpec};
use crate::subnet::SubnetSpec;
use crate::vpc::{VpcDraft, VpcSpec};
use crate::yaml::{Node, Value as Tree};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt;
use uuid::Uuid;

/// The version of manifests this version reads. A document that names none is of this version.
pub const API_VERSION: &str = "towpath.dev/v1";

/// Longest label key or value, in bytes.
const LABEL_TEXT_MAX: usize = 253;

/// Identifies a resource for as long as it exists; written as 32 hexadecimal digits.
///
/// Without a store it is the version 5 UUID (RFC 9562, 5.5) of kind, project and name, so that it is the same at every
/// start. The first 12 digits name default sockets and interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(Uuid);

/// Namespace of our name-based UUIDs: the version 5 UUID of the DNS name towpath.dev.
const NAMESPACE: Uuid = Uuid::from_u128(0x6ba7b810_9dad_11d1_80b4_00c04fd430c8);

impl Uid {
    /// The uid of a resource that nobody gave one.
    pub fn derived(key: &Key) -> Self {
        let namespace = Uuid::new_v5(&NAMESPACE, b"towpath.dev");
        let project = key.project.as_ref().map_or("", Name::as_str);
        let text = format!("{}/{project}/{}", key.kind, key.name);
        Self(Uuid::new_v5(&namespace, text.as_bytes()))
    }

    /// Reads 32 hexadecimal digits, with or without the hyphens of a UUID.
    ///
    /// # Errors
    /// Anything else, and the nil UUID.
    pub fn parse(text: &str) -> Parsed<Self> {
        let shape = matches!(text.len(), 32 | 36) && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        match Uuid::try_parse(text) {
            Ok(uuid) if shape && !uuid.is_nil() => Ok(Self(uuid)),
            _ => Err(Refusal::new(
                "not a uid",
                "write 32 hexadecimal digits, or remove it: it is made from the name",
            )),
        }
    }

    /// Its first 12 digits.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
    }

    /// Its 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(formatter)
    }
}

/// What every resource has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Kind, project and name.
    pub key: Key,
    /// Identity.
    pub uid: Uid,
    /// Words of the user's own.
    pub labels: BTreeMap<String, String>,
    /// Projects that may refer to it as `project/name`; `*` is all.
    pub shared_with: Vec<String>,
    /// Who may change it.
    pub owner: Owner,
}

impl Metadata {
    /// Of what towpathd writes itself.
    pub(crate) fn of_daemon(key: Key) -> Self {
        let uid = Uid::derived(&key);
        Self { key, uid, labels: BTreeMap::new(), shared_with: Vec::new(), owner: Owner::Daemon }
    }

    /// The name without kind and project.
    pub fn name(&self) -> &Name {
        &self.key.name
    }

    /// Project and name, for kinds with projects.
    pub fn object(&self) -> ObjectName {
        let project = self.key.project.clone().unwrap_or_else(Name::default_project);
        ObjectName { project, name: self.key.name.clone() }
    }

    /// Whether resources of `project` may refer to it.
    pub fn is_visible_to(&self, project: &Name) -> bool {
        let shared = |with: &String| with == "*" || with == project.as_str();
        self.key.project.as_ref().is_none_or(|own| own == project) || self.shared_with.iter().any(shared)
    }
}

/// What a resource says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// A machine.
    Host(HostSpec),
    /// An address space.
    Vpc(VpcSpec),
    /// Two address spaces that may reach each other.
    Peering(PeeringSpec),
    /// Routes.
    RouteTable(RouteTableSpec),
    /// Rules.
    SecurityGroup(SecurityGroupSpec),
    /// A link.
    Subnet(SubnetSpec),
    /// A virtual NIC.
    Port(PortSpec),
    /// An address that is not ours.
    Endpoint(EndpointSpec),
    /// An address that stands for many.
    LoadBalancer(LoadBalancerSpec),
    /// A network outside of all VPCs.
    ExternalNetwork(ExternalNetworkSpec),
    /// Addresses outside that ports share.
    NatGateway(NatGatewaySpec),
    /// An address outside that is one port's.
    FloatingIp(FloatingIpSpec),
}

/// One resource, all defaults that concern it alone filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Name, uid, labels, owner.
    pub meta: Metadata,
    /// What it says.
    pub spec: Spec,
}

impl Resource {
    /// The Host that towpathd writes for itself.
    pub fn own_host(name: &Name, spec: HostSpec) -> Self {
        let meta = Metadata::of_daemon(Key::host(name));
        Self { meta, spec: Spec::Host(spec) }
    }

    /// As a manifest writes it, with `apiVersion`, `kind`, `metadata` and `spec`, defaults filled in.
    pub fn to_json(&self) -> Value {
        let key = &self.meta.key;
        let mut metadata = Map::new();
        if let Some(project) = &key.project {
            metadata.insert("project".into(), json!(project.as_str()));
        }
        metadata.insert("name".into(), json!(key.name.as_str()));
        metadata.insert("uid".into(), json!(self.meta.uid.to_string()));
        if !self.meta.labels.is_empty() {
            metadata.insert("labels".into(), json!(self.meta.labels));
        }
        if !self.meta.shared_with.is_empty() {
            metadata.insert("sharedWith".into(), json!(self.meta.shared_with));
        }
        json!({
            "apiVersion": API_VERSION,
            "kind": key.kind.as_str(),
            "metadata": metadata,
            "spec": self.spec.to_json(&self.meta.object().project),
        })
    }
}

impl Spec {
    /// As a manifest of `project` writes it.
    pub fn to_json(&self, project: &Name) -> Value {
        match self {
            Self::Host(spec) => spec.to_json(),
            Self::Vpc(spec) => spec.to_json(),
            Self::Peering(spec) => spec.to_json(project),
            Self::RouteTable(spec) => spec.to_json(project),
            Self::SecurityGroup(spec) => spec.to_json(project),
            Self::Subnet(spec) => spec.to_json(project),
            Self::Port(spec) => spec.to_json(project),
            Self::Endpoint(spec) => spec.to_json(project),
            Self::LoadBalancer(spec) => spec.to_json(project),
            Self::ExternalNetwork(spec) => spec.to_json(),
            Self::NatGateway(spec) => spec.to_json(project),
            Self::FloatingIp(spec) => spec.to_json(project),
        }
    }
}

/// A resource as read from one document: what a store would assign may be missing.
#[derive(Debug, Clone)]
pub(crate) enum DraftSpec {
    Host(HostSpec),
    Vpc(VpcDraft),
    Peering(PeeringSpec),
    RouteTable(RouteTableSpec),
    SecurityGroup(SecurityGroupSpec),
    Subnet(SubnetSpec),
    Port(PortDraft),
    Endpoint(EndpointSpec),
    LoadBalancer(LoadBalancerSpec),
    ExternalNetwork(ExternalNetworkSpec),
    NatGateway(NatGatewaySpec),
    FloatingIp(FloatingIpSpec),
}

/// One document, as far as it could be read.
#[derive(Debug)]
pub(crate) struct Document {
    /// Kind, project and name, when they could be read: what refers to it does not dangle even if the rest is wrong.
    pub(crate) key: Option<Key>,
    /// The whole, when nothing in it is wrong.
    pub(crate) draft: Option<(Metadata, DraftSpec)>,
    /// Problems and places of fields.
    pub(crate) reader: Reader,
}

/// Reads one document.
pub(crate) fn read_document(node: &Node, file: Option<&str>, owner: Owner) -> Document {
    let mut reader = Reader::new(file, node.position);
    let (key, draft) = match Fields::open(node, "", &mut reader) {
        Some(fields) => read_resource(fields, &mut reader, owner),
        None => (None, None),
    };
    let draft = draft.filter(|_| reader.problems.is_empty());
    Document { key, draft, reader }
}

fn read_resource(
    mut fields: Fields<'_>,
    reader: &mut Reader,
    owner: Owner,
) -> (Option<Key>, Option<(Metadata, DraftSpec)>) {
    fields.parse(reader, "apiVersion", |text| match text {
        API_VERSION => Ok(()),
        _ => Err(Refusal::new("unknown apiVersion", format!("write apiVersion: {API_VERSION}"))),
    });
    let kinds = format!("write one of {}", Kind::ALL.map(Kind::as_str).join(", "));
    let kind = fields.required(reader, "kind", &kinds, Kind::parse);
    // Of a kind that is not known nothing more can be said: its fields are not ours to judge.
    let Some(kind) = kind else { return (None, None) };
    let mut metadata = match fields.mapping(reader, "metadata") {
        Some(metadata) => read_metadata(metadata, reader, kind, owner),
        None => {
            if fields.node("metadata").is_none() {
                fields.missing(reader, "metadata", "write metadata: {name: ...}");
            }
            None
        }
    };
    fields.unsupported(reader, "status", "is written by towpathd", "remove it");
    let spec = fields.written("spec");
    // A Host may have nothing to say; every other kind has something required.
    let empty = Node { position: fields.position, value: Tree::Null };
    let spec = match (spec, kind) {
        (Some(node), _) => Some(node),
        (None, Kind::Host) => Some(&empty),
        (None, _) => {
            fields.missing(reader, "spec", "write spec with the fields of this kind");
            None
        }
    };
    let spec = spec.and_then(|node| Fields::open(node, "spec", reader));
    let draft = spec.and_then(|spec| read_spec(spec, reader, kind, metadata.as_ref()));
    fields.finish(reader);
    if let (Some(metadata), Some(DraftSpec::SecurityGroup(group))) = (&mut metadata, &draft) {
        name_default_group(metadata, group, reader);
    }
    let key = metadata.as_ref().map(|metadata| metadata.key.clone());
    (key, metadata.zip(draft))
}

/// A VPC's group `default` has the VPC in its name, so that each VPC of a project has one.
fn name_default_group(metadata: &mut Metadata, group: &SecurityGroupSpec, reader: &mut Reader) {
    let written = metadata.object();
    let own = security_group::resolve(&written, &written.project, &group.vpc);
    if own == written || own.project != written.project {
        return;
    }
    let key = Key::of(Kind::SecurityGroup, &own);
    if metadata.uid == Uid::derived(&metadata.key) {
        metadata.uid = Uid::derived(&key);
    }
    metadata.key = key;
    reader.resource = Some(metadata.key.to_string());
}

/// Reads the spec; without metadata a stand-in for the uid lets the problems of the fields be found all the same.
fn read_spec(
    fields: Fields<'_>,
    reader: &mut Reader,
    kind: Kind,
    metadata: Option<&Metadata>,
) -> Option<DraftSpec> {
    let uid = metadata.map_or(Uid(Uuid::nil()), |metadata| metadata.uid);
    let project = metadata.map_or_else(Name::default_project, |metadata| metadata.object().project);
    Some(match kind {
        Kind::Host => DraftSpec::Host(HostSpec::read(fields, reader)),
        Kind::Vpc => DraftSpec::Vpc(VpcDraft::read(fields, reader)),
        Kind::Peering => DraftSpec::Peering(PeeringSpec::read(fields, reader, &project)?),
        Kind::RouteTable => DraftSpec::RouteTable(RouteTableSpec::read(fields, reader, &project)?),
        Kind::SecurityGroup => DraftSpec::SecurityGroup(SecurityGroupSpec::read(fields, reader, &project)?),
        Kind::Subnet => {
            let gateway_mac = derived(uid.as_bytes());
            DraftSpec::Subnet(SubnetSpec::read(fields, reader, &project, gateway_mac)?)
        }
        Kind::Port => DraftSpec::Port(PortDraft::read(fields, reader, &project, &uid)?),
        Kind::ExternalNetwork => DraftSpec::ExternalNetwork(ExternalNetworkSpec::read(fields, reader)?),
        Kind::NatGateway => DraftSpec::NatGateway(NatGatewaySpec::read(fields, reader, &project)?),
        Kind::FloatingIp => DraftSpec::FloatingIp(FloatingIpSpec::read(fields, reader, &project)?),
        Kind::Endpoint => DraftSpec::Endpoint(EndpointSpec::read(fields, reader, &project)?),
        Kind::LoadBalancer => DraftSpec::LoadBalancer(LoadBalancerSpec::read(fields, reader, &project)?),
    })
}

fn read_metadata(mut fields: Fields<'_>, reader: &mut Reader, kind: Kind, owner: Owner) -> Option<Metadata> {
    let name = fields.required(reader, "name", "write a name, unique for its kind and project", Name::parse);
    let project = match kind.is_global() {
        true => {
            let message = format!("a {kind} belongs to no project");
            fields.unsupported(reader, "project", &message, "remove the field");
            None
        }
        false => {
            let written = fields.node("project").is_some();
            match fields.parse(reader, "project", Name::parse_project) {
                None if written => return None,
                project => Some(project.unwrap_or_else(Name::default_project)),
            }
        }
    };
    let key = name.map(|name| Key { kind, project, name });
    reader.resource = key.as_ref().map(ToString::to_string);
    let labels = read_labels(&mut fields, reader);
    let shared_with = fields.list(reader, "sharedWith", |text| match text {
        "*" => Ok(text.to_owned()),
        _ => Name::parse_project(text).map(|name| name.to_string()),
    });
    let uid = fields.parse(reader, "uid", Uid::parse);
    fields.finish(reader);
    let key = key?;
    let uid = uid.unwrap_or_else(|| Uid::derived(&key));
    Some(Metadata { key, uid, labels, shared_with: shared_with.unwrap_or_default(), owner })
}

fn read_labels(fields: &mut Fields<'_>, reader: &mut Reader) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let Some(words) = fields.mapping(reader, "labels") else { return labels };
    for entry in words.entries() {
        let path = words.path(&crate::problem::quoted(&entry.key));
        let plain = |text: &str| text.len() <= LABEL_TEXT_MAX && text.bytes().all(|b| b.is_ascii_graphic());
        let check = |text: &str| match plain(text) {
            true => Ok(text.to_owned()),
            false => Err(Refusal::new(
                "a label is printable ASCII without spaces, at most 253 characters",
                "use letters, digits, '-', '_', '.' and '/'",
            )),
        };
        if let Err(refusal) = check(&entry.key) {
            reader.refuse(entry.position, &path, None, refusal);
        } else if entry.value.value == Tree::Null {
            labels.insert(entry.key.clone(), String::new());
        } else if let Some(value) = reader.parse(&entry.value, &path, check) {
            labels.insert(entry.key.clone(), value);
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::{Budget, parse};

    fn read(text: &str) -> Document {
        let (documents, faults) = parse(text, &Budget::default());
        assert_eq!(faults, []);
        read_document(&documents[0], Some("f.yaml"), Owner::Manifests)
    }

    fn problems(text: &str) -> Vec<String> {
        read(text).reader.problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_port_with_every_field() {
        let document = read(
            "apiVersion: towpath.dev/v1\nkind: Port\nmetadata: {project: p, name: vm1-eth0, labels: {app: web}, sharedWith: [q]}\n\
             spec:\n  subnet: web\n  host: node-a\n  migratingTo: node-b\n  mac: 02:00:00:00:01:0a\n  ips: [10.0.1.10, 'fd00::10']\n  \
             attachment: {vhostUser: {socket: /run/x.sock, role: server, owner: 'a:b', mode: 0640, maxQueuePairs: 4,\n    \
             withoutFeatures: [packed ring, MTU]}}\n  \
             unfiltered: true\n  allowedAddresses: [{ip: 10.0.1.100}, {ip: 10.0.8.0/22, mac: '02:00:00:00:00:09'}]\n  shutdown: true\n",
        );
        assert_eq!(document.reader.problems, []);
        let Some((meta, DraftSpec::Port(PortDraft { spec, .. }))) = document.draft else { panic!() };
        assert_eq!(meta.key.to_string(), "Port p/vm1-eth0");
        let Some(crate::Attachment::VhostUser(vhost)) = &spec.attachment else { panic!() };
        assert_eq!((vhost.mode, vhost.max_queue_pairs, vhost.socket.as_str()), (0o640, 4, "/run/x.sock"));
        assert_eq!(vhost.without_features, ["packed ring", "MTU"]);
        assert_eq!(spec.allowed_addresses[0].single(), "10.0.1.100".parse().ok());
        assert_eq!(spec.allowed_addresses[1].single(), None);
        assert!(spec.unfiltered && spec.shutdown);
        // What is written out reads back as the same.
        let resource = Resource { meta, spec: Spec::Port(spec) };
        let again = read(&resource.to_json().to_string());
        let Some((meta, DraftSpec::Port(draft))) = again.draft else { panic!("{:?}", again.reader.problems) };
        assert_eq!(Resource { meta, spec: Spec::Port(draft.spec) }, resource);
    }

    #[test]
    fn uid_gives_mac_and_socket_their_defaults() {
        let text =
            "kind: Port\nmetadata: {name: a}\nspec: {subnet: s, ips: [10.0.0.2], attachment: {vhostUser: }}";
        let document = read(text);
        let Some((meta, DraftSpec::Port(draft))) = document.draft else {
            panic!("{:?}", document.reader.problems)
        };
        assert_eq!(meta.uid, Uid::derived(&meta.key));
        assert_eq!(meta.uid.to_string().len(), 32);
        let Some(crate::Attachment::VhostUser(vhost)) = draft.spec.attachment else { panic!() };
        assert_eq!(vhost.socket, format!("/run/towpath/ports/{}.sock", &meta.uid.to_string()[..12]));
        assert_eq!(draft.spec.mac, derived(meta.uid.as_bytes()));
        assert_ne!(
            Uid::derived(&meta.key),
            Uid::derived(&Key { name: Name::parse("b").unwrap(), ..meta.key.clone() })
        );
    }

    #[test]
    fn everything_wrong_in_a_document_is_reported() {
        let found = problems(
            "apiVersion: v1\nkind: Port\nmetadata: {name: ../x, lables: {}}\nspec:\n  host: A\n  mac: 01:00:00:00:00:00\n  ips: [x, 10.0.0.2, 10.0.0.2]\n  \
             securityGroups: [web]\n  unfiltered: true\n  qos: gold\n  attachment: {veth: {}, vhostuser: {}}\n  shutdown: yes\n",
        );
        let expected = [
            "f.yaml:1:13: apiVersion \"v1\"",
            "f.yaml:3:18: metadata.name \"../x\"",
            "f.yaml:3:24: metadata.lables: unknown field; remedy: nearest known field: labels",
            "f.yaml:5:3: spec.subnet: is missing",
            "spec.host \"A\"",
            "spec.mac \"01:00:00:00:00:00\"",
            "spec.ips[0] \"x\"",
            "spec.ips[2] \"10.0.0.2\": is written twice",
            "spec.attachment: 2 ways to attach",
            "attachment veth is not supported by this version",
            "nearest known way to attach: vhostUser",
            "spec.securityGroups: an unfiltered port has no groups; remedy: remove securityGroups, or",
            "spec.qos \"gold\": refers to a QosPolicy",
            "spec.shutdown \"yes\": is neither true nor false",
        ];
        for part in expected {
            assert!(found.iter().any(|problem| problem.contains(part)), "{part}\n{found:#?}");
        }
        assert_eq!(found.len(), expected.len(), "{found:#?}");
    }

    #[test]
    fn kinds_of_later_versions_are_told_apart_from_typos() {
        let later = problems("kind: QosPolicy\nmetadata: {name: web}\nspec: {vpc: blue, rules: []}\n");
        assert_eq!(later.len(), 1);
        assert!(
            later[0].starts_with(
                "f.yaml:1:7: kind \"QosPolicy\": kind QosPolicy is not supported by this version"
            )
        );
        assert!(problems("kind: Prot\n")[0].contains("unknown kind; remedy: nearest known kind: Port"));
        assert!(problems("[1, 2]")[0].contains("is a list, not a mapping"));
    }

    #[test]
    fn subnets_have_gateways_and_services() {
        let subnet =
            |rest: &str| read(&format!("kind: Subnet\nmetadata: {{name: s}}\nspec: {{vpc: v, {rest}}}\n"));
        let document = subnet(
            "cidrs: [10.0.1.0/24, 'fd00::/64'], gateways: ['fd00::fe'], routeTable: q/r, multicast: true, \
             dhcp: {dns: [10.0.1.2, 'fd00::2'], domain: blue.internal, leaseTime: 2h, metadata: 'http://127.0.0.1:8775'}",
        );
        let Some((meta, DraftSpec::Subnet(spec))) = document.draft else {
            panic!("{:?}", document.reader.problems)
        };
        let dhcp = spec.dhcp.clone().unwrap();
        assert_eq!((dhcp.enabled, dhcp.lease_time.to_string(), dhcp.dns.len()), (true, "2h".into(), 2));
        let resource = Resource { meta, spec: Spec::Subnet(spec.clone()) };
        let again = read(&resource.to_json().to_string());
        let Some((meta, DraftSpec::Subnet(again))) = again.draft else {
            panic!("{:?}", again.reader.problems)
        };
        assert_eq!(Resource { meta, spec: Spec::Subnet(again) }, resource);
        assert_eq!(
            spec.gateways.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.0.1.1", "fd00::fe"]
        );
        let refused = |rest: &str, part: &str| {
            let found: Vec<_> = subnet(rest).reader.problems.iter().map(ToString::to_string).collect();
            assert!(found.len() == 1 && found[0].contains(part), "{rest}: {found:#?}");
        };
        refused("cidrs: []", "spec.cidrs: is missing");
        refused("cidrs: [10.0.0.0/31]", "no room for a gateway and a port");
        refused(
            "cidrs: [10.0.0.0/24, 10.0.0.128/25]",
            "spec.cidrs[1] \"10.0.0.128/25\": overlaps 10.0.0.0/24",
        );
        refused("cidrs: [10.0.0.0/24], gateways: [10.1.0.1]", "in none of the subnet's networks");
        refused("cidrs: [10.0.0.0/24], gateways: [10.0.0.255]", "broadcast");
        refused("cidrs: [10.0.0.0/24], gateways: [10.0.0.1, 10.0.0.2]", "already has the gateway");
        let dhcp = |rest: &str, part| refused(&format!("cidrs: [10.0.0.0/24], dhcp: {{{rest}}}"), part);
        dhcp("dns: ['fd00::2']", "spec.dhcp.dns[0] \"fd00::2\": the subnet has no IPv6 network");
        dhcp("dns: [10.0.0.2, 10.0.0.2]", "spec.dhcp.dns[1] \"10.0.0.2\": is written twice");
        dhcp("leaseTime: 5s", "write whole seconds from 1m to 365d");
        dhcp("domain: -x", "spec.dhcp.domain");
        dhcp(
            "metadata: 'http://metadata:80'",
            "spec.dhcp.metadata \"http://metadata:80\": names no IP address",
        );
        dhcp("leasetime: 1h", "spec.dhcp.leasetime: unknown field; remedy: nearest known field: leaseTime");
    }

    #[test]
    fn routes_peerings_and_endpoints() {
        let text = "kind: RouteTable\nmetadata: {name: r}\nspec: {vpc: v, routes: [{destination: 0.0.0.0/0, via: {port: fw}}, \
                    {destination: 'fd01::/16', via: {peering: q/p}}, {destination: 203.0.113.0/24, via: {blackhole: true}}]}\n";
        let Some((meta, DraftSpec::RouteTable(spec))) = read(text).draft else {
            panic!("{:?}", problems(text))
        };
        assert_eq!(spec.routes.len(), 3);
        let resource = Resource { meta, spec: Spec::RouteTable(spec) };
        let Some((meta, DraftSpec::RouteTable(spec))) = read(&resource.to_json().to_string()).draft else {
            panic!()
        };
        assert_eq!(Resource { meta, spec: Spec::RouteTable(spec) }, resource);
        let one = |text: &str, part: &str| {
            let found = problems(text);
            assert!(found.len() == 1 && found[0].contains(part), "{text}: {found:#?}");
        };
        let route = |rest: &str, part: &str| {
            let start = "kind: RouteTable\nmetadata: {name: r}\nspec: {vpc: v, routes: [{destination: 1.0.0.0/8, via: {port: p}}, ";
            one(&format!("{start}{{{rest}}}]}}\n"), part);
        };
        route(
            "destination: 1.0.0.0/8, via: {port: q}",
            "spec.routes[1].destination \"1.0.0.0/8\": has a route in this table already",
        );
        route("destination: 1.0.0.1/8, via: {port: q}", "write 1.0.0.0/8");
        route("destination: 224.0.0.0/8, via: {port: q}", "inside 224.0.0.0/4, multicast");
        route("via: {port: q}", "spec.routes[1].destination: is missing");
        route("destination: 2.0.0.0/8", "spec.routes[1].via: is missing");
        route("destination: 2.0.0.0/8, via: {}", "spec.routes[1].via: names 0 next hops");
        route("destination: 2.0.0.0/8, via: {port: q, blackhole: true}", "names 2 next hops");
        route("destination: 2.0.0.0/8, via: {blackhole: false}", "spec.routes[1].via.blackhole \"false\"");
        route("destination: 2.0.0.0/8, via: {natGateway: ../x}", "spec.routes[1].via.natGateway \"../x\"");
        route("destination: 2.0.0.0/8, via: {external: p/x}", "spec.routes[1].via.external \"p/x\"");
        route(
            "destination: 2.0.0.0/8, via: {prot: n}",
            "unknown next hop; remedy: nearest known next hop: port",
        );
        route("destination: 2.0.0.0/8, via: {port: ../x}", "spec.routes[1].via.port \"../x\"");
        let peering =
            |vpcs: &str, part| one(&format!("kind: Peering\nmetadata: {{name: p}}\nspec: {vpcs}\n"), part);
        assert_eq!(
            problems("kind: Peering\nmetadata: {name: p}\nspec: {vpcs: [a, q/a]}\n"),
            Vec::<String>::new()
        );
        peering("{}", "spec.vpcs: is missing");
        peering("{vpcs: [a]}", "spec.vpcs: names 1 Vpcs");
        peering("{vpcs: [a, b, c]}", "spec.vpcs: names 3 Vpcs");
        peering("{vpcs: [a, default/a]}", "is a Vpc and itself");
        peering("{vpcs: a}", "is a single value, not a list");
        let endpoint =
            |spec: &str| problems(&format!("kind: Endpoint\nmetadata: {{name: e}}\nspec: {{{spec}}}\n"));
        assert!(endpoint("subnet: s, ips: [10.0.0.9], mac: '02:00:00:00:00:09', vtep: 192.0.2.9").is_empty());
        let found = endpoint("subnet: s, ips: [], vtep: 127.0.0.1, host: h");
        for part in [
            "spec.ips: is missing",
            "spec.mac: is missing",
            "spec.vtep \"127.0.0.1\"",
            "spec.host: unknown field",
        ] {
            assert!(found.iter().any(|problem| problem.contains(part)), "{part}: {found:#?}");
        }
        assert_eq!(found.len(), 4, "{found:#?}");
    }

    /// What is written out of a SecurityGroup reads back as the same.
    fn group(name: &str, rules: &str) -> (Metadata, SecurityGroupSpec) {
        let text = format!(
            "kind: SecurityGroup\nmetadata: {{name: {name}}}\nspec: {{vpc: blue, rules: [{rules}]}}\n"
        );
        let document = read(&text);
        let Some((meta, DraftSpec::SecurityGroup(spec))) = document.draft else {
            panic!("{:#?}", document.reader.problems)
        };
        let resource = Resource { meta: meta.clone(), spec: Spec::SecurityGroup(spec.clone()) };
        let again = read(&resource.to_json().to_string());
        let Some((again, DraftSpec::SecurityGroup(read))) = again.draft else {
            panic!("{:#?}", again.reader.problems)
        };
        assert_eq!((again, &read), (meta.clone(), &spec));
        (meta, spec)
    }

    #[test]
    fn groups_have_rules() {
        let (_, spec) = group(
            "web",
            "{direction: ingress, action: allow, protocol: tcp, ports: '80, 443,8100,8000-8099,81,0-0', remote: {cidr: 0.0.0.0/0}}, \
             {direction: ingress, action: allow, protocol: tcp, ports: 22, remote: {group: ops}, log: true}, \
             {direction: ingress, action: allow, protocol: icmp, icmpType: 8, remote: {any: true}}, \
             {direction: ingress, action: deny, protocol: 58, icmpType: 1, icmpCode: 4, remote: {cidr: 'fd00::1'}}, \
             {direction: egress, action: deny, priority: 0, protocol: 47, remote: {cidr: 192.0.2.0/24}}, \
             {direction: egress, action: allow, priority: 65535, protocol: any, remote: {group: q/ops}}",
        );
        let shown: Vec<String> = spec
            .rules
            .iter()
            .map(|rule| {
                let protocol = rule.protocol.map_or("any".into(), |protocol| protocol.to_string());
                let ports: Vec<String> = rule.ports.iter().map(ToString::to_string).collect();
                format!(
                    "{} {} {protocol} {} {:?}",
                    rule.direction.as_str(),
                    rule.priority,
                    ports.join(","),
                    rule.icmp
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                "ingress 1000 tcp 0,80-81,443,8000-8100 None",
                "ingress 1000 tcp 22 None",
                "ingress 1000 icmp  Some((8, None))",
                "ingress 1000 icmpv6  Some((1, Some(4)))",
                "egress 0 47  None",
                "egress 65535 any  None",
            ]
        );
        assert!(spec.rules[1].log && !spec.rules[0].log);
        assert_eq!(group("none", "").1.rules, []);
    }

    /// T-02, T-03, T-06: what a rule cannot say.
    #[test]
    fn t02_t03_t06_rules_that_mean_nothing_are_refused() {
        let one = |rule: &str, part: &str| {
            let text = format!(
                "kind: SecurityGroup\nmetadata: {{name: web}}\nspec:\n  vpc: blue\n  rules:\n  - {{direction: egress, action: deny, remote: {{any: true}}}}\n  - {{{rule}}}\n"
            );
            let found = problems(&text);
            assert!(found.len() == 1 && found[0].contains(part), "{rule}: {found:#?}");
            assert!(found[0].starts_with("f.yaml:7:"), "{found:#?}");
        };
        let rest = |rule: &str, part: &str| {
            one(&format!("direction: ingress, action: allow, remote: {{any: true}}, {rule}"), part);
        };
        let remote =
            |remote: &str, part: &str| one(&format!("direction: ingress, action: allow, {remote}"), part);
        one(
            "action: allow, remote: {any: true}",
            "spec.rules[1].direction: is missing; remedy: write ingress or egress",
        );
        one("direction: in, action: allow, remote: {any: true}", "spec.rules[1].direction \"in\"");
        one("direction: ingress, remote: {any: true}", "spec.rules[1].action: is missing");
        rest(
            "priority: 65536",
            "spec.rules[1].priority \"65536\": out of range; remedy: write a whole number from 0 to 65535",
        );
        rest("priority: -1", "spec.rules[1].priority \"-1\": not a whole number");
        rest("protocol: tpc", "spec.rules[1].protocol \"tpc\": unknown protocol");
        rest(
            "protocol: 256",
            "unknown protocol; remedy: write tcp, udp, icmp, icmpv6, sctp, any, or a number from 0 to 255",
        );
        rest("ports: 80", "spec.rules[1].ports \"80\": protocol any has no ports");
        rest(
            "protocol: icmp, ports: 80",
            "protocol icmp has no ports; remedy: write protocol: tcp, udp or sctp",
        );
        rest("protocol: 47, ports: 80", "protocol 47 has no ports");
        rest("protocol: tcp, ports: 90-80", "\"90-80\" ends before it begins");
        rest("protocol: tcp, ports: '80,'", "\"\" is neither a port nor a range");
        rest("protocol: tcp, ports: 65536", "\"65536\" is neither");
        rest("protocol: tcp, ports: '80-'", "\"80-\" is neither");
        rest("protocol: tcp, ports: http", "\"http\" is neither");
        rest("protocol: tcp, ports: ''", "is neither");
        rest("protocol: tcp, icmpType: 8", "spec.rules[1].icmpType \"8\": protocol tcp has no ICMP types");
        rest(
            "protocol: icmp, icmpCode: 8",
            "spec.rules[1].icmpCode \"8\": a code means nothing without its type",
        );
        rest("protocol: icmp, icmpType: 256", "out of range");
        rest("port: 80", "spec.rules[1].port: unknown field; remedy: nearest known field: ports");
        remote("protocol: icmp", "spec.rules[1].remote: is missing; remedy: write one of {any: true}");
        remote("remote: {}", "spec.rules[1].remote: says 0 times who is meant");
        remote("remote: {any: true, group: a}", "says 2 times");
        remote("remote: {any: false}", "spec.rules[1].remote.any \"false\": means nobody");
        remote("remote: {cidr: }", "spec.rules[1].remote.cidr: is missing");
        remote(
            "remote: {cidr: 10.0.0.1/8}",
            "spec.rules[1].remote.cidr \"10.0.0.1/8\": has bits set after its prefix of 8; remedy: write 10.0.0.0/8",
        );
        remote("remote: {group: ../x}", "spec.rules[1].remote.group \"../x\"");
        remote(
            "remote: {groups: x}",
            "spec.rules[1].remote.groups: unknown field; remedy: nearest known field: group",
        );
        remote(
            "protocol: icmp, remote: {cidr: 'fd00::/8'}",
            "spec.rules[1].remote.cidr: no packet of protocol icmp has such an address",
        );
        remote("protocol: icmpv6, remote: {cidr: 10.0.0.0/8}", "write icmp");
    }

    #[test]
    fn s06_a_group_has_at_most_a_thousand_rules() {
        let rules = "{direction: egress, action: deny, remote: {any: true}},".repeat(1001);
        let text = |rules: &str| {
            format!("kind: SecurityGroup\nmetadata: {{name: web}}\nspec: {{vpc: blue, rules: [{rules}]}}\n")
        };
        let found = problems(&text(&rules));
        assert!(
            found.len() == 1 && found[0].contains("spec.rules: has 1001 rules, more than 1000"),
            "{found:#?}"
        );
        let one = rules.split_inclusive(',').take(3).collect::<String>();
        assert_eq!(problems(&text(&rules[one.len()..])), Vec::<String>::new());
        let ports: Vec<String> = (0..25).map(|port| (2 * port).to_string()).collect();
        let rule = format!(
            "{{direction: egress, action: deny, remote: {{any: true}}, protocol: tcp, ports: '{}'}}",
            ports.join(",")
        );
        assert!(problems(&text(&rule))[0].contains("names 25 ranges, more than 24"));
        let port = |groups: &str| {
            problems(&format!(
                "kind: Port\nmetadata: {{name: p}}\nspec: {{subnet: s, ips: [10.0.0.2], securityGroups: {groups}}}\n"
            ))
        };
        let groups: Vec<String> = (0..11).map(|group| format!("g{group}")).collect();
        for (groups, part) in [
            (format!("[{}]", groups.join(",")), "spec.securityGroups: names 11 groups, more than 10"),
            ("[]".into(), "spec.securityGroups: names no group"),
            ("[a, a]".into(), "spec.securityGroups[1] \"a\": is written twice"),
            ("web".into(), "is a single value, not a list"),
            ("[../a]".into(), "spec.securityGroups[0] \"../a\""),
        ] {
            let found = port(&groups);
            assert!(found.len() == 1 && found[0].contains(part), "{groups}: {found:#?}");
        }
        assert_eq!(port(&format!("[{}]", groups[..10].join(","))), Vec::<String>::new());
    }

    #[test]
    fn each_vpc_has_a_group_default_under_a_name_of_its_own() {
        let (meta, spec) = group("default", "{direction: ingress, action: allow, remote: {group: default}}");
        assert_eq!(meta.key.to_string(), "SecurityGroup default/default.blue");
        assert_eq!(meta.uid, Uid::derived(&meta.key));
        assert_eq!(group("default.blue", "").0, meta);
        let vpc = ObjectName::parse("blue", &Name::default_project()).unwrap();
        let shown = Spec::SecurityGroup(SecurityGroupSpec::default_of(&vpc)).to_json(&vpc.project);
        assert_eq!(spec.rules[0].remote, SecurityGroupSpec::default_of(&vpc).rules[1].remote);
        assert_eq!(shown["rules"][1]["remote"], json!({ "group": "default" }));
    }

    #[test]
    fn hosts_are_global() {
        assert!(problems("kind: Host\nmetadata: {name: node-a}\n").is_empty());
        assert!(
            problems("kind: Host\nmetadata: {name: a, project: p}\nspec: {}\n")[0]
                .contains("belongs to no project")
        );
    }
}
