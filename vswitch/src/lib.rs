//! The Towpath virtual switch daemon.

pub mod config;
