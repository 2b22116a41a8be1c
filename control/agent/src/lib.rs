//! Turns desired state into what one host does: a state machine without threads, sockets or clocks.
