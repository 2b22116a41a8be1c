//! Two hosts joined by a wire, or one whose wire is in the test's hands.

use buf::{Extent, Frame, Offload, Pool};
use engine::{DropReason, OffloadCapabilities, PortIndex, RxQueue, TxQueue, TxReport, Unobserved};
use packet::checksum::Sum;
use packet::{MacAddr, vxlan};
use ports::loopback::{LoopbackRx, LoopbackTx, loopback};
use std::net::{IpAddr, Ipv4Addr};
use switch::{Clock, Control, SwitchConfig, UPLINK, UplinkPlan, Vtep, Worker};
use tables::{Endpoint, Location, NextHop, OwnAddress, PortProfile, RouteTable, Subnet, Vpc, vpc_space};
use towpath_switch as switch;

pub(crate) const PORT: PortIndex = PortIndex(0);
pub(crate) const VNI: u32 = 0x00ab_cdef;
pub(crate) const VPC: u16 = 3;
/// The other host, as each knows it.
pub(crate) const OTHER: u16 = 5;
pub(crate) const NEIGHBOUR: u16 = 9;

pub(crate) struct Still;

impl Clock for Still {
    fn cycles(&mut self) -> u64 {
        0
    }
}

/// What a uplink's transmit queue does itself, over a wire that could do all.
pub(crate) struct Limited(LoopbackTx, OffloadCapabilities);

impl TxQueue for Limited {
    fn capabilities(&self) -> OffloadCapabilities {
        self.1
    }
    fn send(&mut self, frames: &[Frame<'_, '_>]) -> TxReport {
        self.0.send(frames)
    }
    fn flush(&mut self) {
        self.0.flush();
    }
}

pub(crate) struct Host {
    pub(crate) control: Control,
    pub(crate) worker: Worker,
    pub(crate) sends: LoopbackTx,
    pub(crate) receives: LoopbackRx,
}

pub(crate) fn guest_mac(host: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, host])
}

pub(crate) fn uplink_mac(host: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 9, host])
}

pub(crate) fn gateway_mac(subnet: u16) -> MacAddr {
    MacAddr([2, 0, 0, 0, 7, subnet as u8])
}

/// Hosts 1 and 2; the guest of host n is 10.0.n.10 in subnet n, and 10.0.0.n0 in subnet 0 as well.
pub(crate) fn address(host: u8, routed: bool) -> Ipv4Addr {
    if routed { Ipv4Addr::new(10, 0, host, 10) } else { Ipv4Addr::new(10, 0, 0, host * 10) }
}

pub(crate) fn underlay(host: u8, v6: bool) -> IpAddr {
    if v6 {
        IpAddr::V6([0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()].into())
    } else {
        IpAddr::V4([192, 0, 2, host].into())
    }
}

impl Host {
    /// `routed`: the guests are in subnets of their own.
    pub(crate) fn new(
        own: u8,
        routed: bool,
        v6: bool,
        wire: (LoopbackRx, LoopbackTx),
        takes: OffloadCapabilities,
    ) -> Self {
        let (mut control, mut workers) = Control::new(&SwitchConfig {
            workers: 1,
            pool_chunks: 4096,
            secret: [1, 2],
            sessions: 1024,
            huge_pages: false,
            timeouts: tables::sessions::Timeouts::default(),
            now: 0,
        })
        .unwrap();
        let other = 3 - own;
        let subnet_of = |host: u8| if routed { u16::from(host) } else { 0 };
        let addresses = vec![OwnAddress { address: underlay(own, v6), answered: true }];
        let (mac, gateways) = (uplink_mac(own), vec![underlay(254, v6)]);
        control.set_uplink(&UplinkPlan { mac, mtu: 1500, addresses, gateways });
        control.attach_rx(UPLINK, 0, Box::new(wire.0.with_long_heads())).unwrap();
        control.attach_tx(UPLINK, 0, Box::new(Limited(wire.1, takes))).unwrap();
        control.set_vpc(
            VPC,
            Vpc {
                vni: VNI,
                mtu: 1430,
                directory: vec![],
                is_directory: false,
                peers: vec![],
                clamp_mss: true,
            },
            true,
        );
        let routes = [(0, "10.0.0.0/24"), (1, "10.0.1.0/24"), (2, "10.0.2.0/24")];
        for (number, prefix) in routes {
            let gateway = IpAddr::V4(Ipv4Addr::new(10, 0, number as u8, 1));
            let subnet = Subnet {
                vpc: VPC,
                gateway_mac: gateway_mac(number),
                prefixes: vec![prefix.parse().unwrap()],
                gateways: vec![gateway],
                routes: Some(0),
                multicast: false,
            };
            control.set_subnet(number, Some(subnet));
        }
        let routes = routes.map(|(number, prefix)| (prefix.parse().unwrap(), NextHop::Subnet(number)));
        let dark = ("10.9.0.0/16".parse().unwrap(), NextHop::Blackhole);
        control.set_routes(0, Some(RouteTable::build(routes.into_iter().chain([dark]))));
        let source = underlay(other, v6);
        control.set_vtep(
            OTHER,
            Vtep { address: source, sources: vec![source], is_host: true, neighbour: NEIGHBOUR },
        );
        let (mac, ip) = (guest_mac(own), IpAddr::V4(address(own, routed)));
        let profile = PortProfile::new(subnet_of(own), mac, 1430, &[ip], &[]);
        control.add_port(PORT, profile.in_vpc(VPC, gateway_mac(subnet_of(own)), 7));
        for (host, location) in [(own, Location::Local(PORT.0)), (other, Location::Remote(OTHER))] {
            let (mac, subnet) = (guest_mac(host), subnet_of(host));
            control.place_mac(subnet, mac, location);
            control.place_endpoint(
                VPC,
                IpAddr::V4(address(host, routed)),
                Endpoint { mac, subnet, location },
            );
        }
        control.place_mac(vpc_space(VPC), mac, Location::Local(PORT.0));
        let pool = Pool::new(1024);
        let (rx, sends) = loopback(&pool, 256, || {});
        let (receives, tx) = loopback(&pool, 256, || {});
        control.attach_rx(PORT, 0, Box::new(rx)).unwrap();
        control.attach_tx(PORT, 0, Box::new(tx)).unwrap();
        Self { control, worker: workers.remove(0), sends, receives }
    }

    pub(crate) fn step(&mut self) -> u32 {
        let progress = self.worker.step(0, &mut Still, &mut Unobserved);
        progress.packets + progress.handovers + progress.commands
    }

    pub(crate) fn send(&mut self, frame: &[u8], offload: Offload) {
        let (head, body) = frame.split_at(frame.len().min(128));
        let report = self.sends.send(&[Frame::new(head, &[Extent::from_slice(body)], body.len(), offload)]);
        assert_eq!(report.sent, 1);
        self.sends.flush();
    }

    pub(crate) fn receive(&mut self) -> Vec<(Vec<u8>, Offload)> {
        received(&mut self.receives)
    }

    pub(crate) fn drops(&self, port: PortIndex) -> Vec<(DropReason, u64)> {
        self.control.counters(port).unwrap().drops
    }
}

pub(crate) fn received(queue: &mut LoopbackRx) -> Vec<(Vec<u8>, Offload)> {
    let mut frames = Vec::new();
    loop {
        let mut burst = buf::Burst::new();
        queue.poll(&mut burst);
        if burst.is_empty() {
            return frames;
        }
        let frame = |index| burst.frame(index).unwrap();
        frames.extend((0..burst.len()).map(|index| (frame(index).to_vec(), frame(index).offload)));
        queue.complete();
    }
}

/// Two hosts; `known`: they know each other's MAC addresses.
pub(crate) fn pair(routed: bool, v6: bool, takes: OffloadCapabilities, known: bool) -> [Host; 2] {
    let pool = Pool::new(4096);
    let (one, two) = (loopback(&pool, 256, || {}), loopback(&pool, 256, || {}));
    let mut hosts =
        [Host::new(1, routed, v6, (one.0, two.1), takes), Host::new(2, routed, v6, (two.0, one.1), takes)];
    if known {
        for (host, other) in [(0, 2), (1, 1)] {
            hosts[host].control.neighbours().set(NEIGHBOUR, Some(uplink_mac(other)));
        }
    }
    run(&mut hosts);
    hosts
}

pub(crate) fn run(hosts: &mut [Host; 2]) {
    while hosts.iter_mut().map(Host::step).sum::<u32>() > 0 {}
}

/// A host whose uplink is in the test's hands: what it receives, what it sends.
pub(crate) fn alone(v6: bool) -> (Host, LoopbackTx, LoopbackRx) {
    let pool = Pool::new(1024);
    let (rx, inject) = loopback(&pool, 256, || {});
    let (observe, tx) = loopback(&pool, 256, || {});
    let mut host = Host::new(1, false, v6, (rx, tx), OffloadCapabilities::default());
    host.control.neighbours().set(NEIGHBOUR, Some(uplink_mac(2)));
    while host.step() > 0 {}
    (host, inject, observe)
}

pub(crate) const ALL: OffloadCapabilities = OffloadCapabilities {
    checksum: true,
    tso4: true,
    tso6: true,
    uso4: true,
    uso6: true,
    ecn: true,
    tunnel: true,
};
pub(crate) const NONE: OffloadCapabilities = OffloadCapabilities {
    checksum: false,
    tso4: false,
    tso6: false,
    uso4: false,
    uso6: false,
    ecn: false,
    tunnel: false,
};

/// An IPv4 packet with right checksums.
pub(crate) fn ipv4(
    macs: [MacAddr; 2],
    addresses: [Ipv4Addr; 2],
    ttl: u8,
    protocol: u8,
    l4: &[u8],
) -> Vec<u8> {
    let mut frame = [macs[1].0, macs[0].0].concat();
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((20 + l4.len() as u16).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, ttl, protocol, 0, 0]);
    addresses.iter().for_each(|address| frame.extend(address.octets()));
    let sum = Sum::of(&frame[14..34]).finish();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend(l4);
    frame
}

pub(crate) fn udp(macs: [MacAddr; 2], addresses: [Ipv4Addr; 2], payload: usize) -> Vec<u8> {
    let length = (8 + payload as u16).to_be_bytes();
    let mut l4 = vec![3, 232, 3, 233, length[0], length[1], 0, 0];
    l4.extend((0..payload).map(|at| at as u8));
    ipv4(macs, addresses, 64, 17, &l4)
}

/// From the guest of host 1 to that of host 2, in one subnet.
pub(crate) fn across(payload: usize) -> Vec<u8> {
    udp([guest_mac(1), guest_mac(2)], [address(1, false), address(2, false)], payload)
}

/// What host 2 sends to host 1, with some bytes replaced.
pub(crate) fn from_other(v6: bool, inner: &[u8], change: &[(usize, &[u8])]) -> Vec<u8> {
    let outer = vxlan::Outer::new(uplink_mac(2), underlay(2, v6), underlay(1, v6), 64).unwrap();
    let mut bytes = Vec::new();
    let per = vxlan::PerPacket {
        destination_mac: uplink_mac(1),
        vni: VNI,
        policy: 0,
        source_port: 50_000,
        traffic_class: 0,
        inner_length: inner.len(),
    };
    outer.append(&mut bytes, &per);
    bytes.extend_from_slice(inner);
    if v6 {
        bytes[60..62].fill(0);
    }
    for (at, with) in change {
        bytes[*at..at + with.len()].copy_from_slice(with);
    }
    if !v6 {
        bytes[24..26].fill(0);
        let sum = Sum::of(&bytes[14..34]).finish();
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

pub(crate) fn back(payload: usize) -> Vec<u8> {
    udp([guest_mac(2), guest_mac(1)], [address(2, false), address(1, false)], payload)
}
