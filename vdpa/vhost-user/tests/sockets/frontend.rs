//! The front end of crates.io's `vhost` as the independent other side, in a thread of its own.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserHeaderFlag,
    VhostUserInflight,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VhostUserDirtyLogRegion, VhostUserMemoryRegionInfo, VringConfigData};
use virtqueue::DeviceRing;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::common::*;
use crate::harness::*;
use towpath_vhost_user::features::*;

/// A port that runs in a thread until told to end; gives the port back.
struct Served {
    thread: Option<JoinHandle<Port>>,
    end: Arc<AtomicBool>,
}

impl Served {
    fn new(path: &PathBuf) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let mut port = Port::server(path);
        let ended = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            let start = std::time::Instant::now();
            while !ended.load(Ordering::Acquire) {
                // A front end that tries too often is let in later: time must pass for that.
                port.now = start.elapsed();
                port.run();
                let mut fds: Vec<_> = port
                    .device
                    .endpoint()
                    .sockets()
                    .map(|(socket, _)| PollFd::from_borrowed_fd(socket, PollFlags::IN))
                    .collect();
                let timeout = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
                poll(&mut fds, Some(&timeout)).unwrap();
            }
            port.run();
            port
        });
        Self { thread: Some(thread), end }
    }

    fn finish(mut self) -> Port {
        self.end.store(true, Ordering::Release);
        self.thread.take().unwrap().join().unwrap()
    }
}

fn region(memory: &OwnedFd, guest: u64) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: guest,
        memory_size: REGION_BYTES,
        userspace_addr: USER_BASE + guest,
        mmap_offset: 0,
        mmap_handle: memory.as_raw_fd(),
    }
}

fn ring(index: usize) -> VringConfigData {
    let at = ring_at(index as u32);
    VringConfigData {
        queue_max_size: 256,
        queue_size: 256,
        flags: 0,
        desc_table_addr: at,
        used_ring_addr: at + 0x2_0000,
        avail_ring_addr: at + 0x1_0000,
        log_addr: None,
    }
}

fn negotiate(front: &mut Frontend, features: u64) {
    front.set_owner().unwrap();
    let offered = front.get_features().unwrap();
    assert_eq!(features & !offered, 0);
    let protocol = front.get_protocol_features().unwrap();
    assert_eq!(protocol, SUPPORTED_PROTOCOL);
    front.set_protocol_features(protocol).unwrap();
    front.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    front.set_features(features | VHOST_USER_F_PROTOCOL_FEATURES).unwrap();
    assert_eq!(front.get_queue_num().unwrap(), 4);
}

/// What the used index of a split ring says.
fn put_used(memory: &OwnedFd, index: usize, used: u16) {
    let at = ring_at(index as u32) - USER_BASE + 0x2_0000 + 2;
    rustix::io::pwrite(memory, &used.to_le_bytes(), at).unwrap();
}

fn start(front: &mut Frontend, index: usize, base: u16) -> EventFd {
    let (kick, call) = (EventFd::new(EFD_NONBLOCK).unwrap(), EventFd::new(EFD_NONBLOCK).unwrap());
    front.set_vring_num(index, 256).unwrap();
    front.set_vring_addr(index, &ring(index)).unwrap();
    front.set_vring_base(index, base).unwrap();
    front.set_vring_call(index, &call).unwrap();
    front.set_vring_kick(index, &kick).unwrap();
    front.set_vring_err(index, &call).unwrap();
    front.set_vring_enable(index, true).unwrap();
    kick
}

#[test]
fn v11_the_vhost_crate_attaches_and_leaves() {
    let _alone = alone();
    let (_folder, path) = socket_path();
    let memory = memfd(REGION_BYTES);
    let before = held();
    let served = Served::new(&path);
    for round in 0..3 {
        let mut front = Frontend::connect(&path, 8).unwrap();
        negotiate(&mut front, VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF);
        front.set_mem_table(&[region(&memory, 0)]).unwrap();
        for index in 0..4 {
            put_used(&memory, index, 100 * round);
            start(&mut front, index, 100 * round);
        }
        for index in 0..4 {
            assert_eq!(front.get_vring_base(index).unwrap(), u32::from(100 * round));
        }
        front.reset_device().unwrap();
    }
    let port = served.finish();
    assert_eq!(port.device.endpoint().refusals().total(), 0, "{:?}", port.device.endpoint().refusals());
    assert_eq!(port.closed.len(), 3, "{:?}", port.closed);
    let ready = port.events.iter().filter(|event| *event == "QueueReady").count();
    let (ups, downs) = ("LinkUp".to_owned(), "LinkDown".to_owned());
    let links: Vec<_> = port.events.iter().filter(|event| **event == ups || **event == downs).collect();
    assert_eq!((ready, links), (12, [&ups, &downs].repeat(3)));
    drop(port);
    assert_eq!(held(), before);
}

/// Everything else that crate can say.
#[test]
fn v11_the_vhost_crate_uses_the_rest() {
    let _alone = alone();
    let (_folder, path) = socket_path();
    let (memory, more) = (memfd(REGION_BYTES), memfd(REGION_BYTES));
    let served = Served::new(&path);
    let mut front = Frontend::connect(&path, 8).unwrap();
    negotiate(&mut front, VIRTIO_F_VERSION_1);
    assert_eq!(front.get_max_mem_slots().unwrap(), 64);
    front.add_mem_region(&region(&memory, 0)).unwrap();
    put_used(&memory, 0, 7);
    let kick = start(&mut front, 0, 7);
    front.add_mem_region(&region(&more, 0x1000_0000)).unwrap();
    front.add_mem_region(&region(&more, 0x1000_0000)).unwrap();
    assert!(front.add_mem_region(&region(&memory, 0x1000_0000)).is_err(), "another file is there");
    front.remove_mem_region(&region(&more, 0x1000_0000)).unwrap();
    front.remove_mem_region(&region(&more, 0x1000_0000)).unwrap();
    assert!(front.remove_mem_region(&region(&more, 0x1000_0000)).is_err(), "told twice, removed twice");
    let config = front.get_config(0, 12, VhostUserConfigFlags::WRITABLE, &[0; 12]).unwrap().1;
    assert_eq!(config, [2, 0, 0, 0, 1, 10, 1, 0, 4, 0, 0xdc, 5]);
    front.set_config(0, VhostUserConfigFlags::WRITABLE, &config).unwrap();
    assert!(front.set_config(0, VhostUserConfigFlags::WRITABLE, &[9]).is_err());
    let log = memfd(0x1000);
    let dirty = VhostUserDirtyLogRegion { mmap_size: 0x1000, mmap_offset: 0, mmap_handle: log.as_raw_fd() };
    front.set_log_base(0, Some(dirty)).unwrap();
    let on = VIRTIO_F_VERSION_1 | VHOST_F_LOG_ALL | VHOST_USER_F_PROTOCOL_FEATURES;
    front.set_features(on).unwrap();
    front.set_log_fd(kick.as_raw_fd()).unwrap();
    let channel = UnixStream::pair().unwrap();
    front.set_backend_request_fd(&channel.0).unwrap();
    assert_eq!(front.get_vring_base(0).unwrap(), 7);
    let (reader, writer) = std::io::pipe().unwrap();
    let (save, stopped) = (VhostTransferStateDirection::SAVE, VhostTransferStatePhase::STOPPED);
    assert!(front.set_device_state_fd(save, stopped, writer.into()).unwrap().is_none());
    front.check_device_state().unwrap();
    let load = VhostTransferStateDirection::LOAD;
    assert!(front.set_device_state_fd(load, stopped, reader.into()).unwrap().is_none());
    front.check_device_state().unwrap();
    let port = served.finish();
    let refused: Vec<_> = port.device.endpoint().refusals().iter().map(|(r, n)| (r.name(), n)).collect();
    assert_eq!(refused, [("region_overlap", 1), ("region_unknown", 1), ("config_read_only", 1)]);
    assert!(
        port.device
            .endpoint()
            .session()
            .unwrap()
            .protocol_features()
            .contains(VhostUserProtocolFeatures::DEVICE_STATE)
    );
}

/// A back end that comes back starts from the ring's own used index when there is an in-flight region.
#[test]
fn inflight_region_resumes_from_the_used_index() {
    let _alone = alone();
    let (_folder, path) = socket_path();
    let memory = memfd(REGION_BYTES);
    let served = Served::new(&path);
    let mut front = Frontend::connect(&path, 8).unwrap();
    negotiate(&mut front, VIRTIO_F_VERSION_1);
    front.set_mem_table(&[region(&memory, 0)]).unwrap();
    front.set_vring_num(0, 256).unwrap();
    let (inflight, file) = front.get_inflight_fd(&VhostUserInflight::new(0, 0, 2, 256)).unwrap();
    assert_eq!((inflight.num_queues, inflight.queue_size), (2, 256));
    front.set_inflight_fd(&inflight, file.as_raw_fd()).unwrap();
    // The rings say 42 and 65535; the front end believes 50.
    for (index, used) in [(0, 42), (1, 65535)] {
        put_used(&memory, index, used);
        start(&mut front, index, 50);
        assert_eq!(front.get_vring_base(index).unwrap(), u32::from(used));
    }
    drop(front);
    let port = served.finish();
    assert_eq!(port.device.endpoint().refusals().total(), 0);
    assert!(port.queues.values().all(|queue| queue.ring.stats().chains == 0));
}

/// A packed ring has no index of its own: it resumes from the region, but only when the front end was not told better.
#[test]
fn a_packed_ring_resumes_from_the_inflight_region_after_a_crash_and_not_after_a_stop() {
    let _alone = alone();
    let (_folder, path) = socket_path();
    let memory = memfd(REGION_BYTES);
    let served = Served::new(&path);
    let connect = || {
        // While the last one is not gone, the next is turned away.
        let begin = std::time::Instant::now();
        loop {
            let front = Frontend::connect(&path, 8).unwrap();
            if front.get_features().is_ok() {
                return front;
            }
            assert!(begin.elapsed().as_secs() < 10, "nobody is let in");
        }
    };
    let attach = |region_file: Option<&(VhostUserInflight, std::fs::File)>| {
        let mut front = connect();
        negotiate(&mut front, VIRTIO_F_VERSION_1 | VIRTIO_F_RING_PACKED);
        front.set_mem_table(&[region(&memory, 0)]).unwrap();
        front.set_vring_num(0, 256).unwrap();
        let made = match region_file {
            Some((inflight, file)) => (*inflight, file.try_clone().unwrap()),
            None => front.get_inflight_fd(&VhostUserInflight::new(0, 0, 2, 256)).unwrap(),
        };
        front.set_inflight_fd(&made.0, made.1.as_raw_fd()).unwrap();
        (front, made)
    };
    let both = |half: u32| half << 16 | half;
    let header = |file: &std::fs::File| {
        let mut bytes = [0; 24];
        rustix::io::pread(file, &mut bytes, 0).unwrap();
        bytes
    };
    // A new region says nothing.
    let (mut front, made) = attach(None);
    start(&mut front, 0, 0x8000 | 9);
    assert_eq!(front.get_vring_base(0).unwrap(), both(0x8000 | 9));
    assert_eq!(header(&made.1)[8..12], [0; 4], "stopped in peace: uninitialized");
    start(&mut front, 0, 0x8000 | 11);
    let begin = std::time::Instant::now();
    while header(&made.1)[8] == 0 && begin.elapsed().as_secs() < 10 {
        std::thread::yield_now();
    }
    drop(front);
    assert_eq!(header(&made.1)[8..22], [1, 0, 0, 1, 0, 0, 0, 0, 11, 0, 11, 0, 1, 1], "gone without a word");
    // The next session finds what the last one left, and after that knows better itself.
    let (mut front, made) = attach(Some(&made));
    start(&mut front, 0, 0x8000);
    assert_eq!(front.get_vring_base(0).unwrap(), both(0x8000 | 11));
    start(&mut front, 0, 0x8000 | 7);
    assert_eq!(front.get_vring_base(0).unwrap(), both(0x8000 | 7));
    drop(front);
    let (mut front, _made) = attach(Some(&made));
    start(&mut front, 0, 0x8000 | 3);
    assert_eq!(front.get_vring_base(0).unwrap(), both(0x8000 | 3), "it was stopped in peace");
    drop(front);
    served.finish();
}
