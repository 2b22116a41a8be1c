//! What comes from the underlay in one burst meets the same end as when it comes alone: what is remembered from packet to packet changes nothing. And each
//! packet ends under one name.

use crate::hosts::*;
use buf::{Checksum, Frame, Offload};
use engine::{DropReason, TxQueue};
use packet::MacAddr;
use packet::checksum::{Sum, pseudo_header};
use ports::loopback::{LoopbackRx, LoopbackTx};
use std::collections::BTreeMap;
use std::net::IpAddr;
use switch::{UPLINK, Vtep};
use tables::{Endpoint, Location, vpc_space};
use towpath_switch as switch;

/// Numbers that look random (xorshift64*, Vigna 2016).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    fn chance(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }
}

/// What was delivered, answered, punted, and dropped.
type Ends = (Vec<Vec<u8>>, Vec<Vec<u8>>, Vec<String>, BTreeMap<DropReason, u64>);

/// A host, the far end of its uplink, and what was punted so far.
struct Bench {
    host: Host,
    inject: LoopbackTx,
    observe: LoopbackRx,
    punted: Vec<String>,
    delivered: Vec<Vec<u8>>,
    answered: Vec<Vec<u8>>,
}

/// A tunnel end point that runs no towpathd, and a station behind it; a port that moved away to the other host.
const FOREIGN: u16 = 6;
const STATION: [u8; 4] = [10, 0, 0, 66];
const MOVED: MacAddr = MacAddr([2, 0, 0, 0, 1, 0x77]);

impl Bench {
    fn new(v6: bool) -> Self {
        let (mut host, inject, observe) = alone(v6);
        let source = underlay(3, v6);
        host.control.set_vtep(
            FOREIGN,
            Vtep { address: source, sources: vec![source], is_host: false, neighbour: NEIGHBOUR },
        );
        let location = Location::Remote(FOREIGN);
        let endpoint = Endpoint { mac: guest_mac(3), subnet: 0, location };
        host.control.place_endpoint(VPC, IpAddr::from(STATION), endpoint);
        let link_local = IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 1]);
        let here = Endpoint { mac: guest_mac(1), subnet: 0, location: Location::Local(PORT.0) };
        host.control.place_endpoint(VPC, link_local, here);
        host.control.place_mac(vpc_space(VPC), MOVED, Location::Remote(OTHER));
        host.control.publish();
        Self { host, inject, observe, punted: vec![], delivered: vec![], answered: vec![] }
    }

    fn step(&mut self) {
        self.inject.flush();
        while self.host.step() > 0 {}
        while let Some(punt) = self.host.control.exceptions().punts.pop() {
            let bytes = punt.packet.with_frame(|frame| frame.to_vec());
            self.punted.push(format!("{:?} {:?} {bytes:?}", punt.kind, punt.origin));
        }
        self.delivered.extend(self.host.receive().into_iter().map(|(frame, _)| frame));
        self.answered.extend(received(&mut self.observe).into_iter().map(|(frame, _)| frame));
    }

    /// What became of all, whatever the order among different ends.
    fn ends(&mut self) -> Ends {
        self.answered.sort();
        let drops = self.host.drops(UPLINK).into_iter().collect();
        (self.delivered.clone(), self.answered.clone(), self.punted.clone(), drops)
    }
}

fn arp(operation: u8, target: [u8; 4]) -> Vec<u8> {
    let mut frame = [[0xff; 6], guest_mac(2).0].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(guest_mac(2).0);
    frame.extend(address(2, false).octets());
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}

fn solicitation() -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 2, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255];
    frame.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    frame.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    frame.extend([135, 0, 0, 0, 0, 0, 0, 0]);
    frame.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let headers = packet::parse(&frame, frame.len() as u32).unwrap();
    let sum = pseudo_header(&frame, &headers).unwrap().plus(Sum::of(&frame[54..])).finish();
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn inner(random: &mut Random) -> Vec<u8> {
    let payload = random.below(140);
    let tcp = [0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0];
    let macs = [guest_mac(2), guest_mac(1)];
    let addresses = [address(2, false), address(1, false)];
    match random.below(16) {
        0 => arp(1 + random.below(6) as u8 / 5, [10, 0, 0, [10, 10, 10, 1, 77][random.below(5)]]),
        1 => solicitation(),
        2 => ipv4(macs, addresses, 64, 6, &tcp),
        3 => udp([guest_mac(3), guest_mac(1)], [STATION.into(), addresses[1]], payload),
        4 => udp([guest_mac(3), gateway_mac(0)], [STATION.into(), addresses[1]], payload),
        5 => udp([guest_mac(3), MOVED], [STATION.into(), addresses[1]], payload),
        6 => udp([guest_mac(2), MacAddr::BROADCAST], addresses, payload),
        _ => udp(macs, addresses, payload),
    }
}

/// A frame of the underlay: mostly as it should be, else with a few bytes of its headers changed, cut off, or longer.
fn frame(random: &mut Random, v6: bool) -> Vec<u8> {
    let inner = inner(random);
    let mut frame = from_other(v6, &inner, &[]);
    let outer = if v6 { 70 } else { 50 };
    // Mostly where it lives.
    if (inner.get(11) == Some(&3)) != random.chance(10) {
        frame[if v6 { 37 } else { 29 }] = 3;
    }
    if random.chance(2) {
        return frame;
    }
    // The bytes that decide most, and any.
    const TELLING: [usize; 15] = [0, 3, 6, 9, 11, 12, 13, 14, 15, 16, 17, 20, 21, 23, 29];
    for _ in 0..1 + random.below(3) {
        let any = random.below(frame.len().min(outer + 100));
        let at = match random.below(3) {
            0 => any,
            1 => TELLING[random.below(TELLING.len())],
            _ => outer + TELLING[random.below(TELLING.len())],
        };
        let value = [0, 1, 2, 3, 4, 6, 8, 17, 58, 0x45, 0x46, 0xff][random.below(12)];
        if let Some(byte) = frame.get_mut(at) {
            *byte = if random.chance(2) { value } else { *byte ^ 1 << random.below(8) };
        }
    }
    match random.below(12) {
        0 => frame.truncate(1 + random.below(frame.len())),
        1 => frame.extend(vec![7; 1 + random.below(60)]),
        _ => {}
    }
    frame
}

#[test]
fn a_burst_ends_as_its_packets_do_alone() {
    for v6 in [false, true] {
        let mut kinds = [0; 3];
        for round in 1..=ROUNDS {
            let mut random = Random(round);
            let mut count = 0;
            let (mut together, mut one_by_one) = (Bench::new(v6), Bench::new(v6));
            for _ in 0..8 {
                let mut frames: Vec<_> = (0..1 + random.below(32)).map(|_| frame(&mut random, v6)).collect();
                // Flows are of several packets.
                for at in 1..frames.len() {
                    if random.chance(3) {
                        frames[at] = frames[at - 1].clone();
                    }
                }
                for frame in &frames {
                    // Some devices vouch for checksums.
                    let checksum = if random.chance(4) { Checksum::Valid } else { Checksum::Unverified };
                    let frame = [Frame::from_head(frame, Offload { checksum, ..Offload::NONE })];
                    assert_eq!(
                        (together.inject.send(&frame).sent, one_by_one.inject.send(&frame).sent),
                        (1, 1)
                    );
                    one_by_one.step();
                }
                together.step();
                count += frames.len();
            }
            let (ends, alone) = (together.ends(), one_by_one.ends());
            assert_eq!(ends, alone, "round {round}, v6 {v6}");
            let (delivered, answered, punted, drops) = ends;
            for (sum, value) in kinds.iter_mut().zip([delivered.len(), answered.len(), punted.len()]) {
                *sum += value;
            }
            let dropped = drops.values().sum::<u64>() as usize;
            let ended = delivered.len() + answered.len() + punted.len() + dropped;
            assert_eq!(ended, count, "round {round}, v6 {v6}: {drops:?}");
            assert_eq!(together.host.control.counters(UPLINK).unwrap().punted as usize, punted.len());
        }
        assert!(kinds.iter().all(|kind| *kind > 50), "each kind of end is met: {kinds:?}");
    }
}

/// Of 8 bursts each.
const ROUNDS: u64 = 40;
