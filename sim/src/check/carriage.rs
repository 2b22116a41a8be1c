//! What becomes of a frame on its way besides going somewhere: hops, MAC addresses, ECN.

use crate::net::checksum::{fold, sum};
use crate::net::read::{ethertype, hops, macs, traffic_class};
use crate::network::Network;

/// Who sent a frame, to a switch of which host.
pub struct Sender<'a> {
    /// What the operator wants.
    pub network: &'a Network,
    /// The host.
    pub host: usize,
    /// The guest, or the uplink behind the guests.
    pub guest: usize,
}

impl Sender<'_> {
    /// What is wrong with `after`, which was made of `before`: for a frame that came out of a tunnel, whose outer traffic class was `class`. The
    /// essence of both is the same.
    #[must_use]
    pub fn flaw(&self, class: Option<u8>, before: &[u8], after: &[u8]) -> Option<&'static str> {
        let ((to, from), (next, by)) = (macs(before)?, macs(after)?);
        let subnets = || self.network.gateways.iter();
        let routed = match self.network.ports.get(self.guest) {
            Some(port) => to == self.network.gateway(port.subnet).mac,
            // What is behind a tunnel end point that is no towpathd is routed where it comes out.
            None => self.network.gateways.values().any(|mac| *mac == to),
        };
        if routed {
            if !subnets().any(|(_, mac)| *mac == by) {
                return Some("it was routed and does not come from a gateway");
            }
            if subnets().any(|(_, mac)| *mac == next) {
                return Some("it was routed to a gateway");
            }
            if hops(before)?.checked_sub(1) != hops(after) || hops(after) == Some(0) {
                return Some("it was routed and its hops are not one less");
            }
        } else if (to, from) != (next, by) {
            return Some("its MAC addresses were changed, and it was not routed");
        } else if hops(before) != hops(after) {
            return Some("its hops were changed, and it was not routed");
        }
        let (was, is) = (traffic_class(before), traffic_class(after));
        let wanted = was.map(|was| was & !3 | class.map_or(was & 3, |class| merged(class & 3, was & 3)));
        if wanted != is {
            return Some("its traffic class is not what RFC 6040 says");
        }
        if is_header_right(before) && !is_header_right(after) {
            return Some("its header checksum is wrong");
        }
        None
    }
}

/// The ECN field of a packet that comes out of a tunnel (RFC 6040 section 4.2, figure 4).
fn merged(outer: u8, inner: u8) -> u8 {
    match (outer, inner) {
        (3, 1 | 2) => 3,
        (1, 2) => 1,
        (_, inner) => inner,
    }
}

/// Whether the checksum of an IPv4 header is right; nothing is wrong with others'.
fn is_header_right(frame: &[u8]) -> bool {
    let Some((0x0800, at)) = ethertype(frame) else { return true };
    let end = at + usize::from(frame.get(at).copied().unwrap_or(0) & 15) * 4;
    frame.get(at..end).is_none_or(|header| fold(sum(header)) == 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::frame::{Fill, Flow, UDP, packet};
    use crate::net::tunnel::{essence, set_class};
    use crate::network::{PortView, station};

    #[test]
    fn a_routed_packet_has_one_hop_less_and_a_bridged_one_has_all() {
        let (subnet, other) = ((0, 0), (0, 1));
        let port = |subnet, place| PortView::new(subnet, station(subnet, place), 0);
        let gateways = [(subnet, [2, 9, 0, 0, 0, 0]), (other, [2, 9, 0, 0, 0, 1])].into();
        let network =
            Network { ports: vec![port(subnet, 10), port(other, 10)], gateways, ..Network::default() };
        let sender = Sender { network: &network, host: 0, guest: 0 };
        let flow = Flow {
            from: network.ports[0].station,
            to: network.next_hop(0, 1),
            v6: false,
            protocol: UDP,
            ports: (1, 2),
        };
        let before = packet(&flow, 1, &[1; 40], Fill::Whole);
        let mut after = before.clone();
        after[..6].copy_from_slice(&network.ports[1].station.mac);
        after[6..12].copy_from_slice(&[2, 9, 0, 0, 0, 1]);
        assert_eq!(sender.flaw(None, &before, &after), Some("it was routed and its hops are not one less"));
        after[22] -= 1;
        assert_eq!(sender.flaw(None, &before, &after), Some("its header checksum is wrong"));
        set_class(&mut after, 0);
        assert_eq!(sender.flaw(None, &before, &after), None);
        assert_eq!(essence(&before), essence(&after));
        set_class(&mut after, 3);
        assert!(sender.flaw(None, &before, &after).is_some());
    }
}
