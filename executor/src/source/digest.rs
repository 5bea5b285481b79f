//! The digest of what an operation reads of the build context.
//!
//! In: the matches of a selection. Out: one digest, and the looks of every entry. A digest covers names, types, modes,
//! link targets, extended attributes and bytes; every entry counts as owned by 0:0, and times never count. Which names
//! share a file does not count either, and such names become files of their own in a copy, so that equal digests give
//! equal copies. FIFOs and devices are never opened; sockets are left out. Files are hashed on all cores, a wave of
//! open files at a time.
//!
//! ```text
//! digest = SHA-256( FORM, entry digest, entry digest, … )       sorted by name
//! entry  = SHA-256( name, mode, link target, device, attributes, length, bytes )   each with its length before it
//! ```

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use rayon::prelude::*;
use rustix::fs::{self, FileType, Stat};
use sha2::{Digest as _, Sha256};
use solver::key::ContentDigest;
use solver::seam::Selection;

use crate::select::tree::{Filter, Match, Sink, walk_selected};
use crate::tree::copy::{open_file, same_moment};
use crate::tree::walk::Entry;
use crate::tree::{TreeError, attrs, data, joined, shown};

/// First field of every digest: another form of it has another version.
const FORM: &[u8] = b"rbuild selection 1";
/// Files that are open and hashed at once.
const WAVE_FILES: usize = 128;
/// Read at once per file.
const READ_BYTES: usize = 128 * 1024;

/// Looks of the entries of a selection by path.
pub(crate) type Looks = HashMap<Vec<u8>, [u8; 16]>;

/// What a file looked like: enough to see that it was changed, short enough to keep for every file.
pub(crate) fn look(stat: &Stat) -> [u8; 16] {
    let mut hash = Sha256::new();
    for number in [stat.st_dev as i128, stat.st_ino as i128, i128::from(stat.st_mode), stat.st_size as i128] {
        hash.update(number.to_le_bytes());
    }
    let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
    // A directory's time changes with entries that may not even be selected; its entries are looked at themselves.
    if !is_dir {
        for number in
            [stat.st_mtime as i128, stat.st_mtime_nsec as i128, stat.st_ctime as i128, stat.st_ctime_nsec as i128]
        {
            hash.update(number.to_le_bytes());
        }
    }
    let full: [u8; 32] = hash.finalize().into();
    std::array::from_fn(|i| full[i])
}

/// The digest of a selection while it is made.
#[derive(Default)]
pub(super) struct Digesting {
    /// Path in the source of the directory that is walked.
    base: Vec<u8>,
    /// What its entries' names begin with: the number of the match, and its own name where that counts.
    prefix: Vec<u8>,
    /// How many matches were counted. Of two that give the same name, a copy keeps the later: so numbers count.
    matches: usize,
    /// Digest of each entry by its name in the selection.
    entries: Vec<(Vec<u8>, [u8; 32])>,
    /// Files that are open and not hashed yet.
    wave: Vec<OpenFile>,
    looks: Looks,
    sockets: Vec<Vec<u8>>,
}

struct OpenFile {
    name: Vec<u8>,
    /// Path in the source, for messages.
    path: Vec<u8>,
    fd: OwnedFd,
    stat: Stat,
    header: Sha256,
}

/// What became of a selection.
pub(super) struct Digested {
    pub digest: ContentDigest,
    pub looks: Looks,
    /// Paths of sockets, which are left out.
    pub sockets: Vec<Vec<u8>>,
}

impl Digesting {
    /// Counts what a match selects.
    pub fn add_match(&mut self, found: &Match, selection: &Selection, filter: &Filter<'_>) -> Result<(), TreeError> {
        let place = &found.place;
        let Some(stat) = &place.stat else { return Ok(()) };
        self.prefix = self.matches.to_string().into_bytes();
        self.matches += 1;
        if !place.is_dir() {
            if filter.takes_leaf(&found.base, &place.path) {
                self.base = parent(&place.path).to_vec();
                let entry = Entry { dir: place.dir.as_fd(), name: &place.name, path: &found.base, stat };
                self.count_leaf(&entry, &place.path)?;
            }
            return Ok(());
        }
        self.base = place.path.clone();
        if selection.dir_contents_only {
            // That there is a directory counts, whatever is in it.
            self.entries.push((self.prefix.clone(), [0; 32]));
        } else {
            self.prefix = joined(&self.prefix, &found.base);
            self.add(&Entry { dir: place.dir.as_fd(), name: &place.name, path: b"", stat }, &[], &[])?;
        }
        walk_selected(place.open_dir()?, &place.path, filter, self)
    }

    /// The digest of all that was counted.
    pub fn finish(mut self) -> Result<Digested, TreeError> {
        self.hash_files()?;
        self.entries.sort_unstable();
        let mut hash = Sha256::new();
        hash.update(FORM);
        for (_, digest) in &self.entries {
            hash.update(digest);
        }
        let digest = ContentDigest(hash.finalize().into());
        Ok(Digested { digest, looks: self.looks, sockets: self.sockets })
    }

    /// Counts an entry whose content is `link`.
    fn add(&mut self, entry: &Entry<'_>, link: &[u8], rest: &[u8]) -> Result<(), TreeError> {
        let name = joined(&self.prefix, entry.path);
        let header = self.header(entry, &name, link, rest)?;
        self.entries.push((name, header.finalize().into()));
        Ok(())
    }

    /// Everything but bytes, every field with its length.
    fn header(&self, entry: &Entry<'_>, name: &[u8], link: &[u8], rest: &[u8]) -> Result<Sha256, TreeError> {
        let full = joined(&self.base, entry.path);
        let mut hash = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        field(name);
        let is_link = entry.kind() == FileType::Symlink;
        // A link's own mode means nothing; some file systems say something else than 0777.
        let mode = if is_link { FileType::Symlink.as_raw_mode() | 0o777 } else { entry.stat.st_mode };
        field(&mode.to_le_bytes());
        field(link);
        field(rest);
        let xattrs = attrs::xattrs(entry.dir, entry.name).map_err(TreeError::io("read attributes of", &full))?;
        for (name, value) in &xattrs {
            field(name);
            field(value);
        }
        Ok(hash)
    }

    fn count_leaf(&mut self, entry: &Entry<'_>, full: &[u8]) -> Result<(), TreeError> {
        self.looks.insert(full.to_vec(), look(entry.stat));
        match entry.kind() {
            FileType::RegularFile => {
                let name = joined(&self.prefix, entry.path);
                let shown_entry = Entry { path: full, ..*entry };
                let fd = open_file(&shown_entry)?;
                let header = self.header(entry, &name, &[], &[])?;
                self.wave.push(OpenFile { name, path: full.to_vec(), fd, stat: *entry.stat, header });
                if self.wave.len() >= WAVE_FILES { self.hash_files() } else { Ok(()) }
            }
            FileType::Symlink => {
                let target =
                    fs::readlinkat(entry.dir, entry.name, Vec::new()).map_err(TreeError::io("read link", full))?;
                self.add(entry, target.as_bytes(), &[])
            }
            FileType::Socket => {
                self.sockets.push(full.to_vec());
                Ok(())
            }
            _ => self.add(entry, &[], &entry.stat.st_rdev.to_le_bytes()),
        }
    }

    fn hash_files(&mut self) -> Result<(), TreeError> {
        let hashed: Result<Vec<_>, TreeError> =
            std::mem::take(&mut self.wave).into_par_iter().map(OpenFile::digest).collect();
        self.entries.extend(hashed?);
        Ok(())
    }
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(b"", |slash| &path[..slash])
}

impl Sink for Digesting {
    type Error = TreeError;

    fn enter(&mut self, _name: &[u8], path: &[u8], stat: &Stat) -> Result<(), TreeError> {
        self.looks.insert(joined(&self.base, path), look(stat));
        Ok(())
    }

    fn leave(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        self.add(entry, &[], &[])
    }

    fn leaf(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        self.count_leaf(entry, &joined(&self.base, entry.path))
    }
}

impl OpenFile {
    fn digest(mut self) -> Result<(Vec<u8>, [u8; 32]), TreeError> {
        let changed = || TreeError::Changed { path: shown(&self.path) };
        let length = self.stat.st_size as u64;
        self.header.update(length.to_le_bytes());
        let mut buffer = vec![0; READ_BYTES.min(length.max(1) as usize)];
        let mut at = 0;
        while at < length {
            let got = data::read_some(self.fd.as_fd(), &mut buffer, at).map_err(TreeError::io("read", &self.path))?;
            if got == 0 {
                return Err(changed());
            }
            self.header.update(&buffer[..got]);
            at += got as u64;
        }
        let after = fs::fstat(&self.fd).map_err(TreeError::io("look at", &self.path))?;
        if at != length || !same_moment(&self.stat, &after) {
            return Err(changed());
        }
        Ok((self.name, self.header.finalize().into()))
    }
}
