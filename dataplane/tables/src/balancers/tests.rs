//! Which target takes a connection: shares, stability, hostile tables.

use super::*;
use std::net::{Ipv4Addr, Ipv6Addr};

const TCP: u8 = 6;
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 100, 1));

fn target(number: u32, weight: u16) -> Target {
    Target { address: Ipv4Addr::from_bits(0x0a00_0100 + number).into(), weight, up: true }
}

fn plan(targets: impl IntoIterator<Item = Target>) -> BalancerPlan {
    let listeners = vec![Listener { protocol: TCP, port: 80, target_port: 8080 }];
    BalancerPlan { listeners, targets: targets.into_iter().collect(), ..BalancerPlan::default() }
}

fn balancer(targets: impl IntoIterator<Item = Target>) -> Balancer {
    Balancer::new(plan(targets), None)
}

fn client(number: u16) -> Client {
    let address = Ipv4Addr::new(10, 0, 2, (number >> 10) as u8).into();
    Client { address, protocol: TCP, ports: [32_768 + number, 80] }
}

/// Slots of each target.
fn shares(balancer: &Balancer) -> Vec<usize> {
    let mut shares = vec![0; balancer.plan.targets.len()];
    balancer.slots.iter().for_each(|slot| shares[usize::from(*slot)] += 1);
    shares
}

#[test]
fn each_target_has_its_share_of_the_slots() {
    for count in [1, 2, 3, 7, 64, MOST_TARGETS as u32] {
        let shares = shares(&balancer((0..count).map(|number| target(number, 1))));
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        assert!(most - least <= 1, "{count} targets: {least} to {most}");
    }
    let shares = shares(&balancer([target(0, 1), target(1, 2), target(2, 0), target(3, 5)]));
    let total = maglev::SLOTS;
    for (share, weight) in shares.into_iter().zip([1, 2, 0, 5]) {
        assert!(share.abs_diff(total * weight / 8) <= 2, "{share} of weight {weight}");
    }
}

#[test]
fn connections_spread_by_weight() {
    let balancer = balancer([target(0, 1), target(1, 2)]);
    let first = target(0, 1).address;
    let given = (0..1000).filter(|number| balancer.choose(&client(*number)) == Some(first)).count();
    // Binomial, 1000 draws of 1/3: 5 standard deviations are 75.
    assert!((258..=408).contains(&given), "{given}");
}

#[test]
fn without_one_target_less_than_one_percent_of_the_others_move() {
    for weight in [|_: u32| 1, |number| 1 + number as u16 % 3] {
        for count in [2, 3, 5, 10, 32, 100, MOST_TARGETS as u32] {
            let all = balancer((0..count).map(|number| target(number, weight(number))));
            for gone in [0, count / 2, count - 1] {
                let left = (0..count).filter(|number| *number != gone);
                let less = balancer(left.map(|number| target(number, weight(number))));
                let name = |balancer: &Balancer, slot: usize| {
                    balancer.plan.targets[usize::from(balancer.slots[slot])].address
                };
                let others = (0..maglev::SLOTS).filter(|slot| name(&all, *slot) != target(gone, 1).address);
                let (mut moved, mut total) = (0, 0);
                for slot in others {
                    total += 1;
                    moved += usize::from(name(&all, slot) != name(&less, slot));
                }
                assert!(moved * 100 < total, "{moved} of {total} moved; {gone} of {count} is gone");
            }
        }
    }
}

#[test]
fn a_target_that_is_down_is_left_out_as_if_it_were_not_there() {
    let down = Target { up: false, ..target(1, 1) };
    let (with, without) =
        (balancer([target(0, 1), down, target(2, 1)]), balancer([target(0, 1), target(2, 1)]));
    for number in 0..1000 {
        assert_eq!(with.choose(&client(number)), without.choose(&client(number)));
    }
    let port = 80;
    assert!(with.keeps(TCP, port, (target(0, 1).address, 8080)));
    assert!(!with.keeps(TCP, port, (target(0, 1).address, 8081)), "another port of it");
    assert!(!with.keeps(TCP, 81, (target(0, 1).address, 8080)), "nothing listens");
    assert!(!with.keeps(TCP, port, (down.address, 8080)));
    assert!(!with.keeps(TCP, port, (VIP, 8080)), "no target");
}

#[test]
fn when_all_are_down_connections_are_refused_or_spread() {
    let down = [0, 1].map(|number| Target { up: false, ..target(number, 1) });
    assert_eq!(balancer(down).choose(&client(1)), None);
    assert_eq!(balancer([]).choose(&client(1)), None);
    let spread = BalancerPlan { when_all_down: WhenAllDown::Spread, ..plan(down) };
    let spread = Balancer::new(spread, None);
    assert!(spread.choose(&client(1)).is_some());
    assert!(spread.keeps(TCP, 80, (down[0].address, 8080)));
    let drained = balancer([target(0, 0)]);
    assert_eq!(drained.choose(&client(1)), None, "weight 0 takes no new connection");
    assert!(drained.keeps(TCP, 80, (target(0, 0).address, 8080)), "and keeps those it has");
}

#[test]
fn with_affinity_all_connections_of_a_client_go_to_one_target() {
    let plan = BalancerPlan { affinity: Affinity::ClientIp, ..plan((0..10).map(|number| target(number, 1))) };
    let balancer = Balancer::new(plan, None);
    let mut used = std::collections::BTreeSet::new();
    for host in 0..100 {
        let of = |port| {
            balancer.choose(&Client { address: [10, 0, 2, host].into(), ports: [port, 80], protocol: TCP })
        };
        used.insert(of(1000));
        assert!((1001..1050).all(|port| of(port) == of(1000)));
    }
    assert_eq!(used.len(), 10);
}

#[test]
fn ipv6_clients_are_told_apart_by_all_of_their_address() {
    let targets = [1, 2].map(|number| Target {
        address: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number).into(),
        ..target(0, 1)
    });
    let balancer = balancer(targets);
    for place in [0, 3, 7] {
        let given = (0..1000u16).filter(|number| {
            let mut words = [0xfd00, 1, 2, 3, 4, 5, 6, 7];
            words[place] = *number;
            let address = Ipv6Addr::from(words).into();
            balancer.choose(&Client { address, protocol: TCP, ports: [1000, 80] }) == Some(targets[0].address)
        });
        let given = given.count();
        assert!((420..=580).contains(&given), "{given}");
    }
}

#[test]
fn the_snapshot_knows_which_vpcs_have_balancers_and_keeps_counts() {
    let mut balancers = Balancers::default();
    assert!(balancers.is_empty() && !balancers.any_in(3));
    balancers.set(3, VIP, Some(plan([target(0, 1)])));
    balancers.get(3, VIP).unwrap().count(target(0, 1).address);
    balancers.set(3, VIP, Some(plan([target(0, 1), target(1, 1)])));
    let there = balancers.get(3, VIP).unwrap();
    assert_eq!([0, 1].map(|number| there.connections(target(number, 1).address)), [1, 0]);
    assert!(balancers.any_in(3) && !balancers.any_in(2) && balancers.get(2, VIP).is_none());
    balancers.set(3, VIP, None);
    balancers.set(3, VIP, None);
    assert!(balancers.is_empty() && !balancers.any_in(3));
}

/// All that is given out by a balancer.
fn choices(balancer: &Balancer) -> Vec<Option<IpAddr>> {
    (0..2000).map(|number| balancer.choose(&client(number))).collect()
}

#[test]
fn every_host_chooses_alike_whatever_it_knew_before() {
    for affinity in [Affinity::None, Affinity::ClientIp] {
        let with = |targets: Vec<Target>| BalancerPlan { affinity, ..plan(targets) };
        let all = || (0..5).map(|number| target(number, 1 + number as u16)).collect::<Vec<_>>();
        let one = choices(&Balancer::new(with(all()), None));
        // Another was told in another order, when one of them was down, and when there was one more.
        let mut down = all();
        down.reverse();
        down[2].up = false;
        let mut balancers = Balancers::default();
        balancers.set(1, VIP, Some(with(down.clone())));
        assert_ne!(choices(balancers.get(1, VIP).unwrap()), one);
        down.push(target(9, 7));
        balancers.set(1, VIP, Some(with(down)));
        let mut again = all();
        again.rotate_left(3);
        balancers.set(1, VIP, Some(with(again)));
        assert_eq!(choices(balancers.get(1, VIP).unwrap()), one);
    }
}
