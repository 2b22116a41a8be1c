//! The test's end of the agent in a guest: requests out, replies in, over the guest's second serial port.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
pub use towpath_guest_agent::crowd::Counts;
pub use towpath_guest_agent::{Exited, Progress, Reply, Request};

use crate::{Result, interrupt, wait};

/// How long an ordinary answer may take: a guest is some twenty times slower than its host, and may share a core.
const ANSWER: Duration = Duration::from_secs(30);

/// How long a read lasts before we look whether somebody wants us to stop.
const LOOK_UP: Duration = Duration::from_millis(200);

/// A transfer that runs in a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job(usize);

/// A connection to an agent.
#[derive(Debug)]
pub struct Agent {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Agent {
    /// Connect to the socket that QEMU made of the serial port.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(socket: &Path) -> Result<Self> {
        let writer =
            UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
        let reader = BufReader::new(writer.try_clone()?);
        Ok(Self { reader, writer })
    }

    /// Wait for the line the agent writes when it starts.
    ///
    /// # Errors
    /// It does not come in time.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        match self.read_reply(limit)? {
            Reply::Ready => Ok(()),
            other => bail!("the agent began with {other:?}"),
        }
    }

    /// Run a shell command to its end, whatever that is.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn run_any(&mut self, command: &str, limit: Duration) -> Result<Exited> {
        match self.ask(&Request::Run { command: command.to_owned() }, limit)? {
            Reply::Exited(exited) => Ok(exited),
            other => bail!("{command}: unexpected answer {other:?}"),
        }
    }

    /// Run a shell command that must succeed; returns what it wrote.
    ///
    /// # Errors
    /// It fails, or the agent does not answer.
    pub fn run(&mut self, command: &str) -> Result<String> {
        let exited = self.run_any(command, ANSWER)?;
        if exited.status != 0 {
            bail!("{command}: status {}: {}{}", exited.status, exited.stdout, exited.stderr);
        }
        Ok(exited.stdout)
    }

    /// Start a shell command that the agent will not live to answer for: a reboot, a crash.
    ///
    /// # Errors
    /// QEMU is gone.
    pub fn run_and_forget(&mut self, command: &str) -> Result<()> {
        self.write(&Request::Run { command: command.to_owned() })
    }

    /// Fill `bytes` of the guest's memory with the pattern of `seed` and return their checksum.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn fill_memory(&mut self, bytes: usize, seed: u64) -> Result<u64> {
        self.checksum(&Request::FillMemory { bytes, seed })
    }

    /// The checksum of that memory now.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn memory_checksum(&mut self) -> Result<u64> {
        self.checksum(&Request::MemoryChecksum)
    }

    fn checksum(&mut self, request: &Request) -> Result<u64> {
        match self.ask(request, ANSWER)? {
            Reply::Checksum { checksum } => Ok(checksum),
            other => bail!("{request:?}: unexpected answer {other:?}"),
        }
    }

    /// Listen, and receive from the first that connects.
    ///
    /// # Errors
    /// It cannot listen there.
    pub fn receive(&mut self, listen: SocketAddr) -> Result<Job> {
        self.job(&Request::Receive { listen })
    }

    /// Connect and send `bytes` of the pattern of `seed`.
    ///
    /// # Errors
    /// The agent does not answer; a failure of the transfer is in its progress.
    pub fn send(
        &mut self,
        to: SocketAddr,
        bytes: u64,
        seed: u64,
        bytes_per_second: Option<u64>,
    ) -> Result<Job> {
        self.job(&Request::Send { to, bytes, seed, bytes_per_second })
    }

    /// Answer every byte of every connection with `name`, for ever.
    ///
    /// # Errors
    /// It cannot listen there.
    pub fn serve(&mut self, listen: SocketAddr, name: char) -> Result<()> {
        match self.ask(&Request::Serve { listen, name }, ANSWER)? {
            Reply::Ready => Ok(()),
            other => bail!("serve {listen}: unexpected answer {other:?}"),
        }
    }

    /// Open `count` connections, keep them, and ask each who answers; how many by whom, `-` is nobody.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn open_crowd(&mut self, to: SocketAddr, count: usize, limit: Duration) -> Result<Counts> {
        self.crowd(&Request::OpenCrowd { to, count }, limit)
    }

    /// Ask all connections that were opened who answers.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn ask_crowd(&mut self, limit: Duration) -> Result<Counts> {
        self.crowd(&Request::AskCrowd, limit)
    }

    fn crowd(&mut self, request: &Request, limit: Duration) -> Result<Counts> {
        match self.ask(request, limit)? {
            Reply::Crowd { counts } => Ok(counts),
            other => bail!("{request:?}: unexpected answer {other:?}"),
        }
    }

    fn job(&mut self, request: &Request) -> Result<Job> {
        match self.ask(request, ANSWER)? {
            Reply::Job { job } => Ok(Job(job)),
            other => bail!("{request:?}: unexpected answer {other:?}"),
        }
    }

    /// How far a transfer is.
    ///
    /// # Errors
    /// The transfer failed, or the agent does not answer.
    pub fn progress(&mut self, job: Job) -> Result<Progress> {
        match self.ask(&Request::Progress { job: job.0 }, ANSWER)? {
            Reply::Progress(Progress { error: Some(error), bytes, .. }) => {
                bail!("transfer failed after {bytes} bytes: {error}")
            }
            Reply::Progress(progress) => Ok(progress),
            other => bail!("progress: unexpected answer {other:?}"),
        }
    }

    /// Wait until a transfer has moved `bytes` in all.
    ///
    /// # Errors
    /// It fails, ends before, or takes too long.
    pub fn until_moved(&mut self, job: Job, bytes: u64, limit: Duration) -> Result<Progress> {
        wait::until(&format!("{bytes} bytes of a transfer"), limit, || {
            let progress = self.progress(job)?;
            if progress.done && progress.bytes < bytes {
                bail!("the transfer ended after {} bytes", progress.bytes);
            }
            Ok((progress.bytes >= bytes).then_some(progress))
        })
    }

    /// Wait until a transfer has ended well.
    ///
    /// # Errors
    /// It fails or takes too long.
    pub fn until_done(&mut self, job: Job, limit: Duration) -> Result<Progress> {
        wait::until("the end of a transfer", limit, || {
            let progress = self.progress(job)?;
            Ok(progress.done.then_some(progress))
        })
    }

    fn write(&mut self, request: &Request) -> Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.writer.write_all(&line).with_context(|| format!("send {request:?} to the agent"))
    }

    fn ask(&mut self, request: &Request, limit: Duration) -> Result<Reply> {
        self.write(request)?;
        match self.read_reply(limit).with_context(|| format!("after {request:?}"))? {
            Reply::Refused { reason } => bail!("the agent refused {request:?}: {reason}"),
            reply => Ok(reply),
        }
    }

    fn read_reply(&mut self, limit: Duration) -> Result<Reply> {
        let end = Instant::now() + limit;
        let mut line = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!(
                    "the agent was silent for {} s; it began {:?}",
                    limit.as_secs_f32(),
                    String::from_utf8_lossy(&line)
                );
            }
            interrupt::check()?;
            self.writer.set_read_timeout(Some(left.min(LOOK_UP)))?;
            match self.reader.read_until(b'\n', &mut line) {
                Ok(0) => bail!("QEMU closed the agent's line"),
                Ok(_) if line.last() == Some(&b'\n') => {
                    return serde_json::from_slice(&line)
                        .with_context(|| format!("the agent wrote {:?}", String::from_utf8_lossy(&line)));
                }
                Ok(_) => {}
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(e) => return Err(e).context("read from the agent"),
            }
        }
    }
}
