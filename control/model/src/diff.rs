//! What must change to get from one set to another.

use crate::kind::Kind;
use crate::name::Key;
use crate::resource::Resource;
use crate::set::ResourceSet;
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

/// The changes from `old` to `new`, in an order in which no reference dangles after any of them: ports go first, then
/// what is added or changed from Host to Port, then what else is gone from Subnet to Host. Empty exactly when both are
/// equal but for MTUs that only the environment decides.
pub fn diff(old: &ResourceSet, new: &ResourceSet) -> Vec<Change> {
    let mut changes = Vec::new();
    let gone = |resource: &&Arc<Resource>| new.get(&resource.meta.key).is_none();
    let removed: Vec<&Arc<Resource>> = old.iter().filter(gone).collect();
    let is_port = |resource: &Arc<Resource>| resource.meta.key.kind == Kind::Port;
    let remove = |resource: &Arc<Resource>| Change::Removed(Arc::clone(resource));
    changes.extend(removed.iter().filter(|resource| is_port(resource)).map(|resource| remove(resource)));
    for resource in new.iter() {
        match old.get(&resource.meta.key) {
            None => changes.push(Change::Added(Arc::clone(resource))),
            Some(before) if Arc::ptr_eq(before, resource) || before == resource => {}
            Some(before) => changes.push(Change::Changed {
                old: Arc::clone(before),
                new: Arc::clone(resource),
                fields: fields(before, resource),
            }),
        }
    }
    changes
        .extend(removed.iter().rev().filter(|resource| !is_port(resource)).map(|resource| remove(resource)));
    changes
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
