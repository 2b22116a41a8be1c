//! Interfaces in a network namespace of the test's own: they are gone when its thread ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(unsafe_code, reason = "a thread enters a namespace")]

use buf::{Burst, Offload};
use engine::{OffloadCapabilities, RxQueue, TxQueue, TxReport};
use ports::conformance::{Fixture, Taken, receive, receive_all, send_one};
use rustix::event::{Timespec, epoll};
use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use towpath_kernel_io::{Interface, LinkState, Options};

/// Runs `ip` with these words, in the namespace of this thread.
pub(crate) fn ip(words: &str) {
    let output = Command::new("ip").args(words.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `tc` with these words, in the namespace of this thread.
pub(crate) fn tc(words: &str) {
    let output = Command::new("tc").args(words.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "tc {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Sends a virtio-net header and a frame, of any length, by a packet socket without a ring.
pub(crate) fn send_raw(ifname: &str, bytes: &[u8]) {
    let name = std::ffi::CString::new(ifname).unwrap();
    // SAFETY: numbers, a C string, and buffers of the lengths given; the descriptor is closed here.
    unsafe {
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
        let one = 1;
        let size = size_of_val(&one) as u32;
        libc::setsockopt(socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, (&raw const one).cast(), size);
        let room = 1 << 20;
        libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, (&raw const room).cast(), size);
        let mut to: libc::sockaddr_ll = std::mem::zeroed();
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
        let length = size_of_val(&to) as u32;
        let sent =
            libc::sendto(socket, bytes.as_ptr().cast(), bytes.len(), 0, (&raw const to).cast(), length);
        let error = std::io::Error::last_os_error();
        libc::close(socket);
        assert_eq!(sent, bytes.len() as isize, "{error}");
    }
}

/// Gives this thread a network namespace of its own, in which the kernel says nothing by itself.
pub(crate) fn enter_namespace() {
    // SAFETY: concerns this thread alone; descriptors stay.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "{}: root is needed", std::io::Error::last_os_error());
    for of in ["all", "default"] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{of}/disable_ipv6"), "1").unwrap();
    }
}

/// Makes two interfaces joined to each other, `near` and `far`, up.
pub(crate) fn veth(mtu: u32) {
    ip(&format!("link add near mtu {mtu} type veth peer name far mtu {mtu}"));
    ip("link set near up");
    ip("link set far up");
}

/// Everything is received.
pub(crate) fn plain() -> Options {
    Options { tunnel_port: None, ..Options::default() }
}

/// An interface with one pair of queues.
pub(crate) struct End {
    pub(crate) interface: Interface,
    pub(crate) rx: Box<dyn RxQueue>,
    pub(crate) tx: Box<dyn TxQueue>,
}

pub(crate) fn open(ifname: &str, options: &Options) -> End {
    let (interface, mut queues) = Interface::open(ifname, options).unwrap();
    assert_eq!(queues.len(), 1);
    let (rx, tx) = queues.remove(0);
    End { interface, rx, tx }
}

/// Waits until the kernel calls the interface up: it does so some time after its carrier came.
pub(crate) fn until_up(interface: &Interface) {
    let patience = Instant::now() + Duration::from_secs(10);
    while interface.link_state().unwrap() != LinkState::Up {
        assert!(Instant::now() < patience, "it stays down");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until this many packets came to an interface since it was opened, whether there was room for them or not: the kernel may pass them
/// on a little later than it is told to send them.
pub(crate) fn arrived(interface: &Interface, packets: u64) {
    let patience = Instant::now() + Duration::from_secs(10);
    loop {
        let now = interface.statistics();
        if now.rx_packets + now.rx_dropped >= packets {
            return;
        }
        assert!(Instant::now() < patience, "{now:?} of {packets}");
        std::thread::yield_now();
    }
}

/// Receives until this many frames came, for as long as it takes.
pub(crate) fn receive_when_there(rx: &mut dyn RxQueue, count: usize) -> Vec<Taken> {
    let patience = Instant::now() + Duration::from_secs(10);
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(receive_all(rx, count - all.len()));
        assert!(Instant::now() < patience, "{} of {count} came", all.len());
    }
    all
}

/// The bytes of frames.
pub(crate) fn bytes_of(taken: &[Taken]) -> Vec<Vec<u8>> {
    taken.iter().map(|frame| frame.bytes.clone()).collect()
}

/// Waits for edges of one descriptor.
pub(crate) struct Waiter(OwnedFd);

impl Waiter {
    pub(crate) fn new(event: BorrowedFd<'_>) -> Self {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        epoll::add(&set, event, epoll::EventData::new_u64(1), epoll::EventFlags::IN | epoll::EventFlags::ET)
            .unwrap();
        Self(set)
    }

    /// Whether there was an edge, waiting for it as long.
    pub(crate) fn wait(&self, milliseconds: i64) -> bool {
        let mut events = Vec::with_capacity(4);
        let timeout = Timespec { tv_sec: milliseconds / 1000, tv_nsec: (milliseconds % 1000) * 1_000_000 };
        epoll::wait(&self.0, rustix::buffer::spare_capacity(&mut events), Some(&timeout)).unwrap() > 0
    }
}

/// A transmit queue that waits, when flushed, until the other end has everything: the kernel may pass packets on a little later.
pub(crate) struct Delivered {
    tx: Box<dyn TxQueue>,
    sent: u64,
    to: Arc<Interface>,
}

impl TxQueue for Delivered {
    fn capabilities(&self) -> OffloadCapabilities {
        self.tx.capabilities()
    }

    fn send(&mut self, frames: &[buf::Frame<'_, '_>]) -> TxReport {
        let report = self.tx.send(frames);
        self.sent += u64::from(report.sent);
        report
    }

    fn flush(&mut self) {
        self.tx.flush();
        arrived(&self.to, self.sent);
    }
}

/// A veth pair under the conformance suite: `near` is under test, `far` the other end.
pub(crate) struct Pair {
    near: (Box<dyn RxQueue>, Delivered),
    far: (Box<dyn RxQueue>, Delivered),
    waiter: Waiter,
    taken: VecDeque<Taken>,
    longest: usize,
    depth: usize,
}

pub(crate) fn pair(mtu: u32, options: &Options, depth: usize) -> Pair {
    enter_namespace();
    veth(mtu);
    let (near, far) = (open("near", options), open("far", options));
    let waiter = Waiter::new(near.interface.event_fd(0).unwrap());
    let interfaces = [Arc::new(near.interface), Arc::new(far.interface)];
    let delivered = |tx, to: &Arc<Interface>| Delivered { tx, sent: 0, to: to.clone() };
    Pair {
        near: (near.rx, delivered(near.tx, &interfaces[1])),
        far: (far.rx, delivered(far.tx, &interfaces[0])),
        waiter,
        taken: VecDeque::new(),
        longest: mtu as usize + 14,
        depth,
    }
}

impl Fixture for Pair {
    fn rx(&mut self) -> &mut dyn RxQueue {
        &mut *self.near.0
    }

    fn tx(&mut self) -> &mut dyn TxQueue {
        &mut self.near.1
    }

    fn give(&mut self, pieces: &[&[u8]], offload: buf::Offload) -> bool {
        send_one(&mut self.far.1, &pieces.concat(), pieces.len(), offload).sent == 1
    }

    fn take(&mut self) -> Option<Taken> {
        if self.taken.is_empty() {
            self.taken.extend(receive(&mut *self.far.0).0);
        }
        self.taken.pop_front()
    }

    fn shortest(&self) -> usize {
        14
    }

    fn longest(&self) -> usize {
        self.longest
    }

    fn depth(&self) -> usize {
        self.depth
    }

    /// Slots belong to mappings that are gone with the queues: the checks that count them are not for this driver.
    fn free_buffers(&self) -> Box<dyn Fn() -> usize> {
        unreachable!("rings are counted by tests of their own")
    }

    fn gives(&self) -> OffloadCapabilities {
        self.far.1.capabilities()
    }

    fn woken(&mut self) -> Option<bool> {
        Some(self.waiter.wait(0))
    }
}

pub(crate) fn measure(run: &mut dyn FnMut()) -> u64 {
    allocation_counter::measure(run).count_total
}

const NEAR: [u8; 6] = [2, 0, 0, 0, 0, 1];
const FAR: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A veth pair of which `near` is the host's, with addresses, and `far` has a neighbour of it at each.
pub(crate) fn host() {
    enter_namespace();
    veth(1500);
    ip("link set near address 02:00:00:00:00:01");
    ip("link set far address 02:00:00:00:00:02");
    std::fs::write("/proc/sys/net/ipv6/conf/near/disable_ipv6", "0").unwrap();
    ip("addr add 10.0.0.1/24 dev near");
    ip("addr add fd00::1/64 dev near nodad");
    ip("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:02 dev near nud permanent");
    ip("neigh replace fd00::2 lladdr 02:00:00:00:00:02 dev near nud permanent");
}

/// A frame from `far`'s neighbour to the host: IP with a right header, then `payload`.
pub(crate) fn frame(v6: bool, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = NEAR.to_vec();
    bytes.extend(FAR);
    if v6 {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend((payload.len() as u16).to_be_bytes());
        bytes.extend([protocol, 64]);
        bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    } else {
        let mut header = vec![0x45, 0];
        header.extend((20 + payload.len() as u16).to_be_bytes());
        header.extend([0, 1]);
        header.extend(fragment.to_be_bytes());
        header.extend([64, protocol, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
        let sum = packet::checksum::Sum::of(&header).finish();
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend([0x08, 0x00]);
        bytes.extend(header);
    }
    bytes.extend(payload);
    bytes
}

/// A UDP datagram to `port`, with a right checksum.
pub(crate) fn udp(v6: bool, port: u16) -> Vec<u8> {
    let mut datagram = vec![0x30, 0x39];
    datagram.extend(port.to_be_bytes());
    datagram.extend([0, 28, 0, 0]);
    datagram.extend([8; 20]);
    let pseudo = if v6 {
        packet::checksum::pseudo_header_v6("fd00::2".parse().unwrap(), "fd00::1".parse().unwrap(), 17, 28)
    } else {
        packet::checksum::pseudo_header_v4("10.0.0.2".parse().unwrap(), "10.0.0.1".parse().unwrap(), 17, 28)
    };
    let sum = pseudo.plus(packet::checksum::Sum::of(&datagram)).finish();
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    frame(v6, 17, 0, &datagram)
}

/// What the queue has now.
pub(crate) fn collect(rx: &mut dyn RxQueue) -> Vec<(Vec<u8>, Offload)> {
    let mut all = Vec::new();
    loop {
        let mut burst = Burst::new();
        rx.poll(&mut burst);
        if burst.is_empty() {
            return all;
        }
        all.extend((0..burst.len()).filter_map(|at| burst.frame(at)).map(|f| (f.to_vec(), f.offload)));
    }
}

pub(crate) fn send(tx: &mut dyn TxQueue, bytes: &[u8]) {
    assert_eq!(ports::conformance::send_one(tx, bytes, 1, Offload::NONE).sent, 1);
}

/// Waits for a frame that `wanted` knows; the frames that came before it.
pub(crate) fn until(rx: &mut dyn RxQueue, wanted: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
    let (patience, mut before) = (Instant::now() + Duration::from_secs(10), Vec::new());
    loop {
        for (bytes, _) in collect(rx) {
            if wanted(&bytes) {
                return before;
            }
            before.push(bytes);
        }
        assert!(Instant::now() < patience, "it never came, but {before:x?}");
        std::thread::yield_now();
    }
}

/// An ICMP error of the host about a datagram to `port`.
pub(crate) fn unreachable_for(bytes: &[u8], v6: bool, port: u16) -> bool {
    let (icmp, kind, quoted) = if v6 { (54, 1, 54 + 8 + 40) } else { (34, 3, 34 + 8 + 20) };
    let ours = bytes.get(12..14) == Some(if v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
    ours && bytes.get(icmp) == Some(&kind) && bytes.get(quoted + 2..quoted + 4) == Some(&port.to_be_bytes())
}

/// An ARP packet of `far`'s neighbour.
pub(crate) fn arp() -> Vec<u8> {
    let mut bytes = NEAR.to_vec();
    bytes.extend(FAR);
    bytes.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 2]);
    bytes.resize(60, 3);
    bytes
}
