//! The device's half of virtqueues: split and packed rings behind one trait.
