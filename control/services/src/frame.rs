//! From a frame to the datagram in it, and from a message to the frame around it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use packet::checksum::{Sum, pseudo_header_v4, pseudo_header_v6};
use packet::{Fragment, HEAD_LENGTH, Headers, L4, MacAddr, ethernet, icmp, ipv4, ipv6, udp};

use crate::Refusal;

/// Everybody on an IPv6 link.
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Offset of the checksum in a UDP header.
const UDP_CHECKSUM_OFFSET: usize = 6;

/// The link-local address of a station with this MAC address (EUI-64, RFC 4291 appendix A).
#[must_use]
pub const fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        u16::from_be_bytes([a ^ 2, b]),
        u16::from_be_bytes([c, 0xff]),
        u16::from_be_bytes([0xfe, d]),
        u16::from_be_bytes([e, f]),
    )
}

/// A UDP datagram in a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagram<'a> {
    pub(crate) link_source: MacAddr,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    /// What UDP carries, by its own length.
    pub(crate) payload: &'a [u8],
}

/// The headers of an untagged frame. Priority tags are skipped.
pub(crate) fn headers(frame: &[u8]) -> Result<Headers, Refusal> {
    let length = u32::try_from(frame.len()).map_err(|_| Refusal::Headers)?;
    let head = frame.get(..HEAD_LENGTH).unwrap_or(frame);
    let headers = packet::parse(head, length).map_err(|_| Refusal::Headers)?;
    if headers.vlan_count != 0 { Err(Refusal::Headers) } else { Ok(headers) }
}

/// The UDP datagram in a frame.
pub(crate) fn datagram(frame: &[u8]) -> Result<Datagram<'_>, Refusal> {
    let headers = headers(frame)?;
    if headers.fragment != Fragment::Whole {
        return Err(Refusal::Fragmented);
    }
    if headers.l4 != L4::Udp {
        return Err(Refusal::NotForUs);
    }
    let link = ethernet::View::new(frame).ok_or(Refusal::Headers)?;
    let udp_at = usize::from(headers.l4_offset);
    let header: &[u8; udp::HEADER_LENGTH] =
        frame.get(udp_at..).and_then(|rest| rest.first_chunk()).ok_or(Refusal::Headers)?;
    let end = udp_at + usize::from(u16::from_be_bytes([header[4], header[5]]));
    let payload = frame.get(udp_at + udp::HEADER_LENGTH..end).ok_or(Refusal::Headers)?;
    Ok(Datagram {
        link_source: link.source(),
        source: headers.source_ip(frame).ok_or(Refusal::Headers)?,
        destination: headers.destination_ip(frame).ok_or(Refusal::Headers)?,
        source_port: headers.source_port,
        destination_port: headers.destination_port,
        payload,
    })
}

/// Starts a frame.
fn begin(destination: MacAddr, source: MacAddr, ether_type: u16, room: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ethernet::HEADER_LENGTH + room);
    frame.extend_from_slice(&destination.0);
    frame.extend_from_slice(&source.0);
    frame.extend_from_slice(&ether_type.to_be_bytes());
    frame
}

/// A frame to `link.0` from `link.1` around a whole IP packet, whose first bits say which.
pub(crate) fn of_ip(link: (MacAddr, MacAddr), packet: &[u8]) -> Vec<u8> {
    let is_v6 = packet.first().is_some_and(|byte| byte >> 4 == 6);
    let mut frame = begin(link.0, link.1, if is_v6 { ethernet::IPV6 } else { ethernet::IPV4 }, packet.len());
    frame.extend_from_slice(packet);
    frame
}

/// Stores a checksum at `at`.
fn store(frame: &mut [u8], at: usize, checksum: u16) {
    if let Some(field) = frame.get_mut(at..at + 2) {
        field.copy_from_slice(&checksum.to_be_bytes());
    }
}

/// The bytes of `frame` from `at`, for a sum.
fn tail(frame: &[u8], at: usize) -> &[u8] {
    frame.get(at..).unwrap_or_default()
}

/// A UDP header, its checksum 0. `payload` is below 2^16 bytes wherever this is called: a message of ours.
fn put_udp(frame: &mut Vec<u8>, source: u16, destination: u16, payload: &[u8]) {
    frame.extend_from_slice(&source.to_be_bytes());
    frame.extend_from_slice(&destination.to_be_bytes());
    frame.extend_from_slice(&((udp::HEADER_LENGTH + payload.len()) as u16).to_be_bytes());
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(payload);
}

/// Starts an IPv4 packet: never fragmented, TTL 64.
fn begin_ipv4(
    link: (MacAddr, MacAddr),
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    length: usize,
) -> Vec<u8> {
    let total = ipv4::MIN_HEADER_LENGTH + length;
    let mut frame = begin(link.0, link.1, ethernet::IPV4, total);
    frame.extend_from_slice(&[0x45, 0]);
    frame.extend_from_slice(&(total as u16).to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0x40, 0, 64, protocol, 0, 0]);
    frame.extend_from_slice(&source.octets());
    frame.extend_from_slice(&destination.octets());
    let checksum = Sum::of(tail(&frame, ethernet::HEADER_LENGTH)).finish();
    store(&mut frame, ethernet::HEADER_LENGTH + ipv4::CHECKSUM_OFFSET, checksum);
    frame
}

/// A frame to `link.0` from `link.1` with a UDP datagram.
pub(crate) fn udp4(
    link: (MacAddr, MacAddr),
    source: SocketAddrV4,
    destination: SocketAddrV4,
    payload: &[u8],
) -> Vec<u8> {
    let length = udp::HEADER_LENGTH + payload.len();
    let mut frame = begin_ipv4(link, *source.ip(), *destination.ip(), udp::PROTOCOL, length);
    let at = frame.len();
    put_udp(&mut frame, source.port(), destination.port(), payload);
    let sum = pseudo_header_v4(*source.ip(), *destination.ip(), udp::PROTOCOL, length as u16)
        .plus(Sum::of(tail(&frame, at)));
    store(&mut frame, at + UDP_CHECKSUM_OFFSET, sum.finish_nonzero());
    frame
}

/// Starts an IPv6 packet.
fn begin_ipv6(
    link: (MacAddr, MacAddr),
    source: Ipv6Addr,
    destination: Ipv6Addr,
    (protocol, hop_limit): (u8, u8),
    length: usize,
) -> Vec<u8> {
    let mut frame = begin(link.0, link.1, ethernet::IPV6, ipv6::HEADER_LENGTH + length);
    frame.extend_from_slice(&[0x60, 0, 0, 0]);
    frame.extend_from_slice(&(length as u16).to_be_bytes());
    frame.extend_from_slice(&[protocol, hop_limit]);
    frame.extend_from_slice(&source.octets());
    frame.extend_from_slice(&destination.octets());
    frame
}

/// A frame with a UDP datagram over IPv6.
pub(crate) fn udp6(
    link: (MacAddr, MacAddr),
    source: SocketAddrV6,
    destination: SocketAddrV6,
    payload: &[u8],
) -> Vec<u8> {
    let length = udp::HEADER_LENGTH + payload.len();
    let mut frame = begin_ipv6(link, *source.ip(), *destination.ip(), (udp::PROTOCOL, 64), length);
    let at = frame.len();
    put_udp(&mut frame, source.port(), destination.port(), payload);
    let sum = pseudo_header_v6(*source.ip(), *destination.ip(), udp::PROTOCOL, length as u32)
        .plus(Sum::of(tail(&frame, at)));
    store(&mut frame, at + UDP_CHECKSUM_OFFSET, sum.finish_nonzero());
    frame
}

/// A frame with an ICMPv6 message of this link (hop limit 255), its checksum computed here.
pub(crate) fn icmp6(
    link: (MacAddr, MacAddr),
    source: Ipv6Addr,
    destination: Ipv6Addr,
    message: &[u8],
) -> Vec<u8> {
    let mut frame = begin_ipv6(link, source, destination, (icmp::PROTOCOL_V6, 255), message.len());
    let at = frame.len();
    frame.extend_from_slice(message);
    let sum =
        pseudo_header_v6(source, destination, icmp::PROTOCOL_V6, message.len() as u32).plus(Sum::of(message));
    store(&mut frame, at + icmp::CHECKSUM_OFFSET, sum.finish());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_are_eui_64() {
        let mac = MacAddr([0x02, 0x00, 0x5e, 0x10, 0x20, 0x30]);
        assert_eq!(link_local(mac).to_string(), "fe80::5eff:fe10:2030");
        assert_eq!(link_local(MacAddr([0x52, 0x54, 0, 1, 2, 3])).to_string(), "fe80::5054:ff:fe01:203");
    }

    #[test]
    fn what_is_written_is_read() {
        let link = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        let v4 = udp4(link, "10.0.0.1:67".parse().unwrap(), "10.0.0.2:68".parse().unwrap(), b"hello");
        let read = datagram(&v4).unwrap();
        assert_eq!((read.payload, read.source_port, read.destination_port), (&b"hello"[..], 67, 68));
        let v6 = udp6(link, "[fe80::1]:547".parse().unwrap(), "[fe80::2]:546".parse().unwrap(), b"hello!");
        assert_eq!(datagram(&v6).unwrap().payload, b"hello!");
        assert_eq!(datagram(&v6).unwrap().link_source, link.1);
    }
}
