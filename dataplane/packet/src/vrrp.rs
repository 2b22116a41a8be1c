//! VRRP advertisements, version 2 (RFC 3768) and 3 (RFC 5798, RFC 9568): who is master for which addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum::{Sum, pseudo_header_v4, pseudo_header_v6};
use crate::{Fragment, Headers, L3, L4};

/// IP protocol number.
pub const PROTOCOL: u8 = 112;
/// Bytes before the addresses.
const FIXED_LENGTH: usize = 8;
/// Bytes of authentication data that end a version 2 message.
const AUTHENTICATION_LENGTH: usize = 8;
/// Where advertisements are sent in IPv4.
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// Where advertisements are sent in IPv6.
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);

/// An advertisement that passed the checks of RFC 5798 section 7.1.
#[derive(Clone, Copy, Debug)]
pub struct Advertisement<'a> {
    /// 2 or 3.
    pub version: u8,
    /// The virtual router.
    pub virtual_router: u8,
    /// 255 owns the addresses, 0 gives them up.
    pub priority: u8,
    l3: L3,
    addresses: &'a [u8],
}

impl<'a> Advertisement<'a> {
    /// The addresses the sender is master for.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<'a> {
        // Of the two lists only the one of the packet's own family has elements.
        let (v4, v6): (&'a [u8], &'a [u8]) =
            if self.l3 == L3::Ipv6 { (&[], self.addresses) } else { (self.addresses, &[]) };
        let v4 = v4.as_chunks::<4>().0.iter().map(|octets| IpAddr::from(*octets));
        v4.chain(v6.as_chunks::<16>().0.iter().map(|octets| IpAddr::from(*octets)))
    }
}

/// Reads an advertisement; `None` if this is none, or one that a VRRP router would ignore: hop limit other than 255,
/// another destination than the group, truncated, in fragments, longer than the head, or with a wrong checksum.
#[inline]
#[must_use]
pub fn parse<'a>(head: &'a [u8], headers: &Headers) -> Option<Advertisement<'a>> {
    if headers.protocol == PROTOCOL && headers.l4 == L4::Other { parse_message(head, headers) } else { None }
}

#[inline(never)]
fn parse_message<'a>(head: &'a [u8], headers: &Headers) -> Option<Advertisement<'a>> {
    if headers.fragment != Fragment::Whole {
        return None;
    }
    let message = head.get(usize::from(headers.l4_offset)..headers.l3_end() as usize)?;
    let (fixed, rest) = message.split_first_chunk::<FIXED_LENGTH>()?;
    let (version, kind) = (fixed[0] >> 4, fixed[0] & 0x0f);
    let (address_length, hop_limit, to_group, pseudo) = match headers.l3 {
        L3::Ipv4 => {
            let ip = headers.ipv4(head)?;
            let length = u16::try_from(message.len()).ok()?;
            let pseudo = pseudo_header_v4(ip.source(), ip.destination(), PROTOCOL, length);
            (4, ip.time_to_live(), ip.destination() == GROUP_V4, pseudo)
        }
        L3::Ipv6 => {
            let ip = headers.ipv6(head)?;
            let pseudo = pseudo_header_v6(ip.source(), ip.destination(), PROTOCOL, message.len() as u32);
            (16, ip.hop_limit(), ip.destination() == GROUP_V6, pseudo)
        }
        L3::Arp | L3::Other => return None,
    };
    let known = kind == 1 && (version == 3 || (version == 2 && headers.l3 == L3::Ipv4));
    if !known || hop_limit != 255 || !to_group || !checksum_is_right(message, version, headers.l3, pseudo) {
        return None;
    }
    let addresses = rest.get(..usize::from(fixed[3]) * address_length)?;
    if version == 2 && rest.len() < addresses.len() + AUTHENTICATION_LENGTH {
        return None;
    }
    Some(Advertisement { version, virtual_router: fixed[1], priority: fixed[2], l3: headers.l3, addresses })
}

/// Version 2 sums the message alone, version 3 in IPv6 with the pseudo header; in IPv4 RFC 5798 was read both ways and
/// RFC 9568 decided for the message alone, so that both are met.
fn checksum_is_right(message: &[u8], version: u8, l3: L3, pseudo: Sum) -> bool {
    let alone = Sum::of(message);
    let with_pseudo = alone.plus(pseudo).is_right();
    match (version, l3) {
        (2, _) => alone.is_right(),
        (_, L3::Ipv6) => with_pseudo,
        _ => alone.is_right() || with_pseudo,
    }
}
