//! Targets of load balancers: checked here, heard of from others, and what the switch is told.

use crate::{GATEWAY, Host, OTHER, VPC, address, from_other, mac};
use agent::{Action, CheckPlan};
use engine::PortIndex;
use services::health::{Outcome, TargetId, Verdict};
use std::sync::Arc;
use std::time::Duration;
use tables::PortProfile;
use tables::balancers::{BalancerPlan, Listener, Target};
use tables::rules::Policy;

const VIP: [u8; 4] = [10, 0, 0, 200];

/// A balancer over a guest here and the station behind the other host, checked every second.
fn balance(host: &mut Host) {
    let target = |port: u16| Target { address: address(port)[0], weight: 1, up: true };
    let plan = BalancerPlan {
        listeners: vec![Listener { protocol: 6, port: 80, target_port: 8080 }],
        targets: vec![target(0), target(9)],
        ..BalancerPlan::default()
    };
    let check = CheckPlan {
        path: None,
        port: 8080,
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        unhealthy_after: 2,
        healthy_after: 1,
    };
    let address = VIP.into();
    host.act(Action::SetBalancer { vpc: VPC, address, plan: Box::new(plan), check: Some(Box::new(check)) });
}

/// Which of the two are up, as the switch has it.
fn up(host: &Host) -> [bool; 2] {
    let balancers = host.control.balancers();
    let plan = balancers.get(VPC, VIP.into()).unwrap().plan().clone();
    [0, 9].map(|port| plan.targets.iter().find(|target| target.address == address(port)[0]).unwrap().up)
}

/// Lets seconds pass; a guest answers each SYN with these flags, and says nothing more. What was said to other hosts meanwhile.
fn pass(host: &mut Host, seconds: u64, flags: u8) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    for _ in 0..seconds * 20 {
        host.now += Duration::from_millis(50);
        host.run();
        for syn in
            host.guests[0].receive().into_iter().filter(|frame| frame[12..14] == [8, 0] && frame[47] == 2)
        {
            assert_eq!(
                (&syn[..6], &syn[6..12], &syn[26..30]),
                (&mac(0).0[..], &GATEWAY.0[..], &[10, 0, 0, 1][..])
            );
            let mut answer = syn.clone();
            for (from, to, length) in
                [(0, 6, 6), (6, 0, 6), (26, 30, 4), (30, 26, 4), (34, 36, 2), (36, 34, 2)]
            {
                answer[to..to + length].copy_from_slice(&syn[from..from + length]);
            }
            let sequence = u32::from_be_bytes(syn[38..42].try_into().unwrap());
            answer[42..46].copy_from_slice(&sequence.wrapping_add(1).to_be_bytes());
            answer[47] = flags;
            host.guests[0].send(&answer);
        }
        host.run();
        let inner = |frame: Vec<u8>| {
            frame.get(50..).filter(|inner| inner[12..14] == [0x88, 0xb5]).map(<[u8]>::to_vec)
        };
        words.extend(host.wire.receive().into_iter().filter_map(inner));
    }
    words
}

#[test]
fn targets_here_are_checked_whatever_their_rules_and_others_hosts_are_told() {
    const SYN_ACK: u8 = 0x12;
    const RST_ACK: u8 = 0x14;
    assert_eq!(services::health::LOCAL_PORTS, stages::route::CHECK_PORTS);
    assert_eq!(services::health::ETHER_TYPE, stages::arrive::HEALTH_WORD);
    let mut host = Host::new();
    host.answer_arp();
    // Closed to everybody: nothing is asked of rules about checks.
    let mut closed = PortProfile::new(0, mac(0), 1450, &address(0), &[]).in_vpc(VPC, GATEWAY, 1);
    closed.policy = Some(3);
    host.control.set_policy(3, Some(Arc::new(Policy::compile([], false).unwrap())));
    host.control.set_profile(PortIndex(0), closed);
    balance(&mut host);
    let words = pass(&mut host, 10, SYN_ACK);
    assert_eq!(up(&host), [true, true]);
    let id = |port: u16| TargetId { vpc: VPC, shared: VIP.into(), target: address(port)[0] };
    assert_eq!(host.fabric.health(&id(0)).unwrap().verdict, Verdict::Up);
    assert_eq!(host.fabric.health(&id(9)).unwrap().verdict, Verdict::Unknown);
    // When it was found out, and every two seconds.
    assert!((5..=7).contains(&words.len()), "{}", words.len());
    pass(&mut host, 4, RST_ACK);
    assert_eq!(up(&host), [false, true]);
    let said = host.fabric.health_changes();
    assert_eq!(said.last().map(|(id, health)| (*id, health.last)), Some((id(0), Some(Outcome::Refused))));
    let words = pass(&mut host, 4, SYN_ACK);
    assert_eq!(up(&host), [true, true]);
    // What this host says of its own the other could say of its own.
    let mut word = words.last().unwrap().clone();
    let at = word.windows(4).position(|bytes| bytes == [10, 0, 0, 10]).unwrap();
    word[at + 3] = 19;
    word[at - 12] = 2 << 1;
    word[6..12].copy_from_slice(&OTHER.0);
    host.wire.send(&from_other(&word));
    host.run();
    assert_eq!((up(&host), host.fabric.health(&id(9)).unwrap().verdict), ([true, false], Verdict::Down));
    assert_eq!(host.fabric.health_by_word_of(&host.control, &id(9)), Some([192, 0, 2, 2].into()));
    // But not of this host's.
    word[at + 3] = 10;
    host.wire.send(&from_other(&word));
    host.run();
    assert_eq!(up(&host), [true, false]);
    host.act(Action::RemoveBalancer { vpc: VPC, address: VIP.into() });
    assert_eq!((host.fabric.health(&id(0)), host.control.balancers().is_empty()), (None, true));
}
