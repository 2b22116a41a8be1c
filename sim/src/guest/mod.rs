//! Guests: a driver, a stack, and what they do.

pub mod actor;
pub mod cases;
pub mod config;
mod harm;
pub mod hostile;
pub mod judge;
pub mod nic;
mod receive;
pub mod stack;
mod strays;
mod traffic;
