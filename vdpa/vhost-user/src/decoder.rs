//! Cuts a byte stream into messages, without a socket.
//!
//! A stream gives any number of bytes at a time, and descriptors with the byte they were sent with. The decoder hands
//! out the space for exactly the bytes that the current message still lacks, so that descriptors of the next message
//! cannot arrive early. Descriptors belong to the first byte of a message; anywhere else they are refused.

use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::message::{HEADER_BYTES, Header, Message, descriptor_counts};
use crate::refusal::Refusal;

/// How long half a message may lie there (V-01, V-31). Front ends write a message with one system call.
pub const STALL_DEADLINE: Duration = Duration::from_secs(5);

/// The state between two reads.
#[derive(Debug, Default)]
pub struct Decoder {
    header: [u8; HEADER_BYTES],
    parsed: Option<Header>,
    payload: Vec<u8>,
    /// Bytes of the header, then of the payload, that are there.
    filled: usize,
    fds: Vec<OwnedFd>,
    /// Time of the message's first byte.
    begun: Option<Duration>,
}

impl Decoder {
    /// A decoder at a message boundary.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The room for the bytes that the current message still lacks; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        let filled = self.filled;
        let whole: &mut [u8] = if self.parsed.is_some() { &mut self.payload } else { &mut self.header };
        whole.get_mut(filled..).unwrap_or_default()
    }

    /// Takes note that `count` bytes were written to the front of [`Self::space`], and that `fds` came with the first of
    /// them. Gives the message if it is whole now.
    ///
    /// # Errors
    /// The stream is not to be read any further; the descriptors held here are closed when the decoder goes.
    pub fn advance(
        &mut self,
        count: usize,
        fds: Vec<OwnedFd>,
        now: Duration,
    ) -> Result<Option<Message>, Refusal> {
        if !fds.is_empty() && (self.begun.is_some() || count == 0) {
            return Err(Refusal::DescriptorPosition);
        }
        if count == 0 {
            return Ok(None);
        }
        self.fds.extend(fds);
        self.begun.get_or_insert(now);
        self.filled = self.filled.saturating_add(count);
        let header = match self.parsed {
            Some(header) => header,
            None if self.filled < HEADER_BYTES => return Ok(None),
            None => {
                let header = Header::parse(&self.header)?;
                self.parsed = Some(header);
                self.payload = vec![0; header.size];
                self.filled = 0;
                header
            }
        };
        if self.filled < header.size {
            return Ok(None);
        }
        let message = self.take(header);
        if !descriptor_counts(&message).contains(&message.fds.len()) {
            return Err(Refusal::DescriptorCount);
        }
        Ok(Some(message))
    }

    fn take(&mut self, header: Header) -> Message {
        let whole = std::mem::take(self);
        Message {
            request: header.request,
            need_reply: header.need_reply,
            payload: whole.payload,
            fds: whole.fds,
        }
    }

    /// When the message begun must be whole; nothing at a message boundary.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.begun.map(|begun| begun.saturating_add(STALL_DEADLINE))
    }

    /// Whether a message was begun and is not whole.
    #[must_use]
    pub fn is_mid_message(&self) -> bool {
        self.begun.is_some()
    }

    /// Feeds bytes of any number, for owners without a socket (tests, the simulator, fuzzing). `fds` come with the first
    /// byte.
    ///
    /// # Errors
    /// As [`Self::advance`].
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut fds: Vec<OwnedFd>,
        now: Duration,
    ) -> Result<Vec<Message>, Refusal> {
        let mut messages = Vec::new();
        while !bytes.is_empty() {
            let space = self.space();
            let count = space.len().min(bytes.len());
            let (head, rest) = bytes.split_at_checked(count).unwrap_or((bytes, &[]));
            if let Some(room) = space.get_mut(..count) {
                room.copy_from_slice(head);
            }
            bytes = rest;
            messages.extend(self.advance(count, std::mem::take(&mut fds), now)?);
        }
        Ok(messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::encode;
    use vhost::vhost_user::message::FrontendReq;

    const NOW: Duration = Duration::from_secs(1);

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_message_may_come_in_any_pieces() {
        let bytes = [
            encode(FrontendReq::SET_FEATURES.into(), 1, &7u64.to_ne_bytes()),
            encode(FrontendReq::GET_FEATURES.into(), 9, &[]),
        ]
        .concat();
        for cut in 0..=bytes.len() {
            let mut decoder = Decoder::new();
            let mut messages = decoder.feed(&bytes[..cut], Vec::new(), NOW).unwrap();
            assert_eq!(decoder.is_mid_message(), ![0, 20, 32].contains(&cut), "cut at {cut}");
            messages.extend(decoder.feed(&bytes[cut..], Vec::new(), NOW).unwrap());
            assert_eq!(messages.len(), 2);
            assert_eq!(messages[0].payload, 7u64.to_ne_bytes());
            assert!(messages[1].need_reply && !messages[0].need_reply);
            assert_eq!(decoder.deadline(), None);
        }
    }

    #[test]
    fn descriptors_belong_to_the_first_byte() {
        let bytes = encode(FrontendReq::SET_VRING_KICK.into(), 1, &0u64.to_ne_bytes());
        let mut decoder = Decoder::new();
        decoder.feed(&bytes[..1], vec![null()], NOW).unwrap();
        assert_eq!(decoder.deadline(), Some(NOW + STALL_DEADLINE));
        assert_eq!(decoder.feed(&bytes[1..], Vec::new(), NOW).unwrap()[0].fds.len(), 1);
        let mut decoder = Decoder::new();
        decoder.feed(&bytes[..1], Vec::new(), NOW).unwrap();
        assert_eq!(decoder.feed(&bytes[1..], vec![null()], NOW).unwrap_err(), Refusal::DescriptorPosition);
    }

    #[test]
    fn headers_are_refused_by_name() {
        let try_header = |request: u32, flags: u32, size: u32| {
            let bytes: Vec<u8> = [request, flags, size].iter().flat_map(|v| v.to_ne_bytes()).collect();
            Decoder::new().feed(&bytes, Vec::new(), NOW).map(|m| m.len())
        };
        assert_eq!(try_header(1, 1, 0), Ok(1));
        assert_eq!(try_header(1, 0, 0), Err(Refusal::Version));
        assert_eq!(try_header(1, 2, 0), Err(Refusal::Version));
        assert_eq!(try_header(1, 5, 0), Err(Refusal::HeaderFlags));
        assert_eq!(try_header(1, 0x11, 0), Err(Refusal::HeaderFlags));
        assert_eq!(try_header(0, 1, 0), Err(Refusal::UnknownRequest));
        assert_eq!(try_header(45, 1, 0), Err(Refusal::UnknownRequest));
        for size in [1, 8, u32::MAX] {
            assert_eq!(try_header(1, 1, size), Err(Refusal::PayloadSize));
        }
        for size in [0, 7, 9, 4097, u32::MAX] {
            assert_eq!(try_header(FrontendReq::SET_FEATURES.into(), 1, size), Err(Refusal::PayloadSize));
        }
    }
}
