//! MAC addresses (EUI-48).

use std::fmt;
use std::str::FromStr;

/// A MAC address, in the order it has on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

/// A text that is not a MAC address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a MAC address: write six two-digit hexadecimal numbers joined by colons, such as 02:00:00:00:01:0a"
)]
pub struct MacAddrError {
    /// What was read instead.
    pub text: String,
}

impl MacAddr {
    /// Everybody on the link.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);
    /// The absent address; nobody holds it.
    pub const ZERO: MacAddr = MacAddr([0; 6]);

    /// The address as a number below 2^48 whose hexadecimal digits read like the address. A good table key.
    #[inline]
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// The address with this number; the upper 16 bits are ignored.
    #[inline]
    #[must_use]
    pub const fn from_u64(number: u64) -> MacAddr {
        let [_, _, a, b, c, d, e, f] = number.to_be_bytes();
        MacAddr([a, b, c, d, e, f])
    }

    /// The group bit: multicast or broadcast.
    #[inline]
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// All ones.
    #[inline]
    #[must_use]
    pub const fn is_broadcast(self) -> bool {
        self.to_u64() == 0xffff_ffff_ffff
    }

    /// The address of one station: not a group, not all zero.
    #[inline]
    #[must_use]
    pub const fn is_unicast(self) -> bool {
        !self.is_multicast() && self.to_u64() != 0
    }

    /// The multicast MAC address that carries an IPv6 multicast address (RFC 2464 section 7).
    #[inline]
    #[must_use]
    pub const fn of_ipv6_multicast(group: std::net::Ipv6Addr) -> MacAddr {
        let octets = group.octets();
        MacAddr([0x33, 0x33, octets[12], octets[13], octets[14], octets[15]])
    }
}

impl From<[u8; 6]> for MacAddr {
    fn from(octets: [u8; 6]) -> Self {
        MacAddr(octets)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = MacAddrError;

    /// Reads `02:00:00:00:01:0a` or `02-00-00-00-01-0a`, in either case.
    fn from_str(text: &str) -> Result<Self, MacAddrError> {
        octets(text).map(MacAddr).ok_or_else(|| MacAddrError { text: text.to_owned() })
    }
}

fn octets(text: &str) -> Option<[u8; 6]> {
    let separator = if text.contains('-') { '-' } else { ':' };
    let mut octets = [0; 6];
    let mut parts = text.split(separator);
    for octet in &mut octets {
        let part = parts.next()?;
        if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *octet = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_and_number_round_trip(octets: [u8; 6]) {
            let mac = MacAddr(octets);
            prop_assert_eq!(mac.to_string().parse::<MacAddr>(), Ok(mac));
            prop_assert_eq!(mac.to_string().to_uppercase().replace(':', "-").parse::<MacAddr>(), Ok(mac));
            prop_assert_eq!(MacAddr::from_u64(mac.to_u64()), mac);
        }

        #[test]
        fn no_text_panics(text in ".{0,20}") {
            let _ = text.parse::<MacAddr>();
        }
    }

    #[test]
    fn refuses_what_is_not_an_address() {
        for text in [
            "",
            "02",
            "02:00:00:00:01",
            "02:00:00:00:01:0a:0b",
            "2:0:0:0:1:a",
            "02:00:00:00:01:0g",
            "02:00-00:00:01:0a",
            "+2:00:00:00:01:0a",
            "02:00:00:00:01:0a ",
        ] {
            let error = text.parse::<MacAddr>().unwrap_err();
            assert!(error.to_string().contains("02:00:00:00:01:0a"), "{error}");
        }
    }

    #[test]
    fn kinds() {
        assert!(MacAddr::BROADCAST.is_broadcast() && MacAddr::BROADCAST.is_multicast());
        assert!(!MacAddr::ZERO.is_unicast());
        assert!(MacAddr([2, 0, 0, 0, 0, 1]).is_unicast());
        let group = MacAddr::of_ipv6_multicast("ff02::1:ff00:10a".parse().unwrap());
        assert_eq!(group.to_string(), "33:33:ff:00:01:0a");
        assert!(group.is_multicast() && !group.is_broadcast());
    }
}
