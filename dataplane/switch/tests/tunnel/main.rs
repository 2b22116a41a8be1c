//! Two hosts joined by a wire: tunnels, routing by the subnets' gateways, and what hostile guests and a hostile underlay may not do.
#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails here fails the test")]

mod balancing;
mod crossing;
mod hosts;
mod packets;
mod random;
mod underlay;
