//! Look-up tables of the packet path: reader and writer halves.
//!
//! * [`MacWriter`] / [`MacReader`]: who has a MAC address of a subnet, or among the local ports of a VPC.
//! * [`EndpointWriter`] / [`EndpointReader`]: who has an IP address of a VPC, at which MAC address, and where.
//! * [`VtepWriter`] / [`VtepReader`], [`VniWriter`] / [`VniReader`]: numbers of remote tunnel addresses and of VPCs.
//! * [`RouteTable`]: longest prefix match; immutable, replaced as a whole.
//! * [`Location`], [`Endpoint`], [`NextHop`]: what the tables say.
//! * [`external`]: which addresses ports have outside of all VPCs.
//! * [`Network`], [`Neighbours`]: VPCs, subnets, routes and tunnels; where the underlay's next hops are.
//! * [`sessions`]: what was decided about a flow, for both directions; written by workers.
//! * [`balancers`]: which target takes a connection to an address that stands for many.
//! * [`PortProfile`]: what one port may send as.
//! * [`Generations`]: whether what a session was judged by changed since.
//! * [`rules`]: security group rules, compiled. [`members`]: which addresses are members of which groups.
//! * [`TokenBucket`], [`Shares`]: how often something may happen, and how often for each of many.
//!
//! A table has one writer, on a control thread, and any number of readers, each on a worker. Readers never wait and never
//! write: a look-up reads one cache line, two for the few keys that did not fit into their first, whatever the keys are (no
//! chain grows: a guest that knew the hash could not make a look-up slower, only make the writer's table larger). How entries
//! change under readers is told in `line.rs` and `endpoint_line.rs`, how tables grow in `table.rs`, how routes are found in `ranges.rs`.
//!
//! A MAC entry and an endpoint of either family together take at most 64 bytes at any fill from some 2,000 addresses on, while
//! entries are only added; after removals up to half as much again.

mod atomic;
pub mod balancers;
mod endpoint_line;
mod endpoints;
pub mod external;
mod fabric;
mod filters;
mod generations;
mod hash;
mod line;
mod location;
mod mac;
pub mod members;
mod network;
mod prefixes;
mod profile;
mod ranges;
mod routes;
pub mod rules;
pub mod sessions;
mod table;
mod token_bucket;

pub use endpoints::{EndpointReader, EndpointWriter};
pub use fabric::{VniReader, VniWriter, VtepReader, VtepWriter};
pub use filters::{Filter, Filters};
pub use generations::{Generations, Stamp};
pub use location::{Endpoint, Location, NextHop, late_mac, vpc_space};
pub use mac::{MacReader, MacTable, MacWriter};
pub use network::{Neighbours, Network, OwnAddress, Subnet, Tunnel, Uplink, Vpc};
pub use profile::{AllowedAddress, PortProfile, link_local};
pub use routes::RouteTable;
pub use token_bucket::{Shares, TokenBucket};
