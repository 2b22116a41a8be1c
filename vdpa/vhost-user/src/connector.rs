//! towpathd as client: connects to a front end that listens, again and again.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::SocketAddrUnix;

use crate::listener::stream_socket;

/// Pause after the first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Tries to connect at a growing distance of time.
#[derive(Debug)]
pub struct Connector {
    path: PathBuf,
    pause: Duration,
    /// Time of the last attempt.
    attempted: Option<Duration>,
    last_error: Option<Errno>,
}

impl Connector {
    /// To the front end's socket.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), pause: FIRST_PAUSE, attempted: None, last_error: None }
    }

    /// Connects if it is time to. Never blocks: a Unix socket connects at once or not at all.
    pub fn connect(&mut self, now: Duration) -> Option<OwnedFd> {
        match self.attempted {
            Some(_) if now < self.next_attempt() => return None,
            Some(_) => self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE),
            None => {}
        }
        self.attempted = Some(now);
        match self.attempt() {
            Ok(socket) => {
                self.last_error = None;
                Some(socket)
            }
            Err(errno) => {
                self.last_error = Some(errno);
                None
            }
        }
    }

    fn attempt(&self) -> rustix::io::Result<OwnedFd> {
        let address = SocketAddrUnix::new(&self.path)?;
        let socket = stream_socket()?;
        rustix::net::connect(&socket, &address)?;
        Ok(socket)
    }

    /// The connection was of use (a queue ran): when it ends, the next attempt comes soon. A front end that closes at once
    /// is asked at growing distances, as one that is not there.
    pub fn lasted(&mut self) {
        self.pause = FIRST_PAUSE;
    }

    /// When to call [`Self::connect`] next; zero before the first attempt.
    #[must_use]
    pub fn next_attempt(&self) -> Duration {
        self.attempted.map_or(Duration::ZERO, |attempted| attempted.saturating_add(self.pause))
    }

    /// Why the last attempt failed.
    #[must_use]
    pub fn last_error(&self) -> Option<Errno> {
        self.last_error
    }

    /// The front end's socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}
