//! New sessions per second while a million live, and what the first packet of one costs.

use packet::tcp::{ACK, FIN, SYN};

use tables::rules::Rule;

use super::{
    Numbers, PolicyArgs, Row, Wanted, quartiles,
    site::{BURST, Packet, Site, TCP, UDP, back, rules, tuple},
};
use crate::clock::Clock;

/// New sessions per second.
const WANTED_PER_SECOND: f64 = 1e6;
/// First packets over later ones.
const WANTED_TIMES: f64 = 4.0;
/// Bursts of new sessions in a turn.
const BURSTS: u32 = 32;

/// A host on which sessions come and end all the time.
pub(super) struct Steady {
    site: Site,
    /// The ports of the session of a number.
    ports: fn(u32) -> [u16; 2],
    protocol: u8,
    /// The next session's number.
    next: u32,
    live: u32,
}

impl Steady {
    /// As many sessions are made as will live, and again as many, so that they end as fast as they are made.
    fn new(protocol: u8, live: u32, room: u32) -> anyhow::Result<Self> {
        let rules = Some(rules(1_000));
        let site = Site::new(&[rules.clone(), rules], room)?;
        Self { site, ports: tuple, protocol, next: 0, live }.filled()
    }

    /// Under these rules, of UDP, with these ports.
    pub(super) fn under(rules: &[Rule], ports: fn(u32) -> [u16; 2], live: u32) -> anyhow::Result<Self> {
        let rules = Some(rules.to_vec());
        let site = Site::new(&[rules.clone(), rules], 2 * live)?;
        Self { site, ports, protocol: UDP, next: 0, live }.filled()
    }

    /// A burst of first packets, which are answered; the worker's cycles for them alone.
    pub(super) fn first(&mut self) -> anyhow::Result<u64> {
        self.wait();
        let first = self.burst();
        let cycles = self.site.burst(0, &first)?;
        self.site.prepare(1, &first.map(|packet| back(&packet, 0)))?;
        Ok(cycles)
    }

    fn filled(mut self) -> anyhow::Result<Self> {
        let live = self.live;
        while self.next < live / 8 * 9 {
            self.connections()?;
        }
        let there = self.site.sessions();
        if there.abs_diff(live) > live / 10 {
            anyhow::bail!("{there} sessions live, {live} wanted");
        }
        Ok(self)
    }

    /// So much later that one more session is over for each of a burst that is made.
    fn wait(&mut self) {
        let life: u64 = if self.protocol == TCP { 120_000_000_000 } else { 180_000_000_000 };
        self.site.now += life / u64::from(self.live) * BURST as u64;
    }

    fn burst(&mut self) -> [Packet; BURST] {
        let first = self.next;
        self.next = self.next.wrapping_add(BURST as u32);
        std::array::from_fn(|at| Packet {
            protocol: self.protocol,
            ..Packet::udp(1, (self.ports)(first.wrapping_add(at as u32)))
        })
    }

    /// A burst of whole connections; the worker's cycles.
    fn connections(&mut self) -> anyhow::Result<u64> {
        self.wait();
        let there = self.burst();
        let here = there.map(|packet| back(&packet, 0));
        if self.protocol == UDP {
            return Ok(self.site.burst(0, &there)? + self.site.burst(1, &here)?);
        }
        let segment = |packet: Packet, tcp| Packet::tcp(packet.to, packet.ports, tcp);
        let mut cycles = 0;
        let ways = [
            (0, (SYN, 0, 0)),
            (1, (SYN | ACK, 100, 1)),
            (0, (ACK, 1, 101)),
            (0, (FIN | ACK, 1, 101)),
            (1, (FIN | ACK, 101, 2)),
            (0, (ACK, 2, 102)),
        ];
        for (from, tcp) in ways {
            let packets = if from == 0 { there } else { here };
            cycles += self.site.burst(from, &packets.map(|packet| segment(packet, tcp)))?;
        }
        Ok(cycles)
    }
}

/// New sessions per second.
pub(super) fn made(args: &PolicyArgs, clock: Clock) -> anyhow::Result<Vec<Row>> {
    let live = args.most();
    let mut rows = Vec::new();
    for (name, protocol) in [("UDP request and reply", UDP), ("TCP open and close", TCP)] {
        let mut steady = Steady::new(protocol, live, args.room())?;
        let mut rates = Vec::new();
        for _ in 0..args.rounds {
            let mut cycles = 0;
            for _ in 0..BURSTS {
                cycles += steady.connections()?;
            }
            let seconds = cycles as f64 / clock.hertz();
            rates.push(f64::from(BURSTS) * BURST as f64 / seconds);
        }
        let rates = quartiles(&rates);
        let there = steady.site.sessions();
        let cycles = clock.hertz() / rates[1];
        rows.push(
            Row::new(format!("new sessions, {name}"), "a second", rates, rates[1])
                .wanted(Wanted::AtLeast(WANTED_PER_SECOND))
                .note(format!(
                    "{cycles:.0} cycles each, {there} live at the end in a table of {}",
                    args.room()
                )),
        );
    }
    Ok(rows)
}

/// First packets over later ones.
pub(super) fn rows(args: &PolicyArgs) -> anyhow::Result<Vec<Row>> {
    let live = args.most();
    let mut steady = Steady::new(UDP, live, args.room())?;
    let mut numbers = Numbers(1);
    let mut turns: [Vec<f64>; 3] = Default::default();
    for _ in 0..args.rounds {
        let mut cycles = [0; 3];
        for _ in 0..BURSTS {
            steady.wait();
            // Young enough to be there still.
            let oldest = steady.next.wrapping_sub(live / 4);
            let later = std::array::from_fn::<_, BURST, _>(|_| {
                Packet::udp(1, tuple(oldest.wrapping_add(numbers.below(live / 4))))
            });
            cycles[2] += steady.site.burst(0, &later)?;
            let first = steady.burst();
            cycles[0] += steady.site.burst(0, &first)?;
            cycles[1] += steady.site.burst(1, &first.map(|packet| back(&packet, 0)))?;
        }
        let packets = f64::from(BURSTS) * BURST as f64;
        turns.iter_mut().zip(cycles).for_each(|(turns, cycles)| turns.push(cycles as f64 / packets));
    }
    let times: Vec<f64> = turns[0].iter().zip(&turns[2]).map(|(first, later)| first / later).collect();
    let times = quartiles(&times);
    let [first, answer, later] = [0, 1, 2].map(|at| quartiles(&turns[at])[1]);
    Ok(vec![
        Row::new("first packet over a later one, random tuples, 1,000 rules", "times", times, times[1])
            .wanted(Wanted::AtMost(WANTED_TIMES))
            .note(format!(
                "{first:.0} cycles the first, {answer:.0} its first answer, {later:.0} a later one"
            )),
    ])
}
