//! DHCPv4: every state of a client, and clients that lie.
#![allow(clippy::expect_used, reason = "helpers of tests: what is wrong ends the test")]

mod support;

use std::net::Ipv4Addr;

use packet::MacAddr;
use proptest::prelude::*;
use support::{Client4, GATEWAY, GATEWAY_MAC, IP, MAC, Reply4, lease4};
use towpath_services::Refusal;
use towpath_services::dhcp4::{self, Lease4};

fn ask(client: &Client4) -> Reply4 {
    let frame = dhcp4::answer(&lease4(), &client.frame()).expect("a request").expect("an answer");
    Reply4::parse(&frame)
}

#[test]
fn a_client_that_selects_gets_its_address_and_all_it_needs() {
    let offer = ask(&Client4::new(1));
    assert_eq!((offer.kind, offer.yours), (2, IP));
    assert_eq!((offer.link, offer.destination), (MAC, IP));
    assert_eq!((offer.link_source, offer.source), (GATEWAY_MAC, GATEWAY));
    let ack = ask(&Client4::new(3).option(50, &IP.octets()).option(54, &GATEWAY.octets()));
    assert_eq!((ack.kind, ack.yours), (5, IP));
    assert_eq!(ack.transaction, [0xde, 0xad, 0xbe, 0xef]);
    assert_eq!(ack.option(1), [255, 255, 255, 0]);
    assert_eq!(ack.option(3), GATEWAY.octets());
    assert_eq!(ack.option(6), [10, 0, 1, 2, 10, 0, 1, 3]);
    assert_eq!(ack.option(15), b"blue.internal");
    assert_eq!(ack.option(26), 1450u16.to_be_bytes());
    assert_eq!(ack.option(51), 3600u32.to_be_bytes());
    assert_eq!(ack.option(54), GATEWAY.octets());
    assert_eq!(ack.option(58), 1800u32.to_be_bytes());
    assert_eq!(ack.option(59), 3150u32.to_be_bytes());
    assert_eq!(ack.option(12), b"vm1");
    // The default route is among the routes: a client that reads them forgets about the router.
    assert_eq!(ack.option(121), [&[32, 169, 254, 169, 254, 10, 0, 1, 1][..], &[0, 10, 0, 1, 1]].concat());
}

#[test]
fn routes_are_for_clients_that_ask_for_them() {
    let plain = ask(&Client4::new(1).option(55, &[1, 3, 6]));
    assert!(plain.find(121).is_none() && plain.find(249).is_none() && plain.find(12).is_none());
    assert_eq!(plain.option(3), GATEWAY.octets());
    assert_eq!(plain.option(26), 1450u16.to_be_bytes());
    let modern = ask(&Client4::new(1).option(55, &[1, 3, 6, 121, 119]));
    assert!(modern.find(121).is_some() && modern.find(249).is_none());
    assert_eq!(modern.option(119), b"\x04blue\x08internal\0");
    let windows = ask(&Client4::new(1).option(55, &[1, 3, 249]));
    assert_eq!(windows.option(249), modern.option(121));
}

#[test]
fn a_gateway_outside_the_prefix_is_made_reachable_first() {
    let lease = Lease4 { prefix: 32, routes: Vec::new(), ..lease4() };
    let frame = dhcp4::answer(&lease, &Client4::new(1).frame()).unwrap().unwrap();
    let offer = Reply4::parse(&frame);
    assert_eq!(offer.option(1), [255; 4]);
    assert_eq!(offer.option(121), [&[32, 10, 0, 1, 1, 0, 0, 0, 0][..], &[0, 10, 0, 1, 1]].concat());
}

#[test]
fn rebooting_renewing_and_rebinding_clients_keep_their_address() {
    let reboot = ask(&Client4::new(3).option(50, &IP.octets()));
    assert_eq!((reboot.kind, reboot.yours, reboot.destination), (5, IP, IP));
    for destination in [GATEWAY, Ipv4Addr::BROADCAST] {
        let renewed = ask(&Client4 { client: IP, source: IP, destination, ..Client4::new(3) });
        assert_eq!((renewed.kind, renewed.yours, renewed.client), (5, IP, IP));
        assert_eq!((renewed.link, renewed.destination), (MAC, IP));
    }
}

#[test]
fn a_wrong_address_is_refused_to_everybody() {
    let other = Ipv4Addr::new(10, 0, 1, 77);
    let reboot = Client4::new(3).option(50, &other.octets());
    let renew = Client4 { client: other, source: other, ..Client4::new(3) };
    for client in [reboot, renew] {
        let nak = ask(&client);
        assert_eq!((nak.kind, nak.yours, nak.client), (6, Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED));
        assert_eq!((nak.link, nak.destination), (MacAddr::BROADCAST, Ipv4Addr::BROADCAST));
        assert!(nak.find(51).is_none() && nak.find(1).is_none());
    }
}

#[test]
fn the_broadcast_flag_rapid_commit_and_inform_are_honoured() {
    let offer = ask(&Client4 { broadcast: true, ..Client4::new(1) });
    assert_eq!((offer.link, offer.destination), (MacAddr::BROADCAST, Ipv4Addr::BROADCAST));
    let rapid = ask(&Client4::new(1).option(80, &[]));
    assert_eq!((rapid.kind, rapid.option(80).len(), rapid.yours), (5, 0, IP));
    let inform = ask(&Client4 { client: IP, source: IP, ..Client4::new(8) });
    assert_eq!((inform.kind, inform.yours), (5, Ipv4Addr::UNSPECIFIED));
    assert!(inform.find(51).is_none());
    assert_eq!(inform.option(26), 1450u16.to_be_bytes());
}

#[test]
fn what_needs_no_answer_gets_none() {
    let elsewhere = Client4::new(3).option(50, &IP.octets()).option(54, &[10, 0, 1, 250]);
    for client in [Client4::new(7), elsewhere, Client4::new(4).option(54, &[10, 0, 1, 250])] {
        assert_eq!(dhcp4::answer(&lease4(), &client.frame()), Ok(None));
    }
    let decline = Client4::new(4).option(50, &IP.octets()).option(54, &GATEWAY.octets());
    assert_eq!(dhcp4::answer(&lease4(), &decline.frame()), Err(Refusal::Declined));
}

#[test]
fn t22_a_guest_is_neither_server_nor_relay_nor_another_station() {
    let other = MacAddr([2, 0, 0, 0, 0, 99]);
    let cases = [
        (Client4 { op: 2, ..Client4::new(2) }, Refusal::ServerMessage),
        (Client4::new(2), Refusal::ServerMessage),
        (Client4::new(5), Refusal::ServerMessage),
        (Client4 { hops: 1, ..Client4::new(1) }, Refusal::Relayed),
        (Client4 { relay: Ipv4Addr::new(10, 0, 1, 9), ..Client4::new(1) }, Refusal::Relayed),
        (Client4 { source_port: 67, ..Client4::new(1) }, Refusal::Relayed),
        (Client4 { hardware: other, ..Client4::new(1) }, Refusal::ForeignHardware),
        (Client4 { link_source: other, ..Client4::new(1) }, Refusal::ForeignHardware),
        (Client4::new(1).option(61, &[1, 2, 0, 0, 0, 0, 99]), Refusal::ForeignClient),
        (Client4 { client: Ipv4Addr::new(10, 0, 1, 9), ..Client4::new(8) }, Refusal::ForeignAddress),
        (Client4 { destination: Ipv4Addr::new(10, 0, 1, 9), ..Client4::new(1) }, Refusal::NotForUs),
        (Client4 { destination_port: 68, ..Client4::new(1) }, Refusal::NotForUs),
        (Client4::new(3), Refusal::OptionMissing),
        (Client4::new(13), Refusal::MessageType),
    ];
    for (client, refusal) in cases {
        assert_eq!(dhcp4::answer(&lease4(), &client.frame()), Err(refusal), "{client:?}");
    }
}

#[test]
fn p42_options_that_lie_are_refused() {
    let truncated = Client4 { raw: vec![53, 1, 1, 61, 200, 1, 2], ..Client4::new(1) };
    let one_byte = Client4 { raw: vec![53, 1, 1, 12], ..Client4::new(1) };
    let many = Client4 { raw: [12, 0].repeat(200), ..Client4::new(1) };
    let cases = [
        (truncated, Refusal::OptionLength),
        (one_byte, Refusal::OptionLength),
        (many, Refusal::TooMany),
        (Client4 { raw: vec![53, 2, 1, 1], ..Client4::new(1) }, Refusal::OptionLength),
        (Client4 { raw: vec![53, 0], ..Client4::new(1) }, Refusal::OptionLength),
        (Client4 { raw: vec![255], ..Client4::new(1) }, Refusal::OptionMissing),
        (Client4 { raw: vec![0, 0, 0], ..Client4::new(1) }, Refusal::OptionMissing),
        (Client4::new(1).option(53, &[3]), Refusal::OptionTwice),
        (Client4::new(3).option(50, &IP.octets()).option(50, &[10, 0, 1, 9]), Refusal::OptionTwice),
        (Client4::new(3).option(50, &[10, 0, 1]), Refusal::OptionLength),
        (Client4::new(1).option(57, &[1]), Refusal::OptionLength),
        (Client4::new(1).option(80, &[1]), Refusal::OptionLength),
        (Client4::new(1).option(61, &[1]), Refusal::OptionLength),
    ];
    for (client, refusal) in cases {
        assert_eq!(dhcp4::answer(&lease4(), &client.frame()), Err(refusal), "{client:?}");
    }
    // An option that hides behind the end is not read, and one in the name or file field only if the client says so.
    let hidden = Client4 { raw: vec![53, 1, 1, 255, 53, 1, 3, 99, 250], ..Client4::new(1) };
    assert_eq!(ask(&hidden).kind, 2);
    let overloaded = Client4 {
        raw: vec![52, 1, 3],
        file: vec![53, 1, 3, 255],
        name: vec![50, 4, 10, 0, 1, 10, 255],
        ..Client4::new(1)
    };
    assert_eq!(ask(&overloaded).kind, 5);
    let lying = Client4 { raw: vec![53, 1, 1, 52, 1, 1], file: [12, 255].repeat(64), ..Client4::new(1) };
    assert_eq!(dhcp4::answer(&lease4(), &lying.frame()), Err(Refusal::OptionLength));
}

#[test]
fn every_truncation_is_refused_or_answered_within_bounds() {
    let frame = Client4::new(1).option(55, &[1, 3, 121]).frame();
    for length in 0..frame.len() {
        assert!(dhcp4::answer(&lease4(), &frame[..length]).is_err(), "{length}");
    }
}

#[test]
fn an_answer_fits_what_the_client_takes() {
    let routes = (0..100u8).map(|i| (format!("10.{i}.0.0/16").parse().unwrap(), GATEWAY)).collect();
    let lease = Lease4 { routes, ..lease4() };
    let of = |client: Client4| Reply4::parse(&dhcp4::answer(&lease, &client.frame()).unwrap().unwrap());
    let small = of(Client4::new(1));
    assert!(small.find(121).is_none() && small.datagram <= 576);
    assert_eq!(small.option(3), GATEWAY.octets());
    let large = of(Client4::new(1).option(57, &1500u16.to_be_bytes()));
    assert_eq!(large.option(121).len(), 100 * 7 + 5);
    assert!(large.datagram <= 1280);
    // Smaller than every client must take: not believed.
    assert_eq!(of(Client4::new(1).option(57, &0u16.to_be_bytes())).option(3), GATEWAY.octets());
}

proptest! {
    /// Whatever comes, an answer is ours: bounded, well-formed, to the port or to everybody, with nobody's address but the port's.
    #[test]
    fn p42_answers_hold_nothing_foreign(
        kind in 0u8..10, raw in proptest::collection::vec(any::<u8>(), 0..80), client: u32, broadcast: bool,
        id in proptest::collection::vec(any::<u8>(), 2..255), at in 0usize..600, byte: u8
    ) {
        let client = Client4 { client: client.into(), broadcast, tail: raw, ..Client4::new(kind) };
        let mut frame = client.option(61, &id).frame();
        if let Some(spot) = frame.get_mut(at) {
            *spot = byte;
        }
        if let Ok(Some(frame)) = dhcp4::answer(&lease4(), &frame) {
            prop_assert!(frame.len() <= dhcp4::MAX_ANSWER);
            let reply = Reply4::parse(&frame);
            prop_assert!(reply.yours == IP || reply.yours.is_unspecified());
            prop_assert!(reply.client == IP || reply.client.is_unspecified());
            prop_assert!(reply.link == MAC || reply.link == MacAddr::BROADCAST);
            prop_assert!(reply.padding_is_zero);
        }
    }

    #[test]
    fn no_bytes_panic(frame in proptest::collection::vec(any::<u8>(), 0..700)) {
        let _ = dhcp4::answer(&lease4(), &frame);
    }
}
