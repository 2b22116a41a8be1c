//! DPDK's own driver on all ten of its ring paths.

use anyhow::{Context, ensure};
use towpath_tests::testpmd::{RING_PATHS, TX_ADDRESSES, Testpmd};
use towpath_tests::{Result, wait};

use crate::{LIMIT, Setting};

#[test]
#[ignore = "needs DPDK: run by `make test`"]
fn packets_go_round_on_all_ten_ring_paths_and_none_is_lost() -> Result<()> {
    // Testpmd's packets keep its own IP addresses wherever they go.
    let setting = Setting::<2>::start_with(|port| {
        port.allowed = TX_ADDRESSES.split(',').map(|a| a.parse().unwrap()).collect();
    })?;
    let [one, other] = &setting.ports;
    for path in &RING_PATHS {
        let mut guests = Testpmd::guests(&setting.scratch, "guests", [one, other], path)?;
        for port in &setting.ports {
            setting.daemon.until_phase(&port.name, "Forwarding")?;
        }
        guests.send_round(1)?;
        let mut last = [0, 0];
        wait::until(path.name, LIMIT, || {
            last = guests.received()?;
            Ok(last.iter().all(|&n| n > 10_000).then_some(()))
        })
        .with_context(|| format!("received {last:?}; {}", setting.describe()))?;
        let status = setting.daemon.port(&one.name)?["status"].take();
        let layout = if path.name.starts_with("packed") { "packed" } else { "split" };
        ensure!(status["ringLayout"] == layout, "{}: {status}", path.name);
        ensure!(status["phase"] == "Forwarding", "{}: {status}", path.name);
    }
    Ok(())
}
