//! Chooses the port each packet goes to, by destination MAC address within the sender's subnet.
//!
//! A stage of its own because it is the only one that looks at other ports: all keys of the burst are looked up together, so
//! that their cache misses overlap. The switch knows every port's address; nothing is learned and nothing is flooded.
//!
//! What is for the gateway or for a group is only marked: [`route`](crate::route) and [`broadcast`](crate::broadcast) have the next word.
//!
//! Drops: [`DropReason::UnknownUnicast`], [`DropReason::Hairpin`].

use buf::BURST_PACKETS;
use engine::{Batch, DropReason, Indices, Output, PortIndex};
use packet::MacAddr;
use tables::{Location, MacReader, MacTable, PortProfile};

/// Packets that follow each other (among those looked at) to one destination.
#[derive(Default)]
struct Runs {
    keys: [u64; BURST_PACKETS],
    /// As a bit per packet.
    packets: [u32; BURST_PACKETS],
    count: usize,
}

/// Runs the stage for packets sent by `ingress`, whose profile this is.
#[inline]
pub fn run(batch: &mut Batch<'_, '_>, macs: &MacReader, profile: &PortProfile, ingress: PortIndex) {
    let mut runs = Runs::default();
    collect(batch, profile, &mut runs);
    let count = runs.count.min(BURST_PACKETS);
    let mut found = [MacTable::ABSENT; BURST_PACKETS];
    match &runs.keys[..count] {
        [key] => found[0] = macs.lookup(*key).unwrap_or(MacTable::ABSENT),
        keys => drop(macs.lookup_batch(keys, &mut found[..count])),
    }
    for (found, packets) in found.into_iter().zip(runs.packets).take(count) {
        let reason = match Location::unpack(found) {
            Some(Location::Local(port)) if port == ingress.0 => DropReason::Hairpin,
            Some(Location::Local(port)) => {
                batch.route(packets, Output::Port(PortIndex(port)));
                continue;
            }
            Some(Location::Remote(vtep) | Location::Directory(vtep)) => {
                batch.route(packets, Output::Tunnel { vtep, vpc: profile.vpc });
                continue;
            }
            None => DropReason::UnknownUnicast,
        };
        Indices(packets).for_each(|index| batch.drop(index, reason));
    }
}

/// Sorts the packets by destination. Packets of a burst often go to one place: a destination equal to the one before is looked up once.
#[inline(always)]
fn collect(batch: &mut Batch<'_, '_>, profile: &PortProfile, runs: &mut Runs) {
    let undecided = batch.undecided();
    let Batch { burst, to_gateway, to_group, .. } = batch;
    let gateway = shifted(&profile.gateway_mac);
    // No destination that is looked up: its group bit is set.
    let (mut last, mut run) = (u64::MAX, 0u32);
    for (index, packet) in burst.packets().iter().enumerate() {
        let bit = 1u32 << (index & 31);
        let Some(first) = packet.head().first_chunk::<8>() else { continue };
        // The six bytes of the address, as they lie in memory.
        let destination = u64::from_le_bytes(*first) << 16;
        if undecided & bit == 0 {
            continue;
        }
        if destination == last {
            run |= bit;
            continue;
        }
        if destination & GROUP != 0 {
            *to_group |= bit;
            continue;
        }
        if destination == gateway {
            *to_gateway |= bit;
            continue;
        }
        runs.end(run);
        (last, run) = (destination, bit);
        let destination = MacAddr::from_u64(u64::from_be_bytes(*first) >> 16);
        runs.begin(MacTable::key(profile.subnet, destination));
    }
    runs.end(run);
}

/// An address as `collect` compares it.
#[inline(always)]
fn shifted(mac: &MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0]) << 16
}

/// The bit of a group address (IEEE 802), in an address shifted as above.
const GROUP: u64 = 1 << 16;

impl Runs {
    #[inline(always)]
    fn begin(&mut self, key: u64) {
        self.keys[self.count & (BURST_PACKETS - 1)] = key;
        self.count += 1;
    }

    /// Gives the run that began last its packets.
    #[inline(always)]
    fn end(&mut self, packets: u32) {
        if let Some(last) = self.count.checked_sub(1) {
            self.packets[last & (BURST_PACKETS - 1)] = packets;
        }
    }
}
