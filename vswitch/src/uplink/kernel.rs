//! An interface of this host's kernel, as the uplink.

use super::{Device, Found, LinkState, Opened, QueuePair, Statistics, UplinkInfo, UplinkThreads, refused};
use crate::config::UplinkConfig;
use ipnet::IpNet;
use kernel_io::{Interface, Options};
use model::Problem;
use std::os::fd::BorrowedFd;

struct KernelDevice {
    interface: Interface,
}

/// Opens the interface.
pub(super) fn open(
    config: &UplinkConfig,
    ifname: &str,
    xdp: bool,
    pairs: u16,
) -> Result<Opened, Box<Problem>> {
    let options = Options { queue_pairs: pairs, xdp, ..Options::default() };
    let (interface, queues) = Interface::open(ifname, &options).map_err(|error| {
        let text = error.to_string();
        // These errors say what to do behind their last colon.
        let (message, remedy) = text.rsplit_once(": ").unwrap_or((&text, "see docs/guide/uplink.md"));
        refused(&config.driver, message, remedy)
    })?;
    let found = interface.info();
    let info = UplinkInfo {
        driver: if xdp { "AF_XDP" } else { "AF_PACKET" }.to_owned(),
        device: ifname.to_owned(),
        mac: found.mac,
        mtu: found.mtu,
        addresses: found.addresses.clone(),
        kernel_answers: Vec::new(),
        gateways: Vec::new(),
        queue_pairs: found.queue_pairs,
        rate: None,
        lacks: lacks(&queues),
    };
    let queues = queues.into_iter().map(|(rx, tx)| QueuePair { rx, tx }).collect();
    Ok(Opened {
        info,
        device: Box::new(KernelDevice { interface }),
        queues,
        threads: UplinkThreads::default(),
    })
}

/// What the interface leaves to the workers.
fn lacks(queues: &[kernel_io::QueuePair]) -> Vec<String> {
    queues.first().map(|(_, tx)| super::lacks(tx.capabilities())).unwrap_or_default()
}

impl Device for KernelDevice {
    fn look(&mut self) -> Option<Found> {
        // One that is gone has no link either, and that is told.
        self.interface.refresh().ok()?;
        let kernel_io::UplinkInfo { mac, mtu, ref addresses, .. } = *self.interface.info();
        Some(Found { mac, mtu, addresses: addresses.clone() })
    }

    fn link(&mut self) -> LinkState {
        match self.interface.link_state() {
            Ok(kernel_io::LinkState::Up) => LinkState::Up { bits_per_second: None },
            Ok(kernel_io::LinkState::Down) | Err(_) => LinkState::Down,
        }
    }

    fn statistics(&self) -> Statistics {
        let counted = self.interface.statistics();
        Statistics {
            rx_packets: Some(counted.rx_packets),
            rx_missed: counted.rx_dropped,
            rx_errors: counted.rx_truncated + counted.rx_malformed,
            tx_errors: counted.tx_lost,
            ..Statistics::default()
        }
    }

    fn take_in(&mut self, networks: &[IpNet]) -> Result<(), String> {
        self.interface.take_in(networks).map_err(|error| error.to_string())
    }

    fn event_fd(&self, pair: u16) -> Option<BorrowedFd<'_>> {
        self.interface.event_fd(usize::from(pair))
    }
}
