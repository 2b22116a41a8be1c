//! THE lists of stages, in order: for what ports of this host send, and for what comes from the underlay.

use crate::guard::{Guard, milliseconds};
use crate::tables::Tables;
use engine::{Announcement, Batch, Output, PortCounters, PortIndex};
use stages::answers::Answers;
use stages::police::{Pending, Police, Site};
use stages::{
    arrive, balance, broadcast, decapsulate, encapsulate, external, forward, neighbours, parse, policy,
    port_security, route, sessions,
};
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
    guard: &mut Guard,
    announce: &mut impl FnMut(Announcement),
) {
    let (port, profile) = (ingress.port, ingress.profile);
    let (network, Tables { macs, endpoints, .. }) = (tables.network.get(), tables);
    parse::run(batch);
    port_security::run(batch, profile, ingress.counters);
    let known = neighbours::Tables { network, endpoints, macs, balancers: tables.balancers.get() };
    neighbours::run(batch, profile, port, known, ingress.announcements, announce);
    if profile.policy.is_some() || balance::concerns(tables.balancers.get(), network, profile.vpc) {
        return run_filtered(batch, ingress, tables, guard);
    }
    forward::run(batch, macs, profile, port);
    let rules = tables.filters.get().any();
    if batch.to_group | batch.to_gateway != 0 || batch.is_tunnelled() || rules {
        run_rare(batch, ingress, tables, guard);
    }
    debug_assert_eq!(batch.undecided(), 0, "what no stage routed or dropped would be lost unnamed");
}

/// The stages for what does not stay among the ports without rules of one subnet of this host.
#[inline(never)]
fn run_rare(batch: &mut Batch<'_, '_>, ingress: &mut Ingress<'_>, tables: &Tables, guard: &mut Guard) {
    let (profile, network) = (ingress.profile, tables.network.get());
    let (back, multicast) = (Output::Port(ingress.port), replicates(profile, tables));
    let mut answers = Answers { back, subnet: Some(profile.subnet), budget: ingress.errors };
    broadcast::run(batch, multicast, |_, _| Ok(()));
    route::run(batch, network, &tables.endpoints, profile.subnet, &mut answers);
    external::refuse_untranslated(batch, network, tables.filters.get(), true);
    if tables.filters.get().any() {
        let site = Site::Port { port: ingress.port, vpc: profile.vpc };
        let mut police = police(tables, guard, batch.now);
        policy::run_arrived(batch, &mut police, site, back);
    }
    encapsulate::run(batch, network, &tables.neighbours, profile.identity, &mut answers);
}

/// The stages after `neighbours` for a port under rules, or in a VPC with load balancers. What has a valid session goes by it.
#[inline(never)]
fn run_filtered(batch: &mut Batch<'_, '_>, ingress: &mut Ingress<'_>, tables: &Tables, guard: &mut Guard) {
    let (port, profile, network) = (ingress.port, ingress.profile, tables.network.get());
    let (mut police, mut pending) = (police(tables, guard, batch.now), Pending::default());
    sessions::run(batch, &mut police, port, profile.vpc, &mut pending);
    let (back, multicast) = (Output::Port(port), replicates(profile, tables));
    let mut answers = Answers { back, subnet: Some(profile.subnet), budget: ingress.errors };
    if batch.undecided() != 0 {
        forward::run(batch, &tables.macs, profile, port);
        balance::run(batch, &mut police, profile.vpc, &mut pending, &mut answers);
        broadcast::run(batch, multicast, |batch, index| police.may_replicate(batch, index, port));
        route::run(batch, network, &tables.endpoints, profile.subnet, &mut answers);
        policy::run(batch, &mut police, Site::Port { port, vpc: profile.vpc }, &mut pending, back);
    }
    encapsulate::run(batch, network, &tables.neighbours, profile.identity, &mut answers);
    debug_assert_eq!(batch.undecided(), 0, "what no stage routed or dropped would be lost unnamed");
}

/// Whether multicast of a port is for all of its subnet.
fn replicates(profile: &PortProfile, tables: &Tables) -> bool {
    tables.network.get().subnet(profile.subnet).is_some_and(|subnet| subnet.multicast)
}

fn police<'a>(tables: &'a Tables, guard: &'a mut Guard, now: u64) -> Police<'a> {
    Police {
        sessions: &mut guard.sessions,
        generations: &tables.generations,
        epoch: tables.epoch,
        now: milliseconds(now),
        filters: tables.filters.get(),
        members: &mut guard.members,
        counters: &tables.rule_counters,
        log: &mut guard.log,
        shadow: &mut guard.shadow,
        network: tables.network.get(),
        balancers: tables.balancers.get(),
        table: &guard.table,
        judged: 0,
    }
}

/// The same for what came in by the uplink.
#[inline(never)]
pub(crate) fn run_underlay(
    batch: &mut Batch<'_, '_>,
    port: PortIndex,
    errors: &mut Shares,
    tables: &Tables,
    guard: &mut Guard,
) {
    let network = tables.network.get();
    let Tables { vteps, vnis, neighbours, .. } = tables;
    let outer = decapsulate::Tables { network, vteps, vnis, neighbours };
    decapsulate::run(batch, &outer, port);
    let (endpoints, now) = (&tables.endpoints, milliseconds(batch.now));
    external::run(batch, &external::Tables { network, endpoints, sessions: &guard.sessions, now }, errors);
    arrive::run(batch, &arrive::Tables { network, endpoints, macs: &tables.macs }, errors);
    external::refuse_untranslated(batch, network, tables.filters.get(), false);
    if tables.filters.get().any() || !tables.balancers.get().is_empty() {
        let mut police = police(tables, guard, batch.now);
        policy::run_arrived(batch, &mut police, Site::Underlay, Output::Port(port));
    }
    // There is nobody to tell: no bucket is asked.
    let mut answers = Answers { back: Output::Port(port), subnet: None, budget: errors.of(0) };
    encapsulate::run(batch, network, &tables.neighbours, 0, &mut answers);
    debug_assert_eq!(batch.undecided(), 0, "what no stage routed or dropped would be lost unnamed");
}
