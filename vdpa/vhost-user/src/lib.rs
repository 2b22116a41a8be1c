//! vhost-user back end: a non-blocking session state machine.
//!
//! A front end (QEMU, Cloud Hypervisor, DPDK's virtio-user) hands a guest's memory and rings to this process through a
//! Unix socket. Everything that comes over it is a stranger's: it is parsed into valid types or refused by name, and a
//! hostile or broken front end loses its own session and nothing else.
//!
//! From the outside in: [`endpoint`] is a port's socket in either role ([`listener`], [`connector`]) and reconnects;
//! [`connection`] is a session on its socket ([`transport`]); [`decoder`] cuts the stream into messages, [`session`] is the state machine (no socket, thread or
//! clock inside), [`parts`] takes a session apart and puts one together without a handshake, [`features`] names feature
//! bits, [`refusal`] names everything that can be refused.
//!
//! One thing a front end can still do to others: hand over a descriptor whose `close` its own file server answers (a FUSE
//! file; every other question is asked of the kernel alone). The thread that closes it, which runs no packets, waits for
//! that server.

pub mod connection;
pub mod connector;
pub mod decoder;
pub mod device;
pub mod endpoint;
pub mod features;
pub mod listener;
pub mod message;
pub mod parts;
pub mod refusal;
pub mod session;
pub mod transport;

pub use connection::{Connection, Interest};
pub use connector::Connector;
pub use decoder::Decoder;
pub use device::{Device, DeviceEvent, ReadyQueue};
pub use endpoint::{Endpoint, Role};
pub use listener::{ListenError, ListenOptions, Listener};
pub use message::{Message, Outgoing};
pub use parts::{Parts, QueueParts};
pub use refusal::{Decision, Refusal, Refusals};
pub use session::{CloseReason, Event, QueueStart, Session, SessionConfig};
pub use vhost::vhost_user::VhostUserProtocolFeatures;
pub use vhost::vhost_user::message::FrontendReq;
