//! Against a naive model: a list of sessions and the time of their last packet.

use packet::MacAddr;
use proptest::prelude::*;
use towpath_tables::sessions::*;

use crate::*;

const FLOWS: u16 = 12;
/// How late a session may leave, in milliseconds.
const LATE: u32 = 200;

#[derive(Clone, Debug)]
enum Step {
    /// A packet of a flow, in one of its directions, on one of two workers.
    Packet {
        flow: u16,
        answer: bool,
        worker: usize,
        length: u32,
    },
    Cut {
        flow: u16,
        worker: usize,
    },
    /// Time passes.
    Wait(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let wait = prop_oneof![0..200u32, 0..40_000u32, 100_000..700_000u32];
    prop_oneof![
        12 => (0..FLOWS, any::<bool>(), 0..2usize, 0..9000u32)
            .prop_map(|(flow, answer, worker, length)| Step::Packet { flow, answer, worker, length }),
        1 => (0..FLOWS, 0..2usize).prop_map(|(flow, worker)| Step::Cut { flow, worker }),
        3 => wait.prop_map(Step::Wait),
    ]
}

/// A session of the model.
struct Naive {
    flow: u16,
    /// Whether the initiator is the side of the flow that does not answer.
    forward: bool,
    seen: u32,
    answered: bool,
    counts: [(u64, u64); 2],
}

fn key(flow: u16, answer: bool) -> Key4 {
    let key = match flow % 3 {
        0 => key4(17, [flow, 53]),
        1 => key4(47, [flow, 0]),
        _ => Key4::echo(1, Key4::addresses(A, B), 1, flow, false),
    };
    if answer { key.reversed(2) } else { key }
}

impl Naive {
    fn life(&self) -> u32 {
        match self.flow % 3 {
            0 if self.answered => 180_000,
            0 | 2 => 30_000,
            _ => 600_000,
        }
    }

    fn is_over(&self, now: u32) -> bool {
        now.wrapping_sub(self.seen) >= self.life()
    }
}

struct Both {
    table: std::sync::Arc<Sessions>,
    workers: Vec<SessionWorker>,
    model: Vec<Naive>,
    now: u32,
    passed: usize,
    made: usize,
    ended: usize,
}

impl Both {
    fn new(start: u32) -> Self {
        let table = Sessions::create(&options(64)).unwrap();
        let workers = (0..2).map(|number| table.worker(number, start).unwrap()).collect();
        Self { table, workers, model: Vec::new(), now: start, passed: 0, made: 0, ended: 0 }
    }

    fn packet(&mut self, flow: u16, answer: bool, worker: usize, length: u32) {
        let key = key(flow, answer);
        let found = self.workers[worker].find(key);
        let at = self.model.iter().position(|session| session.flow == flow);
        assert_eq!(found.is_some(), at.is_some(), "flow {flow}");
        let mac = if answer { MAC_A } else { MAC_B };
        if let Some(at) = at {
            let session = &mut self.model[at];
            let initiator = session.forward != answer;
            assert_eq!(found.session().unwrap().is_initiator(), initiator);
            let checked = self.workers[worker].check(found, &packet(mac, length), EPOCH, self.now, never);
            assert_eq!(checked, Checked::Pass(way(if initiator { 2 } else { 1 })));
            session.seen = self.now;
            session.answered |= !initiator;
            let counts = &mut session.counts[usize::from(!initiator)];
            *counts = (counts.0 + 1, counts.1 + u64::from(length));
            self.passed += 1;
            return;
        }
        let side = |key: Key4, mac: MacAddr, output| Side { key, way: Some((mac, way(output))), stamp: 0 };
        let [back, other] = if answer { [1, MAC_B.0[5]] } else { [2, MAC_A.0[5]] };
        let new = New {
            initiator: side(key, mac, 2),
            responder: side(key.reversed(back.into()), MacAddr([2, 0, 0, 0, 0, other]), 1),
            facts: packet(mac, length),
            ..new(key, self.now)
        };
        made(self.workers[worker].create(&new));
        let counts = [(1, u64::from(length)), (0, 0)];
        self.model.push(Naive { flow, forward: !answer, seen: self.now, answered: false, counts });
        self.made += 1;
    }

    fn cut(&mut self, flow: u16, worker: usize) {
        let worker = &mut self.workers[worker];
        if let Some(session) = worker.find(key(flow, true)).session() {
            worker.cut(session);
            assert_eq!(
                worker.check(session.found(), &packet(MAC_B, 1), EPOCH, self.now, never),
                Checked::Gone
            );
        }
        self.model.retain(|session| session.flow != flow);
    }

    fn wait(&mut self, time: u32) {
        self.now = self.now.wrapping_add(time);
        for _ in 0..6 {
            self.workers.iter_mut().for_each(|worker| worker.step(self.now));
        }
        let worker = &self.workers[0];
        let before = self.model.len();
        self.model.retain(|session| {
            let there = worker.find(key(session.flow, false)).is_some();
            let late = now_late(self.now, session);
            assert!(there || session.is_over(self.now), "flow {} left too early", session.flow);
            assert!(!there || !late, "flow {} is there too long", session.flow);
            there
        });
        self.ended += before - self.model.len();
    }

    fn compare(&self) {
        assert_eq!(self.table.port_counts(1).sessions as usize, self.model.len());
        let half_open = self.model.iter().filter(|session| !session.answered).count();
        assert_eq!(self.table.port_counts(1).half_open as usize, half_open);
        let listed = self.table.list(self.now, 1000, |_| true);
        assert_eq!(listed.len(), self.model.len());
        for session in &self.model {
            let found = self.workers[1].find(key(session.flow, !session.forward)).session().unwrap();
            let listed = self.table.describe(found, self.now);
            assert_eq!(listed.counts, session.counts);
            assert_eq!(listed.idle, self.now.wrapping_sub(session.seen));
            assert_eq!(listed.left, session.life().saturating_sub(listed.idle));
        }
    }
}

fn now_late(now: u32, session: &Naive) -> bool {
    now.wrapping_sub(session.seen) >= session.life() + LATE
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn sessions_are_as_in_a_naive_model(start in any::<u32>(), steps in proptest::collection::vec(step(), 300)) {
        let mut both = Both::new(start);
        for step in steps {
            match step {
                Step::Packet { flow, answer, worker, length } => both.packet(flow, answer, worker, length),
                Step::Cut { flow, worker } => both.cut(flow, worker),
                Step::Wait(time) => both.wait(time),
            }
        }
        both.compare();
        prop_assert!(both.passed > 20 && both.made > 5 && both.ended > 2, "{} {} {}", both.passed, both.made, both.ended);
    }
}
