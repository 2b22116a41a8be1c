//! What must be unique: uids, VNIs, sockets.

use super::{Candidate, Candidates, vpcs};
use crate::name::Name;
use crate::port::Attachment;
use crate::problem::Problem;
use crate::vpc::Vni;
use std::collections::{BTreeMap, BTreeSet};

/// Checks all of them.
pub(super) fn check(candidates: &Candidates, problems: &mut Vec<Problem>) {
    uids(candidates, problems);
    vnis(candidates, problems);
    sockets(candidates, problems);
}

fn uids(candidates: &Candidates, problems: &mut Vec<Problem>) {
    let mut seen = BTreeMap::new();
    for candidate in &candidates.list {
        if let Some(other) = seen.insert(candidate.meta.uid, candidate) {
            let message = format!("has the uid of {}", other.describe());
            problems.push(candidate.problem(
                "metadata.uid",
                message,
                "remove the uid, and it gets one of its own",
            ));
        }
    }
}

fn vnis(candidates: &Candidates, problems: &mut Vec<Problem>) {
    let used: BTreeSet<Vni> = vpcs(candidates).filter_map(|(_, draft)| draft.vni).collect();
    let mut free = (1..=Vni::MAX).filter_map(Vni::new).filter(|vni| !used.contains(vni));
    let mut seen: BTreeMap<Vni, &Candidate> = BTreeMap::new();
    for (candidate, draft) in vpcs(candidates) {
        let mut suggest = || {
            free.next()
                .map_or_else(|| "remove a Vpc".to_owned(), |vni| format!("write vni: {vni}, which is free"))
        };
        match draft.vni {
            None => {
                let message = "is missing, and without a store there is nobody to assign and remember one";
                problems.push(candidate.problem("spec.vni", message, suggest()));
            }
            Some(vni) => match seen.get(&vni) {
                Some(other) => {
                    let message = format!("is the VNI of {}", other.describe());
                    problems.push(candidate.problem("spec.vni", message, suggest()));
                }
                None => {
                    seen.insert(vni, candidate);
                }
            },
        }
    }
}

/// A path is one socket of a host, whichever port it belongs to.
fn sockets(candidates: &Candidates, problems: &mut Vec<Problem>) {
    let mut seen: BTreeMap<(Option<&Name>, &str), &Candidate> = BTreeMap::new();
    for (candidate, draft) in candidates.ports() {
        let Some(Attachment::VhostUser(vhost)) = &draft.spec.attachment else { continue };
        let hosts = match (&draft.spec.host, &draft.spec.migrating_to) {
            (None, _) => vec![None],
            (Some(host), None) => vec![Some(host)],
            (Some(host), Some(target)) => vec![Some(host), Some(target)],
        };
        let taken = hosts.iter().find_map(|host| seen.get(&(*host, vhost.socket.as_str())).copied());
        if let Some(other) = taken {
            let message = format!("is the socket of {}", other.describe());
            let remedy = "give each port its own socket, or remove the field to get one";
            problems.push(candidate.problem("spec.attachment.vhostUser.socket", message, remedy));
        }
        for host in hosts {
            seen.entry((host, vhost.socket.as_str())).or_insert(candidate);
        }
    }
}
