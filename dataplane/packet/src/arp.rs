//! ARP for Ethernet and IPv4 (RFC 826).

use std::net::Ipv4Addr;

use crate::bytes::{array, put};
use crate::parse::{Input, network};
use crate::vlan::Link;
use crate::{Headers, L3, MacAddr, ParseError, ethernet};

/// Bytes of a message.
pub const LENGTH: usize = 28;

/// The first eight bytes of every message that is accepted, but for the last two, the operation.
pub(crate) const FORMAT: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// What a message asks or says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has its address.
    Reply,
    /// Neither; the number as it is.
    Other(u16),
}

/// An ARP message.
#[derive(Clone, Copy, Debug)]
pub struct View<'a>(&'a [u8; LENGTH]);

impl<'a> View<'a> {
    /// The message that these headers found, if they did.
    #[inline]
    #[must_use]
    pub fn new(head: &'a [u8], headers: &Headers) -> Option<Self> {
        match headers.l3 {
            L3::Arp => array(head, usize::from(headers.l3_offset)).map(View),
            _ => None,
        }
    }

    /// What it asks or says.
    #[inline]
    #[must_use]
    pub fn operation(&self) -> Operation {
        match u16::from_be_bytes([self.0[6], self.0[7]]) {
            1 => Operation::Request,
            2 => Operation::Reply,
            other => Operation::Other(other),
        }
    }

    /// The sender's MAC address, which may differ from the frame's.
    #[inline]
    #[must_use]
    pub fn sender_mac(&self) -> MacAddr {
        let [_, _, _, _, _, _, _, _, a, b, c, d, e, f, ..] = *self.0;
        MacAddr([a, b, c, d, e, f])
    }

    /// The sender's address; 0.0.0.0 in a probe (RFC 5227).
    #[inline]
    #[must_use]
    pub fn sender_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[14], self.0[15], self.0[16], self.0[17])
    }

    /// The target's MAC address; anything in a request.
    #[inline]
    #[must_use]
    pub fn target_mac(&self) -> MacAddr {
        let [.., a, b, c, d, e, f, _, _, _, _] = *self.0;
        MacAddr([a, b, c, d, e, f])
    }

    /// The address asked for.
    #[inline]
    #[must_use]
    pub fn target_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[24], self.0[25], self.0[26], self.0[27])
    }

    /// Somebody says where its own address is: sender and target address are the same (RFC 5944 section 4.6), in a
    /// request or a reply.
    #[inline]
    #[must_use]
    pub fn is_gratuitous(&self) -> bool {
        self.sender_ip() == self.target_ip()
            && !self.sender_ip().is_unspecified()
            && matches!(self.operation(), Operation::Request | Operation::Reply)
    }
}

#[inline(never)]
pub(crate) fn parse(input: Input<'_>, link: Link) -> Result<Headers, ParseError> {
    let at = usize::from(link.l3_offset);
    let message: &[u8; LENGTH] = input.take(at, input.frame_len, ParseError::ArpTruncated)?;
    if !message.starts_with(&FORMAT) {
        return Err(ParseError::ArpFormat);
    }
    Ok(network(link, L3::Arp, LENGTH as u32))
}

/// The five fields that differ between messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    pub(crate) operation: u16,
    pub(crate) sender_mac: MacAddr,
    pub(crate) sender_ip: Ipv4Addr,
    pub(crate) target_mac: MacAddr,
    pub(crate) target_ip: Ipv4Addr,
}

impl Message {
    /// Writes the message at `at` and returns where it ends.
    pub(crate) fn emit(&self, head: &mut [u8], at: usize) -> Option<usize> {
        head.get_mut(at..at + LENGTH)?;
        put(head, at, FORMAT)?;
        put(head, at + 6, self.operation.to_be_bytes())?;
        put(head, at + 8, self.sender_mac.0)?;
        put(head, at + 14, self.sender_ip.octets())?;
        put(head, at + 18, self.target_mac.0)?;
        put(head, at + 24, self.target_ip.octets())?;
        Some(at + LENGTH)
    }
}

/// Turns the request in `head` into the reply saying that its target is at `mac`, VLAN tags kept, and returns the
/// length of the frame (42 bytes without tags).
///
/// The reply goes to the station that sent the frame. `None`, with `head` unchanged, if these headers are not of a request.
pub fn reply_in_place(head: &mut [u8], headers: &Headers, mac: MacAddr) -> Option<u32> {
    let request = View::new(head, headers)?;
    if request.operation() != Operation::Request {
        return None;
    }
    let asker = ethernet::View::new(head)?.source();
    let reply = Message {
        operation: 2,
        sender_mac: mac,
        sender_ip: request.target_ip(),
        target_mac: request.sender_mac(),
        target_ip: request.sender_ip(),
    };
    let end = reply.emit(head, usize::from(headers.l3_offset))?;
    ethernet::set_addresses(head, asker, mac)?;
    Some(end as u32)
}
