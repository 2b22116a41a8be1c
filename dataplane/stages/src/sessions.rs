//! Finds the session of each packet that a port under rules sends. What has a valid one goes where the session says, at once: no address is looked up and no rule
//! is read.
//!
//! A stage of its own because it comes before all that decides where a packet goes, and spares it to all but the first packets of a flow. Those, and packets of
//! sessions that something changed under, are left to the stages that follow and then to [`policy`](crate::policy), which judges them.
//!
//! Drops: [`DropReason::SessionInvalid`], [`DropReason::FragmentUnknown`], [`DropReason::IcmpUnrelated`], [`DropReason::EtherTypeRefused`],
//! [`DropReason::Untranslatable`].

use crate::encapsulate::fits;
use crate::police::{
    Pending, Police, Site, Standing, check, destination_mac, facts, ordinary_key, ordinary_key6, unpack,
};
use crate::translate;
use buf::BURST_PACKETS;
use engine::{Batch, DropReason, Indices, Output, PortIndex};
use packet::{Fragment, Headers, route, tcp};
use tables::sessions::{self as session, Checked, Found, Guess, Key, Way};

/// Runs the stage over what a port under rules sent.
#[inline(always)]
pub fn run(
    batch: &mut Batch<'_, '_>,
    police: &mut Police<'_>,
    port: PortIndex,
    vpc: u16,
    pending: &mut Pending,
) {
    let packets = batch.undecided();
    let mut look =
        Look { police, site: Site::Port { port, vpc }, pending, run: Run { output: 0, packets: 0 } };
    let ordinary = look.run_ordinary(batch, packets, u32::from(port.0), ordinary_key);
    let mut rest = packets & !ordinary;
    if rest != 0 {
        rest &= !look.run_ordinary(batch, rest, u32::from(port.0), ordinary_key6);
        look.run_rare(batch, rest);
    }
    look.run.end(batch);
}

/// Packets that go to one output, one after the other: they are routed together.
struct Run {
    output: u32,
    packets: u32,
}

impl Run {
    #[inline(always)]
    fn add(&mut self, batch: &mut Batch<'_, '_>, index: usize, output: u32) {
        if output != self.output {
            self.end(batch);
            self.output = output;
        }
        self.packets |= 1 << index;
    }

    #[inline(always)]
    fn end(&mut self, batch: &mut Batch<'_, '_>) {
        if self.packets != 0 {
            batch.route(std::mem::take(&mut self.packets), unpack(self.output));
        }
    }
}

/// The packets of a batch that are looked up all at once: which they are, and what is known of them, in their order.
struct Ordinary<K> {
    packets: u32,
    count: usize,
    keys: [K; BURST_PACKETS],
    /// Destination MAC address and, below it, index; length.
    known: [[u64; 2]; BURST_PACKETS],
}

impl<K> Ordinary<K> {
    #[inline(always)]
    fn add(&mut self, index: usize, key: K, destination_mac: u64, length: u32) {
        self.packets |= 1 << index;
        self.keys[self.count % BURST_PACKETS] = key;
        self.known[self.count % BURST_PACKETS] = [destination_mac << 16 | index as u64, length.into()];
        self.count += 1;
    }

    /// Index, destination MAC address, length.
    #[inline(always)]
    fn known(&self, at: usize) -> (usize, u64, u32) {
        let [first, length] = self.known[at];
        ((first & 0x1f) as usize, first >> 16, length as u32)
    }
}

struct Look<'l, 'p> {
    police: &'l mut Police<'p>,
    site: Site,
    pending: &'l mut Pending,
    run: Run,
}

impl Look<'_, '_> {
    /// Whole packets of TCP and UDP of one family, whose keys `key` makes, all at once; which they were.
    #[inline(always)]
    fn run_ordinary<K: Key>(
        &mut self,
        batch: &mut Batch<'_, '_>,
        packets: u32,
        attachment: u32,
        key: impl Fn(&[u8], &Headers, u32) -> Option<K>,
    ) -> u32 {
        let mut all = Ordinary {
            packets: 0,
            count: 0,
            keys: [K::none(); BURST_PACKETS],
            known: [[0; 2]; BURST_PACKETS],
        };
        for index in Indices(packets) {
            let Some(packet) = batch.burst.packet(index) else { continue };
            let head = packet.head();
            if let Some(key) = key(head, &batch.metadata[index].headers, attachment) {
                all.add(index, key, destination_mac(head), packet.len() as u32);
            }
        }
        let mut guesses = [Guess::NONE; BURST_PACKETS];
        let table = self.police.table;
        table.guess(&all.keys[..all.count.min(BURST_PACKETS)], &mut guesses);
        let passage = table.passage(self.police.epoch, self.police.now);
        for at in 0..all.count.min(BURST_PACKETS) {
            let (key, guess) = (&all.keys[at], guesses[at % BURST_PACKETS]);
            let (index, destination_mac, length) = all.known(at);
            let packet = session::Packet { key, destination_mac, length };
            let tcp =
                || tcp::Segment::read(batch.burst.packet(index)?.head(), &batch.metadata[index].headers);
            match passage.pass(guess, &packet, tcp) {
                Some(Way { output, rewrite: None, translate: false }) => self.run.add(batch, index, output),
                Some(way) => {
                    self.settle_rest(batch, index, (guess.found(), Checked::Pass(way)), destination_mac);
                }
                None => self.settle_special(batch, index, key),
            }
        }
        all.packets
    }

    /// A packet that has no session, or is something special to it.
    #[inline(never)]
    fn settle_special<K: Key>(&mut self, batch: &mut Batch<'_, '_>, index: usize, key: &K) {
        let found = self.police.sessions.find(*key);
        self.settle(batch, index, found);
    }

    /// Sends a packet where its session says, or leaves it to be judged.
    #[inline(always)]
    fn settle(&mut self, batch: &mut Batch<'_, '_>, index: usize, found: Found) {
        let Some(packet) = batch.burst.packet(index) else { return };
        let facts = facts(packet.head(), packet.len() as u32, &batch.metadata[index].headers);
        let checked = check(self.police, batch, index, self.site, (found, &facts));
        let first = batch.metadata[index].headers.fragment == Fragment::First;
        if let Checked::Pass(way @ Way { rewrite: None, translate: false, .. }) = checked
            && !first
        {
            return self.run.add(batch, index, way.output);
        }
        self.settle_rest(batch, index, (found, checked), facts.destination_mac);
    }

    #[inline(never)]
    fn settle_rest(
        &mut self,
        batch: &mut Batch<'_, '_>,
        index: usize,
        (found, checked): (Found, Checked),
        mac: u64,
    ) {
        let standing = match checked {
            Checked::Pass(way) => match self.pass(batch, index, found, &way) {
                Ok(true) => return self.run.add(batch, index, way.output),
                // It can go no further; the router tells its sender.
                Ok(false) if !way.translate => Standing::Passes,
                Ok(false) => found.session().map_or(Standing::New, Standing::Stale),
                Err(reason) => return batch.drop(index, reason),
            },
            Checked::Invalid(_) => return batch.drop(index, DropReason::SessionInvalid),
            Checked::Stale(session) => Standing::Stale(session),
            Checked::Gone => Standing::New,
        };
        self.pending.leave(index, mac, standing);
    }

    /// Does to a packet what its session says, and keeps in mind what its later fragments need; as [`Self::forward`] returns.
    #[inline]
    fn pass(
        &self,
        batch: &mut Batch<'_, '_>,
        index: usize,
        found: Found,
        way: &Way,
    ) -> Result<bool, DropReason> {
        let output = unpack(way.output);
        let Some(session) = found.session().filter(|_| way.translate) else {
            let passes = self.forward(batch, index, found, way)?;
            if passes {
                self.police.note_fragment(batch, index, self.site, output);
            }
            return Ok(passes);
        };
        self.police.note_translated(batch, index, (self.site, output), (None, session));
        self.forward(batch, index, found, way)
    }

    /// Does to a later fragment what was done to its datagram's first one, or leaves it to be judged.
    #[cold]
    fn follow(&mut self, batch: &mut Batch<'_, '_>, index: usize) -> Result<(), DropReason> {
        let Some((found, way)) = self.police.translated_before(batch, index, (self.site, None), None)? else {
            self.pending.leave(index, 0, Standing::Fragment);
            return Ok(());
        };
        // Its sender is told of first fragments alone.
        if self.forward(batch, index, found, &way)? {
            self.run.add(batch, index, way.output);
            Ok(())
        } else {
            Err(DropReason::TooBig)
        }
    }

    /// Does to a packet what its session says, and then its router would do; `false`, with the packet as it was, where it can go no further.
    #[inline]
    fn forward(
        &self,
        batch: &mut Batch<'_, '_>,
        index: usize,
        found: Found,
        way: &Way,
    ) -> Result<bool, DropReason> {
        let Some((destination, subnet)) = way.rewrite else {
            return self.translate(batch, index, found, way).map(|()| true);
        };
        let headers = &{ batch.metadata[index].headers };
        let network = self.police.network;
        let Some(source) = network.subnet(subnet).map(|subnet| subnet.gateway_mac) else {
            return Ok(false);
        };
        if let Output::Tunnel { vpc, .. } = unpack(way.output)
            && !network.vpc(vpc).is_some_and(|vpc| fits(batch.burst, &batch.metadata[index], index, vpc.mtu))
        {
            return Ok(false);
        }
        let hops = batch.burst.packet(index).and_then(|packet| route::hops(packet.head(), headers));
        if hops.is_none_or(|hops| hops <= 1) {
            return Ok(false);
        }
        self.translate(batch, index, found, way)?;
        let Some(packet) = batch.burst.packet_mut(index) else { return Ok(false) };
        Ok(route::forward(packet.head_mut(), headers, destination, source).is_some())
    }

    /// Gives a packet the addresses by which the other end of its session knows it.
    #[inline(always)]
    fn translate(
        &self,
        batch: &mut Batch<'_, '_>,
        index: usize,
        found: Found,
        way: &Way,
    ) -> Result<(), DropReason> {
        if way.translate { translate::one(batch, index, (self.police.table, found)) } else { Ok(()) }
    }

    /// What is no whole TCP, UDP or SCTP: one by one.
    #[cold]
    #[inline(never)]
    fn run_rare(&mut self, batch: &mut Batch<'_, '_>, packets: u32) {
        for index in Indices(packets) {
            match self.police.find(batch, index, self.site) {
                Ok(Ok(found)) => self.settle(batch, index, found),
                Ok(Err(Standing::Fragment)) => {
                    if let Err(reason) = self.follow(batch, index) {
                        batch.drop(index, reason);
                    }
                }
                Ok(Err(standing)) => {
                    let head = batch.burst.packet(index).map_or(&[][..], |packet| packet.head());
                    let destination = facts(head, 0, &batch.metadata[index].headers).destination_mac;
                    self.pending.leave(index, destination, standing);
                }
                Err(reason) => batch.drop(index, reason),
            }
        }
    }
}
