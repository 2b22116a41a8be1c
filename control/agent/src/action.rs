//! What the agent asks of the switch and the daemon.

use crate::plan::{CheckPlan, ExternalPlan, PortPlan, SubnetPlan, VpcPlan};
use engine::PortIndex;
use ipnet::IpNet;
use packet::MacAddr;
use std::net::IpAddr;
use tables::balancers::BalancerPlan;
use tables::external::{Inside, Mapping, Source};
use tables::rules::Rule;
use tables::{Endpoint, Location, NextHop};

/// Whose tunnel end point it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VtepKind {
    /// A Host's: a towpathd, which says who sends (architecture.md 7).
    Host,
    /// An Endpoint's: somebody else's.
    Foreign,
}

/// Whose an external address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExternalOwner {
    /// One port's, whose address inside this is.
    Floating {
        /// The address inside.
        inside: Inside,
        /// The number of the external network.
        network: u16,
    },
    /// A NAT gateway's: blocks of its ports are those of ports ([`ExternalAction::BindBlock`]).
    Shared {
        /// The number of the gateway's VPC.
        vpc: u16,
        /// Ports of a block.
        count: u16,
        /// How many blocks there are.
        blocks: u16,
    },
}

/// One thing to do about external networks, and what of VPCs is known there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExternalAction {
    /// An external network is in use here, or has another router.
    SetExternalNetwork {
        /// Its number.
        network: u16,
        /// What it is.
        plan: Box<ExternalPlan>,
    },
    /// An external network is not in use here any more.
    RemoveExternalNetwork {
        /// Its number.
        network: u16,
    },
    /// Routes of a VPC may lead out of it by this exit. Whom it is for is bound by [`ExternalAction::BindSource`].
    SetExit {
        /// Its number.
        exit: u16,
        /// The VPC's number.
        vpc: u16,
        /// The external network's number.
        network: u16,
        /// What an external port of its blocks stands for.
        mapping: Mapping,
    },
    /// No route leads to an exit any more, and it is for nobody.
    RemoveExit {
        /// Its number.
        exit: u16,
    },
    /// A VPC has addresses outside, or ways there; nobody outside has an address of these networks, its own and its peers'.
    SetInside {
        /// The VPC's number.
        vpc: u16,
        /// The networks.
        networks: Vec<IpNet>,
    },
    /// A VPC has neither any more.
    RemoveInside {
        /// The VPC's number.
        vpc: u16,
    },
    /// An external address is somebody's; of a shared one no block is anybody's yet. It was nobody's before.
    BindExternal {
        /// The address.
        address: IpAddr,
        /// Whose it is.
        owner: ExternalOwner,
    },
    /// An external address is nobody's any more, nor is any of its blocks.
    UnbindExternal {
        /// The address.
        address: IpAddr,
    },
    /// A block of a shared external address is a port's, whatever was said before.
    BindBlock {
        /// The external address.
        address: IpAddr,
        /// Which of its blocks.
        block: u16,
        /// The port's first address inside.
        inside: IpAddr,
    },
    /// A block of a shared external address is nobody's any more.
    UnbindBlock {
        /// The external address.
        address: IpAddr,
        /// Which of its blocks.
        block: u16,
    },
    /// What leaves by an exit from an address inside has this source outside, whatever was said before.
    BindSource {
        /// The exit's number.
        exit: u16,
        /// The address inside.
        inside: IpAddr,
        /// What it becomes.
        source: Source,
    },
    /// What leaves by an exit from an address inside has no source outside any more.
    UnbindSource {
        /// The exit's number.
        exit: u16,
        /// The address inside.
        inside: IpAddr,
    },
    /// This host answers the external network for an address from now on, and says so.
    AnnounceExternal {
        /// The address.
        address: IpAddr,
    },
    /// This host does not answer the external network for an address any more.
    WithdrawExternal {
        /// The address.
        address: IpAddr,
    },
}

/// What a policy is compared with: its rules, with the candidates of those groups that have some instead of what these say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowPlan {
    /// The rules, in any order.
    pub rules: Vec<Rule>,
    /// Where all that is judged by them is counted, for each group with a candidate.
    pub totals: Vec<u32>,
}

/// One thing to do. Actions are carried out in the order given: nothing points at a number that is not set, and nothing
/// is removed while something points at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the port: open its socket, let workers know it. Nothing reaches it before its addresses are bound.
    OpenPort {
        /// Its index.
        index: PortIndex,
        /// What it is.
        plan: Box<PortPlan>,
    },
    /// Change the port without closing its socket.
    ChangePort {
        /// Its index.
        index: PortIndex,
        /// What it is from now on.
        plan: Box<PortPlan>,
    },
    /// Take the port away. Its addresses are unbound already.
    ClosePort {
        /// Its index.
        index: PortIndex,
    },
    /// Tell the fabric that the port is here (gratuitous ARP, unsolicited NA, RARP).
    Announce {
        /// Its index.
        port: PortIndex,
    },
    /// A VPC is known here, or says something else.
    SetVpc {
        /// Its number.
        vpc: u16,
        /// What it is.
        plan: Box<VpcPlan>,
    },
    /// A VPC is not known here any more.
    RemoveVpc {
        /// Its number.
        vpc: u16,
    },
    /// A subnet is known here, or says something else.
    SetSubnet {
        /// Its number.
        subnet: u16,
        /// What it is.
        plan: Box<SubnetPlan>,
    },
    /// A subnet is not known here any more.
    RemoveSubnet {
        /// Its number.
        subnet: u16,
    },
    /// A route table is in use here, or says something else.
    SetRoutes {
        /// Its number.
        routes: u16,
        /// Each destination once. The VPC's subnets are among them.
        plan: Vec<(IpNet, NextHop)>,
    },
    /// A route table is not in use here any more.
    RemoveRoutes {
        /// Its number.
        routes: u16,
    },
    /// A tunnel end point is known here, or has other addresses.
    SetVtep {
        /// Its number.
        vtep: u16,
        /// Where packets to it go.
        address: IpAddr,
        /// Where packets from it come from: `address`, and a host's other ones.
        sources: Vec<IpAddr>,
        /// Whose it is.
        kind: VtepKind,
    },
    /// A tunnel end point is not known here any more.
    RemoveVtep {
        /// Its number.
        vtep: u16,
    },
    /// So many entries that there are none of yet are bound by what follows: worth making room for at once. Only before many.
    Expect {
        /// New MAC addresses, in all spaces.
        macs: usize,
        /// New addresses, in all VPCs.
        ipv4: usize,
        /// The same of IPv6.
        ipv6: usize,
    },
    /// These counters of rules begin at zero: each is another rule's from now on.
    StartCounters {
        /// Their numbers.
        counters: Vec<u32>,
    },
    /// At these numbers it is counted from now on what candidates for rules would change, beginning at zero.
    StartComparisons {
        /// The numbers, of rules and of groups.
        numbers: Vec<u32>,
    },
    /// A policy is in use here, or says something else.
    SetPolicy {
        /// Its number.
        policy: u16,
        /// The groups that it is made of, as `project/name`, joined by commas.
        name: String,
        /// The rules of all of them, in any order. A direction in which there is none is open for egress and closed for ingress.
        rules: Vec<Rule>,
        /// Rules that might replace them.
        shadow: Option<ShadowPlan>,
    },
    /// A policy is not in use here any more.
    RemovePolicy {
        /// Its number.
        policy: u16,
    },
    /// The addresses of a network are members of these groups, and because of it of no others.
    BindMember {
        /// The VPC's number.
        vpc: u16,
        /// The network.
        prefix: IpNet,
        /// Numbers of groups, in order, each once, at least one. Only those that a policy here names have one.
        groups: Vec<u16>,
    },
    /// The addresses of a network are members of no group because of it.
    UnbindMember {
        /// The VPC's number.
        vpc: u16,
        /// The network.
        prefix: IpNet,
    },
    /// An address of a VPC stands for the targets of a load balancer, which are as said now.
    SetBalancer {
        /// The VPC's number.
        vpc: u16,
        /// The address.
        address: IpAddr,
        /// What it is from now on. Targets that nobody needs to ask are down already.
        plan: Box<BalancerPlan>,
        /// How it is found out whether the others live; `None`: they are up.
        check: Option<Box<CheckPlan>>,
    },
    /// An address of a VPC stands for nobody any more.
    RemoveBalancer {
        /// The VPC's number.
        vpc: u16,
        /// The address.
        address: IpAddr,
    },
    /// Something about external networks.
    External(ExternalAction),
    /// Frames to `mac` in `space` go to `location`, whatever was said before.
    BindMac {
        /// A subnet's number: who may be reached inside it. Or [`tables::vpc_space`] of a VPC's: who may be reached from the
        /// underlay, which is its local ports, and ports that moved away just now.
        space: u16,
        /// The address.
        mac: MacAddr,
        /// Where they go.
        location: Location,
    },
    /// Frames to `mac` in `space` go nowhere.
    UnbindMac {
        /// As in [`Action::BindMac`].
        space: u16,
        /// The address.
        mac: MacAddr,
    },
    /// `address` in `vpc` is `endpoint`, whatever was said before.
    BindEndpoint {
        /// The VPC's number.
        vpc: u16,
        /// The address.
        address: IpAddr,
        /// Who has it.
        endpoint: Endpoint,
    },
    /// Nobody has `address` in `vpc`.
    UnbindEndpoint {
        /// The VPC's number.
        vpc: u16,
        /// The address.
        address: IpAddr,
    },
}
