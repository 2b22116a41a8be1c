//! What a packet looks like where it enters.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Set in the attachment of packets that come from the underlay.
pub const UNDERLAY: u32 = 1 << 23;
/// Set in a key's attachment: an echo request.
const REQUEST: u32 = 1 << 22;
/// Set in a key's attachment: an echo reply.
const REPLY: u32 = 1 << 21;
/// The bits of an attachment that the caller chooses.
const CHOSEN: u32 = UNDERLAY | 0xffff;

/// The attachment of what local port number `port` sends.
#[must_use]
pub const fn attachment_of_port(port: u16) -> u32 {
    port as u32
}

/// The attachment of what comes from the underlay for VPC number `vpc`.
#[must_use]
pub const fn attachment_of_vpc(vpc: u16) -> u32 {
    UNDERLAY | vpc as u32
}

/// Attachment, protocol and ports in one word.
#[inline(always)]
const fn first_word(attachment: u32, protocol: u8, source_port: u16, destination_port: u16) -> u64 {
    (attachment as u64 & 0xff_ffff) << 40
        | (protocol as u64) << 32
        | (source_port as u64) << 16
        | destination_port as u64
}

/// The first word of the other direction.
#[inline(always)]
const fn reversed_word(word: u64, attachment: u32) -> u64 {
    let kind = match (word >> 40) as u32 & (REQUEST | REPLY) {
        0 => 0,
        both => both ^ (REQUEST | REPLY),
    };
    first_word(attachment & CHOSEN | kind, (word >> 32) as u8, word as u16, (word >> 16) as u16)
}

const fn echo_word(attachment: u32, protocol: u8, identifier: u16, reply: bool) -> u64 {
    let kind = if reply { REPLY } else { REQUEST };
    first_word(attachment & CHOSEN | kind, protocol, identifier, identifier)
}

/// What a table of sessions is asked for: [`Key4`] or [`Key6`].
pub trait Key: Copy + Eq + std::fmt::Debug + sealed::Sealed {
    /// The key of the other direction, whose packets enter at `attachment`.
    #[must_use]
    fn reversed(self, attachment: u32) -> Self;
    /// Where the packets enter.
    fn attachment(self) -> u32;
    /// Source and destination address.
    fn addresses(self) -> (IpAddr, IpAddr);
    /// IP protocol number.
    fn protocol(self) -> u8;
    /// Source and destination port; of an echo its identifier, twice; of other protocols 0.
    fn ports(self) -> (u16, u16);
}

pub(super) mod sealed {
    /// The key as words of a half: the first two in its line, the others in the session's third.
    pub trait Sealed {
        /// Number of the pool.
        const FAMILY: usize;
        /// Lines of a session.
        const LINES: usize;
        /// All words; an IPv4 key has two.
        fn words(self) -> [u64; 5];
        /// From its words.
        fn from_words(words: [u64; 5]) -> Self;
    }
}

/// Of an IPv4 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key4(pub(super) [u64; 2]);

impl Key4 {
    /// Of a packet that is neither an echo request nor a reply. Ports are 0 for protocols without; `attachment` is one of
    /// [`attachment_of_port`] and [`attachment_of_vpc`].
    #[inline(always)]
    #[must_use]
    pub const fn new(
        attachment: u32,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: u8,
        source_port: u16,
        destination_port: u16,
    ) -> Self {
        let addresses = (source.to_bits() as u64) << 32 | destination.to_bits() as u64;
        Self([first_word(attachment & CHOSEN, protocol, source_port, destination_port), addresses])
    }

    /// Of an ICMP echo request or reply.
    #[inline(always)]
    #[must_use]
    pub const fn echo(
        attachment: u32,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: u8,
        identifier: u16,
        reply: bool,
    ) -> Self {
        let addresses = (source.to_bits() as u64) << 32 | destination.to_bits() as u64;
        Self([echo_word(attachment, protocol, identifier, reply), addresses])
    }
}

impl sealed::Sealed for Key4 {
    const FAMILY: usize = 0;
    const LINES: usize = 2;
    #[inline(always)]
    fn words(self) -> [u64; 5] {
        [self.0[0], self.0[1], 0, 0, 0]
    }
    #[inline(always)]
    fn from_words(words: [u64; 5]) -> Self {
        Self([words[0], words[1]])
    }
}

impl Key for Key4 {
    #[inline(always)]
    fn reversed(self, attachment: u32) -> Self {
        Self([reversed_word(self.0[0], attachment), self.0[1].rotate_left(32)])
    }
    #[inline(always)]
    fn attachment(self) -> u32 {
        (self.0[0] >> 40) as u32 & CHOSEN
    }
    fn addresses(self) -> (IpAddr, IpAddr) {
        let of = |bits: u64| IpAddr::V4(Ipv4Addr::from_bits(bits as u32));
        (of(self.0[1] >> 32), of(self.0[1]))
    }
    fn protocol(self) -> u8 {
        (self.0[0] >> 32) as u8
    }
    fn ports(self) -> (u16, u16) {
        ((self.0[0] >> 16) as u16, self.0[0] as u16)
    }
}

/// Of an IPv6 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key6(pub(super) [u64; 5]);

/// The first word, then the lower halves of both addresses, which differ most, then the upper.
#[inline(always)]
const fn words6(first: u64, source: Ipv6Addr, destination: Ipv6Addr) -> [u64; 5] {
    let (source, destination) = (source.to_bits(), destination.to_bits());
    [
        first,
        source as u64 ^ (destination as u64).rotate_left(32),
        destination as u64,
        (source >> 64) as u64,
        (destination >> 64) as u64,
    ]
}

impl Key6 {
    /// See [`Key4::new`].
    #[inline(always)]
    #[must_use]
    pub const fn new(
        attachment: u32,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        protocol: u8,
        source_port: u16,
        destination_port: u16,
    ) -> Self {
        Self(words6(
            first_word(attachment & CHOSEN, protocol, source_port, destination_port),
            source,
            destination,
        ))
    }

    /// See [`Key4::echo`].
    #[inline(always)]
    #[must_use]
    pub const fn echo(
        attachment: u32,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        protocol: u8,
        identifier: u16,
        reply: bool,
    ) -> Self {
        Self(words6(echo_word(attachment, protocol, identifier, reply), source, destination))
    }

    const fn both(self) -> (Ipv6Addr, Ipv6Addr) {
        let [_, mixed, destination, source_high, destination_high] = self.0;
        let source = (source_high as u128) << 64 | (mixed ^ destination.rotate_left(32)) as u128;
        (
            Ipv6Addr::from_bits(source),
            Ipv6Addr::from_bits((destination_high as u128) << 64 | destination as u128),
        )
    }
}

impl sealed::Sealed for Key6 {
    const FAMILY: usize = 1;
    const LINES: usize = 3;
    #[inline(always)]
    fn words(self) -> [u64; 5] {
        self.0
    }
    #[inline(always)]
    fn from_words(words: [u64; 5]) -> Self {
        Self(words)
    }
}

impl Key for Key6 {
    #[inline(always)]
    fn reversed(self, attachment: u32) -> Self {
        let (source, destination) = self.both();
        Self(words6(reversed_word(self.0[0], attachment), destination, source))
    }
    #[inline(always)]
    fn attachment(self) -> u32 {
        (self.0[0] >> 40) as u32 & CHOSEN
    }
    fn addresses(self) -> (IpAddr, IpAddr) {
        let (source, destination) = self.both();
        (source.into(), destination.into())
    }
    fn protocol(self) -> u8 {
        (self.0[0] >> 32) as u8
    }
    fn ports(self) -> (u16, u16) {
        ((self.0[0] >> 16) as u16, self.0[0] as u16)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn keys_say_what_they_were_made_of() {
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(192, 168, 255, 254));
        let key = Key4::new(attachment_of_port(32_767), a, b, 17, 65_535, 53);
        assert_eq!((key.attachment(), key.addresses()), (32_767, (a.into(), b.into())));
        assert_eq!((key.protocol(), key.ports()), (17, (65_535, 53)));
        let back = key.reversed(attachment_of_vpc(5));
        assert_eq!(back, Key4::new(UNDERLAY | 5, b, a, 17, 53, 65_535));
        assert_eq!(back.reversed(32_767), key);
        let (a, b) = ("2001:db8::1:2".parse().unwrap(), "fe80:1:2:3:4:5:6:7".parse().unwrap());
        let key = Key6::new(1, a, b, 6, 1, 2);
        assert_eq!((key.addresses(), key.ports()), ((IpAddr::V6(a), IpAddr::V6(b)), (1, 2)));
        assert_eq!(key.reversed(2), Key6::new(2, b, a, 6, 2, 1));
    }

    #[test]
    fn an_echo_reply_is_no_request_of_the_other_side() {
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        for identifier in [0, 1, 8, 65_535] {
            let request = Key4::echo(1, a, b, 1, identifier, false);
            assert_eq!(request.reversed(2), Key4::echo(2, b, a, 1, identifier, true));
            assert_ne!(request.reversed(2), Key4::echo(2, b, a, 1, identifier, false));
            assert_ne!(request, Key4::new(1, a, b, 1, identifier, identifier));
            assert_eq!(request.attachment(), 1);
        }
    }
}
