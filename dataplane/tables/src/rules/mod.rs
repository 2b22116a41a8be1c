//! Security group rules: compiled, they judge the first packet of each flow.

mod counters;
mod key;
mod policy;
mod rank;
mod rule;

pub use counters::{RuleCounters, RuleHits};
pub use policy::Policy;
pub use rule::{Action, Direction, Family, Flow, Judgement, PolicyError, Remote, Rule};
