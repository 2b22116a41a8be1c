//! The host: the control side's turns, and how guests attach.

use crate::check::{Checked, Violation, leaks};
use crate::faults::Fault;
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
use engine::{Announcement, PortIndex};
use guest_mem::{GuestMemory, RegionSpec};
use model::Name;
use ports::vhost::{NetFeatures, VhostRx, VhostTx};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Weak};
use switch::{Control, Removal, SwitchConfig};
use tables::{AllowedAddress, PortProfile};
use virtio_driver::{RingAddresses, SharedMemory, Virtqueue};
use virtqueue::{Counter, Ring, RingConfig, RingFeatures};

/// How often the control side looks around, in nanoseconds.
const TICK: u64 = 200_000;
/// Numbers of subnets that a host with this few can have.
const SUBNET_NUMBERS: u16 = 4;

/// What the switch holds of a guest that is attached.
#[derive(Debug)]
pub struct Attached {
    /// Its memory as mapped.
    pub memory: Arc<GuestMemory>,
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
                    self.control.unbind_address(subnet, address, port)
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
        self.scene.guests[guest].boot(now)?;
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
        let actor = &self.scene.guests[guest];
        let (Some(index), Some(nic)) = (self.scene.plugs[guest].port, &actor.nic) else { return Ok(()) };
        let memory = GuestMemory::map(regions(nic, self.options.guests[guest].regions)?)?;
        let features = nic.config.features;
        let net = NetFeatures::from_bits(features);
        let mut interrupts = Vec::new();
        for (pair, queues) in nic.pairs.iter().enumerate() {
            let (call_tx, call_rx) = (Counter::default(), Counter::default());
            let ring = |queue| {
                ring_of(
                    features,
                    queue,
                    nic.header_len(),
                    &nic.memory,
                    &memory,
                    Virtqueue::resume_base(queue),
                )
            };
            let tx = VhostTx::new(ring(&queues.rx.queue)?, net, Arc::new(call_rx.clone()));
            let rx = VhostRx::new(ring(&queues.tx.queue)?, net, Arc::new(call_tx));
            interrupts.push(call_rx);
            self.control.attach_tx(index, pair as u16, Box::new(SimTx::new(tx, guest, &self.mischief)));
            self.control.attach_rx(index, pair as u16, Box::new(SimRx::new(rx, guest, &self.mischief)));
        }
        self.attached[guest] = Some(Attached { memory });
        self.scene.plug_in(guest, interrupts);
        self.scene.wake_all();
        self.scene.again_guest(guest, 1_000);
        Ok(())
    }

    /// Stops all queues of a guest; it then reads what it still got.
    ///
    /// # Errors
    ///
    /// A checker found something.
    pub fn unplug(&mut self, guest: usize) -> Checked {
        if let (Some(index), Some(attached)) = (self.scene.plugs[guest].port, self.attached[guest].take()) {
            for pair in 0..self.options.guests[guest].nic.pairs {
                drop(self.control.detach_rx(index, pair));
                drop(self.control.detach_tx(index, pair));
            }
            self.mischief.keep(&attached.memory);
            self.gone.push(Arc::downgrade(&attached.memory));
        }
        self.scene.plug_in(guest, Vec::new());
        self.scene.wake_all();
        self.scene.drain(guest)
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
            self.on_broken(queue.port)?;
        }
        let now = self.scene.now;
        let due: Vec<usize> =
            self.restarts.iter().filter(|(at, _)| *at <= now).map(|(_, guest)| *guest).collect();
        self.restarts.retain(|(at, _)| *at > now);
        for guest in due {
            self.restart(guest)?;
        }
        if self.held.as_ref().is_some_and(|(until, _)| *until <= now) {
            self.held = None;
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
    fn on_broken(&mut self, port: PortIndex) -> anyhow::Result<()> {
        let Some(guest) = self.scene.guest_of.get(&port).copied() else { return Ok(()) };
        if self.scene.plugs[guest].port != Some(port) {
            return Ok(());
        }
        self.scene.stats.edge("queue broke", 1);
        let at = self.scene.now + self.random.between(100_000, 1_000_000);
        self.restarts.push((at, guest));
        Ok(())
    }

    /// A guest starts again with fresh rings in the same memory, or new memory if it has none.
    ///
    /// # Errors
    ///
    /// A checker found something.
    pub fn restart(&mut self, guest: usize) -> anyhow::Result<()> {
        if self.scene.plugs[guest].port.is_none() {
            return Ok(());
        }
        self.unplug(guest)?;
        let now = self.scene.now;
        self.scene.guests[guest].boot(now)?;
        self.attach(guest)
    }

    /// Whether everything the faults did is undone by itself.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.restarts.is_empty() && self.held.is_none()
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
