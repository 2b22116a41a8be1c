//! G: how the two sides tell each other, and a guest that lies about it.

use anyhow::ensure;
use std::os::fd::AsFd;
use towpath_tests::hostile::guest::{Options, TX, eventfd};
use towpath_tests::hostile::stage::{LIMIT, PASS, Stage};
use towpath_tests::hostile::wire::{NO_DESCRIPTOR, Request, u64s};
use towpath_tests::{Result, wait};
use virtio_driver::features;

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn g_42_g_46_s_15_interrupts_are_neither_lost_nor_a_storm() -> Result<()> {
    let mut stage = Stage::start()?;
    let s = &mut stage;
    for options in Options::LAYOUTS {
        let options = options.with(features::EVENT_IDX);
        // Whatever is asked for: at most one interrupt for each burst, and packets move.
        s.case("G-42, G-46 any wish", options, PASS, |attack| {
            for (number, wish) in [0u16, 1, 7, 63, 64, 0x7fff, 0x8000, 0xfffe, 0xffff].into_iter().enumerate()
            {
                let tx = attack.guest.tx();
                if tx.is_split() {
                    tx.split().set_used_event(wish)?;
                } else {
                    // Flags 2: at the descriptor named; 3 and more are reserved.
                    tx.packed().set_driver_event(wish, [2, 3, 0xffff][number % 3])?;
                }
                let _before = attack.guest.called(TX);
                attack.sync()?;
                attack.until_used(TX, 1)?;
                attack.stage.rounds(1)?;
                ensure!(attack.guest.called(TX) <= 2, "a storm for the wish {wish:#x}");
            }
            Ok(())
        });
        // What is asked for rightly comes.
        s.case("G-42 asked for", options, PASS, |attack| {
            for number in 0..200u16 {
                let tx = attack.guest.tx();
                if tx.is_split() {
                    tx.split().set_used_event(number)?;
                } else {
                    tx.packed().set_driver_event(0, 0)?;
                }
                attack.sync()?;
                attack.until_used(TX, 1)?;
                wait::until("the interrupt that was asked for", LIMIT, || {
                    Ok((attack.guest.called(TX) > 0).then_some(()))
                })?;
            }
            Ok(())
        });
    }
    for options in Options::LAYOUTS {
        s.case("G-42 no interrupts, toggled", options, PASS, |attack| {
            for number in 0..50u16 {
                let off = number % 2;
                let tx = attack.guest.tx();
                if tx.is_split() {
                    tx.split().set_available_flags(off)?;
                } else {
                    tx.packed().set_driver_event(0, off)?;
                }
                attack.sync()?;
                attack.until_used(TX, 1)?;
            }
            Ok(())
        });
        // L-02: the old way is not used any more once another was given, or none.
        s.case("L-02", options, PASS, |attack| {
            let other = eventfd()?;
            let number = u64s(&[TX as u64]);
            attack.guest.wire.done(Request::SET_VRING_CALL, &number, &[other.as_fd()])?;
            // It is acknowledged a moment before the worker's end of the queue has it: the thread that answers this has seen to it.
            attack.stage.counts(&attack.port)?;
            let _before = attack.guest.called(TX);
            attack.sync()?;
            attack.until_used(TX, 1)?;
            wait::until("the new call", LIMIT, || {
                Ok((rustix::io::read(&other, &mut [0; 8]) == Ok(8)).then_some(()))
            })?;
            ensure!(attack.guest.called(TX) == 0, "the old call was rung");
            drop(other);
            attack.sync()?;
            attack.guest.wire.done(Request::SET_VRING_CALL, &u64s(&[NO_DESCRIPTOR | TX as u64]), &[])?;
            attack.sync()?;
            // Stopped while an interrupt is due.
            attack.guest.send()?;
            attack.guest.stop(TX)?;
            ensure!(attack.guest.called(TX) == 0, "the old call was rung");
            attack.arrive_at_most(1)
        });
        // V-20: a call that cannot be rung any more (its counter is full) holds nobody up.
        s.case("V-20 a full call", options, PASS, |attack| {
            // Empty, then filled: it may have been rung at any time.
            while rustix::io::write(&attack.guest.calls[TX], &(u64::MAX - 1).to_ne_bytes()).is_err() {
                let _before = attack.guest.called(TX);
            }
            for _ in 0..20 {
                attack.sync()?;
                attack.until_used(TX, 1)?;
            }
            attack.stage.rounds(3)
        });
    }
    stage.finish(10)
}
