//! The server: gRPC requests from the socket to the [`Backend`].

use crate::access::Access;
use crate::backend::{Backend, Failure, SessionFilter};
use crate::pb;
use crate::pb::towpath_server::{Towpath, TowpathServer};
use crate::socket::ApiSocket;
use ipnet::IpNet;
use model::fields::Refusal;
use model::security_group::Protocol;
use model::{Kind, Name, ObjectName};
use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Sleep, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::{Connected, UdsConnectInfo};
use tonic::{Request, Response, Status};

/// After this time a request is given up.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at a time; further ones wait in the socket's backlog.
pub const CONNECTIONS_MAX: usize = 64;
/// Requests at a time on one connection.
const STREAMS_MAX: u32 = 32;
/// Greatest request in bytes; none needs more than two names.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// After this time a connection on which nothing was said is cut, so that silent ones cannot keep others out.
pub const SILENCE_MAX: Duration = Duration::from_secs(5);
/// A connection on which nothing is said later is asked whether it lives, and has this time to answer.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// After this time at the end, requests and connections that are still open are cut.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(2);
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Sessions of one answer, at most, and where the request says nothing.
const SESSIONS_MAX: u32 = 10_000;
const SESSIONS_DEFAULT: u32 = 1_000;
/// Peers whose refusal is logged by name; of more only the first ones are.
const REFUSALS_LOGGED: usize = 100;

/// Serves `backend` on `socket` until `shutdown`; then requests may end for two seconds, and the socket is removed.
///
/// # Errors
/// The socket cannot be used. Errors of single connections end those only.
pub async fn serve<B: Backend>(
    socket: ApiSocket,
    access: Access,
    backend: Arc<B>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let listener = UnixListener::from_std(socket.listener()?)?;
    let (sender, connections) = mpsc::channel(1);
    let (ending, ended) = oneshot::channel();
    let acceptor = tokio::spawn(accept(listener, access, sender));
    let service = TowpathServer::new(Service { backend }).max_decoding_message_size(REQUEST_BYTES_MAX);
    let serving = Server::builder()
        .timeout(REQUEST_TIMEOUT)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEP_ALIVE.0))
        .http2_keepalive_timeout(Some(KEEP_ALIVE.1))
        .add_service(service)
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), async move {
            shutdown.await;
            // Nobody listens only when serving ended by itself.
            let _ = ending.send(());
        });
    // A connection on which nothing was ever said does not end by itself.
    let impatience = async {
        if ended.await.is_ok() {
            sleep(SHUTDOWN_PATIENCE).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    let served = tokio::select! {
        served = serving => served.map_err(io::Error::other),
        () = impatience => Ok(()),
    };
    acceptor.abort();
    drop(socket);
    served
}

/// Accepts for ever: neither a lack of descriptors nor a peer that is gone already stops it (hostile case A-04).
async fn accept(listener: UnixListener, access: Access, connections: mpsc::Sender<io::Result<Connection>>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut refused = BTreeSet::new();
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the API socket cannot accept at the moment");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match stream.peer_cred() {
            Ok(peer) if access.allows(peer.uid(), peer.gid()) => {
                let connection =
                    Connection { stream, silence: Some(Box::pin(sleep(SILENCE_MAX))), _permit: permit };
                if connections.send(Ok(connection)).await.is_err() {
                    return;
                }
            }
            Ok(peer) => {
                if refused.len() < REFUSALS_LOGGED && refused.insert(peer.uid()) {
                    tracing::warn!(
                        user = peer.uid(),
                        "refused on the API socket: neither root nor in group towpath"
                    );
                }
            }
            Err(error) => tracing::debug!(%error, "a peer of the API socket was gone before it was known"),
        }
    }
}

/// A connection, which counts as long as it is open.
#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    /// Ends a connection that never says anything; gone after its first bytes.
    silence: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.silence = None;
        }
        match (&read, &mut self.silence) {
            (Poll::Pending, Some(silence)) => {
                silence.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
            }
            _ => read,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(text) => Self::failed_precondition(text),
            Failure::Unavailable(text) => Self::unavailable(text),
        }
    }
}

/// A field of a request that is wrong.
fn invalid(field: &str, value: &str, refusal: &Refusal) -> Status {
    let value = model::problem::quoted(value);
    Status::invalid_argument(format!("{field} \"{value}\": {}; remedy: {}", refusal.message, refusal.remedy))
}

fn project(text: Option<String>) -> Result<Option<Name>, Status> {
    text.map(|text| Name::parse_project(&text).map_err(|refusal| invalid("project", &text, &refusal)))
        .transpose()
}

fn object(name: pb::ObjectName) -> Result<ObjectName, Status> {
    let project = match name.project.is_empty() {
        true => Name::default_project(),
        false => Name::parse_project(&name.project)
            .map_err(|refusal| invalid("project", &name.project, &refusal))?,
    };
    let name = Name::parse(&name.name).map_err(|refusal| invalid("name", &name.name, &refusal))?;
    Ok(ObjectName { project, name })
}

fn session_filter(request: pb::ListSessionsRequest) -> Result<SessionFilter, Status> {
    let pb::ListSessionsRequest { port, vpc, address, protocol, limit, from } = request;
    let network = address.map(|text| {
        let single = || text.parse::<IpAddr>().map(IpNet::from);
        let remedy = "write an address or a network, as 10.0.0.1 or 10.0.0.0/8";
        let refusal = Refusal::new("neither an address nor a network", remedy);
        text.parse().or_else(|_| single()).map_err(|_| invalid("address", &text, &refusal))
    });
    let protocol =
        protocol.map(|text| Protocol::parse(&text).map_err(|refusal| invalid("protocol", &text, &refusal)));
    if limit > SESSIONS_MAX {
        let refusal =
            Refusal::new("more than a page", format!("ask for {SESSIONS_MAX} at most, and then for more"));
        return Err(invalid("limit", &limit.to_string(), &refusal));
    }
    Ok(SessionFilter {
        port: port.map(object).transpose()?,
        vpc: vpc.map(object).transpose()?,
        network: network.transpose()?,
        protocol: protocol.transpose()?.map(|protocol| protocol.0),
        limit: if limit == 0 { SESSIONS_DEFAULT } else { limit } as usize,
        from: from.unwrap_or(0),
    })
}

/// Requests to calls of the backend.
struct Service<B> {
    backend: Arc<B>,
}

impl<B: Backend> Service<B> {
    /// There is no such port: names the nearest there is.
    async fn no_port(&self, wanted: &ObjectName) -> Status {
        let ports = self.backend.list_ports(None).await.unwrap_or_default();
        let names: Vec<String> = ports
            .into_iter()
            .filter_map(|port| port.resource)
            .map(|resource| format!("{}/{}", resource.project.unwrap_or_default(), resource.name))
            .collect();
        let remedy = match model::suggest::nearest(&wanted.to_string(), names.iter().map(String::as_str)) {
            Some(near) => format!("the nearest there is: {near}"),
            None => "this daemon has no ports; give it manifests".to_owned(),
        };
        Status::not_found(format!("there is no Port {wanted}; remedy: {remedy}"))
    }
}

#[tonic::async_trait]
impl<B: Backend> Towpath for Service<B> {
    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusReply>, Status> {
        Ok(Response::new(self.backend.status().await?))
    }

    async fn list_ports(
        &self,
        request: Request<pb::ListPortsRequest>,
    ) -> Result<Response<pb::ListPortsReply>, Status> {
        let ports = self.backend.list_ports(project(request.into_inner().project)?).await?;
        Ok(Response::new(pb::ListPortsReply { ports }))
    }

    async fn get_port(&self, request: Request<pb::GetPortRequest>) -> Result<Response<pb::Port>, Status> {
        let name = object(request.into_inner().name.unwrap_or_default())?;
        match self.backend.get_port(name.clone()).await? {
            Some(port) => Ok(Response::new(port)),
            None => Err(self.no_port(&name).await),
        }
    }

    async fn list_resources(
        &self,
        request: Request<pb::ListResourcesRequest>,
    ) -> Result<Response<pb::ListResourcesReply>, Status> {
        let request = request.into_inner();
        let kind = Kind::parse(&request.kind).map_err(|refusal| invalid("kind", &request.kind, &refusal))?;
        let resources = self.backend.list_resources(kind, project(request.project)?).await?;
        Ok(Response::new(pb::ListResourcesReply { resources }))
    }

    async fn list_workers(
        &self,
        _: Request<pb::ListWorkersRequest>,
    ) -> Result<Response<pb::ListWorkersReply>, Status> {
        Ok(Response::new(pb::ListWorkersReply { workers: self.backend.list_workers().await? }))
    }

    async fn reset_workers(
        &self,
        _: Request<pb::ResetWorkersRequest>,
    ) -> Result<Response<pb::ResetWorkersReply>, Status> {
        self.backend.reset_workers().await?;
        Ok(Response::new(pb::ResetWorkersReply {}))
    }

    async fn doctor(&self, _: Request<pb::DoctorRequest>) -> Result<Response<pb::DoctorReply>, Status> {
        Ok(Response::new(pb::DoctorReply { checks: self.backend.doctor().await? }))
    }

    async fn list_drops(
        &self,
        request: Request<pb::ListDropsRequest>,
    ) -> Result<Response<pb::ListDropsReply>, Status> {
        let port = request.into_inner().port.map(object).transpose()?;
        if let Some(name) = &port
            && self.backend.get_port(name.clone()).await?.is_none()
        {
            return Err(self.no_port(name).await);
        }
        Ok(Response::new(pb::ListDropsReply { drops: self.backend.list_drops(port).await? }))
    }

    async fn list_rule_hits(
        &self,
        request: Request<pb::ListRuleHitsRequest>,
    ) -> Result<Response<pb::ListRuleHitsReply>, Status> {
        let group = object(request.into_inner().group.unwrap_or_default())?;
        Ok(Response::new(pb::ListRuleHitsReply { rules: self.backend.list_rule_hits(group).await? }))
    }

    async fn list_targets(
        &self,
        request: Request<pb::ListTargetsRequest>,
    ) -> Result<Response<pb::ListTargetsReply>, Status> {
        let balancer = request.into_inner().balancer.map(object).transpose()?;
        Ok(Response::new(pb::ListTargetsReply { targets: self.backend.list_targets(balancer).await? }))
    }

    async fn list_shadows(
        &self,
        request: Request<pb::ListShadowsRequest>,
    ) -> Result<Response<pb::ListShadowsReply>, Status> {
        let group = request.into_inner().group.map(object).transpose()?;
        Ok(Response::new(pb::ListShadowsReply { shadows: self.backend.list_shadows(group).await? }))
    }

    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<pb::ListSessionsReply>, Status> {
        let wanted = session_filter(request.into_inner())?;
        if let Some(name) = &wanted.port
            && self.backend.get_port(name.clone()).await?.is_none()
        {
            return Err(self.no_port(name).await);
        }
        Ok(Response::new(self.backend.list_sessions(wanted).await?))
    }
}
