//! `towpath status`

use crate::Failed;
use crate::args::Format;
use crate::output::{pairs, structured, time_span};
use api::{Client, pb};
use std::io::Write;

/// Shows the daemon.
pub(crate) async fn run(client: &mut Client, format: Format, out: &mut dyn Write) -> Result<(), Failed> {
    let status = client.status().await?;
    if structured(out, format, &status)? {
        return Ok(());
    }
    pairs(out, &lines(&status))
}

fn lines(status: &pb::StatusReply) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("Version", status.version.clone()),
        ("Host", status.host.clone()),
        ("Process", status.pid.to_string()),
        ("Uptime", time_span(status.uptime_seconds)),
        ("Workers", status.workers.to_string()),
        ("Ports", counts(&status.ports)),
        ("Resources", counts(&status.resources)),
    ];
    if let Some(uplink) = &status.uplink {
        let pb::Uplink { device, driver, mtu, link, .. } = uplink;
        let addresses = uplink.addresses.join(", ");
        lines.push(("Uplink", format!("{device} ({driver}): {addresses}, MTU {mtu}, link {link}")));
    }
    let mut section = |title, texts: Vec<String>| {
        let titles = std::iter::once(title).chain(std::iter::repeat(""));
        lines.extend(titles.zip(texts));
    };
    let source = |source: &pb::ConfigSource| match &source.path {
        Some(path) => format!("{} {path}: {}", source.kind, source.detail),
        None => format!("{}: {}", source.kind, source.detail),
    };
    section("Configuration", status.sources.iter().map(source).collect());
    if let Some(reload) = &status.reload {
        let outcome = match reload.applied {
            true => "applied".to_owned(),
            false => "refused, nothing changed:".to_owned(),
        };
        section("Last reload", std::iter::once(outcome).chain(reload.problems.iter().cloned()).collect());
    }
    section("Alarms", status.alarms.clone());
    section("Does without", status.lacks.clone());
    lines
}

/// `3: 2 Forwarding, 1 Listening`
fn counts(counts: &std::collections::BTreeMap<String, u64>) -> String {
    let total: u64 = counts.values().sum();
    let parts: Vec<String> = counts.iter().map(|(word, count)| format!("{count} {word}")).collect();
    match parts.is_empty() {
        true => "0".to_owned(),
        false => format!("{total}: {}", parts.join(", ")),
    }
}
