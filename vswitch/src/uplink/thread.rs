//! What a thread that polls an uplink's queues does first.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// What a worker's thread keeps while it polls; ends with it.
pub type UplinkThread = Option<Box<dyn Any>>;

/// Makes threads known to the uplink's driver. Without it everything works, only slower.
#[derive(Clone, Default)]
pub struct UplinkThreads(Option<Arc<dyn Fn() -> UplinkThread + Send + Sync>>);

impl fmt::Debug for UplinkThreads {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("UplinkThreads").field(&self.0.is_some()).finish()
    }
}

impl UplinkThreads {
    /// Threads of a driver that wants to know them.
    #[cfg(feature = "dpdk")]
    pub(super) fn new(enter: impl Fn() -> UplinkThread + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(enter)))
    }

    /// Makes the calling thread known, until what is returned is dropped, on this thread.
    pub fn enter(&self) -> UplinkThread {
        self.0.as_ref().and_then(|enter| enter())
    }
}
