//! Why a frame was not answered.

/// Declares the refusals, their list and their names in one place.
macro_rules! refusals {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal, $text:literal;)+) => {
        /// Why a frame was not answered. A guest or a peer sent it, so it is counted by [`Refusal::name`] and otherwise forgotten.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
        #[repr(u8)]
        pub enum Refusal {
            $($(#[doc = $doc])+ #[error($text)] $variant,)+
        }

        impl Refusal {
            /// Every variant, in the order of their numbers.
            pub const ALL: &'static [Refusal] = &[$(Refusal::$variant,)+];

            /// The name used in counters: lower case, words joined by underscores.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Refusal::$variant => $name,)+
                }
            }

            /// The position in `ALL`, for arrays of counters.
            #[must_use]
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

refusals! {
    /// The frame's headers were refused by [`packet::parse`](packet::parse()), or it carries a VLAN tag.
    Headers => "headers", "the frame's headers are malformed";
    /// It is none of this service's messages, or addressed to another station.
    NotForUs => "not_for_us", "the message is not addressed to this service";
    /// It came in fragments.
    Fragmented => "fragmented", "the message comes in fragments";
    /// It ends inside its fixed fields.
    Truncated => "truncated", "the message ends inside its fixed fields";
    /// A fixed field has a value that the protocol does not know (hardware type, cookie, code).
    Format => "format", "a fixed field of the message has an impossible value";
    /// An option ends past what encloses it, or its length is not the one its code demands.
    OptionLength => "option_length", "an option's length lies";
    /// An option that may occur once occurs twice.
    OptionTwice => "option_twice", "an option that may occur once occurs twice";
    /// An option that this message needs is missing, or one that it must not have is there.
    OptionMissing => "option_missing", "an option that the message needs is missing, or one is there that it must not have";
    /// More options, addresses or associations than are looked at.
    TooMany => "too_many", "more options or associations than are looked at";
    /// A message type that does not exist or is not answered.
    MessageType => "message_type", "a message of a type that is not answered";
    /// A message that only servers and routers send: a guest plays one.
    ServerMessage => "server_message", "a guest sends what only servers and routers send";
    /// A relay forwarded it, or pretends to have.
    Relayed => "relayed", "a relayed message: the switch answers its own ports only";
    /// The hardware address in it is not the port's.
    ForeignHardware => "foreign_hardware", "the message speaks for another hardware address";
    /// The client identifier in it is another station's hardware address.
    ForeignClient => "foreign_client", "the client identifier is another station's";
    /// It speaks for an address that the port does not have.
    ForeignAddress => "foreign_address", "the message speaks for an address that is not the port's";
    /// The guest says that its address is used by another station (DHCP's DECLINE).
    Declined => "declined", "the guest declined its address: it says that another station uses it";
    /// A router forwarded it: its hop limit is not 255.
    HopLimit => "hop_limit", "hop limit is not 255, so it did not come from this link";
    /// The checksum is wrong.
    Checksum => "checksum", "the checksum is wrong";
    /// Source, destination and options contradict each other.
    Addresses => "addresses", "source, destination and options do not fit together";
}

#[cfg(test)]
mod tests {
    use super::Refusal;
    use std::collections::HashSet;

    #[test]
    fn every_refusal_has_its_own_index_and_name() {
        let names: HashSet<_> = Refusal::ALL.iter().map(|refusal| refusal.name()).collect();
        assert_eq!(names.len(), Refusal::ALL.len());
        for (position, refusal) in Refusal::ALL.iter().enumerate() {
            assert_eq!(refusal.index(), position);
            assert!(refusal.name().chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
        }
    }
}
