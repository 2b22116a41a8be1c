//! DPDK devices as ports: any NIC that DPDK probes, and its virtual devices.
//!
//! ```no_run
//! # use towpath_dpdk as dpdk;
//! use dpdk::{DeviceOptions, Eal, EalOptions, EthDev, Mempool, register_worker};
//!
//! let eal = Eal::init(&EalOptions::default())?;
//! let pool = Mempool::new(eal, "uplink", 8191)?;
//! let mut device = EthDev::probe(eal, "net_null0", &pool, &DeviceOptions::default())?;
//! let queues = device.start()?; // pairs of `engine::RxQueue` and `engine::TxQueue`, to be given to workers
//! let worker = std::thread::spawn(move || {
//!     let _registered = register_worker(eal); // once per thread that polls: gives it a cache of mbufs
//!     drop(queues);
//! });
//! # worker.join().unwrap();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! * [`Eal`]: DPDK's run time, initialised once per process on a thread of its own, with arguments that fit the machine.
//! * [`Mempool`]: memory for packets. [`EthDev`]: a device, stopped or started. [`ring_pair`]: two devices joined by rings.
//! * [`DpdkRx`] and [`DpdkTx`]: one queue each. Segments of received mbufs are the extents of a burst; frames are copied into mbufs.
//!
//! # Safety boundary
//!
//! No mbuf and no pointer of DPDK's leaves this crate, and no function it offers is `unsafe`. What must hold, and who sees to it:
//!
//! * **DPDK is initialised before anything else is called.** Every constructor takes an [`Eal`], which only a successful
//!   `rte_eal_init` makes.
//! * **A pool outlives its mbufs.** Devices and queues hold their [`Mempool`]; the last holder frees it only if all mbufs are back,
//!   and leaves it allocated if some are still in a ring of a device.
//! * **A device is not stopped or closed under a polling thread.** Queues exist only while the device is started and keep it open;
//!   [`EthDev::stop`] refuses while one of them is alive.
//! * **One thread per queue.** A queue is polled through `&mut`; no two values for the same queue exist at once.
//! * **Extents of a burst are readable until the burst ends.** Received mbufs stay with their queue until [`engine::RxQueue::complete`], which
//!   the borrow of the burst keeps from being called before.
//! * **An mbuf is freed once.** Its pointer lies either in a queue's array, or with the device; each function that moves it says so.
//!
//! The entries are [`Eal::init`], [`Mempool::new`], [`EthDev::probe`], [`ring_pair`] and the methods of the queues. The conformance
//! suite in `tests/` attacks them over `net_ring`, `net_null` and a virtio pair: buffers back after every burst, none left after a drop.
#![allow(unsafe_code, reason = "DPDK is a C library")]

mod device;
mod device_error;
mod eal;
mod errno;
mod mempool;
mod offload;
mod port;
mod ring;
mod rx;
mod shape;
mod tx;
mod worker;

pub use device::{DeviceInfo, DeviceOptions, EthDev, LinkState, Statistics};
pub use device_error::DeviceError;
pub use eal::{Eal, EalError, EalOptions, Hugepages};
pub use errno::Errno;
pub use mempool::{Mempool, MempoolError};
pub use ring::ring_pair;
pub use rx::DpdkRx;
pub use tx::DpdkTx;
pub use worker::{RegisterError, RegisteredWorker, register_worker};
