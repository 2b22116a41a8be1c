//! Sessions as their callers see them.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod basics;
mod hostile;
mod model;
mod pass;
mod tcp;

use std::net::Ipv4Addr;
use std::sync::Arc;

use packet::MacAddr;
use packet::tcp::Segment;
use towpath_tables::sessions::*;

pub(crate) const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(crate) const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub(crate) const MAC_A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub(crate) const MAC_B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
pub(crate) const EPOCH: u32 = 7;

pub(crate) fn options(sessions: u32) -> Options {
    Options { ipv4: sessions, ipv6: sessions, ..Options::new([1, 2]) }
}

pub(crate) fn table(sessions: u32) -> (Arc<Sessions>, SessionWorker) {
    let table = Sessions::create(&options(sessions)).unwrap();
    let worker = table.worker(0, 0).unwrap();
    (table, worker)
}

pub(crate) fn way(output: u32) -> Way {
    Way { output, rewrite: None, translate: false }
}

/// Both directions of a flow from port 1, address A, to port 2, address B.
pub(crate) fn sides<K: Key>(key: K) -> [Side<K>; 2] {
    let side = |key, mac, output, stamp| Side { key, way: Some((mac, way(output))), stamp };
    [side(key, MAC_B, 2, 10), side(key.reversed(attachment_of_port(2)), MAC_A, 1, 20)]
}

pub(crate) fn key4(protocol: u8, ports: [u16; 2]) -> Key4 {
    match AnyKey::new(attachment_of_port(1), A.into(), B.into(), protocol, ports) {
        Some(AnyKey::V4(key)) => key,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn udp(port: u16) -> Key4 {
    key4(17, [port, 53])
}

pub(crate) fn tcp(port: u16) -> Key4 {
    key4(6, [port, 80])
}

pub(crate) fn new<K: Key>(key: K, now: u32) -> New<K> {
    let [initiator, responder] = sides(key);
    New { owner: 1, initiator, responder, epoch: EPOCH, facts: packet(MAC_B, 100), rules: [3, 4], now }
}

pub(crate) fn packet(mac: MacAddr, length: u32) -> Facts {
    Facts { destination_mac: mac.to_u64(), length, tcp: None }
}

pub(crate) fn segment(mac: MacAddr, flags: u8, sequence: u32, acknowledgment: u32, payload: u32) -> Facts {
    let tcp = Segment { flags, sequence, acknowledgment, window: 1000, payload, scale: None };
    Facts { tcp: Some(tcp), ..packet(mac, 40 + payload) }
}

pub(crate) fn made(created: Result<Created, Refused>) -> SessionRef {
    match created {
        Ok(Created::New(session)) => session,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn never(_: SessionRef, _: &Way) -> u32 {
    panic!("the epoch is the same")
}
