//! Deterministic simulator: a host with guests, faults and checkers from one seed.
