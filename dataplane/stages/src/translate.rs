//! Gives packets of a session the addresses and ports by which its other end knows it. Load balancers, network address translation and floating addresses have that in common.
//!
//! Not a stage: a session's two keys say it all. Where they differ by more than direction, what comes in as one goes out as the other, reversed.

use buf::Checksum;
use engine::{Batch, DropReason};
use packet::nat::{self, Translated};
use packet::{Headers, icmp, quoted};
use tables::sessions::{AnyKey, Found, SessionRef, Sessions};

use crate::tuple::Tuple;

/// What the packets of a half become; `None` if they stay as they are.
pub(crate) fn of_session(table: &Sessions, session: SessionRef) -> Option<Translated> {
    if !table.is_translated(session) {
        return None;
    }
    let (own, opposite) = (table.key(session), table.key(session.opposite()));
    let (there, back) = (as_sent(&own), as_answered(&opposite));
    (there != back).then_some(back)
}

fn as_sent(key: &AnyKey) -> Translated {
    let ((source, destination), (first, second)) = (key.addresses(), key.ports());
    Translated { source, destination, ports: [first, second] }
}

fn as_answered(key: &AnyKey) -> Translated {
    let ((source, destination), (first, second)) = (key.addresses(), key.ports());
    Translated { source: destination, destination: source, ports: [second, first] }
}

/// Gives a packet other addresses and ports; a later fragment, which has no ports, other addresses.
///
/// # Errors
///
/// Its checksum cannot be mended.
#[cold]
pub(crate) fn apply(batch: &mut Batch<'_, '_>, index: usize, to: &Translated) -> Result<(), DropReason> {
    let partial = is_partial(batch, index);
    let Batch { burst, metadata, .. } = batch;
    let (packet, metadata) =
        burst.packet_mut(index).zip(metadata.get_mut(index)).ok_or(DropReason::Untranslatable)?;
    nat::translate(packet.head_mut(), &mut metadata.headers, to, partial).ok_or(DropReason::Untranslatable)
}

/// Gives a packet the addresses and ports by which the other end of its session knows it.
///
/// # Errors
///
/// As of [`apply`].
#[cold]
pub(crate) fn one(
    batch: &mut Batch<'_, '_>,
    index: usize,
    (table, found): (&Sessions, Found),
) -> Result<(), DropReason> {
    let to = found.session().and_then(|session| of_session(table, session));
    to.map_or(Ok(()), |to| apply(batch, index, &to))
}

/// Gives an ICMP error that comes in where a half's packets do the addresses that its receiver knows: those of the packet that it quotes, its destination, and its source
/// if that is the end of the session itself and no router on the way. Other errors stay as they are.
///
/// # Errors
///
/// What it quotes is too short.
#[cold]
pub(crate) fn apply_to_error(
    batch: &mut Batch<'_, '_>,
    index: usize,
    (table, session): (&Sessions, SessionRef),
) -> Result<(), DropReason> {
    let Some(to) = of_session(table, session) else { return Ok(()) };
    let own = as_sent(&table.key(session));
    let partial = is_partial(batch, index);
    let Batch { burst, metadata, .. } = batch;
    let (packet, metadata) =
        burst.packet_mut(index).zip(metadata.get_mut(index)).ok_or(DropReason::Untranslatable)?;
    let (head, headers) = (packet.head_mut(), &mut metadata.headers);
    let translated = quote(head, headers, &to, partial).and_then(|()| {
        let source = headers.source_ip(head).filter(|source| *source != own.source).unwrap_or(to.source);
        // The word behind the checksum is no identifier, and stays.
        let word = icmp::identifier(head, headers)?;
        let outer = Translated { source, destination: to.destination, ports: [word; 2] };
        nat::translate(head, headers, &outer, partial)
    });
    translated.ok_or(DropReason::Untranslatable)
}

/// What an error quotes was sent by the other end.
fn quote(head: &mut [u8], headers: &Headers, to: &Translated, partial: bool) -> Option<()> {
    let [source, destination] = to.ports;
    let quoted = Translated { source: to.destination, destination: to.source, ports: [destination, source] };
    nat::translate_quoted(head, headers, &quoted, partial)
}

/// An ICMP error that a router of this switch wrote over a packet that had been translated before quotes what its sender sent, and goes to the address that it sent from.
#[cold]
pub(crate) fn mend_answer(batch: &mut Batch<'_, '_>, index: usize, original: &Tuple) {
    let Some(packet) = batch.burst.packet_mut(index) else { return };
    let length = packet.len() as u32;
    let head = packet.head_mut();
    let Ok(mut headers) = packet::parse(head, length) else { return };
    if quoted::read(head, &headers).is_none() {
        return;
    }
    let Tuple { source, destination, .. } = *original;
    let to = Translated { source, destination, ports: original.ports() };
    // Nothing was written if it cannot be.
    let _ = nat::translate_quoted(head, &headers, &to, false).and_then(|()| {
        let (router, word) = headers.source_ip(head).zip(icmp::identifier(head, &headers))?;
        let outer = Translated { source: router, destination: source, ports: [word; 2] };
        nat::translate(head, &mut headers, &outer, false)
    });
}

fn is_partial(batch: &Batch<'_, '_>, index: usize) -> bool {
    matches!(batch.burst.offload(index).checksum, Checksum::Partial { .. })
}
