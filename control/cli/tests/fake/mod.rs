//! A daemon that answers from memory, on a real Unix socket.

use api::{Access, ApiSocket, Backend, Failure, SessionFilter, pb, serve};
use model::{Environment, Kind, Name, ObjectName, ResourceSet, load_text};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// What the daemon was started with.
pub(crate) const MANIFESTS: &str = "\
kind: Host
metadata: {name: node-a}
---
kind: Vpc
metadata: {name: blue}
spec: {vni: 100, cidrs: [10.0.0.0/16]}
---
kind: Subnet
metadata: {name: web}
spec: {vpc: blue, cidrs: [10.0.1.0/24]}
---
kind: SecurityGroup
metadata: {name: web}
spec:
  vpc: blue
  rules:
    - {direction: egress, action: deny, priority: 10, remote: {cidr: 192.0.2.0/24}}
    - {direction: ingress, action: allow, protocol: tcp, ports: '80,443,8000-8100', remote: {any: true}}
    - {direction: ingress, action: allow, protocol: tcp, ports: '22', remote: {group: default}, log: true}
    - {direction: ingress, action: allow, protocol: icmp, icmpType: 8, remote: {any: true}}
  shadow:
    - {direction: ingress, action: allow, protocol: tcp, ports: '443', remote: {any: true}}
    - {direction: egress, action: allow, remote: {any: true}}
---
kind: LoadBalancer
metadata: {name: web-lb}
spec:
  vpc: blue
  vip: 10.0.100.1
  listeners: [{protocol: tcp, port: 80, targetPort: 8080}]
  targets: [{port: vm1-eth0}, {port: vm2-eth0, weight: 2}]
  healthCheck: {protocol: http, path: /healthz, interval: 2s}
---
kind: Port
metadata: {name: vm1-eth0}
spec:
  subnet: web
  securityGroups: [default, web]
  host: node-a
  mac: 02:00:00:00:01:0a
  ips: [10.0.1.10]
  attachment: {vhostUser: {socket: /run/towpath/ports/vm1.sock}}
  allowedAddresses: [{ip: 10.0.1.100}]
---
kind: Port
metadata: {name: vm2-eth0}
spec: {subnet: web, host: node-a, mac: 02:00:00:00:01:0b, ips: [10.0.1.11]}
";

/// Answers from memory.
pub(crate) struct FakeBackend {
    set: ResourceSet,
    reset: AtomicBool,
    healthy: bool,
    /// What its manifests folder gave.
    detail: &'static str,
}

impl FakeBackend {
    fn port(&self, port: &model::Resource) -> pb::Port {
        let forwarding = port.meta.name().as_str() == "vm1-eth0";
        let phase = if forwarding { pb::Phase::Forwarding } else { pb::Phase::Error };
        let reason = "MacMismatch: the guest sends 52:54:00:12:34:56, the port says 02:00:00:00:01:0b";
        let status = pb::PortStatus {
            phase: phase.into(),
            reason: (!forwarding).then(|| reason.to_owned()),
            bindings: vec![pb::Binding {
                host: "node-a".into(),
                phase: phase.into(),
                socket: Some("/run/towpath/ports/vm1.sock".into()),
                active: true,
            }],
            features: vec!["mergeable receive buffers".into(), "TSO for IPv4".into()],
            ring_layout: Some("packed".into()),
            queue_pairs: 2,
            mtu: 1500,
            counters: Some(pb::Counters {
                egress_packets: 1000,
                egress_bytes: 64000,
                egress_drops: 3,
                ingress_packets: 500,
                ingress_bytes: 32000,
                ingress_drops: 1,
            }),
            rates: Some(pb::Rates { egress_packets_per_second: 1_250_000.0, ..pb::Rates::default() }),
            drops: vec![self.drop(None)],
            sessions: Some(pb::SessionUse {
                sessions: 812,
                half_open: 3,
                allowed: 1_048_576,
                displaced: 0,
                refused: 7,
                alarm: false,
            }),
            refusals: vec![pb::Refusal {
                name: "bad_buffer".into(),
                count: 2,
                explanation: "a receive buffer of the guest was refused".into(),
            }],
            workers: vec![pb::PortWorker { worker: 0, packets: 1000, busy_cycles_per_packet: Some(48.25) }],
        };
        pb::Port { resource: Some(port.into()), status: Some(status) }
    }

    fn drop(&self, port: Option<String>) -> pb::Drop {
        pb::Drop {
            port,
            reason: "spoofed_mac".into(),
            packets: 3,
            explanation: "The Ethernet source is not the port's.".into(),
        }
    }
}

impl Backend for FakeBackend {
    async fn status(&self) -> Result<pb::StatusReply, Failure> {
        Ok(pb::StatusReply {
            version: "9.9.9".into(),
            host: "node-a".into(),
            uptime_seconds: 3723.5,
            pid: 4711,
            ports: [("Forwarding".to_owned(), 1), ("Error".to_owned(), 1)].into(),
            resources: [("Port".to_owned(), 2)].into(),
            workers: 1,
            sources: vec![pb::ConfigSource {
                kind: "manifests".into(),
                path: Some("/etc/towpath/manifests".into()),
                detail: self.detail.into(),
            }],
            alarms: vec!["sessions of IPv4: 850000 of 1048576".into()],
            lacks: vec!["uplink eth1: large sends in tunnels are cut by workers".into()],
            uplink: Some(pb::Uplink {
                device: "eth1".into(),
                driver: "AF_PACKET".into(),
                mac: "02:00:00:00:ff:01".into(),
                mtu: 1500,
                addresses: vec!["192.0.2.1/24".into()],
                gateways: vec!["192.0.2.254".into()],
                queue_pairs: 1,
                link: "up".into(),
            }),
            reload: Some(pb::Reload {
                at: 0.0,
                applied: false,
                problems: vec!["a.yaml:1:1: kind: wrong".into()],
            }),
        })
    }

    async fn list_ports(&self, project: Option<Name>) -> Result<Vec<pb::Port>, Failure> {
        let of_project = |port: &&Arc<model::Resource>| project.is_none() || port.meta.key.project == project;
        Ok(self.set.of_kind(Kind::Port).filter(of_project).map(|port| self.port(port)).collect())
    }

    async fn get_port(&self, name: ObjectName) -> Result<Option<pb::Port>, Failure> {
        let found = self.set.of_kind(Kind::Port).find(|port| port.meta.object() == name);
        Ok(found.map(|port| self.port(port)))
    }

    async fn list_resources(&self, kind: Kind, project: Option<Name>) -> Result<Vec<pb::Resource>, Failure> {
        let of_project =
            |found: &&Arc<model::Resource>| project.is_none() || found.meta.key.project == project;
        Ok(self.set.of_kind(kind).filter(of_project).map(|found| pb::Resource::from(&**found)).collect())
    }

    async fn list_workers(&self) -> Result<Vec<pb::Worker>, Failure> {
        let busy = !self.reset.load(Ordering::SeqCst);
        Ok(vec![pb::Worker {
            worker: 0,
            core: 2,
            queues: 4,
            packets: if busy { 1500 } else { 0 },
            busy_cycles_per_packet: busy.then_some(48.25),
            idle_percent: 12.5,
        }])
    }

    async fn reset_workers(&self) -> Result<(), Failure> {
        self.reset.store(true, Ordering::SeqCst);
        Ok(())
    }

    async fn doctor(&self) -> Result<Vec<pb::Check>, Failure> {
        let hugepages = match self.healthy {
            true => pb::Outcome::Warn,
            false => pb::Outcome::Fail,
        };
        let check = |name: &str, outcome: pb::Outcome, remedy: Option<&str>| pb::Check {
            name: name.into(),
            outcome: outcome.into(),
            detail: "as found".into(),
            remedy: remedy.map(str::to_owned),
        };
        Ok(vec![check("kernel", pb::Outcome::Ok, None), check("hugepages", hugepages, Some("reserve some"))])
    }

    async fn list_drops(&self, port: Option<ObjectName>) -> Result<Vec<pb::Drop>, Failure> {
        let name = port.map_or_else(|| "default/vm1-eth0".to_owned(), |port| port.to_string());
        Ok(vec![self.drop(Some(name))])
    }

    async fn list_shadows(&self, group: Option<ObjectName>) -> Result<Vec<pb::Shadow>, Failure> {
        let compared = |agrees, would_deny, would_allow| pb::Compared { agrees, would_deny, would_allow };
        let verdict = |allowed, rule: Option<&str>| pb::Verdict {
            allowed,
            rule: rule.map(|rule| format!("default/web {rule}")),
        };
        let flow = |to, live, shadow, last_seconds| pb::DifferingFlow {
            port: "default/vm1-eth0".into(),
            direction: "ingress".into(),
            protocol: "tcp".into(),
            source: "10.0.1.11".into(),
            source_port: 40_312,
            destination: "10.0.1.10".into(),
            destination_port: to,
            live: Some(live),
            shadow: Some(shadow),
            packets: 3,
            last_seconds,
        };
        let flows = vec![
            flow(80, verdict(true, Some("rules[1]")), verdict(false, None), 2.0),
            flow(22, verdict(true, Some("rules[2]")), verdict(false, None), 75.0),
        ];
        Ok(vec![pb::Shadow {
            group: "default/web".into(),
            total: Some(compared(1200, 37, 0)),
            live: vec![compared(4, 0, 0), compared(600, 30, 0), compared(0, 7, 0), compared(21, 0, 0)],
            shadow: vec![compared(600, 0, 0), compared(575, 0, 0)],
            flows: if group.is_some() { flows } else { Vec::new() },
        }])
    }

    async fn list_sessions(&self, wanted: SessionFilter) -> Result<pb::ListSessionsReply, Failure> {
        let flow =
            |port: Option<&str>, [source, destination]: [(&str, u32); 2], packets, bytes| pb::SessionFlow {
                port: port.map(str::to_owned),
                vpc: "default/blue".into(),
                source: source.0.into(),
                source_port: source.1,
                destination: destination.0.into(),
                destination_port: destination.1,
                packets,
                bytes,
            };
        let (vm, own) = (Some("default/vm1-eth0"), ("10.0.1.10", 40_312));
        let session = |protocol: &str, state: Option<&str>, initiator, responder| pb::Session {
            protocol: protocol.into(),
            state: state.map(str::to_owned),
            half_open: false,
            initiator: Some(initiator),
            responder: Some(responder),
            owner: "default/vm1-eth0".into(),
            age_seconds: 4000.0,
            idle_seconds: 3.0,
            timeout_seconds: if protocol == "tcp" { 432_000.0 } else { 180.0 },
        };
        let tcp = session(
            "tcp",
            Some("ESTABLISHED"),
            flow(vm, [own, ("10.0.1.11", 22)], 120, 9_000),
            flow(Some("default/vm2-eth0"), [("10.0.1.11", 22), own], 98, 41_000),
        );
        let server = ("192.0.2.53", 53);
        let udp = session(
            "udp",
            None,
            flow(vm, [own, server], 2, 150),
            flow(None, [server, ("198.51.100.10", 1030)], 2, 400),
        );
        match wanted.from {
            0 => Ok(pb::ListSessionsReply { sessions: vec![tcp], next: Some(7) }),
            _ => Ok(pb::ListSessionsReply { sessions: vec![udp], next: None }),
        }
    }

    async fn list_rule_hits(&self, group: ObjectName) -> Result<Vec<pb::RuleHits>, Failure> {
        let rules = self.set.security_group(&group).map_or(0, |group| group.spec.rules.len());
        let hits = |rule: usize| pb::RuleHits {
            hits: 1000 * rule as u64,
            last_hit_seconds: (rule > 0).then_some(3.0 + rule as f64),
        };
        Ok((0..rules).map(hits).collect())
    }

    async fn list_targets(&self, balancer: Option<ObjectName>) -> Result<Vec<pb::Target>, Failure> {
        let wanted = |name: &ObjectName| balancer.as_ref().is_none_or(|balancer| balancer == name);
        let balancers =
            self.set.load_balancers().map(|balancer| balancer.meta.object()).filter(|name| wanted(name));
        let targets = balancers.flat_map(|balancer| {
            let target = pb::Target {
                balancer: balancer.to_string(),
                name: "port vm1-eth0".into(),
                address: Some("10.0.1.10".into()),
                weight: 1,
                state: "up".into(),
                since_seconds: Some(3723.0),
                reason: "answers with HTTP status 200".into(),
                said_by: None,
                connections: 600,
            };
            let other = pb::Target {
                name: "port vm2-eth0".into(),
                address: Some("10.0.1.11".into()),
                weight: 2,
                state: "down".into(),
                since_seconds: Some(12.0),
                reason: "refuses connections".into(),
                said_by: Some("node-b".into()),
                connections: 1200,
                ..target.clone()
            };
            [target, other]
        });
        Ok(targets.collect())
    }
}

/// A running daemon; ends when dropped.
pub(crate) struct FakeDaemon {
    folder: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeDaemon {
    /// Starts one; `healthy` says whether its doctor finds no failure.
    #[allow(dead_code, reason = "not every test program uses it")]
    pub(crate) fn start(healthy: bool) -> Self {
        Self::with(healthy, "5 resources\u{1b}[2J")
    }

    /// Starts one that looks like any other.
    #[allow(dead_code, reason = "not every test program uses it")]
    pub(crate) fn sample() -> Self {
        Self::with(true, "2 Ports, 1 Subnet, 1 Vpc")
    }

    /// Starts one that has these resources.
    #[allow(dead_code, reason = "not every test program uses it")]
    pub(crate) fn with_manifests(manifests: &str) -> Self {
        Self::run(manifests, true, "some")
    }

    fn with(healthy: bool, detail: &'static str) -> Self {
        Self::run(MANIFESTS, healthy, detail)
    }

    fn run(manifests: &str, healthy: bool, detail: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = ApiSocket::bind(&folder.path().join("api.sock")).unwrap();
        let set = load_text(manifests, "memory", &Environment::default()).unwrap();
        let backend = Arc::new(FakeBackend { set, reset: AtomicBool::new(false), healthy, detail });
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let shutdown = async {
                let _ = stopped.await;
            };
            runtime.block_on(serve(socket, Access::of_daemon(), backend, shutdown)).unwrap();
        });
        Self { folder, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
