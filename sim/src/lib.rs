//! Deterministic simulator: a host with guests, faults and checkers from one seed.
#![allow(
    clippy::indexing_slicing,
    reason = "the simulator's own data; a wrong index is a bug of the simulator and ends the run"
)]

pub mod check;
pub mod cost;
pub mod faults;
pub mod frontend;
pub mod guest;
pub mod hostile;
pub mod net;
pub mod network;
pub mod operator;
pub mod options;
pub mod plant;
pub mod queues;
pub mod random;
pub mod report;
pub mod run;
pub mod scene;
pub mod trace;
pub mod underlay;
pub mod world;
