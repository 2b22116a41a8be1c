//! `towpathd.yaml`, the daemon's own file: typed, with a default for everything, all problems at once.
//!
//! What a later version will do (a store, TLS) is refused by name instead of ignored. Without a file the daemon
//! runs on its defaults, and [`Config::notes`] says what that means.

mod limits;
mod uplink;

pub use limits::Limits;
pub(crate) use uplink::unreachable_gateway;
pub use uplink::{HAS_DPDK, UplinkConfig, UplinkDriver};

use model::fields::{Fields, Parsed, Reader, Refusal};
use model::load::read_file;
use model::port::parse_socket_path;
use model::yaml::{Budget, Node, Position, Value, parse};
use model::{Name, Problem};
use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Most workers of a daemon.
pub const WORKERS_MAX: usize = 16;
/// Where the metrics are served unless the file says otherwise.
pub const DEFAULT_METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);
/// Greatest number of a core that is looked at.
const CORE_MAX: u64 = 4095;

/// The daemon's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file it was read from; absent for pure defaults.
    pub file: Option<PathBuf>,
    /// Name of this host, as resources refer to it.
    pub host: Name,
    /// The polling threads.
    pub workers: Workers,
    /// How it reaches other hosts; absent: not at all.
    pub uplink: Option<UplinkConfig>,
    /// Arguments for DPDK's EAL, beside those that towpathd chooses.
    pub eal: Vec<String>,
    /// Socket of the API.
    pub api_socket: PathBuf,
    /// Address on which metrics are served over HTTP; port 0 takes any that is free.
    pub metrics: SocketAddr,
    /// Folder of manifests, applied at start and on SIGHUP.
    pub manifests: Option<PathBuf>,
    /// What sessions may take.
    pub limits: Limits,
}

/// The polling threads: one on each core named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workers {
    /// Cores, 1 to 16, each once; worker n is on the n-th.
    pub cores: Vec<u32>,
    /// What a worker does when there is nothing to do.
    pub idle: Idle,
}

/// What a worker does when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Spins, then pauses, then sleeps until a guest notifies.
    Adaptive,
    /// Spins for ever: the core is the worker's alone.
    Poll,
}

/// What this machine is, where the defaults come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The kernel's name for it.
    pub hostname: String,
    /// The cores this process may run on, ascending.
    pub cores: Vec<u32>,
}

impl Machine {
    /// Asks the kernel. What it does not say is `localhost` and core 0.
    pub fn detect() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let hostname = read("/proc/sys/kernel/hostname").trim().to_lowercase();
        let status = read("/proc/self/status");
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let cores = list.map(|list| core_list(list.trim())).filter(|cores| !cores.is_empty());
        Self {
            hostname: if hostname.is_empty() { "localhost".to_owned() } else { hostname },
            cores: cores.unwrap_or_else(|| vec![0]),
        }
    }

    /// The core of the only worker when the file names none: the last one, as the kernel keeps its own work on the first.
    fn default_core(&self) -> u32 {
        self.cores.last().copied().unwrap_or(0)
    }
}

/// Reads `0-2,5`, the kernel's form of a list of cores.
fn core_list(text: &str) -> Vec<u32> {
    let range = |part: &str| -> Option<std::ops::RangeInclusive<u32>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

impl Config {
    /// Reads a file, or takes the defaults without one.
    ///
    /// # Errors
    /// Everything that is wrong with it. A file that anybody may write is refused: it decides what root runs.
    pub fn load(file: Option<&Path>, machine: &Machine) -> Result<Self, Vec<Problem>> {
        let Some(path) = file else { return Self::read("", None, machine) };
        let name = path.display().to_string();
        let text = read_file(path)
            .map_err(|refusal| vec![Problem::new(refusal.message, refusal.remedy).in_file(name.clone())])?;
        let result = Self::read(&text, Some(path), machine);
        if fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o002 == 0) {
            return result;
        }
        let problem =
            Problem::new("anybody may write this file", "take the right away: chmod o-w").in_file(name);
        Err(std::iter::once(problem).chain(result.err().unwrap_or_default()).collect())
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(text: &str, file: Option<&Path>, machine: &Machine) -> Result<Self, Vec<Problem>> {
        let name = file.map(|path| path.display().to_string());
        let (documents, faults) = parse(text, &Budget::default());
        let mut problems: Vec<Problem> = faults
            .into_iter()
            .map(|fault| {
                let problem = Problem::new(fault.message, fault.remedy);
                let problem = problem.at(fault.position.line, fault.position.column);
                Problem { file: name.clone(), ..problem }
            })
            .collect();
        let nothing = Node { position: Position { line: 1, column: 1 }, value: Value::Null };
        let document = documents.first().unwrap_or(&nothing);
        let mut reader = Reader::new(name.as_deref(), document.position);
        if let Some(second) = documents.get(1) {
            let refusal = Refusal::new(
                "a second document",
                "keep one document in this file; resources go into manifests",
            );
            reader.refuse(second.position, "", None, refusal);
        }
        let config = Fields::open(document, "", &mut reader)
            .map(|fields| read_fields(fields, &mut reader, file, machine));
        problems.append(&mut reader.problems);
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => {
                problems.sort_by_key(|problem| (problem.line, problem.column));
                Err(problems)
            }
        }
    }

    /// What a person should know who reads the start of the log.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.file.is_none() {
            let core = self.workers.cores.first().copied().unwrap_or(0);
            notes.push(format!("no configuration file: host {}, one worker on core {core}", self.host));
        }
        if self.uplink.is_none() {
            notes.push("no uplink: ports of this host reach each other and no other host".to_owned());
        }
        if !HAS_DPDK {
            notes.push("built without DPDK: an uplink can only be an interface of the kernel".to_owned());
        }
        if self.manifests.is_none() {
            notes.push(
                "no folder of manifests: there are no ports until one is given with --manifests".to_owned(),
            );
        }
        notes
    }
}

/// The defaults with the fields of a file over them.
fn read_fields(
    mut fields: Fields<'_>,
    reader: &mut Reader,
    file: Option<&Path>,
    machine: &Machine,
) -> Config {
    let host = read_host(&mut fields, reader, machine);
    let workers = read_workers(&mut fields, reader, machine);
    let api_socket = read_api(&mut fields, reader);
    let metrics = read_metrics(&mut fields, reader);
    let manifests = fields.parse(reader, "manifests", |text| read_folder(text, file));
    let uplink = uplink::read_uplink(&mut fields, reader);
    let eal = uplink::read_eal(&mut fields, reader, uplink.as_ref());
    fields.unsupported(
        reader,
        "store",
        "stores are not supported by this version",
        "remove the field: resources come from the folder of manifests, which is read at every start",
    );
    let limits = limits::read_limits(&mut fields, reader);
    fields.finish(reader);
    Config {
        file: file.map(Path::to_owned),
        host,
        workers,
        uplink,
        eal,
        api_socket,
        metrics,
        manifests,
        limits,
    }
}

fn read_host(fields: &mut Fields<'_>, reader: &mut Reader, machine: &Machine) -> Name {
    let written = fields.node("host").is_some();
    if let Some(host) = fields.parse(reader, "host", Name::parse) {
        return host;
    }
    match Name::parse(&machine.hostname) {
        Ok(host) => host,
        Err(refusal) => {
            if !written {
                let message = format!(
                    "is missing, and this machine's own name cannot be a host's: {}",
                    refusal.message
                );
                let refusal = Refusal::new(message, "write host: with a name of letters, digits and '-'");
                reader.refuse(fields.position, "host", Some(&machine.hostname), refusal);
            }
            Name::default_project()
        }
    }
}

fn read_workers(fields: &mut Fields<'_>, reader: &mut Reader, machine: &Machine) -> Workers {
    let defaults = Workers { cores: vec![machine.default_core()], idle: Idle::Adaptive };
    let Some(mut workers) = fields.mapping(reader, "workers") else { return defaults };
    let cores = read_cores(&mut workers, reader, machine).unwrap_or(defaults.cores);
    let idle = workers.parse(reader, "idle", |text| match text {
        "adaptive" => Ok(Idle::Adaptive),
        "poll" => Ok(Idle::Poll),
        _ => Err(Refusal::new(
            "unknown way to idle",
            "write adaptive (sleeps when nothing comes) or poll (never sleeps)",
        )),
    });
    workers.finish(reader);
    Workers { cores, idle: idle.unwrap_or(defaults.idle) }
}

fn read_cores(workers: &mut Fields<'_>, reader: &mut Reader, machine: &Machine) -> Option<Vec<u32>> {
    let items = workers.items(reader, "cores")?;
    let there = machine.cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if items.is_empty() || items.len() > WORKERS_MAX {
        let message = format!("names {} cores", items.len());
        let refusal = Refusal::new(message, format!("name 1 to {WORKERS_MAX} of the cores {there}"));
        reader.refuse(workers.position, &workers.path("cores"), None, refusal);
    }
    let mut seen = BTreeSet::new();
    let mut cores = Vec::new();
    for (path, node) in items {
        let Some(core) =
            reader.integer(node, &path, &(0..=CORE_MAX)).and_then(|core| u32::try_from(core).ok())
        else {
            continue;
        };
        if !machine.cores.contains(&core) {
            let refusal =
                Refusal::new("towpathd may not run on this core", format!("use one of the cores {there}"));
            reader.refuse(node.position, &path, Some(&core.to_string()), refusal);
        } else if !seen.insert(core) {
            let refusal = Refusal::new("a worker has this core already", "name each core once");
            reader.refuse(node.position, &path, Some(&core.to_string()), refusal);
        }
        cores.push(core);
    }
    Some(cores)
}

fn read_api(fields: &mut Fields<'_>, reader: &mut Reader) -> PathBuf {
    let default = PathBuf::from(api::DEFAULT_SOCKET);
    let Some(mut section) = fields.mapping(reader, "api") else { return default };
    let socket = section.parse(reader, "socket", parse_socket_path);
    let remedy = "remove the field: the API is served on its socket only";
    section.unsupported(reader, "listen", "the API over TCP is not supported by this version", remedy);
    section.unsupported(reader, "tls", "the API over TLS is not supported by this version", remedy);
    section.finish(reader);
    socket.map_or(default, PathBuf::from)
}

fn read_metrics(fields: &mut Fields<'_>, reader: &mut Reader) -> SocketAddr {
    let Some(mut section) = fields.mapping(reader, "metrics") else { return DEFAULT_METRICS };
    let listen = section.parse(reader, "listen", |text| {
        text.parse().map_err(|_| {
            Refusal::new(
                "not an address and port",
                "write them as 127.0.0.1:9464 or \"[::1]:9464\"; port 0 takes any",
            )
        })
    });
    section.finish(reader);
    listen.unwrap_or(DEFAULT_METRICS)
}

/// A folder, relative to that of the file it is written in.
fn read_folder(text: &str, file: Option<&Path>) -> Parsed<PathBuf> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(Refusal::new("not a path", "write the path of a folder, as /etc/towpath/manifests"));
    }
    let base = file.and_then(Path::parent).unwrap_or(Path::new(""));
    Ok(base.join(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn machine() -> Machine {
        Machine { hostname: "node-x".into(), cores: vec![0, 1, 2, 3] }
    }

    pub(super) fn read(text: &str) -> Result<Config, Vec<String>> {
        let result = Config::read(text, Some(Path::new("/etc/towpath/towpathd.yaml")), &machine());
        result.map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    pub(super) fn refused(text: &str, parts: &[&str]) {
        let problems = read(text).unwrap_err();
        assert_eq!(problems.len(), 1, "{text}: {problems:#?}");
        for part in parts {
            assert!(problems[0].contains(part), "{part}: {problems:#?}");
        }
    }

    #[test]
    fn everything_has_a_default() {
        let config = Config::load(None, &machine()).unwrap();
        assert_eq!(
            config,
            Config {
                file: None,
                host: Name::parse("node-x").unwrap(),
                workers: Workers { cores: vec![3], idle: Idle::Adaptive },
                uplink: None,
                eal: Vec::new(),
                api_socket: "/run/towpath/api.sock".into(),
                metrics: "127.0.0.1:9464".parse().unwrap(),
                manifests: None,
                limits: Limits::default(),
            }
        );
        assert_eq!(config.notes().len(), if HAS_DPDK { 3 } else { 4 });
        assert!(config.notes()[0].contains("one worker on core 3"));
        for empty in ["", "---\n", "# nothing\n", "api:\nworkers:\nmetrics: {listen: null}\n"] {
            assert_eq!(read(empty).unwrap().workers.cores, [3], "{empty}");
        }
    }

    #[test]
    fn every_field() {
        let config = read(
            "host: node-a\nworkers: {cores: [2, 3], idle: poll}\n\
             api: {socket: /run/x/api.sock, listen: null, tls: null}\nmetrics: {listen: '[::1]:0'}\nmanifests: manifests\n\
             store: null\nuplink: {kernel: {ifname: u0}}\neal:\nlimits: {sessions: 4096, hugePages: false, timeouts: {tcpEstablished: 2h, icmp: 5s}}\n",
        )
        .unwrap();
        assert_eq!(config.host.as_str(), "node-a");
        assert_eq!(config.workers, Workers { cores: vec![2, 3], idle: Idle::Poll });
        assert_eq!(config.api_socket, Path::new("/run/x/api.sock"));
        assert_eq!(config.metrics, "[::1]:0".parse().unwrap());
        assert_eq!((config.limits.sessions, config.limits.huge_pages), (4096, false));
        let mut timeouts = Limits::default().timeouts;
        (timeouts.tcp.established, timeouts.icmp) = (7_200_000, 5_000);
        assert_eq!(config.limits.timeouts, timeouts);
        assert_eq!(config.manifests.as_deref(), Some(Path::new("/etc/towpath/manifests")));
        assert_eq!(config.uplink.as_ref().map(|uplink| uplink.driver.device()), Some("u0"));
        assert!(config.notes().len() <= usize::from(!HAS_DPDK), "{:?}", config.notes());
    }

    #[test]
    fn what_later_versions_do_is_refused_by_name() {
        refused(
            "store: {embedded: {path: /x}}",
            &["towpathd.yaml:1:8: store: stores are not supported by this version"],
        );
        refused(
            "api: {listen: '0.0.0.0:1'}",
            &["api.listen \"0.0.0.0:1\": the API over TCP is not supported"],
        );
        refused("api: {tls: {}}", &["api.tls: the API over TLS is not supported"]);
    }

    #[test]
    fn typos_name_the_nearest_field() {
        refused("hsot: a", &["1:1: hsot: unknown field; remedy: nearest known field: host"]);
        refused("workers: {core: [1]}", &["workers.core: unknown field; remedy: nearest known field: cores"]);
        refused("metrics: {liste: x}", &["metrics.liste: unknown field", "listen"]);
        refused("limits: {sessions: 5}", &["limits.sessions \"5\": "]);
        refused("limits: {timeouts: {udp: 1s}}", &["limits.timeouts.udp: unknown field", "udpStream"]);
        refused("limits: {timeouts: {icmp: 1}}", &["limits.timeouts.icmp \"1\": a time span needs a unit"]);
        refused(
            "limits: {timeouts: {icmp: 999ms}}",
            &["limits.timeouts.icmp \"999ms\": not from 1s to 24 days"],
        );
        refused("limits: {flows: 1}", &["limits.flows: unknown field", "sessions"]);
    }

    #[test]
    fn values_that_cannot_be() {
        refused("host: ../x", &["host \"../x\""]);
        refused(
            "workers: {cores: []}",
            &["workers.cores: names 0 cores; remedy: name 1 to 16 of the cores 0, 1, 2, 3"],
        );
        refused("workers: {cores: [1, 1]}", &["workers.cores[1] \"1\": a worker has this core already"]);
        refused("workers: {cores: [7]}", &["workers.cores[0] \"7\": towpathd may not run on this core"]);
        refused("workers: {cores: 2}", &["workers.cores: is a single value, not a list"]);
        refused("workers: {idle: sleep}", &["workers.idle \"sleep\": unknown way to idle"]);
        refused("api: {socket: run/api.sock}", &["api.socket \"run/api.sock\": not an absolute path"]);
        refused(&format!("api: {{socket: /{}}}", "x".repeat(107)), &["does not fit a socket's address"]);
        refused("metrics: {listen: 9464}", &["metrics.listen \"9464\": not an address and port"]);
        refused("[1]", &["is a list, not a mapping"]);
        refused("host: a\n---\nkind: Vpc\n", &["a second document"]);
        refused("host: [", &["not valid YAML"]);
    }

    #[test]
    fn all_problems_are_reported_in_order() {
        let problems = read("host: A\nworkers: {cores: [9, x], idle: no}\nstore: {}\nhots: a\n").unwrap_err();
        assert_eq!(problems.len(), 6, "{problems:#?}");
        assert!(problems.is_sorted_by_key(|problem| problem.split(':').nth(1).map(str::to_owned)));
    }

    #[test]
    fn a_hostname_that_cannot_be_a_name_asks_for_one() {
        let machine = Machine { hostname: "my_host".into(), cores: vec![0] };
        let problems = Config::read("", None, &machine).unwrap_err();
        assert!(problems[0].to_string().contains("host \"my_host\": is missing"), "{problems:?}");
        assert!(Config::read("host: a", None, &machine).is_ok());
    }

    #[test]
    fn a17_a_file_that_anybody_may_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("towpathd.yaml");
        fs::write(&path, "host: a\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(Config::load(Some(&path), &machine()).unwrap().host.as_str(), "a");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let problems = Config::load(Some(&path), &machine()).unwrap_err();
        assert!(problems.len() == 1 && problems[0].message.contains("anybody may write"), "{problems:?}");
        fs::write(&path, "host: A\n").unwrap();
        assert_eq!(Config::load(Some(&path), &machine()).unwrap_err().len(), 2);
        let absent = Config::load(Some(&folder.path().join("none")), &machine()).unwrap_err();
        assert!(absent[0].to_string().contains("cannot be read"), "{absent:?}");
    }

    #[test]
    fn this_machine_has_a_name_and_cores() {
        let machine = Machine::detect();
        assert!(!machine.hostname.is_empty() && !machine.cores.is_empty());
        assert_eq!(core_list("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(core_list("nonsense"), Vec::<u32>::new());
    }
}
