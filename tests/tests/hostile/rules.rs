//! P and T: packets of a hostile guest whose port is under rules, each judged alone by the real process. What answers and what follows is compared with Linux
//! in `tests/tests/conntrack`.

use serde_json::{Value, json};
use towpath_tests::Result;
use towpath_tests::hostile::stage::{Setting, Stage};
use towpath_tests::manifests::resource;

use crate::catalogue::{Parties, Row, drop, pass};
use crate::frames::{ICMP, IPV4, IPV6, TCP, UDP, ethernet, icmp, icmpv6, ipv4, tcp, udp, with};
use crate::packets::{case, network};

/// What the attacked ports may send and be sent.
fn groups() -> Vec<Value> {
    let rules = json!([
        {"direction": "egress", "action": "allow", "protocol": "udp", "remote": {"any": true}},
        {"direction": "egress", "action": "allow", "protocol": "tcp", "ports": "40001", "remote": {"any": true}},
        {"direction": "egress", "action": "allow", "protocol": "tcp", "ports": "22", "remote": {"group": "nobody"}},
        {"direction": "egress", "action": "allow", "protocol": "icmp", "icmpType": 8, "icmpCode": 0, "remote": {"any": true}},
        {"direction": "egress", "action": "deny", "priority": 10, "protocol": "udp", "ports": "7000-7010", "remote": {"any": true}},
        {"direction": "egress", "action": "allow", "priority": 9, "protocol": "udp", "ports": "7005", "remote": {"any": true}},
        {"direction": "egress", "action": "deny", "priority": 50, "protocol": "udp", "ports": "7100", "remote": {"any": true}},
        {"direction": "egress", "action": "allow", "priority": 50, "protocol": "udp", "ports": "7100", "remote": {"any": true}},
        {"direction": "ingress", "action": "allow", "protocol": "udp", "remote": {"any": true}},
    ]);
    vec![
        resource("SecurityGroup", "attacked", &json!({"vpc": "blue", "rules": rules})),
        resource("SecurityGroup", "nobody", &json!({"vpc": "blue", "rules": []})),
    ]
}

/// P-32, P-37, P-38: fragments, errors, protocols without ports.
fn odd(p: &Parties) -> Vec<Row> {
    let piece = |fragment: u16, payload: &[u8]| {
        ethernet(p.peer.mac, p.me.mac, IPV4, &ipv4(p.me.v4, p.peer.v4, UDP, (64, fragment), payload))
    };
    let raw = |protocol: u8| p.v4(protocol, &[0; 24]);
    let about = |quoted: &[u8]| p.v4(ICMP, &icmp(&[&[3, 3, 0, 0, 0, 0, 0, 0][..], quoted].concat()));
    let never = ipv4(p.peer.v4, p.me.v4, UDP, (64, 0), &udp(5, 6, b"never sent"));
    let foreign = ipv4(p.peer.v4, [10, 0, 1, 99].into(), UDP, (64, 0), &udp(5, 6, b"of others"));
    let nested =
        ipv4(p.peer.v4, p.me.v4, ICMP, (64, 0), &icmp(&[&[3, 3, 0, 0, 0, 0, 0, 0][..], &never].concat()));
    vec![
        drop("P-32 a later fragment first", piece(0x2005, &[9; 16]), "fragment_unknown"),
        drop("P-32 the last fragment alone", piece(0x0005, &[9; 16]), "fragment_unknown"),
        drop("P-37 about what was never sent", about(&never), "icmp_unrelated"),
        drop("P-37 about a packet of another", about(&foreign), "icmp_unrelated"),
        drop("P-37 about an error", about(&nested), "icmp_unrelated"),
        drop("P-37 about nothing", about(&[]), "icmp_unrelated"),
        drop("P-37 about half a header", about(&never[..12]), "icmp_unrelated"),
        drop("P-37 about a header without ports", about(&never[..20]), "icmp_unrelated"),
        drop("P-38 SCTP, whose port a rule of TCP names", raw(132), "policy_denied"),
        drop("P-38 DCCP", raw(33), "policy_denied"),
        drop("P-38 GRE", raw(47), "policy_denied"),
        drop("P-38 ESP", raw(50), "policy_denied"),
        drop("T-11 protocol 0", raw(0), "policy_denied"),
        drop("T-11 protocol 255", raw(255), "policy_denied"),
        pass("T-11 what is allowed, after those", p.v4(UDP, &udp(7, 8, b"allowed"))),
        pass("T-12 the first fragment of what is allowed", piece(0x2000, &udp(7, 8, &[1; 16]))),
        pass("T-12 one that follows it", piece(0x2003, &[2; 16])),
    ]
}

/// P-35, T-16: segments that begin no connection. T-01 to T-03, T-08: which rule counts.
fn judged(p: &Parties) -> Vec<Row> {
    let to = |payload: Vec<u8>, port: u16| with(payload, 2, &port.to_be_bytes());
    let segment = |flags: u8| p.v4(TCP, &tcp(flags, &[], &[]));
    let datagram = |port: u16| p.v4(UDP, &udp(7, port, b"datagram"));
    let echo6 =
        ethernet(p.peer.mac, p.me.mac, IPV6, &icmpv6(p.me.v6, p.peer.v6, &[128, 0, 0, 0, 0, 1, 0, 1]));
    let invalid = "session_invalid";
    vec![
        drop("P-35 null", segment(0), invalid),
        drop("P-35 xmas", segment(0x29), invalid),
        drop("P-35 SYN and FIN", segment(0x03), invalid),
        drop("P-35 SYN and RST", segment(0x06), invalid),
        drop("P-35 FIN alone", segment(0x01), invalid),
        drop("P-35 RST to nothing", segment(0x04), invalid),
        drop("P-35 FIN and ACK of nothing", segment(0x11), invalid),
        drop("T-16 SYN and ACK first", segment(0x12), invalid),
        pass("P-35 SYN", segment(0x02)),
        drop("P-35 data before an answer", segment(0x18), invalid),
        drop("T-01 denied", datagram(7001), "policy_denied"),
        pass("T-01 allowed inside, by a lower priority", datagram(7005)),
        drop("T-01 deny before allow, of the same priority", datagram(7100), "policy_denied"),
        drop("T-02 port 0", p.v4(TCP, &to(tcp(2, &[], &[]), 0)), "policy_denied"),
        drop(
            "T-02 a type that no rule names",
            p.v4(ICMP, &icmp(&[13, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
            "policy_denied",
        ),
        drop("T-02 a code that no rule names", p.v4(ICMP, &icmp(&[8, 1, 0, 0, 0, 1, 0, 1])), "policy_denied"),
        drop("T-03 to a group that nobody is in", p.v4(TCP, &to(tcp(2, &[], &[]), 22)), "policy_denied"),
        pass("T-08 an echo that a rule names", p.v4(ICMP, &icmp(&[8, 0, 0, 0, 0, 1, 0, 1]))),
        drop("T-08 an ICMPv6 echo that none does", echo6, "policy_denied"),
        drop("T-08 a reply to nothing", p.v4(ICMP, &icmp(&[0, 0, 0, 0, 0, 9, 0, 1])), invalid),
    ]
}

#[test]
#[ignore = "needs root: run by `make test`"]
fn packets_of_a_port_under_rules_are_judged_by_name() -> Result<()> {
    let network = [network(), groups()].concat();
    let setting = Setting { network, groups: vec!["attacked".to_owned()], ..Setting::default() };
    let mut stage = Stage::start_in(&setting)?;
    case(&mut stage, "fragments, errors and protocols under rules", odd);
    case(&mut stage, "segments and rules", judged);
    stage.finish(2)
}
