//! The error numbers of C, as far as DPDK's functions return them.

use std::fmt;

/// Why a function of DPDK failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Errno {
    /// `EPERM`, `EACCES`.
    NotPermitted,
    /// `ENOENT`, `ENODEV`.
    NotFound,
    /// `EIO`.
    Device,
    /// `EAGAIN`, `EBUSY`.
    Busy,
    /// `ENOMEM`, `ENOSPC`, `ENOBUFS`.
    NoMemory,
    /// `EEXIST`.
    Exists,
    /// `EALREADY`.
    Already,
    /// `EINVAL`, `E2BIG`.
    Invalid,
    /// `ENAMETOOLONG`.
    NameTooLong,
    /// `ENOTSUP`, `ENOSYS`.
    Unsupported,
    /// Another, by its number.
    Other(i32),
}

impl Errno {
    /// From a number, negative or positive.
    pub fn new(number: i32) -> Self {
        use rustix::io::Errno as E;
        let number = number.saturating_abs();
        if !(1..4096).contains(&number) {
            return Self::Other(number);
        }
        match E::from_raw_os_error(number) {
            E::PERM | E::ACCESS => Self::NotPermitted,
            E::NOENT | E::NODEV => Self::NotFound,
            E::IO => Self::Device,
            E::AGAIN | E::BUSY => Self::Busy,
            E::NOMEM | E::NOSPC | E::NOBUFS => Self::NoMemory,
            E::EXIST => Self::Exists,
            E::ALREADY => Self::Already,
            E::INVAL | E::TOOBIG => Self::Invalid,
            E::NAMETOOLONG => Self::NameTooLong,
            E::NOTSUP | E::NOSYS => Self::Unsupported,
            other => Self::Other(other.raw_os_error()),
        }
    }

    /// What the last failed call on this thread left in `rte_errno`.
    pub(crate) fn last() -> Self {
        // SAFETY: reads a thread-local integer; needs no initialised EAL.
        Self::new(unsafe { dpdk_sys::towpath_errno() })
    }

    /// A function's result where negative numbers are errors.
    pub(crate) fn check(result: i32) -> Result<i32, Self> {
        if result < 0 { Err(Self::new(result)) } else { Ok(result) }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotPermitted => {
                "not permitted: run as root, or with CAP_IPC_LOCK, CAP_NET_ADMIN and CAP_NET_RAW"
            }
            Self::NotFound => {
                "no such device or driver: check the devargs, and that the driver's package is installed"
            }
            Self::Device => "the device failed: see the kernel's log",
            Self::Busy => "busy: another process or driver has it",
            Self::NoMemory => "no memory left in DPDK's heap: give it more (`-m`), or reserve more hugepages",
            Self::Exists => "there is one of that name already",
            Self::Already => "that was done already",
            Self::Invalid => "the driver refuses a value: check the devargs",
            Self::NameTooLong => "the name is too long",
            Self::Unsupported => "the driver cannot do that",
            Self::Other(number) => return write!(f, "{}", std::io::Error::from_raw_os_error(*number)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_names_whatever_their_sign() {
        assert_eq!(Errno::new(-12), Errno::NoMemory);
        assert_eq!(Errno::new(12), Errno::NoMemory);
        assert_eq!(Errno::new(-95), Errno::Unsupported);
        assert_eq!(Errno::new(114), Errno::Already);
        assert!(!Errno::new(i32::MIN).to_string().is_empty());
        assert_eq!(Errno::new(-104), Errno::Other(104));
        assert!(Errno::new(-104).to_string().contains("reset"), "{}", Errno::new(-104));
        assert_eq!(Errno::check(3), Ok(3));
        assert_eq!(Errno::check(-17), Err(Errno::Exists));
    }
}
