//! The receiving half of a driver: every byte that the device may not write is compared.

use super::nic::{Nic, NicError, Received};
use virtio_driver::{NetHeader, Queue, Segment, SharedMemory, Virtqueue, features};

impl Nic {
    /// Makes up to `limit` receive buffers available; whether the device wants a kick.
    ///
    /// # Errors
    ///
    /// A buffer that was not available was written to.
    pub fn refill(&mut self, pair: usize, limit: usize) -> Result<bool, NicError> {
        let (length, descriptors) = (self.config.rx_buffer, u32::from(self.config.rx_descriptors.max(1)));
        let rx = &mut self.pairs[pair].rx;
        let mut added = 0;
        while added < limit {
            let Some(&index) = rx.free.last() else { break };
            let address = rx.base + u64::from(index) * rx.stride;
            check_poison(&self.memory, self.secret, address, address, u64::from(length))?;
            let piece = length / descriptors;
            let segments: Vec<Segment> = (0..descriptors)
                .map(|at| {
                    let rest = if at + 1 == descriptors { length - at * piece } else { piece };
                    Segment::writable(address + u64::from(at * piece), rest)
                })
                .collect();
            if rx.queue.add(&segments, index).is_err() {
                break;
            }
            rx.free.pop();
            added += 1;
        }
        if added == 0 {
            return Ok(false);
        }
        rx.queue.publish();
        Ok(rx.queue.needs_kick())
    }

    /// Takes up to `limit` packets.
    ///
    /// # Errors
    ///
    /// [`NicError`].
    pub fn receive(&mut self, pair: usize, limit: usize) -> Result<Vec<Received>, NicError> {
        let mut packets = Vec::new();
        while packets.len() < limit {
            let Some((first, mut bytes)) = self.take_buffer(pair)? else { break };
            if bytes.len() < self.header_len {
                let what = format!("{first} bytes in a buffer, the header has {}", self.header_len);
                return Err(NicError::Packet { pair, what });
            }
            let mut encoded = [0; NetHeader::LEN];
            let known = self.header_len.min(NetHeader::LEN);
            encoded[..known].copy_from_slice(&bytes[..known]);
            let header = NetHeader::decode(&encoded);
            bytes.drain(..self.header_len);
            let buffers = if self.config.has(features::NET_MRG_RXBUF) { header.num_buffers } else { 1 };
            if buffers == 0 {
                return Err(NicError::Packet { pair, what: "num_buffers is 0".to_owned() });
            }
            for missing in (1..buffers).rev() {
                let Some((_, more)) = self.take_buffer(pair)? else {
                    let what = format!("num_buffers is {buffers}, {missing} are missing");
                    return Err(NicError::Packet { pair, what });
                };
                bytes.extend(more);
            }
            packets.push(Received { pair, header, bytes });
        }
        Ok(packets)
    }

    /// One used receive buffer, poisoned again behind us.
    fn take_buffer(&mut self, pair: usize) -> Result<Option<(u32, Vec<u8>)>, NicError> {
        let rx = &mut self.pairs[pair].rx;
        let Some(used) = rx.queue.next_used().map_err(|error| NicError::Ring { pair, error })? else {
            return Ok(None);
        };
        let address = rx.base + u64::from(used.token) * rx.stride;
        let bytes = self.memory.read_vec(address, used.len as usize).unwrap_or_default();
        let end = address + u64::from(self.config.rx_buffer);
        check_poison(&self.memory, self.secret, address, address + u64::from(used.len), end - address)?;
        // Poison is a pattern of words from the start of the buffer.
        let dirty = (used.len as usize).next_multiple_of(8).min(self.config.rx_buffer as usize);
        let _ = self.memory.fill_words(address, dirty, self.secret);
        rx.free.push(used.token);
        rx.returned += 1;
        if let Some(written) = &mut self.written {
            written.push((address, used.len));
            // Where the device said so: the used index, or a packed ring's descriptor (the whole ring is within a page).
            let ring = rx.queue.addresses();
            written.push(if matches!(rx.queue, Queue::Split(_)) {
                (ring.device, 4)
            } else {
                (ring.descriptors, 1)
            });
        }
        Ok(Some((used.len, bytes)))
    }
}

/// Compares the first and last 128 bytes from `from` to the end of the buffer at `start` with poison.
fn check_poison(
    memory: &SharedMemory,
    secret: u64,
    start: u64,
    from: u64,
    length: u64,
) -> Result<(), NicError> {
    const LOOK: u64 = 128;
    let pattern = secret.to_le_bytes();
    let end = start + length;
    // The last bytes of a buffer that is no multiple of eight hold the pattern's low bytes, which is the pattern going on.
    let first = from..end.min(from + LOOK);
    let last = from.max(end.saturating_sub(LOOK))..end;
    for range in [first, last] {
        let bytes = memory.read_vec(range.start, (range.end - range.start) as usize).unwrap_or_default();
        let wrong =
            bytes.iter().zip(range.clone()).find(|(byte, at)| **byte != pattern[((at - start) % 8) as usize]);
        if let Some((_, address)) = wrong {
            return Err(NicError::Written {
                address,
                what: "a receive buffer was written beyond what it was used for",
            });
        }
    }
    Ok(())
}
