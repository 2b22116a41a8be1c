//! What a guest sends that sessions have to tell apart: fragments, errors about others' packets, segments of no connection, first packets of many flows.

use super::actor::{Acted, Guest};
use super::judge::judge;
use crate::net::checksum::{fold, sum};
use crate::net::frame::{
    Fill, Flow, TCP, UDP, ethernet, fill_ipv4_checksum, icmpv6, packet, push_ipv4, push_ipv6, set_checksum,
};
use crate::network::Network;
use virtio_driver::NetHeader;

/// Bytes of a datagram's first fragment behind the network header.
const FIRST: usize = 264;
/// The network header behind an Ethernet header.
const L3: usize = 14;

impl Guest {
    /// Sends one of these, to a guest that it may talk to.
    pub(super) fn send_strays(&mut self, network: &Network, to: usize, acted: &mut Acted) {
        let frames = match self.random.below(8) {
            0..=2 => self.fragments(network, to),
            3..=4 => vec![self.error(network, to)],
            5 => vec![self.segment(network, to)],
            6 => vec![self.other(network, to)],
            _ => (0..8).map(|_| self.scattered(network, to)).collect(),
        };
        for frame in frames {
            let expect = judge(network, self.index, &NetHeader::default(), &frame);
            self.send(NetHeader::default(), frame, expect, acted);
        }
    }

    fn any_flow(&mut self, network: &Network, to: usize, protocol: u8) -> Flow {
        let (v6, port) = (self.random.chance(500), 30_000 + self.random.below(8) as u16);
        let to = network.next_hop(self.index, to);
        Flow { from: self.station, to, v6, protocol, ports: (port, port) }
    }

    /// A datagram in two fragments; the second comes first at times, or alone.
    fn fragments(&mut self, network: &Network, to: usize) -> Vec<Vec<u8>> {
        let flow = self.any_flow(network, to, UDP);
        let payload = self.payload(FIRST + 200);
        let whole = packet(&flow, self.numbers, &payload, Fill::Whole);
        let id = self.numbers;
        let mut both = vec![fragment(&flow, &whole, id, true), fragment(&flow, &whole, id, false)];
        match self.random.below(10) {
            0 => both.reverse(),
            1 => drop(both.remove(0)),
            _ => {}
        }
        both
    }

    /// An error about a packet that came from there, or never did.
    fn error(&mut self, network: &Network, to: usize) -> Vec<u8> {
        let protocol = self.random.pick(&[UDP, TCP]);
        let flow = self.any_flow(network, to, protocol);
        let port = if self.random.chance(300) { 9 } else { flow.ports.0 };
        let quoted = Flow { from: flow.to, to: flow.from, ports: (flow.ports.0, port), ..flow };
        let payload = self.payload(40);
        let quoted = packet(&quoted, self.numbers, &payload, Fill::Whole);
        let quoted = &quoted[L3..];
        if flow.v6 {
            let body = [&[1, 4, 0, 0, 0, 0, 0, 0], quoted].concat();
            return icmpv6(flow.to.mac, flow.from.mac, flow.from.v6, flow.to.v6, 64, &body);
        }
        let body = [&[3, 3, 0, 0, 0, 0, 0, 0], quoted].concat();
        let mut frame = ethernet(flow.to.mac, flow.from.mac, 0x0800);
        push_ipv4(&mut frame, flow.from.v4, flow.to.v4, 1, self.numbers as u16, body.len());
        let at = frame.len();
        frame.extend(body);
        let value = !fold(sum(&frame[at..]));
        frame[at + 2..at + 4].copy_from_slice(&value.to_be_bytes());
        frame
    }

    /// A TCP segment with flags and numbers that no connection has.
    fn segment(&mut self, network: &Network, to: usize) -> Vec<u8> {
        let flow = self.any_flow(network, to, TCP);
        let payload = self.payload(30);
        let mut frame = packet(&flow, self.random.number() as u32, &payload, Fill::Whole);
        let l4 = frame.len() - payload.len() - 20;
        frame[l4 + 13] = self.random.pick(&[0x02, 0x12, 0x10, 0x11, 0x04, 0x14, 0x18]);
        let number = (self.random.number() as u32).to_be_bytes();
        frame[l4 + 8..l4 + 12].copy_from_slice(&number);
        set_checksum(&mut frame, l4, flow.from.ip(flow.v6), flow.to.ip(flow.v6), TCP, Fill::Whole);
        frame
    }

    /// A packet of a protocol without ports that a session knows, or of SCTP.
    fn other(&mut self, network: &Network, to: usize) -> Vec<u8> {
        let flow = self.any_flow(network, to, UDP);
        let payload = self.payload(64);
        let mut frame = packet(&flow, self.numbers, &payload, Fill::Whole);
        let protocol = self.random.pick(&[47, 132]);
        if flow.v6 {
            frame[L3 + 6] = protocol;
        } else {
            frame[L3 + 9] = protocol;
            fill_ipv4_checksum(&mut frame[L3..L3 + 20]);
        }
        frame
    }

    /// The first packet of a flow that is like no other.
    fn scattered(&mut self, network: &Network, to: usize) -> Vec<u8> {
        let protocol = self.random.pick(&[UDP, UDP, TCP]);
        let port = 1024 + self.random.below(60_000) as u16;
        let source = 30_000 + self.random.below(1000) as u16;
        let flow = Flow { ports: (source, port), ..self.any_flow(network, to, protocol) };
        let payload = self.payload(20);
        packet(&flow, self.numbers, &payload, Fill::Whole)
    }
}

/// The first or second fragment of a whole datagram.
fn fragment(flow: &Flow, whole: &[u8], id: u32, first: bool) -> Vec<u8> {
    let mut frame = ethernet(flow.to.mac, flow.from.mac, if flow.v6 { 0x86dd } else { 0x0800 });
    let rest = &whole[if flow.v6 { L3 + 40 } else { L3 + 20 }..];
    let part = if first { &rest[..FIRST] } else { &rest[FIRST..] };
    let offset = if first { 0 } else { (FIRST / 8) as u16 };
    if flow.v6 {
        push_ipv6(&mut frame, flow.from.v6, flow.to.v6, 44, 8 + part.len());
        let field = offset << 3 | u16::from(first);
        frame.extend([UDP, 0]);
        frame.extend(field.to_be_bytes());
        frame.extend(id.to_be_bytes());
    } else {
        push_ipv4(&mut frame, flow.from.v4, flow.to.v4, UDP, id as u16, part.len());
        let field = offset | u16::from(first) << 13;
        frame[L3 + 6..L3 + 8].copy_from_slice(&field.to_be_bytes());
        fill_ipv4_checksum(&mut frame[L3..L3 + 20]);
    }
    frame.extend(part);
    frame
}
