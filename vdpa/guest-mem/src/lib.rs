//! Guest memory: mapped regions, address translation, the dirty log.
//!
//! * [`GuestMemory::map`] checks and maps what a front end sent ([`RegionSpec`]); [`GuestMemory::with_region`] and
//!   [`GuestMemory::without_region`] make a changed memory that shares the unchanged mappings. A memory itself never changes: a worker holds one
//!   `Arc` until it is handed the next.
//! * Per burst a ring joins the memory and its own [`RegionCache`] to a [`Translator`]; per descriptor
//!   [`Translator::translate`] costs one comparison in the cached region. A buffer that crosses regions comes in [`Translator::pieces`].
//! * [`DirtyLog`] marks written pages for live migration.
//! * A peer that truncates its file kills only its own port: [`fault_count`], [`GuestMemory::is_dead`].
//! * [`GuestMemory::anonymous`] and the safe accessors (`read`, `write`, `load_u16`, ...) serve tests and the simulator: its guests act through
//!   a second mapping of [`GuestMemory::specs`].
//!
//! # Safety boundary
//!
//! What must hold: every address handed out lies in a mapping of at least that length, for as long as the borrow says.
//!
//! * [`Mapping::new`] establishes the mapping: it checks kind, access, seals and size of the file, maps shared, readable and writable, never
//!   executable. `Drop` unmaps, and nothing else does. Who holds a `GuestMemory` holds all its mappings.
//! * Extents borrow the `GuestMemory`. Raw addresses come from [`GuestMemory::translate_user`] and [`Translator::address`]; their
//!   users (`virtqueue`) keep the `Arc` beside the address.
//! * A [`RegionCache`] is trusted only for the memory whose number it carries; numbers are never reused.
//! * The memory is shared with a guest that writes at any time: no reference to it is formed except to atomics. Single values are
//!   accessed as atomics, bytes copied through raw pointers (`buf`).
//! * The file can shrink under a mapping. Module `guard` turns the SIGBUS into zero pages; it replaces pages only of registered mappings, and
//!   a mapping leaves its table before it is unmapped.
//!
//! Attacked by: `tests/hostile.rs` (V-12..V-17, V-21..V-24, G-10..G-13, G-48..G-50) and the property test of translation against a naive model.
#![allow(unsafe_code, reason = "maps and touches memory shared with guests")]

mod access;
mod dirty;
mod error;
mod guard;
mod mapping;
mod memory;
mod region;
mod translate;

pub use access::{ANONYMOUS_USER_OFFSET, NoMemory};
pub use dirty::DirtyLog;
pub use error::{MapError, Space};
pub use guard::fault_count;
pub use mapping::Mapping;
pub use memory::{GuestMemory, MAX_REGIONS};
pub use region::{PAGE_BYTES, Region, RegionSpec};
pub use translate::{RegionCache, Translator};
