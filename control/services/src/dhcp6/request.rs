//! Reading a client's message.

use std::net::Ipv6Addr;

use crate::Refusal;

/// Option codes (RFC 8415 section 21; RFC 3646 for the names).
pub(super) mod code {
    pub(in super::super) const CLIENT_ID: u16 = 1;
    pub(in super::super) const SERVER_ID: u16 = 2;
    pub(in super::super) const IA_NA: u16 = 3;
    pub(in super::super) const IA_TA: u16 = 4;
    pub(in super::super) const IA_ADDRESS: u16 = 5;
    pub(in super::super) const ORO: u16 = 6;
    pub(in super::super) const STATUS: u16 = 13;
    pub(in super::super) const RAPID_COMMIT: u16 = 14;
    pub(in super::super) const DNS: u16 = 23;
    pub(in super::super) const DOMAINS: u16 = 24;
    pub(in super::super) const IA_PD: u16 = 25;
    pub(in super::super) const REFRESH: u16 = 32;
}

/// Bytes before the options: type and transaction.
const FIXED_LENGTH: usize = 4;
/// Bytes of an address and its two lifetimes.
const IA_ADDRESS_LENGTH: usize = 24;
/// Bytes of a DUID with its type (RFC 8415 section 11.1).
const DUID_LENGTH: std::ops::RangeInclusive<usize> = 3..=130;
/// More than any client sends: options in all (nested ones too), associations, and addresses in all of these.
const MAX_OPTIONS: usize = 64;
pub(super) const MAX_ASSOCIATIONS: usize = 4;
pub(super) const MAX_ADDRESSES: usize = 8;

/// An identity association.
#[derive(Debug)]
pub(super) struct Association {
    /// `IA_NA`, `IA_TA` or `IA_PD`.
    pub(super) kind: u16,
    pub(super) id: [u8; 4],
    /// Addresses that the client has or wants.
    pub(super) addresses: Vec<Ipv6Addr>,
}

/// A client's message, as far as a server with fixed leases reads it.
#[derive(Debug)]
pub(super) struct Message<'a> {
    /// The message type; anything.
    pub(super) kind: u8,
    pub(super) transaction: [u8; 3],
    pub(super) client_id: Option<&'a [u8]>,
    pub(super) server_id: Option<&'a [u8]>,
    pub(super) rapid_commit: bool,
    /// Codes of the options that the client asks for, two bytes each.
    pub(super) requested: Option<&'a [u8]>,
    pub(super) associations: Vec<Association>,
}

impl<'a> Message<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, Refusal> {
        let (&[kind, a, b, c], options) =
            message.split_first_chunk::<FIXED_LENGTH>().ok_or(Refusal::Truncated)?;
        let mut message = Message {
            kind,
            transaction: [a, b, c],
            client_id: None,
            server_id: None,
            rapid_commit: false,
            requested: None,
            associations: Vec::new(),
        };
        // A relay's message has other fixed fields; it is refused by its type, not read.
        if matches!(kind, super::kind::RELAY_FORWARD | super::kind::RELAY_REPLY) {
            return Ok(message);
        }
        let mut budget = Budget { options: MAX_OPTIONS, addresses: MAX_ADDRESSES };
        let mut options = Options(options);
        while let Some((code, value)) = options.next(&mut budget)? {
            message.option(code, value, &mut budget)?;
        }
        Ok(message)
    }

    fn option(&mut self, code: u16, value: &'a [u8], budget: &mut Budget) -> Result<(), Refusal> {
        match code {
            code::CLIENT_ID => once(&mut self.client_id, duid(value)?),
            code::SERVER_ID => once(&mut self.server_id, duid(value)?),
            code::ORO if !value.len().is_multiple_of(2) => Err(Refusal::OptionLength),
            code::ORO => once(&mut self.requested, value),
            code::RAPID_COMMIT if !value.is_empty() => Err(Refusal::OptionLength),
            code::RAPID_COMMIT if self.rapid_commit => Err(Refusal::OptionTwice),
            code::RAPID_COMMIT => {
                self.rapid_commit = true;
                Ok(())
            }
            code::IA_NA | code::IA_TA | code::IA_PD => {
                if self.associations.len() == MAX_ASSOCIATIONS {
                    return Err(Refusal::TooMany);
                }
                self.associations.push(association(code, value, budget)?);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Does the client ask for this option?
    pub(super) fn asks(&self, code: u16) -> bool {
        self.requested.is_some_and(|list| list.chunks_exact(2).any(|pair| pair == code.to_be_bytes()))
    }
}

/// What is still read of a message.
struct Budget {
    options: usize,
    addresses: usize,
}

/// A list of options.
struct Options<'a>(&'a [u8]);

impl<'a> Options<'a> {
    fn next(&mut self, budget: &mut Budget) -> Result<Option<(u16, &'a [u8])>, Refusal> {
        let (code, length, rest) = match *self.0 {
            [] => return Ok(None),
            [a, b, c, d, ref rest @ ..] => (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]), rest),
            _ => return Err(Refusal::OptionLength),
        };
        budget.options = budget.options.checked_sub(1).ok_or(Refusal::TooMany)?;
        let (value, behind) = rest.split_at_checked(usize::from(length)).ok_or(Refusal::OptionLength)?;
        self.0 = behind;
        Ok(Some((code, value)))
    }
}

/// Stores what may be there once.
fn once<'a>(place: &mut Option<&'a [u8]>, value: &'a [u8]) -> Result<(), Refusal> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Refusal::OptionTwice),
    }
}

fn duid(value: &[u8]) -> Result<&[u8], Refusal> {
    if DUID_LENGTH.contains(&value.len()) { Ok(value) } else { Err(Refusal::OptionLength) }
}

/// Reads an association and the addresses in it. What is in these (a status, at most) is walked and not read: two levels are all there are.
fn association(kind: u16, value: &[u8], budget: &mut Budget) -> Result<Association, Refusal> {
    // `IA_TA` has no times.
    let fixed = if kind == code::IA_TA { 4 } else { 12 };
    let (&id, _) = value.split_first_chunk::<4>().ok_or(Refusal::OptionLength)?;
    let mut options = Options(value.get(fixed..).ok_or(Refusal::OptionLength)?);
    let mut addresses = Vec::new();
    while let Some((code, value)) = options.next(budget)? {
        if code != code::IA_ADDRESS {
            continue;
        }
        let (address, _) = value.split_first_chunk::<16>().ok_or(Refusal::OptionLength)?;
        let mut nested = Options(value.get(IA_ADDRESS_LENGTH..).ok_or(Refusal::OptionLength)?);
        while nested.next(budget)?.is_some() {}
        budget.addresses = budget.addresses.checked_sub(1).ok_or(Refusal::TooMany)?;
        addresses.push(Ipv6Addr::from(*address));
    }
    Ok(Association { kind, id, addresses })
}
