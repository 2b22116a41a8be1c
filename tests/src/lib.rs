//! End-to-end tests: real guests, real front ends, the real daemon.
