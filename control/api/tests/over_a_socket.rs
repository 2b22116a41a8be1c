//! Server and client over a real Unix socket, with a backend that answers from memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use model::{Kind, Name, ObjectName};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use towpath_api::{
    Access, ApiSocket, Backend, Client, ClientError, Failure, SessionFilter, pb, serve, server,
};

/// Answers from memory and remembers which names it was asked for.
#[derive(Default)]
struct FromMemory {
    asked: Mutex<Vec<String>>,
    resets: AtomicU64,
}

fn port(name: &str) -> pb::Port {
    let resource = pb::Resource {
        kind: "Port".into(),
        project: Some("default".into()),
        name: name.into(),
        owner: "manifests".into(),
        manifest: "{}".into(),
    };
    let status = pb::PortStatus { phase: pb::Phase::Forwarding.into(), ..pb::PortStatus::default() };
    pb::Port { resource: Some(resource), status: Some(status) }
}

impl Backend for FromMemory {
    async fn status(&self) -> Result<pb::StatusReply, Failure> {
        Ok(pb::StatusReply { version: "9.9.9".into(), host: "node-a".into(), ..pb::StatusReply::default() })
    }

    async fn list_ports(&self, project: Option<Name>) -> Result<Vec<pb::Port>, Failure> {
        self.asked.lock().unwrap().extend(project.map(|project| project.to_string()));
        Ok(vec![port("vm1"), port("vm2")])
    }

    async fn get_port(&self, name: ObjectName) -> Result<Option<pb::Port>, Failure> {
        self.asked.lock().unwrap().push(name.to_string());
        Ok(["vm1", "vm2"].contains(&name.name.as_str()).then(|| port(name.name.as_str())))
    }

    async fn list_resources(&self, kind: Kind, _: Option<Name>) -> Result<Vec<pb::Resource>, Failure> {
        Ok(vec![pb::Resource { kind: kind.to_string(), name: "blue".into(), ..pb::Resource::default() }])
    }

    async fn list_workers(&self) -> Result<Vec<pb::Worker>, Failure> {
        let packets = if self.resets.load(Ordering::SeqCst) == 0 { 7 } else { 0 };
        Ok(vec![pb::Worker { packets, ..pb::Worker::default() }])
    }

    async fn reset_workers(&self) -> Result<(), Failure> {
        self.resets.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn doctor(&self) -> Result<Vec<pb::Check>, Failure> {
        Err(Failure::Unavailable("the daemon is stopping; remedy: ask again".into()))
    }

    async fn list_drops(&self, port: Option<ObjectName>) -> Result<Vec<pb::Drop>, Failure> {
        let port = port.map(|name| name.to_string());
        Ok(vec![pb::Drop { port, reason: "spoofed_mac".into(), packets: 3, ..pb::Drop::default() }])
    }

    async fn list_shadows(&self, group: Option<ObjectName>) -> Result<Vec<pb::Shadow>, Failure> {
        let group = group.map_or_else(|| "all".to_owned(), |group| group.to_string());
        Ok(vec![pb::Shadow { group, ..pb::Shadow::default() }])
    }

    async fn list_sessions(&self, wanted: SessionFilter) -> Result<pb::ListSessionsReply, Failure> {
        self.asked.lock().unwrap().push(format!("{wanted:?}"));
        Ok(pb::ListSessionsReply { sessions: vec![pb::Session::default()], next: Some(wanted.from + 1) })
    }

    async fn list_rule_hits(&self, group: ObjectName) -> Result<Vec<pb::RuleHits>, Failure> {
        self.asked.lock().unwrap().push(group.to_string());
        Ok(vec![pb::RuleHits { hits: 7, last_hit_seconds: Some(1.5) }])
    }

    async fn list_targets(&self, balancer: Option<ObjectName>) -> Result<Vec<pb::Target>, Failure> {
        let balancer = balancer.map(|name| name.to_string()).unwrap_or_default();
        Ok(vec![pb::Target { balancer, state: "up".into(), ..pb::Target::default() }])
    }
}

struct Running {
    folder: tempfile::TempDir,
    backend: Arc<FromMemory>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<()>>,
}

impl Running {
    fn start(access: Access) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = ApiSocket::bind(&folder.path().join("api.sock")).unwrap();
        let backend = Arc::new(FromMemory::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(socket, access, Arc::clone(&backend), async {
            let _ = stopped.await;
        }));
        Self { folder, backend, stop, server }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    async fn client(&self) -> Client {
        Client::connect(&self.socket()).await.unwrap()
    }
}

fn object(name: &str) -> pb::ObjectName {
    pb::ObjectName { project: String::new(), name: name.into() }
}

#[tokio::test]
async fn every_call_is_answered() {
    let running = Running::start(Access::of_daemon());
    let mut client = running.client().await;
    assert_eq!(client.status().await.unwrap().version, "9.9.9");
    assert_eq!(client.list_ports(Some("blue".into())).await.unwrap().len(), 2);
    assert_eq!(client.get_port(object("vm1")).await.unwrap(), port("vm1"));
    assert_eq!(client.list_resources("Vpc", None).await.unwrap()[0].kind, "Vpc");
    assert_eq!(client.list_workers().await.unwrap()[0].packets, 7);
    client.reset_workers().await.unwrap();
    assert_eq!(client.list_workers().await.unwrap()[0].packets, 0);
    assert_eq!(client.list_drops(Some(object("vm2"))).await.unwrap()[0].port.as_deref(), Some("default/vm2"));
    let asked = running.backend.asked.lock().unwrap().clone();
    assert_eq!(asked, ["blue", "default/vm1", "default/vm2"]);
}

#[tokio::test]
async fn failures_come_as_what_they_are() {
    let running = Running::start(Access::of_daemon());
    let mut client = running.client().await;
    let absent = client.get_port(object("vm3")).await.unwrap_err();
    let ClientError::NotFound(text) = &absent else { panic!("{absent:?}") };
    assert!(
        text.contains("there is no Port default/vm3; remedy: the nearest there is: default/vm"),
        "{text}"
    );
    assert!(matches!(client.list_drops(Some(object("vm3"))).await, Err(ClientError::NotFound(_))));
    let stopping = client.doctor().await.unwrap_err();
    assert_eq!(stopping, ClientError::Failed("the daemon is stopping; remedy: ask again".into()));
    let kind = client.list_resources("Prot", None).await.unwrap_err();
    assert!(kind.to_string().contains("nearest known kind: Port"), "{kind}");
}

#[tokio::test]
async fn a13_hostile_names_never_reach_the_daemon() {
    let running = Running::start(Access::of_daemon());
    let mut client = running.client().await;
    let long = "a".repeat(10 * 1024);
    for name in ["", "../x", "a\0b", "a\nb", "-rf", "vм1", &long] {
        let error = client.get_port(object(name)).await.unwrap_err();
        assert!(matches!(error, ClientError::Failed(_)), "{name}: {error:?}");
        assert!(!error.to_string().contains(['\n', '\0']) && error.to_string().len() < 500, "{error}");
        let in_project = pb::ObjectName { project: name.into(), name: "vm1".into() };
        let error = client.list_drops(Some(in_project)).await;
        assert!(name.is_empty() || matches!(error, Err(ClientError::Failed(_))), "{name}");
        assert!(client.list_ports(Some(name.into())).await.is_err(), "{name}");
    }
    let huge = "a".repeat(1 << 20);
    assert!(client.get_port(object(&huge)).await.is_err(), "greater than any request may be");
    assert!(client.status().await.is_ok());
    assert!(running.backend.asked.lock().unwrap().iter().all(|name| name == "default/vm1"));
}

#[tokio::test]
async fn a01_a_peer_that_is_not_allowed_is_cut_off_whatever_the_sockets_mode() {
    let running = Running::start(Access { users: vec![], group: None });
    std::fs::set_permissions(running.socket(), PermissionsExt::from_mode(0o666)).unwrap();
    let mut stream = UnixStream::connect(running.socket()).await.unwrap();
    let mut byte = [0];
    assert_eq!(stream.read(&mut byte).await.unwrap_or(0), 0, "closed without a word");
    let error = Client::connect(&running.socket()).await;
    let error = match error {
        Ok(mut client) => client.status().await.unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("group towpath"), "{error}");
}

#[tokio::test]
async fn a04_peers_that_come_and_go_stop_nothing() {
    let running = Running::start(Access::of_daemon());
    for _ in 0..500 {
        drop(UnixStream::connect(running.socket()).await.unwrap());
    }
    assert!(running.client().await.status().await.is_ok());
}

#[tokio::test]
async fn a05_more_connections_than_allowed_wait_and_stop_nobody() {
    let running = Running::start(Access::of_daemon());
    let mut client = running.client().await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(UnixStream::connect(running.socket()).await.unwrap());
    }
    assert!(client.status().await.is_ok());
    drop(silent);
    assert!(running.client().await.status().await.is_ok(), "room again");
}

/// Time runs only while everybody waits, so that the limit is reached at once.
#[tokio::test(start_paused = true)]
async fn a05_silent_connections_are_cut_and_cannot_keep_others_out() {
    let running = Running::start(Access::of_daemon());
    let started = tokio::time::Instant::now();
    let mut silent = Vec::new();
    for _ in 0..server::CONNECTIONS_MAX {
        silent.push(UnixStream::connect(running.socket()).await.unwrap());
    }
    let mut waiting = UnixStream::connect(running.socket()).await.unwrap();
    let mut greeting = Vec::new();
    // Ends only because it was accepted, after the others had been cut, and then cut itself.
    let _ = waiting.read_to_end(&mut greeting).await;
    assert!(started.elapsed() >= 2 * server::SILENCE_MAX);
}

#[tokio::test]
async fn a07_bytes_that_are_no_request_end_their_connection_only() {
    use tokio::io::AsyncWriteExt;
    let running = Running::start(Access::of_daemon());
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 64],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x00\x00\x00\x00\x00\x00",
    ] {
        let mut stream = UnixStream::connect(running.socket()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
    }
    assert!(running.client().await.status().await.is_ok());
}

#[tokio::test]
async fn shutdown_removes_the_socket_even_with_silent_connections() {
    let running = Running::start(Access::of_daemon());
    let path = running.socket();
    let _silent = UnixStream::connect(&path).await.unwrap();
    let mut client = running.client().await;
    client.status().await.unwrap();
    running.stop.send(()).unwrap();
    running.server.await.unwrap().unwrap();
    assert!(!path.exists());
    let gone = client.status().await.unwrap_err();
    assert!(matches!(gone, ClientError::Unreachable { .. }), "{gone:?}");
}

async fn unreachable(path: &Path) -> String {
    let error = Client::connect(path).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    error.to_string()
}

#[tokio::test]
async fn whoever_is_unreachable_is_so_for_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    assert!(unreachable(&path).await.contains("there is no such socket; remedy: start towpathd"));
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(unreachable(&path).await.contains("nobody listens on it any more"));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "").unwrap();
    assert!(unreachable(&path).await.contains("not reachable at"));
    std::fs::remove_file(&path).unwrap();
    // Somebody who accepts and hangs up.
    let listener = UnixListener::bind(&path).unwrap();
    let hangs_up = tokio::spawn(async move {
        loop {
            drop(listener.accept().await);
        }
    });
    let error = match Client::connect(&path).await {
        Ok(mut client) => {
            tokio::time::timeout(Duration::from_secs(20), client.status()).await.unwrap().unwrap_err()
        }
        Err(error) => error,
    };
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    hangs_up.abort();
}
