//! Leases: what running processes rely on, and what is remembered of it when they end.
//!
//! Whatever a process finds or makes in the store it *touches* first, by [`Store::touch`]: a line in a file of its own,
//! which is flocked as long as the process lives. Collection never takes what such a file names, nor what that stands
//! on. The index is not written to, so a build in which everything is cached writes a few hundred bytes and syncs
//! nothing. What dead processes touched goes to `uses`, and from there into the index when garbage is collected next.
//!
//! ```text
//! leases/<random>   `<kind> <name>` per line; flocked by its process; swept by the next start once that is dead
//! uses              `at <seconds since 1970>` and the lines of an ended process, again and again; flocked to change it
//! gc.window         held exclusively for the moments in which something is taken; whoever touches waits for its end
//! ```
//!
//! The order of things makes it safe. Who touches writes its line, then sees that nobody is taking anything right now
//! or waits for that, and only then looks whether the thing is there. Who takes closes the window, then reads all
//! leases, then takes what none of them names. So either the taker sees the line, or the toucher sees the thing gone.
//!
//! Deliberately absent: what is taken and when, which is [`crate::gc`]'s.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use solver::seam::ResultId;

use crate::layout::{Layout, fresh_name, try_flock};
use crate::{Store, StoreError};

/// What ended processes used.
pub(crate) const USES: &str = "uses";
/// Closed while something is taken.
pub(crate) const WINDOW: &str = "gc.window";

/// A kind of thing that the store keeps, and throws away again when nobody wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An image: hexadecimal digits of its manifest's digest.
    Image,
    /// A cache key: its hexadecimal digits.
    Key,
    /// A layer record with its tree: its id.
    Layer,
    /// A blob: hexadecimal digits of its digest.
    Blob,
    /// A cache mount: the name of its directory.
    Mount,
    /// A directory of a digested tree: hexadecimal digits of its digest.
    Node,
    /// A repository of a git source: the name of its directory.
    Git,
    /// A note: `<kind>/<hex>.json`.
    Note,
    /// What is known of the files of a build context: the name of its file.
    Context,
    /// A client's directory as it came last: the name of its directory.
    Client,
    /// The record of a build: the name of its directory.
    Build,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Image,
        Self::Key,
        Self::Layer,
        Self::Blob,
        Self::Mount,
        Self::Node,
        Self::Git,
        Self::Note,
        Self::Context,
        Self::Client,
        Self::Build,
    ];

    /// As it stands in leases, filters and listings.
    pub fn word(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Key => "key",
            Self::Layer => "layer",
            Self::Blob => "blob",
            Self::Mount => "mount",
            Self::Node => "node",
            Self::Git => "git",
            Self::Note => "note",
            Self::Context => "context",
            Self::Client => "client",
            Self::Build => "build",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|kind| kind.word() == word).ok_or(())
    }
}

/// Things by kind and name.
pub(crate) type Names = HashSet<(Kind, String)>;

impl Store {
    /// Says that this process relies on a thing, whether it is there or about to be made: until the process ends, or
    /// [`Store::collect`] is told that its work is over, nobody takes it. Stands *before* the look whether it is there.
    /// Touching again costs nothing.
    pub fn touch(&self, kind: Kind, name: &str) -> Result<(), StoreError> {
        self.lease().touch(kind, name)
    }
}

/// What this process relies on.
#[derive(Debug)]
pub(crate) struct Lease {
    layout: Arc<Layout>,
    state: Mutex<State>,
    /// Bytes that this process added to the store and the index has not been told of.
    added_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Made by the first touch: who only looks around leaves nothing.
    file: Option<LeaseFile>,
    held: Names,
    /// Results that were found to be here with all that they stand on, which stays while it is held.
    found: HashSet<ResultId>,
}

#[derive(Debug)]
struct LeaseFile {
    name: String,
    /// Holds the lock.
    file: File,
    window: File,
}

impl Lease {
    pub(crate) fn new(layout: Arc<Layout>) -> Self {
        Self { layout, state: Mutex::default(), added_bytes: AtomicU64::new(0) }
    }

    /// See [`Store::touch`].
    pub(crate) fn touch(&self, kind: Kind, name: &str) -> Result<(), StoreError> {
        self.touch_all([(kind, name)])
    }

    /// As [`Self::touch`], several at the cost of one.
    pub(crate) fn touch_all<'a>(&self, things: impl IntoIterator<Item = (Kind, &'a str)>) -> Result<(), StoreError> {
        let state = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fresh: Vec<(Kind, String)> = Vec::new();
        let mut lines = String::new();
        for (kind, name) in things {
            if name.contains('\n') {
                return Err(StoreError::bad("name of a thing", name));
            }
            let thing = (kind, name.to_owned());
            if !state.held.contains(&thing) {
                lines.push_str(&format!("{kind} {name}\n"));
                fresh.push(thing);
            }
        }
        if fresh.is_empty() {
            return Ok(());
        }
        if state.file.is_none() {
            state.file = Some(LeaseFile::new(&self.layout)?);
        }
        let LeaseFile { name, file, window } = state.file.as_mut().expect("it was just made");
        file.write_all(lines.as_bytes())
            .map_err(|source| StoreError::io("write", self.layout.leases.join(name), source))?;
        let path = self.layout.root.join(WINDOW);
        flock(window, FlockOperation::LockShared, &path)?;
        flock(window, FlockOperation::Unlock, &path)?;
        state.held.extend(fresh);
        Ok(())
    }

    /// Notes results that are held, and here with all that they stand on.
    pub(crate) fn found(&self, results: impl IntoIterator<Item = ResultId>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).found.extend(results);
    }

    /// Whether that was noted of a result.
    pub(crate) fn has_found(&self, result: &ResultId) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).found.contains(result)
    }

    /// The names of all things of a kind that this process relies on.
    pub(crate) fn names_of(&self, kind: Kind) -> HashSet<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.held.iter().filter(|(known, _)| *known == kind).map(|(_, name)| name.clone()).collect()
    }

    /// Notes that the store grew.
    pub(crate) fn add_bytes(&self, bytes: u64) {
        self.added_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How much the store grew since this was asked last.
    pub(crate) fn take_added_bytes(&self) -> u64 {
        self.added_bytes.swap(0, Ordering::Relaxed)
    }

    /// Lets everything go, and remembers that it was used. What is touched from now on is held again.
    pub(crate) fn end(&self) -> Result<(), StoreError> {
        let state = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.found.clear();
        let Some(LeaseFile { name, file, .. }) = state.file.take() else { return Ok(()) };
        let mut held: Vec<_> = std::mem::take(&mut state.held).into_iter().collect();
        held.sort();
        let lines: String = held.iter().map(|(kind, name)| format!("{kind} {name}\n")).collect();
        append_uses(&self.layout, &lines, Timestamp::now().as_second())?;
        // Not before its lines are elsewhere: a sweep would find them twice rather than never.
        self.layout.leases.remove_file(&name)?;
        drop(file);
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            // The lock goes with this value: the next start sweeps the file and remembers its lines.
            tracing::debug!(%error, "a lease is left to the next start");
        }
    }
}

impl LeaseFile {
    fn new(layout: &Layout) -> Result<Self, StoreError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let name = fresh_name()?;
            let path = layout.leases.join(&name);
            let file = rustix::fs::openat(&layout.leases, name.as_str(), flags, Mode::RUSR | Mode::WUSR)
                .map_err(|source| StoreError::io("make", &path, source))?;
            // A sweep may have come between the two calls and taken it for a dead one's.
            if try_flock(&file, &path)? && layout.leases.has(&name)? {
                return Ok(Self { name, file: file.into(), window: open_in_root(layout, WINDOW)? });
            }
        }
    }
}

/// Remembers what dead processes used, and removes their leases.
pub(crate) fn sweep(layout: &Layout) -> Result<(), StoreError> {
    for name in layout.leases.names()? {
        let Some(mut file) = open_lease(layout, &name)? else { continue };
        if !try_flock(&file, &layout.leases.join(&name))? || !is_still(layout, &name, &file)? {
            continue;
        }
        let path = layout.leases.join(&name);
        let mut lines = Vec::new();
        file.read_to_end(&mut lines).map_err(|source| StoreError::io("read", &path, source))?;
        let written = file.metadata().map_err(|source| StoreError::io("look at", &path, source))?;
        append_uses(layout, &String::from_utf8_lossy(&lines), std::os::unix::fs::MetadataExt::mtime(&written))?;
        layout.leases.remove_file(&name)?;
    }
    Ok(())
}

fn append_uses(layout: &Layout, lines: &str, at: i64) -> Result<(), StoreError> {
    let path = layout.root.join(USES);
    let mut file = open_in_root(layout, USES)?;
    flock(&file, FlockOperation::LockExclusive, &path)?;
    file.write_all(format!("\nat {at}\n{lines}\n").as_bytes()).map_err(|source| StoreError::io("write", path, source))
}

pub(crate) fn open_lease(layout: &Layout, name: &str) -> Result<Option<File>, StoreError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(&layout.leases, name, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd.into())),
        Err(Errno::NOENT | Errno::LOOP) => Ok(None),
        Err(source) => Err(StoreError::io("open", layout.leases.join(name), source)),
    }
}

fn is_still(layout: &Layout, name: &str, file: &File) -> Result<bool, StoreError> {
    let failed = |source| StoreError::io("look at", layout.leases.join(name), source);
    let opened = rustix::fs::fstat(file).map_err(failed)?;
    match rustix::fs::statat(&layout.leases, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) => Ok((named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(source) => Err(failed(source)),
    }
}

pub(crate) fn open_in_root(layout: &Layout, name: &str) -> Result<File, StoreError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&layout.root, name, flags, Mode::RUSR | Mode::WUSR)
        .map(File::from)
        .map_err(|source| StoreError::io("open", layout.root.join(name), source))
}

pub(crate) fn flock(file: &File, operation: FlockOperation, path: &std::path::Path) -> Result<(), StoreError> {
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(source) => return Err(StoreError::io("lock", path, source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(folder: &std::path::Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let texts = entries.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap());
        texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    #[test]
    fn what_is_touched_stands_in_the_lease_once_and_afterwards_among_the_uses() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().join("store");
        let store = Store::open(&root).unwrap();
        assert_eq!(lines(&root.join("leases")), [""; 0], "who only looks around leaves nothing");
        for _ in 0..2 {
            store.touch(Kind::Layer, "b-1").unwrap();
            store.touch(Kind::Blob, "b-1").unwrap();
        }
        assert_eq!(lines(&root.join("leases")), ["layer b-1", "blob b-1"]);
        let other = Store::open(&root).unwrap();
        assert_eq!(lines(&root.join("leases")), ["layer b-1", "blob b-1"], "its process lives");
        drop((store, other));
        assert_eq!(lines(&root.join("leases")), [""; 0]);
        let uses = std::fs::read_to_string(root.join(USES)).unwrap();
        assert!(uses.contains("\nlayer b-1\nblob b-1\n"), "{uses}");
    }

    #[test]
    fn a_dead_process_is_remembered_by_the_next_start() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().join("store");
        drop(Store::open(&root).unwrap());
        std::fs::write(root.join("leases/of-the-dead"), "key ab\nlay").unwrap();
        drop(Store::open(&root).unwrap());
        assert_eq!(lines(&root.join("leases")), [""; 0]);
        let uses = std::fs::read_to_string(root.join(USES)).unwrap();
        assert!(uses.contains("\nkey ab\nlay\n"), "{uses}");
    }

    #[test]
    fn names_do_not_forge_lines() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(&dir.path().join("store")).unwrap();
        assert!(store.touch(Kind::Layer, "b-1\nblob ab").is_err());
    }
}
