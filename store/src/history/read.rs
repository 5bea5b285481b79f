//! Builds of the past, and those that run.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use solver::explain::Fate;

use super::record::{Begun, Build, Head, LogFile, Outcome, StepRecord};
use super::write::log_name;
use crate::layout::{Folder, try_flock};
use crate::{Store, StoreError, trash};

/// Graphs of a hundred thousand steps fit; a longer file is none of ours.
const RECORD_MAX_BYTES: u64 = 1 << 30;
/// A head is a few lines' worth.
const HEAD_MAX_BYTES: u64 = 1 << 20;
const PINNED: &str = "pinned";
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A build in the history.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name of its directory.
    name: String,
    /// What is known of it without its steps.
    pub head: Head,
    /// Whether it stays until its user says otherwise.
    pub pinned: bool,
}

impl Store {
    /// All builds, the latest first. What cannot be read is left out.
    pub fn builds(&self) -> Result<Vec<Entry>, StoreError> {
        let mut entries = Vec::new();
        for name in names(&self.layout().history)? {
            let Some(dir) = self.open_build(&name)? else { continue };
            match head(&dir)? {
                Some(head) => entries.push(Entry { pinned: dir.is_pinned()?, name, head }),
                None => tracing::debug!(name, "no record of a build that this program can read"),
            }
        }
        Ok(entries)
    }

    /// The latest builds for which `wanted` holds, in order, without reading more than needed.
    pub fn latest_build(&self, mut wanted: impl FnMut(&Head) -> bool) -> Result<Option<Entry>, StoreError> {
        for name in names(&self.layout().history)? {
            let Some(dir) = self.open_build(&name)? else { continue };
            if let Some(head) = head(&dir)?
                && wanted(&head)
            {
                return Ok(Some(Entry { pinned: dir.is_pinned()?, name, head }));
            }
        }
        Ok(None)
    }

    /// A build with its steps; `None` if it is gone. Of one that runs, or was interrupted, what is known.
    pub fn build(&self, entry: &Entry) -> Result<Option<Build>, StoreError> {
        let Some(dir) = self.open_build(&entry.name)? else { return Ok(None) };
        if let Some(file) = dir.open("build.jsonl")? {
            let text = dir.read(file, "build.jsonl")?;
            return Ok(Build::from_lines(&text));
        }
        let (Some(head), Some(file)) = (head(&dir)?, dir.open("begun.jsonl")?) else { return Ok(None) };
        let text = dir.read(file, "begun.jsonl")?;
        let mut steps: BTreeMap<usize, StepRecord> = BTreeMap::new();
        // The last line may be torn.
        for line in text.lines().skip(1).filter_map(|line| serde_json::from_str::<Begun>(line).ok()) {
            match line {
                Begun::Started { step, name, at_us } => {
                    let log = dir.log_bytes(step)?.map(|bytes| LogFile { bytes, dropped_bytes: 0 });
                    let fate = if head.outcome == Outcome::Running { Fate::NotReached } else { Fate::Canceled };
                    let (started_us, number) = (Some(at_us), Some(steps.len() + 1));
                    steps.insert(step, StepRecord { name, number, started_us, log, fate, ..StepRecord::default() });
                }
                Begun::Ended { step, fate, at_us } => {
                    if let Some(known) = steps.get_mut(&step) {
                        (known.fate, known.ended_us) = (fate, Some(at_us));
                    }
                }
            }
        }
        // Places are those of the log files: what did not begin is an empty line.
        let count = steps.keys().next_back().map_or(0, |last| last + 1);
        if count > steps.len() + RUNNING_GAP_MAX {
            return Ok(None);
        }
        let steps = (0..count).map(|step| steps.remove(&step).unwrap_or_default()).collect();
        Ok(Some(Build { head, steps }))
    }

    /// What a step printed, as it printed it; `None` if it printed nothing.
    pub fn build_log(&self, entry: &Entry, step: usize) -> Result<Option<File>, StoreError> {
        match self.open_build(&entry.name)? {
            Some(dir) => dir.open(&log_name(step)),
            None => Ok(None),
        }
    }

    /// Throws the record of a build away; `false` if it runs.
    pub fn forget_build(&self, entry: &Entry) -> Result<bool, StoreError> {
        self.forget_build_called(&entry.name)
    }

    /// Has a build stay until its user says otherwise, or no longer.
    pub fn pin_build(&self, entry: &Entry, pinned: bool) -> Result<(), StoreError> {
        let Some(dir) = self.open_build(&entry.name)? else { return Ok(()) };
        let path = dir.path.join(PINNED);
        if !pinned {
            return match rustix::fs::unlinkat(&dir.fd, PINNED, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(source) => Err(StoreError::io("remove", path, source)),
            };
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&dir.fd, PINNED, flags, Mode::RUSR | Mode::WUSR);
        made.map(drop).map_err(|source| StoreError::io("make", path, source))
    }

    /// Whether a build stays; `None` if it is gone.
    pub(crate) fn build_is_pinned(&self, name: &str) -> Result<Option<bool>, StoreError> {
        self.open_build(name)?.map(|dir| dir.is_pinned()).transpose()
    }

    /// The names of all builds' directories, the latest first.
    pub(crate) fn build_names(&self) -> Result<Vec<String>, StoreError> {
        names(&self.layout().history)
    }

    /// Whether a build runs; `None` if it is gone, or no build.
    pub(crate) fn build_runs(&self, name: &str) -> Result<Option<bool>, StoreError> {
        let Some(dir) = self.open_build(name)? else { return Ok(None) };
        Ok(Some(!try_flock(&dir.fd, &dir.path)?))
    }

    /// Keeps the records of the latest `keep` builds, of those that run and of those that are pinned; returns how many
    /// are gone.
    pub fn trim_history(&self, keep: usize) -> Result<usize, StoreError> {
        let mut gone = 0;
        for name in names(&self.layout().history)?.into_iter().skip(keep) {
            if self.build_is_pinned(&name)? == Some(false) {
                gone += usize::from(self.forget_build_called(&name)?);
            }
        }
        Ok(gone)
    }

    /// As [`Self::forget_build`].
    pub(crate) fn forget_build_called(&self, name: &str) -> Result<bool, StoreError> {
        let Some(dir) = self.open_build(name)? else { return Ok(true) };
        if !try_flock(&dir.fd, &dir.path)? {
            return Ok(false);
        }
        trash::discard(self.layout(), &self.layout().history, name)?;
        Ok(true)
    }

    fn open_build(&self, name: &str) -> Result<Option<Dir>, StoreError> {
        let path = self.layout().history.join(name);
        match rustix::fs::openat(&self.layout().history, name, DIRECTORY, Mode::empty()) {
            Ok(fd) => Ok(Some(Dir { fd, path })),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(source) => Err(StoreError::io("open", path, source)),
        }
    }
}

/// Steps that are declared and did not begin before one that did; more is no record of ours.
const RUNNING_GAP_MAX: usize = 1_000_000;

/// The names of all builds, the latest first.
fn names(history: &Folder) -> Result<Vec<String>, StoreError> {
    let mut names = history.names()?;
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names)
}

/// The directory of one build.
struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    fn is_pinned(&self) -> Result<bool, StoreError> {
        match rustix::fs::statat(&self.fd, PINNED, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(source) => Err(StoreError::io("look at", self.path.join(PINNED), source)),
        }
    }

    fn open(&self, name: &str) -> Result<Option<File>, StoreError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(Errno::NOENT | Errno::LOOP) => Ok(None),
            Err(source) => Err(StoreError::io("open", self.path.join(name), source)),
        }
    }

    fn read(&self, file: File, name: &str) -> Result<String, StoreError> {
        let mut bytes = Vec::new();
        file.take(RECORD_MAX_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|source| StoreError::io("read", self.path.join(name), source))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn log_bytes(&self, step: usize) -> Result<Option<u64>, StoreError> {
        match rustix::fs::statat(&self.fd, log_name(step), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(u64::try_from(stat.st_size).unwrap_or(0))),
            Err(Errno::NOENT) => Ok(None),
            Err(source) => Err(StoreError::io("look at", self.path.join(log_name(step)), source)),
        }
    }
}

fn head(dir: &Dir) -> Result<Option<Head>, StoreError> {
    let first = |file: File, name: &str| -> Result<Option<Head>, StoreError> {
        let mut line = Vec::new();
        BufReader::new(file.take(HEAD_MAX_BYTES))
            .read_until(b'\n', &mut line)
            .map_err(|source| StoreError::io("read", dir.path.join(name), source))?;
        Ok(serde_json::from_slice::<Head>(&line).ok().filter(|head| head.format == super::record::FORMAT))
    };
    if let Some(file) = dir.open("build.jsonl")? {
        return first(file, "build.jsonl");
    }
    let Some(file) = dir.open("begun.jsonl")? else { return Ok(None) };
    let Some(mut head) = first(file, "begun.jsonl")? else { return Ok(None) };
    if try_flock(&dir.fd, &dir.path)? {
        // It may have ended between the two looks.
        if let Some(file) = dir.open("build.jsonl")? {
            return first(file, "build.jsonl");
        }
        head.outcome = Outcome::Interrupted;
    }
    Ok(Some(head))
}
