//! Wire formats: checked views, emitters, checksums, segmentation of headers. One file per protocol.
//!
//! Everything here works on the private head of a packet (at most [`HEAD_LENGTH`] bytes, copied out of the guest's
//! memory once), never on guest memory, and is total: no input makes it panic, allocate or read past the slice.
//! [`parse`](parse()) classifies a head into [`Headers`] or names the reason for its refusal; views
//! ([`ethernet::View`], [`ipv4::View`], ...) borrow fixed-size arrays from the head, so that their accessors need no
//! further check; emitters write a whole answer into a head and return its length.
//!
//! Lengths are believed only downwards: a header says how much of what encloses it is used, never more, and nothing
//! behind the length that the network layer declares (padding) is ever read as a transport header.

pub mod announce;
pub mod arp;
mod bytes;
pub mod checksum;
mod error;
pub mod ethernet;
mod headers;
pub mod icmp;
pub mod icmp_error;
pub mod ipv4;
pub mod ipv6;
mod mac;
pub mod nat;
pub mod ndp;
mod offload;
mod parse;
mod plain;
pub mod quoted;
pub mod route;
pub mod sctp;
pub mod segment;
pub mod tcp;
pub mod udp;
mod upper;
pub mod vlan;
pub mod vrrp;
pub mod vxlan;

pub use error::ParseError;
pub use headers::{Fragment, Headers, L3, L4};
pub use mac::{MacAddr, MacAddrError};
pub use offload::{OffloadError, validate_offload};
pub use parse::{parse, parse_into, parse_plain, parse_plain_network};

/// Bytes of a packet that are copied into private memory and may influence a verdict.
pub const HEAD_LENGTH: usize = buf::HEAD_BYTES;
