//! VLAN tags (IEEE 802.1Q clause 9): at most two, of which a priority tag (VLAN ID 0) counts as no tag.

use crate::ParseError;
use crate::bytes::array;
use crate::ethernet::HEADER_LENGTH;

/// Bytes of a tag.
pub const TAG_LENGTH: usize = 4;
/// Tags a frame may carry.
pub const MAX_TAGS: usize = 2;

/// Customer tag.
pub const CUSTOMER: u16 = 0x8100;
/// Service tag (IEEE 802.1ad).
pub const SERVICE: u16 = 0x88a8;
/// The pre-standard outer tag of "QinQ".
pub const QINQ: u16 = 0x9100;

/// What lies below the network header.
#[derive(Clone, Copy)]
pub(crate) struct Link {
    pub(crate) l3_offset: u8,
    pub(crate) vlan_count: u8,
    pub(crate) vlan_id: u16,
    pub(crate) ether_type: u16,
}

/// Is this the type of a tag?
#[inline]
#[must_use]
pub const fn is_tag(ether_type: u16) -> bool {
    matches!(ether_type, CUSTOMER | SERVICE | QINQ)
}

/// Walks the tags of a frame whose first type is a tag's.
#[inline(never)]
pub(crate) fn parse(head: &[u8], frame_len: usize, first_type: u16) -> Result<Link, ParseError> {
    let mut link = Link { l3_offset: HEADER_LENGTH as u8, vlan_count: 0, vlan_id: 0, ether_type: first_type };
    let mut at = HEADER_LENGTH;
    for _ in 0..MAX_TAGS {
        // A tag with nothing behind it is as truncated as half a tag.
        if at + TAG_LENGTH >= frame_len {
            return Err(ParseError::VlanTruncated);
        }
        let [high, low, type_high, type_low] = *array(head, at).ok_or(ParseError::HeaderTooLong)?;
        let id = u16::from_be_bytes([high & 0x0f, low]);
        if id != 0 {
            link.vlan_count += 1;
            if link.vlan_id == 0 {
                link.vlan_id = id;
            }
        }
        link.ether_type = u16::from_be_bytes([type_high, type_low]);
        at += TAG_LENGTH;
        link.l3_offset += TAG_LENGTH as u8;
        if !is_tag(link.ether_type) {
            return Ok(link);
        }
    }
    Err(ParseError::VlanDepth)
}
