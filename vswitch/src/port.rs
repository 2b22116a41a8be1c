//! One port of this host: its socket, the queues it runs, and how far it has come.

use crate::call::Call;
use crate::worker::Waker;
use agent::PortPlan;
use engine::{CounterTotals, PortIndex, QueueFault};
use model::{Role as ManifestRole, VhostUserAttachment};
use packet::MacAddr;
use ports::vhost::{NetFeatures, VhostRx, VhostTx};
use std::any::Any;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use switch::Control;
use tables::TokenBucket;
use vhost_user::connector::Connector;
use vhost_user::device::{Device, DeviceEvent, ReadyQueue};
use vhost_user::endpoint::{Endpoint, Role};
use vhost_user::features;
use vhost_user::listener::{ListenOptions, Listener};
use vhost_user::session::SessionConfig;
use virtqueue::{DeviceRing, Notifier, Ring};

/// Log lines per second and port about what a front end did wrong, and at once.
const LOG_RATE: (u64, u64) = (1, 10);

/// How far a port has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not realized.
    Pending,
    /// The socket waits for a front end.
    Listening,
    /// A front end is there, its driver does not run yet.
    Connected,
    /// Packets move.
    Forwarding,
    /// Something is wrong.
    Error,
}

/// A queue that a worker has.
#[derive(Clone, Debug)]
struct Running {
    packed: bool,
    call: Arc<Call>,
    /// For a queue the guest receives by: set when it has refused a frame.
    stopped: Option<Arc<AtomicBool>>,
}

/// How often a guest's queues had to be stopped.
#[derive(Clone, Copy, Debug, Default)]
struct Broken {
    rings: u64,
    memories: u64,
}

/// What a port works with besides itself.
pub struct Surroundings<'a> {
    /// The switch's tables and queues.
    pub control: &'a mut Control,
    /// By worker.
    pub wakers: &'a [Waker],
    /// Since the daemon's clock began.
    pub now: Duration,
}

/// See the module's documentation.
pub struct Port {
    /// Its index in the switch.
    pub index: PortIndex,
    /// What it is to be.
    pub plan: PortPlan,
    device: Option<Device>,
    failure: Option<String>,
    features: Option<u64>,
    running: BTreeMap<u16, Running>,
    kicks: BTreeMap<u16, Arc<OwnedFd>>,
    log_budget: TokenBucket,
    /// Totals when rates were last taken, and the rates.
    sampled: (Duration, CounterTotals),
    /// Packets and bits per second: sent by the guest, received by it.
    pub rates: [f64; 4],
    /// Rings found broken, and memory found gone.
    broken: Broken,
    rarps: (u64, u64),
    spoofs_seen: u64,
    /// Whether packets with a foreign MAC address came since rates were last taken but one.
    spoofing: bool,
}

impl Port {
    /// Makes the port in the switch and opens its socket.
    pub fn open(index: PortIndex, plan: PortPlan, around: &mut Surroundings<'_>) -> Self {
        around.control.add_port(index, plan.profile.clone());
        let mut port = Self {
            index,
            plan,
            device: None,
            failure: None,
            features: None,
            running: BTreeMap::new(),
            kicks: BTreeMap::new(),
            log_budget: TokenBucket::new(LOG_RATE.0, LOG_RATE.1),
            sampled: (around.now, CounterTotals::default()),
            rates: [0.0; 4],
            broken: Broken::default(),
            rarps: (0, 0),
            spoofs_seen: 0,
            spoofing: false,
        };
        port.open_socket();
        port
    }

    fn open_socket(&mut self) {
        let Some(attachment) = self.plan.attachment.clone() else { return };
        let profile = &self.plan.profile;
        let mac = Some(profile.mac.0);
        let config = SessionConfig::new(mask_of(&attachment), attachment.max_queue_pairs, mac, profile.mtu);
        match role_of(&attachment) {
            Ok(role) => {
                let mut endpoint = Endpoint::new(role, config);
                endpoint.set_link(profile.up);
                self.device = Some(Device::new(endpoint));
                tracing::info!(port = %self.plan.name, socket = %attachment.socket, role = attachment.role.as_str(), "port opened");
            }
            Err(error) => {
                tracing::error!(port = %self.plan.name, %error, "the port's socket could not be opened");
                self.failure = Some(error);
            }
        }
    }

    /// Takes up another plan with the same socket.
    pub fn change(&mut self, plan: PortPlan, around: &mut Surroundings<'_>) {
        if let Some(device) = &mut self.device {
            if plan.profile.mtu != self.plan.profile.mtu {
                device.endpoint_mut().set_mtu(plan.profile.mtu);
            }
            if let Some(attachment) = &plan.attachment {
                device.endpoint_mut().set_offer(mask_of(attachment), Some(plan.profile.mac.0));
            }
            device.endpoint_mut().set_link(plan.profile.up);
        }
        tracing::info!(port = %plan.name, "port changed");
        self.plan = plan;
        self.publish_profile(around);
        self.on_ready(around);
    }

    /// The largest network-layer packet its guest is given: the manifest's, or what the front end said, which cannot be more.
    pub fn mtu(&self) -> u16 {
        let session = self.device.as_ref().and_then(|device| device.endpoint().session());
        session.map_or(self.plan.profile.mtu, |session| session.config().mtu.min(self.plan.profile.mtu))
    }

    fn publish_profile(&self, around: &mut Surroundings<'_>) {
        let mut profile = self.plan.profile.clone();
        profile.mtu = self.mtu();
        around.control.set_profile(self.index, profile);
        // Workers hear of a changed MTU by a command.
        around.wakers.iter().for_each(Waker::wake);
    }

    /// Stops the port's queues and closes its socket. The switch's port is to be removed afterwards.
    pub fn close(&mut self, around: &mut Surroundings<'_>) {
        if let Some(device) = &mut self.device {
            device.close();
        }
        self.on_ready(around);
        self.device = None;
        tracing::info!(port = %self.plan.name, "port closed");
    }

    /// The sockets to wait for.
    pub fn device(&self) -> Option<&Device> {
        self.device.as_ref()
    }

    /// Handles whatever the front end said.
    pub fn on_ready(&mut self, around: &mut Surroundings<'_>) {
        // Bounded: a front end that talks without pause is heard again in the next round.
        for _ in 0..64 {
            let Some(device) = &mut self.device else { return };
            let more = device.on_ready(around.now);
            let mut any = false;
            while let Some(event) = self.device.as_mut().and_then(Device::next_event) {
                any = true;
                self.handle(event, around);
            }
            if !more && !any {
                return;
            }
        }
    }

    /// A worker found a queue broken.
    pub fn on_fault(&mut self, pair: u16, fault: QueueFault, around: &mut Surroundings<'_>) {
        let index = pair * 2 + 1;
        let Some(base) = self.stop_queue(index, around) else { return };
        if fault == QueueFault::MemoryGone {
            self.lose_memory(around);
        } else {
            self.break_queue(index, base, around);
        }
        self.on_ready(around);
    }

    /// A ring is corrupt: its queue stays stopped until the front end sets it up anew.
    fn break_queue(&mut self, index: u16, base: u32, around: &Surroundings<'_>) {
        self.broken.rings += 1;
        self.log_refusal(around.now, &format!("queue {index} stopped: its ring is corrupt"));
        if let Some(device) = &mut self.device {
            device.queue_broken(index, base);
        }
    }

    /// The front end took memory away: its session ends.
    fn lose_memory(&mut self, around: &mut Surroundings<'_>) {
        self.broken.memories += 1;
        let failure = "MemoryGone: the front end truncated the guest's memory";
        self.log_refusal(around.now, failure);
        self.failure = Some(failure.to_owned());
        self.close_session(around);
    }

    /// Once a second: rates, and what no event tells.
    pub fn tick(&mut self, around: &mut Surroundings<'_>) {
        self.sample(around);
        if self.device.as_ref().is_some_and(Device::is_memory_dead) {
            self.lose_memory(around);
        }
        let broken: Vec<u16> = self
            .running
            .iter()
            .filter(|(_, running)| running.stopped.as_ref().is_some_and(|stopped| stopped.load(Relaxed)))
            .map(|(index, _)| *index)
            .filter(|index| self.tx_is_broken(*index, around))
            .collect();
        for index in broken {
            if let Some(base) = self.stop_queue(index, around) {
                self.break_queue(index, base, around);
            }
        }
        self.on_ready(around);
    }

    /// How far the port has come, and why when that alone does not say.
    pub fn phase(&self) -> (Phase, Option<String>) {
        if let Some(failure) = &self.failure {
            return (Phase::Error, Some(failure.clone()));
        }
        if !self.plan.profile.up {
            return (Phase::Pending, Some("Shutdown: spec.shutdown is true".to_owned()));
        }
        let Some(device) = &self.device else {
            return (Phase::Pending, Some("NoAttachment: the port names none (spec.attachment)".to_owned()));
        };
        let (gives, takes) = self.running.keys().fold((false, false), |(gives, takes), index| {
            if is_receive(*index) { (true, takes) } else { (gives, true) }
        });
        let phase = match (device.endpoint().session().is_some(), gives && takes) {
            (false, _) => Phase::Listening,
            (true, false) => Phase::Connected,
            (true, true) => Phase::Forwarding,
        };
        (phase, self.broken_queue().or_else(|| self.mac_mismatch()))
    }

    fn broken_queue(&self) -> Option<String> {
        let session = self.device.as_ref()?.endpoint().session()?;
        let index = session.queues().find(|queue| queue.broken)?.index;
        Some(format!("QueueBroken: the ring of queue {index} was refused; the guest must reset its device"))
    }

    /// Feature bits that the driver negotiated.
    pub fn features(&self) -> Option<u64> {
        self.features
    }

    /// Whether the rings are packed; nothing before one runs.
    pub fn is_packed(&self) -> Option<bool> {
        self.running.values().next().map(|running| running.packed)
    }

    /// Queue pairs of which both queues run.
    pub fn queue_pairs(&self) -> usize {
        self.running
            .keys()
            .filter(|index| is_receive(**index) && self.running.contains_key(&(*index + 1)))
            .count()
    }

    /// What the front end and its guest had refused: name, count, explanation. `totals` are the port's counters.
    pub fn refusals(&self, totals: &CounterTotals) -> Vec<(&'static str, u64, String)> {
        let refusals = self.device.as_ref().map(|device| device.endpoint().refusals());
        let messages = refusals
            .iter()
            .flat_map(vhost_user::Refusals::iter)
            .map(|(refusal, count)| (refusal.name(), count, refusal.to_string()));
        let rings = [
            (
                "bad_buffer",
                totals.bad_buffers,
                "receive buffers that lie outside of memory, lie about themselves, or hold no frame",
            ),
            (
                "ring_corrupt",
                self.broken.rings,
                "a ring contradicted itself; its queue was stopped until the device is reset",
            ),
            (
                "memory_gone",
                self.broken.memories,
                "the front end truncated the guest's memory; it was disconnected",
            ),
        ];
        let rings = rings.into_iter().filter(|(_, count, _)| *count > 0);
        messages.chain(rings.map(|(name, count, text)| (name, count, text.to_owned()))).collect()
    }

    /// Front ends that have connected.
    pub fn connects(&self) -> u64 {
        self.device.as_ref().map_or(0, |device| device.endpoint().connects())
    }

    fn mac_mismatch(&self) -> Option<String> {
        let seen = MacAddr::from_u64(self.sampled.1.last_spoofed_mac);
        self.spoofing
            .then(|| format!("MacMismatch: the guest sends {seen}, the port says {}", self.plan.profile.mac))
    }

    fn sample(&mut self, around: &Surroundings<'_>) {
        let Some(totals) = around.control.counters(self.index) else { return };
        let (before, old) = &self.sampled;
        let seconds = around.now.saturating_sub(*before).as_secs_f64();
        if seconds > 0.0 {
            let rate = |new: u64, old: u64| new.saturating_sub(old) as f64 / seconds;
            self.rates = [
                rate(totals.rx_packets, old.rx_packets),
                rate(totals.rx_bytes, old.rx_bytes) * 8.0,
                rate(totals.tx_packets, old.tx_packets),
                rate(totals.tx_bytes, old.tx_bytes) * 8.0,
            ];
        }
        let spoofs = spoofs_in(&totals);
        // A guest with the wrong address keeps sending; one stray packet does not stay in the status for ever.
        self.spoofing = spoofs > self.spoofs_seen || (self.spoofing && self.rates[0] < 1.0);
        self.spoofs_seen = spoofs;
        self.sampled = (around.now, totals);
    }

    fn handle(&mut self, event: DeviceEvent, around: &mut Surroundings<'_>) {
        match event {
            DeviceEvent::FeaturesSettled { features } => self.features = Some(features),
            DeviceEvent::QueueReady(ready) => self.start_queue(*ready, around),
            DeviceEvent::StopQueue { index } => {
                let base = self.stop_queue(index, around).unwrap_or(0);
                if let Some(device) = &mut self.device {
                    device.queue_stopped(index, base);
                }
            }
            DeviceEvent::CallChanged { index, call } => {
                if let Some(running) = self.running.get(&index) {
                    running.call.set(call);
                }
            }
            DeviceEvent::Rarp { mac } => self.announce(MacAddr(mac)),
            DeviceEvent::Refused { refusal, detail } => {
                let detail = detail.map_or_else(String::new, |detail| format!(": {detail}"));
                self.log_refusal(around.now, &format!("{refusal}{detail}"));
            }
            DeviceEvent::LinkUp => tracing::info!(port = %self.plan.name, "the guest's driver runs"),
            DeviceEvent::LinkDown => tracing::info!(port = %self.plan.name, "the guest's driver stopped"),
            DeviceEvent::Closed { reason } => {
                self.features = None;
                self.publish_profile(around);
                tracing::info!(port = %self.plan.name, %reason, "front end gone");
            }
            DeviceEvent::MemoryChanged { bytes, regions } => {
                // What was wrong with the memory before is gone with it.
                self.failure = None;
                tracing::debug!(port = %self.plan.name, bytes, regions, "guest memory mapped");
            }
            DeviceEvent::LogChanged { logging } => {
                tracing::info!(port = %self.plan.name, logging, "dirty log");
            }
            DeviceEvent::Mtu { mtu } => {
                tracing::debug!(port = %self.plan.name, mtu, "the front end set the MTU");
                self.publish_profile(around);
            }
            DeviceEvent::Status { status } => {
                tracing::debug!(port = %self.plan.name, status, "device status");
            }
            DeviceEvent::Frozen => {}
        }
    }

    /// SEND_RARP: the guest arrived here by migration, and what learns addresses from frames is to learn that. Nothing here does: frames go where
    /// the manifests say, unknown ones nowhere, and a broadcast is not given to guests. So there is nothing to send on this host. It is checked like
    /// any source of the port's, and counted.
    fn announce(&mut self, mac: MacAddr) {
        if self.plan.profile.may_use_mac(mac) {
            self.rarps.0 += 1;
            tracing::info!(port = %self.plan.name, %mac, "guest announced itself");
        } else {
            self.rarps.1 += 1;
            tracing::warn!(port = %self.plan.name, %mac, "refused an announcement of another address than the port's");
        }
    }

    /// Announcements of the guest's address by its front end (SEND_RARP), and such of addresses that are not the port's.
    pub fn rarps(&self) -> (u64, u64) {
        self.rarps
    }

    fn start_queue(&mut self, ready: ReadyQueue, around: &mut Surroundings<'_>) {
        let net = NetFeatures::from_bits(self.features.unwrap_or(0));
        let (index, pair) = (ready.index, ready.index / 2);
        let packed = ready.ring.features().layout == virtqueue::RingLayout::Packed;
        let call = Arc::new(Call::new(ready.call));
        let mut stopped = None;
        let worker = if is_receive(index) {
            let queue = VhostTx::new(ready.ring, net, call.clone());
            stopped = Some(queue.stopped());
            around.control.attach_tx(self.index, pair, Box::new(queue));
            around.control.home(self.index)
        } else {
            let queue = VhostRx::new(ready.ring, net, call.clone());
            let worker = around.control.attach_rx(self.index, pair, Box::new(queue));
            if let (Some(kick), Some(waker)) =
                (&ready.kick, worker.and_then(|worker| around.wakers.get(worker)))
            {
                self.watch(index, kick, waker, around.now);
            }
            worker
        };
        // A process before this one may have died between returning buffers and saying so.
        call.notify();
        self.running.insert(index, Running { packed, call, stopped });
        // Every worker must hear of a new output; the home worker of a new queue looks into it without a kick.
        around.wakers.iter().for_each(Waker::wake);
        tracing::debug!(port = %self.plan.name, index, packed, ?worker, "queue started");
    }

    fn watch(&mut self, index: u16, kick: &Arc<OwnedFd>, waker: &Waker, now: Duration) {
        match waker.watch(kick.as_fd()) {
            Ok(()) => {
                self.kicks.insert(index, kick.clone());
            }
            Err(error) => self.log_refusal(
                now,
                &format!("queue {index}: its kick descriptor cannot be waited for: {error}"),
            ),
        }
    }

    /// Takes a queue from the switch; where its ring stands.
    fn stop_queue(&mut self, index: u16, around: &mut Surroundings<'_>) -> Option<u32> {
        self.running.remove(&index);
        if let Some(kick) = self.kicks.remove(&index) {
            around.wakers.iter().for_each(|waker| waker.forget(kick.as_fd()));
        }
        let pair = index / 2;
        let base = if is_receive(index) {
            let queue: Box<dyn Any> = around.control.detach_tx(self.index, pair)?;
            queue.downcast::<VhostTx>().ok()?.ring_mut().base()
        } else {
            let queue: Box<dyn Any> = around.control.detach_rx(self.index, pair)?;
            queue.downcast::<VhostRx>().ok()?.ring_mut().base()
        };
        around.wakers.iter().for_each(Waker::wake);
        Some(base)
    }

    fn tx_is_broken(&self, index: u16, around: &Surroundings<'_>) -> bool {
        let broken = around.control.with_tx(self.index, index / 2, |queue| {
            (queue as &mut dyn Any)
                .downcast_mut::<VhostTx>()
                .is_some_and(|queue| Ring::broken(queue.ring_mut()).is_some())
        });
        broken.unwrap_or(false)
    }

    fn close_session(&mut self, around: &mut Surroundings<'_>) {
        if let Some(device) = &mut self.device {
            device.close();
        }
        self.on_ready(around);
    }

    fn log_refusal(&mut self, now: Duration, what: &str) {
        if self.log_budget.take(now.as_nanos() as u64, 1) {
            tracing::warn!(port = %self.plan.name, "front end: {what}");
        }
    }
}

/// Whether the queue is one the guest receives by (virtio 1.2 section 5.1.2).
fn is_receive(index: u16) -> bool {
    index.is_multiple_of(2)
}

fn spoofs_in(totals: &CounterTotals) -> u64 {
    let spoofed = |(reason, _): &&(engine::DropReason, u64)| *reason == engine::DropReason::SpoofedMac;
    totals.drops.iter().find(spoofed).map_or(0, |(_, count)| *count)
}

/// The features that may be offered.
fn mask_of(attachment: &VhostUserAttachment) -> u64 {
    let withheld = attachment.without_features.iter().filter_map(|name| features::by_name(name));
    withheld.fold(u64::MAX, |mask, feature| mask & !feature)
}

fn role_of(attachment: &VhostUserAttachment) -> Result<Role, String> {
    match attachment.role {
        ManifestRole::Client => Ok(Role::Client(Connector::new(&attachment.socket))),
        ManifestRole::Server => {
            let owner =
                attachment.owner.as_ref().map(crate::owner::resolve).transpose()?.unwrap_or((None, None));
            if let Some(folder) = Path::new(&attachment.socket).parent() {
                crate::daemon::make_folder(folder).map_err(|error| {
                    format!("folder {}: {error}; make it, or choose another socket", folder.display())
                })?;
            }
            let options =
                ListenOptions { mode: attachment.mode, owner, ..ListenOptions::new(&attachment.socket) };
            Ok(Role::Server(Listener::bind(&options).map_err(|error| error.to_string())?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_know_the_features_of_the_back_end() {
        let offered: Vec<&str> = features::all_names().filter(|name| *name != "protocol features").collect();
        assert_eq!(offered, model::features::FEATURES);
    }
}
