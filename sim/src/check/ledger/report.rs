//! What is said about a packet that is none of those that were sent.

use super::forms::Piece;
use super::{Ledger, lost};
use crate::check::Violation;
use crate::guest::nic::Received;
use crate::net::read::transport;
use crate::trace::hash;

impl Ledger {
    pub(super) fn unmatched(&self, to: usize, received: &Received) -> Violation {
        let bytes = &received.bytes;
        let mut alike: Vec<Piece> = self.forms.changed(bytes).to_vec();
        alike.extend(self.forms.exact(hash(bytes)).iter().map(|at| (*at, None)));
        let what = if alike.is_empty() {
            "that nobody sent"
        } else {
            "again, or in a form its sender did not ask for"
        };
        let arrived =
            |at: usize| self.entries[at].arrived || self.entries[at].segments.iter().any(|piece| *piece);
        let elsewhere = alike.iter().filter(|(at, _)| !arrived(*at)).find_map(|(at, _)| {
            self.entries[*at]
                .decided
                .and_then(|(guest, pair)| pair.filter(|pair| guest == to && *pair != received.pair))
        });
        if let Some(pair) = elsewhere {
            let what = format!(
                "guest {to} got a packet on pair {} whose conversation it sends on pair {pair}",
                received.pair
            );
            return Violation::new("steering", what);
        }
        let right = transport(bytes).is_some_and(|transport| transport.is_checksum_right(bytes));
        let alike: Vec<String> = alike
            .iter()
            .map(|(at, segment)| {
                let entry = &self.entries[*at];
                let arrived = segment.map_or(entry.arrived, |index| entry.segments[index]);
                format!(
                    "{at}/{segment:?} of guest {}: seen {} for {:?}, arrived {arrived}, {:?}",
                    entry.guest, entry.seen, entry.decided, entry.header
                )
            })
            .collect();
        let head: Vec<String> = bytes.iter().take(80).map(|byte| format!("{byte:02x}")).collect();
        lost(format!(
            "guest {to} got a frame of {} bytes {what} on pair {} ({:?}, checksum right: {right}; alike: {}): {}",
            bytes.len(),
            received.pair,
            received.header,
            alike.join(", "),
            head.join("")
        ))
    }
}
