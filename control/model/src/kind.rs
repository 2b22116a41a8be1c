//! The kinds of resources: those of this version and those announced for later ones.

use crate::fields::Refusal;
use crate::suggest::nearest;
use std::fmt;

/// The kinds of this version, in dependency order: a kind refers only to kinds before it, except that a RouteTable names
/// Ports as next hops, and a SecurityGroup others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A machine that runs towpathd. Global.
    Host,
    /// A network outside of all VPCs. Global.
    ExternalNetwork,
    /// A virtual private cloud: an address space of its own.
    Vpc,
    /// Two VPCs whose route tables may lead into each other.
    Peering,
    /// Addresses outside that a VPC's ports share.
    NatGateway,
    /// Where packets go that leave their subnet.
    RouteTable,
    /// Rules for what ports send and are sent.
    SecurityGroup,
    /// A part of a VPC's addresses that shares a link.
    Subnet,
    /// One virtual NIC.
    Port,
    /// An address outside that is one port's.
    FloatingIp,
    /// An address in a VPC that is not ours.
    Endpoint,
    /// An address in a VPC that stands for many targets.
    LoadBalancer,
}

/// Kinds that later versions bring. Naming one is not a typo, and is told apart from one.
const LATER: &[&str] = &["QosPolicy", "Mirror"];

impl Kind {
    /// All kinds, in dependency order.
    pub const ALL: [Self; 12] = [
        Self::Host,
        Self::ExternalNetwork,
        Self::Vpc,
        Self::Peering,
        Self::NatGateway,
        Self::RouteTable,
        Self::SecurityGroup,
        Self::Subnet,
        Self::Port,
        Self::FloatingIp,
        Self::Endpoint,
        Self::LoadBalancer,
    ];

    /// The name, as manifests write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "Host",
            Self::ExternalNetwork => "ExternalNetwork",
            Self::NatGateway => "NatGateway",
            Self::FloatingIp => "FloatingIp",
            Self::Vpc => "Vpc",
            Self::Peering => "Peering",
            Self::RouteTable => "RouteTable",
            Self::SecurityGroup => "SecurityGroup",
            Self::Subnet => "Subnet",
            Self::Port => "Port",
            Self::Endpoint => "Endpoint",
            Self::LoadBalancer => "LoadBalancer",
        }
    }

    /// Whether resources of this kind belong to no project.
    pub const fn is_global(self) -> bool {
        matches!(self, Self::Host | Self::ExternalNetwork)
    }

    /// Reads the kind of a manifest.
    ///
    /// # Errors
    /// "not supported by this version" for a kind of a later one, "unknown kind" with the nearest known otherwise.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if let Some(kind) = Self::ALL.into_iter().find(|kind| kind.as_str() == text) {
            return Ok(kind);
        }
        let known = Self::ALL.map(Self::as_str).join(", ");
        if let Some(kind) = LATER.iter().find(|kind| **kind == text) {
            let message = format!("kind {kind} is not supported by this version");
            return Err(Refusal::new(message, format!("remove this document; this version has {known}")));
        }
        let candidates = Self::ALL.map(Self::as_str).into_iter().chain(LATER.iter().copied());
        let near = nearest(text, candidates).unwrap_or("Port");
        Err(Refusal::new("unknown kind", format!("nearest known kind: {near}; this version has {known}")))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_later_and_unknown_kinds_are_told_apart() {
        assert_eq!(Kind::parse("Subnet"), Ok(Kind::Subnet));
        let later = Kind::parse("QosPolicy").unwrap_err();
        assert!(later.message.contains("QosPolicy is not supported by this version"));
        let typo = Kind::parse("Subnt").unwrap_err();
        assert_eq!(typo.message, "unknown kind");
        assert!(typo.remedy.contains("nearest known kind: Subnet;"));
        assert_eq!(Kind::parse("LoadBalancer"), Ok(Kind::LoadBalancer));
        assert!(Kind::parse("loadbalancer").unwrap_err().remedy.contains("LoadBalancer"));
    }
}
