//! Look-up tables of the packet path: reader and writer halves.
