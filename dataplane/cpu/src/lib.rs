//! What Towpath asks of the processor and the standard library has no stable, safe word for:
//! prefetching a line, reading the time stamp counter, hashing with AES instructions.
//!
//! # Safety boundary
//!
//! Nothing here dereferences. A prefetch of any address is a hint that cannot fault (Intel SDM 2B "PREFETCHh", AMD APM 3),
//! and reading the time stamp counter has no effect on memory, so every function is safe to call with any argument.
//! [`aes::AesHash`] is the witness that the processor has AES instructions: it is made only where they were found.
#![allow(unsafe_code, reason = "wraps instructions that cannot fault in safe functions")]

pub mod aes;

/// Bytes of a cache line on every x86-64 and most AArch64 processors.
pub const CACHE_LINE: usize = 64;

/// Hints that the line at `address` will be read soon. Any address will do, mapped or not.
#[inline(always)]
pub fn prefetch_read_at(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: PREFETCHT0 never faults, whatever the address; it needs SSE, which x86-64 always has.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Hints that the line at `address` will be written soon (asks for exclusive ownership). Any address will do.
#[inline(always)]
pub fn prefetch_write_at(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: PREFETCHW never faults; processors without it execute it as a no-op (it is in the baseline of x86-64-v3).
    unsafe {
        core::arch::asm!("prefetchw [{0}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Hints that the first line of `value` will be read soon.
#[inline(always)]
pub fn prefetch_read<T: ?Sized>(value: &T) {
    prefetch_read_at(std::ptr::from_ref(value).cast());
}

/// Cycles of the time stamp counter (constant rate, not core clock cycles).
///
/// On other processors than x86-64 this is nanoseconds of the monotonic clock.
#[inline(always)]
pub fn time_stamp() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: RDTSC reads a register; Linux does not disable it for user space.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        use std::sync::OnceLock;
        static START: OnceLock<std::time::Instant> = OnceLock::new();
        START.get_or_init(std::time::Instant::now).elapsed().as_nanos() as u64
    }
}

/// Tells the processor that this is a spin-wait.
#[inline(always)]
pub fn pause() {
    std::hint::spin_loop();
}

#[cfg(test)]
mod tests {
    #[test]
    fn prefetch_of_any_address_is_harmless() {
        for address in [std::ptr::null(), usize::MAX as *const u8, 0x1000 as *const u8] {
            super::prefetch_read_at(address);
            super::prefetch_write_at(address);
        }
    }

    #[test]
    fn time_stamp_advances() {
        let before = super::time_stamp();
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert!(super::time_stamp() > before);
    }
}
