//! Copying between memory of others and our own.

/// Copies `len` bytes.
///
/// Lengths up to 256 are straight-line code (two overlapping moves per size class; heads with a tunnel's headers before them are longer than 128), larger ones
/// go to the C library's `memcpy`, which no hand-written loop beat on the machines measured.
///
/// # Safety
///
/// `source` must be readable and `target` writable for `len` bytes, and the two must not overlap. Either may be changed by another
/// process meanwhile; the bytes copied are then unspecified, nothing else is.
#[inline(always)]
pub unsafe fn copy_bytes(source: *const u8, target: *mut u8, len: usize) {
    if len > 128 {
        // SAFETY: the caller's promise, unchanged.
        unsafe { copy_long(source, target, len) };
    } else if len >= 64 {
        // SAFETY: 64 <= len <= 128: the first 64 bytes and the last 64 bytes lie inside and cover all.
        unsafe { copy_ends::<[Wide; 2]>(source, target, len) };
    } else if len >= 32 {
        // SAFETY: 32 <= len < 64, as above.
        unsafe { copy_ends::<Wide>(source, target, len) };
    } else if len >= 16 {
        // SAFETY: 16 <= len < 32, as above.
        unsafe { copy_ends::<u128>(source, target, len) };
    } else if len >= 8 {
        // SAFETY: 8 <= len < 16, as above.
        unsafe { copy_ends::<u64>(source, target, len) };
    } else if len >= 4 {
        // SAFETY: 4 <= len < 8, as above.
        unsafe { copy_ends::<u32>(source, target, len) };
    } else {
        for at in 0..len {
            // SAFETY: at < len.
            unsafe { target.add(at).write(source.add(at).read()) };
        }
    }
}

/// More than 128 bytes.
///
/// # Safety
///
/// As [`copy_bytes`].
#[inline(always)]
unsafe fn copy_long(source: *const u8, target: *mut u8, len: usize) {
    if len <= 256 {
        // SAFETY: 128 < len <= 256: the first 128 bytes and the last 128 bytes lie inside and cover all.
        unsafe { copy_ends::<[Wide; 4]>(source, target, len) };
    } else {
        // SAFETY: the caller's promise, unchanged.
        unsafe { std::ptr::copy_nonoverlapping(source, target, len) };
    }
}

/// 32 bytes in one register where there is one: arrays of bytes go through the stack instead.
#[cfg(all(target_arch = "x86_64", target_feature = "avx"))]
type Wide = core::arch::x86_64::__m256i;
#[cfg(not(all(target_arch = "x86_64", target_feature = "avx")))]
type Wide = [u128; 2];

/// Copies the first and the last `size_of::<T>()` of `len` bytes.
///
/// # Safety
///
/// As [`copy_bytes`], and `size_of::<T>() <= len <= 2 * size_of::<T>()`. Any bytes must be a valid `T` without padding.
#[inline(always)]
unsafe fn copy_ends<T: Copy>(source: *const u8, target: *mut u8, len: usize) {
    let end = len - size_of::<T>();
    // SAFETY: both blocks lie inside the `len` bytes the caller vouches for. Both are read before either is written, so the
    // overlap of the two blocks is harmless.
    unsafe {
        let first = source.cast::<T>().read_unaligned();
        let last = source.add(end).cast::<T>().read_unaligned();
        target.cast::<T>().write_unaligned(first);
        target.add(end).cast::<T>().write_unaligned(last);
    }
}
