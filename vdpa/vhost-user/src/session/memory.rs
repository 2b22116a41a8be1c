//! Memory tables: SET_MEM_TABLE, ADD_MEM_REG, REM_MEM_REG.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use vhost::vhost_user::VhostUserProtocolFeatures;
use vhost::vhost_user::message::VhostUserMemoryRegion;

use super::descriptor::{FileFault, shared_file};
use super::{Outcome, Session, Then, log};
use crate::message::{Message, Reader};
use crate::refusal::Refusal;

/// Regions a front end may add one by one (GET_MAX_MEM_SLOTS).
pub const MAX_MEMORY_SLOTS: usize = 64;
/// Regions begin and end at pages in guest, user and file space.
const PAGE_BYTES: u64 = 4096;

/// A piece of guest memory: checked numbers and the file behind it, not yet mapped.
#[derive(Clone, Debug)]
pub struct Region {
    /// Guest physical address of the first byte.
    pub guest_addr: u64,
    /// Bytes; a multiple of 4 KiB, not 0.
    pub size: u64,
    /// Address of the first byte in the front end's address space (ring addresses are given in it).
    pub user_addr: u64,
    /// Offset of the first byte in the file.
    pub mmap_offset: u64,
    /// The file: a memfd, hugetlbfs or tmpfs file, open for writing.
    pub file: Arc<OwnedFd>,
}

/// Guest address, user address and size: front ends that remove a region name it by these; the offset is not part of it.
type Place = (u64, u64, u64);

fn place_of(region: &VhostUserMemoryRegion) -> Place {
    (region.guest_phys_addr, region.user_addr, region.memory_size)
}

impl Region {
    /// Whether `bytes` at the front end's address `user_addr` lie inside.
    #[must_use]
    pub fn contains_user(&self, user_addr: u64, bytes: u64) -> bool {
        user_addr
            .checked_sub(self.user_addr)
            .and_then(|offset| offset.checked_add(bytes))
            .is_some_and(|end| end <= self.size)
    }

    /// First guest address behind the region.
    #[must_use]
    pub fn guest_end(&self) -> u64 {
        self.guest_addr.saturating_add(self.size)
    }

    fn is(&self, region: &VhostUserMemoryRegion) -> bool {
        (self.guest_addr, self.user_addr, self.size) == place_of(region)
    }

    /// Whether this is the same place of the same file.
    fn is_again(&self, other: &Self) -> bool {
        let numbers = |r: &Self| (r.guest_addr, r.user_addr, r.size, r.mmap_offset);
        let inode = |r: &Self| rustix::fs::fstat(&r.file).map(|stat| (stat.st_dev, stat.st_ino)).ok();
        numbers(self) == numbers(other) && inode(self).is_some_and(|known| inode(other) == Some(known))
    }

    fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: u64, b: u64| a < b.saturating_add(other.size) && b < a.saturating_add(self.size);
        meet(self.guest_addr, other.guest_addr) || meet(self.user_addr, other.user_addr)
    }

    /// Checks one region of a message (V-13, V-16, V-24).
    fn new(region: VhostUserMemoryRegion, file: OwnedFd) -> Result<Self, Refusal> {
        let VhostUserMemoryRegion { guest_phys_addr, memory_size: size, user_addr, mmap_offset } = region;
        if size == 0 {
            return Err(Refusal::RegionSize);
        }
        let starts = [guest_phys_addr, user_addr, mmap_offset];
        if starts.iter().any(|start| start.checked_add(size).is_none()) {
            return Err(Refusal::RegionWrap);
        }
        if starts.iter().chain([&size]).any(|value| value % PAGE_BYTES != 0) {
            return Err(Refusal::RegionUnaligned);
        }
        shared_file(&file, mmap_offset.saturating_add(size)).map_err(|fault| match fault {
            FileFault::Kind => Refusal::RegionFile,
            FileFault::ReadOnly => Refusal::RegionFileReadOnly,
            FileFault::Short => Refusal::RegionFileShort,
        })?;
        Ok(Self { guest_addr: guest_phys_addr, size, user_addr, mmap_offset, file: Arc::new(file) })
    }
}

/// Regions told more than once. QEMU before 8.0 tells the back end of every queue pair: with two pairs each ADD_MEM_REG and, when
/// a region goes, each REM_MEM_REG comes twice. The repetition of an addition is a removal to be expected later.
#[derive(Debug, Default)]
pub(super) struct Repeats(Vec<(Place, u16)>);

impl Repeats {
    fn expect(&mut self, place: Place) -> Result<(), Refusal> {
        if let Some((_, times)) = self.0.iter_mut().find(|(known, _)| *known == place) {
            *times = times.saturating_add(1);
        } else if self.0.len() < MAX_MEMORY_SLOTS {
            self.0.push((place, 1));
        } else {
            return Err(Refusal::RegionSlots);
        }
        Ok(())
    }

    /// Whether a removal of what is gone already was to be expected.
    fn met(&mut self, place: Place) -> bool {
        let Some((_, times)) = self.0.iter_mut().find(|(known, _)| *known == place) else { return false };
        *times = times.saturating_sub(1);
        self.0.retain(|(_, times)| *times > 0);
        true
    }
}

impl Session {
    /// SET_MEM_TABLE: a new memory in place of the old one.
    pub(super) fn set_mem_table(&mut self, message: Message) -> Result<Outcome, Refusal> {
        let regions = Reader(&message.payload).table()?;
        if regions.len() != message.fds.len() {
            return Err(Refusal::DescriptorCount);
        }
        let mut table = Vec::with_capacity(regions.len());
        for (region, file) in regions.into_iter().zip(message.fds) {
            push(&mut table, Region::new(region, file)?)?;
        }
        self.change_memory(table)
    }

    /// GET_MAX_MEM_SLOTS.
    pub(super) fn get_max_mem_slots(&mut self) -> Result<Outcome, Refusal> {
        self.require(VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS)?;
        Ok(Outcome::u64(u64::try_from(MAX_MEMORY_SLOTS).unwrap_or(u64::MAX)))
    }

    /// ADD_MEM_REG: one more region, or one that is there already (see [`Repeats`]).
    pub(super) fn add_mem_reg(&mut self, message: Message) -> Result<Outcome, Refusal> {
        self.require(VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS)?;
        let region = Reader(&message.payload).single_region()?;
        let file = message.fds.into_iter().next().ok_or(Refusal::DescriptorCount)?;
        if let Some(known) = self.front.regions.iter().find(|known| known.is(&region)) {
            let again = Region::new(region, file)?;
            if !known.is_again(&again) {
                return Err(Refusal::RegionOverlap);
            }
            self.repeats.expect(place_of(&region))?;
            return Ok(Outcome::Done);
        }
        if self.front.regions.len() >= MAX_MEMORY_SLOTS {
            return Err(Refusal::RegionSlots);
        }
        let mut table = self.front.regions.clone();
        push(&mut table, Region::new(region, file)?)?;
        self.change_memory(table)
    }

    /// REM_MEM_REG: one region less. A queue whose ring lies in it is stopped first and stays stopped: QEMU takes a
    /// region away under a running device and adds its pieces again when the guest's chipset splits it.
    pub(super) fn rem_mem_reg(&mut self, message: &Message) -> Result<Outcome, Refusal> {
        self.require(VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS)?;
        let region = Reader(&message.payload).single_region()?;
        let mut table = self.front.regions.clone();
        let Some(place) = table.iter().position(|known| known.is(&region)) else {
            return if self.repeats.met(place_of(&region)) {
                Ok(Outcome::Done)
            } else {
                Err(Refusal::RegionUnknown)
            };
        };
        table.remove(place);
        self.change_memory(table)
    }

    /// Stops what runs, then has the new memory mapped; the queues start again on it (V-18).
    fn change_memory(&mut self, table: Vec<Region>) -> Result<Outcome, Refusal> {
        if let Some(log) = &self.front.log {
            log::check_covers(log, &table)?;
        }
        for queue in &mut self.front.queues {
            queue.judged = false;
        }
        Ok(Outcome::Quiesce(None, Then::Memory(table)))
    }
}

/// Adds a region that overlaps none (V-14).
fn push(table: &mut Vec<Region>, region: Region) -> Result<(), Refusal> {
    if table.iter().any(|other| other.overlaps(&region)) {
        return Err(Refusal::RegionOverlap);
    }
    table.push(region);
    Ok(())
}
