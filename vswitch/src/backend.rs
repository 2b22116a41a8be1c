//! What the API answers: reads the control thread's state, on the control thread.

use crate::alarms::use_of;
use crate::doctor;
use crate::host::{Host, HostHandle};
use crate::port::{Phase, Port};
use crate::sessions::Listing;
use crate::shadow::shadows_of;
use crate::uplink::Uplink;
use crate::worker::boot_time;
use api::pb;
use api::{Backend, Failure, SessionFilter};
use engine::{CounterTotals, DropReason};
use model::{Kind, Name, ObjectName};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tables::rules::RuleHits;
use tokio::sync::oneshot;

/// Worker counts at the last reset: packets, busy and idle cycles.
type Baseline = [u64; 3];

/// What the API knows besides the control thread's state.
pub struct Daemon {
    /// The control thread.
    pub host: HostHandle,
    /// This host's name.
    pub name: Name,
    /// When the daemon began.
    pub began: Instant,
    /// Where its configuration comes from.
    pub sources: Vec<pb::ConfigSource>,
    /// What it does without.
    pub lacks: Vec<String>,
    /// The last reload.
    pub reload: Mutex<Option<pb::Reload>>,
    /// What workers had counted at the last reset.
    pub baselines: Mutex<BTreeMap<usize, Baseline>>,
}

impl Daemon {
    /// Does `what` on the control thread and waits for the answer.
    async fn on_host<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Host) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let (answer, answered) = oneshot::channel();
        self.host.ask(move |host| {
            // Who asked may have given up.
            let _ = answer.send(what(host));
        });
        answered.await.map_err(|_| Failure::Unavailable("towpathd is shutting down".to_owned()))
    }

    /// Notes what came of a reload.
    pub fn note_reload(&self, problems: Vec<String>) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let reload = pb::Reload { at, applied: problems.is_empty(), problems };
        *lock(&self.reload) = Some(reload);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Backend for Daemon {
    async fn status(&self) -> Result<pb::StatusReply, Failure> {
        let (ports, resources, workers, uplink, alarms) = self
            .on_host(|host| {
                let mut phases: BTreeMap<String, u64> = BTreeMap::new();
                for port in host.ports.values() {
                    *phases.entry(word(port.phase().0).to_owned()).or_default() += 1;
                }
                let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
                for resource in host.resources.iter() {
                    *kinds.entry(resource.meta.key.kind.to_string()).or_default() += 1;
                }
                let uplink = host.uplink.as_ref().map(uplink_of);
                (phases, kinds, host.workers.len() as u32, uplink, host.alarms.sentences(host))
            })
            .await?;
        Ok(pb::StatusReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: self.name.to_string(),
            uptime_seconds: self.began.elapsed().as_secs_f64(),
            pid: std::process::id(),
            ports: ports.into_iter().collect(),
            resources: resources.into_iter().collect(),
            workers,
            sources: self.sources.clone(),
            lacks: self.lacks.clone(),
            reload: lock(&self.reload).clone(),
            uplink,
            alarms,
        })
    }

    async fn list_ports(&self, project: Option<Name>) -> Result<Vec<pb::Port>, Failure> {
        let name = self.name.clone();
        self.on_host(move |host| {
            let wanted = |port: &ObjectName| project.as_ref().is_none_or(|project| port.project == *project);
            let names: Vec<ObjectName> =
                host.resources.ports().map(|port| port.meta.object()).filter(wanted).collect();
            names.iter().filter_map(|port| describe(host, port, &name)).collect()
        })
        .await
    }

    async fn get_port(&self, port: ObjectName) -> Result<Option<pb::Port>, Failure> {
        let name = self.name.clone();
        self.on_host(move |host| describe(host, &port, &name)).await
    }

    async fn list_resources(&self, kind: Kind, project: Option<Name>) -> Result<Vec<pb::Resource>, Failure> {
        self.on_host(move |host| {
            let wanted = |resource: &&std::sync::Arc<model::Resource>| {
                project.as_ref().is_none_or(|project| resource.meta.key.project.as_ref() == Some(project))
            };
            host.resources.of_kind(kind).filter(wanted).map(|resource| resource_of(resource)).collect()
        })
        .await
    }

    async fn list_workers(&self) -> Result<Vec<pb::Worker>, Failure> {
        let baselines = lock(&self.baselines).clone();
        self.on_host(move |host| {
            let workers = host.workers.iter().enumerate();
            workers
                .map(|(index, worker)| {
                    let base = baselines.get(&index).copied().unwrap_or_default();
                    let [packets, busy, idle] = since(counts(worker), base);
                    pb::Worker {
                        worker: index as u32,
                        core: worker.core.unwrap_or_default() as u32,
                        queues: worker.counters.queues.get() as u32,
                        packets,
                        busy_cycles_per_packet: (packets > 0).then(|| busy as f64 / packets as f64),
                        idle_percent: percent(idle, busy + idle),
                    }
                })
                .collect()
        })
        .await
    }

    async fn reset_workers(&self) -> Result<(), Failure> {
        let counts = self.on_host(|host| host.workers.iter().map(counts).enumerate().collect()).await?;
        *lock(&self.baselines) = counts;
        Ok(())
    }

    async fn doctor(&self) -> Result<Vec<pb::Check>, Failure> {
        let mut checks = doctor::host_checks();
        checks.extend(self.on_host(|host| doctor::switch_checks(host)).await?);
        Ok(checks)
    }

    async fn list_drops(&self, port: Option<ObjectName>) -> Result<Vec<pb::Drop>, Failure> {
        self.on_host(move |host| {
            let wanted = |named: &&Port| port.as_ref().is_none_or(|port| port.to_string() == named.plan.name);
            let mut drops = Vec::new();
            for port in host.ports.values().filter(wanted) {
                if let Some(totals) = host.control.counters(port.index) {
                    drops.extend(totals.drops.iter().map(|entry| drop_of(entry, Some(&port.plan.name))));
                }
            }
            drops.sort_by(|a: &pb::Drop, b| (&a.port, &a.reason).cmp(&(&b.port, &b.reason)));
            drops
        })
        .await
    }

    async fn list_shadows(&self, group: Option<ObjectName>) -> Result<Vec<pb::Shadow>, Failure> {
        self.on_host(move |host| {
            host.note_differences();
            shadows_of(host, group.as_ref())
        })
        .await
    }

    async fn list_sessions(&self, wanted: SessionFilter) -> Result<pb::ListSessionsReply, Failure> {
        let filter = wanted.clone();
        match self.on_host(move |host| Listing::of(host, &filter)).await?? {
            Some(listing) => Ok(listing.page(&wanted).await),
            None => Ok(pb::ListSessionsReply::default()),
        }
    }

    async fn list_rule_hits(&self, group: ObjectName) -> Result<Vec<pb::RuleHits>, Failure> {
        self.on_host(move |host| {
            let now = boot_time() / 1_000_000_000;
            let hits = host.hits_of(&group).into_iter().map(|RuleHits { hits, last }| pb::RuleHits {
                hits,
                last_hit_seconds: last.map(|last| now.saturating_sub(last.into()) as f64),
            });
            hits.collect()
        })
        .await
    }

    async fn list_targets(&self, balancer: Option<ObjectName>) -> Result<Vec<pb::Target>, Failure> {
        self.on_host(move |host| host.targets(balancer.as_ref(), host.now())).await
    }
}

fn uplink_of(uplink: &Uplink) -> pb::Uplink {
    let info = &uplink.info;
    pb::Uplink {
        device: info.device.clone(),
        driver: info.driver.clone(),
        mac: info.mac.to_string(),
        mtu: info.mtu.into(),
        addresses: info.addresses.iter().map(ToString::to_string).collect(),
        gateways: info.gateways.iter().map(ToString::to_string).collect(),
        queue_pairs: info.queue_pairs.into(),
        link: uplink.link().to_string(),
    }
}

fn counts(worker: &crate::worker::WorkerHandle) -> Baseline {
    let counters = &worker.counters;
    [counters.packets.get(), counters.busy_cycles.get(), counters.idle_cycles.get()]
}

fn since(now: Baseline, base: Baseline) -> Baseline {
    [0, 1, 2].map(|at: usize| now[at].wrapping_sub(base[at]))
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 100.0 } else { 100.0 * part as f64 / whole as f64 }
}

/// The word for a phase.
pub fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "Pending",
        Phase::Listening => "Listening",
        Phase::Connected => "Connected",
        Phase::Forwarding => "Forwarding",
        Phase::Error => "Error",
    }
}

fn phase_of(phase: Phase) -> pb::Phase {
    match phase {
        Phase::Pending => pb::Phase::Pending,
        Phase::Listening => pb::Phase::Listening,
        Phase::Connected => pb::Phase::Connected,
        Phase::Forwarding => pb::Phase::Forwarding,
        Phase::Error => pb::Phase::Error,
    }
}

fn resource_of(resource: &model::Resource) -> pb::Resource {
    let key = &resource.meta.key;
    pb::Resource {
        kind: key.kind.to_string(),
        project: key.project.as_ref().map(ToString::to_string),
        name: key.name.to_string(),
        owner: resource.meta.owner.as_str().to_owned(),
        manifest: resource.to_json().to_string(),
    }
}

fn drop_of((reason, packets): &(DropReason, u64), port: Option<&str>) -> pb::Drop {
    pb::Drop {
        port: port.map(str::to_owned),
        reason: reason.name().to_owned(),
        packets: *packets,
        explanation: reason.explanation(),
    }
}

/// A port with its status; `None` when there is none of that name.
fn describe(host: &Host, name: &ObjectName, own: &Name) -> Option<pb::Port> {
    let key = model::Key::of(Kind::Port, name);
    let resource = host.resources.get(&key)?;
    let spec = host.resources.port(name)?.spec;
    let status = match host.port_named(name) {
        Some(port) => status_of(host, port, own),
        None => {
            let reason = match &spec.host {
                None => "NoHost: the port is placed nowhere (spec.host)".to_owned(),
                Some(other) => format!("OtherHost: the port is on {other}"),
            };
            pb::PortStatus {
                phase: pb::Phase::Pending.into(),
                reason: Some(reason),
                ..pb::PortStatus::default()
            }
        }
    };
    Some(pb::Port { resource: Some(resource_of(resource)), status: Some(status) })
}

fn status_of(host: &Host, port: &Port, own: &Name) -> pb::PortStatus {
    let (phase, reason) = port.phase();
    let totals = host.control.counters(port.index).unwrap_or_default();
    let socket = port.plan.attachment.as_ref().map(|attachment| attachment.socket.clone());
    let binding = pb::Binding { host: own.to_string(), phase: phase_of(phase).into(), socket, active: true };
    let [
        egress_packets_per_second,
        egress_bits_per_second,
        ingress_packets_per_second,
        ingress_bits_per_second,
    ] = port.rates;
    pb::PortStatus {
        phase: phase_of(phase).into(),
        reason,
        bindings: vec![binding],
        features: port.features().map(vhost_user::features::names).unwrap_or_default(),
        ring_layout: port.is_packed().map(|packed| if packed { "packed" } else { "split" }.to_owned()),
        queue_pairs: port.queue_pairs() as u32,
        mtu: u32::from(port.mtu()),
        counters: Some(counters_of(&totals)),
        rates: Some(pb::Rates {
            egress_packets_per_second,
            egress_bits_per_second,
            ingress_packets_per_second,
            ingress_bits_per_second,
        }),
        drops: totals.drops.iter().map(|entry| drop_of(entry, None)).collect(),
        workers: workers_of(host, port),
        refusals: port.refusals(&totals).into_iter().map(refusal_of).collect(),
        sessions: use_of(host, port),
    }
}

fn refusal_of((name, count, explanation): (&str, u64, String)) -> pb::Refusal {
    pb::Refusal { name: name.to_owned(), count, explanation }
}

fn counters_of(totals: &CounterTotals) -> pb::Counters {
    pb::Counters {
        egress_packets: totals.rx_packets,
        egress_bytes: totals.rx_bytes,
        egress_drops: totals.dropped(),
        ingress_packets: totals.tx_packets,
        ingress_bytes: totals.tx_bytes,
        // A packet is counted as dropped at the port that sent it, whatever kept it from arriving.
        ingress_drops: 0,
    }
}

fn workers_of(host: &Host, port: &Port) -> Vec<pb::PortWorker> {
    let shards =
        (0..host.workers.len()).filter_map(|worker| Some((worker, host.control.shard(port.index, worker)?)));
    shards
        .filter(|(worker, shard)| {
            shard.rx_packets.get() > 0 || host.control.home(port.index) == Some(*worker)
        })
        .map(|(worker, shard)| {
            let packets = shard.rx_packets.get();
            pb::PortWorker {
                worker: worker as u32,
                packets,
                busy_cycles_per_packet: (packets > 0)
                    .then(|| shard.busy_cycles.get() as f64 / packets as f64),
            }
        })
        .collect()
}
