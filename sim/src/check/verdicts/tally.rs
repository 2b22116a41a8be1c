//! How many packets of a port ended how in a step.

use super::{is_delivery, is_policy};
use crate::check::{Checked, Violation};
use engine::{DropReason, PortIndex};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) received: u64,
    pub(super) forwarded: u64,
    pub(super) unknown: u64,
    /// Packets for the control thread: expected, and given to it.
    pub(super) asks: u64,
    pub(super) punted: u64,
    pub(super) expected: BTreeMap<DropReason, u64>,
    /// Those that are answered, or end for this reason.
    pub(super) perhaps: BTreeMap<DropReason, u64>,
    pub(super) dropped: BTreeMap<DropReason, u64>,
}

impl Tally {
    pub(super) fn check(&self, port: PortIndex) -> Checked {
        let wrong = |what: String| Err(Violation::new("verdicts", format!("{port:?}: {what}")));
        let stages = || {
            self.dropped
                .iter()
                .filter(|(reason, _)| !is_delivery(**reason) && **reason != DropReason::BadChain)
        };
        for (reason, count) in &self.expected {
            let got = self.dropped.get(reason).copied().unwrap_or(0);
            if got < *count {
                return wrong(format!(
                    "{count} frames should have ended as {}, {got} did: {:?}",
                    reason.name(),
                    self.dropped
                ));
            }
        }
        for (reason, got) in stages() {
            let refused = matches!(reason, DropReason::ServiceBudget | DropReason::ServiceBusy);
            let asks = if refused { self.asks } else { 0 };
            let perhaps = self.perhaps.get(reason).copied().unwrap_or(0);
            if is_policy(*reason) {
                // Compared burst by burst.
                continue;
            }
            let want = self.expected.get(reason).copied().unwrap_or(0) + asks + perhaps;
            if *got > want + self.unknown {
                return wrong(format!(
                    "{got} frames ended as {}, {want} should have, {} were anything",
                    reason.name(),
                    self.unknown
                ));
            }
        }
        if self.punted > self.asks + self.unknown {
            return wrong(format!(
                "{} frames given to the control thread, {} should",
                self.punted, self.asks
            ));
        }
        let ended: u64 = stages().map(|(_, count)| count).sum();
        // What had no memory to be given to the control thread in.
        let unkept = self.dropped.get(&DropReason::PoolExhausted).copied().unwrap_or(0);
        let unkept = unkept.min(self.asks + self.unknown);
        let known = self.forwarded + ended + self.punted;
        if known > self.received || self.received > known + unkept {
            return wrong(format!(
                "{} frames taken, {} forwarded, {ended} ended, {} given to the control thread",
                self.received, self.forwarded, self.punted
            ));
        }
        Ok(())
    }
}
