//! A user namespace for each step of root's (`--userns=auto`): root in it is nobody outside, and the store keeps real
//! ids all the same.
//!
//! In: which ids the machine has to spare. Out: an [`IdMap`], and namespaces with it. What a step sees of the store
//! passes id-mapped mounts: what is 0:0 on disk belongs to the namespace's root, and what that root makes is 0:0 on
//! disk. So layers, caches and digests are the same as without.
//!
//! ```text
//!  on disk   id-mapped mount    the kernel, outside   inside the step
//!  0         ─────────────────► 2013265920            0
//!  1000      ─────────────────► 2013266920            1000
//! ```
//!
//! The set-up of a step is done with the rights of the machine's root, as ever; only then the step goes into the
//! namespace, for good. Deliberately absent: what an ordinary user has instead, which is one namespace around the whole
//! builder ([`crate::rootless`]).
//!
//! Reading order: [`ids`] (which), [`make`] (a namespace), `sandbox::userns` (what a step's set-up does with it),
//! [`probe`] (whether the store's file system can do it).

mod error;
pub mod ids;
pub(crate) mod make;
pub mod probe;

pub use error::UsernsError;
pub use ids::{IdMap, Machine, choose};
pub(crate) use probe::become_probe_if_asked;

/// What somebody wants for the steps of root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The machine's own ids: root in a step is root.
    Host,
    /// A namespace of its own for each step.
    Auto,
}

impl Wanted {
    /// As flags and settings have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Auto => "auto",
        }
    }
}

impl std::str::FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Host, Self::Auto].into_iter().find(|wanted| wanted.name() == text);
        known.ok_or_else(|| format!("`{text}` is none of auto, host"))
    }
}
