//! Where a packet with a reason leaves the pipeline.

use engine::DropReason;

/// Reasons that delivery has, not a stage.
#[must_use]
pub fn is_delivery(reason: DropReason) -> bool {
    use DropReason::{
        HandoverFull, NeighbourUnresolved, PoolExhausted, ReceiverFull, ReceiverStopped, TooLarge,
    };
    matches!(
        reason,
        ReceiverFull | TooLarge | ReceiverStopped | HandoverFull | PoolExhausted | NeighbourUnresolved
    )
}

/// Reasons that may be found when a packet is shown to no observer any more.
#[must_use]
pub fn is_late(reason: DropReason) -> bool {
    is_delivery(reason) || reason == DropReason::NoUplink
}

/// The edge of the pipeline on which a packet with that reason leaves it. (A rogue service is found by two stages: that edge has no one name; and so for
/// others.)
#[must_use]
pub fn edge_of(reason: DropReason) -> Option<&'static str> {
    use DropReason::{
        BadChain, BadNeighbour, BadOffload, BadTunnel, Blackhole, BogusSource, EtherTypeRefused,
        FragmentUnknown, GatewayConsumed, Hairpin, HopLimit, IcmpUnrelated, Multicast, NeighbourConsumed,
        NoRoute, NoUplink, PolicyDenied, PortDown, RogueService, ServiceBudget, ServiceBusy, ServiceConsumed,
        SessionInvalid, SessionQuota, SessionTableFull, SpoofedAddress, SpoofedMac, SpoofedNeighbour, TooBig,
        TunnelChecksum, TunnelCongestion, TunnelSource, UnderlayNotOurs, UnknownEndpoint, UnknownNeighbour,
        UnknownUnicast, UnknownVni, UnknownVtep, VlanTagged,
    };
    Some(match reason {
        BadChain => "ring > refused",
        reason if is_delivery(reason) => "delivery > dropped",
        SpoofedMac | SpoofedAddress | BogusSource | VlanTagged | EtherTypeRefused | PortDown => {
            "port_security > dropped"
        }
        SpoofedNeighbour | BadNeighbour | UnknownNeighbour | NeighbourConsumed => "neighbours > dropped",
        PolicyDenied | SessionQuota | SessionTableFull => "policy > dropped",
        SessionInvalid | FragmentUnknown | IcmpUnrelated => "sessions > dropped",
        UnknownUnicast | Hairpin => "forward > dropped",
        Multicast => "broadcast > dropped",
        ServiceBudget | ServiceBusy | ServiceConsumed => "control thread > refused",
        NoRoute | Blackhole | UnknownEndpoint | HopLimit | GatewayConsumed => "route > dropped",
        TooBig | NoUplink => "encapsulate > dropped",
        UnderlayNotOurs | BadTunnel | TunnelChecksum | UnknownVtep | UnknownVni => "decapsulate > dropped",
        TunnelSource | TunnelCongestion => "arrive > dropped",
        RogueService => return None,
        // What is left is the parser's.
        BadOffload => "parse > dropped (offload)",
        _ => "parse > dropped",
    })
}
