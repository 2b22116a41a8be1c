//! TCP transfers of a known pattern, each on a thread of its own, their progress readable at any time.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::Progress;
use crate::pattern::{Checksum, Pattern};

/// Bytes moved between two looks at the clock and the progress.
const PIECE: usize = 32 * 1024;

/// A transfer, seen from outside.
#[derive(Clone, Debug, Default)]
pub struct Job(Arc<Mutex<Progress>>);

impl Job {
    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn update(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Run `work` on a thread; its end and its error become part of the progress.
    fn start(work: impl FnOnce(&Job) -> io::Result<()> + Send + 'static) -> Job {
        let job = Job::default();
        let inside = job.clone();
        thread::spawn(move || {
            let result = work(&inside);
            inside.update(|p| {
                p.error = result.err().map(|e| e.to_string());
                p.done = true;
            });
        });
        job
    }
}

/// Receive from the first that connects. It listens when this returns.
///
/// # Errors
/// It cannot listen there.
pub fn receive(listen: SocketAddr) -> io::Result<Job> {
    let listener = TcpListener::bind(listen)?;
    Ok(Job::start(move |job| {
        let (mut stream, _) = listener.accept()?;
        let mut piece = vec![0; PIECE];
        let mut sum = Checksum::default();
        loop {
            let length = stream.read(&mut piece)?;
            if length == 0 {
                return Ok(());
            }
            sum.update(&piece[..length]);
            job.update(|p| {
                p.bytes += length as u64;
                p.checksum = sum.value();
            });
        }
    }))
}

/// Connect and send `bytes` of the pattern of `seed`, at most at the given rate.
#[must_use]
pub fn send(to: SocketAddr, bytes: u64, seed: u64, bytes_per_second: Option<u64>) -> Job {
    Job::start(move |job| {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
        let mut pattern = Pattern::new(seed);
        let mut sum = Checksum::default();
        let mut piece = vec![0; PIECE];
        let begin = Instant::now();
        let mut sent = 0_u64;
        while sent < bytes {
            let length = PIECE.min(usize::try_from(bytes - sent).unwrap_or(PIECE));
            pattern.fill(&mut piece[..length]);
            sum.update(&piece[..length]);
            stream.write_all(&piece[..length])?;
            sent += length as u64;
            job.update(|p| {
                p.bytes = sent;
                p.checksum = sum.value();
            });
            if let Some(rate) = bytes_per_second {
                let due = Duration::from_secs_f64(sent as f64 / rate.max(1) as f64);
                thread::sleep(due.saturating_sub(begin.elapsed()));
            }
        }
        Ok(())
    })
}
