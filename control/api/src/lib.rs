//! The API of towpathd: gRPC messages, server and client over a Unix socket.
//!
//! - [`pb`] holds the messages, generated from `proto/towpath/v1/towpath.proto`; they serialize (serde) to the JSON that
//!   people and scripts see, with names in camelCase and enums as [words](crate::words);
//! - [`backend::Backend`] is what the daemon implements, in plain Rust;
//! - [`socket::ApiSocket`] makes the socket and its folder, [`access::Access`] says who may use it, [`server::serve`] runs it;
//! - [`client::Client`] is the other end.

pub mod access;
pub mod backend;
pub mod client;
pub mod server;
pub mod socket;
pub mod words;

pub use access::Access;
pub use backend::{Backend, Failure, SessionFilter};
pub use client::{Client, ClientError};
pub use server::serve;
pub use socket::{ApiSocket, BindError};

/// The messages of `towpath.v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod pb {
    tonic::include_proto!("towpath.v1");
}

/// Where the socket is unless somebody says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/towpath/api.sock";
/// Environment variable that says where the socket is.
pub const SOCKET_VARIABLE: &str = "TOWPATH_SOCKET";
/// Group whose members may use the socket.
pub const GROUP: &str = "towpath";
/// Permission bits of the socket.
pub const SOCKET_MODE: u32 = 0o660;
/// Permission bits of the socket's folder.
pub const FOLDER_MODE: u32 = 0o750;

impl From<&model::Resource> for pb::Resource {
    fn from(resource: &model::Resource) -> Self {
        let key = &resource.meta.key;
        Self {
            kind: key.kind.to_string(),
            project: key.project.as_ref().map(ToString::to_string),
            name: key.name.to_string(),
            owner: resource.meta.owner.to_string(),
            manifest: resource.to_json().to_string(),
        }
    }
}

impl From<&model::ObjectName> for pb::ObjectName {
    fn from(name: &model::ObjectName) -> Self {
        Self { project: name.project.to_string(), name: name.name.to_string() }
    }
}
