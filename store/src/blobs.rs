//! Blobs by digest: `blobs/sha256/<hex>`, the real [`ContentStore`].
//!
//! A blob is written to `tmp/<random>.blob`, hashed on the way, fsynced, and renamed: its name is the proof that its
//! bytes were right and whole. The rename itself is not synced here: should a power loss undo it, the blob is missing,
//! never wrong, and whatever record names it was not synced either (see [`crate::durability`]).
//! Disks forget: [`Blobs::verify`] hashes a blob again and puts a damaged one aside, so that it is fetched or made
//! anew; readers that cannot trust the disk read through [`oci::content::VerifiedReader`].

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oci::content::{BlobReader, BlobWriter, ContentError, ContentStore};
use oci::model::Digest;
use rustix::fs::{Advice, AtFlags, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::layout::{Layout, fresh_name, try_flock};
use crate::lease::{Kind, Lease};
use crate::{StoreError, trash};

/// A blob up to this size that is there already is hashed again when it is put again, which is cheaper than an fsync;
/// a larger one is replaced.
const COMPARED_MAX_BYTES: u64 = 1 << 20;
/// After so many bytes the kernel is asked to write them to the disk: who makes a blob mostly has something else to do
/// for the disk's time, and does not wait for all of it in the end.
const WRITTEN_AT_ONCE_BYTES: u64 = 8 << 20;
/// A read buffer that keeps SHA-256 busy.
const BUFFER_BYTES: usize = 256 << 10;

/// So long a blob counts as fresh: an export follows what made its blobs at once.
const FRESH: Duration = Duration::from_secs(60);
/// Layers of a large image.
const FRESH_MAX: usize = 128;

/// The blobs of one store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Blobs {
    layout: Arc<Layout>,
    lease: Arc<Lease>,
    /// The last ones that were written here, and when.
    fresh: Arc<Mutex<VecDeque<(Digest, Instant)>>>,
}

impl Blobs {
    pub(crate) fn new(layout: Arc<Layout>, lease: Arc<Lease>) -> Self {
        Self { layout, lease, fresh: Arc::default() }
    }

    /// Where the blob is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.layout.blobs.join(&digest.hex())
    }

    /// Size in bytes, or `None` if the blob is not here.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>, ContentError> {
        self.touch(digest)?;
        match rustix::fs::statat(&self.layout.blobs, digest.hex(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat.st_size.unsigned_abs())),
            Err(Errno::NOENT) => Ok(None),
            Err(source) => Err(self.failed("look at", digest, source)),
        }
    }

    /// Opens a blob; its bytes are not checked again.
    pub fn open_file(&self, digest: &Digest) -> Result<Option<Blob>, ContentError> {
        self.touch(digest)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.layout.blobs, digest.hex(), flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(source) => return Err(self.failed("open", digest, source)),
        };
        let size = file.metadata().map_err(|source| self.failed("look at", digest, source))?.len();
        Ok(Some(Blob { file, size }))
    }

    /// Whether the blob is here and its bytes are what its name says. A damaged one is put into the trash, so that
    /// from now on it counts as missing.
    pub fn verify(&self, digest: &Digest) -> Result<bool, ContentError> {
        let Some(mut blob) = self.open_file(digest)? else { return Ok(false) };
        let found = hash(&mut blob).map_err(|source| self.failed("read", digest, source))?;
        if found == *digest {
            return Ok(true);
        }
        tracing::warn!(%digest, %found, "a blob is damaged in the store; it is put aside");
        trash::discard(&self.layout, &self.layout.blobs, &digest.hex()).map_err(content_error)?;
        Ok(false)
    }

    /// Gives a blob to another store; `false` if it is not here. On one disk both have the same file, which nobody
    /// changes: a damaged one is put aside, not mended.
    pub fn give(&self, digest: &Digest, to: &Blobs) -> Result<bool, ContentError> {
        self.touch(digest)?;
        to.touch(digest)?;
        let name = digest.hex();
        match rustix::fs::linkat(&self.layout.blobs, &name, &to.layout.blobs, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::EXIST) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(Errno::XDEV | Errno::MLINK | Errno::PERM) => {
                let Some(mut blob) = self.open_file(digest)? else { return Ok(false) };
                let mut writer = to.writer()?;
                io::copy(&mut blob, &mut writer).map_err(|source| self.failed("copy", digest, source))?;
                writer.commit(Some(digest)).map(|_| true)
            }
            Err(source) => Err(self.failed("give away", digest, source)),
        }
    }

    /// As [`ContentStore::writer`], with the file that it writes to, for somebody who reads what is there so far by
    /// [`std::os::unix::fs::FileExt::read_at`]. What is read counts when the blob is committed, not before.
    pub fn writer_to_follow(&self) -> Result<(Box<dyn BlobWriter>, File), ContentError> {
        let writer = self.begin()?;
        let file = writer.file.try_clone().map_err(|source| writer.failed("share", source))?;
        Ok((Box::new(writer), file))
    }

    /// A file in `tmp/` that is ours.
    fn begin(&self) -> Result<Writer, ContentError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let name = format!("{}.blob", fresh_name().map_err(content_error)?);
            let path = self.layout.tmp.join(&name);
            let failed =
                |act: &str, source: io::Error| ContentError::Io { act: format!("{act} `{}`", path.display()), source };
            let fd = rustix::fs::openat(&self.layout.tmp, name.as_str(), flags, Mode::RUSR | Mode::WUSR)
                .map_err(|source| failed("make", source.into()))?;
            let file = File::from(fd);
            // A sweep may have come between the two calls and taken it for a dead one's.
            if try_flock(&file, &path).map_err(content_error)? && self.layout.tmp.has(&name).map_err(content_error)? {
                let blobs = self.clone();
                return Ok(Writer { blobs, file, name, path, hash: Sha256::new(), size: 0, begun: 0, renamed: false });
            }
        }
    }

    fn fresh(&self) -> MutexGuard<'_, VecDeque<(Digest, Instant)>> {
        // Every change is one call.
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before every look: what was seen stays.
    fn touch(&self, digest: &Digest) -> Result<(), ContentError> {
        self.lease.touch(Kind::Blob, &digest.hex()).map_err(content_error)
    }

    fn failed(&self, act: &str, digest: &Digest, source: impl Into<io::Error>) -> ContentError {
        ContentError::Io { act: format!("{act} `{}`", self.path(digest).display()), source: source.into() }
    }
}

impl ContentStore for Blobs {
    fn open(&self, digest: &Digest) -> Result<Option<Box<dyn BlobReader>>, ContentError> {
        Ok(self.open_file(digest)?.map(|blob| Box::new(blob) as Box<dyn BlobReader>))
    }

    fn is_fresh(&self, digest: &Digest) -> bool {
        self.fresh().iter().any(|(known, since)| known == digest && since.elapsed() < FRESH)
    }

    fn writer(&self) -> Result<Box<dyn BlobWriter>, ContentError> {
        Ok(Box::new(self.begin()?))
    }
}

/// An open blob.
#[derive(Debug)]
pub struct Blob {
    file: File,
    size: u64,
}

impl Blob {
    /// Gives the file up.
    pub fn into_file(self) -> File {
        self.file
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Seek for Blob {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}

impl BlobReader for Blob {
    fn size(&self) -> u64 {
        self.size
    }
}

struct Writer {
    blobs: Blobs,
    /// Holds the lock.
    file: File,
    name: String,
    path: PathBuf,
    hash: Sha256,
    size: u64,
    /// So much of it is on its way to the disk.
    begun: u64,
    renamed: bool,
}

impl Writer {
    fn failed(&self, act: &str, source: impl Into<io::Error>) -> ContentError {
        ContentError::Io { act: format!("{act} `{}`", self.path.display()), source: source.into() }
    }

    /// Lets the disk begin. What goes wrong there is told by the sync before the commit.
    fn begin_writing(&mut self) {
        let new = std::num::NonZeroU64::new(self.size - self.begun);
        // Dirty pages are not dropped by this, but written.
        if let Err(error) = rustix::fs::fadvise(&self.file, self.begun, new, Advice::DontNeed) {
            tracing::debug!(%error, path = %self.path.display(), "the disk does not begin early");
        }
        self.begun = self.size;
    }

    /// Whether a small blob of that digest is here and whole, so that it need not be written again.
    fn is_here(&self, digest: &Digest) -> Result<bool, ContentError> {
        let same_size = self.blobs.size(digest)? == Some(self.size);
        Ok(same_size && self.size <= COMPARED_MAX_BYTES && self.blobs.verify(digest)?)
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.size += count as u64;
        if self.size - self.begun >= WRITTEN_AT_ONCE_BYTES {
            self.begin_writing();
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter for Writer {
    fn commit(mut self: Box<Self>, expected: Option<&Digest>) -> Result<(Digest, u64), ContentError> {
        let digest = Digest::from_bytes(std::mem::take(&mut self.hash).finalize().into());
        if let Some(&expected) = expected.filter(|expected| **expected != digest) {
            return Err(ContentError::WrongDigest { expected, actual: digest });
        }
        // Looks, and by that touches, first: whoever throws blobs away sees that this one is wanted.
        if !self.is_here(&digest)? {
            self.file.sync_all().map_err(|source| self.failed("sync", source))?;
            // Replaces what is there: these bytes are right for certain.
            rustix::fs::renameat(&self.blobs.layout.tmp, self.name.as_str(), &self.blobs.layout.blobs, digest.hex())
                .map_err(|source| self.failed("move to the blobs", source))?;
            self.renamed = true;
            let mut fresh = self.blobs.fresh();
            fresh.truncate(FRESH_MAX - 1);
            fresh.push_front((digest, Instant::now()));
            drop(fresh);
            self.blobs.lease.add_bytes(self.size);
        }
        Ok((digest, self.size))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.renamed {
            return;
        }
        if let Err(error) = self.blobs.layout.tmp.remove_file(&self.name) {
            tracing::debug!(%error, "an unfinished blob is left to the next start");
        }
    }
}

fn hash(reader: &mut impl Read) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(Digest::from_bytes(hash.finalize().into())),
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The same as an error of the store; `path` is for those that name none.
pub(crate) fn store_error(path: PathBuf, error: ContentError) -> StoreError {
    match error {
        ContentError::Io { source, .. } => StoreError::io("read", path, source),
        other => StoreError::io("read", path, io::Error::other(other)),
    }
}

fn content_error(error: StoreError) -> ContentError {
    match error {
        StoreError::Io { act, path, source } => ContentError::Io { act: format!("{act} `{}`", path.display()), source },
        other => ContentError::Io { act: "use the store".into(), source: io::Error::other(other) },
    }
}
