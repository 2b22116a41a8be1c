//! Judges what has no valid session: the rules for what its sender may send, and those for what its receiver may be sent. What passes gets a session, so that the packets that
//! follow, and the answers, need no judgement.
//!
//! A stage of its own because it comes when all is known that rules speak of: after routing, before the packet leaves. There is no slow path: the first packet of a flow is judged by
//! the same worker, in the same burst, as the later ones are passed.
//!
//! Drops: [`DropReason::PolicyDenied`], [`DropReason::SessionInvalid`], [`DropReason::SessionTableFull`], [`DropReason::SessionQuota`],
//! [`DropReason::PortDown`], and those of [`sessions`](crate::sessions).

use crate::nat::{Origin, Plan};
use crate::police::{
    self, Attachment, Decision, End, Pending, Police, Site, Standing, Unjudged, check, facts, ordinary_key,
    pack, port_of, stamp,
};
use crate::shadow::has_candidate;
use crate::translate;
use crate::tuple::{Tuple, Upper};
use arrayvec::ArrayVec;
use buf::BURST_PACKETS;
use engine::{Batch, DropReason, Indices, Metadata, Output, PortIndex};
use packet::MacAddr;
use std::net::IpAddr;
use tables::Filter;
use tables::rules::Direction;
use tables::sessions::{
    AnyKey, Checked, Created, Facts, Found, Key, Key4, New, Refused, SessionRef, Side, Way,
};

/// Judges what [`sessions`](crate::sessions) left. What goes to `back` is the switch's own answer, and passes.
#[inline(never)]
pub fn run(
    batch: &mut Batch<'_, '_>,
    police: &mut Police<'_>,
    site: Site,
    pending: &mut Pending,
    back: Output,
) {
    pending.0.iter().for_each(|unjudged| police.expect(batch, unjudged, site));
    for unjudged in pending.0.drain(..) {
        // Dropped meanwhile, it goes nowhere.
        let Some(output) = batch.output_of(unjudged.index) else { continue };
        if output == back && batch.hairpin >> unjudged.index & 1 == 0 {
            // Answered by the switch.
            if let Some(original) = &unjudged.original {
                translate::mend_answer(batch, unjudged.index, original);
            }
            continue;
        }
        match police.judge(batch, &unjudged, site, output) {
            Ok(passed) => {
                if let Err(reason) = police.finish(batch, &unjudged, (site, output), passed) {
                    batch.drop(unjudged.index, reason);
                }
            }
            Err(reason) => batch.drop(unjudged.index, reason),
        }
    }
    batch.judged += std::mem::take(&mut police.judged);
}

/// Finds the sessions of, and judges, what comes from the underlay or from a port without rules: all that goes to a port under rules.
#[inline(never)]
pub fn run_arrived(batch: &mut Batch<'_, '_>, police: &mut Police<'_>, site: Site, back: Output) {
    let (mut at, mut pending) = (0, Pending::default());
    while let Some(group) = batch.group(at) {
        at += 1;
        if let Output::Port(port) = group.output
            && group.output != back
            && (police.filters.port(port.0) != Filter::Unfiltered || !police.balancers.is_empty())
        {
            look_up(batch, police, site, group.packets, group.output, &mut pending);
        }
    }
    for unjudged in &mut pending.0 {
        let Some(metadata) = batch.metadata.get(unjudged.index) else { continue };
        let vpc = site.attachment(metadata).vpc;
        if let Err(reason) = police.restore(batch, unjudged, vpc) {
            batch.drop(unjudged.index, reason);
        }
    }
    run(batch, police, site, &mut pending, back);
}

fn look_up(
    batch: &mut Batch<'_, '_>,
    police: &mut Police<'_>,
    site: Site,
    packets: u32,
    output: Output,
    pending: &mut Pending,
) {
    let mut keys = ArrayVec::<Key4, BURST_PACKETS>::new();
    let mut ordinary = 0;
    for index in Indices(packets) {
        let Some(packet) = batch.burst.packet(index) else { continue };
        let metadata = &batch.metadata[index];
        let attachment = site.attachment(metadata).number();
        if let Some(key) = ordinary_key(packet.head(), &metadata.headers, attachment) {
            ordinary |= 1 << index;
            let _ = keys.try_push(key);
        }
    }
    let mut found = [Found::NONE; BURST_PACKETS];
    police.sessions.look_up4(&keys, &mut found[..keys.len()]);
    for (index, found) in Indices(ordinary).zip(found) {
        settle(batch, police, (site, output), index, found, pending);
    }
    for index in Indices(packets & !ordinary) {
        match police.find(batch, index, site) {
            Ok(Ok(found)) => settle(batch, police, (site, output), index, found, pending),
            Ok(Err(Standing::Fragment)) => follow(batch, police, (site, output), index, pending),
            // What it was sent to is of no matter.
            Ok(Err(standing)) => pending.leave(index, 0, standing),
            Err(reason) => batch.drop(index, reason),
        }
    }
}

/// Does to a later fragment what was done to its datagram's first one, or leaves it to be judged.
#[cold]
fn follow(
    batch: &mut Batch<'_, '_>,
    police: &mut Police<'_>,
    (site, output): (Site, Output),
    index: usize,
    pending: &mut Pending,
) {
    let done = match police.translated_before(batch, index, (site, Some(output)), None) {
        Ok(Some((found, way))) if way.output == pack(output) => {
            translate::one(batch, index, (police.table, found))
        }
        Ok(Some(_)) => Err(DropReason::FragmentUnknown),
        Ok(None) => return pending.leave(index, 0, Standing::Fragment),
        Err(reason) => Err(reason),
    };
    if let Err(reason) = done {
        batch.drop(index, reason);
    }
}

/// Lets a packet with a valid session to this output pass, or leaves it to be judged.
#[inline]
fn settle(
    batch: &mut Batch<'_, '_>,
    police: &mut Police<'_>,
    (site, output): (Site, Output),
    index: usize,
    found: Found,
    pending: &mut Pending,
) {
    let Some(packet) = batch.burst.packet(index) else { return };
    let metadata = &batch.metadata[index];
    let facts = facts(packet.head(), packet.len() as u32, &metadata.headers);
    let standing = match check(police, batch, index, site, (found, &facts)) {
        Checked::Pass(way) if way.output == pack(output) => {
            let Some(session) = found.session().filter(|_| way.translate) else {
                return police.note_fragment(batch, index, site, output);
            };
            police.note_translated(batch, index, (site, output), (None, session));
            if let Err(reason) = translate::one(batch, index, (police.table, found)) {
                batch.drop(index, reason);
            }
            return;
        }
        Checked::Pass(_) => found.session().map_or(Standing::New, Standing::Stale),
        Checked::Stale(session) => Standing::Stale(session),
        Checked::Gone => Standing::New,
        Checked::Invalid(_) => return batch.drop(index, DropReason::SessionInvalid),
    };
    pending.leave(index, facts.destination_mac, standing);
}

/// A packet with all that it is judged by.
#[derive(Clone, Copy)]
struct Case {
    from: Attachment,
    to: Attachment,
    /// As it came in, and as it goes out.
    before: Tuple,
    after: Tuple,
    key: AnyKey,
    answer: AnyKey,
    facts: Facts,
    /// How packets go where this one goes; none where that is another matter for each.
    way: Option<Way>,
    /// What it becomes yet, if it is the first of its session; or that it cannot be.
    plan: Result<Plan, DropReason>,
    /// Whether it leaves its VPC.
    external: bool,
    /// Nanoseconds.
    now: u64,
}

impl Case {
    /// The same, with what the packet becomes at its other end.
    fn becoming(&self, there: Tuple) -> Option<Self> {
        let answer = there.key(self.from.number())?.reversed(self.to.number());
        let translate = self.way.is_some_and(|way| way.translate) || there != self.before;
        let way = self.way.map(|way| Way { translate, ..way });
        Some(Self { after: there, answer, way, ..*self })
    }

    /// That of a packet; its tuple alone, if it belongs to no session. Made in its place: moved right after it is written, it waits for each store.
    #[inline(always)]
    fn of(
        batch: &Batch<'_, '_>,
        unjudged: &Unjudged,
        (from, to): (Attachment, Attachment),
        output: Output,
    ) -> Result<Result<Self, Tuple>, DropReason> {
        let packet = batch.burst.packet(unjudged.index).ok_or(DropReason::Runt)?;
        let metadata = batch.metadata.get(unjudged.index).ok_or(DropReason::Runt)?;
        let after = Tuple::of(packet.head(), &metadata.headers).ok_or(DropReason::EtherTypeRefused)?;
        let before = unjudged.original.unwrap_or(after);
        let Some(key) = before.key(from.number()) else { return Ok(Err(after)) };
        let there = if unjudged.original.is_some() { after.key(from.number()) } else { Some(key) };
        let Some(there) = there else { return Ok(Err(after)) };
        let answer = there.reversed(to.number());
        let mut facts = facts(packet.head(), packet.len() as u32, &metadata.headers);
        let way = way(output, facts.destination_mac, unjudged.destination, metadata)
            .map(|way| Way { translate: unjudged.original.is_some(), ..way });
        facts.destination_mac = unjudged.destination;
        let (plan, external) = (Ok(Plan::Same), matches!(output, Output::External { .. }));
        Ok(Ok(Self { from, to, before, after, key, answer, facts, way, plan, external, now: batch.now }))
    }

    fn addresses(&self) -> [(IpAddr, IpAddr); 2] {
        [&self.before, &self.after].map(|tuple| (tuple.source, tuple.destination))
    }
}

impl<'a> Police<'a> {
    /// Asks for the memory in which the answers to the first packet of a flow will be found, before any of a burst is waited for.
    #[inline]
    fn expect(&self, batch: &Batch<'_, '_>, unjudged: &Unjudged, site: Site) {
        let Some((metadata, packet)) =
            batch.metadata.get(unjudged.index).zip(batch.burst.packet(unjudged.index))
        else {
            return;
        };
        let from = site.attachment(metadata);
        if let Standing::New = unjudged.standing
            && let Some(output) = batch.output_of(unjudged.index)
            && let Some(key) = ordinary_key(packet.head(), &metadata.headers, from.number())
        {
            self.sessions.ask_for(key.reversed(from.towards(output).number()));
        }
    }

    /// Whether a packet that goes to `output` may, by the rules of both its ends; what passes has a session then, unless it belongs to none.
    fn judge(
        &mut self,
        batch: &Batch<'_, '_>,
        unjudged: &Unjudged,
        site: Site,
        output: Output,
    ) -> Result<Option<SessionRef>, DropReason> {
        let metadata = batch.metadata.get(unjudged.index).ok_or(DropReason::Runt)?;
        let from = site.attachment(metadata);
        let to = from.towards(output);
        let ends = (self.end(from.port)?, self.end(to.port)?);
        if ends.0.is_none() && ends.1.is_none() && unjudged.original.is_none() {
            return Ok(None);
        }
        let session = match unjudged.standing {
            Standing::Passes => return Ok(None),
            Standing::Related(session) => return self.relate(session, to, batch.now).map(|()| None),
            Standing::Refused(reason) => return Err(reason),
            Standing::Fragment => return self.judge_fragment(batch, unjudged, (site, output)),
            Standing::New => None,
            Standing::Stale(session) => Some(session),
        };
        let mut case = match Case::of(batch, unjudged, (from, to), output)? {
            Ok(case) => case,
            Err(tuple) => return self.judge_message(&tuple, (from, output), ends, batch.now),
        };
        // What was changed on its way here stays as it is.
        if unjudged.original.is_none() {
            case.plan = self.plan(from, output, &case.before);
        }
        let session = match session {
            Some(session) => self.renew(&case, session),
            None => self.create(&case, ends),
        };
        session.map(Some)
    }

    /// A later fragment passes where its datagram's first one did, which may have been a moment ago.
    fn judge_fragment(
        &mut self,
        batch: &Batch<'_, '_>,
        unjudged: &Unjudged,
        (site, output): (Site, Output),
    ) -> Result<Option<SessionRef>, DropReason> {
        let index = unjudged.index;
        let original = unjudged.original.map(|tuple| (tuple.source, tuple.destination));
        match self.translated_before(batch, index, (site, Some(output)), original)? {
            Some((found, way)) if way.output == pack(output) => Ok(found.session()),
            None if original.is_none() && self.is_fragment_known(batch, index, site, output) => {
                let from = batch.metadata.get(index).map(|metadata| site.attachment(metadata));
                self.whole(batch, index, (from.ok_or(DropReason::Runt)?, output)).map(|()| None)
            }
            _ => Err(self.refuse(DropReason::FragmentUnknown)),
        }
    }

    /// Does to a packet that may pass what its session says, unless that was done before, and keeps in mind what its later fragments need.
    fn finish(
        &self,
        batch: &mut Batch<'_, '_>,
        unjudged: &Unjudged,
        to: (Site, Output),
        passed: Option<SessionRef>,
    ) -> Result<(), DropReason> {
        let index = unjudged.index;
        let original = unjudged.original.map(|tuple| (tuple.source, tuple.destination));
        let becomes = passed.filter(|_| original.is_none());
        let becomes = becomes.and_then(|session| translate::of_session(self.table, session));
        match passed {
            Some(session) if original.is_some() || becomes.is_some() => {
                self.note_translated(batch, index, to, (original, session));
            }
            _ => self.note_fragment(batch, index, to.0, to.1),
        }
        becomes.map_or(Ok(()), |becomes| translate::apply(batch, index, &becomes))
    }

    /// Whether an error about a packet of a session may pass: by the rules of today, as that session's packets. Nothing is refreshed.
    fn relate(&mut self, session: SessionRef, to: Attachment, now: u64) -> Result<(), DropReason> {
        let (initiator, responder) = self.sessions.keys(session);
        let other = if session.is_initiator() { responder } else { initiator };
        if other.attachment() != to.number() {
            // Whom it is for is elsewhere now, and the session is not of that place.
            return Err(DropReason::IcmpUnrelated);
        }
        let rules = self.rules_of(session, now);
        rules.map(drop).map_err(|reason| {
            self.sessions.cut(session);
            // One of its ends is gone: it is a session no more.
            if reason == DropReason::PortDown { DropReason::IcmpUnrelated } else { reason }
        })
    }

    /// A packet that was asked about and does not pass.
    fn refuse(&mut self, reason: DropReason) -> DropReason {
        self.judged += 1;
        reason
    }

    /// A message that belongs to no session passes by the rules alone, unless it is from or to outside: nobody could tell whose it is there.
    fn judge_message(
        &mut self,
        tuple: &Tuple,
        (from, output): (Attachment, Output),
        (sender, receiver): (Option<End<'a>>, Option<End<'a>>),
        now: u64,
    ) -> Result<Option<SessionRef>, DropReason> {
        self.judged += 1;
        if !matches!(self.plan(from, output, tuple), Ok(Plan::Same)) {
            return Err(DropReason::IcmpUnrelated);
        }
        self.ask(sender, receiver, tuple, now).map(|_| None)
    }

    /// Whether a port may send what is for all or a group: each receiver's rules are asked when it is replicated.
    pub fn may_replicate(
        &mut self,
        batch: &Batch<'_, '_>,
        index: usize,
        port: PortIndex,
    ) -> Result<(), DropReason> {
        let metadata = batch.metadata.get(index).ok_or(DropReason::Runt)?;
        let packet = batch.burst.packet(index).ok_or(DropReason::Runt)?;
        let tuple = Tuple::of(packet.head(), &metadata.headers).ok_or(DropReason::EtherTypeRefused)?;
        let end = self.end(Some(port.0))?;
        self.ask(end, None, &tuple, batch.now).map(drop)
    }

    /// Asks both ends' rules; the numbers of those that let it pass.
    fn ask(
        &mut self,
        sender: Option<End<'a>>,
        receiver: Option<End<'a>>,
        tuple: &Tuple,
        now: u64,
    ) -> Result<[Option<u32>; 2], DropReason> {
        if has_candidate(sender) || has_candidate(receiver) {
            self.compare([(sender, Direction::Egress), (receiver, Direction::Ingress)], tuple, now);
        }
        let sent = self.ask_one(sender, Direction::Egress, tuple, now)?;
        Ok([sent, self.ask_one(receiver, Direction::Ingress, tuple, now)?])
    }

    fn ask_one(
        &mut self,
        end: Option<End<'a>>,
        direction: Direction,
        tuple: &Tuple,
        now: u64,
    ) -> Result<Option<u32>, DropReason> {
        let Some(end) = end else { return Ok(None) };
        let judgement = police::ask(self.members, end, direction, tuple);
        if let Some(rule) = judgement.rule {
            self.counters.hit(rule, (now / 1_000_000_000) as u32);
        }
        if judgement.log {
            let Tuple { source, destination, protocol, .. } = *tuple;
            let (port, ports) = (end.port, tuple.ports());
            let decision = Decision { port, direction, judgement, source, destination, protocol, ports };
            self.log.write(decision, now);
        }
        if judgement.allowed { Ok(judgement.rule) } else { Err(DropReason::PolicyDenied) }
    }

    fn create(
        &mut self,
        case: &Case,
        ends: (Option<End<'a>>, Option<End<'a>>),
    ) -> Result<SessionRef, DropReason> {
        self.judged += 1;
        if let Upper::Echo { reply: true, .. } = case.before.upper {
            // To no request.
            return Err(DropReason::SessionInvalid);
        }
        let plan = case.plan?;
        if matches!(plan, Plan::Same) {
            return self.create_as(case, ends)?.ok_or(DropReason::SessionInvalid);
        }
        if let Some(session) = self.sessions.find_any(case.key).session() {
            // Another packet of this burst, or of another worker's, was first, and has chosen.
            return self.join(case, session);
        }
        let mapped = self.mapped_port(case, &plan, ends.0)?;
        for there in plan.candidates(case.before, mapped) {
            let becoming = case.becoming(there).ok_or(DropReason::EtherTypeRefused)?;
            let taken = plan.chooses() && self.sessions.find_any(becoming.answer).is_some();
            if !taken && let Some(session) = self.create_as(&becoming, ends)? {
                return Ok(session);
            }
        }
        Err(DropReason::NatExhausted)
    }

    /// The external port that stands for the sender's, where its gateway has it so.
    fn mapped_port(
        &mut self,
        case: &Case,
        plan: &Plan,
        sender: Option<End<'a>>,
    ) -> Result<Option<u16>, DropReason> {
        let Plan::Become { source: Origin::Mapped(block), .. } = *plan else { return Ok(None) };
        // What the sender may not send opens nothing; it is asked again, and counted, with the receiver.
        let allowed =
            sender.is_none_or(|end| police::ask(self.members, end, Direction::Egress, &case.before).allowed);
        if allowed { self.map(case.from, block, &case.before) } else { Ok(None) }
    }

    /// Makes the session. `None`: what its packets become is taken, and something else may not be.
    fn create_as(
        &mut self,
        case: &Case,
        (sender, receiver): (Option<End<'a>>, Option<End<'a>>),
    ) -> Result<Option<SessionRef>, DropReason> {
        let rules = self.ask(sender, receiver, &Tuple::judged(&case.before, &case.after), case.now)?;
        let paid_by = sender.or(receiver).map(|end| end.port).or(case.from.port).or(case.to.port);
        let (way, stamp) = self.present_way(case);
        let new = New {
            owner: paid_by.unwrap_or(0),
            initiator: Side { key: case.key, way, stamp },
            responder: Side { key: case.answer, way: None, stamp: 0 },
            epoch: self.epoch,
            facts: case.facts,
            rules: rules.map(|rule| rule.unwrap_or(NO_RULE)),
            now: self.now,
        };
        match self.sessions.create_any(&new) {
            Ok(Created::New(session)) => {
                self.note_connection(case);
                Ok(Some(session))
            }
            // Another packet of this burst, or of another worker's, was first.
            Ok(Created::Existing(session)) => self.join(case, session).map(Some),
            Ok(Created::Clash(_)) if case.plan.is_ok_and(|plan| plan.chooses()) => Ok(None),
            Ok(Created::Clash(session)) => self.displace(session, &new).map(Some),
            Err(refused) => Err(reason(refused)),
        }
    }

    /// Makes a session in place of one that is in its way: an end of an older flow has moved, and this one has its place.
    fn displace(&mut self, older: SessionRef, new: &New<AnyKey>) -> Result<SessionRef, DropReason> {
        self.sessions.cut(older);
        match self.sessions.create_any(new).map_err(reason)? {
            Created::New(session) | Created::Existing(session) | Created::Clash(session) => Ok(session),
        }
    }

    /// A packet whose session is there after all.
    fn join(&mut self, case: &Case, session: SessionRef) -> Result<SessionRef, DropReason> {
        match self.check_case(case, session) {
            Checked::Pass(way) if Some(way) == case.way => Ok(session),
            Checked::Invalid(_) => Err(DropReason::SessionInvalid),
            _ => self.renew(case, session),
        }
    }

    fn note_connection(&self, case: &Case) {
        if case.before.destination != case.after.destination {
            self.count_connection(case.from.vpc, case.before.destination, case.after.destination);
        }
    }

    fn check_case(&mut self, case: &Case, session: SessionRef) -> Checked {
        let known = (self.generations, self.network);
        self.sessions.check(session.found(), &case.facts, self.epoch, self.now, |_, way| {
            stamp(known, case.from, case.addresses(), case.facts.destination_mac, way)
        })
    }

    /// Judges a session again, by its initiator's packets; if it still passes, the half that this packet is of leads where the packet goes.
    fn renew(&mut self, case: &Case, session: SessionRef) -> Result<SessionRef, DropReason> {
        let leaves_as_it_is =
            case.external && translate::of_session(self.table, session).is_none() && session.is_initiator();
        if self.table.attachment(session.opposite()) != case.to.number() || leaves_as_it_is {
            // Who answers is elsewhere now: what was known of it means nothing there.
            self.sessions.cut(session);
            let ends = (self.end(case.from.port)?, self.end(case.to.port)?);
            return self.create(case, ends);
        }
        let rules = match self.rules_of(session, case.now) {
            Ok(rules) => rules,
            Err(reason) => {
                self.sessions.cut(session);
                return Err(reason);
            }
        };
        // A packet that is yet to be what its session says.
        let there = translate::of_session(self.table, session).filter(|_| case.before == case.after);
        let changed = there.and_then(|to| case.becoming(case.before.become_like(&to)));
        let case = changed.as_ref().unwrap_or(case);
        let (way, stamp) = self.present_way(case);
        self.sessions.renew_half(session, way, stamp, self.epoch, rules);
        match self.check_case(case, session) {
            Checked::Invalid(_) => Err(DropReason::SessionInvalid),
            _ => Ok(session),
        }
    }

    /// The rules that let a session pass: asked anew, unless its other half was judged by what they are now.
    fn rules_of(&mut self, session: SessionRef, now: u64) -> Result<[u32; 2], DropReason> {
        if let Some(rules) = self.sessions.rules_at(session, self.epoch) {
            return Ok(rules);
        }
        let (initiator, responder) = self.sessions.keys(session);
        let sender = self.end(port_of(initiator.attachment()))?;
        let receiver = self.end(port_of(responder.attachment()))?;
        let rules = self.ask(sender, receiver, &Tuple::of_session(&initiator, &responder), now)?;
        Ok(rules.map(|rule| rule.unwrap_or(NO_RULE)))
    }

    /// How the half's packets go, and the sum that it keeps: one that nothing is ever equal to, if something changed since the tables were taken up.
    fn present_way(&self, case: &Case) -> (Option<(MacAddr, Way)>, u32) {
        let Some(way) = case.way else { return (None, 0) };
        let mac = case.facts.destination_mac;
        let sum = stamp((self.generations, self.network), case.from, case.addresses(), mac, &way);
        // The order is that of `Generations`: counters first, then the epoch.
        let sum = if self.generations.epoch() == self.epoch { sum } else { sum.wrapping_sub(1) };
        (Some((MacAddr::from_u64(mac), way)), sum)
    }
}

/// In a session: no rule let it pass, as there are none.
pub(crate) const NO_RULE: u32 = (1 << 28) - 1;

pub(crate) fn reason(refused: Refused) -> DropReason {
    match refused {
        Refused::TableFull | Refused::Crowded => DropReason::SessionTableFull,
        Refused::Quota | Refused::Share => DropReason::SessionQuota,
        Refused::Invalid | Refused::Mirror => DropReason::SessionInvalid,
    }
}

/// How packets go where this one goes: on, or by a router. `None` where that is another matter for each.
fn way(output: Output, now: u64, before: u64, metadata: &Metadata) -> Option<Way> {
    let output = pack(output);
    if now == before {
        return Some(Way { output, rewrite: None, translate: false });
    }
    let routed = |subnet| Way { output, rewrite: Some((MacAddr::from_u64(now), subnet)), translate: false };
    metadata.routed_to.map(routed)
}
