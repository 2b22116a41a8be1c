//! A guest that writes its rings byte by byte, and a device ring on the same memory.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
#![allow(dead_code, unreachable_pub, reason = "each test crate uses a part of it")]

use std::sync::Arc;

use buf::{Burst, Extent, Frame, Offload};
use guest_mem::{ANONYMOUS_USER_OFFSET, GuestMemory};
use towpath_virtqueue::{
    ChainError, DeviceRing, GiveError, Headers, Ring, RingConfig, RingError, RingFeatures, RingLayout,
    SetupError,
};

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;
pub const AVAIL: u16 = 1 << 7;
pub const USED: u16 = 1 << 15;

pub const HEADER: usize = 12;
/// Two regions that adjoin in guest addresses but not here, a hole, and one more.
pub const A: u64 = 0;
pub const B: u64 = 0x10_0000;
pub const HOLE: u64 = 0x20_0000;
pub const C: u64 = 0x100_0000;
pub const REGION: u64 = 0x10_0000;
/// The ring's region.
pub const DESC: u64 = 0x1000_0000;
pub const DRIVER: u64 = DESC + 0x10_0000;
pub const DEVICE: u64 = DESC + 0x18_0000;
/// Where indirect tables are put.
pub const TABLES: u64 = C + 0x8_0000;

/// A descriptor; NEXT is set by whoever links it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct D {
    pub addr: u64,
    pub len: u32,
    pub flags: u16,
}

pub fn r(addr: u64, len: u32) -> D {
    D { addr, len, flags: 0 }
}

pub fn w(addr: u64, len: u32) -> D {
    D { addr, len, flags: WRITE }
}

/// How chains are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    pub layout: RingLayout,
    pub indirect: bool,
}

pub const SPLIT: Mode = Mode { layout: RingLayout::Split, indirect: false };
pub const PACKED: Mode = Mode { layout: RingLayout::Packed, indirect: false };
pub const MODES: [Mode; 4] =
    [SPLIT, PACKED, Mode { indirect: true, ..SPLIT }, Mode { indirect: true, ..PACKED }];
pub const LAYOUTS: [Mode; 2] = [SPLIT, PACKED];

/// A taken frame: its header and its bytes.
pub type Taken = (Vec<u8>, Vec<u8>);

/// The guest and the device.
pub struct Rig {
    pub mode: Mode,
    pub features: RingFeatures,
    pub size: u16,
    /// The guest's mapping.
    pub guest: Arc<GuestMemory>,
    /// The device's.
    pub memory: Arc<GuestMemory>,
    pub ring: Ring,
    /// Split: next free descriptor. Packed: next position.
    pub next: u16,
    pub wrap: bool,
    /// Split: available index. Packed: next buffer id.
    pub avail: u16,
    used: u16,
    used_wrap: bool,
    tables: u64,
    /// Packed: positions each id occupies.
    lens: Vec<(u16, u16)>,
}

pub fn features(mode: Mode) -> RingFeatures {
    RingFeatures { layout: mode.layout, indirect: mode.indirect, mergeable: true, ..Default::default() }
}

pub fn config(size: u16, features: RingFeatures) -> RingConfig {
    RingConfig {
        size,
        features,
        header_len: HEADER as u8,
        desc_addr: DESC + ANONYMOUS_USER_OFFSET,
        driver_addr: DRIVER + ANONYMOUS_USER_OFFSET,
        device_addr: DEVICE + ANONYMOUS_USER_OFFSET,
        base: if features.layout == RingLayout::Packed { 0x8000 } else { 0 },
    }
}

impl Rig {
    pub fn new(mode: Mode, size: u16) -> Self {
        Self::with(mode, size, features(mode))
    }

    pub fn with(mode: Mode, size: u16, features: RingFeatures) -> Self {
        let ranges = [(A, REGION), (B, REGION), (C, REGION), (DESC, 0x20_0000)];
        let memory = GuestMemory::anonymous(&ranges).unwrap();
        let guest = GuestMemory::map(memory.specs().unwrap()).unwrap();
        let ring = Ring::new(&config(size, features), Arc::clone(&memory)).unwrap();
        Self {
            mode,
            features,
            size,
            guest,
            memory,
            ring,
            next: 0,
            wrap: true,
            avail: 0,
            used: 0,
            used_wrap: true,
            tables: TABLES,
            lens: Vec::new(),
        }
    }

    pub fn is_split(&self) -> bool {
        self.mode.layout == RingLayout::Split
    }

    /// What a driver's reset and a new start of the queue do (O8).
    pub fn reset(&mut self) {
        self.try_reset().unwrap();
    }

    pub fn try_reset(&mut self) -> Result<(), SetupError> {
        let size = usize::from(self.size);
        for (area, len) in [(DESC, 16 * size), (DRIVER, 6 + 2 * size), (DEVICE, 6 + 8 * size)] {
            self.guest.write(area, &vec![0u8; len]).unwrap();
        }
        self.ring = Ring::new(&config(self.size, self.features), Arc::clone(&self.memory))?;
        (self.next, self.wrap, self.avail, self.used, self.used_wrap) = (0, true, 0, 0, true);
        self.tables = TABLES;
        self.lens.clear();
        Ok(())
    }

    /// Writes a split descriptor as it is.
    pub fn split_desc(&self, table: u64, index: u16, d: D, next: u16) {
        let rest = u64::from(d.len) | u64::from(d.flags) << 32 | u64::from(next) << 48;
        let mut bytes = d.addr.to_le_bytes().to_vec();
        bytes.extend(rest.to_le_bytes());
        self.guest.write(table + u64::from(index) * 16, &bytes).unwrap();
    }

    /// Writes a packed descriptor as it is, flags last.
    pub fn packed_desc(&self, table: u64, index: u16, d: D, id: u16) {
        let at = table + u64::from(index) * 16;
        self.guest.write(at, &d.addr.to_le_bytes()).unwrap();
        self.guest.write(at + 8, &d.len.to_le_bytes()).unwrap();
        self.guest.write(at + 12, &id.to_le_bytes()).unwrap();
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.guest.write(at + 14, &d.flags.to_le_bytes()).unwrap();
    }

    /// AVAIL and USED bits for the packed position in use.
    pub fn avail_bits(&self) -> u16 {
        if self.wrap { AVAIL } else { USED }
    }

    /// Puts `head` into the available ring and publishes it (split).
    pub fn push_head(&mut self, head: u16) {
        self.guest.store_u16(DRIVER + 4 + 2 * u64::from(self.avail & (self.size - 1)), head).unwrap();
        self.avail = self.avail.wrapping_add(1);
        self.guest.store_u16(DRIVER + 2, self.avail).unwrap();
    }

    /// Offers a chain in the rig's mode; the id that comes back used.
    pub fn offer(&mut self, chain: &[D]) -> u16 {
        if self.mode.indirect { self.offer_table(chain, 0) } else { self.offer_direct(chain) }
    }

    /// Offers a chain through an indirect table that lies `shift` bytes off alignment.
    pub fn offer_table(&mut self, chain: &[D], shift: u64) -> u16 {
        let table = self.tables + shift;
        self.tables += (chain.len() as u64 * 16 + shift).next_multiple_of(16);
        if self.tables > C + REGION - 0x5000 {
            self.tables = TABLES;
        }
        self.write_table(table, chain);
        self.offer_direct(&[D { addr: table, len: chain.len() as u32 * 16, flags: INDIRECT }])
    }

    /// Writes an indirect table.
    pub fn write_table(&self, table: u64, chain: &[D]) {
        for (index, d) in (0u16..).zip(chain) {
            if self.is_split() {
                let more = usize::from(index) + 1 < chain.len();
                let d = D { flags: d.flags | if more { NEXT } else { 0 }, ..*d };
                self.split_desc(table, index, d, index + 1);
            } else {
                self.packed_desc(table, index, *d, 0);
            }
        }
    }

    /// Offers a chain of direct descriptors.
    pub fn offer_direct(&mut self, chain: &[D]) -> u16 {
        if self.is_split() { self.offer_split(chain) } else { self.offer_packed(chain) }
    }

    fn offer_split(&mut self, chain: &[D]) -> u16 {
        let head = self.next;
        for (index, d) in chain.iter().enumerate() {
            let at = self.next;
            self.next = (self.next + 1) % self.size;
            let flags = d.flags | if index + 1 < chain.len() { NEXT } else { 0 };
            self.split_desc(DESC, at, D { flags, ..*d }, self.next);
        }
        self.push_head(head);
        head
    }

    fn offer_packed(&mut self, chain: &[D]) -> u16 {
        let id = self.avail % self.size;
        self.avail = self.avail.wrapping_add(1);
        self.lens.push((id, chain.len() as u16));
        let mut first = None;
        for (index, d) in chain.iter().enumerate() {
            let flags = d.flags | self.avail_bits() | if index + 1 < chain.len() { NEXT } else { 0 };
            let d = D { flags, ..*d };
            if index == 0 {
                first = Some((self.next, d));
            } else {
                self.packed_desc(DESC, self.next, d, id);
            }
            self.step();
        }
        if let Some((at, d)) = first {
            self.packed_desc(DESC, at, d, id);
        }
        id
    }

    /// One packed position on.
    pub fn step(&mut self) {
        self.next += 1;
        if self.next == self.size {
            self.next = 0;
            self.wrap = !self.wrap;
        }
    }

    /// Chains offered and not seen as used.
    pub fn in_flight(&self) -> usize {
        if self.is_split() { usize::from(self.avail.wrapping_sub(self.used)) } else { self.lens.len() }
    }

    /// What came back since the last call, as (id, length).
    pub fn used(&mut self) -> Vec<(u16, u32)> {
        let mut seen = Vec::new();
        if self.is_split() {
            let index = self.guest.load_u16(DEVICE + 2).unwrap();
            while self.used != index {
                let at = DEVICE + 4 + 8 * u64::from(self.used & (self.size - 1));
                let (id, len) = (self.guest.load_u32(at).unwrap(), self.guest.load_u32(at + 4).unwrap());
                seen.push((id as u16, len));
                self.used = self.used.wrapping_add(1);
            }
            return seen;
        }
        loop {
            let rest = self.guest.load_u64(DESC + u64::from(self.used) * 16 + 8).unwrap();
            let flags = (rest >> 48) as u16;
            let bits = flags & (AVAIL | USED);
            if bits != if self.used_wrap { AVAIL | USED } else { 0 } {
                return seen;
            }
            let id = (rest >> 32) as u16;
            let len = if flags & WRITE != 0 { rest as u32 } else { 0 };
            seen.push((id, len));
            let at = self.lens.iter().position(|(known, _)| *known == id);
            let at = at.unwrap_or_else(|| unreachable!("id {id} came back that was not out"));
            let descs = self.lens.remove(at).1;
            self.used += descs;
            if self.used >= self.size {
                self.used -= self.size;
                self.used_wrap = !self.used_wrap;
            }
        }
    }

    /// Takes one burst and returns it: each frame's header and bytes.
    pub fn take(&mut self) -> Result<Vec<Taken>, RingError> {
        let memory = Arc::clone(&self.memory);
        let (mut burst, mut headers) = (Burst::new(), Headers::new());
        let taken = self.ring.take(&memory, &mut burst, &mut headers);
        burst.load_heads();
        let mut frames = Vec::new();
        for index in 0..burst.len() {
            let mut header = vec![0xee; HEADER];
            assert_eq!(headers.read(index, &mut header), HEADER);
            frames.push((header, burst.frame(index).unwrap().to_vec()));
        }
        self.ring.return_taken();
        taken.map(|count| {
            assert_eq!((count, headers.len()), (frames.len(), frames.len()));
            frames
        })
    }

    /// The bytes of the frames of one burst.
    pub fn frames(&mut self) -> Vec<Vec<u8>> {
        self.take().unwrap().into_iter().map(|(_, frame)| frame).collect()
    }

    /// Gives one frame and publishes it.
    pub fn give(&mut self, bytes: &[u8]) -> Result<(), GiveError> {
        let head = bytes.len().min(60);
        let body = [Extent::from_slice(&bytes[head..])];
        let frame = Frame::new(&bytes[..head], &body, bytes.len() - head, Offload::NONE);
        let result = self.ring.give(&header(), &frame);
        self.ring.publish();
        result
    }

    /// Writes a pattern that depends on the address.
    pub fn pattern(&self, addr: u64, len: usize) -> Vec<u8> {
        let bytes: Vec<u8> = (addr..addr + len as u64).map(|at| (at * 7 + (at >> 8)) as u8).collect();
        let whole = |at: u64| at < HOLE || (C..C + REGION).contains(&at);
        for (at, byte) in (addr..).zip(&bytes) {
            if whole(at) {
                self.guest.write(at, &[*byte]).unwrap();
            }
        }
        bytes
    }

    pub fn bytes(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for (at, byte) in (addr..).zip(&mut bytes) {
            self.guest.read(at, std::slice::from_mut(byte)).unwrap();
        }
        bytes
    }

    /// A good chain passes in the take direction (O8).
    pub fn still_takes(&mut self) {
        let bytes = self.pattern(A + 0x8000, 80);
        let id = self.offer(&[r(A + 0x8000, 80)]);
        assert_eq!(self.frames(), [bytes[HEADER..].to_vec()]);
        assert_eq!(self.used(), [(id, 0)]);
    }

    /// A good buffer is filled in the give direction (O8).
    pub fn still_gives(&mut self) {
        let id = self.offer(&[w(A + 0x9000, 2048)]);
        let frame: Vec<u8> = (0..100).collect();
        self.give(&frame).unwrap();
        assert_eq!(self.used(), [(id, 112)]);
        assert_eq!(self.bytes(A + 0x9000 + HEADER as u64, 100), frame);
    }
}

/// A virtio 1 header with one buffer.
pub fn header() -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[10] = 1;
    header
}

/// One bad chain is refused under `error` and returned empty; its neighbours pass.
pub fn refused(rig: &mut Rig, chain: &[D], error: ChainError) {
    let good = rig.pattern(A + 0x100, 60);
    let counted = rig.ring.stats().of(error);
    let before = rig.offer(&[r(A + 0x100, 60)]);
    let bad = rig.offer(chain);
    let after = rig.offer(&[r(A + 0x100, 60)]);
    assert_eq!(rig.frames(), [&good[HEADER..], &good[HEADER..]], "{:?} {chain:?}", rig.mode);
    assert_eq!(rig.used(), [(before, 0), (bad, 0), (after, 0)], "{:?} {chain:?}", rig.mode);
    assert_eq!(rig.ring.stats().of(error), counted + 1, "{:?} {chain:?}", rig.mode);
    rig.still_takes();
}

/// The same for a receive buffer: it goes back empty, the frame into the next.
pub fn refused_rx(rig: &mut Rig, chain: &[D], error: ChainError) {
    let counted = rig.ring.stats().of(error);
    let bad = rig.offer(chain);
    let good = rig.offer(&[w(A + 0x9000, 2048)]);
    rig.give(&[7; 90]).unwrap();
    assert_eq!(rig.used(), [(bad, 0), (good, 102)], "{:?} {chain:?}", rig.mode);
    assert_eq!(rig.ring.stats().of(error), counted + 1, "{:?} {chain:?}", rig.mode);
    assert_eq!(rig.bytes(A + 0x9000 + 12, 90), [7; 90]);
    rig.still_gives();
}

/// The queue stops with `error`, nothing is passed any more, and a new start works.
pub fn stopped(rig: &mut Rig, error: impl Fn(&RingError) -> bool) {
    let result = loop {
        match rig.take() {
            Ok(_) if rig.ring.broken().is_some() => {}
            result => break result,
        }
    };
    assert!(matches!(&result, Err(found) if error(found)), "{:?}: {result:?}", rig.mode);
    assert_eq!(rig.take().err(), rig.ring.broken());
    assert!(matches!(rig.give(&[1; 60]), Err(GiveError::Ring(_))));
    rig.used();
    rig.reset();
    rig.still_takes();
    rig.reset();
    rig.still_gives();
}
