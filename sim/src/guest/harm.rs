//! What a hostile guest does when it gets the processor: packets of all kinds, and writes where no driver writes.

use super::actor::{Acted, Guest};
use super::hostile::attack;
use crate::check::ledger::Expect;
use crate::network::Network;
use crate::random::Random;
use virtio_driver::{Gso, NetHeader};

impl Guest {
    /// What a hostile guest does: packets of all kinds, and writes where no driver writes.
    pub(super) fn harm(&mut self, network: &Network, acted: &mut Acted) {
        let pairs = self.nic.as_ref().map_or(0, |nic| nic.pairs.len());
        for pair in 0..pairs {
            let Some(nic) = &mut self.nic else { return };
            // What it finds in rings that it broke itself surprises nobody.
            let sound = nic.reclaim(pair).is_ok() && nic.refill(pair, self.options.refill).is_ok();
            acted.resets |= !sound && !self.quiet && self.random.chance(100);
        }
        acted.resets |= !self.quiet && self.random.chance(5);
        if !self.quiet {
            self.send_harm(network, acted);
        }
        let Some(nic) = self.nic.as_mut().filter(|_| !self.quiet) else { return };
        if self.random.chance(300) {
            for _ in 0..1 + self.random.below(4) {
                acted.attacks.extend(attack(nic, &mut self.random));
            }
        }
        acted.kicks =
            (0..nic.pairs.len()).filter(|pair| nic.publish(*pair) || self.random.chance(100)).collect();
        acted.busy = !self.quiet;
    }

    fn send_harm(&mut self, network: &Network, acted: &mut Acted) {
        let others: Vec<usize> = (0..network.ports.len()).filter(|other| *other != self.index).collect();
        for _ in 0..1 + self.random.below(self.options.burst) {
            // Also to those it must not reach.
            let to = self.random.pick(&others);
            let before = acted.sent.len();
            let own = self.station;
            if self.random.chance(100) {
                self.station = network.ports[to].station;
            }
            let done = match self.random.below(4) {
                0 => self.send_odd(network, to, acted),
                1 => self.send_large(network, to, acted),
                _ => self.send_plain(network, to, acted),
            };
            self.station = own;
            let last = acted.sent.get(before).map(|sent| (sent.header, sent.frame.clone()));
            if let Some((mut header, mut frame)) = last.filter(|_| self.random.chance(500)) {
                mutate(&mut header, &mut frame, &mut self.random);
                self.send(header, frame, Expect::Any, acted);
            }
            if !done {
                break;
            }
        }
        let to = self.random.pick(&others);
        if self.random.chance(100) {
            self.talk_to_neighbours(network, to, acted);
        }
    }
}

/// Changes a frame and its header at random.
fn mutate(header: &mut NetHeader, frame: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        match random.below(10) {
            0 => frame.truncate(1 + random.below(frame.len())),
            1 => frame.extend([0x99; 40]),
            2 => {
                header.gso = random.pick(&[Gso::TcpV4, Gso::TcpV6, Gso::UdpL4]);
            }
            3 => header.gso_size = random.pick(&[0, 1, 2, 100, 1448, u16::MAX]),
            4 => (header.needs_csum, header.csum_start) = (true, random.below(200) as u16),
            5 => header.csum_offset = random.pick(&[0, 2, 6, 16, 60_000]),
            6 => (header.ecn, header.other_flags) = (random.chance(500), random.pick(&[0, 4, 0xfc])),
            _ => {
                let at = random.below(frame.len().min(90));
                frame[at] = random.number() as u8;
            }
        }
    }
}
