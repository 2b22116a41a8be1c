//! Front ends that come and go: 200 here, as many times more as `make test-long` wants.

use std::fs;

use anyhow::{Context, ensure};
use towpath_tests::Result;
use towpath_tests::hostile::guest::{Options, RawGuest, TX};
use towpath_tests::hostile::stage::{Attack, LIMIT, Stage};
use towpath_tests::hostile::wire::{Request, VERSION, Wire, message, u32s};

/// What a process's memory may grow by, in KiB: buffers of allocators, not one piece for each connection.
const GROWTH_KIB: u64 = 8 * 1024;

/// Memory of a process that is in use, in KiB.
fn resident(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).context("a number")
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn l_01_v_30_front_ends_that_come_and_go() -> Result<()> {
    let mut stage = Stage::start()?;
    let process = stage.daemon().process().id();
    let rounds = 40 * crate::longer();
    let mut before = resident(process)?;
    for round in 0..rounds {
        let options = Options::ALL[round as usize % 4];
        // Five connections on five ports: a port takes 20 a second.
        hang_up(&mut stage, round as usize)?;
        for kind in 0..4 {
            come_and_go(&mut stage, options, kind).with_context(|| format!("round {round}, {kind}"))?;
        }
        if round == rounds / 10 {
            // What is allocated once and kept, is by now.
            before = before.max(resident(process)?);
        }
        if (round + 1).is_multiple_of(rounds.div_ceil(10)) {
            stage.rounds(1)?;
            eprintln!("{} of {} front ends came and went", 5 * (round + 1), 5 * rounds);
        }
    }
    let after = resident(process)?;
    ensure!(after <= before + GROWTH_KIB, "{before} KiB became {after}");
    for port in &stage.ports()[3..] {
        stage.until_phase(port, "Listening")?;
    }
    stage.nothing_is_held()?;
    eprintln!("{} front ends in all; {before} KiB became {after}", 5 * rounds);
    stage.finish(0)
}

/// Goes away after some byte of its first messages.
fn hang_up(stage: &mut Stage, round: usize) -> Result<()> {
    let port = stage.next_port();
    let bytes = [
        message(Request::SET_OWNER.into(), VERSION, &[]),
        message(Request::GET_FEATURES.into(), VERSION, &[]),
        message(Request::SET_VRING_NUM.into(), VERSION, &u32s(&[0, 64])),
        message(Request::SET_VRING_ENABLE.into(), VERSION, &u32s(&[0, 1])),
    ]
    .concat();
    let wire = Wire::connect(&port.socket)?;
    let _hung_up = wire.send_bytes(&bytes[..round % bytes.len()], &[]);
    Ok(())
}

/// Attaches; then goes at once, after a packet, in the middle of many, or after stopping its rings.
fn come_and_go(stage: &mut Stage, options: Options, kind: u32) -> Result<()> {
    let port = stage.next_port();
    let guest = loop {
        // The one before may just be going.
        match RawGuest::attach(&port, &stage.peer_port(), options) {
            Ok(guest) => break guest,
            Err(_) if stage.phase(&port)? != "Listening" => {}
            Err(error) => return Err(error),
        }
    };
    let mut attack = Attack { guest, stage, port };
    match kind {
        0 => Ok(()),
        1 => {
            attack.guest.send()?;
            // Packets of those who went away in the middle may come before it.
            while !attack.stage.peer.receive(LIMIT)?.starts_with(&attack.guest.packet) {}
            Ok(())
        }
        2 => {
            let good = attack.guest.good();
            (0..32).try_for_each(|_| attack.guest.tx().chain(&[good]).map(drop))?;
            attack.guest.kick(TX);
            while attack.stage.peer.try_receive()?.is_some() {}
            Ok(())
        }
        _ => {
            attack.guest.stop(TX)?;
            while attack.stage.peer.try_receive()?.is_some() {}
            Ok(())
        }
    }
}
