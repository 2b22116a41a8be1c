//! Frames for the tests, made byte by byte and without the code under test.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

pub(crate) const HEAD: usize = 128;

/// What `parse` is given of a frame.
pub(crate) fn head(frame: &[u8]) -> &[u8] {
    &frame[..frame.len().min(HEAD)]
}

pub(crate) fn parse(frame: &[u8]) -> Result<towpath_packet::Headers, towpath_packet::ParseError> {
    towpath_packet::parse(head(frame), frame.len() as u32)
}

pub(crate) fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 0xb, 2, 0, 0, 0, 0, 0xa];
    frame.extend(ether_type.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Tags (type, TCI), outermost first, put in front of an untagged frame's type.
pub(crate) fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    for (tag_type, tci) in tags {
        out.extend(tag_type.to_be_bytes());
        out.extend(tci.to_be_bytes());
    }
    out.extend_from_slice(&frame[12..]);
    out
}

pub(crate) struct V4 {
    pub(crate) protocol: u8,
    pub(crate) options: Vec<u8>,
    pub(crate) fragment: u16,
    pub(crate) total_length: Option<u16>,
}

impl V4 {
    pub(crate) fn new(protocol: u8) -> V4 {
        V4 { protocol, options: Vec::new(), fragment: 0, total_length: None }
    }

    pub(crate) fn frame(&self, payload: &[u8]) -> Vec<u8> {
        let header_length = 20 + self.options.len();
        let total = self.total_length.unwrap_or((header_length + payload.len()) as u16);
        let mut ip = vec![0x40 | (header_length / 4) as u8, 0];
        ip.extend(total.to_be_bytes());
        ip.extend([0x12, 0x34]);
        ip.extend(self.fragment.to_be_bytes());
        ip.extend([64, self.protocol, 0, 0, 10, 0, 1, 10, 10, 0, 1, 11]);
        ip.extend_from_slice(&self.options);
        let sum = !naive_sum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        ip.extend_from_slice(payload);
        ethernet(0x0800, &ip)
    }
}

pub(crate) const V6_SOURCE: [u8; 16] = [0xfd, 0, 0, 0x10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x10];
pub(crate) const V6_DESTINATION: [u8; 16] = [0xfd, 0, 0, 0x10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x11];

pub(crate) fn v6_with_length(next_header: u8, payload_length: u16, payload: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend(payload_length.to_be_bytes());
    ip.extend([next_header, 64]);
    ip.extend(V6_SOURCE);
    ip.extend(V6_DESTINATION);
    ip.extend_from_slice(payload);
    ethernet(0x86dd, &ip)
}

pub(crate) fn v6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    v6_with_length(next_header, payload.len() as u16, payload)
}

pub(crate) fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(source.to_be_bytes());
    bytes.extend(destination.to_be_bytes());
    bytes.extend((8 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend_from_slice(payload);
    bytes
}

pub(crate) fn tcp(source: u16, destination: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(source.to_be_bytes());
    bytes.extend(destination.to_be_bytes());
    bytes.extend([0, 0, 1, 0, 0, 0, 2, 0]);
    bytes.extend([((20 + options.len()) / 4 * 16) as u8, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend_from_slice(options);
    bytes.extend_from_slice(payload);
    bytes
}

pub(crate) fn sctp(source: u16, destination: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(source.to_be_bytes());
    bytes.extend(destination.to_be_bytes());
    bytes.extend([0; 8]);
    bytes
}

/// RFC 1071 as it reads.
pub(crate) fn naive_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        if sum > 0xffff {
            sum -= 0xffff;
        }
    }
    sum as u16
}

/// Pseudo header and message summed from the frame's own bytes: right if 0xffff.
pub(crate) fn transport_sum(frame: &[u8], l3: usize, l4: usize, protocol: u8, end: usize) -> u16 {
    let message = &frame[l4..end];
    let mut bytes = Vec::new();
    if frame[l3] >> 4 == 4 {
        bytes.extend_from_slice(&frame[l3 + 12..l3 + 20]);
        bytes.extend([0, protocol]);
        bytes.extend((message.len() as u16).to_be_bytes());
    } else {
        bytes.extend_from_slice(&frame[l3 + 8..l3 + 40]);
        bytes.extend((message.len() as u32).to_be_bytes());
        bytes.extend([0, 0, 0, protocol]);
    }
    bytes.extend_from_slice(message);
    naive_sum(&bytes)
}
