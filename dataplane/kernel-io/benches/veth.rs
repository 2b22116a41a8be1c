//! What a packet costs over a veth pair, by driver and size, and where: `cargo bench -p towpath-kernel-io` (root), with `-- AF_XDP`
//! or `-- "AF_PACKET 64"` for some. One thread does both ends,
//! so the kernel's part, sender's and receiver's, is in the flush.

#![allow(clippy::unwrap_used, reason = "a measurement fails by panicking")]

#[path = "../tests/support/mod.rs"]
mod support;

use buf::{BURST_PACKETS, Burst, Extent, Frame, HEAD_BYTES, Offload, Segment, SegmentKind};
use ports::conformance::Traffic;
use std::time::Instant;
use support::{End, Waiter, enter_namespace, open, plain, veth};
use towpath_kernel_io::Options;

/// Bursts per round, and rounds, of which the best counts: others may use the machine too.
const BURSTS: u64 = 8;
const ROUNDS: usize = 1500;

/// Cycles of each part of the way.
#[derive(Clone, Copy, Debug, Default)]
struct Parts {
    send: u64,
    flush: u64,
    poll: u64,
    complete: u64,
    packets: u64,
}

impl Parts {
    fn total(&self) -> u64 {
        self.send + self.flush + self.poll + self.complete
    }
}

fn round(near: &mut End, far: &mut End, frames: &[Frame<'_, '_>]) -> Parts {
    let mut parts = Parts::default();
    for _ in 0..BURSTS {
        let mut received = 0;
        let start = cpu::time_stamp();
        let report = near.tx.send(frames);
        let sent = cpu::time_stamp();
        near.tx.flush();
        let flushed = cpu::time_stamp();
        parts.send += sent - start;
        parts.flush += flushed - sent;
        let patience = Instant::now();
        while received < report.sent as usize {
            let start = cpu::time_stamp();
            let mut burst = Burst::new();
            far.rx.poll(&mut burst);
            received += burst.len();
            let polled = cpu::time_stamp();
            far.rx.complete();
            parts.poll += polled - start;
            parts.complete += cpu::time_stamp() - polled;
            assert!(patience.elapsed().as_secs() < 5, "{received} of {report:?}");
        }
        assert_eq!(report.sent as usize, frames.len());
        parts.packets += received as u64;
    }
    parts
}

fn measure(name: &str, options: &Options, bytes: &[u8], offload: Offload, per_burst: usize, hertz: f64) {
    if !std::env::args()
        .skip(1)
        .all(|word| word.starts_with('-') || format!("{name} {}", bytes.len()).contains(&word))
    {
        return;
    }
    let [mut near, mut far] = ["near", "far"].map(|ifname| open(ifname, options));
    let _waiter =
        std::env::var_os("KIO_WAIT").map(|_| support::Waiter::new(far.interface.event_fd(0).unwrap()));
    // Somebody waits for the queue, as a worker's set does, and is awake.
    let _waiter = Waiter::new(far.interface.event_fd(0).unwrap());
    let (head, body) = bytes.split_at(bytes.len().min(HEAD_BYTES));
    let extents = [Extent::from_slice(body)];
    let frames = vec![Frame::new(head, &extents, body.len(), offload); per_burst];
    let best = (0..ROUNDS).map(|_| round(&mut near, &mut far, &frames)).min_by_key(Parts::total).unwrap();
    let per = |cycles: u64| cycles as f64 / best.packets as f64;
    let seconds = best.total() as f64 / hertz;
    println!(
        "{name:<10} {:>6} B  {:>8.0} cycles ({:>6.0} send {:>7.0} flush {:>6.0} poll {:>5.0} complete)  {:>6.3} Mpps {:>7.2} Gbit/s",
        bytes.len(),
        per(best.total()),
        per(best.send),
        per(best.flush),
        per(best.poll),
        per(best.complete),
        best.packets as f64 / seconds / 1e6,
        best.packets as f64 * bytes.len() as f64 * 8.0 / seconds / 1e9,
    );
}

fn cycles_per_second() -> f64 {
    let (start, cycles) = (Instant::now(), cpu::time_stamp());
    while start.elapsed().as_millis() < 100 {}
    (cpu::time_stamp() - cycles) as f64 / start.elapsed().as_secs_f64()
}

fn main() {
    enter_namespace();
    veth(1500);
    let hertz = cycles_per_second();
    let small = Traffic::Udp4.packet(64 - 42);
    let full = Traffic::Udp4.packet(1514 - 42);
    let large = Traffic::Tcp4.packet(65_000);
    let mut cut = Offload::NONE;
    cut.checksum = Traffic::Tcp4.partial();
    cut.segment = Some(Segment { kind: SegmentKind::TcpV4, ecn: false, size: 1448 });
    for (name, options) in [("AF_PACKET", plain()), ("AF_XDP", Options { xdp: true, ..plain() })] {
        measure(name, &options, &small, Offload::NONE, BURST_PACKETS, hertz);
        measure(name, &options, &full, Offload::NONE, BURST_PACKETS, hertz);
        if !options.xdp {
            measure(name, &options, &large, cut, 2, hertz);
        }
    }
}
