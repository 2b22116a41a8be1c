//! Turns of the underlay, and what hosts give it.

use super::{Scene, Turn};
use crate::check::{Checked, Violation, underlay, verdicts};
use crate::net::tunnel;
use crate::underlay::{foreign, on_the_wire};
use buf::Offload;
use engine::DropReason;

/// How often the underlay looks when nothing is under way, in nanoseconds.
const IDLE: u64 = 50_000;

impl Scene {
    /// Frames land.
    pub(super) fn fabric_turn(&mut self) -> Checked {
        let now = self.now;
        let Some(fabric) = &mut self.fabric else { return Ok(()) };
        let landed = fabric.land(now);
        for frame in landed {
            let Some(fabric) = &mut self.fabric else { return Ok(()) };
            if self.network.is_foreign(frame.to) {
                if let Some(entry) = frame.origin {
                    self.ledger.reached(entry);
                    self.stats.edge("endpoint < underlay", 1);
                }
                if let Some((to, answer)) = foreign::answer(&self.network, frame.to, &frame.bytes) {
                    fabric.inject(to, now, answer, false);
                }
                continue;
            }
            let (host, pair) = (frame.to, fabric.pair_of(frame.to, &frame.bytes));
            if !fabric.has_room(host, pair) {
                self.stats.edge("fabric: receive ring full", 1);
                continue;
            }
            let judged = underlay::judge(&self.network, host, &frame.bytes);
            fabric.lines[host][pair].0.push((frame.bytes.clone(), Offload::NONE));
            let wire = self.wire(host);
            self.trace.frame(now, "landed", wire, pair, &frame.bytes);
            self.ledger.came(wire, &frame.bytes, (judged, frame.odd), self.network.epoch, frame.origin);
            self.accounts[wire].returned += 1;
            self.wake(host * self.workers + pair % self.workers);
        }
        let places = self.network.hosts.len()..self.network.hosts.len() + self.network.foreign.len();
        for place in places {
            if self.random.chance(20)
                && let Some((to, frame)) = foreign::speak(&self.network, place, &mut self.random)
                && let Some(fabric) = &mut self.fabric
            {
                fabric.inject(to, now, frame, false);
                self.stats.edge("endpoint > underlay", 1);
            }
        }
        let Some(fabric) = &mut self.fabric else { return Ok(()) };
        for name in fabric.lost.drain(..) {
            self.stats.edge(name, 1);
        }
        let next = fabric.next().map_or(IDLE, |next| next.saturating_sub(now).clamp(500, IDLE));
        self.push(next, Turn::Fabric);
        Ok(())
    }

    /// Takes what a host's switch gave its uplink, compares it, and lets it fly.
    pub(super) fn take_uplink(&mut self, host: usize) -> Checked {
        let Some(fabric) = &self.fabric else { return Ok(()) };
        let sent: Vec<_> = fabric.lines[host].iter().flat_map(|(_, sends)| sends.take()).collect();
        for (bytes, offload) in sent {
            self.leave(host, &bytes, offload)?;
        }
        Ok(())
    }

    fn leave(&mut self, host: usize, bytes: &[u8], offload: Offload) -> Checked {
        let wire = self.wire(host);
        let header = verdicts::header_of(offload);
        let Some(frames) = on_the_wire(&header, bytes) else {
            let what = format!("host {host} asks its uplink for what it cannot do: {header:?}");
            return Err(Violation::new("underlay", what));
        };
        if frames.len() > 1 {
            self.stats.edge("uplink > cut by the device", 1);
        }
        let mut counted = bytes.len();
        for frame in frames {
            self.trace.frame(self.now, "left", wire, 0, &frame);
            let length = std::mem::take(&mut counted);
            let origin = match tunnel::open(&frame) {
                Some((outer, at)) => {
                    let inner = frame[at..].to_vec();
                    let entry = if underlay::is_announcement(&inner) {
                        underlay::check_announcement(&self.network, host, (&outer, at), &frame)?;
                        self.ledger.left_unsent(wire, length);
                        None
                    } else {
                        Some(self.ledger.left(wire, inner, length, &self.network)?)
                    };
                    let sent = entry.and_then(|entry| self.ledger.first_of(entry));
                    let sent = sent.filter(|sent| sent.guest < self.guests.len());
                    self.trace.words(self.now, "header", &format!("{header:?} {offload:?}"));
                    // Who asks for a sum at odd places gets a wrong one outside too, and its packet goes no further.
                    let lies = sent.is_none_or(|sent| self.lies(sent.guest));
                    underlay::check_leaving(&self.network, host, &frame, (&outer, at), (sent, lies))?;
                    self.stats.edge("uplink > underlay", 1);
                    sent.and(entry)
                }
                None if self.ledger.is_answer(wire, &frame) => {
                    self.ledger.left(wire, frame.clone(), length, &self.network)?;
                    None
                }
                None => {
                    self.ledger.left_unsent(wire, length);
                    None
                }
            };
            let (network, now) = (&self.network, self.now);
            if let Some(fabric) = &mut self.fabric {
                fabric.carry(network, host, now, &frame, origin);
            }
        }
        Ok(())
    }

    /// Counts a drop that nobody was shown.
    pub fn late_drop(&mut self, reason: DropReason, count: u64) {
        *self.stats.drops.entry(reason).or_default() += count;
    }
}
