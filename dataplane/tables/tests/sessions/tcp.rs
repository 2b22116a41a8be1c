//! Segments that no correct host sends, or not then (P-35).

use packet::tcp::{ACK, FIN, PSH, RST, SYN, Segment, URG};
use towpath_tables::sessions::*;

use crate::*;

/// A session whose initiator sent a SYN with number 100.
struct Connection {
    worker: SessionWorker,
    session: SessionRef,
    table: std::sync::Arc<Sessions>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Invalid,
    Gone,
}

use Outcome::{Gone, Invalid, Passed};

impl Connection {
    fn from_segment(segment: Segment) -> Option<Self> {
        let (table, mut worker) = table(16);
        let facts = Facts { tcp: Some(segment), ..packet(MAC_B, 60) };
        match worker.create(&New { facts, ..new(tcp(1), 0) }) {
            Ok(Created::New(session)) => Some(Self { worker, session, table }),
            Err(Refused::Invalid) => None,
            other => panic!("{other:?}"),
        }
    }

    fn opening() -> Self {
        Self::from_segment(segment(MAC_B, SYN, 100, 0, 0).tcp.unwrap()).unwrap()
    }

    /// Both sides have sent and acknowledged nothing but their SYN.
    fn established() -> Self {
        let mut connection = Self::opening();
        assert_eq!(connection.back(SYN | ACK, 500, 101, 0), Passed);
        assert_eq!(connection.there(ACK, 101, 501, 0), Passed);
        assert_eq!(connection.state(), TcpState::Established);
        connection
    }

    fn send(&mut self, session: SessionRef, facts: &Facts) -> Outcome {
        match self.worker.check(session.found(), facts, EPOCH, 1, never) {
            Checked::Pass(_) => Passed,
            Checked::Invalid(_) => Invalid,
            Checked::Gone => Gone,
            Checked::Stale(_) => panic!("nothing changed"),
        }
    }

    fn there(&mut self, flags: u8, sequence: u32, acknowledgment: u32, payload: u32) -> Outcome {
        self.send(self.session, &segment(MAC_B, flags, sequence, acknowledgment, payload))
    }

    fn back(&mut self, flags: u8, sequence: u32, acknowledgment: u32, payload: u32) -> Outcome {
        self.send(self.session.opposite(), &segment(MAC_A, flags, sequence, acknowledgment, payload))
    }

    fn state(&self) -> TcpState {
        self.table.describe(self.session, 1).state.unwrap()
    }
}

#[test]
fn p35_flags_that_do_not_go_together_are_no_connection() {
    for flags in 0..=255u8 {
        let begins = matches!(flags & (SYN | ACK | FIN | RST | URG), f if f == SYN || f == SYN | URG || f == ACK || f == ACK | URG);
        let segment = Segment { flags, sequence: 100, window: 1000, ..Segment::default() };
        assert_eq!(Connection::from_segment(segment).is_some(), begins, "{flags:#x}");
    }
    for flags in [0, FIN, FIN | PSH | URG, SYN | FIN, SYN | FIN | ACK, SYN | RST, FIN | RST, 0xff] {
        let mut connection = Connection::established();
        assert_eq!(connection.there(flags, 101, 501, 0), Invalid, "{flags:#x}");
        assert_eq!(connection.back(flags, 501, 101, 0), Invalid, "{flags:#x}");
        assert_eq!(connection.state(), TcpState::Established);
    }
}

#[test]
fn p35_a_reset_closes_only_where_the_other_side_waits() {
    for (sequence, outcome, state) in [
        (100, Invalid, TcpState::Established),
        (101, Passed, TcpState::Closed),
        (102, Passed, TcpState::Established),
        (101 + 1000, Passed, TcpState::Established),
        (101 + 1001, Invalid, TcpState::Established),
        (0, Invalid, TcpState::Established),
        (101u32.wrapping_add(1 << 31), Invalid, TcpState::Established),
    ] {
        let mut connection = Connection::established();
        assert_eq!(connection.there(RST, sequence, 0, 0), outcome, "{sequence}");
        assert_eq!(connection.state(), state, "{sequence}");
    }
    let mut refused = Connection::opening();
    assert_eq!(refused.back(RST | ACK, 0, 5000, 0), Invalid, "acknowledges what was not sent");
    assert_eq!(refused.back(RST | ACK, 0, 101, 0), Passed);
    assert_eq!(refused.state(), TcpState::Closed);
    let mut train = Connection::established();
    assert_eq!(train.there(ACK, 101, 501, 19), Passed);
    assert_eq!(train.there(RST, 120, 0, 0), Passed, "after its own data");
    assert_eq!(train.state(), TcpState::Closed);
}

#[test]
fn p35_what_is_out_of_the_window_does_not_belong() {
    let mut connection = Connection::established();
    assert_eq!(connection.there(ACK, 101, 501, 1000), Passed, "all of the window");
    assert_eq!(connection.there(ACK, 1101, 501, 1), Passed, "its right edge: a probe");
    assert_eq!(connection.there(ACK, 1103, 501, 1), Passed, "a sender that does not keep to the window");
    assert_eq!(connection.there(ACK, 2200, 501, 1), Invalid, "by more than a window");
    assert_eq!(connection.there(ACK, 2200, 501, 0), Invalid, "without data, too");
    assert_eq!(connection.there(ACK, 101, 502, 0), Invalid, "acknowledges what was not sent");
    assert_eq!(connection.there(ACK, 101u32.wrapping_sub(70_000), 501, 10), Passed, "old, without effect");
    assert_eq!(connection.back(ACK, 501, 1105, 0), Invalid, "acknowledges what was not sent");
    assert_eq!(connection.back(ACK, 501, 1104, 0), Passed, "what was sent beyond the window");
    let old = 1102u32.wrapping_sub(70_000);
    assert_eq!(connection.back(ACK, 501, old, 0), Passed, "an acknowledgment of long ago, without effect");
    assert_eq!(connection.there(ACK, 1104, 501, 1000), Passed, "the window moved");
    assert_eq!(connection.state(), TcpState::Established);
}

#[test]
fn what_passes_without_effect_keeps_no_connection_alive() {
    let mut connection = Connection::established();
    assert_eq!(connection.there(ACK, 101, 501, 100), Passed);
    let left = |connection: &Connection, now| connection.table.describe(connection.session, now).left;
    let late = 200_000;
    let before = left(&connection, late);
    for (what, flags, sequence, payload) in [
        ("old data", ACK, 101u32.wrapping_sub(70_000), 10),
        ("a SYN", SYN, 7_000_000, 0),
        ("a reset", RST, 300, 0),
    ] {
        let facts = segment(MAC_B, flags, sequence, 501, payload);
        let checked = connection.worker.check(connection.session.found(), &facts, EPOCH, late, never);
        assert!(matches!(checked, Checked::Pass(_)), "{what}");
        assert_eq!(left(&connection, late), before, "{what}");
    }
    let facts = segment(MAC_B, ACK, 201, 501, 10);
    assert!(matches!(
        connection.worker.check(connection.session.found(), &facts, EPOCH, late, never),
        Checked::Pass(_)
    ));
    assert!(left(&connection, late) > before);
}

#[test]
fn who_begins_anew_may_be_refused() {
    let mut connection = Connection::established();
    assert_eq!(connection.there(ACK, 101, 501, 10), Passed);
    assert_eq!(connection.back(RST | ACK, 0, 7_000_001, 0), Invalid, "nobody asked");
    assert_eq!(connection.there(SYN, 7_000_000, 0, 0), Passed);
    assert_eq!(connection.back(RST | ACK, 0, 7_000_001, 0), Passed);
    assert_eq!(connection.state(), TcpState::Closed);
}

#[test]
fn both_sides_may_begin_anew_while_we_think_that_they_talk() {
    for done in [false, true] {
        let mut connection = Connection::established();
        assert_eq!(connection.there(ACK, 101, 501, 10), Passed);
        if done {
            assert_eq!(connection.back(FIN | ACK, 501, 111, 0), Passed);
        }
        assert_eq!(
            connection.back(SYN | ACK, 90_000, 7_000_001, 0),
            Passed,
            "to nothing: it changes nothing"
        );
        assert_eq!(connection.there(ACK, 7_000_001, 90_001, 0), Invalid);
        assert_eq!(connection.there(SYN, 7_000_000, 0, 0), Passed);
        assert_eq!(connection.back(ACK, 501, 111, 0), Passed, "who knows of a connection says so");
        assert_eq!(connection.there(ACK, 111, 501, 10), Passed, "it goes on, if somebody else sent the SYN");
        assert_eq!(connection.there(SYN, 7_000_000, 0, 0), Passed);
        assert_eq!(connection.back(SYN | ACK, 90_000, 7_000_001, 0), Passed);
        assert_eq!(connection.there(ACK, 7_000_001, 90_001, 0), Passed);
        assert_eq!(connection.there(ACK, 7_000_001, 90_001, 10), Passed);
        assert_eq!(connection.back(ACK, 90_001, 7_000_011, 10), Passed);
        assert_eq!(connection.state(), TcpState::Established);
        assert_eq!(connection.back(RST, 501, 0, 0), Invalid, "of the connection before");
        assert_eq!(connection.there(FIN | ACK, 7_000_011, 90_011, 0), Passed);
        assert_eq!(connection.back(FIN | ACK, 90_011, 7_000_012, 0), Passed);
        assert_eq!(connection.there(ACK, 7_000_012, 90_012, 0), Passed);
        assert_eq!(connection.state(), TcpState::TimeWait);
    }
}

#[test]
fn p35_sequence_numbers_wrap() {
    let start = u32::MAX - 10;
    let segment = |flags, sequence| Segment { flags, sequence, window: 1000, ..Segment::default() };
    let mut connection = Connection::from_segment(segment(SYN, start)).unwrap();
    assert_eq!(connection.back(SYN | ACK, u32::MAX, start + 1, 0), Passed);
    assert_eq!(connection.there(ACK, start + 1, 0, 500), Passed);
    assert_eq!(connection.back(ACK, 0, start.wrapping_add(501), 100), Passed);
    assert_eq!(connection.there(ACK, start.wrapping_add(501), 100, 900), Passed);
    assert_eq!(connection.there(ACK, start.wrapping_add(5000), 100, 900), Invalid);
}

#[test]
fn p35_window_scales_count_if_both_sides_offer_one() {
    for (offers, edge) in [
        ([Some(14), Some(7)], 1000 << 7),
        ([Some(14), None], 1000),
        ([None, Some(7)], 1000),
        ([Some(255), Some(14)], 1000 << 14),
    ] {
        let of = |flags, sequence, acknowledgment, scale| Segment {
            flags,
            sequence,
            acknowledgment,
            payload: 0,
            window: 1000,
            scale,
        };
        let mut connection = Connection::from_segment(of(SYN, 100, 0, offers[0])).unwrap();
        let answer = Facts { tcp: Some(of(SYN | ACK, 500, 101, offers[1])), ..packet(MAC_A, 60) };
        assert_eq!(connection.send(connection.session.opposite(), &answer), Passed);
        assert_eq!(connection.there(ACK, 101, 501, 0), Passed);
        // Only what comes after the SYN is scaled.
        assert_eq!(connection.back(ACK, 501, 101, 0), Passed);
        assert_eq!(connection.there(ACK, 101 + edge, 501, 1), Passed, "{offers:?}");
        // A window that is overrun may be so by as much again; it is known to a power of two.
        assert_eq!(
            connection.there(ACK, 101 + edge + edge.next_power_of_two(), 501, 1),
            Invalid,
            "{offers:?}"
        );
    }
}

#[test]
fn p35_simultaneous_open_and_split_handshakes_become_connections() {
    let mut simultaneous = Connection::opening();
    assert_eq!(simultaneous.back(SYN, 500, 0, 0), Passed);
    assert_eq!(simultaneous.state(), TcpState::SynSent2);
    assert_eq!(simultaneous.there(SYN | ACK, 100, 501, 0), Passed);
    assert_eq!(simultaneous.back(SYN | ACK, 500, 101, 0), Passed);
    assert_eq!(simultaneous.state(), TcpState::SynReceived);
    assert_eq!(simultaneous.there(ACK, 101, 501, 10), Passed);
    assert_eq!(simultaneous.state(), TcpState::Established);
    let mut split = Connection::opening();
    assert_eq!(split.back(ACK, 300, 101, 0), Passed, "passes, and says nothing");
    assert_eq!(split.state(), TcpState::SynSent);
    assert_eq!(split.back(SYN, 500, 0, 0), Passed);
    assert_eq!(split.there(SYN | ACK, 100, 501, 0), Passed);
    assert_eq!(split.back(ACK, 501, 101, 0), Passed);
    assert_eq!(split.state(), TcpState::Established);
}

#[test]
fn p35_data_before_the_handshake_is_over() {
    let syn = Segment { flags: SYN, sequence: 100, payload: 50, window: 1000, ..Segment::default() };
    let mut fast_open = Connection::from_segment(syn).unwrap();
    assert_eq!(fast_open.there(ACK, 151, 0, 10), Invalid, "no answer yet");
    assert_eq!(fast_open.there(FIN | ACK, 151, 0, 0), Invalid);
    assert_eq!(fast_open.back(SYN | ACK, 500, 151, 0), Passed);
    assert_eq!(fast_open.there(ACK, 151, 501, 10), Passed);
    let mut partly = Connection::from_segment(syn).unwrap();
    assert_eq!(partly.back(SYN | ACK, 500, 101, 0), Passed, "the data was not taken");
    assert_eq!(partly.there(ACK, 101, 501, 50), Passed);
    assert_eq!(partly.state(), TcpState::Established);
}

#[test]
fn a_syn_in_a_connection_passes_and_changes_nothing() {
    let mut connection = Connection::established();
    assert_eq!(connection.there(SYN, 7_000_000, 0, 0), Passed, "its answer tells who is wrong");
    assert_eq!(connection.back(SYN, 1, 0, 0), Invalid, "who was asked does not ask");
    assert_eq!(connection.back(SYN | ACK, 9, 101, 0), Passed);
    assert_eq!(connection.state(), TcpState::Established);
    assert_eq!(connection.there(ACK, 101, 501, 5), Passed);
    assert_eq!(connection.there(RST, 101, 0, 0), Passed, "in the window, to be challenged");
    assert_eq!(connection.there(RST, 106, 0, 0), Passed);
    assert_eq!(connection.state(), TcpState::Closed);
    assert_eq!(connection.back(SYN, 1, 0, 0), Invalid);
    assert_eq!(connection.there(SYN, 1, 0, 0), Gone, "a new connection");
}

#[test]
fn a_connection_met_in_its_middle_is_followed_loosely() {
    let middle =
        Segment { flags: ACK, sequence: 5000, acknowledgment: 900, payload: 10, window: 10, scale: None };
    let mut connection = Connection::from_segment(middle).unwrap();
    assert_eq!(connection.state(), TcpState::Unanswered);
    assert!(connection.table.describe(connection.session, 1).half_open);
    assert_eq!(connection.back(ACK, 900, 5010, 100_000), Passed, "more than the unscaled window");
    assert_eq!(connection.state(), TcpState::Established);
    assert!(!connection.table.describe(connection.session, 1).half_open);
    assert_eq!(connection.there(FIN | ACK, 5010, 100_900, 0), Passed);
    assert_eq!(connection.back(FIN | ACK, 100_900, 5011, 0), Passed);
    assert_eq!(connection.there(ACK, 5011, 100_901, 0), Passed);
    assert_eq!(connection.state(), TcpState::TimeWait);
}

#[test]
fn lives_follow_the_state() {
    let mut connection = Connection::opening();
    let left = |connection: &Connection| connection.table.describe(connection.session, 1).left;
    assert_eq!(left(&connection), 120_000 - 1);
    connection.back(SYN | ACK, 500, 101, 0);
    assert_eq!(left(&connection), 60_000);
    connection.there(ACK, 101, 501, 0);
    assert_eq!(left(&connection), 432_000_000);
    connection.there(ACK, 101, 501, 10);
    assert_eq!(left(&connection), 300_000, "not acknowledged");
    connection.back(ACK, 501, 111, 0);
    assert_eq!(left(&connection), 432_000_000);
    connection.there(FIN | ACK, 111, 501, 0);
    assert_eq!(left(&connection), 120_000);
    connection.back(RST | ACK, 501, 112, 0);
    assert_eq!(left(&connection), 10_000);
    for now in (0..10_400).step_by(100) {
        connection.worker.step(now);
    }
    assert_eq!(connection.worker.find(tcp(1)), Found::NONE, "the wheel knew of the shorter life");
}
