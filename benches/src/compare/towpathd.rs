//! towpathd: two unfiltered ports in one subnet, one polling worker.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::Pid;
use serde::Deserialize;

use super::{
    process::{Process, output},
    switches::{Places, RULES, SESSION_LIFE, SESSIONS, Scene, Switch, Work, elsewhere, text},
};
use crate::{attach::Role, frame::Endpoint, wire::Underlay};

/// Of the underlay, in bytes: room for a guest's frame of 1,514 bytes in its tunnel.
pub(super) const UNDERLAY_MTU: u16 = 1600;

/// A running towpathd.
pub(super) struct Towpathd {
    process: Process,
    api: PathBuf,
    cli: PathBuf,
    sockets: [PathBuf; 2],
    log: PathBuf,
    version: String,
    scene: Scene,
}

/// What `towpath workers -o json` says of a worker.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Worker {
    packets: f64,
    busy_cycles_per_packet: Option<f64>,
}

const PATIENCE: Duration = Duration::from_secs(10);

impl Towpathd {
    /// Starts the daemon built in `binaries` and waits until its ports listen.
    ///
    /// # Errors
    ///
    /// When it is not built or does not come up; its log says why.
    pub(super) fn start(places: &Places<'_>, binaries: &Path) -> anyhow::Result<Self> {
        let [daemon, cli] = built(binaries)?;
        let folder = places.folder.join("towpathd");
        let manifests = folder.join("manifests");
        std::fs::create_dir_all(&manifests)?;
        let api = folder.join("api.sock");
        let sockets = [folder.join("a.sock"), folder.join("b.sock")];
        let file = folder.join("towpathd.yaml");
        std::fs::write(&file, daemon_file(places, &api, &sockets[1]))?;
        let manifest = match places.scene {
            Scene::Plain => manifest(&sockets, "unfiltered: true"),
            Scene::Tunnel => tunnel_manifest(&sockets[0]),
            Scene::Policy => policy_manifest(&sockets),
        };
        std::fs::write(manifests.join("bench.yaml"), manifest)?;
        let log = folder.join("log");
        let args = ["--config".to_string(), text(&file), "--manifests".to_string(), text(&manifests)];
        let process = Process::start("towpathd", &daemon, &args, &[], &log)?;
        let version = output(&text(&daemon), &["--version".to_string()], &[]).unwrap_or_default();
        let (version, scene) = (version.trim().to_string(), places.scene);
        let mut this = Self { process, api, cli, sockets, log, version, scene };
        this.wait()?;
        Ok(this)
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.sockets.iter().chain([&self.api]).all(|path| path.exists()) {
            self.check()?;
            if Instant::now() > deadline {
                bail!("towpathd's sockets are not there after {PATIENCE:?}; its log: {}", self.tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(5).collect();
        tail.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    fn workers(&self, more: &[&str]) -> anyhow::Result<String> {
        let mut args = vec!["workers".to_string(), "--socket".to_string(), text(&self.api)];
        args.extend(more.iter().map(ToString::to_string));
        output(&text(&self.cli), &args, &[])
    }
}

/// The daemon and its command line, if they are there.
///
/// # Errors
///
/// Which one is missing.
pub(super) fn built(binaries: &Path) -> anyhow::Result<[PathBuf; 2]> {
    let both = ["towpathd", "towpath"].map(|name| binaries.join(name));
    for binary in &both {
        if !binary.exists() {
            bail!("{} is missing; build it: cargo build --release", binary.display());
        }
    }
    Ok(both)
}

fn daemon_file(places: &Places<'_>, api: &Path, wire: &Path) -> String {
    let mut file = format!(
        "host: bench\nworkers: {{cores: [{}], idle: poll}}\napi: {{socket: {}}}\nmetrics: {{listen: \"127.0.0.1:0\"}}\n",
        places.worker_core,
        text(api)
    );
    if places.scene == Scene::Policy {
        let timeouts = format!("{{udpUnreplied: {SESSION_LIFE}s, udpStream: {SESSION_LIFE}s}}");
        file.push_str(&format!("limits: {{sessions: {SESSIONS}, timeouts: {timeouts}}}\n"));
    }
    if places.scene == Scene::Tunnel {
        let Underlay { switch, .. } = Underlay::default();
        file.push_str(&format!(
            "uplink: {{dpdk: {{device: \"net_vhost0,iface={},queues=1\"}}, addresses: [{switch}/24], mtu: {UNDERLAY_MTU}}}\n",
            text(wire)
        ));
    }
    file
}

/// A port here and one on another host, which the wire is.
fn tunnel_manifest(socket: &Path) -> String {
    let Underlay { wire, switch, vni, .. } = Underlay::default();
    let mut all = format!(
        "apiVersion: towpath.dev/v1\nkind: Vpc\nmetadata: {{name: bench}}\nspec: {{vni: {vni}, cidrs: [10.0.0.0/16]}}\n---\n\
         kind: Subnet\nmetadata: {{name: bench}}\nspec: {{vpc: bench, cidrs: [10.0.1.0/24]}}\n---\n\
         kind: Host\nmetadata: {{name: bench}}\nspec: {{vteps: [{switch}], mtu: {UNDERLAY_MTU}}}\n---\n\
         kind: Host\nmetadata: {{name: wire}}\nspec: {{vteps: [{wire}], mtu: {UNDERLAY_MTU}}}\n"
    );
    let attachment = format!(", attachment: {{vhostUser: {{socket: {}}}}}", text(socket));
    for (index, host, attachment) in [(0, "bench", attachment.as_str()), (1, "wire", "")] {
        let endpoint = Endpoint::numbered(index);
        let (mac, ip) = (endpoint.mac_text(), endpoint.ip);
        all.push_str(&format!(
            "---\nkind: Port\nmetadata: {{name: port{index}}}\n\
             spec: {{subnet: bench, host: {host}, mac: \"{mac}\", ips: [{ip}], unfiltered: true{attachment}}}\n"
        ));
    }
    all
}

/// The same with a group of [`RULES`] rules for each direction, the last of which allows what is sent.
fn policy_manifest(sockets: &[PathBuf; 2]) -> String {
    let mut all = manifest(sockets, "securityGroups: [egress, ingress]");
    for direction in ["egress", "ingress"] {
        all.push_str(&format!(
            "---\nkind: SecurityGroup\nmetadata: {{name: {direction}}}\nspec:\n  vpc: bench\n  rules:\n"
        ));
        let rule = format!("  - {{direction: {direction}, action");
        for index in 1..RULES {
            let address = elsewhere(index);
            all.push_str(&format!("{rule}: deny, priority: {index}, remote: {{cidr: {address}/32}}}}\n"));
        }
        all.push_str(&format!("{rule}: allow, priority: 2000, protocol: udp, remote: {{any: true}}}}\n"));
    }
    all
}

/// Two ports in one subnet, as [`Endpoint::numbered`] addresses them, under these rules.
fn manifest(sockets: &[PathBuf; 2], rules: &str) -> String {
    let mut all = "apiVersion: towpath.dev/v1\nkind: Vpc\nmetadata: {name: bench}\nspec: {vni: 100, cidrs: [10.0.0.0/16]}\n---\n\
        apiVersion: towpath.dev/v1\nkind: Subnet\nmetadata: {name: bench}\n\
        spec: {vpc: bench, cidrs: [10.0.1.0/24]}\n"
        .to_string();
    for (index, socket) in sockets.iter().enumerate() {
        let endpoint = Endpoint::numbered(index as u8);
        let (mac, ip) = (endpoint.mac_text(), endpoint.ip);
        all.push_str(&format!(
            "---\napiVersion: towpath.dev/v1\nkind: Port\nmetadata: {{name: port{index}}}\nspec:\n  subnet: bench\n  \
             host: bench\n  mac: \"{mac}\"\n  ips: [{ip}]\n  {rules}\n  attachment: {{vhostUser: {{socket: {}}}}}\n",
            text(socket)
        ));
    }
    all
}

impl Switch for Towpathd {
    fn description(&self) -> String {
        let ports = match self.scene {
            Scene::Plain => "two ports in one subnet (unfiltered: true)",
            Scene::Tunnel => "a port and net_vhost as uplink, VXLAN over IPv4",
            Scene::Policy => "two ports in one subnet, under 1,000 rules each way",
        };
        format!("{}, one worker, idle: poll, {ports}", self.version)
    }

    fn sockets(&self) -> [PathBuf; 2] {
        self.sockets.clone()
    }

    fn role(&self) -> Role {
        Role::Client
    }

    fn tso(&self) -> bool {
        true
    }

    fn modes(&self) -> &'static [&'static str] {
        &[super::TOWPATHD]
    }

    fn select(&mut self, _mode: &str) -> anyhow::Result<()> {
        Ok(())
    }

    fn pids(&self) -> Vec<Pid> {
        vec![self.process.pid()]
    }

    fn check(&mut self) -> anyhow::Result<()> {
        self.process.check().with_context(|| format!("its log: {}", self.tail()))
    }

    fn state(&self) -> String {
        let args = ["drops".to_string(), "--socket".to_string(), text(&self.api)];
        let drops = output(&text(&self.cli), &args, &[]).unwrap_or_default();
        format!("its log: {}; drops: {drops}", self.tail())
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        self.workers(&["--reset"]).map(|_| ())
    }

    fn end(&mut self) -> anyhow::Result<Work> {
        let json = self.workers(&["-o", "json"])?;
        let workers: Vec<Worker> =
            serde_json::from_str(&json).with_context(|| format!("towpath workers said {json}"))?;
        let packets: f64 = workers.iter().map(|w| w.packets).sum();
        let busy_cycles = workers.iter().map(|w| w.packets * w.busy_cycles_per_packet.unwrap_or(0.0)).sum();
        Ok(Work { busy_cycles, packets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_read_as_the_cli_prints_them() {
        let json = r#"[{"worker":0,"core":1,"queues":2,"packets":1000,"busyCyclesPerPacket":48.5,"idlePercent":20.0},
            {"worker":1,"core":2,"queues":0,"packets":0,"busyCyclesPerPacket":null,"idlePercent":100.0}]"#;
        let workers: Vec<Worker> = serde_json::from_str(json).unwrap();
        assert_eq!(workers.iter().map(|w| w.packets).sum::<f64>(), 1000.0);
        assert_eq!(workers[0].busy_cycles_per_packet, Some(48.5));
    }
}
