//! Things that are files and folders of their own: notes, contexts, directories of clients, git repositories.
//!
//! Each may be deleted at any time; a repository and a client's directory while its lock is held.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::census::Place;
use crate::layout::{Layout, fresh_name, try_flock};
use crate::{Kind, StoreError};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A folder that others make.
#[derive(Debug)]
pub(crate) struct Found {
    path: PathBuf,
    fd: OwnedFd,
}

impl AsFd for Found {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Place for Found {
    fn path(&self) -> &Path {
        &self.path
    }
}

impl Found {
    /// `None` if nobody has made it yet.
    pub(crate) fn open(parent: &impl Place, name: &str) -> Result<Option<Self>, StoreError> {
        let path = parent.path().join(name);
        match rustix::fs::openat(parent.as_fd(), name, DIRECTORY, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { path, fd })),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(source) => Err(StoreError::io("open", path, source)),
        }
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        let failed = |source: Errno| StoreError::io("list", &self.path, source);
        let listing = rustix::fs::openat(&self.fd, ".", DIRECTORY, Mode::empty()).map_err(failed)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(listing).map_err(failed)? {
            if let Ok(name) = entry.map_err(failed)?.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }
}

/// The folder of a kind.
fn folder(layout: &Layout, kind: Kind) -> Result<Option<Found>, StoreError> {
    let name = match kind {
        Kind::Git => "git",
        Kind::Context => "contexts",
        Kind::Client => "clients",
        Kind::Note => "notes",
        _ => return Ok(None),
    };
    Found::open(&layout.root, name)
}

/// Names of all git repositories, contexts, or directories of clients, and where they are.
pub(crate) fn list(layout: &Layout, kind: Kind) -> Result<Vec<(Found, String)>, StoreError> {
    let Some(found) = folder(layout, kind)? else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for name in found.names()? {
        // Beside repositories and directories stand their locks, and git's home.
        let is_thing =
            kind == Kind::Context || name.starts_with(|c: char| c.is_ascii_hexdigit()) && !name.contains('.');
        if is_thing && is_hex(name.trim_end_matches("-sha256")) {
            all.push((Found { path: found.path.clone(), fd: duplicate(&found)? }, name));
        }
    }
    Ok(all)
}

/// Names of all notes, and the folders of their kinds.
pub(crate) fn notes(layout: &Layout) -> Result<Vec<(Found, String)>, StoreError> {
    let Some(kinds) = folder(layout, Kind::Note)? else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for kind in kinds.names()? {
        let Some(found) = Found::open(&kinds, &kind)? else { continue };
        for name in found.names()? {
            all.push((Found { path: found.path.clone(), fd: duplicate(&found)? }, name));
        }
    }
    Ok(all)
}

fn duplicate(found: &Found) -> Result<OwnedFd, StoreError> {
    found.fd.try_clone().map_err(|source| StoreError::io("open", &found.path, source))
}

fn is_hex(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Throws one away; `false` if somebody works in it right now.
pub(crate) fn remove(layout: &Layout, kind: Kind, name: &str) -> Result<bool, StoreError> {
    let Some(parent) = folder(layout, kind)? else { return Ok(true) };
    let (parent, name) = match name.split_once('/') {
        None => (parent, name),
        Some((kind, name)) => match Found::open(&parent, kind)? {
            Some(folder) => (folder, name),
            None => return Ok(true),
        },
    };
    let _lock = match kind {
        Kind::Git | Kind::Client => match lock_of(&parent, name)? {
            Some(lock) => Some(lock),
            None => return Ok(false),
        },
        _ => None,
    };
    let path = parent.path.join(name);
    match rustix::fs::renameat(&parent, name, &layout.trash, fresh_name()?) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(source) => Err(StoreError::io("move to the trash", path, source)),
    }
}

/// The lock of a repository or a directory, as its users take it; `None` if one of them has it. The lock file stays: who waits for it
/// has it open.
fn lock_of(parent: &Found, name: &str) -> Result<Option<File>, StoreError> {
    let lock = format!("{name}.lock");
    let path = parent.path.join(&lock);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, lock.as_str(), flags, Mode::RUSR | Mode::WUSR)
        .map_err(|source| StoreError::io("open", &path, source))?;
    Ok(try_flock(&file, &path)?.then(|| file.into()))
}
