//! Runs one process in a directory, where nothing may be mounted and no namespace made: the lowest rung of
//! [`crate::isolation`], for pods without privileges.
//!
//! In comes the sandbox's own [`ProcessSpec`](crate::sandbox::ProcessSpec), out goes the same as from the sandbox: who
//! starts a step does not know the difference. It is no security boundary: the step is root of the container, sees its
//! processes and network, and a root with CAP_SYS_CHROOT leaves any directory. What it protects is the image: nothing of
//! the set-up is in a layer, and what outlives a step is moved out of its tree again.
//!
//! ```text
//!  builder                     A: helper                              B: the step
//!  ───────                     ─────────                              ───────────
//!  spec ─► Task ─► socket ───► puts things into the tree
//!                              (devices, files, caches: moved there)
//!                              fork ────────────────────────────────► chroot, ids, capabilities, exec
//!  ◄─ pidfd of B ──────────────┤ waits for B or for the socket's end
//!                              kills whatever descends from it, as it is their subreaper
//!                              takes everything back
//!  ◄─ exit ────────────────────┘
//! ```
//!
//! A mount is replaced by putting a thing at the place of its target ([`put`]): what was there is moved aside, to a
//! directory of the same draft, and back afterwards. A outlives the builder for that: what is lent to a tree comes back
//! though the builder was killed. If A is killed too, a lent cache mount is lost with the draft; it is never in a layer.
//!
//! Reading order: [`task`] (what is asked of A, and what is refused), [`put`] and [`take`], [`strays`], [`helper`].

mod devices;
pub(crate) mod helper;
mod lacks;
mod put;
mod strays;
mod take;
pub(crate) mod task;

use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::sandbox::beneath::Root;
use crate::sandbox::trouble::{Trouble, with};

pub use devices::try_devices;
pub use lacks::{Lack, lacks};

/// The name by which the binary knows that it is the helper.
pub(crate) const ARGV0: &str = "rbuild-chroot";

/// Makes the directory the root of this process, and returns it.
pub(crate) fn change_root(tree: &Path) -> Result<Root, Trouble> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(tree, flags, Mode::empty())?;
    rustix::process::fchdir(&directory)?;
    rustix::process::chroot(".").map_err(with("chroot"))?;
    Ok(Root::new(directory)?)
}
