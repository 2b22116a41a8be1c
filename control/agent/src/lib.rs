//! What one host does about the desired state: a state machine without threads, sockets or clocks.
//!
//! [`Agent::apply`] takes a validated [`ResourceSet`](model::ResourceSet) and returns the [`Action`]s that lead from what this host has realized to
//! what it should, in an order in which nothing is forwarded before the port it concerns is bound and nothing is left
//! behind when it goes. [`Agent::announced`] does the same for an address that moves between ports. Whoever drives the switch (the daemon, the
//! simulator) carries the actions out; a port's index is free again when it says so with [`Agent::closed`].

mod action;
mod agent;
mod apply;
mod balancers;
mod bindings;
mod blocks;
mod external;
mod hash;
mod holders;
mod index;
mod members;
mod outside;
mod plan;
mod policies;
mod scope;
mod shadows;
mod watch;

pub use action::{Action, ExternalAction, ExternalOwner, ShadowPlan, VtepKind};
pub use agent::{Agent, Exhausted};
pub use external::Translation;
pub use plan::{CheckPlan, DhcpPlan, ExternalPlan, PortPlan, SubnetPlan, VpcPlan};
pub use policies::CountedRule;
pub use shadows::Comparison;
