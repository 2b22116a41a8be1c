//! The stages of the packet path, one file each.
