//! Packets made to cost much: cases S-01 and S-02.
//!
//! S-01: the ports of first packets are those of rules with one bit turned, rule by rule and bit by bit, under rules of all widths of prefixes and ports: what blows up classifiers that
//! keep a table per combination of widths. S-02: sessions that would all be in one bucket of the table if its hash had the secret that their maker supposes.

use cpu::aes::AesHash;
use tables::rules::{Direction, Remote, Rule};

use super::{
    Numbers, PolicyArgs, Row, Wanted,
    first::Steady,
    quartiles,
    site::{BURST, Packet, Site, UDP, address, allow, back, rules, tuple},
};

/// Crafted packets over random ones, at most.
const WANTED: f64 = 1.5;
/// Rules of each direction under which first packets are judged.
const RULES: u32 = 500;
/// Sessions that live meanwhile.
const LIVE: u32 = 100_000;
/// Sessions that are made to collide.
const COLLIDING: usize = 1_000;
/// Buckets of the table that they are made for.
const BUCKETS: u64 = 1 << 14;
/// Bursts of a turn.
const BURSTS: usize = 32;

pub(super) fn rows(args: &PolicyArgs) -> anyhow::Result<Vec<Row>> {
    let mut rows = vec![first(args)?];
    rows.extend(later(args)?);
    Ok(rows)
}

/// The first of the ports that a rule is about; they end with the next multiple of its width, a power of two.
const fn base(rule: u32) -> u16 {
    0x8000 | (rule.wrapping_mul(0x9e37_79b1) >> 17) as u16
}

/// Rules about the other end's address by prefixes of every length, and ports in ranges of every width, all of which let pass.
pub(super) fn layers() -> Vec<Rule> {
    let mut layers: Vec<Rule> = Vec::new();
    for number in 0..RULES {
        for (direction, other) in [(Direction::Egress, 1), (Direction::Ingress, 0)] {
            let length = 8 + (number % 25) as u8;
            let width = (1u16 << (number / 25 % 14)) - 1;
            let prefix = ipnet::Ipv4Net::new_assert(address(other), length).trunc();
            let ports = vec![base(number) & !width..=base(number) | width];
            let (remote, counter) = (Remote::Prefix(ipnet::IpNet::V4(prefix)), 2 + layers.len() as u32);
            let priority = 1 + (number.wrapping_mul(0x85eb_ca6b) >> 23) as u16;
            let protocol = Some(UDP);
            layers.push(Rule { priority, protocol, ports, remote, counter, ..allow(direction) });
        }
    }
    layers.extend([allow(Direction::Egress), allow(Direction::Ingress)]);
    layers
}

/// Next to the first port of each rule in turn, in one bit.
pub(super) fn beside(number: u32) -> [u16; 2] {
    let turned = 1 << (number / RULES % 15);
    [0x8000 | (number / RULES) as u16, base(number % RULES) ^ turned]
}

fn first(args: &PolicyArgs) -> anyhow::Result<Row> {
    let live = args.most().min(LIVE);
    let mut random = Steady::under(&layers(), tuple, live)?;
    let mut crafted = Steady::under(&layers(), beside, live)?;
    let mut times = Vec::new();
    for _ in 0..args.rounds {
        let mut cycles = [0; 2];
        for _ in 0..BURSTS {
            cycles[0] += random.first()?;
            cycles[1] += crafted.first()?;
        }
        times.push(cycles[1] as f64 / cycles[0] as f64);
    }
    let times = quartiles(&times);
    let name = "S-01: crafted first packets over random ones";
    Ok(Row::new(name, "times", times, times[1]).wanted(Wanted::AtMost(WANTED)))
}

/// Ports of which sessions between ports 0 and 1 would be in one of [`BUCKETS`], were the round keys of the hash 0; none without AES instructions.
fn colliding() -> Option<Vec<[u16; 2]>> {
    let hash = AesHash::new([[0; 2]; 5])?;
    let [from, to] = [0, 1].map(|port| address(port).octets());
    let mut both = [0; 8];
    both[..4].copy_from_slice(&from);
    both[4..].copy_from_slice(&to);
    let mut found = Vec::new();
    for number in 0.. {
        if found.len() == COLLIDING {
            break;
        }
        let ports = tuple(number);
        let ([a, b], [c, d]) = (ports[0].to_be_bytes(), ports[1].to_be_bytes());
        let first = u64::from(UDP) << 32 | u64::from(u32::from_ne_bytes([a, b, c, d]));
        let mut bucket = 0;
        let block = |_: usize, _: usize| [first, u64::from_ne_bytes(both)];
        hash.hash((1, 1), block, |_, hash| bucket = ((hash & 0xffff_ffff) * BUCKETS) >> 32);
        if bucket == 0 {
            found.push(ports);
        }
    }
    Some(found)
}

fn later(args: &PolicyArgs) -> anyhow::Result<Option<Row>> {
    let Some(colliding) = colliding() else { return Ok(None) };
    let random: Vec<[u16; 2]> = (0..COLLIDING as u32).map(|number| tuple(1 << 29 | number)).collect();
    let all = Some(rules(1));
    let mut sites = [&random, &colliding].map(|_| Site::new(&[all.clone(), all.clone()], 1 << 16));
    let mut turns: [Vec<f64>; 2] = Default::default();
    let mut numbers = Numbers(1);
    for (site, ports) in sites.iter_mut().zip([&random, &colliding]) {
        let site = site.as_mut().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        for ports in ports.chunks(BURST) {
            let packets: Vec<Packet> = ports.iter().map(|ports| Packet::udp(1, *ports)).collect();
            site.prepare(0, &packets)?;
            site.prepare(1, &packets.iter().map(|packet| back(packet, 0)).collect::<Vec<_>>())?;
        }
    }
    for _ in 0..args.rounds {
        for ((site, ports), turns) in sites.iter_mut().flatten().zip([&random, &colliding]).zip(&mut turns) {
            let mut cycles = 0;
            for _ in 0..BURSTS {
                site.now += 1_000;
                let packets: [Packet; BURST] = std::array::from_fn(|_| {
                    Packet::udp(1, ports[numbers.below(COLLIDING as u32) as usize % ports.len()])
                });
                cycles += site.burst(0, &packets)?;
            }
            turns.push(cycles as f64);
        }
    }
    let times: Vec<f64> = turns[1].iter().zip(&turns[0]).map(|(crafted, random)| crafted / random).collect();
    let times = quartiles(&times);
    let name = "S-02: later packets of colliding sessions over random ones";
    Ok(Some(Row::new(name, "times", times, times[1]).wanted(Wanted::AtMost(WANTED))))
}
