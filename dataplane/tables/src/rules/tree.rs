//! The rules of one direction and family by what they say of the remote address: the writer's half.

use std::collections::BTreeMap;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::key::Span;
use super::layers::{Extent, layers};
use super::rank::Rank;
use super::rule::{PolicyError, Remote};
use super::steps::{EMPTY, Step, Steps};
use super::table::{Emitter, Table};
use crate::prefixes::{Numbered, Prefixes};

/// Rules with the same remote.
#[derive(Clone, Debug, Default)]
struct Node {
    /// With how often each is there.
    rules: BTreeMap<(Rank, Span), u32>,
    /// What they say, those of the prefixes around them in the same table among them.
    steps: Steps,
    is_changed: bool,
}

impl Node {
    fn insert(&mut self, rank: Rank, spans: &[Span]) {
        spans.iter().for_each(|span| *self.rules.entry((rank, *span)).or_default() += 1);
        self.is_changed = true;
    }

    /// False if one of them is not there; then nothing is changed.
    fn remove(&mut self, rank: Rank, spans: &[Span]) -> bool {
        for (removed, span) in spans.iter().enumerate() {
            let Some(count) = self.rules.get_mut(&(rank, *span)) else {
                self.insert(rank, spans.get(..removed).unwrap_or_default());
                return false;
            };
            *count -= 1;
            if *count == 0 {
                self.rules.remove(&(rank, *span));
            }
        }
        self.is_changed = true;
        true
    }

    /// What the rules say now, and what is around them.
    fn update(&mut self, around: &[Step], scratch: &mut Vec<(Span, Rank)>) {
        scratch.clear();
        scratch.extend(self.rules.keys().map(|(rank, span)| (*span, *rank)));
        let own = Steps::of(scratch);
        self.steps = if around == EMPTY { own } else { Steps::least(own.as_slice(), around) };
        self.is_changed = false;
    }
}

/// A prefix by its first address, its bits at the top, and its length.
type Prefix = (u128, u8);

/// The last address of a prefix.
fn last((first, length): Prefix) -> u128 {
    first | u128::MAX.checked_shr(length.into()).unwrap_or(0)
}

/// The prefixes of a table, of one family or the other, and where their steps are.
type Layer = (Vec<Numbered<Ipv4Addr>>, Vec<Numbered<Ipv6Addr>>);

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    any: Node,
    groups: BTreeMap<u16, Node>,
    /// Where in `nodes` those of each prefix are.
    prefixes: BTreeMap<Prefix, usize>,
    nodes: Vec<Node>,
    /// Places in `nodes` that are free.
    free: Vec<usize>,
    /// The least lengths of the tables.
    layers: Vec<u8>,
}

impl Tree {
    fn prefix_of(net: IpNet) -> Prefix {
        match net.trunc() {
            IpNet::V4(net) => (u128::from(net.network().to_bits()) << 96, net.prefix_len()),
            IpNet::V6(net) => (net.network().to_bits(), net.prefix_len()),
        }
    }

    /// One more rule. A prefix is of the tree's family.
    pub(super) fn insert(&mut self, remote: Remote, rank: Rank, spans: &[Span]) {
        let node = match remote {
            Remote::Any => &mut self.any,
            Remote::Group(group) => self.groups.entry(group).or_default(),
            Remote::Prefix(net) if net.prefix_len() == 0 => &mut self.any,
            Remote::Prefix(net) => {
                let (nodes, free) = (&mut self.nodes, &mut self.free);
                let at = *self.prefixes.entry(Self::prefix_of(net)).or_insert_with(|| {
                    free.pop().unwrap_or_else(|| {
                        nodes.push(Node::default());
                        nodes.len() - 1
                    })
                });
                let Some(node) = nodes.get_mut(at) else { return };
                node
            }
        };
        node.insert(rank, spans);
    }

    /// One rule fewer; false if it was not there.
    pub(super) fn remove(&mut self, remote: Remote, rank: Rank, spans: &[Span]) -> bool {
        let node = match remote {
            Remote::Any => Some(&mut self.any),
            Remote::Group(group) => self.groups.get_mut(&group),
            Remote::Prefix(net) if net.prefix_len() == 0 => Some(&mut self.any),
            Remote::Prefix(net) => {
                let at = self.prefixes.get(&Self::prefix_of(net)).copied();
                at.and_then(|at| self.nodes.get_mut(at))
            }
        };
        node.is_some_and(|node| node.remove(rank, spans))
    }

    fn extents(&self) -> impl Iterator<Item = Extent> + Clone {
        self.prefixes.iter().filter_map(|(prefix, at)| {
            let ranges = self.nodes.get(*at)?.rules.len() as u64;
            (ranges > 0).then(|| Extent { first: prefix.0, last: last(*prefix), length: prefix.1, ranges })
        })
    }

    /// The layer that prefixes of this length are in.
    fn layer_of(&self, length: u8) -> usize {
        self.layers.partition_point(|least| *least <= length).saturating_sub(1)
    }

    /// Makes all steps what the rules are now; returns how many tables prefixes are in. Looks at every prefix, but merges only what changed and
    /// what is inside that.
    pub(super) fn update(&mut self) -> usize {
        let mut scratch = Vec::new();
        for node in self.groups.values_mut().chain([&mut self.any]).filter(|node| node.is_changed) {
            node.update(EMPTY, &mut scratch);
        }
        self.groups.retain(|_, node| !node.rules.is_empty());
        let layers = layers(self.extents());
        let all = mem::replace(&mut self.layers, layers) != self.layers;
        self.update_prefixes(all, &mut scratch);
        let (nodes, free) = (&mut self.nodes, &mut self.free);
        self.prefixes.retain(|_, at| match nodes.get_mut(*at) {
            Some(node) if node.rules.is_empty() => {
                *node = Node::default();
                free.push(*at);
                false
            }
            _ => true,
        });
        self.layers.len()
    }

    fn update_prefixes(&mut self, all: bool, scratch: &mut Vec<(Span, Rank)>) {
        // For each layer the prefixes around the present one: their last address, their place, whether they changed.
        let mut around: Vec<Vec<(u128, usize, bool)>> = vec![Vec::new(); self.layers.len()];
        for (prefix, at) in &self.prefixes {
            let layer = self.layer_of(prefix.1);
            let Some(outer) = around.get_mut(layer) else { continue };
            while outer.last().is_some_and(|(last, ..)| *last < prefix.0) {
                outer.pop();
            }
            let (parent, parent_changed) =
                outer.last().map_or((None, false), |(_, at, changed)| (Some(*at), *changed));
            let Some(mut node) = self.nodes.get_mut(*at).map(mem::take) else { continue };
            let changed = all || node.is_changed || parent_changed;
            if changed {
                let parent = parent.and_then(|at| self.nodes.get(at));
                node.update(parent.map_or(EMPTY, |parent| parent.steps.as_slice()), scratch);
            }
            if let Some(to) = self.nodes.get_mut(*at) {
                *to = node;
            }
            outer.push((last(*prefix), *at, changed));
        }
    }

    /// What readers look at. After [`Tree::update`].
    ///
    /// # Errors
    ///
    /// As [`Emitter::steps`].
    pub(super) fn emit(&self, is_ipv4: bool, to: &mut Emitter) -> Result<Table, PolicyError> {
        let any = to.steps(self.any.steps.as_slice())?;
        let groups = self.groups.iter().map(|(group, node)| Ok((*group, to.steps(node.steps.as_slice())?)));
        let groups = groups.collect::<Result<_, _>>()?;
        let empty = to.steps(EMPTY)?;
        let mut layers = vec![Layer::default(); self.layers.len()];
        for ((first, length), at) in &self.prefixes {
            let layer = self.layer_of(*length);
            let (Some(node), Some((ipv4, ipv6))) = (self.nodes.get(*at), layers.get_mut(layer)) else {
                continue;
            };
            let offset = to.steps(node.steps.as_slice())?;
            if is_ipv4 {
                ipv4.push((Ipv4Addr::from_bits((first >> 96) as u32), *length, offset));
            } else {
                ipv6.push((Ipv6Addr::from_bits(*first), *length, offset));
            }
        }
        let prefixes = layers.iter().map(|(ipv4, ipv6)| Prefixes::build(ipv4, ipv6, empty)).collect();
        Ok(Table { any, groups, prefixes })
    }
}
