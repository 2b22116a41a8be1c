//! What is known of a target, and how it follows from checks.

use std::fmt;
use std::time::Duration;

/// How one check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It takes connections.
    Connects,
    /// It answered a request with this HTTP status.
    Status(u16),
    /// It refused the connection.
    Refused,
    /// No connection came about in time.
    NoConnection,
    /// It took the connection and did not answer in time.
    NoAnswer,
    /// It ended the connection without an answer.
    Ended,
    /// What it answered is no HTTP.
    NotHttp,
    /// The host that holds it, which had spoken of it before, has fallen silent.
    Silent,
}

impl Outcome {
    /// Whether who answers so is well.
    #[must_use]
    pub const fn is_good(self) -> bool {
        matches!(self, Self::Connects | Self::Status(200..=399))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connects => "takes connections",
            Self::Status(status) => return write!(f, "answers with HTTP status {status}"),
            Self::Refused => "refuses connections",
            Self::NoConnection => "no connection within the timeout",
            Self::NoAnswer => "no answer within the timeout",
            Self::Ended => "ends connections without an answer",
            Self::NotHttp => "answers with something that is no HTTP",
            Self::Silent => "its host says nothing any more",
        })
    }
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Verdict {
    /// Nothing is known yet, or nobody can find out: it counts as up.
    #[default]
    Unknown,
    /// It takes connections.
    Up,
    /// It does not.
    Down,
}

/// What is known of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether it is up.
    pub verdict: Verdict,
    /// Since when, as `now` counts.
    pub since: Duration,
    /// How the last check ended.
    pub last: Option<Outcome>,
    /// Checks in a row that speak against the verdict.
    against: u32,
}

impl Health {
    /// Nothing is known.
    pub(super) const fn unknown(now: Duration) -> Self {
        Self { verdict: Verdict::Unknown, since: now, last: None, against: 0 }
    }

    /// Whether it may be given connections.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.verdict != Verdict::Down
    }

    /// Notes how a check ended. Of who is not known yet one good check is enough; otherwise it takes so many in a row, (good, bad), to change what holds.
    pub(super) fn note(&mut self, outcome: Outcome, (healthy, unhealthy): (u32, u32), now: Duration) {
        self.last = Some(outcome);
        let (says, needed) = match (outcome.is_good(), self.verdict) {
            (true, Verdict::Unknown) => (Verdict::Up, 1),
            (true, _) => (Verdict::Up, healthy),
            (false, _) => (Verdict::Down, unhealthy),
        };
        if says == self.verdict {
            self.against = 0;
            return;
        }
        self.against += 1;
        if self.against >= needed {
            *self = Self { verdict: says, since: now, last: Some(outcome), against: 0 };
        }
    }

    /// What holds from now on, by another's word: since when he knows, if that is new.
    pub(super) fn set(&mut self, verdict: Verdict, last: Option<Outcome>, since: Duration) {
        let since = if verdict == self.verdict { self.since } else { since };
        *self = Self { verdict, since, last, against: 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Outcome::{Connects, Refused, Status};

    fn after(outcomes: &[Outcome]) -> Vec<Verdict> {
        let mut health = Health::unknown(Duration::ZERO);
        let times = (1..).map(Duration::from_secs);
        outcomes
            .iter()
            .zip(times)
            .map(|(outcome, now)| {
                let before = health.verdict;
                health.note(*outcome, (2, 3), now);
                assert_eq!(health.last, Some(*outcome));
                assert_eq!(health.since == now, health.verdict != before);
                health.verdict
            })
            .collect()
    }

    #[test]
    fn it_takes_so_many_checks_in_a_row() {
        use Verdict::{Down, Unknown, Up};
        assert_eq!(after(&[Connects, Refused, Refused, Connects, Refused, Refused]), [Up; 6]);
        assert_eq!(after(&[Refused; 4]), [Unknown, Unknown, Down, Down]);
        let outcomes = [Refused, Refused, Refused, Connects, Refused, Connects, Connects, Status(500)];
        assert_eq!(after(&outcomes), [Unknown, Unknown, Down, Down, Down, Down, Up, Up]);
    }

    #[test]
    fn an_http_status_below_400_is_good() {
        let good: Vec<u16> = (0..1000).filter(|status| Status(*status).is_good()).collect();
        assert_eq!(good, (200..400).collect::<Vec<u16>>());
    }
}
