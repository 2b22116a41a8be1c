//! The Towpath virtual switch daemon.
