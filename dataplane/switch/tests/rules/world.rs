//! One host with ports under rules, and frames between them.

use buf::{Frame, Offload, Pool};
use engine::{DropReason, PortIndex, RxQueue, TxQueue, Unobserved};
use packet::MacAddr;
use ports::loopback::{LoopbackRx, LoopbackTx, loopback};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use switch::{Clock, Control, SwitchConfig, Worker};
use tables::rules::{Action, Candidate, Direction, Policy, Remote, Rule};
use tables::{Endpoint, Location, NextHop, PortProfile, RouteTable, Subnet, Vpc, vpc_space};
use towpath_switch as switch;

pub(crate) const VPC: u16 = 3;
pub(crate) const SECOND: u64 = 1_000_000_000;

struct Still;

impl Clock for Still {
    fn cycles(&mut self) -> u64 {
        0
    }
}

/// Port n is 10.0.s.n in subnet s: 0 for ports below 8, 1 for others.
pub(crate) fn subnet_of(port: u16) -> u16 {
    u16::from(port >= 8)
}

pub(crate) fn mac(port: u16) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, port as u8])
}

pub(crate) fn gateway_mac(subnet: u16) -> MacAddr {
    MacAddr([2, 0, 0, 0, 7, subnet as u8])
}

/// The other one of a port, which nobody has a route to unless a test says so.
pub(crate) fn address_v6(port: u16) -> std::net::Ipv6Addr {
    [0xfd00, 0x10, 0, 0, 0, 0, 0, 0x10 + port].into()
}

pub(crate) fn address(port: u16) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, subnet_of(port) as u8, 100 + port as u8)
}

/// A rule for everybody that lets pass, to be changed.
pub(crate) fn allow(direction: Direction) -> Rule {
    Rule {
        direction,
        action: Action::Allow,
        priority: 1000,
        protocol: None,
        family: None,
        ports: Vec::new(),
        icmp: None,
        remote: Remote::Any,
        log: false,
        counter: 1,
    }
}

/// Everything may leave.
pub(crate) fn out() -> Vec<Rule> {
    vec![allow(Direction::Egress)]
}

/// Everything may leave, and packets of a protocol to a port come in.
pub(crate) fn out_and_in(protocol: u8, port: u16) -> Vec<Rule> {
    let ports = vec![port..=port];
    let mut rules = out();
    rules.push(Rule { protocol: Some(protocol), ports, counter: 2, ..allow(Direction::Ingress) });
    rules
}

struct Guest {
    sends: LoopbackTx,
    receives: LoopbackRx,
}

/// See the module's documentation.
pub(crate) struct World {
    pub(crate) control: Control,
    pub(crate) workers: Vec<Worker>,
    guests: Vec<Guest>,
    pub(crate) now: u64,
}

impl World {
    /// A host with a port for each set of rules, which gets its index as policy number; without rules it is unfiltered.
    pub(crate) fn new(workers: usize, ports: &[(u16, Option<Vec<Rule>>)]) -> Self {
        Self::with_sessions(1024, workers, ports)
    }

    /// The same with room for so many sessions.
    pub(crate) fn with_sessions(sessions: u32, workers: usize, ports: &[(u16, Option<Vec<Rule>>)]) -> Self {
        let config = SwitchConfig {
            workers,
            pool_chunks: 4096,
            secret: [1, 2],
            sessions,
            huge_pages: false,
            timeouts: tables::sessions::Timeouts::default(),
            now: 0,
        };
        let (mut control, workers) = Control::new(&config).unwrap();
        let vpc = Vpc { vni: 7, mtu: 1450, ..Vpc::default() };
        control.set_vpc(VPC, vpc, true);
        for number in [0, 1] {
            control.set_subnet(number, Some(subnet(number)));
        }
        let routes = [0u8, 1].map(|number| {
            let prefix = Ipv4Addr::new(10, 0, number, 0);
            (ipnet::IpNet::new(prefix.into(), 24).unwrap(), NextHop::Subnet(u16::from(number)))
        });
        control.set_routes(0, Some(RouteTable::build(routes)));
        control.publish();
        control.rule_counters().prepare(1);
        let mut world = Self { control, workers, guests: Vec::new(), now: SECOND };
        for (port, rules) in ports {
            if let Some(rules) = rules {
                world.set_rules(*port, rules.clone());
            }
            world.add(*port, rules.is_some());
        }
        world.step();
        world
    }

    fn add(&mut self, port: u16, filtered: bool) {
        let (index, ip, subnet) = (PortIndex(port), IpAddr::V4(address(port)), subnet_of(port));
        let profile = PortProfile::new(subnet, mac(port), 1450, &[ip, address_v6(port).into()], &[]);
        let mut profile = profile.in_vpc(VPC, gateway_mac(subnet), 1);
        profile.policy = filtered.then_some(port);
        self.control.add_port(index, profile);
        self.place(port, port);
        let pool = Pool::new(1024);
        let (rx, sends) = loopback(&pool, 256, || {});
        let (receives, tx) = loopback(&pool, 256, || {});
        self.control.attach_rx(index, 0, Box::new(rx)).unwrap();
        self.control.attach_tx(index, 0, Box::new(tx)).unwrap();
        let at = usize::from(port);
        assert!(self.guests.len() <= at, "ports are given in ascending order");
        while self.guests.len() < at {
            // Nobody uses it: a port of this index does not exist.
            let (receives, sends) = loopback(&pool, 1, || {});
            self.guests.push(Guest { sends, receives });
        }
        self.guests.push(Guest { sends, receives });
    }

    /// What is for the addresses of port `of` goes to port `to` from now on.
    pub(crate) fn place(&mut self, of: u16, to: u16) {
        let (subnet, location) = (subnet_of(of), Location::Local(to));
        self.control.place_mac(subnet, mac(of), location);
        self.control.place_mac(vpc_space(VPC), mac(of), location);
        let endpoint = Endpoint { mac: mac(of), subnet, location };
        self.control.place_endpoint(VPC, address(of).into(), endpoint);
    }

    pub(crate) fn set_rules(&mut self, port: u16, rules: Vec<Rule>) {
        rules.iter().for_each(|rule| assert!(self.control.rule_counters().prepare(rule.counter)));
        let open = rules.iter().all(|rule| rule.direction == Direction::Ingress);
        self.control.set_policy(port, Some(Arc::new(Policy::compile(rules, open).unwrap())));
    }

    /// The same, with rules that might replace them, whose counters of outcomes are 1,000 and the port's number.
    pub(crate) fn set_candidate(&mut self, port: u16, rules: &[Rule], candidate: &[Rule]) {
        let compile = |rules: &[Rule]| {
            let open = rules.iter().all(|rule| rule.direction == Direction::Ingress);
            Policy::compile(rules.to_vec(), open).unwrap()
        };
        let total = 1000 + u32::from(port);
        let numbers: Vec<u32> =
            rules.iter().chain(candidate).map(|rule| rule.counter).chain([total]).collect();
        numbers.iter().for_each(|number| assert!(self.control.rule_counters().prepare(*number)));
        self.control.comparisons().start(&numbers);
        let candidate = Candidate { policy: compile(candidate), totals: [total].into() };
        self.control.set_rules(port, Some(Arc::new(compile(rules))), Some(Arc::new(candidate)));
    }

    pub(crate) fn step(&mut self) {
        let mut idle = 0;
        while idle < 2 {
            let mut all = true;
            for worker in &mut self.workers {
                all &= worker.step(self.now, &mut Still, &mut Unobserved).is_idle();
            }
            idle = if all { idle + 1 } else { 0 };
        }
    }

    /// One step of the only worker.
    pub(crate) fn one_step(&mut self) {
        self.now += 1_000;
        self.workers[0].step(self.now, &mut Still, &mut Unobserved);
    }

    /// Puts frames into a port's ring until it is full: that one is lost.
    pub(crate) fn offer(&mut self, port: u16, mut frames: impl Iterator<Item = Vec<u8>>) {
        let sends = &mut self.guests[usize::from(port)].sends;
        while frames
            .next()
            .is_some_and(|frame| sends.send(&[Frame::from_head(&frame, Offload::NONE)]).sent == 1)
        {}
        sends.flush();
    }

    /// Packets taken from a port so far.
    pub(crate) fn taken(&self, port: u16) -> u64 {
        self.control.counters(PortIndex(port)).unwrap().rx_packets
    }

    /// Sends frames of a port at once, and lets the switch do its work.
    pub(crate) fn send_all(&mut self, port: u16, frames: &[Vec<u8>]) {
        let guest = &mut self.guests[usize::from(port)];
        for frame in frames {
            assert_eq!(guest.sends.send(&[Frame::from_head(frame, Offload::NONE)]).sent, 1);
        }
        guest.sends.flush();
        self.step();
    }

    /// What a port was given since the last call.
    pub(crate) fn receive(&mut self, port: u16) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        loop {
            let mut burst = buf::Burst::new();
            let receives = &mut self.guests[usize::from(port)].receives;
            receives.poll(&mut burst);
            if burst.is_empty() {
                return frames;
            }
            frames.extend((0..burst.len()).map(|index| burst.frame(index).unwrap().to_vec()));
            receives.complete();
        }
    }

    /// Sends a frame; whether `to` was given it, as it was (but for what a router changes).
    pub(crate) fn passes(&mut self, from: u16, to: u16, frame: &[u8]) -> bool {
        self.send_all(from, &[frame.to_vec()]);
        let got = self.receive(to);
        assert!(got.len() <= 1, "{} frames of one", got.len());
        got.first().is_some_and(|got| got[26..] == frame[26..])
    }

    /// Sessions that there are.
    pub(crate) fn sessions(&self) -> usize {
        self.control.sessions().list((self.now / 1_000_000) as u32, usize::MAX, |_| true).len()
    }

    /// Packets of a port that ended for this reason so far.
    pub(crate) fn dropped(&self, port: u16, reason: DropReason) -> u64 {
        let drops = self.control.counters(PortIndex(port)).unwrap().drops;
        drops.into_iter().find(|(other, _)| *other == reason).map_or(0, |(_, count)| count)
    }
}

fn subnet(number: u16) -> Subnet {
    Subnet {
        vpc: VPC,
        gateway_mac: gateway_mac(number),
        prefixes: vec![ipnet::IpNet::new(Ipv4Addr::new(10, 0, number as u8, 0).into(), 24).unwrap()],
        gateways: vec![IpAddr::V4(Ipv4Addr::new(10, 0, number as u8, 1))],
        routes: Some(0),
        multicast: false,
    }
}
