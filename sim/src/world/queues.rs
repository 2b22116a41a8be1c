//! Rings from parts: memory maps, queues, and how they are stopped and started.

use super::{Attached, World};
use crate::frontend::stop;
use crate::guest::nic::Nic;
use crate::plant::Plant;
use crate::queues::{SimRx, SimTx};
use anyhow::Context;
use engine::PortIndex;
use guest_mem::{GuestMemory, RegionSpec};
use ports::vhost::{NetFeatures, VhostRx, VhostTx};
use std::any::Any;
use std::sync::Arc;
use virtio_driver::{RingAddresses, SharedMemory, Virtqueue};
use virtqueue::{Counter, DeviceRing, Ring, RingConfig, RingFeatures};

/// Regions that describe `memory`: pieces that lie side by side for the guest and far apart for the front end.
///
/// # Errors
///
/// No descriptors left.
pub fn regions(nic: &Nic, count: usize) -> anyhow::Result<Vec<RegionSpec>> {
    let memory = &nic.memory;
    let pages = memory.len() as u64 / 4096;
    let count = count.max(1) as u64;
    let mut specs = Vec::new();
    let mut first = 0;
    for index in 1..=count {
        // Buffers may cross from region to region, rings may not.
        let mut last = (pages * index / count).max(first + 1);
        while last < pages && nic.is_in_ring(memory.guest_base() + last * 4096) {
            last += 1;
        }
        specs.push(RegionSpec {
            guest_addr: memory.guest_base() + first * 4096,
            user_addr: memory.user_base() + first * 4096,
            size: (last - first) * 4096,
            file_offset: first * 4096,
            file: memory.fd().try_clone_to_owned()?,
        });
        first = last;
        if last == pages {
            break;
        }
    }
    Ok(specs)
}

/// The device's half of a driver's ring, from parts.
///
/// # Errors
///
/// The ring is not in memory: a region ends within it.
pub fn ring_of(
    features: u64,
    queue: &impl Virtqueue,
    header_len: usize,
    shared: &SharedMemory,
    memory: &Arc<GuestMemory>,
    base: u32,
) -> anyhow::Result<Ring> {
    let RingAddresses { descriptors, driver, device } = queue.addresses();
    let config = RingConfig {
        size: queue.size(),
        features: RingFeatures::from_bits(features),
        header_len: header_len as u8,
        desc_addr: shared.user_address(descriptors),
        driver_addr: shared.user_address(driver),
        device_addr: shared.user_address(device),
        base,
    };
    Ring::new(&config, Arc::clone(memory)).context("a ring cannot be made")
}

impl World {
    /// Both queues of a pair from parts, and the counter of the receiving guest's interrupts. `bases`: of the receive and the transmit ring.
    fn queues(
        &self,
        guest: usize,
        nic: &Nic,
        pair: usize,
        memory: &Arc<GuestMemory>,
        bases: (u32, u32),
    ) -> anyhow::Result<(Box<SimTx>, Box<SimRx>, Counter)> {
        let (features, header_len) = (nic.config.features, nic.header_len());
        let net = NetFeatures::from_bits(features);
        let queues = &nic.pairs[pair];
        let (call_tx, call_rx) = (Counter::default(), Counter::default());
        let given = ring_of(features, &queues.rx.queue, header_len, &nic.memory, memory, bases.0)?;
        let taken = ring_of(features, &queues.tx.queue, header_len, &nic.memory, memory, bases.1)?;
        let given = VhostTx::new(given, net, Arc::new(call_rx.clone()));
        let taken = VhostRx::new(taken, net, Arc::new(call_tx));
        let tx = SimTx::new(given, guest, &self.mischief);
        let rx = SimRx::new(taken, pair, &self.scene.polled, &self.mischief);
        Ok((Box::new(tx), Box::new(rx), call_rx))
    }

    /// Starts all queues of a guest whose port is there and whose driver has rings.
    ///
    /// # Errors
    ///
    /// A ring cannot be made.
    pub fn attach(&mut self, guest: usize) -> anyhow::Result<()> {
        let (Some(index), Some(nic)) = (self.scene.plugs[guest].port, &self.scene.guests[guest].nic) else {
            return Ok(());
        };
        let host = self.scene.plugs[guest].host;
        let specs = regions(nic, self.options.guests[guest].regions)?;
        if self.options.guests[guest].handshake {
            self.attach_by_handshake(guest, specs)?;
        } else {
            let memory = GuestMemory::map(specs)?;
            let mut interrupts = Vec::new();
            for pair in 0..nic.pairs.len() {
                let bases = (nic.pairs[pair].rx.queue.resume_base(), nic.pairs[pair].tx.queue.resume_base());
                let (tx, rx, call) = self.queues(guest, nic, pair, &memory, bases)?;
                interrupts.push(call);
                let swapped = self.mischief.is(Plant::SwapPairs);
                let receives = if swapped { nic.pairs.len() - 1 - pair } else { pair };
                self.hosts[host].control.attach_tx(index, receives as u16, tx);
                self.hosts[host].control.attach_rx(index, pair as u16, rx);
            }
            self.attached[guest] = Some(Attached { memory, front: None });
            self.scene.plug_in(guest, interrupts);
        }
        self.scene.wake_all();
        self.scene.again_guest(guest, 1_000);
        Ok(())
    }

    /// Takes queue `queue` of a port away; where its ring stands.
    pub(super) fn stop_queue(&mut self, guest: usize, port: PortIndex, queue: u16) -> Option<u32> {
        let pair = queue / 2;
        let host = self.scene.plugs[guest].host;
        if queue.is_multiple_of(2) {
            let queue: Box<dyn Any> = self.hosts[host].control.detach_tx(port, pair)?;
            Some(queue.downcast::<SimTx>().ok()?.real.ring_mut().base())
        } else {
            let queue: Box<dyn Any> = self.hosts[host].control.detach_rx(port, pair)?;
            Some(queue.downcast::<SimRx>().ok()?.real.ring_mut().base())
        }
    }

    /// Stops all queues of a guest; it then reads what it still got.
    ///
    /// # Errors
    ///
    /// A checker found something.
    pub fn unplug(&mut self, guest: usize) -> anyhow::Result<()> {
        if let (Some(index), Some(attached)) = (self.scene.plugs[guest].port, self.attached[guest].take()) {
            if self.scene.plugs[guest].interrupted {
                self.scene.stats.edge("interrupt pending when stopped (L-02)", 1);
            }
            let queues = self.options.guests[guest].nic.pairs * 2;
            if let Some(mut front) = attached.front {
                if self.random.chance(500) {
                    for queue in 0..queues {
                        front.send(&stop(queue), usize::MAX)?;
                        self.hear(guest, &mut front)?;
                    }
                }
                front.hang_up();
                self.hear(guest, &mut front)?;
            } else {
                for queue in 0..queues {
                    self.stop_queue(guest, index, queue);
                }
            }
            self.mischief.keep(&attached.memory);
            self.gone.push(Arc::downgrade(&attached.memory));
        }
        self.scene.plug_in(guest, Vec::new());
        self.scene.wake_all();
        self.scene.drain(guest)?;
        self.end_migration(guest)
    }

    /// Stops each queue of a guest and starts it where it stood, as a front end does around a migration that fails.
    ///
    /// # Errors
    ///
    /// A ring cannot be made.
    pub fn restart_queues(&mut self, guest: usize) -> anyhow::Result<()> {
        self.end_migration(guest)?;
        let (Some(index), Some(attached)) = (self.scene.plugs[guest].port, &self.attached[guest]) else {
            return Ok(());
        };
        if self.mischief.is(Plant::SwapPairs) {
            return Ok(());
        }
        let (memory, host) = (Arc::clone(&attached.memory), self.scene.plugs[guest].host);
        if self.scene.guests[guest].has_unsent() {
            self.scene.stats.edge("queues restarted with buffers out (L-11)", 1);
        }
        let mut interrupts = Vec::new();
        for pair in 0..self.options.guests[guest].nic.pairs {
            let stopped =
                (self.stop_queue(guest, index, 2 * pair), self.stop_queue(guest, index, 2 * pair + 1));
            let (Some(rx), Some(tx), Some(nic)) = (stopped.0, stopped.1, &self.scene.guests[guest].nic)
            else {
                continue;
            };
            let (tx, rx, call) = self.queues(guest, nic, usize::from(pair), &memory, (rx, tx))?;
            interrupts.push(call);
            self.hosts[host].control.attach_tx(index, pair, tx);
            if !self.mischief.is(Plant::ForgetQueue) {
                self.hosts[host].control.attach_rx(index, pair, rx);
            }
        }
        self.scene.plug_in(guest, interrupts);
        self.scene.wake_all();
        self.scene.again_guest(guest, 1_000);
        Ok(())
    }

    /// Gives all rings of a guest another map of the same memory.
    ///
    /// # Errors
    ///
    /// The memory cannot be mapped.
    pub fn move_memory(&mut self, guest: usize) -> anyhow::Result<()> {
        let count = 1 + self.random.below(3);
        let (Some(index), Some(nic)) = (self.scene.plugs[guest].port, &self.scene.guests[guest].nic) else {
            return Ok(());
        };
        let memory = GuestMemory::map(regions(nic, count)?)?;
        let host = self.scene.plugs[guest].host;
        for pair in 0..nic.pairs.len() as u16 {
            let (for_rx, for_tx) = (Arc::clone(&memory), Arc::clone(&memory));
            let moved = self.hosts[host].control.with_rx(index, pair, |queue| {
                let queue = (queue as &mut dyn Any).downcast_mut::<SimRx>();
                queue.map_or(Ok(()), |queue| queue.real.set_memory(for_rx))
            });
            moved.transpose()?;
            let moved = self.hosts[host].control.with_tx(index, pair, |queue| {
                let queue = (queue as &mut dyn Any).downcast_mut::<SimTx>();
                queue.map_or(Ok(()), |queue| queue.real.set_memory(for_tx))
            });
            moved.transpose()?;
        }
        if let Some(attached) = &mut self.attached[guest] {
            let before = std::mem::replace(&mut attached.memory, memory);
            // A session keeps the map that it made; the rings do not.
            if attached.front.is_none() {
                self.gone.push(Arc::downgrade(&before));
            }
        }
        Ok(())
    }
}
