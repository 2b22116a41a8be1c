//! Memory for packets.

use crate::{Eal, Errno};
use dpdk_sys::{rte_mbuf, rte_mempool};
use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;

/// Bytes of one mbuf that a packet may fill. A longer packet takes several.
pub(crate) const DATA_ROOM_BYTES: usize = 2048;
/// Mbufs that each registered worker keeps at hand.
const CACHE: u32 = 256;

/// Why a pool could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MempoolError {
    /// DPDK's memory does not hold it.
    #[error("mempool {name}: no memory for {mbufs} mbufs of 2.3 KiB: give the EAL more, or ask for fewer")]
    NoMemory {
        /// Whose.
        name: String,
        /// How many were asked for.
        mbufs: u32,
    },
    /// There is one of that name, or the name is longer than 25 bytes or holds a zero.
    #[error("mempool {name}: the name is taken, or is longer than 25 bytes: choose another")]
    Name {
        /// The name.
        name: String,
    },
    /// Another reason.
    #[error("mempool {name}: {errno}")]
    Failed {
        /// Whose.
        name: String,
        /// What DPDK says.
        errno: Errno,
    },
}

/// A pool of mbufs, shared by everyone who holds a clone.
///
/// The last holder frees it, unless mbufs are still out (in a ring of a device that somebody else keeps): then it stays allocated
/// until the process ends, so that they stay valid.
#[derive(Clone, Debug)]
pub struct Mempool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: NonNull<rte_mempool>,
    mbufs: u32,
}

// SAFETY: a DPDK mempool made without RTE_MEMPOOL_F_SP_PUT and SC_GET is a ring for many producers and consumers, on any thread.
unsafe impl Send for Inner {}
// SAFETY: all functions called on it take it by shared pointer and synchronise inside.
unsafe impl Sync for Inner {}

impl Mempool {
    /// Makes a pool of `mbufs` mbufs with 2 KiB of room each. A power of two less one uses its memory best. `name` is unique in the
    /// process and at most 25 bytes long.
    ///
    /// # Errors
    ///
    /// As [`MempoolError`] says.
    pub fn new(_: Eal, name: &str, mbufs: u32) -> Result<Self, MempoolError> {
        let owned = || name.to_owned();
        let c_name = CString::new(name).map_err(|_| MempoolError::Name { name: owned() })?;
        let data_room = DATA_ROOM_BYTES as u16 + dpdk_sys::RTE_PKTMBUF_HEADROOM as u16;
        // A cache may not be more than two thirds of the pool.
        let cache = CACHE.min(mbufs / 2);
        // SAFETY: `Eal` proves the initialisation; `c_name` is a C string that DPDK copies.
        let pool = unsafe {
            dpdk_sys::rte_pktmbuf_pool_create(
                c_name.as_ptr(),
                mbufs,
                cache,
                0,
                data_room,
                dpdk_sys::TOWPATH_SOCKET_ANY,
            )
        };
        match NonNull::new(pool) {
            Some(pool) => Ok(Self(Arc::new(Inner { pool, mbufs }))),
            None => Err(match Errno::last() {
                Errno::NoMemory => MempoolError::NoMemory { name: owned(), mbufs },
                Errno::Exists | Errno::NameTooLong => MempoolError::Name { name: owned() },
                errno => MempoolError::Failed { name: owned(), errno },
            }),
        }
    }

    /// Mbufs that nobody holds.
    pub fn available(&self) -> usize {
        self.0.available()
    }

    /// Mbufs in all.
    pub fn capacity(&self) -> usize {
        self.0.mbufs as usize
    }

    pub(crate) fn as_ptr(&self) -> *mut rte_mempool {
        self.0.pool.as_ptr()
    }

    /// Takes `mbufs.len()` mbufs, reset, or none. They are the caller's to free.
    #[inline(always)]
    pub(crate) fn take(&self, mbufs: &mut [*mut rte_mbuf]) -> bool {
        // SAFETY: the pool lives as long as `self`; the array has room for as many pointers as are asked for.
        unsafe {
            dpdk_sys::towpath_pktmbuf_alloc_bulk(self.as_ptr(), mbufs.as_mut_ptr(), mbufs.len() as u32) == 0
        }
    }
}

impl Inner {
    fn available(&self) -> usize {
        // SAFETY: the pool lives until `drop`.
        unsafe { dpdk_sys::rte_mempool_avail_count(self.pool.as_ptr()) as usize }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Nobody else holds the pool, so mbufs that are out are in a device and may come back at any time.
        if self.available() == self.mbufs as usize {
            // SAFETY: this was the last holder and every mbuf is in the pool: nothing points into it any more.
            unsafe { dpdk_sys::rte_mempool_free(self.pool.as_ptr()) };
        }
    }
}

/// Frees mbufs (each with its chain). They must be the caller's, and are not afterwards.
///
/// # Safety
///
/// Each pointer is the first mbuf of a packet that came from `take` or from a device, and nobody uses it any more.
#[inline(always)]
pub(crate) unsafe fn free(mbufs: &mut [*mut rte_mbuf]) {
    // SAFETY: the caller's promise, for each pointer of the array.
    unsafe { dpdk_sys::rte_pktmbuf_free_bulk(mbufs.as_mut_ptr(), mbufs.len() as u32) };
}
