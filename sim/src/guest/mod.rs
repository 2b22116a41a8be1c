//! Guests: a driver, a stack, and what they do.

pub mod actor;
pub mod hostile;
pub mod nic;
pub mod stack;
