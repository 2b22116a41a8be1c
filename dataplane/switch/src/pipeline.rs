//! THE list of stages, in order.

use crate::poll_set::PollQueue;
use engine::{Announcement, Batch};
use stages::{forward, neighbours, parse, port_security};
use tables::{AddressReader, MacReader};

/// What stages read that control threads publish.
pub(crate) struct Tables {
    pub(crate) macs: MacReader,
    pub(crate) addresses: AddressReader,
}

/// Runs all stages but the last (delivery) over a batch taken from `queue`.
#[inline(always)]
pub(crate) fn run(
    batch: &mut Batch<'_, '_>,
    queue: &mut PollQueue,
    tables: &Tables,
    announce: &mut impl FnMut(Announcement),
) {
    let profile = queue.profile.get();
    let ingress = queue.id.port;
    parse::run(batch);
    port_security::run(batch, profile, &queue.counters);
    neighbours::run(batch, profile, ingress, &tables.addresses, &mut queue.announcements, announce);
    forward::run(batch, &tables.macs, profile.subnet, ingress);
}
