//! A daemon under attack, and the judgement.
//!
//! Two bystanders exchange packets all the time; a peer talks with whoever attacks; each attack has one of several ports, in turn. After
//! each case the shared oracle (hostile cases, section 1.0) is asked, as far as a process can be asked from outside:
//!
//! * O1: the same process, as many threads, nothing that panicked in its log.
//! * O2: the bystanders' packets all came, unchanged, each within [`STALL`], during the case and after. (Their memory is filled with a
//!   pattern that is whole in the end: O3, O4.)
//! * O5: descriptors, threads and mappings of guest memory are no more than before.
//! * O6: exactly the counters that the case names have moved, by exactly so much.
//! * O8: an honest front end on the same port exchanges packets with the peer.
//!
//! O7 (how long one step of a worker takes) shows only as the bystanders' stall here; the simulator counts work.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use serde_json::{Value, json};

use super::guest::{Options, RawGuest};
use crate::daemon::{Daemon, Setup};
use crate::frontend::{Frontend, ping_pong, udp};
use crate::manifests::{self, Port};
use crate::netns::Namespace;
use crate::scratch::Scratch;
use crate::{Result, wait};

/// Longest round trip of the bystanders on a machine that does other things too.
pub const STALL: Duration = Duration::from_secs(2);
/// How long anything else may take.
pub const LIMIT: Duration = Duration::from_secs(10);
/// Ports that are attacked in turn: a port takes 20 connections a second.
const ATTACKED: usize = 8;
const ROUND_TRIPS: u32 = 10;
/// Between two looks at a ring.
const PAUSE: Duration = Duration::from_micros(50);

/// What a process holds on to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Mappings of memory files.
    pub maps: usize,
}

impl Holdings {
    /// What a process holds now.
    ///
    /// # Errors
    /// It is gone.
    pub fn of(process: u32) -> Result<Self> {
        let count = |what: &str| -> Result<usize> {
            let folder = format!("/proc/{process}/{what}");
            Ok(fs::read_dir(&folder).with_context(|| format!("read {folder}"))?.count())
        };
        let maps = fs::read_to_string(format!("/proc/{process}/maps"))?;
        let maps = maps.lines().filter(|line| line.contains("memfd:")).count();
        Ok(Self { descriptors: count("fd")?, threads: count("task")?, maps })
    }

    /// Whether nothing is held beyond `before`.
    #[must_use]
    pub fn within(&self, before: &Self) -> bool {
        self.descriptors <= before.descriptors && self.threads <= before.threads && self.maps <= before.maps
    }
}

/// Counters of a port by name: drop reasons and refusals.
pub type Counts = BTreeMap<String, u64>;

/// What must be counted at the attacked port.
#[derive(Clone, Copy, Debug)]
pub enum Must<'a> {
    /// These names, each so often, and no others.
    Count(&'a [(&'a str, u64)]),
    /// These names, each so often at least; others may be.
    Least(&'a [(&'a str, u64)]),
    /// Anything: the rest of the oracle alone judges.
    Survive,
}

/// Nothing may be refused or dropped.
pub const PASS: Must<'static> = Must::Count(&[]);

#[derive(Debug, Default)]
struct Bystanders {
    stop: AtomicBool,
    rounds: AtomicU64,
    longest_us: AtomicU64,
}

/// See the module's documentation.
pub struct Stage {
    daemon: Daemon,
    ports: Vec<Port>,
    /// Talks with whoever attacks.
    pub peer: Frontend,
    bystanders: Arc<Bystanders>,
    thread: Option<JoinHandle<Result<()>>>,
    before: Holdings,
    process: u32,
    turn: usize,
    failures: Vec<String>,
    cases: usize,
    _scratch: Scratch,
}

/// A case on its way: the guest that attacks, and whom it can reach.
pub struct Attack<'s> {
    /// The guest.
    pub guest: RawGuest,
    /// Everything around it.
    pub stage: &'s mut Stage,
    /// Its port.
    pub port: Port,
}

/// Where a stage is.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Fields of the daemon's own file.
    pub config: Value,
    /// Every resource but ports.
    pub network: Vec<Value>,
    /// Ports of other hosts.
    pub elsewhere: Vec<Port>,
    /// Where the daemon runs; absent: where the test does.
    pub namespace: Option<Arc<Namespace>>,
    /// Security groups of the ports that are attacked; none: they are under no rules.
    pub groups: Vec<String>,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            config: json!({"workers": {"cores": [0], "idle": "adaptive"}}),
            network: manifests::network(),
            elsewhere: Vec::new(),
            namespace: None,
            groups: Vec::new(),
        }
    }
}

impl Stage {
    /// A daemon with one worker, its bystanders talking.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start() -> Result<Self> {
        Self::start_in(&Setting::default())
    }

    /// [`Stage::start`] somewhere.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start_in(setting: &Setting) -> Result<Self> {
        let scratch = Scratch::new()?;
        let mut ports: Vec<Port> =
            (0..3 + ATTACKED).map(|number| Port::number(number as u8, scratch.path())).collect();
        for port in ports.iter_mut().skip(3) {
            (port.unfiltered, port.groups) = (setting.groups.is_empty(), setting.groups.clone());
        }
        let all = [ports.as_slice(), &setting.elsewhere].concat();
        let setup = Setup {
            name: "towpathd",
            config: setting.config.clone(),
            network: setting.network.clone(),
            ports: &all,
            namespace: setting.namespace.clone(),
        };
        let mut daemon = Daemon::start_as(&scratch, &setup)?;
        let attach = |port: &Port| -> Result<Frontend> {
            let frontend = Frontend::attach_within(&port.socket, LIMIT)?;
            daemon.until_phase(&port.name, "Forwarding")?;
            Ok(frontend)
        };
        let pair = [attach(&ports[0])?, attach(&ports[1])?];
        let peer = attach(&ports[2])?;
        let bystanders = Arc::new(Bystanders::default());
        let (state, names) = (Arc::clone(&bystanders), [ports[0].clone(), ports[1].clone()]);
        let thread = thread::spawn(move || bystand(pair, &names, &state));
        let process = daemon.process().id();
        let mut stage = Self {
            daemon,
            ports,
            peer,
            bystanders,
            thread: Some(thread),
            before: Holdings { descriptors: 0, threads: 0, maps: 0 },
            process,
            turn: 0,
            failures: Vec::new(),
            cases: 0,
            _scratch: scratch,
        };
        stage.rounds(3)?;
        stage.before = stage.quiet_holdings()?;
        Ok(stage)
    }

    /// What the daemon holds when no request of ours is under way.
    fn quiet_holdings(&self) -> Result<Holdings> {
        let mut last = Holdings::of(self.process)?;
        soon("what the daemon holds to settle", LIMIT, || {
            let now = Holdings::of(self.process)?;
            Ok((std::mem::replace(&mut last, now) == now).then_some(now))
        })
    }

    /// The daemon.
    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// All ports: bystanders, peer, attacked ones.
    #[must_use]
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// The peer's port.
    #[must_use]
    pub fn peer_port(&self) -> Port {
        self.ports[2].clone()
    }

    /// The next port to attack.
    pub fn next_port(&mut self) -> Port {
        self.turn = (self.turn + 1) % ATTACKED;
        self.ports[3 + self.turn].clone()
    }

    /// Counters of a port now.
    ///
    /// # Errors
    /// The metrics do not answer.
    pub fn counts(&self, port: &Port) -> Result<Counts> {
        let text = self.daemon.metrics()?;
        let wanted = format!("/{}\"", port.name);
        let mut counts = Counts::new();
        for line in text.lines().filter(|line| line.contains(&wanted)) {
            let family = line.split('{').next().unwrap_or_default();
            if !family.starts_with("towpath_port_drops") && !family.starts_with("towpath_port_refusals") {
                continue;
            }
            let label = line.split('"').nth(3).with_context(|| format!("a label in {line:?}"))?;
            let value = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
            let value = value.with_context(|| format!("a value in {line:?}"))?;
            if value > 0.0 {
                *counts.entry(label.to_owned()).or_default() += value as u64;
            }
        }
        Ok(counts)
    }

    /// Refusals of the switch's own services now, of all ports.
    ///
    /// # Errors
    /// The metrics do not answer.
    pub fn refusals(&self) -> Result<Counts> {
        let text = self.daemon.metrics()?;
        let mut counts = Counts::new();
        for line in text.lines().filter(|line| line.starts_with("towpath_service_refusals")) {
            let value = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
            let (label, value) = line
                .split('"')
                .nth(1)
                .zip(value)
                .with_context(|| format!("a name and a value in {line:?}"))?;
            counts.insert(label.to_owned(), value as u64);
        }
        Ok(counts)
    }

    /// Bytes of memory that the daemon alone has (not its guests' memory) resident.
    ///
    /// # Errors
    /// It is gone.
    pub fn memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")).context("RssAnon")?;
        Ok(kilobytes.trim().parse::<u64>()? * 1024)
    }

    /// The phase of a port.
    ///
    /// # Errors
    /// The metrics do not answer.
    pub fn phase(&self, port: &Port) -> Result<String> {
        let text = self.daemon.metrics()?;
        let wanted = format!("/{}\"", port.name);
        let line = text.lines().find(|l| l.starts_with("towpath_port_phase") && l.contains(&wanted));
        let phase = line.and_then(|line| line.split('"').nth(3));
        Ok(phase.with_context(|| format!("no phase of {}", port.name))?.to_owned())
    }

    /// Wait until a port is in a phase.
    ///
    /// # Errors
    /// It does not get there.
    pub fn until_phase(&self, port: &Port, phase: &str) -> Result<()> {
        let mut last = String::new();
        soon(&format!("phase {phase}"), LIMIT, || {
            last = self.phase(port)?;
            Ok((last == phase).then_some(()))
        })
        .with_context(|| format!("the port is {last}"))
    }

    /// Wait until a port has no front end; one whose memory went away says so until the next comes.
    fn until_free(&self, port: &Port) -> Result<()> {
        soon("the port to be free", LIMIT, || {
            let phase = self.phase(port)?;
            Ok(["Listening", "Error"].contains(&phase.as_str()).then_some(()))
        })
    }

    /// Wait for so many more round trips of the bystanders.
    ///
    /// # Errors
    /// They fail, or stall.
    pub fn rounds(&mut self, more: u64) -> Result<()> {
        let wanted = self.bystanders.rounds.load(Relaxed) + more;
        soon("the bystanders", LIMIT, || {
            if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                self.join_bystanders()?;
                bail!("the bystanders stopped");
            }
            Ok((self.bystanders.rounds.load(Relaxed) >= wanted).then_some(()))
        })
    }

    fn join_bystanders(&mut self) -> Result<()> {
        match self.thread.take() {
            Some(thread) => thread.join().map_err(|_| anyhow!("the bystanders panicked"))?,
            None => bail!("the bystanders are gone"),
        }
    }

    /// A whole case: a guest attaches, `harm` is done, the oracle judges. A failure is kept until [`Stage::finish`].
    pub fn case(
        &mut self,
        name: &str,
        options: Options,
        must: Must<'_>,
        harm: impl FnOnce(&mut Attack<'_>) -> Result<()>,
    ) {
        self.try_case(name, must, |stage, port| {
            let guest = RawGuest::attach(port, &stage.peer_port(), options)?;
            stage.until_phase(port, "Forwarding")?;
            // The worker hears of new queues at its next step, which the bystanders' packets are evidence of.
            stage.rounds(2)?;
            harm(&mut Attack { guest, stage, port: port.clone() })
        });
    }

    /// A case that does its own connecting.
    pub fn try_case(
        &mut self,
        name: &str,
        must: Must<'_>,
        harm: impl FnOnce(&mut Self, &Port) -> Result<()>,
    ) {
        self.cases += 1;
        let port = self.next_port();
        if let Err(error) = self.judge(&port, must, harm) {
            let text = format!("{name}: {error:#}");
            eprintln!("{text}");
            self.failures.push(text);
        }
    }

    fn judge(
        &mut self,
        port: &Port,
        must: Must<'_>,
        harm: impl FnOnce(&mut Self, &Port) -> Result<()>,
    ) -> Result<()> {
        while self.peer.try_receive()?.is_some() {}
        let before = self.counts(port)?;
        let harmed = harm(self, port);
        let counted = harmed.and_then(|()| self.until_counted(port, &before, must));
        // Whatever came of it, the next case finds the port free.
        self.until_free(port).context("after the attack")?;
        counted?;
        self.recover(port).context("O8, an honest front end on the same port")?;
        let after = difference(&self.counts(port)?, &before);
        ensure!(allows(must, &after), "O6: {must:?}, but in the end {after:?}");
        self.rounds(2).context("O2")?;
        self.daemon.process().assert_running().context("O1")?;
        self.nothing_is_held()
    }

    /// O5: the daemon holds what it held before any case.
    ///
    /// # Errors
    /// It holds more.
    pub fn nothing_is_held(&self) -> Result<()> {
        soon("the daemon to let go of everything", LIMIT, || {
            Ok(Holdings::of(self.process)?.within(&self.before).then_some(()))
        })
        .with_context(|| format!("O5: {:?} before, {:?} after", self.before, Holdings::of(self.process)))
    }

    fn until_counted(&self, port: &Port, before: &Counts, must: Must<'_>) -> Result<()> {
        let mut last = Counts::new();
        soon("the counters", LIMIT, || {
            last = difference(&self.counts(port)?, before);
            Ok(allows(must, &last).then_some(()))
        })
        .with_context(|| format!("O6: {must:?}, but {last:?}"))
    }

    fn recover(&mut self, port: &Port) -> Result<()> {
        let mut honest = Frontend::attach_within(&port.socket, LIMIT)?;
        self.until_phase(port, "Forwarding")?;
        while self.peer.try_receive()?.is_some() {}
        let peer = self.peer_port();
        ping_pong((&mut honest, port), (&mut self.peer, &peer), 3, LIMIT)?;
        drop(honest);
        self.until_phase(port, "Listening")
    }

    /// Everything that went wrong, and the last questions to the bystanders and the daemon.
    ///
    /// # Errors
    /// Anything went wrong.
    pub fn finish(mut self, least_cases: usize) -> Result<()> {
        self.bystanders.stop.store(true, Relaxed);
        if self.thread.is_some() {
            self.join_bystanders().context("O2")?;
        }
        let threads = Holdings::of(self.process)?.threads;
        ensure!(threads == self.before.threads, "O1: {} threads, {threads} in the end", self.before.threads);
        let log = self.daemon.process().log();
        ensure!(!log.contains("panicked") && !log.contains("a worker died"), "O1: {log}");
        let status = self.daemon.stop()?;
        ensure!(status.success(), "{status}:\n{}", self.daemon.process().tail());
        let (rounds, longest) =
            (self.bystanders.rounds.load(Relaxed), self.bystanders.longest_us.load(Relaxed));
        eprintln!("{} cases; {rounds} round trips of the bystanders, the longest {longest} us", self.cases);
        ensure!(self.cases >= least_cases, "{} cases ran, {least_cases} are expected", self.cases);
        ensure!(
            self.failures.is_empty(),
            "{} of {} failed:\n{}",
            self.failures.len(),
            self.cases,
            self.failures.join("\n")
        );
        Ok(())
    }
}

/// What moved.
#[must_use]
pub fn difference(now: &Counts, before: &Counts) -> Counts {
    let moved = now.iter().map(|(name, count)| (name.clone(), count - before.get(name).unwrap_or(&0)));
    moved.filter(|(_, count)| *count > 0).collect()
}

fn allows(must: Must<'_>, moved: &Counts) -> bool {
    match must {
        Must::Survive => true,
        Must::Least(wanted) => {
            wanted.iter().all(|(name, count)| moved.get(*name).is_some_and(|moved| moved >= count))
        }
        Must::Count(wanted) => {
            wanted.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect::<Counts>() == *moved
        }
    }
}

/// Wait for what happens within a few milliseconds.
///
/// # Errors
/// It does not within `limit`, or `probe` fails.
pub fn soon<T>(what: &str, limit: Duration, probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    wait::until_every(Duration::from_millis(1), what, limit, probe)
}

fn bystand(pair: [Frontend; 2], ports: &[Port; 2], state: &Bystanders) -> Result<()> {
    let [mut one, mut other] = pair;
    one.poison()?;
    other.poison()?;
    while !state.stop.load(Relaxed) {
        let longest = ping_pong((&mut one, &ports[0]), (&mut other, &ports[1]), ROUND_TRIPS, STALL)?;
        state.longest_us.fetch_max(longest.as_micros() as u64, Relaxed);
        state.rounds.fetch_add(1, Relaxed);
        // Steady, not flat out: the attacker wants processor time too.
        thread::sleep(Duration::from_millis(1));
    }
    ensure!(one.is_whole()? && other.is_whole()?, "O4: a bystander's memory was written to");
    Ok(())
}

impl Attack<'_> {
    /// `count` packets as the guest's at [`super::guest::PACKET`] come to the peer.
    ///
    /// # Errors
    /// They do not, or others do.
    pub fn arrive(&mut self, count: usize) -> Result<()> {
        for number in 0..count {
            let packet =
                self.stage.peer.receive(LIMIT).with_context(|| format!("packet {number} of {count}"))?;
            ensure!(packet.starts_with(&self.guest.packet), "packet {number} changed: {packet:02x?}");
        }
        Ok(())
    }

    /// No more than `count` packets of the guest come, and nothing else.
    ///
    /// # Errors
    /// More do, or others.
    pub fn arrive_at_most(&mut self, count: usize) -> Result<()> {
        self.stage.rounds(2)?;
        let mut came = 0;
        while let Some(packet) = self.stage.peer.try_receive()? {
            came += 1;
            ensure!(packet.starts_with(&self.guest.packet), "packet {came} changed: {packet:02x?}");
        }
        ensure!(came <= count, "{came} packets came, {count} at most were sent");
        Ok(())
    }

    /// A right packet passes: everything before it was looked at, and nothing else of it came to the peer.
    ///
    /// # Errors
    /// It does not pass, or something else came.
    pub fn sync(&mut self) -> Result<()> {
        self.guest.send()?;
        self.arrive(1).context("a right packet after the attack")?;
        ensure!(self.stage.peer.try_receive()?.is_none(), "more than one packet came");
        Ok(())
    }

    /// The peer sends `count` packets to the guest, in one burst; their bytes.
    ///
    /// # Errors
    /// The peer's ring is stuck.
    pub fn send_to_guest(&mut self, count: usize) -> Result<Vec<u8>> {
        let packet = udp(&self.stage.peer_port(), &self.port, &[0xc3; 600])?;
        self.stage.peer.send_together(&packet, count)?;
        Ok(packet)
    }

    /// The peer sends packets until the guest's only receive buffer has come back: those that come while a queue changes hands may be lost.
    ///
    /// # Errors
    /// It does not come back.
    pub fn give_one(&mut self) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < LIMIT {
            self.send_to_guest(1)?;
            let sent = Instant::now();
            while sent.elapsed() < Duration::from_millis(100) {
                if !self.guest.rx().used()?.is_empty() {
                    return Ok(());
                }
                thread::sleep(PAUSE);
            }
        }
        bail!("no packet was given")
    }

    /// Wait until so many buffers came back on a ring: ids and lengths.
    ///
    /// # Errors
    /// They do not.
    pub fn until_used(&mut self, ring: usize, count: usize) -> Result<Vec<(u16, u32)>> {
        let (begin, mut used) = (Instant::now(), Vec::new());
        while used.len() < count {
            used.extend(self.guest.rings[ring].used()?);
            ensure!(begin.elapsed() < LIMIT, "waited {LIMIT:?} for {count} used buffers, {used:?} came back");
            thread::sleep(PAUSE);
        }
        Ok(used)
    }
}
