//! The host: the control side's turns, and how guests attach.

use crate::check::dirty::Migration;
use crate::check::{Violation, leaks};
use crate::faults::Fault;
use crate::frontend::{Call, FrontEnd, Message, handshake, stop};
use crate::guest::actor::Guest;
use crate::guest::nic::Nic;
use crate::network::{Network, PortView, station, vips};
use crate::options::Options;
use crate::plant::{Mischief, Plant};
use crate::queues::{SimRx, SimTx};
use crate::random::Random;
use crate::scene::Scene;
use crate::trace::Trace;
use agent::{Action, Agent};
use anyhow::Context;
use engine::{Announcement, DropReason, PortIndex, TxQueue};
use guest_mem::{DirtyLog, GuestMemory, RegionSpec};
use model::Name;
use ports::vhost::{NetFeatures, VhostRx, VhostTx};
use std::any::Any;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Weak};
use switch::{Control, Removal, SwitchConfig};
use tables::{AllowedAddress, PortProfile};
use vhost_user::{DeviceEvent, ReadyQueue, SessionConfig};
use virtio_driver::{RingAddresses, SharedMemory, Virtqueue};
use virtqueue::{Counter, DeviceRing, Ring, RingConfig, RingFeatures};

/// How often the control side looks around, in nanoseconds.
const TICK: u64 = 200_000;
/// Numbers of subnets that a host with this few can have.
const SUBNET_NUMBERS: u16 = 4;

/// Both queues of a pair from parts, and the counter of the receiving guest's interrupts. `bases`: of the receive and the transmit ring.
fn queues(
    nic: &Nic,
    pair: usize,
    memory: &Arc<GuestMemory>,
    bases: (u32, u32),
    guest: usize,
    mischief: &Mischief,
) -> anyhow::Result<(Box<SimTx>, Box<SimRx>, Counter)> {
    let (features, header_len) = (nic.config.features, nic.header_len());
    let net = NetFeatures::from_bits(features);
    let queues = &nic.pairs[pair];
    let (call_tx, call_rx) = (Counter::default(), Counter::default());
    let given = ring_of(features, &queues.rx.queue, header_len, &nic.memory, memory, bases.0)?;
    let taken = ring_of(features, &queues.tx.queue, header_len, &nic.memory, memory, bases.1)?;
    let tx = SimTx::new(VhostTx::new(given, net, Arc::new(call_rx.clone())), guest, mischief);
    let rx = SimRx::new(VhostRx::new(taken, net, Arc::new(call_tx)), guest, mischief);
    Ok((Box::new(tx), Box::new(rx), call_rx))
}

/// What the switch holds of a guest that is attached.
#[derive(Debug)]
pub struct Attached {
    /// Its memory as mapped.
    pub memory: Arc<GuestMemory>,
    /// The session it attached by, if its port was not made from parts.
    pub front: Option<FrontEnd>,
}

/// See the module's documentation.
pub struct World {
    /// What the run is.
    pub options: Options,
    /// The control side of the switch.
    pub control: Control,
    /// Guests and workers.
    pub scene: Scene,
    /// By guest: what the switch holds of it.
    pub attached: Vec<Option<Attached>>,
    /// What chance decides here.
    pub random: Random,
    /// The bug of this run.
    pub mischief: Mischief,
    /// Memory maps of guests that are gone.
    pub gone: Vec<Weak<GuestMemory>>,
    /// Guests that start again: when.
    pub restarts: Vec<(u64, usize)>,
    /// Packets taken from the pool, and until when.
    pub held: Option<(u64, Vec<buf::OwnedPacket>)>,
    /// Guests that are migrated.
    pub migrations: Vec<Migration>,
    agent: Agent,
    host: Name,
    removals: Vec<(PortIndex, Removal)>,
    pool_chunks: usize,
}

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
    /// A host as `options` say, all ports there and all guests attached.
    ///
    /// # Errors
    ///
    /// The system gives no memory.
    pub fn new(options: Options, plant: Option<Plant>, print: bool) -> anyhow::Result<Self> {
        let mut random = Random::new(options.seed);
        let (control, workers) = Control::new(&SwitchConfig {
            workers: options.workers,
            pool_chunks: options.pool_chunks,
            secret: [random.number(), random.number()],
        });
        let mut network = Network::default();
        let mut guests = Vec::new();
        for (index, guest) in options.guests.iter().enumerate() {
            let subnet = (guest.vpc, guest.subnet);
            let place = network.ports.iter().filter(|port| port.subnet == subnet).count() as u8 + 10;
            let station = station(subnet, place);
            let vip = index % 2 == 0;
            network.ports.push(PortView { present: true, up: true, subnet, station, vip });
            guests.push(Guest::new(index, *guest, station, random.fork()));
        }
        let host = Name::parse("node-a").map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
        let scene = Scene::new(workers, guests, network, Trace::new(print), random.fork());
        let mischief = Mischief::new(plant, control.pool().clone());
        let mut world = Self {
            agent: Agent::new(host.clone()),
            host,
            attached: options.guests.iter().map(|_| None).collect(),
            removals: Vec::new(),
            pool_chunks: options.pool_chunks,
            options,
            control,
            scene,
            random,
            mischief,
            gone: Vec::new(),
            restarts: Vec::new(),
            held: None,
            migrations: Vec::new(),
        };
        world.apply()?;
        world.scene.call_control(TICK);
        Ok(world)
    }

    /// Realizes what the network's description says.
    ///
    /// # Errors
    ///
    /// The description is invalid.
    pub fn apply(&mut self) -> anyhow::Result<()> {
        let resources = self.scene.network.resources(&self.host)?;
        let (actions, exhausted) = self.agent.apply(&resources);
        anyhow::ensure!(exhausted.is_empty(), "no room for {exhausted:?}");
        self.carry_out(actions)?;
        Ok(())
    }

    fn carry_out(&mut self, actions: Vec<Action>) -> anyhow::Result<()> {
        for action in actions {
            self.scene.trace.words(self.scene.now, "action", &format!("{action:?}"));
            match action {
                Action::OpenPort { index, plan } => self.open(index, &plan.name, plan.profile)?,
                Action::ChangePort { index, plan } => {
                    if !self.mischief.is(Plant::StaleProfile) {
                        let profile = self.profile(plan.profile);
                        self.control.set_profile(index, profile);
                    }
                }
                Action::ClosePort { index } => self.close(index)?,
                Action::BindMac { subnet, mac, port } => {
                    self.control.bind_mac(subnet, mac, port);
                    if self.mischief.is(Plant::ForeignMac) {
                        (0..SUBNET_NUMBERS).for_each(|other| self.control.bind_mac(other, mac, port));
                    }
                }
                Action::UnbindMac { subnet, mac, port } => {
                    if !self.mischief.is(Plant::GhostMac) {
                        self.control.unbind_mac(subnet, mac, port);
                    }
                }
                Action::BindAddress { subnet, address, mac, port } => {
                    self.control.bind_address(subnet, address, mac, port);
                    if self.mischief.is(Plant::ForeignNeighbour) {
                        (0..SUBNET_NUMBERS)
                            .for_each(|other| self.control.bind_address(other, address, mac, port));
                    }
                }
                Action::UnbindAddress { subnet, address, port } => {
                    self.control.unbind_address(subnet, address, port);
                }
            }
        }
        self.scene.wake_all();
        Ok(())
    }

    fn profile(&self, profile: PortProfile) -> PortProfile {
        if !self.mischief.is(Plant::AllowAnySource) {
            return profile;
        }
        let any = ipnet::IpNet::from(ipnet::Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));
        let own: Vec<IpAddr> = profile.addresses().to_vec();
        let allowed = [AllowedAddress { prefix: any, mac: None }];
        let mut wide = PortProfile::new(profile.subnet, profile.mac, profile.mtu, &own, &allowed);
        wide.up = profile.up;
        wide
    }

    fn open(&mut self, index: PortIndex, name: &str, profile: PortProfile) -> anyhow::Result<()> {
        let guest: usize = name.rsplit('g').next().unwrap_or("").parse().context("a port of no guest")?;
        let profile = self.profile(profile);
        self.control.add_port(index, profile);
        let shards: Vec<_> = (0..self.options.workers)
            .filter_map(|worker| self.control.shard(index, worker).cloned())
            .collect();
        self.scene.accounts[guest].add(shards.into_iter());
        self.scene.guest_of.insert(index, guest);
        self.scene.plugs[guest].port = Some(index);
        self.scene.plugs[guest].home = self.control.home(index).unwrap_or(0);
        let now = self.scene.now;
        self.scene.guests[guest].station = self.scene.network.ports[guest].station;
        self.scene.tampered[guest] = false;
        self.scene.guests[guest].boot(now, None)?;
        self.attach(guest)
    }

    fn close(&mut self, index: PortIndex) -> anyhow::Result<()> {
        if let Some(guest) = self.scene.guest_of.get(&index).copied()
            && self.scene.plugs[guest].port == Some(index)
        {
            self.unplug(guest)?;
            self.scene.guests[guest].nic = None;
            self.scene.plugs[guest].port = None;
        }
        let removal = self.control.remove_port(index);
        self.removals.push((index, removal));
        Ok(())
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
        let specs = regions(nic, self.options.guests[guest].regions)?;
        if self.options.guests[guest].handshake {
            self.attach_by_handshake(guest, specs)?;
        } else {
            let memory = GuestMemory::map(specs)?;
            let mut interrupts = Vec::new();
            for pair in 0..nic.pairs.len() {
                let bases = (nic.pairs[pair].rx.queue.resume_base(), nic.pairs[pair].tx.queue.resume_base());
                let (tx, rx, call) = queues(nic, pair, &memory, bases, guest, &self.mischief)?;
                interrupts.push(call);
                self.control.attach_tx(index, pair as u16, tx);
                self.control.attach_rx(index, pair as u16, rx);
            }
            self.attached[guest] = Some(Attached { memory, front: None });
            self.scene.plug_in(guest, interrupts);
        }
        self.scene.wake_all();
        self.scene.again_guest(guest, 1_000);
        Ok(())
    }

    fn session_config(&self, guest: usize) -> SessionConfig {
        let port = &self.scene.network.ports[guest];
        SessionConfig::new(u64::MAX, self.options.guests[guest].nic.pairs, Some(port.station.mac), 1500)
    }

    fn attach_by_handshake(&mut self, guest: usize, specs: Vec<RegionSpec>) -> anyhow::Result<()> {
        let config = self.session_config(guest);
        let mut front = FrontEnd::connect(config.clone())?;
        let Some(nic) = &self.scene.guests[guest].nic else { return Ok(()) };
        let messages = handshake(nic, specs, &config)?;
        self.scene.plug_in(guest, Vec::new());
        for message in &messages {
            front.send(message, usize::MAX)?;
            self.hear(guest, &mut front)?;
        }
        let running = self.scene.plugs[guest].interrupts.len();
        let pairs = usize::from(self.options.guests[guest].nic.pairs);
        if running != pairs {
            let what = format!("guest {guest}: {running} of {pairs} receive queues run after the handshake");
            return Err(Violation::new("handshake", what).into());
        }
        self.scene.stats.edge("handshakes", 1);
        self.attached[guest] =
            Some(Attached { memory: Arc::clone(front.device.memory()), front: Some(front) });
        Ok(())
    }

    /// Does what the device of a session says; `true` when the session is over.
    fn hear(&mut self, guest: usize, front: &mut FrontEnd) -> anyhow::Result<bool> {
        let Some(index) = self.scene.plugs[guest].port else { return Ok(true) };
        let mut over = false;
        while let Some(event) = front.next_event(self.scene.now) {
            match event {
                DeviceEvent::QueueReady(ready) => self.start_queue(guest, index, *ready),
                DeviceEvent::StopQueue { index: queue } => {
                    let base = self.stop_queue(index, queue);
                    front.device.queue_stopped(queue, base.unwrap_or(0));
                }
                DeviceEvent::Closed { .. } => over = true,
                DeviceEvent::Refused { refusal, detail } => {
                    let what = format!("guest {guest}: {refusal} {}", detail.unwrap_or_default());
                    return Err(Violation::new("handshake", what).into());
                }
                _ => {}
            }
        }
        Ok(over)
    }

    fn start_queue(&mut self, guest: usize, index: PortIndex, ready: ReadyQueue) {
        let net = NetFeatures::from_bits(self.options.guests[guest].nic.features);
        let counter = Counter::default();
        let call = Arc::new(Call { counter: counter.clone(), call: ready.call });
        let pair = ready.index / 2;
        if ready.index.is_multiple_of(2) {
            let queue = SimTx::new(VhostTx::new(ready.ring, net, call), guest, &self.mischief);
            self.control.attach_tx(index, pair, Box::new(queue));
            let mut interrupts = std::mem::take(&mut self.scene.plugs[guest].interrupts);
            interrupts.push(counter);
            self.scene.plug_in(guest, interrupts);
        } else {
            let queue = SimRx::new(VhostRx::new(ready.ring, net, call), guest, &self.mischief);
            self.control.attach_rx(index, pair, Box::new(queue));
        }
    }

    /// Takes queue `queue` of a port away; where its ring stands.
    fn stop_queue(&mut self, port: PortIndex, queue: u16) -> Option<u32> {
        let pair = queue / 2;
        if queue.is_multiple_of(2) {
            let queue: Box<dyn Any> = self.control.detach_tx(port, pair)?;
            Some(queue.downcast::<SimTx>().ok()?.real.ring_mut().base())
        } else {
            let queue: Box<dyn Any> = self.control.detach_rx(port, pair)?;
            Some(queue.downcast::<SimRx>().ok()?.real.ring_mut().base())
        }
    }

    /// A front end that goes away after any number of bytes.
    ///
    /// # Errors
    ///
    /// The session does not end.
    pub fn break_off_handshake(&mut self, guest: usize) -> anyhow::Result<()> {
        let cut = self.random.below(8192);
        self.break_off_after(guest, |total| cut % total).map(drop)
    }

    /// A front end that goes away after `cut` bytes, which may depend on how many a handshake has; that many. The guest is not attached.
    ///
    /// # Errors
    ///
    /// The session does not end, or leaves a queue behind.
    pub fn break_off_after(
        &mut self,
        guest: usize,
        cut: impl FnOnce(usize) -> usize,
    ) -> anyhow::Result<usize> {
        let config = self.session_config(guest);
        let mut front = FrontEnd::connect(config.clone())?;
        let Some(nic) = &self.scene.guests[guest].nic else { return Ok(0) };
        let messages = handshake(nic, regions(nic, self.options.guests[guest].regions)?, &config)?;
        let total: usize = messages.iter().map(Message::len).sum();
        let mut left = cut(total);
        for message in &messages {
            front.send(message, left)?;
            self.hear(guest, &mut front)?;
            left = left.saturating_sub(message.len());
        }
        self.gone.push(Arc::downgrade(front.device.memory()));
        front.hang_up();
        let over = self.hear(guest, &mut front)?;
        self.scene.plug_in(guest, Vec::new());
        let port = self.scene.plugs[guest].port;
        let left_behind = (0..self.options.guests[guest].nic.pairs).any(|pair| {
            let of = |index| {
                self.control.with_rx(index, pair, |_| ()).or(self.control.with_tx(index, pair, |_| ()))
            };
            port.and_then(of).is_some()
        });
        if over && !left_behind {
            self.scene.drain(guest)?;
            return Ok(total);
        }
        let what = format!("guest {guest}: the session goes on although its front end is gone");
        Err(Violation::new("handshake", what).into())
    }

    /// Stops all queues of a guest; it then reads what it still got.
    ///
    /// # Errors
    ///
    /// A checker found something.
    pub fn unplug(&mut self, guest: usize) -> anyhow::Result<()> {
        if let (Some(index), Some(attached)) = (self.scene.plugs[guest].port, self.attached[guest].take()) {
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
                    self.stop_queue(index, queue);
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

    /// Logs what the switch writes to a guest, until `until`.
    ///
    /// # Errors
    ///
    /// A checker found something.
    pub fn start_migration(&mut self, guest: usize, until: u64) -> anyhow::Result<()> {
        // What was written before is not logged, and read now.
        self.scene.drain(guest)?;
        self.end_migration(guest)?;
        let Some(nic) = &mut self.scene.guests[guest].nic else { return Ok(()) };
        nic.written = Some(Vec::new());
        let end = nic.memory.guest_base() + nic.memory.len() as u64;
        let migration = Migration::new(guest, until, end)?;
        self.set_log(guest, Some(&migration.log));
        self.migrations.push(migration);
        Ok(())
    }

    /// Ends a guest's migration, if there is one: all that it finds written since must be marked.
    ///
    /// # Errors
    ///
    /// Something is not.
    pub fn end_migration(&mut self, guest: usize) -> anyhow::Result<()> {
        let Some(at) = self.migrations.iter().position(|migration| migration.guest == guest) else {
            return Ok(());
        };
        let migration = self.migrations.swap_remove(at);
        self.scene.drain(guest)?;
        self.set_log(guest, None);
        let written = self.scene.guests[guest].nic.as_mut().and_then(|nic| nic.written.take());
        if !self.scene.lies(guest) {
            migration.check(&written.unwrap_or_default())?;
        }
        Ok(())
    }

    fn set_log(&self, guest: usize, log: Option<&Arc<DirtyLog>>) {
        let Some(index) = self.scene.plugs[guest].port else { return };
        for pair in 0..self.options.guests[guest].nic.pairs {
            self.control.with_rx(index, pair, |queue| {
                if let Some(queue) = (queue as &mut dyn Any).downcast_mut::<SimRx>() {
                    queue.real.set_dirty_log(log.cloned());
                }
            });
            if self.mischief.is(Plant::ForgetLog) && pair + 1 == self.options.guests[guest].nic.pairs {
                continue;
            }
            self.control.with_tx(index, pair, |queue| {
                if let Some(queue) = (queue as &mut dyn Any).downcast_mut::<SimTx>() {
                    queue.real.set_dirty_log(log.cloned());
                }
            });
        }
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
        let memory = Arc::clone(&attached.memory);
        let mut interrupts = Vec::new();
        for pair in 0..self.options.guests[guest].nic.pairs {
            let stopped = (self.stop_queue(index, 2 * pair), self.stop_queue(index, 2 * pair + 1));
            let (Some(rx), Some(tx), Some(nic)) = (stopped.0, stopped.1, &self.scene.guests[guest].nic)
            else {
                continue;
            };
            let (tx, rx, call) = queues(nic, usize::from(pair), &memory, (rx, tx), guest, &self.mischief)?;
            interrupts.push(call);
            self.control.attach_tx(index, pair, tx);
            if !self.mischief.is(Plant::ForgetQueue) {
                self.control.attach_rx(index, pair, rx);
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
        for pair in 0..nic.pairs.len() as u16 {
            let (for_rx, for_tx) = (Arc::clone(&memory), Arc::clone(&memory));
            let moved = self.control.with_rx(index, pair, |queue| {
                let queue = (queue as &mut dyn Any).downcast_mut::<SimRx>();
                queue.map_or(Ok(()), |queue| queue.real.set_memory(for_rx))
            });
            moved.transpose()?;
            let moved = self.control.with_tx(index, pair, |queue| {
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

    /// The control side's turn.
    ///
    /// # Errors
    ///
    /// A checker found something, or the system gives no memory.
    pub fn control_turn(&mut self) -> anyhow::Result<()> {
        while let Some(announcement) = self.control.announcements().pop() {
            self.announced(announcement)?;
        }
        for (queue, _) in std::mem::take(&mut self.scene.broken) {
            self.on_broken(queue.port);
        }
        for guest in std::mem::take(&mut self.scene.resets) {
            self.restart(guest, true)?;
        }
        self.find_broken_outputs();
        let now = self.scene.now;
        let due: Vec<usize> =
            self.restarts.iter().filter(|(at, _)| *at <= now).map(|(_, guest)| *guest).collect();
        self.restarts.retain(|(at, _)| *at > now);
        for guest in due {
            self.restart(guest, false)?;
        }
        if self.held.as_ref().is_some_and(|(until, _)| *until <= now) {
            self.held = None;
        }
        let over = self
            .migrations
            .iter()
            .filter(|migration| migration.until <= now)
            .map(|migration| migration.guest);
        for guest in over.collect::<Vec<_>>() {
            self.end_migration(guest)?;
        }
        if self.mischief.is(Plant::InventDrop)
            && let Some(shard) = self.scene.plugs[0].port.and_then(|port| self.control.shard(port, 0))
        {
            shard.count_drop(DropReason::ReceiverFull, 1);
        }
        self.control.reclaim();
        let (control, agent) = (&self.control, &mut self.agent);
        self.removals.retain(|(index, removal)| {
            let done = control.is_removed(removal);
            if done {
                agent.closed(*index);
            }
            !done
        });
        self.scene.call_control(TICK);
        Ok(())
    }

    fn announced(&mut self, announcement: Announcement) -> anyhow::Result<()> {
        let Announcement { port, address, mac } = announcement;
        if let Some(guest) = self.scene.guest_of.get(&port).copied() {
            let view = &self.scene.network.ports[guest];
            let subnet = view.subnet;
            if self.scene.plugs[guest].port == Some(port)
                && view.up
                && view.vip
                && view.station.mac == mac.0
                && vips(subnet).contains(&address)
            {
                let before = self.scene.network.holders.insert((subnet, address), (guest, mac.0));
                if before != Some((guest, mac.0)) {
                    self.scene.network.epoch += 1;
                    self.scene.stats.edge("address moved", 1);
                }
            }
        }
        let actions = self.agent.announced(announcement);
        if !self.mischief.is(Plant::IgnoreAnnouncement) {
            self.carry_out(actions)?;
        }
        Ok(())
    }

    /// A queue broke: the guest's driver notices and starts again.
    fn on_broken(&mut self, port: PortIndex) {
        if let Some(guest) = self.scene.guest_of.get(&port).copied()
            && self.scene.plugs[guest].port == Some(port)
            && !self.restarts.iter().any(|(_, other)| *other == guest)
        {
            self.scene.stats.edge("queue broke", 1);
            let at = self.scene.now + self.random.between(100_000, 1_000_000);
            self.restarts.push((at, guest));
        }
    }

    /// A ring that packets go to says nothing when it breaks: it is asked, as the daemon does.
    fn find_broken_outputs(&mut self) {
        for guest in 0..self.scene.guests.len() {
            let Some(port) = self.scene.plugs[guest].port else { continue };
            let broken = (0..self.options.guests[guest].nic.pairs).any(|pair| {
                let look = |queue: &mut dyn TxQueue| {
                    let queue = (queue as &mut dyn Any).downcast_mut::<SimTx>();
                    queue.is_some_and(|queue| Ring::broken(queue.real.ring_mut()).is_some())
                };
                self.control.with_tx(port, pair, look).unwrap_or(false)
            });
            if broken {
                self.on_broken(port);
            }
        }
    }

    /// A guest starts again with fresh rings, in the memory it has or in new one.
    ///
    /// # Errors
    ///
    /// A checker found something.
    pub fn restart(&mut self, guest: usize, keeps_memory: bool) -> anyhow::Result<()> {
        if self.scene.plugs[guest].port.is_none() {
            return Ok(());
        }
        self.unplug(guest)?;
        let now = self.scene.now;
        let memory = self.scene.guests[guest].nic.take().map(|nic| nic.memory);
        let memory = memory.filter(|_| keeps_memory && !self.scene.tampered[guest]);
        self.scene.tampered[guest] = false;
        self.scene.guests[guest].boot(now, memory)?;
        self.attach(guest)
    }

    /// Whether everything the faults did is undone by itself.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.restarts.is_empty() && self.held.is_none() && self.migrations.is_empty()
    }

    /// The books at the end: guests, pool, maps.
    ///
    /// # Errors
    ///
    /// Something is missing.
    pub fn close_books(&mut self) -> anyhow::Result<()> {
        for guest in 0..self.scene.guests.len() {
            self.unplug(guest)?;
        }
        self.scene.audit()?;
        self.scene.check_guests()?;
        leaks::check((self.control.pool().available(), self.pool_chunks), &self.gone)?;
        Ok(())
    }

    /// Does a fault.
    ///
    /// # Errors
    ///
    /// A checker found something.
    pub fn do_fault(&mut self, fault: Fault) -> anyhow::Result<bool> {
        crate::faults::act(self, fault)
    }
}

/// The finding behind an error, if it is one.
#[must_use]
pub fn violation_of(error: &anyhow::Error) -> Option<Violation> {
    error.downcast_ref::<Violation>().cloned()
}
