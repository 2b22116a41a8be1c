//! What the stages of all workers read, and the writers' halves that control threads hold.

use crate::guard::Guard;
use std::sync::Arc;
use sync::{Published, Reader};
use tables::balancers::Balancers;
use tables::members::{MemberReader, MemberWriter};
use tables::rules::{Comparisons, RuleCounters};
use tables::{
    EndpointReader, EndpointWriter, Filters, Generations, MacReader, MacWriter, Neighbours, Network,
    VniReader, VniWriter, VtepReader, VtepWriter,
};

/// Next hops of the underlay that are told apart.
const NEIGHBOURS: u16 = 16_384;

/// The readers' halves, for one worker.
#[derive(Clone)]
pub struct Tables {
    pub(crate) macs: MacReader,
    pub(crate) endpoints: EndpointReader,
    pub(crate) vteps: VtepReader,
    pub(crate) vnis: VniReader,
    pub(crate) network: Reader<Network>,
    pub(crate) neighbours: Neighbours,
    pub(crate) filters: Reader<Filters>,
    pub(crate) balancers: Reader<Balancers>,
    pub(crate) rule_counters: Arc<RuleCounters>,
    pub(crate) generations: Generations,
    /// That of [`Tables::generations`] before the others were taken up last.
    pub(crate) epoch: u32,
}

impl Tables {
    /// Takes up what changed. Once per step, between packets.
    #[inline(always)]
    pub(crate) fn refresh(&mut self, guard: &mut Guard, now: u64) {
        let epoch = self.generations.epoch();
        self.macs.refresh();
        self.endpoints.refresh();
        self.vteps.refresh();
        self.vnis.refresh();
        self.network.refresh();
        self.filters.refresh();
        self.balancers.refresh();
        let members = guard.refresh(now);
        if epoch != self.epoch && members && self.is_current() {
            self.epoch = epoch;
        }
    }

    /// Whether nothing that was published before the refresh is yet to be taken up: a writer may have been at it just then.
    #[cold]
    fn is_current(&self) -> bool {
        self.macs.is_current()
            && self.endpoints.is_current()
            && self.network.is_current()
            && self.filters.is_current()
            && self.balancers.is_current()
    }

    /// Says that the worker looks at nothing until the next refresh.
    pub(crate) fn off_line(&mut self) {
        self.macs.off_line();
        self.endpoints.off_line();
        self.vteps.off_line();
        self.vnis.off_line();
        self.network.off_line();
        self.filters.off_line();
        self.balancers.off_line();
    }
}

/// The writers' halves.
pub(crate) struct Writers {
    pub(crate) macs: MacWriter,
    pub(crate) endpoints: EndpointWriter,
    pub(crate) vteps: VtepWriter,
    pub(crate) vnis: VniWriter,
    pub(crate) network: Published<Network>,
    pub(crate) neighbours: Neighbours,
    pub(crate) filters: Published<Filters>,
    pub(crate) balancers: Published<Balancers>,
    pub(crate) members: MemberWriter,
    pub(crate) rule_counters: Arc<RuleCounters>,
    pub(crate) comparisons: Arc<Comparisons>,
    pub(crate) generations: Generations,
}

impl Writers {
    /// Empty tables whose hashes are keyed with `secret`.
    pub(crate) fn new(secret: [u64; 2]) -> Self {
        Self {
            macs: MacWriter::new(secret),
            endpoints: EndpointWriter::new(secret),
            vteps: VtepWriter::new(secret),
            vnis: VniWriter::new(secret),
            network: Published::new(Network::default()),
            neighbours: Neighbours::new(NEIGHBOURS),
            filters: Published::new(Filters::default()),
            balancers: Published::new(Balancers::default()),
            members: MemberWriter::new(secret),
            rule_counters: Arc::default(),
            comparisons: Arc::default(),
            generations: Generations::default(),
        }
    }

    pub(crate) fn readers(&self) -> Tables {
        Tables {
            macs: self.macs.reader(),
            endpoints: self.endpoints.reader(),
            vteps: self.vteps.reader(),
            vnis: self.vnis.reader(),
            network: self.network.reader(),
            neighbours: self.neighbours.clone(),
            filters: self.filters.reader(),
            balancers: self.balancers.reader(),
            rule_counters: self.rule_counters.clone(),
            generations: self.generations.clone(),
            epoch: 0,
        }
    }

    /// For the control thread, which looks seldom.
    pub(crate) fn members_of_control(&self) -> MemberReader {
        let mut members = self.members.reader();
        members.off_line();
        members
    }

    /// The snapshot as it is, to be changed and published.
    pub(crate) fn snapshot(&self) -> Arc<Network> {
        self.network.current()
    }

    pub(crate) fn reclaim(&mut self) {
        self.macs.reclaim();
        self.endpoints.reclaim();
        self.vteps.reclaim();
        self.vnis.reclaim();
        self.network.reclaim();
        self.filters.reclaim();
        self.balancers.reclaim();
        self.members.reclaim();
    }
}
