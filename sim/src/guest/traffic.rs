//! What a guest sends by itself: packets of numbered flows, large sends, frames that must be refused, talk about neighbours.

use super::actor::{Acted, Guest, SENDS_OFFLOADS};
use super::judge::judge;
use super::stack::Task;
use crate::check::ledger::Expect;
use crate::check::verdicts::is_delivery;
use crate::net::Station;
use crate::net::frame::{
    Fill, Flow, TCP, UDP, advertisement, arp_request, echo_request, gratuitous, icmpv6, packet, set_hops,
    solicitation,
};
use crate::net::oddities::{PROVOKED, odd_frame};
use crate::net::offload::make_partial;
use crate::net::read::{fragment, transport};
use crate::net::services::{self, Question};
use crate::network::{METADATA, Network, block, vips};
use crate::options::Kind;
use engine::DropReason;
use std::net::IpAddr;
use virtio_driver::{Gso, NetHeader, features as f};

/// Ports of conversations that no stack takes part in.
const RAW_PORTS: u16 = 30_000;
/// Headers of the network and the transport layer, at most.
const HEADERS: u64 = 60;

impl Guest {
    /// Sends packets of its own making.
    pub(super) fn send_own(&mut self, now: u64, network: &Network, acted: &mut Acted) {
        let neighbours = network.partners(self.index);
        if self.station != network.ports[self.index].station || neighbours.is_empty() {
            return;
        }
        if self.random.chance(60) {
            self.send_far(network, acted);
        }
        if self.random.chance(25) {
            self.ask_all(network, acted);
        }
        if self.random.chance(25) {
            self.ask_services(network, acted);
        }
        let flooding = now < self.flood_until;
        let count = if flooding { 64 } else { 1 + self.random.below(self.options.burst) };
        let to = neighbours[self.random.below(neighbours.len())];
        for _ in 0..count {
            let to = match self.random.below(100) {
                0..20 => neighbours[self.random.below(neighbours.len())],
                20..23 => self.anybody(network),
                _ => to,
            };
            let done = if self.random.chance(self.options.odd) {
                self.send_odd(network, to, acted)
            } else if self.random.chance(self.options.large) {
                self.send_large(network, to, acted)
            } else {
                self.send_plain(network, to, acted)
            };
            if !done {
                break;
            }
        }
        if self.random.chance(150) && !network.endpoints.is_empty() {
            let endpoint = self.random.below(network.endpoints.len());
            self.send_away(network, endpoint, acted);
        }
        if !network.groups.is_empty() && self.random.chance(150) {
            self.send_strays(network, to, acted);
        }
        if self.random.chance(30) {
            self.talk_to_neighbours(network, to, acted);
        }
        if self.random.chance(60) {
            self.start_task(network, to);
        }
    }

    /// Starts something between stacks.
    pub fn start_task(&mut self, network: &Network, to: usize) {
        let v6 = self.random.chance(500);
        let address = network.ports[to].station.ip(v6);
        let task = match self.random.below(3) {
            0 => Task::Ping(address),
            1 => Task::Echo(address),
            _ => Task::Transfer(address, 1 + self.random.below(60_000)),
        };
        if let Some(stack) = self.stack.as_mut().filter(|stack| stack.busy() < 2) {
            stack.start(task);
        }
    }

    fn flow(&mut self, network: &Network, to: usize, protocol: u8) -> Flow {
        let v6 = self.random.chance(500);
        let mut station = network.next_hop(self.index, to);
        if network.ports[to].vip
            && network.ports[to].subnet == network.ports[self.index].subnet
            && self.random.chance(300)
        {
            for address in vips(network.ports[to].subnet) {
                match address {
                    IpAddr::V4(address) => station.v4 = address,
                    IpAddr::V6(address) => station.v6 = address,
                }
            }
        }
        let port = RAW_PORTS + self.random.below(8) as u16;
        Flow { from: self.station, to: station, v6, protocol, ports: (port, port) }
    }

    /// Bytes that no other packet has.
    pub(super) fn payload(&mut self, length: usize) -> Vec<u8> {
        self.numbers = self.numbers.wrapping_add(1);
        let (number, guest) = (self.numbers, self.index as u8);
        let mut payload = Vec::with_capacity(length);
        payload.extend(number.to_be_bytes());
        payload.push(guest);
        while payload.len() < length {
            let at = payload.len() as u32;
            payload.extend((at.wrapping_mul(0x9e37_79b9) ^ number).to_be_bytes());
        }
        payload.truncate(length);
        payload
    }

    /// One packet of a numbered flow; whether there was room.
    pub fn send_plain(&mut self, network: &Network, to: usize, acted: &mut Acted) -> bool {
        let protocol = self.random.pick(&[UDP, UDP, TCP]);
        let flow = self.flow(network, to, protocol);
        let length = match self.random.below(100) {
            0..50 => 18 + self.random.below(64) as u64,
            // Longer than the MTU: for whoever has such buffers.
            50..53 if self.options.kind != Kind::Honest => self.random.between(1480, 1900),
            _ => self.random.between(8, u64::from(network.mtu) - HEADERS),
        };
        let payload = self.payload(length as usize);
        let mut frame = packet(&flow, self.numbers, &payload, Fill::Whole);
        let partial = self.options.nic.has(f::NET_CSUM) && self.random.chance(400);
        let header = if partial { make_partial(&mut frame) } else { None }.unwrap_or_default();
        let expect = judge(network, self.index, &header, &frame);
        self.send(header, frame, expect, acted)
    }

    /// One packet that is to be cut, if the driver may send such.
    pub(super) fn send_large(&mut self, network: &Network, to: usize, acted: &mut Acted) -> bool {
        let nic = self.options.nic;
        let kinds = [
            (f::NET_HOST_TSO4, TCP, false, Gso::TcpV4),
            (f::NET_HOST_TSO6, TCP, true, Gso::TcpV6),
            (f::NET_HOST_USO, UDP, false, Gso::UdpL4),
            (f::NET_HOST_USO, UDP, true, Gso::UdpL4),
        ];
        let allowed: Vec<_> = kinds.into_iter().filter(|(feature, ..)| nic.has(*feature)).collect();
        if allowed.is_empty() {
            return self.send_plain(network, to, acted);
        }
        let (_, protocol, v6, gso) = self.random.pick(&allowed);
        let flow = Flow { v6, ..self.flow(network, to, protocol) };
        let most = network.mtu - HEADERS as u16;
        let size = self.random.pick(&[536, 1200, most, most.min(1448), 1400.min(most)]);
        let room = if self.random.chance(100) { 65_000 } else { 16_000 };
        let length = self.random.between(u64::from(size) + 1, room.min(u64::from(size) * 60));
        let payload = self.payload(length as usize);
        let mut frame = packet(&flow, self.numbers, &payload, Fill::Whole);
        let Some(mut header) = make_partial(&mut frame) else { return true };
        (header.gso, header.gso_size) = (gso, size);
        header.hdr_len = self.random.below(200) as u16;
        let expect = judge(network, self.index, &header, &frame);
        self.send(header, frame, expect, acted)
    }

    pub(super) fn send_odd(&mut self, network: &Network, to: usize, acted: &mut Acted) -> bool {
        if self.random.chance(30) {
            return self.send_empty(acted);
        }
        let reason = self.random.pick(PROVOKED);
        let Some((header, frame)) =
            odd_frame(reason, &self.station, &network.next_hop(self.index, to), &mut self.random)
        else {
            return true;
        };
        let asks = header != NetHeader::default();
        let expect = if reason == DropReason::BadOffload && self.options.nic.features & SENDS_OFFLOADS == 0 {
            judge(network, self.index, &header, &frame)
        } else if !network.ports[self.index].up && !comes_before_security(reason) {
            Expect::Drop(DropReason::PortDown)
        } else {
            Expect::Drop(reason)
        };
        debug_assert!(!is_delivery(reason) && (asks == (reason == DropReason::BadOffload)));
        self.send(header, frame, expect, acted)
    }

    /// Sends something that goes by the gateway, and further than the subnets' ports or not so far.
    fn send_far(&mut self, network: &Network, acted: &mut Acted) {
        let (me, v6) = (&network.ports[self.index], self.random.chance(500));
        let gateway = network.gateway(me.subnet);
        let host = 200 + self.random.below(50) as u8;
        let (second, block) = block(me.subnet.0);
        let with = |second: u8, block: u16, subnet: u8| Station {
            mac: gateway.mac,
            v4: [10, second, subnet, host].into(),
            v6: [0xfd00, block, 0, if subnet == 66 { 0x66 } else { subnet.into() }, 0, 0, 0, host.into()]
                .into(),
        };
        let mut from = self.station;
        let other = network.gateway((me.subnet.0, 1 - me.subnet.1));
        let (to, port) = match self.random.below(11) {
            0 => (with(second, block, me.subnet.1 as u8), 9),
            1 => (with(second, block, 66), 9),
            // Of a peer, or somebody else's.
            8 => (with(2 - second, if second == 2 { 0x10 } else { 0x12 }, self.random.pick(&[0, 1, 66])), 9),
            // Behind the router, which speaks for who is there.
            9 if me.router => {
                let behind = with(77, 0x77, 5);
                (from.v4, from.v6) = (behind.v4, behind.v6);
                let to = self.anybody(network);
                (Station { mac: gateway.mac, ..network.ports[to].station }, RAW_PORTS)
            }
            9 | 10 => (with(77, 0x77, 5), RAW_PORTS),
            2 => (
                Station {
                    mac: gateway.mac,
                    v4: [198, 51, 100, host].into(),
                    v6: [0x2001, 0xdb8, 9, 0, 0, 0, 0, 1].into(),
                },
                9,
            ),
            3 => (gateway, self.random.pick(&[9, 67, 547, 53])),
            4 => (Station { mac: gateway.mac, ..other }, 9),
            5 => {
                let [IpAddr::V4(v4), IpAddr::V6(v6)] = METADATA else { return };
                (Station { mac: gateway.mac, v4, v6 }, 80)
            }
            _ => {
                let to = self.anybody(network);
                (Station { mac: gateway.mac, ..network.ports[to].station }, RAW_PORTS)
            }
        };
        let protocol = if port == 80 { TCP } else { UDP };
        let flow = Flow { from, to, v6, protocol, ports: (RAW_PORTS, port) };
        let payload = self.payload(40);
        let mut frame = packet(&flow, self.numbers, &payload, Fill::Whole);
        if self.random.chance(200) {
            set_hops(&mut frame, self.random.below(3) as u8);
        }
        if self.random.chance(200) {
            frame = echo_request(&flow, self.numbers);
        }
        let expect = judge(network, self.index, &NetHeader::default(), &frame);
        self.send(NetHeader::default(), frame, expect, acted);
    }

    /// Sends something for everybody: a question for a service, or whatever.
    fn ask_all(&mut self, network: &Network, acted: &mut Acted) {
        let all = Station { mac: [0xff; 6], v4: std::net::Ipv4Addr::BROADCAST, v6: self.station.v6 };
        let group = |mac: [u8; 6], v6: std::net::Ipv6Addr| Station { mac, v4: all.v4, v6 };
        let from = self.station;
        let udp = |to: Station, v6: bool, ports: (u16, u16)| Flow { from, to, v6, protocol: UDP, ports };
        let servers = group([0x33, 0x33, 0, 1, 0, 2], [0xff02, 0, 0, 0, 0, 0, 1, 2].into());
        let payload = self.payload(60);
        let number = self.numbers;
        let frame = match self.random.below(6) {
            0 => packet(&udp(all, false, (68, 67)), number, &payload, Fill::Whole),
            1 => packet(&udp(servers, true, (546, 547)), number, &payload, Fill::Whole),
            2 => {
                let routers = [0xff02, 0, 0, 0, 0, 0, 0, 2].into();
                let body = [
                    133,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    1,
                    1,
                    from.mac[0],
                    from.mac[1],
                    from.mac[2],
                    from.mac[3],
                    from.mac[4],
                    from.mac[5],
                ];
                icmpv6([0x33, 0x33, 0, 0, 0, 2], from.mac, from.v6, routers, 255, &body)
            }
            _ => packet(&udp(all, false, (RAW_PORTS, RAW_PORTS)), number, &payload, Fill::Whole),
        };
        let expect = judge(network, self.index, &NetHeader::default(), &frame);
        self.send(NetHeader::default(), frame, expect, acted);
    }

    /// Sends to an endpoint, of whatever VPC, and asks for it where it is of the same subnet.
    pub fn send_away(&mut self, network: &Network, endpoint: usize, acted: &mut Acted) {
        let (mine, endpoint) = (network.ports[self.index].subnet, &network.endpoints[endpoint]);
        let mut to = endpoint.station;
        if endpoint.subnet != mine {
            to.mac = network.gateway(mine).mac;
        }
        let v6 = self.random.chance(500);
        let flow = Flow { from: self.station, to, v6, protocol: UDP, ports: (RAW_PORTS, RAW_PORTS) };
        let payload = self.payload(50);
        let mut frames = vec![packet(&flow, self.numbers, &payload, Fill::Whole)];
        if self.random.chance(100) {
            frames.extend([arp_request(&self.station, to.v4), solicitation(&self.station, to.v6)]);
        }
        for frame in frames {
            let expect = judge(network, self.index, &NetHeader::default(), &frame);
            self.send(NetHeader::default(), frame, expect, acted);
        }
    }

    /// Sends what is for all of the subnet.
    pub fn call_all(&mut self, network: &Network, acted: &mut Acted) {
        let all = Station { mac: [0xff; 6], v4: std::net::Ipv4Addr::BROADCAST, v6: self.station.v6 };
        let ports = (RAW_PORTS, RAW_PORTS);
        let payload = self.payload(60);
        let flow = Flow { from: self.station, to: all, v6: false, protocol: UDP, ports };
        let frame = packet(&flow, self.numbers, &payload, Fill::Whole);
        let expect = judge(network, self.index, &NetHeader::default(), &frame);
        self.send(NetHeader::default(), frame, expect, acted);
    }

    /// Asks for an address and for routers as a client does, also for an address that is not its own.
    pub fn ask_services(&mut self, network: &Network, acted: &mut Acted) {
        let gateway = network.gateway(network.ports[self.index].subnet);
        let number = self.random.number() as u32;
        let address = if self.random.chance(800) {
            self.station.v4
        } else {
            network.ports[self.random.below(network.ports.len())].station.v4
        };
        let questions = [
            Question::Discover(number),
            Question::Request(number ^ 0x8000_0000, address),
            Question::Solicit(number & 0xff_ffff),
            Question::Routers,
        ];
        for question in questions {
            let frame = services::ask(question, &self.station, gateway.v4);
            let expect = judge(network, self.index, &NetHeader::default(), &frame);
            self.send(NetHeader::default(), frame, expect, acted);
        }
    }

    /// Any other guest, there or not, of whatever VPC.
    fn anybody(&mut self, network: &Network) -> usize {
        let all: Vec<usize> = (0..network.ports.len()).filter(|other| *other != self.index).collect();
        self.random.pick(&all)
    }

    /// A chain that holds a header and no packet: refused, returned, and never seen again.
    fn send_empty(&mut self, acted: &mut Acted) -> bool {
        let Some(nic) = &mut self.nic else { return false };
        acted.busy |= nic.send(0, &NetHeader::default(), &[], &mut self.random);
        true
    }

    pub(super) fn talk_to_neighbours(&mut self, network: &Network, to: usize, acted: &mut Acted) {
        let other = network.ports[to].station;
        let vip = vips(network.ports[self.index].subnet);
        let [IpAddr::V4(vip4), IpAddr::V6(vip6)] = vip else { return };
        let mine = network.ports[self.index].vip;
        let elsewhere = network.ports[self.random.below(network.ports.len())].station;
        let frames = match self.random.below(5) {
            4 if self.random.chance(500) => {
                let gateway = network.gateway(network.ports[self.index].subnet);
                vec![arp_request(&self.station, gateway.v4), solicitation(&self.station, gateway.v6)]
            }
            4 => vec![arp_request(&self.station, elsewhere.v4), solicitation(&self.station, elsewhere.v6)],
            0 => vec![arp_request(&self.station, other.v4), solicitation(&self.station, other.v6)],
            1 => vec![arp_request(&self.station, vip4), solicitation(&self.station, vip6)],
            _ if mine && (!self.announced || self.random.chance(300)) => {
                self.announced = true;
                vec![
                    gratuitous(self.station.mac, vip4),
                    advertisement(self.station.mac, vip6, self.station.mac),
                ]
            }
            _ => vec![],
        };
        for frame in frames {
            let expect = judge(network, self.index, &NetHeader::default(), &frame);
            self.send(NetHeader::default(), frame, expect, acted);
        }
    }
}

/// Whether the reason is found before it is known that the port is shut down.
fn comes_before_security(reason: DropReason) -> bool {
    reason == DropReason::BadOffload || packet_errors().any(|error| error == reason)
}

fn packet_errors() -> impl Iterator<Item = DropReason> {
    ::packet::ParseError::ALL.iter().map(|error| DropReason::from(*error))
}

/// Whether a packet belongs to a conversation that no stack takes part in.
pub(super) fn is_raw(frame: &[u8]) -> bool {
    fragment(frame).is_some()
        || transport(frame).is_some_and(|transport| {
            let port = frame.get(transport.start..transport.start + 2).unwrap_or(&[0, 0]);
            matches!(transport.protocol, TCP | UDP)
                && (RAW_PORTS..RAW_PORTS + 1000).contains(&u16::from_be_bytes([port[0], port[1]]))
        })
}
