//! Rings as bytes, for guests that break every rule: any descriptor, index or flag, at any time.
//!
//! Nothing here keeps state or checks values; only addresses outside the shared memory are refused. Use it beside a
//! [`Queue`](crate::Queue) (take its [`addresses`](crate::Virtqueue::addresses)) or on memory laid out by hand.

use std::sync::{
    Arc,
    atomic::{Ordering, fence},
};

use crate::{
    memory::{MemoryError, SharedMemory},
    packed,
    queue::RingAddresses,
    split,
};

/// Descriptor flag: the buffer continues (both layouts).
pub const NEXT: u16 = split::NEXT;
/// Descriptor flag: the device writes.
pub const WRITE: u16 = split::WRITE;
/// Descriptor flag: the buffer is a table of descriptors.
pub const INDIRECT: u16 = split::INDIRECT;
/// Packed descriptor flag AVAIL.
pub const AVAIL: u16 = 1 << 7;
/// Packed descriptor flag USED.
pub const USED: u16 = 1 << 15;

/// A split descriptor, any values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SplitDescriptor {
    /// Guest address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`] and reserved bits.
    pub flags: u16,
    /// Index of the next descriptor.
    pub next: u16,
}

/// A packed descriptor, any values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PackedDescriptor {
    /// Guest address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// Buffer id.
    pub id: u16,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`], [`AVAIL`], [`USED`] and reserved bits.
    pub flags: u16,
}

/// A descriptor of any layout. `next` is only for split rings; nothing: the one behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Desc {
    /// Guest address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// Flags besides [`NEXT`], which all but the last of a chain get.
    pub flags: u16,
    /// Where a split chain goes on.
    pub next: Option<u16>,
}

impl Desc {
    /// A part the device reads.
    #[must_use]
    pub const fn new(address: u64, len: u32) -> Self {
        Self { address, len, flags: 0, next: None }
    }

    /// A part the device writes.
    #[must_use]
    pub const fn writable(address: u64, len: u32) -> Self {
        Self { flags: WRITE, ..Self::new(address, len) }
    }

    /// The same with other flags.
    #[must_use]
    pub const fn with(self, flags: u16) -> Self {
        Self { flags, ..self }
    }
}

/// Writes `bytes` after everything written before is visible.
fn put(memory: &SharedMemory, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
    fence(Ordering::SeqCst);
    memory.write(address, bytes)
}

fn get<const N: usize>(memory: &SharedMemory, address: u64) -> Result<[u8; N], MemoryError> {
    let mut bytes = [0; N];
    memory.read(address, &mut bytes)?;
    fence(Ordering::SeqCst);
    Ok(bytes)
}

fn pair(first: u64, second: u64) -> [u8; 16] {
    (u128::from(first) | u128::from(second) << 64).to_le_bytes()
}

/// A split ring as bytes. Slots are not masked: a slot beyond the ring is what lies behind it.
#[derive(Debug, Clone)]
pub struct RawSplit {
    memory: Arc<SharedMemory>,
    addresses: RingAddresses,
    size: u16,
}

impl RawSplit {
    /// The ring of `size` descriptors at these guest addresses.
    #[must_use]
    pub fn new(memory: &Arc<SharedMemory>, addresses: RingAddresses, size: u16) -> Self {
        Self { memory: Arc::clone(memory), addresses, size }
    }

    /// Writes a descriptor of the table.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`], as for every method here.
    pub fn set_descriptor(&self, index: u16, descriptor: SplitDescriptor) -> Result<(), MemoryError> {
        self.set_table_entry(self.addresses.descriptors, index, descriptor)
    }

    /// Writes entry `index` of an (indirect) table at `table`.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`].
    pub fn set_table_entry(&self, table: u64, index: u16, d: SplitDescriptor) -> Result<(), MemoryError> {
        let bytes = pair(d.address, split::word(d.len, d.flags, d.next));
        put(&self.memory, table.wrapping_add(16 * u64::from(index)), &bytes)
    }

    /// Reads a descriptor of the table.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`].
    pub fn descriptor(&self, index: u16) -> Result<SplitDescriptor, MemoryError> {
        let address = self.addresses.descriptors.wrapping_add(16 * u64::from(index));
        let value = u128::from_le_bytes(get(&self.memory, address)?);
        let second = (value >> 64) as u64;
        Ok(SplitDescriptor {
            address: value as u64,
            len: second as u32,
            flags: (second >> 32) as u16,
            next: (second >> 48) as u16,
        })
    }

    /// Writes an entry of the available ring.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`].
    pub fn set_available(&self, slot: u16, head: u16) -> Result<(), MemoryError> {
        put(&self.memory, self.addresses.driver.wrapping_add(4 + 2 * u64::from(slot)), &head.to_le_bytes())
    }

    /// Writes the available index.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`].
    pub fn set_available_index(&self, index: u16) -> Result<(), MemoryError> {
        put(&self.memory, self.addresses.driver.wrapping_add(2), &index.to_le_bytes())
    }

    /// Reads the available index.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`].
    pub fn available_index(&self) -> Result<u16, MemoryError> {
        Ok(u16::from_le_bytes(get(&self.memory, self.addresses.driver.wrapping_add(2))?))
    }

    /// Writes the flags of the available ring (1: no interrupt).
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`].
    pub fn set_available_flags(&self, flags: u16) -> Result<(), MemoryError> {
        put(&self.memory, self.addresses.driver, &flags.to_le_bytes())
    }

    /// Writes `used_event`: the used index whose passing interrupts.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`].
    pub fn set_used_event(&self, index: u16) -> Result<(), MemoryError> {
        put(
            &self.memory,
            self.addresses.driver.wrapping_add(4 + 2 * u64::from(self.size)),
            &index.to_le_bytes(),
        )
    }

    /// Reads `avail_event`: the available index whose passing the device wants to be told.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`].
    pub fn available_event(&self) -> Result<u16, MemoryError> {
        let address = self.addresses.device.wrapping_add(4 + 8 * u64::from(self.size));
        Ok(u16::from_le_bytes(get(&self.memory, address)?))
    }

    /// Reads the used index.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`].
    pub fn used_index(&self) -> Result<u16, MemoryError> {
        Ok(u16::from_le_bytes(get(&self.memory, self.addresses.device.wrapping_add(2))?))
    }

    /// Writes the used index, which no driver does.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`].
    pub fn set_used_index(&self, index: u16) -> Result<(), MemoryError> {
        put(&self.memory, self.addresses.device.wrapping_add(2), &index.to_le_bytes())
    }

    /// Reads the device's flags (1: no kick wanted).
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`].
    pub fn used_flags(&self) -> Result<u16, MemoryError> {
        Ok(u16::from_le_bytes(get(&self.memory, self.addresses.device)?))
    }

    /// Reads a used entry: id and length.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`].
    pub fn used(&self, slot: u16) -> Result<(u32, u32), MemoryError> {
        let entry = u64::from_le_bytes(get(
            &self.memory,
            self.addresses.device.wrapping_add(4 + 8 * u64::from(slot)),
        )?);
        Ok((entry as u32, (entry >> 32) as u32))
    }
}

/// A packed ring as bytes.
#[derive(Debug, Clone)]
pub struct RawPacked {
    memory: Arc<SharedMemory>,
    addresses: RingAddresses,
}

impl RawPacked {
    /// The ring at these guest addresses.
    #[must_use]
    pub fn new(memory: &Arc<SharedMemory>, addresses: RingAddresses) -> Self {
        Self { memory: Arc::clone(memory), addresses }
    }

    /// Writes a descriptor, its second word (with the flags) last.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`], as for every method here.
    pub fn set_descriptor(&self, slot: u16, descriptor: PackedDescriptor) -> Result<(), MemoryError> {
        self.set_table_entry(self.addresses.descriptors, slot, descriptor)
    }

    /// Writes entry `index` of an (indirect) table at `table`.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`].
    pub fn set_table_entry(&self, table: u64, index: u16, d: PackedDescriptor) -> Result<(), MemoryError> {
        let address = table.wrapping_add(16 * u64::from(index));
        put(&self.memory, address, &d.address.to_le_bytes())?;
        put(&self.memory, address.wrapping_add(8), &packed::word(d.len, d.id, d.flags).to_le_bytes())
    }

    /// Writes only the flags of a descriptor.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`].
    pub fn set_flags(&self, slot: u16, flags: u16) -> Result<(), MemoryError> {
        let address = self.addresses.descriptors.wrapping_add(16 * u64::from(slot) + 14);
        put(&self.memory, address, &flags.to_le_bytes())
    }

    /// Reads a descriptor.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`].
    pub fn descriptor(&self, slot: u16) -> Result<PackedDescriptor, MemoryError> {
        let address = self.addresses.descriptors.wrapping_add(16 * u64::from(slot));
        let value = u128::from_le_bytes(get(&self.memory, address)?);
        let second = (value >> 64) as u64;
        Ok(PackedDescriptor {
            address: value as u64,
            len: second as u32,
            id: (second >> 32) as u16,
            flags: (second >> 48) as u16,
        })
    }

    /// Writes the driver's event suppression: offset and wrap counter, then flags (0 enable, 1 disable, 2 descriptor).
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`].
    pub fn set_driver_event(&self, offset_and_wrap: u16, flags: u16) -> Result<(), MemoryError> {
        let value = u32::from(offset_and_wrap) | u32::from(flags) << 16;
        put(&self.memory, self.addresses.driver, &value.to_le_bytes())
    }

    /// Reads the device's event suppression: offset and wrap counter, flags.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`].
    pub fn device_event(&self) -> Result<(u16, u16), MemoryError> {
        let value = u32::from_le_bytes(get(&self.memory, self.addresses.device)?);
        Ok((value as u16, (value >> 16) as u16))
    }
}
