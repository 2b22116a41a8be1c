//! Tables, JSON and YAML.

use crate::Failed;
use crate::args::Format;
use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use serde::Serialize;
use std::io::Write;

/// Writes a value as JSON or YAML; `false` when a table is wanted, which the caller writes.
pub(crate) fn structured<T: Serialize>(
    out: &mut dyn Write,
    format: Format,
    value: &T,
) -> Result<bool, Failed> {
    match format {
        Format::Table | Format::Wide => return Ok(false),
        Format::Json => {
            let text =
                serde_json::to_string_pretty(value).map_err(|error| Failed::Refused(error.to_string()))?;
            writeln!(out, "{text}")?;
        }
        Format::Yaml => {
            let text = serde_saphyr::to_string(value).map_err(|error| Failed::Refused(error.to_string()))?;
            write!(out, "{text}")?;
            if !text.ends_with('\n') {
                writeln!(out)?;
            }
        }
    }
    Ok(true)
}

/// One column of a table.
pub(crate) struct Column {
    title: &'static str,
    number: bool,
}

impl Column {
    /// Text, at the left.
    pub(crate) const fn text(title: &'static str) -> Self {
        Self { title, number: false }
    }

    /// A number, at the right.
    pub(crate) const fn number(title: &'static str) -> Self {
        Self { title, number: true }
    }
}

/// Writes a table without lines, colours or wrapping, as scripts and people read it.
pub(crate) fn table(out: &mut dyn Write, columns: &[Column], rows: &[Vec<String>]) -> Result<(), Failed> {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|column| cell(column, column.title)));
    for row in rows {
        table.add_row(columns.iter().zip(row).map(|(column, text)| cell(column, &printable(text))));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn cell(column: &Column, text: &str) -> Cell {
    let alignment = if column.number { CellAlignment::Right } else { CellAlignment::Left };
    Cell::new(if text.is_empty() { "-" } else { text }).set_alignment(alignment)
}

/// Writes `Name:  value` lines, values in one column; an empty name continues the value above.
pub(crate) fn pairs(out: &mut dyn Write, pairs: &[(&str, String)]) -> Result<(), Failed> {
    let width = pairs.iter().map(|(name, _)| name.len() + 1).max().unwrap_or(0);
    for (name, value) in pairs {
        let name = if name.is_empty() { String::new() } else { format!("{name}:") };
        writeln!(out, "{name:width$}  {}", printable(value))?;
    }
    Ok(())
}

/// `text` without control characters, which could move the cursor or forge lines.
pub(crate) fn printable(text: &str) -> String {
    let invisible = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if invisible(character) { out.extend(character.escape_unicode()) } else { out.push(character) }
    }
    out
}

/// `1.25 M` for 1250000: three digits and a decimal prefix, so that rates can be compared at a glance.
pub(crate) fn scaled(value: f64, unit: &str) -> String {
    let steps = [("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)];
    match steps.into_iter().find(|(_, step)| value >= *step) {
        Some((prefix, step)) => format!("{:.2} {prefix}{unit}", value / step),
        None => format!("{value:.0} {unit}"),
    }
}

/// `3d 4h`, `4h 12m`, `12m 3s`, `3s`: the two greatest parts.
pub(crate) fn time_span(seconds: f64) -> String {
    // A negative or endless span is cut to what a number of seconds can say.
    let seconds = seconds.max(0.0) as u64;
    let parts =
        [(seconds / 86400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let first = parts.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    let shown: Vec<String> =
        parts.iter().skip(first).take(2).map(|(count, unit)| format!("{count}{unit}")).collect();
    shown.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_plain_aligned_and_cannot_be_forged() {
        let mut out = Vec::new();
        let columns = [Column::text("NAME"), Column::number("PACKETS")];
        let rows = [vec!["a".into(), "5".into()], vec!["b\u{1b}[2J\nc".into(), String::new()]];
        table(&mut out, &columns, &rows).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains('\u{1b}'));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].starts_with("NAME") && lines[0].ends_with("PACKETS"), "{text}");
        assert!(lines[1].ends_with("      5"), "{text}");
        assert!(lines[2].ends_with('-'), "{text}");
    }

    #[test]
    fn quantities_for_people() {
        assert_eq!(scaled(1_250_000.0, "bps"), "1.25 Mbps");
        assert_eq!(scaled(0.0, "pps"), "0 pps");
        assert_eq!(time_span(0.2), "0s");
        assert_eq!(time_span(3723.0), "1h 2m");
        assert_eq!(time_span(-1.0), "0s");
        assert_eq!(time_span(86400.0 * 3.0 + 7200.0), "3d 2h");
    }
}
