//! What the device's half of a ring costs per packet, in TSC cycles, with everything in one core's caches.
//!
//! `cargo bench -p towpath-virtqueue`. Only the device's calls are timed; the driver (`virtio-driver`) runs between them on the same core. `rings` takes
//! from one ring and gives header-only frames to another (what `docs/benchmarks.md` calls rings alone); `copy` gives the packets that were taken.
//! `chain` and `indirect` do so with two descriptors per packet. Bursts of 32. With more than one region the buffers are spread over all of them.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot be set up is of no use")]

use std::hint::black_box;
use std::sync::Arc;

use buf::{Burst, Frame, Offload};
use criterion::measurement::{Measurement, ValueFormatter};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use guest_mem::{GuestMemory, RegionSpec};
use towpath_virtqueue::{DeviceRing, Headers, Ring, RingConfig, RingFeatures};
use virtio_driver::{
    Arena, MemoryOptions, NetHeader, Queue, QueueConfig, RingLayout, RxConfig, RxQueue, SharedMemory,
    TxConfig, TxQueue, Virtqueue, features,
};

const USER_BASE: u64 = 0x7f00_0000_0000;
const MEMORY: u64 = 8 << 20;
const BURST: usize = 32;
const HEADER: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

/// A guest with one ring in each direction, and the device's halves.
struct Guest {
    tx: TxQueue,
    rx: RxQueue,
    device_tx: Ring,
    device_rx: Ring,
}

impl Guest {
    fn new(layout: RingLayout, bits: u64, regions: u64, part_len: u32) -> Self {
        let options = MemoryOptions { user_base: Some(USER_BASE), ..Default::default() };
        let guest = SharedMemory::new(MEMORY as usize, options).unwrap().into_shared();
        let size = MEMORY / regions;
        let spec = |index| RegionSpec {
            guest_addr: index * size,
            user_addr: USER_BASE + index * size,
            size,
            file_offset: index * size,
            file: guest.fd().try_clone_to_owned().unwrap(),
        };
        let memory = GuestMemory::map((0..regions).map(spec).collect()).unwrap();
        let mut arena = Arena::new(&guest);
        let config = QueueConfig { size: 256, layout, features: bits, indirect_entries: 8 };
        let (tx, rx) = (Queue::new(&guest, &mut arena, &config), Queue::new(&guest, &mut arena, &config));
        let (tx, rx) = (tx.unwrap(), rx.unwrap());
        let (device_tx, device_rx) = (device(&tx, bits, &memory), device(&rx, bits, &memory));
        let config = TxConfig { buffers: 1024, packet_len: 2036, part_len, offset: 52, features: bits };
        let tx = TxQueue::new(&guest, &mut arena, tx, config).unwrap();
        let config = RxConfig { buffers: 256, buffer_len: 2060, descriptors: 1, offset: 52, features: bits };
        let rx = RxQueue::new(&guest, &mut arena, rx, config).unwrap();
        Self { tx, rx, device_tx, device_rx }
    }

    /// The guest's side of one burst.
    fn drive(&mut self, len: u32) {
        self.tx.reclaim(256).unwrap();
        for _ in 0..BURST {
            self.tx.send(&NetHeader::default(), len).unwrap();
        }
        self.tx.queue().publish();
        self.rx.receive(256, |frame| assert!(frame.len > 0)).unwrap();
        self.rx.refill(256);
    }

    /// The device's side: takes a burst and gives as many frames.
    #[inline(never)]
    fn switch(&mut self, copy: bool) {
        let memory = Arc::clone(self.device_tx.memory());
        let (mut burst, mut headers) = (Burst::new(), Headers::new());
        let count = self.device_tx.take(&memory, &mut burst, &mut headers).unwrap();
        assert_eq!(count, BURST);
        self.device_rx.reserve(count).unwrap();
        if copy {
            burst.load_heads();
            for index in 0..count {
                self.device_rx.give(&HEADER, &burst.frame(index).unwrap()).unwrap();
            }
        } else {
            for _ in 0..count {
                self.device_rx.give(&HEADER, &Frame::from_head(&[0], Offload::NONE)).unwrap();
            }
        }
        self.device_rx.publish();
        self.device_tx.return_taken();
        black_box(self.device_rx.interrupt_due() | self.device_tx.interrupt_due());
    }
}

fn device(queue: &Queue, bits: u64, memory: &Arc<GuestMemory>) -> Ring {
    let addresses = queue.addresses();
    let config = RingConfig {
        size: queue.size(),
        features: RingFeatures::from_bits(bits),
        header_len: HEADER.len() as u8,
        desc_addr: addresses.descriptors + USER_BASE,
        driver_addr: addresses.driver + USER_BASE,
        device_addr: addresses.device + USER_BASE,
        base: queue.resume_base(),
    };
    Ring::new(&config, Arc::clone(memory)).unwrap()
}

/// Criterion's measurement in cycles of the time stamp counter.
struct Cycles;

impl Measurement for Cycles {
    type Intermediate = u64;
    type Value = u64;

    fn start(&self) -> u64 {
        cpu::time_stamp()
    }

    fn end(&self, start: u64) -> u64 {
        cpu::time_stamp() - start
    }

    fn add(&self, first: &u64, second: &u64) -> u64 {
        first + second
    }

    fn zero(&self) -> u64 {
        0
    }

    fn to_f64(&self, value: &u64) -> f64 {
        *value as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self
    }
}

impl ValueFormatter for Cycles {
    fn scale_values(&self, _typical: f64, _values: &mut [f64]) -> &'static str {
        "cycles"
    }

    fn scale_throughputs(&self, _typical: f64, throughput: &Throughput, values: &mut [f64]) -> &'static str {
        if let Throughput::Elements(count) = throughput {
            for value in values {
                *value /= *count as f64;
            }
        }
        "cycles per packet"
    }

    fn scale_for_machines(&self, _values: &mut [f64]) -> &'static str {
        "cycles"
    }
}

fn rings(criterion: &mut Criterion<Cycles>) {
    let mut group = criterion.benchmark_group("rings");
    group.throughput(Throughput::Elements(BURST as u64));
    for (name, layout, bit) in
        [("split", RingLayout::Split, 0), ("packed", RingLayout::Packed, features::RING_PACKED)]
    {
        for (mode, len, regions) in [
            ("rings", 60, 1),
            ("rings", 60, 8),
            ("rings", 60, 64),
            ("copy", 60, 1),
            ("copy", 60, 8),
            ("copy", 60, 64),
            ("copy", 1514, 1),
            ("chain", 60, 1),
            ("indirect", 60, 1),
        ] {
            let more = if mode == "indirect" { features::INDIRECT_DESC } else { 0 };
            let bits = features::VERSION_1 | features::NET_MRG_RXBUF | features::IN_ORDER | bit | more;
            // Two descriptors per packet.
            let part_len = if mode == "chain" || mode == "indirect" { 40 } else { 2048 };
            let mut guest = Guest::new(layout, bits, regions, part_len);
            let id = BenchmarkId::new(format!("{name}/{mode}"), format!("{len}B/{regions} regions"));
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|bursts| {
                    let mut cycles = 0;
                    for _ in 0..bursts {
                        guest.drive(len);
                        let start = cpu::time_stamp();
                        guest.switch(mode != "rings");
                        cycles += cpu::time_stamp() - start;
                    }
                    cycles
                });
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(Cycles).sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_millis(700));
    targets = rings
}
criterion_main!(benches);
