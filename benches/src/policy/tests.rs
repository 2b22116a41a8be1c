use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: PolicyArgs,
}

fn args(words: &str) -> PolicyArgs {
    Line::parse_from(std::iter::once("policy").chain(words.split(' '))).args
}

#[test]
fn packets_pass_with_and_without_rules_and_every_part_has_its_rows() {
    let args = args("--sessions 64,4096 --rounds 10 --changes 10");
    let cost = cost::rows(&args).unwrap();
    assert_eq!(cost.len(), 6);
    assert!(cost.iter().all(|row| row.value.is_finite()), "{cost:?}");
    let made = first::made(&args, Clock::calibrate()).unwrap();
    assert!(made.iter().all(|row| row.value > 0.0), "{made:?}");
    let first = first::rows(&args).unwrap();
    assert!(first[0].value > 0.0, "{first:?}");
}

#[test]
fn a_changed_rule_and_a_changed_member_are_seen() {
    let change = change::rows(&args("--changes 10")).unwrap();
    assert_eq!(change.len(), 2);
    assert!(change.iter().all(|row| row.value > 0.0), "{change:?}");
}

#[test]
fn others_get_something_beside_a_flood() {
    let flood = flood::rows(&args("--rounds 10")).unwrap();
    assert_eq!(flood.len(), 6);
    assert!(flood.iter().all(|row| row.value > 0.0), "{flood:?}");
}

#[test]
fn figures_are_compared_with_what_is_wanted() {
    let row = |value| Row::new("x", "y", [value; 3], value);
    assert_eq!(row(1.0).wanted(Wanted::AtMost(1.0)).pass, Some(true));
    assert_eq!(row(1.1).wanted(Wanted::AtMost(1.0)).pass, Some(false));
    assert_eq!(row(0.9).wanted(Wanted::AtLeast(1.0)).pass, Some(false));
}
