//! What a hostile front end can do with memory regions. Numbers are those of the project's list of hostile cases.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, OFlags, SealFlags};
use towpath_guest_mem::{
    ANONYMOUS_USER_OFFSET, DirtyLog, GuestMemory, MAX_REGIONS, MapError, RegionCache, RegionSpec, Space,
    fault_count,
};

const KIB: u64 = 1024;

fn memfd(size: u64) -> OwnedFd {
    let file =
        rustix::fs::memfd_create("towpath-test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&file, size).unwrap();
    file
}

fn spec(guest_addr: u64, size: u64) -> RegionSpec {
    RegionSpec {
        guest_addr,
        user_addr: guest_addr + ANONYMOUS_USER_OFFSET,
        size,
        file_offset: 0,
        file: memfd(size),
    }
}

fn map(spec: RegionSpec) -> Result<Arc<GuestMemory>, MapError> {
    GuestMemory::map(vec![spec])
}

fn with_file(file: OwnedFd) -> RegionSpec {
    RegionSpec { file, ..spec(0, 64 * KIB) }
}

/// Number of lines of `/proc/self/maps` that mention files made by this test.
fn mappings_of(name: &str) -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().filter(|line| line.contains(name)).count()
}

#[test]
fn v12_tables_of_no_or_too_many_regions_are_refused() {
    assert!(matches!(GuestMemory::map(Vec::new()), Err(MapError::Empty)));
    let many = |count| GuestMemory::map((0..count).map(|at| spec(at * 4 * KIB, 4 * KIB)).collect());
    assert!(many(MAX_REGIONS as u64).is_ok());
    assert!(matches!(many(MAX_REGIONS as u64 + 1), Err(MapError::TooManyRegions { count: 65 })));
}

#[test]
fn v13_sizes_that_do_not_fit_are_refused() {
    assert!(matches!(map(RegionSpec { size: 0, ..spec(0, 4 * KIB) }), Err(MapError::Empty)));
    let beyond = map(RegionSpec { size: 8 * KIB, ..spec(0, 4 * KIB) });
    assert!(matches!(beyond, Err(MapError::PastEndOfFile { offset: 0, size: 8192, file_size: 4096 })));
    for size in [1, 4095, 4097] {
        let unaligned = map(RegionSpec { size, ..spec(0, 8 * KIB) });
        assert!(matches!(unaligned, Err(MapError::Unaligned { .. })), "{size}");
    }
    for size in [1 << 63, 1 << 48, u64::MAX - 4095] {
        assert!(map(RegionSpec { size, ..spec(0, 4 * KIB) }).is_err(), "{size:#x}");
    }
    let wraps = map(RegionSpec { guest_addr: u64::MAX - 4095, ..spec(0, 8 * KIB) });
    assert!(matches!(wraps, Err(MapError::Wraps { space: Space::Guest, .. })));
    let wraps = map(RegionSpec { user_addr: u64::MAX - 4095, ..spec(0, 8 * KIB) });
    assert!(matches!(wraps, Err(MapError::Wraps { space: Space::User, .. })));
}

#[test]
fn v14_overlapping_regions_are_refused_and_adjacent_ones_are_not() {
    let two = |first: RegionSpec, second: RegionSpec| GuestMemory::map(vec![first, second]);
    assert!(matches!(two(spec(0x4000, 8 * KIB), spec(0x5000, 8 * KIB)), Err(MapError::Overlap { .. })));
    let elsewhere = RegionSpec { user_addr: 0x1000, ..spec(0x5000, 8 * KIB) };
    let guest = two(spec(0x4000, 8 * KIB), elsewhere);
    assert!(matches!(guest, Err(MapError::Overlap { space: Space::Guest, first: 0x4000, second: 0x5000 })));
    let same_user = RegionSpec { user_addr: 0x5000 + ANONYMOUS_USER_OFFSET, ..spec(0x10_0000, 8 * KIB) };
    let user = two(spec(0x4000, 8 * KIB), same_user);
    assert!(matches!(user, Err(MapError::Overlap { space: Space::User, .. })));
    assert!(two(spec(0x4000, 4 * KIB), spec(0x4000, 4 * KIB)).is_err());
    assert!(two(spec(0x5000, 4 * KIB), spec(0x4000, 4 * KIB)).is_ok());
}

#[test]
fn v16_offsets_beyond_the_file_or_wrapping_are_refused() {
    let at = |file_offset| map(RegionSpec { file_offset, size: 4 * KIB, ..spec(0, 8 * KIB) });
    assert!(at(4096).is_ok());
    assert!(matches!(at(8192), Err(MapError::PastEndOfFile { .. })));
    assert!(matches!(at(100), Err(MapError::Unaligned { space: Space::File, value: 100 })));
    assert!(matches!(at(u64::MAX - 4095), Err(MapError::Wraps { .. })));
    assert!(matches!(at(1 << 63), Err(MapError::Wraps { .. } | MapError::PastEndOfFile { .. })));
}

#[test]
fn v17_user_addresses_must_lie_in_one_region() {
    let memory = GuestMemory::map(vec![spec(0, 8 * KIB), spec(0x2000, 4 * KIB)]).unwrap();
    let user = ANONYMOUS_USER_OFFSET;
    assert!(memory.translate_user(user, 8192).is_some());
    assert!(memory.translate_user(user + 8191, 1).is_some());
    assert!(memory.translate_user(user + 8191, 2).is_none(), "adjoining regions are not contiguous here");
    assert!(memory.translate_user(user + 0x3000, 1).is_none());
    assert!(memory.translate_user(user.wrapping_sub(1), 1).is_none());
    assert!(memory.translate_user(0, 1).is_none());
    assert!(memory.translate_user(u64::MAX, 16).is_none());
    assert_eq!(memory.guest_addr_of_user(user + 0x2010), Some(0x2010));
}

#[test]
fn v23_regions_come_and_go_one_by_one() {
    let memory = GuestMemory::empty();
    assert!(memory.translate(0, 1).is_none());
    let one = memory.with_region(spec(0x1000, 8 * KIB)).unwrap();
    let two = one.with_region(spec(0x10_0000, 4 * KIB)).unwrap();
    assert!(two.with_region(spec(0x2000, 4 * KIB)).is_err(), "overlaps the first");
    assert!(two.with_region(spec(0x10_0000, 4 * KIB)).is_err(), "is there already");
    one.write(0x1000, b"shared").unwrap();
    let mut seen = [0; 6];
    two.read(0x1000, &mut seen).unwrap();
    assert_eq!(&seen, b"shared", "the unchanged region is the same mapping");
    assert!(Arc::ptr_eq(&one.regions()[0], &two.regions()[0]));

    let user = |guest_addr| guest_addr + ANONYMOUS_USER_OFFSET;
    assert!(matches!(two.without_region(0x1000, user(0x1000), 4 * KIB), Err(MapError::UnknownRegion { .. })));
    assert!(two.without_region(0x1000, 0, 8 * KIB).is_err());
    let rest = two.without_region(0x1000, user(0x1000), 8 * KIB).unwrap();
    assert!(rest.translate(0x1000, 1).is_none());
    assert!(rest.translate(0x10_0fff, 1).is_some());
    assert!(two.translate(0x1000, 1).is_some(), "the old memory is untouched");
    let none = rest.without_region(0x10_0000, user(0x10_0000), 4 * KIB).unwrap();
    assert_eq!((none.regions().len(), none.guest_end()), (0, 0));
    let full = (0..MAX_REGIONS as u64)
        .try_fold(GuestMemory::empty(), |all, at| all.with_region(spec(at * 8 * KIB, 4 * KIB)));
    assert!(matches!(
        full.unwrap().with_region(spec(1 << 40, 4 * KIB)),
        Err(MapError::TooManyRegions { .. })
    ));
}

#[test]
fn v24_only_memory_files_are_mapped() {
    let refused =
        |file: OwnedFd| matches!(map(with_file(file)), Err(MapError::NotMemory | MapError::ReadOnly));
    let open = |path: &str| File::options().read(true).write(true).open(path).map(OwnedFd::from);
    assert!(refused(open("/dev/null").unwrap()));
    assert!(refused(open("/dev/zero").unwrap()));
    let (reader, writer) = std::io::pipe().unwrap();
    assert!(refused(reader.into()) && refused(writer.into()));
    let (left, _right) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(refused(left.into()));
    assert!(refused(File::open("/proc").unwrap().into()));
    assert!(refused(rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap()));
    let text = File::options().read(true).write(true).open("/proc/self/comm").unwrap();
    assert!(refused(text.into()), "a regular file of no memory file system");

    let shm = tempfile::tempfile_in("/dev/shm").unwrap();
    shm.set_len(64 * KIB).unwrap();
    assert!(map(with_file(shm.into())).is_ok());
}

#[test]
fn v24_mappings_are_never_executable_and_descriptors_close_on_exec() {
    let file = rustix::fs::memfd_create("towpath-perm-test", MemfdFlags::empty()).unwrap();
    rustix::fs::ftruncate(&file, 64 * KIB).unwrap();
    let memory = map(with_file(file)).unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.contains("towpath-perm-test")).unwrap();
    assert!(line.contains(" rw-s "), "{line}");
    let flags = rustix::io::fcntl_getfd(memory.regions()[0].file()).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let flags =
        smaps.split("towpath-perm-test").nth(1).unwrap().lines().find(|line| line.starts_with("VmFlags"));
    assert!(flags.unwrap().contains(" dd"), "left out of core dumps: {flags:?}");
    drop(memory);
    assert_eq!(mappings_of("towpath-perm-test"), 0, "unmapped with its last owner");
}

#[test]
fn g50_files_that_cannot_be_written_are_refused() {
    let writable = memfd(64 * KIB);
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writable));
    let read_only = rustix::fs::open(path, OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
    assert!(matches!(map(with_file(read_only)), Err(MapError::ReadOnly)));
    for seal in [SealFlags::WRITE, SealFlags::FUTURE_WRITE] {
        let sealed = memfd(64 * KIB);
        rustix::fs::fcntl_add_seals(&sealed, seal).unwrap();
        assert!(matches!(map(with_file(sealed)), Err(MapError::ReadOnly)), "{seal:?}");
    }
    let sealed = memfd(64 * KIB);
    rustix::fs::fcntl_add_seals(&sealed, SealFlags::SHRINK | SealFlags::GROW).unwrap();
    assert!(map(with_file(sealed)).is_ok(), "what a careful front end seals");
}

#[test]
fn g48_a_truncated_file_kills_its_region_and_nothing_else() {
    let file = memfd(256 * KIB);
    let handle = file.try_clone().unwrap();
    let memory =
        GuestMemory::map(vec![RegionSpec { file, ..spec(0, 256 * KIB) }, spec(1 << 30, 64 * KIB)]).unwrap();
    let bystander = map(spec(0, 64 * KIB)).unwrap();
    memory.write(0x3_0000, b"here").unwrap();
    bystander.write(0x100, b"mine").unwrap();
    assert!(!memory.is_dead());
    let before = fault_count();

    rustix::fs::ftruncate(&handle, 4096).unwrap();
    let mut bytes = [0xffu8; 4];
    memory.read(0x3_0000, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 4], "zero pages lie there now");
    assert!(fault_count() > before);
    assert!(memory.is_dead());
    assert!(memory.regions()[0].is_dead() && !memory.regions()[1].is_dead());
    memory.write(0x3_0000, b"void").unwrap();
    memory.write(0, b"void").unwrap();

    let mut bytes = [0u8; 4];
    bystander.read(0x100, &mut bytes).unwrap();
    assert_eq!(&bytes, b"mine");
    assert!(!bystander.is_dead());
    memory.write(1 << 30, b"live").unwrap();
}

#[test]
fn g49_many_threads_touch_truncated_memory_at_once() {
    let regions: Vec<_> = (0..8).map(|_| memfd(1024 * KIB)).collect();
    let handles: Vec<OwnedFd> = regions.iter().map(|file| file.try_clone().unwrap()).collect();
    let specs =
        (0u64..).zip(regions).map(|(at, file)| RegionSpec { file, ..spec(at << 20, 1024 * KIB) }).collect();
    let memory = GuestMemory::map(specs).unwrap();
    for handle in &handles {
        rustix::fs::ftruncate(handle, 0).unwrap();
    }
    std::thread::scope(|scope| {
        for offset in 0..4u64 {
            let memory = &memory;
            scope.spawn(move || {
                for page in 0..2048 {
                    let mut bytes = [1u8; 8];
                    memory.read(page * 4096 + offset * 64, &mut bytes).unwrap();
                    assert_eq!(bytes, [0; 8]);
                }
            });
        }
    });
    assert!(memory.regions().iter().all(|region| region.is_dead()));
}

#[test]
fn g48_regions_mapped_after_a_fault_are_alive() {
    for _ in 0..50 {
        let file = memfd(64 * KIB);
        let handle = file.try_clone().unwrap();
        let memory = map(with_file(file)).unwrap();
        assert!(!memory.is_dead(), "a slot of the guard's table was reused");
        rustix::fs::ftruncate(&handle, 0).unwrap();
        assert_eq!(memory.load_u64(0x8000), Ok(0));
        assert!(memory.is_dead());
    }
}

#[test]
fn g48_other_bus_errors_still_end_the_process() {
    // A mapping that the guard does not know: the handler that was there before (the default action) decides. In a child, which must die of it.
    let unit = std::env::current_exe().unwrap();
    if std::env::var_os("TOWPATH_FAULT_UNREGISTERED").is_some() {
        let _registered = map(spec(0, 64 * KIB)).unwrap(); // installs the handler
        let file = memfd(4096);
        let memory = unregistered(&file);
        rustix::fs::ftruncate(&file, 0).unwrap();
        // The value cannot be known; the load must not return.
        let value = memory.load(std::sync::atomic::Ordering::Relaxed);
        unreachable!("read {value} from a truncated file");
    }
    let status = std::process::Command::new(unit)
        .args(["--exact", "g48_other_bus_errors_still_end_the_process"])
        .env("TOWPATH_FAULT_UNREGISTERED", "1")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGBUS));
}

#[expect(unsafe_code, reason = "maps a page behind the guard's back")]
fn unregistered(file: &OwnedFd) -> &'static std::sync::atomic::AtomicU64 {
    use rustix::mm::{MapFlags, ProtFlags};
    // SAFETY: a new mapping at an address of the kernel's choice, never unmapped; 4096 bytes hold an aligned AtomicU64.
    unsafe {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let page =
            rustix::mm::mmap(std::ptr::null_mut(), 4096, protection, MapFlags::SHARED, file, 0).unwrap();
        std::sync::atomic::AtomicU64::from_ptr(page.cast())
    }
}

#[test]
fn v21_logs_that_are_too_small_are_refused() {
    let memory = GuestMemory::anonymous(&[(0, 64 * KIB), (1 << 30, 64 * KIB)]).unwrap();
    let log = |offset, size| DirtyLog::map(memfd(64 * KIB), offset, size);
    assert!(matches!(log(0, 0), Err(MapError::Empty)));
    assert!(matches!(log(64 * KIB, 1), Err(MapError::PastEndOfFile { .. })));
    assert!(matches!(log(u64::MAX, 2), Err(MapError::Wraps { .. })));
    let needed = ((1 << 30) / 4096 + 16) / 8;
    assert!(log(0, needed).unwrap().check_covers(&memory).is_ok());
    let short = log(0, needed - 1).unwrap().check_covers(&memory);
    assert!(matches!(short, Err(MapError::LogTooSmall { needed: n, .. }) if n == needed));
}

#[test]
fn v22_log_bits_land_at_the_right_byte() {
    let file = memfd(64 * KIB);
    let view = file.try_clone().unwrap();
    let log = DirtyLog::map(file, 100, 200).unwrap();
    log.mark(0x5000, 1);
    log.mark(9 * 4096 + 4095, 2);
    log.mark(0x2000, 0);
    log.mark(199 * 8 * 4096, u64::MAX);
    log.mark(u64::MAX, 1);
    let mut bytes = vec![0u8; 64 * 1024];
    std::os::unix::fs::FileExt::read_exact_at(&File::from(view), &mut bytes, 0).unwrap();
    let set: Vec<_> =
        bytes.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, byte)| (at, *byte)).collect();
    assert_eq!(set, [(100, 1 << 5), (101, 0b110), (299, 0xff)]);
    assert!(log.is_marked(0x5fff) && !log.is_marked(0x6000));
}

#[test]
fn dirty_log_survives_truncation() {
    let file = memfd(64 * KIB);
    let handle = file.as_fd().try_clone_to_owned().unwrap();
    let log = DirtyLog::map(file, 0, 64 * KIB).unwrap();
    rustix::fs::ftruncate(&handle, 0).unwrap();
    log.mark(0, 1 << 20);
    assert!(log.is_dead());
}

#[test]
fn huge_page_regions_need_no_huge_alignment() {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let file = rustix::fs::memfd_create("towpath-huge", flags).unwrap();
    // Pages are taken from the pool at the first touch, so this works on machines without any.
    rustix::fs::ftruncate(&file, 4 << 20).unwrap();
    let region = RegionSpec { file_offset: 0xc_0000, size: 0x24_0000, file, ..spec(0x10_0000, 4096) };
    let memory = map(region).unwrap();
    assert_eq!(memory.guest_end(), 0x10_0000 + 0x24_0000);
    // With no huge page free this is a SIGBUS like any other.
    memory.write(0x10_0000, b"ok").unwrap();
    let odd = rustix::fs::memfd_create("towpath-huge", flags).unwrap();
    rustix::fs::ftruncate(&odd, 2 << 20).unwrap();
    assert!(map(RegionSpec { size: 3 << 20, file: odd, ..spec(0, 4096) }).is_err());
}

proptest! {
    /// Translation with a cache against the obvious search, over random regions and addresses around their edges.
    #[test]
    fn translation_agrees_with_a_naive_search(
        gaps in prop::collection::vec((1u64..4, 0u64..3), 1..12),
        probes in prop::collection::vec((0usize..12, -70_000i64..70_000, 0u32..20_000), 1..80),
    ) {
        let mut ranges = Vec::new();
        let mut at = 0x1_0000;
        for (pages, gap) in gaps {
            ranges.push((at, pages * 4096));
            at += (pages + gap) * 4096;
        }
        let memory = GuestMemory::anonymous(&ranges).unwrap();
        for &(start, size) in &ranges {
            for page in 0..size / 4096 {
                memory.store_u64(start + page * 4096, start + page * 4096).unwrap();
            }
        }
        let mut cache = RegionCache::default();
        let mut translator = memory.translator(&mut cache);
        for (base, delta, len) in probes {
            let addr = ranges[base % ranges.len()].0.wrapping_add_signed(delta);
            let end = addr.checked_add(u64::from(len));
            let inside = |start: u64, size: u64| addr >= start && addr < start + size && end.is_some_and(|end| end <= start + size);
            let expected = ranges.iter().any(|&(start, size)| inside(start, size));
            prop_assert_eq!(translator.translate(addr, len).is_some(), expected, "{:#x}+{:#x}", addr, len);
            prop_assert_eq!(memory.translate(addr, len as usize).is_some(), expected);

            let mut total = 0;
            let whole = translator.pieces(addr, len, |_, len| total += len);
            let mapped = |addr: u64| ranges.iter().any(|&(start, size)| addr >= start && addr - start < size);
            let all = (0..u64::from(len)).step_by(512).chain(len.checked_sub(1).map(u64::from)).all(|at| mapped(addr.wrapping_add(at)));
            prop_assert_eq!(whole, all);
            if whole {
                prop_assert_eq!(total, len);
            }
        }
        // What the translator found is what was written there.
        for &(start, _) in &ranges {
            let mut bytes = [0; 8];
            prop_assert_eq!(translator.translate(start, 8).unwrap().read(&mut bytes), 8);
            prop_assert_eq!(u64::from_le_bytes(bytes), start);
        }
    }
}

#[test]
fn a_cache_is_not_believed_by_another_memory() {
    let first = GuestMemory::anonymous(&[(0, 64 * KIB)]).unwrap();
    let second = GuestMemory::anonymous(&[(1 << 20, 64 * KIB)]).unwrap();
    let mut cache = RegionCache::default();
    assert!(first.translator(&mut cache).translate(0x100, 16).is_some());
    assert!(second.translator(&mut cache).translate(0x100, 16).is_none());
    assert!(second.translator(&mut cache).translate((1 << 20) + 5, 16).is_some());
    assert!(first.translator(&mut cache).translate((1 << 20) + 5, 16).is_none());
}

#[test]
fn a_second_mapping_sees_the_same_bytes() {
    let memory = GuestMemory::anonymous(&[(0, 64 * KIB), (1 << 20, 64 * KIB)]).unwrap();
    let guest = GuestMemory::map(memory.specs().unwrap()).unwrap();
    guest.store_u16((1 << 20) + 2, 0x1234).unwrap();
    assert_eq!(memory.load_u16((1 << 20) + 2), Ok(0x1234));
    assert_eq!(memory.load_u32(1 << 20), Ok(0x1234_0000));
    assert!(memory.load_u32((1 << 20) + 2).is_err(), "not aligned");
    assert!(memory.write(64 * KIB - 2, b"abc").is_err());
}
