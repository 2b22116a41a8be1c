//! The harness of the end-to-end tests and of `make demo`: real guests, real front ends, real switches.
//!
//! - [`image`] makes the kernel and the initramfs of a guest, once per checkout, in `target/guest`.
//! - [`guest`] boots QEMU with them under software emulation and talks to the agent inside, [`qmp`] to QEMU itself.
//! - [`frontend`] is a guest without QEMU: crates.io's front end, our driver, a packet at a time.
//! - [`hostile`] is front ends and guests that break rules, and the judgement of what comes of it.
//! - [`survivor`] is a guest that outlives its back end, and says what the `vhost` crate's front end cannot.
//! - [`testpmd`] runs DPDK's test application: as a foreign switch to compare with, or as a foreign guest.
//! - [`clients`] joins ports to namespaces through DPDK's driver: the kernel's network stack without a virtual machine.
//! - [`daemon`] runs `towpathd` and asks it through `towpath`; [`manifests`] writes what it is told.
//! - [`netns`] makes network namespaces, [`fabric`] an underlay of them with hosts on it, [`vtep`] ends of tunnels by others, [`inject`] packets by nobody honest.
//! - [`process`] is what they stand on: a child that cannot outlive its test.
//!
//! Nothing here is installed on the host but Debian packages (`scripts/setup.sh`); sockets, logs and images of a run live in one
//! temporary folder, a [`scratch::Scratch`].

pub mod agent;
pub mod clients;
pub mod daemon;
pub mod fabric;
pub mod frontend;
pub mod guest;
pub mod hostile;
pub mod image;
pub mod inject;
pub mod interrupt;
pub mod manifests;
pub mod netns;
pub mod process;
pub mod qmp;
pub mod scratch;
pub mod survivor;
pub mod testpmd;
pub mod vtep;
pub mod wait;

/// How the harness fails: a chain of reasons for a person to read.
pub type Result<T> = anyhow::Result<T>;
