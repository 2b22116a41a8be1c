//! The towpath command line.
