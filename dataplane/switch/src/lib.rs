//! The ordered list of stages and the worker that runs it.
