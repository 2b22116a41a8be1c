//! Copying between memory of others and our own.

/// Copies `len` bytes.
///
/// Lengths up to 128 are straight-line code (two overlapping moves per size class), larger ones go to the C library's `memcpy`,
/// which no hand-written loop beat on the machines measured.
///
/// # Safety
///
/// `source` must be readable and `target` writable for `len` bytes, and the two must not overlap. Either may be changed by another
/// process meanwhile; the bytes copied are then unspecified, nothing else is.
#[inline(always)]
pub unsafe fn copy_bytes(source: *const u8, target: *mut u8, len: usize) {
    if len > 128 {
        // SAFETY: the caller's promise, unchanged.
        unsafe { std::ptr::copy_nonoverlapping(source, target, len) };
    } else if len >= 64 {
        // SAFETY: 64 <= len <= 128: the first 64 bytes and the last 64 bytes lie inside and cover all.
        unsafe { copy_ends::<64>(source, target, len) };
    } else if len >= 32 {
        // SAFETY: 32 <= len < 64, as above.
        unsafe { copy_ends::<32>(source, target, len) };
    } else if len >= 16 {
        // SAFETY: 16 <= len < 32, as above.
        unsafe { copy_ends::<16>(source, target, len) };
    } else if len >= 8 {
        // SAFETY: 8 <= len < 16, as above.
        unsafe { copy_ends::<8>(source, target, len) };
    } else if len >= 4 {
        // SAFETY: 4 <= len < 8, as above.
        unsafe { copy_ends::<4>(source, target, len) };
    } else {
        for at in 0..len {
            // SAFETY: at < len.
            unsafe { target.add(at).write(source.add(at).read()) };
        }
    }
}

/// Copies the first `N` and the last `N` of `len` bytes.
///
/// # Safety
///
/// As [`copy_bytes`], and `N <= len <= 2 * N`.
#[inline(always)]
unsafe fn copy_ends<const N: usize>(source: *const u8, target: *mut u8, len: usize) {
    // SAFETY: both blocks lie inside the `len` bytes the caller vouches for; [u8; N] has alignment 1. Both are read before either is
    // written, so the overlap of the two blocks is harmless.
    unsafe {
        let first: [u8; N] = source.cast::<[u8; N]>().read();
        let last: [u8; N] = source.add(len - N).cast::<[u8; N]>().read();
        target.cast::<[u8; N]>().write(first);
        target.add(len - N).cast::<[u8; N]>().write(last);
    }
}
