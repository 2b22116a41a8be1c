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

/// Attachment, protocol and ports in one word. Ports are as they lie in the packet, read as one native word.
#[inline(always)]
const fn first_word(attachment: u32, protocol: u8, ports: u32) -> u64 {
    (attachment as u64 & 0xff_ffff) << 40 | (protocol as u64) << 32 | ports as u64
}

/// The local port that sends what has this first word, if one does.
pub(super) const fn port_of_word(word: u64) -> Option<u16> {
    let attachment = (word >> 40) as u32;
    if attachment & UNDERLAY == 0 { Some(attachment as u16) } else { None }
}

/// The attachment in a first word.
#[inline(always)]
pub(super) const fn attachment_of_word(word: u64) -> u32 {
    (word >> 40) as u32 & CHOSEN
}

/// The first word of the other direction.
#[inline(always)]
const fn reversed_word(word: u64, attachment: u32) -> u64 {
    let kind = match (word >> 40) as u32 & (REQUEST | REPLY) {
        0 => 0,
        both => both ^ (REQUEST | REPLY),
    };
    first_word(attachment & CHOSEN | kind, (word >> 32) as u8, (word as u32).rotate_left(16))
}

#[inline(always)]
const fn echo_word(attachment: u32, protocol: u8, identifier: u16, reply: bool) -> u64 {
    let kind = if reply { REPLY } else { REQUEST };
    first_word(attachment & CHOSEN | kind, protocol, native_ports([identifier; 2]))
}

/// Source and destination port as they lie in a packet, read as one native word.
#[inline(always)]
const fn native_ports(ports: [u16; 2]) -> u32 {
    let ([a, b], [c, d]) = (ports[0].to_be_bytes(), ports[1].to_be_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

#[inline(always)]
const fn ports_of(word: u64) -> (u16, u16) {
    let [a, b, c, d] = (word as u32).to_ne_bytes();
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
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
    /// One of no packet: to begin with.
    #[must_use]
    #[inline(always)]
    fn none() -> Self {
        Self::NONE
    }
}

pub(super) mod sealed {
    /// The key as words of a half: the first two in its line, the others in the session's third.
    pub trait Sealed {
        /// Number of the pool.
        const FAMILY: usize;
        /// Lines of a session.
        const LINES: usize;
        /// Blocks of 128 bits.
        const BLOCKS: usize;
        /// One of them; 0 beyond the last.
        fn block(self, number: usize) -> [u64; 2];
        /// All words; an IPv4 key has two.
        fn words(self) -> [u64; 5];
        /// Of no packet.
        const NONE: Self;
        /// From its words.
        fn from_words(words: [u64; 5]) -> Self;
    }
}

/// Of an IPv4 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key4(pub(super) [u64; 2]);

impl Key4 {
    /// Of a packet that is neither an echo request nor a reply. `attachment` is one of [`attachment_of_port`] and [`attachment_of_vpc`]; `addresses` are the eight
    /// bytes at offset 12 of the IPv4 header, read as one native word; `ports` the four bytes at the start of the header after it, likewise, or 0 for protocols
    /// without ports.
    #[inline(always)]
    #[must_use]
    pub const fn new(attachment: u32, addresses: u64, protocol: u8, ports: u32) -> Self {
        Self([first_word(attachment & CHOSEN, protocol, ports), addresses])
    }

    /// Of an ICMP echo request or reply.
    #[inline(always)]
    #[must_use]
    pub const fn echo(attachment: u32, addresses: u64, protocol: u8, identifier: u16, reply: bool) -> Self {
        Self([echo_word(attachment, protocol, identifier, reply), addresses])
    }

    /// From source and destination, as [`Key4::new`] takes them.
    #[inline(always)]
    #[must_use]
    pub const fn addresses(source: Ipv4Addr, destination: Ipv4Addr) -> u64 {
        let ([a, b, c, d], [e, f, g, h]) = (source.octets(), destination.octets());
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    }
}

impl sealed::Sealed for Key4 {
    const FAMILY: usize = 0;
    const LINES: usize = 2;
    const BLOCKS: usize = 1;
    const NONE: Self = Self([0; 2]);
    #[inline(always)]
    fn block(self, number: usize) -> [u64; 2] {
        if number == 0 { self.0 } else { [0; 2] }
    }
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
        attachment_of_word(self.0[0])
    }
    fn addresses(self) -> (IpAddr, IpAddr) {
        let [a, b, c, d, e, f, g, h] = self.0[1].to_ne_bytes();
        (Ipv4Addr::new(a, b, c, d).into(), Ipv4Addr::new(e, f, g, h).into())
    }
    fn protocol(self) -> u8 {
        (self.0[0] >> 32) as u8
    }
    fn ports(self) -> (u16, u16) {
        ports_of(self.0[0])
    }
}

/// Of an IPv6 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key6(pub(super) [u64; 5]);

/// The first word, then the lower halves of both addresses, which differ most, then the upper.
#[inline(always)]
const fn words6(first: u64, addresses: [u64; 4]) -> [u64; 5] {
    let [source_high, source, destination_high, destination] = addresses;
    [first, source ^ destination.rotate_left(32), destination, source_high, destination_high]
}

/// Both addresses as they lie in the header, as four native words.
#[inline(always)]
fn native_addresses(addresses: &[u8; 32]) -> [u64; 4] {
    let (words, _) = addresses.as_chunks::<8>();
    std::array::from_fn(|word| u64::from_ne_bytes(words[word]))
}

impl Key6 {
    /// See [`Key4::new`]; `addresses` are the 32 bytes at offset 8 of the IPv6 header.
    #[inline(always)]
    #[must_use]
    pub fn new(attachment: u32, addresses: &[u8; 32], protocol: u8, ports: u32) -> Self {
        Self(words6(first_word(attachment & CHOSEN, protocol, ports), native_addresses(addresses)))
    }

    /// See [`Key4::echo`].
    #[inline(always)]
    #[must_use]
    pub fn echo(attachment: u32, addresses: &[u8; 32], protocol: u8, identifier: u16, reply: bool) -> Self {
        Self(words6(echo_word(attachment, protocol, identifier, reply), native_addresses(addresses)))
    }

    /// From source and destination, as [`Key6::new`] takes them.
    #[must_use]
    pub fn addresses(source: Ipv6Addr, destination: Ipv6Addr) -> [u8; 32] {
        let mut both = [0; 32];
        let (first, second) = both.split_at_mut(16);
        first.copy_from_slice(&source.octets());
        second.copy_from_slice(&destination.octets());
        both
    }

    /// In the order of the header.
    const fn native(self) -> [u64; 4] {
        let [_, mixed, destination, source_high, destination_high] = self.0;
        [source_high, mixed ^ destination.rotate_left(32), destination_high, destination]
    }
}

impl sealed::Sealed for Key6 {
    const FAMILY: usize = 1;
    const LINES: usize = 3;
    const BLOCKS: usize = 3;
    const NONE: Self = Self([0; 5]);
    #[inline(always)]
    fn block(self, number: usize) -> [u64; 2] {
        let [a, b, c, d, e] = self.0;
        [[a, b], [c, d], [e, 0]].get(number).copied().unwrap_or_default()
    }
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
        let [a, b, c, d] = self.native();
        Self(words6(reversed_word(self.0[0], attachment), [c, d, a, b]))
    }
    #[inline(always)]
    fn attachment(self) -> u32 {
        attachment_of_word(self.0[0])
    }
    fn addresses(self) -> (IpAddr, IpAddr) {
        let [a, b, c, d] = self.native().map(|word| u128::from(u64::from_be_bytes(word.to_ne_bytes())));
        (Ipv6Addr::from_bits(a << 64 | b).into(), Ipv6Addr::from_bits(c << 64 | d).into())
    }
    fn protocol(self) -> u8 {
        (self.0[0] >> 32) as u8
    }
    fn ports(self) -> (u16, u16) {
        ports_of(self.0[0])
    }
}

/// A key of either family, for what is done seldom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the two families")]
pub enum AnyKey {
    V4(Key4),
    V6(Key6),
}

impl AnyKey {
    /// Of a packet that is no echo; ports 0 for protocols without. `None` if the addresses are of different families.
    #[must_use]
    pub fn new(
        attachment: u32,
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        ports: [u16; 2],
    ) -> Option<Self> {
        let ports = native_ports(ports);
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Some(Self::V4(Key4::new(attachment, Key4::addresses(source, destination), protocol, ports)))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                Some(Self::V6(Key6::new(attachment, &Key6::addresses(source, destination), protocol, ports)))
            }
            _ => None,
        }
    }

    /// Of an ICMP or ICMPv6 echo request or reply. `None` if the addresses are of different families.
    #[must_use]
    pub fn echo(
        attachment: u32,
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        identifier: u16,
        reply: bool,
    ) -> Option<Self> {
        let key = Self::new(attachment, source, destination, protocol, [0; 2])?;
        let first = echo_word(attachment, protocol, identifier, reply);
        Some(match key {
            Self::V4(Key4([_, addresses])) => Self::V4(Key4([first, addresses])),
            Self::V6(Key6([_, a, b, c, d])) => Self::V6(Key6([first, a, b, c, d])),
        })
    }

    /// See [`Key::reversed`].
    #[must_use]
    pub fn reversed(self, attachment: u32) -> Self {
        match self {
            Self::V4(key) => Self::V4(key.reversed(attachment)),
            Self::V6(key) => Self::V6(key.reversed(attachment)),
        }
    }

    /// See [`Key::attachment`].
    #[must_use]
    pub fn attachment(self) -> u32 {
        match self {
            Self::V4(key) => key.attachment(),
            Self::V6(key) => key.attachment(),
        }
    }

    /// See [`Key::addresses`].
    #[must_use]
    pub fn addresses(self) -> (IpAddr, IpAddr) {
        match self {
            Self::V4(key) => Key::addresses(key),
            Self::V6(key) => Key::addresses(key),
        }
    }

    /// See [`Key::protocol`].
    #[must_use]
    pub fn protocol(self) -> u8 {
        match self {
            Self::V4(key) => key.protocol(),
            Self::V6(key) => key.protocol(),
        }
    }

    /// See [`Key::ports`].
    #[must_use]
    pub fn ports(self) -> (u16, u16) {
        match self {
            Self::V4(key) => key.ports(),
            Self::V6(key) => key.ports(),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn v4(attachment: u32, source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, ports: [u16; 2]) -> Key4 {
        Key4::new(attachment, Key4::addresses(source, destination), protocol, native_ports(ports))
    }

    #[test]
    fn keys_say_what_they_were_made_of() {
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(192, 168, 255, 254));
        let key = v4(attachment_of_port(32_767), a, b, 17, [65_535, 53]);
        assert_eq!((key.attachment(), Key::addresses(key)), (32_767, (a.into(), b.into())));
        assert_eq!((key.protocol(), key.ports()), (17, (65_535, 53)));
        let back = key.reversed(attachment_of_vpc(5));
        assert_eq!(back, v4(UNDERLAY | 5, b, a, 17, [53, 65_535]));
        assert_eq!(back.reversed(32_767), key);
        let (a, b): (Ipv6Addr, Ipv6Addr) =
            ("2001:db8::1:2".parse().unwrap(), "fe80:1:2:3:4:5:6:7".parse().unwrap());
        let key = AnyKey::new(1, a.into(), b.into(), 6, [1, 2]).unwrap();
        assert_eq!((key.addresses(), key.ports()), ((IpAddr::V6(a), IpAddr::V6(b)), (1, 2)));
        assert_eq!(Some(key.reversed(2)), AnyKey::new(2, b.into(), a.into(), 6, [2, 1]));
        assert_eq!(AnyKey::new(1, a.into(), Ipv4Addr::LOCALHOST.into(), 6, [1, 2]), None);
    }

    #[test]
    fn keys_are_the_bytes_of_the_packet() {
        let header = [10, 0, 0, 1, 10, 0, 0, 2];
        let ports = u32::from_ne_bytes([0x12, 0x34, 0, 53]);
        let key = Key4::new(1, u64::from_ne_bytes(header), 17, ports);
        assert_eq!(key, v4(1, [10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 17, [0x1234, 53]));
    }

    #[test]
    fn an_echo_reply_is_no_request_of_the_other_side() {
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        for identifier in [0, 1, 8, 65_535] {
            let request = AnyKey::echo(1, a, b, 1, identifier, false).unwrap();
            assert_eq!(Some(request.reversed(2)), AnyKey::echo(2, b, a, 1, identifier, true));
            assert_ne!(Some(request.reversed(2)), AnyKey::echo(2, b, a, 1, identifier, false));
            assert_ne!(Some(request), AnyKey::new(1, a, b, 1, [identifier; 2]));
            assert_eq!(request.attachment(), 1);
        }
    }
}
