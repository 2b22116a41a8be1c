//! Puts the daemon together, and what it does on signals.

use crate::backend::Daemon;
use crate::config::{Config, Machine};
use crate::host::{self, HostHandle, HostParts, UplinkChanged};
use crate::metrics::Snapshot;
use crate::uplink::{Uplink, UplinkInfo};
use crate::worker::{self, WorkerConfig, WorkerHandle};
use anyhow::{Context, anyhow};
use api::{Access, ApiSocket, pb};
use crossbeam::queue::ArrayQueue;
use ipnet::IpNet;
use model::{Absent, Environment, HostSpec, Manifests, Owner, Problem, ResourceSet};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use switch::{Control, SwitchConfig};
use tables::sessions::Statistics;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

/// 2 KiB pieces for packets that outlive their burst: 8 MiB.
const POOL_CHUNKS: usize = 4096;
/// Faults that may wait for the control thread.
const FAULTS: usize = 256;
/// The daemon's own file, when the command line names none and it exists.
const DEFAULT_FILE: &str = "/etc/towpath/towpathd.yaml";
/// How long a shutdown may take.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(10);

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The daemon's own file.
    pub config: Option<PathBuf>,
    /// Manifests; wins over the file's.
    pub manifests: Option<PathBuf>,
}

/// Validates the file and the manifests.
///
/// # Errors
///
/// Something is wrong; everything was printed.
pub fn check(options: &Options) -> anyhow::Result<()> {
    let config = load_config(options)?;
    let set = load_manifests(&config, None).map_err(|problems| report(&problems))?;
    println!("valid: {}", summary(&set));
    Ok(())
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
///
/// It could not be started.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let config = load_config(options)?;
    raise_descriptor_limit();
    let uplink = Uplink::open(&config).map_err(|problem| report(&[*problem]))?;
    let info = uplink.as_ref().map(|uplink| uplink.info.clone());
    let set = load_manifests(&config, info.as_ref()).map_err(|problems| report(&problems))?;
    // What the uplink is when it is another than it was.
    let (changed, changes) = watch::channel(info.clone());
    let hears = Box::new(move |info| drop(changed.send(Some(info))));
    let (host, control_thread) = start_threads(&config, uplink, hears)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("api")
        .enable_all()
        .build()
        .context("the API's threads could not be started")?;
    let served = runtime.block_on(serve(config, changes, set, host.clone()));
    host.ask(host::Host::stop);
    let deadline = Instant::now() + SHUTDOWN_LIMIT;
    while !control_thread.is_finished() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    runtime.shutdown_timeout(Duration::from_secs(1));
    served
}

fn load_config(options: &Options) -> anyhow::Result<Config> {
    let default = Path::new(DEFAULT_FILE);
    let file = options.config.clone().or_else(|| default.exists().then(|| default.to_owned()));
    let mut config =
        Config::load(file.as_deref(), &Machine::detect()).map_err(|problems| report(&problems))?;
    if let Some(manifests) = &options.manifests {
        config.manifests = Some(manifests.clone());
    }
    Ok(config)
}

fn report(problems: &[Problem]) -> anyhow::Error {
    for problem in problems {
        eprintln!("{problem}");
    }
    let count = problems.len();
    anyhow!("{count} {} found; nothing was changed", if count == 1 { "problem" } else { "problems" })
}

/// What the rules must know of this host. Without its uplink (`--check` opens none) what the file says, and nothing of a host whose addresses
/// are those of its interface.
fn environment(config: &Config, uplink: Option<&UplinkInfo>) -> Environment {
    let written = config.uplink.as_ref();
    let (addresses, mtu) = match (uplink, written) {
        (Some(info), _) => (info.addresses.clone(), Some(info.mtu)),
        (None, Some(written)) => (written.addresses.clone(), written.mtu),
        (None, None) => (Vec::new(), None),
    };
    let is_known = uplink.is_some() || written.is_none_or(|written| !written.addresses.is_empty());
    let vteps = addresses.iter().map(IpNet::addr).collect();
    let own_host = is_known.then(|| (config.host.clone(), HostSpec { vteps, mtu }));
    Environment { own_host }
}

fn load_manifests(config: &Config, uplink: Option<&UplinkInfo>) -> Result<ResourceSet, Vec<Problem>> {
    let manifests = match &config.manifests {
        Some(path) => Manifests::read_paths(&[path], Owner::Manifests),
        None => Manifests::none(Owner::Manifests),
    };
    ResourceSet::default().apply(manifests, Absent::Remove, &environment(config, uplink))
}

/// "2 Ports, 1 Subnet".
fn summary(set: &ResourceSet) -> String {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for resource in set.iter() {
        *kinds.entry(resource.meta.key.kind.to_string()).or_default() += 1;
    }
    let words: Vec<String> = kinds
        .into_iter()
        .map(|(kind, count)| format!("{count} {kind}{}", if count == 1 { "" } else { "s" }))
        .collect();
    if words.is_empty() { "no resources".to_owned() } else { words.join(", ") }
}

fn start_threads(
    config: &Config,
    uplink: Option<Uplink>,
    uplink_changed: UplinkChanged,
) -> anyhow::Result<(HostHandle, std::thread::JoinHandle<()>)> {
    let threads = uplink.as_ref().map(Uplink::threads).unwrap_or_default();
    let cores: Vec<usize> = config.workers.cores.iter().map(|core| *core as usize).collect();
    let switch = SwitchConfig {
        workers: cores.len(),
        pool_chunks: POOL_CHUNKS,
        secret: secret()?,
        sessions: config.limits.sessions,
        huge_pages: config.limits.huge_pages,
        timeouts: config.limits.timeouts,
        now: worker::boot_time(),
    };
    let (control, workers) = Control::new(&switch)
        .context("no memory for sessions: lower limits.sessions in the daemon's file")?;
    let Statistics { ipv4_capacity: ipv4, ipv6_capacity: ipv6, huge_pages, bytes, .. } =
        control.sessions().statistics();
    tracing::info!(ipv4, ipv6, huge_pages, bytes, "table of sessions");
    let bell = host::bell().context("no file descriptors left")?;
    let faults = Arc::new(ArrayQueue::new(FAULTS));
    let wakers = worker::wakers(cores.len()).context("no file descriptors left")?;
    let mut handles: Vec<WorkerHandle> = Vec::new();
    for (index, (worker, core)) in workers.into_iter().zip(cores).enumerate() {
        let ring = bell.clone();
        let config = WorkerConfig {
            index,
            core,
            idle: config.workers.idle,
            notify_control: Arc::new(move || ring.ring()),
            faults: faults.clone(),
            announcements: control.announcements().clone(),
            exceptions: control.exceptions().clone(),
            uplink: threads.clone(),
        };
        handles.push(worker::start(worker, config, wakers.clone()).context("a worker could not be started")?);
    }
    let [seed, _] = secret()?;
    let parts = HostParts {
        name: config.host.clone(),
        control,
        workers: handles,
        faults,
        bell,
        uplink,
        uplink_changed,
        seed,
    };
    host::start(parts).context("the control thread could not be started")
}

/// A key for the tables' hashes that no guest can guess.
fn secret() -> anyhow::Result<[u64; 2]> {
    let mut bytes = [[0u8; 8]; 2];
    for half in &mut bytes {
        rustix::rand::getrandom(half, rustix::rand::GetRandomFlags::empty())
            .context("no random numbers from the kernel")?;
    }
    Ok(bytes.map(u64::from_ne_bytes))
}

async fn serve(
    config: Config,
    changes: watch::Receiver<Option<UplinkInfo>>,
    set: ResourceSet,
    host: HostHandle,
) -> anyhow::Result<()> {
    let uplink = changes.borrow().clone();
    let socket = ApiSocket::bind(&config.api_socket)?;
    let metrics = bind_metrics(config.metrics).await?;
    let summary = summary(&set);
    apply(&host, set).await?;
    let backend = Arc::new(Daemon {
        host: host.clone(),
        name: config.host.clone(),
        began: Instant::now(),
        sources: sources(&config, &summary),
        lacks: lacks(&config, uplink.as_ref()),
        reload: Mutex::new(None),
        baselines: Mutex::new(BTreeMap::new()),
    });
    backend.lacks.iter().for_each(|lack| tracing::info!("{lack}"));
    let (stop, stopped) = watch::channel(false);
    let mut api =
        tokio::spawn(api::serve(socket, Access::of_daemon(), backend.clone(), until(stopped.clone())));
    tokio::spawn(serve_metrics(metrics, host.clone(), until(stopped)));
    if let Some(info) = &uplink {
        let addresses = info.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let UplinkInfo { driver, device, mac, mtu, queue_pairs, .. } = info;
        tracing::info!(%driver, %device, %mac, mtu, queue_pairs, addresses, "uplink");
    }
    tracing::info!(host = %config.host, api = %config.api_socket.display(), "towpathd runs: {summary}");
    notify_systemd(&[sd_notify::NotifyState::Ready]);
    let ended = tokio::select! {
        result = wait_for_signals(&config, changes, &host, &backend) => result,
        result = &mut api => Err(anyhow!("the API ended: {result:?}")),
    };
    notify_systemd(&[sd_notify::NotifyState::Stopping]);
    let _ = stop.send(true);
    ended
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Handles SIGHUP, another uplink and the watchdog until SIGTERM or SIGINT.
async fn wait_for_signals(
    config: &Config,
    mut changes: watch::Receiver<Option<UplinkInfo>>,
    host: &HostHandle,
    backend: &Daemon,
) -> anyhow::Result<()> {
    let mut uplink = changes.borrow().clone();
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut watchdog = tokio::time::interval(
        sd_notify::watchdog_enabled().map_or(Duration::from_secs(3600), |limit| limit / 2),
    );
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => reload(config, uplink.as_ref(), host, backend).await,
            // Its MTU bounds that of the VPCs, its addresses are this host's: the manifests are judged by them.
            Ok(()) = changes.changed() => {
                uplink = changes.borrow_and_update().clone();
                reload(config, uplink.as_ref(), host, backend).await;
            }
            _ = watchdog.tick() => {
                // A sign of life only if the control thread gives one.
                let (answer, answered) = oneshot::channel();
                host.ask(move |_| {
                    let _ = answer.send(());
                });
                if answered.await.is_ok() {
                    notify_systemd(&[sd_notify::NotifyState::Watchdog]);
                }
            }
        }
    }
    tracing::info!("shutting down");
    Ok(())
}

/// Reads the manifests again. What is wrong leaves everything as it is.
async fn reload(config: &Config, uplink: Option<&UplinkInfo>, host: &HostHandle, backend: &Daemon) {
    if let Ok(now) = sd_notify::NotifyState::monotonic_usec_now() {
        notify_systemd(&[sd_notify::NotifyState::Reloading, now]);
    }
    let problems = match load_manifests(config, uplink) {
        Ok(set) => {
            let words = summary(&set);
            match apply(host, set).await {
                Ok(()) => {
                    tracing::info!("reloaded: {words}");
                    Vec::new()
                }
                Err(error) => vec![error.to_string()],
            }
        }
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    };
    problems.iter().for_each(|problem| tracing::error!("reload refused, nothing changed: {problem}"));
    backend.note_reload(problems);
    notify_systemd(&[sd_notify::NotifyState::Ready]);
}

async fn apply(host: &HostHandle, set: ResourceSet) -> anyhow::Result<()> {
    let (answer, answered) = oneshot::channel();
    host.ask(move |host| drop(answer.send(host.apply(set))));
    for problem in answered.await.context("the control thread ended")? {
        tracing::error!("{problem}");
    }
    Ok(())
}

async fn bind_metrics(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("metrics.listen {address}: cannot listen there; name another address in the daemon's file")
    })
}

async fn serve_metrics(
    listener: TcpListener,
    host: HostHandle,
    stopped: impl Future<Output = ()> + Send + 'static,
) {
    let scrape = move || {
        let host = host.clone();
        async move {
            let (answer, answered) = oneshot::channel();
            host.ask(move |host| drop(answer.send(Snapshot::of(host))));
            let text = answered.await.ok().and_then(|snapshot| snapshot.text().ok());
            let kind = [("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")];
            text.map(|text| (kind, text)).ok_or(axum::http::StatusCode::SERVICE_UNAVAILABLE)
        }
    };
    let router = axum::Router::new().route("/metrics", axum::routing::get(scrape));
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
        tracing::error!(%error, "metrics are not served any more");
    }
}

fn sources(config: &Config, summary: &str) -> Vec<pb::ConfigSource> {
    let source = |kind: &str, path: Option<&Path>, detail: &str| pb::ConfigSource {
        kind: kind.to_owned(),
        path: path.map(|path| path.display().to_string()),
        detail: detail.to_owned(),
    };
    let mut sources = vec![match &config.file {
        Some(file) => source("file", Some(file), "the daemon's own file"),
        None => source("defaults", None, "no file: one worker, no uplink, no store"),
    }];
    if let Some(manifests) = &config.manifests {
        sources.push(source("manifests", Some(manifests), summary));
    }
    sources
}

fn lacks(config: &Config, uplink: Option<&UplinkInfo>) -> Vec<String> {
    let device = uplink
        .into_iter()
        .flat_map(|info| info.lacks.iter().map(|lack| format!("uplink {}: {lack}", info.device)));
    config.notes().into_iter().chain(device).collect()
}

fn notify_systemd(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// A port needs a handful of descriptors for each queue pair.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_err() {
        tracing::warn!(?current, "the limit of open files could not be raised");
    }
}

/// A folder for sockets, made when it is missing: 0750, as its parents.
///
/// # Errors
///
/// The operating system's.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(folder)
}
