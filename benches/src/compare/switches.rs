//! The switches under test: started, asked for their counters, frozen and ended alike.

use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use crate::attach::Role;

/// What a switch says it did between two calls.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Work {
    /// Time stamp cycles in polls that found packets.
    pub(super) busy_cycles: f64,
    /// Packets it received.
    pub(super) packets: f64,
}

impl Work {
    /// Busy cycles per packet; `None` without packets.
    #[must_use]
    pub(super) fn cycles_per_packet(self) -> Option<f64> {
        (self.packets > 0.0 && self.busy_cycles > 0.0).then(|| self.busy_cycles / self.packets)
    }
}

/// A running switch with two ports that forwards between them on one worker core.
pub(super) trait Switch {
    /// What ran, for the report: version and arguments.
    fn description(&self) -> String;

    /// The sockets of its two ports.
    fn sockets(&self) -> [PathBuf; 2];

    /// Our end of the sockets.
    fn role(&self) -> Role;

    /// Whether it forwards TSO packets whole.
    fn tso(&self) -> bool;

    /// The ways of forwarding it is measured in, by contestant name.
    fn modes(&self) -> &'static [&'static str];

    /// Forwards as `mode` says from now on.
    ///
    /// # Errors
    ///
    /// When it does not take the change.
    fn select(&mut self, mode: &str) -> anyhow::Result<()>;

    /// Processes to freeze.
    fn pids(&self) -> Vec<Pid>;

    /// An error when one of its processes has ended.
    ///
    /// # Errors
    ///
    /// Which one, and how.
    fn check(&mut self) -> anyhow::Result<()>;

    /// What may explain that it forwards nothing.
    fn state(&self) -> String;

    /// Counting starts.
    ///
    /// # Errors
    ///
    /// When its counters cannot be read.
    fn begin(&mut self) -> anyhow::Result<()>;

    /// What it did since [`Switch::begin`].
    ///
    /// # Errors
    ///
    /// When its counters cannot be read.
    fn end(&mut self) -> anyhow::Result<Work>;
}

/// Stops or continues all processes of a switch.
///
/// # Errors
///
/// When one is gone.
pub(super) fn freeze(switch: &dyn Switch, frozen: bool) -> anyhow::Result<()> {
    let signal = if frozen { Signal::STOP } else { Signal::CONT };
    for pid in switch.pids() {
        kill_process(pid, signal).with_context(|| format!("process {}", pid.as_raw_nonzero()))?;
    }
    Ok(())
}

/// What the two ports of a switch are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scene {
    /// Two guests, forwarded without further questions.
    Plain,
    /// A guest and the wire of a tunnel.
    Tunnel,
    /// Two guests under [`RULES`] rules, with sessions.
    Policy,
}

/// Rules of [`Scene::Policy`]: the last of them allows what is sent, the others are about addresses elsewhere.
pub(super) const RULES: u32 = 1000;

/// Sessions that there is room for in [`Scene::Policy`].
pub(super) const SESSIONS: u32 = 1 << 22;

/// How long a session lives without a packet in [`Scene::Policy`], in seconds: so that a million live while half as many are made each second.
pub(super) const SESSION_LIFE: u32 = 2;

/// Address of the rule `index` of [`RULES`].
pub(super) fn elsewhere(index: u32) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::from_bits(u32::from_be_bytes([10, 0, 128, 0]) + index)
}

/// Where the switches live while they run.
#[derive(Debug, Clone)]
pub(super) struct Places<'a> {
    /// A private folder.
    pub(super) folder: &'a Path,
    /// Core of the worker under test.
    pub(super) worker_core: usize,
    /// Core of everything else.
    pub(super) other_core: usize,
    /// Whether 2 MiB pages are there.
    pub(super) huge_pages: bool,
    /// What they are set up for.
    pub(super) scene: Scene,
    /// Further `other_config` of Open vSwitch.
    pub(super) ovs_config: &'a [String],
}

/// The number behind the first `label` in `text`, which may hold commas.
#[must_use]
pub(super) fn number_after(text: &str, label: &str) -> Option<f64> {
    let rest = text.get(text.find(label)? + label.len()..)?.trim_start_matches([':', '=', ' ']);
    let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
    rest.get(..end)?.parse().ok()
}

/// A path as an argument.
#[must_use]
pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_behind_their_labels() {
        let line = "CPU cycles/packet=97.12 (busy cycles=1234 / total io packets=12) at 2596 MHz Clock";
        assert_eq!(number_after(line, "busy cycles"), Some(1234.0));
        assert_eq!(number_after(line, "total io packets"), Some(12.0));
        assert_eq!(number_after("  packets received: 42\n", "packets received"), Some(42.0));
        assert_eq!(number_after(line, "idle"), None);
    }
}
