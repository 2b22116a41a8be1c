//! TCP connections, followed from their headers.
//!
//! Each half keeps what its own packets said: how far they went, what they acknowledged, how much they allowed the other side. The state of the
//! connection, and what either side may send, are computed from both halves when a packet comes, so a packet writes its own half only. Rules and limits are those of Linux'
//! `nf_conntrack_proto_tcp.c` (after G. van Rooij, "Real Stateful TCP Packet Filtering in IP Filter", 2001); a test judges the same packets by both
//! (`tests/tests/conntrack`, `docs/conntrack.md`). It differs in these ways:
//!
//! * selective acknowledgements are not read: the cumulative one is behind them by at most a window, which the limits allow for;
//! * the largest window a side ever offered is kept rounded up to a power of two, so that duplicates may be up to twice as old;
//! * a FIN counts as acknowledged when its sequence number is, not when any packet follows it;
//! * a window that a sender overruns does not become larger by that;
//! * of a connection that both sides begin anew while this one seems to live, windows are not enforced;
//! * a reset right behind its sender's last data counts, whatever came in between; one beyond the window does not pass;
//! * retransmissions are not counted: data that stays unacknowledged shortens the life of an established connection from its first.

use packet::tcp::{ACK, FIN, RST, SYN, Segment, URG};

use super::TcpTimeouts;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "named as in RFC 9293, as seen from the middle")]
pub enum TcpState {
    SynSent,
    /// Both sides opened.
    SynSent2,
    SynReceived,
    /// Met in its middle; the other side has not answered yet.
    Unanswered,
    Established,
    /// One side is done, the other has not acknowledged it.
    FinWait,
    CloseWait,
    /// Both sides are done, not both acknowledged.
    LastAck,
    TimeWait,
    /// Reset.
    Closed,
}

impl TcpState {
    /// Whether both sides have not yet agreed to the connection.
    #[inline(always)]
    #[must_use]
    pub const fn is_half_open(self) -> bool {
        matches!(self, Self::SynSent | Self::SynSent2 | Self::SynReceived | Self::Unanswered)
    }

    const fn is_closing(self) -> bool {
        matches!(self, Self::FinWait | Self::CloseWait | Self::LastAck | Self::TimeWait | Self::Closed)
    }

    pub(super) const fn timeout(self, timeouts: &TcpTimeouts) -> u32 {
        match self {
            Self::SynSent | Self::SynSent2 => timeouts.syn_sent,
            Self::SynReceived => timeouts.syn_received,
            Self::Unanswered => timeouts.unacknowledged,
            Self::Established => timeouts.established,
            Self::FinWait => timeouts.fin_wait,
            Self::CloseWait => timeouts.close_wait,
            Self::LastAck => timeouts.last_ack,
            Self::TimeWait => timeouts.time_wait,
            Self::Closed => timeouts.close,
        }
    }

    /// For listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SynSent => "syn-sent",
            Self::SynSent2 => "syn-sent-2",
            Self::SynReceived => "syn-received",
            Self::Unanswered => "unanswered",
            Self::Established => "established",
            Self::FinWait => "fin-wait",
            Self::CloseWait => "close-wait",
            Self::LastAck => "last-ack",
            Self::TimeWait => "time-wait",
            Self::Closed => "closed",
        }
    }
}

// The flags of a half. Bits 0 to 3: the shift of its windows, 15 if it offered none. Bits 4 to 8: logarithm of the largest window it offered.
const SCALE: u16 = 0xf;
const WINDOW_SHIFT: u32 = 4;
const WINDOW: u16 = 0x1f << WINDOW_SHIFT;
/// Met in its middle: the window scales are unknown, limits are not enforced.
const LIBERAL: u16 = 1 << 9;
const SENT_SYN: u16 = 1 << 10;
const SENT_SYN_ACK: u16 = 1 << 11;
/// Sent something after its SYN; of other protocols: sent something.
pub(super) const SENT: u16 = 1 << 12;
pub(super) const SENT_FIN: u16 = 1 << 13;
const SENT_RST: u16 = 1 << 14;
/// `edge` and `acknowledged` say something.
const ACKNOWLEDGES: u16 = 1 << 15;

/// How far behind acknowledgements may be at least.
const LEAST_WINDOW: u32 = 66_000;

/// What one side said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) flags: u16,
    /// The number after the last it sent.
    pub(super) end: u32,
    /// The number after the last that the other side may send.
    pub(super) edge: u32,
    pub(super) acknowledged: u32,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It belongs; what its sender said so far.
    Accept(Peer),
    /// It may go on and does not count, but for this much of what its sender said so far.
    Ignore(Peer),
    Invalid,
    /// It opens the connection anew: a first packet.
    Reopen,
}

/// Whether `a` comes after `b`.
#[inline(always)]
const fn after(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32) < 0
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Syn,
    SynAck,
    Fin,
    Ack,
    Rst,
}

/// `None` for flags that no correct host sends together (null, xmas, SYN with FIN, FIN without ACK).
#[inline(always)]
const fn kind(flags: u8) -> Option<Kind> {
    const SYN_URG: u8 = SYN | URG;
    const SYN_ACK: u8 = SYN | ACK;
    const RST_ACK: u8 = RST | ACK;
    const FIN_ACK: u8 = FIN | ACK;
    const FIN_ACK_URG: u8 = FIN | ACK | URG;
    const ACK_URG: u8 = ACK | URG;
    match flags & (SYN | ACK | RST | FIN | URG) {
        ACK | ACK_URG => Some(Kind::Ack),
        SYN | SYN_URG => Some(Kind::Syn),
        SYN_ACK => Some(Kind::SynAck),
        FIN_ACK | FIN_ACK_URG => Some(Kind::Fin),
        RST | RST_ACK => Some(Kind::Rst),
        _ => None,
    }
}

impl Peer {
    /// Nothing was heard of this side.
    pub(super) const SILENT: Peer = Peer { flags: SCALE, end: 0, edge: 0, acknowledged: 0 };

    #[inline(always)]
    const fn has(&self, flags: u16) -> bool {
        self.flags & flags != 0
    }

    #[inline(always)]
    const fn is_silent(&self) -> bool {
        !self.has(SENT_SYN | SENT_SYN_ACK | SENT | SENT_FIN | SENT_RST)
    }

    /// The largest window it offered, rounded up.
    #[inline(always)]
    const fn window(&self) -> u32 {
        1 << ((self.flags & WINDOW) >> WINDOW_SHIFT)
    }

    #[inline(always)]
    const fn offer(&mut self, window: u32) {
        let wanted = (32 - window.saturating_sub(1).leading_zeros()) as u16;
        if wanted > (self.flags & WINDOW) >> WINDOW_SHIFT {
            self.flags = self.flags & !WINDOW | wanted << WINDOW_SHIFT;
        }
    }

    /// The shift of its windows, which counts if both sides offered one.
    #[inline(always)]
    const fn scale(&self, other: &Peer) -> u16 {
        let (own, others) = (self.flags & SCALE, other.flags & SCALE);
        if own < SCALE && others < SCALE { own } else { 0 }
    }

    /// From its SYN, or from a packet in the middle.
    fn begin(&mut self, facts: &Segment, window: u32, end: u32) {
        let scale = facts.scale.map_or(SCALE, |scale| u16::from(scale.min(14)));
        let scale = if facts.flags & SYN != 0 { scale } else { self.flags & SCALE };
        self.flags = self.flags & !(SCALE | WINDOW) | scale;
        self.end = end;
        self.offer(window.max(1));
    }

    /// The initiator of a connection that is open sent another SYN: it has forgotten the connection, or somebody else sent it.
    #[inline(always)]
    const fn asks_anew(&self) -> bool {
        self.has(SENT) && !self.has(SENT_SYN | SENT_SYN_ACK | LIBERAL)
    }

    /// Both sides begin anew, this one with such a packet: what it said before is void. What the first SYN offered nobody kept, so limits are not enforced.
    fn anew(facts: &Segment, flags: u16) -> Step {
        let mut peer = Self::SILENT;
        peer.begin(facts, facts.window.into(), facts.end());
        peer.acknowledge(facts.acknowledgment, facts.window.into());
        peer.flags |= flags;
        Step::Accept(peer)
    }

    /// What it sends ends behind this: all before was acknowledged long ago.
    #[inline(always)]
    const fn oldest(&self, receiver: &Peer) -> u32 {
        self.end.wrapping_sub(receiver.window()).wrapping_sub(1)
    }

    /// Whether it acknowledges what the receiver did not send, and whether that was acknowledged long ago.
    #[inline(always)]
    const fn mistakes(&self, receiver: &Peer, acknowledgment: u32) -> (bool, bool) {
        let window = if self.window() > LEAST_WINDOW { self.window() } else { LEAST_WINDOW };
        let oldest = receiver.end.wrapping_sub(window).wrapping_sub(1);
        (after(acknowledgment, receiver.end), !after(acknowledgment, oldest))
    }

    /// Whether everything it sent, a FIN included, was acknowledged.
    const fn is_acknowledged(&self, other: &Peer) -> bool {
        other.has(ACKNOWLEDGES) && !after(self.end, other.acknowledged)
    }
}

/// Where the connection stands.
#[inline(always)]
pub(super) fn state(initiator: &Peer, responder: &Peer) -> TcpState {
    let either = initiator.flags | responder.flags;
    if either & (SENT_FIN | SENT_RST) != 0 {
        return closing(initiator, responder);
    }
    let answered = either & SENT_SYN_ACK != 0 || responder.has(SENT);
    if initiator.has(SENT) && answered || initiator.has(SENT_SYN_ACK) && responder.has(SENT) {
        TcpState::Established
    } else if either & SENT_SYN_ACK != 0 {
        TcpState::SynReceived
    } else if responder.has(SENT_SYN) {
        TcpState::SynSent2
    } else if initiator.has(SENT_SYN) {
        TcpState::SynSent
    } else {
        TcpState::Unanswered
    }
}

fn closing(initiator: &Peer, responder: &Peer) -> TcpState {
    let acknowledged = [initiator.is_acknowledged(responder), responder.is_acknowledged(initiator)];
    match (initiator.has(SENT_FIN), responder.has(SENT_FIN)) {
        _ if (initiator.flags | responder.flags) & SENT_RST != 0 => TcpState::Closed,
        (true, true) if acknowledged == [true, true] => TcpState::TimeWait,
        (true, true) => TcpState::LastAck,
        (true, false) if acknowledged[0] => TcpState::CloseWait,
        (false, true) if acknowledged[1] => TcpState::CloseWait,
        _ => TcpState::FinWait,
    }
}

/// How long a connection lives after its last packet.
pub(super) fn timeout(initiator: &Peer, responder: &Peer, timeouts: &TcpTimeouts) -> u32 {
    let state = state(initiator, responder);
    let whole = state.timeout(timeouts);
    let heard = initiator.is_acknowledged(responder) && responder.is_acknowledged(initiator);
    if state == TcpState::Established && !heard { whole.min(timeouts.unacknowledged) } else { whole }
}

/// The initiator after the first packet of a session; `None` if no connection begins so, nor goes on.
pub(super) fn open(facts: &Segment) -> Option<Peer> {
    let mut peer = Peer::SILENT;
    let kind = kind(facts.flags)?;
    let end = facts.sequence.wrapping_add(facts.payload).wrapping_add(u32::from(kind == Kind::Syn));
    peer.begin(facts, facts.window.into(), end);
    match kind {
        Kind::Syn => peer.flags |= SENT_SYN,
        Kind::Ack => {
            peer.flags |= SENT | LIBERAL;
            peer.acknowledge(facts.acknowledgment, facts.window.into());
        }
        _ => return None,
    }
    Some(peer)
}

impl Peer {
    #[inline(always)]
    const fn acknowledge(&mut self, acknowledgement: u32, window: u32) {
        let edge = acknowledgement.wrapping_add(window).wrapping_add((window == 0) as u32);
        if !self.has(ACKNOWLEDGES) {
            self.flags |= ACKNOWLEDGES;
            self.acknowledged = acknowledgement;
            self.edge = edge;
            return;
        }
        self.acknowledged = later(self.acknowledged, acknowledgement);
        self.edge = later(self.edge, edge);
    }
}

/// A packet of the initiator (`from_initiator`) or of the responder.
#[inline(always)]
pub(super) fn step(from_initiator: bool, sender: Peer, receiver: &Peer, facts: &Segment) -> Step {
    if let Some(sender) = ordinary(sender, receiver, facts) {
        return Step::Accept(sender);
    }
    match kind(facts.flags) {
        Some(kind) => seldom(from_initiator, sender, receiver, facts, kind),
        None => Step::Invalid,
    }
}

/// Nearly all packets: data and acknowledgments, within the windows, of a connection that both sides are in. The same as [`in_window`] says, without what they need not. The flags of the
/// sender stay as they are.
#[inline(always)]
pub(super) fn ordinary(mut sender: Peer, receiver: &Peer, facts: &Segment) -> Option<Peer> {
    const BOTH: u16 = SENT | ACKNOWLEDGES;
    const EITHER: u16 = SENT_FIN | SENT_RST;
    let open = sender.flags & receiver.flags & BOTH == BOTH && (sender.flags | receiver.flags) & EITHER == 0;
    if !open || facts.flags & (SYN | FIN | RST | ACK) != ACK {
        return None;
    }
    let window = u32::from(facts.window) << sender.scale(receiver);
    let end = facts.sequence.wrapping_add(facts.payload);
    let (unsent, late) = sender.mistakes(receiver, facts.acknowledgment);
    let within =
        !after(facts.sequence, receiver.edge) & after(end, sender.oldest(receiver)) & !unsent & !late;
    if !within || window > sender.window() {
        return None;
    }
    let edge = facts.acknowledgment.wrapping_add(window).wrapping_add(u32::from(window == 0));
    sender.end = later(sender.end, end);
    sender.acknowledged = later(sender.acknowledged, facts.acknowledgment);
    sender.edge = later(sender.edge, edge);
    Some(sender)
}

#[inline(always)]
const fn later(a: u32, b: u32) -> u32 {
    if after(b, a) { b } else { a }
}

#[cold]
fn seldom(from_initiator: bool, sender: Peer, receiver: &Peer, facts: &Segment, kind: Kind) -> Step {
    use TcpState::{SynReceived, SynSent, SynSent2};
    let state = match from_initiator {
        true => state(&sender, receiver),
        false => state(receiver, &sender),
    };
    let opening = matches!(state, SynSent | SynSent2);
    if let Some(step) = begins_anew(from_initiator, sender, receiver, facts, (kind, state)) {
        return step;
    }
    let accepted = match (kind, from_initiator) {
        (Kind::Syn, _) => opening,
        (Kind::SynAck, true) => matches!(state, SynSent2 | SynReceived),
        (Kind::SynAck, false) if !opening => return Step::Ignore(sender),
        (Kind::SynAck, false) => true,
        (Kind::Fin, _) => !opening,
        (Kind::Ack, false) if opening => return Step::Ignore(sender),
        (Kind::Ack, _) => !opening,
        (Kind::Rst, _) => return reset(sender, receiver, facts, state),
    };
    if !accepted {
        return Step::Invalid;
    }
    let restarts = kind == Kind::Syn || kind == Kind::SynAck && opening;
    match in_window(sender, receiver, facts, restarts) {
        Step::Accept(mut sender) => {
            sender.flags |= match kind {
                Kind::Syn => SENT_SYN,
                Kind::SynAck => SENT_SYN_ACK,
                Kind::Fin => SENT_FIN | SENT,
                Kind::Ack | Kind::Rst => SENT,
            };
            Step::Accept(sender)
        }
        other => other,
    }
}

/// What becomes of the packets of a handshake where a session is already.
fn begins_anew(
    from_initiator: bool,
    sender: Peer,
    receiver: &Peer,
    facts: &Segment,
    (kind, state): (Kind, TcpState),
) -> Option<Step> {
    use TcpState::{Closed, SynSent, SynSent2, TimeWait};
    match (kind, from_initiator) {
        (Kind::Syn, true) if matches!(state, TimeWait | Closed) => Some(Step::Reopen),
        (Kind::Syn, false) if state == TimeWait => Some(Step::Reopen),
        (Kind::Syn, true) if !matches!(state, SynSent | SynSent2) => {
            let forgotten = if sender.has(SENT) { SENT_SYN } else { 0 };
            Some(Step::Ignore(Peer { flags: sender.flags & !forgotten, ..sender }))
        }
        // Nobody is there, says who was asked anew.
        (Kind::Rst, false) if receiver.asks_anew() && facts.sequence == 0 && facts.flags & ACK != 0 => {
            Some(Step::Accept(Peer { flags: sender.flags | SENT_RST, ..sender }))
        }
        (Kind::SynAck, false) if receiver.asks_anew() => Some(Peer::anew(facts, SENT_SYN_ACK | LIBERAL)),
        (Kind::Ack, true) if sender.asks_anew() && receiver.has(LIBERAL) => {
            Some(Peer::anew(facts, SENT_SYN | SENT))
        }
        _ => None,
    }
}

/// A reset counts if it is exactly where the other side waits (RFC 5961 section 3.2); elsewhere in the window it may go on, to be challenged.
fn reset(sender: Peer, receiver: &Peer, facts: &Segment, state: TcpState) -> Step {
    let closed = |mut sender: Peer| {
        sender.flags |= SENT_RST;
        Step::Accept(sender)
    };
    if state.is_closing() {
        return closed(sender);
    }
    let established = state == TcpState::Established;
    // Where the other side waits, or after the sender's own last data, which the other side may not have acknowledged yet.
    let exact = facts.sequence == receiver.acknowledged || facts.sequence == sender.end;
    if receiver.has(ACKNOWLEDGES)
        && (facts.sequence != 0 || established)
        && after(receiver.acknowledged, facts.sequence)
    {
        return Step::Invalid;
    }
    match in_window(sender, receiver, facts, false) {
        Step::Accept(_) if receiver.has(ACKNOWLEDGES) && established && !exact => Step::Ignore(sender),
        Step::Accept(sender) => closed(sender),
        other => other,
    }
}

/// Whether the packet lies where its sender may send and acknowledges what was sent, and what its sender said then. `restarts`: a SYN that replaces an earlier one.
fn in_window(before: Peer, receiver: &Peer, facts: &Segment, restarts: bool) -> Step {
    let (mut sender, syn) = (before, facts.flags & SYN != 0);
    let mut first = facts.sequence;
    let mut end = facts.end();
    let window = u32::from(facts.window) << if syn { 0 } else { sender.scale(receiver) };
    let begins = sender.is_silent() || restarts && after(end, sender.end);
    if begins {
        sender.begin(facts, window, end);
    }
    let acknowledges = facts.flags & ACK != 0 && !(facts.flags & RST != 0 && facts.acknowledgment == 0);
    if first == end && first == 0 && facts.flags & RST != 0 && !receiver.has(ACKNOWLEDGES) {
        // Answers the SYN of who acknowledged nothing itself.
        (first, end) = (sender.end, sender.end);
    }
    let beyond = receiver.has(ACKNOWLEDGES) && !(begins && syn) && after(first, receiver.edge);
    let recent = receiver.is_silent() || after(end, sender.oldest(receiver));
    let (unsent, late) = match acknowledges && !receiver.is_silent() {
        true => sender.mistakes(receiver, facts.acknowledgment),
        false => (false, false),
    };
    let liberal = (sender.flags | receiver.flags) & LIBERAL != 0 && facts.flags & RST == 0;
    if !liberal && (unsent || beyond || late || !recent) {
        let overrun = end.wrapping_sub(receiver.edge).wrapping_add(1);
        let resets = facts.flags & RST != 0;
        return match beyond {
            _ if unsent => Step::Invalid,
            true if resets || late || !recent || overrun > receiver.window() => Step::Invalid,
            // Some senders do not keep to the window. What they send is acknowledged, perhaps, and that must not look wrong then.
            true => Step::Ignore(Peer { end, ..before }),
            // Sent once more, or long under way.
            false => Step::Ignore(before),
        };
    }
    sender.offer(window);
    sender.end = later(sender.end, end);
    if acknowledges {
        sender.acknowledge(facts.acknowledgment, window);
    }
    Step::Accept(sender)
}
