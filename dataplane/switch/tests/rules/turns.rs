//! Who gets how much of a worker: nobody the time of others, by packets that cost much and that nobody wants.
//!
//! The clock stands still, so a packet's price is what its rings cost at least, the same for all.

use crate::frames::{UDP, udp};
use crate::world::{World, out, out_and_in};

/// Steps that are counted.
const STEPS: usize = 2_000;

/// Port 0 sends to 1 in one flow, 2 to 3, and 3 to 2.
struct Rivals {
    world: World,
    next: u16,
}

impl Rivals {
    fn new(let_in: u16) -> Self {
        let rules = |port| Some(out_and_in(UDP, port));
        let ports = [(0, Some(out())), (1, rules(53)), (2, Some(out())), (3, rules(let_in))];
        let mut world = World::with_sessions(1 << 18, 1, &ports);
        assert!(world.passes(0, 1, &udp(0, 1, [1000, 53])));
        assert!(world.passes(1, 0, &udp(1, 0, [53, 1000])));
        Self { world, next: 2000 }
    }

    /// One step while port 0 has as much to send as it can, if it `competes`, and port 2 the first packets of as many flows. Port 3 answers if it is to.
    fn step(&mut self, competes: bool, answers: bool) {
        if competes {
            let frame = udp(0, 1, [1000, 53]);
            self.world.offer(0, std::iter::repeat(frame));
        }
        let next = &mut self.next;
        let first = || {
            *next = if *next == u16::MAX { 2000 } else { *next + 1 };
            Some(udp(2, 3, [*next, 53]))
        };
        self.world.offer(2, std::iter::from_fn(first));
        self.world.one_step();
        self.world.receive(1);
        let asked = self.world.receive(3).into_iter();
        let ports = asked.map(|frame| u16::from_be_bytes([frame[34], frame[35]]));
        if answers {
            self.world.offer(3, ports.map(|port| udp(3, 2, [53, port])));
        }
        self.world.receive(2);
    }

    /// What ports 0 and 2 had taken from them.
    fn shares(&mut self, competes: bool, answers: bool) -> [u64; 2] {
        let before = [0, 2].map(|port| self.world.taken(port));
        (0..STEPS).for_each(|_| self.step(competes, answers));
        [0, 1].map(|at| self.world.taken([0, 2][at]) - before[at])
    }
}

#[test]
fn s04_a_flood_of_first_or_refused_packets_takes_a_twentieth_at_most_and_all_if_nobody_else_is_there() {
    for let_in in [53, 54] {
        let mut rivals = Rivals::new(let_in);
        // What it may try is spent.
        rivals.shares(false, false);
        let [others, flood] = rivals.shares(true, false);
        assert!(flood > 0 && others >= 19 * flood, "{others} of others beside {flood}, port {let_in}");
        // Port 0 has stopped.
        let [_, flood] = rivals.shares(false, false);
        assert!(flood >= 8 * (STEPS as u64 - 64), "{flood} in {STEPS} steps with nobody else, port {let_in}");
    }
}

#[test]
fn s03_who_is_answered_has_an_equal_part() {
    let mut rivals = Rivals::new(53);
    let [others, answered] = rivals.shares(true, true);
    let share = answered as f64 / (others + answered) as f64;
    assert!((0.45..0.55).contains(&share), "{others} of others beside {answered} that were answered");
}
