//! VXLAN (RFC 7348) with the group policy extension (draft-smith-vxlan-group-policy): its header, and the outer headers around a frame.
//!
//! [`Outer`] is everything between two tunnel end points that is the same for each packet, made once; [`Outer::complete`] fills in
//! the rest once it is before a frame. The differential services field and ECN follow RFC 2983 (pipe) and RFC 6040: [`encapsulated_ecn`], [`decapsulate_ecn`].

use std::net::{IpAddr, Ipv6Addr};

use crate::bytes::{array, put, put16};
use crate::checksum::{self, Sum, pseudo_header_v6};
use crate::{Fragment, Headers, L3, L4, MacAddr, ethernet, ipv4, ipv6, tcp, udp};

/// The UDP port of tunnel end points.
pub const PORT: u16 = 4789;
/// Bytes of the VXLAN header.
pub const HEADER_LENGTH: usize = 8;
/// Bytes before the inner frame over IPv4: Ethernet, IP, UDP, VXLAN.
pub const OUTER_LENGTH_V4: usize = 50;
/// The same over IPv6.
pub const OUTER_LENGTH_V6: usize = 70;
/// Bytes that the inner network layer loses against the underlay's MTU over IPv4: the inner Ethernet header and all outer ones but Ethernet's.
pub const OVERHEAD_V4: u16 = 50;
/// The same over IPv6.
pub const OVERHEAD_V6: u16 = 70;
/// The greatest VXLAN network identifier.
pub const MAX_VNI: u32 = 0x00ff_ffff;

/// The VNI is valid.
const FLAG_VNI: u8 = 0x08;
/// The group policy field is valid.
const FLAG_POLICY: u8 = 0x80;
/// Bits of the first byte by which other formats at this port say what they are: the version and next-protocol bits of VXLAN-GPE.
const FLAGS_FOREIGN: u8 = 0x34;

/// A VXLAN header.
#[derive(Clone, Copy, Debug)]
pub struct View<'a>(&'a [u8; HEADER_LENGTH]);

impl<'a> View<'a> {
    /// The header at `at`, if the head has it.
    #[inline]
    #[must_use]
    pub fn new(head: &'a [u8], at: usize) -> Option<Self> {
        array(head, at).map(View)
    }

    /// Whether it says that its VNI is valid, and not that it is of another format (VXLAN-GPE). Other reserved bits are ignored.
    #[inline]
    #[must_use]
    pub fn is_vxlan(&self) -> bool {
        self.0[0] & (FLAG_VNI | FLAGS_FOREIGN) == FLAG_VNI
    }

    /// The network identifier, 0 to [`MAX_VNI`].
    #[inline]
    #[must_use]
    pub fn vni(&self) -> u32 {
        u32::from_be_bytes([0, self.0[4], self.0[5], self.0[6]])
    }

    /// The group policy identifier, if there is one.
    #[inline]
    #[must_use]
    pub fn policy(&self) -> Option<u16> {
        (self.0[0] & FLAG_POLICY != 0).then(|| u16::from_be_bytes([self.0[2], self.0[3]]))
    }
}

/// Outer headers as they are for all packets between two end points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outer {
    bytes: [u8; OUTER_LENGTH_V6],
    length: u8,
    /// Of the IPv4 header as it is in `bytes`; of the pseudo header without the length over IPv6.
    sum: Sum,
}

/// What differs between the outer headers of packets of one tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerPacket {
    /// The next hop on the underlay.
    pub destination_mac: MacAddr,
    /// The network.
    pub vni: u32,
    /// The sender's group policy identifier; none is written for 0.
    pub policy: u16,
    /// UDP source port: the inner flow's [`source_port`].
    pub source_port: u16,
    /// The traffic class: DSCP and ECN.
    pub traffic_class: u8,
    /// Bytes of the inner frame.
    pub inner_length: usize,
}

impl Outer {
    /// The headers from `source` (at `source_mac`) to `destination` with this time to live; `None` if the two are not of one family.
    #[must_use]
    pub fn new(source_mac: MacAddr, source: IpAddr, destination: IpAddr, time_to_live: u8) -> Option<Self> {
        let mut bytes = [0; OUTER_LENGTH_V6];
        let (ether_type, length) = match source {
            IpAddr::V4(_) => (ethernet::IPV4, OUTER_LENGTH_V4),
            IpAddr::V6(_) => (ethernet::IPV6, OUTER_LENGTH_V6),
        };
        ethernet::emit(&mut bytes, MacAddr::default(), source_mac, ether_type)?;
        let l3 = ethernet::HEADER_LENGTH;
        let sum = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                // Do not fragment (RFC 7348 section 4.3); an identification of 0 is right for such (RFC 6864).
                put(&mut bytes, l3, [0x45, 0, 0, 0, 0, 0, 0x40, 0, time_to_live, udp::PROTOCOL, 0, 0])?;
                put(&mut bytes, l3 + 12, source.octets())?;
                put(&mut bytes, l3 + 16, destination.octets())?;
                Sum::of(bytes.get(l3..l3 + ipv4::MIN_HEADER_LENGTH)?)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                put(&mut bytes, l3, [0x60, 0, 0, 0, 0, 0, udp::PROTOCOL, time_to_live])?;
                put(&mut bytes, l3 + 8, source.octets())?;
                put(&mut bytes, l3 + 24, destination.octets())?;
                pseudo_header_v6(source, destination, udp::PROTOCOL, 0)
            }
            _ => return None,
        };
        put16(&mut bytes, length - HEADER_LENGTH - udp::HEADER_LENGTH + 2, PORT)?;
        put(&mut bytes, length - HEADER_LENGTH, [FLAG_VNI])?;
        Some(Self { bytes, length: length as u8, sum })
    }

    /// Bytes of the headers.
    #[inline]
    #[must_use]
    pub fn length(&self) -> usize {
        usize::from(self.length)
    }

    /// Whether the underlay is IPv6, where the UDP checksum is not optional.
    #[inline]
    #[must_use]
    pub fn is_v6(&self) -> bool {
        self.length() == OUTER_LENGTH_V6
    }

    /// The same with what the packets of one burst share: the next hop, the network, and the senders' policy identifier (none is written for 0).
    #[inline]
    #[must_use]
    pub fn towards(&self, destination_mac: MacAddr, vni: u32, policy: u16) -> Self {
        let mut this = self.clone();
        let vxlan = this.length() - HEADER_LENGTH;
        let [_, high, middle, low] = vni.to_be_bytes();
        let [first, second] = policy.to_be_bytes();
        let flags = if policy == 0 { FLAG_VNI } else { FLAG_VNI | FLAG_POLICY };
        // Both are inside `bytes`, whatever the family.
        let _ = put(&mut this.bytes, 0, destination_mac.0);
        let _ = put(&mut this.bytes, vxlan, [flags, 0, first, second, high, middle, low, 0]);
        this
    }

    /// The headers as far as they are the same for all packets, to be put before a frame and then completed by [`Outer::complete`]. `None` unless
    /// they are of `N` bytes.
    #[inline]
    #[must_use]
    pub fn template<const N: usize>(&self) -> Option<&[u8; N]> {
        self.bytes.get(..self.length())?.try_into().ok()
    }

    /// Completes the template in `head`. Over IPv6 the UDP checksum field then holds the sum of the pseudo header, over IPv4 it is 0. `N` must be the
    /// headers' length.
    #[inline(always)]
    pub fn complete<const N: usize>(
        &self,
        head: &mut [u8; N],
        source_port: u16,
        traffic_class: u8,
        inner_length: usize,
    ) {
        const { assert!(N == OUTER_LENGTH_V4 || N == OUTER_LENGTH_V6) };
        const L3: usize = ethernet::HEADER_LENGTH;
        let udp_at = N - HEADER_LENGTH - udp::HEADER_LENGTH;
        let udp_length = (udp::HEADER_LENGTH + HEADER_LENGTH + inner_length) as u16;
        // Source port, port, length, and no checksum.
        let ports = u64::from(source_port) << 48 | u64::from(PORT) << 32 | u64::from(udp_length) << 16;
        if N == OUTER_LENGTH_V6 {
            let sum = self.sum.plus(Sum::of_word(u32::from(udp_length)));
            write(head, udp_at, (ports | u64::from(sum.folded())).to_be_bytes());
            write(head, L3, (0x6000 | u16::from(traffic_class) << 4).to_be_bytes());
            return write(head, L3 + ipv6::PAYLOAD_LENGTH_OFFSET, udp_length.to_be_bytes());
        }
        write(head, udp_at, ports.to_be_bytes());
        let total = udp_length.wrapping_add(ipv4::MIN_HEADER_LENGTH as u16);
        // Version and header length, traffic class, length.
        let first = 0x4500_0000 | u32::from(traffic_class) << 16 | u32::from(total);
        write(head, L3, first.to_be_bytes());
        let sum = u32::from(self.sum.folded()) + u32::from(total) + u32::from(traffic_class);
        // Both halves added, with the carry brought round, in the upper one.
        let sum = sum.wrapping_add(sum.rotate_left(16)) >> 16;
        write(head, L3 + ipv4::CHECKSUM_OFFSET, (!sum as u16).to_be_bytes());
    }

    /// Appends the headers of one packet to `bytes`.
    pub fn append(&self, bytes: &mut Vec<u8>, packet: &PerPacket) {
        let PerPacket { destination_mac, vni, policy, source_port, traffic_class, inner_length } = *packet;
        let this = self.towards(destination_mac, vni, policy);
        if let Some(mut head) = this.template::<OUTER_LENGTH_V4>().copied() {
            this.complete(&mut head, source_port, traffic_class, inner_length);
            bytes.extend(head);
        } else if let Some(mut head) = this.template::<OUTER_LENGTH_V6>().copied() {
            this.complete(&mut head, source_port, traffic_class, inner_length);
            bytes.extend(head);
        }
    }
}

/// Writes `value` at `at`, which is inside `head`.
#[inline(always)]
fn write<const N: usize, const M: usize>(head: &mut [u8; N], at: usize, value: [u8; M]) {
    if let Some(slot) = head.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *slot = value;
    }
}

/// Outer headers of `N` bytes that were looked at and found right: those of the next packet are right too if they are the same but for what differs from packet to
/// packet, and its checksum is. Over IPv4 such without a UDP checksum. `WORDS` are as many as cover `N` bytes in steps of 32 bytes, the last of which overlaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen<const N: usize, const WORDS: usize> {
    words: [u64; WORDS],
    /// Which of their bits are compared. Kept here, not a constant: compilers take a comparison with a constant apart, byte by byte.
    compared: [u64; WORDS],
    /// Of the pseudo header without the length.
    pseudo: Sum,
}

/// Over IPv4.
pub type SeenV4 = Seen<OUTER_LENGTH_V4, 8>;
/// Over IPv6.
pub type SeenV6 = Seen<OUTER_LENGTH_V6, 12>;

impl<const N: usize, const WORDS: usize> Seen<N, WORDS> {
    /// Where the UDP header begins.
    const UDP: usize = N - HEADER_LENGTH - udp::HEADER_LENGTH;
    /// What may differ: the source's MAC address (nobody asks for it), traffic class, lengths, IPv4's identification, IPv6's flow label, time to live,
    /// checksums, source port.
    const DIFFERING: &[usize] = if N == OUTER_LENGTH_V4 {
        &[6, 7, 8, 9, 10, 11, 15, 16, 17, 18, 19, 22, 24, 25, 34, 35, 38, 39]
    } else {
        &[6, 7, 8, 9, 10, 11, 15, 16, 17, 18, 19, 21, 54, 55, 58, 59, 60, 61]
    };
    /// Where the network layer's length is, and by how much it is more than UDP's.
    const LENGTH: (usize, usize) = if N == OUTER_LENGTH_V4 { (16, ipv4::MIN_HEADER_LENGTH) } else { (18, 0) };

    #[inline(always)]
    fn words(head: &[u8; N]) -> [u64; WORDS] {
        let word = |at: usize| {
            let first = if at < WORDS - 4 { at * 8 } else { at * 8 + N - WORDS * 8 };
            head.get(first..).and_then(<[u8]>::first_chunk).map_or(0, |word| u64::from_ne_bytes(*word))
        };
        std::array::from_fn(word)
    }

    /// Of the headers at the front of `head`, of `length` bytes, which are right; `None` if they are none of those that can be told by a glance.
    #[must_use]
    pub fn new(head: &[u8], length: usize) -> Option<Self> {
        const { assert!(N == OUTER_LENGTH_V4 || N == OUTER_LENGTH_V6) };
        let head: &[u8; N] = head.first_chunk()?;
        let plain = if N == OUTER_LENGTH_V4 {
            let no_checksum = head[Self::UDP + udp::CHECKSUM_OFFSET..][..2] == [0, 0];
            head[12..15] == [8, 0, 0x45] && no_checksum
        } else {
            head[12..14] == [0x86, 0xdd] && head[20] == udp::PROTOCOL
        };
        if length != N || !plain {
            return None;
        }
        let mut compared = [0xff; N];
        Self::DIFFERING.iter().for_each(|at| compared[*at] = 0);
        let pseudo = match ipv6::View::new(head, ethernet::HEADER_LENGTH) {
            Some(ip) if N == OUTER_LENGTH_V6 => {
                // The version and the upper half of the traffic class.
                compared[ethernet::HEADER_LENGTH] = 0xf0;
                pseudo_header_v6(ip.source(), ip.destination(), udp::PROTOCOL, 0)
            }
            _ => Sum::ZERO,
        };
        Some(Self { words: Self::words(head), compared: Self::words(&compared), pseudo })
    }

    /// Whether the headers of a frame of `frame_length` bytes with this head are the same but for what may differ, and that is right, of a checksum
    /// apart ([`sum`](Self::sum)).
    #[inline(always)]
    #[must_use]
    pub fn is_like(&self, head: &[u8], frame_length: usize) -> bool {
        let Some(head) = head.first_chunk::<N>() else { return false };
        let words = Self::words(head);
        // Word by word of all parts first: so it is done on all words of a part at once.
        let different: [u64; 4] = std::array::from_fn(|at| {
            let differs = |at: usize| (words[at] ^ self.words[at]) & self.compared[at];
            (at..WORDS).step_by(4).fold(0, |all, at| all | differs(at))
        });
        // UDP's and VXLAN's headers, and an inner Ethernet header.
        const LEAST: usize = udp::HEADER_LENGTH + HEADER_LENGTH + ethernet::HEADER_LENGTH;
        let be16 = |at: usize| usize::from(u16::from_be_bytes([head[at], head[at + 1]]));
        let (at, more) = Self::LENGTH;
        let (network, udp) = (be16(at), be16(Self::UDP + udp::LENGTH_OFFSET));
        different == [0; 4] && udp >= LEAST && udp + more == network && Self::UDP + udp <= frame_length
    }

    /// The traffic class of headers like these.
    #[inline(always)]
    #[must_use]
    pub fn traffic_class(head: &[u8; N]) -> u8 {
        const L3: usize = ethernet::HEADER_LENGTH;
        if N == OUTER_LENGTH_V4 { head[L3 + 1] } else { head[L3] << 4 | head[L3 + 1] >> 4 }
    }

    /// What the UDP checksum of a frame with headers like these covers in `head` and of the pseudo header, if it has one; it is right if this and the rest, at its
    /// offset, are ([`Sum::is_right`]).
    #[inline]
    #[must_use]
    pub fn sum(&self, head: &[u8]) -> Option<Sum> {
        let field = |at: usize| array::<2>(head, Self::UDP + at).map(|bytes| u16::from_be_bytes(*bytes));
        if N == OUTER_LENGTH_V4 || field(udp::CHECKSUM_OFFSET)? == 0 {
            return None;
        }
        let length = Sum::of_word(u32::from(field(udp::LENGTH_OFFSET)?));
        Some(self.pseudo.plus(length).plus(Sum::of(head.get(Self::UDP..)?)))
    }
}

/// Rewrites the outer headers of `tunnel` bytes at the front of `head` for an inner frame of another length: that of a segment. `None` if they are none.
#[inline]
pub fn set_inner_length(head: &mut [u8], tunnel: usize, inner_length: usize) -> Option<()> {
    let l3 = ethernet::HEADER_LENGTH;
    let udp_at = tunnel.checked_sub(HEADER_LENGTH + udp::HEADER_LENGTH)?;
    let udp_length = (udp::HEADER_LENGTH + HEADER_LENGTH + inner_length) as u16;
    put16(head, udp_at + udp::LENGTH_OFFSET, udp_length)?;
    if tunnel == OUTER_LENGTH_V6 {
        return put16(head, l3 + ipv6::PAYLOAD_LENGTH_OFFSET, udp_length);
    }
    put16(head, l3 + ipv4::TOTAL_LENGTH_OFFSET, udp_length + ipv4::MIN_HEADER_LENGTH as u16)?;
    put16(head, l3 + ipv4::CHECKSUM_OFFSET, 0)?;
    let sum = Sum::of(head.get(l3..l3 + ipv4::MIN_HEADER_LENGTH)?);
    put16(head, l3 + ipv4::CHECKSUM_OFFSET, sum.finish())
}

/// Writes the outer UDP checksum over IPv6 without reading the inner payload: what the inner transport checksum covers sums up, with that
/// checksum in it, to the complement of its pseudo header (local checksum offload). `start` is where the inner checksum begins to cover, an odd place too
/// if a guest says so (its field is at an even distance from there, as [`validate_offload`](crate::validate_offload) demands), `pseudo`
/// the sum of its pseudo header; everything before `start` is in `head`. Over IPv4 it stays 0: nothing is done.
pub fn checksum_from_inner(head: &mut [u8], tunnel: usize, start: usize, pseudo: Sum) -> Option<()> {
    if tunnel != OUTER_LENGTH_V6 {
        return Some(());
    }
    let udp_at = tunnel - HEADER_LENGTH - udp::HEADER_LENGTH;
    let ip = ipv6::View::new(head, ethernet::HEADER_LENGTH)?;
    let outer =
        pseudo_header_v6(ip.source(), ip.destination(), udp::PROTOCOL, u32::from(ip.payload_length()));
    put16(head, udp_at + udp::CHECKSUM_OFFSET, 0)?;
    let before = Sum::of(head.get(udp_at..start)?);
    let covered = Sum::from_folded(!pseudo.folded()).at_offset(start - udp_at);
    let sum = outer.plus(before).plus(covered);
    put16(head, udp_at + udp::CHECKSUM_OFFSET, sum.finish_nonzero())
}

/// The source port of a flow's tunnel packets: 49152 to 65535, the same for all its packets, so that the underlay can spread flows over its
/// paths (RFC 7348 section 5). From addresses, protocol and ports; for every fragment of a datagram from the first three alone.
#[inline]
#[must_use]
pub fn source_port(head: &[u8], headers: &Headers) -> u16 {
    let addresses = match headers.l3 {
        L3::Ipv4 => array(head, usize::from(headers.l3_offset) + 12).map(|bytes| u64::from_le_bytes(*bytes)),
        L3::Ipv6 => headers.ipv6(head).map(|ip| mix_v6(ip.source(), ip.destination())),
        // Whoever talks by something else is told apart by the Ethernet addresses.
        L3::Arp | L3::Other => array::<8>(head, 4).map(|bytes| u64::from_ne_bytes(*bytes)),
    };
    let whole = headers.fragment == Fragment::Whole && headers.l4 != L4::None;
    let ports =
        if whole { u64::from(headers.source_port) << 16 | u64::from(headers.destination_port) } else { 0 };
    port_of(addresses.unwrap_or(0), ports, headers.protocol)
}

/// Spreads a flow over the ports.
#[inline(always)]
fn port_of(addresses: u64, ports: u64, protocol: u8) -> u16 {
    let key = addresses ^ (ports << 8 | u64::from(protocol)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    0xc000 | (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50) as u16
}

/// [`source_port`] and [`encapsulated_ecn`] of a frame that [`parse`](crate::parse()) accepts, if it is plain: untagged IPv4 without options, whole, carrying TCP or
/// UDP. In fewer steps, as all is where it is in most frames.
#[inline(always)]
#[must_use]
pub fn of_plain(head: &[u8]) -> Option<(u16, u8)> {
    const L3: usize = ethernet::HEADER_LENGTH;
    const L4: usize = L3 + ipv4::MIN_HEADER_LENGTH;
    let head: &[u8; L4 + 4] = head.first_chunk()?;
    let be32 = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let fragment = u16::from_be_bytes([head[L3 + 6], head[L3 + 7]]) & 0x3fff;
    let (first, protocol) = (be32(12), head[L3 + 9]);
    if first & 0xffff_ff00 != 0x0800_4500
        || fragment != 0
        || !matches!(protocol, tcp::PROTOCOL | udp::PROTOCOL)
    {
        return None;
    }
    let addresses = u64::from_le_bytes(*head[L3 + 12..].first_chunk()?);
    Some((port_of(addresses, u64::from(be32(L4)), protocol), first as u8 & ECN))
}

fn mix_v6(source: Ipv6Addr, destination: Ipv6Addr) -> u64 {
    let fold = |address: Ipv6Addr| {
        let bits = address.to_bits();
        (bits >> 64) as u64 ^ (bits as u64).rotate_left(17)
    };
    fold(source).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ fold(destination)
}

/// The ECN field of the outer header for an inner packet: the same (RFC 6040 section 4.1, normal mode). 0 for anything but IP.
#[inline]
#[must_use]
pub fn encapsulated_ecn(head: &[u8], headers: &Headers) -> u8 {
    traffic_class(head, headers) & ECN
}

/// Congestion experienced.
const CE: u8 = 0b11;
/// ECN-capable, codepoint 1 and 0.
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const ECN: u8 = 0b11;

/// The traffic class of an IP packet: DSCP and ECN; 0 for anything else.
#[inline]
#[must_use]
pub fn traffic_class(head: &[u8], headers: &Headers) -> u8 {
    let bytes = || array::<2>(head, usize::from(headers.l3_offset));
    match headers.l3 {
        L3::Ipv4 => bytes().map_or(0, |bytes| bytes[1]),
        L3::Ipv6 => bytes().map_or(0, |bytes| bytes[0] << 4 | bytes[1] >> 4),
        L3::Arp | L3::Other => 0,
    }
}

/// The bits of a traffic class that mark congestion, or that it may be marked.
pub const MARKS: u16 = ECN as u16;

/// Whether an outer traffic class says nothing that the inner packet must be told.
#[inline(always)]
#[must_use]
pub fn is_unmarked(outer: u8) -> bool {
    outer & ECN == 0
}

/// Puts what the outer ECN field says into the inner packet (RFC 6040 section 4.2). False when the packet is to be dropped: it met congestion and its
/// sender would not understand.
#[inline]
#[must_use]
pub fn decapsulate_ecn(outer: u8, head: &mut [u8], headers: &Headers) -> bool {
    let (outer, inner) = (outer & ECN, traffic_class(head, headers) & ECN);
    let wanted = match (outer, inner) {
        (CE, 0) => return !headers.is_ip(),
        (CE, _) => CE,
        (ECT_1, ECT_0) => ECT_1,
        _ => return true,
    };
    if wanted != inner {
        set_ecn(head, headers, wanted);
    }
    true
}

#[cold]
fn set_ecn(head: &mut [u8], headers: &Headers, ecn: u8) -> Option<()> {
    let at = usize::from(headers.l3_offset);
    let [first, second] = *array::<2>(head, at)?;
    if headers.l3 == L3::Ipv6 {
        return put(head, at + 1, [second & !(ECN << 4) | ecn << 4]);
    }
    let after = second & !ECN | ecn;
    let sum = u16::from_be_bytes(*array(head, at + ipv4::CHECKSUM_OFFSET)?);
    let (old, new) = (u16::from_be_bytes([first, second]), u16::from_be_bytes([first, after]));
    put(head, at + 1, [after])?;
    put16(head, at + ipv4::CHECKSUM_OFFSET, checksum::update(sum, old, new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    fn inner(len: usize) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 1, 0xb, 2, 0, 0, 0, 1, 0xa, 8, 0, 0x45, 0];
        frame.extend(((len - 14) as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 1, 10, 10, 0, 1, 11, 3, 0xe8, 3, 0xe9]);
        frame.extend(((len - 34) as u16).to_be_bytes());
        frame.extend([0, 0]);
        frame.resize(len, 7);
        let sum = Sum::of(&frame[14..34]).finish();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    fn wrapped(addresses: [&str; 2], frame: &[u8], per: PerPacket) -> Vec<u8> {
        let [source, destination] = addresses.map(|text| text.parse().unwrap());
        let outer = Outer::new(MacAddr([2, 0, 0, 0, 0, 1]), source, destination, 64).unwrap();
        let mut bytes = Vec::new();
        outer.append(&mut bytes, &per);
        bytes.extend(frame);
        bytes
    }

    fn per(frame: &[u8]) -> PerPacket {
        PerPacket {
            destination_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            vni: 0x00ab_cdef,
            policy: 0,
            source_port: 50_000,
            traffic_class: 0xb9,
            inner_length: frame.len(),
        }
    }

    #[test]
    fn what_is_written_parses_as_the_headers_say() {
        for (addresses, length) in
            [(["192.0.2.1", "192.0.2.2"], OUTER_LENGTH_V4), (["2001:db8::1", "2001:db8::2"], OUTER_LENGTH_V6)]
        {
            let frame = inner(90);
            let bytes = wrapped(addresses, &frame, PerPacket { policy: 0x1234, ..per(&frame) });
            let headers = parse(&bytes, bytes.len() as u32).unwrap();
            assert_eq!((headers.l4, headers.destination_port, headers.source_port), (L4::Udp, PORT, 50_000));
            assert_eq!(usize::from(headers.payload_offset) + HEADER_LENGTH, length);
            assert_eq!(headers.l3_end() as usize, bytes.len());
            assert_eq!(traffic_class(&bytes, &headers), 0xb9);
            let view = View::new(&bytes, usize::from(headers.payload_offset)).unwrap();
            assert!(view.is_vxlan());
            assert_eq!((view.vni(), view.policy()), (0x00ab_cdef, Some(0x1234)));
            if headers.l3 == L3::Ipv4 {
                assert!(Sum::of(&bytes[14..34]).is_right());
            }
            let mut shorter = bytes.clone();
            set_inner_length(&mut shorter, length, 60).unwrap();
            assert_eq!(
                shorter[..length],
                wrapped(addresses, &frame, PerPacket { policy: 0x1234, inner_length: 60, ..per(&frame) })
                    [..length]
                    .iter()
                    .enumerate()
                    .map(|(at, byte)| if length == OUTER_LENGTH_V6 && (60..62).contains(&at) {
                        shorter[at]
                    } else {
                        *byte
                    })
                    .collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn headers_are_recognised_by_those_before() {
        let v4 = [6, 7, 8, 9, 10, 11, 15, 18, 19, 22, 24, 25, 34, 35];
        recognises::<OUTER_LENGTH_V4, 8>(["192.0.2.1", "192.0.2.2"], &v4);
        let v6 = [6, 7, 8, 9, 10, 11, 15, 16, 17, 21, 54, 55, 60, 61];
        recognises::<OUTER_LENGTH_V6, 12>(["2001:db8::1", "2001:db8::2"], &v6);
        let mut with_checksum = wrapped(["192.0.2.1", "192.0.2.2"], &inner(90), per(&inner(90)));
        assert_eq!(SeenV6::new(&with_checksum, OUTER_LENGTH_V4), None);
        with_checksum[40] = 1;
        assert_eq!(SeenV4::new(&with_checksum, OUTER_LENGTH_V4), None);
    }

    fn recognises<const N: usize, const WORDS: usize>(addresses: [&str; 2], may_differ: &[usize]) {
        let frame = inner(90);
        let bytes = wrapped(addresses, &frame, per(&frame));
        let seen = Seen::<N, WORDS>::new(&bytes, N).unwrap();
        let other = PerPacket { source_port: 60_000, traffic_class: 3, ..per(&inner(70)) };
        let shorter = wrapped(addresses, &inner(70), other);
        assert!(seen.is_like(&bytes, bytes.len()) && seen.is_like(&shorter, shorter.len()));
        assert_eq!(Seen::<N, WORDS>::traffic_class(shorter.first_chunk().unwrap()), 3);
        assert!(!seen.is_like(&bytes, bytes.len() - 1), "longer than the frame");
        assert!(!seen.is_like(&bytes[..N - 1], bytes.len()));
        for at in 0..N {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert_eq!(seen.is_like(&changed, bytes.len()), may_differ.contains(&at), "byte {at}");
        }
        if N == OUTER_LENGTH_V6 {
            let mut whole = shorter.clone();
            checksum::complete_partial(&mut whole, 54, 6, Sum::ZERO).unwrap();
            assert!(seen.sum(&whole).unwrap().is_right());
            whole[80] ^= 1;
            assert!(!seen.sum(&whole).unwrap().is_right());
            whole[60..62].fill(0);
            assert_eq!(seen.sum(&whole), None);
        } else {
            assert_eq!(seen.sum(&bytes), None);
        }
    }

    #[test]
    fn the_outer_checksum_follows_from_the_inner_one() {
        let pseudo = checksum::pseudo_header_v4([10, 0, 1, 10].into(), [10, 0, 1, 11].into(), 17, 97);
        // An overlay of the guest's own may have its checksum begin at an odd place.
        for (length, start) in [(131, 34), (132, 34), (131, 43), (132, 43), (131, 51)] {
            let mut frame = inner(length);
            frame[start + 6..start + 8].fill(0);
            let sum = pseudo.plus(Sum::of(&frame[start..])).finish_nonzero();
            frame[start + 6..start + 8].copy_from_slice(&sum.to_be_bytes());
            let mut bytes = wrapped(["2001:db8::1", "2001:db8::2"], &frame, per(&frame));
            checksum_from_inner(&mut bytes, OUTER_LENGTH_V6, OUTER_LENGTH_V6 + start, pseudo).unwrap();
            let ip = ipv6::View::new(&bytes, 14).unwrap();
            let outer = pseudo_header_v6(ip.source(), ip.destination(), 17, (bytes.len() - 54) as u32);
            assert!(outer.plus(Sum::of(&bytes[54..])).is_right(), "{length} bytes, from {start}");
        }
    }

    #[test]
    fn p25_other_formats_at_the_port_are_none_and_reserved_bits_are_ignored() {
        let is = |first: u8| View(&[first, 0xff, 0, 0, 0, 0, 1, 0xff]).is_vxlan();
        assert!(is(0x08) && is(0x88) && is(0x49));
        assert!(!is(0x00) && !is(0x0c) && !is(0x18) && !is(0x28));
    }

    #[test]
    fn fragments_of_a_datagram_share_a_source_port_and_flows_spread() {
        let frame = inner(90);
        let headers = parse(&frame, 90).unwrap();
        let port =
            |source_port, fragment| source_port_of(&frame, Headers { source_port, fragment, ..headers });
        fn source_port_of(frame: &[u8], headers: Headers) -> u16 {
            super::source_port(frame, &headers)
        }
        assert_eq!(port(1000, Fragment::First), port(0, Fragment::Later));
        let all: std::collections::BTreeSet<u16> = (0..4000).map(|p| port(p, Fragment::Whole)).collect();
        assert!(all.len() > 3000 && all.iter().all(|port| *port >= 0xc000), "{}", all.len());
    }

    proptest::proptest! {
        /// Frames that are plain or nearly so: what is told at a glance is what their headers say.
        #[test]
        fn what_a_glance_tells_is_what_the_headers_say(
            source_and_ports in proptest::prelude::any::<[u8; 12]>(),
            tcp in proptest::prelude::any::<bool>(),
            edits in proptest::collection::vec((12usize..38, proptest::prelude::any::<u8>()), 0..3),
        ) {
            let mut frame = inner(90);
            frame[26..38].copy_from_slice(&source_and_ports);
            if tcp {
                (frame[23], frame[46]) = (6, 0x50);
            }
            edits.iter().for_each(|(at, value)| frame[*at] = *value);
            if let (Ok(headers), Some(told)) = (parse(&frame, 90), of_plain(&frame)) {
                proptest::prop_assert_eq!(told, (source_port(&frame, &headers), encapsulated_ecn(&frame, &headers)));
            }
            if edits.is_empty() {
                proptest::prop_assert!(of_plain(&frame).is_some());
            }
        }
    }

    #[test]
    fn o11_ecn_follows_rfc_6040() {
        let frame = inner(90);
        let headers = parse(&frame, 90).unwrap();
        // Outer by row, inner by column (not ECT, ECT(0), ECT(1), CE), as figure 4 of the RFC; 9: dropped.
        let table = [(0, [0, 2, 1, 3]), (ECT_0, [0, 2, 1, 3]), (ECT_1, [0, 1, 1, 3]), (CE, [9, 3, 3, 3])];
        for (outer, expected) in table {
            for (inner, expected) in [0, ECT_0, ECT_1, CE].into_iter().zip(expected) {
                let mut frame = frame.clone();
                set_ecn(&mut frame, &headers, inner);
                assert!(Sum::of(&frame[14..34]).is_right());
                let passes = decapsulate_ecn(outer | 0xb8, &mut frame, &headers);
                assert_eq!(passes, expected != 9);
                if passes {
                    assert_eq!(frame[15], expected, "{outer} {inner}");
                    assert!(Sum::of(&frame[14..34]).is_right());
                }
            }
        }
    }
}
