//! The link between a stack of `smoltcp` and a guest: IP packets, kept until somebody takes them.

use smoltcp::phy::{self, Checksum, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// The smallest MTU that IPv6 and IPv4 allow hosts to count on.
const MIN_MTU: u16 = 576;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Wire {
    received: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
    mtu: usize,
}

pub(crate) struct RxToken(Vec<u8>);

impl phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

pub(crate) struct TxToken<'a>(&'a mut Vec<Vec<u8>>);

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut packet = vec![0; length];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: Instant) -> Option<(RxToken, TxToken<'_>)> {
        let packet = self.received.pop_front()?;
        Some((RxToken(packet), TxToken(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        Some(TxToken(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // Computed for the guest; a guest may leave its own to be completed.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities.checksum.icmpv4 = Checksum::Tx;
        capabilities.checksum.icmpv6 = Checksum::Tx;
        capabilities
    }
}

impl Wire {
    /// A link whose longest IP packet has `mtu` bytes.
    pub(crate) fn new(mtu: u16) -> Self {
        Wire { received: VecDeque::new(), sent: Vec::new(), mtu: usize::from(mtu.max(MIN_MTU)) }
    }

    /// Brings the stack a packet of the guest's.
    pub(crate) fn receive(&mut self, ip: &[u8]) {
        self.received.push_back(ip.to_vec());
    }

    /// Takes what the stack sent.
    pub(crate) fn sent(&mut self) -> std::vec::Drain<'_, Vec<u8>> {
        self.sent.drain(..)
    }
}

/// A moment, as `smoltcp` has it.
pub(crate) fn instant(now: Duration) -> Instant {
    Instant::from_micros_const(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}
