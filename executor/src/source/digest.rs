//! The digest of what an operation reads of the build context.
//!
//! In: the matches of a selection, and what is remembered of the context. Out: one digest, the [`Node`]s that explain
//! it, and what everything looked like ([`looks`]). A digest covers names, types, modes, link targets, extended attributes and
//! bytes; every entry counts as owned by 0:0, and times never count. Which names share a file does not count either, and
//! such names become files of their own in a copy, so that equal digests give equal copies. FIFOs and devices are never
//! opened; sockets are left out.
//!
//! A digest is the root of a tree of directories, drawn in [`store::Node`]: that of a selection names its matches in
//! their order, because of two that give the same name a copy keeps the later.
//!
//! Next: `walk` (directories, on all cores), `read` (one entry), [`super::stat_cache`] (what is remembered),
//! [`super::look`] (when that is believed).

mod looks;
mod read;
mod walk;

pub(crate) use looks::{Looks, Met, Seen};

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rayon::prelude::*;
use rustix::fs::FileType;
use solver::key::ContentDigest;
use solver::seam::Selection;
use store::{NODE_MAX_BYTES, Node, NodeEntry, NodeKind};

use self::read::{Looked, read};
use self::walk::{Found, Walk};
use super::counted::{Counted, Entries};
use super::look::{Look, Moment, is_trusted};
use super::stat_cache::{Directory, StatCache};
use crate::select::tree::{Filter, Match};
use crate::tree::{Root, TreeError};

/// What became of a selection.
pub(crate) struct Digested {
    /// The digest of all that was selected.
    pub digest: ContentDigest,
    /// What was there; `None` if that digest was made before in this build.
    listing: Option<Arc<Listing>>,
    /// How many entries had to be read.
    pub read: usize,
    /// How many bytes of files that were.
    pub read_bytes: u64,
    /// How many entries were looked at.
    pub looked: usize,
}

impl Digested {
    /// One that was made before in this build.
    pub fn known(digest: ContentDigest) -> Self {
        Self { digest, listing: None, read: 0, read_bytes: 0, looked: 0 }
    }

    /// The nodes beneath the digest, its own first, each made when it is asked for. None, if that digest was made before
    /// in this build; those of directories that are too large to be kept are left out.
    pub fn nodes(&self) -> impl Iterator<Item = Node> + '_ {
        self.listing.iter().flat_map(|listing| {
            let whole = listing.directories.iter().filter(|directory| directory.digest.is_some());
            let kept = whole.filter(|directory| directory.entries.bytes() <= NODE_MAX_BYTES);
            std::iter::once(listing.root.clone()).chain(kept.map(|directory| directory.entries.node()))
        })
    }
}

/// What was there when a selection was digested.
#[derive(Debug)]
pub(super) struct Listing {
    /// The node of the selection.
    root: Node,
    /// All directories of which anything was counted.
    pub directories: Vec<Directory>,
    /// Paths of the matched directories that count themselves.
    matched_paths: Vec<Vec<u8>>,
    /// The same, in their order.
    matched: Entries,
}

impl Listing {
    /// The digest of the selection.
    pub fn digest(&self) -> ContentDigest {
        self.root.digest
    }
}

/// What it takes to digest a selection.
#[derive(Clone, Copy)]
pub(super) struct Digesting<'a> {
    /// Where it is selected.
    pub root: &'a Root,
    /// What the selection leaves of what its path leads to.
    pub filter: &'a Filter<'a>,
    /// What is remembered.
    pub cache: &'a StatCache,
    /// Taken before anything was looked at.
    pub moment: Moment,
    /// Whether to stop; asked often, from many threads.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

impl Digesting<'_> {
    /// Digests the matches of a selection.
    pub fn digest(self, found: &[Match], selection: &Selection) -> Result<(Digested, Arc<Listing>), TreeError> {
        // Links may lead several matches to one place.
        let mut places = HashSet::new();
        let dirs = found.iter().filter(|one| one.place.is_dir() && places.insert(one.place.path.as_slice()));
        let matched: Vec<&[u8]> = dirs.map(|one| one.place.path.as_slice()).collect();
        let (digests, mut beneath) = Walk::new(self).count(&matched)?;
        let digests: HashMap<&[u8], ContentDigest> = matched.iter().copied().zip(digests).collect();
        let leaves = self.leaves(found, &mut beneath)?;
        let (mut matches, mut matched_paths, mut matched_entries) = (Vec::new(), Vec::new(), Entries::default());
        for one in found {
            let Some(stat) = &one.place.stat else { continue };
            let path = one.place.path.as_slice();
            if !one.place.is_dir() {
                if self.filter.takes_leaf(&one.base, path)
                    && let Some(entry) = leaves.get(path)
                {
                    matches.push(NodeEntry { name: one.base.clone(), ..entry.clone() });
                }
                continue;
            }
            let digest = digests[path];
            matches.push(match selection.dir_contents_only {
                true => NodeEntry::contents(digest),
                false => {
                    let place = self.root.reopen(&one.place)?;
                    let itself = Looked { dir: place.dir.as_fd(), name: &place.name, path: &place.path, stat };
                    let entry = read(&itself, Some(NodeKind::Directory(digest)), self.stop)?;
                    let counted = Counted { entry, look: Look::of(stat), certain: false };
                    matched_entries.push(&counted);
                    matched_paths.push(place.path);
                    NodeEntry { name: one.base.clone(), ..counted.entry }
                }
            });
        }
        let root = Node::selection(&matches);
        let Found { directories, read, read_bytes } = beneath;
        let looked = directories.iter().map(|directory| directory.entries.len()).sum::<usize>() + matched_paths.len();
        let digest = root.digest;
        let listing = Arc::new(Listing { root, directories, matched_paths, matched: matched_entries });
        Ok((Digested { digest, listing: Some(listing.clone()), read, read_bytes, looked }, listing))
    }

    /// What is at the paths of matches that are meant and no directories, sockets left out.
    fn leaves<'m>(self, found: &'m [Match], beneath: &mut Found) -> Result<HashMap<&'m [u8], NodeEntry>, TreeError> {
        let mut places = HashSet::new();
        let is_meant = |one: &&Match| {
            let place = &one.place;
            place.stat.is_some() && !place.is_dir() && self.filter.takes_leaf(&one.base, &place.path)
        };
        let leaves: Vec<&Match> =
            found.iter().filter(is_meant).filter(|one| places.insert(one.place.path.as_slice())).collect();
        let mut recalled: HashMap<&[u8], Arc<Entries>> = HashMap::new();
        for one in &leaves {
            let above = parent(&one.place.path);
            recalled.entry(above).or_insert_with(|| self.cache.recall(above));
        }
        let counted: Result<Vec<_>, TreeError> =
            leaves.par_iter().map(|one| self.leaf(one, &recalled[parent(&one.place.path)])).collect();
        let mut by_directory: HashMap<&[u8], (Directory, Entries)> = HashMap::new();
        let mut entries = HashMap::new();
        for (one, leaf) in leaves.iter().zip(counted?) {
            let place = &one.place;
            let above = parent(&place.path);
            let unlisted = || (Directory::unlisted(above), Entries::default());
            let (directory, inside) = by_directory.entry(above).or_insert_with(unlisted);
            match leaf {
                Leaf::Socket(look) => directory.sockets.push((place.name.clone(), look)),
                Leaf::Counted(counted, is_new) => {
                    beneath.read_bytes += if is_new { counted.entry.file_bytes() } else { 0 };
                    inside.push(&counted);
                    entries.insert(place.path.as_slice(), counted.entry);
                    directory.is_new |= is_new;
                    beneath.read += usize::from(is_new);
                }
            }
        }
        beneath.directories.extend(by_directory.into_values().map(|(directory, mut inside)| {
            inside.sort();
            Directory { entries: Arc::new(inside), ..directory }
        }));
        Ok(entries)
    }

    fn leaf(self, one: &Match, recalled: &Entries) -> Result<Leaf, TreeError> {
        if (self.stop)() {
            return Err(TreeError::Stopped);
        }
        let place = &one.place;
        let stat = place.stat.as_ref().expect("only what is there is counted");
        let look = Look::of(stat);
        if FileType::from_raw_mode(stat.st_mode) == FileType::Socket {
            return Ok(Leaf::Socket(look));
        }
        let known = recalled.find(&place.name).map(|number| recalled.get(number));
        if let Some(known) = known.filter(|known| known.look() == look) {
            return Ok(Leaf::Counted(Counted { entry: known.entry(), look, certain: known.certain() }, false));
        }
        let dir = self.root.reopen(place)?.dir;
        let looked = Looked { dir: dir.as_fd(), name: &place.name, path: &place.path, stat };
        let entry = read(&looked, None, self.stop)?;
        let certain = is_trusted_in(&dir, &look) && self.moment.is_after(&look);
        Ok(Leaf::Counted(Counted { entry, look, certain }, true))
    }
}

/// Whether the file system that a match is on is to be believed: that of the directory it is in.
fn is_trusted_in(dir: &OwnedFd, look: &Look) -> bool {
    let above = rustix::fs::fstat(dir);
    above.is_ok_and(|above| Look::of(&above).same_device(look)) && is_trusted(dir)
}

/// A match that is no directory.
enum Leaf {
    /// And whether it was read.
    Counted(Counted, bool),
    Socket(Look),
}

impl Directory {
    /// A directory that nobody looked into as a whole.
    fn unlisted(path: &[u8]) -> Self {
        let path = path.to_vec();
        Self { path, entries: Arc::default(), digest: None, sockets: Vec::new(), others: None, is_new: false }
    }
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(b"", |slash| &path[..slash])
}
