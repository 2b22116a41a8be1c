//! A hash that is the same on every host and in every version, for what hosts agree on without asking each other. Nobody gains by guessing it.

use std::net::IpAddr;

/// A hash.
pub(crate) type Hash = u64;

/// FNV-1a over the parts, each with its length, mixed as by splitmix64 so that all bits count.
pub(crate) fn hash(parts: &[&[u8]]) -> Hash {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |byte: u8| state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    for part in parts {
        (part.len() as u32).to_be_bytes().into_iter().for_each(&mut add);
        part.iter().copied().for_each(&mut add);
    }
    state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ state >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ state >> 31
}

/// An address's bytes.
pub(crate) fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_same_in_every_version() {
        assert_eq!(hash(&[b"node-a", &bytes(IpAddr::from([198, 51, 100, 10]))]), 0xe0f1_72a7_bce1_ef03);
        assert_ne!(hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]));
    }
}
