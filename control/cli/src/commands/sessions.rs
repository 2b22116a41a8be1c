//! `towpath sessions`

use super::shadow::end;
use crate::Failed;
use crate::args::{Format, SessionArgs};
use crate::output::{Column, structured, table, time_span};
use api::{Client, pb};
use std::io::Write;

/// Sessions that are asked for at once: the daemon's answers stay small, however many there are.
const PAGE: u32 = 5_000;

/// Lists live sessions.
pub(crate) async fn run(
    client: &mut Client,
    wanted: SessionArgs,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), Failed> {
    let name = |text: &Option<String>| text.as_deref().map(super::object).transpose();
    let (port, vpc) = (name(&wanted.port)?, name(&wanted.vpc)?);
    let mut sessions: Vec<pb::Session> = Vec::new();
    let mut from = None;
    let more = loop {
        let missing = wanted.limit.saturating_sub(sessions.len() as u32);
        if missing == 0 {
            break true;
        }
        let request = pb::ListSessionsRequest {
            port: port.as_ref().map(pb::ObjectName::from),
            vpc: vpc.as_ref().map(pb::ObjectName::from),
            address: wanted.address.clone(),
            protocol: wanted.protocol.clone(),
            limit: missing.min(PAGE),
            from,
        };
        let page = client.list_sessions(request).await?;
        sessions.extend(page.sessions);
        from = page.next;
        if from.is_none() {
            break false;
        }
    };
    if structured(out, format, &sessions)? {
        return Ok(());
    }
    show(out, &sessions, format == Format::Wide)?;
    if more {
        writeln!(out, "\nThere may be more: see --limit and the filters.")?;
    }
    Ok(())
}

fn show(out: &mut dyn Write, sessions: &[pb::Session], wide: bool) -> Result<(), Failed> {
    let mut columns = vec![
        Column::text("PROTOCOL"),
        Column::text("STATE"),
        Column::text("FROM"),
        Column::text("SOURCE"),
        Column::text("DESTINATION"),
        Column::text("TO"),
        Column::text("TRANSLATED"),
        Column::number("PACKETS"),
        Column::number("BYTES"),
        Column::text("AGE"),
        Column::text("IDLE"),
        Column::text("TIMEOUT"),
    ];
    if wide {
        columns.extend([Column::text("VPC"), Column::text("PAID BY")]);
    }
    table(out, &columns, &sessions.iter().map(|session| row(session, wide)).collect::<Vec<_>>())
}

fn row(session: &pb::Session, wide: bool) -> Vec<String> {
    let flow = |flow: &Option<pb::SessionFlow>| flow.clone().unwrap_or_default();
    let (there, back) = (flow(&session.initiator), flow(&session.responder));
    let state = match (&session.state, session.half_open) {
        (Some(state), _) => state.clone(),
        (None, true) => "unreplied".to_owned(),
        (None, false) => String::new(),
    };
    let both = |there: u64, back: u64| format!("{there}/{back}");
    let [source, destination, from, to] = [
        (&there.source, there.source_port),
        (&there.destination, there.destination_port),
        (&back.source, back.source_port),
        (&back.destination, back.destination_port),
    ]
    .map(|(address, port)| end(address, port));
    // What the other end sees, where that is something else.
    let translated = match (source == to, destination == from) {
        (true, true) => String::new(),
        _ => format!("{to} > {from}"),
    };
    let mut row = vec![
        session.protocol.clone(),
        state,
        place(&there),
        source,
        destination,
        place(&back),
        translated,
        both(there.packets, back.packets),
        both(there.bytes, back.bytes),
        time_span(session.age_seconds),
        time_span(session.idle_seconds),
        time_span(session.timeout_seconds),
    ];
    if wide {
        row.extend([there.vpc, session.owner.clone()]);
    }
    row
}

/// Where packets come in.
fn place(flow: &pb::SessionFlow) -> String {
    flow.port.clone().unwrap_or_else(|| "elsewhere".to_owned())
}
