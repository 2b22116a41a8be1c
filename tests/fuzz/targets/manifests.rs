//! Any text as manifests: problems are reported without a panic, and what is accepted says the same when it is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model::Environment;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let environment = Environment::default();
    match model::load_text(text, "fuzz.yaml", &environment) {
        Err(problems) => {
            assert!(!problems.is_empty());
            problems.iter().for_each(|problem| assert!(!problem.to_string().is_empty()));
        }
        Ok(set) => {
            let written: Vec<String> = set.iter().map(|resource| resource.to_json().to_string()).collect();
            let again = model::load_text(&written.join("\n---\n"), "again.yaml", &environment);
            let again = again.unwrap_or_else(|problems| panic!("{problems:?} in {written:?}"));
            let rewritten: Vec<String> = again.iter().map(|resource| resource.to_json().to_string()).collect();
            assert_eq!(written, rewritten);
        }
    }
});
