//! From a head to [`Headers`], outermost header first.

use crate::bytes::array;
use crate::vlan::Link;
use crate::{Headers, L3, L4, ParseError, arp, ethernet, ipv4, ipv6, plain, vlan};

/// A head and the length of the frame it was taken from.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    pub(crate) head: &'a [u8],
    pub(crate) frame_len: usize,
}

impl<'a> Input<'a> {
    /// The `N` bytes at `at`, which must end at or before `end`: if not, the packet is `short`; if they do but the head
    /// has not got them, it is [`ParseError::HeaderTooLong`].
    #[inline(always)]
    pub(crate) fn take<const N: usize>(
        &self,
        at: usize,
        end: usize,
        short: ParseError,
    ) -> Result<&'a [u8; N], ParseError> {
        if at + N > end {
            return Err(short);
        }
        array(self.head, at).ok_or(ParseError::HeaderTooLong)
    }
}

/// Classifies a frame by its head.
///
/// `head` is the first `min(frame_len, 128)` bytes of the frame, in private memory; `frame_len` its whole length in
/// bytes, Ethernet header included, checksum excluded. A shorter head is allowed (more frames are then refused as
/// [`ParseError::HeaderTooLong`]); what it holds beyond `frame_len` is not looked at.
///
/// # Errors
///
/// The first thing found wrong, from the outermost header inwards.
#[inline]
pub fn parse(head: &[u8], frame_len: u32) -> Result<Headers, ParseError> {
    let mut headers = Headers::default();
    parse_into(head, frame_len, &mut headers)?;
    Ok(headers)
}

/// The same, written where it is to stay: a burst's headers returned by value would each be copied, and wait for the stores that made
/// them. After an error `out` holds nothing of use.
///
/// # Errors
///
/// As [`parse`].
#[inline]
pub fn parse_into(head: &[u8], frame_len: u32, out: &mut Headers) -> Result<(), ParseError> {
    let frame_len = frame_len as usize;
    if plain::parse(head, frame_len, out) { Ok(()) } else { parse_any(head, frame_len, out) }
}

/// The same for what nearly all packets are: untagged IPv4 without options, whole, carrying TCP or UDP. False, and nothing of use in `out`, for all
/// others, right or wrong.
#[inline(always)]
pub fn parse_plain(head: &[u8], frame_len: u32, out: &mut Headers) -> bool {
    plain::parse(head, frame_len as usize, out)
}

/// The same for a frame that is known to begin, up to the first byte of the IPv4 header, like one for which [`parse_plain`] was true.
#[inline(always)]
pub fn parse_plain_network(head: &[u8], frame_len: u32, out: &mut Headers) -> bool {
    plain::parse_network(head, frame_len as usize, out)
}

/// The same for any frame, outermost header first.
#[inline(never)]
pub(crate) fn parse_any(head: &[u8], frame_len: usize, out: &mut Headers) -> Result<(), ParseError> {
    let head = head.get(..frame_len).unwrap_or(head);
    if frame_len <= ethernet::HEADER_LENGTH {
        return Err(ParseError::Runt);
    }
    let input = Input { head, frame_len };
    let Some(frame) = ethernet::View::new(input.head) else {
        return Err(ParseError::HeaderTooLong);
    };
    let ether_type = frame.ether_type();
    let mut link = Link { l3_offset: ethernet::HEADER_LENGTH as u8, vlan_count: 0, vlan_id: 0, ether_type };
    if vlan::is_tag(ether_type) {
        link = vlan::parse(input.head, frame_len, ether_type)?;
    }
    match link.ether_type {
        ethernet::IPV4 => ipv4::parse(input, link, out),
        ethernet::IPV6 => ipv6::parse(input, link, out),
        ethernet::ARP => arp::parse(input, link).map(|headers| *out = headers),
        length if length < ethernet::MIN_ETHER_TYPE => Err(ParseError::Llc),
        _ => {
            *out = opaque(input, link);
            Ok(())
        }
    }
}

/// A network layer that is not looked into.
fn opaque(input: Input<'_>, link: Link) -> Headers {
    let rest = input.frame_len.saturating_sub(usize::from(link.l3_offset));
    network(link, L3::Other, rest as u32)
}

/// Headers that end with the network layer.
#[inline]
pub(crate) fn network(link: Link, l3: L3, l3_length: u32) -> Headers {
    Headers {
        l3_length,
        ether_type: link.ether_type,
        vlan_id: link.vlan_id,
        l3_offset: link.l3_offset,
        l4_offset: link.l3_offset,
        payload_offset: link.l3_offset,
        l3,
        l4: L4::None,
        vlan_count: link.vlan_count,
        ..Headers::default()
    }
}
