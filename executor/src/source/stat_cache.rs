//! What earlier digests of a context found, so that no file is read twice: by build, and from build to build.
//!
//! In: directories with what was found in them. Out: what is remembered of a directory, to be believed of those entries
//! whose [`Look`] is still the same. Within one build everything that was read is remembered; from build to build, only
//! what was *certain* (see [`super::look`]). The file is read as a whole and each directory of it taken apart when it is
//! asked for. Deliberately absent: looking at the context, and what a digest is made of ([`super::digest`]).
//!
//! ```text
//! file      = "stat cache 1, nodes 2\n" directory…        beneath the head that `store::contexts` gives it
//! directory = path in the context: u32 length, bytes | age: u8 | length of its entries: u32 | entry…
//! entry     = look: dev, ino, length: u64 each, seconds of mtime and ctime: i64 each, mode, nanoseconds: u32 each
//!           | what it was, as `store::nodes` draws it; a directory's own digest is zeros   sorted by name
//! ```
//! Numbers are little-endian. A directory's age says how often the file was written since it was last counted; one that
//! nobody counts any more is dropped.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use solver::key::ContentDigest;
use store::{NodeEntry, NodeKind, Store, StoreError};

use super::look::Look;

const FORM: &[u8] = b"stat cache 1, nodes 2\n";
/// How often a file may be written without a directory before it is dropped: several Dockerfiles may share a context.
const AGE_MAX: u8 = 30;

/// An entry that was counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    /// What it is.
    pub entry: NodeEntry,
    /// What it looked like before it was read.
    pub look: Look,
    /// Whether that look proves that it is what it was.
    pub certain: bool,
}

/// A directory of which entries were counted.
#[derive(Debug)]
pub(super) struct Directory {
    /// Its path in the context.
    pub path: Vec<u8>,
    /// What was selected in it, sorted by name.
    pub entries: Vec<Counted>,
    /// Sockets, which are in no digest.
    pub sockets: Vec<(Vec<u8>, Look)>,
    /// What is remembered of it and is still there, but was not selected. `None`: nobody looked what is there.
    pub others: Option<Vec<Counted>>,
    /// Whether anything of it was not known before.
    pub is_new: bool,
}

/// What is remembered of a context.
#[derive(Debug, Default)]
pub(super) struct StatCache {
    /// Where it is kept: a store, and the absolute path of the context.
    place: Option<(Store, Vec<u8>)>,
    bytes: Vec<u8>,
    /// Directories of `bytes`.
    kept: HashMap<Vec<u8>, Kept>,
    /// Directories that are known better than `bytes` knows them.
    learned: HashMap<Vec<u8>, Vec<Counted>>,
    /// Whether `learned` holds something that is worth keeping and is not kept.
    is_unsaved: bool,
}

#[derive(Debug)]
struct Kept {
    age: u8,
    entries: Range<usize>,
}

impl StatCache {
    /// What the store remembers of the context at the absolute `path`.
    pub fn load(store: &Store, path: &[u8]) -> Result<Self, StoreError> {
        let bytes = store.context(path)?.unwrap_or_default();
        let kept = index(&bytes).unwrap_or_else(|| {
            if !bytes.is_empty() {
                tracing::debug!("what is remembered of the context has another form");
            }
            HashMap::new()
        });
        Ok(Self { place: Some((store.clone(), path.to_vec())), bytes, kept, ..Self::default() })
    }

    /// What is remembered of a directory, sorted by name.
    pub fn recall(&self, directory: &[u8]) -> Vec<Counted> {
        match self.learned.get(directory) {
            Some(learned) => learned.clone(),
            None => self.recall_kept(directory),
        }
    }

    fn recall_kept(&self, directory: &[u8]) -> Vec<Counted> {
        let Some(kept) = self.kept.get(directory) else { return Vec::new() };
        let mut bytes = &self.bytes[kept.entries.clone()];
        // Names are longer than nothing: this is not far from what is needed.
        let mut entries = Vec::with_capacity(bytes.len() / 110);
        while !bytes.is_empty() {
            let look = Look::read(&mut bytes);
            let (Some(look), Some(entry)) = (look, NodeEntry::read(&mut bytes)) else {
                tracing::debug!("what is remembered of a directory is damaged");
                return Vec::new();
            };
            entries.push(Counted { entry, look, certain: true });
        }
        entries
    }

    /// Remembers what is new in directories that were counted.
    pub fn learn(&mut self, directories: &[Directory]) {
        for directory in directories.iter().filter(|directory| directory.is_new) {
            let recalled = match &directory.others {
                Some(others) => others.clone(),
                None => self.recall(&directory.path),
            };
            let counted: HashSet<&[u8]> = directory.entries.iter().map(|one| one.entry.name.as_slice()).collect();
            let others = recalled.into_iter().filter(|one| !counted.contains(one.entry.name.as_slice()));
            let mut entries: Vec<_> = directory.entries.iter().cloned().chain(others).collect();
            entries.sort_unstable_by(|one, other| one.entry.name.cmp(&other.entry.name));
            self.is_unsaved |= entries.iter().any(|one| one.certain);
            self.learned.insert(directory.path.clone(), entries);
        }
    }

    /// Keeps what was learned, if anything of it is worth that. `counted` are the paths of all directories that this
    /// build has counted.
    pub fn save<'a>(&mut self, counted: impl Iterator<Item = &'a [u8]>) -> Result<(), StoreError> {
        let (true, Some((store, path))) = (self.is_unsaved, &self.place) else { return Ok(()) };
        let counted: HashSet<&[u8]> = counted.collect();
        let mut bytes = FORM.to_vec();
        for (path, entries) in &self.learned {
            let start = begin(&mut bytes, path, 0);
            for one in entries.iter().filter(|one| one.certain) {
                one.look.write(&mut bytes);
                match one.entry.what {
                    NodeKind::Directory(_) => {
                        let what = NodeKind::Directory(ContentDigest([0; 32]));
                        NodeEntry { what, ..one.entry.clone() }.write(&mut bytes);
                    }
                    _ => one.entry.write(&mut bytes),
                }
            }
            end(&mut bytes, start);
        }
        for (path, kept) in self.kept.iter().filter(|(path, _)| !self.learned.contains_key(*path)) {
            let age = if counted.contains(path.as_slice()) { 0 } else { kept.age.saturating_add(1) };
            if age <= AGE_MAX {
                let start = begin(&mut bytes, path, age);
                bytes.extend_from_slice(&self.bytes[kept.entries.clone()]);
                end(&mut bytes, start);
            }
        }
        store.set_context(path, &bytes)?;
        self.is_unsaved = false;
        Ok(())
    }
}

/// Begins a directory; returns where its entries begin.
fn begin(bytes: &mut Vec<u8>, path: &[u8], age: u8) -> usize {
    bytes.extend_from_slice(&u32::try_from(path.len()).expect("a path is shorter than 4 GiB").to_le_bytes());
    bytes.extend_from_slice(path);
    bytes.push(age);
    bytes.extend_from_slice(&[0; 4]);
    bytes.len()
}

/// Ends a directory. One with more than 4 GiB of entries is remembered as empty.
fn end(bytes: &mut Vec<u8>, start: usize) {
    match u32::try_from(bytes.len() - start) {
        Ok(length) => bytes[start - 4..start].copy_from_slice(&length.to_le_bytes()),
        Err(_) => bytes.truncate(start),
    }
}

/// Where the directories of a file are; `None` when it has another form.
fn index(bytes: &[u8]) -> Option<HashMap<Vec<u8>, Kept>> {
    let mut rest = bytes.strip_prefix(FORM)?;
    let mut kept = HashMap::new();
    while !rest.is_empty() {
        let length = take_length(&mut rest)?;
        let (path, after) = rest.split_at_checked(length)?;
        let (age, after) = after.split_first()?;
        rest = after;
        let length = take_length(&mut rest)?;
        let start = bytes.len() - rest.len();
        rest = rest.get(length..)?;
        kept.insert(path.to_vec(), Kept { age: *age, entries: start..start + length });
    }
    Some(kept)
}

fn take_length(bytes: &mut &[u8]) -> Option<usize> {
    let (length, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    usize::try_from(u32::from_le_bytes(*length)).ok()
}

#[cfg(test)]
mod tests;
