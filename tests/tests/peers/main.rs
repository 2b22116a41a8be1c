//! The harness against switches nobody here wrote: what its guests, front ends and generators can do, shown before our own switch
//! is judged by them.

mod frontend;
mod guests;
mod ring_paths;
mod services;
mod vteps;
