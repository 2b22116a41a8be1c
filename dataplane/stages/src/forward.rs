//! Chooses the port each packet goes to, by destination MAC address within the sender's subnet.
//!
//! A stage of its own because it is the only one that looks at other ports: all keys of the burst are looked up together, so
//! that their cache misses overlap. The switch knows every port's address; nothing is learned and nothing is flooded.
//!
//! Drops: [`DropReason::Multicast`], [`DropReason::UnknownUnicast`], [`DropReason::Hairpin`].

use buf::BURST_PACKETS;
use engine::{Batch, DropReason, Output, PortIndex};
use packet::ethernet;
use tables::{MacReader, MacTable};

/// Runs the stage for packets sent by `ingress` in `subnet`.
#[inline]
pub fn run(batch: &mut Batch<'_, '_>, macs: &MacReader, subnet: u16, ingress: PortIndex) {
    let mut keys = [0u64; BURST_PACKETS];
    let mut found = [MacTable::ABSENT; BURST_PACKETS];
    let mut order = [0u8; BURST_PACKETS];
    let mut count = 0;
    for index in batch.indices() {
        if batch.metadata[index].output != Output::Undecided {
            continue;
        }
        let Some(destination) =
            batch.burst.packet(index).and_then(|packet| ethernet::View::new(packet.head()))
        else {
            continue;
        };
        let destination = destination.destination();
        if destination.is_multicast() {
            batch.drop(index, DropReason::Multicast);
            continue;
        }
        keys[count & 31] = MacTable::key(subnet, destination);
        order[count & 31] = index as u8;
        count += 1;
    }
    macs.lookup_batch(&keys[..count], &mut found[..count]);
    for (index, port) in order.iter().zip(found).take(count) {
        let index = usize::from(*index & 31);
        if port == MacTable::ABSENT {
            batch.drop(index, DropReason::UnknownUnicast);
        } else if port == u32::from(ingress.0) {
            batch.drop(index, DropReason::Hairpin);
        } else {
            batch.metadata[index].output = Output::Port(PortIndex(port as u16));
        }
    }
}
