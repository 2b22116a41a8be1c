//! Files written by one queue and read by the other, and by tshark.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use buf::{BURST_PACKETS, Offload};
use engine::{Armed, OffloadCapabilities, RxQueue, TxQueue, TxReport};
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use towpath_ports::conformance::{Traffic, numbered, receive, receive_all, send_one, send_short};
use towpath_ports::loopback::{LONGEST_FRAME, loopback};
use towpath_ports::pcap::{PcapError, PcapRx, PcapTx, PcapWriter};
use towpath_ports::wrap::capture::capture;

/// A file in memory that can be looked at while it is written, and that refuses more than `room` bytes.
#[derive(Clone)]
struct SharedFile {
    bytes: Arc<Mutex<Vec<u8>>>,
    room: usize,
}

impl SharedFile {
    fn new(room: usize) -> Self {
        Self { bytes: Arc::default(), room }
    }

    fn read(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }
}

impl Write for SharedFile {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        let mut bytes = self.bytes.lock().unwrap();
        if bytes.len() + more.len() > self.room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        bytes.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn frames_of_all_lengths_come_out_of_the_file_as_they_went_in() {
    let file = SharedFile::new(usize::MAX);
    let mut tx = PcapTx::new(file.clone(), "test", || 5).unwrap();
    assert_eq!(tx.capabilities(), OffloadCapabilities::default(), "a file holds finished frames");
    let lengths: Vec<usize> = (1..200).chain([1514, 9000, 65_535, LONGEST_FRAME]).collect();
    for (number, length) in lengths.iter().enumerate() {
        let report = send_one(&mut tx, &numbered(number as u64, *length), 3, Offload::NONE);
        assert_eq!(report, TxReport { sent: 1, bytes: *length as u64, ..TxReport::default() });
    }
    let mut rx = PcapRx::new(&file.read()[..]).unwrap();
    assert_eq!((rx.remaining(), rx.arm()), (lengths.len(), Armed::Ready));
    let taken = receive_all(&mut rx, lengths.len());
    assert_eq!(taken.len(), lengths.len());
    for (number, (length, frame)) in lengths.iter().zip(&taken).enumerate() {
        assert_eq!(frame.bytes, numbered(number as u64, *length));
        assert_eq!(frame.offload, Offload::NONE);
    }
    assert_eq!((rx.remaining(), rx.arm()), (0, Armed::Quiet));
    assert!(receive(&mut rx).0.is_empty());
}

#[test]
fn bursts_end_at_their_limits() {
    let file = SharedFile::new(usize::MAX);
    let mut tx = PcapTx::new(file.clone(), "test", || 0).unwrap();
    let frames: Vec<Vec<u8>> = (0..33).map(|number| numbered(number, 60)).collect();
    assert_eq!(send_short(&mut tx, &frames).sent, 33);
    for number in 0..3 {
        assert_eq!(send_one(&mut tx, &numbered(number, 65_000), 1, Offload::NONE).sent, 1);
    }
    let mut rx = PcapRx::new(&file.read()[..]).unwrap();
    let bursts: Vec<(usize, bool)> = (0..3)
        .map(|_| {
            let (taken, report) = receive(&mut rx);
            (taken.len(), report.more)
        })
        .collect();
    assert_eq!(bursts, [(BURST_PACKETS, true), (4, false), (0, false)]);
}

#[test]
fn a_full_buffer_a_long_frame_and_a_full_disk_are_counted() {
    let file = SharedFile::new(100_000);
    let mut tx = PcapTx::new(file.clone(), "test", || 0).unwrap();
    let long = vec![1; LONGEST_FRAME + 1];
    assert_eq!(send_one(&mut tx, &long, 1, Offload::NONE).too_large, 1);
    let frame = numbered(1, 60_000);
    let whole = buf::Frame::from_head(&frame, Offload::NONE);
    let report = tx.send(&[whole; 32]);
    assert_eq!((report.sent, report.full), (17, 15), "1 MiB holds 17");
    assert!(tx.failure().is_none());
    tx.flush();
    assert!(matches!(tx.failure(), Some(PcapError::Write(_))), "the disk is full");
    assert_eq!(tx.send(&[whole; 3]), TxReport { stopped: 3, ..TxReport::default() });
}

#[test]
fn what_is_no_capture_of_whole_ethernet_frames_is_refused() {
    assert!(matches!(
        PcapRx::new(&b"not a capture at all, however long it may be"[..]),
        Err(PcapError::Read(_))
    ));
    let file = SharedFile::new(usize::MAX);
    let mut writer = PcapWriter::new(file.clone()).unwrap();
    assert!(writer.write(0, 0, &[1; 60]).is_err(), "there is no interface yet");
    let interface = writer.interface("a").unwrap();
    assert_eq!((interface, writer.interface("b").unwrap()), (0, 1));
    writer.write(1, 0, &[1; 60]).unwrap();
    writer.write(0, 0, &[]).unwrap();
    let bytes = file.read();
    assert!(matches!(PcapRx::new(&bytes[..]), Err(PcapError::Cut { packet: 2, captured: 0, length: 0 })));
    assert!(matches!(PcapRx::new(&bytes[..bytes.len() - 3]), Err(PcapError::Read(_))), "the end is missing");
}

#[test]
fn a_capture_is_written_down_and_can_be_replayed() {
    let pool = buf::Pool::new(64);
    let (mut rx, tx) = loopback(&pool, 64, || {});
    let (mut tx, mut captured) = capture(tx, &pool, 64, || 1_700_000_000_123_456_789);
    let frames: Vec<Vec<u8>> = Traffic::ALL.iter().map(|traffic| traffic.packet(50)).collect();
    for bytes in &frames {
        assert_eq!(send_one(&mut tx, bytes, 2, Offload::NONE).sent, 1);
    }
    let file = SharedFile::new(usize::MAX);
    let mut writer = PcapWriter::new(file.clone()).unwrap();
    let interface = writer.interface("vm1-eth0").unwrap();
    assert_eq!(captured.write_to(&mut writer, interface).unwrap(), 4);
    let replayed = receive_all(&mut PcapRx::new(&file.read()[..]).unwrap(), 4);
    assert_eq!(replayed, receive_all(&mut rx, 4));
}

/// Needs tshark, so `make test` runs it.
#[test]
#[ignore = "needs tshark"]
fn tshark_reads_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frames.pcapng");
    let mut tx =
        PcapTx::new(std::fs::File::create(&path).unwrap(), "vm1-eth0", || 1_700_000_000_123_456_789).unwrap();
    for traffic in Traffic::ALL {
        assert_eq!(send_one(&mut tx, &traffic.packet(100), 1, Offload::NONE).sent, 1);
    }
    drop(tx);
    let fields = ["frame.time_epoch", "frame.interface_name", "frame.len", "_ws.col.Protocol"];
    let output = std::process::Command::new("tshark")
        .arg("-r")
        .arg(&path)
        .args(["-T", "fields"])
        .args(fields.iter().flat_map(|field| ["-e", field]))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let expected: String = [("154", "TCP"), ("174", "TCP"), ("142", "UDP"), ("162", "UDP")]
        .map(|(length, protocol)| format!("1700000000.123456789\tvm1-eth0\t{length}\t{protocol}\n"))
        .concat();
    assert_eq!(text, expected);
}
