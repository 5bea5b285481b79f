//! Directories of digested trees: what a digest was made of, so that two digests can be compared name by name.
//!
//! In: the [`NodeEntry`]s of a directory. Out: its bytes, whose SHA-256 is its digest, and later the entries again. A
//! node names the nodes beneath it by their digests, so a tree is known by that of its root and equal directories are
//! kept once. Nodes explain; nothing depends on them, and any of them may be gone. Deliberately absent: how trees are
//! read and which entries count (the executor's `source::digest` and `content`), comparing (its `source::listing`).
//!
//! ```text
//! node      = "rbuild directory 2\n" entry…    sorted by name, no name twice: the entries of one directory
//!           | "rbuild selection 2\n" entry…    in the order of a selection's matches: what a selection is
//! entry     = name: u32 length, bytes | kind: u8 | mode: u16 | uid: u32 | gid: u32 | attributes | what it is
//! attributes= 0u8 | 1u8 SHA-256 of (name: u32 length, bytes | value: u32 length, bytes)… sorted by name
//! kind, what= 'f' size: u64, SHA-256 of the bytes          'l' target: u32 length, bytes
//!           | 'd' digest of its node                       'c', 'b' device number: u64
//!           | '*' the same: the contents of a directory    'p' nothing
//! ```
//! Numbers are little-endian. A link's mode is always 0777. Entries of a build context belong to 0:0.

use rusqlite::OptionalExtension;
use sha2::{Digest as _, Sha256};
use solver::key::ContentDigest;

use crate::{Store, StoreError};

/// First bytes of a directory's node: another form of it has another version.
const DIRECTORY: &[u8] = b"rbuild directory 2\n";
/// First bytes of a selection's node.
const SELECTION: &[u8] = b"rbuild selection 2\n";
/// Some hundred thousand names. A larger directory is digested like any other, but its node is not kept.
pub const NODE_MAX_BYTES: usize = 16 << 20;

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    /// Its name, any bytes.
    pub name: Vec<u8>,
    /// Permission bits, sticky and set-id bits included.
    pub mode: u16,
    /// User and group.
    pub owner: (u32, u32),
    /// Digest of its extended attributes, see [`attributes_digest`]; `None` when it has none.
    pub attributes: Option<[u8; 32]>,
    /// What it is.
    pub what: NodeKind,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A regular file.
    File {
        /// Its length.
        bytes: u64,
        /// SHA-256 of its bytes.
        sha256: [u8; 32],
    },
    /// A directory, by the digest of its node.
    Directory(ContentDigest),
    /// The contents of a directory that itself does not count: it has no name, and mode and owner are 0.
    Contents(ContentDigest),
    /// A symbolic link with its target.
    Link(Vec<u8>),
    /// A character device.
    CharacterDevice(u64),
    /// A block device.
    BlockDevice(u64),
    /// A named pipe.
    Fifo,
}

/// A node: its digest and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// SHA-256 of the bytes.
    pub digest: ContentDigest,
    /// As drawn above.
    pub body: Vec<u8>,
}

impl Node {
    /// The node of a directory; its entries come sorted by name.
    pub fn directory<'a>(entries: impl Iterator<Item = &'a NodeEntry> + Clone) -> Self {
        debug_assert!(entries.clone().is_sorted_by(|one, next| one.name < next.name), "sorted, no name twice");
        Self::of(DIRECTORY, entries)
    }

    /// The same of entries that are written already, each as [`NodeEntry::write`] does it.
    pub fn of_directory<'a>(entries: impl Iterator<Item = &'a [u8]> + Clone) -> Self {
        let bytes: usize = entries.clone().map(<[u8]>::len).sum();
        let mut body = Vec::with_capacity(DIRECTORY.len() + bytes);
        body.extend_from_slice(DIRECTORY);
        entries.for_each(|entry| body.extend_from_slice(entry));
        Self { digest: ContentDigest(Sha256::digest(&body).into()), body }
    }

    /// The digest of that node, which is not made.
    pub fn digest_of_directory<'a>(entries: impl Iterator<Item = &'a [u8]>) -> ContentDigest {
        let mut hash = Sha256::new_with_prefix(DIRECTORY);
        entries.for_each(|entry| hash.update(entry));
        ContentDigest(hash.finalize().into())
    }

    /// The node of a selection: its matches in their order.
    pub fn selection(matches: &[NodeEntry]) -> Self {
        Self::of(SELECTION, matches.iter())
    }

    fn of<'a>(form: &[u8], entries: impl Iterator<Item = &'a NodeEntry> + Clone) -> Self {
        /// What an entry usually takes beside its name.
        const ENTRY_BYTES: usize = 64;
        let bytes: usize = entries.clone().map(|entry| entry.name.len() + ENTRY_BYTES).sum();
        let mut body = Vec::with_capacity(form.len() + bytes);
        body.extend_from_slice(form);
        for entry in entries {
            entry.write(&mut body);
        }
        Self { digest: ContentDigest(Sha256::digest(&body).into()), body }
    }

    /// The entries of a node; `None` for bytes that are no node of this form.
    pub fn entries(body: &[u8]) -> Option<Vec<NodeEntry>> {
        let rest = body.strip_prefix(DIRECTORY).or_else(|| body.strip_prefix(SELECTION))?;
        let mut rest = rest;
        let mut entries = Vec::new();
        while !rest.is_empty() {
            entries.push(NodeEntry::read(&mut rest)?);
        }
        Some(entries)
    }

    /// The nodes that a node names.
    pub fn children(body: &[u8]) -> Vec<ContentDigest> {
        let entries = Self::entries(body).unwrap_or_default();
        entries.iter().filter_map(|entry| entry.what.node()).collect()
    }
}

/// Digest of extended attributes, which come sorted by name; `None` when there are none.
pub fn attributes_digest<'a>(attributes: impl IntoIterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>) -> Option<[u8; 32]> {
    let mut hash = None;
    for (name, value) in attributes {
        let hash = hash.get_or_insert_with(Sha256::new);
        for field in [name, value] {
            hash.update(length(field));
            hash.update(field);
        }
    }
    hash.map(|hash| hash.finalize().into())
}

/// The kernel's names, values and targets are far shorter than 4 GiB.
fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).expect("what the kernel gives is shorter than 4 GiB").to_le_bytes()
}

impl NodeKind {
    /// The node beneath it.
    pub fn node(&self) -> Option<ContentDigest> {
        match self {
            Self::Directory(digest) | Self::Contents(digest) => Some(*digest),
            _ => None,
        }
    }

    fn letter(&self) -> u8 {
        match self {
            Self::File { .. } => b'f',
            Self::Directory(_) => b'd',
            Self::Contents(_) => b'*',
            Self::Link(_) => b'l',
            Self::CharacterDevice(_) => b'c',
            Self::BlockDevice(_) => b'b',
            Self::Fifo => b'p',
        }
    }
}

impl NodeEntry {
    /// The contents of a directory.
    pub fn contents(digest: ContentDigest) -> Self {
        Self { name: Vec::new(), mode: 0, owner: (0, 0), attributes: None, what: NodeKind::Contents(digest) }
    }

    /// How long it is, if it is a file; nothing else has bytes.
    pub fn file_bytes(&self) -> u64 {
        if let NodeKind::File { bytes, .. } = self.what { bytes } else { 0 }
    }

    /// Adds it to the bytes of a node.
    pub fn write(&self, body: &mut Vec<u8>) {
        body.extend_from_slice(&length(&self.name));
        body.extend_from_slice(&self.name);
        body.push(self.what.letter());
        body.extend_from_slice(&self.mode.to_le_bytes());
        body.extend_from_slice(&self.owner.0.to_le_bytes());
        body.extend_from_slice(&self.owner.1.to_le_bytes());
        match &self.attributes {
            None => body.push(0),
            Some(digest) => {
                body.push(1);
                body.extend_from_slice(digest);
            }
        }
        match &self.what {
            NodeKind::File { bytes, sha256 } => {
                body.extend_from_slice(&bytes.to_le_bytes());
                body.extend_from_slice(sha256);
            }
            NodeKind::Directory(digest) | NodeKind::Contents(digest) => body.extend_from_slice(&digest.0),
            NodeKind::Link(target) => {
                body.extend_from_slice(&length(target));
                body.extend_from_slice(target);
            }
            NodeKind::CharacterDevice(number) | NodeKind::BlockDevice(number) => {
                body.extend_from_slice(&number.to_le_bytes());
            }
            NodeKind::Fifo => {}
        }
    }

    /// Takes one from the beginning of `bytes`; `None` when none is there.
    pub fn read(bytes: &mut &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let entry = reader.entry()?;
        *bytes = reader.0;
        Some(entry)
    }
}

impl NodeEntry {
    /// Takes the bytes of one from the beginning of `bytes`, as they are; `None` when none is there.
    pub fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
        let mut reader = Reader(bytes);
        reader.skip()?;
        let (taken, rest) = bytes.split_at(bytes.len() - reader.0.len());
        *bytes = rest;
        Some(taken)
    }

    /// The name in the bytes of one, which may be followed by others.
    ///
    /// # Panics
    /// On what [`NodeEntry::take`] would not take.
    pub fn name_of(entry: &[u8]) -> &[u8] {
        Reader(entry).text().expect("the bytes of an entry")
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_le_bytes(self.array()?);
        self.take(usize::try_from(length).ok()?)
    }

    /// What [`Self::entry`] reads, and nothing is made of it.
    fn skip(&mut self) -> Option<()> {
        /// Mode and owner.
        const LOOK_BYTES: usize = 2 + 4 + 4;
        self.text()?;
        let [letter] = self.array()?;
        self.take(LOOK_BYTES)?;
        match self.array()? {
            [0] => {}
            [1] => _ = self.take(32)?,
            _ => return None,
        }
        let bytes = match letter {
            b'f' => 8 + 32,
            b'd' | b'*' => 32,
            b'l' => return self.text().map(drop),
            b'c' | b'b' => 8,
            b'p' => 0,
            _ => return None,
        };
        self.take(bytes).map(drop)
    }

    fn entry(&mut self) -> Option<NodeEntry> {
        let name = self.text()?.to_vec();
        let [letter] = self.array()?;
        let mode = u16::from_le_bytes(self.array()?);
        let owner = (u32::from_le_bytes(self.array()?), u32::from_le_bytes(self.array()?));
        let attributes = match self.array()? {
            [0] => None,
            [1] => Some(self.array()?),
            _ => return None,
        };
        let what = match letter {
            b'f' => NodeKind::File { bytes: u64::from_le_bytes(self.array()?), sha256: self.array()? },
            b'd' => NodeKind::Directory(ContentDigest(self.array()?)),
            b'*' => NodeKind::Contents(ContentDigest(self.array()?)),
            b'l' => NodeKind::Link(self.text()?.to_vec()),
            b'c' => NodeKind::CharacterDevice(u64::from_le_bytes(self.array()?)),
            b'b' => NodeKind::BlockDevice(u64::from_le_bytes(self.array()?)),
            b'p' => NodeKind::Fifo,
            _ => return None,
        };
        Some(NodeEntry { name, mode, owner, attributes, what })
    }
}

impl Store {
    /// Keeps the nodes of a tree. Nothing is made or written when `root` is known; otherwise what is new, at once. `nodes`
    /// are asked for one by one; of those that are too large ([`NODE_MAX_BYTES`]) none is kept.
    pub fn keep_nodes(&self, root: &ContentDigest, nodes: impl Iterator<Item = Node>) -> Result<(), StoreError> {
        let is_known = self.index().read("find a directory's node", |connection| {
            let mut query = connection.prepare_cached("SELECT 1 FROM nodes WHERE digest = ?1")?;
            Ok(query.query_row([&root.0], |_| Ok(())).optional()?.is_some())
        })?;
        if is_known {
            return Ok(());
        }
        self.index().transaction("keep directories' nodes", |transaction| {
            let mut insert = transaction.prepare_cached(
                "INSERT OR IGNORE INTO nodes (digest, body, used_tick) VALUES (?1, ?2, (SELECT tick FROM state))",
            )?;
            for node in nodes {
                if node.body.len() > NODE_MAX_BYTES {
                    tracing::debug!(digest = %node.digest, bytes = node.body.len(), "too large a directory to be explained");
                } else {
                    insert.execute((&node.digest.0, &node.body))?;
                }
            }
            Ok(())
        })
    }

    /// The entries of a directory by the digest of its node. `None`: not known, or damaged.
    pub fn node(&self, digest: &ContentDigest) -> Result<Option<Vec<NodeEntry>>, StoreError> {
        let body: Option<Vec<u8>> = self.index().read("find a directory's node", |connection| {
            let mut query = connection.prepare_cached("SELECT body FROM nodes WHERE digest = ?1")?;
            Ok(query.query_row([&digest.0], |row| row.get(0)).optional()?)
        })?;
        let Some(body) = body else { return Ok(None) };
        let found = (<[u8; 32]>::from(Sha256::digest(&body)) == digest.0).then(|| Node::entries(&body)).flatten();
        if found.is_none() {
            tracing::debug!(%digest, "a damaged node");
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, what: NodeKind) -> NodeEntry {
        NodeEntry { name: name.into(), mode: 0o644, owner: (0, 7), attributes: None, what }
    }

    fn all_kinds() -> Vec<NodeEntry> {
        let digest = ContentDigest([7; 32]);
        let mut entries = vec![
            entry("f", NodeKind::File { bytes: 5, sha256: [1; 32] }),
            entry("d", NodeKind::Directory(digest)),
            entry("l", NodeKind::Link(b"../\xff".to_vec())),
            entry("c", NodeKind::CharacterDevice(259)),
            entry("b", NodeKind::BlockDevice(1)),
            entry("pé", NodeKind::Fifo),
            NodeEntry::contents(digest),
        ];
        entries[0].attributes = Some([2; 32]);
        entries[0].mode = 0o7777;
        entries
    }

    #[test]
    fn a_node_gives_back_its_entries_and_no_prefix_of_it_is_one_of_a_whole_entry_less() {
        let entries = all_kinds();
        let node = Node::selection(&entries);
        assert_eq!(Node::entries(&node.body).unwrap(), entries);
        // Taken as they are, they are the same.
        let mut rest = node.body.strip_prefix(SELECTION).unwrap();
        for entry in &entries {
            let taken = NodeEntry::take(&mut rest).unwrap();
            assert_eq!(
                (NodeEntry::read(&mut { taken }).as_ref(), NodeEntry::name_of(taken)),
                (Some(entry), &entry.name[..])
            );
            for end in 0..taken.len() {
                assert_eq!(NodeEntry::take(&mut &taken[..end]), None, "{end}");
            }
        }
        assert!(rest.is_empty());
        assert_eq!(Node::children(&node.body), [ContentDigest([7; 32]); 2]);
        // Cut anywhere, it is another node or none, and never panics.
        for end in 0..node.body.len() {
            assert_ne!(Node::entries(&node.body[..end]), Some(entries.clone()), "{end}");
        }
        for at in 0..node.body.len() {
            let mut other = node.body.clone();
            other[at] ^= 0x80;
            assert_ne!(Node::entries(&other), Some(entries.clone()), "{at}");
        }
    }

    #[test]
    fn nodes_are_kept_once_and_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let mut sorted = all_kinds();
        sorted.sort_by(|one, other| one.name.cmp(&other.name));
        let below = Node::directory(sorted.iter());
        let root = Node::selection(&[NodeEntry::contents(below.digest)]);
        assert_eq!(store.node(&root.digest).unwrap(), None);
        store.keep_nodes(&root.digest, [below.clone(), root.clone()].into_iter()).unwrap();
        store.keep_nodes(&root.digest, std::iter::from_fn(|| panic!("it is known"))).unwrap();
        assert_eq!(store.node(&root.digest).unwrap().unwrap(), [NodeEntry::contents(below.digest)]);
        assert_eq!(store.node(&below.digest).unwrap().unwrap().len(), 7);
        let damage = "UPDATE nodes SET body = x'00' WHERE digest = ?1";
        store.index().transaction("damage", |t| Ok(t.execute(damage, [&below.digest.0])?)).unwrap();
        assert_eq!(store.node(&below.digest).unwrap(), None);
    }

    #[test]
    fn attributes_are_told_apart_by_name_and_value() {
        let digest = |list: &[(&str, &str)]| {
            let list: Vec<(Vec<u8>, Vec<u8>)> = list.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
            attributes_digest(list.iter().map(|(name, value)| (name, value)))
        };
        assert_eq!(digest(&[]), None);
        let all =
            [digest(&[("a", "b")]), digest(&[("ab", "")]), digest(&[("", "ab")]), digest(&[("a", "b"), ("", "")])];
        for (i, one) in all.iter().enumerate() {
            assert!(one.is_some() && !all[i + 1..].contains(one));
        }
    }
}
