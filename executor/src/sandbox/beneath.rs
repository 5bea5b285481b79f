//! Paths inside a root that others filled: opened, and made when missing, without ever leaving it.
//!
//! What exists is opened by openat2(2) with `RESOLVE_IN_ROOT`: absolute links and `..` stay beneath the root, links
//! of procfs are refused. What is missing is made component by component, each by a descriptor of its parent, so a
//! link changed meanwhile by another step (in a shared mount) changes where we end, never whether we are inside.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use super::stub::{Stub, StubKind, modified};

/// The kernel's own limit of links in one path.
const LINKS_MAX: usize = 40;
/// openat2(2) answers EAGAIN when a rename anywhere crossed a `..`; another process cannot cause that for ever.
const RACES_MAX: usize = 1024;

/// A directory that is the root of everything resolved through it.
pub struct Root {
    directory: OwnedFd,
    mount_id: u64,
}

impl Root {
    /// Takes an open directory.
    pub fn new(directory: OwnedFd) -> Result<Self, Errno> {
        let mount_id = mount_id(&directory)?;
        Ok(Self { directory, mount_id })
    }

    /// The directory.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Opens `path` as a place (`O_PATH`), following links beneath the root.
    pub fn place(&self, path: impl AsRef<OsStr>) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::PATH)
    }

    /// Opens `path` with `flags`, following links beneath the root. Never blocks on a pipe, never takes a terminal.
    pub fn open(&self, path: impl AsRef<OsStr>, flags: OFlags) -> Result<OwnedFd, Errno> {
        open_beneath(&self.directory, path.as_ref(), flags, ResolveFlags::empty())
    }

    /// Opens `path` as a place, refusing every link in it.
    pub fn place_without_links(&self, path: impl AsRef<OsStr>) -> Result<OwnedFd, Errno> {
        open_beneath(&self.directory, path.as_ref(), OFlags::PATH, ResolveFlags::NO_SYMLINKS)
    }

    /// Opens `path` as a place of `kind`, making it and its parents when missing. What was made on the root's own
    /// mount is added to `stubs` in order.
    pub fn place_or_make(&self, path: &str, kind: StubKind, stubs: &mut Vec<Stub>) -> Result<OwnedFd, Errno> {
        let place = match self.place(path) {
            Err(Errno::NOENT) => self.make(path, kind, stubs)?,
            found => found?,
        };
        let is_directory = file_type(&place)? == FileType::Directory;
        match kind {
            StubKind::Directory if !is_directory => Err(Errno::NOTDIR),
            StubKind::File if is_directory => Err(Errno::ISDIR),
            _ => Ok(place),
        }
    }

    fn make(&self, path: &str, kind: StubKind, stubs: &mut Vec<Stub>) -> Result<OwnedFd, Errno> {
        let mut stack: Vec<(OsString, OwnedFd)> = Vec::new();
        let mut rest = components(path.as_bytes());
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                stack.pop();
                continue;
            }
            let parent = stack.last().map_or(self.directory.as_fd(), |(_, fd)| fd.as_fd());
            let found = match open_child(parent, &name) {
                Err(Errno::NOENT) => {
                    let kind = if rest.is_empty() { kind } else { StubKind::Directory };
                    let before = modified(parent)?;
                    make_child(parent, &name, kind)?;
                    if mount_id(parent)? == self.mount_id {
                        let mut path: PathBuf = stack.iter().map(|(name, _)| name).collect();
                        path.push(&name);
                        stubs.push(Stub { path, kind, parent_before: before, parent_after: modified(parent)? });
                    }
                    open_child(parent, &name)?
                }
                found => found?,
            };
            if file_type(&found)? == FileType::Symlink {
                links += 1;
                // Links of procfs say one thing and lead to another; nothing can be made behind them anyway.
                if links > LINKS_MAX || rustix::fs::fstatfs(&found)?.f_type == rustix::fs::PROC_SUPER_MAGIC {
                    return Err(Errno::LOOP);
                }
                let target = rustix::fs::readlinkat(&found, "", Vec::new())?.into_bytes();
                if target.starts_with(b"/") {
                    stack.clear();
                }
                for part in components(&target).into_iter().rev() {
                    rest.push_front(part);
                }
                continue;
            }
            stack.push((name, found));
        }
        match stack.pop() {
            Some((_, found)) => Ok(found),
            None => self.place("/"),
        }
    }
}

/// Opens `path` beneath `directory`, as if it were the root.
pub fn open_beneath(directory: impl AsFd, path: &OsStr, flags: OFlags, more: ResolveFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { OsStr::new("/") } else { path };
    let quiet = if flags.contains(OFlags::PATH) { OFlags::empty() } else { OFlags::NONBLOCK | OFlags::NOCTTY };
    let flags = flags | quiet | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
    for _ in 0..RACES_MAX {
        match rustix::fs::openat2(&directory, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => continue,
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// What kind of file an open one is.
pub fn file_type(file: impl AsFd) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode))
}

fn open_child(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn make_child(parent: BorrowedFd<'_>, name: &OsStr, kind: StubKind) -> Result<(), Errno> {
    let made = match kind {
        StubKind::Directory => rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        StubKind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    };
    match made {
        // Another step was faster in a shared mount; what it made is looked at like anything else.
        Err(Errno::EXIST) => Ok(()),
        made => made,
    }
}

fn components(path: &[u8]) -> VecDeque<OsString> {
    path.split(|&byte| byte == b'/')
        .filter(|part| !matches!(*part, b"" | b"."))
        .map(|part| OsString::from_vec(part.to_vec()))
        .collect()
}

fn mount_id(file: impl AsFd) -> Result<u64, Errno> {
    let stat = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    Ok(stat.stx_mnt_id)
}
