//! Sessions of ports that left: one walk over the table for all of them, a step at a time, so that an index that is used again begins without its
//! predecessor's sessions and their share of the table.

use std::collections::BTreeSet;
use tables::sessions::Sessions;

/// Records that are looked at per step: about a millisecond.
const LOOKS: u32 = 1 << 14;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Departed {
    /// Those whose sessions are being removed, and how far that is.
    leaving: BTreeSet<u16>,
    at: u64,
    /// Those that left meanwhile.
    waiting: BTreeSet<u16>,
    /// Walks that are done.
    done: u64,
}

impl Departed {
    /// A port that no worker knows any more; the number of the walk after which nothing is left of it.
    pub(crate) fn add(&mut self, port: u16) -> u64 {
        self.waiting.insert(port);
        self.done + if self.leaving.is_empty() { 1 } else { 2 }
    }

    /// Whether a walk is over.
    pub(crate) fn is_over(&self, walk: u64) -> bool {
        walk <= self.done
    }

    /// Looks at some more of the table, if anybody left.
    pub(crate) fn step(&mut self, sessions: &Sessions) {
        if self.leaving.is_empty() {
            (self.leaving, self.at) = (std::mem::take(&mut self.waiting), 0);
        }
        if self.leaving.is_empty() {
            return;
        }
        match sessions.forget_ports(&self.leaving, self.at, LOOKS) {
            Some(at) => self.at = at,
            None => {
                self.leaving.clear();
                self.done += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tables::sessions::Options;

    #[test]
    fn who_comes_while_others_are_seen_to_waits_for_a_walk_of_its_own() {
        let sessions = Sessions::create(&Options { ipv4: 8, ipv6: 8, ..Options::new([1, 2]) }).unwrap();
        let mut departed = Departed::default();
        let walks = [departed.add(1), departed.add(2)];
        assert_eq!(walks, [1, 1]);
        departed.leaving = std::mem::take(&mut departed.waiting);
        let late = departed.add(3);
        assert_eq!(late, 2);
        departed.step(&sessions);
        assert!(departed.is_over(1) && !departed.is_over(late));
        departed.step(&sessions);
        assert!(departed.is_over(late) && departed.leaving.is_empty() && departed.waiting.is_empty());
        departed.step(&sessions);
        assert!(!departed.is_over(3));
    }
}
