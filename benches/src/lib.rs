//! Load generator and benchmarks.
//!
//! [`generator`] is a vhost-user front end with guests of its own: it measures any vhost-user back end. `towpath-bench
//! compare` runs it against towpathd and its peers by turns, on a machine whose cores are sometimes near and sometimes
//! far from each other (see `docs/benchmarks.md`).

pub mod affinity;
pub mod attach;
pub mod calibrate;
pub mod clock;
pub mod compare;
pub mod frame;
pub mod generator;
pub mod guest;
mod huge_pages;
pub mod in_process;
pub mod inproc;
pub mod null;
pub mod policy;
pub mod probe;
pub mod run;
pub mod scale;
mod segments;
pub mod session;
mod template;
pub mod vxlan;
pub mod wire;
