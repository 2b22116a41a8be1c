//! What happened, as a digest and, if asked, as text.

use std::fmt::Arguments;
use std::hash::{DefaultHasher, Hasher};

/// Hashes bytes; equal on every machine and in every run.
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Everything that happened in a run, in order.
#[derive(Debug)]
pub struct Trace {
    hasher: DefaultHasher,
    events: u64,
    print: bool,
}

impl Trace {
    /// An empty trace; `print` shows each event on standard output.
    #[must_use]
    pub fn new(print: bool) -> Self {
        Self { hasher: DefaultHasher::new(), events: 0, print }
    }

    /// Adds an event: what it is, when, and numbers that describe it.
    pub fn event(&mut self, now: u64, name: &'static str, values: &[u64]) {
        self.events += 1;
        self.hasher.write(name.as_bytes());
        self.hasher.write_u64(now);
        values.iter().for_each(|value| self.hasher.write_u64(*value));
        if self.print {
            let values: Vec<String> = values.iter().map(u64::to_string).collect();
            self.line(format_args!("{:>12.3} us {name} {}", now as f64 / 1e3, values.join(" ")));
        }
    }

    /// Adds an event that is best described in words.
    pub fn words(&mut self, now: u64, name: &'static str, text: &str) {
        self.event(now, name, &[hash(text.as_bytes())]);
        if self.print {
            self.line(format_args!("{:>16} {text}", ""));
        }
    }

    /// Adds an event that is a frame: shown in words, known by its hash.
    pub fn frame(&mut self, now: u64, name: &'static str, guest: usize, pair: usize, frame: &[u8]) {
        let key = hash(frame);
        self.event(now, name, &[guest as u64, pair as u64, key]);
        if self.print {
            self.line(format_args!("{:>16} {}", "", crate::net::read::describe(frame)));
        }
    }

    /// The digest so far.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.hasher.finish()
    }

    /// Events so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    fn line(&self, text: Arguments<'_>) {
        use std::io::Write;
        // A reader that went away ends the printing, not the run.
        let _ = writeln!(std::io::stdout(), "{text}");
    }
}
