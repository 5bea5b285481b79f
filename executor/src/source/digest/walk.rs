//! What is selected beneath directories of the context: walked, looked at and read on all cores.
//!
//! In: paths of matched directories, a filter, what is remembered. Out: a digest for each, and every [`Directory`] that was
//! counted. What the filter leaves out is neither opened nor looked at.
//!
//! Each directory is a task; one with many names has a task for every few hundred of them, and what has to be read is
//! split by its size. A directory is done when all its tasks and all directories in it are: the last one makes its node
//! and tells the directory above. So nothing recurses, whatever the depth. A subdirectory is opened from the descriptor
//! of the one above it; when too many are open, along its path, beneath the context and through no link. Either way it must be what was looked at.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rayon::Scope;
use rustix::fs::{self, AtFlags, FileType, OFlags, Stat};
use rustix::process::{Resource, getrlimit};
use solver::key::ContentDigest;
use solver::pattern::Marks;
use store::{NodeEntry, NodeKind, attributes_digest};

use super::Digesting;
use super::read::{Looked, read};
use crate::select::tree::Verdict;
use crate::source::counted::{Counted, CountedRef, Entries};
use crate::source::look::{Look, is_trusted};
use crate::source::stat_cache::Directory;
use crate::tree::resolve::{open_beneath, open_dir_at};
use crate::tree::{TreeError, attrs, joined, shown};

/// Names of one directory that are looked at in one task.
const NAMES_AT_ONCE: usize = 512;
/// Files that are read in one task, and bytes after which it ends.
const FILES_AT_ONCE: usize = 64;
const BYTES_AT_ONCE: u64 = 1 << 20;
/// Far less descriptors than a process usually may have.
const HELD_MAX: usize = 256;
/// And no larger part of those that it may have.
const HELD_PART: u64 = 4;
/// As deep as other walks go.
const DEPTH_MAX: usize = 10_000;
/// Room for a directory's names, as the kernel gives them.
const LISTING_BYTES: usize = 32 * 1024;

/// Counts directories.
pub(super) struct Walk<'a> {
    with: Digesting<'a>,
    /// Descriptors of directories that are kept for those in them.
    held_max: usize,
    /// Whether some task has failed: the others end.
    halted: AtomicBool,
    failed: Mutex<Option<TreeError>>,
    /// Directories that are open.
    held: AtomicUsize,
    found: Mutex<Found>,
}

/// What a walk found.
#[derive(Default)]
pub(super) struct Found {
    /// All directories that count.
    pub directories: Vec<Directory>,
    /// How many entries were read, because nothing was remembered of them.
    pub read: usize,
    /// How many bytes of files that were.
    pub read_bytes: u64,
}

/// A directory that is being counted.
struct Dir<'a> {
    root: &'a Root<'a>,
    above: Option<Arc<Dir<'a>>>,
    name: Vec<u8>,
    /// Path in the context.
    path: Vec<u8>,
    depth: usize,
    look: Look,
    /// Digest of its attributes, once known, and whether its look proves them.
    attributes: OnceLock<(Option<[u8; 32]>, bool)>,
    /// Whether its attributes were remembered.
    was_known: bool,
    /// Whether it counts itself, and not only for what is in it.
    meant: bool,
    marks: Vec<Marks>,
    /// Tasks and directories that are not done.
    pending: AtomicUsize,
    inside: Mutex<Inside>,
}

struct Root<'a> {
    /// Path of the matched directory in the context.
    path: &'a [u8],
    digest: OnceLock<ContentDigest>,
}

/// What was found in a directory so far, in no order.
#[derive(Default)]
struct Inside {
    entries: Entries,
    sockets: Vec<(Vec<u8>, Look)>,
    others: Entries,
    is_new: bool,
    read: usize,
    read_bytes: u64,
}

/// An open directory.
struct Held<'a> {
    fd: OwnedFd,
    is_trusted: OnceLock<bool>,
    count: &'a AtomicUsize,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Dir<'_> {
    /// One by one: a chain of directories that nobody finished is as long as the tree is deep.
    fn drop(&mut self) {
        let mut next = self.above.take();
        while let Some(dir) = next {
            next = Arc::into_inner(dir).and_then(|mut dir| dir.above.take());
        }
    }
}

impl<'a> Walk<'a> {
    pub fn new(with: Digesting<'a>) -> Self {
        let (halted, failed) = (AtomicBool::new(false), Mutex::default());
        let may_open = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let held_max = usize::try_from(may_open / HELD_PART).unwrap_or(HELD_MAX).min(HELD_MAX);
        Self { with, held_max, halted, failed, held: AtomicUsize::new(0), found: Mutex::default() }
    }

    /// Digests of the contents of directories, given by their paths without links, in their order.
    pub fn count(self, matched: &[&[u8]]) -> Result<(Vec<ContentDigest>, Found), TreeError> {
        let roots: Vec<Root<'_>> = matched.iter().map(|path| Root { path, digest: OnceLock::new() }).collect();
        rayon::in_place_scope(|scope| {
            for root in &roots {
                scope.spawn(|scope| self.begin(scope, root));
            }
        });
        if let Some(error) = self.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let digests = roots.iter().map(|root| *root.digest.get().expect("every directory was done"));
        Ok((digests.collect(), self.found.into_inner().unwrap_or_else(PoisonError::into_inner)))
    }

    fn begin<'s>(&'s self, scope: &Scope<'s>, root: &'s Root<'s>) {
        let path = root.path;
        let opened = open_beneath(self.with.root.fd(), path, OFlags::NONBLOCK).and_then(|fd| Ok((fs::fstat(&fd)?, fd)));
        let (stat, fd) = match opened {
            Ok(opened) => opened,
            Err(errno) => return self.fail(TreeError::changed_if_gone("open directory", path)(errno)),
        };
        let dir = Arc::new(Dir {
            root,
            above: None,
            name: Vec::new(),
            path: path.to_vec(),
            depth: 0,
            look: Look::of(&stat),
            attributes: OnceLock::from((None, false)),
            was_known: true,
            meant: true,
            marks: self.with.filter.marks_of(path),
            pending: AtomicUsize::new(1),
            inside: Mutex::default(),
        });
        self.task(&dir, || self.names(scope, &dir, &self.hold(fd)));
    }

    /// Does a part of a directory; the last part of it completes the directory.
    fn task(&self, dir: &Arc<Dir<'_>>, work: impl FnOnce() -> Result<(), TreeError>) {
        if self.halted.load(Ordering::Relaxed) {
            return;
        }
        match work() {
            Ok(()) => self.release(dir.clone()),
            Err(error) => self.fail(error),
        }
    }

    /// Ends the walk. Tasks that end because of this one's error may be faster with telling that they were stopped.
    fn fail(&self, error: TreeError) {
        self.halted.store(true, Ordering::Relaxed);
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*failed, None | Some(TreeError::Stopped)) {
            *failed = Some(error);
        }
    }

    fn check(&self) -> Result<(), TreeError> {
        if (self.with.stop)() || self.halted.load(Ordering::Relaxed) { Err(TreeError::Stopped) } else { Ok(()) }
    }

    fn hold(&self, fd: OwnedFd) -> Arc<Held<'_>> {
        self.held.fetch_add(1, Ordering::Relaxed);
        Arc::new(Held { fd, is_trusted: OnceLock::new(), count: &self.held })
    }

    /// Whether open directories may wait for others.
    fn may_hold(&self) -> bool {
        self.held.load(Ordering::Relaxed) < self.held_max
    }

    /// A subdirectory, from the open one above it if that was kept.
    fn enter<'s>(
        &'s self,
        scope: &Scope<'s>,
        dir: &Arc<Dir<'s>>,
        above: Option<Arc<Held<'s>>>,
    ) -> Result<(), TreeError> {
        self.check()?;
        let opened = match &above {
            Some(above) => open_dir_at(above.fd.as_fd(), &dir.name),
            None => open_beneath(self.with.root.fd(), &dir.path, OFlags::NONBLOCK),
        };
        let fd = opened.map_err(TreeError::changed_if_gone("open directory", &dir.path))?;
        drop(above);
        let now = Look::of(&fs::fstat(&fd).map_err(TreeError::io("look at", &dir.path))?);
        if !dir.look.is_still(&now) {
            return Err(TreeError::Changed { path: shown(&dir.path) });
        }
        if dir.attributes.get().is_none() {
            let xattrs = attrs::xattrs(fd.as_fd(), b"").map_err(TreeError::io("read attributes of", &dir.path))?;
            let certain = is_trusted(&fd) && self.with.moment.is_after(&dir.look);
            dir.attributes.get_or_init(|| (attributes_digest(&xattrs), certain));
        }
        self.names(scope, dir, &self.hold(fd))
    }

    /// The names in a directory.
    fn names<'s>(&'s self, scope: &Scope<'s>, dir: &Arc<Dir<'s>>, held: &Arc<Held<'s>>) -> Result<(), TreeError> {
        let names = Arc::new(Names::of(held.fd.as_fd(), &dir.path)?);
        let recalled = self.with.cache.recall(&dir.path);
        if names.at.len() <= NAMES_AT_ONCE || !self.may_hold() {
            return self.look(scope, dir, held, &names, 0..names.at.len(), recalled);
        }
        for start in (0..names.at.len()).step_by(NAMES_AT_ONCE) {
            let end = names.at.len().min(start + NAMES_AT_ONCE);
            dir.pending.fetch_add(1, Ordering::Relaxed);
            let (dir, held, names, recalled) = (dir.clone(), held.clone(), names.clone(), recalled.clone());
            scope.spawn(move |scope| {
                self.task(&dir, || self.look(scope, &dir, &held, &names, start..end, recalled));
            });
        }
        Ok(())
    }

    /// Looks at some of the names in a directory.
    fn look<'s>(
        &'s self,
        scope: &Scope<'s>,
        dir: &Arc<Dir<'s>>,
        held: &Arc<Held<'s>>,
        names: &Names,
        range: std::ops::Range<usize>,
        recalled: Arc<Entries>,
    ) -> Result<(), TreeError> {
        let mut next = if range.is_empty() { 0 } else { recalled.first_from(names.name(range.start)) };
        let mut inside = Inside::default();
        let (mut unread, mut below) = (Vec::new(), Vec::new());
        let mut path = joined(&dir.path, b"");
        if !path.is_empty() && !path.ends_with(b"/") {
            path.push(b'/');
        }
        let above = path.len();
        for i in range {
            if i % 64 == 0 {
                self.check()?;
            }
            let (name, hint) = (names.name(i), names.at[i].2);
            while next < recalled.len() && recalled.get(next).name() < name {
                next += 1;
            }
            let remembered = (next < recalled.len()).then(|| recalled.get(next)).filter(|one| one.name() == name);
            path.truncate(above);
            path.extend_from_slice(name);
            let judge = |is_dir: bool| self.with.filter.judge(&path, beneath(dir.root, &path), is_dir, &dir.marks);
            // What is left out is not even looked at, if the kernel has said what kind it is.
            let foreseen = (hint != FileType::Unknown).then(|| (hint.is_dir(), judge(hint.is_dir())));
            if let Some((_, (Verdict::Not, _))) = foreseen {
                remembered.into_iter().for_each(|one| inside.others.push_ref(one));
                continue;
            }
            let stat = fs::statat(&held.fd, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(TreeError::changed_if_gone("look at", &path))?;
            let look = Look::of(&stat);
            let (verdict, marks) = match foreseen {
                Some((is_dir, judged)) if is_dir == look.is_dir() => judged,
                _ => judge(look.is_dir()),
            };
            if verdict == Verdict::Not {
                remembered.into_iter().for_each(|one| inside.others.push_ref(one));
                continue;
            }
            let remembered = remembered.filter(|one| one.look() == look);
            if look.is_dir() {
                below.push(self.below(dir, name, &path, look, verdict, marks, remembered)?);
            } else if FileType::from_raw_mode(stat.st_mode) == FileType::Socket {
                inside.sockets.push((name.to_vec(), look));
            } else if let Some(remembered) = remembered {
                inside.entries.push_ref(remembered);
            } else {
                unread.push((name.to_vec(), stat));
            }
        }
        dir.add(inside);
        self.spawn_below(scope, dir, held, below);
        self.read_all(scope, dir, held, unread)
    }

    #[allow(clippy::too_many_arguments)]
    fn below<'s>(
        &self,
        dir: &Arc<Dir<'s>>,
        name: &[u8],
        path: &[u8],
        look: Look,
        verdict: Verdict,
        marks: Vec<Marks>,
        remembered: Option<CountedRef<'_>>,
    ) -> Result<Dir<'s>, TreeError> {
        if dir.depth >= DEPTH_MAX {
            return Err(TreeError::TooDeep { path: shown(path), limit: DEPTH_MAX });
        }
        Ok(Dir {
            root: dir.root,
            above: Some(dir.clone()),
            name: name.to_vec(),
            path: path.to_vec(),
            depth: dir.depth + 1,
            look,
            was_known: remembered.is_some(),
            attributes: remembered
                .map_or_else(OnceLock::new, |one| OnceLock::from((one.entry().attributes, one.certain()))),
            meant: verdict == Verdict::Meant,
            marks,
            pending: AtomicUsize::new(1),
            inside: Mutex::default(),
        })
    }

    fn spawn_below<'s>(&'s self, scope: &Scope<'s>, dir: &Dir<'s>, held: &Arc<Held<'s>>, below: Vec<Dir<'s>>) {
        dir.pending.fetch_add(below.len(), Ordering::Relaxed);
        for below in below {
            let below = Arc::new(below);
            let above = self.may_hold().then(|| held.clone());
            scope.spawn(move |scope| self.task(&below, || self.enter(scope, &below, above)));
        }
    }

    /// Reads what is not known, a few files at a time.
    fn read_all<'s>(
        &'s self,
        scope: &Scope<'s>,
        dir: &Arc<Dir<'s>>,
        held: &Arc<Held<'s>>,
        mut unread: Vec<(Vec<u8>, Stat)>,
    ) -> Result<(), TreeError> {
        while !unread.is_empty() {
            let mut bytes = 0;
            let fits = unread.iter().rev().take(FILES_AT_ONCE).take_while(|(_, stat)| {
                let fits = bytes < BYTES_AT_ONCE;
                bytes += stat.st_size as u64;
                fits
            });
            let group = unread.split_off(unread.len() - fits.count());
            if unread.is_empty() || !self.may_hold() {
                self.read_some(dir, held, &group)?;
            } else {
                dir.pending.fetch_add(1, Ordering::Relaxed);
                let (dir, held) = (dir.clone(), held.clone());
                scope.spawn(move |_| self.task(&dir, || self.read_some(&dir, &held, &group)));
            }
        }
        Ok(())
    }

    fn read_some(&self, dir: &Dir<'_>, held: &Held<'_>, some: &[(Vec<u8>, Stat)]) -> Result<(), TreeError> {
        let is_trusted = *held.is_trusted.get_or_init(|| is_trusted(&held.fd));
        let mut inside = Inside { is_new: true, read: some.len(), ..Inside::default() };
        let stop = || self.check().is_err();
        for (name, stat) in some {
            self.check()?;
            let path = joined(&dir.path, name);
            let entry = read(&Looked { dir: held.fd.as_fd(), name, path: &path, stat }, None, &stop)?;
            let look = Look::of(stat);
            let certain = is_trusted && look.same_device(&dir.look) && self.with.moment.is_after(&look);
            inside.read_bytes += entry.file_bytes();
            inside.entries.push(&Counted { entry, look, certain });
        }
        dir.add(inside);
        Ok(())
    }

    /// Takes away one of the things that a directory waits for; if it was the last one, the directory is done, and the
    /// one above waits for one less.
    fn release(&self, dir: Arc<Dir<'_>>) {
        let mut next = Some(dir);
        while let Some(dir) = next.take() {
            if dir.pending.fetch_sub(1, Ordering::AcqRel) != 1 {
                return;
            }
            self.complete(&dir);
            next = dir.above.clone();
        }
    }

    fn complete(&self, dir: &Dir<'_>) {
        let mut inside = std::mem::take(&mut *dir.inside.lock().unwrap_or_else(PoisonError::into_inner));
        if !dir.meant && inside.entries.is_empty() && inside.sockets.is_empty() {
            return;
        }
        inside.entries.sort();
        inside.others.sort();
        let digest = inside.entries.digest();
        match &dir.above {
            None => _ = dir.root.digest.set(digest),
            Some(above) => {
                let (attributes, certain) = *dir.attributes.get().expect("it was entered");
                let (name, mode) = (dir.name.clone(), dir.look.permissions());
                let what = NodeKind::Directory(digest);
                let entry = NodeEntry { name, mode, owner: (0, 0), attributes, what };
                let mut itself = Inside { is_new: !dir.was_known, ..Inside::default() };
                itself.entries.push(&Counted { entry, look: dir.look, certain });
                above.add(itself);
            }
        }
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.read += inside.read;
        found.read_bytes += inside.read_bytes;
        found.directories.push(Directory {
            path: dir.path.clone(),
            entries: Arc::new(inside.entries),
            digest: Some(digest),
            sockets: inside.sockets,
            others: Some(inside.others),
            is_new: inside.is_new,
        });
    }
}

impl Dir<'_> {
    fn add(&self, more: Inside) {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        match inside.entries.is_empty() {
            true => inside.entries = more.entries,
            false => inside.entries.append(&more.entries),
        }
        inside.sockets.extend(more.sockets);
        inside.others.append(&more.others);
        inside.is_new |= more.is_new;
        inside.read += more.read;
        inside.read_bytes += more.read_bytes;
    }
}

/// The part of a path that lies beneath a matched directory.
fn beneath<'p>(root: &Root<'_>, path: &'p [u8]) -> &'p [u8] {
    match root.path.len() {
        0 => path,
        length => &path[length + 1..],
    }
}

/// The names in a directory, in byte order.
struct Names {
    bytes: Vec<u8>,
    /// Where each begins and ends, and what kind of thing the kernel says it is.
    at: Vec<(usize, usize, FileType)>,
}

impl Names {
    fn of(dir: BorrowedFd<'_>, path: &[u8]) -> Result<Self, TreeError> {
        let mut names = Self { bytes: Vec::new(), at: Vec::new() };
        let mut room = Vec::with_capacity(LISTING_BYTES);
        let mut listing = fs::RawDir::new(dir, room.spare_capacity_mut());
        while let Some(entry) = listing.next() {
            let entry = entry.map_err(TreeError::changed_if_gone("list", path))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                let start = names.bytes.len();
                names.bytes.extend_from_slice(name);
                names.at.push((start, names.bytes.len(), entry.file_type()));
            }
        }
        let bytes = &names.bytes;
        names.at.sort_unstable_by(|one, other| bytes[one.0..one.1].cmp(&bytes[other.0..other.1]));
        Ok(names)
    }

    fn name(&self, i: usize) -> &[u8] {
        &self.bytes[self.at[i].0..self.at[i].1]
    }
}

#[cfg(test)]
mod tests;
