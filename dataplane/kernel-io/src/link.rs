//! What the kernel says of an interface: ioctls and `getifaddrs`.

use crate::error::{Error, failed};
use crate::sys;
use ipnet::IpNet;
use packet::MacAddr;
use std::ffi::{CStr, c_short, c_ulong};
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

/// A socket to ask by, in the network namespace it was made in, and the interface asked for.
#[derive(Debug)]
pub(crate) struct Link {
    socket: OwnedFd,
    /// The name it had when it was opened.
    pub(crate) name: String,
    /// Its number; stays when it is renamed.
    pub(crate) index: u32,
}

/// What one look at an interface found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) mac: MacAddr,
    pub(crate) mtu: u16,
    /// Administratively up, and with a carrier.
    pub(crate) up: bool,
}

impl Link {
    /// Finds an interface by name.
    pub(crate) fn find(name: &str) -> Result<Self, Error> {
        let no_interface = || Error::NoInterface { ifname: name.to_owned() };
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
            return Err(no_interface());
        }
        let socket =
            sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).map_err(failed(name, "making a socket"))?;
        let mut link = Self { socket, name: name.to_owned(), index: 0 };
        let request = link.ask(name, libc::SIOCGIFINDEX).map_err(|_| no_interface())?;
        // SAFETY: SIOCGIFINDEX fills this member.
        link.index = unsafe { request.ifr_ifru.ifru_ifindex } as u32;
        Ok(link)
    }

    fn request(name: &str) -> libc::ifreq {
        // SAFETY: a structure of numbers and an address that nobody follows.
        let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()).take(libc::IFNAMSIZ - 1) {
            *to = *from as libc::c_char;
        }
        request
    }

    fn ask(&self, name: &str, what: c_ulong) -> io::Result<libc::ifreq> {
        let mut request = Self::request(name);
        // SAFETY: these ioctls read the name of an `ifreq` and fill its union.
        sys::check(unsafe { libc::ioctl(self.socket.as_raw_fd(), what, &mut request) })?;
        Ok(request)
    }

    /// The name it has now; it may have been renamed.
    fn present_name(&self) -> Result<String, Error> {
        let gone = |_| Error::Gone { ifname: self.name.clone() };
        let mut request = Self::request("");
        request.ifr_ifru.ifru_ifindex = self.index as i32;
        // SAFETY: SIOCGIFNAME reads the index and fills the name, with an end.
        sys::check(unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCGIFNAME, &mut request) })
            .map_err(gone)?;
        let bytes: Vec<u8> =
            request.ifr_name.iter().take_while(|byte| **byte != 0).map(|byte| *byte as u8).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Looks at it.
    pub(crate) fn look(&self) -> Result<Seen, Error> {
        let name = self.present_name()?;
        let ask = |what| self.ask(&name, what).map_err(failed(&name, "asking for its state"));
        let flags = ask(libc::SIOCGIFFLAGS)?;
        let mtu = ask(libc::SIOCGIFMTU)?;
        let address = ask(libc::SIOCGIFHWADDR)?;
        // SAFETY: each ioctl filled the member that is read of its answer.
        let (flags, mtu, address) =
            unsafe { (flags.ifr_ifru.ifru_flags, mtu.ifr_ifru.ifru_mtu, address.ifr_ifru.ifru_hwaddr) };
        let kind = address.sa_family;
        if kind != libc::ARPHRD_ETHER {
            return Err(Error::NotEthernet { ifname: name, kind });
        }
        let mut mac = [0; 6];
        for (to, from) in mac.iter_mut().zip(address.sa_data) {
            *to = from as u8;
        }
        let both = (libc::IFF_UP | libc::IFF_RUNNING) as c_short;
        let mtu = u16::try_from(mtu.max(0)).unwrap_or(u16::MAX);
        Ok(Seen { mac: MacAddr(mac), mtu, up: flags & both == both })
    }

    /// Receive queues in use; one where the driver does not say.
    pub(crate) fn receive_queues(&self) -> u16 {
        /// `struct ethtool_channels`.
        #[derive(Default)]
        #[repr(C)]
        struct Channels {
            command: u32,
            most: [u32; 4],
            receive: u32,
            transmit: u32,
            other: u32,
            combined: u32,
        }
        const GET_CHANNELS: u32 = 0x3c;
        let mut channels = Channels { command: GET_CHANNELS, ..Channels::default() };
        let mut request = Self::request(&self.present_name().unwrap_or_default());
        request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut channels).cast();
        // SAFETY: the kernel writes the channels, a structure as long as its own, which lives through the call.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL, &mut request) };
        let queues = if result < 0 { 1 } else { channels.receive + channels.combined };
        queues.clamp(1, u16::MAX.into()) as u16
    }

    /// Its addresses with their prefixes, IPv4 before IPv6 as the kernel has them.
    pub(crate) fn addresses(&self) -> Result<Vec<IpNet>, Error> {
        let name = self.present_name()?;
        let mut first = std::ptr::null_mut();
        // SAFETY: the kernel's answer becomes a list, freed below.
        sys::check(unsafe { libc::getifaddrs(&mut first) })
            .map_err(failed(&name, "asking for its addresses"))?;
        let mut addresses = Vec::new();
        let mut next = first;
        // SAFETY: entries of the list, which is not freed yet; `ifa_next` is null at its end.
        while let Some(entry) = unsafe { next.as_ref() } {
            next = entry.ifa_next;
            // SAFETY: every entry has a name, which ends.
            let entry_name = unsafe { CStr::from_ptr(entry.ifa_name) };
            if entry_name.to_bytes() != name.as_bytes() {
                continue;
            }
            // SAFETY: both are null or addresses of the family they name.
            let (address, mask) = unsafe { (ip_of(entry.ifa_addr), ip_of(entry.ifa_netmask)) };
            if let (Some(address), Some(mask)) = (address, mask)
                && let Ok(net) = IpNet::with_netmask(address, mask)
            {
                addresses.push(net);
            }
        }
        // SAFETY: the list of above, of which nothing is kept.
        unsafe { libc::freeifaddrs(first) };
        Ok(addresses)
    }
}

/// The IP address in a socket address.
///
/// # Safety
///
/// `address` is null or points to a socket address as long as its family's are.
unsafe fn ip_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: the caller's promise.
    let family = i32::from(unsafe { address.as_ref() }?.sa_family);
    if family == libc::AF_INET {
        // SAFETY: the caller's promise: this long.
        let v4 = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
        return Some(Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()).into());
    }
    if family == libc::AF_INET6 {
        // SAFETY: the caller's promise: this long.
        let v6 = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
        return Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into());
    }
    None
}
