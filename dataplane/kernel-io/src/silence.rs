//! Keeps the kernel from answering for VXLAN: a packet socket sees copies, so the kernel's own UDP gets every packet too, and would
//! answer "port unreachable". A bound socket whose filter drops everything takes them.

use crate::error::{Error, failed};
use crate::{filter, sys};
use ipnet::IpNet;
use std::ffi::c_int;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

/// `IPPROTO_IPV6`'s option to bind an address that is not there yet (duplicate address detection runs).
const FREE_BIND: [(c_int, c_int); 2] =
    [(libc::IPPROTO_IP, libc::IP_FREEBIND), (libc::IPPROTO_IPV6, libc::IPV6_FREEBIND)];

/// Sockets that take and drop what comes for one UDP port at an interface's addresses.
#[derive(Debug, Default)]
pub(crate) struct Silence(Vec<(IpAddr, OwnedFd)>);

impl Silence {
    /// Covers these addresses, and no others any more.
    pub(crate) fn cover(
        &mut self,
        ifname: &str,
        index: u32,
        addresses: &[IpNet],
        port: u16,
    ) -> Result<(), Error> {
        self.0.retain(|(held, _)| addresses.iter().any(|net| net.addr() == *held));
        for address in addresses.iter().map(IpNet::addr) {
            if !self.0.iter().any(|(held, _)| *held == address) {
                self.0.push((address, take(ifname, index, address, port)?));
            }
        }
        Ok(())
    }
}

fn take(ifname: &str, index: u32, address: IpAddr, port: u16) -> Result<OwnedFd, Error> {
    let failed = failed(ifname, "binding the VXLAN port");
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let socket = sys::socket(family, libc::SOCK_DGRAM, 0).map_err(&failed)?;
    sys::attach_filter(&socket, &mut filter::nothing()).map_err(&failed)?;
    let (level, name) = FREE_BIND[usize::from(address.is_ipv6())];
    sys::set_option(&socket, level, name, &1).map_err(&failed)?;
    let bound = match address {
        IpAddr::V4(address) => sys::bind(
            &socket,
            &libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: port.to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
                sin_zero: [0; 8],
            },
        ),
        IpAddr::V6(address) => {
            sys::set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1).map_err(&failed)?;
            sys::bind(
                &socket,
                &libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as u16,
                    sin6_port: port.to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: address.octets() },
                    // An address of the link alone means nothing without its link.
                    sin6_scope_id: if address.is_unicast_link_local() { index } else { 0 },
                },
            )
        }
    };
    match bound {
        Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => {
            Err(Error::PortTaken { ifname: ifname.to_owned(), address, port })
        }
        bound => bound.map(|()| socket).map_err(failed),
    }
}
