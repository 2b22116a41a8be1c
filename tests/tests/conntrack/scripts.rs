//! Sequences of packets that are written down: what correct hosts do, what broken ones do, and what attackers do.

use crate::difference::Difference;
use crate::packets::{
    ACK, ESP, FIN, GRE, Ip, PSH, Pair, RST, SYN, Segment, UDP, URG, echo, icmp, sctp, udp, unreachable,
};

/// What is to become of the packets of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// All arrive, on both sides.
    Passes,
    /// None arrives, on either.
    Dropped,
    /// Not the same arrives.
    Differs(Difference),
}

/// Packets of one host at once: fragments, or one.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) what: String,
    pub(crate) from: usize,
    pub(crate) packets: Vec<Vec<u8>>,
    pub(crate) expected: Expected,
}

/// Steps that belong together.
pub(crate) struct Script {
    pub(crate) name: &'static str,
    pub(crate) steps: Vec<Step>,
    pair: Pair,
    ports: [u16; 2],
    window: u16,
    options: Vec<u8>,
}

impl Script {
    fn new(name: &'static str, pair: Pair, ports: [u16; 2]) -> Self {
        Self { name, steps: Vec::new(), pair, ports, window: 1000, options: vec![] }
    }

    fn add(mut self, what: &str, from: usize, packets: Vec<Vec<u8>>, expected: Expected) -> Self {
        self.steps.push(Step { what: what.to_owned(), from, packets, expected });
        self
    }

    /// An IP packet of whoever its addresses say.
    fn ip(self, what: &str, packet: &Ip, expected: Expected) -> Self {
        self.add(what, packet.pair.from, vec![packet.bytes()], expected)
    }

    fn segment(
        self,
        client: bool,
        what: &str,
        (flags, sequence, acknowledgment, data): Tcp,
        expected: Expected,
    ) -> Self {
        let (pair, ports) = match client {
            true => (self.pair, self.ports),
            false => (self.pair.back(), [self.ports[1], self.ports[0]]),
        };
        let (window, options) = (self.window, self.options.clone());
        let segment = Segment { ports, flags, sequence, acknowledgment, window, options, data };
        self.ip(what, &segment.packet(pair), expected)
    }

    /// A segment of the client.
    fn c(self, what: &str, tcp: Tcp, expected: Expected) -> Self {
        self.segment(true, what, tcp, expected)
    }

    /// A segment of the server.
    fn s(self, what: &str, tcp: Tcp, expected: Expected) -> Self {
        self.segment(false, what, tcp, expected)
    }

    /// What is sent from now on offers this window.
    const fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }

    /// What is sent from now on has these options.
    fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// The three packets of a handshake. The client's numbers begin at 1000, the server's at 5000.
    fn open(self) -> Self {
        self.c("SYN", (SYN, 1000, 0, 0), Passes).s("its answer", (SYN | ACK, 5000, 1001, 0), Passes).c(
            "the third",
            (ACK, 1001, 5001, 0),
            Passes,
        )
    }
}

/// Flags, sequence number, acknowledgment number, bytes of data.
type Tcp = (u8, u32, u32, usize);
use Difference as D;
use Expected::{Differs, Dropped, Passes};

/// All of them, for packets from a host that everything is let out of, to one that everything is let in to. Answers are let in by sessions alone.
pub(crate) fn all(pair: Pair) -> Vec<Script> {
    let makers: [fn(Pair, u16) -> Script; 34] = [
        life,
        half_open,
        reset_where_refused,
        simultaneous,
        split,
        syn_inside,
        resets,
        beyond,
        old,
        acknowledgments,
        wrap,
        scaled,
        unscaled,
        lying_scale,
        selective,
        flags,
        middle,
        middle_answered,
        reuse,
        reopened_by_server,
        fast_open,
        before_third,
        begun_anew,
        fin_first,
        half_closed,
        zero_window,
        keepalive,
        overrun,
        datagrams,
        queries,
        errors,
        others,
        broken,
        fragments,
    ];
    makers.into_iter().zip(20_000..).map(|(make, port)| make(pair, port)).collect()
}

fn life(pair: Pair, port: u16) -> Script {
    Script::new("a connection's life", pair, [port, 80])
        .open()
        .c("data", (ACK | PSH, 1001, 5001, 100), Passes)
        .s("acknowledged", (ACK, 5001, 1101, 0), Passes)
        .s("data back", (ACK, 5001, 1101, 200), Passes)
        .c("acknowledged", (ACK, 1101, 5201, 0), Passes)
        .c("retransmitted", (ACK, 1001, 5201, 100), Passes)
        .c("done", (FIN | ACK, 1101, 5201, 0), Passes)
        .s("heard", (ACK, 5201, 1102, 0), Passes)
        .s("more data", (ACK, 5201, 1102, 50), Passes)
        .c("acknowledged", (ACK, 1102, 5251, 0), Passes)
        .s("done", (FIN | ACK, 5251, 1102, 0), Passes)
        .c("heard", (ACK, 1102, 5252, 0), Passes)
        .s("the FIN once more", (FIN | ACK, 5251, 1102, 0), Passes)
        .c("heard", (ACK, 1102, 5252, 0), Passes)
        .c("data after its FIN", (ACK, 1102, 5252, 10), Passes)
}

fn half_open(pair: Pair, port: u16) -> Script {
    Script::new("half open", pair, [port, 80])
        .s("an answer to nothing", (SYN | ACK, 5000, 1001, 0), Dropped)
        .s("data of nothing", (ACK, 5001, 1001, 10), Dropped)
        .c("SYN", (SYN, 1000, 0, 0), Passes)
        .c("once more", (SYN, 1000, 0, 0), Passes)
        .c("with another number", (SYN, 2000, 0, 0), Passes)
        .c("and the first again", (SYN, 1000, 0, 0), Passes)
        .c("data before an answer", (ACK, 1001, 1, 10), Dropped)
        .c("FIN before an answer", (FIN | ACK, 1001, 1, 0), Dropped)
        .c("its own answer", (SYN | ACK, 1000, 1, 0), Dropped)
        .s("an ACK of a connection of before", (ACK, 7000, 9000, 0), Passes)
        .s("data without SYN", (ACK | PSH, 7000, 1001, 10), Passes)
        .s("FIN", (FIN | ACK, 7000, 1001, 0), Dropped)
        .c("a reset for that", (RST, 9000, 0, 0), Differs(D::ResetOfOwn))
}

fn reset_where_refused(pair: Pair, port: u16) -> Script {
    Script::new("refused", pair, [port, 81])
        .c("SYN", (SYN, 1000, 0, 0), Passes)
        .s("a reset for another", (RST | ACK, 0, 5000, 0), Dropped)
        .s("the reset", (RST | ACK, 0, 1001, 0), Passes)
        .s("once more", (RST | ACK, 0, 1001, 0), Differs(D::Lingering))
        .c("SYN", (SYN, 1000, 0, 0), Passes)
        .s("its answer", (SYN | ACK, 5000, 1001, 0), Passes)
        .c("the client never heard of it", (RST, 1001, 0, 0), Passes)
        .s("data", (ACK, 5001, 1001, 10), Passes)
}

fn simultaneous(pair: Pair, port: u16) -> Script {
    Script::new("both open", pair, [port, 80])
        .c("SYN", (SYN, 1000, 0, 0), Passes)
        .s("SYN", (SYN, 5000, 0, 0), Passes)
        .s("once more", (SYN, 5000, 0, 0), Passes)
        .c("SYN and ACK", (SYN | ACK, 1000, 5001, 0), Passes)
        .s("SYN and ACK", (SYN | ACK, 5000, 1001, 0), Passes)
        .c("data", (ACK, 1001, 5001, 10), Passes)
        .s("acknowledged", (ACK, 5001, 1011, 10), Passes)
        .c("FIN", (FIN | ACK, 1011, 5011, 0), Passes)
        .s("FIN", (FIN | ACK, 5011, 1011, 0), Passes)
        .c("heard", (ACK, 1012, 5012, 0), Passes)
        .s("heard", (ACK, 5012, 1012, 0), Passes)
}

fn split(pair: Pair, port: u16) -> Script {
    Script::new("split handshake", pair, [port, 80])
        .c("SYN", (SYN, 1000, 0, 0), Passes)
        .s("ACK alone", (ACK, 5000, 1001, 0), Passes)
        .s("SYN alone", (SYN, 5000, 0, 0), Passes)
        .c("SYN and ACK", (SYN | ACK, 1000, 5001, 0), Passes)
        .s("ACK", (ACK, 5001, 1001, 0), Passes)
        .c("data", (ACK, 1001, 5001, 10), Passes)
        .s("data", (ACK, 5001, 1011, 10), Passes)
}

fn syn_inside(pair: Pair, port: u16) -> Script {
    Script::new("SYN in a connection", pair, [port, 80])
        .open()
        .c("a SYN out of the window", (SYN, 900_000, 0, 0), Passes)
        .s("challenged", (ACK, 5001, 1001, 0), Passes)
        .c("a SYN in the window", (SYN, 1100, 0, 0), Passes)
        .s("the server asks", (SYN, 9000, 0, 0), Dropped)
        .s("SYN and ACK of long ago", (SYN | ACK, 9000, 77, 0), Passes)
        .c("SYN and ACK", (SYN | ACK, 1001, 5001, 0), Dropped)
        .c("data goes on", (ACK, 1001, 5001, 10), Passes)
        .s("acknowledged", (ACK, 5001, 1011, 0), Passes)
        .c("the client begins anew", (SYN, 700_000, 0, 0), Passes)
        .s("and the server agrees", (SYN | ACK, 800_000, 700_001, 0), Passes)
        .c("third", (ACK, 700_001, 800_001, 0), Passes)
        .c("data", (ACK, 700_001, 800_001, 10), Passes)
        .s("data", (ACK, 800_001, 700_011, 10), Passes)
}

fn resets(pair: Pair, port: u16) -> Script {
    Script::new("resets", pair, [port, 80])
        .open()
        .c("data", (ACK, 1001, 5001, 100), Passes)
        .s("acknowledged", (ACK, 5001, 1101, 0), Passes)
        .s("far beyond the window", (RST, 9_000_000, 0, 0), Dropped)
        .s("before what was acknowledged", (RST, 5000, 0, 0), Dropped)
        .s("in the window", (RST, 5500, 0, 0), Passes)
        .s("beyond the window", (RST, 6500, 0, 0), Differs(D::ResetBeyond))
        .c("goes on", (ACK, 1101, 5001, 10), Passes)
        .s("acknowledges what was not sent", (RST | ACK, 5001, 90_000, 0), Dropped)
        .s("where the client waits", (RST, 5001, 0, 0), Passes)
        .c("data after", (ACK, 1111, 5001, 10), Passes)
        .s("its answer", (RST, 5001, 0, 0), Passes)
        .c("a new connection", (SYN, 60_000, 0, 0), Passes)
        .s("its answer", (SYN | ACK, 90_000, 60_001, 0), Passes)
}

fn beyond(pair: Pair, port: u16) -> Script {
    Script::new("beyond the window", pair, [port, 80])
        .open()
        .c("all of the window", (ACK, 1001, 5001, 1000), Passes)
        .c("a probe at its edge", (ACK, 2001, 5001, 1), Passes)
        .c("one beyond", (ACK, 2003, 5001, 1), Passes)
        .c("a little more than a window beyond", (ACK, 2990, 5001, 20), Differs(D::WindowRounded))
        .c("a whole window beyond", (ACK, 3001, 5001, 100), Dropped)
        .c("far beyond", (ACK, 300_001, 5001, 100), Dropped)
        .s("acknowledged", (ACK, 5001, 2001, 0), Passes)
        .c("it moved", (ACK, 2001, 5001, 1000), Passes)
        .s("acknowledges what was not sent", (ACK, 5001, 50_000, 0), Dropped)
        .s("data with it", (ACK, 5001, 50_000, 10), Dropped)
}

fn old(pair: Pair, port: u16) -> Script {
    let mut script = Script::new("old data", pair, [port, 80]).open();
    for turn in 0..4 {
        let at = 1001 + turn * 1000;
        script = script.c("a window", (ACK, at, 5001, 1000), Passes).s(
            "acknowledged",
            (ACK, 5001, at + 1000, 0),
            Passes,
        );
    }
    script
        .c("the last once more", (ACK, 4001, 5001, 1000), Passes)
        .c("its first half", (ACK, 4001, 5001, 500), Passes)
        .c("that of before", (ACK, 3001, 5001, 1000), Passes)
        .c("the first", (ACK, 1001, 5001, 1000), Passes)
        .c("an empty one of the beginning", (ACK, 1001, 5001, 0), Passes)
        .c("of long before", (ACK, 4_000_000_000, 5001, 1000), Passes)
        .c("an empty one beyond", (ACK, 9000, 5001, 0), Dropped)
        .c("goes on", (ACK, 5001, 5001, 10), Passes)
}

fn acknowledgments(pair: Pair, port: u16) -> Script {
    let mut script = Script::new("old acknowledgments", pair, [port, 80]).window(60_000).open();
    for turn in 0..120 {
        let at = 1001 + turn * 1000;
        script = script.c("data", (ACK, at, 5001, 1000), Passes).s(
            "acknowledged",
            (ACK, 5001, at + 1000, 0),
            Passes,
        );
    }
    script
        .s("of the one before", (ACK, 5001, 120_001, 0), Passes)
        .s("65,000 ago", (ACK, 5001, 121_001 - 65_000, 0), Passes)
        .s("66,000 ago", (ACK, 5001, 121_001 - 66_000, 0), Passes)
        .s("67,000 ago", (ACK, 5001, 121_001 - 67_000, 0), Passes)
        .s("with data", (ACK, 5001, 121_001 - 67_000, 10), Passes)
        .s("goes on", (ACK, 5001, 121_001, 10), Passes)
}

fn wrap(pair: Pair, port: u16) -> Script {
    let start = u32::MAX - 10;
    Script::new("numbers that wrap", pair, [port, 80])
        .c("SYN", (SYN, start, 0, 0), Passes)
        .s("its answer", (SYN | ACK, u32::MAX, start + 1, 0), Passes)
        .c("data", (ACK, start + 1, 0, 500), Passes)
        .s("data", (ACK, 0, 490, 100), Passes)
        .c("data", (ACK, 490, 100, 900), Passes)
        .c("far beyond", (ACK, 90_000, 100, 900), Dropped)
        .s("acknowledged", (ACK, 100, 1390, 0), Passes)
}

/// With these window scales of client and server, a window of 1000 and then data at both edges.
fn scales(name: &'static str, pair: Pair, port: u16, client: &[u8], server: &[u8], edge: u32) -> Script {
    Script::new(name, pair, [port, 80])
        .options(client)
        .c("SYN", (SYN, 1000, 0, 0), Passes)
        .options(server)
        .s("its answer", (SYN | ACK, 5000, 1001, 0), Passes)
        .options(&[])
        .c("third", (ACK, 1001, 5001, 0), Passes)
        .s("a scaled window", (ACK, 5001, 1001, 0), Passes)
        .c("at its edge", (ACK, 1001 + edge, 5001, 1), Passes)
        .c("far beyond it", (ACK, 1001 + 4 * edge, 5001, 1), Dropped)
}

fn scaled(pair: Pair, port: u16) -> Script {
    scales("window scales", pair, port, &[1, 3, 3, 14], &[2, 4, 5, 0xb4, 1, 3, 3, 7], 1000 << 7)
}

fn unscaled(pair: Pair, port: u16) -> Script {
    scales("a scale without another", pair, port, &[1, 3, 3, 14], &[2, 4, 5, 0xb4], 1000)
}

fn lying_scale(pair: Pair, port: u16) -> Script {
    scales(
        "a scale of 255, and options that lie",
        pair,
        port,
        &[1, 3, 3, 2, 0, 3, 3, 1],
        &[1, 3, 3, 255, 2, 0, 3, 3],
        1000 << 14,
    )
}

fn selective(pair: Pair, port: u16) -> Script {
    let block = |from: u32, to: u32| [&[1, 1, 5, 10][..], &from.to_be_bytes(), &to.to_be_bytes()].concat();
    Script::new("selective acknowledgments", pair, [port, 80])
        .options(&[1, 1, 4, 2])
        .open()
        .options(&[])
        .c("lost", (ACK, 1001, 5001, 200), Passes)
        .c("arrived", (ACK, 1201, 5001, 200), Passes)
        .options(&block(1201, 1401))
        .s("says so", (ACK, 5001, 1001, 0), Passes)
        .options(&block(1201, 9000))
        .s("says more than was sent", (ACK, 5001, 1001, 0), Differs(D::Selective))
        .options(&block(1201, 1401)[..8])
        .s("half a block", (ACK, 5001, 1001, 0), Passes)
        .options(&[1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0])
        .c("a time stamp", (ACK, 1001, 5001, 200), Passes)
        .options(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0])
        .c("of before", (ACK, 1401, 5001, 200), Passes)
        .options(&[19, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1])
        .s("a signature", (ACK, 5001, 1601, 0), Passes)
        .options(&[8, 0, 0, 0])
        .s("an option of no length", (ACK, 5001, 1601, 0), Passes)
        .options(&[8, 200, 0, 0])
        .s("an option past the end", (ACK, 5001, 1601, 0), Passes)
}

fn flags(pair: Pair, port: u16) -> Script {
    let mut script = Script::new("flags", pair, [port, 80]);
    for (what, flags) in [
        ("null", 0),
        ("xmas", FIN | PSH | URG),
        ("FIN alone", FIN),
        ("SYN and FIN", SYN | FIN),
        ("SYN and RST", SYN | RST),
        ("FIN and RST", FIN | RST),
        ("all", 0x3f),
        ("RST", RST),
        ("RST and ACK", RST | ACK),
        ("FIN and ACK", FIN | ACK),
        ("SYN and ACK", SYN | ACK),
        ("PSH", PSH),
        ("URG", URG),
    ] {
        script = script.c(what, (flags, 1000, 0, 0), Dropped);
    }
    script = script.open();
    for (what, flags) in [
        ("null", 0),
        ("xmas", FIN | PSH | URG),
        ("FIN alone", FIN),
        ("SYN and FIN", SYN | FIN),
        ("SYN, FIN and ACK", SYN | FIN | ACK),
        ("SYN and RST", SYN | RST),
        ("all", 0x3f),
        ("PSH", PSH),
    ] {
        script = script.c(what, (flags, 1001, 5001, 0), Dropped).s(what, (flags, 5001, 1001, 0), Dropped);
    }
    script
        .c("ACK and URG", (ACK | URG, 1001, 5001, 5), Passes)
        .c("all that may be with ACK", (ACK | URG | PSH | 0xc0, 1006, 5001, 5), Passes)
        .s("FIN, ACK and URG", (FIN | ACK | URG, 5001, 1011, 0), Passes)
}

fn middle(pair: Pair, port: u16) -> Script {
    Script::new("met in its middle", pair, [port, 80])
        .c("FIN", (FIN | ACK, 5000, 900, 0), Dropped)
        .c("RST", (RST, 5000, 900, 0), Dropped)
        .c("data", (ACK, 5000, 900, 10), Passes)
        .c("more", (ACK, 5010, 900, 10), Passes)
        .c("far away", (ACK, 900_000, 900, 10), Passes)
        .s("data", (ACK, 900, 5020, 10), Passes)
        .c("more than its unscaled window", (ACK, 50_000, 910, 10), Passes)
        .s("acknowledged", (ACK, 910, 50_010, 0), Passes)
        .c("FIN", (FIN | ACK, 50_010, 910, 0), Passes)
        .s("FIN", (FIN | ACK, 910, 50_011, 0), Passes)
        .c("heard", (ACK, 50_011, 911, 0), Passes)
}

fn middle_answered(pair: Pair, port: u16) -> Script {
    Script::new("met in its middle, and refused", pair, [port, 80])
        .c("data", (ACK, 5000, 900, 10), Passes)
        .s("never heard of it", (RST, 900, 0, 0), Passes)
        .c("a new connection", (SYN, 60_000, 0, 0), Passes)
        .s("its answer", (SYN | ACK, 90_000, 60_001, 0), Passes)
}

fn closed(pair: Pair, port: u16, name: &'static str) -> Script {
    Script::new(name, pair, [port, 80])
        .open()
        .c("FIN", (FIN | ACK, 1001, 5001, 0), Passes)
        .s("FIN", (FIN | ACK, 5001, 1002, 0), Passes)
        .c("heard", (ACK, 1002, 5002, 0), Passes)
}

fn reuse(pair: Pair, port: u16) -> Script {
    closed(pair, port, "the same ports again")
        .c("SYN", (SYN, 700_000, 0, 0), Passes)
        .s("an old FIN", (FIN | ACK, 5001, 1002, 0), Dropped)
        .s("its answer", (SYN | ACK, 900_000, 700_001, 0), Passes)
        .c("third", (ACK, 700_001, 900_001, 10), Passes)
}

fn reopened_by_server(pair: Pair, port: u16) -> Script {
    closed(pair, port, "the server opens what was closed").s("SYN", (SYN, 700_000, 0, 0), Dropped).c(
        "its answer",
        (SYN | ACK, 900_000, 700_001, 0),
        Dropped,
    )
}

fn fast_open(pair: Pair, port: u16) -> Script {
    Script::new("data in the SYN", pair, [port, 80])
        .c("SYN with data", (SYN, 1000, 0, 100), Passes)
        .c("without, it was lost", (SYN, 1000, 0, 0), Passes)
        .s("its answer", (SYN | ACK, 5000, 1001, 0), Passes)
        .c("data", (ACK, 1001, 5001, 100), Passes)
        .s("data", (ACK, 5001, 1101, 50), Passes)
}

fn before_third(pair: Pair, port: u16) -> Script {
    Script::new("before the third", pair, [port, 80])
        .c("SYN", (SYN, 1000, 0, 0), Passes)
        .s("its answer", (SYN | ACK, 5000, 1001, 0), Passes)
        .s("data", (ACK, 5001, 1001, 10), Passes)
        .s("a little ahead", (ACK, 5500, 1001, 10), Passes)
        .s("far ahead", (ACK, 9001, 1001, 10), Differs(D::Unacknowledged))
}

fn begun_anew(pair: Pair, port: u16) -> Script {
    Script::new("begun anew, and refused", pair, [port, 80])
        .open()
        .c("data", (ACK, 1001, 5001, 10), Passes)
        .s("a reset of nobody", (RST | ACK, 0, 700_001, 0), Dropped)
        .c("the client has forgotten", (SYN, 700_000, 0, 0), Passes)
        .s("the server, too", (RST | ACK, 0, 700_001, 0), Passes)
        .c("once more", (SYN, 710_000, 0, 0), Passes)
        .s("its answer", (SYN | ACK, 800_000, 710_001, 0), Passes)
        .c("third", (ACK, 710_001, 800_001, 10), Passes)
}

fn fin_first(pair: Pair, port: u16) -> Script {
    Script::new("FIN before the third", pair, [port, 80])
        .c("SYN", (SYN, 1000, 0, 0), Passes)
        .s("its answer", (SYN | ACK, 5000, 1001, 0), Passes)
        .c("FIN", (FIN | ACK, 1001, 5001, 0), Passes)
        .s("heard", (ACK, 5001, 1002, 0), Passes)
        .s("FIN", (FIN | ACK, 5001, 1002, 0), Passes)
        .c("heard", (ACK, 1002, 5002, 0), Passes)
}

fn half_closed(pair: Pair, port: u16) -> Script {
    let mut script = Script::new("half closed", pair, [port, 80])
        .open()
        .c("FIN", (FIN | ACK, 1001, 5001, 0), Passes)
        .s("heard", (ACK, 5001, 1002, 0), Passes);
    for turn in 0..5 {
        let at = 5001 + turn * 900;
        script = script.s("data goes on", (ACK, at, 1002, 900), Passes).c(
            "acknowledged",
            (ACK, 1002, at + 900, 0),
            Passes,
        );
    }
    script.s("a reset", (RST | ACK, 9501, 1002, 0), Passes).c("late", (ACK, 1002, 9501, 0), Passes)
}

fn zero_window(pair: Pair, port: u16) -> Script {
    Script::new("no window", pair, [port, 80])
        .open()
        .c("data", (ACK, 1001, 5001, 500), Passes)
        .window(0)
        .s("no more", (ACK, 5001, 1501, 0), Passes)
        .window(1000)
        .c("a probe", (ACK, 1501, 5001, 1), Passes)
        .c("more than a probe", (ACK, 1502, 5001, 400), Passes)
        .window(0)
        .s("no more", (ACK, 5001, 1501, 0), Passes)
        .window(1000)
        .s("again", (ACK, 5001, 1501, 0), Passes)
        .c("data", (ACK, 1501, 5001, 500), Passes)
}

fn keepalive(pair: Pair, port: u16) -> Script {
    Script::new("keep-alives", pair, [port, 80])
        .open()
        .c("data", (ACK, 1001, 5001, 100), Passes)
        .s("acknowledged", (ACK, 5001, 1101, 0), Passes)
        .c("a keep-alive", (ACK, 1100, 5001, 0), Passes)
        .s("its answer", (ACK, 5001, 1101, 0), Passes)
        .s("with garbage", (ACK, 5000, 1101, 1), Passes)
        .c("its answer", (ACK, 1101, 5001, 0), Passes)
}

fn overrun(pair: Pair, port: u16) -> Script {
    Script::new("more than the window", pair, [port, 80])
        .open()
        .c("a window and a quarter in one", (ACK, 1001, 5001, 1250), Passes)
        .s("acknowledged", (ACK, 5001, 2251, 0), Passes)
        .c("again", (ACK, 2251, 5001, 1000), Passes)
        .c("what does not fit", (ACK, 3251, 5001, 400), Passes)
        .s("acknowledged", (ACK, 5001, 3651, 0), Passes)
        .c("goes on", (ACK, 3651, 5001, 400), Passes)
}

fn datagrams(pair: Pair, port: u16) -> Script {
    let there = |ports| udp(pair, ports, b"there");
    let back = |ports: [u16; 2]| udp(pair.back(), ports, b"back");
    let mut summless = there([port, 53]);
    summless.payload[6..8].copy_from_slice(&[0, 0]);
    Script::new("datagrams", pair, [port, 53])
        .ip("an answer to nothing", &back([53, port]), Dropped)
        .ip("a question", &there([port, 53]), Passes)
        .ip("its answer", &back([53, port]), Passes)
        .ip("another port's", &back([54, port]), Dropped)
        .ip("to another port", &back([53, port + 1000]), Dropped)
        .ip("again", &there([port, 53]), Passes)
        .ip("from port zero", &there([0, 53]), Passes)
        .ip("to port zero", &there([port, 0]), Passes)
        .ip("its answer", &back([0, port]), Passes)
        .ip("from and to port zero", &there([0, 0]), Passes)
        .ip("its answer", &back([0, 0]), Passes)
        .ip("without a checksum", &summless, Passes)
}

fn queries(pair: Pair, port: u16) -> Script {
    let back = pair.back();
    let stamp = |pair: Pair, kind| icmp(pair, (kind, 0), [0, 9, 0, 1], &[0; 12]);
    let script = Script::new("queries of ICMP", pair, [port, 0])
        .ip("a reply to nothing", &echo(back, true, port, 1), Dropped)
        .ip("a request", &echo(pair, false, port, 1), Passes)
        .ip("its reply", &echo(back, true, port, 1), Passes)
        .ip("once more", &echo(back, true, port, 1), Passes)
        .ip("of another number", &echo(back, true, port, 77), Passes)
        .ip("of another identifier", &echo(back, true, port + 1, 1), Dropped)
        .ip("a request the other way", &echo(back, false, port, 1), Dropped)
        .ip("a reply the other way", &echo(pair, true, port, 1), Dropped)
        .ip("an identifier of zero", &echo(pair, false, 0, 0), Passes);
    if pair.ipv6 {
        script.ip("a kind that nobody knows", &icmp(pair, (200, 0), [0; 4], b"?"), Differs(D::IcmpKinds))
    } else {
        script
            .ip("what time it is", &stamp(pair, 13), Passes)
            .ip("its answer", &stamp(back, 14), Differs(D::IcmpQueries))
            .ip("which mask", &icmp(pair, (17, 0), [0, 9, 0, 1], &[0; 4]), Passes)
            .ip("its answer", &icmp(back, (18, 0), [0, 9, 0, 1], &[0; 4]), Differs(D::IcmpQueries))
            .ip("a request with a code", &icmp(pair, (8, 3), [0, 9, 0, 2], b"code"), Passes)
            .ip("its reply", &icmp(back, (0, 3), [0, 9, 0, 2], b"code"), Differs(D::IcmpQueries))
            .ip("a kind that nobody knows", &icmp(pair, (40, 0), [0; 4], b"?"), Differs(D::IcmpKinds))
    }
}

fn errors(pair: Pair, port: u16) -> Script {
    let (back, other) = (pair.back(), Pair { to: pair.to + 1, ..pair });
    let question = udp(pair, [port, 53], b"question").bytes();
    let answer = udp(back, [53, port], b"answer").bytes();
    let never = udp(pair, [port + 1, 53], b"never").bytes();
    let foreign = udp(Pair { from: 1, ..pair }, [port, 53], b"of another").bytes();
    let request = echo(pair, false, port, 1);
    let mut cut = Vec::new();
    for length in [0, 8, 20, 24, 27, 28, 40, 44, 47, 48] {
        cut.push((length, unreachable(back, &question[..length.min(question.len())])));
    }
    let nested = unreachable(back, &unreachable(pair, &answer).bytes());
    let mut script = Script::new("errors of ICMP", pair, [port, 0])
        .ip("about nothing", &unreachable(back, &question), Dropped)
        .ip("a question", &udp(pair, [port, 53], b"question"), Passes)
        .ip("its port is closed", &unreachable(back, &question), Passes)
        .ip("too long for some way", &too_big(back, &question), Passes)
        .ip("about another question", &unreachable(back, &never), Dropped)
        .ip("about a packet of a third", &unreachable(back, &foreign), Dropped)
        .ip("about an error", &nested, Dropped)
        .ip("by who asked, about his own", &unreachable(pair, &question), Dropped)
        .ip("an answer", &udp(back, [53, port], b"answer"), Passes)
        .ip("nobody hears it", &unreachable(pair, &answer), Passes)
        .ip("a request", &request, Passes)
        .ip("nobody is there", &unreachable(back, &request.bytes()), Passes)
        .ip("to another host than asked", &unreachable(Pair { to: 1, ..back }, &question), Dropped)
        .ip(
            "of another than was asked",
            &unreachable(Pair { from: other.to, ..back }, &question),
            Differs(D::ErrorFromElsewhere),
        );
    for (length, packet) in cut {
        let enough = length >= if pair.ipv6 { 44 } else { 24 };
        let expected = if enough { Passes } else { Dropped };
        script = script.ip(&format!("of which {length} bytes are quoted"), &packet, expected);
    }
    script
}

/// That a packet is too long for a link.
fn too_big(pair: Pair, about: &[u8]) -> Ip {
    let about = &about[..about.len().min(100)];
    if pair.ipv6 { icmp(pair, (2, 0), [0, 0, 5, 0], about) } else { icmp(pair, (3, 4), [0, 0, 5, 0], about) }
}

fn others(pair: Pair, port: u16) -> Script {
    let back = pair.back();
    let gre = |pair, version: u8, key: u32| {
        let mut upper = vec![0x20, version, 8, 0];
        upper.extend(key.to_be_bytes());
        upper.extend([0; 20]);
        Ip::new(pair, GRE, upper)
    };
    let esp = |pair, spi: u32| Ip::new(pair, ESP, [&spi.to_be_bytes()[..], &[0; 28]].concat());
    let raw = |pair, protocol| Ip::new(pair, protocol, vec![0; 24]);
    let udp_lite = |pair, ports: [u16; 2]| Ip { protocol: 136, first: 136, ..udp(pair, ports, b"lite") };
    Script::new("other protocols", pair, [port, 0])
        .ip("GRE to nothing", &gre(back, 0, 1), Dropped)
        .ip("GRE", &gre(pair, 0, 1), Passes)
        .ip("another key back", &gre(back, 0, 2), Passes)
        .ip("PPTP's", &gre(pair, 1, 0x0100_0007), Differs(D::GreCalls))
        .ip("ESP", &esp(pair, 77), Passes)
        .ip("another index back", &esp(back, 78), Passes)
        .ip("SCTP INIT", &sctp(pair, [port, 80], 0, 1), Passes)
        .ip("INIT ACK", &sctp(back, [80, port], 1, 2), Passes)
        .ip("COOKIE ECHO", &sctp(pair, [port, 80], 1, 10), Passes)
        .ip("COOKIE ACK", &sctp(back, [80, port], 1, 11), Passes)
        .ip("DATA", &sctp(pair, [port, 80], 1, 0), Passes)
        .ip("DATA of another tag", &sctp(pair, [port, 80], 99, 0), Differs(D::SctpStates))
        .ip("of another port", &sctp(back, [81, port], 1, 0), Dropped)
        .ip("DATA without INIT", &sctp(pair, [port, 82], 1, 0), Differs(D::SctpStates))
        .ip("DCCP", &raw(pair, 33), Passes)
        .ip("back", &raw(back, 33), Passes)
        .ip("UDP-Lite", &udp_lite(pair, [port, 53]), Passes)
        .ip("UDP-Lite of other ports", &udp_lite(back, [99, 98]), Differs(D::UdpLite))
        .ip("protocol 253", &raw(pair, 253), Passes)
        .ip("back", &raw(back, 253), Passes)
        .ip("protocol 255", &raw(pair, 255), Passes)
        .ip("IP in IP", &Ip::new(pair, 4, udp(Pair { ipv6: false, ..pair }, [1, 2], b"x").bytes()), Passes)
        .ip("VRRP", &raw(pair, 112), Passes)
}

fn broken(pair: Pair, port: u16) -> Script {
    let syn = Segment {
        ports: [port, 80],
        flags: SYN,
        sequence: 1,
        acknowledgment: 0,
        window: 100,
        options: vec![],
        data: 0,
    };
    let wrong = |mut packet: Ip, at: usize| {
        packet.payload[at] ^= 0x55;
        packet
    };
    let cut = |mut packet: Ip, length: usize| {
        packet.payload.truncate(length);
        packet
    };
    let set = |mut packet: Ip, at: usize, value: u8| {
        packet.payload[at] = value;
        packet
    };
    let mut script = Script::new("broken", pair, [port, 80])
        .ip("TCP with a wrong checksum", &wrong(syn.packet(pair), 16), Differs(D::Checksum))
        .ip("UDP with a wrong checksum", &wrong(udp(pair, [port, 53], b"data"), 6), Differs(D::Checksum))
        .ip("an echo with a wrong checksum", &wrong(echo(pair, false, port, 1), 2), Differs(D::Checksum))
        .ip("TCP cut at 19", &cut(syn.packet(pair), 19), Dropped)
        .ip("TCP cut at 8", &cut(syn.packet(pair), 8), Dropped)
        .ip("TCP cut at 0", &cut(syn.packet(pair), 0), Dropped)
        .ip("TCP with a header of 16 bytes", &set(syn.packet(pair), 12, 0x40), Dropped)
        .ip("TCP with a header of 24 bytes", &set(syn.packet(pair), 12, 0x60), Dropped)
        .ip("UDP cut at 7", &cut(udp(pair, [port, 53], b"data"), 7), Dropped)
        .ip("UDP that says 7", &set(udp(pair, [port, 53], b"data"), 5, 7), Dropped)
        .ip("UDP that says 0", &set(udp(pair, [port, 53], b"data"), 5, 0), Dropped)
        .ip("UDP that says more", &set(udp(pair, [port, 53], b"data"), 5, 13), Dropped)
        .ip("UDP that says less", &set(udp(pair, [port, 53], b"data"), 5, 11), Differs(D::Checksum))
        .ip("an echo cut at 7", &cut(echo(pair, false, port, 1), 7), Dropped)
        .ip("an echo cut at 3", &cut(echo(pair, false, port, 1), 3), Dropped)
        .ip("SCTP cut at 11", &cut(sctp(pair, [port, 80], 0, 1), 11), Dropped)
        .ip("SCTP with a wrong checksum", &wrong(sctp(pair, [port + 1, 80], 0, 1), 8), Differs(D::Checksum))
        .ip("SCTP without chunks", &cut(sctp(pair, [port + 2, 80], 0, 1), 12), Differs(D::SctpStates))
        .ip("GRE of no byte", &Ip::new(pair, GRE, vec![]), Passes);
    if pair.ipv6 {
        let chain =
            |first, options: &[u8]| Ip { first, options: options.to_vec(), ..udp(pair, [port, 53], b"far") };
        let pad = [1, 4, 0, 0, 0, 0];
        let header = |next: u8| [&[next, 0][..], &pad].concat();
        let many = |count: usize| [vec![header(60); count - 1].concat(), header(UDP)].concat();
        script = script
            .ip("hop-by-hop options", &chain(0, &header(UDP)), Passes)
            .ip("destination options", &chain(60, &header(UDP)), Passes)
            .ip("both", &chain(0, &[header(60), header(UDP)].concat()), Passes)
            .ip(
                "hop-by-hop options in the second place",
                &chain(60, &[header(0), header(UDP)].concat()),
                Differs(D::ExtensionHeaders),
            )
            .ip(
                "a routing header that is done",
                &chain(43, &[UDP, 0, 4, 0, 0, 0, 0, 0]),
                Differs(D::ExtensionHeaders),
            )
            .ip("a routing header of type 0", &chain(43, &[UDP, 0, 0, 0, 0, 0, 0, 0]), Passes)
            .ip("an atomic fragment", &chain(44, &[UDP, 0, 0, 0, 0, 0, 0, 9]), Passes)
            .ip("seven headers", &chain(60, &many(7)), Passes)
            .ip("nine headers", &chain(60, &many(9)), Differs(D::ExtensionHeaders))
            .ip("a header past the end", &chain(60, &[UDP, 200, 1, 4, 0, 0, 0, 0]), Dropped)
            .ip(
                "no next header",
                &Ip { first: 59, ..Ip::new(pair, 59, vec![0; 8]) },
                Differs(D::NoNextHeader),
            )
            .ip("AH around UDP", &chain(51, &[&[UDP, 4, 0, 0][..], &[0; 20]].concat()), Passes);
    } else {
        let mut padded = udp(pair, [port, 53], b"options");
        padded.options = vec![1, 1, 1, 0];
        script = script.ip("options", &padded, Passes);
    }
    script
}

fn fragments(pair: Pair, port: u16) -> Script {
    let whole = |number: u16| udp(pair, [port + 100 + number, 53], &[7; 72]);
    let of = |number: u16, parts: &[(usize, usize)]| {
        whole(number).fragments(100 + number + u16::from(pair.ipv6) * 100, parts)
    };
    let from = pair.from;
    let first_alone = of(8, &[(0, 40)]);
    let later_alone = of(9, &[(40, 40)]);
    Script::new("fragments", pair, [port, 53])
        .add("two in order", from, of(0, &[(0, 40), (40, 40)]), Passes)
        .add("three in order", from, of(1, &[(0, 24), (24, 24), (48, 32)]), Passes)
        .add("the last first", from, of(2, &[(40, 40), (0, 40)]), Differs(D::FragmentOrder))
        .add("the middle last", from, of(3, &[(0, 24), (48, 32), (24, 24)]), Passes)
        .add("one twice", from, of(4, &[(0, 40), (0, 40), (40, 40)]), Passes)
        .add("one twice after the end", from, of(5, &[(0, 40), (40, 40), (40, 40)]), Passes)
        .add("overlapping", from, of(6, &[(0, 40), (32, 48)]), Differs(D::FragmentOverlap))
        .add("inside another", from, of(7, &[(0, 48), (24, 8), (48, 32)]), Passes)
        .add("the first alone", from, first_alone, Differs(D::FragmentIncomplete))
        .add("a later one alone", from, later_alone, Dropped)
        .add("a first one of 8 bytes", from, of(10, &[(0, 8), (8, 72)]), Passes)
        .add("a last one far beyond", from, of(11, &[(0, 40), (65_528, 40)]), Differs(D::FragmentIncomplete))
}
