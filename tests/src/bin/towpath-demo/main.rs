//! `make demo`: what Towpath does, shown with two hosts and four QEMU guests, one line each, PASS or FAIL.
//!
//! Everything it starts ends with it, on every way out.

mod report;
mod steps;
mod world;

use std::process::ExitCode;

use anyhow::anyhow;
use report::Report;
use towpath_tests::{Result, interrupt};
use world::World;

/// What a shell expects of a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

fn show(report: &mut Report) {
    const START: &str = "two hosts and four guests are up";
    report.begin(START);
    let mut world = match World::start(report) {
        Ok(world) => {
            report.end(START, Ok("QEMU, Debian's cloud kernel, no KVM".to_owned()));
            world
        }
        Err(error) => {
            report.end(START, Err(error));
            for (what, _) in steps::STEPS {
                report.end(what, Err(anyhow!("not reached")));
            }
            return;
        }
    };
    // `towpath-demo WORD..`: only the rows with one of these words, to look at one thing again.
    let words: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |what: &str| words.is_empty() || words.iter().any(|word| what.contains(word.as_str()));
    for (what, step) in steps::STEPS.iter().filter(|(what, _)| wanted(what)) {
        report.begin(what);
        let outcome = interrupt::check().and_then(|()| step(&mut world, report));
        report.end(what, outcome);
    }
    const END: &str = "both towpathd end cleanly";
    report.begin(END);
    let end = world.hosts.iter_mut().try_for_each(|host| {
        let status = host.daemon.stop()?;
        let (name, tail) = (&host.name, host.daemon.process().tail());
        anyhow::ensure!(status.success(), "towpathd of {name} ended with {status}:\n{tail}");
        Ok(())
    });
    report.end(END, end.map(|()| "exit status 0 after SIGTERM".to_owned()));
}

fn main() -> Result<ExitCode> {
    interrupt::unwind_on_signals()?;
    let mut report = Report::new();
    show(&mut report);
    let passed = report.finish();
    Ok(match (passed, interrupt::asked()) {
        (_, true) => ExitCode::from(INTERRUPTED),
        (true, false) => ExitCode::SUCCESS,
        (false, false) => ExitCode::FAILURE,
    })
}
