//! V-38: random sequences of messages and late acknowledgements against a naive model of the session.
//!
//! The model knows nothing of how the session works: it keeps what was accepted in plain fields and says after each
//! message what the answer is and which queues run on what. A second test sends messages that nobody would send.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use crate::common::*;
use towpath_vhost_user::features::*;
use towpath_vhost_user::{FrontendReq as R, SessionConfig};

/// Steps after which a queue ran, and steps that waited for a worker: a run that had none shows nothing.
static RAN: AtomicU64 = AtomicU64::new(0);
static WAITED: AtomicU64 = AtomicU64::new(0);

const QUEUES: usize = 3;
/// Where regions of the model may be: four places of 2 MiB, with the rings of all queues in the first two.
const PLACES: u64 = 4;

#[derive(Clone, Debug)]
enum Op {
    Owner,
    Features(u8),
    Table(Vec<u8>),
    Add(u8),
    Remove(u8),
    Num(usize, u32),
    Base(usize, u32),
    Addr(usize, u8),
    Kick(usize, u8),
    Call(usize, bool),
    Enable(usize, u32),
    GetBase(usize),
    Status(u8),
    ResetDevice,
    LogBase(bool),
    Broken(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let queue = 0..QUEUES;
    prop_oneof![
        1 => Just(Op::Owner),
        3 => (0u8..5).prop_map(Op::Features),
        1 => proptest::collection::vec(0..PLACES as u8, 1..4).prop_map(Op::Table),
        2 => (0..PLACES as u8).prop_map(Op::Add),
        1 => (0..PLACES as u8).prop_map(Op::Remove),
        3 => (queue.clone(), prop::sample::select(vec![0, 1, 3, 64, 256, 256, 256, 65536])).prop_map(|(q, n)| Op::Num(q, n)),
        2 => (queue.clone(), prop::sample::select(vec![0, 7, 65535, 65536])).prop_map(|(q, n)| Op::Base(q, n)),
        3 => (queue.clone(), 0u8..5).prop_map(|(q, n)| Op::Addr(q, n)),
        4 => (queue.clone(), 0u8..4).prop_map(|(q, n)| Op::Kick(q, n)),
        1 => (queue.clone(), any::<bool>()).prop_map(|(q, n)| Op::Call(q, n)),
        5 => (queue.clone(), prop::sample::select(vec![0, 1, 1, 1, 2])).prop_map(|(q, n)| Op::Enable(q, n)),
        1 => queue.clone().prop_map(Op::GetBase),
        1 => prop::sample::select(vec![0, 15]).prop_map(Op::Status),
        1 => Just(Op::ResetDevice),
        1 => any::<bool>().prop_map(Op::LogBase),
        1 => queue.prop_map(Op::Broken),
    ]
}

/// What the model knows of a queue.
#[derive(Clone, Debug, Default)]
struct Queue {
    size: Option<u32>,
    base: Option<u32>,
    addr: Option<u8>,
    kick: bool,
    enabled: bool,
    broken: bool,
}

#[derive(Debug, Default)]
struct Model {
    owner: bool,
    features: Option<u64>,
    memory: Option<Vec<u8>>,
    queues: Vec<Queue>,
    log: bool,
}

fn features(choice: u8) -> u64 {
    let base = VIRTIO_F_VERSION_1 | VHOST_USER_F_PROTOCOL_FEATURES;
    match choice {
        0 | 1 => base,
        2 => base | VHOST_F_LOG_ALL,
        3 => base | VIRTIO_NET_F_MRG_RXBUF,
        _ => base | 1 << 60,
    }
}

/// User address of a queue's ring by choice: in the first place, in the second, outside, partly outside, unaligned.
fn ring(queue: usize, choice: u8) -> u64 {
    let queue = queue as u64 * 0x4_0000;
    match choice {
        0 | 1 => USER_BASE + queue + u64::from(choice) * REGION_BYTES,
        2 => USER_BASE + 64 * REGION_BYTES,
        3 => USER_BASE - 0x1_0000,
        _ => USER_BASE + 8,
    }
}

fn region(place: u8) -> [u64; 4] {
    let at = u64::from(place) * REGION_BYTES;
    [at, REGION_BYTES, USER_BASE + at, 0]
}

impl Model {
    fn packed(&self) -> bool {
        self.features.is_some_and(|f| f & VIRTIO_F_RING_PACKED != 0)
    }

    /// The queues that run, with their bases.
    fn running(&self) -> Vec<(u16, u32)> {
        let (Some(_), Some(memory)) = (self.features, &self.memory) else { return vec![] };
        let runs = |q: &Queue| {
            let inside = q.addr.is_some_and(|choice| choice < 2 && memory.contains(&choice));
            let size = q.size.is_some_and(|size| size.is_power_of_two() || self.packed());
            self.owner && inside && size && q.kick && q.enabled && !q.broken
        };
        let queues = self.queues.iter().enumerate().filter(|(_, queue)| runs(queue));
        queues.map(|(index, queue)| (index as u16, queue.base.unwrap_or(0))).collect()
    }

    fn is_running(&self, queue: usize) -> bool {
        self.running().iter().any(|(index, _)| usize::from(*index) == queue)
    }

    /// Applies a message; whether it is accepted.
    fn apply(&mut self, op: &Op) -> bool {
        let running = self.running();
        let any = !running.is_empty();
        let runs = |queue: usize| running.iter().any(|(index, _)| usize::from(*index) == queue);
        match op.clone() {
            Op::Owner => self.owner = true,
            Op::Features(4) => return false,
            Op::Features(choice) => {
                let new = features(choice);
                if any && (self.features.unwrap_or(0) ^ new) & !VHOST_F_LOG_ALL != 0 {
                    return false;
                }
                self.features = Some(new);
            }
            Op::Table(places) => {
                let mut sorted = places.clone();
                sorted.sort_unstable();
                sorted.dedup();
                if sorted.len() != places.len() {
                    return false;
                }
                self.memory = Some(places);
            }
            Op::Add(place) => {
                let memory = self.memory.get_or_insert_default();
                if memory.contains(&place) {
                    return false;
                }
                memory.push(place);
            }
            Op::Remove(place) => {
                let Some(memory) = &mut self.memory else { return false };
                let before = memory.len();
                memory.retain(|other| *other != place);
                return memory.len() != before;
            }
            Op::Num(queue, size) => {
                let legal =
                    (1..=32768).contains(&size) && (self.features.is_none() || size.is_power_of_two());
                if !legal || runs(queue) && self.queues[queue].size != Some(size) {
                    return false;
                }
                self.queues[queue].size = Some(size);
            }
            Op::Base(queue, base) => {
                if runs(queue) || self.features.is_some() && base > 65535 {
                    return false;
                }
                self.queues[queue].base = Some(base);
            }
            Op::Addr(_, 4) => return false,
            Op::Addr(queue, choice) => {
                if runs(queue) && self.queues[queue].addr != Some(choice) {
                    return false;
                }
                self.queues[queue].addr = Some(choice);
            }
            Op::Kick(_, 3) => return false,
            Op::Kick(queue, _) => {
                self.queues[queue].kick = true;
                self.queues[queue].broken = false;
            }
            Op::Call(_, good) => return good,
            Op::Enable(_, 2) => return false,
            Op::Enable(queue, on) => self.queues[queue].enabled = on == 1,
            Op::GetBase(queue) => {
                self.queues[queue].kick = false;
                self.queues[queue].broken = false;
            }
            Op::Status(0) => {
                for queue in &mut self.queues {
                    queue.kick = false;
                    queue.broken = false;
                }
            }
            Op::Status(_) => {}
            Op::ResetDevice => {
                self.queues = vec![Queue::default(); QUEUES];
                self.features = None;
            }
            Op::LogBase(good) => {
                if good {
                    self.log = true;
                }
                return good;
            }
            Op::Broken(queue) => {
                if runs(queue) {
                    self.queues[queue].broken = true;
                }
            }
        }
        true
    }
}

/// The message of an operation.
fn message(op: &Op) -> (R, Vec<u8>, Vec<OwnedFd>) {
    match op.clone() {
        Op::Owner => (R::SET_OWNER, vec![], vec![]),
        Op::Features(choice) => (R::SET_FEATURES, u64s(&[features(choice)]), vec![]),
        Op::Table(places) => {
            let regions: Vec<_> = places.iter().map(|place| region(*place)).collect();
            (R::SET_MEM_TABLE, table(&regions), places.iter().map(|_| memfd(REGION_BYTES)).collect())
        }
        Op::Add(place) => (R::ADD_MEM_REG, single(region(place)), vec![memfd(REGION_BYTES)]),
        Op::Remove(place) => (R::REM_MEM_REG, single(region(place)), vec![]),
        Op::Num(queue, size) => (R::SET_VRING_NUM, u32s(&[queue as u32, size]), vec![]),
        Op::Base(queue, base) => (R::SET_VRING_BASE, u32s(&[queue as u32, base]), vec![]),
        Op::Addr(queue, choice) => (R::SET_VRING_ADDR, addr(queue as u32, 0, ring(queue, choice)), vec![]),
        Op::Kick(queue, 2) => (R::SET_VRING_KICK, u64s(&[0x100 | queue as u64]), vec![]),
        Op::Kick(queue, 3) => (R::SET_VRING_KICK, u64s(&[queue as u64]), vec![memfd(8)]),
        Op::Kick(queue, _) => (R::SET_VRING_KICK, u64s(&[queue as u64]), vec![eventfd()]),
        Op::Call(queue, true) => (R::SET_VRING_CALL, u64s(&[queue as u64]), vec![eventfd()]),
        Op::Call(queue, false) => (R::SET_VRING_CALL, u64s(&[queue as u64]), vec![memfd(8)]),
        Op::Enable(queue, on) => (R::SET_VRING_ENABLE, u32s(&[queue as u32, on]), vec![]),
        Op::GetBase(queue) => (R::GET_VRING_BASE, u32s(&[queue as u32, 0]), vec![]),
        Op::Status(status) => (R::SET_STATUS, u64s(&[status.into()]), vec![]),
        Op::ResetDevice => (R::RESET_DEVICE, vec![], vec![]),
        // A log that is refused ends the session; only good ones here, but see the other test.
        Op::LogBase(_) => (R::SET_LOG_BASE, u64s(&[0x1000, 0]), vec![memfd(0x1000)]),
        Op::Broken(_) => (R::GET_QUEUE_NUM, vec![], vec![]),
    }
}

fn bench() -> Bench {
    let mut b = Bench::new(SessionConfig::new(!VIRTIO_F_RING_PACKED, 2, None, 1500));
    b.send(R::SET_PROTOCOL_FEATURES, true, &u64s(&[b.session.config().protocol.bits()]), vec![]);
    b
}

/// Lets workers go in the given order, each after some packets, until nothing waits.
fn release(b: &mut Bench, model: &mut Model, order: &[u8]) {
    let mut turn = order.iter().cycle();
    while let Some(first) = b.stopping.iter().next().copied() {
        let pick = usize::from(*turn.next().unwrap()) % b.stopping.len();
        let index = b.stopping.iter().nth(pick).copied().unwrap_or(first);
        let base = (b.bases[&index] + 5) % 65536;
        b.bases.insert(index, base);
        model.queues[usize::from(index)].base = Some(base);
        b.release(index);
    }
}

/// `PROPTEST_CASES` for a longer run.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(400);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// The bytes of a handshake after which a queue runs, message by message, each with its number of descriptors.
fn stream() -> Vec<(Vec<u8>, usize)> {
    let message = |request: R, payload: Vec<u8>, fds| {
        ([u32s(&[request.into(), 1, payload.len() as u32]), payload].concat(), fds)
    };
    vec![
        message(R::SET_OWNER, vec![], 0),
        message(R::SET_PROTOCOL_FEATURES, u64s(&[SUPPORTED_PROTOCOL.bits()]), 0),
        message(R::SET_FEATURES, u64s(&[VIRTIO_F_VERSION_1]), 0),
        message(R::SET_MEM_TABLE, table(&[[0, REGION_BYTES, USER_BASE, 0]]), 1),
        message(R::SET_VRING_NUM, u32s(&[0, 256]), 0),
        message(R::SET_VRING_ADDR, addr(0, 0, ring_at(0)), 0),
        message(R::SET_VRING_CALL, u64s(&[0]), 1),
        message(R::SET_VRING_KICK, u64s(&[0]), 1),
        message(R::SET_STATUS, u64s(&[15]), 0),
        message(R::NET_SET_MTU, u64s(&[1500]), 0),
        message(R::SET_LOG_BASE, u64s(&[0x1000, 0]), 1),
        message(R::ADD_MEM_REG, single([1 << 40, REGION_BYTES, 1 << 41, 0]), 1),
        message(R::GET_CONFIG, u32s(&[0, 24, 0]), 0),
        message(R::GET_VRING_BASE, u32s(&[0, 0]), 0),
        message(R::RESET_DEVICE, vec![], 0),
    ]
}

proptest! {
    #![proptest_config(config())]

    fn session_and_model_agree(
        mut ops in proptest::collection::vec(op(), 1..120),
        set_up in any::<bool>(),
        order in proptest::collection::vec(any::<u8>(), 1..8),
    ) {
        let mut b = bench();
        let mut model = Model { queues: vec![Queue::default(); QUEUES], ..Model::default() };
        b.hold = true;
        if set_up {
            // Two queues run when the random part begins.
            let mut first = vec![Op::Owner, Op::Features(0), Op::Table(vec![0, 1])];
            for queue in 0..2 {
                first.extend([Op::Num(queue, 256), Op::Addr(queue, 0), Op::Kick(queue, 0), Op::Enable(queue, 1)]);
            }
            first.append(&mut ops);
            ops = first;
        }
        for op in &ops {
            if matches!(op, Op::LogBase(false)) {
                continue;
            }
            if let Op::Broken(queue) = op && model.is_running(*queue) {
                let start = b.running.remove(&(*queue as u16)).unwrap();
                b.session.queue_broken(*queue as u16, start.base);
                model.queues[*queue].base = Some(start.base);
            }
            let before = model.running();
            let accepted = model.apply(op);
            let (request, payload, fds) = message(op);
            b.session.on_message(Bench::message(request, true, &payload, fds));
            b.settle();
            let waits = !b.stopping.is_empty();
            prop_assert!(!waits || before.len() >= b.stopping.len());
            prop_assert_eq!(waits, b.session.is_waiting());
            let mut reply = b.session.next_reply();
            prop_assert_eq!(reply.is_none(), waits, "an answer comes when the workers have let go");
            if waits {
                if matches!(op, Op::ResetDevice) {
                    // Where they stopped is forgotten with everything else.
                    let mut forgotten = Model { queues: vec![Queue::default(); QUEUES], ..Model::default() };
                    release(&mut b, &mut forgotten, &order);
                } else {
                    release(&mut b, &mut model, &order);
                }
                reply = b.session.next_reply();
            }
            check_reply(&mut model, op, accepted, &reply.unwrap().bytes[12..])?;
            let running: Vec<_> = b.running.iter().map(|(index, start)| (*index, start.base)).collect();
            prop_assert_eq!(&running, &model.running(), "after {:?}", op);
            RAN.fetch_add(u64::from(!running.is_empty()), Ordering::Relaxed);
            WAITED.fetch_add(u64::from(waits), Ordering::Relaxed);
            prop_assert_eq!(b.closed, None);
            let logs = model.log && model.features.is_some_and(|f| f & VHOST_F_LOG_ALL != 0);
            prop_assert_eq!(b.logging, logs);
        }
        b.hold = false;
        b.session.close(towpath_vhost_user::CloseReason::Owner);
        b.settle();
        prop_assert!(b.closed.is_some());
    }

    /// The bytes of a handshake with some of them changed, messages left out, said twice or swapped, in any pieces.
    #[test]
    fn v38_a_handshake_with_changes(
        order in proptest::collection::vec(0usize..15, 0..12),
        changes in proptest::collection::vec((0usize..400, any::<u8>(), any::<bool>()), 0..4),
        pieces in proptest::collection::vec(1usize..50, 1..6),
    ) {
        let mut messages = stream();
        for (at, from) in order.chunks_exact(2).map(|pair| (pair[0], pair[1])) {
            let again = messages[from].clone();
            messages[at] = again;
        }
        for (mut at, value, flip) in changes {
            for (bytes, _) in &mut messages {
                if at < bytes.len() {
                    bytes[at] = if flip { bytes[at] ^ value } else { value };
                    break;
                }
                at -= bytes.len();
            }
        }
        let mut b = Bench::default();
        let mut decoder = towpath_vhost_user::Decoder::new();
        let mut piece = pieces.iter().cycle();
        let mut now = NOW;
        'all: for (bytes, fds) in &messages {
            let mut rest = &bytes[..];
            let mut fds: Vec<OwnedFd> = (0..*fds).map(|_| if bytes.len() > 20 { memfd(REGION_BYTES) } else { eventfd() }).collect();
            while !rest.is_empty() {
                let (head, tail) = rest.split_at(rest.len().min(*piece.next().unwrap()));
                now += std::time::Duration::from_millis(1);
                match decoder.feed(head, std::mem::take(&mut fds), now) {
                    Ok(messages) => messages.into_iter().for_each(|message| b.session.on_message(message)),
                    Err(refusal) => {
                        b.session.on_refusal(refusal);
                        b.settle();
                        break 'all;
                    }
                }
                b.settle();
                rest = tail;
            }
        }
        while b.session.next_reply().is_some() {}
        prop_assert_eq!(b.session.refusals().total(), b.refused.len() as u64);
        b.session.close(towpath_vhost_user::CloseReason::Owner);
        b.settle();
        prop_assert!(b.closed.is_some() && b.running.is_empty());
    }

    /// Any request with any payload: the session answers, refuses or closes, and always lets everything go.
    #[test]
    fn v38_any_message_at_all(
        messages in proptest::collection::vec(
            (1u32..45, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..60), 0usize..3), 1..60),
        small in any::<bool>(),
    ) {
        let mut b = Bench::running();
        for (request, need_reply, mut payload, fds) in messages {
            let Ok(request) = R::try_from(request) else { continue };
            if small {
                // Mostly zero bytes: indices and counts are then often in range.
                payload.iter_mut().enumerate().filter(|(i, _)| i % 4 != 0).for_each(|(_, byte)| *byte = 0);
                payload.iter_mut().for_each(|byte| *byte &= 3);
            }
            let fds = (0..fds).map(|i| if i == 0 { eventfd() } else { memfd(0x1000) }).collect();
            b.session.on_message(Bench::message(request, need_reply, &payload, fds));
            b.settle();
            while b.session.next_reply().is_some() {}
            prop_assert!(b.closed.is_some() || !b.session.is_waiting());
        }
        let refused = b.session.refusals().total();
        prop_assert_eq!(refused, b.refused.len() as u64, "each is counted and told once");
        b.session.close(towpath_vhost_user::CloseReason::Owner);
        b.settle();
        prop_assert!(b.closed.is_some() && b.running.is_empty() && b.session.regions().is_empty());
    }
}

#[test]
fn v38_the_session_does_what_the_model_says() {
    session_and_model_agree();
    let (ran, waited) = (RAN.load(Ordering::Relaxed), WAITED.load(Ordering::Relaxed));
    assert!(ran > 1000 && waited > 200, "{ran} steps with running queues, {waited} that waited");
}

fn check_reply(model: &mut Model, op: &Op, accepted: bool, payload: &[u8]) -> Result<(), TestCaseError> {
    match op {
        Op::GetBase(queue) => {
            let base = model.queues[*queue].base.unwrap_or(0);
            prop_assert_eq!(payload, u32s(&[*queue as u32, base]));
        }
        Op::LogBase(_) => prop_assert_eq!(payload, u64s(&[0x1000, 0])),
        Op::Broken(_) => {}
        _ => prop_assert_eq!(payload, u64s(&[u64::from(!accepted)]), "{:?}", op),
    }
    Ok(())
}
