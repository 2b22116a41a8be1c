//! The contracts of the packet path: ports, batches, metadata, verdicts, drop reasons, counters.
