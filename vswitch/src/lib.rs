//! `towpathd`: threads, pinning, files, sockets and signals around the switch.
//!
//! ```text
//!   main thread (tokio)                  control thread                        worker threads, pinned
//!   API socket, metrics, signals  --->   agent, tables, vhost-user sessions    switch::Worker::step
//!                               requests                            commands, queues
//! ```
//!
//! * [`host`]: the control thread, the one place where ports change. [`port`]: one port of it.
//! * [`worker`]: a worker's thread and how it sleeps.
//! * [`daemon`]: puts all together and reacts to signals. [`backend`], [`metrics`], [`doctor`]: what it tells.
//! * `balancers`: how targets of load balancers are.
//! * [`uplink`]: the way to other hosts. [`config`]: the daemon's own file.

mod alarms;
pub mod backend;
mod balancers;
mod call;
pub mod config;
pub mod daemon;
mod deadlines;
pub mod doctor;
pub mod host;
pub mod metrics;
mod owner;
pub mod port;
mod sessions;
mod shadow;
pub mod uplink;
pub mod upstream;
pub mod worker;
