//! What makes two runs the same: the keys of a vertex.
//!
//! The **definition key** covers the operation and the definition keys of its inputs, so it is known before anything
//! runs. Sources come in by their [`Pin`]; a source that is [`Pin::Selected`] has no key, what its readers select from
//! it stands in theirs instead.
//!
//! The **content key** covers the operation and the content of exactly what it reads of its inputs, see [`reads`]. It
//! is known once they are there, and says the same however they came about: after a step that ran again and made
//! what it made before, or on a base that moved without changing.

use std::collections::HashSet;

use crate::canon::{self, Part, Parts, Sink as _};
use crate::graph::Vertex;
use crate::op::{ContentCache, CopyAction, FileActionKind, MountKind, Op};
use crate::seam::{Pin, Read, Selection};

/// A cache key: SHA-256 over everything that decides a result.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub [u8; 32]);

/// SHA-256 over content: of files, of a tree, of a manifest. How it is computed is its maker's business; equal
/// digests mean equal content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentDigest(pub [u8; 32]);

macro_rules! shown_as_hex {
    ($name:ident) => {
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&canon::hex(&self.0))
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), &canon::hex(&self.0)[..12])
            }
        }
    };
}
shown_as_hex!(Key);
shown_as_hex!(ContentDigest);

/// What one input contributes to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputKey {
    /// The key of the vertex beneath, and which of its outputs.
    Key(Key, u32),
    /// The content that is selected from a source without a key, in the order of [`selections`].
    Selected(Vec<ContentDigest>),
}

/// The key of a source that is exactly `pin`, with its parts. `None` for a source without a key.
pub fn source_key(vertex: &Vertex, pin: &Pin) -> Option<(Key, Vec<Part>)> {
    let (Op::Source(source), Pin::Content(digest)) = (&vertex.op, pin) else { return None };
    let mut parts = Parts::new();
    // The name by which it was asked for is not identity: the same image under another tag is the same image.
    parts.push("source.scheme", source.scheme());
    parts.push("source.content", digest);
    if let Some(platform) = &vertex.platform {
        canon::platform_parts(platform, &mut parts);
    }
    Some((Key(parts.digest("source key")), parts.into_vec()))
}

/// What the digest of an operation begins with.
const OPERATION: &str = "operation key";

/// The key of a vertex's operation alone, whatever its inputs are.
pub fn operation_key(vertex: &Vertex) -> Key {
    let mut hashing = canon::Hashing::new(OPERATION);
    canon::key_parts(&vertex.op, vertex.platform.as_ref(), &mut hashing);
    Key(hashing.digest())
}

/// The definition key of a vertex, with its parts; `inputs` in the order of the vertex's edges.
pub fn definition_key(vertex: &Vertex, inputs: &[InputKey]) -> (Key, Vec<Part>) {
    let made = Definition::of(vertex, inputs);
    (made.key, made.parts)
}

/// A definition key and what it is made of.
pub(crate) struct Definition {
    pub key: Key,
    /// As [`operation_key`] gives it.
    pub operation: Key,
    pub parts: Vec<Part>,
}

impl Definition {
    /// Writes the operation once, for both keys and the parts.
    pub fn of(vertex: &Vertex, inputs: &[InputKey]) -> Self {
        let mut parts = Parts::new();
        canon::key_parts(&vertex.op, vertex.platform.as_ref(), &mut parts);
        let operation = Key(parts.digest(OPERATION));
        let mut hashing = covering(&operation, "definition key");
        definition_parts(inputs, &mut hashing);
        definition_parts(inputs, &mut parts);
        Self { key: Key(hashing.digest()), operation, parts: parts.into_vec() }
    }
}

/// A digest begins with the operation's: it is hashed once, however many keys it is part of.
fn covering(operation: &Key, domain: &str) -> canon::Hashing {
    let mut hashing = canon::Hashing::new(domain);
    hashing.push("operation", operation);
    hashing
}

/// Names of parts about inputs begin so, and no others.
const INPUT: &str = "input[";

fn definition_parts(inputs: &[InputKey], parts: &mut impl canon::Sink) {
    for (i, input) in inputs.iter().enumerate() {
        match input {
            InputKey::Key(key, output) => parts.push(format_args!("{INPUT}{i}]"), format_args!("{key} {output}")),
            InputKey::Selected(digests) => digest_parts(i, "selected", digests, parts),
        }
    }
}

fn digest_parts(input: usize, word: &str, digests: &[ContentDigest], parts: &mut impl canon::Sink) {
    parts.push(format_args!("{INPUT}{input}].{word}"), digests.len());
    for (j, digest) in digests.iter().enumerate() {
        parts.push(format_args!("{INPUT}{input}].{word}[{j}]"), digest);
    }
}

/// What one input contributes to a content key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputContent {
    /// The content of what is read of a result, in the order of [`reads`].
    Read(Vec<ContentDigest>),
    /// As in the definition key: what is selected from a source without a key, in the order of [`selections`].
    Selected(Vec<ContentDigest>),
}

/// The content key of a vertex, with its parts; `inputs` in the order of the vertex's edges.
pub fn content_key(vertex: &Vertex, inputs: &[InputContent]) -> (Key, Vec<Part>) {
    let definition = Definition::of(vertex, &[]);
    (content_key_of(&definition.operation, inputs), parts_of_content_key(&definition.parts, inputs))
}

/// The parts alone, of a vertex whose definition key has these.
pub(crate) fn parts_of_content_key(definition: &[Part], inputs: &[InputContent]) -> Vec<Part> {
    let mut own = Parts::new();
    content_parts(inputs, &mut own);
    let is_operation = |part: &&Part| !part.name.starts_with(INPUT);
    let mut parts: Vec<Part> = definition.iter().take_while(is_operation).cloned().collect();
    parts.extend(own.into_vec());
    parts
}

/// The key alone, of a vertex whose [`operation_key`] is known.
pub(crate) fn content_key_of(operation: &Key, inputs: &[InputContent]) -> Key {
    let mut hashing = covering(operation, "content key");
    content_parts(inputs, &mut hashing);
    Key(hashing.digest())
}

fn content_parts(inputs: &[InputContent], parts: &mut impl canon::Sink) {
    for (i, input) in inputs.iter().enumerate() {
        // Two words, as directories of the user and trees of results are digested in two ways.
        match input {
            InputContent::Read(digests) => digest_parts(i, "content", digests, parts),
            InputContent::Selected(digests) => digest_parts(i, "selected", digests, parts),
        }
    }
}

/// What a vertex reads of its input `index`; see [`all_reads`].
pub fn reads(vertex: &Vertex, index: usize) -> Vec<Read> {
    all_reads(vertex).swap_remove(index)
}

/// What a vertex reads of each of its inputs, each thing once: all of a tree that its result stands on, and of others
/// exactly what it selects.
pub fn all_reads(vertex: &Vertex) -> Vec<Vec<Read>> {
    let mut reads = Reads { of: vec![Vec::new(); vertex.inputs.len()], seen: HashSet::new() };
    match &vertex.op {
        Op::Source(_) => {}
        Op::Merge(_) | Op::Diff(_) | Op::Build(_) => (0..vertex.inputs.len()).for_each(|i| reads.add(i, Read::Chain)),
        Op::File(file) => {
            for action in &file.actions {
                action.input.into_iter().for_each(|i| reads.add(i, Read::Chain));
                if let (Some(i), FileActionKind::Copy(copy)) = (action.secondary_input, &action.kind) {
                    reads.add(i, Read::Selected(copied(copy)));
                }
                action.names_from().into_iter().for_each(|i| reads.add(i, Read::Chain));
            }
        }
        Op::Exec(exec) => {
            for mount in &exec.mounts {
                let stands_on_it = mount.output.is_some() || mount.target == "/";
                let read = if stands_on_it { Read::Chain } else { Read::Selected(whole(&mount.selector)) };
                mount.input.into_iter().for_each(|i| reads.add(i, read.clone()));
            }
        }
    }
    reads.of
}

/// Whether a result of a vertex may be found by what its inputs hold.
pub(crate) fn may_go_by_content(vertex: &Vertex) -> bool {
    match &vertex.op {
        Op::Exec(exec) => exec.mounts.iter().all(|mount| mount.content_cache != ContentCache::Off),
        _ => true,
    }
}

/// What is read, by input.
struct Reads {
    of: Vec<Vec<Read>>,
    seen: HashSet<(usize, Read)>,
}

impl Reads {
    /// An index beyond the inputs names the result of an earlier action.
    fn add(&mut self, index: usize, read: Read) {
        if let Some(reads) = self.of.get_mut(index)
            && self.seen.insert((index, read.clone()))
        {
            reads.push(read);
        }
    }
}

/// What a vertex reads from its input `index`; used when that input is a source without a key.
pub fn selections(vertex: &Vertex, index: usize) -> Vec<Selection> {
    match &vertex.op {
        Op::File(file) => {
            let mut read = Vec::new();
            for action in &file.actions {
                if action.input == Some(index) {
                    read.push(whole("/"));
                }
                if let (FileActionKind::Copy(copy), true) = (&action.kind, action.secondary_input == Some(index)) {
                    read.push(copied(copy));
                }
                if action.names_from() == Some(index) {
                    read.push(whole("/"));
                }
            }
            read
        }
        Op::Exec(exec) => {
            let read = exec.mounts.iter().filter(|mount| mount.input == Some(index));
            // A cache mount begins as what is mounted.
            let is_tree = |kind: &MountKind| matches!(kind, MountKind::Bind | MountKind::Cache { .. });
            read.filter(|mount| is_tree(&mount.kind)).map(|mount| whole(&mount.selector)).collect()
        }
        Op::Source(_) => Vec::new(),
        Op::Merge(_) | Op::Diff(_) | Op::Build(_) => vec![whole("/")],
    }
}

/// What a copy reads of its source.
fn copied(copy: &CopyAction) -> Selection {
    Selection {
        path: copy.src.clone(),
        wildcard: copy.allow_wildcard,
        allow_empty_wildcard: copy.allow_empty_wildcard,
        follow_symlinks: copy.follow_symlinks,
        dir_contents_only: copy.dir_contents_only,
        include_patterns: copy.include_patterns.clone(),
        exclude_patterns: copy.exclude_patterns.clone(),
        required_paths: copy.required_paths.clone(),
    }
}

/// Everything at a path, a link at its end followed.
fn whole(path: &str) -> Selection {
    Selection {
        path: if path.is_empty() { "/".into() } else { path.into() },
        wildcard: false,
        allow_empty_wildcard: false,
        follow_symlinks: true,
        dir_contents_only: true,
        include_patterns: Vec::new(),
        exclude_patterns: Vec::new(),
        required_paths: Vec::new(),
    }
}
