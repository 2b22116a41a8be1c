//! Nobody gets what is not for it.

use super::ledger::Sent;
use super::{Checked, Violation};
use crate::net::read::{addresses, macs};
use crate::net::{Mac, mac_number};
use crate::network::{Network, PortView};
use std::net::IpAddr;

fn found(what: String) -> Checked {
    Err(Violation::new("isolation", what))
}

/// Checks a frame that guest `to` got against every state its sender's and its own port had since it was sent.
///
/// # Errors
///
/// In no such state was the frame for that guest, from that sender.
pub fn check(network: &Network, sent: &Sent, to: usize, bytes: &[u8]) -> Checked {
    let Some((destination, source)) = macs(bytes) else { return found(format!("guest {to} got a runt")) };
    let senders: Vec<&PortView> = network.since(sent.guest, sent.epoch).collect();
    let receivers: Vec<&PortView> = network.since(to, sent.epoch).collect();
    let together = senders.iter().any(|sender| {
        receivers
            .iter()
            .any(|receiver| sender.subnet == receiver.subnet && receiver.station.mac == destination)
    });
    if !together {
        return found(format!(
            "guest {to} of {:?} got a frame to {:x} from guest {} of {:?}",
            network.ports[to].subnet,
            mac_number(destination),
            sent.guest,
            network.ports[sent.guest].subnet
        ));
    }
    let origin = addresses(bytes).map(|(source, _)| source);
    let honest = senders.iter().any(|sender| match origin {
        Some(address) => {
            sender.may_send(source, address) || (address.is_unspecified() && source == sender.station.mac)
        }
        None => source == sender.station.mac,
    });
    if !honest {
        return found(format!(
            "guest {to} got a frame of guest {} from {:x} {origin:?}",
            sent.guest,
            mac_number(source)
        ));
    }
    Ok(())
}

/// Checks that `address` is at `mac` in the subnet of guest `to`, in some state since `epoch`.
///
/// # Errors
///
/// It never was.
pub fn check_answer(network: &Network, to: usize, epoch: u64, address: IpAddr, mac: Mac) -> Checked {
    let subnets: Vec<_> = network.since(to, epoch).map(|port| port.subnet).collect();
    let holds = |port: &PortView| {
        subnets.contains(&port.subnet) && port.station.mac == mac && (port.owns(address) || port.vip)
    };
    let right = (0..network.ports.len()).any(|guest| network.since(guest, epoch).any(holds));
    if right {
        Ok(())
    } else {
        found(format!("guest {to} is told that {address} is at {:x}", mac_number(mac)))
    }
}
