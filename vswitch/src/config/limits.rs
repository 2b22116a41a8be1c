//! `limits`: how many sessions there may be, and how long they live without a packet.

use model::fields::{Fields, Parsed, Reader, Refusal};
use model::quantity::TimeSpan;
use tables::sessions::{TcpTimeouts, Timeouts};

/// Sessions without a word in the file.
const DEFAULT_SESSIONS: u32 = 1 << 20;
/// Shortest and longest life, in milliseconds: a second, and the 24 days that a session's clock can tell apart.
const LIVES: std::ops::RangeInclusive<u64> = 1_000..=(1 << 31) - 1;

/// What sessions may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sessions that there may be of IPv4, and a quarter as many of IPv6; 1,024 to 16,777,216. Their memory is taken as they are used.
    pub sessions: u32,
    /// Whether they are on reserved 2 MiB pages, if there are enough of them.
    pub huge_pages: bool,
    /// How long they live after their last packet.
    pub timeouts: Timeouts,
}

impl Default for Limits {
    fn default() -> Self {
        Self { sessions: DEFAULT_SESSIONS, huge_pages: true, timeouts: Timeouts::default() }
    }
}

pub(super) fn read_limits(fields: &mut Fields<'_>, reader: &mut Reader) -> Limits {
    let mut read = Limits::default();
    let Some(mut limits) = fields.mapping(reader, "limits") else { return read };
    if let Some(count) = limits.integer(reader, "sessions", 1024..=16_777_216) {
        read.sessions = count as u32;
    }
    read.huge_pages = limits.boolean(reader, "hugePages").unwrap_or(read.huge_pages);
    if let Some(mut timeouts) = limits.mapping(reader, "timeouts") {
        read_timeouts(&mut timeouts, reader, &mut read.timeouts);
        timeouts.finish(reader);
    }
    limits.finish(reader);
    read
}

fn read_timeouts(fields: &mut Fields<'_>, reader: &mut Reader, timeouts: &mut Timeouts) {
    let Timeouts { tcp, udp_unreplied, udp_stream, icmp, other } = timeouts;
    let TcpTimeouts {
        syn_sent,
        syn_received,
        established,
        fin_wait,
        close_wait,
        last_ack,
        time_wait,
        close,
        unacknowledged,
    } = tcp;
    let all = [
        ("tcpSynSent", syn_sent),
        ("tcpSynReceived", syn_received),
        ("tcpEstablished", established),
        ("tcpFinWait", fin_wait),
        ("tcpCloseWait", close_wait),
        ("tcpLastAck", last_ack),
        ("tcpTimeWait", time_wait),
        ("tcpClose", close),
        ("tcpUnacknowledged", unacknowledged),
        ("udpUnreplied", udp_unreplied),
        ("udpStream", udp_stream),
        ("icmp", icmp),
        ("other", other),
    ];
    for (name, place) in all {
        if let Some(life) = fields.parse(reader, name, parse_life) {
            *place = life;
        }
    }
}

/// A life in milliseconds.
fn parse_life(text: &str) -> Parsed<u32> {
    let TimeSpan(life) = TimeSpan::parse(text)?;
    let fits = u32::try_from(life).ok().filter(|_| LIVES.contains(&life));
    fits.ok_or_else(|| {
        Refusal::new("not from 1s to 24 days", "write how long a session may be silent, as 30s or 5h")
    })
}
