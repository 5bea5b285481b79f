//! A build that is being recorded.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use solver::explain::Fate;

use super::record::{Begun, Head, LogFile, StepRecord, lines, to_json};
use crate::layout::{Layout, fresh_name, try_flock};
use crate::{Store, StoreError};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Letters of an id: five bits each, of which people type the first few.
const ID_LETTERS: usize = 12;

/// The record of a build that runs. Dropped without [`Recording::finish`], it stays as one that was interrupted.
#[derive(Debug)]
pub struct Recording {
    /// Holds the lock.
    dir: OwnedFd,
    path: PathBuf,
    begun: File,
    head: Head,
    /// Lines for `begun.jsonl` that are not written yet.
    pending: String,
}

impl Store {
    /// Begins to record a build; its id is chosen here.
    pub fn record_build(&self, head: Head) -> Result<Recording, StoreError> {
        Recording::begin(&self.shared_layout(), head)
    }
}

impl Recording {
    fn begin(layout: &Arc<Layout>, mut head: Head) -> Result<Self, StoreError> {
        loop {
            head.id = fresh_name()?[..ID_LETTERS].to_owned();
            let aside = format!("{}.history", head.id);
            let path = layout.tmp.join(&aside);
            let failed = |act| move |source: Errno| StoreError::io(act, layout.tmp.join(&aside), source);
            let aside = format!("{}.history", head.id);
            match rustix::fs::mkdirat(&layout.tmp, aside.as_str(), Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(source) => return Err(failed("make")(source)),
            }
            let dir = match rustix::fs::openat(&layout.tmp, aside.as_str(), DIRECTORY, Mode::empty()) {
                Ok(dir) => dir,
                // A sweep took it for a dead one's.
                Err(Errno::NOENT) => continue,
                Err(source) => return Err(failed("open")(source)),
            };
            if !try_flock(&dir, &path)? || !layout.tmp.has(&aside)? {
                continue;
            }
            let name = format!("{:016x}-{}", head.begun.as_microsecond().max(0), head.id);
            let path = layout.history.join(&name);
            let begun = create(&dir, "begun.jsonl", &path)?;
            let mut recording = Self { dir, path, begun, pending: to_json(&head) + "\n", head };
            recording.flush()?;
            rustix::fs::renameat(&layout.tmp, aside.as_str(), &layout.history, name.as_str())
                .map_err(failed("move to the history"))?;
            return Ok(recording);
        }
    }

    /// What is known of the build so far.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Notes that a step began; `at_us` is in microseconds since the build did. Written by [`Self::flush`].
    pub fn step_started(&mut self, step: usize, name: &str, at_us: u64) {
        self.pending += &(to_json(&Begun::Started { step, name: name.to_owned(), at_us }) + "\n");
    }

    /// Notes that a step ended, likewise.
    pub fn step_ended(&mut self, step: usize, fate: Fate, at_us: u64) {
        self.pending += &(to_json(&Begun::Ended { step, fate, at_us }) + "\n");
    }

    /// Writes what was noted.
    pub fn flush(&mut self) -> Result<(), StoreError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let written = self.begun.write_all(self.pending.as_bytes());
        self.pending.clear();
        written.map_err(|source| StoreError::io("write", self.path.join("begun.jsonl"), source))
    }

    /// The log of a step, of which at most `max_bytes` are kept.
    pub fn log(&self, step: usize, max_bytes: u64) -> Result<LogWriter, StoreError> {
        let name = log_name(step);
        let file = create(&self.dir, &name, &self.path)?;
        Ok(LogWriter { file, path: self.path.join(name), max_bytes, written: 0, dropped: 0 })
    }

    /// The build has ended as `head` says; its id and beginning stay.
    pub fn finish(self, head: Head, steps: &[StepRecord]) -> Result<(), StoreError> {
        let head = Head { id: self.head.id.clone(), begun: self.head.begun, ..head };
        let text = lines(&head, steps);
        let mut file = create(&self.dir, "build.jsonl.new", &self.path)?;
        file.write_all(text.as_bytes())
            .map_err(|source| StoreError::io("write", self.path.join("build.jsonl.new"), source))?;
        rustix::fs::renameat(&self.dir, "build.jsonl.new", &self.dir, "build.jsonl")
            .map_err(|source| StoreError::io("rename", self.path.join("build.jsonl.new"), source))?;
        match rustix::fs::unlinkat(&self.dir, "begun.jsonl", rustix::fs::AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(source) => Err(StoreError::io("remove", self.path.join("begun.jsonl"), source)),
        }
    }
}

pub(super) fn log_name(step: usize) -> String {
    format!("{step}.log")
}

fn create(dir: &OwnedFd, name: &str, path: &std::path::Path) -> Result<File, StoreError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)
        .map(File::from)
        .map_err(|source| StoreError::io("make", path.join(name), source))
}

/// What a step prints, on its way to its file.
#[derive(Debug)]
pub struct LogWriter {
    file: File,
    path: PathBuf,
    max_bytes: u64,
    written: u64,
    dropped: u64,
}

impl LogWriter {
    /// Writes bytes as they are; what is too much is counted.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let room = usize::try_from(self.max_bytes - self.written).unwrap_or(usize::MAX);
        let kept = &bytes[..bytes.len().min(room)];
        self.file.write_all(kept).map_err(|source| StoreError::io("write", &self.path, source))?;
        self.written += kept.len() as u64;
        self.dropped += (bytes.len() - kept.len()) as u64;
        Ok(())
    }

    /// Ends the log; if it was cut, its last line says so.
    pub fn end(mut self) -> Result<LogFile, StoreError> {
        if self.dropped > 0 {
            let line = format!(
                "\n[rbuild: {} bytes more were printed and are not kept; the limit is `history.log_max_size`]\n",
                self.dropped
            );
            self.file.write_all(line.as_bytes()).map_err(|source| StoreError::io("write", &self.path, source))?;
        }
        Ok(LogFile { bytes: self.written, dropped_bytes: self.dropped })
    }
}
