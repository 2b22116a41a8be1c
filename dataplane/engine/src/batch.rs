//! A burst on its way through the stages.

use crate::{DropReason, Origin, PortIndex, PuntKind};
use arrayvec::ArrayVec;
use buf::{BURST_PACKETS, Burst};
use packet::Headers;
use std::ops::Range;

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// To a port of this host.
    Port(PortIndex),
    /// To another host, or whatever else is a tunnel end point.
    Tunnel {
        /// The number of the tunnel end point.
        vtep: u16,
        /// The number of the VPC it is for, which has the VNI.
        vpc: u16,
    },
    /// Out of all VPCs: by the uplink, as it is, to the router of an external network.
    External {
        /// The number of the exit it takes (`tables::external`).
        exit: u16,
    },
}

/// Packets of a batch that go to one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Where they go.
    pub output: Output,
    /// Which they are, as a bit per packet.
    pub packets: u32,
}

/// What is known of a packet besides its bytes. One cache line; written and read as each field says.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
pub struct Metadata {
    /// Where its headers are. Written by `parse`; read by all later stages.
    pub headers: Headers,
    /// Where in the fabric it came from. Written by `decapsulate` for packets of the underlay; meaningless for others.
    pub origin: Origin,
    /// The traffic class of the outer header. Written by `decapsulate`. Of this type so that it and `origin` fill one word.
    pub outer_class: u16,
    /// The number of the subnet whose gateway sends it on, if that is a matter of its destination alone. Written by `route` for packets that it sends on; read
    /// by `policy` where those differ from how they came.
    pub routed_to: Option<u16>,
}

/// Up to 32 packets of one receive queue, with what the stages found out about them.
///
/// A packet is alive until a stage drops it; what it was dropped for is counted at once, at the port it came from.
pub struct Batch<'a, 'm> {
    /// The packets.
    pub burst: &'a mut Burst<'m>,
    /// One for each packet; those beyond the burst are of earlier bursts and mean nothing.
    pub metadata: &'a mut [Metadata; BURST_PACKETS],
    /// Nanoseconds of the worker's clock when the burst was taken.
    pub now: u64,
    /// Packets that `neighbours` must look at, as a bit per packet. Written by `port_security`.
    pub attention: u32,
    /// Packets for the subnet's gateway, as a bit per packet. Written by `forward`, read by `route`.
    pub to_gateway: u32,
    /// Packets for all or a group, as a bit per packet. Written by `forward`, read by `broadcast`.
    pub to_group: u32,
    /// Packets that came out of a tunnel, as a bit per packet. Written by `decapsulate`, read by `arrive`.
    pub decapsulated: u32,
    /// Packets that may go back to the port they came from, to their sender under another address, as a bit per packet. Written by `balance`, read by `route` and `policy`.
    pub hairpin: u32,
    /// Packets of the underlay for an address of an external network, as a bit per packet. Written by `decapsulate`, read by `external`.
    pub from_outside: u32,
    /// How many packets rules were asked about: those without a session. Written by `policy`, read by the worker, which looks that they do not take the time of others.
    pub judged: u32,
    /// Who is alive, and what the others were dropped for.
    pub verdicts: Verdicts,
    routed: u32,
    groups: ArrayVec<Group, BURST_PACKETS>,
    tunnelled: bool,
    punts: ArrayVec<(u8, PuntKind), BURST_PACKETS>,
    held: ArrayVec<(u8, u16), BURST_PACKETS>,
}

/// Which packets of a batch are alive, and what the others were dropped for. A part of its own, so that a stage can drop packets while
/// it walks over them.
pub struct Verdicts {
    alive: u32,
    dropped: [u16; DropReason::COUNT],
    any_dropped: bool,
}

impl Verdicts {
    /// Those alive, as a bit per packet.
    #[inline(always)]
    pub fn alive(&self) -> u32 {
        self.alive
    }

    /// Ends a packet.
    #[cold]
    pub fn drop(&mut self, index: usize, reason: DropReason) {
        self.alive &= !1u32.wrapping_shl(index as u32);
        self.count(reason, 1);
    }

    fn count(&mut self, reason: DropReason, packets: u32) {
        if let Some(count) = self.dropped.get_mut(reason as usize) {
            *count += packets as u16;
            self.any_dropped = true;
        }
    }
}

impl<'a, 'm> Batch<'a, 'm> {
    /// All packets of `burst`, all alive.
    #[inline(always)]
    pub fn new(burst: &'a mut Burst<'m>, metadata: &'a mut [Metadata; BURST_PACKETS], now: u64) -> Self {
        let count = burst.len() as u32;
        let alive = if count >= 32 { u32::MAX } else { (1 << count) - 1 };
        let verdicts = Verdicts { alive, dropped: [0; DropReason::COUNT], any_dropped: false };
        Self {
            burst,
            metadata,
            now,
            attention: 0,
            to_gateway: 0,
            to_group: 0,
            decapsulated: 0,
            hairpin: 0,
            from_outside: 0,
            judged: 0,
            verdicts,
            routed: 0,
            groups: ArrayVec::new(),
            tunnelled: false,
            punts: ArrayVec::new(),
            held: ArrayVec::new(),
        }
    }

    /// Those alive, as a bit per packet.
    #[inline(always)]
    pub fn alive(&self) -> u32 {
        self.verdicts.alive
    }

    /// The indices of those alive. Packets may be dropped meanwhile.
    #[inline(always)]
    pub fn indices(&self) -> Indices {
        Indices(self.alive())
    }

    /// Those alive of which nobody has decided where they go, as a bit per packet.
    #[inline(always)]
    pub fn undecided(&self) -> u32 {
        self.alive() & !self.routed
    }

    /// Decides that `packets` (a bit per packet) go to `output`. Packets of one output leave in their order, whoever decided.
    #[inline(always)]
    pub fn route(&mut self, packets: u32, output: Output) {
        let packets = packets & self.undecided();
        self.routed |= packets;
        self.tunnelled |= !matches!(output, Output::Port(_));
        match self.groups.iter_mut().find(|group| group.output == output) {
            Some(group) => group.packets |= packets,
            None if packets != 0 => self.add_group(Group { output, packets }),
            None => {}
        }
    }

    /// Adds a group to one place that there was none to yet.
    #[inline(always)]
    fn add_group(&mut self, group: Group) {
        if let Err(full) = self.groups.try_push(group) {
            self.reuse_group(full.element());
        }
    }

    /// There are as many groups as packets, so one of them lost its only packet to this one.
    #[cold]
    #[inline(never)]
    fn reuse_group(&mut self, group: Group) {
        if let Some(empty) = self.groups.iter_mut().find(|other| other.packets == 0) {
            *empty = group;
        }
    }

    /// The packets to be sent, by output: group number `at`, from 0.
    #[inline(always)]
    pub fn group(&self, at: usize) -> Option<Group> {
        let group = self.groups.get(at)?;
        Some(Group { packets: group.packets & self.alive(), ..*group })
    }

    /// Where a packet goes; `None` while nobody has decided, and when it ended.
    pub fn output_of(&self, index: usize) -> Option<Output> {
        let packet = self.alive() & 1u32.wrapping_shl(index as u32);
        let group = self.groups.iter().find(|group| group.packets & packet != 0)?;
        Some(group.output)
    }

    /// Whether any packet goes to a tunnel, or to an external network.
    #[inline(always)]
    pub fn is_tunnelled(&self) -> bool {
        self.tunnelled
    }

    /// Takes back where a packet goes, and decides anew.
    pub fn reroute(&mut self, index: usize, output: Output) {
        let packet = 1u32.wrapping_shl(index as u32);
        self.groups.iter_mut().for_each(|group| group.packets &= !packet);
        self.routed &= !packet;
        self.route(packet, output);
    }

    /// Takes what goes to `from` to `to` instead.
    pub fn redirect(&mut self, from: Output, to: Output) {
        let Some(group) = self.groups.iter_mut().find(|group| group.output == from) else { return };
        let packets = std::mem::take(&mut group.packets);
        self.routed &= !packets;
        self.route(packets, to);
    }

    /// Gives a packet to the control thread, which answers it or not; it goes nowhere else.
    pub fn punt(&mut self, index: usize, kind: PuntKind) {
        let packet = 1u32.wrapping_shl(index as u32);
        if self.verdicts.alive & packet != 0 {
            self.verdicts.alive &= !packet;
            // There is room: a packet is punted once.
            let _ = self.punts.try_push((index as u8, kind));
        }
    }

    /// Keeps a packet until it is known where neighbour number `neighbour` is.
    pub fn hold(&mut self, index: usize, neighbour: u16) {
        let packet = 1u32.wrapping_shl(index as u32);
        if self.verdicts.alive & packet != 0 {
            self.verdicts.alive &= !packet;
            let _ = self.held.try_push((index as u8, neighbour));
        }
    }

    /// The packets given to the control thread: index, and why.
    #[inline(always)]
    pub fn punts(&self) -> &[(u8, PuntKind)] {
        &self.punts
    }

    /// The packets that wait for a neighbour: index, and which.
    #[inline(always)]
    pub fn held(&self) -> &[(u8, u16)] {
        &self.held
    }

    /// Ends a packet.
    #[inline]
    pub fn drop(&mut self, index: usize, reason: DropReason) {
        self.verdicts.drop(index, reason);
    }

    /// Counts `packets` more as ended: those that delivery could not place. They are not told apart.
    #[inline]
    pub fn lost(&mut self, reason: DropReason, packets: u32) {
        if packets > 0 {
            self.verdicts.count(reason, packets);
        }
    }

    /// Packets ended in this batch, by reason.
    #[inline(always)]
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        let Verdicts { any_dropped, dropped, .. } = &self.verdicts;
        let dropped: &[u16] = if *any_dropped { dropped } else { &[] };
        dropped
            .iter()
            .zip(DropReason::ALL)
            .filter(|(count, _)| **count > 0)
            .map(|(count, reason)| (*reason, u64::from(*count)))
    }
}

/// Indices of set bits, lowest first.
#[derive(Clone, Copy, Debug)]
pub struct Indices(pub u32);

impl Iterator for Indices {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let index = self.0.trailing_zeros();
        self.0 &= self.0 - 1;
        // The mask tells the compiler what it cannot see: an index below 32 needs no bounds check.
        Some((index & 31) as usize)
    }
}

/// Indices of set bits, lowest first, in runs without a gap.
#[derive(Clone, Copy, Debug)]
pub struct Runs(pub u32);

impl Iterator for Runs {
    type Item = Range<usize>;

    #[inline(always)]
    fn next(&mut self) -> Option<Range<usize>> {
        if self.0 == 0 {
            return None;
        }
        let start = self.0.trailing_zeros();
        let len = (self.0 >> start).trailing_ones();
        let run = start as usize..(start + len) as usize;
        self.0 &= !bits(run.clone());
        Some(run)
    }
}

/// The bits of these indices, all below 32.
#[inline(always)]
pub fn bits(indices: Range<usize>) -> u32 {
    let below = |end: usize| (1u64 << (end & 63)) - 1;
    (below(indices.end) & !below(indices.start)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use buf::{Extent, Offload};

    #[test]
    fn dropped_packets_are_passed_over_and_counted() {
        let byte = [0u8; 60];
        let mut burst = Burst::new();
        for _ in 0..BURST_PACKETS {
            burst.push_extent(Extent::from_slice(&byte)).unwrap();
            assert!(burst.commit(Offload::NONE));
        }
        let mut metadata = [Metadata::default(); BURST_PACKETS];
        let mut batch = Batch::new(&mut burst, &mut metadata, 0);
        for index in batch.indices() {
            if index % 2 == 0 {
                batch.drop(index, DropReason::Runt);
            }
        }
        assert_eq!(batch.indices().collect::<Vec<_>>(), (0..32).filter(|at| at % 2 == 1).collect::<Vec<_>>());
        assert_eq!(batch.drops().collect::<Vec<_>>(), [(DropReason::Runt, 16)]);
    }

    #[test]
    fn runs_are_the_bits_they_came_of() {
        for packets in [0, 1, 1 << 31, u32::MAX, 0x8000_0001, 0x0ff0_7f01, 0xaaaa_aaaa, 0x7fff_ffff] {
            let runs: Vec<_> = Runs(packets).collect();
            assert_eq!(runs.iter().fold(0, |all, run| all | bits(run.clone())), packets);
            assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start), "{runs:?}");
            assert!(runs.iter().flat_map(Clone::clone).eq(Indices(packets)));
        }
    }

    #[test]
    fn a_burst_to_as_many_places_as_it_has_packets_keeps_them_all() {
        let byte = [0u8; 60];
        let mut burst = Burst::new();
        for _ in 0..BURST_PACKETS {
            burst.push_extent(Extent::from_slice(&byte)).unwrap();
            assert!(burst.commit(Offload::NONE));
        }
        let mut metadata = [Metadata::default(); BURST_PACKETS];
        let mut batch = Batch::new(&mut burst, &mut metadata, 0);
        let tunnel = |vtep| Output::Tunnel { vtep, vpc: 0 };
        let (uplink, back) = (Output::Port(PortIndex(7)), Output::Port(PortIndex(1)));
        (0..32).for_each(|index| batch.route(1 << index, tunnel(index)));
        batch.reroute(3, back);
        let mut at = 0;
        while let Some(group) = batch.group(at) {
            at += 1;
            if matches!(group.output, Output::Tunnel { .. }) {
                batch.redirect(group.output, uplink);
            }
        }
        let groups: Vec<_> =
            (0..).map_while(|at| batch.group(at)).filter(|group| group.packets != 0).collect();
        let of = |output| {
            groups.iter().filter(|group| group.output == output).fold(0, |all, group| all | group.packets)
        };
        assert_eq!((of(uplink), of(back)), (!(1 << 3), 1 << 3), "{groups:?}");
        assert_eq!(groups.len(), 2, "what goes to one place goes together");
    }
}
