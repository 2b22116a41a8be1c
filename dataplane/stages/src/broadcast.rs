//! Sorts what is for everybody or a group: questions that the switch answers go to the control thread, the rest too if it is to be replicated.
//!
//! A stage of its own because nothing of this is forwarded by a worker: a worker floods nothing. The control thread answers DHCP and router solicitations,
//! and copies the rest to who is in the subnet, under a budget per port.
//!
//! Drops: [`DropReason::Multicast`], and those that its caller names.

use engine::{Batch, DropReason, Indices, PuntKind};
use packet::{Headers, L3, L4, MacAddr, ethernet, icmp, ndp};

/// UDP port of DHCPv4 servers.
const DHCP4_SERVER: u16 = 67;
/// UDP port of DHCPv6 servers.
const DHCP6_SERVER: u16 = 547;

/// Runs the stage. `multicast`: whether the subnet wants groups replicated. `judge` says whether the sender may send what is to be replicated; questions to the
/// switch's own services are answered under any rules.
#[inline]
pub fn run(
    batch: &mut Batch<'_, '_>,
    multicast: bool,
    mut judge: impl FnMut(&Batch<'_, '_>, usize) -> Result<(), DropReason>,
) {
    let packets = batch.to_group & batch.undecided();
    if packets == 0 {
        return;
    }
    for index in Indices(packets) {
        let headers = batch.metadata[index].headers;
        let Some(packet) = batch.burst.packet(index) else { continue };
        match kind(packet.head(), &headers, multicast) {
            Some(kind @ (PuntKind::Broadcast | PuntKind::Multicast)) => match judge(batch, index) {
                Ok(()) => batch.punt(index, kind),
                Err(reason) => batch.drop(index, reason),
            },
            Some(kind) => batch.punt(index, kind),
            None => batch.drop(index, DropReason::Multicast),
        }
    }
}

/// Why the packet goes to the control thread, if it does.
fn kind(head: &[u8], headers: &Headers, multicast: bool) -> Option<PuntKind> {
    let to_all = ethernet::View::new(head).is_some_and(|view| view.destination() == MacAddr::BROADCAST);
    match (headers.l3, headers.l4, headers.destination_port) {
        (L3::Ipv4, L4::Udp, DHCP4_SERVER) => Some(PuntKind::Dhcp4),
        (L3::Ipv6, L4::Udp, DHCP6_SERVER) => Some(PuntKind::Dhcp6),
        (L3::Ipv6, L4::Icmpv6, _) if icmp::type_and_code(head, headers)?.0 == ndp::ROUTER_SOLICITATION => {
            Some(PuntKind::RouterSolicitation)
        }
        // Reports of group membership are for a router that forwards groups; there is none.
        (L3::Ipv6, L4::Icmpv6, _) | (L3::Arp | L3::Other, ..) => None,
        (L3::Ipv4, _, _) if headers.protocol == IGMP => None,
        _ if to_all => Some(PuntKind::Broadcast),
        _ => multicast.then_some(PuntKind::Multicast),
    }
}

/// IP protocol number of IGMP (RFC 3376).
const IGMP: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Traffic, udp4, with_bytes};

    fn kind_of(frame: Vec<u8>, multicast: bool) -> Option<PuntKind> {
        let mut found = None;
        Traffic::of([frame]).run(|batch, _| {
            crate::parse::run(batch);
            batch.to_group = 1;
            run(batch, multicast, |_, _| Ok(()));
            found = batch.punts().first().map(|(_, kind)| *kind);
            assert_eq!(found.is_none(), batch.drops().any(|(reason, _)| reason == DropReason::Multicast));
        });
        found
    }

    #[test]
    fn t07_what_the_switch_answers_is_told_from_the_rest() {
        let to_all = with_bytes(udp4(), 0, &[0xff; 6]);
        let to_group = with_bytes(udp4(), 0, &[1, 0, 0x5e, 0, 0, 0xfb]);
        assert_eq!(kind_of(with_bytes(to_all.clone(), 34, &[0, 68, 0, 67]), false), Some(PuntKind::Dhcp4));
        assert_eq!(kind_of(to_all.clone(), false), Some(PuntKind::Broadcast));
        assert_eq!(kind_of(to_group.clone(), false), None);
        assert_eq!(kind_of(to_group.clone(), true), Some(PuntKind::Multicast));
        assert_eq!(kind_of(with_bytes(to_group, 23, &[2]), true), None);
        assert_eq!(kind_of(with_bytes(to_all, 12, &[0x88, 0xcc]), true), None);
    }
}
