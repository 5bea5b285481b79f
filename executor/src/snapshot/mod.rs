//! Snapshots: layers stacked to a tree, a writable directory on top, and what was changed in it.
//!
//! In: names of layer trees, topmost first, and a draft's directories. Out: a descriptor of the merged tree, and after
//! [`Snapshotter::commit`] a directory that holds exactly what differs from the layers beneath, in overlayfs form.
//! Deliberately absent: layer records, tars, digests ([`crate::layers`]), running anything.
//!
//! Every layer tree's root directory carries the mode, owner and times that `/` has with this layer on top, because
//! overlayfs shows the root of the topmost directory: [`Snapshotter::seed`] hands them on from layer to layer.
//!
//! Next: [`overlay`] (the usual one), [`copy`] (without mounts), [`commit`] (what changed), `stack` (two layers as one).

pub mod commit;
pub mod copy;
pub mod marks;
pub mod overlay;
mod separate;
pub(crate) mod stack;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use copy::CopySnapshotter;
pub use overlay::{OverlaySnapshotter, OverlaySpec};

use crate::tree::TreeError;
use crate::tree::copy::{Rules, clear, copy_entries};

#[cfg(test)]
mod tests;

/// Most layers of one tree, where small ones are put together (`layers::stacks`): no runtime that pulls the image would
/// take as many.
pub const LAYERS_MAX: usize = 4000;

/// Stacks layers. `lowers` are names in the store's layers directory, topmost first; there is a directory for each.
pub trait Snapshotter: std::fmt::Debug + Send + Sync + 'static {
    /// The merged tree of `lowers`, read-only. No layers is the empty tree.
    fn view(&self, lowers: &[String]) -> Result<Mounted, SnapshotError>;

    /// Makes the new directory `upper` ready to be written to as the top of `lowers`, by whoever mounts it.
    fn seed(&self, lowers: &[String], upper: &Path) -> Result<(), SnapshotError>;

    /// Seeds `upper` and returns the merged tree, writable; writes go to `upper`. `work` is an empty directory beside
    /// it. The tree must be dropped before [`Snapshotter::commit`].
    fn prepare(&self, lowers: &[String], upper: &Path, work: &Path) -> Result<Mounted, SnapshotError>;

    /// Leaves in `upper` only what may differ from `lowers`, if it holds more. [`Snapshotter::commit`] comes after it.
    fn settle(&self, _lowers: &[String], _upper: &Path) -> Result<(), SnapshotError> {
        Ok(())
    }

    /// Whether trees of layers are mounted: whoever runs something in one then mounts it too, instead of finding it in
    /// the upper directory.
    fn mounts(&self) -> bool {
        true
    }

    /// Reduces `upper` to what differs from `lowers`.
    fn commit(&self, lowers: &[String], upper: &Path) -> Result<Committed, SnapshotError>;
}

/// What an upper directory came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Whether it differs from what lies beneath.
    pub changed: bool,
    /// What it takes on disk, a file with several names once.
    pub bytes: u64,
}

/// A merged tree. Nobody else sees it, and it vanishes with this value.
#[derive(Debug)]
pub struct Mounted {
    root: OwnedFd,
    /// A directory to be deleted with it.
    _scratch: Option<Arc<Scratch>>,
}

impl Mounted {
    /// A detached mount.
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self { root, _scratch: None }
    }

    /// The tree's root directory.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Copies a merged tree into a directory of the user, which is made when it is missing: entries of the same name are
/// replaced, others stay, unless `delete` says that what the tree does not have is removed first. All of it belongs to
/// the one who runs this process; sockets are left out. Nothing outside `dest` is written to or removed.
pub fn copy_tree_out(tree: &Mounted, dest: &Path, delete: bool) -> Result<(), SnapshotError> {
    let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    std::fs::create_dir_all(dest).map_err(SnapshotError::io("make", dest))?;
    // The user's own path: links in it are the user's.
    let to = std::fs::File::open(dest).map_err(SnapshotError::io("open", dest))?;
    let from = crate::tree::resolve::open_dir_at(tree.fd(), b".").map_err(TreeError::io("open directory", b""))?;
    let to = std::os::fd::OwnedFd::from(to);
    if delete {
        let again = |fd: &std::os::fd::OwnedFd| fd.try_clone().map_err(SnapshotError::io("open", dest));
        let removed = crate::tree::mirror::remove_others(again(&from)?, again(&to)?)?;
        tracing::debug!(removed, "entries that the result does not have");
    }
    let rules = Rules { owner: Some(owner), keep_hard_links: true, ..Rules::default() };
    copy_entries(from, to, rules)?;
    Ok(())
}

#[derive(Debug)]
struct Scratch {
    dir: OwnedFd,
    path: PathBuf,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let cleared =
            self.dir.try_clone().map_err(SnapshotError::io("open", &self.path)).and_then(|dir| Ok(clear(dir)?));
        let removed =
            cleared.and_then(|()| std::fs::remove_dir(&self.path).map_err(SnapshotError::io("remove", &self.path)));
        if let Err(error) = removed {
            tracing::debug!(path = %self.path.display(), %error, "a copied tree is left behind");
        }
    }
}

/// Why layers could not be stacked or compared.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// More layers than the kernel stacks.
    #[error("the tree has {layers} layers, and {limit} at most can be stacked; flatten the image or use fewer steps")]
    TooManyLayers {
        /// How many there are.
        layers: usize,
        /// How many are possible here.
        limit: usize,
    },
    /// The kernel refused to mount.
    #[error("cannot mount {what}: {source}{}{kernel}", if kernel.is_empty() { "" } else { "; the kernel says: " })]
    Mount {
        /// What was to be mounted.
        what: String,
        /// The kernel's own words, when it has any.
        kernel: String,
        /// The refusal.
        source: io::Error,
    },
    /// A directory of the store could not be used.
    #[error("cannot {act} `{}`", path.display())]
    Io {
        /// What was tried.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// A tree could not be read or changed.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

impl SnapshotError {
    pub(crate) fn io<E: Into<io::Error>>(act: &'static str, path: &Path) -> impl FnOnce(E) -> SnapshotError {
        let path = path.to_owned();
        move |source| SnapshotError::Io { act, path, source: source.into() }
    }
}

/// Opens a directory of the store.
pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd, SnapshotError> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(SnapshotError::io("open", path))
}
