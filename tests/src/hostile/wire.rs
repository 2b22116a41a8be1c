//! vhost-user messages as bytes, sent and received without any opinion on them.

use std::io::{ErrorKind, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
pub use vhost::vhost_user::message::FrontendReq as Request;

use crate::Result;

/// Header flags: protocol version 1.
pub const VERSION: u32 = 1;
/// Header flags: this is a reply.
pub const REPLY: u32 = 4;
/// Header flags: a reply is wanted.
pub const NEED_REPLY: u32 = 8;
/// In the payload of SET_VRING_KICK, CALL and ERR: no descriptor comes along.
pub const NO_DESCRIPTOR: u64 = 0x100;
/// Descriptors that one message can carry at most (the kernel's `SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = 253;
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);

/// The bytes of numbers, as payloads have them.
#[must_use]
pub fn u32s(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// The bytes of numbers, as payloads have them.
#[must_use]
pub fn u64s(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// A whole message: request number, flags, payload.
#[must_use]
pub fn message(request: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    [u32s(&[request, flags, size]), payload.to_vec()].concat()
}

/// A reply.
#[derive(Debug)]
pub struct Reply {
    /// What it answers.
    pub request: u32,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Descriptors that came with it.
    pub fds: Vec<OwnedFd>,
}

impl Reply {
    /// The payload as one number.
    ///
    /// # Errors
    /// It has another length.
    pub fn number(&self) -> Result<u64> {
        let bytes = self.payload.as_slice().try_into();
        Ok(u64::from_ne_bytes(bytes.map_err(|_| anyhow!("{} bytes are no number", self.payload.len()))?))
    }
}

/// A connection to a port's socket.
#[derive(Debug)]
pub struct Wire(UnixStream);

impl Wire {
    /// Connect.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream =
            UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(ANSWER))?;
        Ok(Self(stream))
    }

    /// Send bytes with descriptors attached to the first of them; whether the other end took them.
    #[must_use]
    pub fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        let mut room = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut room);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return false;
        }
        rustix::net::sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
            == Ok(bytes.len())
    }

    /// Send a message that asks for no acknowledgement; whether the other end took it.
    #[must_use]
    pub fn send(&self, request: Request, payload: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        self.send_bytes(&message(request.into(), VERSION, payload), fds)
    }

    /// Read the next reply.
    ///
    /// # Errors
    /// None comes, or something that is none.
    pub fn reply(&self) -> Result<Reply> {
        let mut header = [0; 12];
        let mut room = [MaybeUninit::uninit(); cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut room);
        let mut parts = [IoSliceMut::new(&mut header)];
        let received = rustix::net::recvmsg(&self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
            .context("read a reply")?;
        ensure!(received.bytes != 0, "the connection was closed instead of a reply");
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        (&self.0).read_exact(header.get_mut(received.bytes..).unwrap_or_default())?;
        let word = |at: usize| -> Result<u32> {
            let bytes = header.get(at..at + 4).context("a header of 12 bytes")?;
            Ok(u32::from_ne_bytes(bytes.try_into()?))
        };
        let (request, flags, size) = (word(0)?, word(4)?, word(8)?);
        ensure!(flags == VERSION | REPLY, "a reply has the flags {flags:#x}");
        ensure!(size <= 4096, "a reply of {size} bytes");
        let mut payload = vec![0; size as usize];
        (&self.0).read_exact(&mut payload).context("read a reply's payload")?;
        Ok(Reply { request, payload, fds })
    }

    /// Send a message whose reply is a value, and read that.
    ///
    /// # Errors
    /// There is none.
    pub fn ask(&self, request: Request, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Reply> {
        ensure!(self.send(request, payload, fds), "{request:?} was not taken");
        self.answer(request)
    }

    fn answer(&self, request: Request) -> Result<Reply> {
        let reply = self.reply().with_context(|| format!("{request:?}"))?;
        ensure!(reply.request == u32::from(request), "{request:?} was answered as {}", reply.request);
        Ok(reply)
    }

    /// Send a message that wants an acknowledgement (REPLY_ACK is negotiated); its value, 0 for done.
    ///
    /// # Errors
    /// None comes.
    pub fn acknowledged(&self, request: Request, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<u64> {
        let bytes = message(request.into(), VERSION | NEED_REPLY, payload);
        ensure!(self.send_bytes(&bytes, fds), "{request:?} was not taken");
        self.answer(request)?.number()
    }

    /// Send a message that must be done.
    ///
    /// # Errors
    /// It is refused.
    pub fn done(&self, request: Request, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        match self.acknowledged(request, payload, fds)? {
            0 => Ok(()),
            code => bail!("{request:?} was refused ({code})"),
        }
    }

    /// Send a message that must be refused while the connection stays.
    ///
    /// # Errors
    /// It is done, or the connection ends.
    pub fn refused(&self, request: Request, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        match self.acknowledged(request, payload, fds)? {
            0 => bail!("{request:?} was done: {payload:02x?}"),
            _ => Ok(()),
        }
    }

    /// Wait until the other end has closed the connection; replies before that are read and dropped.
    ///
    /// # Errors
    /// It does not within `limit`.
    pub fn until_closed(&self, limit: Duration) -> Result<()> {
        let begin = Instant::now();
        self.0.set_read_timeout(Some(Duration::from_millis(50)))?;
        let mut rest = [0; 4096];
        let closed = loop {
            match (&self.0).read(&mut rest) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => break true,
            }
            if begin.elapsed() > limit {
                break false;
            }
        };
        self.0.set_read_timeout(Some(ANSWER))?;
        ensure!(closed, "the connection stayed open for {limit:?}");
        Ok(())
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
