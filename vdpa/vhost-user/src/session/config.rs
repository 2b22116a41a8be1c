//! The configuration space, MTU and announcements.

use vhost::vhost_user::VhostUserProtocolFeatures;

use super::{Event, Outcome, Session};
use crate::message::{CONFIG_SPACE_BYTES, Message, Reader};
use crate::refusal::Refusal;

/// Least MTU of virtio-net (virtio 1.2, 5.1.4.1).
pub(crate) const MIN_MTU: u16 = 68;
/// Greatest MTU of which a frame still fits 16 bits with its Ethernet header.
pub const MAX_MTU: u16 = 65521;
/// Device status: the device met an error from which it cannot recover (virtio 1.2, 2.1).
pub(crate) const NEEDS_RESET: u8 = 0x40;
/// Link status in the configuration space (virtio 1.2, 5.1.4).
const LINK_UP: u16 = 1;
const CONFIG_HEADER_BYTES: usize = 12;

impl Session {
    /// The configuration space of virtio-net (virtio 1.2, 5.1.4), zero behind its last field.
    fn config_space(&self) -> [u8; CONFIG_SPACE_BYTES] {
        let mut space = [0; CONFIG_SPACE_BYTES];
        let status = if self.front.link_down { 0 } else { LINK_UP };
        let fields = [
            self.config.mac.unwrap_or_default().as_slice(),
            &status.to_le_bytes(),
            &self.config.max_queue_pairs.to_le_bytes(),
            &self.config.mtu.to_le_bytes(),
            // Speed and duplex: unknown (virtio 1.2, 5.1.4).
            &[0xff; 5],
        ]
        .concat();
        for (to, from) in space.iter_mut().zip(fields) {
            *to = from;
        }
        space
    }

    /// The bytes a GET_CONFIG or SET_CONFIG is about (V-36).
    fn config_range(message: &Message) -> Result<(usize, usize), Refusal> {
        let config = Reader(&message.payload).config()?;
        let (offset, size) = (config.offset, config.size);
        let end = offset.checked_add(size).and_then(|end| usize::try_from(end).ok());
        let end = end.filter(|end| size != 0 && *end <= CONFIG_SPACE_BYTES).ok_or(Refusal::ConfigRange)?;
        Ok((end.saturating_sub(usize::try_from(size).unwrap_or(usize::MAX)), end))
    }

    /// GET_CONFIG.
    pub(super) fn get_config(&mut self, message: &Message) -> Result<Outcome, Refusal> {
        self.require(VhostUserProtocolFeatures::CONFIG)?;
        let (start, end) = Self::config_range(message)?;
        let space = self.config_space();
        let header = message.payload.get(..CONFIG_HEADER_BYTES).ok_or(Refusal::ConfigRange)?;
        let bytes = space.get(start..end).ok_or(Refusal::ConfigRange)?;
        Ok(Outcome::Reply([header, bytes].concat(), Vec::new()))
    }

    /// SET_CONFIG. Nothing of it is the driver's to write in virtio 1.x; writing what is there (as a restore does) is no
    /// change.
    pub(super) fn set_config(&mut self, message: &Message) -> Result<Outcome, Refusal> {
        self.require(VhostUserProtocolFeatures::CONFIG)?;
        let (start, end) = Self::config_range(message)?;
        let written = message.payload.get(CONFIG_HEADER_BYTES..).unwrap_or_default();
        if written.len() != end.saturating_sub(start) {
            return Err(Refusal::ConfigRange);
        }
        if self.config_space().get(start..end) != Some(written) {
            return Err(Refusal::ConfigReadOnly);
        }
        Ok(Outcome::Done)
    }

    /// NET_SET_MTU: 68 to the port's own. More would promise the guest what its network does not carry.
    pub(super) fn net_set_mtu(&mut self, message: &Message) -> Result<Outcome, Refusal> {
        self.require(VhostUserProtocolFeatures::MTU)?;
        let mtu = u16::try_from(Reader(&message.payload).u64()?).map_err(|_| Refusal::Mtu)?;
        if !(MIN_MTU..=self.config.max_mtu).contains(&mtu) {
            return Err(Refusal::Mtu);
        }
        self.config.mtu = mtu;
        self.events.push_back(Event::Mtu { mtu });
        Ok(Outcome::Done)
    }

    /// SEND_RARP: the guest's address arrived here by migration. Whether the port may have it is the owner's to judge.
    pub(super) fn send_rarp(&mut self, message: &Message) -> Result<Outcome, Refusal> {
        self.require(VhostUserProtocolFeatures::RARP)?;
        let mac = *message.payload.first_chunk::<6>().ok_or(Refusal::RarpAddress)?;
        let group = mac.first().is_some_and(|first| first & 1 != 0);
        if group || mac == [0; 6] {
            return Err(Refusal::RarpAddress);
        }
        self.events.push_back(Event::Rarp { mac });
        Ok(Outcome::Done)
    }
}
