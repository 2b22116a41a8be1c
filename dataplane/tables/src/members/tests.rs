//! Who is a member of what, against a naive model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use proptest::prelude::*;

use super::*;

const SECRET: [u64; 2] = [3, 4];

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn groups(reader: &mut MemberReader, vpc: u16, address: &str) -> Vec<u16> {
    reader.refresh();
    let mut groups = reader.groups(vpc, address.parse().unwrap()).to_vec();
    groups.sort_unstable();
    groups.dedup();
    groups
}

#[test]
fn an_address_has_the_groups_of_all_prefixes_that_contain_it() {
    let mut members = MemberWriter::new(SECRET);
    let mut reader = members.reader();
    members.set(1, net("10.0.0.1/32"), &[7]).unwrap();
    members.set(1, net("10.0.0.0/24"), &[8, 9]).unwrap();
    members.set(1, net("0.0.0.0/0"), &[5]).unwrap();
    members.set(1, net("10.0.0.0/31"), &[1, 2, 3, 4, 5]).unwrap();
    members.set(2, net("10.0.0.1/32"), &[11]).unwrap();
    members.set(1, net("fd00::1/128"), &[12]).unwrap();
    members.set(1, net("fd00::/127"), &[13]).unwrap();
    assert_eq!(groups(&mut reader, 1, "10.0.0.1"), [1, 2, 3, 4, 5, 7, 8, 9]);
    assert_eq!(groups(&mut reader, 1, "10.0.0.2"), [5, 8, 9]);
    assert_eq!(groups(&mut reader, 1, "10.0.1.2"), [5]);
    assert_eq!(groups(&mut reader, 2, "10.0.0.1"), [11]);
    assert_eq!(groups(&mut reader, 2, "10.0.0.2"), [0u16; 0]);
    assert_eq!(groups(&mut reader, 1, "fd00::1"), [12, 13]);
    assert_eq!(groups(&mut reader, 1, "fd00::2"), [0u16; 0]);
    assert_eq!(groups(&mut reader, 1, "::ffff:10.0.0.1"), [0u16; 0], "a mapped address is none of IPv4");
    assert_eq!(groups(&mut reader, u16::MAX, "10.0.0.1"), [0u16; 0]);
    assert!(members.remove(1, net("10.0.0.0/24")));
    assert!(!members.remove(1, net("10.0.0.0/24")));
    members.set(1, net("10.0.0.0/31"), &[6]).unwrap();
    members.set(1, net("10.0.0.1/32"), &[]).unwrap();
    assert_eq!(groups(&mut reader, 1, "10.0.0.1"), [5, 6]);
    assert_eq!(members.get(1, net("10.0.0.0/31")), [6]);
    assert_eq!(members.len(), 5);
    assert!(members.rest.current().lists.is_empty(), "no entry has the list any more");
}

#[test]
fn what_goes_beyond_the_bounds_is_refused_and_changes_nothing() {
    let mut members = MemberWriter::new(SECRET);
    let mut reader = members.reader();
    let many: Vec<u16> = (0..65).collect();
    members.set(1, net("10.0.0.1/32"), &[7]).unwrap();
    assert_eq!(
        members.set(1, net("10.0.0.1/32"), &many),
        Err(MemberError::TooManyGroups { groups: 65, bound: 64 })
    );
    assert_eq!(groups(&mut reader, 1, "10.0.0.1"), [7]);
    for length in 1..=16 {
        members.set(1, IpNet::new([10, 0, 0, 0].into(), length).unwrap(), &[length.into()]).unwrap();
    }
    assert_eq!(members.set(1, net("10.0.0.0/17"), &[17]), Err(MemberError::TooManyLengths { bound: 16 }));
    members.set(1, net("10.1.0.0/16"), &[17]).unwrap();
    members.set(1, net("fd00::/17"), &[17]).unwrap();
    members.set(2, net("10.0.0.0/17"), &[17]).unwrap();
    assert_eq!(members.len(), 1 + 16 + 3);
    assert_eq!(groups(&mut reader, 1, "10.0.0.2").len(), 16);
    assert!(members.remove(1, net("10.0.0.0/16")));
    assert_eq!(
        members.set(1, net("10.0.0.0/17"), &[17]),
        Err(MemberError::TooManyLengths { bound: 16 }),
        "10.1.0.0/16 is still there"
    );
    assert!(members.remove(1, net("10.1.0.0/16")));
    members.set(1, net("10.0.0.0/17"), &[17]).unwrap();
    assert_eq!(
        members.set(Endpoint::VPCS, net("10.0.0.0/17"), &[1]),
        Err(MemberError::NoVpc { vpc: Endpoint::VPCS })
    );
    assert!(!members.remove(Endpoint::VPCS, net("10.0.0.0/17")));
}

#[test]
fn readers_see_old_groups_or_new_ones_and_never_none_or_a_mixture() {
    let mut members = MemberWriter::new(SECRET);
    let (few, many): (Vec<u16>, Vec<u16>) = (vec![1, 2], (10..20).collect());
    let other: Vec<u16> = (30..50).collect();
    members.set(1, net("10.0.0.1/32"), &few).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut reader = members.reader();
        let (stop, few, many, other) = (&stop, &few, &many, &other);
        let thread = scope.spawn(move || {
            let mut seen = BTreeSet::new();
            while !stop.load(Relaxed) || seen.len() < 3 {
                for _ in 0..8 {
                    let groups = reader.groups(1, [10, 0, 0, 1].into());
                    assert!(
                        [few, many, other].iter().any(|expected| expected.as_slice() == groups),
                        "{groups:?}"
                    );
                    seen.insert(groups.len());
                }
                reader.refresh();
            }
            seen.len()
        });
        let mut turn = 0;
        while turn < 3000 || !thread.is_finished() {
            stop.store(turn >= 3000, Relaxed);
            members.set(1, net("10.0.0.1/32"), [few, many, other][turn % 3]).unwrap();
            turn += 1;
            if turn % 64 == 0 {
                std::thread::yield_now();
            }
        }
        assert_eq!(thread.join().unwrap(), 3);
    });
}

#[test]
fn a_hundred_thousand_members_take_a_line_for_three() {
    let mut members = MemberWriter::new(SECRET);
    for at in 0..100_000u32 {
        members.set(1, IpNet::new(IpAddr::V4((0x0a00_0000 + at).into()), 32).unwrap(), &[1]).unwrap();
    }
    let before = members.rest.current();
    members.set(1, net("10.0.0.7/32"), &[2]).unwrap();
    assert!(std::sync::Arc::ptr_eq(&before, &members.rest.current()), "a member changes one entry");
    assert_eq!(groups(&mut members.reader(), 1, "10.0.0.7"), [2]);
    assert!(members.memory_bytes() < 100_000 * 40, "{}", members.memory_bytes());
}

proptest! {
    #[test]
    fn as_a_list_of_prefixes(
        steps in proptest::collection::vec(
            (0u16..3, 0u32..8, 24u8..=32, proptest::collection::vec(0u16..9, 0..6), any::<bool>()), 1..60)
    ) {
        let mut members = MemberWriter::new(SECRET);
        let mut reader = members.reader();
        let mut model = BTreeMap::new();
        for (vpc, host, length, groups, ipv6) in steps {
            let prefix = if ipv6 {
                IpNet::new(IpAddr::V6((0xfd00_u128 << 112 | u128::from(host)).into()), length + 96).unwrap()
            } else {
                IpNet::new(IpAddr::V4((0x0a00_0000 | host).into()), length).unwrap()
            };
            let prefix = prefix.trunc();
            members.set(vpc, prefix, &groups).unwrap();
            if groups.is_empty() {
                model.remove(&(vpc, prefix));
            } else {
                model.insert((vpc, prefix), groups);
            }
            prop_assert_eq!(members.len(), model.len());
            reader.refresh();
            for vpc in 0..3 {
                for host in 0..8 {
                    for address in [IpAddr::V4((0x0a00_0000 | host).into()), IpAddr::V6((0xfd00_u128 << 112 | u128::from(host)).into())] {
                        let expected: BTreeSet<u16> = model.iter()
                            .filter(|((of, prefix), _)| *of == vpc && prefix.contains(&address))
                            .flat_map(|(_, groups)| groups.iter().copied()).collect();
                        let found: BTreeSet<u16> = reader.groups(vpc, address).iter().copied().collect();
                        prop_assert_eq!(found, expected);
                    }
                }
            }
        }
    }
}
