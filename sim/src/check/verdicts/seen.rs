//! What the observer is shown, written down.

use crate::net::tunnel::{self, Outer};
use crate::queues::Polled;
use crate::trace::hash;
use buf::{Checksum, Frame, Offload, SegmentKind};
use engine::{DropReason, Observer, Output, PortIndex};
use virtio_driver::{Gso, NetHeader};

/// A frame as the observer was shown it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// What is asked to be done to it.
    pub header: NetHeader,
    /// All of it.
    pub bytes: Vec<u8>,
    /// Hash of its bytes.
    pub key: u64,
    /// Hash of both.
    pub(super) ident: u64,
}

impl Shown {
    fn new(frame: &Frame<'_, '_>) -> Self {
        let (bytes, header) = (frame.to_vec(), header_of(frame.offload));
        let (key, ident) = (hash(&bytes), hash(&[&header.encode(), &bytes[..]].concat()));
        Self { header, bytes, key, ident }
    }

    /// What is in the tunnel, if it is in one.
    pub(super) fn inner(&self) -> Option<(Outer, Self)> {
        let (outer, at) = tunnel::open(&self.bytes)?;
        let bytes = self.bytes[at..].to_vec();
        let mut header = NetHeader::default();
        // A checksum before the inner frame is the outer one.
        if self.header.needs_csum && usize::from(self.header.csum_start) >= at {
            header = NetHeader { csum_start: self.header.csum_start - at as u16, ..self.header };
        }
        let key = hash(&bytes);
        Some((outer, Self { header, bytes, key, ident: 0 }))
    }
}

/// Something the observer saw.
#[derive(Clone, Debug)]
pub enum Seen {
    /// A frame was taken.
    Received {
        /// From.
        port: PortIndex,
        /// And the queue pair.
        pair: usize,
        /// The frame.
        frame: Shown,
        /// Its port's guest lies: nobody else knows what it sent.
        lies: bool,
    },
    /// A frame goes somewhere.
    Forwarded {
        /// From.
        port: PortIndex,
        /// To.
        output: Output,
        /// The frame.
        frame: Shown,
        /// As in [`Seen::Received`].
        lies: bool,
    },
    /// A frame ended.
    Dropped {
        /// From.
        port: PortIndex,
        /// Why.
        reason: DropReason,
    },
}

/// Writes down what a worker shows.
#[derive(Debug, Default)]
pub struct Watch {
    /// What it showed.
    pub seen: Vec<Seen>,
    /// Ports of hostile guests.
    pub hostile: Vec<PortIndex>,
    /// The queue pair that is polled.
    pub polled: Polled,
}

impl Observer for Watch {
    fn received(&mut self, port: PortIndex, frame: &Frame<'_, '_>) {
        let lies = self.hostile.contains(&port);
        self.seen.push(Seen::Received { port, pair: self.polled.get(), frame: Shown::new(frame), lies });
    }

    fn forwarded(&mut self, port: PortIndex, output: Output, frame: &Frame<'_, '_>) {
        let lies = self.hostile.contains(&port);
        self.seen.push(Seen::Forwarded { port, output, frame: Shown::new(frame), lies });
    }

    fn dropped(&mut self, port: PortIndex, reason: DropReason) {
        self.seen.push(Seen::Dropped { port, reason });
    }
}

/// The header that asks for `offload`.
#[must_use]
pub fn header_of(offload: Offload) -> NetHeader {
    let mut header = NetHeader::default();
    if let Checksum::Partial { start, offset } = offload.checksum {
        (header.needs_csum, header.csum_start, header.csum_offset) = (true, start, offset);
    }
    if let Some(segment) = offload.segment {
        header.gso = match segment.kind {
            SegmentKind::TcpV4 => Gso::TcpV4,
            SegmentKind::TcpV6 => Gso::TcpV6,
            SegmentKind::Udp => Gso::UdpL4,
        };
        (header.gso_size, header.ecn) = (segment.size, segment.ecn);
    }
    header
}
