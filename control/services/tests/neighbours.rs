//! The underlay's next hops: the states of RFC 4861, a hostile link, and ten thousand of them.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests: what is wrong ends the test"
)]

mod support;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use packet::MacAddr;
use proptest::prelude::*;
use support::{ethernet, icmp6};
use towpath_services::Refusal;
use towpath_services::neighbours::{Action, Link, NeighbourId, ResolveError, Resolver};

const US: MacAddr = MacAddr([2, 0, 0, 0, 0xff, 1]);
const PEER: MacAddr = MacAddr([2, 0, 0, 0, 0xff, 2]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0xff, 3]);
const SECOND: Duration = Duration::from_secs(1);

fn link() -> Link {
    Link {
        mac: US,
        addresses: ["192.0.2.1/24", "2001:db8::1/64"].map(|net| net.parse().unwrap()).to_vec(),
        gateways: ["192.0.2.254", "fe80::fe"].map(|gateway| gateway.parse().unwrap()).to_vec(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A resolver and a clock.
struct Bench {
    resolver: Resolver,
    now: Duration,
}

impl Bench {
    fn new() -> Self {
        Bench { resolver: Resolver::new(link(), 7), now: SECOND * 100 }
    }

    fn resolve(&mut self, address: &str) -> NeighbourId {
        self.resolver.resolve(ip(address), self.now).unwrap()
    }

    fn tick(&mut self) -> Vec<Action> {
        self.resolver.on_tick(self.now)
    }

    /// Moves to the next deadline and does what is due there.
    fn next(&mut self) -> Vec<Action> {
        self.now = self.resolver.next_deadline().expect("something is due").max(self.now);
        self.tick()
    }

    fn hear(&mut self, frame: &[u8]) -> Vec<Action> {
        self.resolver.on_frame(frame, self.now).unwrap()
    }

    fn state(&self, id: NeighbourId) -> &'static str {
        self.resolver.status().find(|(found, _)| *found == id).expect("it exists").1.state
    }

    /// A next hop that has answered.
    fn reachable(&mut self) -> NeighbourId {
        let id = self.resolve("192.0.2.9");
        assert!(matches!(self.tick()[..], [Action::Send(_)]));
        assert_eq!(self.hear(&reply("192.0.2.9", PEER)), [Action::Reachable { id, mac: PEER }]);
        assert_eq!(self.state(id), "reachable");
        id
    }
}

fn arp(operation: u8, sender: (MacAddr, &str), target: (MacAddr, &str), to: MacAddr) -> Vec<u8> {
    let v4 = |text: &str| text.parse::<Ipv4Addr>().unwrap().octets();
    let message =
        [&[0, 1, 8, 0, 6, 4, 0, operation][..], &sender.0.0, &v4(sender.1), &target.0.0, &v4(target.1)];
    ethernet(to, sender.0, 0x0806, &message.concat())
}

fn reply(address: &str, mac: MacAddr) -> Vec<u8> {
    arp(2, (mac, address), (US, "192.0.2.1"), US)
}

fn gratuitous(address: &str, mac: MacAddr) -> Vec<u8> {
    arp(1, (mac, address), (MacAddr::ZERO, address), MacAddr::BROADCAST)
}

/// Flags: 0x40 solicited, 0x20 override.
fn advertisement(target: &str, mac: Option<MacAddr>, flags: u8) -> Vec<u8> {
    let target: Ipv6Addr = target.parse().unwrap();
    let mut message = vec![136, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.octets());
    message.extend(mac.iter().flat_map(|mac| [&[2, 1][..], &mac.0].concat()));
    let (to, group) = if flags & 0x40 != 0 {
        (US, "2001:db8::1".parse().unwrap())
    } else {
        (MacAddr([0x33, 0x33, 0, 0, 0, 1]), "ff02::1".parse().unwrap())
    };
    ethernet(to, mac.unwrap_or(PEER), 0x86dd, &icmp6(target, group, 255, &message))
}

#[test]
fn a_request_is_what_rfc_826_says() {
    let mut bench = Bench::new();
    bench.resolve("192.0.2.9");
    let [Action::Send(frame)] = &bench.tick()[..] else { panic!("one request") };
    let zero = MacAddr::ZERO;
    let mut expected = arp(1, (US, "192.0.2.1"), (zero, "192.0.2.9"), MacAddr::BROADCAST);
    expected.resize(60, 0);
    assert_eq!(*frame, expected);
}

#[test]
fn a_solicitation_is_what_rfc_4861_says() {
    let mut bench = Bench::new();
    bench.resolve("2001:db8::a:b:c");
    let [Action::Send(frame)] = &bench.tick()[..] else { panic!("one solicitation") };
    let target: Ipv6Addr = "2001:db8::a:b:c".parse().unwrap();
    let message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &[1, 1], &US.0].concat();
    let packet = icmp6("2001:db8::1".parse().unwrap(), "ff02::1:ff0b:c".parse().unwrap(), 255, &message);
    assert_eq!(*frame, ethernet(MacAddr([0x33, 0x33, 0xff, 0x0b, 0, 0x0c]), US, 0x86dd, &packet));
    // A link-local next hop is asked from the link-local address.
    let mut bench = Bench::new();
    bench.resolve("2001:db8:ffff::1");
    let [Action::Send(frame)] = &bench.tick()[..] else { panic!("one solicitation") };
    assert_eq!(frame[22..38], towpath_services::link_local(US).octets());
    assert_eq!(frame[62..78], "fe80::fe".parse::<Ipv6Addr>().unwrap().octets());
}

#[test]
fn next_hops_are_on_link_stations_or_gateways() {
    let link = link();
    let cases = [
        ("192.0.2.77", Ok("192.0.2.77")),
        ("198.51.100.1", Ok("192.0.2.254")),
        ("2001:db8::77", Ok("2001:db8::77")),
        ("2001:db8:1::77", Ok("fe80::fe")),
        ("fe80::77", Ok("fe80::77")),
        ("192.0.2.1", Err(ResolveError::Own(ip("192.0.2.1")))),
        ("224.0.0.1", Err(ResolveError::NotUnicast(ip("224.0.0.1")))),
        ("255.255.255.255", Err(ResolveError::NotUnicast(ip("255.255.255.255")))),
        ("::", Err(ResolveError::NotUnicast(ip("::")))),
    ];
    for (destination, hop) in cases {
        assert_eq!(link.next_hop(ip(destination)), hop.map(ip), "{destination}");
    }
    let alone = Link { gateways: Vec::new(), ..link.clone() };
    let far = ip("198.51.100.1");
    assert_eq!(alone.next_hop(far), Err(ResolveError::NoGateway(far)));
    let gateway = ip("203.0.113.1");
    let wrong = Link { gateways: vec![gateway], ..link };
    assert_eq!(wrong.next_hop(far), Err(ResolveError::GatewayOffLink { destination: far, gateway }));
    assert!(wrong.next_hop(far).unwrap_err().to_string().contains("203.0.113.1"));
}

#[test]
fn a_station_of_another_prefix_on_the_link_is_asked_as_nobody() {
    let mut bench = Bench::new();
    let router = "198.51.100.1";
    assert_ne!(
        bench.resolver.resolve(ip(router), bench.now),
        bench.resolver.resolve_on_link(ip(router), bench.now)
    );
    let id = bench.resolver.resolve_on_link(ip(router), bench.now).unwrap();
    let asked = bench.tick();
    let mut expected = arp(1, (US, "0.0.0.0"), (MacAddr::ZERO, router), MacAddr::BROADCAST);
    expected.resize(60, 0);
    assert!(asked.contains(&Action::Send(expected)), "{asked:?}");
    let answer = arp(2, (PEER, router), (US, "0.0.0.0"), US);
    assert_eq!(bench.hear(&answer), [Action::Reachable { id, mac: PEER }]);
    assert_eq!(bench.state(id), "reachable", "asked for");
    // Of the other family by the link's own address.
    let router = "2001:db8:ffff::1";
    let id = bench.resolver.resolve_on_link(ip(router), bench.now).unwrap();
    let [Action::Send(frame)] = &bench.tick()[..] else { panic!("one solicitation") };
    assert_eq!(frame[22..24], [0xfe, 0x80]);
    assert_eq!(bench.hear(&advertisement(router, Some(PEER), 0x60)), [Action::Reachable { id, mac: PEER }]);
    // The uplink's own, and a group's, are nobody's.
    let refused =
        |bench: &mut Bench, address| bench.resolver.resolve_on_link(ip(address), bench.now).unwrap_err();
    assert_eq!(refused(&mut bench, "192.0.2.1"), ResolveError::Own(ip("192.0.2.1")));
    assert_eq!(refused(&mut bench, "224.0.0.1"), ResolveError::NotUnicast(ip("224.0.0.1")));
}

#[test]
fn destinations_behind_a_gateway_share_its_number() {
    let mut bench = Bench::new();
    let first = bench.resolve("198.51.100.1");
    assert_eq!(bench.resolve("203.0.113.7"), first);
    assert_ne!(bench.resolve("192.0.2.9"), first);
    assert_eq!(bench.tick().len(), 2);
    bench.resolver.release(first, bench.now);
    assert_eq!(bench.state(first), "incomplete");
    bench.resolver.release(first, bench.now);
    assert!(bench.resolver.status().all(|(id, _)| id != first));
    // Packets may still wait for it: another next hop gets another number.
    let other = bench.resolve("192.0.2.10");
    assert_ne!(other, first);
    assert_eq!(bench.tick().len(), 1);
    // Later the number is used again, and what was due for it before is not done.
    bench.now += Duration::from_secs(5);
    let again = bench.resolve("192.0.2.11");
    assert_eq!(again, first);
}

#[test]
fn three_requests_then_failure_then_retries_further_and_further_apart() {
    let mut bench = Bench::new();
    let id = bench.resolve("192.0.2.9");
    let start = bench.now;
    for attempt in 0..3u32 {
        assert!(matches!(bench.next()[..], [Action::Send(_)]), "{attempt}");
        assert_eq!(bench.now, start + SECOND * attempt);
    }
    assert_eq!(bench.next(), [Action::Failed { id }]);
    assert_eq!(bench.now, start + SECOND * 3);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let failed = bench.now;
        assert!(matches!(bench.next()[..], [Action::Send(_)]));
        pauses.push(bench.now - failed);
        while bench.next() != [Action::Failed { id }] {}
    }
    assert!(pauses[0] >= SECOND * 10 && pauses[0] < SECOND * 13, "{pauses:?}");
    assert!(pauses[7] >= SECOND * 320 && pauses[7] < SECOND * 401, "{pauses:?}");
    // Used: a second is enough.
    let failed = bench.now;
    bench.resolver.used(id, bench.now);
    assert!(matches!(bench.next()[..], [Action::Send(_)]));
    assert_eq!(bench.now, failed + SECOND);
    assert_eq!(bench.hear(&reply("192.0.2.9", PEER)), [Action::Reachable { id, mac: PEER }]);
}

#[test]
fn a_used_neighbour_is_probed_and_an_unused_one_left_alone() {
    let mut bench = Bench::new();
    let id = bench.reachable();
    let answered = bench.now;
    assert_eq!(bench.next(), []);
    assert!((15..=45).contains(&(bench.now - answered).as_secs()));
    assert_eq!((bench.state(id), bench.resolver.next_deadline()), ("stale", None));
    // Packets still go there; the first use starts the clock, further ones change nothing.
    assert_eq!(bench.resolver.mac(id), Some(PEER));
    let used = bench.now;
    for step in 0..4 {
        bench.resolver.used(id, used + SECOND * step);
    }
    assert_eq!(bench.state(id), "delay");
    let [Action::Send(probe)] = &bench.next()[..] else { panic!("one probe") };
    assert_eq!((bench.now, &probe[..6]), (used + SECOND * 5, &PEER.0[..]));
    assert_eq!(bench.hear(&reply("192.0.2.9", PEER)), [], "nothing new");
    assert_eq!(bench.state(id), "reachable");
}

#[test]
fn a_neighbour_that_goes_is_asked_everywhere_before_it_fails() {
    let mut bench = Bench::new();
    let id = bench.reachable();
    bench.next();
    bench.resolver.used(id, bench.now);
    let mut destinations = Vec::new();
    let failed = loop {
        match &bench.next()[..] {
            [Action::Send(frame)] => destinations.push(MacAddr(frame[..6].try_into().unwrap())),
            other => break other.to_vec(),
        }
        assert_eq!(bench.resolver.mac(id), Some(PEER), "used until it is given up");
    };
    assert_eq!(destinations, [[PEER; 3], [MacAddr::BROADCAST; 3]].concat());
    assert_eq!((failed, bench.resolver.mac(id)), (vec![Action::Failed { id }], None));
}

#[test]
fn only_next_hops_that_were_asked_for_are_known() {
    let mut bench = Bench::new();
    let id = bench.reachable();
    let broadcast_mac = reply("192.0.2.9", MacAddr::BROADCAST);
    let ours = reply("192.0.2.9", US);
    let own_address = gratuitous("192.0.2.1", OTHER);
    for frame in
        [gratuitous("192.0.2.10", OTHER), reply("192.0.2.10", OTHER), broadcast_mac, ours, own_address]
    {
        assert_eq!(bench.hear(&frame), []);
    }
    assert_eq!((bench.resolver.mac(id), bench.resolver.status().count()), (Some(PEER), 1));
}

#[test]
fn o09_an_unasked_move_is_believed_once_a_second_and_verified() {
    let mut bench = Bench::new();
    let id = bench.reachable();
    bench.now += SECOND * 5;
    assert_eq!(bench.hear(&gratuitous("192.0.2.9", OTHER)), [Action::Reachable { id, mac: OTHER }]);
    let [Action::Send(probe)] = &bench.tick()[..] else { panic!("it is asked at once") };
    assert_eq!(probe[..6], OTHER.0);
    // A flood that makes it flap does nothing more within the second.
    for _ in 0..1000 {
        assert_eq!(bench.hear(&gratuitous("192.0.2.9", PEER)), []);
    }
    // An answer to the probe counts whatever the lock: we asked.
    assert_eq!(bench.hear(&reply("192.0.2.9", OTHER)), []);
    assert_eq!(bench.state(id), "reachable");
}

/// A solicitation of ours by `from`, which is at `mac`.
fn solicitation(from: &str, mac: MacAddr) -> Vec<u8> {
    let (from, target): (Ipv6Addr, Ipv6Addr) = (from.parse().unwrap(), "2001:db8::1".parse().unwrap());
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend([1, 1]);
    message.extend(mac.0);
    ethernet(US, mac, 0x86dd, &icmp6(from, target, 255, &message))
}

#[test]
fn who_asks_says_where_he_is() {
    let mut bench = Bench::new();
    let v4 = bench.reachable();
    let v6 = bench.resolve("2001:db8::9");
    bench.tick();
    bench.hear(&advertisement("2001:db8::9", Some(PEER), 0x60));
    assert_eq!(bench.state(v6), "reachable");
    bench.now += SECOND * 2;
    let who_has = |from: &str, mac| arp(1, (mac, from), (MacAddr::ZERO, "192.0.2.77"), MacAddr::BROADCAST);
    // Strangers make no entries, and who is where he was changes nothing.
    for frame in [who_has("192.0.2.10", OTHER), solicitation("2001:db8::10", OTHER)] {
        assert_eq!((bench.hear(&frame), bench.resolver.status().count()), (vec![], 2));
    }
    for frame in [who_has("192.0.2.9", PEER), solicitation("2001:db8::9", PEER)] {
        assert_eq!(bench.hear(&frame), []);
    }
    assert_eq!((bench.state(v4), bench.state(v6)), ("reachable", "reachable"));
    for (id, frame) in [(v4, who_has("192.0.2.9", OTHER)), (v6, solicitation("2001:db8::9", OTHER))] {
        assert_eq!(bench.hear(&frame), [Action::Reachable { id, mac: OTHER }]);
        assert_eq!(bench.state(id), "probe", "and is asked there");
        let [Action::Send(probe)] = &bench.tick()[..] else { panic!("one probe") };
        assert_eq!(probe[..6], OTHER.0);
    }
}

#[test]
fn o09_a_claim_is_verified_before_the_next_is_believed() {
    let mut bench = Bench::new();
    let id = bench.reachable();
    bench.now += SECOND * 5;
    let claim = |last: u8| gratuitous("192.0.2.9", MacAddr([2, 0, 0, 0, 0xee, last]));
    let (mut moves, mut asked_all) = (0, 0);
    // Somebody who answers nothing says something else a hundred times a second, for a minute; the true one answers when all are asked.
    for step in 0..6000u32 {
        bench.now += Duration::from_millis(10);
        moves += bench.hear(&claim(step as u8)).len();
        for action in bench.tick() {
            if matches!(&action, Action::Send(frame) if frame[..6] == MacAddr::BROADCAST.0) {
                asked_all += 1;
                assert_eq!(bench.hear(&reply("192.0.2.9", PEER)), [Action::Reachable { id, mac: PEER }]);
            }
        }
    }
    assert!((10..=16).contains(&moves), "{moves} in a minute: three probes and a second each");
    assert!((moves - 1..=moves).contains(&asked_all), "{asked_all}");
    // When it has failed, the first who says something is believed again.
    let mut bench = Bench::new();
    let id = bench.reachable();
    bench.now += SECOND * 5;
    assert_eq!(bench.hear(&claim(1)).len(), 1);
    while bench.state(id) != "failed" {
        bench.next();
    }
    assert_eq!(bench.hear(&claim(2)).len(), 1);
}

#[test]
fn a_reply_to_somebody_else_or_unasked_confirms_nothing() {
    let mut bench = Bench::new();
    let id = bench.reachable();
    bench.next();
    assert_eq!(bench.state(id), "stale");
    bench.hear(&reply("192.0.2.9", PEER));
    assert_eq!(bench.state(id), "stale", "nobody asked");
    let mut bench = Bench::new();
    let id = bench.resolve("192.0.2.9");
    bench.tick();
    let elsewhere = arp(2, (PEER, "192.0.2.9"), (OTHER, "192.0.2.1"), OTHER);
    assert_eq!(bench.hear(&elsewhere), [Action::Reachable { id, mac: PEER }]);
    assert_eq!(bench.state(id), "stale", "it may be used, and is to be verified");
}

#[test]
fn advertisements_follow_the_table_of_rfc_4861() {
    let mut bench = Bench::new();
    let address = "2001:db8::9";
    let id = bench.resolve(address);
    bench.tick();
    assert_eq!(bench.hear(&advertisement(address, None, 0x60)), [], "no address in it");
    assert_eq!(bench.state(id), "incomplete");
    assert_eq!(bench.hear(&advertisement(address, Some(PEER), 0x60)), [Action::Reachable { id, mac: PEER }]);
    assert_eq!(bench.state(id), "reachable");
    bench.now += SECOND * 2;
    assert_eq!(bench.hear(&advertisement(address, Some(OTHER), 0x00)), [], "does not override");
    assert_eq!((bench.state(id), bench.resolver.mac(id)), ("stale", Some(PEER)));
    let moved = bench.hear(&advertisement(address, Some(OTHER), 0x20));
    assert_eq!((moved, bench.state(id)), (vec![Action::Reachable { id, mac: OTHER }], "probe"));
    let [Action::Send(probe)] = &bench.tick()[..] else { panic!("one probe") };
    assert_eq!(
        (&probe[..6], &probe[38..54]),
        (&OTHER.0[..], &address.parse::<Ipv6Addr>().unwrap().octets()[..])
    );
    // Without a link-layer address, but asked for: it is where it was.
    assert_eq!(bench.hear(&advertisement(address, None, 0x40)), []);
    assert_eq!(bench.state(id), "reachable");
}

#[test]
fn p15_malformed_messages_are_refused_by_name() {
    let mut bench = Bench::new();
    bench.reachable();
    let mut zero_option = advertisement("2001:db8::9", Some(PEER), 0x60);
    zero_option[79] = 0;
    let mut forwarded = advertisement("2001:db8::9", Some(PEER), 0x60);
    forwarded[21] = 64;
    let mut corrupt = advertisement("2001:db8::9", Some(PEER), 0x60);
    corrupt[80] ^= 1;
    let resum = |frame: &mut Vec<u8>| {
        let (source, destination) = (&frame[22..38], &frame[38..54]);
        let addresses: [[u8; 16]; 2] = [source.try_into().unwrap(), destination.try_into().unwrap()];
        let packet = icmp6(addresses[0].into(), addresses[1].into(), 255, &frame[54..]);
        frame.splice(14.., packet);
    };
    resum(&mut zero_option);
    let mut format = reply("192.0.2.9", OTHER);
    format[18] = 7;
    let cases = [
        (zero_option, Refusal::OptionLength),
        (forwarded, Refusal::HopLimit),
        (corrupt, Refusal::Checksum),
        (format, Refusal::Headers),
        (reply("192.0.2.9", OTHER)[..30].to_vec(), Refusal::Headers),
    ];
    for (frame, refusal) in cases {
        assert_eq!(bench.resolver.on_frame(&frame, bench.now), Err(refusal));
    }
}

#[test]
fn ten_thousand_next_hops_are_asked_at_a_limited_rate_and_all_of_them() {
    let mut bench = Bench::new();
    let start = bench.now;
    let mut resolver = Resolver::new(Link { addresses: vec!["10.0.0.1/8".parse().unwrap()], ..link() }, 7);
    let addresses: Vec<Ipv4Addr> = (0..10_000u32).map(|i| Ipv4Addr::from_bits(0x0a01_0000 + i)).collect();
    let ids: HashMap<NeighbourId, Ipv4Addr> =
        addresses.iter().map(|a| (resolver.resolve(IpAddr::V4(*a), start).unwrap(), *a)).collect();
    assert_eq!(ids.len(), 10_000);
    let mut answered = 0;
    let mut first_second = 0;
    while answered < 10_000 {
        bench.now = resolver.next_deadline().expect("more to do").max(bench.now);
        assert!(bench.now < start + SECOND * 60, "{answered} after a minute");
        for action in resolver.on_tick(bench.now) {
            let Action::Send(frame) = action else { panic!("all answer: {action:?}") };
            first_second += u32::from(bench.now < start + SECOND);
            let target = Ipv4Addr::from(<[u8; 4]>::try_from(&frame[38..42]).unwrap()).to_string();
            let message = arp(2, (PEER, &target), (US, "10.0.0.1"), US);
            answered += resolver.on_frame(&message, bench.now).unwrap().len();
        }
    }
    assert!(first_second <= 1100, "{first_second} requests in a second");
    assert!(resolver.status().all(|(_, status)| status.state == "reachable"));
    // They become stale at different times, each tick does what is due, and then nothing is left to do.
    let mut ticks = 0;
    while let Some(deadline) = resolver.next_deadline() {
        bench.now = deadline.max(bench.now);
        assert_eq!(resolver.on_tick(bench.now), []);
        ticks += 1;
    }
    assert!(ticks > 1000, "{ticks}");
}

proptest! {
    #[test]
    fn no_bytes_panic_or_teach_anything(frames in proptest::collection::vec(
        proptest::collection::vec(any::<u8>(), 0..120), 0..20
    )) {
        let mut bench = Bench::new();
        let id = bench.reachable();
        for frame in frames {
            if let Ok(actions) = bench.resolver.on_frame(&frame, bench.now) {
                prop_assert!(actions.is_empty());
            }
        }
        prop_assert_eq!(bench.resolver.mac(id), Some(PEER));
    }

    /// Any order of events: time never stands still for ever, packets go to unicast addresses only, a failed one has none.
    #[test]
    fn any_order_of_events_keeps_the_invariants(steps in proptest::collection::vec((0u8..8, 0u8..4, any::<bool>()), 1..200)) {
        let mut bench = Bench::new();
        let mut held: HashMap<NeighbourId, (String, u32)> = HashMap::new();
        for (step, number, flag) in steps {
            let address = format!("192.0.2.{}", 10 + number);
            let id = held.iter().find(|(_, (found, _))| *found == address).map(|(id, _)| *id);
            match (step, id) {
                (0, _) => {
                    let id = bench.resolve(&address);
                    held.entry(id).or_insert((address, 0)).1 += 1;
                }
                (1, Some(id)) => {
                    bench.resolver.release(id, bench.now);
                    let users = &mut held.get_mut(&id).unwrap().1;
                    *users -= 1;
                    if *users == 0 {
                        held.remove(&id);
                    }
                }
                (2, _) => { bench.hear(&reply(&address, if flag { PEER } else { OTHER })); }
                (3, _) => { bench.hear(&gratuitous(&address, if flag { PEER } else { OTHER })); }
                (4, Some(id)) => bench.resolver.used(id, bench.now),
                (5, _) if bench.resolver.next_deadline().is_some() => { bench.next(); }
                _ => bench.now += Duration::from_millis(if flag { 100 } else { 7000 }),
            }
            let actions = bench.tick();
            prop_assert!(actions.len() <= 8);
            prop_assert!(bench.resolver.next_deadline().is_none_or(|deadline| deadline > bench.now));
            let status: HashMap<_, _> = bench.resolver.status().collect();
            prop_assert_eq!(status.len(), held.len());
            for (id, (address, users)) in &held {
                prop_assert_eq!(status[id].address, ip(address));
                prop_assert_eq!(status[id].users, *users);
                prop_assert_eq!(status[id].mac.is_none(), matches!(status[id].state, "failed" | "incomplete") && status[id].mac.is_none());
                prop_assert!(status[id].state != "failed" || status[id].mac.is_none());
            }
        }
    }
}

/// What an uplink's stage writes for its own addresses, by the emitters that it uses.
fn answer_of(own: MacAddr, question: &[u8]) -> Vec<u8> {
    let mut head = question.to_vec();
    head.resize(128, 0);
    let headers = packet::parse(question, question.len() as u32).unwrap();
    let length = match packet::ndp::parse(question, &headers).unwrap() {
        packet::ndp::Message::Solicitation(asked) => {
            packet::ndp::advertise_in_place(&mut head, &headers, &asked, own, packet::ndp::Role::Host)
        }
        _ => packet::arp::reply_in_place(&mut head, &headers, own),
    };
    head.truncate(length.expect("an answer") as usize);
    head
}

#[test]
fn two_uplinks_of_ours_find_each_other() {
    for (asked, asker) in [("192.0.2.1", "192.0.2.9/24"), ("2001:db8::1", "2001:db8::9/64")] {
        let addresses = vec![asker.parse().unwrap()];
        let mut peer = Resolver::new(Link { mac: PEER, addresses, gateways: Vec::new() }, 1);
        let id = peer.resolve(ip(asked), SECOND).unwrap();
        let [Action::Send(question)] = &peer.on_tick(SECOND)[..] else { panic!("one question") };
        let said = answer_of(US, question);
        assert_eq!(peer.on_frame(&said, SECOND), Ok(vec![Action::Reachable { id, mac: US }]));
        assert_eq!(peer.status().next().unwrap().1.state, "reachable");
    }
}
