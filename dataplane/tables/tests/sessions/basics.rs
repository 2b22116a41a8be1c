//! One thing after the other.

use std::net::Ipv6Addr;

use packet::MacAddr;
use packet::tcp::{ACK, FIN, SYN};
use towpath_tables::sessions::*;

use crate::*;

#[test]
fn both_directions_are_found_and_counted() {
    let (table, mut worker) = table(100);
    let keys = [udp(1), udp(2), udp(1).reversed(2)];
    let mut found = [Found::NONE; 3];
    worker.look_up4(&keys, &mut found);
    assert!(found.iter().all(|found| found.is_none()));
    let session = made(worker.create(&new(udp(1), 5)));
    assert!(session.is_initiator());
    worker.look_up4(&keys, &mut found);
    assert_eq!(found, [session.into(), Found::NONE, session.opposite().into()]);
    let Checked::Pass(to) = worker.check(found[0], &packet(MAC_B, 60), EPOCH, 6, never) else { panic!() };
    assert_eq!(to, way(2));
    assert!(table.describe(session, 6).half_open);
    let Checked::Pass(to) = worker.check(found[2], &packet(MAC_A, 70), EPOCH, 7, never) else { panic!() };
    assert_eq!(to.output, 1);
    let listed = table.describe(session, 10);
    assert_eq!(listed.counts, [(2, 160), (1, 70)]);
    assert_eq!((listed.idle, listed.half_open, listed.rules, listed.owner), (3, false, [3, 4], 1));
    assert_eq!((listed.initiator, listed.responder), ((A.into(), 1), (B.into(), 53)));
    assert_eq!(table.port_counts(1), PortCounts { sessions: 1, ..PortCounts::default() });
    worker.cut(session);
    worker.look_up4(&keys, &mut found);
    assert!(found.iter().all(|found| found.is_none()));
    assert_eq!(worker.check(session.into(), &packet(MAC_B, 60), EPOCH, 6, never), Checked::Gone);
}

#[test]
fn ipv6_sessions_are_told_apart_by_every_bit_of_their_addresses() {
    let (_, mut worker) = table(1000);
    let address = |bit: u32| Ipv6Addr::from_bits(1 << 127 ^ 1 << bit);
    let keys: Vec<Key6> = (0..127)
        .flat_map(|bit| {
            let (a, b) = (address(bit), Ipv6Addr::LOCALHOST);
            [Key6::new(1, &Key6::addresses(a, b), 17, 7), Key6::new(1, &Key6::addresses(b, a), 17, 7)]
        })
        .collect();
    let sessions: Vec<SessionRef> = keys.iter().map(|key| made(worker.create(&new(*key, 0)))).collect();
    let mut found = vec![Found::NONE; keys.len()];
    worker.look_up6(&keys, &mut found);
    assert!(found.iter().zip(&sessions).all(|(found, session)| found.session() == Some(*session)));
    let answers: Vec<Key6> = keys.iter().map(|key| key.reversed(2)).collect();
    worker.look_up6(&answers, &mut found);
    assert!(found.iter().zip(&sessions).all(|(found, session)| found.session() == Some(session.opposite())));
}

#[test]
fn pages_go_through_both_families_once_and_end() {
    let (table, mut worker) = table(200);
    let pages = |looks: u32, most: usize, protocol: u8| {
        let (mut found, mut from, mut pages) = (Vec::new(), Some(0), 0);
        while let Some(at) = from {
            let (some, next) = table.page(at, looks, (1_000, most), |session| session.protocol == protocol);
            assert!(some.len() <= most && next.is_none_or(|next| next > at));
            found.extend(some.into_iter().map(|session| (session.initiator, session.answer)));
            (from, pages) = (next, pages + 1);
        }
        (found, pages)
    };
    assert_eq!(pages(10, 5, 17), (vec![], 1), "an empty table");
    let six = |number: u16| {
        let address = Ipv6Addr::from_bits(1 << 127 | u128::from(number));
        Key6::new(1, &Key6::addresses(address, Ipv6Addr::LOCALHOST), 17, 7)
    };
    let gone: Vec<SessionRef> = (0..30).map(|port| made(worker.create(&new(udp(port), 0)))).collect();
    (0..40).for_each(|number| assert!(worker.create(&new(six(number), 0)).is_ok()));
    gone.iter().step_by(3).for_each(|session| worker.cut(*session));
    for (looks, most) in [(1, 1), (7, 3), (70, 60), (1000, 1000)] {
        let (found, count) = pages(looks, most, 17);
        assert_eq!(found.len(), 60, "{looks} {most}");
        assert_eq!(found.iter().collect::<std::collections::BTreeSet<_>>().len(), 60);
        assert!(found.iter().all(|(initiator, [_, to])| initiator == to), "nobody is translated");
        assert!(count >= 60 / most, "{count}");
    }
    assert_eq!(pages(1000, 1000, 6).0, []);
    for from in [1 << 23, 1 << 25, u64::MAX] {
        let (found, next) = table.page(from, 100, (0, 100), |_| true);
        assert!(next.is_none() && [0, 40].contains(&found.len()), "{from}");
    }
    let ports = [1].into();
    let mut from = Some(0);
    while let Some(at) = from {
        from = table.forget_ports(&ports, at, 9);
    }
    assert_eq!((pages(9, 9, 17).0, table.port_counts(1).sessions), (vec![], 0));
}

#[test]
fn what_a_session_rests_on_is_compared_when_the_epoch_is_another() {
    let (_, mut worker) = table(100);
    let session = made(worker.create(&new(udp(1), 0)));
    assert!(matches!(worker.check(session.into(), &packet(MAC_B, 60), 8, 0, |_, _| 10), Checked::Pass(_)));
    assert!(matches!(worker.check(session.into(), &packet(MAC_B, 60), 8, 0, never), Checked::Pass(_)));
    assert_eq!(worker.check(session.into(), &packet(MAC_B, 60), 9, 0, |_, _| 11), Checked::Stale(session));
    assert_eq!(worker.check(session.into(), &packet(MAC_A, 60), 8, 0, never), Checked::Stale(session));
    let [mut initiator, responder] = sides(udp(1));
    let routed = Way { rewrite: Some((MAC_A, 16_383)), ..way(3) };
    (initiator.stamp, initiator.way) = (11, Some((MAC_B, routed)));
    assert_eq!(worker.renew(session, &initiator, &responder, 9, [1, 2]), Ok(session));
    assert_eq!(worker.check(session.into(), &packet(MAC_B, 60), 9, 0, never), Checked::Pass(routed));
    assert_eq!(worker.related(udp(1), 9, never), Some(routed));
    assert_eq!(worker.related(udp(1), 10, |_, _| 12), None);
    assert_eq!(worker.related(udp(2), 9, never), None);
}

#[test]
fn a_half_without_a_way_is_stale_until_somebody_finds_it() {
    let (_, mut worker) = table(100);
    let [initiator, mut responder] = sides(udp(1));
    responder.way = None;
    let session = made(worker.create(&New { initiator, responder, ..new(udp(1), 0) }));
    let (back, facts) = (session.opposite(), packet(MAC_A, 60));
    assert_eq!(worker.check(back.found(), &facts, EPOCH, 0, never), Checked::Stale(back));
    assert_eq!(worker.check(back.found(), &packet(MacAddr::ZERO, 60), 8, 0, never), Checked::Stale(back));
    assert_eq!(worker.related(udp(1).reversed(2), EPOCH, never), None);
    worker.renew_half(back, Some((MAC_A, Way { translate: true, ..way(1) })), 5, EPOCH, [6, 7]);
    assert_eq!(
        worker.check(back.found(), &facts, EPOCH, 0, never),
        Checked::Pass(Way { translate: true, ..way(1) })
    );
    assert!(matches!(worker.check(session.found(), &packet(MAC_B, 60), EPOCH, 0, never), Checked::Pass(_)));
    assert_eq!((worker.stamp(session), worker.stamp(back), worker.rules(back)), (10, 5, [6, 7]));
    assert_eq!(worker.keys(back), (AnyKey::V4(udp(1)), AnyKey::V4(udp(1).reversed(2))));
}

#[test]
fn whoever_comes_second_gets_the_first_session() {
    let (_, mut worker) = table(100);
    let session = made(worker.create(&new(udp(1), 0)));
    assert_eq!(worker.create(&new(udp(1), 0)), Ok(Created::Existing(session)));
    let [initiator, responder] = sides(udp(1));
    let crossed = New { initiator: responder, responder: initiator, ..new(udp(1), 0) };
    assert_eq!(worker.create(&crossed), Ok(Created::Existing(session.opposite())));
    let mut moved = new(udp(1), 0);
    moved.responder.key = udp(1).reversed(attachment_of_vpc(1));
    assert_eq!(worker.create(&moved), Ok(Created::Clash(session)));
    let goes_on = worker.renew(session, &moved.initiator, &moved.responder, EPOCH, [0, 0]).unwrap();
    assert_ne!(goes_on, session);
    assert_eq!(worker.find(udp(1)), goes_on.into());
    assert_eq!(worker.find(udp(1).reversed(2)), Found::NONE);
    assert_eq!(worker.find(moved.responder.key), goes_on.opposite().into());
    let mut mirror = new(udp(1), 0);
    mirror.responder.key = mirror.initiator.key;
    assert_eq!(worker.create(&mirror), Err(Refused::Mirror));
}

#[test]
fn a_connection_is_followed_from_open_to_close() {
    let (table, mut worker) = table(100);
    let facts = segment(MAC_B, SYN, 100, 0, 0);
    let session = made(worker.create(&New { facts, ..new(tcp(1), 0) }));
    let state = |now| table.describe(session, now).state.unwrap();
    let (there, back) = (Found::from(session), Found::from(session.opposite()));
    let steps = [
        (back, segment(MAC_A, SYN | ACK, 500, 101, 0), TcpState::SynReceived),
        (there, segment(MAC_B, ACK, 101, 501, 0), TcpState::Established),
        (there, segment(MAC_B, ACK, 101, 501, 900), TcpState::Established),
        (back, segment(MAC_A, ACK, 501, 1001, 0), TcpState::Established),
        (there, segment(MAC_B, FIN | ACK, 1001, 501, 0), TcpState::FinWait),
        (back, segment(MAC_A, ACK, 501, 1002, 0), TcpState::CloseWait),
        (back, segment(MAC_A, FIN | ACK, 501, 1002, 0), TcpState::LastAck),
        (there, segment(MAC_B, ACK, 1002, 502, 0), TcpState::TimeWait),
    ];
    for (number, (found, facts, expected)) in steps.into_iter().enumerate() {
        assert!(matches!(worker.check(found, &facts, EPOCH, 1, never), Checked::Pass(_)), "step {number}");
        assert_eq!(state(1), expected, "step {number}");
    }
    let again = segment(MAC_B, SYN, 5000, 0, 0);
    assert_eq!(worker.check(there, &again, EPOCH, 1, never), Checked::Gone, "a new connection");
    assert_eq!(worker.find(tcp(1)), Found::NONE);
}

#[test]
fn a_connection_that_waits_shorter_than_it_closes_ends_then() {
    let mut options = options(64);
    options.timeouts.tcp.time_wait = 1_000;
    let table = Sessions::create(&options).unwrap();
    let mut worker = table.worker(0, 0).unwrap();
    made(worker.create(&New { facts: segment(MAC_B, SYN, 0, 0, 0), ..new(tcp(1), 0) }));
    let answers = tcp(1).reversed(attachment_of_port(2));
    // Each packet in a burst of its own.
    for (key, mac, flags, sequence, acknowledgment) in [
        (answers, MAC_A, SYN | ACK, 100, 1),
        (tcp(1), MAC_B, ACK, 1, 101),
        (tcp(1), MAC_B, FIN | ACK, 1, 101),
        (answers, MAC_A, FIN | ACK, 101, 2),
        (tcp(1), MAC_B, ACK, 2, 102),
    ] {
        let found = worker.find(key);
        let facts = segment(mac, flags, sequence, acknowledgment, 0);
        assert!(matches!(worker.check(found, &facts, EPOCH, 10, never), Checked::Pass(_)), "{flags}");
        worker.step(10);
    }
    worker.step(900);
    assert_eq!(table.statistics().ipv4, 1);
    worker.step(1_200);
    assert_eq!(table.statistics().ipv4, 0, "the last acknowledgment changed no flag");
}

#[test]
fn sessions_end_when_their_time_is_over_and_records_are_used_again() {
    let (table, mut worker) = table(64);
    for round in 0..100u32 {
        let now = round * 40_000;
        worker.step(now);
        worker.step(now);
        worker.step(now);
        for port in 0..60 {
            made(worker.create(&new(udp(port), now)));
        }
        worker.step(now + 29_000);
        assert!(!worker.find(udp(59)).is_none(), "round {round}");
        assert!(worker.next_deadline().is_some());
        worker.step(now + 30_100);
        worker.step(now + 30_200);
        assert!((0..60).all(|port| worker.find(udp(port)).is_none()), "round {round}");
    }
    assert_eq!(table.statistics().expired, 6000);
    assert_eq!(table.port_counts(1).sessions, 0);
}

#[test]
fn a_later_process_finds_every_session() {
    let (table, mut worker) = table(1000);
    for port in 0..500 {
        made(worker.create(&new(udp(port), 0)));
    }
    let file = table.file().try_clone_to_owned().unwrap();
    drop((worker, table));
    let table = Sessions::open(file, &options(1)).unwrap();
    let mut worker = table.worker(0, 1000).unwrap();
    for port in 0..500 {
        let found = worker.find(udp(port));
        assert!(matches!(worker.check(found, &packet(MAC_B, 60), EPOCH, 1000, never), Checked::Pass(_)));
    }
    assert_eq!(table.port_counts(1).sessions, 500);
    made(worker.create(&new(udp(500), 1000)));
    for now in (30_000..32_000).step_by(10) {
        worker.step(now);
    }
    assert_eq!(table.statistics().expired, 501);
}

#[test]
fn memory_that_is_no_table_is_refused() {
    let refused = |arena: &sync::Arena| {
        let file = arena.file().try_clone_to_owned().unwrap();
        Sessions::open(file, &options(1)).err().unwrap().kind()
    };
    let arena = sync::Arena::create("towpath-test", 1 << 21, false).unwrap();
    assert_eq!(refused(&arena), std::io::ErrorKind::InvalidData, "zeros");
    let (table, _) = table(100);
    let file = table.file().try_clone_to_owned().unwrap();
    let whole = sync::Arena::open(file).unwrap();
    let header = |arena: &sync::Arena| arena.region::<std::sync::atomic::AtomicU64>(0, 6).unwrap();
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    // Word, and a value that it cannot have: magic number, version, sizes, hash.
    for (word, wrong) in [(0, 1), (1, 2), (2, 0), (2, 1 << 24 | 1 << 56), (2, u64::MAX), (5, 0), (5, 3)] {
        let right = header(&whole)[word].swap(wrong, relaxed);
        assert_eq!(refused(&whole), std::io::ErrorKind::InvalidData, "word {word}: {wrong:#x}");
        header(&whole)[word].store(right, relaxed);
    }
    let file = table.file().try_clone_to_owned().unwrap();
    assert!(Sessions::open(file, &options(1)).is_ok());
    for sizes in [[0, 1], [1, 0], [Options::MOST + 1, 1]] {
        let error =
            Sessions::create(&Options { ipv4: sizes[0], ipv6: sizes[1], ..options(1) }).err().unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    }
}

/// A process that died between the steps of making or removing a session.
#[test]
fn what_was_left_half_done_is_mended() {
    let (table, mut worker) = table(100);
    let sessions: Vec<SessionRef> = (0..20).map(|port| made(worker.create(&new(udp(port), 0)))).collect();
    // Records 0 to 19; their cold words begin after the header, the index and the lines.
    let index = (100 * 2usize).div_ceil(9) + 8;
    let arena = sync::Arena::open(table.file().try_clone_to_owned().unwrap()).unwrap();
    let cold = arena.region::<std::sync::atomic::AtomicU64>(4096 + index * 64 + 100 * 128, 500).unwrap();
    for session in sessions.iter().step_by(2) {
        // No longer in the table, but still in the index.
        let state = &cold[session.number() as usize * 5 + 1];
        let before = state.fetch_and(!(3 << 56), std::sync::atomic::Ordering::Relaxed);
        assert_eq!(before >> 56, 3, "live and half-open");
    }
    // And a lock that nobody will free.
    let buckets = arena.region::<std::sync::atomic::AtomicU64>(4096, index * 8).unwrap();
    (0..index).for_each(|bucket| {
        buckets[bucket * 8 + 1].fetch_or(1 << 32, std::sync::atomic::Ordering::Relaxed);
    });
    let file = table.file().try_clone_to_owned().unwrap();
    drop((worker, table));
    let table = Sessions::open(file, &options(1)).unwrap();
    let mut worker = table.worker(0, 0).unwrap();
    assert_eq!(table.port_counts(1), PortCounts { sessions: 10, half_open: 10, ..PortCounts::default() });
    for port in 0..20 {
        assert_eq!(worker.find(udp(port)).is_some(), port % 2 == 1);
        let again = worker.create(&new(udp(port), 0)).unwrap();
        assert_eq!(matches!(again, Created::Existing(_)), port % 2 == 1, "{again:?}");
    }
}
