//! How strongly steps are kept apart from the machine: the rungs of a ladder, and the one place that chooses.
//!
//! In: what is wanted, and what this process may do ([`Privilege`]). Out: a [`Rung`], or why not. A rung that was asked
//! for by name is had or refused; only `auto` takes another, and says so.
//!
//! | rung | who | what it has |
//! |---|---|---|
//! | `full` | root with CAP_SYS_ADMIN | the machine's own ids and devices |
//! | `rootless` | anybody, where user namespaces are allowed | the same namespaces within a user namespace |

use std::fmt;

use rustix::thread::CapabilitySet;

use crate::rootless::{self, EnterError, Entered, Who};

/// What somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// This rung or none.
    Rung(Rung),
    /// The best that there is.
    Auto,
}

/// How steps are kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// With the rights of root.
    Full,
    /// In a user namespace.
    Rootless,
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Rootless => "rootless",
        })
    }
}

/// What this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Privilege {
    /// Whether its effective user is root.
    pub root: bool,
    /// Whether it has CAP_SYS_ADMIN: whether it may mount.
    pub may_mount: bool,
}

impl Privilege {
    /// That of this process.
    pub fn here() -> std::io::Result<Self> {
        let own = rustix::thread::capabilities(None)?;
        Ok(Self {
            root: rustix::process::geteuid().is_root(),
            may_mount: own.effective.contains(CapabilitySet::SYS_ADMIN),
        })
    }
}

/// Why a rung cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum IsolationError {
    /// `full` without the rights of root.
    #[error("`--isolation=full` needs the rights of root, and this process lacks CAP_SYS_ADMIN")]
    NotRoot {
        /// Whether the effective user is root, whose rights something took.
        root: bool,
    },
    /// What this process may do cannot be found out.
    #[error("the capabilities of this process cannot be read")]
    Capabilities(#[source] std::io::Error),
    /// No user namespace.
    #[error(transparent)]
    Enter(#[from] EnterError),
}

/// The rung that is tried: asked for by name, or else what suits the user. Without the rights of root there is but one.
/// Pure.
///
/// # Errors
/// [`IsolationError::NotRoot`] when `full` is asked for by who cannot have it.
pub fn choose(wanted: Option<Wanted>, privilege: Privilege) -> Result<Rung, IsolationError> {
    let full_or = |otherwise| if privilege.may_mount { Ok(Rung::Full) } else { otherwise };
    match wanted {
        Some(Wanted::Rung(Rung::Rootless)) => Ok(Rung::Rootless),
        Some(Wanted::Auto) => full_or(Ok(Rung::Rootless)),
        Some(Wanted::Rung(Rung::Full)) => full_or(Err(IsolationError::NotRoot { root: privilege.root })),
        None if privilege.root => full_or(Err(IsolationError::NotRoot { root: true })),
        None => full_or(Ok(Rung::Rootless)),
    }
}

/// What a process that goes on stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The rung.
    pub rung: Rung,
    /// The user namespace that was entered for it.
    pub entered: Option<Entered>,
}

/// Chooses and, for a rung that needs it, enters a user namespace. The process must have one thread.
///
/// # Errors
/// When there is no such rung here. After [`IsolationError::Enter`] the process should tell of it and end.
pub fn take(wanted: Option<Wanted>, who: &Who) -> Result<Standing, IsolationError> {
    let privilege = Privilege::here().map_err(IsolationError::Capabilities)?;
    let rung = choose(wanted, privilege)?;
    let entered = match rung {
        Rung::Full => None,
        Rung::Rootless => Some(rootless::enter(who)?),
    };
    Ok(Standing { rung, entered })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rung_asked_for_by_name_is_had_or_refused_and_only_auto_takes_another() {
        let root = Privilege { root: true, may_mount: true };
        let user = Privilege { root: false, may_mount: false };
        let in_container = Privilege { root: true, may_mount: false };
        let (full, rootless) = (Some(Wanted::Rung(Rung::Full)), Some(Wanted::Rung(Rung::Rootless)));
        let auto = Some(Wanted::Auto);
        for (wanted, privilege, expected) in [
            (None, root, Some(Rung::Full)),
            (None, user, Some(Rung::Rootless)),
            (None, in_container, None),
            (full, root, Some(Rung::Full)),
            (full, user, None),
            (full, in_container, None),
            (rootless, root, Some(Rung::Rootless)),
            (rootless, user, Some(Rung::Rootless)),
            (rootless, in_container, Some(Rung::Rootless)),
            (auto, root, Some(Rung::Full)),
            (auto, user, Some(Rung::Rootless)),
            (auto, in_container, Some(Rung::Rootless)),
        ] {
            assert_eq!(choose(wanted, privilege).ok(), expected, "{wanted:?} {privilege:?}");
        }
    }
}
