//! What is remembered of the files of a build context, one flat file per context, so that a file that has not changed
//! is not read again.
//!
//! In: bytes, under the absolute path of a directory. Out: the same bytes, a part at a time, or nothing: such a file may be
//! gone or damaged at any time, and then everything is read anew. Whoever writes last wins, and nobody ever sees half a file.
//! Deliberately absent: what the bytes mean (the executor's `source::stat_cache`).
//!
//! ```text
//! contexts/<hex>     <hex> is the SHA-256 of the path; 0600; written in tmp/, renamed; may be deleted at any time.
//!                    Its modification time says when it was last of use, to a day
//! file  = "rbuild context 1\n" | CRC-32 of all that follows: u32 | path: u32 length, bytes | what is remembered
//! ```
//! Numbers are little-endian. The sum is against tearing and rot, not against malice: the store is its user's alone.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, SystemTime};

use oci::model::Digest;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::layout::{fresh_name, try_flock};
use crate::{Store, StoreError};

const HEAD: &[u8] = b"rbuild context 1\n";
const FOLDER: &str = "contexts";
/// Some ten million files. What is remembered of a larger context is not kept.
pub(crate) const FILE_MAX_BYTES: u64 = 1 << 30;
/// How much is read and written at once.
const PIECE_BYTES: usize = 64 * 1024;
/// How exact the time of last use is.
const USE_GRANULARITY: Duration = Duration::from_secs(24 * 60 * 60);
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A file of the folder `contexts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextFile {
    /// Its name in that folder.
    pub name: String,
    /// What it takes.
    pub bytes: u64,
    /// When it was last of use, to a day.
    pub used_at: SystemTime,
}

impl Store {
    /// What was remembered of the context at the absolute `path`, checked as a whole.
    pub fn context(&self, path: &[u8]) -> Result<Option<Remembered>, StoreError> {
        let Some(folder) = self.contexts_folder(false)? else { return Ok(None) };
        let name = Digest::of(path).hex();
        let shown = self.root().join(FOLDER).join(&name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&folder, name.as_str(), flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(source) => return Err(StoreError::io("open", shown, source)),
        };
        let failed = |source| StoreError::io("read", &shown, source);
        let about = file.metadata().map_err(failed)?;
        let Some(start) = body_of(&mut &file, path).map_err(failed)? else {
            tracing::debug!(path = %shown.display(), "what is remembered of a context is damaged, or of another version");
            return Ok(None);
        };
        let now = SystemTime::now();
        let is_recent = |used: SystemTime| now.duration_since(used).is_ok_and(|ago| ago < USE_GRANULARITY);
        if !about.modified().is_ok_and(is_recent)
            && let Err(error) = file.set_modified(now)
        {
            tracing::debug!(path = %shown.display(), %error, "cannot note the use of what is remembered of a context");
        }
        Ok(Some(Remembered { file, start, bytes: about.len().saturating_sub(start) }))
    }

    /// Remembers what `body` writes of the context at the absolute `path`, in the place of what was remembered. Nothing of
    /// it is held in memory; of a context of which there is too much, what was remembered stays.
    pub fn set_context(
        &self,
        path: &[u8],
        body: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    ) -> Result<(), StoreError> {
        let folder = self.contexts_folder(true)?.expect("it was made");
        let tmp = &self.layout().tmp;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (aside, shown, file) = loop {
            let aside = format!("{}.context", fresh_name()?);
            let shown = tmp.join(&aside);
            let fd = rustix::fs::openat(tmp, aside.as_str(), flags, Mode::RUSR | Mode::WUSR)
                .map_err(|source| StoreError::io("make", &shown, source))?;
            let file = File::from(fd);
            // A sweep may have come between the two calls and taken it for a dead one's.
            if try_flock(&file, &shown)? && tmp.has(&aside)? {
                break (aside, shown, file);
            }
        };
        let moved = match write_context(&file, path, body) {
            Ok(true) => rustix::fs::renameat(tmp, aside.as_str(), &folder, Digest::of(path).hex())
                .map_err(|source| StoreError::io("move to the contexts", &shown, source)),
            Ok(false) => {
                tracing::debug!("too much to be remembered of a context");
                return tmp.remove_file(&aside);
            }
            Err(source) => Err(StoreError::io("write", &shown, source)),
        };
        if moved.is_err() {
            tmp.remove_file(&aside)?;
        }
        moved
    }

    /// The files that remember contexts, in no order.
    pub fn contexts(&self) -> Result<Vec<ContextFile>, StoreError> {
        let Some(folder) = self.contexts_folder(false)? else { return Ok(Vec::new()) };
        let path = self.root().join(FOLDER);
        let failed = |source: Errno| StoreError::io("list", &path, source);
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::read_from(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name.starts_with('.') {
                continue;
            }
            match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => found.push(ContextFile {
                    name: name.to_owned(),
                    bytes: stat.st_size as u64,
                    used_at: SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0)),
                }),
                Err(Errno::NOENT) => {}
                Err(source) => return Err(StoreError::io("look at", path.join(name), source)),
            }
        }
        Ok(found)
    }

    /// Forgets a context by the name of its file; one that is gone is fine. A build that uses it goes on.
    pub fn forget_context(&self, name: &str) -> Result<(), StoreError> {
        let Some(folder) = self.contexts_folder(false)? else { return Ok(()) };
        match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(source) => Err(StoreError::io("remove", self.root().join(FOLDER).join(name), source)),
        }
    }

    /// The folder; `None` when it is not there and not to be made.
    fn contexts_folder(&self, make: bool) -> Result<Option<OwnedFd>, StoreError> {
        let root = &self.layout().root;
        if make {
            match rustix::fs::mkdirat(root, FOLDER, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(source) => return Err(StoreError::io("make", root.join(FOLDER), source)),
            }
        }
        match rustix::fs::openat(root, FOLDER, DIRECTORY, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT) if !make => Ok(None),
            Err(source) => Err(StoreError::io("open", root.join(FOLDER), source)),
        }
    }
}

/// What is remembered of a context, read a part at a time. Another process may remember something else meanwhile: this
/// stays what it was.
#[derive(Debug)]
pub struct Remembered {
    file: File,
    /// Where it begins in the file.
    start: u64,
    bytes: u64,
}

impl Remembered {
    /// How long it is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A part of it, which must be within it.
    pub fn part(&self, at: u64, length: usize) -> std::io::Result<Vec<u8>> {
        let mut part = vec![0; length];
        self.file.read_exact_at(&mut part, self.start + at)?;
        Ok(part)
    }
}

/// Writes a file of [`set_context`](Store::set_context); whether it may be kept.
fn write_context(
    file: &File,
    path: &[u8],
    body: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> std::io::Result<bool> {
    let length = u32::try_from(path.len()).expect("a path is shorter than 4 GiB").to_le_bytes();
    let mut out = Summing { out: BufWriter::with_capacity(PIECE_BYTES, file), sum: crc32fast::Hasher::new(), bytes: 0 };
    out.out.write_all(HEAD)?;
    // The sum, once it is known.
    out.out.write_all(&[0; 4])?;
    out.write_all(&length)?;
    out.write_all(path)?;
    let written = body(&mut out);
    let all_bytes = out.bytes + HEAD.len() as u64 + 4;
    if all_bytes > FILE_MAX_BYTES {
        return Ok(false);
    }
    written?;
    out.out.flush()?;
    file.write_all_at(&out.sum.finalize().to_le_bytes(), HEAD.len() as u64)?;
    Ok(true)
}

/// Passes on what is written, and sums it up.
struct Summing<W> {
    out: W,
    sum: crc32fast::Hasher,
    bytes: u64,
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.bytes += buffer.len() as u64;
        if self.bytes > FILE_MAX_BYTES {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.out.write_all(buffer)?;
        self.sum.update(buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// Whether a file is whole, and that of the context which its name says.
pub(crate) fn is_whole(file: &[u8], name: &str) -> bool {
    let path = file.strip_prefix(HEAD).and_then(|rest| rest.get(4..)).and_then(|rest| {
        let (length, rest) = rest.split_first_chunk()?;
        rest.get(..usize::try_from(u32::from_le_bytes(*length)).ok()?)
    });
    path.is_some_and(|path| {
        Digest::of(path).hex() == name && body_of(&mut &*file, path).expect("memory is read without errors").is_some()
    })
}

/// Where in the file of the context at `path` that begins which is remembered; `None` for anything but a whole file.
fn body_of(file: &mut dyn Read, path: &[u8]) -> std::io::Result<Option<u64>> {
    let length = u32::try_from(path.len()).expect("a path is shorter than 4 GiB").to_le_bytes();
    let mut expected = [HEAD, &[0; 4], &length, path].concat();
    let mut head = Vec::with_capacity(expected.len());
    (&mut *file).take(expected.len() as u64).read_to_end(&mut head)?;
    let sum_at = HEAD.len()..HEAD.len() + 4;
    let Some(sum) = head.get(sum_at.clone()).and_then(|sum| sum.try_into().ok()).map(u32::from_le_bytes) else {
        return Ok(None);
    };
    expected[sum_at.clone()].copy_from_slice(&sum.to_le_bytes());
    if head != expected {
        return Ok(None);
    }
    let mut found = crc32fast::Hasher::new();
    found.update(&head[sum_at.end..]);
    let (mut piece, mut rest) = (vec![0; PIECE_BYTES], FILE_MAX_BYTES.saturating_sub(head.len() as u64));
    loop {
        let got = match file.read(&mut piece) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let Some(left) = rest.checked_sub(got as u64) else { return Ok(None) };
        rest = left;
        found.update(&piece[..got]);
    }
    Ok((found.finalize() == sum).then_some(head.len() as u64))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn set(store: &Store, path: &[u8], body: &[u8]) {
        store.set_context(path, |out| out.write_all(body)).unwrap();
    }

    fn get(store: &Store, path: &[u8]) -> Option<Vec<u8>> {
        let found = store.context(path).unwrap()?;
        Some(found.part(0, usize::try_from(found.bytes()).unwrap()).unwrap())
    }

    #[test]
    fn what_is_remembered_comes_back_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        assert_eq!(get(&store, b"/a"), None);
        assert_eq!(store.contexts().unwrap(), []);
        set(&store, b"/a", b"one");
        set(&store, b"/a/b", b"");
        set(&store, b"/a", b"two");
        assert_eq!(get(&store, b"/a").as_deref(), Some(&b"two"[..]));
        assert_eq!(get(&store, b"/a/b").as_deref(), Some(&b""[..]));
        assert_eq!(store.contexts().unwrap().len(), 2);
        let file = store.root().join(FOLDER).join(Digest::of(b"/a").hex());
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        let whole = std::fs::read(&file).unwrap();
        for end in 0..whole.len() {
            std::fs::write(&file, &whole[..end]).unwrap();
            assert_eq!(get(&store, b"/a"), None, "cut at {end}");
        }
        for at in 0..whole.len() {
            let mut other = whole.clone();
            other[at] ^= 1;
            std::fs::write(&file, &other).unwrap();
            assert_eq!(get(&store, b"/a"), None, "changed at {at}");
        }
        // That of another context.
        std::fs::copy(store.root().join(FOLDER).join(Digest::of(b"/a/b").hex()), &file).unwrap();
        assert_eq!(get(&store, b"/a"), None);
        set(&store, b"/a", b"three");
        assert_eq!(get(&store, b"/a").as_deref(), Some(&b"three"[..]));
        for file in store.contexts().unwrap() {
            store.forget_context(&file.name).unwrap();
            store.forget_context(&file.name).unwrap();
        }
        assert_eq!(store.contexts().unwrap(), []);
        assert_eq!(std::fs::read_dir(store.root().join("tmp")).unwrap().count(), 0, "nothing is left aside");
    }

    #[test]
    fn a_use_is_noted_to_a_day() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        set(&store, b"/a", b"one");
        let used = |ago: u64| {
            let file = File::open(store.root().join(FOLDER).join(Digest::of(b"/a").hex())).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(ago)).unwrap();
        };
        for (ago, is_noted) in [(3_600, false), (200_000, true)] {
            used(ago);
            let before = store.contexts().unwrap();
            store.context(b"/a").unwrap().unwrap();
            assert_eq!(store.contexts().unwrap() != before, is_noted, "{ago}");
        }
    }

    #[test]
    fn of_many_who_write_at_once_one_wins_and_readers_see_whole_files() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        std::thread::scope(|scope| {
            for letter in b'a'..b'e' {
                let store = store.clone();
                scope.spawn(move || {
                    for _ in 0..50 {
                        set(&store, b"/x", &vec![letter; 10_000]);
                        let seen = get(&store, b"/x").unwrap();
                        assert!(seen.len() == 10_000 && seen.iter().all(|byte| *byte == seen[0]));
                    }
                });
            }
        });
    }
}
