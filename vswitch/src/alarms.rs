//! Says that the table of sessions fills up, or that a port nears what it may have of it, before anything is refused.

use crate::host::Host;
use api::pb;
use engine::PortIndex;
use std::collections::BTreeSet;
use tables::sessions::{Sessions, Statistics};

/// Percent of a limit at which an alarm is raised, and below which it is over.
const RAISED_AT: u64 = 80;
const OVER_BELOW: u64 = 70;
/// Ports whose alarms are logged at a time; of more only the number is.
const LOGGED: usize = 16;

/// What is near to a limit.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    /// The tables of IPv4 and of IPv6.
    tables: [bool; 2],
    ports: BTreeSet<u16>,
}

/// Whether there is an alarm, if there was one or not.
fn is_raised(before: bool, used: u64, limit: u64) -> bool {
    used * 100 >= limit * if before { OVER_BELOW } else { RAISED_AT }
}

/// Sessions and room for them, of IPv4 and of IPv6.
pub(crate) fn fill(statistics: &Statistics) -> [(&'static str, u64, u64); 2] {
    let Statistics { ipv4, ipv4_capacity, ipv6, ipv6_capacity, .. } = *statistics;
    [("IPv4", ipv4.into(), ipv4_capacity.into()), ("IPv6", ipv6.into(), ipv6_capacity.into())]
}

impl Alarms {
    /// Whether the tables of IPv4 and of IPv6 fill up.
    pub(crate) fn tables(&self) -> [bool; 2] {
        self.tables
    }

    /// Whether a port is near to what it may have.
    pub(crate) fn of_port(&self, port: PortIndex) -> bool {
        self.ports.contains(&port.0)
    }

    /// What there is an alarm for, each a sentence.
    pub(crate) fn sentences(&self, host: &Host) -> Vec<String> {
        let fill = fill(&host.control.sessions().statistics());
        let full = fill.into_iter().zip(self.tables).filter(|(_, raised)| *raised);
        let mut sentences: Vec<String> =
            full.map(|((family, used, room), _)| format!("sessions of {family}: {used} of {room}")).collect();
        if !self.ports.is_empty() {
            let count = self.ports.len();
            sentences.push(format!(
                "{count} {} near to the sessions that {} may have: see towpath describe port",
                if count == 1 { "port is" } else { "ports are" },
                if count == 1 { "it" } else { "they" },
            ));
        }
        sentences
    }

    /// Looks at the table, says what is new, and is the alarms from now on.
    pub(crate) fn look(&mut self, host: &Host) {
        let sessions = host.control.sessions();
        for ((family, used, room), raised) in fill(&sessions.statistics()).into_iter().zip(&mut self.tables) {
            let before = std::mem::replace(raised, is_raised(*raised, used, room));
            match (before, *raised) {
                (false, true) => tracing::warn!(
                    family,
                    used,
                    room,
                    "the session table fills up: raise limits.sessions, or see with towpath sessions whose they are"
                ),
                (true, false) => tracing::info!(family, used, room, "the session table has room again"),
                _ => {}
            }
        }
        self.look_at_ports(host, sessions);
    }

    fn look_at_ports(&mut self, host: &Host, sessions: &Sessions) {
        let mut new = 0;
        for (index, port) in host.ports.iter().filter(|(_, port)| port.plan.profile.policy.is_some()) {
            let counts = sessions.port_counts(index.0);
            let before = self.ports.contains(&index.0);
            let raised = is_raised(before, counts.sessions.into(), sessions.allowance().into())
                || is_raised(before, counts.half_open.into(), sessions.quota().half_open.into());
            if raised && !before {
                new += 1;
                self.ports.insert(index.0);
                if new <= LOGGED {
                    let (port, has, half_open) = (&port.plan.name, counts.sessions, counts.half_open);
                    let may_have = sessions.allowance();
                    tracing::warn!(
                        port,
                        has,
                        half_open,
                        may_have,
                        "the port nears what it may have of sessions"
                    );
                }
            } else if before && !raised {
                self.ports.remove(&index.0);
            }
        }
        if new > LOGGED {
            tracing::warn!(ports = new - LOGGED, "more ports near what they may have of sessions");
        }
        self.ports.retain(|port| host.ports.contains_key(&PortIndex(*port)));
    }
}

/// What a port has of sessions; `None` if it is under no rules.
pub(crate) fn use_of(host: &Host, port: &crate::port::Port) -> Option<pb::SessionUse> {
    port.plan.profile.policy?;
    let sessions = host.control.sessions();
    let counts = sessions.port_counts(port.index.0);
    Some(pb::SessionUse {
        sessions: counts.sessions.into(),
        half_open: counts.half_open.into(),
        allowed: sessions.allowance().into(),
        displaced: counts.displaced.into(),
        refused: counts.refused.into(),
        alarm: host.alarms.of_port(port.index),
    })
}

#[cfg(test)]
mod tests {
    use super::is_raised;

    #[test]
    fn an_alarm_stays_until_there_is_room_again() {
        let used = [0, 79, 80, 100, 75, 70, 69, 75, 80];
        let mut raised = false;
        let seen = used.map(|used| {
            raised = is_raised(raised, used, 100);
            raised
        });
        assert_eq!(seen, [false, false, true, true, true, true, false, false, true]);
    }
}
