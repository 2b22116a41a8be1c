//! G: the ring that the guest receives by. The peer sends four packets; what the guest offered for them is the case.

use anyhow::{Context, ensure};
use towpath_tests::frontend::udp;
use towpath_tests::hostile::guest::{
    BUFFERS, HEADER, HOLE, Options, RX, RawGuest, SCRATCH, SECOND, SIZE, THIRD,
};
use towpath_tests::hostile::ring::Desc;
use towpath_tests::hostile::stage::{Attack, LIMIT, Must, PASS, Stage};
use towpath_tests::{Result, wait};
use virtio_driver::features;
use virtio_driver::raw::{INDIRECT, NEXT, PackedDescriptor, WRITE};

use crate::{BAD_BUFFER, STOP, stopped};

/// Packets of the peer in each case.
const SENT: usize = 4;
/// What the guest's buffers are filled with before.
const PATTERN: u8 = 0xa5;
/// Bytes of a buffer.
const BUFFER: usize = 2048;

/// A case: `harm` makes buffers available, of which those at the addresses `buffers` must each receive a packet. The rest of the four is lost and
/// counted where it came from.
fn receives(
    stage: &mut Stage,
    name: &str,
    options: Options,
    must: Must<'_>,
    buffers: &[u64],
    harm: &dyn Fn(&mut RawGuest) -> Result<()>,
) {
    stage.case(name, options, must, |attack| {
        for at in buffers {
            attack.guest.write(*at, &[PATTERN; BUFFER])?;
        }
        harm(&mut attack.guest)?;
        let used = give(attack, buffers.len())?;
        let packet = attack.send_to_guest(0)?;
        let full: Vec<u32> = used.iter().map(|(_, len)| *len).filter(|len| *len > 0).collect();
        let len = HEADER as usize + packet.len();
        ensure!(full == vec![len as u32; buffers.len()], "G-44: {full:?} instead of {len}");
        for at in buffers {
            let bytes = attack.guest.read(*at, BUFFER)?;
            ensure!(bytes[HEADER as usize..len] == packet, "{at:#x} holds {:02x?}", &bytes[..64]);
            ensure!(bytes[len..].iter().all(|byte| *byte == PATTERN), "G-43: {at:#x}, behind the packet");
        }
        goes_on(attack)
    });
}

/// A right buffer behind all that is filled.
fn goes_on(attack: &mut Attack<'_>) -> Result<()> {
    right(&mut attack.guest, 62, 1)?;
    attack.guest.kick(RX);
    attack.send_to_guest(1)?;
    attack.until_used(RX, 1).map(drop)
}

/// The peer sends its four; what came back once each was given (`given` of them) or lost.
fn give(attack: &mut Attack<'_>, given: usize) -> Result<Vec<(u16, u32)>> {
    let peer = attack.stage.peer_port();
    let lost = |attack: &Attack<'_>| -> Result<u64> {
        let counts = attack.stage.counts(&peer)?;
        Ok(["receiver_full", "too_large", "receiver_stopped"]
            .iter()
            .filter_map(|name| counts.get(*name))
            .sum())
    };
    attack.guest.kick(RX);
    let before = lost(attack)?;
    attack.send_to_guest(SENT)?;
    let mut used = Vec::new();
    let found = wait::until("four packets, given or lost", LIMIT, || {
        used.extend(attack.guest.rx().used()?);
        let full = used.iter().filter(|(_, len)| *len > 0).count();
        Ok((full == given && lost(attack)? - before == (SENT - given) as u64).then_some(()))
    });
    found.with_context(|| {
        let lost = lost(attack).map(|now| now - before);
        let counts = attack.stage.counts(&peer);
        format!("{given} to be given, {used:?} came back, {lost:?} lost; the peer's counters: {counts:?}")
    })?;
    Ok(used)
}

/// Address of receive buffer `index`.
fn at(index: u64) -> u64 {
    BUFFERS + 0x1000 * index
}

/// Right buffers, from number `first` on.
fn right(guest: &mut RawGuest, first: u64, count: u64) -> Result<()> {
    (first..first + count)
        .try_for_each(|index| guest.rx().chain(&[Desc::writable(at(index), BUFFER as u32)]).map(drop))
}

/// A bad buffer, then four right ones.
fn refused(stage: &mut Stage, name: &str, options: Options, bad: &[Desc]) {
    refused_as(stage, name, options, &|guest| guest.rx().chain(bad).map(drop));
}

fn refused_as(stage: &mut Stage, name: &str, options: Options, bad: &dyn Fn(&mut RawGuest) -> Result<()>) {
    receives(stage, name, options, BAD_BUFFER, &[at(1), at(2), at(3), at(4)], &|guest| {
        bad(guest)?;
        right(guest, 1, 4)
    });
}

/// The queue is stopped when a packet is to be given.
fn broken(stage: &mut Stage, name: &str, options: Options, harm: &dyn Fn(&mut RawGuest) -> Result<()>) {
    stage.case(name, options, STOP, |attack| {
        harm(&mut attack.guest)?;
        attack.send_to_guest(SENT)?;
        stopped(attack)
    });
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn g_02_to_g_13_receive_buffers_that_are_not_there() -> Result<()> {
    let mut stage = Stage::start()?;
    let s = &mut stage;
    for options in Options::ALL {
        receives(s, "G-43, G-44", options, PASS, &[at(1), at(2), at(3), at(4)], &|guest| right(guest, 1, 4));
        receives(s, "G-43, G-44 too few", options, PASS, &[at(1), at(2)], &|guest| right(guest, 1, 2));
        for (name, address, len) in [
            ("G-07, G-09", u64::MAX, 0),
            ("G-10", u64::MAX - 99, 100),
            ("G-10", u64::MAX - 10, 2048),
            ("G-11", 0, 2048),
            ("G-11", HOLE, 2048),
            ("G-13", HOLE - 2047, 2048),
            ("G-08", THIRD, u32::MAX),
        ] {
            refused(s, name, options, &[Desc::writable(address, len)]);
        }
        let crossing = SECOND - 300;
        receives(s, "G-12", options, PASS, &[crossing, at(1)], &|guest| {
            guest.rx().chain(&[Desc::writable(crossing, 2048)])?;
            right(guest, 1, 1)
        });
        refused(s, "G-26", options, &[Desc::new(SCRATCH, 2048)]);
        refused(s, "G-26 mixed", options, &[Desc::writable(SCRATCH, 100), Desc::new(SCRATCH, 2048)]);
        let rings = |guest: &RawGuest| guest.rings.clone().map(|ring| ring.addresses);
        s.case("G-27", options, Must::Survive, |attack| {
            let [own, other] = rings(&attack.guest);
            for part in [other.descriptors, other.driver, own.driver, own.descriptors, own.device] {
                attack.guest.rx().chain(&[Desc::writable(part, 2048)])?;
            }
            attack.guest.kick(RX);
            attack.send_to_guest(5)?;
            // Its rings are whatever the packets made of them: only others count.
            attack.stage.rounds(5)
        });
    }
    for jump in [SIZE + 1, 32_768, 65_535] {
        broken(s, "G-02", Options::SPLIT, &|guest| Ok(guest.rx().split().set_available_index(jump)?));
    }
    broken(s, "G-04", Options::SPLIT, &|guest| {
        right(guest, 1, 1)?;
        guest.rx().push_head(0)
    });
    broken(s, "G-05 head", Options::SPLIT, &|guest| guest.rx().push_head(SIZE));
    broken(s, "G-45 a chain without end", Options::PACKED, &|guest| {
        let raw = guest.rx().packed();
        let d = PackedDescriptor { address: at(1), len: 100, id: 0, flags: 0x80 | NEXT | WRITE };
        (0..SIZE).rev().try_for_each(|slot| Ok(raw.set_descriptor(slot, d)?))
    });
    stage.finish(50)
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn g_05_to_g_25_receive_chains_and_sizes() -> Result<()> {
    let mut stage = Stage::start()?;
    let s = &mut stage;
    for next in [SIZE, 0xffff] {
        refused_as(s, "G-05", Options::SPLIT, &|guest| {
            guest.rx().direct(&[Desc { next: Some(next), ..Desc::writable(SCRATCH, 20) }]).map(drop)
        });
    }
    for len in [0, 1] {
        refused_as(s, "G-06", Options::SPLIT, &|guest| {
            let part = Desc::writable(SCRATCH, len);
            guest.rx().direct(&[part, Desc { next: Some(0), ..part }]).map(drop)
        });
    }
    for options in Options::ALL {
        // G-14: a header that lies in pieces; G-07: parts of no bytes between them.
        receives(s, "G-14, G-07", options, PASS, &[at(1)], &|guest| {
            let (first, rest) = (Desc::writable(at(1), 1), Desc::writable(at(1) + 1, BUFFER as u32 - 1));
            let nothing = Desc::writable(SCRATCH, 0);
            guest.rx().chain(&[nothing, first, nothing, rest, nothing]).map(drop)
        });
        for len in [0, 1, 11, 12, 13, 1000] {
            // G-17, without mergeable buffers: each goes back empty, none keeps those behind it from use. One that the packet fits is no runt.
            if len < 1000 {
                refused(s, "G-17", options, &[Desc::writable(SCRATCH, len)]);
            } else {
                receives(s, "G-17 fits", options, PASS, &[at(1)], &|guest| {
                    guest.rx().chain(&[Desc::writable(at(1), len)]).map(drop)
                });
            }
        }
        s.case("G-18", options, PASS, |attack| {
            attack.guest.rx().chain(&[Desc::writable(at(1), 1526)])?;
            attack.guest.kick(RX);
            too_large(attack)?;
            ensure!(attack.guest.rx().used()?.is_empty(), "the ring moved");
            goes_on(attack)
        });
        let merging = options.with(features::NET_MRG_RXBUF);
        s.case("G-19 fewer bytes than the packet has", merging, PASS, |attack| {
            for index in 0..3 {
                attack.guest.rx().chain(&[Desc::writable(at(index), 40)])?;
            }
            let used = give(attack, 0)?;
            ensure!(used.is_empty(), "the ring moved: {used:?}");
            // With more of them, all that is there is used, in order.
            for index in 3..20 {
                attack.guest.rx().chain(&[Desc::writable(at(index), 40)])?;
            }
            attack.send_to_guest(1)?;
            let used = attack.until_used(RX, 17)?;
            ensure!(used.iter().map(|(_, len)| len).sum::<u32>() == HEADER + 600 + 42, "{used:?}");
            ensure!(attack.guest.read(at(0) + 10, 2)? == [used.len() as u8, 0], "num_buffers");
            Ok(())
        });
    }
    for layout in Options::LAYOUTS {
        let options = Options { indirect: true, ..layout };
        for len in [0, 8, 17, 16 * 1025, 16 * 65_535] {
            refused_as(s, "G-21, G-24", options, &|guest| {
                guest.rx().direct(&[Desc::new(SCRATCH, len).with(INDIRECT)]).map(drop)
            });
        }
        refused_as(s, "G-22", options, &|guest| {
            guest.rx().direct(&[Desc::new(HOLE - 15, 16).with(INDIRECT)]).map(drop)
        });
        receives(s, "G-23", options, PASS, &[at(1)], &|guest| {
            guest.rx().write_table(SCRATCH + 3, &[Desc::writable(at(1), BUFFER as u32)])?;
            guest.rx().direct(&[Desc::new(SCRATCH + 3, 16).with(INDIRECT)]).map(drop)
        });
        refused_as(s, "G-24 nested", options, &|guest| {
            guest.rx().write_table(SCRATCH, &[Desc::new(SCRATCH, 16).with(INDIRECT)])?;
            guest.rx().direct(&[Desc::new(SCRATCH, 16).with(INDIRECT)]).map(drop)
        });
        refused_as(s, "G-25", layout, &|guest| {
            guest.rx().write_table(SCRATCH, &[Desc::writable(at(9), 2048)])?;
            guest.rx().direct(&[Desc::new(SCRATCH, 16).with(INDIRECT)]).map(drop)
        });
        refused_as(s, "G-25 reserved", layout, &|guest| {
            guest.rx().direct(&[Desc::new(SCRATCH, 2048).with(WRITE | 0x20)]).map(drop)
        });
    }
    stage.finish(50)
}

/// The peer sends a packet of 1518 bytes, which a buffer of 1526 has no room for besides the header.
fn too_large(attack: &mut Attack<'_>) -> Result<()> {
    let peer = attack.stage.peer_port();
    let before = attack.stage.counts(&peer)?.get("too_large").copied().unwrap_or(0);
    let packet = udp(&peer, &attack.port, &[7; 1476])?;
    attack.stage.peer.send(&packet)?;
    wait::until("the packet to be refused", LIMIT, || {
        let now = attack.stage.counts(&peer)?.get("too_large").copied().unwrap_or(0);
        Ok((now > before).then_some(()))
    })
    .with_context(|| format!("the peer's counters: {:?}", attack.stage.counts(&peer)))
}
