//! The host: the control side's turns. How guests attach is in [`queues`] (from parts) and `session` (by a handshake).

mod actions;
mod host;
mod migration;
pub mod queues;
mod rules;
mod session;

pub use migration::Move;

use crate::check::dirty::Migration;
use crate::check::steering::Place;
use crate::check::{accounts, leaks};
use crate::frontend::FrontEnd;
use crate::guest::actor::Guest;
use crate::network::{HostView, Network, PortView, Routes, station};
use crate::options::Options;
use crate::plant::{Mischief, Plant};
use crate::queues::SimTx;
use crate::random::Random;
use crate::scene::Scene;
use crate::trace::Trace;
use crate::underlay::Underlay;
use agent::Agent;
use engine::{DropReason, TxQueue};
use guest_mem::GuestMemory;
use model::Name;
use std::any::Any;
use std::sync::{Arc, Weak};
use switch::{Control, Removal};
use virtqueue::{DeviceRing, Ring};

/// How often the control side looks around, in nanoseconds.
const TICK: u64 = 200_000;
/// Numbers of subnets that a host with this few can have.
const SUBNET_NUMBERS: u16 = 6;
/// Virtual time in which what is under way when all is over comes to its end, in nanoseconds: longer than a packet waits for its next hop.
const LAST_NS: u64 = 4_000_000_000;

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
    /// The hosts.
    pub hosts: Vec<Host>,
    /// Guests and workers.
    pub scene: Scene,
    /// By guest: what the switch holds of it.
    pub attached: Vec<Option<Attached>>,
    /// What chance decides here.
    pub random: Random,
    /// And of rules.
    pub rules: Random,
    /// The bug of this run.
    pub mischief: Mischief,
    /// Memory maps of guests that are gone.
    pub gone: Vec<Weak<GuestMemory>>,
    /// Guests that start again: when.
    pub restarts: Vec<(u64, usize)>,
    /// What migrations have before them: when, which guest, what.
    pub moves: Vec<(u64, usize, Move)>,
    /// Packets taken from pools, and until when.
    pub held: Option<(u64, Vec<buf::OwnedPacket>)>,
    /// Guests that are migrated.
    pub migrations: Vec<Migration>,
    pool_chunks: usize,
}

/// The control side of a host.
pub struct Host {
    /// Of its switch.
    pub control: Control,
    /// What the daemon has besides: services, next hops, tunnels.
    pub services: fabric::Fabric<host::Nowhere>,
    agent: Agent,
    name: Name,
    removals: Vec<Removal>,
    /// Its control side has other work until then, and hears nothing.
    busy_until: u64,
}

impl World {
    /// A host as `options` say, all ports there and all guests attached.
    ///
    /// # Errors
    ///
    /// The system gives no memory.
    pub fn new(options: Options, plant: Option<Plant>, print: bool) -> anyhow::Result<Self> {
        let mut random = Random::new(options.seed);
        let several = options.hosts > 1;
        let mut network =
            Network { mtu: options.mtu(), routes: Routes::ALL, served: options.served, ..Network::default() };
        if several {
            network.hosts = (0..options.hosts).map(|host| HostView::new(host, options.underlay_v6)).collect();
        }
        if several && options.foreign {
            network.add_foreign(options.underlay_v6);
        }
        let mut guests = Vec::new();
        for (index, guest) in options.guests.iter().enumerate() {
            let subnet = (guest.vpc, guest.subnet);
            let place = network.ports.iter().filter(|port| port.subnet == subnet).count() as u8 + 10;
            let station = station(subnet, place);
            let view = PortView::new(subnet, station, guest.host);
            let groups = guest.filtered.then(Vec::new);
            network.ports.push(PortView { vip: index % 2 == 0, router: index == 1, groups, ..view });
            guests.push(Guest::new(index, *guest, station, random.fork()));
        }
        network.gateways = network.find_gateways()?;
        let mut rules = Random::new(options.seed ^ 0x7275_6c65_735f_6966);
        if options.guests.iter().any(|guest| guest.filtered) {
            network.add_groups(&mut rules);
            for guest in 0..network.ports.len() {
                let groups = network.some_groups(network.ports[guest].subnet.0, &mut rules);
                network.ports[guest].groups.iter_mut().for_each(|own| own.clone_from(&groups));
            }
        }
        let pairs = usize::from(options.uplink_pairs);
        let fabric = several.then(|| Underlay::new(options.hosts, pairs, options.delay, random.fork()));
        let (mut hosts, mut workers) = (Vec::new(), Vec::new());
        for host in 0..options.hosts {
            let (host, its_workers) = Host::new(&options, host, &mut random)?;
            hosts.push(host);
            workers.push(its_workers);
        }
        let scene = Scene::new(workers, guests, network, (Trace::new(print), fabric), random.fork());
        let mischief = Mischief::new(plant, hosts[0].control.pool().clone());
        let mut world = Self {
            hosts,
            attached: options.guests.iter().map(|_| None).collect(),
            pool_chunks: options.pool_chunks,
            options,
            scene,
            random,
            rules,
            mischief,
            gone: Vec::new(),
            restarts: Vec::new(),
            moves: Vec::new(),
            held: None,
            migrations: Vec::new(),
        };
        world.plug_uplinks()?;
        world.apply()?;
        world.scene.call_control(TICK);
        Ok(world)
    }

    /// The control side of the switch that a guest is attached to.
    pub fn control_of(&mut self, guest: usize) -> &mut Control {
        &mut self.hosts[self.scene.plugs[guest].host].control
    }

    /// Somebody's turn: a guest's, a worker's or the control side's.
    ///
    /// # Errors
    ///
    /// A checker found something.
    pub fn turn(&mut self) -> anyhow::Result<()> {
        if self.scene.turn()? {
            self.control_turn()?;
        }
        Ok(())
    }

    /// The control side's turn.
    ///
    /// # Errors
    ///
    /// A checker found something, or the system gives no memory.
    pub fn control_turn(&mut self) -> anyhow::Result<()> {
        for host in 0..self.hosts.len() {
            if self.scene.now < self.hosts[host].busy_until {
                continue;
            }
            while let Some(announcement) = self.hosts[host].control.announcements().pop() {
                self.announced(host, announcement)?;
            }
            self.hear_workers(host)?;
        }
        for (host, queue, _) in std::mem::take(&mut self.scene.broken) {
            self.on_broken((host, queue.port));
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
        self.go_on_moving()?;
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
            && let Some(port) = self.scene.plugs[0].port
            && let Some(shard) = self.control_of(0).shard(port, 0)
        {
            shard.count_drop(DropReason::ReceiverFull, 1);
        }
        for Host { control, agent, removals, .. } in &mut self.hosts {
            control.reclaim();
            control.finish_removals(removals).into_iter().for_each(|index| agent.closed(index));
        }
        self.scene.call_control(TICK);
        Ok(())
    }

    /// A queue broke: the guest's driver notices and starts again.
    fn on_broken(&mut self, place: Place) {
        if let Some(guest) = self.scene.guest_of.get(&place).copied()
            && self.scene.plugs[guest].port == Some(place.1)
            && self.scene.plugs[guest].host == place.0
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
            let host = self.scene.plugs[guest].host;
            let broken = (0..self.options.guests[guest].nic.pairs).any(|pair| {
                let look = |queue: &mut dyn TxQueue| {
                    let queue = (queue as &mut dyn Any).downcast_mut::<SimTx>();
                    queue.is_some_and(|queue| Ring::broken(queue.real.ring_mut()).is_some())
                };
                self.hosts[host].control.with_tx(port, pair, look).unwrap_or(false)
            });
            if broken {
                self.on_broken((host, port));
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
        self.scene.guests[guest].boot(now, memory, &self.scene.network)?;
        self.attach(guest)
    }

    /// Whether everything the faults did is undone by itself.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.restarts.is_empty() && self.moves.is_empty() && self.held.is_none() && self.migrations.is_empty()
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
        for host in 0..self.hosts.len() {
            self.hear_workers(host)?;
        }
        self.finish_underlay()?;
        self.scene.audit()?;
        accounts::check_closed(&self.scene.accounts, self.scene.injected)?;
        self.scene.check_guests()?;
        for host in &self.hosts {
            leaks::check((host.control.pool().available(), self.pool_chunks), &self.gone)?;
        }
        Ok(())
    }
}
