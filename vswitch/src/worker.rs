//! Worker threads: a pinned loop around [`switch::Worker::step`], and how it goes to sleep.

use crate::config::Idle;
use crate::uplink::UplinkThreads;
use engine::{Armed, PortIndex, QueueFault, Unobserved};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use switch::{Clock, Mailbox, QueueId, TimeStampClock, Worker, WorkerCounters};

/// Shortest and longest time of looking in vain before sleeping, in nanoseconds.
const SPIN_MIN: u64 = 50_000;
const SPIN_MAX: u64 = 1_000_000;
/// A sleep shorter than this was not worth it: the next spin is longer.
const SHORT_SLEEP: u64 = 500_000;
/// Longest sleep; a sign of life for the watchdog.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// Time stamp cycles between two readings of the clock.
const CLOCK_CYCLES: u64 = 100_000;

/// A way to wake a sleeping worker, and to be woken by its queues.
#[derive(Clone)]
pub struct Waker {
    epoll: Arc<OwnedFd>,
    event: Arc<OwnedFd>,
}

impl Waker {
    fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(
            &epoll,
            &event,
            epoll::EventData::new_u64(0),
            epoll::EventFlags::IN | epoll::EventFlags::ET,
        )?;
        Ok(Self { epoll: Arc::new(epoll), event: Arc::new(event) })
    }

    /// Wakes the worker if it sleeps.
    pub fn wake(&self) {
        // A full counter means that a wake-up is on its way already.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Lets `kick` wake the worker from now on.
    ///
    /// # Errors
    ///
    /// The descriptor cannot be waited for (a regular file, say).
    pub fn watch(&self, kick: BorrowedFd<'_>) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, kick, epoll::EventData::new_u64(1), flags)?)
    }

    /// Ends what [`Waker::watch`] began.
    pub fn forget(&self, kick: BorrowedFd<'_>) {
        let _ = epoll::delete(&self.epoll, kick);
    }

    fn sleep(&self, longest: Duration) {
        let mut events = Vec::with_capacity(16);
        let timeout = rustix::event::Timespec {
            tv_sec: longest.as_secs() as i64,
            tv_nsec: longest.subsec_nanos().into(),
        };
        // An interrupted sleep is a short sleep.
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout));
    }
}

/// A queue that broke, for the control thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which queue.
    pub queue: QueueId,
    /// Why.
    pub fault: QueueFault,
}

/// What the other threads see of a worker.
pub struct WorkerHandle {
    /// The processor it is pinned to, if that could be done.
    pub core: Option<usize>,
    /// Where to leave commands; wake it afterwards.
    pub mailbox: Mailbox,
    /// What it did.
    pub counters: Arc<WorkerCounters>,
    /// How to wake it.
    pub waker: Waker,
    /// Steps done: a sign of life.
    pub steps: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

/// How a worker thread runs.
pub struct WorkerConfig {
    /// Its number.
    pub index: usize,
    /// The processor to pin it to.
    pub core: usize,
    /// What to do when idle.
    pub idle: Idle,
    /// Called when announcements or faults wait for the control thread.
    pub notify_control: Arc<dyn Fn() + Send + Sync>,
    /// Where faults go.
    pub faults: Arc<crossbeam::queue::ArrayQueue<Fault>>,
    /// Whether announcements wait.
    pub announcements: Arc<crossbeam::queue::ArrayQueue<engine::Announcement>>,
    /// Whether packets wait for the control thread.
    pub exceptions: switch::Exceptions,
    /// What the thread does before it polls the uplink.
    pub uplink: UplinkThreads,
}

/// Makes the wakers first, since each worker wakes the others.
///
/// # Errors
///
/// No descriptors left.
pub fn wakers(count: usize) -> io::Result<Vec<Waker>> {
    (0..count).map(|_| Waker::new()).collect()
}

/// Starts a worker.
///
/// # Errors
///
/// The thread cannot be made.
pub fn start(worker: Worker, config: WorkerConfig, wakers: Vec<Waker>) -> io::Result<WorkerHandle> {
    let stop = Arc::new(AtomicBool::new(false));
    let steps = Arc::new(AtomicU64::new(0));
    let core = usable_core(config.core);
    let waker = wakers.get(config.index).cloned().ok_or(io::ErrorKind::InvalidInput)?;
    let (mailbox, counters) = (worker.mailbox(), worker.counters());
    let thread = std::thread::Builder::new().name(format!("worker-{}", config.index)).spawn({
        let (stop, steps) = (stop.clone(), steps.clone());
        move || Loop::new(worker, config, wakers, steps).run(core, &stop)
    })?;
    let waker_of = waker;
    Ok(WorkerHandle { core, mailbox, counters, waker: waker_of, steps, thread: Some(thread), stop })
}

impl WorkerHandle {
    /// Ends the thread after its present step and waits for it.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a worker ended with a panic");
        }
    }

    /// Whether the thread ended by itself, which it never should.
    pub fn is_dead(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }
}

fn usable_core(core: usize) -> Option<usize> {
    rustix::thread::sched_getaffinity(None)
        .ok()
        .filter(|allowed| core < CpuSet::MAX_CPU && allowed.is_set(core))
        .map(|_| core)
}

/// Nanoseconds of CLOCK_BOOTTIME.
pub fn boot_time() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

struct Loop {
    worker: Worker,
    config: WorkerConfig,
    wakers: Vec<Waker>,
    steps: Arc<AtomicU64>,
    clock: TimeStampClock,
    now: u64,
    read_at: u64,
    idle_since: Option<u64>,
    spin: u64,
}

impl Loop {
    fn new(worker: Worker, config: WorkerConfig, wakers: Vec<Waker>, steps: Arc<AtomicU64>) -> Self {
        let mut clock = TimeStampClock;
        let read_at = clock.cycles();
        Self {
            worker,
            config,
            wakers,
            steps,
            clock,
            now: boot_time(),
            read_at,
            idle_since: None,
            spin: SPIN_MIN,
        }
    }

    fn run(mut self, core: Option<usize>, stop: &AtomicBool) {
        if let Some(core) = core {
            let mut set = CpuSet::new();
            set.set(core);
            if let Err(error) = sched_setaffinity(None, &set) {
                tracing::warn!(worker = self.config.index, core, %error, "the worker could not be pinned");
            }
        }
        let _known = self.config.uplink.enter();
        while !stop.load(Ordering::Relaxed) {
            self.read_clock();
            let progress = self.worker.step(self.now, &mut self.clock, &mut Unobserved);
            self.steps.store(self.steps.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
            if progress.wake != 0 {
                self.wake_others(progress.wake);
            }
            self.report();
            if progress.is_idle() {
                self.idle();
            } else {
                self.idle_since = None;
            }
        }
    }

    /// The clock is read every 40 microseconds; between, time stands still.
    fn read_clock(&mut self) {
        let cycles = self.clock.cycles();
        if cycles.wrapping_sub(self.read_at) >= CLOCK_CYCLES {
            self.read_at = cycles;
            self.now = boot_time();
        }
    }

    fn idle(&mut self) {
        cpu::pause();
        if self.config.idle == Idle::Poll {
            return;
        }
        let since = *self.idle_since.get_or_insert(self.now);
        if self.now.saturating_sub(since) < self.spin {
            return;
        }
        if self.worker.arm(self.now) == Armed::Ready {
            return;
        }
        let (asleep_at, asleep_cycles) = (boot_time(), self.clock.cycles());
        if let Some(waker) = self.wakers.get(self.config.index) {
            let due = self.worker.deadline().map(|due| Duration::from_nanos(due.saturating_sub(asleep_at)));
            waker.sleep(due.unwrap_or(SLEEP_MAX).min(SLEEP_MAX));
        }
        self.worker.disarm();
        self.now = boot_time();
        self.read_at = self.clock.cycles();
        self.worker.note_idle(self.read_at.wrapping_sub(asleep_cycles));
        let slept = self.now.saturating_sub(asleep_at);
        self.spin =
            if slept < SHORT_SLEEP { (self.spin * 2).min(SPIN_MAX) } else { (self.spin / 2).max(SPIN_MIN) };
        self.idle_since = Some(self.now);
    }

    #[cold]
    fn wake_others(&self, workers: u64) {
        for (index, waker) in self.wakers.iter().enumerate() {
            if workers & 1u64.wrapping_shl(index as u32) != 0 {
                waker.wake();
            }
        }
    }

    /// Passes on what the control thread must hear of.
    fn report(&mut self) {
        let mut waiting = !self.config.announcements.is_empty() || !self.config.exceptions.is_empty();
        for (queue, fault) in self.worker.take_faults() {
            // A fault that finds no room is found again by the guest's next reset.
            waiting |= self.config.faults.push(Fault { queue, fault }).is_ok();
        }
        if waiting {
            (self.config.notify_control)();
        }
    }
}

/// The port of a fault, for logs.
impl Fault {
    /// Which port it concerns.
    pub fn port(&self) -> PortIndex {
        self.queue.port
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
