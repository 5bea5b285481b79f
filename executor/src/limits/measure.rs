//! How much a running step has written: its upper directories are walked while it writes to them.
//!
//! Whatever goes away, turns into a link or is moved meanwhile is passed over: the next look sees it. Deliberately not
//! seen: files that are open and have no name any more; the floor of free room is what stops those.

use std::collections::HashSet;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

/// Size of the blocks that stat(2) counts.
const BLOCK_BYTES: u64 = 512;
/// Descriptors open at once. Deeper trees are not walked to their ends.
const DEPTH_MAX: usize = 128;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Bytes on disk.
    pub bytes: u64,
    /// Whether that is all.
    pub whole: bool,
}

/// What the trees at `paths` take on disk. Blocking.
pub fn measure(paths: &[impl AsRef<Path>]) -> Measured {
    let mut walk = Walk { bytes: 0, whole: true, linked: HashSet::new() };
    for path in paths {
        match rustix::fs::open(path.as_ref(), DIRECTORY, Mode::empty()) {
            Ok(dir) => walk.enter(&dir, 0),
            Err(_) => walk.whole = false,
        }
    }
    Measured { bytes: walk.bytes, whole: walk.whole }
}

struct Walk {
    bytes: u64,
    whole: bool,
    /// Files with several names that were counted.
    linked: HashSet<(u64, u64)>,
}

impl Walk {
    fn enter(&mut self, dir: &OwnedFd, depth: usize) {
        if depth >= DEPTH_MAX {
            self.whole = false;
            return;
        }
        let mut space = Vec::with_capacity(16 << 10);
        let mut entries = RawDir::new(dir, space.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let Ok(entry) = entry else {
                self.whole = false;
                return;
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match rustix::fs::statat(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    #[allow(clippy::unnecessary_cast, reason = "the types differ between architectures")]
                    let (links, blocks) = (stat.st_nlink as u64, stat.st_blocks as u64);
                    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                    if is_dir || links <= 1 || self.linked.insert((stat.st_dev, stat.st_ino)) {
                        self.bytes = self.bytes.saturating_add(blocks.saturating_mul(BLOCK_BYTES));
                    }
                    if is_dir {
                        match rustix::fs::openat(dir, name, DIRECTORY, Mode::empty()) {
                            Ok(inner) => self.enter(&inner, depth + 1),
                            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                            Err(_) => self.whole = false,
                        }
                    }
                }
                Err(Errno::NOENT) => {}
                Err(_) => self.whole = false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_are_counted_once_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("upper");
        fs::create_dir_all(dir.join("a/b")).unwrap();
        fs::write(folder.path().join("outside"), vec![1; 4 << 20]).unwrap();
        fs::write(dir.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(dir.join("a/b/file"), dir.join("a/again")).unwrap();
        std::os::unix::fs::symlink(folder.path(), dir.join("a/out")).unwrap();
        let measured = measure(&[&dir]);
        assert!(measured.whole);
        assert!((1 << 20..2 << 20).contains(&measured.bytes), "{measured:?}");
        let sparse = fs::File::create(dir.join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        assert!(measure(&[&dir]).bytes < 2 << 20, "holes take nothing");
    }

    #[test]
    fn a_tree_too_deep_to_be_walked_is_said_to_be_more() {
        let folder = tempfile::tempdir().unwrap();
        let mut path = folder.path().to_owned();
        for _ in 0..DEPTH_MAX + 1 {
            path.push("d");
        }
        fs::create_dir_all(&path).unwrap();
        assert!(!measure(&[folder.path()]).whole);
        assert!(!measure(&[folder.path().join("none")]).whole);
    }
}
