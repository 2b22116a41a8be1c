//! A ring of either layout, taken from or given to.

use std::sync::Arc;

use buf::{Burst, Frame};
use guest_mem::{DirtyLog, GuestMemory};

use crate::chain::scratch;
use crate::config::{MAX_HEADER, RingConfig, RingFeatures, RingLayout};
use crate::error::{GiveError, RingError, RingStats, SetupError};
use crate::give::Giver;
use crate::headers::Headers;
use crate::inflight::InflightPart;
use crate::layout::{FULL_ENOUGH, Layout};
use crate::packed::Packed;
use crate::split::Split;
use crate::take::Taker;

/// The device's half of a virtqueue. A network device takes from the guest's transmit rings and gives to its receive rings; one ring
/// is used in one of the two ways.
///
/// Take: [`take`](Self::take) a burst, copy its packets to wherever they go, then [`return_taken`](Self::return_taken), then
/// ask [`interrupt_due`](Self::interrupt_due). Give: optionally [`reserve`](Self::reserve) as many buffers as there are frames, [`give`](Self::give) each,
/// then [`publish`](Self::publish), then [`interrupt_due`](Self::interrupt_due). None of these allocates, locks or makes a system call.
pub trait DeviceRing {
    /// Adds chains that the guest made available to `burst` as packets (their heads are still empty: `Burst::load_heads`), and their virtio-net
    /// headers to `headers`, which is emptied first. Ends when the burst is full or the ring empty. All first lines were asked for
    /// when it returns; no byte was read yet. Bad chains are counted, and returned with the others.
    ///
    /// `memory` must be [`memory`](Self::memory) of this ring (cloned, so that the burst does not borrow the ring). Returns how
    /// many packets were added.
    ///
    /// # Errors
    ///
    /// [`RingError`] when the ring is broken: no further call succeeds. Chains found before the fault are in the burst
    /// or, if there is none of them, this call already fails.
    fn take<'m>(
        &mut self,
        memory: &'m GuestMemory,
        burst: &mut Burst<'m>,
        headers: &mut Headers<'m>,
    ) -> Result<usize, RingError>;

    /// Returns everything taken to the guest, visible at once (one entry for all with `VIRTIO_F_IN_ORDER`); how many chains.
    fn return_taken(&mut self) -> usize;

    /// Fetches buffers ahead until `count` are reserved, and asks for their first lines, for writing; how many are there now. What is not used
    /// by the next [`publish`](Self::publish) goes back. To be called once per burst, also when enough are reserved since the last one: it is
    /// where a broken ring and memory that is gone are found.
    ///
    /// # Errors
    ///
    /// [`RingError`] when the ring is broken: no further call succeeds.
    fn reserve(&mut self, count: usize) -> Result<usize, RingError>;

    /// Copies frames into reserved buffers, one each, as long as each fits the next (what does not, [`give`](Self::give) puts into
    /// several); the virtio-net header of each is `header` of it, with `num_buffers` 1. Returns how many frames and how many bytes of
    /// frames. For rings whose header has 12 bytes, that are not broken and whose writes are not logged; gives nothing otherwise. The guest
    /// sees them after [`publish`](Self::publish).
    fn give_run(
        &mut self,
        frames: &[Frame<'_, '_>],
        header: impl FnMut(&Frame<'_, '_>) -> [u8; 12],
    ) -> (usize, usize);

    /// Copies `header` (of the ring's header length) and `frame` into the next buffer, or with mergeable buffers into as many as it
    /// takes; then `num_buffers` in the header is set, otherwise it stays as passed (1 in a virtio 1 header). The guest sees it after [`publish`](Self::publish).
    ///
    /// # Errors
    ///
    /// [`GiveError`]: nothing was given, the ring is as before.
    fn give(&mut self, header: &[u8], frame: &Frame<'_, '_>) -> Result<(), GiveError>;

    /// Makes everything given visible to the guest at once; how many buffers. To be called after each burst even if every
    /// [`give`](Self::give) failed: bad buffers met on the way go back with it.
    fn publish(&mut self) -> usize;

    /// Whether the guest wants an interrupt for what was returned or published since the last call. To be asked once per burst.
    fn interrupt_due(&mut self) -> bool;

    /// The same without waiting until our own writes are visible: it may miss a wish that the driver makes at this very moment. So
    /// whoever asks this after each burst asks [`interrupt_due`](Self::interrupt_due) once the bursts end, and now and then before. A barrier per burst is what this saves; between
    /// distant cores it costs more than the burst.
    fn interrupt_hint(&mut self) -> bool;

    /// Tells the driver that the ring is polled: it need not kick. A hint; done when polling starts.
    fn suppress_kicks(&mut self);

    /// Tells the driver to kick when it makes the next buffer available, before the poller sleeps. `true` when there is one already (then
    /// do not sleep). Nothing may be taken, reserved or given and not returned or published at that time.
    fn arm(&mut self) -> bool;

    /// Where the ring stands, as `GET_VRING_BASE` answers it. Reserved buffers are given back first. What is taken and not returned
    /// counts as done: return it first.
    fn base(&mut self) -> u32;

    /// Switches to another memory, which must hold the ring at the same user addresses. Nothing may be taken or given at that time
    /// (it is returned or published first); reserved buffers are given back.
    ///
    /// # Errors
    ///
    /// [`SetupError`]; then the ring fails with [`RingError::MemoryGone`] from now on.
    fn set_memory(&mut self, memory: Arc<GuestMemory>) -> Result<(), SetupError>;

    /// The memory that the ring is in.
    fn memory(&self) -> &Arc<GuestMemory>;

    /// Starts or ends (`None`) marking everything written in a dirty log, from the next write on.
    fn set_dirty_log(&mut self, log: Option<Arc<DirtyLog>>);

    /// Counters since the ring was made.
    fn stats(&self) -> &RingStats;

    /// What broke the ring, if it is broken.
    fn broken(&self) -> Option<RingError>;
}

/// A ring of layout `L`.
#[derive(Debug)]
pub(crate) struct Queue<L> {
    layout: L,
    taker: Taker,
    giver: Giver,
    broken: Option<RingError>,
    /// Value of `guest_mem::fault_count` when the memory was last found alive.
    faults: u64,
    stats: RingStats,
    log: Option<Arc<DirtyLog>>,
    /// Keeps mapped what `layout` and `giver` hold addresses of.
    memory: Arc<GuestMemory>,
}

impl<L: Layout> Queue<L> {
    fn new(config: &RingConfig, memory: Arc<GuestMemory>) -> Result<Self, SetupError> {
        if usize::from(config.header_len) > MAX_HEADER {
            return Err(SetupError::Header(config.header_len));
        }
        let layout = L::new(config, &memory)?;
        let (features, header_len) = (config.features, usize::from(config.header_len));
        Ok(Self {
            layout,
            taker: Taker::new(features, header_len, scratch()),
            giver: Giver::new(features, header_len, scratch()),
            broken: None,
            // Not the current count: a memory that died before this is noticed by the first check.
            faults: u64::MAX,
            stats: RingStats::default(),
            log: None,
            memory,
        })
    }

    /// Once per burst: whether the ring may be used.
    #[inline(always)]
    fn check(&mut self) -> Result<(), RingError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        let faults = guest_mem::fault_count();
        if faults != self.faults { self.check_memory(faults) } else { Ok(()) }
    }

    #[cold]
    fn check_memory(&mut self, faults: u64) -> Result<(), RingError> {
        self.faults = faults;
        if self.memory.is_dead() {
            return Err(self.fail(RingError::MemoryGone));
        }
        Ok(())
    }

    #[cold]
    fn fail(&mut self, error: RingError) -> RingError {
        // A ring that turned to zeroes looks broken in other ways first.
        let error = if self.memory.is_dead() { RingError::MemoryGone } else { error };
        self.broken = Some(error);
        error
    }
}

impl<L: Layout> DeviceRing for Queue<L> {
    #[inline]
    fn take<'m>(
        &mut self,
        memory: &'m GuestMemory,
        burst: &mut Burst<'m>,
        headers: &mut Headers<'m>,
    ) -> Result<usize, RingError> {
        self.check()?;
        if !std::ptr::eq(memory, Arc::as_ptr(&self.memory)) {
            return Err(RingError::ForeignMemory);
        }
        let before = burst.len();
        let result = self.taker.take(&mut self.layout, memory, burst, headers, &mut self.stats);
        let added = burst.len() - before;
        match result {
            Ok(()) => Ok(added),
            Err(error) => {
                let error = self.fail(error);
                if added == 0 { Err(error) } else { Ok(added) }
            }
        }
    }

    #[inline]
    fn return_taken(&mut self) -> usize {
        let taken = self.taker.taken();
        self.layout.publish(taken, self.taker.features.in_order, self.log.as_ref());
        let count = taken.len();
        if count >= FULL_ENOUGH {
            self.layout.prefetch_next(count, !self.taker.features.in_order);
        }
        self.stats.chains += count as u64;
        self.taker.clear();
        count
    }

    #[inline]
    fn reserve(&mut self, count: usize) -> Result<usize, RingError> {
        self.check()?;
        let result = self.giver.reserve(count, &mut self.layout, &self.memory);
        result.map_err(|error| self.fail(error))
    }

    #[inline(always)]
    fn give_run(
        &mut self,
        frames: &[Frame<'_, '_>],
        header: impl FnMut(&Frame<'_, '_>) -> [u8; 12],
    ) -> (usize, usize) {
        // The other way says that the ring is broken, and marks what is written one by one.
        if self.broken.is_some() || self.log.is_some() || self.taker.header_len != 12 {
            return (0, 0);
        }
        self.giver.give_run(frames, header)
    }

    #[inline]
    fn give(&mut self, header: &[u8], frame: &Frame<'_, '_>) -> Result<(), GiveError> {
        // With chains reserved, `reserve` looked at the memory, if only to find that there are enough.
        if self.broken.is_some() || self.giver.reserved() == 0 {
            self.check()?;
        }
        let log = self.log.as_ref();
        let result = self.giver.give(header, frame, &mut self.layout, &self.memory, log, &mut self.stats);
        match result {
            Err(GiveError::Ring(error)) => Err(GiveError::Ring(self.fail(error))),
            result => result,
        }
    }

    #[inline]
    fn publish(&mut self) -> usize {
        self.giver.publish(&mut self.layout, self.log.as_ref(), &mut self.stats)
    }

    #[inline]
    fn interrupt_due(&mut self) -> bool {
        self.layout.interrupt_due()
    }

    #[inline]
    fn interrupt_hint(&mut self) -> bool {
        self.layout.interrupt_hint()
    }

    fn suppress_kicks(&mut self) {
        self.layout.suppress_kicks(self.log.as_ref());
    }

    fn arm(&mut self) -> bool {
        self.giver.release(&mut self.layout);
        self.layout.request_kick(self.log.as_ref())
    }

    fn base(&mut self) -> u32 {
        self.giver.release(&mut self.layout);
        self.layout.base()
    }

    fn set_memory(&mut self, memory: Arc<GuestMemory>) -> Result<(), SetupError> {
        self.return_taken();
        self.publish();
        if let Err(error) = self.layout.attach(&memory) {
            // The addresses that `layout` still holds stay mapped: the old memory is kept, but nothing is fetched any more.
            self.broken = Some(RingError::MemoryGone);
            return Err(error);
        }
        self.memory = memory;
        self.faults = u64::MAX;
        Ok(())
    }

    fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    fn set_dirty_log(&mut self, log: Option<Arc<DirtyLog>>) {
        self.log = log;
    }

    fn stats(&self) -> &RingStats {
        &self.stats
    }

    fn broken(&self) -> Option<RingError> {
        self.broken
    }
}

/// A ring of whichever layout was negotiated. Its methods are those of [`DeviceRing`]; each call chooses once.
#[derive(Debug)]
pub struct Ring(Kind);

#[derive(Debug)]
enum Kind {
    Split(Box<Queue<Split>>),
    Packed(Box<Queue<Packed>>),
}

impl Ring {
    /// Makes a ring from what the front end and the driver said.
    ///
    /// # Errors
    ///
    /// [`SetupError`]: the queue stays stopped.
    pub fn new(config: &RingConfig, memory: Arc<GuestMemory>) -> Result<Self, SetupError> {
        Ok(Self(match config.features.layout {
            RingLayout::Split => Kind::Split(Box::new(Queue::new(config, memory)?)),
            RingLayout::Packed => Kind::Packed(Box::new(Queue::new(config, memory)?)),
        }))
    }

    /// Tells in `part` from now on how far a packed ring came, so that a process that comes after a crash of this one returns each buffer once;
    /// with `resume` the ring first goes on from where the part says that another process came to, rather than from its base. Nothing may be
    /// taken or given yet. A split ring needs no such part.
    pub fn track(&mut self, part: InflightPart, resume: bool) {
        match &mut self.0 {
            Kind::Split(_) => {}
            Kind::Packed(queue) => queue.layout.track(part, resume),
        }
    }

    /// The features it was made with.
    #[must_use]
    pub fn features(&self) -> RingFeatures {
        match &self.0 {
            Kind::Split(queue) => queue.taker.features,
            Kind::Packed(queue) => queue.taker.features,
        }
    }
}

macro_rules! either {
    ($ring:expr, $queue:ident => $call:expr) => {
        match &mut $ring.0 {
            Kind::Split($queue) => $call,
            Kind::Packed($queue) => $call,
        }
    };
    (ref $ring:expr, $queue:ident => $call:expr) => {
        match &$ring.0 {
            Kind::Split($queue) => $call,
            Kind::Packed($queue) => $call,
        }
    };
}

impl DeviceRing for Ring {
    #[inline]
    fn take<'m>(
        &mut self,
        memory: &'m GuestMemory,
        burst: &mut Burst<'m>,
        headers: &mut Headers<'m>,
    ) -> Result<usize, RingError> {
        either!(self, queue => queue.take(memory, burst, headers))
    }

    #[inline]
    fn return_taken(&mut self) -> usize {
        either!(self, queue => queue.return_taken())
    }

    #[inline]
    fn reserve(&mut self, count: usize) -> Result<usize, RingError> {
        either!(self, queue => queue.reserve(count))
    }

    #[inline(always)]
    fn give_run(
        &mut self,
        frames: &[Frame<'_, '_>],
        header: impl FnMut(&Frame<'_, '_>) -> [u8; 12],
    ) -> (usize, usize) {
        either!(self, queue => queue.give_run(frames, header))
    }

    #[inline]
    fn give(&mut self, header: &[u8], frame: &Frame<'_, '_>) -> Result<(), GiveError> {
        either!(self, queue => queue.give(header, frame))
    }

    #[inline]
    fn publish(&mut self) -> usize {
        either!(self, queue => queue.publish())
    }

    #[inline]
    fn interrupt_due(&mut self) -> bool {
        either!(self, queue => queue.interrupt_due())
    }

    #[inline]
    fn interrupt_hint(&mut self) -> bool {
        either!(self, queue => queue.interrupt_hint())
    }

    fn suppress_kicks(&mut self) {
        either!(self, queue => queue.suppress_kicks());
    }

    fn arm(&mut self) -> bool {
        either!(self, queue => queue.arm())
    }

    fn base(&mut self) -> u32 {
        either!(self, queue => queue.base())
    }

    fn set_memory(&mut self, memory: Arc<GuestMemory>) -> Result<(), SetupError> {
        either!(self, queue => queue.set_memory(memory))
    }

    fn memory(&self) -> &Arc<GuestMemory> {
        either!(ref self, queue => queue.memory())
    }

    fn set_dirty_log(&mut self, log: Option<Arc<DirtyLog>>) {
        either!(self, queue => queue.set_dirty_log(log));
    }

    fn stats(&self) -> &RingStats {
        either!(ref self, queue => queue.stats())
    }

    fn broken(&self) -> Option<RingError> {
        either!(ref self, queue => queue.broken())
    }
}
