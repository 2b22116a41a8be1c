//! Router advertisements: what they say, to whom, when, and who asks in vain.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests: what is wrong ends the test")]

mod support;

use std::net::Ipv6Addr;
use std::time::Duration;

use packet::MacAddr;
use proptest::prelude::*;
use support::{GATEWAY_MAC, MAC, advertisement, ethernet, icmp6, sum};
use towpath_services::ra::{self, Advertisement, Advertiser};
use towpath_services::{Refusal, link_local};

const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
const SECOND: Duration = Duration::from_secs(1);

fn all_nodes() -> Ipv6Addr {
    "ff02::1".parse().unwrap()
}

fn solicitation(source: Ipv6Addr, hops: u8, code: u8, options: &[u8]) -> Vec<u8> {
    let message = [&[133, code, 0, 0, 0, 0, 0, 0][..], options].concat();
    let group = MacAddr([0x33, 0x33, 0, 0, 0, 2]);
    ethernet(group, MAC, 0x86dd, &icmp6(source, ra::ALL_ROUTERS, hops, &message))
}

fn with_address() -> Vec<u8> {
    solicitation(link_local(MAC), 255, 0, &[&[1, 1][..], &MAC.0].concat())
}

fn without_address() -> Vec<u8> {
    solicitation(Ipv6Addr::UNSPECIFIED, 255, 0, &[])
}

/// The message in a frame from the gateway, checksum and addresses checked.
fn message(frame: &[u8], link: MacAddr, destination: Ipv6Addr) -> Vec<u8> {
    assert_eq!(
        (&frame[..6], &frame[6..12], &frame[12..14]),
        (&link.0[..], &GATEWAY_MAC.0[..], &[0x86, 0xdd][..])
    );
    let (header, message) = frame[14..].split_at(40);
    assert_eq!((header[6], header[7]), (58, 255));
    assert_eq!(header[8..24], link_local(GATEWAY_MAC).octets());
    assert_eq!(header[24..40], destination.octets());
    assert_eq!(message.len(), usize::from(u16::from_be_bytes([header[4], header[5]])));
    let length = (message.len() as u32).to_be_bytes();
    assert_eq!(sum(&[&header[8..40], &length, &[0, 0, 0, 58], message]), 0xffff);
    assert!(frame.len() <= ra::MAX_ANSWER);
    message.to_vec()
}

/// Options by type.
fn options(message: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut rest = &message[16..];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let length = usize::from(rest[1]) * 8;
        found.push((rest[0], rest[2..length].to_vec()));
        rest = &rest[length..];
    }
    found
}

#[test]
fn the_answer_says_that_addresses_are_managed_and_the_prefix_on_link() {
    let frame = ra::answer(&advertisement(), &with_address()).unwrap();
    let message = message(&frame, MAC, link_local(MAC));
    assert_eq!(message[..2], [134, 0]);
    // Hop limit 64, M and O, thirty minutes; reachable time and retransmission unspecified.
    assert_eq!(message[4..16], [64, 0xc0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
    let options = options(&message);
    assert_eq!(options.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [1, 5, 3, 25, 31]);
    assert_eq!(options[0].1, GATEWAY_MAC.0);
    assert_eq!(options[1].1, [0, 0, 0, 0, 5, 0xaa]);
    let prefix: Ipv6Addr = "fd00:10:0:1::".parse().unwrap();
    assert_eq!(options[2].1[..2], [64, 0x80], "on-link, not autonomous");
    assert_eq!(options[2].1[14..], prefix.octets());
    assert_eq!(options[3].1[6..], "fd00:10:0:1::2".parse::<Ipv6Addr>().unwrap().octets());
    assert_eq!(options[4].1[6..], *b"\x04blue\x08internal\0\0");
}

#[test]
fn an_asker_without_address_is_answered_with_everybody() {
    let frame = ra::answer(&advertisement(), &without_address()).unwrap();
    assert_eq!(
        message(&frame, ALL_NODES_MAC, all_nodes()),
        message(&ra::unsolicited(&advertisement()), ALL_NODES_MAC, all_nodes())
    );
    let bye = message(&ra::farewell(&advertisement()), ALL_NODES_MAC, all_nodes());
    assert_eq!(bye[6..8], [0, 0]);
    let no_router = Advertisement { default_router: false, ..advertisement() };
    assert_eq!(message(&ra::unsolicited(&no_router), ALL_NODES_MAC, all_nodes())[6..8], [0, 0]);
}

#[test]
fn t25_guests_are_no_routers_and_lies_are_refused() {
    let own = link_local(MAC);
    let mut corrupt = with_address();
    corrupt[56] ^= 1;
    let rogue = ethernet(
        ALL_NODES_MAC,
        MAC,
        0x86dd,
        &icmp6(own, all_nodes(), 255, &[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]),
    );
    let redirect =
        ethernet(MAC, MAC, 0x86dd, &icmp6(own, own, 255, &[[137, 0].as_slice(), &[0; 38]].concat()));
    let short = ethernet(MAC, MAC, 0x86dd, &icmp6(own, ra::ALL_ROUTERS, 255, &[133, 0, 0, 0, 0, 0, 0]));
    let cases = [
        (solicitation(own, 64, 0, &[]), Refusal::HopLimit),
        (solicitation(own, 255, 1, &[]), Refusal::Format),
        (solicitation(own, 255, 0, &[1, 0, 0, 0, 0, 0, 0, 0]), Refusal::OptionLength),
        (solicitation(own, 255, 0, &[1, 255, 0, 0, 0, 0, 0, 0]), Refusal::OptionLength),
        (solicitation(own, 255, 0, &[1]), Refusal::OptionLength),
        (solicitation(Ipv6Addr::UNSPECIFIED, 255, 0, &[1, 1, 2, 0, 0, 0, 0, 9]), Refusal::Addresses),
        (solicitation("ff02::5".parse().unwrap(), 255, 0, &[]), Refusal::Addresses),
        (corrupt, Refusal::Checksum),
        (rogue, Refusal::ServerMessage),
        (redirect, Refusal::ServerMessage),
        (short, Refusal::Headers),
    ];
    for (frame, refusal) in cases {
        assert_eq!(ra::answer(&advertisement(), &frame), Err(refusal));
    }
    for length in 0..with_address().len() {
        assert!(ra::answer(&advertisement(), &with_address()[..length]).is_err(), "{length}");
    }
}

#[test]
fn the_answer_goes_to_the_frames_source_whatever_the_option_says() {
    let frame =
        ra::answer(&advertisement(), &solicitation(link_local(MAC), 255, 0, &[1, 1, 2, 9, 9, 9, 9, 9]))
            .unwrap();
    message(&frame, MAC, link_local(MAC));
}

#[test]
fn a_long_plan_is_cut_to_what_a_packet_holds() {
    let long = Advertisement {
        prefixes: (0..100).map(|i| format!("fd00:{i}::/64").parse().unwrap()).collect(),
        dns: (0..100).map(|i| format!("fd00::{i}").parse().unwrap()).collect(),
        domains: (0..100).map(|i| format!("domain-{i}.internal")).collect(),
        ..advertisement()
    };
    let message = message(&ra::unsolicited(&long), ALL_NODES_MAC, all_nodes());
    let options = options(&message);
    assert_eq!(options.iter().filter(|(kind, _)| *kind == 3).count(), 16);
    assert!(message.len() + 40 <= 1280);
}

#[test]
fn a_gateway_advertises_itself_soon_and_then_rarely() {
    let mut advertiser = Advertiser::new(1, SECOND * 50);
    let mut times = Vec::new();
    for _ in 0..50 {
        let due = advertiser.next_deadline();
        assert!(!advertiser.on_tick(due - Duration::from_millis(1)));
        assert!(advertiser.on_tick(due));
        times.push(due);
    }
    let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(times[0], SECOND * 50);
    assert!(gaps[..2].iter().all(|gap| *gap <= SECOND * 16), "{gaps:?}");
    assert!(gaps[2..].iter().all(|gap| (SECOND * 200..=SECOND * 600).contains(gap)), "{gaps:?}");
    assert!(gaps[2..].iter().any(|gap| *gap != gaps[2]));
}

#[test]
fn multicast_answers_keep_three_seconds_apart_and_unicast_ones_come_at_once() {
    let plan = advertisement();
    let mut advertiser = Advertiser::new(1, SECOND);
    assert!(advertiser.on_tick(SECOND));
    let now = SECOND + SECOND / 2;
    for _ in 0..100 {
        assert_eq!(advertiser.on_solicitation(&plan, &without_address(), now), Ok(None));
    }
    assert_eq!(advertiser.next_deadline(), SECOND * 4);
    for _ in 0..3 {
        assert!(advertiser.on_solicitation(&plan, &with_address(), now).unwrap().is_some());
    }
    assert!(advertiser.on_tick(SECOND * 4));
    let later = SECOND * 30;
    assert_eq!(
        advertiser.on_solicitation(&plan, &without_address(), later),
        Ok(Some(ra::unsolicited(&plan)))
    );
    assert!(advertiser.on_solicitation(&plan, &[0; 60], later).is_err());
}

proptest! {
    #[test]
    fn no_bytes_panic(frame in proptest::collection::vec(any::<u8>(), 0..200), options in proptest::collection::vec(any::<u8>(), 0..60)) {
        let _ = ra::answer(&advertisement(), &frame);
        if let Ok(answer) = ra::answer(&advertisement(), &solicitation(link_local(MAC), 255, 0, &options)) {
            message(&answer, MAC, link_local(MAC));
        }
    }
}
