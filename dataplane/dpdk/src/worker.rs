//! Threads that poll queues.

use crate::{Eal, Errno};
use std::cell::Cell;
use std::marker::PhantomData;

thread_local! {
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// Why a thread could not be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// DPDK knows as many threads as it can (128).
    #[error("DPDK: no lcore left for this thread: it polls without a cache of mbufs, or run fewer workers")]
    NoLcore,
    /// This thread is registered; a second registration would take a second lcore.
    #[error("DPDK: this thread is registered already: keep its first registration")]
    Already,
    /// Another reason.
    #[error("DPDK: the thread cannot be registered: {0}")]
    Failed(Errno),
}

/// A thread's registration, ended when this is dropped. Stays on its thread.
#[derive(Debug)]
pub struct RegisteredWorker(PhantomData<*const ()>);

/// Makes the calling thread known to DPDK, which gives it a cache of mbufs in every [`Mempool`](crate::Mempool): taking and freeing
/// them then costs about a quarter less. Called once by each worker, before it polls queues of this crate; without it everything works, only
/// slower. The thread's affinity is left as it is.
///
/// # Errors
///
/// As [`RegisterError`] says.
pub fn register_worker(_: Eal) -> Result<RegisteredWorker, RegisterError> {
    if REGISTERED.get() {
        return Err(RegisterError::Already);
    }
    // SAFETY: `Eal` proves the initialisation; the function concerns the calling thread only.
    match Errno::check(unsafe { dpdk_sys::rte_thread_register() }) {
        Ok(_) => {
            REGISTERED.set(true);
            Ok(RegisteredWorker(PhantomData))
        }
        Err(_) => Err(match Errno::last() {
            Errno::NoMemory => RegisterError::NoLcore,
            errno => RegisterError::Failed(errno),
        }),
    }
}

impl Drop for RegisteredWorker {
    fn drop(&mut self) {
        // SAFETY: not `Send`, so this is the thread that registered. Mbufs in its caches stay with the pools, for whoever gets its lcore next.
        unsafe { dpdk_sys::rte_thread_unregister() };
        REGISTERED.set(false);
    }
}
