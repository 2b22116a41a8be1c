//! What the ledger tells apart.

use super::*;
use crate::guest::nic::Received;
use crate::net::frame::{Fill, Flow, UDP, packet, set_checksum};
use crate::net::offload::{make_partial, segments};
use crate::network::{Network, PortView, station};
use virtio_driver::Gso;

fn network() -> Network {
    let subnet = (0, 0);
    let port = |place| PortView::new(subnet, station(subnet, place), 0);
    Network { ports: vec![port(10), port(11)], ..Network::default() }
}

/// A large send of guest 0 to guest 1, with its header.
fn large(network: &Network) -> (NetHeader, Vec<u8>) {
    let (from, to) = (network.ports[0].station, network.ports[1].station);
    let flow = Flow { from, to, v6: true, protocol: UDP, ports: (30_007, 30_007) };
    let payload: Vec<u8> = (0..5000u32).flat_map(|at| (at * 7).to_be_bytes()).take(8000).collect();
    let mut frame = packet(&flow, 1, &payload, Fill::Whole);
    let mut header = make_partial(&mut frame).unwrap();
    (header.gso, header.gso_size) = (Gso::UdpL4, 1400);
    (header, frame)
}

/// Its segments as a receiver that takes no offload gets them on queue pair 0.
fn cut(network: &Network, header: &NetHeader, frame: &[u8]) -> Vec<Received> {
    let (from, to) = (network.ports[0].station.ip(true), network.ports[1].station.ip(true));
    let finish = |mut bytes: Vec<u8>| {
        set_checksum(&mut bytes, 54, from, to, UDP, Fill::Whole);
        Received { pair: 0, header: NetHeader::default(), bytes }
    };
    segments(header, frame).unwrap().into_iter().map(finish).collect()
}

/// What seed 54 met: a copy of a large send, one byte changed and 40 bytes of padding behind it, and then the large send itself.
#[test]
fn near_equal_large_sends_are_told_apart_and_keep_their_order() {
    let network = network();
    let (header, original) = large(&network);
    let mut copy = original.clone();
    copy[80] ^= 1;
    copy.extend([0x99; 40]);
    let sent = |frames: &[&Vec<u8>]| {
        let mut ledger = Ledger::new(2, 0);
        for frame in frames {
            let at = ledger.sent_and_taken(0, &header, frame, 0);
            ledger.decided(at, 1, Some(0)).unwrap();
        }
        ledger
    };
    let (first, second) = (cut(&network, &header, &copy), cut(&network, &header, &original));
    assert_eq!(first.iter().zip(&second).filter(|(one, other)| one.bytes == other.bytes).count(), 5);
    let mut ledger = sent(&[&copy, &original]);
    for segment in first.iter().chain(&second) {
        assert_eq!(ledger.arrived(1, segment, &network), Ok(true));
    }
    assert_eq!(ledger.arrivals[1].packets, 2);
    // The other way round it would be a reordering: found with the first segment, which only one of them has.
    let mut ledger = sent(&[&copy, &original]);
    second.iter().for_each(|segment| assert_eq!(ledger.arrived(1, segment, &network), Ok(true)));
    assert_eq!(ledger.arrived(1, &first[0], &network).unwrap_err().checker, "order");
}

#[test]
fn a_packet_on_another_queue_pair_is_found() {
    let network = network();
    let (header, frame) = large(&network);
    let mut ledger = Ledger::new(2, 0);
    let at = ledger.sent_and_taken(0, &header, &frame, 0);
    ledger.decided(at, 1, Some(1)).unwrap();
    let first = &cut(&network, &header, &frame)[0];
    assert_eq!(ledger.arrived(1, first, &network).unwrap_err().checker, "steering");
    let moved = Received { pair: 1, ..first.clone() };
    assert_eq!(ledger.arrived(1, &moved, &network), Ok(true));
    assert_eq!(ledger.arrived(1, &moved, &network).unwrap_err().checker, "ledger");
}
