//! The in-process front end against a switch nobody here wrote.

use std::time::Duration;

use towpath_tests::Result;
use towpath_tests::frontend::{Frontend, ping_pong};
use towpath_tests::manifests::Port;
use towpath_tests::scratch::Scratch;
use towpath_tests::testpmd::Testpmd;

const LIMIT: Duration = Duration::from_secs(20);

#[test]
#[ignore = "needs DPDK: run by `make test`"]
fn packets_pass_testpmd_unchanged_and_again_after_a_new_connection() -> Result<()> {
    let scratch = Scratch::new()?;
    let ports = [0, 1].map(|number| Port::number(number, scratch.path()));
    let _switch = Testpmd::switch(&scratch, "switch", [&ports[0].socket, &ports[1].socket])?;
    let mut one = Frontend::attach_within(&ports[0].socket, LIMIT)?;
    let mut other = Frontend::attach_within(&ports[1].socket, LIMIT)?;
    ping_pong((&mut one, &ports[0]), (&mut other, &ports[1]), 1000, LIMIT)?;
    drop(one);
    let mut one = Frontend::attach_within(&ports[0].socket, LIMIT)?;
    ping_pong((&mut one, &ports[0]), (&mut other, &ports[1]), 1000, LIMIT)?;
    Ok(())
}
