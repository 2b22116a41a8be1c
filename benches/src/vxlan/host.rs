//! Three hosts in this process, each with one worker: one forwards between two guests, one from its guest into a tunnel, one out of it.
//!
//! The wire is a guest like any other, on the uplink's port: what its ring costs is what a port's costs, so that the difference is the tunnel's.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use buf::Burst;
use clap::ValueEnum;
use engine::{Armed, PortIndex, QueueFault, RxQueue, RxReport, Unobserved};
use guest_mem::GuestMemory;
use packet::{MacAddr, vxlan};
use ports::vhost::{NetFeatures, VhostRx, VhostTx};
use switch::{Control, TimeStampClock, UPLINK, UplinkPlan, Vtep, Worker};
use tables::{Location, OwnAddress, PortProfile, Subnet, Vpc, vpc_space};
use virtqueue::{DeviceRing, Headers, Notifier, Ring};

use crate::{
    attach::AttachConfig,
    frame::{Endpoint, Sizes},
    in_process::{
        self, InProcessError, LocalGuest, MinimalGuest, NobodyWaits, SUBNET, device, feature_bits,
        local_guest, switch,
    },
};

/// Which way packets go through a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// From guest to guest.
    Plain,
    /// From a guest to the uplink, in a tunnel.
    Out,
    /// From the uplink to a guest, out of a tunnel.
    In,
}

impl Way {
    /// All of them; the first is what the others are compared with.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Out, Self::In];
}

/// Address family of the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Family {
    /// IPv4: no outer UDP checksum.
    V4,
    /// IPv6: with one.
    V6,
}

/// What the tunnels are made of.
#[derive(Debug, Clone)]
pub struct TunnelConfig {
    /// Rings.
    pub attach: AttachConfig,
    /// Frames of the guests.
    pub sizes: Sizes,
    /// Different 5-tuples, at most as many as there are transmit buffers.
    pub flows: u32,
    /// Of both tunnel end points.
    pub underlay: Family,
}

const VPC: u16 = 1;
const VNI: u32 = 0x00ab_cdef;
const OTHER_HOST: u16 = 1;
const NEIGHBOUR: u16 = 1;
const PORT: PortIndex = PortIndex(0);
const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 7, 1]);
/// Of the underlay: room for the longest frame in its tunnel.
const UNDERLAY_MTU: u16 = 9216;
const UNDERLAY: [MacAddr; 2] = [MacAddr([2, 0, 0, 0, 9, 1]), MacAddr([2, 0, 0, 0, 9, 2])];
/// The sender's, in the tunnel's group policy field.
const IDENTITY: u16 = 7;

/// A worker, who sends to it and who gets what it sends.
pub struct Case {
    _control: Control,
    worker: Worker,
    sender: MinimalGuest,
    receiver: MinimalGuest,
}

impl Case {
    /// The host of one way.
    ///
    /// # Errors
    ///
    /// [`InProcessError`].
    pub fn new(way: Way, config: &TunnelConfig) -> Result<Self, InProcessError> {
        let before = match config.underlay {
            Family::V4 => vxlan::OUTER_LENGTH_V4,
            Family::V6 => vxlan::OUTER_LENGTH_V6,
        };
        let attach = AttachConfig { longest: config.sizes.longest() + before as u32, ..config.attach };
        let (control, worker, [guest, wire]) = match way {
            Way::Plain => {
                let host = in_process::host(&attach)?;
                let guests = host.guests.try_into().map_err(|_| broken("two guests"))?;
                (host.control, host.worker, guests)
            }
            Way::Out | Way::In => tunnel_host(&attach, config.underlay)?,
        };
        let guest = MinimalGuest::new(guest, 0, &config.sizes, config.flows);
        let wire = MinimalGuest::new(wire, 1, &config.sizes, config.flows);
        let (sender, receiver) = match way {
            Way::Plain | Way::Out => (guest, wire),
            Way::In => (wire.with_outer(outer(config).ok_or_else(|| broken("outer headers"))?), guest),
        };
        let mut case = Self { _control: control, worker, sender, receiver };
        // What control threads left for the worker.
        case.step();
        Ok(case)
    }

    fn step(&mut self) -> usize {
        // Nothing here looks at the time.
        self.worker.step(0, &mut TimeStampClock, &mut Unobserved).packets as usize
    }

    /// Sends a burst and sees it through; returns the worker's time stamp cycles.
    ///
    /// # Errors
    ///
    /// [`InProcessError::Broken`] when not all of it arrives.
    pub fn burst(&mut self, count: usize) -> Result<u64, InProcessError> {
        if self.sender.send(count)? != count {
            return Err(broken("room in the ring"));
        }
        let cycles = steps(self, count);
        match self.receiver.receive()? {
            received if received == count => Ok(cycles),
            received => {
                Err(InProcessError::Broken(format!("{received} of {count} packets came through the worker")))
            }
        }
    }
}

/// What is measured: by the time stamp counter, or by callgrind, which knows it by its name.
#[inline(never)]
fn steps(case: &mut Case, count: usize) -> u64 {
    let start = cpu::time_stamp();
    let mut moved = 0;
    while moved < count {
        moved += case.step();
    }
    cpu::time_stamp() - start
}

fn broken(what: &str) -> InProcessError {
    InProcessError::Broken(format!("{what}: wanted and not there"))
}

fn underlay(family: Family, host: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, host + 1)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(host) + 1)),
    }
}

/// The outer headers of what the other host sends.
fn outer(config: &TunnelConfig) -> Option<Vec<u8>> {
    let outer =
        vxlan::Outer::new(UNDERLAY[1], underlay(config.underlay, 1), underlay(config.underlay, 0), 64)?;
    let mut bytes = Vec::new();
    let per = vxlan::PerPacket {
        destination_mac: UNDERLAY[0],
        vni: VNI,
        policy: IDENTITY,
        source_port: 50_000,
        traffic_class: 0,
        inner_length: config.sizes.longest() as usize,
    };
    outer.append(&mut bytes, &per);
    Some(bytes)
}

/// A host with one port and an uplink; the guest on the one, the wire on the other.
fn tunnel_host(
    config: &AttachConfig,
    family: Family,
) -> Result<(Control, Worker, [LocalGuest; 2]), InProcessError> {
    let (mut control, worker) = switch()?;
    let addresses = vec![OwnAddress { address: underlay(family, 0), answered: true }];
    control.set_uplink(&UplinkPlan { mac: UNDERLAY[0], mtu: UNDERLAY_MTU, addresses, gateways: Vec::new() });
    control.set_vpc(
        VPC,
        Vpc { vni: VNI, mtu: 9000, directory: vec![], peers: vec![], clamp_mss: false, is_directory: false },
        true,
    );
    let subnet = Subnet {
        vpc: VPC,
        gateway_mac: GATEWAY,
        prefixes: Vec::new(),
        gateways: Vec::new(),
        routes: None,
        multicast: false,
    };
    control.set_subnet(SUBNET, Some(subnet));
    let (address, sources) = (underlay(family, 1), vec![underlay(family, 1)]);
    control.set_vtep(OTHER_HOST, Vtep { address, sources, is_host: true, neighbour: NEIGHBOUR });
    control.neighbours().set(NEIGHBOUR, Some(UNDERLAY[1]));
    for (index, location) in [Location::Local(PORT.0), Location::Remote(OTHER_HOST)].into_iter().enumerate() {
        let Endpoint { mac, ip } = Endpoint::numbered(index as u8);
        let (mac, ip) = (MacAddr(mac), IpAddr::V4(ip));
        if index == 0 {
            let profile = PortProfile::new(SUBNET, mac, 9000, &[ip], &[]);
            control.add_port(PORT, profile.in_vpc(VPC, GATEWAY, IDENTITY));
            control.place_mac(vpc_space(VPC), mac, location);
        }
        control.place_mac(SUBNET, mac, location);
        control.place_endpoint(VPC, ip, tables::Endpoint { mac, subnet: SUBNET, location });
    }
    control.publish();
    let guest = attach(&mut control, PORT, config)?;
    let wire = attach(&mut control, UPLINK, config)?;
    Ok((control, worker, [guest, wire]))
}

/// Makes the guest on a port, or the wire on the uplink.
pub(crate) fn attach(
    control: &mut Control,
    port: PortIndex,
    config: &AttachConfig,
) -> Result<LocalGuest, InProcessError> {
    let bits = feature_bits(config);
    let net = NetFeatures::from_bits(bits);
    let notifier: Arc<dyn Notifier> = Arc::new(NobodyWaits);
    let (guest, memory) = local_guest(config, bits)?;
    let sends = device(guest.tx.queue_ref(), &guest.memory, bits, &memory)?;
    let receives = device(guest.rx.queue_ref(), &guest.memory, bits, &memory)?;
    let rx: Box<dyn RxQueue> = if port == UPLINK {
        Box::new(WireRx { ring: sends, memory })
    } else {
        Box::new(VhostRx::new(sends, net, Arc::clone(&notifier)))
    };
    control.attach_rx(port, 0, rx);
    control.attach_tx(port, 0, Box::new(VhostTx::new(receives, net, notifier)));
    Ok(guest)
}

/// The wire's transmit ring as an uplink's receive queue: [`VhostRx`] but for the longer heads.
struct WireRx {
    ring: Ring,
    /// The ring's memory once more, so that a burst borrows it and not the ring.
    memory: Arc<GuestMemory>,
}

impl RxQueue for WireRx {
    #[inline]
    fn poll<'q>(&'q mut self, burst: &mut Burst<'q>) -> RxReport {
        let mut headers = Headers::if_read(false);
        let taken = self.ring.take(&self.memory, burst, &mut headers);
        burst.load_long_heads();
        let fault = taken.err().map(|_| QueueFault::RingCorrupt);
        RxReport { fault, more: burst.is_full(), ..RxReport::default() }
    }

    #[inline]
    fn complete(&mut self) {
        self.ring.return_taken();
    }

    fn arm(&mut self) -> Armed {
        if self.ring.arm() { Armed::Ready } else { Armed::Quiet }
    }

    fn disarm(&mut self) {
        self.ring.suppress_kicks();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_driver::RingLayout;

    #[test]
    fn packets_go_every_way_over_both_layouts() {
        for way in Way::ALL {
            for layout in [RingLayout::Split, RingLayout::Packed] {
                for size in ["64", "1518"] {
                    let sizes: Sizes = size.parse().unwrap();
                    let attach = AttachConfig {
                        layout,
                        ring_size: 64,
                        longest: sizes.longest(),
                        offloads: false,
                        huge_pages: false,
                    };
                    for underlay in [Family::V4, Family::V6] {
                        let sizes = sizes.clone();
                        let config = TunnelConfig { attach, sizes, flows: 8, underlay };
                        let mut case = Case::new(way, &config).unwrap();
                        for count in [32, 7, 32, 1] {
                            assert!(case.burst(count).unwrap() > 0, "{way:?} {layout:?} {size} {underlay:?}");
                        }
                    }
                }
            }
        }
    }
}
