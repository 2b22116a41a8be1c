//! Who may change a resource.

use std::fmt;

/// The owner of a resource: the way it came in. Only by the same way may it be changed or deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// Applied over the API.
    Api,
    /// In the folder of manifests.
    Manifests,
    /// Made by the CNI plugin.
    Cni,
    /// Written by towpathd itself, out of its own file: its Host.
    Daemon,
}

impl Owner {
    /// The name, as people see it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Manifests => "manifests",
            Self::Cni => "cni",
            Self::Daemon => "towpathd",
        }
    }

    /// How to change what this owner owns.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Api => "change it with `towpath apply`, or delete it with `towpath delete` first",
            Self::Manifests => "change it in the manifests folder, or remove it there first",
            Self::Cni => "it lives and dies with its container; use another name",
            Self::Daemon => "change it in towpathd.yaml, or write the same here",
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
