//! The digest of what an operation reads of the build context.
//!
//! In: the matches of a selection. Out: one digest, the [`Node`]s that explain it, and the looks of every entry. A
//! digest covers names, types, modes, link targets, extended attributes and bytes; every entry counts as owned by 0:0,
//! and times never count. Which names share a file does not count either, and such names become files of their own in a
//! copy, so that equal digests give equal copies. FIFOs and devices are never opened; sockets are left out. Files are
//! hashed on all cores, a wave of open files at a time.
//!
//! A digest is the root of a tree of directories, drawn in [`store::Node`]: that of a selection names its matches in
//! their order, because of two that give the same name a copy keeps the later.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use rayon::prelude::*;
use rustix::fs::{self, FileType, Stat};
use sha2::{Digest as _, Sha256};
use solver::key::ContentDigest;
use solver::seam::Selection;
use store::{Node, NodeEntry, NodeKind, attributes_digest};

use crate::select::tree::{Filter, Match, Sink, walk_selected};
use crate::tree::copy::{open_file, same_moment};
use crate::tree::walk::Entry;
use crate::tree::{TreeError, attrs, data, joined, shown};

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
    /// What each match is.
    matches: Vec<NodeEntry>,
    /// The directories that the walk is in, the outermost first.
    levels: Vec<Level>,
    nodes: Vec<Node>,
    looks: Looks,
}

/// What was counted of a directory.
#[derive(Default)]
struct Level {
    entries: Vec<NodeEntry>,
    /// Files that are open and not hashed yet.
    wave: Vec<OpenFile>,
}

struct OpenFile {
    /// Path in the source, for messages.
    path: Vec<u8>,
    fd: OwnedFd,
    stat: Stat,
    /// All but its content.
    entry: NodeEntry,
}

/// What became of a selection.
pub(crate) struct Digested {
    /// The digest of all that was selected.
    pub digest: ContentDigest,
    /// The nodes beneath it, its own as well.
    pub nodes: Vec<Node>,
    pub(super) looks: Looks,
}

impl Digesting {
    /// Counts what a match selects.
    pub fn add_match(&mut self, found: &Match, selection: &Selection, filter: &Filter<'_>) -> Result<(), TreeError> {
        let place = &found.place;
        let Some(stat) = &place.stat else { return Ok(()) };
        let itself = Entry { dir: place.dir.as_fd(), name: &place.name, path: &found.base, stat };
        self.levels = vec![Level::default()];
        if !place.is_dir() {
            if filter.takes_leaf(&found.base, &place.path) {
                self.base = parent(&place.path).to_vec();
                let named = Entry { path: &place.name, ..itself };
                self.leaf(&named)?;
                self.levels[0].hash_files()?;
                let found_entries = self.levels.pop().map(|level| level.entries).unwrap_or_default();
                self.matches
                    .extend(found_entries.into_iter().map(|entry| NodeEntry { name: found.base.clone(), ..entry }));
            }
            return Ok(());
        }
        self.base = place.path.clone();
        walk_selected(place.open_dir()?, &place.path, filter, self)?;
        let digest = self.close_level()?;
        self.matches.push(match selection.dir_contents_only {
            true => NodeEntry::contents(digest),
            false => {
                let what = NodeKind::Directory(digest);
                NodeEntry { name: found.base.clone(), ..node_entry(&itself, &place.path, what)? }
            }
        });
        Ok(())
    }

    /// The digest of all that was counted.
    pub fn finish(mut self) -> Digested {
        let root = Node::selection(&self.matches);
        let digest = root.digest;
        self.nodes.push(root);
        Digested { digest, nodes: self.nodes, looks: self.looks }
    }

    fn level(&mut self) -> &mut Level {
        self.levels.last_mut().expect("a walk is in a directory")
    }

    /// The node of the directory that is left.
    fn close_level(&mut self) -> Result<ContentDigest, TreeError> {
        let mut level = self.levels.pop().expect("a walk leaves what it entered");
        level.hash_files()?;
        let node = Node::directory(&mut level.entries);
        let digest = node.digest;
        self.nodes.push(node);
        Ok(digest)
    }
}

/// What an entry is for a digest; `path` is for messages.
fn node_entry(entry: &Entry<'_>, path: &[u8], what: NodeKind) -> Result<NodeEntry, TreeError> {
    // A link's own mode means nothing; some file systems say something else than 0777.
    let mode = if entry.kind() == FileType::Symlink { 0o777 } else { (entry.stat.st_mode & 0o7777) as u16 };
    let xattrs = attrs::xattrs(entry.dir, entry.name).map_err(TreeError::io("read attributes of", path))?;
    Ok(NodeEntry { name: entry.name.to_vec(), mode, owner: (0, 0), attributes: attributes_digest(&xattrs), what })
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(b"", |slash| &path[..slash])
}

impl Sink for Digesting {
    type Error = TreeError;

    fn enter(&mut self, _name: &[u8], path: &[u8], stat: &Stat) -> Result<(), TreeError> {
        // Few files are open, however deep the walk is.
        self.level().hash_files()?;
        self.looks.insert(joined(&self.base, path), look(stat));
        self.levels.push(Level::default());
        Ok(())
    }

    fn leave(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        let digest = self.close_level()?;
        let counted = node_entry(entry, &joined(&self.base, entry.path), NodeKind::Directory(digest))?;
        self.level().entries.push(counted);
        Ok(())
    }

    fn leaf(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        let full = joined(&self.base, entry.path);
        self.looks.insert(full.clone(), look(entry.stat));
        let what = match entry.kind() {
            FileType::RegularFile => {
                let fd = open_file(&Entry { path: &full, ..*entry })?;
                let what = NodeKind::File { bytes: entry.stat.st_size as u64, sha256: [0; 32] };
                let counted = node_entry(entry, &full, what)?;
                self.level().wave.push(OpenFile { path: full, fd, stat: *entry.stat, entry: counted });
                return if self.level().wave.len() >= WAVE_FILES { self.level().hash_files() } else { Ok(()) };
            }
            FileType::Symlink => {
                let target =
                    fs::readlinkat(entry.dir, entry.name, Vec::new()).map_err(TreeError::io("read link", &full))?;
                NodeKind::Link(target.into_bytes())
            }
            // The copy says that it leaves it out.
            FileType::Socket => return Ok(()),
            FileType::Fifo => NodeKind::Fifo,
            FileType::CharacterDevice => NodeKind::CharacterDevice(entry.stat.st_rdev),
            FileType::BlockDevice => NodeKind::BlockDevice(entry.stat.st_rdev),
            FileType::Directory | FileType::Unknown => {
                return Err(TreeError::Unrepresentable { path: shown(&full), reason: "it is of no known kind" });
            }
        };
        let counted = node_entry(entry, &full, what)?;
        self.level().entries.push(counted);
        Ok(())
    }
}

impl Level {
    fn hash_files(&mut self) -> Result<(), TreeError> {
        let hashed: Result<Vec<_>, TreeError> =
            std::mem::take(&mut self.wave).into_par_iter().map(OpenFile::digest).collect();
        self.entries.extend(hashed?);
        Ok(())
    }
}

impl OpenFile {
    fn digest(self) -> Result<NodeEntry, TreeError> {
        let changed = || TreeError::Changed { path: shown(&self.path) };
        let length = self.stat.st_size as u64;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; READ_BYTES.min(length.max(1) as usize)];
        let mut at = 0;
        while at < length {
            let got = data::read_some(self.fd.as_fd(), &mut buffer, at).map_err(TreeError::io("read", &self.path))?;
            if got == 0 {
                return Err(changed());
            }
            hash.update(&buffer[..got]);
            at += got as u64;
        }
        let after = fs::fstat(&self.fd).map_err(TreeError::io("look at", &self.path))?;
        if at != length || !same_moment(&self.stat, &after) {
            return Err(changed());
        }
        Ok(NodeEntry { what: NodeKind::File { bytes: length, sha256: hash.finalize().into() }, ..self.entry })
    }
}
