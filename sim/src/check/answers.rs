//! What the switch writes over a packet and sends back must be an answer to it.

use crate::net::checksum::{fold, sum};
use crate::net::frame::ICMPV6;
use crate::net::read::{Neighbour, addresses, ethertype, macs, neighbour, transport};
use std::net::IpAddr;

/// The kinds of answers, as edges of the pipeline.
pub const NEIGHBOUR: &str = "neighbours > answered";
/// See [`NEIGHBOUR`].
pub const ECHO: &str = "route > ping answered";
/// See [`NEIGHBOUR`].
pub const ERROR: &str = "route > error sent";

/// Which kind an answer is.
#[must_use]
pub fn kind(answer: &[u8]) -> &'static str {
    match neighbour(answer) {
        Some(_) => NEIGHBOUR,
        None if is_error(answer) => ERROR,
        None => ECHO,
    }
}

fn icmp(frame: &[u8]) -> Option<(usize, bool, u8)> {
    let at = transport(frame).filter(|at| matches!(at.protocol, 1 | ICMPV6))?;
    Some((at.start, at.protocol == ICMPV6, *frame.get(at.start)?))
}

fn is_error(frame: &[u8]) -> bool {
    match icmp(frame) {
        Some((_, false, kind)) => matches!(kind, 3 | 11 | 12),
        Some((_, true, kind)) => kind < 128,
        None => false,
    }
}

/// Whether `answer` answers `question`: a neighbour's address, an echo, or an error that quotes it.
#[must_use]
pub fn is_answer(question: &[u8], answer: &[u8]) -> bool {
    let back = macs(question).zip(macs(answer)).is_some_and(|((_, asker), (to, _))| to == asker);
    match (neighbour(question), neighbour(answer)) {
        (Some(Neighbour::Asks(asked)), Some(Neighbour::Says(said, _))) => return back && asked == said,
        (None, None) => {}
        _ => return false,
    }
    back && (is_echo(question, answer) || quotes(question, answer).unwrap_or(false))
}

/// An echo reply with the request's addresses exchanged and its data.
fn is_echo(question: &[u8], answer: &[u8]) -> bool {
    let (Some((asked, v6, request)), Some((at, _, reply))) = (icmp(question), icmp(answer)) else {
        return false;
    };
    let kinds = if v6 { (128, 129) } else { (8, 0) };
    let exchanged = addresses(question).zip(addresses(answer)).is_some_and(|(q, a)| (q.1, q.0) == a);
    (request, reply) == kinds
        && exchanged
        && question.len() == answer.len()
        && question.get(asked + 4..) == answer.get(at + 4..)
}

/// An ICMP error from somebody else than who it quotes, to the sender, with as much of the packet as there is room for.
fn quotes(question: &[u8], answer: &[u8]) -> Option<bool> {
    let ((from, _), (_, to)) = (addresses(question)?, addresses(answer)?);
    let (_, l3) = ethertype(question)?;
    let error = transport(answer).filter(|_| is_error(answer))?;
    let quoted = answer.get(error.start + 8..error.end)?;
    let header_right = to.is_ipv6() || fold(sum(answer.get(14..34)?)) == 0xffff;
    let group = |address: IpAddr| address.is_multicast() || address.is_unspecified();
    Some(
        from == to
            && !group(from)
            && header_right
            && error.is_checksum_right(answer)
            && error.end == answer.len()
            && quoted.len() >= 28.min(question.len() - l3)
            && question.get(l3..)?.starts_with(quoted),
    )
}
