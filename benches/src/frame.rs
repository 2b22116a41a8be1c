//! What the generator sends: frames that carry a sequence number, the time they were meant to leave and a checksum over
//! their payload.
//!
//! A frame is Ethernet, IPv4 and UDP (42 bytes, no checksum) or, for 64 KB, TCP (54 bytes, partial checksum, TSO),
//! then 16 bytes of ours and a pattern that differs from frame to frame:
//!
//! | bytes after the headers | what |
//! |---|---|
//! | 0..4 | sequence number of the sending port |
//! | 4..8 | checksum of everything behind the headers, this field as zero |
//! | 8..16 | intended send time, time stamp counter |
//! | 16.. | 8-byte words derived from the sequence number |

use std::{fmt, net::Ipv4Addr, str::FromStr};

use virtio_driver::{MemoryError, NetHeader, RxFrame, SharedMemory};

use crate::{segments::Cutting, template::Template, wire::OUTER};

/// Bytes of our own fields behind the headers.
pub(crate) const FIELDS: usize = 16;
/// Ethernet, IPv4 and UDP.
pub(crate) const UDP_HEADERS: usize = 42;
/// Ethernet, IPv4 and TCP without options.
pub(crate) const TCP_HEADERS: usize = 54;
/// Longest prefix built in private memory before it is written, and the one of UDP frames.
const PREFIX: usize = TCP_HEADERS + FIELDS;
const UDP_PREFIX: usize = UDP_HEADERS + FIELDS;
/// TCP payload per segment of a 64 KB send, and how many of them.
pub(crate) const MSS: u16 = 1460;
pub(crate) const SEGMENTS: u32 = 44;
/// TCP payload of a large send.
pub(crate) const LARGE_SEND: u32 = SEGMENTS * MSS as u32;

/// A frame of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameKind {
    /// Bytes on the ring: from the destination MAC to the last byte of payload, no FCS.
    pub len: u32,
    /// One TCP send to be segmented (TSO) instead of a UDP packet.
    pub tso: bool,
}

/// The sizes of a run, taken in turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    name: String,
    cycle: Vec<FrameKind>,
}

impl Sizes {
    /// Sizes as people name them, for the help.
    pub const HELP: &'static str = "Frame size as testpmd and RFC 2544 name it, with 4 bytes of FCS that no virtual \
        ring carries: 64 puts 60 bytes into the ring, 1518 puts 1514, any number from 64 to 9018. 64K: one TCP send of \
        64294 bytes (54 of headers, 44 segments of 1460) with TSO. IMIX: 7 x 64, 4 x 570, 1 x 1518";

    /// The frames to send in turn.
    #[must_use]
    pub fn cycle(&self) -> &[FrameKind] {
        &self.cycle
    }

    /// The longest frame's bytes on the ring.
    #[must_use]
    pub fn longest(&self) -> u32 {
        self.cycle.iter().map(|kind| kind.len).max().unwrap_or(60)
    }

    /// Whether segmentation is used.
    #[must_use]
    pub fn tso(&self) -> bool {
        self.cycle.iter().any(|kind| kind.tso)
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self { name: "64".to_string(), cycle: vec![FrameKind { len: 60, tso: false }] }
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |size: u32| FrameKind { len: size - 4, tso: false };
        let cycle = match text.to_ascii_uppercase().as_str() {
            "64K" | "64KB" => {
                vec![FrameKind { len: TCP_HEADERS as u32 + SEGMENTS * u32::from(MSS), tso: true }]
            }
            "IMIX" => [64, 570, 64, 64, 570, 64, 1518, 64, 570, 64, 64, 570].map(plain).to_vec(),
            number => match number.parse() {
                Ok(size @ 64..=9018) => vec![plain(size)],
                _ => return Err(format!("size {text:?}: use a number from 64 to 9018, 64K or IMIX")),
            },
        };
        Ok(Self { name: text.to_string(), cycle })
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Who a port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its address.
    pub ip: Ipv4Addr,
}

impl Endpoint {
    /// Port `index`'s default: 02:00:00:00:01:0a and 10.0.1.10 for the first, counting up.
    #[must_use]
    pub fn numbered(index: u8) -> Self {
        Self {
            mac: [2, 0, 0, 0, 1, index.wrapping_add(10)],
            ip: Ipv4Addr::new(10, 0, 1, index.wrapping_add(10)),
        }
    }

    /// The MAC address as people write it.
    #[must_use]
    pub fn mac_text(&self) -> String {
        self.mac.map(|byte| format!("{byte:02x}")).join(":")
    }
}

/// Which flow a sequence number belongs to: the remainder, without a division (Lemire, Kaser, Kurz 2019).
#[derive(Debug, Clone, Copy)]
struct Flows {
    count: u32,
    reciprocal: u64,
}

impl Flows {
    fn new(count: u32) -> Self {
        let count = count.max(1);
        Self { count, reciprocal: (u64::MAX / u64::from(count)).wrapping_add(1) }
    }

    #[inline]
    fn of(self, sequence: u32) -> u32 {
        let fraction = self.reciprocal.wrapping_mul(u64::from(sequence));
        ((u128::from(fraction) * u128::from(self.count)) >> 64) as u32
    }
}

/// How the frames of one of a pair's two directions are numbered: each flow has ports of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// From 1024 on.
    First,
    /// From 33000 on: other flows than those of [`Ports::First`].
    Second,
    /// The same as in [`Ports::First`] with source and destination changed over: answers to them.
    Answers,
}

impl Ports {
    /// Those of one of a pair's two ends: both send flows of their own, or the odd one answers.
    #[must_use]
    pub const fn of_end(odd: bool, answers: bool) -> Self {
        match (odd, answers) {
            (false, _) => Self::First,
            (true, false) => Self::Second,
            (true, true) => Self::Answers,
        }
    }

    /// Source and destination of a flow. Flows count up through destination ports in steps of 1,024 source ports.
    #[inline]
    const fn of(self, flow: u32) -> (u16, u16) {
        let first: u16 = if matches!(self, Self::Second) { 33_000 } else { 1024 };
        let (low, high) = (first.wrapping_add((flow & 1023) as u16), first.wrapping_add((flow >> 10) as u16));
        if matches!(self, Self::Answers) { (high, low) } else { (low, high) }
    }
}

/// What guests do with the bytes of a frame that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Payload {
    /// Each is read and checked, as by a program that uses the data.
    #[default]
    Whole,
    /// None is read, as with testpmd's `net_pcap`: frames are counted as they come.
    Unread,
    /// They are read, but not checked, nor is anything else: for the null back end, which delivers no bytes.
    Unchecked,
}

/// Writes the frames of one direction.
#[derive(Debug, Clone)]
pub struct Sender {
    templates: Vec<Template>,
    flows: Flows,
    ports: Ports,
    sequence: u32,
    /// Set if large sends leave in segments.
    cutting: Option<Cutting>,
}

impl Sender {
    /// Frames from one endpoint to another.
    #[must_use]
    pub fn new(from: Endpoint, to: Endpoint, sizes: &Sizes, flows: u32, ports: Ports, sequence: u32) -> Self {
        let templates = sizes.cycle().iter().map(|&kind| Template::new(from, to, kind)).collect();
        Self { templates, flows: Flows::new(flows), ports, sequence, cutting: None }
    }

    /// The same, but its large sends leave in segments of a TCP stream, each with its checksum: [`Sender::write`] writes one of them.
    #[must_use]
    pub fn cut(mut self) -> Self {
        for template in self.templates.iter_mut().filter(|template| template.kind.tso) {
            template.become_segment();
        }
        self.cutting = Some(Cutting::default());
        self
    }

    /// How many frames so many more sends are: a send that was begun is one of them.
    #[must_use]
    pub(crate) const fn frames(&self, sends: usize) -> usize {
        match self.cutting {
            Some(cutting) => (sends * SEGMENTS as usize).saturating_sub(cutting.written()),
            None => sends,
        }
    }

    /// Whether all it sends are large sends.
    #[must_use]
    pub(crate) fn is_large(&self) -> bool {
        self.templates.iter().all(|template| template.kind.tso)
    }

    /// Puts these before each frame, by the frame's length.
    pub fn set_outer(&mut self, outer: impl Fn(usize) -> Option<[u8; OUTER]>) {
        self.templates.iter_mut().for_each(|template| template.outer = outer(template.kind.len as usize));
    }

    /// The sequence number of the next frame.
    #[must_use]
    pub const fn sequence(&self) -> u32 {
        self.sequence
    }

    /// The frame written last was not sent: the next one takes its number.
    pub(crate) const fn take_back(&mut self) {
        let whole = match &mut self.cutting {
            Some(cutting) => cutting.take_back(),
            None => true,
        };
        self.sequence = self.sequence.wrapping_sub(whole as u32);
    }

    /// Writes the next frame to `address`; returns its net header and length. All bytes are stored.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] when it does not fit the memory.
    #[inline]
    pub fn write(
        &mut self,
        memory: &SharedMemory,
        address: u64,
        stamp: u64,
    ) -> Result<(NetHeader, u32), MemoryError> {
        let sequence = self.sequence;
        let count = self.templates.len();
        let Some(template) = self.templates.get(if count == 1 { 0 } else { sequence as usize % count })
        else {
            return Err(MemoryError::Exhausted { wanted: 0, left: 0 });
        };
        let (headers, len) = (template.headers, template.kind.len as usize);
        let (source, destination) = self.ports.of(self.flows.of(sequence));
        let word = pattern(sequence);
        if let Some(cutting) = &mut self.cutting {
            if cutting.at_start() {
                cutting.begin(SendFields::of_large_send(sequence, stamp));
            }
            let frame = template.write_segment(memory, address, (source, destination), cutting, word)?;
            self.sequence = sequence.wrapping_add(u32::from(cutting.advance()));
            return Ok(frame);
        }
        let tail = len - headers - FIELDS;
        let check = fold(payload_sum(sequence, stamp).wrapping_add(pattern_sum(word, tail)));
        // Straight into guest memory, piece over piece: a prefix patched on the stack could only be loaded again once all
        // earlier stores have left the store buffer, and those wait for lines that the switch holds.
        let outer = template.write_headers(memory, address, (source, destination))?;
        let address = address + u64::from(outer);
        if headers == TCP_HEADERS {
            let tcp_sequence = sequence.wrapping_mul(LARGE_SEND);
            memory.write_array(address + 38, &tcp_sequence.to_be_bytes())?;
        }
        let fields = u64::from(sequence) | u64::from(check) << 32;
        memory.write_array(address + headers as u64, &fields.to_le_bytes())?;
        memory.write_array(address + headers as u64 + 8, &stamp.to_le_bytes())?;
        memory.fill_words(address + (headers + FIELDS) as u64, tail, word)?;
        self.sequence = sequence.wrapping_add(1);
        Ok((template.net, template.kind.len + outer))
    }
}

#[inline]
const fn pattern(sequence: u32) -> u64 {
    (sequence as u64 ^ 0x5a5a_0000_0000).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The sum of our own fields with a zero checksum.
#[inline]
const fn payload_sum(sequence: u32, stamp: u64) -> u64 {
    (sequence as u64).wrapping_add(stamp)
}

/// What [`SharedMemory::sum`] makes of `len` bytes that [`SharedMemory::fill_words`] wrote.
#[inline]
const fn pattern_sum(word: u64, len: usize) -> u64 {
    let rest = word & ((1u64 << (8 * (len % 8))) - 1);
    word.wrapping_mul((len / 8) as u64).wrapping_add(rest)
}

#[inline]
const fn fold(sum: u64) -> u32 {
    (sum ^ sum >> 32) as u32
}

/// What became of the frames of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// Frames received that were sent by the peer port.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Sequence numbers that never came (late ones are taken off again).
    pub lost: u64,
    /// Frames behind a later one.
    pub reordered: u64,
    /// Frames whose payload or 5-tuple is not what was sent.
    pub corrupt: u64,
    /// Frames that are nobody's or another port's.
    pub foreign: u64,
    /// Packets that large sends arrived in, where they are put together again.
    pub pieces: u64,
}

impl std::ops::Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            frames: self.frames + other.frames,
            bytes: self.bytes + other.bytes,
            lost: self.lost + other.lost,
            reordered: self.reordered + other.reordered,
            corrupt: self.corrupt + other.corrupt,
            foreign: self.foreign + other.foreign,
            pieces: self.pieces + other.pieces,
        }
    }
}

impl std::ops::Sub for Tally {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            frames: self.frames - before.frames,
            bytes: self.bytes - before.bytes,
            lost: self.lost.saturating_sub(before.lost),
            reordered: self.reordered - before.reordered,
            corrupt: self.corrupt - before.corrupt,
            foreign: self.foreign - before.foreign,
            pieces: self.pieces - before.pieces,
        }
    }
}

/// Checks the frames of one direction.
#[derive(Debug, Clone)]
pub struct Receiver {
    me: Endpoint,
    peer: Endpoint,
    flows: Flows,
    ports: Ports,
    expected: u32,
    payload: Payload,
    /// The counts so far.
    pub tally: Tally,
}

impl Receiver {
    /// Expects frames from `peer` to `me`, as the [`Sender`] with the same flows and direction makes them.
    /// Unread and unchecked, every frame counts as right, nothing as lost, and none has a send time.
    #[must_use]
    pub fn new(
        peer: Endpoint,
        me: Endpoint,
        flows: u32,
        ports: Ports,
        expected: u32,
        payload: Payload,
    ) -> Self {
        Self { me, peer, flows: Flows::new(flows), ports, expected, payload, tally: Tally::default() }
    }

    /// The sequence number that is due.
    #[must_use]
    pub const fn expected(&self) -> u32 {
        self.expected
    }

    /// Gives up what is missing below `sequence`.
    pub fn give_up(&mut self, sequence: u32) {
        if self.payload == Payload::Whole {
            self.tally.lost += u64::from(sequence.wrapping_sub(self.expected));
        }
        self.expected = sequence;
    }

    /// Reads a whole frame, counts it and returns its intended send time if it is one of ours.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] when the frame is not in the memory.
    #[inline]
    pub fn take(
        &mut self,
        memory: &SharedMemory,
        frame: &RxFrame<'_>,
    ) -> Result<Option<(u32, u64)>, MemoryError> {
        if self.payload == Payload::Unread {
            self.count(self.expected, frame.len);
            return Ok(None);
        }
        let Some((&(address, part), rest)) = frame.parts.split_first() else { return Ok(None) };
        let Some((prefix, headers)) = read_prefix(memory, address, part as usize)? else {
            self.tally.foreign += 1;
            return Ok(None);
        };
        let field =
            |at: usize| prefix.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
        let (first, stamp) = (field(headers), field(headers + 8));
        let (sequence, check) = (first as u32, (first >> 32) as u32);
        let behind = (headers + FIELDS) as u32;
        let mut sum = memory.sum(address + u64::from(behind), (part - behind) as usize)?;
        let mut at = (part - behind) as usize;
        for &(address, len) in rest {
            sum = sum.wrapping_add(sum_at(memory, address, len as usize, at)?);
            at += len as usize;
        }
        if self.payload == Payload::Unchecked {
            self.count(self.expected, frame.len);
            return Ok(None);
        }
        if prefix[0..6] != self.me.mac || prefix[6..12] != self.peer.mac {
            self.tally.foreign += 1;
            return Ok(None);
        }
        let intact = fold(payload_sum(sequence, stamp).wrapping_add(sum)) == check
            && self.same_flow(&prefix, sequence);
        if !intact {
            self.tally.corrupt += 1;
            return Ok(None);
        }
        self.count(sequence, frame.len);
        Ok(Some((sequence, stamp)))
    }

    /// Counts a large send of which the segments were put together: its own fields, and the sum of what is behind them.
    pub(crate) fn take_whole(&mut self, fields: SendFields, sum: u64) -> Option<(u32, u64)> {
        let SendFields { sequence, check, stamp } = fields;
        if fold(payload_sum(sequence, stamp).wrapping_add(sum)) != check {
            self.tally.corrupt += 1;
            return None;
        }
        self.count(sequence, LARGE_SEND + TCP_HEADERS as u32);
        Some((sequence, stamp))
    }

    /// Whether these headers say that a packet goes from the peer to us.
    pub(crate) fn is_between(&self, headers: &[u8; TCP_HEADERS]) -> bool {
        headers[0..6] == self.me.mac
            && headers[6..12] == self.peer.mac
            && headers[26..30] == self.peer.ip.octets()
            && headers[30..34] == self.me.ip.octets()
    }

    #[inline]
    fn same_flow(&self, prefix: &[u8; PREFIX], sequence: u32) -> bool {
        let (source, destination) = self.ports.of(self.flows.of(sequence));
        let (source, destination) = (source.to_be_bytes(), destination.to_be_bytes());
        prefix[26..30] == self.peer.ip.octets()
            && prefix[30..34] == self.me.ip.octets()
            && prefix[34..38] == [source[0], source[1], destination[0], destination[1]]
    }

    #[inline]
    fn count(&mut self, sequence: u32, len: u32) {
        self.tally.frames += 1;
        self.tally.bytes += u64::from(len);
        let ahead = sequence.wrapping_sub(self.expected);
        if ahead < 1 << 31 {
            self.tally.lost += u64::from(ahead);
            self.expected = sequence.wrapping_add(1);
        } else {
            self.tally.reordered += 1;
            self.tally.lost = self.tally.lost.saturating_sub(1);
        }
    }
}

/// Our own fields behind the headers of a frame.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SendFields {
    pub(crate) sequence: u32,
    check: u32,
    stamp: u64,
}

impl SendFields {
    /// Their bytes.
    pub(crate) const LENGTH: u32 = FIELDS as u32;

    /// Those of a large send.
    pub(crate) fn of_large_send(sequence: u32, stamp: u64) -> Self {
        let pattern = pattern_sum(pattern(sequence), LARGE_SEND as usize - FIELDS);
        Self { sequence, check: fold(payload_sum(sequence, stamp).wrapping_add(pattern)), stamp }
    }

    /// As they are written, little endian.
    pub(crate) const fn words(self) -> (u64, u64) {
        (self.sequence as u64 | (self.check as u64) << 32, self.stamp)
    }

    /// Those at `address`.
    pub(crate) fn read(memory: &SharedMemory, address: u64) -> Result<Self, MemoryError> {
        let first = u64::from_le_bytes(memory.read_array(address)?);
        let stamp = u64::from_le_bytes(memory.read_array(address + 8)?);
        Ok(Self { sequence: first as u32, check: (first >> 32) as u32, stamp })
    }
}

/// Reads a frame's headers and our fields; `None` when its first part is too short for them, which no frame of ours is.
#[inline]
fn read_prefix(
    memory: &SharedMemory,
    address: u64,
    len: usize,
) -> Result<Option<([u8; PREFIX], usize)>, MemoryError> {
    if len < UDP_PREFIX {
        return Ok(None);
    }
    let mut prefix = [0u8; PREFIX];
    let (head, rest) = prefix.split_at_mut(UDP_PREFIX);
    head.copy_from_slice(&memory.read_array::<UDP_PREFIX>(address)?);
    if head.get(23) != Some(&6) {
        return Ok(Some((prefix, UDP_HEADERS)));
    }
    if len < PREFIX {
        return Ok(None);
    }
    memory.read(address + UDP_PREFIX as u64, rest)?;
    Ok(Some((prefix, TCP_HEADERS)))
}

/// The part of a sum that `len` bytes contribute which start `at` bytes into the summed range.
pub(crate) fn sum_at(memory: &SharedMemory, address: u64, len: usize, at: usize) -> Result<u64, MemoryError> {
    let shift = at % 8;
    let first = if shift == 0 { 0 } else { (8 - shift).min(len) };
    let mut bytes = [0u8; 8];
    if let Some(head) = bytes.get_mut(shift..shift + first) {
        memory.read(address, head)?;
    }
    let rest = memory.sum(address + first as u64, len - first)?;
    Ok(u64::from_le_bytes(bytes).wrapping_add(rest))
}

#[cfg(test)]
mod tests {
    use virtio_driver::MemoryOptions;

    use super::*;
    use crate::template::ones_complement;

    fn pair(size: &str, flows: u32) -> (SharedMemory, Sender, Receiver) {
        let memory = SharedMemory::new(1 << 20, MemoryOptions::default()).unwrap();
        let (a, b) = (Endpoint::numbered(0), Endpoint::numbered(1));
        let sizes: Sizes = size.parse().unwrap();
        (
            memory,
            Sender::new(a, b, &sizes, flows, Ports::First, 7),
            Receiver::new(a, b, flows, Ports::First, 7, Payload::Whole),
        )
    }

    fn received<'a>(parts: &'a [(u64, u32)]) -> RxFrame<'a> {
        RxFrame { header: NetHeader::default(), parts, len: parts.iter().map(|p| p.1).sum() }
    }

    #[test]
    fn flows_are_the_remainder() {
        for count in [1, 2, 3, 1000, 100_000, 1_000_000] {
            for sequence in [0, 1, 999, 1000, 123_456_789, u32::MAX - 1, u32::MAX] {
                assert_eq!(Flows::new(count).of(sequence), sequence % count);
            }
        }
    }

    #[test]
    fn sizes_are_testpmds() {
        let len = |text: &str| text.parse::<Sizes>().map(|s| s.longest());
        assert_eq!(len("64"), Ok(60));
        assert_eq!(len("1518"), Ok(1514));
        assert_eq!(len("imix"), Ok(1514));
        assert_eq!(len("64K"), Ok(64294));
        assert!(len("63").is_err() && len("9019").is_err() && len("jumbo").is_err());
        let imix: Sizes = "IMIX".parse().unwrap();
        let count = |len| imix.cycle().iter().filter(|kind| kind.len == len).count();
        assert_eq!((count(60), count(566), count(1514)), (7, 4, 1));
    }

    #[test]
    fn frames_of_every_size_are_recognised_in_any_number_of_parts() {
        for size in ["64", "65", "71", "1518", "9000", "64K", "IMIX"] {
            let (memory, mut sender, mut receiver) = pair(size, 5000);
            for round in 0..40u32 {
                let (_, len) = sender.write(&memory, 4096, u64::from(round)).unwrap();
                let cut = 70.min(len - 1) + round % (len - 70.min(len - 1));
                let parts = [(4096, cut), (4096 + u64::from(cut), len - cut)];
                let parts = if len < 80 { vec![(4096, len)] } else { parts.to_vec() };
                let got = receiver.take(&memory, &received(&parts)).unwrap();
                assert_eq!(got, Some((7 + round, u64::from(round))), "size {size}");
            }
            let tally = receiver.tally;
            assert_eq!((tally.frames, tally.lost, tally.corrupt, tally.foreign), (40, 0, 0, 0));
        }
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let (memory, mut sender, _) = pair("200", 1000);
        let (_, len) = sender.write(&memory, 4096, 99).unwrap();
        let (_, _, receiver) = pair("200", 1000);
        for at in 0..u64::from(len) {
            let ignored = (12..26).contains(&at) || (38..42).contains(&at);
            let original = memory.read_vec(4096 + at, 1).unwrap()[0];
            memory.write(4096 + at, &[original ^ 0x10]).unwrap();
            let mut receiver = receiver.clone();
            let got = receiver.take(&memory, &received(&[(4096, len)])).unwrap();
            assert_eq!(got.is_some(), ignored, "byte {at}");
            memory.write(4096 + at, &[original]).unwrap();
        }
    }

    #[test]
    fn gaps_count_as_lost_until_they_arrive_late() {
        let (memory, mut sender, mut receiver) = pair("64", 1);
        let mut at = |n: u64| {
            sender.write(&memory, 4096 * n, 0).unwrap();
        };
        (1..=4).for_each(&mut at);
        for n in [1u64, 4, 2] {
            receiver.take(&memory, &received(&[(4096 * n, 60)])).unwrap();
        }
        assert_eq!((receiver.tally.frames, receiver.tally.lost, receiver.tally.reordered), (3, 1, 1));
    }

    #[test]
    fn headers_are_right() {
        let (memory, mut sender, _) = pair("64K", 1);
        let (net, len) = sender.write(&memory, 0, 0).unwrap();
        let bytes = memory.read_vec(0, len as usize).unwrap();
        assert_eq!(ones_complement(&bytes[14..34], 0), 0xffff, "IPv4 header checksum");
        assert_eq!(u16::from_be_bytes([bytes[16], bytes[17]]) as u32, len - 14);
        assert_eq!((net.csum_start, net.csum_offset, net.gso_size), (34, 16, 1460));
        let (_, mut sender, _) = pair("64", 1);
        let (net, len) = sender.write(&memory, 0, 0).unwrap();
        let bytes = memory.read_vec(0, len as usize).unwrap();
        assert_eq!(ones_complement(&bytes[14..34], 0), 0xffff);
        assert_eq!(u16::from_be_bytes([bytes[38], bytes[39]]) as u32, len - 34);
        assert_eq!(net, NetHeader::default());
    }
}
