//! Chooses the port each packet goes to, by destination MAC address within the sender's subnet.
//!
//! A stage of its own because it is the only one that looks at other ports: all keys of the burst are looked up together, so
//! that their cache misses overlap. The switch knows every port's address; nothing is learned and nothing is flooded.
//!
//! Drops: [`DropReason::Multicast`], [`DropReason::UnknownUnicast`], [`DropReason::Hairpin`].

use buf::BURST_PACKETS;
use engine::{Batch, DropReason, Indices, Output, PortIndex};
use packet::MacAddr;
use tables::{MacReader, MacTable};

/// Runs the stage for packets sent by `ingress` in `subnet`.
#[inline]
pub fn run(batch: &mut Batch<'_, '_>, macs: &MacReader, subnet: u16, ingress: PortIndex) {
    // Packets of a burst often go to one place: a key equal to the one before is looked up once.
    let mut keys = [0u64; BURST_PACKETS];
    let mut found = [MacTable::ABSENT; BURST_PACKETS];
    let mut places = [0u8; BURST_PACKETS];
    let (mut count, mut last) = (0usize, 0u64);
    let mut looked_up = 0u32;
    for index in batch.indices() {
        if batch.metadata[index].output != Output::Undecided {
            continue;
        }
        let Some(packet) = batch.burst.packet(index) else { continue };
        let Some(destination) = packet.head().first_chunk::<8>() else { continue };
        let destination = MacAddr::from_u64(u64::from_be_bytes(*destination) >> 16);
        if destination.is_multicast() {
            batch.drop(index, DropReason::Multicast);
            continue;
        }
        let key = MacTable::key(subnet, destination);
        if count == 0 || key != last {
            keys[count & 31] = key;
            last = key;
            count += 1;
        }
        places[index] = count as u8 - 1;
        looked_up |= 1u32.wrapping_shl(index as u32);
    }
    macs.lookup_batch(&keys[..count.min(BURST_PACKETS)], &mut found[..count.min(BURST_PACKETS)]);
    for index in Indices(looked_up) {
        let port = found[usize::from(places[index]) & 31];
        if port == MacTable::ABSENT {
            batch.drop(index, DropReason::UnknownUnicast);
        } else if port == u32::from(ingress.0) {
            batch.drop(index, DropReason::Hairpin);
        } else {
            batch.metadata[index].output = Output::Port(PortIndex(port as u16));
        }
    }
}
