//! THE lists of stages, in order: for what ports of this host send, and for what comes from the underlay.

use crate::tables::Tables;
use engine::{Announcement, Batch, Output, PortCounters, PortIndex};
use stages::answers::Answers;
use stages::{arrive, broadcast, decapsulate, encapsulate, forward, neighbours, parse, port_security, route};
use tables::{PortProfile, Shares, TokenBucket};

/// What stages know of the port a batch came from.
pub(crate) struct Ingress<'a> {
    pub(crate) port: PortIndex,
    pub(crate) profile: &'a PortProfile,
    pub(crate) counters: &'a PortCounters,
    pub(crate) announcements: &'a mut TokenBucket,
    pub(crate) errors: &'a mut TokenBucket,
}

/// Runs all stages but the last (delivery) over what a port of this host sent.
#[inline(always)]
pub(crate) fn run(
    batch: &mut Batch<'_, '_>,
    ingress: &mut Ingress<'_>,
    tables: &Tables,
    announce: &mut impl FnMut(Announcement),
) {
    let (port, profile) = (ingress.port, ingress.profile);
    let (network, Tables { macs, endpoints, .. }) = (tables.network.get(), tables);
    parse::run(batch);
    port_security::run(batch, profile, ingress.counters);
    let known = neighbours::Tables { network, endpoints, macs };
    neighbours::run(batch, profile, port, known, ingress.announcements, announce);
    forward::run(batch, macs, profile, port);
    if batch.to_group | batch.to_gateway != 0 || batch.is_tunnelled() {
        run_rare(batch, ingress, tables);
    }
    debug_assert_eq!(batch.undecided(), 0, "what no stage routed or dropped would be lost unnamed");
}

/// The stages for what does not stay among the ports of one subnet of this host.
#[inline(never)]
fn run_rare(batch: &mut Batch<'_, '_>, ingress: &mut Ingress<'_>, tables: &Tables) {
    let (profile, network) = (ingress.profile, tables.network.get());
    let mut answers =
        Answers { back: Output::Port(ingress.port), subnet: Some(profile.subnet), budget: ingress.errors };
    broadcast::run(batch, network.subnet(profile.subnet).is_some_and(|subnet| subnet.multicast));
    route::run(batch, network, &tables.endpoints, profile.subnet, &mut answers);
    encapsulate::run(batch, network, &tables.neighbours, profile.identity, &mut answers);
}

/// The same for what came in by the uplink.
#[inline(never)]
pub(crate) fn run_underlay(batch: &mut Batch<'_, '_>, port: PortIndex, errors: &mut Shares, tables: &Tables) {
    let network = tables.network.get();
    let Tables { vteps, vnis, neighbours, .. } = tables;
    let outer = decapsulate::Tables { network, vteps, vnis, neighbours };
    decapsulate::run(batch, &outer, port);
    arrive::run(batch, &arrive::Tables { network, endpoints: &tables.endpoints, macs: &tables.macs }, errors);
    // There is nobody to tell: no bucket is asked.
    let mut answers = Answers { back: Output::Port(port), subnet: None, budget: errors.of(0) };
    encapsulate::run(batch, network, &tables.neighbours, 0, &mut answers);
    debug_assert_eq!(batch.undecided(), 0, "what no stage routed or dropped would be lost unnamed");
}
