//! The switch as a library: the ordered list of stages and the worker that runs it.
//!
//! ```text
//!   rx queue --> parse --> port_security --> neighbours --> forward --> deliver --> tx queues of other ports
//!   (a guest's   headers,  only as itself    ARP, ND,       by MAC      by output, one copy, segments and
//!    TX ring)    offload                     announcements              checksums for who needs them
//! ```
//!
//! [`Worker::step`] polls what is due once and returns. It has no thread, no clock, no socket and no random number inside:
//! time comes as an argument and from a [`Clock`], packets from [`RxQueue`](engine::RxQueue)s. The daemon calls it from a pinned thread, the
//! simulator from its event loop.
//!
//! Every queue has a home worker, which polls it. A transmit queue may be used by any worker that gets hold of it
//! ([`sync::Shared`]); who does not hands an owned copy to its home. See `docs/adr/0003-ring-ownership.md`.

mod aside;
mod clock;
mod control;
mod deliver;
mod departed;
mod fabric;
mod guard;
mod handover;
mod kept;
mod newcomers;
mod pipeline;
mod poll_set;
mod rules;
mod tables;
mod unsettled;
mod worker;

pub use aside::{Budgets, Exceptions};
pub use clock::{Clock, TimeStampClock};
pub use control::{Control, Removal, SwitchConfig};
pub use deliver::{OutputPort, SharedTx};
pub use fabric::{UPLINK, UplinkPlan, Vtep};
pub use guard::Guard;
pub use handover::{Handover, Links, mesh};
pub use poll_set::{PollQueue, QueueId, SharedRx};
pub use stages::shadow::Difference;
pub use tables::Tables;
pub use worker::{Command, Mailbox, Progress, Worker, WorkerCounters, WorkerParts};
