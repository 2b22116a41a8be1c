//! DHCPv6: every message of a client, and clients that lie.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests: what is wrong ends the test")]

mod support;

use std::net::Ipv6Addr;

use packet::MacAddr;
use proptest::prelude::*;
use support::{CLIENT_DUID, Client6, IP6, Reply6, SERVER_DUID, ia_na, lease6, option6, options6};
use towpath_services::Refusal;
use towpath_services::dhcp6::{self, Lease6};

fn client_id() -> Vec<u8> {
    option6(1, CLIENT_DUID)
}

fn server_id() -> Vec<u8> {
    option6(2, SERVER_DUID)
}

fn ask(client: &Client6) -> Reply6 {
    Reply6::parse(&dhcp6::answer(&lease6(), &client.frame()).expect("a message").expect("an answer"))
}

#[test]
fn a_client_that_solicits_and_requests_gets_its_address() {
    let advertise = ask(&Client6::new(1, &[&client_id(), &ia_na(7, &[])]));
    assert_eq!((advertise.kind, advertise.addresses()), (2, vec![(IP6, 3600)]));
    let reply = ask(&Client6::new(3, &[&client_id(), &server_id(), &ia_na(7, &[IP6])]));
    assert_eq!((reply.kind, reply.addresses()), (7, vec![(IP6, 3600)]));
    assert_eq!(reply.option(1), CLIENT_DUID);
    // IAID, T1, T2.
    let times = [&[0, 0, 0, 7][..], &1800u32.to_be_bytes(), &2880u32.to_be_bytes()].concat();
    assert_eq!(reply.option(3)[..12], times);
    assert_eq!(reply.option(23), "fd00:10:0:1::2".parse::<Ipv6Addr>().unwrap().octets());
    assert_eq!(reply.option(24), b"\x04blue\x08internal\0");
    let rapid = ask(&Client6::new(1, &[&client_id(), &option6(14, &[]), &ia_na(7, &[])]));
    assert_eq!((rapid.kind, rapid.option(14).len(), rapid.addresses()), (7, 0, vec![(IP6, 3600)]));
}

#[test]
fn clients_renew_and_rebind_and_foreign_addresses_are_over() {
    let other: Ipv6Addr = "fd00:10:0:1::77".parse().unwrap();
    let held = ia_na(7, &[other, IP6]);
    for client in
        [Client6::new(5, &[&client_id(), &server_id(), &held]), Client6::new(6, &[&client_id(), &held])]
    {
        let reply = ask(&client);
        assert_eq!((reply.kind, reply.addresses()), (7, vec![(IP6, 3600), (other, 0)]));
    }
}

#[test]
fn confirm_says_whether_the_address_is_the_ports() {
    let ours = ask(&Client6::new(4, &[&client_id(), &ia_na(7, &[IP6])]));
    assert_eq!((ours.kind, ours.status()), (7, 0));
    let moved = ask(&Client6::new(4, &[&client_id(), &ia_na(7, &[IP6, "fd00:99::1".parse().unwrap()])]));
    assert_eq!(moved.status(), 4);
    let empty = Client6::new(4, &[&client_id(), &ia_na(7, &[])]);
    assert_eq!(dhcp6::answer(&lease6(), &empty.frame()), Err(Refusal::OptionMissing));
}

#[test]
fn releases_declines_and_questions_are_answered() {
    for kind in [8, 9] {
        let reply = ask(&Client6::new(kind, &[&client_id(), &server_id(), &ia_na(7, &[IP6])]));
        assert_eq!((reply.kind, reply.status(), reply.find(3)), (7, 0, None));
    }
    let information = ask(&Client6::new(11, &[&option6(6, &[0, 23, 0, 32])]));
    assert_eq!((information.kind, information.find(1), information.find(3)), (7, None, None));
    assert_eq!(information.option(32), 3600u32.to_be_bytes());
    assert!(information.find(23).is_some());
}

#[test]
fn only_one_association_gets_the_addresses_and_others_say_why_not() {
    let temporary = option6(4, &[0, 0, 0, 1]);
    let prefixes = option6(25, &[0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
    let reply = ask(&Client6::new(1, &[&client_id(), &prefixes, &temporary, &ia_na(7, &[]), &ia_na(8, &[])]));
    assert_eq!(reply.addresses(), [(IP6, 3600)]);
    assert_eq!(options6(&reply.option(25)[12..])[0].1[..2], [0, 6]);
    assert_eq!(options6(&reply.option(4)[4..])[0].1[..2], [0, 2]);
    let second = &reply.options.iter().filter(|(code, _)| *code == 3).nth(1).unwrap().1;
    assert_eq!((second[3], &options6(&second[12..])[0].1[..2]), (8, &[0, 2][..]));
    // A port without IPv6 addresses has none to give.
    let bare = Lease6 { addresses: Vec::new(), ..lease6() };
    let none =
        dhcp6::answer(&bare, &Client6::new(1, &[&client_id(), &ia_na(7, &[])]).frame()).unwrap().unwrap();
    assert_eq!(Reply6::parse(&none).addresses(), []);
}

#[test]
fn another_servers_messages_are_left_alone() {
    let other = option6(2, &[0, 3, 0, 1, 2, 0, 0, 0, 0, 99]);
    for kind in [3, 5, 8, 9, 11] {
        assert_eq!(dhcp6::answer(&lease6(), &Client6::new(kind, &[&client_id(), &other]).frame()), Ok(None));
    }
}

/// A DUID may be made of any MAC address of the machine (RFC 8415 section 11), so one that names another station is answered: with this
/// port's addresses and no others.
#[test]
fn a_foreign_duid_gets_this_ports_addresses() {
    let foreign = option6(1, &[0, 3, 0, 1, 2, 0, 0, 0, 0, 99]);
    let reply = ask(&Client6::new(1, &[&foreign, &ia_na(7, &["fd00:10:0:1::99".parse().unwrap()])]));
    assert_eq!(reply.addresses(), [(IP6, 3600)]);
}

#[test]
fn t22_a_guest_is_neither_server_nor_relay_nor_another_station() {
    let solicit = || Client6::new(1, &[&client_id(), &ia_na(7, &[])]);
    let relayed = Client6::new(12, &[&[0; 30], &option6(9, &solicit().frame())]);
    let cases = [
        (Client6::new(2, &[&client_id(), &server_id()]), Refusal::ServerMessage),
        (Client6::new(7, &[&client_id(), &server_id()]), Refusal::ServerMessage),
        (Client6::new(10, &[&client_id(), &server_id()]), Refusal::ServerMessage),
        (relayed, Refusal::Relayed),
        (Client6::new(13, &[]), Refusal::Relayed),
        (Client6::new(200, &[]), Refusal::MessageType),
        (Client6 { link_source: MacAddr([2, 0, 0, 0, 0, 99]), ..solicit() }, Refusal::ForeignHardware),
        (Client6 { source: IP6, ..solicit() }, Refusal::Addresses),
        (Client6 { destination: IP6, ..solicit() }, Refusal::NotForUs),
        (Client6::new(1, &[&ia_na(7, &[])]), Refusal::OptionMissing),
        (Client6::new(1, &[&client_id(), &server_id()]), Refusal::OptionMissing),
        (Client6::new(3, &[&client_id()]), Refusal::OptionMissing),
        (Client6::new(11, &[&ia_na(7, &[])]), Refusal::OptionMissing),
    ];
    for (client, refusal) in cases {
        assert_eq!(dhcp6::answer(&lease6(), &client.frame()), Err(refusal), "{client:?}");
    }
}

#[test]
fn p42_options_that_lie_are_refused() {
    let address = |length: usize| option6(3, &[&[0; 12][..], &option6(5, &vec![0; length])].concat());
    let nested = option6(3, &[&[0; 12][..], &option6(5, &[&[0; 24][..], &[0, 13, 0, 9]].concat())].concat());
    let many = ia_na(1, &[]).repeat(5);
    let addresses = ia_na(1, &[IP6; 9]);
    let cases: [(&[u8], Refusal); 12] = [
        (&[0, 1, 0, 200, 1, 2, 3], Refusal::OptionLength),
        (&[0, 1, 0], Refusal::OptionLength),
        (&option6(1, &[0, 1]), Refusal::OptionLength),
        (&option6(1, &[0; 131]), Refusal::OptionLength),
        (&option6(6, &[0]), Refusal::OptionLength),
        (&option6(14, &[0]), Refusal::OptionLength),
        (&option6(3, &[0; 11]), Refusal::OptionLength),
        (&address(23), Refusal::OptionLength),
        (&nested, Refusal::OptionLength),
        (&many, Refusal::TooMany),
        (&addresses, Refusal::TooMany),
        (&option6(99, &[]).repeat(65), Refusal::TooMany),
    ];
    for (options, refusal) in cases {
        assert_eq!(
            dhcp6::answer(&lease6(), &Client6::new(1, &[options]).frame()),
            Err(refusal),
            "{options:?}"
        );
    }
    for twice in [client_id(), server_id(), option6(14, &[]), option6(6, &[0, 23])] {
        let frame = Client6::new(1, &[&twice, &twice]).frame();
        assert_eq!(dhcp6::answer(&lease6(), &frame), Err(Refusal::OptionTwice));
    }
    let frame = Client6::new(1, &[&client_id(), &ia_na(7, &[])]).frame();
    for length in 0..frame.len() {
        assert!(dhcp6::answer(&lease6(), &frame[..length]).is_err(), "{length}");
    }
}

#[test]
fn the_longest_answer_fits_ipv6s_minimum_mtu() {
    let long = Lease6 {
        addresses: (0..100).map(|i| format!("fd00::{i}").parse().unwrap()).collect(),
        dns: (0..100).map(|i| format!("fd00:1::{i}").parse().unwrap()).collect(),
        domains: (0..100).map(|i| format!("domain-{i}.internal")).collect(),
        ..lease6()
    };
    let foreign: Vec<Ipv6Addr> = (0..8).map(|i| format!("fd00:2::{i}").parse().unwrap()).collect();
    let duid = option6(1, &[0xaa; 130]);
    let prefixes = option6(25, &[0; 12]);
    let renew = Client6::new(6, &[&duid, &ia_na(1, &foreign), &prefixes, &prefixes, &prefixes]);
    let frame = dhcp6::answer(&long, &renew.frame()).unwrap().unwrap();
    assert_eq!(Reply6::parse(&frame).addresses().len(), 16);
    assert!(frame.len() <= dhcp6::MAX_ANSWER, "{}", frame.len());
}

proptest! {
    #[test]
    fn p42_answers_give_nothing_foreign(
        kind in 0u8..14, raw in proptest::collection::vec(any::<u8>(), 0..60), with_server: bool, at in 0usize..200, byte: u8
    ) {
        let server = if with_server { server_id() } else { Vec::new() };
        let mut frame = Client6::new(kind, &[&client_id(), &server, &ia_na(7, &[IP6]), &raw]).frame();
        // The transaction stays: the reader asserts it.
        if let Some(spot) = frame.get_mut(66 + at) {
            *spot = byte;
        }
        if let Ok(Some(answer)) = dhcp6::answer(&lease6(), &frame) {
            prop_assert!(answer.len() <= dhcp6::MAX_ANSWER);
            let valid = Reply6::parse(&answer).addresses().into_iter().filter(|(_, time)| *time != 0);
            for (address, _) in valid {
                prop_assert_eq!(address, IP6);
            }
        }
    }

    #[test]
    fn no_bytes_panic(frame in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = dhcp6::answer(&lease6(), &frame);
    }
}
