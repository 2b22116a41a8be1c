//! What `docs/guide/commands.md` shows is what `towpath` prints. Run with `TOWPATH_BLESS=1` after a change of the output.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;

use assert_cmd::Command;
use fake::FakeDaemon;
use std::path::Path;

/// Commands whose output the page shows, in its order.
const SHOWN: [&str; 16] = [
    "towpath status",
    "towpath get ports",
    "towpath get securitygroups",
    "towpath get loadbalancers",
    "towpath describe port vm1-eth0",
    "towpath describe securitygroup web",
    "towpath describe loadbalancer web-lb",
    "towpath shadow",
    "towpath shadow web",
    "towpath sessions",
    "towpath drops",
    "towpath workers",
    "towpath workers -o json",
    "towpath doctor",
    "towpath get subnets -o yaml",
    "towpath version",
];

fn printed(daemon: &FakeDaemon, line: &str) -> String {
    let mut command = Command::cargo_bin("towpath").unwrap();
    command.env_remove("TOWPATH_SOCKET").arg("--socket").arg(daemon.socket());
    let output = command.args(line.split(' ').skip(1)).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_guides_samples_are_what_is_printed() {
    let daemon = FakeDaemon::sample();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide/commands.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let mut updated = page.clone();
    for line in SHOWN {
        let begin = format!("```console\n$ {line}\n");
        let at = page.find(&begin);
        assert!(at.is_some(), "{} shows nothing of `{line}`", path.display());
        let shown = page.split(&begin).nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let printed = printed(&daemon, line);
        updated = updated.replace(&format!("{begin}{shown}```"), &format!("{begin}{printed}```"));
        if std::env::var_os("TOWPATH_BLESS").is_none() {
            assert_eq!(shown, printed, "`{line}`");
        }
    }
    if updated != page {
        std::fs::write(&path, updated).unwrap();
    }
}
