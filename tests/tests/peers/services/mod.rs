//! The services against clients that nobody here wrote: `udhcpc`, `dhclient`, `rdisc6`, the kernel, `wget`, and `tshark` as a reader.

mod clients;
mod dissect;
mod driver;
mod frames;
