//! A front end of raw messages, its memory and one queue pair of raw rings.
//!
//! Its memory has three regions, each a file of its own: two that adjoin in guest addresses and not where anybody maps them, a hole, and
//! one more.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, ensure};
use rustix::event::EventfdFlags;
use virtio_driver::{Arena, MemoryOptions, RingLayout, SharedMemory, features};

use super::ring::{Desc, Ring};
use super::wire::{Request, Wire, u32s, u64s};
use crate::Result;
use crate::frontend::udp;
use crate::manifests::Port;

/// Guest address of the first region.
pub const BASE: u64 = 0x4000_0000;
/// Bytes of each region.
pub const REGION: u64 = 0x40_0000;
/// Where the second region begins, and the first ends.
pub const SECOND: u64 = BASE + REGION;
/// Where the second ends.
pub const HOLE: u64 = SECOND + REGION;
/// Where the third begins.
pub const THIRD: u64 = BASE + 4 * REGION;
/// A packet for the peer, header first.
pub const PACKET: u64 = BASE + 0x38_0000;
/// Free memory.
pub const SCRATCH: u64 = BASE + 0x3a_0000;
/// Where receive buffers are, a page each, 64 of them.
pub const BUFFERS: u64 = BASE + 0x3c_0000;
/// Bytes of the virtio-net header.
pub const HEADER: u32 = 12;
/// Descriptors of the rings unless told otherwise.
pub const SIZE: u16 = 64;
/// Index of the ring the guest receives by.
pub const RX: usize = 0;
/// Index of the ring the guest sends by.
pub const TX: usize = 1;

/// What the guest negotiates and how large its rings are.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Packed rings.
    pub packed: bool,
    /// Chains go through indirect tables.
    pub indirect: bool,
    /// More feature bits.
    pub features: u64,
    /// Descriptors of each ring.
    pub size: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self { packed: false, indirect: false, features: 0, size: SIZE }
    }
}

impl Options {
    /// All ways in which chains are offered.
    pub const ALL: [Self; 4] = {
        let split = Self { packed: false, indirect: false, features: 0, size: SIZE };
        let packed = Self { packed: true, ..split };
        [split, packed, Self { indirect: true, ..split }, Self { indirect: true, ..packed }]
    };
    /// Split rings.
    pub const SPLIT: Self = Self::ALL[0];
    /// Packed rings.
    pub const PACKED: Self = Self::ALL[1];
    /// Both layouts, without tables.
    pub const LAYOUTS: [Self; 2] = [Self::SPLIT, Self::PACKED];

    /// The same with more features.
    #[must_use]
    pub fn with(self, features: u64) -> Self {
        Self { features: self.features | features, ..self }
    }

    fn bits(&self) -> u64 {
        let flag = |on: bool, bit: u64| if on { bit } else { 0 };
        features::VERSION_1
            | features::VHOST_USER_PROTOCOL_FEATURES
            | flag(self.packed, features::RING_PACKED)
            | flag(self.indirect, features::INDIRECT_DESC)
            | self.features
    }
}

/// See the module's documentation.
pub struct RawGuest {
    /// Its connection.
    pub wire: Wire,
    /// Its regions.
    pub memory: [Arc<SharedMemory>; 3],
    /// Its rings: [`RX`] and [`TX`].
    pub rings: [Ring; 2],
    /// Rung by the guest.
    pub kicks: [OwnedFd; 2],
    /// Rung by the switch.
    pub calls: [OwnedFd; 2],
    /// What it negotiates.
    pub options: Options,
    /// The packet at [`PACKET`], without its header.
    pub packet: Vec<u8>,
}

/// A new eventfd, not blocking.
///
/// # Errors
/// No descriptors left.
pub fn eventfd() -> Result<OwnedFd> {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("make an eventfd")
}

fn region(base: u64) -> Result<Arc<SharedMemory>> {
    let options = MemoryOptions { guest_base: base, ..MemoryOptions::default() };
    Ok(SharedMemory::new(REGION as usize, options)?.into_shared())
}

impl RawGuest {
    /// Connect to a port; nothing is said yet. [`PACKET`] holds a packet to `peer`.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(port: &Port, peer: &Port, options: Options) -> Result<Self> {
        let memory = [region(BASE)?, region(SECOND)?, region(THIRD)?];
        let layout = if options.packed { RingLayout::Packed } else { RingLayout::Split };
        let mut arena = Arena::over(BASE, PACKET);
        let mut ring = || Ring::new(&memory[0], &mut arena, layout, options.size, options.indirect);
        let rings = [ring()?, ring()?];
        let packet = udp(port, peer, b"from a guest that keeps no rule")?;
        memory[0].write(PACKET + u64::from(HEADER), &packet)?;
        Ok(Self {
            wire: Wire::connect(&port.socket)?,
            memory,
            rings,
            kicks: [eventfd()?, eventfd()?],
            calls: [eventfd()?, eventfd()?],
            options,
            packet,
        })
    }

    /// Connect and do all that a front end does before packets move.
    ///
    /// # Errors
    /// The switch refuses.
    pub fn attach(port: &Port, peer: &Port, options: Options) -> Result<Self> {
        let guest = Self::connect(port, peer, options)?;
        guest.negotiate()?;
        guest.give_memory()?;
        guest.start(RX)?;
        guest.start(TX)?;
        Ok(guest)
    }

    /// Owner and features. All protocol features are taken.
    ///
    /// # Errors
    /// The switch refuses.
    pub fn negotiate(&self) -> Result<()> {
        let wire = &self.wire;
        ensure!(wire.send(Request::SET_OWNER, &[], &[]));
        let offered = wire.ask(Request::GET_FEATURES, &[], &[])?.number()?;
        let bits = self.options.bits();
        ensure!(offered & bits == bits, "{bits:#x} wanted, {offered:#x} offered");
        let protocol = wire.ask(Request::GET_PROTOCOL_FEATURES, &[], &[])?.number()?;
        ensure!(wire.send(Request::SET_PROTOCOL_FEATURES, &u64s(&[protocol]), &[]));
        wire.done(Request::SET_FEATURES, &u64s(&[bits]), &[])
    }

    /// The bits that it negotiates.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.options.bits()
    }

    /// The regions as SET_MEM_TABLE has them: guest address, bytes, user address, offset.
    #[must_use]
    pub fn regions(&self) -> [[u64; 4]; 3] {
        self.memory.each_ref().map(|memory| [memory.guest_base(), memory.len() as u64, memory.user_base(), 0])
    }

    /// SET_MEM_TABLE of its own regions.
    ///
    /// # Errors
    /// The switch refuses.
    pub fn give_memory(&self) -> Result<()> {
        let fds = self.memory.each_ref().map(|memory| memory.fd());
        self.wire.done(Request::SET_MEM_TABLE, &table(&self.regions()), &fds)
    }

    /// Payload of SET_VRING_ADDR of a ring.
    #[must_use]
    pub fn ring_addresses(&self, index: usize) -> [u64; 3] {
        let at = self.rings[index].addresses;
        let user = |guest| self.memory[0].user_address(guest);
        [user(at.descriptors), user(at.device), user(at.driver)]
    }

    /// Size, base, addresses and descriptors of a ring, then enables it.
    ///
    /// # Errors
    /// The switch refuses.
    pub fn start(&self, index: usize) -> Result<()> {
        self.start_from(index, self.rings[index].fresh_base())
    }

    /// [`RawGuest::start`] from another base.
    ///
    /// # Errors
    /// The switch refuses.
    pub fn start_from(&self, index: usize, base: u32) -> Result<()> {
        let (wire, number) = (&self.wire, index as u32);
        wire.done(Request::SET_VRING_NUM, &u32s(&[number, u32::from(self.options.size)]), &[])?;
        wire.done(Request::SET_VRING_BASE, &u32s(&[number, base]), &[])?;
        wire.done(Request::SET_VRING_ADDR, &addresses(number, 0, self.ring_addresses(index)), &[])?;
        wire.done(Request::SET_VRING_CALL, &u64s(&[index as u64]), &[self.calls[index].as_fd()])?;
        wire.done(Request::SET_VRING_KICK, &u64s(&[index as u64]), &[self.kicks[index].as_fd()])?;
        wire.done(Request::SET_VRING_ENABLE, &u32s(&[number, 1]), &[])
    }

    /// GET_VRING_BASE: stops a ring; where it stood.
    ///
    /// # Errors
    /// There is no answer.
    pub fn stop(&self, index: usize) -> Result<u32> {
        let reply = self.wire.ask(Request::GET_VRING_BASE, &u32s(&[index as u32, 0]), &[])?.number()?;
        ensure!(reply as u32 == index as u32, "asked for ring {index}, answered for {}", reply as u32);
        Ok((reply >> 32) as u32)
    }

    /// Rings a kick.
    pub fn kick(&self, index: usize) {
        // A counter that is full has been rung.
        let _ = rustix::io::write(&self.kicks[index], &1u64.to_ne_bytes());
    }

    /// How often a call was rung since the last time.
    #[must_use]
    pub fn called(&self, index: usize) -> u64 {
        let mut count = [0; 8];
        match rustix::io::read(&self.calls[index], &mut count) {
            Ok(8) => u64::from_ne_bytes(count),
            _ => 0,
        }
    }

    /// The ring that packets go to.
    pub fn rx(&mut self) -> &mut Ring {
        &mut self.rings[RX]
    }

    /// The ring that packets come from.
    pub fn tx(&mut self) -> &mut Ring {
        &mut self.rings[TX]
    }

    /// Bytes of the packet at [`PACKET`] with its header.
    #[must_use]
    pub fn packet_len(&self) -> u32 {
        HEADER + self.packet.len() as u32
    }

    /// The packet at [`PACKET`] as one buffer.
    #[must_use]
    pub fn good(&self) -> Desc {
        Desc::new(PACKET, self.packet_len())
    }

    /// Sends the packet at [`PACKET`].
    ///
    /// # Errors
    /// The ring is not in memory.
    pub fn send(&mut self) -> Result<()> {
        let good = self.good();
        self.tx().chain(&[good])?;
        self.kick(TX);
        Ok(())
    }

    /// Reads from whichever region an address is in.
    ///
    /// # Errors
    /// It is in none.
    pub fn read(&self, address: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        for at in address..address + len as u64 {
            bytes.push(self.region(at)?.read_array::<1>(at)?[0]);
        }
        Ok(bytes)
    }

    /// Writes to whichever regions an address range is in.
    ///
    /// # Errors
    /// It is in none.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        for (byte, at) in bytes.iter().zip(address..) {
            self.region(at)?.write_array(at, &[*byte])?;
        }
        Ok(())
    }

    /// Writes a table of descriptors, across regions if need be.
    ///
    /// # Errors
    /// It is not in memory.
    pub fn write_table_anywhere(&self, table: u64, descs: &[Desc]) -> Result<()> {
        let draft = SCRATCH + 0x1000;
        self.rings[TX].write_table(draft, descs)?;
        self.write(table, &self.read(draft, 16 * descs.len())?)
    }

    fn region(&self, address: u64) -> Result<&SharedMemory> {
        let inside = |memory: &&Arc<SharedMemory>| {
            (memory.guest_base()..memory.guest_base() + memory.len() as u64).contains(&address)
        };
        Ok(self.memory.iter().find(inside).with_context(|| format!("{address:#x} is no memory"))?)
    }
}

/// Payload of SET_MEM_TABLE: guest address, bytes, user address, offset of each region.
#[must_use]
pub fn table(regions: &[[u64; 4]]) -> Vec<u8> {
    let mut payload = u32s(&[regions.len() as u32, 0]);
    payload.extend(regions.iter().flat_map(|region| u64s(region)));
    payload
}

/// Payload of ADD_MEM_REG and REM_MEM_REG.
#[must_use]
pub fn single(region: [u64; 4]) -> Vec<u8> {
    [u64s(&[0]), u64s(&region)].concat()
}

/// Payload of SET_VRING_ADDR: descriptors, device's and driver's part in user addresses.
#[must_use]
pub fn addresses(index: u32, flags: u32, [descriptors, device, driver]: [u64; 3]) -> Vec<u8> {
    [u32s(&[index, flags]), u64s(&[descriptors, device, driver, 0])].concat()
}
