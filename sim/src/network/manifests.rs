//! The manifests that the operator writes.

use super::groups::membership;
use super::ways::PEERING;
use super::{
    EndpointView, LEASE, Network, PEERS, PortView, ROUTED, SUBNETS, VPCS, block, station, vips, vni,
};
use crate::net::{Mac, Station};
use model::{Environment, HostSpec, Name, ResourceSet};
use std::collections::BTreeMap;
use std::fmt::Write;

impl Network {
    /// The manifests, read and validated as the daemon does it.
    ///
    /// # Errors
    ///
    /// What the model found wrong.
    pub fn resources(&self, host: &Name) -> anyhow::Result<ResourceSet> {
        let number = host.to_string().rsplit('-').next().and_then(|text| text.parse::<usize>().ok());
        let view = number.and_then(|number| self.hosts.get(number));
        let vteps = view.map(|view| view.address).into_iter().collect();
        let own = HostSpec { vteps, mtu: None };
        let environment = Environment { own_host: Some((host.clone(), own)) };
        let text = self.manifests();
        model::load_text(&text, "simulated", &environment).map_err(|problems| {
            let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("the operator's manifests are refused: {}", texts.join("; "))
        })
    }

    /// The gateway of each subnet, as the model derives it.
    ///
    /// # Errors
    ///
    /// What the model found wrong.
    pub fn find_gateways(&self) -> anyhow::Result<BTreeMap<(usize, usize), Mac>> {
        let name = |text: &str| Name::parse(text).map_err(|refusal| anyhow::anyhow!("{refusal:?}"));
        let resources = self.resources(&name("node-0")?)?;
        let mut gateways = BTreeMap::new();
        for subnet in (0..VPCS).flat_map(|vpc| (0..SUBNETS).map(move |subnet| (vpc, subnet))) {
            let object = format!("s{}-{}", subnet.0, subnet.1);
            let found = resources.subnets().find(|found| found.meta.object().to_string().ends_with(&object));
            gateways.extend(found.map(|found| (subnet, found.spec.gateway_mac.0)));
        }
        anyhow::ensure!(gateways.len() == VPCS * SUBNETS, "a subnet has no gateway");
        Ok(gateways)
    }

    fn manifests(&self) -> String {
        let mut text = String::new();
        let mut resource = |kind: &str, name: String, spec: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "---\napiVersion: towpath.dev/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{{spec}}}"
            );
        };
        for (host, view) in self.hosts.iter().enumerate() {
            resource("Host", format!("node-{host}"), format!("vteps: [\"{}\"]", view.address));
        }
        if self.routes.peered {
            resource("Peering", PEERING.to_owned(), format!("vpcs: [v{}, v{}]", PEERS[0], PEERS[1]));
        }
        for vpc in 0..VPCS {
            let routes: Vec<String> = self
                .route_table(vpc)
                .into_iter()
                .map(|(net, via)| format!("{{destination: \"{net}\", via: {{{via}}}}}"))
                .collect();
            let spec = format!("vpc: v{vpc}, routes: [{}]", routes.join(", "));
            resource("RouteTable", format!("r{vpc}"), spec);
            let (second, block) = block(vpc);
            let spec = format!("vni: {}, cidrs: [10.{second}.0.0/16, \"fd00:{block:x}::/48\"]", vni(vpc));
            resource("Vpc", format!("v{vpc}"), spec);
            for subnet in 0..SUBNETS {
                let mut spec = format!(
                    "vpc: v{vpc}, routeTable: r{vpc}, cidrs: [10.{second}.{subnet}.0/24, \"fd00:{block:x}:0:{subnet:x}::/64\"]"
                );
                if self.served && subnet == 0 {
                    let dns = station((vpc, subnet), 2);
                    let _ = write!(
                        spec,
                        ", dhcp: {{enabled: true, dns: [{}, \"{}\"], leaseTime: {LEASE}s}}",
                        dns.v4, dns.v6
                    );
                }
                resource("Subnet", format!("s{vpc}-{subnet}"), spec);
            }
        }
        for (name, spec) in self.group_specs() {
            resource("SecurityGroup", name, spec);
        }
        for (number, endpoint) in self.endpoints.iter().enumerate() {
            resource("Endpoint", format!("e{number}"), self.endpoint_spec(endpoint));
        }
        for (guest, port) in self.ports.iter().enumerate().filter(|(_, port)| port.present) {
            let mut spec = format!(
                "subnet: s{}-{}, host: node-{}, mac: \"{}\", ips: [{}, \"{}\"], {}, shutdown: {}",
                port.subnet.0,
                port.subnet.1,
                port.moves.map_or(port.host, |(from, _)| from),
                text_of(port.station.mac),
                port.station.v4,
                port.station.v6,
                membership(port),
                !port.up
            );
            if let Some((_, to)) = port.moves {
                let _ = write!(spec, ", migratingTo: node-{to}");
            }
            let allowed = allowed(port);
            if !allowed.is_empty() {
                let _ = write!(spec, ", allowedAddresses: [{}]", allowed.join(", "));
            }
            resource("Port", format!("g{guest}"), spec);
        }
        text
    }

    fn endpoint_spec(&self, endpoint: &EndpointView) -> String {
        let (Station { mac, v4, v6 }, vtep) = (endpoint.station, self.vtep(endpoint.vtep).address);
        let (vpc, subnet) = endpoint.subnet;
        let mac = text_of(mac);
        format!("subnet: s{vpc}-{subnet}, ips: [{v4}, \"{v6}\"], mac: \"{mac}\", vtep: \"{vtep}\"")
    }
}

/// A MAC address as manifests write it.
fn text_of(mac: Mac) -> String {
    let bytes: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}

/// What a port may send from besides its own.
fn allowed(port: &PortView) -> Vec<String> {
    let mut allowed = Vec::new();
    if port.vip {
        allowed.extend(vips(port.subnet).map(|address| address.to_string()));
    }
    if port.router {
        allowed.extend(ROUTED.map(str::to_owned));
    }
    allowed.iter().map(|ip| format!("{{ip: \"{ip}\"}}")).collect()
}
