//! Running a generator in a thread of its own while this one does the timing.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    affinity,
    attach::{AttachConfig, AttachError, Attachment, Role, open},
    clock::Clock,
    frame::Endpoint,
    generator::{Control, Generator, GeneratorError, Load, Phase, Report},
    guest::Guest,
};

/// Why a session failed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Attaching.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Sending and receiving.
    #[error(transparent)]
    Generator(#[from] GeneratorError),
    /// Pinning.
    #[error("{0}")]
    Core(#[from] std::io::Error),
    /// A signal asked to end.
    #[error("interrupted")]
    Interrupted,
    /// The generator's thread panicked (the message is on standard error).
    #[error("the generator's thread panicked")]
    Panicked,
}

/// Set by SIGINT, SIGTERM and SIGHUP, and looked at in every wait.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Registers the signals. A second one ends the process at once.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn on_signals() -> std::io::Result<Self> {
        let this = Self::default();
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP]
        {
            // In this order: the first signal finds the flag clear and sets it, the second finds it set.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&this.0))?;
            signal_hook::flag::register(signal, Arc::clone(&this.0))?;
        }
        Ok(this)
    }

    /// Whether a signal came.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Waits, but not longer than until a signal comes.
    ///
    /// # Errors
    ///
    /// [`SessionError::Interrupted`].
    pub fn sleep(&self, time: Duration) -> Result<(), SessionError> {
        let end = Instant::now() + time;
        loop {
            if self.is_set() {
                return Err(SessionError::Interrupted);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
}

/// Attaches one guest per socket. With [`Role::Server`] all of them listen at once, for back ends that connect in an
/// order of their own.
///
/// # Errors
///
/// [`SessionError::Attach`].
pub fn attach(
    sockets: &[PathBuf],
    endpoints: &[Endpoint],
    role: Role,
    config: &AttachConfig,
    patience: Duration,
) -> Result<Vec<Guest>, SessionError> {
    attach_each(sockets, endpoints, role, &vec![*config; sockets.len()], patience)
}

/// The same with a configuration for each.
///
/// # Errors
///
/// [`SessionError::Attach`].
pub fn attach_each(
    sockets: &[PathBuf],
    endpoints: &[Endpoint],
    role: Role,
    configs: &[AttachConfig],
    patience: Duration,
) -> Result<Vec<Guest>, SessionError> {
    let results: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = sockets
            .iter()
            .zip(configs)
            .map(|(path, config)| scope.spawn(move || attach_one(path, role, config, patience)))
            .collect();
        handles.into_iter().map(|handle| handle.join().map_err(|_| SessionError::Panicked)).collect()
    });
    let mut guests = Vec::new();
    for (index, result) in results.into_iter().enumerate() {
        let endpoint = |at: usize| endpoints.get(at).copied().unwrap_or(Endpoint::numbered(at as u8));
        guests.push(Guest::attached(result??, endpoint(index), endpoint(index ^ 1)));
    }
    Ok(guests)
}

/// Attaches one guest. A back end that has not noticed yet that the last front end is gone turns the next one away; that
/// is tried again, as a VMM does.
fn attach_one(
    path: &Path,
    role: Role,
    config: &AttachConfig,
    patience: Duration,
) -> Result<Attachment, AttachError> {
    let deadline = Instant::now() + patience;
    loop {
        match Attachment::new(open(path, role, patience)?, config) {
            Err(AttachError::Message { message: "SET_OWNER" | "GET_FEATURES", .. })
                if Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(50));
            }
            other => return other,
        }
    }
}

/// When the parts of a run begin and end.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Sent but not counted.
    pub warm: Duration,
    /// Counted.
    pub measure: Duration,
}

/// Calls made from the timing thread while the generator sends.
pub trait Hooks {
    /// Before counting starts: reset the switch's counters.
    ///
    /// # Errors
    ///
    /// Whatever ends the run.
    fn before(&mut self) -> Result<(), SessionError>;
    /// After counting ended, still sending: read the switch's counters.
    ///
    /// # Errors
    ///
    /// Whatever ends the run.
    fn after(&mut self) -> Result<(), SessionError>;
}

impl Hooks for () {
    fn before(&mut self) -> Result<(), SessionError> {
        Ok(())
    }
    fn after(&mut self) -> Result<(), SessionError> {
        Ok(())
    }
}

/// Runs the generator on `core` for one measurement.
///
/// # Errors
///
/// [`SessionError`]; the generator's thread has ended in any case.
pub fn measure(
    generator: &mut Generator,
    load: &Load,
    core: usize,
    timing: Timing,
    interrupt: &Interrupt,
    hooks: &mut impl Hooks,
) -> Result<Report, SessionError> {
    let control = Control::default();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            affinity::pin(core)?;
            Ok::<Report, SessionError>(generator.run(load, &control)?)
        });
        let conducted = conduct(&control, timing, interrupt, hooks);
        control.enter(Phase::Stop);
        let report = running.join().map_err(|_| SessionError::Panicked)??;
        conducted.map(|()| report)
    })
}

fn conduct(
    control: &Control,
    timing: Timing,
    interrupt: &Interrupt,
    hooks: &mut impl Hooks,
) -> Result<(), SessionError> {
    interrupt.sleep(timing.warm)?;
    hooks.before()?;
    control.enter(Phase::Measure);
    interrupt.sleep(timing.measure)?;
    control.enter(Phase::Linger);
    hooks.after()
}

/// A generator over freshly attached guests.
///
/// # Errors
///
/// [`SessionError`].
pub fn generator(guests: Vec<Guest>, clock: Clock) -> Result<Generator, SessionError> {
    Ok(Generator::new(guests, clock)?)
}
