//! How large the table is, how long sessions live, and how many a port may have.

/// How large the table is, how long sessions live, and how many a port may have.
#[derive(Clone, Debug)]
pub struct Options {
    /// IPv4 sessions there may be; 1 to [`Options::MOST`].
    pub ipv4: u32,
    /// IPv6 sessions there may be; 1 to [`Options::MOST`].
    pub ipv6: u32,
    /// Random, known to nobody outside.
    pub secret: [u64; 2],
    /// Lives.
    pub timeouts: Timeouts,
    /// What a port may have.
    pub quota: Quota,
    /// Take reserved 2 MiB pages if there are.
    pub huge_pages: bool,
}

impl Options {
    /// Sessions of one family that there may be at most.
    pub const MOST: u32 = 1 << 24;

    /// A table of 1,048,576 IPv4 sessions and 262,144 IPv6 ones.
    #[must_use]
    pub fn new(secret: [u64; 2]) -> Self {
        let (timeouts, quota) = (Timeouts::default(), Quota::default());
        Self { ipv4: 1 << 20, ipv6: 1 << 18, secret, timeouts, quota, huge_pages: false }
    }
}

/// How long a session lives after its last packet, in milliseconds, each at most 2^31 - 1 (24 days). The defaults are those of Linux' `nf_conntrack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, by state.
    pub tcp: TcpTimeouts,
    /// UDP without a packet in the other direction.
    pub udp_unreplied: u32,
    /// UDP with packets in both directions.
    pub udp_stream: u32,
    /// ICMP and ICMPv6 echoes.
    pub icmp: u32,
    /// Everything else.
    pub other: u32,
}

impl Timeouts {
    /// Of a protocol that is not TCP, with or without an answer.
    #[inline]
    pub(super) const fn without_states(&self, protocol: u8, answered: bool) -> u32 {
        match (protocol, answered) {
            (17, false) => self.udp_unreplied,
            (17, true) => self.udp_stream,
            (1 | 58, _) => self.icmp,
            _ => self.other,
        }
    }
}

/// How long a TCP session lives after its last packet, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the states of RFC 9293 that they are for")]
pub struct TcpTimeouts {
    pub syn_sent: u32,
    pub syn_received: u32,
    pub established: u32,
    pub fin_wait: u32,
    pub close_wait: u32,
    pub last_ack: u32,
    pub time_wait: u32,
    /// After a reset.
    pub close: u32,
    /// Established, with data that the other side has not acknowledged; or met in its middle and not answered yet.
    pub unacknowledged: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        let tcp = TcpTimeouts {
            syn_sent: 120_000,
            syn_received: 60_000,
            established: 5 * 86_400_000,
            fin_wait: 120_000,
            close_wait: 60_000,
            last_ack: 30_000,
            time_wait: 120_000,
            close: 10_000,
            unacknowledged: 300_000,
        };
        Self { tcp, udp_unreplied: 30_000, udp_stream: 180_000, icmp: 30_000, other: 600_000 }
    }
}

/// What one port may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Sessions at most.
    pub sessions: u32,
    /// Half-open ones at most: the next replaces the oldest.
    pub half_open: u32,
    /// So many it may have however full the table is, as long as a record is free.
    pub guaranteed: u32,
    /// Above that, so many times what is free: a port alone may take `n / (n + 1)` of the table, two of them `2n / (2n + 1)` together.
    pub share: u32,
}

impl Default for Quota {
    fn default() -> Self {
        Self { sessions: u32::MAX, half_open: 16_384, guaranteed: 512, share: 4 }
    }
}
