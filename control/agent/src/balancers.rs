//! Load balancers of the VPCs that this host knows, and what changes about them.

use crate::action::Action;
use crate::agent::Agent;
use crate::plan::CheckPlan;
use model::load_balancer::{SessionAffinity, TargetAddress, WhenAllDown};
use model::{LoadBalancerSpec, ObjectName};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use tables::balancers::{self, Affinity, BalancerPlan};

/// What was said of load balancers, by the number of the VPC and the shared address, and which ports are targets.
#[derive(Debug, Default)]
pub(crate) struct Balancers {
    plans: BTreeMap<(u16, IpAddr), (BalancerPlan, Option<CheckPlan>)>,
    pub(crate) targets: BTreeSet<ObjectName>,
}

impl Agent {
    /// What changes about load balancers: what goes is said first, what is there after all that it needs.
    pub(crate) fn set_balancers(&mut self, before: &mut Vec<Action>, after: &mut Vec<Action>) {
        let mut plans = BTreeMap::new();
        let mut targets = BTreeSet::new();
        for balancer in self.set.load_balancers() {
            let Some(vpc) = self.vpcs.number(&balancer.spec.vpc) else { continue };
            let check = balancer.spec.health_check.as_ref().map(CheckPlan::from);
            plans.insert((vpc, balancer.spec.vip), (self.balancer_plan(balancer.spec), check));
            targets.extend(balancer.spec.targets.iter().filter_map(|target| match &target.at {
                TargetAddress::Port(port) => Some(port.clone()),
                TargetAddress::Ip(_) => None,
            }));
        }
        let gone = self.balancers.plans.keys().filter(|key| !plans.contains_key(key));
        before.extend(gone.map(|(vpc, address)| Action::RemoveBalancer { vpc: *vpc, address: *address }));
        for (key, plan) in &plans {
            if self.balancers.plans.get(key) != Some(plan) {
                let ((vpc, address), (plan, check)) = (*key, plan.clone());
                after.push(Action::SetBalancer {
                    vpc,
                    address,
                    plan: Box::new(plan),
                    check: check.map(Box::new),
                });
            }
        }
        self.balancers = Balancers { plans, targets };
    }

    fn balancer_plan(&self, spec: &LoadBalancerSpec) -> BalancerPlan {
        let listeners = spec.listeners.iter().map(|listener| balancers::Listener {
            protocol: listener.protocol.0,
            port: listener.port,
            target_port: listener.target_port,
        });
        let targets = spec.targets.iter().filter_map(|target| {
            let (address, up) = match &target.at {
                TargetAddress::Ip(address) => (*address, true),
                TargetAddress::Port(port) => {
                    let port = self.set.port(port)?.spec;
                    let like = |address: &&IpAddr| address.is_ipv4() == spec.vip.is_ipv4();
                    (*port.ips.iter().find(like)?, !port.shutdown && port.host.is_some())
                }
            };
            Some(balancers::Target { address, weight: target.weight, up })
        });
        BalancerPlan {
            listeners: listeners.collect(),
            targets: targets.collect(),
            affinity: match spec.session_affinity {
                SessionAffinity::None => Affinity::None,
                SessionAffinity::ClientIp => Affinity::ClientIp,
            },
            when_all_down: match spec.when_all_down {
                WhenAllDown::Refuse => balancers::WhenAllDown::Refuse,
                WhenAllDown::Spread => balancers::WhenAllDown::Spread,
            },
        }
    }
}
