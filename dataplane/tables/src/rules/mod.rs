//! Security group rules: compiled, they judge the first packet of each flow.
//!
//! What a rule says of protocol, destination port, ICMP type and code are ranges of one number (`key.rs`); where it stands among the others is one number as
//! well (`rank.rs`). Rules with the same remote are a function with steps from the first number to the least of the second (`steps.rs`). Prefixes have what those
//! around them say merged in (`tree.rs`), unless that would be too much: then they are in several tables (`layers.rs`). What workers look at are flat
//! arrays (`table.rs`), made anew for every change and published by whoever owns them; what changes is kept beside (`writer.rs`).

mod candidate;
mod counters;
mod key;
mod layers;
mod policy;
mod rank;
mod rule;
mod steps;
mod table;
mod tree;
mod writer;

pub use candidate::{Candidate, Compared, Comparisons, Outcome};
pub use counters::{RuleCounters, RuleHits};
pub use policy::Policy;
pub use rule::{Action, Direction, Family, Flow, Judgement, PolicyError, Remote, Rule};
pub use writer::PolicyWriter;
