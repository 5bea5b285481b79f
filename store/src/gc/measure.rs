//! What files and folders of the store take on disk: blocks, not lengths; a file with several names once.
//!
//! Trees were written by processes inside containers: nothing is addressed by path, links are not followed, and a tree
//! of any depth takes one descriptor and no stack. Deliberately absent: remembering the sizes.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Size of the blocks that stat(2) counts.
const BLOCK_BYTES: u64 = 512;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What a file or directory itself takes.
// The types differ between architectures.
#[allow(clippy::unnecessary_cast)]
pub(crate) fn of_stat(stat: &Stat) -> u64 {
    (stat.st_blocks as u64).saturating_mul(BLOCK_BYTES)
}

/// What an entry takes with all beneath it. What is gone takes nothing; what is removed meanwhile, or may not be
/// entered, is not counted.
pub(crate) fn of_entry(parent: impl AsFd, name: &str) -> Result<u64, Errno> {
    let stat = match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(0),
        Err(error) => return Err(error),
    };
    if !FileType::from_raw_mode(stat.st_mode).is_dir() {
        return Ok(of_stat(&stat));
    }
    match rustix::fs::openat(&parent, name, DIRECTORY, Mode::empty()) {
        Ok(top) => of_tree(top),
        Err(Errno::NOENT | Errno::ACCESS) => Ok(of_stat(&stat)),
        Err(error) => Err(error),
    }
}

/// The directories of one level that are still to be entered.
struct Level {
    todo: Vec<CString>,
    /// Device and inode, to see that the way up leads there.
    is: (u64, u64),
}

fn of_tree(top: OwnedFd) -> Result<u64, Errno> {
    let mut counted = HashSet::new();
    let mut bytes = of_stat(&rustix::fs::fstat(&top)?);
    let mut here = top;
    let mut levels = vec![enter(&here, &mut counted, &mut bytes)?];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.todo.pop() {
            match rustix::fs::openat(&here, name.as_c_str(), DIRECTORY, Mode::empty()) {
                Ok(below) => {
                    here = below;
                    levels.push(enter(&here, &mut counted, &mut bytes)?);
                }
                Err(Errno::NOENT | Errno::ACCESS | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error),
            }
            continue;
        }
        levels.pop();
        let Some(above) = levels.last() else { break };
        here = rustix::fs::openat(&here, c"..", DIRECTORY, Mode::empty())?;
        let stat = rustix::fs::fstat(&here)?;
        if identity(&stat) != above.is {
            // Somebody moved the directory meanwhile: it is not ours any more to measure.
            break;
        }
    }
    Ok(bytes)
}

/// Counts what a directory holds, and returns the directories among it.
fn enter(dir: &OwnedFd, counted: &mut HashSet<(u64, u64)>, bytes: &mut u64) -> Result<Level, Errno> {
    let listing = rustix::fs::openat(dir, c".", DIRECTORY, Mode::empty())?;
    let mut todo = Vec::new();
    for entry in Dir::new(listing)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error),
        };
        let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
        if is_dir {
            todo.push(name.to_owned());
        }
        if is_dir || stat.st_nlink == 1 || counted.insert(identity(&stat)) {
            *bytes = bytes.saturating_add(of_stat(&stat));
        }
    }
    Ok(Level { todo, is: identity(&rustix::fs::fstat(dir)?) })
}

#[allow(clippy::unnecessary_cast)]
fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev as u64, stat.st_ino as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_links_and_second_names_cost_nothing_and_depth_no_descriptors() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = rustix::fs::open(dir.path(), DIRECTORY, Mode::empty()).unwrap();
        assert_eq!(of_entry(&root, "gone").unwrap(), 0);
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        let empty = of_entry(&root, "tree").unwrap();
        std::fs::File::create(tree.join("sparse")).unwrap().set_len(1 << 40).unwrap();
        std::os::unix::fs::symlink("/usr", tree.join("link")).unwrap();
        let small = of_entry(&root, "tree").unwrap();
        assert!(small < empty + (1 << 20), "{small}");
        std::fs::write(tree.join("file"), vec![1; 1 << 20]).unwrap();
        std::fs::hard_link(tree.join("file"), tree.join("again")).unwrap();
        let with_file = of_entry(&root, "tree").unwrap();
        assert!((small + (1 << 20)..small + (3 << 19)).contains(&with_file), "{with_file}");
        let mut fd = rustix::fs::openat(&root, "tree", DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..2000 {
            rustix::fs::mkdirat(&fd, "d", Mode::RWXU).unwrap();
            fd = rustix::fs::openat(&fd, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        std::os::unix::fs::symlink("..", tree.join("d/up")).unwrap();
        assert!(of_entry(&root, "tree").unwrap() >= with_file);
    }
}
