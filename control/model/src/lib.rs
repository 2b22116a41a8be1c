//! Resources: parsing, defaults, validation of the whole set, owners, pure diff.
//!
//! This crate is pure but for [`load`], which reads files. It knows nothing of workers, sockets or guests:
//!
//! - [`yaml`] turns text into trees whose every node knows its line, within a budget; [`fields`] reads typed values
//!   out of a tree and reports every problem it meets instead of the first;
//! - [`name`], [`mac`], [`quantity`] and [`net`] are the values of the fields;
//! - [`kind`] lists the kinds; [`host`], [`external`], [`vpc`], [`peering`], [`route_table`], [`security_group`], [`subnet`] (with [`dhcp`]), [`port`], [`endpoint`], [`load_balancer`] (with [`health_check`]) are those of this version; [`resource`] holds one;
//!   [`features`] names what a port can withhold from its guest;
//! - [`set`] is a validated set of resources, [`validate`] the rules that concern more than one of them, [`owner`] who
//!   may change what; [`diff`](mod@diff) turns two sets into the list of changes between them;
//! - [`underlay`] knows what hosts and tunnels leave of an MTU;
//! - [`load`] reads manifests into a set.
//!
//! A [`ResourceSet`] exists only validated, so whoever holds one need not check references, addresses or overlaps again.

pub mod dhcp;
pub mod diff;
pub mod endpoint;
pub mod external;
pub mod features;
pub mod fields;
pub mod health_check;
pub mod host;
pub mod kind;
pub mod load;
pub mod load_balancer;
pub mod mac;
pub mod name;
pub mod net;
pub mod owner;
pub mod peering;
pub mod port;
pub mod problem;
pub mod quantity;
pub mod resource;
pub mod route_table;
pub mod security_group;
pub mod set;
mod sorted;
pub mod subnet;
pub mod suggest;
pub mod underlay;
pub mod validate;
pub mod vpc;
pub mod yaml;

pub use dhcp::{DhcpSpec, MetadataService};
pub use diff::{Change, diff};
pub use endpoint::EndpointSpec;
pub use external::{ExternalNetworkSpec, FloatingIpSpec, NatGatewaySpec};
pub use health_check::{CheckProtocol, HealthCheck};
pub use host::HostSpec;
pub use kind::Kind;
pub use load::Manifests;
pub use load::{load_path, load_paths, load_text};
pub use load_balancer::LoadBalancerSpec;
pub use mac::MacAddr;
pub use name::{Key, Name, ObjectName};
pub use owner::Owner;
pub use peering::PeeringSpec;
pub use port::{AllowedAddress, Attachment, PortSpec, Role, VhostUserAttachment};
pub use problem::Problem;
pub use resource::{Metadata, Resource, Spec, Uid};
pub use route_table::{Route, RouteTableSpec, Via};
pub use security_group::SecurityGroupSpec;
pub use set::{Absent, Difference, Environment, ResourceSet, Typed};
pub use subnet::SubnetSpec;
pub use vpc::{Vni, VpcSpec};
