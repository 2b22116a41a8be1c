//! Ports on pcap-ng files: a receive queue that replays one, a transmit queue that writes one. For tests and tools.

use crate::loopback::LONGEST_FRAME;
use buf::{Burst, Extent, Frame, Offload};
use engine::{Armed, OffloadCapabilities, RxQueue, RxReport, TxQueue, TxReport};
use pcap_file::DataLink;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
};
use pcap_file::pcapng::{Block, PcapNgReadError, PcapNgReader, PcapNgWriteError, PcapNgWriter};
use std::borrow::Cow;
use std::fmt;
use std::io::{Read, Write};
use std::time::Duration;

/// Bytes of frames that a [`PcapTx`] holds between two flushes.
const BUFFER_BYTES: usize = 1 << 20;

/// Why a capture file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PcapError {
    /// It cannot be read, or is no pcap-ng file.
    #[error("capture file: {0}: give a pcap-ng file (editcap -F pcapng converts others)")]
    Read(#[from] PcapNgReadError),
    /// It cannot be written.
    #[error("capture file: {0}: check the disk")]
    Write(#[from] PcapNgWriteError),
    /// It holds something else than Ethernet frames.
    #[error("capture file: packet {packet} is of link type {link:?}: only Ethernet can be replayed")]
    Link {
        /// Which, counted from 1.
        packet: usize,
        /// What it is.
        link: DataLink,
    },
    /// A packet was cut when it was captured, is empty, or is longer than any frame.
    #[error("capture file: packet {packet} has {captured} of {length} bytes: capture without a snap length")]
    Cut {
        /// Which, counted from 1.
        packet: usize,
        /// Bytes in the file.
        captured: usize,
        /// Bytes on the wire.
        length: u32,
    },
}

/// A pcap-ng file being written: Ethernet, nanoseconds.
pub struct PcapWriter<W: Write> {
    writer: PcapNgWriter<W>,
    interfaces: u32,
}

impl<W: Write> fmt::Debug for PcapWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PcapWriter").field("interfaces", &self.interfaces).finish_non_exhaustive()
    }
}

impl<W: Write> PcapWriter<W> {
    /// Begins a file.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn new(writer: W) -> Result<Self, PcapError> {
        Ok(Self { writer: PcapNgWriter::new(writer)?, interfaces: 0 })
    }

    /// Adds an interface; the number to write its frames with.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn interface(&mut self, name: &str) -> Result<u32, PcapError> {
        self.writer.write_pcapng_block(InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
                InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO),
            ],
        })?;
        self.interfaces += 1;
        Ok(self.interfaces - 1)
    }

    /// Writes one frame of an interface. `time_ns` is in nanoseconds since 1970, or any other beginning.
    ///
    /// # Errors
    ///
    /// When the file cannot be written, or there is no such interface.
    pub fn write(&mut self, interface: u32, time_ns: u64, frame: &[u8]) -> Result<(), PcapError> {
        self.writer.write_pcapng_block(EnhancedPacketBlock {
            interface_id: interface,
            timestamp: Duration::from_nanos(time_ns),
            original_len: frame.len() as u32,
            data: Cow::Borrowed(frame),
            options: Vec::new(),
        })?;
        Ok(())
    }

    /// Hands what was written to the operating system.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn flush(&mut self) -> Result<(), PcapError> {
        self.writer.get_mut().flush().map_err(PcapNgWriteError::from)?;
        Ok(())
    }
}

/// Replays the frames of a file, each once, in order, as fast as they are polled. All of it is read when it is made.
#[derive(Clone, Debug)]
pub struct PcapRx {
    bytes: Vec<u8>,
    /// Where each frame ends.
    ends: Vec<usize>,
    /// Frames shown so far.
    shown: usize,
}

impl PcapRx {
    /// Reads a whole file.
    ///
    /// # Errors
    ///
    /// As [`PcapError`] says.
    pub fn new(file: impl Read) -> Result<Self, PcapError> {
        let mut reader = PcapNgReader::new(file)?;
        let mut replay = Self { bytes: Vec::new(), ends: Vec::new(), shown: 0 };
        while let Some(next) = reader.next_block() {
            let (block, state) = next?;
            let packet = replay.ends.len() + 1;
            let (interface, frame, length) = match &block {
                Block::EnhancedPacket(found) => (found.interface_id, &found.data, found.original_len),
                Block::SimplePacket(found) => (0, &found.data, found.original_len),
                _ => continue,
            };
            let link = state.interfaces().get(interface as usize).map(|found| found.linktype);
            if let Some(link) = link.filter(|link| *link != DataLink::ETHERNET) {
                return Err(PcapError::Link { packet, link });
            }
            if frame.len() != length as usize || frame.is_empty() || frame.len() > LONGEST_FRAME {
                return Err(PcapError::Cut { packet, captured: frame.len(), length });
            }
            replay.bytes.extend_from_slice(frame);
            replay.ends.push(replay.bytes.len());
        }
        Ok(replay)
    }

    /// Frames that were not shown yet.
    pub fn remaining(&self) -> usize {
        self.ends.len() - self.shown
    }
}

impl RxQueue for PcapRx {
    fn poll<'q>(&'q mut self, burst: &mut Burst<'q>) -> RxReport {
        let mut start = self.shown.checked_sub(1).and_then(|last| self.ends.get(last)).copied().unwrap_or(0);
        let mut shown = 0;
        for end in self.ends.iter().skip(self.shown) {
            let frame = Extent::from_slice(self.bytes.get(start..*end).unwrap_or_default());
            if burst.is_full() || burst.push_extent(frame).is_err() || !burst.commit(Offload::NONE) {
                break;
            }
            start = *end;
            shown += 1;
        }
        self.shown += shown;
        burst.load_heads();
        RxReport { more: self.shown < self.ends.len(), ..RxReport::default() }
    }

    fn complete(&mut self) {}

    fn arm(&mut self) -> Armed {
        if self.remaining() > 0 { Armed::Ready } else { Armed::Quiet }
    }

    fn disarm(&mut self) {}
}

/// Writes what it is given into a file, as it would stand on a wire: it takes no offloads.
///
/// `send` copies into a buffer of 1 MiB and counts what does not fit as `full`; the file is written in [`TxQueue::flush`], which
/// therefore makes system calls. When that fails, further frames are counted as `stopped`.
pub struct PcapTx<W: Write> {
    file: PcapWriter<W>,
    interface: u32,
    clock: Box<dyn Fn() -> u64 + Send>,
    bytes: Vec<u8>,
    frames: Vec<(u64, usize)>,
    failed: Option<PcapError>,
}

impl<W: Write> fmt::Debug for PcapTx<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PcapTx").field("buffered", &self.bytes.len()).field("failed", &self.failed).finish()
    }
}

impl<W: Write> PcapTx<W> {
    /// Begins a file with one interface of this name. `clock` yields nanoseconds.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn new(writer: W, name: &str, clock: impl Fn() -> u64 + Send + 'static) -> Result<Self, PcapError> {
        let mut file = PcapWriter::new(writer)?;
        let interface = file.interface(name)?;
        let (bytes, frames) = (Vec::with_capacity(BUFFER_BYTES), Vec::with_capacity(BUFFER_BYTES / 64));
        Ok(Self { file, interface, clock: Box::new(clock), bytes, frames, failed: None })
    }

    /// Why the file could not be written, if so.
    pub fn failure(&self) -> Option<&PcapError> {
        self.failed.as_ref()
    }

    fn write_out(&mut self) -> Result<(), PcapError> {
        let mut start = 0;
        for (time_ns, end) in &self.frames {
            self.file.write(self.interface, *time_ns, self.bytes.get(start..*end).unwrap_or_default())?;
            start = *end;
        }
        self.file.flush()
    }
}

impl<W: Write + Send + 'static> TxQueue for PcapTx<W> {
    fn capabilities(&self) -> OffloadCapabilities {
        OffloadCapabilities::default()
    }

    fn send(&mut self, frames: &[Frame<'_, '_>]) -> TxReport {
        let mut report = TxReport::default();
        if self.failed.is_some() {
            report.stopped = frames.len() as u32;
            return report;
        }
        let now = (self.clock)();
        for frame in frames {
            let start = self.bytes.len();
            if frame.len() > LONGEST_FRAME {
                report.too_large += 1;
            } else if start + frame.len() > BUFFER_BYTES || self.frames.len() == self.frames.capacity() {
                report.full += 1;
            } else {
                // Within the capacity that was taken at the start: nothing is allocated.
                self.bytes.resize(start + frame.len(), 0);
                frame.reader().read(self.bytes.get_mut(start..).unwrap_or_default());
                self.frames.push((now, self.bytes.len()));
                report.sent += 1;
                report.bytes += frame.len() as u64;
            }
        }
        report
    }

    fn flush(&mut self) {
        if !self.frames.is_empty()
            && let Err(problem) = self.write_out()
        {
            self.failed = Some(problem);
        }
        self.bytes.clear();
        self.frames.clear();
    }
}
