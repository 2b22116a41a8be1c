//! What hosts tell each other of the targets that they hold: the payload of an Ethernet frame in a VPC's tunnels.
//!
//! `TPH1`, how long it is good for (4 bytes, milliseconds), then for each target: 1 byte of flags (bit 0: IPv6; bits 1 and 2: the verdict), 1 byte that says how the last check
//! ended, 2 bytes of its HTTP status, 4 bytes since when (seconds ago), the shared address, the target's. All in network byte order. A host believes what
//! it says of nobody but those who live behind the tunnel end point that it came from.

use super::{Outcome, TargetId, Verdict};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// The EtherType of these frames: IEEE Std 802 local experimental EtherType 1. Guests cannot send it.
pub const ETHER_TYPE: u16 = 0x88b5;
const MAGIC: &[u8; 4] = b"TPH1";
/// Bytes of a payload at most: they fit any tunnel.
const MOST: usize = 1024;
/// The longest that a word is good for, whatever it says.
const MOST_VALID: Duration = Duration::from_secs(60);

/// What is said of one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) shared: IpAddr,
    pub(super) target: IpAddr,
    pub(super) verdict: Verdict,
    pub(super) last: Option<Outcome>,
    /// For how long it has been so.
    pub(super) age: Duration,
}

/// Payloads that say all that.
pub(super) fn write(words: &[Word], valid: Duration) -> Vec<Vec<u8>> {
    let mut payloads: Vec<Vec<u8>> = Vec::new();
    let begin = || {
        let milliseconds = u32::try_from(valid.as_millis()).unwrap_or(u32::MAX);
        [&MAGIC[..], &milliseconds.to_be_bytes()].concat()
    };
    for word in words {
        let entry = entry(word);
        match payloads.last_mut() {
            Some(last) if last.len() + entry.len() <= MOST => last.extend(entry),
            _ => payloads.push([begin(), entry].concat()),
        }
    }
    payloads
}

fn entry(word: &Word) -> Vec<u8> {
    let verdict = match word.verdict {
        Verdict::Unknown => 0u8,
        Verdict::Up => 1,
        Verdict::Down => 2,
    };
    let (code, status) = match word.last {
        None => (0u8, 0),
        Some(Outcome::Connects) => (1, 0),
        Some(Outcome::Status(status)) => (2, status),
        Some(Outcome::Refused) => (3, 0),
        Some(Outcome::NoConnection) => (4, 0),
        Some(Outcome::NoAnswer) => (5, 0),
        Some(Outcome::Ended) => (6, 0),
        Some(Outcome::NotHttp) => (7, 0),
        Some(Outcome::Silent) => (8, 0),
    };
    let mut bytes = vec![u8::from(word.shared.is_ipv6()) | verdict << 1, code];
    bytes.extend(status.to_be_bytes());
    bytes.extend(u32::try_from(word.age.as_secs()).unwrap_or(u32::MAX).to_be_bytes());
    for address in [word.shared, word.target] {
        match address {
            IpAddr::V4(v4) => bytes.extend(v4.octets()),
            IpAddr::V6(v6) => bytes.extend(v6.octets()),
        }
    }
    bytes
}

/// What a payload says, and how long that is good for; `None` if it is none of these.
pub(super) fn read(payload: &[u8]) -> Option<(Duration, Vec<Word>)> {
    let payload = payload.get(..payload.len().min(MOST))?;
    let (valid, mut rest) = payload.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
    let valid = Duration::from_millis(u32::from_be_bytes(*valid).into()).min(MOST_VALID);
    let mut words = Vec::new();
    while let Some((word, behind)) = read_one(rest) {
        words.push(word);
        rest = behind;
    }
    Some((valid, words))
}

/// `None` at the end, and where an entry is none: what follows it cannot be told.
fn read_one(bytes: &[u8]) -> Option<(Word, &[u8])> {
    let ([flags, code, status_a, status_b, age @ ..], rest) = bytes.split_first_chunk::<8>()?;
    let verdict = match flags >> 1 {
        0 => Verdict::Unknown,
        1 => Verdict::Up,
        2 => Verdict::Down,
        _ => return None,
    };
    let last = match code {
        0 => None,
        1 => Some(Outcome::Connects),
        2 => Some(Outcome::Status(u16::from_be_bytes([*status_a, *status_b]))),
        3 => Some(Outcome::Refused),
        4 => Some(Outcome::NoConnection),
        5 => Some(Outcome::NoAnswer),
        6 => Some(Outcome::Ended),
        7 => Some(Outcome::NotHttp),
        8 => Some(Outcome::Silent),
        _ => return None,
    };
    let age = Duration::from_secs(u32::from_be_bytes(*age).into());
    let address = |bytes| -> Option<(IpAddr, &[u8])> {
        if flags & 1 == 0 {
            let (octets, rest) = <[u8]>::split_first_chunk::<4>(bytes)?;
            Some((Ipv4Addr::from(*octets).into(), rest))
        } else {
            let (octets, rest) = <[u8]>::split_first_chunk::<16>(bytes)?;
            Some((Ipv6Addr::from(*octets).into(), rest))
        }
    };
    let (shared, rest) = address(rest)?;
    let (target, rest) = address(rest)?;
    // Padding of a short frame says nothing of anybody.
    (!shared.is_unspecified()).then_some((Word { shared, target, verdict, last, age }, rest))
}

impl Word {
    /// Whom it is about, in a VPC.
    pub(super) fn id(&self, vpc: u16) -> TargetId {
        TargetId { vpc, shared: self.shared, target: self.target }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn word(number: u8) -> Word {
        let outcomes = [
            None,
            Some(Outcome::Connects),
            Some(Outcome::Status(503)),
            Some(Outcome::Refused),
            Some(Outcome::NoConnection),
            Some(Outcome::NoAnswer),
            Some(Outcome::Ended),
            Some(Outcome::NotHttp),
            Some(Outcome::Silent),
        ];
        let (shared, target) = match number % 2 {
            0 => (Ipv4Addr::new(10, 0, 100, 1).into(), Ipv4Addr::new(10, 0, 1, number).into()),
            _ => {
                ("fd00::100".parse().unwrap(), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into())
            }
        };
        let verdict = [Verdict::Unknown, Verdict::Up, Verdict::Down][usize::from(number % 3)];
        let last = outcomes[usize::from(number) % outcomes.len()];
        Word { shared, target, verdict, last, age: Duration::from_secs(u64::from(number) << 20) }
    }

    #[test]
    fn what_is_said_is_heard() {
        let words: Vec<Word> = (0..200).map(word).collect();
        let payloads = write(&words, Duration::from_secs(7));
        assert!(payloads.len() > 1 && payloads.iter().all(|payload| payload.len() <= MOST));
        let mut heard = Vec::new();
        for payload in payloads {
            let (valid, words) = read(&payload).unwrap();
            assert_eq!(valid, Duration::from_secs(7));
            heard.extend(words);
        }
        assert_eq!(heard, words);
        // And with the padding of a short frame behind it.
        let padded = [write(&words[..1], Duration::MAX).remove(0), vec![0; 40]].concat();
        assert_eq!(read(&padded), Some((MOST_VALID, words[..1].to_vec())));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let with_magic = [&MAGIC[..], &bytes].concat();
            for payload in [&bytes, &with_magic] {
                if let Some((valid, words)) = read(payload) {
                    prop_assert!(valid <= MOST_VALID && words.len() * 16 <= payload.len());
                }
            }
        }
    }
}
