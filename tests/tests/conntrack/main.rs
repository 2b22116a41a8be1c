//! The same packets judged by Linux' conntrack and nftables, and by us. Every difference has a name, and `docs/conntrack.md` its reason; one without fails.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

mod difference;
mod hosts;
mod linux;
mod ours;
mod packets;
mod random;
mod rules;
mod scripts;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};

use towpath_tests::Result;
use towpath_tests::netns::Namespace;
use towpath_tests::scratch::Scratch;

use crate::difference::{Difference, More};
use crate::linux::{Delivered, Linux};
use crate::ours::Ours;
use crate::packets::Pair;
use crate::random::Random;
use crate::rules::Groups;
use crate::scripts::{Expected, Script};
use crate::traffic::Traffic;

/// What arrived at whom: packets, or the bytes of a protocol that came in fragments, by their place: they may be cut in other places, or not at all.
fn content(delivered: &[Delivered], fragmented: bool) -> BTreeSet<(usize, usize, Vec<u8>)> {
    if !fragmented {
        return delivered.iter().map(|(host, packet)| (*host, 0, packet.clone())).collect();
    }
    let mut bytes = BTreeSet::new();
    for (host, packet) in delivered {
        let (offset, payload) = packets::place(packet);
        bytes.extend(payload.iter().zip(offset..).map(|(byte, at)| (*host, at, vec![*byte])));
    }
    bytes
}

struct Both {
    linux: Linux,
    ours: Ours,
}

impl Both {
    fn judge(&mut self, from: usize, packets: &[Vec<u8>]) -> Result<[Vec<Delivered>; 2]> {
        let (mut there, mut here) = (Vec::new(), Vec::new());
        for packet in packets {
            there.extend(self.linux.judge(from, packet)?);
            here.extend(self.ours.judge(from, packet)?);
        }
        Ok([there, here])
    }
}

fn run_script(
    both: &mut Both,
    pair: Pair,
    script: &Script,
    seen: &mut BTreeSet<Difference>,
) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for step in &script.steps {
        let before = both.ours.drops(step.from);
        let [there, here] = both.judge(step.from, &step.packets)?;
        let fragmented = step.packets.len() > 1 || packets::is_fragment(&step.packets[0]);
        let (linux, ours) = (content(&there, fragmented), content(&here, fragmented));
        let fits = match step.expected {
            Expected::Passes => linux == ours && !ours.is_empty(),
            Expected::Dropped => linux.is_empty() && ours.is_empty(),
            Expected::Differs(difference) => {
                seen.insert(difference);
                match difference.more() {
                    More::Linux => linux != ours && linux.is_superset(&ours),
                    More::Ours => linux != ours && ours.is_superset(&linux),
                }
            }
        };
        if !fits {
            let after = both.ours.drops(step.from);
            let why: Vec<_> = after.iter().filter(|entry| !before.contains(entry)).collect();
            let family = if pair.ipv6 { 6 } else { 4 };
            let lengths =
                |delivered: &[Delivered]| delivered.iter().map(|(_, p)| p.len()).collect::<Vec<_>>();
            wrong.push(format!(
                "IPv{family}, {}: {}: expected {:?}; Linux delivers {:?}, we {:?} {why:?}",
                script.name,
                step.what,
                step.expected,
                lengths(&there),
                lengths(&here),
            ));
        }
    }
    Ok(wrong)
}

#[test]
#[ignore = "needs root: run by `make test`"]
fn scripts_are_judged_as_linux_judges_them() -> Result<()> {
    let scratch = Scratch::new()?;
    let namespace = Namespace::new(&scratch, "conntrack")?;
    let wrong = namespace.enter(|| {
        let groups = Groups::open_to_one();
        let mut both = Both { linux: Linux::new()?, ours: Ours::new(&groups)? };
        both.linux.set_rules(&groups)?;
        let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
        for ipv6 in [false, true] {
            let pair = Pair { from: 0, to: 3, ipv6 };
            for script in scripts::all(pair) {
                wrong.extend(run_script(&mut both, pair, &script, &mut seen)?);
            }
        }
        let unseen: Vec<_> = Difference::ALL.iter().filter(|difference| !seen.contains(difference)).collect();
        anyhow::ensure!(unseen.is_empty(), "no script shows {unseen:?}");
        println!("Linux: {:?}\nours: {:?}", both.linux.states()?, both.ours.states());
        Ok(wrong)
    })?;
    assert!(wrong.is_empty(), "{} steps:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

/// Random rule sets, and packets under each.
const SETS: usize = 60;
const PACKETS: usize = 300;

#[test]
#[ignore = "needs root: run by `make test`"]
fn random_packets_are_judged_as_linux_judges_them() -> Result<()> {
    let scratch = Scratch::new()?;
    let namespace = Namespace::new(&scratch, "conntrack")?;
    namespace
        .enter(|| {
            let mut linux = Linux::new()?;
            let times: usize =
                std::env::var("TOWPATH_LONG").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
            let sets = SETS * times;
            let mut random = Random(0x9e37_79b9_7f4a_7c15);
            let mut tally = Tally::default();
            for _ in 0..sets {
                let groups = Groups::random(&mut random);
                linux.set_rules(&groups)?;
                let mut ours = Ours::new(&groups)?;
                let mut traffic = Traffic::default();
                for _ in 0..PACKETS {
                    let sent = traffic.next(&mut random);
                    let mut both = [Vec::new(), Vec::new()];
                    for packet in &sent.packets {
                        both[0].extend(linux.judge(sent.from, packet)?);
                        both[1].extend(ours.judge(sent.from, packet)?);
                    }
                    let [there, here] = both.map(|delivered| content(&delivered, sent.packets.len() > 1));
                    traffic.learn(&sent, !there.is_empty(), there == here);
                    tally.note(&traffic, &sent, [there, here]);
                }
                let decided = linux.decided()?;
                tally.decided.iter_mut().zip(decided).for_each(|(sum, count)| *sum += count);
                for (state, count) in linux.states()? {
                    *tally.states.entry(format!("Linux, {state}")).or_default() += count;
                }
                for (state, count) in ours.states() {
                    *tally.states.entry(format!("ours, {state}")).or_default() += count;
                }
            }
            tally.print();
            Ok(tally)
        })?
        .judge();
    Ok(())
}

#[test]
fn the_document_names_every_difference_and_no_other() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conntrack.md");
    let document = std::fs::read_to_string(&file).expect("docs/conntrack.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let mut named: Vec<&str> = rows.collect();
    named.sort_unstable();
    let mut names = Difference::ALL.map(Difference::name);
    names.sort_unstable();
    assert_eq!(named, names, "rows of docs/conntrack.md");
    for difference in Difference::ALL {
        let more = match difference.more() {
            More::Linux => "Linux",
            More::Ours => "we",
        };
        let row = format!("| `{}` | {more} | ", difference.name());
        assert!(document.contains(&row), "docs/conntrack.md: a row that begins {row}");
    }
}

#[derive(Default)]
struct Tally {
    packets: usize,
    passed: usize,
    tags: BTreeMap<traffic::Tag, [usize; 2]>,
    named: BTreeMap<Difference, usize>,
    unnamed: Vec<String>,
    decided: [u64; 3],
    states: BTreeMap<String, usize>,
}

type Content = BTreeSet<(usize, usize, Vec<u8>)>;

impl Tally {
    fn note(&mut self, traffic: &Traffic, sent: &traffic::Sent, [there, here]: [Content; 2]) {
        self.packets += 1;
        self.passed += usize::from(!here.is_empty());
        self.tags.entry(sent.tag).or_default()[usize::from(!here.is_empty())] += 1;
        if there == here {
            return;
        }
        let more = if there.is_superset(&here) { More::Linux } else { More::Ours };
        match traffic::explain(sent, more) {
            Some(difference) => *self.named.entry(difference).or_default() += 1,
            None => self.unnamed.push(format!("{:?}, {more:?} more: {}", sent.tag, traffic.history(sent))),
        }
    }

    fn print(&self) {
        let Self { packets, passed, decided: [last, other, none], .. } = self;
        println!(
            "{packets} packets, {passed} passed; first packets decided by the last rule {last}, by others {other}, by none {none}"
        );
        println!("what was sent, dropped and passed: {:?}", self.tags);
        println!("states: {:#?}", self.states);
        println!("differences: {:?}", self.named);
    }

    fn judge(&self) {
        let [_, other, _] = self.decided;
        let all: u64 = self.decided.iter().sum();
        assert!(other * 100 >= all * 30, "{other} of {all} decisions by a rule that is not the last");
        for (tag, [dropped, passed]) in &self.tags {
            assert!(*dropped >= 10 && *passed >= 10, "{tag:?}: {dropped} dropped, {passed} passed");
        }
        assert!(
            self.unnamed.is_empty(),
            "{} without a name:\n{}",
            self.unnamed.len(),
            self.unnamed.join("\n")
        );
    }
}
