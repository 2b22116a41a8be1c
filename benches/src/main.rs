//! `towpath-bench`: a vhost-user load generator, and the comparison of towpathd with its peers.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use towpath_bench::{
    compare::{self, CompareArgs},
    inproc::{self, InprocArgs},
    policy::{self, PolicyArgs},
    run::{self, RunArgs},
    scale::{self, ScaleArgs},
    vxlan::{self, VxlanArgs},
};

/// Load generator for vhost-user switches.
#[derive(Debug, Parser)]
#[command(name = "towpath-bench", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure one vhost-user back end: be the guests on both sides, send, check and count
    Run(Box<RunArgs>),
    /// Switch-bound throughput: minimal guests on one core, towpathd's worker on another, in this process
    Inproc(Box<InprocArgs>),
    /// Compare towpathd with testpmd and Open vSwitch: table, picture and compare.json
    Compare(Box<CompareArgs>),
    /// What a tunnel costs a packet, out and in, beside plain forwarding: workers in this process, by turns
    Vxlan(Box<VxlanArgs>),
    /// A million endpoints: how long until a worker sees them, what they take, and what is lost while they change
    Scale(Box<ScaleArgs>),
    /// What rules and sessions cost a packet, new sessions per second, and how soon a change of rules is seen
    Policy(Box<PolicyArgs>),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Inproc(args) => inproc::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Vxlan(args) => vxlan::run(&args),
        Command::Scale(args) => scale::run(&args),
        Command::Policy(args) => policy::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("towpath-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
