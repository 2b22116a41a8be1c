//! Frames, a port and a batch for the tests of the stages.

use buf::{BURST_PACKETS, Burst, Extent, Offload};
use engine::{Batch, Metadata, PortCounters};
use packet::MacAddr;
use std::net::{IpAddr, Ipv6Addr};
use tables::{AllowedAddress, PortProfile};

/// MAC address of the port under test.
pub(crate) const MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 0xa]);

/// 10.0.1.10, fd00:10:0:1::10, allowed: 10.0.1.100, 10.0.8.0/22 and, by its VRRP address, 10.0.1.105.
pub(crate) fn profile() -> PortProfile {
    let addresses: [IpAddr; 2] = ["10.0.1.10".parse().unwrap(), "fd00:10:0:1::10".parse().unwrap()];
    let allowed =
        [("10.0.1.100/32", None), ("10.0.8.0/22", None), ("10.0.1.105/32", Some([0, 0, 0x5e, 0, 1, 5]))]
            .map(|(prefix, mac)| AllowedAddress { prefix: prefix.parse().unwrap(), mac: mac.map(MacAddr) });
    PortProfile::new(1, MAC, 1500, &addresses, &allowed)
}

/// A UDP packet from the port to 10.0.1.11 at 02:00:00:00:01:0b.
pub(crate) fn udp4() -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 1, 0xb, 2, 0, 0, 0, 1, 0xa, 8, 0];
    frame.extend([0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 1, 10, 10, 0, 1, 11]);
    frame.extend([0x03, 0xe8, 0x03, 0xe9, 0, 26, 0, 0]);
    frame.resize(60, 0);
    frame
}

/// A UDP packet over IPv6 from the port's MAC address and the given source.
pub(crate) fn ipv6_udp(source: Ipv6Addr) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 1, 0xb, 2, 0, 0, 0, 1, 0xa, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64];
    frame.extend(source.octets());
    frame.extend("fd00:10:0:1::11".parse::<Ipv6Addr>().unwrap().octets());
    frame.extend([0x03, 0xe8, 0x03, 0xe9, 0, 8, 0, 1]);
    frame
}

/// `frame` with some bytes replaced.
pub(crate) fn with_bytes(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// Frames a guest sent.
pub(crate) struct Traffic(Vec<(Vec<u8>, Offload)>);

impl Traffic {
    pub(crate) fn of(frames: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self(frames.into_iter().map(|frame| (frame, Offload::NONE)).collect())
    }

    pub(crate) fn with_offloads(frames: impl IntoIterator<Item = (Vec<u8>, Offload)>) -> Self {
        Self(frames.into_iter().collect())
    }

    /// Shows them as a batch.
    pub(crate) fn run<R>(&self, look: impl FnOnce(&mut Batch<'_, '_>, &PortCounters) -> R) -> R {
        let mut burst = Burst::new();
        for (frame, offload) in &self.0 {
            burst.push_extent(Extent::from_slice(frame)).unwrap();
            assert!(burst.commit(*offload));
        }
        burst.load_heads();
        let mut metadata = [Metadata::default(); BURST_PACKETS];
        look(&mut Batch::new(&mut burst, &mut metadata, 0), &PortCounters::default())
    }
}
