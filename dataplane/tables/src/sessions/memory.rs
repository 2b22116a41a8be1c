//! The memory under the table: regions of a memory file, or, to be explored by loom, of its own atomics.

#[cfg(not(loom))]
pub(super) use sync::{Arena, Line, Region};

#[cfg(loom)]
pub(super) use explored::{Arena, Line, Region};

#[cfg(loom)]
mod explored {
    use std::marker::PhantomData;
    use std::sync::Arc;

    use crate::atomic::AtomicU64;

    #[derive(Debug, Default)]
    pub(crate) struct Line(pub(crate) [AtomicU64; 8]);

    /// Hands out new memory for each region.
    pub(crate) struct Arena;
    pub(crate) type Region<T> = Arc<[T]>;

    impl Arena {
        pub(crate) fn region<T: Default>(&self, _offset: usize, count: usize) -> Option<Region<T>> {
            let _ = PhantomData::<T>;
            Some((0..count).map(|_| T::default()).collect())
        }
    }
}

/// The line at `index`: of an arena whose numbers were checked when they were stored, or when it was opened.
#[inline(always)]
pub(super) fn line(lines: &Region<Line>, index: usize) -> &Line {
    &lines[index]
}
