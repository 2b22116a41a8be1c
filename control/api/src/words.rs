//! The words people see for enums of the protocol.

use crate::pb::{Outcome, Phase};
use serde::Serializer;

impl Phase {
    /// The word: `Pending`, `Listening`, `Connected`, `Forwarding`, `Error`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "Unknown",
            Self::Pending => "Pending",
            Self::Listening => "Listening",
            Self::Connected => "Connected",
            Self::Forwarding => "Forwarding",
            Self::Error => "Error",
        }
    }
}

impl Outcome {
    /// The word: `ok`, `warn`, `fail`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "unknown",
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// Serializes a phase as its word. A number this version does not know is `Unknown`.
pub(crate) fn phase<S: Serializer>(value: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(Phase::try_from(*value).unwrap_or(Phase::Unspecified).word())
}

/// Serializes an outcome as its word. A number this version does not know is `unknown`.
pub(crate) fn outcome<S: Serializer>(value: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(Outcome::try_from(*value).unwrap_or(Outcome::Unspecified).word())
}

#[cfg(test)]
mod tests {
    use crate::pb;
    use serde_json::json;

    #[test]
    fn a_worker_serializes_to_exactly_the_documented_fields() {
        let worker = pb::Worker {
            worker: 0,
            core: 2,
            queues: 4,
            packets: 10,
            busy_cycles_per_packet: Some(48.5),
            idle_percent: 12.0,
        };
        let expected = json!({"worker": 0, "core": 2, "queues": 4, "packets": 10, "busyCyclesPerPacket": 48.5, "idlePercent": 12.0});
        assert_eq!(serde_json::to_value(worker).unwrap(), expected);
        let idle = serde_json::to_value(pb::Worker { worker: 1, ..pb::Worker::default() }).unwrap();
        assert_eq!(idle["busyCyclesPerPacket"], json!(null));
    }

    #[test]
    fn enums_serialize_as_words_even_unknown_ones() {
        let status =
            |phase| serde_json::to_value(pb::PortStatus { phase, ..pb::PortStatus::default() }).unwrap();
        assert_eq!(status(pb::Phase::Forwarding.into())["phase"], "Forwarding");
        assert_eq!(status(4711)["phase"], "Unknown");
        let check = pb::Check { outcome: pb::Outcome::Warn.into(), ..pb::Check::default() };
        assert_eq!(serde_json::to_value(check).unwrap()["outcome"], "warn");
    }
}
