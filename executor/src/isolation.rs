//! How strongly steps are kept apart from the machine: the rungs of a ladder, and the one place that chooses.
//!
//! In: what is wanted, and what this process may do ([`Privilege`]). Out: a [`Rung`], or why not. A rung that was asked
//! for by name is had or refused; only `auto` takes another, and says so.
//!
//! | rung | who | what it has |
//! |---|---|---|
//! | `full` | root with CAP_SYS_ADMIN | the machine's own ids and devices |
//! | `rootless` | anybody, where user namespaces are allowed | the same namespaces within a user namespace |
//! | `chroot` | root with four capabilities | a root directory of its own, and nothing else: see [`crate::chroot`] |
//!
//! What rungs have of the machine is tried only for `auto`, by [`trial`]: a rung that was asked for by name fails where
//! it fails.

use std::fmt;
use std::path::Path;

use rustix::thread::CapabilitySet;

use crate::rootless::{self, Diagnosis, EnterError, Entered, Who};

mod trial;

/// What somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// This rung or none.
    Rung(Rung),
    /// The best that there is.
    Auto,
}

/// How steps are kept apart; the best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// With the rights of root.
    #[default]
    Full,
    /// In a user namespace.
    Rootless,
    /// In a directory, without any namespace.
    Chroot,
}

impl Rung {
    /// All, from the top.
    pub const ALL: [Self; 3] = [Self::Full, Self::Rootless, Self::Chroot];
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Rootless => "rootless",
            Self::Chroot => "chroot",
        })
    }
}

/// What `chroot` cannot do without, by kernel name.
const CHROOT_FLOOR: [(CapabilitySet, &str); 4] = [
    (CapabilitySet::SYS_CHROOT, "CAP_SYS_CHROOT"),
    (CapabilitySet::CHOWN, "CAP_CHOWN"),
    (CapabilitySet::FOWNER, "CAP_FOWNER"),
    (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
];

/// What this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Privilege {
    /// Effective user.
    pub uid: u32,
    /// Effective capabilities.
    pub effective: CapabilitySet,
}

impl Privilege {
    /// That of this process.
    pub fn here() -> std::io::Result<Self> {
        let effective = rustix::thread::capabilities(None)?.effective;
        Ok(Self { uid: rustix::process::geteuid().as_raw(), effective })
    }

    fn is_root(self) -> bool {
        self.uid == 0
    }

    fn may_mount(self) -> bool {
        self.effective.contains(CapabilitySet::SYS_ADMIN)
    }

    /// What `chroot` needs and is not there.
    fn below_chroot(self) -> Vec<&'static str> {
        let missing = CHROOT_FLOOR.iter().filter(|(one, _)| !self.effective.contains(*one));
        missing.map(|(_, name)| *name).collect()
    }

    /// Why a rung cannot be had, as far as this alone tells.
    pub fn lacks(self, rung: Rung) -> Option<Diagnosis> {
        match rung {
            Rung::Full if self.may_mount() => None,
            Rung::Full => Some(Diagnosis {
                reason: "CAP_SYS_ADMIN is missing".into(),
                fix: "run it as root; a container needs `--cap-add SYS_ADMIN` or `--privileged`".into(),
            }),
            Rung::Rootless => None,
            Rung::Chroot if !self.is_root() => Some(Diagnosis {
                reason: format!("it needs uid 0, and this process is uid {}", self.uid),
                fix: "run the container as root: `--user 0` (docker, podman), `runAsUser: 0` (Kubernetes)".into(),
            }),
            Rung::Chroot => {
                let missing = self.below_chroot();
                let flags: Vec<_> = missing.iter().map(|name| name.trim_start_matches("CAP_")).collect();
                (!missing.is_empty()).then(|| Diagnosis {
                    reason: format!("{} missing", list(&missing)),
                    fix: format!(
                        "give them to the container: `--cap-add {}` (docker, podman), `capabilities: {{add: [{}]}}` in its \
                         `securityContext` (Kubernetes)",
                        flags.join(" --cap-add "),
                        flags.join(", "),
                    ),
                })
            }
        }
    }
}

/// `a is`, `a and b are`.
fn list(names: &[&str]) -> String {
    match names {
        [] => "nothing is".into(),
        [one] => format!("{one} is"),
        [others @ .., last] => format!("{} and {last} are", others.join(", ")),
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
    /// `chroot` with less than it needs.
    #[error(
        "`--isolation=chroot` needs uid 0 with CAP_SYS_CHROOT, CAP_CHOWN, CAP_FOWNER and CAP_DAC_OVERRIDE: {}",
        lack.reason
    )]
    BelowChroot {
        /// What is missing, and what to do.
        lack: Diagnosis,
    },
    /// `auto`, and nothing is there.
    #[error("there is no way to keep steps apart here")]
    Nothing {
        /// Every rung, why it cannot be had, and what to do.
        tried: Vec<(Rung, Diagnosis)>,
    },
    /// What this process may do cannot be found out.
    #[error("the capabilities of this process cannot be read")]
    Capabilities(#[source] std::io::Error),
    /// No user namespace.
    #[error(transparent)]
    Enter(#[from] EnterError),
}

/// A rung, and those above it that could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The rung.
    pub rung: Rung,
    /// What `auto` passed over, and why.
    pub passed_over: Vec<(Rung, Diagnosis)>,
}

/// The rung that is tried: asked for by name, or else what suits the user. Without the rights of root there is but one.
/// For `auto`, `lacks` says why a rung cannot be had; it is asked from the top. Pure.
///
/// # Errors
/// When what is asked for cannot be had, as far as can be told without trying.
pub fn choose(
    wanted: Option<Wanted>,
    privilege: Privilege,
    lacks: impl Fn(Rung) -> Option<Diagnosis>,
) -> Result<Choice, IsolationError> {
    let rung = match wanted {
        Some(Wanted::Rung(rung)) => rung,
        None if privilege.is_root() || privilege.may_mount() => Rung::Full,
        None => Rung::Rootless,
        Some(Wanted::Auto) => {
            let mut tried = Vec::new();
            for rung in Rung::ALL {
                match lacks(rung) {
                    None => return Ok(Choice { rung, passed_over: tried }),
                    Some(why) => tried.push((rung, why)),
                }
            }
            return Err(IsolationError::Nothing { tried });
        }
    };
    match (rung, privilege.lacks(rung)) {
        (Rung::Full, Some(_)) => Err(IsolationError::NotRoot { root: privilege.is_root() }),
        (Rung::Chroot, Some(lack)) => Err(IsolationError::BelowChroot { lack }),
        _ => Ok(Choice { rung, passed_over: Vec::new() }),
    }
}

/// What a process that goes on stands on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The rung.
    pub rung: Rung,
    /// The user namespace that was entered for it.
    pub entered: Option<Entered>,
    /// What `auto` passed over, and why.
    pub passed_over: Vec<(Rung, Diagnosis)>,
}

/// Chooses and, for a rung that needs it, enters a user namespace. The process must have one thread. `store` is where the
/// store is or will be.
///
/// # Errors
/// When there is no such rung here. After [`IsolationError::Enter`] the process should tell of it and end.
pub fn take(wanted: Option<Wanted>, who: &Who, store: &Path) -> Result<Standing, IsolationError> {
    let privilege = Privilege::here().map_err(IsolationError::Capabilities)?;
    let Choice { rung, passed_over } = choose(wanted, privilege, |rung| lacks(rung, privilege, who, store))?;
    let entered = match rung {
        Rung::Full | Rung::Chroot => None,
        Rung::Rootless => Some(rootless::enter(who)?),
    };
    Ok(Standing { rung, entered, passed_over })
}

/// Every rung, and why it cannot be had if it cannot. The process must have one thread, and not have taken any yet.
///
/// # Errors
/// When not even the capabilities of this process can be read.
pub fn ladder(who: &Who, store: &Path) -> Result<Vec<(Rung, Option<Diagnosis>)>, IsolationError> {
    let privilege = Privilege::here().map_err(IsolationError::Capabilities)?;
    Ok(Rung::ALL.into_iter().map(|rung| (rung, lacks(rung, privilege, who, store))).collect())
}

/// What the capabilities say, and then a trial.
fn lacks(rung: Rung, privilege: Privilege, who: &Who, store: &Path) -> Option<Diagnosis> {
    privilege.lacks(rung).or_else(|| match rung {
        Rung::Full | Rung::Rootless => trial::of(rung, who, store).err(),
        Rung::Chroot => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: CapabilitySet = CapabilitySet::empty();
    const ADMIN: CapabilitySet = CapabilitySet::SYS_ADMIN;

    fn floor() -> CapabilitySet {
        CHROOT_FLOOR.iter().fold(NONE, |all, (one, _)| all | *one)
    }

    /// `refused`: what the machine refuses when it is tried.
    #[track_caller]
    fn check(wanted: Option<Wanted>, uid: u32, effective: CapabilitySet, refused: &[Rung], expected: Option<Rung>) {
        let privilege = Privilege { uid, effective };
        let no = || Diagnosis { reason: "refused".into(), fix: String::new() };
        let lacks = |rung| privilege.lacks(rung).or_else(|| refused.contains(&rung).then(no));
        let found = choose(wanted, privilege, lacks);
        if wanted != Some(Wanted::Auto) {
            assert!(found.as_ref().map_or(true, |choice| choice.passed_over.is_empty()), "only `auto` passes over");
        }
        assert_eq!(
            found.as_ref().ok().map(|choice| choice.rung),
            expected,
            "{wanted:?} {uid} {effective:?}: {found:?}"
        );
    }

    #[test]
    fn a_rung_asked_for_by_name_is_had_or_refused_and_only_auto_takes_another() {
        use Rung::{Chroot, Full, Rootless};
        let [full, rootless, chroot] = Rung::ALL.map(|rung| Some(Wanted::Rung(rung)));
        let auto = Some(Wanted::Auto);
        let all = floor() | ADMIN;
        for (wanted, uid, effective, refused, expected) in [
            (None, 0, all, &[][..], Some(Full)),
            (None, 1000, NONE, &[], Some(Rootless)),
            (None, 0, floor(), &[], None),
            (None, 0, NONE, &[], None),
            // A default is not tried, nor is it exchanged for another.
            (None, 0, all, &[Full], Some(Full)),
            (None, 1000, NONE, &[Rootless], Some(Rootless)),
            (full, 0, all, &[], Some(Full)),
            (full, 1000, NONE, &[], None),
            (full, 0, floor(), &[], None),
            (rootless, 0, all, &[], Some(Rootless)),
            (rootless, 1000, NONE, &[], Some(Rootless)),
            (rootless, 0, floor(), &[Rootless], Some(Rootless)),
            (chroot, 0, all, &[], Some(Chroot)),
            (chroot, 0, floor(), &[], Some(Chroot)),
            (chroot, 1000, floor(), &[], None),
            (chroot, 1000, NONE, &[], None),
            (chroot, 0, NONE, &[], None),
            (auto, 0, all, &[], Some(Full)),
            (auto, 0, all, &[Full], Some(Rootless)),
            (auto, 0, all, &[Full, Rootless], Some(Chroot)),
            (auto, 0, floor(), &[], Some(Rootless)),
            (auto, 0, floor(), &[Rootless], Some(Chroot)),
            (auto, 0, NONE, &[Rootless], None),
            (auto, 1000, NONE, &[], Some(Rootless)),
            (auto, 1000, NONE, &[Rootless], None),
        ] {
            check(wanted, uid, effective, refused, expected);
        }
    }

    #[test]
    fn less_than_the_floor_of_chroot_is_named_one_by_one() {
        for (one, name) in CHROOT_FLOOR {
            let lack = Privilege { uid: 0, effective: floor() - one }.lacks(Rung::Chroot).expect("one is missing");
            assert_eq!(lack.reason, format!("{name} is missing"));
            assert!(lack.fix.contains(&format!("`--cap-add {}`", name.trim_start_matches("CAP_"))), "{lack:?}");
        }
        let lack =
            Privilege { uid: 0, effective: CapabilitySet::CHOWN }.lacks(Rung::Chroot).expect("three are missing");
        assert_eq!(lack.reason, "CAP_SYS_CHROOT, CAP_FOWNER and CAP_DAC_OVERRIDE are missing");
        let lack = Privilege { uid: 7, effective: floor() }.lacks(Rung::Chroot).expect("it is not root");
        assert!(lack.reason.contains("uid 7"), "{lack:?}");
        assert_eq!(Privilege { uid: 0, effective: floor() }.lacks(Rung::Chroot), None);
    }

    #[test]
    fn auto_tells_what_it_passed_over() {
        let privilege = Privilege { uid: 0, effective: floor() };
        let why = |reason: &str| Diagnosis { reason: reason.into(), fix: "do".into() };
        let lacks = |rung| match rung {
            Rung::Rootless => Some(why("no namespaces")),
            rung => privilege.lacks(rung),
        };
        let choice = choose(Some(Wanted::Auto), privilege, lacks).expect("chroot is there");
        let shown: Vec<_> = choice.passed_over.iter().map(|(rung, why)| (*rung, why.reason.as_str())).collect();
        assert_eq!(shown, [(Rung::Full, "CAP_SYS_ADMIN is missing"), (Rung::Rootless, "no namespaces")]);
        let nothing = choose(Some(Wanted::Auto), privilege, |_| Some(why("no")));
        assert!(matches!(nothing, Err(IsolationError::Nothing { tried }) if tried.len() == 3));
    }
}
