//! Why a head was refused.

/// Declares an enum of refusals, their list and their names in one place, so that none can be forgotten.
macro_rules! refusals {
    ($(#[doc = $enum_doc:literal])+ $enum:ident {
        $($(#[doc = $doc:literal])+ $variant:ident => $name:literal, $text:literal;)+
    }) => {
        $(#[doc = $enum_doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
        #[repr(u8)]
        pub enum $enum {
            $($(#[doc = $doc])+ #[error($text)] $variant,)+
        }

        impl $enum {
            /// Every variant, in the order of their numbers.
            pub const ALL: &'static [$enum] = &[$($enum::$variant,)+];

            /// The name used in counters: lower case, words joined by underscores.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $($enum::$variant => $name,)+
                }
            }

            /// The position in `ALL`, for arrays of counters.
            #[inline]
            #[must_use]
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

pub(crate) use refusals;

refusals! {
    /// Why [`parse`](crate::parse()) refused a head. Each is a drop reason of its own; the packet is never forwarded.
    ParseError {
        /// No more than an Ethernet header (14 bytes) or less.
        Runt => "runt", "frame has no payload behind its Ethernet header";
        /// The type field is an IEEE 802.3 length (below 0x0600): LLC or SNAP encapsulation is not carried.
        Llc => "llc", "802.3 length field instead of an EtherType: LLC and SNAP are not carried";
        /// The frame ends inside a VLAN tag, or right behind it.
        VlanTruncated => "vlan_truncated", "frame ends inside its VLAN tags";
        /// More than two VLAN tags.
        VlanDepth => "vlan_depth", "more than two VLAN tags";
        /// The headers reach beyond the private head, or beyond the bytes of it that were given.
        HeaderTooLong => "header_too_long", "headers reach beyond the 128 bytes that are looked at";
        /// Fewer bytes than an ARP message for Ethernet and IPv4 (28).
        ArpTruncated => "arp_truncated", "frame ends inside its ARP message";
        /// ARP for other than Ethernet (1, length 6) and IPv4 (0x0800, length 4).
        ArpFormat => "arp_format", "ARP message is not for Ethernet and IPv4";
        /// Fewer bytes than an IPv4 header.
        Ipv4Truncated => "ipv4_truncated", "frame ends inside its IPv4 header";
        /// EtherType 0x0800 with a version other than 4.
        Ipv4Version => "ipv4_version", "IPv4 EtherType, but the version is not 4";
        /// A header length below 20 bytes, or above the total length.
        Ipv4HeaderLength => "ipv4_header_length", "IPv4 header length below 20 or above the total length";
        /// A total length above what the frame holds.
        Ipv4TotalLength => "ipv4_total_length", "IPv4 total length exceeds the frame";
        /// Fewer bytes than an IPv6 header.
        Ipv6Truncated => "ipv6_truncated", "frame ends inside its IPv6 header";
        /// EtherType 0x86dd with a version other than 6.
        Ipv6Version => "ipv6_version", "IPv6 EtherType, but the version is not 6";
        /// A payload length above what the frame holds.
        Ipv6PayloadLength => "ipv6_payload_length", "IPv6 payload length exceeds the frame";
        /// A jumbogram (RFC 2675): payload length 0 before hop-by-hop options, or the option itself.
        Ipv6Jumbogram => "ipv6_jumbogram", "IPv6 jumbograms are not carried";
        /// Hop-by-hop options not in first place, or a second fragment header.
        Ipv6ExtensionOrder => "ipv6_extension_order", "IPv6 extension headers in a forbidden order";
        /// More than eight extension headers.
        Ipv6ExtensionCount => "ipv6_extension_count", "more than eight IPv6 extension headers";
        /// An extension header, or an option in it, that reaches past what encloses it.
        Ipv6ExtensionLength => "ipv6_extension_length", "IPv6 extension header or option exceeds what encloses it";
        /// A routing header of type 0 that still routes (RFC 5095), or with more segments left than it lists.
        Ipv6Routing => "ipv6_routing", "IPv6 routing header is deprecated or inconsistent";
        /// A fragment without data, or one before the last whose length is no multiple of 8.
        FragmentLength => "fragment_length", "fragment is empty or not a multiple of eight bytes";
        /// A fragment that would end beyond 65,535 bytes ("ping of death").
        FragmentOverrun => "fragment_overrun", "fragment ends beyond the longest datagram";
        /// A first fragment too short for its transport header, which would hide ports and flags (RFC 1858, RFC 7112).
        FragmentTiny => "fragment_tiny", "first fragment does not hold the whole transport header";
        /// A later fragment that begins inside the transport header (RFC 3128).
        FragmentOverlap => "fragment_overlap", "later fragment overwrites the transport header";
        /// A datagram that ends inside its transport header.
        L4Truncated => "l4_truncated", "datagram ends inside its transport header";
        /// A TCP data offset below 20 bytes or past the segment.
        TcpHeaderLength => "tcp_header_length", "TCP data offset below 20 or past the segment";
        /// A UDP length below 8 or above the datagram's.
        UdpLength => "udp_length", "UDP length below 8 or past the datagram";
    }
}

#[cfg(test)]
mod tests {
    use super::ParseError;
    use std::collections::HashSet;

    #[test]
    fn every_error_has_its_own_index_and_name() {
        let names: HashSet<_> = ParseError::ALL.iter().map(|error| error.name()).collect();
        assert_eq!(names.len(), ParseError::ALL.len());
        for (position, error) in ParseError::ALL.iter().enumerate() {
            assert_eq!(error.index(), position);
            assert!(error.name().chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
            assert!(!error.to_string().is_empty());
        }
    }
}
