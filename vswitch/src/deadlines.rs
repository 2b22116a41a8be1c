//! When ports must be looked at even if nothing happens on their sockets. Only ports that have such a time are in here.

use engine::PortIndex;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    by_time: BTreeSet<(Duration, PortIndex)>,
    of_port: BTreeMap<PortIndex, Duration>,
}

impl Deadlines {
    /// A port's time from now on, or none.
    pub(crate) fn set(&mut self, port: PortIndex, at: Option<Duration>) {
        let before = match at {
            Some(at) => self.of_port.insert(port, at),
            None => self.of_port.remove(&port),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.by_time.remove(&(before, port));
        }
        if let Some(at) = at {
            self.by_time.insert((at, port));
        }
    }

    /// The first time of all.
    pub(crate) fn first(&self) -> Option<Duration> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// The ports whose time has come.
    pub(crate) fn due(&self, now: Duration) -> Vec<PortIndex> {
        self.by_time.iter().take_while(|(at, _)| *at <= now).map(|(_, port)| *port).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_is_first_and_a_changed_one_counts_once() {
        let (a, b) = (PortIndex(1), PortIndex(2));
        let at = Duration::from_secs;
        let mut deadlines = Deadlines::default();
        assert_eq!(deadlines.first(), None);
        deadlines.set(a, Some(at(5)));
        deadlines.set(b, Some(at(3)));
        assert_eq!((deadlines.first(), deadlines.due(at(4))), (Some(at(3)), vec![b]));
        deadlines.set(b, Some(at(9)));
        assert_eq!((deadlines.first(), deadlines.due(at(5))), (Some(at(5)), vec![a]));
        deadlines.set(a, None);
        deadlines.set(b, Some(at(9)));
        assert_eq!(deadlines.due(at(10)), [b]);
        deadlines.set(b, None);
        assert_eq!(deadlines.first(), None);
    }
}
