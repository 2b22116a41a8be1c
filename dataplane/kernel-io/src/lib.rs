//! Network interfaces of the kernel as ports: a NIC with its kernel driver, a bond, a bridge, one end of a veth pair.
//!
//! ```no_run
//! # use towpath_kernel_io as kernel_io;
//! use kernel_io::{Interface, Options};
//!
//! let (interface, queues) = Interface::open("eth1", &Options::default())?;
//! println!("{} {} {:?}", interface.info().mac, interface.info().mtu, interface.link_state()?);
//! for (pair, (rx, tx)) in queues.into_iter().enumerate() {
//!     let event = interface.event_fd(pair); // readable (edge-triggered) when the receive queue got a packet
//!     // give `rx` and `tx` to a worker
//! #   let _ = (rx, tx, event);
//! }
//! # Ok::<(), kernel_io::Error>(())
//! ```
//!
//! * **AF_PACKET** (the default): rings shared with the kernel, virtio-net headers both ways: packets of 64 KiB and partial checksums are
//!   carried as they are, the kernel or the device does the rest. Received packets are looked at where the kernel put them; frames to be sent are
//!   copied once into a ring. Polling costs no system call; sending costs **one per burst and output** (`sendto` in
//!   [`engine::TxQueue::flush`]), which is how the kernel is told of a transmit ring. There is none per packet.
//! * **AF_XDP** ([`Options::xdp`]): for small packets. No offloads, so everything is cut and summed before. An XDP program hands the switch's
//!   packets over and leaves the host's alone.
//!
//! The interface stays the host's: the kernel receives copies of everything as before, and answers ARP, neighbour discovery and ping for the
//! interface's addresses. Only VXLAN it must not answer: [`Interface`] holds UDP port 4789 of these addresses.
//!
//! # Safety boundary
//!
//! Rings are memory that the kernel writes while we look; packets come from an underlay that may be hostile. No pointer leaves this crate
//! but in extents of bursts, and no function it offers is `unsafe`. What must hold, and who sees to it:
//!
//! * **Memory stays mapped while a slot or a burst refers to it.** A ring or UMEM owns its `sys::Mapping` and is owned by its
//!   queue; extents live as long as the queue's borrow (`'q` of [`engine::RxQueue::poll`]).
//! * **A slot is touched by one side at a time.** Its status word (AF_PACKET) or the ring it is in (AF_XDP) says whose it is; loads acquire,
//!   stores release. Slots of a burst go back in `complete`, which the burst's borrow keeps from being called before.
//! * **Nothing the kernel wrote is believed.** Offsets and lengths are checked against the slot before an extent is made of them, so that a
//!   mistake there is a packet refused and counted, not a stray access.
//! * **One thread per queue.** Queues are used through `&mut`; two halves that share a socket share no memory but the rings' own words.
//! * **System calls get what they ask for.** `sys.rs`, `link.rs`, `watch.rs` and `xdp/bpf.rs` hold all of them, with the lengths of the types
//!   they are given.
//!
//! The entries are [`Interface::open`] and the methods of the queues. `tests/` attacks them on veth pairs: the conformance suite, full rings,
//! tags, packets that are too long, an interface that goes down or away under traffic.
#![allow(unsafe_code, reason = "rings shared with the kernel, and system calls")]

mod afpacket;
mod error;
mod filter;
mod interface;
mod link;
mod queues;
mod silence;
mod state;
mod sys;
mod vnet;
mod watch;
mod xdp;

pub use error::Error;
pub use interface::{Interface, LinkState, Options, QueuePair, Statistics, UplinkInfo};
