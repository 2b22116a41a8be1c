//! The control thread: the one place where this host's ports, tables and sockets change.
//!
//! It waits for front ends, workers' reports and requests of the other threads (the API, a reload), and never for long for any of them.

use crate::alarms::Alarms;
use crate::balancers;
use crate::deadlines::Deadlines;
use crate::port::{Port, Surroundings};
use crate::shadow::Differing;
use crate::uplink::{Uplink, UplinkInfo};
use crate::upstream::TcpUpstream;
use crate::worker::{Fault, Waker, WorkerHandle};
use agent::{Action, Agent, CountedRule};
use crossbeam::queue::ArrayQueue;
use engine::{Announcement, PortIndex};
use fabric::{Ahead, Event, Fabric, UplinkSettings};
use model::{Name, ObjectName, Problem, ResourceSet};
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use services::neighbours::Link;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use switch::{Control, Removal, UPLINK};
use tables::external::External;
use tables::rules::RuleHits;

/// How often rates are taken and quiet failures looked for.
const TICK: Duration = Duration::from_secs(1);
/// How soon to look again for workers that have yet to forget a port.
const REMOVAL_CHECK: Duration = Duration::from_millis(5);
/// Which descriptor an event is of, where it is not a port's.
const OWN_EVENT: u64 = u64::MAX;
const UPSTREAM_EVENT: u64 = u64::MAX - 1;

/// Something to be done on the control thread.
type Request = Box<dyn FnOnce(&mut Host) + Send>;

/// A way to have things done on the control thread, for all other threads.
#[derive(Clone)]
pub struct HostHandle {
    requests: Sender<Request>,
    bell: Arc<Bell>,
}

/// Wakes the control thread; rung by workers at most once until it was heard.
pub struct Bell {
    event: OwnedFd,
    rung: AtomicBool,
}

impl Bell {
    /// Wakes the control thread.
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    fn hear(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.event, &mut count);
        self.rung.store(false, Ordering::Release);
    }
}

impl HostHandle {
    /// Does `what` on the control thread.
    pub fn ask(&self, what: impl FnOnce(&mut Host) + Send + 'static) {
        // A control thread that is gone has nothing to answer; whoever waits for an answer sees the channel close.
        if self.requests.send(Box::new(what)).is_ok() {
            self.bell.ring();
        }
    }
}

/// What the control thread is made of.
pub struct HostParts {
    /// This host's name.
    pub name: Name,
    /// The switch.
    pub control: Control,
    /// Its workers, running.
    pub workers: Vec<WorkerHandle>,
    /// Queues that broke.
    pub faults: Arc<ArrayQueue<Fault>>,
    /// Wakes it.
    pub bell: Arc<Bell>,
    /// The way to other hosts.
    pub uplink: Option<Uplink>,
    /// Told when that is another than it was: the rules depend on it.
    pub uplink_changed: UplinkChanged,
    /// A random number.
    pub seed: u64,
}

/// Hears what the uplink is now.
pub type UplinkChanged = Box<dyn Fn(UplinkInfo) + Send>;

/// See the module's documentation.
pub struct Host {
    /// What is desired.
    pub resources: ResourceSet,
    /// The ports realized here.
    pub ports: BTreeMap<PortIndex, Port>,
    /// The workers.
    pub workers: Vec<WorkerHandle>,
    /// The switch.
    pub control: Control,
    /// The way to other hosts.
    pub uplink: Option<Uplink>,
    /// VPCs, tunnels and next hops.
    pub fabric: Fabric<TcpUpstream>,
    /// What shadow rules would change.
    pub(crate) differing: Differing,
    pub(crate) alarms: Alarms,
    pub(crate) agent: Agent,
    wakers: Vec<Waker>,
    removals: Vec<Removal>,
    uplink_changed: UplinkChanged,
    /// What the uplink was last told to hand over comes from these.
    external: Arc<External>,
    deadlines: Deadlines,
    faults: Arc<ArrayQueue<Fault>>,
    announcements: Arc<ArrayQueue<Announcement>>,
    epoll: OwnedFd,
    bell: Arc<Bell>,
    began: Instant,
    next_tick: Duration,
    stopping: bool,
}

/// Makes the bell, which workers need before the control thread exists.
///
/// # Errors
///
/// No descriptors left.
pub fn bell() -> io::Result<Arc<Bell>> {
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    Ok(Arc::new(Bell { event, rung: AtomicBool::new(false) }))
}

/// Starts the control thread.
///
/// # Errors
///
/// No descriptors or threads left.
pub fn start(parts: HostParts) -> io::Result<(HostHandle, std::thread::JoinHandle<()>)> {
    let (requests, receiver) = channel();
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &parts.bell.event, epoll::EventData::new_u64(OWN_EVENT), epoll::EventFlags::IN)?;
    let upstream = TcpUpstream::new()?;
    epoll::add(
        &epoll,
        upstream.event_fd(),
        epoll::EventData::new_u64(UPSTREAM_EVENT),
        epoll::EventFlags::IN,
    )?;
    let handle = HostHandle { requests, bell: parts.bell.clone() };
    let mut host = Host {
        fabric: Fabric::new(parts.seed, upstream),
        resources: ResourceSet::default(),
        ports: BTreeMap::new(),
        wakers: parts.workers.iter().map(|worker| worker.waker.clone()).collect(),
        workers: parts.workers,
        differing: Differing::default(),
        alarms: Alarms::default(),
        agent: Agent::new(parts.name),
        announcements: parts.control.announcements().clone(),
        control: parts.control,
        uplink: parts.uplink,
        removals: Vec::new(),
        uplink_changed: parts.uplink_changed,
        external: Arc::default(),
        deadlines: Deadlines::default(),
        faults: parts.faults,
        epoll,
        bell: parts.bell,
        began: Instant::now(),
        next_tick: TICK,
        stopping: false,
    };
    host.attach_uplink();
    let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || host.run(&receiver))?;
    Ok((handle, thread))
}

impl Host {
    /// Realizes `resources`; what there was no room for.
    pub fn apply(&mut self, resources: ResourceSet) -> Vec<Problem> {
        let (actions, exhausted) = self.agent.apply(&resources);
        self.resources = resources;
        self.carry_out(actions);
        let remedy = "delete ports of this host, or place some on another";
        let exhausted =
            exhausted.into_iter().map(|error| Problem::new(error.to_string(), remedy).of(error.port));
        let remedy = "change these rules or groups; until then what was in force before is";
        let refused = self.fabric.refused_rules().map(|line| Problem::new(line, remedy));
        let remedy = "use fewer health checks, or place target ports on other hosts";
        let unchecked = self.fabric.unchecked().map(|line| Problem::new(line, remedy));
        exhausted.chain(refused).chain(unchecked).collect()
    }

    /// What each rule of a security group did here, in their order; none while no port here is in it.
    pub fn hits_of(&self, group: &ObjectName) -> Vec<RuleHits> {
        let counters = self.agent.counters_of(group).into_iter().flatten();
        counters.map(|counter| self.control.rule_counters().read(counter)).collect()
    }

    /// Says what rules that are to be logged decided.
    fn log_decisions(&self) {
        let decisions = self.control.decisions();
        for _ in 0..decisions.len() {
            let Some(decision) = decisions.pop() else { break };
            let port = self.agent.plan(PortIndex(decision.port)).map_or("", |plan| plan.name.as_str());
            let rule = decision.judgement.rule.and_then(|counter| self.agent.rule_of(counter));
            let Some(CountedRule { group, index, .. }) = rule else { continue };
            let verdict = if decision.judgement.allowed { "allow" } else { "deny" };
            let [from, to] = decision.ports;
            tracing::info!(
                port, %group, rule = index, verdict, direction = ?decision.direction, source = %decision.source,
                destination = %decision.destination, protocol = decision.protocol, from, to, "rule"
            );
        }
    }

    fn look_for_alarms(&mut self) {
        let mut alarms = std::mem::take(&mut self.alarms);
        alarms.look(self);
        self.alarms = alarms;
    }

    /// Keeps what shadow rules would change.
    pub(crate) fn note_differences(&mut self) {
        let now = self.now();
        let differences = self.control.differences().clone();
        for _ in 0..differences.len() {
            let Some(difference) = differences.pop() else { break };
            self.differing.note(difference, now);
        }
        self.differing.follow(&self.agent, None);
    }

    /// Ends everything: ports are closed, workers stopped, then the thread returns.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Gives the uplink's queues to the workers.
    fn attach_uplink(&mut self) {
        let Some(uplink) = &mut self.uplink else { return };
        self.fabric.set_uplink(&mut self.control, settings(&uplink.info));
        for (pair, queues) in (0..).zip(uplink.take_queues()) {
            self.control.attach_tx(UPLINK, pair, queues.tx);
            let home = self.control.attach_rx(UPLINK, pair, queues.rx);
            let waker = home.and_then(|home| self.wakers.get(home));
            if let (Some(waker), Some(event)) = (waker, uplink.event_fd(pair))
                && let Err(error) = waker.watch(event)
            {
                tracing::error!(device = uplink.info.device, pair, %error, "the uplink cannot be waited for");
            }
        }
    }

    fn run(mut self, requests: &Receiver<Request>) {
        let mut ready = Vec::with_capacity(64);
        while !self.stopping {
            self.wait(&mut ready);
            while let Ok(request) = requests.try_recv() {
                request(&mut self);
            }
            self.hear_workers();
            self.hear_fabric();
            self.tick_fabric();
            for index in ready.drain(..).collect::<std::collections::BTreeSet<_>>() {
                self.with_port(index, Port::on_ready);
            }
            self.meet_deadlines();
            self.free_indices();
            if self.now() >= self.next_tick {
                self.tick();
            }
        }
        self.shut_down();
    }

    /// Time as the fabric counts it.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Waits for the next thing to do; the ports that have something go to `ready`.
    fn wait(&self, ready: &mut Vec<PortIndex>) {
        let due = [self.deadlines.first(), self.fabric.next_deadline(), Some(self.next_tick)];
        let wake_at = due.into_iter().flatten().min().unwrap_or(self.next_tick);
        let mut timeout = wake_at.saturating_sub(self.now());
        if !self.removals.is_empty() {
            timeout = timeout.min(REMOVAL_CHECK);
        }
        // One round does not answer all that workers leave.
        if !self.control.exceptions().is_empty() {
            timeout = Duration::ZERO;
        }
        let timeout =
            Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        let mut events = Vec::with_capacity(64);
        // An interrupted wait is a wait that ended early.
        if epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)).is_err() {
            return;
        }
        for event in events {
            let event: epoll::Event = event;
            match event.data.u64() {
                OWN_EVENT => self.bell.hear(),
                // Looked at in every round.
                UPSTREAM_EVENT => {}
                index => ready.push(PortIndex(index as u16)),
            }
        }
    }

    fn meet_deadlines(&mut self) {
        let due = self.deadlines.due(self.now());
        due.into_iter().for_each(|index| self.with_port(index, Port::on_ready));
    }

    fn hear_workers(&mut self) {
        while let Some(announcement) = self.announcements.pop() {
            let actions = self.agent.announced(announcement);
            if !actions.is_empty() {
                let Announcement { port, address, mac } = announcement;
                let name = self.agent.plan(port).map_or("", |plan| plan.name.as_str());
                tracing::info!(port = name, %address, %mac, "address announced");
            }
            let told = actions.iter().any(|action| matches!(action, Action::BindEndpoint { .. }));
            self.carry_out(actions);
            if told {
                let Announcement { port, address, mac } = announcement;
                self.fabric.announce_address(&mut self.control, port, address, mac);
            }
        }
        while let Some(fault) = self.faults.pop() {
            self.with_port(fault.port(), |port, around| port.on_fault(fault.queue.pair, fault.fault, around));
        }
    }

    fn tick(&mut self) {
        self.next_tick = self.now() + TICK;
        let all: Vec<PortIndex> = self.ports.keys().copied().collect();
        all.into_iter().for_each(|index| self.with_port(index, Port::tick));
        self.log_decisions();
        self.note_differences();
        self.look_for_alarms();
        self.control.reclaim();
        self.watch_uplink();
        for worker in self.workers.iter().filter(|worker| worker.is_dead()) {
            tracing::error!(
                core = worker.core,
                "a worker died; its ports do not forward. Restart towpathd and report the log"
            );
        }
    }

    fn watch_uplink(&mut self) {
        let Some(uplink) = &mut self.uplink else { return };
        if let Some(link) = uplink.poll_link() {
            tracing::info!(device = uplink.info.device, "the uplink's link is {link}");
        }
        let before = uplink.problem().map(ToString::to_string);
        let is_new = uplink.poll_change();
        let problem = uplink.problem().map(ToString::to_string);
        if let Some(problem) = problem.filter(|problem| Some(problem) != before.as_ref()) {
            tracing::error!(
                device = uplink.info.device,
                "the uplink changed and is used as it was before: {problem}"
            );
        }
        if is_new {
            let info = uplink.info.clone();
            let addresses = info.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            tracing::warn!(device = info.device, mac = %info.mac, mtu = info.mtu, addresses, "the uplink changed");
            self.fabric.change_uplink(&mut self.control, settings(&info), self.began.elapsed());
            self.wakers.iter().for_each(Waker::wake);
            (self.uplink_changed)(info);
        }
    }

    /// Does something with a port, then waits for whatever sockets it has now.
    fn with_port(&mut self, index: PortIndex, act: impl FnOnce(&mut Port, &mut Surroundings<'_>)) {
        let now = self.now();
        let Some(port) = self.ports.get_mut(&index) else { return };
        act(port, &mut Surroundings { control: &mut self.control, wakers: &self.wakers, now });
        watch_sockets(&self.epoll, port);
        self.deadlines.set(index, port.device().and_then(|device| device.endpoint().deadline()));
        let running = port.queue_pairs() > 0;
        if self.fabric.set_running(index, running, now) && running {
            let actions = self.agent.activated(index);
            self.carry_out(actions);
        }
    }

    /// The port of that name, if it is realized here.
    pub fn port_named(&self, name: &ObjectName) -> Option<&Port> {
        self.ports.get(&self.agent.index_of(name)?)
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        let now = self.now();
        let mut actions = Ahead::new(actions);
        while let Some(action) = actions.next(&self.control) {
            self.differing.follow(&self.agent, Some(&action));
            match self.fabric.carry_out(&mut self.control, action, now) {
                Some(Action::OpenPort { index, plan }) => {
                    let mut around = Surroundings { control: &mut self.control, wakers: &self.wakers, now };
                    let port = Port::open(index, *plan, &mut around);
                    self.ports.insert(index, port);
                    self.with_port(index, Port::on_ready);
                }
                Some(Action::ChangePort { index, plan }) => {
                    self.with_port(index, |port, around| port.change(*plan, around));
                }
                Some(Action::ClosePort { index }) => self.close_port(index),
                _ => {}
            }
        }
        self.control.publish();
        self.follow_announced();
        // Commands are done between bursts; a sleeping worker has none.
        self.wakers.iter().for_each(Waker::wake);
    }

    /// Has the uplink hand over what is for the external addresses that this host announces.
    fn follow_announced(&mut self) {
        let network = self.control.network();
        let external = &network.external;
        if Arc::ptr_eq(external, &self.external) {
            return;
        }
        let is_new = external.announced != self.external.announced;
        self.external = external.clone();
        if let Some(uplink) = self.uplink.as_mut().filter(|_| is_new)
            && let Err(error) = uplink.take_in(external.announced.iter().copied())
        {
            tracing::error!(device = uplink.info.device, %error, "what is for external addresses does not come in");
        }
    }

    /// Answers what workers left to this thread, and follows what comes of it.
    fn hear_fabric(&mut self) {
        if self.control.exceptions().is_empty() {
            return;
        }
        let now = self.now();
        for Event { vpc, vtep, mac, address } in self.fabric.hear(&mut self.control, now) {
            let actions = self.agent.heard_of(vpc, vtep, mac, address);
            if !actions.is_empty() {
                tracing::info!(%mac, ?address, "moved to another host");
            }
            self.carry_out(actions);
        }
        balancers::log_changes(&mut self.fabric);
        self.wakers.iter().for_each(Waker::wake);
    }

    /// Does what is due in the fabric.
    fn tick_fabric(&mut self) {
        let now = self.now();
        for stream in self.fabric.upstream.ready() {
            self.fabric.on_upstream(&mut self.control, stream, now);
            self.wakers.iter().for_each(Waker::wake);
        }
        if self.fabric.next_deadline().is_some_and(|due| due <= now) {
            self.fabric.tick(&mut self.control, now);
            balancers::log_changes(&mut self.fabric);
            self.wakers.iter().for_each(Waker::wake);
        }
    }

    fn close_port(&mut self, index: PortIndex) {
        let now = self.now();
        self.deadlines.set(index, None);
        self.differing.forget(index);
        if let Some(mut port) = self.ports.remove(&index) {
            port.close(&mut Surroundings { control: &mut self.control, wakers: &self.wakers, now });
        }
        let removal = self.control.remove_port(index);
        self.removals.push(removal);
    }

    /// Indices of closed ports may be used again once no worker knows them and no session is theirs.
    fn free_indices(&mut self) {
        if !self.removals.is_empty() {
            let free = self.control.finish_removals(&mut self.removals);
            free.into_iter().for_each(|index| self.agent.closed(index));
        }
    }

    fn shut_down(mut self) {
        let all: Vec<PortIndex> = self.ports.keys().copied().collect();
        all.into_iter().for_each(|index| self.close_port(index));
        self.workers.iter_mut().for_each(WorkerHandle::stop);
        tracing::info!("all ports closed, all workers stopped");
    }
}

/// The uplink as the fabric knows it.
fn settings(info: &UplinkInfo) -> UplinkSettings {
    let link = Link { mac: info.mac, addresses: info.addresses.clone(), gateways: info.gateways.clone() };
    UplinkSettings { link, mtu: info.mtu, kernel_answers: info.kernel_answers.clone() }
}

/// Registers the sockets a port has now. Closed ones left the epoll set by themselves.
fn watch_sockets(epoll: &OwnedFd, port: &Port) {
    let Some(device) = port.device() else { return };
    for (socket, interest) in device.endpoint().sockets() {
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, interest.read);
        flags.set(epoll::EventFlags::OUT, interest.write);
        if let Err(error) = watch_socket(epoll, socket, port.index, flags) {
            tracing::error!(port = %port.plan.name, %error, "a socket cannot be waited for");
        }
    }
}

fn watch_socket(
    epoll: &OwnedFd,
    socket: BorrowedFd<'_>,
    index: PortIndex,
    flags: epoll::EventFlags,
) -> io::Result<()> {
    let data = epoll::EventData::new_u64(u64::from(index.0));
    match epoll::modify(epoll, socket, data, flags) {
        Err(rustix::io::Errno::NOENT) => Ok(epoll::add(epoll, socket, data, flags)?),
        other => Ok(other?),
    }
}
