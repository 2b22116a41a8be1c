//! The XDP program that hands packets to AF_XDP sockets, put together here: it is some twenty instructions, for which neither a compiler nor a
//! loader is worth having.

use std::ffi::{c_int, c_long};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Commands of `bpf(2)`, and what is made by them.
const MAP_CREATE: c_int = 0;
const MAP_UPDATE: c_int = 2;
const PROGRAM_LOAD: c_int = 5;
const LINK_CREATE: c_int = 28;
const MAP_OF_XDP_SOCKETS: u32 = 17;
const PROGRAM_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;

/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE`.
const GENERIC: u32 = 1 << 1;
const NATIVE: u32 = 1 << 2;

/// `bpf_redirect_map`, and what it returns for a queue without a socket: `XDP_PASS`.
const REDIRECT_MAP: i32 = 51;
const PASS: i32 = 2;

/// An instruction.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Step {
    code: u8,
    /// Source register in the upper half, destination in the lower.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn step(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Step {
    Step { code, registers: from << 4 | to, offset, immediate }
}

const fn load_word(to: u8, from: u8, offset: i16) -> Step {
    step(0x61, to, from, offset, 0)
}
const fn load_half(to: u8, from: u8, offset: i16) -> Step {
    step(0x69, to, from, offset, 0)
}
const fn load_byte(to: u8, from: u8, offset: i16) -> Step {
    step(0x71, to, from, offset, 0)
}
const fn copy(to: u8, from: u8) -> Step {
    step(0xbf, to, from, 0, 0)
}
const fn set(to: u8, value: i32) -> Step {
    step(0xb7, to, 0, 0, value)
}
const fn add(to: u8, value: i32) -> Step {
    step(0x07, to, 0, 0, value)
}
const fn and(to: u8, value: i32) -> Step {
    step(0x57, to, 0, 0, value)
}
const fn jump(offset: i16) -> Step {
    step(0x05, 0, 0, offset, 0)
}
const fn if_equal(register: u8, value: i32, offset: i16) -> Step {
    step(0x15, register, 0, offset, value)
}
const fn if_other(register: u8, value: i32, offset: i16) -> Step {
    step(0x55, register, 0, offset, value)
}
const fn if_above(register: u8, other: u8, offset: i16) -> Step {
    step(0x2d, register, other, offset, 0)
}
const EXIT: Step = step(0x95, 0, 0, 0, 0);

/// A 16-bit number as it is loaded from a packet.
fn wire(value: u16) -> i32 {
    i32::from(value.to_be())
}

/// Hands the packet to the socket of its queue. The last six steps of every program.
fn redirect(map: c_int) -> [Step; 6] {
    let context = 6;
    [
        load_word(2, context, 16), // rx_queue_index
        step(0x18, 1, 1, 0, map),  // the map: an instruction of two
        step(0, 0, 0, 0, 0),
        set(3, PASS),
        step(0x85, 0, 0, 0, REDIRECT_MAP),
        EXIT,
    ]
}

/// The packets handed over: UDP to `port` over IPv4 without options or IPv6 without extension headers, not fragmented; with no port,
/// all. Everything else goes to the kernel as ever.
fn program(map: c_int, port: Option<u16>) -> Vec<Step> {
    let Some(port) = port else { return [vec![copy(6, 1)], redirect(map).to_vec()].concat() };
    let select = [
        copy(6, 1),
        load_word(2, 1, 0), // the first byte
        load_word(3, 1, 4), // behind the last
        copy(4, 2),
        add(4, 14 + 20 + 8),
        if_above(4, 3, 19),
        load_half(5, 2, 12),
        if_equal(5, wire(0x0800), 8),
        if_other(5, wire(0x86dd), 16),
        // IPv6
        copy(4, 2),
        add(4, 14 + 40 + 8),
        if_above(4, 3, 13),
        load_byte(5, 2, 20),
        if_other(5, 17, 11),
        load_half(5, 2, 56),
        jump(8),
        // IPv4
        load_byte(5, 2, 14),
        if_other(5, 0x45, 7),
        load_half(5, 2, 20),
        and(5, wire(0x3fff)),
        if_other(5, 0, 4),
        load_byte(5, 2, 23),
        if_other(5, 17, 2),
        load_half(5, 2, 36),
        if_equal(5, wire(port), 2),
        set(0, PASS),
        EXIT,
    ];
    [select.to_vec(), redirect(map).to_vec()].concat()
}

/// Makes `bpf(2)` do something that returns a descriptor or zero.
fn bpf<T: Copy>(command: c_int, attributes: &T) -> io::Result<c_int> {
    let size = size_of::<T>() as c_long;
    // SAFETY: the kernel reads `size` bytes of attributes and what they point to, all of which lives through the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, c_long::from(command), std::ptr::from_ref(attributes), size) };
    crate::sys::check(result as c_int)
}

fn owned(fd: c_int) -> OwnedFd {
    // SAFETY: a descriptor that `bpf` made just now, which nobody else knows.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[derive(Clone, Copy)]
#[repr(C)]
struct CreateMap {
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct UpdateMap {
    map: u32,
    _padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct LoadProgram {
    kind: u32,
    steps: u32,
    program: u64,
    licence: u64,
    log_level: u32,
    log_bytes: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    device: u32,
    attach_type: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct CreateLink {
    program: u32,
    device: u32,
    attach_type: u32,
    flags: u32,
}

/// A program on an interface, taken off when this is dropped, and the sockets it hands packets to.
#[derive(Debug)]
pub(crate) struct Redirect {
    map: OwnedFd,
    _program: OwnedFd,
    _link: OwnedFd,
    /// Whether the driver runs the program itself.
    pub(crate) native: bool,
}

impl Redirect {
    /// Puts a program on an interface that hands over packets as [`program`] says, to up to `queues` sockets.
    pub(crate) fn attach(index: u32, queues: u16, port: Option<u16>) -> io::Result<Self> {
        let map =
            CreateMap { kind: MAP_OF_XDP_SOCKETS, key_bytes: 4, value_bytes: 4, entries: queues.into() };
        let map = owned(bpf(MAP_CREATE, &map)?);
        let steps = program(map.as_raw_fd(), port);
        let load = LoadProgram {
            kind: PROGRAM_XDP,
            steps: steps.len() as u32,
            program: steps.as_ptr() as u64,
            licence: c"Apache-2.0".as_ptr() as u64,
            log_level: 0,
            log_bytes: 0,
            log: 0,
            kernel_version: 0,
            flags: 0,
            name: *b"towpath_uplink\0\0",
            device: 0,
            attach_type: ATTACH_XDP,
        };
        let program = owned(bpf(PROGRAM_LOAD, &load)?);
        let link = |flags| {
            let wish = CreateLink {
                program: program.as_raw_fd() as u32,
                device: index,
                attach_type: ATTACH_XDP,
                flags,
            };
            bpf(LINK_CREATE, &wish).map(owned)
        };
        let (link, native) = match link(NATIVE) {
            Ok(link) => (link, true),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Err(error),
            Err(_) => (link(GENERIC)?, false),
        };
        Ok(Self { map, _program: program, _link: link, native })
    }

    /// Packets of a queue go to this socket from now on.
    pub(crate) fn set(&self, queue: u32, socket: &OwnedFd) -> io::Result<()> {
        let value = socket.as_raw_fd() as u32;
        let update = UpdateMap {
            map: self.map.as_raw_fd() as u32,
            _padding: 0,
            key: std::ptr::from_ref(&queue) as u64,
            value: std::ptr::from_ref(&value) as u64,
            flags: 0,
        };
        bpf(MAP_UPDATE, &update).map(drop)
    }
}
