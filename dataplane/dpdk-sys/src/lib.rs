//! Raw bindings to DPDK 22.11, generated from its headers at build time.
//!
//! Only what the `dpdk` crate uses is bound: `build.rs` holds the list. DPDK's packet path is made of C inline functions; `shim/`
//! gives those that are needed a symbol, and each of them is called once per burst. Fields of an mbuf are read and written from
//! Rust, through [`mbuf`].
//!
//! Needs `libdpdk-dev` and `libclang`, so this crate and `dpdk` are not among the workspace's default members; `towpathd` takes them by its feature `dpdk`.
//!
//! # Safety boundary
//!
//! * What must hold: Rust's idea of each structure is C's. The generator asserts size, alignment and every field's offset of
//!   every structure at compile time, from the same headers and flags (`-march`, `rte_config.h`) that the shim is compiled with;
//!   `pkg-config` pins the version to 22.11, whose ABI does not change between releases.
//! * Who establishes the rest: every function here is `unsafe`, with the conditions of DPDK's own manual. The `dpdk` crate is the
//!   only caller.
//! * What attacks it: the tests here, and the conformance suite that `dpdk` runs over real drivers.
#![allow(unsafe_code, reason = "declarations of C functions")]

mod bindings {
    //! What bindgen wrote.
    #![allow(
        clippy::all,
        clippy::allow_attributes_without_reason,
        clippy::undocumented_unsafe_blocks,
        clippy::missing_safety_doc,
        clippy::semicolon_if_nothing_returned,
        clippy::uninlined_format_args,
        missing_docs,
        non_camel_case_types,
        non_snake_case,
        non_upper_case_globals,
        reason = "generated from C headers"
    )]
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub mod mbuf;

pub use bindings::*;

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn the_library_is_of_the_version_the_headers_are() {
        // SAFETY: needs no initialised EAL and returns a static string.
        let version = unsafe { CStr::from_ptr(rte_version()) };
        assert!(version.to_string_lossy().starts_with("DPDK 22.11"), "{version:?}");
    }
}
