//! Packets that a control thread answers: what is rare, long to answer, or needs a memory of its own.

use crate::PortIndex;
use buf::OwnedPacket;

/// Why a packet is given to the control thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PuntKind {
    /// A client's DHCPv4 message.
    Dhcp4,
    /// A client's DHCPv6 message.
    Dhcp6,
    /// Somebody asks for a router (RFC 4861 section 4.1).
    RouterSolicitation,
    /// TCP to the metadata service.
    Metadata,
    /// To all of its subnet.
    Broadcast,
    /// To a group of its subnet.
    Multicast,
    /// Came by a tunnel and says where an address is: gratuitous ARP, unsolicited neighbour advertisement, RARP.
    Announcement,
    /// A neighbour of the underlay says where it is: ARP reply, neighbour advertisement.
    UnderlayNeighbour,
    /// TCP to a gateway's port that health checks come from.
    HealthCheck,
    /// Came by a tunnel and says how targets of load balancers are.
    HealthWord,
}

impl PuntKind {
    /// Its name in counters and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dhcp4 => "dhcp4",
            Self::Dhcp6 => "dhcp6",
            Self::RouterSolicitation => "router_solicitation",
            Self::Metadata => "metadata",
            Self::Broadcast => "broadcast",
            Self::Multicast => "multicast",
            Self::Announcement => "announcement",
            Self::UnderlayNeighbour => "underlay_neighbour",
            Self::HealthCheck => "health_check",
            Self::HealthWord => "health_word",
        }
    }
}

/// Where in the fabric a packet came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The number of the tunnel end point.
    pub vtep: u16,
    /// The number of the VPC.
    pub vpc: u16,
    /// The sender's identity, from the group policy field; 0 if none came.
    pub identity: u16,
}

/// A packet on its way to the control thread.
#[derive(Debug)]
pub struct Punt {
    /// The port it came from.
    pub port: PortIndex,
    /// Why.
    pub kind: PuntKind,
    /// Where it came from in the fabric, for what came out of a tunnel.
    pub origin: Option<Origin>,
    /// All of it; without the outer headers if it came out of a tunnel.
    pub packet: OwnedPacket,
}
