//! G: the ring that the guest sends by.

use anyhow::ensure;
use towpath_tests::Result;
use towpath_tests::hostile::guest::{
    BASE, HEADER, HOLE, Options, PACKET, REGION, RawGuest, SCRATCH, SECOND, SIZE, THIRD, TX, addresses,
};
use towpath_tests::hostile::ring::Desc;
use towpath_tests::hostile::stage::{Attack, Must, PASS, Stage};
use towpath_tests::hostile::wire::{Request, u32s};
use virtio_driver::features;
use virtio_driver::raw::{INDIRECT, NEXT, PackedDescriptor, SplitDescriptor, WRITE};

use crate::{BAD_CHAIN, STOP, stopped};

/// What is made available, before the kick.
type Harm<'h> = &'h dyn Fn(&mut RawGuest) -> Result<()>;

/// A chain is refused; the one behind it passes.
fn refused(stage: &mut Stage, name: &str, options: Options, harm: Harm<'_>) {
    stage.case(name, options, BAD_CHAIN, |attack| {
        harm(&mut attack.guest)?;
        attack.guest.kick(TX);
        attack.sync()
    });
}

/// `count` packets pass as they are, and one behind them.
fn passes(stage: &mut Stage, name: &str, options: Options, count: usize, harm: Harm<'_>) {
    stage.case(name, options, PASS, |attack| {
        harm(&mut attack.guest)?;
        attack.guest.kick(TX);
        attack.arrive(count)?;
        attack.sync()
    });
}

/// The queue is stopped.
fn stops(stage: &mut Stage, name: &str, options: Options, harm: Harm<'_>) {
    stage.case(name, options, STOP, |attack| {
        harm(&mut attack.guest)?;
        attack.guest.kick(TX);
        stopped(attack)
    });
}

fn chain(descs: &[Desc]) -> impl Fn(&mut RawGuest) -> Result<()> {
    move |guest| guest.tx().chain(descs).map(drop)
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn g_01_to_g_08_heads_links_and_lengths() -> Result<()> {
    let mut stage = Stage::start()?;
    let s = &mut stage;
    for options in Options::LAYOUTS {
        s.try_case("G-01 addresses 0", Must::Count(&[("ring_outside_memory", 2)]), |stage, port| {
            let guest = RawGuest::connect(port, &stage.peer_port(), options)?;
            guest.negotiate()?;
            guest.give_memory()?;
            for index in 0..2u32 {
                guest.start(index as usize)?;
                guest.stop(index as usize)?;
                guest.wire.done(Request::SET_VRING_ADDR, &addresses(index, 0, [0; 3]), &[])?;
                let value = u64::from(index).to_ne_bytes();
                let kick = std::os::fd::AsFd::as_fd(&guest.kicks[index as usize]);
                guest.wire.done(Request::SET_VRING_KICK, &value, &[kick])?;
                guest.wire.done(Request::SET_VRING_ENABLE, &u32s(&[index, 1]), &[])?;
                guest.kick(index as usize);
            }
            stage.until_phase(port, "Connected")
        });
    }
    for jump in [SIZE + 1, 32_768, 65_535] {
        stops(s, "G-02", Options::SPLIT, &|guest| Ok(guest.tx().split().set_available_index(jump)?));
    }
    for options in Options::ALL {
        let all = usize::from(SIZE);
        passes(s, "G-03 as many as the ring has", options, all, &|guest| {
            let good = guest.good();
            (0..SIZE).try_for_each(|_| guest.tx().chain(&[good]).map(drop))
        });
    }
    stops(s, "G-03 one more", Options::SPLIT, &|guest| {
        let good = guest.good();
        guest.tx().direct(&[good])?;
        Ok(guest.tx().split().set_available_index(SIZE + 1)?)
    });
    for heads in [&[0, 0][..], &[0, 1, 0], &[0; 64]] {
        stops(s, "G-04", Options::SPLIT, &|guest| {
            let good = guest.good();
            let raw = guest.tx().split();
            let d = SplitDescriptor { address: good.address, len: good.len, flags: 0, next: 0 };
            raw.set_descriptor(0, d)?;
            raw.set_descriptor(1, d)?;
            for (slot, head) in (0u16..).zip(heads) {
                raw.set_available(slot, *head)?;
            }
            Ok(raw.set_available_index(heads.len() as u16)?)
        });
    }
    for next in [SIZE, SIZE + 1, 0xffff] {
        refused(s, "G-05 next", Options::SPLIT, &|guest| {
            guest.tx().direct(&[Desc { next: Some(next), ..Desc::new(PACKET, 20) }]).map(drop)
        });
        stops(s, "G-05 head", Options::SPLIT, &|guest| guest.tx().push_head(next));
    }
    for len in [0, 1] {
        for period in [1, 2, 32] {
            refused(s, "G-06", Options::SPLIT, &|guest| {
                let mut descs = vec![Desc::new(PACKET, len); period];
                descs[period - 1].next = Some(0);
                guest.tx().direct(&descs).map(drop)
            });
        }
        let indirect = Options { indirect: true, ..Options::SPLIT };
        refused(s, "G-06 in a table", indirect, &|guest| {
            guest.tx().chain(&[Desc::new(PACKET, len), Desc { next: Some(0), ..Desc::new(PACKET, len) }])?;
            Ok(())
        });
    }
    for options in Options::ALL {
        refused(s, "G-07 nothing else", options, &chain(&[Desc::new(PACKET, 0); 3]));
        passes(s, "G-07 among others", options, 1, &|guest| {
            let (nothing, good) = (Desc::new(PACKET, 0), guest.good());
            let (head, rest) = (Desc::new(PACKET, 20), Desc::new(PACKET + 20, good.len - 20));
            guest.tx().chain(&[nothing, head, nothing, rest, nothing]).map(drop)
        });
        for lens in [[u32::MAX, 0], [u32::MAX, 1], [u32::MAX, 2], [1 << 31, 1 << 31]] {
            refused(s, "G-08", options, &chain(&lens.map(|len| Desc::new(PACKET, len))));
        }
    }
    let long = Options { size: 32_768, ..Options::SPLIT };
    s.case("G-08 as many entries as there can be", long, BAD_CHAIN, |attack| {
        let raw = attack.guest.tx().split();
        for index in 0..32_768u16 {
            let d = SplitDescriptor { address: PACKET, len: 1, flags: NEXT, next: (index + 1) % 32_768 };
            raw.set_descriptor(index, d)?;
        }
        attack.guest.tx().push_head(0)?;
        attack.guest.kick(TX);
        attack.until_used(TX, 1)?;
        attack.sync()
    });
    let long = Options { packed: true, ..long };
    refused(s, "G-08 as many entries as there can be", long, &|guest| {
        guest.tx().direct(&vec![Desc::new(PACKET, 1); 32_766]).map(drop)
    });
    stage.finish(40)
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn g_09_to_g_20_addresses_and_headers() -> Result<()> {
    let mut stage = Stage::start()?;
    let s = &mut stage;
    for options in Options::ALL {
        refused(s, "G-09", options, &chain(&[Desc::new(u64::MAX, 0)]));
        for (name, address, len) in [
            ("G-10", u64::MAX, 1),
            ("G-10", u64::MAX - 99, 100),
            ("G-10", u64::MAX - 10, 100),
            ("G-11 address 0", 0, 100),
            ("G-11 hole", HOLE, 100),
            ("G-11 beyond", THIRD + REGION, 100),
            ("G-13", HOLE - 99, 100),
            ("G-13 other end", BASE - 1, 100),
        ] {
            refused(s, name, options, &chain(&[Desc::new(address, len)]));
        }
        for before in [1, 12, 13, 40] {
            passes(s, "G-12", options, 1, &|guest| {
                let (at, len) = (SECOND - before, guest.packet_len());
                guest.write(at, &guest.read(PACKET, len as usize)?)?;
                guest.tx().chain(&[Desc::new(at, len)]).map(drop)
            });
        }
        for pieces in [&[1, 11][..], &[4, 4, 4], &[1; 12], &[1; 13]] {
            passes(s, "G-14", options, 1, &|guest| {
                let (mut at, mut left) = (PACKET, guest.packet_len());
                let mut descs = Vec::new();
                for piece in pieces {
                    descs.push(Desc::new(at, *piece));
                    at += u64::from(*piece);
                    left -= piece;
                }
                descs.push(Desc::new(at, left));
                guest.tx().chain(&descs).map(drop)
            });
        }
        for len in [0, 1, 11, 12] {
            refused(s, "G-15", options, &chain(&[Desc::new(PACKET, len)]));
        }
        s.case("G-15 a runt", options, Must::Count(&[("runt", 1)]), |attack| {
            attack.guest.tx().chain(&[Desc::new(PACKET, 13)])?;
            attack.sync()
        });
        // One byte more than 64 KiB is no frame of this port's MTU, but a chain that can be looked at.
        s.case("G-16 64 KiB and a byte", options, Must::Count(&[("too_large", 1)]), |attack| {
            attack.guest.tx().chain(&[Desc::new(PACKET, HEADER + 0x1_0001)])?;
            attack.sync()
        });
        for len in [HEADER + (128 << 10) + 1, 256 << 10, u32::MAX] {
            refused(s, "G-16", options, &chain(&[Desc::new(BASE, len)]));
        }
        offloads(s, options);
    }
    stage.finish(100)
}

/// G-20: a header that asks for what cannot be. Without the feature the header is not read at all: the packet is its bytes.
fn offloads(s: &mut Stage, options: Options) {
    // Flags: checksum wanted; no cut; checksum from byte 60,000 on.
    const LIE: [u8; 12] = [1, 0, 0, 0, 0, 0, 0x60, 0xea, 0, 0, 0, 0];
    let write = |guest: &RawGuest| -> Result<[Desc; 2]> {
        guest.write(SCRATCH, &LIE)?;
        Ok([Desc::new(SCRATCH, HEADER), Desc::new(PACKET + u64::from(HEADER), guest.packet.len() as u32)])
    };
    passes(s, "G-20 not negotiated", options, 1, &|guest| {
        let descs = write(guest)?;
        guest.tx().chain(&descs).map(drop)
    });
    let checks = options.with(features::NET_CSUM);
    s.case("G-20 negotiated", checks, Must::Count(&[("bad_offload", 1)]), |attack| {
        let descs = write(&attack.guest)?;
        attack.guest.tx().chain(&descs)?;
        attack.sync()
    });
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn g_21_to_g_28_tables_flags_and_order() -> Result<()> {
    let mut stage = Stage::start()?;
    let s = &mut stage;
    for layout in Options::LAYOUTS {
        let options = Options { indirect: true, ..layout };
        let table = |address, len| chain_direct(Desc::new(address, len).with(INDIRECT));
        for len in [0, 8, 17, 16 * 1025, 16 * 65_535] {
            refused(s, "G-21, G-24 length", options, &table(SCRATCH, len));
        }
        passes(s, "G-21 across regions", options, 1, &|guest| {
            let (good, at) = (guest.good(), SECOND - 24);
            let parts = [Desc::new(good.address, 20), Desc::new(good.address + 20, good.len - 20)];
            guest.write_table_anywhere(at, &parts)?;
            guest.tx().direct(&[Desc::new(at, 32).with(INDIRECT)]).map(drop)
        });
        for (address, len) in [(HOLE, 16), (HOLE - 15, 16), (u64::MAX - 8, 16), (0, 16)] {
            refused(s, "G-22", options, &table(address, len));
        }
        passes(s, "G-23", options, 1, &|guest| {
            let good = guest.good();
            guest.tx().write_table(SCRATCH + 3, &[good])?;
            guest.tx().direct(&[Desc::new(SCRATCH + 3, 16).with(INDIRECT)]).map(drop)
        });
        refused(s, "G-24 nested", options, &|guest| {
            guest.tx().write_table(SCRATCH, &[Desc::new(SCRATCH, 16).with(INDIRECT)])?;
            guest.tx().direct(&[Desc::new(SCRATCH, 16).with(INDIRECT)]).map(drop)
        });
        refused(s, "G-24 with WRITE", options, &|guest| {
            let good = guest.good();
            guest.tx().write_table(SCRATCH, &[good])?;
            guest.tx().direct(&[Desc::new(SCRATCH, 16).with(INDIRECT | WRITE)]).map(drop)
        });
        refused(s, "G-24 with NEXT", options, &|guest| {
            let good = guest.good();
            guest.tx().write_table(SCRATCH, &[good])?;
            let table = Desc::new(SCRATCH, 16).with(INDIRECT);
            guest.tx().direct(&[table, table]).map(drop)
        });
        refused(s, "G-25 a table", layout, &|guest| {
            let good = guest.good();
            guest.tx().write_table(SCRATCH, &[good])?;
            guest.tx().direct(&[Desc::new(SCRATCH, 16).with(INDIRECT)]).map(drop)
        });
        refused(s, "G-25 reserved flags", layout, &chain(&[Desc::new(PACKET, 60).with(0x20)]));
        nothing_before_its_time(s, layout);
    }
    for options in Options::ALL {
        refused(s, "G-26", options, &chain(&[Desc::writable(PACKET, 60)]));
        refused(s, "G-26 mixed", options, &chain(&[Desc::new(PACKET, 20), Desc::writable(PACKET, 60)]));
        rings_as_packets(s, options);
    }
    stage.finish(45)
}

fn chain_direct(desc: Desc) -> impl Fn(&mut RawGuest) -> Result<()> {
    move |guest| guest.tx().direct(&[desc]).map(drop)
}

/// G-27: parts of the guest's own rings as a packet's bytes. What they hold is no frame of this port, so it is dropped by what it says.
fn rings_as_packets(s: &mut Stage, options: Options) {
    s.case("G-27", options, Must::Survive, |attack| {
        let rings = [attack.guest.rings[0].addresses, attack.guest.rings[1].addresses];
        for ring in rings {
            for at in [ring.descriptors, ring.driver, ring.device, THIRD] {
                attack.guest.tx().chain(&[Desc::new(PACKET, HEADER), Desc::new(at, 60)])?;
            }
        }
        attack.guest.kick(TX);
        attack.sync()?;
        let moved = attack.stage.counts(&attack.port)?;
        let dropped: u64 = moved.values().sum();
        ensure!(dropped >= 8 && !moved.contains_key("ring_corrupt"), "{moved:?}");
        Ok(())
    });
}

/// G-28, L-11: what is available before a ring is enabled, while it is disabled, after it was stopped, waits; a kick changes nothing.
fn nothing_before_its_time(s: &mut Stage, options: Options) {
    s.case("G-28", options, PASS, |attack| {
        let enable = |attack: &Attack<'_>, on| {
            attack.guest.wire.done(Request::SET_VRING_ENABLE, &u32s(&[TX as u32, on]), &[])
        };
        let waits = |attack: &mut Attack<'_>| -> Result<()> {
            attack.guest.send()?;
            attack.stage.rounds(3)?;
            ensure!(attack.guest.tx().used()?.is_empty(), "a ring that is off was used");
            ensure!(attack.stage.peer.try_receive()?.is_none(), "a packet of a ring that is off");
            Ok(())
        };
        attack.sync()?;
        attack.until_used(TX, 1)?;
        enable(attack, 0)?;
        waits(attack)?;
        enable(attack, 1)?;
        attack.arrive(1)?;
        attack.until_used(TX, 1)?;
        let base = attack.guest.stop(TX)?;
        ensure!(base == attack.guest.tx().base(), "stopped at {base:#x}");
        waits(attack)?;
        attack.guest.start_from(TX, base)?;
        attack.arrive(1)?;
        attack.sync()
    });
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn g_45_g_47_positions_ids_and_order() -> Result<()> {
    let mut stage = Stage::start()?;
    let s = &mut stage;
    let good = |guest: &RawGuest| PackedDescriptor {
        address: PACKET,
        len: guest.packet_len(),
        ..PackedDescriptor::default()
    };
    for flags in [0x8080, 0, 0x8000] {
        // Used, never available, or available in the other round: nothing is there.
        s.case("G-45 not available", Options::PACKED, PASS, |attack| {
            let d = PackedDescriptor { flags, ..good(&attack.guest) };
            attack.guest.tx().packed().set_descriptor(0, d)?;
            attack.guest.kick(TX);
            attack.stage.rounds(2)?;
            ensure!(attack.stage.peer.try_receive()?.is_none(), "a packet from nowhere");
            Ok(())
        });
    }
    for id in [SIZE, SIZE + 1, 0xffff] {
        // An id is the driver's own; the device hands it back.
        s.case("G-45 any id", Options::PACKED, PASS, |attack| {
            let d = PackedDescriptor { flags: 0x80, id, ..good(&attack.guest) };
            attack.guest.tx().packed().set_descriptor(0, d)?;
            attack.guest.kick(TX);
            attack.arrive(1)
        });
    }
    s.case("G-45 an id twice", Options::PACKED, PASS, |attack| {
        let raw = attack.guest.tx().packed();
        for slot in [1, 0] {
            raw.set_descriptor(slot, PackedDescriptor { flags: 0x80, id: 5, ..good(&attack.guest) })?;
        }
        attack.guest.kick(TX);
        attack.arrive(2)
    });
    stops(s, "G-45 a chain without end", Options::PACKED, &|guest| {
        let raw = guest.tx().packed();
        for slot in (0..SIZE).rev() {
            raw.set_descriptor(slot, PackedDescriptor { flags: 0x80 | NEXT, ..good(guest) })?;
        }
        Ok(())
    });
    for size in [1, 3, 63, 32_768] {
        let options = Options { size, ..Options::PACKED };
        s.case("G-45 sizes, chains across the end", options, PASS, |attack| {
            for _ in 0..5 {
                let good = attack.guest.good();
                let parts = [Desc::new(PACKET, 20), Desc::new(PACKET + 20, good.len - 20)];
                let parts = if size == 1 { &[good][..] } else { &parts[..] };
                attack.guest.tx().chain(parts)?;
                attack.guest.kick(TX);
                attack.arrive(1)?;
                attack.until_used(TX, 1)?;
            }
            Ok(())
        });
    }
    for options in Options::LAYOUTS {
        // The device looks at what is available in the order in which it is, and gives back in that order.
        s.case("G-47", options.with(features::IN_ORDER), PASS, |attack| {
            if attack.guest.tx().is_split() {
                let raw = attack.guest.tx().split();
                let d =
                    SplitDescriptor { address: PACKET, len: attack.guest.packet_len(), flags: 0, next: 0 };
                for head in [5, 3, 7] {
                    raw.set_descriptor(head, d)?;
                    attack.guest.tx().push_head(head)?;
                }
            } else {
                let raw = attack.guest.tx().packed();
                for (slot, id) in [(2, 5), (1, 3), (0, 7)] {
                    raw.set_descriptor(slot, PackedDescriptor { flags: 0x80, id, ..good(&attack.guest) })?;
                }
            }
            attack.guest.kick(TX);
            attack.arrive(3)
        });
    }
    stage.finish(14)
}
