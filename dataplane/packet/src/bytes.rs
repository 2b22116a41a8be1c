//! Big-endian reads and writes on slices that may be too short.

/// Reads the `N` bytes at `at`, if the slice has them.
#[inline]
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>()
}

/// The same, to be written to.
#[inline]
pub(crate) fn array_mut<const N: usize>(bytes: &mut [u8], at: usize) -> Option<&mut [u8; N]> {
    bytes.get_mut(at..)?.first_chunk_mut::<N>()
}

/// Reads a big-endian 16-bit number.
#[inline]
pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(|word| u16::from_be_bytes(*word))
}

/// Writes `value` big-endian at `at`.
#[inline]
pub(crate) fn put16(bytes: &mut [u8], at: usize, value: u16) -> Option<()> {
    *array_mut(bytes, at)? = value.to_be_bytes();
    Some(())
}

/// Writes `value` at `at`.
#[inline]
pub(crate) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) -> Option<()> {
    *array_mut(bytes, at)? = value;
    Some(())
}
