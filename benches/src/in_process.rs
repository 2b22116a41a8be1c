//! The switch and its guests in one process: what a worker can do when no vhost-user generator holds it up.
//!
//! The guests are minimal drivers on one core: they send buffers filled once, rewriting the net header and the first
//! bytes of each, and give receive buffers back after reading one line. The worker is the real one, on the other core.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use engine::{PortIndex, Unobserved};
use guest_mem::{GuestMemory, RegionSpec};
use packet::MacAddr;
use ports::vhost::{NetFeatures, VhostRx, VhostTx};
use serde::Serialize;
use switch::{Control, SwitchConfig, TimeStampClock, Worker};
use tables::PortProfile;
use virtio_driver::{
    Arena, MemoryError, MemoryOptions, NetHeader, Queue, RingLayout, RxQueue, SharedMemory, TxQueue,
    Virtqueue, features,
};
use virtqueue::{Notifier, Ring, RingConfig, RingFeatures};

use crate::{
    affinity,
    attach::{AttachConfig, AttachError, make_queues, memory_size},
    clock::Clock,
    frame::{Endpoint, Ports, Sender, Sizes},
    session::Interrupt,
};

/// Why an in-process host could not be made or run.
#[derive(Debug, thiserror::Error)]
pub enum InProcessError {
    /// Guest memory or queues.
    #[error(transparent)]
    Guest(#[from] AttachError),
    /// The switch's mapping of guest memory.
    #[error("mapping guest memory: {0}")]
    Map(String),
    /// The switch's half of a ring.
    #[error("setting up a ring: {0}")]
    Ring(String),
    /// Pinning, or a descriptor.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A guest found its ring broken, or a thread panicked.
    #[error("{0}")]
    Broken(String),
}

/// A guest's queues, in memory that the switch maps a second time.
pub struct LocalGuest {
    /// Its memory.
    pub memory: Arc<SharedMemory>,
    /// Receive queue.
    pub rx: RxQueue,
    /// Transmit queue.
    pub tx: TxQueue,
}

/// One worker with two ports in one subnet, and the guests on them.
pub struct Host {
    /// The switch's control side; keeps ports and tables alive.
    pub control: Control,
    /// The worker.
    pub worker: Worker,
    /// The guests.
    pub guests: Vec<LocalGuest>,
}

/// Guests poll: nobody is to be interrupted.
pub(crate) struct NobodyWaits;

impl Notifier for NobodyWaits {
    fn notify(&self) {}
}

pub(crate) const SUBNET: u16 = 1;

/// Makes the host; guests are addressed as [`Endpoint::numbered`] says.
///
/// # Errors
///
/// [`InProcessError`].
pub fn host(config: &AttachConfig) -> Result<Host, InProcessError> {
    let (mut control, worker) = switch()?;
    let bits = feature_bits(config);
    let mut guests = Vec::new();
    for index in 0..2u16 {
        let (guest, memory) = local_guest(config, bits)?;
        let port = PortIndex(index);
        let Endpoint { mac, ip } = Endpoint::numbered(index as u8);
        let (mac, ip) = (MacAddr(mac), IpAddr::V4(ip));
        control.add_port(port, PortProfile::new(SUBNET, mac, 9000, &[ip], &[]));
        let location = tables::Location::Local(port.0);
        control.place_mac(SUBNET, mac, location);
        control.place_endpoint(0, ip, tables::Endpoint { mac, subnet: SUBNET, location });
        let net = NetFeatures::from_bits(bits);
        let notifier: Arc<dyn Notifier> = Arc::new(NobodyWaits);
        let sends = device(guest.tx.queue_ref(), &guest.memory, bits, &memory)?;
        let receives = device(guest.rx.queue_ref(), &guest.memory, bits, &memory)?;
        control.attach_rx(port, 0, Box::new(VhostRx::new(sends, net, Arc::clone(&notifier))));
        control.attach_tx(port, 0, Box::new(VhostTx::new(receives, net, notifier)));
        guests.push(guest);
    }
    Ok(Host { control, worker, guests })
}

/// A switch of one worker.
pub(crate) fn switch() -> Result<(Control, Worker), InProcessError> {
    let switch = SwitchConfig {
        workers: 1,
        pool_chunks: 1024,
        secret: [0x0123_4567, 0x89ab_cdef],
        sessions: 1 << 20,
        huge_pages: true,
        timeouts: tables::sessions::Timeouts::default(),
        now: 0,
    };
    let (control, workers) = Control::new(&switch)?;
    let worker = workers.into_iter().next().ok_or_else(|| InProcessError::Ring("no worker".to_string()))?;
    Ok((control, worker))
}

/// The virtio features of a guest.
pub(crate) fn feature_bits(config: &AttachConfig) -> u64 {
    let mut bits = features::VERSION_1 | features::NET_MRG_RXBUF | features::IN_ORDER;
    if config.layout == RingLayout::Packed {
        bits |= features::RING_PACKED;
    }
    if config.offloads {
        bits |= features::NET_CSUM
            | features::NET_GUEST_CSUM
            | features::NET_HOST_TSO4
            | features::NET_GUEST_TSO4;
    }
    bits
}

pub(crate) fn local_guest(
    config: &AttachConfig,
    bits: u64,
) -> Result<(LocalGuest, Arc<GuestMemory>), InProcessError> {
    let options =
        MemoryOptions { guest_base: 0x10_0000, huge_pages: config.huge_pages, ..MemoryOptions::default() };
    let memory = SharedMemory::new(memory_size(config), options)
        .or_else(|_| SharedMemory::new(memory_size(config), MemoryOptions { huge_pages: false, ..options }))
        .map_err(AttachError::from)?
        .into_shared();
    let mapped = map_again(&memory).map_err(|error| InProcessError::Map(error.to_string()))?;
    let mut arena = Arena::new(&memory);
    let (mut rx, mut tx) = make_queues(&memory, &mut arena, bits, config)?;
    rx.queue().suppress_interrupts();
    tx.queue().suppress_interrupts();
    rx.refill(usize::from(config.ring_size));
    Ok((LocalGuest { memory, rx, tx }, mapped))
}

/// Maps a guest's memory a second time, as a switch does.
pub(crate) fn map_again(memory: &SharedMemory) -> std::io::Result<Arc<GuestMemory>> {
    let region = RegionSpec {
        guest_addr: memory.guest_base(),
        user_addr: memory.user_base(),
        size: memory.len() as u64,
        file_offset: 0,
        file: memory.fd().try_clone_to_owned()?,
    };
    GuestMemory::map(vec![region]).map_err(std::io::Error::other)
}

pub(crate) fn device(
    queue: &Queue,
    shared: &SharedMemory,
    bits: u64,
    memory: &Arc<GuestMemory>,
) -> Result<Ring, InProcessError> {
    let addresses = queue.addresses();
    let config = RingConfig {
        size: queue.size(),
        features: RingFeatures::from_bits(bits),
        header_len: features::net_header_len(bits) as u8,
        desc_addr: shared.user_address(addresses.descriptors),
        driver_addr: shared.user_address(addresses.driver),
        device_addr: shared.user_address(addresses.device),
        base: queue.resume_base(),
    };
    Ring::new(&config, Arc::clone(memory)).map_err(|error| InProcessError::Ring(error.to_string()))
}

/// A minimal guest: buffers filled once, sent again and again.
pub struct MinimalGuest {
    guest: LocalGuest,
    /// One for each peer: the n-th buffer goes to the n-th of them.
    senders: Vec<Sender>,
    len: u32,
    header: NetHeader,
    partial_checksums: bool,
    /// What precedes each frame: the outer headers of a tunnel.
    outer: Vec<u8>,
    filled: bool,
    /// Frames received.
    pub received: u64,
}

impl MinimalGuest {
    /// Guest `index` of a host, sending frames of the first of these sizes to the other.
    #[must_use]
    pub fn new(guest: LocalGuest, index: u8, sizes: &Sizes, flows: u32) -> Self {
        let peer = Endpoint::numbered(index ^ 1);
        Self::between(guest, Endpoint::numbered(index), &[peer], sizes, flows, index % 2 == 1)
    }

    /// A guest of that address, sending frames of the first of these sizes to each of `peers` in turn. `odd`: the second of a pair.
    #[must_use]
    pub fn between(
        guest: LocalGuest,
        me: Endpoint,
        peers: &[Endpoint],
        sizes: &Sizes,
        flows: u32,
        odd: bool,
    ) -> Self {
        let senders = peers
            .iter()
            .map(|peer| Sender::new(me, *peer, sizes, flows, Ports::of_end(odd, false), 0))
            .collect();
        let (len, header) = (sizes.longest(), NetHeader::default());
        let outer = Vec::new();
        Self { guest, senders, len, header, partial_checksums: false, outer, filled: false, received: 0 }
    }

    /// Puts these bytes before each frame. Before anything is sent.
    #[must_use]
    pub fn with_outer(mut self, outer: Vec<u8>) -> Self {
        self.outer = outer;
        self
    }

    /// Asks for the UDP checksum of each frame to be completed, as Linux does for what it sends itself. Before anything is sent, and only
    /// with [`AttachConfig::offloads`].
    #[must_use]
    pub fn with_checksums(mut self) -> Self {
        self.partial_checksums = true;
        self
    }

    /// Adds up to `count` frames; returns how many.
    ///
    /// # Errors
    ///
    /// [`InProcessError::Broken`].
    #[inline]
    pub fn send(&mut self, count: usize) -> Result<usize, InProcessError> {
        let broken = |error: &dyn std::fmt::Display| InProcessError::Broken(error.to_string());
        let LocalGuest { memory, tx, .. } = &mut self.guest;
        if !self.filled {
            for ahead in 0..tx.room() {
                let Some(slot) = tx.ahead(ahead) else { break };
                let outer = self.outer.len();
                memory.write(slot.address, &self.outer).map_err(|error| broken(&error))?;
                let address = slot.address + outer as u64;
                let at = ahead % self.senders.len().max(1);
                let Some(sender) = self.senders.get_mut(at) else { break };
                let (header, len) = sender.write(memory, address, 0).map_err(|error| broken(&error))?;
                (self.header, self.len) = (header, len + outer as u32);
                if outer == packet::vxlan::OUTER_LENGTH_V6 {
                    complete_outer(memory, slot.address, self.len).map_err(|error| broken(&error))?;
                }
            }
            if self.partial_checksums {
                self.header = NetHeader { needs_csum: true, csum_start: 34, csum_offset: 6, ..self.header };
            }
            self.filled = true;
        }
        if tx.room() < count {
            tx.reclaim(usize::MAX).map_err(|error| broken(&error))?;
        }
        let mut sent = 0;
        while sent < count && tx.send(&self.header, self.len).is_ok() {
            sent += 1;
        }
        if sent > 0 {
            tx.queue().publish();
        }
        Ok(sent)
    }

    /// Takes what arrived and posts the buffers again; returns how many frames.
    ///
    /// # Errors
    ///
    /// [`InProcessError::Broken`].
    #[inline]
    pub fn receive(&mut self) -> Result<usize, InProcessError> {
        let rx = &mut self.guest.rx;
        let mut frames = 0;
        loop {
            let burst = rx.receive(64, |_| ()).map_err(|error| InProcessError::Broken(error.to_string()))?;
            if burst == 0 {
                break;
            }
            frames += burst;
            rx.refill(usize::MAX);
        }
        self.received += frames as u64;
        Ok(frames)
    }
}

/// Completes the outer UDP checksum over IPv6 of a frame in a tunnel, which holds the sum of the pseudo header.
fn complete_outer(memory: &SharedMemory, address: u64, len: u32) -> Result<(), MemoryError> {
    let mut frame = vec![0; len as usize];
    memory.read(address, &mut frame)?;
    let start = packet::vxlan::OUTER_LENGTH_V6 - packet::vxlan::HEADER_LENGTH - packet::udp::HEADER_LENGTH;
    let offset = packet::udp::CHECKSUM_OFFSET as u16;
    let sum = packet::checksum::Sum::ZERO;
    let _ = packet::checksum::complete_partial(&mut frame, start as u16, offset, sum);
    memory.write(address, &frame)
}

/// What an in-process run measured.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InProcessReport {
    /// Seconds.
    pub seconds: f64,
    /// Millions of frames received per second.
    pub mpps: f64,
    /// Busy cycles per packet, by the worker's counters.
    pub cycles_per_packet: f64,
    /// Share of the time the worker was busy, 0 to 1: near 1 the switch is the limit.
    pub busy: f64,
    /// Packets per burst.
    pub packets_per_burst: f64,
}

/// How an in-process run is done.
#[derive(Debug, Clone)]
pub struct InProcessRun {
    /// Rings and memory.
    pub config: AttachConfig,
    /// Frame sizes.
    pub sizes: Sizes,
    /// Flows per direction, at most as many as there are transmit buffers.
    pub flows: u32,
    /// Core of the guests, and of the worker.
    pub cores: (usize, usize),
    /// How long to count.
    pub time: Duration,
}

/// Runs guests and worker on their cores.
///
/// # Errors
///
/// [`InProcessError`].
pub fn run(
    run: &InProcessRun,
    clock: Clock,
    interrupt: &Interrupt,
) -> Result<InProcessReport, InProcessError> {
    let Host { control, mut worker, guests } = host(&run.config)?;
    let counters = worker.counters();
    let stop = AtomicBool::new(false);
    let report = std::thread::scope(|scope| {
        let switching = scope.spawn(|| {
            affinity::pin(run.cores.1)?;
            while !stop.load(Ordering::Relaxed) {
                // Only announcements look at the time, and these guests make none.
                worker.step(0, &mut TimeStampClock, &mut Unobserved);
            }
            Ok::<(), InProcessError>(())
        });
        let driving = scope.spawn(|| {
            let result = affinity::pin(run.cores.0).map_err(InProcessError::from).and_then(|()| {
                let sizes = &run.sizes;
                let guests = guests.into_iter().zip(0u8..);
                let mut guests: Vec<_> =
                    guests.map(|(guest, index)| MinimalGuest::new(guest, index, sizes, run.flows)).collect();
                drive(&mut guests, &counters, run.time, clock, interrupt)
            });
            stop.store(true, Ordering::Relaxed);
            result
        });
        let report =
            driving.join().unwrap_or_else(|_| Err(InProcessError::Broken("the guests panicked".to_string())));
        stop.store(true, Ordering::Relaxed);
        switching
            .join()
            .unwrap_or_else(|_| Err(InProcessError::Broken("the worker panicked".to_string())))?;
        report
    });
    drop(control);
    report
}

fn drive(
    guests: &mut [MinimalGuest],
    counters: &switch::WorkerCounters,
    time: Duration,
    clock: Clock,
    interrupt: &Interrupt,
) -> Result<InProcessReport, InProcessError> {
    let mut turns = |ticks: u64| -> Result<u64, InProcessError> {
        let end = cpu::time_stamp() + ticks;
        while cpu::time_stamp() < end && !interrupt.is_set() {
            for _ in 0..16 {
                for guest in &mut *guests {
                    guest.receive()?;
                    guest.send(32)?;
                }
            }
        }
        Ok(guests.iter().map(|guest| guest.received).sum())
    };
    let received = turns(clock.ticks(time / 5))?;
    let read = || {
        let c = counters;
        (c.packets.get(), c.busy_cycles.get(), c.idle_cycles.get(), c.bursts.get(), cpu::time_stamp())
    };
    let before = read();
    let frames = turns(clock.ticks(time))? - received;
    let after = read();
    let seconds = (after.4 - before.4) as f64 / clock.hertz();
    let (packets, busy, idle) = (after.0 - before.0, after.1 - before.1, after.2 - before.2);
    Ok(InProcessReport {
        seconds,
        mpps: frames as f64 / seconds / 1e6,
        cycles_per_packet: busy as f64 / packets as f64,
        busy: busy as f64 / (busy + idle) as f64,
        packets_per_burst: packets as f64 / (after.3 - before.3) as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_forwards_between_minimal_guests_in_both_layouts() {
        for layout in [RingLayout::Split, RingLayout::Packed] {
            let config =
                AttachConfig { layout, ring_size: 64, longest: 1514, offloads: false, huge_pages: false };
            let Host { control: _control, mut worker, guests } = host(&config).unwrap();
            let sizes = "1518".parse().unwrap();
            let mut guests: Vec<_> =
                guests.into_iter().zip(0u8..).map(|(g, i)| MinimalGuest::new(g, i, &sizes, 8)).collect();
            for _ in 0..50 {
                assert_eq!(guests[0].send(32).unwrap(), 32);
                assert_eq!(guests[1].send(7).unwrap(), 7);
                while worker.step(0, &mut TimeStampClock, &mut Unobserved).packets > 0 {}
                assert_eq!(guests[1].receive().unwrap(), 32);
                assert_eq!(guests[0].receive().unwrap(), 7);
            }
            // A whole ring at once, and again.
            for round in 0..3 {
                assert_eq!(guests[0].send(64).unwrap(), 64, "{layout:?}, round {round}");
                while worker.step(0, &mut TimeStampClock, &mut Unobserved).packets > 0 {}
                assert_eq!(guests[1].receive().unwrap(), 64, "{layout:?}, round {round}");
            }
        }
    }
}
