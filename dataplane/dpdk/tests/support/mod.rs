//! One EAL per process, pools and devices with names of their own.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use towpath_dpdk::{Eal, EalOptions, Mempool};

/// The EAL of this process, with little memory, so that tests leave the machine's hugepages to others. Each test file says in
/// `HUGEPAGES` whether it wants any.
pub(crate) fn eal() -> Eal {
    let extra = vec!["--log-level=lib.*,error".to_owned()];
    let options =
        EalOptions { memory_mebibytes: 64, hugepages: crate::HUGEPAGES, extra, ..EalOptions::default() };
    Eal::init(&options).unwrap()
}

/// A name that no other test of this process has.
pub(crate) fn name(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}{}", NEXT.fetch_add(1, Relaxed))
}

pub(crate) fn pool(mbufs: u32) -> Mempool {
    Mempool::new(eal(), &name("pool"), mbufs).unwrap()
}

pub(crate) fn measure(run: &mut dyn FnMut()) -> u64 {
    allocation_counter::measure(run).count_total
}
