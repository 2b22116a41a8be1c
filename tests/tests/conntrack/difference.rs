//! What Linux and we judge differently, each by a name that `docs/conntrack.md` explains.

/// A class of differences: docs/conntrack.md says what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Difference {
    Checksum,
    WindowRounded,
    Unacknowledged,
    Selective,
    ResetOfOwn,
    ResetBeyond,
    Lingering,
    IcmpQueries,
    IcmpKinds,
    ErrorFromElsewhere,
    FragmentOrder,
    FragmentOverlap,
    FragmentIncomplete,
    SctpStates,
    GreCalls,
    UdpLite,
    ExtensionHeaders,
    NoNextHeader,
}

/// Who lets more pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum More {
    Linux,
    Ours,
}

impl Difference {
    pub(crate) const ALL: [Self; 18] = [
        Self::Checksum,
        Self::WindowRounded,
        Self::Unacknowledged,
        Self::Selective,
        Self::ResetOfOwn,
        Self::ResetBeyond,
        Self::Lingering,
        Self::IcmpQueries,
        Self::IcmpKinds,
        Self::ErrorFromElsewhere,
        Self::FragmentOrder,
        Self::FragmentOverlap,
        Self::FragmentIncomplete,
        Self::SctpStates,
        Self::GreCalls,
        Self::UdpLite,
        Self::ExtensionHeaders,
        Self::NoNextHeader,
    ];

    /// As the document calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Checksum => "checksum",
            Self::WindowRounded => "window-rounded",
            Self::Unacknowledged => "unacknowledged",
            Self::Selective => "selective-acknowledgment",
            Self::ResetOfOwn => "reset-of-own",
            Self::ResetBeyond => "reset-beyond",
            Self::Lingering => "lingering",
            Self::IcmpQueries => "icmp-queries",
            Self::IcmpKinds => "icmp-kinds",
            Self::ErrorFromElsewhere => "error-from-elsewhere",
            Self::FragmentOrder => "fragment-order",
            Self::FragmentOverlap => "fragment-overlap",
            Self::FragmentIncomplete => "fragment-incomplete",
            Self::SctpStates => "sctp-states",
            Self::GreCalls => "gre-calls",
            Self::UdpLite => "udp-lite",
            Self::ExtensionHeaders => "extension-headers",
            Self::NoNextHeader => "no-next-header",
        }
    }

    pub(crate) const fn more(self) -> More {
        match self {
            Self::ResetBeyond
            | Self::IcmpQueries
            | Self::ErrorFromElsewhere
            | Self::FragmentOrder
            | Self::ExtensionHeaders => More::Linux,
            _ => More::Ours,
        }
    }
}
