//! A packet costs no allocation, lock, log or system call: counted over rings of both layouts, with and without offloads.
//!
//! System calls are counted by forbidding them: a second process of this test installs a filter that ends it at the first one, and steps. A
//! lock that is waited for, a log line and a clock that is not the time stamp counter are system calls too.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::process::{Command, ExitStatus};

use engine::Unobserved;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};
use switch::TimeStampClock;
use towpath_bench::{
    attach::AttachConfig,
    in_process::{Host, MinimalGuest, host},
};
use virtio_driver::RingLayout;

/// What the second process is told to do.
const ROLE: &str = "TOWPATH_COSTS_ROLE";
const BURST: usize = 32;
const BURSTS: usize = 200;

/// Runs bursts between two guests; `stepping` does the steps of one burst.
fn traffic(layout: RingLayout, size: &str, checksums: bool, mut stepping: impl FnMut(&mut dyn FnMut())) {
    let sizes: towpath_bench::frame::Sizes = size.parse().unwrap();
    let offloads = checksums || sizes.tso();
    let config =
        AttachConfig { layout, ring_size: 256, longest: sizes.longest(), offloads, huge_pages: false };
    let Host { control: _control, mut worker, guests } = host(&config).unwrap();
    let guests = guests.into_iter().zip(0u8..).map(|(g, i)| MinimalGuest::new(g, i, &sizes, 8));
    let mut guests: Vec<_> =
        guests.map(|guest| if checksums { guest.with_checksums() } else { guest }).collect();
    let burst = if sizes.tso() { 4 } else { BURST };
    for _ in 0..BURSTS {
        assert_eq!(guests[0].send(burst).unwrap(), burst);
        let mut moved = 0;
        stepping(&mut || {
            while moved < burst {
                moved += worker.step(0, &mut TimeStampClock, &mut Unobserved).packets as usize;
            }
        });
        assert_eq!(guests[1].receive().unwrap(), burst);
    }
}

const KINDS: [(&str, bool); 4] = [("64", false), ("1518", false), ("1518", true), ("64K", false)];

#[test]
fn a_packet_costs_no_allocation() {
    for layout in [RingLayout::Split, RingLayout::Packed] {
        for (size, checksums) in KINDS {
            let mut allocations = Vec::new();
            traffic(layout, size, checksums, |steps| {
                allocations.push(allocation_counter::measure(steps).count_total);
            });
            // The first burst may be the first time that something is set up.
            let later = allocations.get(1..).unwrap_or_default();
            assert_eq!(later.len(), BURSTS - 1);
            assert!(later.iter().all(|count| *count == 0), "{layout:?} {size} {checksums}: {allocations:?}");
        }
    }
}

/// This test once more, as a process of its own with a role.
fn child(role: &str) -> ExitStatus {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_packet_costs_no_system_call", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).status().unwrap()
}

/// Ends this process at the next system call, but for those that end it anyway.
fn forbid_system_calls() {
    let ending = [libc::SYS_exit_group, libc::SYS_sigaltstack, libc::SYS_munmap];
    let filter = SeccompFilter::new(
        ending.into_iter().map(|number| (number, Vec::new())).collect(),
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::try_from(std::env::consts::ARCH).unwrap(),
    )
    .unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    apply_filter(&program).unwrap();
}

#[test]
fn a_packet_costs_no_system_call() {
    match std::env::var(ROLE).as_deref() {
        Ok("one call") => {
            forbid_system_calls();
            std::thread::yield_now();
            std::process::exit(0);
        }
        Ok(kind) => {
            let mut words = kind.split(' ');
            let layout = if words.next() == Some("split") { RingLayout::Split } else { RingLayout::Packed };
            let (size, checksums) = (words.next().unwrap(), words.next() == Some("checksums"));
            let mut bursts = 0;
            // Guests send and receive in the same thread: what they do must be free of system calls as well.
            traffic(layout, size, checksums, |steps| {
                if bursts == 1 {
                    forbid_system_calls();
                }
                bursts += 1;
                steps();
                if bursts == BURSTS {
                    std::process::exit(0);
                }
            });
        }
        Err(_) => {
            use std::os::unix::process::ExitStatusExt;
            assert_eq!(child("one call").signal(), Some(libc::SIGSYS), "the filter must notice");
            for layout in ["split", "packed"] {
                for (size, checksums) in KINDS {
                    let kind = format!("{layout} {size} {}", if checksums { "checksums" } else { "plain" });
                    let status = child(&kind);
                    assert!(status.success(), "{kind}: {status}");
                }
            }
        }
    }
}
