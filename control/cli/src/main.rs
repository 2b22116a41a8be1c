//! `towpath`, the command line of Towpath.
//!
//! [`args`] is what can be typed, one file of [`commands`] is what one command does, [`output`] turns results into tables,
//! JSON or YAML. Exit status: 0 done, 1 refused or failed, 2 usage, 3 daemon unreachable.

mod args;
mod commands;
mod output;

use api::ClientError;
use clap::Parser;
use std::io::{self, Write};
use std::process::ExitCode;

/// How a command ended, when it did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failed {
    /// Refused or failed; the text is for the person.
    Refused(String),
    /// Problems were printed already.
    Reported,
    /// The arguments make no sense together.
    Usage(String),
    /// No daemon answers.
    Unreachable(String),
    /// The output cannot be written.
    Output(io::Error),
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        let text = output::printable(&error.to_string());
        match error {
            ClientError::Unreachable { .. } => Self::Unreachable(text),
            ClientError::NotFound(_) | ClientError::Failed(_) => Self::Refused(text),
        }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

fn main() -> ExitCode {
    let args = args::Args::parse();
    let mut out = io::stdout().lock();
    let result = commands::run(args, &mut out).and_then(|()| out.flush().map_err(Failed::from));
    let (text, status) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        // The reader of a pipe went away: it has what it wanted.
        Err(Failed::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
        Err(Failed::Reported) => return ExitCode::from(1),
        Err(Failed::Refused(text)) => (text, 1),
        Err(Failed::Output(error)) => (format!("cannot write the output: {error}"), 1),
        Err(Failed::Usage(text)) => (text, 2),
        Err(Failed::Unreachable(text)) => (text, 3),
    };
    // Nothing is left to do about a closed stderr.
    let _ = writeln!(io::stderr(), "towpath: {text}");
    ExitCode::from(status)
}
