//! The system calls this crate needs, each wrapped once.

use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

/// Structures that are nothing but numbers: any bytes are a value, and there is no padding that matters.
///
/// # Safety
///
/// The type is `repr(C)` (or a number), and every pattern of bits is one of its values.
pub(crate) unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($name:ty),+ $(,)?) => {
        // SAFETY: numbers, or structures of the kernel's interface made of numbers (and, in `sock_fprog`, an address that only the
        // kernel follows).
        $(unsafe impl Plain for $name {})+
    };
}
plain!(
    c_int,
    u32,
    libc::tpacket_req,
    libc::tpacket_stats,
    libc::sock_fprog,
    libc::sockaddr_ll,
    libc::sockaddr_in,
    libc::sockaddr_in6,
    libc::packet_mreq,
    libc::sockaddr_xdp,
    libc::xdp_umem_reg,
    libc::xdp_mmap_offsets,
    libc::xdp_statistics,
);

/// -1 becomes the thread's `errno`.
pub(crate) fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A socket, closed on exec.
pub(crate) fn socket(domain: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: numbers only.
    let fd = check(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: a descriptor made just now, which nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets an option of a socket.
pub(crate) fn set_option<T: Plain>(fd: &OwnedFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let bytes = std::ptr::from_ref(value).cast();
    // SAFETY: the kernel reads the bytes of `value`, which lives through the call.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, bytes, size_of::<T>() as u32) }).map(drop)
}

/// Reads an option of a socket.
pub(crate) fn option<T: Plain>(fd: &OwnedFd, level: c_int, name: c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut length = size_of::<T>() as u32;
    let bytes = value.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `length` bytes, which `value` has.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, bytes, &mut length) })?;
    // SAFETY: all bytes are written, by the kernel or as zeroes, and `Plain` takes any.
    Ok(unsafe { value.assume_init() })
}

/// Binds a socket.
pub(crate) fn bind<T: Plain>(fd: &OwnedFd, address: &T) -> io::Result<()> {
    let bytes = std::ptr::from_ref(address).cast();
    // SAFETY: the kernel reads the bytes of `address`, which lives through the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), bytes, size_of::<T>() as u32) }).map(drop)
}

/// The address a socket is bound to.
pub(crate) fn bound<T: Plain>(fd: &OwnedFd) -> io::Result<T> {
    let mut address = MaybeUninit::<T>::zeroed();
    let mut length = size_of::<T>() as u32;
    let bytes = address.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `length` bytes, which `address` has.
    check(unsafe { libc::getsockname(fd.as_raw_fd(), bytes, &mut length) })?;
    // SAFETY: all bytes are written, by the kernel or as zeroes, and `Plain` takes any.
    Ok(unsafe { address.assume_init() })
}

/// Tells the kernel that a transmit ring holds something: sends nothing by itself. Returns the bytes it took.
#[inline(always)]
pub(crate) fn kick(fd: c_int) -> io::Result<usize> {
    // SAFETY: no buffer is passed.
    let taken = unsafe { libc::sendto(fd, std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
    usize::try_from(taken).map_err(|_| io::Error::last_os_error())
}

/// Receives nothing: tells a driver that asked for it (AF_XDP, need-wakeup) that there are buffers again.
pub(crate) fn nudge(fd: c_int) {
    // SAFETY: no buffer is passed. What it returns does not matter: a failure shows as nothing received.
    unsafe {
        libc::recvfrom(
            fd,
            std::ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
}

/// Memory shared with the kernel, unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; who may touch which byte is the business of the rings made over it.
unsafe impl Send for Mapping {}
// SAFETY: likewise; `&Mapping` hands out an address only.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of a socket from `offset`, present from the beginning.
    pub(crate) fn of(fd: &OwnedFd, len: usize, offset: i64) -> io::Result<Self> {
        Self::map(fd.as_raw_fd(), len, libc::MAP_SHARED, offset)
    }

    /// Maps `len` bytes of zeroes.
    pub(crate) fn anonymous(len: usize) -> io::Result<Self> {
        Self::map(-1, len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, 0)
    }

    fn map(fd: c_int, len: usize, flags: c_int, offset: i64) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice; nothing that exists is changed.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), len, access, flags | libc::MAP_POPULATE, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// Its first byte.
    pub(crate) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Bytes in it.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this length; whoever holds addresses into it holds the mapping too.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// The kernel's version: the first two numbers of its release.
pub(crate) fn kernel_release() -> Option<(u32, u32)> {
    // SAFETY: a structure of characters.
    let mut name: libc::utsname = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: the kernel fills the structure.
    check(unsafe { libc::uname(&mut name) }).ok()?;
    let release: String = name.release.iter().map(|c| char::from(*c as u8)).collect();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Attaches a classic BPF program that decides which packets a socket gets.
pub(crate) fn attach_filter(fd: &OwnedFd, program: &mut [libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    set_option(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}
