//! Front ends and guests that break rules, and the oracle that judges what comes of it (hostile cases, section 1.0).
//!
//! - [`wire`] writes vhost-user messages byte by byte, with any descriptors.
//! - [`guest`] is a front end of such messages with memory and rings of its own; it does right unless told otherwise.
//! - [`ring`] makes any chain available on any layout.
//! - [`stage`] is a daemon with a pair of bystanders, ports to attack, and the judgement after each case.

pub mod guest;
pub mod ring;
pub mod stage;
pub mod wire;
