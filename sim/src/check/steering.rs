//! On which of its queue pairs a guest gets a packet: where it last sent the conversation (virtio 1.2 section 5.1.6.5.6.1).
//!
//! As the switch promises it: a port has a table of 256 slots, which forgets everything with the port. The slot of a conversation follows from what both its
//! directions have in common, so two may share one; then the pair is that of whichever the guest sent last. Until it sends, the first pair.

use engine::PortIndex;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Slots of a port's table.
const SLOTS: usize = 256;

/// A port of a host.
pub type Place = (usize, PortIndex);

/// The tables of all ports.
#[derive(Debug, Default)]
pub struct Steering {
    tables: BTreeMap<Place, Vec<usize>>,
}

/// The slot of a frame's conversation.
#[must_use]
pub fn slot(frame: &[u8]) -> usize {
    slot_of(frame, frame)
}

/// The slot of what was written over `frame`, whose headers it is still taken to have.
#[must_use]
pub fn slot_of(frame: &[u8], answer: &[u8]) -> usize {
    let Ok(headers) = packet::parse(frame.get(..packet::HEAD_LENGTH).unwrap_or(frame), frame.len() as u32)
    else {
        return 0;
    };
    let head = answer.get(..packet::HEAD_LENGTH).unwrap_or(answer);
    let addresses = match (headers.source_ip(head), headers.destination_ip(head)) {
        (Some(IpAddr::V4(source)), Some(IpAddr::V4(destination))) => {
            u64::from(source.to_bits() ^ destination.to_bits())
        }
        (Some(IpAddr::V6(source)), Some(IpAddr::V6(destination))) => {
            let both = source.to_bits() ^ destination.to_bits();
            both as u64 ^ (both >> 64) as u64
        }
        _ => 0,
    };
    let ports = u64::from(headers.source_port ^ headers.destination_port);
    let key = addresses ^ ports << 32 ^ u64::from(headers.protocol) << 48;
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize % SLOTS
}

impl Steering {
    /// A port is made, or made again.
    pub fn opened(&mut self, port: Place) {
        self.tables.insert(port, vec![0; SLOTS]);
    }

    /// The guest of `port` sent a frame of `slot` on `pair`.
    pub fn sent(&mut self, port: Place, slot: usize, pair: usize) {
        if let Some(table) = self.tables.get_mut(&port) {
            table[slot] = pair;
        }
    }

    /// The pair of `pairs` on which the guest of `port` is to get a frame of `slot`.
    #[must_use]
    pub fn pair(&self, port: Place, slot: usize, pairs: usize) -> usize {
        self.tables.get(&port).map_or(0, |table| table[slot] % pairs.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Station;
    use crate::net::frame::{Fill, Flow, TCP, packet};

    #[test]
    fn both_directions_share_a_slot_and_the_last_sender_decides() {
        let station = |last: u8| Station {
            mac: [2, 0, 0, 0, 0, last],
            v4: [10, 0, 0, last].into(),
            v6: [0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)].into(),
        };
        let (a, b) = (station(1), station(2));
        for v6 in [false, true] {
            let there = Flow { from: a, to: b, v6, protocol: TCP, ports: (1000, 2000) };
            let back = Flow { from: b, to: a, ports: (2000, 1000), ..there };
            let slot_of = |flow: &Flow| slot(&packet(flow, 1, b"x", Fill::Whole));
            assert_eq!(slot_of(&there), slot_of(&back));
            assert_ne!(slot_of(&there), slot_of(&Flow { ports: (1001, 2000), ..there }));
        }
        let mut steering = Steering::default();
        let port = (0, PortIndex(3));
        steering.opened(port);
        assert_eq!(steering.pair(port, 7, 4), 0);
        steering.sent(port, 7, 3);
        assert_eq!((steering.pair(port, 7, 4), steering.pair(port, 8, 4)), (3, 0));
        steering.opened(port);
        assert_eq!(steering.pair(port, 7, 4), 0);
    }
}
