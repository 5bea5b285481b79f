//! A place in a tree that moves from directory to directory.
//!
//! Members of an archive mostly follow each other within one directory, so the way down to the last one is kept open
//! and only what differs is opened anew. Each directory is opened by one name from the one above, never through a
//! link. Far above and far below, few descriptors are held: the first [`HELD`] levels and the last [`HELD`].
//!
//! Making a file in a directory changes the directory's time. Whoever leaves a directory puts the time back that was
//! found there ([`Times::Keep`]), or only for directories whose time the archive gave ([`Times::Listed`]). So no list
//! of directories has to be kept to the end.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, Timespec, Timestamps, UTIME_OMIT, fstat, futimens, openat};

use super::error::LayerError;
use super::path::{Component, joined};
use super::walk::{self, DIRECTORY};
use super::xattr::{self, XattrNamespace};

/// Levels held open at each end.
const HELD: usize = 64;

/// Which directories get their time back.
pub(super) enum Times {
    /// All: the tree is ours, and every directory's time was set when it was made.
    Keep,
    /// Those that were [`Descent::list_child`]ed. Hashes of their paths stand for them: 16 bytes each whatever their names,
    /// keyed anew in every process so that nobody can make two collide.
    Listed(HashSet<u64>, RandomState),
}

/// A directory on the way down.
struct Level {
    name: Component,
    fd: Option<OwnedFd>,
    mtime: Timespec,
    touched: bool,
    opaque: bool,
}

/// A directory beneath a root, and the way there.
pub(super) struct Descent {
    root: Level,
    levels: Vec<Level>,
    times: Times,
    /// Where every directory is looked at for the opaque mark.
    overlay: Option<XattrNamespace>,
}

impl Descent {
    pub fn new(root: BorrowedFd<'_>, times: Times, overlay: Option<XattrNamespace>) -> Result<Self, LayerError> {
        let root = level(walk::open_root(root)?, Component::default(), overlay)?;
        Ok(Self { root, levels: Vec::new(), times, overlay })
    }

    /// How many components of `path` are the way that is open now, from the top.
    pub fn shared(&self, path: &[Component]) -> usize {
        self.levels.iter().zip(path).take_while(|(level, name)| level.name == **name).count()
    }

    /// Goes to a directory. All of `path` must be directories.
    pub fn enter(&mut self, path: &[Component]) -> Result<BorrowedFd<'_>, LayerError> {
        let shared = self.shared(path);
        while self.levels.len() > shared {
            self.leave()?;
        }
        self.reopen()?;
        for name in &path[shared..] {
            self.push(name.clone())?;
        }
        Ok(self.here())
    }

    /// Where it is now.
    pub fn here(&self) -> BorrowedFd<'_> {
        self.last().fd.as_ref().expect("the last level is open").as_fd()
    }

    /// Notes that the directory it is in is about to change.
    pub fn touch(&mut self) {
        self.last_mut().touched = true;
    }

    /// Notes that the directory it is in was given this time and shall keep it.
    pub fn set_mtime(&mut self, mtime: Timespec) {
        self.last_mut().mtime = mtime;
        self.list(self.path());
    }

    /// Notes that a directory in this one was given a time and shall keep it.
    pub fn list_child(&mut self, name: &[u8]) {
        let slash: &[u8] = if self.levels.is_empty() { b"" } else { b"/" };
        self.list([&self.path(), slash, name].concat());
    }

    /// Notes that the directory it is in hides what lies beneath.
    pub fn set_opaque(&mut self) {
        self.last_mut().opaque = true;
    }

    /// Whether anything beneath shines through here.
    pub fn is_opaque(&self) -> bool {
        self.root.opaque || self.levels.iter().any(|level| level.opaque)
    }

    /// Leaves everything, so that all times are right.
    pub fn finish(mut self) -> Result<(), LayerError> {
        while !self.levels.is_empty() {
            self.leave()?;
        }
        let restore = self.restores();
        restore_time(&self.root, restore, b"")
    }

    fn last(&self) -> &Level {
        self.levels.last().unwrap_or(&self.root)
    }

    fn last_mut(&mut self) -> &mut Level {
        self.levels.last_mut().unwrap_or(&mut self.root)
    }

    fn path(&self) -> Vec<u8> {
        joined(self.levels.iter().map(|level| &level.name))
    }

    fn list(&mut self, path: Vec<u8>) {
        if let Times::Listed(listed, hasher) = &mut self.times {
            listed.insert(hasher.hash_one(path));
        }
    }

    /// Whether the directory it is in gets its time back.
    fn restores(&self) -> bool {
        match &self.times {
            Times::Keep => true,
            Times::Listed(listed, hasher) => listed.contains(&hasher.hash_one(self.path())),
        }
    }

    fn push(&mut self, name: Component) -> Result<(), LayerError> {
        let fd = openat(self.here(), &*name, DIRECTORY, Mode::empty())
            .map_err(|errno| LayerError::io("open", &[&self.path(), b"/".as_slice(), &name].concat())(errno))?;
        self.levels.push(level(fd, name, self.overlay)?);
        // One level leaves the lower window, unless it is in the upper one.
        let count = self.levels.len();
        if count > 2 * HELD {
            self.close(count - 1 - HELD)?;
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<(), LayerError> {
        // A level that was closed got its time back then.
        let restore = self.last().touched && self.restores();
        if let Some(level) = self.levels.pop() {
            restore_time(&level, restore, &level.name)?;
        }
        Ok(())
    }

    /// Closes a level in the middle; what lies below it stays open.
    fn close(&mut self, index: usize) -> Result<(), LayerError> {
        let below = self.levels.split_off(index + 1);
        let restore = self.last().touched && self.restores();
        let level = &mut self.levels[index];
        restore_time(level, restore, &level.name)?;
        level.fd = None;
        level.touched = false;
        self.levels.extend(below);
        Ok(())
    }

    /// Opens the last level again if it was closed, and the ones above that the window holds.
    fn reopen(&mut self) -> Result<(), LayerError> {
        if self.last().fd.is_some() {
            return Ok(());
        }
        let open = self.levels.iter().rposition(|level| level.fd.is_some()).map_or(0, |index| index + 1);
        let names: Vec<Component> = self.levels.drain(open..).map(|level| level.name).collect();
        names.into_iter().try_for_each(|name| self.push(name))
    }
}

fn level(fd: OwnedFd, name: Component, overlay: Option<XattrNamespace>) -> Result<Level, LayerError> {
    let stat = fstat(&fd).map_err(LayerError::io("examine", &name))?;
    let mtime = Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ };
    let opaque = match overlay {
        Some(namespace) => {
            let failed = LayerError::stdio("read the xattrs of", &name);
            xattr::is_opaque(fd.as_fd(), &[namespace]).map_err(failed)?
        }
        None => false,
    };
    Ok(Level { name, fd: Some(fd), mtime, touched: false, opaque })
}

fn restore_time(level: &Level, restore: bool, path: &[u8]) -> Result<(), LayerError> {
    match &level.fd {
        Some(fd) if restore && level.touched => {
            futimens(fd, &modified_at(level.mtime)).map_err(LayerError::io("set the time of", path))
        }
        _ => Ok(()),
    }
}

/// Timestamps that leave the access time as it is.
pub(super) fn modified_at(mtime: Timespec) -> Timestamps {
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ }, last_modification: mtime }
}
