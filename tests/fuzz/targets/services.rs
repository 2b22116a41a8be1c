//! What guests and the underlay send to the services that the switch answers itself: nothing panics, answers are packets of ours within
//! their bounds that give nothing but the port's, and no guest speaks to a metadata service in another's name.
#![no_main]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use packet::checksum::{Sum, pseudo_header_v6};
use packet::{HEAD_LENGTH, MacAddr, parse};
use services::dhcp4::{self, Lease4};
use services::dhcp6::{self, Lease6};
use services::link_local;
use services::metadata::{self, Broken, Identity, Limits, Proxy, Read, StreamId, Upstream};
use services::neighbours::{Action, Link, Resolver};
use services::ra::{self, Advertisement};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 10]);
const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 10);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
const IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x10);
const NOW: Duration = Duration::from_secs(100);

// The first byte says what the rest is: a whole frame, or what a well-formed frame carries to one of the services.
fuzz_target!(|data: &[u8]| {
    let Some((&what, rest)) = data.split_first() else { return };
    match what % 6 {
        0 => {
            addresses4(rest);
            addresses6(rest);
            router(rest);
            neighbour(rest);
            web(&[rest]);
        }
        1 => addresses4(&ipv4(Ipv4Addr::BROADCAST, 17, &udp(68, 67, rest))),
        2 => addresses6(&ipv6(link_local(MAC), dhcp6::ALL_SERVERS, 17, &udp(546, 547, rest))),
        3 => router(&ipv6(
            link_local(MAC),
            ra::ALL_ROUTERS,
            58,
            &icmp6(link_local(MAC), ra::ALL_ROUTERS, rest),
        )),
        4 => {
            neighbour(&ipv6(IP6, link_local(GATEWAY_MAC), 58, &icmp6(IP6, link_local(GATEWAY_MAC), rest)));
            neighbour(&[&GATEWAY_MAC.0[..], &MAC.0, &[8, 6], rest].concat());
        }
        _ => web(&rest.chunks(61).collect::<Vec<_>>()),
    }
});

fn ethernet(kind: [u8; 2], packet: &[u8]) -> Vec<u8> {
    [&GATEWAY_MAC.0[..], &MAC.0, &kind, packet].concat()
}

fn ipv4(destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let total = (20 + payload.len()) as u16;
    let header =
        [&[0x45, 0][..], &total.to_be_bytes(), &[0, 0, 0, 0, 64, protocol, 0, 0], &IP.octets()].concat();
    ethernet([8, 0], &[&header[..], &destination.octets(), payload].concat())
}

fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    let header =
        [&[0x60, 0, 0, 0][..], &length, &[next, 255], &source.octets(), &destination.octets()].concat();
    ethernet([0x86, 0xdd], &[&header, payload].concat())
}

fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    [&source.to_be_bytes()[..], &destination.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}

/// The message with the right checksum.
fn icmp6(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    if let Some(field) = message.get_mut(2..4) {
        field.fill(0);
    }
    let sum =
        pseudo_header_v6(source, destination, 58, message.len() as u32).plus(Sum::of(&message)).finish();
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// Every answer is a packet, from whom and to whom it may be.
fn check(frame: &[u8], longest: usize) {
    assert!(frame.len() <= longest);
    let head = &frame[..frame.len().min(HEAD_LENGTH)];
    parse(head, frame.len() as u32).expect("an answer is a packet");
    assert_eq!(frame[6..12], GATEWAY_MAC.0);
    assert!(frame[..6] == MAC.0 || frame[0] & 1 == 1, "to the port or to all");
}

fn addresses4(frame: &[u8]) {
    let lease = Lease4 {
        mac: MAC,
        ip: IP,
        prefix: 24,
        gateway: GATEWAY,
        gateway_mac: GATEWAY_MAC,
        dns: vec![GATEWAY],
        domain: Some("blue.internal".into()),
        hostname: Some("vm1".into()),
        mtu: 1450,
        lease: 3600,
        routes: vec![("169.254.169.254/32".parse().expect("a prefix"), GATEWAY)],
    };
    if let Ok(Some(answer)) = dhcp4::answer(&lease, frame) {
        check(&answer, dhcp4::MAX_ANSWER);
        let yours = &answer[14 + 28 + 16..14 + 28 + 20];
        assert!(yours == IP.octets() || yours == [0; 4]);
    }
}

fn addresses6(frame: &[u8]) {
    let lease = Lease6 {
        mac: MAC,
        addresses: vec![IP6],
        gateway_mac: GATEWAY_MAC,
        dns: vec![IP6],
        domains: vec!["blue.internal".into()],
        lease: 3600,
    };
    if let Ok(Some(answer)) = dhcp6::answer(&lease, frame) {
        check(&answer, dhcp6::MAX_ANSWER);
    }
}

fn router(frame: &[u8]) {
    let advertisement = Advertisement {
        gateway_mac: GATEWAY_MAC,
        prefixes: vec!["fd00::/64".parse().expect("a prefix")],
        mtu: 1450,
        dns: vec![IP6],
        domains: vec!["blue.internal".into()],
        default_router: true,
    };
    if let Ok(answer) = ra::answer(&advertisement, frame) {
        // It goes to the frame's source, whoever that is: port security looked at it before.
        let mut answer = answer;
        if answer[..6] == frame[6..12] {
            answer[..6].copy_from_slice(&MAC.0);
        }
        check(&answer, ra::MAX_ANSWER);
    }
}

fn neighbour(frame: &[u8]) {
    let addresses =
        vec!["10.0.1.1/24".parse().expect("an address"), "fd00::1/64".parse().expect("an address")];
    let link = Link { mac: GATEWAY_MAC, addresses, gateways: Vec::new() };
    let mut resolver = Resolver::new(link, 1);
    let ids = [IpAddr::V4(IP), IpAddr::V6(IP6)].map(|ip| resolver.resolve(ip, NOW).expect("on the link"));
    assert_eq!(resolver.on_tick(NOW).len(), 2);
    if let Ok(actions) = resolver.on_frame(frame, NOW) {
        assert!(actions.len() <= 1);
        for action in actions {
            let Action::Reachable { id, mac } = action else { panic!("{action:?}") };
            assert!(ids.contains(&id) && mac.is_unicast() && mac != GATEWAY_MAC);
        }
    }
}

/// A service that keeps what it was sent.
#[derive(Default)]
struct Service(BTreeMap<StreamId, Vec<u8>>);

impl Upstream for Service {
    fn open(&mut self, stream: StreamId, _: &str) -> Result<(), Broken> {
        assert!(self.0.insert(stream, Vec::new()).is_none());
        Ok(())
    }

    fn write(&mut self, stream: StreamId, bytes: &[u8]) -> Result<usize, Broken> {
        self.0.get_mut(&stream).ok_or(Broken)?.extend(bytes);
        Ok(bytes.len())
    }

    fn read(&mut self, _: StreamId, _: &mut [u8]) -> Result<Read, Broken> {
        Ok(Read::Nothing)
    }

    fn close(&mut self, _: StreamId) {}
}

/// A connection that carries these pieces; or, if it is only one, a frame as it is.
fn web(pieces: &[&[u8]]) {
    let mut service = Service::default();
    let mut proxy = Proxy::new(Limits::default(), 1);
    let identity = Identity {
        port: "vm1".into(),
        project: "default".into(),
        vpc: "blue".into(),
        mac: MAC,
        gateway_mac: GATEWAY_MAC,
        addresses: vec![IpAddr::V4(IP), IpAddr::V6(IP6)],
        mtu: 1450,
        service: String::new(),
    };
    proxy.set_port(0, identity, &mut service);
    if let [frame] = pieces {
        let _ = proxy.on_frame(0, frame, NOW, &mut service);
    }
    let segment = |sequence: u32, acknowledged: u32, flags: u8, data: &[u8]| {
        let header =
            [&[0x9c, 0x40, 0, 80][..], &sequence.to_be_bytes(), &acknowledged.to_be_bytes()].concat();
        ipv4(metadata::ADDRESS_V4, 6, &[&header[..], &[0x50, flags, 0x20, 0, 0, 0, 0, 0], data].concat())
    };
    let opened = proxy.on_frame(0, &segment(0, 0, 2, &[]), NOW, &mut service).expect("a connection");
    let theirs = u32::from_be_bytes(opened[0].1[38..42].try_into().expect("four bytes")).wrapping_add(1);
    let mut sequence = 1u32;
    for piece in pieces {
        if let Ok(frames) = proxy.on_frame(0, &segment(sequence, theirs, 0x18, piece), NOW, &mut service) {
            frames.iter().for_each(|(_, frame)| check(frame, 1464));
        }
        sequence += piece.len() as u32;
    }
    assert!(service.0.len() <= 1, "one request a connection");
    for request in service.0.values().filter(|request| !request.is_empty()) {
        let end = request.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole head");
        let head = String::from_utf8_lossy(&request[..end]).to_lowercase().replace('_', "-");
        for (name, value) in
            [("x-towpath-port", "vm1"), ("x-towpath-vpc", "blue"), ("x-forwarded-for", "10.0.1.10")]
        {
            let said: Vec<&str> =
                head.split("\r\n").filter(|line| line.starts_with(&format!("{name}:"))).collect();
            assert_eq!(said, [format!("{name}: {value}")]);
        }
    }
}
