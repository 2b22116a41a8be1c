//! What passes between ports under rules, and what is denied, is what the rules of the moment say.
//!
//! The rules are asked of the resources themselves, for each packet ([`super::groups`]). Of sessions only this is known: which flows were let pass by which
//! host between which ends, by the rules of their first packets. Each decision of a worker is compared with the configuration in force when it was made:
//!
//! * what passes is allowed by both ends' rules, or answers a flow that passed before and is allowed now, or is a later fragment of what passed, or an error about it;
//! * what is denied is not something that each of these says must pass.

mod flow;

pub use flow::{Flow, Kind, Upper, read};

use super::groups::{self, First};
use super::ledger::{Expect, Sent};
use super::{Checked, Violation};
use crate::network::{Network, is_routed_net, vips};
use engine::{DropReason, PuntKind};
use model::security_group::Direction;
use model::{Name, ObjectName, ResourceSet};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Virtual time for which a flow's session surely lives after a packet of it, in nanoseconds: half of the shortest life that one has.
const SURE_NS: u64 = 5_000_000_000;
/// Configurations since a flow's last packet that are looked through, at most.
const LOOKED_THROUGH: usize = 8;

/// Where packets go on one host: from a guest there, or the underlay, to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Way {
    /// The host that judges.
    pub host: usize,
    /// The guest that sends, if it is on that host.
    pub from: Option<usize>,
    /// The guest that receives, if it is on that host.
    pub to: Option<usize>,
}

/// A flow that passed.
#[derive(Clone, Copy, Debug)]
struct Passed {
    /// When its last packet, or answer, did.
    at: u64,
    /// The configuration then.
    config: usize,
    /// It was seen to.
    sure: bool,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Policies {
    /// Each with the network's epoch in which it came.
    configs: Vec<(u64, ResourceSet)>,
    names: Vec<ObjectName>,
    said: HashMap<(usize, usize, bool, First), bool>,
    passed: HashMap<(Way, Flow), Passed>,
    fragments: HashSet<(Way, u32)>,
    /// Later fragments whose first has not been seen to pass yet.
    early: Vec<(Way, u32)>,
    /// By guest and flow: the configuration in which the switch took its first packet.
    sent: HashMap<(usize, Flow), usize>,
    /// See [`Policies::reopened`]: when last.
    reopened: u64,
    /// Clocks of workers jumped: how long sessions live is not known.
    pub clock_jumped: bool,
    /// What was decided, by name, since somebody looked.
    pub edges: Vec<&'static str>,
}

/// How a packet that went nowhere may have ended, as far as rules and sessions are concerned.
#[derive(Clone, Copy, Debug, Default)]
struct Excuses {
    denied: bool,
    invalid: bool,
    refused: bool,
    fragment: bool,
    unrelated: bool,
}

/// Reasons that rules and sessions have.
const REASONS: [DropReason; 6] = {
    use DropReason::*;
    [PolicyDenied, SessionInvalid, SessionTableFull, SessionQuota, FragmentUnknown, IcmpUnrelated]
};

/// Whether rules or sessions are the reason.
#[must_use]
pub fn is_policy(reason: DropReason) -> bool {
    REASONS.contains(&reason)
}

fn found<T>(what: String) -> Result<T, Violation> {
    Err(Violation::new("policy", what))
}

impl Way {
    fn back(self) -> Self {
        Self { from: self.to, to: self.from, ..self }
    }

    /// Whether rules are asked at all.
    fn is_ruled(self, network: &Network) -> bool {
        let is_filtered =
            |guest: Option<usize>| guest.is_some_and(|guest| network.ports[guest].groups.is_some());
        is_filtered(self.from) || is_filtered(self.to)
    }
}

impl Policies {
    /// What hosts go by from now on.
    ///
    /// # Errors
    ///
    /// A guest has no name.
    pub fn configure(&mut self, resources: ResourceSet, (guests, epoch): (usize, u64)) -> anyhow::Result<()> {
        while self.names.len() < guests {
            let name = ObjectName::parse(&format!("g{}", self.names.len()), &Name::default_project());
            self.names.push(name.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?);
        }
        self.configs.push((epoch, resources));
        Ok(())
    }

    /// A guest's port was made or taken away, or it goes on elsewhere: whoever talks to it may find it at another place now, and begin anew.
    pub fn reopened(&mut self, now: u64) {
        self.reopened = now;
    }

    /// Whether the rules of a guest, in a configuration, let this out or in.
    fn says(&mut self, config: usize, guest: usize, direction: Direction, packet: First) -> bool {
        let (set, name) = (&self.configs[config].1, &self.names[guest]);
        let key = (config, guest, direction == Direction::Egress, packet);
        *self.said.entry(key).or_insert_with(|| {
            groups::decide(set, name, direction, &packet).is_some_and(|decision| decision.is_allowed())
        })
    }

    fn allowed_in(&mut self, config: usize, way: Way, flow: &Flow) -> bool {
        let first = flow.first();
        way.from.is_none_or(|guest| self.says(config, guest, Direction::Egress, first))
            && way.to.is_none_or(|guest| self.says(config, guest, Direction::Ingress, first))
    }

    /// Whether the rules of today allow a flow to begin.
    #[must_use]
    pub fn allows(&mut self, way: Way, flow: &Flow) -> bool {
        self.configs.len().checked_sub(1).is_some_and(|config| self.allowed_in(config, way, flow))
    }

    /// Whether a flow passed that this one answers, and may still.
    fn answers(&mut self, way: Way, flow: &Flow) -> bool {
        let Some(asked) = flow.reversed() else { return false };
        self.passed.contains_key(&(way.back(), asked)) && self.allows(way.back(), &asked)
    }

    /// Whether a flow surely has a session, which the rules have allowed ever since its last packet.
    fn surely_lives(&mut self, now: u64, way: Way, flow: &Flow) -> bool {
        let Some(passed) = self.passed.get(&(way, *flow)).copied() else { return false };
        let last = self.configs.len() - 1;
        let is_tcp = flow.protocol == crate::net::frame::TCP;
        passed.sure
            && self.reopened < passed.at
            && !self.clock_jumped
            && !is_tcp
            && now < passed.at + SURE_NS
            && last - passed.config < LOOKED_THROUGH
            && (passed.config..=last).all(|config| self.allowed_in(config, way, flow))
    }

    /// Compares a frame that a worker lets pass.
    ///
    /// # Errors
    ///
    /// The rules forbid it.
    pub fn passes(&mut self, network: &Network, way: Way, now: u64, frame: &[u8]) -> Checked {
        if !way.is_ruled(network) {
            return Ok(());
        }
        let right = match read(frame) {
            None => return Ok(()),
            Some(Kind::Fragment(number)) => {
                self.edges.push("policy: later fragment passes");
                // One may be shown before its first, of the same burst, which was let pass before it.
                self.early.extend((!self.fragments.contains(&(way, number))).then_some((way, number)));
                true
            }
            Some(Kind::Error(quoted)) => {
                let right = quoted.is_some_and(|flow| self.is_alive(way.back(), &flow));
                if right {
                    self.edges.push("policy: error about a session passes");
                }
                right
            }
            Some(Kind::Packet(flow, fragment)) => {
                self.fragments.extend(fragment.map(|number| (way, number)));
                self.packet_passes(way, now, flow)
            }
        };
        if right { Ok(()) } else { found(format!("{way:?}: passes against the rules: {:?}", read(frame))) }
    }

    /// Notes a frame that was taken and need not go on to where it is sent although rules let it: one that is answered, is too long, or means what nobody knows.
    pub fn attempted(
        &mut self,
        network: &Network,
        (host, from): (usize, usize),
        sent: &Sent,
        frame: &[u8],
        now: u64,
    ) {
        let known = matches!(sent.expect, Expect::To(_) | Expect::Away(_) | Expect::Drop(_) | Expect::Answer);
        if network.groups.is_empty() || known && sent.epoch == network.epoch {
            return;
        }
        let Some(Kind::Packet(flow, _)) = read(frame) else { return };
        let from = network.ports.get(from).map(|_| from);
        let there = (0..network.ports.len()).filter(|to| {
            let port = &network.ports[*to];
            port.is_on(host)
                && (port.owns(flow.destination)
                    || port.vip && vips(port.subnet).contains(&flow.destination)
                    || port.router && is_routed_net(flow.destination))
        });
        for to in there.map(Some).chain([None]) {
            let way = Way { host, from, to };
            if way.is_ruled(network) && !flow.is_echo_reply() && self.allows(way, &flow) {
                let passed = Passed { at: now, config: self.configs.len() - 1, sure: false };
                self.passed.entry((way, flow)).or_insert(passed);
            }
        }
    }

    fn packet_passes(&mut self, way: Way, now: u64, flow: Flow) -> bool {
        let answers = self.answers(way, &flow);
        let begins = !flow.is_echo_reply() && self.allows(way, &flow);
        let passed = Passed { at: now, config: self.configs.len() - 1, sure: true };
        if begins {
            self.passed.insert((way, flow), passed);
        }
        if answers && let Some(asked) = flow.reversed() {
            self.passed.insert((way.back(), asked), passed);
        }
        if answers && !begins {
            self.edges.push("policy: passes as an answer alone");
        }
        begins || answers
    }

    /// Whether a flow or what it answers passed, and may today.
    fn is_alive(&mut self, way: Way, flow: &Flow) -> bool {
        let begun = self.passed.contains_key(&(way, *flow)) && self.allows(way, flow);
        begun || self.answers(way, flow)
    }

    /// Notes a frame of a guest that the switch took.
    pub fn took(&mut self, guest: usize, frame: &[u8]) {
        if let Some(Kind::Packet(flow, _)) = read(frame).filter(|_| !self.configs.is_empty()) {
            self.sent.entry((guest, flow)).or_insert(self.configs.len() - 1);
        }
    }

    /// Compares a frame that guest `to` has with all that was in force since guest `from`, or somebody on the underlay, sent it in `epoch`: it was allowed, or answers what
    /// that guest sent and was allowed to since. How hosts decided on their way is not asked here.
    ///
    /// # Errors
    ///
    /// It was not.
    pub fn delivered(
        &mut self,
        network: &Network,
        (from, to): (Option<usize>, usize),
        epoch: u64,
        frame: &[u8],
    ) -> Checked {
        if network.groups.is_empty() {
            return Ok(());
        }
        let Some(Kind::Packet(flow, _)) = read(frame) else { return Ok(()) };
        let first = self.configs.partition_point(|(since, _)| *since <= epoch).saturating_sub(1);
        let asked = flow.reversed().and_then(|asked| Some((asked, *self.sent.get(&(to, asked))?)));
        // Each end is asked on its own: a host may not know what the other said of a flow.
        let is_reply = flow.is_echo_reply();
        let mut may = |guest: Option<usize>, (its, others)| {
            let Some(guest) = guest else { return true };
            !is_reply && self.ever_says(first, guest, its, flow.first())
                || asked.is_some_and(|(asked, since)| self.ever_says(since, guest, others, asked.first()))
        };
        let (out, into) = (Direction::Egress, Direction::Ingress);
        if may(from, (out, into)) && may(Some(to), (into, out)) {
            return Ok(());
        }
        found(format!(
            "guest {to} has a packet that no rules let pass since guest {from:?} sent it: {flow:?}"
        ))
    }

    /// Whether a guest's rules let this out, or in, in some configuration since one.
    fn ever_says(&mut self, since: usize, guest: usize, direction: Direction, packet: First) -> bool {
        (since..self.configs.len()).rev().any(|config| self.says(config, guest, direction, packet))
    }

    /// Whether a packet must pass as far as rules are concerned.
    fn must_pass(&mut self, now: u64, way: Way, flow: &Flow) -> bool {
        let asked = flow.reversed();
        // Which of two directions began a session is not known if the rules allowed both.
        let begun = self.passed.contains_key(&(way, *flow));
        if let Some(asked) = asked.filter(|_| !begun)
            && self.surely_lives(now, way.back(), &asked)
        {
            return true;
        }
        // A session that its beginner may not have any more is cut, whoever sends next.
        let cut = asked.is_some_and(|asked| {
            self.passed.contains_key(&(way.back(), asked)) && !self.allows(way.back(), &asked)
        });
        !flow.is_echo_reply() && self.allows(way, flow) && !cut
    }

    /// What may have become of a frame that went nowhere: `sent` is the frame, `bytes` are what rules were asked about.
    fn excuses(
        &mut self,
        network: &Network,
        (host, from): (usize, usize),
        now: u64,
        (sent, bytes): (&Sent, &[u8]),
    ) -> Excuses {
        let all = Excuses { denied: true, invalid: true, refused: true, fragment: true, unrelated: true };
        let sender = network.ports.get(from).map(|_| from);
        let ways: Vec<Way> = match sent.expect {
            _ if sent.epoch != network.epoch => return all,
            Expect::Any | Expect::AnswerOr(_) => return all,
            Expect::To(guest) => {
                let port = &network.ports[guest];
                let there = sender.is_none() || port.is_on(host);
                let away = sender.is_some() && (!there || port.moves.is_some());
                let ends = [there.then_some(Some(guest)), away.then_some(None)];
                ends.into_iter().flatten().map(|to| Way { host, from: sender, to }).collect()
            }
            Expect::Away(_) | Expect::Punt(PuntKind::Broadcast | PuntKind::Multicast) => {
                vec![Way { host, from: sender, to: None }]
            }
            Expect::Answer | Expect::Drop(_) | Expect::Punt(_) => Vec::new(),
        };
        let mut excuses = Excuses::default();
        for way in ways.into_iter().filter(|way| way.is_ruled(network)) {
            match read(bytes) {
                None => return all,
                Some(Kind::Fragment(_)) => excuses.fragment = true,
                // Whether the session that it is about lives is not followed as closely as to say that it must.
                Some(Kind::Error(_)) => (excuses.unrelated, excuses.denied) = (true, true),
                Some(Kind::Packet(flow, _)) => {
                    excuses.denied |= !self.must_pass(now, way, &flow);
                    excuses.refused = true;
                    excuses.invalid |= flow.protocol == crate::net::frame::TCP || flow.is_echo_reply();
                }
            }
        }
        excuses
    }

    /// Why a frame must pass, or need not.
    fn explain(
        &mut self,
        network: &Network,
        (host, from): (usize, usize),
        now: u64,
        (sent, bytes): (&Sent, &[u8]),
    ) -> String {
        let (sender, receiver) = (
            network.ports.get(from).map(|_| from),
            match sent.expect {
                Expect::To(guest) if network.ports[guest].is_on(host) => Some(guest),
                _ => None,
            },
        );
        let kind = read(bytes);
        let Some(Kind::Packet(flow, _)) = kind else { return format!("{:?} {kind:?}", sent.expect) };
        let way = Way { host, from: sender, to: receiver };
        let begins = self.allows(way, &flow);
        let mut since = None;
        let mut answers = None;
        if let Some(asked) = flow.reversed() {
            since = self.passed.get(&(way.back(), asked)).copied();
            answers = Some((self.allows(way.back(), &asked), self.surely_lives(now, way.back(), &asked)));
        }
        let Flow { source, destination, protocol, upper } = flow;
        format!(
            "guest {from}, {:?} {source} > {destination} protocol {protocol} {upper:?}: may begin {begins}, answers what passed at {since:?} (now {now}, configuration {}), of which it is said that it may begin, surely lives: {answers:?}",
            sent.expect,
            self.configs.len() - 1
        )
    }

    /// A burst is over: later fragments that passed have a first that did.
    ///
    /// # Errors
    ///
    /// One has not.
    pub(super) fn settle(&mut self) -> Checked {
        let fragments = &self.fragments;
        match self.early.drain(..).find(|place| !fragments.contains(place)) {
            Some((way, number)) => {
                found(format!("{way:?}: a later fragment of datagram {number} passes, its first did not"))
            }
            None => Ok(()),
        }
    }

    /// Compares what was taken together from `from` and went nowhere with what it was dropped for.
    ///
    /// # Errors
    ///
    /// More was dropped for a reason than had it.
    pub(super) fn ends(
        &mut self,
        network: &Network,
        host: usize,
        now: u64,
        rest: &[(usize, &Sent, Vec<u8>)],
        dropped: &BTreeMap<DropReason, u64>,
    ) -> Checked {
        if !dropped.keys().any(|reason| is_policy(*reason)) {
            return Ok(());
        }
        let excuses: Vec<Excuses> = rest
            .iter()
            .map(|(from, sent, bytes)| self.excuses(network, (host, *from), now, (sent, bytes)))
            .collect();
        for (reason, count) in dropped.iter().filter(|(reason, _)| is_policy(**reason)) {
            let may = |excuses: &&Excuses| match reason {
                DropReason::PolicyDenied => excuses.denied,
                DropReason::SessionInvalid => excuses.invalid,
                DropReason::FragmentUnknown => excuses.fragment,
                DropReason::IcmpUnrelated => excuses.unrelated,
                _ => excuses.refused,
            };
            let most = excuses.iter().filter(may).count() as u64;
            if *count > most {
                let mut rest: Vec<String> = rest
                    .iter()
                    .map(|(from, sent, bytes)| self.explain(network, (host, *from), now, (sent, bytes)))
                    .collect();
                rest.dedup();
                return found(format!(
                    "host {host}: {count} frames ended as {}, {most} may have; what went nowhere: {}",
                    reason.name(),
                    rest.join("; ")
                ));
            }
        }
        Ok(())
    }
}
