//! What should become of a frame, by the network's description.

use crate::check::ledger::Expect;
use crate::net::read::{Neighbour, macs, neighbour};
use crate::network::Network;
use engine::DropReason;
use std::net::IpAddr;

/// What should become of a well-formed frame that `guest` sends as itself.
#[must_use]
pub fn judge(network: &Network, guest: usize, frame: &[u8]) -> Expect {
    let port = &network.ports[guest];
    let Some((destination, _)) = macs(frame) else { return Expect::Any };
    if !port.present {
        return Expect::Any;
    }
    if !port.up {
        return Expect::Drop(DropReason::PortDown);
    }
    let unicast = destination[0] & 1 == 0;
    let foreign =
        |(source, _): (IpAddr, IpAddr)| !source.is_unspecified() && !port.may_send(port.station.mac, source);
    if crate::net::read::addresses(frame).is_some_and(foreign) {
        // `smoltcp` answers as whom it was spoken to, and a hostile neighbour may speak to anybody.
        return Expect::Any;
    }
    match neighbour(frame) {
        Some(Neighbour::Asks(address)) if crate::net::read::sender(frame) == Some(address) => {
            Expect::Drop(DropReason::NeighbourConsumed)
        }
        Some(Neighbour::Asks(address)) => match network.by_address(port.subnet, address) {
            Some(owner) if owner == guest => Expect::Drop(DropReason::NeighbourConsumed),
            Some(_) => Expect::Answer,
            None => Expect::Drop(DropReason::UnknownNeighbour),
        },
        Some(Neighbour::Says(..)) => Expect::Drop(DropReason::NeighbourConsumed),
        None if !unicast => Expect::Any,
        None => match network.by_mac(port.subnet, destination) {
            Some(to) if to == guest => Expect::Drop(DropReason::Hairpin),
            Some(to) => Expect::To(to),
            None => Expect::Drop(DropReason::UnknownUnicast),
        },
    }
}
