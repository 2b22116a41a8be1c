//! The G cases of rings through the whole switch; see `towpath_sim::hostile` for the oracle.

use towpath_sim::hostile::{
    ATTACKER, Case, Desc, LAYOUTS, Must, Offer, Ring, on, on_all, on_receive, on_receive_one,
};
use towpath_sim::options::Kind;
use virtio_driver::RingLayout::{self, Packed, Split};

/// Descriptor flags: the device writes; a table.
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

type Tried = anyhow::Result<()>;

#[test]
fn a_right_packet_is_taken() -> Tried {
    on_all("right", Must::Take(1), |offer| offer.chain(&offer.good()))
}

#[test]
fn g02_available_index_jumps() -> Tried {
    for jump in [Offer::SIZE + 1, 32_768, 65_535] {
        on("G-02", Split, false, Must::Stop, |offer| Ok(offer.split()?.set_available_index(jump)?))?;
    }
    Ok(())
}

#[test]
fn g03_exactly_as_many_chains_as_the_ring_has() -> Tried {
    for layout in [Split, Packed] {
        on("G-03", layout, false, Must::Take(u64::from(Offer::SIZE)), |offer| {
            (0..Offer::SIZE).try_for_each(|_| offer.direct(&offer.good()))
        })?;
    }
    Ok(())
}

#[test]
fn g04_the_same_head_twice() -> Tried {
    on("G-04", Split, false, Must::Stop, |offer| {
        offer.direct(&offer.good())?;
        let raw = offer.split()?;
        raw.set_available(1, 0)?;
        Ok(raw.set_available_index(2)?)
    })
}

#[test]
fn g05_links_and_heads_that_do_not_exist() -> Tried {
    for next in [Offer::SIZE, Offer::SIZE + 1, 0xffff] {
        on("G-05 next", Split, false, Must::Refuse(1), |offer| {
            offer.direct(&[Desc { next: Some(next), ..Desc::new(offer.packet.0, 20) }])
        })?;
        on("G-05 head", Split, false, Must::Stop, |offer| {
            let raw = offer.split()?;
            raw.set_available(0, next)?;
            Ok(raw.set_available_index(1)?)
        })?;
    }
    Ok(())
}

#[test]
fn g06_loops_end() -> Tried {
    for len in [0, 1] {
        for target in [0, 1] {
            on("G-06", Split, false, Must::Refuse(1), |offer| {
                let at = offer.packet.0;
                offer.direct(&[Desc::new(at, len), Desc { next: Some(target), ..Desc::new(at, len) }])
            })?;
        }
    }
    Ok(())
}

#[test]
fn g07_zero_lengths() -> Tried {
    on_all("G-07 only", Must::Refuse(1), |offer| offer.chain(&[Desc::new(offer.packet.0, 0)]))?;
    on_all("G-07 among others", Must::Take(1), |offer| {
        let (at, len) = offer.packet;
        offer.chain(&[Desc::new(at, 0), Desc::new(at, len), Desc::new(at, 0)])
    })
}

#[test]
fn g08_g16_totals_beyond_everything() -> Tried {
    for len in [0xffff_ffff, 0x8000_0000, 256 * 1024 * 1024] {
        on_all("G-08", Must::Refuse(1), |offer| offer.chain(&[Desc::new(offer.packet.0, len)]))?;
    }
    on_all("G-08 sum", Must::Refuse(1), |offer| {
        let at = offer.packet.0;
        offer.chain(&[Desc::new(at, 0x8000_0000), Desc::new(at, 0x8000_0000), Desc::new(at, 1)])
    })?;
    on_all("G-16", Must::Refuse(1), |offer| {
        // 200 KiB, all of it in memory: longer than any frame.
        let from = 0x4000_0000;
        let piece = Desc::new(from, 100 * 1024);
        offer.chain(&[piece, piece])
    })
}

#[test]
fn g09_g10_g11_g13_addresses_that_are_not_memory() -> Tried {
    for address in [0, 1, u64::MAX, u64::MAX - 10, 0x3fff_ffff, 1 << 48] {
        on_all("G-10, G-11", Must::Refuse(1), |offer| offer.chain(&[Desc::new(address, 100)]))?;
        on_all("G-09", Must::Refuse(1), |offer| offer.chain(&[Desc::new(address, 0)]))?;
    }
    on_all("G-13", Must::Refuse(1), |offer| {
        let end = offer.end()?;
        offer.chain(&[Desc::new(end - 99, 100)])
    })?;
    on_all("G-13 exactly", Must::Take(1), |offer| {
        let end = offer.end()?;
        offer.chain(&[Desc::new(end - 100, 100)])
    })
}

#[test]
fn g14_the_header_in_pieces() -> Tried {
    for pieces in [vec![1, 11], vec![4, 4, 4], vec![1; 12]] {
        on_all("G-14", Must::Take(1), |offer| {
            let (mut at, len) = offer.packet;
            let mut chain = Vec::new();
            for piece in &pieces {
                chain.push(Desc::new(at, *piece));
                at += u64::from(*piece);
            }
            chain.push(Desc::new(at, len - 12));
            offer.chain(&chain)
        })?;
    }
    Ok(())
}

#[test]
fn g15_short_chains() -> Tried {
    for len in [0, 1, 11, 12] {
        on_all("G-15", Must::Refuse(1), |offer| offer.chain(&[Desc::new(offer.packet.0, len)]))?;
    }
    on_all("G-15 runt", Must::Take(1), |offer| offer.chain(&[Desc::new(offer.packet.0, 13)]))
}

#[test]
fn g21_g22_tables_of_wrong_length_or_place() -> Tried {
    for layout in [Split, Packed] {
        for len in [0, 8, 17, 16 * 1025, 16 * 65_535] {
            on("G-21", layout, true, Must::Refuse(1), |offer| {
                offer.direct(&[Desc::new(offer.scratch, len).with(INDIRECT)])
            })?;
        }
        for address in [0, u64::MAX - 8, 1 << 40] {
            on("G-22", layout, true, Must::Refuse(1), |offer| {
                offer.direct(&[Desc::new(address, 16).with(INDIRECT)])
            })?;
        }
        on("G-22 last byte", layout, true, Must::Refuse(1), |offer| {
            let end = offer.end()?;
            offer.direct(&[Desc::new(end - 15, 16).with(INDIRECT)])
        })?;
    }
    Ok(())
}

#[test]
fn g23_an_unaligned_table_is_accepted() -> Tried {
    for layout in [Split, Packed] {
        on("G-23", layout, true, Must::Take(1), |offer| {
            let table = offer.scratch + 3;
            let (at, len) = offer.packet;
            offer.entry(table, 0, &Desc::new(at, len), false)?;
            offer.direct(&[Desc::new(table, 16).with(INDIRECT)])
        })?;
    }
    Ok(())
}

#[test]
fn g24_nested_tables_and_forbidden_flags() -> Tried {
    for layout in [Split, Packed] {
        on("G-24 nested", layout, true, Must::Refuse(1), |offer| {
            let table = offer.scratch;
            offer.entry(table, 0, &Desc::new(table, 16).with(INDIRECT), false)?;
            offer.direct(&[Desc::new(table, 16).with(INDIRECT)])
        })?;
        on("G-24 write", layout, true, Must::Refuse(1), |offer| {
            let table = offer.scratch;
            offer.entry(table, 0, &Desc::new(offer.packet.0, offer.packet.1), false)?;
            offer.direct(&[Desc::new(table, 16).with(INDIRECT | WRITE)])
        })?;
    }
    Ok(())
}

#[test]
fn g25_what_was_not_negotiated() -> Tried {
    for layout in [Split, Packed] {
        on("G-25 indirect", layout, false, Must::Refuse(1), |offer| {
            let table = offer.scratch;
            offer.entry(table, 0, &Desc::new(offer.packet.0, offer.packet.1), false)?;
            offer.direct(&[Desc::new(table, 16).with(INDIRECT)])
        })?;
        on("G-25 reserved", layout, false, Must::Refuse(1), |offer| {
            offer.direct(&[Desc::new(offer.packet.0, offer.packet.1).with(0x20)])
        })?;
    }
    Ok(())
}

#[test]
fn g26_writable_buffers_in_what_is_sent() -> Tried {
    on_all("G-26", Must::Refuse(1), |offer| {
        let (at, len) = offer.packet;
        offer.chain(&[Desc::new(at, len).with(WRITE)])
    })?;
    on_all("G-26 mixed", Must::Refuse(1), |offer| {
        let (at, len) = offer.packet;
        offer.chain(&[Desc::new(at, 12), Desc::new(at + 12, len - 12).with(WRITE)])
    })
}

#[test]
fn g27_the_ring_itself_as_packet() -> Tried {
    on_all("G-27", Must::Take(3), |offer| {
        let ring = offer.ring();
        for at in [ring.descriptors, ring.driver, ring.device] {
            offer.chain(&[Desc::new(offer.packet.0, 12), Desc::new(at, 60)])?;
        }
        Ok(())
    })
}

#[test]
fn g29_endless_refill() -> Tried {
    // The ring is full again whenever the worker has taken a burst; what is in it ends at a stage.
    for (layout, indirect) in LAYOUTS {
        Case::new("G-29", layout, indirect, Ring::Transmit)?.judge(Must::TakeAtLeast(300), |world| {
            let guest = &mut world.scene.guests[ATTACKER];
            (guest.options.kind, guest.quiet, guest.flood_until) = (Kind::Sloppy, false, u64::MAX);
            (guest.options.odd, guest.options.think) = (1000, 1_000);
            world.scene.again_guest(ATTACKER, 100);
            Ok(())
        })?;
    }
    Ok(())
}

/// Chains that the mutators flip while they are taken.
const FLIPPED: u16 = 16;

/// Offers [`FLIPPED`] chains, one after the other, and changes descriptor 0 or table entry 0 of each between right and wrong in every turn until the next.
fn flip(name: &str, layout: RingLayout, indirect: bool, wrong: impl Fn(&Offer<'_>, Desc) -> Desc) -> Tried {
    Case::new(name, layout, indirect, Ring::Transmit)?.judge(Must::TakeOrRefuse(FLIPPED.into()), |world| {
        let mut offer = Offer::new(world, indirect, Ring::Transmit)?;
        for round in 0..FLIPPED {
            let right = offer.good();
            let wrong = wrong(&offer, right[0]);
            let start = offer.position();
            offer.chain(&if round % 2 == 0 { right.clone() } else { vec![wrong] })?;
            offer.wake();
            for turn in 0..6 {
                let now = if (round + turn) % 2 == 0 { wrong } else { right[0] };
                offer.overwrite(start, &now)?;
                offer.turn()?;
            }
        }
        Ok(())
    })
}

#[test]
fn g31_lengths_that_change_while_they_are_read() -> Tried {
    LAYOUTS.iter().try_for_each(|(layout, indirect)| {
        flip("G-31", *layout, *indirect, |_, desc| Desc { len: 65_535 * 4, ..desc })
    })
}

#[test]
fn g32_tables_that_change_while_they_are_read() -> Tried {
    for layout in [Split, Packed] {
        flip("G-32 address", layout, true, |_, desc| Desc { address: 1 << 48, ..desc })?;
        flip("G-32 length", layout, true, |_, desc| Desc { len: u32::MAX, ..desc })?;
    }
    Ok(())
}

#[test]
fn g34_flags_that_change_while_they_are_read() -> Tried {
    for (layout, indirect) in LAYOUTS {
        flip("G-34 write", layout, indirect, |_, desc| desc.with(WRITE))?;
    }
    flip("G-34 indirect", Split, false, |_, desc| desc.with(INDIRECT))?;
    flip("G-34 indirect", Packed, false, |_, desc| desc.with(INDIRECT))
}

#[test]
fn g42_g46_event_suppression_that_lies() -> Tried {
    // Whatever the guest writes there, its packet is taken, and it is interrupted at most once per burst.
    for (layout, indirect) in LAYOUTS {
        for value in [0u16, 1, 2, 3, 0x7fff, 0x8000, 0xffff] {
            on("G-42, G-46", layout, indirect, Must::Take(1), |offer| {
                match layout {
                    Split => {
                        let raw = offer.split()?;
                        raw.set_available_flags(value)?;
                        raw.set_used_event(value)?;
                    }
                    Packed => offer.packed()?.set_driver_event(value, value)?,
                }
                offer.chain(&offer.good())
            })?;
        }
    }
    Ok(())
}

#[test]
fn anything_anywhere() -> Tried {
    // Random writes upon random writes; what each kind must lead to is said by the tests of its own.
    for (layout, indirect) in LAYOUTS {
        for round in 0..8 {
            let name = format!("anything {round}");
            Case::new(&name, layout, indirect, Ring::Transmit)?.judge(Must::Survive, |world| {
                let mut random = towpath_sim::random::Random::new(round);
                for _ in 0..20 {
                    if let Some(nic) = &world.scene.guests[ATTACKER].nic {
                        towpath_sim::guest::hostile::attack(nic, &mut random);
                    }
                    world.turn()?;
                }
                world.scene.wake_all();
                Ok(())
            })?;
        }
    }
    Ok(())
}

#[test]
fn g45_packed_lies() -> Tried {
    on("G-45 used and available", Packed, false, Must::Nothing, |offer| {
        Ok(offer.packed()?.set_flags(0, 0x8080)?)
    })?;
    on("G-45 endless chain", Packed, false, Must::Stop, |offer| {
        let at = offer.packet.0;
        let chain = vec![Desc::new(at, 20); usize::from(Offer::SIZE)];
        offer.direct(&chain)?;
        Ok(offer.packed()?.set_flags(Offer::SIZE - 1, 0x80 | 1)?)
    })
}

#[test]
fn g48_g49_memory_that_goes_away() -> Tried {
    for (layout, indirect) in LAYOUTS {
        Case::new("G-48", layout, indirect, Ring::Transmit)?.judge(Must::Stop, |world| {
            let mut offer = Offer::new(world, indirect, Ring::Transmit)?;
            offer.chain(&offer.good())?;
            let memory = std::sync::Arc::clone(&offer.nic()?.memory);
            rustix::fs::ftruncate(memory.fd(), 0)?;
            // Its own mapping is not to be touched any more.
            world.scene.guests[ATTACKER].nic = None;
            world.scene.tampered[ATTACKER] = true;
            Ok(())
        })?;
    }
    Ok(())
}

/// A right receive buffer.
fn buffer(offer: &Offer<'_>, index: u64) -> Desc {
    Desc::new(offer.packet.0 - 0x1000 * (1 + index), 2048).with(WRITE)
}

#[test]
fn right_receive_buffers_are_filled() -> Tried {
    on_receive("right", Must::Give(4), |offer| {
        (0..4).try_for_each(|index| offer.chain(&[buffer(offer, index)]))
    })?;
    on_receive("too few", Must::Give(3), |offer| {
        (0..3).try_for_each(|index| offer.chain(&[buffer(offer, index)]))
    })
}

#[test]
fn g02_available_index_jumps_receiving() -> Tried {
    for jump in [Offer::SIZE + 1, 32_768, 65_535] {
        on_receive_one("G-02", Split, false, Must::GiveAndStop(0), |offer| {
            Ok(offer.split()?.set_available_index(jump)?)
        })?;
    }
    // A packed ring has no index: a descriptor marked used is not available.
    on_receive_one("G-02", Packed, false, Must::Give(0), |offer| Ok(offer.packed()?.set_flags(0, 0x8000)?))
}

#[test]
fn g08_g10_g11_g13_receive_buffers_that_are_not_memory() -> Tried {
    for (address, len) in [(0, 2048), (u64::MAX - 10, 2048), (1 << 48, 2048), (0x4000_0000, u32::MAX)] {
        on_receive("G-11", Must::Give(4), |offer| {
            offer.chain(&[Desc::new(address, len).with(WRITE)])?;
            (0..4).try_for_each(|index| offer.chain(&[buffer(offer, index)]))
        })?;
    }
    Ok(())
}

#[test]
fn g17_g18_receive_buffers_that_are_too_small() -> Tried {
    for len in [0, 1, 11, 12, 13] {
        on_receive("G-17", Must::Give(4), |offer| {
            let small = Desc { len, ..buffer(offer, 0) };
            offer.chain(&[small])?;
            (1..5).try_for_each(|index| offer.chain(&[buffer(offer, index)]))
        })?;
    }
    on_receive("G-18", Must::Give(0), |offer| {
        (0..4).try_for_each(|index| offer.chain(&[Desc { len: 40, ..buffer(offer, index) }]))
    })
}

#[test]
fn g26_readable_receive_buffers() -> Tried {
    on_receive("G-26", Must::Give(4), |offer| {
        offer.chain(&[buffer(offer, 0).with(0)])?;
        (1..5).try_for_each(|index| offer.chain(&[buffer(offer, index)]))
    })
}

#[test]
fn g27_receive_buffers_on_rings() -> Tried {
    for (layout, indirect) in LAYOUTS {
        // The first packet lands on the descriptors. Those of buffers were read by then, those of tables
        // were not: what is left of them is garbage. The second lands on a split ring's available index; so does a long first one.
        let must = match (layout, indirect) {
            (Split, false) => Must::GiveAndStop(3),
            (Split, true) => Must::GiveOverRing(1),
            (Packed, true) => Must::Give(1),
            (Packed, false) => Must::Give(3),
        };
        on_receive_one("G-27", layout, indirect, must, |offer| {
            let ring = offer.ring();
            for at in [ring.descriptors, ring.driver, ring.device] {
                offer.chain(&[Desc::new(at, 2048).with(WRITE)])?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn l01_a_front_end_that_goes_away_after_each_byte_of_its_handshake() -> Tried {
    for (layout, indirect) in [(Split, false), (Packed, true)] {
        Case::new("L-01", layout, indirect, Ring::Transmit)?.judge(Must::Nothing, |world| {
            world.unplug(ATTACKER)?;
            let total = world.break_off_after(ATTACKER, |total| total)?;
            assert!(total > 400, "a handshake has {total} bytes");
            (0..total).try_for_each(|cut| world.break_off_after(ATTACKER, |_| cut).map(drop))
        })?;
    }
    Ok(())
}
