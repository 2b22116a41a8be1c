//! Any text as the daemon's own file: problems are reported without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use towpathd::config::{Config, Machine};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    thread_local!(static MACHINE: Machine = Machine::detect());
    MACHINE.with(|machine| {
        if let Err(problems) = Config::read(text, None, machine) {
            assert!(!problems.is_empty());
            problems.iter().for_each(|problem| assert!(!problem.to_string().is_empty()));
        }
    });
});
