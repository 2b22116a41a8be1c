//! Planted bugs: what the checkers are checked with.
//!
//! Each is put around the switch, in the places where a real one would sit: queues ([`RxMischief`], [`TxMischief`]) and what the control side does
//! or forgets ([`Mischief`]). None is a switch in production code. Every one must be found within 200 seeds.

mod queues;

pub use queues::{RxMischief, TxMischief};

use buf::{Offload, Pool};
use guest_mem::GuestMemory;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

macro_rules! plants {
    ($($(#[doc = $doc:literal])+ $variant:ident,)+) => {
        /// A bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Plant {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Plant {
            /// All of them; `--plant N` is the Nth, from 1.
            pub const ALL: &'static [Plant] = &[$(Plant::$variant,)+];

            /// What it does.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self {
                    $(Plant::$variant => concat!($($doc),+),)+
                }
            }
        }
    };
}

plants! {
    /// A packet is reported delivered and was not.
    LosePacket,
    /// A packet goes to another port than decided.
    WrongPort,
    /// A byte of the payload is changed on its way.
    CorruptByte,
    /// Two packets given to a port in one burst change places.
    SwapPackets,
    /// A packet is delivered twice.
    Duplicate,
    /// A receiver is said to take offloads that it did not negotiate.
    LieAboutOffloads,
    /// The last byte of a packet is cut off.
    Truncate,
    /// A byte is written where no buffer was offered.
    WriteOutside,
    /// A copy of a packet is never given back to its pool.
    LeakPool,
    /// From some time on, buffers are not returned to the guest that sent them.
    ForgetComplete,
    /// Refused descriptor chains are not counted.
    ForgetRefused,
    /// A queue says that it will be kicked and did not ask for it.
    ForgetArm,
    /// A port's changed profile is not published.
    StaleProfile,
    /// The MAC address of a port that is gone stays bound.
    GhostMac,
    /// An address can be asked for in every subnet of the host.
    ForeignNeighbour,
    /// A MAC address is bound in every subnet of the host.
    ForeignMac,
    /// The memory map of a guest that is gone is kept.
    LeakMemory,
    /// A drop is counted that never was.
    InventDrop,
    /// A port may send from any address.
    AllowAnySource,
    /// A queue that was stopped is not polled again when it starts.
    ForgetQueue,
    /// An address that was announced stays where it was.
    IgnoreAnnouncement,
    /// The last queue of a guest that is migrated does not log what it writes.
    ForgetLog,
    /// The receive rings of a guest with several queue pairs are mixed up.
    SwapPairs,
    /// Any host may send in the name of any guest of a VPC.
    NoSourceCheck,
    /// Whoever is on the underlay may send by tunnel.
    AnyTunnel,
    /// A host sends packets of a VPC with another VPC's number.
    WrongVni,
    /// Packets that are routed keep the hop that they should lose.
    KeepHops,
    /// The checksum that a device is asked for stays where it was when the outer headers come before it.
    OffloadLeft,
    /// Packets for a host go to another's MAC address.
    ForeignNextHop,
    /// Who was on another host and is gone is still there for this one.
    StaleEndpoint,
    /// A packet leaves by the uplink twice.
    DoubleOnWire,
    /// What goes to a peer goes to another VPC that has the same addresses.
    WrongPeer,
    /// A host that a guest has left does not send on what is late.
    ForgetMoved,
    /// A guest that moved is not heard of on other hosts.
    IgnoreMoved,
    /// A tunnel end point that is no towpathd is believed as one.
    TrustForeign,
    /// A subnet's ports are told of another name server.
    WrongLease,
    /// A route table stays as it was first.
    StaleRoutes,
    /// Rules count without their priority.
    IgnorePriority,
    /// Of two rules of one priority the one that allows counts.
    AllowFirst,
    /// A group in a rule means anybody.
    GroupIsAnybody,
    /// A network in a rule is wider than it is written.
    WidePrefix,
    /// A range of ports has one more.
    PortTooFar,
    /// A rule for some messages of ICMP is for all.
    AnyType,
    /// Who has no rules for what it is sent is sent everything.
    OpenIngress,
    /// Answers are known by their ports alone.
    StatelessReplies,
    /// Rules that replace others are not felt.
    StalePolicy,
    /// Who leaves a group is in it still.
    StaleMember,
    /// Who joins a group is not in it.
    IgnoreMember,
    /// Ports are opened without their rules.
    ForgetRules,
    /// Ports are opened under the rules of another.
    OthersRules,
}

/// A packet that waits to be delivered to the wrong port.
#[derive(Debug)]
struct Stray {
    meant_for: usize,
    bytes: Vec<u8>,
    offload: Offload,
}

#[derive(Debug, Default)]
struct Shared {
    strays: VecDeque<Stray>,
    kept: Vec<Arc<GuestMemory>>,
}

/// The bug of a run, if there is one. Clones share its state.
#[derive(Clone, Debug)]
pub struct Mischief {
    plant: Option<Plant>,
    pool: Pool,
    shared: Arc<Mutex<Shared>>,
}

impl Mischief {
    /// The bug `plant` in a switch with that pool.
    #[must_use]
    pub fn new(plant: Option<Plant>, pool: Pool) -> Self {
        Self { plant, pool, shared: Arc::default() }
    }

    /// The bug.
    #[must_use]
    pub fn plant(&self) -> Option<Plant> {
        self.plant
    }

    /// Whether this is the bug.
    #[must_use]
    pub fn is(&self, plant: Plant) -> bool {
        self.plant == Some(plant)
    }

    /// What it does to a queue that packets come from.
    #[must_use]
    pub fn rx(&self) -> Option<RxMischief> {
        let plants = [Plant::ForgetComplete, Plant::ForgetRefused, Plant::ForgetArm];
        self.plant.filter(|plant| plants.contains(plant)).map(RxMischief::new)
    }

    /// What it does to a queue that packets for `guest` go to.
    #[must_use]
    pub fn tx(&self, guest: usize) -> Option<TxMischief> {
        use Plant::{
            CorruptByte, Duplicate, LeakPool, LieAboutOffloads, LosePacket, SwapPackets, Truncate,
            WriteOutside, WrongPort,
        };
        let plants = [
            LosePacket,
            WrongPort,
            CorruptByte,
            SwapPackets,
            Duplicate,
            LieAboutOffloads,
            Truncate,
            WriteOutside,
            LeakPool,
        ];
        self.plant
            .filter(|plant| plants.contains(plant))
            .map(|plant| TxMischief::new(plant, guest, self.clone()))
    }

    /// Keeps the map of a guest that is gone, if that is the bug.
    pub fn keep(&self, memory: &Arc<GuestMemory>) {
        if self.is(Plant::LeakMemory) {
            self.lock().kept.push(Arc::clone(memory));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stray(&self, stray: Stray) {
        self.lock().strays.push_back(stray);
    }

    /// The oldest stray that was not meant for `guest`.
    fn stray_for(&self, guest: usize) -> Option<Stray> {
        let mut shared = self.lock();
        let at = shared.strays.iter().position(|stray| stray.meant_for != guest)?;
        shared.strays.remove(at)
    }
}
