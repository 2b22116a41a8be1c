//! THE list of stages, in order.

use engine::{Announcement, Batch, PortCounters, PortIndex};
use stages::{forward, neighbours, parse, port_security};
use tables::{AddressReader, MacReader, PortProfile, TokenBucket};

/// What stages read that control threads publish.
pub(crate) struct Tables {
    pub(crate) macs: MacReader,
    pub(crate) addresses: AddressReader,
}

/// What stages know of the port a batch came from.
pub(crate) struct Ingress<'a> {
    pub(crate) port: PortIndex,
    pub(crate) profile: &'a PortProfile,
    pub(crate) counters: &'a PortCounters,
    pub(crate) announcements: &'a mut TokenBucket,
}

/// Runs all stages but the last (delivery) over a batch.
#[inline(always)]
pub(crate) fn run(
    batch: &mut Batch<'_, '_>,
    ingress: &mut Ingress<'_>,
    tables: &Tables,
    announce: &mut impl FnMut(Announcement),
) {
    let (port, profile) = (ingress.port, ingress.profile);
    parse::run(batch);
    port_security::run(batch, profile, ingress.counters);
    neighbours::run(batch, profile, port, &tables.addresses, ingress.announcements, announce);
    forward::run(batch, &tables.macs, profile.subnet, port);
    debug_assert_eq!(batch.undecided(), 0, "what no stage routed or dropped would be lost unnamed");
}
