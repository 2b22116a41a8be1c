//! What a person sees: a line while something runs, a line with PASS or FAIL when it has ended.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use towpath_tests::Result;

/// Between two lines of progress where lines cannot be written over.
const QUIET: Duration = Duration::from_secs(10);

/// The table, row by row.
pub(crate) struct Report {
    rows: Vec<Row>,
    notes: Vec<String>,
    begin: Instant,
    step: Instant,
    shown: Instant,
    terminal: bool,
}

struct Row {
    what: &'static str,
    seconds: f32,
    outcome: Result<String>,
}

impl Report {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            rows: Vec::new(),
            notes: Vec::new(),
            begin: now,
            step: now,
            shown: now,
            terminal: io::stderr().is_terminal(),
        }
    }

    /// Begin a row.
    pub(crate) fn begin(&mut self, what: &str) {
        self.step = Instant::now();
        self.shown = self.step;
        if self.terminal {
            self.progress(what);
        }
    }

    /// Say how far the present row is.
    pub(crate) fn progress(&mut self, text: &str) {
        if self.terminal {
            eprint!("\r\x1b[K  ...  {text}");
            let _ = io::stderr().flush();
        } else if self.shown.elapsed() > QUIET {
            self.shown = Instant::now();
            eprintln!("  ...  {text}");
        }
    }

    /// End a row.
    pub(crate) fn end(&mut self, what: &'static str, outcome: Result<String>) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
        let seconds = self.step.elapsed().as_secs_f32();
        let row = Row { what, seconds, outcome };
        println!("{}", line(&row));
        self.rows.push(row);
    }

    /// Keep a text to be printed below the table.
    pub(crate) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// Print what belongs below the table, and say whether all passed.
    pub(crate) fn finish(&self) -> bool {
        let failed = self.rows.iter().filter(|row| row.outcome.is_err()).count();
        for note in &self.notes {
            println!("\n{note}");
        }
        for row in &self.rows {
            if let Err(error) = &row.outcome {
                let reasons: Vec<String> = error.chain().map(ToString::to_string).collect();
                println!("\n{}:\n{}", row.what, reasons.join("\nbecause: "));
            }
        }
        println!(
            "\n{} of {} passed in {:.0} s",
            self.rows.len() - failed,
            self.rows.len(),
            self.begin.elapsed().as_secs_f32()
        );
        failed == 0
    }
}

fn line(row: &Row) -> String {
    let (verdict, text) = match &row.outcome {
        Ok(text) => ("PASS", text.clone()),
        Err(error) => ("FAIL", error.root_cause().to_string().lines().next().unwrap_or_default().to_owned()),
    };
    format!("  {verdict}  {:<42} {:>5.1} s  {text}", row.what, row.seconds)
}
