//! What the switch tells guests by DHCP and as a router: only who asked, what the operator wants, and once.

use super::{Checked, Violation};
use crate::net::services::{Question, Told, flaw, question, told};
use crate::network::Network;

/// The questions of guests, and what they were told.
#[derive(Debug, Default)]
pub struct Services {
    /// Guest, the network's epoch, the question.
    asked: Vec<(usize, u64, Question)>,
    /// By guest: answers to DISCOVER, REQUEST, SOLICIT, and advertisements.
    pub told: Vec<[u64; 4]>,
    /// Edges since somebody looked.
    pub edges: Vec<&'static str>,
}

fn found(what: String) -> Checked {
    Err(Violation::new("services", what))
}

impl Services {
    /// For so many guests.
    #[must_use]
    pub fn new(guests: usize) -> Self {
        Self { told: vec![[0; 4]; guests], ..Self::default() }
    }

    /// Notes what a guest sends, if it is a question.
    pub fn sent(&mut self, guest: usize, frame: &[u8], epoch: u64) {
        if let Some(question) = question(frame) {
            self.asked.push((guest, epoch, question));
        }
    }

    /// Compares what guest `to` is told; whether it is anything of the kind.
    ///
    /// # Errors
    ///
    /// It did not ask, or is told something else than its subnet says.
    pub fn arrived(&mut self, to: usize, frame: &[u8], network: &Network) -> Result<bool, Violation> {
        let Some(said) = told(frame) else { return Ok(false) };
        let (place, edge) = match &said {
            Told::Dhcp4 { kind: 2, .. } => (0, "DHCPv4: offered"),
            Told::Dhcp4 { kind: 5, .. } => (1, "DHCPv4: acknowledged"),
            Told::Dhcp4 { .. } => (1, "DHCPv4: refused"),
            Told::Dhcp6 { .. } => (2, "DHCPv6: lent"),
            Told::Router { .. } => (3, "router advertised"),
        };
        let answers = |asked: &Question| match (&said, asked) {
            (Told::Dhcp4 { number, .. }, Question::Discover(asked) | Question::Request(asked, _))
            | (Told::Dhcp6 { number, .. }, Question::Solicit(asked)) => number == asked,
            _ => false,
        };
        let at = self.asked.iter().position(|(guest, _, asked)| *guest == to && answers(asked));
        let (epoch, asked) = match at.map(|at| self.asked.swap_remove(at)) {
            Some((_, epoch, asked)) => (epoch, Some(asked)),
            // A router says so whenever it likes; when it said this is not known.
            None if place == 3 => (0, None),
            None => return found(format!("guest {to} is told {said:?}, and did not ask")).map(|()| false),
        };
        let mut flaws = network.since(to, epoch).filter_map(|port| {
            let right = network.told(port)?;
            Some(flaw(frame, &said, asked, &right))
        });
        let first = flaws.next();
        if let Some(Some(what)) = first
            && !flaws.any(|flaw| flaw.is_none())
        {
            return found(format!("guest {to} is told {said:?}, which asked {asked:?}: {what}"))
                .map(|()| false);
        }
        if first.is_none() {
            return found(format!("guest {to} is told {said:?}, whose subnet has no services"))
                .map(|()| false);
        }
        self.told[to][place] += 1;
        self.edges.push(edge);
        Ok(true)
    }
}
