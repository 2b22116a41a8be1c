//! Ethernet II (IEEE 802.3 clause 3, RFC 894).

use crate::MacAddr;
use crate::bytes::put;

/// Bytes of the header.
pub const HEADER_LENGTH: usize = 14;
/// The smallest EtherType; below, the field is a length (IEEE 802.3 clause 3.2.6).
pub const MIN_ETHER_TYPE: u16 = 0x0600;

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of reverse ARP (RFC 903).
pub const RARP: u16 = 0x8035;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;

/// The Ethernet header of a frame.
#[derive(Clone, Copy, Debug)]
pub struct View<'a>(&'a [u8; HEADER_LENGTH]);

impl<'a> View<'a> {
    /// The header of this frame; `None` for fewer than 14 bytes, which no parsed head has.
    #[inline]
    #[must_use]
    pub fn new(head: &'a [u8]) -> Option<Self> {
        head.first_chunk().map(View)
    }

    /// Who it is for.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> MacAddr {
        let [a, b, c, d, e, f, ..] = *self.0;
        MacAddr([a, b, c, d, e, f])
    }

    /// Who says to have sent it.
    #[inline]
    #[must_use]
    pub fn source(&self) -> MacAddr {
        let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = *self.0;
        MacAddr([a, b, c, d, e, f])
    }

    /// The first type field, that of a VLAN tag if there is one.
    #[inline]
    #[must_use]
    pub fn ether_type(&self) -> u16 {
        u16::from_be_bytes([self.0[12], self.0[13]])
    }
}

/// Writes both addresses, leaving the type as it is. `None`, and nothing useful written, for fewer than 14 bytes.
#[inline]
pub fn set_addresses(head: &mut [u8], destination: MacAddr, source: MacAddr) -> Option<()> {
    put(head, 0, destination.0)?;
    put(head, 6, source.0)
}

/// Writes a whole untagged header.
pub(crate) fn emit(head: &mut [u8], destination: MacAddr, source: MacAddr, ether_type: u16) -> Option<()> {
    set_addresses(head, destination, source)?;
    put(head, 12, ether_type.to_be_bytes())
}
