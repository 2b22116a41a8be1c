//! Reading a client's message.

use std::net::Ipv4Addr;

use packet::MacAddr;

use super::reply::code;
use crate::Refusal;

/// Bytes of the fixed fields, the cookie included.
const FIXED_LENGTH: usize = 240;
/// Marks the fields behind as options (RFC 2131 section 3).
pub(super) const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// `op`: from a client.
const BOOT_REQUEST: u8 = 1;
/// `op`: from a server.
const BOOT_REPLY: u8 = 2;
/// The client wants answers by broadcast.
const BROADCAST: u8 = 0x80;
/// More options than any client sends; a longer list is somebody's experiment.
const MAX_OPTIONS: usize = 128;

/// Where in the fixed fields the server's name and the boot file are, which may hold options too (option 52).
const SERVER_NAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;

/// A client's message, as far as a server with fixed leases reads it.
#[derive(Debug)]
pub(super) struct Request<'a> {
    /// The message type; anything.
    pub(super) kind: u8,
    pub(super) transaction: [u8; 4],
    pub(super) broadcast: bool,
    /// `ciaddr`: the address that the client uses already.
    pub(super) client: Ipv4Addr,
    pub(super) hardware: MacAddr,
    pub(super) requested: Option<Ipv4Addr>,
    pub(super) server: Option<Ipv4Addr>,
    pub(super) client_id: Option<&'a [u8]>,
    /// Bytes of the longest datagram that the client takes.
    pub(super) max_message: Option<u16>,
    pub(super) rapid_commit: bool,
    /// Codes of the options that the client asks for, in its order; anything.
    pub(super) parameters: Option<&'a [u8]>,
}

impl<'a> Request<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, Refusal> {
        let (fixed, options) = message.split_first_chunk::<FIXED_LENGTH>().ok_or(Refusal::Truncated)?;
        match fixed[0] {
            BOOT_REQUEST => {}
            BOOT_REPLY => return Err(Refusal::ServerMessage),
            _ => return Err(Refusal::Format),
        }
        if fixed[1..3] != [1, 6] || !fixed.ends_with(&COOKIE) {
            return Err(Refusal::Format);
        }
        // `hops` and `giaddr`: a guest is no relay.
        if fixed[3] != 0 || fixed[24..28] != [0; 4] {
            return Err(Refusal::Relayed);
        }
        let mut request = Request {
            kind: 0,
            transaction: [fixed[4], fixed[5], fixed[6], fixed[7]],
            broadcast: fixed[10] & BROADCAST != 0,
            client: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]),
            hardware: MacAddr([fixed[28], fixed[29], fixed[30], fixed[31], fixed[32], fixed[33]]),
            requested: None,
            server: None,
            client_id: None,
            max_message: None,
            rapid_commit: false,
            parameters: None,
        };
        let mut overload = 0;
        let mut seen = Seen::default();
        request.walk(options, &mut seen, &mut overload)?;
        // RFC 2131 section 4.1: the file field is read before the name. What they say about overloading is not read.
        if overload & 1 != 0 {
            request.walk(&fixed[FILE], &mut seen, &mut 0)?;
        }
        if overload & 2 != 0 {
            request.walk(&fixed[SERVER_NAME], &mut seen, &mut 0)?;
        }
        if seen.has(code::MESSAGE_TYPE) { Ok(request) } else { Err(Refusal::OptionMissing) }
    }

    /// Reads options up to the end option, or to the end of `options`.
    fn walk(&mut self, mut options: &'a [u8], seen: &mut Seen, overload: &mut u8) -> Result<(), Refusal> {
        loop {
            match *options {
                [] | [code::END, ..] => return Ok(()),
                [code::PAD, ..] => options = options.get(1..).unwrap_or_default(),
                [code, length, ref rest @ ..] => {
                    let (value, behind) =
                        rest.split_at_checked(usize::from(length)).ok_or(Refusal::OptionLength)?;
                    seen.count(code)?;
                    self.option(code, value, overload)?;
                    options = behind;
                }
                [_] => return Err(Refusal::OptionLength),
            }
        }
    }

    fn option(&mut self, code: u8, value: &'a [u8], overload: &mut u8) -> Result<(), Refusal> {
        match code {
            code::MESSAGE_TYPE => [self.kind] = exact(value)?,
            code::OVERLOAD => [*overload] = exact(value)?,
            code::REQUESTED_ADDRESS => self.requested = Some(Ipv4Addr::from(exact(value)?)),
            code::SERVER => self.server = Some(Ipv4Addr::from(exact(value)?)),
            code::MAX_MESSAGE => self.max_message = Some(u16::from_be_bytes(exact(value)?)),
            code::RAPID_COMMIT => {
                let [] = exact(value)?;
                self.rapid_commit = true;
            }
            code::PARAMETERS => self.parameters = Some(value),
            // RFC 2132 section 9.14: at least two bytes, type and identifier.
            code::CLIENT_ID if value.len() < 2 => return Err(Refusal::OptionLength),
            code::CLIENT_ID => self.client_id = Some(value),
            _ => {}
        }
        Ok(())
    }
}

/// A value of exactly `N` bytes.
fn exact<const N: usize>(value: &[u8]) -> Result<[u8; N], Refusal> {
    value.try_into().map_err(|_| Refusal::OptionLength)
}

/// Which options were there. RFC 3396 joins parts of an option that comes twice; of those that are read here none is so long that it
/// needs parts, so that a second one contradicts the first.
#[derive(Default)]
struct Seen {
    codes: [u64; 4],
    count: usize,
}

impl Seen {
    fn has(&self, code: u8) -> bool {
        self.codes.get(usize::from(code >> 6)).is_some_and(|word| word >> (code & 63) & 1 == 1)
    }

    fn count(&mut self, code: u8) -> Result<(), Refusal> {
        self.count += 1;
        if self.count > MAX_OPTIONS {
            return Err(Refusal::TooMany);
        }
        if self.has(code) && code::READ.contains(&code) {
            return Err(Refusal::OptionTwice);
        }
        if let Some(word) = self.codes.get_mut(usize::from(code >> 6)) {
            *word |= 1 << (code & 63);
        }
        Ok(())
    }
}
