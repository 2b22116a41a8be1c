//! An ethdev port while somebody holds it.

use crate::{DeviceError, Errno, Mempool};
use dpdk_sys::rte_eth_dev_info;
use std::ffi::CStr;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a device needs beside its own memory until it is closed.
pub(crate) type Beneath = Arc<dyn Debug + Send + Sync>;

/// The ports that somebody holds. Locked while devices are made, set up and removed: DPDK's own registries of them are not for several
/// threads at once.
static HELD: Mutex<Vec<u16>> = Mutex::new(Vec::new());

pub(crate) fn registry() -> MutexGuard<'static, Vec<u16>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An ethdev port, closed when nobody holds it any more.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) id: u16,
    pub(crate) name: String,
    pub(crate) pool: Mempool,
    pub(crate) started: AtomicBool,
    /// What the device needs beside its own memory until it is closed.
    _beneath: Option<Beneath>,
}

impl Port {
    /// Takes a port that nobody holds.
    pub(crate) fn take(
        id: u16,
        name: &str,
        pool: &Mempool,
        beneath: Option<Beneath>,
    ) -> Result<Self, DeviceError> {
        let mut held = registry();
        if held.contains(&id) {
            return Err(DeviceError::Held { device: name.to_owned() });
        }
        held.push(id);
        let started = AtomicBool::new(false);
        Ok(Self { id, name: name.to_owned(), pool: pool.clone(), started, _beneath: beneath })
    }

    pub(crate) fn check(&self, operation: &'static str, result: i32) -> Result<(), DeviceError> {
        failed(&self.name, operation, result)
    }

    pub(crate) fn info(&self) -> Result<rte_eth_dev_info, DeviceError> {
        let mut info = rte_eth_dev_info::default();
        // SAFETY: the port is open while `self` lives; DPDK fills the structure.
        let result = unsafe { dpdk_sys::rte_eth_dev_info_get(self.id, &mut info) };
        self.check("asking for its abilities", result)?;
        Ok(info)
    }

    /// The MTU it is set to.
    pub(crate) fn mtu(&self) -> Result<u16, DeviceError> {
        let mut mtu = 0;
        // SAFETY: the port is open; DPDK fills the number.
        self.check("asking for its MTU", unsafe { dpdk_sys::rte_eth_dev_get_mtu(self.id, &mut mtu) })?;
        Ok(mtu)
    }
}

/// The name of a device's driver.
pub(crate) fn driver_name(info: &rte_eth_dev_info) -> String {
    if info.driver_name.is_null() {
        return String::new();
    }
    // SAFETY: not null, so the name of a driver in the memory of its library, which is never unloaded.
    unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy().into_owned()
}

impl Drop for Port {
    fn drop(&mut self) {
        let mut held = registry();
        let device = self.info().map_or(std::ptr::null_mut(), |info| info.device);
        // SAFETY: no queue lives, as each holds this port, so nobody polls it. Closing returns the device's mbufs and ends its port; the
        // device pointer was of this port and is removed once. What fails here stays allocated, which harms nobody.
        unsafe {
            if self.started.load(Relaxed) {
                dpdk_sys::rte_eth_dev_stop(self.id);
            }
            dpdk_sys::rte_eth_dev_close(self.id);
            if !device.is_null() {
                dpdk_sys::rte_dev_remove(device);
            }
        }
        held.retain(|id| *id != self.id);
    }
}

/// An error when `result` is one.
pub(crate) fn failed(device: &str, operation: &'static str, result: i32) -> Result<(), DeviceError> {
    Errno::check(result).map(|_| ()).map_err(|errno| DeviceError::Failed {
        device: device.to_owned(),
        operation,
        errno,
    })
}

/// Mbufs that one packet may have when it is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentLimits {
    /// A packet that goes out as it is.
    pub(crate) whole: u16,
    /// A packet that the device cuts.
    pub(crate) cut: u16,
}

impl SegmentLimits {
    pub(crate) fn of(limits: &dpdk_sys::rte_eth_desc_lim, tx_offloads: u64) -> Self {
        if tx_offloads & dpdk_sys::TOWPATH_ETH_TX_OFFLOAD_MULTI_SEGS == 0 {
            return Self { whole: 1, cut: 1 };
        }
        // Zero means that the driver knows no limit.
        let known = |limit: u16| if limit == 0 { u16::MAX } else { limit };
        Self { whole: known(limits.nb_mtu_seg_max), cut: known(limits.nb_seg_max) }
    }
}
