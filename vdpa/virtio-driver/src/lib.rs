//! The guest's half of virtqueues, for load generators, simulated guests and tests.
