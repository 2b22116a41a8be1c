//! How it is found out whether a load balancer's targets live.

use crate::fields::{Fields, Parsed, Reader, Refusal};
use crate::load_balancer::{Listener, named, word};
use crate::quantity::TimeSpan;
use crate::security_group::Protocol;
use serde_json::{Value, json};

/// From one check to the next when nothing is written, at least, and at most.
const INTERVAL: (TimeSpan, TimeSpan, TimeSpan) = (TimeSpan(5_000), TimeSpan(1_000), TimeSpan(3_600_000));
/// How long a check may take when nothing is written, and at least. At most it is the interval.
const TIMEOUT: (TimeSpan, TimeSpan) = (TimeSpan(2_000), TimeSpan(100));
/// Bad checks in a row that make a target down, and good ones that make it up again, when nothing is written; and the most.
const AFTER: (u32, u32, u32) = (3, 2, 100);
/// Longest path, in bytes.
const PATH_MAX: usize = 256;

/// What a LoadBalancer says of checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What a target is asked.
    pub protocol: CheckProtocol,
    /// What is asked for over HTTP: begins with a slash, visible ASCII, at most 256 bytes. `/` otherwise.
    pub path: String,
    /// The target's port that is asked; that of the first TCP listener when none is written.
    pub port: u16,
    /// From one check to the next: 1 s to 1 h.
    pub interval: TimeSpan,
    /// How long one may take: 100 ms to the interval.
    pub timeout: TimeSpan,
    /// Bad checks in a row that make a target down: 1 to 100.
    pub unhealthy_after: u32,
    /// Good checks in a row that make it up again: 1 to 100.
    pub healthy_after: u32,
}

/// What a target is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CheckProtocol {
    /// Whether it takes connections.
    #[default]
    Tcp,
    /// A GET, which is to be answered with a status from 200 to 399.
    Http,
}

impl CheckProtocol {
    const WORDS: [(&'static str, Self); 2] = [("tcp", Self::Tcp), ("http", Self::Http)];
}

impl HealthCheck {
    /// Reads `healthCheck` of a balancer with these listeners; `None` when it is not written.
    pub(crate) fn read(fields: &mut Fields<'_>, reader: &mut Reader, listeners: &[Listener]) -> Option<Self> {
        let mut check = fields.mapping(reader, "healthCheck")?;
        let protocol = check.parse(reader, "protocol", |text| word(text, &CheckProtocol::WORDS));
        let protocol = protocol.unwrap_or_default();
        let path = check.parse(reader, "path", parse_path);
        if path.is_some() && protocol == CheckProtocol::Tcp {
            let refusal =
                Refusal::new("is of no use with protocol tcp", "remove it, or write protocol: http");
            reader.refuse(check.position, &check.path("path"), path.as_deref(), refusal);
        }
        let port = check.integer(reader, "port", 1..=u64::from(u16::MAX));
        let tcp = listeners.iter().find(|listener| listener.protocol == Protocol::TCP);
        let port =
            port.and_then(|port| u16::try_from(port).ok()).or(tcp.map(|listener| listener.target_port));
        if port.is_none() {
            check.missing(
                reader,
                "port",
                "no listener is of TCP: write which port of the targets is to be asked",
            );
        }
        let interval = check.parse(reader, "interval", |text| between(text, INTERVAL.1, INTERVAL.2));
        let interval = interval.unwrap_or(INTERVAL.0);
        let timeout = check.parse(reader, "timeout", |text| between(text, TIMEOUT.1, interval));
        let after = |check: &mut Fields<'_>, reader: &mut Reader, name, default| {
            let times = check.integer(reader, name, 1..=u64::from(AFTER.2));
            times.and_then(|times| u32::try_from(times).ok()).unwrap_or(default)
        };
        let unhealthy_after = after(&mut check, reader, "unhealthyAfter", AFTER.0);
        let healthy_after = after(&mut check, reader, "healthyAfter", AFTER.1);
        check.finish(reader);
        Some(Self {
            protocol,
            path: path.unwrap_or_else(|| "/".to_owned()),
            port: port?,
            interval,
            timeout: timeout.unwrap_or(TIMEOUT.0.min(interval)),
            unhealthy_after,
            healthy_after,
        })
    }

    /// As a manifest writes it.
    pub(crate) fn to_json(&self) -> Value {
        let mut json = json!({
            "protocol": named(self.protocol, &CheckProtocol::WORDS),
            "port": self.port,
            "interval": self.interval.to_string(),
            "timeout": self.timeout.to_string(),
            "unhealthyAfter": self.unhealthy_after,
            "healthyAfter": self.healthy_after,
        });
        if let (CheckProtocol::Http, Some(fields)) = (self.protocol, json.as_object_mut()) {
            fields.insert("path".to_owned(), json!(self.path));
        }
        json
    }
}

fn between(text: &str, least: TimeSpan, most: TimeSpan) -> Parsed<TimeSpan> {
    let span = TimeSpan::parse(text)?;
    match (least..=most).contains(&span) {
        true => Ok(span),
        false => Err(Refusal::new("out of range", format!("write a time from {least} to {most}"))),
    }
}

fn parse_path(text: &str) -> Parsed<String> {
    let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    if text.starts_with('/') && visible && text.len() <= PATH_MAX {
        return Ok(text.to_owned());
    }
    let remedy = "write a path of visible ASCII characters, as path: /healthz";
    Err(Refusal::new(format!("is no path, or longer than {PATH_MAX} bytes"), remedy))
}
