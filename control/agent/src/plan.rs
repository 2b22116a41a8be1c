//! What this host makes of a Port resource.

use ipnet::IpNet;
use model::{PortSpec, Typed, Uid, VhostUserAttachment};
use packet::MacAddr;
use std::net::IpAddr;
use std::time::Duration;
use tables::{AllowedAddress, PortProfile};

/// Identities of ports (VXLAN group policy field).
const FILTERED: u16 = 1;
const UNFILTERED: u16 = 2;

/// A VPC as this host needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VpcPlan {
    /// `project/name`.
    pub name: String,
    /// Its number on the wire, 1 to 2^24 - 1.
    pub vni: u32,
    /// Largest network-layer packet, in bytes.
    pub mtu: u16,
    /// Whether it has ports here. Of one that has not, which is here because a peer of it has, endpoints are known, but no packets
    /// are taken from the underlay.
    pub local: bool,
    /// Tunnel end points that know the whole VPC, without this host's own.
    pub directory: Vec<u16>,
    /// Whether this host is one of its directory: it then forwards what others send for addresses that they do not know.
    pub is_directory: bool,
    /// VPCs it is peered with: packets of its ports may be for them, and come from them.
    pub peers: Vec<u16>,
    /// Whether TCP's maximum segment size is lowered to fit the MTU.
    pub clamp_mss: bool,
}

impl From<&VpcPlan> for tables::Vpc {
    fn from(plan: &VpcPlan) -> Self {
        Self {
            vni: plan.vni,
            mtu: plan.mtu,
            directory: plan.directory.clone(),
            is_directory: plan.is_directory,
            peers: plan.peers.clone(),
            clamp_mss: plan.clamp_mss,
        }
    }
}

/// An external network as this host needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalPlan {
    /// Its name.
    pub name: String,
    /// Its router, on the link of the uplink.
    pub gateway: IpAddr,
}

/// A subnet as this host needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubnetPlan {
    /// `project/name`.
    pub name: String,
    /// The number of its VPC.
    pub vpc: u16,
    /// Its networks.
    pub prefixes: Vec<IpNet>,
    /// The gateway of each network.
    pub gateways: Vec<IpAddr>,
    /// The gateways' MAC address, the same on every host.
    pub gateway_mac: MacAddr,
    /// What DHCP and router advertisements say; `None`: they are not answered.
    pub dhcp: Option<DhcpPlan>,
    /// Whether multicast is sent to all of the subnet.
    pub multicast: bool,
    /// The route table its ports use; `None` where it has no ports here.
    pub routes: Option<u16>,
}

impl From<&SubnetPlan> for tables::Subnet {
    fn from(plan: &SubnetPlan) -> Self {
        Self {
            vpc: plan.vpc,
            gateway_mac: plan.gateway_mac,
            prefixes: plan.prefixes.clone(),
            gateways: plan.gateways.clone(),
            routes: plan.routes,
            multicast: plan.multicast,
        }
    }
}

/// What a subnet's ports are told by DHCP and router advertisements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpPlan {
    /// Name servers, in the order preferred.
    pub dns: Vec<IpAddr>,
    /// The domain of their names.
    pub domain: Option<String>,
    /// How long an address is lent; whole seconds.
    pub lease: Duration,
    /// URL of the service behind the metadata address, `http://ADDRESS:PORT`.
    pub metadata: Option<String>,
}

/// How it is found out whether the targets of a load balancer live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckPlan {
    /// What is asked for over HTTP; `None`: whether it takes TCP connections is enough.
    pub path: Option<String>,
    /// At which of a target's ports.
    pub port: u16,
    /// From one check to the next.
    pub interval: Duration,
    /// How long one may take; not longer than the interval.
    pub timeout: Duration,
    /// Bad checks in a row that make a target down.
    pub unhealthy_after: u32,
    /// Good checks in a row that make it up again.
    pub healthy_after: u32,
}

impl From<&model::HealthCheck> for CheckPlan {
    fn from(check: &model::HealthCheck) -> Self {
        Self {
            path: (check.protocol == model::CheckProtocol::Http).then(|| check.path.clone()),
            port: check.port,
            interval: check.interval.duration(),
            timeout: check.timeout.duration(),
            unhealthy_after: check.unhealthy_after,
            healthy_after: check.healthy_after,
        }
    }
}

/// Everything needed to realize one port here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPlan {
    /// `project/name`, or the name alone in the default project.
    pub name: String,
    /// The resource's uid.
    pub uid: Uid,
    /// How a guest attaches; `None` while the manifest names nothing.
    pub attachment: Option<VhostUserAttachment>,
    /// The number of its VPC; that of its subnet is in the profile.
    pub vpc: u16,
    /// What the packet path checks.
    pub profile: PortProfile,
}

impl PortPlan {
    /// The plan for `port` on a subnet of that number, in `vpc`, under a policy.
    pub(crate) fn of(
        port: Typed<'_, PortSpec>,
        number: u16,
        subnet: &SubnetPlan,
        vpc: &VpcPlan,
        policy: Option<u16>,
    ) -> Self {
        let spec = port.spec;
        let allowed: Vec<AllowedAddress> = spec
            .allowed_addresses
            .iter()
            .map(|allowed| AllowedAddress { prefix: allowed.ip, mac: allowed.mac })
            .collect();
        // Who it is for others' rules comes with groups; until then only whether rules apply to it at all.
        let identity = if spec.unfiltered { UNFILTERED } else { FILTERED };
        let profile = PortProfile::new(number, spec.mac, vpc.mtu, &spec.ips, &allowed);
        let mut profile = profile.in_vpc(subnet.vpc, subnet.gateway_mac, identity);
        profile.up = !spec.shutdown;
        profile.policy = policy;
        let attachment =
            spec.attachment.as_ref().map(|model::Attachment::VhostUser(vhost_user)| vhost_user.clone());
        let name = port.meta.object().to_string();
        Self { name, uid: port.meta.uid, attachment, vpc: subnet.vpc, profile }
    }

    /// Its own addresses, the link-local one included.
    pub fn addresses(&self) -> &[IpAddr] {
        self.profile.addresses()
    }
}
