//! The next hops of the uplink: who on the underlay's link is at which MAC address (ARP, RFC 826; neighbour discovery, RFC 4861 section 7).
//!
//! A tunnel end is reached through a next hop: itself when it is on the link, else a gateway. [`Resolver::resolve`] gives the next hop a
//! small number that a worker can index with; the caller publishes the MAC address of each number as [`Action`]s say. Nothing here is
//! asked per packet: [`Resolver::used`] is for a caller that looks at its counters now and then, and a tick costs what is due.
//!
//! The states are those of RFC 4861 section 7.3.2, for IPv4 too: an address is solicited three times, a second apart; what answers is
//! reachable for some thirty seconds, then stale, and asked again (by unicast, its MAC address in use meanwhile) when it is used. A next hop
//! that does not answer fails, and is tried again when it is used, or after a time that doubles. Solicitations are limited in rate, so that
//! ten thousand new tunnel ends do not flood the link.
//!
//! Who asks says where it is (RFC 826, RFC 4861 section 7.2.3), as who announces itself does: a known next hop that moved is asked there at once.
//!
//! The underlay is hostile: only the next hops asked for are known, an answer that was not asked for makes no more than a stale entry, and
//! at most once a second another MAC address, which is verified before the next one is believed.

mod entry;
mod message;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use packet::MacAddr;

use crate::Refusal;
use crate::random::Random;
use entry::{Entry, Step};
use message::Said;

/// Solicitations that may leave at once, and how long one more takes.
const SOLICITATION_BURST: u32 = 100;
const SOLICITATION_INTERVAL: Duration = Duration::from_millis(1);
/// Next hops there can be: as many as the data path has room for.
const NUMBERS: usize = 16_384;
/// How long a number that was given back is not given out: longer than a packet waits for a next hop, or one for the old would go to the new.
const REST: Duration = Duration::from_secs(5);

/// The uplink's side of the link.
#[derive(Clone, Debug)]
pub struct Link {
    /// The uplink's MAC address.
    pub mac: MacAddr,
    /// Its addresses with their prefixes, which are on the link.
    pub addresses: Vec<IpNet>,
    /// Routers on the link to everywhere else; the first of a family is used.
    pub gateways: Vec<IpAddr>,
}

impl Link {
    /// Is this one of the uplink's own addresses?
    #[must_use]
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.addr() == address)
    }

    /// Can this address be reached without a router?
    #[must_use]
    pub fn is_on_link(&self, address: IpAddr) -> bool {
        let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
        link_local || self.addresses.iter().any(|own| own.contains(&address))
    }

    /// The station to which packets for `destination` are sent: itself or a gateway.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn next_hop(&self, destination: IpAddr) -> Result<IpAddr, ResolveError> {
        let broadcast = matches!(destination, IpAddr::V4(address) if address.is_broadcast());
        if destination.is_multicast() || destination.is_unspecified() || broadcast {
            return Err(ResolveError::NotUnicast(destination));
        }
        if self.is_own(destination) {
            return Err(ResolveError::Own(destination));
        }
        if self.is_on_link(destination) {
            return Ok(destination);
        }
        let same_family = |gateway: &&IpAddr| gateway.is_ipv4() == destination.is_ipv4();
        match self.gateways.iter().find(same_family) {
            Some(gateway) if self.is_on_link(*gateway) => Ok(*gateway),
            Some(gateway) => Err(ResolveError::GatewayOffLink { destination, gateway: *gateway }),
            None => Err(ResolveError::NoGateway(destination)),
        }
    }
}

/// Why an address has no next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// It is no address of one station.
    #[error("{0} is not the address of one station")]
    NotUnicast(IpAddr),
    /// It is an address of this uplink.
    #[error("{0} is an address of this host's own uplink")]
    Own(IpAddr),
    /// It is not on the link, and there is no gateway for its family.
    #[error(
        "{0} is not in a prefix of the uplink's addresses, and the uplink has no gateway of this family: set uplink.gateway"
    )]
    NoGateway(IpAddr),
    /// It is not on the link, and neither is the gateway.
    #[error(
        "{destination} is reached through the gateway {gateway}, which is in no prefix of the uplink's addresses: correct uplink.gateway"
    )]
    GatewayOffLink {
        /// What was asked for.
        destination: IpAddr,
        /// The gateway for it.
        gateway: IpAddr,
    },
    /// All 16,384 numbers are in use.
    #[error("more than 16384 next hops")]
    Full,
}

/// The number of a next hop, from 0, small and used again after [`Resolver::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NeighbourId(pub u16);

/// What the caller is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this frame on the uplink.
    Send(Vec<u8>),
    /// The next hop is at this MAC address from now on: packets for it can go, those that waited too.
    Reachable {
        /// The next hop.
        id: NeighbourId,
        /// Its MAC address.
        mac: MacAddr,
    },
    /// The next hop did not answer: packets that wait for it are dropped, and further ones until it is reachable.
    Failed {
        /// The next hop.
        id: NeighbourId,
    },
}

/// What a next hop is doing, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address, as long as packets are sent there.
    pub mac: Option<MacAddr>,
    /// Its state, as RFC 4861 and `ip neigh` name it.
    pub state: &'static str,
    /// How many times it was resolved and not released.
    pub users: u32,
}

/// The next hops of one uplink.
#[derive(Debug)]
pub struct Resolver {
    link: Link,
    entries: Vec<Option<Entry>>,
    /// Numbers that belong to nobody, and since when, oldest first.
    free: VecDeque<(Duration, u16)>,
    numbers: HashMap<IpAddr, u16>,
    /// When each entry that waits for something is due.
    due: BTreeSet<(Duration, u16)>,
    /// Up to when solicitations have been paid for; at most a burst's time behind now.
    paid: Duration,
    random: Random,
}

impl Resolver {
    /// No next hops yet. `seed` spreads the times at which many become stale.
    #[must_use]
    pub fn new(link: Link, seed: u64) -> Self {
        Resolver {
            link,
            entries: Vec::new(),
            free: VecDeque::new(),
            numbers: HashMap::new(),
            due: BTreeSet::new(),
            paid: Duration::ZERO,
            random: Random::new(seed),
        }
    }

    /// The uplink's side.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The uplink has other addresses, another MAC address or other routers. Next hops stay what they are: the caller resolves his destinations again
    /// before he releases what they were resolved to, as some may go by another next hop now.
    pub fn set_link(&mut self, link: Link) {
        self.link = link;
    }

    /// The number of the next hop towards `destination`, which many destinations may share. A new one is solicited by the next
    /// [`Resolver::on_tick`], which is due at once.
    ///
    /// # Errors
    ///
    /// There is no next hop.
    pub fn resolve(&mut self, destination: IpAddr, now: Duration) -> Result<NeighbourId, ResolveError> {
        let address = self.link.next_hop(destination)?;
        self.number_of(address, now)
    }

    /// The same of a station that is on the link, whatever the prefixes of the uplink's addresses say: the router of an external network. Where the uplink has no address that
    /// the station could answer to, it is asked as nobody (RFC 5227 section 2.1.1): so no cache learns anything of it.
    ///
    /// # Errors
    ///
    /// It is no station's address, or the uplink's own.
    pub fn resolve_on_link(&mut self, station: IpAddr, now: Duration) -> Result<NeighbourId, ResolveError> {
        let address = match self.link.next_hop(station) {
            Err(error @ (ResolveError::NotUnicast(_) | ResolveError::Own(_))) => return Err(error),
            _ => station,
        };
        self.number_of(address, now)
    }

    fn number_of(&mut self, address: IpAddr, now: Duration) -> Result<NeighbourId, ResolveError> {
        if let Some(&number) = self.numbers.get(&address) {
            if let Some(entry) = self.entry(number) {
                entry.users = entry.users.saturating_add(1);
            }
            return Ok(NeighbourId(number));
        }
        let rested = self.free.front().is_some_and(|(since, _)| now.saturating_sub(*since) >= REST);
        let number = if rested || self.entries.len() >= NUMBERS {
            self.free.pop_front().ok_or(ResolveError::Full)?.1
        } else {
            self.entries.push(None);
            (self.entries.len() - 1) as u16
        };
        if let Some(place) = self.entries.get_mut(usize::from(number)) {
            *place = Some(Entry::new(address, now));
        }
        self.numbers.insert(address, number);
        self.due.insert((now, number));
        Ok(NeighbourId(number))
    }

    /// Undoes one [`Resolver::resolve`]. After the last the number belongs to nobody, for a while: packets may still wait for it.
    pub fn release(&mut self, id: NeighbourId, now: Duration) {
        let Some(place) = self.entries.get_mut(usize::from(id.0)) else { return };
        let Some(entry) = place else { return };
        entry.users -= 1;
        if entry.users == 0 {
            if let Some(due) = entry.due() {
                self.due.remove(&(due, id.0));
            }
            self.numbers.remove(&entry.address);
            *place = None;
            self.free.push_back((now, id.0));
        }
    }

    /// Where packets for this next hop go now.
    #[must_use]
    pub fn mac(&self, id: NeighbourId) -> Option<MacAddr> {
        self.entries.get(usize::from(id.0))?.as_ref()?.mac()
    }

    /// What each next hop is doing.
    pub fn status(&self) -> impl Iterator<Item = (NeighbourId, Status)> {
        let numbered = self.entries.iter().enumerate();
        numbered.filter_map(|(number, entry)| Some((NeighbourId(number as u16), entry.as_ref()?.status())))
    }

    /// Packets were sent to this next hop since the last call, or would have been: a stale one is verified, a failed one tried again.
    pub fn used(&mut self, id: NeighbourId, now: Duration) {
        self.change(id.0, |entry| entry.used(now));
    }

    /// A frame came in on the uplink. Anything but ARP and neighbour discovery of a known next hop does nothing.
    ///
    /// # Errors
    ///
    /// The frame is ARP or neighbour discovery, and malformed.
    pub fn on_frame(&mut self, frame: &[u8], now: Duration) -> Result<Vec<Action>, Refusal> {
        let Some(said) = Said::parse(&self.link, frame)? else { return Ok(Vec::new()) };
        let Some(&number) = self.numbers.get(&said.address) else { return Ok(Vec::new()) };
        let jitter = entry::reachable_time(&mut self.random);
        let heard = self.change(number, |entry| entry.heard(&said, now, jitter)).flatten();
        Ok(heard.map(|mac| Action::Reachable { id: NeighbourId(number), mac }).into_iter().collect())
    }

    /// When [`Resolver::on_tick`] has something to do; `None` while nothing is going on.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        let (first, _) = self.due.first()?;
        // While solicitations are not paid for, nothing leaves.
        let affordable = self.paid.saturating_sub(SOLICITATION_INTERVAL * (SOLICITATION_BURST - 1));
        Some((*first).max(affordable))
    }

    /// Does what is due at `now`: solicits, notices who went stale, gives up. Takes time for what is due only.
    pub fn on_tick(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(&(due, number)) = self.due.first()
            && due <= now
            && self.next_deadline().is_some_and(|deadline| deadline <= now)
        {
            let random = self.random.next();
            let Some(step) = self.change(number, |entry| entry.step(now, random)) else {
                self.due.remove(&(due, number));
                continue;
            };
            match step {
                Step::Quiet => {}
                Step::Failed => actions.push(Action::Failed { id: NeighbourId(number) }),
                Step::Solicit(address, mac) => {
                    self.paid = self.paid.max(now) + SOLICITATION_INTERVAL;
                    actions.push(Action::Send(message::solicit(&self.link, address, mac)));
                }
            }
        }
        actions
    }

    fn entry(&mut self, number: u16) -> Option<&mut Entry> {
        self.entries.get_mut(usize::from(number))?.as_mut()
    }

    /// Changes an entry, and with it when it is due.
    fn change<T>(&mut self, number: u16, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let entry = self.entries.get_mut(usize::from(number))?.as_mut()?;
        let before = entry.due();
        let result = change(entry);
        let after = entry.due();
        if before != after {
            before.map(|due| self.due.remove(&(due, number)));
            after.map(|due| self.due.insert((due, number)));
        }
        Some(result)
    }
}
