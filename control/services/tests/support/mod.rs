//! Clients that write what they are told to, and readers of answers that share nothing with the code under test.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper of tests: each file uses its part, and what is wrong ends the test"
)]

use std::net::{Ipv4Addr, Ipv6Addr};

use packet::MacAddr;
use towpath_services::dhcp4::Lease4;
use towpath_services::dhcp6::Lease6;
use towpath_services::ra::Advertisement;

pub const MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 10]);
pub const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 10);
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);

pub fn lease4() -> Lease4 {
    Lease4 {
        mac: MAC,
        ip: IP,
        prefix: 24,
        gateway: GATEWAY,
        gateway_mac: GATEWAY_MAC,
        dns: vec![Ipv4Addr::new(10, 0, 1, 2), Ipv4Addr::new(10, 0, 1, 3)],
        domain: Some("blue.internal".into()),
        hostname: Some("vm1".into()),
        mtu: 1450,
        lease: 3600,
        routes: vec![("169.254.169.254/32".parse().expect("a prefix"), GATEWAY)],
    }
}

pub fn advertisement() -> Advertisement {
    Advertisement {
        gateway_mac: GATEWAY_MAC,
        prefixes: vec!["fd00:10:0:1::/64".parse().expect("a prefix")],
        mtu: 1450,
        dns: vec!["fd00:10:0:1::2".parse().expect("an address")],
        domains: vec!["blue.internal".into()],
        default_router: true,
    }
}

/// RFC 1071 as it reads.
pub fn sum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

pub fn ethernet(destination: MacAddr, source: MacAddr, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&destination.0[..], &source.0, &kind.to_be_bytes(), payload].concat()
}

pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let total = (20 + payload.len()) as u16;
    let mut header = [&[0x45, 0][..], &total.to_be_bytes(), &[0, 0, 0, 0, 64, protocol, 0, 0]].concat();
    header.extend(source.octets());
    header.extend(destination.octets());
    let checksum = !sum(&[&header]);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    [&header, payload].concat()
}

pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0][..], &length, &[next, hops], &source.octets(), &destination.octets(), payload].concat()
}

/// An ICMPv6 message with its checksum, in IPv6.
pub fn icmp6(source: Ipv6Addr, destination: Ipv6Addr, hops: u8, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    message[2..4].fill(0);
    let length = (message.len() as u32).to_be_bytes();
    let checksum = !sum(&[&source.octets(), &destination.octets(), &length, &[0, 0, 0, 58], &message]);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    ipv6(source, destination, 58, hops, &message)
}

/// A UDP datagram without checksum, as a guest that leaves it to be completed may send it.
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    [&source.to_be_bytes()[..], &destination.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}

/// What a DHCPv4 client sends.
#[derive(Clone, Debug)]
pub struct Client4 {
    pub link_source: MacAddr,
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub source_port: u16,
    pub destination_port: u16,
    pub op: u8,
    pub hops: u8,
    pub broadcast: bool,
    pub client: Ipv4Addr,
    pub relay: Ipv4Addr,
    pub hardware: MacAddr,
    pub name: Vec<u8>,
    pub file: Vec<u8>,
    /// Options as they are; the end option is added.
    pub raw: Vec<u8>,
    /// Behind the end option.
    pub tail: Vec<u8>,
}

impl Client4 {
    /// A message of this type from a client without address.
    pub fn new(kind: u8) -> Self {
        Client4 {
            link_source: MAC,
            source: Ipv4Addr::UNSPECIFIED,
            destination: Ipv4Addr::BROADCAST,
            source_port: 68,
            destination_port: 67,
            op: 1,
            hops: 0,
            broadcast: false,
            client: Ipv4Addr::UNSPECIFIED,
            relay: Ipv4Addr::UNSPECIFIED,
            hardware: MAC,
            name: Vec::new(),
            file: Vec::new(),
            raw: vec![53, 1, kind],
            tail: Vec::new(),
        }
    }

    pub fn option(mut self, code: u8, value: &[u8]) -> Self {
        self.raw.extend([code, value.len() as u8]);
        self.raw.extend(value);
        self
    }

    pub fn frame(&self) -> Vec<u8> {
        let mut message = vec![self.op, 1, 6, self.hops, 0xde, 0xad, 0xbe, 0xef, 0, 3];
        message.extend([if self.broadcast { 0x80 } else { 0 }, 0]);
        message.extend(self.client.octets());
        message.extend([0; 8]);
        message.extend(self.relay.octets());
        message.extend(self.hardware.0);
        message.extend([0xee; 10]);
        for (field, length) in [(&self.name, 64), (&self.file, 128)] {
            message.extend(field);
            message.extend(vec![0; length - field.len()]);
        }
        message.extend([99, 130, 83, 99]);
        message.extend(&self.raw);
        // A list that ends in the middle of an option must end with the message.
        if complete(&self.raw) {
            message.push(255);
            message.extend(&self.tail);
        }
        let udp = udp(self.source_port, self.destination_port, &message);
        let packet = ipv4(self.source, self.destination, 17, &udp);
        ethernet(MacAddr::BROADCAST, self.link_source, 0x0800, &packet)
    }
}

fn complete(mut options: &[u8]) -> bool {
    while let [code, rest @ ..] = options {
        options = match (code, rest) {
            (0, _) => rest,
            (255, _) => return true,
            (_, [length, rest @ ..]) if rest.len() >= usize::from(*length) => &rest[usize::from(*length)..],
            _ => return false,
        };
    }
    true
}

/// A server's answer, read by this file's own means; panics at anything that is wrong with it.
#[derive(Debug)]
pub struct Reply4 {
    pub link: MacAddr,
    pub link_source: MacAddr,
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    /// Bytes of the IP packet.
    pub datagram: usize,
    pub kind: u8,
    pub transaction: [u8; 4],
    pub client: Ipv4Addr,
    pub yours: Ipv4Addr,
    pub options: Vec<(u8, Vec<u8>)>,
    pub padding_is_zero: bool,
}

fn address(bytes: &[u8]) -> Ipv4Addr {
    Ipv4Addr::from(<[u8; 4]>::try_from(bytes).expect("four bytes"))
}

impl Reply4 {
    pub fn parse(frame: &[u8]) -> Self {
        let (ethernet, packet) = frame.split_at(14);
        assert_eq!(ethernet[12..], [8, 0]);
        assert_eq!(sum(&[&packet[..20]]), 0xffff, "IPv4 checksum");
        assert_eq!(packet.len(), usize::from(u16::from_be_bytes([packet[2], packet[3]])));
        let udp = &packet[20..];
        let pseudo = [&packet[12..20], &[0, 17], &udp[4..6]].concat();
        assert_eq!(sum(&[&pseudo, udp]), 0xffff, "UDP checksum");
        assert_eq!(udp[..4], [0, 67, 0, 68]);
        assert_eq!(udp.len(), usize::from(u16::from_be_bytes([udp[4], udp[5]])));
        let message = &udp[8..];
        assert!(
            message.len() >= 300 && message[..4] == [2, 1, 6, 0] && message[236..240] == [99, 130, 83, 99]
        );
        assert_eq!(message[28..34], MAC.0, "hardware address");
        let (options, behind) = Self::options(&message[240..]);
        let find = |code: u8| options.iter().find(|(found, _)| *found == code).expect("an option").1.clone();
        assert_eq!(find(54), GATEWAY.octets());
        Reply4 {
            link: MacAddr(ethernet[..6].try_into().expect("six bytes")),
            link_source: MacAddr(ethernet[6..12].try_into().expect("six bytes")),
            source: address(&packet[12..16]),
            destination: address(&packet[16..20]),
            datagram: packet.len(),
            kind: find(53)[0],
            transaction: message[4..8].try_into().expect("four bytes"),
            client: address(&message[12..16]),
            yours: address(&message[16..20]),
            padding_is_zero: behind.iter().all(|byte| *byte == 0)
                && message[20..28].iter().chain(&message[34..236]).all(|byte| *byte == 0),
            options,
        }
    }

    /// Options with the parts of long ones joined, and what is behind the end.
    fn options(mut bytes: &[u8]) -> (Vec<(u8, Vec<u8>)>, &[u8]) {
        let mut options: Vec<(u8, Vec<u8>)> = Vec::new();
        while bytes[0] != 255 {
            let length = usize::from(bytes[1]);
            let value = &bytes[2..2 + length];
            match options.iter_mut().find(|(code, _)| *code == bytes[0]) {
                Some((_, parts)) => parts.extend(value),
                None => options.push((bytes[0], value.to_vec())),
            }
            bytes = &bytes[2 + length..];
        }
        (options, &bytes[1..])
    }

    pub fn find(&self, code: u8) -> Option<&[u8]> {
        self.options.iter().find(|(found, _)| *found == code).map(|(_, value)| &value[..])
    }

    pub fn option(&self, code: u8) -> &[u8] {
        self.find(code).unwrap_or_else(|| panic!("option {code} in {:?}", self.options))
    }
}

pub const IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0, 1, 0, 0, 0, 0x10);

pub fn lease6() -> Lease6 {
    Lease6 {
        mac: MAC,
        addresses: vec![IP6],
        gateway_mac: GATEWAY_MAC,
        dns: vec!["fd00:10:0:1::2".parse().expect("an address")],
        domains: vec!["blue.internal".into()],
        lease: 3600,
    }
}

/// A DHCPv6 option.
pub fn option6(code: u16, value: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], &(value.len() as u16).to_be_bytes(), value].concat()
}

/// An identity association for addresses, with these.
pub fn ia_na(id: u8, addresses: &[Ipv6Addr]) -> Vec<u8> {
    let mut value = vec![0, 0, 0, id, 0, 0, 0, 0, 0, 0, 0, 0];
    for address in addresses {
        value.extend(option6(5, &[&address.octets()[..], &[0; 8]].concat()));
    }
    option6(3, &value)
}

/// The client's and the server's identifiers.
pub const CLIENT_DUID: &[u8] = &[0, 4, 0xca, 0xfe, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
pub const SERVER_DUID: &[u8] = &[0, 3, 0, 1, 2, 0, 0, 0, 0, 1];

/// What a DHCPv6 client sends.
#[derive(Clone, Debug)]
pub struct Client6 {
    pub link_source: MacAddr,
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
    pub kind: u8,
    pub options: Vec<u8>,
}

impl Client6 {
    /// A message of this type with these options.
    pub fn new(kind: u8, options: &[&[u8]]) -> Self {
        Client6 {
            link_source: MAC,
            source: towpath_services::link_local(MAC),
            destination: "ff02::1:2".parse().expect("an address"),
            kind,
            options: options.concat(),
        }
    }

    pub fn frame(&self) -> Vec<u8> {
        let message = [&[self.kind, 0xab, 0xcd, 0xef], &self.options[..]].concat();
        let udp = udp(546, 547, &message);
        let packet = ipv6(self.source, self.destination, 17, 1, &udp);
        ethernet(MacAddr([0x33, 0x33, 0, 1, 0, 2]), self.link_source, 0x86dd, &packet)
    }
}

/// A server's answer; panics at anything that is wrong with it.
#[derive(Debug)]
pub struct Reply6 {
    pub kind: u8,
    pub options: Vec<(u16, Vec<u8>)>,
}

/// Reads a list of options.
pub fn options6(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut options = Vec::new();
    while !bytes.is_empty() {
        let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        options.push((u16::from_be_bytes([bytes[0], bytes[1]]), bytes[4..4 + length].to_vec()));
        bytes = &bytes[4 + length..];
    }
    options
}

impl Reply6 {
    pub fn parse(frame: &[u8]) -> Self {
        assert_eq!(
            (&frame[..6], &frame[6..12], &frame[12..14]),
            (&MAC.0[..], &GATEWAY_MAC.0[..], &[0x86, 0xdd][..])
        );
        let (header, udp) = frame[14..].split_at(40);
        assert_eq!(header[8..24], towpath_services::link_local(GATEWAY_MAC).octets());
        assert_eq!(header[24..40], towpath_services::link_local(MAC).octets());
        assert_eq!(udp[..4], [2, 0x23, 2, 0x22]);
        assert_eq!((udp.len() as u16).to_be_bytes(), udp[4..6]);
        assert_eq!(header[4..6], udp[4..6]);
        let length = (udp.len() as u32).to_be_bytes();
        assert_eq!(sum(&[&header[8..40], &length, &[0, 0, 0, 17], udp]), 0xffff, "UDP checksum");
        let message = &udp[8..];
        assert_eq!(message[1..4], [0xab, 0xcd, 0xef]);
        let reply = Reply6 { kind: message[0], options: options6(&message[4..]) };
        assert_eq!(reply.option(2), SERVER_DUID);
        reply
    }

    pub fn find(&self, code: u16) -> Option<&[u8]> {
        self.options.iter().find(|(found, _)| *found == code).map(|(_, value)| &value[..])
    }

    pub fn option(&self, code: u16) -> &[u8] {
        self.find(code).unwrap_or_else(|| panic!("option {code} in {:?}", self.options))
    }

    /// The status code of the message.
    pub fn status(&self) -> u8 {
        self.option(13)[1]
    }

    /// Addresses in associations with their valid lifetimes.
    pub fn addresses(&self) -> Vec<(Ipv6Addr, u32)> {
        let associations = self.options.iter().filter(|(code, _)| *code == 3);
        let nested = associations.flat_map(|(_, value)| options6(&value[12..]));
        nested
            .filter(|(code, _)| *code == 5)
            .map(|(_, value)| {
                let octets: [u8; 16] = value[..16].try_into().expect("an address");
                assert_eq!(value[16..20], value[20..24], "preferred and valid");
                (octets.into(), u32::from_be_bytes(value[20..24].try_into().expect("a lifetime")))
            })
            .collect()
    }
}
