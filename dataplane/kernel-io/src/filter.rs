//! Classic BPF: which packets a socket gets.

use libc::sock_filter;
use std::ffi::c_uint;

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
