//! Rings of both layouts in both directions, over memory that the input writes between any two calls: nothing panics, nothing outside of the
//! memory is touched, what is taken is returned, a broken ring stays broken.
//!
//! The input: features, size, header; then operations of one byte with their arguments. See [`Rig::step`].
#![no_main]

use std::sync::Arc;

use buf::{Burst, Extent, Frame, Offload};
use guest_mem::{ANONYMOUS_USER_OFFSET, GuestMemory};
use libfuzzer_sys::fuzz_target;
use virtqueue::{DeviceRing, Headers, MAX_FRAME, Ring, RingConfig, RingFeatures, RingLayout};

/// Two regions that adjoin, a hole, and one more; guest address and bytes.
const REGIONS: [(u64, u64); 3] = [(0, 0x4000), (0x4000, 0x1000), (0x8000, 0x1000)];
/// Where the ring is.
const DESC: u64 = 0;
const DRIVER: u64 = 0x800;
const DEVICE: u64 = 0xc00;

fuzz_target!(|data: &[u8]| {
    let Some((&[features, size, header], rest)) = data.split_first_chunk() else { return };
    let layout = if features & 1 == 0 { RingLayout::Split } else { RingLayout::Packed };
    let features = RingFeatures {
        layout,
        event_idx: features & 2 != 0,
        indirect: features & 4 != 0,
        in_order: features & 8 != 0,
        mergeable: features & 16 != 0,
    };
    let packed = layout == RingLayout::Packed;
    let config = RingConfig {
        size: if packed { 1 + u16::from(size % 64) } else { 1 << (size % 7) },
        features,
        header_len: header % 33,
        desc_addr: DESC + ANONYMOUS_USER_OFFSET,
        driver_addr: DRIVER + ANONYMOUS_USER_OFFSET,
        device_addr: DEVICE + ANONYMOUS_USER_OFFSET,
        base: if packed { 0x8000_8000 } else { 0 },
    };
    let memory = GuestMemory::anonymous(&REGIONS).expect("three regions");
    let ring = Ring::new(&config, Arc::clone(&memory)).expect("a ring in them");
    let mut rig = Rig { memory, ring, config, next: 0, wrap: true, rest };
    while rig.step().is_some() {}
    rig.ring.return_taken();
    rig.ring.publish();
    let stats = rig.ring.stats();
    assert!(stats.refused_total() <= stats.chains, "{stats:?}");
});

struct Rig<'d> {
    memory: Arc<GuestMemory>,
    ring: Ring,
    config: RingConfig,
    /// The next descriptor of [`Rig::offer`].
    next: u16,
    wrap: bool,
    rest: &'d [u8],
}

impl Rig<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn word(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes([self.byte()?, self.byte()?]))
    }

    /// One operation; nothing at the end of the input.
    fn step(&mut self) -> Option<()> {
        match self.byte()? % 12 {
            0 => {
                let (at, len) = (u64::from(self.word()? & 0x0fff), usize::from(self.byte()? % 33));
                let (bytes, rest) = self.rest.split_at(len.min(self.rest.len()));
                self.rest = rest;
                self.memory.write(at, bytes).ok()?;
            }
            1 => self.take(),
            2 | 3 => {
                let (len, many) = (usize::from(self.word()?), usize::from(self.byte()? % 8));
                self.give(len % 5000, many);
            }
            4 => {
                let want = usize::from(self.byte()?);
                let _reserved = self.ring.reserve(want);
            }
            5 => drop(self.ring.publish()),
            6 => drop((self.ring.interrupt_due(), self.ring.interrupt_hint())),
            7 => {
                self.ring.return_taken();
                self.ring.publish();
                let _ready = self.ring.arm();
                self.ring.suppress_kicks();
            }
            8 => {
                self.ring.return_taken();
                self.ring.publish();
                // Where it stands is where another ring can go on.
                let config = RingConfig { base: self.ring.base(), ..self.config };
                if self.ring.broken().is_none() {
                    self.ring = Ring::new(&config, Arc::clone(&self.memory)).expect("its own base");
                }
            }
            9 => self.ring.set_memory(Arc::clone(&self.memory)).expect("the same memory"),
            _ => self.offer()?,
        }
        Some(())
    }

    fn take(&mut self) {
        let memory = Arc::clone(&self.memory);
        let (mut burst, mut headers) = (Burst::new(), Headers::new());
        let broken = self.ring.broken();
        let taken = self.ring.take(&memory, &mut burst, &mut headers);
        assert!(broken.is_none() || taken == Err(broken.expect("it is some")));
        burst.load_heads();
        assert_eq!(taken.unwrap_or(0), burst.len());
        for index in 0..burst.len() {
            let frame = burst.frame(index).expect("there are so many").to_vec();
            assert!(!frame.is_empty() && frame.len() <= MAX_FRAME);
            headers.read(index, &mut [0; 32]);
        }
        drop(burst);
        self.ring.return_taken();
    }

    fn give(&mut self, len: usize, many: usize) {
        let bytes: Vec<u8> = (0..len.max(1)).map(|at| at as u8).collect();
        let head = bytes.len().min(60);
        let body = [Extent::from_slice(&bytes[head..])];
        let frame = Frame::new(&bytes[..head], &body, bytes.len() - head, Offload::NONE);
        let header = [0; 32];
        for _ in 0..many {
            let _given = self.ring.give(&header[..usize::from(self.config.header_len)], &frame);
        }
        self.ring.publish();
    }

    /// A chain of one descriptor, in the way that the layout has it: address, length and flags are the input's.
    fn offer(&mut self) -> Option<()> {
        let (addr, len, flags) = (u64::from(self.word()?), u32::from(self.word()?), self.word()?);
        let size = self.config.size;
        let at = DESC + 16 * u64::from(self.next % size);
        self.memory.write(at, &addr.to_le_bytes()).ok()?;
        self.memory.write(at + 8, &len.to_le_bytes()).ok()?;
        if self.config.features.layout == RingLayout::Split {
            let slot = self.next % size;
            self.memory.write(at + 12, &[flags.to_le_bytes(), (slot + 1).to_le_bytes()].concat()).ok()?;
            self.memory.write(DRIVER + 4 + 2 * u64::from(slot), &slot.to_le_bytes()).ok()?;
            self.next = self.next.wrapping_add(1);
            self.memory.write(DRIVER + 2, &self.next.to_le_bytes()).ok()
        } else {
            let bits = if self.wrap { 1 << 7 } else { 1 << 15 };
            let flags = flags & !(1 << 7 | 1 << 15) | bits;
            self.memory.write(at + 12, &[self.next.to_le_bytes(), flags.to_le_bytes()].concat()).ok()?;
            self.next += 1;
            if self.next == size {
                (self.next, self.wrap) = (0, !self.wrap);
            }
            Some(())
        }
    }
}
