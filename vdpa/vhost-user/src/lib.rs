//! vhost-user back end: a non-blocking session state machine.
//!
//! A front end (QEMU, Cloud Hypervisor, DPDK's virtio-user) hands a guest's memory and rings to this process through a
//! Unix socket. Everything that comes over it is a stranger's: it is parsed into valid types or refused by name, and a
//! hostile or broken front end loses its own session and nothing else.
//!
//! From the outside in: [`decoder`] cuts the stream into messages, [`session`] is the state machine (no socket, thread or
//! clock inside), [`parts`] takes a session apart and puts one together without a handshake, [`features`] names feature
//! bits, [`refusal`] names everything that can be refused.

pub mod decoder;
pub mod features;
pub mod message;
pub mod parts;
pub mod refusal;
pub mod session;

pub use decoder::Decoder;
pub use message::{Message, Outgoing};
pub use parts::{Parts, QueueParts};
pub use refusal::{Decision, Refusal, Refusals};
pub use session::{CloseReason, Event, QueueStart, Session, SessionConfig};
pub use vhost::vhost_user::VhostUserProtocolFeatures;
pub use vhost::vhost_user::message::FrontendReq;
