//! What this host makes of a Port resource.

use model::{PortSpec, ResourceSet, Typed, Uid, VhostUserAttachment};
use std::net::IpAddr;
use tables::{AllowedAddress, PortProfile};

/// Everything needed to realize one port here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPlan {
    /// `project/name`, or the name alone in the default project.
    pub name: String,
    /// The resource's uid.
    pub uid: Uid,
    /// How a guest attaches; `None` while the manifest names nothing.
    pub attachment: Option<VhostUserAttachment>,
    /// What the packet path checks.
    pub profile: PortProfile,
}

impl PortPlan {
    /// The plan for `port`; its subnet has number `subnet` on this host.
    pub(crate) fn of(port: Typed<'_, PortSpec>, set: &ResourceSet, subnet: u16) -> Self {
        let spec = port.spec;
        let vpc = set.subnet(&spec.subnet).map(|subnet| subnet.spec.vpc.clone());
        let mtu = vpc.and_then(|vpc| set.mtu(&vpc)).unwrap_or(model::vpc::MTU_WITHOUT_UPLINK);
        let allowed: Vec<AllowedAddress> = spec
            .allowed_addresses
            .iter()
            .map(|allowed| AllowedAddress { prefix: allowed.ip, mac: allowed.mac })
            .collect();
        let mut profile = PortProfile::new(subnet, spec.mac, mtu, &spec.ips, &allowed);
        profile.up = !spec.shutdown;
        let attachment =
            spec.attachment.as_ref().map(|model::Attachment::VhostUser(vhost_user)| vhost_user.clone());
        Self { name: port.meta.object().to_string(), uid: port.meta.uid, attachment, profile }
    }

    /// The addresses others of the subnet may ask for.
    pub fn addresses(&self) -> &[IpAddr] {
        self.profile.addresses()
    }
}
