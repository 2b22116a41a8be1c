//! From a session's events to mapped memory and rings that a worker can run.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use guest_mem::{DirtyLog, GuestMemory, MapError, Mapping, RegionSpec};
use virtqueue::{CallFd, DeviceRing, InflightPart, Ring, RingConfig, RingFeatures, SetupError};

use crate::endpoint::Endpoint;
use crate::features::{VIRTIO_F_VERSION_1, VIRTIO_NET_F_MRG_RXBUF};
use crate::refusal::Refusal;
use crate::session::{CloseReason, Event, InflightStart, LogRegion, QueueStart, Region};

/// Bytes of the virtio-net header with `num_buffers` (virtio 1.2, 5.1.6), and without (legacy).
const HEADER_BYTES: u8 = 12;
const LEGACY_HEADER_BYTES: u8 = 10;

/// A queue that can run.
#[derive(Debug)]
pub struct ReadyQueue {
    /// Queue index: even ones receive in the guest (give), odd ones send (take).
    pub index: u16,
    /// The ring, where it is to go on; marking the dirty log if there is one.
    pub ring: Ring,
    /// How the guest tells of new buffers; nothing when the ring is to be polled.
    pub kick: Option<Arc<OwnedFd>>,
    /// How the guest is told of used buffers; nothing when it polls.
    pub call: Option<Arc<CallFd>>,
    /// Bytes of the virtio-net header in front of each frame.
    pub header_len: u8,
}

/// What the owner of a port must do or know, in order.
#[derive(Debug)]
pub enum DeviceEvent {
    /// The guest's driver has chosen its features.
    FeaturesSettled {
        /// Feature bits, closed under their dependencies; [`crate::features::names`] has them in words.
        features: u64,
    },
    /// A worker may run this queue from now on; it looks into it once without a kick (L-11).
    QueueReady(Box<ReadyQueue>),
    /// The worker lets go of this queue between two bursts, and the owner calls [`Device::queue_stopped`] with
    /// [`DeviceRing::base`] of the ring, which must be dropped by then.
    StopQueue {
        /// Queue index.
        index: u16,
    },
    /// The guest is told through another descriptor from now on.
    CallChanged {
        /// Queue index.
        index: u16,
        /// The descriptor, or nothing.
        call: Option<Arc<CallFd>>,
    },
    /// The guest's memory changed while no queue ran.
    MemoryChanged {
        /// Bytes in all regions.
        bytes: u64,
        /// Number of regions.
        regions: usize,
    },
    /// Dirty pages are logged, or no longer, by the queues that become ready from now on.
    LogChanged {
        /// Whether they are.
        logging: bool,
    },
    /// A queue runs; none did. (Queues stopped and started again by one message leave the link up.)
    LinkUp,
    /// No queue runs any more.
    LinkDown,
    /// Announce the guest's address: it arrived here by migration (subject to anti-spoofing).
    Rarp {
        /// A unicast address.
        mac: [u8; 6],
    },
    /// The front end set the guest's MTU.
    Mtu {
        /// In bytes.
        mtu: u16,
    },
    /// The device status changed.
    Status {
        /// Bits as in virtio 1.2, 2.1.
        status: u8,
    },
    /// Something was refused and counted; for a rate-limited log line.
    Refused {
        /// What.
        refusal: Refusal,
        /// More about it, where there is more.
        detail: Option<String>,
    },
    /// All queues stopped after a freeze.
    Frozen,
    /// The front end is gone: its memory is unmapped, its descriptors are closed.
    Closed {
        /// Why.
        reason: CloseReason,
    },
}

/// A port's socket with its front end's memory mapped and rings built.
#[derive(Debug)]
pub struct Device {
    endpoint: Endpoint,
    memory: Arc<GuestMemory>,
    /// What `memory` was mapped from.
    mapped: Vec<Region>,
    log: Option<Arc<DirtyLog>>,
    /// The in-flight region of packed rings.
    inflight: Option<(Arc<OwnedFd>, Arc<Mapping>)>,
    /// Queues that workers have.
    running: BTreeSet<u16>,
    /// Whether the owner was last told that the link is up.
    link: bool,
    events: VecDeque<DeviceEvent>,
}

impl Device {
    /// A device on a socket.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            memory: GuestMemory::empty(),
            mapped: Vec::new(),
            log: None,
            inflight: None,
            running: BTreeSet::new(),
            link: false,
            events: VecDeque::new(),
        }
    }

    /// Handles whatever is ready; see [`Endpoint::on_ready`]. `true` when there is more to do at once.
    pub fn on_ready(&mut self, now: Duration) -> bool {
        let more = self.endpoint.on_ready(now);
        if self.act() {
            // Something was acknowledged here: its reply goes out, and messages behind it are read.
            return self.endpoint.on_ready(now) | self.act() | more;
        }
        more
    }

    /// The next thing for the owner.
    pub fn next_event(&mut self) -> Option<DeviceEvent> {
        self.act();
        self.events.pop_front()
    }

    /// The worker has let go of a queue and dropped its ring, which had come to `base`. Call [`Self::on_ready`] afterwards.
    pub fn queue_stopped(&mut self, index: u16, base: u32) {
        self.running.remove(&index);
        if let Some(session) = self.endpoint.session_mut() {
            session.queue_stopped(index, base);
        }
        self.act();
    }

    /// The worker has stopped a queue because its ring is broken, and dropped the ring. The front end is told; the queue
    /// stays stopped until it is set up anew.
    pub fn queue_broken(&mut self, index: u16, base: u32) {
        self.running.remove(&index);
        if let Some(session) = self.endpoint.session_mut() {
            session.queue_broken(index, base);
        }
        self.act();
    }

    /// The peer took memory away under us ([`GuestMemory::is_dead`]): the session ends.
    #[must_use]
    pub fn is_memory_dead(&self) -> bool {
        self.memory.is_dead() || self.log.as_ref().is_some_and(|log| log.is_dead())
    }

    /// Ends the front end's session: queues are stopped, then [`DeviceEvent::Closed`] follows.
    pub fn close(&mut self) {
        self.endpoint.close();
        self.act();
    }

    /// The socket.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The socket: for link, MTU and freezing.
    pub fn endpoint_mut(&mut self) -> &mut Endpoint {
        &mut self.endpoint
    }

    /// The socket, without mapped memory: for taking it apart once [`DeviceEvent::Frozen`] came.
    #[must_use]
    pub fn into_endpoint(self) -> Endpoint {
        self.endpoint
    }

    /// The guest's memory as mapped now.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Turns session events into device events, acknowledging what is done here. `true` if something was acknowledged.
    fn act(&mut self) -> bool {
        let mut acknowledged = false;
        while let Some(event) = self.endpoint.next_event() {
            match event {
                Event::MapMemory { regions } => {
                    acknowledged = true;
                    self.map_memory(regions);
                }
                Event::LogChanged { log } => {
                    acknowledged = true;
                    self.change_log(log);
                }
                Event::QueueReady(start) => self.start_queue(*start),
                Event::StopQueue { index } => self.events.push_back(DeviceEvent::StopQueue { index }),
                Event::CallChanged { index, call } => {
                    let call = call.and_then(|call| self.call(&call));
                    self.events.push_back(DeviceEvent::CallChanged { index, call });
                }
                Event::FeaturesSettled { features, .. } => {
                    self.events.push_back(DeviceEvent::FeaturesSettled { features });
                }
                Event::Rarp { mac } => self.events.push_back(DeviceEvent::Rarp { mac }),
                Event::Mtu { mtu } => self.events.push_back(DeviceEvent::Mtu { mtu }),
                Event::Status { status } => self.events.push_back(DeviceEvent::Status { status }),
                Event::Refused(refusal) => {
                    self.events.push_back(DeviceEvent::Refused { refusal, detail: None });
                }
                Event::Frozen => self.events.push_back(DeviceEvent::Frozen),
                Event::Closed { reason } => self.forget(reason),
            }
        }
        // While a message waits, queues that stopped may be about to go on; of a frozen session they do so elsewhere.
        let on_hold =
            self.endpoint.session().is_some_and(|session| session.is_waiting() || session.is_frozen());
        if self.running.is_empty() && !on_hold {
            self.link_down();
        }
        acknowledged
    }

    fn forget(&mut self, reason: CloseReason) {
        self.memory = GuestMemory::empty();
        self.mapped.clear();
        self.log = None;
        self.inflight = None;
        self.running.clear();
        self.link_down();
        self.events.push_back(DeviceEvent::Closed { reason });
    }

    fn map_memory(&mut self, regions: Vec<Region>) {
        let result = self.remap(&regions).map_err(|error| {
            let refusal = map_refusal(&error);
            self.explain(refusal, &error);
            refusal
        });
        if let Ok(memory) = &result {
            self.memory = Arc::clone(memory);
            let bytes = regions.iter().fold(0u64, |sum, region| sum.saturating_add(region.size));
            self.events.push_back(DeviceEvent::MemoryChanged { bytes, regions: regions.len() });
            self.mapped = regions;
        }
        if let Some(session) = self.endpoint.session_mut() {
            session.memory_mapped(result.map(|_| ()));
        }
    }

    /// Maps what is new and keeps what is not: regions that both tables have share their descriptor.
    fn remap(&self, regions: &[Region]) -> Result<Arc<GuestMemory>, MapError> {
        let kept = |region: &Region, table: &[Region]| {
            table
                .iter()
                .any(|other| Arc::ptr_eq(&region.file, &other.file) && region.guest_addr == other.guest_addr)
        };
        if !self.mapped.iter().any(|region| kept(region, regions)) {
            return if regions.is_empty() {
                Ok(GuestMemory::empty())
            } else {
                GuestMemory::map(regions.iter().map(spec).collect::<Result<_, _>>()?)
            };
        }
        let mut memory = Arc::clone(&self.memory);
        for gone in self.mapped.iter().filter(|region| !kept(region, regions)) {
            memory = memory.without_region(gone.guest_addr, gone.user_addr, gone.size)?;
        }
        for new in regions.iter().filter(|region| !kept(region, &self.mapped)) {
            memory = memory.with_region(spec(new)?)?;
        }
        Ok(memory)
    }

    fn change_log(&mut self, log: Option<LogRegion>) {
        let result = match log.map(|log| map_log(&log)).transpose() {
            Ok(log) => {
                self.events.push_back(DeviceEvent::LogChanged { logging: log.is_some() });
                self.log = log.map(Arc::new);
                Ok(())
            }
            Err(error) => {
                self.explain(Refusal::LogMap, &error);
                Err(Refusal::LogMap)
            }
        };
        if let Some(session) = self.endpoint.session_mut() {
            session.log_mapped(result);
        }
    }

    fn start_queue(&mut self, start: QueueStart) {
        let index = start.index;
        match self.build(&start) {
            Ok(ready) => {
                self.running.insert(index);
                if !std::mem::replace(&mut self.link, true) {
                    self.events.push_back(DeviceEvent::LinkUp);
                }
                self.events.push_back(DeviceEvent::QueueReady(Box::new(ready)));
            }
            Err(error) => {
                self.explain(Refusal::RingRefused, &error);
                if let Some(session) = self.endpoint.session_mut() {
                    session.queue_refused(index, Refusal::RingRefused);
                }
            }
        }
    }

    fn build(&mut self, start: &QueueStart) -> Result<ReadyQueue, SetupError> {
        let features = RingFeatures::from_bits(start.features);
        let modern = start.features & (VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF) != 0;
        let header_len = if modern { HEADER_BYTES } else { LEGACY_HEADER_BYTES };
        let config = RingConfig {
            size: start.size,
            features,
            header_len,
            desc_addr: start.addresses.descriptor,
            driver_addr: start.addresses.driver,
            device_addr: start.addresses.device,
            base: start.base,
        };
        let mut ring = Ring::new(&config, Arc::clone(&self.memory))?;
        ring.set_dirty_log(self.log.clone());
        if let Some(inflight) = &start.inflight
            && let Some(part) = self.inflight_part(inflight)
        {
            ring.track(part, inflight.resume);
        }
        Ok(ReadyQueue {
            index: start.index,
            ring,
            kick: start.kick.clone(),
            call: start.call.as_ref().and_then(|call| self.call(call)),
            header_len,
        })
    }

    /// A queue's part of the in-flight region, which is mapped once for all queues.
    fn inflight_part(&mut self, start: &InflightStart) -> Option<InflightPart> {
        let region = &start.region;
        if !self.inflight.as_ref().is_some_and(|(file, _)| Arc::ptr_eq(file, &region.file)) {
            let mapped = region.file.try_clone().map_err(MapError::from);
            match mapped.and_then(|file| Mapping::new(file, region.mmap_offset, region.size)) {
                Ok(mapping) => self.inflight = Some((Arc::clone(&region.file), Arc::new(mapping))),
                Err(error) => {
                    self.explain(Refusal::InflightFile, &error);
                    return None;
                }
            }
        }
        let (_, mapping) = self.inflight.as_ref()?;
        let offset = usize::try_from(start.offset.checked_sub(region.mmap_offset)?).ok()?;
        InflightPart::new(Arc::clone(mapping), offset)
    }

    fn call(&mut self, call: &Arc<OwnedFd>) -> Option<Arc<CallFd>> {
        let made = call.try_clone().and_then(CallFd::new);
        match made {
            Ok(call) => Some(Arc::new(call)),
            Err(error) => {
                self.explain(Refusal::EventDescriptor, &error);
                None
            }
        }
    }

    fn explain(&mut self, refusal: Refusal, error: &dyn std::fmt::Display) {
        self.events.push_back(DeviceEvent::Refused { refusal, detail: Some(error.to_string()) });
    }

    fn link_down(&mut self) {
        if std::mem::replace(&mut self.link, false) {
            self.events.push_back(DeviceEvent::LinkDown);
        }
    }
}

fn spec(region: &Region) -> Result<RegionSpec, MapError> {
    Ok(RegionSpec {
        guest_addr: region.guest_addr,
        user_addr: region.user_addr,
        size: region.size,
        file_offset: region.mmap_offset,
        file: region.file.try_clone()?,
    })
}

fn map_log(log: &LogRegion) -> Result<DirtyLog, MapError> {
    DirtyLog::map(log.file.try_clone()?, log.mmap_offset, log.size)
}

/// The refusal that a mapping error stands for.
fn map_refusal(error: &MapError) -> Refusal {
    match error {
        MapError::Empty => Refusal::RegionSize,
        MapError::Unaligned { .. } => Refusal::RegionUnaligned,
        MapError::Wraps { .. } => Refusal::RegionWrap,
        MapError::PastEndOfFile { .. } => Refusal::RegionFileShort,
        MapError::NotMemory => Refusal::RegionFile,
        MapError::ReadOnly => Refusal::RegionFileReadOnly,
        MapError::Overlap { .. } => Refusal::RegionOverlap,
        MapError::TooManyRegions { .. } => Refusal::RegionSlots,
        MapError::UnknownRegion { .. } => Refusal::RegionUnknown,
        MapError::GuardFull | MapError::LogTooSmall { .. } | MapError::Os(_) => Refusal::RegionMap,
    }
}
