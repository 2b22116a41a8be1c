//! Router advertisements (RFC 4861 section 6.2) of a subnet's gateway: what it says, to whom and when.
//!
//! Addresses come from DHCPv6, so the flags M and O are set and prefixes are on-link without being autonomous: a guest has the addresses
//! that its port has, and no others. The router is the gateway's link-local address, which its MAC address gives.

use std::net::Ipv6Addr;
use std::time::Duration;

use ipnet::Ipv6Net;
use packet::checksum::{Sum, pseudo_header_v6};
use packet::{Fragment, L4, MacAddr, ethernet, icmp, ndp};

use crate::frame::{self, ALL_NODES};
use crate::random::Random;
use crate::{Refusal, domain, link_local};

/// Every router on an IPv6 link, to which solicitations go.
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// The longest frame that is returned, in bytes: IPv6's minimum MTU in Ethernet.
pub const MAX_ANSWER: usize = 14 + 1280;

/// Bytes of a solicitation without its options.
const SOLICITATION_LENGTH: usize = 8;
/// Option types (RFC 4861 section 4.6, RFC 8106 section 5).
mod option {
    pub(super) const SOURCE_LINK: u8 = 1;
    pub(super) const PREFIX: u8 = 3;
    pub(super) const MTU: u8 = 5;
    pub(super) const RDNSS: u8 = 25;
    pub(super) const DNSSL: u8 = 31;
}
/// Addresses and other configuration come from DHCPv6.
const MANAGED_AND_OTHER: u8 = 0xc0;
/// The prefix is on this link. Its addresses are not made up by hosts: the flag "autonomous" is not set.
const ON_LINK: u8 = 0x80;
/// Hop limit for hosts to use.
const HOP_LIMIT: u8 = 64;
/// AdvValidLifetime and AdvPreferredLifetime, in seconds: 30 and 7 days.
const VALID: u32 = 30 * 86_400;
const PREFERRED: u32 = 7 * 86_400;
/// Prefixes, name servers and domains that one advertisement carries at most.
const MAX_PREFIXES: usize = 16;
const MAX_SERVERS: usize = 8;
const MAX_SEARCH: usize = 248;

/// MaxRtrAdvInterval and MinRtrAdvInterval (RFC 4861 section 6.2.1), the defaults.
const MAX_INTERVAL: Duration = Duration::from_secs(600);
const MIN_INTERVAL: Duration = Duration::from_secs(200);
/// AdvDefaultLifetime: three intervals.
const ROUTER_LIFETIME: u16 = 1800;
/// The first advertisements come sooner (section 6.2.4): so many, at most so far apart.
const INITIAL_ADVERTISEMENTS: u8 = 3;
const INITIAL_INTERVAL: Duration = Duration::from_secs(16);
/// Least time between two advertisements to all nodes (section 10).
const MIN_DELAY: Duration = Duration::from_secs(3);

/// What a subnet's gateway advertises. The plan's side of every advertisement.
#[derive(Clone, Debug)]
pub struct Advertisement {
    /// The gateway's MAC address; its link-local address follows from it.
    pub gateway_mac: MacAddr,
    /// The subnet's IPv6 prefixes; at most 16 are sent.
    pub prefixes: Vec<Ipv6Net>,
    /// Bytes of the longest IP packet.
    pub mtu: u16,
    /// Name servers; at most 8 are sent.
    pub dns: Vec<Ipv6Addr>,
    /// Domains that short names belong to; as many as fit in 248 bytes are sent.
    pub domains: Vec<String>,
    /// Hosts take the gateway as a default router. If not, they learn prefixes, MTU and names only.
    pub default_router: bool,
}

/// The advertisement that answers a solicitation: to the asker, or to all nodes when it has no address yet.
///
/// The random delay of RFC 4861 section 6.2.6 is left out: it keeps several routers apart, and the gateway is the only one on its link.
///
/// # Errors
///
/// The frame is no valid router solicitation (section 6.1.1).
pub fn answer(advertisement: &Advertisement, question: &[u8]) -> Result<Vec<u8>, Refusal> {
    let asker = solicitation(question)?;
    let (link, destination) = match asker.address {
        Some(address) => (asker.mac, address),
        None => (MacAddr::of_ipv6_multicast(ALL_NODES), ALL_NODES),
    };
    Ok(write(advertisement, link, destination, lifetime(advertisement)))
}

/// The advertisement to all nodes, as [`Advertiser`] says when.
#[must_use]
pub fn unsolicited(advertisement: &Advertisement) -> Vec<u8> {
    write(advertisement, MacAddr::of_ipv6_multicast(ALL_NODES), ALL_NODES, lifetime(advertisement))
}

/// The last one: the gateway ceases to be a router (section 6.2.5).
#[must_use]
pub fn farewell(advertisement: &Advertisement) -> Vec<u8> {
    write(advertisement, MacAddr::of_ipv6_multicast(ALL_NODES), ALL_NODES, 0)
}

fn lifetime(advertisement: &Advertisement) -> u16 {
    if advertisement.default_router { ROUTER_LIFETIME } else { 0 }
}

/// Who asked.
struct Asker {
    mac: MacAddr,
    /// `None`: it asked from the unspecified address.
    address: Option<Ipv6Addr>,
}

/// RFC 4861 section 6.1.1.
fn solicitation(question: &[u8]) -> Result<Asker, Refusal> {
    let headers = frame::headers(question)?;
    let ip = headers.ipv6(question).ok_or(Refusal::NotForUs)?;
    match icmp::type_and_code(question, &headers) {
        _ if headers.fragment != Fragment::Whole => return Err(Refusal::Fragmented),
        _ if headers.l4 != L4::Icmpv6 => return Err(Refusal::NotForUs),
        Some((ndp::ROUTER_SOLICITATION, 0)) => {}
        Some((ndp::ROUTER_SOLICITATION, _)) => return Err(Refusal::Format),
        Some((ndp::ROUTER_ADVERTISEMENT | ndp::REDIRECT, _)) => return Err(Refusal::ServerMessage),
        _ => return Err(Refusal::NotForUs),
    }
    if ip.hop_limit() != 255 {
        return Err(Refusal::HopLimit);
    }
    let message =
        question.get(usize::from(headers.l4_offset)..headers.l3_end() as usize).ok_or(Refusal::Headers)?;
    let sum = pseudo_header_v6(ip.source(), ip.destination(), icmp::PROTOCOL_V6, message.len() as u32);
    if !sum.plus(Sum::of(message)).is_right() {
        return Err(Refusal::Checksum);
    }
    let options = message.get(SOLICITATION_LENGTH..).ok_or(Refusal::Truncated)?;
    let names_link = walk(options)?;
    let unspecified = ip.source().is_unspecified();
    if ip.source().is_multicast() || (unspecified && names_link) {
        return Err(Refusal::Addresses);
    }
    let mac = ethernet::View::new(question).ok_or(Refusal::Headers)?.source();
    Ok(Asker { mac, address: (!unspecified).then(|| ip.source()) })
}

/// Walks the options; is there a source link-layer address? The answer goes to the frame's source, which port security checked, and not
/// to what the option says.
fn walk(mut options: &[u8]) -> Result<bool, Refusal> {
    let mut names_link = false;
    while let [kind, units, ..] = *options {
        let length = usize::from(units) * 8;
        if length == 0 {
            return Err(Refusal::OptionLength);
        }
        names_link |= kind == option::SOURCE_LINK;
        options = options.get(length..).ok_or(Refusal::OptionLength)?;
    }
    if options.is_empty() { Ok(names_link) } else { Err(Refusal::OptionLength) }
}

/// The whole frame.
fn write(advertisement: &Advertisement, link: MacAddr, destination: Ipv6Addr, lifetime: u16) -> Vec<u8> {
    let mac = advertisement.gateway_mac;
    let mut message = vec![ndp::ROUTER_ADVERTISEMENT, 0, 0, 0, HOP_LIMIT, MANAGED_AND_OTHER];
    message.extend_from_slice(&lifetime.to_be_bytes());
    // Reachable time and retransmission timer: unspecified by this router.
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[option::SOURCE_LINK, 1]);
    message.extend_from_slice(&mac.0);
    message.extend_from_slice(&[option::MTU, 1, 0, 0]);
    message.extend_from_slice(&u32::from(advertisement.mtu).to_be_bytes());
    for prefix in advertisement.prefixes.iter().take(MAX_PREFIXES) {
        message.extend_from_slice(&[option::PREFIX, 4, prefix.prefix_len(), ON_LINK]);
        message.extend_from_slice(&VALID.to_be_bytes());
        message.extend_from_slice(&PREFERRED.to_be_bytes());
        message.extend_from_slice(&[0; 4]);
        message.extend_from_slice(&prefix.network().octets());
    }
    names(&mut message, advertisement);
    frame::icmp6((link, mac), link_local(mac), destination, &message)
}

/// RDNSS and DNSSL (RFC 8106). Their lifetime is the router's default: three intervals.
fn names(message: &mut Vec<u8>, advertisement: &Advertisement) {
    let servers: Vec<_> = advertisement.dns.iter().take(MAX_SERVERS).collect();
    if !servers.is_empty() {
        message.extend_from_slice(&[option::RDNSS, 1 + 2 * servers.len() as u8, 0, 0]);
        message.extend_from_slice(&u32::from(ROUTER_LIFETIME).to_be_bytes());
        servers.iter().for_each(|server| message.extend_from_slice(&server.octets()));
    }
    let mut search = Vec::new();
    for name in &advertisement.domains {
        let before = search.len();
        domain::put(&mut search, name);
        if search.len() > MAX_SEARCH {
            search.truncate(before);
            break;
        }
    }
    if !search.is_empty() {
        search.resize(search.len().next_multiple_of(8), 0);
        message.extend_from_slice(&[option::DNSSL, 1 + (search.len() / 8) as u8, 0, 0]);
        message.extend_from_slice(&u32::from(ROUTER_LIFETIME).to_be_bytes());
        message.extend_from_slice(&search);
    }
}

/// When a gateway advertises itself unasked (RFC 4861 section 6.2.4), and how often it answers by multicast (section 6.2.6). One for each
/// port or each subnet, as the caller likes.
#[derive(Clone, Debug)]
pub struct Advertiser {
    due: Duration,
    last: Option<Duration>,
    sent: u8,
    random: Random,
}

impl Advertiser {
    /// Begins to advertise at `now`. `seed` spreads the advertisements of many.
    #[must_use]
    pub fn new(seed: u64, now: Duration) -> Self {
        Advertiser { due: now, last: None, sent: 0, random: Random::new(seed) }
    }

    /// When [`Advertiser::on_tick`] is to be called next.
    #[must_use]
    pub fn next_deadline(&self) -> Duration {
        self.due
    }

    /// Is [`unsolicited`] to be sent now? It costs nothing to ask too early.
    pub fn on_tick(&mut self, now: Duration) -> bool {
        if now < self.due {
            return false;
        }
        self.sent = self.sent.saturating_add(1);
        let interval = self.random.between(MIN_INTERVAL, MAX_INTERVAL);
        let initial = self.sent < INITIAL_ADVERTISEMENTS;
        self.due = now + if initial { interval.min(INITIAL_INTERVAL) } else { interval };
        self.last = Some(now);
        true
    }

    /// A solicitation came that `advertisement` answers. An asker with an address gets the answer at once; one without is answered by
    /// multicast, at most every three seconds: if that is too early, the next deadline moves there and `None` is returned.
    ///
    /// # Errors
    ///
    /// As [`answer`].
    pub fn on_solicitation(
        &mut self,
        advertisement: &Advertisement,
        question: &[u8],
        now: Duration,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        if solicitation(question)?.address.is_some() {
            return answer(advertisement, question).map(Some);
        }
        let earliest = self.last.map_or(now, |last| last + MIN_DELAY);
        self.due = self.due.min(earliest.max(now));
        Ok(self.on_tick(now).then(|| unsolicited(advertisement)))
    }
}
