//! The way to other hosts: opens the device that the file names, whatever drives it, and keeps it.
//!
//! [`Uplink::open`] is called once, before workers start. Its queues go to the switch ([`Uplink::take_queues`]); the rest stays with the
//! control thread, which asks for the link once a second. This folder is the only place that knows which drivers were built in.

#[cfg(feature = "dpdk")]
mod dpdk;
mod kernel;
mod thread;

pub use thread::{UplinkThread, UplinkThreads};

use crate::config::{Config, UplinkConfig, UplinkDriver, unreachable_gateway};
use engine::{RxQueue, TxQueue};
use ipnet::IpNet;
use model::Problem;
use packet::MacAddr;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

/// What an uplink is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkInfo {
    /// What moves its packets, as `DPDK net_ixgbe` or `af_packet`.
    pub driver: String,
    /// The device as the file names it.
    pub device: String,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// The longest IP packet of the underlay, in bytes.
    pub mtu: u16,
    /// Addresses of this host's tunnels with their subnets, in the order preferred; at least one.
    pub addresses: Vec<IpNet>,
    /// Those of them that this host's kernel has as well: it answers ARP, neighbour discovery and ping for them.
    pub kernel_answers: Vec<IpAddr>,
    /// Routers to everything that is in none of the subnets, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// Pairs of queues.
    pub queue_pairs: u16,
    /// What the file says that it carries, in bits per second.
    pub rate: Option<u64>,
    /// What the device does not do, so that workers do it or it is not done; each a short sentence.
    pub lacks: Vec<String>,
}

/// The state of an uplink's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// No carrier, or the interface is down or gone.
    Down,
    /// Carrier.
    Up {
        /// Its speed, if the driver knows.
        bits_per_second: Option<u64>,
    },
}

impl fmt::Display for LinkState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down => formatter.write_str("down"),
            Self::Up { bits_per_second: None } => formatter.write_str("up"),
            Self::Up { bits_per_second: Some(rate) } => {
                write!(formatter, "up at {}", model::quantity::BitRate(*rate))
            }
        }
    }
}

/// What a device counted, since it was opened. The switch's own counters are those of the uplink's port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets received. These four are absent where the driver does not count them.
    pub rx_packets: Option<u64>,
    /// Bytes received.
    pub rx_bytes: Option<u64>,
    /// Packets sent.
    pub tx_packets: Option<u64>,
    /// Bytes sent.
    pub tx_bytes: Option<u64>,
    /// Packets lost because no worker took them in time.
    pub rx_missed: u64,
    /// Packets received in error, or with no memory for them.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
}

/// A receive and a transmit queue, for one worker.
pub struct QueuePair {
    /// What arrives.
    pub rx: Box<dyn RxQueue>,
    /// What leaves.
    pub tx: Box<dyn TxQueue>,
}

/// What of a device may change while it is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    mac: MacAddr,
    mtu: u16,
    addresses: Vec<IpNet>,
}

/// What a driver keeps behind its queues.
trait Device: Send {
    /// The state of the link, without waiting.
    fn link(&mut self) -> LinkState;
    /// What the device is now; `None` if it cannot be told, or cannot change.
    fn look(&mut self) -> Option<Found> {
        None
    }
    /// Hands over what is for these networks too; nothing to do where all that comes is handed over.
    fn take_in(&mut self, _networks: &[IpNet]) -> Result<(), String> {
        Ok(())
    }
    /// What the device counted.
    fn statistics(&self) -> Statistics;
    /// What becomes readable when pair `pair`, armed, has a packet. `None`: its queues have no events, and arming them says so.
    fn event_fd(&self, pair: u16) -> Option<BorrowedFd<'_>>;
}

/// What a driver made of a device: what it found, the device, and its queues. Addresses are the interface's; those of the file win.
struct Opened {
    info: UplinkInfo,
    device: Box<dyn Device>,
    queues: Vec<QueuePair>,
    threads: UplinkThreads,
}

/// An open uplink. Its device is closed when this and the queues are dropped.
pub struct Uplink {
    /// What it is.
    pub info: UplinkInfo,
    device: Box<dyn Device>,
    queues: Vec<QueuePair>,
    threads: UplinkThreads,
    link: LinkState,
    link_changes: u64,
    config: UplinkConfig,
    found: Found,
    problem: Option<Box<Problem>>,
}

impl fmt::Debug for Uplink {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Uplink")
            .field("info", &self.info)
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

impl Uplink {
    /// Opens the uplink of the file with a pair of queues for each worker, if the device has as many; `None` when the file has none.
    /// Blocks (DPDK looks for devices). To be called once in a process, before other threads are pinned.
    ///
    /// # Errors
    ///
    /// What is wrong with the device, the field that names it and what to do.
    pub fn open(config: &Config) -> Result<Option<Self>, Box<Problem>> {
        let Some(uplink) = &config.uplink else { return Ok(None) };
        let pairs = u16::try_from(config.workers.cores.len()).unwrap_or(1);
        let named = |mut problem: Box<Problem>| {
            problem.file = config.file.as_ref().map(|file| file.display().to_string());
            problem
        };
        let opened = match &uplink.driver {
            #[cfg(feature = "dpdk")]
            UplinkDriver::Dpdk { device } => dpdk::open(uplink, device, &config.eal, pairs),
            #[cfg(not(feature = "dpdk"))]
            UplinkDriver::Dpdk { device } => Err(refused(
                &uplink.driver,
                format!("this towpathd was built without DPDK and cannot drive {device}"),
                "build it with its feature dpdk",
            )),
            UplinkDriver::Kernel { ifname, xdp } => kernel::open(uplink, ifname, *xdp, pairs),
        };
        let mut opened = opened.map_err(named)?;
        let UplinkInfo { mac, mtu, ref addresses, .. } = opened.info;
        let found = Found { mac, mtu, addresses: addresses.clone() };
        let info = settle(opened.info, uplink).map_err(named)?;
        let link = opened.device.link();
        Ok(Some(Self {
            info,
            device: opened.device,
            queues: opened.queues,
            threads: opened.threads,
            link,
            link_changes: 0,
            config: uplink.clone(),
            found,
            problem: None,
        }))
    }

    /// The queues, pair by pair, to be attached to the switch. Empty when they were taken.
    pub fn take_queues(&mut self) -> Vec<QueuePair> {
        std::mem::take(&mut self.queues)
    }

    /// What becomes readable (at every packet anew: to be waited for edge-triggered) when pair `pair`, armed, has a packet. `None`: a worker
    /// that polls it goes on polling.
    pub fn event_fd(&self, pair: u16) -> Option<BorrowedFd<'_>> {
        self.device.event_fd(pair)
    }

    /// What threads that poll the queues do first.
    pub fn threads(&self) -> UplinkThreads {
        self.threads.clone()
    }

    /// The link when it was last asked for.
    pub fn link(&self) -> LinkState {
        self.link
    }

    /// How often the link came or went.
    pub fn link_changes(&self) -> u64 {
        self.link_changes
    }

    /// Asks the device for its link; what it is now, if that is new. To be called about once a second.
    pub fn poll_link(&mut self) -> Option<LinkState> {
        let link = self.device.link();
        let changed = link != self.link;
        self.link = link;
        self.link_changes += u64::from(changed);
        changed.then_some(link)
    }

    /// Looks whether the device has another MAC address, MTU or other addresses; whether [`Uplink::info`] is new for that. To be called about once a second.
    pub fn poll_change(&mut self) -> bool {
        let Some(found) = self.device.look().filter(|found| *found != self.found) else { return false };
        self.found = found.clone();
        let Found { mac, mtu, addresses } = found;
        match settle(UplinkInfo { mac, mtu, addresses, ..self.info.clone() }, &self.config) {
            Ok(info) => {
                self.problem = None;
                let is_new = info != self.info;
                self.info = info;
                is_new
            }
            Err(problem) => {
                self.problem = Some(problem);
                false
            }
        }
    }

    /// Hands over to the workers, besides what is for this host's tunnels, whatever is for these addresses: external ones that this host announces.
    ///
    /// # Errors
    ///
    /// The device refuses; what it did before it goes on doing.
    pub fn take_in(&mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Result<(), String> {
        let networks: Vec<IpNet> = addresses.into_iter().map(IpNet::from).collect();
        self.device.take_in(&networks)
    }

    /// Why what the device became cannot be used: [`Uplink::info`] is what it was before.
    pub fn problem(&self) -> Option<&Problem> {
        self.problem.as_deref()
    }

    /// What the device counted.
    pub fn statistics(&self) -> Statistics {
        self.device.statistics()
    }
}

/// A problem of the device that the file names.
fn refused(driver: &UplinkDriver, message: impl Into<String>, remedy: impl Into<String>) -> Box<Problem> {
    Box::new(Problem::new(message, remedy).field(driver.field()).value(driver.device()))
}

/// What the file says over what the driver found.
fn settle(mut info: UplinkInfo, config: &UplinkConfig) -> Result<UplinkInfo, Box<Problem>> {
    let on_interface: Vec<IpNet> =
        info.addresses.drain(..).filter(|net| is_tunnel_address(net.addr())).collect();
    info.addresses =
        if config.addresses.is_empty() { on_interface.clone() } else { config.addresses.clone() };
    if info.addresses.is_empty() {
        let remedy = format!(
            "give it one (ip address add 192.0.2.1/24 dev {}), or write uplink.addresses",
            config.driver.device()
        );
        return Err(refused(
            &config.driver,
            "the interface has no address that other hosts can reach",
            remedy,
        ));
    }
    let shared = |net: &&IpNet| on_interface.iter().any(|other| other.addr() == net.addr());
    info.kernel_answers = info.addresses.iter().filter(shared).map(IpNet::addr).collect();
    info.gateways.clone_from(&config.gateways);
    for gateway in &info.gateways {
        if let Some(refusal) = unreachable_gateway(*gateway, &info.addresses) {
            let problem = Problem::new(refusal.message, refusal.remedy).field("uplink.gateway");
            return Err(Box::new(problem.value(&gateway.to_string())));
        }
    }
    if let Some(mtu) = config.mtu {
        if mtu > info.mtu {
            let (device, has) = (config.driver.device(), info.mtu);
            let message = format!("{device} has an MTU of {has}");
            let remedy = format!("write at most {has}, or raise it (ip link set {device} mtu {mtu})");
            let problem = Problem::new(message, remedy).field("uplink.mtu");
            return Err(Box::new(problem.value(&mtu.to_string())));
        }
        info.mtu = mtu;
    }
    info.rate = config.rate.map(|rate| rate.0);
    Ok(info)
}

/// What a transmit queue leaves to the workers, in words.
fn lacks(takes: engine::OffloadCapabilities) -> Vec<String> {
    let mut lacks = Vec::new();
    if !takes.checksum {
        lacks.push("checksums are summed by workers".to_owned());
    }
    if !takes.tso4 || !takes.tso6 {
        lacks.push("large sends are cut by workers".to_owned());
    } else if !takes.tunnel {
        lacks.push("large sends in tunnels are cut by workers".to_owned());
    }
    lacks
}

/// Whether another host can reach it: neither link-local, loopback, a group, nor nobody's.
fn is_tunnel_address(address: IpAddr) -> bool {
    let narrow = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(narrow || address.is_loopback() || address.is_multicast() || address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::quantity::BitRate;

    fn info(addresses: &[&str]) -> UplinkInfo {
        UplinkInfo {
            driver: "af_packet".into(),
            device: "u0".into(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            kernel_answers: Vec::new(),
            gateways: Vec::new(),
            queue_pairs: 1,
            rate: None,
            lacks: Vec::new(),
        }
    }

    fn config() -> UplinkConfig {
        let driver = UplinkDriver::Kernel { ifname: "u0".into(), xdp: false };
        UplinkConfig { driver, addresses: Vec::new(), gateways: Vec::new(), mtu: None, rate: None }
    }

    #[test]
    fn addresses_come_from_the_interface_unless_the_file_has_some() {
        let found = info(&["fe80::1/64", "192.0.2.1/24", "127.0.0.1/8", "2001:db8::1/64"]);
        let taken = settle(found.clone(), &config()).unwrap();
        assert_eq!(taken.addresses, info(&["192.0.2.1/24", "2001:db8::1/64"]).addresses);
        assert_eq!(taken.kernel_answers.len(), 2, "the kernel has them all");
        let written = vec!["192.0.2.7/24".parse().unwrap(), "192.0.2.1/24".parse().unwrap()];
        let both = settle(found, &UplinkConfig { addresses: written.clone(), ..config() }).unwrap();
        assert_eq!(both.addresses, written);
        assert_eq!(both.kernel_answers, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        let problem = settle(info(&["fe80::1/64"]), &config()).unwrap_err().to_string();
        assert!(problem.contains("uplink.kernel.ifname \"u0\": the interface has no address"), "{problem}");
        assert!(problem.contains("ip address add"), "{problem}");
    }

    #[test]
    fn a_gateway_is_in_a_subnet_of_the_interface() {
        let gateways = |text: &str| UplinkConfig { gateways: vec![text.parse().unwrap()], ..config() };
        assert_eq!(settle(info(&["192.0.2.1/24"]), &gateways("192.0.2.254")).unwrap().gateways.len(), 1);
        let problem = settle(info(&["192.0.2.1/24"]), &gateways("198.51.100.1")).unwrap_err().to_string();
        assert!(problem.contains("uplink.gateway \"198.51.100.1\": is in none of"), "{problem}");
    }

    #[test]
    fn the_mtu_is_the_devices_or_less() {
        let with = |mtu| settle(info(&["192.0.2.1/24"]), &UplinkConfig { mtu, ..config() });
        assert_eq!(with(None).unwrap().mtu, 1500);
        assert_eq!(with(Some(1400)).unwrap().mtu, 1400);
        let problem = with(Some(9000)).unwrap_err().to_string();
        assert!(problem.contains("uplink.mtu \"9000\": u0 has an MTU of 1500"), "{problem}");
        let rated = UplinkConfig { rate: Some(BitRate(25_000_000_000)), ..config() };
        assert_eq!(settle(info(&["192.0.2.1/24"]), &rated).unwrap().rate, Some(25_000_000_000));
    }

    /// A device that is what the test says.
    struct Fake(std::sync::Arc<std::sync::Mutex<Found>>);

    impl Device for Fake {
        fn link(&mut self) -> LinkState {
            LinkState::Down
        }
        fn look(&mut self) -> Option<Found> {
            Some(self.0.lock().unwrap().clone())
        }
        fn statistics(&self) -> Statistics {
            Statistics::default()
        }
        fn event_fd(&self, _: u16) -> Option<BorrowedFd<'_>> {
            None
        }
    }

    #[test]
    fn a_device_that_changes_is_used_as_it_is_unless_that_cannot_be() {
        let opened = info(&["192.0.2.1/24", "fe80::1/64"]);
        let UplinkInfo { mac, mtu, ref addresses, .. } = opened;
        let found = Found { mac, mtu, addresses: addresses.clone() };
        let device = std::sync::Arc::new(std::sync::Mutex::new(found.clone()));
        let config = UplinkConfig { gateways: vec!["192.0.2.254".parse().unwrap()], ..config() };
        let mut uplink = Uplink {
            info: settle(opened, &config).unwrap(),
            device: Box::new(Fake(device.clone())),
            queues: Vec::new(),
            threads: UplinkThreads::default(),
            link: LinkState::Down,
            link_changes: 0,
            config,
            found,
            problem: None,
        };
        let mut become_ = |change: &dyn Fn(&mut Found)| {
            change(&mut device.lock().unwrap());
            let is_new = uplink.poll_change();
            assert!(!uplink.poll_change(), "once");
            (is_new, uplink.info.clone(), uplink.problem().map(ToString::to_string))
        };
        assert!(!become_(&|_| {}).0);
        let link_local = "fe80::2/64".parse().unwrap();
        assert!(!become_(&|found| found.addresses.push(link_local)).0, "no tunnel ends there");
        let (is_new, now, _) = become_(&|found| (found.mac, found.mtu) = (MacAddr([2, 0, 0, 0, 0, 9]), 9000));
        assert_eq!((is_new, now.mac, now.mtu), (true, MacAddr([2, 0, 0, 0, 0, 9]), 9000));
        // An address goes and another comes: in between it is used as it was, and says why.
        let (is_new, now, problem) = become_(&|found| found.addresses.clear());
        assert_eq!((is_new, now.addresses.len()), (false, 1));
        assert!(problem.unwrap().contains("has no address"));
        let (is_new, _, problem) =
            become_(&|found| found.addresses = vec!["198.51.100.1/24".parse().unwrap()]);
        assert!(!is_new && problem.unwrap().contains("uplink.gateway"), "the gateway is not there");
        let (is_new, now, problem) =
            become_(&|found| found.addresses = vec!["192.0.2.7/24".parse().unwrap()]);
        assert_eq!((is_new, problem), (true, None));
        let own: IpAddr = "192.0.2.7".parse().unwrap();
        assert_eq!((now.addresses[0].addr(), now.kernel_answers), (own, vec![own]));
    }

    #[test]
    fn a_link_says_what_it_is() {
        assert_eq!(LinkState::Down.to_string(), "down");
        assert_eq!(LinkState::Up { bits_per_second: None }.to_string(), "up");
        assert_eq!(LinkState::Up { bits_per_second: Some(25_000_000_000) }.to_string(), "up at 25Gbps");
    }
}
