//! The files that the index can be rebuilt from: `records/<id>.jsonl` and `images/<hex>.json`.
//!
//! A record file belongs to one layer and is only appended to, one JSON [`Line`] per fact, each with one write: what
//! the layer is, that it got a tree, which digest it has, which keys led to it. A line that a
//! crash tore is skipped: every later one begins with a line break of its own. An image file belongs to one tag (or to
//! an image without one) and is replaced by rename; `<hex>` is the SHA-256 of the tag's full name (or of the manifest's
//! digest). A tag that means an index has its text and the digests of its members, which all have files without a tag.
//!
//! These files are written just before the row they stand for, and never read except by [`crate::rebuild`].

use std::fs::File;
use std::io::Write;

use oci::model::{Descriptor, DiffId, Digest, Platform};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use solver::canon::Part;
use solver::seam::{KeyKind, ResultId};

use crate::StoreError;
use crate::derived::TimeRule;
use crate::durability::{Stamp, write_file};
use crate::layout::{Layout, fresh_name};

/// One fact about a layer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// What it is; the first line.
    Layer(Box<LayerLine>),
    /// It has a tree.
    Tree {
        name: String,
        /// What it takes on disk; schema 2 did not measure.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
        stamp: Stamp,
    },
    /// What it holds: a digest in hexadecimal digits.
    Content { digest: String },
    /// What its tar is.
    Tar { diff_id: DiffId, tar_bytes: u64 },
    /// Which blob it was pulled as.
    Blob(Descriptor),
    /// Where its blob can be fetched.
    Source { digest: Digest, name: String },
    /// Which key led to it (and to the other results of the same operation).
    Key {
        key: String,
        #[serde(default = "definition")]
        kind: KeyKind,
        /// Empty in schema 2, which did not know.
        #[serde(default)]
        operation: String,
        results: Vec<ResultId>,
        parts: Vec<Part>,
        stamp: Stamp,
    },
}

/// The first line of a record file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LayerLine {
    pub(crate) id: ResultId,
    pub(crate) parent: Option<ResultId>,
    pub(crate) empty: bool,
    pub(crate) pulled: bool,
    pub(crate) diff_id: Option<DiffId>,
    pub(crate) blob: Option<Descriptor>,
    pub(crate) created: String,
    /// The record whose tree it shares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<ResultId>,
    /// How its tar's times differ from the tree's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) times: Option<TimeRule>,
    /// When its step began; schema 1 did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) started: Option<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) from_context: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) on_base: bool,
    /// As [`Line::Content`], when it was known from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<String>,
    pub(crate) stamp: Stamp,
}

fn definition() -> KeyKind {
    KeyKind::Definition
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// An image file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ImageFile {
    /// `None`: the image has no name.
    pub(crate) tag: Option<String>,
    pub(crate) manifest: Descriptor,
    pub(crate) config: Digest,
    pub(crate) top: Option<ResultId>,
    pub(crate) platform: Platform,
    pub(crate) created: String,
    pub(crate) size_bytes: u64,
    /// The index that the name means; the image is the one that stands for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<IndexFile>,
    pub(crate) stamp: Stamp,
}

/// An index in an image file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct IndexFile {
    /// Its exact text.
    pub(crate) document: String,
    /// The manifests of it that are here; each has an image file of its own.
    pub(crate) members: Vec<Digest>,
}

impl ImageFile {
    /// The name of the file.
    pub(crate) fn file_name(&self) -> String {
        image_file_name(self.tag.as_deref(), &self.manifest.digest)
    }
}

pub(crate) fn image_file_name(tag: Option<&str>, manifest: &Digest) -> String {
    match tag {
        Some(tag) => format!("{}.json", Digest::of(tag.as_bytes()).hex()),
        None => format!("{}.json", manifest.hex()),
    }
}

pub(crate) fn record_file_name(id: &ResultId) -> String {
    format!("{id}.jsonl")
}

/// Starts the record file of a layer. One that is there already (of a process that died before it could insert the
/// row) is replaced.
pub(crate) fn begin(layout: &Layout, line: LayerLine) -> Result<(), StoreError> {
    let name = record_file_name(&line.id);
    write_file(&layout.records, &name, &encode(&Line::Layer(Box::new(line))), false)
}

/// Appends a fact. A layer without a record file (it has just been dropped) is none of our business: `false`.
pub(crate) fn append(layout: &Layout, id: &ResultId, line: &Line) -> Result<bool, StoreError> {
    let name = record_file_name(id);
    let path = layout.records.join(&name);
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = match rustix::fs::openat(&layout.records, name.as_str(), flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(false),
        Err(source) => return Err(StoreError::io("open", path, source)),
    };
    file.write_all(&encode(line)).map_err(|source| StoreError::io("write", path, source))?;
    Ok(true)
}

/// Writes an image file, replacing an older one.
pub(crate) fn write_image(layout: &Layout, file: &ImageFile) -> Result<(), StoreError> {
    let name = file.file_name();
    // Not `*.json`: what a dying process leaves is not taken for an image.
    let aside = format!("{name}.{}", fresh_name()?);
    let bytes = serde_json::to_vec(file).expect("plain data becomes JSON");
    write_file(&layout.images, &aside, &bytes, false)?;
    rustix::fs::renameat(&layout.images, aside.as_str(), &layout.images, name.as_str())
        .map_err(|source| StoreError::io("rename", layout.images.join(&aside), source))
}

pub(crate) fn encode(line: &Line) -> Vec<u8> {
    let json = serde_json::to_string(line).expect("plain data becomes JSON");
    format!("\n{json}\n").into_bytes()
}
