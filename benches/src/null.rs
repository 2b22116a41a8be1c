//! The generator's own ceiling: two guests on a back end that only moves rings, in a thread on another core.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use virtio_driver::{
    Arena, MemoryOptions, NullDevice, QueueConfig, RingLayout, SharedMemory, Virtqueue, features,
};

use crate::{
    affinity,
    attach::{AttachConfig, AttachError, NULL_FEATURES, make_queues, memory_size},
    frame::Endpoint,
    guest::Guest,
};

/// A running null back end; it stops when dropped.
pub struct NullBackend {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for NullBackend {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in the thread has been reported on standard error by then.
            let _result = thread.join();
        }
    }
}

/// Makes a pair of guests and the null back end between them, polling on `core`.
///
/// # Errors
///
/// [`AttachError`] when memory cannot be had.
pub fn pair(config: &AttachConfig, core: usize) -> Result<(Vec<Guest>, NullBackend), AttachError> {
    let mut guests = Vec::new();
    let mut devices = Vec::new();
    let layout = config.layout;
    let packed = if layout == RingLayout::Packed { features::RING_PACKED } else { 0 };
    for index in 0..2u8 {
        let options = MemoryOptions {
            guest_base: 0x10_0000,
            huge_pages: config.huge_pages,
            ..MemoryOptions::default()
        };
        let memory = SharedMemory::new(memory_size(config), options)
            .or_else(|_| {
                SharedMemory::new(memory_size(config), MemoryOptions { huge_pages: false, ..options })
            })?
            .into_shared();
        let mut arena = Arena::new(&memory);
        let features = NULL_FEATURES | packed;
        let (mut rx, mut tx) = make_queues(&memory, &mut arena, features, config)?;
        let ring = QueueConfig { size: config.ring_size, layout, features, indirect_entries: 0 };
        devices.push((
            NullDevice::new(&memory, tx.queue_ref().addresses(), &ring)?,
            NullDevice::new(&memory, rx.queue_ref().addresses(), &ring)?,
        ));
        rx.queue().suppress_interrupts();
        tx.queue().suppress_interrupts();
        rx.refill(usize::from(config.ring_size));
        guests.push(Guest::new(memory, tx, rx, Endpoint::numbered(index), Endpoint::numbered(index ^ 1)));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        if let Err(error) = affinity::pin(core) {
            eprintln!("null back end: {error}");
        }
        serve(&mut devices, &stopping);
    });
    Ok((guests, NullBackend { stop, thread: Some(thread) }))
}

/// Returns what each guest sends and fills as many receive buffers of the other.
fn serve(devices: &mut [(NullDevice, NullDevice)], stop: &AtomicBool) {
    let [(tx_a, rx_a), (tx_b, rx_b)] = devices else { return };
    let forward = |tx: &mut NullDevice, rx: &mut NullDevice| {
        let mut lengths = [0u32; 32];
        let taken = tx.take(&mut lengths);
        let (mut left, _) = lengths.split_at(taken);
        // The generator sends no more than it has posted buffers for; a stop must not wait for them all the same.
        while !left.is_empty() && !stop.load(Ordering::Relaxed) {
            let filled = rx.fill(left);
            left = left.get(filled..).unwrap_or_default();
        }
        taken
    };
    while !stop.load(Ordering::Relaxed) {
        let moved = forward(tx_a, rx_b) + forward(tx_b, rx_a);
        if moved == 0 {
            cpu::pause();
        }
    }
}
