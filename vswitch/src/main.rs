//! The `towpathd` binary: arguments, logging, exit status.

use clap::{Parser, ValueEnum};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use towpathd::daemon::{self, Options};
use tracing_subscriber::EnvFilter;

/// The Towpath virtual switch: gives virtual machines their VPC over vhost-user.
///
/// Without arguments and without /etc/towpath/towpathd.yaml it runs with defaults: one worker, no ports.
/// SIGHUP reads the manifests again and changes only what changed; SIGTERM ends it cleanly.
#[derive(Parser)]
#[command(name = "towpathd", version)]
struct Arguments {
    /// The daemon's own file (YAML); /etc/towpath/towpathd.yaml when that exists.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder (or file) of manifests to apply at start and on SIGHUP; wins over `manifests` in the file.
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// Validate the file and the manifests, print everything that is wrong, and exit (0: all is well, 1: it is not).
    #[arg(long)]
    check: bool,
    /// How log lines look. The level is set by TOWPATH_LOG (error, warn, info, debug, or per module).
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("TOWPATH_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let logging = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match arguments.log_format {
        LogFormat::Text => logging.with_ansi(std::io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => logging.json().init(),
    }
    let options = Options { config: arguments.config, manifests: arguments.manifests };
    let done = if arguments.check { daemon::check(&options) } else { daemon::run(&options) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("towpathd: {error:#}");
            ExitCode::FAILURE
        }
    }
}
