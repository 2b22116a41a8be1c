//! Every packet taken is delivered or counted under exactly one reason, and everybody's numbers agree.

use super::{Checked, Violation};
use engine::{CounterTotals, DropReason, PortCounters};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The books of one guest's ports, one after the other.
#[derive(Debug, Default)]
pub struct Account {
    /// The counters of each port it has had, by worker.
    shards: Vec<Arc<PortCounters>>,
    /// Drops the observer saw.
    pub observed: BTreeMap<DropReason, u64>,
    /// Packets the observer saw taken.
    pub taken: u64,
    /// Transmit buffers that came back to the guest.
    pub returned: u64,
    /// Whether every buffer and packet of the guest was looked at; not so when its memory was lost, or when it lies.
    pub exact: bool,
}

impl Account {
    /// Books of a guest that lost nothing yet.
    #[must_use]
    pub fn new(exact: bool) -> Self {
        Self { exact, ..Self::default() }
    }

    /// Adds the counters of a new port.
    pub fn add(&mut self, shards: impl Iterator<Item = Arc<PortCounters>>) {
        self.shards.extend(shards);
    }

    /// All counters added up.
    #[must_use]
    pub fn totals(&self) -> CounterTotals {
        CounterTotals::of(self.shards.iter().map(|shard| &**shard))
    }
}

fn found(what: String) -> Checked {
    Err(Violation::new("conservation", what))
}

fn bad_chains(totals: &CounterTotals) -> u64 {
    totals.drops.iter().filter(|(reason, _)| *reason == DropReason::BadChain).map(|(_, count)| *count).sum()
}

/// Between two steps: taken, or sent by a control thread of its own = delivered + dropped + given to the control thread + handed over and still on the way
/// + waiting for a next hop, which only happens with an underlay (`waits`).
///
/// # Errors
///
/// It is not.
pub fn check_conservation(accounts: &[Account], injected: u64, handovers_done: u64, waits: bool) -> Checked {
    let (mut taken, mut delivered, mut dropped, mut handed, mut punted) = (0, 0, 0, 0, 0);
    for account in accounts {
        let totals = account.totals();
        taken += totals.rx_packets;
        delivered += totals.tx_packets;
        dropped += totals.dropped() - bad_chains(&totals);
        handed += totals.handed_over;
        punted += totals.punted;
    }
    let ended = delivered + dropped + punted;
    // What waits, or is the control thread's, is never counted as handed over, but as done when it goes.
    let waiting = (taken + injected).wrapping_sub(ended) as i64;
    let between = handed.wrapping_sub(handovers_done) as i64;
    let right = if waits { waiting >= 0 } else { waiting == between.wrapping_add(injected as i64) };
    if right {
        return Ok(());
    }
    found(format!(
        "{taken} packets taken, {injected} of control threads, {delivered} delivered, {dropped} dropped, {punted} given to the control thread, {between} on their way between workers"
    ))
}

/// At the end: nothing is on its way any more.
///
/// # Errors
///
/// Something is.
pub fn check_closed(accounts: &[Account], injected: u64) -> Checked {
    let sum =
        |of: fn(&CounterTotals) -> u64| accounts.iter().map(|account| of(&account.totals())).sum::<u64>();
    let came = sum(|totals| totals.rx_packets) + injected;
    let ended = sum(|totals| totals.tx_packets + totals.dropped() - bad_chains(totals) + totals.punted);
    if came == ended {
        return Ok(());
    }
    found(format!(
        "{came} packets taken or sent by control threads, {ended} delivered, dropped or given to a control thread"
    ))
}

/// Between two steps: the counters say what the observer saw.
///
/// # Errors
///
/// They do not.
pub fn check_observed(accounts: &[Account], late: &BTreeMap<DropReason, u64>) -> Checked {
    let mut counted: BTreeMap<DropReason, u64> = BTreeMap::new();
    let mut observed = late.clone();
    for (guest, account) in accounts.iter().enumerate() {
        let totals = account.totals();
        if totals.rx_packets != account.taken {
            let what =
                format!("guest {guest}: {} packets counted, {} seen taken", totals.rx_packets, account.taken);
            return Err(Violation::new("counters", what));
        }
        totals.drops.iter().for_each(|(reason, count)| *counted.entry(*reason).or_default() += count);
        account.observed.iter().for_each(|(reason, count)| *observed.entry(*reason).or_default() += count);
    }
    // A handed-over packet that is lost at the receiver is counted, but its worker shows it to no observer.
    for (reason, count) in counted {
        let seen = observed.get(&reason).copied().unwrap_or(0);
        if count < seen || (count > seen && !super::verdicts::is_late(reason)) {
            let what = format!("{}: {count} counted, {seen} seen", reason.name());
            return Err(Violation::new("counters", what));
        }
    }
    Ok(())
}

/// At the end, all rings drained: the counters say what the guests saw.
///
/// # Errors
///
/// They do not.
pub fn check_guests(accounts: &[Account], arrivals: &[super::ledger::Arrivals]) -> Checked {
    let both = accounts.iter().zip(arrivals).enumerate();
    for (guest, (account, arrivals)) in both.filter(|(_, (account, _))| account.exact) {
        let totals = account.totals();
        let chains = totals.rx_packets + bad_chains(&totals);
        let rows = [
            ("buffers returned, packets taken", account.returned, chains),
            ("packets received, packets delivered", arrivals.packets, totals.tx_packets),
            ("bytes received, bytes delivered", arrivals.bytes, totals.tx_bytes),
        ];
        if let Some((what, seen, counted)) = rows.into_iter().find(|(_, seen, counted)| seen != counted) {
            return Err(Violation::new("counters", format!("guest {guest}: {what}: {seen} and {counted}")));
        }
    }
    Ok(())
}
