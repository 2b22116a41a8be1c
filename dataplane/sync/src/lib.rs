//! Synchronisation between polling workers and control threads.
