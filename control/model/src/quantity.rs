//! Quantities as people type them: `1.5Gbps`, `200kpps`, `5k/s`, `64KiB`, `30s`.
//!
//! A quantity is a decimal number and a unit without a space between. Prefixes of rates are decimal (k, M, G, T); `KiB`,
//! `MiB`, `GiB` are binary. What does not come out whole in the base unit, or overflows 64 bits, is refused, never rounded.

use crate::fields::{Parsed, Refusal};
use std::fmt;
use std::time::Duration;

/// Bits per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BitRate(pub u64);

/// Packets per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketRate(pub u64);

/// Events (sessions, log lines) per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventRate(pub u64);

/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// A time span of whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeSpan(pub u64);

/// A unit and how many base units it is, from the greatest.
type Units = &'static [(&'static str, u64)];

const BIT_RATES: Units =
    &[("Tbps", 1_000_000_000_000), ("Gbps", 1_000_000_000), ("Mbps", 1_000_000), ("kbps", 1000), ("bps", 1)];
const PACKET_RATES: Units = &[("Gpps", 1_000_000_000), ("Mpps", 1_000_000), ("kpps", 1000), ("pps", 1)];
const EVENT_RATES: Units = &[("M/s", 1_000_000), ("k/s", 1000), ("/s", 1)];
const BYTE_SIZES: Units = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("B", 1),
];
const TIME_SPANS: Units = &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Most digits after the point: more than any unit has zeros.
const FRACTION_DIGITS: usize = 12;

/// `text` in base units.
fn scaled(text: &str, units: Units, what: &str, example: &str) -> Parsed<u64> {
    let names = units.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let remedy = format!("write a number and a unit ({names}), as {example}");
    let refuse = |message: String| Err(Refusal::new(message, remedy.clone()));
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') || fraction.len() > FRACTION_DIGITS {
        return refuse(format!("not {what}"));
    }
    let Some((_, scale)) = units.iter().find(|(name, _)| *name == unit) else {
        return match unit.is_empty() {
            true => refuse(format!("{what} needs a unit")),
            false => refuse(format!("unit \"{}\" is not one of {what}", crate::problem::quoted(unit))),
        };
    };
    let (Ok(whole), Ok(fraction_digits)) = (whole.parse::<u64>(), fraction.parse::<u64>()) else {
        return refuse(format!("{what} this great cannot be counted"));
    };
    // At most 12 digits, so the power and the product stay far below 128 bits.
    let divisor = 10u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let part = u128::from(fraction_digits) * u128::from(*scale);
    if !part.is_multiple_of(divisor) {
        return refuse(format!("not a whole number of {}", units.last().map_or("", |(name, _)| *name)));
    }
    let total = u128::from(whole) * u128::from(*scale) + part / divisor;
    u64::try_from(total).or_else(|_| refuse(format!("{what} this great cannot be counted")))
}

/// Base units with the greatest unit that divides them.
fn unscaled(value: u64, units: Units, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    let fits = |scale: u64| value != 0 && value.is_multiple_of(scale);
    let base = units.iter().rev().find(|(_, scale)| *scale == 1);
    match units.iter().find(|(_, scale)| fits(*scale)).or(base) {
        Some((name, scale)) => write!(formatter, "{}{name}", value / scale),
        None => write!(formatter, "{value}"),
    }
}

macro_rules! quantity {
    ($type:ident, $units:ident, $what:literal, $example:literal) => {
        impl $type {
            #[doc = concat!("Reads ", $what, ", as `", $example, "`.")]
            ///
            /// # Errors
            /// No number, no unit of this quantity, not whole in the base unit, or beyond 64 bits.
            pub fn parse(text: &str) -> Parsed<Self> {
                scaled(text, $units, $what, $example).map(Self)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                unscaled(self.0, $units, formatter)
            }
        }
    };
}

quantity!(BitRate, BIT_RATES, "a bit rate", "10Mbps");
quantity!(PacketRate, PACKET_RATES, "a packet rate", "200kpps");
quantity!(EventRate, EVENT_RATES, "a rate of events", "5k/s");
quantity!(ByteSize, BYTE_SIZES, "a size", "64KiB");
quantity!(TimeSpan, TIME_SPANS, "a time span", "30s");

impl TimeSpan {
    /// The same as the standard library's type.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_documented_forms() {
        assert_eq!(BitRate::parse("10Mbps"), Ok(BitRate(10_000_000)));
        assert_eq!(BitRate::parse("1.5Gbps"), Ok(BitRate(1_500_000_000)));
        assert_eq!(PacketRate::parse("200kpps"), Ok(PacketRate(200_000)));
        assert_eq!(EventRate::parse("5k/s"), Ok(EventRate(5000)));
        assert_eq!(ByteSize::parse("64KiB"), Ok(ByteSize(65536)));
        assert_eq!(TimeSpan::parse("30s").map(TimeSpan::duration), Ok(Duration::from_secs(30)));
        assert_eq!(TimeSpan::parse("1h"), Ok(TimeSpan(3_600_000)));
        assert_eq!(ByteSize(3 << 20).to_string(), "3MiB");
        assert_eq!(TimeSpan(0).to_string(), "0ms");
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "10",
            "Mbps",
            "10 Mbps",
            "10mbps",
            "1..5Gbps",
            ".5Gbps",
            "5.Gbps",
            "-1Mbps",
            "1e3bps",
            "NaNbps",
            "0.1bps",
            "99999999999999999999bps",
            "18446744073709551615Tbps",
            "1.0000000000000000001Gbps",
            "10MbpsX",
            "１Mbps",
        ] {
            assert!(BitRate::parse(bad).is_err(), "{bad}");
        }
        assert!(BitRate::parse("10kpps").unwrap_err().message.contains("unit \"kpps\""));
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(value: u64) {
            prop_assert_eq!(BitRate::parse(&BitRate(value).to_string()), Ok(BitRate(value)));
            prop_assert_eq!(ByteSize::parse(&ByteSize(value).to_string()), Ok(ByteSize(value)));
            prop_assert_eq!(TimeSpan::parse(&TimeSpan(value).to_string()), Ok(TimeSpan(value)));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = BitRate::parse(&text);
            let _ = TimeSpan::parse(&text);
        }
    }
}
