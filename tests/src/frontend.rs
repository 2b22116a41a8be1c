//! A guest without QEMU: the front end of the `vhost` crate, which nobody here wrote, and our driver for one queue pair of split
//! rings in shared memory. It sends and receives a packet at a time.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use etherparse::PacketBuilder;
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend as Session, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_driver::{
    Arena, NetHeader, Queue, QueueConfig, RingAddresses, RingLayout, RxConfig, RxQueue, SharedMemory,
    TxConfig, TxQueue, Virtqueue, features,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::manifests::Port;
use crate::{Result, interrupt};

const MEMORY: usize = 8 << 20;
const RING: u16 = 256;
/// Of a virtio-net packet without offloads: Ethernet's MTU, its header, one VLAN tag.
const PACKET: u32 = 1518;
const HEADER: u32 = 12;
const POISON: u8 = 0x5a;
/// Between two looks at an empty ring.
const PAUSE: Duration = Duration::from_micros(100);

/// An attached front end. Dropping it closes the connection.
pub struct Frontend {
    session: Session,
    memory: Arc<SharedMemory>,
    rx: RxQueue,
    tx: TxQueue,
    kicks: [EventFd; 2],
    _calls: [EventFd; 2],
    features: u64,
    /// Memory that no ring or buffer uses: first guest address and bytes.
    spare: (u64, usize),
}

impl fmt::Debug for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frontend").field("features", &self.features).finish_non_exhaustive()
    }
}

impl Frontend {
    /// Connect to a switch that listens, negotiate, and start both rings.
    ///
    /// # Errors
    /// The switch is not there, or refuses.
    pub fn attach(socket: &Path) -> Result<Self> {
        let mut session =
            Session::connect(socket, 2).map_err(|e| anyhow!("connect to {}: {e}", socket.display()))?;
        let features = negotiate(&mut session)?;
        let memory = SharedMemory::new(MEMORY, Default::default())?.into_shared();
        let mut arena = Arena::new(&memory);
        session.set_mem_table(&[region(&memory)]).context("SET_MEM_TABLE")?;
        let event = || EventFd::new(EFD_NONBLOCK).context("make an eventfd");
        let (kicks, calls) = ([event()?, event()?], [event()?, event()?]);
        let mut start = |index: usize| -> Result<Queue> {
            let config = QueueConfig { size: RING, layout: RingLayout::Split, features, indirect_entries: 0 };
            let queue = Queue::new(&memory, &mut arena, &config)?;
            start_ring(&session, &memory, (index, 0), queue.addresses(), &kicks[index], &calls[index])?;
            Ok(queue)
        };
        let (rx_queue, tx_queue) = (start(0)?, start(1)?);
        let rx =
            RxConfig { buffers: RING, buffer_len: PACKET + HEADER, descriptors: 1, offset: 52, features };
        let mut rx = RxQueue::new(&memory, &mut arena, rx_queue, rx)?;
        let tx = TxConfig {
            buffers: RING.into(),
            packet_len: PACKET,
            part_len: PACKET + HEADER,
            offset: 52,
            features,
        };
        let tx = TxQueue::new(&memory, &mut arena, tx_queue, tx)?;
        rx.refill(RING.into());
        let spare = usize::try_from(arena.left())?;
        let spare = (arena.allocate(spare, 1)?, spare);
        for index in 0..2 {
            session
                .set_vring_enable(index, true)
                .with_context(|| format!("SET_VRING_ENABLE of ring {index}"))?;
        }
        kicks[0].write(1).context("kick")?;
        Ok(Self { session, memory, rx, tx, kicks, _calls: calls, features, spare })
    }

    /// [`Frontend::attach`], tried again until the port takes it.
    ///
    /// # Errors
    /// It does not within `limit`.
    pub fn attach_within(socket: &Path, limit: Duration) -> Result<Self> {
        let begin = Instant::now();
        loop {
            match Self::attach(socket) {
                Ok(frontend) => return Ok(frontend),
                Err(e) if begin.elapsed() > limit => return Err(e),
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
            interrupt::check()?;
        }
    }

    /// The virtio features negotiated.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The session, to send messages of one's own.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Fill the memory that no ring or buffer uses with a pattern.
    ///
    /// # Errors
    /// None that memory of our own can have.
    pub fn poison(&self) -> Result<()> {
        Ok(self.memory.fill(self.spare.0, self.spare.1, POISON)?)
    }

    /// Whether the pattern of [`Frontend::poison`] is as it was.
    ///
    /// # Errors
    /// None that memory of our own can have.
    pub fn is_whole(&self) -> Result<bool> {
        let bytes = self.memory.read_vec(self.spare.0, self.spare.1)?;
        Ok(!bytes.is_empty() && bytes.iter().all(|byte| *byte == POISON))
    }

    /// Send one packet.
    ///
    /// # Errors
    /// The switch broke the ring, or takes nothing any more.
    pub fn send(&mut self, packet: &[u8]) -> Result<()> {
        self.send_together(packet, 1)
    }

    /// Sends `count` times the same packet: the switch is shown all of them or none, so that they come in one burst.
    ///
    /// # Errors
    /// The ring is full.
    pub fn send_together(&mut self, packet: &[u8], count: usize) -> Result<()> {
        self.tx.reclaim(RING.into())?;
        for _ in 0..count {
            self.tx.send_bytes(&NetHeader::default(), packet).context("the transmit ring is full")?;
        }
        self.tx.queue().publish();
        if self.tx.queue().needs_kick() {
            self.kicks[1].write(1).context("kick")?;
        }
        Ok(())
    }

    /// The next packet, if there is one.
    ///
    /// # Errors
    /// The switch broke the ring.
    pub fn try_receive(&mut self) -> Result<Option<Vec<u8>>> {
        receive_one(&mut self.rx, &self.memory, &self.kicks[0])
    }

    /// [`Frontend::receive`], but for router advertisements.
    ///
    /// # Errors
    /// As [`Frontend::receive`].
    pub fn receive_other(&mut self, limit: Duration) -> Result<Vec<u8>> {
        let begin = Instant::now();
        loop {
            let packet = self.receive(limit.saturating_sub(begin.elapsed()))?;
            if !is_advertisement(&packet) {
                return Ok(packet);
            }
        }
    }

    /// Wait for the next packet.
    ///
    /// # Errors
    /// None comes within `limit`, or the switch broke the ring.
    pub fn receive(&mut self, limit: Duration) -> Result<Vec<u8>> {
        let begin = Instant::now();
        loop {
            if let Some(packet) = self.try_receive()? {
                return Ok(packet);
            }
            if begin.elapsed() > limit {
                bail!("no packet within {} s", limit.as_secs_f32());
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Whether a gateway advertises itself with this packet, as it does whenever it likes (RFC 4861 section 6.2.4).
#[must_use]
pub fn is_advertisement(packet: &[u8]) -> bool {
    packet.get(..6) == Some(&[0x33, 0x33, 0, 0, 0, 1])
        && packet.get(20) == Some(&58)
        && packet.get(54) == Some(&134)
}

/// Offers and takes what a simple driver needs: no offloads, so that a packet is its bytes.
fn negotiate(session: &mut Session) -> Result<u64> {
    let wanted = features::VERSION_1 | features::VHOST_USER_PROTOCOL_FEATURES;
    session.set_owner().context("SET_OWNER")?;
    let offered = session.get_features().context("GET_FEATURES")?;
    if offered & wanted != wanted {
        bail!("the switch offers {offered:#x}, not all of {wanted:#x}");
    }
    let offered = session.get_protocol_features().context("GET_PROTOCOL_FEATURES")?;
    let taken = offered & (VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::MQ);
    session.set_protocol_features(taken).context("SET_PROTOCOL_FEATURES")?;
    if taken.contains(VhostUserProtocolFeatures::REPLY_ACK) {
        session.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    }
    session.set_features(wanted).context("SET_FEATURES")?;
    Ok(wanted & !features::VHOST_USER_PROTOCOL_FEATURES)
}

/// The whole memory as one region.
pub(crate) fn region(memory: &SharedMemory) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: memory.guest_base(),
        memory_size: memory.len() as u64,
        userspace_addr: memory.user_base(),
        mmap_offset: 0,
        mmap_handle: memory.fd().as_raw_fd(),
    }
}

/// Tell of a ring, of which `base` is told besides its number.
pub(crate) fn start_ring(
    session: &Session,
    memory: &SharedMemory,
    (index, base): (usize, u16),
    ring: RingAddresses,
    kick: &EventFd,
    call: &EventFd,
) -> Result<()> {
    let user = |guest| memory.user_address(guest);
    let what = |message: &'static str| move || format!("{message} of ring {index}");
    session.set_vring_num(index, RING).with_context(what("SET_VRING_NUM"))?;
    session.set_vring_base(index, base).with_context(what("SET_VRING_BASE"))?;
    let addresses = VringConfigData {
        queue_max_size: RING,
        queue_size: RING,
        flags: 0,
        desc_table_addr: user(ring.descriptors),
        used_ring_addr: user(ring.device),
        avail_ring_addr: user(ring.driver),
        log_addr: None,
    };
    session.set_vring_addr(index, &addresses).with_context(what("SET_VRING_ADDR"))?;
    session.set_vring_call(index, call).with_context(what("SET_VRING_CALL"))?;
    session.set_vring_kick(index, kick).with_context(what("SET_VRING_KICK"))
}

/// A UDP packet from one port's guest to another's, over IPv4 if both have it.
///
/// # Errors
/// The ports' addresses do not fit together.
pub fn udp(from: &Port, to: &Port, payload: &[u8]) -> Result<Vec<u8>> {
    let ethernet = PacketBuilder::ethernet2(mac(&from.mac)?, mac(&to.mac)?);
    let pair = from.ips.iter().zip(&to.ips).find_map(|pair| match pair {
        (IpAddr::V4(from), IpAddr::V4(to)) => Some((from.octets(), to.octets())),
        _ => None,
    });
    let (source, destination) =
        pair.with_context(|| format!("{} and {} share no family", from.name, to.name))?;
    let builder = ethernet.ipv4(source, destination, 64).udp(7, 7);
    let mut packet = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut packet, payload).context("build a packet")?;
    Ok(packet)
}

fn mac(text: &str) -> Result<[u8; 6]> {
    let octets: Vec<u8> =
        text.split(':').map(|octet| u8::from_str_radix(octet, 16)).collect::<std::result::Result<_, _>>()?;
    octets.try_into().map_err(|_| anyhow!("{text} is not a MAC address"))
}

/// Send numbered packets from `one` to `other` and back; every one must come, each within `limit`. Returns the longest round trip.
///
/// # Errors
/// One is lost, changed or late.
pub fn ping_pong(
    (one, one_port): (&mut Frontend, &Port),
    (other, other_port): (&mut Frontend, &Port),
    count: u32,
    limit: Duration,
) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for number in 0..count {
        let begin = Instant::now();
        let there = udp(one_port, other_port, format!("there {number}").as_bytes())?;
        one.send(&there)?;
        let arrived = other.receive_other(limit).with_context(|| format!("packet {number}, there"))?;
        let back = udp(other_port, one_port, format!("back {number}").as_bytes())?;
        other.send(&back)?;
        let returned = one.receive_other(limit).with_context(|| format!("packet {number}, back"))?;
        if !arrived.starts_with(&there) || !returned.starts_with(&back) {
            bail!("packet {number} changed on its way: {arrived:02x?}, {returned:02x?}");
        }
        longest = longest.max(begin.elapsed());
    }
    Ok(longest)
}

/// The next packet of a queue, if there is one; its buffer is made available again.
///
/// # Errors
/// The switch broke the ring.
pub(crate) fn receive_one(
    rx: &mut RxQueue,
    memory: &SharedMemory,
    kick: &EventFd,
) -> Result<Option<Vec<u8>>> {
    let (mut bytes, mut fault) = (None, None);
    rx.receive(1, |frame| {
        let mut packet = Vec::with_capacity(frame.len as usize);
        for &(address, length) in frame.parts {
            match memory.read_vec(address, length as usize) {
                Ok(part) => packet.extend(part),
                Err(e) => fault = Some(e),
            }
        }
        bytes = Some(packet);
    })?;
    if let Some(e) = fault {
        return Err(e).context("a received packet lies outside of memory");
    }
    if bytes.is_some() {
        rx.refill(1);
        if rx.queue().needs_kick() {
            kick.write(1).context("kick")?;
        }
    }
    Ok(bytes)
}
