//! The in-process front end against a switch nobody here wrote.

use std::time::{Duration, Instant};

use towpath_tests::Result;
use towpath_tests::frontend::{Frontend, ping_pong, udp};
use towpath_tests::manifests::Port;
use towpath_tests::scratch::Scratch;
use towpath_tests::testpmd::Testpmd;

const LIMIT: Duration = Duration::from_secs(20);
/// How long a packet may be on its way once testpmd forwards.
const ON_ITS_WAY: Duration = Duration::from_millis(300);

/// testpmd loses what comes before it took notice of both connections. Sends until something arrives, then takes away what follows it.
fn wake((from, from_port): (&mut Frontend, &Port), (to, to_port): (&mut Frontend, &Port)) -> Result<()> {
    let packet = udp(from_port, to_port, b"anybody there?")?;
    let begin = Instant::now();
    loop {
        from.send(&packet)?;
        match to.receive(ON_ITS_WAY) {
            Ok(_) => break,
            Err(error) if begin.elapsed() > LIMIT => return Err(error),
            Err(_) => {}
        }
    }
    while to.receive(ON_ITS_WAY).is_ok() {}
    Ok(())
}

#[test]
#[ignore = "needs DPDK: run by `make test`"]
fn packets_pass_testpmd_unchanged_and_again_after_a_new_connection() -> Result<()> {
    let scratch = Scratch::new()?;
    let ports = [0, 1].map(|number| Port::number(number, scratch.path()));
    let _switch = Testpmd::switch(&scratch, "switch", [&ports[0].socket, &ports[1].socket])?;
    let mut one = Frontend::attach_within(&ports[0].socket, LIMIT)?;
    let mut other = Frontend::attach_within(&ports[1].socket, LIMIT)?;
    wake((&mut one, &ports[0]), (&mut other, &ports[1]))?;
    wake((&mut other, &ports[1]), (&mut one, &ports[0]))?;
    ping_pong((&mut one, &ports[0]), (&mut other, &ports[1]), 1000, LIMIT)?;
    drop(one);
    let mut one = Frontend::attach_within(&ports[0].socket, LIMIT)?;
    wake((&mut one, &ports[0]), (&mut other, &ports[1]))?;
    wake((&mut other, &ports[1]), (&mut one, &ports[0]))?;
    ping_pong((&mut one, &ports[0]), (&mut other, &ports[1]), 1000, LIMIT)?;
    Ok(())
}
