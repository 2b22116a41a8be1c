//! Who may use the socket.
//!
//! The socket's mode lets in root, the daemon's user and group `towpath`. The same is checked against the peer's
//! credentials (SO_PEERCRED, unix(7)), so that a socket whose mode somebody loosened lets in nobody else, and neither does
//! the moment between making the socket and setting its mode.

use crate::GROUP;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use std::ffi::CString;

/// Who may use the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// These users.
    pub users: Vec<u32>,
    /// The members of this group.
    pub group: Option<u32>,
}

impl Access {
    /// Root, the user the daemon runs as, and group `towpath` if this machine has it.
    pub fn of_daemon() -> Self {
        Self { users: vec![0, Uid::effective().as_raw()], group: group_id() }
    }

    /// Whether a peer with this user and primary group may use the socket.
    pub fn allows(&self, user: u32, primary_group: u32) -> bool {
        self.allows_with(user, primary_group, || groups_of(user))
    }

    fn allows_with(&self, user: u32, primary_group: u32, groups: impl FnOnce() -> Vec<u32>) -> bool {
        self.users.contains(&user)
            || self.group.is_some_and(|group| group == primary_group || groups().contains(&group))
    }
}

/// The number of group `towpath`, when this machine has it.
pub fn group_id() -> Option<u32> {
    Group::from_name(GROUP).ok().flatten().map(|group| group.gid.as_raw())
}

/// All groups of a user; empty when the user is not known.
fn groups_of(user: u32) -> Vec<u32> {
    let user = User::from_uid(Uid::from_raw(user)).ok().flatten();
    let groups = user.and_then(|user| {
        let name = CString::new(user.name).ok()?;
        getgrouplist(&name, user.gid).ok()
    });
    groups.unwrap_or_default().into_iter().map(Gid::as_raw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a01_root_the_daemons_user_and_the_group_get_in_and_nobody_else() {
        let access = Access { users: vec![0, 900], group: Some(77) };
        let none = Vec::new;
        assert!(access.allows_with(0, 0, none));
        assert!(access.allows_with(900, 900, none));
        assert!(access.allows_with(1000, 77, none));
        assert!(access.allows_with(1000, 1000, || vec![27, 77]));
        assert!(!access.allows_with(1000, 1000, || vec![27]));
        let alone = Access { users: vec![0, 900], group: None };
        assert!(!alone.allows_with(1000, 77, || vec![77]));
    }

    #[test]
    fn groups_of_a_user_come_from_this_machine() {
        assert!(groups_of(0).contains(&0), "root is in group root");
        assert!(groups_of(u32::MAX - 7).is_empty());
    }
}
