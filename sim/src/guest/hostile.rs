//! A guest that wants to do harm: it writes anything anywhere in its rings and its memory, at any moment.

use super::nic::{GUEST_BASE, Nic};
use crate::random::Random;
use virtio_driver::raw::{PackedDescriptor, RawPacked, RawSplit, SplitDescriptor};
use virtio_driver::{RingAddresses, RingLayout, Virtqueue};

/// Lengths at which mistakes are made.
const LENGTHS: [u32; 14] = [0, 1, 10, 11, 12, 13, 16, 60, 1514, 4096, 65_549, 65_562, 0x7fff_ffff, u32::MAX];

/// Does one hostile thing to a random ring.
pub fn attack(nic: &Nic, random: &mut Random) {
    let pair = &nic.pairs[random.below(nic.pairs.len())];
    let ring = if random.chance(600) { pair.tx.queue.addresses() } else { pair.rx.queue.addresses() };
    // Every address is inside the guest's memory or refused: what cannot be written is not attacked.
    let _ = match (random.below(8), nic.config.layout()) {
        (0, _) => scribble(nic, ring, random),
        (1, _) => garbage(nic, random),
        (2, RingLayout::Split) => lie_about_index(nic, ring, random),
        (2, RingLayout::Packed) => flip_flags(nic, ring, random),
        (3, _) => lie_about_events(nic, ring, random),
        (_, RingLayout::Split) => offer_split(nic, ring, random),
        (_, RingLayout::Packed) => offer_packed(nic, ring, random),
    };
}

type Written = Result<(), virtio_driver::MemoryError>;

fn address(nic: &Nic, ring: RingAddresses, random: &mut Random) -> u64 {
    let end = GUEST_BASE + nic.memory.len() as u64;
    match random.below(12) {
        0 => 0,
        1 => u64::MAX - random.below(64) as u64,
        2 => end - random.below(20) as u64,
        3 => end + random.below(1 << 20) as u64,
        4 => GUEST_BASE - 1,
        5 => ring.descriptors + random.below(256) as u64,
        6 => ring.device,
        7 => nic.memory.user_base(),
        _ => GUEST_BASE + random.below(nic.memory.len()) as u64,
    }
}

fn length(random: &mut Random) -> u32 {
    if random.chance(500) { random.pick(&LENGTHS) } else { 13 + random.below(3000) as u32 }
}

/// Descriptors that may be anything, made available as the rules say.
fn offer_split(nic: &Nic, ring: RingAddresses, random: &mut Random) -> Written {
    let size = nic.config.size;
    let raw = RawSplit::new(&nic.memory, ring, size);
    let at = raw.available_index()?;
    let count = 1 + random.below(4) as u16;
    for index in 0..count {
        let head = random.below(usize::from(size)) as u16;
        for step in 0..1 + random.below(3) as u16 {
            let next =
                if random.chance(700) { head.wrapping_add(step + 1) } else { random.below(70_000) as u16 };
            let flags = random.pick(&[0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 8, 0x8001]);
            let d = SplitDescriptor { address: address(nic, ring, random), len: length(random), flags, next };
            raw.set_descriptor(head.wrapping_add(step) % size, d)?;
        }
        let named = if random.chance(900) { head } else { random.below(70_000) as u16 };
        raw.set_available(at.wrapping_add(index) % size, named)?;
    }
    raw.set_available_index(at.wrapping_add(count))
}

fn offer_packed(nic: &Nic, ring: RingAddresses, random: &mut Random) -> Written {
    let raw = RawPacked::new(&nic.memory, ring);
    let size = usize::from(nic.config.size);
    let start = random.below(size);
    for step in 0..1 + random.below(4) {
        let flags = random.pick(&[0, 0x80, 0x8000, 0x8080]) | random.pick(&[0, 0, 1, 2, 3, 4, 5, 6, 0x10]);
        let id = if random.chance(800) { random.below(size) as u16 } else { random.number() as u16 };
        let d = PackedDescriptor { address: address(nic, ring, random), len: length(random), id, flags };
        raw.set_descriptor(((start + step) % size) as u16, d)?;
    }
    Ok(())
}

fn lie_about_index(nic: &Nic, ring: RingAddresses, random: &mut Random) -> Written {
    let raw = RawSplit::new(&nic.memory, ring, nic.config.size);
    let at = raw.available_index()?;
    let jump = random.pick(&[1, nic.config.size, nic.config.size.wrapping_add(1), 0x8000, 0xffff]);
    if random.chance(300) {
        raw.set_used_index(at.wrapping_sub(jump))
    } else {
        raw.set_available_index(at.wrapping_add(jump))
    }
}

fn flip_flags(nic: &Nic, ring: RingAddresses, random: &mut Random) -> Written {
    let raw = RawPacked::new(&nic.memory, ring);
    raw.set_flags(random.below(usize::from(nic.config.size)) as u16, random.number() as u16)
}

fn lie_about_events(nic: &Nic, ring: RingAddresses, random: &mut Random) -> Written {
    let (first, second) = (random.number() as u16, random.number() as u16);
    match nic.config.layout() {
        RingLayout::Packed => RawPacked::new(&nic.memory, ring).set_driver_event(first, second),
        RingLayout::Split => {
            let raw = RawSplit::new(&nic.memory, ring, nic.config.size);
            raw.set_available_flags(first)?;
            raw.set_used_event(second)
        }
    }
}

/// Random bytes in one of the ring's areas.
fn scribble(nic: &Nic, ring: RingAddresses, random: &mut Random) -> Written {
    let area = random.pick(&[ring.descriptors, ring.driver, ring.device]);
    let mut bytes = [0; 8];
    random.fill(&mut bytes);
    let at = area + random.below(usize::from(nic.config.size) * 4) as u64;
    nic.memory.write(at, &bytes[..1 + random.below(8)])
}

/// Random bytes anywhere.
fn garbage(nic: &Nic, random: &mut Random) -> Written {
    let mut bytes = [0; 64];
    random.fill(&mut bytes);
    nic.memory.write(GUEST_BASE + random.below(nic.memory.len() - 64) as u64, &bytes)
}

/// Changes a frame and its header at random.
pub fn mutate(header: &mut virtio_driver::NetHeader, frame: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        match random.below(10) {
            0 => frame.truncate(1 + random.below(frame.len())),
            1 => frame.extend([0x99; 40]),
            2 => {
                header.gso = random.pick(&[
                    virtio_driver::Gso::TcpV4,
                    virtio_driver::Gso::TcpV6,
                    virtio_driver::Gso::UdpL4,
                ]);
            }
            3 => header.gso_size = random.pick(&[0, 1, 2, 100, 1448, u16::MAX]),
            4 => (header.needs_csum, header.csum_start) = (true, random.below(200) as u16),
            5 => header.csum_offset = random.pick(&[0, 2, 6, 16, 60_000]),
            6 => (header.ecn, header.other_flags) = (random.chance(500), random.pick(&[0, 4, 0xfc])),
            _ => {
                let at = random.below(frame.len().min(90));
                frame[at] = random.number() as u8;
            }
        }
    }
}
