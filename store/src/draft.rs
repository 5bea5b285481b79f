//! A tree that is being made: `tmp/<layer id>/` with `fs/` for the tree and `work/` for whoever mounts it.
//!
//! A draft becomes a layer ([`crate::Store::add_built_layer`], [`crate::Store::attach_tree`]) or is discarded when it
//! is dropped. Its directory is flocked, so that it is known to be dead as soon as its process is; [`sweep`] then
//! removes it, together with the tree it may have put into `layers/` without coming so far as to record it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use jiff::Timestamp;

use crate::StoreError;
use crate::layout::{Layout, tree_name, try_flock};
use crate::trash;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A tree being made. Belongs to one process; dropping it discards it.
#[derive(Debug)]
pub struct Draft {
    layout: Arc<Layout>,
    /// The id that the layer will have, and the name of the directory until then.
    id: String,
    path: PathBuf,
    fs_path: PathBuf,
    work_path: PathBuf,
    begun: Timestamp,
    bytes: Option<u64>,
    /// Holds the lock.
    dir: OwnedFd,
    fs: OwnedFd,
}

impl Draft {
    /// Makes `tmp/<id>/{fs,work}`; `fs` has mode 0755 whatever the umask.
    pub(crate) fn new(layout: &Arc<Layout>) -> Result<Self, StoreError> {
        loop {
            let begun = Timestamp::now();
            let id = layout.fresh_layer_id()?;
            let path = layout.tmp.join(&id);
            match rustix::fs::mkdirat(&layout.tmp, id.as_str(), Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(source) => return Err(StoreError::io("make", path, source)),
            }
            // Between the two calls another process may take the directory for a dead one and sweep it: then this
            // one is not there any more under its name, and another try is due.
            let dir = match rustix::fs::openat(&layout.tmp, id.as_str(), DIRECTORY, Mode::empty()) {
                Ok(dir) => dir,
                Err(Errno::NOENT) => continue,
                Err(source) => return Err(StoreError::io("open", path, source)),
            };
            if !try_flock(&dir, &path)? || !is_still(layout, &id, &dir, &path)? {
                continue;
            }
            let (fs_path, work_path) = (path.join("fs"), path.join("work"));
            rustix::fs::mkdirat(&dir, "work", Mode::RWXU)
                .map_err(|source| StoreError::io("make", &work_path, source))?;
            rustix::fs::mkdirat(&dir, "fs", Mode::RWXU).map_err(|source| StoreError::io("make", &fs_path, source))?;
            let fs = rustix::fs::openat(&dir, "fs", DIRECTORY, Mode::empty())
                .map_err(|source| StoreError::io("open", &fs_path, source))?;
            rustix::fs::fchmod(&fs, Mode::from_raw_mode(0o755))
                .map_err(|source| StoreError::io("change the mode of", &fs_path, source))?;
            return Ok(Self { layout: layout.clone(), id, path, fs_path, work_path, begun, bytes: None, dir, fs });
        }
    }

    /// The draft's own directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tree: root directory of the layer, overlayfs form.
    pub fn fs(&self) -> &Path {
        &self.fs_path
    }

    /// An empty directory on the same file system, for an overlay's `workdir`; it is deleted with the draft.
    pub fn work(&self) -> &Path {
        &self.work_path
    }

    /// The draft's own directory.
    pub fn dir_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The tree.
    pub fn fs_fd(&self) -> BorrowedFd<'_> {
        self.fs.as_fd()
    }

    /// When it was made: nothing in it was written before. By the clock that files have.
    pub fn begun(&self) -> Timestamp {
        self.begun
    }

    /// Notes what the tree takes on disk, in bytes, for the record that will be made of it.
    pub fn with_bytes(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// What the tree takes on disk, if somebody has said so.
    pub(crate) fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// The id that a layer made of this draft gets.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Moves the tree to `layers/<name>` and returns the name. The draft must live until the tree is recorded: that
    /// is how a sweep tells a tree that nobody will ever record.
    pub(crate) fn publish(&self) -> Result<&str, StoreError> {
        let name = tree_name(&self.id);
        let layers = &self.layout.layers;
        let moved = match rustix::fs::renameat_with(&self.dir, "fs", layers, name, RenameFlags::NOREPLACE) {
            // Some file systems cannot promise that; the name was free when the draft was made.
            Err(Errno::INVAL) => rustix::fs::renameat(&self.dir, "fs", layers, name),
            other => other,
        };
        moved.map_err(|source| StoreError::io("move to the layers", &self.fs_path, source))?;
        Ok(name)
    }
}

impl Draft {
    /// Moves the tree to the layers, where it can be stacked like any, for as long as the value lives: it is nobody's
    /// layer, and never recorded. What a killed process leaves of it is swept with its draft.
    pub fn lend(self) -> Result<LentTree, StoreError> {
        self.publish()?;
        Ok(LentTree { draft: self })
    }
}

/// A tree among the layers that belongs to no record. Dropping it throws it away: nothing may be mounted on it then.
#[derive(Debug)]
pub struct LentTree {
    /// Its directory says, as long as it is there, that the tree is somebody's.
    draft: Draft,
}

impl LentTree {
    /// Its name under [`crate::Store::layers_dir`].
    pub fn name(&self) -> &str {
        tree_name(&self.draft.id)
    }
}

impl Drop for LentTree {
    fn drop(&mut self) {
        let layout = &self.draft.layout;
        if let Err(error) = trash::remove(layout, &layout.layers, self.name()) {
            // No row names it: the next collection throws it away.
            tracing::debug!(name = self.name(), %error, "a tree that was lent is left to the next collection");
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Err(error) = trash::remove(&self.layout, &self.layout.tmp, &self.id) {
            // The lock goes with this value: the next start of any process sweeps what is left.
            tracing::debug!(path = %self.path.display(), %error, "a draft is left to the next start");
        }
    }
}

/// Moves the drafts and unfinished blobs of dead processes into the trash. `is_recorded` tells whether the index knows
/// the tree of that name.
pub(crate) fn sweep(
    layout: &Layout,
    mut is_recorded: impl FnMut(&str) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    for name in layout.tmp.names()? {
        let path = layout.tmp.join(&name);
        // O_NONBLOCK: nothing of ours is a pipe, but nothing must be able to stop a start either.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&layout.tmp, name.as_str(), flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => continue,
            Err(Errno::LOOP) => {
                layout.tmp.remove_file(&name)?;
                continue;
            }
            Err(source) => return Err(StoreError::io("open", path, source)),
        };
        // The name may have gone to the blobs or the trash since it was opened, but never to another draft.
        if !try_flock(&fd, &path)? {
            continue;
        }
        let tree = tree_name(&name);
        if name.starts_with("b-") && layout.layers.has(tree)? && !is_recorded(tree)? {
            trash::discard(layout, &layout.layers, tree)?;
            layout.records.remove_file(&format!("{name}.jsonl"))?;
        }
        trash::discard(layout, &layout.tmp, &name)?;
        tracing::debug!(path = %path.display(), "swept what a dead process left");
    }
    Ok(())
}

/// Whether the name still leads to the directory that was opened.
fn is_still(layout: &Layout, name: &str, fd: &OwnedFd, path: &Path) -> Result<bool, StoreError> {
    let opened = rustix::fs::fstat(fd).map_err(|source| StoreError::io("look at", path, source))?;
    match rustix::fs::statat(&layout.tmp, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) => Ok((named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(source) => Err(StoreError::io("look at", path, source)),
    }
}
