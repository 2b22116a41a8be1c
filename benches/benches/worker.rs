//! What one packet costs the whole worker, `Worker::step` from ring to ring, in TSC cycles, with everything in one core's
//! caches. `csum`: each frame asks for its checksum, and its receiver takes it so, as between two Linux guests.
//!
//! `cargo bench -p towpath-bench`. Only the step is timed; guests run between steps on the same core. Bursts of 32. What
//! the distance between two cores adds shows `towpath-bench inproc`; stages and rings alone have benches in their crates.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot be set up is of no use")]

use criterion::{
    BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
    measurement::{Measurement, ValueFormatter},
};
use engine::Unobserved;
use switch::TimeStampClock;
use towpath_bench::{
    attach::AttachConfig,
    in_process::{Host, MinimalGuest, host},
};
use virtio_driver::RingLayout;

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
            values.iter_mut().for_each(|value| *value /= *count as f64);
        }
        "cycles per packet"
    }

    fn scale_for_machines(&self, _values: &mut [f64]) -> &'static str {
        "cycles"
    }
}

fn worker(criterion: &mut Criterion<Cycles>) {
    let mut group = criterion.benchmark_group("worker");
    for (name, layout) in [("split", RingLayout::Split), ("packed", RingLayout::Packed)] {
        let rows = [("64", 32, ""), ("64", 8, ""), ("1518", 32, ""), ("1518", 32, "/csum"), ("64K", 8, "")];
        for (size, burst, extra) in rows {
            group.throughput(Throughput::Elements(burst as u64));
            let sizes: towpath_bench::frame::Sizes = size.parse().unwrap();
            let config = AttachConfig {
                layout,
                ring_size: 256,
                longest: sizes.longest(),
                offloads: sizes.tso() || !extra.is_empty(),
                huge_pages: true,
            };
            let Host { control: _control, mut worker, guests } = host(&config).unwrap();
            let mut guests: Vec<_> =
                guests.into_iter().zip(0u8..).map(|(g, i)| MinimalGuest::new(g, i, &sizes, 64)).collect();
            if !extra.is_empty() {
                guests = guests.into_iter().map(MinimalGuest::with_checksums).collect();
            }
            let id = BenchmarkId::new(format!("{name}/{size}{extra}"), format!("bursts of {burst}"));
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|bursts| {
                    let mut cycles = 0;
                    for _ in 0..bursts {
                        assert_eq!(guests[0].send(burst).unwrap(), burst);
                        let mut moved = 0;
                        let start = cpu::time_stamp();
                        while moved < burst {
                            moved += worker.step(0, &mut TimeStampClock, &mut Unobserved).packets as usize;
                        }
                        cycles += cpu::time_stamp() - start;
                        assert_eq!(guests[1].receive().unwrap(), burst);
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
    targets = worker
}
criterion_main!(benches);
