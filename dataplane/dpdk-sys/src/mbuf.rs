//! The fields of an mbuf that stand in anonymous unions, whose generated names change from one DPDK to the next.

use crate::rte_mbuf;

/// What a transmit offload needs to know of a packet's headers, as the driver reads it. Lengths in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxOffload {
    /// Ethernet header with VLAN tags, up to 127; in a tunnel also the outer UDP header and the tunnel's own before it.
    pub l2_len: u8,
    /// IP header with options or extension headers, up to 511.
    pub l3_len: u16,
    /// TCP or UDP header, up to 255.
    pub l4_len: u8,
    /// Payload of each segment that the packet is cut into.
    pub segment_size: u16,
    /// Of a tunnel: outer IP header, up to 511.
    pub outer_l3_len: u16,
    /// Of a tunnel: outer Ethernet header, up to 127.
    pub outer_l2_len: u8,
}

impl TxOffload {
    /// `rte_mbuf::tx_offload`: 7 bits of layer 2, 9 of layer 3, 8 of layer 4, 16 of segment size, 9 of outer layer 3, 7 of
    /// outer layer 2.
    pub const fn to_bits(self) -> u64 {
        (self.l2_len as u64 & 0x7f)
            | (self.l3_len as u64 & 0x1ff) << 7
            | (self.l4_len as u64) << 16
            | (self.segment_size as u64) << 24
            | (self.outer_l3_len as u64 & 0x1ff) << 40
            | (self.outer_l2_len as u64 & 0x7f) << 49
    }
}

/// Sets `mbuf.tx_offload`.
#[inline(always)]
pub fn set_tx_offload(mbuf: &mut rte_mbuf, offload: TxOffload) {
    mbuf.__bindgen_anon_3.tx_offload = offload.to_bits();
}

/// `mbuf.packet_type`: what the driver saw that the packet is.
#[inline(always)]
pub fn packet_type(mbuf: &rte_mbuf) -> u32 {
    // SAFETY: all members of the union are plain integers of the same four bytes, valid with any contents.
    unsafe { mbuf.__bindgen_anon_1.packet_type }
}

/// `mbuf.tso_segsz`: the payload bytes per segment of a packet that was put together at receive (LRO).
#[inline]
pub fn lro_segment_size(mbuf: &rte_mbuf) -> u16 {
    // SAFETY: all members of the union are plain integers of the same eight bytes, valid with any contents.
    let bits = unsafe { mbuf.__bindgen_anon_3.tx_offload };
    (bits >> 24) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offload_bits_are_those_of_the_c_bit_field() {
        for offload in [
            TxOffload { l2_len: 14, l3_len: 20, l4_len: 32, segment_size: 1448, ..TxOffload::default() },
            TxOffload {
                l2_len: 127,
                l3_len: 511,
                l4_len: 255,
                segment_size: 65_535,
                outer_l3_len: 511,
                outer_l2_len: 127,
            },
            TxOffload { outer_l3_len: 257, ..TxOffload::default() },
            TxOffload { outer_l2_len: 65, ..TxOffload::default() },
            TxOffload { l2_len: 1, ..TxOffload::default() },
            TxOffload { l3_len: 257, ..TxOffload::default() },
            TxOffload { l4_len: 129, ..TxOffload::default() },
            TxOffload { segment_size: 32_769, ..TxOffload::default() },
        ] {
            let mut mbuf = rte_mbuf::default();
            set_tx_offload(&mut mbuf, offload);
            // SAFETY: the union's other member is a bit field over the same bytes, valid with any contents.
            let fields = unsafe { mbuf.__bindgen_anon_3.__bindgen_anon_1 };
            assert_eq!(fields.l2_len(), u64::from(offload.l2_len));
            assert_eq!(fields.l3_len(), u64::from(offload.l3_len));
            assert_eq!(fields.l4_len(), u64::from(offload.l4_len));
            assert_eq!(fields.tso_segsz(), u64::from(offload.segment_size));
            assert_eq!(fields.outer_l3_len(), u64::from(offload.outer_l3_len));
            assert_eq!(fields.outer_l2_len(), u64::from(offload.outer_l2_len));
            assert_eq!(lro_segment_size(&mbuf), offload.segment_size);
        }
    }
}
