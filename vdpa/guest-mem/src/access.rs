//! Safe access to single values and short runs of guest memory: for setting up, for tests, and for the simulator's guests.
//! The packet path uses extents instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use rustix::fs::MemfdFlags;

use crate::error::MapError;
use crate::memory::GuestMemory;
use crate::region::RegionSpec;

/// The bytes asked for do not all lie in one region, or a value is not aligned to its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no {len} bytes of guest memory at {guest_addr:#x}, or not aligned")]
pub struct NoMemory {
    /// Guest physical address asked for.
    pub guest_addr: u64,
    /// Bytes asked for.
    pub len: usize,
}

/// Distance of user addresses from guest addresses in [`GuestMemory::anonymous`], so that the two cannot be mistaken for each other.
pub const ANONYMOUS_USER_OFFSET: u64 = 0x5500_0000_0000;

impl GuestMemory {
    /// Memory of our own, backed by one new memfd per `(guest_addr, size)` (multiples of 4 KiB), for tests and the simulator. User
    /// addresses are guest addresses plus [`ANONYMOUS_USER_OFFSET`]. Map [`specs`](Self::specs) for the guest's own view of it.
    ///
    /// # Errors
    ///
    /// [`MapError`] as for any other region.
    pub fn anonymous(ranges: &[(u64, u64)]) -> Result<Arc<Self>, MapError> {
        let mut specs = Vec::with_capacity(ranges.len());
        for &(guest_addr, size) in ranges {
            let file = rustix::fs::memfd_create("towpath-guest", MemfdFlags::CLOEXEC)?;
            rustix::fs::ftruncate(&file, size)?;
            let user_addr = guest_addr.wrapping_add(ANONYMOUS_USER_OFFSET);
            specs.push(RegionSpec { guest_addr, user_addr, size, file_offset: 0, file });
        }
        Self::map(specs)
    }

    fn cells(&self, guest_addr: u64, len: usize) -> Result<&[AtomicU8], NoMemory> {
        let host = self.host(guest_addr, len).ok_or(NoMemory { guest_addr, len })?;
        // SAFETY: the range lies in a mapping that `self` keeps; AtomicU8 has no alignment and allows others to change it meanwhile.
        Ok(unsafe { std::slice::from_raw_parts(host.as_ptr().cast(), len) })
    }

    /// Reads bytes, one by one.
    ///
    /// # Errors
    ///
    /// [`NoMemory`]; nothing was read.
    pub fn read(&self, guest_addr: u64, bytes: &mut [u8]) -> Result<(), NoMemory> {
        let cells = self.cells(guest_addr, bytes.len())?;
        for (byte, cell) in bytes.iter_mut().zip(cells) {
            *byte = cell.load(Ordering::Relaxed);
        }
        Ok(())
    }

    /// Writes bytes, one by one.
    ///
    /// # Errors
    ///
    /// [`NoMemory`]; nothing was written.
    pub fn write(&self, guest_addr: u64, bytes: &[u8]) -> Result<(), NoMemory> {
        let cells = self.cells(guest_addr, bytes.len())?;
        for (byte, cell) in bytes.iter().zip(cells) {
            cell.store(*byte, Ordering::Relaxed);
        }
        Ok(())
    }
}

macro_rules! accessors {
    ($($value:ty, $atomic:ty, $load:ident, $store:ident;)*) => {
        impl GuestMemory {
            $(
                /// Loads a little-endian value in one access, with acquire ordering.
                ///
                /// # Errors
                ///
                /// [`NoMemory`] outside all regions or when not aligned.
                pub fn $load(&self, guest_addr: u64) -> Result<$value, NoMemory> {
                    Ok(<$value>::from_le(self.atomic::<$atomic>(guest_addr)?.load(Ordering::Acquire)))
                }

                /// Stores a little-endian value in one access, with release ordering.
                ///
                /// # Errors
                ///
                /// [`NoMemory`] outside all regions or when not aligned.
                pub fn $store(&self, guest_addr: u64, value: $value) -> Result<(), NoMemory> {
                    self.atomic::<$atomic>(guest_addr)?.store(value.to_le(), Ordering::Release);
                    Ok(())
                }
            )*
        }
        $(impl Cell for $atomic {})*
    };
}

accessors! {
    u16, AtomicU16, load_u16, store_u16;
    u32, AtomicU32, load_u32, store_u32;
    u64, AtomicU64, load_u64, store_u64;
}

/// Atomic integers: any bytes are a valid value.
trait Cell {}

impl GuestMemory {
    fn atomic<T: Cell>(&self, guest_addr: u64) -> Result<&T, NoMemory> {
        let len = size_of::<T>();
        let host = self.host(guest_addr, len).ok_or(NoMemory { guest_addr, len })?.cast::<T>();
        if !host.is_aligned() {
            return Err(NoMemory { guest_addr, len });
        }
        // SAFETY: in a mapping that `self` keeps, aligned, and `T` is an atomic integer, which others may change and any bytes form.
        Ok(unsafe { host.as_ref() })
    }
}
