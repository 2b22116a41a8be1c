//! What can go wrong with a device.

use crate::Errno;

/// Why something could not be done with a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The devargs are no text for C.
    #[error("DPDK device {device:?}: devargs hold a zero byte: remove it")]
    Devargs {
        /// The device.
        device: String,
    },
    /// Somebody in this process has it.
    #[error("DPDK device {device}: this process uses it already: name another device")]
    Held {
        /// The device.
        device: String,
    },
    /// No queues were asked for, or the device has none.
    #[error("DPDK device {device}: {asked} queue pairs of the device's {most}: ask for one at least")]
    QueuePairs {
        /// The device.
        device: String,
        /// What was asked for.
        asked: u16,
        /// What it can.
        most: u16,
    },
    /// The device has another range of MTUs, or cannot receive frames longer than one mbuf.
    #[error("DPDK device {device}: mtu {asked}: the device can {least} to {most}")]
    Mtu {
        /// The device.
        device: String,
        /// What was asked for.
        asked: u16,
        /// The smallest it can.
        least: u16,
        /// The largest it can.
        most: u16,
    },
    /// Queues of the last start are still in use.
    #[error("DPDK device {device}: its queues are still in use: take them from their workers first")]
    QueuesInUse {
        /// The device.
        device: String,
    },
    /// A function of DPDK failed.
    #[error("DPDK device {device}: {operation}: {errno}")]
    Failed {
        /// The device.
        device: String,
        /// What was tried.
        operation: &'static str,
        /// What DPDK says.
        errno: Errno,
    },
}
