//! The protocol between a test and the agent inside its QEMU guest.
//!
//! One JSON value per line over the guest's second serial port: the test writes a [`Request`], the agent answers it with one
//! [`Reply`] before it reads the next. What takes time (a TCP transfer) becomes a job that the test asks about later, so that
//! nothing waits on the serial line while a guest is migrated or its switch restarted. The first line the agent writes is
//! [`Reply::Ready`].

pub mod crowd;
pub mod pattern;
pub mod transfer;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What a test asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Run a shell command to its end. Answered by [`Reply::Exited`].
    Run {
        /// Text for `sh -c`.
        command: String,
    },
    /// Fill memory with a pattern and keep it. Answered by [`Reply::Checksum`].
    FillMemory {
        /// Size in bytes.
        bytes: usize,
        /// Decides the pattern.
        seed: u64,
    },
    /// The checksum of the kept memory as it is now. Answered by [`Reply::Checksum`].
    MemoryChecksum,
    /// Listen, and receive from the first that connects until it closes. Answered by [`Reply::Job`] once it listens.
    Receive {
        /// Where to listen; port 0 is refused by nobody, so give one.
        listen: SocketAddr,
    },
    /// Connect and send a pattern. Answered by [`Reply::Job`] at once.
    Send {
        /// Whom to.
        to: SocketAddr,
        /// How much, in bytes.
        bytes: u64,
        /// Decides the pattern.
        seed: u64,
        /// At most this many bytes a second; flat out when absent.
        bytes_per_second: Option<u64>,
    },
    /// Answer every byte of every connection with one that says who it is, for ever. Answered by [`Reply::Ready`] once it listens.
    Serve {
        /// Where to listen.
        listen: SocketAddr,
        /// Who it is: a letter.
        name: char,
    },
    /// Open connections, keep them and ask all who they are. Answered by [`Reply::Crowd`].
    OpenCrowd {
        /// Whom to.
        to: SocketAddr,
        /// How many.
        count: usize,
    },
    /// Ask all that were opened who they are. Answered by [`Reply::Crowd`].
    AskCrowd,
    /// How far a job is. Answered by [`Reply::Progress`].
    Progress {
        /// The job, from [`Reply::Job`].
        job: usize,
    },
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// The agent runs: sent once, unasked. Or it does what was asked for.
    Ready,
    /// A command ended.
    Exited(Exited),
    /// A checksum, as [`pattern::Checksum`] counts it.
    Checksum {
        /// Its value.
        checksum: u64,
    },
    /// A job was started.
    Job {
        /// Its number.
        job: usize,
    },
    /// How far a job is.
    Progress(Progress),
    /// How many connections were answered by whom; `-`: by nobody.
    Crowd {
        /// By who it is.
        counts: crowd::Counts,
    },
    /// The request could not be done.
    Refused {
        /// Why.
        reason: String,
    },
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// Its exit status, or 128 + the signal that ended it, as a shell has it.
    pub status: i32,
    /// What it wrote.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

/// How far a transfer is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes moved so far.
    pub bytes: u64,
    /// Checksum of the bytes moved so far.
    pub checksum: u64,
    /// Whether it has ended, well or not.
    pub done: bool,
    /// What went wrong, if something did.
    pub error: Option<String>,
}
