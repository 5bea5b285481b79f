//! A directory of the user becomes what a tree is, and nothing more: what the tree does not have is removed from it.
//!
//! In: a tree and the user's directory. Out: a directory in which the tree can be copied to without anything in the way.
//! Everything is reached by descriptors, one name at a time; links are removed, not followed, and other file systems that
//! are mounted in there are neither entered nor emptied: they are an error before they are touched. Deliberately absent:
//! copying ([`super::copy`]), and the user's leave to do it.

use std::os::fd::OwnedFd;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::resolve::stat_at;
use super::walk::{Descend, DirStack, Entry, Visitor, walk};
use super::{TreeError, shown};

/// Removes from `dest` what `tree` does not have, and what is a directory in only one of them. Returns how much.
pub(crate) fn remove_others(tree: OwnedFd, dest: OwnedFd) -> Result<u64, TreeError> {
    let mut others = Others { tree: DirStack::new(tree)?, doomed: 0, removed: 0 };
    walk(dest, &mut others)?;
    Ok(others.removed)
}

struct Others {
    /// Where the walk is, in the tree.
    tree: DirStack,
    /// How many directories the walk is inside that the tree does not have.
    doomed: usize,
    removed: u64,
}

impl Visitor for Others {
    type Error = TreeError;

    fn visit(&mut self, entry: &Entry<'_>) -> Result<Descend, TreeError> {
        let is_dir = entry.kind().is_dir();
        if is_dir {
            same_mount(entry)?;
        }
        let theirs = match self.doomed {
            0 => stat_at(self.tree.top(), entry.name).map_err(TreeError::io("look at", entry.path))?,
            _ => None,
        };
        match theirs {
            Some(theirs) if is_dir && FileType::from_raw_mode(theirs.st_mode).is_dir() => {
                self.tree.push(entry.name, entry.path)?;
                Ok(Descend::Enter)
            }
            // A file is replaced where it stands, as it is copied.
            Some(theirs) if !is_dir && !FileType::from_raw_mode(theirs.st_mode).is_dir() => Ok(Descend::Skip),
            _ if is_dir => {
                self.doomed += 1;
                Ok(Descend::Enter)
            }
            _ => {
                fs::unlinkat(entry.dir, entry.name, AtFlags::empty()).map_err(TreeError::io("remove", entry.path))?;
                self.removed += 1;
                Ok(Descend::Skip)
            }
        }
    }

    fn leave(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        match self.doomed.checked_sub(1) {
            None => self.tree.pop(entry.path),
            Some(left) => {
                self.doomed = left;
                fs::unlinkat(entry.dir, entry.name, AtFlags::REMOVEDIR).map_err(TreeError::io("remove", entry.path))?;
                self.removed += 1;
                Ok(())
            }
        }
    }
}

/// A mount point, of another file system or of the same, is not ours to empty.
fn same_mount(entry: &Entry<'_>) -> Result<(), TreeError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match fs::openat2(entry.dir, entry.name, flags, Mode::empty(), resolve) {
        Ok(_) => Ok(()),
        Err(Errno::XDEV) => Err(TreeError::MountPoint { path: shown(entry.path) }),
        Err(errno) => Err(TreeError::io("open directory", entry.path)(errno)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        fs::File::open(path).unwrap().into()
    }

    #[test]
    fn what_the_tree_does_not_have_goes_and_links_out_stay_unfollowed() {
        let dir = tempfile::tempdir().unwrap();
        let [tree, dest, outside] = ["tree", "dest", "outside"].map(|name| dir.path().join(name));
        for path in
            ["tree/keep/both", "tree/was-file", "dest/keep/both", "dest/keep/old/deep", "dest/was-dir/x", "outside"]
        {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        for path in [
            "tree/keep/file",
            "tree/was-dir",
            "dest/keep/file",
            "dest/keep/old/deep/file",
            "dest/was-file",
            "dest/gone",
            "outside/precious",
        ] {
            fs::write(dir.path().join(path), path).unwrap();
        }
        symlink(&outside, dest.join("link")).unwrap();
        symlink(&outside, dest.join("keep/old/link")).unwrap();
        let removed = remove_others(open(&tree), open(&dest)).unwrap();
        let mut left: Vec<String> = Vec::new();
        let mut todo = vec![dest.clone()];
        while let Some(at) = todo.pop() {
            for entry in fs::read_dir(at).unwrap().map(Result::unwrap) {
                left.push(entry.path().strip_prefix(&dest).unwrap().display().to_string());
                todo.extend(entry.file_type().unwrap().is_dir().then(|| entry.path()));
            }
        }
        left.sort();
        assert_eq!(left, ["keep", "keep/both", "keep/file"]);
        assert_eq!(removed, 9);
        assert!(outside.join("precious").exists());
    }
}
