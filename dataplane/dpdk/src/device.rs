//! Ethernet devices: probe, configure, start, stop.

use crate::port::{self, Beneath, Port, SegmentLimits, failed, registry};
use crate::shape::{Wanted, shape, spread};
use crate::{DeviceError, DpdkRx, DpdkTx, Eal, Errno, Mempool};
use dpdk_sys::{rte_eth_dev_info, rte_eth_link, rte_eth_stats};
use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Link headers beside an IP packet: Ethernet and two VLAN tags.
const LINK_BYTES: usize = 14 + 8;

/// The driver whose descriptors are its front end's: they change with every connection, so nobody can wait for them.
const VHOST: &str = "net_vhost";

/// How a device is to be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceOptions {
    /// Pairs of a receive and a transmit queue, at least 1; a device that has fewer gets what it has ([`EthDev::queue_pairs`]). Received
    /// flows are spread over them by the device (RSS).
    pub queue_pairs: u16,
    /// Descriptors of each receive queue; rounded to what the driver can.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit queue; rounded likewise.
    pub tx_descriptors: u16,
    /// The longest IP packet, in bytes. Frames are up to 22 bytes longer. Absent: what the device is set to.
    pub mtu: Option<u16>,
    /// Tunnels go over IPv6, so that segments cut inside of one need an outer UDP checksum.
    pub ipv6_tunnels: bool,
}

impl Default for DeviceOptions {
    /// One pair, 1,024 descriptors each way, the device's MTU, any tunnels.
    fn default() -> Self {
        Self { queue_pairs: 1, rx_descriptors: 1024, tx_descriptors: 1024, mtu: None, ipv6_tunnels: true }
    }
}

/// The state of a device's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// No carrier.
    Down,
    /// Carrier.
    Up {
        /// Its speed in Mbit/s, if the driver knows.
        speed_megabits_per_second: Option<u32>,
    },
}

/// What a device counted since it was started or [`EthDev::reset_statistics`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets lost because the receive queues were full.
    pub rx_missed: u64,
    /// Packets received in error.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets lost because the mempool was empty.
    pub rx_no_mbufs: u64,
}

/// A device, configured. Its queues exist while it is started.
#[derive(Debug)]
pub struct EthDev {
    port: Arc<Port>,
    options: DeviceOptions,
    info: DeviceInfo,
    wanted: Wanted,
    rx_offloads: u64,
    tx_offloads: u64,
    most_segments: SegmentLimits,
    /// Held once more by each queue of the current start.
    queues: Arc<()>,
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The driver's name, as `net_ixgbe`.
    pub driver: String,
    /// Pairs of queues that [`EthDev::start`] makes: as many as asked for, or as many as the device has.
    pub queue_pairs: u16,
    /// The longest IP packet, in bytes.
    pub mtu: u16,
    /// Whether it has a hash by which it spreads flows over its receive queues.
    pub spreads: bool,
    /// Whether its receive queues raise events (known once it was started): see [`EthDev::event_fd`].
    pub events: bool,
}

impl EthDev {
    /// Finds a device by its devargs (`0000:3b:00.0`, `net_null0`, `net_tap0,iface=tap0`) and configures it. What it receives lies in
    /// mbufs of `pool`, and what is sent is copied into such. The device is this value's alone until it and its queues are dropped.
    ///
    /// # Errors
    ///
    /// As [`DeviceError`] says.
    pub fn probe(
        _: Eal,
        devargs: &str,
        pool: &Mempool,
        options: &DeviceOptions,
    ) -> Result<Self, DeviceError> {
        let name = devargs.split(',').next().unwrap_or(devargs);
        let name = name.strip_prefix("vdev:").or_else(|| name.strip_prefix("pci:")).unwrap_or(name);
        let no_text = |_| DeviceError::Devargs { device: name.to_owned() };
        let c_devargs = CString::new(devargs).map_err(no_text)?;
        let guard = registry();
        // SAFETY: `Eal` proves the initialisation; the string is copied.
        let result = unsafe { dpdk_sys::rte_dev_probe(c_devargs.as_ptr()) };
        drop(guard);
        // PCI devices that the EAL was told of are probed by it.
        if Errno::check(result) != Err(Errno::Exists) {
            failed(name, "probing it", result)?;
        }
        Self::of_name(name, pool, options, None)
    }

    /// Configures the port that a driver made under this name.
    pub(crate) fn of_name(
        name: &str,
        pool: &Mempool,
        options: &DeviceOptions,
        beneath: Option<Beneath>,
    ) -> Result<Self, DeviceError> {
        let c_name = CString::new(name).map_err(|_| DeviceError::Devargs { device: name.to_owned() })?;
        let mut id = 0;
        // SAFETY: a C string and a place for the result.
        let result = unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(c_name.as_ptr(), &mut id) };
        failed(name, "looking for its port", result)?;
        Self::configure(Port::take(id, name, pool, beneath)?, options)
    }

    fn configure(port: Port, options: &DeviceOptions) -> Result<Self, DeviceError> {
        let info = port.info()?;
        let device = || port.name.clone();
        let most = info.max_rx_queues.min(info.max_tx_queues);
        if options.queue_pairs == 0 || most == 0 {
            return Err(DeviceError::QueuePairs { device: device(), asked: options.queue_pairs, most });
        }
        let pairs = options.queue_pairs.min(most);
        let mtu = match options.mtu {
            Some(mtu) => mtu,
            None => port.mtu()?,
        };
        let scatters = info.rx_offload_capa & dpdk_sys::TOWPATH_ETH_RX_OFFLOAD_SCATTER != 0;
        let needs_scatter = usize::from(mtu) + LINK_BYTES > crate::mempool::DATA_ROOM_BYTES;
        // Some drivers (net_vhost) scatter without saying so; one that cannot refuses the MTU itself.
        let scatter = needs_scatter && scatters;
        let ipv6_tunnels = options.ipv6_tunnels;
        let info_of = DeviceInfo {
            driver: port::driver_name(&info),
            queue_pairs: pairs,
            mtu,
            spreads: spread(&info) != 0,
            events: false,
        };
        let mut device = Self {
            options: *options,
            info: info_of,
            wanted: Wanted { queue_pairs: pairs, mtu, scatter, ipv6_tunnels, events: true },
            rx_offloads: 0,
            tx_offloads: 0,
            most_segments: SegmentLimits::of(&info.tx_desc_lim, 0),
            queues: Arc::new(()),
            port: Arc::new(port),
        };
        device.reconfigure(&info)?;
        Ok(device)
    }

    /// Tells the device how it is to be used. It is stopped.
    fn reconfigure(&mut self, info: &rte_eth_dev_info) -> Result<(), DeviceError> {
        let (port, wanted) = (&self.port, self.wanted);
        let shape = shape(info, wanted);
        let pairs = wanted.queue_pairs;
        // SAFETY: the port is open and stopped; the configuration is copied, and the hash key it points to is static.
        let result = unsafe { dpdk_sys::rte_eth_dev_configure(port.id, pairs, pairs, &shape) };
        if result < 0 && !(info.min_mtu..=info.max_mtu).contains(&wanted.mtu) {
            let (least, most, device) = (info.min_mtu, info.max_mtu, port.name.clone());
            return Err(DeviceError::Mtu { device, asked: wanted.mtu, least, most });
        }
        port.check("configuring it", result)?;
        (self.rx_offloads, self.tx_offloads) = (shape.rxmode.offloads, shape.txmode.offloads);
        self.most_segments = SegmentLimits::of(&info.tx_desc_lim, self.tx_offloads);
        Ok(())
    }

    /// Sets up the queues and starts the device. The pairs may go to different threads, as may the two of a pair.
    ///
    /// # Errors
    ///
    /// [`DeviceError::QueuesInUse`] when it is started already and its queues live; what the driver says otherwise.
    pub fn start(&mut self) -> Result<Vec<(DpdkRx, DpdkTx)>, DeviceError> {
        self.stop()?;
        if let Err(problem) = self.bring_up() {
            if !self.wanted.events {
                return Err(problem);
            }
            // Some drivers do not start with events when the kernel's driver beneath has none to give.
            self.wanted.events = false;
            self.reconfigure(&self.port.info()?)?;
            self.bring_up()?;
        }
        self.port.started.store(true, Relaxed);
        self.info.events =
            self.wanted.events && (0..self.info.queue_pairs).all(|queue| self.has_events(queue));
        let longest = usize::from(self.info.mtu) + LINK_BYTES;
        Ok((0..self.info.queue_pairs)
            .map(|queue| {
                let rx = DpdkRx::new(self.port.clone(), self.queues.clone(), queue, self.info.events);
                let tx = DpdkTx::new(
                    self.port.clone(),
                    self.queues.clone(),
                    queue,
                    longest,
                    self.most_segments,
                    self.tx_offloads,
                );
                (rx, tx)
            })
            .collect())
    }

    fn bring_up(&self) -> Result<(), DeviceError> {
        self.set_up_queues()?;
        // SAFETY: the port is configured, stopped, and nobody polls it.
        self.port.check("starting it", unsafe { dpdk_sys::rte_eth_dev_start(self.port.id) })
    }

    /// Whether a receive queue has a descriptor, for as long as the device runs, and can be told to raise events.
    fn has_events(&self, queue: u16) -> bool {
        if self.info.driver == VHOST {
            return false;
        }
        let id = self.port.id;
        // SAFETY: the port is started and has this queue; nobody has it yet.
        let able = unsafe {
            dpdk_sys::rte_eth_dev_rx_intr_ctl_q_get_fd(id, queue) >= 0
                && dpdk_sys::rte_eth_dev_rx_intr_enable(id, queue) == 0
        };
        // SAFETY: the same.
        able && unsafe { dpdk_sys::rte_eth_dev_rx_intr_disable(id, queue) == 0 }
    }

    /// The descriptor that becomes readable when receive queue `queue`, armed, gets a packet; to be waited for by edges (`EPOLLET`), not to be
    /// read. `None` while the device is stopped, or when its driver raises no events: such a queue, armed, always says that there may be one.
    pub fn event_fd(&self, queue: u16) -> Option<BorrowedFd<'_>> {
        if !self.info.events || !self.port.started.load(Relaxed) || queue >= self.info.queue_pairs {
            return None;
        }
        // SAFETY: the port is started and has this queue.
        let fd = unsafe { dpdk_sys::rte_eth_dev_rx_intr_ctl_q_get_fd(self.port.id, queue) };
        // SAFETY: the device's own descriptor, open until it is stopped, which needs this value mutably.
        (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
    }

    fn set_up_queues(&self) -> Result<(), DeviceError> {
        let (port, info) = (&self.port, self.port.info()?);
        let (mut rx, mut tx) = (self.options.rx_descriptors, self.options.tx_descriptors);
        // SAFETY: the port is open and stopped; the numbers are adjusted in place.
        let result = unsafe { dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(port.id, &mut rx, &mut tx) };
        port.check("choosing its descriptors", result)?;
        let mut rx_conf = info.default_rxconf;
        rx_conf.offloads = self.rx_offloads;
        let mut tx_conf = info.default_txconf;
        tx_conf.offloads = self.tx_offloads;
        // SAFETY: no conditions; a port of no node says so with a negative number, which becomes "any".
        let node = unsafe { dpdk_sys::rte_eth_dev_socket_id(port.id) } as u32;
        for queue in 0..self.info.queue_pairs {
            // SAFETY: the port is stopped and has that many queues; configurations are copied, and the pool lives as long as the port.
            let result = unsafe {
                dpdk_sys::rte_eth_rx_queue_setup(port.id, queue, rx, node, &rx_conf, port.pool.as_ptr())
            };
            port.check("setting up a receive queue", result)?;
            // SAFETY: likewise.
            let result = unsafe { dpdk_sys::rte_eth_tx_queue_setup(port.id, queue, tx, node, &tx_conf) };
            port.check("setting up a transmit queue", result)?;
        }
        Ok(())
    }

    /// Stops the device. It can be started again.
    ///
    /// # Errors
    ///
    /// [`DeviceError::QueuesInUse`] while a queue lives; what the driver says otherwise.
    pub fn stop(&mut self) -> Result<(), DeviceError> {
        if !self.port.started.load(Relaxed) {
            return Ok(());
        }
        if Arc::get_mut(&mut self.queues).is_none() {
            return Err(DeviceError::QueuesInUse { device: self.port.name.clone() });
        }
        // SAFETY: no queue lives, so nobody polls the port.
        self.port.check("stopping it", unsafe { dpdk_sys::rte_eth_dev_stop(self.port.id) })?;
        self.port.started.store(false, Relaxed);
        Ok(())
    }

    /// Its name: the devargs up to the first comma.
    pub fn name(&self) -> &str {
        &self.port.name
    }

    /// What it is.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Its Ethernet address.
    ///
    /// # Errors
    ///
    /// What the driver says.
    pub fn mac(&self) -> Result<packet::MacAddr, DeviceError> {
        let mut address = dpdk_sys::rte_ether_addr::default();
        // SAFETY: the port is open; DPDK fills the structure.
        let result = unsafe { dpdk_sys::rte_eth_macaddr_get(self.port.id, &mut address) };
        self.port.check("asking for its address", result)?;
        Ok(packet::MacAddr(address.addr_bytes))
    }

    /// The state of its link, without waiting.
    ///
    /// # Errors
    ///
    /// What the driver says.
    pub fn link(&self) -> Result<LinkState, DeviceError> {
        let mut link = rte_eth_link::default();
        // SAFETY: the port is open; DPDK fills the structure.
        let result = unsafe { dpdk_sys::rte_eth_link_get_nowait(self.port.id, &mut link) };
        self.port.check("asking for its link", result)?;
        if u32::from(link.link_status()) == dpdk_sys::RTE_ETH_LINK_DOWN {
            return Ok(LinkState::Down);
        }
        let known = link.link_speed != 0 && link.link_speed != u32::MAX;
        Ok(LinkState::Up { speed_megabits_per_second: known.then_some(link.link_speed) })
    }

    /// What it counted.
    ///
    /// # Errors
    ///
    /// What the driver says.
    pub fn statistics(&self) -> Result<Statistics, DeviceError> {
        let mut stats = rte_eth_stats::default();
        // SAFETY: the port is open; DPDK fills the structure.
        let result = unsafe { dpdk_sys::rte_eth_stats_get(self.port.id, &mut stats) };
        self.port.check("asking for its statistics", result)?;
        Ok(Statistics {
            rx_packets: stats.ipackets,
            rx_bytes: stats.ibytes,
            tx_packets: stats.opackets,
            tx_bytes: stats.obytes,
            rx_missed: stats.imissed,
            rx_errors: stats.ierrors,
            tx_errors: stats.oerrors,
            rx_no_mbufs: stats.rx_nombuf,
        })
    }

    /// Counts from zero again.
    ///
    /// # Errors
    ///
    /// What the driver says.
    pub fn reset_statistics(&self) -> Result<(), DeviceError> {
        // SAFETY: the port is open.
        self.port.check("resetting its statistics", unsafe { dpdk_sys::rte_eth_stats_reset(self.port.id) })
    }

    /// Receives frames for any group, not only for its own address: neighbour discovery asks groups. Where the driver cannot tell groups from
    /// other stations it receives everything.
    ///
    /// # Errors
    ///
    /// What the driver says; [`Errno::Unsupported`] of a device that has no filter, and so receives everything as it is, is none.
    pub fn receive_groups(&self) -> Result<(), DeviceError> {
        // SAFETY: the port is open.
        let groups = unsafe { dpdk_sys::rte_eth_allmulticast_enable(self.port.id) };
        if groups >= 0 {
            return Ok(());
        }
        // SAFETY: the same.
        let all = unsafe { dpdk_sys::rte_eth_promiscuous_enable(self.port.id) };
        if Errno::check(all) == Err(Errno::Unsupported) {
            return Ok(());
        }
        self.port.check("receiving groups", all)
    }
}
