//! A policy as its writer sees it: rules that come and go one by one.

use super::key::spans_of;
use super::policy::{Both, Policy, Way};
use super::rank::Rank;
use super::rule::{Direction, Family, PolicyError, Remote, Rule};
use super::table::Emitter;
use super::tree::Tree;

/// The rules of a policy, for one control thread. A change costs what it touches; [`PolicyWriter::policy`], which makes what workers see, costs what it copies: for
/// many changes call it once.
#[derive(Clone, Debug, Default)]
pub struct PolicyWriter {
    open_egress: bool,
    ingress: Rules,
    egress: Rules,
    /// Spans of all rules, as often as they are in a tree.
    ranges: usize,
}

/// Those of one direction.
#[derive(Clone, Debug, Default)]
struct Rules {
    count: usize,
    /// Those that match nothing, and are in no tree.
    blank: Vec<Rule>,
    ipv4: Tree,
    ipv6: Tree,
}

impl Rules {
    /// The trees that a rule is in.
    fn trees(&mut self, rule: &Rule) -> impl Iterator<Item = &mut Tree> {
        let of_remote = match rule.remote {
            Remote::Prefix(prefix) => Some(Family::of(prefix.addr())),
            Remote::Any | Remote::Group(_) => None,
        };
        let family = rule.family;
        [(Family::Ipv4, &mut self.ipv4), (Family::Ipv6, &mut self.ipv6)]
            .into_iter()
            .filter(move |(of, _)| [family, of_remote].into_iter().flatten().all(|wanted| wanted == *of))
            .map(|(_, tree)| tree)
    }
}

impl PolicyWriter {
    /// No rules. `open_egress`: as long as there is no egress rule, all egress is allowed.
    #[must_use]
    pub fn new(open_egress: bool) -> Self {
        Self { open_egress, ..Self::default() }
    }

    /// One more rule. The same rule may be there several times.
    ///
    /// # Errors
    ///
    /// [`Policy::MAX_RULES`] or [`Policy::MAX_RANGES`]; nothing is changed then.
    pub fn insert(&mut self, rule: &Rule) -> Result<(), PolicyError> {
        let rules = self.len() + 1;
        if rules > Policy::MAX_RULES {
            return Err(PolicyError::TooManyRules { rules, bound: Policy::MAX_RULES });
        }
        let spans = spans_of(rule);
        let of_rule = self.rules(rule.direction).trees(rule).count() * spans.len();
        let ranges = self.ranges + of_rule;
        if ranges > Policy::MAX_RANGES {
            return Err(PolicyError::TooManyRanges { ranges, bound: Policy::MAX_RANGES });
        }
        self.ranges = ranges;
        let rules = self.rules(rule.direction);
        rules.count += 1;
        if of_rule == 0 {
            rules.blank.push(rule.clone());
        }
        rules.trees(rule).for_each(|tree| tree.insert(rule.remote, Rank::of(rule), &spans));
        Ok(())
    }

    /// One rule fewer: exactly this one. False if it is not there.
    pub fn remove(&mut self, rule: &Rule) -> bool {
        let spans = spans_of(rule);
        let rules = self.rules(rule.direction);
        let of_rule = rules.trees(rule).count() * spans.len();
        // A rule is in all of its trees or in none.
        let is_there = if of_rule == 0 {
            let at = rules.blank.iter().position(|blank| blank == rule);
            at.map(|at| rules.blank.swap_remove(at)).is_some()
        } else {
            rules.trees(rule).all(|tree| tree.remove(rule.remote, Rank::of(rule), &spans))
        };
        if is_there {
            rules.count -= 1;
            self.ranges -= of_rule;
        }
        is_there
    }

    /// Rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ingress.count + self.egress.count
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rules as they are now, for workers.
    ///
    /// # Errors
    ///
    /// [`Policy::MAX_TABLES`] or [`Policy::MAX_BYTES`]. The rules are still as they were: whoever inserted too many removes them again.
    pub fn policy(&mut self) -> Result<Policy, PolicyError> {
        let trees =
            [&mut self.ingress, &mut self.egress].into_iter().flat_map(|way| [&mut way.ipv4, &mut way.ipv6]);
        let tables = trees.map(Tree::update).max().unwrap_or(0);
        if tables > Policy::MAX_TABLES {
            return Err(PolicyError::TooManyTables { tables, bound: Policy::MAX_TABLES });
        }
        let mut emitter = Emitter::new();
        let ingress = self.ingress.emit(false, &mut emitter)?;
        let egress = self.egress.emit(self.open_egress, &mut emitter)?;
        Ok(Policy::new(Both { arena: emitter.finish(), ingress, egress }))
    }

    fn rules(&mut self, direction: Direction) -> &mut Rules {
        match direction {
            Direction::Ingress => &mut self.ingress,
            Direction::Egress => &mut self.egress,
        }
    }
}

impl Rules {
    fn emit(&self, open: bool, to: &mut Emitter) -> Result<Way, PolicyError> {
        let ipv4 = self.ipv4.emit(true, to)?;
        let ipv6 = self.ipv6.emit(false, to)?;
        Ok(Way { is_open: open && self.count == 0, ipv4, ipv6 })
    }
}
