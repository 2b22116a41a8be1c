//! Host: a machine that runs towpathd.

use crate::fields::{Fields, Reader};
use crate::net::parse_address;
use serde_json::{Value, json};
use std::net::IpAddr;

/// What a Host says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostSpec {
    /// Addresses of its tunnel end points, IPv4 and/or IPv6, in the order preferred. Empty without an uplink.
    pub vteps: Vec<IpAddr>,
}

impl HostSpec {
    /// Reads `spec`.
    pub(crate) fn read(mut fields: Fields<'_>, reader: &mut Reader) -> Self {
        let vteps = fields.list(reader, "vteps", parse_address).unwrap_or_default();
        fields.finish(reader);
        Self { vteps }
    }

    /// As a manifest writes it.
    pub(crate) fn to_json(&self) -> Value {
        json!({ "vteps": self.vteps })
    }
}
