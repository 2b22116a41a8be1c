//! Packet sockets, made ready and bound.

use super::{Direction, Ring};
use crate::{filter, sys};
use std::ffi::c_int;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

const EVERYTHING: u16 = libc::ETH_P_ALL as u16;

/// A packet socket that receives, its ring mapped.
pub(crate) struct Reception {
    pub(crate) socket: Arc<OwnedFd>,
    pub(crate) ring: Ring,
}

fn raw(direction: Direction, ring_bytes: usize) -> io::Result<(OwnedFd, Ring)> {
    // Protocol 0: nothing is received before `bind`.
    let socket = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    let set = |name: c_int, value: c_int| sys::set_option(&socket, libc::SOL_PACKET, name, &value);
    set(libc::PACKET_VERSION, libc::tpacket_versions::TPACKET_V2 as c_int)?;
    set(libc::PACKET_VNET_HDR, 1)?;
    if direction == Direction::Transmit {
        // A frame that the kernel cannot send is skipped; else it would stop the ring.
        set(libc::PACKET_LOSS, 1)?;
    }
    let ring = Ring::new(&socket, direction, ring_bytes)?;
    Ok((socket, ring))
}

fn address(index: u32, protocol: u16) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}

/// A socket that is bound to the interface and whose filter lets nothing through yet.
pub(crate) fn reception(index: u32, ring_bytes: usize, promiscuous: bool) -> io::Result<Reception> {
    let (socket, ring) = raw(Direction::Receive, ring_bytes)?;
    sys::attach_filter(&socket, &mut filter::nothing())?;
    sys::set_option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1)?;
    if promiscuous {
        let membership = libc::packet_mreq {
            mr_ifindex: index as i32,
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        sys::set_option(&socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)?;
    }
    sys::bind(&socket, &address(index, EVERYTHING))?;
    Ok(Reception { socket: Arc::new(socket), ring })
}

/// Makes several sockets one receiver: each flow goes to one of them, by its hash.
pub(crate) fn join_fanout(sockets: &[Reception]) -> io::Result<()> {
    let flags = libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
    let mut group = 0;
    for (at, member) in sockets.iter().enumerate() {
        // The first gets a group of a number that nobody has; the others join it.
        let unique = if at == 0 { libc::PACKET_FANOUT_FLAG_UNIQUEID } else { 0 };
        let wish = group | (libc::PACKET_FANOUT_HASH | flags | unique) << 16;
        sys::set_option(&member.socket, libc::SOL_PACKET, libc::PACKET_FANOUT, &wish)?;
        if at == 0 {
            group = sys::option::<u32>(&member.socket, libc::SOL_PACKET, libc::PACKET_FANOUT)? & 0xffff;
        }
    }
    Ok(())
}

impl Reception {
    /// Lets packets in: everything, or what the program says.
    pub(crate) fn begin(&self, program: Option<&mut [libc::sock_filter]>) -> io::Result<()> {
        match program {
            Some(program) => sys::attach_filter(&self.socket, program),
            None => sys::set_option(&self.socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0),
        }
    }
}

/// A socket that only sends.
pub(crate) fn transmission(index: u32, ring_bytes: usize) -> io::Result<(OwnedFd, Ring)> {
    let (socket, ring) = raw(Direction::Transmit, ring_bytes)?;
    // What is under way is counted with its overhead; the ring itself is the limit.
    let most = c_int::try_from(ring_bytes.saturating_mul(2)).unwrap_or(c_int::MAX / 2);
    sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &most)?;
    sys::bind(&socket, &address(index, 0))?;
    Ok((socket, ring))
}
