//! How trees go: renamed into `trash/` at once, deleted from there in the time that is left.
//!
//! The trees were written by processes inside containers: they may be as deep as the file system allows, hold links
//! to anywhere, and directories that their owner may not enter. So nothing is addressed by path: each directory is
//! opened from its parent's descriptor without following links, and one that is too deep is first renamed up into the
//! trash folder, so that neither the stack nor the number of descriptors grows with the depth.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::StoreError;
use crate::layout::{Folder, Layout, fresh_name};

/// How long one process deletes before it leaves the rest to the next: nobody waits for the removal of what is not
/// wanted any more.
pub(crate) const EMPTYING_BUDGET: Duration = Duration::from_secs(1);
/// Directories below each other that are open at the same time.
const DEPTH_MAX: usize = 48;

/// Renames the entry `name` of `folder` into the trash, for the next start to delete; one that is gone already is fine.
pub(crate) fn discard(layout: &Layout, folder: &Folder, name: &str) -> Result<(), StoreError> {
    discard_as(layout, folder, name, &fresh_name()?)
}

/// As [`discard`], and deletes it at once, as far as [`EMPTYING_BUDGET`] goes.
pub(crate) fn remove(layout: &Layout, folder: &Folder, name: &str) -> Result<(), StoreError> {
    let aside = fresh_name()?;
    discard_as(layout, folder, name, &aside)?;
    delete(layout, &aside, Instant::now() + EMPTYING_BUDGET);
    Ok(())
}

fn discard_as(layout: &Layout, folder: &Folder, name: &str, aside: &str) -> Result<(), StoreError> {
    match rustix::fs::renameat(folder, name, &layout.trash, aside) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(source) => Err(StoreError::io("move to the trash", folder.join(name), source)),
    }
}

/// Deletes what lies in the trash until it is empty or `deadline` has come. Several processes may do so at once.
/// What cannot be deleted stays there and is tried again by the next; it is in nobody's way.
pub(crate) fn empty(layout: &Layout, deadline: Instant) -> Result<(), StoreError> {
    // Too deep directories come up into the trash while it is emptied, so look again until nothing is left. What
    // failed is not tried twice.
    let mut failed = Vec::new();
    loop {
        let names: Vec<String> = layout.trash.names()?.into_iter().filter(|name| !failed.contains(name)).collect();
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            if Instant::now() >= deadline {
                tracing::debug!(path = %layout.trash.path.display(), "the rest of the trash is left to the next start");
                return Ok(());
            }
            if !delete(layout, &name, deadline) {
                failed.push(name);
            }
        }
    }
}

/// Deletes one entry of the trash; `false` if something of it is left.
fn delete(layout: &Layout, name: &str, deadline: Instant) -> bool {
    let mut removal = Removal { trash: &layout.trash, deadline };
    let as_c = CString::new(name).expect("names of directory entries hold no NUL");
    match removal.entry(layout.trash.as_fd(), &as_c, FileType::Unknown, 0) {
        Ok(()) => true,
        Err(Stop::OutOfTime) => false,
        Err(Stop::Failed(source)) => {
            let path = layout.trash.join(name);
            tracing::debug!(path = %path.display(), error = %io::Error::from(source), "cannot delete");
            false
        }
    }
}

struct Removal<'a> {
    trash: &'a Folder,
    deadline: Instant,
}

enum Stop {
    OutOfTime,
    Failed(Errno),
}

impl From<Errno> for Stop {
    fn from(source: Errno) -> Self {
        Self::Failed(source)
    }
}

impl Removal<'_> {
    /// Deletes one entry of `parent`, whatever it is.
    fn entry(&mut self, parent: impl AsFd, name: &CStr, kind: FileType, depth: usize) -> Result<(), Stop> {
        let parent = parent.as_fd();
        if kind != FileType::Directory {
            match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                // Linux says EISDIR, POSIX EPERM.
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(source) => return Err(source.into()),
            }
        }
        if depth >= DEPTH_MAX {
            let aside = fresh_name().map_err(|_| Stop::Failed(Errno::IO))?;
            return match rustix::fs::renameat(parent, name, self.trash, aside) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(source) => Err(source.into()),
            };
        }
        match self.directory(parent, name, depth) {
            Err(Stop::Failed(Errno::NOENT)) => Ok(()),
            other => other,
        }
    }

    fn directory(&mut self, parent: impl AsFd, name: &CStr, depth: usize) -> Result<(), Stop> {
        let fd = open_writable(parent.as_fd(), name)?;
        loop {
            let mut removed = 0_usize;
            let listing = rustix::fs::openat(&fd, c".", DIRECTORY, Mode::empty())?;
            for entry in Dir::new(listing)? {
                let entry = entry?;
                if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                    continue;
                }
                if Instant::now() >= self.deadline {
                    return Err(Stop::OutOfTime);
                }
                self.entry(&fd, entry.file_name(), entry.file_type(), depth + 1)?;
                removed += 1;
            }
            match rustix::fs::unlinkat(parent.as_fd(), name, AtFlags::REMOVEDIR) {
                // A listing may miss entries when others are removed meanwhile: look again as long as it helps.
                Err(Errno::NOTEMPTY) if removed > 0 => {}
                other => return Ok(other?),
            }
        }
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a directory and makes sure that its owner may list and change it.
fn open_writable(parent: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let parent = parent.as_fd();
    let opened = rustix::fs::openat(parent, name, DIRECTORY, Mode::empty());
    let fd = match opened {
        Err(Errno::ACCESS) => {
            // Only its own mode is in the way. A path descriptor needs no permission, names exactly this directory,
            // and chmod works on it through /proc.
            let handle = rustix::fs::openat(parent, name, DIRECTORY | OFlags::PATH, Mode::empty())?;
            rustix::fs::chmod(Path::new(&format!("/proc/self/fd/{}", handle.as_raw_fd())), Mode::RWXU)?;
            rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())?
        }
        other => other?,
    };
    let stat = rustix::fs::fstat(&fd)?;
    if stat.st_mode & 0o700 != 0o700 {
        rustix::fs::fchmod(&fd, Mode::RWXU)?;
    }
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Root;

    fn store() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let layout = Root::prepare(&dir.path().join("store")).unwrap().into_layout().unwrap();
        (dir, layout)
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(600)
    }

    #[test]
    fn links_are_removed_and_what_they_name_stays() {
        let (dir, layout) = store();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("precious"), "x").unwrap();
        let tree = layout.tmp.join("tree");
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("a/link")).unwrap();
        std::os::unix::fs::symlink("/nowhere", tree.join("dangling")).unwrap();
        std::os::unix::fs::symlink(&outside, layout.tmp.join("top")).unwrap();
        discard(&layout, &layout.tmp, "tree").unwrap();
        discard(&layout, &layout.tmp, "top").unwrap();
        discard(&layout, &layout.tmp, "never there").unwrap();
        empty(&layout, later()).unwrap();
        assert_eq!(layout.trash.names().unwrap(), Vec::<String>::new());
        assert_eq!(std::fs::read_to_string(outside.join("precious")).unwrap(), "x");
    }

    #[test]
    fn a_tree_deeper_than_any_path_goes() {
        let (_dir, layout) = store();
        let mut fd = rustix::io::fcntl_dupfd_cloexec(layout.tmp.as_fd(), 0).unwrap();
        rustix::fs::mkdirat(&fd, "deep", Mode::RWXU).unwrap();
        fd = rustix::fs::openat(&fd, "deep", DIRECTORY, Mode::empty()).unwrap();
        for level in 0..5000 {
            rustix::fs::mkdirat(&fd, "d", Mode::RWXU).unwrap();
            let file = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&fd, format!("f{level}"), file, Mode::empty()).unwrap();
            fd = rustix::fs::openat(&fd, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        drop(fd);
        discard(&layout, &layout.tmp, "deep").unwrap();
        empty(&layout, later()).unwrap();
        assert_eq!(layout.trash.names().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn out_of_time_leaves_the_rest_and_the_next_takes_it() {
        let (_dir, layout) = store();
        std::fs::create_dir_all(layout.trash.join("x/y")).unwrap();
        empty(&layout, Instant::now()).unwrap();
        assert_eq!(layout.trash.names().unwrap(), ["x"]);
        empty(&layout, later()).unwrap();
        assert_eq!(layout.trash.names().unwrap(), Vec::<String>::new());
    }
}
