//! What others get beside a port that sends only first packets, or only packets that are refused.

use super::{
    Numbers, PolicyArgs, Row, Wanted,
    site::{BURST, Packet, Site, allow, rules, tuple},
};
use tables::rules::{Action, Direction, Rule};

/// Of what they get alone.
const WANTED: f64 = 0.95;
/// Sessions of the others.
const SESSIONS: u32 = 1_000;
/// Of the session table.
const ROOM: u32 = 1 << 20;
/// Worker's cycles of a turn.
const TURN: u64 = 20_000_000;
/// Cycles that no step takes.
const INTERRUPTED: u64 = 1_000_000;
/// Packets that wait in a guest's ring at most.
const WAITING: usize = 192;

/// What the other port sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flood {
    Nothing,
    First,
    Refused,
    /// Packets of established sessions, as many as it can: it is like the others.
    Like,
}

impl Flood {
    /// What others are to have of what they get alone.
    fn wanted(self) -> Option<f64> {
        (self != Self::Like).then_some(WANTED)
    }
}

struct Case {
    site: Site,
    numbers: Numbers,
    next: u32,
    /// Sent by each side and not yet taken.
    sent: [u64; 2],
}

impl Case {
    /// Ports 0 and 1 are the others, 2 floods port 3.
    fn new(flood: Flood) -> anyhow::Result<Self> {
        let all = Some(rules(1_000));
        let refuse = vec![Rule { action: Action::Deny, ..allow(Direction::Ingress) }];
        let victim = if flood == Flood::Refused { Some(refuse) } else { all.clone() };
        let mut site = Site::new(&[all.clone(), all.clone(), all, victim], ROOM)?;
        site.establish(0..SESSIONS)?;
        if flood == Flood::Like {
            site.establish_between([2, 3], 0..SESSIONS)?;
        }
        Ok(Self { site, numbers: Numbers(1), next: 0, sent: [0; 2] })
    }

    /// Runs for so many cycles of the worker; others have `offered` packets per cycle to send (or as many as fit). What they got through, per cycle.
    fn turn(&mut self, flood: Flood, offered: f64) -> anyhow::Result<f64> {
        let (mut cycles, mut received, mut sent) = (0, 0u64, 0u64);
        let mut under_way = 0usize;
        while cycles < TURN {
            let due = (offered * cycles as f64) as u64 + 1;
            let room = WAITING.saturating_sub(under_way);
            // What finds no room is lost.
            let wanted = due.saturating_sub(sent).min(WAITING as u64) as usize;
            let packets: Vec<Packet> =
                (0..wanted.min(room)).map(|_| Packet::udp(1, tuple(self.numbers.below(SESSIONS)))).collect();
            under_way += self.site.send(0, &packets)?;
            sent = due.max(sent);
            if flood != Flood::Nothing {
                let next = self.next;
                let among = if flood == Flood::Like { SESSIONS } else { u32::MAX };
                let burst = std::array::from_fn::<_, { 2 * BURST }, _>(|at| {
                    Packet::udp(3, tuple(next.wrapping_add(at as u32) % among))
                });
                self.next = next.wrapping_add(self.site.send(2, &burst)? as u32);
                self.sent[1] = u64::from(self.next);
            }
            let (_, spent) = self.site.one_step();
            // Longer than two bursts can take: the core was somebody else's meanwhile.
            if spent < INTERRUPTED {
                cycles += spent;
            }
            // A microsecond of the worker's clock for each of a few thousand cycles.
            self.site.now += spent / 3;
            let got = self.site.receive(1)?;
            under_way = under_way.saturating_sub(got);
            received += got as u64;
            self.site.receive(3)?;
        }
        self.sent[0] += sent;
        Ok(received as f64 / cycles as f64)
    }
}

pub(super) fn rows(args: &PolicyArgs) -> anyhow::Result<Vec<Row>> {
    let turns = (args.rounds / 10).max(3);
    let mut rows = Vec::new();
    for (name, flood) in
        [("first packets", Flood::First), ("refused packets", Flood::Refused), ("their like", Flood::Like)]
    {
        let (mut alone, mut beside) = (Case::new(flood)?, Case::new(flood)?);
        let highest = (0..5).map(|_| alone.turn(Flood::Nothing, 1.0)).collect::<Result<Vec<_>, _>>()?;
        let highest = super::quartiles(&highest)[1];
        for share in [1.0, 0.5, 0.25] {
            let offered = if share < 1.0 { highest * share } else { 1.0 };
            let mut shares = Vec::new();
            for _ in 0..turns {
                let without = alone.turn(Flood::Nothing, offered)?;
                shares.push(beside.turn(flood, offered)? / without);
            }
            let shares = super::quartiles(&shares);
            let load = (share * 100.0) as u32;
            let row =
                Row::new(format!("others at {load} % load beside {name}, of alone"), "", shares, shares[1]);
            rows.push(match flood.wanted() {
                Some(wanted) => row.wanted(Wanted::AtLeast(wanted)),
                None => row,
            });
        }
        if beside.sent[1] == 0 || beside.sent[0] == 0 {
            anyhow::bail!("nothing was sent beside");
        }
        let drops = beside.site.drops(2);
        if let Some(row) = rows.last_mut() {
            row.notes.push(format!("{} packets of the flood, {drops:?}", beside.sent[1]));
        }
    }
    Ok(rows)
}
