//! What a packet asks of whoever transmits it: one value in place of virtio-net headers and mbuf flags.

/// State of the transport checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Checksum {
    /// Nobody vouches for it; it is in the packet and the receiver checks it.
    #[default]
    Unverified,
    /// Checked, or produced on this host and never on a wire: a receiver need not check (`VIRTIO_NET_HDR_F_DATA_VALID`).
    Valid,
    /// Only the pseudo header is summed. Whoever needs it whole sums the bytes from `start` to the end of the frame and stores the
    /// result at `start + offset` (`VIRTIO_NET_HDR_F_NEEDS_CSUM`, virtio 1.2 section 5.1.6.2). Both in bytes, `start` from the
    /// first byte of the frame.
    Partial {
        /// First byte that is summed.
        start: u16,
        /// Where the sum goes, from `start`.
        offset: u16,
    },
}

/// How a large packet is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// TCP over IPv4 (`VIRTIO_NET_HDR_GSO_TCPV4`).
    TcpV4,
    /// TCP over IPv6 (`VIRTIO_NET_HDR_GSO_TCPV6`).
    TcpV6,
    /// UDP over either: each segment a datagram of its own (`VIRTIO_NET_HDR_GSO_UDP_L4`).
    Udp,
}

/// A request to cut a packet into segments of at most `size` bytes of payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Which headers each segment repeats.
    pub kind: SegmentKind,
    /// Only the first segment keeps CWR (`VIRTIO_NET_HDR_GSO_ECN`).
    pub ecn: bool,
    /// Payload bytes per segment, 1 to 65,535.
    pub size: u16,
}

/// What is left to do to a packet before it may stand on a wire. Recomputed from the head at receive, written by the driver at transmit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Offload {
    /// The transport checksum.
    pub checksum: Checksum,
    /// The cut, if the packet is larger than its path.
    pub segment: Option<Segment>,
    /// Bytes of a tunnel's headers before the frame that is to be cut; 0 without a tunnel. `checksum` still counts from the first byte of all.
    pub tunnel: u8,
}

impl Offload {
    /// Nothing asked, nothing vouched for.
    pub const NONE: Offload = Offload { checksum: Checksum::Unverified, segment: None, tunnel: 0 };
}
