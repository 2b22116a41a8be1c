//! `towpathd` under test, told through files and asked through `towpath`.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::netns::Namespace;
use crate::process::Process;
use crate::scratch::Scratch;
use crate::{Result, manifests, wait};

/// How long the daemon may take to come up, reload or end.
pub const LIMIT: Duration = Duration::from_secs(30);

/// One of our binaries, built beside the one that runs.
///
/// # Errors
/// It was not built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find our own binary")?;
    // Tests are in target/<profile>/deps, binaries in target/<profile>.
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.exists());
    found.with_context(|| {
        format!("{name} is not built beside {}: cargo build --workspace --bins", own.display())
    })
}

/// A daemon with its files in a scratch folder.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    files: Files,
    notifications: UnixDatagram,
}

/// Where a daemon's files are.
#[derive(Clone, Debug)]
struct Files {
    name: String,
    config: PathBuf,
    manifests: PathBuf,
    api: PathBuf,
    notify: PathBuf,
    log: PathBuf,
    metrics: SocketAddr,
    namespace: Option<Arc<Namespace>>,
}

/// What a daemon is told.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    /// A name for its files and in messages.
    pub name: &'a str,
    /// Fields of its own file, beside or instead of host, API and metrics.
    pub config: Value,
    /// Every resource but its ports.
    pub network: Vec<Value>,
    /// Its ports.
    pub ports: &'a [manifests::Port],
    /// Where it runs; absent: where the test does.
    pub namespace: Option<Arc<Namespace>>,
}

impl Daemon {
    /// Start one with a subnet and these ports, one worker on core `core`, and wait until it is ready.
    ///
    /// # Errors
    /// It does not come up; its log is in the error.
    pub fn start(scratch: &Scratch, name: &str, core: usize, ports: &[manifests::Port]) -> Result<Self> {
        Self::start_with(scratch, name, &json!({"workers": {"cores": [core], "idle": "adaptive"}}), ports)
    }

    /// [`Daemon::start`] with more of its own file: fields of `config` replace ours.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start_with(
        scratch: &Scratch,
        name: &str,
        config: &Value,
        ports: &[manifests::Port],
    ) -> Result<Self> {
        Self::start_as(
            scratch,
            &Setup { name, config: config.clone(), network: manifests::network(), ports, namespace: None },
        )
    }

    /// Start one with everything said in `setup`, and wait until it is ready.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start_as(scratch: &Scratch, setup: &Setup<'_>) -> Result<Self> {
        let Setup { name, config, network, ports, namespace } = setup;
        let metrics = match namespace {
            None => free_port()?,
            Some(namespace) => namespace.enter(free_port)?,
        };
        let files = Files {
            name: (*name).to_owned(),
            config: scratch.join(&format!("{name}.yaml")),
            manifests: scratch.join(&format!("{name}.manifests")),
            api: scratch.join(&format!("{name}.api")),
            notify: scratch.join(&format!("{name}.notify")),
            log: scratch.join(&format!("{name}.log")),
            metrics,
            namespace: namespace.clone(),
        };
        fs::create_dir_all(&files.manifests)?;
        let mut whole = json!({
            "host": "node-a",
            "api": {"socket": files.api},
            "metrics": {"listen": files.metrics},
        });
        if let (Some(whole), Some(config)) = (whole.as_object_mut(), config.as_object()) {
            whole.extend(config.clone());
        }
        fs::write(&files.config, whole.to_string())
            .with_context(|| format!("write {}", files.config.display()))?;
        manifests::write(&files.manifests.join("network.yaml"), network)?;
        write_ports(&files, ports)?;
        Self::launch(files)
    }

    fn launch(files: Files) -> Result<Self> {
        if files.notify.exists() {
            fs::remove_file(&files.notify)?;
        }
        let notifications = UnixDatagram::bind(&files.notify).context("open a notification socket")?;
        notifications.set_read_timeout(Some(Duration::from_millis(20)))?;
        let program = binary("towpathd")?;
        let mut command = match &files.namespace {
            None => Command::new(program),
            Some(namespace) => namespace.command(program),
        };
        command
            .arg("--config")
            .arg(&files.config)
            .arg("--manifests")
            .arg(&files.manifests)
            .env("NOTIFY_SOCKET", &files.notify);
        let process = Process::spawn(&files.name, &command, &files.log)?;
        let mut daemon = Self { process, files, notifications };
        daemon.until_notified("READY=1")?;
        Ok(daemon)
    }

    /// Wait until it tells its service manager so.
    ///
    /// # Errors
    /// It ends, or does not.
    pub fn until_notified(&mut self, what: &str) -> Result<()> {
        let notifications = &self.notifications;
        self.process.until(&format!("the notification {what}"), LIMIT, |_| {
            let mut text = [0; 4096];
            match notifications.recv(&mut text) {
                Ok(length) => {
                    Ok(String::from_utf8_lossy(&text[..length]).lines().any(|l| l == what).then_some(()))
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
                Err(e) => Err(e).context("read notifications"),
            }
        })
    }

    /// Replace the ports in its manifests folder; [`Daemon::reload`] makes it read them.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_ports(&self, ports: &[manifests::Port]) -> Result<()> {
        write_ports(&self.files, ports)
    }

    /// Replace every resource but the ports in its manifests folder; [`Daemon::reload`] makes it read them.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_network(&self, resources: &[Value]) -> Result<()> {
        manifests::write(&self.files.manifests.join("network.yaml"), resources)
    }

    /// The folder of its manifests.
    #[must_use]
    pub fn manifests(&self) -> &Path {
        &self.files.manifests
    }

    /// SIGHUP, then wait until it says that it has read its files again.
    ///
    /// # Errors
    /// It ends, or does not say so.
    pub fn reload(&mut self) -> Result<()> {
        self.process.signal(Signal::HUP)?;
        self.until_notified("READY=1")
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// End it with SIGTERM.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.process.terminate(LIMIT)
    }

    /// End it with SIGTERM and start it again with the same files.
    ///
    /// # Errors
    /// It does not end well, or not come up again.
    pub fn restart(&mut self) -> Result<()> {
        let status = self.stop()?;
        if !status.success() {
            bail!("{} ended with {status} after SIGTERM:\n{}", self.files.name, self.process.tail());
        }
        *self = Self::launch(self.files.clone())?;
        Ok(())
    }

    /// Kill it with SIGKILL and start it again with the same files.
    ///
    /// # Errors
    /// It does not come up again.
    pub fn crash_and_restart(&mut self) -> Result<()> {
        self.process.kill()?;
        *self = Self::launch(self.files.clone())?;
        Ok(())
    }

    /// How many packets of a port were dropped for `reason`.
    ///
    /// # Errors
    /// There is no such port, or its status has no drops.
    pub fn drops(&self, port: &str, reason: &str) -> Result<u64> {
        let port = self.port(port)?;
        let drops = port["status"]["drops"].as_array().with_context(|| format!("no drops in {port}"))?;
        let counts =
            drops.iter().filter(|drop| drop["reason"] == reason).filter_map(|drop| drop["packets"].as_u64());
        Ok(counts.sum())
    }

    /// Run `towpath` with `arguments` against it, whatever its exit status.
    ///
    /// # Errors
    /// `towpath` cannot be run.
    pub fn towpath(&self, arguments: &[&str]) -> Result<Output> {
        let program = binary("towpath")?;
        Command::new(program)
            .arg("--socket")
            .arg(&self.files.api)
            .args(arguments)
            .output()
            .context("run towpath")
    }

    /// What `towpath` prints, which must succeed.
    ///
    /// # Errors
    /// It does not.
    pub fn towpath_text(&self, arguments: &[&str]) -> Result<String> {
        let output = self.towpath(arguments)?;
        if !output.status.success() {
            bail!(
                "towpath {}: {}: {}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What `towpath ... -o json` prints.
    ///
    /// # Errors
    /// It fails, or prints something else.
    pub fn towpath_json(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        let text = self.towpath_text(&all)?;
        serde_json::from_str(&text).with_context(|| format!("towpath {} printed {text:?}", all.join(" ")))
    }

    /// One port with its `spec` and `status`.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn port(&self, name: &str) -> Result<Value> {
        self.towpath_json(&["describe", "port", name])
    }

    /// Wait until a port is in a phase.
    ///
    /// # Errors
    /// It does not get there; what it says instead is in the error.
    pub fn until_phase(&self, port: &str, phase: &str) -> Result<Value> {
        let mut last = Value::Null;
        let found = wait::until(&format!("{port} to be {phase}"), LIMIT, || {
            last = self.port(port)?;
            Ok((last["status"]["phase"] == phase).then(|| last.clone()))
        });
        found.with_context(|| format!("{}'s {port} is {last}", self.files.name))
    }

    /// The text of its metrics page.
    ///
    /// # Errors
    /// It does not answer with one.
    pub fn metrics(&self) -> Result<String> {
        let connect = || TcpStream::connect(self.files.metrics).context("connect to the metrics");
        let mut stream = match &self.files.namespace {
            None => connect()?,
            Some(namespace) => namespace.enter(connect)?,
        };
        stream.set_read_timeout(Some(LIMIT))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("read the metrics")?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
            _ => bail!("the metrics answered {answer:?}"),
        }
    }
}

fn write_ports(files: &Files, ports: &[manifests::Port]) -> Result<()> {
    let resources: Vec<Value> = ports.iter().map(manifests::Port::resource).collect();
    manifests::write(&files.manifests.join("ports.yaml"), &resources)
}

/// A TCP port nobody listens on now.
fn free_port() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr()?)
}
