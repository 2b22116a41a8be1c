//! Peering: two VPCs whose route tables may lead into each other.

use crate::fields::{Fields, Reader, Refusal};
use crate::name::{Name, ObjectName};
use crate::yaml::Value;
use serde_json::json;

/// What a Peering says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeeringSpec {
    /// The two VPCs. They differ, and their networks do not overlap.
    pub vpcs: [ObjectName; 2],
}

impl PeeringSpec {
    /// The other of the two; `None` when `vpc` is neither.
    pub fn peer_of(&self, vpc: &ObjectName) -> Option<&ObjectName> {
        match &self.vpcs {
            [one, other] if one == vpc => Some(other),
            [one, other] if other == vpc => Some(one),
            _ => None,
        }
    }

    /// Reads `spec`.
    pub(crate) fn read(mut fields: Fields<'_>, reader: &mut Reader, project: &Name) -> Option<Self> {
        let remedy = "write the two Vpcs, as vpcs: [blue, green]";
        if fields.node("vpcs").is_none() {
            fields.missing(reader, "vpcs", remedy);
        }
        let vpcs = fields.list(reader, "vpcs", |text| ObjectName::parse(text, project));
        // Names that could not be read were reported; how many there are is said all the same.
        if let Some(node) = fields.node("vpcs")
            && let Value::Sequence(items) = &node.value
        {
            let twice = vpcs.as_deref().is_some_and(|vpcs| matches!(vpcs, [one, other] if one == other));
            let message = match items.len() {
                2 if twice => Some("is a Vpc and itself".to_owned()),
                2 => None,
                count => Some(format!("names {count} Vpcs")),
            };
            if let Some(message) = message {
                reader.refuse(node.position, "spec.vpcs", None, Refusal::new(message, remedy));
            }
        }
        fields.finish(reader);
        vpcs?.try_into().ok().map(|vpcs| Self { vpcs })
    }

    /// As a manifest writes it.
    pub(crate) fn to_json(&self, project: &Name) -> serde_json::Value {
        json!({ "vpcs": self.vpcs.each_ref().map(|vpc| vpc.relative_to(project)) })
    }
}
