//! Packets that workers leave to the control thread.

use crate::fabric::{COPIES, Fabric};
use buf::{Checksum, Frame};
use engine::{Origin, PortIndex, Punt, PuntKind};
use packet::checksum::Sum;
use packet::{MacAddr, announce, arp, ethernet, ndp};
use services::Refusal;
use services::metadata::Upstream;
use services::neighbours::NeighbourId;
use std::net::IpAddr;
use std::time::Duration;
use switch::{Control, UPLINK};

/// What the agent must know: something of a VPC is behind a tunnel end point now, which says so itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The VPC's number.
    pub vpc: u16,
    /// The tunnel end point's number.
    pub vtep: u16,
    /// The MAC address.
    pub mac: MacAddr,
    /// The address at it; `None`: all that the station of this MAC address has (RARP).
    pub address: Option<IpAddr>,
}

/// Packets heard at once. A broadcast in a large subnet is copied for a thousand receivers.
const AT_ONCE: usize = 128;

impl<U: Upstream> Fabric<U> {
    /// Answers what workers left, 128 packets at most: workers that leave more meanwhile do not keep the caller from other work, which is to call
    /// again as long as something is left. Who says where something is in the fabric is returned, for the agent to judge.
    pub fn hear(&mut self, control: &mut Control, now: Duration) -> Vec<Event> {
        let exceptions = control.exceptions().clone();
        for _ in 0..exceptions.wanted.len() {
            let Some(neighbour) = exceptions.wanted.pop() else { break };
            if let Some(resolver) = &mut self.resolver {
                resolver.used(NeighbourId(neighbour), now);
            }
        }
        let mut events = Vec::new();
        for _ in 0..exceptions.punts.len().min(AT_ONCE) {
            let Some(punt) = exceptions.punts.pop() else { break };
            let Some(bytes) = punt.packet.with_frame(|frame| whole(&frame, punt.kind)) else { continue };
            events.extend(self.answer(control, &punt, &bytes, now));
        }
        let actions = self.resolver.as_mut().map(|resolver| resolver.on_tick(now)).unwrap_or_default();
        self.follow(control, actions);
        events
    }

    fn answer(&mut self, control: &mut Control, punt: &Punt, bytes: &[u8], now: Duration) -> Vec<Event> {
        let port = punt.port;
        let result: Result<(), Refusal> = match (punt.kind, punt.origin) {
            (PuntKind::Dhcp4, None) => self.answer_dhcp4(control, port, bytes),
            (PuntKind::Dhcp6, None) => self.answer_dhcp6(control, port, bytes),
            (PuntKind::Metadata, None) => self.answer_metadata(control, port, bytes, now),
            (PuntKind::RouterSolicitation, None) => self.answer_solicitation(control, port, bytes, now),
            (PuntKind::UnderlayNeighbour, None) => self.hear_neighbour(control, bytes, now),
            (PuntKind::HealthCheck, None) => self.answer_check(control, port, bytes, now),
            (PuntKind::HealthWord, Some(origin)) => {
                self.hear_word(control, (origin.vpc, origin.vtep), bytes, now)
            }
            (PuntKind::Announcement, Some(origin)) => {
                let mut events = announced(bytes, origin);
                // Whose guest runs here is not elsewhere: what says so is late, from before it came, or a lie.
                events.retain(|event| !self.ports.runs_here(event.vpc, event.mac));
                return events;
            }
            (PuntKind::Broadcast | PuntKind::Multicast, origin) => {
                self.replicate(control, port, origin, bytes, now);
                Ok(())
            }
            _ => Err(Refusal::NotForUs),
        };
        // Who sent it hears nothing, as from any server.
        if let Err(refusal) = result
            && let Some(count) = self.refusals.get_mut(refusal.index())
        {
            *count += 1;
        }
        Vec::new()
    }

    /// A neighbour of the underlay says where it is. If it asks as well where this host is, it is told: workers leave that to this thread where the one who
    /// asks has moved.
    fn hear_neighbour(&mut self, control: &mut Control, bytes: &[u8], now: Duration) -> Result<(), Refusal> {
        let Some(resolver) = &mut self.resolver else { return Ok(()) };
        let actions = resolver.on_frame(bytes, now)?;
        let reply = neighbour_reply(bytes, resolver.link().mac, &self.answered);
        self.follow(control, actions);
        if let Some(reply) = reply {
            self.transmit(control, UPLINK, &reply);
        }
        Ok(())
    }

    /// Copies what is for everybody to who is in the subnet: ports here, and for what a port here sent also tunnel end points.
    /// More copies than its budget has are not made.
    fn replicate(
        &mut self,
        control: &mut Control,
        from: PortIndex,
        origin: Option<Origin>,
        bytes: &[u8],
        now: Duration,
    ) {
        let subnet = match origin {
            None => self.ports.get(from).map(|port| port.subnet),
            Some(origin) => self.subnet_of_sender(control, origin, bytes),
        };
        let Some(subnet) = subnet else { return };
        let ports: Vec<PortIndex> = self.ports.of_subnet(subnet).filter(|port| *port != from).collect();
        let vpc = self.subnets.get(&subnet).map(|subnet| subnet.vpc).filter(|_| origin.is_none());
        let vteps: Vec<u16> = self.members.of(subnet).filter(|_| vpc.is_some()).collect();
        // A broadcast reaches all or nobody; one to more than a burst's worth takes all of it.
        let count = (ports.len() + vteps.len()) as u64;
        let (nanoseconds, cost) = (u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), count.min(COPIES.1));
        let paid = match (origin, &mut self.copies) {
            (None, _) => self.ports.copies(from).is_some_and(|budget| budget.take(nanoseconds, cost)),
            (Some(origin), (shares, all)) => shares.take(origin.vtep, all, nanoseconds, cost),
        };
        if !paid {
            self.lost += count;
            return;
        }
        // By its rules, each receiver may refuse what its neighbour takes.
        for port in ports {
            if control.may_receive_copy(port, bytes) {
                self.transmit(control, port, bytes);
            }
        }
        for vtep in vteps {
            self.transmit_tunnel(control, vtep, vpc.unwrap_or_default(), bytes);
        }
    }

    /// The subnet of who sent this from another host.
    fn subnet_of_sender(&self, control: &Control, origin: Origin, bytes: &[u8]) -> Option<u16> {
        let headers =
            packet::parse(bytes.get(..bytes.len().min(packet::HEAD_LENGTH))?, bytes.len() as u32).ok()?;
        let endpoint = control.endpoint(origin.vpc, headers.source_ip(bytes)?)?;
        let wants = |subnet: &agent::SubnetPlan| {
            let to_all =
                ethernet::View::new(bytes).is_some_and(|view| view.destination() == MacAddr::BROADCAST);
            to_all || subnet.multicast
        };
        self.subnets.get(&endpoint.subnet).filter(|subnet| wants(subnet)).map(|_| endpoint.subnet)
    }
}

/// The answer to an ARP request or a neighbour solicitation for one of `own`, which are at `mac`; `None` for anything else.
fn neighbour_reply(bytes: &[u8], mac: MacAddr, own: &[IpAddr]) -> Option<Vec<u8>> {
    let mut head = [0; packet::HEAD_LENGTH];
    let length = bytes.len().min(packet::HEAD_LENGTH);
    head.get_mut(..length)?.copy_from_slice(bytes.get(..length)?);
    let headers = packet::parse(head.get(..length)?, bytes.len() as u32).ok()?;
    let end = if let Some(asked) = arp::View::new(&head, &headers) {
        own.contains(&IpAddr::V4(asked.target_ip()))
            .then(|| arp::reply_in_place(&mut head, &headers, mac))
            .flatten()?
    } else if let Ok(ndp::Message::Solicitation(asked)) = ndp::parse(head.get(..length)?, &headers) {
        own.contains(&IpAddr::V6(asked.target))
            .then(|| ndp::advertise_in_place(&mut head, &headers, &asked, mac, ndp::Role::Host))
            .flatten()?
    } else {
        return None;
    };
    head.get(..end as usize).map(<[u8]>::to_vec)
}

/// What a station behind a tunnel end point says about itself.
fn announced(bytes: &[u8], origin: Origin) -> Vec<Event> {
    let Origin { vtep, vpc, .. } = origin;
    let head = bytes.get(..bytes.len().min(packet::HEAD_LENGTH)).unwrap_or_default();
    let Ok(headers) = packet::parse(head, bytes.len() as u32) else { return Vec::new() };
    if headers.ether_type == ethernet::RARP {
        let mac = ethernet::View::new(head).map(|view| view.source());
        return mac.map(|mac| Event { vpc, vtep, mac, address: None }).into_iter().collect();
    }
    let Some(said) = announce::detect(head, &headers) else { return Vec::new() };
    said.addresses().map(|address| Event { vpc, vtep, mac: said.mac(), address: Some(address) }).collect()
}

/// All bytes of a frame, with its checksum completed; `None` for one that is yet to be cut. A large send of a guest to the metadata service
/// is taken as it is: nobody cuts it on its way there, and nobody looks at its checksum.
fn whole(frame: &Frame<'_, '_>, kind: PuntKind) -> Option<Vec<u8>> {
    let mut bytes = frame.to_vec();
    if frame.offload.segment.is_some() {
        return (kind == PuntKind::Metadata).then_some(bytes);
    }
    if let Checksum::Partial { start, offset } = frame.offload.checksum {
        packet::checksum::complete_partial(&mut bytes, start, offset, Sum::ZERO)?;
    }
    Some(bytes)
}
