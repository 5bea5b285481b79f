//! The digest of a tree's entries, in the order of a walk.
//!
//! In: entries. Out: one digest. Files are hashed on all cores, a wave of open files at a time; FIFOs, devices and sockets
//! are never opened. Names stand relative to the directory they are in, so the work is linear however deep a tree is.
//! Blocks of zeros count as their number, whether they are written or holes: a hole of exabytes costs nothing.
//!
//! ```text
//! digest = SHA-256( form, item, item, … )
//! item   = SHA-256( kind, fields )             each field with its length before it
//!   "in"   name                                a directory, before its entries
//!   "out"  mode, owner, opaque, attributes     the same one after them; also of a root, which has no name
//!   "gone" name                                a deletion
//!   "same" name, number                        one more name of the entry that was that many before all others
//!   "link" name, owner, attributes, target
//!   "file" name, mode, owner, attributes, length, blocks
//!   "node" name, mode, owner, attributes, device
//! ```

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rayon::prelude::*;
use rustix::fs::{self, FileType, SeekFrom, Stat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use solver::key::ContentDigest;
use solver::work::{Work, WorkKind};
use tokio_util::sync::CancellationToken;

use crate::tree::copy::{is_whiteout, open_file, same_moment};
use crate::tree::walk::{Descend, Entry, Visitor, walk};
use crate::tree::{TreeError, attrs, data, resolve, shown};

/// Files that are open and hashed at once; a process may have 1,024 open, and digests are made on several cores.
const WAVE_FILES: usize = 32;
/// Read at once per file, and the unit in which zeros are counted.
const BLOCK_BYTES: usize = 128 * 1024;
static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// Form of the digests of layers: another form has another version.
const LAYER_FORM: &[u8] = b"rbuild layer content 1";

/// The digest of a layer's own tree, overlayfs form. Blocks; stops with [`TreeError::Stopped`] soon after `cancel` fires.
pub(crate) fn layer(tree: BorrowedFd<'_>, cancel: &CancellationToken) -> Result<ContentDigest, TreeError> {
    Ok(layer_counted(tree, cancel)?.0)
}

/// The same, and what that took.
pub(super) fn layer_counted(
    tree: BorrowedFd<'_>,
    cancel: &CancellationToken,
) -> Result<(ContentDigest, Counted), TreeError> {
    let mut entries = Entries::new(LAYER_FORM, cancel);
    entries.root(tree)?;
    walk(resolve::open_dir_at(tree, b".").map_err(TreeError::io("open directory", b""))?, &mut entries)?;
    let counted = entries.counted;
    Ok((entries.finish()?, counted))
}

/// How much was digested.
#[derive(Clone, Copy, Default)]
pub(super) struct Counted {
    /// Entries of trees.
    items: u64,
    /// Bytes of files.
    bytes: u64,
}

impl Counted {
    /// As work that began at `begun` and has just ended.
    pub fn work(self, begun: Instant) -> Work {
        let (kind, took) = (WorkKind::Digest, begun.elapsed());
        Work { kind, files: self.items, read_bytes: self.bytes, hashed_bytes: self.bytes, written_bytes: 0, took }
    }
}

/// A digest while it is made.
pub(super) struct Entries<'a> {
    hash: Sha256,
    /// Items that are not in `hash` yet, in order.
    wave: Vec<Waiting>,
    files: usize,
    /// How many items there were, and which of them was the first name of a file with several.
    items: u64,
    first: HashMap<(u64, u64), u64>,
    /// What was there so far.
    pub counted: Counted,
    cancel: &'a CancellationToken,
}

enum Waiting {
    Known([u8; 32]),
    File(Box<OpenFile>),
}

struct OpenFile {
    /// For messages.
    path: Vec<u8>,
    fd: OwnedFd,
    stat: Stat,
    item: Item,
}

impl<'a> Entries<'a> {
    /// Nothing yet; `form` says what the entries mean.
    pub fn new(form: &[u8], cancel: &'a CancellationToken) -> Self {
        let mut hash = Sha256::new();
        hash.update((form.len() as u64).to_le_bytes());
        hash.update(form);
        Self { hash, wave: Vec::new(), files: 0, items: 0, first: HashMap::new(), counted: Counted::default(), cancel }
    }

    /// Anything that counts beside entries: `kind` is none of the above.
    pub fn mark(&mut self, kind: &str, text: &[u8]) -> Result<(), TreeError> {
        let mut item = Item::new(kind);
        item.field(text);
        self.add(Waiting::Known(item.finish()))
    }

    /// A directory without its name.
    pub fn root(&mut self, dir: BorrowedFd<'_>) -> Result<(), TreeError> {
        let stat = fs::fstat(dir).map_err(TreeError::io("look at", b""))?;
        self.directory(&Entry { dir, name: b"", path: b"", stat: &stat })
    }

    /// A directory, before its entries.
    pub fn enter(&mut self, name: &[u8]) -> Result<(), TreeError> {
        self.mark("in", name)
    }

    /// A directory, after its entries.
    pub fn directory(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        let mut item = Item::new("out");
        item.looks(entry)?;
        let opaque = attrs::is_opaque(entry.dir, entry.name);
        item.field(&[u8::from(opaque.map_err(TreeError::io("read attributes of", entry.path))?)]);
        item.attributes(entry)?;
        self.add(Waiting::Known(item.finish()))
    }

    /// Anything else, under this name.
    pub fn leaf(&mut self, entry: &Entry<'_>, name: &[u8]) -> Result<(), TreeError> {
        let stat = entry.stat;
        self.counted.items += 1;
        if is_whiteout(stat) {
            return self.mark("gone", name);
        }
        if stat.st_nlink > 1 {
            if let Some(first) = self.first.get(&(stat.st_dev, stat.st_ino)) {
                let mut item = Item::new("same");
                item.field(name);
                item.field(&first.to_le_bytes());
                return self.add(Waiting::Known(item.finish()));
            }
            self.first.insert((stat.st_dev, stat.st_ino), self.items);
        }
        let kind = match entry.kind() {
            FileType::RegularFile => "file",
            FileType::Symlink => "link",
            _ => "node",
        };
        let mut item = Item::new(kind);
        item.field(name);
        item.looks(entry)?;
        item.attributes(entry)?;
        match entry.kind() {
            FileType::RegularFile => {
                item.field(&(stat.st_size as u64).to_le_bytes());
                if stat.st_size == 0 {
                    return self.add(Waiting::Known(item.finish()));
                }
                let (path, fd) = (entry.path.to_vec(), open_file(entry)?);
                self.files += 1;
                self.counted.bytes += stat.st_size as u64;
                self.add(Waiting::File(Box::new(OpenFile { path, fd, stat: *stat, item })))
            }
            FileType::Symlink => {
                let target = fs::readlinkat(entry.dir, entry.name, Vec::new());
                item.field(target.map_err(TreeError::io("read link", entry.path))?.as_bytes());
                self.add(Waiting::Known(item.finish()))
            }
            _ => {
                item.field(&stat.st_rdev.to_le_bytes());
                self.add(Waiting::Known(item.finish()))
            }
        }
    }

    /// The digest of all that was added.
    pub fn finish(mut self) -> Result<ContentDigest, TreeError> {
        self.flush()?;
        Ok(ContentDigest(self.hash.finalize().into()))
    }

    fn add(&mut self, item: Waiting) -> Result<(), TreeError> {
        if self.cancel.is_cancelled() {
            return Err(TreeError::Stopped);
        }
        self.items += 1;
        match item {
            Waiting::Known(digest) if self.wave.is_empty() => self.hash.update(digest),
            item => self.wave.push(item),
        }
        if self.files >= WAVE_FILES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), TreeError> {
        let cancel = self.cancel;
        self.files = 0;
        let digests: Result<Vec<[u8; 32]>, TreeError> = std::mem::take(&mut self.wave)
            .into_par_iter()
            .map(|waiting| match waiting {
                Waiting::Known(digest) => Ok(digest),
                Waiting::File(file) => file.digest(cancel),
            })
            .collect();
        digests?.iter().for_each(|digest| self.hash.update(digest));
        Ok(())
    }
}

impl Visitor for Entries<'_> {
    type Error = TreeError;

    fn visit(&mut self, entry: &Entry<'_>) -> Result<Descend, TreeError> {
        if entry.kind().is_dir() {
            self.enter(entry.name)?;
            return Ok(Descend::Enter);
        }
        self.leaf(entry, entry.name)?;
        Ok(Descend::Skip)
    }

    fn leave(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        self.directory(entry)
    }
}

/// One item: fields, each with its length before it.
struct Item(Sha256);

impl Item {
    fn new(kind: &str) -> Self {
        let mut item = Self(Sha256::new());
        item.field(kind.as_bytes());
        item
    }

    fn field(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// Mode and owner.
    fn looks(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        // A link's own mode means nothing; some file systems say something else than 0777.
        let is_link = entry.kind() == FileType::Symlink;
        let mode = if is_link { FileType::Symlink.as_raw_mode() | 0o777 } else { entry.stat.st_mode };
        for number in [mode, entry.stat.st_uid, entry.stat.st_gid] {
            self.field(&number.to_le_bytes());
        }
        Ok(())
    }

    fn attributes(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        let xattrs = attrs::xattrs(entry.dir, entry.name).map_err(TreeError::io("read attributes of", entry.path))?;
        self.field(&(xattrs.len() as u64).to_le_bytes());
        for (name, value) in &xattrs {
            self.field(name);
            self.field(if name == b"security.capability" { without_root_id(value) } else { value.clone() }.as_slice());
        }
        Ok(())
    }

    fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// File capabilities as they are outside of user namespaces: revision 3 is revision 2 and whose root they are for
/// (linux/capability.h, `vfs_ns_cap_data`).
fn without_root_id(value: &[u8]) -> Vec<u8> {
    const REVISION_3: u8 = 3;
    let mut plain = value.to_vec();
    if let (24, Some(revision @ &mut REVISION_3)) = (value.len(), plain.get_mut(3)) {
        *revision = 2;
        plain.truncate(20);
    }
    plain
}

impl OpenFile {
    fn digest(mut self, cancel: &CancellationToken) -> Result<[u8; 32], TreeError> {
        let changed = || TreeError::Changed { path: shown(&self.path) };
        let length = self.stat.st_size as u64;
        let is_sparse = (self.stat.st_blocks as u64).saturating_mul(512) < length;
        let mut buffer = vec![0; BLOCK_BYTES.min(usize::try_from(length).unwrap_or(BLOCK_BYTES))];
        let (mut at, mut zeros) = (0, 0u64);
        while at < length {
            if cancel.is_cancelled() {
                return Err(TreeError::Stopped);
            }
            let blocks = if is_sparse { blocks_of_hole(&self.fd, at, length) } else { 0 };
            zeros += blocks;
            at += blocks * BLOCK_BYTES as u64;
            if at >= length {
                break;
            }
            let block = &mut buffer[..BLOCK_BYTES.min(usize::try_from(length - at).unwrap_or(BLOCK_BYTES))];
            let mut filled = 0;
            while filled < block.len() {
                let got = data::read_some(self.fd.as_fd(), &mut block[filled..], at + filled as u64);
                match got.map_err(TreeError::io("read", &self.path))? {
                    0 => return Err(changed()),
                    got => filled += got,
                }
            }
            if *block == ZEROS[..block.len()] {
                zeros += 1;
            } else {
                // The number of zero blocks before it, and the block.
                self.item.field(&std::mem::take(&mut zeros).to_le_bytes());
                self.item.field(block);
            }
            at += block.len() as u64;
        }
        let after = fs::fstat(&self.fd).map_err(TreeError::io("look at", &self.path))?;
        if !same_moment(&self.stat, &after) {
            return Err(changed());
        }
        Ok(self.item.finish())
    }
}

/// How many whole blocks from `at` on are a hole; the last one may be cut by the end of the file.
fn blocks_of_hole(file: &OwnedFd, at: u64, length: u64) -> u64 {
    let block = BLOCK_BYTES as u64;
    match fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) if start < length => (start - at) / block,
        // No data behind here.
        Ok(_) | Err(Errno::NXIO) => (length - at).div_ceil(block),
        // A file system without holes.
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_count_without_the_root_that_they_are_for() {
        let plain = [&[1, 0, 0, 2], &[7; 16][..]].concat();
        let for_a_root = [&[1, 0, 0, 3], &[7; 16][..], &[0xe8, 3, 0, 0]].concat();
        assert_eq!(without_root_id(&for_a_root), plain);
        for other in [plain.clone(), for_a_root[..20].to_vec(), Vec::new(), vec![3; 3]] {
            assert_eq!(without_root_id(&other), other);
        }
    }
}
