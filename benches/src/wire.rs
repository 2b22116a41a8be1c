//! The wire's end of a pair: a port of the generator that is another host on the underlay, and speaks VXLAN.
//!
//! It puts outer headers before the frames it sends and takes them off those it receives; it answers ARP for its address, and learns the switch's MAC address
//! from the question, or from the first packet in a tunnel. TCP segments that it receives are put together again: what a switch has cut counts as one frame, and all its bytes are checked.
//! Its own large sends leave in segments, as a wire has nothing else.

use std::net::Ipv4Addr;

use packet::{MacAddr, vxlan};
use virtio_driver::{MemoryError, RxFrame, SharedMemory};

use crate::{frame::Receiver, segments::Reassembly};

/// Who is on the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Underlay {
    /// The switch's address there.
    pub switch: Ipv4Addr,
    /// The wire's.
    pub wire: Ipv4Addr,
    /// The wire's MAC address.
    pub mac: MacAddr,
    /// The number of the network on the wire.
    pub vni: u32,
}

/// In the network set aside for measurements (RFC 2544), which no host's own routes should know.
impl Default for Underlay {
    fn default() -> Self {
        Self {
            switch: Ipv4Addr::new(198, 18, 0, 1),
            wire: Ipv4Addr::new(198, 18, 0, 2),
            mac: MacAddr([2, 0, 0, 0, 9, 2]),
            vni: 100,
        }
    }
}

/// Bytes before each frame.
pub const OUTER: usize = vxlan::OUTER_LENGTH_V4;
/// Ethernet and ARP, padded to the shortest frame.
const ARP_FRAME: usize = 60;
const ETHER_TYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHER_TYPE_IPV4: [u8; 2] = [0x08, 0x00];

/// A port's state as a tunnel end point.
#[derive(Debug, Clone)]
pub struct Wire {
    underlay: Underlay,
    switch: Option<MacAddr>,
    /// Since the last call of `news`.
    learned: bool,
    reply: Option<[u8; ARP_FRAME]>,
    stream: Reassembly,
}

impl Wire {
    /// A wire whose switch nobody knows yet.
    #[must_use]
    pub fn new(underlay: Underlay) -> Self {
        Self { underlay, switch: None, learned: false, reply: None, stream: Reassembly::default() }
    }

    /// Whether we know where the switch is.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.switch.is_some()
    }

    /// The outer headers of a frame of this length, but for the source port.
    #[must_use]
    pub fn outer(&self, inner_length: usize) -> Option<[u8; OUTER]> {
        let Underlay { switch, wire, mac, vni } = self.underlay;
        let outer = vxlan::Outer::new(mac, wire.into(), switch.into(), 64)?.towards(self.switch?, vni, 0);
        let mut head = *outer.template()?;
        outer.complete(&mut head, 0xc000, 0, inner_length);
        Some(head)
    }

    /// Whether the switch's MAC address was learned since the last call.
    pub fn news(&mut self) -> bool {
        std::mem::take(&mut self.learned)
    }

    fn learn(&mut self, mac: [u8; 6]) {
        self.learned |= self.switch != Some(MacAddr(mac));
        self.switch = Some(MacAddr(mac));
    }

    /// The answer that is due, if somebody asked for us since the last call.
    pub fn reply(&mut self) -> Option<[u8; ARP_FRAME]> {
        self.reply.take()
    }

    /// Takes what came off the wire: a frame in a tunnel goes to `receiver`, whose return value this is.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] when the frame is not in the memory.
    #[inline]
    pub fn take(
        &mut self,
        receiver: &mut Receiver,
        memory: &SharedMemory,
        frame: &RxFrame<'_>,
    ) -> Result<Option<(u32, u64)>, MemoryError> {
        let Some(&(address, part)) = frame.parts.first() else { return Ok(None) };
        if (part as usize) < OUTER + 14 + 20 + 8 {
            if part >= 42 {
                self.take_arp(&memory.read_array(address)?);
            }
            return Ok(None);
        }
        let outer: [u8; OUTER] = memory.read_array(address)?;
        if !self.is_ours(&outer) {
            if outer[12..14] == ETHER_TYPE_ARP {
                self.take_arp(&memory.read_array(address)?);
            } else {
                receiver.tally.foreign += 1;
            }
            return Ok(None);
        }
        if self.switch.is_none() {
            let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = outer;
            self.learn([a, b, c, d, e, f]);
        }
        let (address, part) = (address + OUTER as u64, part - OUTER as u32);
        let mut parts = [(0, 0); 4];
        let count = frame.parts.len().min(parts.len());
        parts[..count].copy_from_slice(&frame.parts[..count]);
        parts[0] = (address, part);
        let parts = &parts[..count];
        if memory.read_array::<1>(address + 23)? == [6] {
            return self.stream.take(receiver, memory, parts);
        }
        receiver.take(memory, &RxFrame { header: frame.header, parts, len: frame.len - OUTER as u32 })
    }

    /// Whether these are the outer headers of a packet of our network for us.
    #[inline]
    fn is_ours(&self, outer: &[u8; OUTER]) -> bool {
        let Underlay { switch, wire, mac, vni } = self.underlay;
        let [_, high, middle, low] = vni.to_be_bytes();
        outer[..6] == mac.0
            && outer[12..14] == ETHER_TYPE_IPV4
            && outer[23] == 17
            && outer[26..30] == switch.octets()
            && outer[30..34] == wire.octets()
            && outer[36..38] == vxlan::PORT.to_be_bytes()
            && outer[42] & 8 != 0
            && outer[46..49] == [high, middle, low]
    }

    /// Answers a request for us (RFC 826).
    #[cold]
    fn take_arp(&mut self, request: &[u8; 42]) {
        let Underlay { wire, mac, .. } = self.underlay;
        let asks = request[12..22] == [8, 6, 0, 1, 8, 0, 6, 4, 0, 1] && request[38..42] == wire.octets();
        let Some(sender) = request[22..28].first_chunk::<6>().filter(|_| asks) else { return };
        self.learn(*sender);
        let mut reply = [0; ARP_FRAME];
        reply[..6].copy_from_slice(sender);
        reply[6..12].copy_from_slice(&mac.0);
        reply[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        reply[22..28].copy_from_slice(&mac.0);
        reply[28..32].copy_from_slice(&wire.octets());
        reply[32..42].copy_from_slice(&request[22..32]);
        self.reply = Some(reply);
    }
}
