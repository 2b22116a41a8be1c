//! The client: what `towpath` and tests use.

use crate::pb;
use crate::pb::towpath_client::TowpathClient;
use hyper_util::rt::TokioIo;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

/// After this time without an answer the daemon counts as unreachable.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Greatest answer in bytes: room for some 100,000 ports.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// No daemon answers on the socket.
    #[error("towpathd is not reachable at {socket}: {reason}; remedy: {remedy}")]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What happened.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// The daemon refused or failed, and says why.
    #[error("{0}")]
    Failed(String),
}

/// A connection to a daemon.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    inner: TowpathClient<Channel>,
}

impl Client {
    /// Connects to the daemon that listens on `socket`.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] with the reason.
    pub async fn connect(socket: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, &error))?;
        let mut first = Some(stream);
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let (stream, path) = (first.take(), path.clone());
            async move {
                let stream = match stream {
                    Some(stream) => stream,
                    None => UnixStream::connect(path).await?,
                };
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        });
        // The address is never looked up: the connector above ignores it.
        let endpoint = Endpoint::from_static("http://towpathd.invalid")
            .timeout(ANSWER_TIMEOUT)
            .connect_timeout(ANSWER_TIMEOUT);
        let channel =
            endpoint.connect_with_connector(connector).await.map_err(|error| ClientError::Unreachable {
                socket: socket.to_owned(),
                reason: format!("it closed the connection ({error})"),
                remedy: "only root and members of group towpath may use it; see the daemon's log",
            })?;
        let inner = TowpathClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        Ok(Self { socket: socket.to_owned(), inner })
    }

    /// Sorts an error of a call.
    fn failed(&self, status: &Status) -> ClientError {
        let unreachable =
            |reason: String, remedy| ClientError::Unreachable { socket: self.socket.clone(), reason, remedy };
        let text = status.message().to_owned();
        match status.code() {
            Code::NotFound => ClientError::NotFound(text),
            Code::Cancelled | Code::DeadlineExceeded => {
                unreachable("no answer in time".into(), "see the daemon's log; is it stopped or out of CPU?")
            }
            // What the daemon itself says comes with a text; a broken connection comes with a source.
            Code::Unavailable | Code::Unknown | Code::Internal
                if std::error::Error::source(status).is_some() =>
            {
                unreachable(
                    format!("the connection broke ({text})"),
                    "try again; only root and members of group towpath may use it; see the daemon's log",
                )
            }
            Code::Unimplemented => ClientError::Failed(format!(
                "the daemon does not know this request ({text}); remedy: use the towpath of the daemon's version"
            )),
            _ => ClientError::Failed(text),
        }
    }

    /// The daemon itself.
    ///
    /// # Errors
    /// As every call: unreachable, or what the daemon says.
    pub async fn status(&mut self) -> Result<pb::StatusReply, ClientError> {
        let answer = self.inner.status(pb::StatusRequest {}).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.failed(&status))
    }

    /// All ports, or those of one project.
    ///
    /// # Errors
    /// As every call.
    pub async fn list_ports(&mut self, project: Option<String>) -> Result<Vec<pb::Port>, ClientError> {
        let answer = self.inner.list_ports(pb::ListPortsRequest { project }).await;
        answer.map(|answer| answer.into_inner().ports).map_err(|status| self.failed(&status))
    }

    /// One port.
    ///
    /// # Errors
    /// As every call; [`ClientError::NotFound`] names the nearest.
    pub async fn get_port(&mut self, name: pb::ObjectName) -> Result<pb::Port, ClientError> {
        let answer = self.inner.get_port(pb::GetPortRequest { name: Some(name) }).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.failed(&status))
    }

    /// All resources of a kind, or those of one project.
    ///
    /// # Errors
    /// As every call.
    pub async fn list_resources(
        &mut self,
        kind: &str,
        project: Option<String>,
    ) -> Result<Vec<pb::Resource>, ClientError> {
        let answer =
            self.inner.list_resources(pb::ListResourcesRequest { kind: kind.to_owned(), project }).await;
        answer.map(|answer| answer.into_inner().resources).map_err(|status| self.failed(&status))
    }

    /// All workers.
    ///
    /// # Errors
    /// As every call.
    pub async fn list_workers(&mut self) -> Result<Vec<pb::Worker>, ClientError> {
        let answer = self.inner.list_workers(pb::ListWorkersRequest {}).await;
        answer.map(|answer| answer.into_inner().workers).map_err(|status| self.failed(&status))
    }

    /// Starts the counts of all workers from zero.
    ///
    /// # Errors
    /// As every call.
    pub async fn reset_workers(&mut self) -> Result<(), ClientError> {
        let answer = self.inner.reset_workers(pb::ResetWorkersRequest {}).await;
        answer.map(|_| ()).map_err(|status| self.failed(&status))
    }

    /// Checks of the host and the daemon.
    ///
    /// # Errors
    /// As every call.
    pub async fn doctor(&mut self) -> Result<Vec<pb::Check>, ClientError> {
        let answer = self.inner.doctor(pb::DoctorRequest {}).await;
        answer.map(|answer| answer.into_inner().checks).map_err(|status| self.failed(&status))
    }

    /// Drops of all ports, or of one.
    ///
    /// # Errors
    /// As every call; [`ClientError::NotFound`] when there is no such port.
    pub async fn list_drops(&mut self, port: Option<pb::ObjectName>) -> Result<Vec<pb::Drop>, ClientError> {
        let answer = self.inner.list_drops(pb::ListDropsRequest { port }).await;
        answer.map(|answer| answer.into_inner().drops).map_err(|status| self.failed(&status))
    }

    /// What shadow rules would change: of all groups that have some, or of one, with the flows concerned.
    ///
    /// # Errors
    /// As every call.
    pub async fn list_shadows(
        &mut self,
        group: Option<pb::ObjectName>,
    ) -> Result<Vec<pb::Shadow>, ClientError> {
        let answer = self.inner.list_shadows(pb::ListShadowsRequest { group }).await;
        answer.map(|answer| answer.into_inner().shadows).map_err(|status| self.failed(&status))
    }

    /// A page of live sessions.
    ///
    /// # Errors
    /// As every call; [`ClientError::NotFound`] when there is no such port.
    pub async fn list_sessions(
        &mut self,
        request: pb::ListSessionsRequest,
    ) -> Result<pb::ListSessionsReply, ClientError> {
        let answer = self.inner.list_sessions(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.failed(&status))
    }

    /// What each rule of a security group did; none while no port of the daemon's host is in it.
    ///
    /// # Errors
    /// As every call.
    pub async fn list_rule_hits(&mut self, group: pb::ObjectName) -> Result<Vec<pb::RuleHits>, ClientError> {
        let answer = self.inner.list_rule_hits(pb::ListRuleHitsRequest { group: Some(group) }).await;
        answer.map(|answer| answer.into_inner().rules).map_err(|status| self.failed(&status))
    }

    /// Targets of all load balancers, or of one, as the daemon's host sees them.
    ///
    /// # Errors
    /// As every call.
    pub async fn list_targets(
        &mut self,
        balancer: Option<pb::ObjectName>,
    ) -> Result<Vec<pb::Target>, ClientError> {
        let answer = self.inner.list_targets(pb::ListTargetsRequest { balancer }).await;
        answer.map(|answer| answer.into_inner().targets).map_err(|status| self.failed(&status))
    }
}

/// Nobody answers: says why and what to do.
fn unreachable(socket: &Path, error: &io::Error) -> ClientError {
    let (reason, remedy) = match error.kind() {
        io::ErrorKind::NotFound => (
            "there is no such socket".to_owned(),
            "start towpathd, or say where it listens with --socket or TOWPATH_SOCKET",
        ),
        io::ErrorKind::ConnectionRefused => (
            "nobody listens on it any more".to_owned(),
            "start towpathd: it stopped without removing its socket",
        ),
        io::ErrorKind::PermissionDenied => {
            ("permission denied".to_owned(), "run as root or as a member of group towpath")
        }
        _ => (error.to_string(), "check the path given with --socket or TOWPATH_SOCKET"),
    };
    ClientError::Unreachable { socket: socket.to_owned(), reason, remedy }
}
