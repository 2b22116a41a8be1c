//! What each host has besides its ports: the uplink, and what the control thread does about the underlay.

use super::{Host, LAST_NS, World};
use crate::check::verdicts::header_of;
use crate::network::{HostView, UNDERLAY_MTU};
use crate::options::{Offloads, Options};
use crate::plant::Plant;
use crate::random::Random;
use crate::underlay::queues::{UplinkRx, UplinkTx};
use agent::Agent;
use engine::OffloadCapabilities;
use fabric::UplinkSettings;
use ipnet::IpNet;
use model::Name;
use packet::MacAddr;
use services::metadata::{Broken, Read, StreamId, Upstream};
use services::neighbours::Link;
use std::net::IpAddr;
use std::time::Duration;
use switch::{Control, SwitchConfig, UPLINK, Worker};

/// The way to metadata services: there are none.
#[derive(Debug)]
pub struct Nowhere;

impl Upstream for Nowhere {
    fn open(&mut self, _: StreamId, _: &str) -> Result<(), Broken> {
        Err(Broken)
    }

    fn write(&mut self, _: StreamId, _: &[u8]) -> Result<usize, Broken> {
        Err(Broken)
    }

    fn read(&mut self, _: StreamId, _: &mut [u8]) -> Result<Read, Broken> {
        Err(Broken)
    }

    fn close(&mut self, _: StreamId) {}
}

/// Sessions of a host: few, so that the limit is met.
const SESSIONS: u32 = 4096;

impl Host {
    /// Host number `index` before anything is known, and its workers.
    pub(super) fn new(
        options: &Options,
        index: usize,
        random: &mut Random,
    ) -> anyhow::Result<(Self, Vec<Worker>)> {
        let (control, workers) = Control::new(&SwitchConfig {
            workers: options.workers,
            pool_chunks: options.pool_chunks,
            secret: [random.number(), random.number()],
            sessions: SESSIONS,
            huge_pages: false,
            timeouts: tables::sessions::Timeouts::default(),
            now: 0,
        })?;
        let name = Name::parse(&format!("node-{index}")).map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
        let host = Self {
            control,
            services: fabric::Fabric::new(random.number(), Nowhere),
            agent: Agent::new(name.clone()),
            name,
            removals: Vec::new(),
            busy_until: 0,
        };
        Ok((host, workers))
    }
}

/// The uplink of a host as its daemon knows it.
fn settings(view: &HostView) -> UplinkSettings {
    let address = match view.address {
        IpAddr::V4(_) => IpNet::new(view.address, 24),
        IpAddr::V6(_) => IpNet::new(view.address, 64),
    };
    let addresses = address.into_iter().collect();
    let link = Link { mac: MacAddr(view.mac), addresses, gateways: Vec::new() };
    UplinkSettings { link, mtu: UNDERLAY_MTU, kernel_answers: Vec::new() }
}

/// What a device does itself.
fn capabilities(offloads: Offloads) -> OffloadCapabilities {
    let all = offloads == Offloads::All;
    OffloadCapabilities {
        checksum: offloads != Offloads::None,
        tso4: all,
        tso6: all,
        uso4: all,
        uso6: all,
        ecn: all,
        tunnel: all,
    }
}

impl World {
    /// Virtual time as control threads count it.
    pub(super) fn uptime(&self) -> Duration {
        Duration::from_nanos(self.scene.now)
    }

    /// Gives each host its uplink, if there are several.
    pub(super) fn plug_uplinks(&mut self) -> anyhow::Result<()> {
        let Some(fabric) = &self.scene.fabric else { return Ok(()) };
        for (index, host) in self.hosts.iter_mut().enumerate() {
            host.services.set_uplink(&mut host.control, settings(&self.scene.network.hosts[index]));
            for (pair, (gets, sends)) in fabric.lines[index].iter().enumerate() {
                let rx = UplinkRx::new(gets.clone(), pair, &self.scene.polled);
                let tx = UplinkTx::new(sends.clone(), capabilities(self.options.offloads), &self.mischief);
                host.control.attach_tx(UPLINK, pair as u16, Box::new(tx));
                host.control.attach_rx(UPLINK, pair as u16, Box::new(rx));
            }
            let shards: Vec<_> = (0..self.options.workers)
                .filter_map(|worker| host.control.shard(UPLINK, worker).cloned())
                .collect();
            let since = shards.iter().map(|shard| (shard.clone(), 0)).collect();
            self.scene.shards.insert((index, UPLINK), since);
            let wire = self.scene.guests.len() + index;
            self.scene.accounts[wire].add(shards.into_iter());
        }
        Ok(())
    }

    /// What workers left to a control thread, and what is due there.
    pub(super) fn hear_workers(&mut self, host: usize) -> anyhow::Result<()> {
        let now = self.uptime();
        let exceptions = self.hosts[host].control.exceptions().clone();
        let punts: Vec<_> = std::iter::from_fn(|| exceptions.punts.pop()).collect();
        let mut busy = !punts.is_empty() || !exceptions.is_empty();
        for punt in punts {
            if let Some((sender, _)) = self.scene.sender((host, punt.port)) {
                let (bytes, offload) = punt.packet.with_frame(|frame| (frame.to_vec(), frame.offload));
                self.scene.trace.words(self.scene.now, "given", punt.kind.name());
                self.scene.stats.edge(PUNTS[punt.kind as usize], 1);
                let lies = sender < self.scene.guests.len() && self.scene.lies(sender);
                let (frame, epoch) = ((&header_of(offload), &bytes[..]), self.scene.network.epoch);
                self.scene.ledger.punted(sender, punt.kind, frame, (epoch, lies))?;
            }
            // There was room for all of them.
            let _ = exceptions.punts.push(punt);
        }
        let this = &mut self.hosts[host];
        let before = this.control.own_frames();
        let events = this.services.hear(&mut this.control, now);
        this.services.tick(&mut this.control, now);
        busy |= this.control.own_frames() != before;
        self.scene.injected += this.control.own_frames() - before;
        for event in events {
            self.scene.trace.words(self.scene.now, "heard", &format!("{event:?}"));
            let actions = self.hosts[host].agent.heard_of(event.vpc, event.vtep, event.mac, event.address);
            if self.mischief.is(Plant::IgnoreMoved) {
                continue;
            }
            if !actions.is_empty() {
                self.scene.stats.edge("move heard of", 1);
                self.scene.network.hear(host, event.mac.0);
                self.scene.policies.reopened(self.scene.now);
                // What waits for one next hop, and what goes by another from now on, have no order.
                self.scene.ledger.moved();
            }
            self.carry_out(host, actions)?;
        }
        if self.mischief.is(Plant::ForeignNextHop) {
            let wrong = self.scene.network.hosts.iter().enumerate().find(|(other, _)| *other != host);
            let mac = wrong.map(|(other, _)| self.scene.network.hosts[(other + 1) % self.options.hosts].mac);
            (0..4).filter(|_| self.options.hosts > 2).for_each(|next| {
                self.hosts[host].control.neighbours().set(next, mac.map(MacAddr));
            });
        }
        // Who has nothing to do goes on sleeping.
        if busy {
            self.scene.wake_all();
        }
        Ok(())
    }

    /// Lets what is under way come to its end: packets that wait for next hops, frames that fly.
    pub(super) fn finish_underlay(&mut self) -> anyhow::Result<()> {
        if self.scene.fabric.is_none() {
            return Ok(());
        }
        let until = self.scene.now + LAST_NS;
        while self.scene.now < until && !self.is_quiet() {
            self.turn()?;
        }
        Ok(())
    }

    /// Whether nothing is under way anywhere.
    fn is_quiet(&self) -> bool {
        let idle = |line: &crate::underlay::queues::Line| line.is_empty();
        let fabric = self.scene.fabric.as_ref();
        let still = fabric.is_none_or(|fabric| {
            fabric.is_empty() && fabric.lines.iter().flatten().all(|(gets, sends)| idle(gets) && idle(sends))
        });
        let heard = self.hosts.iter().all(|host| host.control.exceptions().is_empty());
        still && heard && accounts_closed(self)
    }
}

fn accounts_closed(world: &World) -> bool {
    crate::check::accounts::check_closed(&world.scene.accounts, world.scene.injected).is_ok()
}

/// Edges to the control thread, in the order of [`engine::PuntKind`].
const PUNTS: [&str; 10] = [
    "control thread < DHCPv4",
    "control thread < DHCPv6",
    "control thread < router solicitation",
    "control thread < metadata",
    "control thread < broadcast",
    "control thread < multicast",
    "control thread < announcement",
    "control thread < underlay's neighbour",
    "control thread < health check",
    "control thread < word of targets' health",
];
