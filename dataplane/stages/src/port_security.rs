//! Lets a port send only as itself: its MAC address, its IP addresses, and those it was allowed besides.
//!
//! A stage of its own, before anything looks at a destination, because whatever follows takes the sender's word for who it is.
//! It also marks the packets that [`neighbours`](crate::neighbours) must look at, so that stage costs nothing for all others.
//!
//! Drops: [`DropReason::SpoofedMac`], [`DropReason::SpoofedAddress`], [`DropReason::BogusSource`], [`DropReason::VlanTagged`],
//! [`DropReason::EtherTypeRefused`], [`DropReason::RogueService`], [`DropReason::PortDown`].

use engine::{Batch, DropReason, PortCounters};
use packet::{Headers, L3, L4, MacAddr, ethernet, ipv4, ipv6, vrrp};
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use tables::PortProfile;

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
        // The source port keeps those that might be a DHCP server's for the long way.
        let plain = headers.l3 == L3::Ipv4 && headers.source_port != 67 && headers.protocol != vrrp::PROTOCOL;
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
    if headers.l4 == L4::Udp && is_dhcp_server(headers) {
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
            // The unspecified address asks whether an address is free (RFC 4862) or reports multicast groups (RFC 3810).
            check_other(IpAddr::V6(view.source()), source, profile, headers.l4 == L4::Icmpv6)
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

#[inline(always)]
fn is_dhcp_server(headers: &Headers) -> bool {
    let ports = (headers.source_port, headers.destination_port);
    match headers.l3 {
        L3::Ipv4 => ports == (67, 68),
        L3::Ipv6 => ports == (547, 546),
        _ => false,
    }
}

fn is_dhcp_client(headers: &Headers) -> bool {
    headers.l4 == L4::Udp && headers.source_port == 68 && headers.destination_port == 67
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
    fn the_offending_mac_is_remembered() {
        let frame = with_bytes(udp4(), 6, &[2, 0, 0, 0, 9, 9]);
        Traffic::of([frame]).run(|batch, counters| {
            crate::parse::run(batch);
            run(batch, &profile(), counters);
            assert_eq!(counters.last_spoofed_mac.load(Relaxed), 0x0200_0000_0909);
        });
    }
}
