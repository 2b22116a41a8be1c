//! Strangers on the underlay: whoever can send to a host's address does, as whoever they like.

use crate::net::frame::{Fill, Flow, UDP, arp, ethernet, icmpv6, packet, push_ipv4, solicitation};
use crate::net::tunnel::{Outer, set_class, wrap};
use crate::net::{Station, frame::push_ipv6};
use crate::network::{HostView, Network, station, vni};
use crate::random::Random;
use std::net::IpAddr;

macro_rules! intrusions {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal,)+) => {
        /// What a stranger does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Intrusion {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Intrusion {
            /// All of them.
            pub const ALL: &'static [Intrusion] = &[$(Intrusion::$variant,)+];

            /// Its name in tables.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Intrusion::$variant => $name,)+
                }
            }
        }
    };
}

intrusions! {
    /// From an address that is no tunnel end point's.
    UnknownVtep => "O: unknown VTEP",
    /// For a VPC that has no port there, or that nobody has.
    UnknownVni => "O: unknown VNI",
    /// From a known tunnel end point, in the name of somebody who lives elsewhere.
    SpoofedSource => "O: inner source lives elsewhere",
    /// From the host's own address.
    OwnAddress => "O: from the host's own address",
    /// Cut off anywhere.
    Truncated => "O: truncated",
    /// A tunnel in the tunnel.
    Nested => "O: nested",
    /// Flags and reserved bits of other formats.
    WrongFlags => "O: wrong flags",
    /// In fragments.
    Fragment => "O: fragment",
    /// With options.
    Options => "O: IP options",
    /// A wrong outer checksum.
    BadChecksum => "O: wrong checksum",
    /// A length that lies.
    BadLength => "O: lengths that lie",
    /// An inner frame of any bytes.
    Garbage => "O: inner garbage",
    /// For nobody.
    UnknownMac => "O: inner destination is nobody's",
    /// Marked, though its sender does not know marks.
    Congestion => "O: congestion marks on not-ECT",
    /// An answer that nobody asked for.
    Neighbour => "O: neighbour lies",
    /// Questions for the host and for others.
    Question => "O: neighbour questions, pings",
    /// Something else than a tunnel.
    Other => "O: other traffic",
    /// Router advertisements and other services in the tunnel.
    RogueService => "O: inner router advertisement",
    /// A right packet, forged in the name of a known tunnel end point inside its VPC.
    Forged => "O: forged, and right",
}

impl Intrusion {
    /// Whether what becomes of it cannot be told from its headers.
    #[must_use]
    pub fn is_odd(self) -> bool {
        matches!(self, Self::Truncated | Self::Garbage | Self::RogueService | Self::Nested)
    }
}

/// A frame of a stranger for host `to`.
pub fn intrude(network: &Network, to: usize, kind: Intrusion, random: &mut Random) -> Option<Vec<u8>> {
    let own = network.hosts[to];
    let others: Vec<usize> = (0..network.hosts.len()).filter(|host| *host != to).collect();
    let known = network.hosts[random.pick(&others)];
    let here: Vec<usize> =
        (0..network.ports.len()).filter(|guest| network.ports[*guest].host == to).collect();
    let target = network.ports.get(*here.get(random.below(here.len()))?)?;
    let vpc = target.subnet.0;
    let v6 = random.chance(500);
    let from = sender(network, known, vpc, random);
    let mut payload = [0x5a; 80];
    random.fill(&mut payload[..16]);
    let plain = Outer {
        macs: (own.mac, [6, 0xee, 0, 0, 0, 1]),
        addresses: (known.address, own.address),
        port: 50_000 + random.below(1000) as u16,
        class: 0,
        flags: 0x08,
        policy: 0,
        vni: vni(vpc),
    };
    let stranger = match own.address {
        IpAddr::V4(_) => IpAddr::from([192, 0, 2, 200 + random.below(50) as u8]),
        IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 1, random.below(50) as u16]),
    };
    let scene = Scene { network, own, known, vpc, from, to: target.station, v6, payload, plain, stranger };
    scene.wrapped_wrong(kind, random).or_else(|| scene.filled_wrong(kind, random))
}

/// What a stranger knows: the host it is at, one that it plays, and who is meant.
struct Scene<'a> {
    network: &'a Network,
    own: HostView,
    known: HostView,
    vpc: usize,
    from: Station,
    to: Station,
    v6: bool,
    payload: [u8; 80],
    plain: Outer,
    stranger: IpAddr,
}

impl Scene<'_> {
    /// A frame of `from` to who is meant.
    fn inner(&self, from: Station) -> Vec<u8> {
        let flow = Flow { from, to: self.to, v6: self.v6, protocol: UDP, ports: (31_000, 31_000) };
        packet(&flow, 1, &self.payload, Fill::Whole)
    }

    /// Lies of the outer headers; nothing for other kinds, and where there is no such lie.
    fn wrapped_wrong(&self, kind: Intrusion, random: &mut Random) -> Option<Vec<u8>> {
        let Self { network, own, known, vpc, from, plain, stranger, .. } = *self;
        let inner = |from: Station| self.inner(from);
        Some(match kind {
            Intrusion::UnknownVtep => {
                wrap(&Outer { addresses: (stranger, own.address), ..plain }, &inner(from), true)
            }
            Intrusion::UnknownVni => {
                let wrong =
                    [plain.vni ^ 1, plain.vni << 8 & 0xff_ffff, 0, 0xff_ffff, plain.vni.swap_bytes() >> 8];
                wrap(&Outer { vni: random.pick(&wrong), ..plain }, &inner(from), false)
            }
            Intrusion::SpoofedSource => wrap(&plain, &inner(elsewhere(network, known, vpc, random)?), false),
            Intrusion::OwnAddress => {
                wrap(&Outer { addresses: (own.address, own.address), ..plain }, &inner(from), false)
            }
            Intrusion::Truncated => {
                let mut frame = wrap(&plain, &inner(from), false);
                frame.truncate(14 + random.below(frame.len() - 14));
                frame
            }
            Intrusion::Nested => {
                let nested =
                    wrap(&Outer { vni: random.number() as u32 & 0xff_ffff, ..plain }, &inner(from), false);
                wrap(&plain, &nested, random.chance(500))
            }
            Intrusion::WrongFlags => {
                let flags = random.pick(&[0, 0x04, 0x0c, 0x18, 0x28, 0x48, 0x88, 0xff]);
                wrap(&Outer { flags, policy: random.number() as u16, ..plain }, &inner(from), false)
            }
            Intrusion::Fragment => {
                let mut frame = wrap(&plain, &inner(from), false);
                if own.address.is_ipv6() {
                    return None;
                }
                let parts = random.pick(&[[0x20, 0], [0, 64], [0x20, 64]]);
                frame[20..22].copy_from_slice(&parts);
                set_class(&mut frame, 0);
                frame
            }
            Intrusion::Options => with_options(&wrap(&plain, &inner(from), false), own)?,
            _ => return None,
        })
    }

    /// The other kinds.
    fn filled_wrong(&self, kind: Intrusion, random: &mut Random) -> Option<Vec<u8>> {
        let Self { own, known, from, plain, stranger, .. } = *self;
        let inner = |from: Station| self.inner(from);
        Some(match kind {
            Intrusion::BadChecksum => {
                let mut frame = wrap(&plain, &inner(from), true);
                let last = frame.len() - 1;
                frame[last] ^= 0x55;
                frame
            }
            Intrusion::BadLength => {
                let mut frame = wrap(&plain, &inner(from), false);
                let at = if own.address.is_ipv4() { 38 } else { 58 };
                let length = u16::from_be_bytes([frame[at], frame[at + 1]]);
                let lie = random.pick(&[8, 15, 16, 29, length - 1, length - 40]);
                frame[at..at + 2].copy_from_slice(&lie.to_be_bytes());
                frame
            }
            Intrusion::Garbage => {
                let mut bytes = inner(from);
                let count = 1 + random.below(8);
                for _ in 0..count {
                    let at = random.below(bytes.len());
                    bytes[at] = random.number() as u8;
                }
                wrap(&plain, &bytes, random.chance(500))
            }
            Intrusion::UnknownMac => {
                let mut bytes = inner(from);
                bytes[..6].copy_from_slice(&[2, 0xdd, 0, 0, 0, random.below(256) as u8]);
                wrap(&plain, &bytes, false)
            }
            Intrusion::Congestion => wrap(&Outer { class: 3, ..plain }, &inner(from), false),
            Intrusion::Neighbour => neighbour_lie(&own, known, stranger, random),
            Intrusion::Question => question(&own, stranger, random),
            Intrusion::Other => {
                let mut frame = wrap(&plain, &inner(from), false);
                let at = if own.address.is_ipv4() { 36 } else { 56 };
                frame[at..at + 2].copy_from_slice(&random.pick(&[53u16, 4790, 8472]).to_be_bytes());
                frame
            }
            Intrusion::RogueService => {
                let all = std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
                let advertises = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
                let link_local = crate::net::link_local(from.mac);
                wrap(
                    &plain,
                    &icmpv6([0x33, 0x33, 0, 0, 0, 1], from.mac, link_local, all, 255, &advertises),
                    false,
                )
            }
            Intrusion::Forged => wrap(&plain, &inner(from), false),
            _ => return None,
        })
    }
}

/// Somebody of a VPC who lives at `known`, or who nobody is.
fn sender(network: &Network, known: HostView, vpc: usize, random: &mut Random) -> Station {
    let there = |guest: &&crate::network::PortView| {
        guest.subnet.0 == vpc && network.hosts[guest.host].address == known.address
    };
    let nobody = station((vpc, 0), 77);
    network
        .ports
        .iter()
        .find(there)
        .map_or(nobody, |port| if random.chance(900) { port.station } else { nobody })
}

/// Somebody of a VPC who does not live at `known`.
fn elsewhere(network: &Network, known: HostView, vpc: usize, random: &mut Random) -> Option<Station> {
    let not_there: Vec<Station> = network
        .ports
        .iter()
        .filter(|port| port.subnet.0 == vpc && network.hosts[port.host].address != known.address)
        .map(|port| port.station)
        .collect();
    not_there.get(random.below(not_there.len())).copied()
}

/// The same with four bytes of options.
fn with_options(frame: &[u8], own: HostView) -> Option<Vec<u8>> {
    if own.address.is_ipv6() {
        return None;
    }
    let mut frame = [&frame[..34], &[1, 1, 1, 0], &frame[34..]].concat();
    let length = u16::from_be_bytes([frame[16], frame[17]]) + 4;
    frame[14] = 0x46;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    set_class(&mut frame, 0);
    Some(frame)
}

fn neighbour_lie(own: &HostView, known: HostView, stranger: IpAddr, random: &mut Random) -> Vec<u8> {
    let liar = [6, 0xee, 0, 0, 0, 9];
    // Whom the host knows is asked for again and again, and may be taken over by who answers first: ARP and ND are not safe on a hostile link. So only
    // what nobody asked for is said here.
    let _ = known;
    match (own.address, stranger) {
        (IpAddr::V4(to), IpAddr::V4(about)) => {
            arp(own.mac, liar, 2, (liar, about), (own.mac, if random.chance(500) { to } else { about }))
        }
        (IpAddr::V6(to), IpAddr::V6(about)) => {
            let mut body = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
            body.extend(about.octets());
            body.extend([2, 1]);
            body.extend(liar);
            icmpv6(own.mac, liar, about, to, 255, &body)
        }
        _ => Vec::new(),
    }
}

fn question(own: &HostView, stranger: IpAddr, random: &mut Random) -> Vec<u8> {
    let asker = [6, 0xee, 0, 0, 0, 2];
    let mut asked =
        Station { mac: asker, v4: [192, 0, 2, 199].into(), v6: [0x2001, 0xdb8, 0, 0, 0, 0, 1, 99].into() };
    match (own.address, stranger) {
        (IpAddr::V4(to), IpAddr::V4(about)) if random.chance(500) => {
            crate::net::frame::arp_request(&asked, if random.chance(500) { to } else { about })
        }
        (IpAddr::V6(to), IpAddr::V6(about)) if random.chance(500) => {
            solicitation(&asked, if random.chance(500) { to } else { about })
        }
        (IpAddr::V4(to), _) => {
            let mut frame = ethernet(own.mac, asker, 0x0800);
            push_ipv4(&mut frame, asked.v4, to, 1, 1, 40);
            ping(&mut frame, 8, 0)
        }
        (IpAddr::V6(to), _) => {
            asked.mac = asker;
            let mut frame = ethernet(own.mac, asker, 0x86dd);
            push_ipv6(&mut frame, asked.v6, to, 58, 40);
            let pseudo = crate::net::checksum::pseudo(asked.v6.into(), to.into(), 58, 40);
            ping(&mut frame, 128, pseudo)
        }
    }
}

fn ping(frame: &mut Vec<u8>, kind: u8, pseudo: u16) -> Vec<u8> {
    let at = frame.len();
    frame.extend([kind, 0, 0, 0, 0x12, 0x34, 0, 1]);
    frame.extend([0x77; 32]);
    let sum = crate::net::checksum::sum(&frame[at..]);
    let value = !crate::net::checksum::fold(u32::from(pseudo) + sum);
    frame[at + 2..at + 4].copy_from_slice(&value.to_be_bytes());
    frame.clone()
}
