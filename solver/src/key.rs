//! What makes two runs the same: the definition key of a vertex.
//!
//! It covers the operation and the keys of its inputs, so it is known before anything runs. Sources come in by their
//! [`Pin`]; a source that is [`Pin::Selected`] has no key, what its readers select from it stands in theirs instead.

use crate::canon::{self, Part, Parts, Sink as _};
use crate::graph::Vertex;
use crate::op::{FileActionKind, MountKind, Op};
use crate::seam::{Pin, Selection};

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

/// The key of a vertex's operation alone, whatever its inputs are.
pub fn operation_key(vertex: &Vertex) -> Key {
    let mut hashing = canon::Hashing::new("operation key");
    canon::op_parts(&vertex.op, vertex.platform.as_ref(), &mut hashing);
    Key(hashing.digest())
}

/// The definition key of a vertex, with its parts; `inputs` in the order of the vertex's edges.
pub fn definition_key(vertex: &Vertex, inputs: &[InputKey]) -> (Key, Vec<Part>) {
    let mut parts = Parts::new();
    canon::op_parts(&vertex.op, vertex.platform.as_ref(), &mut parts);
    for (i, input) in inputs.iter().enumerate() {
        match input {
            InputKey::Key(key, output) => parts.push(format_args!("input[{i}]"), format_args!("{key} {output}")),
            InputKey::Selected(digests) => {
                parts.push(format_args!("input[{i}].selected"), digests.len());
                for (j, digest) in digests.iter().enumerate() {
                    parts.push(format_args!("input[{i}].selected[{j}]"), digest);
                }
            }
        }
    }
    (Key(parts.digest("definition key")), parts.into_vec())
}

/// What a vertex reads from its input `index`; used when that input is a source without a key.
pub fn selections(vertex: &Vertex, index: usize) -> Vec<Selection> {
    match &vertex.op {
        Op::File(file) => file.actions.iter().flat_map(|action| file_action_selections(action, index)).collect(),
        Op::Exec(exec) => {
            let read = exec.mounts.iter().filter(|mount| mount.input == Some(index));
            read.filter(|mount| matches!(mount.kind, MountKind::Bind)).map(|mount| whole(&mount.selector)).collect()
        }
        Op::Source(_) => Vec::new(),
        Op::Merge(_) | Op::Diff(_) | Op::Build(_) => vec![whole("/")],
    }
}

fn file_action_selections(action: &crate::op::FileAction, index: usize) -> Vec<Selection> {
    let mut read = Vec::new();
    if action.input == Some(index) {
        read.push(whole("/"));
    }
    if let (FileActionKind::Copy(copy), true) = (&action.kind, action.secondary_input == Some(index)) {
        read.push(Selection {
            path: copy.src.clone(),
            wildcard: copy.allow_wildcard,
            allow_empty_wildcard: copy.allow_empty_wildcard,
            follow_symlinks: copy.follow_symlinks,
            dir_contents_only: copy.dir_contents_only,
            include_patterns: copy.include_patterns.clone(),
            exclude_patterns: copy.exclude_patterns.clone(),
            required_paths: copy.required_paths.clone(),
        });
    }
    read
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
