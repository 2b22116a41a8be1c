//! Two devices joined by rings: what one sends the other receives, without a NIC.

use crate::{DeviceError, DeviceOptions, Eal, Errno, EthDev, Mempool, mempool};
use dpdk_sys::{rte_mbuf, rte_ring};
use std::ffi::CString;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// A ring of mbufs on their way, freed with what is in it.
#[derive(Debug)]
struct Ring(NonNull<rte_ring>);

// SAFETY: a ring for one producer and one consumer; which threads these are is settled by the queues over it, each behind `&mut`.
unsafe impl Send for Ring {}
// SAFETY: through a shared reference only its pointer is read.
unsafe impl Sync for Ring {}

impl Ring {
    fn new(name: &str, slots: u32) -> Result<Self, DeviceError> {
        let c_name = CString::new(name).map_err(|_| DeviceError::Devargs { device: name.to_owned() })?;
        let (node, flags) = (dpdk_sys::TOWPATH_SOCKET_ANY, dpdk_sys::TOWPATH_RING_SP_SC);
        // SAFETY: the caller holds an `Eal`; the name is copied.
        let ring = unsafe { dpdk_sys::rte_ring_create(c_name.as_ptr(), slots, node, flags) };
        NonNull::new(ring).map(Self).ok_or_else(|| DeviceError::Failed {
            device: name.to_owned(),
            operation: "making its ring",
            errno: Errno::last(),
        })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut mbufs = [ptr::null_mut::<rte_mbuf>(); 32];
        loop {
            // SAFETY: both devices over the ring are closed, as they hold it until then, so this is its only user.
            let count = unsafe {
                dpdk_sys::towpath_ring_dequeue_burst(
                    self.0.as_ptr(),
                    mbufs.as_mut_ptr().cast(),
                    mbufs.len() as u32,
                )
            };
            let Some(taken) = mbufs.get_mut(..count as usize).filter(|taken| !taken.is_empty()) else {
                break;
            };
            // SAFETY: sent by one device and never received by the other: whole packets that nobody else knows.
            unsafe { mempool::free(taken) };
        }
        // SAFETY: the last use of the ring.
        unsafe { dpdk_sys::rte_ring_free(self.0.as_ptr()) };
    }
}

/// Field order matters: the rings are drained before the pools that their mbufs belong to may go.
#[derive(Debug)]
struct Beneath {
    _rings: Vec<Ring>,
    _pools: [Mempool; 2],
}

/// Makes two devices of `net_ring`: each receives what the other sends, queue by queue, without a copy beyond the one into the sender's
/// mbufs. Each ring holds `slots` mbufs, rounded up to a power of two, less one. `name` is unique in the process, at most 8 bytes long.
///
/// # Errors
///
/// As [`DeviceError`] says.
pub fn ring_pair(
    _: Eal,
    name: &str,
    slots: u32,
    pools: [&Mempool; 2],
    options: &DeviceOptions,
) -> Result<[EthDev; 2], DeviceError> {
    let rings: Result<Vec<Ring>, DeviceError> = (0..2 * options.queue_pairs)
        .map(|at| Ring::new(&format!("{name}_{at}"), slots.max(2).next_power_of_two()))
        .collect();
    let beneath = Arc::new(Beneath { _rings: rings?, _pools: pools.map(Clone::clone) });
    let pointers: Vec<*mut rte_ring> = beneath._rings.iter().map(|ring| ring.0.as_ptr()).collect();
    let (there, back) = pointers.split_at(usize::from(options.queue_pairs));
    Ok([
        device(&format!("{name}a"), there, back, pools[0], options, &beneath)?,
        device(&format!("{name}b"), back, there, pools[1], options, &beneath)?,
    ])
}

fn device(
    name: &str,
    rx: &[*mut rte_ring],
    tx: &[*mut rte_ring],
    pool: &Mempool,
    options: &DeviceOptions,
    beneath: &Arc<Beneath>,
) -> Result<EthDev, DeviceError> {
    let c_name = CString::new(name).map_err(|_| DeviceError::Devargs { device: name.to_owned() })?;
    let (rx_count, tx_count) = (rx.len() as u32, tx.len() as u32);
    let guard = crate::port::registry();
    // SAFETY: the arrays hold that many rings, which `beneath` keeps until the port is closed.
    let port = unsafe {
        dpdk_sys::rte_eth_from_rings(c_name.as_ptr(), rx.as_ptr(), rx_count, tx.as_ptr(), tx_count, 0)
    };
    drop(guard);
    if port < 0 {
        let errno = Errno::last();
        return Err(DeviceError::Failed { device: name.to_owned(), operation: "making it of rings", errno });
    }
    EthDev::of_name(&format!("net_ring_{name}"), pool, options, Some(beneath.clone()))
}
