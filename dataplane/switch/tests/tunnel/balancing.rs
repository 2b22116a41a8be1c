//! A shared address whose target is on another host.

use crate::hosts::*;
use buf::{Checksum, Offload};
use packet::checksum::{Sum, pseudo_header};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use tables::balancers::{Affinity, BalancerPlan, Listener, Target};
use tables::{Endpoint, Location, PortProfile};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 99);

fn balanced(routed: bool, v6: bool) -> [Host; 2] {
    let mut hosts = pair(routed, v6, NONE, true);
    let target = Target { address: IpAddr::V4(address(2, routed)), weight: 1, up: true };
    let plan = BalancerPlan {
        listeners: vec![Listener { protocol: 17, port: 1001, target_port: 8080 }],
        targets: vec![target],
        ..BalancerPlan::default()
    };
    for host in &mut hosts {
        host.control.set_balancer(VPC, VIP.into(), Some(plan.clone()));
    }
    hosts
}

/// With these ports, and its transport checksum: whole, or the part of it that covers the pseudo header.
fn sealed(mut frame: Vec<u8>, ports: [u16; 2], partial: bool) -> Vec<u8> {
    frame[34..38].copy_from_slice(&ports.map(u16::to_be_bytes).concat());
    frame[40..42].fill(0);
    let headers = packet::parse(&frame[..frame.len().min(128)], frame.len() as u32).unwrap();
    let pseudo = pseudo_header(&frame, &headers).unwrap();
    let sum = if partial { pseudo.folded() } else { pseudo.plus(Sum::of(&frame[34..])).finish() };
    frame[40..42].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn connections_go_to_the_other_host_and_answers_come_straight_back() {
    for (routed, v6) in [(false, false), (true, false), (true, true)] {
        let mut hosts = balanced(routed, v6);
        let (client, target) = (address(1, routed), address(2, routed));
        let subnet = |host: u8| if routed { u16::from(host) } else { 0 };
        for round in 0..3 {
            // Odd rounds leave the checksum to the switch.
            let partial = round % 2 == 1;
            let macs = [guest_mac(1), gateway_mac(subnet(1))];
            let asked = sealed(udp(macs, [client, VIP], 100), [1000, 1001], partial);
            let checksum = Checksum::Partial { start: 34, offset: 6 };
            let offload = if partial { Offload { checksum, ..Offload::NONE } } else { Offload::NONE };
            hosts[0].send(&asked, offload);
            run(&mut hosts);
            let (got, _) = hosts[1].receive().remove(0);
            let macs = [gateway_mac(subnet(2)), guest_mac(2)];
            let expected = sealed(udp(macs, [client, target], 100), [1000, 8080], false);
            assert_eq!((&got[..14], &got[26..]), (&expected[..14], &expected[26..]), "{round}");
            let macs = [guest_mac(2), if routed { gateway_mac(2) } else { guest_mac(1) }];
            hosts[1].send(&sealed(udp(macs, [target, client], 100), [8080, 1000], false), Offload::NONE);
            run(&mut hosts);
            let (got, _) = hosts[0].receive().remove(0);
            let macs = [if routed { gateway_mac(1) } else { guest_mac(2) }, guest_mac(1)];
            let expected = sealed(udp(macs, [VIP, client], 100), [1001, 1000], false);
            assert_eq!((&got[..14], &got[26..]), (&expected[..14], &expected[26..]), "{round}");
        }
    }
}

#[test]
fn who_sends_more_than_fits_the_tunnel_is_told_about_what_it_sent() {
    let mut hosts = balanced(false, false);
    for payload in [100, 1403, 1403] {
        let asked = udp([guest_mac(1), gateway_mac(0)], [address(1, false), VIP], payload);
        let asked = sealed(asked, [1000, 1001], false);
        hosts[0].send(&asked, Offload::NONE);
        run(&mut hosts);
        if payload == 100 {
            assert_eq!(hosts[1].receive().len(), 1);
            continue;
        }
        let (told, _) = hosts[0].receive().remove(0);
        assert_eq!((told[34], told[35]), (3, 4), "too big");
        assert_eq!(told[42..68], asked[14..40], "and what was");
        assert!(hosts[1].receive().is_empty());
    }
}

/// Two hosts with a client of this address behind the guest of host `on`; the guests of both are targets.
fn with_client(client: Ipv4Addr, on: u8, affinity: Affinity) -> [Host; 2] {
    let mut hosts = pair(false, false, NONE, true);
    let target = |host: u8| Target { address: address(host, false).into(), weight: 1, up: true };
    let plan = BalancerPlan {
        listeners: vec![Listener { protocol: 17, port: 1001, target_port: 8080 }],
        targets: vec![target(1), target(2)],
        affinity,
        ..BalancerPlan::default()
    };
    for (number, host) in (1..).zip(&mut hosts) {
        let location = if number == on { Location::Local(PORT.0) } else { Location::Remote(OTHER) };
        host.control.place_endpoint(VPC, client.into(), Endpoint { mac: guest_mac(on), subnet: 0, location });
        host.control.set_balancer(VPC, VIP.into(), Some(plan.clone()));
    }
    let own = [address(on, false).into(), client.into()];
    let profile = PortProfile::new(0, guest_mac(on), 1430, &own, &[]).in_vpc(VPC, gateway_mac(0), 7);
    hosts[usize::from(on) - 1].control.set_profile(PORT, profile);
    run(&mut hosts);
    hosts
}

#[test]
fn whichever_host_a_client_is_on_it_gets_the_same_target() {
    for affinity in [Affinity::None, Affinity::ClientIp] {
        let mut chosen = BTreeSet::new();
        for last in 60..80 {
            let client = Ipv4Addr::new(10, 0, 0, last);
            let [one, two] = [1, 2].map(|on: u8| {
                let mut hosts = with_client(client, on, affinity);
                let taken = (2000..2016).map(|port| {
                    let asked = udp([guest_mac(on), gateway_mac(0)], [client, VIP], 100);
                    hosts[usize::from(on) - 1].send(&sealed(asked, [port, 1001], false), Offload::NONE);
                    run(&mut hosts);
                    let got = hosts.each_mut().map(|host| host.receive().len());
                    // What is for the guest that the client is, too, is not told apart here from what is for nobody.
                    assert!(got[usize::from(on) - 1] == 0 && got[usize::from(2 - on)] <= 1, "{got:?}");
                    if got[usize::from(2 - on)] == 1 { 3 - on } else { on }
                });
                taken.collect::<Vec<u8>>()
            });
            assert_eq!(one, two);
            assert!(affinity == Affinity::None || one.iter().all(|target| *target == one[0]));
            chosen.extend(one);
        }
        assert_eq!(chosen.len(), 2, "both are chosen");
    }
}
