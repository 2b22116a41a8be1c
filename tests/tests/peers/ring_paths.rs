//! The ten ring paths of DPDK's driver through a switch nobody here wrote: what the generator does, before ours is judged by it.

use std::time::Duration;

use anyhow::Context;
use towpath_tests::manifests::Port;
use towpath_tests::scratch::Scratch;
use towpath_tests::testpmd::{RING_PATHS, Testpmd};
use towpath_tests::{Result, wait};

const LIMIT: Duration = Duration::from_secs(20);

#[test]
#[ignore = "needs DPDK: run by `make test`"]
fn packets_go_round_through_testpmd_on_all_ten_ring_paths() -> Result<()> {
    let scratch = Scratch::new()?;
    let ports = [0, 1].map(|number| Port::number(number, scratch.path()));
    let _switch = Testpmd::switch(&scratch, "switch", [&ports[0].socket, &ports[1].socket])?;
    for path in &RING_PATHS {
        let mut guests = Testpmd::guests(&scratch, "guests", [&ports[0], &ports[1]], path)?;
        guests.send_round(1)?;
        let mut last = [0, 0];
        wait::until(path.name, LIMIT, || {
            let now = guests.received()?;
            if now.contains(&0) || now == last {
                // Testpmd does not say when its rings are ready: what was sent before is lost.
                guests.send_another_round(1)?;
            }
            last = now;
            Ok(last.iter().all(|&n| n > 10_000).then_some(()))
        })
        .with_context(|| format!("{last:?}; {}", guests.process().log()))?;
    }
    Ok(())
}
