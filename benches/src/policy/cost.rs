//! What rules cost a packet of an established session, over one that nobody judges.

use std::process::Command;

use anyhow::{Context, bail};
use clap::ValueEnum;

use super::{
    Numbers, PolicyArgs, Row, Wanted, quartiles,
    site::{BURST, Packet, Site, rules, tuple},
};

/// What the ports are under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Under {
    /// Nothing.
    Unfiltered,
    /// One rule.
    One,
    /// 10,000 rules.
    Many,
}

impl Under {
    pub(super) const ALL: [Self; 3] = [Self::Unfiltered, Self::One, Self::Many];

    fn site(self, room: u32) -> anyhow::Result<Site> {
        let rules = match self {
            Self::Unfiltered => None,
            Self::One => Some(rules(1)),
            Self::Many => Some(rules(10_000)),
        };
        Site::new(&[rules.clone(), rules], room)
    }
}

/// Bursts of each in a turn.
const BURSTS: u32 = 32;
/// Cycles over unfiltered, at few sessions and at a million.
const WANTED: (f64, f64) = (25.0, 60.0);
/// Records that a worker takes ahead of sessions, at most.
const AHEAD: u32 = 1_024;
/// Turns under callgrind, which is slow and exact.
const COUNTED: u32 = 16;

fn packets(numbers: &mut Numbers, sessions: u32) -> [Packet; BURST] {
    std::array::from_fn(|_| Packet::udp(1, tuple(numbers.below(sessions))))
}

/// Cycles per packet of one turn.
fn turn(site: &mut Site, numbers: &mut Numbers, sessions: u32) -> anyhow::Result<f64> {
    let mut cycles = 0;
    for _ in 0..BURSTS {
        site.now += 1_000;
        cycles += site.burst(0, &packets(numbers, sessions))?;
    }
    Ok(cycles as f64 / (BURSTS as usize * BURST) as f64)
}

pub(super) fn rows(args: &PolicyArgs) -> anyhow::Result<Vec<Row>> {
    let mut sites =
        Under::ALL.into_iter().map(|under| under.site(args.room())).collect::<anyhow::Result<Vec<_>>>()?;
    let instructions =
        Under::ALL.map(|under| args.instructions.then(|| instructions(args, under)).transpose());
    let [plain, one, many] = instructions;
    let (plain, instructions) = (plain?, [one?, many?]);
    let (mut rows, mut there) = (Vec::new(), 0);
    for &sessions in &args.sessions {
        for site in &mut sites {
            site.establish(there..sessions.max(there))?;
        }
        there = sessions.max(there);
        // Records that the worker has taken ahead count, too.
        if sites[1..].iter().any(|site| !(there..there + AHEAD).contains(&site.sessions())) {
            let sessions: Vec<u32> = sites.iter().map(Site::sessions).collect();
            bail!("{there} sessions made: the tables have {sessions:?}");
        }
        let mut numbers = [1, 1, 1].map(Numbers);
        let mut turns: [Vec<f64>; 3] = Default::default();
        // The first tenth warms up.
        for round in 0..(args.rounds + args.rounds / 10) as usize {
            for at in (0..3).map(|at| (at + round) % 3) {
                let cycles = turn(&mut sites[at], &mut numbers[at], sessions)?;
                if round >= args.rounds as usize / 10 {
                    turns[at].push(cycles);
                }
            }
        }
        let unfiltered = quartiles(&turns[0]);
        rows.push(Row::new(format!("unfiltered, {sessions} flows"), "cycles", unfiltered, unfiltered[1]));
        for (at, count) in [(1, "1 rule"), (2, "10,000 rules")] {
            let more: Vec<f64> =
                turns[at].iter().zip(&turns[0]).map(|(under, plain)| under - plain).collect();
            let more = quartiles(&more);
            let wanted = if sessions < 1_000_000 { WANTED.0 } else { WANTED.1 };
            let whole = quartiles(&turns[at])[1];
            let mut row =
                Row::new(format!("{count}, {sessions} sessions, over unfiltered"), "cycles", more, more[1])
                    .wanted(Wanted::AtMost(wanted))
                    .note(format!("{whole:.1} cycles in all, {:.2} of unfiltered", whole / unfiltered[1]));
            if let (Some(plain), Some(count)) = (plain, instructions[at - 1]) {
                row =
                    row.note(format!("{count:.0} instructions, {:+.0} (with 1,000 sessions)", count - plain));
            }
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Nothing but packets of established sessions, for profilers.
pub(super) fn only(args: &PolicyArgs, under: Under) -> anyhow::Result<()> {
    let sessions = args.sessions.first().copied().unwrap_or(1_000);
    let mut site = under.site(args.room())?;
    site.establish(0..sessions)?;
    let mut numbers = Numbers(1);
    for _ in 0..args.rounds {
        turn(&mut site, &mut numbers, sessions)?;
    }
    Ok(())
}

/// Instructions per packet, counted by callgrind in the function that is timed otherwise.
fn instructions(args: &PolicyArgs, under: Under) -> anyhow::Result<f64> {
    let program = std::env::current_exe().context("finding this program")?;
    let name = under.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string());
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "--toggle-collect=*policy::site::steps*",
        ])
        .arg(program)
        .args(["policy", "--only", &name, "--sessions", "1000", "--rounds", &COUNTED.to_string()])
        .args(["--core", &args.core.to_string()])
        .output()
        .context("running valgrind (package valgrind)")?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text
        .lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse::<u64>().ok())
        .filter(|count| *count > 0 && output.status.success());
    let packets = f64::from(COUNTED * BURSTS) * BURST as f64;
    collected.map(|count| count as f64 / packets).with_context(|| format!("valgrind counted nothing: {text}"))
}
