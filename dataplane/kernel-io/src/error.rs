//! Why an interface cannot be used.

use std::io;
use std::net::IpAddr;

/// Why an interface could not be opened, or is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none of that name in this network namespace.
    #[error("there is no interface `{ifname}`: `ip link` lists those of this network namespace")]
    NoInterface {
        /// The name asked for.
        ifname: String,
    },
    /// The interface is gone: removed, or moved to another network namespace.
    #[error("interface `{ifname}` was removed: make it anew and open it again")]
    Gone {
        /// The name it had.
        ifname: String,
    },
    /// It does not carry Ethernet frames.
    #[error("interface `{ifname}` is no Ethernet interface (type {kind}): use one that has a MAC address")]
    NotEthernet {
        /// The interface.
        ifname: String,
        /// Its `ARPHRD_` type.
        kind: u16,
    },
    /// A number in the options that cannot be.
    #[error("interface `{ifname}`: {field} is {value}; it must be {allowed}")]
    Options {
        /// The interface.
        ifname: String,
        /// Which option.
        field: &'static str,
        /// Its value.
        value: usize,
        /// What it may be.
        allowed: String,
    },
    /// Kernels before 6.11 spread flows over several queues only while the interface is up.
    #[error(
        "interface `{ifname}` is down, and this kernel cannot spread flows over queues of such: set it up (`ip link set {ifname} up`)"
    )]
    Down {
        /// The interface.
        ifname: String,
    },
    /// Raw sockets are for root.
    #[error(
        "interface `{ifname}`: {operation} is not permitted: run as root or with CAP_NET_RAW and CAP_NET_ADMIN"
    )]
    NotPermitted {
        /// The interface.
        ifname: String,
        /// What was being done.
        operation: &'static str,
    },
    /// Something else on this host answers for VXLAN.
    #[error(
        "interface `{ifname}`: UDP port {port} of {address} belongs to somebody else on this host: remove the kernel's vxlan device of \
         that port (`ip -d link show type vxlan`) or stop the program that holds it (`ss -lunp sport = :{port}`)"
    )]
    PortTaken {
        /// The interface.
        ifname: String,
        /// Its address.
        address: IpAddr,
        /// The UDP port.
        port: u16,
    },
    /// Another XDP program is on the interface.
    #[error(
        "interface `{ifname}` has an XDP program already: remove it (`ip link set {ifname} xdp off`) or leave `xdp` out"
    )]
    XdpTaken {
        /// The interface.
        ifname: String,
    },
    /// AF_XDP carries packets of one page at most.
    #[error(
        "interface `{ifname}` has an MTU of {mtu} bytes, AF_XDP carries at most {most}: lower it (`ip link set {ifname} mtu {most}`) or leave `xdp` out"
    )]
    XdpMtu {
        /// The interface.
        ifname: String,
        /// Its MTU.
        mtu: u16,
        /// The largest that will do.
        most: u16,
    },
    /// Too little memory for the rings.
    #[error("interface `{ifname}`: no memory for rings of {bytes} bytes: ask for less in `ring_bytes`")]
    NoMemory {
        /// The interface.
        ifname: String,
        /// Bytes asked for, each way.
        bytes: usize,
    },
    /// The kernel said no to something else.
    #[error("interface `{ifname}`: {operation}: {source}")]
    Failed {
        /// The interface.
        ifname: String,
        /// What was being done.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What the kernel said while `operation` was done to `ifname`.
pub(crate) fn failed<'a>(ifname: &'a str, operation: &'static str) -> impl Fn(io::Error) -> Error + use<'a> {
    move |source| match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => Error::NotPermitted { ifname: ifname.to_owned(), operation },
        Some(libc::ENODEV | libc::ENXIO) => Error::Gone { ifname: ifname.to_owned() },
        _ => Error::Failed { ifname: ifname.to_owned(), operation, source },
    }
}
