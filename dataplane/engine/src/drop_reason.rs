//! Why a packet was not delivered.

use packet::ParseError;

/// One list: the enum, its names and its explanations cannot differ. Reasons of the parser keep the parser's names.
macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal,)+ parse { $($parse:ident,)+ }) => {
        /// Every way a packet ends other than delivered. Counted per port; see [`DropReason::name`] for the name a person sees.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
            $(#[doc = concat!("The parser's [`ParseError::", stringify!($parse), "`].")] $parse,)+
        }

        impl DropReason {
            /// All of them, in the order of their discriminants.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)+ $(DropReason::$parse,)+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name in counters, metrics and tables.
            pub const fn name(self) -> &'static str {
                match self {
                    $(DropReason::$variant => $name,)+
                    $(DropReason::$parse => ParseError::$parse.name(),)+
                }
            }

            /// A sentence for `towpath drops` and the documentation.
            pub fn explanation(self) -> String {
                match self {
                    $(DropReason::$variant => concat!($($doc),+).trim().to_owned(),)+
                    $(DropReason::$parse => format!("The packet was refused by the parser: {}.", ParseError::$parse),)+
                }
            }
        }

        impl From<ParseError> for DropReason {
            #[inline]
            fn from(error: ParseError) -> Self {
                match error { $(ParseError::$parse => DropReason::$parse,)+ }
            }
        }
    };
}

drop_reasons! {
    /// The descriptor chain was refused: loops, lies about lengths, points outside memory, or too many buffers.
    BadChain => "bad_chain",
    /// The virtio-net header asks for a checksum or a cut that the packet cannot have.
    BadOffload => "bad_offload",
    /// A VLAN tag other than VLAN 0 on a port, which has none.
    VlanTagged => "vlan_tagged",
    /// The Ethernet source is not the port's.
    SpoofedMac => "spoofed_mac",
    /// The IP source is neither the port's nor among its allowed addresses.
    SpoofedAddress => "spoofed_address",
    /// An ARP or ND sender that is not the port's.
    SpoofedNeighbour => "spoofed_neighbour",
    /// An ARP or ND message that contradicts itself (RFC 4861 section 7.1).
    BadNeighbour => "bad_neighbour",
    /// Neither ARP nor IP: link protocols (STP, LACP, LLDP, PAUSE) and unknown EtherTypes stay with the port that sent them.
    EtherTypeRefused => "ethertype_refused",
    /// A source address that nobody can have: multicast, broadcast, loopback.
    BogusSource => "bogus_source",
    /// What only routers, DHCP servers and multicast queriers say, from a tenant's port or by a tunnel: advertisements, redirects, leases, group membership queries (IGMP, MLD).
    RogueService => "rogue_service",
    /// A neighbour request for an address that no port of the subnet has.
    UnknownNeighbour => "unknown_neighbour",
    /// A neighbour message that needed no forwarding: an announcement, a probe for the sender's own address.
    NeighbourConsumed => "neighbour_consumed",
    /// No port of the subnet has the destination MAC address; unknown unicast is never flooded.
    UnknownUnicast => "unknown_unicast",
    /// Multicast in a subnet that does not have it replicated, or a message about groups, for which there is no router.
    Multicast => "multicast",
    /// The destination is the port it came from.
    Hairpin => "hairpin",
    /// A packet for the gateway that it neither routes nor answers.
    GatewayConsumed => "gateway_consumed",
    /// The packet had no hop left to take; its sender is told.
    HopLimit => "hop_limit",
    /// No route of the port's route table leads to the destination; its sender is told.
    NoRoute => "no_route",
    /// A route says that packets for this destination go nowhere.
    Blackhole => "blackhole",
    /// Nobody in the VPC has the destination address; its sender is told.
    UnknownEndpoint => "unknown_endpoint",
    /// The packet is longer than the VPC's MTU; its sender is told.
    TooBig => "too_big",
    /// The switch itself answers packets of this kind; this one it did not understand, or it was not for this port.
    ServiceConsumed => "service_consumed",
    /// The port asked more of the switch's own services than its budget allows.
    ServiceBudget => "service_budget",
    /// The control thread is behind with what the switch answers itself.
    ServiceBusy => "service_busy",
    /// A frame of the underlay that is for another station, or of no use to this host.
    UnderlayNotOurs => "underlay_not_ours",
    /// A tunnel packet with options, in fragments, truncated, or of another format.
    BadTunnel => "bad_tunnel",
    /// The outer UDP checksum is wrong.
    TunnelChecksum => "tunnel_checksum",
    /// A tunnel packet from an address that no Host and no Endpoint names.
    UnknownVtep => "unknown_vtep",
    /// A tunnel packet for a VNI without ports on this host.
    UnknownVni => "unknown_vni",
    /// The inner source does not live at the outer source.
    TunnelSource => "tunnel_source",
    /// The packet met congestion and its sender does not understand marks of it (RFC 6040).
    TunnelCongestion => "tunnel_congestion",
    /// There is no way to the tunnel end point: this host has no uplink, or no address of its family.
    NoUplink => "no_uplink",
    /// The next hop of the underlay does not answer, and too many packets wait for it already.
    NeighbourUnresolved => "neighbour_unresolved",
    /// The port is being set up, shut down by its owner, or has no policy yet.
    PortDown => "port_down",
    /// No rule of the sender's security groups lets it out, or none of the receiver's lets it in.
    PolicyDenied => "policy_denied",
    /// A segment that its TCP connection cannot have sent: outside of the window, or out of order.
    SessionInvalid => "session_invalid",
    /// The table of sessions is full.
    SessionTableFull => "session_table_full",
    /// The port has as many sessions as it may have.
    SessionQuota => "session_quota",
    /// A later fragment of a datagram whose first fragment did not pass, or came too long ago.
    FragmentUnknown => "fragment_unknown",
    /// An ICMP error about a packet of no session.
    IcmpUnrelated => "icmp_unrelated",
    /// For a load balancer's address, at which nothing listens for this protocol and port.
    NoListener => "no_listener",
    /// For a load balancer none of whose targets is up; its sender is told.
    NoTarget => "no_target",
    /// SCTP to another port, whose checksum covers all data, or a packet with another oddity that keeps its addresses from being changed on its way.
    Untranslatable => "untranslatable",
    /// A packet to an external network whose sender has no address there: no block of a NAT gateway and no floating IP.
    NoExternalAddress => "no_external_address",
    /// All external ports of the sender's block that could be tried are in use with this destination.
    NatExhausted => "nat_exhausted",
    /// From an external network, for an address without a floating IP there, and no session that it could be the answer of.
    NatUnknown => "nat_unknown",
    /// To or from an external network, and the port has no rules (`unfiltered`), thus no sessions, which translate addresses.
    NatUnfiltered => "nat_unfiltered",
    /// The receiver has no buffers: it is slower than its senders.
    ReceiverFull => "receiver_full",
    /// The packet fits no buffer of the receiver, or is longer than its MTU.
    TooLarge => "too_large",
    /// The receiver's ring is stopped or broken.
    ReceiverStopped => "receiver_stopped",
    /// The receiver is another worker's and the way there is full.
    HandoverFull => "handover_full",
    /// The switch has no memory left for packets that must wait.
    PoolExhausted => "pool_exhausted",
    parse {
        Runt, Llc, VlanTruncated, VlanDepth, HeaderTooLong, ArpTruncated, ArpFormat, Ipv4Truncated, Ipv4Version,
        Ipv4HeaderLength, Ipv4TotalLength, Ipv6Truncated, Ipv6Version, Ipv6PayloadLength, Ipv6Jumbogram,
        Ipv6ExtensionOrder, Ipv6ExtensionCount, Ipv6ExtensionLength, Ipv6Routing, FragmentLength, FragmentOverrun,
        FragmentTiny, FragmentOverlap, L4Truncated, TcpHeaderLength, UdpLength,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discriminants_index_the_list_and_names_are_unique() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        for (at, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, at);
            assert!(reason.explanation().trim().ends_with('.'));
        }
        assert!(packet::ParseError::ALL.iter().all(|error| names.contains(&error.name())));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::COUNT);
    }
}
