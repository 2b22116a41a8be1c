//! How a gateway tells a sender that its packet goes nowhere: ICMP errors, in place, under a budget per port.
//!
//! Not a stage: those that refuse packets for a reason their sender should know share it.

use buf::HEAD_BYTES;
use engine::{Batch, DropReason, Output};
use packet::icmp_error::{self, IcmpError};
use tables::{Network, TokenBucket};

/// Who is told, and how often.
pub struct Answers<'a> {
    /// Where the packets came from.
    pub back: Output,
    /// Their subnet, whose gateway answers; `None` where there is nobody to tell.
    pub subnet: Option<u16>,
    /// Errors that may still be sent there.
    pub budget: &'a mut TokenBucket,
}

impl Answers<'_> {
    /// Writes `error` over the packet at `index` and sends it back; where that may not be, the packet ends for `reason`.
    #[cold]
    #[inline(never)]
    pub fn error(
        &mut self,
        batch: &mut Batch<'_, '_>,
        network: &Network,
        index: usize,
        error: IcmpError,
        reason: DropReason,
    ) {
        if self.write(batch, network, index, error).is_none() {
            batch.drop(index, reason);
        }
    }

    fn write(
        &mut self,
        batch: &mut Batch<'_, '_>,
        network: &Network,
        index: usize,
        error: IcmpError,
    ) -> Option<()> {
        let subnet = network.subnet(self.subnet?)?;
        let packet = batch.burst.packet(index)?;
        let headers = batch.metadata.get(index)?.headers;
        let gateway = subnet.gateway_like(headers.source_ip(packet.head())?)?;
        let mut scratch = [0; HEAD_BYTES];
        let length = packet.head().len().min(HEAD_BYTES);
        scratch.get_mut(..length)?.copy_from_slice(packet.head().get(..length)?);
        if !self.budget.take(batch.now, 1) {
            return None;
        }
        let end = icmp_error::answer(&mut scratch, length, &headers, error, subnet.gateway_mac, gateway)?;
        batch.burst.replace(index, scratch.get(..end as usize)?);
        batch.reroute(index, self.back);
        batch.hairpin &= !(1 << (index & 31));
        Some(())
    }
}
