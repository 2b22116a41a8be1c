//! An interface, opened.

use crate::afpacket::{self, PacketRx, PacketTx, Reception};
use crate::error::{Error, failed};
use crate::filter;
use crate::link::Link;
use crate::silence::Silence;
use crate::state::{RxCounters, State, TxCounters};
use crate::sys;
use engine::{OffloadCapabilities, RxQueue, TxQueue};
use ipnet::IpNet;
use packet::MacAddr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A receive queue and a transmit queue. The two may go to different threads.
pub type QueuePair = (Box<dyn RxQueue>, Box<dyn TxQueue>);

/// The UDP port of VXLAN (RFC 7348 section 5).
const VXLAN: u16 = 4789;

/// How an interface is to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Pairs of a receive and a transmit queue, 1 to 64. Received flows are spread over them by their hash.
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
    /// Addresses of the interface, with their prefixes.
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

/// What is kept of a queue pair besides the queues.
#[derive(Debug)]
struct Pair {
    socket: Arc<OwnedFd>,
    rx: Arc<RxCounters>,
    tx: Arc<TxCounters>,
    packets: AtomicU64,
    dropped: AtomicU64,
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
        let addresses = link.addresses()?;
        let mut interface = Self {
            info: UplinkInfo {
                mac: seen.mac,
                mtu: seen.mtu,
                addresses,
                queue_pairs: options.queue_pairs,
                device: format!("AF_PACKET on {ifname}"),
            },
            link,
            state,
            pairs: Vec::new(),
            silence: Silence::default(),
            tunnel_port: options.tunnel_port,
        };
        interface.cover()?;
        let queues = interface.open_packet_queues(options)?;
        Ok((interface, queues))
    }

    fn open_packet_queues(&mut self, options: &Options) -> Result<Vec<QueuePair>, Error> {
        let (name, index) = (self.link.name.clone(), self.link.index);
        let bytes = options.ring_bytes;
        let failed = |operation| {
            let name = &name;
            move |error: io::Error| match error.raw_os_error() {
                Some(libc::ENOMEM) => Error::NoMemory { ifname: name.clone(), bytes },
                _ => failed(name, operation)(error),
            }
        };
        let receptions = (0..options.queue_pairs)
            .map(|_| afpacket::reception(index, bytes, options.promiscuous))
            .collect::<io::Result<Vec<Reception>>>()
            .map_err(failed("making a packet socket"))?;
        if receptions.len() > 1 {
            afpacket::join_fanout(&receptions).map_err(failed("spreading flows over its queues"))?;
        }
        let mut queues: Vec<QueuePair> = Vec::new();
        for reception in receptions {
            let mut program = options.tunnel_port.map(filter::all_but_the_hosts);
            let begun = reception.begin(program.as_mut().map(|program| &mut program[..]));
            begun.map_err(failed("beginning to receive"))?;
            let (socket, ring) =
                afpacket::transmission(index, bytes / 2).map_err(failed("making a packet socket"))?;
            let (rx, tx) = (Arc::<RxCounters>::default(), Arc::<TxCounters>::default());
            self.pairs.push(Pair {
                socket: reception.socket.clone(),
                rx: rx.clone(),
                tx: tx.clone(),
                packets: AtomicU64::new(0),
                dropped: AtomicU64::new(0),
            });
            let rx =
                PacketRx::new(reception.socket, reception.ring, self.state.clone(), rx, options.tunnel_port);
            let tx = PacketTx::new(socket, ring, capabilities(), self.state.clone(), tx);
            queues.push((Box::new(rx), Box::new(tx)));
        }
        Ok(queues)
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
        let addresses = self.link.addresses()?;
        let before = self.info.clone();
        self.info = UplinkInfo { mac: seen.mac, mtu: seen.mtu, addresses, ..before.clone() };
        self.cover()?;
        Ok(self.info != before)
    }

    fn cover(&mut self) -> Result<(), Error> {
        match self.tunnel_port {
            Some(port) => self.silence.cover(&self.link.name, self.link.index, &self.info.addresses, port),
            None => Ok(()),
        }
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
            // The kernel counts from zero again after each look; what it counted as received includes what it dropped.
            if let Ok(new) =
                sys::option::<libc::tpacket_stats>(&pair.socket, libc::SOL_PACKET, libc::PACKET_STATISTICS)
            {
                pair.packets.fetch_add(u64::from(new.tp_packets.saturating_sub(new.tp_drops)), Relaxed);
                pair.dropped.fetch_add(u64::from(new.tp_drops), Relaxed);
            }
            sum.rx_packets += pair.packets.load(Relaxed);
            sum.rx_dropped += pair.dropped.load(Relaxed);
            sum.rx_truncated += pair.rx.truncated.get();
            sum.rx_malformed += pair.rx.malformed.get();
            sum.tx_lost += pair.tx.lost.get();
            sum.tx_congested += pair.tx.congested.get();
        }
        sum
    }

    /// The descriptor that becomes readable when the receive queue of this pair got a packet, or the interface went down or away. To be
    /// waited for by edges (`EPOLLET`); it is not to be read. `None` for a pair there is not.
    pub fn event_fd(&self, pair: usize) -> Option<BorrowedFd<'_>> {
        self.pairs.get(pair).map(|pair| pair.socket.as_fd())
    }
}

/// What the kernel takes. It cuts and sums in software what the device does not, behind the queueing discipline, so this does not depend on
/// the device. UDP segmentation through packet sockets came with Linux 6.2.
fn capabilities() -> OffloadCapabilities {
    let without_udp =
        OffloadCapabilities { checksum: true, tso4: true, tso6: true, ecn: true, ..Default::default() };
    match sys::kernel_release() {
        Some(release) if release >= (6, 2) => OffloadCapabilities { uso4: true, uso6: true, ..without_udp },
        _ => without_udp,
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
    if options.xdp {
        return wrong("xdp", 1, "0: AF_XDP is not built yet".to_owned());
    }
    if options.tunnel_port == Some(0) {
        return wrong("tunnel_port", 0, "1 to 65535".to_owned());
    }
    Ok(())
}
