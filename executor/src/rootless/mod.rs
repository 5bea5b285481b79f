//! Root's rights for a user, in a user namespace: entered once, by the whole process, before it has threads.
//!
//! In: who runs this process. Out: the same process, as uid 0 of a user namespace that maps the user to 0 and its
//! subordinate ids to 1 and following, with a mount namespace that the machine does not see. From then on layers are
//! stacked, owners changed and steps run by the same code as root's; what differs stands in [`surroundings`], and in
//! [`oci::layer::XattrNamespace`] for the marks of overlayfs.
//!
//! ```text
//!  rbuild (uid 1000, one thread)              H: a copy in the first namespace
//!  ─────────────────────────────              ──────────────────────────────────────────────
//!  fork ────────────────────────────────────► waits
//!  unshare(user, mount namespaces)
//!  "I have" ────────────────────────────────► newuidmap, newgidmap (set-uid programs of the machine)
//!  ◄──────────────────────── how that went ── ends
//!  goes on as uid 0
//! ```
//!
//! Only who stands outside may map ids that are not its own, hence H. Nothing stays behind and nothing is executed anew.
//! Deliberately absent: whether to enter ([`crate::isolation`]), and everything that steps are isolated by, which is the
//! same for root ([`crate::sandbox`]).
//!
//! Reading order: [`ids`] (the map), [`enter`], [`diagnose`] (why not), [`surroundings`], and [`launcher`]
//! for the user's own programs.

mod as_user;
pub mod diagnose;
mod enter;
pub mod ids;
pub mod probe;
pub mod surroundings;
mod user;

pub use as_user::{Launcher, become_if_asked, launcher};
pub use diagnose::{Diagnosis, Facts, Refused, diagnose};
pub use enter::{EnterError, Entered, Missing, enter};
pub use surroundings::Surroundings;
pub(crate) use user::own_binary;
pub use user::{Who, entered_by};
