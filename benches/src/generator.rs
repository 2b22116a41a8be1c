//! The generator's loop: receive, check, send, on one thread for all ports.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use hdrhistogram::Histogram;
use serde::Serialize;
use virtio_driver::RxError;

use crate::{
    clock::Clock,
    frame::{Endpoint, Payload, Sizes, Tally},
    guest::{BURST, Guest, Latency},
};

/// How fast to send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// As fast as what was sent is delivered: never more under way than receive buffers are posted for.
    Max,
    /// Open loop: so many frames per second over all ports together, whatever comes back.
    PerSecond(f64),
}

/// Who of a pair of ports sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Senders {
    /// Both.
    #[default]
    Both,
    /// The first.
    First,
    /// The second.
    Second,
}

impl Senders {
    const fn includes(self, port: usize) -> bool {
        match self {
            Self::Both => true,
            Self::First => port.is_multiple_of(2),
            Self::Second => !port.is_multiple_of(2),
        }
    }
}

/// What to send.
#[derive(Debug, Clone)]
pub struct Load {
    /// Frame sizes.
    pub sizes: Sizes,
    /// Different 5-tuples per direction.
    pub flows: u32,
    /// The second of each pair answers the first: the same flows, seen from the other end. Else it has flows of its own.
    pub answers: bool,
    /// How fast.
    pub rate: Rate,
    /// At most so many frames under way per direction.
    pub in_flight: Option<usize>,
    /// Who of each pair sends.
    pub senders: Senders,
    /// Record the latency of every n-th frame (a power of two).
    pub latency_every: u32,
    /// What of an arriving frame is read and checked.
    pub payload: Payload,
}

/// Where a run is; another thread moves it on.
#[derive(Debug, Default)]
pub struct Control(AtomicU8);

/// A run's parts, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Sending, not counted.
    Warm,
    /// Counted.
    Measure,
    /// Sending, no longer counted.
    Linger,
    /// Nothing new is sent; what is under way is awaited.
    Stop,
}

impl Control {
    /// Moves the run on.
    pub fn enter(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Release);
    }

    fn phase(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            0 => Phase::Warm,
            1 => Phase::Measure,
            2 => Phase::Linger,
            _ => Phase::Stop,
        }
    }
}

/// Latency in nanoseconds from the intended send time to the frame's discovery in the receive ring.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct LatencySummary {
    /// Frames recorded.
    pub samples: u64,
    /// Median.
    pub p50: u64,
    /// 99 of 100.
    pub p99: u64,
    /// 999 of 1,000.
    pub p999: u64,
    /// The slowest.
    pub max: u64,
    /// How many took more than a millisecond.
    pub above_1ms: u64,
}

/// What a run measured.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Report {
    /// Seconds counted.
    pub seconds: f64,
    /// Frames handed to the back end.
    pub sent: u64,
    /// What arrived.
    #[serde(flatten)]
    pub received: Tally,
    /// Frames received per second, all ports together, in millions.
    pub mpps: f64,
    /// Gigabits per second received, ring bytes (no FCS, preamble or gap).
    pub gbps: f64,
    /// Open loop: frames whose time had come but that found no room in the ring.
    pub backlog: u64,
    /// Latency.
    pub latency: LatencySummary,
    /// Times the generator itself stood still, which explain as many slow frames.
    pub stalls: Stalls,
}

/// Pauses of the generator's own loop of more than 100 us: its thread did not run.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Stalls {
    /// How many.
    pub count: u64,
    /// The longest, ns.
    pub longest: u64,
    /// How many of more than 0.9 ms: a frame that waited for one took about a millisecond or more.
    pub above_900us: u64,
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum GeneratorError {
    /// Ports come in pairs.
    #[error("{0} ports: an even number is needed, neighbours send to each other")]
    Odd(usize),
    /// A back end broke a ring.
    #[error("port {port}: {error}")]
    Ring {
        /// Which port, from 0.
        port: usize,
        /// What is wrong.
        error: RxError,
    },
}

/// Guests in pairs: 0 and 1 send to each other, 2 and 3, and so on.
pub struct Generator {
    guests: Vec<Guest>,
    clock: Clock,
}

/// Nothing received for this long with a full window: what is under way is lost.
const STALL: Duration = Duration::from_millis(100);
/// A turn that takes longer than this was interrupted.
const PAUSE: Duration = Duration::from_micros(100);
/// One that makes a frame take a millisecond.
const LONG_PAUSE: Duration = Duration::from_micros(900);
/// How long a stopping run waits for what is under way.
const DRAIN: Duration = Duration::from_millis(50);

/// The moving parts of one run.
struct Run<'a> {
    load: &'a Load,
    start: u64,
    interval: f64,
    /// Per guest: frames sent since the start, and when its peer last received one.
    sent: Vec<u64>,
    progress: Vec<u64>,
    stall: u64,
    /// Pauses of the loop itself, in ticks: above which they count, how many and the longest, and when it last went round.
    pause: u64,
    long_pause: u64,
    pauses: Stalls,
    last: u64,
}

impl Run<'_> {
    /// Called every turn, which takes microseconds.
    #[inline]
    fn notice_pause(&mut self) {
        let now = cpu::time_stamp();
        let pause = now.saturating_sub(std::mem::replace(&mut self.last, now));
        if pause > self.pause {
            self.pauses.count += 1;
            self.pauses.longest = self.pauses.longest.max(pause);
            self.pauses.above_900us += u64::from(pause > self.long_pause);
        }
    }
}

impl Generator {
    /// A generator over guests, in pairs.
    ///
    /// # Errors
    ///
    /// [`GeneratorError::Odd`].
    pub fn new(guests: Vec<Guest>, clock: Clock) -> Result<Self, GeneratorError> {
        if guests.is_empty() || !guests.len().is_multiple_of(2) {
            return Err(GeneratorError::Odd(guests.len()));
        }
        Ok(Self { guests, clock })
    }

    /// Gives the guests back, to be detached.
    #[must_use]
    pub fn into_guests(self) -> Vec<Guest> {
        self.guests
    }

    /// Sends until `control` says stop, and reports what was counted in [`Phase::Measure`].
    ///
    /// # Errors
    ///
    /// [`GeneratorError::Ring`].
    pub fn run(&mut self, load: &Load, control: &Control) -> Result<Report, GeneratorError> {
        self.prepare(load);
        let mut latency = self.latency(load);
        let mut run = self.start(load);
        let mut counted: Option<(u64, u64, Tally)> = None;
        let mut report = Report::default();
        loop {
            let phase = control.phase();
            if phase == Phase::Measure && counted.is_none() {
                latency.histogram.reset();
                run.pauses = Stalls::default();
                counted = Some((cpu::time_stamp(), self.sent(), self.tally()));
            }
            if phase >= Phase::Linger
                && let Some(before) = counted.take()
            {
                report = self.report(before, &latency, &run);
            }
            if phase == Phase::Stop {
                break;
            }
            for _ in 0..64 {
                self.turn(&mut run, &mut latency)?;
                run.notice_pause();
            }
        }
        self.drain(&mut latency)?;
        Ok(report)
    }

    fn prepare(&mut self, load: &Load) {
        let endpoints: Vec<(Endpoint, u32)> =
            self.guests.iter().map(|g| (g.me, g.sender.sequence())).collect();
        // Answers have the numbers of what they answer.
        let numbers = |index: usize| endpoints.get(if load.answers { index & !1 } else { index });
        for (index, guest) in self.guests.iter_mut().enumerate() {
            if let (Some(&(peer, _)), Some(&(_, own)), Some(&(_, expected))) =
                (endpoints.get(index ^ 1), numbers(index), numbers(index ^ 1))
            {
                guest.load(peer, load, index % 2 == 1, (own, expected));
            }
        }
    }

    fn latency(&self, load: &Load) -> Latency {
        #[expect(clippy::expect_used, reason = "constants")]
        let histogram =
            Histogram::new_with_bounds(1, 10_000_000_000, 2).expect("two digits from 1 ns to 10 s are valid");
        Latency { histogram, clock: self.clock, mask: load.latency_every.max(1).next_power_of_two() - 1 }
    }

    fn start<'a>(&self, load: &'a Load) -> Run<'a> {
        let now = cpu::time_stamp();
        let interval = match load.rate {
            Rate::Max => 0.0,
            Rate::PerSecond(rate) => self.clock.hertz() * self.guests.len() as f64 / rate,
        };
        let n = self.guests.len();
        Run {
            load,
            start: now,
            interval,
            sent: vec![0; n],
            progress: vec![now; n],
            stall: self.clock.ticks(STALL),
            pause: self.clock.ticks(PAUSE),
            long_pause: self.clock.ticks(LONG_PAUSE),
            pauses: Stalls::default(),
            last: now,
        }
    }

    /// Every guest receives, then every guest sends.
    #[inline]
    fn turn(&mut self, run: &mut Run<'_>, latency: &mut Latency) -> Result<(), GeneratorError> {
        for guest in &self.guests {
            guest.prefetch();
        }
        for (port, guest) in self.guests.iter_mut().enumerate() {
            let received = guest.receive(latency).map_err(|error| GeneratorError::Ring { port, error })?;
            if received > 0
                && let Some(progress) = run.progress.get_mut(port ^ 1)
            {
                *progress = cpu::time_stamp();
            }
        }
        for port in 0..self.guests.len() {
            if !run.load.senders.includes(port) {
                continue;
            }
            match run.load.rate {
                Rate::Max => self.send_max(port, run),
                Rate::PerSecond(_) => self.send_due(port, run),
            }
            .map_err(|error| GeneratorError::Ring { port, error })?;
        }
        Ok(())
    }

    fn under_way(&self, port: usize) -> usize {
        match (self.guests.get(port), self.guests.get(port ^ 1)) {
            (Some(from), Some(to)) => from.under_way(to),
            _ => 0,
        }
    }

    #[inline]
    fn send_max(&mut self, port: usize, run: &mut Run<'_>) -> Result<(), RxError> {
        let under_way = self.under_way(port);
        let Some(guest) = self.guests.get_mut(port) else { return Ok(()) };
        let window = run.load.in_flight.unwrap_or(usize::MAX).min(guest.window());
        let mut count = guest.sender.frames(window.saturating_sub(under_way)).min(BURST);
        if run.load.answers && port % 2 == 1 {
            // What it was asked and has not answered.
            let owed = guest.receiver.expected().wrapping_sub(guest.sender.sequence()) as i32;
            count = count.min(owed.max(0) as usize);
        }
        // Small bursts cost the switch more per frame than waiting for a larger one costs us.
        if count == 0 || (count < BURST / 2 && window > BURST) {
            return self.check_stall(port, run);
        }
        let now = cpu::time_stamp();
        guest.send(count, |_| now)?;
        Ok(())
    }

    fn check_stall(&mut self, port: usize, run: &mut Run<'_>) -> Result<(), RxError> {
        let now = cpu::time_stamp();
        let Some(progress) = run.progress.get_mut(port) else { return Ok(()) };
        if now.saturating_sub(*progress) > run.stall {
            *progress = now;
            let sequence = self.guests.get(port).map_or(0, |g| g.sender.sequence());
            if let Some(peer) = self.guests.get_mut(port ^ 1) {
                peer.give_up(sequence);
            }
        }
        Ok(())
    }

    #[inline]
    fn send_due(&mut self, port: usize, run: &mut Run<'_>) -> Result<(), RxError> {
        let (Some(guest), Some(sent)) = (self.guests.get_mut(port), run.sent.get_mut(port)) else {
            return Ok(());
        };
        let elapsed = cpu::time_stamp().saturating_sub(run.start);
        let due = (elapsed as f64 / run.interval) as u64;
        let count = due.saturating_sub(*sent).min(BURST as u64) as usize;
        if count > 0 {
            let (start, interval, first) = (run.start, run.interval, *sent);
            let stamp = |i: usize| start + ((first + i as u64 + 1) as f64 * interval) as u64;
            *sent += guest.send(count, stamp)? as u64;
        }
        Ok(())
    }

    fn sent(&self) -> u64 {
        self.guests.iter().map(|guest| guest.sent).sum()
    }

    fn tally(&self) -> Tally {
        self.guests.iter().fold(Tally::default(), |sum, guest| sum + guest.receiver.tally)
    }

    fn report(&self, before: (u64, u64, Tally), latency: &Latency, run: &Run<'_>) -> Report {
        let (start, sent, tally) = before;
        let now = cpu::time_stamp();
        let seconds = (now - start) as f64 / self.clock.hertz();
        let received = self.tally() - tally;
        let backlog = match run.load.rate {
            Rate::Max => 0,
            Rate::PerSecond(_) => {
                let due = ((now - run.start) as f64 / run.interval) as u64;
                run.sent.iter().map(|sent| due.saturating_sub(*sent)).sum()
            }
        };
        let h = &latency.histogram;
        Report {
            seconds,
            sent: self.sent() - sent,
            received,
            mpps: received.frames as f64 / seconds / 1e6,
            gbps: received.bytes as f64 * 8.0 / seconds / 1e9,
            backlog,
            latency: LatencySummary {
                samples: h.len(),
                p50: h.value_at_quantile(0.5),
                p99: h.value_at_quantile(0.99),
                p999: h.value_at_quantile(0.999),
                max: h.max(),
                above_1ms: h.count_between(1_000_000, u64::MAX),
            },
            stalls: Stalls { longest: self.clock.nanoseconds(run.pauses.longest), ..run.pauses },
        }
    }

    /// Awaits what is under way; what does not come is given up, so that the next run starts clean.
    fn drain(&mut self, latency: &mut Latency) -> Result<(), GeneratorError> {
        let deadline = cpu::time_stamp() + self.clock.ticks(DRAIN);
        while (0..self.guests.len()).any(|port| self.under_way(port) > 0) && cpu::time_stamp() < deadline {
            for (port, guest) in self.guests.iter_mut().enumerate() {
                guest.receive(latency).map_err(|error| GeneratorError::Ring { port, error })?;
            }
        }
        for port in 0..self.guests.len() {
            let sequence = self.guests.get(port).map_or(0, |guest| guest.sender.sequence());
            if let Some(peer) = self.guests.get_mut(port ^ 1) {
                peer.give_up(sequence);
            }
        }
        Ok(())
    }
}
