//! Vpc: an address space of its own.

use crate::fields::{Fields, Parsed, Reader, Refusal};
use crate::name::Name;
use crate::net::parse_cidr;
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use std::fmt;

/// Smallest MTU of a VPC with IPv4 only, in bytes (RFC 791).
pub const MTU_MIN_V4: u16 = 576;
/// Smallest MTU of a VPC with IPv6, in bytes (RFC 8200, 5).
pub const MTU_MIN_V6: u16 = 1280;
/// Greatest MTU in bytes, when no uplink limits it: with its Ethernet header a frame still fits 16 bits.
pub const MTU_MAX: u16 = 65521;
/// MTU of a VPC none of whose hosts has an uplink, in bytes: Ethernet's.
pub const MTU_WITHOUT_UPLINK: u16 = 1500;

/// A VXLAN network identifier, 1 to 16777215 (RFC 7348).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

impl Vni {
    /// The greatest.
    pub const MAX: u32 = 0x00ff_ffff;

    /// Checks the range.
    pub const fn new(value: u32) -> Option<Self> {
        match value {
            1..=Self::MAX => Some(Self(value)),
            _ => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

/// What a Vpc says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VpcSpec {
    /// Its number on the wire, unique.
    pub vni: Vni,
    /// Its networks, at least one; none overlaps another.
    pub cidrs: Vec<IpNet>,
    /// MTU in bytes as written; [`ResourceSet::mtu`](crate::ResourceSet::mtu) says which one holds.
    pub mtu: Option<u16>,
    /// Hosts that hold the whole VPC for look-ups.
    pub directory: Vec<Name>,
    /// Whether TCP's maximum segment size is lowered to what the MTU leaves, for paths on which too-big messages get lost.
    pub clamp_mss: bool,
}

/// A Vpc as read: the number may still be missing.
#[derive(Debug, Clone)]
pub(crate) struct VpcDraft {
    pub(crate) vni: Option<Vni>,
    pub(crate) cidrs: Vec<IpNet>,
    pub(crate) mtu: Option<u16>,
    pub(crate) directory: Vec<Name>,
    pub(crate) clamp_mss: bool,
}

impl VpcDraft {
    /// Reads `spec`.
    pub(crate) fn read(mut fields: Fields<'_>, reader: &mut Reader) -> Self {
        let vni = fields.integer(reader, "vni", 1..=u64::from(Vni::MAX));
        let vni = vni.and_then(|vni| u32::try_from(vni).ok()).and_then(Vni::new);
        let cidrs = networks(&mut fields, reader, "write the VPC's networks, as cidrs: [10.0.0.0/16]");
        let smallest = match cidrs.iter().any(|cidr| matches!(cidr, IpNet::V6(_))) {
            true => MTU_MIN_V6,
            false => MTU_MIN_V4,
        };
        let mtu = fields.integer(reader, "mtu", u64::from(smallest)..=u64::from(MTU_MAX));
        let mut hosts = Vec::new();
        let directory = fields.list(reader, "directory", |text| {
            let host = Name::parse(text)?;
            match hosts.contains(&host) {
                true => Err(Refusal::new("is written twice", "remove one of them")),
                false => {
                    hosts.push(host.clone());
                    Ok(host)
                }
            }
        });
        let directory = directory.unwrap_or_default();
        let clamp_mss = fields.boolean(reader, "clampMss").unwrap_or(false);
        fields.finish(reader);
        Self { vni, cidrs, mtu: mtu.and_then(|mtu| u16::try_from(mtu).ok()), directory, clamp_mss }
    }
}

impl VpcSpec {
    /// As a manifest writes it.
    pub(crate) fn to_json(&self) -> Value {
        let mut spec = Map::new();
        spec.insert("vni".into(), json!(self.vni.get()));
        spec.insert("cidrs".into(), json!(self.cidrs));
        if let Some(mtu) = self.mtu {
            spec.insert("mtu".into(), json!(mtu));
        }
        if !self.directory.is_empty() {
            spec.insert("directory".into(), self.directory.iter().map(Name::as_str).collect());
        }
        if self.clamp_mss {
            spec.insert("clampMss".into(), json!(true));
        }
        Value::Object(spec)
    }
}

/// Reads `cidrs`: at least one network, none overlapping another.
pub(crate) fn networks(fields: &mut Fields<'_>, reader: &mut Reader, remedy: &str) -> Vec<IpNet> {
    let Some(items) = fields.items(reader, "cidrs") else {
        if fields.node("cidrs").is_none() {
            fields.missing(reader, "cidrs", remedy);
        }
        return Vec::new();
    };
    if items.is_empty() {
        fields.missing(reader, "cidrs", remedy);
    }
    let mut cidrs: Vec<IpNet> = Vec::new();
    for (path, node) in items {
        let distinct = |text: &str| -> Parsed<IpNet> {
            let net = parse_cidr(text)?;
            match cidrs.iter().find(|other| crate::net::overlap(other, &net)) {
                Some(other) => {
                    Err(Refusal::new(format!("overlaps {other} of the same list"), "remove one of them"))
                }
                None => Ok(net),
            }
        };
        if let Some(net) = reader.parse(node, &path, distinct) {
            cidrs.push(net);
        }
    }
    cidrs
}
