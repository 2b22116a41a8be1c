//! Checkers: each compares what happened with what may happen, from another side.
//!
//! | checker | says |
//! |---|---|
//! | [`ledger`] | what a guest gets is byte for byte what another sent (or the cut or completed form of it), once, in order |
//! | [`isolation`] | only ports that are addressed get it, inside one subnet, from an address its sender may use |
//! | [`verdicts`] | what the stages decide is what the network's description says |
//! | [`accounts`] | every packet taken is delivered or counted under one reason; counters agree with guests and observer |
//! | [`policy`] | what passes between ports under rules, and what is denied, is what the rules of the moment say ([`groups`], read from the resources for each packet) |
//! | [`dirty`] | while a guest is migrated, what is written to it is marked |
//! | [`carriage`] | what is routed or tunnelled differs from what was sent as the RFCs say, and in nothing else |
//! | [`answers`] | what the switch answers is an answer to what was asked |
//! | [`underlay`] | what leaves a host is right outside, and what comes in is judged as it deserves |
//! | [`leaks`] | pool, mappings and buffers are all there at the end |
//! | [`steering`] | a guest gets a conversation on the queue pair it last sent it on |
//! | [`services`] | what DHCP and router advertisements say is what the subnet says, to who asked |
//! | [`secrets`] | no guest can read what fills another's unshared memory |
//! | [`work`] | a step stays within its bound |
//!
//! That memory outside offered buffers is untouched is compared by the drivers ([`crate::guest::nic`]); liveness by the run's second half
//! ([`crate::run`]).

pub mod accounts;
pub mod answers;
pub mod carriage;
pub mod dirty;
pub mod groups;
pub mod isolation;
pub mod leaks;
pub mod ledger;
pub mod policy;
pub mod secrets;
pub mod services;
pub mod steering;
pub mod underlay;
pub mod verdicts;
pub mod work;

/// What a checker found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{checker}: {what}")]
pub struct Violation {
    /// Which checker.
    pub checker: &'static str,
    /// What is wrong.
    pub what: String,
}

impl Violation {
    /// A finding.
    #[must_use]
    pub fn new(checker: &'static str, what: String) -> Self {
        Self { checker, what }
    }
}

/// Whether all is well.
pub type Checked = Result<(), Violation>;
