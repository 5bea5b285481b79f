//! Walks a tree in a fixed order, by descriptors.
//!
//! A directory comes in as a descriptor; every file beneath it is shown once, parents before children, names of one
//! directory in byte order. Names are opened one component at a time and links never followed, so neither the depth of
//! the tree nor the length of a path matters, and nothing outside can be reached. Only the last few directories are
//! held open: on the way back up, `..` is opened and compared with what was there before. A directory's names are held
//! while it is walked, nothing else.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat, unlinkat};
use rustix::io::Errno;

use super::error::LayerError;

/// Directories held open at once; the usual limit of descriptors is 1024.
const OPEN_MAX: usize = 64;

/// How every directory is opened.
pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// One file of the tree.
pub(super) struct Visit<'a> {
    /// The directory it lies in.
    pub dir: BorrowedFd<'a>,
    /// Its name there.
    pub name: &'a [u8],
    /// Its path from the root of the walk, without a slash in front.
    pub path: &'a [u8],
    /// What it is; a link is not followed.
    pub stat: Stat,
}

/// Whether a stat is an overlayfs whiteout.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// A directory being walked.
struct Level {
    fd: Option<OwnedFd>,
    identity: (u64, u64),
    /// Names left, last first.
    names: Vec<CString>,
    /// Length of the walk's path up to and with this directory.
    path_len: usize,
}

/// Shows every file beneath `root`, but not `root` itself. In the order of names, except that whiteouts come first
/// when `whiteouts_first`.
pub(super) fn walk(
    root: BorrowedFd<'_>,
    whiteouts_first: bool,
    mut visit: impl FnMut(Visit<'_>) -> Result<(), LayerError>,
) -> Result<(), LayerError> {
    let mut path = Vec::new();
    let top = openat(root, c".", DIRECTORY, Mode::empty()).map_err(LayerError::io("open", &path))?;
    let mut levels = vec![level(top, &path, whiteouts_first)?];
    while let Some(current) = levels.last_mut() {
        path.truncate(current.path_len);
        let Some(name) = current.names.pop() else {
            let done = levels.pop();
            reopen_parent(&mut levels, done, &path)?;
            continue;
        };
        if current.path_len > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        let dir = current.fd.as_ref().expect("the last level is open").as_fd();
        let stat = statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(LayerError::io("examine", &path))?;
        visit(Visit { dir, name: name.as_bytes(), path: &path, stat })?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let fd = openat(dir, &name, DIRECTORY, Mode::empty()).map_err(LayerError::io("open", &path))?;
            levels.push(level(fd, &path, whiteouts_first)?);
            if let Some(far) = levels.len().checked_sub(OPEN_MAX + 1) {
                levels[far].fd = None;
            }
        }
    }
    Ok(())
}

/// Opens the last level again through its child, if it was closed.
fn reopen_parent(levels: &mut [Level], child: Option<Level>, path: &[u8]) -> Result<(), LayerError> {
    let (Some(parent), Some(child)) = (levels.last_mut(), child) else { return Ok(()) };
    if parent.fd.is_some() {
        return Ok(());
    }
    let child = child.fd.expect("the last level is open");
    let fd = openat(&child, c"..", DIRECTORY, Mode::empty()).map_err(LayerError::io("open the parent of", path))?;
    let stat = fstat(&fd).map_err(LayerError::io("examine the parent of", path))?;
    if (stat.st_dev, stat.st_ino) != parent.identity {
        return Err(LayerError::Changed { path: super::error::shown(path) });
    }
    parent.fd = Some(fd);
    Ok(())
}

fn level(fd: OwnedFd, path: &[u8], whiteouts_first: bool) -> Result<Level, LayerError> {
    let stat = fstat(&fd).map_err(LayerError::io("examine", path))?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&fd).map_err(LayerError::io("list", path))? {
        let entry = entry.map_err(LayerError::io("list", path))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let may_be_whiteout = matches!(entry.file_type(), FileType::CharacterDevice | FileType::Unknown);
        let first = whiteouts_first
            && may_be_whiteout
            && is_whiteout(&statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(LayerError::io("examine", path))?);
        names.push((!first, name.to_owned()));
    }
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(Level {
        fd: Some(fd),
        identity: (stat.st_dev, stat.st_ino),
        names: names.into_iter().map(|(_, name)| name).collect(),
        path_len: path.len(),
    })
}

/// Removes a file or a whole tree. What is not there is fine.
pub(super) fn remove_tree(dir: BorrowedFd<'_>, name: &[u8], shown: &[u8]) -> Result<(), LayerError> {
    let failed = |errno| LayerError::io("remove", shown)(errno);
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(failed(errno)),
    }
    // Down to a directory without directories, empty it, up by `..`, remove it, on. One descriptor at a time; names
    // of the way down are kept.
    let mut at = openat(dir, name, DIRECTORY, Mode::empty()).map_err(failed)?;
    let mut way: Vec<CString> = Vec::new();
    loop {
        match empty_of_files(at.as_fd()).map_err(failed)? {
            Some(child) => {
                at = openat(&at, &child, DIRECTORY, Mode::empty()).map_err(failed)?;
                way.push(child);
            }
            None => {
                let Some(child) = way.pop() else { break };
                at = openat(&at, c"..", DIRECTORY, Mode::empty()).map_err(failed)?;
                unlinkat(&at, &child, AtFlags::REMOVEDIR).map_err(failed)?;
            }
        }
    }
    unlinkat(dir, name, AtFlags::REMOVEDIR).map_err(failed)
}

/// Removes all files of a directory and names one directory in it, if there is one.
fn empty_of_files(dir: BorrowedFd<'_>) -> Result<Option<CString>, Errno> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(dir, entry.file_name(), AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::ISDIR) => return Ok(Some(entry.file_name().to_owned())),
            Err(errno) => return Err(errno),
        }
    }
    Ok(None)
}

/// The root as a descriptor of its own, read-only.
pub(super) fn open_root(root: BorrowedFd<'_>) -> Result<OwnedFd, LayerError> {
    openat(root, c".", DIRECTORY, Mode::empty()).map_err(LayerError::io("open", b""))
}
