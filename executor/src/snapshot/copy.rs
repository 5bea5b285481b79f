//! Layers stacked by copying: the toy beside overlayfs, and its oracle in tests.
//!
//! In and out: as [`Snapshotter`] says. A view is a directory of its own into which every layer was copied, from the
//! bottom up; an upper starts as a whole copy, and at commit what equals the view is taken away. It needs no mount, so
//! it also works where overlayfs does not; it is slow.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Committed, Mounted, Scratch, SnapshotError, Snapshotter, commit, open_directory};
use crate::tree::attrs;
use crate::tree::copy::{Copier, Rules, clear, copy_tree, is_whiteout, remove};
use crate::tree::resolve::stat_at;
use crate::tree::walk::{Descend, DirStack, Entry, Visitor, walk};
use crate::tree::{TreeError, copy};

/// The toy snapshotter.
#[derive(Debug)]
pub struct CopySnapshotter {
    layers: PathBuf,
    scratch: PathBuf,
    next: AtomicU64,
}

impl CopySnapshotter {
    /// Stacks trees of `layers`; views are made in the directory `scratch`, which is nobody else's.
    pub fn new(layers: &Path, scratch: &Path) -> Self {
        Self { layers: layers.to_owned(), scratch: scratch.to_owned(), next: AtomicU64::new(0) }
    }
}

fn duplicate(fd: &OwnedFd) -> Result<OwnedFd, TreeError> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(TreeError::io("duplicate", b""))
}

impl Snapshotter for CopySnapshotter {
    fn view(&self, lowers: &[String]) -> Result<Mounted, SnapshotError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.scratch.join(format!("view-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).map_err(SnapshotError::io("make", &path))?;
        let dir = open_directory(&path)?;
        let root = duplicate(&dir)?;
        let mounted = Mounted { root, _scratch: Some(Scratch { dir, path }) };
        for lower in lowers.iter().rev() {
            stack(open_directory(&self.layers.join(lower))?, duplicate(&mounted.root)?)?;
        }
        Ok(mounted)
    }

    fn seed(&self, lowers: &[String], upper: &Path) -> Result<(), SnapshotError> {
        if lowers.is_empty() {
            return Ok(());
        }
        let view = self.view(lowers)?;
        let rules = Rules { keep_hard_links: true, ..Rules::default() };
        Ok(copy_tree(duplicate(&view.root)?, open_directory(upper)?, rules)?)
    }

    fn prepare(&self, lowers: &[String], upper: &Path, _work: &Path) -> Result<Mounted, SnapshotError> {
        self.seed(lowers, upper)?;
        Ok(Mounted::new(open_directory(upper)?))
    }

    fn commit(&self, lowers: &[String], upper: &Path) -> Result<Committed, SnapshotError> {
        let below = if lowers.is_empty() { None } else { Some(self.view(lowers)?) };
        commit::reduce(open_directory(upper)?, below.as_ref().map(Mounted::fd), commit::Form::Whole)
    }
}

/// Copies a layer over a tree, deletions included.
fn stack(layer: OwnedFd, onto: OwnedFd) -> Result<(), TreeError> {
    let root = duplicate(&onto)?;
    let top = duplicate(&layer)?;
    let copier = Copier::new(Rules { keep_hard_links: true, ..Rules::default() });
    let mut stacking = Stacking { copier, to: DirStack::new(onto)?, root };
    walk(layer, &mut stacking)?;
    attrs::copy_dir_attributes(top.as_fd(), stacking.root.as_fd()).map_err(TreeError::io("set attributes of", b""))
}

struct Stacking<'a> {
    copier: Copier<'a>,
    to: DirStack,
    root: OwnedFd,
}

fn is_dir(stat: Option<&rustix::fs::Stat>) -> bool {
    stat.is_some_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
}

impl Visitor for Stacking<'_> {
    type Error = TreeError;

    fn visit(&mut self, entry: &Entry<'_>) -> Result<Descend, TreeError> {
        let to: BorrowedFd<'_> = self.to.top();
        let there = stat_at(to, entry.name).map_err(TreeError::io("look at", entry.path))?;
        if !entry.kind().is_dir() {
            if is_whiteout(entry.stat) || is_dir(there.as_ref()) {
                remove(to, entry.name, entry.path)?;
            }
            if !is_whiteout(entry.stat) {
                self.copier.copy_leaf(entry, self.root.as_fd(), to, entry.name, entry.path)?;
            }
            return Ok(Descend::Skip);
        }
        if there.is_some() && !is_dir(there.as_ref()) {
            remove(to, entry.name, entry.path)?;
        }
        self.copier.make_directory(to, entry.name, entry.path)?;
        let opaque =
            attrs::is_opaque(entry.dir, entry.name).map_err(TreeError::io("read attributes of", entry.path))?;
        self.to.push(entry.name, entry.path)?;
        if opaque {
            let fresh = crate::tree::resolve::open_dir_at(self.to.top(), b".");
            clear(fresh.map_err(TreeError::io("open directory", entry.path))?)?;
        }
        Ok(Descend::Enter)
    }

    fn leave(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        self.to.pop(entry.path)?;
        // The layer's directory decides all of it, attributes that the one below had and it has not included.
        let old = attrs::xattrs(self.to.top(), entry.name).map_err(TreeError::io("read attributes of", entry.path))?;
        for name in old.keys() {
            attrs::remove_xattr(self.to.top(), entry.name, name)
                .map_err(TreeError::io("remove attributes of", entry.path))?;
        }
        copy::Copier::directory_attributes(&self.copier, entry, self.to.top(), entry.name, entry.path)
    }
}
