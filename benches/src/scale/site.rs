//! A host of a large VPC: its resources, its agent, its switch.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use agent::{Action, Agent};
use anyhow::Context;
use engine::PortIndex;
use fabric::{Ahead, Fabric, UplinkSettings};
use model::{Difference, Environment, Name, Resource, ResourceSet, Spec, Uid, load_text};
use packet::MacAddr;
use services::{
    metadata::{Broken, Read, StreamId, Upstream},
    neighbours::Link,
};
use switch::{Control, UPLINK, Worker};
use virtio_driver::RingLayout;

use crate::{
    attach::AttachConfig,
    frame::{self, Sizes},
    in_process::{InProcessError, MinimalGuest, switch},
    vxlan::host::attach,
};

/// The port of this host.
pub(super) const PORT: PortIndex = PortIndex(0);
/// Its MAC address.
pub(super) const OWN_MAC: MacAddr = MacAddr([2, 0, 0, 1, 0, 1]);
/// Its address.
pub(super) const OWN_IP: Ipv4Addr = Ipv4Addr::new(10, 255, 255, 1);
const UPLINK_MAC: MacAddr = MacAddr([2, 0, 0, 0, 9, 1]);
const ROUTER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 9, 2]);
/// How long a packet may be under way before it is lost.
const PATIENCE: Duration = Duration::from_millis(500);

/// Buffers of the guest, each to another endpoint; and of the wire.
pub(super) const BUFFERS: usize = 256;

/// Nobody asks for metadata here.
struct NoServices;

impl Upstream for NoServices {
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

/// See the module's documentation.
pub(super) struct Site {
    set: ResourceSet,
    agent: Agent,
    fabric: Fabric<NoServices>,
    /// The switch's control side.
    pub(super) control: Control,
    /// The guest on the port, which sends to endpoints all over.
    pub(super) guest: MinimalGuest,
    /// The wire on the uplink.
    pub(super) wire: MinimalGuest,
    hosts: Vec<Name>,
    /// A Port of another host, which the others are made like.
    example: Arc<Resource>,
    /// Where each moves next.
    moved: u32,
    start: Instant,
}

/// The address of endpoint `number` and its MAC address.
pub(super) fn endpoint(number: u32) -> (Ipv4Addr, MacAddr) {
    let [_, a, b, c] = number.to_be_bytes();
    (Ipv4Addr::from_bits((10 << 24) + 256 + number), MacAddr([2, 0, 1, a, b, c]))
}

impl Site {
    /// This host and others, without their ports; and its worker.
    pub(super) fn new(hosts: u32, endpoints: u32) -> anyhow::Result<(Self, Worker)> {
        let mut text = format!(
            "apiVersion: towpath.dev/v1\nkind: Vpc\nmetadata: {{name: v}}\nspec: {{vni: 100, cidrs: [10.0.0.0/8]}}\n---\n\
             kind: Subnet\nmetadata: {{name: s}}\nspec: {{vpc: v, cidrs: [10.0.0.0/8]}}\n---\n\
             kind: Host\nmetadata: {{name: own}}\nspec: {{vteps: [192.168.0.1], mtu: 9216}}\n---\n\
             kind: Port\nmetadata: {{name: own}}\nspec: {{subnet: s, host: own, mac: \"{OWN_MAC}\", ips: [{OWN_IP}], unfiltered: true, \
             attachment: {{vhostUser: {{socket: /run/own.sock}}}}}}\n---\n\
             kind: Port\nmetadata: {{name: example}}\nspec: {{subnet: s, host: h0, mac: \"02:00:00:01:00:02\", ips: [10.255.255.2], unfiltered: true}}\n"
        );
        for host in 0..hosts {
            let address = Ipv4Addr::from_bits(Ipv4Addr::new(192, 168, 1, 0).to_bits() + host);
            text.push_str(&format!(
                "---\nkind: Host\nmetadata: {{name: h{host}}}\nspec: {{vteps: [{address}], mtu: 9216}}\n"
            ));
        }
        let set = load_text(&text, "bench", &Environment::default())
            .map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
        let name = |text: &str| Name::parse(text).map_err(|refusal| anyhow::anyhow!("{}", refusal.message));
        let example = set
            .iter()
            .find(|resource| {
                matches!(resource.spec, Spec::Port(_)) && resource.meta.name().as_str() == "example"
            })
            .cloned()
            .context("the example is there")?;
        let (mut control, worker) = switch()?;
        let mut fabric = Fabric::new(1, NoServices);
        let link = Link { mac: UPLINK_MAC, addresses: vec!["192.168.0.1/16".parse()?], gateways: Vec::new() };
        fabric.set_uplink(&mut control, UplinkSettings { link, mtu: 9216, kernel_answers: Vec::new() });
        let mut agent = Agent::new(name("own")?);
        let (actions, _exhausted) = agent.apply(&set);
        let plan = actions.iter().find_map(|action| match action {
            Action::OpenPort { plan, .. } => Some(plan.profile.clone()),
            _ => None,
        });
        carry_out(&mut fabric, &mut control, actions, Duration::ZERO);
        control.add_port(PORT, plan.context("the agent opens the port")?);
        control.publish();
        let attached = AttachConfig {
            layout: RingLayout::Split,
            ring_size: BUFFERS as u16,
            longest: 128,
            offloads: false,
            huge_pages: true,
        };
        let guest = attach(&mut control, PORT, &attached)?;
        let wire = attach(&mut control, UPLINK, &attached)?;
        let me = frame::Endpoint { mac: OWN_MAC.0, ip: OWN_IP };
        let step = (endpoints / BUFFERS as u32).max(1);
        let peers: Vec<frame::Endpoint> = (0..BUFFERS as u32)
            .map(|at| {
                let (ip, mac) = endpoint((at * step).min(endpoints - 1));
                frame::Endpoint { mac: mac.0, ip }
            })
            .collect();
        let sizes = Sizes::default();
        let site = Self {
            set,
            agent,
            fabric,
            control,
            guest: MinimalGuest::between(guest, me, &peers, &sizes, 1, false),
            wire: MinimalGuest::between(wire, me, &[me], &sizes, 1, true),
            hosts: (0..hosts).map(|host| name(&format!("h{host}"))).collect::<Result<_, _>>()?,
            example,
            moved: 0,
            start: Instant::now(),
        };
        Ok((site, worker))
    }

    fn resource(&self, number: u32, host: u32) -> Arc<Resource> {
        let mut resource = (*self.example).clone();
        let (ip, mac) = endpoint(number);
        if let Ok(name) = Name::parse(&format!("p{number}")) {
            resource.meta.key.name = name;
        }
        resource.meta.uid = Uid::derived(&resource.meta.key);
        if let Spec::Port(port) = &mut resource.spec {
            (port.mac, port.ips) = (mac, vec![IpAddr::V4(ip)]);
            port.host = self.hosts.get(host as usize % self.hosts.len()).cloned();
        }
        Arc::new(resource)
    }

    /// The changes that bring endpoints `0..count`, spread over the hosts.
    pub(super) fn everybody(&self, count: u32) -> Vec<Difference> {
        (0..count).map(|number| Difference { old: None, new: Some(self.resource(number, number)) }).collect()
    }

    /// The change by which an endpoint moves to another host.
    pub(super) fn moves(&mut self, number: u32) -> Difference {
        self.moved = self.moved.wrapping_add(1);
        let new = self.resource(number, number.wrapping_add(self.moved));
        let old = self.set.get(&new.meta.key).cloned();
        Difference { old, new: Some(new) }
    }

    /// Takes up changes; how long the set, the agent and the tables took.
    pub(super) fn apply(&mut self, changes: Vec<Difference>) -> [Duration; 3] {
        let start = Instant::now();
        let set = self.set.changed(changes);
        let rest = self.take_up(set);
        [start.elapsed() - rest[0] - rest[1], rest[0], rest[1]]
    }

    fn take_up(&mut self, set: ResourceSet) -> [Duration; 2] {
        let start = Instant::now();
        let (actions, _exhausted) = self.agent.apply(&set);
        self.set = set;
        let planned = start.elapsed();
        let now = self.start.elapsed();
        carry_out(&mut self.fabric, &mut self.control, actions, now);
        self.control.publish();
        [planned, start.elapsed() - planned]
    }

    /// Bytes of the tables by address.
    pub(super) fn memory(&self) -> usize {
        self.control.address_memory()
    }

    /// Whether a ring full of packets to endpoints all over comes out of the uplink, by a worker that runs meanwhile. It sees what was set from its next
    /// step on: what it took up in the step that it was in may still end, and is sent once more.
    pub(super) fn worker_sees_all(&mut self) -> Result<bool, InProcessError> {
        for _ in 0..2 {
            let (before, sent) = (self.wire.received, self.guest.send(BUFFERS)?);
            self.receive_until(before + sent as u64)?;
            if sent == BUFFERS && self.wire.received - before == sent as u64 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes what comes out of the uplink until so many frames did, or nothing more comes.
    pub(super) fn receive_until(&mut self, received: u64) -> Result<(), InProcessError> {
        let mut last = Instant::now();
        while self.wire.received < received && last.elapsed() < PATIENCE {
            if self.wire.receive()? > 0 {
                last = Instant::now();
            }
        }
        Ok(())
    }

    /// Frees what no worker looks at any more, as the daemon does now and then.
    pub(super) fn reclaim(&mut self) {
        self.control.reclaim();
    }
}

fn carry_out(fabric: &mut Fabric<NoServices>, control: &mut Control, actions: Vec<Action>, now: Duration) {
    let mut actions = Ahead::new(actions);
    while let Some(action) = actions.next(control) {
        let vtep = if let Action::SetVtep { vtep, .. } = &action { Some(*vtep) } else { None };
        // What comes back is about sockets, of which there are none here.
        fabric.carry_out(control, action, now);
        // All tunnel end points are behind one router, of which everybody knows where it is.
        if let Some(vtep) = vtep.and_then(|vtep| control.vtep(vtep)) {
            control.neighbours().set(vtep.neighbour, Some(ROUTER_MAC));
        }
    }
}
