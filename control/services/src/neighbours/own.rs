//! What an uplink without a host behind it (a NIC that DPDK drives) answers for its own addresses: ARP, neighbour discovery, ping.

use std::net::IpAddr;

use packet::checksum::{Sum, pseudo_header_v6};
use packet::{Fragment, HEAD_LENGTH, Headers, L3, L4, MacAddr, arp, ethernet, icmp, ndp};

use super::Link;
use crate::{Refusal, frame};

/// Echo and echo reply (RFC 792, RFC 4443 section 4).
const ECHO_V4: (u8, u8) = (8, 0);
const ECHO_V6: (u8, u8) = (128, 129);

/// The frame that answers this one for an address of the uplink's: an ARP reply, a neighbour advertisement, or the echo of a ping, as
/// long as the ping. `None` for anything that does not ask for one of the uplink's addresses.
///
/// An uplink on a kernel interface does not call this: the kernel answers there.
///
/// # Errors
///
/// The frame asks for one of these and is malformed.
pub fn answer(link: &Link, question: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
    let headers = frame::headers(question)?;
    let destination = ethernet::View::new(question).ok_or(Refusal::Headers)?.destination();
    if destination != link.mac && !destination.is_multicast() {
        return Ok(None);
    }
    match (headers.l3, headers.l4) {
        (L3::Arp, _) => Ok(arp_reply(link, question, &headers)),
        (L3::Ipv6, L4::Icmpv6) => match icmp::type_and_code(question, &headers) {
            Some((ndp::NEIGHBOR_SOLICITATION, _)) => advertisement(link, question, &headers),
            Some((kind, 0)) if kind == ECHO_V6.0 => echo(link, question, &headers, destination),
            _ => Ok(None),
        },
        (L3::Ipv4, L4::Icmp) if icmp::type_and_code(question, &headers) == Some((ECHO_V4.0, 0)) => {
            echo(link, question, &headers, destination)
        }
        _ => Ok(None),
    }
}

/// The beginning of a frame, with room for an answer.
fn head(question: &[u8]) -> Vec<u8> {
    let mut head = question.get(..HEAD_LENGTH).unwrap_or(question).to_vec();
    head.resize(HEAD_LENGTH, 0);
    head
}

fn arp_reply(link: &Link, question: &[u8], headers: &Headers) -> Option<Vec<u8>> {
    let request = arp::View::new(question, headers)?;
    let target = IpAddr::V4(request.target_ip());
    if !link.is_own(target) || link.is_own(IpAddr::V4(request.sender_ip())) {
        return None;
    }
    let mut head = head(question);
    let length = arp::reply_in_place(&mut head, headers, link.mac)?;
    head.truncate(length as usize);
    Some(head)
}

fn advertisement(link: &Link, question: &[u8], headers: &Headers) -> Result<Option<Vec<u8>>, Refusal> {
    let beginning = question.get(..HEAD_LENGTH).unwrap_or(question);
    let message = ndp::parse(beginning, headers).map_err(super::message::refusal)?;
    let ndp::Message::Solicitation(solicitation) = message else { return Ok(None) };
    if !link.is_own(IpAddr::V6(solicitation.target)) {
        return Ok(None);
    }
    let mut head = head(question);
    let length = ndp::advertise_in_place(&mut head, headers, &solicitation, link.mac, ndp::Role::Host);
    Ok(length.map(|length| {
        head.truncate(length as usize);
        head
    }))
}

/// Only what is sent to one address of ours is echoed: never an answer to a broadcast or a group.
fn echo(
    link: &Link,
    question: &[u8],
    headers: &Headers,
    destination: MacAddr,
) -> Result<Option<Vec<u8>>, Refusal> {
    let (Some(asker), Some(own)) = (headers.source_ip(question), headers.destination_ip(question)) else {
        return Err(Refusal::Headers);
    };
    let is_one = |address: IpAddr| !address.is_multicast() && !address.is_unspecified();
    if destination != link.mac || !link.is_own(own) || link.is_own(asker) || !is_one(asker) {
        return Ok(None);
    }
    if headers.fragment != Fragment::Whole {
        return Err(Refusal::Fragmented);
    }
    let message =
        question.get(usize::from(headers.l4_offset)..headers.l3_end() as usize).ok_or(Refusal::Headers)?;
    let pseudo = match (asker, own) {
        (IpAddr::V6(asker), IpAddr::V6(own)) => {
            pseudo_header_v6(asker, own, icmp::PROTOCOL_V6, message.len() as u32)
        }
        _ => Sum::ZERO,
    };
    if !pseudo.plus(Sum::of(message)).is_right() {
        return Err(Refusal::Checksum);
    }
    let back = (ethernet::View::new(question).ok_or(Refusal::Headers)?.source(), link.mac);
    let rest = message.get(4..).ok_or(Refusal::Truncated)?;
    Ok(Some(match (own, asker) {
        (IpAddr::V4(own), IpAddr::V4(asker)) => {
            let mut reply = [&[ECHO_V4.1, 0, 0, 0], rest].concat();
            let checksum = Sum::of(&reply).finish().to_be_bytes();
            reply.splice(2..4, checksum);
            let mut frame = frame::begin_ipv4(back, own, asker, icmp::PROTOCOL, reply.len());
            frame.extend_from_slice(&reply);
            frame
        }
        (IpAddr::V6(own), IpAddr::V6(asker)) => {
            frame::icmp6(back, own, asker, &[&[ECHO_V6.1, 0, 0, 0], rest].concat())
        }
        _ => return Err(Refusal::Addresses),
    }))
}
