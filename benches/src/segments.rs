//! Large sends in pieces: cut before they are sent, as a guest without TSO does or a host behind a wire did, and put together again where they arrive.
//!
//! All sends of a port are one TCP stream: a segment's sequence number says which bytes of which send it holds. The last segment of a send has PSH set.
//! However many segments a switch has joined or cut, a send counts once, when all its bytes are there.

use virtio_driver::{MemoryError, SharedMemory};

use crate::frame::{FIELDS, LARGE_SEND, MSS, Receiver, SEGMENTS, SendFields, TCP_HEADERS, sum_at};

const PSH_ACK: u8 = 0x18;
const ACK: u8 = 0x10;

/// The send that is being cut.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cutting {
    /// Its segments that were written.
    written: u32,
    fields: SendFields,
}

/// What the writer of a segment's headers must know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Next {
    /// TCP's sequence number.
    pub(crate) tcp_sequence: u32,
    /// TCP's flags.
    pub(crate) flags: u8,
    /// Of the payload, as a sum of 16-bit words in network order that is not folded yet.
    pub(crate) sum: u32,
}

impl Cutting {
    /// Segments of a send that was begun.
    pub(crate) const fn written(self) -> usize {
        self.written as usize
    }

    /// Whether the next segment is a send's first.
    pub(crate) const fn at_start(self) -> bool {
        self.written == 0
    }

    /// A new send, of which nothing is written.
    pub(crate) const fn begin(&mut self, fields: SendFields) {
        self.fields = fields;
    }

    /// Writes the payload of the next segment, a part of `word` over and over; all bytes are stored.
    pub(crate) fn write(&self, memory: &SharedMemory, address: u64, word: u64) -> Result<Next, MemoryError> {
        let mss = usize::from(MSS);
        // Segments begin in the middle of a word by turns.
        let word = if self.written % 2 == 1 { word.rotate_right(32) } else { word };
        let (mut at, mut sum) = (0, 0);
        if self.written == 0 {
            let (first, stamp) = self.fields.words();
            memory.write_array(address, &first.to_le_bytes())?;
            memory.write_array(address + 8, &stamp.to_le_bytes())?;
            (at, sum) = (FIELDS, halves(first) + halves(stamp));
        }
        let tail = mss - at;
        memory.fill_words(address + at as u64, tail, word)?;
        sum += halves(word) * (tail / 8) as u64 + halves(word & 0xffff_ffff) * u64::from(tail % 8 != 0);
        let folded = fold(sum).swap_bytes();
        let sequence = self.fields.sequence.wrapping_mul(LARGE_SEND);
        Ok(Next {
            tcp_sequence: sequence.wrapping_add(self.written * u32::from(MSS)),
            flags: if self.written + 1 == SEGMENTS { PSH_ACK } else { ACK },
            sum: u32::from(folded),
        })
    }

    /// The segment is written; returns whether the send is.
    pub(crate) const fn advance(&mut self) -> bool {
        self.written = if self.written + 1 == SEGMENTS { 0 } else { self.written + 1 };
        self.written == 0
    }

    /// The last segment was not sent; returns whether it was a send's last.
    pub(crate) const fn take_back(&mut self) -> bool {
        let last = self.written == 0;
        self.written = if last { SEGMENTS - 1 } else { self.written - 1 };
        last
    }
}

/// The four 16-bit halves of a word, as they lie in memory, added up.
const fn halves(word: u64) -> u64 {
    (word & 0xffff) + (word >> 16 & 0xffff) + (word >> 32 & 0xffff) + (word >> 48)
}

/// RFC 1071's sum.
pub(crate) const fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A send that arrives in pieces.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Reassembly {
    fields: SendFields,
    sum: u64,
    /// Payload bytes that are there; 0 before the first piece and after a missing one.
    at: u32,
}

impl Reassembly {
    /// Takes a TCP packet: one segment, some that were joined, or a whole send. The send counts at `receiver` with its last byte.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] when the packet is not in the memory.
    pub(crate) fn take(
        &mut self,
        receiver: &mut Receiver,
        memory: &SharedMemory,
        parts: &[(u64, u32)],
    ) -> Result<Option<(u32, u64)>, MemoryError> {
        let Some((&(address, part), rest)) = parts.split_first() else { return Ok(None) };
        if (part as usize) < TCP_HEADERS + FIELDS {
            receiver.tally.foreign += 1;
            return Ok(None);
        }
        let headers: [u8; TCP_HEADERS] = memory.read_array(address)?;
        if headers[23] != 6 || !receiver.is_between(&headers) {
            receiver.tally.foreign += 1;
            return Ok(None);
        }
        receiver.tally.pieces += 1;
        let tcp_sequence = u32::from_be_bytes([headers[38], headers[39], headers[40], headers[41]]);
        let total = u32::from(u16::from_be_bytes([headers[16], headers[17]]));
        let due = receiver.expected().wrapping_mul(LARGE_SEND);
        let offset = tcp_sequence.wrapping_sub(due) % LARGE_SEND;
        let mut left = total.saturating_sub(40);
        if offset == 0 {
            *self = Self { fields: SendFields::read(memory, address + TCP_HEADERS as u64)?, sum: 0, at: 0 };
        } else if offset != self.at {
            self.at = 0;
            return Ok(None);
        }
        let first = (address + TCP_HEADERS as u64, part - TCP_HEADERS as u32);
        for &(address, len) in std::iter::once(&first).chain(rest) {
            let len = len.min(left);
            self.add(memory, address, len)?;
            left -= len;
        }
        if left > 0 || self.at > LARGE_SEND {
            receiver.tally.corrupt += 1;
            self.at = 0;
            return Ok(None);
        }
        Ok(if self.at == LARGE_SEND { receiver.take_whole(self.fields, self.sum) } else { None })
    }

    /// Adds bytes of payload to the sum, which begins behind our own fields.
    fn add(&mut self, memory: &SharedMemory, address: u64, len: u32) -> Result<(), MemoryError> {
        let fields = if self.at == 0 { SendFields::LENGTH.min(len) } else { 0 };
        let (address, rest) = (address + u64::from(fields), (len - fields) as usize);
        let covered = (self.at + fields).saturating_sub(SendFields::LENGTH) as usize;
        self.sum = self.sum.wrapping_add(sum_at(memory, address, rest, covered)?);
        self.at += len;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use virtio_driver::MemoryOptions;

    use super::*;
    use crate::frame::{Endpoint, Payload, Ports, Sender, Sizes};

    const SLOT: u64 = 2048;

    fn stream() -> (SharedMemory, Sender, Receiver) {
        let memory = SharedMemory::new(1 << 20, MemoryOptions::default()).unwrap();
        let (a, b) = (Endpoint::numbered(0), Endpoint::numbered(1));
        let sizes: Sizes = "64K".parse().unwrap();
        let sender = Sender::new(a, b, &sizes, 1, Ports::First, u32::MAX - 1).cut();
        (memory, sender, Receiver::new(a, b, 1, Ports::First, u32::MAX - 1, Payload::Whole))
    }

    fn segments(memory: &SharedMemory, sender: &mut Sender) -> Vec<(u64, u32)> {
        (0..u64::from(SEGMENTS))
            .map(|n| (4096 + n * SLOT, sender.write(memory, 4096 + n * SLOT, 77).unwrap().1))
            .collect()
    }

    #[test]
    fn sends_are_cut_into_right_segments_and_count_once_they_are_whole() {
        let (memory, mut sender, mut receiver) = stream();
        let mut reassembly = Reassembly::default();
        for send in 0..3u32 {
            let sequence = (u32::MAX - 1).wrapping_add(send);
            assert_eq!(sender.sequence(), sequence);
            let pieces = segments(&memory, &mut sender);
            for (n, &(address, len)) in pieces.iter().enumerate() {
                assert_eq!(len, 1514);
                let bytes = memory.read_vec(address, len as usize).unwrap();
                let words = |from: usize, to: usize| {
                    bytes[from..to]
                        .chunks(2)
                        .map(|c| u64::from(u16::from_be_bytes([c[0], c[1]])))
                        .sum::<u64>()
                };
                assert_eq!(fold(words(14, 34)), 0xffff, "IPv4 checksum");
                let pseudo = words(26, 34) + 6 + u64::from(len - 34);
                assert_eq!(fold(words(34, len as usize) + pseudo), 0xffff, "TCP checksum of segment {n}");
                assert_eq!(bytes[47], if n == 43 { PSH_ACK } else { ACK });
                let taken = reassembly.take(&mut receiver, &memory, &[(address, len)]).unwrap();
                assert_eq!(taken, (n == 43).then_some((sequence, 77)));
            }
        }
        let tally = receiver.tally;
        assert_eq!((tally.frames, tally.pieces, tally.lost, tally.corrupt, tally.foreign), (3, 132, 0, 0, 0));
    }

    #[test]
    fn joined_segments_count_as_well_and_changed_or_missing_ones_do_not() {
        let (memory, mut sender, mut receiver) = stream();
        let mut reassembly = Reassembly::default();
        let pieces = segments(&memory, &mut sender);
        // The first ten as one packet in parts of odd lengths.
        let (address, len) = pieces[0];
        let mut parts = vec![(address, 101), (address + 101, len - 101)];
        parts.extend(pieces[1..10].iter().map(|&(address, len)| (address + 54, len - 54)));
        memory.write(address + 16, &(40u16 + 14600).to_be_bytes()).unwrap();
        assert_eq!(reassembly.take(&mut receiver, &memory, &parts).unwrap(), None);
        let mut rest = |receiver: &mut Receiver, from: usize| {
            let mut last = None;
            for piece in &pieces[from..] {
                last = reassembly.take(receiver, &memory, &[*piece]).unwrap();
            }
            last
        };
        assert_eq!(rest(&mut receiver, 10), Some((u32::MAX - 1, 77)));
        assert_eq!(receiver.tally.pieces, 35);
        // One is missing: the send never counts.
        assert_eq!(rest(&mut receiver, 11), None);
        assert_eq!((receiver.tally.frames, receiver.tally.corrupt), (1, 0));
        // A changed byte in the middle of the next send.
        let pieces = segments(&memory, &mut sender);
        let at = pieces[20].0 + 500;
        let byte = memory.read_vec(at, 1).unwrap()[0];
        memory.write(at, &[byte ^ 1]).unwrap();
        for piece in pieces {
            assert_eq!(reassembly.take(&mut receiver, &memory, &[piece]).unwrap(), None);
        }
        assert_eq!((receiver.tally.frames, receiver.tally.corrupt), (1, 1));
    }

    #[test]
    fn what_was_not_sent_is_written_again() {
        let (memory, mut sender, mut receiver) = stream();
        let mut reassembly = Reassembly::default();
        for n in 0..2 * SEGMENTS {
            sender.write(&memory, 4096, 5).unwrap();
            sender.take_back();
            let (_, len) = sender.write(&memory, 4096, 5).unwrap();
            let taken = reassembly.take(&mut receiver, &memory, &[(4096, len)]).unwrap();
            assert_eq!(taken.is_some(), n % SEGMENTS == SEGMENTS - 1);
        }
        assert_eq!(receiver.tally.frames, 2);
    }
}
