//! Lets a port send only as itself: its MAC address, its IP addresses, and those it was allowed besides.
//!
//! A stage of its own, before anything looks at a destination, because whatever follows takes the sender's word for who it is.
//! It also marks the packets that [`neighbours`](crate::neighbours) must look at, so that stage costs nothing for all others.
//!
//! Drops: [`DropReason::SpoofedMac`], [`DropReason::SpoofedAddress`], [`DropReason::BogusSource`], [`DropReason::VlanTagged`],
//! [`DropReason::EtherTypeRefused`], [`DropReason::RogueService`], [`DropReason::PortDown`].

use engine::{Batch, DropReason, PortCounters};
use packet::{Headers, L3, L4, MacAddr, ethernet, icmp, ipv4, ipv6, ndp, vrrp};
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use tables::PortProfile;

/// UDP port of DHCPv4 clients.
const DHCP4_CLIENT: u16 = 68;
/// UDP port of DHCPv6 clients.
const DHCP6_CLIENT: u16 = 546;
/// IP protocol number of IGMP (RFC 3376), and the type of its queries.
const IGMP: u8 = 2;
const IGMP_QUERY: u8 = 0x11;
/// ICMPv6 types of multicast listener discovery (RFC 3810, and RFC 2710): queries; reports and goodbyes.
const MLD_QUERY: u8 = 130;
const MLD_REPORTS: [u8; 3] = [131, 132, 143];

/// Runs the stage for packets sent by the port `profile` describes.
#[inline]
pub fn run(batch: &mut Batch<'_, '_>, profile: &PortProfile, counters: &PortCounters) {
    if !profile.up {
        batch.indices().for_each(|index| batch.drop(index, DropReason::PortDown));
        return;
    }
    let Batch { burst, metadata, verdicts, attention, .. } = batch;
    let alive = verdicts.alive();
    for (index, (packet, metadata)) in burst.packets().iter().zip(metadata.iter()).enumerate() {
        let (head, headers) = (packet.head(), &metadata.headers);
        // Those that might be a DHCP server's, and protocols that are no transport (IGMP, VRRP), go the long way.
        let plain =
            headers.l3 == L3::Ipv4 && headers.destination_port != DHCP4_CLIENT && headers.l4 != L4::Other;
        if plain && profile.is_plain_ipv4(head) || alive >> index & 1 == 0 {
            continue;
        }
        let Some(source) = ethernet::View::new(head).map(|view| view.source()) else { continue };
        let verdict = check(head, headers, source, profile);
        if headers.l3 == L3::Arp || headers.l4 == L4::Icmpv6 || headers.protocol == vrrp::PROTOCOL {
            *attention |= 1 << index;
        }
        if let Err(reason) = verdict {
            if reason == DropReason::SpoofedMac {
                counters.last_spoofed_mac.store(source.to_u64(), Relaxed);
            }
            verdicts.drop(index, reason);
        }
    }
}

/// Whether the port may send this packet.
#[inline(never)]
fn check(head: &[u8], headers: &Headers, source: MacAddr, profile: &PortProfile) -> Result<(), DropReason> {
    if headers.vlan_count != 0 {
        return Err(DropReason::VlanTagged);
    }
    if is_dhcp_server(headers) || is_group_querier(head, headers) {
        return Err(DropReason::RogueService);
    }
    let own_mac = source == profile.mac;
    if !own_mac && !profile.may_use_mac(source) {
        return Err(DropReason::SpoofedMac);
    }
    let offset = usize::from(headers.l3_offset);
    match headers.l3 {
        L3::Ipv4 => {
            let Some(view) = ipv4::View::new(head, offset) else { return Err(DropReason::Ipv4Truncated) };
            if own_mac && profile.is_first_ipv4(view.source()) {
                return Ok(());
            }
            check_other(IpAddr::V4(view.source()), source, profile, is_dhcp_client(headers))
        }
        L3::Ipv6 => {
            let Some(view) = ipv6::View::new(head, offset) else { return Err(DropReason::Ipv6Truncated) };
            if own_mac && profile.is_first_ipv6(view.source()) {
                return Ok(());
            }
            check_other(IpAddr::V6(view.source()), source, profile, may_be_unspecified(head, headers))
        }
        L3::Arp => Ok(()),
        L3::Other => Err(DropReason::EtherTypeRefused),
    }
}

/// A source that is not the port's first address. `unspecified`: whether 0.0.0.0 or :: is legal in this packet.
#[cold]
fn check_other(
    address: IpAddr,
    mac: MacAddr,
    profile: &PortProfile,
    unspecified: bool,
) -> Result<(), DropReason> {
    if address.is_unspecified() && unspecified {
        return Ok(());
    }
    let broadcast = address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    if address.is_multicast() || address.is_loopback() || address.is_unspecified() || broadcast {
        return Err(DropReason::BogusSource);
    }
    if profile.may_send_from(mac, address) { Ok(()) } else { Err(DropReason::SpoofedAddress) }
}

/// Only servers speak to a client's port; clients do not look at the port that a message comes from.
#[inline(always)]
pub(crate) fn is_dhcp_server(headers: &Headers) -> bool {
    let client = match headers.l3 {
        L3::Ipv4 => DHCP4_CLIENT,
        L3::Ipv6 => DHCP6_CLIENT,
        _ => return false,
    };
    headers.l4 == L4::Udp && headers.destination_port == client
}

/// Who asks for members of groups is a router (RFC 3376 section 4.1, RFC 3810 section 5.1), wherever the frame goes.
pub(crate) fn is_group_querier(head: &[u8], headers: &Headers) -> bool {
    match (headers.l3, headers.l4) {
        (L3::Ipv4, L4::Other) if headers.protocol == IGMP => {
            head.get(usize::from(headers.l4_offset)) == Some(&IGMP_QUERY)
        }
        (L3::Ipv6, L4::Icmpv6) => {
            icmp::type_and_code(head, headers).is_some_and(|(kind, _)| kind == MLD_QUERY)
        }
        _ => false,
    }
}

/// The unspecified address asks whether an address is free and who is the router (RFC 4861), and reports multicast groups (RFC 3810).
fn may_be_unspecified(head: &[u8], headers: &Headers) -> bool {
    let asks = [ndp::NEIGHBOR_SOLICITATION, ndp::ROUTER_SOLICITATION];
    headers.l4 == L4::Icmpv6
        && icmp::type_and_code(head, headers)
            .is_some_and(|(kind, _)| asks.contains(&kind) || MLD_REPORTS.contains(&kind))
}

fn is_dhcp_client(headers: &Headers) -> bool {
    headers.l4 == L4::Udp && headers.source_port == DHCP4_CLIENT && headers.destination_port == 67
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Traffic, ipv6_udp, profile, udp4, with_bytes};

    fn verdicts(frames: Vec<Vec<u8>>, profile: &PortProfile) -> Vec<Option<DropReason>> {
        frames
            .into_iter()
            .map(|frame| {
                let mut verdict = None;
                Traffic::of([frame]).run(|batch, counters| {
                    crate::parse::run(batch);
                    assert_eq!(batch.alive(), 1, "{:?}", batch.drops().next());
                    run(batch, profile, counters);
                    verdict = batch.drops().next().map(|(reason, _)| reason);
                    assert_eq!(batch.alive() == 0, verdict.is_some());
                });
                verdict
            })
            .collect()
    }

    #[test]
    fn t18_t20_only_its_own_addresses_pass() {
        let spoofed = vec![
            udp4(),
            with_bytes(udp4(), 6, &[2, 0, 0, 0, 9, 9]),
            with_bytes(udp4(), 26, &[10, 0, 1, 99]),
            with_bytes(udp4(), 26, &[127, 0, 0, 1]),
            with_bytes(udp4(), 26, &[224, 0, 0, 1]),
            with_bytes(udp4(), 26, &[0, 0, 0, 0]),
            with_bytes(udp4(), 26, &[255, 255, 255, 255]),
            with_bytes(udp4(), 26, &[10, 0, 8, 77]),
            with_bytes(udp4(), 26, &[10, 0, 1, 100]),
        ];
        use DropReason::{BogusSource, SpoofedAddress, SpoofedMac};
        let expected = [
            None,
            Some(SpoofedMac),
            Some(SpoofedAddress),
            Some(BogusSource),
            Some(BogusSource),
            Some(BogusSource),
            Some(BogusSource),
            None,
            None,
        ];
        assert_eq!(verdicts(spoofed, &profile()), expected);
    }

    #[test]
    fn t20_ipv6_sources_are_checked_like_ipv4() {
        let frames = vec![
            ipv6_udp("fd00:10:0:1::10".parse().unwrap()),
            ipv6_udp("fd00:10:0:1::11".parse().unwrap()),
            ipv6_udp("fe80::ff:fe00:10a".parse().unwrap()),
            ipv6_udp("fe80::1".parse().unwrap()),
            ipv6_udp("::".parse().unwrap()),
            ipv6_udp("::1".parse().unwrap()),
        ];
        use DropReason::{BogusSource, SpoofedAddress};
        let expected =
            [None, Some(SpoofedAddress), None, Some(SpoofedAddress), Some(BogusSource), Some(BogusSource)];
        assert_eq!(verdicts(frames, &profile()), expected);
    }

    #[test]
    fn a_mac_of_an_allowed_address_goes_only_with_that_address() {
        let vrrp = [0x00, 0x00, 0x5e, 0x00, 0x01, 0x05];
        let with_address = with_bytes(with_bytes(udp4(), 6, &vrrp), 26, &[10, 0, 1, 105]);
        let with_own = with_bytes(udp4(), 6, &vrrp);
        assert_eq!(
            verdicts(vec![with_address, with_own], &profile()),
            [None, Some(DropReason::SpoofedAddress)]
        );
    }

    #[test]
    fn t19_other_ethertypes_and_a_port_that_is_down_send_nothing() {
        let lldp = with_bytes(udp4(), 12, &[0x88, 0xcc]);
        assert_eq!(verdicts(vec![lldp], &profile()), [Some(DropReason::EtherTypeRefused)]);
        let mut down = profile();
        down.up = false;
        assert_eq!(verdicts(vec![udp4()], &down), [Some(DropReason::PortDown)]);
    }

    #[test]
    fn t23_a_vlan_tag_is_refused_and_priority_zero_is_not() {
        let tagged = |id: u8| [&udp4()[..12], &[0x81, 0, 0, id], &udp4()[12..]].concat();
        assert_eq!(verdicts(vec![tagged(5), tagged(0)], &profile()), [Some(DropReason::VlanTagged), None]);
    }

    #[test]
    fn t22_t25_who_plays_a_dhcp_server_or_asks_for_members_of_groups_is_a_rogue_whatever_port_it_uses() {
        let to_port = |mut frame: Vec<u8>, at: usize, source: u16, destination: u16| {
            frame[at..at + 4].copy_from_slice(&[source.to_be_bytes(), destination.to_be_bytes()].concat());
            frame
        };
        let own = "fd00:10:0:1::10".parse().unwrap();
        let with_type = |kind: u8| {
            let frame = with_bytes(with_bytes(ipv6_udp(own), 20, &[58]), 54, &[kind, 0]);
            with_bytes(frame, 56, &[0, 0])
        };
        let igmp = |kind: u8| with_bytes(with_bytes(udp4(), 23, &[2]), 34, &[kind]);
        let frames = vec![
            to_port(udp4(), 34, 67, 68),
            to_port(udp4(), 34, 1067, 68),
            to_port(ipv6_udp(own), 54, 547, 546),
            to_port(ipv6_udp(own), 54, 1547, 546),
            with_type(130),
            igmp(0x11),
            // Clients, members of groups, and a server's port that is somebody else's.
            to_port(udp4(), 34, 68, 67),
            to_port(udp4(), 34, 67, 67),
            with_type(143),
            igmp(0x16),
        ];
        let mut expected = vec![Some(DropReason::RogueService); 6];
        expected.extend([None; 4]);
        assert_eq!(verdicts(frames, &profile()), expected);
    }

    #[test]
    fn t20_the_unspecified_address_only_asks_for_addresses_and_routers_and_reports_groups() {
        let from_nobody = |kind: u8| {
            let frame = ipv6_udp(std::net::Ipv6Addr::UNSPECIFIED);
            with_bytes(with_bytes(frame, 20, &[58]), 54, &[kind, 0])
        };
        for kind in [131, 132, 133, 135, 143] {
            assert_eq!(verdicts(vec![from_nobody(kind)], &profile()), [None], "{kind}");
        }
        for kind in [1, 128, 129, 134, 136, 137] {
            let refused = [Some(DropReason::BogusSource)];
            assert_eq!(verdicts(vec![from_nobody(kind)], &profile()), refused, "{kind}");
        }
    }

    #[test]
    fn the_offending_mac_is_remembered() {
        let frame = with_bytes(udp4(), 6, &[2, 0, 0, 0, 9, 9]);
        Traffic::of([frame]).run(|batch, counters| {
            crate::parse::run(batch);
            run(batch, &profile(), counters);
            assert_eq!(counters.last_spoofed_mac.load(Relaxed), 0x0200_0000_0909);
        });
    }
}
