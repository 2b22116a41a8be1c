//! A Unix stream that carries messages and their descriptors, never blocking.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::decoder::Decoder;
use crate::message::{MAX_TABLE_REGIONS, Message, Outgoing};
use crate::refusal::Refusal;
use crate::session::CloseReason;

/// Room for descriptors in one read: more than any message carries, so that one too many is still seen as such. What
/// does not fit the kernel closes, and says so.
const RECEIVED_DESCRIPTORS: usize = MAX_TABLE_REGIONS + 1;
/// Descriptors in one reply.
const SENT_DESCRIPTORS: usize = 1;
/// Bytes of replies that may wait for a front end that does not read. Far more than one that waits for each reply needs.
const MAX_UNSENT_BYTES: usize = 64 * 1024;

/// One read's result.
#[derive(Debug)]
pub enum Received {
    /// A whole message.
    Message(Message),
    /// Nothing more to read now.
    Nothing,
}

/// The stream.
#[derive(Debug)]
pub struct Transport {
    socket: OwnedFd,
    decoder: Decoder,
    unsent: VecDeque<Outgoing>,
    unsent_bytes: usize,
    /// Bytes of the first of `unsent` that are sent.
    sent: usize,
}

impl Transport {
    /// A stream at a message boundary.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self::resume(socket, Decoder::new())
    }

    /// A stream of which a message's beginning was already read.
    #[must_use]
    pub fn resume(socket: OwnedFd, decoder: Decoder) -> Self {
        Self { socket, decoder, unsent: VecDeque::new(), unsent_bytes: 0, sent: 0 }
    }

    /// The socket and what was read of the next message; unsent replies are dropped (send them first).
    #[must_use]
    pub fn into_parts(self) -> (OwnedFd, Decoder) {
        (self.socket, self.decoder)
    }

    /// Reads until a message is whole or nothing is left. Reads no byte beyond the message's end.
    ///
    /// # Errors
    /// The stream is over; what is left of it must be closed.
    pub fn receive(&mut self, now: Duration) -> Result<Received, CloseReason> {
        loop {
            let mut room = [MaybeUninit::uninit(); cmsg_space!(ScmRights(RECEIVED_DESCRIPTORS))];
            let mut control = RecvAncillaryBuffer::new(&mut room);
            let mut space = [IoSliceMut::new(self.decoder.space())];
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let received = match rustix::net::recvmsg(&self.socket, &mut space, &mut control, flags) {
                Ok(received) => received,
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(Errno::INTR) => continue,
                Err(Errno::CONNRESET) => return Err(CloseReason::Disconnected),
                Err(errno) => return Err(CloseReason::Io(errno)),
            };
            let mut fds = Vec::new();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    fds.extend(rights);
                }
            }
            if received.flags.contains(ReturnFlags::CTRUNC) {
                // Fewer than there is room for: the kernel had no numbers left to give.
                let ours = fds.len() < RECEIVED_DESCRIPTORS;
                let refusal = if ours { Refusal::OutOfDescriptors } else { Refusal::AncillaryTruncated };
                return Err(CloseReason::Refused(refusal));
            }
            if received.bytes == 0 {
                return Err(CloseReason::Disconnected);
            }
            match self.decoder.advance(received.bytes, fds, now) {
                Ok(Some(message)) => return Ok(Received::Message(message)),
                Ok(None) => {}
                Err(refusal) => return Err(CloseReason::Refused(refusal)),
            }
        }
    }

    /// Sends a reply, or keeps it until the socket takes it.
    ///
    /// # Errors
    /// The stream is over: the front end is gone, or reads no replies.
    pub fn send(&mut self, outgoing: Outgoing) -> Result<(), CloseReason> {
        self.unsent_bytes = self.unsent_bytes.saturating_add(outgoing.bytes.len());
        self.unsent.push_back(outgoing);
        self.flush()?;
        if self.unsent_bytes > MAX_UNSENT_BYTES {
            return Err(CloseReason::Refused(Refusal::Unread));
        }
        Ok(())
    }

    /// Sends what was kept, as far as the socket takes it.
    ///
    /// # Errors
    /// The stream is over.
    pub fn flush(&mut self) -> Result<(), CloseReason> {
        while let Some(first) = self.unsent.front_mut() {
            let bytes = first.bytes.get(self.sent..).unwrap_or_default();
            let mut room = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SENT_DESCRIPTORS))];
            let mut control = SendAncillaryBuffer::new(&mut room);
            let fds: Vec<BorrowedFd<'_>> = first.fds.iter().map(AsFd::as_fd).collect();
            if !fds.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(&fds));
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, flags) {
                Ok(count) => {
                    drop(fds);
                    // They went with the first byte.
                    first.fds.clear();
                    self.sent = self.sent.saturating_add(count);
                    self.unsent_bytes = self.unsent_bytes.saturating_sub(count);
                    if self.sent >= first.bytes.len() {
                        self.unsent.pop_front();
                        self.sent = 0;
                    }
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(CloseReason::Disconnected),
                Err(errno) => return Err(CloseReason::Io(errno)),
            }
        }
        Ok(())
    }

    /// Whether something waits for the socket to become writable.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// When the message begun must be whole; nothing at a message boundary.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.decoder.deadline()
    }

    /// Whether the front end has closed its end and everything it sent was read. Costs no byte.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        matches!(rustix::net::recv(&self.socket, &mut [0u8; 1], flags), Ok((0, _)) | Err(Errno::CONNRESET))
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
