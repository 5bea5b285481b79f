//! What differs between two selections that were digested: a walk down two trees of [`store::Node`]s at once.
//!
//! In: two digests of selections. Out: the paths that differ and how, in the order of their names. Only directories
//! that differ are looked into, so the work is bounded by the answer. Paths begin at what the selection matched: at the
//! directory whose contents were selected, or with the name of the match. Deliberately absent: bytes of files, times.

use std::collections::BTreeMap;

use solver::key::ContentDigest;
use store::{NodeEntry, NodeKind, Store, StoreError};

use crate::tree::{joined, shown};

/// A path that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The path, for people: what is not printable is escaped; a directory's ends in `/`.
    pub path: String,
    /// How it differs.
    pub kind: ChangeKind,
}

/// How a path differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new, with everything beneath it.
    Added,
    /// It is gone, with everything beneath it.
    Removed,
    /// It was there before, otherwise.
    Changed(What),
}

/// What is other than it was. An entry that differs in several is told with the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The kind of thing: `file`, `directory`, ….
    Kind {
        /// What it was.
        old: &'static str,
        /// What it is.
        new: &'static str,
    },
    /// A file's bytes, by their SHA-256.
    Content {
        /// What they were.
        old: [u8; 32],
        /// What they are.
        new: [u8; 32],
    },
    /// A link's target.
    Link {
        /// Where it led.
        old: String,
        /// Where it leads.
        new: String,
    },
    /// A device's number.
    Device,
    /// Permission bits.
    Mode {
        /// What they were.
        old: u16,
        /// What they are.
        new: u16,
    },
    /// User and group.
    Owner {
        /// Whose it was.
        old: (u32, u32),
        /// Whose it is.
        new: (u32, u32),
    },
    /// Extended attributes.
    Attributes,
    /// Something beneath a directory of which no more is known.
    Beneath,
}

/// What differs between the selections `old` and `new`, `most` changes at most. `None` when one of them is not known.
///
/// # Errors
/// When the store cannot be read.
pub fn compare(
    store: &Store,
    old: ContentDigest,
    new: ContentDigest,
    most: usize,
) -> Result<Option<Vec<Change>>, StoreError> {
    let (Some(old), Some(new)) = (store.node(&old)?, store.node(&new)?) else { return Ok(None) };
    let mut changes = Vec::new();
    // What is still to be looked at, the next last.
    let mut pairs = Vec::new();
    push(&mut pairs, b"", old, new);
    while let Some((path, old, new)) = pairs.pop() {
        if changes.len() >= most {
            break;
        }
        let (old, new) = match (old, new) {
            (Some(old), Some(new)) => (old, new),
            (old, new) => {
                let there = old.as_ref().or(new.as_ref()).expect("a pair holds at least one");
                let kind = if old.is_some() { ChangeKind::Removed } else { ChangeKind::Added };
                changes.push(Change { path: display(&path, there), kind });
                continue;
            }
        };
        let told = own_change(&old, &new);
        changes.extend(told.map(|what| Change { path: display(&path, &new), kind: ChangeKind::Changed(what) }));
        if let (Some(before), Some(after)) = (old.what.node(), new.what.node())
            && before != after
        {
            match (store.node(&before)?, store.node(&after)?) {
                (Some(old), Some(new)) => push(&mut pairs, &path, old, new),
                _ => {
                    let kind = ChangeKind::Changed(What::Beneath);
                    changes.push(Change { path: display(&path, &new), kind });
                }
            }
        }
    }
    changes.truncate(most);
    Ok(Some(changes))
}

/// An entry before and after.
type Pair = (Vec<u8>, Option<NodeEntry>, Option<NodeEntry>);

/// Pairs the entries of two directories by name, those that are equal left out. Of several matches of one name, the
/// first belongs to the first.
fn push(pairs: &mut Vec<Pair>, above: &[u8], old: Vec<NodeEntry>, new: Vec<NodeEntry>) {
    type BeforeAndAfter = (Option<NodeEntry>, Option<NodeEntry>);
    let mut named: BTreeMap<(Vec<u8>, usize), BeforeAndAfter> = BTreeMap::new();
    for (entries, is_new) in [(old, false), (new, true)] {
        let mut last: Option<(Vec<u8>, usize)> = None;
        for entry in entries {
            let ordinal = match &last {
                Some((name, ordinal)) if *name == entry.name => ordinal + 1,
                _ => 0,
            };
            last = Some((entry.name.clone(), ordinal));
            let slot = named.entry((entry.name.clone(), ordinal)).or_default();
            *(if is_new { &mut slot.1 } else { &mut slot.0 }) = Some(entry);
        }
    }
    let differing = named.into_iter().rev().filter(|(_, (old, new))| old != new);
    pairs.extend(differing.map(|((name, _), (old, new))| (joined(above, &name), old, new)));
}

fn display(path: &[u8], entry: &NodeEntry) -> String {
    match (entry.what.node().is_some(), path.is_empty()) {
        (true, false) => format!("{}/", shown(path)),
        _ => shown(path),
    }
}

/// What an entry itself has become, the content of a directory aside.
fn own_change(old: &NodeEntry, new: &NodeEntry) -> Option<What> {
    let of_what = match (&old.what, &new.what) {
        (NodeKind::File { sha256: old, .. }, NodeKind::File { sha256: new, .. }) => {
            (old != new).then_some(What::Content { old: *old, new: *new })
        }
        (NodeKind::Link(old), NodeKind::Link(new)) => {
            (old != new).then(|| What::Link { old: shown(old), new: shown(new) })
        }
        (NodeKind::CharacterDevice(old), NodeKind::CharacterDevice(new))
        | (NodeKind::BlockDevice(old), NodeKind::BlockDevice(new)) => (old != new).then_some(What::Device),
        (old, new) => {
            let (old, new) = (kind(old), kind(new));
            (old != new).then_some(What::Kind { old, new })
        }
    };
    of_what
        .or_else(|| (old.owner != new.owner).then_some(What::Owner { old: old.owner, new: new.owner }))
        .or_else(|| (old.mode != new.mode).then_some(What::Mode { old: old.mode, new: new.mode }))
        .or_else(|| (old.attributes != new.attributes).then_some(What::Attributes))
}

fn kind(what: &NodeKind) -> &'static str {
    match what {
        NodeKind::File { .. } => "file",
        NodeKind::Directory(_) => "directory",
        NodeKind::Contents(_) => "contents of a directory",
        NodeKind::Link(_) => "link",
        NodeKind::CharacterDevice(_) => "character device",
        NodeKind::BlockDevice(_) => "block device",
        NodeKind::Fifo => "FIFO",
    }
}

#[cfg(test)]
mod tests;
