//! What the user namespace that this process is in lets the set-up of a step do.
//!
//! In the machine's first namespace, everything. In any other, root may neither make device nodes nor mount what shows
//! the machine (`/sys`, unless the network is its own), and only ids exist that are mapped.

use oci::layer::XattrNamespace;
use serde::{Deserialize, Serialize};

use super::ids;

/// The group of terminals, in every distribution.
const TTY_GROUP: u32 = 5;

/// What a step's set-up may do. The default is the machine's first user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surroundings {
    /// Whether this is not the machine's first user namespace.
    pub user_namespace: bool,
    /// Whether terminals can belong to their group.
    pub tty_group: bool,
    /// Whether a process may choose its groups; without it all keep those of whoever started the builder.
    pub setgroups: bool,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self { user_namespace: false, tty_group: true, setgroups: true }
    }
}

impl Surroundings {
    /// Those of this process.
    pub fn here() -> Self {
        if XattrNamespace::here() == XattrNamespace::Trusted {
            return Self::default();
        }
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            user_namespace: true,
            tty_group: ids::is_mapped(&read("/proc/self/gid_map"), TTY_GROUP),
            setgroups: read("/proc/self/setgroups").trim() != "deny",
        }
    }
}
