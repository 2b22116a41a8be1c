//! The short way of nearly all packets does what the long one does.

use packet::tcp::{ACK, FIN, RST, SYN};
use proptest::prelude::*;

use crate::*;

/// A packet of one of a few flows.
#[derive(Clone, Copy, Debug)]
struct Sent {
    flow: u16,
    back: bool,
    right_mac: bool,
    epoch: u32,
    length: u32,
    flags: u8,
    sequence: u32,
    acknowledgment: u32,
    payload: u32,
}

fn sent() -> impl Strategy<Value = Sent> {
    let flags = prop_oneof![12 => Just(ACK), 1 => Just(SYN), 1 => Just(FIN | ACK), 1 => Just(RST), 1 => Just(SYN | ACK)];
    let number = || prop_oneof![8 => 990u32..1100, 1 => any::<u32>()];
    let length = prop_oneof![6 => 60u32..2000, 1 => Just(1_500_000), 1 => any::<u32>()];
    let epoch = prop_oneof![9 => Just(EPOCH), 1 => Just(EPOCH + 1)];
    (0u16..4, any::<bool>(), prop::bool::weighted(0.9), epoch, length, flags, number(), number(), 0u32..40)
        .prop_map(|(flow, back, right_mac, epoch, length, flags, sequence, acknowledgment, payload)| Sent {
            flow,
            back,
            right_mac,
            epoch,
            length,
            flags,
            sequence,
            acknowledgment,
            payload,
        })
}

impl Sent {
    fn facts(&self) -> Facts {
        let mac = if self.back == self.right_mac { MAC_A } else { MAC_B };
        let facts = segment(mac, self.flags, self.sequence, self.acknowledgment, self.payload);
        Facts { length: self.length, tcp: facts.tcp.filter(|_| self.flow % 2 == 1), ..facts }
    }
}

/// Two tables with the same flows: of UDP those of even numbers, of TCP the others.
struct Twins<K> {
    tables: [(Arc<Sessions>, SessionWorker); 2],
    keys: Vec<K>,
}

impl<K: Key> Twins<K> {
    fn new(keys: Vec<K>) -> Self {
        let mut tables = [table(64), table(64)];
        for (_, worker) in &mut tables {
            for (number, key) in keys.iter().enumerate() {
                let first = if number % 2 == 1 { segment(MAC_B, SYN, 999, 0, 0) } else { packet(MAC_B, 60) };
                made(worker.create(&New { facts: first, ..new(*key, 0) }));
            }
        }
        Self { tables, keys }
    }

    /// Whether it went the short way in the first table. In both it has the same effect.
    fn send(&mut self, sent: Sent, now: u32) -> bool {
        let key = self.keys[usize::from(sent.flow)];
        let key = if sent.back { key.reversed(attachment_of_port(2)) } else { key };
        let facts = sent.facts();
        let sum = |session: SessionRef, _: &Way| if session.is_initiator() { 10 } else { 20 };
        let [(table, short), (_, long)] = &mut self.tables;
        let mut guess = [Guess::NONE];
        table.guess(&[key], &mut guess);
        let packet = Packet { key: &key, destination_mac: facts.destination_mac, length: facts.length };
        let passed = table.passage(sent.epoch, now).pass(guess[0], &packet, || facts.tcp);
        if passed.is_some() {
            assert_eq!(guess[0].found(), short.find(key));
        }
        let found = short.find(key);
        let shortly = passed.map_or_else(|| short.check(found, &facts, sent.epoch, now, sum), Checked::Pass);
        let found = long.find(key);
        assert_eq!(shortly, long.check(found, &facts, sent.epoch, now, sum));
        let listed = self.tables.each_ref().map(|(table, _)| table.list(now, 100, |_| true));
        assert_eq!(listed[0], listed[1]);
        passed.is_some()
    }
}

fn run<K: Key>(keys: Vec<K>, packets: &[Sent]) -> usize {
    let mut twins = Twins::new(keys);
    (0..).zip(packets).filter(|(now, sent)| twins.send(**sent, *now)).count()
}

proptest! {
    #[test]
    fn a_packet_that_passes_shortly_passes_and_leaves_the_same(packets in prop::collection::vec(sent(), 1..200)) {
        run((0..4).map(|flow| key4(if flow % 2 == 1 { 6 } else { 17 }, [flow, 53])).collect(), &packets);
        let six = |flow: u16| Key6::new(1, &[flow as u8; 32], if flow % 2 == 1 { 6 } else { 17 }, 99);
        run((0..4).map(six).collect(), &packets);
    }
}

#[test]
fn what_is_nothing_special_passes_shortly() {
    let sent = |flow, back, flags| Sent {
        flow,
        back,
        right_mac: true,
        epoch: EPOCH,
        length: 60,
        flags,
        sequence: 1000,
        acknowledgment: 1000,
        payload: 0,
    };
    let mut packets = vec![
        Sent { sequence: 999, ..sent(1, true, SYN | ACK) },
        sent(1, false, ACK),
        sent(1, true, ACK),
        sent(0, true, 0),
    ];
    // Both sides of both flows have said something then.
    let special = packets.len();
    for number in 0..100 {
        packets.push(Sent { payload: 1, sequence: 1000 + number, ..sent(1, false, ACK) });
        packets.push(Sent { acknowledgment: 1001 + number, ..sent(1, true, ACK) });
        packets.push(sent(0, number % 2 == 0, 0));
    }
    let keys = vec![key4(17, [0, 53]), key4(6, [1, 53])];
    let passed = run(keys, &packets);
    assert!(passed >= packets.len() - special, "{passed} of {}", packets.len());
}
