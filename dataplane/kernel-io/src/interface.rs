//! An interface, opened.

use crate::afpacket;
use crate::error::{Error, failed};
use crate::filter;
use crate::link::Link;
use crate::queues::{self, Pair};
use crate::silence::Silence;
use crate::state::State;
use engine::{RxQueue, TxQueue};
use ipnet::IpNet;
use packet::MacAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// A receive queue and a transmit queue. The two may go to different threads.
pub type QueuePair = (Box<dyn RxQueue>, Box<dyn TxQueue>);

/// The UDP port of VXLAN (RFC 7348 section 5).
const VXLAN: u16 = 4789;

/// How an interface is to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Pairs of a receive and a transmit queue, 1 to 64. Received flows are spread over them by their hash. With AF_XDP it is at most that many:
    /// no more than the interface has receive queues ([`UplinkInfo::queue_pairs`] says how many).
    pub queue_pairs: u16,
    /// Bytes of each receive ring, 2 MiB to 2 GiB, in steps of 2 MiB: 31 packets of any length each. Transmit rings are half that.
    pub ring_bytes: usize,
    /// AF_XDP instead of AF_PACKET: for small packets, without offloads.
    pub xdp: bool,
    /// The UDP port of the tunnels that end here: the kernel is kept from answering on it, and what is certainly the host's (TCP, other UDP)
    /// is not received. `None` for a port that is no uplink: everything is received.
    pub tunnel_port: Option<u16>,
    /// Whether frames for other stations are received too.
    pub promiscuous: bool,
}

impl Default for Options {
    /// An uplink of one pair over AF_PACKET, with a receive ring of 32 MiB (496 packets).
    fn default() -> Self {
        Self {
            queue_pairs: 1,
            ring_bytes: 32 << 20,
            xdp: false,
            tunnel_port: Some(VXLAN),
            promiscuous: false,
        }
    }
}

/// What an uplink is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkInfo {
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// The longest IP packet it carries, in bytes.
    pub mtu: u16,
    /// Addresses of the interface, with their prefixes, but for IPv6 ones of the link alone: no tunnel ends there, and they come and go
    /// with the link.
    pub addresses: Vec<IpNet>,
    /// Pairs of queues.
    pub queue_pairs: u16,
    /// What it is, for people: driver and interface.
    pub device: String,
}

/// The state of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Administratively down, or without carrier.
    Down,
    /// It can be used.
    Up,
}

/// What the queues of an interface counted since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets the kernel put into receive rings.
    pub rx_packets: u64,
    /// Packets lost because a receive ring was full.
    pub rx_dropped: u64,
    /// Packets refused because they are longer than 64 KiB.
    pub rx_truncated: u64,
    /// Packets refused because of lengths, offsets or wishes that cannot be.
    pub rx_malformed: u64,
    /// Packets that were sent and lost: the interface went down, or the kernel refused them.
    pub tx_lost: u64,
    /// Times the kernel or the interface's queue had no room for all that was sent; the rest waited for the next time.
    pub tx_congested: u64,
}

/// An interface in use. Queues outlive it; the kernel answers for VXLAN again when it is dropped.
#[derive(Debug)]
pub struct Interface {
    link: Link,
    state: Arc<State>,
    pairs: Vec<Pair>,
    silence: Silence,
    tunnel_port: Option<u16>,
    info: UplinkInfo,
}

impl Interface {
    /// Opens an interface of this thread's network namespace, by name.
    ///
    /// # Errors
    ///
    /// As [`Error`] says.
    pub fn open(ifname: &str, options: &Options) -> Result<(Self, Vec<QueuePair>), Error> {
        check(ifname, options)?;
        let link = Link::find(ifname)?;
        let seen = link.look()?;
        let state = Arc::new(State::default());
        state.set_mtu(seen.mtu);
        let mut interface = Self {
            info: UplinkInfo {
                mac: seen.mac,
                mtu: seen.mtu,
                addresses: Vec::new(),
                queue_pairs: options.queue_pairs,
                device: String::new(),
            },
            link,
            state,
            pairs: Vec::new(),
            silence: Silence::default(),
            tunnel_port: options.tunnel_port,
        };
        interface.info.addresses = interface.cover()?;
        let opened = queues::open(&interface.link, seen.mtu, options, &interface.state)?;
        interface.info.device = format!("{} on {ifname}", opened.driver);
        interface.info.queue_pairs = opened.pairs.len() as u16;
        interface.pairs = opened.pairs;
        Ok((interface, opened.queues))
    }

    /// What it is: as it was opened, or last [refreshed](Self::refresh).
    pub fn info(&self) -> &UplinkInfo {
        &self.info
    }

    /// Looks again: a new MTU holds for what is sent from now on, new addresses are kept silent on the tunnels' port. To be called when
    /// something changed and now and then, by a thread of the network namespace the interface was opened in. Whether anything changed.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`] when the interface was removed (its queues then report a fault), and as [`Error`] says.
    pub fn refresh(&mut self) -> Result<bool, Error> {
        let seen = self.look()?;
        let addresses = self.cover()?;
        let before = self.info.clone();
        self.info = UplinkInfo { mac: seen.mac, mtu: seen.mtu, addresses, ..before.clone() };
        Ok(self.info != before)
    }

    /// Takes in whatever is for these networks, and no others any more, besides what an uplink gets anyway: TCP and other UDP too. The host has none of these addresses; it
    /// sees copies of the packets all the same, and forwards them if it was told to be a router. Without effect on a port that gets everything.
    ///
    /// # Errors
    ///
    /// The kernel refuses a filter; the one before holds.
    pub fn take_in(&self, networks: &[IpNet]) -> Result<(), Error> {
        let Some(port) = self.tunnel_port else { return Ok(()) };
        let mut program = filter::all_but_the_hosts_and(port, networks);
        for pair in &self.pairs {
            pair.filter(program.as_deref_mut())
                .map_err(failed(&self.link.name, "changing what is received"))?;
        }
        Ok(())
    }

    /// Silences the kernel at all addresses there are now; those that tunnels may have.
    fn cover(&mut self) -> Result<Vec<IpNet>, Error> {
        let mut addresses = self.link.addresses()?;
        if let Some(port) = self.tunnel_port {
            self.silence.cover(&self.link.name, self.link.index, &addresses, port)?;
        }
        addresses.retain(|net| !matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local()));
        Ok(addresses)
    }

    fn look(&self) -> Result<crate::link::Seen, Error> {
        let seen = self.link.look();
        match &seen {
            Ok(seen) => self.state.set_mtu(seen.mtu),
            Err(Error::Gone { .. }) => self.state.set_gone(),
            Err(_) => {}
        }
        seen
    }

    /// Whether it can be used now. Also takes over a new MTU.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`] when the interface was removed (its queues then report a fault), and as [`Error`] says.
    pub fn link_state(&self) -> Result<LinkState, Error> {
        Ok(if self.look()?.up { LinkState::Up } else { LinkState::Down })
    }

    /// What its queues counted.
    pub fn statistics(&self) -> Statistics {
        let mut sum = Statistics::default();
        for pair in &self.pairs {
            let (packets, dropped) = pair.received();
            sum.rx_packets += packets;
            sum.rx_dropped += dropped;
            sum.rx_truncated += pair.rx.truncated.get();
            sum.rx_malformed += pair.rx.malformed.get();
            sum.tx_lost += pair.tx.lost.get();
            sum.tx_congested += pair.tx.congested.get();
        }
        sum
    }

    /// The descriptor that becomes readable when the receive queue of this pair is armed and got a packet, or the interface went down or away.
    /// To be waited for by edges (`EPOLLET`); it is not to be read. `None` for a pair there is not.
    pub fn event_fd(&self, pair: usize) -> Option<BorrowedFd<'_>> {
        self.pairs.get(pair).map(|pair| pair.event.as_fd())
    }
}

fn check(ifname: &str, options: &Options) -> Result<(), Error> {
    let wrong = |field, value, allowed: String| {
        Err(Error::Options { ifname: ifname.to_owned(), field, value, allowed })
    };
    let (least, most) = (afpacket::LEAST_BYTES, afpacket::MOST_BYTES);
    if !(1..=64).contains(&options.queue_pairs) {
        return wrong("queue_pairs", options.queue_pairs.into(), "1 to 64".to_owned());
    }
    if !(least..=most).contains(&options.ring_bytes) {
        return wrong("ring_bytes", options.ring_bytes, format!("{least} to {most}"));
    }
    if options.tunnel_port == Some(0) {
        return wrong("tunnel_port", 0, "1 to 65535".to_owned());
    }
    Ok(())
}
