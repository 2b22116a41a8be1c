//! Host: a machine that runs towpathd.

use crate::fields::{Fields, Reader};
use crate::net::distinct_addresses;
use serde_json::{Value, json};
use std::net::IpAddr;

/// What a Host says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostSpec {
    /// Addresses of its tunnel end points, IPv4 and/or IPv6, in the order preferred. Empty without an uplink.
    pub vteps: Vec<IpAddr>,
    /// MTU of its uplink in bytes; absent: [`UPLINK_MTU_DEFAULT`], if it has an uplink.
    pub mtu: Option<u16>,
}

/// MTU in bytes of an uplink of which nobody says it: Ethernet's.
pub const UPLINK_MTU_DEFAULT: u16 = 1500;
/// The smallest uplink MTU in bytes: a full packet of IPv4 and what VXLAN over IPv6 adds.
const UPLINK_MTU_MIN: u64 = 576 + 70;

impl HostSpec {
    /// Reads `spec`.
    pub(crate) fn read(mut fields: Fields<'_>, reader: &mut Reader) -> Self {
        let vteps = distinct_addresses(&mut fields, reader, "vteps").unwrap_or_default();
        let mtu = fields.integer(reader, "mtu", UPLINK_MTU_MIN..=u64::from(u16::MAX));
        fields.finish(reader);
        Self { vteps, mtu: mtu.and_then(|mtu| u16::try_from(mtu).ok()) }
    }

    /// As a manifest writes it.
    pub(crate) fn to_json(&self) -> Value {
        match self.mtu {
            Some(mtu) => json!({ "vteps": self.vteps, "mtu": mtu }),
            None => json!({ "vteps": self.vteps }),
        }
    }

    /// This, with what is not written in it as in `other`.
    pub(crate) fn or(self, other: &Self) -> Self {
        let vteps = if self.vteps.is_empty() { other.vteps.clone() } else { self.vteps };
        Self { vteps, mtu: self.mtu.or(other.mtu) }
    }

    /// MTU of its uplink in bytes; `None` without an uplink.
    pub fn uplink_mtu(&self) -> Option<u16> {
        (!self.vteps.is_empty()).then(|| self.mtu.unwrap_or(UPLINK_MTU_DEFAULT))
    }
}
