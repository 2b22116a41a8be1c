//! Front ends that hang up in the middle of a handshake, and those that come second. All other hostile cases: `tests/tests/hostile`.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, ensure};
use towpath_tests::frontend::ping_pong;
use towpath_tests::hostile::stage::Holdings;
use towpath_tests::manifests::Port;
use towpath_tests::{Result, wait};

use crate::{LIMIT, Setting};

/// Exchange packets between two ports until told to stop; every one must arrive. Returns how many.
fn bystand(setting: &Setting<4>, stop: &AtomicBool) -> Result<u32> {
    let ports = [&setting.ports[2], &setting.ports[3]];
    let (mut one, mut other) = (setting.attach(2)?, setting.attach(3)?);
    let mut passed = 0;
    while !stop.load(Ordering::Relaxed) {
        ping_pong((&mut one, ports[0]), (&mut other, ports[1]), 10, LIMIT)
            .with_context(|| format!("the bystander, after {passed} packets; {}", setting.describe()))?;
        passed += 10;
    }
    Ok(passed)
}

/// The messages of a handshake one after the other, as a front end writes them that waits for no answer: request, flags (version 1),
/// size, payload. Descriptors are left out, so that those which need one must be refused.
fn handshake() -> Vec<u8> {
    const PROTOCOL_FEATURES: u64 = 1 << 30;
    const VERSION_1: u64 = 1 << 32;
    let state = |index: u32, number: u32| [index.to_le_bytes(), number.to_le_bytes()].concat();
    let messages: [(u32, Vec<u8>); 11] = [
        (1, Vec::new()),                                             // GET_FEATURES
        (15, Vec::new()),                                            // GET_PROTOCOL_FEATURES
        (16, 1_u64.to_le_bytes().to_vec()),                          // SET_PROTOCOL_FEATURES: MQ
        (17, Vec::new()),                                            // GET_QUEUE_NUM
        (3, Vec::new()),                                             // SET_OWNER
        (2, (VERSION_1 | PROTOCOL_FEATURES).to_le_bytes().to_vec()), // SET_FEATURES
        (8, state(0, 256)),                                          // SET_VRING_NUM
        (10, state(0, 0)),                                           // SET_VRING_BASE
        (9, [state(0, 0), vec![0; 32]].concat()),                    // SET_VRING_ADDR
        (18, state(0, 1)),                                           // SET_VRING_ENABLE
        (11, state(0, 0)),                                           // GET_VRING_BASE
    ];
    let mut bytes = Vec::new();
    for (request, payload) in messages {
        let size = u32::try_from(payload.len()).unwrap();
        for word in [request, 1, size] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend(payload);
    }
    bytes
}

/// Write the first `length` bytes of a handshake and hang up.
fn hang_up_after(socket: &Path, bytes: &[u8]) -> Result<()> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    // The daemon may have hung up before us.
    let _ = stream.write_all(bytes);
    Ok(())
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn l_01_a_front_end_that_hangs_up_at_any_byte_leaves_nothing_behind() -> Result<()> {
    let mut setting = Setting::<4>::start()?;
    let process = setting.daemon.process().id();
    let [one, other, ..] = setting.ports.clone();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let bystander = scope.spawn(|| bystand(&setting, &stop));
        let attacked = attack(&setting, &one, process);
        stop.store(true, Ordering::Relaxed);
        let passed = bystander.join().map_err(|_| anyhow::anyhow!("the bystander panicked"))??;
        ensure!(passed >= 10, "the bystander had no turn");
        attacked
    })?;
    let (mut a, mut b) = (setting.attach(0)?, setting.attach(1)?);
    ping_pong((&mut a, &one), (&mut b, &other), 100, LIMIT)?;
    setting.daemon.process().assert_running()
}

/// Hang up at every byte, then see that the daemon holds what it held before.
fn attack(setting: &Setting<4>, port: &Port, process: u32) -> Result<()> {
    for port in &setting.ports[2..] {
        setting.daemon.until_phase(&port.name, "Forwarding")?;
    }
    let before = Holdings::of(process)?;
    let bytes = handshake();
    for length in 0..=bytes.len() {
        hang_up_after(&port.socket, &bytes[..length])?;
    }
    wait::until("the daemon to let go of everything", LIMIT, || {
        Ok(Holdings::of(process)?.within(&before).then_some(()))
    })
    .with_context(|| format!("{before:?} before, {:?} after", Holdings::of(process)))
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn v_30_a_second_front_end_does_not_take_a_live_port() -> Result<()> {
    let setting = Setting::<2>::start()?;
    let (mut one, mut other) = (setting.attach(0)?, setting.attach(1)?);
    let [first, second] = setting.ports.clone();
    for _ in 0..20 {
        let _ = hang_up_after(&first.socket, &handshake());
    }
    ping_pong((&mut one, &first), (&mut other, &second), 100, LIMIT)?;
    Ok(())
}
