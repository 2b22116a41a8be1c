//! SIGBUS guard: what happens when a peer truncates the file behind a mapping.
//!
//! The file of a mapping belongs to the peer as much as to us: it can be shrunk (or its pages punched out of an
//! exhausted huge page pool) at any instant, and the next touch raises SIGBUS. The process must live (hostile cases
//! G-48, G-49), and the polling core must not pay for it, so nothing is checked before a touch. Instead one handler is
//! installed for the process. When the faulting address lies in a registered mapping it lays private zero pages over the whole
//! mapping, marks it dead and returns; the interrupted instruction is repeated and finds zeroes. Whoever owns
//! the mapping looks at [`fault_count`] (once per burst is enough) and closes the port. Any other SIGBUS goes to the handler
//! that was there before.
//!
//! The handler may interrupt any instruction of any thread, so the registry is a fixed table of atomics: no lock, no
//! allocation. Each slot is a sequence lock (odd while it changes): a reader that meets a change skips
//! the slot, which is right because the slot of a mapping in use does not change.

use std::io;
use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

/// Mappings that may exist at once in the process: 128 ports of 64 regions.
const SLOTS: usize = 8192;

/// One registered range of addresses.
struct Entry {
    /// Taken by a [`Registration`].
    taken: AtomicBool,
    /// Sequence lock over `start` and `len`: odd while they change.
    sequence: AtomicU32,
    start: AtomicUsize,
    len: AtomicUsize,
    /// Set by the handler.
    dead: AtomicBool,
}

impl Entry {
    const fn empty() -> Self {
        Self {
            taken: AtomicBool::new(false),
            sequence: AtomicU32::new(0),
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            dead: AtomicBool::new(false),
        }
    }

    /// Changes the range. Only the holder of `taken` calls this, so there is one writer.
    fn set(&self, start: usize, len: usize) {
        self.sequence.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.sequence.fetch_add(1, Ordering::Release);
    }

    /// The range, unless it is being changed.
    fn get(&self) -> Option<(usize, usize)> {
        let before = self.sequence.load(Ordering::Acquire);
        let range = (self.start.load(Ordering::Relaxed), self.len.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let after = self.sequence.load(Ordering::Relaxed);
        (before == after && before & 1 == 0).then_some(range)
    }
}

static TABLE: [Entry; SLOTS] = [const { Entry::empty() }; SLOTS];
/// No slot at or beyond this was ever taken: bounds the handler's search.
static HIGH_WATER: AtomicUsize = AtomicUsize::new(0);
static FAULTS: AtomicU64 = AtomicU64::new(0);
/// The `sigaction` that was in force before ours; leaked, never null once the handler is installed.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(std::ptr::null_mut());

/// Number of mappings that died in this process so far. It changes when, and only when, some mapping newly died:
/// a cheap signal to look at `is_dead` of one's own.
#[inline]
#[must_use]
pub fn fault_count() -> u64 {
    FAULTS.load(Ordering::Relaxed)
}

/// A range of addresses under the guard. Leaves the table on drop; must be dropped before the range is unmapped.
#[derive(Debug)]
pub(crate) struct Registration {
    slot: usize,
}

impl Registration {
    /// Puts `len` bytes at `start` under the guard; `None` when the table is full.
    ///
    /// # Safety
    ///
    /// `start..start+len` is a mapping of the caller's, on page boundaries of its kind, which the handler may replace by anonymous
    /// memory at any time until the registration is dropped.
    pub(crate) unsafe fn new(start: usize, len: usize) -> io::Result<Option<Self>> {
        install()?;
        for (slot, entry) in TABLE.iter().enumerate() {
            if entry.taken.load(Ordering::Relaxed)
                || entry.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err()
            {
                continue;
            }
            entry.dead.store(false, Ordering::Relaxed);
            HIGH_WATER.fetch_max(slot + 1, Ordering::Release);
            entry.set(start, len);
            return Ok(Some(Self { slot }));
        }
        Ok(None)
    }

    /// Whether the handler had to lay zero pages over the range.
    #[inline]
    pub(crate) fn is_dead(&self) -> bool {
        TABLE.get(self.slot).is_none_or(|entry| entry.dead.load(Ordering::Relaxed))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(entry) = TABLE.get(self.slot) {
            entry.set(0, 0);
            entry.taken.store(false, Ordering::Release);
        }
    }
}

/// Installs the handler, once for the process.
fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    INSTALLED.get_or_init(install_once).map_err(io::Error::from_raw_os_error)
}

fn install_once() -> Result<(), i32> {
    let errno = || io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
    let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only queries; `previous` is writable and large enough.
    if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), previous.as_mut_ptr()) } != 0 {
        return Err(errno());
    }
    // SAFETY: the query succeeded and filled it; all-zero bytes are a valid sigaction besides.
    let previous = Box::new(unsafe { previous.assume_init() });
    PREVIOUS.store(Box::into_raw(previous), Ordering::Release);

    // SAFETY: all-zero is a valid sigaction (SIG_DFL, no flags, no restorer).
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = on_sigbus as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `action` is initialised, `sa_mask` is a valid out pointer within it, and `on_sigbus` has the signature that
    // SA_SIGINFO asks for and only does what a signal handler may.
    let result = unsafe {
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(errno()) }
}

/// The handler: async-signal-safe (atomics and the mmap system call only).
extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler, and SIGBUS fills the address.
    let (address, code) = unsafe { ((*info).si_addr() as usize, (*info).si_code) };
    if code > 0 && cover(address) {
        return;
    }
    chain(signal, info, context);
}

/// Lays zero pages over the registered mapping that holds `address`, if there is one.
fn cover(address: usize) -> bool {
    let used = HIGH_WATER.load(Ordering::Acquire).min(SLOTS);
    for entry in TABLE.iter().take(used) {
        let Some((start, len)) = entry.get() else { continue };
        if address.wrapping_sub(start) >= len {
            continue;
        }
        // SAFETY: whoever registered this range allowed its replacement (`Registration::new`), and it cannot be unregistered
        // meanwhile: the interrupted instruction is using it. MAP_FIXED therefore replaces only memory of that mapping.
        let mapped = unsafe {
            libc::syscall(
                libc::SYS_mmap,
                start,
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapped < 0 {
            return false;
        }
        entry.dead.store(true, Ordering::Relaxed);
        FAULTS.fetch_add(1, Ordering::Release);
        return true;
    }
    false
}

/// Does what would have happened without us.
fn chain(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS.load(Ordering::Acquire);
    // SAFETY: set before the handler was installed to a leaked, valid sigaction that nobody changes.
    let (handler, flags) = unsafe { ((*previous).sa_sigaction, (*previous).sa_flags) };
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        // SAFETY: signal(2) is async-signal-safe. With the default action back, the repeated fault ends the process as it should.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    } else if flags & libc::SA_SIGINFO != 0 {
        // SAFETY: the previous owner registered this address as a three-argument handler (SA_SIGINFO).
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
            unsafe { std::mem::transmute(handler) };
        handler(signal, info, context);
    } else {
        // SAFETY: the previous owner registered this address as a one-argument handler (no SA_SIGINFO).
        let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(handler) };
        handler(signal);
    }
}
