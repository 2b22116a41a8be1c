//! What shadow rules would change, for people: workers count and say it, here it is kept and given names.

use crate::host::Host;
use agent::{Action, Agent, CountedRule};
use api::pb;
use engine::PortIndex;
use model::ObjectName;
use model::security_group::Protocol;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use switch::Difference;
use tables::rules::{Compared, Direction, Judgement};

/// Flows of a port that are kept; those seen last.
const FLOWS: usize = 64;

/// A flow that would be treated otherwise.
#[derive(Clone, Debug)]
struct Flow {
    difference: Difference,
    packets: u64,
    last: Duration,
}

/// The flows seen last that shadow rules would treat otherwise.
#[derive(Debug, Default)]
pub(crate) struct Differing(BTreeMap<u16, VecDeque<Flow>>);

impl Differing {
    /// A packet was judged, at `now`.
    pub(crate) fn note(&mut self, difference: Difference, now: Duration) {
        let flows = self.0.entry(difference.port).or_default();
        let known = flows.iter().position(|flow| flow.difference == difference);
        let before = known.and_then(|at| flows.remove(at)).map_or(0, |flow| flow.packets);
        if flows.len() >= FLOWS {
            flows.pop_front();
        }
        flows.push_back(Flow { difference, packets: before + 1, last: now });
    }

    /// The port is another from now on.
    pub(crate) fn forget(&mut self, port: PortIndex) {
        self.0.remove(&port.0);
    }

    /// Forgets what no comparison is about any more: those that begin anew with an action, and those that ended.
    pub(crate) fn follow(&mut self, agent: &Agent, action: Option<&Action>) {
        let begun: &[u32] = match action {
            Some(Action::StartComparisons { numbers }) => numbers,
            Some(_) => return,
            None => &[],
        };
        self.0.retain(|port, _| {
            let groups = agent.groups_of_port(PortIndex(*port)).iter();
            let mut totals = groups.filter_map(|group| agent.total_of(group)).peekable();
            totals.peek().is_some() && totals.all(|total| !begun.contains(&total))
        });
    }
}

/// All groups with shadow rules that ports here are in, or one of them, with its flows.
pub(crate) fn shadows_of(host: &Host, group: Option<&ObjectName>) -> Vec<pb::Shadow> {
    let agent = &host.agent;
    let wanted = |name: &&ObjectName| group.is_none_or(|group| group == *name);
    let shadow = |name: &ObjectName| {
        let comparison = agent.comparison_of(name)?;
        let read = |number: &u32| compared(host.control.comparisons().read(*number));
        Some(pb::Shadow {
            group: name.to_string(),
            total: Some(read(&comparison.total)),
            live: comparison.live.iter().map(read).collect(),
            shadow: comparison.candidate.iter().map(read).collect(),
            flows: if group.is_some() { flows_of(host, name) } else { Vec::new() },
        })
    };
    agent.compared().filter(wanted).filter_map(shadow).collect()
}

fn flows_of(host: &Host, group: &ObjectName) -> Vec<pb::DifferingFlow> {
    let is_in = |port: &u16| host.agent.groups_of_port(PortIndex(*port)).contains(group);
    let of_group = host.differing.0.iter().filter(|(port, _)| is_in(port));
    let mut flows: Vec<&Flow> = of_group.flat_map(|(_, flows)| flows).collect();
    flows.sort_by_key(|flow| std::cmp::Reverse(flow.last));
    flows.into_iter().map(|flow| flow_of(host, flow)).collect()
}

fn flow_of(host: &Host, flow: &Flow) -> pb::DifferingFlow {
    let Difference { port, direction, live, candidate, source, destination, protocol, ports } =
        flow.difference;
    let [source_port, destination_port] = ports.map(u32::from);
    pb::DifferingFlow {
        port: host.agent.plan(PortIndex(port)).map(|plan| plan.name.clone()).unwrap_or_default(),
        direction: match direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
        .to_owned(),
        protocol: Protocol(protocol).to_string(),
        source: source.to_string(),
        source_port,
        destination: destination.to_string(),
        destination_port,
        live: Some(verdict(&host.agent, &live)),
        shadow: Some(verdict(&host.agent, &candidate)),
        packets: flow.packets,
        last_seconds: host.now().saturating_sub(flow.last).as_secs_f64(),
    }
}

fn verdict(agent: &Agent, judgement: &Judgement) -> pb::Verdict {
    let rule = judgement.rule.and_then(|number| agent.rule_of(number));
    let name = |CountedRule { group, shadow, index, .. }: CountedRule<'_>| {
        format!("{group} {}[{index}]", if shadow { "shadow" } else { "rules" })
    };
    pb::Verdict { allowed: judgement.allowed, rule: rule.map(name) }
}

fn compared(Compared { agrees, would_deny, would_allow }: Compared) -> pb::Compared {
    pb::Compared { agrees, would_deny, would_allow }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(port: u16, from: u16) -> Difference {
        let said = |allowed| Judgement { allowed, rule: None, log: false };
        Difference {
            port,
            direction: Direction::Egress,
            live: said(true),
            candidate: said(false),
            source: [10, 0, 0, 1].into(),
            destination: [10, 0, 0, 2].into(),
            protocol: 6,
            ports: [from, 80],
        }
    }

    #[test]
    fn the_flows_seen_last_are_kept_and_no_port_takes_the_room_of_another() {
        let mut differing = Differing::default();
        differing.note(difference(1, 7), Duration::from_secs(1));
        for from in 0..1000 {
            differing.note(difference(2, from), Duration::from_secs(2));
        }
        differing.note(difference(1, 7), Duration::from_secs(3));
        let [one, two] = [1, 2].map(|port| &differing.0[&port]);
        assert_eq!((one.len(), one[0].packets, one[0].last), (1, 2, Duration::from_secs(3)));
        assert_eq!((two.len(), two[0].difference.ports[0], two[63].difference.ports[0]), (64, 936, 999));
        differing.forget(PortIndex(2));
        assert_eq!(differing.0.len(), 1);
    }
}
