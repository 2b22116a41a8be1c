//! Every way a front end can be refused: one named variant each, with the decision that follows and a counter.
//!
//! The names are the contract: they are what metrics, the port's status and the log show, and a test of a hostile
//! case asserts that exactly its variant was counted.

use std::fmt;

/// What a refusal does to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The stream cannot be trusted any more, or the front end would believe something untrue: the session ends.
    Close,
    /// A front end that asked for a reply gets a non-zero one and stays; one that did not ask cannot be told, so the
    /// session ends.
    NackOrClose,
    /// A front end that asked for a reply gets a non-zero one; otherwise nothing happens (a missing effect harms nobody).
    NackOrIgnore,
}

macro_rules! refusals {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal, $decision:ident, $text:literal;)*) => {
        /// Why something a front end sent was refused.
        ///
        /// [`Refusal::name`] is the counter's name, [`Refusal::decision`] what the session does next, and the
        /// `Display` text what a person reads: the field, the rule, and what to change.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Refusal {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Refusal {
            /// All variants, in the order of their counters.
            pub const ALL: &'static [Refusal] = &[$(Refusal::$variant,)*];

            /// The counter's name, in the form metrics use.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Refusal::$variant => $name,)* }
            }

            /// What the session does next.
            #[must_use]
            pub fn decision(self) -> Decision {
                match self { $(Refusal::$variant => Decision::$decision,)* }
            }

            fn text(self) -> &'static str {
                match self { $(Refusal::$variant => $text,)* }
            }
        }
    };
}

refusals! {
    // The stream.
    /// Protocol version other than 1 in a header.
    Version = "version", Close, "header: protocol version is not 1; use a vhost-user front end of version 1";
    /// Reserved flag bits, or the reply flag on a request.
    HeaderFlags = "header_flags", Close, "header: reserved bits or the reply flag are set on a request";
    /// A request number the protocol does not know.
    UnknownRequest = "unknown_request", Close, "header: unknown request number";
    /// Payload size that the request does not have.
    PayloadSize = "payload_size", Close, "header: payload size does not fit the request";
    /// More or fewer file descriptors than the request carries.
    DescriptorCount = "descriptor_count", Close, "message carries the wrong number of file descriptors";
    /// File descriptors that arrived after the first byte of a message.
    DescriptorPosition = "descriptor_position", Close, "file descriptors arrived in the middle of a message";
    /// The kernel truncated the ancillary data: descriptors were lost.
    AncillaryTruncated = "ancillary_truncated", Close, "more file descriptors than any message carries";
    /// This process may not open more descriptors, so that those of a message were lost. A queue needs 4, a region 2.
    OutOfDescriptors = "out_of_descriptors", Close, "towpathd may not open more file descriptors; raise its limit (LimitNOFILE)";
    /// Half a message, then silence.
    Stalled = "stalled", Close, "a message was begun and not finished within the deadline";
    /// NEED_REPLY without REPLY_ACK negotiated.
    NeedReply = "need_reply", Close, "NEED_REPLY is set but REPLY_ACK was not negotiated";
    /// More messages queued behind a pending one than a front end has reason to send.
    Backlog = "backlog", Close, "too many messages sent behind an unanswered one";
    /// The front end does not read its replies.
    Unread = "unread", Close, "replies are not read by the front end";

    // Negotiation.
    /// A request that belongs to a protocol feature that was not negotiated.
    NotNegotiated = "not_negotiated", NackOrClose, "request belongs to a protocol feature that was not negotiated";
    /// A request that this back end never offers (vIOMMU: IOTLB_MSG).
    Iotlb = "iotlb", NackOrClose, "IOTLB is not offered; run the guest's device without a vIOMMU";
    /// Postcopy is never offered.
    Postcopy = "postcopy", NackOrClose, "postcopy is not offered; migrate with precopy";
    /// Another request that this back end never offers.
    NotOffered = "not_offered", NackOrClose, "request belongs to a protocol feature that is not offered";
    /// SET_FEATURES with bits outside of GET_FEATURES.
    FeaturesNotOffered = "features_not_offered", NackOrClose, "SET_FEATURES has bits that were not offered";
    /// SET_FEATURES with other bits than VHOST_F_LOG_ALL changed while a queue runs.
    FeaturesWhileRunning = "features_while_running", NackOrClose, "SET_FEATURES changes features while a queue runs; stop the queues first";
    /// SET_PROTOCOL_FEATURES with bits that were not offered.
    ProtocolFeaturesNotOffered = "protocol_features_not_offered", NackOrClose, "SET_PROTOCOL_FEATURES has bits that were not offered";
    /// SET_PROTOCOL_FEATURES with another value while a queue runs.
    ProtocolFeaturesWhileRunning = "protocol_features_while_running", NackOrClose, "SET_PROTOCOL_FEATURES changes features while a queue runs";

    // Memory.
    /// SET_MEM_TABLE with 0 or more than 8 regions, or a payload of another length.
    RegionCount = "region_count", NackOrClose, "SET_MEM_TABLE carries 1 to 8 regions";
    /// A region of size 0.
    RegionSize = "region_size", NackOrClose, "memory region has size 0";
    /// A region whose end wraps in guest, user or file space.
    RegionWrap = "region_wrap", NackOrClose, "memory region's end is beyond 2^64";
    /// A region not aligned to pages in guest, user or file space.
    RegionUnaligned = "region_unaligned", NackOrClose, "memory region is not aligned to 4 KiB";
    /// A region overlapping another in guest or user space.
    RegionOverlap = "region_overlap", NackOrClose, "memory region overlaps another one";
    /// REM_MEM_REG of a region that is not there.
    RegionUnknown = "region_unknown", NackOrClose, "REM_MEM_REG names a region that was never added";
    /// ADD_MEM_REG beyond the slots of GET_MAX_MEM_SLOTS.
    RegionSlots = "region_slots", NackOrClose, "all memory slots are in use";
    /// A region's descriptor is no regular (memfd, hugetlbfs, tmpfs) file.
    RegionFile = "region_file", NackOrClose, "memory region's descriptor is not a memfd or file; use a shared memory backend";
    /// A region ends past its file.
    RegionFileShort = "region_file_short", NackOrClose, "memory region ends past the end of its file";
    /// A region's file is opened or sealed read-only.
    RegionFileReadOnly = "region_file_read_only", NackOrClose, "memory region's file is read-only or sealed; share it read-write";
    /// The region could not be mapped.
    RegionMap = "region_map", NackOrClose, "memory region could not be mapped";

    // Queues.
    /// Queue index at or above the offered number.
    QueueIndex = "queue_index", NackOrClose, "queue index is not below the offered number of queues";
    /// Queue size 0, above 32,768, or (split) no power of two.
    QueueSize = "queue_size", NackOrClose, "queue size is not within 1..=32768, or no power of two on a split ring";
    /// A setting of a queue changed while it runs.
    QueueRunning = "queue_running", NackOrClose, "queue is running; stop it with GET_VRING_BASE first";
    /// SET_VRING_ENABLE with something else than 0 and 1, unknown address flags, or a base beyond its range.
    QueueValue = "queue_value", NackOrClose, "value is outside of its range";
    /// A ring part is not aligned as virtio 1.2, 2.7 and 2.8 demand.
    RingUnaligned = "ring_unaligned", NackOrClose, "ring address is not aligned (descriptors 16, available 2, used 4; packed events 4)";
    /// A ring part lies outside of the memory regions, or across two. Its queue stays stopped.
    RingOutsideMemory = "ring_outside_memory", NackOrIgnore, "ring address is outside of the memory regions; the queue stays stopped";
    /// Two parts of a ring overlap. Its queue stays stopped.
    RingOverlap = "ring_overlap", NackOrIgnore, "parts of the ring overlap; the queue stays stopped";
    /// The ring could not be built by its driver. Its queue stays stopped.
    RingRefused = "ring_refused", NackOrIgnore, "the ring was refused when it was built; the queue stays stopped";
    /// A kick, call or error descriptor that is no eventfd.
    EventDescriptor = "event_descriptor", NackOrClose, "kick, call and error descriptors must be eventfds";

    // Dirty log.
    /// Log of size 0, unaligned or wrapping.
    LogRange = "log_range", Close, "log: size 0, or offset and size wrap";
    /// Log too small for the guest's memory.
    LogTooSmall = "log_too_small", Close, "log is smaller than one bit per 4 KiB of guest memory";
    /// Log descriptor unusable, or shorter than the log.
    LogFile = "log_file", Close, "log descriptor is not a writable memfd of the log's size";
    /// The log could not be mapped.
    LogMap = "log_map", Close, "log could not be mapped";

    // In-flight region.
    /// Queue count or size out of range, before SET_VRING_NUM, or smaller than a queue.
    InflightGeometry = "inflight_geometry", NackOrClose, "in-flight region: number or size of queues is out of range, or was not set first";
    /// Region smaller than its queues, or descriptor unusable.
    InflightFile = "inflight_file", NackOrClose, "in-flight region: descriptor is not a memfd that holds all queues";
    /// Region's content contradicts its geometry.
    InflightContent = "inflight_content", NackOrClose, "in-flight region: its headers contradict the number and size of queues";

    // Device.
    /// GET_CONFIG or SET_CONFIG beyond the 256 bytes of configuration space.
    ConfigRange = "config_range", NackOrClose, "configuration space access is empty or beyond 256 bytes";
    /// SET_CONFIG of something else than what is there.
    ConfigReadOnly = "config_read_only", NackOrClose, "configuration space of this device is read-only; the port's manifest sets MAC and MTU";
    /// NET_SET_MTU outside of 68 and the port's MTU.
    Mtu = "mtu", NackOrIgnore, "MTU is below 68 or above the port's; lower the VMM's (QEMU: host_mtu), or raise spec.mtu of the port's Vpc";
    /// SEND_RARP with a group or zero address.
    RarpAddress = "rarp_address", NackOrIgnore, "SEND_RARP needs a unicast MAC address";
    /// SET_STATUS above 8 bits.
    StatusValue = "status_value", NackOrClose, "device status has 8 bits";
    /// The back end's request channel is no socket.
    RequestChannel = "request_channel", NackOrClose, "SET_BACKEND_REQ_FD needs a stream socket";
    /// SET_DEVICE_STATE_FD with unknown direction or phase, or no pipe.
    StateTransfer = "state_transfer", NackOrClose, "device state: unknown direction or phase, or the descriptor is no pipe";
    /// SET_DEVICE_STATE_FD while a queue runs.
    StateRunning = "state_running", NackOrClose, "device state can only be transferred while all queues are stopped";
    /// A loaded device state that is truncated, altered, of another version, or contradicts what is offered.
    StateContent = "state_content", NackOrClose, "device state is truncated, altered, of another version, or beyond what this port offers";

    // Connections.
    /// A second front end on a port that has one.
    SecondFrontEnd = "second_front_end", Close, "the port already has a front end";
    /// Connections faster than the limit.
    ConnectRate = "connect_rate", Close, "connections arrive faster than the limit";
    /// Peer credentials that the owner refuses.
    Credentials = "credentials", Close, "the peer's user, group or process is not allowed on this socket";
}

impl Refusal {
    /// Number of variants.
    pub const COUNT: usize = Self::ALL.len();
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for Refusal {}

/// One counter per [`Refusal`]. Survives reconnects: it belongs to the port, not to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusals([u64; Refusal::COUNT]);

impl Default for Refusals {
    fn default() -> Self {
        Self([0; Refusal::COUNT])
    }
}

impl Refusals {
    /// Counts one refusal.
    pub fn count(&mut self, refusal: Refusal) {
        if let Some(counter) = self.0.get_mut(refusal as usize) {
            *counter = counter.saturating_add(1);
        }
    }

    /// How often `refusal` happened.
    #[must_use]
    pub fn get(&self, refusal: Refusal) -> u64 {
        self.0.get(refusal as usize).copied().unwrap_or(0)
    }

    /// All refusals that happened at least once, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Refusal, u64)> + '_ {
        Refusal::ALL.iter().map(|&refusal| (refusal, self.get(refusal))).filter(|&(_, count)| count > 0)
    }

    /// Sum of all counters.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds another set of counters to this one.
    pub fn add(&mut self, other: &Refusals) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = mine.saturating_add(theirs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_counters_are_separate() {
        let mut names: Vec<_> = Refusal::ALL.iter().map(|r| r.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Refusal::COUNT);
        let mut counters = Refusals::default();
        for (i, &refusal) in Refusal::ALL.iter().enumerate() {
            for _ in 0..=i {
                counters.count(refusal);
            }
        }
        for (i, &refusal) in Refusal::ALL.iter().enumerate() {
            assert_eq!(counters.get(refusal), i as u64 + 1, "{refusal:?}");
        }
        assert_eq!(counters.iter().count(), Refusal::COUNT);
    }
}
