//! What the switch answers itself, on the control thread: DHCPv4, DHCPv6, router advertisements, the underlay's neighbours,
//! announcements, the metadata service; and what it asks of guests: whether targets of load balancers live.
//!
//! Everything here is a function or a state machine over whole Ethernet frames, without threads, sockets or clocks: a frame is a slice,
//! an answer is a vector, and time is an argument (a [`Duration`](std::time::Duration) since any fixed moment; one that goes backwards
//! makes nothing due).
//!
//! Frames come from guests and from the underlay: every length in them may lie. A frame is answered, silently left alone (`Ok(None)`), or
//! refused by a name that can be counted ([`Refusal`]). An answer is written from the plan of the port and a few fields of the question
//! that are named where they are copied; it never holds other bytes. Each question has at most one answer, of at most the module's
//! `MAX_ANSWER` bytes: whoever calls charges one packet to the port's budget for each.
//!
//! Transport checksums of guests are not verified where UDP and TCP are concerned: a guest's frame crosses memory, not a wire, and may
//! leave its checksum to be completed (virtio's `NEEDS_CSUM`).

pub mod announce;
pub mod dhcp4;
pub mod dhcp6;
mod domain;
mod frame;
pub mod health;
pub mod metadata;
pub mod neighbours;
pub mod ra;
mod random;
mod refusal;
mod wire;

pub use frame::link_local;
pub use refusal::Refusal;
