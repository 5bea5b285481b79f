//! What earlier digests of a context found, so that no file is read twice: by build, and from build to build.
//!
//! In: directories with what was found in them. Out: what is remembered of a directory, to be believed of those entries
//! whose [`Look`](super::look) is still the same. Within one build everything that was read is remembered; from build to
//! build, only what was *certain*. Of the file, memory holds where each directory is; its entries are read when they are
//! asked for. Deliberately absent: looking at the context, and what a digest is made of ([`super::digest`]).
//!
//! ```text
//! file      = "stat cache 1, nodes 2\n" directory…        beneath the head that `store::contexts` gives it
//! directory = path in the context: u32 length, bytes | age: u8 | length of its entries: u32 | entry…
//! entry     = as `super::counted` draws it; a directory's own digest is zeros   sorted by name
//! ```
//! Numbers are little-endian. A directory's age says how often the file was written since it was last counted; one that
//! nobody counts any more is dropped.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::sync::Arc;

use solver::key::ContentDigest;
use store::{NodeEntry, NodeKind, Remembered, Store, StoreError};

use super::counted::{CountedRef, Entries};
use super::look::Look;

const FORM: &[u8] = b"stat cache 1, nodes 2\n";
/// How often a file may be written without a directory before it is dropped: several Dockerfiles may share a context.
const AGE_MAX: u8 = 30;
/// Which part of what was written has to be new before all is written again while the build goes on: so writing costs no
/// more than what is learned, however many selections there are.
const FRESH_PART: usize = 8;
/// So many entries are put among others one by one.
const ONE_BY_ONE: usize = 64;
/// One read, when all directories are looked up.
const PIECE_BYTES: usize = 64 * 1024;

/// A directory of which entries were counted.
#[derive(Debug)]
pub(super) struct Directory {
    /// Its path in the context.
    pub path: Vec<u8>,
    /// What was selected in it, sorted by name.
    pub entries: Arc<Entries>,
    /// The digest of its node; `None`: nobody looked into it as a whole.
    pub digest: Option<ContentDigest>,
    /// Sockets, which are in no digest.
    pub sockets: Vec<(Vec<u8>, Look)>,
    /// What is remembered of it and is still there, but was not selected. `None`: nobody looked what is there.
    pub others: Option<Entries>,
    /// Whether anything of it was not known before.
    pub is_new: bool,
}

/// What is remembered of a context.
#[derive(Debug, Default)]
pub(super) struct StatCache {
    /// Where it is kept: a store, and the absolute path of the context.
    place: Option<(Store, Vec<u8>)>,
    file: Option<Remembered>,
    /// Directories of `file`.
    kept: HashMap<Vec<u8>, Kept>,
    /// Directories that are known better than `file` knows them.
    learned: HashMap<Vec<u8>, Arc<Entries>>,
    /// Whether `learned` holds something that is worth keeping and is not kept.
    is_unsaved: bool,
    /// Bytes of entries that were learned since the file was written, and those that were written then.
    fresh_bytes: usize,
    written_bytes: usize,
}

#[derive(Debug)]
struct Kept {
    age: u8,
    /// Where its entries are.
    at: u64,
    bytes: usize,
}

impl StatCache {
    /// What the store remembers of the context at the absolute `path`.
    pub fn load(store: &Store, path: &[u8]) -> Result<Self, StoreError> {
        let file = store.context(path)?;
        let kept = file.as_ref().and_then(index).unwrap_or_else(|| {
            if file.is_some() {
                tracing::debug!("what is remembered of the context has another form");
            }
            HashMap::new()
        });
        Ok(Self { place: Some((store.clone(), path.to_vec())), file, kept, ..Self::default() })
    }

    /// What is remembered of a directory, sorted by name.
    pub fn recall(&self, directory: &[u8]) -> Arc<Entries> {
        match self.learned.get(directory) {
            Some(learned) => Arc::clone(learned),
            None => Arc::new(self.recall_kept(directory)),
        }
    }

    fn recall_kept(&self, directory: &[u8]) -> Entries {
        let Some((kept, file)) = self.kept.get(directory).zip(self.file.as_ref()) else { return Entries::default() };
        let found = match file.part(kept.at, kept.bytes) {
            Ok(bytes) => Entries::of_file(bytes),
            Err(error) => {
                tracing::debug!(%error, "what is remembered of a directory cannot be read");
                return Entries::default();
            }
        };
        found.unwrap_or_else(|| {
            tracing::debug!("what is remembered of a directory is damaged");
            Entries::default()
        })
    }

    /// Remembers what is new in directories that were counted.
    pub fn learn(&mut self, directories: &[Directory]) {
        for directory in directories.iter().filter(|directory| directory.is_new) {
            let counted = &directory.entries;
            self.is_unsaved |= counted.iter().any(|one| one.certain());
            self.fresh_bytes += counted.bytes();
            match &directory.others {
                Some(others) => self.learned.insert(directory.path.clone(), together(counted, others)),
                None => {
                    let mut known = self.recall(&directory.path);
                    // Nobody else has it then, and it is changed in place.
                    drop(self.learned.remove(&directory.path));
                    match counted.len() <= ONE_BY_ONE {
                        true => counted.iter().for_each(|one| Arc::make_mut(&mut known).put(one)),
                        false => known = together(counted, &known),
                    }
                    self.learned.insert(directory.path.clone(), known)
                }
            };
        }
    }

    /// Whether enough was learned for it to be kept although the build goes on.
    pub fn is_due(&self) -> bool {
        self.is_unsaved && self.fresh_bytes >= self.written_bytes / FRESH_PART
    }

    /// Keeps what was learned, if anything of it is worth that. `counted` are the paths of all directories that this
    /// build has counted.
    pub fn save<'a>(&mut self, counted: impl Iterator<Item = &'a [u8]>) -> Result<(), StoreError> {
        let (true, Some((store, path))) = (self.is_unsaved, &self.place) else { return Ok(()) };
        let counted: HashSet<&[u8]> = counted.collect();
        let mut written_bytes = 0;
        store.set_context(path, |out| {
            out.write_all(FORM)?;
            for (path, entries) in &self.learned {
                written_bytes += entries.bytes();
                write_directory(out, path, 0, &certain_of(entries))?;
            }
            let Some(file) = &self.file else { return Ok(()) };
            for (path, kept) in self.kept.iter().filter(|(path, _)| !self.learned.contains_key(*path)) {
                let age = if counted.contains(path.as_slice()) { 0 } else { kept.age.saturating_add(1) };
                if age <= AGE_MAX {
                    written_bytes += kept.bytes;
                    write_directory(out, path, age, &file.part(kept.at, kept.bytes)?)?;
                }
            }
            Ok(())
        })?;
        (self.is_unsaved, self.fresh_bytes, self.written_bytes) = (false, 0, written_bytes);
        Ok(())
    }
}

/// What was counted of a directory, and what else is there.
fn together(counted: &Arc<Entries>, others: &Entries) -> Arc<Entries> {
    let is_other = |one: &CountedRef<'_>| counted.find(one.name()).is_none();
    if !others.iter().any(|one| is_other(&one)) {
        return Arc::clone(counted);
    }
    let mut all = Entries::default();
    counted.iter().chain(others.iter().filter(is_other)).for_each(|one| all.push_ref(one));
    all.sort();
    Arc::new(all)
}

/// What a file says of a directory's entries.
fn certain_of(entries: &Entries) -> Vec<u8> {
    let mut bytes = Vec::new();
    for one in entries.iter().filter(CountedRef::certain) {
        match one.look().is_dir() {
            true => {
                let what = NodeKind::Directory(ContentDigest([0; 32]));
                one.look().write(&mut bytes);
                NodeEntry { what, ..one.entry() }.write(&mut bytes);
            }
            false => bytes.extend_from_slice(one.bytes()),
        }
    }
    bytes
}

/// Writes one directory. One with more than 4 GiB of entries is remembered as empty.
fn write_directory(out: &mut dyn Write, path: &[u8], age: u8, entries: &[u8]) -> io::Result<()> {
    let length = u32::try_from(path.len()).expect("a path is shorter than 4 GiB");
    let (entries, bytes) = u32::try_from(entries.len()).map_or((&[][..], 0), |bytes| (entries, bytes));
    out.write_all(&length.to_le_bytes())?;
    out.write_all(path)?;
    out.write_all(&[age])?;
    out.write_all(&bytes.to_le_bytes())?;
    out.write_all(entries)
}

/// Where the directories of a file are; `None` when it has another form.
fn index(file: &Remembered) -> Option<HashMap<Vec<u8>, Kept>> {
    let mut reader = Pieces::of(file);
    if reader.take(FORM.len())? != FORM {
        return None;
    }
    let mut kept = HashMap::new();
    while reader.at < file.bytes() {
        let length = reader.length()?;
        let path = reader.take(length)?;
        let [age] = reader.take(1)?.try_into().ok()?;
        let bytes = reader.length()?;
        kept.insert(path, Kept { age, at: reader.at, bytes });
        reader.skip(bytes)?;
    }
    Some(kept)
}

/// A file that is read from its beginning.
struct Pieces<'a> {
    file: &'a Remembered,
    piece: Vec<u8>,
    /// Where that begins, and what comes next.
    piece_at: u64,
    at: u64,
}

impl<'a> Pieces<'a> {
    fn of(file: &'a Remembered) -> Self {
        Self { file, piece: Vec::new(), piece_at: 0, at: 0 }
    }

    /// So many bytes; `None` when there are not as many.
    fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        let end = self.at.checked_add(count as u64).filter(|end| *end <= self.file.bytes())?;
        if self.at < self.piece_at || end > self.piece_at + self.piece.len() as u64 {
            let left = usize::try_from(self.file.bytes() - self.at).unwrap_or(usize::MAX);
            self.piece = self.file.part(self.at, count.max(PIECE_BYTES).min(left)).ok()?;
            self.piece_at = self.at;
        }
        let start = usize::try_from(self.at - self.piece_at).ok()?;
        self.at = end;
        Some(self.piece[start..start + count].to_vec())
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.at = self.at.checked_add(count as u64).filter(|end| *end <= self.file.bytes())?;
        Some(())
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.take(4)?.try_into().ok()?)).ok()
    }
}

#[cfg(test)]
mod tests;
