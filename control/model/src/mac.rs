//! Ethernet addresses of ports, as the fields of resources write them.

use crate::fields::{Parsed, Refusal};
pub use packet::MacAddr;

/// The locally administered unicast address that stands for the 16 bytes of a uid (IEEE 802c, 5.1).
pub fn derived(uid: &[u8; 16]) -> MacAddr {
    let [a, b, c, d, e, f, ..] = *uid;
    MacAddr([(a & 0xfc) | 0x02, b, c, d, e, f])
}

/// Reads an address that a port may have: unicast and not zero.
///
/// # Errors
/// Malformed, group or zero.
pub fn parse_unicast(text: &str) -> Parsed<MacAddr> {
    let Ok(mac) = text.parse::<MacAddr>() else {
        let remedy = "write six pairs of hexadecimal digits, as \"02:00:00:00:01:0a\"";
        return Err(Refusal::new("not a MAC address", remedy));
    };
    if mac.is_multicast() {
        let remedy = "clear the lowest bit of its first pair, or remove the field to get an address";
        return Err(Refusal::new("a group address cannot belong to a port", remedy));
    }
    if !mac.is_unicast() {
        return Err(Refusal::new(
            "the zero address belongs to nobody",
            "write another, or remove the field to get one",
        ));
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_unicast_addresses() {
        assert_eq!(parse_unicast("02:00:00:00:01:0A"), Ok(MacAddr([2, 0, 0, 0, 1, 10])));
        for bad in ["", "2:0:0:0:1:a", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"] {
            assert!(parse_unicast(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn derived_addresses_are_local_unicast() {
        for first in 0..=255u8 {
            assert_eq!(derived(&[first; 16]).0[0] & 3, 2);
        }
    }
}
