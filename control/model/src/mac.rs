//! Ethernet addresses of ports.

use crate::fields::{Parsed, Refusal};
use std::fmt;

/// A unicast or group Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// From its six octets, in the order on the wire.
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// The six octets, in the order on the wire.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Whether it addresses a group (broadcast included): the lowest bit of the first octet (IEEE 802, 8.2.2).
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// The locally administered unicast address that stands for 16 bytes of a uid.
    pub fn from_uid(uid: &[u8; 16]) -> Self {
        let [a, b, c, d, e, f, ..] = *uid;
        Self([(a & 0xfc) | 0x02, b, c, d, e, f])
    }

    /// Reads `02:00:00:00:01:0a`, either case.
    ///
    /// # Errors
    /// Anything but six pairs of hexadecimal digits between colons.
    pub fn parse(text: &str) -> Parsed<Self> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part =
                parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()));
            *octet = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or_else(Self::malformed)?;
        }
        match parts.next() {
            None => Ok(Self(octets)),
            Some(_) => Err(Self::malformed()),
        }
    }

    /// Reads an address that a port may have: unicast and not zero.
    ///
    /// # Errors
    /// Malformed, group or zero.
    pub fn parse_unicast(text: &str) -> Parsed<Self> {
        let mac = Self::parse(text)?;
        if mac.is_group() {
            return Err(Refusal::new(
                "a group address cannot belong to a port",
                "clear the lowest bit of its first octet",
            ));
        }
        if mac.0 == [0; 6] {
            return Err(Refusal::new(
                "the zero address belongs to nobody",
                "write another, or remove it to get one",
            ));
        }
        Ok(mac)
    }

    fn malformed() -> Refusal {
        Refusal::new("not a MAC address", "write six pairs of hexadecimal digits, as \"02:00:00:00:01:0a\"")
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let mac = MacAddr::parse("02:00:00:00:01:0A").unwrap();
        assert_eq!(mac.octets(), [2, 0, 0, 0, 1, 10]);
        assert_eq!(mac.to_string(), "02:00:00:00:01:0a");
    }

    #[test]
    fn other_forms_are_refused() {
        for bad in [
            "",
            "02:00:00:00:01",
            "02:00:00:00:01:0a:0b",
            "2:0:0:0:1:a",
            "02-00-00-00-01-0a",
            "0g:00:00:00:00:00",
            "+2:00:00:00:00:00",
        ] {
            assert!(MacAddr::parse(bad).is_err(), "{bad}");
        }
        for bad in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"] {
            assert!(MacAddr::parse_unicast(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn derived_addresses_are_local_unicast() {
        for first in 0..=255u8 {
            let mac = MacAddr::from_uid(&[first; 16]);
            assert_eq!(mac.octets()[0] & 3, 2);
        }
    }
}
