//! The control side of rules: which policy a port is under, and who is in which group.

use crate::control::Control;
use crossbeam::queue::ArrayQueue;
use engine::PortIndex;
use ipnet::IpNet;
use stages::police::{self, Decision};
use stages::shadow::Difference;
use std::net::IpAddr;
use std::sync::Arc;
use tables::balancers::{BalancerPlan, Balancers};
use tables::members::MemberError;
use tables::rules::{Candidate, Comparisons, Policy, RuleCounters};
use tables::sessions::Sessions;
use tables::{Filter, Filters};

impl Control {
    /// Puts compiled rules at a number, or takes them away; ports that are still under them are closed then. Workers judge by them from their next burst on,
    /// live sessions with their next packet. They are compared with nothing.
    pub fn set_policy(&mut self, number: u16, policy: Option<Arc<Policy>>) {
        self.set_rules(number, policy, None);
    }

    /// The same, with rules that might replace them: what these would change is counted ([`Control::comparisons`]) and said ([`Control::differences`]), of
    /// flows that begin and, once, of those that live.
    pub fn set_rules(&mut self, number: u16, policy: Option<Arc<Policy>>, candidate: Option<Arc<Candidate>>) {
        let mut filters = self.draft_filters();
        filters.set_policy(number, policy);
        filters.set_candidate(number, candidate);
        self.tables.filters.publish(filters);
        let ports = self.ports_under.get(&number).into_iter().flatten();
        ports.for_each(|port| self.tables.generations.port_changed(*port));
    }

    /// The compiled rules of that number.
    pub fn policy(&self, number: u16) -> Option<Arc<Policy>> {
        self.tables.filters.current().shared_policy(number)
    }

    /// From now on the addresses in `prefix` of `vpc` are in these groups, and in no others because of it.
    ///
    /// # Errors
    ///
    /// More groups or prefix lengths than the table can tell apart; nothing is changed then.
    pub fn set_member(&mut self, vpc: u16, prefix: IpNet, groups: &[u16]) -> Result<(), MemberError> {
        let result = self.tables.members.set(vpc, prefix, groups);
        self.member_changed(vpc, prefix);
        result
    }

    /// From now on `prefix` of `vpc` puts nobody into a group.
    pub fn remove_member(&mut self, vpc: u16, prefix: IpNet) {
        self.tables.members.remove(vpc, prefix);
        self.member_changed(vpc, prefix);
    }

    fn member_changed(&self, vpc: u16, prefix: IpNet) {
        if prefix.prefix_len() == prefix.max_prefix_len() {
            self.tables.generations.address_changed(vpc, prefix.addr());
        } else {
            self.tables.generations.network_changed();
        }
    }

    /// From now on `address` of `vpc` stands for the targets of a load balancer, or for none. Connections stay with targets that live.
    pub fn set_balancer(&mut self, vpc: u16, address: IpAddr, plan: Option<BalancerPlan>) {
        let mut balancers = (*self.tables.balancers.current()).clone();
        balancers.set(vpc, address, plan);
        self.tables.balancers.publish(balancers);
        self.tables.generations.address_changed(vpc, address);
    }

    /// All load balancers, as they are now.
    pub fn balancers(&self) -> Arc<Balancers> {
        self.tables.balancers.current()
    }

    /// How often each rule decided. Numbers are prepared before a policy with them is set.
    pub fn rule_counters(&self) -> &RuleCounters {
        &self.tables.rule_counters
    }

    /// How often candidates for rules agreed with those in force, and how often not. Numbers are started before a candidate with them is set.
    pub fn comparisons(&self) -> &Comparisons {
        &self.tables.comparisons
    }

    /// Flows that candidates would treat otherwise, oldest first.
    pub fn differences(&self) -> &Arc<ArrayQueue<Difference>> {
        &self.differences
    }

    /// The sessions of all workers.
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// What rules that are to be logged said, oldest first.
    pub fn decisions(&self) -> &Arc<ArrayQueue<Decision>> {
        &self.decisions
    }

    /// Whether a port may be sent a copy of this frame, which is for all or a group.
    pub fn may_receive_copy(&mut self, port: PortIndex, frame: &[u8]) -> bool {
        self.members.refresh();
        let filters = self.tables.filters.current();
        police::may_receive_copy(&filters, &mut self.members, port, frame)
    }

    pub(crate) fn set_filter(&mut self, index: PortIndex, filter: Filter) {
        let mut filters = self.draft_filters();
        let before = filters.port(index.0);
        if before != filter {
            filters.set_port(index.0, filter);
            self.tables.filters.publish(filters);
            self.note_filter(index.0, before, filter);
        }
        self.tables.generations.port_changed(index.0);
    }

    /// Keeps in mind which ports are under which policy.
    fn note_filter(&mut self, port: u16, before: Filter, after: Filter) {
        if let Filter::Rules { policy, .. } = before
            && let Some(ports) = self.ports_under.get_mut(&policy)
        {
            ports.remove(&port);
            if ports.is_empty() {
                self.ports_under.remove(&policy);
            }
        }
        if let Filter::Rules { policy, .. } = after {
            self.ports_under.entry(policy).or_default().insert(port);
        }
    }

    fn draft_filters(&self) -> Filters {
        (*self.tables.filters.current()).clone()
    }
}
