//! The entries of a matched directory, copied on all cores.
//!
//! In: an open directory, what a filter leaves of it, an open directory that receives. Out: copies there, in the end each
//! compared with what was digested of it. One thread walks, and makes the directories on its way; files go in small
//! batches to others, and to itself when these have enough to do. A directory gets its own attributes when it was walked
//! and its last batch is done, by whoever does that; so at most a few are waited for, and held open.
//!
//! Names that share a file are to share one again between stages: there, one thread copies, in order.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

use rustix::fs::{FileType, Stat};

use super::copy::{check_copy, check_look};
use crate::select::tree::{Filter, Sink, walk_selected};
use crate::source::digest::{Looks, Met, Seen};
use crate::tree::copy::{Copier, Rules};
use crate::tree::walk::{DirStack, Entry};
use crate::tree::{TreeError, joined};

/// Less is done before a thread has begun.
const ALONE_FILES: usize = 64;
/// Files of one batch: small enough that a directory of usual size is shared out.
const BATCH_FILES: usize = 8;
/// Batches that wait; each holds its directory open in both trees.
const WAITING_MAX: usize = 16;
/// Deeper directories are copied by the thread that walks, which holds all above them open.
const SHARED_DEPTH_MAX: usize = 32;
/// More threads than this wait for the file system's journal.
const THREADS_MAX: usize = 8;

/// Where the entries go.
pub(super) struct Target<'a> {
    /// The directory that receives them.
    pub dir: OwnedFd,
    /// Its path from `root`.
    pub path: &'a [u8],
    /// The tree that it is in.
    pub root: BorrowedFd<'a>,
    /// Whether nothing was in it, and nothing else comes into it meanwhile.
    pub is_new: bool,
}

/// What copies are compared with.
pub(super) struct Compared<'a> {
    /// What was digested.
    pub looks: &'a Looks,
    /// What of it was met.
    pub met: &'a mut Met,
}

/// Copies what `filter` leaves of `from`, a directory whose path in its source is `from_path`.
pub(super) fn copy(
    from: OwnedFd,
    from_path: &[u8],
    filter: &Filter<'_>,
    copier: &mut Copier<'_>,
    compared: Option<Compared<'_>>,
    to: Target<'_>,
) -> Result<(), TreeError> {
    let (looks, mut nothing) = (compared.as_ref().map(|compared| compared.looks), Met::default());
    let met = compared.map_or(&mut nothing, |compared| compared.met);
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get()).min(THREADS_MAX);
    let crew = Crew {
        rules: copier.rules(),
        is_new: to.is_new,
        threads: if copier.rules().keep_hard_links { 0 } else { threads - 1 },
        queue: Mutex::default(),
        more: Condvar::new(),
        has_failed: AtomicBool::new(false),
    };
    copier.nothing_is_there = to.is_new;
    let copied = std::thread::scope(|scope| {
        let mut contents = Contents {
            copier,
            root: to.root,
            to: DirStack::new(to.dir)?,
            to_path: to.path,
            from_path,
            looks,
            met,
            crew: &crew,
            scope,
            levels: vec![Level::default()],
            files: 0,
        };
        let walked = walk_selected(from, from_path, filter, &mut contents);
        let walked = walked.and_then(|()| contents.send_batch());
        // The others have to end, whatever happened here.
        crew.finish(walked.is_err());
        let rest = crew.work();
        walked.and(rest)
    });
    copier.nothing_is_there = false;
    // Of several failures the first in the order of the walk is told, and the one that was first to stop the others
    // counts before what they say of being stopped.
    let mut queue = locked(&crew.queue);
    copier.files += queue.copied_files;
    copier.bytes += queue.copied_bytes;
    match queue.failed.take() {
        Some((_, error)) => Err(error),
        None => copied,
    }
}

/// The thread that walks.
struct Contents<'s, 'e, 'c, 'r> {
    copier: &'c mut Copier<'r>,
    root: BorrowedFd<'c>,
    to: DirStack,
    /// Path of the receiving directory from its root.
    to_path: &'c [u8],
    /// Path of the matched directory in the source.
    from_path: &'c [u8],
    looks: Option<&'e Looks>,
    met: &'c mut Met,
    crew: &'e Crew<'e>,
    scope: &'s Scope<'s, 'e>,
    levels: Vec<Level<'e>>,
    files: usize,
}

/// A directory that the walk is in.
#[derive(Default)]
struct Level<'e> {
    /// Held open for others, if there is work for them.
    shared: Option<Arc<Shared<'e>>>,
    batch: Vec<Leaf<'e>>,
}

/// A directory of which others copy files.
struct Shared<'e> {
    from: OwnedFd,
    to: OwnedFd,
    from_path: Vec<u8>,
    to_path: Vec<u8>,
    /// Batches that are not done, and one more until it was walked.
    left: AtomicUsize,
    /// Once it was walked.
    end: Mutex<Option<End<'e>>>,
}

/// What a directory's attributes are set by.
struct End<'e> {
    from_above: OwnedFd,
    to_above: OwnedFd,
    name: Vec<u8>,
    stat: Stat,
    seen: Option<Seen<'e>>,
}

struct Leaf<'e> {
    name: Vec<u8>,
    stat: Stat,
    seen: Option<Seen<'e>>,
}

struct Batch<'e> {
    dir: Arc<Shared<'e>>,
    leaves: Vec<Leaf<'e>>,
    /// Its place in the walk.
    order: usize,
}

/// All threads that copy.
struct Crew<'e> {
    rules: Rules<'e>,
    is_new: bool,
    /// How many may help.
    threads: usize,
    queue: Mutex<Queue<'e>>,
    more: Condvar,
    has_failed: AtomicBool,
}

#[derive(Default)]
struct Queue<'e> {
    batches: VecDeque<Batch<'e>>,
    /// Nothing will be added.
    is_complete: bool,
    helpers: usize,
    idle: usize,
    failed: Option<(usize, TreeError)>,
    /// What those did who have ended, beside the thread that walks.
    copied_files: u64,
    copied_bytes: u64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn duplicate(fd: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, TreeError> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(TreeError::io("open directory", path))
}

impl<'e> Contents<'_, 'e, '_, '_> {
    fn shares(&self) -> bool {
        self.crew.threads > 0 && self.files > ALONE_FILES && self.levels.len() <= SHARED_DEPTH_MAX
    }

    /// Gives the files that were collected in the directory it is in to whoever has time.
    fn send_batch(&mut self) -> Result<(), TreeError> {
        let level = self.levels.last_mut().expect("the matched directory stays");
        let Some(shared) = level.shared.as_ref().filter(|_| !level.batch.is_empty()) else { return Ok(()) };
        shared.left.fetch_add(1, Ordering::Relaxed);
        let leaves = std::mem::replace(&mut level.batch, Vec::with_capacity(BATCH_FILES));
        let batch = Batch { dir: Arc::clone(shared), leaves, order: self.files };
        match self.crew.offer(batch, self.scope) {
            None => Ok(()),
            Some(batch) => self.crew.run(batch, self.copier),
        }
    }
}

impl Sink for Contents<'_, '_, '_, '_> {
    type Error = TreeError;

    fn enter(&mut self, name: &[u8], path: &[u8], stat: &Stat) -> Result<(), TreeError> {
        check_look(self.looks, self.met, &joined(self.from_path, path), stat)?;
        let to_path = joined(self.to_path, path);
        self.copier.make_directory(self.to.top(), name, &to_path)?;
        self.to.push(name, &to_path)?;
        self.levels.push(Level::default());
        Ok(())
    }

    fn leave(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        self.send_batch()?;
        let level = self.levels.pop().expect("every leave has its enter");
        let to_path = joined(self.to_path, entry.path);
        self.to.pop(&to_path)?;
        let full = joined(self.from_path, entry.path);
        let seen = self.looks.and_then(|looks| looks.get(&full));
        if let Some(shared) = level.shared {
            let (from_above, to_above) = (duplicate(entry.dir, &full)?, duplicate(self.to.top(), &to_path)?);
            let end = End { from_above, to_above, name: entry.name.to_vec(), stat: *entry.stat, seen };
            *locked(&shared.end) = Some(end);
            return shared.one_is_done(self.copier);
        }
        self.copier.directory_attributes(entry, self.to.top(), entry.name, &to_path)?;
        check_copy(seen, &Entry { path: &full, ..*entry }, self.to.top(), entry.name)
    }

    fn leaf(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        let full = joined(self.from_path, entry.path);
        let seen = check_look(self.looks, self.met, &full, entry.stat)?;
        self.files += 1;
        if self.shares() && entry.kind() != FileType::Socket {
            if self.crew.has_failed.load(Ordering::Relaxed) {
                return Err(TreeError::Stopped);
            }
            let level = self.levels.last_mut().expect("the matched directory stays");
            if level.shared.is_none() {
                let above = |path: &[u8]| path[..path.len() - entry.name.len()].to_vec();
                level.shared = Some(Arc::new(Shared {
                    from: duplicate(entry.dir, &full)?,
                    to: duplicate(self.to.top(), &full)?,
                    from_path: above(&full),
                    to_path: above(&joined(self.to_path, entry.path)),
                    left: AtomicUsize::new(1),
                    end: Mutex::new(None),
                }));
            }
            level.batch.push(Leaf { name: entry.name.to_vec(), stat: *entry.stat, seen });
            return if level.batch.len() < BATCH_FILES { Ok(()) } else { self.send_batch() };
        }
        let to_path = joined(self.to_path, entry.path);
        let named = Entry { path: &full, ..*entry };
        self.copier.copy_leaf(&named, self.root, self.to.top(), entry.name, &to_path)?;
        check_copy(seen, &named, self.to.top(), entry.name)
    }
}

impl<'e> Shared<'e> {
    fn copy(&self, leaf: &Leaf<'e>, copier: &mut Copier<'_>) -> Result<(), TreeError> {
        let (path, to_path) =
            ([self.from_path.as_slice(), &leaf.name].concat(), [self.to_path.as_slice(), &leaf.name].concat());
        let entry = Entry { dir: self.from.as_fd(), name: &leaf.name, path: &path, stat: &leaf.stat };
        // Only names that share a file need the root.
        copier.copy_leaf(&entry, self.to.as_fd(), self.to.as_fd(), &leaf.name, &to_path)?;
        check_copy(leaf.seen, &entry, self.to.as_fd(), &leaf.name)
    }

    /// One batch, or the walk of it, is done; the last one sets its attributes.
    fn one_is_done(&self, copier: &Copier<'_>) -> Result<(), TreeError> {
        if self.left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return Ok(());
        }
        let Some(end) = locked(&self.end).take() else { return Ok(()) };
        // Without the slash that names of its files follow.
        let path = self.from_path.strip_suffix(b"/").unwrap_or(&self.from_path);
        let to_path = self.to_path.strip_suffix(b"/").unwrap_or(&self.to_path);
        let entry = Entry { dir: end.from_above.as_fd(), name: &end.name, path, stat: &end.stat };
        copier.directory_attributes(&entry, end.to_above.as_fd(), &end.name, to_path)?;
        check_copy(end.seen, &entry, end.to_above.as_fd(), &end.name)
    }
}

impl<'e> Crew<'e> {
    /// Leaves a batch to others, unless they have enough; then it comes back.
    fn offer<'s>(&'e self, batch: Batch<'e>, scope: &'s Scope<'s, 'e>) -> Option<Batch<'e>> {
        let mut queue = locked(&self.queue);
        if queue.batches.len() >= WAITING_MAX {
            return Some(batch);
        }
        queue.batches.push_back(batch);
        if queue.idle == 0 && queue.helpers < self.threads {
            queue.helpers += 1;
            let started = std::thread::Builder::new().name("copy".into()).spawn_scoped(scope, || {
                if let Err(error) = self.work() {
                    tracing::trace!(%error, "told by the thread that walks");
                }
            });
            if let Err(error) = started {
                tracing::debug!(%error, "one thread less copies");
            }
        }
        self.more.notify_one();
        None
    }

    /// Nothing more comes; what waits is dropped if the walk has failed.
    fn finish(&self, has_failed: bool) {
        let mut queue = locked(&self.queue);
        queue.is_complete = true;
        if has_failed {
            queue.batches.clear();
        }
        self.more.notify_all();
    }

    /// Copies until nothing is left to do.
    fn work(&self) -> Result<(), TreeError> {
        let mut copier = Copier::new(self.rules);
        copier.nothing_is_there = self.is_new;
        let worked = self.work_with(&mut copier);
        let mut queue = locked(&self.queue);
        queue.copied_files += copier.files;
        queue.copied_bytes += copier.bytes;
        worked
    }

    fn work_with(&self, copier: &mut Copier<'_>) -> Result<(), TreeError> {
        let mut queue = locked(&self.queue);
        loop {
            if let Some(batch) = queue.batches.pop_front() {
                drop(queue);
                self.run(batch, copier)?;
                queue = locked(&self.queue);
            } else if queue.is_complete {
                return Ok(());
            } else {
                queue.idle += 1;
                queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
            }
        }
    }

    /// Copies a batch. A failure stops everybody.
    fn run(&self, batch: Batch<'e>, copier: &mut Copier<'_>) -> Result<(), TreeError> {
        let mut leaves = batch.leaves.iter();
        let copied = leaves.try_for_each(|leaf| batch.dir.copy(leaf, copier));
        copied.and_then(|()| batch.dir.one_is_done(copier)).map_err(|error| {
            self.has_failed.store(true, Ordering::Relaxed);
            let mut queue = locked(&self.queue);
            queue.batches.clear();
            if queue.failed.as_ref().is_none_or(|(order, _)| batch.order < *order) {
                queue.failed = Some((batch.order, error));
            }
            TreeError::Stopped
        })
    }
}
