//! AF_XDP: packets of one page at most in memory of ours, handed over by a program before the kernel makes anything of them.
//!
//! No offloads: nothing is cut or summed, and what a virtual wire did not sum arrives wrong (a veth peer needs `ethtool -K .. tx off`).
//! What the program leaves to the kernel (ARP, neighbour discovery, ICMP, fragments) is received too, as a copy, through a packet socket.

mod bpf;
mod ring;
mod rx;
mod socket;
mod tx;

pub(crate) use bpf::Redirect;
pub(crate) use ring::Words;
pub(crate) use rx::{RxSide, XdpRx};
pub(crate) use socket::{LONGEST, XdpSocket};
pub(crate) use tx::XdpTx;
