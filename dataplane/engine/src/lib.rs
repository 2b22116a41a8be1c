//! The contracts of the packet path: what a driver, a stage and a worker may expect of each other.
//!
//! * [`RxQueue`] and [`TxQueue`]: a driver's receive and transmit queue. Bursts in, frames out; copying is synchronous, so a
//!   packet never outlives the burst it came in.
//! * [`Batch`]: a burst, its [`Metadata`], who of it is still alive, and where it goes.
//! * [`DropReason`]: every way a packet can end other than delivered, each with a counter per port ([`PortCounters`]).
//! * [`Punt`]: a packet that a control thread answers.
//! * [`Observer`]: what tracing, captures and the simulator's coverage see; [`Unobserved`] compiles to nothing.

mod adapt;
mod batch;
mod coalesce;
mod counters;
mod drop_reason;
mod observer;
mod port;
mod punt;

pub use adapt::deliver_adapted;
pub use batch::{Batch, Group, Indices, Metadata, Output, Runs, Verdicts, bits};
pub use coalesce::deliver_coalesced;
pub use counters::{CounterTotals, PortCounters};
pub use drop_reason::DropReason;
pub use observer::{Observer, Unobserved};
pub use port::{
    Announcement, Armed, OffloadCapabilities, PortIndex, QueueFault, RxQueue, RxReport, TxQueue, TxReport,
};
pub use punt::{Origin, Punt, PuntKind};
