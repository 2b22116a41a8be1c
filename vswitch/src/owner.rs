//! Users and groups by name or number.

use model::port::SocketOwner;
use nix::unistd::{Group, User};

/// The numbers of a socket's owner.
///
/// # Errors
///
/// No user or group of that name; the text says what to do.
pub(crate) fn resolve(owner: &SocketOwner) -> Result<(Option<u32>, Option<u32>), String> {
    let user = match owner.user.parse() {
        Ok(number) => number,
        Err(_) => found("user", &owner.user, User::from_name(&owner.user))?.uid.as_raw(),
    };
    let group = match owner.group.parse() {
        Ok(number) => number,
        Err(_) => found("group", &owner.group, Group::from_name(&owner.group))?.gid.as_raw(),
    };
    Ok((Some(user), Some(group)))
}

fn found<T>(what: &str, name: &str, found: nix::Result<Option<T>>) -> Result<T, String> {
    match found {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(format!(
            "there is no {what} \"{name}\" on this host; create it, or name another in spec.attachment.vhostUser.owner"
        )),
        Err(error) => Err(format!("{what} \"{name}\" could not be looked up: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_found() {
        let owner = |user: &str, group: &str| SocketOwner { user: user.into(), group: group.into() };
        assert_eq!(resolve(&owner("root", "7")), Ok((Some(0), Some(7))));
        let error = resolve(&owner("0", "no-such-group")).unwrap_err();
        assert!(error.contains("group \"no-such-group\"") && error.contains("owner"), "{error}");
    }
}
