//! Classic BPF: which packets a socket gets.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use libc::sock_filter;
use std::ffi::c_uint;

const LOAD_WORD: c_uint = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const MASK: c_uint = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const LOAD_BYTE: c_uint = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const LOAD_HALF: c_uint = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
const LOAD_HALF_INDEXED: c_uint = libc::BPF_LD | libc::BPF_H | libc::BPF_IND;
const LOAD_HEADER_LENGTH: c_uint = libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH;
const IF_EQUAL: c_uint = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_ANY_BIT: c_uint = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const ALWAYS: c_uint = libc::BPF_JMP | libc::BPF_JA;
const RETURN: c_uint = libc::BPF_RET | libc::BPF_K;

const TCP: u32 = 6;
const UDP: u32 = 17;

const fn step(code: c_uint, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

/// No packet at all.
pub(crate) fn nothing() -> [sock_filter; 1] {
    [step(RETURN, 0, 0, 0)]
}

/// Everything but what is surely not the switch's on an interface that the host uses too: TCP, and UDP to ports other than `port`.
/// Fragments, ICMP, ARP, neighbour discovery and all that is not IP pass.
pub(crate) fn all_but_the_hosts(port: u16) -> [sock_filter; 18] {
    [
        step(LOAD_HALF, 12, 0, 0),
        step(IF_EQUAL, 0x0800, 0, 8),
        // IPv4
        step(LOAD_BYTE, 23, 0, 0),
        step(IF_EQUAL, TCP, 13, 0),
        step(IF_EQUAL, UDP, 0, 11),
        step(LOAD_HALF, 20, 0, 0),
        step(IF_ANY_BIT, 0x1fff, 9, 0),
        step(LOAD_HEADER_LENGTH, 14, 0, 0),
        step(LOAD_HALF_INDEXED, 14 + 2, 0, 0),
        step(ALWAYS, 5, 0, 0),
        // IPv6
        step(IF_EQUAL, 0x86dd, 0, 5),
        step(LOAD_BYTE, 20, 0, 0),
        step(IF_EQUAL, TCP, 4, 0),
        step(IF_EQUAL, UDP, 0, 2),
        step(LOAD_HALF, 14 + 40 + 2, 0, 0),
        step(IF_EQUAL, port as u32, 0, 1),
        step(RETURN, u32::MAX, 0, 0),
        step(RETURN, 0, 0, 0),
    ]
}

/// Steps of a program before it is not worth it: all is let in instead (the kernel takes 4,096, and memory for a third of that by default).
const MOST: usize = 1_000;

/// What [`all_but_the_hosts`] lets in, and all that is for an address in one of `networks`, of whatever protocol. `None`, for everything, where these are too many to
/// tell apart.
pub(crate) fn all_but_the_hosts_and(port: u16, networks: &[IpNet]) -> Option<Vec<sock_filter>> {
    let v4: Vec<Ipv4Net> =
        networks.iter().filter_map(|net| if let IpNet::V4(net) = net { Some(*net) } else { None }).collect();
    let v6: Vec<Ipv6Net> =
        networks.iter().filter_map(|net| if let IpNet::V6(net) = net { Some(*net) } else { None }).collect();
    let v4 = Ipv4Net::aggregate(&v4).into_iter().map(|net| (vec![net.network().to_bits()], net.prefix_len()));
    let v6 = Ipv6Net::aggregate(&v6).into_iter().map(|net| {
        let bits = net.network().to_bits();
        ([96, 64, 32, 0].map(|shift| (bits >> shift) as u32).to_vec(), net.prefix_len())
    });
    let mut program = Vec::new();
    for (ether_type, destination, networks) in
        [(0x0800, 30, v4.collect::<Vec<_>>()), (0x86dd, 38, v6.collect())]
    {
        let entries: Vec<sock_filter> =
            networks.iter().flat_map(|(words, length)| entry(destination, words, (*length).into())).collect();
        program.extend([
            step(LOAD_HALF, 12, 0, 0),
            step(IF_EQUAL, ether_type, 1, 0),
            step(ALWAYS, entries.len() as u32, 0, 0),
        ]);
        program.extend(entries);
    }
    program.extend(all_but_the_hosts(port));
    (program.len() <= MOST).then_some(program)
}

/// Lets in what has these first `length` bits at `offset`; goes on behind itself otherwise.
fn entry(offset: u32, words: &[u32], length: u32) -> Vec<sock_filter> {
    let mut comparisons = Vec::new();
    for (at, word) in (0..).zip(words) {
        let bits = length.saturating_sub(32 * at).min(32);
        if bits == 0 {
            break;
        }
        comparisons.push(step(LOAD_WORD, offset + 4 * at, 0, 0));
        if bits < 32 {
            comparisons.push(step(MASK, u32::MAX << (32 - bits), 0, 0));
        }
        comparisons.push(step(IF_EQUAL, *word, 0, 0));
    }
    let last = comparisons.len();
    for (at, comparison) in comparisons.iter_mut().enumerate() {
        if u32::from(comparison.code) == IF_EQUAL {
            // Over what is left of the comparisons, and the return: twelve steps at most.
            comparison.jf = (last - at) as u8;
        }
    }
    comparisons.push(step(RETURN, u32::MAX, 0, 0));
    comparisons
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a program lets a frame in, as the kernel runs it.
    fn passes(program: &[sock_filter], frame: &[u8]) -> bool {
        let (mut at, mut a, mut x) = (0, 0u32, 0u32);
        let half = |at: usize| frame.get(at..at + 2).map(|b| u32::from(u16::from_be_bytes([b[0], b[1]])));
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let load = match c_uint::from(code) {
                LOAD_BYTE => frame.get(k as usize).map(|byte| u32::from(*byte)),
                LOAD_HALF => half(k as usize),
                LOAD_HALF_INDEXED => half((k + x) as usize),
                LOAD_WORD => frame
                    .get(k as usize..k as usize + 4)
                    .map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])),
                MASK => Some(a & k),
                LOAD_HEADER_LENGTH => {
                    x = u32::from(frame[k as usize] & 15) * 4;
                    Some(a)
                }
                IF_EQUAL | IF_ANY_BIT => {
                    let holds = if c_uint::from(code) == IF_EQUAL { a == k } else { a & k != 0 };
                    at += usize::from(if holds { jt } else { jf });
                    Some(a)
                }
                ALWAYS => {
                    at += k as usize;
                    Some(a)
                }
                _ => return k != 0,
            };
            // A load from behind the frame's end refuses it.
            let Some(loaded) = load else { return false };
            a = loaded;
        }
    }

    fn v4(destination: [u8; 4], protocol: u8, port: u16) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[23] = protocol;
        frame[30..34].copy_from_slice(&destination);
        frame[36..38].copy_from_slice(&port.to_be_bytes());
        frame
    }

    fn v6(destination: &str, protocol: u8) -> Vec<u8> {
        let mut frame = vec![0; 74];
        frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
        frame[20] = protocol;
        frame[38..54].copy_from_slice(&destination.parse::<std::net::Ipv6Addr>().unwrap().octets());
        frame
    }

    #[test]
    fn what_is_for_external_addresses_comes_in_and_the_hosts_own_does_not() {
        let networks = ["198.51.100.20/32", "198.51.100.64/27", "2001:db8:1::20/128", "2001:db8:2::/50"];
        let networks = networks.map(|net| net.parse().unwrap());
        let program = all_but_the_hosts_and(4789, &networks).unwrap();
        for (address, ours) in
            [([198, 51, 100, 20], true), ([198, 51, 100, 21], false), ([198, 51, 100, 95], true)]
        {
            for protocol in [6, 17] {
                assert_eq!(passes(&program, &v4(address, protocol, 80)), ours, "{address:?} {protocol}");
            }
        }
        assert!(
            passes(&program, &v4([192, 0, 2, 1], 17, 4789)) && passes(&program, &v4([192, 0, 2, 1], 1, 0))
        );
        for (address, ours) in [
            ("2001:db8:1::20", true),
            ("2001:db8:1::21", false),
            ("2001:db8:2:3fff::9", true),
            ("2001:db8:2:4000::9", false),
        ] {
            assert_eq!(passes(&program, &v6(address, 6)), ours, "{address}");
        }
        assert!(passes(&program, &[vec![0; 12], vec![8, 6], vec![0; 46]].concat()), "ARP");
        let none = all_but_the_hosts_and(4789, &[]).unwrap();
        assert!(!passes(&none, &v4([198, 51, 100, 20], 6, 80)) && passes(&none, &v6("::1", 58)));
    }

    #[test]
    fn neighbours_are_told_apart_together_and_too_many_not_at_all() {
        let run: Vec<IpNet> =
            (0..=255).map(|last| IpNet::from(std::net::IpAddr::from([198, 51, 100, last]))).collect();
        assert!(all_but_the_hosts_and(4789, &run).unwrap().len() < 30);
        let apart: Vec<IpNet> = run.iter().step_by(2).copied().collect();
        let program = all_but_the_hosts_and(4789, &apart).unwrap();
        assert!(
            passes(&program, &v4([198, 51, 100, 254], 6, 80))
                && !passes(&program, &v4([198, 51, 100, 255], 6, 80))
        );
        let many: Vec<IpNet> = (0..1_000u32)
            .map(|at| IpNet::from(std::net::IpAddr::from((0xc633_0000 + 2 * at).to_be_bytes())))
            .collect();
        assert!(all_but_the_hosts_and(4789, &many).is_none());
    }
}
