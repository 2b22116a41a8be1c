//! The agent against a realization computed from scratch: after each step of a random sequence of sets and announcements, its actions, applied
//! to plain maps, must have led to the same; and at no time may anything point at a number that is not there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod oracle;
mod outside;
mod store;
mod world;

use engine::Announcement;
use model::{Name, ObjectName};
use oracle::Oracle;
use packet::MacAddr;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use store::{CountedRule, Store};
use towpath_agent::{Action, Agent};
use world::{World, virtual_address, virtual_mac, world};

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    /// The desired state is another.
    Desire(Box<World>),
    /// A port here announces one of its subnet's virtual addresses, by its own MAC address or the virtual one.
    Announce { port: u8, which: u8, virtually: bool },
    /// A tunnel end point says something about a port's MAC address (or the virtual one), and perhaps a virtual address.
    Hear { vtep: u8, port: u8, which: Option<u8>, virtually: bool },
    /// A port's guest runs here.
    Activate { port: u8 },
    /// Of hosts a, b, c these are alive; `None`: nobody says.
    Live { hosts: Option<[bool; 3]> },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => world().prop_map(|world| Step::Desire(Box::new(world))),
        3 => (0..8u8, 0..3u8, any::<bool>())
            .prop_map(|(port, which, virtually)| Step::Announce { port, which, virtually }),
        4 => (prop_oneof![4 => 1..3u8, 1 => 0..6u8], 0..8u8, prop::option::of(0..3u8), any::<bool>())
            .prop_map(|(vtep, port, which, virtually)| Step::Hear { vtep, port, which, virtually }),
        2 => (0..8u8).prop_map(|port| Step::Activate { port }),
        1 => prop::option::of(prop::array::uniform3(prop::bool::weighted(0.7))).prop_map(|hosts| Step::Live { hosts }),
    ]
}

/// A base world, and worlds that differ from it in a few things: most changes are small.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    (world().prop_map(Box::new), prop::collection::vec((step(), any::<u64>()), 1..20)).prop_map(
        |(base, steps)| {
            let mut last = base.clone();
            let mut all = vec![Step::Desire(base)];
            for (step, salt) in steps {
                all.push(match step {
                    Step::Desire(other) if salt % 4 > 0 => {
                        *last = last.with_some_of(&other, salt);
                        Step::Desire(last.clone())
                    }
                    Step::Desire(other) => {
                        last = other.clone();
                        Step::Desire(other)
                    }
                    other => other,
                });
            }
            all
        },
    )
}

fn object(name: &str) -> ObjectName {
    ObjectName::parse(name, &Name::default_project()).unwrap()
}

struct Run {
    agent: Agent,
    store: Store,
    oracle: Oracle,
    counted: BTreeMap<CountedRule, BTreeSet<u32>>,
    steps: usize,
}

impl Run {
    fn new() -> Self {
        let host = Name::parse("a").unwrap();
        let counted = BTreeMap::new();
        Self {
            agent: Agent::new(host.clone()),
            store: Store::default(),
            oracle: Oracle::new(host),
            counted,
            steps: 0,
        }
    }

    fn carry_out(&mut self, actions: &[Action]) {
        for action in actions {
            if let Action::ClosePort { index } = action {
                // Half of the time workers take a while to forget it.
                if self.steps.is_multiple_of(2) {
                    self.agent.closed(*index);
                }
            }
        }
        self.store.carry_out(actions);
    }

    fn take(&mut self, step: &Step) {
        self.steps += 1;
        let actions = match step {
            Step::Desire(world) => {
                let set = world.set();
                let (actions, exhausted) = self.agent.apply(&set);
                assert_eq!(exhausted, []);
                self.oracle.desire(set);
                actions
            }
            Step::Announce { port, which, virtually } => {
                let Some((name, mac, address)) = self.said(*port, Some(*which), *virtually) else { return };
                let Some(index) = self.agent.index_of(&name) else { return };
                self.oracle.announced(&name, address.unwrap(), mac);
                self.agent.announced(Announcement { port: index, address: address.unwrap(), mac })
            }
            Step::Hear { vtep, port, which, virtually } => {
                let Some((name, mac, address)) = self.said(*port, *which, *virtually) else { return };
                let address_of_vtep = World::vtep(*vtep);
                let Some(number) = self.store.vtep_with_source(address_of_vtep) else { return };
                let Some(vpc) = self.oracle.vpc_of(&name) else { return };
                let Some(vpc_number) = self.store.vpc_named(&vpc) else { return };
                self.oracle.heard_of(&vpc, address_of_vtep, mac, address);
                self.agent.heard_of(vpc_number, number, mac, address)
            }
            Step::Live { hosts } => {
                let name = |(name, _): (&str, bool)| Name::parse(name).unwrap();
                let live = |hosts: [bool; 3]| {
                    ["a", "b", "c"].into_iter().zip(hosts).filter(|(_, live)| *live).map(name).collect()
                };
                let live: Option<BTreeSet<Name>> = hosts.map(live);
                self.oracle.set_live(live.clone());
                let (actions, exhausted) = self.agent.set_live(live);
                assert_eq!(exhausted, []);
                actions
            }
            Step::Activate { port } => {
                let name = object(&format!("p{port}"));
                let Some(index) = self.agent.index_of(&name) else { return };
                self.oracle.activated(&name);
                self.agent.activated(index)
            }
        };
        let before = self.counted.clone();
        self.carry_out(&actions);
        self.counted = self.store.counted(&self.agent);
        for announced in self.store.announced() {
            assert_eq!(self.agent.announcer_of(announced).map(Name::as_str), Some("a"));
        }
        for (rule, counters) in &before {
            // A rule that stays is counted where it was; of several that say the same, so many as stay.
            let Some(now) = self.counted.get(rule) else { continue };
            let kept = counters.intersection(now).count();
            assert_eq!(
                kept,
                counters.len().min(now.len()),
                "{rule:?} was counted at {counters:?}, now at {now:?}"
            );
        }
        let (is, should_be) = (self.store.words(&self.agent), self.oracle.words());
        let differences: Vec<String> = is
            .iter()
            .filter(|(key, value)| should_be.get(*key) != Some(value))
            .map(|(key, value)| format!("is {key}: {value}"))
            .chain(
                should_be
                    .iter()
                    .filter(|(key, value)| is.get(*key) != Some(value))
                    .map(|(key, value)| format!("should be {key}: {value}")),
            )
            .collect();
        assert!(differences.is_empty(), "{differences:#?}\nafter {step:?}\nby {actions:#?}");
    }

    /// The port, MAC address and address of something said.
    fn said(
        &self,
        port: u8,
        which: Option<u8>,
        virtually: bool,
    ) -> Option<(ObjectName, MacAddr, Option<IpAddr>)> {
        let name = object(&format!("p{port}"));
        let (mac, vpc, subnet) = self.oracle.station(&name)?;
        let mac = if virtually { virtual_mac(subnet) } else { mac };
        Some((name, mac, which.map(|which| virtual_address(vpc, subnet, which))))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    #[test]
    fn what_is_carried_out_is_what_is_desired(steps in steps()) {
        let mut run = Run::new();
        for step in &steps {
            run.take(step);
        }
        let (gone, _) = run.agent.apply(&model::ResourceSet::default());
        run.store.carry_out(&gone);
        prop_assert!(run.store.is_empty(), "{:?}", run.store);
    }
}

/// The sequences above are worth nothing if they never get anywhere.
#[test]
fn the_sequences_reach_what_they_are_for() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..300 {
        let mut run = Run::new();
        for step in steps().new_tree(&mut runner).unwrap().current() {
            run.take(&step);
            for word in run.oracle.reached() {
                *counts.entry(word).or_insert(0) += 1;
            }
        }
    }
    for word in [
        "local port",
        "remote port",
        "endpoint of others",
        "peer",
        "route to a port here",
        "route to a port elsewhere",
        "route to a peer",
        "port that moves",
        "port that arrived here",
        "port that left",
        "virtual address here",
        "virtual address elsewhere",
        "virtual MAC address",
        "policy of several groups",
        "rule that names a group",
        "member of a group",
        "member of several groups",
        "network in a group",
        "route to a NAT gateway",
        "route to an external network",
        "block of a port",
        "floating IP",
        "floating IP beside blocks",
        "address announced here",
        "address announced elsewhere",
        "VPC known for an address alone",
    ] {
        assert!(counts.get(word).is_some_and(|count| *count >= 5), "{word}: {counts:#?}");
    }
}
