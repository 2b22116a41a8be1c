//! Makes the queues of an interface, and counts for them.

use crate::afpacket::{self, PacketRx, PacketTx, Reception};
use crate::error::{Error, failed};
use crate::interface::{Options, QueuePair};
use crate::link::Link;
use crate::state::{RxCounters, State, TxCounters};
use crate::watch::{self, Watch};
use crate::xdp::{self, Redirect, RxSide, Words, XdpRx, XdpSocket, XdpTx};
use crate::{filter, sys};
use engine::OffloadCapabilities;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Link headers beside an IP packet: Ethernet and two VLAN tags.
const LINK_BYTES: usize = 14 + 8;

/// What is kept of a queue pair besides the queues.
#[derive(Debug)]
pub(crate) struct Pair {
    /// What to wait for.
    pub(crate) event: Arc<OwnedFd>,
    packet: Option<PacketCounts>,
    xdp: Option<XdpCounts>,
    pub(crate) rx: Arc<RxCounters>,
    pub(crate) tx: Arc<TxCounters>,
}

/// A packet socket and what it counted before its last look.
#[derive(Debug)]
struct PacketCounts {
    socket: Arc<OwnedFd>,
    packets: AtomicU64,
    dropped: AtomicU64,
}

/// An AF_XDP socket and its receive ring.
#[derive(Debug)]
struct XdpCounts {
    socket: Arc<OwnedFd>,
    received: Arc<Words>,
}

impl PacketCounts {
    fn new(socket: Arc<OwnedFd>) -> Self {
        Self { socket, packets: AtomicU64::new(0), dropped: AtomicU64::new(0) }
    }
}

impl Pair {
    /// Changes which packets its packet socket gets: everything without a program.
    pub(crate) fn filter(&self, program: Option<&mut [libc::sock_filter]>) -> io::Result<()> {
        let Some(packet) = &self.packet else { return Ok(()) };
        match program {
            Some(program) => sys::attach_filter(&packet.socket, program),
            None => sys::set_option(&packet.socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0),
        }
    }

    /// Packets the kernel put into the receive rings, and packets it had no room for.
    pub(crate) fn received(&self) -> (u64, u64) {
        let (mut packets, mut dropped) = (0, 0);
        if let Some(counts) = &self.packet {
            // The kernel counts from zero again after each look; what it counted as received includes what it dropped.
            if let Ok(new) =
                sys::option::<libc::tpacket_stats>(&counts.socket, libc::SOL_PACKET, libc::PACKET_STATISTICS)
            {
                counts.packets.fetch_add(u64::from(new.tp_packets.saturating_sub(new.tp_drops)), Relaxed);
                counts.dropped.fetch_add(u64::from(new.tp_drops), Relaxed);
            }
            packets += counts.packets.load(Relaxed);
            dropped += counts.dropped.load(Relaxed);
        }
        if let Some(counts) = &self.xdp {
            packets += self.rx.received.get() + u64::from(counts.received.filled());
            if let Ok(lost) =
                sys::option::<libc::xdp_statistics>(&counts.socket, libc::SOL_XDP, libc::XDP_STATISTICS)
            {
                dropped += lost.rx_dropped + lost.rx_ring_full;
            }
        }
        (packets, dropped)
    }
}

/// Queues, and what is kept of them.
pub(crate) struct Opened {
    /// How the interface is used.
    pub(crate) driver: &'static str,
    pub(crate) pairs: Vec<Pair>,
    pub(crate) queues: Vec<QueuePair>,
}

/// Opens the queues that `options` ask for.
pub(crate) fn open(link: &Link, mtu: u16, options: &Options, state: &Arc<State>) -> Result<Opened, Error> {
    if options.xdp { open_xdp(link, mtu, options, state) } else { open_packet(link, options, state) }
}

/// What went wrong while rings were made.
fn ring_failed<'a>(
    link: &'a Link,
    options: &Options,
    operation: &'static str,
) -> impl Fn(io::Error) -> Error + use<'a> {
    let bytes = options.ring_bytes;
    move |error| match error.raw_os_error() {
        Some(libc::ENOMEM | libc::ENOBUFS) => Error::NoMemory { ifname: link.name.clone(), bytes },
        _ => failed(&link.name, operation)(error),
    }
}

fn receptions(link: &Link, options: &Options, count: u16) -> Result<Vec<Reception>, Error> {
    let bytes = options.ring_bytes;
    let receptions = (0..count)
        .map(|_| afpacket::reception(link.index, bytes, options.promiscuous))
        .collect::<io::Result<Vec<Reception>>>()
        .map_err(ring_failed(link, options, "making a packet socket"))?;
    if receptions.len() > 1 {
        afpacket::join_fanout(&receptions).map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => Error::Down { ifname: link.name.clone() },
            _ => failed(&link.name, "spreading flows over its queues")(error),
        })?;
    }
    for reception in &receptions {
        let mut program = options.tunnel_port.map(filter::all_but_the_hosts);
        let begun = reception.begin(program.as_mut().map(|program| &mut program[..]));
        begun.map_err(failed(&link.name, "beginning to receive"))?;
    }
    Ok(receptions)
}

fn open_packet(link: &Link, options: &Options, state: &Arc<State>) -> Result<Opened, Error> {
    let mut opened = Opened { driver: "AF_PACKET", pairs: Vec::new(), queues: Vec::new() };
    for reception in receptions(link, options, options.queue_pairs)? {
        let (socket, ring) = afpacket::transmission(link.index, options.ring_bytes / 2)
            .map_err(ring_failed(link, options, "making a packet socket"))?;
        let (rx, tx) = (Arc::<RxCounters>::default(), Arc::<TxCounters>::default());
        let event = watch::set().map_err(failed(&link.name, "making a descriptor to wait for"))?;
        let watch = Watch::new(&event);
        opened.pairs.push(Pair {
            event,
            packet: Some(PacketCounts::new(reception.socket.clone())),
            xdp: None,
            rx: rx.clone(),
            tx: tx.clone(),
        });
        let rx = PacketRx::new(reception, watch, state.clone(), rx, options.tunnel_port);
        let tx = PacketTx::new(socket, ring, capabilities(), state.clone(), tx);
        opened.queues.push((Box::new(rx), Box::new(tx)));
    }
    Ok(opened)
}

/// The descriptors, sockets and counters of AF_XDP queues on an interface.
struct XdpOpener<'a> {
    link: &'a Link,
    options: &'a Options,
    state: &'a Arc<State>,
}

fn open_xdp(link: &Link, mtu: u16, options: &Options, state: &Arc<State>) -> Result<Opened, Error> {
    let pairs = options.queue_pairs.min(link.receive_queues());
    let opener = XdpOpener { link, options: &Options { queue_pairs: pairs, ..*options }, state };
    opener.check(mtu)?;
    let (sockets, copies) = opener.sockets()?;
    let redirect = opener.redirect(&sockets)?;
    let driver = match (redirect.native, copies) {
        (true, false) => "AF_XDP (native, no copies)",
        (true, true) => "AF_XDP (native, copies)",
        (false, _) => "AF_XDP (generic)",
    };
    // What is left to the kernel comes by a packet socket, to the first queue.
    let mut others: Option<Reception> = receptions(link, options, 1)?.pop();
    let mut opened = Opened { driver, pairs: Vec::new(), queues: Vec::new() };
    let redirect = Arc::new(redirect);
    for socket in sockets {
        let pair = opener.pair(socket, others.take(), &redirect);
        let (pair, queues) = pair.map_err(opener.failed("making a descriptor to wait for"))?;
        opened.pairs.push(pair);
        opened.queues.push(queues);
    }
    Ok(opened)
}

impl XdpOpener<'_> {
    fn check(&self, mtu: u16) -> Result<(), Error> {
        let most = (xdp::LONGEST - LINK_BYTES) as u16;
        if mtu > most {
            return Err(Error::XdpMtu { ifname: self.link.name.clone(), mtu, most });
        }
        Ok(())
    }

    fn failed(&self, operation: &'static str) -> impl Fn(io::Error) -> Error + use<'_> {
        let failed = ring_failed(self.link, self.options, operation);
        move |error: io::Error| match error.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => Error::XdpTaken { ifname: self.link.name.clone() },
            _ => failed(error),
        }
    }

    /// A bound socket for each pair, and whether one of them needs copies.
    fn sockets(&self) -> Result<(Vec<XdpSocket>, bool), Error> {
        let (mut sockets, mut copies) = (Vec::new(), false);
        for queue in 0..self.options.queue_pairs {
            let socket =
                XdpSocket::new(self.options.ring_bytes).map_err(self.failed("making an AF_XDP socket"))?;
            let bound = socket.bind(self.link.index, queue.into());
            copies |= !bound.map_err(self.failed("binding an AF_XDP socket"))?;
            sockets.push(socket);
        }
        Ok((sockets, copies))
    }

    fn redirect(&self, sockets: &[XdpSocket]) -> Result<Redirect, Error> {
        let (pairs, port) = (self.options.queue_pairs, self.options.tunnel_port);
        let redirect = Redirect::attach(self.link.index, pairs, port)
            .map_err(self.failed("attaching an XDP program"))?;
        for (queue, socket) in (0..).zip(sockets) {
            redirect.set(queue, &socket.socket).map_err(self.failed("handing packets over"))?;
        }
        Ok(redirect)
    }

    fn pair(
        &self,
        socket: XdpSocket,
        others: Option<Reception>,
        redirect: &Arc<Redirect>,
    ) -> io::Result<(Pair, QueuePair)> {
        let (counters, port) = (Arc::<RxCounters>::default(), self.options.tunnel_port);
        let packet_socket = others.as_ref().map(|others| others.socket.clone());
        let event = watch::set()?;
        let tx = Arc::<TxCounters>::default();
        let pair = Pair {
            event: event.clone(),
            packet: packet_socket.map(PacketCounts::new),
            xdp: Some(XdpCounts { socket: socket.socket.clone(), received: socket.received.words() }),
            rx: counters.clone(),
            tx: tx.clone(),
        };
        let others = others.map(|others| {
            PacketRx::new(others, Watch::new(&event), self.state.clone(), counters.clone(), port)
        });
        let (rx_half, tx_half) = socket.halves();
        let (redirect, tunnels) = (redirect.clone(), port.is_some());
        let xdp_rx = XdpRx::new(
            rx_half,
            RxSide { redirect, others, tunnels, counters, watch: Watch::new(&event) },
            self.state.clone(),
        );
        let xdp_tx = XdpTx::new(tx_half, self.state.clone(), tx);
        Ok((pair, (Box::new(xdp_rx), Box::new(xdp_tx))))
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
