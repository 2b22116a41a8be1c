//! A device that DPDK drives, as the uplink.

use super::{Device, LinkState, Opened, QueuePair, Statistics, UplinkInfo, UplinkThreads, refused};
use crate::config::UplinkConfig;
use dpdk::{DeviceOptions, Eal, EalOptions, EthDev, Hugepages, Mempool, register_worker};
use engine::TxQueue;
use model::Problem;
use packet::MacAddr;
use std::any::Any;
use std::os::fd::BorrowedFd;

/// Descriptors of each queue.
const DESCRIPTORS: u16 = 1024;
/// Mbufs that are with workers besides those in descriptors: caches, bursts on their way.
const MBUFS_AT_HAND: u32 = 1024;
/// Memory for drivers and rings besides the mbufs, in MiB.
const DRIVER_MEBIBYTES: u32 = 64;
/// Bytes of an mbuf with everything around it, rounded up.
const MBUF_BYTES: u32 = 2560;

struct DpdkDevice {
    device: EthDev,
}

/// Starts DPDK and the device.
pub(super) fn open(
    config: &UplinkConfig,
    device: &str,
    eal: &[String],
    pairs: u16,
) -> Result<Opened, Box<Problem>> {
    let remedy = "see docs/guide/uplink.md for what a device of DPDK needs";
    let problem = |error: &dyn std::fmt::Display| match split_remedy(&error.to_string()) {
        (message, Some(remedy)) => refused(&config.driver, message, remedy),
        (message, None) => refused(&config.driver, message, remedy),
    };
    let mbufs = mbufs(pairs);
    let options = EalOptions {
        memory_mebibytes: DRIVER_MEBIBYTES
            + (u64::from(mbufs) * u64::from(MBUF_BYTES)).div_ceil(1 << 20) as u32,
        hugepages: hugepages(device),
        pci: pci_address(device).into_iter().collect(),
        cpu: None,
        extra: eal.to_vec(),
    };
    let eal = Eal::init(&options).map_err(|error| problem(&error))?;
    let pool = Mempool::new(eal, "uplink", mbufs).map_err(|error| problem(&error))?;
    let wanted = DeviceOptions {
        queue_pairs: pairs,
        rx_descriptors: DESCRIPTORS,
        tx_descriptors: DESCRIPTORS,
        mtu: config.mtu,
        ipv6_tunnels: config.addresses.iter().any(|net| net.addr().is_ipv6()),
    };
    let mut opened = EthDev::probe(eal, device, &pool, &wanted).map_err(|error| problem(&error))?;
    let queues = opened.start().map_err(|error| problem(&error))?;
    opened.receive_groups().map_err(|error| problem(&error))?;
    let info = UplinkInfo {
        driver: format!("DPDK {}", opened.info().driver),
        device: device.to_owned(),
        mac: opened.mac().map_err(|error| problem(&error))?,
        mtu: opened.info().mtu,
        addresses: Vec::new(),
        kernel_answers: Vec::new(),
        gateways: Vec::new(),
        queue_pairs: opened.info().queue_pairs,
        rate: None,
        lacks: lacks(&opened, queues.first().map(|(_, tx)| tx.capabilities())),
    };
    if info.mac == MacAddr([0; 6]) {
        return Err(refused(&config.driver, "the device has no Ethernet address", remedy));
    }
    let queues =
        queues.into_iter().map(|(rx, tx)| QueuePair { rx: Box::new(rx), tx: Box::new(tx) }).collect();
    let threads = UplinkThreads::new(move || match register_worker(eal) {
        Ok(registered) => Some(Box::new(registered) as Box<dyn Any>),
        Err(error) => {
            tracing::warn!("{error}");
            None
        }
    });
    Ok(Opened { info, device: Box::new(DpdkDevice { device: opened }), queues, threads })
}

/// What the device leaves to the workers.
fn lacks(device: &EthDev, takes: Option<engine::OffloadCapabilities>) -> Vec<String> {
    let mut lacks = takes.map(super::lacks).unwrap_or_default();
    if !device.info().events {
        lacks.push("no receive interrupts: its workers never sleep".to_owned());
    }
    if device.info().queue_pairs > 1 && !device.info().spreads {
        lacks.push(
            "no receive hash to set: the driver alone decides which queue a flow comes in by".to_owned(),
        );
    }
    lacks
}

/// Mbufs for that many pairs of queues: all descriptors filled, and some at hand; a power of two less one, which fits a pool best.
fn mbufs(pairs: u16) -> u32 {
    ((2 * u32::from(DESCRIPTORS) + MBUFS_AT_HAND) * u32::from(pairs.max(1))).next_power_of_two() - 1
}

/// virtio-user gives its memory to another process, so it must be one file.
fn hugepages(device: &str) -> Hugepages {
    if device.trim_start_matches("vdev:").starts_with("net_virtio_user") {
        Hugepages::Never
    } else {
        Hugepages::WhenFree
    }
}

/// The PCI address in devargs, as `0000:3b:00.0`, with or without its domain.
fn pci_address(device: &str) -> Option<String> {
    let name = device.split(',').next()?;
    let name = name.strip_prefix("pci:").unwrap_or(name);
    let (slot, function) = name.rsplit_once('.')?;
    let hex = |part: &str, longest: usize| {
        (1..=longest).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let parts: Vec<&str> = slot.split(':').collect();
    let known = match parts.as_slice() {
        [domain, bus, device] => hex(domain, 8) && hex(bus, 2) && hex(device, 2),
        [bus, device] => hex(bus, 2) && hex(device, 2),
        _ => false,
    };
    (known && hex(function, 1)).then(|| name.to_owned())
}

/// What is wrong and what to do, where a message of DPDK's crate says both.
fn split_remedy(text: &str) -> (String, Option<String>) {
    match text.rsplit_once(": ") {
        Some((message, remedy)) if remedy.split(' ').count() > 2 => {
            (message.to_owned(), Some(remedy.to_owned()))
        }
        _ => (text.to_owned(), None),
    }
}

impl Device for DpdkDevice {
    fn link(&mut self) -> LinkState {
        match self.device.link() {
            Ok(dpdk::LinkState::Up { speed_megabits_per_second: speed }) => {
                LinkState::Up { bits_per_second: speed.map(|speed| u64::from(speed) * 1_000_000) }
            }
            Ok(dpdk::LinkState::Down) | Err(_) => LinkState::Down,
        }
    }

    fn statistics(&self) -> Statistics {
        let counted = self.device.statistics().unwrap_or_default();
        Statistics {
            rx_packets: Some(counted.rx_packets),
            rx_bytes: Some(counted.rx_bytes),
            tx_packets: Some(counted.tx_packets),
            tx_bytes: Some(counted.tx_bytes),
            rx_missed: counted.rx_missed,
            rx_errors: counted.rx_errors + counted.rx_no_mbufs,
            tx_errors: counted.tx_errors,
        }
    }

    fn event_fd(&self, pair: u16) -> Option<BorrowedFd<'_>> {
        self.device.event_fd(pair)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_are_told_from_virtual_devices() {
        for address in ["0000:3b:00.0", "3b:00.1", "10000:e1:00.0", "0000:3b:00.0,arg=1", "pci:0000:3b:00.0"]
        {
            let expected = address.trim_start_matches("pci:").split(',').next().unwrap();
            assert_eq!(pci_address(address).as_deref(), Some(expected));
        }
        for device in
            ["net_null0", "net_tap0,iface=a.b", "eth_af_packet0,iface=3b:00.0", "0000:3b:00", "x:3b:00.0"]
        {
            assert_eq!(pci_address(device), None, "{device}");
        }
        assert_eq!(hugepages("net_virtio_user0,path=/x"), Hugepages::Never);
        assert_eq!(hugepages("net_null0"), Hugepages::WhenFree);
    }

    #[test]
    fn a_pool_fills_all_descriptors() {
        assert_eq!(mbufs(1), 4095);
        assert_eq!(mbufs(4), 16_383);
        assert!(mbufs(16) > 16 * 2 * u32::from(DESCRIPTORS));
    }

    #[test]
    fn messages_are_parted_from_their_remedies() {
        assert_eq!(
            split_remedy("DPDK device x: probing it: no such device: check the devargs"),
            ("DPDK device x: probing it: no such device".to_owned(), Some("check the devargs".to_owned()))
        );
        assert_eq!(split_remedy("odd: x").1, None);
    }
}
