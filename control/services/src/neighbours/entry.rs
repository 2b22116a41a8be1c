//! One next hop and its states (RFC 4861 section 7.3.2).

use std::net::IpAddr;
use std::time::Duration;

use packet::MacAddr;

use super::Status;
use super::message::Said;
use crate::random::Random;

/// RetransTimer, DELAY_FIRST_PROBE_TIME, and MAX_MULTICAST_SOLICIT as well as MAX_UNICAST_SOLICIT (RFC 4861 section 10).
const RETRANSMIT: Duration = Duration::from_secs(1);
const DELAY: Duration = Duration::from_secs(5);
const TRIES: u8 = 3;
/// REACHABLE_TIME times MIN_RANDOM_FACTOR and MAX_RANDOM_FACTOR.
const REACHABLE_MIN: Duration = Duration::from_secs(15);
const REACHABLE_MAX: Duration = Duration::from_secs(45);
/// How soon a next hop that failed is tried again when it is used, and when it is not: that doubles up to the last.
const RETRY_USED: Duration = Duration::from_secs(1);
const RETRY_IDLE: Duration = Duration::from_secs(10);
const RETRY_IDLE_MAX: Duration = Duration::from_secs(320);
/// A next hop's MAC address changes unasked at most this often, and not before the last such change was verified: it answered, or everybody was asked.
const LOCK: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Solicited by multicast, so many times.
    Incomplete { tries: u8, due: Duration },
    /// It answered, and is believed up to then.
    Reachable { until: Duration },
    /// Not used since it was last confirmed.
    Stale,
    /// Used, and to be verified then.
    Delay { until: Duration },
    /// Solicited by unicast, so many times.
    Probe { tries: u8, due: Duration },
    /// It did not answer.
    Failed { since: Duration, retry: Duration },
}

/// One next hop.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) address: IpAddr,
    pub(super) users: u32,
    state: State,
    /// Where packets go; none before the first answer and after a failure.
    mac: Option<MacAddr>,
    /// When the MAC address last changed.
    changed: Duration,
    /// It changed because somebody said so unasked, and is being verified.
    claimed: bool,
    /// The pause before the next attempt, if this one fails.
    pause: Duration,
}

/// What an entry that was due wants.
pub(super) enum Step {
    /// Nothing.
    Quiet,
    /// This address solicited: at this MAC address, or by multicast.
    Solicit(IpAddr, Option<MacAddr>),
    /// It is not there.
    Failed,
}

/// How long an answer is believed.
pub(super) fn reachable_time(random: &mut Random) -> Duration {
    random.between(REACHABLE_MIN, REACHABLE_MAX)
}

impl Entry {
    pub(super) fn new(address: IpAddr, now: Duration) -> Self {
        let state = State::Incomplete { tries: 0, due: now };
        Entry {
            address,
            users: 1,
            state,
            mac: None,
            changed: Duration::ZERO,
            claimed: false,
            pause: RETRY_IDLE,
        }
    }

    pub(super) fn mac(&self) -> Option<MacAddr> {
        self.mac
    }

    pub(super) fn status(&self) -> Status {
        let state = match self.state {
            State::Incomplete { .. } => "incomplete",
            State::Reachable { .. } => "reachable",
            State::Stale => "stale",
            State::Delay { .. } => "delay",
            State::Probe { .. } => "probe",
            State::Failed { .. } => "failed",
        };
        Status { address: self.address, mac: self.mac, state, users: self.users }
    }

    /// When [`Entry::step`] is to be called.
    pub(super) fn due(&self) -> Option<Duration> {
        match self.state {
            State::Incomplete { due, .. } | State::Probe { due, .. } => Some(due),
            State::Reachable { until } | State::Delay { until } => Some(until),
            State::Failed { retry, .. } => Some(retry),
            State::Stale => None,
        }
    }

    pub(super) fn used(&mut self, now: Duration) {
        match self.state {
            State::Stale => self.state = State::Delay { until: now + DELAY },
            State::Failed { since, retry } => {
                self.state = State::Failed { since, retry: retry.min(since + RETRY_USED) };
            }
            _ => {}
        }
    }

    /// It is due.
    pub(super) fn step(&mut self, now: Duration, random: u64) -> Step {
        match self.state {
            State::Incomplete { tries: TRIES.., .. } => {
                // A quarter of jitter, so that many that failed together do not come back together.
                let jitter = self.pause / 1024 * (random % 256) as u32;
                self.state = State::Failed { since: now, retry: now + self.pause + jitter };
                self.pause = (self.pause * 2).min(RETRY_IDLE_MAX);
                (self.mac, self.claimed) = (None, false);
                Step::Failed
            }
            State::Incomplete { tries, .. } => {
                self.state = State::Incomplete { tries: tries + 1, due: now + RETRANSMIT };
                Step::Solicit(self.address, None)
            }
            State::Probe { tries: TRIES.., .. } => {
                // It may have moved: everybody is asked, while packets still go where it was.
                self.state = State::Incomplete { tries: 1, due: now + RETRANSMIT };
                Step::Solicit(self.address, None)
            }
            State::Probe { tries, .. } => {
                self.state = State::Probe { tries: tries + 1, due: now + RETRANSMIT };
                Step::Solicit(self.address, self.mac)
            }
            State::Delay { .. } => {
                self.state = State::Probe { tries: 1, due: now + RETRANSMIT };
                Step::Solicit(self.address, self.mac)
            }
            State::Reachable { .. } => {
                self.state = State::Stale;
                Step::Quiet
            }
            State::Failed { .. } => {
                self.state = State::Incomplete { tries: 1, due: now + RETRANSMIT };
                Step::Solicit(self.address, None)
            }
            State::Stale => Step::Quiet,
        }
    }

    /// Somebody says where this next hop is (RFC 4861 section 7.2.5); returns its MAC address if that is news.
    pub(super) fn heard(&mut self, said: &Said, now: Duration, reachable: Duration) -> Option<MacAddr> {
        let asked =
            matches!(self.state, State::Incomplete { tries: 1.., .. } | State::Probe { tries: 1.., .. });
        let confirmed = said.solicited && asked;
        let mac = said.mac.or(self.mac)?;
        let news = self.mac != Some(mac);
        if news && self.mac.is_some() {
            if !said.overrides {
                if let State::Reachable { .. } = self.state {
                    self.state = State::Stale;
                }
                return None;
            }
            if !confirmed && (self.claimed || now < self.changed + LOCK) {
                return None;
            }
        }
        if confirmed {
            self.state = State::Reachable { until: now + reachable };
            (self.pause, self.claimed) = (RETRY_IDLE, false);
        } else if news && self.mac.is_some() {
            // It moved, it says: it is asked there at once, and until that is settled it moves no further unless it answers.
            self.state = State::Probe { tries: 0, due: now };
            self.claimed = true;
        } else if news {
            self.state = State::Stale;
        }
        if news {
            self.mac = Some(mac);
            self.changed = now;
        }
        news.then_some(mac)
    }
}
