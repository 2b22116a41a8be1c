//! One of each frame that the services send, read by `tshark`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, ensure};
use packet::{HEAD_LENGTH, arp, ndp};
use services::metadata::{self, Limits, Proxy};
use services::neighbours::{Action, Link, Resolver};
use services::ra::Advertisement;
use services::{announce, dhcp4, dhcp6, link_local, ra};
use towpath_tests::Result;
use towpath_tests::scratch::Scratch;

use super::dissect::dissect;
use super::driver::{
    Echo, GATEWAY, GATEWAY_MAC, GATEWAY6, IP, IP6, MAC, advertisement, identity, lease4, lease6,
};

const NOW: Duration = Duration::from_secs(1);

/// RFC 1071.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let bytes = parts.concat();
    let sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes()
}

fn ethernet(kind: u16, packet: &[u8]) -> Vec<u8> {
    [&GATEWAY_MAC.0[..], &MAC.0, &kind.to_be_bytes(), packet].concat()
}

fn ipv4(destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let total = (20 + payload.len()) as u16;
    let mut header = [&[0x45, 0][..], &total.to_be_bytes(), &[0, 0, 0, 0, 64, protocol, 0, 0]].concat();
    header.extend(IP.octets());
    header.extend(destination.octets());
    let sum = checksum(&[&header]);
    header.splice(10..12, sum);
    ethernet(0x0800, &[&header, payload].concat())
}

fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, (next, hops): (u8, u8), payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    let header =
        [&[0x60, 0, 0, 0][..], &length, &[next, hops], &source.octets(), &destination.octets()].concat();
    ethernet(0x86dd, &[&header, payload].concat())
}

fn icmp6(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    let length = (message.len() as u32).to_be_bytes();
    let sum = checksum(&[&source.octets(), &destination.octets(), &length, &[0, 0, 0, 58], &message]);
    message.splice(2..4, sum);
    ipv6(source, destination, (58, 255), &message)
}

fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    [&source.to_be_bytes()[..], &destination.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}

/// A DHCPv4 message with these options.
fn dhcp4_question(client: Ipv4Addr, options: &[u8]) -> Vec<u8> {
    let mut message = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0, 0];
    message.extend(client.octets());
    message.extend([0; 12]);
    message.extend(MAC.0);
    message.extend([0; 202]);
    message.extend([99, 130, 83, 99]);
    message.extend(options);
    message.push(255);
    ipv4(Ipv4Addr::BROADCAST, 17, &udp(68, 67, &message))
}

fn option6(code: u16, value: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], &(value.len() as u16).to_be_bytes(), value].concat()
}

fn dhcp6_question(kind: u8, options: &[Vec<u8>]) -> Vec<u8> {
    let message = [&[kind, 1, 2, 3], &options.concat()[..]].concat();
    ipv6(link_local(MAC), dhcp6::ALL_SERVERS, (17, 1), &udp(546, 547, &message))
}

fn dhcp4_answers() -> Result<Vec<Vec<u8>>> {
    let ip = IP.octets();
    let all =
        [&[53, 1, 1, 61, 7, 1][..], &MAC.0, &[57, 2, 5, 220, 55, 7, 1, 3, 6, 12, 119, 121, 249]].concat();
    let request = [&[53, 1, 3, 50, 4][..], &ip].concat();
    let wrong = [53, 1, 3, 50, 4, 10, 0, 1, 77];
    let questions = [
        dhcp4_question(Ipv4Addr::UNSPECIFIED, &all),
        dhcp4_question(Ipv4Addr::UNSPECIFIED, &[&all[..], &[80, 0]].concat()),
        dhcp4_question(Ipv4Addr::UNSPECIFIED, &request),
        dhcp4_question(IP, &[53, 1, 3]),
        dhcp4_question(Ipv4Addr::UNSPECIFIED, &wrong),
        dhcp4_question(IP, &[53, 1, 8]),
    ];
    // Routes that take more than one option.
    let mut long = lease4()?;
    long.routes =
        (0..60).map(|i| Ok((format!("172.16.{i}.0/24").parse()?, GATEWAY))).collect::<Result<_>>()?;
    let mut answers = vec![dhcp4::answer(&long, &questions[0])?.context("an offer")?];
    for question in &questions {
        answers.push(dhcp4::answer(&lease4()?, question)?.context("an answer")?);
    }
    Ok(answers)
}

fn dhcp6_answers() -> Result<Vec<Vec<u8>>> {
    let client = option6(1, &[&[0, 1, 0, 1, 1, 2, 3, 4][..], &MAC.0].concat());
    let server = option6(2, &[&[0, 3, 0, 1][..], &GATEWAY_MAC.0].concat());
    let address = |ip: Ipv6Addr| option6(5, &[&ip.octets()[..], &[0; 8]].concat());
    let association =
        |ip: Ipv6Addr| option6(3, &[&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], &address(ip)[..]].concat());
    let prefix = option6(25, &[0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
    let temporary = option6(4, &[0, 0, 0, 3]);
    let other = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 9);
    let questions = [
        dhcp6_question(1, &[client.clone(), association(other), prefix, temporary]),
        dhcp6_question(1, &[client.clone(), option6(14, &[]), association(IP6)]),
        dhcp6_question(3, &[client.clone(), server.clone(), association(IP6)]),
        dhcp6_question(4, &[client.clone(), association(other)]),
        dhcp6_question(6, &[client.clone(), association(other)]),
        dhcp6_question(8, &[client.clone(), server, association(IP6)]),
        dhcp6_question(11, &[client, option6(6, &[0, 32])]),
    ];
    questions.iter().map(|question| dhcp6::answer(&lease6()?, question)?.context("an answer")).collect()
}

fn advertisements() -> Result<Vec<Vec<u8>>> {
    let plan = advertisement()?;
    let solicitation = icmp6(link_local(MAC), ra::ALL_ROUTERS, &[133, 0, 0, 0, 0, 0, 0, 0]);
    let long = Advertisement {
        prefixes: (1..17).map(|i| Ok(format!("fd00:{i}::/64").parse()?)).collect::<Result<_>>()?,
        domains: (1..20).map(|i| format!("domain-{i}.internal")).collect(),
        ..plan.clone()
    };
    Ok(vec![
        ra::answer(&plan, &solicitation)?,
        ra::unsolicited(&plan),
        ra::farewell(&plan),
        ra::unsolicited(&long),
    ])
}

/// What an uplink answers for itself, by the emitters that the switch's stage uses.
fn answer_of(question: &[u8]) -> Result<Vec<u8>> {
    let mut head = question.to_vec();
    head.resize(HEAD_LENGTH, 0);
    let headers = packet::parse(question, question.len() as u32)?;
    let length = match ndp::parse(question, &headers)? {
        ndp::Message::Solicitation(asked) => {
            ndp::advertise_in_place(&mut head, &headers, &asked, GATEWAY_MAC, ndp::Role::Host)
        }
        _ => arp::reply_in_place(&mut head, &headers, GATEWAY_MAC),
    };
    head.truncate(length.context("an answer")? as usize);
    Ok(head)
}

/// What a resolver asks, first everybody and then one, and what it is answered.
fn neighbour_frames() -> Result<Vec<Vec<u8>>> {
    let addresses = vec![format!("{IP}/24").parse()?, format!("{IP6}/64").parse()?];
    let mut resolver = Resolver::new(Link { mac: MAC, addresses, gateways: Vec::new() }, 1);
    let mut frames = Vec::new();
    for target in [IpAddr::V4(GATEWAY), IpAddr::V6(GATEWAY6)] {
        let mut now = NOW;
        let id = resolver.resolve(target, now)?;
        let mut asked = 0;
        // Asked, answered, stale, used, asked again.
        while asked < 2 {
            for action in resolver.on_tick(now) {
                let Action::Send(question) = action else { continue };
                asked += 1;
                let answer = answer_of(&question)?;
                resolver.on_frame(&answer, now)?;
                frames.extend([question, answer]);
            }
            resolver.used(id, now);
            now = resolver.next_deadline().unwrap_or(now).max(now);
        }
        resolver.release(id, now);
    }
    Ok(frames)
}

/// A connection whose request is refused, over both families.
fn metadata_frames() -> Result<Vec<Vec<u8>>> {
    let mut frames = Vec::new();
    let mut echo = Echo::default();
    let mut proxy = Proxy::new(Limits::default(), 5);
    proxy.set_port(0, identity(), &mut echo);
    for v6 in [false, true] {
        let segment = |sequence: u32, acknowledged: u32, flags: u8, data: &[u8]| {
            let numbers = [sequence.to_be_bytes(), acknowledged.to_be_bytes()].concat();
            let segment =
                [&[0x9c, 0x40, 0, 80][..], &numbers, &[0x50, flags, 0x20, 0, 0, 0, 0, 0], data].concat();
            if v6 {
                ipv6(IP6, metadata::ADDRESS_V6, (6, 64), &segment)
            } else {
                ipv4(metadata::ADDRESS_V4, 6, &segment)
            }
        };
        let opened = proxy.on_frame(0, &segment(100, 0, 2, &[]), NOW, &mut echo)?;
        ensure!(opened.len() == 1, "a SYN is answered once");
        let tcp = if v6 { 54 } else { 34 };
        let theirs = u32::from_be_bytes(opened[0].1[tcp + 4..tcp + 8].try_into()?).wrapping_add(1);
        let answered = proxy.on_frame(0, &segment(101, theirs, 0x18, b"NONSENSE\r\n\r\n"), NOW, &mut echo)?;
        ensure!(!answered.is_empty(), "nonsense is answered");
        frames.extend(opened.into_iter().chain(answered).map(|(_, frame)| frame));
    }
    Ok(frames)
}

#[test]
#[ignore = "needs tshark: run by `make test`"]
fn tshark_finds_nothing_wrong_with_any_frame_of_ours() -> Result<()> {
    let scratch = Scratch::new()?;
    let kinds: [(&str, Vec<Vec<u8>>); 6] = [
        ("eth:ethertype:ip:udp:dhcp", dhcp4_answers()?),
        ("eth:ethertype:ipv6:udp:dhcpv6", dhcp6_answers()?),
        ("eth:ethertype:ipv6:icmpv6", advertisements()?),
        ("eth:ethertype:", neighbour_frames()?),
        ("eth:ethertype:", announce::of_port(MAC, [IpAddr::V4(IP), IpAddr::V6(IP6)])),
        ("eth:ethertype:ip", metadata_frames()?),
    ];
    let frames: Vec<Vec<u8>> = kinds.iter().flat_map(|(_, frames)| frames.clone()).collect();
    let protocols = dissect(&scratch, &frames)?;
    let expected = kinds.iter().flat_map(|(kind, frames)| frames.iter().map(move |_| *kind));
    for (number, (found, expected)) in protocols.iter().zip(expected).enumerate() {
        assert!(found.starts_with(expected), "frame {}: {found}, not {expected}", number + 1);
    }
    for protocol in ["arp", "icmpv6", "http", "tcp", "dhcp", "dhcpv6"] {
        assert!(protocols.iter().any(|found| found.split(':').any(|one| one == protocol)), "no {protocol}");
    }
    assert!(frames.len() >= 33, "{}", frames.len());
    // A frame that is wrong is found: the check is not empty.
    let mut wrong = frames[0].clone();
    wrong[300] ^= 0xff;
    assert!(dissect(&scratch, &[wrong]).is_err());
    Ok(())
}
