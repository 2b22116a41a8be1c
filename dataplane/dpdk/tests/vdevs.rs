//! Virtual devices with something else at the other end: the kernel behind `net_tap` and `net_af_packet`, files behind `net_pcap`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(unsafe_code, reason = "a thread enters a network namespace")]

#[allow(dead_code, reason = "shared with tests that count allocations")]
mod support;

use engine::{RxQueue, TxQueue};
use kernel_io::{Interface, Options};
use ports::conformance::{receive, send_one};
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use support::{eal, name, pool};
use towpath_dpdk::{DeviceOptions, EthDev, Hugepages, LinkState};

const HUGEPAGES: Hugepages = Hugepages::Never;
/// Enough on a machine that does other things too.
const LIMIT: Duration = Duration::from_secs(20);

/// A frame of `length` bytes to a station, to all, or to a group, that says which it is.
fn frame(number: usize, length: usize) -> Vec<u8> {
    const TO: [[u8; 6]; 3] = [[2, 0, 0, 0, 0, 9], [0xff; 6], [0x33, 0x33, 0xff, 0, 0, 1]];
    let mut frame = vec![number as u8; length];
    frame[..6].copy_from_slice(&TO[number % 3]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 7]);
    // An ether type for experiments: nobody's stack has an opinion on it.
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

/// Does `work` in a network namespace of its own.
fn in_a_namespace(work: impl FnOnce() + Send) {
    // The process's EAL is not of that namespace.
    eal();
    let inside = || {
        // SAFETY: only this thread moves, which has no descriptors of its own and ends with the namespace.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
        work();
    };
    thread::scope(|scope| scope.spawn(inside).join()).unwrap();
}

fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Frames of ours that `rx` gets until there are `count`.
fn ours(rx: &mut dyn RxQueue, count: usize) -> Vec<Vec<u8>> {
    let (mut taken, begin) = (Vec::new(), Instant::now());
    while taken.len() < count {
        assert!(begin.elapsed() < LIMIT, "{} of {count} frames", taken.len());
        let frames = receive(rx).0.into_iter().map(|frame| frame.bytes);
        taken.extend(frames.filter(|bytes| bytes.get(12..14) == Some(&[0x88, 0xb5])));
        thread::yield_now();
    }
    taken
}

/// Frames of all lengths, a few at a time, from one queue to the other.
fn cross(tx: &mut dyn TxQueue, rx: &mut dyn RxQueue) {
    for batch in 0..8 {
        let frames: Vec<Vec<u8>> =
            (0..12).map(|at| frame(batch * 12 + at, 60 + (batch * 12 + at) * 15)).collect();
        for frame in &frames {
            assert_eq!(send_one(tx, frame, 1, buf::Offload::NONE).sent, 1);
        }
        assert_eq!(ours(rx, frames.len()), frames);
    }
}

/// A device of DPDK and the interface of the kernel that its wire leads to.
fn meets_the_kernel(devargs: &str, interface: &str) {
    let pool = pool(2047);
    let mut device = EthDev::probe(eal(), devargs, &pool, &DeviceOptions::default()).unwrap();
    let (mut rx, mut tx) = device.start().unwrap().remove(0);
    device.receive_groups().unwrap();
    ip(&format!("link set {interface} up"));
    let begin = Instant::now();
    while device.link().unwrap() == LinkState::Down {
        assert!(begin.elapsed() < LIMIT, "no link");
        thread::yield_now();
    }
    assert_eq!(device.info().mtu, 1500);
    let options = Options { ring_bytes: 4 << 20, tunnel_port: None, promiscuous: true, ..Options::default() };
    let (_interface, mut queues) = Interface::open(interface, &options).unwrap();
    let (far_rx, far_tx) = queues.first_mut().unwrap();
    cross(&mut tx, far_rx.as_mut());
    cross(far_tx.as_mut(), &mut rx);
    let counted = device.statistics().unwrap();
    assert!(counted.tx_packets >= 96 && counted.rx_packets >= 96, "{counted:?}");
    drop((rx, tx));
    device.stop().unwrap();
}

#[test]
#[ignore = "needs root: run by `make test`"]
fn a_tap_and_the_kernel_exchange_frames_of_all_lengths() {
    in_a_namespace(|| {
        let name = name("net_tap");
        meets_the_kernel(&format!("{name},iface=tw0"), "tw0");
    });
}

#[test]
#[ignore = "needs root: run by `make test`"]
fn af_packet_on_one_end_of_a_veth_pair_meets_the_other() {
    in_a_namespace(|| {
        ip("link add u0 up type veth peer name u1");
        let name = name("net_af_packet");
        meets_the_kernel(&format!("eth_{},iface=u0,framecnt=1024", &name[4..]), "u1");
    });
}

/// A capture of these frames, as `tcpdump` writes it: microseconds, Ethernet.
fn capture(frames: &[Vec<u8>]) -> Vec<u8> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    let mut bytes = words(&[0xa1b2_c3d4, 2 | 4 << 16, 0, 0, 65_535, 1]);
    for frame in frames {
        bytes.extend(words(&[0, 0, frame.len() as u32, frame.len() as u32]));
        bytes.extend(frame);
    }
    bytes
}

/// The frames of a capture.
fn captured(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut rest, mut frames) = (&bytes[24..], Vec::new());
    while rest.len() >= 16 {
        let length = u32::from_ne_bytes(rest[8..12].try_into().unwrap()) as usize;
        frames.push(rest[16..16 + length].to_vec());
        rest = &rest[16 + length..];
    }
    frames
}

#[test]
fn frames_of_a_capture_are_received_and_what_is_sent_is_captured() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("in.pcap"), folder.path().join("out.pcap"));
    let frames: Vec<Vec<u8>> = (0..96).map(|number| frame(number, 60 + number * 15)).collect();
    fs::write(&from, capture(&frames)).unwrap();
    let devargs = format!("{},rx_pcap={},tx_pcap={}", name("net_pcap"), from.display(), to.display());
    let pool = pool(2047);
    let mut device = EthDev::probe(eal(), &devargs, &pool, &DeviceOptions::default()).unwrap();
    let (mut rx, mut tx) = device.start().unwrap().remove(0);
    let taken = ours(&mut rx, frames.len());
    assert_eq!(taken, frames);
    for frame in &taken {
        assert_eq!(send_one(&mut tx, frame, 1, buf::Offload::NONE).sent, 1);
    }
    drop((rx, tx));
    drop(device);
    assert_eq!(captured(&fs::read(&to).unwrap()), frames);
    assert_eq!(pool.available(), pool.capacity());
}
