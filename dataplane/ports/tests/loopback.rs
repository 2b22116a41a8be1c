//! The loopback driver, two of them back to back, under the conformance suite.

mod support;

use engine::{RxQueue, TxQueue, TxReport};
use support::{Wires, measure, wires};
use towpath_ports::conformance::{numbered, receive_all, send_short};
use towpath_ports::loopback::{LoopbackRx, LoopbackTx};

fn make() -> Wires<LoopbackRx, LoopbackTx> {
    wires(|rx, _| rx, |tx, _| tx)
}

towpath_ports::conformance_tests!(make, measure);

#[test]
fn an_end_that_is_gone_stops_the_other() {
    let Wires { near: (near_rx, mut near_tx), far: (mut far_rx, far_tx), pool, .. } = make();
    let frames: Vec<Vec<u8>> = (0..5).map(|at| numbered(at, 60)).collect();
    assert_eq!(send_short(&mut near_tx, &frames).sent, 5);
    drop((near_rx, far_tx));
    assert_eq!(receive_all(&mut far_rx, 5).len(), 5, "what was sent before is received");
    drop(far_rx);
    assert_eq!(send_short(&mut near_tx, &frames), TxReport { stopped: 5, ..TxReport::default() });
    assert!(near_tx.capabilities().tso4);
    drop(near_tx);
    assert_eq!(pool.available(), 1024);
}

#[test]
fn two_threads_lose_no_wakeup() {
    const FRAMES: usize = 20_000;
    let pool = buf::Pool::new(256);
    let receiver = std::thread::current();
    let (mut rx, mut tx) = towpath_ports::loopback::loopback(&pool, 64, move || receiver.unpark());
    let sender = std::thread::spawn(move || {
        let mut sent = 0;
        while sent < FRAMES {
            let report = send_short(&mut tx, &[numbered(sent as u64, 60)]);
            sent += report.sent as usize;
            if report.sent == 0 {
                std::thread::yield_now();
            }
        }
        tx
    });
    let mut next = 0;
    while next < FRAMES {
        let taken = receive_all(&mut rx, 1);
        for frame in &taken {
            assert_eq!(frame.bytes, numbered(next as u64, 60));
            next += 1;
        }
        // A wake-up that is lost leaves this thread parked for ever.
        if taken.is_empty() && rx.arm() == engine::Armed::Quiet {
            std::thread::park();
            rx.disarm();
        }
    }
    drop(sender.join());
}
