//! Where front ends connect: towpathd as server.

use std::ffi::OsString;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, FileType, Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, UCred};

use crate::refusal::Refusal;

/// Connections that wait to be accepted. One front end uses a port; the rest is patience.
const BACKLOG: i32 = 16;

/// Whether a peer may connect, by its credentials at the time it connected (V-37).
pub type CredentialCheck = Box<dyn Fn(&UCred) -> bool + Send>;

/// How a socket is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// The socket's path, shorter than 108 bytes. Its folder exists.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// User and group, where they differ from towpathd's.
    pub owner: (Option<u32>, Option<u32>),
    /// How often front ends may connect.
    pub rate: ConnectRate,
}

impl ListenOptions {
    /// A socket for the same user and group only (0660).
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), mode: 0o660, owner: (None, None), rate: ConnectRate::default() }
    }
}

/// A token bucket for connections (V-30).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectRate {
    /// Connections at once.
    pub burst: u32,
    /// Time for one more.
    pub interval: Duration,
}

impl Default for ConnectRate {
    fn default() -> Self {
        Self { burst: 16, interval: Duration::from_millis(50) }
    }
}

/// A socket that could not be made. Says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The path, or the temporary name beside it, does not fit a socket address.
    #[error("socket {path}: longer than {} bytes; choose a shorter path", MAX_PATH_BYTES)]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// Something else than a socket has the name.
    #[error("socket {path}: exists and is no socket; remove it or choose another path")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Another process listens there.
    #[error("socket {path}: another process listens on it; stop it or choose another path")]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("socket {path}: {step} failed: {errno}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        errno: Errno,
    },
}

/// Bytes of a socket's path, without the terminating zero.
pub const MAX_PATH_BYTES: usize = 107;

/// A listening socket. Its file is removed when it goes, unless another process has taken the name meanwhile.
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    /// Device and inode of our file.
    identity: (u64, u64),
    rate: ConnectRate,
    tokens: u32,
    refilled: Option<Duration>,
    /// Whether the present drought was counted.
    throttled: bool,
    check: Option<CredentialCheck>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("path", &self.path)
            .field("tokens", &self.tokens)
            .finish_non_exhaustive()
    }
}

impl Listener {
    /// Makes the socket under a temporary name, gives it mode and owner, and moves it to its place: whoever sees it there
    /// sees it whole. A stale file of a process that died is replaced, a live socket or another kind of file is not.
    ///
    /// # Errors
    /// As [`ListenError`] says; nothing is left behind.
    pub fn bind(options: &ListenOptions) -> Result<Self, ListenError> {
        let path = options.path.clone();
        refuse_live(&path)?;
        let temporary = temporary_name(&path)?;
        let _leftover = rustix::fs::unlink(&temporary);
        let made = Self::make(options, &temporary).and_then(|made| {
            io(&path, "renaming the socket", rustix::fs::rename(&temporary, &path))?;
            Ok(made)
        });
        match made {
            Ok((socket, identity)) => Ok(Self {
                socket,
                path,
                identity,
                rate: options.rate,
                tokens: options.rate.burst,
                refilled: None,
                throttled: false,
                check: None,
            }),
            Err(error) => {
                let _gone = rustix::fs::unlink(&temporary);
                Err(error)
            }
        }
    }

    fn make(options: &ListenOptions, at: &Path) -> Result<(OwnedFd, (u64, u64)), ListenError> {
        let path = &options.path;
        let socket = io(path, "creating a socket", stream_socket())?;
        let address = SocketAddrUnix::new(at).map_err(|_| ListenError::PathTooLong { path: path.clone() })?;
        io(path, "binding", rustix::net::bind(&socket, &address))?;
        let (user, group) = options.owner;
        if user.is_some() || group.is_some() {
            let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
            io(path, "setting the owner", rustix::fs::chown(at, user, group))?;
        }
        let mode = Mode::from_raw_mode(options.mode);
        let flags = rustix::fs::AtFlags::empty();
        io(path, "setting the mode", rustix::fs::chmodat(CWD, at, mode, flags))?;
        io(path, "listening", rustix::net::listen(&socket, BACKLOG))?;
        let stat = io(path, "reading the socket's inode", rustix::fs::lstat(at))?;
        Ok((socket, (stat.st_dev, stat.st_ino)))
    }

    /// Has every peer's credentials judged before its connection is used.
    #[must_use]
    pub fn with_check(mut self, check: CredentialCheck) -> Self {
        self.check = Some(check);
        self
    }

    /// Takes the next connection, if there is one and the rate allows. `busy`: the port has a front end, which keeps it;
    /// the newcomer is closed.
    ///
    /// # Errors
    /// A connection was closed, or left waiting, for this reason; to be counted.
    pub fn accept(&mut self, busy: bool, now: Duration) -> Result<Option<OwnedFd>, Refusal> {
        self.refill(now);
        if self.tokens == 0 {
            if std::mem::replace(&mut self.throttled, true) {
                return Ok(None);
            }
            return Err(Refusal::ConnectRate);
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(&self.socket, flags) {
            Ok(socket) => socket,
            // Said whether or not somebody is there. If so, the connection stays in the backlog and would wake us at once:
            // look again later.
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) if self.is_awaited() => {
                self.tokens = 0;
                self.throttled = true;
                return Err(Refusal::OutOfDescriptors);
            }
            // Nobody there, or gone again.
            Err(_) => return Ok(None),
        };
        self.tokens = self.tokens.saturating_sub(1);
        if busy {
            return Err(Refusal::SecondFrontEnd);
        }
        if let Some(check) = &self.check {
            let allowed = rustix::net::sockopt::socket_peercred(&socket).is_ok_and(|peer| check(&peer));
            if !allowed {
                return Err(Refusal::Credentials);
            }
        }
        Ok(Some(socket))
    }

    /// Whether a connection waits in the backlog.
    fn is_awaited(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    fn refill(&mut self, now: Duration) {
        let since = *self.refilled.get_or_insert(now);
        let interval = self.rate.interval.as_nanos().max(1);
        let earned = now.saturating_sub(since).as_nanos().checked_div(interval).unwrap_or(0);
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(earned).min(self.rate.burst);
            self.refilled = Some(now);
            self.throttled = false;
        }
    }

    /// Whether a connection may be taken now; otherwise polling waits until [`Self::resume_at`].
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.tokens > 0
    }

    /// When the rate allows the next connection; nothing when it does now.
    #[must_use]
    pub fn resume_at(&self) -> Option<Duration> {
        if self.is_open() { None } else { self.refilled.map(|at| at.saturating_add(self.rate.interval)) }
    }

    /// The socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the file where it is: the next process listens on the same socket.
    #[must_use]
    pub fn into_socket(mut self) -> Option<OwnedFd> {
        self.identity = (0, 0);
        self.socket.try_clone().ok()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours =
            rustix::fs::lstat(&self.path).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.identity);
        if ours {
            let _gone_already = rustix::fs::unlink(&self.path);
        }
    }
}

pub(crate) fn stream_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn io<T>(path: &Path, step: &'static str, result: rustix::io::Result<T>) -> Result<T, ListenError> {
    result.map_err(|errno| ListenError::Io { path: path.to_owned(), step, errno })
}

/// Refuses a name that another process listens on, or that is no socket. A socket nobody listens on is stale.
fn refuse_live(path: &Path) -> Result<(), ListenError> {
    let stat = match rustix::fs::lstat(path) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return io(path, "looking at the path", Err(errno)),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(ListenError::NotASocket { path: path.to_owned() });
    }
    let socket = io(path, "creating a socket", stream_socket())?;
    let address =
        SocketAddrUnix::new(path).map_err(|_| ListenError::PathTooLong { path: path.to_owned() })?;
    match rustix::net::connect(&socket, &address) {
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(()),
        // Connected, or its backlog is full, or it is of another kind or not ours to reach: somebody's.
        _ => Err(ListenError::InUse { path: path.to_owned() }),
    }
}

/// A name beside the socket's, as short as its own or shorter for any usual name.
fn temporary_name(path: &Path) -> Result<PathBuf, ListenError> {
    use std::os::unix::ffi::OsStrExt;
    let too_long = || ListenError::PathTooLong { path: path.to_owned() };
    let name = path.file_name().ok_or_else(too_long)?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    let temporary = path.with_file_name(hidden);
    if path.as_os_str().as_bytes().len() >= MAX_PATH_BYTES {
        return Err(too_long());
    }
    Ok(temporary)
}
