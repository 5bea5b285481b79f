//! The entries of a matched directory of a context as the tar of their layer, without a tree in between.
//!
//! In: an open directory, what a filter leaves of it, the empty directory that would receive it. Out: byte for byte the tar
//! that [`oci::layer::write_layer`] would make of the tree, had they been copied there ([`super::contents`]); each was
//! compared with what was digested of it as it was read. What would be more than names, bytes, modes and times (extended
//! attributes, devices, holes, a root that is not the usual one) is not made here: then the caller copies. So nothing of
//! what a tar and a tree say differently is lost, but for the fractions of times, which no layer has.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci::layer::tar::{self, Kind, TarWriter, Time};
use rustix::fs::{self, FileType, OFlags, Stat};
use sha2::{Digest as _, Sha256};
use store::{NodeKind, attributes_digest};

use super::copy::check_look;
use crate::select::tree::{Filter, Sink, walk_selected};
use crate::source::digest::{Looks, Met, Seen};
use crate::tree::copy::{Copier, open_file, same_moment};
use crate::tree::resolve::{open_beneath, stat_at};
use crate::tree::walk::{DirStack, Entry, names};
use crate::tree::{TreeError, attrs, data, joined, shown};

/// Of fewer entries a tree is made in no time, and what builds upon it later has it.
pub(super) const WORTH_IT_ENTRIES: usize = 1000;
/// One read of a file.
const READ_BYTES: usize = 128 * 1024;

/// Where the entries would go.
pub(super) struct Target<'a> {
    /// The root of the changes: nothing but the directories that lead to `path`.
    pub upper: BorrowedFd<'a>,
    /// The directory that would receive them, in which nothing is, beneath it neither; it has changed, as it will have.
    pub path: &'a [u8],
}

/// What was written.
#[derive(Default)]
pub(super) struct Written {
    /// Files, and their bytes.
    pub files: u64,
    pub bytes: u64,
    /// Sockets, which no image holds.
    pub skipped: Vec<Vec<u8>>,
    /// What was met.
    pub met: Met,
}

/// Writes the tar of what `filter` leaves of `from`, an open directory and its path in the source. `None`: the tar would
/// not say everything; then what was written is of no use.
pub(super) fn write(
    (from, from_path): (OwnedFd, &[u8]),
    filter: &Filter<'_>,
    copier: &Copier<'_>,
    looks: &Looks,
    to: &Target<'_>,
    out: &mut dyn Write,
) -> Result<Option<Written>, TreeError> {
    let again = rustix::io::fcntl_dupfd_cloexec(&from, 3).map_err(TreeError::io("open directory", from_path))?;
    let mut packer = Packer {
        tar: TarWriter::new(out),
        copier,
        looks,
        from: DirStack::new(again)?,
        from_path,
        to_path: to.path,
        buffer: vec![0; READ_BYTES],
        written: Written::default(),
    };
    let walked = packer.way(to).and_then(|()| walk_selected(from, from_path, filter, &mut packer));
    let finished = walked.and_then(|()| match packer.tar.finish() {
        Ok(_) => Ok(packer.written),
        Err(error) => Err(unwritten(to.path)(error).into()),
    });
    match finished {
        Ok(written) => Ok(Some(written)),
        Err(Ended::NotPlain) => Ok(None),
        Err(Ended::Failed(error)) => Err(error),
    }
}

/// Why it ended early.
enum Ended {
    /// The tree would hold more than the tar.
    NotPlain,
    Failed(TreeError),
}

impl From<TreeError> for Ended {
    fn from(error: TreeError) -> Self {
        Self::Failed(error)
    }
}

struct Packer<'a> {
    tar: TarWriter<&'a mut dyn Write>,
    copier: &'a Copier<'a>,
    looks: &'a Looks,
    /// The directory of the source that the walk is in.
    from: DirStack,
    from_path: &'a [u8],
    to_path: &'a [u8],
    buffer: Vec<u8>,
    written: Written,
}

fn unwritten<E: Into<Box<dyn std::error::Error + Send + Sync>>>(path: &[u8]) -> impl FnOnce(E) -> TreeError {
    move |error| TreeError::Io {
        act: "write the layer's entry of",
        path: shown(path),
        source: std::io::Error::other(error),
    }
}

/// Refuses what has extended attributes that count.
fn plain(xattrs: Result<attrs::Xattrs, rustix::io::Errno>, path: &[u8]) -> Result<(), Ended> {
    let xattrs = xattrs.map_err(TreeError::changed_if_gone("read attributes of", path))?;
    if xattrs.is_empty() { Ok(()) } else { Err(Ended::NotPlain) }
}

/// What was digested of it was not something else that looked the same.
fn check(seen: Seen<'_>, path: &[u8], is_it: impl FnOnce(&NodeKind) -> bool) -> Result<(), TreeError> {
    let plain = || attributes_digest(&attrs::Xattrs::new());
    match seen.unproven() {
        Some(expected) if expected.attributes != plain() || !is_it(&expected.what) => {
            Err(TreeError::Changed { path: shown(path) })
        }
        _ => Ok(()),
    }
}

impl Packer<'_> {
    /// The directories that lead to the one that receives, and that.
    fn way(&mut self, to: &Target<'_>) -> Result<(), Ended> {
        let look = |fd: BorrowedFd<'_>, path: &[u8]| fs::fstat(fd).map_err(TreeError::io("look at", path));
        let root = look(to.upper, b"")?;
        if (root.st_mode & 0o7777, root.st_uid, root.st_gid) != (0o755, 0, 0) {
            return Err(Ended::NotPlain);
        }
        plain(attrs::xattrs(to.upper, b""), b"")?;
        if to.path.is_empty() {
            return if names(to.upper, b"")?.is_empty() { Ok(()) } else { Err(Ended::NotPlain) };
        }
        let slashes = to.path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let mut above = rustix::io::fcntl_dupfd_cloexec(to.upper, 3).map_err(TreeError::io("open directory", b""))?;
        let mut start = 0;
        for end in slashes.chain([to.path.len()]) {
            let (path, name) = (&to.path[..end], &to.path[start..end]);
            // What else is there would be lost.
            if names(above.as_fd(), path)? != [name] {
                return Err(Ended::NotPlain);
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            above = open_beneath(to.upper, path, flags).map_err(TreeError::io("open directory", path))?;
            plain(attrs::xattrs(above.as_fd(), b""), path)?;
            let stat = look(above.as_fd(), path)?;
            // As it is: it was made, or copied up, with all that it is to be.
            let own =
                (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777, attrs::times_of(&stat).last_modification.tv_sec);
            self.begin(path.to_vec(), Kind::Directory, own, path)?;
            start = end + 1;
        }
        Ok(())
    }

    fn begin(
        &mut self,
        path: Vec<u8>,
        kind: Kind,
        (uid, gid, mode, seconds): (u32, u32, u32, i64),
        full: &[u8],
    ) -> Result<(), TreeError> {
        let entry = tar::Entry { path, kind, mode, uid, gid, mtime: Time::at(seconds), xattrs: Vec::new() };
        self.tar.begin(&entry).map_err(unwritten(full))
    }

    fn file(&mut self, entry: &Entry<'_>, seen: Seen<'_>, path: Vec<u8>) -> Result<(), Ended> {
        let size = entry.stat.st_size as u64;
        if (entry.stat.st_blocks as u64).saturating_mul(512) < size {
            return Err(Ended::NotPlain);
        }
        let file = open_file(entry)?;
        let has_xattrs = attrs::has_xattrs(file.as_fd()).map_err(TreeError::io("read attributes of", entry.path))?;
        if has_xattrs {
            plain(attrs::xattrs(entry.dir, entry.name), entry.path)?;
        }
        self.begin(path, Kind::File { size, sparse: None }, self.copier.look_of(entry), entry.path)?;
        let changed = || TreeError::Changed { path: shown(entry.path) };
        let mut hash = seen.unproven().map(|_| Sha256::new());
        let mut at = 0;
        while at < size {
            let most = self.buffer.len().min(usize::try_from(size - at).unwrap_or(usize::MAX));
            let got = data::read_some(file.as_fd(), &mut self.buffer[..most], at);
            let got = got.map_err(TreeError::io("read", entry.path))?;
            if got == 0 {
                return Err(changed().into());
            }
            let piece = &self.buffer[..got];
            hash.iter_mut().for_each(|hash| hash.update(piece));
            self.tar.write_all(piece).map_err(unwritten(entry.path))?;
            at += got as u64;
        }
        let after = fs::fstat(&file).map_err(TreeError::io("look at", entry.path))?;
        if !same_moment(entry.stat, &after) {
            return Err(changed().into());
        }
        let found: Option<[u8; 32]> = hash.map(|hash| hash.finalize().into());
        check(seen, entry.path, |what| match what {
            NodeKind::File { bytes, sha256 } => *bytes == size && Some(*sha256) == found,
            _ => false,
        })?;
        self.written.files += 1;
        self.written.bytes += size;
        Ok(())
    }
}

impl Sink for Packer<'_> {
    type Error = Ended;

    fn enter(&mut self, name: &[u8], path: &[u8], stat: &Stat) -> Result<(), Ended> {
        let full = joined(self.from_path, path);
        check_look(Some(self.looks), &mut self.written.met, &full, stat)?;
        self.copier.check_representable(name, &full, None)?;
        let entry = Entry { dir: self.from.top(), name, path: &full, stat };
        let look = self.copier.look_of(&entry);
        self.from.push(name, &full)?;
        plain(attrs::xattrs(self.from.top(), b""), &full)?;
        Ok(self.begin(joined(self.to_path, path), Kind::Directory, look, &full)?)
    }

    fn leave(&mut self, entry: &Entry<'_>) -> Result<(), Ended> {
        let full = joined(self.from_path, entry.path);
        self.from.pop(&full)?;
        let now = stat_at(entry.dir, entry.name).map_err(TreeError::io("look at", &full))?;
        let seen = self.looks.get(&full).filter(|seen| now.is_some_and(|now| seen.is_still(&now)));
        let seen = seen.ok_or_else(|| TreeError::Changed { path: shown(&full) })?;
        Ok(check(seen, &full, |_| true)?)
    }

    fn leaf(&mut self, entry: &Entry<'_>) -> Result<(), Ended> {
        if self.copier.rules().stop.is_some_and(|stop| stop()) {
            return Err(TreeError::Stopped.into());
        }
        let full = joined(self.from_path, entry.path);
        let looks = self.looks;
        let seen = check_look(Some(looks), &mut self.written.met, &full, entry.stat)?;
        let seen = seen.expect("there are looks to compare with");
        let path = joined(self.to_path, entry.path);
        let entry = Entry { path: &full, ..*entry };
        if entry.kind() == FileType::Socket {
            self.written.skipped.push(full.clone());
            return Ok(());
        }
        self.copier.check_representable(entry.name, &full, Some(entry.stat))?;
        match entry.kind() {
            FileType::RegularFile => self.file(&entry, seen, path),
            FileType::Symlink => {
                plain(attrs::xattrs(entry.dir, entry.name), &full)?;
                let target = fs::readlinkat(entry.dir, entry.name, Vec::new());
                let target = target.map_err(TreeError::changed_if_gone("read link", &full))?.into_bytes();
                let now = stat_at(entry.dir, entry.name).map_err(TreeError::io("look at", &full))?;
                if !now.is_some_and(|now| seen.is_still(&now)) {
                    return Err(TreeError::Changed { path: shown(&full) }.into());
                }
                check(seen, &full, |what| matches!(what, NodeKind::Link(expected) if *expected == target))?;
                Ok(self.begin(path, Kind::Symlink { target }, self.copier.look_of(&entry), &full)?)
            }
            _ => Err(Ended::NotPlain),
        }
    }
}
