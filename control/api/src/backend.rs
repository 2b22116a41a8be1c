//! What the daemon does for the API, in plain Rust.

use crate::pb;
use ipnet::IpNet;
use model::{Kind, Name, ObjectName};
use std::future::Future;

/// Why the daemon did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// What was asked for is wrong or not allowed; asking again will not help. The text names thing, field, value, remedy.
    #[error("{0}")]
    Refused(String),
    /// The daemon cannot at the moment (it starts, stops or reloads); asking again may help.
    #[error("{0}")]
    Unavailable(String),
}

/// Which sessions are to be listed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionFilter {
    /// Those that this port has an end of, or pays for.
    pub port: Option<ObjectName>,
    /// Those of this VPC.
    pub vpc: Option<ObjectName>,
    /// Those with an address of this network at either end.
    pub network: Option<IpNet>,
    /// Those of this IP protocol.
    pub protocol: Option<u8>,
    /// At most so many.
    pub limit: usize,
    /// From this place on; 0: from the beginning.
    pub from: u64,
}

/// The daemon, as the API sees it. Names in requests have been checked before they come here.
///
/// Methods may wait for workers, but not long: a request is given up after [`crate::server::REQUEST_TIMEOUT`].
pub trait Backend: Send + Sync + 'static {
    /// The daemon itself.
    fn status(&self) -> impl Future<Output = Result<pb::StatusReply, Failure>> + Send;

    /// All ports, or those of one project, by project and name.
    fn list_ports(
        &self,
        project: Option<Name>,
    ) -> impl Future<Output = Result<Vec<pb::Port>, Failure>> + Send;

    /// One port; `None` when there is none of that name.
    fn get_port(&self, name: ObjectName) -> impl Future<Output = Result<Option<pb::Port>, Failure>> + Send;

    /// All resources of a kind, or those of one project, by project and name.
    fn list_resources(
        &self,
        kind: Kind,
        project: Option<Name>,
    ) -> impl Future<Output = Result<Vec<pb::Resource>, Failure>> + Send;

    /// All workers by number.
    fn list_workers(&self) -> impl Future<Output = Result<Vec<pb::Worker>, Failure>> + Send;

    /// Starts the counts of all workers from zero.
    fn reset_workers(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Checks of the host and the daemon.
    fn doctor(&self) -> impl Future<Output = Result<Vec<pb::Check>, Failure>> + Send;

    /// Drops of all ports, or of one, by port and reason. A port that is not there has none.
    fn list_drops(
        &self,
        port: Option<ObjectName>,
    ) -> impl Future<Output = Result<Vec<pb::Drop>, Failure>> + Send;

    /// What shadow rules would change on this host: of all groups that have some, or of one, with the flows concerned.
    fn list_shadows(
        &self,
        group: Option<ObjectName>,
    ) -> impl Future<Output = Result<Vec<pb::Shadow>, Failure>> + Send;

    /// Live sessions from a place in the table on.
    fn list_sessions(
        &self,
        wanted: SessionFilter,
    ) -> impl Future<Output = Result<pb::ListSessionsReply, Failure>> + Send;

    /// What each rule of a security group did on this host, in their order; none while no port here is in it.
    fn list_rule_hits(
        &self,
        group: ObjectName,
    ) -> impl Future<Output = Result<Vec<pb::RuleHits>, Failure>> + Send;

    /// Targets of all load balancers, or of one, as this host sees them. One that is not there has none.
    fn list_targets(
        &self,
        balancer: Option<ObjectName>,
    ) -> impl Future<Output = Result<Vec<pb::Target>, Failure>> + Send;
}
