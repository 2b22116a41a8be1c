//! What must change to get from one set to another.

use crate::kind::Kind;
use crate::name::Key;
use crate::resource::Resource;
use crate::set::{Difference, ResourceSet};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One step from one set to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A resource that was not there.
    Added(Arc<Resource>),
    /// A resource that says something else.
    Changed {
        /// What it said.
        old: Arc<Resource>,
        /// What it says.
        new: Arc<Resource>,
        /// The fields that differ, as `spec.ips`, `spec.attachment.vhostUser.mode`, `metadata.labels`.
        fields: Vec<String>,
    },
    /// A resource that is gone.
    Removed(Arc<Resource>),
}

impl Change {
    /// The resource.
    pub fn key(&self) -> &Key {
        match self {
            Self::Added(resource) | Self::Removed(resource) | Self::Changed { new: resource, .. } => {
                &resource.meta.key
            }
        }
    }
}

/// The changes from `old` to `new`: what is gone of FloatingIps and LoadBalancers, then of Ports and Endpoints first, then what is added or changed in the order of
/// [`Kind::ALL`], then what else is gone, backwards. After each of them no reference dangles, but those to Ports that RouteTables, FloatingIps and LoadBalancers
/// are about to give up, and those of SecurityGroups to each other. Empty exactly when both are equal.
pub fn diff(old: &ResourceSet, new: &ResourceSet) -> Vec<Change> {
    let (mut foremost, mut first, mut then, mut last) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for Difference { old, new } in old.differences(new) {
        match (old, new) {
            (Some(old), Some(new)) => {
                let fields = fields(&old, &new);
                then.push(Change::Changed { old, new, fields });
            }
            (None, Some(new)) => then.push(Change::Added(new)),
            (Some(old), None) if matches!(old.meta.key.kind, Kind::FloatingIp | Kind::LoadBalancer) => {
                foremost.push(Change::Removed(old));
            }
            (Some(old), None) if matches!(old.meta.key.kind, Kind::Port | Kind::Endpoint) => {
                first.push(Change::Removed(old));
            }
            (Some(old), None) => last.push(Change::Removed(old)),
            (None, None) => {}
        }
    }
    foremost.into_iter().chain(first).chain(then).chain(last.into_iter().rev()).collect()
}

/// The fields in which two resources of one key differ.
pub fn fields(old: &Resource, new: &Resource) -> Vec<String> {
    let mut differing = Vec::new();
    compare(&old.to_json(), &new.to_json(), "", &mut differing);
    if old.meta.owner != new.meta.owner {
        differing.push("metadata.owner".into());
    }
    differing
}

/// Collects the paths at which two trees differ. A list differs as a whole.
fn compare(old: &Value, new: &Value, path: &str, differing: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let keys: BTreeMap<&String, ()> = old.keys().chain(new.keys()).map(|key| (key, ())).collect();
            for key in keys.into_keys() {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match (old.get(key), new.get(key)) {
                    (Some(old), Some(new)) => compare(old, new, &path, differing),
                    _ => differing.push(path),
                }
            }
        }
        _ if old == new => {}
        _ => differing.push(path.to_owned()),
    }
}
